package app

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn/authntest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/keystore"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
)

// asked counts the reviews by what they were answered.
type asked struct {
	mu       sync.Mutex
	codes    map[authn.Code]int
	versions map[string]int
}

func (a *asked) observe(r authn.Review) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.codes[r.Code]++
}

func (a *asked) times(code authn.Code) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.codes[code]
}

// TestRealAPIServerAndWebhook logs in to a real kube-apiserver with good and hostile tokens, each three times, and
// counts how often the webhook was asked: an identity and a foreign token are remembered, a refusal never.
func TestRealAPIServerAndWebhook(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: needs a control plane")
	}
	for _, version := range []string{"v1", "v1beta1"} {
		t.Run(version, func(t *testing.T) { realAPIServer(t, version) })
	}
}

func realAPIServer(t *testing.T, version string) {
	gitlab := authntest.New(t)
	gitlab.Now = func() time.Time { return time.Now().Add(-time.Second) }
	gl, err := authn.New(authn.Config{
		Issuer: gitlab.URL, ClientIDs: []string{"kubelogin"}, CIAudience: "https://k8s.example.com", Environments: []string{"ICC-K8s"},
		HTTPClient: gitlab.Client(), UserState: func(id int64) (string, bool) { return "blocked", id == 7 },
		CIProject: func(id int64) authn.ProjectStanding {
			return map[int64]authn.ProjectStanding{20: authn.ProjectServed, 22: authn.ProjectNotServed}[id]
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	count := &asked{codes: map[authn.Code]int{}, versions: map[string]int{}}
	cluster := startWithWebhook(t, controlplane.Options{AuthnVersion: version}, authn.Handler(gl, nil, count.observe), count)

	user := func(changes authntest.Claims) string { return gitlab.UserToken(42, "kubelogin", changes) }
	job := func(changes authntest.Claims) string { return gitlab.CIToken(20, "https://k8s.example.com", changes) }
	past := time.Now().Add(-time.Hour).Unix()
	for _, tc := range []struct {
		token string
		code  authn.Code // of its own, so that it can be counted
		name  string     // empty: refused
		asked int        // for three requests
	}{
		{user(nil), authn.CodeOK, "gitlab:42", 1},
		{job(nil), authn.CodeOK, "gitlab:ci:20", 1},
		{"opaque", authn.CodeNotJWT, "", 1},
		{user(authntest.Claims{"iss": "https://elsewhere.example"}), authn.CodeForeignIssuer, "", 1},
		{gitlab.UserToken(7, "kubelogin", nil), authn.CodeUserBlocked, "", 3},
		{user(authntest.Claims{"exp": past, "iat": past}), authn.CodeTokenExpired, "", 3},
		{user(authntest.Claims{"aud": "another"}), authn.CodeWrongAudience, "", 3},
		{user(authntest.Claims{"sub": "system:admin"}), authn.CodeUserSubject, "", 3},
		{authntest.Sign(authntest.Key{ID: gitlab.UserKey.ID, Private: gitlab.CIKey.Private}, gitlab.UserClaims(1, "kubelogin", nil)), authn.CodeBadSignature, "", 3},
		{gitlab.CIToken(20, "kubelogin", nil), authn.CodeUserIsCIToken, "", 3},
		{job(authntest.Claims{"environment": "production"}), authn.CodeCIWrongEnvironment, "", 3},
		{job(authntest.Claims{"ref_protected": "false"}), authn.CodeCIRefUnprotected, "", 3},
		{gitlab.CIToken(22, "https://k8s.example.com", nil), authn.CodeCIProjectNotServed, "", 3},
		{gitlab.CIToken(999999, "https://k8s.example.com", nil), authn.CodeCIProjectsUnread, "", 3},
		{job(authntest.Claims{"job_project_id": "21"}), authn.CodeCIForkMergeRequest, "", 3},
	} {
		before := count.times(tc.code)
		for range 3 {
			who, err := whoAmI(t, cluster, tc.token)
			switch {
			case tc.name == "" && !apierrors.IsUnauthorized(err):
				t.Errorf("%s: got %v, %v", tc.code, who, err)
			case tc.name != "" && (err != nil || who.Username != tc.name || !slices.Contains(who.Groups, "system:authenticated")):
				t.Errorf("%s: got %v, %v", tc.name, who, err)
			case tc.name == "gitlab:ci:20" && (who.UID != "20" || !slices.Contains(who.Groups, kubename.GroupCI) || len(who.Extra[kubename.ExtraEnv]) != 1):
				t.Errorf("%s: got %+v", tc.name, who)
			}
		}
		if n := count.times(tc.code) - before; n != tc.asked {
			t.Errorf("%s: the webhook was asked %d times for three requests, want %d", tc.code, n, tc.asked)
		}
	}
	count.mu.Lock()
	if len(count.versions) != 1 || count.versions["authentication.k8s.io/"+version] == 0 {
		t.Errorf("kube-apiserver asked in %v", count.versions)
	}
	count.mu.Unlock()
	if version == "v1" {
		keysInTheCluster(t, cluster, gitlab, gl)
	}
}

// startWithWebhook starts a control plane that asks h about tokens, over TLS with client certificates; about refusals, too,
// if the options have an AuthzWebhook, which is filled in here.
func startWithWebhook(t *testing.T, o controlplane.Options, h http.Handler, count *asked) *controlplane.Cluster {
	t.Helper()
	authority, err := localcert.NewAuthority("webhook")
	if err != nil {
		t.Fatal(err)
	}
	server, err := authority.Server("webhook")
	if err != nil {
		t.Fatal(err)
	}
	client, err := authority.Client("kube-apiserver")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	s, err := httpserver.New(httpserver.Options{
		Name: "webhooks", Address: "127.0.0.1:0", CertFile: file("tls.crt", server.Cert), KeyFile: file("tls.key", server.Key),
		ClientCAFile: file("ca.crt", authority.PEM), DemandClientCert: true,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body := &peekedBody{ReadCloser: r.Body}
			r.Body = body
			h.ServeHTTP(w, r)
			var review metav1.TypeMeta
			if json.Unmarshal(body.read, &review) == nil {
				count.mu.Lock()
				count.versions[review.APIVersion]++
				count.mu.Unlock()
			}
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	hook := controlplane.Webhook{URL: s.URL() + "/authenticate", CA: authority.PEM, ClientCert: client.Cert, ClientKey: client.Key}
	o.AuthnWebhook = &hook
	if o.AuthzWebhook != nil {
		explains := hook
		explains.URL = s.URL() + "/authorize"
		o.AuthzWebhook = &explains
	}
	cluster, err := controlplane.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Stop(); err != nil {
			t.Error(err)
		}
	})
	return cluster
}

// peekedBody keeps what was read.
type peekedBody struct {
	io.ReadCloser
	read []byte
}

func (b *peekedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.read = append(b.read, p[:n]...)
	return n, err
}

// clientWith returns a client with a bearer token; kube-apiserver closes its connections in the end.
func clientWith(t *testing.T, cluster *controlplane.Cluster, token string) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfig(&rest.Config{
		Host: cluster.URL(), BearerToken: token, QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAData: cluster.CA()},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// whoAmI is `kubectl auth whoami`.
func whoAmI(t *testing.T, cluster *controlplane.Cluster, token string) (authenticationv1.UserInfo, error) {
	t.Helper()
	got, err := clientWith(t, cluster, token).AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return authenticationv1.UserInfo{}, err
	}
	return got.Status.UserInfo, nil
}

// keysInTheCluster: the integrator's own ServiceAccount, in its cage, can keep GitLab's keys and take them up again.
func keysInTheCluster(t *testing.T, cluster *controlplane.Cluster, gitlab *authntest.Issuer, gl *authn.GitLab) {
	t.Helper()
	if err := deploy.Apply(t.Context(), cluster.AdminConfig()); err != nil {
		t.Fatal(err)
	}
	admin, err := kubernetes.NewForConfig(cluster.AdminConfig())
	if err != nil {
		t.Fatal(err)
	}
	own, err := admin.CoreV1().ServiceAccounts(deploy.Namespace).CreateToken(t.Context(), deploy.ServiceAccount, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	restarted, err := authn.New(authn.Config{Issuer: gitlab.URL, ClientIDs: []string{"kubelogin"}, HTTPClient: gitlab.Client()})
	if err != nil {
		t.Fatal(err)
	}
	gitlab.SetDown(true)
	store := func(a *authn.GitLab) *keystore.Store {
		return keystore.New(keystore.Options{Kube: clientWith(t, cluster, own.Status.Token), Auth: a, Origin: gitlab.URL, MaxAge: time.Hour, Logger: slog.New(slog.DiscardHandler)})
	}
	jwks, fetched := gl.Keys()
	for range 2 { // created, then updated
		if err := store(gl).Write(t.Context(), jwks, fetched); err != nil {
			t.Fatal(err)
		}
	}
	if err := store(restarted).Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	if id, err := restarted.Authenticate(t.Context(), gitlab.UserToken(42, "kubelogin", nil)); err != nil || id.Username != "gitlab:42" {
		t.Errorf("after a restart: %v, %v", id, err)
	}
	if s, err := admin.CoreV1().Secrets(deploy.Namespace).Get(t.Context(), keystore.Secret, metav1.GetOptions{}); err != nil || strings.Contains(string(s.Data[keystore.FieldJWKS]), `"d":`) {
		t.Errorf("got %v, or a private key is in it", err)
	}
}
