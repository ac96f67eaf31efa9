package replicas_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	authzv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/freeport"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
)

// configEnv makes this test binary a replica.
const configEnv = "REPLICAS_TEST_CONFIG"

func TestMain(m *testing.M) {
	path := os.Getenv(configEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	cfg, err := config.Load(path)
	if err == nil {
		err = app.Serve(ctx, cfg, slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})))
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

const seed = `
users:
  - {username: root, name: Administrator, admin: true, password: root-password}
  - {username: alice, name: Alice, password: alice-password}
  - {username: bob, name: Bob, password: bob-password}
  - {username: carol, name: Carol, password: carol-password}
groups:
  - {path: haw, name: HAW, visibility: private}
projects:
  - {path: haw/world, name: World, visibility: private, members: {alice: maintainer, bob: developer}}
`

// world is one GitLab and one cluster, and the replicas on them.
type world struct {
	t       *testing.T
	dir     string
	gitlab  *gitlabsim.Server
	cluster *controlplane.Cluster
	admin   kubernetes.Interface
	client  http.Client
	project int64

	drainDelay time.Duration // of the replicas; zero: almost none
	rbacsync   string        // further settings of theirs, each after a comma
	delivery   string        // of CI credentials; "": none
	program    string        // that replicas which start from now on run; "": this version's
}

// replica is one process.
type replica struct {
	w                        *world
	name                     string
	cmd                      *exec.Cmd
	log                      *logFile
	webhooks, hooks, metrics string
}

type logFile struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logFile) Write(p []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.b.Write(p) }

func (l *logFile) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

func newWorld(t *testing.T) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: needs a real control plane")
	}
	w := &world{t: t, dir: t.TempDir(), client: http.Client{Timeout: 10 * time.Second}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	w.gitlab, err = gitlabsim.New(gitlabsim.Options{Seed: []byte(seed)})
	must(err)
	t.Cleanup(w.gitlab.Close)
	w.cluster, err = controlplane.Start(t.Context(), controlplane.Options{Dir: filepath.Join(w.dir, "cluster"), Progress: os.Stderr})
	must(err)
	t.Cleanup(func() { _ = w.cluster.Stop() })
	must(deploy.Apply(t.Context(), w.cluster.AdminConfig()))
	w.admin, err = kubernetes.NewForConfig(w.cluster.AdminConfig())
	must(err)
	w.credentials()
	ca, err := localcert.NewAuthority("replicas")
	must(err)
	pair, err := ca.Server("webhooks")
	must(err)
	for name, content := range map[string]string{
		"tls.crt": string(pair.Cert), "tls.key": string(pair.Key), "gitlab-ca.crt": string(w.gitlab.CA()), "hook-secret": "s3cret-of-the-hook",
		"read-token": w.gitlab.TokenFor("root", "read_api"), "write-token": w.gitlab.TokenFor("root", "api"),
	} {
		must(os.WriteFile(filepath.Join(w.dir, name), []byte(content), 0o600))
	}
	w.client.Transport = trust(t, ca.PEM)
	w.gitlab.World().View(func(v *gitlabsim.View) { w.project = v.ProjectByPath("haw/world").ID })
	return w
}

// credentials gives the replicas that start from now on a token of the integrator's ServiceAccount.
func (w *world) credentials() {
	w.t.Helper()
	year := int64(8760 * 3600)
	own, err := w.admin.CoreV1().ServiceAccounts(deploy.Namespace).CreateToken(w.t.Context(), deploy.ServiceAccount,
		&authnv1.TokenRequest{Spec: authnv1.TokenRequestSpec{ExpirationSeconds: &year}}, metav1.CreateOptions{})
	if err == nil {
		err = w.cluster.WriteKubeconfig(filepath.Join(w.dir, "kubeconfig"), controlplane.KubeconfigUser{Name: "own", Token: own.Status.Token}, "")
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// start starts a replica; interval is the time between its full rounds.
func (w *world) start(name string, interval time.Duration) *replica {
	w.t.Helper()
	r := &replica{w: w, name: name, log: &logFile{}, webhooks: freeport.For(w.t), hooks: freeport.For(w.t), metrics: freeport.For(w.t)}
	path := filepath.Join(w.dir, name+".yaml")
	text := fmt.Sprintf(`apiVersion: gl-k8s-integrator/v1alpha1
kind: Config
gitlab: {url: %[1]s, caFile: %[2]s/gitlab-ca.crt, readTokenFile: %[2]s/read-token, writeTokenFile: %[2]s/write-token}
cluster: {kubeconfig: %[2]s/kubeconfig}
listeners:
  webhooks: {address: "%[3]s", certFile: %[2]s/tls.crt, keyFile: %[2]s/tls.key}
  hooks: {address: "%[4]s", secretFile: %[2]s/hook-secret}
  metrics: {address: "%[5]s"}
  drainDelay: %[7]s
authn: {clientIDs: [kubelogin]}
rbacsync: {mode: enforce, interval: %[6]s%[8]s}
ci: {delivery: %[9]s}
`, w.gitlab.URL(), w.dir, r.webhooks, r.hooks, r.metrics, interval, cmp.Or(w.drainDelay, time.Millisecond), w.rbacsync, cmp.Or(w.delivery, "none"))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if w.program != "" {
		r.cmd = exec.Command(w.program, "serve", "--config", path, "--log-level", "debug")
	} else {
		r.cmd = exec.Command(os.Args[0])
		r.cmd.Env = append(os.Environ(), configEnv+"="+path)
	}
	r.cmd.Stderr = r.log
	if err := r.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		r.signal(syscall.SIGCONT)
		r.kill()
		if w.t.Failed() {
			w.t.Logf("log of %s:\n%s", name, r.log)
		}
	})
	return r
}

func (r *replica) signal(s syscall.Signal) { _ = r.cmd.Process.Signal(s) }

func (r *replica) kill() {
	r.signal(syscall.SIGKILL)
	_ = r.cmd.Wait()
}

// leads waits until the replica leads.
func (r *replica) leads(within time.Duration) time.Duration {
	r.w.t.Helper()
	return r.w.eventually(r.name+" leads", within, func() bool { return strings.Contains(r.log.String(), `"msg":"leading"`) })
}

// sendHooks makes GitLab send its hooks to these replicas.
func (w *world) sendHooks(rs ...*replica) {
	w.t.Helper()
	for _, r := range rs {
		w.listens(r)
		if _, err := w.gitlab.AddSystemHook(gitlabsim.SeedHook{URL: "http://" + r.hooks + "/hooks/gitlab", Token: "s3cret-of-the-hook"}); err != nil {
			w.t.Fatal(err)
		}
	}
}

// listens waits until a replica takes hooks.
func (w *world) listens(r *replica) {
	w.t.Helper()
	w.eventually(r.name+" listens", 15*time.Second, func() bool {
		c, err := net.Dial("tcp", r.hooks)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

func (w *world) eventually(what string, within time.Duration, ok func() bool) time.Duration {
	w.t.Helper()
	start := time.Now()
	for time.Since(start) < within {
		if ok() {
			return time.Since(start)
		}
		time.Sleep(2 * time.Millisecond)
	}
	w.t.Fatalf("not within %v: %s", within, what)
	return 0
}

func (w *world) user(name string) (id int64) {
	w.gitlab.World().View(func(v *gitlabsim.View) { id = v.UserByName(name).ID })
	return id
}

// has reports whether a person is in a binding of haw-world.
func (w *world) has(binding, name string) bool { return w.hasIn("haw-world", binding, name) }

func (w *world) hasIn(namespace, binding, name string) bool {
	rb, err := w.admin.RbacV1().RoleBindings(namespace).Get(w.t.Context(), binding, metav1.GetOptions{})
	return err == nil && slices.ContainsFunc(rb.Subjects, func(s rbacv1.Subject) bool { return s.Name == fmt.Sprintf("gitlab:%d", w.user(name)) })
}

func (w *world) set(name string, level int) {
	w.t.Helper()
	if err := w.gitlab.World().SetMember(gitlabsim.KindProject, w.project, w.user(name), level, ""); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) remove(name string) {
	w.t.Helper()
	if err := w.gitlab.World().RemoveMember(gitlabsim.KindProject, w.project, w.user(name)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) inbox() map[string]string {
	cm, err := w.admin.CoreV1().ConfigMaps(deploy.Namespace).Get(w.t.Context(), store.NameInbox, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return cm.Data
}

// why asks a replica's webhook why a person may not delete pods in haw-world.
func (r *replica) why(name string) string {
	body, _ := json.Marshal(authzv1.SubjectAccessReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "authorization.k8s.io/v1", Kind: "SubjectAccessReview"},
		Spec: authzv1.SubjectAccessReviewSpec{
			User:               fmt.Sprintf("gitlab:%d", r.w.user(name)),
			ResourceAttributes: &authzv1.ResourceAttributes{Namespace: "haw-world", Verb: "delete", Resource: "pods"},
		},
	})
	res, err := r.w.client.Post("https://"+r.webhooks+"/authorize", "application/json", bytes.NewReader(body))
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	var out authzv1.SubjectAccessReview
	answer, _ := io.ReadAll(res.Body)
	if err := json.Unmarshal(answer, &out); err != nil {
		return string(answer)
	}
	return out.Status.Reason
}

// TestReplicas tells one story: each part begins where the last one ended.
func TestReplicas(t *testing.T) {
	w := newWorld(t)
	a := w.start("a", time.Hour)
	began := time.Now()
	w.eventually("the first round", 20*time.Second, func() bool { return w.has("gitlab-edit", "alice") && w.has("gitlab-view", "bob") })
	t.Logf("first rights %v after the start of the first replica", time.Since(began).Round(time.Millisecond))
	b := w.start("b", time.Hour)
	w.sendHooks(b) // only the one that does not lead
	if strings.Contains(b.log.String(), `"msg":"leading"`) {
		t.Fatal("two lead")
	}

	t.Run("the follower takes a hook, the leader acts on it", func(t *testing.T) {
		w.set("carol", gitlabsim.Developer)
		d := w.eventually("carol has their right", 10*time.Second, func() bool { return w.has("gitlab-view", "carol") })
		t.Logf("given %v after the change in GitLab", d)
		w.remove("carol")
		d = w.eventually("carol's right is gone", 10*time.Second, func() bool { return !w.has("gitlab-view", "carol") })
		t.Logf("taken %v after the change in GitLab", d)
		w.eventually("the inbox is empty", 10*time.Second, func() bool { return len(w.inbox()) == 0 })
		w.eventually("the follower explains as the leader does", 10*time.Second, func() bool {
			return strings.Contains(b.why("bob"), "you are Developer in haw/world") && b.why("bob") == a.why("bob")
		})
	})

	t.Run("status, history and metrics say so", func(t *testing.T) {
		cfg, err := config.Load(filepath.Join(w.dir, "a.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		carol := fmt.Sprintf("gitlab:%d (carol)", w.user("carol"))
		w.eventually("the history has both changes", 15*time.Second, func() bool {
			out.Reset()
			err := app.History(t.Context(), cfg, app.HistoryView{Namespace: "haw-world"}, &out)
			return err == nil && strings.Contains(out.String(), "  + "+carol+"  view  [hook user_add_to_team; Developer in haw/world, direct member]") &&
				strings.Contains(out.String(), "  - "+carol+"  view  [hook user_remove_from_team; was Developer in haw/world, direct member; that is gone]")
		})
		w.eventually("the status is of the last round", 15*time.Second, func() bool {
			out.Reset()
			err := app.Status(t.Context(), cfg, &out)
			return err == nil && strings.Contains(out.String(), "last round       hook user_remove_from_team (partial, 1 namespaces looked at): 1 planned, 1 applied, 0 failed")
		})
		for _, want := range []string{"leader           ", "mode             enforce", "GitLab read      ", "projects 1", "present accounts", "requests         graphql "} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("status without %q:\n%s", want, out.String())
			}
		}
		res, err := http.Get("http://" + a.metrics + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body)
		for _, want := range []string{"hook_to_applied_seconds_count 2", "gl_k8s_integrator_leader 1", `staleness_seconds{of="everything"}`, `gitlab_requests_total{kind="graphql"}`, "held_changes 0"} {
			if !strings.Contains(string(text), want) {
				t.Errorf("metrics without %s", want)
			}
		}
	})

	t.Run("the leader is killed between the answer to a hook and the round", func(t *testing.T) {
		a.signal(syscall.SIGSTOP) // it can't act on what comes now
		w.remove("bob")
		w.eventually("the hook is stored", 5*time.Second, func() bool { return len(w.inbox()) == 1 })
		if !w.has("gitlab-view", "bob") {
			t.Fatal("somebody acted on it already")
		}
		a.kill()
		took := b.leads(20 * time.Second)
		d := w.eventually("bob's right is gone", 10*time.Second, func() bool { return !w.has("gitlab-view", "bob") })
		t.Logf("the other one leads after %v, the hook is dealt with %v later", took, d)
		w.eventually("the inbox is empty", 10*time.Second, func() bool { return len(w.inbox()) == 0 })
	})

	t.Run("a stopped leader that goes on restores nothing", func(t *testing.T) {
		c := w.start("c", time.Hour)
		w.eventually("c is there", 15*time.Second, func() bool { return strings.Contains(c.why("alice"), "haw/world") })
		b.signal(syscall.SIGSTOP)
		c.leads(20 * time.Second)
		w.sendHooks(c)
		w.remove("alice")
		w.eventually("alice's right is gone", 10*time.Second, func() bool { return !w.has("gitlab-edit", "alice") })
		bindings := w.admin.RbacV1().RoleBindings("haw-world")
		rb, err := bindings.Get(t.Context(), "gitlab-edit", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		// b still believes in alice, and gets a reason to write: a hook and drift of its own binding.
		if err := bindings.Delete(t.Context(), "gitlab-view", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		b.signal(syscall.SIGCONT)
		w.eventually("b knows that it does not lead", 10*time.Second, func() bool { return strings.Contains(b.log.String(), `"msg":"no longer leading"`) })
		for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			now, err := bindings.Get(t.Context(), "gitlab-edit", metav1.GetOptions{})
			if err != nil || now.ResourceVersion != rb.ResourceVersion {
				t.Fatalf("the binding was written again: %v, %v", now.Subjects, err)
			}
		}
		b.kill()
		c.kill()
	})

	t.Run("a start while GitLab is away", func(t *testing.T) {
		w.set("bob", gitlabsim.Developer)
		d := w.start("d", time.Hour)
		w.eventually("bob is back", 30*time.Second, func() bool { return w.has("gitlab-view", "bob") })
		w.eventually("the Snapshot is stored", 10*time.Second, func() bool {
			s, err := w.admin.CoreV1().Secrets(deploy.Namespace).Get(t.Context(), store.NameSnapshot, metav1.GetOptions{})
			return err == nil && len(s.Data) > 0
		})
		time.Sleep(1500 * time.Millisecond) // the save after the last round
		d.signal(syscall.SIGTERM)
		if err := d.cmd.Wait(); err != nil {
			t.Errorf("d ended with %v", err)
		}
		w.gitlab.SetFaults(gitlabsim.Faults{Down: true})
		began := time.Now()
		e := w.start("e", time.Hour)
		w.eventually("e explains from the stored Snapshot", 15*time.Second, func() bool { return strings.Contains(e.why("bob"), "you are Developer in haw/world") })
		t.Logf("explained %v after the start", time.Since(began).Round(time.Millisecond))
		if led := e.leads(10 * time.Second); time.Since(began) > 8*time.Second {
			t.Errorf("e leads after %v, though the lease was released", led)
		}
		w.eventually("e has failed to read GitLab", 15*time.Second, func() bool { return strings.Contains(e.log.String(), "round failed") })
		if !w.has("gitlab-view", "bob") {
			t.Error("bob lost the right because GitLab is away")
		}
		w.gitlab.SetFaults(gitlabsim.Faults{})
		w.set("alice", gitlabsim.Maintainer)
		w.eventually("alice is back", 70*time.Second, func() bool { return w.has("gitlab-edit", "alice") })
	})
}

// trust returns a transport that trusts one CA.
func trust(t *testing.T, pem []byte) http.RoundTripper {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatal("no certificate in the PEM")
	}
	return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true}
}
