package syncer_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authnv1 "k8s.io/api/authentication/v1"
	authzv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// These tests use a real kube-apiserver, and the integrator in them is its real ServiceAccount: under its role and
// in its cage.

// testCluster is one control plane for all tests here; they run one after another.
type testCluster struct {
	once       sync.Once
	cp         *controlplane.Cluster
	admin, own *kubernetes.Clientset
	token      string // of own
	err        error
	closers    []func()
}

var shared testCluster

func (c *testCluster) start(ctx context.Context) error {
	var err error
	if c.cp, err = controlplane.Start(ctx, controlplane.Options{Progress: os.Stderr}); err != nil {
		return err
	}
	if err := deploy.Apply(ctx, c.cp.AdminConfig()); err != nil {
		return err
	}
	if c.admin, err = c.client(c.cp.AdminConfig()); err != nil {
		return err
	}
	seconds := int64(3600)
	tr, err := c.admin.CoreV1().ServiceAccounts(deploy.Namespace).CreateToken(ctx, deploy.ServiceAccount,
		&authnv1.TokenRequest{Spec: authnv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	c.token = tr.Status.Token
	c.own, err = c.client(c.as(c.token))
	return err
}

// as returns the configuration of a client with that token.
func (c *testCluster) as(token string) *rest.Config {
	return &rest.Config{Host: c.cp.URL(), QPS: -1, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAData: c.cp.CA()}}
}

func (c *testCluster) client(cfg *rest.Config) (*kubernetes.Clientset, error) {
	h, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, err
	}
	c.closers = append(c.closers, h.CloseIdleConnections)
	return kubernetes.NewForConfigAndClient(cfg, h)
}

func (c *testCluster) stop() error {
	for _, f := range c.closers {
		f()
	}
	if c.cp == nil {
		return nil
	}
	return c.cp.Stop()
}

func realCluster(t *testing.T) *testCluster {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: needs a real control plane")
	}
	shared.once.Do(func() { shared.err = shared.start(context.Background()) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return &shared
}

// org is a GitLab of a test's own: group id with one project id+1000, alice Owner of the group, bob Developer of
// the project.
func org(id int64, name string) *authz.Snapshot {
	s := rbacsynctest.HawWorld()
	g, p := s.Groups[7], s.Projects[42]
	g.ID, g.Path = id, name
	p.ID, p.Group, p.Path = id+1000, id, name+"/world"
	s.Issuer = "https://" + name + ".example.com" // so that the tests see nothing of each other
	s.Groups, s.Projects = map[int64]authz.Group{id: g}, map[int64]authz.Project{id + 1000: p}
	return s
}

func once(t *testing.T, s *syncer.Syncer) syncer.Round {
	t.Helper()
	r, err := s.Once(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	r.Findings = slices.DeleteFunc(r.Findings, func(f authz.Finding) bool { return f.Code == "other_issuer" }) // the other tests
	return r
}

// may asks the API server; RBAC follows a changed binding after some milliseconds, so a wrong answer is asked again.
func (c *testCluster) may(t *testing.T, want bool, user, ns, verb, group, resource string) {
	t.Helper()
	var got bool
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		r, err := c.admin.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authzv1.SubjectAccessReview{
			Spec: authzv1.SubjectAccessReviewSpec{
				User: user, Groups: []string{"system:authenticated"},
				ResourceAttributes: &authzv1.ResourceAttributes{Namespace: ns, Verb: verb, Group: group, Resource: resource},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got = r.Status.Allowed; got == want {
			return
		}
	}
	t.Errorf("%s may %s %s in %s: %t, want %t", user, verb, resource, ns, got, want)
}

func TestClusterFollowsGitLab(t *testing.T) {
	c := realCluster(t)
	g := &gitlab{snap: org(10, "follow")}
	s := newSyncer(t, syncer.Options{Reader: g, Kube: c.own})
	if r := once(t, s); len(r.Plan) != 10 || r.Report.Applied != 10 {
		t.Errorf("first round:\n%s", rbacsync.Text(r.Plan))
	}
	const ns = "follow-world"
	c.may(t, true, "gitlab:2", ns, "create", "apps", "deployments")
	c.may(t, true, "gitlab:3", ns, "get", "", "pods")
	c.may(t, false, "gitlab:3", ns, "create", "apps", "deployments")
	c.may(t, false, "gitlab:3", "follow", "get", "", "pods")
	c.may(t, false, "gitlab:4", ns, "get", "", "pods")
	c.may(t, true, kubename.ServiceAccountUser(ns), ns, "delete", "apps", "deployments")
	c.may(t, false, kubename.ServiceAccountUser(ns), "follow", "get", "", "pods")
	n, err := c.admin.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n.Labels["pod-security.kubernetes.io/enforce"] != "baseline" || n.Labels[kubename.LabelSource] != "project-1010" {
		t.Errorf("labels %v", n.Labels)
	}
	if r := once(t, s); len(r.Plan) != 0 || len(r.Findings) != 0 {
		t.Errorf("second round:\n%s%v", rbacsync.Text(r.Plan), r.Findings)
	}

	g.snap = without(g.snap, 1010, 3)
	if r := once(t, s); rbacsync.Text(r.Plan) != "update RoleBinding follow-world/gitlab-view: - gitlab:3 (bob)  [project/1010 follow/world]\nchanges: 1, taking rights away: 1\n" {
		t.Errorf("after bob left:\n%s", rbacsync.Text(r.Plan))
	}
	c.may(t, false, "gitlab:3", ns, "get", "", "pods")

	g.snap.Projects = map[int64]authz.Project{}
	once(t, s)
	c.may(t, false, "gitlab:2", ns, "get", "", "pods")
	c.may(t, false, kubename.ServiceAccountUser(ns), ns, "get", "", "pods")
	c.may(t, true, "gitlab:2", "follow", "get", "", "pods")
	if r := once(t, s); len(r.Plan) != 0 || len(r.Findings) != 1 || r.Findings[0].Code != "retained" {
		t.Errorf("with the project gone:\n%s%v", rbacsync.Text(r.Plan), r.Findings)
	}
}

func TestClusterDriftIsRepaired(t *testing.T) {
	c := realCluster(t)
	s := newSyncer(t, syncer.Options{Reader: &gitlab{snap: org(20, "drift")}, Kube: c.own})
	once(t, s)
	ctx, bindings := t.Context(), c.admin.RbacV1().RoleBindings("drift")
	n, err := c.admin.CoreV1().Namespaces().Get(ctx, "drift", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n.Labels["pod-security.kubernetes.io/enforce"], n.Labels["team"] = "privileged", "blue"
	if _, err := c.admin.CoreV1().Namespaces().Update(ctx, n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	edit, err := bindings.Get(ctx, "gitlab-edit", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mustDelete := func(name string) {
		t.Helper()
		if err := bindings.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	mustDelete("gitlab-edit")
	mustDelete("gitlab-view")
	edit.ResourceVersion, edit.UID, edit.RoleRef.Name = "", "", "admin"
	edit.Annotations["note"] = "by hand"
	edit.Subjects = append(edit.Subjects, rbacv1.Subject{Kind: "Group", APIGroup: rbacv1.GroupName, Name: "friends"})
	if _, err := bindings.Create(ctx, edit, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	foreign := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "gitlab-view", Namespace: "drift"}, RoleRef: edit.RoleRef}
	if _, err := bindings.Create(ctx, foreign, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r := once(t, s)
	got := rbacsync.Text(r.Plan)
	for _, line := range []string{"replace RoleBinding drift/gitlab-edit: role admin -> edit, - Group friends", `update Namespace drift: pod-security.kubernetes.io/enforce "privileged" -> "baseline"`} {
		if !strings.Contains(got, line) {
			t.Errorf("the plan lacks %q:\n%s", line, got)
		}
	}
	if len(r.Plan) != 2 || len(r.Findings) != 1 || r.Findings[0].Code != "foreign_object" {
		t.Errorf("plan:\n%s%v", got, r.Findings)
	}
	mustDelete("gitlab-view")
	once(t, s)
	if r := once(t, s); len(r.Plan) != 0 || len(r.Findings) != 0 {
		t.Errorf("not repaired:\n%s%v", rbacsync.Text(r.Plan), r.Findings)
	}
	if n, err = c.admin.CoreV1().Namespaces().Get(ctx, "drift", metav1.GetOptions{}); err != nil || n.Labels["team"] != "blue" {
		t.Errorf("the admin's label is gone: %v, %v", n.Labels, err)
	}
}

func TestClusterRefusesAPlanThatIsOutOfDate(t *testing.T) {
	c := realCluster(t)
	g := &gitlab{snap: org(30, "stale")}
	s := newSyncer(t, syncer.Options{Reader: g, Kube: c.own})
	once(t, s)
	// A leader plans while bob is a Developer of the project ...
	p := rbacsynctest.Policy(t)
	snap := org(30, "stale")
	pr := snap.Projects[1030]
	pr.Members = append(pr.Members, authz.Member{User: 2, Level: authz.Developer})
	snap.Projects[1030] = pr
	g30 := snap.Groups[30]
	g30.Members = nil
	snap.Groups[30] = g30
	have, err := cluster.List(t.Context(), c.own, p.ClusterRoles())
	if err != nil {
		t.Fatal(err)
	}
	names, _ := have.Names(snap.Issuer)
	grants, _ := p.Grants(snap, p.Sources(snap), time.Now())
	changes, _ := rbacsync.Plan(have, rbacsync.Desired(rbacsync.Input{Snapshot: snap, Sources: p.Sources(snap), Names: names, Grants: grants, Roles: p.ClusterRoles()}))
	// ... sleeps, and another one takes bob's right away.
	g.snap = without(g.snap, 1030, 3)
	once(t, s)
	c.may(t, false, "gitlab:3", "stale-world", "get", "", "pods")
	report := cluster.Apply(t.Context(), c.own, changes, cluster.ApplyOptions{})
	if len(report.Failed) != 1 || !apierrors.IsConflict(report.Failed[0].Err) || report.Failed[0].Change.Key.Name != "gitlab-view" || report.Applied != len(changes)-1 {
		t.Errorf("of\n%s%d applied, failures: %v", rbacsync.Text(changes), report.Applied, report.Err())
	}
	c.may(t, false, "gitlab:3", "stale-world", "get", "", "pods")
}

func TestClusterKeepsForeignNamespaces(t *testing.T) {
	c := realCluster(t)
	if _, err := c.admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "mallory"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	snap := org(40, "mallory")
	for i, path := range []string{"Kube-System", "kube_system", "default", "gl-k8s-integrator"} {
		id := int64(41 + i)
		snap.Groups[id] = authz.Group{ID: id, Path: path, Members: []authz.Member{{User: 2, Level: authz.Owner}}}
	}
	r := once(t, newSyncer(t, syncer.Options{Reader: &gitlab{snap: snap}, Kube: c.own}))
	got := slices.Sorted(maps.Values(r.Names))
	want := []string{"default-g43", "gitlab-kube-system-g41", "gitlab-kube-system-g42", "gl-k8s-integrator-g44", "mallory-g40", "mallory-world"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("names (-want +got):\n%s", d)
	}
	for _, ns := range []string{"kube-system", "default", "mallory", "gl-k8s-integrator"} {
		c.may(t, false, "gitlab:2", ns, "get", "", "pods")
	}
}

func TestClusterCIToken(t *testing.T) {
	c := realCluster(t)
	delivered := map[int64]map[string]string{}
	p := ci.Config{
		Kube: c.own, Cluster: ci.Cluster{URL: c.cp.URL(), CA: c.cp.CA()}, Scope: "ICC-K8s", Now: time.Now, Lifetime: time.Hour, Handover: time.Hour,
		Variables: delivery(func(project int64, vars []ci.Variable) {
			if delivered[project] == nil {
				delivered[project] = map[string]string{}
			}
			for _, v := range vars {
				delivered[project][v.Key] = v.Value
			}
		}), Recheck: time.Nanosecond,
	}
	givenUp := false // the key that signed the tokens
	keys := ci.KeysOf(c.own.Discovery().RESTClient())
	p.Keys = func(ctx context.Context) (map[string]bool, error) {
		if givenUp {
			return map[string]bool{"another": true}, nil
		}
		return keys(ctx)
	}
	g := &gitlab{snap: org(50, "ci")}
	s := newSyncer(t, syncer.Options{Reader: g, Kube: c.own, CI: ci.New(p)})
	if r := once(t, s); r.CI.Issued != 2 || r.CI.Delivered != 1 || len(r.Findings) != 0 {
		t.Fatalf("first round: %+v, findings %v", r.CI, r.Findings)
	}
	if r := once(t, s); r.CI.Issued != 0 || r.CI.Delivered != 0 || len(r.Findings) != 0 {
		t.Errorf("second round: %+v, findings %v", r.CI, r.Findings)
	}
	token := delivered[1050]["KUBE_TOKEN"]
	job, err := c.client(c.as(token))
	if err != nil {
		t.Fatal(err)
	}
	work := func() error {
		_, err := job.CoreV1().ConfigMaps(delivered[1050]["KUBE_NAMESPACE"]).List(t.Context(), metav1.ListOptions{})
		return err
	}
	if err := work(); err != nil {
		t.Fatalf("the token that was delivered: %v", err)
	}
	if _, err := job.CoreV1().ConfigMaps("ci").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("in the namespace of the group: %v, want forbidden", err)
	}
	secret, err := c.admin.CoreV1().Secrets("ci-world").Get(t.Context(), kubename.CISecret, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rotate, err := time.Parse(time.RFC3339, secret.Annotations[kubename.AnnotationRotateAt])
	if left := time.Until(rotate); err != nil || left < 44*time.Minute || left > 48*time.Minute {
		t.Errorf("rotation in %v, %v; want 45 to 48 minutes after the issue", left, err)
	}

	// Somebody loses the right to deploy: the old token dies, a new one is delivered, and none is where people can read it.
	group := g.snap.Groups[50]
	group.Members = nil
	g.snap.Groups[50] = group
	if r := once(t, s); r.CI.Issued != 0 || r.CI.Delivered != 1 {
		t.Errorf("after alice left: %+v", r.CI)
	}
	fresh := delivered[1050]["KUBE_TOKEN"]
	if fresh == token {
		t.Fatal("the same token was delivered again")
	}
	deadline := time.Now().Add(20 * time.Second) // kube-apiserver remembers a successful authentication for 10 s
	for err = work(); !apierrors.IsUnauthorized(err); err = work() {
		if time.Now().After(deadline) {
			t.Fatalf("the old token still works: %v", err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	if job, err = c.client(c.as(fresh)); err != nil {
		t.Fatal(err)
	}
	if err := work(); err != nil {
		t.Errorf("the new token: %v", err)
	}

	// The API server has given up the key that signed them: new tokens, delivered again.
	givenUp = true
	if r := once(t, s); r.CI.Issued != 0 {
		t.Errorf("a token that was just made counts as signed by an old key: %+v", r.CI)
	}
	givenUp = false

	// The ServiceAccount is deleted by hand: made anew, and GitLab's token with it.
	if err := c.admin.CoreV1().ServiceAccounts("ci-world").Delete(t.Context(), kubename.CIServiceAccount, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	once(t, s)
	if r := once(t, s); r.CI.Issued != 0 || r.CI.Delivered != 1 {
		t.Errorf("after the ServiceAccount was made anew: %+v", r.CI)
	}
}

// delivery is a VariableWriter that only notes.
type delivery func(project int64, vars []ci.Variable)

func (d delivery) Ensure(_ context.Context, project int64, _ string, vars []ci.Variable, _ *ci.ProjectVariables, _ ci.Claim) (int, error) {
	d(project, vars)
	return len(vars), nil
}

func (delivery) Remove(context.Context, int64, string, []string, ci.Claim) (int, error) {
	return 0, nil
}

func (delivery) Look(context.Context, int64, string) ([]authz.CIVariable, error) { return nil, nil }

func TestClusterOfManyNamespaces(t *testing.T) {
	c := realCluster(t)
	snap := org(60, "many")
	for i := range int64(250) { // more objects than fit on one page of a list
		id := 2000 + i
		snap.Projects[id] = authz.Project{ID: id, Group: 60, Path: fmt.Sprintf("many/p%d", i)}
	}
	s := newSyncer(t, syncer.Options{Reader: &gitlab{snap: snap}, Kube: c.own})
	r := once(t, s)
	t.Logf("%d objects written in %v, %.0f per second", r.Report.Applied, r.Report.Duration, float64(r.Report.Applied)/r.Report.Duration.Seconds())
	if r = once(t, s); len(r.Plan) != 0 {
		t.Errorf("%d changes in the second round", len(r.Plan))
	}
}

// TestClusterPromotes: whoever is promoted or moves between two bindings of a role keeps, on a real API server, what GitLab
// gives before and after, at each moment; whoever is demoted does not keep the more.
func TestClusterPromotes(t *testing.T) {
	c := realCluster(t)
	level := func(l authz.Level, more int64) *authz.Snapshot {
		snap := org(90, "promotes")
		snap.Users = maps.Clone(snap.Users)
		p := snap.Projects[1090]
		p.Members = []authz.Member{{User: 3, Level: l}}
		for u := 100 + more; u < 110; u++ { // others, so that the bindings have shards and people move between them
			snap.Users[u] = authz.User{ID: u, Username: fmt.Sprint("u", u), State: authz.StateActive, Human: true}
			p.Members = append(p.Members, authz.Member{User: u, Level: authz.Developer})
		}
		snap.Projects[1090] = p
		return snap
	}
	g := &gitlab{snap: level(authz.Developer, 0)}
	s := newSyncer(t, syncer.Options{Reader: g, Kube: c.own, Settings: rbacsync.Settings{MaxSubjects: 3}})
	once(t, s)
	slow := newSyncer(t, syncer.Options{Reader: g, Kube: c.own, Settings: rbacsync.Settings{MaxSubjects: 3}, Apply: cluster.ApplyOptions{QPS: 4}})
	const ns = "promotes-world"
	for round := range int64(3) {
		for _, user := range []string{"gitlab:3", "gitlab:105", "gitlab:109"} {
			c.may(t, true, user, ns, "get", "", "pods")
		}
		ctx, cancel := context.WithCancel(t.Context())
		var polling sync.WaitGroup
		for _, user := range []string{"gitlab:3", "gitlab:105", "gitlab:109"} {
			polling.Go(func() { c.keeps(ctx, t, user, ns) })
		}
		g.set(func(g *gitlab) { g.snap = level(authz.Maintainer, 1+round) })
		once(t, slow)
		c.may(t, true, "gitlab:3", ns, "create", "", "pods")
		cancel()
		polling.Wait()
		g.set(func(g *gitlab) { g.snap = level(authz.Developer, 0) })
		once(t, s)
		c.may(t, false, "gitlab:3", ns, "create", "", "pods")
	}
	c.may(t, true, "gitlab:3", ns, "get", "", "pods")
}

// keeps asks until ctx is done whether a person may read pods, which must never be denied.
func (c *testCluster) keeps(ctx context.Context, t *testing.T, user, ns string) {
	t.Helper()
	asked, lacked := 0, 0
	for ctx.Err() == nil {
		r, err := c.admin.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authzv1.SubjectAccessReview{
			Spec: authzv1.SubjectAccessReviewSpec{
				User: user, Groups: []string{"system:authenticated"},
				ResourceAttributes: &authzv1.ResourceAttributes{Namespace: ns, Verb: "get", Resource: "pods"},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			if ctx.Err() == nil {
				t.Errorf("asking about %s: %v", user, err)
			}
			break
		}
		if asked++; !r.Status.Allowed {
			lacked++
		}
		time.Sleep(time.Millisecond)
	}
	if asked == 0 || lacked > 0 { // how many it can ask depends on the machine
		t.Errorf("%s: of %d questions %d were answered with no", user, asked, lacked)
	}
}
