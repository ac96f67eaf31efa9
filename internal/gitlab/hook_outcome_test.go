package gitlab

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// TestHookOutcomes: each request is told with one outcome, the one that its answer has.
func TestHookOutcomes(t *testing.T) {
	var got []string
	secret, stored := errors.New("no such file"), errors.New("away")
	h := &Hook{
		Secret: func() ([]byte, error) { return []byte("s3cret"), secret },
		Parse: func(body []byte) ([]authz.SourceID, bool, string, error) {
			if string(body) == "no hook" {
				return nil, false, "", errors.New("no hook")
			}
			return nil, string(body) == "push", string(body), nil
		},
		Trigger: func(context.Context, []authz.SourceID, string) error { return stored },
		Now:     time.Now, Logger: slog.New(slog.DiscardHandler),
		Outcome: func(o Received) {
			got = append(got, o.Outcome)
			if o.Proven() && o.Event == "" || o.From != "192.0.2.1" || !o.Claims {
				t.Errorf("got %+v", o)
			}
		},
	}
	for _, tt := range []struct {
		token, key, body string
		want             string
		code             int
	}{
		{"s3cret", "", "x", HookUnreadable, 503},
		{"wrong", "", "x", HookNoProof, 401},
		{"s3cret", "", "no hook", HookMalformed, 400},
		{"s3cret", "", strings.Repeat("x", maxHookBody+1), HookMalformed, 413},
		{"s3cret", "", "push", HookIgnored, 204},
		{"s3cret", "a", "x", HookNotStored, 503},
		{"s3cret", "a", "x", HookTaken, 204},
		{"s3cret", "a", "x", HookRepeated, 204},
	} {
		got = nil
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(tt.body))
		r.Header.Set("X-Gitlab-Token", tt.token)
		r.Header.Set("X-Gitlab-Event", "System Hook")
		if tt.key != "" {
			r.Header.Set("Idempotency-Key", tt.key)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if !slices.Equal(got, []string{tt.want}) || w.Code != tt.code || !slices.Contains(HookOutcomes(), tt.want) {
			t.Errorf("%.10q: %d, outcomes %q, want %d, %q", tt.body, w.Code, got, tt.code, tt.want)
		}
		if secret = nil; tt.want == HookNotStored {
			stored = nil
		}
	}
}
