package gitlab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
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
	retries     *retries
	token       *tokenSource
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
		base: strings.TrimRight(o.BaseURL, "/"), log: o.Logger, now: o.Now, gate: newGate(!o.NoPacing),
		concurrency: o.Concurrency, pageSize: o.PageSize, token: &tokenSource{read: o.Token},
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if a.now == nil {
		a.now = time.Now
	}
	a.retries = newRetries(o.MaxRetries, o.RetryWait, a)
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
	own := *hc // our transport and redirect rule must not change the caller's client
	own.Transport = &transport{next: hc.Transport, gate: a.gate, apiPath: strings.TrimRight(u.Path, "/")}
	own.CheckRedirect = SameHost
	a.client, err = gl.NewAuthSourceClient(a.token,
		gl.WithBaseURL(a.base), gl.WithHTTPClient(&own), gl.WithUserAgent("gl-k8s-integrator"),
		gl.WithURLWarningLogger(slog.New(slog.DiscardHandler)),
		gl.WithCustomLimiter(newCeiling()),
		gl.WithOnlyIdempotentRetries(), gl.WithCustomRetry(a.retries.idempotent),
		gl.WithCustomRetryMax(a.retries.max), gl.WithCustomBackoff(a.retries.backoff))
	if err != nil {
		return nil, fmt.Errorf("setting up the GitLab client for %q: %w", o.BaseURL, err)
	}
	return a, nil
}

// SameHost is the rule for redirects of clients that send a token. It lets GitLab redirect (moved projects) only inside itself: the
// token's header would follow to any host.
func SameHost(req *http.Request, via []*http.Request) error {
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
