package setup_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/setup"
)

// said is what init says about these answers.
func said(t *testing.T, a setup.Answers) (dir, out string) {
	t.Helper()
	var b bytes.Buffer
	dir = filepath.Join(t.TempDir(), "new")
	if err := setup.Init(t.Context(), dir, a, time.Now(), &b); err != nil {
		t.Fatal(err)
	}
	return dir, b.String()
}

// fitsNot: what init says where the answers are not those for this cluster, which has the integrator from before.
func (m *machine) fitsNot(t *testing.T) {
	t.Helper()
	a := podAnswers(t)
	a.Kubeconfig, a.Distribution = m.cluster.AdminKubeconfig(), setup.K3s
	a.WebhookAddress = "10.96.0.77:8443"
	a.Certificates = setup.CertManager
	_, out := said(t, a)
	for _, want := range []string{"is there already", "this is not k3s", "gives no Service the IP 10.96.0.77", "has no cert-manager"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	a.WebhookAddress, a.Certificates = "127.96.0.1:8443", setup.Own
	if _, out := said(t, a); !strings.Contains(out, "is that of the Service kubernetes in the namespace default") {
		t.Errorf("it does not say that the IP is taken:\n%s", out)
	}
	// Somebody without any right.
	a.Kubeconfig = filepath.Join(m.root, "anonymous")
	if err := m.cluster.WriteKubeconfig(a.Kubeconfig, controlplane.KubeconfigUser{}, ""); err != nil {
		t.Fatal(err)
	}
	if _, out := said(t, a); !strings.Contains(out, "administrator's") || strings.Contains(out, "gives no Service") {
		t.Errorf("it does not say that it may not look:\n%s", out)
	}
	a.Distribution, a.Kubeconfig = setup.Kubeadm, m.cluster.AdminKubeconfig()
	m.run(t, m.root, "kubectl -n kube-system delete configmap kubeadm-config")
	if _, out := said(t, a); !strings.Contains(out, "no kubeadm cluster") {
		t.Errorf("it does not say that this is no kubeadm cluster:\n%s", out)
	}
}

// issuerForHooks: kube-apiserver takes certificates.yaml with a ClusterIssuer for the hooks, and knows every field of it; init
// says where the ClusterIssuer is not there.
func (m *machine) issuerForHooks(t *testing.T) {
	t.Helper()
	a := podAnswers(t)
	a.Kubeconfig, a.Certificates, a.HooksIssuer = m.cluster.AdminKubeconfig(), setup.CertManager, "letsencrypt"
	a.WebhookAddress = m.ip + ":8443"
	dir, out := said(t, a)
	if !strings.Contains(out, "the ClusterIssuer letsencrypt can't be read") {
		t.Errorf("it does not say that the issuer is missing:\n%s", out)
	}
	m.run(t, dir, "kubectl apply -f manifests/00-namespace.yaml")
	out = m.run(t, dir, "kubectl apply --server-side --dry-run=server --validate=strict -f certificates.yaml")
	if n := strings.Count(out, "serverside-applied (server dry run)"); n != 6 {
		t.Errorf("%d objects:\n%s", n, out)
	}
	m.run(t, m.root, "kubectl delete namespace gl-k8s-integrator")
	m.run(t, m.root, `echo '{apiVersion: cert-manager.io/v1, kind: ClusterIssuer, metadata: {name: letsencrypt}, spec: {selfSigned: {}}}' | kubectl apply -f -`)
	if _, out := said(t, a); strings.Contains(out, "ClusterIssuer") {
		t.Errorf("the issuer is there:\n%s", out)
	}
}

// TestOldClusters: what an older Kubernetes reads is written, and one that is too old is said to be.
func TestOldClusters(t *testing.T) {
	for minor, want := range map[int]struct{ version, says string }{
		29: {"v1beta1", "1.30 is the oldest that works"}, 30: {"v1beta1", ""}, 31: {"v1beta1", ""}, 32: {"v1", ""}, 40: {"v1", ""},
	} {
		api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/version" {
				http.Error(w, "nothing here", http.StatusForbidden)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprintf(w, `{"major":"1","minor":"%d+","gitVersion":"v1.%d.4"}`, minor, minor)
		}))
		defer api.Close()
		c := clientcmdapi.NewConfig()
		c.Clusters["c"], c.Contexts["c"], c.CurrentContext = &clientcmdapi.Cluster{Server: api.URL}, &clientcmdapi.Context{Cluster: "c"}, "c"
		a := podAnswers(t)
		a.Kubeconfig = filepath.Join(t.TempDir(), "config")
		if err := clientcmd.WriteToFile(*c, a.Kubeconfig); err != nil {
			t.Fatal(err)
		}
		dir, out := said(t, a)
		if text := string(slurp(t, dir, "kube-apiserver/authorization.yaml")); !strings.Contains(text, "apiVersion: apiserver.config.k8s.io/"+want.version+"\n") {
			t.Errorf("1.%d: it is\n%s", minor, text)
		}
		if !strings.Contains(out, fmt.Sprintf("Kubernetes is v1.%d.4", minor)) || strings.Contains(out, "oldest that works") != (want.says != "") {
			t.Errorf("1.%d: it says\n%s", minor, out)
		}
		for _, unknown := range []string{"administrator's is not known", "is installed already is not known", "is free is not known"} {
			if !strings.Contains(out, unknown) {
				t.Errorf("1.%d: nothing of %q in\n%s", minor, unknown, out)
			}
		}
	}
}

// TestGitLabThatIsNone: what answers instead of GitLab is named, and what to do.
func TestGitLabThatIsNone(t *testing.T) {
	page := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>log in</html>") }))
	defer page.Close()
	a := podAnswers(t)
	a.GitLab = page.URL
	if _, out := said(t, a); !strings.Contains(out, "give that with --gitlab-ca-file") {
		t.Errorf("an unknown CA: it says\n%s", out)
	}
	a.GitLab, a.GitLabCAFile = "https://gitlab.invalid", ""
	if _, out := said(t, a); !strings.Contains(out, "the name of --gitlab is not known here") {
		t.Errorf("an unknown name: it says\n%s", out)
	}
}
