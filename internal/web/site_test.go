package web_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/web"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

// seed has the page's application as docs/page.md says to make it.
const seed = `
users:
- {id: 1, username: root, name: Administrator, password: root-pw, admin: true}
- {id: 41, username: alice, name: "Alice <script>alert(1)</script>", password: alice-pw}
- {id: 42, username: bob, password: bob-pw}
- {id: 43, username: mallory, password: mallory-pw}
applications:
- {uid: web, secret: gloas-x, confidential: true, redirectURIs: ["%[1]s/signin/callback"], scopes: [openid, profile]}
- {uid: other, secret: gloas-y, confidential: true, redirectURIs: ["%[1]s/signin/callback"], scopes: [openid, profile]}
`

var simKeys = sync.OnceValue(func() [2]*rsa.PrivateKey {
	var out [2]*rsa.PrivateKey
	for i := range out {
		out[i], _ = rsa.GenerateKey(rand.Reader, 2048)
	}
	return out
})

// clock is a clock that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time      { c.mu.Lock(); defer c.mu.Unlock(); return c.t }
func (c *clock) add(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.t = c.t.Add(d) }
func newKey() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	return base64.StdEncoding.EncodeToString(b)
}

// fakePeople has the namespaces of everybody.
type fakePeople struct {
	mu  sync.Mutex
	all map[int64][]webapi.Namespace
	err error
	// changes, optional, fails instead of telling changes.
	changes func(ctx context.Context) error
}

func (p *fakePeople) Identity(user int64) webapi.Identity {
	return webapi.Identity{ID: user, Username: fmt.Sprint("user", user)}
}

func (p *fakePeople) Namespaces(user int64, f people.Filter) (webapi.MyNamespaces, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return webapi.MyNamespaces{}, p.err
	}
	var found []webapi.Namespace
	for _, n := range p.all[user] {
		if strings.Contains(n.Name+" "+n.Path, f.Search) && (f.Name == "" || f.Name == n.Name) {
			found = append(found, n)
		}
	}
	out := webapi.MyNamespaces{User: p.Identity(user), Total: len(found), AsOf: time.Date(2026, 11, 29, 1, 0, 0, 0, time.UTC)}
	found = found[min(f.Offset, len(found)):]
	if f.Limit > 0 {
		found = found[:min(f.Limit, len(found))]
	}
	out.Namespaces = found
	return out, nil
}

func (p *fakePeople) Reachable(user int64) ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, n := range p.all[user] {
		if n.State == "" {
			out = append(out, n.Name)
		}
	}
	return out, p.err
}

// fixture is the page on a port of its own, beside a simulated GitLab.
type fixture struct {
	t      *testing.T
	clock  *clock
	gitlab *gitlabsim.Server
	page   *httptest.Server
	people *fakePeople
	pool   *x509.CertPool

	mu     sync.Mutex
	keys   string
	states map[int64]string
	log    strings.Builder
}

func (f *fixture) set(change func()) { f.mu.Lock(); defer f.mu.Unlock(); change() }

func newFixture(t *testing.T, change func(*web.Options)) *fixture {
	t.Helper()
	f := &fixture{
		t: t, clock: &clock{t: time.Now().Truncate(time.Second)}, keys: newKey(), states: map[int64]string{},
		people: &fakePeople{all: map[int64][]webapi.Namespace{41: {{
			Name: "haw-world", Source: "project/20", Path: "haw/world", URL: "https://gitlab.example.com/haw/world", Roles: []string{"edit"},
			Level: "Maintainer", Reason: "Maintainer in haw/world, direct", Until: new(time.Date(2026, 12, 31, 0, 0, 0, 0, time.UTC)),
		}}}},
	}
	var site http.Handler
	f.page = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { site.ServeHTTP(w, r) }))
	f.page.StartTLS()
	keys := simKeys()
	var err error
	f.gitlab, err = gitlabsim.New(gitlabsim.Options{Seed: fmt.Appendf(nil, seed, f.page.URL), Now: f.clock.now, UserKey: keys[0], CIKey: keys[1]})
	if err != nil {
		t.Fatal(err)
	}
	f.pool = x509.NewCertPool()
	f.pool.AddCert(f.page.Certificate())
	f.pool.AppendCertsFromPEM(f.gitlab.CA())
	client := f.gitlab.Client()
	o := web.Options{
		URL: f.page.URL, GitLabURL: f.gitlab.URL(), ClientID: "web", ClientSecret: func() (string, error) { return "gloas-x", nil },
		Keys:       func() ([][]byte, error) { f.mu.Lock(); defer f.mu.Unlock(); return web.ParseKeys([]byte(f.keys)) },
		HTTPClient: client, People: f.people, Language: "en", Now: f.clock.now,
		UserState: func(user int64) (string, bool) {
			f.mu.Lock()
			defer f.mu.Unlock()
			s, ok := f.states[user]
			return s, ok
		},
		Logger: slog.New(slog.NewTextHandler(lockedWriter{f}, nil)),
	}
	if change != nil {
		change(&o)
	}
	s, err := web.New(o)
	if err != nil {
		t.Fatal(err)
	}
	site = s
	t.Cleanup(func() { client.CloseIdleConnections(); f.page.Close(); f.gitlab.Close() })
	return f
}

type lockedWriter struct{ f *fixture }

func (w lockedWriter) Write(b []byte) (int, error) {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	return w.f.log.Write(b)
}

func (f *fixture) logged() string { f.mu.Lock(); defer f.mu.Unlock(); return f.log.String() }

// browser keeps cookies and follows no redirect by itself.
type browser struct {
	*http.Client
	f    *fixture
	csrf string
}

func (f *fixture) browser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		f.t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: f.pool, MinVersion: tls.VersionTLS12}}
	f.t.Cleanup(tr.CloseIdleConnections)
	return &browser{f: f, Client: &http.Client{
		Transport: tr, Jar: jar, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

type answer struct {
	status   int
	header   http.Header
	location string
	body     string
}

func (b *browser) do(method, path string, form url.Values, header ...string) answer {
	b.f.t.Helper()
	target := path
	if strings.HasPrefix(path, "/") {
		target = b.f.page.URL + path
	}
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r, err := http.NewRequest(method, target, body)
	if err != nil {
		b.f.t.Fatal(err)
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := b.Do(r)
	if err != nil {
		b.f.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.f.t.Fatal(err)
	}
	a := answer{resp.StatusCode, resp.Header, resp.Header.Get("Location"), string(text)}
	if _, rest, ok := strings.Cut(a.body, `name="csrf" value="`); ok {
		b.csrf, _, _ = strings.Cut(rest, `"`)
	}
	return a
}

func (b *browser) get(path string, header ...string) answer {
	b.f.t.Helper()
	return b.do(http.MethodGet, path, nil, header...)
}

// signIn goes the whole way, and returns what the callback answers.
func (b *browser) signIn(to, name, password string) answer {
	b.f.t.Helper()
	a := b.get("/signin?to=" + url.QueryEscape(to))
	if a.status != http.StatusSeeOther {
		b.f.t.Fatalf("/signin: %d %s", a.status, a.body)
	}
	callback, err := gitlabsim.Login(b.f.t.Context(), b.f.gitlab.Client(), a.location, name, password)
	if err != nil {
		b.f.t.Fatal(err)
	}
	return b.get(callback)
}

// TestSignIn: from the first page over GitLab to one's own namespaces, and out again.
func TestSignIn(t *testing.T) {
	f := newFixture(t, nil)
	b := f.browser()
	if a := b.get("/"); a.status != http.StatusOK || !strings.Contains(a.body, "Sign in with GitLab") {
		t.Errorf("start: %d %s", a.status, a.body)
	}
	if a := b.get("/namespaces"); a.status != http.StatusUnauthorized || !strings.Contains(a.body, "/signin?to=%2fnamespaces") {
		t.Errorf("without a session: %d %s", a.status, a.body)
	}
	a := b.signIn("/namespaces", "alice", "alice-pw")
	if a.status != http.StatusSeeOther || a.location != "/namespaces" {
		t.Fatalf("callback: %d to %q: %s%s", a.status, a.location, a.body, f.logged())
	}
	a = b.get("/namespaces")
	for _, want := range []string{"haw-world", "31 Dec 2026", "Alice &lt;script&gt;"} {
		if a.status != http.StatusOK || !strings.Contains(a.body, want) {
			t.Errorf("namespaces lacks %q: %d %s", want, a.status, a.body)
		}
	}
	if a := b.do(http.MethodPost, "/signout", url.Values{"csrf": {b.csrf}}); a.status != http.StatusSeeOther || a.location != "/signedout" {
		t.Errorf("sign out: %d %s", a.status, a.body)
	}
	if a := b.get("/namespaces"); a.status != http.StatusUnauthorized {
		t.Errorf("after sign out: %d", a.status)
	}
}
