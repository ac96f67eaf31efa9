package gitlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// errNoGraphQL means that this server's GraphQL can't give us what we need, so that REST alone must.
var errNoGraphQL = errors.New("GraphQL of this server is not usable")

type pageInfo struct {
	HasNextPage bool   `json:"hasNextPage"`
	EndCursor   string `json:"endCursor"`
}

// UnmarshalJSON refuses an answer that does not say whether there is a next page: it is not the last one for that.
func (p *pageInfo) UnmarshalJSON(b []byte) error {
	var in struct {
		HasNextPage *bool  `json:"hasNextPage"`
		EndCursor   string `json:"endCursor"`
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	if in.HasNextPage == nil {
		return errors.New("pageInfo without hasNextPage")
	}
	p.HasNextPage, p.EndCursor = *in.HasNextPage, in.EndCursor
	return nil
}

type gqlUser struct {
	ID        string     `json:"id"`
	Username  string     `json:"username"`
	Name      string     `json:"name"`
	State     string     `json:"state"`
	Human     *bool      `json:"human"`
	Type      string     `json:"type"`
	Bot       *bool      `json:"bot"`
	CreatedAt *time.Time `json:"createdAt"`
}

type gqlMembers struct {
	PageInfo *pageInfo `json:"pageInfo"`
	Nodes    []*struct {
		ExpiresAt   string `json:"expiresAt"`
		AccessLevel *struct {
			IntegerValue *int `json:"integerValue"`
		} `json:"accessLevel"`
		User *gqlUser `json:"user"`
	} `json:"nodes"`
}

type gqlShared struct {
	PageInfo *pageInfo `json:"pageInfo"`
	Nodes    []*struct {
		ID string `json:"id"`
	} `json:"nodes"`
}

type gqlSource struct { // a Group or a Project
	ID        string     `json:"id"`
	FullPath  string     `json:"fullPath"`
	CreatedAt *time.Time `json:"createdAt"`
	UpdatedAt string     `json:"updatedAt"`
	Archived  bool       `json:"archived"`
	Marked    bool       `json:"markedForDeletion"`
	MarkedOn  string     `json:"markedForDeletionOn"`
	ShareLock bool       `json:"shareWithGroupLock"`
	Parent    *struct {
		ID string `json:"id"`
	} `json:"parent"`
	Shared         *gqlShared    `json:"sharedGroups"`
	GroupMembers   *gqlMembers   `json:"groupMembers"`
	ProjectMembers *gqlMembers   `json:"projectMembers"`
	Variables      *gqlVariables `json:"ciVariables"`
}

type gqlPage[T any] struct {
	PageInfo *pageInfo `json:"pageInfo"`
	Nodes    []*T      `json:"nodes"`
}

var gidPattern = regexp.MustCompile(`^gid://gitlab/(Group|Project|User)/([1-9][0-9]{0,18})$`)

// gid reads a global id of the given type.
func gid(s, typ string) (int64, error) {
	m := gidPattern.FindStringSubmatch(s)
	if m == nil || m[1] != typ {
		return 0, fmt.Errorf("id %q: want gid://gitlab/%s/NUMBER", shorten(s), typ)
	}
	return strconv.ParseInt(m[2], 10, 64)
}

func (u gqlUser) user() (authz.User, error) {
	id, err := gid(u.ID, "User")
	if err != nil {
		return authz.User{}, err
	}
	if u.State == "" || u.Username == "" { // who is not active has no rights: nobody is that by half an answer
		return authz.User{}, fmt.Errorf("user %d has no state or no username in the answer", id)
	}
	if u.Human == nil && u.Type == "" && u.Bot == nil {
		return authz.User{}, fmt.Errorf("the answer does not say whether user %d is a person", id)
	}
	human := (u.Human != nil && *u.Human) || u.Type == "HUMAN" || (u.Bot != nil && !*u.Bot)
	return authz.User{ID: id, Username: u.Username, Name: u.Name, State: authz.UserState(u.State), Human: human, CreatedAt: seconds(u.CreatedAt)}, nil
}

// rows turns nodes into rows. A row without user is a pending invitation by e-mail.
func (m *gqlMembers) rows() ([]memberRow, error) {
	if m == nil || m.Nodes == nil || m.PageInfo == nil {
		return nil, errors.New("the members are null: GitLab did not let us see them")
	}
	out := make([]memberRow, 0, len(m.Nodes))
	for _, n := range m.Nodes {
		if n == nil || (n.User != nil && (n.AccessLevel == nil || n.AccessLevel.IntegerValue == nil)) {
			return nil, errors.New("a membership row is null or without level")
		}
		if n.User == nil {
			continue
		}
		u, err := n.User.user()
		if err != nil {
			return nil, err
		}
		row, ok, err := member(u.ID, *n.AccessLevel.IntegerValue, n.ExpiresAt)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, memberRow{Member: row, user: u})
		}
	}
	return out, nil
}

// gqlRead is one reading by GraphQL. It is made of parts, each a field of the query root with its own cursor;
// several parts travel in one request as far as the complexity limit allows.
type gqlRead struct {
	api      *api
	d        *draft
	vars     *varsReading // nil: no variables wanted
	schema   schema
	limit    int
	alone    bool // a request of several parts failed: send one at a time from now on
	failures int  // in a row
	answered bool // a request succeeded

	ascEnd, descEnd time.Time // users: how far the reading from both ends came
	usersDone       bool
}

// part is one field of a query. text has one %s for the name of the variable that holds the cursor.
type part struct {
	text      string
	fragments string // letters of the fragments it uses: u(ser), g(roup members), p(roject members)
	cursor    string
	cost      int
	done      func(raw json.RawMessage) (next []*part, more []*part, err error)
	failed    func(err error) (next []*part, fatal error)
}

func (g *gqlRead) userFields() string {
	f := "id username name state " + g.schema.human
	if g.schema.userCreated {
		f += " createdAt"
	}
	return f
}

func (g *gqlRead) fragments(used string) string {
	var b strings.Builder
	const rows = "{pageInfo{hasNextPage endCursor} nodes{expiresAt accessLevel{integerValue} user{...u}}}"
	if used != "" {
		fmt.Fprintf(&b, " fragment u on UserCore {%s}", g.userFields())
	}
	if strings.Contains(used, "g") {
		b.WriteString(" fragment g on GroupMemberConnection " + rows)
	}
	if strings.Contains(used, "p") {
		b.WriteString(" fragment p on MemberInterfaceConnection " + rows)
	}
	return b.String()
}

// Costs by GitLab's rules (source: app/graphql/types/base_field.rb): one per field; a connection with a resolver
// counts (children + 1, + 1 with a sort) times 1 + page/100.
const (
	costProbe = 3
	costRows  = 30 // a page of 100 members with their users
	costUsers = 24
)

func paged(children int, sorted bool, size int) int {
	c := children + 1
	if sorted {
		c++
	}
	return int(float64(c) * (1 + 0.01*float64(size)))
}

// run sends parts and what follows from them until nothing is left.
func (g *gqlRead) run(ctx context.Context, queue []*part) error {
	for len(queue) > 0 {
		n, cost := 0, costProbe
		for n < len(queue) && (n == 0 || (!g.alone && cost+queue[n].cost <= g.limit && n < 12)) {
			cost += queue[n].cost
			n++
		}
		next, more, err := g.send(ctx, queue[:n])
		if err != nil {
			return err
		}
		queue = append(append(next, queue[n:]...), more...)
	}
	return nil
}

// send sends parts in one request. When that fails the parts are sent alone, to see which of them it was.
func (g *gqlRead) send(ctx context.Context, parts []*part) (next, more []*part, err error) {
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
	data, err := g.api.query(ctx, "query Sync("+decl.String()+"){queryComplexity{score limit}"+q.String()+"}"+g.fragments(used.String()), vars)
	if err == nil {
		g.failures, g.answered = 0, true
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
	g.failures++
	if !divisible(err) || g.failures > 24 || (!g.answered && g.failures > 8) || ctx.Err() != nil {
		return nil, nil, err
	}
	if len(parts) == 1 {
		next, err = parts[0].failed(err)
		return next, nil, err
	}
	g.alone = true
	for _, p := range parts {
		n, m, err := g.send(ctx, []*part{p})
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

// decodeNodes decodes a connection and refuses null where an object must be.
func decodeNodes[T any](raw json.RawMessage) (*gqlPage[T], error) {
	var page *gqlPage[T]
	if len(raw) == 0 {
		return nil, errors.New("the answer lacks what was asked for")
	}
	if err := json.Unmarshal(raw, &page); err != nil {
		return nil, fmt.Errorf("decoding a page: %w", err)
	}
	if page == nil || page.Nodes == nil {
		return nil, errors.New("a whole page is null")
	}
	for _, n := range page.Nodes {
		if n == nil {
			return nil, errors.New("an object of the page is null: GitLab did not let us see it")
		}
	}
	return page, nil
}

// decodePage is decodeNodes for a page of a list, which must say whether it is the last one.
func decodePage[T any](raw json.RawMessage) (*gqlPage[T], error) {
	page, err := decodeNodes[T](raw)
	if err != nil {
		return nil, err
	}
	if page.PageInfo == nil {
		return nil, errors.New("the answer does not say whether there is a next page")
	}
	if page.PageInfo.HasNextPage && page.PageInfo.EndCursor == "" {
		return nil, errors.New("there is a next page but no cursor for it")
	}
	return page, nil
}

// groups reads a page of groups. bare leaves members and sharing out: the last resort for a single group on which
// GitLab's answer fails, so that one group does not hide the rest of the list.
func (g *gqlRead) groups(cursor string, size int, bare bool) *part {
	fields, children := "id fullPath createdAt shareWithGroupLock parent{id}", 1+4+2+3
	for _, f := range []struct {
		have bool
		name string
	}{{g.schema.archived, "archived"}, {g.schema.marked, "markedForDeletion"}, {!g.schema.marked && g.schema.markedOn, "markedForDeletionOn"}, {g.schema.updated, "updatedAt"}} {
		if f.have {
			fields += " " + f.name
			children++
		}
	}
	fragments := ""
	if !bare {
		fields += fmt.Sprintf(" groupMembers(first: %d, relations: [DIRECT]){...g}", g.api.pageSize)
		children += costRows
		fragments = "ug"
		if g.schema.sharedGroups {
			fields += fmt.Sprintf(" sharedGroups(first: %d, sort: ID_ASC){pageInfo{hasNextPage endCursor} nodes{id}}", g.api.pageSize)
			children += 14
		}
	}
	return &part{
		text:      fmt.Sprintf("groups(first: %d, after: %%s, sort: \"id_asc\"){pageInfo{hasNextPage endCursor} nodes{%s}}", size, fields),
		fragments: fragments, cursor: cursor, cost: paged(children, true, size),
		done: func(raw json.RawMessage) (next, more []*part, err error) {
			page, err := decodePage[gqlSource](raw)
			if err != nil {
				return nil, nil, err
			}
			for _, n := range page.Nodes {
				m, err := g.takeGroup(n, bare)
				if err != nil {
					return nil, nil, err
				}
				more = append(more, m...)
			}
			if page.PageInfo.HasNextPage {
				if page.PageInfo.EndCursor == cursor {
					return nil, nil, errors.New("the pages of groups lead in a circle")
				}
				next = []*part{g.groups(page.PageInfo.EndCursor, min(size*2, g.api.pageSize), false)}
			}
			return next, more, nil
		},
		failed: func(err error) ([]*part, error) {
			switch {
			case size > 1:
				return []*part{g.groups(cursor, size/2, false)}, nil
			case !bare:
				return []*part{g.groups(cursor, 1, true)}, nil
			}
			return nil, err
		},
	}
}

// takeGroup puts one group into the draft and returns what is still to be read of it.
func (g *gqlRead) takeGroup(n *gqlSource, bare bool) ([]*part, error) {
	id, err := gid(n.ID, "Group")
	if err != nil {
		return nil, err
	}
	out := authz.Group{
		ID: id, Path: n.FullPath, CreatedAt: seconds(n.CreatedAt), Archived: n.Archived,
		MarkedForDeletion: n.Marked || n.MarkedOn != "", ShareLock: n.ShareLock,
	}
	if n.Parent != nil {
		if out.Parent, err = gid(n.Parent.ID, "Group"); err != nil {
			return nil, fmt.Errorf("parent of group %d: %w", id, err)
		}
	}
	source := authz.GroupID(id)
	if bare {
		g.d.groups[id] = out
		g.d.unread[source] = "GitLab's GraphQL fails on it"
		g.d.linksUnknown = true
		return nil, nil
	}
	rows, err := n.GroupMembers.rows()
	if err != nil {
		return nil, fmt.Errorf("members of group %d: %w", id, err)
	}
	g.d.groups[id] = out
	g.d.listed[id] = listedGroup{out.Path, out.Parent, out.Archived, out.MarkedForDeletion, out.ShareLock, n.UpdatedAt}
	g.d.rows[source] = rows
	var more []*part
	if p := n.GroupMembers.PageInfo; p.HasNextPage {
		more = append(more, g.moreMembers(source, p.EndCursor))
	}
	if n.Shared == nil || n.Shared.Nodes == nil || n.Shared.PageInfo == nil {
		g.d.linksUnknown = true
		return more, nil
	}
	return append(more, g.takeShared(id, n.Shared)...), nil
}

// takeShared notes into which groups a group was invited: their links must be read by REST, which alone has them.
func (g *gqlRead) takeShared(id int64, s *gqlShared) []*part {
	for _, n := range s.Nodes {
		if n == nil {
			g.d.linksUnknown = true
			continue
		}
		target, err := gid(n.ID, "Group")
		if err != nil {
			g.d.linksUnknown = true
			continue
		}
		if g.d.invited[target] == nil {
			g.d.invited[target] = map[int64]bool{}
		}
		g.d.invited[target][id] = true
	}
	if !s.PageInfo.HasNextPage {
		return nil
	}
	return []*part{{
		text: fmt.Sprintf("groups(ids: [\"gid://gitlab/Group/%d\"], first: 1){nodes{id sharedGroups(first: %d, after: %%s, sort: ID_ASC){pageInfo{hasNextPage endCursor} nodes{id}}}}",
			id, g.api.pageSize),
		cursor: s.PageInfo.EndCursor, cost: paged(1+1+14, true, 1),
		done: func(raw json.RawMessage) ([]*part, []*part, error) {
			page, err := decodeNodes[gqlSource](raw)
			if err != nil || len(page.Nodes) != 1 || page.Nodes[0].Shared == nil || page.Nodes[0].Shared.Nodes == nil || page.Nodes[0].Shared.PageInfo == nil {
				g.d.linksUnknown = true
				return nil, nil, nil
			}
			return nil, g.takeShared(id, page.Nodes[0].Shared), nil
		},
		failed: func(error) ([]*part, error) { g.d.linksUnknown = true; return nil, nil },
	}}
}

// projects reads a page of projects, only the rows and, where they are wanted, the variables: everything else comes with
// the REST list, which is needed for the links anyway.
func (g *gqlRead) projects(cursor string, size int, bare bool) *part {
	return g.projectPage(cursor, size, bare, !bare && g.wantsVariables())
}

func (g *gqlRead) projectPage(cursor string, size int, bare, vars bool) *part {
	fields, children, fragments := "id", 1+1+3, ""
	if !bare {
		fields += fmt.Sprintf(" projectMembers(first: %d, relations: [DIRECT]){...p}", g.api.pageSize)
		children += costRows
		fragments = "up"
	}
	if vars {
		fields += " " + g.variablesText("")
		children += costVars
	}
	return &part{
		text:      fmt.Sprintf("projects(first: %d, after: %%s, sort: \"id_asc\"){pageInfo{hasNextPage endCursor} nodes{%s}}", size, fields),
		fragments: fragments, cursor: cursor, cost: paged(children, true, size),
		done: func(raw json.RawMessage) (next, more []*part, err error) {
			page, err := decodePage[gqlSource](raw)
			if err != nil {
				return nil, nil, err
			}
			for _, n := range page.Nodes {
				id, err := gid(n.ID, "Project")
				if err != nil {
					return nil, nil, err
				}
				source := authz.ProjectID(id)
				if bare {
					g.d.unread[source] = "GitLab's GraphQL fails on it"
					continue
				}
				rows, err := n.ProjectMembers.rows()
				if err != nil {
					return nil, nil, fmt.Errorf("members of project %d: %w", id, err)
				}
				g.d.rows[source] = rows
				if p := n.ProjectMembers.PageInfo; p.HasNextPage {
					more = append(more, g.moreMembers(source, p.EndCursor))
				}
				if vars {
					more = append(more, g.takeVariables(id, n.Variables)...)
				}
			}
			if page.PageInfo.HasNextPage {
				if page.PageInfo.EndCursor == cursor {
					return nil, nil, errors.New("the pages of projects lead in a circle")
				}
				next = []*part{g.projects(page.PageInfo.EndCursor, min(size*2, g.api.pageSize), false)}
			}
			return next, more, nil
		},
		failed: func(err error) ([]*part, error) {
			switch {
			case vars: // members must not suffer from what is wrong with variables
				g.vars.failures++
				g.alone = false
				return []*part{g.projectPage(cursor, size, false, false)}, nil
			case size > 1:
				return []*part{g.projects(cursor, size/2, false)}, nil
			case !bare:
				return []*part{g.projects(cursor, 1, true)}, nil
			}
			return nil, err
		},
	}
}

// moreMembers reads a further page of one source's rows. It asks by id: a path can change hands meanwhile.
func (g *gqlRead) moreMembers(source authz.SourceID, cursor string) *part {
	typ, field, inner, fragments := "Group", "groups", "groupMembers", "ug"
	if source.Kind == authz.ProjectSource {
		typ, field, inner, fragments = "Project", "projects", "projectMembers", "up"
	}
	give := func(why string) { delete(g.d.rows, source); g.d.unread[source] = why }
	return &part{
		text: fmt.Sprintf("%s(ids: [\"gid://gitlab/%s/%d\"], first: 1){nodes{id %s(first: %d, after: %%s, relations: [DIRECT]){...%s}}}",
			field, typ, source.ID, inner, g.api.pageSize, fragments[1:]),
		fragments: fragments, cursor: cursor, cost: paged(1+1+costRows, true, 1),
		done: func(raw json.RawMessage) ([]*part, []*part, error) {
			page, err := decodeNodes[gqlSource](raw)
			if err != nil {
				return nil, nil, err
			}
			if len(page.Nodes) != 1 {
				give("it vanished between two pages of its members")
				return nil, nil, nil
			}
			m := page.Nodes[0].GroupMembers
			if source.Kind == authz.ProjectSource {
				m = page.Nodes[0].ProjectMembers
			}
			id, err := gid(page.Nodes[0].ID, typ)
			if err == nil && id != source.ID {
				err = errors.New("the answer is about something else")
			}
			rows, rowErr := m.rows()
			if err = errors.Join(err, rowErr); err != nil {
				return nil, nil, err
			}
			if _, ok := g.d.rows[source]; !ok {
				return nil, nil, nil // given up meanwhile
			}
			g.d.rows[source] = append(g.d.rows[source], rows...)
			if m.PageInfo.HasNextPage {
				if m.PageInfo.EndCursor == "" || m.PageInfo.EndCursor == cursor {
					return nil, nil, errors.New("the pages of members lead nowhere")
				}
				return nil, []*part{g.moreMembers(source, m.PageInfo.EndCursor)}, nil
			}
			return nil, nil, nil
		},
		failed: func(err error) ([]*part, error) { give(err.Error()); return nil, nil },
	}
}

// users reads everybody, in order of creation from both ends at once, which halves the number of rounds. Accounts
// of one second have no certain order, so the two readings are complete only when they have passed each other by
// a whole second.
func (g *gqlRead) users(asc bool, cursor string, size int) *part {
	sort, end := "CREATED_DESC", &g.descEnd
	if asc {
		sort, end = "CREATED_ASC", &g.ascEnd
	}
	return &part{
		text:   fmt.Sprintf("users(first: %d, after: %%s, sort: %s){pageInfo{hasNextPage endCursor} nodes{...u}}", size, sort),
		cursor: cursor, cost: costUsers, fragments: "u",
		done: func(raw json.RawMessage) ([]*part, []*part, error) {
			page, err := decodePage[gqlUser](raw)
			if err != nil {
				return nil, nil, err
			}
			for _, n := range page.Nodes {
				u, err := n.user()
				if err != nil {
					return nil, nil, err
				}
				g.d.users[u.ID] = u
				if !u.CreatedAt.IsZero() {
					*end = u.CreatedAt
				}
			}
			if !page.PageInfo.HasNextPage || (!g.ascEnd.IsZero() && !g.descEnd.IsZero() && g.ascEnd.After(g.descEnd)) {
				g.usersDone = true
			}
			if g.usersDone {
				return nil, nil, nil
			}
			if page.PageInfo.EndCursor == cursor {
				return nil, nil, errors.New("the pages of users lead in a circle")
			}
			return []*part{g.users(asc, page.PageInfo.EndCursor, min(size*2, g.api.pageSize))}, nil, nil
		},
		failed: func(err error) ([]*part, error) {
			if size > 1 {
				return []*part{g.users(asc, cursor, size/2)}, nil
			}
			return nil, err
		},
	}
}
