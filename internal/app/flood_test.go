package app

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes/fake"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/metrics"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
)

func run(t *testing.T, o httpserver.Options) *httpserver.Server {
	t.Helper()
	s, err := httpserver.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s
}

// half sends the head of a POST and one byte of its body, n times, and keeps the connections.
func half(t *testing.T, n int, addr, head string) {
	t.Helper()
	for range n {
		conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "POST %s\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx", head)
	}
}

// TestNobodyWithoutTheSecretStopsHooks: hooks are taken while 200 half-sent posts are open, without a token, and with what
// looks like a signature; refusals are logged once a second, and metrics can be read.
func TestNobodyWithoutTheSecretStopsHooks(t *testing.T) {
	dir := t.TempDir()
	h := config.HooksListener{Address: "127.0.0.1:0", SecretFile: filepath.Join(dir, "secret"), SigningKeyFile: filepath.Join(dir, "key")}
	for _, name := range []string{h.SecretFile, h.SigningKeyFile} {
		if err := os.WriteFile(name, []byte("c2VjcmV0"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var lines lockedLog
	log, kube, m := slog.New(slog.NewTextHandler(&lines, nil)), fake.NewClientset(), metrics.New()
	inbox := &store.Inbox{Client: kube, Watch: kube, Namespace: deploy.Namespace, Logger: log, Now: time.Now}
	s := run(t, ports{log: log, metrics: m}.hooks(h, newHook(h, log, inbox, func(...authz.SourceID) {}, m, func(r gitlab.Received) { m.Hook(r.Outcome) })))
	begun := time.Now()
	signed := "/hooks/gitlab HTTP/1.1\r\nWebhook-Id: x\r\nWebhook-Signature: v1,AAAA\r\nWebhook-Timestamp: " + strconv.FormatInt(time.Now().Unix(), 10)
	half(t, 100, s.Addr().String(), "/hooks/gitlab HTTP/1.1")
	half(t, 100, s.Addr().String(), signed)
	for range 20 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+"/hooks/gitlab", strings.NewReader(`{"event_name":"group_create","group_id":7}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Gitlab-Token", "c2VjcmV0")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNoContent {
			t.Errorf("a hook of GitLab is answered %d", resp.StatusCode)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	if n, most := strings.Count(lines.String(), "hook refused"), int(time.Since(begun)/time.Second)+1; n < 1 || n > most {
		t.Errorf("%d lines about refused hooks, want 1 to %d", n, most)
	}
}

// TestHalfSentReviewsHoldNoLogins: without a client CA too.
func TestHalfSentReviewsHoldNoLogins(t *testing.T) {
	cfg := &config.Config{Listeners: config.Listeners{Webhooks: config.Listener{Address: "127.0.0.1:0", MaxInFlight: 8}}}
	o := ports{metrics: metrics.New()}.webhooks(cfg.Listeners.Webhooks, httpserver.Route{Path: "/authenticate", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := make([]byte, 2)
		if _, err := r.Body.Read(b); err != nil {
			return
		}
		_, _ = r.Body.Read(b)
	})})
	s := run(t, o)
	half(t, 50, s.Addr().String(), "/authenticate HTTP/1.1")
	review := func() int {
		resp, err := http.Post(s.URL()+"/authenticate", "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	// Those that arrive together are an overload for a moment, like any burst: it is over long before their time limit.
	begun := time.Now()
	for good := 0; good < 20; {
		if good++; review() != http.StatusOK {
			good = 0
			time.Sleep(10 * time.Millisecond)
		}
		if time.Since(begun) > bodyTime/2 {
			t.Fatal("half-sent reviews hold the slots")
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// TestScrapesAreLimited: connections that read nothing of /metrics are bounded, and health is answered beside them.
func TestScrapesAreLimited(t *testing.T) {
	m := metrics.New()
	o := ports{metrics: m}.health(config.MetricsListener{Address: "127.0.0.1:0"}, func() error { return nil })
	if o.MaxConns < 2 || o.MaxConns > 64 {
		t.Errorf("%d connections", o.MaxConns)
	}
	s := run(t, o)
	for range 3 * o.MaxConns {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	resp, err := http.Get(s.URL() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if text := scrape(m); !strings.Contains(text, `gl_k8s_integrator_connections_closed_total{listener="metrics"}`) {
		t.Error("closed connections are not counted")
	}
}

type lockedLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
