package authn

import (
	"encoding/base64"
	"math"
	"strconv"
	"strings"
	"time"
)

// peeked is what a token SAYS about itself, before anything is proven. It may only be used to refuse the token
// early and to choose who verifies it; the claims count once the signature over payload is verified.
type peeked struct {
	header   header
	headerOK bool
	claims   claims
	payload  []byte
	// signed is the part of the token that the signature covers.
	signed    string
	signature []byte
	// cutOff says that the signature ends within a byte, as no encoder leaves it.
	cutOff bool
}

type header struct {
	Alg, Kid, Typ text
	Crit          bool // present
}

// claims are the claims of both kinds that are looked at (facts: GitLab's doorkeeper_openid_connect.rb and
// lib/gitlab/ci/jwt_v2.rb). Names are matched letter by letter.
type claims struct {
	Issuer, Subject, ID         text
	Audience                    audience
	Expiry, IssuedAt, NotBefore date
	PreferredUsername, Nickname text
	JobID, PipelineID           text
	PipelineSource, RunnerID    text
	UserID, UserLogin           text
	ProjectID, ProjectPath      text
	JobProjectID                text
	Ref, RefType, RefProtected  text
	Environment                 text
}

// take keeps a claim that is looked at.
func (c *claims) take(name, value string) {
	switch name {
	case "iss":
		c.Issuer = readText(value)
	case "sub":
		c.Subject = readText(value)
	case "aud":
		c.Audience = readAudience(value)
	case "exp":
		c.Expiry = readDate(value)
	case "iat":
		c.IssuedAt = readDate(value)
	case "nbf":
		c.NotBefore = readDate(value)
	case "jti":
		c.ID = readText(value)
	case "preferred_username":
		c.PreferredUsername = readText(value)
	case "nickname":
		c.Nickname = readText(value)
	case "job_id":
		c.JobID = readText(value)
	case "pipeline_id":
		c.PipelineID = readText(value)
	case "pipeline_source":
		c.PipelineSource = readText(value)
	case "runner_id":
		c.RunnerID = readText(value)
	case "user_id":
		c.UserID = readText(value)
	case "user_login":
		c.UserLogin = readText(value)
	case "project_id":
		c.ProjectID = readText(value)
	case "project_path":
		c.ProjectPath = readText(value)
	case "job_project_id":
		c.JobProjectID = readText(value)
	case "ref":
		c.Ref = readText(value)
	case "ref_type":
		c.RefType = readText(value)
	case "ref_protected":
		c.RefProtected = readFlag(value)
	case "environment":
		c.Environment = readText(value)
	}
}

func (h *header) take(name, value string) {
	switch name {
	case "alg":
		h.Alg = readText(value)
	case "kid":
		h.Kid = readText(value)
	case "typ":
		h.Typ = readText(value)
	case "crit":
		h.Crit = true
	}
}

// peek takes a token apart without believing any of it. What is not a JWT at all is a *notMineError, or a *DeniedError if it
// is another of GitLab's tokens (a routable personal access token also has two dots).
func peek(token string, maxBytes int) (*peeked, error) {
	switch {
	case token == "":
		return nil, &notMineError{CodeEmptyToken}
	case len(token) > maxBytes:
		return nil, denied(CodeTokenTooLarge)
	}
	head, rest, ok1 := strings.Cut(token, ".")
	body, sig, ok2 := strings.Cut(rest, ".")
	if !ok1 || !ok2 || head == "" || body == "" || strings.ContainsAny(token, "\r\n") {
		return nil, notJWT(token)
	}
	// One allocation for all three segments.
	decoded := make([]byte, 0, base64.RawURLEncoding.DecodedLen(len(token)))
	rawHeader, ok := decodeSegment(&decoded, head)
	payload, okPayload := decodeSegment(&decoded, body)
	signature, okSignature := decodeSegment(&decoded, sig)
	if !ok || !okPayload || (!okSignature && !alphabet(sig, base64URL)) {
		return nil, notJWT(token)
	}
	said, ok := parseObject(payload)
	if !ok {
		return nil, notJWT(token)
	}
	p := &peeked{signed: token[:len(head)+1+len(body)], payload: payload, signature: signature, cutOff: !okSignature}
	said.members(p.claims.take)
	// Whether a broken header matters depends on the issuer, which the caller looks at first.
	var h object
	if h, p.headerOK = parseObject(rawHeader); p.headerOK {
		h.members(p.header.take)
	} else if other := gitlabToken(token); other != nil {
		return nil, other
	}
	return p, nil
}

// strictBase64 is unpadded base64url in its one spelling (RFC 7515 section 2). encoding/base64 would skip line breaks,
// so peek looks for them before.
var strictBase64 = base64.RawURLEncoding.Strict()

// decodeSegment decodes s behind what buffer holds already.
func decodeSegment(buffer *[]byte, s string) ([]byte, bool) {
	from := len(*buffer)
	out, err := strictBase64.AppendDecode(*buffer, []byte(s))
	if err != nil {
		return nil, false
	}
	*buffer = out
	return out[from:len(out):len(out)], true
}

// text is a claim that should be a string. Anything else is remembered as present and not a string, so that
// deciding what it means is left to the verifier and no odd claim can hide another.
type text struct {
	s       string
	present bool
	valid   bool
}

func readText(value string) text {
	if value[0] != '"' {
		return text{present: true}
	}
	return text{s: decodeString(value), present: true, valid: true}
}

// readFlag reads a claim that is "true" or "false". GitLab writes it as text; as a boolean it means the same.
func readFlag(value string) text {
	if value == "true" || value == "false" {
		return text{s: value, present: true, valid: true}
	}
	return readText(value)
}

// audience is a string or a list of strings (RFC 7519 section 4.1.3).
type audience struct {
	list  []string
	valid bool
}

func readAudience(value string) audience {
	if value[0] == '"' {
		return audience{list: []string{decodeString(value)}, valid: true}
	}
	if value[0] != '[' {
		return audience{}
	}
	a := audience{valid: true}
	elements(value, func(value string) {
		one := readText(value)
		a.list, a.valid = append(a.list, one.s), a.valid && one.valid
	})
	if !a.valid {
		return audience{}
	}
	return a
}

// date is a NumericDate (RFC 7519 section 2), fractions cut off.
type date struct {
	t       time.Time
	present bool
	valid   bool
}

// maxDate is the year 9999: beyond it time arithmetic is of no use.
const maxDate = 253402300799

func readDate(value string) date {
	d := date{present: true}
	if value[0] != '-' && (value[0] < '0' || value[0] > '9') {
		return d
	}
	f, err := strconv.ParseFloat(value, 64)
	if err != nil || f < 0 || f > maxDate {
		return d
	}
	d.t, d.valid = time.Unix(int64(math.Floor(f)), 0), true
	return d
}
