package gitlab

import (
	"context"
	"fmt"
	"net/url"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// EffectiveMembers reads GitLab's own answer to who is a member of a group or project, inherited and invited
// people included (members/all), for comparing samples with what authz computes. GitLab's answer still lists
// blocked people and memberships whose end date has come, and its levels may lag behind for a moment. It is limited
// to 200 requests a minute, so it is no way to read an instance.
func (r *Reader) EffectiveMembers(ctx context.Context, id authz.SourceID) (map[int64]authz.Level, error) {
	rows, err := offset[restMember](ctx, r.api, sourcePath(id)+"/members/all", url.Values{})
	if err != nil {
		return nil, err
	}
	out := make(map[int64]authz.Level, len(rows))
	for _, m := range rows {
		row, ok, err := m.row()
		if err != nil {
			return nil, fmt.Errorf("reading %s/members/all: %w", sourcePath(id), err)
		}
		if ok {
			out[row.User] = row.Level
		}
	}
	return out, nil
}
