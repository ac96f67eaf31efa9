package authz

import (
	"cmp"
	"iter"
	"slices"
)

// Reason is the way in which a person got a level in a source: where the membership row is, and through what it
// reaches the source.
type Reason struct {
	Row    SourceID // the group or project that holds the membership row
	Via    int64    // the invited group when the way goes through a link, else 0
	Target SourceID // where the link is, when Via is set
}

// Access is what one person effectively has in one source: the highest level, after the caps of links, and how it came about.
type Access struct {
	User  int64
	Level Level
	Why   Reason
}

// Members are the effective members of one source and their levels, sorted by user. They are shared and never
// changed. Large organisations have hundreds of thousands of standings, so they hold no pointers, and sets are merged
// instead of hashed.
type Members struct{ list []standing }

// standing is an Access in compact form.
type standing struct {
	user   int64
	level  Level
	row    ref
	via    int64
	target ref
}

// ref is a SourceID in one word; 0 is none.
type ref int64

func refOf(id SourceID) ref {
	switch id.Kind {
	case GroupSource:
		return ref(id.ID<<2 | 1)
	case ProjectSource:
		return ref(id.ID<<2 | 2)
	case UserSource:
		return ref(id.ID<<2 | 3)
	}
	return 0
}

func (r ref) source() SourceID {
	if r == 0 {
		return SourceID{}
	}
	return SourceID{[...]SourceKind{"", GroupSource, ProjectSource, UserSource}[r&3], int64(r >> 2)}
}

func (s standing) access() Access {
	return Access{User: s.user, Level: s.level, Why: Reason{Row: s.row.source(), Via: s.via, Target: s.target.source()}}
}

// Access returns what one person has; false when they are no member.
func (m Members) Access(user int64) (Access, bool) {
	s, ok := m.standing(user)
	return s.access(), ok
}

func (m Members) standing(user int64) (standing, bool) {
	i, ok := slices.BinarySearchFunc(m.list, user, func(x standing, u int64) int { return cmp.Compare(x.user, u) })
	if !ok {
		return standing{}, false
	}
	return m.list[i], true
}

// Level returns the level of one person; 0 when they are no member.
func (m Members) Level(user int64) Level {
	a, _ := m.Access(user)
	return a.Level
}

// All returns everybody, by user id.
func (m Members) All() iter.Seq[Access] {
	return func(yield func(Access) bool) {
		for _, x := range m.list {
			if !yield(x.access()) {
				return
			}
		}
	}
}

// Len returns how many people there are.
func (m Members) Len() int { return len(m.list) }

// merge appends the union of two sets to dst. Of somebody in both the higher level stays; winTie says whether b stays
// when both are equal.
func merge(dst, a, b []standing, winTie bool) []standing {
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0].user < b[0].user:
			dst, a = append(dst, a[0]), a[1:]
		case a[0].user > b[0].user:
			dst, b = append(dst, b[0]), b[1:]
		default:
			s := a[0]
			if b[0].level > s.level || (winTie && b[0].level == s.level) {
				s = b[0]
			}
			dst, a, b = append(dst, s), a[1:], b[1:]
		}
	}
	return append(append(dst, a...), b...)
}

// byUser sorts a set; of somebody who is in it more than once the highest level stays.
func byUser(list []standing) []standing {
	slices.SortFunc(list, func(a, b standing) int { return cmp.Or(cmp.Compare(a.user, b.user), cmp.Compare(b.level, a.level)) })
	return slices.CompactFunc(list, func(a, b standing) bool { return a.user == b.user })
}
