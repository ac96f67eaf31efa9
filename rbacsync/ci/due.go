package ci

import (
	"iter"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// due is what a memory knows of when what is to be looked at. There is a list of namespaces after each hook, and a look at each
// namespace from time to time: neither is to cost what all of them do.
type due struct {
	open   sets.Set[string] // what may have to be looked at now, and what had to be and was not yet
	next   time.Time        // before it none of the states is due that is not open; zero: none is at all
	walked time.Time        // when all states were last looked through for those that are due
}

// walkEvery is how often that is at most: of many namespaces some are due all the time.
const walkEvery = time.Second

// dueAt takes note of a state that is due at a time, zero: at once.
func (d *due) dueAt(next time.Time) {
	if next.IsZero() {
		next = time.Unix(0, 0)
	}
	if d.next.IsZero() || next.Before(d.next) {
		d.next = next
	}
}

// nextWalk returns when the next state may be due; zero: none will be.
func (d *due) nextWalk() time.Time {
	at := d.walked.Add(walkEvery)
	if d.next.IsZero() || d.next.After(at) {
		return d.next
	}
	return at
}

// walk opens all that is due.
func (m *memory) walk(now time.Time) {
	m.walked, m.next = now, time.Time{}
	for name, st := range m.states {
		if now.Before(st.next) {
			m.dueAt(st.next)
		} else {
			m.open.Insert(name)
		}
	}
}

// todo returns what has to be looked at: first where a token has to die, which are the first dying of all, then by name, so that an
// interrupted pass goes on where it stopped. With a scope the list is by name, and what is in it outside the scope is as it was when it
// was given last.
func (m *memory) todo(namespaces []Namespace, scope rbacsync.Scope, now time.Time) (all []Namespace, dying int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at := m.nextWalk(); scope == nil || !at.IsZero() && !now.Before(at) {
		m.walk(now)
	}
	var urgent, later []Namespace
	for n := range m.candidates(namespaces, scope) {
		st, lost := m.states[n.Name], len(m.lost) > 0 && m.lost[n.Name] != nil
		if st != nil && st.n.Account == "" { // it was new then and has no token; now its uid is known
			st.n.Account = n.Account
		}
		switch {
		case st != nil && st.n.same(*n) && now.Before(st.next) && !lost:
		case n.Gone || lost || st != nil && st.alive || st != nil && !n.Undecided && !sets.New(n.Readers...).HasAll(st.n.Readers...):
			urgent = append(urgent, *n)
		default:
			later = append(later, *n)
		}
	}
	all = append(urgent, later...)
	m.open = sets.New[string]()
	for i := range all {
		m.open.Insert(all[i].Name)
	}
	return all, len(urgent)
}

// candidates returns what may have to be looked at, by name.
func (m *memory) candidates(namespaces []Namespace, scope rbacsync.Scope) iter.Seq[*Namespace] {
	return func(yield func(*Namespace) bool) {
		if scope == nil {
			if !slices.IsSortedFunc(namespaces, byName) {
				namespaces = slices.SortedFunc(slices.Values(namespaces), byName)
			}
			for i := range namespaces {
				if !yield(&namespaces[i]) {
					return
				}
			}
			return
		}
		names := m.open.Union(sets.KeySet(scope)).Union(sets.KeySet(m.lost))
		for _, name := range sets.List(names) {
			if at, there := Find(namespaces, name); there && !yield(&namespaces[at]) {
				return
			}
		}
	}
}

func byName(a, b Namespace) int { return strings.Compare(a.Name, b.Name) }

// Find finds a namespace in a list by name, or where it would be.
func Find(list []Namespace, name string) (at int, there bool) {
	return slices.BinarySearchFunc(list, Namespace{Name: name}, byName)
}
