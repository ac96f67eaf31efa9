package app

import (
	"crypto/tls"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
)

// TestPublicCAIsReadAgain: the file is replaced while serve runs, and is for a moment not whole.
func TestPublicCAIsReadAgain(t *testing.T) {
	t.Parallel()
	srv := httptest.NewTLSServer(nil)
	defer srv.Close()
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	file := filepath.Join(t.TempDir(), "ca.pem")
	read := publicCA(config.Cluster{PublicCAFile: file}, &rest.Config{TLSClientConfig: rest.TLSClientConfig{CAData: []byte("the kubeconfig's")}})
	for i, content := range [][]byte{cert, nil, cert[:len(cert)/2], append(slices.Clone(cert), cert...)} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		whole := i == 0 || i == 3
		if got, err := read(); whole != (err == nil) || whole && string(got) != string(content) {
			t.Errorf("content %d: %d bytes, %v", i, len(got), err)
		}
	}
}

// TestCAOfGitLabIsReadAgain: GitLab's certificate is renewed by another CA while serve runs: what asks GitLab (keys, rounds,
// variables) goes on as soon as the file has the new CA, and is told of a file that can't be used.
func TestCAOfGitLabIsReadAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "ca.pem")
	gitlab := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	var now atomic.Pointer[tls.Certificate]
	issued := func() []byte {
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
		now.Store(&pair)
		return authority.PEM
	}
	write := func(content []byte) {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first := issued()
	write(first)
	gitlab.TLS = &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*now.Load()}}, nil
	}}
	gitlab.StartTLS()
	defer gitlab.Close()
	client, err := gitlabClient(config.GitLab{CAFile: file})
	if err != nil {
		t.Fatal(err)
	}
	get := func() error {
		client.CloseIdleConnections()
		resp, err := client.Get(gitlab.URL)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	}
	if err := get(); err != nil {
		t.Fatal(err)
	}
	second := issued()
	write(second[:len(second)/2])
	if err := get(); err == nil || !strings.Contains(err.Error(), "gitlab.caFile "+file) {
		t.Errorf("while the file is half written: %v", err)
	}
	write(second)
	if err := get(); err != nil {
		t.Errorf("with the new CA: %v", err)
	}
	if _, err := gitlabClient(config.GitLab{CAFile: filepath.Join(dir, "missing")}); err == nil {
		t.Error("a file that is missing at the start")
	}
}
