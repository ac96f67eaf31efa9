package app

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/metrics"
)

// TestWhatIsServedWithoutOurLogin: the webhook port has the routes that are asked for, and is not there without any.
func TestWhatIsServedWithoutOurLogin(t *testing.T) {
	for _, c := range []struct {
		login, explain bool
		want           []string
	}{
		{true, true, []string{"/authenticate", "/authorize"}},
		{true, false, []string{"/authenticate"}},
		{false, true, []string{"/authorize"}},
		{false, false, nil},
	} {
		cfg := new(config.Config)
		cfg.Listeners.Webhooks.MaxInFlight = 8
		cfg.Authn.Disabled, cfg.Authz.Explain.Disabled = !c.login, !c.explain
		s := &server{cfg: cfg, log: slog.New(slog.DiscardHandler), metrics: metrics.New()}
		served := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
		s.now.Store(&generation{cfg: cfg, authenticate: served, authorize: served})
		listeners := s.listeners(func() error { return nil })
		i := slices.IndexFunc(listeners, func(o httpserver.Options) bool { return o.Name == "webhooks" })
		if (i >= 0) != (len(c.want) > 0) {
			t.Errorf("login %v, explanations %v: the port of webhooks is there: %v", c.login, c.explain, i >= 0)
		}
		for _, path := range []string{"/authenticate", "/authorize"} {
			if i < 0 {
				break
			}
			rec := httptest.NewRecorder()
			listeners[i].Handler.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, strings.NewReader("")))
			if served := rec.Code != http.StatusNotFound; served != slices.Contains(c.want, path) {
				t.Errorf("login %v, explanations %v: %s is answered %d", c.login, c.explain, path, rec.Code)
			}
		}
		if !c.login && s.canJudge() != nil {
			t.Errorf("readiness depends on what judges tokens, which is off: %v", s.canJudge())
		}
	}
}
