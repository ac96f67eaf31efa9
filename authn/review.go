package authn

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/logsample"
)

const (
	maxReviewBytes = 1 << 20
	reviewKind     = "TokenReview"
	// requestIDHeader is set by the server in front of the handler, never taken from outside.
	requestIDHeader = "X-Request-Id"
)

// oldVersion is what kube-apiserver asks in unless --authentication-token-webhook-version says otherwise.
const oldVersion = "authentication.k8s.io/v1beta1"

// OldVersionHint ends the text of each refusal that was asked for in v1beta1, so that kube-apiserver's log tells it, and `doctor`.
const OldVersionHint = " [asked in v1beta1: set --authentication-token-webhook-version=v1]"

// Review is what an observer learns of one answered request; all strings are from fixed sets, fit for labels.
type Review struct {
	Outcome  Outcome
	Code     Code
	Kind     Kind
	Duration time.Duration
}

// Handler serves TokenReviews of authentication.k8s.io v1 and v1beta1, each answered in the version it came in.
//
// Every judged review is HTTP 200, because kube-apiserver takes any other status as an outage: an identity; not
// authenticated without an error (not our token: kube-apiserver caches that); or not authenticated with an error
// "code: text" (refused or not judged: not cached, and shown in kube-apiserver's log; to v1beta1 with a hint at the flag that
// chooses v1). What is no TokenReview is answered 4xx. No answer ever authenticates an empty or a "system:" name.
//
// apiAudiences should stay empty: then status.audiences is empty, which kube-apiserver takes as its own audience.
// If given, a review that asks for none of them is refused. The token's aud never enters the answer.
// logger and observe may be nil.
func Handler(a Authenticator, logger *slog.Logger, observe func(Review), apiAudiences ...string) http.Handler {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if observe == nil {
		observe = func(Review) {}
	}
	h := &handler{authn: a, log: logger, onReview: observe, audiences: slices.Clone(apiAudiences), lines: map[Code]*logsample.Lines{}}
	for _, r := range reasons {
		h.lines[r.Code] = new(logsample.Lines)
	}
	return h
}

type handler struct {
	authn     Authenticator
	log       *slog.Logger
	onReview  func(Review)
	audiences []string
	lines     map[Code]*logsample.Lines // for each reason but ok
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	q, status, code := readReview(w, r)
	if code != "" {
		h.record(r, Review{Outcome: OutcomeMalformed, Code: code}, start, Identity{}, nil)
		reason, _ := ReasonFor(code)
		if status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", http.MethodPost)
		}
		http.Error(w, reason.Cause, status)
		return
	}
	id, err := h.authenticate(r.Context(), q)
	seen := Review{Outcome: outcomeOf(err), Code: CodeOK, Kind: kindOf(id, err)}
	if err != nil {
		seen.Code = CodeOf(err)
	}
	h.record(r, seen, start, id, err)
	h.answer(w, q, id, err)
}

func (h *handler) authenticate(ctx context.Context, q question) (Identity, error) {
	if q.token == "" {
		return Identity{}, &notMineError{CodeEmptyToken}
	}
	id, err := h.authn.Authenticate(ctx, q.token)
	if err != nil {
		return Identity{}, err
	}
	// The last line of defence: kube-apiserver accepts an empty name, and "system:" names are its own.
	reserved := func(s string) bool { return s == "" || strings.HasPrefix(s, "system:") }
	if reserved(id.Username) || slices.ContainsFunc(id.Groups, reserved) {
		return Identity{}, &UndecidedError{Code: CodeUnsafeIdentity}
	}
	if len(h.audiences) > 0 && len(q.audiences) > 0 && len(h.served(q.audiences)) == 0 {
		return Identity{}, denied(CodeAudienceNotServed)
	}
	return id, nil
}

// served returns the audiences that were asked for and are served here; nobody asking for any means all.
func (h *handler) served(asked []string) []string {
	if len(asked) == 0 {
		return slices.Clone(h.audiences)
	}
	var both []string
	for _, a := range asked {
		if slices.Contains(h.audiences, a) && !slices.Contains(both, a) {
			both = append(both, a)
		}
	}
	return both
}

// publicText is what kube-apiserver may log: of an undecided review only the code and its general cause, since
// the rest names hosts.
func publicText(err error) string {
	if d, ok := errors.AsType[*DeniedError](err); ok {
		return d.Error()
	}
	return describe(CodeOf(err), "")
}

func outcomeOf(err error) Outcome {
	var d *DeniedError
	switch {
	case err == nil:
		return OutcomeOK
	case errors.Is(err, ErrNotMine):
		return OutcomeNotMine
	case errors.As(err, &d):
		return OutcomeDenied
	default:
		return OutcomeUndecided
	}
}

func kindOf(id Identity, err error) Kind {
	var d *DeniedError
	switch {
	case errors.As(err, &d):
		return d.Kind
	case err != nil:
		return KindUnknown
	default:
		return kindOfUsername(id.Username)
	}
}

// record writes the one log line of a review and tells the observer. It never sees the token. Of what is not
// authenticated one line per second and reason is written, with the number of those left out before it.
func (h *handler) record(r *http.Request, seen Review, start time.Time, id Identity, err error) {
	seen.Duration = time.Since(start)
	h.onReview(seen)

	level := slog.LevelInfo
	if seen.Outcome == OutcomeUndecided {
		level = slog.LevelError
	}
	if !h.log.Enabled(r.Context(), level) {
		return
	}
	attrs := make([]slog.Attr, 0, 8)
	if lines := h.lines[seen.Code]; seen.Outcome != OutcomeOK && lines != nil {
		// Anybody can send these, as often as they like: they must not fill the log.
		suppressed, ok := lines.Allow(start)
		if !ok {
			return
		}
		attrs = append(attrs, slog.Int64("suppressed", suppressed))
	}
	attrs = append(
		attrs,
		slog.String("requestId", r.Header.Get(requestIDHeader)),
		slog.String("outcome", string(seen.Outcome)),
		slog.String("reason", string(seen.Code)),
		slog.String("kind", string(seen.Kind)),
		slog.Duration("duration", seen.Duration),
	)
	var d *DeniedError
	switch {
	case seen.Outcome == OutcomeOK:
		attrs = append(attrs, slog.String("user", id.Username), slog.Time("expiry", id.Expiry))
	case errors.As(err, &d):
		attrs = append(attrs, slog.String("user", d.Username), slog.String("detail", d.Detail))
	case seen.Outcome == OutcomeUndecided:
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	h.log.LogAttrs(r.Context(), level, "token reviewed", attrs...)
}

// jsonContent is shared by all answers and never changed.
var jsonContent = []string{"application/json"}

// buffers are used again, since a review would else make more garbage than all that it computes.
var buffers = sync.Pool{New: func() any { return bytes.NewBuffer(make([]byte, 0, 4<<10)) }}

func takeBuffer() *bytes.Buffer { return buffers.Get().(*bytes.Buffer) }

// putBuffer forgets what was in the buffer: it may have been a token.
func putBuffer(b *bytes.Buffer) {
	if b.Cap() > 64<<10 {
		return
	}
	clear(b.Bytes())
	b.Reset()
	buffers.Put(b)
}

// question is what a TokenReview asks.
type question struct {
	apiVersion string
	token      string
	audiences  []string
}

// readReview decodes a request; a code other than "" says why it can't, with the HTTP status to answer.
func readReview(w http.ResponseWriter, r *http.Request) (question, int, Code) {
	if r.Method != http.MethodPost {
		return question{}, http.StatusMethodNotAllowed, CodeMethodNotAllowed
	}
	if contentType := r.Header.Get("Content-Type"); contentType != "application/json" {
		if mediaType, _, err := mime.ParseMediaType(contentType); err != nil || mediaType != "application/json" {
			return question{}, http.StatusUnsupportedMediaType, CodeContentType
		}
	}
	if r.ContentLength > maxReviewBytes {
		return question{}, http.StatusRequestEntityTooLarge, CodeBodyTooLarge
	}
	body := takeBuffer()
	defer putBuffer(body)
	if _, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, maxReviewBytes)); err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			return question{}, http.StatusRequestEntityTooLarge, CodeBodyTooLarge
		}
		return question{}, http.StatusBadRequest, CodeBodyUnreadable
	}
	q, ok := decodeReview(body.Bytes())
	if !ok {
		return question{}, http.StatusBadRequest, CodeNotTokenReview
	}
	return q, http.StatusOK, ""
}

// decodeReview reads either version; they differ in their apiVersion alone. Of the fields that are not looked at only
// the syntax is checked.
func decodeReview(body []byte) (q question, ok bool) {
	review, isObject := parseObject(body)
	if !isObject {
		return question{}, false
	}
	ok = true
	str := func(value string) string {
		t := readText(value)
		ok = ok && (t.valid || value == "null")
		return t.s
	}
	kind := ""
	review.members(func(name, value string) {
		switch name {
		case "kind":
			kind = str(value)
		case "apiVersion":
			q.apiVersion = str(value)
		case "spec":
			if value[0] != '{' {
				ok = ok && value == "null"
				return
			}
			object(value).members(func(name, value string) {
				switch name {
				case "token":
					q.token = str(value)
				case "audiences":
					q.audiences = nil
					if value[0] == '[' {
						elements(value, func(value string) { q.audiences = append(q.audiences, str(value)) })
					} else {
						ok = ok && value == "null"
					}
				}
			})
		}
	})
	known := q.apiVersion == "authentication.k8s.io/v1" || q.apiVersion == oldVersion
	return q, ok && known && kind == reviewKind
}

// reviewAnswer is a TokenReview with its status alone: the token is not sent back. See
// https://pkg.go.dev/k8s.io/api/authentication/v1#TokenReview.
type reviewAnswer struct {
	Kind       string       `json:"kind"`
	APIVersion string       `json:"apiVersion"` // that of the request
	Metadata   struct{}     `json:"metadata"`
	Spec       struct{}     `json:"spec"`
	Status     reviewStatus `json:"status"`
}

type reviewStatus struct {
	Authenticated bool       `json:"authenticated,omitempty"`
	User          reviewUser `json:"user"`
	Audiences     []string   `json:"audiences,omitempty"`
	Error         string     `json:"error,omitempty"`
}

type reviewUser struct {
	Username string              `json:"username,omitempty"`
	UID      string              `json:"uid,omitempty"`
	Groups   []string            `json:"groups,omitempty"`
	Extra    map[string][]string `json:"extra,omitempty"`
}

// answer writes the verdict in the version of the request.
func (h *handler) answer(w http.ResponseWriter, q question, id Identity, err error) {
	a := reviewAnswer{Kind: reviewKind, APIVersion: q.apiVersion}
	switch {
	case err == nil:
		a.Status = reviewStatus{Authenticated: true, User: reviewUser{id.Username, id.UID, id.Groups, id.Extra}, Audiences: h.served(q.audiences)}
	case !errors.Is(err, ErrNotMine):
		a.Status.Error = publicText(err)
		if q.apiVersion == oldVersion {
			a.Status.Error += OldVersionHint
		}
	}
	b, _ := json.Marshal(a) //nolint:errchkjson // strings alone
	w.Header()["Content-Type"] = jsonContent
	_, _ = w.Write(b) // the caller is gone if this fails
}
