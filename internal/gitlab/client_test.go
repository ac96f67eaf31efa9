package gitlab

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secretToken = "glpat-TOP-secret-0123456789"

// options are for a server at url: quick, and without pauses.
func options(t *testing.T, url string, hc *http.Client) Options {
	t.Helper()
	if hc == nil {
		hc = &http.Client{Transport: &http.Transport{}, Timeout: 20 * time.Second}
	}
	t.Cleanup(hc.CloseIdleConnections)
	return Options{
		BaseURL: url, Token: func() (string, error) { return secretToken + "\n", nil }, HTTPClient: hc,
		RetryWait: time.Millisecond, MaxRetries: 2, NoPacing: true,
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	answer := func(status int, body string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		})
	}
	for _, tt := range []struct {
		name    string
		handler http.Handler
		tls     bool
		down    bool
		kind    error
		hint    string
	}{
		{name: "wrong token", handler: answer(401, `{"message":"401 Unauthorized"}`), kind: ErrUnauthorized, hint: "scope read_api"},
		{name: "token echoed", handler: answer(401, `{"message":"token `+secretToken+` is revoked"}`), kind: ErrUnauthorized, hint: "[token]"},
		{name: "proxy page", handler: answer(200, `<html>Welcome</html>`), kind: ErrNotGitLab, hint: "check gitlab.url"},
		{name: "nothing there", handler: answer(404, `{"error":"404 Not Found"}`), kind: ErrNotGitLab, hint: "check gitlab.url"},
		{name: "maintenance", handler: answer(502, `<html>GitLab is not responding</html>`), kind: ErrBusy},
		{name: "redirect elsewhere", handler: http.RedirectHandler("https://evil.example.com/api/v4/user", http.StatusFound), kind: ErrNotGitLab, hint: "https://evil.example.com"},
		{name: "unknown CA", handler: answer(200, `{}`), tls: true, kind: ErrCertificate, hint: "caFile"},
		{name: "http to a TLS port", handler: answer(400, "Client sent an HTTP request to an HTTPS server.\n"), kind: ErrNotGitLab, hint: "(the URL says http, but this port speaks TLS: write https)"},
		{name: "the same, of nginx", handler: answer(400, "<html><title>400 The plain HTTP request was sent to HTTPS port</title></html>"), kind: ErrNotGitLab, hint: "write https"},
		{name: "down", handler: answer(200, `{}`), down: true, kind: ErrUnreachable, hint: "check the URL"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var srv *httptest.Server
			if tt.tls {
				srv = httptest.NewUnstartedServer(tt.handler)
				srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
				srv.StartTLS()
			} else {
				srv = httptest.NewServer(tt.handler)
			}
			defer srv.Close()
			if tt.down {
				srv.Close()
			}
			var log bytes.Buffer
			o := options(t, srv.URL, nil)
			o.Logger = slog.New(slog.NewTextHandler(&log, nil))
			r, err := NewReader(o)
			if err != nil {
				t.Fatal(err)
			}
			s, err := r.Snapshot(t.Context())
			if s != nil || !errors.Is(err, tt.kind) {
				t.Fatalf("Snapshot = %v, %v; want %v", s, err, tt.kind)
			}
			if !strings.Contains(err.Error(), tt.hint) {
				t.Errorf("error %q does not say %q", err, tt.hint)
			}
			if strings.Contains(err.Error()+log.String(), secretToken) {
				t.Errorf("the token is in %q or the log %q", err, log.String())
			}
		})
	}
}

func TestTrustsGivenCA(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `{"id":1,"username":"root","is_admin":true,"version":"18.5.0"}`) // to every path
	}))
	defer srv.Close()
	hc, err := NewHTTPClient(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	o := options(t, srv.URL, hc)
	o.RESTOnly = true
	r, err := NewReader(o)
	if err != nil {
		t.Fatal(err)
	}
	info, err := r.Probe(t.Context())
	if err != nil || !info.Admin || info.User.ID != 1 || len(info.Warnings) != 0 {
		t.Errorf("Probe = %+v, %v", info, err)
	}
	if _, err := NewHTTPClient([]byte("no certificate"), 0); err == nil {
		t.Error("a CA file without certificate was accepted")
	}
}

func TestOptionsRefused(t *testing.T) {
	tok := func() (string, error) { return "x", nil }
	for _, url := range []string{"", "gitlab.example.com", "ftp://gitlab.example.com", "https://user:pw@gitlab.example.com", "https://gitlab.example.com?x=1"} {
		if _, err := NewReader(Options{BaseURL: url, Token: tok}); err == nil {
			t.Errorf("url %q was accepted", url)
		}
	}
	for _, tt := range []struct {
		token string
		err   error
	}{{"", nil}, {"two\nlines", nil}, {"", errors.New("open token: permission denied")}} {
		r, err := NewReader(Options{BaseURL: "http://127.0.0.1:1", Token: func() (string, error) { return tt.token, tt.err }})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Snapshot(t.Context()); !errors.Is(err, ErrToken) {
			t.Errorf("token %q, %v: error %v, want ErrToken", tt.token, tt.err, err)
		}
	}
}

func TestTokenIsReadAgain(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("PRIVATE-TOKEN") != "second" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, `{"id":1,"is_admin":true}`)
	}))
	defer srv.Close()
	token := "first"
	o := options(t, srv.URL, nil)
	o.RESTOnly, o.Token = true, func() (string, error) { return token, nil }
	r, err := NewReader(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Probe(t.Context()); !errors.Is(err, ErrUnauthorized) {
		t.Fatalf("error %v, want ErrUnauthorized", err)
	}
	token = "second"
	if _, err := r.Probe(t.Context()); err != nil {
		t.Errorf("after rotating: %v", err)
	}
}

func TestRetries(t *testing.T) {
	ok := `{"id":7,"username":"x","is_admin":true,"version":"18.5.0"}` // to every path
	for _, tt := range []struct {
		name    string
		header  http.Header
		status  int // of the first answer; 0: cut off in the middle
		atLeast time.Duration
	}{
		{name: "429 with Retry-After", status: 429, header: http.Header{"Retry-After": {"1"}}, atLeast: time.Second},
		{name: "429 without", status: 429, atLeast: 10 * time.Millisecond},
		{name: "502", status: 502},
		{name: "cut off"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var n atomic.Int32
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if n.Add(1) > 1 {
					_, _ = io.WriteString(w, ok)
					return
				}
				maps.Copy(w.Header(), tt.header)
				if tt.status != 0 {
					w.WriteHeader(tt.status)
					return
				}
				w.Header().Set("Content-Length", "1000")
				_, _ = io.WriteString(w, ok[:10])
			}))
			defer srv.Close()
			o := options(t, srv.URL, nil)
			o.RESTOnly = true
			r, err := NewReader(o)
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			info, err := r.Probe(t.Context())
			if err != nil || info.User.ID != 7 || n.Load() != 3 { // the account, once more, and the version
				t.Errorf("Probe = %+v, %v after %d requests", info, err, n.Load())
			}
			if d := time.Since(start); d < tt.atLeast {
				t.Errorf("waited %v, want at least %v", d, tt.atLeast)
			}
			if got := r.Requests()["other"]; got != 3 {
				t.Errorf("counted %d requests, want 3", got)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tt := range []struct {
		header, value string
		want          time.Duration
		ok            bool
	}{
		{"Retry-After", "7", 7 * time.Second, true},
		{"Retry-After", now.Add(30 * time.Second).Format(http.TimeFormat), 30 * time.Second, true},
		{"Retry-After", "99999999", 10 * time.Minute, true},
		{"RateLimit-Reset", fmt.Sprint(now.Unix() + 12), 12 * time.Second, true},
		{"Retry-After", "soon", 0, false},
		{"Retry-After", "-5", 0, false},
		{"X-Other", "5", 0, false},
	} {
		h := http.Header{}
		h.Set(tt.header, tt.value)
		if got, ok := retryAfter(h, now); got != tt.want || ok != tt.ok {
			t.Errorf("%s: %s: %v, %v; want %v, %v", tt.header, tt.value, got, ok, tt.want, tt.ok)
		}
	}
}

func TestPostIsNotRepeated(t *testing.T) {
	var posts atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			posts.Add(1)
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_, _ = io.WriteString(w, `[]`)
	}))
	defer srv.Close()
	w, err := NewVariables(options(t, srv.URL, nil))
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Ensure(t.Context(), 1, []Variable{{Key: "K", Value: "v", EnvironmentScope: "*"}, {Key: "L", Value: "v", EnvironmentScope: "*"}}, Have{}, us)
	if !errors.Is(err, ErrBusy) || posts.Load() != 1 {
		t.Errorf("error %v after %d posts, want ErrBusy after 1", err, posts.Load())
	}
}

func TestBodyIsCapped(t *testing.T) {
	b := &cappedBody{ReadCloser: io.NopCloser(strings.NewReader("0123456789")), left: 4}
	got, err := io.ReadAll(b)
	if string(got) != "0123" || !errors.Is(err, errTooLarge) {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestEndpointOf(t *testing.T) {
	for path, want := range map[string]string{
		"GET /api/v4/groups": "groups", "GET /api/v4/groups/7": "group", "GET /api/v4/groups/7/members": "members",
		"GET /api/v4/groups/7/members/all": "members_all", "GET /api/v4/projects": "projects", "GET /api/v4/projects/7": "project",
		"GET /api/v4/users": "users", "GET /api/v4/users/3": "user", "GET /api/v4/user": "other", "POST /api/graphql": "graphql",
		"POST /api/v4/projects/7/variables": "write",
	} {
		method, p, _ := strings.Cut(path, " ")
		if got := endpointOf(method, p); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
}

func TestContextEndsWaiting(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "60")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	defer srv.Close()
	r, err := NewReader(options(t, srv.URL, nil))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if s, err := r.Snapshot(ctx); s != nil || err == nil {
		t.Errorf("Snapshot = %v, %v", s, err)
	}
	if time.Since(start) > 5*time.Second {
		t.Error("a cancelled reading went on waiting")
	}
}

// TestDocumentedMember reads a member and links exactly as GitLab's documentation shows them.
func TestDocumentedMember(t *testing.T) {
	var m restMember
	if err := json.Unmarshal([]byte(`{"id":1,"username":"raymond_smith","name":"Raymond Smith","state":"active","created_at":"2012-09-22T14:13:35Z",
		"created_by":{"id":2},"expires_at":"2012-10-22","access_level":30,"group_saml_identity":null}`), &m); err != nil {
		t.Fatal(err)
	}
	row, ok, err := m.row()
	if want := (authz.Member{User: 1, Level: 30, Expires: authz.Date{Year: 2012, Month: 10, Day: 22}}); !ok || err != nil || row != want {
		t.Errorf("row %+v, %v, %v; want %+v", row, ok, err, want)
	}
	var ls []restLink
	if err := json.Unmarshal([]byte(`[{"group_id":4,"group_name":"Twitter","group_full_path":"twitter","group_access_level":30,"expires_at":null},
		{"group_id":3,"group_name":"Gitlab Org","group_full_path":"gitlab-org","group_access_level":10,"expires_at":"2018-08-14"}]`), &ls); err != nil {
		t.Fatal(err)
	}
	got, err := links(ls)
	if err != nil || len(got) != 2 || got[0] != (authz.Link{Group: 3, Level: 10, Expires: authz.Date{Year: 2018, Month: 8, Day: 14}}) || got[1] != (authz.Link{Group: 4, Level: 30}) {
		t.Errorf("links %+v, %v", got, err)
	}
	if _, ok, err := member(1, 0, ""); ok || err != nil {
		t.Error("level 0 is no membership")
	}
	if _, _, err := member(1, 30, "soon"); err == nil {
		t.Error("a broken date was accepted")
	}
	if row, ok, _ := member(1, 35, "2026-01-31T00:00:00Z"); !ok || row.Level != 35 || row.Expires.String() != "2026-01-31" {
		t.Errorf("an unknown level is kept as a number: %+v", row)
	}
}
