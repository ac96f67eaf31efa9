package authntest

import (
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
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	jose "github.com/go-jose/go-jose/v4"
	"sigs.k8s.io/yaml"
)

// Vector is one entry of authn/testdata/tokens.yaml, which explains the fields: a token, and the reason code it must get.
type Vector struct {
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
	Want string `json:"want"`
}

// Vectors reads the vectors of a file.
func Vectors(tb testing.TB, file string) []Vector {
	tb.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	var vectors []Vector
	if err := yaml.UnmarshalStrict(raw, &vectors); err != nil {
		tb.Fatal(err)
	}
	return vectors
}

// Workshop makes the tokens of vectors.
type Workshop struct {
	// KeyOf are the keys by the names that vectors have for them; "" is the key of people's tokens.
	KeyOf map[string]Key

	tb     testing.TB
	issuer *Issuer
	ec     *ecdsa.PrivateKey
}

// NewWorkshop returns a Workshop for the tokens of an issuer, which has yet to publish Keys.
func NewWorkshop(tb testing.TB, i *Issuer) *Workshop {
	tb.Helper()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return &Workshop{tb: tb, issuer: i, ec: ec, KeyOf: map[string]Key{
		"": i.UserKey, "user": i.UserKey, "ci": i.CIKey, "other": NewKey(tb, 2048), "withdrawn": NewKey(tb, 2048),
		"weak": NewKey(tb, 1024), "enc": NewKey(tb, 2048), "old": NewKey(tb, 2048),
	}}
}

// For returns a Workshop with the same keys for the tokens of another issuer.
func (w *Workshop) For(tb testing.TB, i *Issuer) *Workshop {
	return &Workshop{tb: tb, issuer: i, ec: w.ec, KeyOf: w.KeyOf}
}

// Keys are the keys that vectors expect to be published: not "other", "withdrawn" and "old".
func (w *Workshop) Keys() []jose.JSONWebKey {
	enc := w.KeyOf["enc"].JWK()
	enc.Use = "enc"
	return []jose.JSONWebKey{
		w.KeyOf["user"].JWK(), w.KeyOf["ci"].JWK(), w.KeyOf["weak"].JWK(), enc,
		{Key: w.ec.Public(), KeyID: "ec", Algorithm: "ES256", Use: "sig"},
	}
}

var timeMark = regexp.MustCompile(`\$now([+-][\d.]+)`)

// fill replaces the marks in a value of the file.
func (w *Workshop) fill(v any) any {
	switch v := v.(type) {
	case string:
		switch v {
		case "$huge":
			return slices.Repeat([]string{"a-rather-long/group-name"}, 3000)
		case "$jwk":
			return w.KeyOf["other"].JWK()
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
func (w *Workshop) at(offset string) string {
	whole, fraction, _ := strings.Cut(offset, ".")
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		w.tb.Fatal(err)
	}
	at := strconv.FormatInt(w.issuer.Now().Unix()+n, 10)
	if fraction != "" {
		at += "." + fraction
	}
	return at
}

func (w *Workshop) text(s string) string {
	kid := w.KeyOf["user"].ID
	s = strings.NewReplacer("$issuer", w.issuer.URL, "$ISSUER", strings.ToUpper(w.issuer.URL), "$kid", kid, "$KID", swapCase(kid)).Replace(s)
	return timeMark.ReplaceAllStringFunc(s, func(m string) string { return w.at(strings.TrimPrefix(m, "$now")) })
}

func swapCase(s string) string {
	if up := strings.ToUpper(s); up != s {
		return up
	}
	return strings.ToLower(s)
}

func (w *Workshop) edit(m, changes map[string]any) {
	for k, v := range changes {
		if v == "$absent" {
			delete(m, k)
			continue
		}
		m[k] = w.fill(v)
	}
}

// Token makes the token of a vector.
func (w *Workshop) Token(v Vector) string {
	b64 := base64.RawURLEncoding.EncodeToString
	encode := func(m map[string]any) string { return Encode(m) }
	claims := map[string]any{}
	key := w.KeyOf[v.Key]
	switch v.Base {
	case "user":
		aud := "kubelogin"
		if v.Aud != nil {
			aud = *v.Aud
		}
		claims = w.issuer.UserClaims(max(v.ID, 42*b2i(v.ID == 0)), aud, nil)
	case "ci":
		aud := "https://k8s.example.com"
		if v.Aud != nil {
			aud = *v.Aud
		}
		claims = w.issuer.CIClaims(max(v.ID, 20*b2i(v.ID == 0)), aud, nil)
		if v.Key == "" {
			key = w.KeyOf["ci"]
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

func (w *Workshop) sign(alg string, key Key, signed string) (signature []byte) {
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
		w.tb.Fatalf("no algorithm %q", alg)
	}
	if err != nil {
		w.tb.Fatal(err)
	}
	return signature
}
