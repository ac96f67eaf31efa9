package authn_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn/authntest"
)

// workshop makes the tokens of the vectors and the worlds they are sent to.
type workshop struct {
	*authntest.Workshop
	t      *testing.T
	issuer *authntest.Issuer
	clock  *clock
}

func newWorkshop(t *testing.T) *workshop {
	i, c := newIssuer(t)
	w := &workshop{Workshop: authntest.NewWorkshop(t, i), t: t, issuer: i, clock: c}
	i.Publish(w.Keys()...)
	return w
}

// handler returns the webhook in a world of that name, and what undoes the world.
func (w *workshop) handler(world string, observe func(authn.Review)) (h http.Handler, undo func()) {
	cfg := config(w.issuer, w.clock)
	cfg.UserState = func(id int64) (string, bool) {
		state, known := map[int64]string{
			1: "active", 101: "blocked", 102: "ldap_blocked", 103: "banned", 104: "deactivated",
			105: "blocked_pending_approval", 106: "deleted", 107: "something new", 108: "", 109: authn.StateNotHuman,
		}[id]
		return state, known
	}
	cfg.CIProject = func(id int64) authn.ProjectStanding {
		switch id {
		case 20, 43:
			return authn.ProjectServed
		case 44:
			return authn.ProjectOtherDelivery
		case 45:
			return authn.ProjectUnread
		case 46:
			return 99 // no standing: a bug must not let anybody in
		default:
			return authn.ProjectNotServed
		}
	}
	undo = func() {}
	var audiences []string
	prepare := func(*authn.GitLab) {}
	stub := func(id authn.Identity, err error) http.Handler {
		return authn.Handler(fake(func(context.Context, string) (authn.Identity, error) { return id, err }), nil, observe)
	}
	switch world {
	case "":
	case "away":
		w.issuer.SetDown(true)
		undo = func() { w.issuer.SetDown(false) }
	case "aged":
		prepare = func(g *authn.GitLab) {
			jwks, _ := keysOf(w)
			if err := g.RestoreKeys(jwks, w.clock.now().Add(-25*time.Hour)); err != nil {
				w.t.Fatal(err)
			}
			w.issuer.SetDown(true)
		}
		undo = func() { w.issuer.SetDown(false) }
	case "moved":
		w.issuer.SetDiscovery("issuer", "https://other.example")
		undo = func() { w.issuer.SetDiscovery("issuer", w.issuer.URL) }
	case "rotated":
		w.issuer.Publish(append(w.Keys(), w.KeyOf["old"].JWK())...)
		prepare = func(g *authn.GitLab) {
			verdict(w.t, g, w.issuer.UserToken(42, client, nil)) // reads the keys
			w.issuer.Publish(w.Keys()...)
			w.clock.advance(5 * time.Minute)
		}
	case "ci-issuer":
		cfg.CIIssuer = "https://ci.example.com"
	case "people-only":
		cfg.CIAudience, cfg.Environments = "", nil
	case "require":
		cfg.Admitted = func(id int64) (bool, bool) { return id == 42, true }
	case "unread":
		cfg.Admitted = func(int64) (bool, bool) { return false, false }
	case "api-audience":
		audiences = []string{"https://kubernetes.default.svc"}
	case "other-api-audience":
		audiences = []string{"https://other.example"}
	case "stub-not-mine":
		return stub(authn.Identity{}, authn.ErrNotMine), undo
	case "stub-cancelled":
		return stub(authn.Identity{}, context.Canceled), undo
	case "stub-unsafe":
		return stub(authn.Identity{Username: "system:admin"}, nil), undo
	case "stub-bug":
		return stub(authn.Identity{}, errors.New("a bug")), undo
	default:
		w.t.Fatalf("no world %q", world)
	}
	g := newGitLab(w.t, cfg)
	prepare(g)
	return authn.Handler(g, nil, observe, audiences...), undo
}

// keysOf returns the published keys.
func keysOf(w *workshop) ([]byte, time.Time) {
	g := newGitLab(w.t, config(w.issuer, w.clock))
	verdict(w.t, g, w.issuer.UserToken(42, client, nil))
	return g.Keys()
}

// TestVectors sends every vector to the webhook in both versions and demands the exact reason, and what each outcome
// means on the wire.
func TestVectors(t *testing.T) {
	vectors := authntest.Vectors(t, "testdata/tokens.yaml")
	w := newWorkshop(t)
	reached, names := map[authn.Code]int{}, map[string]bool{}
	var seen []authn.Review
	observe := func(r authn.Review) { seen = append(seen, r) }
	usual, _ := w.handler("", observe)
	before := w.issuer.KeyReads()
	ordinary := 0
	slices.SortStableFunc(vectors, func(a, b authntest.Vector) int { return strings.Compare(a.World, b.World) }) // the usual world first
	for _, v := range vectors {
		if names[v.Name] {
			t.Errorf("%s: there are two of that name", v.Name)
		}
		names[v.Name] = true
		if v.World == "" {
			ordinary++
		} else if ordinary >= 0 {
			if n := w.issuer.KeyReads() - before; n != 1 {
				t.Errorf("%d vectors in one moment cost %d key fetches, want 1", ordinary, n)
			}
			ordinary = -1
		}
		t.Run(v.Name, func(t *testing.T) {
			for _, version := range []string{"v1", "v1beta1"} {
				h, undo := usual, func() {}
				if v.World != "" {
					h, undo = w.handler(v.World, observe)
				}
				token := w.Token(v)
				seen = nil
				answered := send(h, v, version, token)
				undo()
				check(t, authn.Code(v.Want), version, token, answered, seen)
			}
			reached[authn.Code(v.Want)]++
		})
	}
	if len(vectors) < 80 {
		t.Errorf("%d vectors", len(vectors))
	}
	for _, r := range authn.Reasons() {
		if reached[r.Code] == 0 {
			t.Errorf("no vector reaches %s", r.Code)
		}
	}
}

type brokenBody struct{}

func (brokenBody) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func send(h http.Handler, v authntest.Vector, version, token string) *httptest.ResponseRecorder {
	method, contentType := http.MethodPost, "application/json"
	var body io.Reader = strings.NewReader(ask(version, token))
	switch b := v.Request.Body; b {
	case "":
	case "$megabyte":
		body = io.MultiReader(body, bytes.NewReader(make([]byte, 1<<20)))
	case "$broken":
		body = brokenBody{}
	default:
		body = strings.NewReader(b)
	}
	if v.Request.Method != "" {
		method = v.Request.Method
	}
	if v.Request.ContentType != "" {
		contentType = v.Request.ContentType
	}
	r := httptest.NewRequest(method, "/authenticate", body)
	r.Header.Set("Content-Type", contentType)
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec
}

// check holds an answer against the code of its vector.
func check(t *testing.T, want authn.Code, version, token string, rec *httptest.ResponseRecorder, seen []authn.Review) {
	t.Helper()
	reason, known := authn.ReasonFor(want)
	if !known {
		t.Fatalf("no code %s", want)
	}
	if len(seen) != 1 || seen[0].Code != want || seen[0].Outcome != reason.Outcome {
		t.Errorf("%s: observed %+v, want %s", version, seen, want)
	}
	for part := range strings.SplitSeq(token, ".") {
		if len(part) > 8 && strings.Contains(rec.Body.String(), part) {
			t.Errorf("%s: the answer holds a part of the token", version)
		}
	}
	if reason.Outcome == authn.OutcomeMalformed {
		if rec.Code < 400 || rec.Code > 499 {
			t.Errorf("%s: status %d", version, rec.Code)
		}
		return
	}
	got := answer(t, rec)
	if got["apiVersion"] != "authentication.k8s.io/"+version || got["kind"] != "TokenReview" {
		t.Errorf("%s: answered %v %v", version, got["apiVersion"], got["kind"])
	}
	status := got["status"].(map[string]any)
	user := status["user"].(map[string]any)
	text, _ := status["error"].(string)
	name, _ := user["username"].(string)
	switch reason.Outcome {
	case authn.OutcomeOK:
		if status["authenticated"] != true || text != "" || !strings.HasPrefix(name, "gitlab:") {
			t.Fatalf("%s: status %v", version, status)
		}
		for _, g := range user["groups"].([]any) {
			if !strings.HasPrefix(g.(string), "gitlab:") {
				t.Errorf("%s: group %v", version, g)
			}
		}
	case authn.OutcomeNotMine:
		if len(status) != 1 || len(user) != 0 {
			t.Errorf("%s: status %v, want none but an empty user", version, status)
		}
	case authn.OutcomeDenied, authn.OutcomeUndecided:
		if keys := slices.Sorted(maps.Keys(status)); !slices.Equal(keys, []string{"error", "user"}) || len(user) != 0 || !strings.HasPrefix(text, string(want)+": ") {
			t.Errorf("%s: status %v", version, status)
		}
	case authn.OutcomeMalformed:
	}
}
