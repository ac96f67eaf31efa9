package gitlab

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
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/logsample"
)

const (
	maxHookBody    = 1 << 20
	maxSignedBody  = 256 << 10 // is read before anything is proven
	hookClockSkew  = 5 * time.Minute
	rememberedKeys = 4096
	maxKeyLen      = 256

	maxQueued   = 2048            // requests that are proven and under way, each for itself; of as many again only that there were some is stored
	maxReading  = 32 << 20        // bytes of the bodies of proven requests that are being read, as far as their senders tell the length
	readingWait = 3 * time.Second // how long a proven request waits for room to be read: GitLab waits 10 s for an answer
	refusedTime = time.Second     // for what a refused sender still sends
)

// What became of a hook that is over a limit.
const (
	OverReadAll = "read_everything" // it was taken, and asks for a reading of everything
	OverRefused = "refused"         // it was answered 503
	OverGivenUp = "given_up"        // it is signed only, and was not read to its end because others came
)

// What became of a hook. Those that proved themselves are taken, repeated, ignored or not stored.
const (
	HookTaken      = "taken"
	HookRepeated   = "repeated"   // it had been taken before
	HookIgnored    = "ignored"    // it says nothing about rights
	HookNoProof    = "no_proof"   // a wrong secret or signature, or none: 401
	HookMalformed  = "malformed"  // not a system hook, or its body was not read to its end: 400, 413
	HookUnreadable = "no_secret"  // our secret can't be read: 503
	HookNotStored  = "not_stored" // 503
	HookOverloaded = "overload"   // far too many at a time: 503
)

// HookOutcomes returns all of them.
func HookOutcomes() []string {
	return []string{HookTaken, HookRepeated, HookIgnored, HookNoProof, HookMalformed, HookUnreadable, HookNotStored, HookOverloaded}
}

// Hook takes GitLab's system hooks. A hook is a hint: it names what to read again, and nothing in it is believed
// about rights. A request must prove that it comes from GitLab by the secret (X-Gitlab-Token) or, when a signing
// key is configured, by a signature (Standard Webhooks, GitLab 19); one that carries a signature must have a right
// one. Answers: 204 taken, repeated or not about rights; 400 not a hook; 401 no proof; 405; 413; 503 our secret
// can't be read, or what the hook says can't be stored, or there are far too many.
//
// GitLab sends a hook once, so one with the secret waits instead of being refused, and where so many wait that they can't be
// kept one by one, what is stored asks for a reading of everything. Who has shown no secret takes no place of theirs.
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
	Logger  *slog.Logger // all fields but the optional ones are required
	// Unproven, optional, wraps the reading of requests whose only proof is in their body: anybody can send them.
	Unproven func(http.Handler) http.Handler
	// OverLimit, optional, is called for each hook that is over a limit of ours with OverReadAll or OverRefused (metrics).
	OverLimit func(outcome string)
	// Outcome, optional, is called for each hook with what became of it (metrics, status).
	Outcome func(Received)

	lines, overLines logsample.Lines // of refusals, and of hooks over a limit

	once     sync.Once
	room     *semaphore.Weighted // bytes of proven bodies
	unproven http.Handler
	queued   atomic.Int64

	mu   sync.Mutex
	seen map[string]bool
	ring []string // the keys in seen, oldest at next
	next int
}

// Received is a hook with what became of it. Anybody can have sent it: see Proven.
type Received struct {
	Outcome string
	Event   string // "" if it was not read or names none
	From    string // the address of the sender, which may be a proxy's
	// Claims says that its headers are those of a system hook of GitLab, which anybody can write.
	Claims bool
}

// Proven reports whether the sender knew our secret or signed with our key.
func (r Received) Proven() bool {
	return slices.Contains([]string{HookTaken, HookRepeated, HookIgnored, HookNotStored}, r.Outcome)
}

var errNoProof = errors.New("no valid token or signature")

// ServeHTTP takes one hook and answers before anything is read from GitLab.
func (h *Hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "only POST", http.StatusMethodNotAllowed)
		return
	}
	h.once.Do(func() {
		h.room, h.unproven = semaphore.NewWeighted(maxReading), http.HandlerFunc(h.takeUnproven)
		if h.Unproven != nil {
			h.unproven = h.Unproven(h.unproven)
		}
	})
	switch proven, err := h.admit(r); {
	case err != nil:
		h.refuse(w, r, err)
	case proven:
		h.takeProven(w, r)
	default:
		h.unproven.ServeHTTP(w, r)
	}
}

// admit judges what can be judged before the body is read. The token proves a request; a signature alone does not yet, but
// must have the form and the time of one.
func (h *Hook) admit(r *http.Request) (proven bool, err error) {
	err = h.token(r)
	if !h.claimsSignature(r) {
		return err == nil, err
	}
	if _, ok := h.fresh(r); !ok {
		return false, errNoProof
	}
	return err == nil, nil
}

// takeProven takes a request whose sender knows our secret. It waits where others would be refused.
func (h *Hook) takeProven(w http.ResponseWriter, r *http.Request) {
	n, leave := h.enter()
	defer leave()
	if n > 2*maxQueued {
		h.overload(w, r)
		return
	}
	size := int64(maxHookBody) // the length is not known, or too large
	if r.ContentLength >= 0 {
		size = min(size, r.ContentLength)
	}
	ctx, cancel := context.WithTimeout(r.Context(), readingWait)
	defer cancel()
	if n > maxQueued || h.room.Acquire(ctx, size) != nil {
		// A signature is not checked: the secret proves enough for a hint that names nothing.
		if lost, ok := h.overLines.Allow(time.Now()); ok {
			h.Logger.WarnContext(r.Context(), "more hooks at a time than can be kept one by one: everything is read again", "suppressed", lost)
		}
		h.over(OverReadAll)
		h.store(w, r, said{name: "overflow"})
		return
	}
	what, ok := func() (said, bool) {
		defer h.room.Release(size)
		return h.read(w, r, maxHookBody)
	}()
	if ok {
		h.store(w, r, what)
	}
}

// takeUnproven takes a request that has only a signature.
func (h *Hook) takeUnproven(w http.ResponseWriter, r *http.Request) {
	what, ok := h.read(w, r, maxSignedBody)
	if !ok {
		return
	}
	n, leave := h.enter() // not before: now it is GitLab's
	defer leave()
	if n > 2*maxQueued {
		h.overload(w, r)
		return
	}
	h.store(w, r, what)
}

// enter counts a request that is proven until leave is called.
func (h *Hook) enter() (n int64, leave func()) {
	return h.queued.Add(1), func() { h.queued.Add(-1) }
}

func (h *Hook) over(outcome string) {
	if h.OverLimit != nil {
		h.OverLimit(outcome)
	}
}

func (h *Hook) ended(r *http.Request, outcome, event string) {
	if h.Outcome == nil {
		return
	}
	from, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		from = r.RemoteAddr
	}
	h.Outcome(Received{outcome, event, from, r.Header.Get("X-Gitlab-Event") == "System Hook"})
}

func (h *Hook) overload(w http.ResponseWriter, r *http.Request) {
	h.over(OverRefused)
	h.ended(r, HookOverloaded, "")
	if n, ok := h.overLines.Allow(time.Now()); ok {
		h.Logger.ErrorContext(r.Context(), "hook refused: far too many at a time", "suppressed", n)
	}
	end(w)
	http.Error(w, "too many hooks at a time", http.StatusServiceUnavailable)
}

// said is what a hook says.
type said struct {
	changed []authz.SourceID // none: everything
	ignored bool
	name    string
}

// read reads a request's body and its proof. If that fails it answers, and ok is false.
func (h *Hook) read(w http.ResponseWriter, r *http.Request, limit int64) (s said, ok bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		h.ended(r, HookMalformed, "")
		h.noteRefused(r, slog.LevelWarn, "hook refused: its body was not read to its end", "error", err)
		if tooBig := (*http.MaxBytesError)(nil); errors.As(err, &tooBig) {
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
			return said{}, false
		}
		http.Error(w, "unreadable body", http.StatusBadRequest)
		return said{}, false
	}
	if err := h.proof(r, body); err != nil {
		h.refuse(w, r, err)
		return said{}, false
	}
	s.changed, s.ignored, s.name, err = h.Parse(body)
	if err != nil {
		h.ended(r, HookMalformed, "")
		h.noteRefused(r, slog.LevelWarn, "hook refused: not a system hook", "error", err)
		http.Error(w, "not a system hook", http.StatusBadRequest)
		return said{}, false
	}
	return s, true
}

// store stores what a hook says and answers it.
func (h *Hook) store(w http.ResponseWriter, r *http.Request, s said) {
	switch {
	case h.repeated(r):
		h.ended(r, HookRepeated, s.name)
		h.Logger.DebugContext(r.Context(), "hook repeated", "event", s.name)
	case s.ignored:
		h.ended(r, HookIgnored, s.name)
		h.Logger.DebugContext(r.Context(), "hook ignored", "event", s.name)
		h.remember(r)
	default: // stored before it is answered: what GitLab was told is taken is not lost
		h.Logger.InfoContext(r.Context(), "hook taken", "event", s.name, "changed", labelsOf(s.changed))
		if err := h.Trigger(r.Context(), s.changed, "hook "+s.name); err != nil {
			h.ended(r, HookNotStored, s.name)
			h.Logger.ErrorContext(r.Context(), "hook not stored", "event", s.name, "error", err)
			http.Error(w, "unavailable", http.StatusServiceUnavailable)
			return
		}
		h.ended(r, HookTaken, s.name)
		h.remember(r) // not before: a repetition that comes meanwhile must not be told that it is taken
	}
	w.WriteHeader(http.StatusNoContent)
}

// claimsSignature reports whether a request is to be judged by a signature.
func (h *Hook) claimsSignature(r *http.Request) bool {
	return h.SigningKey != nil && r.Header.Get("Webhook-Signature") != ""
}

// end ends the connection after the answer to a request whose body is not read. net/http reads what is left of a short
// one, for as long as its sender likes, so that takes an end, too.
func end(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(refusedTime)) // an error means a writer without deadlines (a test's)
}

// refuse answers a request without proof.
func (h *Hook) refuse(w http.ResponseWriter, r *http.Request, err error) {
	end(w)
	if errors.Is(err, errNoProof) {
		h.ended(r, HookNoProof, "")
		h.noteRefused(r, slog.LevelWarn, "hook refused: no valid token or signature", "remote", r.RemoteAddr)
		http.Error(w, "unauthorized", http.StatusUnauthorized)
		return
	}
	h.ended(r, HookUnreadable, "")
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
