package httpserver

import (
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/logsample"
)

// Bearer lets only requests through to next that carry the token of the moment (RFC 6750, in the header Authorization alone).
// Others are answered 401; 503 while the token can't be read. token is asked for each request, so that a changed file counts
// at once.
func Bearer(token func() (string, error), log *slog.Logger, next http.Handler) http.Handler {
	var lines logsample.Lines
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		want, err := token()
		if err != nil || want == "" {
			if n, ok := lines.Allow(time.Now()); ok {
				log.LogAttrs(r.Context(), slog.LevelError, "request refused: the token that it must have can't be read",
					slog.String("path", r.URL.Path), slog.Any("error", err), slog.Int64("suppressed", n))
			}
			http.Error(w, "unavailable", http.StatusServiceUnavailable)
			return
		}
		scheme, got, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		// Both are hashed first: ConstantTimeCompare would tell the length.
		a, b := sha256.Sum256([]byte(want)), sha256.Sum256([]byte(strings.TrimSpace(got)))
		if subtle.ConstantTimeCompare(a[:], b[:]) != 1 || !strings.EqualFold(scheme, "Bearer") {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "unauthorized", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}
