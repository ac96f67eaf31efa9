package audit

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// record is an Entry in compact form: numbers of the book's tables, 0 for none.
type record struct {
	at    int64  // milliseconds since 1970
	space uint32 // of book.spaces
	who   uint32 // of book.people; 0: an object
	role  uint32 // of book.texts; of an object its kind and name
	cause uint32 // of book.texts, as those that follow
	why   uint32
	by    uint32
	what  uint8 // place in whats
	found bool
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

// person is somebody who is, or was, in the history. Blocks know them by number alone: to drop ID and Name is to make all
// that is told of them anonymous.
type person struct {
	N       uint32    `json:"n"`
	ID      int64     `json:"id,omitempty"`      // GitLab's; 0: no person, or pseudonymised
	Name    string    `json:"name,omitempty"`    // user name as last known
	Subject string    `json:"subject,omitempty"` // of what is no person: "ServiceAccount gitlab-serviceaccount"
	Gone    time.Time `json:"gone,omitzero"`     // since when GitLab has them no more
}

// anonymous reports whether nothing is known of a person but the number: there is no row of them then.
func (p person) anonymous() bool { return p.ID == 0 && p.Subject == "" }

// space is a namespace that is, or was, in the history. The name of one that belongs to a person goes with the person's.
type space struct {
	N     uint32 `json:"n"`
	Name  string `json:"name,omitempty"`
	Owner int64  `json:"owner,omitempty"` // GitLab's user id, of a personal namespace and of personal projects; or unknownOwner
}

// unknownOwner is that of a namespace of which it was never read whose it is.
const unknownOwner = -1

// state says who holds which ClusterRole in which namespace: people by number, ascending.
type state map[uint32]map[uint32][]uint32

func (s state) has(space, role, who uint32) bool {
	_, ok := slices.BinarySearch(s[space][role], who)
	return ok
}

// apply makes a state that of after a record.
func (s state) apply(r record) {
	people := s[r.space][r.role]
	i, ok := slices.BinarySearch(people, r.who)
	switch {
	case r.who == 0:
	case r.what == gained && !ok:
		if s[r.space] == nil {
			s[r.space] = map[uint32][]uint32{}
		}
		s[r.space][r.role] = slices.Insert(people, i, r.who)
	case r.what == lost && ok:
		if s[r.space][r.role] = slices.Delete(people, i, i+1); len(people) > 1 {
			return
		}
		if delete(s[r.space], r.role); len(s[r.space]) == 0 {
			delete(s, r.space)
		}
	}
}

func (s state) clone() state {
	out := make(state, len(s))
	for space, roles := range s {
		out[space] = make(map[uint32][]uint32, len(roles))
		for role, people := range roles {
			out[space][role] = slices.Clone(people)
		}
	}
	return out
}

// book is the history in memory.
type book struct {
	begins time.Time // base is of then
	base   state
	// log has all records, the oldest first. Those before first are of before begins: they are told, and make no state.
	log   []record
	first int

	people []person // by number, from 1
	spaces []space
	texts

	byID      map[int64]uint32
	bySubject map[string]uint32
	byName    map[string][]uint32 // spaces
}

func newBook() *book {
	return &book{base: state{}, byID: map[int64]uint32{}, bySubject: map[string]uint32{}, byName: map[string][]uint32{}, texts: texts{by: map[string]uint32{}}}
}

// user returns the number of a person of GitLab, and their row, whose name may be brought up to date.
func (b *book) user(id int64) uint32 {
	n, ok := b.byID[id]
	if !ok {
		n = number(len(b.people) + 1)
		b.addPerson(person{N: n, ID: id})
	}
	return n
}

func (b *book) subject(text string) uint32 {
	n, ok := b.bySubject[text]
	if !ok {
		n = number(len(b.people) + 1)
		b.addPerson(person{N: n, Subject: text})
	}
	return n
}

// addPerson takes in a row of the table, in the place of one of the same number.
func (b *book) addPerson(p person) {
	for int(p.N) > len(b.people) {
		b.people = append(b.people, person{N: number(len(b.people) + 1)})
	}
	old := b.people[p.N-1]
	if delete(b.byID, old.ID); b.bySubject[old.Subject] == p.N {
		delete(b.bySubject, old.Subject)
	}
	b.people[p.N-1] = p
	if p.ID != 0 {
		b.byID[p.ID] = p.N
	}
	if p.Subject != "" {
		b.bySubject[p.Subject] = p.N
	}
}

// space returns the number of a namespace, as that of its present owner. One that was made again for somebody else has another
// one; but where somebody still holds something it is the same, and has changed hands.
func (b *book) space(name string, owner int64, held bool) uint32 {
	if n := b.known(name); n != 0 {
		switch old := b.spaces[n-1].Owner; {
		case owner == old, owner == unknownOwner:
			return n
		case held, old == unknownOwner:
			b.addSpace(space{N: n, Name: name, Owner: owner})
			return n
		}
	}
	n := number(len(b.spaces) + 1)
	b.addSpace(space{N: n, Name: name, Owner: owner})
	return n
}

// known returns the number that a namespace has at last; 0 for none.
func (b *book) known(name string) uint32 {
	if all := b.byName[name]; len(all) > 0 {
		return all[len(all)-1]
	}
	return 0
}

func (b *book) addSpace(s space) {
	for int(s.N) > len(b.spaces) {
		b.spaces = append(b.spaces, space{N: number(len(b.spaces) + 1)})
	}
	if old := b.spaces[s.N-1].Name; old != "" {
		b.byName[old] = slices.DeleteFunc(b.byName[old], func(n uint32) bool { return n == s.N })
	}
	b.spaces[s.N-1] = s
	if s.Name != "" {
		b.byName[s.Name] = append(b.byName[s.Name], s.N)
	}
}

// who tells of a person or another subject.
func (b *book) who(n uint32) Who {
	if n == 0 || int(n) > len(b.people) {
		return Who{}
	}
	p := b.people[n-1]
	switch {
	case p.Subject != "":
		return Who{Name: p.Subject}
	case p.ID == 0:
		return Who{Name: "person-" + strconv.FormatUint(uint64(n), 10)}
	}
	return Who{ID: p.ID, Name: cmp.Or(p.Name, kubename.User(p.ID)), Gone: p.Gone}
}

func (b *book) spaceName(n uint32) string {
	if n == 0 || int(n) > len(b.spaces) {
		return ""
	}
	return cmp.Or(b.spaces[n-1].Name, "namespace-"+strconv.FormatUint(uint64(n), 10))
}

// personMark begins a text that stands for a person: who approved something is pseudonymised as well.
const personMark = "\x00person "

// approver returns the text of who approved something.
func (b *book) approver(name string) uint32 {
	if id, ok := kubename.ParseUser(name); ok {
		name = personMark + strconv.FormatUint(uint64(b.user(id)), 10)
	}
	return b.text(name)
}

// approving returns the number of the person that an approver's text stands for; 0 for none.
func (b *book) approving(text uint32) uint32 {
	rest, ok := strings.CutPrefix(b.textOf(text), personMark)
	n, err := strconv.ParseUint(rest, 10, 24)
	if !ok || err != nil {
		return 0
	}
	return uint32(n)
}

func (b *book) approverOf(text uint32) string {
	n := b.approving(text)
	if n == 0 {
		return b.textOf(text)
	}
	who := b.who(n)
	if who.ID == 0 {
		return who.Name
	}
	return fmt.Sprintf("%s (%s)", kubename.User(who.ID), who.Name)
}

// entry tells of a record.
func (b *book) entry(r record) Entry {
	e := Entry{
		At: time.UnixMilli(r.at).UTC(), Namespace: b.spaceName(r.space), What: whats[r.what], Cause: b.textOf(r.cause), Why: b.textOf(r.why),
		ApprovedBy: b.approverOf(r.by), Found: r.found,
	}
	if r.who == 0 {
		e.Object = b.textOf(r.role)
		return e
	}
	e.Who, e.Role = b.who(r.who), b.textOf(r.role)
	return e
}

// entries returns what is told of a span of time. A zero time is no bound.
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

// fit has the tables long enough for each number that something means: there may be no row of some of them. So nobody new is
// given the number of somebody else.
func (b *book) fit() {
	var people, spaces uint32
	for _, r := range b.log {
		people, spaces = max(people, r.who, b.approving(r.by)), max(spaces, r.space)
	}
	for n, roles := range b.base {
		spaces = max(spaces, n)
		for _, who := range roles {
			people = max(people, slices.Max(who))
		}
	}
	for int(people) > len(b.people) {
		b.people = append(b.people, person{N: number(len(b.people) + 1)})
	}
	for int(spaces) > len(b.spaces) {
		b.spaces = append(b.spaces, space{N: number(len(b.spaces) + 1)})
	}
}

// now returns the state after all records.
func (b *book) now() state {
	s := b.base.clone()
	for _, r := range b.log[b.first:] {
		s.apply(r)
	}
	return s
}

// at tells who had what at a time: the rights that are wanted.
func (b *book) at(at time.Time, want func(space, who uint32) bool) Moment {
	m := Moment{At: at, Begins: b.begins, Known: !b.begins.IsZero() && !at.Before(b.begins), Rights: []Right{}}
	if !m.Known {
		return m
	}
	type key struct{ space, role, who uint32 }
	have := map[key]Right{}
	for n, roles := range b.base {
		for role, people := range roles {
			for _, who := range people {
				if want(n, who) {
					have[key{n, role, who}] = Right{Namespace: b.spaceName(n), Who: b.who(who), Role: b.textOf(role)}
				}
			}
		}
	}
	for _, r := range b.log[b.first:] {
		if r.at > at.UnixMilli() {
			break
		}
		k := key{r.space, r.role, r.who}
		switch _, had := have[k]; {
		case r.who == 0 || !want(r.space, r.who):
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

// places returns the numbers of a namespace: one that was made again for somebody else has more than one.
func (b *book) places(name string) map[uint32]bool {
	out := map[uint32]bool{}
	for _, n := range b.byName[name] {
		out[n] = true
	}
	return out
}
