package gitlabsim

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Application is an OAuth application.
type Application struct {
	Name         string   `json:"name,omitempty"`
	UID          string   `json:"uid"`
	Secret       string   `json:"secret,omitempty"`
	RedirectURIs []string `json:"redirectURIs"`
	Confidential bool     `json:"confidential,omitempty"`
	Scopes       []string `json:"scopes"`
}

// accessToken is a personal access token, an OAuth access token or a CI job token.
type accessToken struct {
	id      int64
	name    string
	userID  int64
	scopes  []string
	app     string // uid of the OAuth application; "" = personal access token
	created time.Time
	expires time.Time // zero = never
	revoked bool
	job     *JobContext
}

// grant is an authorization code that was handed out.
type grant struct {
	app, redirectURI  string
	userID            int64
	scopes            []string
	nonce             string
	challenge, method string
	created           time.Time
}

// refresh is a refresh token; it dies with its first use.
type refresh struct {
	app         string
	userID      int64
	scopes      []string
	accessToken string
}

// accessState is everything about logins and tokens.
type accessState struct {
	mu       sync.Mutex
	nextID   int64
	apps     map[string]Application
	tokens   map[string]*accessToken
	grants   map[string]grant
	refresh  map[string]refresh
	sessions map[string]int64 // session cookie -> user id
	forms    map[string]bool  // CSRF tokens of login forms, bound to their pre-session cookie
	signedIn map[int64]time.Time
}

func newAccessState() *accessState {
	return &accessState{
		nextID: 1, apps: map[string]Application{}, tokens: map[string]*accessToken{}, grants: map[string]grant{},
		refresh: map[string]refresh{}, sessions: map[string]int64{}, forms: map[string]bool{}, signedIn: map[int64]time.Time{},
	}
}

// knownScopes is scopes_supported of a self-managed GitLab (facts 1.1).
var knownScopes = []string{
	"api", "read_api", "read_user", "create_runner", "manage_runner", "k8s_proxy", "self_rotate", "mcp",
	"read_repository", "write_repository", "read_registry", "write_registry", "read_virtual_registry", "write_virtual_registry",
	"read_observability", "write_observability", "ai_features", "sudo", "admin_mode", "read_service_ping", "openid", "profile", "email",
	"ai_workflows", "user:*",
}

// AddApplication registers an OAuth application.
func (s *Server) AddApplication(a Application) error {
	if a.UID == "" || len(a.RedirectURIs) == 0 {
		return errors.New("an application needs uid and redirectURIs")
	}
	for _, scope := range a.Scopes {
		if !slices.Contains(knownScopes, scope) {
			return fmt.Errorf("scope %q: GitLab knows no such scope", scope)
		}
	}
	s.access.mu.Lock()
	defer s.access.mu.Unlock()
	if _, taken := s.access.apps[a.UID]; taken {
		return fmt.Errorf("uid %q has already been taken", a.UID)
	}
	a.Name = cmp.Or(a.Name, a.UID)
	s.access.apps[a.UID] = a
	return nil
}

// AddToken adds a personal access token.
func (s *Server) AddToken(t SeedToken) error {
	if t.Token == "" || len(t.Scopes) == 0 {
		return errors.New("a token needs token and scopes")
	}
	for _, scope := range t.Scopes {
		if !slices.Contains(knownScopes, scope) {
			return fmt.Errorf("scope %q: GitLab knows no such scope", scope)
		}
	}
	var userID int64
	s.world.View(func(v *View) {
		if u := v.UserByName(t.User); u != nil {
			userID = u.ID
		}
	})
	if userID == 0 {
		return fmt.Errorf("user %q: no such user", t.User)
	}
	s.access.mu.Lock()
	defer s.access.mu.Unlock()
	if s.access.tokens[t.Token] != nil {
		return errors.New("two tokens have the same value")
	}
	s.access.add(t.Token, &accessToken{name: cmp.Or(t.Name, t.User), userID: userID, scopes: t.Scopes, created: s.now()})
	return nil
}

// add stores a token; the caller holds a.mu.
func (a *accessState) add(value string, t *accessToken) {
	t.id = a.nextID
	a.nextID++
	a.tokens[value] = t
}

// TokenFor returns a new personal access token of a user; it panics for an unknown user, because only tests
// and the demo ask, and they know their users.
func (s *Server) TokenFor(username string, scopes ...string) string {
	value := "glpat-" + randomHex(10)
	if err := s.AddToken(SeedToken{Token: value, User: username, Scopes: scopes}); err != nil {
		panic("gitlabsim: TokenFor: " + err.Error())
	}
	return value
}

// RevokeToken revokes a personal, OAuth or job token.
func (s *Server) RevokeToken(value string) {
	s.access.mu.Lock()
	defer s.access.mu.Unlock()
	if t := s.access.tokens[value]; t != nil {
		t.revoked = true
	}
}

// JobToken returns a CI_JOB_TOKEN for a running job; revoke it when the job ends.
func (s *Server) JobToken(job JobContext) string {
	value := "glcbt-" + randomHex(10)
	s.access.mu.Lock()
	defer s.access.mu.Unlock()
	s.access.add(value, &accessToken{name: "job", userID: job.UserID, created: s.now(), job: &job})
	return value
}

// presented returns the token of a request and how it came.
func presented(r *http.Request) (value string, job bool) {
	if v := r.Header.Get("PRIVATE-TOKEN"); v != "" {
		return v, false
	}
	if v := r.Header.Get("JOB-TOKEN"); v != "" {
		return v, true
	}
	if scheme, v, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(v), false
	}
	if v := r.URL.Query().Get("private_token"); v != "" {
		return v, false
	}
	return "", false
}

// authenticate finds out who asks: PRIVATE-TOKEN or Bearer (personal and OAuth tokens), JOB-TOKEN. User and
// error are nil for an anonymous request. The user is a copy.
func (s *Server) authenticate(r *http.Request) (*User, []string, error) {
	t, err := s.tokenOf(r)
	if t == nil || err != nil {
		return nil, nil, err
	}
	var user *User
	s.world.View(func(v *View) {
		if u := v.User(t.userID); u != nil {
			copied := *u
			user = &copied
		}
	})
	if user == nil {
		return nil, nil, message(http.StatusUnauthorized, "401 Unauthorized")
	}
	// GlobalPolicy: neither blocked nor deactivated users may use the API (facts 4.3).
	switch user.State {
	case StateActive:
	case StateBlocked, StateLDAPBlocked, StateBanned:
		return nil, nil, message(http.StatusForbidden, "403 Forbidden - Your account has been blocked.")
	case StatePending:
		return nil, nil, message(http.StatusForbidden, "403 Forbidden - Your request to join has been submitted and is pending approval.")
	default:
		return nil, nil, message(http.StatusForbidden, "403 Forbidden - Your account has been deactivated by your administrator. Please log back in from a web browser to reactivate your account at "+s.url)
	}
	return user, slices.Clone(t.scopes), nil
}

// tokenOf returns the valid token of a request, or nil if it has none.
func (s *Server) tokenOf(r *http.Request) (*accessToken, error) {
	value, asJob := presented(r)
	if value == "" {
		return nil, nil
	}
	s.access.mu.Lock()
	defer s.access.mu.Unlock()
	t := s.access.tokens[value]
	if t == nil || asJob != (t.job != nil) {
		return nil, message(http.StatusUnauthorized, "401 Unauthorized")
	}
	refused := func(text string) *Error {
		return &Error{Status: http.StatusUnauthorized, Body: map[string]any{"error": "invalid_token", "error_description": text}}
	}
	if t.revoked {
		return nil, refused("Token was revoked. You have to re-authorize from the user.")
	}
	if !t.expires.IsZero() && !s.now().Before(t.expires) {
		return nil, refused("Token is expired. You can either do re-authorization or token refresh.")
	}
	found := *t
	return &found, nil
}

// insufficientScope is GitLab's refusal of a token that lacks all of the wanted scopes.
func insufficientScope(wanted ...string) *Error {
	return &Error{Status: http.StatusForbidden, Body: map[string]any{
		"error":             "insufficient_scope",
		"error_description": "The request requires higher privileges than provided by the access token.",
		"scope":             strings.Join(wanted, " "),
	}}
}

func hasScope(scopes []string, wanted ...string) bool {
	return slices.ContainsFunc(wanted, func(w string) bool { return slices.Contains(scopes, w) })
}
