package audit

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

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
// by somebody else, blocks that are sealed and dropped, the state that the history tells for a time is that of the cluster then. What
// was not recorded in a crash is told from the moment on at which it was found.
func TestWhoHadWhatAtAnyTime(t *testing.T) {
	spaces, roles := []string{"haw", "haw-world", "team", "lab"}, []string{"edit", "view"}
	crashes, dropped, found := 0, 0, 0
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 14))
		w, kube := newWorld(6), newCluster()
		limits := Limits{Days: 400, MaxBytes: 1 << 20, PseudonymiseAfter: time.Hour}
		if seed%2 == 1 {
			limits.MaxBytes = 900
		}
		leader := func() *Writer {
			x := w.writer(kube, limits)
			x.ledger.openRecords, x.ledger.openBytes = 5+r.IntN(20), 1<<20
			return x
		}
		all := []*Writer{leader(), leader()}
		reader := NewReader(kube)
		some := func() flips { return flips{spaces[r.IntN(len(spaces))], roles[r.IntN(2)], 1 + r.Int64N(6)} }
		for range 6 {
			f := some()
			w.flip(f.ns, f.role, f.user)
		}
		type then struct {
			at   time.Time
			want map[string]string
		}
		var known []then
		note := func() {
			want := map[string]string{}
			for _, ns := range spaces {
				want[ns] = w.text(ns)
			}
			known = append(known, then{w.now, want})
		}
		w.save(t, all[0], w.pass(syncer.KindFull, "start", nil))
		note()
		for range 80 {
			w.projects["lab"] = authz.Project{ID: 9, Path: "some/lab", Owner: r.Int64N(3)} // it changes hands, at times nobody knows whose it is
			w.unread["lab"] = r.IntN(3) == 0
			i := r.IntN(2)
			switch x := all[i]; r.IntN(10) {
			case 0: // it dies after writing: its successor reads everything first
				x.Take(w.pass(syncer.KindTargeted, "hook", scopeOf(w, spaces), some()))
				all[i], crashes = leader(), crashes+1
				w.save(t, all[i], w.pass(syncer.KindFull, "start", nil))
			case 1: // somebody else
				f := some()
				w.flip(f.ns, f.role, f.user)
				w.save(t, x, w.pass(syncer.KindDrift, "drift", rbacsync.Scope{f.ns: true}, f))
			case 2: // a new leader's first pass is over everything
				w.save(t, x, w.pass(syncer.KindFull, "interval", nil, some(), some(), some()))
			case 3: // two passes that are stored together
				w.save(t, x, w.pass(syncer.KindTargeted, "hook", scopeOf(w, spaces), some()), w.pass(syncer.KindTargeted, "hook", scopeOf(w, spaces), some(), some()))
			default:
				w.save(t, x, w.pass(syncer.KindTargeted, "hook", scopeOf(w, spaces), some()))
			}
			note()
		}
		for _, k := range known {
			for _, ns := range spaces {
				m, err := reader.At(t.Context(), ns, k.at)
				switch {
				case err != nil:
					t.Fatal(err)
				case !m.Known:
					dropped++
				case momentText(m) != k.want[ns]:
					t.Fatalf("seed %d: %s at %s: %q, want %q", seed, ns, k.at, momentText(m), k.want[ns])
				}
			}
		}
		if m, err := reader.At(t.Context(), "haw", w.now); err != nil || !m.Known || m.Recorded.IsZero() {
			t.Fatalf("seed %d: the present is not known: %+v, %v", seed, m, err)
		}
		// A reader that reads all of it at once sees the same as one that has followed; each record is of one place and time.
		for _, ns := range spaces {
			one, err := reader.Namespace(t.Context(), ns, time.Time{}, time.Time{})
			other, otherErr := NewReader(kube).Namespace(t.Context(), ns, time.Time{}, time.Time{})
			if err != nil || otherErr != nil || !slices.Equal(one, other) {
				t.Fatalf("seed %d: %s: %d and %d entries, %v %v", seed, ns, len(one), len(other), err, otherErr)
			}
			if !slices.IsSortedFunc(one, func(a, b Entry) int { return a.At.Compare(b.At) }) {
				t.Fatalf("seed %d: %s: not in order", seed, ns)
			}
			for _, e := range one {
				if e.Found {
					found++
				}
			}
		}
	}
	if crashes < 30 || dropped < 100 || found < 30 {
		t.Errorf("%d crashes, %d times dropped, %d found: the test looks at too little", crashes, dropped, found)
	}
}

// scopeOf returns all namespaces as those of a pass over single ones.
func scopeOf(w *world, spaces []string) rbacsync.Scope {
	out := rbacsync.Scope{}
	for _, ns := range spaces {
		out[ns] = true
	}
	for ns := range maps.Keys(w.rights) {
		out[ns] = true
	}
	return out
}
