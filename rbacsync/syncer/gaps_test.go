package syncer_test

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// lacks reads a Gap: why somebody has not what they should have, "" if they have it.
func lacks(g authz.Gap, role string, user int64) authz.Absence {
	why := g.All
	for _, l := range g.Lacks {
		if l.ClusterRole == role && (l.Users == nil || slices.Contains(l.Users, user)) {
			why = cmp.Or(why, l.Why)
		}
	}
	return why
}

// TestGapsAreWhatTheClusterLacks is the law of docs/adr/0097: for random organisations over what an earlier one left, with namespaces
// that are deleted, made by others, held, not readable in GitLab or that can't be written, and ClusterRoles that don't exist
// or may not be bound, in both modes: what the State says to be in the cluster is there, what it says to lack is not, and the
// reason is one that can be.
func TestGapsAreWhatTheClusterLacks(t *testing.T) {
	t.Parallel()
	seen := map[authz.Absence]int{}
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 97))
		roles := roleSet{"edit": "yes", "view": "yes", kubename.CIClusterRole: "yes"}
		kube, limits := roles.cluster(), rbacsync.DefaultLimits()
		var broken atomic.Bool
		bad := map[string]bool{}
		kube.PrependReactor("create", "*", func(a ktesting.Action) (bool, runtime.Object, error) {
			ns := a.GetNamespace()
			if o, ok := a.(ktesting.CreateAction).GetObject().(*corev1.Namespace); ok {
				ns = o.Name
			}
			return broken.Load() && bad[ns], nil, errors.New("no more room")
		})
		g := &gitlab{snap: authztest.Snapshot(r)}
		g.snap.Issuer = rbacsynctest.Issuer
		make1 := func(mode syncer.Mode) *syncer.Syncer {
			p := rbacsynctest.Policy(t)
			return newSyncer(t, syncer.Options{
				Reader: g, Kube: kube, Mode: mode, Limits: &limits, Memory: &memory{},
				Roles: cluster.NewRoleReader(kube, append(p.ClusterRoles(), kubename.CIClusterRole)...),
			})
		}
		if _, err := make1(syncer.ModeEnforce).Once(t.Context(), "before"); err != nil {
			t.Fatal(err)
		}
		g.snap = authztest.Clone(g.snap)
		for range 8 {
			authztest.Change(r, g.snap)
		}
		for id, p := range g.snap.Projects {
			if r.IntN(2) == 0 {
				p.CreatedAt = time.Now().Add(-time.Minute)
				g.snap.Projects[id] = p
			}
		}
		limits.Creations = 1
		meddle(t, r, kube, bad)
		if r.IntN(2) == 0 {
			roles["view"] = []string{"missing", "unbindable"}[r.IntN(2)]
		}
		broken.Store(true)
		mode := []syncer.Mode{syncer.ModePlan, syncer.ModeEnforce, syncer.ModeEnforce}[seed%3]
		s := make1(mode)
		round, _ := s.Once(t.Context(), "now") // what could not be written is its error
		checkGaps(t, kube, s.State(), round, mode, roles, bad, seen)
		if t.Failed() {
			t.Fatalf("seed %d, mode %s", seed, mode)
		}
	}
	t.Logf("reasons: %v", seen)
	for _, why := range []authz.Absence{"", authz.AbsentPlan, authz.AbsentHeld, authz.AbsentFailed, authz.AbsentForeign, authz.AbsentTerminating, authz.AbsentNoRole, authz.AbsentNotBindable} {
		if seen[why] < 2 {
			t.Errorf("only %d rights were absent by %q: this shows nothing", seen[why], why)
		}
	}
}

// meddle does to the cluster what others do, and says what can't be written from now on.
func meddle(t *testing.T, r *rand.Rand, kube *fake.Clientset, bad map[string]bool) {
	t.Helper()
	ctx := t.Context()
	namespaces, err := kube.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range namespaces.Items {
		ns := &namespaces.Items[i]
		bindings, err := kube.RbacV1().RoleBindings(ns.Name).List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		bad[ns.Name] = r.IntN(4) == 0
		what := r.IntN(8)
		for j := range bindings.Items {
			b := &bindings.Items[j]
			if what > 2 && r.IntN(4) > 0 {
				continue
			}
			if err := kube.RbacV1().RoleBindings(ns.Name).Delete(ctx, b.Name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			if what == 3 { // somebody else's stands in its place
				b.Labels, b.ResourceVersion, b.Subjects = nil, "", nil
				if _, err := kube.RbacV1().RoleBindings(ns.Name).Create(ctx, b, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
		}
		switch what {
		case 0, 1:
			err = kube.CoreV1().Namespaces().Delete(ctx, ns.Name, metav1.DeleteOptions{})
		case 2:
			ns.Status.Phase = corev1.NamespaceTerminating
			_, err = kube.CoreV1().Namespaces().Update(ctx, ns, metav1.UpdateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func checkGaps(t *testing.T, kube *fake.Clientset, st *syncer.State, round syncer.Round, mode syncer.Mode, roles roleSet, bad map[string]bool, seen map[authz.Absence]int) {
	t.Helper()
	all, err := kube.RbacV1().RoleBindings("").List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=" + kubename.ManagedBy})
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{} // namespace, ClusterRole, subject
	for _, b := range all.Items {
		for _, x := range b.Subjects {
			there[b.Namespace+" "+b.RoleRef.Name+" "+x.Name] = true
		}
	}
	for id, ns := range st.View.Namespace {
		_, err := kube.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{})
		if all := st.View.Gaps()[id].All; (all != "" && all != authz.AbsentForeign) != (err != nil) {
			t.Errorf("namespace %s of %s: said to be absent by %q; getting it: %v", ns, id, all, err)
		}
	}
	held := map[authz.SourceID]bool{}
	for _, i := range round.Held {
		held[i.Source] = held[i.Source] || i.Role == ""
	}
	unread := st.View.Policy.Untouchable(round.Snapshot)
	grants, _ := st.View.Policy.Grants(round.Snapshot, st.View.Policy.Sources(round.Snapshot), round.Started)
	for _, x := range grants {
		ns, named := st.View.Namespace[x.Source]
		if !named {
			continue
		}
		for _, u := range x.Users {
			why := lacks(st.View.Gaps()[x.Source], x.ClusterRole, u)
			seen[why]++
			if has := there[ns+" "+x.ClusterRole+" "+kubename.User(u)]; has == (why != "") {
				t.Errorf("%s of %s in %s: in the cluster %v, said to be absent by %q", x.ClusterRole, kubename.User(u), ns, has, why)
			}
			fits := map[authz.Absence]bool{
				"": true, authz.AbsentPlan: mode == syncer.ModePlan, authz.AbsentForeign: true,
				authz.AbsentHeld: held[x.Source], authz.AbsentFailed: len(round.Report.Failed) > 0,
				authz.AbsentNoRole: roles[x.ClusterRole] == "missing", authz.AbsentNotBindable: roles[x.ClusterRole] == "unbindable",
				authz.AbsentTerminating: mode == syncer.ModeEnforce, authz.AbsentUnread: unread[x.Source] != "",
			}
			if !fits[why] {
				t.Errorf("%s of %s in %s: absent by %q, which can't be", x.ClusterRole, kubename.User(u), ns, why)
			}
		}
	}
}

// TestAfterAPartTheGapsAreThoseOfTheWhole: what is said after a round that looked at a part is what one over everything says,
// while some namespaces can't be written.
func TestAfterAPartTheGapsAreThoseOfTheWhole(t *testing.T) {
	t.Parallel()
	parts, gaps := 0, 0
	for seed := range uint64(4) {
		for _, mode := range []syncer.Mode{syncer.ModeEnforce, syncer.ModePlan} {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 970))
				snap := authztest.Snapshot(r)
				snap.Issuer = rbacsynctest.Issuer
				g, kube, seen := &gitlab{snap: snap}, fake.NewClientset(), &rounds{}
				kube.PrependReactor("create", "rolebindings", func(a ktesting.Action) (bool, runtime.Object, error) {
					return len(a.GetNamespace())%2 == 0 && strings.HasSuffix(a.(ktesting.CreateAction).GetObject().(*rbacv1.RoleBinding).Name, "view"), nil, errors.New("no more room")
				})
				s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Watch: kube, Mode: mode, Interval: 1000 * time.Hour, Now: time.Now, OnRound: seen.add})
				defer run(t, s)()
				after := func(cause string, changed ...authz.SourceID) map[authz.SourceID]authz.Gap {
					s.Trigger(changed, cause)
					time.Sleep(2 * time.Second)
					synctest.Wait()
					return s.State().View.Gaps()
				}
				after("first")
				for step := range 10 {
					g.set(func(g *gitlab) { g.snap = authztest.Clone(g.snap); authztest.Change(r, g.snap) })
					part := after("hook", authz.GroupID(1))
					whole := after("check")
					gaps += len(whole)
					if d := gocmp.Diff(whole, part); d != "" {
						t.Fatalf("seed %d, step %d, mode %s: a part says otherwise than everything:\n%s", seed, step, mode, d)
					}
				}
				for _, x := range seen.taken() {
					if x.Kind == syncer.KindTargeted && x.Namespaces < len(x.Names) {
						parts++
					}
				}
			})
		}
	}
	if parts < 30 || gaps < 100 {
		t.Errorf("only %d parts and %d gaps: this shows nothing", parts, gaps)
	}
}

// TestWhileItIsWritten: who is refused while a plan is being written hears that, and after a failure hears that.
func TestWhileItIsWritten(t *testing.T) {
	t.Parallel()
	kube := fake.NewClientset()
	var s *syncer.Syncer
	ask := func() string {
		v := s.State().View.WithRules(map[string][]authz.Rule{"edit": {{Verbs: []string{"*"}, Groups: []string{"*"}, Resources: []string{"*"}}}})
		return v.User(2, authz.Question{Namespace: "haw-world", Verb: "list", Resource: "pods"}, time.Now())
	}
	during, fails := "", true
	kube.PrependReactor("create", "namespaces", func(ktesting.Action) (bool, runtime.Object, error) {
		during = ask()
		return fails, nil, errors.New("no more room")
	})
	g := &gitlab{snap: rbacsynctest.HawWorld()}
	s = newSyncer(t, syncer.Options{Reader: g, Kube: kube, Apply: cluster.ApplyOptions{Concurrency: 1}})
	const is = `GitLab gives you ClusterRole "edit" here (you are Owner in haw/world), which allows list pods, but `
	if _, err := s.Once(t.Context(), "fails"); err == nil {
		t.Error("nothing failed")
	}
	if want := is + `namespace "haw-world" is not in the cluster yet: it is being written`; !strings.HasPrefix(during, want) {
		t.Errorf("during: %s", during)
	}
	if want := is + `namespace "haw-world" is not in the cluster yet: it could not be written`; !strings.HasPrefix(ask(), want) {
		t.Errorf("after a failure: %s", ask())
	}
	fails = false
	once(t, s)
	if gaps := s.State().View.Gaps(); gaps == nil || len(gaps) > 0 {
		t.Errorf("when all is there: %v", gaps)
	}
}

// TestOtherReplicasSayTheSame: what the cluster lacks is stored with the Snapshot, and one that an earlier version stored says
// nothing of it, and promises nothing.
func TestOtherReplicasSayTheSame(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		leader := newSyncer(t, syncer.Options{Reader: &gitlab{snap: rbacsynctest.HawWorld()}, Kube: fake.NewClientset(), Mode: syncer.ModePlan, Memory: m})
		stop := run(t, leader)
		time.Sleep(time.Minute)
		stop()
		list := func(s *syncer.Syncer) string {
			return s.State().View.User(2, authz.Question{Verb: "list", Resource: "namespaces"}, time.Now())
		}
		for _, c := range []struct{ name, want string }{
			{"as stored", "You have no namespaces in the cluster yet. GitLab gives you 2 rights that are not in the cluster yet: the integrator is in mode plan"},
			{"of an earlier version", "Your namespaces, if they are in the cluster already: haw, haw-world (edit)."},
		} {
			other := newSyncer(t, syncer.Options{Reader: &gitlab{err: errors.New("not asked")}, Kube: fake.NewClientset(), Memory: m})
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() { other.Follow(ctx); close(ended) }()
			time.Sleep(5 * time.Second)
			synctest.Wait()
			if got := list(other); !strings.Contains(got, c.want) {
				t.Errorf("%s: %s", c.name, got)
			}
			cancel()
			<-ended
			m.stored.Gaps = nil
		}
	})
}

// TestGapsOfCI: the ServiceAccount and the jobs have a binding of their own, which may have a ClusterRole that people have, too.
func TestGapsOfCI(t *testing.T) {
	t.Parallel()
	kube := fake.NewClientset()
	kube.PrependReactor("create", "rolebindings", func(a ktesting.Action) (bool, runtime.Object, error) {
		b := a.(ktesting.CreateAction).GetObject().(*rbacv1.RoleBinding)
		return b.Name == kubename.CIRoleBinding && b.Namespace == "haw-world", nil, errors.New("no more room")
	})
	s := newSyncer(t, syncer.Options{Reader: &gitlab{snap: rbacsynctest.HawWorld()}, Kube: kube})
	if _, err := s.Once(t.Context(), "test"); err == nil {
		t.Error("nothing failed")
	}
	want := map[authz.SourceID]authz.Gap{authz.ProjectID(42): {Lacks: []authz.Lack{{Why: authz.AbsentFailed}}}}
	if d := gocmp.Diff(want, maps.Clone(s.State().View.Gaps())); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	q := authz.Question{Namespace: "haw-world", Verb: "list", Resource: "pods"}
	const says = `the CI of namespace "haw-world" should have ClusterRole "gitlab-group-master" there, but it is not in the cluster yet: it could not be written`
	for _, got := range []string{s.State().View.CIServiceAccount("haw-world", q), s.State().View.CIJob(42, q)} {
		if !strings.HasPrefix(got, says) {
			t.Errorf("%s\nwant %s", got, says)
		}
	}
}
