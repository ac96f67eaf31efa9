package gitlab

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// gqlRead is one reading by GraphQL: which page comes after which, and what of them goes into the draft. Each page is a part with its
// own cursor; what a part leads to comes next, or after all others.
type gqlRead struct {
	*gqlSender
	text gqlText
	d    *draft
	vars *varsReading // nil: no variables wanted

	ascEnd, descEnd time.Time // users: how far the reading from both ends came
	usersDone       bool
}

func newGQLRead(a *api, server serverFacts, d *draft, vars *varsReading) *gqlRead {
	return &gqlRead{
		gqlSender: &gqlSender{api: a, schema: server.schema, limit: server.limit},
		text:      gqlText{schema: server.schema, page: a.pageSize}, d: d, vars: vars,
	}
}

// takePage takes the objects of a page of a list one by one, and asks for the page that follows.
func takePage[T any](raw json.RawMessage, list, cursor string, take func(*T) ([]*part, error), after func(cursor string) *part) (next, more []*part, err error) {
	page, err := decodePage[T](raw)
	if err != nil {
		return nil, nil, err
	}
	for _, n := range page.Nodes {
		m, err := take(n)
		if err != nil {
			return nil, nil, err
		}
		more = append(more, m...)
	}
	if page.PageInfo.HasNextPage {
		if page.PageInfo.EndCursor == cursor {
			return nil, nil, fmt.Errorf("the pages of %s lead in a circle", list)
		}
		next = []*part{after(page.PageInfo.EndCursor)}
	}
	return next, more, nil
}

// larger is the size of the page after one of that size: one that had to be small does not make all others small.
func (g *gqlRead) larger(size int) int { return min(size*2, g.text.page) }

// groups reads a page of groups. bare leaves members and sharing out: the last resort for a single group on which
// GitLab's answer fails, so that one group does not hide the rest of the list.
func (g *gqlRead) groups(cursor string, size int, bare bool) *part {
	p := g.text.groups(cursor, size, bare)
	p.done = func(raw json.RawMessage) (next, more []*part, err error) {
		return takePage(raw, "groups", cursor, func(n *gqlSource) ([]*part, error) { return g.takeGroup(n, bare) },
			func(cursor string) *part { return g.groups(cursor, g.larger(size), false) })
	}
	p.failed = func(err error) ([]*part, error) {
		switch {
		case size > 1:
			return []*part{g.groups(cursor, size/2, false)}, nil
		case !bare:
			return []*part{g.groups(cursor, 1, true)}, nil
		}
		return nil, err
	}
	return p
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
	g.d.rows[source] = g.d.learn(rows)
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
	p := g.text.moreShared(id, s.PageInfo.EndCursor)
	p.done = func(raw json.RawMessage) ([]*part, []*part, error) {
		page, err := decodeNodes[gqlSource](raw)
		if err != nil || len(page.Nodes) != 1 || page.Nodes[0].Shared == nil || page.Nodes[0].Shared.Nodes == nil || page.Nodes[0].Shared.PageInfo == nil {
			g.d.linksUnknown = true
			return nil, nil, nil
		}
		return nil, g.takeShared(id, page.Nodes[0].Shared), nil
	}
	p.failed = func(error) ([]*part, error) { g.d.linksUnknown = true; return nil, nil }
	return []*part{p}
}

// projects reads a page of projects, only the rows and, where they are wanted, the variables: everything else comes with
// the REST list, which is needed for the links anyway.
func (g *gqlRead) projects(cursor string, size int, bare bool) *part {
	return g.projectPage(cursor, size, bare, !bare && g.wantsVariables())
}

func (g *gqlRead) projectPage(cursor string, size int, bare, vars bool) *part {
	p := g.text.projects(cursor, size, bare, vars)
	p.done = func(raw json.RawMessage) (next, more []*part, err error) {
		return takePage(raw, "projects", cursor, func(n *gqlSource) ([]*part, error) { return g.takeProject(n, bare, vars) },
			func(cursor string) *part { return g.projects(cursor, g.larger(size), false) })
	}
	p.failed = func(err error) ([]*part, error) {
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
	}
	return p
}

// takeProject puts the rows of one project into the draft and returns what is still to be read of it.
func (g *gqlRead) takeProject(n *gqlSource, bare, vars bool) (more []*part, err error) {
	id, err := gid(n.ID, "Project")
	if err != nil {
		return nil, err
	}
	source := authz.ProjectID(id)
	if bare {
		g.d.unread[source] = "GitLab's GraphQL fails on it"
		return nil, nil
	}
	rows, err := n.ProjectMembers.rows()
	if err != nil {
		return nil, fmt.Errorf("members of project %d: %w", id, err)
	}
	g.d.rows[source] = g.d.learn(rows)
	if p := n.ProjectMembers.PageInfo; p.HasNextPage {
		more = append(more, g.moreMembers(source, p.EndCursor))
	}
	if vars {
		more = append(more, g.takeVariables(id, n.Variables)...)
	}
	return more, nil
}

// moreMembers reads a further page of one source's rows.
func (g *gqlRead) moreMembers(source authz.SourceID, cursor string) *part {
	giveUp := func(why string) { delete(g.d.rows, source); g.d.unread[source] = why }
	p := g.text.moreMembers(source, cursor)
	p.done = func(raw json.RawMessage) (next, more []*part, err error) {
		page, err := decodeNodes[gqlSource](raw)
		if err != nil {
			return nil, nil, err
		}
		if len(page.Nodes) != 1 {
			giveUp("it vanished between two pages of its members")
			return nil, nil, nil
		}
		more, err = g.takeMembers(source, page.Nodes[0], cursor)
		return nil, more, err
	}
	p.failed = func(err error) ([]*part, error) { giveUp(err.Error()); return nil, nil }
	return p
}

// takeMembers adds the further rows of one source, and returns what is still to be read of them.
func (g *gqlRead) takeMembers(source authz.SourceID, n *gqlSource, cursor string) ([]*part, error) {
	typ, m := "Group", n.GroupMembers
	if source.Kind == authz.ProjectSource {
		typ, m = "Project", n.ProjectMembers
	}
	id, err := gid(n.ID, typ)
	if err == nil && id != source.ID {
		err = errors.New("the answer is about something else")
	}
	rows, rowErr := m.rows()
	if err = errors.Join(err, rowErr); err != nil {
		return nil, err
	}
	if _, ok := g.d.rows[source]; !ok {
		return nil, nil // given up meanwhile
	}
	g.d.rows[source] = append(g.d.rows[source], g.d.learn(rows)...)
	if !m.PageInfo.HasNextPage {
		return nil, nil
	}
	if m.PageInfo.EndCursor == "" || m.PageInfo.EndCursor == cursor {
		return nil, errors.New("the pages of members lead nowhere")
	}
	return []*part{g.moreMembers(source, m.PageInfo.EndCursor)}, nil
}

// users reads everybody, in order of creation from both ends at once, which halves the number of rounds. Accounts
// of one second have no certain order, so the two readings are complete only when they have passed each other by
// a whole second.
func (g *gqlRead) users(asc bool, cursor string, size int) *part {
	p := g.text.users(asc, cursor, size)
	p.done = func(raw json.RawMessage) ([]*part, []*part, error) {
		page, err := decodePage[gqlUser](raw)
		if err != nil {
			return nil, nil, err
		}
		if err := g.takeUsers(page, asc); err != nil || g.usersDone {
			return nil, nil, err
		}
		if page.PageInfo.EndCursor == cursor {
			return nil, nil, errors.New("the pages of users lead in a circle")
		}
		return []*part{g.users(asc, page.PageInfo.EndCursor, g.larger(size))}, nil, nil
	}
	p.failed = func(err error) ([]*part, error) {
		if size > 1 {
			return []*part{g.users(asc, cursor, size/2)}, nil
		}
		return nil, err
	}
	return p
}

// takeUsers puts a page of accounts into the draft, and notes how far the reading from its end came.
func (g *gqlRead) takeUsers(page *gqlPage[gqlUser], asc bool) error {
	end := &g.descEnd
	if asc {
		end = &g.ascEnd
	}
	for _, n := range page.Nodes {
		u, err := n.user()
		if err != nil {
			return err
		}
		g.d.users[u.ID] = u
		if !u.CreatedAt.IsZero() {
			*end = u.CreatedAt
		}
	}
	if !page.PageInfo.HasNextPage || (!g.ascEnd.IsZero() && !g.descEnd.IsZero() && g.ascEnd.After(g.descEnd)) {
		g.usersDone = true
	}
	return nil
}
