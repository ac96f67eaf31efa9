package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/time/rate"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
)

// CallbackPath is where GitLab sends people back to: the redirect URI of the OAuth application is Options.URL with it.
const CallbackPath = "/signin/callback"

const (
	signInsPerSecond = 20 // questions to GitLab by one half of sign-ins, in the long run and in a burst
	signInBurst      = 100
	beginsAtATime    = 8 // questions of each half that GitLab has not answered yet: while it hangs, pages have room
	endsAtATime      = 24
	gitlabPatience   = 10 * time.Second
	gitlabFresh      = 30 * time.Second // how long an answer of GitLab proves that it is there
)

// signIns are the pages by which people come in and go out.
type signIns struct{ *Site }

func (s signIns) routes() []route {
	return []route{
		{method: http.MethodGet, path: "/{$}", handle: s.start},
		{method: http.MethodGet, path: "/signin", handle: s.signIn},
		{method: http.MethodGet, path: CallbackPath, handle: s.callback},
		{method: http.MethodPost, path: "/signout", access: signedIn, handle: s.signOut},
		{method: http.MethodGet, path: "/signedout", handle: func(w http.ResponseWriter, r *http.Request, v *visit) { s.page(w, r, v, "signedout", nil) }},
		{method: http.MethodGet, path: "/language/{language}", handle: s.chooseLanguage},
	}
}

// start is the first page: for who is signed in, their namespaces.
func (s signIns) start(w http.ResponseWriter, r *http.Request, v *visit) {
	if v.session != nil {
		http.Redirect(w, r, "/namespaces", http.StatusSeeOther)
		return
	}
	s.page(w, r, v, "start", nil)
}

// signInAt is GitLab as it said last that it is.
type signInAt struct {
	mu       sync.Mutex
	provider *oidc.Provider
	asked    time.Time
}

// known returns what GitLab said, and whether that was just now.
func (s signIns) known() (p *oidc.Provider, fresh bool) {
	s.gitlab.mu.Lock()
	defer s.gitlab.mu.Unlock()
	return s.gitlab.provider, s.gitlab.provider != nil && s.o.Now().Sub(s.gitlab.asked) < gitlabFresh
}

// whereTo returns where to sign in. GitLab is asked if it did not answer just now: no other sign-in takes a turn.
func (s signIns) whereTo(r *http.Request) (*oidc.Provider, error) {
	if p, fresh := s.known(); fresh {
		return p, nil
	}
	ctx, done, err := s.gitlabContext(r, s.begins)
	if err != nil {
		return nil, err
	}
	defer done()
	return s.provider(ctx)
}

// provider asks GitLab where to sign in, if it did not answer just now. No lock is held meanwhile: while GitLab hangs, nobody waits
// for somebody else's question.
func (s signIns) provider(ctx context.Context) (*oidc.Provider, error) {
	known, fresh := s.known()
	if fresh {
		return known, nil
	}
	asked := s.o.Now()
	p, err := oidc.NewProvider(ctx, s.o.GitLabURL)
	if err != nil {
		return nil, fmt.Errorf("asking GitLab where to sign in: %w", err)
	}
	s.gitlab.mu.Lock()
	defer s.gitlab.mu.Unlock()
	s.gitlab.asked = asked
	if known == nil || known.Endpoint() != p.Endpoint() { // else its keys are kept
		s.gitlab.provider = p
	}
	return s.gitlab.provider, nil
}

// turns bounds the questions to GitLab of one half of sign-ins. Nobody waits for a turn: whoever waits holds one of the slots that
// pages need, and anybody can begin as many sign-ins as they like.
type turns struct {
	pace  *rate.Limiter
	slots chan struct{}
}

func newTurns(atATime int) turns {
	return turns{rate.NewLimiter(signInsPerSecond, signInBurst), make(chan struct{}, atATime)}
}

// take takes a turn, and returns how to give it back; errBusy: there is none.
func (t turns) take() (leave func(), err error) {
	select {
	case t.slots <- struct{}{}:
	default:
		return nil, errBusy
	}
	if !t.pace.Allow() {
		<-t.slots
		return nil, errBusy
	}
	return func() { <-t.slots }, nil
}

// gitlabContext bounds what one half of a sign-in asks of GitLab.
func (s signIns) gitlabContext(r *http.Request, t turns) (ctx context.Context, done func(), err error) {
	leave, err := t.take()
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(oidc.ClientContext(r.Context(), s.o.HTTPClient), gitlabPatience)
	return ctx, func() { cancel(); leave() }, nil
}

var errBusy = errors.New("too many sign-ins at a time")

// oauth is the application, with the secret of the moment.
func (s signIns) oauth(p *oidc.Provider) (*oauth2.Config, error) {
	secret, err := s.o.ClientSecret()
	if err != nil {
		return nil, err
	}
	at := p.Endpoint()
	at.AuthStyle = oauth2.AuthStyleInParams // one request: the library would try both
	return &oauth2.Config{
		ClientID: s.o.ClientID, ClientSecret: secret, Endpoint: at, RedirectURL: s.o.URL + CallbackPath, Scopes: []string{oidc.ScopeOpenID, "profile"},
	}, nil
}

// attempt is what joins the two halves of a sign-in: the browser keeps it, sealed.
type attempt struct {
	State    string    `json:"s"`
	Nonce    string    `json:"n"`
	Verifier string    `json:"v"`
	To       string    `json:"t"`
	Began    time.Time `json:"b"`
}

// signIn sends people to GitLab (RFC 6749, 4.1; RFC 7636).
func (s signIns) signIn(w http.ResponseWriter, r *http.Request, v *visit) {
	to := localPath(r.URL.Query().Get("to"))
	if v.session != nil {
		http.Redirect(w, r, to, http.StatusSeeOther) //nolint:gosec // localPath leads nowhere else
		return
	}
	keys, err := s.keys(r.Context())
	if err != nil {
		s.problem(w, r, v, http.StatusInternalServerError, "internal")
		return
	}
	p, err := s.whereTo(r)
	if err != nil {
		s.signInFailed(w, r, v, to, err)
		return
	}
	app, err := s.oauth(p)
	if err != nil {
		s.signInFailed(w, r, v, to, err)
		return
	}
	a := attempt{State: randomText(), Nonce: randomText(), Verifier: oauth2.GenerateVerifier(), To: to, Began: s.o.Now()}
	sealed, err := keys.seal(signInCookie, a)
	if err != nil {
		s.signInFailed(w, r, v, to, err)
		return
	}
	setCookie(w, signInCookie, sealed, signInTime)
	http.Redirect(w, r, app.AuthCodeURL(a.State, oidc.Nonce(a.Nonce), oauth2.S256ChallengeOption(a.Verifier)), http.StatusSeeOther) //nolint:gosec // to GitLab, as its discovery document says; the path to come back to is sealed in a cookie
}

// callback takes people back from GitLab.
func (s signIns) callback(w http.ResponseWriter, r *http.Request, v *visit) {
	q := r.URL.Query()
	keys, err := s.keys(r.Context())
	if err != nil {
		s.problem(w, r, v, http.StatusInternalServerError, "internal")
		return
	}
	var a attempt
	c, err := r.Cookie(signInCookie)
	known := err == nil && keys.open(signInCookie, c.Value, &a) && s.o.Now().Sub(a.Began) <= signInTime && sameSecret(a.State, q.Get("state"))
	if !known {
		s.problemPage(w, r, v, http.StatusBadRequest, problemData{Code: "sign_in_stale", To: "/"})
		return
	}
	clearCookie(w, signInCookie)
	if q.Get("error") != "" || q.Get("code") == "" {
		s.problemPage(w, r, v, http.StatusForbidden, problemData{Code: "sign_in_refused", To: localPath(a.To)})
		return
	}
	sn, err := s.whoSignsIn(r, q.Get("code"), a)
	if err != nil {
		s.signInFailed(w, r, v, localPath(a.To), err)
		return
	}
	if code := s.accountProblem(sn.User); code != "" {
		s.log(r.Context(), "sign-in refused", sn.User, slog.String("reason", string(code)))
		s.accountPage(w, r, v, code)
		return
	}
	if s.o.Admin != nil {
		is, err := s.o.Admin.Is(r.Context(), sn.User)
		sn.Admin = is && err == nil
	}
	sealed, err := keys.seal(sessionCookie, sn)
	if err != nil {
		s.signInFailed(w, r, v, localPath(a.To), err)
		return
	}
	setCookie(w, sessionCookie, sealed, idleTime)
	s.log(r.Context(), "signed in", sn.User)
	http.Redirect(w, r, localPath(a.To), http.StatusSeeOther)
}

// errForeignToken is a token that names no user of GitLab, or not for us.
var errForeignToken = errors.New("GitLab's ID token is not for this sign-in")

// whoSignsIn gives the code back to GitLab and reads who it is for.
func (s signIns) whoSignsIn(r *http.Request, code string, a attempt) (*session, error) {
	ctx, done, err := s.gitlabContext(r, s.ends)
	if err != nil {
		return nil, err
	}
	defer done()
	p, err := s.provider(ctx)
	if err != nil {
		return nil, err
	}
	app, err := s.oauth(p)
	if err != nil {
		return nil, err
	}
	token, err := app.Exchange(ctx, code, oauth2.VerifierOption(a.Verifier))
	if err != nil {
		return nil, fmt.Errorf("giving the code back to GitLab: %w", err)
	}
	raw, ok := token.Extra("id_token").(string)
	if !ok {
		return nil, fmt.Errorf("%w: there is none", errForeignToken)
	}
	id, err := p.VerifierContext(ctx, &oidc.Config{ClientID: s.o.ClientID, SupportedSigningAlgs: []string{oidc.RS256}, Now: s.o.Now}).Verify(ctx, raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errForeignToken, err)
	}
	if !sameSecret(a.Nonce, id.Nonce) || !slices.Equal(id.Audience, []string{s.o.ClientID}) {
		return nil, fmt.Errorf("%w: nonce or audience is another one", errForeignToken)
	}
	user, err := strconv.ParseInt(id.Subject, 10, 64)
	if err != nil || user <= 0 {
		return nil, fmt.Errorf("%w: its subject is no user id", errForeignToken)
	}
	// Older GitLabs have neither name in ID tokens.
	var names struct {
		Username string `json:"preferred_username"`
		Name     string `json:"name"`
	}
	if err := id.Claims(&names); err != nil {
		return nil, fmt.Errorf("%w: %w", errForeignToken, err)
	}
	now := s.o.Now()
	return &session{User: user, Username: short(names.Username), Name: short(names.Name), CSRF: randomText(), Began: now, Seen: now}, nil
}

// signInFailed says why nobody can sign in now.
func (s signIns) signInFailed(w http.ResponseWriter, r *http.Request, v *visit, to string, err error) {
	status, d := http.StatusServiceUnavailable, problemData{Code: "gitlab_away", To: to}
	level := slog.LevelWarn
	var refused *oauth2.RetrieveError
	switch {
	case errors.Is(err, errBusy):
		d.Code = "busy"
	case errors.As(err, &refused) && refused.ErrorCode == "invalid_grant":
		status, d.Code = http.StatusBadRequest, "sign_in_stale"
	case errors.As(err, &refused) && refused.Response.StatusCode < 500, errors.Is(err, errForeignToken), !isGitLabAway(err):
		status, d.Code, level = http.StatusInternalServerError, "sign_in_broken", slog.LevelError
	}
	s.sampled(r.Context(), &s.lines.signIns, level, "sign-in failed", slog.String("code", d.Code), slog.Any("error", withoutBody(err)))
	s.problemPage(w, r, v, status, d)
}

// isGitLabAway reports whether GitLab gave no answer, or none of use.
func isGitLabAway(err error) bool {
	var network *url.Error
	var refused *oauth2.RetrieveError
	var otherName *oidc.IssuerMismatchError
	switch {
	case errors.As(err, &otherName):
		return false
	case errors.As(err, &network), errors.As(err, &refused), errors.Is(err, context.DeadlineExceeded):
		return true
	}
	return strings.Contains(err.Error(), "asking GitLab where to sign in")
}

// withoutBody leaves out what GitLab's answer held: it may be anything.
func withoutBody(err error) error {
	if refused, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		return fmt.Errorf("GitLab answers %s %q: check web.clientID, web.clientSecretFile and the redirect URI", refused.Response.Status, refused.ErrorCode)
	}
	return err
}

// accountProblem returns why an account may not log in, as far as it is known; "": it may.
func (s *Site) accountProblem(user int64) authn.Code {
	state, known := s.o.UserState(user)
	if !known {
		return ""
	}
	return authn.StateCode(state)
}

func (s *Site) accountPage(w http.ResponseWriter, r *http.Request, v *visit, code authn.Code) {
	s.problemPage(w, r, v, http.StatusForbidden, problemData{Code: "account", Reason: reasonOf(code)})
}

// signOut ends the session here. GitLab has no way to end its own from outside.
func (s signIns) signOut(w http.ResponseWriter, r *http.Request, v *visit) {
	clearCookie(w, sessionCookie)
	s.log(r.Context(), "signed out", v.session.User)
	http.Redirect(w, r, "/signedout", http.StatusSeeOther)
}

// localPath returns a path of this site with its query, whatever it is given: "/" for all that would lead elsewhere.
func localPath(to string) string {
	if len(to) > 512 || !strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") || strings.ContainsAny(to, "\\\r\n\t") {
		return "/"
	}
	u, err := url.Parse(to)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" || strings.HasPrefix(u.Path, "//") || strings.Contains(u.Path, "\\") {
		return "/"
	}
	return (&url.URL{Path: u.Path, RawQuery: u.Query().Encode()}).String() // a query written anew has no blank in it
}

// short bounds a name that is kept in a cookie.
func short(name string) string {
	const most = 100
	if r := []rune(name); len(r) > most {
		return string(r[:most]) + "…"
	}
	return name
}

// maxAnswer bounds what GitLab answers in a sign-in.
const maxAnswer = 1 << 20

// bounded returns a client like c that reads no more than that of an answer. The libraries read all of it.
func bounded(c *http.Client) *http.Client {
	out := *c
	out.Transport = boundedTransport{c.Transport}
	return &out
}

type boundedTransport struct{ inner http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t boundedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	inner := t.inner
	if inner == nil {
		inner = http.DefaultTransport
	}
	resp, err := inner.RoundTrip(r)
	if err == nil {
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxAnswer)
	}
	return resp, err
}
