package setup_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
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

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/demo"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

const world = `
users:
  - {username: root, name: Administrator, admin: true, password: root-password}
  - {username: alice, name: Alice Adams, email: alice@haw.example, password: alice-password}
groups:
  - {path: haw, name: HAW, visibility: private, members: {alice: owner}}
applications:
  - {name: kubelogin, uid: kubelogin-demo, confidential: false, redirectURIs: ["http://localhost:8000"], scopes: [openid]}
`

// systemctl stands in for systemd: it runs the unit's command, and ends it before it runs it again.
const systemctl = `#!/bin/sh
set -eu
cd "$TEST_ROOT"
case "$1" in
enable) cp "$3" unit ;;
restart) ;;
*) exit 1 ;;
esac
if [ -f pid ]; then kill "$(cat pid)"; while kill -0 "$(cat pid)" 2>/dev/null; do sleep 0.1; done; fi
command=$(sed -n "s|^ExecStart=/usr/local/bin|$TEST_ROOT/bin|p" unit)
$command </dev/null >>log 2>&1 &
echo $! >pid
`

// install is a bare cluster, a GitLab and the machine of a cluster admin, all in one folder.
type install struct {
	root, dir string
	cluster   *controlplane.Cluster
	kube      kubernetes.Interface
	gitlab    *gitlabsim.Server
	hookCAs   *x509.CertPool
	metrics   string
}

func newInstall(t *testing.T) *install {
	t.Helper()
	i := &install{root: t.TempDir(), hookCAs: x509.NewCertPool()}
	i.dir = filepath.Join(i.root, "new")
	if err := os.Mkdir(filepath.Join(i.root, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"systemctl": systemctl, "chown": "#!/bin/sh\n", "useradd": "#!/bin/sh\n"} {
		if err := os.WriteFile(filepath.Join(i.root, "bin", name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(i.root, "bin", "gl-k8s-integrator"), "../../cmd/gl-k8s-integrator")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var err error
	if i.gitlab, err = gitlabsim.New(gitlabsim.Options{Seed: []byte(world), HookCAs: i.hookCAs}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.gitlab.Close)
	if i.cluster, err = controlplane.Start(t.Context(), controlplane.Options{Dir: filepath.Join(i.root, "cluster")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.cluster.Stop() })
	if i.kube, err = kubernetes.NewForConfig(i.cluster.AdminConfig()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.end)
	return i
}

// end ends the integrator, if it runs.
func (i *install) end() {
	text, err := os.ReadFile(filepath.Join(i.root, "pid"))
	if pid, bad := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && bad == nil {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// shell runs a command as the admin would, in the folder, and returns what it prints.
func (i *install) shell(t *testing.T, dir, command string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", command)
	cmd.Dir = dir
	path := strings.Join([]string{filepath.Join(i.root, "bin"), filepath.Dir(i.cluster.Kubectl()), "/usr/bin", "/bin"}, ":")
	cmd.Env = []string{"HOME=" + i.root, "PATH=" + path, "KUBECONFIG=" + i.cluster.AdminKubeconfig(), "TEST_ROOT=" + i.root}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (i *install) write(t *testing.T, name, text string) string {
	t.Helper()
	p := filepath.Join(i.root, name)
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// init runs the command with all flags, and says what it prints.
func (i *install) init(t *testing.T) {
	t.Helper()
	i.metrics = freeAddress(t)
	hooks := freeAddress(t)
	out, err := i.shell(t, i.root, strings.Join([]string{
		"gl-k8s-integrator init", i.dir, "--gitlab", i.gitlab.URL(), "--gitlab-ca-file", i.write(t, "gitlab-ca.pem", string(i.gitlab.CA())),
		"--client-id kubelogin-demo --distribution kubeadm --run systemd",
		"--read-token-file", i.write(t, "read", i.gitlab.TokenFor("root", "read_api")), "--write-token-file", i.write(t, "write", i.gitlab.TokenFor("root", "api")),
		"--webhook-address", freeAddress(t), "--hooks-listen", hooks, "--hooks-url", "https://" + hooks + "/hooks/gitlab", "--metrics-listen", i.metrics,
		"--config-dir", filepath.Join(i.root, "etc/integrator"), "--apiserver-dir", filepath.Join(i.root, "etc/kube-apiserver"),
	}, " "))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"GitLab is 19.1.0-ee", "--read-token-file: the token of root, an administrator, scopes read_api, has no end", "`integrator/tls.crt` ends on "} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "warning") {
		t.Errorf("it warns:\n%s", out)
	}
}

// manifest is where the test has kube-apiserver's static pod.
func (i *install) manifest() string { return filepath.Join(i.root, "kube-apiserver.yaml") }

// flags are those of the static pod.
func (i *install) flags(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(i.manifest())
	if err != nil {
		t.Fatal(err)
	}
	var p corev1.Pod
	if err := yaml.UnmarshalStrict(text, &p); err != nil {
		t.Fatal(err)
	}
	return p.Spec.Containers[0].Command
}

// await asks until it is so.
func await(t *testing.T, what string, ok func(context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !ok(ctx) {
		select {
		case <-ctx.Done():
			t.Fatalf("not within a minute: %s", what)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (i *install) ready(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+i.metrics+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
}

// do runs one command of NEXT.md, and what happens by itself on a real machine: kubelet starts kube-apiserver again, and somebody
// gives GitLab the CA of the hooks.
func (i *install) do(t *testing.T, command string) {
	t.Helper()
	before := i.flags(t)
	switch {
	case strings.Contains(command, "hooks register"):
		ca, err := os.ReadFile(filepath.Join(i.dir, "gitlab/hooks-ca.crt"))
		if err != nil || !i.hookCAs.AppendCertsFromPEM(ca) {
			t.Fatalf("the CA of the hooks: %v", err)
		}
	case strings.Contains(command, "--write"):
		await(t, "the integrator is ready", i.ready)
	}
	out, err := i.shell(t, i.dir, strings.ReplaceAll(command, "/etc/kubernetes/manifests/kube-apiserver.yaml", i.manifest()))
	exit := new(exec.ExitError)
	if planned := errors.As(err, &exit) && exit.ExitCode() == 2 && strings.Contains(command, " plan "); err != nil && !planned {
		log, _ := os.ReadFile(filepath.Join(i.root, "log"))
		t.Fatalf("%s: %v\n%s\nlog of the integrator:\n%s", command, err, out, log)
	}
	after := slices.DeleteFunc(i.flags(t), func(f string) bool { return slices.Contains(before, f) })
	if len(after) > 0 {
		if err := i.cluster.RestartAPIServer(t.Context(), after...); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNextPageIsEnough: whoever runs init, and then each command of NEXT.md in its order, has a login, a namespace in mode
// enforce, and a hook that brings the next one.
func TestNextPageIsEnough(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: needs a control plane")
	}
	i := newInstall(t)
	i.init(t)
	i.write(t, "kube-apiserver.yaml", `{apiVersion: v1, kind: Pod, metadata: {name: kube-apiserver}, spec: {containers: [{name: kube-apiserver, command: [kube-apiserver, "--authorization-mode=Node,RBAC"]}]}}`)
	_, err := i.kube.CoreV1().ConfigMaps("kube-system").Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "kubeadm-config"},
		Data:       map[string]string{"ClusterConfiguration": "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nkubernetesVersion: v1.37.2\n"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(i.dir, "NEXT.md"))
	if err != nil {
		t.Fatal(err)
	}
	commands := regexp.MustCompile("(?s)```sh\n(.*?)\n```").FindAllStringSubmatch(string(page), -1)
	if len(commands) == 0 || len(commands) > 8 {
		t.Fatalf("%d commands", len(commands))
	}
	for _, c := range commands {
		i.do(t, c[1])
	}
	await(t, "the namespace haw", func(ctx context.Context) bool {
		_, err := i.kube.CoreV1().Namespaces().Get(ctx, "haw", metav1.GetOptions{})
		return err == nil
	})
	i.upgradesKeepIt(t)
	i.aliceLogsIn(t)
	i.hookBrings(t)
}

// upgradesKeepIt: what `kubeadm upgrade` makes kube-apiserver from has our flags and files.
func (i *install) upgradesKeepIt(t *testing.T) {
	t.Helper()
	cm, err := i.kube.CoreV1().ConfigMaps("kube-system").Get(t.Context(), "kubeadm-config", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	text := cm.Data["ClusterConfiguration"]
	if !strings.Contains(text, "extraVolumes") || !strings.Contains(text, "name: authorization-config") || !strings.Contains(text, "kubernetesVersion: v1.37.2") {
		t.Errorf("kubeadm has\n%s", text)
	}
}

func (i *install) aliceLogsIn(t *testing.T) {
	t.Helper()
	token, err := demo.Login(t.Context(), i.gitlab.Client(), i.gitlab.URL(), "alice", "alice-password")
	if err != nil {
		t.Fatal(err)
	}
	own, err := kubernetes.NewForConfig(&rest.Config{Host: i.cluster.URL(), BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAData: i.cluster.CA()}})
	if err != nil {
		t.Fatal(err)
	}
	await(t, "alice is let in", func(ctx context.Context) bool {
		me, err := own.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		return err == nil && me.Status.UserInfo.Username == kubename.User(i.alice())
	})
	await(t, "alice makes a ConfigMap", func(ctx context.Context) bool {
		_, err := own.CoreV1().ConfigMaps("haw").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "mine"}}, metav1.CreateOptions{})
		return err == nil
	})
	_, err = own.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err == nil || !strings.Contains(err.Error(), "gitlab:") {
		t.Errorf("a refusal is not explained: %v", err)
	}
}

func (i *install) alice() (id int64) {
	i.gitlab.World().View(func(v *gitlabsim.View) { id = v.UserByName("alice").ID })
	return id
}

// hookBrings: a new group has its namespace long before the next round, which begins five minutes after the one before.
func (i *install) hookBrings(t *testing.T) {
	t.Helper()
	_, err := i.gitlab.World().AddGroup(gitlabsim.Group{
		Path: "later", Name: "later", Visibility: "private",
		Members: []gitlabsim.Member{{UserID: i.alice(), Level: gitlabsim.Owner}},
	})
	if err != nil {
		t.Fatal(fmt.Errorf("making a group: %w", err))
	}
	await(t, "the namespace later", func(ctx context.Context) bool {
		_, err := i.kube.CoreV1().Namespaces().Get(ctx, "later", metav1.GetOptions{})
		return err == nil
	})
}
