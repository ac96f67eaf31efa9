package authn

import (
	"encoding/json"
	"strings"
)

// object is a JSON object whose members can be walked without decoding those that nobody asks for. A review decodes
// three of them; decoding them by reflection took more time than the signature check (docs/adr/0012).
type object string

// parseObject returns the object in b, which must be exactly one valid JSON value, and an object.
func parseObject(b []byte) (object, bool) {
	s := skipSpace(string(b))
	if s == "" || s[0] != '{' {
		return "", false
	}
	end := validValue(s, maxNesting)
	return object(s), end > 0 && skipSpace(s[end:]) == ""
}

// maxNesting is far beyond what a review or a token holds.
const maxNesting = 100

// validValue returns the length of the JSON value (RFC 8259) at the start of s, 0 if there is none or if it is nested
// deeper than depth. json.Valid does the same, but takes more than twice as long for the one long string that a token
// is; a fuzz target compares the two.
func validValue(s string, depth int) int {
	if s == "" || depth == 0 {
		return 0
	}
	switch c := s[0]; {
	case c == '"':
		return validString(s)
	case c == '{', c == '[':
		return validGroup(s, depth-1)
	case c == '-', '0' <= c && c <= '9':
		return validNumber(s)
	}
	for _, word := range [...]string{"true", "false", "null"} {
		if strings.HasPrefix(s, word) {
			return len(word)
		}
	}
	return 0
}

// validGroup is validValue for an object or a list.
func validGroup(s string, depth int) int {
	rest, closing := skipSpace(s[1:]), s[0]+2 // "{}" and "[]" in ASCII
	if rest != "" && rest[0] == closing {
		return len(s) - len(rest) + 1
	}
	for {
		if s[0] == '{' {
			name := 0
			if rest != "" && rest[0] == '"' {
				name = validString(rest)
			}
			rest = skipSpace(rest[name:])
			if name == 0 || rest == "" || rest[0] != ':' {
				return 0
			}
			rest = skipSpace(rest[1:])
		}
		value := validValue(rest, depth)
		rest = skipSpace(rest[value:])
		switch {
		case value == 0 || rest == "":
			return 0
		case rest[0] == closing:
			return len(s) - len(rest) + 1
		case rest[0] != ',':
			return 0
		}
		rest = skipSpace(rest[1:])
	}
}

func validString(s string) int {
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return i + 1
		case c < ' ':
			return 0
		case c == '\\':
			i++
			if i < len(s) && s[i] == 'u' {
				for range 4 {
					if i++; i >= len(s) || strings.IndexByte("0123456789abcdefABCDEF", s[i]) < 0 {
						return 0
					}
				}
			} else if i >= len(s) || strings.IndexByte(`"\/bfnrt`, s[i]) < 0 {
				return 0
			}
		}
	}
	return 0
}

func validNumber(s string) int {
	i := 0
	digits := func() bool {
		from := i
		for i < len(s) && '0' <= s[i] && s[i] <= '9' {
			i++
		}
		return i > from
	}
	if s[i] == '-' {
		i++
	}
	if i < len(s) && s[i] == '0' {
		i++
	} else if !digits() {
		return 0
	}
	if i < len(s) && s[i] == '.' {
		if i++; !digits() {
			return 0
		}
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		if i++; i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		if !digits() {
			return 0
		}
	}
	return i
}

const jsonSpace = " \t\r\n"

// members calls f for each member in order, with the name decoded and the value as it stands. A name that appears twice
// is told twice, and the last one counts, as in encoding/json. Names are compared by the caller, letter by letter.
func (o object) members(f func(name, value string)) {
	s := string(o[1:])
	for {
		s = skipSpace(s)
		if s[0] == ',' {
			s = skipSpace(s[1:])
		}
		if s[0] == '}' {
			return
		}
		end := skipString(s)
		name := s[1 : end-1]
		if !plain(name) {
			name = decodeString(s[:end])
		}
		s = skipSpace(skipSpace(s[end:])[1:]) // over the colon
		end = skipValue(s)
		f(name, s[:end])
		s = s[end:]
	}
}

// elements calls f for each element of a valid JSON list as it stands.
func elements(list string, f func(value string)) {
	for s := skipSpace(list[1:]); s[0] != ']'; {
		end := skipValue(s)
		f(s[:end])
		if s = skipSpace(s[end:]); s[0] == ',' {
			s = skipSpace(s[1:])
		}
	}
}

func skipSpace(s string) string {
	for i := range len(s) {
		if c := s[i]; c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return s[i:]
		}
	}
	return ""
}

// skipValue returns the length of the JSON value at the start of s, which is valid.
func skipValue(s string) int {
	switch s[0] {
	case '"':
		return skipString(s)
	case '{', '[':
		depth := 0
		for i := 0; i < len(s); i++ {
			switch s[i] {
			case '"':
				i += skipString(s[i:]) - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
		return len(s)
	default:
		if end := strings.IndexAny(s, jsonSpace+",]}"); end >= 0 {
			return end
		}
		return len(s)
	}
}

// skipString returns the length of the JSON string at the start of s, quotes included.
func skipString(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(s)
}

// plain reports whether a JSON string's inside can be taken as it is.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '\\' || c == '"' {
			return false
		}
	}
	return true
}

// decodeString decodes a valid JSON string, quotes included.
func decodeString(s string) (decoded string) {
	if len(s) >= 2 && plain(s[1:len(s)-1]) {
		return s[1 : len(s)-1]
	}
	_ = json.Unmarshal([]byte(s), &decoded) // valid: it can't fail
	return decoded
}
