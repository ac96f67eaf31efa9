package ci

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// memory is what is known from earlier passes. All of it belongs to who holds the lock.
type memory struct {
	mu     sync.Mutex
	facts  facts
	states map[string]*namespaceState // by namespace
	lost   map[string]map[int64]bool  // by namespace: who lost the right to read its token, and was not dealt with
	home   map[int64]string           // where a project deploys
}

// facts may change between two passes. Each look at a namespace has its own copy, and nobody changes what that refers to.
type facts struct {
	id      string // of the cluster, "" until it was read
	cluster Cluster
	agentCA []byte
}

// namespaceState is what is remembered of a namespace. But for until, uid, anchor and namespace.Account nothing in it is changed later.
type namespaceState struct {
	namespace Namespace
	until     time.Time // until then it need not be looked at, unless it changes
	failures  int
	findings  []authz.Finding
	records   map[int64]record
	uid       types.UID // of the Secret
	anchor    types.UID
	token     string // sum of the token
	life      time.Duration
}

// cached is an answer that is not asked for again for a while.
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
		if r.answer, r.err = ask(); r.err == nil {
			r.at = now
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
func (m *memory) begin(namespaces []Namespace, f facts) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.facts, m.home = f, map[int64]string{}
	present := make(map[string]bool, len(namespaces))
	for _, n := range namespaces {
		present[n.Name] = true
		if !n.Gone {
			for _, project := range n.Projects {
				m.home[project.ID] = n.Name
			}
		}
		for _, id := range n.Lost {
			if m.lost[n.Name] == nil {
				m.lost[n.Name] = map[int64]bool{}
			}
			m.lost[n.Name][id] = true
		}
	}
	maps.DeleteFunc(m.states, func(name string, _ *namespaceState) bool { return !present[name] })
	maps.DeleteFunc(m.lost, func(name string, _ map[int64]bool) bool { return !present[name] })
}

// todo returns what has to be looked at: first where a token has to die, then by name, so that an interrupted pass
// goes on where it stopped.
func (m *memory) todo(namespaces []Namespace, now time.Time) []Namespace {
	m.mu.Lock()
	defer m.mu.Unlock()
	var urgent, later []Namespace
	for _, n := range namespaces {
		st, lost := m.states[n.Name], m.lost[n.Name] != nil
		if st != nil && st.namespace.Account == "" { // it was new then and has no token; now its uid is known
			st.namespace.Account = n.Account
		}
		switch {
		case st != nil && st.namespace.same(n) && now.Before(st.until) && !lost:
		case n.Gone || lost || st != nil && !n.Undecided && len(without(st.namespace.Readers, n.Readers)) > 0:
			urgent = append(urgent, n)
		default:
			later = append(later, n)
		}
	}
	byName := func(a, b Namespace) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(urgent, byName)
	slices.SortFunc(later, byName)
	return append(urgent, later...)
}

// about returns a copy of what is known of a namespace, and who lost the right to read its token.
func (m *memory) about(namespace string) (f facts, st namespaceState, lost []int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if known := m.states[namespace]; known != nil {
		st = *known
	}
	return m.facts, st, slices.Sorted(maps.Keys(m.lost[namespace]))
}

// keep notes what a look at a namespace has found.
func (m *memory) keep(st *namespaceState, settledLoss bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.states[st.namespace.Name] = st
	if settledLoss {
		delete(m.lost, st.namespace.Name)
	}
}

// ending forgets a Secret that is about to be destroyed, or its end would look like somebody else's doing.
func (m *memory) ending(s *corev1.Secret) {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := m.states[s.Namespace]
	if st != nil && st.uid == s.UID {
		st.uid = ""
	}
	if st != nil && st.anchor == s.UID {
		st.anchor = ""
	}
}

// disturbed makes the next pass look at a Secret that is not as it was left, and reports whether that is so.
func (m *memory) disturbed(s *corev1.Secret, deleted bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := m.states[s.Namespace]
	switch {
	case st == nil || st.uid != s.UID && st.anchor != s.UID: // our own, or one before it
		return false
	case st.anchor == s.UID && !deleted:
		return false
	case !deleted && sum(string(s.Data[keyToken])) == st.token:
		return false
	}
	st.until = time.Time{}
	return true
}

// deliveredElsewhere returns the other namespace that a project deploys into, "" if there is none, and what it was
// given there.
func (m *memory) deliveredElsewhere(project int64, not string) (home string, r record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	home = m.home[project]
	if home == "" || home == not {
		return "", record{}
	}
	if st := m.states[home]; st != nil {
		r = st.records[project]
	}
	return home, r
}

// gather reports what is known of all namespaces. lifetime is what was asked for.
func (m *memory) gather(namespaces []Namespace, lifetime time.Duration, r *Report) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var short time.Duration
	var where []string
	for _, n := range namespaces {
		st := m.states[n.Name]
		if st == nil {
			continue
		}
		r.Findings = append(r.Findings, st.findings...)
		if r.Next.IsZero() || st.until.Before(r.Next) {
			r.Next = st.until
		}
		if st.life > 0 && st.life < lifetime*9/10 {
			where = append(where, n.Name)
			if short == 0 || st.life < short {
				short = st.life
			}
		}
	}
	if len(where) > 0 {
		r.find("ci_token_lifetime", "the API server gives CI tokens %s instead of the %s asked for (ci.tokenLifetime), in %d namespaces (the first is %q): its flag --service-account-max-token-expiration says so."+
			" They are replaced in time all the same; set ci.tokenLifetime to what it allows", short, lifetime, len(where), slices.Min(where))
	}
	slices.SortFunc(r.Findings, func(a, b authz.Finding) int {
		return cmp.Or(a.Source.Compare(b.Source), strings.Compare(a.Code, b.Code), strings.Compare(a.Text, b.Text))
	})
}
