package syncer_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	kubetesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// counting counts the requests of a client by verb.
type counting struct {
	next  http.RoundTripper
	mu    sync.Mutex
	lists int
}

func (c *counting) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet && r.URL.Query().Get("watch") == "" && strings.Contains(r.URL.RawQuery, "limit=") {
		c.mu.Lock()
		c.lists++
		c.mu.Unlock()
	}
	return c.next.RoundTrip(r)
}

func (c *counting) taken() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.lists
	c.lists = 0
	return n
}

// counted returns a client of the integrator's ServiceAccount whose lists are counted.
func (c *testCluster) counted(t *testing.T) (*kubernetes.Clientset, *counting) {
	t.Helper()
	n := &counting{}
	cfg := c.as(c.token)
	cfg.Wrap(func(rt http.RoundTripper) http.RoundTripper { n.next = rt; return n })
	client, err := c.client(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return client, n
}

// rounds collects what a Syncer reports.
type rounds struct {
	mu  sync.Mutex
	all []syncer.Round
}

func (r *rounds) add(x syncer.Round) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, x)
}

// taken returns those until now; the Syncer may be adding another one.
func (r *rounds) taken() []syncer.Round {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

func (r *rounds) causes() []string {
	var out []string
	for _, x := range r.taken() {
		out = append(out, x.Cause)
	}
	return out
}

// eventually asks until it is true, for a few seconds.
func eventually(t *testing.T, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for time.Since(start) < 10*time.Second {
		if ok() {
			return time.Since(start)
		}
		time.Sleep(2 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
	return 0
}

// running starts Run and stops it at the end of the test.
func running(t *testing.T, s *syncer.Syncer) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

func TestClusterDriftIsPutBackAtOnceWithAnEvent(t *testing.T) {
	c := realCluster(t)
	kube, lists := c.counted(t)
	g, seen := &gitlab{snap: org(70, "watched")}, &rounds{}
	s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Interval: time.Hour, Watch: kube, OnRound: seen.add})
	running(t, s)
	const ns = "watched-world"
	eventually(t, "the first round", func() bool { return len(seen.causes()) > 0 })
	ctx, bindings := t.Context(), c.admin.RbacV1().RoleBindings(ns)

	// A hook's round lists nothing. What the first round has looked for beside it, say foreign bindings, is over.
	for lists.taken() > 0 {
		time.Sleep(500 * time.Millisecond)
	}
	g.set(func(g *gitlab) { g.snap = without(g.snap, 1070, 3) })
	s.Trigger([]authz.SourceID{authz.ProjectID(1070)}, "hook")
	took := eventually(t, "bob's right is gone", func() bool {
		rb, err := bindings.Get(ctx, "gitlab-view", metav1.GetOptions{})
		return err == nil && len(rb.Subjects) == 0
	})
	t.Logf("from the trigger to the written revocation: %v", took)
	if n := lists.taken(); n != 0 {
		t.Errorf("%d lists of the cluster for a hook", n)
	}

	restored := func(what string, change func() error, ok func() bool) {
		t.Helper()
		if err := change(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		t.Logf("%s: put back after %v", what, eventually(t, what+" is put back", ok))
	}
	restored("somebody added to a binding", func() error {
		_, err := bindings.Patch(ctx, "gitlab-edit", types.JSONPatchType,
			[]byte(`[{"op":"add","path":"/subjects/-","value":{"kind":"User","apiGroup":"rbac.authorization.k8s.io","name":"gitlab:4"}}]`), metav1.PatchOptions{})
		return err
	}, func() bool {
		rb, err := bindings.Get(ctx, "gitlab-edit", metav1.GetOptions{})
		return err == nil && len(rb.Subjects) == 1 && rb.Subjects[0].Name == "gitlab:2"
	})
	restored("a deleted binding", func() error { return bindings.Delete(ctx, "gitlab-edit", metav1.DeleteOptions{}) }, func() bool {
		rb, err := bindings.Get(ctx, "gitlab-edit", metav1.GetOptions{})
		return err == nil && len(rb.Subjects) == 1
	})
	restored("a deleted ServiceAccount", func() error {
		return c.admin.CoreV1().ServiceAccounts(ns).Delete(ctx, kubename.CIServiceAccount, metav1.DeleteOptions{})
	}, func() bool {
		_, err := c.admin.CoreV1().ServiceAccounts(ns).Get(ctx, kubename.CIServiceAccount, metav1.GetOptions{})
		return err == nil
	})
	restored("a relabelled namespace", func() error {
		_, err := c.admin.CoreV1().Namespaces().Patch(ctx, ns, types.MergePatchType,
			[]byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"privileged"}}}`), metav1.PatchOptions{})
		return err
	}, func() bool {
		n, err := c.admin.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
		return err == nil && n.Labels["pod-security.kubernetes.io/enforce"] == "baseline"
	})
	// A foreign binding in the place of ours is left alone, and ours comes back when it goes.
	restored("a place taken by a foreign binding", func() error {
		if err := bindings.Delete(ctx, "gitlab-view", metav1.DeleteOptions{}); err != nil {
			return err
		}
		for {
			_, err := bindings.Create(ctx, &rbacv1.RoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: "gitlab-view"},
				RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
			}, metav1.CreateOptions{})
			if apierrors.IsAlreadyExists(err) { // ours was faster
				err = bindings.Delete(ctx, "gitlab-view", metav1.DeleteOptions{})
				if err == nil || apierrors.IsNotFound(err) {
					continue
				}
			}
			if err != nil {
				return err
			}
			time.Sleep(300 * time.Millisecond)
			rb, err := bindings.Get(ctx, "gitlab-view", metav1.GetOptions{})
			if err != nil || rb.Labels[kubename.LabelManagedBy] != "" {
				t.Errorf("the foreign binding was touched: %v, %v", rb, err)
			}
			return bindings.Delete(ctx, "gitlab-view", metav1.DeleteOptions{})
		}
	}, func() bool {
		rb, err := bindings.Get(ctx, "gitlab-view", metav1.GetOptions{})
		return err == nil && rb.Labels[kubename.LabelManagedBy] == kubename.ManagedBy
	})

	var events *corev1.EventList
	eventually(t, "Events of every kind", func() bool {
		var err error
		if events, err = c.admin.CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "reason=DriftRestored"}); err != nil {
			t.Fatal(err)
		}
		kinds := map[string]bool{}
		for _, e := range events.Items {
			kinds[e.InvolvedObject.Kind] = true
		}
		return len(kinds) == 3
	})
	if !strings.Contains(events.Items[0].Message, "rights here come from GitLab") {
		t.Errorf("Event %q", events.Items[0].Message)
	}

	// Nothing of ours looked like drift: GitLab's changes are written without one.
	before := len(seen.causes())
	g.set(func(g *gitlab) { g.snap = org(70, "watched") })
	s.Trigger([]authz.SourceID{authz.ProjectID(1070)}, "hook")
	eventually(t, "bob is back", func() bool {
		rb, err := bindings.Get(ctx, "gitlab-view", metav1.GetOptions{})
		return err == nil && len(rb.Subjects) == 1
	})
	time.Sleep(300 * time.Millisecond)
	if got := seen.causes()[before:]; len(got) != 1 || got[0] != "hook" {
		t.Errorf("rounds %v, want the hook's alone", got)
	}
	for _, r := range seen.taken() {
		if r.Err != nil && !strings.Contains(r.Err.Error(), "already exists") { // the foreign binding above
			t.Errorf("round %q: %v", r.Cause, r.Err)
		}
	}
}

// TestClusterCICredentialsArePutBack: with the role that may not list Secrets. Somebody deletes the Secret with the CI
// token, empties it, or deletes the ServiceAccount, whose tokens die with it.
func TestClusterCICredentialsArePutBack(t *testing.T) {
	c := realCluster(t)
	var mu sync.Mutex
	var last string // token that the project has
	p := ci.Config{
		Kube: c.own, Cluster: ci.Cluster{URL: c.cp.URL(), CA: c.cp.CA()}, Scope: "ICC-K8s", Now: time.Now, Lifetime: time.Hour, Handover: time.Hour,
		Variables: delivery(func(_ int64, vars []ci.Variable) {
			mu.Lock()
			defer mu.Unlock()
			for _, v := range vars {
				if v.Key == "KUBE_TOKEN" {
					last = v.Value
				}
			}
		}),
	}
	token := func() string { mu.Lock(); defer mu.Unlock(); return last }
	s := newSyncer(t, syncer.Options{Reader: &gitlab{snap: org(75, "ci-drift")}, Kube: c.own, Watch: c.own, Interval: time.Hour, CI: ci.New(p)})
	running(t, s)
	const ns = "ci-drift-world"
	eventually(t, "the first token", func() bool { return token() != "" })
	secrets, ctx := c.admin.CoreV1().Secrets(ns), t.Context()
	time.Sleep(time.Second) // our own writes are looked at once more, and no more
	own := func() string {  // the token in the Secret
		sec, err := secrets.Get(ctx, kubename.CISecret, metav1.GetOptions{})
		if err != nil {
			return ""
		}
		return string(sec.Data["token"])
	}
	works := func(token string) bool {
		job, err := c.client(c.as(token))
		if err != nil {
			t.Fatal(err)
		}
		_, err = job.CoreV1().ConfigMaps(ns).List(ctx, metav1.ListOptions{})
		return err == nil
	}
	first := token()
	for _, x := range []struct {
		what                string
		change              func() error
		secret, gitlabToken bool // which token is another one afterwards
	}{
		{"a deleted anchor", func() error { return secrets.Delete(ctx, kubename.CIAnchor, metav1.DeleteOptions{}) }, false, true},
		{"a deleted Secret", func() error { return secrets.Delete(ctx, kubename.CISecret, metav1.DeleteOptions{}) }, true, false},
		{"an emptied Secret", func() error {
			_, err := secrets.Patch(ctx, kubename.CISecret, types.MergePatchType, []byte(`{"data":null}`), metav1.PatchOptions{})
			return err
		}, true, false},
		{"a deleted ServiceAccount", func() error {
			return c.admin.CoreV1().ServiceAccounts(ns).Delete(ctx, kubename.CIServiceAccount, metav1.DeleteOptions{})
		}, true, true},
	} {
		before, kept := token(), own()
		if err := x.change(); err != nil {
			t.Fatalf("%s: %v", x.what, err)
		}
		t.Logf("%s: put right after %v", x.what, eventually(t, x.what+" is put right and delivered", func() bool {
			return (token() != before) == x.gitlabToken && own() != "" && (own() != kept) == x.secret && works(token()) && works(own())
		}))
		time.Sleep(time.Second) // what is changed while the namespace is still being looked at is noticed at a later look only (ci.Config.Recheck)
	}
	if first == token() {
		t.Error("the token is still the first one")
	}
	eventually(t, "an Event", func() bool {
		events, err := c.admin.CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "reason=DriftRestored,involvedObject.kind=Secret"})
		return err == nil && len(events.Items) > 0
	})
	job, err := c.client(c.as(token()))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the delivered token works", func() bool {
		_, err := job.CoreV1().ConfigMaps(ns).List(ctx, metav1.ListOptions{})
		return err == nil
	})
	done := token()
	time.Sleep(2 * time.Second)
	if token() != done {
		t.Error("another token without a reason")
	}
}

// TestDriftInOneNamespaceHoldsUpNoOther: somebody changes one namespace again and again, so it has to wait; another
// one is put back at once.
func TestDriftInOneNamespaceHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset()
		s := newSyncer(t, syncer.Options{Reader: &gitlab{snap: rbacsynctest.HawWorld()}, Kube: kube, Watch: kube, Interval: time.Hour, Now: time.Now})
		defer run(t, s)()
		time.Sleep(time.Second)
		for range 100 {
			if len(subjects(t, kube, "haw-world", "gitlab-edit")) == 0 {
				break
			}
			emptyBinding(t, kube, "haw-world", "gitlab-edit")
			time.Sleep(100 * time.Millisecond)
		}
		wantSubjects(t, kube, "haw-world", "gitlab-edit")
		emptyBinding(t, kube, "haw", "gitlab-edit")
		time.Sleep(100 * time.Millisecond)
		wantSubjects(t, kube, "haw", "gitlab-edit", "gitlab:2") // it does not wait for another one that is changed again and again
		time.Sleep(time.Minute)
		wantSubjects(t, kube, "haw-world", "gitlab-edit", "gitlab:2") // in the end that is put back, too
	})
}

// TestDriftThatMakesRoomIsPutBackAfterwards: hooks come in while much is put back. What these leave out is put back
// afterwards, and is not reported as made before.
func TestDriftThatMakesRoomIsPutBackAfterwards(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset()
		var slow atomic.Bool
		seen := &rounds{}
		s := newSyncer(t, syncer.Options{
			Reader: &gitlab{snap: rbacsynctest.HawWorld()}, Kube: kube, Watch: kube, Interval: time.Hour, Now: time.Now, OnRound: seen.add,
			Apply: cluster.ApplyOptions{Concurrency: 1, May: func() error {
				if slow.Load() {
					time.Sleep(600 * time.Millisecond)
				}
				return nil
			}},
		})
		defer run(t, s)()
		time.Sleep(time.Second)
		slow.Store(true)
		all := [][2]string{
			{"haw-world", "gitlab-view"},
			{"haw-world", "gitlab-edit"},
			{"haw-world", kubename.CIRoleBinding},
			{"haw", "gitlab-edit"},
			{"haw", kubename.CIRoleBinding},
		}
		for _, x := range all {
			emptyBinding(t, kube, x[0], x[1])
		}
		for range 30 {
			time.Sleep(100 * time.Millisecond)
			s.Trigger([]authz.SourceID{authz.ProjectID(999)}, "hook") // which puts nothing back by itself
		}
		time.Sleep(10 * time.Second)
		for _, x := range all {
			if len(subjects(t, kube, x[0], x[1])) == 0 {
				t.Errorf("%v is not put back", x)
			}
		}
		deferred := 0
		for _, r := range seen.taken() {
			deferred += len(r.Report.Deferred)
			if made := len(r.Report.Made(r.Plan)); made != r.Report.Applied {
				t.Errorf("round %s: %d changes applied, %d reported as made", r.Cause, r.Report.Applied, made)
			}
		}
		if deferred == 0 {
			t.Error("nothing made room: this shows nothing")
		}
	})
}

func emptyBinding(t *testing.T, kube kubernetes.Interface, ns, name string) {
	t.Helper()
	if _, err := kube.RbacV1().RoleBindings(ns).Patch(t.Context(), name, types.MergePatchType, []byte(`{"subjects":null}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// listless is a GitLab that answers single questions, and whose full readings can be broken.
type listless struct {
	halfGitLab
	verified
}

func (l *listless) Snapshot(ctx context.Context) (*authz.Snapshot, error) {
	return l.halfGitLab.Snapshot(ctx)
}

func (l *listless) Refresh(ctx context.Context, base *authz.Snapshot, changed []authz.SourceID) (*authz.Snapshot, error) {
	return l.halfGitLab.Refresh(ctx, base, changed)
}

// TestDriftDeletesNoNamespace: that a project is gone was answered long ago; no full reading has come through since, and
// somebody changes its namespace. Whether it still is gone nobody knows.
func TestDriftDeletesNoNamespace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		snap := rbacsynctest.CopySnap(rbacsynctest.HawWorld())
		snap.Projects[43] = authz.Project{ID: 43, Group: 7, Path: "haw/old", CreatedAt: snap.Projects[42].CreatedAt}
		g := &listless{halfGitLab: halfGitLab{gitlab: gitlab{snap: snap}}}
		g.verified = verified{gitlab: &g.halfGitLab.gitlab, exists: map[authz.SourceID]bool{authz.ProjectID(43): false}}
		kube := fake.NewClientset()
		s := newSyncer(t, syncer.Options{
			Reader: g, Kube: kube, Watch: kube, Interval: time.Hour, Now: time.Now, Settings: rbacsync.Settings{DeleteAfter: 24 * time.Hour},
		})
		defer run(t, s)()
		time.Sleep(time.Second)
		g.halfGitLab.set(func(gl *gitlab) { gl.snap = rbacsynctest.CopySnap(rbacsynctest.HawWorld()) })
		s.Trigger(nil, "everything")
		time.Sleep(time.Minute)
		ns, err := kube.CoreV1().Namespaces().Get(t.Context(), "haw-old", metav1.GetOptions{})
		if err != nil || ns.Annotations[kubename.AnnotationGoneSince] == "" {
			t.Fatalf("not noted as gone: %v, %v", ns, err)
		}
		g.halfGitLab.set(func(*gitlab) { g.broken = true })
		time.Sleep(25 * time.Hour)
		s.Trigger([]authz.SourceID{authz.ProjectID(42)}, "hook")
		time.Sleep(time.Second)
		ns.Labels["pod-security.kubernetes.io/enforce"] = "privileged"
		if _, err := kube.CoreV1().Namespaces().Update(t.Context(), ns, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if _, err := kube.CoreV1().Namespaces().Get(t.Context(), "haw-old", metav1.GetOptions{}); err != nil {
			t.Errorf("the namespace was deleted on an answer of yesterday: %v", err)
		}
	})
}

// TestAPartIsNotMadeOfHalfAWatch: a list that the watches begin with can't be read. Hooks are dealt with by listing all
// that is needed, and don't wait for the watches each time.
func TestAPartIsNotMadeOfHalfAWatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kube, half := fake.NewClientset(), fake.NewClientset()
		half.PrependReactor("list", "rolebindings", func(kubetesting.Action) (bool, runtime.Object, error) {
			return true, nil, errors.New("forbidden")
		})
		g := &gitlab{snap: rbacsynctest.HawWorld()}
		if _, err := newSyncer(t, syncer.Options{Reader: g, Kube: kube}).Once(t.Context(), "before"); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		s := newSyncer(t, syncer.Options{
			Reader: g, Kube: kube, Watch: half, Interval: time.Hour, Now: time.Now,
			OnRound: func(r syncer.Round) {
				mu.Lock()
				defer mu.Unlock()
				if r.Err != nil {
					t.Errorf("round %s: %v", r.Cause, r.Err)
				}
			},
		})
		stop := run(t, s)
		defer stop()
		time.Sleep(time.Minute)
		wantSubjects(t, kube, "haw-world", "gitlab-view", "gitlab:3")
		for _, snap := range []*authz.Snapshot{without(rbacsynctest.HawWorld(), 42, 3), rbacsynctest.HawWorld(), without(rbacsynctest.HawWorld(), 42, 3)} {
			g.set(func(g *gitlab) { g.snap = snap })
			s.Trigger([]authz.SourceID{authz.ProjectID(42)}, "hook")
			time.Sleep(time.Second)
			synctest.Wait()
			if n := len(subjects(t, kube, "haw-world", "gitlab-view")); n != len(snap.Projects[42].Members) {
				t.Errorf("%d subjects a second after the hook, want %d", n, len(snap.Projects[42].Members))
			}
		}
	})
}

// slowEvents is a cluster that takes Events only when it is released.
type slowEvents struct {
	kubernetes.Interface
	release chan struct{}
}

func (k slowEvents) CoreV1() corev1client.CoreV1Interface {
	return slowEventsCore{k.Interface.CoreV1(), k.release}
}

type slowEventsCore struct {
	corev1client.CoreV1Interface
	release chan struct{}
}

func (c slowEventsCore) Events(namespace string) corev1client.EventInterface {
	return slowEventsClient{c.CoreV1Interface.Events(namespace), c.release}
}

type slowEventsClient struct {
	corev1client.EventInterface
	release chan struct{}
}

func (c slowEventsClient) Create(ctx context.Context, e *corev1.Event, o metav1.CreateOptions) (*corev1.Event, error) {
	select {
	case <-c.release:
		return c.EventInterface.Create(ctx, e, o)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestEventsHoldUpNobody: while Events about what was put back can't be made, rights go and other changes are put back; the Events
// come when they can.
func TestEventsHoldUpNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset()
		release := make(chan struct{})
		g := &gitlab{snap: rbacsynctest.HawWorld()}
		s := newSyncer(t, syncer.Options{Reader: g, Kube: slowEvents{kube, release}, Watch: kube, Interval: time.Hour, Now: time.Now})
		defer run(t, s)()
		time.Sleep(time.Second)
		emptyBinding(t, kube, "haw", "gitlab-edit")
		time.Sleep(100 * time.Millisecond)
		wantSubjects(t, kube, "haw", "gitlab-edit", "gitlab:2")
		emptyBinding(t, kube, "haw-world", "gitlab-edit")
		time.Sleep(100 * time.Millisecond)
		wantSubjects(t, kube, "haw-world", "gitlab-edit", "gitlab:2")
		next := authztest.Clone(g.snap)
		p := next.Projects[42]
		p.Members = nil
		next.Projects[42] = p
		g.mu.Lock()
		g.snap = next
		g.mu.Unlock()
		s.Trigger([]authz.SourceID{authz.ProjectID(42)}, "hook")
		time.Sleep(100 * time.Millisecond)
		wantSubjects(t, kube, "haw-world", "gitlab-view")
		close(release)
		time.Sleep(time.Second)
		events, err := kube.CoreV1().Events("").List(t.Context(), metav1.ListOptions{})
		if err != nil || len(events.Items) != 2 {
			t.Errorf("%d Events about two changes: %v", len(events.Items), err)
		}
	})
}
