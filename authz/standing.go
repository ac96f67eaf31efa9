package authz

import (
	"cmp"
	"iter"
	"slices"
)

// Standings is who effectively is a member of a source and with which level, sorted by user. It is shared and never
// changed. Large organisations have hundreds of thousands of standings, so they hold no pointers, and sets are merged
// instead of hashed.
type Standings struct{ list []standing }

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
	return Access{User: s.user, Level: s.level, Why: Reason{Level: s.level, Row: s.row.source(), Via: s.via, Target: s.target.source()}}
}

// Of returns what one person has; false when he is no member.
func (s Standings) Of(user int64) (Access, bool) {
	i, ok := slices.BinarySearchFunc(s.list, user, func(x standing, u int64) int { return cmp.Compare(x.user, u) })
	if !ok {
		return Access{}, false
	}
	return s.list[i].access(), true
}

// Level returns the level of one person; 0 when he is no member.
func (s Standings) Level(user int64) Level {
	a, _ := s.Of(user)
	return a.Level
}

// All returns everybody, by user id.
func (s Standings) All() iter.Seq[Access] {
	return func(yield func(Access) bool) {
		for _, x := range s.list {
			if !yield(x.access()) {
				return
			}
		}
	}
}

// Len returns how many people there are.
func (s Standings) Len() int { return len(s.list) }

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
