package gitlab

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// TestTokenEnd: GitLab's date is when the token stops working; where GitLab tells none there is none, and only what may be over
// later is an error.
func TestTokenEnd(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		body   string
		want   time.Time
		err    error
	}{
		{"a date", 200, `{"id":4,"active":true,"expires_at":"2027-01-31"}`, time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC), nil},
		{"never", 200, `{"id":4,"active":true,"expires_at":null}`, time.Time{}, nil},
		{"not told", 200, `{"id":4}`, time.Time{}, nil},
		{"before 15.5", 404, `{"error":"404 Not Found"}`, time.Time{}, nil},
		{"not allowed", 403, `{"message":"403 Forbidden"}`, time.Time{}, nil},
		{"revoked", 401, `{"message":"401 Unauthorized"}`, time.Time{}, ErrUnauthorized},
		{"away", 502, `<html>`, time.Time{}, ErrFailing},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/api/v4/personal_access_tokens/self" {
					t.Errorf("asked for %s", r.URL.Path)
				}
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			}))
			defer srv.Close()
			r, err := NewReader(options(t, srv.URL, nil))
			if err != nil {
				t.Fatal(err)
			}
			w, err := NewVariables(options(t, srv.URL, nil))
			if err != nil {
				t.Fatal(err)
			}
			for _, ask := range []func(context.Context) (time.Time, error){r.TokenEnd, w.TokenEnd} {
				if got, err := ask(t.Context()); !got.Equal(tt.want) || !errors.Is(err, tt.err) {
					t.Errorf("%v, %v; want %v, %v", got, err, tt.want, tt.err)
				}
			}
		})
	}
	t.Run("another form", func(t *testing.T) {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"expires_at":"soon"}`)
		}))
		defer srv.Close()
		r, err := NewReader(options(t, srv.URL, nil))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.TokenEnd(t.Context()); err == nil {
			t.Error("no error")
		}
	})
}
