package setup_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/setup"
)

// podAnswers are those of an installation in pods, which asks nobody.
func podAnswers(t *testing.T) setup.Answers {
	t.Helper()
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	authority, err := localcert.NewAuthority("GitLab")
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, authority.PEM, 0o600); err != nil {
		t.Fatal(err)
	}
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("glpat-x"), 0o600); err != nil {
		t.Fatal(err)
	}
	return setup.Answers{
		GitLab: "https://127.0.0.1:1", GitLabCAFile: ca, ClientIDs: []string{"kubelogin", "other"}, ReadTokenFile: token, WriteTokenFile: token,
		Distribution: setup.Flags, Run: setup.InCluster, HooksURL: "https://integrator.example.com:8444/hooks/gitlab",
		Image: "registry.example.com:5000/gl-k8s-integrator:1", APIServerURL: "https://icc.example.com:6443", WebhookAddress: "10.96.0.77:8443",
	}
}

func folderOf(t *testing.T, a setup.Answers) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "new")
	if err := setup.Init(t.Context(), dir, a, time.Now(), new(bytes.Buffer)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// rendered are the objects that the folder's chart makes of its values, by kind and name.
func rendered(t *testing.T, dir string) map[string]map[string]any {
	t.Helper()
	at, err := helm()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), at, "template", "gl-k8s-integrator", "chart", "--namespace", "gl-k8s-integrator", "--values", "values.yaml")
	cmd.Dir, cmd.Env = dir, []string{"HOME=" + t.TempDir()}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	return objectsOf(t, string(out))
}

func objectsOf(t *testing.T, text string) map[string]map[string]any {
	t.Helper()
	out := map[string]map[string]any{}
	for doc := range strings.SplitSeq("\n"+text, "\n---\n") {
		o := unstructured.Unstructured{}
		if err := yaml.UnmarshalStrict([]byte(doc), &o.Object); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if len(o.Object) > 0 {
			out[o.GetKind()+"/"+o.GetName()] = o.Object
		}
	}
	return out
}

func text(t *testing.T, o map[string]any) string {
	t.Helper()
	out, err := yaml.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestValuesRender: the real helm takes values.yaml by the chart's schema, and what it makes of it is what the folder without a
// chart has: the same configuration, image, Service and certificates.
func TestValuesRender(t *testing.T) {
	for name, change := range map[string]func(*setup.Answers){
		"own":          func(*setup.Answers) {},
		"cert-manager": func(a *setup.Answers) { a.Certificates = setup.CertManager },
		"cert-manager and an issuer for the hooks": func(a *setup.Answers) { a.Certificates, a.HooksIssuer = setup.CertManager, "letsencrypt" },
		"few answers": func(a *setup.Answers) { a.GitLabCAFile, a.WriteTokenFile, a.HooksURL = "", "", "" },
		"by digest":   func(a *setup.Answers) { a.Image = "registry.example.com/x@sha256:" + strings.Repeat("0a", 32) },
	} {
		t.Run(name, func(t *testing.T) {
			a := podAnswers(t)
			change(&a)
			plain := folderOf(t, a)
			a.Install = setup.Chart
			all := rendered(t, folderOf(t, a))

			var files struct{ StringData map[string]string }
			if err := yaml.Unmarshal(slurp(t, plain, "files.yaml"), &files); err != nil {
				t.Fatal(err)
			}
			data, _ := all["ConfigMap/gl-k8s-integrator-config"]["data"].(map[string]any)
			have, _ := data["config.yaml"].(string)
			if a, b := parsed(t, have), parsed(t, files.StringData["config.yaml"]); !reflect.DeepEqual(a, b) {
				t.Errorf("the chart's configuration is\n%s\nwant\n%s", have, files.StringData["config.yaml"])
			}
			pods := text(t, all["Deployment/gl-k8s-integrator"])
			if !strings.Contains(pods, "image: "+a.Image+"\n") || !strings.Contains(text(t, all["Service/gl-k8s-integrator"]), "clusterIP: 10.96.0.77\n") {
				t.Errorf("image or IP are not in\n%s", pods)
			}
			want := objectsOf(t, "")
			if a.Certificates == setup.CertManager {
				want = objectsOf(t, string(slurp(t, plain, "certificates.yaml")))
			}
			for key, o := range all {
				if group, _ := o["apiVersion"].(string); strings.HasPrefix(group, "cert-manager.io/") {
					if !reflect.DeepEqual(o, want[key]) {
						t.Errorf("the chart has\n%s\ncertificates.yaml\n%s", text(t, o), text(t, want[key]))
					}
					delete(want, key)
				}
			}
			if len(want) > 0 {
				t.Errorf("the chart has no %v", want)
			}
			volumes := func(o map[string]any) string {
				var d struct {
					Spec struct {
						Template struct{ Spec struct{ Volumes any } }
					}
				}
				if err := yaml.Unmarshal([]byte(text(t, o)), &d); err != nil {
					t.Fatal(err)
				}
				return text(t, map[string]any{"volumes": d.Spec.Template.Spec.Volumes})
			}
			with := strings.Replace(volumes(all["Deployment/gl-k8s-integrator"]), "    - configMap:\n        name: gl-k8s-integrator-config\n", "", 1)
			if own := volumes(objectsOf(t, string(slurp(t, plain, "deployment.yaml")))["Deployment/gl-k8s-integrator"]); own != with {
				t.Errorf("the chart mounts\n%s\ndeployment.yaml\n%s", with, own)
			}
		})
	}
}

func slurp(t *testing.T, dir, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func parsed(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.Parse([]byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return c
}
