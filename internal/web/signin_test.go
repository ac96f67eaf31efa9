package web_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/web"
)

// begin opens the first half of a sign-in, and returns GitLab's answer to it: the address of the second half.
func (b *browser) begin(name string) *url.URL {
	b.f.t.Helper()
	a := b.get("/signin?to=/namespaces")
	callback, err := gitlabsim.Login(b.f.t.Context(), b.f.gitlab.Client(), a.location, name, name+"-pw")
	if err != nil {
		b.f.t.Fatal(err)
	}
	u, err := url.Parse(callback)
	if err != nil {
		b.f.t.Fatal(err)
	}
	return u
}

// with returns the address with another value in its query; "" takes the name out.
func with(u *url.URL, name, value string) string {
	q := u.Query()
	if value == "" {
		q.Del(name)
	} else {
		q.Set(name, value)
	}
	out := *u
	out.RawQuery = q.Encode()
	return out.String()
}

// TestOnlyWhoBeganASignInEndsIt: a code is of use to the browser alone that asked for it, once, and for ten minutes.
func TestOnlyWhoBeganASignInEndsIt(t *testing.T) {
	f := newFixture(t, nil)
	refused := func(what string, a answer, status int) {
		t.Helper()
		if a.status != status || strings.Contains(a.header.Get("Set-Cookie"), "__Host-session=ey") {
			t.Errorf("%s: %d, want %d: %s", what, a.status, status, a.body)
		}
	}
	b := f.browser()
	refused("no cookie", b.get("/signin/callback?state=x&code=y"), http.StatusBadRequest)
	u := b.begin("alice")
	refused("another browser", f.browser().get(u.String()), http.StatusBadRequest)
	refused("another state", b.get(with(u, "state", "other")), http.StatusBadRequest)
	refused("no state", b.get(with(u, "state", "")), http.StatusBadRequest)
	refused("another code", b.get(with(u, "code", "other")), http.StatusBadRequest)
	refused("that attempt is over", b.get(u.String()), http.StatusBadRequest)

	stolen, victim := f.browser().begin("mallory"), f.browser()
	own := victim.begin("alice")
	refused("somebody else's code", victim.get(with(own, "code", stolen.Query().Get("code"))), http.StatusBadRequest)

	late := f.browser()
	u = late.begin("alice")
	f.clock.add(10*time.Minute + time.Second)
	refused("too late", late.get(u.String()), http.StatusBadRequest)

	denied := f.browser()
	u = denied.begin("alice")
	a := denied.get(with(u, "code", "") + "&error=access_denied&error_description=%3Cscript%3E")
	refused("GitLab refuses", a, http.StatusForbidden)
	if strings.Contains(a.body, "<script>") || strings.Contains(a.body, "access_denied") {
		t.Errorf("the page repeats what the address says: %s", a.body)
	}

	good := f.browser()
	u = good.begin("alice")
	if a := good.get(u.String()); a.status != http.StatusSeeOther {
		t.Fatalf("the sign-in itself: %d %s", a.status, a.body)
	}
	refused("twice", good.get(u.String()), http.StatusBadRequest)
	if a := good.get("/namespaces"); a.status != http.StatusOK {
		t.Errorf("a second try ends the session: %d", a.status)
	}
}

// provider is a GitLab that signs what it is told to.
type provider struct {
	*httptest.Server
	key    *rsa.PrivateKey
	claims func(nonce string) map[string]any
	signer func([]byte) string
	nonce  string
}

func newProvider(t *testing.T) *provider {
	p := &provider{key: simKeys()[0]}
	mux := http.NewServeMux()
	p.Server = httptest.NewTLSServer(mux)
	t.Cleanup(p.Close)
	answer := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Error(err)
		}
	}
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{
			"issuer": p.URL, "authorization_endpoint": p.URL + "/oauth/authorize", "token_endpoint": p.URL + "/oauth/token", "jwks_uri": p.URL + "/keys",
			"id_token_signing_alg_values_supported": []string{"RS256", "ES256"},
		})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: p.key.Public(), KeyID: "k", Algorithm: "RS256", Use: "sig"}}})
	})
	mux.HandleFunc("/oauth/token", func(w http.ResponseWriter, _ *http.Request) {
		text, err := json.Marshal(p.claims(p.nonce))
		if err != nil {
			t.Error(err)
		}
		answer(w, map[string]any{"access_token": "x", "token_type": "Bearer", "id_token": p.signer(text)})
	})
	return p
}

func sign(t *testing.T, key *rsa.PrivateKey, alg jose.SignatureAlgorithm) func([]byte) string {
	return func(claims []byte) string {
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := s.Sign(claims)
		if err != nil {
			t.Fatal(err)
		}
		out, err := signed.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}

// TestOnlyGitLabsWordCounts: nobody is signed in by an ID token with any one thing wrong.
func TestOnlyGitLabsWordCounts(t *testing.T) {
	p := newProvider(t)
	f := newFixture(t, func(o *web.Options) { o.GitLabURL, o.HTTPClient = p.URL, p.Client() })
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	now := f.clock.now()
	for name, c := range map[string]struct {
		change func(map[string]any)
		signer func([]byte) string
		good   bool
	}{
		"all right":          {good: true},
		"another audience":   {change: func(c map[string]any) { c["aud"] = "kubectl" }},
		"two audiences":      {change: func(c map[string]any) { c["aud"] = []string{"web", "kubectl"} }},
		"no audience":        {change: func(c map[string]any) { delete(c, "aud") }},
		"another issuer":     {change: func(c map[string]any) { c["iss"] = "https://gitlab.example.com" }},
		"another nonce":      {change: func(c map[string]any) { c["nonce"] = "x" }},
		"no nonce":           {change: func(c map[string]any) { delete(c, "nonce") }},
		"expired":            {change: func(c map[string]any) { c["exp"] = now.Add(-time.Minute).Unix() }},
		"no end":             {change: func(c map[string]any) { delete(c, "exp") }},
		"no subject":         {change: func(c map[string]any) { delete(c, "sub") }},
		"a job's subject":    {change: func(c map[string]any) { c["sub"] = "project_path:haw/world:ref_type:branch:ref:main" }},
		"a negative subject": {change: func(c map[string]any) { c["sub"] = "-1" }},
		"no user":            {change: func(c map[string]any) { c["sub"] = "0" }},
		"another key":        {signer: sign(t, other, jose.RS256)},
		"another algorithm":  {signer: sign(t, p.key, jose.PS256)},
		"not signed": {signer: func(claims []byte) string {
			b := base64.RawURLEncoding
			return b.EncodeToString([]byte(`{"alg":"none"}`)) + "." + b.EncodeToString(claims) + "."
		}},
		"no token": {signer: func([]byte) string { return "" }},
	} {
		t.Run(name, func(t *testing.T) {
			p.signer = sign(t, p.key, jose.RS256)
			if c.signer != nil {
				p.signer = c.signer
			}
			p.claims = func(nonce string) map[string]any {
				out := map[string]any{"iss": p.URL, "aud": "web", "sub": "41", "iat": now.Unix(), "exp": now.Add(2 * time.Minute).Unix(), "nonce": nonce}
				if c.change != nil {
					c.change(out)
				}
				return out
			}
			b := f.browser()
			at, err := url.Parse(b.get("/signin").location)
			if err != nil {
				t.Fatal(err)
			}
			q := at.Query()
			p.nonce = q.Get("nonce")
			if q.Get("scope") != "openid profile" || q.Get("code_challenge_method") != "S256" || len(q.Get("state")) < 20 || len(p.nonce) < 20 || q.Get("client_id") != "web" {
				t.Errorf("GitLab is asked for %v", q)
			}
			a := b.get("/signin/callback?code=c&state=" + q.Get("state"))
			if c.good != (a.status == http.StatusSeeOther) {
				t.Errorf("%d %s", a.status, a.body)
			}
			if a := b.get("/namespaces"); c.good != (a.status == http.StatusOK) {
				t.Errorf("afterwards: %d", a.status)
			}
		})
	}
}

// TestPKCE: the challenge that GitLab gets is that of the verifier, and GitLab refuses another one.
func TestPKCE(t *testing.T) {
	f := newFixture(t, nil)
	b := f.browser()
	at, err := url.Parse(b.get("/signin").location)
	if err != nil {
		t.Fatal(err)
	}
	q := at.Query()
	sum := sha256.Sum256([]byte("some other verifier of at least 43 characters"))
	q.Set("code_challenge", base64.RawURLEncoding.EncodeToString(sum[:]))
	at.RawQuery = q.Encode()
	callback, err := gitlabsim.Login(t.Context(), f.gitlab.Client(), at.String(), "alice", "alice-pw")
	if err != nil {
		t.Fatal(err)
	}
	if a := b.get(callback); a.status != http.StatusBadRequest {
		t.Errorf("a code of another challenge: %d", a.status)
	}
}

// TestGitLabAway: who is signed in goes on; who signs in is told what is the matter, in either half, and soon.
func TestGitLabAway(t *testing.T) {
	f := newFixture(t, nil)
	in, half := f.browser(), f.browser()
	if a := in.signIn("/", "alice", "alice-pw"); a.status != http.StatusSeeOther {
		t.Fatal(a.status)
	}
	u := half.begin("bob")
	f.gitlab.SetFaults(gitlabsim.Faults{Down: true})
	f.clock.add(time.Minute)
	if a := in.get("/namespaces"); a.status != http.StatusOK || !strings.Contains(a.body, "haw-world") {
		t.Errorf("who is signed in: %d", a.status)
	}
	for what, path := range map[string]string{"first half": "/signin", "second half": u.String()} {
		if a := half.get(path); a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, "GitLab can not be reached") {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
	}
	f.gitlab.SetFaults(gitlabsim.Faults{})
	if a := half.signIn("/", "bob", "bob-pw"); a.status != http.StatusSeeOther {
		t.Errorf("GitLab is back: %d", a.status)
	}
}

// TestWrongSetUp: what only an administrator can mend is said to be that, and stands in the log without a secret.
func TestWrongSetUp(t *testing.T) {
	f := newFixture(t, func(o *web.Options) { o.ClientSecret = func() (string, error) { return "gloas-wrong", nil } })
	b := f.browser()
	if a := b.get(b.begin("alice").String()); a.status != http.StatusInternalServerError || !strings.Contains(a.body, "Only an administrator") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if log := f.logged(); !strings.Contains(log, "web.clientSecretFile") || strings.Contains(log, "gloas") {
		t.Errorf("the log: %s", log)
	}
}

// TestNoSecretIsLogged: neither codes nor tokens, cookies or names of people are in the log of sign-ins.
func TestNoSecretIsLogged(t *testing.T) {
	f := newFixture(t, nil)
	b := f.browser()
	u := b.begin("alice")
	b.get(u.String())
	b.get("/namespaces")
	log := f.logged()
	if !strings.Contains(log, "signed in") || !strings.Contains(log, "user=41") {
		t.Errorf("the log: %s", log)
	}
	secrets := []string{u.Query().Get("code"), u.Query().Get("state"), b.csrf, "gloas", "alice"}
	site, _ := url.Parse(f.page.URL)
	for _, c := range b.Jar.Cookies(site) {
		secrets = append(secrets, c.Value)
	}
	for _, s := range secrets {
		if s == "" || strings.Contains(log, s) {
			t.Errorf("%q in the log: %s", s, log)
		}
	}
}

// TestBlocked: who is blocked in GitLab is out with the next page, and can't come in again; before anything is known of an account
// its token alone decides.
func TestBlocked(t *testing.T) {
	f := newFixture(t, nil)
	for state, words := range map[string]string{
		"blocked": "blocked or banned", "banned": "blocked or banned", "deactivated": "was deactivated", "blocked_pending_approval": "waits for somebody",
		authn.StateDeleted: "does not have your account", authn.StateNotHuman: "belongs to a program", "whatever": "not active",
	} {
		b := f.browser()
		f.set(func() { delete(f.states, 41) })
		if a := b.signIn("/", "alice", "alice-pw"); a.status != http.StatusSeeOther {
			t.Fatalf("%s: not known: %d", state, a.status)
		}
		f.set(func() { f.states[41] = "active" })
		if a := b.get("/namespaces"); a.status != http.StatusOK {
			t.Errorf("active: %d", a.status)
		}
		f.set(func() { f.states[41] = state })
		if a := b.get("/namespaces"); a.status != http.StatusForbidden || !strings.Contains(a.body, words) {
			t.Errorf("%s: %d %s", state, a.status, a.body)
		}
		if a := b.get("/namespaces"); a.status != http.StatusUnauthorized {
			t.Errorf("%s: the session is still there: %d", state, a.status)
		}
		if a := b.signIn("/", "alice", "alice-pw"); a.status != http.StatusForbidden {
			t.Errorf("%s: signs in: %d", state, a.status)
		}
	}
}

// gitlabGate counts the requests to GitLab that are under way, and holds them while it is shut.
type gitlabGate struct {
	inner     http.RoundTripper
	mu        sync.Mutex
	sum       int
	now, most int
	shut      chan struct{} // nil: open
}

func (g *gitlabGate) RoundTrip(r *http.Request) (*http.Response, error) {
	g.mu.Lock()
	g.sum++
	g.now++
	g.most = max(g.most, g.now)
	shut := g.shut
	g.mu.Unlock()
	defer func() { g.mu.Lock(); g.now--; g.mu.Unlock() }()
	if shut != nil {
		select {
		case <-shut:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	return g.inner.RoundTrip(r)
}

// hold shuts the gate, release opens it.
func (g *gitlabGate) hold()    { g.mu.Lock(); defer g.mu.Unlock(); g.shut = make(chan struct{}) }
func (g *gitlabGate) release() { g.mu.Lock(); defer g.mu.Unlock(); close(g.shut); g.shut = nil }

func (g *gitlabGate) get() (sum, now, most int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sum, g.now, g.most
}

// flood sends a request in each of so many browsers at the same time, and counts the answers by status.
func flood(n int, ask func() answer) map[int]int {
	answers := make(chan answer, n)
	for range n {
		go func() { answers <- ask() }()
	}
	got := map[int]int{}
	for range n {
		got[(<-answers).status]++
	}
	return got
}

// TestSignInsTakeNoTurns: who begins a sign-in takes nothing of anybody else: GitLab is asked once, however many there are. And
// codes that are tried are turned away at once when there are too many, without hindering who begins.
func TestSignInsTakeNoTurns(t *testing.T) {
	gate := &gitlabGate{}
	f := newFixture(t, func(o *web.Options) {
		c := *o.HTTPClient
		gate.inner, c.Transport = c.Transport, gate
		o.HTTPClient = &c
	})
	b := f.browser()
	if a := b.get("/signin"); a.status != http.StatusSeeOther {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if got := flood(300, func() answer { return b.get("/signin") }); got[http.StatusSeeOther] != 300 {
		t.Errorf("300 sign-ins that begin are answered %v", got)
	}
	if sum, _, _ := gate.get(); sum != 1 {
		t.Errorf("GitLab was asked %d times", sum)
	}
	var codes []func() answer
	for range 60 {
		bad := f.browser()
		u := bad.get("/signin")
		at, _ := url.Parse(u.location)
		codes = append(codes, func() answer {
			return bad.get("/signin/callback?code=x&state=" + url.QueryEscape(at.Query().Get("state")))
		})
	}
	gate.hold()
	answers := make(chan answer, len(codes))
	for _, try := range codes {
		go func() { answers <- try() }()
	}
	for range len(codes) - 24 { // the others are with GitLab
		if a := <-answers; a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, "Too many people") {
			t.Fatalf("a code too many: %d %s", a.status, a.body)
		}
	}
	if a := b.get("/signin"); a.status != http.StatusSeeOther {
		t.Errorf("who begins meanwhile: %d %s", a.status, a.body)
	}
	gate.release()
	for range 24 {
		if a := <-answers; a.status != http.StatusBadRequest {
			t.Errorf("a wrong code: %d %s", a.status, a.body)
		}
	}
}

// TestSignInsHoldNoSlots: while GitLab hangs, sign-ins hold no more than half of the slots that the pages have, and whoever finds
// no turn is told so at once.
func TestSignInsHoldNoSlots(t *testing.T) {
	gate := &gitlabGate{}
	gate.hold()
	f := newFixture(t, func(o *web.Options) {
		c := *o.HTTPClient
		gate.inner, c.Transport = c.Transport, gate
		o.HTTPClient = &c
	})
	const n = 200
	answers := make(chan answer, n)
	for range n {
		go func() { answers <- f.browser().get("/signin") }()
	}
	for range n - 8 { // the others are with GitLab
		if a := <-answers; a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, "Too many people") {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	if _, now, most := gate.get(); now > 8 || most > 8 {
		t.Errorf("GitLab has %d questions, and had %d", now, most)
	}
	if a := f.browser().get("/"); a.status != http.StatusOK {
		t.Errorf("the first page: %d", a.status)
	}
	gate.release()
	for range 8 {
		if a := <-answers; a.status != http.StatusSeeOther {
			t.Errorf("GitLab answers: %d %s", a.status, a.body)
		}
	}
}
