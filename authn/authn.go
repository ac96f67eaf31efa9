package authn

import (
	"context"
	"errors"
	"time"
)

// Identity is what a valid token proves. Everything in it that decides about rights is made of GitLab ids.
type Identity struct {
	// Username is kubename.User(id) or kubename.CIJob(project id).
	Username string
	// UID is the GitLab id in Username, in decimal.
	UID string
	// Groups are kubename.GroupUsers or kubename.GroupCI; GitLab groups are not Kubernetes groups here.
	Groups []string
	// Extra holds readable facts for audit (kubename.Extra…). They can change or be re-used in GitLab, so no
	// rule may depend on them.
	Extra map[string][]string
	// Expiry is the token's own end of life, without leeway.
	Expiry time.Time
}

// Authenticator judges a bearer token. Authenticate returns the identity behind it, or an error that is
// ErrNotMine (by errors.Is) if the token is for someone else to judge, a *DeniedError if it was judged and
// refused, and anything else, usually an *UndecidedError, if it could not be judged.
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (Identity, error)
}

// ErrNotMine says that a token is not one of this GitLab.
var ErrNotMine = errors.New("not a token of this GitLab")

// Kind is one of the two kinds of GitLab ID tokens.
type Kind string

// The kinds of tokens. KindUnknown is a token that was answered before its kind was known.
const (
	KindUnknown Kind = ""
	KindUser    Kind = "user"
	KindCI      Kind = "ci"
)

// ProjectStanding is what is known of a project whose job shows a token.
type ProjectStanding int

// The standings. Only the jobs of ProjectServed are let in.
const (
	// ProjectUnread: it is not known yet, so nothing is decided.
	ProjectUnread ProjectStanding = iota
	// ProjectServed: its jobs get in by their ID tokens.
	ProjectServed
	// ProjectNotServed: no jobs of it have rights here, or GitLab does not have it.
	ProjectNotServed
	// ProjectOtherDelivery: its jobs get other credentials.
	ProjectOtherDelivery
)

// DeniedError says that a token claims to be of this GitLab and is refused. Its text is safe to show: it holds
// nothing that the token's author chose.
type DeniedError struct {
	Code Code
	// Detail replaces the code's general cause where there is more to say.
	Detail string
	// Kind is set once the audience has chosen a verifier.
	Kind Kind
	// Username is set for the log once the signature is proven; it does not mean that anybody is authenticated.
	Username string
	// Proven says that the signature was verified, so that what the token says was said by GitLab.
	Proven bool
}

func (e *DeniedError) Error() string { return describe(e.Code, e.Detail) }

// UndecidedError says that a token could not be judged; the same token may be accepted later.
type UndecidedError struct {
	Code Code
	// Err is the cause, for our log. It is not part of what the webhook answers.
	Err error
}

func (e *UndecidedError) Error() string {
	if e.Err == nil {
		return describe(e.Code, "")
	}
	return describe(e.Code, e.Err.Error())
}

func (e *UndecidedError) Unwrap() error { return e.Err }

// notMineError is ErrNotMine with the reason, which only logs and metrics show.
type notMineError struct{ code Code }

func (e *notMineError) Error() string        { return describe(e.code, "") }
func (e *notMineError) Is(target error) bool { return target == ErrNotMine }

// CodeOf returns the stable reason code of an Authenticator's error, CodeOK for nil.
func CodeOf(err error) Code {
	var (
		denied    *DeniedError
		undecided *UndecidedError
		notMine   *notMineError
	)
	switch {
	case err == nil:
		return CodeOK
	case errors.As(err, &denied):
		return denied.Code
	case errors.As(err, &notMine):
		return notMine.code
	case errors.Is(err, ErrNotMine):
		return CodeNotMine
	case errors.As(err, &undecided):
		return undecided.Code
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return CodeReviewCancelled
	default:
		return CodeInternal
	}
}

func denied(code Code) *DeniedError { return &DeniedError{Code: code} }
