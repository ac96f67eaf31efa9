package authn_test

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn/authntest"
)

// BenchmarkHandler is one review without its transport; make bench-authn measures the whole.
func BenchmarkHandler(b *testing.B) {
	i := authntest.New(b)
	g, err := authn.New(authn.Config{Issuer: i.URL, ClientIDs: []string{client}, HTTPClient: i.Client()})
	if err != nil {
		b.Fatal(err)
	}
	later := authntest.Claims{"exp": time.Now().Add(time.Hour).Unix()}
	h := authn.Handler(g, slog.New(slog.NewJSONHandler(io.Discard, nil)), nil)
	for name, token := range map[string]string{
		"valid":   i.UserToken(42, client, later),
		"foreign": i.UserToken(42, client, authntest.Claims{"iss": "https://elsewhere.example"}),
	} {
		body := []byte(ask("v1", token))
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			w := &discard{header: http.Header{}}
			for b.Loop() {
				r := httptest.NewRequest(http.MethodPost, "/authenticate", bytes.NewReader(body))
				r.Header.Set("Content-Type", "application/json")
				h.ServeHTTP(w, r)
			}
		})
	}
}

type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}
