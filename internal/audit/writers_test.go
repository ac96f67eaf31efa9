package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// between is a client of which each request for Secrets is told before it is sent. An error is its answer. As a real client it does
// nothing for a context that is done.
type between struct {
	kubernetes.Interface
	ask func(verb, name string) error
}

func (k between) CoreV1() corev1client.CoreV1Interface {
	return betweenCore{k.Interface.CoreV1(), k.ask}
}

type betweenCore struct {
	corev1client.CoreV1Interface
	ask func(verb, name string) error
}

func (c betweenCore) Secrets(ns string) corev1client.SecretInterface {
	return betweenSecrets{c.CoreV1Interface.Secrets(ns), c.ask}
}

type betweenSecrets struct {
	corev1client.SecretInterface
	ask func(verb, name string) error
}

func (s betweenSecrets) Get(ctx context.Context, name string, o metav1.GetOptions) (*corev1.Secret, error) {
	if err := errors.Join(s.ask("get", name), ctx.Err()); err != nil {
		return nil, err
	}
	return s.SecretInterface.Get(ctx, name, o)
}

func (s betweenSecrets) Create(ctx context.Context, x *corev1.Secret, o metav1.CreateOptions) (*corev1.Secret, error) {
	if err := errors.Join(s.ask("create", x.Name), ctx.Err()); err != nil {
		return nil, err
	}
	return s.SecretInterface.Create(ctx, x, o)
}

func (s betweenSecrets) Update(ctx context.Context, x *corev1.Secret, o metav1.UpdateOptions) (*corev1.Secret, error) {
	if err := errors.Join(s.ask("update", x.Name), ctx.Err()); err != nil {
		return nil, err
	}
	return s.SecretInterface.Update(ctx, x, o)
}

func (s betweenSecrets) Delete(ctx context.Context, name string, o metav1.DeleteOptions) error {
	if err := errors.Join(s.ask("delete", name), ctx.Err()); err != nil {
		return err
	}
	return s.SecretInterface.Delete(ctx, name, o)
}

// own is a namespace in which one user alone ever has a right: whoever else is told of there was taken for another one.
func own(user int64) string { return "ns-" + strconv.FormatInt(user, 10) }

func (w *world) give(kind syncer.Kind, users ...int64) Written {
	scope := rbacsync.Scope{}
	var do []flips
	for _, u := range users {
		scope[own(u)] = true
		do = append(do, flips{own(u), "edit", u})
	}
	if kind == syncer.KindFull {
		scope = nil
	}
	return w.pass(kind, "hook", scope, do...)
}

// damage changes one key of a Secret.
func damage(t *testing.T, kube *fake.Clientset, name, key string) {
	t.Helper()
	s, err := kube.CoreV1().Secrets(deploy.Namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err == nil {
		s.Data[key] = []byte("garbage")
		_, err = kube.CoreV1().Secrets(deploy.Namespace).Update(t.Context(), s, metav1.UpdateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func writeLegacy(t *testing.T, kube kubernetes.Interface, at time.Time) {
	t.Helper()
	old := store.Blob{Client: kube, Namespace: deploy.Namespace, Name: store.NameHistory}
	err := old.Save(t.Context(), nil, func(out io.Writer) error {
		return json.NewEncoder(out).Encode(legacyChange{At: at, Namespace: own(1), Object: "RoleBinding " + own(1) + "/gitlab-edit", Action: "update", Added: []string{"gitlab:1 (u1)"}, Cause: "hook"})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// momentary is a scenario in which a writer misses a block that is there again for the next one.
const momentary = "a block is missing for a moment"

// scenarios are states of the store in which a leader that has much to record does each kind of write. Each is made once, and copied.
func scenarios(t *testing.T) map[string]func() (*world, *fake.Clientset) {
	t.Helper()
	begin := func(w *world, kube *fake.Clientset, many int64) {
		x := w.writer(kube, small)
		x.ledger.openRecords = 4
		w.save(t, x, w.pass(syncer.KindFull, "start", nil))
		for n := range many {
			w.save(t, x, w.give(syncer.KindTargeted, 1+n%9))
		}
	}
	out := map[string]func() (*world, *fake.Clientset){}
	for name, prepare := range map[string]func(w *world, kube *fake.Clientset){
		"nothing": func(*world, *fake.Clientset) {},
		"some": func(w *world, kube *fake.Clientset) {
			begin(w, kube, 3)
			left := ownSecret(slotName(7), map[string][]byte{blockKey(3): []byte("of a process that died")})
			if _, err := kube.CoreV1().Secrets(deploy.Namespace).Create(t.Context(), left, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		},
		"full": func(w *world, kube *fake.Clientset) { begin(w, kube, 40) },
		"a damaged base": func(w *world, kube *fake.Clientset) {
			begin(w, kube, 18) // the last two are in no block, and nobody has anything any more
			damage(t, kube, store.NameAuditBase, "content.gz")
		},
		"a damaged block": func(w *world, kube *fake.Clientset) {
			begin(w, kube, 20)
			damage(t, kube, slotName(0), blockKey(4))
		},
		momentary: func(w *world, kube *fake.Clientset) { begin(w, kube, 20) },
		"an earlier version": func(w *world, kube *fake.Clientset) {
			writeLegacy(t, kube, w.now.Add(-time.Hour))
			begin(w, kube, 3)
			w.now = w.now.Add(keepLegacy)
		},
	} {
		w, kube := newWorld(20), newCluster()
		prepare(w, kube)
		out[name] = copies(t, w, kube)
	}
	return out
}

var small = Limits{Days: 400, MaxBytes: 900, PseudonymiseAfter: time.Hour}

// shown is what the history says of a namespace.
type shown struct {
	moment  Moment // of now
	entries []Entry
}

// read returns what the history says of the namespace that is each user's own, by a reader that reads all of it.
func (w *world) read(t *testing.T, kube kubernetes.Interface) (all map[int64]shown, err error) {
	t.Helper()
	all = map[int64]shown{}
	err = NewReader(kube).read(t.Context(), func(b *book) {
		for user := range int64(20) {
			mine := b.namespaceNumbers(own(user + 1))
			all[user+1] = shown{
				b.at(w.now, func(namespace, _ uint32) bool { return mine[namespace] }),
				b.entries(time.Time{}, time.Time{}, func(r record) bool { return mine[r.namespace] }),
			}
		}
	})
	return all, err
}

// check compares what the history says with the world: the state of now, and that nobody is taken for somebody else.
func (w *world) check(t *testing.T, kube kubernetes.Interface, what string) {
	t.Helper()
	all, err := w.read(t, kube)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	for user, s := range all {
		if !s.moment.Known || momentText(s.moment) != w.text(own(user)) {
			t.Fatalf("%s: %s has %q, want %q, known %v", what, own(user), momentText(s.moment), w.text(own(user)), s.moment.Known)
		}
	}
	noneElse(t, all, what)
}

// names looks for entries and rights of somebody else. The history may be damaged.
func (w *world) names(t *testing.T, kube kubernetes.Interface, what string) {
	t.Helper()
	all, err := w.read(t, kube)
	if err != nil && !errors.Is(err, store.ErrDamaged) {
		t.Fatalf("%s: %v", what, err)
	}
	noneElse(t, all, what)
}

func noneElse(t *testing.T, all map[int64]shown, what string) {
	t.Helper()
	for user, s := range all {
		for _, x := range s.moment.Rights {
			if x.Who.ID != user {
				t.Fatalf("%s: %s has %+v", what, own(user), x)
			}
		}
		for _, e := range s.entries {
			if e.Role == "edit" && e.Who.ID != user {
				t.Fatalf("%s: %s has an entry of %+v", what, own(user), e)
			}
		}
	}
}

// tidy looks for Secrets of blocks that the history does not name.
func tidy(t *testing.T, kube *fake.Clientset, v *volume, what string) {
	t.Helper()
	for _, s := range secrets(t, kube) {
		if !strings.HasPrefix(s.Name, store.NameAudit+"-s") {
			continue
		}
		for k := range s.Data {
			if !slices.ContainsFunc(v.head.Segments, func(g segment) bool { return slotName(g.Slot) == s.Name && k >= blockKey(g.From) && k < blockKey(g.To) }) {
				t.Errorf("%s: %s still has %s", what, s.Name, k)
			}
		}
	}
}

// TestANewLeaderLosesNothing: whatever the one before was about to read or write when it lost the lead, and also if that request is
// under way until the new one has stored what it did, all of that is there afterwards. The one before writes nothing else.
func TestANewLeaderLosesNothing(t *testing.T) {
	t.Parallel()
	for name, again := range scenarios(t) {
		requests := 0
		for at := 1; ; at += 3 {
			w, kube := again()
			sent, late := 0, 0
			leads := true
			var recorded []Entry
			next := w.writer(kube, small)
			next.ledger.openRecords = 4
			old := w.writer(between{kube, func(verb, _ string) error {
				if !leads && verb != "get" && sent > at { // more than the one that was under way
					late++
				}
				if sent++; sent != at {
					return nil
				}
				leads = false
				w.save(t, next, w.pass(syncer.KindFull, "start", nil))
				for n := range int64(9) { // it seals, and drops what is too much
					w.save(t, next, w.give(syncer.KindTargeted, 11+n))
				}
				recorded = w.all(t, kube)
				return nil
			}}, small)
			old.o.May = func() error {
				if !leads {
					return store.ErrNotLeading
				}
				return nil
			}
			old.ledger.o, old.ledger.openRecords = old.o, 4
			old.Take(w.pass(syncer.KindFull, "start", nil))
			for range 2 {
				old.Take(w.give(syncer.KindTargeted, 1, 2, 3, 4, 5, 10))
			}
			if err := old.save(t.Context()); err != nil {
				t.Fatalf("%s, write %d: %v", name, at, err)
			}
			if leads {
				break
			}
			requests++
			what := fmt.Sprintf("%s, lost at request %d", name, at)
			if late > 0 || len(old.queue) > 0 || old.ledger.pending() {
				t.Errorf("%s: it goes on: %d writes, %d passes wait", what, late, len(old.queue))
			}
			if got := w.all(t, kube); !slices.Equal(got, recorded) {
				t.Fatalf("%s: of %d entries there are %d\n%+v\n%+v", what, len(recorded), len(got), recorded, got)
			}
			w.check(t, kube, what)
			w.save(t, next, w.give(syncer.KindTargeted, 1))
			next = w.writer(kube, small)
			next.ledger.openRecords = 4
			w.save(t, next, w.give(syncer.KindFull, 2))
			w.check(t, kube, what+", and later")
			tidy(t, kube, next.ledger.v.volume, what)
		}
		if requests < 7 {
			t.Errorf("%s: only %d requests", name, requests)
		}
	}
}

// all returns all entries.
func (w *world) all(t *testing.T, kube kubernetes.Interface) (out []Entry) {
	t.Helper()
	all, err := w.read(t, kube)
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range slices.Sorted(maps.Keys(all)) {
		out = append(out, all[user].entries...)
	}
	return out
}

// gate holds up the request of a number until it is opened.
type gate struct {
	at, n         int
	reached, open chan struct{}
}

func newGate(at int) *gate {
	return &gate{at: at, reached: make(chan struct{}), open: make(chan struct{})}
}

func (g *gate) ask(string, string) error {
	if g.n++; g.n == g.at {
		close(g.reached)
		<-g.open
	}
	return nil
}

// TestOfTwoThatMayWriteNothingIsLost: `sync` holds no Lease, and may run beside a leader. However the requests of the two are mixed,
// what either has recorded is there in the end. One is held up at each of its requests in turn; the other one at one of stride of its
// own, each time another one.
func TestOfTwoThatMayWriteNothingIsLost(t *testing.T) {
	t.Parallel()
	const stride = 17
	plenty := Limits{Days: 400, MaxBytes: 1 << 20, PseudonymiseAfter: time.Hour}
	mixed, begin := 0, scenarios(t)
	for _, name := range []string{"nothing", "some", "a damaged base"} {
		w, kube := begin[name]()
		both := w.pass(syncer.KindFull, "start", nil)
		p, q := w.give(syncer.KindTargeted, 1, 2, 3, 4, 5), w.give(syncer.KindTargeted, 11, 12, 13, 14, 15)
		again := copies(t, w, kube)
		for i, ended := 1, false; !ended; i++ {
			for j, none := 1+i*5%stride, false; !none; j += stride {
				w, kube := again()
				what := fmt.Sprintf("%s, at request %d of one and %d of the other", name, i, j)
				save := func(at int, passes ...Written) (g *gate, done chan error) {
					g, done = newGate(at), make(chan error, 1)
					x := w.writer(between{kube, g.ask}, plenty)
					x.ledger.openRecords = 4
					for _, p := range passes {
						x.Take(p)
					}
					go func() { done <- x.save(t.Context()) }()
					return g, done
				}
				one, oneDone := save(i, both, p)
				select {
				case <-one.reached:
				case err := <-oneDone:
					ended, none = true, true
					oneDone <- err
				}
				other, otherDone := save(j, both, q)
				var err error
				select {
				case <-other.reached:
				case err = <-otherDone:
					none = true
					otherDone <- nil
				}
				close(one.open)
				err = errors.Join(err, <-oneDone)
				recorded := w.all(t, kube)
				close(other.open)
				if err = errors.Join(err, <-otherDone); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				got := w.all(t, kube)
				for _, e := range recorded {
					if !slices.Contains(got, e) {
						t.Fatalf("%s: lost: %+v", what, e)
					}
				}
				w.save(t, w.writer(kube, plenty), w.pass(syncer.KindFull, "periodic", nil)) // what was found before may be recorded after it
				w.check(t, kube, what)
				mixed++
			}
		}
	}
	if mixed < 60 {
		t.Errorf("only %d ways to mix them", mixed)
	}
	t.Logf("%d ways to mix them", mixed)
}

// makes is the change by which a namespace is made, as somebody approved it.
func makes(w *world, ns, by string) rbacsync.Change {
	o := rbacsync.Object{Key: rbacsync.NamespaceKey(ns), Namespace: &rbacsync.Namespace{Source: w.source(ns), Issuer: issuer}}
	return rbacsync.Change{Action: rbacsync.Create, Key: o.Key, Source: w.source(ns), New: &o, ApprovedBy: by}
}

// TestABaseIsAheadOfItsBlocks: a base that counts on blocks of a process that never came to commit them makes no state lack those that
// the next process writes under the same numbers.
func TestABaseIsAheadOfItsBlocks(t *testing.T) {
	for ahead := range uint64(4) {
		w, kube := scenarios(t)["full"]()
		v := &writableVolume{newVolume(kube)}
		if err := v.refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := v.drop(v.head.Next); err != nil {
			t.Fatal(err)
		}
		err := v.baseBlob().Save(t.Context(), map[string]string{metaBase: "never committed"}, func(out io.Writer) error {
			return v.book.writeBase(out, v.head.Next+ahead)
		})
		if err != nil {
			t.Fatal(err)
		}
		what := fmt.Sprintf("%d blocks ahead", ahead)
		w.check(t, kube, what)
		x := w.writer(kube, Limits{Days: 400, MaxBytes: 1 << 20, PseudonymiseAfter: time.Hour})
		x.ledger.openRecords = 2
		w.save(t, x, w.pass(syncer.KindFull, "start", nil))
		for user := range int64(12) {
			w.save(t, x, w.give(syncer.KindTargeted, user+1))
			w.check(t, kube, what)
		}
	}
}

// TestADeathAtAnyWrite: a process that dies before any of its writes makes nobody somebody else, and the next one goes on with the
// state of the cluster. What it has left of blocks that count no more is deleted.
func TestADeathAtAnyWrite(t *testing.T) {
	t.Parallel()
	deaths := 0
	for name, again := range scenarios(t) {
		for at := 1; ; at++ {
			w, kube := again()
			sent := 0
			x := w.writer(between{kube, func(verb, secret string) error {
				if verb != "get" {
					sent++
				}
				if name == momentary && verb == "get" && secret == slotName(0) && sent == 0 {
					return apierrors.NewNotFound(corev1.Resource("secrets"), secret)
				}
				if sent >= at {
					return errors.New("no route to host")
				}
				return nil
			}}, small)
			x.ledger.openRecords = 4
			// Who is met first has other numbers when it begins anew.
			p := w.give(syncer.KindFull, 20, 19, 18, 17)
			// So has who comes after an approver, and not their namespace.
			p.Made = append(p.Made, makes(w, own(17), "gitlab:100"), makes(w, own(18), "gitlab:101"))
			x.Take(p)
			x.Take(w.give(syncer.KindTargeted, 1, 2, 3, 4, 5, 16))
			err := x.save(t.Context())
			what := fmt.Sprintf("%s, died before write %d", name, at)
			w.names(t, kube, what)
			next := w.writer(kube, small)
			next.ledger.openRecords = 4
			w.save(t, next, w.pass(syncer.KindFull, "start", nil))
			w.check(t, kube, what)
			for n := range int64(9) {
				w.save(t, next, w.give(syncer.KindTargeted, 11+n))
			}
			w.check(t, kube, what+", and later")
			tidy(t, kube, next.ledger.v.volume, what)
			if v := next.ledger.v; v.bytes() > small.MaxBytes || v.first > v.head.Next {
				t.Errorf("%s: %d bytes are kept; blocks count from %d on, the next is %d", what, v.bytes(), v.first, v.head.Next)
			}
			if err == nil {
				break
			}
			deaths++
		}
	}
	if deaths < 30 {
		t.Errorf("only %d deaths", deaths)
	}
}
