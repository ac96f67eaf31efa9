package gitlab

import (
	"context"
	"errors"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// MaxStates is how many people States reads at once: one page.
const MaxStates = 100

// States reads the states of up to MaxStates accounts with one request, for what sends no hook: who is blocked,
// deactivated or banned. An account that GitLab does not show is not in the answer. Without GraphQL it reads as many
// as restStates one by one, and the others are in more, as are those about whom GitLab did not answer: ask for them again.
func (r *Reader) States(ctx context.Context, ids []int64) (states map[int64]authz.UserState, more []int64, err error) {
	if len(ids) > MaxStates {
		ids, more = ids[:MaxStates], ids[MaxStates:]
	}
	states = make(map[int64]authz.UserState, len(ids))
	if r.graphQL.usable() {
		err := r.graphQL.states(briefly(ctx, sourceTimeout), ids, states)
		if err == nil || global(err) || limited(err) || ctx.Err() != nil {
			return states, more, err
		}
		if errors.Is(err, ErrSlow) {
			r.graphQL.pause()
		}
	}
	const restStates = 5 // GitLab's default limit for single users is 300 in ten minutes
	clear(states)
	if len(ids) > restStates {
		ids, more = ids[:restStates], append(ids[restStates:len(ids):len(ids)], more...)
	}
	var unread []int64
	var lastErr error
	for _, id := range ids {
		u, err := r.api.user(briefly(ctx, sourceTimeout), id, true, true)
		switch {
		case errors.Is(err, errAbsent):
		case unanswered(err):
			unread, lastErr = append(unread, id), err
		case err != nil:
			return nil, nil, err
		default:
			states[id] = u.State
		}
	}
	if len(ids) > 0 && len(unread) == len(ids) {
		return nil, nil, lastErr
	}
	return states, append(more, unread...), nil
}
