package drills_test

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/freeport"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/setup"
)

const world = `
users:
  - {username: root, name: Administrator, admin: true, password: root-password}
  - {username: alice, name: Alice Adams, password: alice-password}
  - {username: bob, name: Bob, password: bob-password}
  - {username: carol, name: Carol, password: carol-password}
groups:
  - {path: haw, name: HAW, visibility: private}
projects:
  - {path: haw/world, name: World, visibility: private, defaultBranch: main, protectedBranches: [main], members: {alice: maintainer, bob: developer}}
applications:
  - {name: kubelogin, uid: kubelogin-demo, confidential: false, redirectURIs: ["http://localhost:8000", "http://localhost:18000", "urn:ietf:wg:oauth:2.0:oob"], scopes: [openid]}
`

// systemctl stands in for systemd: it runs the unit's command, and ends it before it runs it again.
const systemctl = `#!/bin/sh
set -eu
cd "$TEST_ROOT"
case "$1" in
enable) cp "$3" unit ;;
restart | stop) ;;
*) exit 1 ;;
esac
if [ -f pid ]; then
  kill "$(cat pid)" 2>/dev/null || true
  while kill -0 "$(cat pid)" 2>/dev/null; do sleep 0.1; done
  rm pid
fi
[ "$1" != stop ] || exit 0
command=$(sed -n "s|^ExecStart=/usr/local/bin|$TEST_ROOT/bin|p" unit)
$command </dev/null >>log 2>&1 &
echo $! >pid
`

// env is a control-plane node with everything on it, and GitLab.
type env struct {
	t       *testing.T // of the drill that runs
	root    string
	cluster *controlplane.Cluster
	kube    kubernetes.Interface
	gitlab  *gitlabsim.Server
	hookCAs *x509.CertPool
	answers setup.Answers
	pages   map[string]string // the blocks of commands by page, section and name
	ran     map[string]bool
}

// folder is what the pages call /root/integrator.
func (e *env) folder() string { return filepath.Join(e.root, "integrator") }

func (e *env) path(name ...string) string {
	return filepath.Join(append([]string{e.root}, name...)...)
}

func (e *env) ok(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

// newEnv installs everything from a folder that init made at that time, and returns when the integrator has made its first round.
func newEnv(t *testing.T, made time.Time) *env {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: needs a control plane")
	}
	e := &env{t: t, root: t.TempDir(), hookCAs: x509.NewCertPool(), pages: blocks(t), ran: map[string]bool{}}
	e.ok(os.Mkdir(e.path("bin"), 0o700))
	for name, text := range map[string]string{"systemctl": systemctl, "chown": "#!/bin/sh\n", "useradd": "#!/bin/sh\n"} {
		e.ok(os.WriteFile(e.path("bin", name), []byte(text), 0o700))
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", e.path("bin", "gl-k8s-integrator"), "../../cmd/gl-k8s-integrator")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var err error
	e.gitlab, err = gitlabsim.New(gitlabsim.Options{Seed: []byte(world), HookCAs: e.hookCAs})
	e.ok(err)
	t.Cleanup(e.gitlab.Close)
	e.makeFolder(made)
	e.ok(os.CopyFS(e.path("etc/kube-apiserver"), os.DirFS(e.path("integrator/kube-apiserver"))))
	flags, err := os.ReadFile(e.path("integrator/flags.txt"))
	e.ok(err)
	e.cluster, err = controlplane.Start(t.Context(), controlplane.Options{Dir: e.path("cluster"), APIServerFlags: strings.Fields(string(flags)), Progress: os.Stderr})
	e.ok(err)
	t.Cleanup(func() { _ = e.cluster.Stop() })
	e.kube, err = kubernetes.NewForConfig(e.cluster.AdminConfig())
	e.ok(err)
	t.Cleanup(e.end)
	if out, err := e.shell(e.folder(), "kubectl apply -f manifests/ && gl-k8s-integrator init kubeconfig . && sh node.sh"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	e.await("the first rights", func() bool { return e.has("gitlab-edit", "alice") && e.has("gitlab-view", "bob") && e.token() != "" })
	return e
}

// makeFolder makes what the pages call /root/integrator, as at that time. It reads everything each ten seconds and ends at once, and has
// brakes that one person who is missing does not touch, and two do.
func (e *env) makeFolder(made time.Time) {
	e.t.Helper()
	if e.answers.GitLab == "" {
		write := func(name, text string) string {
			e.ok(os.WriteFile(e.path(name), []byte(text), 0o600))
			return e.path(name)
		}
		hooks := freeport.For(e.t)
		e.answers = setup.Answers{
			GitLab: e.gitlab.URL(), GitLabCAFile: write("gitlab-ca.pem", string(e.gitlab.CA())), ClientIDs: []string{"kubelogin-demo"},
			ReadTokenFile: write("read", e.gitlab.TokenFor("root", "read_api")), WriteTokenFile: write("write", e.gitlab.TokenFor("root", "api")),
			Distribution: setup.Flags, Run: setup.Systemd, WebhookAddress: freeport.For(e.t), HooksListen: hooks, HooksURL: "https://" + hooks + "/hooks/gitlab",
			MetricsListen: freeport.For(e.t), ConfigDir: e.path("etc/integrator"), APIServerDir: e.path("etc/kube-apiserver"),
		}
	}
	e.ok(setup.Init(e.t.Context(), e.folder(), e.answers, made, io.Discard))
	config := e.path("integrator/integrator/config.yaml")
	e.edit(config, "mode: plan", "mode: enforce\n  interval: 10s\n  limits: {perGroup: {count: 1}}")
	e.edit(config, "kind: Config\n", "kind: Config\nauthz: {explain: {replicas: 2}}\n")
	e.edit(config, "listeners:\n", "listeners:\n  drainDelay: 1ms\n")
	ca, err := os.ReadFile(e.path("integrator/gitlab/hooks-ca.crt"))
	e.ok(err)
	e.hookCAs.AppendCertsFromPEM(ca)
}

func (e *env) edit(path, old, fresh string) {
	e.t.Helper()
	text, err := os.ReadFile(path)
	e.ok(err)
	if !strings.Contains(string(text), old) {
		e.t.Fatalf("%s has no %q:\n%s", path, old, text)
	}
	e.ok(os.WriteFile(path, []byte(strings.ReplaceAll(string(text), old, fresh)), 0o600))
}

// end ends the integrator, if it runs.
func (e *env) end() {
	text, err := os.ReadFile(e.path("pid"))
	if pid, bad := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && bad == nil {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// shell runs a command as the admin would.
func (e *env) shell(dir, command string) (string, error) {
	cmd := exec.CommandContext(e.t.Context(), "sh", "-ec", command)
	cmd.Dir = dir
	path := strings.Join([]string{e.path("bin"), filepath.Dir(e.cluster.Kubectl()), "/usr/bin", "/bin"}, ":")
	cmd.Env = []string{"HOME=" + e.root, "PATH=" + path, "KUBECONFIG=" + e.cluster.AdminKubeconfig(), "TEST_ROOT=" + e.root}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// blocks returns the blocks of commands of the pages, and the commands for a Deployment.
func blocks(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, page := range []string{"break-glass", "backup"} {
		text, err := os.ReadFile("../../docs/" + page + ".md")
		if err != nil {
			t.Fatal(err)
		}
		for section := range strings.SplitSeq(string(text), "\n## ") {
			title, _, _ := strings.Cut(section, "\n")
			for _, b := range regexp.MustCompile("(?s)```sh ([^\n]*)\n(.*?)```").FindAllStringSubmatch(section, -1) {
				key := page + ": " + strings.TrimPrefix(title, "# ") + ": " + b[1]
				if out[key] != "" {
					t.Errorf("two blocks are called %s", key)
				}
				out[key] = b[2]
			}
			if title == "The integrator as a Deployment" {
				for _, b := range regexp.MustCompile("`(kubectl [^`]*)`").FindAllStringSubmatch(section, -1) {
					out["Deployment: "+b[1]] = b[1]
				}
			}
		}
	}
	return out
}

// run runs a block, with the paths of this machine, and returns what it prints. It may say that there is something to do.
func (e *env) run(key string) string {
	e.t.Helper()
	out, err := e.try(key)
	exit := new(exec.ExitError)
	if planned := errors.As(err, &exit) && exit.ExitCode() == 2 && strings.Contains(e.pages[key], " plan "); err != nil && !planned {
		e.t.Fatalf("%s: %v\n%s", key, err, out)
	}
	return out
}

func (e *env) try(key string) (string, error) {
	e.t.Helper()
	text := e.pages[key]
	if text == "" {
		e.t.Fatalf("no page has the block %q", key)
	}
	e.ran[key] = true
	return e.shell(e.root, strings.NewReplacer(
		"/etc/kubernetes/gl-k8s-integrator", e.path("etc/kube-apiserver"), "/etc/kubernetes/admin.conf", e.cluster.AdminKubeconfig(),
		"/etc/gl-k8s-integrator", e.path("etc/integrator"), "/root", e.root, "https://icc.example.com:8444/hooks/gitlab", e.answers.HooksURL,
	).Replace(text))
}

// await asks until it is so.
func (e *env) await(what string, done func() bool) time.Duration {
	e.t.Helper()
	begin := time.Now()
	for ; !done(); time.Sleep(50 * time.Millisecond) {
		if time.Since(begin) > 2*time.Minute {
			log, _ := os.ReadFile(e.path("log"))
			e.t.Fatalf("not within two minutes: %s\nthe end of the integrator's log:\n%s", what, log[max(0, len(log)-8000):])
		}
	}
	return time.Since(begin)
}

func (e *env) user(name string) (id int64) {
	e.gitlab.World().View(func(v *gitlabsim.View) { id = v.UserByName(name).ID })
	return id
}

func (e *env) project() (id int64) {
	e.gitlab.World().View(func(v *gitlabsim.View) { id = v.ProjectByPath("haw/world").ID })
	return id
}

func (e *env) set(name string, level int) {
	e.t.Helper()
	e.ok(e.gitlab.World().SetMember(gitlabsim.KindProject, e.project(), e.user(name), level, ""))
}

func (e *env) remove(name string) {
	e.t.Helper()
	e.ok(e.gitlab.World().RemoveMember(gitlabsim.KindProject, e.project(), e.user(name)))
}

// has reports whether a binding of haw-world names a person.
func (e *env) has(binding, name string) bool {
	rb, err := e.kube.RbacV1().RoleBindings("haw-world").Get(e.t.Context(), binding, metav1.GetOptions{})
	return err == nil && slices.ContainsFunc(rb.Subjects, func(s rbacv1.Subject) bool { return s.Name == kubename.User(e.user(name)) })
}

// token is what jobs of haw/world get from GitLab.
func (e *env) token() (value string) {
	e.gitlab.World().View(func(v *gitlabsim.View) {
		for _, x := range v.Project(e.project()).Variables {
			if x.Key == "KUBE_TOKEN" {
				value = x.Value
			}
		}
	})
	return value
}

// with lists ConfigMaps with a token.
func (e *env) with(token, namespace string) error {
	cfg := &rest.Config{Host: e.cluster.URL(), BearerToken: token, Timeout: 10 * time.Second, TLSClientConfig: rest.TLSClientConfig{CAData: e.cluster.CA()}}
	client, err := rest.HTTPClientFor(cfg)
	e.ok(err)
	defer client.CloseIdleConnections()
	kube, err := kubernetes.NewForConfigAndClient(cfg, client)
	e.ok(err)
	ctx, cancel := context.WithTimeout(e.t.Context(), 10*time.Second)
	defer cancel()
	_, err = kube.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{})
	return err
}

// lasting reports whether GitLab has a token that is bound to what is in the cluster now: kube-apiserver takes one whose end has come
// for ten seconds more.
func (e *env) lasting() bool {
	body := strings.Split(e.token()+"..", ".")[1]
	raw, err := base64.RawURLEncoding.DecodeString(body)
	var claims struct {
		Kubernetes struct {
			Secret struct{ UID string } `json:"secret"`
		} `json:"kubernetes.io"`
	}
	if err != nil || json.Unmarshal(raw, &claims) != nil {
		return false
	}
	anchor, err := e.kube.CoreV1().Secrets("haw-world").Get(e.t.Context(), kubename.CIAnchor, metav1.GetOptions{})
	return err == nil && string(anchor.UID) == claims.Kubernetes.Secret.UID
}

// works reports whether a job's token is good.
func (e *env) works(token string) bool { return e.with(token, "haw-world") == nil }

// login tries what a person can who has just logged in: the token is one that kube-apiserver has never seen.
func (e *env) login(name string) error {
	e.t.Helper()
	token, err := e.gitlab.MintUserIDToken(e.user(name), "kubelogin-demo", gitlabsim.TokenOptions{Nonce: rand.Text()})
	e.ok(err)
	return e.with(token, "haw-world")
}

// shutOut demands that a person whose token is good is not let in, while an administrator is.
func (e *env) shutOut(name string) {
	e.t.Helper()
	if err := e.login(name); !apierrors.IsUnauthorized(err) {
		e.t.Errorf("%s logs in: %v", name, err)
	}
	if out := e.run("break-glass: Break glass: admin"); !strings.Contains(out, "ok") {
		e.t.Errorf("an administrator's certificate does not help: %s", out)
	}
}

// status is what the command shows.
func (e *env) status() string {
	out, _ := e.shell(e.root, "gl-k8s-integrator status --config "+e.path("etc/integrator/config.yaml"))
	return out
}

// log returns what the integrator has written since it had written that much.
func (e *env) log(since int) string {
	text, err := os.ReadFile(e.path("log"))
	e.ok(err)
	return string(text[since:])
}

func (e *env) metrics() string {
	req, err := http.NewRequestWithContext(e.t.Context(), http.MethodGet, "http://"+e.answers.MetricsListen+"/metrics", nil)
	e.ok(err)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return cmp.Or(string(text), fmt.Sprint(err))
}
