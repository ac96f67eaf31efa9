package authz

import "slices"

// Affected returns the sources whose namespaces can look different by a later Snapshot of the same GitLab, at one
// moment: what changed itself, and all that gets members, a path, or its being judged at all from there. It may name
// too many, never too few; a test compares it with all of the rights. What the clock alone changes (an expiry) is not
// in it.
func (p Policy) Affected(before, now *Snapshot) map[SourceID]bool {
	a := affected{p: p, before: before, now: now, changes: ChangesBetween(before, now), out: map[SourceID]bool{}, groups: map[int64]bool{}}
	if before.MissingAll != now.MissingAll || before.Issuer != now.Issuer {
		a.everything()
		return a.out
	}
	a.users()
	a.compare()
	a.spread()
	return a.out
}

type affected struct {
	p           Policy
	before, now *Snapshot
	changes     Changes
	out         map[SourceID]bool
	groups      map[int64]bool // with other rows, links, flags or place
}

func (a *affected) everything() {
	for _, s := range []*Snapshot{a.before, a.now} {
		for _, src := range a.p.Sources(s) {
			a.out[src.ID] = true
		}
	}
}

// mark notes a source that differs itself.
func (a *affected) mark(id SourceID) {
	a.out[id] = true
	if id.Kind == GroupSource {
		a.groups[id.ID] = true
	}
}

// users marks what people are in whose accounts differ.
func (a *affected) users() {
	changed := map[int64]bool{}
	a.changes.Users(sameUser, func(id int64) { changed[id] = true })
	if len(changed) == 0 {
		return
	}
	for id := range changed {
		a.mark(UserID(id))
	}
	has := func(m Member) bool { return changed[m.User] }
	for _, s := range []*Snapshot{a.before, a.now} {
		for id, g := range s.Groups {
			if slices.ContainsFunc(g.Members, has) {
				a.mark(GroupID(id))
			}
		}
		for id, pr := range s.Projects {
			if changed[pr.Owner] || slices.ContainsFunc(pr.Members, has) {
				a.mark(ProjectID(id))
			}
		}
	}
}

// compare marks groups and projects that differ, and what became readable or unreadable.
func (a *affected) compare() {
	a.changes.Groups(sameGroup, func(id int64) { a.mark(GroupID(id)) })
	a.changes.Projects(sameProject, func(id int64) { a.mark(ProjectID(id)) })
	a.changes.Missing(a.mark)
}

// spread marks what gets something from the groups that differ: what is below them, the groups they are invited into
// with all below those, the projects that any of these is invited into, and what extra mappings give their members.
func (a *affected) spread() {
	if len(a.groups) == 0 {
		return
	}
	for _, s := range []*Snapshot{a.before, a.now} {
		for id, g := range s.Groups {
			if slices.ContainsFunc(g.Links, func(l Link) bool { return a.groups[l.Group] && !a.out[GroupID(id)] }) {
				a.out[GroupID(id)] = true
			}
		}
	}
	for _, s := range []*Snapshot{a.before, a.now} {
		w := walk{s: s, hit: a.out, seen: map[int64]bool{}}
		for id := range s.Groups {
			if w.below(id) {
				a.out[GroupID(id)] = true
			}
		}
	}
	touched := func(group int64) bool { return a.out[GroupID(group)] }
	for _, s := range []*Snapshot{a.before, a.now} {
		for id, pr := range s.Projects {
			if touched(pr.Group) || slices.ContainsFunc(pr.Links, func(l Link) bool { return touched(l.Group) }) {
				a.out[ProjectID(id)] = true
			}
		}
		for _, e := range a.p.extra {
			if e.Group == 0 || !touched(e.Group) {
				continue
			}
			for _, src := range a.p.Sources(s) {
				if e.covers(s, src.ID) {
					a.out[src.ID] = true
				}
			}
		}
	}
}

// walk finds out which groups are below others.
type walk struct {
	s    *Snapshot
	hit  map[SourceID]bool
	seen map[int64]bool // what is known, also while it is found out: a wrong answer may go round in a circle
}

func (w *walk) below(id int64) bool {
	if known, ok := w.seen[id]; ok {
		return known
	}
	g, ok := w.s.Groups[id]
	w.seen[id] = w.hit[GroupID(id)]
	if !w.seen[id] && ok && g.Parent != 0 {
		w.seen[id] = w.below(g.Parent)
	}
	return w.seen[id]
}

func sameUser(a, b User) bool {
	return a.ID == b.ID && a.Username == b.Username && a.Name == b.Name && a.State == b.State && a.Human == b.Human && a.CreatedAt.Equal(b.CreatedAt)
}

func sameGroup(a, b Group) bool {
	return a.ID == b.ID && a.SamePlace(b) && sameRows(a.Members, b.Members) && sameRows(a.Links, b.Links)
}

func sameProject(a, b Project) bool {
	return a.ID == b.ID && a.SamePlace(b) && sameRows(a.Members, b.Members) && sameRows(a.Links, b.Links)
}

// sameRows compares rows. A Snapshot that was made from another one shares the rows that were not read again.
func sameRows[T comparable](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}
