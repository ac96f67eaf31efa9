package kubeconfig_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeconfig"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
)

func authority(t *testing.T) []byte {
	t.Helper()
	ca, err := localcert.NewAuthority("a CA")
	if err != nil {
		t.Fatal(err)
	}
	return ca.PEM
}

func icc(namespaces ...string) kubeconfig.Cluster {
	return kubeconfig.Cluster{
		Name: "icc", URL: "https://icc.example.com:6443", Issuer: "https://gitlab.example.com", ClientID: "5f1c0a7e", Namespaces: namespaces,
	}
}

func read(t *testing.T, v kubeconfig.Variant, clusters ...kubeconfig.Cluster) *clientcmdapi.Config {
	t.Helper()
	text, err := kubeconfig.File(clusters, v)
	if err != nil {
		t.Fatal(err)
	}
	again, err := kubeconfig.File(clusters, v)
	if err != nil || !bytes.Equal(text, again) {
		t.Fatalf("not the same file twice: %v", err)
	}
	k, err := clientcmd.Load(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := clientcmd.ConfirmUsable(*k, ""); err != nil {
		t.Fatal(err)
	}
	return k
}

func TestTheFirstNamespaceIsTheCurrentContext(t *testing.T) {
	for _, c := range []struct {
		namespaces []string
		contexts   string
		current    string
	}{
		{nil, "icc/default=", "icc/default"},
		{[]string{"haw-world", "alice"}, "icc/alice=alice icc/haw-world=haw-world", "icc/haw-world"},
		{[]string{"alice", "haw-world", "alice"}, "icc/alice=alice icc/haw-world=haw-world", "icc/alice"},
	} {
		k := read(t, kubeconfig.Default, icc(c.namespaces...))
		var have []string
		for name, at := range k.Contexts {
			have = append(have, name+"="+at.Namespace)
		}
		slices.Sort(have)
		if strings.Join(have, " ") != c.contexts || k.CurrentContext != c.current {
			t.Errorf("%q: contexts %q, current %q", c.namespaces, have, k.CurrentContext)
		}
	}
}

// TestAVariantSaysHowToLogIn: kubelogin's arguments, in each variant.
func TestAVariantSaysHowToLogIn(t *testing.T) {
	common := []string{"get-token", "--oidc-issuer-url=https://gitlab.example.com", "--oidc-client-id=5f1c0a7e"}
	hints := map[string]bool{}
	for _, v := range kubeconfig.Variants() {
		want := slices.Concat(common, map[kubeconfig.Variant][]string{
			kubeconfig.Default: nil, kubeconfig.MacOS: {"--token-cache-storage=keyring"}, kubeconfig.Windows: {"--token-cache-storage=keyring"},
			kubeconfig.Headless: {"--grant-type=authcode-keyboard", "--oidc-redirect-url=http://localhost:8000"},
		}[v])
		e := read(t, v, icc("haw-world")).AuthInfos["icc/gitlab"].Exec
		if !slices.Equal(e.Args, want) || e.Command != "kubectl-oidc_login" || e.InteractiveMode != clientcmdapi.IfAvailableExecInteractiveMode {
			t.Errorf("%s: %s %q", v, e.Command, e.Args)
		}
		hints[e.InstallHint] = true
		if again, err := kubeconfig.ParseVariant(string(v)); err != nil || again != v {
			t.Errorf("%s is read as %q: %v", v, again, err)
		}
	}
	if len(hints) != 4 || hints[""] {
		t.Errorf("install hints: %v", hints)
	}
	if v, err := kubeconfig.ParseVariant(""); v != kubeconfig.Default || err != nil {
		t.Errorf("no variant: %q, %v", v, err)
	}
	if _, err := kubeconfig.ParseVariant("amiga"); err == nil {
		t.Error("variant amiga is one")
	}
	if _, err := kubeconfig.File([]kubeconfig.Cluster{icc()}, "amiga"); err == nil {
		t.Error("variant amiga is written")
	}
}

// TestWhereTheServerIs: in the cluster's entry, with what verifies it; kubectl's reader and writer keep it.
func TestWhereTheServerIs(t *testing.T) {
	if extensions := read(t, kubeconfig.Default, icc()).Clusters["icc/cluster"].Extensions; len(extensions) > 0 {
		t.Errorf("without a server: %v", extensions)
	}
	c := icc()
	c.Server, c.IssuerCA = "https://access.example.com", authority(t)
	text, err := clientcmd.Write(*read(t, kubeconfig.Default, c))
	if err != nil {
		t.Fatal(err)
	}
	k, err := clientcmd.Load(text)
	if err != nil {
		t.Fatal(err)
	}
	raw, ok := k.Clusters["icc/cluster"].Extensions[kubeconfig.ExtensionName].(*runtime.Unknown)
	if !ok {
		t.Fatalf("no extension in\n%s", text)
	}
	var e kubeconfig.Extension
	if err := json.Unmarshal(raw.Raw, &e); err != nil || e.Server != c.Server || e.Issuer != c.Issuer || !bytes.Equal(e.CA, c.IssuerCA) {
		t.Errorf("%+v, %v", e, err)
	}
	c.Server = "access.example.com"
	if _, err := kubeconfig.File([]kubeconfig.Cluster{c}, kubeconfig.Default); err == nil || !strings.Contains(err.Error(), "web.url") {
		t.Errorf("a server without a scheme: %v", err)
	}
}

// TestNothingButCertificates: what else stands in a PEM file, such as a key, is in no file.
func TestNothingButCertificates(t *testing.T) {
	ca, err := localcert.NewAuthority("a CA")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ca.Key()
	if err != nil {
		t.Fatal(err)
	}
	c := icc()
	c.CA = slices.Concat(key, []byte("a remark\n"), ca.PEM, ca.PEM)
	c.IssuerCA = c.CA
	k := read(t, kubeconfig.Default, c)
	both := string(ca.PEM) + string(ca.PEM)
	if have := string(k.Clusters["icc/cluster"].CertificateAuthorityData); have != both {
		t.Errorf("CA of the API server: %s", have)
	}
	text, err := kubeconfig.File([]kubeconfig.Cluster{c}, kubeconfig.Default)
	if err != nil || bytes.Contains(text, []byte("PRIVATE")) {
		t.Errorf("%s, %v", text, err)
	}
}

// TestAllFaultsAtOnce: what can't be written is refused, with what to change.
func TestAllFaultsAtOnce(t *testing.T) {
	bad := kubeconfig.Cluster{Name: "ICC $(id)", URL: "icc.example.com", Issuer: "https://u:p@gitlab.example.com", CA: []byte("x"), IssuerCA: []byte("x"), Namespaces: []string{"a/b"}}
	large := icc()
	large.Name, large.IssuerCA = "large", bytes.Repeat(authority(t), 60)
	_, err := kubeconfig.File([]kubeconfig.Cluster{bad, icc(), icc(), large}, kubeconfig.Windows)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"its name: want lower-case", "as URL of the API server", "as URL of GitLab", "authn.clientIDs", "cluster.publicCAFile", "(gitlab.caFile)",
		`"a/b" is not the name of a namespace`, `two clusters are called "icc"`, "let gitlab.caFile hold only",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "u:p") {
		t.Errorf("a password is in %v", err)
	}
	if _, err := kubeconfig.File(nil, kubeconfig.Default); err == nil {
		t.Error("a file without clusters")
	}
}

// TestNamesOfClustersNeverClash: different addresses of API servers have different names, which can be used.
func TestNamesOfClustersNeverClash(t *testing.T) {
	seen := map[string]string{}
	for _, c := range []struct{ url, name string }{
		{"https://icc.example.com:6443", "icc.example.com"},
		{"https://icc.example.com", "icc.example.com:443"},
		{"https://icc.example.com:8443", "icc.example.com:8443"},
		{"https://icc.example.com:443/", "icc.example.com:443"},
		{"https://ICC.example.com:6443/", "icc.example.com"},
		{"https://icc.example.org:6443", "icc.example.org"},
		{"https://127.0.0.1:6443", "127.0.0.1"},
		{"http://127.0.0.1", "127.0.0.1:80"},
		{"https://rancher.example.com/k8s/clusters/c-1", ""},
		{"https://rancher.example.com/k8s/clusters/c-2", ""},
		{"https://[::1]:6443", ""},
		{"https://[2001:db8::1]:6443", "2001:db8::1"},
		{"https://a_b.example.com:6443", ""},
		{"https://a-b.example.com:6443", "a-b.example.com"},
		{"https://ab.example.com:6443", "ab.example.com"},
		{"https://" + strings.Repeat("a", 300) + ":6443", ""},
		{"https://" + strings.Repeat("a", 301) + ":6443", ""},
	} {
		name := kubeconfig.NameOf(c.url)
		if c.name != "" && name != c.name {
			t.Errorf("%s is called %q, want %q", c.url, name, c.name)
		}
		if err := kubeconfig.CheckName(name); err != nil {
			t.Errorf("%s: %v", c.url, err)
		}
		same := strings.TrimSuffix(strings.ToLower(strings.TrimSuffix(c.url, "/")), ":443")
		if other := seen[name]; other != "" && other != same {
			t.Errorf("%s and %s are both called %q", other, same, name)
		}
		seen[name] = same
	}
	if err := kubeconfig.CheckName(kubeconfig.NameOf("")); err != nil {
		t.Error(err)
	}
}

// FuzzNameOf: whatever the address, its name can be used.
func FuzzNameOf(f *testing.F) {
	f.Add("https://icc.example.com:6443/a?b")
	f.Fuzz(func(t *testing.T, url string) {
		if err := kubeconfig.CheckName(kubeconfig.NameOf(url)); err != nil {
			t.Errorf("%q: %v", url, err)
		}
	})
}

// byHand is a file of a person's own, with the names that docs/user.md uses for what they type themselves.
const byHand = `apiVersion: v1
kind: Config
current-context: icc
clusters:
- {name: icc, cluster: {server: "https://127.0.0.1:1"}}
- {name: minikube, cluster: {server: "https://127.0.0.1:2"}}
users:
- {name: icc-gitlab, user: {token: by-hand}}
- {name: gitlab, user: {token: mine}}
contexts:
- {name: icc, context: {cluster: icc, user: icc-gitlab, namespace: haw-world}}
- {name: minikube, context: {cluster: minikube, user: gitlab}}
`

// TestFilesMerge: kubectl's own merge of the files of two clusters, and of one that a person wrote, loses nothing, in every
// order; each context keeps its cluster, user and namespace.
func TestFilesMerge(t *testing.T) {
	bins, err := controlplane.EnsureBinaries(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	other := icc("haw-world", "icc")
	other.Name, other.URL, other.ClientID = kubeconfig.NameOf("https://icc.example.org"), "https://icc.example.org", "6a2d"
	files := map[string][]byte{"hand": []byte(byHand)}
	for name, c := range map[string]kubeconfig.Cluster{"icc": icc("haw-world", "alice"), "other": other} {
		if files[name], err = kubeconfig.File([]kubeconfig.Cluster{c}, kubeconfig.Default); err != nil {
			t.Fatal(err)
		}
	}
	if files["both"], err = kubeconfig.File([]kubeconfig.Cluster{icc("haw-world", "alice"), other}, kubeconfig.Default); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{} // what a context leads to, by its name
	current := map[string]string{}
	describe := func(k *clientcmdapi.Config) map[string]string {
		out := map[string]string{}
		for name, c := range k.Contexts {
			user := k.AuthInfos[c.AuthInfo]
			how := user.Token
			if user.Exec != nil {
				how = strings.Join(user.Exec.Args, " ")
			}
			out[name] = fmt.Sprint(k.Clusters[c.Cluster].Server, " ", c.Namespace, " ", how)
		}
		return out
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := clientcmd.Load(text)
		if err != nil {
			t.Fatal(err)
		}
		current[name] = k.CurrentContext
		for context, what := range describe(k) {
			if before, ok := want[context]; ok && before != what {
				t.Errorf("context %s is %q in one file and %q in %s", context, before, what, name)
			}
			want[context] = what
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, order := range [][]string{{"icc", "other", "hand"}, {"hand", "other", "icc"}, {"other", "hand", "icc"}, {"both", "hand"}, {"hand", "both"}} {
		var paths []string
		for _, name := range order {
			paths = append(paths, filepath.Join(dir, name))
		}
		cmd := exec.CommandContext(ctx, bins.Kubectl, "config", "view", "--merge", "--flatten", "--raw")
		cmd.Env = []string{"HOME=" + dir, "KUBECONFIG=" + strings.Join(paths, string(filepath.ListSeparator))}
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		k, err := clientcmd.Load(out)
		if err != nil {
			t.Fatal(err)
		}
		have := describe(k)
		for context, what := range want {
			if have[context] != what {
				t.Errorf("%v merged: context %s is %q, want %q", order, context, have[context], what)
			}
		}
		if len(have) != len(want) || k.CurrentContext != current[order[0]] {
			t.Errorf("%v merged: %d contexts, want %d; the current one is %s", order, len(have), len(want), k.CurrentContext)
		}
	}
}

// TestKubectlSaysHowToInstallKubelogin: where it is missing.
func TestKubectlSaysHowToInstallKubelogin(t *testing.T) {
	bins, err := controlplane.EnsureBinaries(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	c := icc("haw-world")
	c.URL = "https://127.0.0.1:1"
	text, err := kubeconfig.File([]kubeconfig.Cluster{c}, kubeconfig.Windows)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), bins.Kubectl, "--kubeconfig="+path, "get", "pods")
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=/nowhere"}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "winget install int128.kubelogin") {
		t.Errorf("kubectl: %v\n%s", err, out)
	}
}
