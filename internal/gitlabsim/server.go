package gitlabsim

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/mux"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
)

// Options configures New. The zero value is an empty GitLab on a free loopback port.
type Options struct {
	// Listen is a loopback address; default 127.0.0.1:0.
	Listen string
	// Seed is the YAML of a Seed; it is loaded into World, or into a new one. One World serves one Server.
	Seed  []byte
	World *World
	// Now is the clock of everything: tokens, expiry, created_at, rate limits.
	Now func() time.Time
	// Logger gets one debug line per request; nil = nothing.
	Logger *slog.Logger
	// IDTokenLifetime is the lifetime of user ID tokens; default 120 s, GitLab's own.
	IDTokenLifetime time.Duration
	// OldClaims leaves name, nickname, preferred_username, website, profile and picture out of ID tokens, as
	// GitLab did before it moved them there.
	OldClaims bool
	// CIIssuer is the iss of CI job ID tokens; default the URL.
	CIIssuer string
	// UserKey and CIKey are the signing keys; nil = made at start (which takes a moment).
	UserKey, CIKey *rsa.PrivateKey
	// RateLimits are GitLab's application rate limits; nil = off. See DefaultRateLimits.
	RateLimits RateLimits
	// HookCAs verifies system hook targets that speak TLS; nil = the system's.
	HookCAs *x509.CertPool
	// Version is what /version and /metadata say; default 19.1.0-ee. One without -ee is a Community Edition. What such a
	// GitLab lacks by package gitlabversion, in GraphQL, REST or .gitlab-ci.yml, this one lacks too.
	Version string
	// License is the plan of the licence: premium, ultimate, an older one, or "" for an Enterprise Edition without licence.
	License string
	// CertificateClusters is the feature flag certificate_based_clusters, off by default as in GitLab since 15.0.
	CertificateClusters bool
	// LocalRequests is the setting that allows requests to the local network from webhooks and integrations; without it a
	// cluster integration can't name an API URL there.
	LocalRequests bool
	// KAS connects the agents for Kubernetes; see KAS.
	KAS KAS
}

// Server is a running simulated GitLab.
type Server struct {
	*instance
	*access
	*idTokens
	*hooks
	*faultState
	*limitState
	*kubernetes

	caPEM  []byte
	http   *http.Server
	listen *listener
	done   chan struct{} // closed when http has stopped serving

	mu       sync.Mutex
	requests map[string]int
}

// New starts a simulated GitLab. Close stops it.
func New(opts Options) (*Server, error) {
	opts.Listen = cmp.Or(opts.Listen, "127.0.0.1:0")
	opts.Version = cmp.Or(opts.Version, "19.1.0-ee")
	if opts.IDTokenLifetime == 0 {
		opts.IDTokenLifetime = 120 * time.Second
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	host, _, err := net.SplitHostPort(opts.Listen)
	if err != nil {
		return nil, fmt.Errorf("reading the listen address %q: %w", opts.Listen, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("listening on %q: the simulated GitLab has well-known passwords and listens on loopback only; use 127.0.0.1", opts.Listen)
	}
	i, err := newInstance(opts)
	if err != nil {
		return nil, err
	}
	signing, err := newSigning(opts.UserKey, opts.CIKey)
	if err != nil {
		return nil, err
	}
	a := newAccess(i)
	s := &Server{
		instance: i, access: a, idTokens: &idTokens{i, signing, a}, hooks: newHooks(i), faultState: newFaultState(),
		limitState: &limitState{instance: i, limits: maps.Clone(opts.RateLimits), windows: map[limitKey]window{}},
		kubernetes: &kubernetes{i, a}, requests: map[string]int{}, done: make(chan struct{}),
	}
	if len(opts.Seed) > 0 {
		seed, err := ParseSeed(opts.Seed)
		if err != nil {
			return nil, err
		}
		if err := s.load(seed); err != nil {
			return nil, err
		}
	}
	inner, err := new(net.ListenConfig).Listen(context.Background(), "tcp", opts.Listen)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", opts.Listen, err)
	}
	cert, caPEM, err := serverCertificate()
	if err != nil {
		_ = inner.Close()
		return nil, err
	}
	_, port, _ := net.SplitHostPort(inner.Addr().String())
	s.url, s.caPEM = "https://"+net.JoinHostPort(host, port), caPEM
	s.world.mu.Lock()
	s.world.emit = s.sendHooks
	s.world.mu.Unlock()
	s.listen = newListener(inner)
	s.faultState.listen = s.listen
	s.http = &http.Server{
		Handler:           s.handler(),
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      2 * time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          log.New(discard{}, "", 0), // resets and aborted handshakes are wanted here
	}
	go func() {
		defer close(s.done)
		_ = s.http.ServeTLS(s.listen, "", "")
	}()
	return s, nil
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// CA is the PEM certificate that the server's certificate is signed by.
func (s *Server) CA() []byte { return slices.Clone(s.caPEM) }

// Client returns an HTTP client that trusts the server's CA. Its idle connections are the caller's to close.
func (s *Server) Client() *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.caPEM)
	return &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true},
	}
}

// Close stops the server, cancels hooks that are under way and waits for everything it started.
func (s *Server) Close() {
	s.world.mu.Lock()
	s.world.emit = nil
	s.world.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	s.faultState.stop()
	_ = s.http.Shutdown(ctx)
	_ = s.http.Close()
	s.listen.closeAll()
	<-s.done
	s.hooks.stop()
}

// Requests counts the requests so far by endpoint kind, e.g. "GET /groups/:id/members/all", "POST /graphql",
// "GET /oauth/discovery/keys".
func (s *Server) Requests() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.requests)
}

// ResetRequests sets all counters to zero.
func (s *Server) ResetRequests() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.requests)
}

// handler builds the router. Paths with encoded slashes (/groups/a%2Fb) stay one segment.
func (s *Server) handler() http.Handler {
	r := mux.NewRouter().UseEncodedPath().SkipClean(true)
	p := &provider{s.instance, s.idTokens, &logins{s.instance, s.access}, s.access}
	p.mount(func(method, path string, h http.HandlerFunc) { s.mount(r, method, path, path, h) })
	s.mountREST(r)
	s.mount(r, http.MethodPost, "/api/graphql", "/graphql", newGraphQLHandler(s))
	r.PathPrefix(kasPath).Handler(s.counted("KAS "+kasPath, http.HandlerFunc(s.kasProxy)))
	r.NotFoundHandler = s.counted("unknown", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusNotFound, map[string]any{"error": "404 Not Found"})
	}))
	r.MethodNotAllowedHandler = s.counted("unknown", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusMethodNotAllowed, map[string]any{"error": "405 Not Allowed"})
	}))
	return r
}

// mount registers h for method and path; `:name` in path is one segment. kind is the name in Requests.
func (s *Server) mount(r *mux.Router, method, path, kind string, h http.Handler) {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		if name, ok := strings.CutPrefix(p, ":"); ok {
			parts[i] = "{" + name + ":[^/]+}"
		}
	}
	r.Handle(strings.Join(parts, "/"), s.counted(method+" "+kind, h)).Methods(method)
}

func (s *Server) counted(kind string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests[kind]++
		s.mu.Unlock()
		s.log.DebugContext(r.Context(), "request", "kind", kind)
		w.Header().Set("X-Request-Id", randomHex(13))
		r.Body = http.MaxBytesReader(w, r.Body, 4<<20)
		s.withFaults(w, r, h)
	})
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: crypto/rand.Read
	return hex.EncodeToString(b)
}

// serverCertificate makes a CA and a certificate for the loopback names. They are of the real time: clients check
// them with the real clock.
func serverCertificate() (tls.Certificate, []byte, error) {
	ca, err := localcert.NewAuthority("Simulated GitLab CA")
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	pair, err := ca.Server("Simulated GitLab")
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	return cert, ca.PEM, err
}
