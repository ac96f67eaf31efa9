package httpserver_test

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
)

// TestBearer: only the token of the moment lets through, in the header alone, and no answer or log line holds it.
func TestBearer(t *testing.T) {
	var (
		log   bytes.Buffer
		token = "s3cret"
		fails error
	)
	h := httpserver.Bearer(func() (string, error) { return token, fails }, slog.New(slog.NewTextHandler(&log, nil)),
		http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	ask := func(header string, want int) {
		t.Helper()
		r := httptest.NewRequest(http.MethodGet, "/metrics?access_token=s3cret", nil)
		if header != "" {
			r.Header.Set("Authorization", header)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want || (want == http.StatusUnauthorized) != (w.Header().Get("WWW-Authenticate") == "Bearer") || strings.Contains(w.Body.String(), "s3cret") {
			t.Errorf("%q: %d %s, want %d", header, w.Code, w.Body.String(), want)
		}
	}
	for header, want := range map[string]int{
		"Bearer s3cret": 204, "bearer s3cret": 204,
		"": 401, "s3cret": 401, "Bearer": 401, "Bearer ": 401, "Bearer s3cre": 401, "Bearer s3crett": 401, "Bearer S3CRET": 401, "Basic s3cret": 401,
	} {
		ask(header, want)
	}
	token = "another"
	ask("Bearer s3cret", http.StatusUnauthorized)
	ask("Bearer another", http.StatusNoContent)
	token = "" // no token is not an empty one
	ask("Bearer ", http.StatusServiceUnavailable)
	token, fails = "s3cret", errors.New("reading listeners.metrics.tokenFile: no such file")
	ask("Bearer s3cret", http.StatusServiceUnavailable)
	if got := log.String(); !strings.Contains(got, "path=/metrics") || strings.Contains(got, "s3cret") {
		t.Errorf("the log: %s", got)
	}
}
