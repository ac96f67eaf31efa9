package authn_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc/oidctest"
	jose "github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn/authntest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	client  = "5f1c0ffee"
	client2 = "second-application"
	ciAud   = "https://k8s.example.com"
)

// clock is a settable time.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func newIssuer(t testing.TB) (*authntest.Issuer, *clock) {
	t.Helper()
	c := &clock{t: time.Unix(1795000000, 0)}
	i := authntest.New(t)
	i.Now = c.now
	return i, c
}

func config(i *authntest.Issuer, c *clock) authn.Config {
	return authn.Config{
		Issuer: i.URL, ClientIDs: []string{client, client2}, CIAudience: ciAud, Environments: []string{"ICC-K8s"},
		UnprotectedProjects: map[int64]bool{43: true}, HTTPClient: i.Client(), Now: c.now,
	}
}

func newGitLab(t testing.TB, cfg authn.Config) *authn.GitLab {
	t.Helper()
	g, err := authn.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// verdict asks for a token and returns the code, checking what holds for every answer.
func verdict(t *testing.T, g authn.Authenticator, token string) authn.Code {
	t.Helper()
	id, err := g.Authenticate(t.Context(), token)
	if err != nil && !cmp.Equal(id, authn.Identity{}) {
		t.Errorf("an identity beside an error: %+v, %v", id, err)
	}
	if err == nil && (id.Username == "" || id.UID == "" || !strings.HasPrefix(id.Username, "gitlab:")) {
		t.Errorf("accepted without a proper name: %+v", id)
	}
	if err != nil && len(token) > 20 && strings.Contains(err.Error(), token[len(token)-20:]) {
		t.Errorf("the error holds the token: %v", err)
	}
	return authn.CodeOf(err)
}

func TestIdentities(t *testing.T) {
	i, c := newIssuer(t)
	g := newGitLab(t, config(i, c))
	for name, want := range map[string]struct {
		token string
		id    authn.Identity
	}{
		"person": {i.UserToken(42, client, nil), authn.Identity{
			Username: "gitlab:42", UID: "42", Groups: []string{"gitlab:users"},
			Extra: map[string][]string{kubename.ExtraUsername: {"user42"}}, Expiry: c.now().Add(2 * time.Minute),
		}},
		"person on an old GitLab": {i.UserToken(42, client, authntest.Claims{"name": nil, "nickname": nil, "preferred_username": nil, "profile": nil}), authn.Identity{
			Username: "gitlab:42", UID: "42", Groups: []string{"gitlab:users"}, Extra: map[string][]string{}, Expiry: c.now().Add(2 * time.Minute),
		}},
		"person named like Kubernetes' own": {i.UserToken(7, client, authntest.Claims{"preferred_username": "system:admin", "nickname": nil, "sub": "7"}), authn.Identity{
			Username: "gitlab:7", UID: "7", Groups: []string{"gitlab:users"}, Extra: map[string][]string{}, Expiry: c.now().Add(2 * time.Minute),
		}},
		"job": {i.CIToken(20, ciAud, nil), authn.Identity{
			Username: "gitlab:ci:20", UID: "20", Groups: []string{"gitlab:ci"}, Expiry: c.now().Add(time.Hour),
			Extra: map[string][]string{
				kubename.ExtraProjectID: {"20"}, kubename.ExtraProject: {"haw/world"}, kubename.ExtraPipeline: {"574"}, kubename.ExtraJob: {"302"},
				kubename.ExtraRef: {"main"}, kubename.ExtraEnv: {"ICC-K8s"}, kubename.ExtraUsername: {"alice"},
			},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := g.Authenticate(t.Context(), want.token)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want.id, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestVerdicts changes one thing of a good token at a time and demands the exact reason.
func TestVerdicts(t *testing.T) {
	type C = authntest.Claims
	i, c := newIssuer(t)
	weak, other := authntest.NewKey(t, 1024), authntest.NewKey(t, 2048)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	encKey := authntest.NewKey(t, 2048)
	encJWK := encKey.JWK()
	encJWK.Use = "enc"
	i.Publish(i.UserKey.JWK(), i.CIKey.JWK(), weak.JWK(), encJWK,
		jose.JSONWebKey{Key: ec.Public(), KeyID: "ec", Algorithm: "ES256", Use: "sig"})

	cfg := config(i, c)
	cfg.UserState = func(id int64) (string, bool) {
		state, known := map[int64]string{
			1: "active", 101: "blocked", 102: "ldap_blocked", 103: "banned", 104: "deactivated",
			105: "blocked_pending_approval", 106: "deleted", 107: "something new", 108: "",
		}[id]
		return state, known
	}
	g := newGitLab(t, cfg)
	at := func(d time.Duration) int64 { return c.now().Add(d).Unix() }

	user := func(changes C) string { return i.UserToken(42, client, changes) }
	ci := func(changes C) string { return i.CIToken(20, ciAud, changes) }
	userClaims := authntest.Encode(i.UserClaims(42, client, nil))
	b64 := base64.RawURLEncoding.EncodeToString
	raw := func(header, claims, signature string) string {
		return b64([]byte(header)) + "." + b64([]byte(claims)) + "." + b64([]byte(signature))
	}
	resigned := func(alg string, key any, kid string) string { return oidctest.SignIDToken(key, kid, alg, userClaims) }
	publicPEM := func() []byte {
		der, err := x509.MarshalPKIXPublicKey(i.UserKey.Private.Public())
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	}
	signedWith := func(header map[jose.HeaderKey]any) string {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: i.UserKey.Private}, &jose.SignerOptions{ExtraHeaders: header})
		if err != nil {
			t.Fatal(err)
		}
		jws, err := signer.Sign([]byte(userClaims))
		if err != nil {
			t.Fatal(err)
		}
		s, err := jws.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	kid := jose.HeaderKey("kid")
	good := user(nil)
	parts := strings.Split(good, ".")
	foreign := authntest.Sign(other, C{"iss": "https://kubernetes.default.svc", "sub": "system:serviceaccount:a:b", "aud": []string{"x"}})
	huge := slices.Repeat([]string{"a-rather-long/group-name"}, 1000)

	cases := []struct {
		name  string
		token string
		want  authn.Code
	}{
		// Form and origin.
		{"empty", "", authn.CodeEmptyToken},
		{"personal access token", "glpat-AbC123", authn.CodeNotJWT},
		{"routable personal access token", "glpat-AbC123.01.0z8kf", authn.CodeNotJWT},
		{"CI_JOB_TOKEN", "glcbt-" + user(C{"iss": strings.TrimPrefix(i.URL, "https://"), "aud": "gitlab-authz-token"}), authn.CodeForeignIssuer},
		{"prefix before a token", "glcbt-" + good, authn.CodeMalformedHeader},
		{"four segments", good + ".x", authn.CodeNotJWT},
		{"no signature segment", parts[0] + "." + parts[1], authn.CodeNotJWT},
		{"line break inside", parts[0] + ".\n" + parts[1] + "." + parts[2], authn.CodeNotJWT},
		{"space around", " " + good, authn.CodeNotJWT},
		{"padding", parts[0] + "." + parts[1] + "." + parts[2] + "==", authn.CodeNotJWT},
		{"claims not JSON", raw(`{"alg":"RS256","kid":"x"}`, "hello", "s"), authn.CodeNotJWT},
		{"claims a list", raw(`{"alg":"RS256","kid":"x"}`, `["iss"]`, "s"), authn.CodeNotJWT},
		{"claims null", raw(`{"alg":"RS256","kid":"x"}`, "null", "s"), authn.CodeNotJWT},
		{"ServiceAccount token", foreign, authn.CodeForeignIssuer},
		{"issuer with slash", user(C{"iss": i.URL + "/"}), authn.CodeForeignIssuer},
		{"issuer upper case", user(C{"iss": strings.ToUpper(i.URL)}), authn.CodeForeignIssuer},
		{"issuer missing", user(C{"iss": nil}), authn.CodeForeignIssuer},
		{"issuer a list", user(C{"iss": []string{i.URL}}), authn.CodeForeignIssuer},
		{"issuer under another spelling", user(C{"iss": nil, "ISS": i.URL}), authn.CodeForeignIssuer},
		{"too large", user(C{"groups_direct": huge}), authn.CodeTokenTooLarge},

		// Algorithms, headers, keys (RFC 8725).
		{"alg none", raw(`{"alg":"none"}`, userClaims, ""), authn.CodeUnsupportedAlg},
		{"alg None with kid", raw(`{"alg":"None","kid":"`+i.UserKey.ID+`"}`, userClaims, ""), authn.CodeUnsupportedAlg},
		{"alg missing", raw(`{"kid":"`+i.UserKey.ID+`"}`, userClaims, "s"), authn.CodeUnsupportedAlg},
		{"alg a list", raw(`{"alg":["RS256"],"kid":"`+i.UserKey.ID+`"}`, userClaims, "s"), authn.CodeUnsupportedAlg},
		{"alg lower case", raw(`{"alg":"rs256","kid":"`+i.UserKey.ID+`"}`, userClaims, "s"), authn.CodeUnsupportedAlg},
		{"HS256 with the public key", resigned("HS256", publicPEM(), i.UserKey.ID), authn.CodeUnsupportedAlg},
		{"ES256", resigned("ES256", ec, "ec"), authn.CodeUnsupportedAlg},
		{"PS256", resigned("PS256", i.UserKey.Private, i.UserKey.ID), authn.CodeUnsupportedAlg},
		{"RS384", resigned("RS384", i.UserKey.Private, i.UserKey.ID), authn.CodeUnsupportedAlg},
		{"header not JSON", raw("x", userClaims, "s"), authn.CodeMalformedHeader},
		{"crit", signedWith(map[jose.HeaderKey]any{kid: i.UserKey.ID, "crit": []string{"b64"}, "b64": true}), authn.CodeCriticalHeader},
		{"crit empty", signedWith(map[jose.HeaderKey]any{kid: i.UserKey.ID, "crit": []string{}}), authn.CodeCriticalHeader},
		{"typ JWT", signedWith(map[jose.HeaderKey]any{kid: i.UserKey.ID, "typ": "JWT"}), authn.CodeOK},
		{"typ access token", signedWith(map[jose.HeaderKey]any{kid: i.UserKey.ID, "typ": "at+jwt"}), authn.CodeWrongTokenType},
		{"typ logout token", signedWith(map[jose.HeaderKey]any{kid: i.UserKey.ID, "typ": "logout+jwt"}), authn.CodeWrongTokenType},
		{"kid missing", signedWith(nil), authn.CodeMissingKeyID},
		{"kid empty", signedWith(map[jose.HeaderKey]any{kid: ""}), authn.CodeMissingKeyID},
		{"kid unknown", resigned("RS256", other.Private, other.ID), authn.CodeUnknownKey},
		{"kid a path", resigned("RS256", other.Private, "../../dev/null"), authn.CodeUnknownKey},
		{"own key under a known kid", resigned("RS256", other.Private, i.UserKey.ID), authn.CodeBadSignature},
		{"own key in the header", func() string {
			signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: other.Private}, &jose.SignerOptions{EmbedJWK: true, ExtraHeaders: map[jose.HeaderKey]any{kid: i.UserKey.ID}})
			if err != nil {
				t.Fatal(err)
			}
			jws, err := signer.Sign([]byte(userClaims))
			if err != nil {
				t.Fatal(err)
			}
			s, _ := jws.CompactSerialize()
			return s
		}(), authn.CodeBadSignature},
		{"jku elsewhere is not looked at", signedWith(map[jose.HeaderKey]any{kid: i.UserKey.ID, "jku": "https://evil.example/keys"}), authn.CodeOK},
		{"RSA 1024", resigned("RS256", weak.Private, weak.ID), authn.CodeWeakKey},
		{"kid of an EC key", resigned("RS256", other.Private, "ec"), authn.CodeUnsupportedKey},
		{"encryption key", resigned("RS256", encKey.Private, encKey.ID), authn.CodeUnsupportedKey},
		{"other claims under the signature", parts[0] + "." + b64([]byte(strings.Replace(userClaims, `"sub":"42"`, `"sub":"43"`, 1))) + "." + parts[2], authn.CodeBadSignature},
		{"no signature", parts[0] + "." + parts[1] + ".", authn.CodeBadSignature},
		{"a signature cut short", parts[0] + "." + parts[1] + "." + parts[2][:200], authn.CodeBadSignature},

		// Audience.
		{"second client", i.UserToken(42, client2, nil), authn.CodeOK},
		{"audience as a list", user(C{"aud": []string{client}}), authn.CodeOK},
		{"both clients", user(C{"aud": []string{client, client2}}), authn.CodeOK},
		{"another application", user(C{"aud": "another"}), authn.CodeWrongAudience},
		{"ours among others", user(C{"aud": []string{client, "another"}}), authn.CodeWrongAudience},
		{"others, then ours", user(C{"aud": []string{"another", client}}), authn.CodeWrongAudience},
		{"audience upper case", user(C{"aud": strings.ToUpper(client)}), authn.CodeWrongAudience},
		{"audience empty string", user(C{"aud": ""}), authn.CodeWrongAudience},
		{"audience missing", user(C{"aud": nil}), authn.CodeMissingAudience},
		{"audience empty list", user(C{"aud": []string{}}), authn.CodeMissingAudience},
		{"audience with null", user(C{"aud": []any{client, nil}}), authn.CodeMissingAudience},
		{"audience a number", user(C{"aud": 1}), authn.CodeMissingAudience},
		{"audiences of both kinds", user(C{"aud": []string{client, ciAud}}), authn.CodeMixedAudience},
		{"audiences of both kinds, job", ci(C{"aud": []string{ciAud, client}}), authn.CodeMixedAudience},

		// Times. The leeway is 10 s.
		{"expired just now", user(C{"exp": at(-10 * time.Second)}), authn.CodeOK},
		{"expired", user(C{"exp": at(-11 * time.Second)}), authn.CodeTokenExpired},
		{"expired in 1970", user(C{"exp": 0}), authn.CodeTokenExpired},
		{"exp missing", user(C{"exp": nil}), authn.CodeMissingExpiry},
		{"exp a string", user(C{"exp": "1795000100"}), authn.CodeMalformedClaims},
		{"exp null", user(C{"exp": rawNull{}}), authn.CodeMalformedClaims},
		{"exp huge", user(C{"exp": 1e300}), authn.CodeMalformedClaims},
		{"exp negative", user(C{"exp": -5}), authn.CodeMalformedClaims},
		{"exp a fraction", user(C{"exp": float64(at(time.Minute)) + 0.5}), authn.CodeOK},
		{"iat missing", user(C{"iat": nil}), authn.CodeMissingIssuedAt},
		{"iat a string", user(C{"iat": "now"}), authn.CodeMalformedClaims},
		{"iat a little ahead", user(C{"iat": at(70 * time.Second)}), authn.CodeOK},
		{"iat ahead", user(C{"iat": at(71 * time.Second), "exp": at(time.Hour)}), authn.CodeIssuedInFuture},
		{"iat far ahead", user(C{"iat": at(24 * time.Hour), "exp": at(25 * time.Hour)}), authn.CodeIssuedInFuture},
		{"nbf a little ahead", user(C{"nbf": at(10 * time.Second)}), authn.CodeOK},
		{"nbf ahead", user(C{"nbf": at(11 * time.Second)}), authn.CodeNotYetValid},
		{"nbf far ahead", user(C{"nbf": at(time.Hour)}), authn.CodeNotYetValid},
		{"nbf a string", user(C{"nbf": "x"}), authn.CodeMalformedClaims},

		// People.
		{"sub 0", user(C{"sub": "0"}), authn.CodeUserSubject},
		{"sub with zero", user(C{"sub": "042"}), authn.CodeUserSubject},
		{"sub with sign", user(C{"sub": "+42"}), authn.CodeUserSubject},
		{"sub negative", user(C{"sub": "-42"}), authn.CodeUserSubject},
		{"sub with space", user(C{"sub": "42 "}), authn.CodeUserSubject},
		{"sub a name", user(C{"sub": "system:masters"}), authn.CodeUserSubject},
		{"sub full-width digits", user(C{"sub": "４２"}), authn.CodeUserSubject},
		{"sub too large", user(C{"sub": "9223372036854775808"}), authn.CodeUserSubject},
		{"sub largest", user(C{"sub": "9223372036854775807"}), authn.CodeOK},
		{"sub empty", user(C{"sub": ""}), authn.CodeUserSubject},
		{"sub missing", user(C{"sub": nil}), authn.CodeUserSubject},
		{"sub a number", user(C{"sub": 42}), authn.CodeMalformedClaims},
		{"job's token for people", i.CIToken(20, client, nil), authn.CodeUserIsCIToken},
		{"job's token for people with a numeric sub", i.CIToken(20, client, C{"sub": "42"}), authn.CodeUserIsCIToken},
		{"person with job_id", user(C{"job_id": "302"}), authn.CodeUserIsCIToken},
		{"person with job_id null", user(C{"job_id": rawNull{}}), authn.CodeUserIsCIToken},
		{"person with pipeline_id", user(C{"pipeline_id": "1"}), authn.CodeUserIsCIToken},
		{"person with runner_id", user(C{"runner_id": 1}), authn.CodeUserIsCIToken},
		{"person with user_login", user(C{"user_login": "alice"}), authn.CodeUserIsCIToken},
		{"person with project_id", user(C{"project_id": "20"}), authn.CodeUserIsCIToken},
		{"person with project_path alone", user(C{"project_path": "haw/world", "sha": "1", "environment": "x", "jti": "1"}), authn.CodeOK},
		{"active", i.UserToken(1, client, nil), authn.CodeOK},
		{"blocked", i.UserToken(101, client, nil), authn.CodeUserBlocked},
		{"blocked by LDAP", i.UserToken(102, client, nil), authn.CodeUserBlocked},
		{"banned", i.UserToken(103, client, nil), authn.CodeUserBanned},
		{"deactivated", i.UserToken(104, client, nil), authn.CodeUserDeactivated},
		{"pending", i.UserToken(105, client, nil), authn.CodeUserPendingApproval},
		{"deleted", i.UserToken(106, client, nil), authn.CodeUserDeleted},
		{"new kind of state", i.UserToken(107, client, nil), authn.CodeUserNotActive},
		{"known with an empty state", i.UserToken(108, client, nil), authn.CodeUserNotActive},

		// CI jobs.
		{"person's token for jobs", i.UserToken(42, ciAud, nil), authn.CodeCIIsUserToken},
		{"job with a person's sub", ci(C{"sub": "42"}), authn.CodeCIIsUserToken},
		{"job without job_id", ci(C{"job_id": nil}), authn.CodeCIMissingClaim},
		{"job without pipeline_id", ci(C{"pipeline_id": nil}), authn.CodeCIMissingClaim},
		{"job without project_id", ci(C{"project_id": nil}), authn.CodeCIMissingClaim},
		{"job without ref_type", ci(C{"ref_type": nil}), authn.CodeCIMissingClaim},
		{"job without ref_protected", ci(C{"ref_protected": nil}), authn.CodeCIMissingClaim},
		{"job without jti", ci(C{"jti": nil}), authn.CodeCIMissingClaim},
		{"job without nbf", ci(C{"nbf": nil}), authn.CodeCIMissingClaim},
		{"job without sub", ci(C{"sub": nil}), authn.CodeCIMissingClaim},
		{"project_id a number", ci(C{"project_id": 20}), authn.CodeCIMissingClaim},
		{"project_id a name", ci(C{"project_id": "haw/world", "job_project_id": "haw/world"}), authn.CodeCIMalformedClaim},
		{"project_id with zero", ci(C{"project_id": "020", "job_project_id": "020"}), authn.CodeCIMalformedClaim},
		{"job_id a name", ci(C{"job_id": "x"}), authn.CodeCIMalformedClaim},
		{"fork", ci(C{"job_project_id": "21"}), authn.CodeCIForkMergeRequest},
		{"fork, number", ci(C{"job_project_id": 20}), authn.CodeCIForkMergeRequest},
		{"fork, null", ci(C{"job_project_id": rawNull{}}), authn.CodeCIForkMergeRequest},
		{"merge request of the project itself", ci(C{"pipeline_source": "merge_request_event"}), authn.CodeOK},
		{"old GitLab, push", ci(C{"job_project_id": nil}), authn.CodeOK},
		{"old GitLab, merge request", ci(C{"job_project_id": nil, "pipeline_source": "merge_request_event"}), authn.CodeCIForkMergeRequest},
		{"old GitLab, no source", ci(C{"job_project_id": nil, "pipeline_source": nil}), authn.CodeCIMissingClaim},
		{"no environment", ci(C{"environment": nil}), authn.CodeCINoEnvironment},
		{"empty environment", ci(C{"environment": ""}), authn.CodeCINoEnvironment},
		{"another environment", ci(C{"environment": "production"}), authn.CodeCIWrongEnvironment},
		{"environment in another case", ci(C{"environment": "icc-k8s"}), authn.CodeCIWrongEnvironment},
		{"environment with a suffix", ci(C{"environment": "ICC-K8s/x"}), authn.CodeCIWrongEnvironment},
		{"unprotected", ci(C{"ref_protected": "false"}), authn.CodeCIRefUnprotected},
		{"protected in another case", ci(C{"ref_protected": "True"}), authn.CodeCIRefUnprotected},
		{"protected as a boolean", ci(C{"ref_protected": true}), authn.CodeCIMissingClaim},
		{"unprotected, exempt project", i.CIToken(43, ciAud, C{"ref_protected": "false"}), authn.CodeOK},
		{"unprotected fork of an exempt project", i.CIToken(43, ciAud, C{"ref_protected": "false", "job_project_id": "20"}), authn.CodeCIForkMergeRequest},
		{"at the maximum age", ci(C{"iat": at(-time.Hour - 10*time.Second)}), authn.CodeOK},
		{"too old", ci(C{"iat": at(-time.Hour - 11*time.Second)}), authn.CodeCITokenTooOld},
		{"job without a person", ci(C{"user_id": "", "user_login": rawNull{}}), authn.CodeOK},
		{"job of a blocked person", ci(C{"user_id": "101"}), authn.CodeCIUserNotActive},
		{"expired job token", ci(C{"exp": at(-time.Minute)}), authn.CodeTokenExpired},
		{"job token signed with the other key", authntest.Sign(i.UserKey, i.CIClaims(20, ciAud, nil)), authn.CodeOK},
	}
	reached := map[authn.Code]bool{}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			if got := verdict(t, g, tc.token); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
			reached[tc.want] = true
		})
	}
	if got := i.KeyReads(); got > 1 {
		t.Errorf("%d key fetches for the whole table within one moment, want 1", got)
	}
	// Every code is reached here, or where it is named below.
	for _, elsewhere := range []authn.Code{
		authn.CodeNotMine, authn.CodeUnsafeIdentity, authn.CodeInternal, authn.CodeAudienceNotServed, // TestOutcomes, TestAPIAudiences
		authn.CodeMethodNotAllowed, authn.CodeContentType, authn.CodeBodyTooLarge, authn.CodeBodyUnreadable, authn.CodeNotTokenReview, // TestMalformedRequests
		authn.CodeKeysUnavailable, authn.CodeKeysTooOld, authn.CodeReviewCancelled, authn.CodeDiscoveryMismatch, // keys_test.go
		authn.CodeWrongIssuer,                                 // TestCIIssuer
		authn.CodeUserNotAdmitted, authn.CodeAdmissionUnknown, // TestAdmission
	} {
		reached[elsewhere] = true
	}
	for _, r := range authn.Reasons() {
		if !reached[r.Code] {
			t.Errorf("no case reaches %s", r.Code)
		}
	}
}

// rawNull is a claim that is present and null; in authntest.Claims nil removes the claim.
type rawNull struct{}

func (rawNull) MarshalJSON() ([]byte, error) { return []byte("null"), nil }

func TestCIIssuer(t *testing.T) {
	i, c := newIssuer(t)
	cfg := config(i, c)
	cfg.CIIssuer = "https://ci.example.com"
	g := newGitLab(t, cfg)
	of := func(iss string) authntest.Claims { return authntest.Claims{"iss": iss} }
	for name, tc := range map[string]struct {
		token string
		want  authn.Code
	}{
		"job of the CI issuer":          {i.CIToken(20, ciAud, of(cfg.CIIssuer)), authn.CodeOK},
		"job of GitLab's issuer":        {i.CIToken(20, ciAud, nil), authn.CodeWrongIssuer},
		"person of GitLab's issuer":     {i.UserToken(42, client, nil), authn.CodeOK},
		"person of the CI issuer":       {i.UserToken(42, client, of(cfg.CIIssuer)), authn.CodeWrongIssuer},
		"job for people, CI issuer":     {i.CIToken(20, client, of(cfg.CIIssuer)), authn.CodeWrongIssuer},
		"job for people, GitLab issuer": {i.CIToken(20, client, nil), authn.CodeUserIsCIToken},
	} {
		if got := verdict(t, g, tc.token); got != tc.want {
			t.Errorf("%s: got %s, want %s", name, got, tc.want)
		}
	}
}

func TestCITokensAreOffWithoutAnAudience(t *testing.T) {
	i, c := newIssuer(t)
	cfg := config(i, c)
	cfg.CIAudience, cfg.Environments = "", nil
	g := newGitLab(t, cfg)
	if got := verdict(t, g, i.CIToken(20, ciAud, nil)); got != authn.CodeWrongAudience {
		t.Errorf("got %s", got)
	}
	if got := verdict(t, g, i.CIToken(20, "", nil)); got != authn.CodeWrongAudience {
		t.Errorf("empty audience: got %s", got)
	}
}

func TestNewReportsAllFaults(t *testing.T) {
	good := authn.Config{Issuer: "https://gitlab.example.com", ClientIDs: []string{client}}
	for name, tc := range map[string]struct {
		change func(*authn.Config)
		want   []string
	}{
		"good":           {func(*authn.Config) {}, nil},
		"good, relative": {func(c *authn.Config) { c.Issuer = "https://example.com/gitlab" }, nil},
		"http issuer with keys elsewhere": {func(c *authn.Config) {
			c.Issuer, c.JWKSURL = "http://gitlab.example.com", "https://gitlab.internal/oauth/discovery/keys"
		}, nil},
		"http issuer":        {func(c *authn.Config) { c.Issuer = "http://gitlab.example.com" }, []string{"not https"}},
		"slash":              {func(c *authn.Config) { c.Issuer += "/" }, []string{"ends in a slash"}},
		"http keys":          {func(c *authn.Config) { c.JWKSURL = "http://gitlab.example.com/keys" }, []string{"not https"}},
		"credentials in URL": {func(c *authn.Config) { c.Issuer = "https://a:b@gitlab.example.com" }, []string{"not a plain URL"}},
		"same audience": {
			func(c *authn.Config) { c.CIAudience, c.Environments = client, []string{"ICC-K8s"} },
			[]string{"audiences of their own"},
		},
		"no environment": {func(c *authn.Config) { c.CIAudience = ciAud }, []string{"environments: none"}},
		"CI issuer":      {func(c *authn.Config) { c.CIIssuer = "ci" }, []string{"CI issuer"}},
		"nothing": {
			func(c *authn.Config) { *c = authn.Config{Leeway: time.Hour, MaxCIAge: -1} },
			[]string{"issuer: missing", "audiences: none", "must not be negative", "leeway 1h0m0s"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			tc.change(&cfg)
			_, err := authn.New(cfg)
			if (err == nil) != (tc.want == nil) {
				t.Fatalf("got %v", err)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
}

func TestReasonsAreCompleteAndUnique(t *testing.T) {
	all := authn.Reasons()
	seen := map[authn.Code]bool{}
	outcomes := map[authn.Outcome]int{}
	for _, r := range all {
		if seen[r.Code] || r.Cause == "" || strings.HasSuffix(r.Cause, ".") || !strings.HasSuffix(r.Cure, ".") {
			t.Errorf("%+v", r)
		}
		if strings.Trim(string(r.Code), "abcdefghijklmnopqrstuvwxyz_") != "" {
			t.Errorf("code %q", r.Code)
		}
		seen[r.Code] = true
		outcomes[r.Outcome]++
	}
	if len(all) < 25 || len(outcomes) != 5 {
		t.Errorf("%d codes, outcomes %v", len(all), slices.Collect(maps.Keys(outcomes)))
	}
	if _, ok := authn.ReasonFor("no such code"); ok {
		t.Error("explained a code that does not exist")
	}
}

func TestErrorsKeepTheirMeaning(t *testing.T) {
	i, c := newIssuer(t)
	g := newGitLab(t, config(i, c))
	_, err := g.Authenticate(t.Context(), "opaque")
	if !errors.Is(err, authn.ErrNotMine) {
		t.Errorf("%v is not ErrNotMine", err)
	}
	_, err = g.Authenticate(t.Context(), i.UserToken(42, client, authntest.Claims{"exp": c.now().Add(-35 * time.Second).Unix()}))
	var d *authn.DeniedError
	if !errors.As(err, &d) || d.Error() != "token_expired: the token expired 35s ago" || d.Kind != authn.KindUser || errors.Is(err, authn.ErrNotMine) {
		t.Errorf("got %#v", err)
	}
	i.SetDown(true)
	g = newGitLab(t, config(i, c))
	_, err = g.Authenticate(t.Context(), i.UserToken(42, client, nil))
	var u *authn.UndecidedError
	if !errors.As(err, &u) || u.Code != authn.CodeKeysUnavailable || errors.As(err, &d) {
		t.Errorf("got %#v", err)
	}
	if got := authn.CodeOf(context.Canceled); got != authn.CodeReviewCancelled {
		t.Errorf("got %s", got)
	}
	if got := authn.CodeOf(http.ErrBodyNotAllowed); got != authn.CodeInternal {
		t.Errorf("got %s", got)
	}
}

// TestAdmission: a condition on people is asked after everything else, and not about jobs.
func TestAdmission(t *testing.T) {
	i, c := newIssuer(t)
	known := false
	cfg := config(i, c)
	cfg.UserState = func(id int64) (string, bool) { return "blocked", id == 101 }
	cfg.Admitted = func(id int64) (bool, bool) { return known && id == 42, known }
	g := newGitLab(t, cfg)
	if got := verdict(t, g, i.UserToken(42, client, nil)); got != authn.CodeAdmissionUnknown {
		t.Errorf("before GitLab was read: got %s", got)
	}
	known = true
	for token, want := range map[string]authn.Code{
		i.UserToken(42, client, nil):                        authn.CodeOK,
		i.UserToken(43, client, nil):                        authn.CodeUserNotAdmitted,
		i.UserToken(101, client, nil):                       authn.CodeUserBlocked,
		i.UserToken(43, client, authntest.Claims{"exp": 1}): authn.CodeTokenExpired,
		i.CIToken(20, ciAud, nil):                           authn.CodeOK,
	} {
		if got := verdict(t, g, token); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestKeyFile(t *testing.T) {
	i, c := newIssuer(t)
	i.SetDown(true)
	file := filepath.Join(t.TempDir(), "keys.json")
	cfg := config(i, c)
	cfg.KeyFile = file
	g := newGitLab(t, cfg)
	publish := func(k authntest.Key) {
		b, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{k.JWK()}})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	token := i.UserToken(42, client, authntest.Claims{"exp": c.now().Add(time.Hour).Unix()})
	if got := verdict(t, g, token); got != authn.CodeKeysUnavailable || !strings.Contains(g.Ready().Error(), file) {
		t.Errorf("no file: got %s, ready %v", got, g.Ready())
	}
	publish(i.UserKey)
	c.advance(10 * time.Second)
	if got := verdict(t, g, token); got != authn.CodeOK {
		t.Errorf("got %s", got)
	}
	publish(i.CIKey)
	c.advance(5 * time.Minute)
	if got := verdict(t, g, token); got != authn.CodeUnknownKey {
		t.Errorf("withdrawn key: got %s", got)
	}
}
