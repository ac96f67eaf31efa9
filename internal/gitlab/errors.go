package gitlab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"unicode"

	gl "gitlab.com/gitlab-org/api/client-go/v2"
)

// The kinds of errors, each with what to do about it. Errors of this package are told apart by errors.Is.
var (
	ErrUnauthorized = errors.New("GitLab refused the token: it is wrong, expired or revoked: create a token with the scope read_api" +
		" (for CI variables and hooks: api) of an administrator and put it into the token file")
	ErrToken     = errors.New("the GitLab token can't be read: check the token file and its permissions")
	ErrForbidden = errors.New("GitLab does not allow this with our token: it needs the scope read_api (for CI variables and hooks: api)" +
		" and must belong to an administrator who is active")
	ErrNotFound    = errors.New("GitLab says it does not exist, or hides it from the owner of the token")
	ErrUnreachable = errors.New("GitLab can't be reached: check the URL, DNS, proxy and firewall, and that GitLab is up")
	ErrCertificate = errors.New("the certificate of GitLab is not trusted: name the CA that signed it in the configuration (gitlab.caFile)," +
		" and use the host name that the certificate is for")
	ErrNotGitLab = errors.New("what answered is not GitLab's API: check gitlab.url, also its path and https")
	ErrBusy      = errors.New("GitLab limits our requests: the next round tries again; if it stays, raise the API rate limits for this user")
	// ErrSlow is no answer within the time that one thing has. It says nothing about anything else.
	ErrSlow = fmt.Errorf("GitLab did not answer about this within %s, what else is read does not wait for it: it is tried again;"+
		" if it stays, look into GitLab's log for this request", sourceTimeout)
	// ErrFailing is an answer of the kind 5xx. Such an error is ErrBusy as well: later it may succeed.
	ErrFailing = errors.New("GitLab, or a proxy before it, has an error of its own: the next round tries again; if it stays, look into its log")
)

// errAbsent marks the ErrNotFound that GitLab itself gives about an object. Only this one is evidence that something does
// not exist: a proxy, or a route that this version lacks, answers 404 as well.
var errAbsent = errors.New("GitLab says that the object does not exist")

// own404 is the message of GitLab's API about an object that it does not have or hides: "404 Project Not Found", "404 Not
// found" (source: lib/api/helpers.rb, not_found!; lib/api/api.rb for records). A route it does not know is an "error".
var own404 = regexp.MustCompile(`^404 (?:[A-Z][A-Za-z]* ){0,4}Not [Ff]ound$`)

// saysAbsent reports whether the body of a 404 is GitLab's word about an object.
func saysAbsent(body []byte) bool {
	var b struct {
		Message string `json:"message"`
	}
	return json.Unmarshal(body, &b) == nil && own404.MatchString(b.Message)
}

// plainToTLS is how TLS servers (Go's, nginx, Apache) answer plain HTTP.
var plainToTLS = regexp.MustCompile(`(?i)HTTP request (?:was sent )?to an? HTTPS (?:server|port)|HTTP request was sent to HTTPS port|speaking plain HTTP to an SSL-enabled`)

// callError is a failed request: what was tried, of what kind the failure is, and GitLab's own words. It does not
// wrap client-go's error, whose text is not under our control.
type callError struct {
	doing  string
	kind   error
	detail string
	status int
	cause  error // a context or GraphQL error, a further kind, or nil
}

func (e *callError) Error() string {
	if e.kind == nil {
		return e.doing + ": " + e.detail
	}
	if e.detail == "" {
		return e.doing + ": " + e.kind.Error()
	}
	return fmt.Sprintf("%s: %v (%s)", e.doing, e.kind, e.detail)
}

func (e *callError) Unwrap() []error {
	var out []error
	for _, err := range []error{e.kind, e.cause} {
		if err != nil {
			out = append(out, err)
		}
	}
	return out
}

type redirectError struct{ to string }

func (e *redirectError) Error() string {
	return fmt.Sprintf("it redirects to %q, where the token is not sent to: set gitlab.url to that if it is right", e.to)
}

// explain turns an error of client-go into one of ours. The token never survives it.
func (a *api) explain(doing string, resp *gl.Response, err error) error {
	if err == nil {
		return nil
	}
	if _, already := errors.AsType[*callError](err); already {
		return err
	}
	e := &callError{doing: doing}
	if resp != nil && resp.Response != nil {
		e.status = resp.StatusCode
	}
	var (
		gqlErr  graphQLErrors
		unknown x509.UnknownAuthorityError
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
		verify  *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		syntax  *json.SyntaxError
		wrong   *json.UnmarshalTypeError
		redir   *redirectError
		netErr  net.Error
		urlErr  *url.Error
		answer  *gl.ErrorResponse
		later   *laterError
	)
	if errors.As(err, &urlErr) {
		e.detail = shorten(urlErr.Err.Error()) // without the URL, whose query may hold names
	} else {
		e.detail = shorten(err.Error())
	}
	switch {
	case errors.As(err, &later):
		e.kind, e.detail = ErrBusy, later.Error()
	case errors.Is(err, context.Canceled):
		e.cause = context.Canceled
	case errors.Is(err, context.DeadlineExceeded) && e.status == 0:
		e.kind, e.cause = ErrUnreachable, context.DeadlineExceeded
	case errors.Is(err, ErrToken):
		e.kind, e.detail = ErrToken, strings.TrimPrefix(e.detail, ErrToken.Error()+": ")
	case errors.As(err, &gqlErr):
		e.cause = gqlErr
	case errors.As(err, &redir):
		e.kind, e.detail = ErrNotGitLab, redir.Error()
	case errors.As(err, &unknown), errors.As(err, &host), errors.As(err, &invalid), errors.As(err, &verify):
		e.kind = ErrCertificate
	case errors.As(err, &record):
		e.kind = ErrNotGitLab
	case errors.Is(err, gl.ErrNotFound):
		e.kind, e.detail, e.status = ErrNotFound, "", http.StatusNotFound
		if resp != nil && resp.Response != nil && resp.Header.Get(ownHeader) != "" {
			e.cause = errAbsent
		} else {
			e.detail = "the answer is not GitLab's about an object: it may be a proxy's"
		}
	case errors.As(err, &answer):
		e.detail = fmt.Sprintf("HTTP %d: %s", answer.StatusCode, shorten(answer.Message))
		e.status = answer.StatusCode
		switch {
		case answer.StatusCode == http.StatusUnauthorized:
			e.kind = ErrUnauthorized
		case answer.StatusCode == http.StatusForbidden:
			e.kind = ErrForbidden
		case answer.StatusCode == http.StatusTooManyRequests:
			e.kind = ErrBusy
		case answer.StatusCode >= 500 && answer.StatusCode != http.StatusNotImplemented:
			e.kind, e.cause = ErrFailing, ErrBusy
		case answer.StatusCode == http.StatusBadRequest && plainToTLS.MatchString(answer.Message):
			e.kind, e.detail = ErrNotGitLab, "the URL says http, but this port speaks TLS: write https"
		}
	case errors.As(err, &syntax), errors.As(err, &wrong):
		e.kind = ErrNotGitLab
	case errors.As(err, &netErr), e.status == 0 && urlErr != nil:
		e.kind = ErrUnreachable
	}
	e.detail = a.token.blot(e.detail)
	return e
}

// statusOf returns the HTTP status behind an error, or 0.
func statusOf(err error) int {
	if e, ok := errors.AsType[*callError](err); ok {
		return e.status
	}
	return 0
}

// global reports whether an error concerns GitLab as a whole, so that trying the next source is pointless.
func global(err error) bool {
	return errors.Is(err, ErrUnauthorized) || errors.Is(err, ErrToken) || errors.Is(err, ErrUnreachable) || errors.Is(err, ErrCertificate) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// limited reports whether GitLab wants fewer requests, by whichever API. A 5xx of one API says nothing about the other.
func limited(err error) bool { return errors.Is(err, ErrBusy) && !errors.Is(err, ErrFailing) }

// hopeless reports whether repeating a request can't help.
func hopeless(err error) bool {
	var (
		unknown x509.UnknownAuthorityError
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
		verify  *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		redir   *redirectError
		dns     *net.DNSError
	)
	return errors.As(err, &unknown) || errors.As(err, &host) || errors.As(err, &invalid) || errors.As(err, &verify) ||
		errors.As(err, &record) || errors.As(err, &redir) || (errors.As(err, &dns) && dns.IsNotFound)
}

// dialFailed reports whether a connection was never made, so that nothing can have been done by the request.
func dialFailed(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" && !hopeless(err)
}

// shorten makes a server's text fit for one line of a log: it may hold anything a GitLab user typed.
func shorten(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if r := []rune(s); len(r) > 300 {
		s = string(r[:300]) + "…"
	}
	return s
}

// unanswered reports whether GitLab did not answer about one thing: it is slow, limits us, or has an error of its own.
func unanswered(err error) bool { return errors.Is(err, ErrSlow) || errors.Is(err, ErrBusy) }
