package audit

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// tables say what the numbers in records stand for: people, namespaces and texts.
type tables struct {
	people []person // by number, from 1
	spaces []space
	texts

	byID      map[int64]uint32
	bySubject map[string]uint32
	byName    map[string][]uint32 // spaces
}

func newTables() tables {
	return tables{byID: map[int64]uint32{}, bySubject: map[string]uint32{}, byName: map[string][]uint32{}, texts: texts{by: map[string]uint32{}}}
}

// person is somebody who is, or was, in the history. Blocks know them by number alone: to drop ID and Name is to make all
// that is recorded of them anonymous.
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

// rows are rows of the tables of people and namespaces.
type rows struct {
	People []person `json:"people,omitempty"`
	Spaces []space  `json:"namespaces,omitempty"`
}

// with returns rows with those of some more people and namespaces, as they are now.
func (r rows) with(morePeople, moreSpaces map[uint32]bool, t *tables) (out rows) {
	people, spaces := map[uint32]bool{}, map[uint32]bool{}
	maps.Copy(people, morePeople)
	maps.Copy(spaces, moreSpaces)
	for _, p := range r.People {
		people[p.N] = true
	}
	for _, s := range r.Spaces {
		spaces[s.N] = true
	}
	for _, n := range slices.Sorted(maps.Keys(people)) {
		out.People = append(out.People, t.people[n-1])
	}
	for _, n := range slices.Sorted(maps.Keys(spaces)) {
		out.Spaces = append(out.Spaces, t.spaces[n-1])
	}
	return out
}

// maxNumber is more than there are people or namespaces: what is damaged must not fill the memory.
const maxNumber = 1 << 24

// add takes in rows of the tables.
func (t *tables) add(r rows) {
	for _, p := range r.People {
		if p.N > 0 && p.N < maxNumber {
			t.addPerson(p)
		}
	}
	for _, s := range r.Spaces {
		if s.N > 0 && s.N < maxNumber {
			t.addSpace(s)
		}
	}
}

// user returns the number of a person of GitLab, and their row, whose name may be brought up to date.
func (t *tables) user(id int64) uint32 {
	n, ok := t.byID[id]
	if !ok {
		n = number(len(t.people) + 1)
		t.addPerson(person{N: n, ID: id})
	}
	return n
}

func (t *tables) subject(text string) uint32 {
	n, ok := t.bySubject[text]
	if !ok {
		n = number(len(t.people) + 1)
		t.addPerson(person{N: n, Subject: text})
	}
	return n
}

// addPerson takes in a row of the table, in the place of one of the same number.
func (t *tables) addPerson(p person) {
	for int(p.N) > len(t.people) {
		t.people = append(t.people, person{N: number(len(t.people) + 1)})
	}
	old := t.people[p.N-1]
	if delete(t.byID, old.ID); t.bySubject[old.Subject] == p.N {
		delete(t.bySubject, old.Subject)
	}
	t.people[p.N-1] = p
	if p.ID != 0 {
		t.byID[p.ID] = p.N
	}
	if p.Subject != "" {
		t.bySubject[p.Subject] = p.N
	}
}

// space returns the number of a namespace, as that of its present owner. One that was made again for somebody else has another
// one; but where somebody still holds something it is the same, and has changed hands.
func (t *tables) space(name string, owner int64, held bool) uint32 {
	if n := t.known(name); n != 0 {
		switch old := t.spaces[n-1].Owner; {
		case owner == old, owner == unknownOwner:
			return n
		case held, old == unknownOwner:
			t.addSpace(space{N: n, Name: name, Owner: owner})
			return n
		}
	}
	n := number(len(t.spaces) + 1)
	t.addSpace(space{N: n, Name: name, Owner: owner})
	return n
}

// known returns the number that a namespace has at last; 0 for none.
func (t *tables) known(name string) uint32 {
	if all := t.byName[name]; len(all) > 0 {
		return all[len(all)-1]
	}
	return 0
}

func (t *tables) addSpace(s space) {
	for int(s.N) > len(t.spaces) {
		t.spaces = append(t.spaces, space{N: number(len(t.spaces) + 1)})
	}
	if old := t.spaces[s.N-1].Name; old != "" {
		t.byName[old] = slices.DeleteFunc(t.byName[old], func(n uint32) bool { return n == s.N })
	}
	t.spaces[s.N-1] = s
	if s.Name != "" {
		t.byName[s.Name] = append(t.byName[s.Name], s.N)
	}
}

// who returns a person, or another subject, as it is shown.
func (t *tables) who(n uint32) Who {
	if n == 0 || int(n) > len(t.people) {
		return Who{}
	}
	p := t.people[n-1]
	switch {
	case p.Subject != "":
		return Who{Name: p.Subject}
	case p.ID == 0:
		return Who{Name: "person-" + strconv.FormatUint(uint64(n), 10)}
	}
	return Who{ID: p.ID, Name: cmp.Or(p.Name, kubename.User(p.ID)), Gone: p.Gone}
}

func (t *tables) spaceName(n uint32) string {
	if n == 0 || int(n) > len(t.spaces) {
		return ""
	}
	return cmp.Or(t.spaces[n-1].Name, "namespace-"+strconv.FormatUint(uint64(n), 10))
}

// personMark begins a text that stands for a person: who approved something is pseudonymised as well.
const personMark = "\x00person "

// approver returns the text of who approved something.
func (t *tables) approver(name string) uint32 {
	if id, ok := kubename.ParseUser(name); ok {
		name = personMark + strconv.FormatUint(uint64(t.user(id)), 10)
	}
	return t.text(name)
}

// approving returns the number of the person that an approver's text stands for; 0 for none.
func (t *tables) approving(text uint32) uint32 {
	rest, ok := strings.CutPrefix(t.textOf(text), personMark)
	n, err := strconv.ParseUint(rest, 10, 24)
	if !ok || err != nil {
		return 0
	}
	return uint32(n)
}

func (t *tables) approverOf(text uint32) string {
	n := t.approving(text)
	if n == 0 {
		return t.textOf(text)
	}
	who := t.who(n)
	if who.ID == 0 {
		return who.Name
	}
	return fmt.Sprintf("%s (%s)", kubename.User(who.ID), who.Name)
}

// places returns the numbers of a namespace: one that was made again for somebody else has more than one.
func (t *tables) places(name string) map[uint32]bool {
	out := map[uint32]bool{}
	for _, n := range t.byName[name] {
		out[n] = true
	}
	return out
}
