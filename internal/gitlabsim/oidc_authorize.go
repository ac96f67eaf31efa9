package gitlabsim

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// authorizeProblem is what GitLab finds wrong with a request for a code, or "". GitLab shows all of it on a page with
// status 200 and redirects nothing to the client (app/controllers/oauth/authorizations_controller.rb).
func authorizeProblem(app Application, known bool, q url.Values) string {
	scopes := strings.Fields(q.Get("scope"))
	switch {
	case !known:
		return "invalid_client"
	case !slices.ContainsFunc(app.RedirectURIs, func(allowed string) bool { return redirectMatches(allowed, q.Get("redirect_uri")) }):
		return "invalid_redirect_uri"
	case q.Get("response_type") != "code":
		return "unsupported_response_type"
	case len(scopes) == 0 || slices.ContainsFunc(scopes, func(sc string) bool { return !slices.Contains(app.Scopes, sc) }):
		return "invalid_scope"
	case q.Get("code_challenge") != "" && q.Get("code_challenge_method") != "plain" && q.Get("code_challenge_method") != "S256":
		return "invalid_code_challenge_method"
	}
	return ""
}

// authorize is GET /oauth/authorize: it sends to the login form if there is no session, checks the request, and asks
// whether the application may, or answers at once (Oauth::AuthorizationsController#new).
func (s *provider) authorize(w http.ResponseWriter, r *http.Request) {
	_, held := s.current(r)
	user := s.activeUser(held.userID)
	if user == nil {
		s.toSignIn(w, r)
		return
	}
	q := r.URL.Query()
	app, ok := s.authorizable(w, q)
	switch {
	case !ok:
	case s.access.skipsConsent(app, user.ID, strings.Fields(q.Get("scope"))):
		// Not a redirect: a page that goes on by a script, or by hand.
		scriptPage(w, redirectPage, s.callback(app, user.ID, q))
	default:
		page(w, http.StatusOK, consentPage, consent{Name: app.Name, Admin: user.Admin, Token: held.csrf, Fields: consentFields(q)})
	}
}

// consentAnswer is POST /oauth/authorize: what somebody chose on the consent page.
func (s *provider) consentAnswer(w http.ResponseWriter, r *http.Request) {
	_, held, ok := s.form(w, r)
	if !ok {
		return
	}
	user, q := s.activeUser(held.userID), r.PostForm
	if user == nil {
		s.toSignIn(w, r)
		return
	}
	app, ok := s.authorizable(w, q)
	if !ok {
		return
	}
	if q.Get("_method") == "delete" {
		http.Redirect(w, r, withQuery(q.Get("redirect_uri"), url.Values{
			"error": {"access_denied"}, "error_description": {"The resource owner or authorization server denied the request."},
		}, q.Get("state")), http.StatusFound)
		return
	}
	http.Redirect(w, r, s.callback(app, user.ID, q), http.StatusFound)
}

// authorizable returns the application that asks; where something is wrong with the question, it shows that.
func (s *provider) authorizable(w http.ResponseWriter, q url.Values) (Application, bool) {
	s.access.mu.Lock()
	app, known := s.access.apps[q.Get("client_id")]
	s.access.mu.Unlock()
	if problem := authorizeProblem(app, known, q); problem != "" {
		errorPage(w, http.StatusOK, oauthErrors[problem])
		return Application{}, false
	}
	return app, true
}

// skipsConsent says whether nobody is asked: a trusted application, or a confidential one that has a token of that
// person with the same scopes, expired or not. A public application has to ask each time.
func (s *access) skipsConsent(app Application, user int64, scopes []string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if app.Trusted {
		return true
	}
	for _, t := range s.tokens {
		if app.Confidential && t.app == app.UID && t.userID == user && !t.revoked && slices.Equal(slices.Sorted(slices.Values(t.scopes)), slices.Sorted(slices.Values(scopes))) {
			return true
		}
	}
	return false
}

// callback makes a code, and is the address that brings it to the client.
func (s *provider) callback(app Application, user int64, q url.Values) string {
	code, redirect := randomHex(32), q.Get("redirect_uri")
	s.access.mu.Lock()
	s.access.grants[code] = grant{
		app: app.UID, redirectURI: redirect, userID: user, scopes: strings.Fields(q.Get("scope")), nonce: q.Get("nonce"),
		challenge: q.Get("code_challenge"), method: q.Get("code_challenge_method"), created: s.now(),
	}
	s.access.mu.Unlock()
	if redirect == outOfBand {
		return nativePage + "?" + url.Values{"code": {code}}.Encode()
	}
	return withQuery(redirect, url.Values{"code": {code}}, q.Get("state"))
}

// withQuery adds parameters to a redirect URI that redirectMatches has found right.
func withQuery(redirect string, params url.Values, state string) string {
	u, err := url.Parse(redirect)
	if err != nil {
		return "/"
	}
	q := u.Query()
	maps.Copy(q, params)
	if state != "" {
		q.Set("state", state)
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// native is the page that shows a code to somebody who types it in elsewhere.
func (s *provider) native(w http.ResponseWriter, r *http.Request) {
	if s.sessionUser(r) == nil {
		s.toSignIn(w, r)
		return
	}
	page(w, http.StatusOK, codePage, r.URL.Query().Get("code"))
}

// consent is what the page "Authorize … to use your account?" shows.
type consent struct {
	Name   string
	Admin  bool
	Token  string
	Fields [][2]string
}

// consentFields are the hidden fields of its two forms.
func consentFields(q url.Values) (out [][2]string) {
	for _, name := range []string{"client_id", "redirect_uri", "state", "response_type", "scope", "nonce", "code_challenge", "code_challenge_method"} {
		out = append(out, [2]string{name, q.Get(name)})
	}
	return out
}
