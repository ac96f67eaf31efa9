package doctor_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/doctor"
)

// silent listens and never answers.
func silent(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return "http://" + l.Addr().String()
}

// TestNothingAnswers: where each side takes connections and stays silent, the doctor ends in its time and says so of all of them.
func TestNothingAnswers(t *testing.T) {
	t.Parallel()
	gitlab, kube := silent(t), silent(t)
	cfg := &config.Config{}
	cfg.GitLab.URL, cfg.GitLab.WriteTokenFile = gitlab, "write"
	cfg.Authn.ClientIDs = []string{"a"}
	rc := &rest.Config{Host: kube}
	client, err := kubernetes.NewForConfig(rc)
	if err != nil {
		t.Fatal(err)
	}
	token := func() (string, error) { return "x", nil }
	webhook := filepath.Join(t.TempDir(), "webhook.kubeconfig")
	server := strings.Replace(silent(t), "http:", "https:", 1)
	text := fmt.Sprintf("{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: a}}], clusters: [{name: a, cluster: {server: '%s/authenticate'}}]}", server)
	if err := os.WriteFile(webhook, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
	defer cancel()
	f := doctor.Collect(ctx, doctor.Sources{
		Config: cfg, GitLab: &http.Client{}, ReadToken: token, WriteToken: token, Kube: client, KubeConfig: rc, AuthnKubeconfig: webhook, Now: time.Now,
	})
	if ctx.Err() != nil {
		t.Error("it does not end by itself")
	}
	if f.GitLab.Fault != doctor.Away || f.Cluster.Fault != doctor.Away || f.Authn.Fault != doctor.Away {
		t.Errorf("GitLab %q, kube-apiserver %q, webhook %q", f.GitLab.Text, f.Cluster.Text, f.Authn.Text)
	}
	if r := doctor.Judge(f); r.Healthy || len(r.Problems) != 3 || len(r.NotLookedAt) != 2 {
		t.Errorf("got %+v", r)
	}
}

// TestKeysThatServeRefuses: keys on another host than GitLab's, named by its discovery document or behind a redirect, are no keys for
// serve, so the doctor does not call them well.
func TestKeysThatServeRefuses(t *testing.T) {
	t.Parallel()
	keys := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"keys":[{}]}`) })
	elsewhere := httptest.NewServer(keys)
	t.Cleanup(elsewhere.Close)
	for name, at := range map[string]func(own string) string{
		"its own":           func(own string) string { return own + "/keys" },
		"another host's":    func(string) string { return elsewhere.URL + "/keys" },
		"behind a redirect": func(own string) string { return own + "/moved" },
	} {
		var gitlab *httptest.Server
		gitlab = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/.well-known/openid-configuration":
				fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, gitlab.URL, at(gitlab.URL))
			case "/keys":
				keys(w, r)
			case "/moved":
				http.Redirect(w, r, elsewhere.URL+"/keys", http.StatusFound)
			default:
				http.NotFound(w, r)
			}
		}))
		t.Cleanup(gitlab.Close)
		cfg := &config.Config{}
		cfg.GitLab.URL = gitlab.URL
		f := doctor.Collect(t.Context(), doctor.Sources{Config: cfg, GitLab: gitlab.Client(), Now: time.Now})
		if bad := f.GitLab.KeysBad != ""; bad != (name != "its own") || f.GitLab.Fault != doctor.None {
			t.Errorf("%s: keys bad: %q, GitLab %q", name, f.GitLab.KeysBad, f.GitLab.Text)
		}
	}
}
