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
//     whoever makes new groups to fill the limit is held as well.
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

// DefaultLimits are those of a new installation. The configuration's defaults are these.
func DefaultLimits() Limits {
	return Limits{
		PerGroup: Limit{Causes: 10, Fraction: 0.1}, Overall: Limit{Causes: 50, Fraction: 0.02}, Policy: Limit{Causes: 10},
		Window: time.Hour, Creations: 20,
	}
}

// Past is something that was let through because it was within its limit, for counting it in the window.
type Past struct {
	At    time.Time
	Scope authz.SourceID // the top-level group; of a creation, the person; zero: a change of the policy
	Cause authz.SourceID // of a creation, the source
	Made  bool           // a creation
	// Turn is when the turn of a creation was, which may be long before it was made, or after that if it was approved. Zero where a
	// version before has stored it: the turns of those are in the order in which GitLab made them, as that version says.
	Turn time.Time `json:",omitzero"`
}

// Item is one held right or namespace.
type Item struct {
	Source authz.SourceID
	Role   string // "" for a namespace that is not made yet
	User   int64  // 0: the CI of the namespace
	Cause  authz.SourceID
	Scope  authz.SourceID // zero: a change of the policy takes it
	Change string         // of the policy, by its content; "" if it is not the reason
	All    Extent         `json:",omitzero"` // what Change takes; zero also where an earlier version has stored it
	Ask    Membership     // what GitLab could be asked to settle it; zero: nothing
	Path   string         // of Source, for people
	Name   string         // of User, for people
	Why    string
}

// policyKey begins the Key of a change of the policy.
const policyKey = "policy"

// Key names what is held, whatever the reason: it is what an approval is about. All that one change of the policy takes
// has one key.
func (i Item) Key() string {
	switch {
	case i.Change != "":
		return policyKey + " " + i.Change
	case i.Role == "":
		return "create " + i.Source.String()
	}
	return fmt.Sprintf("revoke %s %s %d", i.Source, i.Role, i.User)
}

// Verdict is what Split decided.
type Verdict struct {
	// Want is what may be made so: what was wanted, with what is held as it is in the cluster.
	Want     *Wanted
	Held     []Item          // sorted by Scope, Cause, Key
	Holdable map[string]bool // the keys of all that could be held: what is not among them needs no approval any more
	// Approved holds what goes on because it was approved, a namespace that is made without a role and a user, and which user of
	// Kubernetes approved it; "": it is not known who.
	Approved map[Right]string
	Passed   []Past // what counts from now on, once it was applied
}

// NameApprovers says in each change who approved what of it.
func (v Verdict) NameApprovers(changes []Change) {
	for i := range changes {
		c := &changes[i]
		switch {
		case c.Action == Create && c.Key.Kind == KindNamespace:
			if by, ok := v.Approved[Right{Source: c.Source}]; ok {
				c.ApprovedBy = cmp.Or(by, anAdministrator)
			}
		case c.Action == Update && c.Revokes && c.Old.Binding != nil:
			for _, u := range c.losers() {
				by, ok := v.Approved[Right{c.Source, c.Old.Binding.Role, u}]
				if !ok {
					continue
				}
				if c.ApprovedFor == nil {
					c.ApprovedFor = map[int64]string{}
				}
				c.ApprovedFor[u] = cmp.Or(by, anAdministrator)
			}
		}
	}
}

// Split divides a plan into what may be applied and what is held, and returns the first as a Wanted to plan again.
// It is pure and changes none of its arguments.
func (l Limits) Split(changes []Change, want *Wanted, e Evidence, now time.Time) Verdict {
	if l.Window <= 0 {
		l.Window = DefaultLimits().Window
	}
	v := Verdict{Holdable: map[string]bool{}, Approved: map[Right]string{}}
	s := splitter{limits: l, by: newJudge(want, e, now), v: &v}
	lost := want.lost(changes)
	held := s.over(s.inferred(lost))
	v.Want = want.hold(changes, lost, held, s.creations(changes))
	v.Held = append(v.Held, e.Outside...)
	slices.SortFunc(v.Held, func(a, b Item) int {
		return cmp.Or(a.Scope.Compare(b.Scope), a.Cause.Compare(b.Cause), cmp.Compare(a.Key(), b.Key()), a.Source.Compare(b.Source), cmp.Compare(a.Role, b.Role), cmp.Compare(a.User, b.User))
	})
	measure(v.Held)
	return v
}

// splitter counts what is taken, by what the judge says of it, against the limits.
type splitter struct {
	limits Limits
	by     *judge
	v      *Verdict
	sizes  map[authz.SourceID]int // see Sizes; nil: not asked for yet
}

// losers are who lose the role of a binding by a change.
type losers struct {
	*Change
	users []int64 // 0, at the end: the CI of the namespace
}

// lost returns who loses a role by changes.
func (w *Wanted) lost(changes []Change) []losers {
	var out []losers
	for i := range changes {
		c := &changes[i]
		if c.Action != Update || c.Old == nil || c.Old.Binding == nil || !c.Revokes {
			continue // a wrong role is replaced as a whole: nothing is inferred there
		}
		all := w.Inside(c.Key.Namespace)
		users := slices.DeleteFunc(c.losers(), func(u int64) bool { return u != 0 && elsewhere(all, c.Old.Binding.Role, u) })
		if len(users) > 0 {
			out = append(out, losers{c, users})
		}
	}
	return out
}

// Inside returns the objects of one namespace.
func (w *Wanted) Inside(ns string) []Object {
	compare := func(o Object, ns string) int { return cmp.Compare(o.Key.Namespace, ns) }
	from, _ := slices.BinarySearchFunc(w.Objects, ns, compare)
	in, _ := cut(w.Objects[from:], func(o Object) bool { return o.Key.Namespace == ns })
	return in
}

// inferred lists the revocations that nothing but an absence speaks for, and those that a change of the policy makes.
func (s *splitter) inferred(lost []losers) []Item {
	var items []Item
	seen := map[Right]bool{}
	var change string
	var taken map[Right]bool // by the change of the policy
	if !s.limits.Policy.off() {
		change, taken = s.by.policyChange(lost)
	}
	for _, c := range lost {
		for _, u := range c.users {
			i := Item{Source: c.Source, Role: c.Old.Binding.Role, User: u, Path: s.by.path(c.Source), Name: s.by.name(u)}
			if taken[i.right()] {
				i.Change, i.Cause = change, c.Source
				if u != 0 {
					i.Cause = authz.UserID(u)
				}
			} else {
				if u == 0 && s.by.e.Snapshot.Contains(c.Source) {
					continue // another way to get credentials
				}
				var inferred bool
				if i.Cause, i.Ask, inferred = s.by.reason(c.Source, i.Role, u); !inferred {
					continue
				}
				i.Scope = s.by.scope(c.Source)
			}
			s.v.Holdable[i.Key()] = true
			if by, approved := s.by.e.Approved[i.Key()]; approved {
				s.v.Approved[i.right()] = by
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
	for _, p := range s.by.e.Past {
		if !p.Made && s.by.now.Sub(p.At) < s.limits.Window {
			past[p.Cause] = past[p.Cause] || p.Scope.ID != 0
			add(p.Scope, p.Cause)
		}
	}
	why := map[authz.SourceID]string{}
	for _, i := range s.by.e.Outside { // a group is held as a whole
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
		if p := (Past{At: s.by.now, Scope: i.Scope, Cause: i.Cause}); !noted[p] {
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
	size := s.by.e.Size
	if size == nil {
		if s.sizes == nil {
			all := func(yield func([]Object) bool) { yield(s.by.want.Objects) }
			s.sizes = Sizes(all, s.by.scope)
		}
		size = func(scope authz.SourceID) int { return s.sizes[scope] }
	}
	return max(l.Causes, int(l.Fraction*float64(size(scope))))
}

// Sizes counts, for each top-level group and at zero for all, the namespaces of the sources in it and the people with rights there,
// each once. The objects of a namespace follow it.
func Sizes(lists iter.Seq[[]Object], top func(authz.SourceID) authz.SourceID) map[authz.SourceID]int {
	sizes := map[authz.SourceID]int{}
	in := map[authz.SourceID][]*Binding{}
	for list := range lists {
		var here authz.SourceID
		for i := range list {
			o := &list[i]
			if o.Namespace != nil {
				here = top(o.Namespace.Source)
				sizes[here]++
				sizes[authz.SourceID{}]++
			}
			if here.ID != 0 && o.Binding != nil {
				in[here] = append(in[here], o.Binding)
			}
		}
	}
	counted := map[int64]int{} // people, and the number of the group they were counted in last
	group := 0
	for here, bindings := range in {
		group++
		for _, b := range bindings {
			for _, u := range b.Users {
				last, known := counted[u]
				if last == group {
					continue
				}
				counted[u] = group
				sizes[here]++
				if !known {
					sizes[authz.SourceID{}]++
				}
			}
		}
	}
	return sizes
}

// hold returns what is wanted with what is held left as it is.
func (w *Wanted) hold(changes []Change, lost []losers, held map[Right]bool, wait map[authz.SourceID]bool) *Wanted {
	if len(held)+len(wait) == 0 {
		return w
	}
	out := *w
	out.Keep = map[authz.SourceID]bool{}
	var kept []Object
	replaced := map[Key]bool{}
	for _, c := range lost {
		users := slices.DeleteFunc(slices.Clone(c.users), func(u int64) bool { return !held[Right{c.Source, c.Old.Binding.Role, u}] })
		if len(users) == 0 {
			continue
		}
		if _, wanted := w.Paths[c.Source]; !wanted {
			out.Keep[c.Source] = true
		}
		b := *c.New.Binding
		if ci := len(users) - 1; users[ci] == 0 {
			b.Others, users = c.Old.Binding.Others, users[:ci]
		}
		kept = append(kept, Object{Key: c.Key, Binding: b.with(users, c.Old.Binding, w.Users)})
		replaced[c.Key] = true
	}
	waiting := map[string]bool{}
	for _, c := range changes {
		if wait[c.Source] && c.Action == Create {
			waiting[c.Key.Namespace] = true
		}
	}
	out.Objects = make([]Object, 0, len(w.Objects)+len(kept))
	for _, o := range w.Objects {
		if !replaced[o.Key] && !waiting[o.Key.Namespace] {
			out.Objects = append(out.Objects, o)
		}
	}
	out.Objects = append(out.Objects, kept...)
	slices.SortFunc(out.Objects, func(a, b Object) int { return a.Key.Compare(b.Key) })
	return &out
}
