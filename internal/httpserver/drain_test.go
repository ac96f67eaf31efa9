package httpserver_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
)

// TestNoAcceptedStreamLosesItsAnswer: HTTP/2 clients ask as fast as they can while the server ends, again and again, also in
// the middle of a handshake. Each answer of a handler reaches its client.
func TestNoAcceptedStreamLosesItsAnswer(t *testing.T) {
	ca, files := newAuthority(t), newFiles(t)
	cert, key := ca.issue(1)
	write(t, files.cert, cert)
	write(t, files.key, key)
	const restarts = 20
	var accepted, lost int
	for i := range restarts {
		a, l := askUntilTheEnd(t, time.Duration(3*i)*time.Millisecond, files, &tls.Config{RootCAs: ca.pool()})
		accepted, lost = accepted+a, lost+l
	}
	if lost > 0 || accepted < restarts {
		t.Errorf("%d of %d answers were lost", lost, accepted)
	}
}

// askUntilTheEnd runs one server, which is to end after this time, and clients until it refuses connections.
func askUntilTheEnd(t *testing.T, after time.Duration, files certFiles, config *tls.Config) (accepted, lost int) {
	t.Helper()
	var mu sync.Mutex
	unanswered := map[string]error{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := httpserver.New(httpserver.Options{
		Name: "test", Listener: slowListener{l}, ShutdownTimeout: 3 * time.Second, CertFile: files.cert, KeyFile: files.key,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			id, _ := io.ReadAll(r.Body)
			mu.Lock()
			accepted++
			unanswered[string(id)] = nil
			mu.Unlock()
			_, _ = w.Write(id)
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	var clients sync.WaitGroup
	for i := range 4 {
		clients.Go(func() {
			c := client(t, config.Clone())
			defer c.CloseIdleConnections()
			for n := 0; ; n++ {
				id := fmt.Sprintf("%d/%d", i, n)
				resp, err := c.Post(s.URL(), "text/plain", strings.NewReader(id))
				if err == nil {
					var body []byte
					body, err = io.ReadAll(resp.Body)
					resp.Body.Close()
					if err == nil && string(body) != id {
						err = fmt.Errorf("got %q", body)
					}
				}
				mu.Lock()
				if err == nil {
					delete(unanswered, id)
				} else if _, taken := unanswered[id]; taken {
					unanswered[id] = err
				}
				mu.Unlock()
				if err != nil {
					return
				}
				time.Sleep(time.Duration(i) * 50 * time.Microsecond)
			}
		})
	}
	time.Sleep(after)
	cancel()
	clients.Wait()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	mu.Lock() // a handler that was cut off may still run
	defer mu.Unlock()
	for id, err := range unanswered {
		t.Logf("the answer to %s was lost: %v", id, err)
	}
	return accepted, len(unanswered)
}

// slowListener accepts connections that take a moment to write, so that a handshake does too.
type slowListener struct{ net.Listener }

func (l slowListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return slowConn{c}, nil
}

type slowConn struct{ net.Conn }

func (c slowConn) Write(p []byte) (int, error) {
	time.Sleep(5 * time.Millisecond)
	return c.Conn.Write(p)
}

// TestDraining: after its end was asked for, a listener serves on for DrainDelay and makes its clients move away: each answer ends its
// connection, and new connections speak HTTP/1.1.
func TestDraining(t *testing.T) {
	ca, files := newAuthority(t), newFiles(t)
	cert, key := ca.issue(1)
	write(t, files.cert, cert)
	write(t, files.key, key)
	const delay = time.Second
	s, err := httpserver.New(httpserver.Options{Name: "test", Address: "127.0.0.1:0", CertFile: files.cert, KeyFile: files.key, Handler: hello, DrainDelay: delay})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	c := client(t, &tls.Config{RootCAs: ca.pool()})
	if resp, _ := get(t, c, s.URL()); resp.ProtoMajor != 2 {
		t.Fatalf("before: %s", resp.Proto)
	}
	asked := time.Now()
	cancel()
	var last *http.Response
	eventually(t, "HTTP/1.1", func() bool { last, _ = get(t, c, s.URL()); return last.ProtoMajor == 1 })
	if !last.Close {
		t.Error("an answer does not end its connection")
	}
	if err := <-ended; err != nil || time.Since(asked) < delay {
		t.Errorf("Run ended after %v: %v", time.Since(asked), err)
	}
	if resp, err := c.Get(s.URL()); err == nil {
		resp.Body.Close()
		t.Error("it still listens")
	}
}
