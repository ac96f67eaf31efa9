package audit

import (
	"cmp"
	"slices"
	"time"
)

// record is an Entry in compact form: numbers of the book's tables, 0 for none.
type record struct {
	at        int64  // milliseconds since 1970
	namespace uint32 // of book.namespaces
	who       uint32 // of book.users; 0: an object
	role      uint32 // of book.roles; of an object its kind and name
	cause     uint32 // of book.reasons, as those that follow
	why       uint32
	by        uint32
	what      uint8 // place in whats
	found     bool
}

var whats = [...]What{Gained, Lost, Created, Changed, Deleted}

// The places in whats.
const (
	gained = iota
	lost
	created
	changed
	deleted
)

// state says who holds which ClusterRole in which namespace: people by number, ascending.
type state map[uint32]map[uint32][]uint32

func (s state) has(namespace, role, who uint32) bool {
	_, ok := slices.BinarySearch(s[namespace][role], who)
	return ok
}

// apply makes a state that of after a record.
func (s state) apply(r record) {
	people := s[r.namespace][r.role]
	i, ok := slices.BinarySearch(people, r.who)
	switch {
	case r.who == 0:
	case r.what == gained && !ok:
		if s[r.namespace] == nil {
			s[r.namespace] = map[uint32][]uint32{}
		}
		s[r.namespace][r.role] = slices.Insert(people, i, r.who)
	case r.what == lost && ok:
		if s[r.namespace][r.role] = slices.Delete(people, i, i+1); len(people) > 1 {
			return
		}
		if delete(s[r.namespace], r.role); len(s[r.namespace]) == 0 {
			delete(s, r.namespace)
		}
	}
}

func (s state) clone() state {
	out := make(state, len(s))
	for namespace, roles := range s {
		out[namespace] = make(map[uint32][]uint32, len(roles))
		for role, people := range roles {
			out[namespace][role] = slices.Clone(people)
		}
	}
	return out
}

// book is the history in memory.
type book struct {
	begins time.Time // base is of then
	base   state
	// log has records, the oldest first: of a Reader all of them, of a Writer those that are in no block yet. Those before first are of
	// before begins: they are shown, and make no state.
	log   []record
	first int
	last  int64 // the time of the last record that is in a block, of a Writer

	tables
}

func newBook() *book {
	return &book{base: state{}, tables: newTables()}
}

// entry returns a record as an Entry.
func (b *book) entry(r record) Entry {
	e := Entry{
		At: time.UnixMilli(r.at).UTC(), Namespace: b.namespaceName(r.namespace), What: whats[r.what], Cause: b.reasons.textOf(r.cause), Why: b.reasons.textOf(r.why),
		ApprovedBy: b.approverOf(r.by), Found: r.found,
	}
	if r.who == 0 {
		e.Object = b.roles.textOf(r.role)
		return e
	}
	e.Who, e.Role = b.who(r.who), b.roles.textOf(r.role)
	return e
}

// entries returns the entries of a span of time. A zero time is no bound.
func (b *book) entries(since, until time.Time, want func(record) bool) (out []Entry) {
	from, to := 0, len(b.log)
	if !since.IsZero() {
		from, _ = slices.BinarySearchFunc(b.log, since.UnixMilli(), func(r record, at int64) int { return cmp.Compare(r.at, at) })
	}
	if !until.IsZero() {
		to, _ = slices.BinarySearchFunc(b.log, until.UnixMilli()+1, func(r record, at int64) int { return cmp.Compare(r.at, at) })
	}
	for _, r := range b.log[min(from, to):to] {
		if want(r) {
			out = append(out, b.entry(r))
		}
	}
	return out
}

// now returns the state after all records.
func (b *book) now() state {
	s := b.base.clone()
	for _, r := range b.log[b.first:] {
		s.apply(r)
	}
	return s
}

// at returns who had what at a time: the rights that are wanted.
func (b *book) at(at time.Time, want func(namespace, who uint32) bool) Moment {
	m := Moment{At: at, Begins: b.begins, Known: !b.begins.IsZero() && !at.Before(b.begins), Rights: []Right{}}
	if !m.Known {
		return m
	}
	type key struct{ namespace, role, who uint32 }
	have := map[key]Right{}
	for n, roles := range b.base {
		for role, people := range roles {
			for _, who := range people {
				if want(n, who) {
					have[key{n, role, who}] = Right{Namespace: b.namespaceName(n), Who: b.who(who), Role: b.roles.textOf(role)}
				}
			}
		}
	}
	for _, r := range b.log[b.first:] {
		if r.at > at.UnixMilli() {
			break
		}
		k := key{r.namespace, r.role, r.who}
		switch _, had := have[k]; {
		case r.who == 0 || !want(r.namespace, r.who):
		case r.what == lost:
			delete(have, k)
		case !had:
			e := b.entry(r)
			have[k] = Right{Namespace: e.Namespace, Who: e.Who, Role: e.Role, Since: e.At, Cause: e.Cause, Why: e.Why, ApprovedBy: e.ApprovedBy}
		}
	}
	for _, right := range have {
		m.Rights = append(m.Rights, right)
	}
	slices.SortFunc(m.Rights, func(a, b Right) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Who.Name, b.Who.Name), cmp.Compare(a.Who.ID, b.Who.ID), cmp.Compare(a.Role, b.Role))
	})
	return m
}

// fit has the tables long enough for each number that something means, and for so many: there may be no row of some of them. So nobody
// new is given the number of somebody else.
func (b *book) fit(users, namespaces uint32) {
	for _, r := range b.log {
		users, namespaces = max(users, r.who, b.approving(r.by)), max(namespaces, r.namespace)
	}
	for n, roles := range b.base {
		namespaces = max(namespaces, n)
		for _, who := range roles {
			users = max(users, slices.Max(who))
		}
	}
	for int(users) > len(b.users) {
		b.users = append(b.users, userRow{N: number(len(b.users) + 1)})
	}
	for int(namespaces) > len(b.namespaces) {
		b.namespaces = append(b.namespaces, namespaceRow{N: number(len(b.namespaces) + 1)})
	}
}

// numbers are those of people and of namespaces that something refers to.
type numbers struct{ users, namespaces map[uint32]bool }

func newNumbers() numbers { return numbers{users: map[uint32]bool{}, namespaces: map[uint32]bool{}} }

// add notes to whom and what a record of a book refers.
func (n numbers) add(b *book, r record) {
	n.users[r.who], n.users[b.approving(r.by)], n.namespaces[r.namespace] = true, true, true
}

// prune forgets the rows of people and namespaces to which neither the book nor anything else refers any more.
func (b *book) prune(others numbers) {
	users, namespaces := others.users, others.namespaces
	for _, r := range b.log {
		others.add(b, r)
	}
	for n, roles := range b.base {
		namespaces[n] = true
		for _, who := range roles {
			for _, n := range who {
				users[n] = true
			}
		}
	}
	for _, p := range slices.Clone(b.users) {
		if !users[p.N] {
			b.addUser(userRow{N: p.N})
		}
	}
	for _, s := range slices.Clone(b.namespaces) {
		if !namespaces[s.N] {
			b.addNamespace(namespaceRow{N: s.N})
		}
	}
}
