package replicas_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// balancer forwards connections to the replicas that are ready, as a Service does; it learns what is ready lag later.
type balancer struct {
	net.Listener
	mu   sync.Mutex
	to   []string // addresses of webhooks
	next int
}

const (
	lag   = 2 * time.Second
	probe = 100 * time.Millisecond
)

// watch looks which replicas are ready until ctx ends.
func (b *balancer) watch(ctx context.Context, replicas func() []*replica) {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	var seen [][]string // oldest first
	for ctx.Err() == nil {
		var ready []string
		for _, r := range replicas() {
			resp, err := client.Get("http://" + r.metrics + "/readyz")
			if err != nil {
				continue
			}
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				ready = append(ready, r.webhooks)
			}
		}
		if seen = append(seen, ready); len(seen) > int(lag/probe) {
			b.mu.Lock()
			b.to = seen[0]
			b.mu.Unlock()
			seen = seen[1:]
		}
		select {
		case <-ctx.Done():
		case <-time.After(probe):
		}
	}
}

func (b *balancer) choose() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.to) == 0 { // a dial to nowhere fails
		return ""
	}
	b.next++
	return b.to[b.next%len(b.to)]
}

// serve forwards until the listener is closed and all connections have ended.
func (b *balancer) serve() {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		in, err := b.Accept()
		if err != nil {
			return
		}
		conns.Go(func() {
			defer in.Close()
			out, err := net.Dial("tcp", b.choose())
			if err != nil {
				return
			}
			defer out.Close()
			var both sync.WaitGroup
			forward := func(to, from net.Conn) {
				_, _ = io.Copy(to, from)
				_ = to.(*net.TCPConn).CloseWrite()
			}
			both.Go(func() { forward(out, in) })
			both.Go(func() { forward(in, out) })
			both.Wait()
		})
	}
}

// TestARollingRestartLosesNoLogin: both replicas are started anew, one after the other, behind a balancer that learns two
// seconds later what is ready. No login is refused or left without an answer, and another replica leads at once.
func TestARollingRestartLosesNoLogin(t *testing.T) {
	w := newWorld(t)
	w.drainDelay = 5 * time.Second
	var mu sync.Mutex
	running := map[string]*replica{}
	start := func(name string) *replica {
		r := w.start(name, time.Hour)
		mu.Lock()
		defer mu.Unlock()
		running[name] = r
		return r
	}
	a, b := start("a"), start("b")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lb := &balancer{Listener: l}
	ctx, stop := context.WithCancel(t.Context())
	var own, clients sync.WaitGroup
	own.Go(lb.serve)
	own.Go(func() {
		lb.watch(ctx, func() (out []*replica) {
			mu.Lock()
			defer mu.Unlock()
			for _, r := range running {
				out = append(out, r)
			}
			return out
		})
	})
	known := func(rs ...*replica) func() bool {
		return func() bool {
			lb.mu.Lock()
			defer lb.mu.Unlock()
			all := " " + strings.Join(lb.to, " ") + " "
			for _, r := range rs {
				if !strings.Contains(all, " "+r.webhooks+" ") {
					return false
				}
			}
			return len(lb.to) == len(rs)
		}
	}
	t.Cleanup(func() { stop(); _ = l.Close(); own.Wait() })
	w.eventually("both are ready", 60*time.Second, known(a, b))

	token, err := w.gitlab.MintUserIDToken(w.user("alice"), "kubelogin", gitlabsim.TokenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var asked, lost atomic.Int64
	over := make(chan struct{})
	for i := range 4 {
		clients.Go(func() {
			tr := w.client.Transport.(*http.Transport).Clone()
			tr.ForceAttemptHTTP2, tr.DisableKeepAlives = true, i%2 == 0 // kube-apiserver keeps its connection; new ones come too
			defer tr.CloseIdleConnections()
			c := &http.Client{Transport: tr, Timeout: 10 * time.Second}
			for {
				select {
				case <-over:
					return
				case <-time.After(10 * time.Millisecond):
				}
				asked.Add(1)
				if err := login(c, "https://"+l.Addr().String()+"/authenticate", token); err != nil && lost.Add(1) < 10 {
					t.Errorf("after %d logins: %v", asked.Load(), err)
				}
			}
		})
	}
	for _, old := range []*replica{a, b} {
		fresh := start(old.name + "2")
		w.eventually("the new one is known", 60*time.Second, func() bool {
			mu.Lock()
			all := make([]*replica, 0, len(running))
			for _, r := range running {
				all = append(all, r)
			}
			mu.Unlock()
			return known(all...)()
		})
		began := time.Now()
		old.signal(syscall.SIGTERM)
		if strings.Contains(old.log.String(), `"msg":"leading"`) {
			w.eventually("another one leads before the old one has ended", 4*time.Second, func() bool {
				mu.Lock()
				defer mu.Unlock()
				for _, r := range running {
					if r != old && strings.Contains(r.log.String(), `"msg":"leading"`) {
						return true
					}
				}
				return false
			})
		}
		if err := old.cmd.Wait(); err != nil || time.Since(began) < w.drainDelay {
			t.Errorf("%s ended after %v: %v", old.name, time.Since(began), err)
		}
		mu.Lock()
		delete(running, old.name)
		mu.Unlock()
		t.Logf("%s became %s: %d logins, %d lost", old.name, fresh.name, asked.Load(), lost.Load())
	}
	w.eventually("5,000 logins", 2*time.Minute, func() bool { return asked.Load() >= 5000 })
	close(over)
	clients.Wait()
	t.Logf("%d logins, %d lost", asked.Load(), lost.Load())
}

// login asks a webhook about a token that is valid.
func login(c *http.Client, url, token string) error {
	body, _ := json.Marshal(authnv1.TokenReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenReview"}, Spec: authnv1.TokenReviewSpec{Token: token},
	})
	resp, err := c.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var out authnv1.TokenReview
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		return err
	}
	if !out.Status.Authenticated {
		return errors.New("not authenticated: " + resp.Status + out.Status.Error)
	}
	return nil
}
