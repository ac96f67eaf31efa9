package gitlab

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// Exists reports whether GitLab has a group, project or user; false is its own 404, in its own words. GitLab answers 404 also for what it
// hides, so a 404 counts only while the token is an administrator's, which is asked anew each time.
func (r *Reader) Exists(ctx context.Context, id authz.SourceID) (bool, error) {
	var found struct {
		ID int64 `json:"id"`
	}
	_, err := r.api.get(briefly(ctx, sourceTimeout), sourcePath(id), nil, &found)
	switch {
	case err == nil && found.ID != id.ID:
		return false, fmt.Errorf("asking for %s: the answer is about id %d", id, found.ID)
	case err == nil:
		return true, nil
	case !errors.Is(err, errAbsent):
		return false, err
	}
	return false, r.api.seesAll(ctx)
}

// MemberLevel returns GitLab's own answer to what level a person has in a group or project, inherited and invited
// memberships included; 0 is its 404, which counts like that of Exists.
func (r *Reader) MemberLevel(ctx context.Context, id authz.SourceID, user int64) (authz.Level, error) {
	var m restMember
	_, err := r.api.get(briefly(ctx, sourceTimeout), sourcePath(id)+"/members/all/"+strconv.FormatInt(user, 10), nil, &m)
	switch {
	case err == nil && (m.ID == nil || *m.ID != user || m.Level == nil):
		return 0, fmt.Errorf("asking for user %d in %s: the answer does not contain their access_level there", user, id)
	case err == nil:
		return authz.Level(*m.Level), nil
	case !errors.Is(err, errAbsent):
		return 0, err
	}
	return 0, r.api.seesAll(ctx)
}
