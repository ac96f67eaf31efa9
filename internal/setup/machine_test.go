package setup_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
)

const world = `
users:
  - {username: root, name: Administrator, admin: true, password: root-password}
  - {username: alice, name: Alice Adams, email: alice@haw.example, password: alice-password}
groups:
  - {path: haw, name: HAW, visibility: private, members: {alice: owner}}
projects:
  - {path: haw/world, name: World, visibility: private, defaultBranch: main, protectedBranches: [main]}
applications:
  - {name: kubelogin, uid: kubelogin-demo, confidential: false, redirectURIs: ["http://localhost:8000"], scopes: [openid]}
`

// What a project has to have for a deployment.
const (
	pipeline = `deploy:
  stage: deploy
  environment:
    name: ICC-K8s
  script:
    - kubectl apply -f deploy_new.yaml
`
	deployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: world}
spec:
  selector: {matchLabels: {app: world}}
  template:
    metadata: {labels: {app: world}}
    spec:
      containers: [{name: world, image: "nginx:stable"}]
`
)

// systemctl stands in for systemd: it runs the unit's command, and ends it before it runs it again. Other units are
// kube-apiserver's, which the test starts again.
const systemctl = `#!/bin/sh
set -eu
cd "$TEST_ROOT"
case "$1 $2" in
"enable "*)
  cp "$3" unit
  sed -i 's/^listeners:$/listeners:\n  drainDelay: 1ms/' "${3%/*}/config.yaml" # nobody moves away here
  ;;
"restart gl-k8s-integrator") ;;
"restart k3s" | "restart rke2-server") exit 0 ;;
*) exit 1 ;;
esac
if [ -f pid ]; then kill "$(cat pid)" || true; while kill -0 "$(cat pid)" 2>/dev/null; do sleep 0.1; done; fi
command=$(sed -n "s|^ExecStart=/usr/local/bin|$TEST_ROOT/bin|p" unit)
$command </dev/null >>log 2>&1 &
echo $! >pid
`

// machine is a bare cluster, a GitLab and the machine of a cluster admin, which is also the only node, all in one folder.
type machine struct {
	root    string
	ip      string // of the integrator, on any of the ports: a Service's, which is also a loopback address
	cluster *controlplane.Cluster
	kube    kubernetes.Interface
	gitlab  *gitlabsim.Server
	hookCAs *x509.CertPool
}

// built is the folder of the program, which program builds once.
var built string

var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "init-test-")
	if err != nil {
		return "", err
	}
	built = dir
	at := filepath.Join(dir, "gl-k8s-integrator")
	if out, err := exec.Command("go", "build", "-o", at, "../../cmd/gl-k8s-integrator").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return at, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(built)
	}
	os.Exit(code)
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: needs a control plane")
	}
	// All of 127/8 is this machine, so that an IP of a Service works without kube-proxy.
	ip := fmt.Sprintf("127.96.%d.%d", 1+rand.IntN(254), 1+rand.IntN(254))
	m := &machine{root: t.TempDir(), ip: ip, hookCAs: x509.NewCertPool()}
	if err := os.Mkdir(filepath.Join(m.root, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"systemctl": systemctl, "chown": "#!/bin/sh\n", "useradd": "#!/bin/sh\n"} {
		if err := os.WriteFile(filepath.Join(m.root, "bin", name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	at, err := program()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(at, filepath.Join(m.root, "bin/gl-k8s-integrator")); err != nil {
		t.Fatal(err)
	}
	if m.gitlab, err = gitlabsim.New(gitlabsim.Options{Seed: []byte(world), HookCAs: m.hookCAs}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.gitlab.Close)
	for name, text := range map[string]string{".gitlab-ci.yml": pipeline, "deploy_new.yaml": deployment} {
		if err := m.gitlab.World().PutFile(m.project(), "main", name, text); err != nil {
			t.Fatal(err)
		}
	}
	if m.cluster, err = controlplane.Start(t.Context(), controlplane.Options{
		Dir: filepath.Join(m.root, "cluster"), APIServerFlags: []string{"--service-cluster-ip-range=127.96.0.0/16"},
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.cluster.Stop() })
	if m.kube, err = kubernetes.NewForConfig(m.cluster.AdminConfig()); err != nil {
		t.Fatal(err)
	}
	_, err = m.kube.CoreV1().ConfigMaps("kube-system").Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "kubeadm-config"},
		Data:       map[string]string{"ClusterConfiguration": "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nkubernetesVersion: v1.37.2\n"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.end)
	return m
}

func (m *machine) project() (id int64) {
	m.gitlab.World().View(func(v *gitlabsim.View) { id = v.ProjectByPath("haw/world").ID })
	return id
}

func (m *machine) alice() (id int64) {
	m.gitlab.World().View(func(v *gitlabsim.View) { id = v.UserByName("alice").ID })
	return id
}

// end ends the unit, if it runs.
func (m *machine) end() {
	at := filepath.Join(m.root, "pid")
	text, err := os.ReadFile(at)
	if pid, bad := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && bad == nil {
		_ = syscall.Kill(pid, syscall.SIGTERM)
		for end := time.Now().Add(30 * time.Second); syscall.Kill(pid, 0) == nil && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
		}
		_ = os.Remove(at)
	}
}

// path is the PATH of whoever runs a command.
func (m *machine) path(more ...string) string {
	return strings.Join(append(more, filepath.Join(m.root, "bin"), filepath.Dir(m.cluster.Kubectl()), "/usr/bin", "/bin"), ":")
}

// shell runs a command as the admin would, in the folder, and returns what it prints.
func (m *machine) shell(t *testing.T, dir, command string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", command)
	cmd.Dir = dir
	cmd.Env = []string{"HOME=" + m.root, "PATH=" + m.path(), "KUBECONFIG=" + m.cluster.AdminKubeconfig(), "TEST_ROOT=" + m.root}
	cmd.WaitDelay = time.Second // the unit's process has the same output
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// run is shell for what has to work.
func (m *machine) run(t *testing.T, dir, command string) string {
	t.Helper()
	out, err := m.shell(t, dir, command)
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return out
}

func (m *machine) write(t *testing.T, name, text string) string {
	t.Helper()
	p := filepath.Join(m.root, name)
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func (m *machine) ready(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(m.ip, "9090")+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
}

// withHelm puts the real helm on the PATH. It is built once, and later taken from Go's build cache.
func (m *machine) withHelm(t *testing.T) {
	t.Helper()
	at, err := helm()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(at, filepath.Join(m.root, "bin/helm")); err != nil {
		t.Fatal(err)
	}
}

var helm = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("go", "tool", "-modfile=../chart/helm/go.mod", "-n", "helm")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("building helm: %w\n%s", err, &stderr)
	}
	return strings.TrimSpace(string(out)), nil
})

// node stands in for kubelet: it runs the newest pods of the Deployment, all of them as one process, with the files of their
// volume, and says that they are ready when the process does. It ends with the test, and with it the process.
func (m *machine) node(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	k := &kubelet{machine: m, dir: filepath.Join(m.root, "pod")}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			k.err = k.look(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
		k.stop()
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		if t.Failed() {
			t.Logf("the node's last error: %v\nthe pod's log:\n%s", k.err, tail(filepath.Join(m.root, "log")))
		}
	})
}

func tail(file string) string {
	text, _ := os.ReadFile(file)
	return string(text[max(0, len(text)-4000):])
}

type kubelet struct {
	*machine
	dir  string
	hash string // of the pods' template
	cmd  *exec.Cmd
	err  error
}

func (k *kubelet) stop() {
	if k.cmd != nil {
		_ = k.cmd.Process.Signal(syscall.SIGTERM)
		_ = k.cmd.Wait()
		k.cmd = nil
	}
}

// look does what has to be done now.
func (k *kubelet) look(ctx context.Context) error {
	list, err := k.kube.CoreV1().Pods(deploy.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=gl-k8s-integrator"})
	if err != nil || len(list.Items) == 0 {
		return err
	}
	newest := slices.MaxFunc(list.Items, func(a, b corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	if err := k.mount(ctx, newest); err != nil {
		return err
	}
	if hash := newest.Labels["pod-template-hash"]; hash != k.hash {
		k.stop()
		log, err := os.OpenFile(filepath.Join(k.root, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer log.Close()
		k.cmd = exec.Command(filepath.Join(k.root, "bin/gl-k8s-integrator"), "serve", "--config", filepath.Join(k.dir, "config.yaml")) // ends in stop
		k.cmd.Stdout, k.cmd.Stderr = log, log
		if err := k.cmd.Start(); err != nil {
			k.cmd = nil
			return err
		}
		k.hash = hash
	}
	if !k.ready(ctx) {
		return fmt.Errorf("the pods %s are not ready", k.hash)
	}
	for _, p := range list.Items {
		if p.Labels["pod-template-hash"] != k.hash || p.Status.Phase == corev1.PodRunning {
			continue
		}
		p.Status.Phase = corev1.PodRunning
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
		if _, err := k.kube.CoreV1().Pods(deploy.Namespace).UpdateStatus(ctx, &p, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// mount writes the files of the volume, with paths and addresses of this machine.
func (k *kubelet) mount(ctx context.Context, p corev1.Pod) error {
	files := map[string][]byte{}
	for _, v := range p.Spec.Volumes {
		if v.Name != "files" {
			continue
		}
		for _, s := range v.Projected.Sources {
			data := map[string][]byte{}
			var items []corev1.KeyToPath
			if s.Secret != nil {
				secret, err := k.kube.CoreV1().Secrets(deploy.Namespace).Get(ctx, s.Secret.Name, metav1.GetOptions{})
				if err != nil {
					return err
				}
				data, items = secret.Data, s.Secret.Items
			} else {
				cm, err := k.kube.CoreV1().ConfigMaps(deploy.Namespace).Get(ctx, s.ConfigMap.Name, metav1.GetOptions{})
				if err != nil {
					return err
				}
				for name, text := range cm.Data {
					data[name] = []byte(text)
				}
			}
			for name, content := range data {
				if len(items) == 0 {
					files[name] = content
				}
			}
			for _, i := range items {
				files[i.Path] = data[i.Key]
			}
		}
	}
	if err := k.account(ctx); err != nil {
		return err
	}
	own := strings.NewReplacer("/etc/gl-k8s-integrator", k.dir, "0.0.0.0", k.ip,
		"cluster:\n", "cluster:\n  kubeconfig: "+k.dir+"/kubeconfig\n", "listeners:\n", "listeners:\n  drainDelay: 1ms\n")
	files["config.yaml"] = []byte(own.Replace(string(files["config.yaml"])))
	for name, content := range files {
		at := filepath.Join(k.dir, name)
		if have, err := os.ReadFile(at); err == nil && bytes.Equal(have, content) {
			continue
		}
		if err := os.WriteFile(at+".new", content, 0o600); err != nil {
			return err
		}
		if err := os.Rename(at+".new", at); err != nil {
			return err
		}
	}
	return nil
}

// account gives the process what a pod has: a token of its ServiceAccount.
func (k *kubelet) account(ctx context.Context) error {
	at := filepath.Join(k.dir, "kubeconfig")
	if _, err := os.Stat(at); err == nil {
		return nil
	}
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return err
	}
	hour := int64(3600)
	token, err := k.kube.CoreV1().ServiceAccounts(deploy.Namespace).CreateToken(ctx, deploy.ServiceAccount,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hour}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	return k.cluster.WriteKubeconfig(at, controlplane.KubeconfigUser{Token: token.Status.Token}, "")
}

// certManager installs cert-manager's own definitions, and does its work: a Secret for each Certificate, signed by its issuer.
func (m *machine) certManager(t *testing.T) {
	t.Helper()
	download := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", "github.com/cert-manager/cert-manager")
	download.Dir = "../chart/crds"
	out, err := download.Output()
	var found struct{ Dir, Error string }
	if jsonErr := json.Unmarshal(out, &found); jsonErr != nil || err != nil {
		t.Fatalf("fetching the CRDs of cert-manager: %v: %s", err, found.Error)
	}
	for _, kind := range []string{"issuers", "certificates", "clusterissuers"} {
		m.run(t, m.root, "kubectl apply --server-side -f "+filepath.Join(found.Dir, "deploy/crds/cert-manager.io_"+kind+".yaml"))
	}
	m.run(t, m.root, "kubectl wait --for condition=established --timeout 60s crd --all")
	client, err := dynamic.NewForConfig(m.cluster.AdminConfig())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	var last error
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			last = m.issue(ctx, client)
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		if t.Failed() {
			t.Logf("cert-manager's last error: %v", last)
		}
	})
}

// certificate is the part of cert-manager's Certificate that is looked at here.
type certificate struct {
	Spec struct {
		IsCA        bool
		CommonName  string
		SecretName  string
		IPAddresses []string
		DNSNames    []string
		Usages      []string
		IssuerRef   struct{ Name, Kind string }
	}
}

func (m *machine) issue(ctx context.Context, client dynamic.Interface) error {
	of := func(kind string) dynamic.ResourceInterface {
		return client.Resource(schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: kind}).Namespace(deploy.Namespace)
	}
	secrets := m.kube.CoreV1().Secrets(deploy.Namespace)
	list, err := of("certificates").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var waits []error
	for _, o := range list.Items {
		var c certificate
		text, err := o.MarshalJSON()
		if err != nil {
			return err
		}
		if err := json.Unmarshal(text, &c); err != nil {
			return err
		}
		if _, err := secrets.Get(ctx, c.Spec.SecretName, metav1.GetOptions{}); err == nil {
			continue
		}
		pair, ca, err := m.sign(ctx, of("issuers"), c)
		if err != nil { // its issuer comes later
			waits = append(waits, err)
			continue
		}
		if _, err := secrets.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: c.Spec.SecretName}, Type: corev1.SecretTypeTLS,
			Data: map[string][]byte{"tls.crt": pair.Cert, "tls.key": pair.Key, "ca.crt": ca},
		}, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return errors.Join(waits...)
}

func (m *machine) sign(ctx context.Context, issuers dynamic.ResourceInterface, c certificate) (pair localcert.Pair, ca []byte, err error) {
	if c.Spec.IsCA {
		own, err := localcert.NewAuthority(c.Spec.CommonName)
		if err != nil {
			return pair, nil, err
		}
		key, err := own.Key()
		return localcert.Pair{Cert: own.PEM, Key: key}, own.PEM, err
	}
	issuer, err := issuers.Get(ctx, c.Spec.IssuerRef.Name, metav1.GetOptions{})
	if err != nil {
		return pair, nil, err
	}
	spec, _ := issuer.Object["spec"].(map[string]any)
	of, _ := spec["ca"].(map[string]any)
	name, _ := of["secretName"].(string)
	secret, err := m.kube.CoreV1().Secrets(deploy.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return pair, nil, err
	}
	authority, err := localcert.LoadAuthority(secret.Data["tls.crt"], secret.Data["tls.key"])
	if err != nil {
		return pair, nil, err
	}
	v := localcert.Validity{From: time.Now().Add(-time.Minute), Until: time.Now().Add(time.Hour)}
	if slices.Contains(c.Spec.Usages, "client auth") {
		pair, err = authority.ClientFor(c.Spec.CommonName, v)
	} else {
		pair, err = authority.ServerFor(c.Spec.CommonName, v, slices.Concat(c.Spec.IPAddresses, c.Spec.DNSNames)...)
	}
	return pair, authority.PEM, err
}

// parse returns the certificates of a PEM file.
func parse(t *testing.T, text []byte) (out []*x509.Certificate) {
	t.Helper()
	for {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			return out
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
}
