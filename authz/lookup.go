package authz

import "time"

// Lookup answers who effectively is a member of what, like Members, and keeps what many sources share.
// It is not safe for concurrent use.
type Lookup struct{ r *resolver }

// NewLookup returns a Lookup of one Snapshot at one moment. At the zero time nothing has expired.
func NewLookup(s *Snapshot, now time.Time) Lookup { return Lookup{newResolver(s, now)} }

// Of returns the effective members of a source.
func (l Lookup) Of(id SourceID) Standings { return Standings{l.r.of(id)} }

// MayHaveRights reports whether the account can have rights at all: active, a person (or bots are allowed), and not
// left out.
func (p Policy) MayHaveRights(u User) bool { return p.mayHaveRights(u) }

// RoleIn returns the ClusterRole that a level stands for in a source, or "".
func (p Policy) RoleIn(s *Snapshot, id SourceID, l Level) string { return p.roleIn(s, id, l) }

// Contains reports whether the Snapshot has the source.
func (s *Snapshot) Contains(id SourceID) bool {
	_, ok := sourcePath(s, id)
	return ok
}

// Parent returns what a source is in: the group of a group or project, the person of a personal project, or ok false.
func (s *Snapshot) Parent(id SourceID) (parent SourceID, ok bool) {
	switch id.Kind {
	case GroupSource:
		parent = Group(s.Groups[id.ID].Parent)
	case ProjectSource:
		if p := s.Projects[id.ID]; p.Group == 0 && p.Owner != 0 {
			parent = Person(p.Owner)
		} else {
			parent = Group(p.Group)
		}
	case UserSource:
	}
	return parent, parent.ID != 0
}

// Top returns the top-level group a source is in, the person of a personal project, or the source itself.
func (s *Snapshot) Top(id SourceID) SourceID {
	for range maxDepth {
		parent, ok := s.Parent(id)
		if !ok {
			break
		}
		id = parent
	}
	return id
}

// Within reports whether a source is the other one or somewhere below it.
func (s *Snapshot) Within(id, top SourceID) bool {
	for range maxDepth {
		if id == top {
			return true
		}
		parent, ok := s.Parent(id)
		if !ok {
			return false
		}
		id = parent
	}
	return false
}

// ExtraGroups returns the groups whose members an extra mapping gives the role in a source, whoever they are.
func (p Policy) ExtraGroups(s *Snapshot, id SourceID, role string) []int64 {
	var out []int64
	for _, e := range p.extra {
		if e.Group != 0 && e.ClusterRole == role && e.covers(s, id) {
			out = append(out, e.Group)
		}
	}
	return out
}
