package app

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/accounts"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/metrics"
)

// TestOverloadIsAnsweredAtOnce: the configured limit is the listener's, and what is over it is counted.
func TestOverloadIsAnsweredAtOnce(t *testing.T) {
	cfg := &config.Config{Listeners: config.Listeners{Webhooks: config.Listener{MaxInFlight: 1}}}
	busy, release := make(chan struct{}), make(chan struct{})
	m := metrics.New()
	h := ports{metrics: m}.webhooks(cfg.Listeners.Webhooks, httpserver.Route{Path: "/authenticate", Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(busy)
		<-release
	})}).Handler
	first := make(chan struct{})
	go func() {
		defer close(first)
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/authenticate", nil))
	}()
	<-busy
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/authenticate", nil))
	close(release)
	<-first
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "" {
		t.Errorf("got %d, Retry-After %q", w.Code, w.Header().Get("Retry-After"))
	}
	if text := scrape(m); !strings.Contains(text, `gl_k8s_integrator_overload_total{listener="webhooks"} 1`) {
		t.Error("the overload is not counted")
	}
}

// TestRefusalsTakeNoSlotOfLogins: while all slots of /authorize are taken, logins are judged.
func TestRefusalsTakeNoSlotOfLogins(t *testing.T) {
	cfg := &config.Config{Listeners: config.Listeners{Webhooks: config.Listener{MaxInFlight: 1}}}
	busy, release := make(chan struct{}), make(chan struct{})
	h := ports{metrics: metrics.New()}.webhooks(
		cfg.Listeners.Webhooks,
		httpserver.Route{Path: "/authorize", Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			close(busy)
			<-release
		})},
		httpserver.Route{Path: "/authenticate", Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})},
	).Handler
	refused := make(chan struct{})
	go func() {
		defer close(refused)
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/authorize", nil))
	}()
	<-busy
	codes := map[string]int{}
	for _, path := range []string{"/authorize", "/authenticate"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, nil))
		codes[path] = w.Code
	}
	close(release)
	<-refused
	if codes["/authorize"] != http.StatusServiceUnavailable || codes["/authenticate"] != http.StatusOK {
		t.Errorf("got %v", codes)
	}
}

func scrape(m *metrics.Metrics) string {
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return w.Body.String()
}

// TestReviewMetrics: a review by outcome, reason and kind, its time, and the age of the keys it was judged with.
func TestReviewMetrics(t *testing.T) {
	m := metrics.New()
	day := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	m.Keys(func() authn.KeyStatus {
		return authn.KeyStatus{Keys: 2, Fetched: day.Add(-90 * time.Second), Fetches: 5, Failures: 1}
	}, func() time.Time { return day })
	cfg := &config.Config{GitLab: config.GitLab{URL: "https://127.0.0.1:1"}, Authn: config.Authn{ClientIDs: []string{"a"}}}
	auth, err := newAuthenticator(cfg, http.DefaultClient, slog.New(slog.DiscardHandler), accounts.New(accounts.NewKnowledge(accounts.Rules{}, time.Now), accounts.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	route := reviewRoute(cfg, auth, slog.New(slog.NewTextHandler(io.Discard, nil)), m.Review)
	r := httptest.NewRequest(http.MethodPost, "/authenticate", strings.NewReader(`{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","spec":{"token":"opaque"}}`))
	r.Header.Set("Content-Type", "application/json")
	route.Handler.ServeHTTP(httptest.NewRecorder(), r)
	text := scrape(m)
	for _, want := range []string{
		`gl_k8s_integrator_reviews_total{kind="",outcome="not_mine",reason="not_a_jwt"} 1`,
		"gl_k8s_integrator_review_seconds_count 1",
		"gl_k8s_integrator_signing_keys 2", "gl_k8s_integrator_signing_keys_age_seconds 90",
		"gl_k8s_integrator_signing_key_fetches_total 5", "gl_k8s_integrator_signing_key_fetch_failures_total 1",
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("/metrics lacks %q", want)
		}
	}
}
