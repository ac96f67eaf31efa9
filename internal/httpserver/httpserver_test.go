package httpserver_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// authority signs the certificates of one test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: t.Name()},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, cert, key}
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func (a *authority) issue(serial int64) (cert, key []byte) {
	a.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, private.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	rawKey, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: rawKey})
}

func (a *authority) pair(serial int64) tls.Certificate {
	a.t.Helper()
	pair, err := tls.X509KeyPair(a.issue(serial))
	if err != nil {
		a.t.Fatal(err)
	}
	return pair
}

type certFiles struct{ cert, key, ca string }

func newFiles(t *testing.T) certFiles {
	dir := t.TempDir()
	return certFiles{filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), filepath.Join(dir, "ca.crt")}
}

func write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// start runs a server until the test ends and checks that Run then returns nil.
func start(t *testing.T, opts httpserver.Options) *httpserver.Server {
	t.Helper()
	opts.Name = "test"
	if opts.Address == "" {
		opts.Address = "127.0.0.1:0"
	}
	s, err := httpserver.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

func client(t *testing.T, config *tls.Config) *http.Client {
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

func get(t *testing.T, c *http.Client, url string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

var hello = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })

func serialOf(t *testing.T, addr string, roots *x509.CertPool) int64 {
	t.Helper()
	d := tls.Dialer{Config: &tls.Config{RootCAs: roots}}
	conn, err := d.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("%s did not happen", what)
}

func TestCertificateReloadLosesNoRequest(t *testing.T) {
	ca, files, logs := newAuthority(t), newFiles(t), &lockedBuffer{}
	replace := func(serial int64) {
		cert, key := ca.issue(serial)
		write(t, files.cert, cert) // for a moment certificate and key do not match
		write(t, files.key, key)
	}
	replace(100)
	s := start(t, httpserver.Options{
		Handler: hello, CertFile: files.cert, KeyFile: files.key,
		ReloadInterval: 2 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(logs, nil)),
	})

	stop := make(chan struct{})
	var load sync.WaitGroup
	var requests, failures atomic.Int64
	for i := range 4 {
		load.Go(func() {
			transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.pool()}, ForceAttemptHTTP2: true, DisableKeepAlives: i%2 == 0}
			defer transport.CloseIdleConnections()
			c := &http.Client{Transport: transport}
			for {
				select {
				case <-stop:
					return
				default:
				}
				resp, err := c.Get(s.URL())
				if err != nil {
					failures.Add(1)
					t.Errorf("request during reload: %v", err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				requests.Add(1)
			}
		})
	}
	for serial := int64(101); serial <= 105; serial++ {
		replace(serial)
		eventually(t, "the new certificate", func() bool { return serialOf(t, s.Addr().String(), ca.pool()) == serial })
	}
	write(t, files.cert, []byte("no certificate"))
	eventually(t, "the log line", func() bool { return strings.Contains(logs.String(), "can't be used") })
	if got := serialOf(t, s.Addr().String(), ca.pool()); got != 105 {
		t.Errorf("a broken file displaced the certificate: serial %d", got)
	}
	close(stop)
	load.Wait()
	if requests.Load() < 20 || failures.Load() != 0 {
		t.Errorf("%d requests, %d failures", requests.Load(), failures.Load())
	}
}

func TestClientCertificate(t *testing.T) {
	ca, friends, strangers, files := newAuthority(t), newAuthority(t), newAuthority(t), newFiles(t)
	cert, key := ca.issue(1)
	write(t, files.cert, cert)
	write(t, files.key, key)
	write(t, files.ca, friends.pem())
	s := start(t, httpserver.Options{
		Handler: hello, CertFile: files.cert, KeyFile: files.key, ClientCAFile: files.ca,
		DemandClientCert: true, ReloadInterval: 2 * time.Millisecond,
	})
	as := func(certs ...tls.Certificate) error {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.pool(), Certificates: certs}, ForceAttemptHTTP2: true}
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport}).Get(s.URL())
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	if err := as(friends.pair(2)); err != nil {
		t.Errorf("with a certificate of the CA: %v", err)
	}
	if as() == nil {
		t.Error("answered without a client certificate")
	}
	if as(strangers.pair(3)) == nil {
		t.Error("answered a certificate of another CA")
	}
	write(t, files.ca, strangers.pem())
	eventually(t, "the new client CA", func() bool { return as(strangers.pair(4)) == nil })
	if as(friends.pair(5)) == nil {
		t.Error("still answers certificates of the withdrawn CA")
	}
}

func TestRefusesToStart(t *testing.T) {
	ca, files := newAuthority(t), newFiles(t)
	cert, key := ca.issue(1)
	write(t, files.cert, cert)
	write(t, files.key, key)
	write(t, files.ca, []byte("nothing"))
	for name, c := range map[string]struct {
		opts httpserver.Options
		want string
	}{
		"open webhook":           {httpserver.Options{Address: "0.0.0.0:0", CertFile: files.cert, KeyFile: files.key, DemandClientCert: true}, "clients must show a certificate"},
		"key without cert":       {httpserver.Options{KeyFile: files.key}, "give both or neither"},
		"client CA without TLS":  {httpserver.Options{ClientCAFile: files.ca}, "need TLS"},
		"missing file":           {httpserver.Options{CertFile: files.cert + "x", KeyFile: files.key}, "no such file"},
		"cert and key mixed up":  {httpserver.Options{CertFile: files.key, KeyFile: files.cert}, "reading certificate"},
		"client CA file garbage": {httpserver.Options{CertFile: files.cert, KeyFile: files.key, ClientCAFile: files.ca}, "holds no PEM certificate"},
		"address":                {httpserver.Options{Address: "192.0.2.1:1"}, "address of another machine"},
	} {
		t.Run(name, func(t *testing.T) {
			c.opts.Name, c.opts.Handler = "webhook", hello
			if c.opts.Address == "" {
				c.opts.Address = "127.0.0.1:0"
			}
			s, err := httpserver.New(c.opts)
			if err == nil {
				_ = s.Close()
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "starting the webhook listener: ") {
				t.Errorf("got %q, want it to say %q", err, c.want)
			}
		})
	}
}

func TestShutdownFinishesRunningRequests(t *testing.T) {
	for _, withTLS := range []bool{false, true} {
		t.Run(map[bool]string{false: "plain", true: "http2"}[withTLS], func(t *testing.T) {
			entered, release := make(chan struct{}), make(chan struct{})
			opts := httpserver.Options{Name: "test", Address: "127.0.0.1:0", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				close(entered)
				<-release
				_, _ = io.WriteString(w, r.Proto)
			})}
			config, want := (*tls.Config)(nil), "HTTP/1.1"
			if withTLS {
				ca, files := newAuthority(t), newFiles(t)
				cert, key := ca.issue(1)
				write(t, files.cert, cert)
				write(t, files.key, key)
				opts.CertFile, opts.KeyFile = files.cert, files.key
				config, want = &tls.Config{RootCAs: ca.pool()}, "HTTP/2.0"
			}
			s, err := httpserver.New(opts)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended, answer := make(chan error, 1), make(chan string, 1)
			go func() { ended <- s.Run(ctx) }()
			c := client(t, config)
			go func() {
				resp, err := c.Get(s.URL())
				if err != nil {
					answer <- err.Error()
					return
				}
				defer resp.Body.Close()
				body, _ := io.ReadAll(resp.Body)
				answer <- string(body)
			}()
			<-entered
			cancel()
			eventually(t, "refusal of new connections", func() bool {
				conn, err := net.DialTimeout("tcp", s.Addr().String(), time.Second)
				if err == nil {
					conn.Close()
				}
				return err != nil
			})
			select {
			case err := <-ended:
				t.Fatalf("Run returned before the request was answered: %v", err)
			default:
			}
			close(release)
			if got := <-answer; got != want {
				t.Errorf("running request got %q, want %q", got, want)
			}
			if err := <-ended; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
}

func TestShutdownTimeoutIsAnError(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	s, err := httpserver.New(httpserver.Options{
		Name: "test", Address: "127.0.0.1:0", ShutdownTimeout: 10 * time.Millisecond,
		Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { close(entered); <-release }),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended, answered := make(chan error, 1), make(chan struct{})
	go func() { ended <- s.Run(ctx) }()
	c := client(t, nil)
	go func() {
		defer close(answered)
		if resp, err := c.Get(s.URL()); err == nil {
			resp.Body.Close()
		}
	}()
	<-entered
	cancel()
	if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
	close(release)
	<-answered
}

func TestLimitAnswersOverflowAtOnce(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	var overflows atomic.Int64
	s := start(t, httpserver.Options{Handler: httpserver.Limit(2, func() { overflows.Add(1) }, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-release
	}))})
	c := client(t, nil)
	var running sync.WaitGroup
	for range 2 {
		running.Go(func() {
			resp, err := c.Get(s.URL())
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("a request within the limit: %v %v", resp, err)
			}
			if err == nil {
				resp.Body.Close()
			}
		})
	}
	<-entered
	<-entered
	resp, _ := get(t, c, s.URL())
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Values("Retry-After") != nil || overflows.Load() != 1 {
		t.Errorf("overflow: status %d, Retry-After %q, counted %d", resp.StatusCode, resp.Header.Values("Retry-After"), overflows.Load())
	}
	close(release)
	running.Wait()
	go func() { <-entered }()
	if resp, _ := get(t, c, s.URL()); resp.StatusCode != http.StatusOK {
		t.Errorf("after the overflow: status %d", resp.StatusCode)
	}
}

func TestPanicIsAnsweredAndLoggedWithoutItsValue(t *testing.T) {
	logs := &lockedBuffer{}
	s := start(t, httpserver.Options{Logger: slog.New(slog.NewTextHandler(logs, nil)), Handler: httpserver.Mux(
		httpserver.Route{Path: "/before", Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("hunter2") })},
		httpserver.Route{Path: "/half", Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, strings.Repeat("x", 1<<16))
			var none map[string]int
			none["x"] = 1 //nolint:staticcheck // it is meant to panic
		})},
	)})
	c := client(t, nil)
	resp, body := get(t, c, s.URL()+"/before")
	id := resp.Header.Get(httpserver.RequestIDHeader)
	if resp.StatusCode != http.StatusInternalServerError || body != "internal error\n" || len(id) != 16 {
		t.Errorf("got %d %q with id %q", resp.StatusCode, body, id)
	}
	resp, err := c.Get(s.URL() + "/half")
	if err == nil {
		if _, err = io.ReadAll(resp.Body); err == nil {
			t.Error("half an answer looks whole")
		}
		resp.Body.Close()
	}
	eventually(t, "the log lines", func() bool { return strings.Count(logs.String(), "handler panicked") == 2 })
	text := logs.String()
	if !strings.Contains(text, "panic=string") || !strings.Contains(text, "assignment to entry in nil map") || !strings.Contains(text, id) || strings.Contains(text, "hunter2") {
		t.Errorf("log: %s", text)
	}
}

func TestMuxHealthAndRequestID(t *testing.T) {
	notReady := errors.New("no keys")
	check := func() error { return notReady }
	s := start(t, httpserver.Options{Handler: httpserver.Mux(
		httpserver.Route{Path: "/healthz", Handler: httpserver.Healthz(), Methods: []string{http.MethodGet}},
		httpserver.Route{Path: "/readyz", Handler: httpserver.Readyz(func() error { return check() })},
		httpserver.Route{Path: "/groups/{id:[0-9]+}", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, httpserver.Vars(r)["id"]+" "+r.Header.Get(httpserver.RequestIDHeader))
		})},
	)})
	c := client(t, nil)
	for _, want := range []struct {
		path   string
		status int
		body   string
	}{
		{"/healthz", 200, "ok\n"},
		{"/readyz", 503, "not ready: no keys\n"},
		{"//healthz", 404, "404 page not found\n"},
		{"/groups/x", 404, "404 page not found\n"},
	} {
		if resp, body := get(t, c, s.URL()+want.path); resp.StatusCode != want.status || body != want.body {
			t.Errorf("%s: got %d %q", want.path, resp.StatusCode, body)
		}
	}
	notReady = nil
	if resp, _ := get(t, c, s.URL()+"/readyz"); resp.StatusCode != http.StatusOK {
		t.Errorf("readyz: %d", resp.StatusCode)
	}
	if resp, err := c.Post(s.URL()+"/healthz", "text/plain", nil); err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST /healthz: %v %v", resp, err)
	} else {
		resp.Body.Close()
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL()+"/groups/7", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(httpserver.RequestIDHeader, "forged")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if id := resp.Header.Get(httpserver.RequestIDHeader); string(body) != "7 "+id || id == "forged" {
		t.Errorf("got %q, id %q", body, id)
	}
}

func TestTLSFloor(t *testing.T) {
	ca, files := newAuthority(t), newFiles(t)
	cert, key := ca.issue(1)
	write(t, files.cert, cert)
	write(t, files.key, key)
	s := start(t, httpserver.Options{Handler: hello, CertFile: files.cert, KeyFile: files.key})
	for version, ok := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		d := tls.Dialer{Config: &tls.Config{RootCAs: ca.pool(), MinVersion: version, MaxVersion: version}}
		conn, err := d.DialContext(t.Context(), "tcp", s.Addr().String())
		if (err == nil) != ok {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			conn.Close()
		}
	}
}

// lockedBuffer is a log destination that can be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
