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
	return v.own.at(v, now).rights(v, user, now)
}

// rights is View.Rights of somebody whose account may have some.
func (t *table) rights(v View, user int64, now time.Time) []Right {
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
		right.ClusterRoles = slices.Clip(given)
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
	out := make([]Holder, 0)
	for user, h := range v.holdings(src, NewResolver(v.Snapshot, now)) {
		u, known := v.Snapshot.Users[user]
		if known && v.Policy.MayHaveRights(u) {
			out = append(out, h.holder(v, id, u))
		}
	}
	slices.SortFunc(out, func(a, b Holder) int {
		return cmp.Or(cmp.Compare(v.rank[a.ClusterRoles[0]], v.rank[b.ClusterRoles[0]]), cmp.Compare(a.User.Username, b.User.Username), cmp.Compare(a.User.ID, b.User.ID))
	})
	return out
}

// holding is what somebody is given in a source.
type holding struct {
	roles map[string]bool
	trail Trail
}

// holdings returns what everybody is given in a source, whatever their account.
func (v View) holdings(src Source, r *Resolver) map[int64]*holding {
	members, out := r.Members(src.ID), map[int64]*holding{}
	v.Policy.each(r, src, func(role string, a standing) {
		h := out[a.user]
		if h == nil {
			h = &holding{roles: map[string]bool{}}
			if own, member := members.standing(a.user); member {
				h.trail = r.trail(src.ID, own)
			} else {
				h.trail = r.trail(v.Policy.extraGroupOf(r, src.ID, role, a), a)
			}
			out[a.user] = h
		}
		h.roles[role] = true
	}, func(standing) {})
	return out
}

func (h *holding) holder(v View, id SourceID, u User) Holder {
	x := Holder{User: u, Trail: h.trail}
	for _, role := range v.Policy.ClusterRoles() {
		if !h.roles[role] {
			continue
		}
		x.ClusterRoles = append(x.ClusterRoles, role)
		if why := v.absent(id, role, u.ID); why != "" {
			x.Lacks = append(x.Lacks, role)
			x.Absent = cmp.Or(x.Absent, why)
		}
	}
	if len(x.Lacks) < len(x.ClusterRoles) {
		x.Absent = ""
	}
	return x
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
