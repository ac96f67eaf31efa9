// Package api serves /api/v1 (internal/webapi) over HTTP: what people.Service tells, to whoever shows an ID token of theirs.
//
// The token is judged as kube-apiserver's TokenReview is, at each request, and nothing is answered about anybody else. There are no
// cookies and no CORS headers, so that no page of another origin can ask. It writes no token anywhere.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeconfig"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/logsample"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/pace"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

// Codes of answers that are not 2xx, beside those of package authn.
const (
	CodeNoToken        = "no_token"         // 401: there is no ID token in the header Authorization
	CodeCIJob          = "ci_job_token"     // 403: it is a CI job's
	CodeNotDecided     = "no_authenticator" // 503: this process judges no tokens
	CodeUnread         = "gitlab_unread"    // 503
	CodeAway           = "gitlab_away"      // 503: a kubeconfig needs an answer of it
	CodeHistoryBusy    = "history_busy"     // 503: others read it, and it takes long
	CodeNoProject      = "no_such_project"  // 404
	CodeNoHistory      = "no_history"       // 404
	CodeNotFound       = "not_found"        // 404: no such route, or it is not set up here
	CodeMethod         = "method_not_allowed"
	CodeBadRequest     = "bad_request"       // 400: a parameter
	CodeTooMany        = "too_many_requests" // 429: of one person
	CodeTooManyWatches = "too_many_watches"  // 429: of one person; 503: of all
	CodeBusy           = "busy"              // 503: of all
	CodeEnding         = "ending"            // the process ends: ask again, another one answers
	CodeInternal       = "internal_error"    // 500
	defaultChanges     = 30 * 24 * time.Hour // what my-changes tells without since
	maxParameter       = 512                 // bytes of one parameter
	answerTime         = 10 * time.Second    // for one answer that is no watch
	contentJSON        = "application/json"
	contentYAML        = "text/yaml; charset=utf-8" // RFC 9512's application/yaml makes browsers of today ask what to do with it
	kubeconfigFile     = `attachment; filename="kubeconfig.yaml"`
	maxUnread          = 32 << 20 // bytes of answers that are written and not read yet
	defaultPerSecond   = 5
	defaultBurst       = 30
	defaultAtATime     = 64
	defaultWatches     = 200
	defaultOwnWatches  = 5
	defaultEvery       = 2 * time.Second
	defaultHeartbeat   = 30 * time.Second
)

// Options are what an API answers from. Zero numbers and durations mean their defaults.
type Options struct {
	People *people.Service
	// Authenticator returns the judge of tokens of the moment, nil if this process has none.
	Authenticator func() authn.Authenticator
	// Kubeconfig, optional, makes a kubeconfig file of a variant of package kubeconfig, with a context for each of these
	// namespaces.
	Kubeconfig func(ctx context.Context, variant string, namespaces []string) ([]byte, error)
	Logger     *slog.Logger     // nil: no log
	Now        func() time.Time // nil: time.Now

	// PerSecond is how many requests a person may make in the long run, default 5; Burst how many at once, default 30.
	PerSecond float64
	Burst     int
	// AtATime is how many requests of all people are answered at a time, default 64; Watches are not among them.
	AtATime int
	// Watches is how many watches there may be, default 200; OwnWatches how many of one person, default 5.
	Watches, OwnWatches int
	// Every is how often a watch looks for changes and has its token judged again, default 2 s. Heartbeat is how often it writes
	// an empty line when nothing changes, default 30 s.
	Every, Heartbeat time.Duration
}

func (o Options) complete() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.PerSecond <= 0 {
		o.PerSecond = defaultPerSecond
	}
	for _, n := range []struct {
		value    *int
		standard int
	}{{&o.Burst, defaultBurst}, {&o.AtATime, defaultAtATime}, {&o.Watches, defaultWatches}, {&o.OwnWatches, defaultOwnWatches}} {
		if *n.value <= 0 {
			*n.value = n.standard
		}
	}
	if o.Every <= 0 {
		o.Every = defaultEvery
	}
	if o.Heartbeat <= 0 {
		o.Heartbeat = defaultHeartbeat
	}
	return o
}

// API is the handler of everything below webapi.Prefix.
type API struct {
	o       Options
	routes  map[string]route
	slots   chan struct{}
	answers *httpserver.Answers // that are on their way
	pace    *pace.Pace
	watches watches
	ending  chan struct{} // closed when Run ends
	refused logsample.Lines
}

// route answers one path. It returns what to write: a file, and anything else as JSON.
type route func(r *asked) (any, error)

// file is a kubeconfig file.
type file []byte

// asked is a request of somebody who is known.
type asked struct {
	*http.Request
	user  int64
	until time.Time // of the token
	token string
	query url.Values
}

// New returns an API. Its Run has to run as long as it serves.
func New(o Options) *API {
	o = o.complete()
	a := &API{
		o: o, slots: make(chan struct{}, o.AtATime), ending: make(chan struct{}), answers: httpserver.NewAnswers(maxUnread),
		pace: pace.New(o.PerSecond, o.Burst), watches: watches{all: o.Watches, own: o.OwnWatches, of: map[int64]int{}},
	}
	a.routes = map[string]route{
		webapi.PathWhoAmI: a.whoAmI, webapi.PathMyNamespaces: a.myNamespaces, webapi.PathCan: a.can,
		webapi.PathMyChanges: a.myChanges, webapi.PathCI: a.ci, webapi.PathKubeconfig: a.kubeconfig,
	}
	return a
}

// Run waits for ctx to end, and then ends all watches: a server that shuts down waits for them.
func (a *API) Run(ctx context.Context) {
	<-ctx.Done()
	close(a.ending)
}

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	answer, ok := a.routes[r.URL.Path]
	if !ok {
		a.refuse(w, r, &problem{http.StatusNotFound, CodeNotFound, "there is nothing at this path: see docs/my-namespaces.md"})
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		a.refuse(w, r, &problem{http.StatusMethodNotAllowed, CodeMethod, "only GET is served"})
		return
	}
	q, v, err := a.made(r, answer)
	switch {
	case err != nil:
		a.refuse(w, r, err)
	case q.watches():
		a.watch(w, q)
	default:
		a.write(w, r, v)
	}
}

// made makes an answer, in one of the slots: it is given back before the answer is written, for nobody else shall wait for a slow
// reader. Watches have a limit of their own, and are answered elsewhere.
func (a *API) made(r *http.Request, answer route) (q *asked, v any, err error) {
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	default:
		return nil, nil, &problem{http.StatusServiceUnavailable, CodeBusy, "too many requests at a time: try again in a second"}
	}
	if q, err = a.prepare(r); err != nil || q.watches() {
		return q, nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), answerTime)
	defer cancel()
	q.Request = r.WithContext(ctx)
	v, err = answer(q)
	return q, v, err
}

func (r *asked) watches() bool {
	return r.URL.Path == webapi.PathMyNamespaces && r.query.Get("watch") == "true"
}

// prepare finds out who asks, and what. For the file that anybody may have, somebody without a token asks as nobody.
func (a *API) prepare(r *http.Request) (q *asked, err error) {
	q = &asked{Request: r}
	if r.URL.Path != webapi.PathKubeconfig || len(r.Header.Values("Authorization")) > 0 {
		if q.token, err = bearer(r); err != nil {
			return nil, err
		}
		if q.user, q.until, err = a.judge(r.Context(), q.token); err != nil {
			return nil, err
		}
		if !a.pace.Allow(q.user, a.o.Now()) {
			return nil, &problem{http.StatusTooManyRequests, CodeTooMany, "too many requests: wait a few seconds, or use watch=true"}
		}
	}
	q.query, err = parameters(r)
	return q, err
}

// parameters reads the query, and refuses a body and what no parameter is as long as.
func parameters(r *http.Request) (url.Values, error) {
	if r.ContentLength != 0 {
		return nil, badRequest("send no body: parameters belong into the query")
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, badRequest("the query can't be read: write it as ?name=value&…")
	}
	for name, values := range query {
		if len(values) > 1 || len(values[0]) > maxParameter {
			return nil, badRequest("parameter %q is given more than once, or is longer than %d bytes", shorten(name), maxParameter)
		}
	}
	return query, nil
}

func (a *API) whoAmI(r *asked) (any, error) {
	return a.identity(r), nil
}

func (a *API) identity(r *asked) webapi.Identity {
	id := a.o.People.Identity(r.user)
	until := r.until.UTC()
	id.Until = &until
	return id
}

func (a *API) myNamespaces(r *asked) (any, error) {
	f, err := filter(r.query)
	if err != nil {
		return nil, err
	}
	return a.namespaces(r, f)
}

func (a *API) namespaces(r *asked, f people.Filter) (webapi.MyNamespaces, error) {
	list, err := a.o.People.Namespaces(r.user, f)
	list.User = a.identity(r)
	return list, err
}

func filter(query url.Values) (f people.Filter, err error) {
	f.Search = query.Get("search")
	for _, n := range []struct {
		name string
		to   *int
	}{{"offset", &f.Offset}, {"limit", &f.Limit}} {
		text := query.Get(n.name)
		if text == "" {
			continue
		}
		if *n.to, err = strconv.Atoi(text); err != nil || *n.to < 0 {
			return f, badRequest("%s: want a number from 0 on", n.name)
		}
	}
	return f, nil
}

func (a *API) can(r *asked) (any, error) {
	q := authz.Question{
		Namespace: r.query.Get("namespace"), Verb: r.query.Get("verb"), Group: r.query.Get("group"),
		Resource: strings.ToLower(r.query.Get("resource")), Subresource: r.query.Get("subresource"), Name: r.query.Get("name"),
	}
	if q.Verb == "" || q.Resource == "" {
		return nil, badRequest("verb and resource are needed, as verb=list&resource=pods&namespace=haw-world")
	}
	if strings.Contains(q.Resource, "/") {
		return nil, badRequest("resource: give what is behind the slash as subresource, as resource=pods&subresource=log")
	}
	return a.o.People.Can(r.user, q)
}

func (a *API) myChanges(r *asked) (any, error) {
	since := a.o.Now().Add(-defaultChanges)
	if text := r.query.Get("since"); text != "" {
		var err error
		if since, err = time.Parse(time.RFC3339, text); err != nil {
			if since, err = time.Parse(time.DateOnly, text); err != nil {
				return nil, badRequest("since: want a time as 2026-11-29T08:00:00Z, or a day as 2026-11-29")
			}
		}
	}
	list, err := a.o.People.Changes(r.Context(), r.user, since)
	if list == nil {
		list = []webapi.Change{}
	}
	return list, err
}

func (a *API) ci(r *asked) (any, error) {
	project := r.query.Get("project")
	if project == "" {
		return nil, badRequest("project is needed: its path, as project=haw/world, or its number")
	}
	return a.o.People.CI(r.user, project)
}

// kubeconfig answers with a file that holds nothing personal: of somebody who shows a token it has their namespaces as contexts.
func (a *API) kubeconfig(r *asked) (any, error) {
	if a.o.Kubeconfig == nil {
		return nil, &problem{http.StatusNotFound, CodeNotFound, "no kubeconfig is made here"}
	}
	variant := r.query.Get("variant")
	if _, err := kubeconfig.ParseVariant(variant); err != nil {
		return nil, badRequest("variant: %v", err)
	}
	var own []string
	if r.user != 0 {
		var err error
		if own, err = a.o.People.Reachable(r.user); err != nil {
			return nil, err
		}
	}
	text, err := a.o.Kubeconfig(r.Context(), variant, own)
	if err != nil {
		return nil, fmt.Errorf("making a kubeconfig: %w", err)
	}
	return file(text), nil
}

// write answers with a file or JSON; 304 if that is what the caller has.
func (a *API) write(w http.ResponseWriter, r *http.Request, v any) {
	h := w.Header()
	if text, ok := v.(file); ok {
		h.Set("Content-Type", contentYAML)
		h.Set("Content-Disposition", kubeconfigFile)
		a.answers.Send(w, r, http.StatusOK, text)
		return
	}
	body, err := json.Marshal(v)
	if err != nil {
		a.refuse(w, r, fmt.Errorf("writing the answer: %w", err))
		return
	}
	tag := etag(v)
	h.Set("ETag", tag)
	if slices.ContainsFunc(strings.Split(r.Header.Get("If-None-Match"), ","), func(have string) bool { return strings.TrimSpace(have) == tag }) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", contentJSON)
	a.answers.Send(w, r, http.StatusOK, append(body, '\n'))
}

// problem is an answer that is not 2xx.
type problem struct {
	status     int
	code, text string
}

func (p *problem) Error() string { return p.text }

func badRequest(format string, args ...any) *problem {
	return &problem{http.StatusBadRequest, CodeBadRequest, fmt.Sprintf(format, args...)}
}

// problemOf says how to answer an error.
func problemOf(err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	switch {
	case errors.Is(err, people.ErrUnread):
		return &problem{http.StatusServiceUnavailable, CodeUnread, err.Error()}
	case errors.Is(err, kubeconfig.ErrNotNow): // what else it says is for the log
		return &problem{http.StatusServiceUnavailable, CodeAway, kubeconfig.ErrNotNow.Error()}
	case errors.Is(err, people.ErrHistoryBusy):
		return &problem{http.StatusServiceUnavailable, CodeHistoryBusy, people.ErrHistoryBusy.Error()}
	case errors.Is(err, people.ErrNoProject):
		return &problem{http.StatusNotFound, CodeNoProject, err.Error()}
	case errors.Is(err, people.ErrNoHistory):
		return &problem{http.StatusNotFound, CodeNoHistory, err.Error()}
	}
	return &problem{http.StatusInternalServerError, CodeInternal, "the answer could not be made: try again; if it lasts, give the administrators of the cluster the time and the value of X-Request-Id"}
}

// refuse answers with an error, and logs it at most once a second: anybody can cause as many as they like. Whoever has left gets no
// answer: it ended for them.
func (a *API) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return
	}
	p := problemOf(err)
	level := slog.LevelInfo
	if p.status >= http.StatusInternalServerError {
		level = slog.LevelWarn
	}
	if n, ok := a.refused.Allow(time.Now()); ok {
		a.o.Logger.LogAttrs(r.Context(), level, "question of a person not answered", slog.String("requestId", r.Header.Get("X-Request-Id")),
			slog.Int("status", p.status), slog.String("code", p.code), slog.Any("error", err), slog.Int64("suppressed", n))
	}
	h := w.Header()
	switch p.status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", challenge(p.code))
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		h.Set("Retry-After", "5")
	}
	h.Set("Content-Type", contentJSON)
	w.WriteHeader(p.status)
	_ = json.NewEncoder(w).Encode(webapi.Error{Error: p.text, Code: p.code}) // the caller is gone if this fails
}

func shorten(s string) string {
	const most = 40
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
