package gitlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabversion"
)

// RoleReader reads a GitLab instance with a token that only reads. Its methods may be used at the same time.
type Reader struct {
	api          *api
	includeUsers bool
	restOnly     bool
	variables    CIVariables
	server       atomic.Pointer[serverFacts]
	absences     absences
	links        *linkMemory
	// graphQLFailed is until when (Unix nanoseconds) targeted readings don't use GraphQL for accounts.
	graphQLFailed atomic.Int64
	wasAdmin      atomic.Bool // GitLab showed, since the start, that the token is an administrator's
}

// NewReader returns a Reader. It does no request.
func NewReader(o Options) (*Reader, error) {
	a, err := newAPI(o)
	if err != nil {
		return nil, err
	}
	return &Reader{api: a, includeUsers: o.IncludeUsers, restOnly: o.RESTOnly, variables: o.CIVariables, absences: absences{pause: secondLook}, links: newLinkMemory(o.LinksMaxAge, a.now)}, nil
}

// Requests returns how many requests of each kind were sent so far, repetitions included.
func (r *Reader) Requests() map[string]int64 { return r.api.gate.requests() }

// Info is what a GitLab says about itself and our token.
type Info struct {
	Version         string // "" when it does not tell
	User            authz.User
	Admin           bool // GitLab showed that the token is an administrator's
	GraphQL         bool
	ComplexityLimit int
	Warnings        []string // what an administrator of the integrator should know
}

// defaultLimit is GitLab's documented complexity limit for signed-in users.
const defaultLimit = 250

// Probe asks GitLab who we are and what it can do. An error says that nothing can be read.
func (r *Reader) Probe(ctx context.Context) (Info, error) {
	info := Info{ComplexityLimit: defaultLimit}
	me, _, selfErr := r.api.self(briefly(ctx, sourceTimeout))
	if selfErr != nil && (global(selfErr) || unanswered(selfErr) || ctx.Err() != nil) {
		return info, selfErr
	}
	if selfErr == nil {
		info.User = me.user(true)
		info.Admin = me.IsAdmin != nil && *me.IsAdmin
		if !info.Admin {
			info.Warnings = append(info.Warnings, fmt.Sprintf("the read token belongs to %q, who is not shown to be an administrator (or the token lacks"+
				" the scope admin_mode where GitLab demands it): GitLab hides private groups, blocked people and more from it;"+
				" use an administrator's token with the scope read_api", me.Username))
		}
	}
	if !r.restOnly {
		data, err := r.api.query(briefly(ctx, sourceTimeout), `query Probe { currentUser { id username state } metadata { version } queryComplexity { score limit } }`, nil)
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
			return info, err
		case selfErr != nil && errors.Is(err, ErrNotFound) && errors.Is(selfErr, ErrNotFound) && !r.api.listsGroups(ctx):
			return info, &callError{doing: "looking for GitLab at " + r.api.base, kind: ErrNotGitLab}
		case selfErr != nil && errors.Is(selfErr, ErrNotGitLab):
			return info, selfErr
		default:
			info.Warnings = append(info.Warnings, "GraphQL is not usable, reading by REST alone, which takes many more requests: "+err.Error())
		}
	}
	if info.Version == "" {
		info.Version, _ = r.api.version(briefly(ctx, sourceTimeout)) // not knowing it is the next warning
	}
	v, err := supported(info.Version)
	if err != nil {
		return info, err
	}
	if v == (gitlabversion.Version{}) && ctx.Err() == nil {
		info.Warnings = append(info.Warnings, fmt.Sprintf("GitLab does not report its version (it says %q): it is taken for the newest", shorten(info.Version)))
	}
	return info, nil
}

// draft is a Snapshot in the making. While several goroutines fill it, mu guards it.
type draft struct {
	mu              sync.Mutex
	users           map[int64]authz.User // from lists of accounts
	rowUsers        map[int64]authz.User // from membership rows that say who is human
	groups          map[int64]authz.Group
	projects        map[int64]authz.Project
	rows            map[authz.SourceID][]memberRow
	unread          map[authz.SourceID]string // to be tried again one by one
	missing         map[authz.SourceID]string
	missingAll      string
	invited         map[int64]map[int64]bool // groups into which some group was invited, and by GraphQL which
	linksUnknown    bool                     // any group may have links
	hasLinks        bool                     // projects came with their links
	noLinks         []int64                  // projects in a list that shows no links at all
	groupsHaveLinks bool                     // groups that were read alone came with their links
	groupsNoLinks   []int64                  // groups whose answer shows no links at all
	listed          map[int64]listedGroup    // by GraphQL
	vars            *varsReading             // nil: no variables are read
}

func newDraft() *draft {
	return &draft{
		users: map[int64]authz.User{}, rowUsers: map[int64]authz.User{}, groups: map[int64]authz.Group{},
		projects: map[int64]authz.Project{}, rows: map[authz.SourceID][]memberRow{}, unread: map[authz.SourceID]string{},
		missing: map[authz.SourceID]string{}, invited: map[int64]map[int64]bool{}, listed: map[int64]listedGroup{},
	}
}

func (d *draft) empty() bool { return len(d.groups)+len(d.projects)+len(d.users)+len(d.rows) == 0 }

// Snapshot reads everything. What could not be read completely is in Missing; when a list could not be read, or
// GitLab went away in between, MissingAll is set. The error is only for when nothing was read.
func (r *Reader) Snapshot(ctx context.Context) (*authz.Snapshot, error) {
	taken := r.api.now().UTC() // before reading: nothing in it is older
	info, err := r.Probe(ctx)
	if err != nil {
		return nil, err
	}
	for _, w := range info.Warnings {
		r.api.log.WarnContext(ctx, "reading GitLab with limits", "reason", w)
	}
	d := newDraft()
	err = errNoGraphQL
	if info.GraphQL {
		err = r.readGraphQL(ctx, d, info)
	}
	if errors.Is(err, errNoGraphQL) && ctx.Err() == nil {
		if info.GraphQL {
			r.api.log.WarnContext(ctx, "reading GitLab by REST alone", "reason", err.Error())
		}
		d = newDraft()
		err = r.readREST(ctx, d)
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("reading GitLab: %w", ctx.Err())
	}
	if err != nil && (d.empty() || errors.Is(err, ErrUnauthorized) || errors.Is(err, ErrToken)) {
		return nil, err
	}
	if err != nil {
		d.missingAll = err.Error()
	} else {
		r.rereadMissing(ctx, d)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("reading GitLab: %w", ctx.Err())
		}
	}
	s := d.finish(r.includeUsers)
	s.Issuer, s.Taken, s.Admin = r.api.base, taken, info.Admin
	// A token that loses its administrator's view sees no private group any more: that must not look like their end,
	// also when it happens while the lists are read.
	if info.Admin {
		r.wasAdmin.Store(true)
		if err := r.seesAll(ctx); errors.Is(err, errHidden) {
			s.Admin = false
		} else if err != nil && s.MissingAll == "" {
			s.MissingAll = "whether the reading token still is an administrator's was not to be learned: " + err.Error()
		}
	}
	if r.wasAdmin.Load() && !s.Admin && s.MissingAll == "" {
		s.MissingAll = authz.DemotedToken
	}
	return s, nil
}

// readGraphQL reads groups, rows and people by GraphQL and projects with their links by REST.
func (r *Reader) readGraphQL(ctx context.Context, d *draft, info Info) error {
	d.vars = newVarsReading(r.variables)
	s, err := readSchema(ctx, r.api, d.vars != nil)
	if err != nil {
		return err
	}
	server := serverFacts{schema: s, limit: info.ComplexityLimit}
	r.server.Store(&server)
	g := newGQLRead(r.api, server, d, d.vars)
	size := r.api.pageSize
	parts := []*part{g.groups("", size, false), g.projects("", size, false)}
	if r.includeUsers {
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
	eg.Go(func() (err error) { list, err = r.listProjects(egctx); return err })
	err = eg.Wait()
	for _, rows := range d.rows {
		for _, row := range rows {
			d.rowUsers[row.User] = row.user
		}
	}
	d.findParents()
	d.takeProjects(list)
	if err == nil {
		err = d.consistent()
	}
	if err == nil {
		err = r.settleLinks(ctx, d)
	}
	if err != nil {
		return err
	}
	for id := range d.projects {
		if _, ok := d.rows[authz.ProjectID(id)]; !ok {
			d.unread[authz.ProjectID(id)] = "its members were not in GraphQL's list"
		}
	}
	for id := range d.rows {
		if _, ok := d.projects[id.ID]; !ok && id.Kind == authz.ProjectSource && d.missing[id] == "" {
			d.unread[id] = "it was not in the list of projects"
		}
	}
	return r.takeLinks(ctx, d)
}

// errContradiction means that two answers of one reading exclude each other. Neither is believed: one of them may be cut short.
var errContradiction = errors.New("two answers of GitLab contradict each other")

// putRows takes the rows that were read alone, unless other rows of this source were read before and these lack one of them
// or show it otherwise.
func (d *draft) putRows(id authz.SourceID, rows []memberRow) error {
	for _, before := range d.rows[id] {
		i := slices.IndexFunc(rows, func(r memberRow) bool { return r.User == before.User })
		switch {
		case i < 0:
			return fmt.Errorf("%w: user %d is a member of %s in one and not in the other", errContradiction, before.User, id)
		case rows[i].Member != before.Member:
			return fmt.Errorf("%w: the membership of user %d in %s is not the same in both", errContradiction, before.User, id)
		}
	}
	d.rows[id] = rows
	return nil
}

// linksOf returns the links of a group that was read alone. An answer without any is no answer where GraphQL showed
// one; elsewhere the answers about other groups show whether this server has links to tell (see finish).
func (d *draft) linksOf(g restGroup) ([]authz.Link, error) {
	switch {
	case g.Links != nil:
		d.groupsHaveLinks = true
		for id := range d.invited[g.ID] {
			if !slices.ContainsFunc(*g.Links, func(l restLink) bool { return l.Group != nil && *l.Group == id }) {
				return nil, fmt.Errorf("%w: GraphQL says that group %d is invited into it, and REST does not", errContradiction, id)
			}
		}
		return links(*g.Links)
	case d.invited[g.ID] != nil:
		return nil, errNoLinks
	}
	d.groupsNoLinks = append(d.groupsNoLinks, g.ID)
	return nil, nil
}

// vanished is why something is read again that a list has just named. Another 404 does not prove that it is gone: it
// is missing in this round, and what the lists of the next one lack is judged there.
const vanished = "a list names it, but GitLab answers 404 for it"

// membersTimeout is how long the pages of members of one source may take where each source is read alone.
const membersTimeout = 5 * sourceTimeout

// readREST reads everything without GraphQL: one request and more for each source.
func (r *Reader) readREST(ctx context.Context, d *draft) error {
	eg, egctx := errgroup.WithContext(ctx)
	var groups []restGroup
	var projects []restProject
	eg.Go(func() (err error) {
		q := url.Values{"order_by": {"id"}, "sort": {"asc"}, "all_available": {"true"}}
		groups, err = offset[restGroup](egctx, r.api, "groups", q)
		return err
	})
	eg.Go(func() (err error) { projects, err = r.listProjects(egctx); return err })
	eg.Go(func() error { return r.listUsers(egctx, d) })
	err := eg.Wait()
	for _, g := range groups {
		d.groups[g.ID] = g.group()
	}
	d.findParents()
	d.takeProjects(projects)
	if err == nil {
		err = d.consistent()
	}
	if err == nil {
		err = r.settleLinks(ctx, d)
	}
	if err != nil {
		return err
	}
	var sources []authz.SourceID
	for _, id := range slices.Sorted(maps.Keys(d.groups)) {
		sources = append(sources, authz.GroupID(id))
	}
	for _, id := range slices.Sorted(maps.Keys(d.projects)) {
		sources = append(sources, authz.ProjectID(id))
	}
	return each(ctx, r.api, sources, func(ctx context.Context, id authz.SourceID) error {
		rows, err := r.api.members(briefly(ctx, membersTimeout), id)
		d.mu.Lock()
		switch {
		case errors.Is(err, ErrNotFound):
			d.unread[id] = vanished
		case err != nil:
			d.missing[id] = err.Error()
		default:
			d.rows[id] = rows
		}
		d.mu.Unlock()
		if err == nil && id.Kind == authz.GroupSource {
			if err = r.readLinks(briefly(ctx, sourceTimeout), d, id.ID); unanswered(err) {
				d.mu.Lock()
				d.missing[id] = "reading its links: " + err.Error()
				d.mu.Unlock()
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

func (r *Reader) listProjects(ctx context.Context) ([]restProject, error) {
	seen, err := keyset[restProject](ctx, r.api, "projects", url.Values{})
	return slices.Collect(maps.Values(seen)), err
}

// listUsers reads all accounts, and then which of them are humans: REST tells that only by a filter. A server
// that ignores the filter calls everybody human; then the user names of access-token bots must do.
func (r *Reader) listUsers(ctx context.Context, d *draft) error {
	all, err := keyset[restUser](ctx, r.api, "users", url.Values{})
	if err != nil {
		return err
	}
	humans, err := keyset[restUser](ctx, r.api, "users", url.Values{"humans": {"true"}})
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
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, u := range all {
		_, human := humans[id]
		d.users[id] = u.user(human && (filtered || !tokenBot.MatchString(u.Username)))
	}
	return nil
}

// takeProjects puts the listed projects into the draft. A project whose place is not understood is missing.
func (d *draft) takeProjects(list []restProject) {
	at := d.places()
	d.hasLinks = slices.ContainsFunc(list, func(p restProject) bool { return p.Links != nil })
	for _, p := range list {
		out, err := p.project(at)
		switch {
		case err != nil:
			d.missing[authz.ProjectID(p.ID)] = err.Error()
		case p.Links == nil && d.hasLinks:
			d.unread[authz.ProjectID(p.ID)] = errNoLinks.Error()
		case p.Links == nil:
			d.noLinks = append(d.noLinks, p.ID)
		}
		d.projects[p.ID] = out
	}
}

// consistent returns an error when the list of groups is empty and projects are in groups: then it was not read.
func (d *draft) consistent() error {
	if len(d.groups) > 0 {
		return nil
	}
	for id, p := range d.projects {
		if p.Group != 0 {
			return fmt.Errorf("reading groups: GitLab lists none, but project %d is in group %d", id, p.Group)
		}
	}
	return nil
}

var errNoLinks = errors.New("GitLab's answer has no shared_with_groups")

// settleLinks decides about a list of projects that shows no links at all: one project read alone shows whether this
// server has none to tell, or only leaves them out of the list.
func (r *Reader) settleLinks(ctx context.Context, d *draft) error {
	if len(d.noLinks) == 0 {
		return nil
	}
	p, err := r.api.project(briefly(ctx, sourceTimeout), d.noLinks[0])
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if err == nil && p.Links == nil {
		r.api.log.WarnContext(ctx, "reading GitLab with limits", "reason", "it says nothing about groups that are invited into projects; they get no rights there")
		return nil
	}
	d.hasLinks = true
	for _, id := range d.noLinks {
		d.unread[authz.ProjectID(id)] = errNoLinks.Error()
	}
	return nil
}

// places finds namespaces by path, among what was read so far.
func (d *draft) places() places {
	users, groups := map[string]int64{}, map[string]int64{}
	for _, known := range []map[int64]authz.User{d.rowUsers, d.users} {
		for id, u := range known {
			users[strings.ToLower(u.Username)] = id
		}
	}
	for id, g := range d.groups {
		groups[strings.ToLower(g.Path)] = id
	}
	return places{
		group: func(path string) int64 { return groups[strings.ToLower(path)] },
		user:  func(path string) int64 { return users[strings.ToLower(path)] },
	}
}

// findParents finds the parents of groups that look like subgroups but name none.
func (d *draft) findParents() {
	at := d.places()
	for id, g := range d.groups {
		if err := at.findParent(&g); err != nil {
			d.missing[authz.GroupID(id)] = err.Error()
		}
		d.groups[id] = g
	}
}

// maxReread bounds how many sources one round reads one by one beside the lists.
const maxReread = 200

// rereadMissing reads sources one by one that the lists returned incompletely: what appeared or vanished while reading, and
// what GraphQL failed on. What can't be read is missing, also when GitLab answers 404: something has just named it.
func (r *Reader) rereadMissing(ctx context.Context, d *draft) {
	tried := map[authz.SourceID]bool{}
	down, row := false, 0
	for {
		d.wantReferenced()
		var todo []authz.SourceID
		for id, why := range d.unread {
			switch {
			case tried[id]:
			case down || len(tried)+len(todo) >= maxReread:
				d.missing[id] = why
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
			why := d.unread[id]
			delete(d.unread, id)
			if down {
				d.missing[id] = why
				continue
			}
			err := r.readSource(briefly(ctx, sourceTimeout), d, id)
			if err != nil {
				d.missing[id] = why + "; reading it alone: " + err.Error()
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
	for id, why := range d.unread {
		if !tried[id] {
			d.missing[id] = why
		}
	}
}

// wantReferenced marks what others point to but no list had, because it appeared while reading.
func (d *draft) wantReferenced() {
	want := func(id authz.SourceID, have bool) {
		if id.ID != 0 && !have && d.missing[id] == "" && d.unread[id] == "" {
			d.unread[id] = "it was in no list, but something points to it"
		}
	}
	group := func(id int64) { _, ok := d.groups[id]; want(authz.GroupID(id), ok) }
	for _, g := range d.groups {
		group(g.Parent)
		for _, l := range g.Links {
			group(l.Group)
		}
	}
	for _, p := range d.projects {
		group(p.Group)
		for _, l := range p.Links {
			group(l.Group)
		}
		_, listed := d.users[p.Owner]
		_, row := d.rowUsers[p.Owner]
		want(authz.UserID(p.Owner), listed || row)
	}
	for _, rows := range d.rows {
		for _, row := range rows {
			_, listed := d.users[row.User]
			_, known := d.rowUsers[row.User]
			want(authz.UserID(row.User), listed || known)
		}
	}
}

// readSource reads one group, project or user completely into the draft.
func (r *Reader) readSource(ctx context.Context, d *draft, id authz.SourceID) error {
	switch id.Kind {
	case authz.GroupSource:
		g, err := r.api.group(ctx, id.ID)
		if err != nil {
			return err
		}
		rows, err := r.api.members(ctx, id)
		if err != nil {
			return err
		}
		out := g.group()
		if out.Links, err = d.linksOf(g); err != nil {
			return err
		}
		if err := d.places().findParent(&out); err != nil {
			return err
		}
		d.groups[id.ID] = out
		if err := d.putRows(id, rows); err != nil {
			return err
		}
	case authz.ProjectSource:
		p, err := r.api.project(ctx, id.ID)
		if err != nil {
			return err
		}
		rows, err := r.api.members(ctx, id)
		if err != nil {
			return err
		}
		if p.Links == nil && d.hasLinks {
			return errNoLinks
		}
		out, err := p.project(d.places())
		if err != nil {
			return err
		}
		d.projects[id.ID] = out
		if err := d.putRows(id, rows); err != nil {
			return err
		}
	case authz.UserSource:
		known, ok := d.users[id.ID]
		if !ok {
			known, ok = d.rowUsers[id.ID]
		}
		u, err := r.api.user(ctx, id.ID, ok, known.Human)
		if err != nil {
			return err
		}
		d.users[id.ID] = u
	}
	delete(d.missing, id)
	return nil
}

// finish makes the Snapshot. Unless everybody is wanted it keeps only people who are named by something.
func (d *draft) finish(everybody bool) *authz.Snapshot {
	if d.hasLinks || d.groupsHaveLinks {
		for _, id := range d.groupsNoLinks {
			d.missing[authz.GroupID(id)] = errNoLinks.Error()
		}
	}
	s := &authz.Snapshot{
		Users: map[int64]authz.User{}, Groups: map[int64]authz.Group{}, Projects: map[int64]authz.Project{},
		Missing: d.missing, MissingAll: d.missingAll,
	}
	name := func(id int64) {
		if u, ok := d.users[id]; ok {
			s.Users[id] = u
		} else if u, ok := d.rowUsers[id]; ok {
			s.Users[id] = u
		}
	}
	if everybody {
		maps.Copy(s.Users, d.users)
	}
	for id, g := range d.groups {
		g.Members = mergeMembers(d.rows[authz.GroupID(id)])
		s.Groups[id] = g
	}
	for id, p := range d.projects {
		p.Members = mergeMembers(d.rows[authz.ProjectID(id)])
		d.vars.put(&p)
		s.Projects[id] = p
		if p.Owner != 0 {
			name(p.Owner)
		}
	}
	for _, rows := range d.rows {
		for _, row := range rows {
			name(row.User)
		}
	}
	markIncomplete(s)
	inheritFlags(s)
	return s
}

// markIncomplete marks accounts about which an answer does not say who or in which state they are, and everything in which such
// an account, or one that could not be read at all, has a membership: without an account nobody has a right, and by
// half an answer nobody loses one.
func markIncomplete(s *authz.Snapshot) {
	whole := func(u authz.User) bool { return u.State != "" && u.Username != "" }
	for id, u := range s.Users {
		if !whole(u) {
			s.Missing[authz.UserID(id)] = "the answer does not contain its state or username"
		}
	}
	mark := func(source authz.SourceID, user int64) {
		if !whole(s.Users[user]) && s.Missing[source] == "" {
			s.Missing[source] = fmt.Sprintf("the account of its member %s could not be read", authz.UserID(user))
		}
	}
	for id, g := range s.Groups {
		for _, m := range g.Members {
			mark(authz.GroupID(id), m.User)
		}
	}
	for id, p := range s.Projects {
		for _, m := range p.Members {
			mark(authz.ProjectID(id), m.User)
		}
		if p.Owner != 0 {
			mark(authz.ProjectID(id), p.Owner)
		}
	}
}

// inheritFlags makes "archived" and "marked for deletion" look upwards everywhere: GraphQL's fields do so, REST's
// may say it of the object alone.
func inheritFlags(s *authz.Snapshot) {
	type flags struct{ archived, marked bool }
	done := map[int64]flags{}
	var up func(id int64) flags
	up = func(id int64) flags {
		if f, ok := done[id]; ok {
			return f
		}
		g, ok := s.Groups[id]
		if !ok {
			return flags{}
		}
		done[id] = flags{} // a circle of parents ends here
		p := up(g.Parent)
		g.Archived, g.MarkedForDeletion = g.Archived || p.archived, g.MarkedForDeletion || p.marked
		s.Groups[id] = g
		done[id] = flags{g.Archived, g.MarkedForDeletion}
		return done[id]
	}
	for id := range s.Groups {
		up(id)
	}
	for id, p := range s.Projects {
		f := up(p.Group)
		p.Archived, p.MarkedForDeletion = p.Archived || f.archived, p.MarkedForDeletion || f.marked
		s.Projects[id] = p
	}
}
