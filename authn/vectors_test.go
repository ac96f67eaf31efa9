package authn_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn/authntest"
)

// vector is one entry of testdata/tokens.yaml, which explains the fields.
type vector struct {
	Name       string         `json:"name"`
	World      string         `json:"world"`
	Base       string         `json:"base"`
	ID         int64          `json:"id"`
	Aud        *string        `json:"aud"`
	Claims     map[string]any `json:"claims"`
	Payload    string         `json:"payload"`
	Forge      map[string]any `json:"forge"`
	Header     map[string]any `json:"header"`
	HeaderText string         `json:"headerText"`
	Key        string         `json:"key"`
	Sign       string         `json:"sign"`
	Token      *string        `json:"token"`
	Request    struct {
		Method      string `json:"method"`
		ContentType string `json:"contentType"`
		Body        string `json:"body"`
	} `json:"request"`
	Want authn.Code `json:"want"`
}

// workshop makes the tokens of the vectors and the worlds they are sent to.
type workshop struct {
	t      *testing.T
	issuer *authntest.Issuer
	clock  *clock
	keys   map[string]authntest.Key
	ec     *ecdsa.PrivateKey
}

func newWorkshop(t *testing.T) *workshop {
	i, c := newIssuer(t)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := &workshop{t: t, issuer: i, clock: c, ec: ec, keys: map[string]authntest.Key{
		"": i.UserKey, "user": i.UserKey, "ci": i.CIKey, "other": authntest.NewKey(t, 2048), "withdrawn": authntest.NewKey(t, 2048),
		"weak": authntest.NewKey(t, 1024), "enc": authntest.NewKey(t, 2048), "old": authntest.NewKey(t, 2048),
	}}
	w.publish()
	return w
}

// publish publishes all keys but "other" and "withdrawn", and more.
func (w *workshop) publish(more ...jose.JSONWebKey) {
	enc := w.keys["enc"].JWK()
	enc.Use = "enc"
	w.issuer.Publish(append(more, w.keys["user"].JWK(), w.keys["ci"].JWK(), w.keys["weak"].JWK(), enc,
		jose.JSONWebKey{Key: w.ec.Public(), KeyID: "ec", Algorithm: "ES256", Use: "sig"})...)
}

var timeMark = regexp.MustCompile(`\$now([+-][\d.]+)`)

// fill replaces the marks in a value of the file.
func (w *workshop) fill(v any) any {
	switch v := v.(type) {
	case string:
		switch v {
		case "$huge":
			return slices.Repeat([]string{"a-rather-long/group-name"}, 3000)
		case "$jwk":
			return w.keys["other"].JWK()
		}
		if m := timeMark.FindStringSubmatch(v); m != nil && m[0] == v {
			return json.Number(w.at(m[1]))
		}
		return w.text(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = w.fill(v[i])
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for k := range v {
			out[k] = w.fill(v[k])
		}
		return out
	}
	return v
}

// at is the time so many seconds from now, with the fraction that was given.
func (w *workshop) at(offset string) string {
	whole, fraction, _ := strings.Cut(offset, ".")
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		w.t.Fatal(err)
	}
	at := strconv.FormatInt(w.clock.now().Unix()+n, 10)
	if fraction != "" {
		at += "." + fraction
	}
	return at
}

func (w *workshop) text(s string) string {
	kid := w.keys["user"].ID
	s = strings.NewReplacer("$issuer", w.issuer.URL, "$ISSUER", strings.ToUpper(w.issuer.URL), "$kid", kid, "$KID", swapCase(kid)).Replace(s)
	return timeMark.ReplaceAllStringFunc(s, func(m string) string { return w.at(strings.TrimPrefix(m, "$now")) })
}

func swapCase(s string) string {
	if up := strings.ToUpper(s); up != s {
		return up
	}
	return strings.ToLower(s)
}

func (w *workshop) edit(m, changes map[string]any) {
	for k, v := range changes {
		if v == "$absent" {
			delete(m, k)
			continue
		}
		m[k] = w.fill(v)
	}
}

// token makes the token of a vector.
func (w *workshop) token(v vector) string {
	b64 := base64.RawURLEncoding.EncodeToString
	encode := func(m map[string]any) string { return authntest.Encode(m) }
	claims := map[string]any{}
	key := w.keys[v.Key]
	switch v.Base {
	case "user":
		aud := client
		if v.Aud != nil {
			aud = *v.Aud
		}
		claims = w.issuer.UserClaims(max(v.ID, 42*b2i(v.ID == 0)), aud, nil)
	case "ci":
		aud := ciAud
		if v.Aud != nil {
			aud = *v.Aud
		}
		claims = w.issuer.CIClaims(max(v.ID, 20*b2i(v.ID == 0)), aud, nil)
		if v.Key == "" {
			key = w.keys["ci"]
		}
	}
	w.edit(claims, v.Claims)
	payload := encode(claims)
	if v.Payload != "" {
		payload = w.text(v.Payload)
	}
	alg := v.Sign
	if alg == "" {
		alg = "RS256"
	}
	header := map[string]any{"alg": alg, "kid": key.ID}
	w.edit(header, v.Header)
	head := encode(header)
	if v.HeaderText != "" {
		head = w.text(v.HeaderText)
	}
	signed := b64([]byte(head)) + "." + b64([]byte(payload))
	signature := b64(w.sign(alg, key, signed))
	if v.Forge != nil {
		w.edit(claims, v.Forge)
		payload = encode(claims)
	}
	template := "{h}.{c}.{s}"
	if v.Token != nil {
		template = *v.Token
	}
	return strings.NewReplacer("{h}", b64([]byte(head)), "{c}", b64([]byte(payload)), "{s}", signature).Replace(template)
}

func b2i(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func (w *workshop) sign(alg string, key authntest.Key, signed string) (signature []byte) {
	sum, sum384 := sha256.Sum256([]byte(signed)), sha512.Sum384([]byte(signed))
	var err error
	switch alg {
	case "none":
		return nil
	case "RS256":
		signature, err = rsa.SignPKCS1v15(rand.Reader, key.Private, crypto.SHA256, sum[:])
	case "RS384":
		signature, err = rsa.SignPKCS1v15(rand.Reader, key.Private, crypto.SHA384, sum384[:])
	case "PS256":
		signature, err = rsa.SignPSS(rand.Reader, key.Private, crypto.SHA256, sum[:], nil)
	case "ES256":
		signature, err = ecdsa.SignASN1(rand.Reader, w.ec, sum[:])
	case "HS256": // with what an attacker knows: the public key
		der, derErr := x509.MarshalPKIXPublicKey(key.Private.Public())
		mac := hmac.New(sha256.New, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		mac.Write([]byte(signed))
		signature, err = mac.Sum(nil), derErr
	default:
		w.t.Fatalf("no algorithm %q", alg)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return signature
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
		w.publish(w.keys["old"].JWK())
		prepare = func(g *authn.GitLab) {
			verdict(w.t, g, w.issuer.UserToken(42, client, nil)) // reads the keys
			w.publish()
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
	raw, err := os.ReadFile("testdata/tokens.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := yaml.UnmarshalStrict(raw, &vectors); err != nil {
		t.Fatal(err)
	}
	w := newWorkshop(t)
	reached, names := map[authn.Code]int{}, map[string]bool{}
	var seen []authn.Review
	observe := func(r authn.Review) { seen = append(seen, r) }
	usual, _ := w.handler("", observe)
	before := w.issuer.KeyReads()
	ordinary := 0
	slices.SortStableFunc(vectors, func(a, b vector) int { return strings.Compare(a.World, b.World) }) // the usual world first
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
				token := w.token(v)
				seen = nil
				answered := send(h, v, version, token)
				undo()
				check(t, v, version, token, answered, seen)
			}
			reached[v.Want]++
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

func send(h http.Handler, v vector, version, token string) *httptest.ResponseRecorder {
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

// check holds an answer against its vector.
func check(t *testing.T, v vector, version, token string, rec *httptest.ResponseRecorder, seen []authn.Review) {
	t.Helper()
	reason, known := authn.ReasonFor(v.Want)
	if !known {
		t.Fatalf("no code %s", v.Want)
	}
	if len(seen) != 1 || seen[0].Code != v.Want || seen[0].Outcome != reason.Outcome {
		t.Errorf("%s: observed %+v, want %s", version, seen, v.Want)
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
		if keys := slices.Sorted(maps.Keys(status)); !slices.Equal(keys, []string{"error", "user"}) || len(user) != 0 || !strings.HasPrefix(text, string(v.Want)+": ") {
			t.Errorf("%s: status %v", version, status)
		}
	case authn.OutcomeMalformed:
	}
}
