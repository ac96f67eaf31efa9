package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	authnv1 "k8s.io/api/authentication/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/freeport"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// reloading is a process of serve, in this one, with a GitLab, a cluster, and a configuration that is mounted as a ConfigMap is.
type reloading struct {
	*testing.T
	dir               string
	gitlab            *gitlabsim.Server
	cluster           *controlplane.Cluster
	admin             kubernetes.Interface
	client            http.Client
	webhooks, metrics string
	hooks             string
	project           int64
	swaps             int
	log               syncBuffer
	again             chan os.Signal
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *syncBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *syncBuffer) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

func newReloading(t *testing.T) *reloading {
	t.Helper()
	s := &reloading{T: t, dir: t.TempDir(), client: http.Client{Timeout: 10 * time.Second}, webhooks: freeport.For(t), metrics: freeport.For(t), hooks: freeport.For(t), again: make(chan os.Signal, 1)}
	t.Cleanup(func() {
		for line := range strings.Lines(s.log.String()) {
			if t.Failed() && !strings.Contains(line, `"token reviewed"`) {
				t.Log(line)
			}
		}
	})
	var err error
	s.gitlab, err = gitlabsim.New(gitlabsim.Options{Seed: []byte(`
users:
  - {username: root, name: Administrator, admin: true}
  - {username: alice, name: Alice}
  - {username: bob, name: Bob}
  - {username: carol, name: Carol}
groups:
  - {path: haw, name: HAW, visibility: private}
projects:
  - {path: haw/world, name: World, visibility: private, members: {alice: maintainer, bob: developer}}
`)})
	s.must(err)
	t.Cleanup(s.gitlab.Close)
	s.cluster, err = controlplane.Start(t.Context(), controlplane.Options{Progress: os.Stderr})
	s.must(err)
	t.Cleanup(func() { _ = s.cluster.Stop() })
	s.must(deploy.Apply(t.Context(), s.cluster.AdminConfig()))
	s.admin, err = kubernetes.NewForConfig(s.cluster.AdminConfig())
	s.must(err)
	hour := int64(3600)
	own, err := s.admin.CoreV1().ServiceAccounts(deploy.Namespace).CreateToken(t.Context(), deploy.ServiceAccount,
		&authnv1.TokenRequest{Spec: authnv1.TokenRequestSpec{ExpirationSeconds: &hour}}, metav1.CreateOptions{})
	s.must(err)
	s.must(s.cluster.WriteKubeconfig(filepath.Join(s.dir, "kubeconfig"), controlplane.KubeconfigUser{Name: "own", Token: own.Status.Token}, ""))
	ca, err := localcert.NewAuthority("reload")
	s.must(err)
	pair, err := ca.Server("webhooks")
	s.must(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.PEM)
	s.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, MaxIdleConnsPerHost: 8}
	for name, content := range map[string]string{
		"tls.crt": string(pair.Cert), "tls.key": string(pair.Key), "gitlab-ca.crt": string(s.gitlab.CA()), "read-token": s.gitlab.TokenFor("root", "read_api"), "hook-secret": "s3cret-of-the-hook",
	} {
		s.must(os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o600))
	}
	s.must(os.MkdirAll(filepath.Join(s.dir, "mount"), 0o700))
	s.must(os.Symlink(filepath.Join("..data", "config.yaml"), s.path()))
	s.gitlab.World().View(func(v *gitlabsim.View) { s.project = v.ProjectByPath("haw/world").ID })
	return s
}

func (s *reloading) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *reloading) path() string { return filepath.Join(s.dir, "mount", "config.yaml") }

// write swaps the file as kubelet does in the mount of a ConfigMap: another folder, and a link that is replaced.
func (s *reloading) write(more string) {
	s.Helper()
	s.swaps++
	name := fmt.Sprintf("..%d", s.swaps)
	folder := filepath.Join(s.dir, "mount", name)
	s.must(os.Mkdir(folder, 0o700))
	text := fmt.Sprintf(`apiVersion: gl-k8s-integrator/v1alpha1
kind: Config
gitlab: {url: %[1]s, caFile: %[2]s/gitlab-ca.crt, readTokenFile: %[2]s/read-token}
cluster: {kubeconfig: %[2]s/kubeconfig}
ci: {delivery: none}
%[3]s`, s.gitlab.URL(), s.dir, more)
	if !strings.Contains(more, "listeners") {
		text += s.listeners("1ms")
	}
	if !strings.Contains(more, "authn") {
		text += "authn: {clientIDs: [kubelogin]}\n"
	}
	s.must(os.WriteFile(filepath.Join(folder, "config.yaml"), []byte(text), 0o600))
	link := filepath.Join(s.dir, "mount", "..next")
	s.must(os.Symlink(name, link))
	s.must(os.Rename(link, filepath.Join(s.dir, "mount", "..data")))
}

func (s *reloading) listeners(drain string) string {
	return fmt.Sprintf("listeners: {webhooks: {address: %q, certFile: %[2]s/tls.crt, keyFile: %[2]s/tls.key}, metrics: {address: %[3]q}, hooks: {address: %[5]q, secretFile: %[2]s/hook-secret}, drainDelay: %[4]s}\n", s.webhooks, s.dir, s.metrics, drain, s.hooks)
}

// start runs the process; stop ends it.
func (s *reloading) start() (stop func()) {
	s.Helper()
	cfg, err := config.Load(s.path())
	s.must(err)
	ctx, cancel := context.WithCancel(s.Context())
	ended := make(chan error, 1)
	log := slog.New(slog.NewJSONHandler(&s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	go func() {
		ended <- ServeFile(ctx, File{Path: s.path(), Config: cfg, Now: s.again, Every: 20 * time.Millisecond}, log)
	}()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			s.Errorf("the end: %v", err)
		}
	})
}

func (s *reloading) eventually(what string, ok func() bool) {
	s.Helper()
	for start := time.Now(); time.Since(start) < 30*time.Second; time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	s.Fatalf("not within 30 s: %s", what)
}

func (s *reloading) user(name string) (id int64) {
	s.gitlab.World().View(func(v *gitlabsim.View) { id = v.UserByName(name).ID })
	return id
}

// has reports whether a person is in a binding of the project's namespace.
func (s *reloading) has(binding, name string) bool {
	rb, err := s.admin.RbacV1().RoleBindings("haw-world").Get(s.Context(), binding, metav1.GetOptions{})
	return err == nil && slices.ContainsFunc(rb.Subjects, func(x rbacv1.Subject) bool { return x.Name == fmt.Sprintf("gitlab:%d", s.user(name)) })
}

// logIn returns why a token is not accepted.
func (s *reloading) logIn(token string) string {
	body, err := json.Marshal(authnv1.TokenReview{TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenReview"}, Spec: authnv1.TokenReviewSpec{Token: token}})
	if err != nil {
		return err.Error()
	}
	res, err := s.client.Post("https://"+s.webhooks+"/authenticate", "application/json", bytes.NewReader(body))
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	var review authnv1.TokenReview
	if err := json.NewDecoder(res.Body).Decode(&review); err != nil {
		return fmt.Sprintf("%s: %v", res.Status, err)
	}
	if !review.Status.Authenticated {
		return "refused: " + review.Status.Error
	}
	return ""
}

func (s *reloading) metric(line string) bool {
	res, err := s.client.Get("http://" + s.metrics + "/metrics")
	if err != nil {
		return false
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return err == nil && strings.Contains(string(text), "\ngl_k8s_integrator_"+line+"\n")
}

// told reports whether the status of the leader has a finding with this text.
func (s *reloading) told(text string) bool {
	cm, err := s.admin.CoreV1().ConfigMaps(deploy.Namespace).Get(s.Context(), store.NameStatus, metav1.GetOptions{})
	return err == nil && strings.Contains(cm.Data["status.json"], text)
}

// checksRoles: check-config names each ClusterRole that nobody could be given, and no other one; without a way to the cluster
// that is not a fault.
func (s *reloading) checksRoles() {
	s.Helper()
	s.write("authz: {roles: [{clusterRole: nowhere, levels: [owner]}, {clusterRole: cluster-admin, levels: [maintainer]}, {clusterRole: view, levels: [developer]}]}\n")
	cfg, err := config.Load(s.path())
	s.must(err)
	unknown, err := CheckClusterRoles(s.Context(), cfg)
	if unknown != "" || err == nil || strings.Count(err.Error(), "\n") != 1 || !strings.Contains(err.Error(), `"nowhere": the integrator has no right to bind it`) || !strings.Contains(err.Error(), `"cluster-admin": the integrator has no right to bind it`) {
		s.Errorf("ClusterRoles: %q, %v", unknown, err)
	}
	s.must(os.WriteFile(filepath.Join(s.dir, "kubeconfig"), []byte(`{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}],
  clusters: [{name: a, cluster: {server: "http://127.0.0.1:1"}}], users: [{name: a, user: {token: none}}]}`), 0o600))
	if unknown, err := CheckClusterRoles(s.Context(), cfg); unknown == "" || err != nil {
		s.Errorf("without a cluster: %q, %v", unknown, err)
	}
}

// TestReloadUnderLoad: while people log in all the time and the cluster follows GitLab, the configuration is changed in all
// ways. What may be taken over is, as a start would; what may not leaves everything as it was. Nobody is ever refused, and when
// it ends nothing goes on.
func TestReloadUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: needs a real control plane")
	}
	s := newReloading(t)
	leaks := goleak.IgnoreCurrent()
	const rules = "rbacsync: {mode: enforce, interval: 30m}\n"
	s.write(rules)
	stop := s.start()
	defer stop()
	token, err := s.gitlab.MintUserIDToken(s.user("alice"), "kubelogin", gitlabsim.TokenOptions{})
	s.must(err)
	s.eventually("the first login", func() bool { return s.logIn(token) == "" })
	s.eventually("the first rights", func() bool { return s.has("gitlab-edit", "alice") && s.has("gitlab-view", "bob") })

	_, err = s.gitlab.AddSystemHook(gitlabsim.SeedHook{URL: "http://" + s.hooks + "/hooks/gitlab", Token: "s3cret-of-the-hook"}) // all changes come by hooks
	s.must(err)

	done, logins := make(chan struct{}), atomic.Int64{}
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if why := s.logIn(token); why != "" {
					t.Errorf("a login during a reload: %s", why)
					return
				}
				logins.Add(1)
			}
		})
	}

	t.Log("another meaning of a level: after everything was read again")
	s.write(rules + "authz: {roles: [{clusterRole: edit, levels: [maintainer, owner, developer]}, {clusterRole: view, levels: [reporter]}]}\n")
	s.eventually("bob may edit", func() bool { return s.has("gitlab-edit", "bob") && !s.has("gitlab-view", "bob") })
	if s.metric("config_last_reload_successful 0") {
		t.Error("a good configuration is a fault in the metric")
	}

	t.Log("a faulty file: the one before stays in use, and goes on to work")
	s.write(rules + "authz: {roles: [{clusterRole: edit, levels: [maintainer, \"glpat-secret\"]}]}\n")
	s.eventually("the metric", func() bool { return s.metric("config_last_reload_successful 0") })
	s.eventually("the finding", func() bool { return s.told("config_faulty: the configuration file") })
	s.must(s.gitlab.World().SetMember(gitlabsim.KindProject, s.project, s.user("carol"), gitlabsim.Developer, ""))
	s.eventually("carol may edit, by the configuration before", func() bool { return s.has("gitlab-edit", "carol") })
	if s.told("glpat-secret") {
		t.Error("the status repeats what is in the file")
	}

	t.Log("a file that also changes what needs a restart: nothing of it is taken over")
	s.write("rbacsync: {mode: plan, interval: 30m}\nauthn: {clientIDs: [another]}\n" + s.listeners("2s"))
	s.eventually("the finding", func() bool { return s.told("listeners.drainDelay can't be changed while the process runs") })
	if !s.has("gitlab-edit", "bob") || s.logIn(token) != "" {
		t.Error("a part of the file was taken over")
	}

	t.Log("plan: nothing more is written; then enforce again")
	s.write("rbacsync: {mode: plan, interval: 30m}\n")
	s.eventually("mode plan", func() bool {
		return s.told(`"mode":"plan"`) && s.metric("config_last_reload_successful 1") && !s.told("config_restart")
	})
	s.must(s.gitlab.World().SetMember(gitlabsim.KindProject, s.project, s.user("root"), gitlabsim.Maintainer, ""))
	s.eventually("a plan with a change", func() bool { return s.metric("leader 1") && !s.metric("planned_changes 0") })
	if s.has("gitlab-edit", "root") || !s.has("gitlab-edit", "bob") {
		t.Error("written in mode plan")
	}
	s.write(rules)
	s.eventually("what the last configuration gives", func() bool { return s.has("gitlab-edit", "root") && s.has("gitlab-view", "bob") })

	s.eventually("the round of that configuration", func() bool { return s.told(`"mode":"enforce"`) })

	t.Log("a change that takes something from more people than the brake lets pass: held, as after a start")
	s.write("rbacsync: {mode: enforce, interval: 30m, limits: {policy: {count: 1}}}\nauthz: {exclude: {people: [bob, carol]}}\n")
	s.eventually("what is held", func() bool { return s.told("held: ") })
	if !s.has("gitlab-view", "bob") || !s.has("gitlab-view", "carol") {
		t.Error("the brake did not hold")
	}

	t.Log("many changes, one after the other")
	for i := range 20 {
		s.write(rules + fmt.Sprintf("authz: {loginHint: \"hint %d\", explain: {replicas: %d}}\nauthn: {clientIDs: [kubelogin], leeway: %ds}\n", i, 1+i%3, 1+i%7))
		s.again <- os.Interrupt // any signal asks
		if i%5 == 4 {
			s.write(fmt.Sprintf("rbacsync: {mode: enforce, interval: %dm}\n", 30+i))
			s.again <- os.Interrupt
		}
	}
	s.must(s.gitlab.World().SetMember(gitlabsim.KindProject, s.project, s.user("carol"), gitlabsim.Maintainer, ""))
	s.eventually("the cluster follows GitLab as before", func() bool { return s.has("gitlab-edit", "carol") })
	close(done)
	load.Wait()
	s.checksRoles()
	if logins.Load() < 100 {
		t.Errorf("only %d logins", logins.Load())
	}
	stop()
	s.client.CloseIdleConnections()
	options := []goleak.Option{leaks}
	for _, connection := range []string{ // of clients, which live as long as a process, and of the simulated GitLab
		"net/http.(*persistConn).readLoop", "net/http.(*persistConn).writeLoop", "net/http.(*conn).serve", "net/http.(*http2serverConn).readFrames",
		"golang.org/x/net/http2.(*ClientConn).readLoop", "net/http.(*http2ClientConn).readLoop",
	} {
		options = append(options, goleak.IgnoreAnyFunction(connection))
	}
	goleak.VerifyNone(t, options...)
}

// TestTheSamplePlantsNoFinding: deploy/config.yaml, with nothing but the names of hosts and files changed, is a configuration
// without a finding.
func TestTheSamplePlantsNoFinding(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: needs a real control plane")
	}
	s := newReloading(t)
	cfg, err := config.Load("../../deploy/config.yaml")
	s.must(err)
	cfg.GitLab = config.GitLab{URL: s.gitlab.URL(), CAFile: filepath.Join(s.dir, "gitlab-ca.crt"), ReadTokenFile: filepath.Join(s.dir, "read-token"), WriteTokenFile: filepath.Join(s.dir, "read-token"), SampleSize: cfg.GitLab.SampleSize}
	cfg.Cluster.Kubeconfig = filepath.Join(s.dir, "kubeconfig")
	c, err := connect(cfg)
	s.must(err)
	round, err := once(t.Context(), cfg, c, syncer.Mode(cfg.RBACSync.Mode), slog.New(slog.DiscardHandler), nil)
	s.must(err)
	if len(round.Findings) > 0 || len(round.Plan) == 0 {
		t.Errorf("%d changes planned, findings %+v", len(round.Plan), round.Findings)
	}
	if unknown, err := CheckClusterRoles(t.Context(), cfg); unknown != "" || err != nil {
		t.Errorf("ClusterRoles: %q, %v", unknown, err)
	}
}
