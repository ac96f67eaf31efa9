package app

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabversion"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// estate is a simulated GitLab with one project, which clusters deliver to.
type estate struct {
	t       *testing.T
	sim     *gitlabsim.Server
	project int64
	now     time.Time
}

func newEstate(t *testing.T, version string) *estate {
	t.Helper()
	e := &estate{t: t, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	e.start(version, nil)
	var err error
	root := int64(1)
	if e.project, err = e.sim.World().AddProject(gitlabsim.Project{Path: "app", OwnerID: root}); err != nil {
		t.Fatal(err)
	}
	return e
}

// start runs a GitLab of this version, on the data of another one.
func (e *estate) start(version string, on *gitlabsim.World) {
	e.t.Helper()
	o := gitlabsim.Options{Version: version, World: on, CertificateClusters: true}
	if on == nil {
		o.Seed = []byte("users: [{username: root, admin: true}]")
	}
	sim, err := gitlabsim.New(o)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(sim.Close)
	e.sim = sim
}

// upgrade replaces GitLab by a newer one with the same data.
func (e *estate) upgrade(version string) { e.start(version, e.sim.World()) }

func (e *estate) variables() map[string]gitlabsim.Variable {
	out := map[string]gitlabsim.Variable{}
	e.sim.World().View(func(v *gitlabsim.View) {
		for _, x := range v.Project(e.project).Variables {
			out[x.EnvironmentScope+" "+x.Key] = x
		}
	})
	return out
}

func (e *estate) clusters() (out []gitlabsim.Cluster) {
	e.sim.World().View(func(v *gitlabsim.View) { out = append(out, v.Project(e.project).Clusters...) })
	return out
}

// rename gives a cluster integration another name.
func (e *estate) rename(id int64, name string) {
	e.t.Helper()
	hc := e.sim.Client()
	defer hc.CloseIdleConnections()
	body := strings.NewReader(url.Values{"name": {name}}.Encode())
	req, err := http.NewRequestWithContext(e.t.Context(), http.MethodPut, fmt.Sprintf("%s/api/v4/projects/%d/clusters/%d", e.sim.URL(), e.project, id), body)
	if err != nil {
		e.t.Fatal(err)
	}
	req.Header.Set("PRIVATE-TOKEN", e.sim.TokenFor("root", "api"))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := hc.Do(req)
	if err != nil {
		e.t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK || e.clusters()[0].Name != name {
		e.t.Fatalf("renaming the integration: %s", resp.Status)
	}
}

// value returns the value of a variable of the environment ICC-K8s.
func (e *estate) value(key string) string { return e.variables()["ICC-K8s "+key].Value }

func (e *estate) set(v gitlabsim.Variable) {
	e.t.Helper()
	if err := e.sim.World().SetVariable(e.project, v); err != nil {
		e.t.Fatal(err)
	}
}

// unname makes the marks on all variables those of the version before, which named no cluster.
func (e *estate) unname() {
	e.t.Helper()
	for _, v := range e.variables() {
		if strings.HasPrefix(v.Description, gitlab.Marker) {
			v.Description = gitlab.Marker + ": do not edit"
			e.set(v)
		}
	}
}

// tokenHead starts every token here.
const tokenHead = "eyJhbGciOiJSUzI1NiJ9."

// testCluster is an integrator's delivery in a cluster of its own.
type testCluster struct {
	*estate
	id      string
	kube    *fake.Clientset
	token   int
	life    time.Duration // of tokens
	p       *ci.Provisioner
	moved   string // url, if it has changed
	ca      []byte
	sim     *gitlabsim.Server // the one that p knows
	replace []string
}

func (e *estate) cluster(letter string) *testCluster {
	e.t.Helper()
	c := &testCluster{estate: e, life: 10 * time.Hour, id: "00000000-0000-4000-8000-00000000000" + letter}
	c.kube = fake.NewClientset(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system", UID: types.UID(c.id)}})
	made := 0
	c.kube.PrependReactor("create", "secrets", func(a ktesting.Action) (bool, runtime.Object, error) {
		s, _ := a.(ktesting.CreateAction).GetObject().(*corev1.Secret)
		made++
		s.UID = types.UID(fmt.Sprint("secret-", letter, made)) // the fake gives none
		return false, nil, nil
	})
	c.kube.PrependReactor("create", "serviceaccounts", func(a ktesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "token" {
			return false, nil, nil
		}
		tr, _ := a.(ktesting.CreateAction).GetObject().(*authnv1.TokenRequest)
		c.token++
		body, _ := json.Marshal(map[string]any{
			"n": fmt.Sprint(letter, c.token), "iat": e.now.Unix(), "exp": e.now.Add(c.life).Unix(),
			"kubernetes.io": map[string]any{
				"namespace": a.GetNamespace(), "serviceaccount": map[string]any{"name": kubename.CIServiceAccount, "uid": "sa-" + letter},
				"secret": map[string]any{"name": tr.Spec.BoundObjectRef.Name, "uid": tr.Spec.BoundObjectRef.UID},
			},
		})
		tr.Status.Token = tokenHead + base64.RawURLEncoding.EncodeToString(body) + ".c2ln"
		tr.Status.ExpirationTimestamp = metav1.NewTime(e.now.Add(c.life))
		return true, tr, nil
	})
	return c
}

func (c *testCluster) options() gitlab.Options {
	write := c.estate.sim.TokenFor("root", "api")
	hc := c.estate.sim.Client()
	c.t.Cleanup(hc.CloseIdleConnections)
	return gitlab.Options{
		BaseURL: c.estate.sim.URL(), Token: func() (string, error) { return write, nil }, HTTPClient: hc, NoPacing: true,
		CIVariables: gitlab.CIVariables{Scope: "ICC-K8s", Keys: ci.Keys()},
	}
}

// restart makes a Provisioner that remembers nothing but what is in the cluster.
func (c *testCluster) restart() {
	c.t.Helper()
	vars, err := gitlab.NewVariables(c.options())
	if err != nil {
		c.t.Fatal(err)
	}
	integrations, err := gitlab.NewClusters(c.options())
	if err != nil {
		c.t.Fatal(err)
	}
	c.sim = c.estate.sim
	c.p = ci.New(ci.Config{
		Kube: c.kube, Variables: variables{vars}, Clusters: integration{integrations}, Replaces: c.replace, Scope: "ICC-K8s",
		Cluster:  ci.Cluster{URL: c.url(), CA: c.ca},
		Lifetime: c.life, Handover: time.Hour, Now: func() time.Time { return c.now }, Rate: 1e6,
		Expands: func(ctx context.Context) (bool, error) { return expands(ctx, vars) },
		TooOld:  func(ctx context.Context, mode rbacsync.Delivery) (string, error) { return tooOld(ctx, vars, mode) },
	})
}

// url is where jobs reach the API server.
func (c *testCluster) url() string {
	return cmp.Or(c.moved, "https://k8s-"+c.id[len(c.id)-1:]+".example.com:6443")
}

// pass is a look at the project's namespace some minutes later, after another reading of GitLab, and returns the codes of
// the findings.
func (c *testCluster) pass(mode rbacsync.Delivery, change func(*ci.Namespace)) []string {
	c.t.Helper()
	if c.p == nil || c.sim != c.estate.sim {
		c.restart()
	}
	c.now = c.now.Add(10 * time.Minute)
	reader, err := gitlab.NewReader(c.options())
	if err != nil {
		c.t.Fatal(err)
	}
	s, err := reader.Snapshot(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	variables, read := s.Projects[c.project].CIVariables()
	n := ci.Namespace{
		Name: "app", Source: authz.ProjectID(c.project), Account: types.UID("sa-" + c.id[len(c.id)-1:]), Delivery: mode, Readers: []int64{1}, Read: c.now,
		Projects: []ci.Project{{ID: c.project, Delivery: mode, Bound: true, Variables: variables, VariablesRead: read}},
	}
	if change != nil {
		change(&n)
	}
	c.now = c.now.Add(time.Second)
	var codes []string
	for _, f := range c.p.Provision(c.t.Context(), []ci.Namespace{n}).Findings {
		codes = append(codes, f.Code)
	}
	return codes
}

// expect passes and compares the findings.
func (c *testCluster) expect(mode rbacsync.Delivery, change func(*ci.Namespace), want ...string) {
	c.t.Helper()
	if got := c.pass(mode, change); !slices.Equal(got, want) {
		c.t.Errorf("findings %v, want %v", got, want)
	}
}

// owns reports whether all variables of the environment are what this cluster delivers, and marked so where GitLab can.
func (c *testCluster) owns(marked bool) {
	c.t.Helper()
	all := c.variables()
	if len(all) == 0 || c.value("KUBE_URL") != c.url() {
		c.t.Errorf("cluster %s does not have the project: %v", c.id, slices.Sorted(maps.Keys(all)))
	}
	body, _, _ := strings.Cut(strings.TrimPrefix(c.value("KUBE_TOKEN"), tokenHead), ".")
	var claims struct {
		N string `json:"n"`
	}
	raw, err := base64.RawURLEncoding.DecodeString(body)
	if err == nil {
		err = json.Unmarshal(raw, &claims)
	}
	if letter := c.id[len(c.id)-1:]; err != nil || !strings.HasPrefix(claims.N, letter) {
		c.t.Errorf("the project has a token %q, not one of cluster %s: %v", claims.N, letter, err)
	}
	for key, v := range all {
		delivery := ci.Variable{Key: v.Key, Value: v.Value, File: v.VariableType == "file", Masked: v.Masked, Protected: v.Protected}.Delivery()
		if want := gitlab.Marker + ": cluster " + c.id + ": delivery " + delivery + ": do not edit"; marked && v.Description != want || !marked && v.Description != "" {
			c.t.Errorf("%s is described as %q", key, v.Description)
		}
	}
}

func gone(n *ci.Namespace)    { n.Gone, n.Exists = true, true }
func rotated(n *ci.Namespace) { n.Lost = []int64{9} }
func unread(n *ci.Namespace)  { n.Projects[0].Variables, n.Projects[0].VariablesRead = nil, false }

// TestTwoClustersOnOneGitLab: what one has delivered the other never touches, whether GitLab was read before or not, until it
// is told that it takes its place.
func TestTwoClustersOnOneGitLab(t *testing.T) {
	for name, change := range map[string]func(*ci.Namespace){"read": nil, "unread": unread} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEstate(t, "")
			a, b := e.cluster("a"), e.cluster("b")
			a.expect(rbacsync.DeliverVariables, nil)
			a.owns(true)
			before := e.variables()
			b.expect(rbacsync.DeliverVariables, change, "ci_other_cluster")
			b.restart()
			b.expect(rbacsync.DeliverVariables, func(n *ci.Namespace) {
				rotated(n)
				if change != nil {
					change(n)
				}
			}, "ci_other_cluster")
			b.expect(rbacsync.DeliverNone, change)
			b.expect(rbacsync.DeliverVariables, change, "ci_other_cluster")
			b.expect(rbacsync.DeliverVariables, gone)
			if !maps.Equal(before, e.variables()) {
				t.Errorf("the first cluster's variables were changed to %v", e.variables())
			}
			a.expect(rbacsync.DeliverVariables, rotated)
			a.owns(true)

			b.replace = []string{a.id}
			b.restart()
			b.expect(rbacsync.DeliverVariables, change)
			b.owns(true)
			a.expect(rbacsync.DeliverVariables, rotated, "ci_other_cluster")
			a.expect(rbacsync.DeliverVariables, gone)
			b.owns(true)
			b.expect(rbacsync.DeliverVariables, gone)
			if left := e.variables(); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestFindingOfAnotherCluster says which, and what to do.
func TestFindingOfAnotherCluster(t *testing.T) {
	t.Parallel()
	e := newEstate(t, "")
	a, b := e.cluster("a"), e.cluster("b")
	a.pass(rbacsync.DeliverVariables, nil)
	b.pass(rbacsync.DeliverVariables, nil)
	n := ci.Namespace{Name: "app", Source: authz.ProjectID(e.project), Account: "sa", Delivery: rbacsync.DeliverVariables, Readers: []int64{1}, Projects: []ci.Project{{ID: e.project, Delivery: rbacsync.DeliverVariables}}}
	r := b.p.Provision(t.Context(), []ci.Namespace{n})
	if len(r.Findings) != 1 {
		t.Fatalf("findings %v", r.Findings)
	}
	for _, want := range []string{fmt.Sprint("project ", e.project), "KUBECONFIG, KUBE_NAMESPACE, KUBE_TOKEN, KUBE_URL", a.id, "ci.environment", "cluster.replaces"} {
		if !strings.Contains(r.Findings[0].Text, want) {
			t.Errorf("%q is not in %q", want, r.Findings[0].Text)
		}
	}
}

// TestMarksThatNameNoCluster: after an upgrade of ours, each cluster knows its own by what it delivered, and no other's.
func TestMarksThatNameNoCluster(t *testing.T) {
	t.Parallel()
	t.Run("one cluster", func(t *testing.T) {
		t.Parallel()
		e := newEstate(t, "")
		a := e.cluster("a")
		a.pass(rbacsync.DeliverVariables, nil)
		e.unname()
		a.restart()
		a.expect(rbacsync.DeliverVariables, nil)
		a.owns(true)
	})
	t.Run("two of the version before", func(t *testing.T) {
		t.Parallel()
		e := newEstate(t, "")
		a, b := e.cluster("a"), e.cluster("b")
		a.pass(rbacsync.DeliverVariables, nil)
		b.replace = []string{a.id}
		b.pass(rbacsync.DeliverVariables, nil) // as the version before did without being asked
		e.unname()
		before := e.variables()
		b.replace = nil
		a.restart()
		b.restart()
		a.expect(rbacsync.DeliverVariables, nil, "ci_other_cluster")
		a.expect(rbacsync.DeliverVariables, rotated, "ci_other_cluster")
		a.expect(rbacsync.DeliverVariables, gone)
		if !maps.Equal(before, e.variables()) {
			t.Error("one cluster has overwritten what the other one delivered")
		}
		b.expect(rbacsync.DeliverVariables, nil)
		b.owns(true)
	})
	t.Run("an integrator of the version before overwrites ours", func(t *testing.T) {
		t.Parallel()
		e := newEstate(t, "")
		a := e.cluster("a")
		a.pass(rbacsync.DeliverVariables, nil)
		for _, v := range e.variables() {
			if v.Key == "KUBE_TOKEN" || v.Key == "KUBECONFIG" { // what a rotation writes
				v.Value, v.Description = "that-of-the-other-cluster", gitlab.Marker+": do not edit"
				e.set(v)
			}
		}
		before := e.variables()
		a.expect(rbacsync.DeliverVariables, nil, "ci_other_cluster")
		a.expect(rbacsync.DeliverVariables, rotated, "ci_other_cluster")
		a.restart()
		a.expect(rbacsync.DeliverVariables, nil, "ci_other_cluster")
		if !maps.Equal(before, e.variables()) {
			t.Error("the two overwrite each other")
		}
	})
	t.Run("rebuilt cluster", func(t *testing.T) {
		t.Parallel()
		e := newEstate(t, "")
		e.cluster("a").pass(rbacsync.DeliverVariables, nil)
		e.unname()
		b := e.cluster("b")
		b.expect(rbacsync.DeliverVariables, nil, "ci_other_cluster")
		b.replace = []string{ci.Unnamed}
		b.restart()
		b.expect(rbacsync.DeliverVariables, nil)
		b.owns(true)
	})
}

// TestTwoClustersIntegrations is the same for GitLab's cluster integration.
func TestTwoClustersIntegrations(t *testing.T) {
	t.Parallel()
	e := newEstate(t, "")
	a, b := e.cluster("a"), e.cluster("b")
	a.expect(rbacsync.DeliverCertificate, nil)
	before := e.clusters()
	b.expect(rbacsync.DeliverCertificate, nil, "ci_other_cluster")
	b.expect(rbacsync.DeliverCertificate, rotated, "ci_other_cluster")
	b.expect(rbacsync.DeliverCertificate, gone)
	if !slices.Equal(before, e.clusters()) || !strings.Contains(before[0].Name, a.id) {
		t.Errorf("GitLab has %v", e.clusters())
	}
	a.expect(rbacsync.DeliverCertificate, rotated)

	// The version before named no testCluster, but the API URL tells.
	old := e.clusters()[0]
	e.rename(old.ID, regexp.MustCompile(`\(cluster [^,]*, `).ReplaceAllString(old.Name, "("))
	b.expect(rbacsync.DeliverCertificate, nil, "ci_other_cluster")
	a.restart()
	a.expect(rbacsync.DeliverCertificate, rotated)
	if got := e.clusters(); len(got) != 1 || got[0].APIURL != a.url() || !strings.Contains(got[0].Name, a.id) {
		t.Errorf("after an upgrade GitLab has %v", got)
	}
	b.replace = []string{a.id}
	b.restart()
	b.expect(rbacsync.DeliverCertificate, nil)
	if got := e.clusters(); len(got) != 1 || got[0].APIURL != b.url() || !strings.Contains(got[0].Name, b.id) {
		t.Errorf("GitLab has %v", got)
	}
	a.expect(rbacsync.DeliverCertificate, rotated, "ci_other_cluster")
}

// TestOlderGitLabs: everything that a project is given is delivered, renewed and taken back, and nobody else's variable is
// touched, with and without descriptions, raw and hidden.
func TestOlderGitLabs(t *testing.T) {
	for _, version := range []string{"15.0.5-ee", "15.3.0", "16.1.6-ee", "16.2.0", "17.3.9-ee", "19.1.0-ee"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			e := newEstate(t, version)
			v, _ := gitlabversion.Parse(version)
			marked := v.Has(gitlabversion.VariableDescription)
			a := e.cluster("a")
			e.set(gitlabsim.Variable{Key: "KUBE_TOKEN", Value: "somebodys-own", EnvironmentScope: "*"})
			own := func() {
				t.Helper()
				all := e.variables()
				if all["* KUBE_TOKEN"].Value != "somebodys-own" {
					t.Error("somebody's variable of another scope was touched")
				}
				if err := e.sim.World().RemoveVariable(e.project, "KUBE_TOKEN", "*"); err != nil {
					t.Fatal(err)
				}
				a.owns(marked)
				e.set(all["* KUBE_TOKEN"])
			}
			a.expect(rbacsync.DeliverVariables, nil)
			own()
			first := e.value("KUBE_TOKEN")
			a.restart()
			a.expect(rbacsync.DeliverVariables, nil)
			a.expect(rbacsync.DeliverVariables, rotated)
			if e.value("KUBE_TOKEN") == first {
				t.Error("the token was not renewed")
			}
			own()

			// Somebody puts their own in the place of one of ours: it is left alone, also when everything is renewed and taken back.
			theirs := e.variables()["ICC-K8s KUBE_URL"]
			theirs.Value, theirs.Description = "https://their-own.example.com", ""
			e.set(theirs)
			a.ca = []byte("-----BEGIN CERTIFICATE-----\nnew\n-----END CERTIFICATE-----\n")
			a.moved = a.url() + "0" // so that all is written again
			a.restart()
			a.expect(rbacsync.DeliverVariables, rotated, "ci_foreign_variable")
			a.expect(rbacsync.DeliverVariables, rotated, "ci_foreign_variable")
			if got := e.value("KUBE_URL"); got != theirs.Value {
				t.Errorf("somebody's own KUBE_URL was overwritten with %q", got)
			}
			a.restart()
			a.expect(rbacsync.DeliverVariables, gone)
			left := slices.Sorted(maps.Keys(e.variables()))
			if want := []string{"* KUBE_TOKEN", "ICC-K8s KUBE_URL"}; !slices.Equal(left, want) {
				t.Errorf("after taking back the project has %v, want %v", left, want)
			}
		})
	}
}

// TestOlderGitLabAnotherCluster: without descriptions nothing names a testCluster, but nothing of another one is overwritten.
func TestOlderGitLabAnotherCluster(t *testing.T) {
	t.Parallel()
	e := newEstate(t, "16.1.0")
	a, b := e.cluster("a"), e.cluster("b")
	a.expect(rbacsync.DeliverVariables, nil)
	before := e.variables()
	b.expect(rbacsync.DeliverVariables, nil, "ci_foreign_variable")
	b.restart()
	b.expect(rbacsync.DeliverVariables, rotated, "ci_foreign_variable")
	b.expect(rbacsync.DeliverVariables, gone)
	if !maps.Equal(before, e.variables()) {
		t.Error("the other cluster's variables were changed")
	}
}

// TestGitLabIsUpgraded: what was delivered without a mark is known, and gets one.
func TestGitLabIsUpgraded(t *testing.T) {
	t.Parallel()
	e := newEstate(t, "16.1.0")
	a := e.cluster("a")
	a.expect(rbacsync.DeliverVariables, nil)
	a.owns(false)
	e.upgrade("16.2.0")
	a.expect(rbacsync.DeliverVariables, nil)
	a.owns(true)
}

// TestDeliveryNeedsANewerGitLab: it is refused with the version, and what the project has it keeps.
func TestDeliveryNeedsANewerGitLab(t *testing.T) {
	t.Parallel()
	e := newEstate(t, "15.6.0")
	a := e.cluster("a")
	a.expect(rbacsync.DeliverVariables, nil)
	a.expect(rbacsync.DeliverIDToken, nil, "ci_gitlab_version")
	a.owns(false)
	e.upgrade("15.7.0")
	a.expect(rbacsync.DeliverIDToken, nil)
	if e.value("KUBE_TOKEN") != "" || !strings.Contains(e.value("KUBECONFIG"), ci.IDTokenVariable) {
		t.Errorf("the project has %v", slices.Sorted(maps.Keys(e.variables())))
	}
}
