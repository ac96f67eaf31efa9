package chart_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
)

const page = "../../docs/chart.md"

// block returns the text of a page's only block of that kind.
func block(t *testing.T, page, kind string) string {
	t.Helper()
	found := regexp.MustCompile("(?s)```"+kind+"\n(.*?)```").FindAllStringSubmatch(read(t, page), -1)
	if len(found) != 1 {
		t.Fatalf("%s has %d blocks %q, want one", page, len(found), kind)
	}
	return found[0][1]
}

// TestTheChartsPage: what docs/chart.md says, in its order, installs, upgrades and uninstalls; and Helm then prints what
// kube-apiserver needs, as docs/install.md has it.
func TestTheChartsPage(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	deployDir, err := filepath.Abs("../../deploy")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(deployDir, filepath.Join(dir, "deploy")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "values.yaml"), block(t, page, "yaml values"))
	install := block(t, page, "sh install")
	for _, m := range regexp.MustCompile(`--from-file=(\S+)`).FindAllStringSubmatch(install, -1) {
		write(t, filepath.Join(dir, m[1]), "content of "+m[1])
	}
	shell := func(script string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-ec", script)
		cmd.Dir = dir
		cmd.Env = []string{"HOME=" + w.home, "KUBECONFIG=" + w.kubeconfig, "PATH=" + filepath.Dir(w.path) + ":" + filepath.Dir(w.cluster.Kubectl()) + ":/usr/bin:/bin"}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v in\n%s\n%s", err, script, out)
		}
		return string(out)
	}
	notes := shell(install)
	w.podsWait(t, 2)
	kubeconfig := strings.ReplaceAll(block(t, "../../docs/install.md", "yaml kubeconfig"), "127.0.0.1", "10.96.0.53")
	for _, want := range []string{kubeconfig, block(t, "../../docs/install.md", "yaml authorization"), "--authorization-config="} {
		if !strings.Contains(notes, want) {
			t.Errorf("helm prints\n%s\nwithout\n%s", notes, want)
		}
	}
	// The Secret that the page makes has what the notes ask for.
	line := regexp.MustCompile(`create secret generic .*`).FindString(notes)
	asked, made := strings.Fields(line), strings.Fields(strings.ReplaceAll(install, "\\\n", ""))
	if len(asked) < 8 {
		t.Errorf("the notes ask for %q", asked)
	}
	for _, file := range asked {
		if strings.HasPrefix(file, "--from-file=") && !strings.Contains(strings.Join(made, " ")+" ", file+" ") {
			t.Errorf("the notes ask for %s, and the page does not make it", file)
		}
	}
	addPage(t, w, shell, dir)
	shell(block(t, page, "sh upgrade"))
	d, err := w.admin.AppsV1().Deployments(deploy.Namespace).Get(t.Context(), release, metav1.GetOptions{})
	if err != nil || !strings.HasPrefix(d.Spec.Template.Spec.Containers[0].Image, "registry.example.com/") {
		t.Errorf("the upgrade loses values: %v, %v", err, d.Spec.Template.Spec.Containers)
	}
	plan := strings.TrimSpace(block(t, "../../docs/install-chart.md", "sh plan"))
	if !strings.Contains(notes, plan) {
		t.Errorf("helm names another next command than %s:\n%s", plan, notes)
	}
	shell(block(t, "../../docs/install-chart.md", "sh enforce"))
	if own := w.must(t, "get", "values", release, "--namespace", deploy.Namespace); !strings.Contains(own, "mode: enforce") || !strings.Contains(own, "gitlab.example.com") {
		t.Errorf("after the last step the values are\n%s", own)
	}
	shell(block(t, page, "sh uninstall"))
	if list := w.must(t, "list", "--short"); list != "" {
		t.Errorf("releases after the uninstall: %s", list)
	}
}

// addPage adds the page for people by what docs/page.md says: the Secret keeps its keys and gets those of the page, also twice; and without
// Helm a kustomization opens the port as the chart does.
func addPage(t *testing.T, w *world, shell func(string) string, dir string) {
	t.Helper()
	const people = "../../docs/page.md"
	secret := func() map[string][]byte {
		t.Helper()
		s, err := w.admin.CoreV1().Secrets(deploy.Namespace).Get(t.Context(), "gl-k8s-integrator-files", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return s.Data
	}
	want := secret()
	script := block(t, people, "sh secret")
	added := regexp.MustCompile(`--from-file=(\S+)`).FindAllStringSubmatch(script, -1)
	if len(added) != 4 {
		t.Errorf("docs/page.md adds %q", added)
	}
	for _, content := range []string{"first", "second"} {
		for _, m := range added {
			want[m[1]] = []byte(content)
			write(t, filepath.Join(dir, m[1]), content)
		}
		shell(script)
		if diff := cmp.Diff(want, secret()); diff != "" {
			t.Errorf("%s: the Secret (-want +have):\n%s", content, diff)
		}
	}
	forced := strings.Replace(strings.Replace(script, "--from-file=web.key", "--from-file=web.key --from-file=read-token", 1), "kubectl apply", "kubectl apply --force-conflicts", 1)
	want["read-token"] = []byte("a new one")
	write(t, filepath.Join(dir, "read-token"), "a new one")
	shell(forced)
	if diff := cmp.Diff(want, secret()); diff != "" {
		t.Errorf("a key that was there (-want +have):\n%s", diff)
	}

	write(t, filepath.Join(dir, "kustomization.yaml"), block(t, people, "yaml kustomization"))
	pageOpen(t, objects(t, shell("kubectl kustomize .")))
}

// pageOpen looks whether the page has its port in pods, Service and NetworkPolicy.
func pageOpen(t *testing.T, rendered map[string]*unstructured.Unstructured) {
	t.Helper()
	for key, want := range map[string]string{
		"Service/gl-k8s-integrator":       `{"name":"web","port":8445,"targetPort":"web"}`,
		"NetworkPolicy/gl-k8s-integrator": `{"port":"web"}`,
		"Deployment/gl-k8s-integrator":    `{"containerPort":8445,"name":"web"}`,
	} {
		if rendered[key] == nil {
			t.Errorf("there is no %s", key)
			continue
		}
		if text, err := rendered[key].MarshalJSON(); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s lacks %s: %s, %v", key, want, text, err)
		}
	}
}

// TestManagedOfTheDocs: the values of docs/install-managed.md make a configuration in which kube-apiserver judges tokens.
func TestManagedOfTheDocs(t *testing.T) {
	values := filepath.Join(t.TempDir(), "values.yaml")
	write(t, values, block(t, "../../docs/install-managed.md", "yaml values"))
	rendered := objects(t, newHelm(t, "").template(t, "--values", values))
	if roles := configuredRoles(t, rendered); len(roles) == 0 { // the configuration is good
		t.Error("it gives no roles")
	}
	text, _, _ := unstructured.NestedString(rendered["ConfigMap/gl-k8s-integrator-config"].Object, "data", "config.yaml")
	if strings.Count(text, "disabled: true") != 2 || strings.Contains(text, "tls.crt") || !strings.Contains(text, "name: icc") {
		t.Errorf("the configuration is\n%s", text)
	}
}

// TestThePageOfTheDocs: with the values of docs/page.md the page has its port in pods, Service, NetworkPolicy and Ingress, and the
// configuration its files.
func TestThePageOfTheDocs(t *testing.T) {
	values := filepath.Join(t.TempDir(), "values.yaml")
	write(t, values, block(t, "../../docs/page.md", "yaml values"))
	rendered := objects(t, newHelm(t, "").template(t, "--values", values))
	c := configuration(t, rendered)
	if c == nil || c.Listeners.Web.Address != "0.0.0.0:8445" || c.Listeners.Web.CertFile == "" || c.Web.ClientSecretFile == "" || c.Web.SessionKeyFile == "" || c.Cluster.Name != "icc" {
		t.Fatalf("the configuration is %+v", c)
	}
	pageOpen(t, rendered)
	const host = `"host":"access.example.com"`
	if rendered["Ingress/gl-k8s-integrator"] == nil {
		t.Fatal("there is no Ingress")
	}
	if text, err := rendered["Ingress/gl-k8s-integrator"].MarshalJSON(); err != nil || !strings.Contains(string(text), host) {
		t.Errorf("the Ingress lacks %s: %s, %v", host, text, err)
	}
}

// TestValuesOfTheDocs: docs/chart.md names no value that is not there.
func TestValuesOfTheDocs(t *testing.T) {
	var values map[string]any
	if err := yaml.Unmarshal([]byte(read(t, filepath.Join(chartDir, "values.yaml"))), &values); err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`(?m)^\| (`+"`.*?`"+`) \|`).FindAllStringSubmatch(read(t, page), -1)
	if len(rows) < 8 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, row := range rows {
		for _, m := range regexp.MustCompile("`([a-zA-Z.]+)").FindAllStringSubmatch(row[1], -1) {
			var at any = values
			for key := range strings.SplitSeq(m[1], ".") {
				below, ok := at.(map[string]any)
				if _, there := below[key]; !ok || !there {
					t.Fatalf("docs/chart.md names the value %s", m[1])
				}
				at = below[key]
			}
		}
	}
}
