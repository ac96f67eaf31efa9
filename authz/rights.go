package authz

import (
	"cmp"
	"slices"
	"time"
)

// Right is what somebody has, or by GitLab should have, in one namespace.
type Right struct {
	Namespace    string
	Source       SourceID
	ClusterRoles []string // that GitLab gives, strongest first. It must not be changed
	// Lacks are those of ClusterRoles that are not in the cluster, and Absent is why: of the strongest, and "" if one of them is
	// there. While what the cluster holds is not known, all are lacking with AbsentUnknown.
	Lacks  []string
	Absent Absence
}

// Rights returns what somebody has, or by GitLab should have, by name of the namespace. It costs what the person has, not what
// there is. Whoever may have no rights, because of their account, has none.
func (v View) Rights(user int64, now time.Time) []Right {
	u, ok := v.Snapshot.Users[user]
	if !ok || !v.Policy.MayHaveRights(u) {
		return nil
	}
	t := v.own.at(v, now)
	s := t.of[user]
	// A place is a right as one number, in the order in which it is wanted: by namespace, role and reason.
	of := len(v.rank)
	kinds := of * (1 + len(absences))
	place := func(kind, source int) int { return source*kinds + kind%of*(1+len(absences)) + kind/of }
	places := make([]int, 0, s.to-s.from)
	for _, e := range t.entries[s.from:s.to] {
		if !v.changed[t.sources[e.source]] {
			places = append(places, place(int(e.kind), int(e.source)))
		}
	}
	r := resolverOf(user, v.Snapshot, now)
	for id := range v.changed {
		if at, found := t.find(v, id); found {
			v.each(r, id, func(kind int, _ int64) { places = append(places, place(kind, at)) })
		}
	}
	slices.Sort(places)
	places = slices.Compact(places) // two mappings of a changed source may give one right
	var out []Right
	names, given := v.Policy.ClusterRoles(), make([]string, 0, len(places))
	for i, p := range places {
		id := t.sources[p/kinds]
		if i == 0 || places[i-1]/kinds != p/kinds {
			given = given[len(given):] // of this one: the slices of all share one array
			out = append(out, Right{Namespace: v.Namespace[id], Source: id})
		}
		right, role := &out[len(out)-1], p%kinds/(1+len(absences))
		given = append(given, names[role])
		right.ClusterRoles = given[:len(given):len(given)]
		if why := v.absence(role + of*(p%(1+len(absences)))); why != "" {
			right.Lacks = append(right.Lacks, names[role])
			right.Absent = cmp.Or(right.Absent, why)
		}
	}
	for i := range out {
		if len(out[i].Lacks) < len(out[i].ClusterRoles) {
			out[i].Absent = ""
		}
	}
	return out
}

// absence returns why rights of a kind are not in the cluster; "" if they are.
func (v View) absence(kind int) Absence {
	switch {
	case kind >= len(v.rank):
		return absences[kind/len(v.rank)-1]
	case !v.has(kind):
		return AbsentNoRole
	case v.gaps == nil:
		return AbsentUnknown
	}
	return ""
}

// Holder is somebody who has, or by GitLab should have, a right in a namespace.
type Holder struct {
	User         User
	ClusterRoles []string // that GitLab gives, strongest first
	// Lacks and Absent are as in Right.
	Lacks  []string
	Absent Absence
	// Trail is how they are a member; of somebody who has the right as a member of the group of an extra mapping alone, how
	// they are a member of that group.
	Trail Trail
}

// Who returns all people who have, or by GitLab should have, a right in a namespace, by their strongest ClusterRole and user name.
// Nobody has one in a namespace that belongs to nothing in GitLab.
func (v View) Who(ns string, now time.Time) []Holder {
	id, ok := v.Source[ns]
	if !ok {
		return nil
	}
	src, ok := v.Policy.Source(v.Snapshot, id)
	if !ok {
		return nil
	}
	type holding struct {
		roles map[string]bool
		by    standing
		in    SourceID // where by is
	}
	r := NewResolver(v.Snapshot, now)
	members := r.Members(id)
	holdings := map[int64]*holding{}
	v.Policy.each(r, src, func(role string, a standing) {
		h := holdings[a.user]
		if h == nil {
			h = &holding{roles: map[string]bool{}, by: a, in: id}
			if own, member := members.standing(a.user); member {
				h.by = own
			} else {
				h.in = v.Policy.extraGroupOf(r, id, role, a)
			}
			holdings[a.user] = h
		}
		h.roles[role] = true
	}, func(standing) {})
	out := make([]Holder, 0, len(holdings))
	for user, h := range holdings {
		u, known := v.Snapshot.Users[user]
		if !known || !v.Policy.MayHaveRights(u) {
			continue
		}
		x := Holder{User: u, Trail: r.trail(h.in, h.by)}
		for _, role := range v.Policy.ClusterRoles() {
			if !h.roles[role] {
				continue
			}
			x.ClusterRoles = append(x.ClusterRoles, role)
			if why := v.absent(id, role, user); why != "" {
				x.Lacks = append(x.Lacks, role)
				x.Absent = cmp.Or(x.Absent, why)
			}
		}
		if len(x.Lacks) < len(x.ClusterRoles) {
			x.Absent = ""
		}
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b Holder) int {
		return cmp.Or(cmp.Compare(v.rank[a.ClusterRoles[0]], v.rank[b.ClusterRoles[0]]), cmp.Compare(a.User.Username, b.User.Username), cmp.Compare(a.User.ID, b.User.ID))
	})
	return out
}

// extraGroupOf returns the group of the extra mapping that gives somebody a role in a source as the member a.
func (p Policy) extraGroupOf(r *Resolver, id SourceID, role string, a standing) SourceID {
	for _, g := range p.ExtraGroups(r.snap, id, role) {
		if s, ok := r.Members(GroupID(g)).standing(a.user); ok && s == a {
			return GroupID(g)
		}
	}
	return id
}
