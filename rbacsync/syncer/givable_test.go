package syncer_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// roleSet is what a cluster has of ClusterRoles, by name: "yes", "missing", "unbindable", "unasked", or "old" for one that
// the integrator's role of earlier versions names: it may be bound, and not be got.
type roleSet map[string]string

// cluster returns an API server that has them, and refuses bindings that can't be made, as a real one does.
func (rs roleSet) cluster() *fake.Clientset {
	kube := fake.NewClientset()
	kube.PrependReactor("get", "clusterroles", func(a ktesting.Action) (bool, runtime.Object, error) {
		name := a.(ktesting.GetAction).GetName()
		switch rs[name] {
		case "yes", "unbindable":
			rules := []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get"}}}
			return true, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}, nil
		case "unasked":
			return true, nil, apierrors.NewInternalError(fmt.Errorf("etcd is away"))
		case "old":
			return true, nil, apierrors.NewForbidden(rbacv1.Resource("clusterroles"), name, fmt.Errorf("RBAC"))
		}
		return true, nil, apierrors.NewNotFound(rbacv1.Resource("clusterroles"), name)
	})
	kube.PrependReactor("create", "selfsubjectaccessreviews", func(a ktesting.Action) (bool, runtime.Object, error) {
		r := a.(ktesting.CreateAction).GetObject().(*authorizationv1.SelfSubjectAccessReview).DeepCopy()
		if rs[r.Spec.ResourceAttributes.Name] == "unasked" {
			return true, nil, apierrors.NewInternalError(fmt.Errorf("etcd is away"))
		}
		r.Status.Allowed = rs[r.Spec.ResourceAttributes.Name] != "unbindable"
		return true, r, nil
	})
	refuse := func(a ktesting.Action) (bool, runtime.Object, error) {
		if b, ok := a.(ktesting.CreateAction).GetObject().(*rbacv1.RoleBinding); ok && rs[b.RoleRef.Name] == "unbindable" {
			return true, nil, apierrors.NewForbidden(rbacv1.Resource("rolebindings"), b.Name, fmt.Errorf("it is attempting to grant RBAC permissions not currently held"))
		}
		return false, nil, nil
	}
	kube.PrependReactor("create", "rolebindings", refuse)
	return kube
}

func withRoles(t *testing.T, roles ...authz.Role) authz.Policy {
	t.Helper()
	p, err := authz.NewPolicy(authz.PolicyConfig{Roles: roles, Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func role(name string, levels ...authz.Level) authz.Role {
	return authz.Role{ClusterRole: name, Levels: levels}
}

// enforcing returns a Syncer as `serve` starts one.
func enforcing(t *testing.T, kube *fake.Clientset, g intake.Reader, m *memory, p authz.Policy, l *rbacsync.Limits) *syncer.Syncer {
	t.Helper()
	s, err := syncer.New(syncer.Options{
		Questions: questionsOf(g), Reader: g, Kube: kube, Policy: p, Mode: syncer.ModeEnforce, Memory: m, Limits: l,
		Held:  store.Held{Client: kube, Namespace: "gl-k8s-integrator"},
		Roles: cluster.NewRoleReader(kube, append(p.ClusterRoles(), kubename.CIClusterRole)...),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestAMistypedClusterRoleTakesNothing is how a trial lost 58 of 59 readers: "viewx" for "view". With and without what a
// process before remembers, whether the mistyped name may be bound or not, and whether it can be asked for.
func TestAMistypedClusterRoleTakesNothing(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"missing", "unbindable", "unasked", "old"} {
		for _, remembered := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, remembered %t", how, remembered), func(t *testing.T) {
				t.Parallel()
				roles := roleSet{"edit": "yes", "view": "yes", kubename.CIClusterRole: "yes", "viewx": how}
				kube, m, limits := roles.cluster(), &memory{}, rbacsync.DefaultLimits()
				g := &gitlab{snap: crowded()}
				once(t, enforcing(t, kube, g, m, withRoles(t, authz.DefaultRoles()...), &limits))
				before := subjects(t, kube, "haw-world", "gitlab-view")
				if len(before) != 11 {
					t.Fatalf("%d readers", len(before))
				}
				if !remembered {
					m = &memory{}
				}
				typo := withRoles(t, role("edit", authz.Maintainer, authz.Owner), role("viewx", authz.Developer))
				s := enforcing(t, kube, g, m, typo, &limits)
				var r syncer.Round
				for range 3 {
					r, _ = s.Once(t.Context(), "test")
				}
				wantSubjects(t, kube, "haw-world", "gitlab-view", before...)
				text := findingOf(r, "cluster_role")
				for _, want := range []string{`"viewx"`, "nobody loses a right"} {
					if !strings.Contains(text, want) {
						t.Errorf("the finding lacks %q: %s", want, text)
					}
				}
				if how == "missing" || how == "unbindable" {
					if _, err := kube.RbacV1().RoleBindings("haw-world").Get(t.Context(), "gitlab-viewx", metav1.GetOptions{}); err == nil {
						t.Error("there is a binding to a role that can't be given")
					}
					if r.Err != nil || r.Unwritten != 0 {
						t.Errorf("what can't be written was tried: %v", r.Err)
					}
				}

				// What GitLab takes goes all the same: a block, and a row.
				g.snap = lose(g.snap, 12)
				u := g.snap.Users[11]
				u.State = "blocked"
				g.snap.Users[11] = u
				_, _ = s.Once(t.Context(), "test")
				if got := subjects(t, kube, "haw-world", "gitlab-view"); slices.Contains(got, "gitlab:11") || slices.Contains(got, "gitlab:12") || len(got) != 9 {
					t.Errorf("after a block and a removal: %v", got)
				}

				// The letter is put right.
				s = enforcing(t, kube, g, m, withRoles(t, authz.DefaultRoles()...), &limits)
				if r := once(t, s); len(r.Held) != 0 || findingOf(r, "cluster_role") != "" {
					t.Errorf("put right: held %v, findings %s", r.Held, codes(r))
				}
				if got := subjects(t, kube, "haw-world", "gitlab-view"); len(got) != 9 {
					t.Errorf("put right: %v", got)
				}
			})
		}
	}
}

// TestTheRoleOfAnEarlierVersionIsNoOutage: nothing is known of any ClusterRole, and rights are given and taken all the same.
func TestTheRoleOfAnEarlierVersionIsNoOutage(t *testing.T) {
	t.Parallel()
	roles := roleSet{"edit": "old", "view": "old", kubename.CIClusterRole: "old"}
	kube, limits := roles.cluster(), rbacsync.DefaultLimits()
	g := &gitlab{snap: crowded()}
	s := enforcing(t, kube, g, &memory{}, withRoles(t, authz.DefaultRoles()...), &limits)
	r := once(t, s)
	if text := findingOf(r, "cluster_role"); !strings.Contains(text, "10-integrator-role.yaml") || strings.Count(codes(r), "cluster_role") != 3 {
		t.Errorf("findings %s: %s", codes(r), text)
	}
	wantSubjects(t, kube, "haw-world", "gitlab-edit", "gitlab:2")
	wantSubjects(t, kube, "haw-world", kubename.CIRoleBinding, kubename.CIServiceAccount)
	if n := len(subjects(t, kube, "haw-world", "gitlab-view")); n != 11 {
		t.Errorf("%d readers, want 11", n)
	}
	g.snap = lose(g.snap, 11, 2)
	once(t, s)
	wantSubjects(t, kube, "haw-world", "gitlab-edit")
	if n := len(subjects(t, kube, "haw-world", "gitlab-view")); n != 10 {
		t.Errorf("%d readers, want 10", n)
	}
}

// TestALargeChangeOfThePolicyCanBeApproved: not all that it takes fits into a ConfigMap, and it is approved as a whole.
func TestALargeChangeOfThePolicyCanBeApproved(t *testing.T) {
	t.Parallel()
	kept := store.Held{Client: fake.NewClientset(), Namespace: "gl-k8s-integrator"}
	var items []rbacsync.Item
	all := rbacsync.Extent{Sum: "5eed", Count: 600_000}
	for id := range int64(all.Count) {
		items = append(items, rbacsync.Item{Source: authz.ProjectID(id%20_000 + 1), Role: "view", User: id + 1, Cause: authz.UserID(id + 1), Change: "c0ffee", All: all, Why: "much"})
	}
	one := rbacsync.Item{Source: authz.ProjectID(1), Role: "view", User: 1, Cause: authz.UserID(1), Scope: authz.GroupID(1), Why: "missing"}
	items = append(items, one)
	if err := kept.Save(t.Context(), items); err != nil {
		t.Fatal(err)
	}
	shown, err := kept.Load(t.Context())
	if err != nil || rbacsync.HashOf(shown) != rbacsync.HashOf(items) || shown[len(shown)-1] != one || rbacsync.Count(shown) != len(items) {
		t.Fatalf("%d items are shown as %d, %v", len(shown), rbacsync.Count(shown), err)
	}
	grown := slices.Clone(items) // by what is not stored
	for i := range grown {
		grown[i].All.Sum = map[bool]string{true: "5eed2"}[grown[i].Change != ""]
	}
	if err := kept.Save(t.Context(), grown); err != nil {
		t.Fatal(err)
	}
	for _, hash := range []string{rbacsync.HashOf(shown), rbacsync.Sections(shown)[0].Hash} {
		if _, err := kept.Approve(t.Context(), hash, ""); !errors.Is(err, rbacsync.ErrNoSuchHash) {
			t.Fatalf("it has changed since it was shown, and is approved: %v", err)
		}
	}
	if err := kept.Save(t.Context(), items); err != nil {
		t.Fatal(err)
	}
	for _, s := range rbacsync.Sections(shown) {
		if _, err := kept.Approve(t.Context(), s.Hash, ""); err != nil {
			t.Fatal(err)
		}
	}
	approved, err := kept.Approvals(t.Context())
	for _, i := range items {
		if _, ok := approved[i.Key()]; !ok {
			t.Fatalf("%s is not approved: %v", i.Key(), err)
		}
	}
}

func findingOf(r syncer.Round, code string) string {
	for _, f := range r.Findings {
		if f.Code == code {
			return f.Text
		}
	}
	return ""
}

// TestDemotionToARoleThatCanNotBeGiven: the stronger right goes; a promotion to one leaves the weaker.
func TestDemotionToARoleThatCanNotBeGiven(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"missing", "unbindable", "unasked", "old"} {
		roles := roleSet{"edit": "yes", "view": "yes", kubename.CIClusterRole: "yes"}
		kube, m, limits := roles.cluster(), &memory{}, rbacsync.DefaultLimits()
		g := &gitlab{snap: rbacsynctest.HawWorld()}
		s := enforcing(t, kube, g, m, withRoles(t, authz.DefaultRoles()...), &limits)
		once(t, s)
		wantSubjects(t, kube, "haw-world", "gitlab-edit", "gitlab:2")
		wantSubjects(t, kube, "haw-world", "gitlab-view", "gitlab:3")

		roles["view"] = how
		snap := rbacsynctest.CopySnap(g.snap)
		group := snap.Groups[7]
		group.Members = []authz.Member{{User: 2, Level: authz.Developer}}
		snap.Groups[7] = group
		g.snap = snap
		_, _ = s.Once(t.Context(), "test")
		wantSubjects(t, kube, "haw-world", "gitlab-edit")
		if got := subjects(t, kube, "haw-world", "gitlab-view"); !slices.Contains(got, "gitlab:3") {
			t.Errorf("%s: who has it and should lost it: %v", how, got)
		}

		roles["view"], roles["edit"] = "yes", how
		project := snap.Projects[42]
		project.Members = []authz.Member{{User: 3, Level: authz.Maintainer}}
		snap = rbacsynctest.CopySnap(snap)
		snap.Projects[42] = project
		g.snap = snap
		_, _ = s.Once(t.Context(), "test")
		if got := subjects(t, kube, "haw-world", "gitlab-view"); !slices.Contains(got, "gitlab:3") {
			t.Errorf("%s: view was taken for an edit that can't be given: %v", how, got)
		}
		roles["edit"] = "yes"
		_, _ = s.Once(t.Context(), "test")
		wantSubjects(t, kube, "haw-world", "gitlab-view", "gitlab:2")
		wantSubjects(t, kube, "haw-world", "gitlab-edit", "gitlab:3")
	}
}

// TestAPolicyThatTakesMuchIsHeld: shown, approved by its content, made; with and without a memory; what GitLab takes
// meanwhile goes on.
func TestAPolicyThatTakesMuchIsHeld(t *testing.T) {
	t.Parallel()
	config := func(change func(*authz.PolicyConfig)) authz.Policy {
		c := authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource}}
		change(&c)
		p, err := authz.NewPolicy(c)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for name, change := range map[string]func(*authz.PolicyConfig){
		"a role fewer":          func(c *authz.PolicyConfig) { c.Roles = c.Roles[:1] },
		"another role":          func(c *authz.PolicyConfig) { c.Roles = []authz.Role{c.Roles[0], role("reader", authz.Developer)} },
		"another level":         func(c *authz.PolicyConfig) { c.Roles = []authz.Role{c.Roles[0], role("view", authz.Reporter)} },
		"a kind fewer":          func(c *authz.PolicyConfig) { c.Kinds = c.Kinds[:1] },
		"a project left out":    func(c *authz.PolicyConfig) { c.Exclude.Sources = []authz.SourceID{authz.ProjectID(42)} },
		"a path left out":       func(c *authz.PolicyConfig) { c.Exclude.Paths = []string{"haw/*"} },
		"people left out":       func(c *authz.PolicyConfig) { c.Exclude.People = []string{"dev*"} },
		"edit and view swapped": func(c *authz.PolicyConfig) { c.Roles = []authz.Role{role("view"), role("edit", authz.Maintainer)} },
	} {
		for _, remembered := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, remembered %t", name, remembered), func(t *testing.T) {
				t.Parallel()
				roles := roleSet{"edit": "yes", "view": "yes", "reader": "yes", kubename.CIClusterRole: "yes"}
				kube, m := roles.cluster(), &memory{}
				limits := rbacsync.DefaultLimits()
				limits.Policy.Causes = 5
				g := &verified{gitlab: &gitlab{snap: crowded()}, levels: map[rbacsync.Membership]authz.Level{}}
				for id := range g.snap.Users { // GitLab's answers say nothing about the configuration
					g.levels[rbacsync.Membership{Source: authz.ProjectID(42), User: id}] = authz.Developer
				}
				once(t, enforcing(t, kube, g, m, config(func(*authz.PolicyConfig) {}), &limits))
				before := subjects(t, kube, "haw-world", "gitlab-view")
				if !remembered {
					m = &memory{}
				}
				s := enforcing(t, kube, g, m, config(change), &limits)
				var r syncer.Round
				for range 3 {
					r = once(t, s)
					wantSubjects(t, kube, "haw-world", "gitlab-view", before...)
				}
				s = enforcing(t, kube, g, m, config(change), &limits) // another leader
				r = once(t, s)
				wantSubjects(t, kube, "haw-world", "gitlab-view", before...)
				if len(rbacsync.Sections(r.Held)) != 1 || len(r.Held) < 10 || !strings.Contains(findingOf(r, "held"), "the configuration") {
					t.Errorf("held:\n%s\n%s", rbacsync.HeldText(r.Held), findingOf(r, "held"))
				}

				kept := store.Held{Client: kube, Namespace: "gl-k8s-integrator"}
				shown, err := kept.Load(t.Context())
				if err != nil || cmp.Diff(r.Held, shown) != "" {
					t.Fatalf("another thing is shown than is held: %v", err)
				}
				u := g.snap.Users[11]
				u.State = "blocked"
				g.snap.Users[11] = u
				once(t, s)
				if _, err := kept.Approve(t.Context(), rbacsync.HashOf(shown), ""); !errors.Is(err, rbacsync.ErrNoSuchHash) {
					t.Errorf("what is held has changed since it was shown, and is approved: %v", err)
				}
				if got := subjects(t, kube, "haw-world", "gitlab-view"); slices.Contains(got, "gitlab:11") || len(got) != len(before)-1 {
					t.Errorf("after a block: %v", got)
				}

				items, err := kept.Load(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := kept.Approve(t.Context(), rbacsync.HashOf(items), ""); err != nil {
					t.Fatal(err)
				}
				r = once(t, s)
				if len(r.Held) != 0 {
					t.Errorf("approved, and held still:\n%s", rbacsync.HeldText(r.Held))
				}
				if !strings.Contains(rbacsync.Text(r.Plan), "approved by an administrator") {
					t.Errorf("nothing says that it was approved:\n%s", rbacsync.Text(r.Plan))
				}
				if got := subjects(t, kube, "haw-world", "gitlab-view"); len(got) > 2 {
					t.Errorf("approved, and not taken: %v", got)
				}
				once(t, s)
				if left, err := kept.Approvals(t.Context()); err != nil || len(left) != 0 {
					t.Errorf("approvals that are kept: %v, %v", left, err)
				}
			})
		}
	}
}

// TestAPolicyIsNotAgreedWithWhileNothingIsChanged: a GitLab that shows nothing is not believed, and a round that therefore
// changes nothing is no proof that the cluster agrees with the policy, nor with that GitLab.
func TestAPolicyIsNotAgreedWithWhileNothingIsChanged(t *testing.T) {
	t.Parallel()
	roles := roleSet{"edit": "yes", "view": "yes", kubename.CIClusterRole: "yes"}
	kube, m, limits := roles.cluster(), &memory{}, rbacsync.DefaultLimits()
	g := &gitlab{snap: crowded()}
	once(t, enforcing(t, kube, g, m, withRoles(t, authz.DefaultRoles()...), &limits))
	empty := rbacsynctest.CopySnap(g.snap)
	clear(empty.Groups)
	clear(empty.Projects)
	full := g.snap
	g.snap = empty
	s := enforcing(t, kube, g, m, withRoles(t, authz.DefaultRoles()[:1]...), &limits)
	once(t, s)
	g.snap = full
	r := once(t, s)
	if len(r.Held) != 11 || slices.ContainsFunc(r.Held, func(i rbacsync.Item) bool { return i.Change == "" }) {
		t.Errorf("want 11 rights held because of the configuration:\n%s", rbacsync.HeldText(r.Held))
	}
}

// TestADemotionInGitLabIsNotThePolicysDoing: after a change of the policy was made, or while nothing is known of one before,
// GitLab's lower levels go on at once.
func TestADemotionInGitLabIsNotThePolicysDoing(t *testing.T) {
	t.Parallel()
	roles := roleSet{"edit": "yes", "view": "yes", kubename.CIClusterRole: "yes"}
	kube, m := roles.cluster(), &memory{}
	limits := rbacsync.DefaultLimits()
	limits.Policy.Causes = 1
	g := &gitlab{snap: crowded()}
	s := enforcing(t, kube, g, m, withRoles(t, authz.DefaultRoles()...), &limits)
	once(t, s)
	demote := func(level authz.Level) {
		snap := rbacsynctest.CopySnap(g.snap)
		p := snap.Projects[42]
		for i := range p.Members {
			p.Members[i].Level = level
		}
		snap.Projects[42] = p
		g.snap = snap
	}
	demote(authz.Guest)
	if r := once(t, s); len(r.Held) != 0 || len(subjects(t, kube, "haw-world", "gitlab-view")) != 0 {
		t.Errorf("guests: held %v", r.Held)
	}
	demote(authz.Maintainer)
	once(t, s)
	// Another policy that takes nothing: Reporters read, too.
	s = enforcing(t, kube, g, m, withRoles(t, role("edit", authz.Maintainer, authz.Owner), role("view", authz.Developer, authz.Reporter)), &limits)
	once(t, s)
	demote(authz.Reporter)
	if r := once(t, s); len(r.Held) != 0 || len(subjects(t, kube, "haw-world", "gitlab-edit")) != 1 {
		t.Errorf("reporters: held %v", r.Held)
	}
}

// TestPlanIsWhatServeDoes is the law of `plan`: for any organisation, configuration and change it prints and holds exactly
// what the next round of `serve` makes and holds, whether that runs on or starts anew.
func TestPlanIsWhatServeDoes(t *testing.T) {
	t.Parallel()
	did := map[string]int{}
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 82))
		roles := roleSet{"edit": "yes", "view": "yes", "reader": "yes", kubename.CIClusterRole: "yes"}
		kube, m := roles.cluster(), &memory{}
		limits := rbacsync.Limits{
			PerGroup: rbacsync.Limit{Causes: 1 + r.IntN(4)}, Overall: rbacsync.Limit{Causes: 2 + r.IntN(6)},
			Policy: rbacsync.Limit{Causes: 1 + r.IntN(6)}, Creations: 5,
		}
		at := &clock{rbacsynctest.Noon}
		snap := rbacsynctest.Organisation(2, 9)
		for id, gr := range snap.Groups {
			gr.CreatedAt = rbacsynctest.Noon.AddDate(0, 0, -30)
			snap.Groups[id] = gr
		}
		g := &verified{gitlab: &gitlab{snap: snap}, exists: map[authz.SourceID]bool{}, levels: map[rbacsync.Membership]authz.Level{}}
		policy := withRoles(t, authz.DefaultRoles()...)
		options := func(mode syncer.Mode, p authz.Policy) syncer.Options {
			return syncer.Options{
				Questions: questionsOf(g), Reader: g, Kube: kube, Policy: p, Mode: mode, Memory: m, Limits: &limits, Now: at.now,
				Held:     store.Held{Client: kube, Namespace: "gl-k8s-integrator"},
				Roles:    cluster.NewRoleReader(kube, append(p.ClusterRoles(), kubename.CIClusterRole)...),
				Settings: rbacsync.Settings{DeleteAfter: 24 * time.Hour},
			}
		}
		make1 := func(mode syncer.Mode, p authz.Policy) *syncer.Syncer {
			s, err := syncer.New(options(mode, p))
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		serve := make1(syncer.ModeEnforce, policy)
		for step := range 8 {
			at.at = at.at.Add([]time.Duration{time.Minute, 20 * time.Minute, 45 * time.Minute}[r.IntN(3)])
			if step > 0 {
				g.snap = randomChange(r, g)
				for name := range roles {
					if roles[name] = "yes"; r.IntN(8) == 0 && name != kubename.CIClusterRole {
						roles[name] = []string{"missing", "unbindable", "unasked", "old"}[r.IntN(4)]
					}
				}
			}
			g.snap.Taken = at.at
			switch r.IntN(3) {
			case 0:
				policy = randomPolicy(t, r)
				fallthrough
			case 1:
				serve = make1(syncer.ModeEnforce, policy)
			}
			if items, err := (store.Held{Client: kube, Namespace: "gl-k8s-integrator"}).Load(t.Context()); err == nil && len(items) > 0 && r.IntN(3) == 0 {
				if _, err := (store.Held{Client: kube, Namespace: "gl-k8s-integrator"}).Approve(t.Context(), rbacsync.HashOf(items), ""); err != nil {
					t.Fatal(err)
				}
				did["approved"]++
			}
			other := randomPolicy(t, r)
			plan, doc, again := planAndReplay(t, kube, options(syncer.ModePlan, policy), options(syncer.ModePlan, other))
			if online, _ := make1(syncer.ModePlan, other).Once(t.Context(), "command"); len(online.Held)+len(again.Held) == 0 && !roles.differs() {
				did["another configuration"]++
				if d := cmp.Diff(rbacsync.Text(online.Plan), rbacsync.Text(again.Plan)); d != "" {
					t.Fatalf("seed %d, step %d: another configuration, online and from the file (-online +file):\n%s", seed, step, d)
				}
			}
			real, _ := serve.Once(t.Context(), "test")
			if len(real.Report.Failed) == 0 {
				did["rights told"] += len(doc.Namespaces)
				comesTrue(t, kube, plan, doc)
			}
			if d := cmp.Diff(rbacsync.Text(real.Plan)+rbacsync.HeldText(real.Held), rbacsync.Text(plan.Plan)+rbacsync.HeldText(plan.Held)); d != "" {
				t.Fatalf("seed %d, step %d: what serve did, and what plan said (-serve +plan):\n%s", seed, step, d)
			}
			for _, i := range real.Held {
				if i.Change != "" {
					did["held by policy"]++
				} else {
					did["held"]++
				}
			}
			did["changes"] += len(real.Plan)
			if findingOf(real, "cluster_role") != "" {
				did["roles"]++
			}
		}
	}
	t.Log(did)
	for _, what := range []string{"approved", "held by policy", "held", "changes", "roles", "another configuration", "rights told"} {
		if did[what] < 20 {
			t.Errorf("%s: %d is too little to show anything", what, did[what])
		}
	}
}

func randomPolicy(t *testing.T, r *rand.Rand) authz.Policy {
	t.Helper()
	c := authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource}}
	switch r.IntN(6) {
	case 0:
		c.Roles = c.Roles[:1]
	case 1:
		c.Roles[1].ClusterRole = "reader"
	case 2:
		c.Roles = []authz.Role{role("edit", authz.Owner), role("view", authz.Developer, authz.Maintainer)}
	case 3:
		c.Kinds = c.Kinds[r.IntN(2):][:1]
	case 4:
		c.Exclude.Paths = []string{"top1/**"}
	}
	if r.IntN(3) == 0 {
		c.Extra = []authz.ExtraRole{{Source: authz.GroupID(1), Below: true, ClusterRole: "reader", Levels: []authz.Level{authz.Developer}}}
	}
	p, err := authz.NewPolicy(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// randomChange changes GitLab a little, and what it answers when it is asked.
func randomChange(r *rand.Rand, g *verified) *authz.Snapshot {
	s := rbacsynctest.CopySnap(g.snap)
	s.Missing = nil
	for range r.IntN(6) {
		user := 1 + r.Int64N(18)
		switch r.IntN(7) {
		case 0, 1, 2:
			rbacsynctest.Drop(s, user)
		case 3:
			u := s.Users[user]
			u.State = []authz.UserState{authz.StateActive, "blocked"}[r.IntN(2)]
			s.Users[user] = u
		case 4:
			id := []int64{1, 2, 1001, 1002}[r.IntN(4)]
			p, there := s.Projects[id]
			if r.IntN(4) == 0 {
				delete(s.Projects, id)
				g.exists[authz.ProjectID(id)] = r.IntN(2) == 0
			} else if there {
				p.Members = append(p.Members, authz.Member{User: user, Level: []authz.Level{authz.Developer, authz.Maintainer}[r.IntN(2)]})
				s.Projects[id] = p
			}
		case 5:
			p, there := s.Projects[1]
			if there {
				p.Archived = !p.Archived
				s.Projects[1] = p
			}
		case 6:
			s.Missing = map[authz.SourceID]string{authz.GroupID(1 + r.Int64N(2)): "a page failed"}
		}
		g.levels[rbacsync.Membership{Source: authz.ProjectID(1), User: user}] = authz.Level(10 * r.IntN(4))
	}
	return s
}
