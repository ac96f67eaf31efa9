package authn

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

const (
	maxKeyBytes  = 256 << 10
	fetchTimeout = 10 * time.Second
	minRSABits   = 2048
	maxRedirects = 3
)

// keys holds GitLab's published signing keys. There is never more than one fetch under way and never more than
// one per minInterval, because anybody can send a token with an invented key id.
type keys struct {
	client      *http.Client
	issuer      string
	jwksURL     string // configured; empty: by discovery
	file        string // configured; then nobody is asked
	refresh     time.Duration
	minInterval time.Duration
	maxAge      time.Duration
	now         func() time.Time
	log         *slog.Logger

	set     atomic.Pointer[keySet]
	waiting atomic.Int32 // reviews that wait for the fetch under way
	running atomic.Bool  // Run keeps the set fresh, so that no review has to

	mu         sync.Mutex
	attempted  time.Time
	lastErr    error
	discovered string
	inFlight   chan struct{} // closed at the end of the fetch under way; nil: none

	fetches, failures atomic.Uint64
}

// keySet is immutable once published.
type keySet struct {
	byID    map[string]key
	raw     []byte
	fetched time.Time
}

// key is one published key; a key that may not be used has its reason in problem, so that a token signed with it
// is refused for the right reason.
type key struct {
	public  *rsa.PublicKey
	problem Code
}

var (
	errNotDue  = errors.New("the keys were asked for a moment ago")
	errTooMany = errors.New("too many reviews wait for the keys")
)

// maxWaiting is how many reviews wait for one fetch of the keys. While GitLab hangs, forged tokens with unknown key
// ids would else hold every place that the listener has, and people whose key is known would not be judged.
const maxWaiting = 8

// find returns the key with that id, fetching the keys at most once and only if that is due.
func (k *keys) find(ctx context.Context, id string) (*rsa.PublicKey, error) {
	set := k.set.Load()
	found, known := set.get(id)
	stale := set != nil && k.now().Sub(set.fetched) >= k.refresh
	if !known || (stale && !k.running.Load()) {
		// A token must not cause a fetch that its sender can cancel for everybody else.
		err := k.update(context.WithoutCancel(ctx), ctx)
		set = k.set.Load()
		if found, known = set.get(id); !known {
			return nil, k.unknown(ctx, set, err)
		}
	}
	if k.now().Sub(set.fetched) > k.maxAge {
		return nil, &UndecidedError{Code: CodeKeysTooOld, Err: fmt.Errorf("the last keys were read at %s", set.fetched.UTC().Format(time.RFC3339))}
	}
	if found.problem != "" {
		return nil, denied(found.problem)
	}
	return found.public, nil
}

// unknown says what it means that no key has the id: a forgery only if the keys were asked for after the token had come, as
// err nil says. GitLab may have begun to sign with a new key since they were last read.
func (k *keys) unknown(ctx context.Context, set *keySet, err error) error {
	if ctx.Err() != nil {
		return &UndecidedError{Code: CodeReviewCancelled, Err: ctx.Err()}
	}
	if errors.Is(err, errNotDue) {
		k.mu.Lock()
		err = k.lastErr
		k.mu.Unlock()
		if err == nil {
			return &UndecidedError{Code: CodeKeyNotReadYet}
		}
	}
	var undecided *UndecidedError
	switch {
	case errors.As(err, &undecided):
		return err
	case err != nil || set == nil:
		return &UndecidedError{Code: CodeKeysUnavailable, Err: err}
	default:
		return denied(CodeUnknownKey)
	}
}

// update fetches the keys unless that was tried less than minInterval ago: then it returns errNotDue. A caller that finds a
// fetch under way waits for it as long as wait lives, and gets errNotDue if it went well, since it began before the call; the
// fetch itself lives as long as ctx, and fetchTimeout.
func (k *keys) update(ctx, wait context.Context) error {
	k.mu.Lock()
	if flight := k.inFlight; flight != nil {
		k.mu.Unlock()
		if k.waiting.Add(1) > maxWaiting && k.set.Load() != nil { // without any key nobody could be judged anyway
			k.waiting.Add(-1)
			return errTooMany
		}
		defer k.waiting.Add(-1)
		select {
		case <-flight:
			k.mu.Lock()
			defer k.mu.Unlock()
			if k.lastErr == nil {
				return errNotDue
			}
			return k.lastErr
		case <-wait.Done():
			return wait.Err()
		}
	}
	now := k.now()
	if since := now.Sub(k.attempted); !k.attempted.IsZero() && since >= 0 && since < k.minInterval {
		k.mu.Unlock()
		return errNotDue
	}
	done := make(chan struct{})
	k.inFlight, k.attempted = done, now
	from := k.discovered
	k.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	var (
		set *keySet
		err = errors.New("the fetch did not end") // stands if fetch panics: those who wait are let go all the same
	)
	defer func() { k.finish(ctx, now, set, from, err, done) }()
	set, from, err = k.fetch(ctx, from)
	return err
}

// finish publishes the result of a fetch and lets those go who wait for it.
func (k *keys) finish(ctx context.Context, began time.Time, set *keySet, from string, err error, done chan struct{}) {
	k.fetches.Add(1)
	k.mu.Lock()
	defer k.mu.Unlock()
	defer close(done)
	previous := k.lastErr
	k.lastErr, k.inFlight, k.discovered = err, nil, from
	if err != nil {
		k.failures.Add(1)
		k.discovered = "" // GitLab may have moved its keys: look again
		if previous == nil && !errors.Is(err, context.Canceled) {
			k.log.LogAttrs(ctx, slog.LevelWarn, "GitLab's signing keys could not be read; known keys stay in use",
				slog.String("error", err.Error()), slog.Duration("maxAge", k.maxAge))
		}
		return
	}
	set.fetched = began
	old := k.set.Swap(set)
	if previous != nil || old == nil || !sameKeys(old, set) {
		k.log.LogAttrs(ctx, slog.LevelInfo, "GitLab's signing keys were read", slog.Int("keys", len(set.byID)))
	}
}

// run keeps the keys fresh until ctx ends: a key that GitLab withdraws dies within refresh.
func (k *keys) run(ctx context.Context) {
	k.running.Store(true)
	defer k.running.Store(false)
	for ctx.Err() == nil {
		wait := k.refresh
		if err := k.update(ctx, ctx); err != nil {
			wait = min(k.minInterval, k.refresh)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

func (k *keys) ready() error {
	set := k.set.Load()
	if set != nil && k.now().Sub(set.fetched) <= k.maxAge {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.lastErr != nil:
		return fmt.Errorf("reading GitLab's signing keys: %w", k.lastErr)
	case set != nil:
		return errors.New("GitLab's signing keys are too old to be used")
	default:
		return errors.New("GitLab's signing keys have not been read yet")
	}
}

// fetch reads the keys once. It returns the URL that served them, to be used again.
func (k *keys) fetch(ctx context.Context, from string) (*keySet, string, error) {
	if k.file != "" {
		set, err := readKeyFile(k.file)
		return set, "", err
	}
	if k.jwksURL != "" {
		from = k.jwksURL
	}
	if from == "" {
		var err error
		if from, err = k.discover(ctx); err != nil {
			return nil, "", err
		}
	}
	raw, err := k.get(ctx, from)
	if err != nil {
		return nil, "", err
	}
	set, err := parseKeys(raw)
	if err != nil {
		return nil, "", fmt.Errorf("reading keys from %s: %w", from, err)
	}
	return set, from, nil
}

func readKeyFile(name string) (*keySet, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading the key file: %w", err)
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxKeyBytes))
	if err != nil {
		return nil, fmt.Errorf("reading the key file: %w", err)
	}
	set, err := parseKeys(raw)
	if err != nil {
		return nil, fmt.Errorf("reading the key file %s: %w", name, err)
	}
	return set, nil
}

// discover finds the key URL as OpenID Connect Discovery 1.0 section 4 demands, and refuses one on another host:
// whoever serves the keys decides who everybody is.
func (k *keys) discover(ctx context.Context) (string, error) {
	at := k.issuer + "/.well-known/openid-configuration"
	raw, err := k.get(ctx, at)
	if err != nil {
		return "", err
	}
	var doc struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return "", fmt.Errorf("reading %s: it is not a discovery document; check the GitLab URL: %w", at, err)
	}
	if doc.Issuer != k.issuer {
		return "", &UndecidedError{Code: CodeDiscoveryMismatch, Err: fmt.Errorf(
			"%s says its issuer is %q, configured is %q; configure GitLab's external_url", at, clip(doc.Issuer), k.issuer)}
	}
	if err := SameOrigin(k.issuer, doc.JWKSURI); err != nil {
		return "", &UndecidedError{Code: CodeDiscoveryMismatch, Err: fmt.Errorf(
			"%s names keys at %q: %w; if that is right, set authn.keys.url to it", at, clip(doc.JWKSURI), err)}
	}
	return doc.JWKSURI, nil
}

func (k *keys) get(ctx context.Context, at string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, fmt.Errorf("asking GitLab for its keys: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := k.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking GitLab for its keys: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("asking GitLab for its keys: %s answered %s", at, resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxKeyBytes+1))
	if err != nil {
		return nil, fmt.Errorf("asking GitLab for its keys: reading %s: %w", at, err)
	}
	if len(body) > maxKeyBytes {
		return nil, fmt.Errorf("asking GitLab for its keys: %s answered more than %d bytes", at, maxKeyBytes)
	}
	return body, nil
}

// parseKeys reads a JSON web key set (RFC 7517). Unusable keys keep their reason; a set without one usable key is
// an error, so that a broken answer does not displace keys that work.
func parseKeys(raw []byte) (*keySet, error) {
	var doc struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("it is not a JSON web key set: %w", err)
	}
	set := &keySet{byID: make(map[string]key, len(doc.Keys)), raw: raw}
	usable := 0
	for _, entry := range doc.Keys {
		var jwk jose.JSONWebKey
		if err := json.Unmarshal(entry, &jwk); err != nil || jwk.KeyID == "" {
			continue
		}
		if _, taken := set.byID[jwk.KeyID]; taken {
			continue // the first one counts, as in every other set of keys
		}
		k := key{}
		public, isRSA := jwk.Key.(*rsa.PublicKey)
		switch {
		case !isRSA, jwk.Use != "" && jwk.Use != "sig", jwk.Algorithm != "" && jwk.Algorithm != string(jose.RS256):
			k.problem = CodeUnsupportedKey
		case public.N.BitLen() < minRSABits, public.E < 3, public.E%2 == 0:
			k.problem = CodeWeakKey
		default:
			k.public = public
			usable++
		}
		set.byID[jwk.KeyID] = k
	}
	if usable == 0 {
		return nil, errors.New("it holds no RSA key of 2048 bits or more with a key id")
	}
	return set, nil
}

func (s *keySet) get(id string) (key, bool) {
	if s == nil {
		return key{}, false
	}
	k, ok := s.byID[id]
	return k, ok
}

func sameKeys(a, b *keySet) bool {
	if len(a.byID) != len(b.byID) {
		return false
	}
	for id := range a.byID {
		if _, ok := b.byID[id]; !ok {
			return false
		}
	}
	return true
}

// HTTPClient returns the caller's client with redirects held to the host that was asked.
func HTTPClient(from *http.Client) *http.Client {
	client := &http.Client{}
	if from != nil {
		*client = *from
	}
	if client.Timeout == 0 {
		client.Timeout = fetchTimeout
	}
	client.Jar = nil
	client.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return fmt.Errorf("more than %d redirects", maxRedirects)
		}
		return SameOrigin(via[0].URL.String(), req.URL.String())
	}
	return client
}

// SameOrigin refuses a URL on another host or port than the first, and one that may not be fetched at all.
func SameOrigin(first, second string) error {
	a, err := url.Parse(first)
	if err != nil {
		return errors.New("it is not a URL")
	}
	b, err := url.Parse(second)
	if err != nil {
		return errors.New("it is not a URL")
	}
	if !strings.EqualFold(a.Host, b.Host) {
		return errors.New("it is on another host")
	}
	return fetchable(b)
}

// fetchable demands https; plain http is for loopback (tests, sidecars) only.
func fetchable(u *url.URL) error {
	switch {
	case u.Host == "":
		return errors.New("it names no host")
	case u.User != nil:
		return errors.New("it holds credentials")
	case u.Scheme == "https", u.Scheme == "http" && loopback(u.Hostname()):
		return nil
	default:
		return errors.New("it is not https")
	}
}

// clip shortens what somebody else wrote before it is quoted.
func clip(s string) string {
	const most = 200
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
