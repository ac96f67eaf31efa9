package gitlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// graphQL is what one reading knows of the server's GraphQL from those before, and what is read by it about single accounts and
// projects, many with one request.
type graphQL struct {
	api       *api
	off       bool // it is never used
	variables CIVariables
	server    atomic.Pointer[serverFacts]
	// pausedUntil (Unix nanoseconds) is when targeted readings may use it again.
	pausedUntil atomic.Int64
}

// serverFacts is what the last full reading found out about the server.
type serverFacts struct {
	schema schema
	limit  int
}

// graphQLPause is how long targeted readings read accounts one by one after GraphQL failed: what waits for each of them in vain would delay
// all.
const graphQLPause = 30 * time.Second

// pause says that GraphQL has just failed.
func (q *graphQL) pause() { q.pausedUntil.Store(time.Now().Add(graphQLPause).UnixNano()) }

// usable reports whether targeted readings use GraphQL now.
func (q *graphQL) usable() bool {
	return !q.off && time.Now().UnixNano() >= q.pausedUntil.Load()
}

// states reads the states of up to MaxStates accounts.
func (q *graphQL) states(ctx context.Context, ids []int64, into map[int64]authz.UserState) error {
	nodes, err := q.usersByID(ctx, "States", "id state", ids)
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
func (q *graphQL) usersByID(ctx context.Context, name, fields string, ids []int64) ([]*gqlUser, error) {
	list := make([]string, 0, len(ids))
	for _, id := range ids {
		list = append(list, fmt.Sprintf("gid://gitlab/User/%d", id))
	}
	data, err := q.api.query(ctx, fmt.Sprintf(`query %s($ids: [ID!]) { users(ids: $ids, first: 100) { nodes { %s } } }`, name, fields), map[string]any{"ids": list})
	if err != nil {
		return nil, err
	}
	page, err := decodeNodes[gqlUser](data["users"])
	if err != nil {
		return nil, fmt.Errorf("reading accounts: %w", err)
	}
	return page.Nodes, nil
}

// users reads up to MaxStates accounts by GraphQL. Before a full reading has shown how this server distinguishes people from bots, Human is
// not known. Who is not in the answer, or only half, has to be asked for alone.
func (q *graphQL) users(ctx context.Context, ids []int64) (map[int64]authz.User, error) {
	fields, human := "id username name state", false
	if k := q.server.Load(); k != nil {
		fields, human = k.schema.userFields(), true
	}
	nodes, err := q.usersByID(ctx, "Accounts", fields, ids)
	if err != nil {
		if ctx.Err() != context.Canceled {
			q.pause()
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

// readVariables reads the variables of the given projects, a hundred projects per request. What can't be read is not in what
// it returns; that is never an error of the reading.
func (q *graphQL) readVariables(ctx context.Context, ids []int64) (vars *varsReading) {
	vars = newVarsReading(q.variables)
	if vars == nil || q.off || len(ids) == 0 {
		return vars
	}
	k := q.server.Load()
	if k == nil {
		sc, err := readSchema(ctx, q.api, true)
		if err != nil {
			return vars
		}
		k = &serverFacts{schema: sc, limit: defaultLimit}
	}
	if k.schema.variable == "" {
		return vars
	}
	g := newGQLRead(q.api, *k, newDraft(), vars)
	for chunk := range slices.Chunk(ids, q.api.pageSize) {
		if err := g.run(ctx, []*part{g.variablesOf(chunk)}); err != nil {
			q.api.log.WarnContext(ctx, "CI/CD variables of projects could not be read", "projects", len(chunk), "reason", err.Error())
			return vars
		}
	}
	return vars
}

// probe asks GraphQL what it tells about itself, for Probe. selfErr is what came of asking REST who we are.
func (q *graphQL) probe(ctx context.Context, info *Info, selfErr error) error {
	data, err := q.api.query(briefly(ctx, sourceTimeout), `query Probe { currentUser { id username state } metadata { version } queryComplexity { score limit } }`, nil)
	switch {
	case err == nil:
		info.GraphQL = true
		var meta struct {
			Version string `json:"version"`
		}
		var complexity struct {
			Limit int `json:"limit"`
		}
		if json.Unmarshal(data["metadata"], &meta) == nil {
			info.Version = meta.Version
		}
		if json.Unmarshal(data["queryComplexity"], &complexity) == nil && complexity.Limit > 0 {
			info.ComplexityLimit = complexity.Limit
		}
	case limited(err) || errors.Is(err, ErrSlow) || (global(err) && !errors.Is(err, ErrUnauthorized)) || ctx.Err() != nil:
		return err
	case selfErr != nil && errors.Is(err, ErrNotFound) && errors.Is(selfErr, ErrNotFound) && !q.api.listsGroups(ctx):
		return &callError{doing: "looking for GitLab at " + q.api.base, kind: ErrNotGitLab}
	case selfErr != nil && errors.Is(selfErr, ErrNotGitLab):
		return selfErr
	default:
		info.Warnings = append(info.Warnings, "GraphQL is not usable, reading by REST alone, which takes many more requests: "+err.Error())
	}
	return nil
}
