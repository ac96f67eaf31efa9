package gitlab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// Refresh reads only what changed and returns a Snapshot as a full reading would give, made from base, which stays
// as it is. It also reads what the changes lead to: below a deleted, archived or restored group everything, and
// groups and people nobody knew before. What GitLab says does not exist is gone; what could not be read is in
// Missing. Taken stays that of base, because most of the Snapshot is that old. So do the CI variables of projects that base
// has: no hook tells of them, and nobody's revocation is to wait for them.
//
// One thing that GitLab does not answer about delays no other: things are read side by side, people first, each within
// sourceTimeout, and what was not reached within refreshTimeout is in Missing, too. The error is for when nothing at
// all could be read: then the changes are still to be done.
func (r *Reader) Refresh(ctx context.Context, base *authz.Snapshot, changed []authz.SourceID) (*authz.Snapshot, error) {
	u := &update{
		successor: successorOf(base), absences: &r.absences, now: r.api.now, done: map[authz.SourceID]bool{}, read: map[authz.SourceID]bool{},
		below: map[authz.SourceID]bool{}, fromRow: map[int64]bool{},
	}
	f := &fetcher{
		api: r.api, graphQL: r.graphQL, links: r.links, absences: &r.absences, have: u, until: time.Now().Add(refreshTimeout),
		adminTurn: make(chan struct{}, 1),
	}
	for _, id := range changed {
		u.want(id)
	}
	var copying sync.WaitGroup // which takes milliseconds of a large GitLab, while it answers
	defer copying.Wait()
	var ours successor
	copying.Go(func() { ours = successorOf(base).copied(changed) })
	for first := true; len(u.queue) > 0; first = false {
		wave := u.queue
		u.queue = nil
		slices.SortFunc(wave, usersFirst)
		answers := f.fetch(ctx, wave)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("reading changes from GitLab: %w", ctx.Err())
		}
		if len(u.read) == 0 {
			if err := nothing(answers); err != nil {
				return nil, err
			}
		}
		if first {
			copying.Wait()
			u.successor = ours
		}
		u.takeAll(wave, answers)
	}
	u.finish(base, r.includeUsers)
	fresh := slices.DeleteFunc(u.projectsRead(), func(id int64) bool { _, known := base.Projects[id]; return known })
	ctx, cancel := urgently(ctx, variablesTimeout)
	defer cancel()
	r.graphQL.readVariables(ctx, fresh).putAll(u.s, fresh)
	u.s.Derived(base, u.replaced)
	return u.s, nil
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

// fetcher asks GitLab about single groups, projects and people, side by side. It changes nothing of the Snapshot.
type fetcher struct {
	api      *api
	graphQL  *graphQL
	links    *linkMemory
	absences *absences
	have     *update   // what is known so far
	until    time.Time // nothing is started after that

	adminTurn chan struct{}         // who asks whether the token is an administrator's holds it
	admin     *bool                 // the answer; guarded by adminTurn
	answered  atomic.Bool           // GitLab answered about something
	down      atomic.Pointer[error] // GitLab as a whole failed
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

// nothing returns an error when GitLab seems not to answer at all: one thing alone that is slow or refused says nothing about the
// rest.
func nothing(answers []fetched) error {
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

// fetch asks about all sources of a wave, some at the same time.
func (f *fetcher) fetch(ctx context.Context, wave []authz.SourceID) []fetched {
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
func (f *fetcher) askTogether(id int64) bool {
	_, known := f.have.account(id)
	return !f.absences.noted(authz.UserID(id)) && f.graphQL.usable() && (f.graphQL.server.Load() != nil || known)
}

// fetchUsers reads accounts by GraphQL, a hundred with one request. Who is not in its answer has to be asked for alone.
func (f *fetcher) fetchUsers(ctx context.Context, wave []authz.SourceID, which []int) map[int64]authz.User {
	ctx, cancel := urgently(ctx, min(sourceTimeout/3, time.Until(f.until)))
	defer cancel()
	all := map[int64]authz.User{}
	for chunk := range slices.Chunk(which, MaxStates) {
		ids := make([]int64, 0, len(chunk))
		for _, i := range chunk {
			ids = append(ids, wave[i].ID)
		}
		got, err := f.graphQL.users(ctx, ids)
		if err != nil {
			f.api.log.WarnContext(ctx, "reading accounts one by one, because GraphQL does not return them", "accounts", len(ids), "reason", err.Error())
			break
		}
		for id, u := range got {
			old, known := f.have.account(id)
			switch {
			case known: // as REST does it: what an account is does not change
				u.Human, u.CreatedAt = old.Human, firstTime(u.CreatedAt, old.CreatedAt)
			case f.graphQL.server.Load() == nil:
				continue
			}
			all[id] = u
		}
	}
	return all
}

// fetchOne asks about one source, within d.
func (f *fetcher) fetchOne(ctx context.Context, id authz.SourceID, d time.Duration) (out fetched) {
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

// ask reads one source, the members of a group or project beside what it is itself.
func (f *fetcher) ask(ctx context.Context, id authz.SourceID, out *fetched) error {
	if id.Kind == authz.UserSource {
		return f.askItself(ctx, id, out)
	}
	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() error { return f.askItself(ctx, id, out) })
	both.Go(func() (err error) {
		ctx, cancel := urgently(ctx, sourceTimeout)
		defer cancel()
		out.rows, err = f.api.members(ctx, id)
		return err
	})
	return both.Wait()
}

// askItself reads one source without its members.
func (f *fetcher) askItself(ctx context.Context, id authz.SourceID, out *fetched) (err error) {
	var old []authz.Link
	switch id.Kind {
	case authz.GroupSource:
		old = f.have.s.Groups[id.ID].Links
		if out.group, err = f.links.read(ctx, f.api, id.ID); err != nil {
			return err
		}
		out.links, err = linksLeft(out.group.Links, old)
	case authz.ProjectSource:
		old = f.have.s.Projects[id.ID].Links
		if out.project, err = f.api.project(ctx, id.ID); err != nil {
			return err
		}
		out.links, err = linksLeft(out.project.Links, old)
	case authz.UserSource:
		old, known := f.have.account(id.ID)
		out.user, err = f.api.user(ctx, id.ID, known, old.Human)
		return err
	default:
		return fmt.Errorf("source %s: unknown kind", id)
	}
	if err != nil {
		return err
	}
	return f.mayLose(ctx, old, out.links)
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

// confirm returns nil for a source for which GitLab answered 404, if it says so of the source itself when asked again: the
// first 404 may have been about its members alone, or an accident. GitLab says the same of what it hides, so this
// counts only while the token is an administrator's: a token that lost that would else make everything vanish. It has to say it
// twice at some distance in time (see absences), unless a hook says the same, or what it was in is gone by this rule.
func (f *fetcher) confirm(ctx context.Context, id authz.SourceID) error {
	var again struct {
		ID int64 `json:"id"`
	}
	if _, err := f.api.get(ctx, sourcePath(id), nil, &again); err == nil {
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
func (f *fetcher) isAdmin(ctx context.Context) (bool, error) {
	select {
	case f.adminTurn <- struct{}{}:
		defer func() { <-f.adminTurn }()
	case <-ctx.Done():
		return false, f.api.late(ctx, "asking whether the token is an administrator's", nil, ctx.Err())
	}
	if f.admin == nil {
		me, _, err := f.api.self(ctx)
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
func (f *fetcher) mayLose(ctx context.Context, old, now []authz.Link) error {
	for _, l := range old {
		if !f.have.s.Admin || slices.ContainsFunc(now, func(n authz.Link) bool { return n.Group == l.Group }) {
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
