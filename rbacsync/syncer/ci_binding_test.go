package syncer_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// subjectsOf returns the subjects of the CI binding in haw-world (or another namespace), by name.
func subjectsOf(t *testing.T, in rbacsync.Input, ns string) string {
	t.Helper()
	for _, o := range rbacsync.Desired(in).Objects {
		if o.Key.Namespace == ns && o.Key.Name == kubename.CIRoleBinding && o.Binding != nil {
			var names []string
			for _, s := range o.Binding.Others {
				names = append(names, s.Name)
			}
			slices.Sort(names)
			return strings.Join(names, " ")
		}
	}
	t.Fatalf("no CI binding in %s", ns)
	return ""
}

func TestCIBinding(t *testing.T) {
	t.Parallel()
	user := rbacv1.Subject{Kind: "User", APIGroup: rbacv1.GroupName, Name: "gitlab:ci:42"}
	foreign := rbacv1.Subject{Kind: "User", APIGroup: rbacv1.GroupName, Name: "gitlab:ci:43"}
	group := rbacv1.Subject{Kind: "Group", APIGroup: rbacv1.GroupName, Name: "gitlab:project_env:42:prod"}
	strange := rbacv1.Subject{Kind: "Group", APIGroup: rbacv1.GroupName, Name: "gitlab:project:42"}
	const sa = "gitlab-serviceaccount"
	tests := []struct {
		name     string
		settings rbacsync.CISettings
		status   rbacsync.DeliveryStatus
		live     []rbacv1.Subject
		frozen   bool
		want     string
	}{
		{"variables", rbacsync.CISettings{}, rbacsync.DeliveryStatus{}, nil, false, sa},
		{"id-token", rbacsync.CISettings{Mode: rbacsync.DeliverIDToken}, rbacsync.DeliveryStatus{}, nil, false, sa + " gitlab:ci:42"},
		{"agent, slug unknown", rbacsync.CISettings{Mode: rbacsync.DeliverAgent}, rbacsync.DeliveryStatus{}, nil, false, sa},
		{"agent, slug unknown after a restart", rbacsync.CISettings{Mode: rbacsync.DeliverAgent}, rbacsync.DeliveryStatus{}, []rbacv1.Subject{group}, false, sa + " gitlab:project_env:42:prod"},
		{"agent", rbacsync.CISettings{Mode: rbacsync.DeliverAgent}, rbacsync.DeliveryStatus{Known: true, Slug: "prod"}, nil, false, sa + " gitlab:project_env:42:prod"},
		{"agent refused", rbacsync.CISettings{Mode: rbacsync.DeliverAgent}, rbacsync.DeliveryStatus{Known: true, Slug: "prod", Refused: true}, []rbacv1.Subject{group}, false, sa},
		{"agent refused, the mode before stays", rbacsync.CISettings{Mode: rbacsync.DeliverAgent}, rbacsync.DeliveryStatus{Known: true, Refused: true}, []rbacv1.Subject{user}, false, sa + " gitlab:ci:42"},
		{"a slug that is none", rbacsync.CISettings{Mode: rbacsync.DeliverAgent}, rbacsync.DeliveryStatus{Known: true, Slug: "x:y"}, nil, false, sa},
		{"moved, new mode not delivered", rbacsync.CISettings{}, rbacsync.DeliveryStatus{Known: true, Delivery: rbacsync.DeliverIDToken, Settled: true}, []rbacv1.Subject{user}, false, sa + " gitlab:ci:42"},
		{"moved, jobs may still run", rbacsync.CISettings{}, rbacsync.DeliveryStatus{Known: true, Delivery: rbacsync.DeliverVariables}, []rbacv1.Subject{user, group}, false, sa + " gitlab:ci:42 gitlab:project_env:42:prod"},
		{"moved and over", rbacsync.CISettings{}, rbacsync.DeliveryStatus{Known: true, Delivery: rbacsync.DeliverVariables, Settled: true}, []rbacv1.Subject{user, group}, false, sa},
		{"what is not live is not added", rbacsync.CISettings{}, rbacsync.DeliveryStatus{Known: true, Delivery: rbacsync.DeliverVariables}, nil, false, sa},
		{"of other projects and by hand: gone at once", rbacsync.CISettings{}, rbacsync.DeliveryStatus{}, []rbacv1.Subject{foreign, strange}, false, sa},
		{"archived", rbacsync.CISettings{Mode: rbacsync.DeliverIDToken}, rbacsync.DeliveryStatus{}, []rbacv1.Subject{user}, true, ""},
		{"the nearest exception counts", rbacsync.CISettings{Mode: rbacsync.DeliverAgent, Exceptions: []rbacsync.CIException{
			{Source: authz.GroupID(7), Mode: rbacsync.DeliverVariables}, {Source: authz.ProjectID(42), Mode: rbacsync.DeliverIDToken},
		}}, rbacsync.DeliveryStatus{}, nil, false, sa + " gitlab:ci:42"},
		{"of the group", rbacsync.CISettings{Exceptions: []rbacsync.CIException{{Source: authz.GroupID(7), Mode: rbacsync.DeliverIDToken}}}, rbacsync.DeliveryStatus{}, nil, false, sa + " gitlab:ci:42"},
		{"each of mode and namespace by itself", rbacsync.CISettings{Exceptions: []rbacsync.CIException{
			{Source: authz.GroupID(7), Mode: rbacsync.DeliverIDToken}, {Source: authz.ProjectID(42), Target: rbacsync.TargetProject},
		}}, rbacsync.DeliveryStatus{}, nil, false, sa + " gitlab:ci:42"},
		{"not because of its group: Developers can make projects there", rbacsync.CISettings{Mode: rbacsync.DeliverIDToken, Exceptions: []rbacsync.CIException{
			{Source: authz.GroupID(7), Target: rbacsync.TargetGroup},
		}}, rbacsync.DeliveryStatus{}, nil, false, sa + " gitlab:ci:42"},
		{
			"it deploys elsewhere",
			rbacsync.CISettings{Mode: rbacsync.DeliverIDToken, Exceptions: []rbacsync.CIException{{Source: authz.ProjectID(42), Target: rbacsync.TargetGroup}}},
			rbacsync.DeliveryStatus{},
			[]rbacv1.Subject{user},
			false, sa,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := rbacsynctest.Company()
			in.Settings.CI = tt.settings
			if tt.status.Known {
				everywhere := map[int64]rbacsync.DeliveryStatus{42: tt.status}
				in.CIStatus = rbacsync.DeliveryStatuses{"haw-world": everywhere, "haw": everywhere}
			}
			in.CILive = map[string][]rbacv1.Subject{"haw-world": tt.live}
			for i := range in.Sources {
				in.Sources[i].ReadOnly = tt.frozen
			}
			if got := subjectsOf(t, in, "haw-world"); got != tt.want {
				t.Errorf("subjects %q, want %q", got, tt.want)
			}
			if group := subjectsOf(t, in, "haw"); tt.name == "it deploys elsewhere" && group != sa+" gitlab:ci:42" {
				t.Errorf("in the namespace of the group: %q", group)
			}
		})
	}
}

func TestCIExceptionsAreChecked(t *testing.T) {
	t.Parallel()
	snap := rbacsynctest.HawWorld()
	s := newSyncer(t, syncer.Options{Reader: &gitlab{snap: snap}, Kube: fake.NewClientset(), Mode: syncer.ModePlan, Settings: rbacsync.Settings{CI: rbacsync.CISettings{Exceptions: []rbacsync.CIException{
		{Source: authz.ProjectID(42), Path: "haw/world", Mode: rbacsync.DeliverNone}, {Source: authz.GroupID(7), Path: "haw/other", Mode: rbacsync.DeliverNone}, {Source: authz.ProjectID(99), Mode: rbacsync.DeliverNone},
	}}}})
	r, err := s.Once(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range r.Findings {
		if strings.HasPrefix(f.Code, "ci_") {
			got = append(got, fmt.Sprint(f.Code, " ", f.Source))
		}
	}
	if want := []string{"ci_exception_path group/7", "ci_exception_unknown project/99"}; !slices.Equal(got, want) {
		t.Errorf("findings %v, want %v", got, want)
	}
}

// credentials configures a Provisioner on a fake cluster that makes tokens.
func credentials(t *testing.T, kube *fake.Clientset) ci.Config {
	t.Helper()
	if err := kube.Tracker().Add(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system", UID: "this-cluster"}}); err != nil {
		t.Fatal(err)
	}
	made := 0
	kube.PrependReactor("create", "secrets", func(a ktesting.Action) (bool, runtime.Object, error) {
		s, _ := a.(ktesting.CreateAction).GetObject().(*corev1.Secret)
		made++
		s.UID = types.UID(fmt.Sprint("secret-", made)) // the fake gives none
		return false, nil, nil
	})
	kube.PrependReactor("create", "serviceaccounts", func(a ktesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "token" {
			return false, nil, nil
		}
		tr, _ := a.(ktesting.CreateAction).GetObject().(*authnv1.TokenRequest)
		body := fmt.Sprintf(`{"kubernetes.io":{"namespace":%q,"serviceaccount":{"name":%q},"secret":{"uid":%q}}}`, a.GetNamespace(), kubename.CIServiceAccount, tr.Spec.BoundObjectRef.UID)
		tr.Status = authnv1.TokenRequestStatus{Token: "e30." + base64.RawURLEncoding.EncodeToString([]byte(body)) + ".c2ln", ExpirationTimestamp: metav1.NewTime(time.Now().Add(1000 * time.Hour))}
		return true, tr, nil
	})
	return ci.Config{
		Kube: kube, Variables: delivery(func(int64, []ci.Variable) {}), Scope: "ICC-K8s", Now: time.Now, Cluster: ci.Cluster{URL: "https://k8s"},
		Lifetime: 2160 * time.Hour, Handover: time.Hour,
	}
}

// TestTokensDieWithRights: whose loss kills which token, after the brakes.
func TestTokensDieWithRights(t *testing.T) {
	t.Parallel()
	type env struct {
		g    *gitlab
		kube *fake.Clientset
		o    syncer.Options
		s    *syncer.Syncer
		ci   ci.Config
	}
	start := func(t *testing.T, snap *authz.Snapshot, settings rbacsync.CISettings, limits *rbacsync.Limits) *env {
		e := &env{g: &gitlab{snap: snap}, kube: fake.NewClientset()}
		e.ci = credentials(t, e.kube)
		e.o = syncer.Options{Reader: e.g, Kube: e.kube, CI: ci.New(e.ci), Limits: limits, Settings: rbacsync.Settings{CI: settings}}
		e.s = newSyncer(t, e.o)
		once(t, e.s)
		return e
	}
	// died says in which namespaces the token was made anew by a round on another state of GitLab.
	died := func(t *testing.T, e *env, snap *authz.Snapshot) string {
		t.Helper()
		uids := func() map[string]types.UID {
			list, err := e.kube.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			out := map[string]types.UID{}
			for _, s := range list.Items {
				out[s.Namespace] = s.UID
			}
			return out
		}
		before := uids()
		e.g.snap = snap
		once(t, e.s)
		var out []string
		for ns, uid := range uids() {
			if before[ns] != uid {
				out = append(out, ns)
			}
		}
		slices.Sort(out)
		return strings.Join(out, " ")
	}
	noOwner := func(s *authz.Snapshot) *authz.Snapshot {
		n := *s
		g := n.Groups[7]
		g.Members = nil
		n.Groups = map[int64]authz.Group{7: g}
		return &n
	}
	shared := rbacsync.CISettings{Exceptions: []rbacsync.CIException{{Source: authz.ProjectID(42), Target: rbacsync.TargetGroup}}}
	open := rbacsync.CISettings{Unprotected: map[int64]bool{42: true}}
	tests := []struct {
		name     string
		settings rbacsync.CISettings
		limits   *rbacsync.Limits
		before   *authz.Snapshot
		after    *authz.Snapshot
		want     string
	}{
		{"an Owner of the group", rbacsync.CISettings{}, nil, rbacsynctest.HawWorld(), noOwner(rbacsynctest.HawWorld()), "haw haw-world"},
		{"a Developer, who can't read it", rbacsync.CISettings{}, nil, rbacsynctest.HawWorld(), without(rbacsynctest.HawWorld(), 42, 3), ""},
		{"a Developer of an unprotected project", open, nil, rbacsynctest.HawWorld(), without(rbacsynctest.HawWorld(), 42, 3), "haw-world"},
		{"a Developer where it is in GitLab's integration", rbacsync.CISettings{Mode: rbacsync.DeliverCertificate}, nil, rbacsynctest.HawWorld(), without(rbacsynctest.HawWorld(), 42, 3), "haw-world"},
		{"a Developer of an unprotected project that deploys into the group's", rbacsync.CISettings{Exceptions: shared.Exceptions, Unprotected: open.Unprotected}, nil, rbacsynctest.HawWorld(), without(rbacsynctest.HawWorld(), 42, 3), "haw"},
		{
			"a Developer of a project that deploys into the group's by GitLab's integration",
			rbacsync.CISettings{Exceptions: []rbacsync.CIException{{Source: authz.ProjectID(42), Target: rbacsync.TargetGroup, Mode: rbacsync.DeliverCertificate}}},
			nil, rbacsynctest.HawWorld(), without(rbacsynctest.HawWorld(), 42, 3), "haw",
		},
		{
			"a project that deploys into the group's could not be read",
			rbacsync.CISettings{Exceptions: shared.Exceptions, Unprotected: open.Unprotected},
			nil, rbacsynctest.HawWorld(), func() *authz.Snapshot {
				s := without(rbacsynctest.HawWorld(), 42, 3)
				s.Missing = map[authz.SourceID]string{authz.ProjectID(42): "502"}
				return s
			}(), "",
		},
		{"a loss that is held", open, &rbacsync.Limits{PerGroup: rbacsync.Limit{Causes: 1}}, crowded(), lose(crowded(), 11, 12, 13), ""},
		{"a loss that is not", open, &rbacsync.Limits{PerGroup: rbacsync.Limit{Causes: 3}}, crowded(), lose(crowded(), 11, 12, 13), "haw-world"},
		{"somebody comes", rbacsync.CISettings{}, nil, noOwner(rbacsynctest.HawWorld()), rbacsynctest.HawWorld(), ""},
		{"GitLab could not be read", rbacsync.CISettings{}, nil, rbacsynctest.HawWorld(), func() *authz.Snapshot {
			s := noOwner(rbacsynctest.HawWorld())
			s.Missing = map[authz.SourceID]string{authz.GroupID(7): "502"}
			return s
		}(), ""},
	}
	for _, tt := range tests {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restart %t", tt.name, restart), func(t *testing.T) {
				t.Parallel()
				e := start(t, tt.before, tt.settings, tt.limits)
				if restart {
					e.o.CI = ci.New(e.ci)
					if tt.limits == nil { // the brakes of a new process know nothing to compare with
						e.s = newSyncer(t, e.o)
					}
				}
				if got := died(t, e, tt.after); got != tt.want {
					t.Errorf("tokens made anew in %q, want %q", got, tt.want)
				}
				if got := died(t, e, tt.after); got != "" {
					t.Errorf("and again in %q", got)
				}
			})
		}
	}
}

// TestIDHandedOutAgain: after a restore GitLab gave the id of a project to another one, which must not get the credentials of
// the namespace that belongs to the first.
func TestIDHandedOutAgain(t *testing.T) {
	t.Parallel()
	for _, again := range []bool{false, true} {
		g, kube := &gitlab{snap: rbacsynctest.HawWorld()}, fake.NewClientset()
		var given []int64
		p := credentials(t, kube)
		p.Recheck = time.Nanosecond
		p.Variables = delivery(func(id int64, _ []ci.Variable) { given = append(given, id) })
		ca := []byte("first")
		p.CA = func() ([]byte, error) { return ca, nil }
		s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, CI: ci.New(p)})
		once(t, s)
		if again {
			other := g.snap.Projects[42]
			other.CreatedAt = other.CreatedAt.Add(time.Hour)
			g.snap.Projects[42] = other
		}
		given, ca = nil, []byte("second") // so that everything is delivered again
		once(t, s)
		if got := len(given) > 0; got == again {
			t.Errorf("handed out again %t: credentials went to %v", again, given)
		}
	}
}

// hanging is a GitLab that does not answer.
type hanging struct{ delivery }

func (hanging) Ensure(ctx context.Context, _ int64, _ string, _ []ci.Variable, _ *ci.ProjectVariables, _ ci.Claim) (int, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

// TestTokensDieWhileGitLabHangs: an Owner of the group leaves while credentials are being delivered.
func TestTokensDieWhileGitLabHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, kube := &gitlab{snap: rbacsynctest.HawWorld()}, fake.NewClientset()
		p := credentials(t, kube)
		p.Variables = hanging{}
		s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, CI: ci.New(p), Interval: time.Hour})
		defer run(t, s)()
		time.Sleep(time.Second) // new tokens begin a moment after the pass
		synctest.Wait()
		get := func(ns string) *corev1.Secret {
			t.Helper()
			secret, err := kube.CoreV1().Secrets(ns).Get(t.Context(), kubename.CISecret, metav1.GetOptions{})
			if err != nil || len(secret.Data["token"]) == 0 && secret.UID == "" {
				t.Fatalf("%s: %v", ns, err)
			}
			return secret
		}
		before := map[string]types.UID{"haw": get("haw").UID, "haw-world": get("haw-world").UID}
		g.set(func(g *gitlab) {
			n := *g.snap
			group := n.Groups[7]
			group.Members = nil
			n.Groups = map[int64]authz.Group{7: group}
			g.snap = &n
		})
		s.Trigger([]authz.SourceID{authz.GroupID(7)}, "hook")
		time.Sleep(100 * time.Millisecond) // the rights of people go first
		synctest.Wait()
		for ns, uid := range before {
			if get(ns).UID == uid {
				t.Errorf("%s: the token lives on", ns)
			}
		}
	})
}

// refusing is a GitLab that refuses to be written to.
type refusing struct {
	delivery
	on *atomic.Bool
}

func (r refusing) Ensure(ctx context.Context, id int64, scope string, vars []ci.Variable, known *ci.ProjectVariables, claim ci.Claim) (int, error) {
	if r.on.Load() {
		return 0, errors.New("403 Forbidden")
	}
	return r.delivery.Ensure(ctx, id, scope, vars, known, claim)
}

// TestCIFindingsGoWithTheirCause: what a pass over credentials finds, or no longer finds, is reported then, not with the next
// reading of GitLab.
func TestCIFindingsGoWithTheirCause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, kube, on := &gitlab{snap: rbacsynctest.HawWorld()}, fake.NewClientset(), new(atomic.Bool)
		p := credentials(t, kube)
		p.Variables = refusing{delivery(func(int64, []ci.Variable) {}), on}
		on.Store(true)
		s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, CI: ci.New(p), Interval: 24 * time.Hour})
		defer run(t, s)()
		failed := func() bool {
			return slices.ContainsFunc(s.State().Round.Findings, func(f authz.Finding) bool { return f.Code == "ci_delivery_failed" })
		}
		time.Sleep(time.Minute)
		if !failed() {
			t.Errorf("not told: %v", s.State().Round.Findings)
		}
		on.Store(false)
		time.Sleep(6 * time.Minute)
		if failed() {
			t.Errorf("still told: %v", s.State().Round.Findings)
		}
	})
}

// TestNewTokensGoOnBesideHooks: hooks that keep coming put off no new tokens for good, however slowly those are made.
func TestNewTokensGoOnBesideHooks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const projects = 100
		snap := *rbacsynctest.HawWorld()
		snap.Projects = maps.Clone(snap.Projects)
		for id := int64(1000); id < 1000+projects; id++ {
			p := snap.Projects[42]
			p.ID, p.Path = id, fmt.Sprint("haw/many-", id)
			snap.Projects[id] = p
		}
		g, kube := &gitlab{snap: &snap}, fake.NewClientset()
		p := credentials(t, kube)
		p.Concurrency = 4
		made := 0
		kube.PrependReactor("create", "serviceaccounts", func(a ktesting.Action) (bool, runtime.Object, error) {
			if a.GetSubresource() == "token" {
				made++
			}
			return false, nil, nil
		})
		p.Variables = slow{}
		s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, CI: ci.New(p), Interval: time.Hour})
		defer run(t, s)()
		for range 55 {
			s.Trigger([]authz.SourceID{authz.ProjectID(42)}, "hook")
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		if made < projects*2/3 { // each hook has its moment alone
			t.Errorf("%d of %d tokens were made beside hooks", made, projects)
		}
	})
}

// slow is a GitLab that takes a fifth of a second for each project.
type slow struct{ delivery }

func (slow) Ensure(ctx context.Context, _ int64, _ string, vars []ci.Variable, _ *ci.ProjectVariables, _ ci.Claim) (int, error) {
	time.Sleep(200 * time.Millisecond)
	return len(vars), ctx.Err()
}
