package ci_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	authnv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const thisCluster = "00000000-0000-4000-8000-00000000000a"

var system = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system", UID: thisCluster}}

// bench is a Provisioner on a fake cluster that grants tokens of ten hours, whatever was asked for.
type bench struct {
	ci.Config
	*ci.Provisioner
	kube     *fake.Clientset
	gitlab   *variables
	clusters *clusters
	refused  string
	context  string
	slugs    int
	changed  []authz.SourceID
	kid      string
	log      *bytes.Buffer
	now      time.Time
	issued   int
	account  types.UID
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{kube: fake.NewClientset(system), gitlab: newVariables(), clusters: &clusters{got: map[int64]string{}}, log: &bytes.Buffer{}, now: start, account: "sa-1"}
	var secrets int
	b.kube.PrependReactor("create", "secrets", func(a ktesting.Action) (bool, runtime.Object, error) {
		s, _ := a.(ktesting.CreateAction).GetObject().(*corev1.Secret)
		secrets++
		s.UID = types.UID(fmt.Sprint("secret-", secrets)) // the fake gives none
		return false, nil, nil
	})
	b.kube.PrependReactor("create", "serviceaccounts", func(a ktesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "token" {
			return false, nil, nil
		}
		tr, _ := a.(ktesting.CreateAction).GetObject().(*authnv1.TokenRequest)
		b.issued++
		tr.Status.Token = b.jwt(a.GetNamespace(), tr.Spec.BoundObjectRef)
		tr.Status.ExpirationTimestamp = metav1.NewTime(b.now.Add(10 * time.Hour))
		return true, tr, nil
	})
	b.restart()
	return b
}

// restart goes on with a Provisioner that remembers nothing, as it was configured first.
func (b *bench) restart() {
	b.Config = b.config()
	b.Provisioner = ci.New(b.Config)
}

// Provision works by what Config says now.
func (b *bench) Provision(ctx context.Context, namespaces []ci.Namespace) ci.Report {
	return b.ProvisionUntil(ctx, namespaces, func() bool { return false })
}

func (b *bench) ProvisionUntil(ctx context.Context, namespaces []ci.Namespace, stop func() bool) ci.Report {
	ci.Configure(b.Provisioner, b.Config)
	return b.ProvisionBeside(ctx, namespaces, ci.Beside{Stop: stop, Changed: func(id authz.SourceID) { b.changed = append(b.changed, id) }})
}

func (b *bench) config() ci.Config {
	return ci.Config{
		Kube: b.kube, Variables: b.gitlab, Clusters: b.clusters, Cluster: ci.Cluster{URL: "https://k8s.example.com:6443", CA: []byte("PEM OF THE CA\n")},
		Scope: "ICC-K8s", Audience: "https://k8s.example.com", Lifetime: 10 * time.Hour, Handover: time.Hour, Now: func() time.Time { return b.now }, Concurrency: 1, Rate: 1e6,
		Agent: &ci.Agent{
			ID: 9, URL: "https://kas.example.com/k8s-proxy/",
			Slug: func(context.Context, int64, string) (string, error) { b.slugs++; return "icc-k8s-abc123", nil },
			Look: func(context.Context) (ci.AgentState, error) {
				return ci.AgentState{Refused: b.refused, Context: b.context}, nil
			},
		},
		Logger: slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

func (b *bench) jwt(ns string, ref *authnv1.BoundObjectReference) string {
	body, _ := json.Marshal(map[string]any{"n": b.issued, "iat": b.now.Unix(), "exp": b.now.Add(10 * time.Hour).Unix(), "kubernetes.io": map[string]any{
		"namespace":      ns,
		"serviceaccount": map[string]any{"name": kubename.CIServiceAccount, "uid": b.account},
		"secret":         map[string]any{"name": ref.Name, "uid": ref.UID},
	}})
	head, _ := json.Marshal(map[string]string{"alg": "RS256", "kid": b.kid})
	return base64.RawURLEncoding.EncodeToString(head) + "." + base64.RawURLEncoding.EncodeToString(body) + ".c2ln"
}

// secrets returns all Secrets of the cluster.
func (b *bench) secrets(t *testing.T) []corev1.Secret {
	t.Helper()
	list, err := b.kube.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

func (b *bench) secret(t *testing.T, ns string) *corev1.Secret {
	t.Helper()
	s, err := b.kube.CoreV1().Secrets(ns).Get(t.Context(), kubename.CISecret, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// works reports whether kube-apiserver would accept a token: what it is bound to is there, and the ServiceAccount too.
func (b *bench) works(t *testing.T, ns, token string) bool {
	t.Helper()
	var claims map[string]json.RawMessage
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return false
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(body, &claims)
	}
	var bound struct {
		Secret  struct{ Name, UID string } `json:"secret"`
		Account struct{ UID string }       `json:"serviceaccount"`
	}
	if err == nil {
		err = json.Unmarshal(claims["kubernetes.io"], &bound)
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := b.kube.CoreV1().Secrets(ns).Get(t.Context(), bound.Secret.Name, metav1.GetOptions{})
	return err == nil && string(s.UID) == bound.Secret.UID && bound.Account.UID == string(b.account)
}

// token returns the token that GitLab has for a project.
func (b *bench) token(project int64) string {
	return b.gitlab.got[project][b.Scope]["KUBE_TOKEN"].Value
}

// variables are projects' variables as GitLab keeps them: by project, scope and key.
type variables struct {
	mu      sync.Mutex
	got     map[int64]map[string]map[string]ci.Variable
	foreign map[int64][]string
	fail    map[int64]error
	calls   int
	writes  int
	unknown int // calls of Ensure that have to list first
	looks   int
	removed []string
	// removing, if set, is called before anything is taken back.
	removing func()
}

func newVariables() *variables {
	return &variables{got: map[int64]map[string]map[string]ci.Variable{}, foreign: map[int64][]string{}, fail: map[int64]error{}}
}

func (v *variables) Ensure(_ context.Context, project int64, scope string, vars []ci.Variable, known *ci.ProjectVariables, _ ci.Claim) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.calls++
	if known == nil {
		v.unknown++
	}
	if err := v.fail[project]; err != nil {
		return 0, err
	}
	if v.got[project] == nil {
		v.got[project] = map[string]map[string]ci.Variable{}
	}
	if v.got[project][scope] == nil {
		v.got[project][scope] = map[string]ci.Variable{}
	}
	var foreign []string
	for _, x := range vars {
		if slices.Contains(v.foreign[project], x.Key) {
			foreign = append(foreign, x.Key)
			continue
		}
		v.got[project][scope][x.Key] = x
		v.writes++
	}
	if foreign != nil {
		return len(vars) - len(foreign), &ci.ForeignError{Project: project, Scope: scope, Keys: foreign}
	}
	return len(vars), nil
}

func (v *variables) Remove(_ context.Context, project int64, scope string, keep []string, _ ci.Claim) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.fail[project]; err != nil {
		return 0, err
	}
	if v.removing != nil {
		v.removing()
	}
	v.removed = append(v.removed, fmt.Sprint(project, " ", scope))
	n := 0
	for key := range v.got[project][scope] {
		if !slices.Contains(keep, key) {
			delete(v.got[project][scope], key)
			n++
		}
	}
	return n, nil
}

// Look counts as a request that finds out.
func (v *variables) Look(_ context.Context, project int64, scope string) ([]authz.CIVariable, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.looks++
	if err := v.fail[project]; err != nil {
		return nil, err
	}
	return slices.DeleteFunc(v.shows(project), func(x authz.CIVariable) bool { return x.Scope != scope }), nil
}

// shows is what GitLab shows of a project's variables.
func (v *variables) shows(project int64) []authz.CIVariable {
	var out []authz.CIVariable
	for scope, vars := range v.got[project] {
		for _, x := range vars {
			out = append(out, authz.CIVariable{Key: x.Key, Scope: scope, File: x.File, Masked: x.Masked, Protected: x.Protected, Raw: true, Marked: true, Cluster: thisCluster, Delivery: x.Delivery()})
		}
	}
	for _, key := range v.foreign[project] {
		out = append(out, authz.CIVariable{Key: key, Scope: "ICC-K8s"})
	}
	slices.SortFunc(out, func(a, b authz.CIVariable) int { return strings.Compare(a.Scope+a.Key, b.Scope+b.Key) })
	return out
}

func (v *variables) keys(project int64, scope string) string {
	return strings.Join(slices.Sorted(maps.Keys(v.got[project][scope])), " ")
}

// clusters is GitLab's cluster integration: by project, what it was given.
type clusters struct {
	got      map[int64]string
	looks    int
	fail     error
	removing func() // as of variables
}

func (c *clusters) Ensure(_ context.Context, project int64, scope string, cluster ci.Cluster, namespace, token string, _ ci.Claim) (bool, error) {
	if c.fail != nil {
		return false, c.fail
	}
	c.got[project] = strings.Join([]string{scope, cluster.URL, namespace, token}, " ")
	return true, nil
}

func (c *clusters) Look(_ context.Context, project int64, scope string, cluster ci.Cluster, namespace string, _ ci.Claim) (string, error) {
	c.looks++
	token, ok := strings.CutPrefix(c.got[project], strings.Join([]string{scope, cluster.URL, namespace, ""}, " "))
	if !ok {
		return "", c.fail
	}
	return c.Mark(token), c.fail
}

func (c *clusters) Mark(token string) string { return "mark of " + token }

func (c *clusters) Remove(_ context.Context, project int64, _ string, _ ci.Cluster, _ ci.Claim) error {
	if c.removing != nil {
		c.removing()
	}
	delete(c.got, project)
	return c.fail
}

var (
	haw   = ci.Namespace{Name: "haw", Source: authz.GroupID(7), Account: "sa-1", Delivery: rbacsync.DeliverVariables}
	world = project("haw-world", 42, rbacsync.DeliverVariables)
)

// project is the namespace of a project that deploys there itself; its Maintainer is person 2.
func project(ns string, id int64, mode rbacsync.Delivery) ci.Namespace {
	return ci.Namespace{
		Name: ns, Source: authz.ProjectID(id), Account: "sa-1", Delivery: mode, Readers: []int64{2}, Read: start.Add(-time.Minute),
		Projects: []ci.Project{{ID: id, Delivery: mode, Bound: true}},
	}
}

// read is the namespace after another reading of GitLab, which shows the variables of its projects.
func (b *bench) read(n ci.Namespace) ci.Namespace {
	n.Read, n.Projects = b.now, slices.Clone(n.Projects)
	for i := range n.Projects {
		n.Projects[i].Variables, n.Projects[i].VariablesRead = b.gitlab.shows(n.Projects[i].ID), true
	}
	return n
}

func expect(t *testing.T, got ci.Report, issued, delivered int, codes ...string) {
	t.Helper()
	var found []string
	for _, f := range got.Findings {
		found = append(found, f.Code)
	}
	if got.Issued != issued || got.Delivered != delivered || !cmp.Equal(found, codes) {
		t.Errorf("issued %d, delivered %d, findings %v; want %d, %d, %v", got.Issued, got.Delivered, got.Findings, issued, delivered, codes)
	}
}

func TestProvisionMakesAndDelivers(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	expect(t, b.Provision(t.Context(), []ci.Namespace{haw, world}), 2, 1)
	s := b.secret(t, "haw-world")
	token := string(s.Data["token"])
	if s.Type != corev1.SecretTypeOpaque || s.Labels[kubename.LabelManagedBy] != kubename.ManagedBy || string(s.Data["namespace"]) != "haw-world" ||
		string(s.Data["ca.crt"]) != "PEM OF THE CA\n" || string(s.Data["expires"]) != "2026-01-02T13:04:05Z" {
		t.Errorf("secret %v %v", s.ObjectMeta, s.Data)
	}
	rotate := map[string]bool{}
	for _, ns := range []string{"haw", "haw-world"} {
		at, err := time.Parse(time.RFC3339, b.secret(t, ns).Annotations[kubename.AnnotationRotateAt])
		if after := at.Sub(start); err != nil || after < 7*time.Hour+30*time.Minute || after > 8*time.Hour {
			t.Errorf("%s is to be rotated at %s, %v; want when 75 to 80 %% of the ten hours that were given are over", ns, at, err)
		}
		rotate[at.String()] = true
	}
	if len(rotate) != 2 {
		t.Error("both tokens are rotated at the same moment")
	}
	if !b.works(t, "haw-world", token) || !b.works(t, "haw-world", b.token(42)) || b.token(42) == token {
		t.Error("want two tokens, one for people in the Secret and one for GitLab, and both work")
	}
	token = b.token(42)
	for _, s := range b.secrets(t) {
		if strings.Contains(fmt.Sprint(s), token) || strings.Contains(string(s.Data["token"]), token) {
			t.Errorf("GitLab's token is in Secret %s", s.Name)
		}
	}
	vars := map[string]ci.Variable{}
	for _, v := range b.gitlab.got[42]["ICC-K8s"] {
		vars[v.Key] = v
		if !v.Protected {
			t.Errorf("%s is not protected", v.Key)
		}
	}
	kubeconfig := vars["KUBECONFIG"]
	delete(vars, "KUBECONFIG")
	if d := cmp.Diff(map[string]ci.Variable{
		"KUBE_URL":         {Key: "KUBE_URL", Value: "https://k8s.example.com:6443", Protected: true},
		"KUBE_CA_PEM":      {Key: "KUBE_CA_PEM", Value: "PEM OF THE CA\n", Protected: true},
		"KUBE_CA_PEM_FILE": {Key: "KUBE_CA_PEM_FILE", Value: "PEM OF THE CA\n", File: true, Protected: true},
		"KUBE_NAMESPACE":   {Key: "KUBE_NAMESPACE", Value: "haw-world", Protected: true},
		"KUBE_TOKEN":       {Key: "KUBE_TOKEN", Value: token, Masked: true, Protected: true},
	}, vars); d != "" {
		t.Errorf("variables (-want +got):\n%s", d)
	}
	config, err := clientcmd.Load([]byte(kubeconfig.Value))
	if err != nil || !kubeconfig.File || kubeconfig.Masked {
		t.Fatalf("KUBECONFIG %v: %v", kubeconfig, err)
	}
	c := config.Contexts[config.CurrentContext]
	if c.Namespace != "haw-world" || config.AuthInfos[c.AuthInfo].Exec == nil || strings.Contains(kubeconfig.Value, token) || string(config.Clusters[c.Cluster].CertificateAuthorityData) != "PEM OF THE CA\n" {
		t.Errorf("KUBECONFIG:\n%s", kubeconfig.Value)
	}
	if strings.Contains(b.log.String(), token) {
		t.Error("the token is in the log")
	}
}

func TestProvisionDoesNothingTwice(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.Provision(t.Context(), []ci.Namespace{haw, world})
	b.kube.ClearActions()
	expect(t, b.Provision(t.Context(), []ci.Namespace{haw, world}), 0, 0)
	if n := len(b.kube.Actions()); n != 0 {
		t.Errorf("%d requests within the time of rechecking", n)
	}
	b.now = b.now.Add(6 * time.Minute)
	expect(t, b.Provision(t.Context(), []ci.Namespace{haw, world}), 0, 0)
	expect(t, ci.New(b.Config).Provision(t.Context(), []ci.Namespace{haw, world}), 0, 0)
	for _, a := range b.kube.Actions() {
		if a.GetVerb() != "get" {
			t.Errorf("%s of something in order", a.GetVerb())
		}
	}
}

func TestProvisionReplacesWhatCanNotWorkAnyMore(t *testing.T) {
	t.Parallel()
	edit := func(f func(*corev1.Secret)) func(*bench, *testing.T) {
		return func(b *bench, t *testing.T) {
			s := b.secret(t, "haw-world")
			f(s)
			if _, err := b.kube.CoreV1().Secrets("haw-world").Update(t.Context(), s, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name              string
		change            func(*bench, *testing.T)
		issued, delivered int
	}{
		{"80 % of the life are over", func(b *bench, _ *testing.T) { b.now = start.Add(8 * time.Hour) }, 1, 1},
		{"just before that", func(b *bench, _ *testing.T) { b.now = start.Add(7*time.Hour + 29*time.Minute) }, 0, 0},
		{"secret deleted", func(b *bench, t *testing.T) {
			if err := b.kube.CoreV1().Secrets("haw-world").Delete(t.Context(), kubename.CISecret, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}, 1, 0},
		{"anchor deleted", func(b *bench, t *testing.T) {
			if err := b.kube.CoreV1().Secrets("haw-world").Delete(t.Context(), kubename.CIAnchor, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}, 0, 1},
		{"secret restored from a backup", edit(func(s *corev1.Secret) { s.UID = "another" }), 1, 0},
		{"token emptied", edit(func(s *corev1.Secret) { s.Data["token"] = nil }), 1, 0},
		{"garbage as token", edit(func(s *corev1.Secret) { s.Data["token"] = []byte("a.b.c") }), 1, 0},
		{"annotation lost", edit(func(s *corev1.Secret) { delete(s.Annotations, kubename.AnnotationRotateAt) }), 1, 0},
		{"records lost, as those of a version before", edit(func(s *corev1.Secret) { delete(s.Annotations, kubename.AnnotationCIProjects) }), 0, 1},
		{"CA changed", func(b *bench, _ *testing.T) { b.Cluster.CA = []byte("ANOTHER") }, 1, 1},
		{"URL changed", func(b *bench, _ *testing.T) { b.Cluster.URL = "https://other" }, 0, 1},
		{"scope changed", func(b *bench, _ *testing.T) { b.Scope = "production" }, 0, 1},
		{"ServiceAccount made anew", func(b *bench, _ *testing.T) { b.account = "sa-2" }, 1, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.Provision(t.Context(), []ci.Namespace{world})
			b.now = b.now.Add(6 * time.Minute)
			tt.change(b, t)
			n := world
			n.Account = b.account
			expect(t, b.Provision(t.Context(), []ci.Namespace{n}), tt.issued, tt.delivered)
			b.now = b.now.Add(6 * time.Minute)
			if tt.name != "just before that" {
				expect(t, b.Provision(t.Context(), []ci.Namespace{n}), 0, 0)
			}
			if !b.works(t, "haw-world", string(b.secret(t, "haw-world").Data["token"])) || !b.works(t, "haw-world", b.token(42)) {
				t.Error("a token does not work")
			}
		})
	}
}

// TestNextIsAhead also when a mode was delivered long ago and something in it changes.
func TestNextIsAhead(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, url := range []string{"https://one", "https://one", "https://two", "https://two"} {
		b.Cluster.URL = url
		if r := b.pass(t, world); !r.Next.After(b.now) {
			t.Errorf("at %s the next look is due at %s", b.now, r.Next)
		}
		b.now = b.now.Add(90 * time.Minute)
	}
}

func TestAFailureIsAFindingAndOthersGoOn(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.gitlab.fail[42] = errors.New("403 Forbidden")
	foreign := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: kubename.CISecret, Namespace: "haw"}, Data: map[string][]byte{"x": nil}}
	if _, err := b.kube.CoreV1().Secrets("haw").Create(t.Context(), foreign, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	other := project("haw-other", 43, rbacsync.DeliverVariables)
	expect(t, b.Provision(t.Context(), []ci.Namespace{haw, world, other}), 2, 1, "ci_token_failed", "ci_delivery_failed")
	if _, ok := b.secret(t, "haw").Data["token"]; ok {
		t.Error("somebody else's Secret was written to")
	}
	b.gitlab.fail = nil
	expect(t, b.Provision(t.Context(), []ci.Namespace{world, other}), 0, 0, "ci_delivery_failed") // not again at once
	b.now = b.now.Add(3 * time.Second)
	expect(t, b.Provision(t.Context(), []ci.Namespace{world, other}), 0, 1)
}

func TestGoneNamespaceLosesTokenAndVariables(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.Provision(t.Context(), []ci.Namespace{haw, world})
	gone, goneGroup := world, haw
	gone.Gone, gone.Exists = true, true
	goneGroup.Gone = true
	for range 2 {
		expect(t, b.Provision(t.Context(), []ci.Namespace{goneGroup, gone}), 0, 0)
	}
	if got := b.gitlab.keys(42, "ICC-K8s"); got != "" || !slices.Equal(b.gitlab.removed, []string{"42 *", "42 ICC-K8s"}) {
		t.Errorf("left in GitLab: %s; removals %v", got, b.gitlab.removed)
	}
	list, err := b.kube.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 0 {
		t.Errorf("%d Secrets left, %v", len(list.Items), err)
	}
	expect(t, b.Provision(t.Context(), []ci.Namespace{world}), 1, 1) // it comes back
}

func TestTokensStayInTheClusterWithoutDelivery(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.Variables, b.Clusters = nil, nil
	expect(t, b.Provision(t.Context(), []ci.Namespace{project("haw-world", 42, rbacsync.DeliverNone)}), 1, 0)
}
