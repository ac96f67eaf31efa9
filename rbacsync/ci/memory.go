package ci

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// memory is what is known from earlier passes. All of it belongs to who holds the lock.
type memory struct {
	mu     sync.Mutex
	facts  facts
	states map[string]*namespaceState // by namespace
	lost   map[string]sets.Set[int64] // by namespace: who lost the right to read its token, and was not dealt with
	home   map[int64]string           // where a project deploys
	listed []Namespace                // the list that home is of
	events map[string]*secretEvents   // by namespace that is looked at now
	blind  time.Time                  // when what was missed was last looked for
	missed bool                       // something may have been missed since
	due
	notable map[string]*namespaceState // those of states that gather has something to report of
}

func newMemory(f facts) memory {
	return memory{
		facts: f, states: map[string]*namespaceState{}, lost: map[string]sets.Set[int64]{}, events: map[string]*secretEvents{},
		due: due{open: sets.New[string]()}, notable: map[string]*namespaceState{},
	}
}

// secretEvents are what happened to a namespace's Secrets while it was looked at. They are judged when the look is over and it is known
// what of that was our own doing: by what was known before, it can't be told.
type secretEvents struct {
	last  map[types.UID]secretEvent // the last of each Secret
	ended sets.Set[types.UID]       // what this process has destroyed
	blind bool                      // more may have happened: see missed
}

// secretEvent is what a watch has told of a Secret.
type secretEvent struct {
	name, sum string // sum: of the token in it
	deleted   bool
}

func eventOf(s *corev1.Secret, deleted bool) secretEvent {
	return secretEvent{s.Name, sum(string(s.Data[keyToken])), deleted}
}

// disturbs reports whether a Secret is not as it was left.
func (e secretEvent) disturbs(st *namespaceState) bool {
	return e.deleted || e.name != kubename.CIAnchor && e.sum != st.sum
}

// facts may change between two passes. Each look at a namespace has its own copy, and nobody changes what that refers to.
type facts struct {
	id      string // of the cluster, "" until it was read
	cluster Cluster
	agentCA []byte
	expands bool   // GitLab replaces references in values: see Config
	keys    string // by which the API server accepts tokens, "" while that is not known
}

func (f facts) same(o facts) bool {
	return f.id == o.id && f.cluster.URL == o.cluster.URL && bytes.Equal(f.cluster.CA, o.cluster.CA) && bytes.Equal(f.agentCA, o.agentCA) &&
		f.expands == o.expands && f.keys == o.keys
}

// namespaceState is what is remembered of a namespace. When a look at it is over, nothing in it is changed but next, uids and
// n.Account.
type namespaceState struct {
	n        Namespace
	next     time.Time // until then it need not be looked at, unless it changes; zero: at once
	failures int       // one after the other
	alive    bool      // a token that may have to die was not destroyed
	findings []authz.Finding
	recs     map[int64]record
	uids     sets.Set[types.UID] // of its Secrets
	sum      string              // of the token in the Secret
	life     time.Duration
	short    bool // it is clearly less than was asked for
}

// cached is an answer that is not asked for again for a while. After an error the one before is still there.
type cached[T any] struct {
	mu     sync.Mutex
	answer T
	err    error
	at     time.Time
}

func (r *cached[T]) get(now time.Time, every time.Duration, ask func() (T, error)) (T, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at.IsZero() || !now.Before(r.at.Add(every)) {
		answer, err := ask()
		if r.err = err; err == nil {
			r.answer, r.at = answer, now
		}
	}
	return r.answer, r.err
}

// configured returns what is known before the first pass.
func (c Config) configured() facts {
	f := facts{cluster: c.Cluster}
	if c.Agent != nil {
		f.agentCA = c.Agent.CA
	}
	return f
}

// begin takes note of a list of namespaces, and of what the pass over them goes by.
func (m *memory) begin(namespaces []Namespace, f facts, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lookForMissed(now)
	if !m.facts.same(f) { // what was made by the ones before is to be made anew, in each
		m.lookAtAll()
	}
	m.facts = f
	for i := range namespaces {
		if n := &namespaces[i]; len(n.Lost) > 0 {
			m.lost[n.Name] = m.lost[n.Name].Union(sets.New(n.Lost...))
		}
	}
	// There is a list after each hook, and nearly all of them have the same in them.
	if samePlaces(m.listed, namespaces) {
		return
	}
	m.listed, m.home = slices.Clone(namespaces), make(map[int64]string, len(namespaces)) // the list is the caller's to change
	present := make(map[string]bool, len(namespaces))
	for i := range namespaces {
		n := &namespaces[i]
		present[n.Name] = true
		if !n.Gone {
			for _, project := range n.Projects {
				m.home[project.ID] = n.Name
			}
		}
	}
	maps.DeleteFunc(m.states, func(name string, _ *namespaceState) bool { return !present[name] })
	maps.DeleteFunc(m.notable, func(name string, _ *namespaceState) bool { return !present[name] })
	maps.DeleteFunc(m.lost, func(name string, _ sets.Set[int64]) bool { return !present[name] })
}

// samePlaces reports whether two lists have the same namespaces, in the same order, and the same projects deploy into them.
func samePlaces(a, b []Namespace) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		x, y := &a[i], &b[i]
		if x.Name != y.Name || x.Gone != y.Gone || !equal(x.Projects, y.Projects, func(a, b Project) bool { return a.ID == b.ID }) {
			return false
		}
	}
	return true
}

// equal compares two slices, which often are the same one.
func equal[T any](a, b []T, same func(a, b T) bool) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.EqualFunc(a, b, same))
}

// about returns a copy of what is known of a namespace, and who lost the right to read its token.
func (m *memory) about(namespace string) (f facts, st namespaceState, lost []int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if known := m.states[namespace]; known != nil {
		st = *known
	}
	return m.facts, st, sets.List(m.lost[namespace])
}

// Though all is in order in them, so many namespaces are looked at again each Config.Recheck; of more, so many in a second, on average.
// Each look is two requests to kube-apiserver. Of a token that somebody else changes, and of a Secret that goes, the watches tell; after
// a gap between two of them all are looked at.
const (
	looksTogether  = 3000
	looksPerSecond = 10
)

// nextLook returns when a namespace that is in order is looked at again, recheck after now or later: of many each at another moment, since
// they were made together. What GitLab says of its agent is asked for at a look, and jobs depend on it.
func (m *memory) nextLook(n Namespace, now time.Time, recheck time.Duration) time.Time {
	if slices.ContainsFunc(n.Projects, func(p Project) bool { return p.Delivery == rbacsync.DeliverAgent }) {
		return now.Add(recheck)
	}
	m.mu.Lock()
	more := max(len(m.states)-looksTogether, 0)
	m.mu.Unlock()
	later := 2 * time.Duration(more) * time.Second / looksPerSecond
	return now.Add(recheck + time.Duration(fraction(fmt.Sprint(n.Name, now.UnixNano()))*float64(later)))
}

// listen begins to gather what happens to the Secrets of a namespace, until keep.
func (m *memory) listen(namespace string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.events[namespace] = &secretEvents{last: map[types.UID]secretEvent{}, ended: sets.New[types.UID]()}
}

// keep notes what a look at a namespace has found. What somebody did to the Secrets meanwhile has it looked at again at once, or
// after a failure when that is tried again.
func (m *memory) keep(st *namespaceState, settledLoss bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.events[st.n.Name]
	delete(m.events, st.n.Name)
	again := h.blind || len(st.uids.Intersection(h.ended)) > 0
	st.uids = st.uids.Difference(h.ended)
	for uid, e := range h.last {
		again = again || st.uids.Has(uid) && e.disturbs(st)
	}
	if again && st.failures == 0 {
		st.next = time.Time{}
	}
	m.remember(st)
	m.open.Delete(st.n.Name)
	if settledLoss {
		delete(m.lost, st.n.Name)
	}
}

// remember takes in a state. Whoever calls it holds the lock.
func (m *memory) remember(st *namespaceState) {
	m.states[st.n.Name] = st
	m.dueAt(st.next)
	if len(st.findings) > 0 || st.alive || st.short {
		m.notable[st.n.Name] = st
	} else {
		delete(m.notable, st.n.Name)
	}
}

// ending forgets a Secret that is about to be destroyed, or its end would look like somebody else's doing. Beside a pass that
// leaves the namespace without what it had, also if all else is again as it was when it was looked at last: so it is looked at again.
func (m *memory) ending(s *corev1.Secret) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if st := m.states[s.Namespace]; st != nil {
		if st.uids.Has(s.UID) && st.failures == 0 {
			st.next = time.Time{}
			m.dueAt(st.next)
		}
		st.uids.Delete(s.UID)
	}
	if h := m.events[s.Namespace]; h != nil {
		h.ended.Insert(s.UID)
	}
}

// disturbed makes the next pass look at a Secret that is not as it was left, and reports whether that is so.
func (m *memory) disturbed(s *corev1.Secret, deleted bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := eventOf(s, deleted)
	if h := m.events[s.Namespace]; h != nil {
		h.last[s.UID] = e
	}
	st := m.states[s.Namespace]
	if st == nil || !st.uids.Has(s.UID) || !e.disturbs(st) { // our own, or one before it
		return false
	}
	st.next = time.Time{}
	m.dueAt(st.next)
	return true
}

// missedEvery is how often all Secrets are looked at again for what a watch may have missed: something between us and kube-apiserver
// may end watches all the time.
const missedEvery = time.Minute

// miss makes the next pass look at all Secrets, missedEvery after the last time at the earliest: something may have happened to them
// that no watch has told. It reports whether there is something to look at now.
func (m *memory) miss(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.events)+len(m.states) == 0 {
		return false
	}
	m.missed = true
	return m.lookForMissed(now)
}

// lookForMissed has what was missed looked for, if it is time, and reports whether it was. Whoever calls it holds the lock.
func (m *memory) lookForMissed(now time.Time) bool {
	if !m.missed || now.Before(m.blind.Add(missedEvery)) {
		return false
	}
	m.blind, m.missed = now, false
	for _, h := range m.events {
		h.blind = true
	}
	m.lookAtAll()
	return true
}

// lookAtAll makes the next pass look at all namespaces. Whoever calls it holds the lock.
func (m *memory) lookAtAll() {
	for _, st := range m.states {
		if st.failures == 0 {
			st.next = time.Time{}
			m.dueAt(st.next)
		}
	}
}

// deliveredElsewhere returns the other namespace that a project deploys into, "" if there is none, and what it was
// given there.
func (m *memory) deliveredElsewhere(project int64, not string) (home string, r record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if home = m.home[project]; home == not {
		return "", record{}
	}
	if st := m.states[home]; st != nil {
		r = st.recs[project]
	}
	return home, r
}

// gather reports what is known of all namespaces at a time. It costs what there is to report. lifetime is what was asked for.
func (m *memory) gather(lifetime time.Duration, r *Report) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var short time.Duration
	var where []string
	for name, st := range m.notable {
		r.Findings = append(r.Findings, st.findings...)
		r.Dying = r.Dying || st.alive
		if st.short {
			where = append(where, name)
			short = min(cmp.Or(short, st.life), st.life)
		}
	}
	r.Next = m.nextWalk()
	if at := m.blind.Add(missedEvery); m.missed && len(m.states) > 0 && (r.Next.IsZero() || at.Before(r.Next)) {
		r.Next = at
	}
	if len(where) > 0 {
		r.find("ci_token_lifetime", "the API server gives CI tokens %s instead of the %s asked for (ci.tokenLifetime), in %d namespaces (the first is %q): its flag --service-account-max-token-expiration says so."+
			" They are replaced in time all the same; set ci.tokenLifetime to what it allows", short, lifetime, len(where), slices.Min(where))
	}
	slices.SortFunc(r.Findings, func(a, b authz.Finding) int {
		return cmp.Or(a.Source.Compare(b.Source), strings.Compare(a.Code, b.Code), strings.Compare(a.Text, b.Text))
	})
}
