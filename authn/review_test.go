package authn_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn/authntest"
)

type fake func(ctx context.Context, token string) (authn.Identity, error)

func (f fake) Authenticate(ctx context.Context, token string) (authn.Identity, error) {
	return f(ctx, token)
}

// ask is what kube-apiserver sends (client-go 0.37.2, as seen on the wire).
func ask(version, token string) string {
	b, _ := json.Marshal(token)
	return `{"kind":"TokenReview","apiVersion":"authentication.k8s.io/` + version + `","metadata":{},"spec":{"token":` + string(b) +
		`,"audiences":["https://kubernetes.default.svc"]},"status":{"user":{}}}`
}

func post(h http.Handler, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/authenticate", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// answer decodes an answer generically, so that a field that should not be there shows.
func answer(t *testing.T, w *httptest.ResponseRecorder) map[string]any {
	t.Helper()
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("got %d %s: %s", w.Code, w.Header().Get("Content-Type"), w.Body)
	}
	var m map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestOutcomes(t *testing.T) {
	identity := authn.Identity{Username: "gitlab:42", UID: "42", Groups: []string{"gitlab:users"}, Extra: map[string][]string{"k": {"v"}}}
	status := func(fields map[string]any) map[string]any {
		if fields["user"] == nil {
			fields["user"] = map[string]any{}
		}
		return fields
	}
	for name, tc := range map[string]struct {
		id   authn.Identity
		err  error
		want map[string]any
		seen authn.Review
	}{
		"identity": {
			id: identity, want: status(map[string]any{"authenticated": true, "user": map[string]any{
				"username": "gitlab:42", "uid": "42", "groups": []any{"gitlab:users"}, "extra": map[string]any{"k": []any{"v"}},
			}}),
			seen: authn.Review{Outcome: authn.OutcomeOK, Code: authn.CodeOK, Kind: authn.KindUser},
		},
		"identity beside an error": {
			id: identity, err: &authn.DeniedError{Code: authn.CodeUserBlocked, Kind: authn.KindUser},
			want: status(map[string]any{"error": "user_blocked: the GitLab account is blocked"}),
			seen: authn.Review{Outcome: authn.OutcomeDenied, Code: authn.CodeUserBlocked, Kind: authn.KindUser},
		},
		"not mine": {
			err: authn.ErrNotMine, want: status(map[string]any{}),
			seen: authn.Review{Outcome: authn.OutcomeNotMine, Code: authn.CodeNotMine},
		},
		"detail": {
			err:  &authn.DeniedError{Code: authn.CodeTokenExpired, Detail: "the token expired 3s ago"},
			want: status(map[string]any{"error": "token_expired: the token expired 3s ago"}),
			seen: authn.Review{Outcome: authn.OutcomeDenied, Code: authn.CodeTokenExpired},
		},
		"undecided tells no host": {
			err:  &authn.UndecidedError{Code: authn.CodeKeysUnavailable, Err: errors.New("dial tcp 10.1.2.3:443")},
			want: status(map[string]any{"error": "keys_unavailable: GitLab's signing keys could not be read"}),
			seen: authn.Review{Outcome: authn.OutcomeUndecided, Code: authn.CodeKeysUnavailable},
		},
		"gone": {
			err: context.Canceled, want: status(map[string]any{"error": "review_cancelled: the caller gave up before the review was done"}),
			seen: authn.Review{Outcome: authn.OutcomeUndecided, Code: authn.CodeReviewCancelled},
		},
		"bug": {
			err: errors.New("secret inner text"), want: status(map[string]any{"error": "internal_error: the review failed inside this program"}),
			seen: authn.Review{Outcome: authn.OutcomeUndecided, Code: authn.CodeInternal},
		},
		"empty name": {
			id: authn.Identity{UID: "42"}, want: status(map[string]any{"error": "unsafe_identity: the identity is empty or reserved"}),
			seen: authn.Review{Outcome: authn.OutcomeUndecided, Code: authn.CodeUnsafeIdentity},
		},
		"system name": {
			id: authn.Identity{Username: "system:admin"}, want: status(map[string]any{"error": "unsafe_identity: the identity is empty or reserved"}),
			seen: authn.Review{Outcome: authn.OutcomeUndecided, Code: authn.CodeUnsafeIdentity},
		},
		"system group": {
			id: authn.Identity{Username: "gitlab:1", Groups: []string{"system:masters"}}, want: status(map[string]any{"error": "unsafe_identity: the identity is empty or reserved"}),
			seen: authn.Review{Outcome: authn.OutcomeUndecided, Code: authn.CodeUnsafeIdentity},
		},
	} {
		for _, version := range []string{"v1", "v1beta1"} {
			t.Run(name+" "+version, func(t *testing.T) {
				var seen []authn.Review
				h := authn.Handler(fake(func(context.Context, string) (authn.Identity, error) { return tc.id, tc.err }), nil,
					func(r authn.Review) { r.Duration = 0; seen = append(seen, r) })
				want := map[string]any{
					"kind": "TokenReview", "apiVersion": "authentication.k8s.io/" + version,
					"metadata": map[string]any{}, "spec": map[string]any{}, "status": tc.want,
				}
				if text, refused := tc.want["error"].(string); refused && version == "v1beta1" {
					hinted := maps.Clone(tc.want)
					hinted["error"] = text + authn.OldVersionHint
					want["status"] = hinted
				}
				if diff := cmp.Diff(want, answer(t, post(h, ask(version, "abc")))); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
				if diff := cmp.Diff([]authn.Review{tc.seen}, seen); diff != "" {
					t.Errorf("observed -want +got:\n%s", diff)
				}
			})
		}
	}
}

func TestEmptyTokenIsNotAuthenticated(t *testing.T) {
	h := authn.Handler(fake(func(context.Context, string) (authn.Identity, error) {
		t.Error("an empty token reached the authenticator")
		return authn.Identity{Username: "gitlab:1"}, nil
	}), nil, nil)
	for _, body := range []string{
		ask("v1", ""), `{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1"}`,
		`{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","spec":{"Token":"other spelling"}}`,
	} {
		if diff := cmp.Diff(map[string]any{"user": map[string]any{}}, answer(t, post(h, body))["status"]); diff != "" {
			t.Errorf("%s: -want +got:\n%s", body, diff)
		}
	}
}

func TestMalformedRequests(t *testing.T) {
	good := ask("v1", "abc")
	do := func(method, contentType string, body io.Reader) (*httptest.ResponseRecorder, []authn.Review) {
		var seen []authn.Review
		h := authn.Handler(fake(func(context.Context, string) (authn.Identity, error) {
			t.Error("reached the authenticator")
			return authn.Identity{}, nil
		}), nil, func(r authn.Review) { seen = append(seen, r) })
		r := httptest.NewRequest(method, "/authenticate", body)
		r.Header.Set("Content-Type", contentType)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w, seen
	}
	const js = "application/json"
	for name, tc := range map[string]struct {
		method, contentType string
		body                io.Reader
		status              int
		code                authn.Code
	}{
		"GET":              {http.MethodGet, js, strings.NewReader(good), 405, authn.CodeMethodNotAllowed},
		"PUT":              {http.MethodPut, js, strings.NewReader(good), 405, authn.CodeMethodNotAllowed},
		"form":             {http.MethodPost, "application/x-www-form-urlencoded", strings.NewReader(good), 415, authn.CodeContentType},
		"no content type":  {http.MethodPost, "", strings.NewReader(good), 415, authn.CodeContentType},
		"protobuf":         {http.MethodPost, "application/vnd.kubernetes.protobuf", strings.NewReader("k8s\x00"), 415, authn.CodeContentType},
		"too large":        {http.MethodPost, js, strings.NewReader(good + strings.Repeat(" ", 1<<20)), 413, authn.CodeBodyTooLarge},
		"broken body":      {http.MethodPost, js, io.MultiReader(strings.NewReader(good[:20]), failing{}), 400, authn.CodeBodyUnreadable},
		"empty":            {http.MethodPost, js, strings.NewReader(""), 400, authn.CodeNotTokenReview},
		"garbage":          {http.MethodPost, js, strings.NewReader("\x00\x01"), 400, authn.CodeNotTokenReview},
		"null":             {http.MethodPost, js, strings.NewReader("null"), 400, authn.CodeNotTokenReview},
		"list":             {http.MethodPost, js, strings.NewReader("[]"), 400, authn.CodeNotTokenReview},
		"trailing":         {http.MethodPost, js, strings.NewReader(good + good), 400, authn.CodeNotTokenReview},
		"other kind":       {http.MethodPost, js, strings.NewReader(strings.Replace(good, "TokenReview", "SubjectAccessReview", 1)), 400, authn.CodeNotTokenReview},
		"no kind":          {http.MethodPost, js, strings.NewReader(`{"spec":{"token":"abc"}}`), 400, authn.CodeNotTokenReview},
		"other version":    {http.MethodPost, js, strings.NewReader(ask("v2", "abc")), 400, authn.CodeNotTokenReview},
		"other group":      {http.MethodPost, js, strings.NewReader(strings.Replace(good, "authentication.", "authorization.", 1)), 400, authn.CodeNotTokenReview},
		"token a number":   {http.MethodPost, js, strings.NewReader(strings.Replace(good, `"abc"`, "1", 1)), 400, authn.CodeNotTokenReview},
		"spelling of kind": {http.MethodPost, js, strings.NewReader(strings.Replace(good, `"kind"`, `"Kind"`, 1)), 400, authn.CodeNotTokenReview},
	} {
		t.Run(name, func(t *testing.T) {
			w, seen := do(tc.method, tc.contentType, tc.body)
			if w.Code != tc.status || len(seen) != 1 || seen[0].Code != tc.code || seen[0].Outcome != authn.OutcomeMalformed {
				t.Errorf("got %d, observed %+v", w.Code, seen)
			}
			if w.Header().Get("Retry-After") != "" || strings.Contains(w.Body.String(), "abc") {
				t.Errorf("answer: %v %s", w.Header(), w.Body)
			}
		})
	}
	if w, _ := do(http.MethodGet, js, nil); w.Header().Get("Allow") != http.MethodPost {
		t.Errorf("Allow: %q", w.Header().Get("Allow"))
	}
	h := authn.Handler(fake(func(context.Context, string) (authn.Identity, error) { return authn.Identity{}, authn.ErrNotMine }), nil, nil)
	r := httptest.NewRequest(http.MethodPost, "/authenticate", strings.NewReader(good))
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	answer(t, w)
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestAPIAudiences(t *testing.T) {
	ok := fake(func(context.Context, string) (authn.Identity, error) {
		return authn.Identity{Username: "gitlab:1"}, nil
	})
	request := func(audiences string) string {
		return `{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","spec":{"token":"abc","audiences":` + audiences + `}}`
	}
	for name, tc := range map[string]struct {
		configured []string
		asked      string
		want       any // audiences of an authenticated answer; nil: the field is absent
		refused    bool
	}{
		"not configured":      {nil, `["x"]`, nil, false},
		"both, once":          {[]string{"a", "b"}, `["b","c","b"]`, []any{"b"}, false},
		"none asked":          {[]string{"a", "b"}, `[]`, []any{"a", "b"}, false},
		"none of those asked": {[]string{"a"}, `["z"]`, nil, true},
	} {
		status := answer(t, post(authn.Handler(ok, nil, nil, tc.configured...), request(tc.asked)))["status"].(map[string]any)
		if diff := cmp.Diff(tc.want, status["audiences"]); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
		if (status["authenticated"] == nil) != tc.refused || (status["error"] != nil) != tc.refused {
			t.Errorf("%s: %v", name, status)
		}
	}
}

// TestNoTokenInAnyOutput runs good, bad and broken tokens through handler and authenticator and looks for any part
// of them in logs, errors and answers (docs/invariants.md, invariant 1).
func TestNoTokenInAnyOutput(t *testing.T) {
	i, c := newIssuer(t)
	var logs lockedBuffer
	logger := slog.New(slog.NewJSONHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	cfg := config(i, c)
	cfg.Logger = logger
	g := newGitLab(t, cfg)
	h := authn.Handler(g, logger, nil)
	tokens := []string{
		i.UserToken(42, client, nil), i.CIToken(20, ciAud, nil), "glpat-SECRETSECRET", "SECRET.SECRET.SECRET",
		i.UserToken(42, "SECRET-application", nil), i.UserToken(42, client, authntest.Claims{"exp": 1}),
		i.UserToken(42, client, authntest.Claims{"iss": "https://SECRET.example"}), i.CIToken(20, client, nil),
		i.CIToken(20, ciAud, authntest.Claims{"environment": "SECRET\nlevel=ERROR"}),
		authntest.Sign(authntest.NewKey(t, 2048), i.UserClaims(42, client, nil)),
		i.UserToken(42, client, authntest.Claims{"sub": "SECRET"}),
	}
	outputs := func() string {
		var all strings.Builder
		for _, token := range tokens {
			all.WriteString(post(h, ask("v1", token)).Body.String())
			if _, err := g.Authenticate(t.Context(), token); err != nil {
				all.WriteString(err.Error())
			}
		}
		return all.String() + logs.String()
	}
	text := outputs()
	i.SetDown(true)
	c.advance(25 * time.Hour)
	text += outputs()
	for _, token := range tokens {
		for part := range strings.SplitSeq(token, ".") {
			if len(part) >= 6 && strings.Contains(text, part) {
				t.Errorf("output holds %q of a token", part)
			}
		}
	}
	if strings.Contains(text, "SECRET") {
		t.Error("output holds what a token's author wrote")
	}
	if !strings.Contains(logs.String(), `"user":"gitlab:42"`) || !strings.Contains(logs.String(), `"reason":"ci_wrong_environment"`) {
		t.Errorf("the log lacks decisions:\n%s", logs.String())
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestOneLinePerReview: each token that is good leaves one line with the request's id; of all others one a second for each
// reason, which counts the others.
func TestOneLinePerReview(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logs lockedBuffer
		outcome := error(nil)
		h := authn.Handler(fake(func(context.Context, string) (authn.Identity, error) {
			if outcome != nil {
				return authn.Identity{}, outcome
			}
			return authn.Identity{Username: "gitlab:42", UID: "42"}, nil
		}), slog.New(slog.NewJSONHandler(&logs, nil)), nil)
		lines := func() []map[string]any {
			var all []map[string]any
			for line := range strings.Lines(logs.String()) {
				var m map[string]any
				if err := json.Unmarshal([]byte(line), &m); err != nil {
					t.Fatal(err)
				}
				all = append(all, m)
			}
			return all
		}
		send := func() {
			r := httptest.NewRequest(http.MethodPost, "/authenticate", strings.NewReader(ask("v1", "abc")))
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("X-Request-Id", "0123456789abcdef")
			h.ServeHTTP(httptest.NewRecorder(), r)
		}
		send()
		outcome = &authn.DeniedError{Code: authn.CodeUserBlocked, Kind: authn.KindUser, Username: "gitlab:7"}
		send()
		time.Sleep(time.Second)
		send()
		if got := lines(); len(got) != 3 || got[0]["user"] != "gitlab:42" || got[0]["outcome"] != "ok" || got[1]["reason"] != "user_blocked" ||
			got[1]["user"] != "gitlab:7" || got[2]["requestId"] != "0123456789abcdef" {
			t.Fatalf("got %v", got)
		}
		written := 3
		for _, outcome = range []error{
			authn.ErrNotMine, &authn.DeniedError{Code: authn.CodeBadSignature}, &authn.DeniedError{Code: authn.CodeTokenExpired, Proven: true, Username: "gitlab:7"},
			&authn.UndecidedError{Code: authn.CodeKeysUnavailable},
		} {
			for range 100 {
				send()
			}
			time.Sleep(time.Second)
			send()
			got := lines()[written:]
			if len(got) != 2 {
				t.Fatalf("%v 101 times in a second and a moment: %d lines, want 2", outcome, len(got))
			}
			if got[0]["suppressed"] != 0.0 || got[1]["suppressed"] != 99.0 || got[1]["reason"] != string(authn.CodeOf(outcome)) {
				t.Errorf("got %v", got)
			}
			written += 2
		}
	})
}
