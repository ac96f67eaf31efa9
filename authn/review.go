package authn

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authenticationv1beta1 "k8s.io/api/authentication/v1beta1"
	kjson "sigs.k8s.io/json"
)

const (
	maxReviewBytes = 1 << 20
	reviewKind     = "TokenReview"
	// requestIDHeader is set by the server in front of the handler, never taken from outside.
	requestIDHeader = "X-Request-Id"
)

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
// "code: text" (refused or not judged: not cached, and shown in kube-apiserver's log). What is no TokenReview is
// answered 4xx. No answer ever authenticates an empty or a "system:" name.
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
	return &handler{authn: a, log: logger, observe: observe, audiences: slices.Clone(apiAudiences)}
}

type handler struct {
	authn     Authenticator
	log       *slog.Logger
	observe   func(Review)
	audiences []string
	foreign   sampler
}

// sampler lets one line per second through and counts the others.
type sampler struct {
	next       atomic.Int64 // Unix nanoseconds
	suppressed atomic.Int64
}

const samplePause = time.Second

// allow reports whether a line may be written now, and how many were not since the last one.
func (s *sampler) allow(now time.Time) (suppressed int64, ok bool) {
	next := s.next.Load()
	if now.UnixNano() < next || !s.next.CompareAndSwap(next, now.Add(samplePause).UnixNano()) {
		s.suppressed.Add(1)
		return 0, false
	}
	return s.suppressed.Swap(0), true
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	review, status, code := readReview(w, r)
	if code != "" {
		h.record(r, Review{Outcome: OutcomeMalformed, Code: code}, start, Identity{}, nil)
		reason, _ := ReasonFor(code)
		if status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", http.MethodPost)
		}
		http.Error(w, reason.Cause, status)
		return
	}
	answer, id, err := h.judge(r.Context(), review.Spec)
	seen := Review{Outcome: outcomeOf(err), Code: CodeOK, Kind: kindOf(id, err)}
	if err != nil {
		seen.Code = CodeOf(err)
	}
	h.record(r, seen, start, id, err)
	writeReview(w, review.APIVersion, answer)
}

// judge asks the authenticator and turns its verdict into a status.
func (h *handler) judge(ctx context.Context, spec authenticationv1.TokenReviewSpec) (authenticationv1.TokenReviewStatus, Identity, error) {
	id, err := h.authenticate(ctx, spec)
	switch {
	case err == nil:
		extra := make(map[string]authenticationv1.ExtraValue, len(id.Extra))
		for k, v := range id.Extra {
			extra[k] = v
		}
		return authenticationv1.TokenReviewStatus{
			Authenticated: true,
			User:          authenticationv1.UserInfo{Username: id.Username, UID: id.UID, Groups: id.Groups, Extra: extra},
			Audiences:     h.served(spec.Audiences),
		}, id, nil
	case errors.Is(err, ErrNotMine):
		return authenticationv1.TokenReviewStatus{}, Identity{}, err
	default:
		return authenticationv1.TokenReviewStatus{Error: publicText(err)}, Identity{}, err
	}
}

func (h *handler) authenticate(ctx context.Context, spec authenticationv1.TokenReviewSpec) (Identity, error) {
	if spec.Token == "" {
		return Identity{}, &notMineError{CodeEmptyToken}
	}
	id, err := h.authn.Authenticate(ctx, spec.Token)
	if err != nil {
		return Identity{}, err
	}
	// The last line of defence: kube-apiserver accepts an empty name, and "system:" names are its own.
	reserved := func(s string) bool { return s == "" || strings.HasPrefix(s, "system:") }
	if reserved(id.Username) || slices.ContainsFunc(id.Groups, reserved) {
		return Identity{}, &UndecidedError{Code: CodeUnsafeIdentity}
	}
	if len(h.audiences) > 0 && len(spec.Audiences) > 0 && len(h.served(spec.Audiences)) == 0 {
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

// record writes the one log line of a review and tells the observer. It never sees the token. Of what is not ours one
// line per second is written, with the number of those left out before it.
func (h *handler) record(r *http.Request, seen Review, start time.Time, id Identity, err error) {
	seen.Duration = time.Since(start)
	h.observe(seen)

	level := slog.LevelInfo
	if seen.Outcome == OutcomeUndecided {
		level = slog.LevelError
	}
	if !h.log.Enabled(r.Context(), level) {
		return
	}
	attrs := make([]slog.Attr, 0, 8)
	if seen.Outcome == OutcomeNotMine || seen.Outcome == OutcomeMalformed {
		// Anybody can send these, as often as he likes: they must not fill the log.
		suppressed, ok := h.foreign.allow(start)
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

// readReview decodes a request; a code other than "" says why it can't, with the HTTP status to answer.
func readReview(w http.ResponseWriter, r *http.Request) (*authenticationv1.TokenReview, int, Code) {
	if r.Method != http.MethodPost {
		return nil, http.StatusMethodNotAllowed, CodeMethodNotAllowed
	}
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != "application/json" {
		return nil, http.StatusUnsupportedMediaType, CodeContentType
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReviewBytes))
	if err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			return nil, http.StatusRequestEntityTooLarge, CodeBodyTooLarge
		}
		return nil, http.StatusBadRequest, CodeBodyUnreadable
	}
	review, ok := decodeReview(body)
	if !ok {
		return nil, http.StatusBadRequest, CodeNotTokenReview
	}
	return review, http.StatusOK, ""
}

// decodeReview reads either version; they differ in their apiVersion alone.
func decodeReview(body []byte) (*authenticationv1.TokenReview, bool) {
	var review authenticationv1.TokenReview
	if err := kjson.UnmarshalCaseSensitivePreserveInts(body, &review); err != nil {
		return nil, false
	}
	known := review.APIVersion == authenticationv1.SchemeGroupVersion.String() ||
		review.APIVersion == authenticationv1beta1.SchemeGroupVersion.String()
	return &review, known && review.Kind == reviewKind
}

// writeReview answers in the version of the request, with the status alone: the token is not sent back.
func writeReview(w http.ResponseWriter, apiVersion string, status authenticationv1.TokenReviewStatus) {
	answer := authenticationv1.TokenReview{Status: status}
	answer.APIVersion, answer.Kind = apiVersion, reviewKind
	body, err := json.Marshal(answer)
	if err != nil {
		http.Error(w, "encoding the answer", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(body) // the caller is gone if this fails
}
