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
	users      []userRow // by number, from 1
	namespaces []namespaceRow
	roles      texts // few: who has which is known by their numbers
	reasons    texts // as many as there are records: they go with them

	byID      map[int64]uint32
	bySubject map[string]uint32
	byName    map[string][]uint32 // namespaces
}

func newTables() tables {
	return tables{byID: map[int64]uint32{}, bySubject: map[string]uint32{}, byName: map[string][]uint32{}, roles: newTexts(), reasons: newTexts()}
}

// userRow is somebody who is, or was, in the history. Blocks know them by number alone: to drop ID and Name is to make all
// that is recorded of them anonymous.
type userRow struct {
	N       uint32    `json:"n"`
	ID      int64     `json:"id,omitempty"`      // GitLab's; 0: no person, or pseudonymised
	Name    string    `json:"name,omitempty"`    // user name as last known
	Subject string    `json:"subject,omitempty"` // of what is no person: "ServiceAccount gitlab-serviceaccount"
	Gone    time.Time `json:"gone,omitzero"`     // since when GitLab has them no more
}

// anonymous reports whether nothing is known of a person but the number: there is no row of them then.
func (p userRow) anonymous() bool { return p.ID == 0 && p.Subject == "" }

// namespaceRow is a namespace that is, or was, in the history. The name of one that belongs to a person goes with the person's.
type namespaceRow struct {
	N     uint32 `json:"n"`
	Name  string `json:"name,omitempty"`
	Owner int64  `json:"owner,omitempty"` // GitLab's user id, of a personal namespace and of personal projects; or unknownOwner
}

// unknownOwner is that of a namespace of which it was never read whose it is.
const unknownOwner = -1

// rows are rows of the tables of people and namespaces.
type rows struct {
	Users      []userRow      `json:"people,omitempty"`
	Namespaces []namespaceRow `json:"namespaces,omitempty"`
}

// with returns rows with those of some more people and namespaces, as they are now.
func (r rows) with(moreUsers, moreNamespaces map[uint32]bool, t *tables) (out rows) {
	users, namespaces := map[uint32]bool{}, map[uint32]bool{}
	maps.Copy(users, moreUsers)
	maps.Copy(namespaces, moreNamespaces)
	for _, p := range r.Users {
		users[p.N] = true
	}
	for _, s := range r.Namespaces {
		namespaces[s.N] = true
	}
	for _, n := range slices.Sorted(maps.Keys(users)) {
		out.Users = append(out.Users, t.users[n-1])
	}
	for _, n := range slices.Sorted(maps.Keys(namespaces)) {
		out.Namespaces = append(out.Namespaces, t.namespaces[n-1])
	}
	return out
}

// maxNumber is more than there are people or namespaces: what is damaged must not fill the memory.
const maxNumber = 1 << 24

// add takes in rows of the tables.
func (t *tables) add(r rows) {
	for _, p := range r.Users {
		if p.N > 0 && p.N < maxNumber {
			t.addUser(p)
		}
	}
	for _, s := range r.Namespaces {
		if s.N > 0 && s.N < maxNumber {
			t.addNamespace(s)
		}
	}
}

// user returns the number of a person of GitLab, and their row, whose name may be brought up to date.
func (t *tables) user(id int64) uint32 {
	n, ok := t.byID[id]
	if !ok {
		n = number(len(t.users) + 1)
		t.addUser(userRow{N: n, ID: id})
	}
	return n
}

func (t *tables) subject(text string) uint32 {
	n, ok := t.bySubject[text]
	if !ok {
		n = number(len(t.users) + 1)
		t.addUser(userRow{N: n, Subject: text})
	}
	return n
}

// addUser takes in a row of the table of users, in the place of one of the same number.
func (t *tables) addUser(p userRow) {
	for int(p.N) > len(t.users) {
		t.users = append(t.users, userRow{N: number(len(t.users) + 1)})
	}
	old := t.users[p.N-1]
	if delete(t.byID, old.ID); t.bySubject[old.Subject] == p.N {
		delete(t.bySubject, old.Subject)
	}
	t.users[p.N-1] = p
	if p.ID != 0 {
		t.byID[p.ID] = p.N
	}
	if p.Subject != "" {
		t.bySubject[p.Subject] = p.N
	}
}

// namespace returns the number of a namespace, as that of its present owner. One that was made again for somebody else has another
// one; but where somebody still holds something it is the same, and has changed hands.
func (t *tables) namespace(name string, owner int64, held bool) uint32 {
	if n := t.namespaceNumber(name); n != 0 {
		switch old := t.namespaces[n-1].Owner; {
		case owner == old, owner == unknownOwner:
			return n
		case held, old == unknownOwner:
			t.addNamespace(namespaceRow{N: n, Name: name, Owner: owner})
			return n
		}
	}
	n := number(len(t.namespaces) + 1)
	t.addNamespace(namespaceRow{N: n, Name: name, Owner: owner})
	return n
}

// namespaceNumber returns the number that a namespace has at last; 0 for none.
func (t *tables) namespaceNumber(name string) uint32 {
	if all := t.byName[name]; len(all) > 0 {
		return all[len(all)-1]
	}
	return 0
}

// addNamespace takes in a row of the table of namespaces, in the place of one of the same number.
func (t *tables) addNamespace(s namespaceRow) {
	for int(s.N) > len(t.namespaces) {
		t.namespaces = append(t.namespaces, namespaceRow{N: number(len(t.namespaces) + 1)})
	}
	if old := t.namespaces[s.N-1].Name; old != "" {
		t.byName[old] = slices.DeleteFunc(t.byName[old], func(n uint32) bool { return n == s.N })
	}
	t.namespaces[s.N-1] = s
	if s.Name != "" {
		t.byName[s.Name] = append(t.byName[s.Name], s.N)
	}
}

// who returns a person, or another subject, as it is shown.
func (t *tables) who(n uint32) Who {
	if n == 0 || int(n) > len(t.users) {
		return Who{}
	}
	p := t.users[n-1]
	switch {
	case p.Subject != "":
		return Who{Name: p.Subject}
	case p.ID == 0:
		return Who{Name: "person-" + strconv.FormatUint(uint64(n), 10)}
	}
	return Who{ID: p.ID, Name: cmp.Or(p.Name, kubename.User(p.ID)), Gone: p.Gone}
}

func (t *tables) namespaceName(n uint32) string {
	if n == 0 || int(n) > len(t.namespaces) {
		return ""
	}
	return cmp.Or(t.namespaces[n-1].Name, "namespace-"+strconv.FormatUint(uint64(n), 10))
}

// userMark begins a text that stands for a person: who approved something is pseudonymised as well.
const userMark = "\x00person "

// approver returns the text of who approved something.
func (t *tables) approver(name string) uint32 {
	if id, ok := kubename.ParseUser(name); ok {
		name = userMark + strconv.FormatUint(uint64(t.user(id)), 10)
	}
	return t.reasons.text(name)
}

// approving returns the number of the person that an approver's text stands for; 0 for none.
func (t *tables) approving(text uint32) uint32 {
	rest, ok := strings.CutPrefix(t.reasons.textOf(text), userMark)
	n, err := strconv.ParseUint(rest, 10, 24)
	if !ok || err != nil {
		return 0
	}
	return uint32(n)
}

func (t *tables) approverOf(text uint32) string {
	n := t.approving(text)
	if n == 0 {
		return t.reasons.textOf(text)
	}
	who := t.who(n)
	if who.ID == 0 {
		return who.Name
	}
	return fmt.Sprintf("%s (%s)", kubename.User(who.ID), who.Name)
}

// namespaceNumbers returns the numbers of a namespace: one that was made again for somebody else has more than one.
func (t *tables) namespaceNumbers(name string) map[uint32]bool {
	out := map[uint32]bool{}
	for _, n := range t.byName[name] {
		out[n] = true
	}
	return out
}
