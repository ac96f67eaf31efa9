package ci

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// everywhere returns what has to be looked at by a look at all; unchanged are those of which the list says what it said before.
func (m *memory) everywhere(list []Namespace, now time.Time) (dying, other, unchanged sets.Set[string]) {
	dying, other, unchanged = sets.New[string](), sets.New[string](), sets.New[string]()
	for _, n := range list {
		st := m.states[n.Name]
		if st != nil && st.n.Account == "" {
			known := *st
			known.n.Account, st = n.Account, &known
		}
		switch _, lost := m.lost[n.Name]; {
		case st != nil && st.n.same(n) && !lost && now.Before(st.next):
		case n.Gone || lost || st != nil && st.alive || st != nil && !n.Undecided && !sets.New(n.Readers...).HasAll(st.n.Readers...):
			dying.Insert(n.Name)
		default:
			other.Insert(n.Name)
		}
		if st != nil && st.n.same(n) && m.lost[n.Name] == nil {
			unchanged.Insert(n.Name)
		}
	}
	return dying, other, unchanged
}

// TestAScopeIsAsGoodAsAll: whatever happens to namespaces, tokens and watches, and wherever a pass is stopped, a pass over those that
// changed looks at nothing that one over all would not look at, at all that has to be looked at in its scope, and a second later at the
// rest; and it has the same to report.
func TestAScopeIsAsGoodAsAll(t *testing.T) {
	t.Parallel()
	scoped, late, stopped := 0, 0, 0
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 146))
		now := time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)
		m, known := remembers(facts{}), facts{}
		var list []Namespace
		walked := time.Time{}
		scope := rbacsync.Scope(nil)
		for step := range 80 {
			list = slices.Clone(list)
			for range r.IntN(4) {
				if name := changeOne(r, &list); scope != nil {
					scope = scope.Union(rbacsync.Scope{name: true})
				}
			}
			if r.IntN(20) == 0 {
				scope = nil
			}
			if name := disturb(r, m, now); name != "" && scope != nil {
				scope = scope.Union(rbacsync.Scope{name: true})
			}
			if r.IntN(30) == 0 {
				known.keys = fmt.Sprint(step)
			}
			m.begin(list, known, now)
			for i := range list {
				list[i].Lost = nil
			}
			dying, other, unchanged := m.everywhere(list, now)
			all, n := m.todo(list, scope, now)
			got := sets.New[string]()
			for i, one := range all {
				if name := one.Name; i < n && !dying.Has(name) || i >= n && !other.Has(name) {
					t.Fatalf("seed %d step %d: %s is looked at (dying: %v), a look at all would not", seed, step, name, i < n)
				}
				got.Insert(one.Name)
			}
			if !slices.IsSortedFunc(all[:n], byName) || !slices.IsSortedFunc(all[n:], byName) || len(got) != len(all) {
				t.Fatalf("seed %d step %d: %v are not by name, each once", seed, step, all)
			}
			missed := dying.Union(other).Difference(got)
			if scope != nil {
				scoped++
			}
			late += len(missed)
			if fresh := now.Before(walked.Add(walkEvery)); len(missed) > 0 && (!fresh || scope == nil || !unchanged.Difference(sets.KeySet(scope)).IsSuperset(missed)) {
				t.Fatalf("seed %d step %d: %v are not looked at in scope %v (last walk %v ago)", seed, step, sets.List(missed), scope, now.Sub(walked))
			}
			walked, scope = m.walked, rbacsync.Scope{}
			for i, one := range all {
				if r.IntN(8) == 0 {
					stopped++
					break
				}
				m.listen(one.Name)
				if name := disturb(r, m, now); name != "" {
					scope = scope.Union(rbacsync.Scope{name: true})
				}
				m.keep(lookedAt(r, one, now), i < n && r.IntN(4) > 0)
			}
			checkGathered(t, m, now)
			now = now.Add(time.Duration(r.IntN(2000)) * time.Millisecond)
		}
	}
	if scoped < 9000 || late < 100 || stopped < 1000 {
		t.Errorf("%d passes over scopes, %d times late, %d stopped: this shows little", scoped, late, stopped)
	}
}

// changeOne changes one namespace of a list, and returns which.
func changeOne(r *rand.Rand, list *[]Namespace) string {
	name := fmt.Sprintf("ns-%d", r.IntN(12))
	at, there := Find(*list, name)
	if !there {
		*list = slices.Insert(*list, at, Namespace{Name: name, Readers: []int64{1, 2, 3}})
		return name
	}
	n := &(*list)[at]
	switch r.IntN(7) {
	case 0:
		*list = slices.Delete(*list, at, at+1)
	case 1:
		n.Gone = !n.Gone
	case 2:
		n.Readers = []int64{1, 2, 3}[:r.IntN(4)]
	case 3:
		n.Projects = []Project{{ID: r.Int64N(3)}}
	case 4:
		n.Lost = []int64{r.Int64N(4)}
	case 5:
		n.Undecided = !n.Undecided
	case 6:
		n.Account = types.UID(fmt.Sprint(r.IntN(3)))
	}
	return name
}

// disturb lets something happen to the Secret of a namespace, or to the watches of all. It returns which of them a watch tells of.
func disturb(r *rand.Rand, m *memory, now time.Time) string {
	name := fmt.Sprintf("ns-%d", r.IntN(12))
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "gitlab-ci", UID: "own"}}
	switch r.IntN(12) {
	case 0:
		if m.disturbed(s, true) {
			return name
		}
	case 1:
		m.ending(s)
	case 2:
		m.miss(now)
	}
	return ""
}

// lookedAt returns what a look at a namespace may have left.
func lookedAt(r *rand.Rand, n Namespace, now time.Time) *namespaceState {
	st := &namespaceState{n: n, next: now.Add(time.Duration(r.IntN(5000)) * time.Millisecond), uids: sets.New[types.UID]("own")}
	switch r.IntN(6) {
	case 0:
		st.failures, st.alive = 1, r.IntN(2) == 0
	case 1:
		st.findings = []authz.Finding{{Code: "ci_token_failed", Text: n.Name}}
	case 2:
		st.life, st.short = time.Minute, true
	}
	return st
}

// checkGathered compares what is reported with what is known of each namespace.
func checkGathered(t *testing.T, m *memory, now time.Time) {
	t.Helper()
	var got Report
	m.gather(time.Hour, &got)
	found, short, alive := 0, false, false
	for _, st := range m.states {
		found, alive, short = found+len(st.findings), alive || st.alive, short || st.life > 0
		if at := st.next; !m.open.Has(st.n.Name) && (got.Next.IsZero() || got.Next.After(now.Add(walkEvery)) && got.Next.After(at)) {
			t.Fatalf("%s is due at %v, and the next pass is at %v", st.n.Name, at, got.Next)
		}
	}
	if short {
		found++
	}
	if len(got.Findings) != found || got.Dying != alive {
		t.Fatalf("%d findings, dying %v, want %d and %v", len(got.Findings), got.Dying, found, alive)
	}
}
