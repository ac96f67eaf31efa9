package audit

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

var limits = Limits{Days: 400, MaxBytes: 8 << 20, PseudonymiseAfter: 24 * time.Hour}

func secrets(t *testing.T, kube *fake.Clientset) []corev1.Secret {
	t.Helper()
	list, err := kube.CoreV1().Secrets(deploy.Namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// plainText is all that is stored, unpacked.
func plainText(t *testing.T, kube *fake.Clientset) string {
	t.Helper()
	var out strings.Builder
	for _, s := range secrets(t, kube) {
		for k, v := range s.Data {
			if z, err := gzip.NewReader(bytes.NewReader(v)); err == nil {
				if v, err = io.ReadAll(z); err != nil {
					t.Fatal(err)
				}
			}
			fmt.Fprintf(&out, "%s/%s: %s\n", s.Name, k, v)
		}
	}
	return out.String()
}

// TestHalfAMillionChangesFit: as many as a large GitLab has in years fit into the space that is kept by default; each write, and
// what a question costs, stays small. Under the race detector a fifth of them have to fit into a fifth.
func TestHalfAMillionChangesFit(t *testing.T) {
	t.Parallel()
	all, most := 500_000, 10<<20
	const people, namespaces = 20_000, 5000
	if underRace {
		all, most = all/5, most/5
	}
	w, kube := newWorld(0), newCluster()
	x := w.writer(kube, limits)
	w.flip("haw", "edit", 1)
	w.save(t, x, w.pass(syncer.KindFull, "start", nil))
	r := rand.New(rand.NewPCG(1, 2))
	name := func(n int) string { return fmt.Sprintf("department-%d-project-%d", n/50, n) }
	begun := time.Now()
	for n := 0; n < all; {
		ns, what := r.IntN(namespaces), uint8(r.IntN(2))
		count, cause := 1, []string{"hook user_add_to_team", "hook user_remove_from_team", "hook user_access_request_to_group", "interval", "drift"}[r.IntN(5)]
		if r.IntN(20) == 0 { // a group with all that is below it
			count = 10 + r.IntN(300)
		}
		w.now = w.now.Add(time.Duration(r.IntN(600)) * time.Second)
		user := int64(r.IntN(people))
		for i := range count {
			c := change{
				at: w.now, namespace: name((ns + i%50) % namespaces), user: user + int64(i/50) + 1, role: []string{"edit", "view"}[r.IntN(2)], cause: cause, what: what,
				why: fmt.Sprintf("Developer in department-%d/project-%d, inherited from department-%d", ns/50, ns, ns/50),
			}
			if what == lost { // of somebody who has it
				c.user, c.role = 0, "edit"
				for role, people := range x.ledger.now[x.ledger.v.book.namespaceNumber(c.namespace)] {
					c.user, c.role = x.ledger.v.book.users[people[r.IntN(len(people))]-1].ID, x.ledger.v.book.roles.textOf(role)
				}
				c.why = "was " + c.why + "; that is gone"
			}
			if c.user != 0 && x.ledger.note(c) {
				n++
			}
		}
		if len(x.ledger.v.open) >= 4000 {
			if err := x.ledger.store(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := x.ledger.store(t.Context()); err != nil {
		t.Fatal(err)
	}
	wrote := time.Since(begun)
	log, err := x.ledger.v.since(0)
	if err != nil {
		t.Fatal(err)
	}
	got := len(log)
	if got < all || !x.ledger.v.book.begins.Before(time.UnixMilli(log[0].at)) {
		t.Fatalf("%d changes are kept, since %s", got, x.ledger.v.book.begins)
	}
	total := 0
	for _, s := range secrets(t, kube) {
		size := 0
		for _, v := range s.Data {
			size += len(v)
		}
		if total += size; size > 1<<20-16<<10 {
			t.Errorf("Secret %s has %d bytes", s.Name, size)
		}
	}
	reader := NewReader(kube)
	ask := func() time.Duration {
		begun := time.Now()
		m, err := reader.At(t.Context(), name(7), w.now)
		if err != nil || !m.Known {
			t.Fatalf("%+v, %v", m, err)
		}
		return time.Since(begun)
	}
	first, again := ask(), ask()
	perChange := float64(x.ledger.v.bytes()+int64(len(x.ledger.v.open))) / float64(all)
	if !underRace {
		fmt.Fprintf(os.Stdout, "BENCH audit.bytes_per_change %.1f\n", perChange)
	}
	t.Logf("%d changes: %d bytes in all, %.1f in a change; made in %v; the first question takes %v, another one %v", got, total, perChange, wrote, first, again)
	if total > most || again > time.Second {
		t.Errorf("%d bytes in all; a question takes %v", total, again)
	}
}

// TestWhoIsGoneIsPseudonymised: some time after somebody's removal from GitLab their entries are still there, and nothing that is
// stored has their name, id or namespace any more. Until then they are told by name, also of who approved.
func TestWhoIsGoneIsPseudonymised(t *testing.T) {
	w, kube := newWorld(3), newCluster()
	w.users[771] = authz.User{ID: 771, Username: "zoe", State: authz.StateActive}
	x := w.writer(kube, limits)
	x.ledger.openRecords = 3
	w.owners["zoe-home"] = 771
	gone := func(ns string, user int64) {
		p := w.pass(syncer.KindTargeted, "hook", rbacsync.Scope{ns: true}, flips{ns, "edit", user})
		p.Made[0].Why = p.Made[0].Source.String() + " (zoe) is gone from GitLab or left out"
		w.save(t, x, p)
	}
	w.flip("haw", "edit", 1)
	w.flip("haw", "edit", 2)
	w.save(t, x, w.pass(syncer.KindFull, "start", nil))
	give := func(ns string, user int64, by string) {
		p := w.pass(syncer.KindTargeted, "hook", rbacsync.Scope{ns: true}, flips{ns, "edit", user})
		if p.Made = append(p.Made, binds(w, ns, user)); by != "" {
			p.Made[0].ApprovedFor = map[int64]string{user: by}
		}
		w.save(t, x, p)
	}
	give("haw", 771, "")
	give("zoe-home", 771, "")
	give("haw", 2, "gitlab:771")
	give("haw", 771, "")
	give("zoe-home", 771, "")
	reader := NewReader(kube)
	show := func() string {
		var out []string
		for _, ns := range []string{"haw", "zoe-home"} {
			all, err := reader.Namespace(t.Context(), ns, time.Time{}, time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range all {
				out = append(out, fmt.Sprintf("%s %s %s by %q", e.Namespace, e.What, e.Who.Name, e.ApprovedBy))
			}
		}
		return strings.Join(out, "\n")
	}
	before := show()
	for _, want := range []string{"haw gained zoe", "zoe-home gained zoe", "zoe-home lost zoe", `haw lost u2 by "gitlab:771 (zoe)"`} {
		if !strings.Contains(before, want) {
			t.Errorf("the history lacks %q:\n%s", want, before)
		}
	}
	gone("zoe-home", 2)
	delete(w.users, 771)
	gone("zoe-home", 2)
	w.save(t, x, w.pass(syncer.KindFull, "interval", nil))
	if gone, err := reader.User(t.Context(), 771, time.Time{}, time.Time{}); err != nil || len(gone) != 4 || gone[0].Who.Name != "zoe" || gone[0].Who.Gone.IsZero() {
		t.Errorf("just gone: %+v, %v", gone, err)
	}
	w.now = w.now.Add(23 * time.Hour)
	w.save(t, x, w.pass(syncer.KindFull, "interval", nil))
	if !strings.Contains(plainText(t, kube), "zoe") {
		t.Error("forgotten before its time")
	}
	delete(w.rights, "zoe-home")
	w.now = w.now.Add(2 * time.Hour)
	w.save(t, x, w.pass(syncer.KindFull, "interval", nil))
	for _, word := range []string{"zoe", `"id":771,`, `"owner":771`, "gitlab:771", "user/771"} {
		if text := plainText(t, kube); strings.Contains(text, word) {
			t.Errorf("%q is still stored:\n%.3000s", word, text)
		}
	}
	all, err := reader.Namespace(t.Context(), "haw", time.Time{}, time.Time{})
	if err != nil || len(all) != 3 || all[0].Who.ID != 0 || !strings.HasPrefix(all[0].Who.Name, "person-") || all[2].Who.Name != all[0].Who.Name || all[1].ApprovedBy != all[0].Who.Name {
		t.Errorf("afterwards: %+v, %v", all, err)
	}
	if log, err := x.ledger.v.since(0); err != nil || len(log) != 7 {
		t.Errorf("%d entries are left of 7, %v", len(log), err)
	}
	if gone, err := reader.User(t.Context(), 771, time.Time{}, time.Time{}); err != nil || len(gone) != 0 {
		t.Errorf("%+v, %v", gone, err)
	}
}

// binds is a change that changes nothing: it says why.
func binds(w *world, ns string, _ int64) rbacsync.Change {
	k := key(ns, "edit")
	b := binding("edit", w.rights[ns]["edit"])
	return rbacsync.Change{Action: rbacsync.Update, Key: k, Source: w.source(ns), Old: &rbacsync.Live{Object: rbacsync.Object{Key: k, Binding: b}}, New: &rbacsync.Object{Key: k, Binding: b}}
}

// TestAUserThatWasNotReadIsNotGone: a list that could not be read removes nobody, and who comes back is there again.
func TestAUserThatWasNotReadIsNotGone(t *testing.T) {
	w, kube := newWorld(3), newCluster()
	x := w.writer(kube, limits)
	w.flip("haw", "edit", 2)
	w.save(t, x, w.pass(syncer.KindFull, "start", nil))
	p := w.pass(syncer.KindFull, "interval", nil)
	p.Snapshot.Users, p.Snapshot.MissingAll = map[int64]authz.User{1: w.users[1]}, "users"
	w.save(t, x, p)
	gone := func() bool { return !x.ledger.v.book.users[x.ledger.v.book.byID[2]-1].Gone.IsZero() }
	if gone() {
		t.Error("gone, though the list was not read")
	}
	p = w.pass(syncer.KindFull, "interval", nil)
	p.Snapshot.Users = nil
	w.save(t, x, p)
	if gone() {
		t.Error("gone, though the list has nobody")
	}
	delete(w.users, 2)
	w.save(t, x, w.pass(syncer.KindFull, "interval", nil))
	if !gone() {
		t.Error("not gone")
	}
	w.now = w.now.Add(1000 * time.Hour)
	w.save(t, x, w.pass(syncer.KindFull, "interval", nil)) // they still hold a right: a brake has stopped it
	w.users[2] = authz.User{ID: 2, Username: "back"}
	w.save(t, x, w.pass(syncer.KindFull, "interval", nil))
	if id, ok, err := NewReader(kube).Find(t.Context(), "back"); gone() || id != 2 || !ok || err != nil {
		t.Errorf("back again: %d %v %v", id, ok, err)
	}
}

// TestWhatIsOldIsDropped: nothing is kept for longer than the configured days and a twentieth more, also where little happens; who
// had what stays known for what is kept. A bound of bytes that cuts before is a finding.
func TestWhatIsOldIsDropped(t *testing.T) {
	t.Parallel()
	w, kube := newWorld(3), newCluster()
	x := w.writer(kube, Limits{Days: 100, MaxBytes: 1 << 20, PseudonymiseAfter: time.Hour})
	w.save(t, x, w.pass(syncer.KindFull, "start", nil))
	for range 150 {
		w.now = w.now.Add(24 * time.Hour)
		w.save(t, x, w.pass(syncer.KindTargeted, "hook", rbacsync.Scope{"haw": true}, flips{"haw", "edit", 1}))
	}
	all, err := NewReader(kube).Namespace(t.Context(), "haw", time.Time{}, time.Time{})
	if err != nil || len(all) < 100 || len(all) > 107 {
		t.Errorf("%d entries are kept, one a day, for 100 days: %v", len(all), err)
	}
	for n := len(all) - 1; n > 2; n -= 10 {
		m, err := NewReader(kube).At(t.Context(), "haw", all[n].At)
		if err != nil || !m.Known || (len(m.Rights) == 1) != (all[n].What == Gained) {
			t.Errorf("after %+v: %+v, %v", all[n], m, err)
		}
	}
	if len(x.Findings()) != 0 {
		t.Errorf("%v", x.Findings())
	}
	x.ledger.o.Limits = func() Limits { return Limits{Days: 100, MaxBytes: 500, PseudonymiseAfter: time.Hour} }
	for range 12 {
		w.now = w.now.Add(24 * time.Hour)
		w.save(t, x, w.pass(syncer.KindTargeted, "hook", rbacsync.Scope{"haw": true}, flips{"haw", "edit", 1}))
	}
	if f := x.Findings(); len(f) != 1 || f[0].Code != "history_full" || x.ledger.v.bytes() > 700 {
		t.Errorf("%v, %d bytes", f, x.ledger.v.bytes())
	}
}

// TestADamagedHistoryBeginsAnew: whatever somebody does to a Secret of it, the next changes are recorded, what can be read is told,
// who had what is known from then on, and nothing is made up.
func TestADamagedHistoryBeginsAnew(t *testing.T) {
	t.Parallel()
	for _, name := range []string{store.NameAudit, store.NameAuditBase, slotName(0), "all"} {
		for _, how := range []string{"deleted", "emptied", "garbage"} {
			w, kube := newWorld(5), newCluster()
			x := w.writer(kube, limits)
			x.ledger.openRecords = 4
			w.save(t, x, w.pass(syncer.KindFull, "start", nil))
			for n := range int64(9) {
				w.save(t, x, w.pass(syncer.KindTargeted, "hook", rbacsync.Scope{"haw": true}, flips{"haw", "edit", 1 + n%5}))
			}
			touched := false
			for _, s := range secrets(t, kube) {
				if s.Name != name && name != "all" {
					continue
				}
				touched = true
				if how == "deleted" {
					_ = kube.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("secrets"), s.Namespace, s.Name)
					continue
				}
				for k := range s.Data {
					if s.Data[k] = []byte("garbage"); how == "emptied" {
						delete(s.Data, k)
					}
				}
				s.ResourceVersion = "" // the fake gives it a new one
				if _, err := kube.CoreV1().Secrets(s.Namespace).Update(t.Context(), &s, metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			if !touched {
				continue
			}
			for _, restart := range []bool{false, true} {
				if restart {
					x = w.writer(kube, limits)
					w.save(t, x, w.pass(syncer.KindFull, "start", nil))
				}
				w.now = w.now.Add(2 * time.Hour)
				w.save(t, x, w.pass(syncer.KindDrift, "drift", rbacsync.Scope{"haw": true}, flips{"haw", "view", 1}))
				r := NewReader(kube)
				all, err := r.Namespace(t.Context(), "haw", w.now.Add(-time.Minute), time.Time{})
				m, atErr := r.At(t.Context(), "haw", w.now)
				if err != nil || atErr != nil || len(all) != 1 || all[0].Cause != "drift" || all[0].Found || !m.Known || momentText(m) != w.text("haw") {
					t.Errorf("%s %s, restart %v: %+v, %v; %s, want %s, %v", name, how, restart, all, err, momentText(m), w.text("haw"), atErr)
				}
			}
		}
	}
}

// TestNothingIsLostWhileNothingCanBeStored: what happens while kube-apiserver takes no write is stored afterwards, with its cause.
func TestNothingIsLostWhileNothingCanBeStored(t *testing.T) {
	w, kube := newWorld(5), newCluster()
	x := w.writer(kube, limits)
	w.save(t, x, w.pass(syncer.KindFull, "start", nil))
	broken := true
	refuse(kube, func() error {
		if broken {
			return errors.New("no route to host")
		}
		return nil
	})
	x.Take(w.pass(syncer.KindTargeted, "hook", rbacsync.Scope{"haw": true}, flips{"haw", "edit", 1}))
	if err := x.save(t.Context()); err == nil {
		t.Fatal("stored?")
	}
	x.Take(w.pass(syncer.KindTargeted, "hook", rbacsync.Scope{"haw": true}, flips{"haw", "edit", 2}))
	if err := x.save(t.Context()); err == nil {
		t.Fatal("stored?")
	}
	broken = false
	ctx, stop := context.WithCancel(t.Context())
	stop() // the process ends
	if err := x.Flush(ctx); err != nil {
		t.Error(err)
	}
	all, err := NewReader(kube).Namespace(t.Context(), "haw", time.Time{}, time.Time{})
	if err != nil || len(all) != 2 || all[0].Cause != "hook" || all[0].Found || all[1].Found {
		t.Errorf("%+v, %v", all, err)
	}
}

// TestALostAnswerDoublesNothing: a write that succeeded, and whose answer did not come back, is not made again.
func TestALostAnswerDoublesNothing(t *testing.T) {
	w, kube := newWorld(5), newCluster()
	x := w.writer(kube, limits)
	w.flip("haw", "edit", 1)
	w.save(t, x, w.pass(syncer.KindFull, "start", nil))
	lost := false
	kube.PrependReactor("get", "secrets", func(kubetesting.Action) (bool, runtime.Object, error) {
		if lost {
			return true, nil, errors.New("connection reset")
		}
		return false, nil, nil
	})
	refuse(kube, func() error { lost = true; return nil })
	w.flip("haw", "edit", 1) // somebody else
	x.Take(w.pass(syncer.KindDrift, "drift", rbacsync.Scope{"haw": true}, flips{"haw", "edit", 1}))
	if err := x.save(t.Context()); err == nil {
		t.Fatal("the answer came back?")
	}
	kube.ReactionChain = kube.ReactionChain[2:]
	if err := x.save(t.Context()); err != nil {
		t.Fatal(err)
	}
	all, err := NewReader(kube).Namespace(t.Context(), "haw", time.Time{}, time.Time{})
	if err != nil || len(all) != 2 || all[0].What != Lost || all[1].What != Gained {
		t.Errorf("%+v, %v", all, err)
	}
}

// TestWhatAnEarlierVersionWroteIsTold: the last changes that it kept are in the history, before it begins; those that it writes when
// it leads again come after what was recorded before. It is left for that version to show, for a while.
func TestWhatAnEarlierVersionWroteIsTold(t *testing.T) {
	w, kube := newWorld(5), newCluster()
	w.now = time.Now().UTC().Truncate(time.Second)
	old := store.Blob{Client: kube, Namespace: deploy.Namespace, Name: store.NameHistory}
	write := func(changes ...legacyChange) {
		t.Helper()
		err := old.Save(t.Context(), nil, func(out io.Writer) error {
			for _, c := range changes {
				if err := json.NewEncoder(out).Encode(c); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	first := legacyChange{At: w.now.Add(-time.Hour), Namespace: "haw", Object: "RoleBinding haw/gitlab-edit", Action: "update", Added: []string{"gitlab:1 (u1)"}, Removed: []string{"gitlab:2 (u2)", "and 5 more"}, Cause: "hook user_add_to_team", Why: "project/42 haw/world, approved by an administrator"}
	write(first, legacyChange{At: w.now.Add(-time.Minute), Namespace: "haw", Object: "NetworkPolicy haw/deny-all", Action: "create", Cause: "start"})
	lines := func() string {
		all, err := NewReader(kube).Namespace(t.Context(), "haw", time.Time{}, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, e := range all {
			out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s%s %s %s", e.What, e.Who.Name, e.Role, e.Object, e.Cause, e.Why)))
		}
		return strings.Join(out, "\n")
	}
	want := "gained u1 edit hook user_add_to_team project/42, approved by an administrator\nlost u2 edit hook user_add_to_team project/42, approved by an administrator\n" +
		"lost and 5 more edit hook user_add_to_team project/42, approved by an administrator\ncreated  NetworkPolicy/deny-all start"
	if got := lines(); got != want {
		t.Errorf("before this version has led:\n%s\nwant\n%s", got, want)
	}
	w.flip("haw", "edit", 1)
	x := w.writer(kube, limits)
	w.save(t, x, w.pass(syncer.KindFull, "start", nil), w.pass(syncer.KindTargeted, "hook", rbacsync.Scope{"haw": true}, flips{"haw", "view", 3}))
	want += "\ngained u3 view hook " + w.source("haw").String()
	if got := lines(); !strings.HasPrefix(got, want) {
		t.Errorf("afterwards:\n%s\nwant\n%s", got, want)
	}
	if m, err := NewReader(kube).At(t.Context(), "haw", w.now.Add(-30*time.Minute)); err != nil || m.Known {
		t.Errorf("who had what is not known of before: %+v, %v", m, err)
	}
	w.now = w.now.Add(time.Hour) // the earlier version leads again
	w.flip("haw", "edit", 4)
	write(first, legacyChange{At: w.now, Namespace: "haw", Object: "RoleBinding haw/gitlab-edit", Action: "update", Added: []string{"gitlab:4 (u4)"}, Cause: "hook", Why: "project/42 haw/world"})
	if got := lines(); !strings.HasSuffix(got, "gained u4 edit hook project/42") {
		t.Errorf("while it leads:\n%s", got)
	}
	w.now = w.now.Add(time.Hour)
	x = w.writer(kube, limits)
	w.save(t, x, w.pass(syncer.KindFull, "start", nil))
	if got := lines(); strings.Count(got, "u4") != 1 || strings.Contains(got, "not recorded") {
		t.Errorf("after it has led:\n%s", got)
	}
	if _, _, err := old.Load(t.Context(), "", func(io.Reader) error { return nil }); err != nil {
		t.Errorf("what the earlier version shows is gone: %v", err)
	}
	w.now = w.now.Add(8 * 24 * time.Hour)
	x = w.writer(kube, limits)
	w.save(t, x, w.pass(syncer.KindFull, "start", nil))
	if _, _, err := old.Load(t.Context(), "", func(io.Reader) error { return nil }); !errors.Is(err, store.ErrNone) {
		t.Errorf("it stays for ever: %v", err)
	}
	if got := lines(); strings.Count(got, "u4") != 1 || !strings.HasPrefix(got, want) {
		t.Errorf("at last:\n%s", got)
	}
}

// TestANamespaceThatChangesHands: whatever happens to the project of a namespace, what its members lose is recorded, once; and its
// name goes with that of the person whose it was at last.
func TestANamespaceThatChangesHands(t *testing.T) {
	t.Parallel()
	const ns = "zoe-thesis"
	mine := authz.Project{ID: 42, Path: "zoe/thesis", Owner: 3}
	for _, c := range []struct {
		name          string
		before, after func(*world, *fake.Clientset)
		keeps         bool // the name
	}{
		{name: "it stays", before: func(*world, *fake.Clientset) {}, after: func(*world, *fake.Clientset) {}},
		{name: "moved to a group", before: func(*world, *fake.Clientset) {}, after: func(w *world, _ *fake.Clientset) {
			w.projects[ns] = authz.Project{ID: 42, Path: "haw/thesis", Group: 1}
		}, keeps: true},
		{name: "moved to a person", before: func(w *world, _ *fake.Clientset) {
			w.projects[ns] = authz.Project{ID: 42, Path: "haw/thesis", Group: 1}
		}, after: func(w *world, _ *fake.Clientset) { w.projects[ns] = mine }},
		{name: "gone or unread", before: func(*world, *fake.Clientset) {}, after: func(w *world, _ *fake.Clientset) { w.unread[ns] = true }},
		{name: "unread at first", before: func(w *world, _ *fake.Clientset) { w.unread[ns] = true }, after: func(w *world, _ *fake.Clientset) { w.unread[ns] = false }},
		{name: "known from a version before", before: func(w *world, kube *fake.Clientset) {
			old := store.Blob{Client: kube, Namespace: deploy.Namespace, Name: store.NameHistory}
			err := old.Save(t.Context(), nil, func(out io.Writer) error {
				return json.NewEncoder(out).Encode(legacyChange{At: w.now.Add(-9 * 24 * time.Hour), Namespace: ns, Object: "RoleBinding " + ns + "/gitlab-edit", Action: "update", Added: []string{"gitlab:4 (u4)"}, Cause: "hook"})
			})
			if err != nil {
				t.Fatal(err)
			}
		}, after: func(*world, *fake.Clientset) {}},
	} {
		w, kube := newWorld(5), newCluster()
		w.projects[ns] = mine
		c.before(w, kube)
		x := w.writer(kube, limits)
		for user := range int64(5) {
			w.flip(ns, "edit", user+1)
		}
		w.save(t, x, w.pass(syncer.KindFull, "start", nil))
		w.now = w.now.Add(time.Hour)
		c.after(w, kube)
		lose := func(user int64) {
			t.Helper()
			w.save(t, x, w.pass(syncer.KindTargeted, "hook", rbacsync.Scope{ns: true}, flips{ns, "edit", user}))
			m, err := NewReader(kube).At(t.Context(), ns, w.now)
			if err != nil || momentText(m) != w.text(ns) {
				t.Errorf("%s, without u%d: %s, %v", c.name, user, momentText(m), err)
			}
		}
		lose(1)
		w.save(t, x, w.pass(syncer.KindFull, "interval", nil))
		lose(3)
		delete(w.users, 3)
		for range 2 { // the name stays while somebody has something in it
			w.now = w.now.Add(48 * time.Hour)
			w.save(t, x, w.pass(syncer.KindFull, "interval", nil))
		}
		lose(2)
		all, err := NewReader(kube).Namespace(t.Context(), ns, w.now.Add(-7*24*time.Hour), time.Time{})
		if err != nil || len(all) != 3 {
			t.Errorf("%s: %+v, %v", c.name, all, err)
		}
		for _, e := range all {
			if e.What != Lost || e.Found || e.Cause != "hook" {
				t.Errorf("%s: %+v", c.name, e)
			}
		}
		w.now = w.now.Add(48 * time.Hour)
		w.save(t, x, w.pass(syncer.KindTargeted, "hook", rbacsync.Scope{ns: true}, flips{ns, "edit", 4}, flips{ns, "edit", 5}))
		delete(w.rights, ns)
		w.save(t, x, w.pass(syncer.KindFull, "interval", nil))
		if keeps := strings.Contains(plainText(t, kube), ns); keeps != c.keeps {
			t.Errorf("%s: the name of the namespace is kept: %v\n%s", c.name, keeps, plainText(t, kube))
		}
	}
}

// TestWhatAnEarlierVersionWroteIsTakenOverOnce: however often it is read, also once the history was damaged.
func TestWhatAnEarlierVersionWroteIsTakenOverOnce(t *testing.T) {
	w, kube := newWorld(5), newCluster()
	old := store.Blob{Client: kube, Namespace: deploy.Namespace, Name: store.NameHistory}
	write := func(at time.Time) {
		t.Helper()
		err := old.Save(t.Context(), nil, func(out io.Writer) error {
			return errors.Join(
				json.NewEncoder(out).Encode(legacyChange{At: at, Namespace: "haw", Object: "RoleBinding haw/gitlab-edit", Action: "update", Added: []string{"gitlab:1 (u1)"}, Cause: "hook"}),
				json.NewEncoder(out).Encode(legacyChange{At: at, Namespace: "haw", Object: "NetworkPolicy haw/deny-all", Action: "create", Cause: "hook"}))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	count := func(what string, want int) {
		t.Helper()
		all, err := NewReader(kube).Namespace(t.Context(), "haw", time.Time{}, time.Time{})
		if err != nil || len(all) != want {
			t.Errorf("%s: %d entries, %v: %+v", what, len(all), err, all)
		}
	}
	damage := func(name, key string) {
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
	write(w.now.Add(-time.Hour))
	x := w.writer(kube, limits)
	w.save(t, x, w.pass(syncer.KindFull, "start", nil))
	w.now = w.now.Add(time.Hour)
	write(w.now) // that version leads again
	w.flip("haw", "edit", 1)
	for range 3 {
		x = w.writer(kube, limits)
		w.save(t, x, w.pass(syncer.KindFull, "start", nil))
		count("read again", 4)
	}
	damage(store.NameAuditBase, "content.gz")
	write(w.now)
	x = w.writer(kube, limits)
	w.save(t, x, w.pass(syncer.KindFull, "start", nil))
	count("begun anew", 2)
	x.ledger.openRecords = 1
	w.save(t, x, w.pass(syncer.KindTargeted, "hook", rbacsync.Scope{"haw": true}, flips{"haw", "view", 1}))
	damage(store.NameAudit, keyOpen)
	x = w.writer(kube, limits)
	w.save(t, x, w.pass(syncer.KindFull, "start", nil))
	count("what is open is damaged", 3)
}
