package gitlab

import (
	"context"
	"errors"
	"fmt"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// MaxStates is how many people States reads at once: one page.
const MaxStates = 100

// States reads the states of up to MaxStates accounts with one request, for what sends no hook: who is blocked,
// deactivated or banned. An account that GitLab does not show is not in the answer. Without GraphQL it reads as many
// as restStates one by one, and the others are in more: ask for them again.
func (r *Reader) States(ctx context.Context, ids []int64) (states map[int64]authz.UserState, more []int64, err error) {
	if len(ids) > MaxStates {
		ids, more = ids[:MaxStates], ids[MaxStates:]
	}
	states = make(map[int64]authz.UserState, len(ids))
	if !r.restOnly {
		err := r.statesGraphQL(ctx, ids, states)
		if err == nil || global(err) || limited(err) || ctx.Err() != nil {
			return states, more, err
		}
	}
	const restStates = 5 // GitLab's default limit for single users is 300 in ten minutes
	clear(states)
	if len(ids) > restStates {
		ids, more = ids[:restStates], append(ids[restStates:len(ids):len(ids)], more...)
	}
	for _, id := range ids {
		u, err := r.api.user(ctx, id, true, true)
		if errors.Is(err, errAbsent) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		states[id] = u.State
	}
	return states, more, nil
}

func (r *Reader) statesGraphQL(ctx context.Context, ids []int64, into map[int64]authz.UserState) error {
	list := make([]string, 0, len(ids))
	for _, id := range ids {
		list = append(list, fmt.Sprintf("gid://gitlab/User/%d", id))
	}
	data, err := r.api.query(ctx, `query States($ids: [ID!]) { users(ids: $ids, first: 100) { nodes { id state } } }`, map[string]any{"ids": list})
	if err != nil {
		return err
	}
	page, err := decodeNodes[struct {
		ID    string `json:"id"`
		State string `json:"state"`
	}](data["users"])
	if err != nil {
		return fmt.Errorf("reading the states of accounts: %w", err)
	}
	for _, n := range page.Nodes {
		id, err := gid(n.ID, "User")
		if err != nil {
			return err
		}
		if n.State == "" {
			return fmt.Errorf("reading the states of accounts: user %d has none in the answer", id)
		}
		into[id] = authz.UserState(n.State)
	}
	return nil
}
