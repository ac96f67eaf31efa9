package authn

import (
	"encoding/json"
	"strings"
)

// object is a JSON object whose members can be walked without decoding those that nobody asks for. A review decodes
// three of them; encoding/json's reflection would cost more than the signature check.
type object string

// parseObject returns the object in b, which must be exactly one valid JSON value (encoding/json's own scanner
// decides), and an object.
func parseObject(b []byte) (object, bool) {
	if !json.Valid(b) {
		return "", false
	}
	o := object(strings.Trim(string(b), jsonSpace))
	return o, o[0] == '{'
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

func skipSpace(s string) string {
	for s != "" && strings.IndexByte(jsonSpace, s[0]) >= 0 {
		s = s[1:]
	}
	return s
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

// appendString appends s as a JSON string.
func appendString(b []byte, s string) []byte {
	if plain(s) {
		return append(append(append(b, '"'), s...), '"')
	}
	quoted, _ := json.Marshal(s) // a string can't fail
	return append(b, quoted...)
}
