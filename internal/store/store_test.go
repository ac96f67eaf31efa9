package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// fill sets every field of v to something that is not zero.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Date(2026, 1, 1, 0, 0, *n%60, 0, time.UTC)))
			return
		}
		for _, f := range v.Fields() {
			fill(f, n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fill(v.Index(i), n)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.String:
		v.SetString(fmt.Sprintf("text <%d> é", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	default:
		panic("a field of a kind that this test can't fill: " + v.Type().String())
	}
}

func snapshot(t *testing.T) syncer.Stored {
	t.Helper()
	if n := reflect.TypeFor[authz.Snapshot]().NumField(); n != 9 { // From is of this process alone
		t.Fatalf("authz.Snapshot has %d fields: store the new one, and count it here", n)
	}
	n := 0
	s := &authz.Snapshot{
		Issuer: "https://gitlab.example.com", Taken: time.Date(2026, 11, 22, 1, 2, 3, 4, time.UTC), Admin: true, MissingAll: "the list of groups",
		Users: map[int64]authz.User{}, Groups: map[int64]authz.Group{}, Projects: map[int64]authz.Project{},
		Missing: map[authz.SourceID]string{authz.GroupID(7): "timeout", authz.UserID(3): "x"},
	}
	for id := range int64(3) {
		var u authz.User
		var g authz.Group
		var p authz.Project
		fill(reflect.ValueOf(&u).Elem(), &n)
		fill(reflect.ValueOf(&g).Elem(), &n)
		fill(reflect.ValueOf(&p).Elem(), &n)
		u.ID, g.ID, p.ID = id, id, id
		s.Users[id], s.Groups[id], s.Projects[id] = u, g, p
	}
	st := syncer.Stored{
		Snapshot: s, Names: map[authz.SourceID]string{authz.GroupID(7): "haw", authz.UserID(3): "bob"}, Before: s, Policy: new(authz.PolicyConfig),
		Jobs: map[int64]string{42: "haw-world", 43: "haw"},
	}
	fill(reflect.ValueOf(st.Policy).Elem(), &n)
	fill(reflect.ValueOf(&st.Past).Elem(), &n)
	var g authz.Gap
	fill(reflect.ValueOf(&g).Elem(), &n)
	st.Gaps = map[authz.SourceID]authz.Gap{authz.GroupID(7): g, authz.UserID(3): {All: authz.AbsentPlan}}
	var m rbacsync.Mark
	fill(reflect.ValueOf(&m).Elem(), &n)
	m.Source = authz.GroupID(7)
	st.Marks = map[string]rbacsync.Mark{"haw": m, "bob": {UID: "u-2", Source: authz.UserID(3)}} // GitLab says no date of some
	return st
}

// TestTheSnapshotBeforeComesBack: it is stored as what differs.
func TestTheSnapshotBeforeComesBack(t *testing.T) {
	kube, ctx := own(t), t.Context()
	s := store.Snapshots{Blob: store.Blob{Client: kube, Namespace: deploy.Namespace, Name: store.NameSnapshot}}
	st := snapshot(t)
	other := &authz.Snapshot{
		Issuer: st.Snapshot.Issuer, Taken: st.Snapshot.Taken.Add(-time.Hour),
		Users: maps.Clone(st.Snapshot.Users), Groups: maps.Clone(st.Snapshot.Groups), Projects: maps.Clone(st.Snapshot.Projects),
	}
	for id, p := range other.Projects {
		p.Variables = nil
		other.Projects[id] = p
	}
	u, g, p := other.Users[1], other.Groups[1], other.Projects[1]
	u.State, g.Path, p.Members = "blocked", "elsewhere", nil
	other.Users[1], other.Groups[1], other.Projects[1] = u, g, p
	u.ID, g.ID, p.ID = 77, 77, 77
	other.Users[77], other.Groups[77], other.Projects[77] = u, g, p
	delete(other.Users, 2)
	delete(other.Groups, 2)
	delete(other.Projects, 2)
	for name, before := range map[string]*authz.Snapshot{"another one": other, "none": nil} {
		st.Before = before
		if err := s.Save(ctx, st, nil); err != nil {
			t.Fatal(err)
		}
		got, _, err := s.Load(ctx, "")
		if err != nil || got == nil {
			t.Fatal(got, err)
		}
		if d := cmp.Diff(before, got.Before); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
		if len(got.Snapshot.Users) != 3 || got.Snapshot.Users[1].State == "blocked" {
			t.Errorf("%s: the Snapshot itself has the users %v", name, got.Snapshot.Users)
		}
	}
}

func TestASnapshotComesBackWithEveryField(t *testing.T) {
	kube, ctx := own(t), t.Context()
	s := store.Snapshots{Blob: store.Blob{Client: kube, Namespace: deploy.Namespace, Name: store.NameSnapshot}}
	want := snapshot(t)
	if err := s.Save(ctx, want, nil); err != nil {
		t.Fatal(err)
	}
	got, version, err := s.Load(ctx, "")
	if err != nil || got == nil {
		t.Fatal(got, err)
	}
	for id, p := range want.Snapshot.Projects { // what a later process must read anew
		p.Variables = nil
		want.Snapshot.Projects[id] = p
	}
	if d := cmp.Diff(want, *got); d != "" {
		t.Errorf("what came back (-want +got):\n%s", d)
	}
	if again, v, err := s.Load(ctx, version); again != nil || v != version || err != nil {
		t.Errorf("the same version again: %v, %v", again, err)
	}
	secret := func() string {
		x, err := shared.admin.CoreV1().Secrets(deploy.Namespace).Get(ctx, store.NameSnapshot, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return x.ResourceVersion
	}
	before := secret()
	if err := s.Save(ctx, want, nil); err != nil || secret() != before {
		t.Errorf("the same content was written again (%v)", err)
	}
	want.Snapshot.Taken = want.Snapshot.Taken.Add(time.Hour)
	if err := s.Save(ctx, want, nil); err != nil || secret() == before {
		t.Errorf("the new time was not written (%v)", err)
	}
	if again, _, err := s.Load(ctx, version); again != nil || err != nil {
		t.Errorf("a new time alone is a new version: %v, %v", again, err)
	}
}

// noise does not compress.
func noise(seed uint64, size int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed)})
	b := make([]byte, size)
	_, _ = r.Read(b)
	return b
}

func TestABlobIsOldOrNewAndNeverMixed(t *testing.T) {
	kube, ctx := own(t), t.Context()
	b := store.Blob{Client: kube, Namespace: deploy.Namespace, Name: store.NameHistory}
	read := func() ([]byte, error) {
		var got []byte
		_, _, err := b.Load(ctx, "", func(r io.Reader) (err error) { got, err = io.ReadAll(r); return err })
		return got, err
	}
	if _, err := read(); !errors.Is(err, store.ErrNone) {
		t.Fatalf("of nothing: %v", err)
	}
	versions := [][]byte{noise(1, 100), noise(2, 3<<20), noise(3, 2<<20), noise(4, 3<<20), noise(5, 10)}
	for i, v := range versions {
		if err := b.Save(ctx, nil, func(w io.Writer) error { _, err := w.Write(v); return err }); err != nil {
			t.Fatalf("version %d: %v", i, err)
		}
		if got, err := read(); err != nil || !bytes.Equal(got, v) {
			t.Errorf("version %d comes back as %d bytes, %v", i, len(got), err)
		}
	}
	if err := b.Save(ctx, nil, func(w io.Writer) error { _, err := w.Write(noise(6, 9<<20)); return err }); err == nil || !strings.Contains(err.Error(), "room") {
		t.Errorf("too much: %v", err)
	}

	// A reader beside a writer that works all the time.
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			_ = b.Save(ctx, nil, func(w io.Writer) error { _, err := w.Write(versions[1+i%3]); return err })
		}
	})
	for range 20 {
		got, err := read()
		if err != nil { // it may be overtaken twice, and says so
			if !errors.Is(err, store.ErrDamaged) {
				t.Error(err)
			}
			continue
		}
		if !slices.ContainsFunc(versions, func(v []byte) bool { return bytes.Equal(v, got) }) {
			t.Errorf("%d bytes that nobody wrote", len(got))
		}
	}
	stop()
	wg.Wait()
}

// TestABlobLeavesNothingBehind: whatever is stored after what, and whenever the writer died, the next Save leaves the Secrets of what
// is stored alone; what was stored before is in none of them.
func TestABlobLeavesNothingBehind(t *testing.T) {
	kube, ctx := own(t), t.Context()
	b := store.Blob{Client: kube, Namespace: deploy.Namespace, Name: store.NameHistory}
	save := func(b store.Blob, seed uint64, size int) error {
		return b.Save(ctx, nil, func(w io.Writer) error { _, err := w.Write(noise(seed, size)); return err })
	}
	stored := func() (parts int) {
		list, err := shared.admin.CoreV1().Secrets(deploy.Namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range list.Items {
			if strings.HasPrefix(s.Name, store.NameHistory+"-") {
				parts++
			}
		}
		return parts
	}
	died := errors.New("it died")
	sizes := []int{100, 2 << 20, 100, 3 << 20, 1 << 20, 100}
	for dies := range 5 { // before which write of each second Save; 0: before none
		for i, size := range sizes {
			if left := dies; i%2 == 1 && dies > 0 {
				dying := b
				dying.Before = func(context.Context) error {
					if left--; left == 0 {
						return died
					}
					return nil
				}
				if err := save(dying, uint64(50+i), 4<<20); !errors.Is(err, died) {
					t.Fatalf("it did not die: %v", err)
				}
			}
			if err := save(b, uint64(i), size); err != nil {
				t.Fatal(err)
			}
			want := (size + 900<<10 - 1) / (900 << 10)
			if size == 100 {
				want = 0
			}
			if got := stored(); got < want || got > want+1 { // a little more than size is stored
				t.Errorf("dying %d, save %d: %d further Secrets, want %d", dies, i, got, want)
			}
		}
		if err := b.Delete(ctx); err != nil || stored() != 0 {
			t.Errorf("%d are left, %v", stored(), err)
		}
	}
	if err := save(b, 1, 3<<20); err != nil {
		t.Fatal(err)
	}
	refused := b
	refused.Before = func(context.Context) error { return died }
	if err := errors.Join(save(refused, 2, 100)); !errors.Is(err, died) {
		t.Errorf("stored: %v", err)
	}
	if err := refused.Delete(ctx); !errors.Is(err, died) || stored() != 4 {
		t.Errorf("deleted: %d, %v", stored(), err)
	}
}

// TestOfTwoWritersOfABlobOneLoses: whatever another one has stored meanwhile is not overwritten.
func TestOfTwoWritersOfABlobOneLoses(t *testing.T) {
	kube, ctx := own(t), t.Context()
	b := store.Blob{Client: kube, Namespace: deploy.Namespace, Name: store.NameHistory}
	save := func(b store.Blob, seed uint64, size int) error {
		return b.Save(ctx, nil, func(w io.Writer) error { _, err := w.Write(noise(seed, size)); return err })
	}
	for at := range 5 { // between what is read and the write
		for _, sizes := range [][2]int{{1 << 20, 1 << 20}, {100, 1 << 20}, {1 << 20, 100}} {
			if err := save(b, 9, 2<<20); err != nil {
				t.Fatal(err)
			}
			n, other := 0, b
			other.Before = func(context.Context) error {
				if n++; n == at+1 {
					return save(b, 1, sizes[0])
				}
				return nil
			}
			err := save(other, 2, sizes[1])
			var got []byte
			_, _, loadErr := b.Load(ctx, "", func(r io.Reader) (err error) { got, err = io.ReadAll(r); return err })
			want := noise(2, sizes[1])
			if n > at && bytes.Equal(got, noise(1, sizes[0])) {
				want = got
			}
			if loadErr != nil || !bytes.Equal(got, want) || bytes.Equal(got, noise(2, sizes[1])) && err != nil {
				t.Errorf("at %d, %v: %d bytes, %v; the other one: %v", at, sizes, len(got), loadErr, err)
			}
			if err := b.Delete(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// tray collects what Follow hands over.
type tray struct {
	mu  sync.Mutex
	got []intake.Ticket
}

func (t *tray) take(in []intake.Ticket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.got = append(t.got, in...)
}

func (t *tray) all() []intake.Ticket {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.got)
}

func keys(in []intake.Ticket) []string {
	var out []string
	for _, t := range in {
		out = append(out, t.Key)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func follow(t *testing.T, b *store.Inbox) *tray {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	out := &tray{}
	var wg sync.WaitGroup
	wg.Go(func() { b.Follow(ctx, out.take, func([]intake.Ticket) bool { return false }) })
	t.Cleanup(func() { stop(); wg.Wait() })
	return out
}

func TestInbox(t *testing.T) {
	kube, ctx := own(t), t.Context()
	box := func() *store.Inbox {
		return &store.Inbox{Client: kube, Watch: kube, Namespace: deploy.Namespace, Logger: quiet, Now: time.Now}
	}
	one, other := box(), box() // two replicas
	if err := one.Put(ctx, []authz.SourceID{authz.ProjectID(42)}, "hook user_add_to_team"); err != nil {
		t.Fatal(err)
	}
	// It is there although nobody follows yet, and what comes later is handed over at once.
	leader := follow(t, other)
	eventually(t, "the first entry", func() bool { return len(leader.all()) == 1 })
	first := leader.all()[0]
	if d := cmp.Diff([]authz.SourceID{authz.ProjectID(42)}, first.Changed); d != "" || first.Cause != "hook user_add_to_team" || time.Since(first.At) > time.Minute {
		t.Errorf("entry %+v", first)
	}

	// Put again while a round works on the first one: that round's Remove leaves it.
	if err := one.Put(ctx, []authz.SourceID{authz.ProjectID(42), authz.GroupID(7)}, "hook again"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second entry", func() bool { return len(leader.all()) == 3 })
	if err := other.Remove(ctx, []intake.Ticket{first}); err != nil {
		t.Fatal(err)
	}
	fresh := follow(t, one)
	eventually(t, "what is left", func() bool { return cmp.Equal(keys(fresh.all()), []string{"group-7", "project-42"}) })
	if err := other.Remove(ctx, leader.all()); err != nil {
		t.Fatal(err)
	}
	cm, err := shared.admin.CoreV1().ConfigMaps(deploy.Namespace).Get(ctx, store.NameInbox, metav1.GetOptions{})
	if err != nil || len(cm.Data) != 0 {
		t.Errorf("after all was removed: %v, %v", cm.Data, err)
	}

	// A burst from two replicas: each is stored, and the requests are far fewer.
	var wg sync.WaitGroup
	start := time.Now()
	for i := range int64(400) {
		wg.Go(func() {
			if err := []*store.Inbox{one, other}[i%2].Put(ctx, []authz.SourceID{authz.ProjectID(i + 1)}, "hook burst"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("400 hooks stored in %v", time.Since(start))
	eventually(t, "400 entries", func() bool { return len(keys(leader.all())) == 401 })

	// Too much becomes one entry that asks for everything.
	var many []authz.SourceID
	for i := range int64(store.MaxInbox) {
		many = append(many, authz.GroupID(i+1))
	}
	if err := one.Put(ctx, many, "hook flood"); err != nil {
		t.Fatal(err)
	}
	cm, err = shared.admin.CoreV1().ConfigMaps(deploy.Namespace).Get(ctx, store.NameInbox, metav1.GetOptions{})
	if err != nil || len(cm.Data) != 1 || cm.Data["all"] == "" {
		t.Errorf("after a flood: %d entries, %v", len(cm.Data), err)
	}
	eventually(t, "the request for everything", func() bool { a := leader.all(); return a[len(a)-1].Key == "all" && len(a[len(a)-1].Changed) == 0 })
}

// TestInboxAfterARestartOfTheAPIServer: kube-apiserver keeps no events from before its start, and the inbox was written
// before it. Whoever follows hears at once of what is put afterwards, and is not refused again and again.
func TestInboxAfterARestartOfTheAPIServer(t *testing.T) {
	kube, ctx := own(t), t.Context()
	var log lines
	box := &store.Inbox{Client: kube, Watch: kube, Namespace: deploy.Namespace, Logger: slog.New(slog.NewTextHandler(&log, nil)), Now: time.Now}
	if err := box.Put(ctx, []authz.SourceID{authz.ProjectID(1)}, "hook before"); err != nil {
		t.Fatal(err)
	}
	leader := follow(t, box)
	eventually(t, "what was put before", func() bool { return len(leader.all()) == 1 })
	// Something else is written, so that the inbox is older than all that the API server reads at its start.
	if _, err := shared.admin.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "later"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := shared.cp.RestartAPIServer(ctx); err != nil {
		t.Fatal(err)
	}
	fresh := follow(t, &store.Inbox{Client: kube, Watch: kube, Namespace: deploy.Namespace, Logger: box.Logger, Now: time.Now})
	eventually(t, "what was put before, by a new leader", func() bool { return len(fresh.all()) == 1 })
	time.Sleep(6 * time.Second) // longer than any pause between two attempts, so that the one of before follows again
	quiet := log.String()
	for i := range int64(3) {
		began := time.Now()
		if err := box.Put(ctx, []authz.SourceID{authz.ProjectID(i + 2)}, "hook after"); err != nil {
			t.Fatal(err)
		}
		for _, f := range []*tray{leader, fresh} {
			eventually(t, "what was put afterwards", func() bool { return slices.Contains(keys(f.all()), fmt.Sprintf("project-%d", i+2)) })
		}
		took := time.Since(began)
		t.Logf("taken after %v", took)
		if took > 2*time.Second { // a loaded machine; on an idle one it takes some milliseconds
			t.Errorf("a hook was taken after %v", took)
		}
	}
	time.Sleep(6 * time.Second)
	if more := strings.TrimPrefix(log.String(), quiet); more != "" {
		t.Errorf("it goes on complaining:\n%s", more)
	}
	if strings.Contains(log.String(), "too old resource version") {
		t.Errorf("the watch was refused:\n%s", log.String())
	}
}

// lines is a log that several goroutines write.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.b.Write(p) }

func (l *lines) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

func TestOneLeadsAndTheNextTakesOver(t *testing.T) {
	kube := own(t)
	type replica struct {
		e     *store.Elector
		leads func() bool
		stop  func()
	}
	var now sync.Map // identity → offset of its clock
	make1 := func(name string) *replica {
		r := &replica{e: &store.Elector{
			Client: kube, Namespace: deploy.Namespace, Identity: name, Logger: quiet, Duration: 3 * time.Second, Every: 100 * time.Millisecond,
			Now: func() time.Time {
				if d, ok := now.Load(name); ok {
					return time.Now().Add(d.(time.Duration))
				}
				return time.Now()
			},
		}}
		var mu sync.Mutex
		leading := false
		ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
		done := make(chan error, 1)
		go func() {
			done <- r.e.Run(ctx, func(ctx context.Context) error {
				set := func(v bool) { mu.Lock(); leading = v; mu.Unlock() }
				set(true)
				defer set(false)
				<-ctx.Done()
				return ctx.Err()
			})
		}()
		r.leads = func() bool { mu.Lock(); defer mu.Unlock(); return leading }
		r.stop = sync.OnceFunc(func() { cancel(); <-done })
		t.Cleanup(r.stop)
		return r
	}
	start := time.Now()
	a := make1("a")
	eventually(t, "a leads", a.leads)
	if d := time.Since(start); d > time.Second {
		t.Errorf("a alone needed %v to lead", d)
	}
	if a.e.May() != nil {
		t.Error("a leads and may not write")
	}
	b := make1("b")
	time.Sleep(500 * time.Millisecond)
	if id, me := b.e.Leader(); b.leads() || me || id != "a" || !errors.Is(b.e.May(), store.ErrNotLeading) {
		t.Errorf("b beside a: leads %v, knows %q", b.leads(), id)
	}
	// a gives it up: b has it soon.
	a.stop()
	lease, err := kube.CoordinationV1().Leases(deploy.Namespace).Get(t.Context(), store.NameLease, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if h := lease.Spec.HolderIdentity; h != nil && *h == "a" { // b would have to wait until it has run out
		t.Error("a did not give the Lease back when it stopped")
	}
	eventually(t, "b leads", b.leads)
	// b's clock jumps, as after it was stopped for a while: it may not write, before it has asked anybody.
	now.Store("b", 5*time.Second)
	if b.e.May() == nil {
		t.Error("b may write after a pause longer than its lease")
	}
}
