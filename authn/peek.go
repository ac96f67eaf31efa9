package authn

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"

	kjson "sigs.k8s.io/json"
)

// peeked is what a token SAYS about itself, before anything is proven. It may only be used to refuse the token
// early and to choose who verifies it; the claims count once the signature over payload is verified.
type peeked struct {
	header    header
	headerErr error
	claims    claims
	payload   []byte
	// signed is the part of the token that the signature covers.
	signed    string
	signature []byte
}

type header struct {
	Alg  text            `json:"alg"`
	Kid  text            `json:"kid"`
	Typ  text            `json:"typ"`
	Crit json.RawMessage `json:"crit"`
}

// claims are the claims of both kinds that are looked at (facts: GitLab's doorkeeper_openid_connect.rb and
// lib/gitlab/ci/jwt_v2.rb). Names are matched letter by letter.
type claims struct {
	Issuer    text     `json:"iss"`
	Subject   text     `json:"sub"`
	Audience  audience `json:"aud"`
	Expiry    date     `json:"exp"`
	IssuedAt  date     `json:"iat"`
	NotBefore date     `json:"nbf"`
	ID        text     `json:"jti"`

	PreferredUsername text `json:"preferred_username"`
	Nickname          text `json:"nickname"`

	JobID          text `json:"job_id"`
	PipelineID     text `json:"pipeline_id"`
	PipelineSource text `json:"pipeline_source"`
	RunnerID       text `json:"runner_id"`
	UserID         text `json:"user_id"`
	UserLogin      text `json:"user_login"`
	ProjectID      text `json:"project_id"`
	ProjectPath    text `json:"project_path"`
	JobProjectID   text `json:"job_project_id"`
	Ref            text `json:"ref"`
	RefType        text `json:"ref_type"`
	RefProtected   text `json:"ref_protected"`
	Environment    text `json:"environment"`
}

// peek takes a token apart without believing any of it. It returns a *notMineError for what is not a JWT at
// all: opaque GitLab tokens too (a routable personal access token also has two dots).
func peek(token string, maxBytes int) (*peeked, error) {
	switch {
	case token == "":
		return nil, &notMineError{CodeEmptyToken}
	case len(token) > maxBytes:
		return nil, denied(CodeTokenTooLarge)
	}
	head, rest, ok1 := strings.Cut(token, ".")
	body, sig, ok2 := strings.Cut(rest, ".")
	if !ok1 || !ok2 || head == "" || body == "" {
		return nil, &notMineError{CodeNotJWT}
	}
	p := &peeked{signed: token[:len(head)+1+len(body)]}
	rawHeader, err1 := decodeSegment(head)
	payload, err2 := decodeSegment(body)
	signature, err3 := decodeSegment(sig)
	if err1 != nil || err2 != nil || err3 != nil {
		return nil, &notMineError{CodeNotJWT}
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(payload, &p.claims); err != nil || payload[0] != '{' {
		return nil, &notMineError{CodeNotJWT}
	}
	p.payload, p.signature = payload, signature
	// Whether a broken header matters depends on the issuer, which the caller looks at first.
	p.headerErr = kjson.UnmarshalCaseSensitivePreserveInts(rawHeader, &p.header)
	return p, nil
}

// decodeSegment decodes unpadded base64url and nothing else: encoding/base64 would skip line breaks, which
// would give one token many spellings.
func decodeSegment(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, base64.CorruptInputError(strings.IndexAny(s, "\r\n"))
	}
	return base64.RawURLEncoding.Strict().DecodeString(s)
}

// text is a claim that should be a string. Anything else is remembered as present and not a string, so that
// deciding what it means is left to the verifier and no odd claim can hide another.
type text struct {
	s       string
	present bool
	valid   bool
}

// UnmarshalJSON never fails.
func (t *text) UnmarshalJSON(b []byte) error {
	*t = text{present: true}
	if len(b) < 2 || b[0] != '"' {
		return nil
	}
	if plain(b[1 : len(b)-1]) {
		t.s, t.valid = string(b[1:len(b)-1]), true
		return nil
	}
	t.valid = json.Unmarshal(b, &t.s) == nil
	return nil
}

// plain reports whether a JSON string's inside can be taken as it is.
func plain(b []byte) bool {
	for _, c := range b {
		if c < ' ' || c > '~' || c == '\\' || c == '"' {
			return false
		}
	}
	return true
}

// audience is a string or a list of strings (RFC 7519 section 4.1.3).
type audience struct {
	list  []string
	valid bool
}

// UnmarshalJSON never fails.
func (a *audience) UnmarshalJSON(b []byte) error {
	*a = audience{}
	var one text
	if len(b) > 0 && b[0] == '"' {
		_ = one.UnmarshalJSON(b)
		a.list, a.valid = []string{one.s}, one.valid
		return nil
	}
	var many []*string
	if len(b) == 0 || b[0] != '[' || json.Unmarshal(b, &many) != nil {
		return nil
	}
	for _, s := range many {
		if s == nil {
			a.list = nil
			return nil
		}
		a.list = append(a.list, *s)
	}
	a.valid = true
	return nil
}

// date is a NumericDate (RFC 7519 section 2), fractions cut off.
type date struct {
	t       time.Time
	present bool
	valid   bool
}

// maxDate is the year 9999: beyond it time arithmetic is of no use.
const maxDate = 253402300799

// UnmarshalJSON never fails.
func (d *date) UnmarshalJSON(b []byte) error {
	*d = date{present: true}
	if len(b) == 0 || (b[0] != '-' && (b[0] < '0' || b[0] > '9')) {
		return nil
	}
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil || f < 0 || f > maxDate {
		return nil
	}
	d.t, d.valid = time.Unix(int64(math.Floor(f)), 0), true
	return nil
}
