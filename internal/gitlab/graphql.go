package gitlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// errNoGraphQL means that this server's GraphQL can't give us what we need, so that REST alone must.
var errNoGraphQL = errors.New("GraphQL of this server is not usable")

// gqlSender sends what a reading asks of GraphQL. A reading is made of parts; several of them travel in one request as far as the
// complexity limit allows.
type gqlSender struct {
	api      *api
	schema   schema
	limit    int
	alone    bool // a request of several parts failed: send one at a time from now on
	failures int  // in a row
	answered bool // a request succeeded
}

// part is one field of a query's root. text has one %s for the name of the variable that holds the cursor.
type part struct {
	text      string
	fragments string // letters of the fragments it uses: u(ser), g(roup members), p(roject members)
	cursor    string
	cost      int
	done      func(raw json.RawMessage) (next []*part, more []*part, err error)
	failed    func(err error) (next []*part, fatal error)
}

// run sends parts and what follows from them until nothing is left.
func (s *gqlSender) run(ctx context.Context, queue []*part) error {
	for len(queue) > 0 {
		n, cost := 0, costProbe
		for n < len(queue) && (n == 0 || (!s.alone && cost+queue[n].cost <= s.limit && n < 12)) {
			cost += queue[n].cost
			n++
		}
		next, more, err := s.send(ctx, queue[:n])
		if err != nil {
			return err
		}
		queue = append(append(next, queue[n:]...), more...)
	}
	return nil
}

// send sends parts in one request. When that fails the parts are sent alone, to see which of them it was.
func (s *gqlSender) send(ctx context.Context, parts []*part) (next, more []*part, err error) {
	var q, decl, used strings.Builder
	vars := map[string]any{}
	for i, p := range parts {
		name := "c" + strconv.Itoa(i)
		fmt.Fprintf(&decl, "$%s: String ", name)
		vars[name] = nil
		if p.cursor != "" {
			vars[name] = p.cursor
		}
		fmt.Fprintf(&q, " a%d: "+p.text, i, "$"+name)
		used.WriteString(p.fragments)
	}
	data, err := s.api.query(ctx, "query Sync("+decl.String()+"){queryComplexity{score limit}"+q.String()+"}"+s.schema.fragments(used.String()), vars)
	if err == nil {
		s.failures, s.answered = 0, true
		for i, p := range parts {
			raw, ok := data["a"+strconv.Itoa(i)]
			if !ok {
				raw = json.RawMessage("null")
			}
			n, m, err := p.done(raw)
			if err != nil {
				if n, err = p.failed(fmt.Errorf("querying GraphQL: %w", err)); err != nil {
					return nil, nil, err
				}
			}
			next, more = append(next, n...), append(more, m...)
		}
		return next, more, nil
	}
	var gqlErr graphQLErrors
	if errors.As(err, &gqlErr) && gqlErr.schema() {
		return nil, nil, fmt.Errorf("%w: %w", errNoGraphQL, err)
	}
	s.failures++
	if !divisible(err) || s.failures > 24 || (!s.answered && s.failures > 8) || ctx.Err() != nil {
		return nil, nil, err
	}
	if len(parts) == 1 {
		next, err = parts[0].failed(err)
		return next, nil, err
	}
	s.alone = true
	for _, p := range parts {
		n, m, err := s.send(ctx, []*part{p})
		if err != nil {
			return nil, nil, err
		}
		next, more = append(next, n...), append(more, m...)
	}
	return next, more, nil
}

// divisible reports whether a smaller query may succeed: GitLab ran out of time (503), fell over one object, or
// found the query too complex. A gateway's 502 or a 429 that outlasted the retries is none of these.
func divisible(err error) bool {
	if _, ok := errors.AsType[graphQLErrors](err); ok {
		return true
	}
	switch statusOf(err) {
	case http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
		http.StatusUnprocessableEntity, http.StatusRequestEntityTooLarge:
		return true
	}
	return false
}
