package gitlab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	gl "gitlab.com/gitlab-org/api/client-go/v2"
	"golang.org/x/time/rate"
)

// Options say how a GitLab instance is reached. Only BaseURL and Token are needed.
type Options struct {
	BaseURL    string                 // the instance, "https://gitlab.example.com", also with a path below it
	Token      func() (string, error) // called for every request, so that a rotated token file is noticed
	HTTPClient *http.Client           // with the CA and timeout; see NewHTTPClient
	Logger     *slog.Logger           // default: no log
	Now        func() time.Time       // default: time.Now

	MaxRetries  int           // tries after the first one; default 4, negative: none
	RetryWait   time.Duration // first pause; doubled for each further one; default 500 ms
	Concurrency int           // REST requests at the same time; default 4
	PageSize    int           // default and most 100, GitLab's own limit
	NoPacing    bool          // don't keep below GitLab's default rate limits, for servers without them

	// IncludeUsers reads everybody, not only who is named in a membership: needed for personal namespaces.
	IncludeUsers bool
	// RESTOnly never tries GraphQL.
	RESTOnly bool
	// LinksMaxAge is within which time a full reading reads the links of each group again; default 15 minutes, negative: each time.
	LinksMaxAge time.Duration
	// CIVariables are the variables that a Reader tells beside rights.
	CIVariables CIVariables
}

// maxBody bounds an answer: a page of 100 sources with 100 members each stays far below it.
const maxBody = 64 << 20

// NewHTTPClient returns a client that trusts the system's CAs and those in caPEM, which may be empty.
func NewHTTPClient(caPEM []byte, timeout time.Duration) (*http.Client, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	t.MaxIdleConnsPerHost = 8
	if len(caPEM) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(caPEM) {
			return nil, errors.New("reading the CA for GitLab: no certificate found in it: want PEM, \"-----BEGIN CERTIFICATE-----\"")
		}
		t.TLSClientConfig.RootCAs = pool
	}
	return &http.Client{Transport: t, Timeout: timeout}, nil
}

// api is what Reader and Variables share: client-go with our rules for retries, rates, sizes and errors.
type api struct {
	client      *gl.Client
	base        string
	log         *slog.Logger
	now         func() time.Time
	gate        *gate
	token       *tokenSource
	maxRetries  int
	retryWait   time.Duration
	concurrency int
	pageSize    int
}

func newAPI(o Options) (*api, error) {
	u, err := url.Parse(o.BaseURL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil || u.RawQuery != "" {
		return nil, fmt.Errorf("gitlab url %q: want https://HOST without user, query or fragment", o.BaseURL)
	}
	if o.Token == nil {
		return nil, errors.New("no source of a GitLab token given")
	}
	a := &api{
		base: strings.TrimRight(o.BaseURL, "/"), log: o.Logger, now: o.Now, maxRetries: o.MaxRetries, retryWait: o.RetryWait,
		concurrency: o.Concurrency, pageSize: o.PageSize, token: &tokenSource{read: o.Token},
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if a.now == nil {
		a.now = time.Now
	}
	if a.maxRetries == 0 {
		a.maxRetries = 4
	}
	a.maxRetries = max(a.maxRetries, 0)
	if a.retryWait <= 0 {
		a.retryWait = 500 * time.Millisecond
	}
	if a.concurrency <= 0 {
		a.concurrency = 4
	}
	if a.pageSize <= 0 || a.pageSize > 100 {
		a.pageSize = 100
	}
	hc := o.HTTPClient
	if hc == nil {
		if hc, err = NewHTTPClient(nil, time.Minute); err != nil {
			return nil, err
		}
	}
	a.gate = newGate(!o.NoPacing)
	own := *hc // our transport and redirect rule must not change the caller's client
	own.Transport = &transport{next: hc.Transport, gate: a.gate, apiPath: strings.TrimRight(u.Path, "/")}
	own.CheckRedirect = sameHost
	a.client, err = gl.NewAuthSourceClient(a.token,
		gl.WithBaseURL(a.base), gl.WithHTTPClient(&own), gl.WithUserAgent("gl-k8s-integrator"),
		gl.WithURLWarningLogger(slog.New(slog.DiscardHandler)),
		gl.WithCustomLimiter(rate.NewLimiter(50, 50)), // a plain ceiling; the limits per endpoint are the gate's
		gl.WithOnlyIdempotentRetries(), gl.WithCustomRetry(a.retryIdempotent),
		gl.WithCustomRetryMax(a.maxRetries), gl.WithCustomBackoff(a.backoff))
	if err != nil {
		return nil, fmt.Errorf("setting up the GitLab client for %q: %w", o.BaseURL, err)
	}
	return a, nil
}

// get reads path ("groups/7") with the query into out. A connection that breaks inside an answer is tried again,
// which client-go does not do.
func (a *api) get(ctx context.Context, path string, q url.Values, out any) (*gl.Response, error) {
	kind := endpointOf(http.MethodGet, "/api/v4/"+path)
	if s := singleOf(ctx); s != nil {
		s.tries = 0
	}
	for try := 0; ; try++ {
		resp, err := a.getOnce(ctx, kind, path, q, out)
		if err == nil {
			return resp, nil
		}
		cut := errors.Is(err, io.ErrUnexpectedEOF)
		if err = a.late(ctx, "reading "+path, resp, err); try >= a.maxRetries {
			return resp, err
		}
		switch s := singleOf(ctx); {
		case cut:
			if err := sleep(ctx, a.pause(try)); err != nil {
				return nil, err
			}
		case s != nil && !s.urgent && limited(err) && ctx.Err() == nil && a.gate.isStopped(kind): // it is not this thing's alone: wait for the turn
		default:
			return resp, err
		}
	}
}

// late explains an error, and knows one that comes of our own deadline for a single thing.
func (a *api) late(ctx context.Context, doing string, resp *gl.Response, err error) error {
	s := singleOf(ctx)
	if s != nil && ctx.Err() != context.Canceled && errors.Is(err, context.DeadlineExceeded) && (!s.urgent || ctx.Err() != nil) {
		return &callError{doing: doing, kind: ErrSlow}
	}
	return a.explain(doing, resp, err)
}

func (a *api) getOnce(ctx context.Context, kind, path string, q url.Values, out any) (*gl.Response, error) {
	if err := a.gate.waitFor(ctx, kind, "/api/v4/"+path); err != nil {
		return nil, err
	}
	ctx, end := begin(ctx)
	defer end()
	req, err := a.client.NewRequest(http.MethodGet, path, nil, []gl.RequestOptionFunc{gl.WithContext(ctx)})
	if err != nil {
		return nil, err
	}
	req.URL.RawQuery = q.Encode()
	return a.client.Do(req, out)
}

// graphQLErrors are the errors of an answer with HTTP status 200. Their text is GitLab's.
type graphQLErrors []struct {
	Message    string `json:"message"`
	Extensions struct {
		Code string `json:"code"`
	} `json:"extensions"`
}

func (e graphQLErrors) Error() string {
	text := make([]string, 0, 3)
	for _, one := range e[:min(len(e), 3)] {
		text = append(text, shorten(one.Message))
	}
	return "GraphQL: " + strings.Join(text, "; ")
}

// schema reports whether the query asked for something this server does not have.
func (e graphQLErrors) schema() bool {
	for _, one := range e {
		switch one.Extensions.Code {
		case "undefinedField", "undefinedType", "argumentNotAccepted":
			return true
		}
		for _, s := range []string{"doesn't exist on type", "Cannot query field", "doesn't accept argument", "Unknown argument", "isn't a defined input type"} {
			if strings.Contains(one.Message, s) {
				return true
			}
		}
	}
	return false
}

// query sends a GraphQL query. Any entry in "errors" makes the answer a failed one, also beside partial data.
func (a *api) query(ctx context.Context, text string, vars map[string]any) (map[string]json.RawMessage, error) {
	if s := singleOf(ctx); s != nil {
		s.tries = 0
	}
	for try := 0; ; try++ {
		var out struct {
			Data   map[string]json.RawMessage `json:"data"`
			Errors graphQLErrors              `json:"errors"`
		}
		if err := a.gate.wait(ctx, "graphql"); err != nil {
			return nil, a.late(ctx, "querying GraphQL", nil, err)
		}
		sent, end := begin(ctx)
		resp, err := a.client.GraphQL.Do(gl.GraphQLQuery{Query: text, Variables: vars}, &out,
			gl.WithContext(sent), gl.WithRequestRetry(a.retryQuery))
		end()
		if err == nil && len(out.Errors) > 0 {
			err = out.Errors
		}
		if err == nil && out.Data == nil {
			err = errNoData
		}
		if err == nil {
			return out.Data, nil
		}
		if try >= a.maxRetries || !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, a.late(ctx, "querying GraphQL", resp, err)
		}
		if err := sleep(ctx, a.pause(try)); err != nil {
			return nil, err
		}
	}
}

var errNoData = errors.New("the answer has neither data nor errors")

// retryIdempotent decides for REST: 429 was not processed and is always safe; all else only where a repetition
// can't do anything twice.
func (a *api) retryIdempotent(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if ctx.Err() != nil {
		return ended(ctx, resp)
	}
	method := ""
	var ue *url.Error
	switch {
	case resp != nil && resp.Request != nil:
		method = resp.Request.Method
	case errors.As(err, &ue):
		method = strings.ToUpper(ue.Op)
	}
	return retryable(resp, err, method != http.MethodPost && method != http.MethodPatch && method != "") && a.inTime(ctx, resp), nil
}

// retryQuery decides for GraphQL, where our queries are POST requests that only read.
func (a *api) retryQuery(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if ctx.Err() != nil {
		return ended(ctx, resp)
	}
	return retryable(resp, err, true) && a.inTime(ctx, resp), nil
}

// inTime reports whether another try begins before the context's deadline. If not, a 429 holds back what comes later all the same.
func (a *api) inTime(ctx context.Context, resp *http.Response) bool {
	n := 0
	if s := singleOf(ctx); s != nil {
		n = s.tries
		s.tries++
	}
	if !tooLate(ctx, a.pauseAfter(n, resp)) {
		return true
	}
	if resp != nil && resp.StatusCode == http.StatusTooManyRequests {
		a.backoff(0, 0, n, resp)
	}
	return false
}

// ended stops retrying. With an answer at hand it gives no error: client-go would return that and forget to close
// the answer's body.
func ended(ctx context.Context, resp *http.Response) (bool, error) {
	if resp != nil {
		return false, nil
	}
	return false, ctx.Err()
}

func retryable(resp *http.Response, err error, idempotent bool) bool {
	switch {
	case err != nil:
		return (idempotent && !hopeless(err)) || dialFailed(err)
	case resp.StatusCode == http.StatusTooManyRequests:
		return true
	}
	return idempotent && resp.StatusCode >= 500 && resp.StatusCode != http.StatusNotImplemented
}

// pause is the wait before try number n+1 when nobody said how long: doubled each time.
func (a *api) pause(n int) time.Duration {
	return min(a.retryWait<<min(n, 10), time.Minute)
}

// backoff is pauseAfter, and after a 429 holds back other requests of the kind as well.
func (a *api) backoff(_, _ time.Duration, n int, resp *http.Response) time.Duration {
	d := a.pauseAfter(n, resp)
	if resp == nil || resp.StatusCode != http.StatusTooManyRequests {
		return d
	}
	kind := ""
	if resp.Request != nil {
		kind = a.gate.stop(resp.Request, d)
	}
	a.log.Warn("GitLab limits our requests", "endpoint", kind, "wait", d.String())
	return d
}

// pauseAfter honours Retry-After and RateLimit-Reset. GitLab's application limits send neither (facts of GitLab's
// rate_limiter.rb) and count per minute, so without a header the pauses grow until a minute is surely over.
func (a *api) pauseAfter(n int, resp *http.Response) time.Duration {
	limited := resp != nil && resp.StatusCode == http.StatusTooManyRequests
	if resp != nil {
		if d, ok := retryAfter(resp.Header, a.now()); ok && limited {
			return d
		} else if ok {
			return min(d, time.Minute)
		}
	}
	if !limited {
		return a.pause(n)
	}
	steps := [...]time.Duration{10, 30, 60, 120} // × 500 ms = 5, 15, 30, 60 s
	return min(steps[min(n, len(steps)-1)]*a.retryWait, time.Minute)
}

// retryAfter reads how long GitLab wants us to wait: at most ten minutes, whatever it says.
func retryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	d := time.Duration(-1)
	if v := h.Get("Retry-After"); v != "" {
		if t, err := http.ParseTime(v); err == nil {
			d = t.Sub(now)
		} else if s, err := time.ParseDuration(v + "s"); err == nil {
			d = s
		}
	} else if v := h.Get("RateLimit-Reset"); v != "" {
		if s, err := time.ParseDuration(v + "s"); err == nil {
			d = time.Unix(int64(s.Seconds()), 0).Sub(now)
		}
	}
	if d < 0 {
		return 0, false
	}
	return min(d, 10*time.Minute), true
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// sameHost lets GitLab redirect (moved projects) only inside itself: the token header would follow to any host.
func sameHost(req *http.Request, via []*http.Request) error {
	if len(via) >= 5 {
		return errors.New("stopped after 5 redirects")
	}
	if first := via[0].URL; req.URL.Scheme != first.Scheme || req.URL.Host != first.Host {
		return &redirectError{to: req.URL.Scheme + "://" + req.URL.Host}
	}
	return nil
}

// transport caps every answer and counts every request, also the repeated ones.
type transport struct {
	next    http.RoundTripper
	gate    *gate
	apiPath string
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	t.gate.count(endpointOf(req.Method, strings.TrimPrefix(req.URL.Path, t.apiPath)))
	next := t.next
	if next == nil {
		next = http.DefaultTransport
	}
	sent := time.Now()
	resp, err := next.RoundTrip(req)
	if err != nil {
		return resp, err
	}
	if resp.StatusCode < http.StatusBadRequest || resp.StatusCode == http.StatusNotFound {
		t.gate.passed(req, sent)
	}
	resp.Body = &cappedBody{ReadCloser: resp.Body, left: maxBody}
	resp.Header.Del(ownHeader)
	if resp.StatusCode == http.StatusNotFound {
		body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		if err == nil && saysAbsent(body) {
			resp.Header.Set(ownHeader, "yes")
		}
	}
	return resp, nil
}

// ownHeader marks an answer whose body is GitLab's 404 about an object: client-go does not read the body of a 404. It never
// comes from outside.
const ownHeader = "Gl-K8s-Integrator-Own-404"

var errTooLarge = fmt.Errorf("the answer is larger than %d MiB", maxBody>>20)

type cappedBody struct {
	io.ReadCloser
	left int64
}

func (b *cappedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLarge
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	return n, err
}

// tokenSource gives client-go the token of the moment, and remembers it only to blot it out of errors.
type tokenSource struct {
	read func() (string, error)
	mu   sync.Mutex
	last string
}

func (t *tokenSource) Init(context.Context, *gl.Client) error { return nil }

func (t *tokenSource) Header(context.Context) (key, value string, err error) {
	tok, err := t.read()
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", ErrToken, err)
	}
	tok = strings.TrimSpace(tok)
	if tok == "" || strings.ContainsAny(tok, "\r\n\x00 ") {
		return "", "", fmt.Errorf("%w: it is empty or has spaces or several lines: the file must hold the token alone", ErrToken)
	}
	t.mu.Lock()
	t.last = tok
	t.mu.Unlock()
	return "PRIVATE-TOKEN", tok, nil
}

func (t *tokenSource) blot(s string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last == "" {
		return s
	}
	return strings.ReplaceAll(s, t.last, "[token]")
}
