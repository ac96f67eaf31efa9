package gitlabsim

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// hookTimeout is GitLab's webhook_timeout (https://docs.gitlab.com/administration/instance_limits/).
const hookTimeout = 10 * time.Second

// systemHook is one registered system hook; token and signing key are write-only in the API.
type systemHook struct {
	ID                     int64
	URL, Name, Description string
	Token, SigningToken    string
	CreatedAt              time.Time
	SSLVerification        bool
	Push, TagPush          bool
	MergeRequests          bool
	RepositoryUpdate       bool
	UUID                   string
}

// HookAction says what a test wants to happen with one event.
type HookAction struct {
	Drop  bool
	Delay time.Duration
	// Copies are additional deliveries with the same Idempotency-Key, as after a Resend in the UI.
	Copies int
}

// Delivery is one attempt to deliver a hook.
type Delivery struct {
	HookID         int64
	Event          string
	IdempotencyKey string
	Status         int // 0 = no answer
	Err            error
}

// hooks are the system hooks and what is sent to them.
type hooks struct {
	*instance
	client *http.Client
	plain  *http.Client    // for hooks with enable_ssl_verification: false
	ctx    context.Context // ends on Close; owned by the server
	cancel context.CancelFunc
	slots  chan struct{}

	mu         sync.Mutex
	next       int64
	hooks      map[int64]*systemHook
	policy     func(Event) HookAction
	pending    int
	idle       chan struct{} // closed while pending is 0
	deliveries []Delivery
}

func newHooks(i *instance) *hooks {
	h := &hooks{instance: i, next: 1, hooks: map[int64]*systemHook{}, idle: make(chan struct{}), slots: make(chan struct{}, 16)}
	close(h.idle)
	h.ctx, h.cancel = context.WithCancel(context.Background())
	noRedirect := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	h.client = &http.Client{
		Timeout: hookTimeout, CheckRedirect: noRedirect,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: i.opts.HookCAs, MinVersion: tls.VersionTLS12}},
	}
	h.plain = &http.Client{
		Timeout: hookTimeout, CheckRedirect: noRedirect,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}},
	}
	return h
}

func (h *hooks) stop() {
	h.cancel()
	h.mu.Lock()
	idle := h.idle
	h.mu.Unlock()
	<-idle
	h.client.CloseIdleConnections()
	h.plain.CloseIdleConnections()
}

// AddSystemHook registers a system hook and returns its id.
func (h *hooks) AddSystemHook(in SeedHook) (int64, error) {
	hook := systemHook{URL: in.URL, Token: in.Token, SigningToken: in.SigningToken, SSLVerification: true, RepositoryUpdate: true}
	if err := hook.check(); err != nil {
		return 0, err
	}
	return h.add(hook), nil
}

func (hook *systemHook) check() error {
	u, err := url.Parse(hook.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return invalid("url", "is blocked: Only allowed schemes are http, https")
	}
	if strings.ContainsAny(hook.Token, "\r\n") {
		return invalid("token", "is invalid")
	}
	if hook.SigningToken != "" {
		if _, err := hook.key(); err != nil {
			return invalid("signing_token", "must be whsec_ followed by base64 of 32 bytes")
		}
	}
	return nil
}

// key decodes the signing token: whsec_ and base64 of 32 bytes (https://docs.gitlab.com/user/project/integrations/webhooks/).
func (hook *systemHook) key() ([]byte, error) {
	encoded, ok := strings.CutPrefix(hook.SigningToken, "whsec_")
	key, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(key) != 32 {
		return nil, errors.New("signing token is not whsec_<base64 of 32 bytes>")
	}
	return key, nil
}

func (h *hooks) add(hook systemHook) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	hook.ID, hook.CreatedAt, hook.UUID = h.next, h.now(), newUUID()
	h.next++
	h.hooks[hook.ID] = &hook
	return hook.ID
}

// SetHookPolicy lets a test drop, delay or duplicate hooks; nil = deliver all.
func (h *hooks) SetHookPolicy(policy func(Event) HookAction) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.policy = policy
}

// FlushHooks waits until every hook that was sent so far is delivered (or has failed).
func (h *hooks) FlushHooks(ctx context.Context) error {
	h.mu.Lock()
	idle := h.idle
	h.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for system hooks: %w", ctx.Err())
	}
}

// Deliveries returns all attempts so far, in the order they ended.
func (h *hooks) Deliveries() []Delivery {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.deliveries)
}

// sendHooks starts the deliveries of some events. GitLab does the same from background jobs: unordered, one try,
// no retries.
func (h *hooks) sendHooks(events []Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctx.Err() != nil {
		return
	}
	for _, e := range events {
		var action HookAction
		if h.policy != nil {
			action = h.policy(e)
		}
		if action.Drop {
			continue
		}
		// One X-Gitlab-Event-UUID for the event, whatever the number of hooks.
		eventUUID := newUUID()
		for _, id := range slices.Sorted(maps.Keys(h.hooks)) {
			hook := *h.hooks[id]
			h.begin()
			key := newUUID()
			go func() {
				defer h.end()
				h.deliver(hook, e, eventUUID, key, action.Delay)
				for range action.Copies {
					h.deliver(hook, e, newUUID(), key, action.Delay) // a Resend keeps only the Idempotency-Key
				}
			}()
		}
	}
}

// begin and end count deliveries; the caller of begin holds h.mu.
func (h *hooks) begin() {
	if h.pending == 0 {
		h.idle = make(chan struct{})
	}
	h.pending++
}

func (h *hooks) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pending--
	if h.pending == 0 {
		close(h.idle)
	}
}

func (h *hooks) deliver(hook systemHook, e Event, eventUUID, key string, delay time.Duration) {
	if delay > 0 {
		t := time.NewTimer(delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-h.ctx.Done():
		}
	}
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-h.ctx.Done():
	}
	status, err := h.post(hook, "System Hook", e.Payload, eventUUID, key)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deliveries = append(h.deliveries, Delivery{HookID: hook.ID, Event: e.Name, IdempotencyKey: key, Status: status, Err: err})
}

func (h *hooks) post(hook systemHook, event string, payload map[string]any, eventUUID, key string) (int, error) {
	body, err := json.Marshal(payload)
	if err != nil {
		return 0, fmt.Errorf("encoding a system hook: %w", err)
	}
	req, err := http.NewRequestWithContext(h.ctx, http.MethodPost, hook.URL, bytes.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("preparing a system hook: %w", err)
	}
	stamp := strconv.FormatInt(h.now().Unix(), 10)
	set := req.Header.Set
	set("Content-Type", "application/json")
	set("User-Agent", "GitLab/"+h.opts.Version)
	set("X-Gitlab-Event", event)
	set("X-Gitlab-Instance", h.url)
	set("X-Gitlab-Webhook-UUID", hook.UUID)
	set("X-Gitlab-Event-UUID", eventUUID)
	set("Idempotency-Key", key)
	set("webhook-id", key)
	set("webhook-timestamp", stamp)
	if hook.Token != "" {
		set("X-Gitlab-Token", hook.Token)
	}
	if hook.SigningToken != "" {
		set("webhook-signature", hook.sign(key, stamp, body))
	}
	client := h.client
	if !hook.SSLVerification {
		client = h.plain
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("sending a system hook: %w", err)
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 25<<20))
	return res.StatusCode, nil
}

// sign is the signature of Standard Webhooks: v1,base64(HMAC-SHA256(key, "id.timestamp.body")) (https://www.standardwebhooks.com).
func (hook *systemHook) sign(id, stamp string, body []byte) string {
	key, err := hook.key()
	if err != nil {
		return ""
	}
	mac := hmac.New(sha256.New, key)
	_, _ = fmt.Fprintf(mac, "%s.%s.", id, stamp)
	_, _ = mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// newUUID returns a random UUID (RFC 9562, version 4).
func newUUID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails: crypto/rand.Read
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
