package syncer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// TestWhatAScopeHasIsReplaced: after any sequence of lists about some namespaces, what is known of CI credentials is what the last
// list about each namespace said, in the order of their names.
func TestWhatAScopeHasIsReplaced(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 12))
		var c credentials
		want := map[string]ci.Namespace{}
		for step := range 20 {
			scope, list := rbacsync.Scope{}, []ci.Namespace{}
			for range r.IntN(5) {
				scope[fmt.Sprintf("ns-%d", r.IntN(12))] = true
			}
			for ns := range scope {
				if delete(want, ns); r.IntN(3) > 0 {
					n := ci.Namespace{Name: ns, Source: authz.ProjectID(int64(step))}
					list, want[ns] = append(list, n), n
				}
			}
			c.replace(list, scope)
			var got []string
			for _, n := range c.known {
				if got = append(got, n.Name); !reflect.DeepEqual(n, want[n.Name]) {
					t.Fatalf("seed %d, step %d: %s is %v, want %v", seed, step, n.Name, n, want[n.Name])
				}
			}
			if names := slices.Sorted(maps.Keys(want)); !slices.Equal(got, names) {
				t.Fatalf("seed %d, step %d: known are %v, want %v", seed, step, got, names)
			}
		}
	}
}

// TestUrgent: nothing waits where a token may have to die.
func TestUrgent(t *testing.T) {
	t.Parallel()
	is := func(n ci.Namespace) []ci.Namespace {
		n.Name = "b"
		return []ci.Namespace{{Name: "a", Gone: true}, n, {Name: "c"}}
	}
	for name, c := range map[string]struct {
		before, now []ci.Namespace
		want        bool
		destroyed   string
	}{
		"the same":                 {before: is(ci.Namespace{}), now: is(ci.Namespace{}), want: false},
		"more readers":             {before: is(ci.Namespace{}), now: is(ci.Namespace{Readers: []int64{1}}), want: false},
		"fewer readers":            {before: is(ci.Namespace{Readers: []int64{1, 2}}), now: is(ci.Namespace{Readers: []int64{1}}), want: true},
		"fewer, and destroyed":     {before: is(ci.Namespace{Readers: []int64{1, 2}}), now: is(ci.Namespace{Readers: []int64{1}}), destroyed: "b"},
		"fewer, and not judged":    {before: is(ci.Namespace{Readers: []int64{1, 2}}), now: is(ci.Namespace{Readers: []int64{1}, Undecided: true})},
		"one that is new":          {before: is(ci.Namespace{})[:1], now: is(ci.Namespace{}), want: false},
		"one that destroy left":    {before: is(ci.Namespace{}), now: is(ci.Namespace{Lost: []int64{1}}), want: true},
		"gone from GitLab":         {before: is(ci.Namespace{}), now: is(ci.Namespace{Gone: true}), want: true},
		"gone before":              {before: is(ci.Namespace{Gone: true}), now: is(ci.Namespace{Gone: true}), want: false},
		"new, and gone":            {before: is(ci.Namespace{})[:1], now: is(ci.Namespace{Gone: true}), want: true},
		"judged again":             {before: is(ci.Namespace{Undecided: true}), now: is(ci.Namespace{}), want: true},
		"can't be judged any more": {before: is(ci.Namespace{}), now: is(ci.Namespace{Undecided: true}), want: false},
	} {
		if got := urgent(c.now, c.before, map[string]bool{c.destroyed: true}); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestHurry: in whatever order a list is offered and taken, one by which a token may have to die is waited for until it is taken.
func TestHurry(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 143))
		var h hurry
		h.offered.Store(int64(r.IntN(3))) // by another run, which did not take all
		h.begin()
		next := make(chan ciList, 1)
		var said, took int64
		for range 30 {
			if r.IntN(2) == 0 {
				var list ciList
				if r.IntN(3) == 0 {
					said = h.offered.Add(1)
					list.urgent = said
					if !h.waits() {
						t.Fatalf("seed %d: it is about to be offered, and nobody hurries", seed)
					}
				}
				offerCI(next, list)
			} else if len(next) > 0 {
				list := newest(next, ciList{urgent: took}, ciList.with)
				took = list.urgent
				h.taken.Store(took)
			}
			if h.waits() != (took < said) {
				t.Fatalf("seed %d: of %d lists that were said to be urgent %d were taken, and it hurries: %t", seed, said, took, h.waits())
			}
		}
	}
}

// slowMemory stores as long as others let it, in pieces.
type slowMemory struct {
	Memory
	saved *atomic.Int64
}

func (m slowMemory) Save(_ context.Context, _ Stored, yield func()) error {
	for range 10 {
		if yield != nil {
			yield()
		}
	}
	m.saved.Add(1)
	return nil
}

// TestStoringGoesOnBesideHooks: hooks that never end put off the storing by what it waits for them, and not by twenty times that.
func TestStoringGoesOnBesideHooks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		saved := new(atomic.Int64)
		s := &saver{
			o: &Options{}, busy: func() bool { return true }, memory: newSerialMemory(slowMemory{saved: saved}), offers: make(chan Stored, 1),
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { s.run(ctx); close(done) }()
		for range 60 {
			latest(s.offers, Stored{})
			time.Sleep(time.Second)
		}
		if n := saved.Load(); n != 5 { // each after 1 s, twice 5 s, and a pause of 1 s
			t.Errorf("it was stored %d times in a minute", n)
		}
		cancel()
		<-done
	})
}

// TestWhoStoresMakesWay: a pass that has something to store waits for no saver who waits for passes, and for nobody longer than it may.
func TestWhoStoresMakesWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newSerialMemory(slowMemory{saved: new(atomic.Int64)})
		busy := func() bool { return true }
		s := &saver{o: &Options{}, busy: busy, memory: m, offers: make(chan Stored, 1)}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { s.run(ctx); close(done) }()
		s.offers <- Stored{}
		time.Sleep(besideAfter + besidePatience + time.Second) // now it yields, and has the turn
		if len(m.turn) != 1 {
			t.Fatal("nobody is storing")
		}
		begun := time.Now()
		if err := m.Save(t.Context(), Stored{}, nil); err != nil || time.Since(begun) > 10*time.Millisecond {
			t.Errorf("a pass waited for %s: %v", time.Since(begun), err)
		}
		m.turn <- struct{}{} // of somebody who hangs
		short, end := context.WithTimeout(t.Context(), time.Second)
		defer end()
		if err := m.Save(short, Stored{}, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it waited longer than it may: %v", err)
		}
		<-m.turn
		cancel()
		<-done
	})
}

// oneStored is a Memory of one thing, of which loading takes a second.
type oneStored struct{ st Stored }

func (m *oneStored) Load(context.Context, string) (*Stored, string, error) {
	st := m.st
	time.Sleep(time.Second)
	return &st, "", nil
}

func (m *oneStored) Save(_ context.Context, st Stored, _ func()) error {
	m.st = st
	return nil
}

// TestAChangeLosesNothingNewer: what is stored while a pass changes what was stored before is not lost by that.
func TestAChangeLosesNothingNewer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kept := &oneStored{st: Stored{Jobs: map[int64]string{1: "old"}}}
		m := newSerialMemory(kept)
		changed := make(chan error, 1)
		go func() {
			changed <- m.change(t.Context(), func(st *Stored) bool {
				st.Begun = []authz.PolicyConfig{{}}
				return true
			})
		}()
		time.Sleep(time.Second / 2)
		if err := m.Save(t.Context(), Stored{Jobs: map[int64]string{1: "new"}}, nil); err != nil {
			t.Error(err)
		}
		if err := <-changed; err != nil {
			t.Error(err)
		}
		if kept.st.Jobs[1] != "new" {
			t.Errorf("what was stored meanwhile is gone: %v", kept.st)
		}
	})
}
