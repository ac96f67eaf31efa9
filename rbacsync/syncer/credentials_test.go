package syncer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// TestNewsOfCICredentials: after any sequence of lists, of all namespaces or of some, taken one by one or together, what is known of a
// namespace is what the last list about it said, and who has lost the right to read its token and was not dealt with, in the order of
// the names. What is known of some alone is never taken for what is known of all.
func TestNewsOfCICredentials(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 12))
		known, heap := noCINews(), noCINews() // heap takes several at a time
		var waiting *ciNews
		want, whole := map[string]ci.Namespace{}, false
		for step := range 20 {
			news := ciNews{scope: rbacsync.Scope{}, urgent: int64(r.IntN(step + 1))}
			for range r.IntN(5) {
				news.scope[fmt.Sprintf("ns-%d", r.IntN(12))] = true
			}
			if r.IntN(6) == 0 {
				for n := range 12 {
					news.scope[fmt.Sprintf("ns-%d", n)] = true
				}
			}
			for _, ns := range slices.Sorted(maps.Keys(news.scope)) {
				old := want[ns]
				if delete(want, ns); r.IntN(3) == 0 {
					continue
				}
				n := ci.Namespace{Name: ns, Source: authz.ProjectID(int64(step)), Readers: []int64{int64(r.IntN(3))}}
				if r.IntN(3) == 0 {
					n.Lost = []int64{3 + int64(r.IntN(3))}
				}
				news.list = append(news.list, n)
				for _, id := range old.Lost {
					if id != n.Readers[0] {
						n.Lost = append(slices.Clip(n.Lost), id)
					}
				}
				want[ns] = n
			}
			if len(news.scope) == 12 {
				news.scope, whole = nil, true
			}
			clone := news
			clone.list = slices.Clone(news.list)
			if waiting == nil {
				waiting = &clone
			} else {
				waiting.take(clone)
			}
			if r.IntN(3) == 0 {
				heap.take(*waiting)
				waiting = nil
			}
			known.take(news)
			check := func(n ciNews, exact bool) {
				t.Helper()
				names := slices.Sorted(maps.Keys(want))
				if !slices.EqualFunc(n.list, names, func(n ci.Namespace, name string) bool { return n.Name == name }) || (n.scope == nil) != whole {
					t.Fatalf("seed %d, step %d: known are %v, all: %t; want %v, all: %t", seed, step, n.list, n.scope == nil, names, whole)
				}
				for _, n := range n.list {
					w := want[n.Name]
					// Taken together, who could read a token again meanwhile may be among the lost: then it dies for nothing.
					if missing := sets.New(w.Lost...).Difference(sets.New(n.Lost...)); len(missing) > 0 || exact && !slices.Equal(n.Lost, w.Lost) {
						t.Fatalf("seed %d, step %d: in %s %v have lost, want %v", seed, step, n.Name, n.Lost, w.Lost)
					}
					if n.Lost, w.Lost = nil, nil; !reflect.DeepEqual(n, w) {
						t.Fatalf("seed %d, step %d: %s is %+v, want %+v", seed, step, n.Name, n, w)
					}
				}
			}
			check(known, true)
			if waiting == nil {
				check(heap, false)
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
		var h urgentCount
		h.offered.Store(int64(r.IntN(3))) // by another run, which did not take all
		h.begin()
		next := make(chan ciNews, 1)
		var said, took int64
		for range 30 {
			if r.IntN(2) == 0 {
				var list ciNews
				if r.IntN(3) == 0 {
					said = h.offered.Add(1)
					list.urgent = said
					if !h.waits() {
						t.Fatalf("seed %d: it is about to be offered, and nobody hurries", seed)
					}
				}
				list.offer(next)
			} else if len(next) > 0 {
				list := ciNews{urgent: took}
				list.takeWaiting(next)
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
		time.Sleep(backgroundAfter + backgroundPatience + time.Second) // now it yields, and has the turn
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

// TestTokensWaitForALargePlan: while a pass writes much, new tokens wait for its end, for yieldLarge at most; what may have to die does
// not.
func TestTokensWaitForALargePlan(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		large    time.Duration
		urgent   bool
		failures int // of deletions
		from, to time.Duration
		gone     bool
	}{
		"none":                            {0, false, 0, 0, 2 * time.Second, false},
		"one":                             {3 * time.Minute, false, 0, 3 * time.Minute, 3*time.Minute + 2*time.Second, false},
		"without end":                     {time.Hour, false, 0, yieldLarge, yieldLarge + 2*time.Second, false},
		"somebody lost one":               {time.Hour, true, 0, 0, 2 * time.Second, false},
		"somebody lost one, and it lives": {time.Hour, true, 4, 10 * time.Second, time.Minute, false},
		"one is gone, and it lives":       {time.Hour, true, 4, 10 * time.Second, time.Minute, true},
		"it ends between two":             {yieldLarge - time.Second, false, 0, yieldLarge - time.Second, yieldLarge + time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithCancel(t.Context())
				kube := fake.NewClientset()
				log := slog.New(slog.DiscardHandler)
				cr := &credentials{
					o:    &Options{CI: ci.New(ci.Config{Kube: kube, Now: time.Now}), Kube: kube, Now: time.Now, Logger: log},
					look: func(look) {}, busy: func() bool { return false },
				}
				in := make(chan ciNews, 1)
				var wg sync.WaitGroup
				wg.Go(func() { cr.run(ctx, in, nil) })
				n := ci.Namespace{Name: "ns", Source: authz.ProjectID(1), Delivery: rbacsync.DeliverIDToken, Account: "uid"}
				if c.urgent {
					_, err := kube.CoreV1().Secrets("ns").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
						Name: kubename.CISecret, Labels: map[string]string{kubename.LabelManagedBy: kubename.ManagedBy},
					}, Type: corev1.SecretTypeOpaque, Data: map[string][]byte{"token": []byte("t")}}, metav1.CreateOptions{})
					if err != nil {
						t.Fatal(err)
					}
					if n.Lost = []int64{7}; c.gone {
						n.Lost, n.Gone = nil, true
					}
				}
				kube.PrependReactor("delete", "secrets", func(kubetesting.Action) (bool, runtime.Object, error) {
					c.failures--
					return c.failures >= 0, nil, errors.New("too many requests")
				})
				done := func() bool { // it was made, or made anew without the token
					s, err := kube.CoreV1().Secrets("ns").Get(ctx, kubename.CISecret, metav1.GetOptions{})
					return c.gone && apierrors.IsNotFound(err) || err == nil && len(s.Data["token"]) == 0
				}
				begun := time.Now()
				cr.large.Store(c.large > 0)
				time.AfterFunc(c.large, func() { cr.large.Store(false) })
				news := ciNews{list: []ci.Namespace{n}}
				if c.gone { // beside one that waits
					news.list = append(news.list, ci.Namespace{Name: "other", Source: authz.ProjectID(2), Delivery: rbacsync.DeliverIDToken, Account: "uid"})
				}
				if c.urgent {
					news.urgent = cr.urgent.offered.Add(1)
				}
				news.offer(in)
				for !done() && time.Since(begun) < time.Hour {
					time.Sleep(time.Second)
				}
				if took := time.Since(begun); took < c.from || took > c.to {
					t.Errorf("it took %v, want %v to %v", took, c.from, c.to)
				}
				stop()
				wg.Wait()
			})
		})
	}
}
