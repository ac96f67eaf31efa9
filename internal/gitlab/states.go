package gitlab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

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
	if r.graphQLUsable() {
		err := r.statesGraphQL(briefly(ctx, sourceTimeout), ids, states)
		if err == nil || global(err) || limited(err) || ctx.Err() != nil {
			return states, more, err
		}
		if errors.Is(err, ErrSlow) {
			r.graphQLFailed.Store(time.Now().Add(graphQLPause).UnixNano())
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

func (r *Reader) statesGraphQL(ctx context.Context, ids []int64, into map[int64]authz.UserState) error {
	nodes, err := r.usersByID(ctx, "States", "id state", ids)
	if err != nil {
		return err
	}
	for _, n := range nodes {
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

// usersByID asks GraphQL for up to MaxStates accounts.
func (r *Reader) usersByID(ctx context.Context, name, fields string, ids []int64) ([]*gqlUser, error) {
	list := make([]string, 0, len(ids))
	for _, id := range ids {
		list = append(list, fmt.Sprintf("gid://gitlab/User/%d", id))
	}
	data, err := r.api.query(ctx, fmt.Sprintf(`query %s($ids: [ID!]) { users(ids: $ids, first: 100) { nodes { %s } } }`, name, fields), map[string]any{"ids": list})
	if err != nil {
		return nil, err
	}
	page, err := decodeNodes[gqlUser](data["users"])
	if err != nil {
		return nil, fmt.Errorf("reading accounts: %w", err)
	}
	return page.Nodes, nil
}

// usersTogether reads up to MaxStates accounts by GraphQL. Before a full reading has shown how this server distinguishes people from bots, Human is
// not known. Who is not in the answer, or only half, has to be asked for alone.
func (r *Reader) usersTogether(ctx context.Context, ids []int64) (map[int64]authz.User, error) {
	fields, human := "id username name state", false
	if k := r.server.Load(); k != nil {
		fields, human = k.schema.userFields(), true
	}
	nodes, err := r.usersByID(ctx, "Accounts", fields, ids)
	if err != nil {
		if ctx.Err() != context.Canceled {
			r.graphQLFailed.Store(time.Now().Add(graphQLPause).UnixNano())
		}
		return nil, err
	}
	out := make(map[int64]authz.User, len(nodes))
	for _, n := range nodes {
		if !human {
			n.Bot = new(bool)
		}
		if u, err := n.user(); err == nil && slices.Contains(ids, u.ID) {
			out[u.ID] = u
		}
	}
	return out, nil
}

// graphQLPause is how long targeted readings read accounts one by one after GraphQL failed: what waits for each of them in vain would delay
// all.
const graphQLPause = 30 * time.Second

func (r *Reader) graphQLUsable() bool {
	return !r.restOnly && time.Now().UnixNano() >= r.graphQLFailed.Load()
}
