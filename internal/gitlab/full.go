package gitlab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// fullReading is one reading of everything: lists first, then alone what these lack. What it read is in its draft.
type fullReading struct {
	api       *api
	graphQL   *graphQL
	everybody bool // also people whom nothing names
	d         *draft
	links     *linkReading
}

func (r *Reader) newFullReading() *fullReading {
	d := newDraft()
	return &fullReading{api: r.api, graphQL: r.graphQL, everybody: r.includeUsers, d: d, links: &linkReading{api: r.api, memory: r.links, d: d}}
}

// vanished is why something is read again that a list has just named. Another 404 does not prove that it is gone: it
// is missing in this round, and what the lists of the next one lack is judged there.
const vanished = "a list names it, but GitLab answers 404 for it"

// membersTimeout is how long the pages of members of one source may take where each source is read alone.
const membersTimeout = 5 * sourceTimeout

// byGraphQL reads groups, rows and people by GraphQL and projects with their links by REST.
func (f *fullReading) byGraphQL(ctx context.Context, info Info) error {
	f.d.vars = newVarsReading(f.graphQL.variables)
	s, err := readSchema(ctx, f.api, f.d.vars != nil)
	if err != nil {
		return err
	}
	server := serverFacts{schema: s, limit: info.ComplexityLimit}
	f.graphQL.server.Store(&server)
	g := newGQLRead(f.api, server, f.d, f.d.vars)
	size := f.api.pageSize
	parts := []*part{g.groups("", size, false), g.projects("", size, false)}
	if f.everybody {
		parts = append(parts, g.users(true, "", size))
		if s.userCreated {
			parts = append(parts, g.users(false, "", size))
		}
	}
	var list []restProject
	eg, egctx := errgroup.WithContext(ctx)
	eg.Go(func() error {
		err := g.run(egctx, parts)
		if err != nil && !global(err) && !limited(err) && !errors.Is(err, errNoGraphQL) {
			err = fmt.Errorf("%w: %w", errNoGraphQL, err) // it does not give what we need: REST may
		}
		return err
	})
	eg.Go(func() (err error) { list, err = f.listProjects(egctx); return err })
	err = eg.Wait()
	f.d.findParents()
	f.d.takeProjects(list)
	if err == nil {
		err = f.d.consistent()
	}
	if err == nil {
		err = f.settleLinks(ctx)
	}
	if err != nil {
		return err
	}
	for id := range f.d.projects {
		if _, ok := f.d.rows[authz.ProjectID(id)]; !ok {
			f.d.unread[authz.ProjectID(id)] = "its members were not in GraphQL's list"
		}
	}
	for id := range f.d.rows {
		if _, ok := f.d.projects[id.ID]; !ok && id.Kind == authz.ProjectSource && f.d.missing[id] == "" {
			f.d.unread[id] = "it was not in the list of projects"
		}
	}
	return f.links.takeAll(ctx)
}

// byREST reads everything without GraphQL: one request and more for each source.
func (f *fullReading) byREST(ctx context.Context) error {
	eg, egctx := errgroup.WithContext(ctx)
	var groups []restGroup
	var projects []restProject
	eg.Go(func() (err error) {
		q := url.Values{"order_by": {"id"}, "sort": {"asc"}, "all_available": {"true"}}
		groups, err = offset[restGroup](egctx, f.api, "groups", q)
		return err
	})
	eg.Go(func() (err error) { projects, err = f.listProjects(egctx); return err })
	eg.Go(func() error { return f.listUsers(egctx) })
	err := eg.Wait()
	for _, g := range groups {
		f.d.groups[g.ID] = g.group()
	}
	f.d.findParents()
	f.d.takeProjects(projects)
	if err == nil {
		err = f.d.consistent()
	}
	if err == nil {
		err = f.settleLinks(ctx)
	}
	if err != nil {
		return err
	}
	var sources []authz.SourceID
	for _, id := range slices.Sorted(maps.Keys(f.d.groups)) {
		sources = append(sources, authz.GroupID(id))
	}
	for _, id := range slices.Sorted(maps.Keys(f.d.projects)) {
		sources = append(sources, authz.ProjectID(id))
	}
	return each(ctx, f.api, sources, func(ctx context.Context, id authz.SourceID) error {
		rows, err := f.api.members(briefly(ctx, membersTimeout), id)
		f.d.mu.Lock()
		switch {
		case errors.Is(err, ErrNotFound):
			f.d.unread[id] = vanished
		case err != nil:
			f.d.missing[id] = err.Error()
		default:
			f.d.rows[id] = membersOf(rows)
		}
		f.d.mu.Unlock()
		if err == nil && id.Kind == authz.GroupSource {
			if err = f.links.read(briefly(ctx, sourceTimeout), id.ID); unanswered(err) {
				f.d.mu.Lock()
				f.d.missing[id] = "reading its links: " + err.Error()
				f.d.mu.Unlock()
			}
		}
		return err
	})
}

// each does one thing for many sources, a few at a time. An error of one source is that source's alone; but when
// GitLab as a whole does not answer, or ten sources failed in a row, the rest is not tried and the error returned.
func each[T any](ctx context.Context, a *api, ids []T, do func(context.Context, T) error) error {
	eg, egctx := errgroup.WithContext(ctx)
	eg.SetLimit(a.concurrency)
	var mu sync.Mutex
	row := 0
	for _, id := range ids {
		if egctx.Err() != nil {
			break
		}
		eg.Go(func() error {
			err := do(egctx, id)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				row = 0
				return nil
			}
			row++
			if global(err) || row >= 10 && !errors.Is(err, ErrNotFound) && !errors.Is(err, errContradiction) {
				return err
			}
			return nil
		})
	}
	return eg.Wait()
}

func (f *fullReading) listProjects(ctx context.Context) ([]restProject, error) {
	seen, err := keyset[restProject](ctx, f.api, "projects", url.Values{})
	return slices.Collect(maps.Values(seen)), err
}

// listUsers reads all accounts, and then which of them are humans: REST tells that only by a filter. A server
// that ignores the filter calls everybody human; then the user names of access-token bots must do.
func (f *fullReading) listUsers(ctx context.Context) error {
	all, err := keyset[restUser](ctx, f.api, "users", url.Values{})
	if err != nil {
		return err
	}
	humans, err := keyset[restUser](ctx, f.api, "users", url.Values{"humans": {"true"}})
	if err != nil {
		return err
	}
	if len(humans) == 0 { // somebody owns our token: nobody loses their rights for being no human by half an answer
		return errors.New("reading users: GitLab lists no human at all, which can't be")
	}
	for id, u := range humans {
		if _, ok := all[id]; !ok {
			all[id] = u // came between the two lists
		}
	}
	filtered := len(humans) < len(all)
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	for id, u := range all {
		_, human := humans[id]
		f.d.users[id] = u.user(human && (filtered || !tokenBot.MatchString(u.Username)))
	}
	return nil
}

// settleLinks decides about a list of projects that shows no links at all: one project read alone shows whether this
// server has none to tell, or only leaves them out of the list.
func (f *fullReading) settleLinks(ctx context.Context) error {
	if len(f.d.noLinks) == 0 {
		return nil
	}
	p, err := f.api.project(briefly(ctx, sourceTimeout), f.d.noLinks[0])
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if err == nil && p.Links == nil {
		f.api.log.WarnContext(ctx, "reading GitLab with limits", "reason", "it says nothing about groups that are invited into projects; they get no rights there")
		return nil
	}
	f.d.hasLinks = true
	for _, id := range f.d.noLinks {
		f.d.unread[authz.ProjectID(id)] = errNoLinks.Error()
	}
	return nil
}

// maxReread bounds how many sources one round reads one by one beside the lists.
const maxReread = 200

// rereadMissing reads sources one by one that the lists returned incompletely: what appeared or vanished while reading, and
// what GraphQL failed on. What can't be read is missing, also when GitLab answers 404: something has just named it.
func (f *fullReading) rereadMissing(ctx context.Context) {
	tried := map[authz.SourceID]bool{}
	down, row := false, 0
	for {
		f.d.wantReferenced()
		var todo []authz.SourceID
		for id, why := range f.d.unread {
			switch {
			case tried[id]:
			case down || len(tried)+len(todo) >= maxReread:
				f.d.missing[id] = why
			default:
				todo = append(todo, id)
			}
		}
		if len(todo) == 0 {
			break
		}
		slices.SortFunc(todo, authz.SourceID.Compare)
		for _, id := range todo {
			tried[id] = true
			why := f.d.unread[id]
			delete(f.d.unread, id)
			if down {
				f.d.missing[id] = why
				continue
			}
			err := f.readSource(briefly(ctx, sourceTimeout), id)
			if err != nil {
				f.d.missing[id] = why + "; reading it alone: " + err.Error()
			}
			if row++; !unanswered(err) {
				row = 0
			}
			down = global(err) || row >= maxFailures // the others would only wait, too
			if ctx.Err() != nil {
				return
			}
		}
	}
	for id, why := range f.d.unread {
		if !tried[id] {
			f.d.missing[id] = why
		}
	}
}

// readSource reads one group, project or user completely into the draft.
func (f *fullReading) readSource(ctx context.Context, id authz.SourceID) error {
	switch id.Kind {
	case authz.GroupSource:
		g, err := f.api.group(ctx, id.ID)
		if err != nil {
			return err
		}
		rows, err := f.api.members(ctx, id)
		if err != nil {
			return err
		}
		out := g.group()
		if out.Links, err = f.d.linksOf(g); err != nil {
			return err
		}
		if err := f.d.places().findParent(&out); err != nil {
			return err
		}
		f.d.groups[id.ID] = out
		if err := f.d.putRows(id, membersOf(rows)); err != nil {
			return err
		}
	case authz.ProjectSource:
		p, err := f.api.project(ctx, id.ID)
		if err != nil {
			return err
		}
		rows, err := f.api.members(ctx, id)
		if err != nil {
			return err
		}
		if p.Links == nil && f.d.hasLinks {
			return errNoLinks
		}
		out, err := p.project(f.d.places())
		if err != nil {
			return err
		}
		f.d.projects[id.ID] = out
		if err := f.d.putRows(id, membersOf(rows)); err != nil {
			return err
		}
	case authz.UserSource:
		known, ok := f.d.users[id.ID]
		if !ok {
			known, ok = f.d.rowUsers[id.ID]
		}
		u, err := f.api.user(ctx, id.ID, ok, known.Human)
		if err != nil {
			return err
		}
		f.d.users[id.ID] = u
	}
	delete(f.d.missing, id)
	return nil
}
