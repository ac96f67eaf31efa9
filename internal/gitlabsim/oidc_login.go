package gitlabsim

import (
	"crypto/subtle"
	"net/http"
)

// logins are GitLab's login form and the sessions that it begins.
type logins struct {
	*instance
	access *access
}

func (s *logins) sessionUser(r *http.Request) *User {
	c, err := r.Cookie(sessionCookie)
	if err != nil {
		return nil
	}
	s.access.mu.Lock()
	id := s.access.sessions[c.Value]
	s.access.mu.Unlock()
	return s.activeUser(id)
}

// signIn is the answer to the login form.
func (s *logins) signIn(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	if err := r.ParseForm(); err != nil {
		errorPage(w, http.StatusBadRequest, "The form could not be read.")
		return
	}
	query := r.PostForm.Get("return_to")
	csrf, err := r.Cookie(formCookie)
	s.access.mu.Lock()
	valid := err == nil && s.access.forms[csrf.Value] &&
		subtle.ConstantTimeCompare([]byte(csrf.Value), []byte(r.PostForm.Get("authenticity_token"))) == 1
	if valid {
		delete(s.access.forms, csrf.Value)
	}
	s.access.mu.Unlock()
	if !valid {
		// Rails answers a missing or wrong token like this (ActionController::InvalidAuthenticityToken).
		errorPage(w, http.StatusUnprocessableEntity, "The change you requested was rejected.")
		return
	}
	name, password := r.PostForm.Get("user[login]"), r.PostForm.Get("user[password]")
	user, problem := s.checkPassword(name, password)
	if problem != "" {
		s.loginForm(w, query, problem, http.StatusUnprocessableEntity)
		return
	}
	session := randomHex(16)
	s.access.mu.Lock()
	s.access.sessions[session] = user.ID
	s.access.signedIn[user.ID] = s.now()
	s.access.mu.Unlock()
	http.SetCookie(w, &http.Cookie{Name: sessionCookie, Value: session, Path: "/", HttpOnly: true, Secure: true, SameSite: http.SameSiteLaxMode})
	http.Redirect(w, r, "/oauth/authorize?"+query, http.StatusSeeOther)
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

func (s *logins) loginForm(w http.ResponseWriter, returnTo, problem string, status int) {
	token := randomHex(32)
	s.access.mu.Lock()
	s.access.forms[token] = true
	s.access.mu.Unlock()
	http.SetCookie(w, &http.Cookie{Name: formCookie, Value: token, Path: "/", HttpOnly: true, Secure: true, SameSite: http.SameSiteLaxMode})
	page(w, status, loginPage, struct{ Problem, Token, ReturnTo string }{problem, token, returnTo})
}

const (
	sessionCookie = "_gitlab_session"
	formCookie    = "_gitlab_form"
)
