// Package web is the page for people: what a person who signed in with GitLab sees about themself, and what administrators see
// about the whole. It is HTML that works without JavaScript, in two languages.
//
// It knows neither Kubernetes nor GitLab's API: what it shows comes from People and Admin, and what it knows of an account from
// the directory that judges logins too. GitLab is asked at a sign-in, and about administrators at each use of their pages: whoever
// is signed in goes on while it is away, but for those.
package web

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeconfig"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/logsample"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/pace"
)

// Options are what a Site is made of. All but Language, Admin, PerSecond and Burst are needed.
type Options struct {
	// URL that browsers reach the page by: https, no path.
	URL string
	// GitLabURL is GitLab's external URL, the issuer of its tokens.
	GitLabURL string
	// ClientID and ClientSecret are those of the OAuth application. The secret is read at each sign-in.
	ClientID     string
	ClientSecret func() (string, error)
	// Keys returns the keys of sessions, the one to seal with first; see ParseKeys. It is asked at each request.
	Keys func() ([][]byte, error)
	// HTTPClient speaks to GitLab.
	HTTPClient *http.Client
	// UserState returns GitLab's state of an account if it is known, as a login by token asks for it.
	UserState func(user int64) (state string, known bool)
	People    People
	// Kubeconfig makes the file with which people reach the cluster, with a context for each namespace, the first one the current;
	// nil: none can be made. Cluster is the short name of the cluster.
	Kubeconfig func(ctx context.Context, v kubeconfig.Variant, namespaces []string) ([]byte, error)
	Cluster    string
	// CIAudience returns the audience of the ID tokens of CI jobs as it is configured now; "": there is none.
	CIAudience func() string
	// Admin serves the pages for administrators; nil: there are none.
	Admin Admin
	// Language is for who asks for none that there is.
	Language string
	Now      func() time.Time
	Logger   *slog.Logger

	// PerSecond is how many requests a signed-in person may make in the long run, Burst how many at once; 0: the default.
	PerSecond float64
	Burst     int
}

// Site serves the page.
type Site struct {
	o      Options
	pages  pages
	assets map[string]asset
	nav    []navEntry
	mux    *http.ServeMux
	guard  *http.CrossOriginProtection
	gitlab signInAt
	begins turns // of the first half of sign-ins, and of the second
	ends   turns
	pace   *pace.Pace // of what people ask on our pages
	links  *pace.Pace // of what their browsers ask because a page from elsewhere leads here
	admins adminGate
	// lines are those of the log that people can cause as often as they like. None hides those of another kind.
	lines struct{ sessions, signIns, tooMany, delays, failures logsample.Lines }
}

// maxForm bounds what a form sends.
const maxForm = 64 << 10

// How often one person may ask, from all their browsers together. It keeps a program with somebody's cookie from taking the slots of
// everybody, and is not reached by clicking, searching and opening tabs. The most at once are all rows of a list in tabs of their own, or the tabs of
// yesterday when a browser starts again, each perhaps with a redirect: so three times the rows of a list. Who searches while they
// type, reloads or clicks as fast as they can asks ten times in a second at most, however long they go on.
const (
	defaultBurst     = 3 * perPage
	defaultPerSecond = 10
	tooManyWait      = "5" // seconds that Retry-After says: then the next pages have room too
)

// New returns the page. It does no network I/O.
func New(o Options) (*Site, error) {
	o.HTTPClient = bounded(o.HTTPClient)
	perSecond, burst := cmp.Or(o.PerSecond, defaultPerSecond), cmp.Or(o.Burst, defaultBurst)
	s := &Site{
		o: o, mux: http.NewServeMux(), guard: http.NewCrossOriginProtection(), begins: newTurns(beginsAtATime), ends: newTurns(endsAtATime),
		pace: pace.New(perSecond, burst), links: pace.New(perSecond, burst),
	}
	if err := s.guard.AddTrustedOrigin(o.URL); err != nil {
		return nil, fmt.Errorf("web.url: %w", err)
	}
	var err error
	if s.assets, err = loadAssets(); err != nil {
		return nil, err
	}
	if s.pages, err = loadPages(s.assets); err != nil {
		return nil, err
	}
	if _, ok := s.pages[o.Language]; !ok {
		return nil, fmt.Errorf("web.language: there is no %q", o.Language)
	}
	for _, r := range s.routes() {
		if r.nav != "" {
			s.nav = append(s.nav, navEntry{Path: r.path, Text: r.nav, admin: r.access == administrators})
		}
		s.mux.Handle(r.method+" "+r.path, s.serve(r))
	}
	s.mux.HandleFunc("GET /static/{file}", s.static)
	s.mux.Handle("/", s.serve(s.nowhere()))
	return s, nil
}

// access says who may use a route.
type access int

const (
	anybody access = iota
	signedIn
	administrators // everybody else is told that there is no such page
)

// route is one page, or one form that is sent. A form has to be sent with the field of template "csrf".
type route struct {
	method string // GET or POST
	path   string // a pattern of http.ServeMux
	access access
	nav    string // key of the text in the navigation; "": it is not there
	handle func(w http.ResponseWriter, r *http.Request, v *visit)
}

// routes lists all pages, in the order of the navigation.
func (s *Site) routes() []route {
	return slices.Concat(
		signIns{s}.routes(),
		peoplePages{s}.routes(),
		ownPages{s}.ciRoutes(),
		ownPages{s}.whyRoutes(),
		ownPages{s}.changesRoutes(),
		peoplePages{s}.helpRoutes(),
		adminPages{s}.adminRoutes(),
	)
}

// visit is who asks, and in which language they are answered.
type visit struct {
	lang    string
	session *session // nil: not signed in
}

// ServeHTTP implements http.Handler.
func (s *Site) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// serve does what each page needs before it.
func (s *Site) serve(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.setHeaders(w.Header())
		v := &visit{lang: s.language(r)}
		elsewhere := fromElsewhere(r)
		if s.guard.Check(r) != nil || elsewhere && r.Header.Get("Sec-Fetch-Mode") != "navigate" {
			s.problem(w, r, v, http.StatusForbidden, "foreign")
			return
		}
		why, rt := s.enter(w, r, v), rt
		mine := s.pace
		if elsewhere {
			mine = s.links
		}
		if v.session != nil && !mine.Allow(v.session.User, s.o.Now()) { // before the path counts: see TestPaceTellsNoPaths
			s.tooMany(w, r, v)
			return
		}
		if rt.access == administrators && why != "account" && why != "broken" {
			var ok bool
			if rt, ok = (adminPages{s}).admit(w, r, v, rt); !ok {
				return
			}
		}
		switch {
		case why == "account": // it has been answered
		case why == "broken":
			s.problem(w, r, v, http.StatusInternalServerError, "internal")
		case rt.access != anybody && why != "":
			s.problem(w, r, v, http.StatusUnauthorized, why)
		case rt.access != anybody && v.session == nil:
			s.problem(w, r, v, http.StatusUnauthorized, "signed_out")
		case r.Method != http.MethodPost || s.readForm(w, r, v):
			rt.handle(w, r, v)
		}
	})
}

// fromElsewhere reports whether a page that is not ours made the browser send a request: W3C Fetch Metadata. Cookies go with some of
// these: with images of a page of the same site, as GitLab's may be, and with links of any. They must not use up what somebody may
// ask on our pages.
func fromElsewhere(r *http.Request) bool {
	site := r.Header.Get("Sec-Fetch-Site")
	return site == "cross-site" || site == "same-site"
}

// enter reads the session. It returns why there is none although there was one: "expired", "account" (the account is blocked, and
// the page that says so was sent), or "broken" (the keys can't be read).
func (s *Site) enter(w http.ResponseWriter, r *http.Request, v *visit) string {
	c, err := r.Cookie(sessionCookie)
	if err != nil {
		return ""
	}
	keys, err := s.keys(r.Context())
	if err != nil {
		return "broken"
	}
	sn, ok := keys.openSession(c.Value, s.o.Now())
	if !ok {
		clearCookie(w, sessionCookie)
		return "expired"
	}
	if code := s.accountProblem(sn.User); code != "" {
		clearCookie(w, sessionCookie)
		s.log(r.Context(), "signed out: the account may not log in any more", sn.User, slog.String("reason", string(code)))
		s.accountPage(w, r, v, code)
		return "account"
	}
	if now := s.o.Now(); now.Sub(sn.Seen) > seenStep {
		sn.Seen = now
		if sealed, err := keys.seal(sessionCookie, sn); err == nil {
			setCookie(w, sessionCookie, sealed, idleTime)
		}
	}
	v.session = sn
	return ""
}

// readForm reads a form and demands the token of the session in it. It answers what it refuses.
func (s *Site) readForm(w http.ResponseWriter, r *http.Request, v *visit) bool {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		status := http.StatusBadRequest
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			status = http.StatusRequestEntityTooLarge
		}
		s.problem(w, r, v, status, "form")
		return false
	}
	if v.session == nil || !sameSecret(v.session.CSRF, r.PostForm.Get(csrfField)) {
		s.problem(w, r, v, http.StatusForbidden, "foreign")
		return false
	}
	return true
}

// setHeaders says what browsers may do with our pages: nothing but show them, with our own styles and our own script.
func (s *Site) setHeaders(h http.Header) {
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()")
	h.Set("Strict-Transport-Security", "max-age=31536000")
	h.Set("Cache-Control", "no-store")
}

// page answers with a page: templates/NAME.html in the layout.
func (s *Site) page(w http.ResponseWriter, r *http.Request, v *visit, name string, data any) {
	s.write(w, r, v, http.StatusOK, name, data)
}

func (s *Site) write(w http.ResponseWriter, r *http.Request, v *visit, status int, name string, data any) {
	sh := shell{Lang: v.lang, Page: name, Path: r.URL.Path, Here: here(r), Languages: languages, GitLab: s.o.GitLabURL, Data: data}
	if v.session != nil {
		sh.User, sh.CSRF = v.session, v.session.CSRF
	}
	for _, n := range s.nav {
		if v.session != nil && (!n.admin || (adminPages{s}).showsAdmin(r.Context(), v)) {
			n.Current = r.URL.Path == n.Path || strings.HasPrefix(r.URL.Path, n.Path+"/")
			sh.Nav = append(sh.Nav, n)
		}
	}
	var out bytes.Buffer
	t, ok := s.pages[v.lang][name]
	err := fmt.Errorf("there is no page %q", name)
	if ok {
		err = t.ExecuteTemplate(&out, "layout", sh)
	}
	if err != nil {
		s.sampled(r.Context(), &s.lines.failures, slog.LevelError, "page could not be made", slog.String("page", name), slog.Any("error", err))
		if name != "problem" {
			s.problem(w, r, v, http.StatusInternalServerError, "internal")
			return
		}
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Language", v.lang)
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(out.Bytes()) // the caller is gone if this fails
	}
}

// problemData is what the page of a problem shows: the texts problem.CODE.title, .text and, if there is one, .do.
type problemData struct {
	Code   string
	Reason string // key of a reason to add; "": none
	To     string // where a new sign-in leads; "": no button for it
	Retry  string // a path to try again; "": no button for it
}

// problem answers with the page of a problem.
func (s *Site) problem(w http.ResponseWriter, r *http.Request, v *visit, status int, code string) {
	d := problemData{Code: code}
	switch {
	case status == http.StatusUnauthorized && r.Method == http.MethodGet:
		d.To = here(r)
	case status == http.StatusUnauthorized:
		d.To = "/"
	}
	s.problemPage(w, r, v, status, d)
}

func (s *Site) problemPage(w http.ResponseWriter, r *http.Request, v *visit, status int, d problemData) {
	s.write(w, r, v, status, "problem", d)
}

// notFound answers that there is no such page. It does not tell from whom one is kept.
func (s *Site) notFound(w http.ResponseWriter, r *http.Request, v *visit) {
	s.problem(w, r, v, http.StatusNotFound, "not_found")
}

// tooMany answers who asks more often than one person may.
func (s *Site) tooMany(w http.ResponseWriter, r *http.Request, v *visit) {
	s.sampled(r.Context(), &s.lines.tooMany, slog.LevelInfo, "session of the page", slog.String("event", "too many requests of one person"), slog.Int64("user", v.session.User))
	w.Header().Set("Retry-After", tooManyWait)
	s.problemPage(w, r, v, http.StatusTooManyRequests, problemData{Code: "too_many", Retry: here(r)})
}

// log writes one line about what became of somebody's session; many of them are left out.
func (s *Site) log(ctx context.Context, event string, user int64, attrs ...slog.Attr) {
	s.sampled(ctx, &s.lines.sessions, slog.LevelInfo, "session of the page", append(attrs, slog.String("event", event), slog.Int64("user", user))...)
}

// sampled writes one line, or counts it for the next one of these lines.
func (s *Site) sampled(ctx context.Context, lines *logsample.Lines, level slog.Level, message string, attrs ...slog.Attr) {
	if n, ok := lines.Allow(s.o.Now()); ok {
		s.o.Logger.LogAttrs(ctx, level, message, append(attrs, slog.Int64("suppressed", n))...) //nolint:sloglint // the messages are the callers' constants
	}
}

// here is the path of a page with its query, to come back to; "/" for what is of no use twice.
func here(r *http.Request) string {
	if r.Method != http.MethodGet || strings.HasPrefix(r.URL.Path, "/signin") || r.URL.Path == "/signedout" {
		return "/"
	}
	return localPath(r.URL.RequestURI())
}
