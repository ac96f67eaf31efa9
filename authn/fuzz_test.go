package authn

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authenticationv1beta1 "k8s.io/api/authentication/v1beta1"
)

// FuzzReview: whatever body arrives, the answer is a 4xx or a TokenReview of the asked version that is never
// authenticated beside an error or without a name, and only a token that the authenticator knows is accepted.
func FuzzReview(f *testing.F) {
	const secret = "the-one-good-token"
	for _, seed := range []string{
		`{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","spec":{"token":"the-one-good-token"}}`,
		`{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1beta1","metadata":{},"spec":{"token":"x","audiences":["a"]},"status":{"user":{}}}`,
		`{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","spec":{"token":"x"},"status":{"authenticated":true,"user":{"username":"system:admin"}}}`,
		`{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","spec":{"token":"x","token":"the-one-good-token"}}`,
		`{"kind":"SubjectAccessReview","apiVersion":"authorization.k8s.io/v1"}`, `[]`, `null`, ``, `{"spec":`,
	} {
		f.Add([]byte(seed))
	}
	h := Handler(authenticatorFunc(func(_ context.Context, token string) (Identity, error) {
		switch {
		case token == secret:
			return Identity{Username: "gitlab:1", UID: "1"}, nil
		case len(token)%2 == 0:
			return Identity{}, ErrNotMine
		default:
			return Identity{}, denied(CodeBadSignature)
		}
	}), nil, nil)
	f.Fuzz(func(t *testing.T, body []byte) {
		r := httptest.NewRequest(http.MethodPost, "/authenticate", bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code >= 400 && w.Code < 500 {
			return
		}
		var got authenticationv1.TokenReview
		if err := json.Unmarshal(w.Body.Bytes(), &got); w.Code != http.StatusOK || err != nil {
			t.Fatalf("got %d %q: %v", w.Code, w.Body, err)
		}
		versions := []string{authenticationv1.SchemeGroupVersion.String(), authenticationv1beta1.SchemeGroupVersion.String()}
		if got.Kind != "TokenReview" || !slices.Contains(versions, got.APIVersion) || !bytes.Contains(body, []byte("TokenReview")) {
			t.Errorf("answered %s %s", got.Kind, got.APIVersion)
		}
		s := got.Status
		if s.Authenticated && (s.User.Username != "gitlab:1" || s.Error != "") || !s.Authenticated && s.User.Username != "" {
			t.Errorf("status %+v", s)
		}
		// The token may be spelled with JSON escapes; without a backslash it must stand in the body as it is.
		if s.Authenticated && !bytes.Contains(body, []byte(secret)) && !bytes.ContainsRune(body, '\\') {
			t.Error("authenticated a token that was not sent")
		}
		if got.Spec.Token != "" || len(s.Audiences) != 0 {
			t.Error("the answer holds the token or audiences")
		}
	})
}

type authenticatorFunc func(ctx context.Context, token string) (Identity, error)

func (f authenticatorFunc) Authenticate(ctx context.Context, token string) (Identity, error) {
	return f(ctx, token)
}

type noNetwork struct{}

func (noNetwork) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("no network")
}

// FuzzPeek: a token has exactly one spelling (what is taken apart can be put together again to the same bytes),
// odd claims never become valid ones, and no token is accepted without a signature.
func FuzzPeek(f *testing.F) {
	b64 := base64.RawURLEncoding.EncodeToString
	for _, claims := range []string{
		`{"iss":"https://gitlab.example.com","aud":"app","sub":"42","exp":1795000000,"iat":1795000000}`,
		`{"iss":["https://gitlab.example.com"],"aud":["app",null],"sub":42,"exp":"x","job_id":null}`,
		`{"iss":"\u0068ttps://gitlab.example.com","aud":[],"exp":-1,"iat":1e400}`, `null`, `[]`, `{`, `{"aud":{"a":1}}`,
	} {
		f.Add(b64([]byte(`{"alg":"RS256","kid":"k"}`)) + "." + b64([]byte(claims)) + "." + b64([]byte("signature")))
		f.Add(b64([]byte(`{"alg":"none"}`)) + "." + b64([]byte(claims)) + ".")
	}
	f.Add("glpat-AbC123.01.0z8kf")
	f.Add("a.b\n.c")
	g, err := New(Config{Issuer: "https://gitlab.example.com", ClientIDs: []string{"app"}, HTTPClient: &http.Client{Transport: noNetwork{}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, token string) {
		p, err := peek(token, 16<<10)
		var refused *DeniedError
		if (p == nil) == (err == nil) || err != nil && !errors.Is(err, ErrNotMine) && !errors.As(err, &refused) {
			t.Fatalf("got %v, %v", p, err)
		}
		if err == nil {
			segments := strings.Split(token, ".")
			if len(segments) != 3 || b64(p.payload) != segments[1] || (!p.cutOff && b64(p.signature) != segments[2]) || p.signed != segments[0]+"."+segments[1] {
				t.Errorf("%q has another spelling", token)
			}
			var loose map[string]any
			decoder := json.NewDecoder(bytes.NewReader(p.payload))
			decoder.UseNumber()
			if err := decoder.Decode(&loose); err != nil {
				t.Fatalf("%q passed as claims: %v", p.payload, err)
			}
			if s, ok := loose["iss"].(string); p.claims.Issuer.valid != ok || p.claims.Issuer.s != s {
				t.Errorf("issuer %+v, want %q", p.claims.Issuer, s)
			}
			var aud oidcAudience
			if json.Unmarshal(p.payload, &struct {
				Aud *oidcAudience `json:"aud"`
			}{&aud}) == nil && p.claims.Audience.valid && loose["aud"] != nil && !slices.Equal(aud, p.claims.Audience.list) && !caseTwin(loose, "aud") {
				t.Errorf("audience %+v of %q, go-oidc reads %q", p.claims.Audience, p.payload, aud)
			}
			if _, ok := loose["job_id"]; p.claims.JobID.present != ok {
				t.Errorf("job_id of %q: present %t", p.payload, p.claims.JobID.present)
			}
			if _, ok := loose["exp"].(json.Number); p.claims.Expiry.valid && !ok {
				t.Errorf("exp %+v of %q", p.claims.Expiry, p.payload)
			}
		}
		if id, err := g.Authenticate(t.Context(), token); err == nil {
			t.Errorf("accepted %q as %+v", token, id)
		}
	})
}

// FuzzJSON: what the scanner takes for a JSON object is one for encoding/json too, and the other way round, and the
// members have the names and values that encoding/json reads.
func FuzzJSON(f *testing.F) {
	for _, seed := range []string{
		`{}`, ` { "a" : [1, -0.5e+3, true, null, {"b": "\u00e9\n"}] , "a":"x" } `, `{"a":1,}`, `{"a" 1}`, `{"a":01}`, `{"a":1.}`, `{"a":"\u12g4"}`,
		`{"\u0061":"\ud800"}`, `{"a":"` + "\x7f\xff" + `"}`, `{"a":"` + "\n" + `"}`, `{"a":tru}`, `[{}]`, `{"a":{}}x`, `{"a":[}`, `{"a":-}`, `{"":""}`, `{"a":1e}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		o, ok := parseObject(b)
		var want map[string]json.RawMessage
		wantOK := json.Unmarshal(b, &want) == nil && want != nil
		if ok != wantOK {
			if !ok && bytes.Count(b, []byte("["))+bytes.Count(b, []byte("{")) > maxNesting {
				return // nested deeper than we go
			}
			t.Fatalf("%q: object %t, encoding/json says %t", b, ok, wantOK)
		}
		if !ok {
			return
		}
		got := map[string]json.RawMessage{}
		o.members(func(name, value string) { got[name] = json.RawMessage(value) })
		if len(got) != len(want) {
			t.Fatalf("%q: %d members, want %d", b, len(got), len(want))
		}
		for name, value := range want {
			if !bytes.Equal(bytes.TrimSpace(value), got[name]) {
				t.Errorf("%q: member %q is %q, want %q", b, name, got[name], value)
			}
			var text string
			if value[0] == '"' && json.Unmarshal(value, &text) == nil {
				if s := readText(string(got[name])); !s.valid || s.s != text {
					t.Errorf("%q reads %q as %q", b, value, s.s)
				}
				quoted, err := json.Marshal(text)
				if err != nil {
					t.Fatal(err)
				}
				if again := decodeString(string(quoted)); again != text {
					t.Errorf("%q is read as %q", quoted, again)
				}
			}
		}
	})
}

// oidcAudience reads aud as go-oidc does.
type oidcAudience []string

func (a *oidcAudience) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*a = oidcAudience{one}
		return nil
	}
	var many []string
	if err := json.Unmarshal(b, &many); err != nil {
		return err
	}
	*a = many
	return nil
}

// caseTwin reports whether a member has the name in another case, which encoding/json takes for the same.
func caseTwin(m map[string]any, name string) bool {
	n := 0
	for k := range m {
		if strings.EqualFold(k, name) {
			n++
		}
	}
	return n > 1
}
