package authn_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/coreos/go-oidc/v3/oidc/oidctest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn/authntest"
)

func TestConstructingDoesNoNetworkIO(t *testing.T) {
	i, c := newIssuer(t)
	var asked atomic.Int64
	i.Intercept(func(http.ResponseWriter, *http.Request) bool { asked.Add(1); return false })
	g := newGitLab(t, config(i, c))
	if g.Ready() == nil || asked.Load() != 0 {
		t.Errorf("ready: %v, requests: %d", g.Ready(), asked.Load())
	}
	if got := verdict(t, g, i.UserToken(42, client, nil)); got != authn.CodeOK || g.Ready() != nil {
		t.Errorf("got %s, ready: %v", got, g.Ready())
	}
}

// TestForgedTokensCostOneFetch: go-oidc alone fetches once per forged token.
func TestForgedTokensCostOneFetch(t *testing.T) {
	i, c := newIssuer(t)
	g := newGitLab(t, config(i, c))
	forger := authntest.NewKey(t, 2048)
	claims := authntest.Encode(i.UserClaims(42, client, nil))
	var all sync.WaitGroup
	var unknown atomic.Int64
	for n := range 50 {
		token := oidctest.SignIDToken(forger.Private, fmt.Sprintf("kid-%d", n), oidc.RS256, claims)
		all.Go(func() {
			switch got := verdict(t, g, token); got {
			case authn.CodeUnknownKey:
				unknown.Add(1)
			case authn.CodeKeyNotReadYet: // came after the one fetch had begun
			default:
				t.Errorf("token %d: got %s", n, got)
			}
		})
	}
	all.Wait()
	if n := unknown.Load(); n != 1 {
		t.Errorf("%d tokens are known to be forged, want the one that the keys were read for", n)
	}
	if got := i.KeyReads(); got != 1 {
		t.Errorf("50 tokens with unknown keys: %d fetches, want 1", got)
	}
	for n := range 50 {
		if got := verdict(t, g, oidctest.SignIDToken(forger.Private, i.UserKey.ID, oidc.RS256, claims)); got != authn.CodeBadSignature {
			t.Fatalf("token %d with a known key id: got %s", n, got)
		}
	}
	if got := i.KeyReads(); got != 1 {
		t.Errorf("and 50 with a known key id: %d fetches, want 1", got)
	}
	c.advance(10 * time.Second)
	verdict(t, g, oidctest.SignIDToken(forger.Private, "later", oidc.RS256, claims))
	verdict(t, g, oidctest.SignIDToken(forger.Private, "later still", oidc.RS256, claims))
	if got := i.KeyReads(); got != 2 {
		t.Errorf("after the interval: %d fetches, want 2", got)
	}
}

// TestForgedTokensDoNotWaitForAHangingGitLab: else they hold every place of the listener, and people whose key is
// known are not judged.
func TestForgedTokensDoNotWaitForAHangingGitLab(t *testing.T) {
	i, c := newIssuer(t)
	g := newGitLab(t, config(i, c))
	if got := verdict(t, g, i.UserToken(42, client, nil)); got != authn.CodeOK {
		t.Fatalf("a good token: %s", got)
	}
	release := make(chan struct{})
	i.Intercept(func(http.ResponseWriter, *http.Request) bool { <-release; return false })
	c.advance(10 * time.Second)
	forger := authntest.NewKey(t, 2048)
	claims := authntest.Encode(i.UserClaims(42, client, nil))
	const forged = 100
	codes := make(chan authn.Code, forged)
	var all sync.WaitGroup
	for n := range forged {
		token := oidctest.SignIDToken(forger.Private, fmt.Sprintf("kid-%d", n), oidc.RS256, claims)
		all.Go(func() { codes <- verdict(t, g, token) })
	}
	for range forged - 9 { // one fetches, eight wait for it
		if got := <-codes; got != authn.CodeKeysUnavailable {
			t.Errorf("a forged token: %s", got)
		}
	}
	if got := verdict(t, g, i.UserToken(42, client, nil)); got != authn.CodeOK {
		t.Errorf("a good token while GitLab hangs: %s", got)
	}
	close(release)
	all.Wait()
}

func TestForeignTokensCostNoFetch(t *testing.T) {
	i, c := newIssuer(t)
	g := newGitLab(t, config(i, c))
	verdict(t, g, "opaque")
	verdict(t, g, i.UserToken(42, client, authntest.Claims{"iss": "https://elsewhere.example"}))
	verdict(t, g, i.UserToken(42, "another application", nil))
	if got := i.KeyReads(); got != 0 {
		t.Errorf("%d fetches", got)
	}
}

func TestKeyRotation(t *testing.T) {
	i, c := newIssuer(t)
	g := newGitLab(t, config(i, c))
	old := i.UserToken(42, client, nil)
	if got := verdict(t, g, old); got != authn.CodeOK {
		t.Fatal(got)
	}
	before := i.UserKey
	i.UserKey = authntest.NewKey(t, 2048)
	i.Publish(i.UserKey.JWK(), i.CIKey.JWK())
	renewed := func() string {
		return i.UserToken(42, client, authntest.Claims{"exp": c.now().Add(time.Hour).Unix()})
	}
	for range 2 {
		if got := verdict(t, g, renewed()); got != authn.CodeKeyNotReadYet {
			t.Errorf("new key within the interval: got %s: it is no forgery", got)
		}
	}
	c.advance(10 * time.Second)
	if got := verdict(t, g, renewed()); got != authn.CodeOK {
		t.Errorf("new key after the interval: got %s", got)
	}
	if got := verdict(t, g, old); got != authn.CodeKeyNotReadYet {
		t.Errorf("withdrawn key, keys just read: got %s", got)
	}
	c.advance(10 * time.Second)
	if got := verdict(t, g, i.UserToken(42, client, nil)); got != authn.CodeOK {
		t.Errorf("new key: got %s", got)
	}
	late := authntest.Sign(before, i.UserClaims(42, client, nil))
	if got := verdict(t, g, late); got != authn.CodeUnknownKey {
		t.Errorf("withdrawn key: got %s", got)
	}
	// Without any token of a new key the withdrawn one dies with the next refresh.
	i.Publish(before.JWK(), i.CIKey.JWK())
	c.advance(5 * time.Minute)
	if got := verdict(t, g, renewed()); got != authn.CodeUnknownKey {
		t.Errorf("withdrawn key after a refresh: got %s", got)
	}
}

func TestGitLabAway(t *testing.T) {
	i, c := newIssuer(t)
	g := newGitLab(t, config(i, c))
	fresh := func() string { return i.UserToken(42, client, nil) }
	i.SetDown(true)
	if got := verdict(t, g, fresh()); got != authn.CodeKeysUnavailable {
		t.Fatalf("nothing known: got %s", got)
	}
	i.SetDown(false)
	if got := verdict(t, g, fresh()); got != authn.CodeKeysUnavailable {
		t.Errorf("back, but within the interval: got %s", got)
	}
	c.advance(10 * time.Second)
	if got := verdict(t, g, fresh()); got != authn.CodeOK {
		t.Fatalf("back: got %s", got)
	}
	jwks, fetched := g.Keys()
	i.SetDown(true)
	c.advance(23 * time.Hour)
	if got := verdict(t, g, fresh()); got != authn.CodeOK || g.Ready() != nil {
		t.Errorf("away for 23 h: got %s, ready %v", got, g.Ready())
	}
	unknown := authntest.Sign(authntest.NewKey(t, 2048), i.UserClaims(42, client, nil))
	if got := verdict(t, g, unknown); got != authn.CodeKeysUnavailable {
		t.Errorf("unknown key while away: got %s: it may be a new one", got)
	}
	restarted := newGitLab(t, config(i, c))
	if err := restarted.RestoreKeys(jwks, fetched); err != nil {
		t.Fatal(err)
	}
	if got := verdict(t, restarted, fresh()); got != authn.CodeOK || restarted.Ready() != nil {
		t.Errorf("after a restart: got %s, ready %v", got, restarted.Ready())
	}
	c.advance(time.Hour + time.Second)
	if got := verdict(t, g, fresh()); got != authn.CodeKeysTooOld || g.Ready() == nil {
		t.Errorf("away for more than 24 h: got %s, ready %v", got, g.Ready())
	}
}

func TestRestoreKeysRefusesGarbageAndOldSets(t *testing.T) {
	i, c := newIssuer(t)
	g := newGitLab(t, config(i, c))
	if err := g.RestoreKeys([]byte(`{"keys":[]}`), c.now()); err == nil {
		t.Error("took over an empty set")
	}
	verdict(t, g, i.UserToken(42, client, nil))
	mine, _ := g.Keys()
	if err := newGitLab(t, config(i, c)).RestoreKeys(mine, c.now().Add(time.Minute)); err == nil {
		t.Error("took over keys that were read in the future: they would never be too old")
	}
	other := authntest.New(t)
	verdict(t, newGitLab(t, config(other, c)), other.UserToken(1, client, nil))
	theirs := newGitLab(t, config(other, c))
	verdict(t, theirs, other.UserToken(1, client, nil))
	jwks, _ := theirs.Keys()
	if err := g.RestoreKeys(jwks, c.now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if got := verdict(t, g, i.UserToken(42, client, nil)); got != authn.CodeOK {
		t.Errorf("an older set displaced the newer: %s", got)
	}
}

// TestUnusableAnswers: what GitLab's address may answer instead of keys, each with known keys at hand and without.
func TestUnusableAnswers(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("followed to another host") }))
	t.Cleanup(elsewhere.Close)
	text := func(status int, body string) func(w http.ResponseWriter) {
		return func(w http.ResponseWriter) { w.WriteHeader(status); _, _ = w.Write([]byte(body)) }
	}
	for name, tc := range map[string]struct {
		field  string // of the discovery document; empty: the key URL answers
		value  string
		answer func(w http.ResponseWriter)
		want   authn.Code
	}{
		"issuer differs":      {field: "issuer", value: "https://other.example", want: authn.CodeDiscoveryMismatch},
		"keys on other host":  {field: "jwks_uri", value: "https://other.example/keys", want: authn.CodeDiscoveryMismatch},
		"keys missing":        {field: "jwks_uri", value: "", want: authn.CodeDiscoveryMismatch},
		"error page":          {answer: text(503, "down"), want: authn.CodeKeysUnavailable},
		"login page":          {answer: text(200, "<html>sign in</html>"), want: authn.CodeKeysUnavailable},
		"no keys":             {answer: text(200, `{"keys":[]}`), want: authn.CodeKeysUnavailable},
		"too large":           {answer: text(200, `{"keys":[],"x":"`+strings.Repeat("x", 300<<10)+`"}`), want: authn.CodeKeysUnavailable},
		"redirect to another": {answer: func(w http.ResponseWriter) { w.Header().Set("Location", elsewhere.URL); w.WriteHeader(302) }, want: authn.CodeKeysUnavailable},
		"redirect in circles": {answer: func(w http.ResponseWriter) {
			w.Header().Set("Location", "/oauth/discovery/keys")
			w.WriteHeader(302)
		}, want: authn.CodeKeysUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			i, c := newIssuer(t)
			known := newGitLab(t, config(i, c))
			verdict(t, known, i.UserToken(42, client, nil))
			if tc.answer == nil {
				i.SetDiscovery(tc.field, tc.value)
			} else {
				i.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
					if r.URL.Path != "/oauth/discovery/keys" {
						return false
					}
					tc.answer(w)
					return true
				})
			}
			if got := verdict(t, newGitLab(t, config(i, c)), i.UserToken(42, client, nil)); got != tc.want {
				t.Errorf("nothing known: got %s, want %s", got, tc.want)
			}
			c.advance(6 * time.Minute)
			if got := verdict(t, known, i.UserToken(42, client, nil)); got != authn.CodeOK {
				t.Errorf("known keys were lost: %s", got)
			}
		})
	}
}

func TestJWKSURLReplacesDiscovery(t *testing.T) {
	i, c := newIssuer(t)
	i.SetDiscovery("issuer", "https://gitlab.example.com")
	cfg := config(i, c)
	cfg.Issuer, cfg.JWKSURL = "https://gitlab.example.com", i.URL+"/oauth/discovery/keys"
	g := newGitLab(t, cfg)
	if got := verdict(t, g, i.UserToken(42, client, authntest.Claims{"iss": cfg.Issuer})); got != authn.CodeOK {
		t.Errorf("got %s", got)
	}
}

func TestUntrustedCertificate(t *testing.T) {
	i, c := newIssuer(t)
	cfg := config(i, c)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	cfg.HTTPClient = &http.Client{Transport: transport}
	if got := verdict(t, newGitLab(t, cfg), i.UserToken(42, client, nil)); got != authn.CodeKeysUnavailable {
		t.Errorf("got %s", got)
	}
}

// TestImpatientCallerDoesNotSpoilTheFetch: the first caller leaves, the others still get the keys.
func TestImpatientCallerDoesNotSpoilTheFetch(t *testing.T) {
	i, c := newIssuer(t)
	g := newGitLab(t, config(i, c))
	reached, release := make(chan struct{}), make(chan struct{})
	i.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/oauth/discovery/keys" {
			close(reached)
			<-release
		}
		return false
	})
	ctx, cancel := context.WithCancel(t.Context())
	token := i.UserToken(42, client, nil)
	first := make(chan error, 1)
	go func() { _, err := g.Authenticate(ctx, token); first <- err }()
	<-reached
	cancel()
	second, stop := context.WithCancel(t.Context())
	stop()
	if _, err := g.Authenticate(second, token); authn.CodeOf(err) != authn.CodeReviewCancelled {
		t.Errorf("a caller that gave up got %v", err)
	}
	close(release)
	if err := <-first; err != nil {
		t.Errorf("the caller that fetched got %v", err)
	}
	if got := verdict(t, g, token); got != authn.CodeOK {
		t.Errorf("afterwards: %s", got)
	}
}

func TestRunKeepsKeysFresh(t *testing.T) {
	i, _ := newIssuer(t)
	i.Now = time.Now
	cfg := config(i, &clock{})
	cfg.Now, cfg.KeyRefresh, cfg.MinFetchInterval = nil, 10*time.Millisecond, time.Millisecond
	i.SetDown(true) // GitLab starts after us
	g := newGitLab(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); g.Run(ctx) }()
	until := func(what string, ok func() bool) {
		t.Helper()
		for range 2000 {
			if ok() {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Fatalf("%s did not happen", what)
	}
	until("a failed fetch", func() bool { return g.KeyStatus().Failures > 0 })
	if g.Ready() == nil {
		t.Error("ready without keys")
	}
	i.SetDown(false)
	until("readiness", func() bool { return g.Ready() == nil })
	withdrawn := i.UserToken(42, client, nil)
	if got := verdict(t, g, withdrawn); got != authn.CodeOK {
		t.Fatal(got)
	}
	i.Publish(i.CIKey.JWK())
	until("the death of the withdrawn key", func() bool { return g.KeyStatus().Keys == 1 })
	// Right after a fetch another one is not tried yet, and the token is undecided for that moment.
	until("the refusal of its tokens", func() bool { return verdict(t, g, withdrawn) == authn.CodeUnknownKey })
	cancel()
	<-ended
}
