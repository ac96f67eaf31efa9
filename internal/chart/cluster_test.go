package chart_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/fence"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/freeport"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// world is a control plane without nodes: pods are made, and wait.
type world struct {
	*helm
	cluster *controlplane.Cluster
	admin   kubernetes.Interface
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: needs a real control plane")
	}
	cluster, err := controlplane.Start(t.Context(), controlplane.Options{Dir: filepath.Join(t.TempDir(), "cluster"), Progress: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cluster.Stop() })
	admin, err := kubernetes.NewForConfig(cluster.AdminConfig())
	if err != nil {
		t.Fatal(err)
	}
	return &world{helm: newHelm(t, cluster.AdminKubeconfig()), cluster: cluster, admin: admin}
}

// kubectl runs it as an administrator.
func (w *world) kubectl(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), w.cluster.Kubectl(), args...)
	cmd.Env = []string{"HOME=" + w.home, "PATH=/usr/bin:/bin", "KUBECONFIG=" + w.kubeconfig}
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, &stderr)
	}
	return stdout.String(), nil
}

// definitions installs the CRDs that the chart has objects of, as their projects publish them.
func (w *world) definitions(t *testing.T) {
	t.Helper()
	for module, files := range map[string][]string{
		"github.com/cert-manager/cert-manager": {"deploy/crds/cert-manager.io_issuers.yaml", "deploy/crds/cert-manager.io_certificates.yaml"},
		"github.com/prometheus-operator/prometheus-operator": {
			"example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
			"example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
		},
	} {
		cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", module)
		cmd.Dir = "crds"
		out, err := cmd.Output()
		var found struct{ Dir, Error string }
		if jsonErr := json.Unmarshal(out, &found); jsonErr != nil || err != nil {
			t.Fatalf("fetching the CRDs of %s: %v: %s", module, err, found.Error)
		}
		for _, f := range files {
			if _, err := w.kubectl(t, "", "apply", "--server-side", "--filename", filepath.Join(found.Dir, f)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := w.kubectl(t, "", "wait", "--for", "condition=established", "--timeout", "60s", "crd", "--all"); err != nil {
		t.Fatal(err)
	}
}

// live returns which of the objects are in the cluster.
func (w *world) live(t *testing.T, wanted map[string]*unstructured.Unstructured) (have []string) {
	t.Helper()
	var stream strings.Builder
	for _, o := range wanted {
		text, err := yaml.Marshal(o.Object)
		if err != nil {
			t.Fatal(err)
		}
		stream.WriteString("---\n" + string(text))
	}
	out, err := w.kubectl(t, stream.String(), "get", "--ignore-not-found", "--filename", "-",
		"--output", `jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.deletionTimestamp}{"\n"}{end}`)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		if name, deleted, _ := strings.Cut(strings.TrimRight(line, "\n"), " "); deleted == "" {
			have = append(have, name)
		}
	}
	slices.Sort(have)
	return have
}

// eventually waits for what controllers or the program do.
func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	t.Fatalf("not within a minute: %s: %v", what, err)
}

// TestDryRuns: kube-apiserver takes everything that the chart renders with any of the values, and knows every field of it.
func TestDryRuns(t *testing.T) {
	w := newWorld(t)
	w.definitions(t)
	if _, err := w.kubectl(t, "", "create", "namespace", deploy.Namespace); err != nil {
		t.Fatal(err)
	}
	for name, file := range variants(t) {
		t.Run(name, func(t *testing.T) {
			manifests := w.template(t, "--values", file)
			out, err := w.kubectl(t, manifests, "apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename", "-")
			if err != nil {
				t.Fatal(err)
			}
			if n, want := strings.Count(out, "serverside-applied (server dry run)"), len(objects(t, manifests)); n != want {
				t.Errorf("%d objects of %d:\n%s", n, want, out)
			}
		})
	}
	t.Run("plain manifests as a base", func(t *testing.T) {
		if _, err := w.kubectl(t, "", "apply", "--server-side", "--dry-run=server", "--validate=strict", "--kustomize", "../../deploy"); err != nil {
			t.Error(err)
		}
	})
}

// TestLifeOfARelease: helm installs the chart into a bare cluster and upgrades it from each variant of the values to the
// next; then exactly what it renders is there. An uninstall leaves what holds the tenants, and an install after it works.
func TestLifeOfARelease(t *testing.T) {
	w := newWorld(t)
	w.definitions(t)
	files := variants(t)
	w.must(t, "install", release, chartDir, "--create-namespace", "--take-ownership", "--values", files["config"])
	t.Run("pods", func(t *testing.T) { w.podsWait(t, 3) })
	t.Run("same values", func(t *testing.T) {
		w.must(t, "upgrade", release, chartDir, "--reuse-values", "--set", "replicas=4")
		w.podsWait(t, 4)
		cm, err := w.admin.CoreV1().ConfigMaps(deploy.Namespace).Get(t.Context(), "gl-k8s-integrator-config", metav1.GetOptions{})
		if err != nil || !strings.Contains(cm.Data["config.yaml"], "acme:deployer") || !strings.Contains(cm.Data["config.yaml"], "replicas: 4") {
			t.Errorf("the values of before are lost: %v, %v", cm, err)
		}
	})

	before := objects(t, w.must(t, "get", "manifest", release))
	for _, name := range append(slices.Sorted(maps.Keys(files)), "config") {
		t.Run(name, func(t *testing.T) {
			w.must(t, "upgrade", release, chartDir, "--reset-values", "--values", files[name])
			rendered := objects(t, w.must(t, "get", "manifest", release))
			all := maps.Clone(before)
			maps.Copy(all, rendered)
			var want []string
			for key, o := range all {
				if rendered[key] != nil || kept(o) {
					want = append(want, key)
				}
			}
			slices.Sort(want)
			eventually(t, "the objects are those of the chart", func() error {
				if have := w.live(t, all); !slices.Equal(want, have) {
					return fmt.Errorf("want %q, have %q", want, have)
				}
				return nil
			})
			w.podSecurity(t, rendered)
			before = rendered
		})
	}

	t.Run("uninstall", func(t *testing.T) {
		w.must(t, "uninstall", release)
		var want []string
		for key, o := range before {
			if kept(o) {
				want = append(want, key)
			}
		}
		slices.Sort(want)
		eventually(t, "what holds tenants is left alone", func() error {
			if have := w.live(t, before); !slices.Equal(want, have) {
				return fmt.Errorf("want %q, have %q", want, have)
			}
			return nil
		})
		w.must(t, "install", release, chartDir, "--create-namespace", "--values", files["config"])
		w.podsWait(t, 3)
	})
}

// podsWait: Pod Security lets the pods of the Deployment in, and they wait for a node.
func (w *world) podsWait(t *testing.T, n int) {
	t.Helper()
	eventually(t, "the pods are made", func() error {
		pods, err := w.admin.CoreV1().Pods(deploy.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=gl-k8s-integrator"})
		if err != nil {
			return err
		}
		pending := 0
		for _, p := range pods.Items {
			if p.Status.Phase == corev1.PodPending && p.DeletionTimestamp == nil {
				pending++
			}
		}
		if pending < n {
			return fmt.Errorf("%d pods wait", pending)
		}
		return nil
	})
}

// podSecurity: the namespace, as the chart labels it, lets in what the workload's template makes.
func (w *world) podSecurity(t *testing.T, rendered map[string]*unstructured.Unstructured) {
	t.Helper()
	var template corev1.PodTemplateSpec
	if o := rendered["DaemonSet/gl-k8s-integrator"]; o != nil {
		var d appsv1.DaemonSet
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, &d, true); err != nil {
			t.Fatal(err)
		}
		template = d.Spec.Template
	} else {
		var d appsv1.Deployment
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(rendered["Deployment/gl-k8s-integrator"].Object, &d, true); err != nil {
			t.Fatal(err)
		}
		template = d.Spec.Template
	}
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	pod.GenerateName = "variant-"
	if _, err := w.admin.CoreV1().Pods(deploy.Namespace).Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Error(err)
	}
	if !pod.Spec.HostNetwork {
		ns, err := w.admin.CoreV1().Namespaces().Get(t.Context(), deploy.Namespace, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if level := ns.Labels["pod-security.kubernetes.io/enforce"]; rendered["Namespace/"+deploy.Namespace] != nil && level != "restricted" {
			t.Errorf("the namespace's level is %q", level)
		}
	}
}

const seed = `
users:
  - {username: root, name: Administrator, admin: true, password: root-password}
  - {username: alice, name: Alice, password: alice-password}
projects:
  - {path: haw/world, name: World, visibility: private, members: {alice: maintainer}}
groups:
  - {path: haw, name: HAW, visibility: private}
`

// TestServeWithTheChartsAccount: the program, outside of the cluster, with the ServiceAccount, the roles, the policies and
// the configuration of the chart, with certificates as cert-manager makes them from its objects, passes its own checks of
// the cluster, gives rights, and is reached by kube-apiserver, kubelet, Prometheus and GitLab, and by nobody else.
func TestServeWithTheChartsAccount(t *testing.T) {
	w := newWorld(t)
	gitlab, err := gitlabsim.New(gitlabsim.Options{Seed: []byte(seed)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(gitlab.Close)
	dir := t.TempDir()
	values := filepath.Join(dir, "values.yaml")
	write(t, values, fmt.Sprintf(`
namespaceDeletion: true
templates: true
protectMetrics: true
serviceMonitor: {enabled: true}
service: {clusterIP: 10.96.0.53}
certManager:
  enabled: true
  hooks: {dnsNames: [integrator.example.com], issuerRef: {name: public, kind: ClusterIssuer, group: cert-manager.io}}
config:
  gitlab: {url: %q, caFile: /etc/gl-k8s-integrator/gitlab-ca.crt}
  cluster: {publicURL: %q}
  authn: {clientIDs: [kubelogin]}
  authz:
    roles:
      - {clusterRole: "acme:deployer", levels: [maintainer, owner]}
      - {clusterRole: view, levels: [developer]}
  rbacsync:
    mode: enforce
    deletion: {policy: delete}
`, gitlab.URL(), w.cluster.URL()))
	if _, err := w.kubectl(t, "", "create", "clusterrole", "acme:deployer", "--verb=get,create", "--resource=deployments.apps"); err != nil {
		t.Fatal(err)
	}
	// It was installed without helm before.
	if _, err := w.kubectl(t, "", "apply", "--filename", "../../deploy/manifests"); err != nil {
		t.Fatal(err)
	}
	w.definitions(t)
	w.must(t, "install", release, chartDir, "--take-ownership", "--force-conflicts", "--values", values)

	made := w.certManager(t)
	cfg := w.files(t, dir, gitlab)
	own, err := clientcmd.BuildConfigFromFlags("", filepath.Join(dir, "kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(own)
	if err != nil {
		t.Fatal(err)
	}
	if err := fence.Ready(t.Context(), client, cfg); err != nil {
		t.Error(err)
	}
	if err := fence.CheckRoles(t.Context(), client, cfg.Authz); err != nil {
		t.Error(err)
	}
	log := serve(t, filepath.Join(dir, "config.yaml"))
	eventually(t, "alice has her right and CI its token", func() error {
		rb, err := w.admin.RbacV1().RoleBindings("haw-world").Get(t.Context(), kubename.RoleBinding("acme:deployer", 0), metav1.GetOptions{})
		if err != nil {
			return err
		}
		if len(rb.Subjects) != 1 {
			return fmt.Errorf("the binding has the subjects %v", rb.Subjects)
		}
		_, err = w.admin.CoreV1().Secrets("haw-world").Get(t.Context(), "gitlab-serviceaccount-token", metav1.GetOptions{})
		return err
	})
	asksWebhook(t, made, cfg.Listeners.Webhooks.Address, "10.96.0.53")
	w.asksMetrics(t, cfg.Listeners.Metrics.Address)
	gitlabs := caller{ca: made["gl-k8s-integrator-hooks"].Data["ca.crt"], name: "integrator.example.com"}
	if status, err := gitlabs.ask(t, http.MethodPost, "https://"+cfg.Listeners.Hooks.Address+"/hooks/gitlab", "{}"); err != nil || status != http.StatusUnauthorized {
		t.Errorf("a hook without proof is answered %d, %v", status, err)
	}
	if strings.Contains(log.String(), "mode enforce waits") || strings.Contains(log.String(), "forbidden") {
		t.Errorf("something of what the program needs is refused:\n%s", log)
	}
}

// files makes the Secret that the notes ask for, does what the pod's volume does, with paths and ports of this machine, and
// returns the configuration.
func (w *world) files(t *testing.T, dir string, gitlab *gitlabsim.Server) *config.Config {
	t.Helper()
	hour := int64(3600)
	token, err := w.admin.CoreV1().ServiceAccounts(deploy.Namespace).CreateToken(t.Context(), deploy.ServiceAccount,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hour}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.cluster.WriteKubeconfig(filepath.Join(dir, "kubeconfig"), controlplane.KubeconfigUser{Token: token.Status.Token}, ""); err != nil {
		t.Fatal(err)
	}
	give := map[string]string{
		"gitlab-ca.crt": string(gitlab.CA()), "read-token": gitlab.TokenFor("root", "read_api"), "write-token": gitlab.TokenFor("root", "api"),
		"hook-secret": "s3cret-of-the-hook", "metrics-token": "s3cret-of-prometheus\n",
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "gl-k8s-integrator-files"}, StringData: map[string]string{}}
	for _, asked := range regexp.MustCompile(`--from-file=(\S+)`).FindAllStringSubmatch(w.must(t, "get", "notes", release), -1) {
		if give[asked[1]] == "" {
			t.Errorf("the notes ask for %s", asked[1])
		}
		secret.StringData[asked[1]] = give[asked[1]]
	}
	if _, err := w.admin.CoreV1().Secrets(deploy.Namespace).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.mount(t, dir)
	path := filepath.Join(dir, "config.yaml")
	text := strings.ReplaceAll(read(t, path), inPod, dir)
	for _, port := range []string{"8443", "8444", "9090"} {
		if !strings.Contains(text, "0.0.0.0:"+port) {
			t.Errorf("nothing listens on port %s", port)
		}
		text = strings.ReplaceAll(text, "0.0.0.0:"+port, freeport.For(t))
	}
	text = strings.Replace(text, "cluster:\n", "cluster:\n  kubeconfig: "+filepath.Join(dir, "kubeconfig")+"\n", 1)
	write(t, path, text)
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return cfg
}

// serve starts the program, and ends it with the test.
func serve(t *testing.T, path string) *logFile {
	t.Helper()
	log := new(logFile)
	cmd := exec.Command(os.Args[0]) // ends by SIGTERM, below
	cmd.Env = append(os.Environ(), configEnv+"="+path)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("the program ended: %v\n%s", err, log)
		}
	})
	return log
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
