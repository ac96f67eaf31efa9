package gitlab_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
)

func TestHook(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	const secret, signing = "s3cret-of-the-hook", "c2lnbmluZy1rZXktb2YtdGhlLWhvb2s="
	const member = `{"event_name":"user_add_to_team","note":"PRIVATE"}`
	sign := func(id string, at time.Time, body string) map[string]string {
		key, _ := base64.StdEncoding.DecodeString(signing)
		ts := strconv.FormatInt(at.Unix(), 10)
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "%s.%s.%s", id, ts, body)
		return map[string]string{
			"Webhook-Id": id, "Webhook-Timestamp": ts,
			"Webhook-Signature": "v1,AAAA v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)),
		}
	}
	token := map[string]string{"X-Gitlab-Token": secret}
	with := func(m map[string]string, kv ...string) map[string]string {
		out := map[string]string{kv[0]: kv[1]}
		for k, v := range m {
			if _, ok := out[k]; !ok {
				out[k] = v
			}
		}
		return out
	}
	good := func() ([]byte, error) { return []byte(secret + "\n"), nil }
	tests := []struct {
		name    string
		method  string
		headers map[string]string
		body    string
		secret  func() ([]byte, error)
		status  int
		trigger int
	}{
		{"a membership", "", token, member, good, 204, 1},
		{"GET", "GET", token, member, good, 405, 0},
		{"no token", "", nil, member, good, 401, 0},
		{"wrong token", "", map[string]string{"X-Gitlab-Token": "s3cret"}, member, good, 401, 0},
		{"empty secret does not match an empty token", "", map[string]string{"X-Gitlab-Token": ""}, member, func() ([]byte, error) { return []byte(" \n"), nil }, 503, 0},
		{"secret can't be read", "", token, member, func() ([]byte, error) { return nil, errors.New("gone") }, 503, 0},
		{"garbage", "", token, "garbage", good, 400, 0},
		{"unknown event", "", token, "ignore", good, 204, 0},
		{"too large", "", token, strings.Repeat("x", 1<<20+1), good, 413, 0},
		{"signature alone", "", sign("id-1", now.Add(-4*time.Minute), member), member, good, 204, 1},
		{"signature of another body", "", sign("id-1", now, member+" "), member, good, 401, 0},
		{"old signature", "", sign("id-1", now.Add(-6*time.Minute), member), member, good, 401, 0},
		{"signature of the future", "", sign("id-1", now.Add(6*time.Minute), member), member, good, 401, 0},
		{"signature of another id", "", with(sign("id-1", now, member), "Webhook-Id", "id-2"), member, good, 401, 0},
		{"wrong signature beside a right token", "", with(sign("id-1", now, "other"), "X-Gitlab-Token", secret), member, good, 401, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			var triggered int
			h := &gitlab.Hook{
				Secret: tt.secret, SigningKey: func() ([]byte, error) { return []byte("whsec_" + signing), nil },
				Parse: parseHook, Now: func() time.Time { return now },
				Trigger: func(_ context.Context, changed []authz.SourceID, cause string) error {
					triggered++
					if len(changed) != 1 || changed[0] != authz.ProjectID(42) || cause != "hook user_add_to_team" {
						t.Errorf("triggered %v, %q", changed, cause)
					}
					return nil
				},
				Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
			}
			if tt.method == "" {
				tt.method = "POST"
			}
			r := httptest.NewRequest(tt.method, "/hooks/gitlab", strings.NewReader(tt.body))
			for k, v := range tt.headers {
				r.Header.Set(k, v)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != tt.status || triggered != tt.trigger {
				t.Errorf("status %d, %d triggers; want %d, %d", w.Code, triggered, tt.status, tt.trigger)
			}
			if out := log.String() + w.Body.String(); strings.Contains(out, "PRIVATE") || strings.Contains(out, secret) {
				t.Errorf("the body or the secret is in the log or the answer: %s", out)
			}
		})
	}
}

func TestHookWithoutAnyProofConfiguredRefusesAll(t *testing.T) {
	t.Parallel()
	h := &gitlab.Hook{Parse: parseHook, Now: time.Now, Logger: slog.New(slog.DiscardHandler)}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", strings.NewReader("{}")))
	if w.Code != http.StatusUnauthorized {
		t.Errorf("status %d, want 401", w.Code)
	}
}

func TestHookDropsRepetitions(t *testing.T) {
	t.Parallel()
	var triggered int
	h := &gitlab.Hook{
		Secret: func() ([]byte, error) { return []byte("s"), nil }, Parse: parseHook, Now: time.Now,
		Trigger: func(context.Context, []authz.SourceID, string) error { triggered++; return nil }, Logger: slog.New(slog.DiscardHandler),
	}
	send := func(header, key, body string) int {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		r.Header.Set("X-Gitlab-Token", "s")
		r.Header.Set(header, key)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	for i, step := range []struct {
		header, key, body string
		status, triggered int
	}{
		{"Idempotency-Key", "a", "garbage", 400, 0}, // not taken, so not remembered
		{"Idempotency-Key", "a", "{}", 204, 1},
		{"Idempotency-Key", "a", "{}", 204, 1},
		{"Webhook-Id", "a", "{}", 204, 1}, // the same value by the standard
		{"Idempotency-Key", "b", "{}", 204, 2},
		{"Idempotency-Key", "", "{}", 204, 3},
		{"Idempotency-Key", "", "{}", 204, 4},
	} {
		if status := send(step.header, step.key, step.body); status != step.status || triggered != step.triggered {
			t.Fatalf("step %d: status %d, %d triggers; want %d, %d", i, status, triggered, step.status, step.triggered)
		}
	}
	before := triggered
	for i := range 5000 { // more than are remembered
		send("Idempotency-Key", fmt.Sprint("k", i), "{}")
	}
	send("Idempotency-Key", "a", "{}")
	if triggered != before+5001 {
		t.Errorf("%d triggers, want %d: the memory of keys is not bounded", triggered, before+5001)
	}
}

func parseHook(body []byte) ([]authz.SourceID, bool, string, error) {
	switch {
	case string(body) == "garbage":
		return nil, false, "", errors.New("not JSON")
	case string(body) == "ignore":
		return nil, true, "push", nil
	}
	return []authz.SourceID{authz.ProjectID(42)}, false, "user_add_to_team", nil
}

func TestAHookThatCanNotBeStoredIsNotTaken(t *testing.T) {
	t.Parallel()
	stored := errors.New("no API server")
	h := &gitlab.Hook{
		Secret: func() ([]byte, error) { return []byte("s"), nil }, Parse: parseHook, Now: time.Now,
		Trigger: func(context.Context, []authz.SourceID, string) error { return stored }, Logger: slog.New(slog.DiscardHandler),
	}
	send := func() int {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(`{"event_name":"user_add_to_team","project_id":42}`))
		r.Header.Set("X-Gitlab-Token", "s")
		r.Header.Set("Idempotency-Key", "k")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	if code := send(); code != http.StatusServiceUnavailable {
		t.Errorf("answer %d, want 503", code)
	}
	stored = nil
	n := 0
	h.Trigger = func(context.Context, []authz.SourceID, string) error { n++; return nil }
	if code := send(); code != http.StatusNoContent || n != 1 {
		t.Errorf("sent again: answer %d, taken %d times", code, n)
	}
}

// TestARepetitionIsNotTakenBeforeTheFirstIs: GitLab gave up waiting and sends the hook again while the first is still
// being stored, which then fails. The second must not be told that the hook is taken.
func TestARepetitionIsNotTakenBeforeTheFirstIs(t *testing.T) {
	t.Parallel()
	storing, fail := make(chan struct{}), make(chan struct{})
	var n atomic.Int32
	h := &gitlab.Hook{
		Secret: func() ([]byte, error) { return []byte("s"), nil }, Parse: parseHook, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
		Trigger: func(context.Context, []authz.SourceID, string) error {
			if n.Add(1) == 1 {
				close(storing)
				<-fail
				return errors.New("no API server")
			}
			return nil
		},
	}
	send := func() int {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("{}"))
		r.Header.Set("X-Gitlab-Token", "s")
		r.Header.Set("Idempotency-Key", "k")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	first := make(chan int)
	go func() { first <- send() }()
	<-storing
	if code := send(); code != http.StatusNoContent || n.Load() != 2 {
		t.Errorf("the second: answer %d, stored %d times; want it stored itself", code, n.Load())
	}
	close(fail)
	if code := <-first; code != http.StatusServiceUnavailable {
		t.Errorf("the first: answer %d", code)
	}
	if code := send(); code != http.StatusNoContent || n.Load() != 2 {
		t.Errorf("the third: answer %d, stored %d times", code, n.Load())
	}
}

func TestIgnoredHooksAreRememberedAndAnswered(t *testing.T) {
	t.Parallel()
	h := &gitlab.Hook{
		Secret: func() ([]byte, error) { return []byte("s"), nil }, Parse: parseHook, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
		Trigger: func(context.Context, []authz.SourceID, string) error {
			t.Error("an ignored hook is stored")
			return nil
		},
	}
	for range 2 {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("ignore"))
		r.Header.Set("X-Gitlab-Token", "s")
		r.Header.Set("Idempotency-Key", "k")
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != http.StatusNoContent {
			t.Errorf("answer %d", w.Code)
		}
	}
}
