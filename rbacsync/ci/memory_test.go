package ci

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

func remembers(f facts, known ...*namespaceState) *memory {
	m := newMemory(f)
	for _, st := range known {
		m.remember(st)
	}
	return &m
}

// TestHomesAreOfTheLastList: after any lists, where projects deploy and which namespaces are known is as after the last one alone.
func TestHomesAreOfTheLastList(t *testing.T) {
	t.Parallel()
	fresh := func() *memory { return remembers(facts{}) }
	same := 0
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 144))
		m := fresh()
		var list []Namespace
		for range 20 {
			if r.IntN(2) == 0 { // else it is changed in its place
				list = slices.Clone(list)
			}
			switch at := r.IntN(max(len(list), 1)); {
			case len(list) == 0 || r.IntN(4) == 0:
				list = append(list, Namespace{Name: fmt.Sprintf("ns-%d", r.IntN(1000)), Projects: []Project{{ID: r.Int64N(50)}}})
			case r.IntN(4) == 0:
				list = slices.Delete(list, at, at+1)
			case r.IntN(4) == 0:
				list[at].Gone = !list[at].Gone
			case r.IntN(4) == 0:
				list[at].Projects = append(slices.Clone(list[at].Projects), Project{ID: r.Int64N(50)})
			default:
				list[at].Readers, list[at].Lost = []int64{r.Int64N(9)}, []int64{1}
				same++
			}
			m.begin(list, facts{}, time.Time{})
			for _, n := range list {
				if m.states[n.Name] == nil {
					m.states[n.Name] = &namespaceState{n: n}
				}
			}
			want := fresh()
			want.begin(list, facts{}, time.Time{})
			if !maps.Equal(m.home, want.home) {
				t.Fatalf("seed %d: projects deploy into %v, want %v", seed, m.home, want.home)
			}
			for name := range m.states {
				if !slices.ContainsFunc(list, func(n Namespace) bool { return n.Name == name }) {
					t.Fatalf("seed %d: %s is in no list any more and remembered", seed, name)
				}
			}
			for _, n := range list {
				if len(n.Lost) > 0 && !m.lost[n.Name].Has(1) {
					t.Fatalf("seed %d: who has lost %s is forgotten", seed, n.Name)
				}
			}
		}
	}
	if same < 500 {
		t.Errorf("only %d lists had the same namespaces: this shows little", same)
	}
}

// TestLooksAreSpread: however many namespaces are in order, few are looked at again in a second, each at another moment, and none
// before Recheck; of few, each after it.
func TestLooksAreSpread(t *testing.T) {
	t.Parallel()
	now, recheck := time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC), 5*time.Minute
	for _, n := range []int{1, 3000, 3600, 12_000, 100_000} {
		m := remembers(facts{})
		for i := range n {
			m.states[fmt.Sprintf("ns-%d", i)] = &namespaceState{}
		}
		last, sum := time.Duration(0), time.Duration(0)
		in := map[int64]int{} // by minute
		for ns := range m.states {
			after := m.nextLook(Namespace{Name: ns}, now, recheck).Sub(now)
			if after < recheck {
				t.Fatalf("%s of %d is looked at again after %v", ns, n, after)
			}
			last, sum = max(last, after), sum+after
			in[int64(after/time.Minute)]++
		}
		agent := Namespace{Name: "agent", Projects: []Project{{ID: 1, Delivery: rbacsync.DeliverAgent}}}
		if after := m.nextLook(agent, now, recheck).Sub(now); after != recheck {
			t.Errorf("of %d, one with an agent is looked at after %v", n, after)
		}
		most := slices.Max(slices.Collect(maps.Values(in)))
		if n <= 3000 && last != recheck {
			t.Errorf("of %d the last is looked at after %v", n, last)
		}
		if rate := float64(n) / (sum / time.Duration(n)).Seconds(); rate > looksPerSecond*1.05 {
			t.Errorf("of %d, %.1f are looked at in a second", n, rate)
		}
		if n > 10_000 && most > 60*looksPerSecond {
			t.Errorf("of %d, %d are looked at in one minute", n, most)
		}
	}
}

// TestNewFactsHaveAllLookedAt: whatever of what tokens and variables are made by is another one than at the last pass, each namespace
// is looked at by the next one, however long it was not to be; after the same facts none is.
func TestNewFactsHaveAllLookedAt(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)
	before := facts{id: "1", cluster: Cluster{URL: "https://a", CA: []byte("a")}, agentCA: []byte("a"), keys: "a b"}
	for name, change := range map[string]func(*facts){
		"nothing": func(*facts) {}, "id": func(f *facts) { f.id = "2" }, "address": func(f *facts) { f.cluster.URL = "https://b" },
		"CA": func(f *facts) { f.cluster.CA = []byte("b") }, "the agent's CA": func(f *facts) { f.agentCA = nil },
		"references": func(f *facts) { f.expands = true }, "keys": func(f *facts) { f.keys = "b" },
	} {
		m := remembers(before)
		list := []Namespace{{Name: "a"}, {Name: "b"}}
		for _, n := range list {
			m.remember(&namespaceState{n: n, next: now.Add(time.Hour)})
		}
		f := before
		change(&f)
		m.begin(list, f, now)
		if todo, _ := m.todo(list, nil, now); (len(todo) == 2) != (name != "nothing") {
			t.Errorf("after another %s %d are looked at", name, len(todo))
		}
	}
}

// TestWhatWasMissedIsLookedFor: each gap in which no watch has told what happened to Secrets has all of them looked at, one within a
// minute of another when that is over. While nothing is known of any Secret nothing can be missed.
func TestWhatWasMissedIsLookedFor(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)
	m := remembers(facts{})
	list := []Namespace{{Name: "a"}}
	if m.miss(now) {
		t.Error("there was something to miss")
	}
	m.remember(&namespaceState{n: list[0], next: now.Add(time.Hour)})
	look := func(after time.Duration, want bool) {
		t.Helper()
		m.begin(list, facts{}, now.Add(after))
		todo, _ := m.todo(list, nil, now.Add(after))
		if (len(todo) == 1) != want {
			t.Errorf("%v later %d are looked at", after, len(todo))
		}
		m.states["a"].next = now.Add(time.Hour)
	}
	look(0, false)
	if !m.miss(now) {
		t.Error("it is not looked for")
	}
	look(0, true)
	if m.miss(now.Add(10 * time.Second)) {
		t.Error("it is looked for at once, again and again")
	}
	look(30*time.Second, false)
	var r Report
	if m.gather(time.Hour, &r); !r.Next.Equal(now.Add(missedEvery)) {
		t.Errorf("the next look is at %v", r.Next)
	}
	look(missedEvery, true)
	look(missedEvery+time.Second, false)
}

// TestWhatIsNotInOrderIsNotPutOff: however many namespaces there are, one with a finding is looked at again after Recheck: somebody may
// have made room, or upgraded GitLab.
func TestWhatIsNotInOrderIsNotPutOff(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)
	p := New(Config{Now: func() time.Time { return now }})
	for i := range 100_000 {
		p.states[fmt.Sprintf("ns-%d", i)] = &namespaceState{}
	}
	last := time.Duration(0)
	for i := range 20 {
		w := p.work(Namespace{Name: fmt.Sprintf("ns-%d", i)})
		last = max(last, w.ended(t.Context(), nil).next.Sub(now))
		w.findings = append(w.findings, authz.Finding{Code: "ci_gitlab_version"})
		if after := w.ended(t.Context(), nil).next.Sub(now); after != p.c.Recheck {
			t.Errorf("%s is looked at after %v", w.n.Name, after)
		}
	}
	if last < time.Hour {
		t.Errorf("of what is in order the last of 20 is looked at after %v", last)
	}
}

// TestKeyIDs: a token that is issued by a key that the API server lists changes nothing; one that it does not list yet does, and its
// end; and so does a key that is withdrawn.
func TestKeyIDs(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)
	k := keyring{fresh: map[string]time.Time{}}
	k.issued("a", now)
	listed := map[string]bool{"a": true, "b": true}
	look := func(want string) {
		t.Helper()
		now = now.Add(time.Minute)
		if err := k.look(t.Context(), func(context.Context) (map[string]bool, error) { return maps.Clone(listed), nil }, now, time.Second); err != nil {
			t.Fatal(err)
		}
		if got := k.ids(); got != want {
			t.Errorf("the keys are %q, want %q", got, want)
		}
	}
	if got := k.ids(); got != "" {
		t.Errorf("before they are known the keys are %q", got)
	}
	look("a b")
	k.issued("a", now)
	look("a b")
	k.issued("c", now)
	look("a b c")
	now = now.Add(freshFor)
	look("a b")
	delete(listed, "b")
	look("a")
}
