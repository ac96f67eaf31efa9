package httpserver_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
)

var readAll = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	if _, err := io.ReadAll(r.Body); err != nil {
		http.Error(w, "unreadable", http.StatusBadRequest)
		return
	}
	_, _ = io.WriteString(w, "read")
})

// firstRead calls call when the body is read for the first time.
type firstRead struct {
	io.ReadCloser
	call func()
	once sync.Once
}

func (b *firstRead) Read(p []byte) (int, error) {
	b.once.Do(b.call)
	return b.ReadCloser.Read(p)
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func post(t *testing.T, c *http.Client, url, body string) int {
	t.Helper()
	resp, err := c.Post(url, "text/plain", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// TestSlowBodiesHoldNoSlots: however many bodies are half sent, whole ones are read at once; a half one is given up when its
// time is over, and its slot is free again.
func TestSlowBodiesHoldNoSlots(t *testing.T) {
	for _, withTLS := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %v", withTLS), func(t *testing.T) {
			var came atomic.Int64 // requests whose body is being read, or that were refused
			refused := func() { came.Add(1) }
			limited := httpserver.Limit(8, refused, httpserver.Bodies(4, time.Second, readAll))
			opts := httpserver.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.Body = &firstRead{ReadCloser: r.Body, call: func() { came.Add(1) }}
				limited.ServeHTTP(w, r)
			})}
			var config *tls.Config
			if withTLS {
				ca, files := newAuthority(t), newFiles(t)
				cert, key := ca.issue(1)
				write(t, files.cert, cert)
				write(t, files.key, key)
				opts.CertFile, opts.KeyFile = files.cert, files.key
				config = &tls.Config{RootCAs: ca.pool()}
			}
			s := start(t, opts)
			ended := make(chan error, 20)
			for range cap(ended) {
				if !withTLS {
					conn := dial(t, s.Addr().String())
					fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
					go func() {
						answer, err := io.ReadAll(conn) // until the server closes it
						if err == nil && strings.Contains(string(answer), " 200 ") {
							err = errors.New("half a body was taken for a whole one")
						}
						ended <- err
					}()
					continue
				}
				body, hold := io.Pipe()
				c := client(t, config.Clone())
				go func() {
					resp, err := c.Post(s.URL(), "text/plain", body)
					if err == nil {
						if resp.StatusCode == http.StatusOK {
							err = errors.New("half a body was taken for a whole one")
						}
						resp.Body.Close()
					}
					ended <- err
				}()
				go func() { _, _ = io.WriteString(hold, "half") }()
				t.Cleanup(func() { hold.CloseWithError(io.ErrUnexpectedEOF) })
			}
			// The half ones come before the whole ones: four that come while a whole one is being read may well push it out.
			for deadline := time.Now().Add(30 * time.Second); came.Load() < int64(cap(ended)); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%d of %d half-sent requests came", came.Load(), cap(ended))
				}
			}
			c := client(t, config.Clone())
			for range 20 {
				if got := post(t, c, s.URL(), strings.Repeat("x", 100)); got != http.StatusOK {
					t.Errorf("a whole request was answered %d", got)
				}
			}
			for range cap(ended) {
				select {
				case err := <-ended:
					if err != nil {
						t.Error(err)
					}
				case <-time.After(5 * time.Second):
					t.Fatal("a half-sent request is still held")
				}
			}
		})
	}
}

// TestNoAnswerWaitsForABodyNobodyReads: who is answered without their body being read has the answer soon, whatever they sent of it,
// and gives up their connection; a slot is not kept meanwhile. One whose body comes is answered, and keeps it.
func TestNoAnswerWaitsForABodyNobodyReads(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	handlers := map[string]http.Handler{
		"short answer": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) }),
		"long answer":  http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, long) }),
		"flushed":      http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = http.NewResponseController(w).Flush() }),
		"no answer":    http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
		"panic":        http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("a fault") }),
		"read in part": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = r.Body.Read(make([]byte, 2))
			w.WriteHeader(http.StatusBadRequest)
		}),
		"refused":           httpserver.Limit(0, nil, hello),
		"a route not there": httpserver.Mux(httpserver.Route{Path: "/elsewhere", Handler: hello}),
	}
	for name, handler := range handlers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inside := httpserver.Limit(1, nil, handler)
			slot := make(chan time.Duration, 1)
			s := start(t, httpserver.Options{ReadTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				begin := time.Now()
				defer func() { slot <- time.Since(begin) }()
				inside.ServeHTTP(w, r)
			})})
			whole := dial(t, s.Addr().String())
			reader := bufio.NewReader(whole)
			for range 2 {
				fmt.Fprint(whole, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
				resp, err := http.ReadResponse(reader, nil)
				if err != nil {
					t.Fatal("a whole request:", err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				<-slot
			}
			for _, request := range []string{
				"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
				"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nhalf",
				"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nhalf",
				"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
			} {
				conn := dial(t, s.Addr().String())
				_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
				fmt.Fprint(conn, request)
				answer, err := io.ReadAll(conn)
				if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 ") {
					t.Errorf("%.20q was answered %.40q and the connection ended with %v, want an answer and its end", request, answer, err)
				}
				if held := <-slot; held > 20*time.Second {
					t.Errorf("%.20q held a slot for %v", request, held)
				}
			}
		})
	}
}

// TestWhoWaitsToBeAskedForABodyIsAnsweredAtOnce: a client that sends a body only when it is asked to (Expect: 100-continue), and is
// refused, is neither waited for nor cut off.
func TestWhoWaitsToBeAskedForABodyIsAnsweredAtOnce(t *testing.T) {
	for name, handler := range map[string]http.Handler{"refused": httpserver.Limit(0, nil, hello), "with bodies": httpserver.Bodies(1, time.Minute, httpserver.Limit(0, nil, hello))} {
		t.Run(name, func(t *testing.T) {
			s := start(t, httpserver.Options{ReadTimeout: time.Minute, Handler: handler})
			soonest := time.Hour // of ten: the machine may be slow
			for range 10 {
				conn := dial(t, s.Addr().String())
				begun := time.Now()
				fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n")
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil || resp.StatusCode != http.StatusServiceUnavailable {
					t.Fatalf("%v, %v", resp, err)
				}
				resp.Body.Close()
				soonest = min(soonest, time.Since(begun))
			}
			if soonest > 500*time.Millisecond {
				t.Errorf("answered after %v at the soonest", soonest)
			}
		})
	}
}

// TestReadBodyHasNoDeadline: the time limit of a body does not end a request whose body was read.
func TestReadBodyHasNoDeadline(t *testing.T) {
	s := start(t, httpserver.Options{Handler: httpserver.Bodies(1, 50*time.Millisecond, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		select {
		case <-r.Context().Done():
			w.WriteHeader(http.StatusTeapot)
		case <-time.After(300 * time.Millisecond):
		}
	}))})
	if got := post(t, client(t, nil), s.URL(), "whole"); got != http.StatusOK {
		t.Errorf("status %d", got)
	}
}

// TestIdleConnectionsKeepNobodyOut: when all connections are taken by silent ones, a new client is served; one that is at
// work is not closed.
func TestIdleConnectionsKeepNobodyOut(t *testing.T) {
	entered, release := make(chan struct{}, 1), make(chan struct{})
	var closed atomic.Int64
	s := start(t, httpserver.Options{MaxConns: 8, Rejected: func() { closed.Add(1) }, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/work" {
			entered <- struct{}{}
			<-release
		}
		_, _ = io.WriteString(w, "hello")
	})})
	work := dial(t, s.Addr().String())
	fmt.Fprint(work, "GET /work HTTP/1.1\r\nHost: x\r\n\r\n")
	<-entered
	for range 100 {
		dial(t, s.Addr().String())
	}
	if _, body := get(t, client(t, nil), s.URL()); body != "hello" {
		t.Errorf("got %q", body)
	}
	if n := closed.Load(); n < 93 {
		t.Errorf("%d connections were closed, want at least 93 of 102", n)
	}
	close(release)
	resp, err := http.ReadResponse(bufio.NewReader(work), nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("the request at work: %v %v", resp, err)
	}
}

// TestAClientWithACertificateGoesLast: connections that never finish a handshake don't push out one that has.
func TestAClientWithACertificateGoesLast(t *testing.T) {
	ca, files := newAuthority(t), newFiles(t)
	cert, key := ca.issue(1)
	write(t, files.cert, cert)
	write(t, files.key, key)
	write(t, files.ca, ca.pem())
	var conns atomic.Int64
	s := start(t, httpserver.Options{
		MaxConns: 8, Handler: hello, CertFile: files.cert, KeyFile: files.key, ClientCAFile: files.ca,
	})
	tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{ca.pair(2)}}}
	tr.DialContext = (&countingDialer{n: &conns}).DialContext
	t.Cleanup(tr.CloseIdleConnections)
	c := &http.Client{Transport: tr}
	get(t, c, s.URL())
	for range 100 {
		dial(t, s.Addr().String())
	}
	get(t, c, s.URL())
	if conns.Load() != 1 {
		t.Errorf("the client had to connect %d times", conns.Load())
	}
}

// TestHandshakesFillNoLog: failed handshakes write one line a second.
func TestHandshakesFillNoLog(t *testing.T) {
	ca, files, logs := newAuthority(t), newFiles(t), &lockedBuffer{}
	cert, key := ca.issue(1)
	write(t, files.cert, cert)
	write(t, files.key, key)
	s := start(t, httpserver.Options{Handler: hello, CertFile: files.cert, KeyFile: files.key, Logger: slog.New(slog.NewTextHandler(logs, nil))})
	begun := time.Now()
	for range 200 {
		conn := dial(t, s.Addr().String())
		fmt.Fprint(conn, "no TLS at all\r\n\r\n")
		_, _ = io.ReadAll(conn)
	}
	lines := strings.Count(logs.String(), "TLS handshake error")
	if most := int(time.Since(begun)/time.Second) + 1; lines < 1 || lines > most {
		t.Errorf("%d lines, want 1 to %d", lines, most)
	}
}

type countingDialer struct {
	net.Dialer
	n *atomic.Int64
}

func (d *countingDialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	d.n.Add(1)
	return d.Dialer.DialContext(ctx, network, addr)
}

// TestABurstOfWholeBodiesIsRead: senders whose body comes a little after the head wait for each other. Without a queue most
// of them are given up; with one that is full, or for longer than it waits, the oldest gives way as without.
func TestABurstOfWholeBodiesIsRead(t *testing.T) {
	var givenUp atomic.Int64
	count := func() { givenUp.Add(1) }
	burst := func(h http.Handler) (read int64) {
		s := start(t, httpserver.Options{MaxConns: 400, Handler: h})
		var good atomic.Int64
		var wg sync.WaitGroup
		for range 200 {
			conn := dial(t, s.Addr().String())
			wg.Go(func() {
				fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\n")
				time.Sleep(20 * time.Millisecond)
				fmt.Fprint(conn, "body")
				if answer, _ := io.ReadAll(conn); strings.Contains(string(answer), " 200 ") {
					good.Add(1)
				}
			})
		}
		wg.Wait()
		return good.Load()
	}
	if n := burst(httpserver.QueuedBodies(4, 200, 10*time.Second, 10*time.Second, count, readAll)); n != 200 || givenUp.Load() != 0 {
		t.Errorf("%d of 200 were read, %d given up", n, givenUp.Load())
	}
	if n := burst(httpserver.QueuedBodies(4, 0, 10*time.Second, 10*time.Second, count, readAll)); n == 200 || givenUp.Load() == 0 {
		t.Errorf("without a queue %d were read, %d given up: the test shows nothing", n, givenUp.Load())
	}
}

// TestHalfBodiesHoldTheQueueForItsTimeAlone: whole requests come through, each after no more than the time of waiting, while
// far more half ones than have places and turns keep coming.
func TestHalfBodiesHoldTheQueueForItsTimeAlone(t *testing.T) {
	s := start(t, httpserver.Options{MaxConns: 400, Handler: httpserver.QueuedBodies(4, 8, 200*time.Millisecond, 10*time.Second, nil, readAll)})
	for range 10 {
		for range 20 {
			fmt.Fprint(dial(t, s.Addr().String()), "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
		}
		begun := time.Now()
		if got := post(t, client(t, nil), s.URL(), "whole"); got != http.StatusOK {
			t.Errorf("a whole request was answered %d", got)
		}
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("after %v", took)
		}
	}
}
