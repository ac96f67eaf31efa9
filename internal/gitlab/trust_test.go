package gitlab

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
)

// TestTheCAChanges: from the next request on the present CA is trusted and no other; one that can't be used changes nothing
// but what a failing request says.
func TestTheCAChanges(t *testing.T) {
	serve := func() (url string, ca []byte) {
		authority, err := localcert.NewAuthority("test")
		if err != nil {
			t.Fatal(err)
		}
		server, err := authority.Server("gitlab")
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(server.Cert, server.Key)
		if err != nil {
			t.Fatal(err)
		}
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
		s.StartTLS()
		t.Cleanup(s.Close)
		return s.URL, authority.PEM
	}
	urlA, a := serve()
	urlB, b := serve()
	type content struct {
		pem []byte
		err error
	}
	var file atomic.Pointer[content]
	file.Store(&content{err: errors.New("no such file")})
	read := func() ([]byte, error) { c := file.Load(); return c.pem, c.err }
	if _, err := NewWatchingHTTPClient(read, time.Minute); err == nil {
		t.Error("a client without a CA")
	}
	file.Store(&content{pem: a})
	client, err := NewWatchingHTTPClient(read, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdleConnections()
	get := func(url string) error {
		resp, err := client.Get(url)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	}
	both := append(append([]byte{}, a...), b...)
	for _, step := range []struct {
		name         string
		now          content
		goodA, goodB bool
		says         string
	}{
		{"the first", content{pem: a}, true, false, ""},
		{"another", content{pem: b}, false, true, ""},
		{"half written", content{pem: a[:len(a)/2]}, false, true, "no certificate found in it"},
		{"gone", content{err: errors.New("open ca.crt: no such file")}, false, true, "open ca.crt: no such file"},
		{"back", content{pem: a}, true, false, ""},
		{"both", content{pem: both}, true, true, ""},
		{"one of both", content{pem: b}, false, true, ""},
	} {
		file.Store(&step.now)
		for url, good := range map[string]bool{urlA: step.goodA, urlB: step.goodB} {
			err := get(url)
			if (err == nil) != good {
				t.Errorf("%s: %v, want trusted %t", step.name, err, good)
			}
			if err == nil {
				continue
			}
			if !errors.As(err, new(x509.UnknownAuthorityError)) || !strings.Contains(err.Error(), step.says) {
				t.Errorf("%s: %v, want %q in it", step.name, err, step.says)
			}
		}
	}
	// No request is lost while the CA changes.
	var all sync.WaitGroup
	file.Store(&content{pem: both})
	for range 4 {
		all.Go(func() {
			for n := range 50 {
				if n%5 == 0 {
					file.Store(&content{pem: append(append([]byte{}, both...), make([]byte, n)...)})
				}
				if err := get(urlA); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}
