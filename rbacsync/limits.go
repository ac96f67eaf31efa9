package rbacsync

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// Limits are the brakes: they hold back what looks like a mistake of GitLab or of this program until somebody has
// looked. The rules of revocations:
//
//   - Only what is inferred from absence in a list counts. What GitLab said is never held: an account that is not
//     active, a lower level or an expiry in the row, a destroyed group (404), a membership GitLab denies when asked.
//   - It is counted by root cause: the person who is missing somewhere, the group or project that is missing, or the
//     one whose invitation of a group is missing. A person removed from a group over a hundred projects is one.
//   - It is counted per top-level group, and overall; within a window, so that a mistake that comes in drips counts.
//   - A top-level group over its limit is held as a whole. Over the overall limit, the older top-level groups go on:
//     whoever makes new groups to fill the limit is held himself.
//   - What is approved goes on and does not count.
//
// What a change of the policy takes is counted by itself: see policyChange. It is held as a whole, and approved as a whole.
//
// New namespaces are counted per person: see creations.
type Limits struct {
	PerGroup Limit
	Overall  Limit
	Policy   Limit         // people, groups and projects that may lose something by a change of the policy
	Window   time.Duration // default 1 hour
	// Creations is how many namespaces one person may have made per hour; 0: no limit.
	Creations int
	// Exempt are people whose groups and projects are not counted.
	Exempt []int64
}

// Limit is how many root causes may go on: the larger of the two. The zero Limit lets everything pass.
type Limit struct {
	Causes   int
	Fraction float64 // of the namespaces and of the people with rights, together
}

func (l Limit) off() bool { return l.Causes <= 0 && l.Fraction <= 0 }

// DefaultLimits are those of a new installation.
func DefaultLimits() Limits {
	return Limits{
		PerGroup: Limit{Causes: 10, Fraction: 0.1}, Overall: Limit{Causes: 50, Fraction: 0.02}, Policy: Limit{Causes: 10},
		Window: time.Hour, Creations: 20,
	}
}

// Membership names a person in a source.
type Membership struct {
	Source authz.SourceID
	User   int64
}

// Evidence is what Split judges by.
type Evidence struct {
	Snapshot *authz.Snapshot // what the plan was made from
	// Before is the last Snapshot that the whole cluster agreed with; nil when it is not known. It tells which row a
	// right came from.
	Before *authz.Snapshot
	Policy authz.Policy
	// Was is the last Policy that the whole cluster agreed with; nil when it is not known.
	Was *authz.Policy
	// Gone holds the sources that are missing in GitLab's lists and that GitLab was asked about: true for 404.
	Gone map[authz.SourceID]bool
	// Levels holds what GitLab answered about single memberships: 0 for 404.
	Levels   map[Membership]authz.Level
	Past     []Past
	Approved map[string]bool // Item.Key
	// Outside holds what is held already where the plan is not about, when it is only about a part: it counts, and stays.
	Outside []Item
	// Size returns how many namespaces and people with rights, together, are in a top-level group (zero: in all), when
	// the plan is only about a part of them; nil: everything is in the plan.
	Size func(scope authz.SourceID) int
}

// Past is something that was let through because it was within its limit, for counting it in the window.
type Past struct {
	At    time.Time
	Scope authz.SourceID // the top-level group; of a creation, the person; zero: a change of the policy
	Cause authz.SourceID // of a creation, the source
	Made  bool           // a creation
}

// Item is one held right or namespace.
type Item struct {
	Source authz.SourceID
	Role   string // "" for a namespace that is not made yet
	User   int64  // 0: the CI of the namespace
	Cause  authz.SourceID
	Scope  authz.SourceID // zero: a change of the policy takes it
	Change string         // of the policy, by its content; "" if it is not the reason
	Ask    Membership     // what GitLab could be asked to settle it; zero: nothing
	Path   string         // of Source, for people
	Name   string         // of User, for people
	Why    string
}

// Key names what is held, whatever the reason: it is what an approval is about. All that one change of the policy takes
// has one key.
func (i Item) Key() string {
	switch {
	case i.Change != "":
		return "policy " + i.Change
	case i.Role == "":
		return "create " + i.Source.String()
	}
	return fmt.Sprintf("revoke %s %s %d", i.Source, i.Role, i.User)
}

// Verdict is what Split decided.
type Verdict struct {
	// Want is what may be made so: what was wanted, with what is held as it is in the cluster.
	Want   *Wanted
	Held   []Item          // sorted by Scope, Cause, Key
	Wanted map[string]bool // the keys of all that could be held: what is not among them needs no approval any more
	// Approved holds, of what goes on because it was approved, the sources and the roles that somebody loses there ("" for
	// a namespace that is made).
	Approved map[Approval]bool
	Passed   []Past // what counts from now on, once it was applied
}

// Approval names what an approval lets go on in a source.
type Approval struct {
	Source authz.SourceID
	Role   string
}

// Split divides a plan into what may be applied and what is held, and returns the first as a Wanted to plan again.
// It is pure and changes none of its arguments.
func (l Limits) Split(changes []Change, want *Wanted, e Evidence, now time.Time) Verdict {
	s := splitter{
		limits: l, want: want, e: e, now: now, v: Verdict{Wanted: map[string]bool{}, Approved: map[Approval]bool{}},
		lookups: map[lookupKey]authz.Members{},
		at:      authz.NewResolver(e.Snapshot, now),
	}
	if e.Before != nil {
		s.before, s.ever = authz.NewResolver(e.Before, now), authz.NewResolver(e.Before, time.Time{})
	}
	if s.limits.Window <= 0 {
		s.limits.Window = time.Hour
	}
	held := s.over(s.inferred(changes))
	wait := s.creations(changes)
	s.v.Want = s.hold(changes, held, wait)
	s.v.Held = append(s.v.Held, e.Outside...)
	slices.SortFunc(s.v.Held, func(a, b Item) int {
		return cmp.Or(a.Scope.Compare(b.Scope), a.Cause.Compare(b.Cause), cmp.Compare(a.Key(), b.Key()), a.Source.Compare(b.Source), cmp.Compare(a.Role, b.Role))
	})
	return s.v
}

type lookupKey struct {
	which int
	id    authz.SourceID
}

type splitter struct {
	limits  Limits
	want    *Wanted
	e       Evidence
	now     time.Time
	v       Verdict
	at      *authz.Resolver // the Snapshot, now
	before  *authz.Resolver // the one before, with what has expired until now
	ever    *authz.Resolver // the one before, as if nothing had expired
	lookups map[lookupKey]authz.Members
	change  policyChange
}

// access returns what a person has in a source: which 0 now, 1 before, 2 before and regardless of expiry.
func (s *splitter) access(which int, id authz.SourceID, user int64) (authz.Access, bool) {
	k := lookupKey{which, id}
	m, ok := s.lookups[k]
	if !ok {
		m = [3]*authz.Resolver{s.at, s.before, s.ever}[which].Members(id)
		s.lookups[k] = m
	}
	return m.Access(user)
}

// lost returns the users, and whether other subjects, lose the binding's role by a change.
func (s *splitter) lost(c Change) (users []int64, others bool) {
	if c.Action != Update || c.Old == nil || c.Old.Binding == nil || !c.Revokes {
		return nil, false // a wrong role is replaced as a whole: nothing is inferred there
	}
	_, gone := diff(c.Old.Binding.Users, c.New.Binding.Users)
	all := s.want.Inside(c.Key.Namespace)
	for _, u := range gone {
		if !elsewhere(all, c.Old.Binding.Role, u) {
			users = append(users, u)
		}
	}
	for _, o := range c.Old.Binding.Others {
		others = others || !slices.Contains(c.New.Binding.Others, o)
	}
	return users, others
}

// Inside returns the objects of one namespace.
func (w *Wanted) Inside(ns string) []Object {
	compare := func(o Object, ns string) int { return cmp.Compare(o.Key.Namespace, ns) }
	from, _ := slices.BinarySearchFunc(w.Objects, ns, compare)
	to := from
	for to < len(w.Objects) && w.Objects[to].Key.Namespace == ns {
		to++
	}
	return w.Objects[from:to]
}

// inferred lists the revocations that nothing but an absence speaks for, and those that a change of the policy makes.
func (s *splitter) inferred(changes []Change) []Item {
	var items []Item
	seen := map[Right]bool{}
	s.change = s.policyChange(changes)
	for _, c := range changes {
		users, others := s.lost(c)
		if others {
			users = append(users, 0) // its CI
		}
		for _, u := range users {
			i := Item{Source: c.Source, Role: c.Old.Binding.Role, User: u, Path: s.path(c.Source), Name: s.e.Snapshot.Users[u].Username}
			if i.Name == "" && s.e.Before != nil {
				i.Name = s.e.Before.Users[u].Username
			}
			if s.change.takes(i.right()) {
				i.Change, i.Cause = s.change.id, c.Source
				if u != 0 {
					i.Cause = authz.Person(u)
				}
			} else {
				if u == 0 && s.e.Snapshot.Contains(c.Source) {
					continue // another way to get credentials
				}
				var inferred bool
				if i.Cause, i.Ask, inferred = s.judge(c.Source, i.Role, u); !inferred {
					continue
				}
				i.Scope = s.scope(c.Source)
			}
			s.v.Wanted[i.Key()] = true
			if s.e.Approved[i.Key()] {
				s.v.Approved[Approval{i.Source, i.Role}] = true
				continue
			}
			if seen[i.right()] {
				continue
			}
			seen[i.right()] = true
			items = append(items, i)
		}
	}
	return items
}

// judge looks for the reason why a person (0: the CI) has no longer a role in a source. inferred is false when GitLab
// or the configuration said so; else cause is what is missing in GitLab's lists.
func (s *splitter) judge(id authz.SourceID, role string, user int64) (cause authz.SourceID, ask Membership, inferred bool) {
	snap, before := s.e.Snapshot, s.e.Before
	person := authz.Person(user)
	if u, ok := snap.Users[user]; user != 0 && (ok && !s.e.Policy.MayHaveRights(u) || s.e.Gone[person]) {
		return person, ask, false
	}
	if !snap.Contains(id) {
		cause = s.missing(id)
		return cause, ask, !s.e.Gone[id] && !s.e.Gone[cause]
	}
	if _, has := s.want.Paths[id]; !has || user == 0 {
		return id, ask, false // the configuration gives it no namespace
	}
	ask = Membership{id, user}
	gives := func(l authz.Level) bool { return s.e.Policy.RoleIn(snap, id, l) == role }
	have, _ := s.access(0, id, user)
	if _, listed := snap.Users[user]; !listed {
		return person, ask, !s.answered(ask, func(l authz.Level) bool { return l == 0 })
	}
	if gives(have.Level) {
		return person, ask, false // he has the right still: this binding is a copy, or was changed by hand
	}
	if before == nil {
		ask = s.askable(ask)
		return person, ask, !s.answered(ask, func(l authz.Level) bool { return !gives(l) })
	}
	places := []authz.SourceID{id}
	for _, g := range s.e.Policy.ExtraGroups(snap, id, role) {
		places = append(places, authz.Group(g))
	}
	known := false
	for _, place := range places {
		had, ok := s.access(1, place, user)
		_, ever := s.access(2, place, user)
		known = known || ok || ever
		if have, _ := s.access(0, place, user); have.Level >= had.Level {
			continue // the level is there still: the policy gives less for it, or the source is archived; or it expired
		}
		cause, where, missing := s.row(place, had)
		at := Membership{where, user}
		if where == (authz.SourceID{}) {
			at = Membership{}
		}
		if missing && !s.answered(at, func(l authz.Level) bool { return l < had.Level }) {
			return cause, at, true
		}
	}
	if known {
		return person, ask, false
	}
	ask = s.askable(ask)
	return person, ask, !s.answered(ask, func(l authz.Level) bool { return !gives(l) })
}

// askable drops the question about a project that groups are invited into, when it is not known where a right came
// from: GitLab's 404 says nothing about who comes second-hand.
func (s *splitter) askable(m Membership) Membership {
	if m.Source.Kind == authz.ProjectSource && len(s.e.Snapshot.Projects[m.Source.ID].Links) > 0 {
		return Membership{}
	}
	return m
}

// answered reports whether GitLab was asked about the membership, and its answer passes.
func (s *splitter) answered(m Membership, passes func(authz.Level) bool) bool {
	l, ok := s.e.Levels[m]
	return ok && m != (Membership{}) && passes(l)
}

// row looks in GitLab's present rows for the one that gave a level before.
func (s *splitter) row(id authz.SourceID, had authz.Access) (cause, where authz.SourceID, inferred bool) {
	snap, why, person := s.e.Snapshot, had.Why, authz.Person(had.User)
	if why.Via == 0 {
		if !snap.Within(id, why.Row) {
			return person, why.Row, false // moved away from where the row is
		}
		_, listed := rowOf(snap, why.Row, had.User)
		return person, why.Row, !listed
	}
	if !snap.Within(id, why.Target) || (why.Target.Kind == authz.ProjectSource && snap.Groups[snap.Projects[why.Target.ID].Group].ShareLock) {
		return why.Target, why.Target, false
	}
	if l, ok := linkOf(snap, why.Target, why.Via); !ok {
		if !s.e.Before.Within(authz.Group(why.Via), why.Row) {
			where = authz.SourceID{} // no list of GitLab shows who comes second-hand (docs/adr/0010): asking proves nothing
		} else {
			where = why.Target
		}
		return why.Target, where, true
	} else if old, had := linkOf(s.e.Before, why.Target, why.Via); had && (l.Level < old.Level || l.Expires.Over(s.now)) {
		return why.Target, why.Target, false
	}
	_, listed := rowOf(snap, why.Row, had.User)
	return person, why.Row, !listed
}

func rowOf(s *authz.Snapshot, id authz.SourceID, user int64) (authz.Member, bool) {
	var rows []authz.Member
	switch id.Kind {
	case authz.GroupSource:
		rows = s.Groups[id.ID].Members
	case authz.ProjectSource:
		rows = s.Projects[id.ID].Members
	case authz.UserSource: // the owner of a personal project: no row, the place says it
		return authz.Member{}, true
	}
	i := slices.IndexFunc(rows, func(m authz.Member) bool { return m.User == user })
	if i < 0 {
		return authz.Member{}, false
	}
	return rows[i], true
}

func linkOf(s *authz.Snapshot, target authz.SourceID, group int64) (authz.Link, bool) {
	links := s.Groups[target.ID].Links
	if target.Kind == authz.ProjectSource {
		links = s.Projects[target.ID].Links
	}
	i := slices.IndexFunc(links, func(l authz.Link) bool { return l.Group == group })
	if i < 0 {
		return authz.Link{}, false
	}
	return links[i], true
}

// missing returns the topmost thing that is missing with a source: a group takes what is below it along.
func (s *splitter) missing(id authz.SourceID) authz.SourceID {
	return missingTop(s.e.Before, s.e.Snapshot, id)
}

func missingTop(before, now *authz.Snapshot, id authz.SourceID) authz.SourceID {
	if before == nil {
		return id
	}
	for {
		parent, ok := before.Parent(id)
		if !ok || now.Contains(parent) {
			return id
		}
		id = parent
	}
}

func (s *splitter) scope(id authz.SourceID) authz.SourceID {
	if !s.e.Snapshot.Contains(id) && s.e.Before != nil {
		return s.e.Before.Top(id)
	}
	return s.e.Snapshot.Top(id)
}

func (s *splitter) path(id authz.SourceID) string {
	path, ok := s.e.Snapshot.Path(id)
	if !ok && s.e.Before != nil {
		path, _ = s.e.Before.Path(id)
	}
	return path
}

// over applies the limits to what is inferred. It returns what is held.
func (s *splitter) over(items []Item) map[Right]bool {
	causes := map[authz.SourceID]map[authz.SourceID]bool{} // scope to its causes, those of the window included
	past := map[authz.SourceID]bool{}
	add := func(scope, cause authz.SourceID) {
		if causes[scope] == nil {
			causes[scope] = map[authz.SourceID]bool{}
		}
		causes[scope][cause] = true
	}
	var now []authz.SourceID // scopes with something in this plan
	for _, i := range items {
		if causes[i.Scope] == nil {
			now = append(now, i.Scope)
		}
		add(i.Scope, i.Cause)
	}
	for _, p := range s.e.Past {
		if !p.Made && s.now.Sub(p.At) < s.limits.Window {
			past[p.Cause] = past[p.Cause] || p.Scope.ID != 0
			add(p.Scope, p.Cause)
		}
	}
	why := map[authz.SourceID]string{}
	for _, i := range s.e.Outside { // a group is held as a whole
		if i.Role != "" && causes[i.Scope] != nil {
			add(i.Scope, i.Cause)
			why[i.Scope] = i.Why
		}
	}
	// The oldest first: what somebody made to fill the overall limit comes last.
	slices.SortFunc(now, func(a, b authz.SourceID) int { return cmp.Or(cmp.Compare(a.ID, b.ID), a.Compare(b)) })
	overall := maps.Clone(past)
	maps.DeleteFunc(overall, func(_ authz.SourceID, counts bool) bool { return !counts })
	for _, scope := range now {
		n := len(causes[scope])
		if scope.ID == 0 {
			if allowed := s.allowed(s.limits.Policy, scope, n); n > allowed {
				why[scope] = fmt.Sprintf("its change takes rights from %d people, groups or projects, the limit is %d", n, allowed)
			}
			continue
		}
		if allowed := s.allowed(s.limits.PerGroup, scope, n); n > allowed {
			why[scope] = fmt.Sprintf("%d people, groups or projects are missing in it within %s, the limit is %d", n, s.limits.Window, allowed)
		}
		if why[scope] != "" {
			continue
		}
		with := maps.Clone(overall)
		maps.Copy(with, causes[scope])
		if allowed := s.allowed(s.limits.Overall, authz.SourceID{}, len(with)); len(with) > allowed {
			why[scope] = fmt.Sprintf("%d people, groups or projects are missing in all of GitLab within %s, the limit is %d", len(with), s.limits.Window, allowed)
			continue
		}
		overall = with
	}
	held := map[Right]bool{}
	noted := map[Past]bool{}
	for _, i := range items {
		if i.Why = why[i.Scope]; i.Why != "" {
			held[i.right()] = true
			s.v.Held = append(s.v.Held, i)
			continue
		}
		if p := (Past{At: s.now, Scope: i.Scope, Cause: i.Cause}); !noted[p] {
			noted[p] = true
			s.v.Passed = append(s.v.Passed, p)
		}
	}
	return held
}

// allowed returns how many causes a limit lets through. The size is only counted where it matters.
func (s *splitter) allowed(l Limit, scope authz.SourceID, n int) int {
	if l.off() {
		return n
	}
	if n <= l.Causes || l.Fraction <= 0 {
		return l.Causes
	}
	size := s.e.Size
	if size == nil {
		size = func(scope authz.SourceID) int {
			all := func(yield func([]Object) bool) { yield(s.want.Objects) }
			return SizeOf(all, func(id authz.SourceID) bool { return scope.ID == 0 || s.scope(id) == scope })
		}
	}
	return max(l.Causes, int(l.Fraction*float64(size(scope))))
}

// SizeOf counts the namespaces of the sources that are in it, and the people with rights there, each once. The objects
// of a namespace follow it.
func SizeOf(lists iter.Seq[[]Object], in func(authz.SourceID) bool) int {
	people := map[int64]bool{}
	spaces := 0
	for list := range lists {
		here := false
		for i := range list {
			o := &list[i]
			if o.Space != nil {
				if here = in(o.Space.Source); here {
					spaces++
				}
			}
			if here && o.Binding != nil {
				for _, u := range o.Binding.Users {
					people[u] = true
				}
			}
		}
	}
	return spaces + len(people)
}

// hold returns what is wanted with what is held left as it is.
func (s *splitter) hold(changes []Change, held map[Right]bool, wait map[authz.SourceID]bool) *Wanted {
	if len(held)+len(wait) == 0 {
		return s.want
	}
	w := *s.want
	w.Keep = map[authz.SourceID]bool{}
	var kept []Object
	replaced := map[Key]bool{}
	for _, c := range changes {
		users, others := s.lost(c)
		if len(users) == 0 && !others {
			continue
		}
		role := c.Old.Binding.Role
		users = slices.DeleteFunc(users, func(u int64) bool { return !held[Right{c.Source, role, u}] })
		others = others && held[Right{c.Source, role, 0}]
		if len(users) == 0 && !others {
			continue
		}
		if _, wanted := s.want.Paths[c.Source]; !wanted {
			w.Keep[c.Source] = true
		}
		b := Binding{Role: role, Others: c.New.Binding.Others}
		b.Users = slices.Sorted(slices.Values(append(users, c.New.Binding.Users...)))
		b.Members = memberNames(b.Users, s.want.Users)
		if others {
			b.Others = c.Old.Binding.Others
		}
		if slices.Equal(b.Users, c.Old.Binding.Users) {
			b.Members = c.Old.Binding.Members // no write for a name alone
		}
		kept = append(kept, Object{Key: c.Key, Binding: &b})
		replaced[c.Key] = true
	}
	waiting := map[string]bool{}
	for _, c := range changes {
		if wait[c.Source] && c.Action == Create {
			waiting[c.Key.Namespace] = true
		}
	}
	w.Objects = make([]Object, 0, len(s.want.Objects)+len(kept))
	for _, o := range s.want.Objects {
		if !replaced[o.Key] && !waiting[o.Key.Namespace] {
			w.Objects = append(w.Objects, o)
		}
	}
	w.Objects = append(w.Objects, kept...)
	slices.SortFunc(w.Objects, func(a, b Object) int { return a.Key.Compare(b.Key) })
	return &w
}

// CreationMemory is how far back creations are counted when the queue of a person is long.
const CreationMemory = 7 * 24 * time.Hour

// creations returns the sources whose namespaces have to wait. Each person's sources get their turn in the order in
// which GitLab made them, at most Creations in an hour. A source belongs to the one of its owners who owns most of
// what is new (of several, to the newest account): owners can add anybody as another owner, so a rule that looked
// at all of them would let somebody use up the turns of others, or hide behind them.
func (s *splitter) creations(changes []Change) map[authz.SourceID]bool {
	wait := map[authz.SourceID]bool{}
	if s.limits.Creations <= 0 {
		return wait
	}
	fresh := func(t time.Time) bool { return !t.IsZero() && s.now.Sub(t) < CreationMemory }
	created := map[authz.SourceID]time.Time{}
	asked := map[authz.SourceID]bool{}
	for id, g := range s.e.Snapshot.Groups {
		if fresh(g.CreatedAt) {
			created[authz.Group(id)] = g.CreatedAt
		}
	}
	for id, p := range s.e.Snapshot.Projects {
		if fresh(p.CreatedAt) {
			created[authz.Project(id)] = p.CreatedAt
		}
	}
	for _, c := range changes {
		if _, ok := created[c.Source]; ok && c.Action == Create && c.Key.Kind == KindNamespace {
			asked[c.Source] = true
		}
	}
	if len(asked) == 0 {
		return wait
	}
	type turn struct {
		id authz.SourceID
		at time.Time
	}
	queues := map[int64][]turn{}
	for id, person := range s.responsible(created) {
		queues[person] = append(queues[person], turn{id, created[id]})
	}
	for _, p := range s.e.Past { // made and deleted again: it took its turn
		if p.Made && fresh(p.At) && !s.e.Snapshot.Contains(p.Cause) {
			queues[p.Scope.ID] = append(queues[p.Scope.ID], turn{p.Cause, p.At})
		}
	}
	for person, queue := range queues {
		if slices.Contains(s.limits.Exempt, person) {
			continue
		}
		slices.SortFunc(queue, func(a, b turn) int { return cmp.Or(a.at.Compare(b.at), a.id.Compare(b.id)) })
		for i := range queue {
			t := &queue[i]
			if i >= s.limits.Creations {
				if next := queue[i-s.limits.Creations].at.Add(time.Hour); next.After(t.at) {
					t.at = next
				}
			}
			if !asked[t.id] {
				continue
			}
			item := Item{
				Source: t.id, Cause: authz.Person(person), Scope: authz.Person(person), Path: s.path(t.id), Name: s.e.Snapshot.Users[person].Username,
				Why: fmt.Sprintf("over %d new namespaces per person and hour; its turn is at %s", s.limits.Creations, t.at.UTC().Format(time.RFC3339)),
			}
			s.v.Wanted[item.Key()] = true
			approved := s.e.Approved[item.Key()]
			if t.at.After(s.now) && approved {
				s.v.Approved[Approval{t.id, ""}] = true
			}
			if t.at.After(s.now) && !approved {
				wait[t.id] = true
				s.v.Held = append(s.v.Held, item)
				continue
			}
			s.v.Passed = append(s.v.Passed, Past{At: s.now, Scope: authz.Person(person), Cause: t.id, Made: true})
		}
	}
	slices.SortFunc(s.v.Passed, func(a, b Past) int { return cmp.Or(a.Scope.Compare(b.Scope), a.Cause.Compare(b.Cause)) })
	return wait
}

// responsible returns to whom new sources are counted: see creations. Sources without an owner are counted together.
func (s *splitter) responsible(created map[authz.SourceID]time.Time) map[authz.SourceID]int64 {
	owners := map[authz.SourceID][]int64{}
	owned := map[int64]int{}
	for id := range created {
		for a := range s.at.Members(id).All() {
			if a.Level == authz.Owner && s.e.Policy.MayHaveRights(s.e.Snapshot.Users[a.User]) {
				owners[id] = append(owners[id], a.User)
				owned[a.User]++
			}
		}
	}
	out := map[authz.SourceID]int64{}
	for id := range created {
		var person int64
		for _, u := range owners[id] {
			if owned[u] > owned[person] || (owned[u] == owned[person] && u > person) {
				person = u
			}
		}
		out[id] = person
	}
	return out
}
