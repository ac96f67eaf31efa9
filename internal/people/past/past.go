// Package past says which rights somebody got and lost, out of the history of all.
package past

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/audit"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

// Changes returns what people.Options.Changes asks, by a history. Its errors are those of the history; people.ErrHistoryBusy while
// somebody else waits for it.
func Changes(history *audit.Reader) func(ctx context.Context, user int64, since time.Time) ([]people.Changed, error) {
	return func(ctx context.Context, user int64, since time.Time) ([]people.Changed, error) {
		entries, err := history.User(ctx, user, since, time.Time{})
		if errors.Is(err, audit.ErrBusy) {
			err = people.ErrHistoryBusy
		}
		return own(entries), err
	}
}

// own returns a user's rights that came and went. Who approved something is not for everybody to know.
func own(entries []audit.Entry) []people.Changed {
	out := make([]people.Changed, 0, len(entries))
	for _, e := range entries {
		if e.Role == "" || e.What != audit.Gained && e.What != audit.Lost {
			continue
		}
		why := e.Why
		if by := "approved by " + e.ApprovedBy; e.ApprovedBy != "" {
			why = strings.TrimSuffix(strings.TrimSuffix(why, by), ", ")
		}
		out = append(out, people.Changed{
			Change:    webapi.Change{At: e.At.UTC(), Namespace: e.Namespace, Role: e.Role, What: string(e.What), Cause: cmp.Or(e.Cause, "unknown"), Why: why},
			Placeless: audit.Placeless(why), Approved: e.ApprovedBy != "",
		})
	}
	return out
}
