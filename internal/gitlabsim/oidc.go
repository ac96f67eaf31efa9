package gitlabsim

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	codeLifetime        = 10 * time.Minute
	accessTokenLifetime = 7200 * time.Second
	// outOfBand is the redirect URI of clients that no browser can reach: GitLab shows the code on a page of its own
	// (doorkeeper's URIChecker.oob_uri?, Authorization::Code#oob_redirect).
	outOfBand  = "urn:ietf:wg:oauth:2.0:oob"
	nativePage = "/oauth/authorize/native"
)

// provider is GitLab as an OpenID Connect provider.
type provider struct {
	*instance
	*idTokens
	*logins
	access *access
}

// mount mounts its endpoints by handle.
func (s *provider) mount(handle func(method, path string, h http.HandlerFunc)) {
	s.logins.mount(handle)
	handle(http.MethodGet, "/.well-known/openid-configuration", s.discovery)
	handle(http.MethodGet, "/.well-known/oauth-authorization-server", s.discovery)
	handle(http.MethodGet, "/oauth/discovery/keys", s.keys)
	handle(http.MethodGet, "/oauth/authorize", s.authorize)
	handle(http.MethodPost, "/oauth/authorize", s.consentAnswer)
	handle(http.MethodGet, nativePage, s.native)
	handle(http.MethodPost, "/oauth/token", s.token)
	handle(http.MethodGet, "/oauth/token/info", s.tokenInfo)
	handle(http.MethodPost, "/oauth/revoke", s.revoke)
	handle(http.MethodGet, "/oauth/userinfo", s.userinfo)
	handle(http.MethodPost, "/oauth/userinfo", s.userinfo)
}

// discovery is the document of https://docs.gitlab.com/integration/openid_connect_provider/: no device endpoint, no end_session, "none" not listed.
func (s *provider) discovery(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]any{
		"issuer":                                s.url,
		"authorization_endpoint":                s.url + "/oauth/authorize",
		"token_endpoint":                        s.url + "/oauth/token",
		"revocation_endpoint":                   s.url + "/oauth/revoke",
		"introspection_endpoint":                s.url + "/oauth/introspect",
		"userinfo_endpoint":                     s.url + "/oauth/userinfo",
		"jwks_uri":                              s.url + "/oauth/discovery/keys",
		"scopes_supported":                      knownScopes,
		"response_types_supported":              []string{"code"},
		"response_modes_supported":              []string{"query", "fragment", "form_post"},
		"grant_types_supported":                 []string{"authorization_code", "password", "client_credentials", "device_code", "refresh_token"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_basic", "client_secret_post"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
		"claim_types_supported":                 []string{"normal"},
		"claims_supported": []string{
			"iss", "sub", "aud", "exp", "iat", "sub_legacy", "name", "nickname", "preferred_username",
			"given_name", "family_name", "email", "email_verified", "website", "profile", "picture", "groups", "groups_direct",
			"https://gitlab.org/claims/groups/owner", "https://gitlab.org/claims/groups/maintainer",
			"https://gitlab.org/claims/groups/developer", "project_path", "ci_config_ref_uri", "ref_path", "sha", "environment", "jti",
		},
		"code_challenge_methods_supported": []string{"plain", "S256"},
	})
}

func (s *provider) keys(w http.ResponseWriter, _ *http.Request) {
	set, err := s.signing.jwks()
	if err != nil {
		writeJSON(w, http.StatusInternalServerError, map[string]any{"message": "500 Internal Server Error"})
		return
	}
	// JwksController: expires_in 24.hours, public: true, must_revalidate: true, 'no-transform': true.
	w.Header().Set("Cache-Control", "max-age=86400, public, must-revalidate, no-transform")
	writeJSON(w, http.StatusOK, set)
}

// oauthErrors are doorkeeper's descriptions.
var oauthErrors = map[string]string{
	"invalid_client":                "Client authentication failed due to unknown client, no client authentication included, or unsupported authentication method.",
	"invalid_redirect_uri":          "The redirect URI included is not valid.",
	"invalid_scope":                 "The requested scope is invalid, unknown, or malformed.",
	"unsupported_response_type":     "The authorization server does not support this response type.",
	"invalid_code_challenge_method": "The code challenge method must be plain or S256.",
	"invalid_grant":                 "The provided authorization grant is invalid, expired, revoked, does not match the redirection URI used in the authorization request, or was issued to another client.",
	"unsupported_grant_type":        "The authorization grant type is not supported by the authorization server.",
}

// redirectMatches compares as doorkeeper's UriChecker does: exactly, except that any port of a loopback IP
// matches (RFC 8252 section 7.3). "localhost" is no loopback IP; a trailing slash of an empty path is none.
func redirectMatches(allowed, given string) bool {
	a, errA := url.Parse(allowed)
	g, errG := url.Parse(given)
	if errA != nil || errG != nil || given == "" || g.Fragment != "" || strings.Contains(given, "#") || g.User != nil {
		return false
	}
	if a.Path == "/" {
		a.Path = ""
	}
	if g.Path == "/" {
		g.Path = ""
	}
	hostA, hostG := a.Host, g.Host
	if ip := net.ParseIP(g.Hostname()); ip != nil && ip.IsLoopback() {
		hostA, hostG = a.Hostname(), g.Hostname()
	}
	return a.Scheme == g.Scheme && a.Opaque == g.Opaque && strings.EqualFold(hostA, hostG) &&
		a.EscapedPath() == g.EscapedPath() && a.RawQuery == g.RawQuery
}

// token is POST /oauth/token.
func (s *provider) token(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	w.Header().Set("Cache-Control", "no-store")
	if err := r.ParseForm(); err != nil {
		oauthError(w, http.StatusBadRequest, "invalid_request", "The request could not be read.")
		return
	}
	f := r.PostForm
	app, ok := s.clientOf(r)
	if !ok {
		oauthError(w, http.StatusUnauthorized, "invalid_client", "")
		return
	}
	switch f.Get("grant_type") {
	case "":
		missingParameter(w, "grant_type")
	case "authorization_code":
		s.exchangeCode(w, app, f)
	case "refresh_token":
		s.exchangeRefreshToken(w, app, f)
	case "password":
		s.exchangePassword(w, app, f)
	default:
		oauthError(w, http.StatusBadRequest, "unsupported_grant_type", "")
	}
}

func missingParameter(w http.ResponseWriter, name string) {
	oauthError(w, http.StatusBadRequest, "invalid_request", "Missing required parameter: "+name+".")
}

func (s *provider) exchangeCode(w http.ResponseWriter, app Application, f url.Values) {
	if f.Get("code") == "" {
		missingParameter(w, "code")
		return
	}
	if f.Get("redirect_uri") == "" {
		missingParameter(w, "redirect_uri")
		return
	}
	s.access.mu.Lock()
	g, found := s.access.grants[f.Get("code")]
	s.access.mu.Unlock()
	if found && g.challenge != "" && f.Get("code_verifier") == "" {
		missingParameter(w, "code_verifier")
		return
	}
	valid := found && g.app == app.UID && s.now().Before(g.created.Add(codeLifetime)) &&
		g.redirectURI == f.Get("redirect_uri") && g.verifierMatches(f.Get("code_verifier"))
	if valid {
		// Single use, also of two requests at once.
		s.access.mu.Lock()
		_, valid = s.access.grants[f.Get("code")]
		delete(s.access.grants, f.Get("code"))
		s.access.mu.Unlock()
	}
	if !valid {
		oauthError(w, http.StatusBadRequest, "invalid_grant", "")
		return
	}
	s.issue(w, app, g.userID, g.scopes, g.nonce)
}

func (s *provider) exchangeRefreshToken(w http.ResponseWriter, app Application, f url.Values) {
	if f.Get("refresh_token") == "" {
		missingParameter(w, "refresh_token")
		return
	}
	s.access.mu.Lock()
	old, found := s.access.refresh[f.Get("refresh_token")]
	valid := found && old.app == app.UID
	if valid {
		// GitLab's table has no previous_refresh_token: old pair dies at once, also when the answer is lost.
		delete(s.access.refresh, f.Get("refresh_token"))
		if t := s.access.tokens[old.accessToken]; t != nil {
			t.revoked = true
		}
	}
	s.access.mu.Unlock()
	if !valid {
		oauthError(w, http.StatusBadRequest, "invalid_grant", "")
		return
	}
	s.issue(w, app, old.userID, old.scopes, "")
}

func (s *provider) exchangePassword(w http.ResponseWriter, app Application, f url.Values) {
	user, problem := s.checkPassword(f.Get("username"), f.Get("password"))
	scopes := strings.Fields(f.Get("scope"))
	switch {
	case problem != "":
		oauthError(w, http.StatusBadRequest, "invalid_grant", "")
	case slices.ContainsFunc(scopes, func(sc string) bool { return !slices.Contains(app.Scopes, sc) }):
		oauthError(w, http.StatusBadRequest, "invalid_scope", "")
	default:
		s.access.mu.Lock()
		s.access.signedIn[user.ID] = s.now()
		s.access.mu.Unlock()
		s.issue(w, app, user.ID, scopes, "")
	}
}

// verifierMatches is RFC 7636 section 4.6. A verifier without a challenge is refused, as doorkeeper does.
func (g grant) verifierMatches(verifier string) bool {
	if g.challenge == "" {
		return verifier == ""
	}
	if g.method == "S256" {
		sum := sha256.Sum256([]byte(verifier))
		verifier = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	return subtle.ConstantTimeCompare([]byte(g.challenge), []byte(verifier)) == 1
}

// clientOf authenticates the application: Basic or parameters; a public one by its uid alone.
func (s *provider) clientOf(r *http.Request) (Application, bool) {
	id, secret, basic := r.BasicAuth()
	if basic {
		id, _ = url.QueryUnescape(id)
		secret, _ = url.QueryUnescape(secret)
	} else {
		id, secret = r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
	}
	s.access.mu.Lock()
	defer s.access.mu.Unlock()
	app, ok := s.access.apps[id]
	if !ok {
		return Application{}, false
	}
	if secret == "" {
		return app, !app.Confidential
	}
	return app, app.Secret != "" && subtle.ConstantTimeCompare([]byte(secret), []byte(app.Secret)) == 1
}

// issue answers with a new access token, refresh token and, with scope openid, ID token.
func (s *provider) issue(w http.ResponseWriter, app Application, userID int64, scopes []string, nonce string) {
	// User.active.find_by(id:) is nil for a blocked user, and the gem runs into nil.id.
	if s.activeUser(userID) == nil {
		errorPage(w, http.StatusInternalServerError, "Whoops, something went wrong on our end.")
		return
	}
	now := s.now()
	access, refreshToken := randomHex(32), randomHex(32)
	body := map[string]any{
		"access_token": access, "token_type": "Bearer", "expires_in": int(accessTokenLifetime / time.Second),
		"refresh_token": refreshToken, "scope": strings.Join(scopes, " "), "created_at": now.Unix(),
	}
	if slices.Contains(scopes, "openid") {
		idToken, err := s.MintUserIDToken(userID, app.UID, TokenOptions{Nonce: nonce, Scopes: scopes})
		if err != nil {
			errorPage(w, http.StatusInternalServerError, "Whoops, something went wrong on our end.")
			return
		}
		body["id_token"] = idToken
	}
	s.access.mu.Lock()
	s.access.add(access, &accessToken{name: app.Name, userID: userID, scopes: scopes, app: app.UID, created: now, expires: now.Add(accessTokenLifetime)})
	s.access.refresh[refreshToken] = refresh{app: app.UID, userID: userID, scopes: scopes, accessToken: access}
	s.access.mu.Unlock()
	writeJSON(w, http.StatusOK, body)
}

func oauthError(w http.ResponseWriter, status int, code, description string) {
	if description == "" {
		description = oauthErrors[code]
	}
	// doorkeeper's ErrorResponse, with the realm that GitLab leaves as it is.
	w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q, error=%q, error_description=%q", "Doorkeeper", code, description))
	writeJSON(w, status, map[string]any{"error": code, "error_description": description})
}

// revoke is RFC 7009: 200 and {} also for tokens that don't exist.
func (s *provider) revoke(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	if err := r.ParseForm(); err != nil {
		oauthError(w, http.StatusBadRequest, "invalid_request", "The request could not be read.")
		return
	}
	app, ok := s.clientOf(r)
	if !ok {
		oauthError(w, http.StatusForbidden, "unauthorized_client", "You are not authorized to revoke this token")
		return
	}
	value := r.PostForm.Get("token")
	s.access.mu.Lock()
	if old, found := s.access.refresh[value]; found && old.app == app.UID {
		delete(s.access.refresh, value)
		if t := s.access.tokens[old.accessToken]; t != nil {
			t.revoked = true
		}
	}
	if t := s.access.tokens[value]; t != nil && t.app == app.UID {
		t.revoked = true
		for k, rt := range s.access.refresh {
			if rt.accessToken == value {
				delete(s.access.refresh, k)
			}
		}
	}
	s.access.mu.Unlock()
	writeJSON(w, http.StatusOK, map[string]any{})
}

// tokenInfo checks expiry and revocation of an OAuth token only, not the state of its user.
func (s *provider) tokenInfo(w http.ResponseWriter, r *http.Request) {
	t, err := s.access.tokenOf(r)
	if err != nil || t == nil || t.app == "" {
		writeJSON(w, http.StatusUnauthorized, map[string]any{"error": "invalid_token", "error_description": "The access token is invalid"})
		return
	}
	left := int(t.expires.Sub(s.now()) / time.Second)
	writeJSON(w, http.StatusOK, map[string]any{
		"resource_owner_id": t.userID, "scope": t.scopes, "expires_in": left,
		"application": map[string]any{"uid": t.app}, "created_at": t.created.Unix(), "scopes": t.scopes, "expires_in_seconds": left,
	})
}

func (s *provider) userinfo(w http.ResponseWriter, r *http.Request) {
	t, err := s.access.tokenOf(r)
	if err != nil || t == nil || s.activeUser(t.userID) == nil {
		w.Header().Set("WWW-Authenticate", `Bearer realm="Doorkeeper", error="invalid_token"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if !hasScope(t.scopes, "openid") {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	claims, err := s.userClaims(t.userID, t.scopes, true)
	if err != nil {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	writeJSON(w, http.StatusOK, claims)
}
