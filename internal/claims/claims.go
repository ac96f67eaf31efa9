package claims

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Unverified takes a token apart without believing any of it; nil for what is not a JWT.
func Unverified(token string) (header, claims map[string]any) {
	segments := strings.Split(token, ".")
	if len(segments) != 3 {
		return nil, nil
	}
	for i, into := range []*map[string]any{&header, &claims} {
		raw, err := base64.RawURLEncoding.DecodeString(segments[i])
		if err != nil {
			return nil, nil
		}
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber() // else a large id changes
		if d.Decode(into) != nil {
			return nil, nil
		}
	}
	return header, claims
}

// Print writes what a token says, and whether GitLab is proven to have said it.
func Print(b *bytes.Buffer, token string, proven bool) {
	header, claims := Unverified(token)
	if claims == nil {
		fmt.Fprintf(b, "claims:  none, this is no JWT (%d bytes)\n", len(token))
		return
	}
	how := "NOT verified: whoever made this token may have invented them"
	if proven {
		how = "signed by GitLab"
	}
	fmt.Fprintf(b, "header:  %s\nclaims:  (%s)\n%s\n", Pretty(header, ""), how, Pretty(claims, "  "))
	for _, name := range []string{"iat", "nbf", "exp"} {
		n, _ := claims[name].(json.Number)
		if f, err := n.Float64(); err == nil && f > 0 && f < 1e11 {
			t := time.Unix(int64(f), 0).UTC()
			fmt.Fprintf(b, "%s:     %s (%s)\n", name, t.Format(time.RFC3339), fromNow(time.Until(t)))
		}
	}
}

// fromNow says in words how far a time is from now.
func fromNow(d time.Duration) string {
	if d = d.Round(time.Second); d < 0 {
		return (-d).String() + " ago"
	}
	return "in " + d.String()
}

// Pretty returns a value as JSON that can be shown, with an indent on lines of their own.
func Pretty(v any, indent string) string {
	out := new(bytes.Buffer)
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	if indent != "" {
		e.SetIndent("", indent)
	}
	if err := e.Encode(v); err != nil {
		return "(can't be shown)"
	}
	return Printable(strings.TrimSuffix(out.String(), "\n"))
}

// Printable escapes what would not be a visible character: what others wrote must not steer the terminal.
func Printable(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r != '\n' && !unicode.IsPrint(r) {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}
