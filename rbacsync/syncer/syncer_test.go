package syncer_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// gitlab is a Reader whose answers a test sets.
type gitlab struct {
	mu    sync.Mutex
	snap  *authz.Snapshot
	err   error
	calls []string
	delay time.Duration
}

func (g *gitlab) Snapshot(context.Context) (*authz.Snapshot, error) { return g.answer("full") }

func (g *gitlab) Refresh(_ context.Context, base *authz.Snapshot, changed []authz.SourceID) (*authz.Snapshot, error) {
	if base == nil {
		return nil, errors.New("refresh without a base")
	}
	call := "refresh"
	for _, id := range changed {
		call += " " + id.String()
	}
	return g.answer(call)
}

func (g *gitlab) answer(call string) (*authz.Snapshot, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls = append(g.calls, call)
	if g.delay > 0 {
		time.Sleep(g.delay)
	}
	return g.snap, g.err
}

func (g *gitlab) set(f func(*gitlab)) { g.mu.Lock(); defer g.mu.Unlock(); f(g) }

func (g *gitlab) taken() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := g.calls
	g.calls = nil
	return out
}

func without(s *authz.Snapshot, project, user int64) *authz.Snapshot {
	n := *s
	n.Projects = maps.Clone(s.Projects)
	p := n.Projects[project]
	p.Members = slices.DeleteFunc(slices.Clone(p.Members), func(m authz.Member) bool { return m.User == user })
	n.Projects[project] = p
	return &n
}

func newSyncer(t *testing.T, o syncer.Options) *syncer.Syncer {
	t.Helper()
	o.Policy = rbacsynctest.Policy(t)
	if o.Mode == "" {
		o.Mode = syncer.ModeEnforce
	}
	o.Questions = questionsOf(o.Reader)
	s, err := syncer.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// questionsOf returns the reader itself where it answers questions.
func questionsOf(r intake.Reader) syncer.Verifier {
	v, _ := r.(syncer.Verifier)
	return v
}

// subjects returns the user names in a binding.
func subjects(t *testing.T, kube *fake.Clientset, ns, name string) []string {
	t.Helper()
	rb, err := kube.RbacV1().RoleBindings(ns).Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, s := range rb.Subjects {
		out = append(out, s.Name)
	}
	return out
}

func wantSubjects(t *testing.T, kube *fake.Clientset, ns, name string, want ...string) {
	t.Helper()
	if d := cmp.Diff(append([]string{}, want...), subjects(t, kube, ns, name)); d != "" {
		t.Errorf("subjects of %s/%s (-want +got):\n%s", ns, name, d)
	}
}

func TestPlanModeWritesNothing(t *testing.T) {
	t.Parallel()
	kube := fake.NewClientset()
	s := newSyncer(t, syncer.Options{Reader: &gitlab{snap: rbacsynctest.HawWorld()}, Kube: kube, Mode: syncer.ModePlan})
	round, err := s.Once(t.Context(), "test")
	if err != nil || len(round.Plan) != 10 {
		t.Errorf("%d changes planned, %v; want 10", len(round.Plan), err)
	}
	for _, a := range kube.Actions() {
		if a.GetVerb() != "list" {
			t.Errorf("mode plan did %s %s", a.GetVerb(), a.GetResource().Resource)
		}
	}
	if st := s.State(); st == nil || st.View.Namespace[authz.ProjectID(42)] != "haw-world" || st.View.Source["haw"] != authz.GroupID(7) {
		t.Errorf("state %+v", st)
	}
}

func TestApplyWritesRevocationsFirstAndGoesOnAfterErrors(t *testing.T) {
	t.Parallel()
	kube := fake.NewClientset()
	g := &gitlab{snap: rbacsynctest.HawWorld()}
	s := newSyncer(t, syncer.Options{Reader: g, Kube: kube})
	if _, err := s.Once(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	wantSubjects(t, kube, "haw-world", "gitlab-edit", "gitlab:2")
	wantSubjects(t, kube, "haw-world", "gitlab-view", "gitlab:3")

	// alice leaves the group, bob is promoted in the project, a project is added.
	n := without(rbacsynctest.HawWorld(), 42, 3)
	grp := n.Groups[7]
	grp.Members = nil
	n.Groups[7] = grp
	p := n.Projects[42]
	p.Members = []authz.Member{{User: 3, Level: authz.Maintainer}}
	n.Projects[42] = p
	n.Projects[43] = authz.Project{ID: 43, Group: 7, Path: "haw/new", Members: []authz.Member{{User: 3, Level: authz.Maintainer}}}
	g.snap = n

	var order []string
	var mu sync.Mutex
	kube.PrependReactor("*", "*", func(a ktesting.Action) (bool, runtime.Object, error) {
		if a.GetVerb() == "list" {
			return false, nil, nil
		}
		name := a.GetVerb() + " " + a.GetResource().Resource + " " + a.GetNamespace()
		mu.Lock()
		defer mu.Unlock()
		order = append(order, name)
		if name == "update rolebindings haw" {
			return true, nil, errors.New("etcd is sad")
		}
		return false, nil, nil
	})
	round, err := s.Once(t.Context(), "test")
	if err == nil || !strings.Contains(err.Error(), "update RoleBinding haw/gitlab-edit: etcd is sad") {
		t.Errorf("error %v", err)
	}
	wantSubjects(t, kube, "haw-world", "gitlab-edit", "gitlab:3")
	wantSubjects(t, kube, "haw-world", "gitlab-view")
	wantSubjects(t, kube, "haw-new", "gitlab-edit", "gitlab:3")
	if round.Report.Applied != len(round.Plan)-1 || len(round.Report.Failed) != 1 {
		t.Errorf("%d of %d applied, %d failed", round.Report.Applied, len(round.Plan), len(round.Report.Failed))
	}
	for i, a := range order {
		if revoke := strings.HasPrefix(a, "update"); revoke != (i < 3) {
			t.Fatalf("write %d is %q: want the three revocations before everything else", i, a)
		}
	}
	if order[3] != "create namespaces " {
		t.Errorf("after the revocations comes %q, want the namespace", order[3])
	}
}

func TestContentWaitsForItsNamespace(t *testing.T) {
	t.Parallel()
	kube := fake.NewClientset()
	kube.PrependReactor("create", "namespaces", func(a ktesting.Action) (bool, runtime.Object, error) {
		ns, _ := a.(ktesting.CreateAction).GetObject().(*corev1.Namespace)
		return ns.Name == "haw", nil, errors.New("quota")
	})
	s := newSyncer(t, syncer.Options{Reader: &gitlab{snap: rbacsynctest.HawWorld()}, Kube: kube})
	round, err := s.Once(t.Context(), "test")
	if err == nil || round.Report.Applied != 5 || len(round.Report.Failed) != 5 {
		t.Errorf("%d applied, %d failed, %v; want 5, 5 and an error", round.Report.Applied, len(round.Report.Failed), err)
	}
	for _, a := range kube.Actions() {
		if a.GetVerb() == "create" && a.GetNamespace() == "haw" {
			t.Errorf("%s created in a namespace that could not be made", a.GetResource().Resource)
		}
	}
}

func TestForeignLabelsSurviveAndOursAreRestored(t *testing.T) {
	t.Parallel()
	kube := fake.NewClientset()
	s := newSyncer(t, syncer.Options{Reader: &gitlab{snap: rbacsynctest.HawWorld()}, Kube: kube})
	if _, err := s.Once(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	ns, _ := kube.CoreV1().Namespaces().Get(t.Context(), "haw", metav1.GetOptions{})
	ns.Labels["team"] = "blue"
	ns.Labels["pod-security.kubernetes.io/enforce"] = "privileged"
	ns.Annotations["note"] = "of an admin"
	if _, err := kube.CoreV1().Namespaces().Update(t.Context(), ns, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Once(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	ns, _ = kube.CoreV1().Namespaces().Get(t.Context(), "haw", metav1.GetOptions{})
	if ns.Labels["team"] != "blue" || ns.Annotations["note"] != "of an admin" || ns.Labels["pod-security.kubernetes.io/enforce"] != "baseline" {
		t.Errorf("labels %v, annotations %v", ns.Labels, ns.Annotations)
	}
	if round, err := s.Once(t.Context(), "test"); err != nil || len(round.Plan) != 0 {
		t.Errorf("then still %v, %v", round.Plan, err)
	}
}

func TestAnEmptyGitLabTakesNothingAway(t *testing.T) {
	t.Parallel()
	g := &gitlab{snap: rbacsynctest.HawWorld()}
	s := newSyncer(t, syncer.Options{Reader: g, Kube: fake.NewClientset()})
	if _, err := s.Once(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	g.snap = &authz.Snapshot{Issuer: rbacsynctest.Issuer}
	round, err := s.Once(t.Context(), "test")
	if err != nil || len(round.Plan) != 0 || len(round.Findings) != 1 || round.Findings[0].Code != "held" {
		t.Errorf("plan %v, findings %v, %v", round.Plan, round.Findings, err)
	}
}

func TestNewRefusesAnUnknownMode(t *testing.T) {
	t.Parallel()
	if _, err := syncer.New(syncer.Options{Mode: "dry"}); err == nil {
		t.Error("mode dry is accepted")
	}
}

// run starts Run in a synctest bubble and returns a function that ends it.
func run(t *testing.T, s *syncer.Syncer) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	}
}

func TestRunRounds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kube, g := fake.NewClientset(), &gitlab{snap: rbacsynctest.HawWorld()}
		var mu sync.Mutex
		var causes []string
		s := newSyncer(t, syncer.Options{
			Reader: g, Kube: kube, Interval: 10 * time.Minute,
			OnRound: func(r syncer.Round) {
				mu.Lock()
				defer mu.Unlock()
				causes = append(causes, r.Cause+"/"+r.Kind.Read())
			},
		})
		defer run(t, s)()
		expect := func(wantCauses []string, wantCalls ...string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if d := cmp.Diff(wantCauses, causes); d != "" {
				t.Errorf("rounds (-want +got):\n%s", d)
			}
			if d := cmp.Diff(wantCalls, g.taken()); d != "" {
				t.Errorf("reads (-want +got):\n%s", d)
			}
			causes = nil
		}
		expect([]string{"start/full"}, "full")

		time.Sleep(time.Minute)
		s.Trigger([]authz.SourceID{authz.ProjectID(42)}, "hook user_remove_from_team")
		g.set(func(g *gitlab) { g.snap = without(g.snap, 42, 3) })
		expect([]string{"hook user_remove_from_team/partial"}, "refresh project/42")
		wantSubjects(t, kube, "haw-world", "gitlab-view")

		// Hooks that arrive during a round are one round after it.
		g.set(func(g *gitlab) { g.delay = time.Second })
		s.Trigger([]authz.SourceID{authz.ProjectID(42)}, "hook a")
		synctest.Wait()
		for range 3 {
			s.Trigger([]authz.SourceID{authz.GroupID(7)}, "hook b")
			s.Trigger([]authz.SourceID{authz.ProjectID(42)}, "hook c")
		}
		time.Sleep(3 * time.Second)
		expect([]string{"hook a/partial", "hook b, hook c/partial"}, "refresh project/42", "refresh group/7 project/42")

		time.Sleep(11 * time.Minute)
		expect([]string{"periodic/full"}, "full")
		s.Trigger(nil, "hook overflow")
		time.Sleep(2 * time.Second)
		expect([]string{"hook overflow/full"}, "full")
	})
}

func TestRunKeepsEverythingWhileGitLabIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kube, g := fake.NewClientset(), &gitlab{snap: rbacsynctest.HawWorld()}
		s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Interval: 20 * time.Minute})
		defer run(t, s)()
		time.Sleep(2 * time.Second) // what the first pass leaves to be done is done
		synctest.Wait()
		g.taken()
		g.set(func(g *gitlab) { g.err = errors.New("502 Bad Gateway") })
		kube.ClearActions()
		s.Trigger([]authz.SourceID{authz.ProjectID(42)}, "hook")
		time.Sleep(8 * time.Minute)
		synctest.Wait()
		if n := len(kube.Actions()); n != 0 {
			t.Errorf("%d requests to the cluster without a reading of GitLab", n)
		}
		if n := len(g.taken()); n < 8 || n > 20 {
			t.Errorf("%d attempts in eight minutes, want about a dozen", n)
		}
		st := s.State()
		if st.Err == nil || !strings.Contains(st.Err.Error(), "502") || st.View.Namespace[authz.ProjectID(42)] != "haw-world" || st.Round.Err != nil {
			t.Errorf("state while GitLab is away: %v, %v", st.Err, st.View.Namespace)
		}

		g.set(func(g *gitlab) { g.err, g.snap = nil, without(g.snap, 42, 3) })
		time.Sleep(70 * time.Second)
		synctest.Wait()
		if d := cmp.Diff([]string{"refresh project/42"}, g.taken()); d != "" {
			t.Errorf("the hook of the outage was not caught up with (-want +got):\n%s", d)
		}
		wantSubjects(t, kube, "haw-world", "gitlab-view")
		if st := s.State(); st.Err != nil {
			t.Errorf("error stays: %v", st.Err)
		}
	})
}

func TestRunTakesExpiredRightsWithoutGitLab(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now().UTC() // synctest begins at 2000-01-01T00:00:00Z
		snap := rbacsynctest.HawWorld()
		p := snap.Projects[42]
		p.Members[0].Expires = authz.Date{Year: now.Year(), Month: now.Month(), Day: now.Day() + 1}
		kube, g := fake.NewClientset(), &gitlab{snap: snap}
		s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Interval: 240 * time.Hour})
		defer run(t, s)()
		time.Sleep(24*time.Hour - time.Minute)
		synctest.Wait()
		wantSubjects(t, kube, "haw-world", "gitlab-view", "gitlab:3")
		time.Sleep(time.Minute)
		synctest.Wait()
		wantSubjects(t, kube, "haw-world", "gitlab-view")
		if d := cmp.Diff([]string{"full"}, g.taken()); d != "" {
			t.Errorf("reads (-want +got):\n%s", d)
		}
	})
}

func TestRunTriesAgainAfterAFailedWrite(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kube, g := fake.NewClientset(), &gitlab{snap: rbacsynctest.HawWorld()}
		fails := 2
		kube.PrependReactor("create", "rolebindings", func(ktesting.Action) (bool, runtime.Object, error) {
			fails--
			return fails >= 0, nil, errors.New("conflict")
		})
		s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Interval: time.Hour, Apply: cluster.ApplyOptions{Concurrency: 1}})
		defer run(t, s)()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		wantSubjects(t, kube, "haw-world", "gitlab-edit", "gitlab:2")
		wantSubjects(t, kube, "haw", "gitlab-edit", "gitlab:2")
		if d := cmp.Diff([]string{"full"}, g.taken()); d != "" {
			t.Errorf("reads of GitLab (-want +got):\n%s", d)
		}
	})
}
