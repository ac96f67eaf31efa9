package deploy_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
)

func docsPage(t *testing.T, name string) string {
	t.Helper()
	page, err := os.ReadFile("../docs/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// block returns the text of the page's only block of that kind.
func block(t *testing.T, page, kind string) string {
	t.Helper()
	found := regexp.MustCompile("(?s)```"+kind+"\n(.*?)```").FindAllStringSubmatch(docsPage(t, page), -1)
	if len(found) != 1 {
		t.Fatalf("docs/%s has %d blocks %q, want one", page, len(found), kind)
	}
	return found[0][1]
}

func shell(t *testing.T, dir, script string, env ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-ec", script)
	cmd.Dir, cmd.Env = dir, append([]string{"HOME=" + dir, "PATH=/usr/bin:/bin"}, env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestCertificatesOfTheDocs: with the certificates that docs/install-unit.md makes, kube-apiserver and the webhook know each
// other, and neither takes the other's part.
func TestCertificatesOfTheDocs(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("needs openssl")
	}
	dir := t.TempDir()
	shell(t, dir, block(t, "install-unit.md", "sh certificates"))
	pair := func(name string) tls.Certificate {
		t.Helper()
		p, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	ca, err := os.ReadFile(filepath.Join(dir, "webhook-ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	handshake := func(server, client tls.Certificate) error {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		s := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: tls.VersionTLS13})
		c := tls.Client(b, &tls.Config{Certificates: []tls.Certificate{client}, RootCAs: pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS13})
		result := make(chan error, 1)
		go func() { result <- c.HandshakeContext(t.Context()); _ = b.Close() }()
		err := s.HandshakeContext(t.Context())
		if clientErr := <-result; clientErr != nil {
			return clientErr
		}
		return err
	}
	webhook, apiserver := pair("tls"), pair("apiserver-client")
	if err := handshake(webhook, apiserver); err != nil {
		t.Error(err)
	}
	if handshake(webhook, webhook) == nil || handshake(apiserver, apiserver) == nil {
		t.Error("a certificate serves for both sides")
	}
}

// TestCredentialsOfTheDocs: the kubeconfig that docs/install-unit.md makes is the integrator's ServiceAccount.
func TestCredentialsOfTheDocs(t *testing.T) {
	as(t, "")
	dir := t.TempDir()
	deployDir, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(deployDir, filepath.Join(dir, "deploy")); err != nil {
		t.Fatal(err)
	}
	script := strings.ReplaceAll(block(t, "install-unit.md", "sh credentials"), "https://icc.example.com:6443", cluster.URL())
	shell(t, dir, "PATH="+filepath.Dir(cluster.Kubectl())+":$PATH\n"+script, "KUBECONFIG="+cluster.AdminKubeconfig())
	cfg, err := clientcmd.BuildConfigFromFlags("", filepath.Join(dir, "integrator.kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	own := clientFor(t, cfg)
	me, err := own.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if want := "system:serviceaccount:" + deploy.Namespace + ":" + deploy.ServiceAccount; me.Status.UserInfo.Username != want {
		t.Errorf("it is %s, want %s", me.Status.UserInfo.Username, want)
	}
	_, err = own.CoreV1().Secrets(deploy.Namespace).Get(t.Context(), "gl-k8s-integrator-token", metav1.GetOptions{})
	refused(t, err, "cannot get resource")
	if info, err := os.Stat(filepath.Join(dir, "integrator-token")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("others can read the token: %v, %v", info, err)
	}
}

// TestStaticPodOfTheDocs: every file that kube-apiserver is told to read is under what is mounted into it.
func TestStaticPodOfTheDocs(t *testing.T) {
	var pod corev1.Pod
	if err := yaml.UnmarshalStrict([]byte(block(t, "install.md", "yaml static pod")), &pod); err != nil {
		t.Fatal(err)
	}
	mount, volume := pod.Spec.Containers[0].VolumeMounts[0], pod.Spec.Volumes[0]
	if mount.Name != volume.Name || mount.MountPath != volume.HostPath.Path {
		t.Errorf("mount %v and volume %v don't belong together", mount, volume)
	}
	_, section, _ := strings.Cut(docsPage(t, "install.md"), "\n## kube-apiserver\n")
	section, _, _ = strings.Cut(section, "\n## ")
	files := regexp.MustCompile(`/etc/[a-zA-Z0-9./-]+\.[a-z]+`).FindAllString(section, -1)
	if len(files) < 6 {
		t.Fatalf("only %d files: %v", len(files), files)
	}
	for _, f := range files {
		if filepath.Dir(f) != mount.MountPath {
			t.Errorf("%s is not in %s", f, mount.MountPath)
		}
	}
}

// TestUnitOfThePage: what docs/page.md says for a unit gives the unit's user each file that the page's configuration names, and has that
// user check the configuration that the unit runs with.
func TestUnitOfThePage(t *testing.T) {
	unit, err := os.ReadFile("optional/gl-k8s-integrator.service")
	if err != nil {
		t.Fatal(err)
	}
	user := regexp.MustCompile(`(?m)^User=(.*)$`).FindStringSubmatch(string(unit))
	serve := regexp.MustCompile(`(?m)^ExecStart=.* serve (--config (.*)/\S+)$`).FindStringSubmatch(string(unit))
	if user == nil || serve == nil {
		t.Fatalf("the unit is\n%s", unit)
	}
	steps := block(t, "page.md", "sh unit")
	for _, want := range []string{"cd " + serve[2] + "\n", "sudo -u " + user[1] + " gl-k8s-integrator check-config " + serve[1] + "\n", "systemctl restart gl-k8s-integrator\n"} {
		if !strings.Contains(steps, want) {
			t.Errorf("the steps lack %q:\n%s", want, steps)
		}
	}
	_, given, _ := strings.Cut(steps, "chown "+user[1]+": ")
	given, _, _ = strings.Cut(given, "\n")
	var c struct {
		Listeners struct{ Web map[string]string }
		Web       map[string]string
	}
	if err := yaml.Unmarshal([]byte(block(t, "page.md", "yaml config")), &c); err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, keys := range []map[string]string{c.Web, c.Listeners.Web} {
		for key, at := range keys {
			if strings.HasSuffix(key, "File") {
				files = append(files, strings.TrimPrefix(at, serve[2]+"/"))
			}
		}
	}
	slices.Sort(files)
	have := strings.Fields(given)
	slices.Sort(have)
	if len(files) != 4 || !slices.Equal(files, have) {
		t.Errorf("%s gets %q, and the configuration names %q", user[1], have, files)
	}
}

// TestExampleDeployment: Pod Security of the namespace lets it run, and its command and ports belong together. In the
// host network it would be refused, as docs/install.md says.
func TestExampleDeployment(t *testing.T) {
	admin := as(t, "")
	file, err := os.ReadFile("optional/deployment.yaml")
	if err != nil {
		t.Fatal(err)
	}
	docs := bytes.SplitN(file, []byte("\n---\n"), 4)
	var d appsv1.Deployment
	var s corev1.Service
	var n networkingv1.NetworkPolicy
	var b policyv1.PodDisruptionBudget
	for i, into := range []any{&d, &s, &n, &b} {
		if err := yaml.UnmarshalStrict(docs[i], into); err != nil {
			t.Fatal(err)
		}
	}
	dryRun := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	if _, err := admin.AppsV1().Deployments(deploy.Namespace).Create(t.Context(), &d, dryRun); err != nil {
		t.Error(err)
	}
	if _, err := admin.CoreV1().Services(deploy.Namespace).Create(t.Context(), &s, dryRun); err != nil {
		t.Error(err)
	}
	if _, err := admin.NetworkingV1().NetworkPolicies(deploy.Namespace).Create(t.Context(), &n, dryRun); err != nil {
		t.Error(err)
	}
	if _, err := admin.PolicyV1().PodDisruptionBudgets(deploy.Namespace).Create(t.Context(), &b, dryRun); err != nil {
		t.Error(err)
	}
	survivesRestarts(t, &d, &b)
	pod := &corev1.Pod{ObjectMeta: *d.Spec.Template.ObjectMeta.DeepCopy(), Spec: d.Spec.Template.Spec}
	pod.GenerateName = "example-"
	if _, err := admin.CoreV1().Pods(deploy.Namespace).Create(t.Context(), pod, dryRun); err != nil {
		t.Errorf("the pod of the Deployment: %v", err)
	}
	pod.Spec.HostNetwork = true
	_, err = admin.CoreV1().Pods(deploy.Namespace).Create(t.Context(), pod, dryRun)
	refused(t, err, "host namespaces")
	ports := map[string]bool{}
	for _, p := range d.Spec.Template.Spec.Containers[0].Ports {
		ports[p.Name] = true
	}
	for _, p := range s.Spec.Ports {
		if !ports[p.TargetPort.StrVal] {
			t.Errorf("the Service leads to the port %s, which the pod has not", p.TargetPort.StrVal)
		}
	}
	if !maps.Equal(n.Spec.PodSelector.MatchLabels, d.Spec.Template.Labels) {
		t.Errorf("the NetworkPolicy is about %v, the pods have %v", n.Spec.PodSelector.MatchLabels, d.Spec.Template.Labels)
	}
	for _, rule := range n.Spec.Ingress {
		if len(rule.From) == 0 {
			t.Error("the NetworkPolicy lets everybody in")
		}
		for _, p := range rule.Ports {
			if !ports[p.Port.StrVal] {
				t.Errorf("the NetworkPolicy names the port %s, which the pod has not, or which has a rule already", p.Port.StrVal)
			}
			delete(ports, p.Port.StrVal)
		}
	}
	if len(ports) > 0 {
		t.Errorf("the NetworkPolicy closes ports: %v", ports)
	}
}

// survivesRestarts checks that a rolling restart or the draining of a node leaves one pod that answers, and that none is
// killed before it has drained.
func survivesRestarts(t *testing.T, d *appsv1.Deployment, b *policyv1.PodDisruptionBudget) {
	t.Helper()
	spec := d.Spec.Template.Spec
	if r := d.Spec.Strategy.RollingUpdate; r == nil || r.MaxUnavailable.IntValue() != 0 {
		t.Error("a rolling restart may leave fewer pods than replicas")
	}
	if *d.Spec.Replicas < 2 || b.Spec.MaxUnavailable.IntValue() != 1 || !maps.Equal(b.Spec.Selector.MatchLabels, d.Spec.Template.Labels) {
		t.Errorf("%d replicas, PodDisruptionBudget %v", *d.Spec.Replicas, b.Spec)
	}
	if len(spec.TopologySpreadConstraints) != 1 || !maps.Equal(spec.TopologySpreadConstraints[0].LabelSelector.MatchLabels, d.Spec.Template.Labels) {
		t.Errorf("spread %v", spec.TopologySpreadConstraints)
	}
	if g := spec.TerminationGracePeriodSeconds; g == nil || *g < 5+30+5 { // listeners.drainDelay, httpserver's ShutdownTimeout, the history
		t.Error("a pod may be killed before it has drained")
	}
	c := spec.Containers[0]
	for path, probe := range map[string]*corev1.Probe{"/readyz": c.ReadinessProbe, "/healthz": c.LivenessProbe} {
		if probe == nil || probe.HTTPGet.Path != path || probe.HTTPGet.Port.StrVal != "metrics" {
			t.Errorf("probe of %s: %v", path, probe)
		}
	}
	if c.StartupProbe == nil || c.StartupProbe.HTTPGet.Path != "/healthz" {
		t.Errorf("startup probe %v", c.StartupProbe)
	}
}
