package api_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people/api"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

// server serves a world by the program's own server, with short time limits for requests.
type server struct {
	*world
	url    string
	ca     string // file
	client *http.Client
	end    func()
}

func serve(t *testing.T, w *world, http2 bool) *server {
	t.Helper()
	o := httpserver.Options{
		Name: "web", Address: "127.0.0.1:0", Handler: w.api, ReadTimeout: 300 * time.Millisecond, WriteTimeout: 300 * time.Millisecond, IdleTimeout: time.Second,
		ShutdownTimeout: 20 * time.Second,
	}
	transport, ca := &http.Transport{}, ""
	if http2 {
		var pool *x509.CertPool
		o.CertFile, o.KeyFile, ca, pool = certificate(t)
		transport = &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool}}
	}
	s, err := httpserver.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	out := &server{world: w, url: s.URL(), ca: ca, client: &http.Client{Transport: transport}}
	out.end = sync.OnceFunc(func() { cancel(); wg.Wait(); transport.CloseIdleConnections() })
	t.Cleanup(out.end)
	return out
}

// certificate makes one for this machine, and its CA.
func certificate(t *testing.T) (certFile, keyFile, caFile string, trust *x509.CertPool) {
	t.Helper()
	ca, err := localcert.NewAuthority("authority of the test")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Server("test")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile, caFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), filepath.Join(dir, "ca.crt")
	for file, data := range map[string][]byte{certFile: pair.Cert, keyFile: pair.Key, caFile: ca.PEM} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	trust = x509.NewCertPool()
	trust.AppendCertsFromPEM(ca.PEM)
	return certFile, keyFile, caFile, trust
}

// watch is an open answer.
type watch struct {
	t    *testing.T
	body io.ReadCloser
	in   *bufio.Reader
}

func (s *server) watch(t *testing.T, token string) *watch {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+webapi.PathMyNamespaces+"?watch=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	a, err := s.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if a.StatusCode != http.StatusOK {
		defer a.Body.Close()
		t.Fatalf("%s: %s", a.Status, readAll(t, a.Body))
	}
	w := &watch{t: t, body: a.Body, in: bufio.NewReader(a.Body)}
	t.Cleanup(w.leave)
	return w
}

func (w *watch) leave() { _ = w.body.Close() }

// next returns the roles in the next line that is not empty, or the code of an error.
func (w *watch) next() (roles []string, code string) {
	w.t.Helper()
	for {
		line, err := w.in.ReadString('\n')
		if err != nil {
			return nil, err.Error()
		}
		if line == "\n" {
			continue
		}
		var l struct {
			webapi.MyNamespaces
			webapi.Error
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			w.t.Fatalf("%q: %v", line, err)
		}
		for _, n := range l.Namespaces {
			roles = append(roles, n.Roles...)
		}
		return roles, l.Code
	}
}

func (w *watch) want(roles []string, code string) {
	w.t.Helper()
	if got, gotCode := w.next(); !slices.Equal(got, roles) || gotCode != code {
		w.t.Fatalf("%v %q, want %v %q", got, gotCode, roles, code)
	}
}

func TestWatch(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(map[bool]string{false: "HTTP/1.1", true: "HTTP/2"}[http2], func(t *testing.T) {
			s := serve(t, newWorld(t, nil), http2)
			alice, bob := s.watch(t, s.token(1)), s.watch(t, s.token(2))
			alice.want([]string{"view"}, "")
			bob.want([]string{"edit"}, "")
			time.Sleep(800 * time.Millisecond) // longer than the server lets a request take
			s.members(map[int64]authz.Level{1: authz.Owner, 2: authz.Maintainer})
			alice.want([]string{"edit"}, "")
			s.members(map[int64]authz.Level{2: authz.Maintainer})
			alice.want(nil, "")
			s.set(func() { s.states[1] = "blocked" })
			alice.want(nil, "user_blocked")
			alice.want(nil, io.EOF.Error())
			s.members(map[int64]authz.Level{2: authz.Developer}) // of all of that bob hears this alone
			bob.want([]string{"view"}, "")
		})
	}
}

func TestWatchEnds(t *testing.T) {
	s := serve(t, newWorld(t, func(o *api.Options) { o.Heartbeat = 10 * time.Millisecond }), false)
	alice := s.watch(t, s.token(1))
	alice.want([]string{"view"}, "")
	if line, err := alice.in.ReadString('\n'); line != "\n" || err != nil {
		t.Errorf("no heartbeat, but %q, %v", line, err)
	}
	s.set(func() { s.ahead = time.Hour })
	alice.want(nil, "token_expired")
	alice.want(nil, io.EOF.Error())
	s.set(func() { s.ahead = 0 })

	bob := s.watch(t, s.token(2))
	bob.want([]string{"edit"}, "")
	s.set(func() { s.away = true }) // a token that can't be judged now was judged before
	s.members(map[int64]authz.Level{2: authz.Developer})
	bob.want([]string{"view"}, "")
	s.set(func() { s.ahead = time.Hour })
	bob.want(nil, "keys_unavailable")
}

// TestWatchEndsWithTheProcess: a shutdown does not wait for watchers, and they are told.
func TestWatchEndsWithTheProcess(t *testing.T) {
	s := serve(t, newWorld(t, nil), true)
	one := s.watch(t, s.token(1))
	one.want([]string{"view"}, "")
	s.stop()
	one.want(nil, api.CodeEnding)
	one.want(nil, io.EOF.Error())
	s.end()
}

func TestWatchersAreBounded(t *testing.T) {
	s := serve(t, newWorld(t, func(o *api.Options) { o.Watches, o.OwnWatches, o.AtATime = 3, 2, 1 }), false)
	first, second, third := s.watch(t, s.token(1)), s.watch(t, s.token(1)), s.watch(t, s.token(2))
	for _, w := range []*watch{first, second, third} {
		w.next()
	}
	path := webapi.PathMyNamespaces + "?watch=true"
	if out := s.get(path, s.token(1)); out.Code != 429 || code(t, out) != api.CodeTooManyWatches {
		t.Errorf("%d %s", out.Code, out.Body)
	}
	if out := s.get(path, s.token(2)); out.Code != 503 || code(t, out) != api.CodeTooManyWatches {
		t.Errorf("%d %s", out.Code, out.Body)
	}
	if out := s.get(webapi.PathMyNamespaces, s.token(3)); out.Code != 200 {
		t.Errorf("watchers take the place of other requests: %d %s", out.Code, out.Body)
	}
	first.leave()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		r, _ := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path, nil)
		r.Header.Set("Authorization", "Bearer "+s.token(1))
		a, err := s.client.Do(r)
		ok := err == nil && a.StatusCode == 200
		if err == nil {
			a.Body.Close()
		}
		cancel()
		if ok {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a watcher who is gone still has a place")
		}
	}
	if strings.Contains(s.log.String(), "ey") && strings.Contains(s.log.String(), s.token(1)[:40]) {
		t.Error("a token is in the log")
	}
}
