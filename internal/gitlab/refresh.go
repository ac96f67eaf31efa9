package gitlab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// Refresh reads only what changed and returns a Snapshot as a full reading would give, made from base, which stays
// as it is. It also reads what the changes lead to: below a deleted, archived or restored group everything, and
// groups and people nobody knew before. What GitLab says does not exist is gone; what could not be read is in
// Missing. Taken stays that of base, because most of the Snapshot is that old.
//
// One thing that GitLab does not answer about delays no other: things are read side by side, people first, each within
// sourceTimeout, and what was not reached within refreshTimeout is in Missing, too. The error is for when nothing at
// all could be read: then the changes are still to be done.
func (r *Reader) Refresh(ctx context.Context, base *authz.Snapshot, changed []authz.SourceID) (*authz.Snapshot, error) {
	f := &refresh{
		r: r, s: copySnapshot(base), done: map[authz.SourceID]bool{}, below: map[authz.SourceID]bool{}, fromRow: map[int64]bool{},
		read: map[authz.SourceID]bool{}, until: time.Now().Add(refreshTimeout), adminTurn: make(chan struct{}, 1),
	}
	for _, id := range changed {
		f.want(id)
	}
	for len(f.queue) > 0 {
		wave := f.queue
		f.queue = nil
		slices.SortFunc(wave, usersFirst)
		answers := f.fetch(ctx, wave)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("reading changes from GitLab: %w", ctx.Err())
		}
		if err := f.nothing(answers); err != nil {
			return nil, err
		}
		for i, id := range wave {
			if err := f.take(id, answers[i]); err != nil {
				f.s.Missing[id] = err.Error()
				continue
			}
			f.read[id] = true
			delete(f.s.Missing, id)
			r.absences.forget(id)
		}
	}
	if !r.includeUsers {
		dropUnnamed(f.s)
	}
	for id := range f.fromRow { // it is not known to be a human or none: the next reading has to ask
		delete(f.s.Users, id)
	}
	markIncomplete(f.s)
	inheritFlags(f.s)
	vctx, cancel := urgently(ctx, variablesTimeout)
	defer cancel()
	f.r.readVariables(vctx, f.s, f.projectsRead())
	return f.s, nil
}

const (
	// refreshTimeout is when a targeted reading starts nothing more: a group that is no longer archived may lead to thousands of others.
	refreshTimeout = 2 * sourceTimeout
	// refreshConcurrency is how many things a targeted reading reads side by side.
	refreshConcurrency = 10
	// variablesTimeout is how long it waits for variables: without them nobody's rights are other.
	variablesTimeout = time.Second
)

// errNotReached is why something is missing that a targeted reading had no time for.
var errNotReached = errors.New("not read yet: the reading of what changed took too long to come to it")

type refresh struct {
	r         *Reader
	s         *authz.Snapshot
	until     time.Time // nothing is started after that
	queue     []authz.SourceID
	done      map[authz.SourceID]bool
	read      map[authz.SourceID]bool
	below     map[authz.SourceID]bool // what was in a group that is gone
	fromRow   map[int64]bool          // people only known from a row so far
	adminTurn chan struct{}           // who asks whether the token is an administrator's holds it
	admin     *bool                   // the answer; guarded by adminTurn
	answered  atomic.Bool             // GitLab answered about something
	down      atomic.Pointer[error]   // GitLab as a whole failed
}

// fetched is what GitLab says about one source.
type fetched struct {
	err     error
	absent  bool // GitLab says, asked again and to an administrator's token, that it does not exist
	group   restGroup
	project restProject
	links   []authz.Link
	rows    []memberRow
	user    authz.User
}

// usersFirst is the order in which sources are asked about and then taken.
func usersFirst(a, b authz.SourceID) int {
	if x, y := a.Kind == authz.UserSource, b.Kind == authz.UserSource; x != y {
		return map[bool]int{true: -1, false: 1}[x]
	}
	return a.Compare(b)
}

func (f *refresh) want(id authz.SourceID) {
	if id.ID > 0 && !f.done[id] {
		f.done[id] = true
		f.queue = append(f.queue, id)
	}
}

// nothing returns an error when nothing was read so far and GitLab seems not to answer at all: one thing alone that is slow or
// refused says nothing about the rest.
func (f *refresh) nothing(answers []fetched) error {
	if len(f.read) > 0 {
		return nil
	}
	var whole, last error
	for _, a := range answers {
		switch {
		case a.err != nil && global(a.err):
			whole = a.err
		case a.err == nil, !errors.Is(a.err, ErrBusy) && !errors.Is(a.err, ErrSlow) && !errors.Is(a.err, errNotReached):
			return nil
		}
		last = a.err
	}
	if whole == nil && len(answers) > 1 {
		return last
	}
	return whole
}

// fetch asks about all sources of a wave, some at the same time. It changes nothing of the Snapshot.
func (f *refresh) fetch(ctx context.Context, wave []authz.SourceID) []fetched {
	out := make([]fetched, len(wave))
	var wg sync.WaitGroup
	slots := make(chan struct{}, refreshConcurrency)
	one := func(i int, d time.Duration) {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			out[i] = f.fetchOne(ctx, wave[i], d)
		})
	}
	var many []int
	for i, id := range wave {
		if id.Kind == authz.UserSource && f.askTogether(id.ID) {
			many = append(many, i)
		}
	}
	if len(many) > 0 {
		wg.Go(func() {
			start := time.Now()
			users := f.fetchUsers(ctx, wave, many)
			for _, i := range many {
				if u, ok := users[wave[i].ID]; ok {
					out[i].user = u
					f.answered.Store(true)
					continue
				}
				one(i, sourceTimeout-time.Since(start))
			}
		})
	}
	for i := range wave {
		if !slices.Contains(many, i) {
			one(i, sourceTimeout)
		}
	}
	wg.Wait()
	return out
}

// askTogether reports whether GraphQL tells all that is to be known about an account. Of one that may be gone only REST's 404 is evidence.
func (f *refresh) askTogether(id int64) bool {
	_, known := f.s.Users[id]
	return !f.r.absences.noted(authz.UserID(id)) && f.r.graphQLUsable() && (f.r.server.Load() != nil || (known && !f.fromRow[id]))
}

// fetchUsers reads accounts by GraphQL, a hundred with one request. Who is not in its answer has to be asked for alone.
func (f *refresh) fetchUsers(ctx context.Context, wave []authz.SourceID, which []int) map[int64]authz.User {
	ctx, cancel := urgently(ctx, min(sourceTimeout/3, time.Until(f.until)))
	defer cancel()
	all := map[int64]authz.User{}
	for chunk := range slices.Chunk(which, MaxStates) {
		ids := make([]int64, 0, len(chunk))
		for _, i := range chunk {
			ids = append(ids, wave[i].ID)
		}
		got, err := f.r.usersTogether(ctx, ids)
		if err != nil {
			f.r.api.log.WarnContext(ctx, "reading accounts one by one, because GraphQL does not return them", "accounts", len(ids), "reason", err.Error())
			break
		}
		for id, u := range got {
			old, known := f.s.Users[id]
			known = known && !f.fromRow[id]
			switch {
			case known: // as REST does it: what an account is does not change
				u.Human, u.CreatedAt = old.Human, firstTime(u.CreatedAt, old.CreatedAt)
			case f.r.server.Load() == nil:
				continue
			}
			all[id] = u
		}
	}
	return all
}

// fetchOne asks about one source, within d.
func (f *refresh) fetchOne(ctx context.Context, id authz.SourceID, d time.Duration) (out fetched) {
	if err := f.down.Load(); err != nil && !f.answered.Load() {
		return fetched{err: *err}
	}
	if time.Now().After(f.until) {
		return fetched{err: errNotReached}
	}
	ctx, cancel := urgently(ctx, d)
	defer cancel()
	out.err = f.ask(ctx, id, &out)
	if errors.Is(out.err, errAbsent) {
		out.err = f.confirm(ctx, id)
		out.absent = out.err == nil
	}
	switch {
	case out.err == nil:
		f.answered.Store(true)
	case global(out.err):
		f.down.Store(&out.err)
	}
	return out
}

// ask reads one source.
func (f *refresh) ask(ctx context.Context, id authz.SourceID, out *fetched) (err error) {
	a := f.r.api
	var old []authz.Link
	switch id.Kind {
	case authz.GroupSource:
		old = f.s.Groups[id.ID].Links
		if out.group, err = f.r.group(ctx, id.ID); err != nil {
			return err
		}
		out.links, err = linksLeft(out.group.Links, old)
	case authz.ProjectSource:
		old = f.s.Projects[id.ID].Links
		if out.project, err = a.project(ctx, id.ID); err != nil {
			return err
		}
		out.links, err = linksLeft(out.project.Links, old)
	case authz.UserSource:
		old, ok := f.s.Users[id.ID]
		out.user, err = a.user(ctx, id.ID, ok && !f.fromRow[id.ID], old.Human)
		return err
	default:
		return fmt.Errorf("source %s: unknown kind", id)
	}
	if err != nil {
		return err
	}
	if err := f.mayLose(ctx, old, out.links); err != nil {
		return err
	}
	out.rows, err = a.members(ctx, id)
	return err
}

// linksLeft returns the links of an answer. One without any is no answer where there were some.
func linksLeft(now *[]restLink, old []authz.Link) ([]authz.Link, error) {
	switch {
	case now != nil:
		return links(*now)
	case len(old) > 0:
		return nil, errNoLinks
	}
	return nil, nil
}

// take puts what was read about a source into the copy.
func (f *refresh) take(id authz.SourceID, in fetched) error {
	if in.err != nil {
		return in.err
	}
	if in.absent {
		if wait := f.r.absences.wait(id, f.r.api.now()); wait > 0 && !f.below[id] {
			return fmt.Errorf("GitLab says that %s does not exist: it is asked once more in %s, when an accident may be over", id, wait)
		}
		f.gone(id)
		return nil
	}
	switch id.Kind {
	case authz.GroupSource:
		g := in.group.group()
		if err := f.places().findParent(&g); err != nil {
			return err
		}
		g.Links, g.Members = in.links, mergeMembers(in.rows)
		f.putGroup(g)
		f.takeRows(in.rows)
	case authz.ProjectSource:
		p, err := in.project.project(f.places())
		if err != nil {
			return err
		}
		p.Members = mergeMembers(in.rows)
		f.s.Projects[id.ID] = p
		f.wantGroup(p.Group)
		f.wantLinks(p.Links)
		if _, ok := f.s.Users[p.Owner]; !ok {
			f.want(authz.UserID(p.Owner))
		}
		f.takeRows(in.rows)
	case authz.UserSource:
		delete(f.fromRow, id.ID)
		f.putUser(in.user)
	}
	return nil
}

// confirm returns nil for a source for which GitLab answered 404, if it says so of the source itself when asked again: the
// first 404 may have been about its members alone, or an accident. GitLab says the same of what it hides, so this
// counts only while the token is an administrator's: a token that lost that would else make everything vanish. It has to say it
// twice at some distance in time (see absences), unless a hook says the same, or what it was in is gone by this rule.
func (f *refresh) confirm(ctx context.Context, id authz.SourceID) error {
	var again struct {
		ID int64 `json:"id"`
	}
	if _, err := f.r.api.get(ctx, sourcePath(id), nil, &again); err == nil {
		return fmt.Errorf("reading %s: GitLab answered 404 for a part of it, and then for the whole that it is there; the next full reading shows which", id)
	} else if !errors.Is(err, errAbsent) {
		return err
	}
	if admin, err := f.isAdmin(ctx); err != nil {
		return err
	} else if !admin {
		return fmt.Errorf("GitLab does not show %s: it may be deleted, or hidden from our token, which is not an administrator's; the next full reading shows which", id)
	}
	return nil
}

// isAdmin reports whether the token is an administrator's. GitLab is asked until it has answered once.
func (f *refresh) isAdmin(ctx context.Context) (bool, error) {
	select {
	case f.adminTurn <- struct{}{}:
		defer func() { <-f.adminTurn }()
	case <-ctx.Done():
		return false, f.r.api.late(ctx, "asking whether the token is an administrator's", nil, ctx.Err())
	}
	if f.admin == nil {
		me, _, err := f.r.api.self(ctx)
		if err != nil {
			return false, err
		}
		admin := me.IsAdmin != nil && *me.IsAdmin
		f.admin = &admin
	}
	return *f.admin, nil
}

// mayLose returns an error when an invitation of a group is not shown any more by a token that is not an administrator's
// and was one: GitLab hides private groups from it.
func (f *refresh) mayLose(ctx context.Context, old, now []authz.Link) error {
	for _, l := range old {
		if !f.s.Admin || slices.ContainsFunc(now, func(n authz.Link) bool { return n.Group == l.Group }) {
			continue
		}
		if admin, err := f.isAdmin(ctx); err != nil {
			return err
		} else if !admin {
			return errors.New(authz.DemotedToken)
		}
	}
	return nil
}

// gone removes a source.
func (f *refresh) gone(id authz.SourceID) {
	switch id.Kind {
	case authz.GroupSource:
		delete(f.s.Groups, id.ID)
		for _, below := range f.wantBelow(id.ID) {
			f.below[below] = true
		}
		for gid, g := range f.s.Groups {
			if kept, cut := withoutLink(g.Links, id.ID); cut {
				g.Links = kept
				f.s.Groups[gid] = g
			}
		}
		for pid, p := range f.s.Projects {
			if kept, cut := withoutLink(p.Links, id.ID); cut {
				p.Links = kept
				f.s.Projects[pid] = p
			}
		}
	case authz.ProjectSource:
		delete(f.s.Projects, id.ID)
	case authz.UserSource:
		delete(f.s.Users, id.ID)
		for gid, g := range f.s.Groups {
			if kept, cut := withoutMember(g.Members, id.ID); cut {
				g.Members = kept
				f.s.Groups[gid] = g
			}
		}
		for pid, p := range f.s.Projects {
			if kept, cut := withoutMember(p.Members, id.ID); cut {
				p.Members = kept
				f.s.Projects[pid] = p
			}
			if p.Owner == id.ID {
				f.want(authz.ProjectID(pid))
			}
		}
	}
}

// putGroup stores a group. Its path is part of the paths below it; its flags say something about all below it,
// which must be read again when a flag was taken back, because the Snapshot keeps only the sum.
func (f *refresh) putGroup(g authz.Group) {
	old, known := f.s.Groups[g.ID]
	f.s.Groups[g.ID] = g
	f.wantGroup(g.Parent)
	f.wantLinks(g.Links)
	if !known {
		return
	}
	parent := f.s.Groups[g.Parent]
	if (old.Archived && !g.Archived && !parent.Archived) || (old.MarkedForDeletion && !g.MarkedForDeletion && !parent.MarkedForDeletion) ||
		old.Parent != g.Parent || old.ShareLock != g.ShareLock { // GitLab copies the lock to subgroups
		f.wantBelow(g.ID)
	}
	if old.Path != g.Path {
		f.movePaths(g, old.Path)
	}
}

// movePaths renames everything below a group that had the path from, which may be another group's by now.
func (f *refresh) movePaths(moved authz.Group, from string) {
	if from == "" {
		return
	}
	top := authz.GroupID(moved.ID)
	for id, g := range f.s.Groups {
		if rest, ok := strings.CutPrefix(g.Path, from+"/"); ok && f.s.Within(authz.GroupID(id), top) {
			g.Path = moved.Path + "/" + rest
			f.s.Groups[id] = g
		}
	}
	for id, p := range f.s.Projects {
		if rest, ok := strings.CutPrefix(p.Path, from+"/"); ok && f.s.Within(authz.ProjectID(id), top) {
			p.Path = moved.Path + "/" + rest
			f.s.Projects[id] = p
		}
	}
}

func (f *refresh) putUser(u authz.User) {
	old, known := f.s.Users[u.ID]
	f.s.Users[u.ID] = u
	if known && old.Username != u.Username {
		for id, p := range f.s.Projects {
			if rest, ok := strings.CutPrefix(p.Path, old.Username+"/"); ok && p.Owner == u.ID {
				p.Path = u.Username + "/" + rest
				f.s.Projects[id] = p
			}
		}
	}
}

// takeRows learns about people from their rows. Whether a new one is a human only their own record says.
func (f *refresh) takeRows(rows []memberRow) {
	for _, row := range rows {
		u, ok := f.s.Users[row.User]
		if !ok {
			f.s.Users[row.User] = row.user // stays without rights until it is known to be a human
			f.fromRow[row.User] = true
			f.want(authz.UserID(row.User))
			continue
		}
		if f.read[authz.UserID(row.User)] { // they were asked about themselves
			continue
		}
		if row.user.Name != "" {
			u.Name = row.user.Name
		}
		if row.user.State != "" {
			u.State = row.user.State
		}
		if row.user.Username != "" && u.Username != row.user.Username {
			u.Username = row.user.Username
			f.want(authz.UserID(row.User))
		}
		f.putUser(u)
	}
}

func (f *refresh) wantGroup(id int64) {
	if _, ok := f.s.Groups[id]; !ok {
		f.want(authz.GroupID(id))
	}
}

func (f *refresh) wantLinks(ls []authz.Link) {
	for _, l := range ls {
		f.wantGroup(l.Group)
	}
}

// wantBelow reads all subgroups and projects of a group again, and returns them.
func (f *refresh) wantBelow(id int64) (all []authz.SourceID) {
	below := map[int64]bool{id: true}
	for grew := true; grew; {
		grew = false
		for gid, g := range f.s.Groups {
			if below[g.Parent] && !below[gid] {
				below[gid], grew = true, true
				all = append(all, authz.GroupID(gid))
			}
		}
	}
	for pid, p := range f.s.Projects {
		if below[p.Group] {
			all = append(all, authz.ProjectID(pid))
		}
	}
	for _, id := range all {
		f.want(id)
	}
	return all
}

func (f *refresh) places() places {
	return places{
		group: func(path string) int64 {
			for id, g := range f.s.Groups {
				if strings.EqualFold(g.Path, path) {
					return id
				}
			}
			return 0
		},
		user: func(path string) int64 {
			for id, u := range f.s.Users {
				if strings.EqualFold(u.Username, path) {
					return id
				}
			}
			return 0
		},
	}
}

func withoutLink(in []authz.Link, group int64) ([]authz.Link, bool) {
	if !slices.ContainsFunc(in, func(l authz.Link) bool { return l.Group == group }) {
		return in, false
	}
	out := slices.DeleteFunc(slices.Clone(in), func(l authz.Link) bool { return l.Group == group })
	if len(out) == 0 {
		return nil, true
	}
	return out, true
}

func withoutMember(in []authz.Member, user int64) ([]authz.Member, bool) {
	if !slices.ContainsFunc(in, func(m authz.Member) bool { return m.User == user }) {
		return in, false
	}
	out := slices.DeleteFunc(slices.Clone(in), func(m authz.Member) bool { return m.User == user })
	if len(out) == 0 {
		return nil, true
	}
	return out, true
}

// copySnapshot copies the maps. Rows and links are shared with base and replaced as a whole, never changed.
func copySnapshot(base *authz.Snapshot) *authz.Snapshot {
	s := *base
	s.Users, s.Groups, s.Projects, s.Missing = maps.Clone(base.Users), maps.Clone(base.Groups), maps.Clone(base.Projects), maps.Clone(base.Missing)
	if s.Users == nil {
		s.Users = map[int64]authz.User{}
	}
	if s.Groups == nil {
		s.Groups = map[int64]authz.Group{}
	}
	if s.Projects == nil {
		s.Projects = map[int64]authz.Project{}
	}
	if s.Missing == nil {
		s.Missing = map[authz.SourceID]string{}
	}
	return &s
}

// dropUnnamed removes people whom no row and no personal project names.
func dropUnnamed(s *authz.Snapshot) {
	named := map[int64]bool{}
	for _, g := range s.Groups {
		for _, m := range g.Members {
			named[m.User] = true
		}
	}
	for _, p := range s.Projects {
		named[p.Owner] = true
		for _, m := range p.Members {
			named[m.User] = true
		}
	}
	maps.DeleteFunc(s.Users, func(id int64, _ authz.User) bool { return !named[id] })
}

func firstTime(a, b time.Time) time.Time {
	if a.IsZero() {
		return b
	}
	return a
}
