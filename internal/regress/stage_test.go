package regress

import (
	"bytes"
	"context"
	cryptorand "crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	authnv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

const secret = "the-secret-of-the-hook"

// key signs the tokens of all simulated GitLabs here; making one takes longer than a test.
var key = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(cryptorand.Reader, 2048) })

// stage is a simulated GitLab, an in-memory API server, and everything of ours between them.
type stage struct {
	*testing.T
	gitlab *gitlabsim.Server
	world  *gitlabsim.World
	kube   *fake.Clientset
	reader *gitlab.Reader
	syncer *syncer.Syncer
	hook   *httptest.Server
	log    bytes.Buffer

	mu        sync.Mutex
	triggered []authz.SourceID
	urls      []string // of all requests to GitLab
	id        map[string]int64
}

// newStage starts with the objects given in the cluster. change may be nil.
func newStage(t *testing.T, change func(*syncer.Options), inCluster ...*corev1.Namespace) *stage {
	t.Helper()
	s := &stage{T: t, kube: fake.NewClientset(), id: map[string]int64{}}
	for _, n := range inCluster {
		_, err := s.kube.CoreV1().Namespaces().Create(t.Context(), n, metav1.CreateOptions{})
		s.ok(err)
	}
	k, err := key()
	s.ok(err)
	s.gitlab, err = gitlabsim.New(gitlabsim.Options{Seed: []byte("users: [{username: root, admin: true}]"), UserKey: k, CIKey: k})
	s.ok(err)
	t.Cleanup(s.gitlab.Close)
	s.world = s.gitlab.World()
	token := s.gitlab.TokenFor("root", "api")
	hc := s.gitlab.Client()
	t.Cleanup(hc.CloseIdleConnections)
	options := gitlab.Options{
		BaseURL: s.gitlab.URL(), Token: func() (string, error) { return token, nil }, NoPacing: true, IncludeUsers: true,
		HTTPClient: &http.Client{Transport: spy{s, hc.Transport}, Timeout: 10 * time.Second}, RetryWait: time.Millisecond, MaxRetries: 1,
	}
	s.reader, err = gitlab.NewReader(options)
	s.ok(err)
	policy, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource, authz.UserSource}})
	s.ok(err)
	logger := slog.New(slog.NewTextHandler(&lockedWriter{s: s}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o := syncer.Options{Reader: s.reader, Kube: s.kube, Policy: policy, Mode: syncer.ModeEnforce, Logger: logger, Now: time.Now}
	if change != nil {
		change(&o)
	}
	s.syncer, err = syncer.New(o)
	s.ok(err)
	s.hook = httptest.NewServer(&gitlab.Hook{
		Secret: func() ([]byte, error) { return []byte(secret), nil }, Now: time.Now, Logger: logger,
		Parse: func(body []byte) ([]authz.SourceID, bool, string, error) {
			e, err := gitlab.ParseSystemHook(body)
			if err == nil && e.Deleted {
				s.reader.Deleted(e.Changed...)
			}
			return e.Changed, e.Ignored, e.Name, err
		},
		Trigger: func(_ context.Context, ids []authz.SourceID, _ string) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.triggered = append(s.triggered, ids...)
			return nil
		},
	})
	t.Cleanup(s.hook.Close)
	return s
}

// spy notes the URLs of requests to GitLab.
type spy struct {
	s    *stage
	next http.RoundTripper
}

func (p spy) RoundTrip(r *http.Request) (*http.Response, error) {
	p.s.mu.Lock()
	p.s.urls = append(p.s.urls, r.URL.String())
	p.s.mu.Unlock()
	return p.next.RoundTrip(r)
}

type lockedWriter struct{ s *stage }

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	return w.s.log.Write(p)
}

func (s *stage) logged() string { s.mu.Lock(); defer s.mu.Unlock(); return s.log.String() }

func (s *stage) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *stage) user(name string) int64 {
	s.Helper()
	id, err := s.world.AddUser(gitlabsim.User{Username: name})
	s.ok(err)
	s.id[name] = id
	return id
}

// group adds a group, with an Owner; parent 0 is the top.
func (s *stage) group(path string, parent int64, owner string) int64 {
	s.Helper()
	id, err := s.world.AddGroup(gitlabsim.Group{Path: path, Name: "n", ParentID: parent})
	s.ok(err)
	if owner != "" {
		if s.id[owner] == 0 {
			s.user(owner)
		}
		s.ok(s.world.SetMember(gitlabsim.KindGroup, id, s.id[owner], gitlabsim.Owner, ""))
	}
	return id
}

// round does a full round, which must succeed.
func (s *stage) round() syncer.Round {
	s.Helper()
	r, err := s.syncer.Once(s.Context(), "test")
	s.ok(err)
	return r
}

// namespace returns the namespace of a source, "" if it has none.
func (s *stage) namespace(id authz.SourceID) string {
	s.Helper()
	list, err := s.kube.CoreV1().Namespaces().List(s.Context(), metav1.ListOptions{})
	s.ok(err)
	for _, n := range list.Items {
		if n.Labels[kubename.LabelManagedBy] == kubename.ManagedBy && n.Labels[kubename.LabelSource] == id.Label() {
			return n.Name
		}
	}
	return ""
}

// holders returns who holds a ClusterRole in a namespace by our bindings.
func (s *stage) holders(namespace, role string) []string {
	s.Helper()
	list, err := s.kube.RbacV1().RoleBindings(namespace).List(s.Context(), metav1.ListOptions{})
	s.ok(err)
	out := []string{}
	for _, b := range list.Items {
		if b.RoleRef.Name == role {
			for _, sub := range b.Subjects {
				out = append(out, sub.Name)
			}
		}
	}
	slices.Sort(out)
	return out
}

func (s *stage) wantHolders(namespace, role string, users ...int64) {
	s.Helper()
	want := []string{}
	for _, u := range users {
		want = append(want, kubename.User(u))
	}
	slices.Sort(want)
	if got := s.holders(namespace, role); !slices.Equal(got, want) {
		s.Errorf("%s in %q is held by %v, want %v", role, namespace, got, want)
	}
}

// untouched fails if a namespace has anything of ours.
func (s *stage) untouched(name string) {
	s.Helper()
	n, err := s.kube.CoreV1().Namespaces().Get(s.Context(), name, metav1.GetOptions{})
	if err != nil {
		s.Errorf("namespace %q: %v", name, err)
		return
	}
	if n.Labels[kubename.LabelManagedBy] != "" || n.Labels[kubename.LabelSource] != "" || n.DeletionTimestamp != nil {
		s.Errorf("namespace %q was marked: %v", name, n.Labels)
	}
	bindings, err := s.kube.RbacV1().RoleBindings(name).List(s.Context(), metav1.ListOptions{})
	s.ok(err)
	accounts, err := s.kube.CoreV1().ServiceAccounts(name).List(s.Context(), metav1.ListOptions{})
	s.ok(err)
	secrets, err := s.kube.CoreV1().Secrets(name).List(s.Context(), metav1.ListOptions{})
	s.ok(err)
	if n := len(bindings.Items) + len(accounts.Items) + len(secrets.Items); n > 0 {
		s.Errorf("namespace %q got %d objects", name, n)
	}
}

// send sends a hook and returns the status of the answer. The hook is then carried out as Run would.
func (s *stage) send(body, token, key string) int {
	s.Helper()
	req, err := http.NewRequestWithContext(s.Context(), http.MethodPost, s.hook.URL, strings.NewReader(body))
	s.ok(err)
	req.Header.Set("X-Gitlab-Event", "System Hook")
	req.Header.Set("X-Gitlab-Token", token)
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := s.hook.Client().Do(req)
	s.ok(err)
	s.ok(resp.Body.Close())
	return resp.StatusCode
}

// took returns what hooks asked to read again, and forgets it.
func (s *stage) took() []authz.SourceID {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.triggered
	s.triggered = nil
	return out
}

func foreign(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// writes counts the writing calls to the API server since the last time, without those for CI credentials.
func (s *stage) writes() (out []string) {
	for _, a := range s.kube.Actions() {
		switch a.GetVerb() {
		case "create", "update", "patch", "delete", "delete-collection":
			out = append(out, fmt.Sprintf("%s %s %s", a.GetVerb(), a.GetResource().Resource, a.GetNamespace()))
		}
	}
	s.kube.ClearActions()
	return out
}

func (s *stage) binding(namespace, name, user string) {
	s.Helper()
	_, err := s.kube.RbacV1().RoleBindings(namespace).Create(s.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Subjects:   []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: user}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
	}, metav1.CreateOptions{})
	s.ok(err)
}

// delivery hands CI variables over as app does.
type delivery struct{ vars *gitlab.Variables }

func (d delivery) Ensure(ctx context.Context, project int64, scope string, vars []ci.Variable, _ *ci.ProjectVariables, claim ci.Claim) (int, error) {
	var want []gitlab.Variable
	for _, v := range vars {
		kind := gitlab.EnvVar
		if v.File {
			kind = gitlab.File
		}
		want = append(want, gitlab.Variable{
			Key: v.Key, Value: v.Value, Type: kind, Masked: v.Masked, Protected: v.Protected, Raw: true,
			EnvironmentScope: scope, Delivery: v.Delivery(), Description: "do not edit",
		})
	}
	return d.vars.Ensure(ctx, project, want, gitlab.Have{}, gitlab.Claim{Cluster: claim.Cluster, Wrote: claim.Wrote})
}

func (d delivery) Remove(ctx context.Context, project int64, scope string, _ []string, claim ci.Claim) (int, error) {
	return d.vars.Remove(ctx, project, []string{scope}, nil, gitlab.Have{}, gitlab.Claim{Cluster: claim.Cluster, Wrote: claim.Wrote})
}

// Look is for what readings don't show for a day.
func (delivery) Look(context.Context, int64, string) ([]authz.CIVariable, error) { return nil, nil }

// repository returns a file of the repository.
func repository(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile("../../" + path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// withTokens makes the in-memory API server answer requests for tokens, and returns where the last one is.
func (s *stage) withTokens() *string {
	last := new(string)
	s.kube.PrependReactor("create", "secrets", func(a ktesting.Action) (bool, runtime.Object, error) {
		sec, _ := a.(ktesting.CreateAction).GetObject().(*corev1.Secret)
		sec.UID = types.UID("secret-" + sec.Namespace) // the fake gives none
		return false, nil, nil
	})
	s.kube.PrependReactor("create", "serviceaccounts", func(a ktesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "token" {
			return false, nil, nil
		}
		tr, _ := a.(ktesting.CreateAction).GetObject().(*authnv1.TokenRequest)
		body := fmt.Sprintf(`{"kubernetes.io":{"namespace":%q,"serviceaccount":{"name":%q},"secret":{"name":%q,"uid":%q}}}`,
			a.GetNamespace(), kubename.CIServiceAccount, tr.Spec.BoundObjectRef.Name, tr.Spec.BoundObjectRef.UID)
		*last = "eyJhbGciOiJSUzI1NiJ9." + base64.RawURLEncoding.EncodeToString([]byte(body)) + ".c2ln"
		tr.Status = authnv1.TokenRequestStatus{Token: *last, ExpirationTimestamp: metav1.NewTime(time.Now().Add(10 * time.Hour))}
		return true, tr, nil
	})
	return last
}

func (s *stage) provisioner() *ci.Provisioner {
	s.Helper()
	s.ok(s.kube.Tracker().Add(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system", UID: "this-cluster"}}))
	write := s.gitlab.TokenFor("root", "api")
	hc := s.gitlab.Client()
	s.Cleanup(hc.CloseIdleConnections)
	vars, err := gitlab.NewVariables(gitlab.Options{
		BaseURL: s.gitlab.URL(), Token: func() (string, error) { return write, nil }, NoPacing: true,
		HTTPClient: &http.Client{Transport: spy{s, hc.Transport}, Timeout: 10 * time.Second}, RetryWait: time.Millisecond, MaxRetries: 1,
	})
	s.ok(err)
	return ci.New(ci.Config{Kube: s.kube, Variables: delivery{vars}, Cluster: ci.Cluster{URL: "https://k8s.example.com:6443"}, Scope: "ICC-K8s", Now: time.Now, Lifetime: 10 * time.Hour, Handover: time.Hour})
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
