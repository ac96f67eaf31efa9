package web

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

// Lifetimes of a session, and of what joins the two halves of a sign-in.
const (
	idleTime   = 2 * time.Hour
	longest    = 12 * time.Hour
	seenStep   = 5 * time.Minute // a session is written anew at most this often
	signInTime = 10 * time.Minute
)

// The cookies. Browsers take a __Host- one from its own host alone, over TLS, for all of its paths
// (draft-ietf-httpbis-rfc6265bis, 4.1.3.2).
const (
	sessionCookie  = "__Host-session"
	signInCookie   = "__Host-signin"
	languageCookie = "__Host-language"
)

// csrfField is the field of a form with the token of the session.
const csrfField = "csrf"

// session is what the browser keeps, sealed, about who is signed in.
type session struct {
	User     int64     `json:"u"`
	Username string    `json:"n"`
	Name     string    `json:"d,omitempty"`
	Admin    bool      `json:"a,omitempty"` // they were one at the sign-in
	CSRF     string    `json:"c"`
	Began    time.Time `json:"b"`
	Seen     time.Time `json:"s"`
}

// Label is what somebody is called.
func (s *session) Label() string {
	if s.Name != "" {
		return s.Name
	}
	return s.Username
}

// ParseKeys reads the keys of sessions: 32 bytes in base64 on a line, one or two of them. What is new is sealed with the first.
func ParseKeys(data []byte) ([][]byte, error) {
	var keys [][]byte
	for line := range strings.FieldsSeq(string(data)) {
		key, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(key) != 32 {
			return nil, errors.New("each line must be 32 random bytes in base64: make one by: openssl rand -base64 32")
		}
		keys = append(keys, key)
	}
	if len(keys) < 1 || len(keys) > 2 {
		return nil, fmt.Errorf("it must hold one key, or two while they change, not %d", len(keys))
	}
	return keys, nil
}

// sealers are the keys of the moment.
type sealers []cipher.AEAD

// own makes the key of this page out of one that others may have too: what another installation seals opens nowhere else, nor what
// was sealed for another GitLab or application.
func (s *Site) own(key []byte) []byte {
	sum := hmac.New(sha256.New, key)
	sum.Write([]byte(s.o.URL + "\x00" + s.o.GitLabURL + "\x00" + s.o.ClientID))
	return sum.Sum(nil)
}

// keys reads the keys. It says in the log why it can't.
func (s *Site) keys(ctx context.Context) (sealers, error) {
	keys, err := s.o.Keys()
	var out sealers
	for _, k := range keys {
		block, blockErr := aes.NewCipher(s.own(k))
		if blockErr != nil {
			err = errors.Join(err, blockErr)
			break
		}
		aead, aeadErr := cipher.NewGCMWithRandomNonce(block)
		err = errors.Join(err, aeadErr)
		out = append(out, aead)
	}
	if err == nil && len(out) == 0 {
		err = errors.New("there is no key")
	}
	if err != nil {
		s.sampled(ctx, &s.lines.failures, slog.LevelError, "sessions can't be read: check web.sessionKeyFile", slog.Any("error", err))
		return nil, err
	}
	return out, nil
}

// seal encrypts a value for one purpose: it opens for that one alone.
func (k sealers) seal(purpose string, v any) (string, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("sealing a cookie: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(k[0].Seal(nil, nil, text, []byte(purpose))), nil //nolint:gosec // the nonce is made inside
}

// open reads what seal made with one of the keys.
func (k sealers) open(purpose, sealed string, v any) bool {
	raw, err := base64.RawURLEncoding.DecodeString(sealed)
	if err != nil {
		return false
	}
	for _, aead := range k {
		if text, err := aead.Open(nil, nil, raw, []byte(purpose)); err == nil {
			return json.Unmarshal(text, v) == nil
		}
	}
	return false
}

// openSession returns a session that has not ended.
func (k sealers) openSession(sealed string, now time.Time) (*session, bool) {
	s := new(session)
	if !k.open(sessionCookie, sealed, s) || s.User <= 0 || s.CSRF == "" {
		return nil, false
	}
	const skew = time.Minute // between the clocks of replicas
	if s.Seen.Before(s.Began) || s.Seen.After(now.Add(skew)) || now.Sub(s.Seen) > idleTime || now.Sub(s.Began) > longest {
		return nil, false
	}
	return s, true
}

func setCookie(w http.ResponseWriter, name, value string, life time.Duration) {
	http.SetCookie(w, &http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: int(life / time.Second), Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}

func clearCookie(w http.ResponseWriter, name string) { setCookie(w, name, "", -time.Second) }

// randomText is a secret that nobody can guess.
func randomText() string { return rand.Text() }

func sameSecret(a, b string) bool {
	return a != "" && subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}
