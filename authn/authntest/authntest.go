// Package authntest is a small GitLab identity provider for tests: discovery and keys over HTTPS, and ID tokens
// shaped like GitLab's. It signs whatever it is told to; internal/gitlabsim is the simulator that knows who may
// have which token.
//
//	gitlab := authntest.New(t)
//	a, err := authn.New(authn.Config{Issuer: gitlab.URL, HTTPClient: gitlab.Client(), ClientIDs: []string{"kubelogin"}})
//	token := gitlab.UserToken(42, "kubelogin", nil)
package authntest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/coreos/go-oidc/v3/oidc/oidctest"
	jose "github.com/go-jose/go-jose/v4"
)

// Claims are a token's claims. As changes to a token: a nil value removes the claim.
type Claims map[string]any

// Key is a signing key with the id it is published under.
type Key struct {
	ID      string
	Private *rsa.PrivateKey
}

// Issuer is a running test provider.
type Issuer struct {
	// URL is the issuer.
	URL string
	// Now is the clock of the tokens; set it before use.
	Now func() time.Time
	// UserKey and CIKey sign the two kinds of tokens, as in GitLab.
	UserKey, CIKey Key

	server *httptest.Server

	mu        sync.Mutex
	published []jose.JSONWebKey
	discovery map[string]any
	down      bool
	keyReads  int
	hook      func(w http.ResponseWriter, r *http.Request) bool
}

// New starts an issuer that ends with the test.
func New(tb testing.TB) *Issuer {
	tb.Helper()
	i := &Issuer{Now: time.Now, UserKey: NewKey(tb, 2048), CIKey: NewKey(tb, 2048)}
	i.server = httptest.NewTLSServer(http.HandlerFunc(i.serve))
	tb.Cleanup(i.server.Close)
	i.URL = i.server.URL
	i.discovery = map[string]any{
		"issuer":                                i.URL,
		"authorization_endpoint":                i.URL + "/oauth/authorize",
		"token_endpoint":                        i.URL + "/oauth/token",
		"jwks_uri":                              i.URL + "/oauth/discovery/keys",
		"id_token_signing_alg_values_supported": []string{oidc.RS256},
	}
	i.Publish(i.UserKey.JWK(), i.CIKey.JWK())
	return i
}

// NewKey makes an RSA key whose id is its thumbprint (RFC 7638), as GitLab's are.
func NewKey(tb testing.TB, bits int) Key {
	tb.Helper()
	private, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		tb.Fatalf("making a key: %v", err)
	}
	jwk := jose.JSONWebKey{Key: private.Public()}
	sum, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		tb.Fatalf("naming a key: %v", err)
	}
	return Key{ID: base64.RawURLEncoding.EncodeToString(sum), Private: private}
}

// JWK returns the public half as GitLab publishes it.
func (k Key) JWK() jose.JSONWebKey {
	return jose.JSONWebKey{Key: k.Private.Public(), KeyID: k.ID, Algorithm: oidc.RS256, Use: "sig"}
}

// Client trusts the issuer's certificate.
func (i *Issuer) Client() *http.Client { return i.server.Client() }

// CA is the certificate of the issuer, in PEM: it vouches for itself.
func (i *Issuer) CA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.server.Certificate().Raw})
}

// Publish replaces the published keys.
func (i *Issuer) Publish(keys ...jose.JSONWebKey) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.published = slices.Clone(keys)
}

// SetDiscovery changes one field of the discovery document.
func (i *Issuer) SetDiscovery(field string, value any) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.discovery[field] = value
}

// SetDown makes every request fail with 502, as GitLab's proxy does while GitLab restarts.
func (i *Issuer) SetDown(down bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.down = down
}

// Intercept lets a test answer requests itself; hook returns true if it did.
func (i *Issuer) Intercept(hook func(w http.ResponseWriter, r *http.Request) bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.hook = hook
}

// KeyReads returns how often the keys were asked for.
func (i *Issuer) KeyReads() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.keyReads
}

func (i *Issuer) serve(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	if r.URL.Path == "/oauth/discovery/keys" {
		i.keyReads++
	}
	down, hook := i.down, i.hook
	document, keys := maps.Clone(i.discovery), slices.Clone(i.published)
	i.mu.Unlock()

	var body any
	switch {
	case hook != nil && hook(w, r):
		return
	case down:
		http.Error(w, "GitLab is not responding", http.StatusBadGateway)
		return
	case r.URL.Path == "/.well-known/openid-configuration":
		body = document
	case r.URL.Path == "/oauth/discovery/keys":
		body = jose.JSONWebKeySet{Keys: keys}
	default:
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body) // the client is gone if this fails
}

// UserClaims returns the claims of a person's ID token (GitLab 17.8 and newer, 120 s).
func (i *Issuer) UserClaims(id int64, clientID string, changes Claims) Claims {
	now := i.Now()
	name := "user" + strconv.FormatInt(id, 10)
	return with(Claims{
		"iss": i.URL, "sub": strconv.FormatInt(id, 10), "aud": clientID,
		"exp": now.Add(2 * time.Minute).Unix(), "iat": now.Unix(), "auth_time": now.Add(-time.Hour).Unix(),
		"sub_legacy": "2f9a1c", "name": "User " + name, "nickname": name, "preferred_username": name,
		"profile": i.URL + "/" + name, "groups_direct": []string{"haw"},
	}, changes)
}

// CIClaims returns the claims of a CI job's ID token (GitLab 18.4 and newer) of a job on the protected default
// branch with environment ICC-K8s.
func (i *Issuer) CIClaims(project int64, audience string, changes Claims) Claims {
	now := i.Now()
	id := strconv.FormatInt(project, 10)
	return with(Claims{
		"namespace_id": "72", "namespace_path": "haw", "project_id": id, "project_path": "haw/world",
		"user_id": "1", "user_login": "alice", "user_email": "alice@example.com", "user_access_level": "maintainer",
		"job_project_id": id, "job_project_path": "haw/world", "job_namespace_id": "72", "job_namespace_path": "haw",
		"pipeline_id": "574", "pipeline_source": "push", "job_id": "302",
		"ref": "main", "ref_type": "branch", "ref_path": "refs/heads/main", "ref_protected": "true",
		"environment": "ICC-K8s", "environment_protected": "false", "deployment_tier": "other", "environment_action": "start",
		"runner_id": 1, "runner_environment": "self-hosted", "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
		"project_visibility": "private", "jti": "235b3a54-b797-45c7-ae9a-f72d7bc6ef5b",
		"iss": i.URL, "iat": now.Unix(), "nbf": now.Add(-5 * time.Second).Unix(), "exp": now.Add(time.Hour).Unix(),
		"sub": "project_path:haw/world:ref_type:branch:ref:main", "aud": audience,
	}, changes)
}

func with(c, changes Claims) Claims {
	for k, v := range changes {
		if v == nil {
			delete(c, k)
			continue
		}
		c[k] = v
	}
	return c
}

// UserToken returns a signed person's token with changed claims.
func (i *Issuer) UserToken(id int64, clientID string, changes Claims) string {
	return Sign(i.UserKey, i.UserClaims(id, clientID, changes))
}

// CIToken returns a signed CI job's token with changed claims.
func (i *Issuer) CIToken(project int64, audience string, changes Claims) string {
	return Sign(i.CIKey, i.CIClaims(project, audience, changes))
}

// Sign signs claims with RS256. Like oidctest, it panics where a test is wrong.
func Sign(k Key, claims Claims) string {
	return oidctest.SignIDToken(k.Private, k.ID, oidc.RS256, Encode(claims))
}

// Encode returns claims as JSON.
func Encode(claims Claims) string {
	b, err := json.Marshal(claims)
	if err != nil {
		panic(fmt.Sprintf("authntest: encoding claims: %v", err))
	}
	return string(b)
}
