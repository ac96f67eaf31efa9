// Package browser opens the pages in Debian's Chromium, as people do: with GitLab's own forms, the real kubelogin and the
// real kubectl. It is a module of its own, so that what drives a browser is no dependency of the program.
package browser

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/freeport"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
)

// openEnv is the address of the window in which the test binary, called by kubelogin as xdg-open, opens its last argument.
const openEnv = "BROWSER_TEST_OPEN"

func TestMain(m *testing.M) {
	if at := os.Getenv(openEnv); at != "" {
		res, err := http.Post(at, "text/plain", strings.NewReader(os.Args[len(os.Args)-1])) //nolint:gosec // of the test
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		_ = res.Body.Close()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// many is how many projects the person with hundreds has.
const many = 400

// pageSecret is that of the page's OAuth application.
const pageSecret = "gloas-of-the-page"

// seed is a small university; those who sign in here have passwords.
func seed(page string) []byte {
	var b strings.Builder
	b.WriteString(`
users:
  - {id: 1, username: root, name: Administrator, admin: true, password: root-password}
  - {id: 2, username: alice, name: Alice Adams, password: alice-password}
  - {id: 3, username: bob, name: Bob Baker, password: bob-password}
  - {id: 4, username: carol, name: Carol Clark, password: carol-password}
  - {id: 5, username: hanna, name: Hanna Huber, password: hanna-password}
  - {id: 6, username: xavier, name: "<script>alert(2)</script>", password: xavier-password}
  - {id: 7, username: dora, name: Dora Dahl, password: dora-password}
groups:
  - {path: haw, name: HAW Hamburg, visibility: private, members: {carol: owner}}
  - {path: odd, name: "<script>alert(1)</script>", visibility: private, members: {xavier: maintainer}}
  - {id: 900, path: many, name: Many, visibility: private, members: {hanna: owner}}
projects:
  - {path: haw/world, name: World, visibility: private, defaultBranch: main, protectedBranches: [main], members: {alice: maintainer, bob: developer}}
  - {path: odd/thing, name: "<img src=x onerror=alert(3)>", visibility: private, members: {xavier: maintainer}}
`)
	for i := range many {
		fmt.Fprintf(&b, "  - {path: many/p%03d, name: P%03d, visibility: private}\n", i, i)
	}
	b.WriteString(`applications:
  - {name: kubectl, uid: kubelogin-app, trusted: true, redirectURIs: ["http://localhost:8000", "http://localhost:18000"], scopes: [openid]}
  - {name: Kubernetes access, uid: page-app, secret: ` + pageSecret + `, confidential: true, redirectURIs: ["` + page + `/signin/callback"], scopes: [openid, profile]}
`)
	return []byte(b.String())
}

// world is a GitLab, a cluster, and the integrator with its page.
type world struct {
	dir     string
	gitlab  *gitlabsim.Server
	cluster *controlplane.Cluster
	admin   kubernetes.Interface
	page    string // its address
	pageCA  []byte
	log     logFile
}

type logFile struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logFile) Write(p []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.b.Write(p) }

func (l *logFile) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

const configTemplate = `apiVersion: gl-k8s-integrator/v1alpha1
kind: Config
gitlab: {url: %[1]s, caFile: %[2]s/gitlab-ca.crt, readTokenFile: %[2]s/read-token, writeTokenFile: %[2]s/write-token}
cluster: {kubeconfig: %[2]s/kubeconfig, publicURL: "%[7]s", name: icc}
listeners:
  webhooks: {address: "%[3]s", certFile: %[2]s/tls.crt, keyFile: %[2]s/tls.key, clientCAFile: %[2]s/ca.crt}
  hooks: {address: "%[4]s", secretFile: %[2]s/hook-secret}
  metrics: {address: "%[5]s"}
  web: {address: "%[6]s", certFile: %[2]s/tls.crt, keyFile: %[2]s/tls.key}
  drainDelay: 1ms
web:
  url: https://%[6]s
  clientID: page-app
  clientSecretFile: %[2]s/web-secret
  sessionKeyFile: %[2]s/session-key
authn: {clientIDs: [kubelogin-app]}
rbacsync: {mode: enforce, interval: 10s, limits: {creationsPerHour: 3, creationsExempt: [5]}}
ci: {projects: [{source: group/900, delivery: none}]}
`

// newWorld starts everything and waits for the first rights.
func newWorld(t *testing.T) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: needs a control plane and a browser")
	}
	w := &world{dir: t.TempDir()}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ca, err := localcert.NewAuthority("browser")
	must(err)
	pair, err := ca.Server("integrator")
	must(err)
	client, err := ca.Client("kube-apiserver")
	must(err)
	w.pageCA = ca.PEM
	webhooks, hooks, metrics, page := freeport.For(t), freeport.For(t), freeport.For(t), freeport.For(t)
	w.page = "https://" + page
	w.gitlab, err = gitlabsim.New(gitlabsim.Options{Listen: "localhost:0", Seed: seed(w.page)})
	must(err)
	t.Cleanup(w.gitlab.Close)
	webhook := func(path string) *controlplane.Webhook {
		return &controlplane.Webhook{URL: "https://" + webhooks + path, CA: ca.PEM, ClientCert: client.Cert, ClientKey: client.Key}
	}
	w.cluster, err = controlplane.Start(t.Context(), controlplane.Options{
		Dir: filepath.Join(w.dir, "cluster"), Progress: os.Stderr, AuthnWebhook: webhook("/authenticate"), AuthzWebhook: webhook("/authorize"),
	})
	must(err)
	t.Cleanup(func() { _ = w.cluster.Stop() })
	must(deploy.Apply(t.Context(), w.cluster.AdminConfig()))
	w.admin, err = kubernetes.NewForConfig(w.cluster.AdminConfig())
	must(err)
	day := int64(86400)
	own, err := w.admin.CoreV1().ServiceAccounts(deploy.Namespace).CreateToken(t.Context(), deploy.ServiceAccount,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &day}}, metav1.CreateOptions{})
	must(err)
	must(w.cluster.WriteKubeconfig(filepath.Join(w.dir, "kubeconfig"), controlplane.KubeconfigUser{Name: "own", Token: own.Status.Token}, ""))
	for name, content := range map[string]string{
		"tls.crt": string(pair.Cert), "tls.key": string(pair.Key), "ca.crt": string(ca.PEM), "gitlab-ca.crt": string(w.gitlab.CA()),
		"hook-secret": "s3cret-of-the-hook", "read-token": w.gitlab.TokenFor("root", "read_api"), "write-token": w.gitlab.TokenFor("root", "api"),
		"web-secret": pageSecret, "session-key": sessionKey(),
	} {
		must(os.WriteFile(filepath.Join(w.dir, name), []byte(content), 0o600))
	}
	w.serve(t, fmt.Sprintf(configTemplate, w.gitlab.URL(), w.dir, webhooks, hooks, metrics, page, w.cluster.URL()))
	must(eventually("the first rights", time.Minute, func() bool {
		_, err := w.admin.RbacV1().RoleBindings("haw-world").Get(t.Context(), "gitlab-edit", metav1.GetOptions{})
		return err == nil
	}))
	_, err = w.gitlab.AddSystemHook(gitlabsim.SeedHook{URL: "http://" + hooks + "/hooks/gitlab", Token: "s3cret-of-the-hook"})
	must(err)
	return w
}

// sessionKey is a new key of the page's sessions.
func sessionKey() string {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return base64.StdEncoding.EncodeToString(key)
}

// serve runs the integrator in this process, until the test ends.
func (w *world) serve(t *testing.T, text string) {
	t.Helper()
	path := filepath.Join(w.dir, "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- app.Serve(ctx, cfg, slog.New(slog.NewJSONHandler(io.MultiWriter(&w.log), &slog.HandlerOptions{Level: slog.LevelDebug})))
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil && ctx.Err() == nil {
			t.Errorf("the integrator ended: %v", err)
		}
		if t.Failed() {
			t.Logf("the end of the integrator's log:\n%s", tail(w.log.String(), 4000))
		}
	})
}

func tail(s string, n int) string {
	if len(s) > n {
		return s[len(s)-n:]
	}
	return s
}

func (w *world) user(name string) (id int64) {
	w.gitlab.World().View(func(v *gitlabsim.View) { id = v.UserByName(name).ID })
	return id
}

// laptop is a machine with kubectl, kubelogin and a browser, and nothing else.
type laptop struct {
	w    *world
	home string
	open string // where xdg-open brings addresses
}

// laptop gives somebody a laptop whose browser is the window: what kubelogin opens becomes a new tab of it.
func (w *world) laptop(t *testing.T, of *window, opened func(*window)) *laptop {
	t.Helper()
	kubelogin, err := controlplane.EnsureKubelogin(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := &laptop{w: w, home: t.TempDir()}
	bin := filepath.Join(l.home, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"kubectl": w.cluster.Kubectl(), "kubectl-oidc_login": kubelogin, "xdg-open": self} {
		if err := os.Symlink(target, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var tabs sync.WaitGroup
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		address, _ := io.ReadAll(io.LimitReader(r.Body, 1<<16))
		tabs.Go(func() { opened(of.tab(string(address))) })
	})}
	go func() { _ = server.Serve(inner) }()
	t.Cleanup(func() { _ = server.Close(); tabs.Wait() })
	l.open = "http://" + inner.Addr().String()
	return l
}

// save has a person click the button that downloads the kubeconfig, and puts the file where browsers put files, under its name.
func (l *laptop) save(t *testing.T, from *window) {
	t.Helper()
	name, at := from.download(`//a[@download]`)
	folder := filepath.Join(l.home, "Downloads")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(at, filepath.Join(folder, name)); err != nil {
		t.Fatal(err)
	}
}

// run runs lines in a shell, as somebody does who copies them into a terminal.
func (l *laptop) run(t *testing.T, lines string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", lines)
	cmd.Dir = l.home
	cmd.Env = []string{"HOME=" + l.home, "PATH=" + filepath.Join(l.home, "bin") + ":/usr/bin:/bin", openEnv + "=" + l.open}
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}
