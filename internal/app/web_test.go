package app

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/metrics"
)

// TestPageAndAPI: one port serves both, either of them alone where the other one is not set up, and what one of them is busy with
// does not turn the other's requests away.
func TestPageAndAPI(t *testing.T) {
	release, entered := make(chan struct{}), make(chan struct{}, maxPages)
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			entered <- struct{}{}
			<-release
		}
		_, _ = io.WriteString(w, "page")
	})
	api := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "api") })
	p := ports{log: slog.New(slog.DiscardHandler), drain: time.Second, metrics: metrics.New()}
	ask := func(h http.Handler, path string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, strings.TrimSpace(w.Body.String())
	}
	both := p.people(config.WebListener{Address: "127.0.0.1:0"}, page, api).Handler
	for path, want := range map[string]string{"/": "page", "/namespaces": "page", "/api": "page", "/api/v1/whoami": "api", "/api/v1/": "api"} {
		if status, body := ask(both, path); status != http.StatusOK || body != want {
			t.Errorf("%s: %d %q", path, status, body)
		}
	}
	if status, _ := ask(p.people(config.WebListener{}, nil, api).Handler, "/"); status != http.StatusNotFound {
		t.Errorf("the API alone: %d", status)
	}
	for range maxPages {
		go ask(both, "/wait")
	}
	for range maxPages {
		<-entered
	}
	defer close(release)
	if status, _ := ask(both, "/"); status != http.StatusServiceUnavailable {
		t.Errorf("one page more: %d", status)
	}
	if status, body := ask(both, "/api/v1/whoami"); status != http.StatusOK || body != "api" {
		t.Errorf("the API meanwhile: %d %q", status, body)
	}
}

// slowReader takes no answer before it is released.
type slowReader struct {
	*httptest.ResponseRecorder
	writes, release chan struct{}
}

func (w slowReader) Write(b []byte) (int, error) {
	w.writes <- struct{}{}
	<-w.release
	return w.ResponseRecorder.Write(b)
}

// TestSlowReadersHoldNoPages: however many readers don't take their pages, the next one gets theirs.
func TestSlowReadersHoldNoPages(t *testing.T) {
	const readers = 2 * maxPages
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "page") })
	p := ports{log: slog.New(slog.DiscardHandler), metrics: metrics.New()}
	h := p.people(config.WebListener{}, page, nil).Handler
	writes, release := make(chan struct{}, readers), make(chan struct{})
	var all sync.WaitGroup
	for range readers {
		all.Go(func() {
			h.ServeHTTP(slowReader{httptest.NewRecorder(), writes, release}, httptest.NewRequest(http.MethodGet, "/", nil))
		})
		<-writes
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != http.StatusOK || w.Body.String() != "page" || w.Header().Get("Content-Length") != "4" {
		t.Errorf("%d %s %v", w.Code, w.Body, w.Header())
	}
	close(release)
	all.Wait()
}

// TestSessionKeysAreReadAnew: a new key counts at once; the error names the file and holds nothing of it.
func TestSessionKeysAreReadAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	read := sessionKeys(path)
	const one = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	for _, c := range []struct {
		text string
		keys int
	}{{one, 1}, {one + "\n" + one, 2}, {"s3cret", 0}} {
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		keys, err := read()
		if len(keys) != c.keys || (err == nil) != (c.keys > 0) || err != nil && (!strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "s3cret")) {
			t.Errorf("%q: %d keys, %v", c.text, len(keys), err)
		}
	}
}
