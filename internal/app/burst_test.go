package app

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kuberuntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/metrics"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
)

const burst = 1000

// hooksOn serves hooks with an inbox whose writes take so long.
func hooksOn(t *testing.T, write time.Duration, files ...string) (addr string, kube *fake.Clientset, m *metrics.Metrics, secret string) {
	t.Helper()
	if n := shareDescriptors(descriptors()).hooks; n < burst+200 {
		t.Skipf("this process may hold %d connections for hooks: raise the limit of open files to 16384", n)
	}
	dir, secret := t.TempDir(), base64.StdEncoding.EncodeToString([]byte("secret of the hook"))
	h := config.HooksListener{Address: "127.0.0.1:0"}
	for _, f := range files {
		path := filepath.Join(dir, f)
		if err := os.WriteFile(path, []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
		if f == "key" {
			h.SigningKeyFile = path
		} else {
			h.SecretFile = path
		}
	}
	kube = fake.NewClientset()
	kube.PrependReactor("patch", "configmaps", func(kubetesting.Action) (bool, kuberuntime.Object, error) {
		time.Sleep(write)
		return false, nil, nil
	})
	quiet := slog.New(slog.DiscardHandler)
	inbox := &store.Inbox{Client: kube, Watch: kube, Namespace: deploy.Namespace, Logger: quiet, Now: time.Now}
	m = metrics.New()
	s := run(t, ports{log: quiet, metrics: m}.hooks(h, newHook(h, quiet, inbox, func(...authz.SourceID) {}, m, func(r gitlab.Received) { m.Hook(r.Outcome) })))
	return s.Addr().String(), kube, m, secret
}

// hookRequest is a request as GitLab sends it: the head first, then the body.
func hookRequest(id int, token, key string) (head, body string) {
	body = fmt.Sprintf(`{"event_name":"user_remove_from_team","project_id":%d,"user_id":7,"project_path":%q}`, id, strings.Repeat("x", 800))
	head = fmt.Sprintf("POST /hooks/gitlab HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	if token != "" {
		head += "X-Gitlab-Token: " + token + "\r\n"
	}
	if key != "" {
		at := strconv.FormatInt(time.Now().Unix(), 10)
		raw, _ := base64.StdEncoding.DecodeString(key)
		mac := hmac.New(sha256.New, raw)
		fmt.Fprintf(mac, "%d.%s.%s", id, at, body)
		head += fmt.Sprintf("Webhook-Id: %d\r\nWebhook-Timestamp: %s\r\nWebhook-Signature: v1,%s\r\n", id, at, base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return head + "\r\n", body
}

// sendHook sends one on a connection of its own, and returns what is wrong with the answer, which must come in GitLab's 10 s.
func sendHook(addr string, id int, token, key string) error {
	conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	head, body := hookRequest(id, token, key)
	if _, err := io.WriteString(conn, head); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, body); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	if line, _, _ := strings.Cut(string(answer), "\r\n"); !strings.Contains(line, " 204 ") {
		return errors.New(line)
	}
	return nil
}

// sendBurst sends hooks about as many projects at once, and returns how many were not taken.
func sendBurst(t *testing.T, addr, token, key string) (lost int) {
	t.Helper()
	var wg sync.WaitGroup
	var failed atomic.Int64
	gate := make(chan struct{})
	for i := range burst {
		wg.Go(func() {
			<-gate
			if err := sendHook(addr, i+1, token, key); err != nil && failed.Add(1) <= 3 {
				t.Logf("hook %d: %v", i+1, err)
			}
		})
	}
	begun := time.Now()
	close(gate)
	wg.Wait()
	t.Logf("%d hooks in %v, %d lost", burst, time.Since(begun).Round(time.Millisecond), failed.Load())
	return int(failed.Load())
}

// TestAThousandHooksAtOnce: all of them are taken in GitLab's time and stored by name, though a write takes half a second.
// The same for signed ones, of which nothing is known before they are read.
func TestAThousandHooksAtOnce(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files []string
	}{{"token", []string{"secret"}}, {"signature", []string{"key"}}, {"both", []string{"secret", "key"}}} {
		t.Run(tt.name, func(t *testing.T) {
			addr, kube, m, secret := hooksOn(t, 500*time.Millisecond, tt.files...)
			token, key := secret, secret
			if tt.name == "signature" {
				token = ""
			}
			if tt.name == "token" {
				key = ""
			}
			if lost := sendBurst(t, addr, token, key); lost > 0 {
				t.Errorf("%d of %d hooks were not taken", lost, burst)
			}
			cm, err := kube.CoreV1().ConfigMaps(deploy.Namespace).Get(t.Context(), store.NameInbox, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for i := range int64(burst) {
				if cm.Data[authz.ProjectID(i+1).Label()] == "" {
					t.Fatalf("project %d is not in the inbox, which has %d entries", i+1, len(cm.Data))
				}
			}
			if text := scrape(m); strings.Contains(text, `hooks_over_limit_total{`) {
				t.Error("a limit was reached")
			}
		})
	}
}

// TestABurstAmongStrangers: those who know no secret, and keep on sending half a request, with and without what looks like
// a signature, take no place of GitLab's hooks; what they hold is bounded. Each has one connection at a time, so that together
// with GitLab's they are fewer than the port has: for more see docs/adr/0078.
func TestABurstAmongStrangers(t *testing.T) {
	addr, _, _, secret := hooksOn(t, 100*time.Millisecond, "secret", "key")
	before := runtime.NumGoroutine()
	stop := make(chan struct{})
	var strangers sync.WaitGroup
	const strange = 150
	for i := range strange {
		strangers.Go(func() {
			signed := fmt.Sprintf("Webhook-Id: x\r\nWebhook-Signature: v1,AAAA\r\nWebhook-Timestamp: %d\r\n", time.Now().Unix())
			if i%2 == 0 {
				signed = ""
			}
			for {
				conn, err := net.DialTimeout("tcp", addr, time.Second)
				if err == nil {
					fmt.Fprintf(conn, "POST /hooks/gitlab HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n%s\r\nx", signed)
				}
				select {
				case <-stop:
				case <-time.After(50 * time.Millisecond):
				}
				if err == nil {
					leave(conn)
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	time.Sleep(500 * time.Millisecond)
	lost := sendBurst(t, addr, secret, "")
	most := runtime.NumGoroutine()
	close(stop)
	strangers.Wait()
	if lost > 0 {
		t.Errorf("%d of %d hooks were not taken", lost, burst)
	}
	if most > before+strange+2*1984 {
		t.Errorf("%d goroutines after %d", most, before)
	}
}

// leave ends a half request and waits until the port has noticed it: a sender that is faster than the port would have
// any number of connections to it.
func leave(conn net.Conn) {
	defer conn.Close()
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, conn) // whatever it is, the connection has ended
}

// TestARefusedSenderHoldsNoConnection: one who shows no secret and leaves the rest of the body out is cut off soon, so that
// refused requests don't fill the connections; a whole request gets its answer.
func TestARefusedSenderHoldsNoConnection(t *testing.T) {
	addr, _, _, _ := hooksOn(t, 0, "secret")
	conn := func() net.Conn {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	half, begun := conn(), time.Now()
	fmt.Fprint(half, "POST /hooks/gitlab HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")
	answer, err := io.ReadAll(half)
	if took := time.Since(begun); err != nil || !strings.Contains(string(answer), " 401 ") || took > 5*time.Second {
		t.Errorf("after %v: %q, %v", took, answer, err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addr+"/hooks/gitlab", strings.NewReader(strings.Repeat("x", 100<<10)))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("status %d", resp.StatusCode)
	}
}
