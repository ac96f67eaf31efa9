package syncer_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/clusterroles"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// TestClusterReservedName: who takes a path that means something to others gets a namespace, under another name, and the cage
// lets it be made.
func TestClusterReservedName(t *testing.T) {
	c := realCluster(t)
	for i, path := range []string{"com", "svc", "de", "cert-manager", "openshift-monitoring"} {
		id := int64(2306 + i)
		r := once(t, newSyncer(t, syncer.Options{Reader: &gitlab{snap: org(id, path)}, Kube: c.own}))
		name := r.Names[authz.GroupID(id)]
		if name == path || name == "" || r.Names[authz.ProjectID(id+1000)] == path {
			t.Errorf("group %s has the namespace %q", path, name)
		}
		if _, err := c.admin.CoreV1().Namespaces().Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
	}
}

// TestClusterPrivileged: a namespace becomes privileged with the entry and an administrator's label, never with one of both.
// The integrator is in its cage, and no round fails.
func TestClusterPrivileged(t *testing.T) {
	c := realCluster(t)
	full := org(305, "privileged")
	level := func() string {
		n, err := c.admin.CoreV1().Namespaces().Get(t.Context(), "privileged-world", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return n.Labels["pod-security.kubernetes.io/enforce"] + " " + n.Labels["pod-security.kubernetes.io/warn"]
	}
	label := func() {
		t.Helper()
		if _, err := c.admin.CoreV1().Namespaces().Patch(t.Context(), "privileged-world", types.MergePatchType,
			[]byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"privileged"}}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	round := func(exceptions map[authz.SourceID]string) string {
		t.Helper()
		r := once(t, newSyncer(t, syncer.Options{Reader: &gitlab{snap: full}, Kube: c.own, Settings: rbacsync.Settings{PodSecurityFor: exceptions}}))
		return codes(r)
	}
	entry := map[authz.SourceID]string{authz.ProjectID(1305): "privileged"}
	if got := round(entry); !strings.Contains(got, "pod_security_waits") || level() != "baseline baseline" {
		t.Errorf("with the entry alone: %s, findings %s", level(), got)
	}
	label()
	if got := round(entry); strings.Contains(got, "pod_security_waits") || level() != "privileged privileged" {
		t.Errorf("with both: %s, findings %s", level(), got)
	}
	if got := round(nil); level() != "baseline baseline" {
		t.Errorf("without the entry: %s, findings %s", level(), got)
	}
	label()
	if got := round(nil); level() != "baseline baseline" {
		t.Errorf("with the label alone: %s, findings %s", level(), got)
	}
}

// TestClusterDeletion: noted, deleted with the real ServiceAccount, in its cage.
func TestClusterDeletion(t *testing.T) {
	c := realCluster(t)
	full := org(310, "deletion")
	g := &verified{gitlab: &gitlab{snap: full}, exists: map[authz.SourceID]bool{authz.ProjectID(1310): false}}
	now := &clock{time.Now()}
	s := newSyncer(t, syncer.Options{Reader: g, Kube: c.own, Now: now.now, Settings: rbacsync.Settings{DeleteAfter: time.Hour}})
	once(t, s)
	namespaces := c.admin.CoreV1().Namespaces()
	g.snap = rbacsynctest.CopySnap(full)
	g.snap.Projects = map[int64]authz.Project{}
	once(t, s)
	n, err := namespaces.Get(t.Context(), "deletion-world", metav1.GetOptions{})
	if err != nil || n.Annotations[kubename.AnnotationGoneSince] == "" {
		t.Fatalf("after the first round: %v %v", err, n.Annotations)
	}
	c.may(t, false, "gitlab:3", "deletion-world", "get", "", "pods")

	g.snap = full // undeleted
	once(t, s)
	c.may(t, true, "gitlab:3", "deletion-world", "get", "", "pods")
	if n, err = namespaces.Get(t.Context(), "deletion-world", metav1.GetOptions{}); err != nil || n.Annotations[kubename.AnnotationGoneSince] != "" {
		t.Errorf("after it came back: %v %v", err, n.Annotations)
	}

	g.snap = rbacsynctest.CopySnap(full)
	g.snap.Projects = map[int64]authz.Project{}
	once(t, s)
	now.at = now.at.Add(61 * time.Minute)
	if r, err := s.Once(t.Context(), "test"); err == nil || !strings.Contains(err.Error(), "deploy/optional/namespace-deletion.yaml") {
		t.Errorf("without the right to delete: %v\n%s", err, rbacsync.Text(r.Plan))
	}
	if err := deploy.ApplyForDeletion(t.Context(), c.cp.AdminConfig()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the right to delete", func() bool {
		return c.own.CoreV1().Namespaces().Delete(t.Context(), "deletion-world", metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}) == nil
	})
	if r := once(t, s); !strings.Contains(rbacsync.Text(r.Plan), "delete Namespace deletion-world") {
		t.Errorf("after the grace period:\n%s%s", rbacsync.Text(r.Plan), codes(r))
	}
	n, err = namespaces.Get(t.Context(), "deletion-world", metav1.GetOptions{})
	if !apierrors.IsNotFound(err) && (err != nil || n.DeletionTimestamp == nil) {
		t.Errorf("the namespace stands: %v", err)
	}
	if _, err := namespaces.Get(t.Context(), "deletion", metav1.GetOptions{}); err != nil {
		t.Errorf("the group's namespace: %v", err)
	}
}

// TestClusterAdoption: the cage keeps our own ServiceAccount from marking a namespace; once an administrator has
// marked it, it is adopted, and what is in it stays.
func TestClusterAdoption(t *testing.T) {
	c := realCluster(t)
	g := &gitlab{snap: org(320, "adoption")}
	s := newSyncer(t, syncer.Options{Reader: g, Kube: c.own, Settings: rbacsync.Settings{
		Adopt: []rbacsync.Adoption{{Namespace: "legacy-shop", Source: authz.ProjectID(1320), Path: "adoption/world"}},
	}})
	namespaces := c.admin.CoreV1().Namespaces()
	n, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "legacy-shop", Labels: map[string]string{"team": "shop"}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.admin.CoreV1().ConfigMaps("legacy-shop").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "prices"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if r := once(t, s); !strings.Contains(codes(r), "adopt_unmarked") || r.Names[authz.ProjectID(1320)] != "" {
		t.Errorf("without the mark: findings %s, names %v", codes(r), r.Names)
	}
	c.may(t, false, "gitlab:3", "legacy-shop", "get", "", "pods")
	own := n.DeepCopy()
	own.Labels[kubename.LabelManagedBy] = kubename.ManagedBy
	if _, err := c.own.CoreV1().Namespaces().Update(t.Context(), own, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("our own ServiceAccount marks a namespace: %v", err)
	}
	if _, err := namespaces.Update(t.Context(), own, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if r := once(t, s); r.Names[authz.ProjectID(1320)] != "legacy-shop" {
		t.Errorf("with the mark: findings %s, names %v", codes(r), r.Names)
	}
	c.may(t, true, "gitlab:3", "legacy-shop", "get", "", "pods")
	if _, err := c.admin.CoreV1().ConfigMaps("legacy-shop").Get(t.Context(), "prices", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	if n, err = namespaces.Get(t.Context(), "legacy-shop", metav1.GetOptions{}); err != nil || n.Labels["team"] != "shop" || n.Labels[kubename.LabelSource] != "project-1320" {
		t.Errorf("labels %v, %v", n.Labels, err)
	}
	if r := once(t, s); len(r.Plan) != 0 {
		t.Errorf("the next round still plans:\n%s", rbacsync.Text(r.Plan))
	}
}

// TestClusterApproval: what is held is kept and approved in ConfigMaps that our role and cage allow.
func TestClusterApproval(t *testing.T) {
	c := realCluster(t)
	kept := store.Held{Client: c.own, Namespace: deploy.Namespace}
	full := org(330, "approval")
	g := &gitlab{snap: full}
	s := newSyncer(t, syncer.Options{Reader: g, Kube: c.own, Limits: &rbacsynctest.Strict, Held: kept})
	once(t, s)
	g.snap = without(full, 1330, 3)
	r := once(t, s)
	if len(r.Held) != 1 {
		t.Fatalf("held:\n%s%v", rbacsync.HeldText(r.Held), r.Findings)
	}
	c.may(t, true, "gitlab:3", "approval-world", "get", "", "pods")
	if r = once(t, s); len(r.Plan) != 0 || len(r.Held) != 1 {
		t.Errorf("the next round plans:\n%s", rbacsync.Text(r.Plan))
	}
	if _, err := (store.Held{Client: c.admin, Namespace: deploy.Namespace}).Approve(t.Context(), rbacsync.HashOf(r.Held), ""); err != nil {
		t.Fatal(err)
	}
	if r = once(t, s); len(r.Held) != 0 || strings.Contains(codes(r), "approvals") {
		t.Errorf("approved, but held:\n%s%s", rbacsync.HeldText(r.Held), codes(r))
	}
	c.may(t, false, "gitlab:3", "approval-world", "get", "", "pods")
	once(t, s) // forgets the approval
	if left, err := kept.Approvals(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("approvals left: %v, %v", left, err)
	}
}

// TestClusterRenameAndTransfer: what was renamed or moved keeps its namespace, everything in it, and the very objects that
// give rights, whether a hook reported it or was lost. Meanwhile others take the old paths.
func TestClusterRenameAndTransfer(t *testing.T) {
	c := realCluster(t)
	for i, lost := range []bool{true, false} {
		name := []string{"moved-a", "moved-b"}[i]
		group := int64(350 + i)
		full := org(group, name)
		g, seen := &gitlab{snap: full}, &rounds{}
		s := newSyncer(t, syncer.Options{Reader: g, Kube: c.own, Watch: c.own, Interval: time.Hour, OnRound: seen.add, Limits: &rbacsynctest.Strict, Settings: rbacsync.Settings{DeleteAfter: time.Hour}})
		running(t, s)
		ns := name + "-world"
		eventually(t, "the first round", func() bool { return len(seen.causes()) == 1 })
		ctx, core := t.Context(), c.admin.CoreV1()
		if _, err := core.ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		uids := func() map[string]types.UID {
			t.Helper()
			out := map[string]types.UID{}
			n, err := core.Namespaces().Get(ctx, ns, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			out["namespace"] = n.UID
			cm, err := core.ConfigMaps(ns).Get(ctx, "theirs", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			out["theirs"] = cm.UID
			sa, err := core.ServiceAccounts(ns).Get(ctx, kubename.CIServiceAccount, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			out["account"] = sa.UID
			list, err := c.admin.RbacV1().RoleBindings(ns).List(ctx, metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, rb := range list.Items {
				out[rb.Name] = rb.UID
			}
			return out
		}
		before := uids()
		n := rbacsynctest.CopySnap(full)
		top := n.Groups[group] // renamed
		top.Path = name + "-renamed"
		n.Groups[group] = top
		n.Groups[group+20] = authz.Group{ID: group + 20, Path: name, Members: top.Members} // another one takes its path
		p := n.Projects[group+1000]                                                        // renamed and transferred
		p.Group, p.Path = group+20, name+"/earth"
		n.Projects[p.ID] = p
		n.Projects[p.ID+100] = authz.Project{ID: p.ID + 100, Group: group + 20, Path: name + "/world"} // and its path
		g.set(func(g *gitlab) { g.snap = n })
		if lost {
			s.Trigger(nil, "full")
		} else {
			s.Trigger([]authz.SourceID{authz.GroupID(group), authz.GroupID(group + 20), authz.ProjectID(p.ID), authz.ProjectID(p.ID + 100)}, "hook project_transfer")
		}
		eventually(t, "the next round", func() bool { return len(seen.causes()) >= 2 })
		if d := cmp.Diff(before, uids()); d != "" {
			t.Errorf("lost %t (-before +after):\n%s", lost, d)
		}
		c.may(t, true, "gitlab:3", ns, "get", "", "pods")
		c.may(t, true, "gitlab:2", ns, "delete", "", "pods")
		if names := s.State().Round.Names; names[authz.ProjectID(p.ID)] != ns || names[authz.GroupID(group)] != name || names[authz.ProjectID(p.ID+100)] == ns {
			t.Errorf("lost %t: names %v", lost, names)
		}
		for _, r := range seen.taken()[1:] {
			for _, ch := range r.Plan {
				if ch.Revokes || ch.Action == rbacsync.Delete {
					t.Errorf("lost %t: %s", lost, ch)
				}
			}
		}
		if nsObj, err := core.Namespaces().Get(ctx, ns, metav1.GetOptions{}); err != nil || nsObj.Annotations[kubename.AnnotationPath] != name+"/earth" {
			t.Errorf("lost %t: annotations %v, %v", lost, nsObj.Annotations, err)
		}
	}
}

// TestClusterMistypedClusterRole: with the real role of the integrator, which neither names "viewx" nor may read it. Then the
// role is named and does not exist, which kube-apiserver accepts in a binding that gives nothing; then it exists.
func TestClusterMistypedClusterRole(t *testing.T) {
	c := realCluster(t)
	g := &gitlab{snap: org(311, "mistyped")}
	m, limits := &memory{}, rbacsync.DefaultLimits()
	start := func(p authz.Policy) *syncer.Syncer {
		s, err := syncer.New(syncer.Options{
			Reader: g, Kube: c.own, Policy: p, Mode: syncer.ModeEnforce, Memory: m, Limits: &limits,
			Roles: cluster.NewRoleReader(c.own, append(p.ClusterRoles(), kubename.CIClusterRole)...),
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if r := once(t, start(withRoles(t, authz.DefaultRoles()...))); findingOf(r, "cluster_role") != "" {
		t.Errorf("as in deploy: %s", findingOf(r, "cluster_role"))
	}
	c.may(t, true, "gitlab:3", "mistyped-world", "get", "", "pods")
	s := start(withRoles(t, role("edit", authz.Maintainer, authz.Owner), role("viewx", authz.Developer)))
	r := once(t, s)
	if text := findingOf(r, "cluster_role"); !strings.Contains(text, `"viewx": the integrator has no right to bind it`) || len(r.Plan) != 0 {
		t.Errorf("finding %q, plan:\n%s", text, rbacsync.Text(r.Plan))
	}
	c.may(t, true, "gitlab:3", "mistyped-world", "get", "", "pods")

	rule := rbacv1.PolicyRule{APIGroups: []string{rbacv1.GroupName}, Resources: []string{"clusterroles"}, ResourceNames: []string{"viewx"}, Verbs: []string{"bind", "get"}}
	grant := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "mistyped-grant"}, Rules: []rbacv1.PolicyRule{rule}}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: grant.Name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: grant.Name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: deploy.ServiceAccount, Namespace: deploy.Namespace}},
	}
	view, err := c.admin.RbacV1().ClusterRoles().Get(t.Context(), "view", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	viewx := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "viewx"}, Rules: view.Rules}
	if _, err := c.admin.RbacV1().ClusterRoles().Create(t.Context(), grant, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.admin.RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		for _, err := range []error{
			c.admin.RbacV1().ClusterRoleBindings().Delete(ctx, grant.Name, metav1.DeleteOptions{}),
			c.admin.RbacV1().ClusterRoles().Delete(ctx, grant.Name, metav1.DeleteOptions{}),
			c.admin.RbacV1().ClusterRoles().Delete(ctx, viewx.Name, metav1.DeleteOptions{}),
		} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	until := func(want string) {
		t.Helper()
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			r := once(t, s)
			if text := findingOf(r, "cluster_role"); strings.Contains(text, want) && (want != "" || text == "") {
				return
			} else if time.Now().After(deadline) {
				t.Fatalf("the finding is %q, want %q", text, want)
			}
		}
	}
	until("the cluster has no ClusterRole of this name")
	c.may(t, true, "gitlab:3", "mistyped-world", "get", "", "pods")
	if _, err := c.admin.RbacV1().ClusterRoles().Create(t.Context(), viewx, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	until("")
	c.may(t, true, "gitlab:3", "mistyped-world", "get", "", "pods")
	for name, want := range map[string]int{"gitlab-view": 0, "gitlab-viewx": 1} {
		b, err := c.admin.RbacV1().RoleBindings("mistyped-world").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || len(b.Subjects) != want {
			t.Errorf("%s has %v, %v; want %d", name, b.Subjects, err, want)
		}
	}
}

// mayBind lets the integrator bind these ClusterRoles alone, and waits until kube-apiserver knows it.
func (c *testCluster) mayBind(t *testing.T, roles ...string) {
	t.Helper()
	r, err := c.admin.RbacV1().ClusterRoles().Get(t.Context(), deploy.ServiceAccount, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range r.Rules {
		if slices.Contains(r.Rules[i].Verbs, "bind") {
			r.Rules[i].ResourceNames = roles
		}
	}
	if _, err := c.admin.RbacV1().ClusterRoles().Update(t.Context(), r, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	all := []string{"edit", "view", kubename.CIClusterRole}
	eventually(t, "the right to bind "+strings.Join(roles, ", "), func() bool {
		found := cluster.NewRoleReader(c.own, all...).Look(t.Context())
		for _, name := range all {
			if (found[name].Bindable.Verdict == clusterroles.Yes) != slices.Contains(roles, name) {
				return false
			}
		}
		return true
	})
}

// TestClusterSecurityInvariantTakenWithoutTheRightToBind: kube-apiserver refuses any change of a binding to a role that we may
// not bind, such as after deploy/manifests was applied over an administrator's further roles. What GitLab takes goes all the same; a
// promotion costs nobody anything; and a role that left the configuration together with the right to bind it is given back.
func TestClusterSecurityInvariantTakenWithoutTheRightToBind(t *testing.T) {
	c := realCluster(t)
	t.Cleanup(func() {
		if err := deploy.Apply(context.WithoutCancel(t.Context()), c.cp.AdminConfig()); err != nil {
			t.Error(err)
		}
	})
	full := org(312, "unbound")
	full.Users[4] = authz.User{ID: 4, Username: "dave", State: authz.StateActive, Human: true}
	full.Users[5] = authz.User{ID: 5, Username: "erin", State: authz.StateActive, Human: true}
	project := full.Projects[1312]
	project.Members = append(slices.Clone(project.Members), authz.Member{User: 4, Level: authz.Developer}, authz.Member{User: 5, Level: authz.Developer})
	full.Projects[1312] = project
	g, limits := &gitlab{snap: full}, rbacsync.DefaultLimits()
	m := &memory{}
	start := func(p authz.Policy) *syncer.Syncer {
		s, err := syncer.New(syncer.Options{
			Reader: g, Kube: c.own, Policy: p, Mode: syncer.ModeEnforce, Memory: m, Limits: &limits,
			Roles: cluster.NewRoleReader(c.own, append(p.ClusterRoles(), kubename.CIClusterRole)...),
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := start(withRoles(t, authz.DefaultRoles()...))
	once(t, s)
	for _, user := range []string{"gitlab:3", "gitlab:4", "gitlab:5"} {
		c.may(t, true, user, "unbound-world", "get", "", "pods")
	}

	c.mayBind(t, "edit", kubename.CIClusterRole)
	snap := rbacsynctest.CopySnap(full)
	p := snap.Projects[1312]
	p.Members = slices.Clone(p.Members)
	for i := range p.Members {
		if p.Members[i].User == 5 {
			p.Members[i].Level = authz.Maintainer
		}
	}
	snap.Projects[1312] = p
	g.snap = snap
	once(t, s)
	c.may(t, true, "gitlab:5", "unbound-world", "delete", "", "pods")
	c.may(t, true, "gitlab:3", "unbound-world", "get", "", "pods")

	snap = rbacsynctest.CopySnap(snap)
	u := snap.Users[4]
	u.State = "blocked"
	snap.Users[4] = u
	g.snap = snap
	r := once(t, s)
	if plan := rbacsync.Text(r.Plan); !strings.Contains(plan, "- gitlab:4 ") || !strings.Contains(plan, "- gitlab:3 ") || len(r.Held) != 0 {
		t.Errorf("what the plan says:\n%s%s", plan, rbacsync.HeldText(r.Held))
	}
	if !slices.ContainsFunc(r.Findings, func(f authz.Finding) bool {
		return f.Code == "cluster_role" && strings.Contains(f.Text, "was deleted with all that were in it")
	}) {
		t.Errorf("no finding says it: %v", r.Findings)
	}
	c.may(t, false, "gitlab:4", "unbound-world", "get", "", "pods")
	if r := once(t, s); len(r.Plan) != 0 {
		t.Errorf("the next round plans:\n%s", rbacsync.Text(r.Plan))
	}

	c.mayBind(t, "edit", "view", kubename.CIClusterRole)
	once(t, s)
	c.may(t, true, "gitlab:3", "unbound-world", "get", "", "pods")

	// Everybody moves to another role, and the old one is no longer to be bound.
	c.mayBind(t, "edit", kubename.CIClusterRole)
	once(t, start(withRoles(t, role("edit", authz.Developer, authz.Maintainer, authz.Owner))))
	c.may(t, true, "gitlab:3", "unbound-world", "delete", "", "pods")
	if _, err := c.admin.RbacV1().RoleBindings("unbound-world").Get(t.Context(), "gitlab-view", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the binding of before: %v", err)
	}
	c.mayBind(t, "edit", "view", kubename.CIClusterRole)
	once(t, start(withRoles(t, authz.DefaultRoles()...)))
	c.may(t, true, "gitlab:3", "unbound-world", "get", "", "pods")

	c.mayBind(t, "edit", kubename.CIClusterRole)
	once(t, start(withRoles(t, authz.DefaultRoles()[0])))
	c.may(t, false, "gitlab:3", "unbound-world", "get", "", "pods")
	c.may(t, true, "gitlab:5", "unbound-world", "delete", "", "pods")
}
