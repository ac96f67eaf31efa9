package httpserver_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
)

// TestSlowReadersHoldNoSlots: clients of HTTP/2 that leave no window for an answer hold neither slots nor more memory than the
// bound: the oldest of them are given up, and whoever reads gets an answer meanwhile.
func TestSlowReadersHoldNoSlots(t *testing.T) {
	const slots, streams = 2, 60
	ca, files := newAuthority(t), newFiles(t)
	cert, key := ca.issue(1)
	write(t, files.cert, cert)
	write(t, files.key, key)
	var made, ended atomic.Int64
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		made.Add(1)
		_, _ = w.Write(bytes.Repeat([]byte("x"), 10<<10))
	})
	h := httpserver.NewAnswers(1<<20).Buffered(1<<20, httpserver.Limit(slots, nil, page)) // room for 24 of them
	s := start(t, httpserver.Options{CertFile: files.cert, KeyFile: files.key, MaxStreams: streams, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r)
		ended.Add(1)
	})})
	conn, err := tls.Dial("tcp", s.Addr().String(), &tls.Config{RootCAs: ca.pool(), NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	if err := framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}); err != nil {
		t.Fatal(err)
	}
	var head bytes.Buffer
	enc := hpack.NewEncoder(&head)
	for i := range streams {
		head.Reset()
		for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", s.Addr().String()}, {":path", "/"}} {
			if err := enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
				t.Fatal(err)
			}
		}
		if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: head.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a slow reader's page is made", func() bool { return made.Load() == int64(i+1) })
	}
	go func() { // what the server says is read, so that it can say it
		for {
			if _, err := framer.ReadFrame(); err != nil {
				return
			}
		}
	}()
	resp, body := get(t, client(t, &tls.Config{RootCAs: ca.pool()}), s.URL())
	if resp.StatusCode != http.StatusOK || len(body) != 10<<10 {
		t.Errorf("who reads: %d, %d bytes", resp.StatusCode, len(body))
	}
	eventually(t, "the oldest are given up", func() bool { return ended.Load() >= streams-24 })
}

// TestBuffered: an answer comes as it was made, also one that is longer than what is kept of it.
func TestBuffered(t *testing.T) {
	for _, test := range []struct {
		name, method string
		answer       func(w http.ResponseWriter)
		status       int
		body, length string
	}{
		{"short", "GET", func(w http.ResponseWriter) { _, _ = io.WriteString(w, "abc") }, 200, "abc", "3"},
		{"long", "GET", func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusTeapot)
			for range 5 {
				_, _ = io.WriteString(w, "abc")
			}
		}, 418, "abcabcabcabcabc", ""},
		{"status alone", "GET", func(w http.ResponseWriter) { w.WriteHeader(http.StatusSeeOther) }, 303, "", ""},
		{"the first status counts", "GET", func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound); w.WriteHeader(http.StatusOK) }, 404, "", ""},
		{"nothing", "GET", func(http.ResponseWriter) {}, 200, "", ""},
		{"HEAD", "HEAD", func(w http.ResponseWriter) { _, _ = io.WriteString(w, "abc") }, 200, "", "3"},
		{"no flush", "GET", func(w http.ResponseWriter) {
			if err := http.NewResponseController(w).Flush(); !errors.Is(err, http.ErrNotSupported) {
				t.Errorf("Flush: %v", err)
			}
			w.WriteHeader(http.StatusAccepted)
		}, 202, "", ""},
	} {
		h := httpserver.NewAnswers(1).Buffered(8, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { test.answer(w) }))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(test.method, "/", nil))
		if w.Code != test.status || strings.TrimSpace(w.Body.String()) != test.body || w.Header().Get("Content-Length") != test.length {
			t.Errorf("%s: %d %q %v", test.name, w.Code, w.Body, w.Header())
		}
	}
}
