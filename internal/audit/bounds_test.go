package audit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	kubetesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// TestWhatWaitsIsBounded: while nothing can be read, few passes are held, and nothing holds those that were dropped. Whichever they
// were, who has what is right after the next whole pass, and what nobody recorded is told as found.
func TestWhatWaitsIsBounded(t *testing.T) {
	t.Parallel()
	for name, begun := range map[string]bool{"before the history begins": false, "later": true} {
		w, kube := newWorld(20), newCluster()
		x := w.writer(kube, limits)
		if begun {
			w.save(t, x, w.give(syncer.KindFull, 1))
		}
		away := errors.New("no route to host")
		kube.PrependReactor("get", "secrets", func(kubetesting.Action) (bool, runtime.Object, error) { return away != nil, nil, away })
		x.ledger.forsake() // as it does at times
		held := func(most int) {
			t.Helper()
			all := x.queue[:cap(x.queue)]
			if len(x.queue) > most || slices.ContainsFunc(all[len(x.queue):], func(p Written) bool { return p.Snapshot != nil }) {
				t.Fatalf("%s: %d passes are held, at most %d; and others behind them", name, len(x.queue), most)
			}
		}
		for n := range int64(200) {
			p := w.give(syncer.KindTargeted, 1+n%19)
			if n == 0 {
				p.Scope, p.Kind = nil, syncer.KindFull
			}
			x.Take(p)
			held(maxQueue)
			if n%70 == 69 {
				if err := x.save(t.Context()); err == nil {
					t.Fatal("stored?")
				}
				if held(8); len(x.queue) < 8 || x.queue[7].Ended != p.Ended {
					t.Fatalf("%s: %d passes are kept, and not the last 8", name, len(x.queue))
				}
			}
		}
		away = nil
		kube.ReactionChain = kube.ReactionChain[1:]
		w.save(t, x, w.pass(syncer.KindFull, "periodic", nil))
		w.check(t, kube, name)
		found := 0
		for _, e := range w.all(t, kube) {
			if e.Found {
				found++
			}
		}
		if begun && found == 0 {
			t.Errorf("%s: nothing was found", name)
		}
	}
}

// running has a Writer run until stop is called, which returns when that has ended, and so has ctx.
func running(t *testing.T, x *Writer) (ctx context.Context, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { x.Run(ctx); close(ended) }()
	return ctx, func() { cancel(); <-ended }
}

// TestMuchIsStoredAtOnce: the pause between two writings ends when much waits.
func TestMuchIsStoredAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, kube := newWorld(20), newCluster()
		x := w.writer(kube, limits)
		_, stop := running(t, x)
		waiting := func() int {
			synctest.Wait()
			x.mu.Lock()
			defer x.mu.Unlock()
			return len(x.queue)
		}
		x.Take(w.pass(syncer.KindFull, "start", nil))
		time.Sleep(saveAfter)
		if n := waiting(); n != 0 {
			t.Errorf("%d passes wait, though nothing was stored before", n)
		}
		began := time.Now()
		for n := range backlogAt - 1 {
			x.Take(w.give(syncer.KindTargeted, int64(1+n)))
		}
		if n := waiting(); n != backlogAt-1 {
			t.Errorf("%d passes wait for the next writing", n)
		}
		x.Take(w.give(syncer.KindTargeted, 1))
		if n := waiting(); n != 0 || time.Since(began) > 0 {
			t.Errorf("%d passes wait, %v later", n, time.Since(began))
		}
		stop()
	})
}

// TestTheEndLeavesTheRestToFlush: whoever stops Run between two writings has Flush store all that waits, with what is loaded: Run
// begins nothing that it can't end.
func TestTheEndLeavesTheRestToFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, kube := newWorld(20), newCluster()
		x := w.writer(kube, limits)
		ctx, stop := running(t, x)
		x.Take(w.pass(syncer.KindFull, "start", nil))
		time.Sleep(saveAfter)
		synctest.Wait()
		for n := range keepUnread + 4 {
			x.Take(w.give(syncer.KindTargeted, int64(1+n)))
		}
		synctest.Wait()
		kube.ClearActions()
		stop()
		if n := len(kube.Actions()); n != 0 || len(x.queue) != keepUnread+4 || x.ledger.v == nil {
			t.Errorf("after the end %d requests were made, and %d passes wait", n, len(x.queue))
		}
		if err := x.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		w.check(t, kube, "after Flush")
	})
}

// TestWhatIsNotStoredIsBounded: while nothing can be written, what is kept to be written has a bound, and what is dropped of it is
// found.
func TestWhatIsNotStoredIsBounded(t *testing.T) {
	t.Parallel()
	w, kube := newWorld(20), newCluster()
	x := w.writer(kube, limits)
	w.save(t, x, w.pass(syncer.KindFull, "start", nil))
	w.flip(own(1), "edit", 1)
	turn := map[bool]uint8{true: lost, false: gained}
	has := w.rights[own(2)]["edit"][2]
	for range maxUnsaved {
		x.ledger.record(change{at: w.now, namespace: own(2), user: 2, role: "edit", cause: "hook", what: turn[has]})
		has = !has
	}
	x.ledger.record(change{at: w.now, namespace: own(3), user: 3, role: "edit", cause: "hook", what: turn[w.rights[own(3)]["edit"][3]]})
	if n := x.ledger.unsaved; n != maxUnsaved+1 {
		t.Fatalf("only %d were noted", n)
	}
	x.ledger.forsake()
	if n := len(x.ledger.waiting); n != maxUnsaved || x.ledger.waiting[n-1].user != 3 {
		t.Errorf("%d wait, the last %+v", n, x.ledger.waiting[n-1])
	}
	w.save(t, x, w.pass(syncer.KindFull, "periodic", nil))
	w.check(t, kube, "afterwards")
}

// TestAWriterKeepsBlocksPacked: of what a Writer has noted, stored or not, only the last records are in memory, and their reasons. When
// what is stored has to be read anew, what is not stored is noted again as it was; and all of it is told.
func TestAWriterKeepsBlocksPacked(t *testing.T) {
	t.Parallel()
	w, kube := newWorld(20), newCluster()
	x := w.writer(kube, limits)
	l := x.ledger
	l.openRecords = 16
	w.save(t, x, w.pass(syncer.KindFull, "start", nil))
	var away error
	refuse(kube, func() error { return away })
	var noted []change
	note := func(n int) {
		for range n {
			user := int64(1 + len(noted)%20)
			c := change{at: w.now, namespace: own(user), owner: -1, user: user, name: w.users[user].Username, role: "edit", cause: "hook", what: gained, why: fmt.Sprintf("reason %d", len(noted))}
			if w.rights[own(user)]["edit"][user] {
				c.what = lost
			}
			w.flip(own(user), "edit", user)
			w.now = w.now.Add(time.Second)
			l.record(c)
			noted = append(noted, c)
			if log, texts := len(l.v.book.log), len(l.v.book.reasons.all); log >= packFrom*l.openRecords || texts > log+5 {
				t.Fatalf("%d records and %d texts are in memory", log, texts)
			}
		}
	}
	text := func(c change) string {
		return fmt.Sprint(c.at.UnixMilli(), c.namespace, c.user, c.role, c.cause, c.what, c.why)
	}
	told := func(when string) {
		t.Helper()
		var want, got []string
		for _, c := range noted {
			want = append(want, text(c))
		}
		reader := NewReader(kube)
		for user := range int64(20) {
			all, err := reader.User(t.Context(), user+1, time.Time{}, time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range all {
				got = append(got, text(change{at: e.At, namespace: e.Namespace, user: e.Who.ID, role: e.Role, cause: e.Cause, what: uint8(slices.Index(whats[:], e.What)), why: e.Why}))
			}
		}
		slices.Sort(want)
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s: %d changes are told of %d", when, len(got), len(want))
		}
		w.check(t, kube, when)
	}
	note(1000)
	if err := l.save(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(l.v.book.log); n >= l.openRecords || len(l.v.book.reasons.all) > n+5 {
		t.Errorf("%d records and %d texts are in memory after they were stored", n, len(l.v.book.reasons.all))
	}
	told("stored")
	stored := len(noted)
	away = errors.New("no space left on device")
	note(500)
	if err := l.save(t.Context()); err == nil {
		t.Fatal("stored?")
	}
	if !slices.EqualFunc(l.waiting, noted[stored:], func(a, b change) bool { return text(a) == text(b) }) {
		t.Errorf("%d changes wait of %d", len(l.waiting), len(noted)-stored)
	}
	away = nil
	if err := l.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.save(t.Context()); err != nil {
		t.Fatal(err)
	}
	told("after a failure")
}

// TestTimesNeverGoBack: what is noted with an earlier time, as by a process whose clock is behind, or because it could not be stored
// before, comes after all that was stored, also where that is in blocks alone.
func TestTimesNeverGoBack(t *testing.T) {
	t.Parallel()
	for _, reload := range []bool{false, true} {
		w, kube := newWorld(20), newCluster()
		x := w.writer(kube, limits)
		l := x.ledger
		l.openRecords = 2
		w.save(t, x, w.pass(syncer.KindFull, "start", nil))
		w.save(t, x, w.give(syncer.KindTargeted, 1, 2)) // which makes a block of all
		if len(l.v.open) > 0 {
			t.Fatalf("%d are in no block", len(l.v.open))
		}
		if reload {
			l.forsake()
		}
		at := w.now
		w.now = w.now.Add(-time.Hour)
		w.save(t, x, w.give(syncer.KindTargeted, 3))
		var last time.Time
		all := w.all(t, kube)
		for _, e := range all {
			if e.At.Before(last) {
				t.Errorf("reload %t: %s comes after %s", reload, e.At, last)
			}
			last = e.At
		}
		if last.Before(at.Add(-time.Second)) || len(all) == 0 {
			t.Errorf("reload %t: the last of %d is of %s", reload, len(all), last)
		}
	}
}

// TestAllThatFits: however much there is to store at once, also by Flush, as `sync` does: it is stored, within what was configured, and no
// Secret becomes larger than one may be. What has no room is dropped, the oldest first, and the state of now is known.
func TestAllThatFits(t *testing.T) {
	t.Parallel()
	r := rand.NewChaCha8([32]byte{1})
	noise := func(size int) string { // that no compression makes smaller
		out := make([]byte, size)
		_, _ = r.Read(out)
		return string(out)
	}
	for _, c := range []struct {
		name     string
		changes  int
		why      int
		max      int64
		records  int
		segments int
	}{
		{name: "a first sync", changes: 20_000, why: 0, max: 8 << 20, records: 4000},
		{name: "less than that is kept", changes: 20_000, why: 0, max: 64 << 10, records: 4000},
		{name: "more than there are Secrets for", changes: 4500, why: 3000, max: 10 << 20, records: 200, segments: Slots - 2},
		{name: "a block larger than a Secret", changes: 1000, why: 3000, max: 10 << 20, records: 750},
	} {
		w, kube := newWorld(20), newCluster()
		x := w.writer(kube, Limits{Days: 400, MaxBytes: c.max, PseudonymiseAfter: time.Hour})
		x.ledger.openRecords = c.records
		if err := x.ledger.load(t.Context()); err != nil {
			t.Fatal(err)
		}
		x.ledger.process(w.pass(syncer.KindFull, "start", nil))
		if c.segments > 0 { // it is not the first time
			if err := x.ledger.save(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for n := range c.changes {
			user := int64(1 + n%20)
			what := uint8(gained)
			if w.rights[own(user)]["edit"][user] {
				what = lost
			}
			w.flip(own(user), "edit", user)
			w.now = w.now.Add(time.Second)
			x.ledger.record(change{at: w.now, namespace: own(user), user: user, role: "edit", cause: "hook", what: what, why: noise(c.why)})
		}
		x.Take(w.pass(syncer.KindFull, "command", nil))
		if err := x.Flush(t.Context()); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		v := newVolume(kube)
		if err := v.refresh(t.Context()); err != nil || v.broken != nil {
			t.Fatalf("%s: %v, %v", c.name, err, v.broken)
		}
		if v.bytes() > c.max || len(v.open) > c.records || len(v.head.Segments) > Slots || len(v.head.Segments) < c.segments {
			t.Errorf("%s: %d bytes, %d segments, %d open", c.name, v.bytes(), len(v.head.Segments), len(v.open))
		}
		for _, s := range secrets(t, kube) {
			size := 0
			for _, d := range s.Data {
				size += len(d)
			}
			if size > maxSegment+300<<10 {
				t.Errorf("%s: Secret %s has %d bytes", c.name, s.Name, size)
			}
		}
		w.check(t, kube, c.name)
		tidy(t, kube, v, c.name)
	}
}

// TestAnAbortedQuestionCostsNothing: who asks and goes away, at whichever request, and a request that fails, have nobody read again
// what was read already; who waits for their turn does not wait longer than they want.
func TestAnAbortedQuestionCostsNothing(t *testing.T) {
	t.Parallel()
	w, kube := newWorld(20), newCluster()
	x := w.writer(kube, limits)
	x.ledger.openRecords = 4
	w.save(t, x, w.pass(syncer.KindFull, "start", nil))
	more := func() { w.save(t, x, w.give(syncer.KindTargeted, 1), w.give(syncer.KindTargeted, 2, 3, 4, 5)) }
	for range 5 {
		more()
	}
	var each func(n int, name string) error
	n := 0
	counted := between{kube, func(_, name string) error { n++; return each(n, name) }}
	quiet := func(int, string) error { return nil }
	ask := func(r *Reader, ctx context.Context) error {
		n = 0
		all, err := r.Namespace(ctx, own(1), time.Time{}, time.Time{})
		if err == nil && len(all) == 0 {
			t.Error("nothing is told")
		}
		return err
	}
	for at := 1; at < 8; at++ {
		for _, how := range []string{"aborted", "failed"} {
			r := NewReader(counted)
			ctx, stop := context.WithCancel(t.Context())
			var read []string
			each = func(n int, name string) error {
				if n == at && how == "aborted" {
					stop()
				} else if n == at {
					return errors.New("no route to host")
				}
				read = append(read, name)
				return nil
			}
			first := ask(r, ctx)
			stop()
			if how == "aborted" && first != nil {
				t.Errorf("aborted at %d: %v", at, first)
			}
			each = func(_ int, name string) error {
				if name != store.NameAudit && name != store.NameHistory && slices.Contains(read, name) {
					return fmt.Errorf("%s is read again", name)
				}
				return nil
			}
			if err := ask(r, t.Context()); err != nil {
				t.Errorf("%s at %d: %v", how, at, err)
			}
			more()
			each = quiet
			if err := ask(r, t.Context()); err != nil {
				t.Errorf("%s at %d, later: %v", how, at, err)
			}
			w.check(t, kube, how)
			if m, err := r.At(t.Context(), own(1), w.now); err != nil || momentText(m) != w.text(own(1)) {
				t.Errorf("%s at %d: %s, want %s, %v", how, at, momentText(m), w.text(own(1)), err)
			}
		}
	}
	r := NewReader(counted)
	r.turn <- struct{}{} // somebody reads
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := ask(r, ctx); !errors.Is(err, context.Canceled) || n > 0 {
		t.Errorf("%v after %d requests", err, n)
	}
}

// TestAMissingBlockIsLookedForAlone: a history of which a part is missing is told without reading all the rest again, and is whole
// again when that part is back.
func TestAMissingBlockIsLookedForAlone(t *testing.T) {
	w, kube := newWorld(20), newCluster()
	x := w.writer(kube, limits)
	x.ledger.openRecords = 4
	w.save(t, x, w.pass(syncer.KindFull, "start", nil))
	for range 5 {
		w.save(t, x, w.give(syncer.KindTargeted, 1), w.give(syncer.KindTargeted, 2, 3, 4, 5))
	}
	base, missing := 0, true
	r := NewReader(between{kube, func(_, name string) error {
		if name == store.NameAuditBase {
			base++
		}
		if name == slotName(0) && missing {
			return apierrors.NewNotFound(corev1.Resource("secrets"), name)
		}
		return nil
	}})
	for range 5 {
		if m, err := r.At(t.Context(), own(1), w.now); err != nil || m.Known {
			t.Errorf("%+v, %v", m, err)
		}
	}
	missing = false
	if m, err := r.At(t.Context(), own(1), w.now); err != nil || !m.Known || momentText(m) != w.text(own(1)) || base != 1 {
		t.Errorf("%+v, %v; the base was read %d times", m, err, base)
	}
}

// TestAnUnreadAccountIsNotGone: an account of which a reading says that it could not be read is neither gone nor renamed, its owner's
// namespaces keep their names, and no reason says that it is gone.
func TestAnUnreadAccountIsNotGone(t *testing.T) {
	for _, half := range []bool{false, true} {
		w, kube := newWorld(20), newCluster()
		x := w.writer(kube, limits)
		w.owners["home"] = 3
		w.flip("home", "edit", 2)
		w.save(t, x, w.give(syncer.KindFull, 2))
		w.save(t, x, w.pass(syncer.KindTargeted, "hook", rbacsync.Scope{"home": true}, flips{"home", "edit", 2}))
		delete(w.rights, "home")
		for range 3 {
			p := w.pass(syncer.KindFull, "periodic", nil)
			delete(p.Snapshot.Users, 2)
			delete(p.Snapshot.Users, 3)
			p.Snapshot.Missing = map[authz.SourceID]string{authz.UserID(2): "timeout", authz.UserID(3): "timeout"}
			if half {
				p.Snapshot.Users[2] = authz.User{ID: 2}
			}
			w.save(t, x, p)
			w.now = w.now.Add(1000 * time.Hour)
		}
		if id, ok, err := NewReader(kube).Find(t.Context(), "u2"); id != 2 || !ok || err != nil {
			t.Errorf("half %v: %d %v %v", half, id, ok, err)
		}
		text := plainText(t, kube)
		if strings.Contains(text, `"gone":`) || !strings.Contains(text, `"home"`) {
			t.Errorf("half %v: it is gone:\n%s", half, text)
		}
	}
	snap := &authz.Snapshot{Missing: map[authz.SourceID]string{authz.UserID(5): "timeout", authz.GroupID(1): "timeout"}, Users: map[int64]authz.User{6: {ID: 6, State: authz.StateActive}}}
	for _, user := range []int64{5, 6} {
		got := reasons{now: snap}.lost(&place{source: authz.GroupID(1)}, holder{user: user}, rbacsync.Change{Source: authz.GroupID(1), Why: "group/1 haw"})
		if got != "group/1 haw" {
			t.Errorf("of %d: %q", user, got)
		}
	}
}

// TestNobodyIsGivenTheNumberOfSomebodyElse: also when the highest number is that of an approver, or of a holder, without a row.
func TestNobodyIsGivenTheNumberOfSomebodyElse(t *testing.T) {
	b := newBook()
	b.log = []record{{who: 2, namespace: 3, by: b.reasons.text(userMark + "7")}}
	b.base[5] = map[uint32][]uint32{b.roles.text("edit"): {4, 9}}
	b.fit(0, 0)
	if n, s := b.user(1), b.namespace("new", 0, false); n != 10 || s != 6 {
		t.Errorf("somebody new has the number %d, a new namespace %d", n, s)
	}
	b = newBook()
	b.log = []record{{who: 2, by: b.reasons.text(userMark + "7")}}
	b.fit(0, 0)
	if e := b.entry(b.log[0]); e.ApprovedBy != "person-7" || b.user(1) != 8 {
		t.Errorf("approved by %q", e.ApprovedBy)
	}

	w, kube := newWorld(5), newCluster()
	w.users[771] = authz.User{ID: 771, Username: "zoe", State: authz.StateActive}
	x := w.writer(kube, limits)
	w.flip("haw", "edit", 1)
	w.save(t, x, w.pass(syncer.KindFull, "start", nil))
	p := w.pass(syncer.KindTargeted, "hook", rbacsync.Scope{"haw": true}, flips{"haw", "edit", 1})
	p.Made[0].ApprovedFor = map[int64]string{1: "gitlab:771"}
	w.save(t, x, p)
	delete(w.users, 771)
	w.save(t, x, w.pass(syncer.KindFull, "periodic", nil))
	w.now = w.now.Add(48 * time.Hour)
	w.save(t, x, w.pass(syncer.KindFull, "periodic", nil))
	x = w.writer(kube, limits) // the next leader
	w.save(t, x, w.pass(syncer.KindTargeted, "hook", rbacsync.Scope{"haw": true}, flips{"haw", "edit", 3}))
	all, err := NewReader(kube).Namespace(t.Context(), "haw", time.Time{}, time.Time{})
	if err != nil || len(all) != 2 || !strings.HasPrefix(all[0].ApprovedBy, "person-") || all[1].Who.ID != 3 {
		t.Errorf("%+v, %v", all, err)
	}
}

// TestOfLeadingNothingIsLeft: what a leader could not store is forgotten when it ends, and not told later as if it were still true.
func TestOfLeadingNothingIsLeft(t *testing.T) {
	w, kube := newWorld(20), newCluster()
	x, other := w.writer(kube, limits), w.writer(kube, limits)
	w.save(t, x, w.pass(syncer.KindFull, "start", nil))
	away := errors.New("no route to host")
	refuse(kube, func() error { return away })
	x.Take(w.give(syncer.KindTargeted, 1))
	if err := x.Flush(t.Context()); err == nil {
		t.Fatal("stored?")
	}
	away = nil
	w.save(t, other, w.pass(syncer.KindFull, "start", nil))
	w.save(t, other, w.give(syncer.KindTargeted, 1))
	if err := x.Flush(t.Context()); err != nil || len(x.Findings()) > 0 {
		t.Errorf("%v, %v", err, x.Findings())
	}
	w.save(t, x, w.pass(syncer.KindFull, "start", nil))
	all, err := NewReader(kube).Namespace(t.Context(), own(1), time.Time{}, time.Time{})
	if err != nil || len(all) != 2 || !all[0].Found || all[1].What != Lost {
		t.Errorf("%+v, %v", all, err)
	}
}

// TestABlockIsDroppedOnceItIsCommitted: should it never be, the base that was written with it has counted on it.
func TestABlockIsDroppedOnceItIsCommitted(t *testing.T) {
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	v := newVolume(nil)
	for n := range uint64(4) {
		v.blocks[n] = block{count: 1, last: now.UnixMilli(), bytes: 500}
	}
	for end, want := range []uint64{0, 1, 2, 3, 3} {
		if first, _ := v.tooMuch(Limits{Days: 1, MaxBytes: 600}, now, uint64(end)); first != want {
			t.Errorf("of %d that are committed, the first that is kept is %d, want %d", end, first, want)
		}
	}
}
