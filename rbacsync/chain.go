package rbacsync

import (
	"cmp"
	"maps"
	"slices"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// atLeast reports whether nobody loses a right who has role instead of the other one: it is the same, or a stronger one
// by the order of the policy. A role that is no longer in the policy was perhaps only renamed, and counts as weaker.
func (w *Wanted) atLeast(role, other string) bool {
	if role == other {
		return true
	}
	is, was := slices.Index(w.Roles, role), slices.Index(w.Roles, other)
	if is < 0 || other == kubename.CIClusterRole || slices.Contains(w.Further, other) {
		return false
	}
	return was < 0 || is < was
}

// link finds, among the changes of one namespace, those by which people move from one binding to another, and says in
// which order they are written: strongest role first. A promotion gives before it takes so, and a demotion takes the
// more before it gives the less. all is what the namespace should hold.
func (p *planner) link(changes []Change, all []Object) {
	leaves := func(c Change) bool {
		if c.Key.Kind != KindRoleBinding || c.Old == nil {
			return false
		}
		_, lost := c.moves()
		return len(lost) > 0
	}
	if !slices.ContainsFunc(changes, leaves) {
		return
	}
	gets := map[int64][]*Change{}
	for i := range changes {
		c := &changes[i]
		if c.Key.Kind != KindRoleBinding {
			continue
		}
		gained, _ := c.moves()
		for _, u := range gained {
			gets[u] = append(gets[u], c)
		}
	}
	at := StepGrant
	var chain []*Change
	join := func(c *Change) {
		if !c.Chained {
			c.Chained = true
			chain = append(chain, c)
		}
	}
	for i := range changes {
		c := &changes[i]
		if c.Key.Kind != KindRoleBinding || c.Old == nil {
			continue
		}
		_, lost := c.moves()
		for _, u := range lost {
			for _, g := range gets[u] {
				switch {
				case g == c:
				case p.want.atLeast(g.New.Binding.Role, c.Old.Binding.Role):
					if c.instead == nil {
						c.instead = map[int64][]Key{}
					}
					c.instead[u] = append(c.instead[u], g.Key)
					join(c)
					join(g)
				case slices.Contains(p.want.Roles, g.New.Binding.Role) && slices.Contains(p.want.Roles, c.Old.Binding.Role):
					join(c)
					join(g)
				}
			}
		}
	}
	for _, c := range chain {
		switch {
		case p.revokes(c, all):
			at = StepRevoke
		case c.Revokes && at != StepRevoke:
			at = StepPromote
		}
	}
	slices.SortFunc(chain, func(a, b *Change) int { return cmp.Or(cmp.Compare(p.rank(a), p.rank(b)), a.Key.Compare(b.Key)) })
	for i, c := range chain {
		c.Step, c.order = at, i
	}
}

// rank is the place of a change in its chain, by the role that it is about: those outside the policy come last.
func (p *planner) rank(c *Change) int {
	if i := slices.Index(p.want.Roles, c.Role()); i >= 0 {
		return i
	}
	return len(p.want.Roles)
}

// moves returns who gets the role of a binding by a change, and who loses it.
func (c *Change) moves() (gained, lost []int64) {
	before, after := c.bindings()
	if c.Action == Replace {
		return after.Users, before.Users
	}
	return minus(after.Users, before.Users), minus(before.Users, after.Users)
}

// revokes reports whether somebody loses a right by the change for which all that should be in the namespace has
// neither the same nor a stronger one.
func (p *planner) revokes(c *Change, all []Object) bool {
	if !c.Revokes || c.Old == nil {
		return false
	}
	before, after := c.bindings()
	_, others := before.beyond(&after)
	_, lost := c.moves()
	return len(others) > 0 || slices.ContainsFunc(lost, func(u int64) bool {
		return !slices.ContainsFunc(all, func(o Object) bool {
			return o.Binding != nil && p.want.atLeast(o.Binding.Role, before.Role) && o.Binding.has(u)
		})
	})
}

// cede leaves people what they have where the binding that should give them more is one that we may not write, because
// somebody else's stands in its place or the namespace is being deleted.
func (p *planner) cede(ns *Live, h []*Live, w []Object) []Object {
	var missing []*Object
	for i := range w {
		o := &w[i]
		_, there := slices.BinarySearchFunc(h, o.Key, func(l *Live, k Key) int { return l.Key.Compare(k) })
		if o.Binding != nil && !there && (p.have.Foreign[o.Key] || ns != nil && ns.Deleting) {
			missing = append(missing, o)
		}
	}
	if len(missing) == 0 {
		return w
	}
	out, _ := keeping(slices.Clone(w), ourBindings(h), p.want.Users, func(l *Live, user int64) bool {
		return slices.ContainsFunc(missing, func(o *Object) bool {
			return o.Key != l.Key && p.want.atLeast(o.Binding.Role, l.Binding.Role) && o.Binding.has(user)
		})
	})
	slices.SortFunc(out, func(a, b Object) int { return a.Key.Compare(b.Key) })
	return out
}

// Units returns the changes in the order in which they are written: step after step, and of each step what is written by
// itself, in any order or at the same time. A unit of several changes is written one by one.
func Units(changes []Change) [][][]Change {
	changes = slices.Clone(changes)
	slices.SortStableFunc(changes, func(x, y Change) int { return cmp.Compare(x.Step, y.Step) })
	var steps [][][]Change
	for len(changes) > 0 {
		var now []Change
		now, changes = cut(changes, func(c Change) bool { return c.Step == changes[0].Step })
		steps = append(steps, unitsOf(now))
	}
	return steps
}

// unitsOf groups changes into what is written by itself: single ones, which stay where they are in memory, and the chain of a
// namespace in its order. A unit takes the place of its first change.
func unitsOf(changes []Change) [][]Change {
	units := make([][]Change, 0, len(changes))
	at := map[string]int{}
	for n := range changes {
		c := &changes[n]
		if i, ok := at[c.Key.Namespace]; ok && c.Chained {
			units[i] = append(units[i], *c)
			continue
		}
		if c.Chained {
			at[c.Key.Namespace] = len(units)
		}
		units = append(units, changes[n:n+1:n+1])
	}
	for _, u := range units {
		slices.SortFunc(u, func(a, b Change) int { return cmp.Compare(a.order, b.order) })
	}
	return units
}

// Waiting returns who leaves a binding for others of which none is written yet, and why the last of those is not.
func (c *Change) Waiting(done map[Key]error) (users []int64, why error) {
	if c.Action != Update { // of a Replace nobody can keep the role
		return nil, nil
	}
	for _, u := range slices.Sorted(maps.Keys(c.instead)) {
		there := slices.ContainsFunc(c.instead[u], func(k Key) bool {
			err, tried := done[k]
			if err != nil {
				why = err
			}
			return tried && err == nil
		})
		if !there {
			users = append(users, u)
		}
	}
	return users, why
}

// Keeping returns the change without taking anything from these people.
func (c Change) Keeping(users []int64) Change {
	if len(users) == 0 {
		return c
	}
	c.New = &Object{Key: c.Key, Binding: c.New.Binding.with(users, c.Old.Binding, c.users)}
	return c
}
