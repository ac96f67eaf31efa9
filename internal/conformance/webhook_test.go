// Package conformance holds the handlers against kube-apiserver's own client. It is a module of its own, so that
// k8s.io/apiserver and all that it needs is no dependency of the program.
package conformance

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/webhook"
	"k8s.io/client-go/rest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn/authntest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

const (
	clientID = "kubelogin"
	audience = "https://k8s.example.com"
)

// front is the webhook as kube-apiserver sees it, with a count of the requests.
type front struct {
	url      string
	ca       []byte
	requests atomic.Int64
	protocol atomic.Value
}

func serve(t *testing.T, h http.Handler) *front {
	t.Helper()
	f := &front{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.requests.Add(1)
		f.protocol.Store(r.Proto)
		h.ServeHTTP(w, r)
	}))
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	s.StartTLS()
	t.Cleanup(s.Close)
	f.url = s.URL
	f.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	return f
}

// apiserver returns the client that kube-apiserver asks webhooks with.
func apiserver(t *testing.T, f *front, version string) *webhook.WebhookTokenAuthenticator {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, f.ca, 0o600); err != nil {
		t.Fatal(err)
	}
	config := &rest.Config{Host: f.url + "/authenticate", TLSClientConfig: rest.TLSClientConfig{CAFile: ca}}
	backoff := wait.Backoff{Duration: time.Millisecond, Factor: 1, Steps: 5} // kube-apiserver: 500 ms
	c, err := webhook.New(config, version, authenticator.Audiences{"https://kubernetes.default.svc"}, backoff)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestKubeAPIServersClient(t *testing.T) {
	gitlab := authntest.New(t)
	now := time.Now()
	gitlab.Now = func() time.Time { return now }
	blocked := func(id int64) (string, bool) {
		if id == 7 {
			return "blocked", true
		}
		return "", false
	}
	projects := func(id int64) authn.ProjectStanding {
		return map[int64]authn.ProjectStanding{20: authn.ProjectServed, 21: authn.ProjectOtherDelivery, 22: authn.ProjectNotServed}[id]
	}
	g, err := authn.New(authn.Config{
		Issuer: gitlab.URL, ClientIDs: []string{clientID}, CIAudience: audience, Environments: []string{"ICC-K8s"},
		HTTPClient: gitlab.Client(), UserState: blocked, Now: gitlab.Now, CIProject: projects,
	})
	if err != nil {
		t.Fatal(err)
	}
	f := serve(t, httpserver.Mux(httpserver.Route{Path: "/authenticate", Handler: authn.Handler(g, nil, nil)}))
	for _, version := range []string{"v1", "v1beta1"} {
		c := apiserver(t, f, version)
		for name, tc := range map[string]struct {
			token string
			want  *user.DefaultInfo
			err   string
		}{
			"person": {token: gitlab.UserToken(42, clientID, nil), want: &user.DefaultInfo{
				Name: "gitlab:42", UID: "42", Groups: []string{"gitlab:users"}, Extra: map[string][]string{kubename.ExtraUsername: {"user42"}},
			}},
			"hostile name": {token: gitlab.UserToken(42, clientID, authntest.Claims{"preferred_username": "\"},\"username\":\"system:admin\u2028\x7f<&"}), want: &user.DefaultInfo{
				Name: "gitlab:42", UID: "42", Groups: []string{"gitlab:users"}, Extra: map[string][]string{kubename.ExtraUsername: {"\"},\"username\":\"system:admin\u2028\x7f<&"}},
			}},
			"job": {token: gitlab.CIToken(20, audience, nil), want: &user.DefaultInfo{
				Name: "gitlab:ci:20", UID: "20", Groups: []string{"gitlab:ci"}, Extra: map[string][]string{
					kubename.ExtraProjectID: {"20"}, kubename.ExtraProject: {"haw/world"}, kubename.ExtraPipeline: {"574"}, kubename.ExtraJob: {"302"},
					kubename.ExtraRef: {"main"}, kubename.ExtraEnv: {"ICC-K8s"}, kubename.ExtraUsername: {"alice"},
				},
			}},
			"not ours":       {token: "opaque"},
			"another token":  {token: "glpat-x", err: "not_an_id_token: the token is a personal, project or group access token"},
			"foreign issuer": {token: gitlab.UserToken(42, clientID, authntest.Claims{"iss": "https://elsewhere.example"})},
			"blocked":        {token: gitlab.UserToken(7, clientID, nil), err: "user_blocked: the GitLab account is blocked"},
			"stranger":       {token: gitlab.CIToken(22, audience, nil), err: "ci_project_not_served: "},
			"unread":         {token: gitlab.CIToken(23, audience, nil), err: "ci_projects_unread: "},
			"expired":        {token: gitlab.UserToken(42, clientID, authntest.Claims{"exp": now.Add(-time.Hour).Unix()}), err: "token_expired: the token expired 1h0m"},
			"environment":    {token: gitlab.CIToken(20, audience, authntest.Claims{"environment": "production"}), err: "ci_wrong_environment: the job's environment is not the configured one"},
		} {
			t.Run(version+" "+name, func(t *testing.T) {
				before := f.requests.Load()
				got, ok, err := c.AuthenticateToken(t.Context(), tc.token)
				if n := f.requests.Load() - before; n != 1 {
					t.Errorf("%d requests, want 1: an answer must not look like an outage", n)
				}
				if text := errorText(err); !strings.HasPrefix(text, tc.err) || (text == "") != (tc.err == "") || ok != (tc.want != nil) {
					t.Fatalf("got ok %t, error %q; want error %q", ok, text, tc.err)
				}
				if tc.want == nil {
					return
				}
				info := got.User.(*user.DefaultInfo)
				if diff := cmp.Diff(tc.want, info); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
				if slices.ContainsFunc(append(info.Groups, info.Name), func(s string) bool { return strings.HasPrefix(s, "system:") }) {
					t.Error("a name of Kubernetes' own")
				}
			})
		}
	}
	if p := f.protocol.Load(); p != "HTTP/2.0" {
		t.Errorf("kube-apiserver's client spoke %v", p)
	}
}

// TestAPIAudiences: with audiences configured the client gets those it asked for, and an identity for others is refused.
func TestAPIAudiences(t *testing.T) {
	gitlab := authntest.New(t)
	g, err := authn.New(authn.Config{Issuer: gitlab.URL, ClientIDs: []string{clientID}, HTTPClient: gitlab.Client()})
	if err != nil {
		t.Fatal(err)
	}
	for served, want := range map[string]bool{"https://kubernetes.default.svc": true, "https://other.example": false} {
		f := serve(t, authn.Handler(g, nil, nil, served))
		got, ok, err := apiserver(t, f, "v1").AuthenticateToken(authenticator.WithAudiences(t.Context(), authenticator.Audiences{"https://kubernetes.default.svc"}), gitlab.UserToken(42, clientID, nil))
		if ok != want || want && !slices.Equal(got.Audiences, authenticator.Audiences{served}) {
			t.Errorf("%s: got %v, %t, %v", served, got, ok, err)
		}
	}
}

// TestOverloadIsNotRepeated: what is over the limit is answered once; with Retry-After, or as 429 or 500, the client
// would ask five times and make the overload worse.
func TestOverloadIsNotRepeated(t *testing.T) {
	busy, release := make(chan struct{}), make(chan struct{})
	slow := authn.Handler(authenticate(func(context.Context, string) (authn.Identity, error) {
		close(busy)
		<-release
		return authn.Identity{}, authn.ErrNotMine
	}), nil, nil)
	over := 0
	f := serve(t, httpserver.Limit(1, func() { over++ }, slow))
	c := apiserver(t, f, "v1")
	first := make(chan error, 1)
	go func() { _, _, err := c.AuthenticateToken(context.WithoutCancel(t.Context()), "first"); first <- err }()
	<-busy
	if _, ok, err := c.AuthenticateToken(t.Context(), "second"); ok || err == nil {
		t.Errorf("got %t, %v", ok, err)
	}
	close(release)
	if err := <-first; err != nil {
		t.Errorf("the running review got %v", err)
	}
	if n := f.requests.Load(); n != 2 || over != 1 {
		t.Errorf("%d requests, %d over the limit; want 2 and 1", n, over)
	}
}

type authenticate func(ctx context.Context, token string) (authn.Identity, error)

func (f authenticate) Authenticate(ctx context.Context, token string) (authn.Identity, error) {
	return f(ctx, token)
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
