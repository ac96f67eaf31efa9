package kubectlgitlab

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

// tokenOf makes a token that says it is by that issuer, with a signature that tests look for.
func tokenOf(issuer string) string {
	part := func(v any) string {
		text, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(text)
	}
	return part(map[string]string{"alg": "RS256"}) + "." + part(map[string]any{"iss": issuer, "exp": time.Now().Add(time.Hour).Unix()}) + ".c2lnbmF0dXJl"
}

// recorder is a server that keeps what it was sent.
type recorder struct {
	*httptest.Server
	mu   sync.Mutex
	seen []*http.Request
}

func record(t *testing.T, tls bool, answer http.HandlerFunc) *recorder {
	t.Helper()
	r := &recorder{}
	h := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		r.mu.Lock()
		r.seen = append(r.seen, req)
		r.mu.Unlock()
		answer(w, req)
	})
	if tls {
		r.Server = httptest.NewTLSServer(h)
	} else {
		r.Server = httptest.NewServer(h)
	}
	t.Cleanup(r.Close)
	return r
}

func (r *recorder) requests() []*http.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen
}

func (r *recorder) ca() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw})
}

// leakWorld is a kubeconfig for a recorded API server, with a server of ours that is recorded too.
type leakWorld struct {
	api, ours *recorder
	user      string // of the kubeconfig, YAML
	server    string // in the extension
	issuer    string // there
}

func (w leakWorld) kubeconfig(t *testing.T) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "config"), fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: icc/haw-world
contexts: [{name: icc/haw-world, context: {cluster: icc, user: icc, namespace: haw-world}}]
users: [{name: icc, user: %s}]
clusters:
- name: icc
  cluster:
    server: %s
    certificate-authority-data: %s
    extensions:
    - name: gl-k8s-integrator
      extension: {server: %q, issuer: %q, certificateAuthorityData: %s, later: [1]}
`, w.user, w.api.URL, base64.StdEncoding.EncodeToString(w.api.ca()), w.server, w.issuer, base64.StdEncoding.EncodeToString(w.ours.ca())))
}

const testIssuer = "https://gitlab.example.com"

func newLeakWorld(t *testing.T) leakWorld {
	t.Helper()
	api := record(t, true, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"status": {"userInfo": {"username": "gitlab:2"}}}`)
	})
	ours := record(t, true, func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(webapi.Identity{ID: 2, Username: "alice", Name: "Alice Adams"})
	})
	return leakWorld{api: api, ours: ours, user: "{token: " + tokenOf(testIssuer) + "}", server: ours.URL, issuer: testIssuer}
}

// TestWhereATokenGoes: to kube-apiserver always, as kubectl sends it there; to our server only where the kubeconfig says, in
// TLS, if GitLab made it. What must not go there is the rest of the kubeconfig.
func TestWhereATokenGoes(t *testing.T) {
	exec := func(t *testing.T, token string, more string) string {
		dir := t.TempDir()
		script := write(t, filepath.Join(dir, "plugin"), "#!/bin/sh\necho '"+`{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"`+token+`"}}`+"'\n")
		if err := os.Chmod(script, 0o700); err != nil {
			t.Fatal(err)
		}
		return `{exec: {apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never, command: ` + script + `, args: [` + more + `]}}`
	}
	elsewhere := record(t, true, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") })
	for name, c := range map[string]struct {
		change func(t *testing.T, w *leakWorld)
		args   []string
		asked  bool // our server is
		says   string
	}{
		"a token of GitLab":         {asked: true, says: "Alice Adams"},
		"of the credential plug-in": {change: func(t *testing.T, w *leakWorld) { w.user = exec(t, tokenOf(testIssuer), "") }, asked: true, says: "Alice Adams"},
		"the issuer of kubelogin's arguments": {change: func(t *testing.T, w *leakWorld) {
			w.issuer, w.user = "", exec(t, tokenOf(testIssuer), "get-token, --oidc-issuer-url="+testIssuer)
		}, asked: true, says: "Alice Adams"},
		"nobody says which issuer": {change: func(_ *testing.T, w *leakWorld) { w.issuer = "" }, says: "gitlab:2"},
		"a token of somebody else": {change: func(_ *testing.T, w *leakWorld) {
			w.user = "{token: " + tokenOf("https://kubernetes.default.svc") + "}"
		}, says: "gitlab:2"},
		"an issuer that begins alike": {change: func(_ *testing.T, w *leakWorld) { w.user = "{token: " + tokenOf(testIssuer+".evil.example.com") + "}" }, says: "gitlab:2"},
		"a token that is no JWT":      {change: func(_ *testing.T, w *leakWorld) { w.user = "{token: k8s-aws-v1.c2lnbmF0dXJl}" }, says: "gitlab:2"},
		"another cloud's plug-in":     {change: func(t *testing.T, w *leakWorld) { w.user = exec(t, "k8s-aws-v1.c2lnbmF0dXJl", "") }, says: "gitlab:2"},
		"a password":                  {change: func(_ *testing.T, w *leakWorld) { w.user = "{username: alice, password: c2lnbmF0dXJl}" }, says: "gitlab:2"},
		"nothing":                     {change: func(_ *testing.T, w *leakWorld) { w.user = "{}" }, says: "gitlab:2"},
		"impersonation":               {change: func(_ *testing.T, w *leakWorld) { w.user = "{as: bob, token: " + tokenOf(testIssuer) + "}" }, says: "impersonates bob"},
		"no server":                   {change: func(_ *testing.T, w *leakWorld) { w.server = "" }, says: "gitlab:2"},
		"http":                        {change: func(_ *testing.T, w *leakWorld) { w.server = "http://access.example.com" }, says: "tokens go to https addresses only"},
		"a CA that did not sign it":   {change: func(t *testing.T, w *leakWorld) { w.server = elsewhere.URL; w.ours = record(t, true, nil) }, args: []string{"--server-ca", foreignCA(t)}, says: "certificate"},
		"a redirect": {change: func(t *testing.T, w *leakWorld) {
			w.ours = record(t, true, func(rw http.ResponseWriter, r *http.Request) {
				http.Redirect(rw, r, elsewhere.URL, http.StatusTemporaryRedirect)
			})
			w.server = w.ours.URL
		}, asked: true, says: "sends the request on to"},
		"a server by flag, whose CA is not named": {change: func(_ *testing.T, w *leakWorld) { w.server = elsewhere.URL }, args: []string{"--server=$OURS"}, says: "certificate"},
		"by flag": {change: func(_ *testing.T, w *leakWorld) { w.server = elsewhere.URL }, args: []string{"--server=$OURS", "--server-ca=$CA"}, asked: true, says: "Alice Adams"},
		"by environment": {change: func(t *testing.T, w *leakWorld) {
			t.Setenv(serverEnv, w.ours.URL)
			t.Setenv(serverCAEnv, write(t, filepath.Join(t.TempDir(), "ca.crt"), string(w.ours.ca())))
			w.server = elsewhere.URL
		}, asked: true, says: "Alice Adams"},
		"by environment, with http": {change: func(t *testing.T, _ *leakWorld) { t.Setenv(serverEnv, "http://access.example.com") }, says: "https addresses only"},
		"by flag, with a password":  {args: []string{"--server=https://alice:hidden@access.example.com"}, says: "must be like"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newLeakWorld(t)
			ours := w.ours
			if c.change != nil {
				c.change(t, &w)
			}
			if w.server == w.ours.URL {
				ours = w.ours
			}
			ca := write(t, filepath.Join(t.TempDir(), "ca.crt"), string(ours.ca()))
			args := []string{"whoami", "--kubeconfig", w.kubeconfig(t)}
			for _, a := range c.args {
				args = append(args, strings.NewReplacer("$OURS", ours.URL, "$CA", ca).Replace(a))
			}
			o := run(t, args...)
			if !strings.Contains(o.out+o.err, c.says) {
				t.Errorf("it does not say %q:\n%s%s", c.says, o.out, o.err)
			}
			if strings.Contains(o.out+o.err, "c2lnbmF0dXJl") || strings.Contains(o.out+o.err, "hidden") {
				t.Errorf("a secret is printed:\n%s%s", o.out, o.err)
			}
			if asked := len(ours.requests()) > 0; asked != c.asked {
				t.Errorf("our server was asked: %v, want %v\n%s%s", asked, c.asked, o.out, o.err)
			}
			if n := len(elsewhere.requests()); n > 0 {
				t.Errorf("another server was asked %d times", n)
			}
			for _, r := range ours.requests() {
				if r.Header.Get("Authorization") != "Bearer "+tokenOf(testIssuer) && !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer eyJ") {
					t.Errorf("it got %q", r.Header.Get("Authorization"))
				}
				if r.Header.Get("Impersonate-User") != "" || len(r.TLS.PeerCertificates) > 0 {
					t.Error("it got more than a token")
				}
			}
		})
	}
}

func foreignCA(t *testing.T) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "ca.crt"), "no certificate\n")
}

// TestATokenThatHasJustEnded: the credential plug-in is asked again, once.
func TestATokenThatHasJustEnded(t *testing.T) {
	for refusals, want := range map[int]int{0: exitOK, 1: exitOK, 2: exitNo} {
		w := newLeakWorld(t)
		w.server = ""
		n := 0
		w.api = record(t, true, func(rw http.ResponseWriter, _ *http.Request) {
			if n++; n <= refusals {
				rw.WriteHeader(http.StatusUnauthorized)
				fmt.Fprint(rw, `{"kind": "Status", "message": "Unauthorized"}`)
				return
			}
			fmt.Fprint(rw, `{"status": {"userInfo": {"username": "gitlab:2"}}}`)
		})
		o := run(t, "whoami", "--kubeconfig", w.kubeconfig(t))
		if o.code != want || (want != exitOK && !strings.Contains(o.err, "kubectl gitlab login")) {
			t.Errorf("after %d refusals: %d\n%s%s", refusals, o.code, o.out, o.err)
		}
	}
}

// TestARefusedLoginHasItsReason: kube-apiserver says Unauthorized and no more; our server says why.
func TestARefusedLoginHasItsReason(t *testing.T) {
	w := newLeakWorld(t)
	w.api = record(t, true, func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(rw, `{"kind": "Status", "message": "Unauthorized", "code": 401}`)
	})
	w.ours = record(t, true, func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(rw).Encode(webapi.Error{Error: "your account is blocked in GitLab", Code: "user_blocked"})
	})
	w.server = w.ours.URL
	run(t, "whoami", "--kubeconfig", w.kubeconfig(t)).want(t, exitNo, "Unauthorized", "the integrator says: your account is blocked in GitLab (user_blocked)")
}

// TestAnswersAreLimited: an answer without an end does not fill the memory, and one that is no JSON is no panic.
func TestAnswersAreLimited(t *testing.T) {
	w := newLeakWorld(t)
	w.server = ""
	for name, answer := range map[string]http.HandlerFunc{
		"is larger than 32 MiB": func(rw http.ResponseWriter, _ *http.Request) {
			block := make([]byte, 1<<20)
			for range 40 {
				if _, err := rw.Write(block); err != nil {
					return
				}
			}
		},
		"is not what was asked for": func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "<html>") },
		"HTTP status 502":           func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusBadGateway) },
	} {
		w.api = record(t, true, answer)
		run(t, "whoami", "--kubeconfig", w.kubeconfig(t)).want(t, exitNo, name, "kubectl gitlab whoami: asking "+w.api.URL)
	}
}
