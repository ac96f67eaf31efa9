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
	Trusted      bool     `json:"trusted,omitempty"` // nobody is asked whether the application may
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

// access is who may use GitLab and how they prove it: applications, tokens, codes and sessions.
type access struct {
	*instance
	mu       sync.Mutex
	nextID   int64
	apps     map[string]Application
	tokens   map[string]*accessToken
	grants   map[string]grant
	refresh  map[string]refresh
	sessions map[string]*session // by the value of the cookie
	signedIn map[int64]time.Time
}

func newAccess(i *instance) *access {
	return &access{
		instance: i,
		nextID:   1, apps: map[string]Application{}, tokens: map[string]*accessToken{}, grants: map[string]grant{},
		refresh: map[string]refresh{}, sessions: map[string]*session{}, signedIn: map[int64]time.Time{},
	}
}

// knownScopes is scopes_supported of a self-managed GitLab.
var knownScopes = []string{
	"api", "read_api", "read_user", "create_runner", "manage_runner", "k8s_proxy", "self_rotate", "mcp",
	"read_repository", "write_repository", "read_registry", "write_registry", "read_virtual_registry", "write_virtual_registry",
	"read_observability", "write_observability", "ai_features", "sudo", "admin_mode", "read_service_ping", "openid", "profile", "email",
	"ai_workflows", "user:*",
}

// AddApplication registers an OAuth application.
func (s *access) AddApplication(a Application) error {
	if a.UID == "" || len(a.RedirectURIs) == 0 {
		return errors.New("an application needs uid and redirectURIs")
	}
	for _, scope := range a.Scopes {
		if !slices.Contains(knownScopes, scope) {
			return fmt.Errorf("scope %q: GitLab knows no such scope", scope)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.apps[a.UID]; taken {
		return fmt.Errorf("uid %q has already been taken", a.UID)
	}
	a.Name = cmp.Or(a.Name, a.UID)
	s.apps[a.UID] = a
	return nil
}

// AddToken adds a personal access token.
func (s *access) AddToken(t SeedToken) error {
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
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tokens[t.Token] != nil {
		return errors.New("two tokens have the same value")
	}
	s.add(t.Token, &accessToken{name: cmp.Or(t.Name, t.User), userID: userID, scopes: t.Scopes, created: s.now(), expires: t.Expires})
	return nil
}

// add stores a token; the caller holds a.mu.
func (a *access) add(value string, t *accessToken) {
	t.id = a.nextID
	a.nextID++
	a.tokens[value] = t
}

// TokenFor returns a new personal access token of a user; it panics for an unknown user, because only tests
// and the demo ask, and they know their users.
func (s *access) TokenFor(username string, scopes ...string) string {
	value := "glpat-" + randomHex(10)
	if err := s.AddToken(SeedToken{Token: value, User: username, Scopes: scopes}); err != nil {
		panic("gitlabsim: TokenFor: " + err.Error())
	}
	return value
}

// RevokeToken revokes a personal, OAuth or job token.
func (s *access) RevokeToken(value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tokens[value]; t != nil {
		t.revoked = true
	}
}

// JobToken returns a CI_JOB_TOKEN for a running job; revoke it when the job ends.
func (s *access) JobToken(job JobContext) string {
	value := "glcbt-" + randomHex(10)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(value, &accessToken{name: "job", userID: job.UserID, created: s.now(), job: &job})
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
func (s *access) authenticate(r *http.Request) (*User, []string, error) {
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
	// GlobalPolicy: neither blocked nor deactivated users may use the API.
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
func (s *access) tokenOf(r *http.Request) (*accessToken, error) {
	value, asJob := presented(r)
	if value == "" {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tokens[value]
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

// runningJob returns the job of a job token that is valid, and the name of its user. The token dies with the job, and with
// the right of its user to use GitLab.
func (s *access) runningJob(token string) (*JobContext, string) {
	s.mu.Lock()
	t := s.tokens[token]
	valid := t != nil && t.job != nil && !t.revoked
	var job JobContext
	if valid {
		job = *t.job
	}
	s.mu.Unlock()
	if !valid {
		return nil, ""
	}
	name, active := "", job.UserID == 0
	s.world.View(func(v *View) {
		if u := v.User(job.UserID); u != nil {
			name, active = u.Username, u.State == StateActive
		}
	})
	if !active {
		return nil, ""
	}
	return &job, name
}

// lastSignIn is when a user last signed in with their password, if they have.
func (s *access) lastSignIn(userID int64) (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.signedIn[userID]
	return t, ok
}
