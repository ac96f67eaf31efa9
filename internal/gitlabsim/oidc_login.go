package gitlabsim

import (
	"crypto/subtle"
	"net/http"
	"strings"
)

// logins are GitLab's pages for signing in and out, and the sessions that they begin and end.
type logins struct {
	*instance
	access *access
}

// session is what GitLab keeps behind a browser's cookie. access.mu guards its fields.
type session struct {
	userID   int64  // 0: nobody has signed in yet
	returnTo string // where the browser goes after signing in (user_return_to)
	csrf     string // what every form has to bring back
}

const sessionCookie = "_gitlab_session"

// mount mounts its pages by handle.
func (s *logins) mount(handle func(method, path string, h http.HandlerFunc)) {
	handle(http.MethodGet, "/", s.home)
	handle(http.MethodGet, "/users/sign_in", s.signInForm)
	handle(http.MethodPost, "/users/sign_in", s.signIn)
	handle(http.MethodPost, "/users/sign_out", s.signOut)
}

// current is the session of a request: its id and what it holds; "" without one.
func (s *logins) current(r *http.Request) (id string, held session) {
	c, err := r.Cookie(sessionCookie)
	if err != nil {
		return "", session{}
	}
	s.access.mu.Lock()
	defer s.access.mu.Unlock()
	if held, ok := s.access.sessions[c.Value]; ok {
		return c.Value, *held
	}
	return "", session{}
}

func (s *logins) sessionUser(r *http.Request) *User {
	_, held := s.current(r)
	return s.activeUser(held.userID)
}

// start begins a session, in place of an old one: whoever signs in gets another id than they came with.
func (s *logins) start(w http.ResponseWriter, old string, held session) session {
	held.csrf = randomHex(32)
	id := randomHex(16)
	s.access.mu.Lock()
	delete(s.access.sessions, old)
	s.access.sessions[id] = &held
	s.access.mu.Unlock()
	// Gitlab::Middleware::SameSiteCookies gives every cookie SameSite=None where GitLab is reached by https.
	http.SetCookie(w, &http.Cookie{Name: sessionCookie, Value: id, Path: "/", HttpOnly: true, Secure: true, SameSite: http.SameSiteNoneMode})
	return held
}

// toSignIn sends a browser to the login form, and remembers where it wanted to go (resource_owner_authenticator in
// config/initializers/doorkeeper.rb).
func (s *logins) toSignIn(w http.ResponseWriter, r *http.Request) {
	id, held := s.current(r)
	held.userID, held.returnTo = 0, r.URL.RequestURI()
	s.start(w, id, held)
	http.Redirect(w, r, "/users/sign_in", http.StatusFound)
}

// home is where GitLab goes when nobody wanted to go anywhere.
func (s *logins) home(w http.ResponseWriter, r *http.Request) {
	_, held := s.current(r)
	user := s.activeUser(held.userID)
	if user == nil {
		s.toSignIn(w, r)
		return
	}
	page(w, http.StatusOK, homePage, struct{ Name, Token string }{user.Username, held.csrf})
}

func (s *logins) signInForm(w http.ResponseWriter, r *http.Request) {
	id, held := s.current(r)
	switch {
	case s.activeUser(held.userID) != nil:
		http.Redirect(w, r, afterSignIn(held), http.StatusFound)
		return
	case id == "" || held.userID != 0:
		held = s.start(w, id, session{})
	}
	page(w, http.StatusOK, loginPage, struct{ Problem, Token string }{"", held.csrf})
}

func afterSignIn(held session) string {
	if strings.HasPrefix(held.returnTo, "/") {
		return held.returnTo
	}
	return "/"
}

// form reads a form that was posted, and says whether it is one of the session's own. It answers where it is not.
func (s *logins) form(w http.ResponseWriter, r *http.Request) (id string, held session, ok bool) {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	if err := r.ParseForm(); err != nil {
		errorPage(w, http.StatusBadRequest, "The form could not be read.")
		return "", session{}, false
	}
	id, held = s.current(r)
	if id == "" || subtle.ConstantTimeCompare([]byte(held.csrf), []byte(r.PostForm.Get("authenticity_token"))) != 1 {
		// Rails answers a missing or wrong token like this (ActionController::InvalidAuthenticityToken).
		errorPage(w, http.StatusUnprocessableEntity, "The change you requested was rejected.")
		return "", session{}, false
	}
	return id, held, true
}

// signIn is the answer to the login form.
func (s *logins) signIn(w http.ResponseWriter, r *http.Request) {
	id, held, ok := s.form(w, r)
	if !ok {
		return
	}
	user, problem := s.checkPassword(r.PostForm.Get("user[login]"), r.PostForm.Get("user[password]"))
	if problem != "" {
		page(w, http.StatusUnprocessableEntity, loginPage, struct{ Problem, Token string }{problem, held.csrf})
		return
	}
	s.start(w, id, session{userID: user.ID, returnTo: held.returnTo})
	s.access.mu.Lock()
	s.access.signedIn[user.ID] = s.now()
	s.access.mu.Unlock()
	http.Redirect(w, r, afterSignIn(held), http.StatusSeeOther)
}

// signOut ends the session. Tokens that applications have got stay.
func (s *logins) signOut(w http.ResponseWriter, r *http.Request) {
	id, _, ok := s.form(w, r)
	if !ok {
		return
	}
	s.access.mu.Lock()
	delete(s.access.sessions, id)
	s.access.mu.Unlock()
	http.SetCookie(w, &http.Cookie{Name: sessionCookie, Path: "/", MaxAge: -1, HttpOnly: true, Secure: true, SameSite: http.SameSiteNoneMode})
	http.Redirect(w, r, "/users/sign_in", http.StatusSeeOther)
}

// checkPassword returns the user, or what the login form says. A blocked user who knows the password
// causes user_failed_login.
func (s *logins) checkPassword(name, password string) (*User, string) {
	var user *User
	s.world.View(func(v *View) {
		if u := v.UserByName(name); u != nil && u.Type == "HUMAN" && u.Password != "" &&
			subtle.ConstantTimeCompare([]byte(u.Password), []byte(password)) == 1 {
			copied := *u
			user = &copied
		}
	})
	switch {
	case user == nil:
		return nil, "Invalid login or password."
	case user.State == StateActive:
		return user, ""
	case user.State == StateBlocked || user.State == StateLDAPBlocked:
		s.world.failedLogin(user.ID)
		return nil, "Your account has been blocked. Please contact your GitLab administrator if you think this is an error."
	case user.State == StatePending:
		return nil, "Your account is pending approval from your GitLab administrator and hence blocked."
	case user.State == StateBanned:
		return nil, "Your account has been banned."
	}
	return nil, "Your account has been deactivated by your administrator."
}
