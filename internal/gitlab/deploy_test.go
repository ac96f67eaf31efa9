package gitlab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

func (o *org) writeOptions(user string) Options {
	token := o.sim.TokenFor(user, "api")
	opts := o.options()
	opts.Token = func() (string, error) { return token, nil }
	return opts
}

func (o *org) clusters(user string) *Clusters {
	w, err := NewClusters(o.writeOptions(user))
	o.ok(err)
	return w
}

func (o *org) clustersOf(project string) (out []gitlabsim.Cluster) {
	o.w.View(func(v *gitlabsim.View) { out = append(out, v.Project(o.id[project]).Clusters...) })
	return out
}

const clusterToken = "eyJhbGciOiJSUzI1NiJ9.hunter2.c2lnbmF0dXJl"

func wantedCluster() ProjectCluster {
	return ProjectCluster{Name: "haw-world", Scope: "ICC-K8s", APIURL: "https://k8s.example.com:6443", Namespace: "haw-world", Token: clusterToken}
}

func TestClusters(t *testing.T) {
	o := newOrg(t)
	o.sim.SetCertificateClusters(true)
	ctx, app, w := t.Context(), o.id["app"], o.clusters("root")
	want := wantedCluster()
	step := func(name string, changed bool, check func(gitlabsim.Cluster) bool) {
		t.Helper()
		got, err := w.Ensure(ctx, app, want, us)
		cs := o.clustersOf("app")
		if got != changed || err != nil || len(cs) != 1 || cs[0].Managed || !cs[0].Enabled || !check(cs[0]) {
			t.Fatalf("%s: Ensure = %v, %v; GitLab has %d integrations", name, got, err, len(cs))
		}
	}
	step("create", true, func(c gitlabsim.Cluster) bool {
		return c.Token == want.Token && c.Namespace == "haw-world" && c.EnvironmentScope == "ICC-K8s" && c.APIURL == want.APIURL && c.Auth == "rbac"
	})
	step("again", false, func(gitlabsim.Cluster) bool { return true })
	want.Token += "2"
	step("rotated", true, func(c gitlabsim.Cluster) bool { return c.Token == want.Token })
	want.APIURL = "https://other.example.com"
	step("another URL", true, func(c gitlabsim.Cluster) bool { return c.APIURL == want.APIURL })
	step("again", false, func(gitlabsim.Cluster) bool { return true })
	if n, err := w.Remove(ctx, app, []string{"other"}, wantedCluster().APIURL, us); n != 0 || err != nil {
		t.Errorf("Remove of another scope = %d, %v", n, err)
	}
	if n, err := w.Remove(ctx, app, []string{"ICC-K8s"}, wantedCluster().APIURL, us); n != 1 || err != nil || len(o.clustersOf("app")) != 0 {
		t.Errorf("Remove = %d, %v", n, err)
	}
	if n, err := w.Remove(ctx, 4711, []string{"ICC-K8s"}, wantedCluster().APIURL, us); n != 0 || err != nil {
		t.Errorf("Remove in a vanished project = %d, %v", n, err)
	}
}

func TestClusterOfSomebodyElse(t *testing.T) {
	o := newOrg(t)
	o.sim.SetCertificateClusters(true)
	ctx, app, w := t.Context(), o.id["app"], o.clusters("root")
	foreign := wantedCluster()
	o.ok(w.api.do(ctx, "", http.MethodPost, fmt.Sprintf("projects/%d/clusters/user", app), nil, map[string]any{
		"name": "my own", "environment_scope": foreign.Scope, "platform_kubernetes_attributes": map[string]any{"api_url": "https://mine.example.com", "token": "mine"},
	}, nil))
	_, err := w.Ensure(ctx, app, foreign, us)
	var fe *ForeignClusterError
	if !errors.As(err, &fe) || fe.Scope != foreign.Scope || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("Ensure: %v", err)
	}
	if n, err := w.Remove(ctx, app, []string{foreign.Scope}, wantedCluster().APIURL, us); n != 0 || err != nil || o.clustersOf("app")[0].Token != "mine" {
		t.Errorf("Remove = %d, %v", n, err)
	}
}

func TestClusterRefusals(t *testing.T) {
	o := newOrg(t)
	ctx, app := t.Context(), o.id["app"]
	if _, err := o.clusters("root").Ensure(ctx, app, wantedCluster(), us); !errors.Is(err, ErrCertificateOff) {
		t.Errorf("feature off: %v", err)
	}
	if n, err := o.clusters("root").Remove(ctx, app, []string{"ICC-K8s"}, wantedCluster().APIURL, us); n != 0 || err != nil {
		t.Errorf("feature off: Remove = %d, %v", n, err)
	}
	o.sim.SetCertificateClusters(true)
	for _, tt := range []struct {
		name, user string
		project    int64
		change     func(*ProjectCluster)
		want       error
	}{
		{"local network", "root", app, func(c *ProjectCluster) { c.APIURL = "https://10.1.2.3:6443" }, ErrClusterURL},
		{"loopback", "root", app, func(c *ProjectCluster) { c.APIURL = "https://127.0.0.1:6443" }, ErrClusterURL},
		{"bad CA", "root", app, func(c *ProjectCluster) { c.CA = "nonsense" }, ErrClusterRefused},
		{"developer", "bob", app, func(*ProjectCluster) {}, ErrNoMaintainer},
		{"stranger", "erin", app, func(*ProjectCluster) {}, ErrNotFound},
		{"no project", "root", 4711, func(*ProjectCluster) {}, ErrNotFound},
	} {
		c := wantedCluster()
		tt.change(&c)
		changed, err := o.clusters(tt.user).Ensure(ctx, tt.project, c, us)
		if changed || !errors.Is(err, tt.want) || errors.Is(err, ErrCertificateOff) {
			t.Errorf("%s: Ensure = %v, %v; want %v", tt.name, changed, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the token is in %q", tt.name, err)
		}
	}
	if s := fmt.Sprintf("%v %+v %#v", wantedCluster(), wantedCluster(), wantedCluster()); strings.Contains(s, "hunter2") {
		t.Errorf("printing shows the token: %s", s)
	}
	// A server that echoes what it was sent can't make us log it.
	inner := o.writeOptions("root")
	hc := *inner.HTTPClient
	hc.Transport = &fault{next: hc.Transport, strike: func(r *http.Request, body string) *http.Response {
		if r.Method == http.MethodPost {
			return answer(400, `{"message":{"token":["`+clusterToken+` is bad"]}}`)
		}
		return nil
	}}
	inner.HTTPClient = &hc
	w, err := NewClusters(inner)
	o.ok(err)
	if _, err := w.Ensure(ctx, app, wantedCluster(), us); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("echoed: %v", err)
	}
}

func (o *org) environments(user string) *Environments {
	w, err := NewEnvironments(o.writeOptions(user))
	o.ok(err)
	return w
}

func TestEnvironmentSlug(t *testing.T) {
	o := newOrg(t)
	ctx, w := t.Context(), o.environments("root")
	slug, err := w.Slug(ctx, o.id["app"], "ICC-K8s")
	if err != nil || !strings.HasPrefix(slug, "icc-k8s-") || len(slug) != len("icc-k8s-123456") {
		t.Fatalf("Slug = %q, %v", slug, err)
	}
	env, err := o.w.EnsureEnvironment(o.id["app"], "ICC-K8s") // what a job would do
	o.ok(err)
	again, err := w.Slug(ctx, o.id["app"], "ICC-K8s")
	if err != nil || again != slug || env.Slug != slug || o.sim.Requests()["POST /projects/:id/environments"] != 1 {
		t.Errorf("Slug = %q, %v; the job's is %q", again, err, env.Slug)
	}
	if _, err := w.Slug(ctx, 4711, "ICC-K8s"); !errors.Is(err, ErrNotFound) {
		t.Errorf("no project: %v", err)
	}
	if _, err := o.environments("erin").Slug(ctx, o.id["app"], "ICC-K8s"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a stranger: %v", err)
	}
}

func TestImpersonation(t *testing.T) {
	ask := func(o *org, user string) (bool, string, error) {
		return o.environments(user).Impersonation(context.Background())
	}
	o := newOrg(t)
	for plan, want := range map[string]bool{"": false, "starter": false, "premium": true, "ultimate": true} {
		o.sim.SetLicense(plan, false)
		if ok, why, err := ask(o, "root"); ok != want || err != nil || (why == "") != want {
			t.Errorf("plan %q: %v, %q, %v", plan, ok, why, err)
		}
	}
	o.sim.SetLicense("ultimate", true)
	if ok, why, err := ask(o, "root"); ok || err != nil || !strings.Contains(why, "expired") {
		t.Errorf("expired: %v, %q, %v", ok, why, err)
	}
	if ok, _, err := ask(o, "alice"); ok || !errors.Is(err, ErrForbidden) {
		t.Errorf("not an administrator: %v, %v", ok, err)
	}
	if ok, why, err := ask(newOrgOf(t, "19.1.0"), "root"); ok || err != nil || !strings.Contains(why, "Community") {
		t.Errorf("Community Edition: %v, %q, %v", ok, why, err)
	}
}

func TestAgent(t *testing.T) {
	o := newOrg(t)
	id, err := o.w.AddAgent(o.id["app"], "icc")
	o.ok(err)
	got, err := o.environments("root").Agent(t.Context(), o.id["app"], id)
	o.ok(err)
	if d := cmp.Diff(Agent{ID: id, Name: "icc", ConfigProject: "haw/world/app"}, got); d != "" || got.Context() != "haw/world/app:icc" {
		t.Errorf("context %q (-want +got)\n%s", got.Context(), d)
	}
	for name, err := range map[string]error{
		"no such agent":   second(o.environments("root").Agent(t.Context(), o.id["app"], id+1)),
		"another project": second(o.environments("root").Agent(t.Context(), o.id["lib"], id)),
	} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
