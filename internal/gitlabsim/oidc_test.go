package gitlabsim

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
)

func challenge(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func (f *fixture) authorizeURL(change func(q url.Values)) string {
	q := url.Values{
		"client_id": {"kubectl"}, "redirect_uri": {"http://localhost:8000"}, "response_type": {"code"}, "scope": {"openid"},
		"state": {"st&te"}, "nonce": {"n-1"}, "access_type": {"offline"}, "code_challenge": {challenge("verifier")}, "code_challenge_method": {"S256"},
	}
	if change != nil {
		change(q)
	}
	return f.URL() + "/oauth/authorize?" + q.Encode()
}

// code logs alice in and returns the authorization code.
func (f *fixture) code(change func(q url.Values)) string {
	f.t.Helper()
	callback, err := Login(f.t.Context(), f.client, f.authorizeURL(change), "alice", "alice-pw")
	if err != nil {
		f.t.Fatal(err)
	}
	u, err := url.Parse(callback)
	if err != nil {
		f.t.Fatal(err)
	}
	if u.Query().Get("state") != "st&te" || u.Query().Get("code") == "" {
		f.t.Fatalf("callback %q", callback)
	}
	return u.Query().Get("code")
}

func exchange(code string) url.Values {
	return url.Values{
		"grant_type": {"authorization_code"}, "client_id": {"kubectl"}, "code": {code},
		"redirect_uri": {"http://localhost:8000"}, "code_verifier": {"verifier"},
	}
}

// claims verifies an ID token as a client would and returns its claims.
func (f *fixture) claims(token, audience string) map[string]any {
	f.t.Helper()
	ctx := oidc.ClientContext(f.t.Context(), f.client)
	p, err := oidc.NewProvider(ctx, f.URL())
	if err != nil {
		f.t.Fatal(err)
	}
	verified, err := p.VerifierContext(ctx, &oidc.Config{ClientID: audience, Now: f.clock.now}).Verify(ctx, token)
	if err != nil {
		f.t.Fatal(err)
	}
	var out map[string]any
	if err := verified.Claims(&out); err != nil {
		f.t.Fatal(err)
	}
	return out
}

func TestDiscoveryAndKeys(t *testing.T) {
	f := newFixture(t, nil)
	doc := decode[map[string]any](t, f.do("GET", "/.well-known/openid-configuration", "", nil))
	equal(t, "keys of the document", sortedKeys(doc), []string{
		"authorization_endpoint", "claim_types_supported", "claims_supported",
		"code_challenge_methods_supported", "grant_types_supported", "id_token_signing_alg_values_supported", "introspection_endpoint", "issuer", "jwks_uri",
		"response_modes_supported", "response_types_supported", "revocation_endpoint", "scopes_supported", "subject_types_supported",
		"token_endpoint", "token_endpoint_auth_methods_supported", "userinfo_endpoint",
	})
	equal(t, "issuer", doc["issuer"], any(f.URL()))
	res := f.do("GET", "/oauth/discovery/keys", "", nil)
	equal(t, "Cache-Control", res.header.Get("Cache-Control"), "max-age=86400, public, must-revalidate, no-transform")
	set := decode[struct{ Keys []map[string]any }](t, res)
	if len(set.Keys) != 2 {
		t.Fatalf("%d keys, want the user's and CI's", len(set.Keys))
	}
	for _, k := range set.Keys {
		equal(t, "members of a key", sortedKeys(k), []string{"alg", "e", "kid", "kty", "n", "use"})
		equal(t, "length of a thumbprint", len(k["kid"].(string)), 43)
	}
	old := set.Keys[0]["kid"]
	if err := f.RotateUserKey(); err != nil {
		t.Fatal(err)
	}
	set = decode[struct{ Keys []map[string]any }](t, f.do("GET", "/oauth/discovery/keys", "", nil))
	if set.Keys[0]["kid"] == old || len(set.Keys) != 2 {
		t.Error("rotation is abrupt: the old key must be gone")
	}
}

func TestCodeFlow(t *testing.T) {
	f := newFixture(t, nil)
	res := f.do("POST", "/oauth/token", "", exchange(f.code(nil)))
	body := decode[map[string]any](t, res)
	equal(t, "keys of the answer", sortedKeys(body), []string{"access_token", "created_at", "expires_in", "id_token", "refresh_token", "scope", "token_type"})
	equal(t, "length of an access token", len(body["access_token"].(string)), 64)
	equal(t, "expires_in", body["expires_in"], any(7200.0))
	claims := f.claims(body["id_token"].(string), "kubectl")
	equal(t, "claims", sortedKeys(claims), []string{
		"aud", "auth_time", "exp", "groups_direct", "iat", "iss", "name", "nickname", "nonce",
		"picture", "preferred_username", "profile", "sub", "sub_legacy",
	})
	equal(t, "sub is text", claims["sub"], any("41"))
	equal(t, "nonce", claims["nonce"], any("n-1"))
	equal(t, "lifetime", claims["exp"].(float64)-claims["iat"].(float64), 120.0)
	equal(t, "groups_direct", claims["groups_direct"], any([]any{"acme"}))

	// Refresh: single use, rotated, a new ID token without nonce; the old access token dies.
	refresh := func(token any) response {
		return f.do("POST", "/oauth/token", "", url.Values{"grant_type": {"refresh_token"}, "client_id": {"kubectl"}, "refresh_token": {token.(string)}})
	}
	f.clock.add(3 * time.Hour)
	second := decode[map[string]any](t, refresh(body["refresh_token"]))
	again := f.claims(second["id_token"].(string), "kubectl")
	if _, ok := again["nonce"]; ok {
		t.Error("a refreshed ID token has a nonce")
	}
	equal(t, "auth_time stays", again["auth_time"], claims["auth_time"])
	f.want(refresh(body["refresh_token"]), 400, `{"error":"invalid_grant","error_description":"The provided authorization grant is invalid, expired, revoked, does not match the redirection URI used in the authorization request, or was issued to another client."}`)

	bearer := func(token any) int {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", f.URL()+"/oauth/userinfo", nil)
		req.Header.Set("Authorization", "Bearer "+token.(string))
		res, err := f.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode == 200 {
			var info map[string]any
			if err := json.NewDecoder(res.Body).Decode(&info); err != nil {
				t.Fatal(err)
			}
			equal(t, "userinfo", sortedKeys(info), []string{"groups", "https://gitlab.org/claims/groups/maintainer", "name", "nickname", "picture", "preferred_username", "profile", "sub", "sub_legacy"})
			equal(t, "groups include subgroups", info["groups"], any([]any{"acme", "acme/platform"}))
		}
		return res.StatusCode
	}
	equal(t, "old access token", bearer(body["access_token"]), 401)
	equal(t, "new access token", bearer(second["access_token"]), 200)

	// Revoked: the refresh token dies too.
	f.want(f.do("POST", "/oauth/revoke", "", url.Values{"client_id": {"kubectl"}, "token": {second["access_token"].(string)}}), 200, "{}")
	equal(t, "revoked", bearer(second["access_token"]), 401)
	equal(t, "refresh after revocation", refresh(second["refresh_token"]).status, 400)
}

func TestTokenRefusals(t *testing.T) {
	f := newFixture(t, nil)
	for name, c := range map[string]struct {
		authorize func(q url.Values)
		change    func(q url.Values)
		before    func()
		status    int
		code      string
	}{
		"wrong verifier":      {change: func(q url.Values) { q.Set("code_verifier", "guess") }, status: 400, code: "invalid_grant"},
		"no verifier":         {change: func(q url.Values) { q.Del("code_verifier") }, status: 400, code: "invalid_request"},
		"verifier not asked":  {authorize: func(q url.Values) { q.Del("code_challenge"); q.Del("code_challenge_method") }, status: 400, code: "invalid_grant"},
		"S256 as plain":       {change: func(q url.Values) { q.Set("code_verifier", challenge("verifier")) }, status: 400, code: "invalid_grant"},
		"other redirect":      {change: func(q url.Values) { q.Set("redirect_uri", "http://localhost:18000") }, status: 400, code: "invalid_grant"},
		"no redirect":         {change: func(q url.Values) { q.Del("redirect_uri") }, status: 400, code: "invalid_request"},
		"unknown client":      {change: func(q url.Values) { q.Set("client_id", "nobody") }, status: 401, code: "invalid_client"},
		"confidential no key": {change: func(q url.Values) { q.Set("client_id", "web") }, status: 401, code: "invalid_client"},
		"other client":        {change: func(q url.Values) { q.Set("client_id", "web"); q.Set("client_secret", "gloas-x") }, status: 400, code: "invalid_grant"},
		"no grant type":       {change: func(q url.Values) { q.Del("grant_type") }, status: 400, code: "invalid_request"},
		"odd grant type":      {change: func(q url.Values) { q.Set("grant_type", "magic") }, status: 400, code: "unsupported_grant_type"},
		"too late":            {before: func() { f.clock.add(10 * time.Minute) }, status: 400, code: "invalid_grant"},
	} {
		t.Run(name, func(t *testing.T) {
			code := f.code(c.authorize)
			form := exchange(code)
			if c.change != nil {
				c.change(form)
			}
			if c.before != nil {
				c.before()
			}
			res := f.do("POST", "/oauth/token", "", form)
			if got := decode[map[string]any](t, res)["error"]; res.status != c.status || got != c.code {
				t.Errorf("got %d %v, want %d %s", res.status, got, c.status, c.code)
			}
		})
	}
	t.Run("code used twice", func(t *testing.T) {
		form := exchange(f.code(nil))
		equal(t, "first", f.do("POST", "/oauth/token", "", form).status, 200)
		equal(t, "second", decode[map[string]any](t, f.do("POST", "/oauth/token", "", form))["error"], any("invalid_grant"))
	})
	t.Run("plain and Basic", func(t *testing.T) {
		code := f.code(func(q url.Values) { q.Set("code_challenge", "abc"); q.Set("code_challenge_method", "plain") })
		form := exchange(code)
		form.Set("code_verifier", "abc")
		equal(t, "status", f.do("POST", "/oauth/token", "", form).status, 200)
	})
}

func TestAuthorizeRefusals(t *testing.T) {
	f := newFixture(t, nil)
	// Shown, never redirected to, and only to somebody who has logged in.
	for name, c := range map[string]struct {
		change func(q url.Values)
		text   string
	}{
		"wrong client":          {func(q url.Values) { q.Set("client_id", "x") }, "unknown client"},
		"wrong redirect":        {func(q url.Values) { q.Set("redirect_uri", "https://evil.example.com") }, "redirect URI included is not valid"},
		"localhost, any port":   {func(q url.Values) { q.Set("redirect_uri", "http://localhost:9999") }, "redirect URI included is not valid"},
		"deeper path":           {func(q url.Values) { q.Set("redirect_uri", "http://localhost:8000/deep") }, "redirect URI included is not valid"},
		"no redirect":           {func(q url.Values) { q.Del("redirect_uri") }, "redirect URI included is not valid"},
		"offline_access":        {func(q url.Values) { q.Set("scope", "openid offline_access") }, "scope is invalid"},
		"scope of the instance": {func(q url.Values) { q.Set("scope", "openid api") }, "scope is invalid"},
		"implicit":              {func(q url.Values) { q.Set("response_type", "token") }, "does not support this response type"},
		"challenge method":      {func(q url.Values) { q.Set("code_challenge_method", "md5") }, "must be plain or S256"},
	} {
		t.Run(name, func(t *testing.T) {
			callback, err := Login(t.Context(), f.Client(), f.authorizeURL(c.change), "alice", "alice-pw")
			if err == nil || !strings.Contains(err.Error(), "GitLab answers 200") || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %q, %v", callback, err)
			}
		})
	}
}

func TestRedirectURIs(t *testing.T) {
	for _, c := range []struct {
		allowed, given string
		want           bool
	}{
		{"http://localhost:8000", "http://localhost:8000", true},
		{"http://localhost:8000", "http://localhost:8000/", true},
		{"http://localhost:8000", "http://localhost:8001", false},
		{"http://127.0.0.1/cb", "http://127.0.0.1:5555/cb", true},
		{"http://127.0.0.1/cb", "http://127.0.0.2:5555/cb", false},
		{"http://[::1]:1/cb", "http://[::1]:2/cb", true},
		{"http://10.0.0.1/cb", "http://10.0.0.1:5555/cb", false},
		{"http://localhost:8000", "https://localhost:8000", false},
		{"http://localhost:8000", "http://user@localhost:8000", false},
		{"http://localhost:8000", "http://localhost:8000#x", false},
		{"http://localhost:8000", "http://localhost:8000?x=1", false},
	} {
		if got := redirectMatches(c.allowed, c.given); got != c.want {
			t.Errorf("redirectMatches(%q, %q) = %v", c.allowed, c.given, got)
		}
	}
}

func TestLoginForm(t *testing.T) {
	f := newFixture(t, nil)
	for _, c := range []struct{ user, password, want string }{
		{"alice", "wrong", "Invalid login or password."},
		{"nobody", "", "Invalid login or password."},
		{"project_20_bot_abc", "", "Invalid login or password."},
		{"mallory", "mallory-pw", "Your account has been blocked."},
		{"mallory", "wrong", "Invalid login or password."},
	} {
		_, err := Login(t.Context(), f.client, f.authorizeURL(nil), c.user, c.password)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Login(%s): %v, want %q", c.user, err, c.want)
		}
	}
	// What comes in the URL stays data.
	p := f.person()
	p.signIn(p.do("GET", "/", nil))
	hostile := f.authorizeURL(func(q url.Values) { q.Set("state", `"><script>x</script>`) })
	if shown := p.do("GET", strings.TrimPrefix(hostile, f.URL()), nil); strings.Contains(shown.body, "<script>") || !agrees.MatchString(shown.body) {
		t.Errorf("the consent page is not escaped:\n%s", shown.body)
	}
	// No CSRF token, no login.
	res := f.do("POST", "/users/sign_in", "", url.Values{"user[login]": {"alice"}, "user[password]": {"alice-pw"}, "return_to": {"x"}})
	equal(t, "without a CSRF token", res.status, 422)
	if len(res.header.Values("Set-Cookie")) > 0 {
		t.Error("a refused login sets a cookie")
	}
}

func TestBlockedUsersGetNoTokens(t *testing.T) {
	f := newFixture(t, nil)
	first := decode[map[string]any](t, f.do("POST", "/oauth/token", "", exchange(f.code(nil))))
	code := f.code(nil)
	if err := f.World().SetUserState(41, StateDeactivated); err != nil {
		t.Fatal(err)
	}
	equal(t, "code of a blocked user", f.do("POST", "/oauth/token", "", exchange(code)).status, 500)
	refresh := url.Values{"grant_type": {"refresh_token"}, "client_id": {"kubectl"}, "refresh_token": {first["refresh_token"].(string)}}
	equal(t, "refresh of a blocked user", f.do("POST", "/oauth/token", "", refresh).status, 500)
	if _, err := f.MintUserIDToken(41, "kubectl", TokenOptions{}); err == nil {
		t.Error("MintUserIDToken mints for a blocked user")
	}
	// The refresh token was used up all the same.
	_ = f.World().SetUserState(41, StateActive)
	equal(t, "refresh after unblocking", f.do("POST", "/oauth/token", "", refresh).status, 400)
}

func TestEmailAndOldClaims(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.OldClaims = true; o.IDTokenLifetime = time.Hour })
	token, err := f.MintUserIDToken(1, "kubectl", TokenOptions{Scopes: []string{"openid", "email"}})
	if err != nil {
		t.Fatal(err)
	}
	claims := f.claims(token, "kubectl")
	equal(t, "claims", sortedKeys(claims), []string{"aud", "email", "email_verified", "exp", "groups_direct", "iat", "iss", "sub", "sub_legacy"})
	equal(t, "email", claims["email"], any("root@example.com"))
	equal(t, "lifetime", claims["exp"].(float64)-claims["iat"].(float64), 3600.0)
}

func TestCIIDToken(t *testing.T) {
	f := newFixture(t, nil)
	job := JobContext{ProjectID: 20, JobID: 302, PipelineID: 574, UserID: 42, Ref: "main", RefProtected: true, Environment: "ICC-K8s", RunnerID: 1}
	token, err := f.MintCIIDToken(job, []string{"https://k8s.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	got := f.claims(token, "https://k8s.example.com")
	delete(got, "jti")
	iat := float64(start.Unix())
	host := strings.TrimPrefix(f.URL(), "https://")
	equal(t, "claims", got, map[string]any{
		"namespace_id": "8", "namespace_path": "acme/platform", "project_id": "20", "project_path": "acme/platform/api",
		"job_project_id": "20", "job_project_path": "acme/platform/api", "job_namespace_id": "8", "job_namespace_path": "acme/platform",
		"user_id": "42", "user_login": "bob", "user_email": "bob@example.com", "user_access_level": "developer",
		"pipeline_id": "574", "pipeline_source": "push", "job_id": "302", "job_source": "push", "ref": "main", "ref_type": "branch",
		"ref_path": "refs/heads/main", "ref_protected": "true", "environment": "ICC-K8s", "environment_protected": "false",
		"deployment_tier": "other", "environment_action": "start", "runner_id": 1.0, "runner_environment": "self-hosted",
		"sha": "714a629c0b401fdce83e847fc9589983fc6f46bc", "ci_config_sha": "714a629c0b401fdce83e847fc9589983fc6f46bc", "project_visibility": "private",
		"ci_config_ref_uri": host + "/acme/platform/api//.gitlab-ci.yml@refs/heads/main",
		"iss":               f.URL(), "aud": "https://k8s.example.com", "iat": iat, "nbf": iat - 5, "exp": iat + 3600,
		"sub": "project_path:acme/platform/api:ref_type:branch:ref:main",
	})
	// It is signed by the CI key, which is another one than the user's.
	parsed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		t.Fatal(err)
	}
	ci, _ := publicKey(testKeys()[1])
	equal(t, "kid", parsed.Signatures[0].Protected.KeyID, ci.KeyID)
	equal(t, "typ", parsed.Signatures[0].Protected.ExtraHeaders["typ"], any("JWT"))

	// A merge request from a fork: project_* is the fork, job_project_* where it runs.
	job.SourceProjectID, job.UserID, job.PipelineSource, job.Timeout, job.Environment = 21, 41, "merge_request_event", -1, ""
	token, err = f.MintCIIDToken(job, []string{"a", "b"})
	if err != nil {
		t.Fatal(err)
	}
	got = f.claims(token, "b")
	want := map[string]any{
		"project_id": "21", "project_path": "alice/notes", "job_project_id": "20", "namespace_path": "alice",
		"user_access_level": "owner", "aud": []any{"a", "b"}, "exp": iat + 300, "sub": "project_path:alice/notes:ref_type:branch:ref:main",
	}
	for k, v := range want {
		equal(t, k, got[k], v)
	}
	for _, k := range []string{"environment", "deployment_tier"} {
		if _, ok := got[k]; ok {
			t.Errorf("a job without environment has claim %s", k)
		}
	}
	if _, err := f.MintCIIDToken(job, nil); err == nil {
		t.Error("a CI ID token without audience")
	}
}

func TestJobToken(t *testing.T) {
	f := newFixture(t, nil)
	token := f.JobToken(JobContext{ProjectID: 20, JobID: 5, UserID: 42})
	get := func(path, header string) int {
		req, _ := http.NewRequestWithContext(context.Background(), "GET", f.URL()+"/api/v4"+path, nil)
		req.Header.Set(header, token)
		res, err := f.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	equal(t, "job", get("/job", "JOB-TOKEN"), 200)
	equal(t, "projects", get("/projects", "JOB-TOKEN"), 401)
	equal(t, "as a personal token", get("/job", "PRIVATE-TOKEN"), 401)
	f.RevokeToken(token)
	equal(t, "after the job", get("/job", "JOB-TOKEN"), 401)
}
