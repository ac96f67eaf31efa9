package intake

import (
	"maps"
	"slices"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// Of two readings of a thing the one that began later counts. A reading of everything is a reading of each thing that
// began with it, so what was read by itself since then stays as it is (docs/adr/0106).

// note notes when what a reading of single things has brought was read.
func (i *Intake) note(r *reading, before *authz.Snapshot) {
	for _, id := range r.ids {
		if r.snap.Missing[id] == "" {
			i.began[id] = r.began
		}
	}
	// It may have brought more: the states of users come with the rows of groups and projects, a group leads to what is below
	// it, and its path is a part of theirs. That is newer than an older reading of everything, but it is no reading of them.
	changes := authz.ChangesBetween(before, r.snap)
	changes.Users(func(a, b authz.User) bool { return a.State == b.State && a.Human == b.Human }, func(id int64) {
		i.brought[authz.UserID(id)] = r.began
	})
	// What is in another place than before was brought; what came or went was read for that.
	changes.Groups(authz.Group.SamePlace, func(id int64) {
		_, was := before.Groups[id]
		_, is := r.snap.Groups[id]
		i.bring(authz.GroupID(id), !was || !is, r)
	})
	changes.Projects(authz.Project.SamePlace, func(id int64) {
		_, was := before.Projects[id]
		_, is := r.snap.Projects[id]
		i.bring(authz.ProjectID(id), !was || !is, r)
	})
}

func (i *Intake) bring(id authz.SourceID, read bool, r *reading) {
	if read {
		i.began[id] = r.began
	} else {
		i.brought[id] = r.began
	}
}

const (
	changedMeanwhile = "it changed while GitLab was being read, and was not read again yet"
	movedMeanwhile   = "it was made, moved or deleted while GitLab was being read, and was not read again yet"
)

// merge takes in a reading of everything. It returns what has to be read again, because it is in another place than the
// reading met it: what is above and below it would not fit.
func (i *Intake) merge(r *reading) (again []authz.SourceID) {
	m := merging{known: i.base, out: *r.snap}
	if m.out.Missing = maps.Clone(r.snap.Missing); m.out.Missing == nil {
		m.out.Missing = map[authz.SourceID]string{}
	}
	earlier := func(_ authz.SourceID, began stamp) bool { return began <= r.began }
	maps.DeleteFunc(i.began, earlier)
	maps.DeleteFunc(i.brought, earlier)
	for id := range i.began {
		m.keep(id)
	}
	for id := range i.brought {
		if i.began[id] == 0 {
			m.place(id)
		}
	}
	for id, item := range i.queue.items {
		if item.asked > r.began && i.began[id] <= item.asked {
			m.shelter(id)
		}
	}
	slices.SortFunc(m.again, authz.SourceID.Compare)
	merged := m.out // by itself: a pointer into m would keep the Snapshot of before in memory, and that one its own
	i.base, i.all = &merged, r.began
	return m.again
}

// merging makes a Snapshot of a reading of everything and of what is known from later ones. Its maps are those of the reading until
// something else is put into them.
type merging struct {
	known *authz.Snapshot // nil: nothing
	out   authz.Snapshot
	again []authz.SourceID

	ownUsers, ownGroups, ownProjects bool
}

// own makes a map one's own.
func own[V any](m *map[int64]V, is *bool) map[int64]V {
	if !*is {
		if *is, *m = true, maps.Clone(*m); *m == nil {
			*m = map[int64]V{}
		}
	}
	return *m
}

// keep leaves a source as it is known.
func (m *merging) keep(id authz.SourceID) {
	switch id.Kind {
	case authz.UserSource:
		m.user(id.ID)
	case authz.GroupSource:
		old, known := m.known.Groups[id.ID]
		met, there := m.out.Groups[id.ID]
		if m.fits(id, known, there, known && there && old.SamePlace(met), old.Parent) && known {
			own(&m.out.Groups, &m.ownGroups)[id.ID] = old
			m.rows(old.Members)
		}
	case authz.ProjectSource:
		old, known := m.known.Projects[id.ID]
		met, there := m.out.Projects[id.ID]
		if m.fits(id, known, there, known && there && old.SamePlace(met), old.Group) && known {
			// A reading of single things leaves these as they were: what this reading has not met is as old as the one before.
			old.Variables = met.Variables
			own(&m.out.Projects, &m.ownProjects)[id.ID] = old
			m.rows(append(slices.Clone(old.Members), authz.Member{User: old.Owner}))
		}
	}
}

// place takes in that a source is known to be in another place than the reading has met it. All else about it the reading has met
// later.
func (m *merging) place(id authz.SourceID) {
	known, there, same := false, false, false
	switch id.Kind {
	case authz.UserSource:
		m.user(id.ID)
		return
	case authz.GroupSource:
		var old, met authz.Group
		old, known = m.known.Groups[id.ID]
		met, there = m.out.Groups[id.ID]
		same = old.SamePlace(met)
	case authz.ProjectSource:
		var old, met authz.Project
		old, known = m.known.Projects[id.ID]
		met, there = m.out.Projects[id.ID]
		same = old.SamePlace(met)
	}
	if known && there && !same {
		m.out.Missing[id] = movedMeanwhile
		m.again = append(m.again, id)
	}
}

// fits reports whether a source can be left as it is known: it is where the reading met it, or is new in a place that the
// reading has met. Else it has to be read again.
func (m *merging) fits(id authz.SourceID, known, there, same bool, parent int64) bool {
	_, placed := m.out.Groups[parent]
	if !known && !there || same || known && !there && (parent == 0 || placed) {
		if why := m.known.Missing[id]; why != "" {
			m.out.Missing[id] = why
		} else {
			delete(m.out.Missing, id)
		}
		return true
	}
	m.out.Missing[id] = movedMeanwhile
	m.again = append(m.again, id)
	return false
}

// rows takes in users whom a row names that the reading has not met.
func (m *merging) rows(rows []authz.Member) {
	for _, row := range rows {
		if _, there := m.out.Users[row.User]; there {
			continue
		}
		if u, known := m.known.Users[row.User]; known {
			own(&m.out.Users, &m.ownUsers)[row.User] = u
		}
	}
}

func (m *merging) user(id int64) {
	met, there := m.out.Users[id]
	switch u, known := m.known.Users[id]; {
	case known && (!there || u != met):
		own(&m.out.Users, &m.ownUsers)[id] = u
	case !known && there:
		delete(own(&m.out.Users, &m.ownUsers), id)
	}
}

// shelter keeps away what a reading has met of something that changed since it began, and was not read again yet: the
// reading may have met it before the change, and would give back a right that was taken since. What is missing of a group or
// a project keeps all that depends on it as it is. An account has no such shelter: of it counts what was known before.
func (m *merging) shelter(id authz.SourceID) {
	if id.Kind == authz.UserSource && m.known != nil {
		m.user(id.ID)
		return
	}
	if m.out.Missing[id] == "" {
		m.out.Missing[id] = changedMeanwhile
	}
}
