package ci_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
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
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// bench is a Provisioner on a fake cluster that grants tokens of ten hours, whatever was asked for.
type bench struct {
	*ci.Provisioner
	kube    *fake.Clientset
	gitlab  *variables
	log     *bytes.Buffer
	now     time.Time
	issued  int
	account types.UID
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{kube: fake.NewClientset(), gitlab: &variables{got: map[int64][]ci.Variable{}, fail: map[int64]error{}}, log: &bytes.Buffer{}, now: start, account: "sa-1"}
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
	b.Provisioner = b.restarted()
	return b
}

// restarted returns a Provisioner that remembers nothing.
func (b *bench) restarted() *ci.Provisioner {
	return &ci.Provisioner{
		Kube: b.kube, Delivery: b.gitlab, Cluster: ci.Cluster{URL: "https://k8s.example.com:6443", CA: []byte("PEM OF THE CA\n")},
		Scope: "ICC-K8s", Now: func() time.Time { return b.now }, Concurrency: 1,
		Logger: slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

func (b *bench) jwt(ns string, ref *authnv1.BoundObjectReference) string {
	body, _ := json.Marshal(map[string]any{"n": b.issued, "kubernetes.io": map[string]any{
		"namespace":      ns,
		"serviceaccount": map[string]any{"name": kubename.CIServiceAccount, "uid": b.account},
		"secret":         map[string]any{"name": ref.Name, "uid": ref.UID},
	}})
	return "eyJhbGciOiJSUzI1NiJ9." + base64.RawURLEncoding.EncodeToString(body) + ".c2ln"
}

func (b *bench) secret(t *testing.T, ns string) *corev1.Secret {
	t.Helper()
	s, err := b.kube.CoreV1().Secrets(ns).Get(t.Context(), kubename.CISecret, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// variables is a Delivery that keeps what it was given.
type variables struct {
	mu        sync.Mutex
	got       map[int64][]ci.Variable
	fail      map[int64]error
	calls     int
	withdrawn []int64
}

func (v *variables) Deliver(_ context.Context, project int64, vars []ci.Variable) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.calls++
	if err := v.fail[project]; err != nil {
		return 0, err
	}
	v.got[project] = vars
	return len(vars), nil
}

func (v *variables) Withdraw(_ context.Context, project int64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.withdrawn = append(v.withdrawn, project)
	return nil
}

var (
	world = ci.Namespace{Name: "haw-world", Source: authz.Project(42), Account: "sa-1"}
	haw   = ci.Namespace{Name: "haw", Source: authz.Group(7), Account: "sa-1"}
)

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
	if got := s.Annotations[kubename.AnnotationRotateAt]; got != "2026-01-02T11:04:05Z" {
		t.Errorf("to be rotated at %s, want after 80 %% of the ten hours that were given", got)
	}
	vars := map[string]ci.Variable{}
	for _, v := range b.gitlab.got[42] {
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
	if c.Namespace != "haw-world" || config.AuthInfos[c.AuthInfo].Token != token || string(config.Clusters[c.Cluster].CertificateAuthorityData) != "PEM OF THE CA\n" {
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
	expect(t, b.restarted().Provision(t.Context(), []ci.Namespace{haw, world}), 0, 0)
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
		{"just before that", func(b *bench, _ *testing.T) { b.now = start.Add(8*time.Hour - time.Second) }, 0, 0},
		{"secret deleted", func(b *bench, t *testing.T) {
			if err := b.kube.CoreV1().Secrets("haw-world").Delete(t.Context(), kubename.CISecret, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}, 1, 1},
		{"secret restored from a backup", edit(func(s *corev1.Secret) { s.UID = "another" }), 1, 1},
		{"token emptied", edit(func(s *corev1.Secret) { s.Data["token"] = nil }), 1, 1},
		{"garbage as token", edit(func(s *corev1.Secret) { s.Data["token"] = []byte("a.b.c") }), 1, 1},
		{"annotation lost", edit(func(s *corev1.Secret) { delete(s.Annotations, kubename.AnnotationRotateAt) }), 1, 1},
		{"CA changed", func(b *bench, _ *testing.T) { b.Cluster.CA = []byte("ANOTHER") }, 1, 1},
		{"URL changed", func(b *bench, _ *testing.T) { b.Cluster.URL = "https://other" }, 0, 1},
		{"scope changed", func(b *bench, _ *testing.T) { b.Scope = "production" }, 0, 1},
		{"unprotected", func(b *bench, _ *testing.T) { b.Unprotected = map[int64]bool{42: true} }, 0, 1},
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
		})
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
	other := ci.Namespace{Name: "haw-other", Source: authz.Project(43)}
	expect(t, b.Provision(t.Context(), []ci.Namespace{haw, world, other}), 2, 1, "ci_token_failed", "ci_delivery_failed")
	if _, ok := b.secret(t, "haw").Data["token"]; ok {
		t.Error("somebody else's Secret was written to")
	}
	b.gitlab.fail = nil
	expect(t, b.Provision(t.Context(), []ci.Namespace{world, other}), 0, 1)
}

func TestRotateNamespaceKillsTheOldToken(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.Provision(t.Context(), []ci.Namespace{world})
	old := b.secret(t, "haw-world")
	if err := b.RotateNamespace(t.Context(), world); err != nil {
		t.Fatal(err)
	}
	now := b.secret(t, "haw-world")
	if now.UID == old.UID || string(now.Data["token"]) == string(old.Data["token"]) {
		t.Error("the token is still bound to a Secret that exists")
	}
	if b.gitlab.calls != 2 {
		t.Errorf("%d deliveries, want 2", b.gitlab.calls)
	}
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
	if d := cmp.Diff([]int64{42}, b.gitlab.withdrawn); d != "" {
		t.Errorf("withdrawn (-want +got):\n%s", d)
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
	b.Delivery = nil
	expect(t, b.Provision(t.Context(), []ci.Namespace{world}), 1, 0)
}
