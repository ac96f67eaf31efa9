package authn

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

// Defaults of a Config. Those of the program's configuration are these.
const (
	DefaultMaxCIAge      = time.Hour
	DefaultLeeway        = 10 * time.Second
	DefaultMaxTokenBytes = 64 << 10
	DefaultKeyRefresh    = 5 * time.Minute
	DefaultMaxKeyAge     = 24 * time.Hour
)

// Config says whose tokens are accepted and on which conditions. The zero value of a duration means its default.
type Config struct {
	// Issuer is GitLab's external URL exactly as GitLab writes it into iss: no trailing slash.
	Issuer string
	// CIIssuer is the issuer of CI ID tokens (GitLab: ci_id_tokens.issuer_url). Empty: Issuer.
	CIIssuer string
	// ClientIDs are the audiences of people's tokens: the ids of the OAuth applications that kubelogin uses. The
	// list is the fence against every other OAuth application of the same GitLab, which anybody may register.
	ClientIDs []string
	// CIAudience is the audience of CI ID tokens; it MUST NOT be one of ClientIDs. Empty: CI tokens are not
	// accepted.
	CIAudience string
	// Environments are the environment names of which a CI job must have one, letter by letter.
	Environments []string
	// UnprotectedProjects are the ids of projects whose jobs may also run on unprotected branches and tags. In
	// such a project everybody who can push a branch can deploy.
	UnprotectedProjects map[int64]bool
	// MaxCIAge is how long after its issue a CI token is accepted, however long the job may run. Default DefaultMaxCIAge.
	MaxCIAge time.Duration
	// Leeway covers differences between clocks. Default DefaultLeeway.
	Leeway time.Duration
	// MaxTokenBytes is the size limit of a token. Default DefaultMaxTokenBytes.
	MaxTokenBytes int

	// JWKSURL replaces discovery, for a GitLab that is read through another host name than its external URL.
	JWKSURL string
	// KeyFile replaces asking GitLab: a file with its key set (JWKS), read again every KeyRefresh.
	KeyFile string
	// HTTPClient carries the trusted CA and a proxy, if any; its CheckRedirect is replaced.
	HTTPClient *http.Client
	// KeyRefresh is how often keys are read anew, and so how long a withdrawn key lives on. Default DefaultKeyRefresh.
	KeyRefresh time.Duration
	// MinFetchInterval is the least time between two fetches of the keys, whatever arrives. Default 10 s.
	MinFetchInterval time.Duration
	// MaxKeyAge is how long known keys are used while GitLab can't be reached. Default DefaultMaxKeyAge.
	MaxKeyAge time.Duration

	// Now is the clock. Default time.Now.
	Now func() time.Time
	// Logger gets changes of the keys; decisions are logged by Handler. Default: nothing is logged.
	Logger *slog.Logger
	// UserState returns GitLab's state of the account ("active", "blocked", …, and those below) if it is known; it must
	// answer from memory. A person known not to be active is refused; an unknown one is judged by the token alone. May
	// be nil.
	UserState func(id int64) (state string, known bool)
	// Admitted, if set, limits people to those it admits; it must answer from memory. As long as it knows nothing
	// (known is false) no person is let in, but the answer is "not decided" instead of "refused". CI jobs are not asked
	// about: their tokens name a project.
	Admitted func(id int64) (admitted, known bool)
	// CIProject says whether the jobs of a project are let in; it must answer from memory. With CIAudience it must be
	// set: whoever has a project of any kind, be it their own, gets tokens for that audience.
	CIProject func(id int64) ProjectStanding
}

// States of an account beside GitLab's own.
const (
	// StateDeleted: GitLab does not have the account.
	StateDeleted = "deleted"
	// StateNotHuman: the account is active, and nobody's: an access token's bot, a service account, a placeholder, or one
	// of GitLab's own, such as the ghost. It can't log in; it may start jobs.
	StateNotHuman = "not_human"
)

// GitLab is the Authenticator of one GitLab.
type GitLab struct {
	cfg       Config
	verifiers map[string]verifier // by audience
	issuers   map[string]bool
	keys      *keys
}

// verifier is the rules for the tokens of one audience.
type verifier struct {
	kind     Kind
	issuer   string
	audience string
}

// New checks the configuration, reporting all its faults at once. It does no network I/O: GitLab may be down.
func New(cfg Config) (*GitLab, error) {
	if cfg.CIIssuer == "" {
		cfg.CIIssuer = cfg.Issuer
	}
	cfg.MaxCIAge = orDefault(cfg.MaxCIAge, DefaultMaxCIAge)
	cfg.Leeway = orDefault(cfg.Leeway, DefaultLeeway)
	cfg.MaxTokenBytes = orDefault(cfg.MaxTokenBytes, DefaultMaxTokenBytes)
	cfg.KeyRefresh = orDefault(cfg.KeyRefresh, DefaultKeyRefresh)
	cfg.MinFetchInterval = orDefault(cfg.MinFetchInterval, 10*time.Second)
	cfg.MaxKeyAge = orDefault(cfg.MaxKeyAge, DefaultMaxKeyAge)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	g := &GitLab{
		cfg:       cfg,
		verifiers: map[string]verifier{},
		issuers:   map[string]bool{cfg.Issuer: true},
		keys: &keys{
			client: HTTPClient(cfg.HTTPClient), issuer: cfg.Issuer, jwksURL: cfg.JWKSURL, file: cfg.KeyFile,
			refresh: cfg.KeyRefresh, minInterval: cfg.MinFetchInterval, maxAge: cfg.MaxKeyAge,
			now: cfg.Now, log: cfg.Logger,
		},
	}
	for _, id := range cfg.ClientIDs {
		g.verifiers[id] = verifier{kind: KindUser, issuer: cfg.Issuer, audience: id}
	}
	if cfg.CIAudience != "" {
		g.verifiers[cfg.CIAudience] = verifier{kind: KindCI, issuer: cfg.CIIssuer, audience: cfg.CIAudience}
		g.issuers[cfg.CIIssuer] = true
	}
	return g, nil
}

func orDefault[T comparable](v, standard T) T {
	var zero T
	if v == zero {
		return standard
	}
	return v
}

func (c *Config) validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	for _, issuer := range []struct{ name, value string }{{"issuer", c.Issuer}, {"CI issuer", c.CIIssuer}} {
		switch u, err := url.Parse(issuer.value); {
		case issuer.value == "":
			fault("%s: missing; give GitLab's external URL", issuer.name)
		case err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
			fault("%s %q: not a plain URL; give GitLab's external URL", issuer.name, issuer.value)
		case strings.HasSuffix(issuer.value, "/"):
			fault("%s %q: ends in a slash; GitLab's tokens have none, remove it", issuer.name, issuer.value)
		}
		if c.CIIssuer == c.Issuer {
			break
		}
	}
	if c.JWKSURL != "" && c.KeyFile != "" {
		fault("keys: a URL and a file; give one of them")
	}
	if keysAt, what := c.JWKSURL, "key URL"; c.KeyFile == "" && (keysAt != "" || c.Issuer != "") {
		if keysAt == "" {
			keysAt, what = c.Issuer, "issuer"
		}
		if u, err := url.Parse(keysAt); err != nil {
			fault("%s %q: not a URL", what, keysAt)
		} else if err := fetchable(u); err != nil {
			fault("%s %q: keys can't be read from there: %w; keys are read by https", what, keysAt, err)
		}
	}
	if len(c.ClientIDs) == 0 && c.CIAudience == "" {
		fault("audiences: none; give the client id of kubelogin's OAuth application, a CI audience, or both")
	}
	if slices.Contains(c.ClientIDs, "") {
		fault("client ids: one is empty")
	}
	if c.CIAudience != "" && slices.Contains(c.ClientIDs, c.CIAudience) {
		fault("CI audience %q: is also a client id; people and jobs need audiences of their own", c.CIAudience)
	}
	if c.CIAudience != "" && (len(c.Environments) == 0 || slices.Contains(c.Environments, "")) {
		fault("environments: none, or an empty name; name the environment that CI jobs must have")
	}
	if c.CIAudience != "" && c.CIProject == nil {
		fault("CI projects: not given; everybody who has a project in GitLab gets tokens for the CI audience, so say whose jobs are let in")
	}
	if c.MaxCIAge < 0 || c.Leeway < 0 || c.KeyRefresh < 0 || c.MinFetchInterval < 0 || c.MaxKeyAge < 0 || c.MaxTokenBytes < 0 {
		fault("durations and sizes: must not be negative")
	}
	if c.Leeway > 5*time.Minute {
		fault("leeway %s: more than 5m; set the clocks instead", c.Leeway)
	}
	return errors.Join(faults...)
}

// Run keeps GitLab's keys fresh until ctx ends; without it they are fetched when a token needs them. The caller
// owns the goroutine and waits for it.
func (g *GitLab) Run(ctx context.Context) { g.keys.run(ctx) }

// Ready returns nil if tokens can be judged, else what is missing.
func (g *GitLab) Ready() error { return g.keys.ready() }

// KeyStatus describes the known keys, for metrics.
type KeyStatus struct {
	Keys              int
	Fetched           time.Time // zero: never
	Fetches, Failures uint64
}

// KeyStatus returns the present state of the keys.
func (g *GitLab) KeyStatus() KeyStatus {
	s := KeyStatus{Fetches: g.keys.fetches.Load(), Failures: g.keys.failures.Load()}
	if set := g.keys.set.Load(); set != nil {
		s.Keys, s.Fetched = len(set.byID), set.fetched
	}
	return s
}

// Keys returns the last key set as GitLab published it and when, so that it can be kept over a restart.
func (g *GitLab) Keys() (jwks []byte, fetched time.Time) {
	set := g.keys.set.Load()
	if set == nil {
		return nil, time.Time{}
	}
	return slices.Clone(set.raw), set.fetched
}

// RestoreKeys takes over a key set that Keys returned, unless a newer one is known. Whoever can write what is
// restored decides who everybody is.
func (g *GitLab) RestoreKeys(jwks []byte, fetched time.Time) error {
	set, err := parseKeys(slices.Clone(jwks))
	if err != nil {
		return fmt.Errorf("restoring GitLab's signing keys: %w", err)
	}
	if fetched.After(g.cfg.Now().Add(g.cfg.Leeway)) {
		return fmt.Errorf("restoring GitLab's signing keys: they were read at %s, which is in the future", fetched.UTC().Format(time.RFC3339))
	}
	set.fetched = fetched
	for {
		old := g.keys.set.Load()
		if old != nil && !old.fetched.Before(fetched) {
			return nil
		}
		if g.keys.set.CompareAndSwap(old, set) {
			return nil
		}
	}
}

// Authenticate judges a token: a cheap untrusted look first, then the signature, then what the token says.
func (g *GitLab) Authenticate(ctx context.Context, token string) (Identity, error) {
	p, err := peek(token, g.cfg.MaxTokenBytes)
	if err != nil {
		return Identity{}, err
	}
	// Compared as it stands: folding case or slashes would make two issuers one (OpenID Connect Core 3.1.3.7).
	if !p.claims.Issuer.valid || !g.issuers[p.claims.Issuer.s] {
		return Identity{}, &notMineError{CodeForeignIssuer}
	}
	if err := p.checkHeader(); err != nil {
		return Identity{}, err
	}
	v, err := g.choose(p.claims.Audience)
	if err != nil {
		return Identity{}, err
	}
	if p.claims.Issuer.s != v.issuer {
		return Identity{}, &DeniedError{Code: CodeWrongIssuer, Kind: v.kind}
	}
	id, proven, err := g.verify(ctx, v, token, p)
	if d, ok := errors.AsType[*DeniedError](err); ok {
		d.Kind, d.Proven = v.kind, proven
	}
	return id, err
}

// checkHeader refuses what GitLab never writes (RFC 8725 sections 3.1 and 3.11). jku, x5u and jwk are not even
// looked at: keys come from GitLab alone.
func (p *peeked) checkHeader() error {
	h := p.header
	switch {
	case !p.headerOK:
		return denied(CodeMalformedHeader)
	case h.Alg.s != oidc.RS256:
		return denied(CodeUnsupportedAlg)
	case h.Crit:
		return denied(CodeCriticalHeader)
	case h.Typ.present && !strings.EqualFold(h.Typ.s, "JWT"):
		return denied(CodeWrongTokenType)
	case h.Kid.s == "":
		return denied(CodeMissingKeyID)
	default:
		return nil
	}
}

// choose returns the verifier of the token's audience. A token for several audiences is accepted only if all of
// them are ours and of one kind: another audience's owner could replay it here.
func (g *GitLab) choose(aud audience) (verifier, error) {
	if !aud.valid || len(aud.list) == 0 {
		return verifier{}, denied(CodeMissingAudience)
	}
	var chosen verifier
	for i, a := range aud.list {
		v, ours := g.verifiers[a]
		switch {
		case !ours:
			return verifier{}, &DeniedError{Code: CodeWrongAudience, Detail: g.wrongAudience()}
		case i > 0 && v.kind != chosen.kind:
			return verifier{}, denied(CodeMixedAudience)
		case i == 0:
			chosen = v
		}
	}
	return chosen, nil
}

// wrongAudience names the audiences that are ours. That of the token may be anything, so it is not repeated.
func (g *GitLab) wrongAudience() string {
	text := "the token is meant for another application: people's tokens are for " + quoted(g.cfg.ClientIDs)
	if g.cfg.CIAudience != "" {
		text += fmt.Sprintf(", those of CI jobs for %q", g.cfg.CIAudience)
	}
	return text
}

func quoted(list []string) string {
	var out []string
	for _, s := range list {
		out = append(out, strconv.Quote(s))
	}
	return strings.Join(out, " or ")
}

// verify returns the identity, or whether at least the signature is proven.
func (g *GitLab) verify(ctx context.Context, v verifier, token string, p *peeked) (id Identity, proven bool, err error) {
	now := g.cfg.Now()
	if p.cutOff { // go-oidc could not take it apart; its key is judged first, as everybody's is
		if _, err := g.keys.find(ctx, p.header.Kid.s); err != nil {
			return Identity{}, false, err
		}
		return Identity{}, false, denied(CodeShortSignature)
	}
	// One verifier per token, because go-oidc turns a KeySet's error into text: this one keeps it.
	proof := &proof{keys: g.keys, token: p}
	verified, err := oidc.NewVerifier(v.issuer, proof, &oidc.Config{
		ClientID:             v.audience,
		SupportedSigningAlgs: []string{oidc.RS256},
		Now:                  func() time.Time { return now.Add(-g.cfg.Leeway) },
	}).Verify(ctx, token)
	switch {
	case proof.err != nil:
		return Identity{}, false, proof.err
	case !proof.done:
		// go-oidc refused the token's form before it asked for the signature.
		return Identity{}, false, denied(CodeMalformedHeader)
	}
	if err := g.checkTimes(now, &p.claims); err != nil {
		return Identity{}, true, err
	}
	if err != nil {
		return Identity{}, true, denied(CodeMalformedClaims)
	}
	if v.kind == KindCI {
		id, err = g.ciIdentity(now, &p.claims, verified.Expiry)
	} else {
		id, err = g.userIdentity(&p.claims, verified.Expiry)
	}
	return id, true, err
}

// issueSlack is how far in the future a token may be issued, beyond the leeway: GitLab's people tokens carry no
// nbf, and a slightly fast GitLab clock should not lock everybody out.
const issueSlack = time.Minute

// checkTimes is stricter than go-oidc (nbf with our leeway, iat and exp demanded) and gives each fault its code.
func (g *GitLab) checkTimes(now time.Time, c *claims) error {
	leeway := g.cfg.Leeway
	switch {
	case !c.Expiry.present:
		return denied(CodeMissingExpiry)
	case !c.IssuedAt.present:
		return denied(CodeMissingIssuedAt)
	case !c.Expiry.valid, !c.IssuedAt.valid, c.NotBefore.present && !c.NotBefore.valid:
		return denied(CodeMalformedClaims)
	case c.Expiry.t.Before(now.Add(-leeway)):
		return &DeniedError{Code: CodeTokenExpired, Detail: fmt.Sprintf("the token expired %s ago", now.Sub(c.Expiry.t).Round(time.Second))}
	case c.IssuedAt.t.After(now.Add(leeway + issueSlack)):
		return &DeniedError{Code: CodeIssuedInFuture, Detail: "the token was issued " + c.IssuedAt.t.Sub(now).Round(time.Second).String() + " in the future"}
	case c.NotBefore.present && c.NotBefore.t.After(now.Add(leeway)):
		return &DeniedError{Code: CodeNotYetValid, Detail: "the token is valid only in " + c.NotBefore.t.Sub(now).Round(time.Second).String()}
	default:
		return nil
	}
}

// proof is the oidc.KeySet for one token.
type proof struct {
	keys  *keys
	token *peeked
	done  bool
	err   error
}

// VerifySignature checks the RS256 signature (RFC 7518 section 3.3); go-oidc has parsed the token and held it to
// RS256 before it calls this.
func (p *proof) VerifySignature(ctx context.Context, _ string) ([]byte, error) {
	p.done = true
	public, err := p.keys.find(ctx, p.token.header.Kid.s)
	if err != nil {
		p.err = err
		return nil, err
	}
	if len(p.token.signature) < public.Size() {
		p.err = denied(CodeShortSignature)
		return nil, p.err
	}
	sum := sha256.Sum256([]byte(p.token.signed))
	if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, sum[:], p.token.signature); err != nil {
		p.err = denied(CodeBadSignature)
		return nil, p.err
	}
	return p.token.payload, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}
