package app

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeconfig"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
)

// TestPeopleGetTheCAThatTheyNeed: a bundle of many CAs, as systems have one, is cut down to what verifies GitLab, and looked at
// again only when it changes. A small one is given as it is, without asking GitLab.
func TestPeopleGetTheCAThatTheyNeed(t *testing.T) {
	var connections atomic.Int64
	gitlab := httptest.NewUnstartedServer(http.NotFoundHandler())
	gitlab.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	gitlab.StartTLS()
	defer gitlab.Close()
	own := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: gitlab.Certificate().Raw})
	other, err := localcert.NewAuthority("another CA")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cfg := &config.Config{
		GitLab:  config.GitLab{URL: gitlab.URL, CAFile: file("gitlab-ca.crt", append(bytes.Repeat(other.PEM, 60), own...))},
		Cluster: config.Cluster{PublicURL: "https://icc.example.com:6443", PublicCAFile: file("ca.crt", other.PEM)},
		Authn:   config.Authn{ClientIDs: []string{"kubelogin"}},
	}
	for address, want := range map[string]string{"": "", "127.0.0.1:8446": "https://access.example.com"} {
		cfg.Listeners.Web.Address, cfg.Web.URL = address, "https://access.example.com"
		if k, err := newKubeconfigs(cfg); err != nil || k.c.Server != want {
			t.Errorf("listeners.web.address %q: people's programs ask %q, want %q: %v", address, k.c.Server, want, err)
		}
	}
	k, err := newKubeconfigs(cfg)
	if err != nil {
		t.Fatal(err)
	}
	given := func() string {
		t.Helper()
		text, err := k.file(t.Context(), kubeconfig.Default, []string{"haw"})
		if err != nil {
			t.Fatal(err)
		}
		c, err := clientcmd.Load(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, arg := range c.AuthInfos["icc.example.com/gitlab"].Exec.Args {
			if data, ok := strings.CutPrefix(arg, "--certificate-authority-data="); ok {
				ca, err := base64.StdEncoding.DecodeString(data)
				if err != nil {
					t.Fatal(err)
				}
				return string(ca)
			}
		}
		return ""
	}
	if have := given(); have != string(own) || given() != have || connections.Load() != 1 {
		t.Errorf("of a large bundle people get %d bytes; %d connections", len(have), connections.Load())
	}
	file("gitlab-ca.crt", other.PEM)
	if given() != string(other.PEM) || connections.Load() != 1 {
		t.Errorf("of a small bundle people get something else; %d connections", connections.Load())
	}
	file("gitlab-ca.crt", bytes.Repeat(other.PEM, 60))
	if _, err := k.file(t.Context(), kubeconfig.Default, nil); err == nil || !strings.Contains(err.Error(), "gitlab.caFile") {
		t.Errorf("a large bundle that does not verify GitLab: %v", err)
	}
}
