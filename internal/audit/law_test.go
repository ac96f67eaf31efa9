package audit

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes/fake"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// text is who has what in one namespace, comparable.
func (w *world) text(ns string) string {
	var out []string
	for role, users := range w.rights[ns] {
		for id := range users {
			out = append(out, fmt.Sprintf("%s u%d", role, id))
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func momentText(m Moment) string {
	var out []string
	for _, x := range m.Rights {
		out = append(out, x.Role+" "+x.Who.Name)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// TestWhoHadWhatAtAnyTime: for random histories, with several leaders, crashes between writing to the cluster and recording, changes
// by somebody else, blocks that are sealed and dropped, the state that the history shows for a time is that of the cluster then. What
// was not recorded in a crash is there from the moment on at which it was found.
func TestWhoHadWhatAtAnyTime(t *testing.T) {
	t.Parallel()
	crashes, dropped, found := 0, 0, 0
	for seed := range uint64(10) {
		h := newRandomHistory(t, seed)
		for range 80 {
			h.step(t)
		}
		dropped += h.checkStates(t)
		found += h.checkEntries(t)
		crashes += h.crashes
	}
	if crashes < 30 || dropped < 100 || found < 30 {
		t.Errorf("%d crashes, %d times dropped, %d found: the test looks at too little", crashes, dropped, found)
	}
}

// randomHistory is a history that two leaders write in turn, and what the cluster was after each step.
type randomHistory struct {
	*world
	seed       uint64
	kube       *fake.Clientset
	r          *rand.Rand
	namespaces []string
	leader     func() *Writer
	leaders    []*Writer
	reader     *Reader // has followed from the beginning
	known      []momentOf
	crashes    int
}

// momentOf is who had what at a time, by namespace.
type momentOf struct {
	at   time.Time
	want map[string]string
}

func newRandomHistory(t *testing.T, seed uint64) *randomHistory {
	t.Helper()
	h := &randomHistory{world: newWorld(6), seed: seed, kube: newCluster(), r: rand.New(rand.NewPCG(seed, 14)), namespaces: []string{"haw", "haw-world", "team", "lab"}}
	limits := Limits{Days: 400, MaxBytes: 1 << 20, PseudonymiseAfter: time.Hour}
	if seed%2 == 1 {
		limits.MaxBytes = 900
	}
	h.leader = func() *Writer {
		x := h.writer(h.kube, limits)
		x.ledger.openRecords, x.ledger.openBytes = 5+h.r.IntN(20), 1<<20
		return x
	}
	h.leaders, h.reader = []*Writer{h.leader(), h.leader()}, NewReader(h.kube)
	for range 6 {
		f := h.some()
		h.flip(f.ns, f.role, f.user)
	}
	h.save(t, h.leaders[0], h.pass(syncer.KindFull, "start", nil))
	h.note()
	return h
}

func (h *randomHistory) some() flips {
	return flips{h.namespaces[h.r.IntN(len(h.namespaces))], []string{"edit", "view"}[h.r.IntN(2)], 1 + h.r.Int64N(6)}
}

func (h *randomHistory) note() {
	want := map[string]string{}
	for _, ns := range h.namespaces {
		want[ns] = h.text(ns)
	}
	h.known = append(h.known, momentOf{h.now, want})
}

func (h *randomHistory) step(t *testing.T) {
	t.Helper()
	h.projects["lab"] = authz.Project{ID: 9, Path: "some/lab", Owner: h.r.Int64N(3)} // it changes hands, at times nobody knows whose it is
	h.unread["lab"] = h.r.IntN(3) == 0
	hook := func(do ...flips) Written {
		return h.pass(syncer.KindTargeted, "hook", scopeOf(h.world, h.namespaces), do...)
	}
	i := h.r.IntN(2)
	switch x := h.leaders[i]; h.r.IntN(10) {
	case 0: // it dies after writing: its successor reads everything first
		x.Take(hook(h.some()))
		h.leaders[i] = h.leader()
		h.crashes++
		h.save(t, h.leaders[i], h.pass(syncer.KindFull, "start", nil))
	case 1: // somebody else
		f := h.some()
		h.flip(f.ns, f.role, f.user)
		h.save(t, x, h.pass(syncer.KindDrift, "drift", rbacsync.Scope{f.ns: true}, f))
	case 2: // a new leader's first pass is over everything
		h.save(t, x, h.pass(syncer.KindFull, "interval", nil, h.some(), h.some(), h.some()))
	case 3: // two passes that are stored together
		h.save(t, x, hook(h.some()), hook(h.some(), h.some()))
	default:
		h.save(t, x, hook(h.some()))
	}
	h.note()
}

// checkStates compares who had what with what is shown, and returns how often that is dropped.
func (h *randomHistory) checkStates(t *testing.T) (dropped int) {
	t.Helper()
	for _, k := range h.known {
		for _, ns := range h.namespaces {
			m, err := h.reader.At(t.Context(), ns, k.at)
			switch {
			case err != nil:
				t.Fatal(err)
			case !m.Known:
				dropped++
			case momentText(m) != k.want[ns]:
				t.Fatalf("seed %d: %s at %s: %q, want %q", h.seed, ns, k.at, momentText(m), k.want[ns])
			}
		}
	}
	if m, err := h.reader.At(t.Context(), "haw", h.now); err != nil || !m.Known || m.Recorded.IsZero() {
		t.Fatalf("seed %d: the present is not known: %+v, %v", h.seed, m, err)
	}
	return dropped
}

// checkEntries compares a reader that reads all of it at once with one that has followed, and returns how many entries are of what
// was found.
func (h *randomHistory) checkEntries(t *testing.T) (found int) {
	t.Helper()
	for _, ns := range h.namespaces {
		one, err := h.reader.Namespace(t.Context(), ns, time.Time{}, time.Time{})
		other, otherErr := NewReader(h.kube).Namespace(t.Context(), ns, time.Time{}, time.Time{})
		if err != nil || otherErr != nil || !slices.Equal(one, other) {
			t.Fatalf("seed %d: %s: %d and %d entries, %v %v", h.seed, ns, len(one), len(other), err, otherErr)
		}
		if !slices.IsSortedFunc(one, func(a, b Entry) int { return a.At.Compare(b.At) }) {
			t.Fatalf("seed %d: %s: not in order", h.seed, ns)
		}
		for _, e := range one {
			if e.Found {
				found++
			}
		}
	}
	return found
}

// scopeOf returns all namespaces as those of a pass over single ones.
func scopeOf(w *world, namespaces []string) rbacsync.Scope {
	out := rbacsync.Scope{}
	for _, ns := range namespaces {
		out[ns] = true
	}
	for ns := range maps.Keys(w.rights) {
		out[ns] = true
	}
	return out
}
