package authz

import "weak"

// Changes is what two Snapshots can differ in. Where the later one was made of the earlier one that is known, and a comparison
// costs no more than what was read again; else everything is compared.
type Changes struct {
	before, now *Snapshot
	replaced    map[SourceID]bool // nil: anything
}

// Derivation says what a Snapshot was made of. Its pointers keep no Snapshot in memory; self is no longer right in a copy.
type Derivation struct {
	self, base weak.Pointer[Snapshot]
	replaced   map[SourceID]bool
}

// Derived notes that s was made of base, and that of users, groups, projects and what is missing only the entries of these
// sources are others. The note is about s itself: a copy of it has none.
func (s *Snapshot) Derived(base *Snapshot, replaced map[SourceID]bool) {
	s.From = &Derivation{weak.Make(s), weak.Make(base), replaced}
}

// ChangesBetween returns what is to be compared of two Snapshots.
func ChangesBetween(before, now *Snapshot) Changes {
	c := Changes{before: before, now: now}
	if d := now.From; d != nil && d.self == weak.Make(now) && d.base == weak.Make(before) {
		c.replaced = d.replaced
	}
	return c
}

// Users calls changed with the id of each user who is only in one of the two, or not the same in both.
func (c Changes) Users(same func(a, b User) bool, changed func(id int64)) {
	compare(c.before.Users, c.now.Users, c.ids(UserSource), same, changed)
}

// Groups is Users for groups.
func (c Changes) Groups(same func(a, b Group) bool, changed func(id int64)) {
	compare(c.before.Groups, c.now.Groups, c.ids(GroupSource), same, changed)
}

// Projects is Users for projects.
func (c Changes) Projects(same func(a, b Project) bool, changed func(id int64)) {
	compare(c.before.Projects, c.now.Projects, c.ids(ProjectSource), same, changed)
}

// Missing calls changed with what became readable or unreadable, or is unreadable for another reason.
func (c Changes) Missing(changed func(SourceID)) {
	all := func(yield func(SourceID) bool) {
		for id := range c.replaced {
			if !yield(id) {
				return
			}
		}
	}
	if c.replaced == nil {
		all = nil
	}
	compare(c.before.Missing, c.now.Missing, all, func(x, y string) bool { return x == y }, changed)
}

// ids goes through the ids of one kind that can differ; nil: all.
func (c Changes) ids(kind SourceKind) func(yield func(int64) bool) {
	if c.replaced == nil {
		return nil
	}
	return func(yield func(int64) bool) {
		for id := range c.replaced {
			if id.Kind == kind && !yield(id.ID) {
				return
			}
		}
	}
}

// compare calls changed for each of the keys (nil: all) whose value differs, or that only one of the two has.
func compare[K comparable, V any](a, b map[K]V, keys func(yield func(K) bool), same func(V, V) bool, changed func(K)) {
	if keys != nil {
		for k := range keys {
			x, was := a[k]
			y, is := b[k]
			if was != is || was && !same(x, y) {
				changed(k)
			}
		}
		return
	}
	common := 0
	for k, x := range a {
		y, ok := b[k]
		if ok {
			common++
		}
		if !ok || !same(x, y) {
			changed(k)
		}
	}
	if common == len(b) {
		return
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			changed(k)
		}
	}
}
