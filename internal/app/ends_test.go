package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/expiry"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/metrics"
)

// TestEveryEndIsShown: all that can end is told as the certificates say it, and docs/alerts.md has a row for each.
func TestEveryEndIsShown(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	ca, err := localcert.NewAuthority("ca")
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // certificates end at whole seconds, and each shall end at another one
	server, err := ca.Server("server", "localhost")
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	client, err := ca.Client("kube-apiserver")
	if err != nil {
		t.Fatal(err)
	}
	caFile, certFile, keyFile := file("ca.crt", ca.PEM), file("tls.crt", server.Cert), file("tls.key", server.Key)
	kubeconfig := clientcmdapi.NewConfig()
	kubeconfig.Clusters["a"] = &clientcmdapi.Cluster{Server: "https://127.0.0.1:1", CertificateAuthority: caFile}
	kubeconfig.AuthInfos["a"] = &clientcmdapi.AuthInfo{ClientCertificate: file("client.crt", client.Cert), ClientKey: file("client.key", client.Key)}
	kubeconfig.Contexts["a"] = &clientcmdapi.Context{Cluster: "a", AuthInfo: "a"}
	kubeconfig.CurrentContext = "a"
	if err := clientcmd.WriteToFile(*kubeconfig, filepath.Join(dir, "kubeconfig")); err != nil {
		t.Fatal(err)
	}
	token := file("token", []byte("s3cret"))
	cfg := &config.Config{
		GitLab:  config.GitLab{URL: "https://127.0.0.1:1", CAFile: caFile, ReadTokenFile: token, WriteTokenFile: token},
		Cluster: config.Cluster{Kubeconfig: filepath.Join(dir, "kubeconfig")},
		Listeners: config.Listeners{
			Webhooks: config.Listener{Address: "127.0.0.1:0", CertFile: certFile, KeyFile: keyFile, ClientCAFile: caFile, MaxInFlight: 1},
			Hooks:    config.HooksListener{Address: "127.0.0.1:0", CertFile: certFile, KeyFile: keyFile},
			Metrics:  config.MetricsListener{Address: "127.0.0.1:0", CertFile: certFile, KeyFile: keyFile, TokenFile: token},
			Web:      config.WebListener{Address: "127.0.0.1:0", CertFile: certFile, KeyFile: keyFile},
		},
	}
	log := slog.New(slog.DiscardHandler)
	c, err := connect(cfg)
	if err != nil {
		t.Fatal(err)
	}
	nothing := http.NotFoundHandler()
	p := ports{log: log, metrics: metrics.New()}
	servers, err := bind([]httpserver.Options{
		p.webhooks(cfg.Listeners.Webhooks, httpserver.Route{Path: "/", Handler: nothing}), p.hooks(cfg.Listeners.Hooks, nothing),
		p.health(cfg.Listeners.Metrics, func() error { return nil }), p.people(cfg.Listeners.Web, nothing, nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, len(servers))
	for _, s := range servers {
		go func() { done <- s.Run(ctx) }()
	}
	defer func() {
		stop()
		for range servers {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.PEM)
	pair, err := tls.X509KeyPair(client.Cert, client.Key)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "localhost", Certificates: []tls.Certificate{pair}}}
	defer transport.CloseIdleConnections()
	ask := func(url, token string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if slices.ContainsFunc(certificateEnds(cfg, c, servers), func(e expiry.End) bool { return e.What == apiServerCertificate }) {
		t.Error("the certificate of kube-apiserver is known before it showed one")
	}
	ask(servers[0].URL(), "")
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/metrics": 401} {
		if got := ask(servers[2].URL()+path, ""); got != want {
			t.Errorf("%s without a token: %d, want %d", path, got, want)
		}
	}
	if got := ask(servers[2].URL()+"/metrics", "s3cret"); got != http.StatusOK {
		t.Errorf("/metrics with the token: %d", got)
	}

	ends := map[string]time.Time{}
	for _, e := range certificateEnds(cfg, c, servers) {
		ends[e.What] = e.At
	}
	for what, at := range ends {
		text := server.Cert
		switch {
		case what == "cluster.kubeconfig" || what == apiServerCertificate:
			text = client.Cert
		case strings.HasSuffix(strings.ToLower(what), "cafile"):
			text = ca.PEM
		}
		if want, err := expiry.OfChainPEM(text); err != nil || !at.Equal(want) {
			t.Errorf("%s ends %v, want %v: %v", what, at, want, err)
		}
	}
	reader, err := gitlab.NewReader(gitlab.Options{BaseURL: cfg.GitLab.URL, Token: secretFile(token, "")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newTokens(cfg, c, reader, log); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/alerts.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "\n| `what` |")
	table, _, _ = strings.Cut(table, "\n\n")
	var rows, want []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(table, -1) {
		rows = append(rows, m[1])
	}
	want = append(want, "gitlab.readTokenFile", "gitlab.writeTokenFile") // by newTokens
	for what := range ends {
		want = append(want, what)
	}
	slices.Sort(rows)
	slices.Sort(want)
	if !slices.Equal(rows, want) {
		t.Errorf("docs/alerts.md has rows for\n%q, what can end is\n%q", rows, want)
	}
}

// TestListenersInTheDocs: the part of a configuration on docs/metrics.md has no key that does not exist.
func TestListenersInTheDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(blocks) != 1 {
		t.Fatalf("%d blocks", len(blocks))
	}
	var c config.Config
	if err := yaml.UnmarshalStrict([]byte(blocks[0][1]), &c); err != nil || c.Listeners.Metrics.TokenFile == "" {
		t.Errorf("%+v: %v", c.Listeners.Metrics, err)
	}
}
