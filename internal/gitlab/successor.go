package gitlab

import (
	"maps"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// successor is a Snapshot in the making that begins as another one. Its maps are those of that one until something is put into
// them: a hook changes little, and a copy of all maps with each would be most of what a revocation leaves to the garbage
// collector. Rows and links are shared as well: they are replaced as a whole, never changed.
type successor struct {
	s        *authz.Snapshot
	own      owned
	replaced map[authz.SourceID]bool // what may differ from the Snapshot before; all else is the same
}

// owned are the maps that belong to a successor alone.
type owned struct{ users, groups, projects, missing bool }

// successorOf begins with a Snapshot, which stays as it is.
func successorOf(base *authz.Snapshot) successor {
	s := *base
	s.From = nil
	return successor{s: &s, replaced: map[authz.SourceID]bool{}}
}

// inPlace changes a Snapshot that nobody else has.
func inPlace(s *authz.Snapshot) *successor {
	return &successor{s: s, own: owned{true, true, true, true}, replaced: map[authz.SourceID]bool{}}
}

// copied is the successor with a copy of what the reading of these sources will most likely be put into.
func (u successor) copied(changed []authz.SourceID) successor {
	for _, id := range changed {
		switch id.Kind {
		case authz.GroupSource:
			copyOnce(&u.s.Groups, &u.own.groups)
		case authz.ProjectSource:
			copyOnce(&u.s.Projects, &u.own.projects)
		case authz.UserSource: // most of them are as they were
		}
	}
	return u
}

// copyOnce makes a map one's own.
func copyOnce[K comparable, V any](m *map[K]V, own *bool) {
	if *own {
		return
	}
	if *own = true; *m == nil {
		*m = map[K]V{}
		return
	}
	*m = maps.Clone(*m)
}

func (u *successor) setUser(id int64, x authz.User) {
	if old, there := u.s.Users[id]; there && old == x {
		return
	}
	copyOnce(&u.s.Users, &u.own.users)
	u.s.Users[id], u.replaced[authz.UserID(id)] = x, true
}

func (u *successor) setGroup(id int64, g authz.Group) {
	copyOnce(&u.s.Groups, &u.own.groups)
	u.s.Groups[id], u.replaced[authz.GroupID(id)] = g, true
}

func (u *successor) setProject(id int64, p authz.Project) {
	copyOnce(&u.s.Projects, &u.own.projects)
	u.s.Projects[id], u.replaced[authz.ProjectID(id)] = p, true
}

// drop removes a source.
func (u *successor) drop(id authz.SourceID) {
	if !u.s.Contains(id) {
		return
	}
	u.replaced[id] = true
	switch id.Kind {
	case authz.UserSource:
		copyOnce(&u.s.Users, &u.own.users)
		delete(u.s.Users, id.ID)
	case authz.GroupSource:
		copyOnce(&u.s.Groups, &u.own.groups)
		delete(u.s.Groups, id.ID)
	case authz.ProjectSource:
		copyOnce(&u.s.Projects, &u.own.projects)
		delete(u.s.Projects, id.ID)
	}
}

// miss notes for which reason a source could not be read; "": it could.
func (u *successor) miss(id authz.SourceID, reason string) {
	if u.s.Missing[id] == reason {
		return
	}
	copyOnce(&u.s.Missing, &u.own.missing)
	if u.replaced[id] = true; reason == "" {
		delete(u.s.Missing, id)
	} else {
		u.s.Missing[id] = reason
	}
}
