package rbacsync

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/logsample"
)

const (
	maxHookBody    = 1 << 20
	maxSignedBody  = 256 << 10 // is read before anything is proven
	hookClockSkew  = 5 * time.Minute
	rememberedKeys = 4096
	maxKeyLen      = 256
)

// Hook takes GitLab's system hooks. A hook is a hint: it names what to read again, and nothing in it is believed
// about rights. A request must prove that it comes from GitLab by the secret (X-Gitlab-Token) or, when a signing
// key is configured, by a signature (Standard Webhooks, GitLab 19); one that carries a signature must have a right
// one. Answers: 204 taken, repeated or not about rights; 400 not a hook; 401 no proof; 405; 413; 503 our secret
// can't be read, or what the hook says can't be stored.
type Hook struct {
	// Secret returns the hook's secret token. It is asked for each request, so that a changed file counts at once.
	Secret func() ([]byte, error)
	// SigningKey, optional, returns the signing token ("whsec_" and base64).
	SigningKey func() ([]byte, error)
	// Parse names what a hook's body is about; ignored is true for events that say nothing about rights.
	Parse func(body []byte) (changed []authz.SourceID, ignored bool, name string, err error)
	// Trigger is called with what is to be read again, and returns when that is stored where no crash loses it. When
	// it can't be, the answer is 503.
	Trigger func(ctx context.Context, changed []authz.SourceID, cause string) error
	Now     func() time.Time
	Logger  *slog.Logger // all fields but SigningKey are required

	lines logsample.Lines // of refusals

	mu   sync.Mutex
	seen map[string]bool
	ring []string // the keys in seen, oldest at next
	next int
}

var errNoProof = errors.New("no valid token or signature")

// ServeHTTP takes one hook and answers before anything is read from GitLab.
func (h *Hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "only POST", http.StatusMethodNotAllowed)
		return
	}
	limit, err := h.admit(r)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		h.noteRefused(r, slog.LevelWarn, "hook refused: its body was not read to its end", "error", err)
		if tooBig := (*http.MaxBytesError)(nil); errors.As(err, &tooBig) {
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
			return
		}
		http.Error(w, "unreadable body", http.StatusBadRequest)
		return
	}
	if err := h.proof(r, body); err != nil {
		h.refuse(w, r, err)
		return
	}
	changed, ignored, name, err := h.Parse(body)
	if err != nil {
		h.noteRefused(r, slog.LevelWarn, "hook refused: not a system hook", "error", err)
		http.Error(w, "not a system hook", http.StatusBadRequest)
		return
	}
	switch {
	case h.repeated(r):
		h.Logger.DebugContext(r.Context(), "hook repeated", "event", name)
	case ignored:
		h.Logger.DebugContext(r.Context(), "hook ignored", "event", name)
		h.remember(r)
	default: // stored before it is answered: what GitLab was told is taken is not lost
		h.Logger.InfoContext(r.Context(), "hook taken", "event", name, "changed", labelsOf(changed))
		if err := h.Trigger(r.Context(), changed, "hook "+name); err != nil {
			h.Logger.ErrorContext(r.Context(), "hook not stored", "event", name, "error", err)
			http.Error(w, "unavailable", http.StatusServiceUnavailable)
			return
		}
		h.remember(r) // not before: a repetition that comes meanwhile must not be told that it is taken
	}
	w.WriteHeader(http.StatusNoContent)
}

// admit judges what can be judged before the body is read, and returns how much may be read. A token is proven by it; a
// signature is not, but must have the form and the time of one.
func (h *Hook) admit(r *http.Request) (limit int64, err error) {
	if !h.claimsSignature(r) {
		return maxHookBody, h.token(r)
	}
	if _, ok := h.fresh(r); !ok {
		return 0, errNoProof
	}
	return maxSignedBody, nil
}

// claimsSignature reports whether a request is to be judged by a signature.
func (h *Hook) claimsSignature(r *http.Request) bool {
	return h.SigningKey != nil && r.Header.Get("Webhook-Signature") != ""
}

// refuse answers a request without proof. Its body is not read, so the connection ends: net/http would else wait for it.
func (h *Hook) refuse(w http.ResponseWriter, r *http.Request, err error) {
	w.Header().Set("Connection", "close")
	if errors.Is(err, errNoProof) {
		h.noteRefused(r, slog.LevelWarn, "hook refused: no valid token or signature", "remote", r.RemoteAddr)
		http.Error(w, "unauthorized", http.StatusUnauthorized)
		return
	}
	h.noteRefused(r, slog.LevelError, "hook refused: its secret can't be read", "error", err)
	http.Error(w, "unavailable", http.StatusServiceUnavailable)
}

// noteRefused writes one line per second, with the number of those left out before it: anybody can send as many requests
// as they like.
func (h *Hook) noteRefused(r *http.Request, level slog.Level, msg string, args ...any) {
	if n, ok := h.lines.Allow(time.Now()); ok {
		h.Logger.Log(r.Context(), level, msg, append(args, "suppressed", n)...) //nolint:sloglint // the messages are the callers' constants
	}
}

// proof returns nil when the request comes from somebody who knows our secret or has signed with our key.
func (h *Hook) proof(r *http.Request, body []byte) error {
	if !h.claimsSignature(r) {
		return h.token(r)
	}
	key, err := h.SigningKey()
	if err != nil {
		return err
	}
	if h.signed(key, r, r.Header.Get("Webhook-Signature"), body) {
		return nil
	}
	return errNoProof
}

// token returns nil when the request carries our secret.
func (h *Hook) token(r *http.Request) error {
	if h.Secret == nil {
		return errNoProof
	}
	secret, err := h.Secret()
	if err != nil {
		return err
	}
	secret = bytes.TrimSpace(secret)
	if len(secret) == 0 {
		return errors.New("the secret of the hook is empty: write one into its file and into GitLab's system hook")
	}
	// Both are hashed first: ConstantTimeCompare would tell the length.
	want, got := sha256.Sum256(secret), sha256.Sum256([]byte(r.Header.Get("X-Gitlab-Token")))
	if subtle.ConstantTimeCompare(want[:], got[:]) != 1 {
		return errNoProof
	}
	return nil
}

// signed checks a signature of https://www.standardwebhooks.com: "v1,<base64>", several separated by spaces, over
// id, timestamp and body.
func (h *Hook) signed(key []byte, r *http.Request, header string, body []byte) bool {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(string(bytes.TrimSpace(key)), "whsec_"))
	if err != nil || len(raw) == 0 {
		return false
	}
	id := r.Header.Get("Webhook-Id")
	at, ok := h.fresh(r)
	if !ok {
		return false
	}
	mac := hmac.New(sha256.New, raw)
	mac.Write([]byte(id + "." + at + "."))
	mac.Write(body)
	want := mac.Sum(nil)
	for s := range strings.FieldsSeq(header) {
		version, sum, _ := strings.Cut(s, ",")
		got, err := base64.StdEncoding.DecodeString(sum)
		if version == "v1" && err == nil && hmac.Equal(want, got) {
			return true
		}
	}
	return false
}

// fresh returns the time of a signature as it was signed; false if it is not now.
func (h *Hook) fresh(r *http.Request) (at string, ok bool) {
	at = r.Header.Get("Webhook-Timestamp")
	sec, err := strconv.ParseInt(at, 10, 64)
	return at, err == nil && h.Now().Sub(time.Unix(sec, 0)).Abs() <= hookClockSkew
}

// repeated reports whether the request was taken before. GitLab keeps Idempotency-Key (and webhook-id, which is the
// same) when it sends a hook again; a request without one always counts as new.
func (h *Hook) repeated(r *http.Request) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen[keyOf(r)]
}

// remember notes that a request was taken.
func (h *Hook) remember(r *http.Request) {
	key := keyOf(r)
	h.mu.Lock()
	defer h.mu.Unlock()
	if key == "" || h.seen[key] {
		return
	}
	if h.seen == nil {
		h.seen = map[string]bool{}
	}
	if len(h.ring) < rememberedKeys {
		h.ring = append(h.ring, key)
	} else {
		delete(h.seen, h.ring[h.next])
		h.ring[h.next] = key
		h.next = (h.next + 1) % rememberedKeys
	}
	h.seen[key] = true
}

func keyOf(r *http.Request) string {
	key := r.Header.Get("Idempotency-Key")
	if key == "" {
		key = r.Header.Get("Webhook-Id")
	}
	if len(key) > maxKeyLen {
		return ""
	}
	return key
}

func labelsOf(ids []authz.SourceID) []string {
	out := make([]string, 0, len(ids))
	for _, id := range ids {
		out = append(out, id.String())
	}
	return out
}
