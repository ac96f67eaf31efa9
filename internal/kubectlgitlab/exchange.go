package kubectlgitlab

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

// Limits of one question. The time is that of the exchange alone: a login before it takes as long as a person does.
const (
	answerTime = 30 * time.Second
	maxAnswer  = 32 << 20 // discovery of a cluster with hundreds of kinds, namespaces of an administrator
)

// exchange is below all that adds credentials: it sees a request as it goes out, and reads the answer whole, within limits.
type exchange struct {
	base  http.RoundTripper
	check func(*http.Request) error // an error keeps the request back
}

// RoundTrip is one exchange.
func (e exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := e.check(req); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(req.Context(), answerTime)
	defer cancel()
	res, err := e.base.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	_ = res.Body.Close() // it was read
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("the answer is larger than %d MiB", maxAnswer>>20)
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	return res, nil
}

func bearer(req *http.Request) string {
	token, _ := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
	return token
}

// apiClient sends requests to one server.
type apiClient struct {
	client *http.Client
	url    *url.URL
}

func noRedirect(req *http.Request, _ []*http.Request) error {
	return fmt.Errorf("it sends the request on to %s, where no token goes", req.URL.Redacted())
}

// reachCluster returns the way to kube-apiserver, with the credentials of the context.
func (s *session) reachCluster() (*apiClient, error) {
	config := rest.CopyConfig(s.config)
	config.Wrap(func(base http.RoundTripper) http.RoundTripper {
		return exchange{base, func(req *http.Request) error {
			if c, ok := readClaims(bearer(req)); ok {
				s.seen.Store(&c)
			}
			return nil
		}}
	})
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("context %q: %w", s.name, err)
	}
	client.CheckRedirect = noRedirect
	u, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("context %q: %w", s.name, err)
	}
	return &apiClient{client, u}, nil
}

// errNoServer says that there is no server of ours to ask; the text says why.
var errNoServer = errors.New("no server")

// integrator returns the way to our server. Its requests carry the token of the context's user if GitLab made it, and no
// other credential: no client certificate, no token of anybody else, no impersonation.
func (s *session) integrator() (*apiClient, error) {
	switch {
	case s.extension.Server == "":
		return nil, fmt.Errorf("%w: the kubeconfig names none", errNoServer)
	case s.config.Impersonate.UserName != "":
		return nil, fmt.Errorf("%w: the kubeconfig impersonates %s, and it tells people about themselves alone", errNoServer, s.config.Impersonate.UserName)
	case s.issuer == "":
		return nil, fmt.Errorf("%w: the kubeconfig does not say which GitLab makes the tokens", errNoServer)
	}
	u, err := serverURL(s.extension.Server)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: 10 * time.Second, ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if len(s.extension.CA) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("reading the CAs of the system: %w", err)
		}
		if !pool.AppendCertsFromPEM(s.extension.CA) {
			return nil, errors.New("the CA of the integrator's server is no PEM certificate")
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	config := rest.CopyConfig(s.config)
	config.CertData, config.KeyData, config.CertFile, config.KeyFile = nil, nil, "", ""
	credentials, err := rest.HTTPWrappersForConfig(config, exchange{transport, s.guard(u)})
	if err != nil {
		return nil, fmt.Errorf("context %q: %w", s.name, err)
	}
	return &apiClient{&http.Client{Transport: credentials, CheckRedirect: noRedirect}, u}, nil
}

// guard is the last to see a request to our server: it lets through only a token of GitLab's, and only to that address.
func (s *session) guard(to *url.URL) func(*http.Request) error {
	return func(req *http.Request) error {
		if req.URL.Scheme != to.Scheme || req.URL.Host != to.Host {
			return fmt.Errorf("no token is sent to %s", req.URL.Host)
		}
		c, ok := readClaims(bearer(req))
		if !ok || c.Issuer != s.issuer {
			return fmt.Errorf("%w: the credentials of context %q are no token of %s, so they are not sent there", errNoServer, s.name, s.issuer)
		}
		s.seen.Store(&c)
		return nil
	}
}

// maxLine is how long a line is that is shown as the reason of a refusal.
const maxLine = 500

// refusal is an answer that is none.
type refusal struct {
	status  int
	code    string // of our server: a reason that docs/reasons.md has
	message string
}

func (r *refusal) Error() string { return r.message }

// readRefusal takes the words of a Status of Kubernetes, of our server, or of whatever else speaks in one line.
func readRefusal(status int, content []byte) error {
	var kubernetes struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(content, &kubernetes) == nil && kubernetes.Message != "" {
		return &refusal{status: status, message: kubernetes.Message}
	}
	var ours webapi.Error
	if json.Unmarshal(content, &ours) == nil && ours.Error != "" {
		return &refusal{status: status, code: ours.Code, message: ours.Error}
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(content)), "\n")
	if line == "" || strings.ContainsAny(line[:1], "<{") || len(line) > maxLine {
		return &refusal{status: status, message: fmt.Sprintf("HTTP status %d", status)}
	}
	return &refusal{status: status, message: fmt.Sprintf("HTTP status %d: %s", status, line)}
}

// ask sends a request and decodes the JSON of the answer into out. A token that has just ended is refused with 401; then the
// credential plug-in is asked again, once.
func (a *apiClient) ask(ctx context.Context, method, path string, query url.Values, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	err := a.send(ctx, method, path, query, body, out)
	var refused *refusal
	if errors.As(err, &refused) && refused.status == http.StatusUnauthorized {
		err = a.send(ctx, method, path, query, body, out)
	}
	return err
}

func (a *apiClient) send(ctx context.Context, method, path string, query url.Values, body []byte, out any) error {
	u := a.url.JoinPath(path)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	if path == "api" || path == "apis" {
		req.Header.Set("Accept", discoveryType)
	}
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode >= 300 {
		return readRefusal(res.StatusCode, content)
	}
	if err := json.Unmarshal(content, out); err != nil {
		return fmt.Errorf("the answer of %s is not what was asked for: %w", a.url.Host, err)
	}
	return nil
}
