package setup

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdv1 "k8s.io/client-go/tools/clientcmd/api/v1"
	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

// noon is when the tests' folders are made.
var noon = time.Now().Truncate(time.Second)

// sample are answers that need no network: nobody listens there.
func sample(t *testing.T, distribution, run string) Answers {
	t.Helper()
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	dir := t.TempDir()
	file := func(name string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte("glpat-"+name+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	a := Answers{
		GitLab: "https://127.0.0.1:1", ClientIDs: []string{"kubelogin"}, ReadTokenFile: file("read"), WriteTokenFile: file("write"),
		Distribution: distribution, Run: run, HooksURL: "https://integrator.example.com/hooks/gitlab",
	}
	if run == InCluster {
		a.Image, a.APIServerURL, a.WebhookAddress = "registry.example.com/gl-k8s-integrator:1", "https://icc.example.com:6443", "10.96.0.77:8443"
	}
	return a
}

func made(t *testing.T, a Answers) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "new")
	var out bytes.Buffer
	if err := Init(t.Context(), dir, a, noon, &out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "warning: GitLab can't be read") || !strings.Contains(out.String(), "warning: the cluster can't be read") || strings.Contains(out.String(), "glpat-") {
		t.Errorf("it says\n%s", &out)
	}
	return dir
}

func read(t *testing.T, at ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(at...))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func strict(t *testing.T, name string, data []byte, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict(data, into); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

// TestEveryFolderIsWhole: for each distribution and way of running, each YAML is read by the strict decoder of its kind, the
// files that others name are there, and NEXT.md has at most eight commands about files of the folder.
func TestEveryFolderIsWhole(t *testing.T) {
	for _, d := range Distributions {
		for _, way := range ways {
			t.Run(d+" "+strings.Join(way, " "), func(t *testing.T) {
				a := sampleWay(t, d, way)
				dir := made(t, a)
				if leaks, err := filepath.Glob(filepath.Join(filepath.Dir(dir), ".init-*")); err != nil || len(leaks) > 0 {
					t.Errorf("left: %v, %v", leaks, err)
				}
				inFolder := map[string][]byte{}
				for _, p := range filesBelow(t, dir) {
					inFolder[p] = read(t, dir, p)
				}
				checkYAML(t, inFolder)
				checkConfig(t, inFolder, a)
				checkAPIServer(t, dir, inFolder, a)
				checkNext(t, dir, inFolder)
				if err := Init(t.Context(), dir, a, noon, new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), "nothing is overwritten") {
					t.Errorf("a second time: %v", err)
				}
			})
		}
	}
}

// ways are run, install, certificates and hooks-issuer.
var ways = [][]string{
	{Systemd, "", "", ""},
	{InCluster, Manifests, Own, ""},
	{InCluster, Chart, Own, ""},
	{InCluster, Manifests, CertManager, ""},
	{InCluster, Manifests, CertManager, "letsencrypt"},
	{InCluster, Chart, CertManager, ""},
	{InCluster, Chart, CertManager, "letsencrypt"},
}

func sampleWay(t *testing.T, distribution string, way []string) Answers {
	t.Helper()
	a := sample(t, distribution, way[0])
	a.Install, a.Certificates, a.HooksIssuer = way[1], way[2], way[3]
	return a
}

func filesBelow(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			rel, _ := filepath.Rel(dir, p)
			out = append(out, filepath.ToSlash(rel))
			info, err := e.Info()
			if secret := regexp.MustCompile(`\.key$|token|secret|^files\.yaml$`).MatchString(rel); err != nil || (secret && path.Base(rel) != "50-token.yaml" && !strings.HasPrefix(rel, "chart/") && info.Mode().Perm() != 0o600) {
				t.Errorf("%s has mode %v", rel, info.Mode())
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// checkYAML reads each YAML by the strict decoder of its kind.
func checkYAML(t *testing.T, files map[string][]byte) {
	t.Helper()
	for name, data := range files {
		switch {
		case name == "answers.yaml":
			strict(t, name, data, new(Answers))
		case name == "kubeadm.yaml":
			strict(t, name, data, new(clusterConfiguration))
		case name == "k3s.yaml" || name == "rke2.yaml":
			strict(t, name, data, new(rancher))
		case name == "static-pod.yaml" || name == "kube-apiserver/authorization.yaml":
			into := map[string]any{"static-pod.yaml": new(corev1.Pod), "kube-apiserver/authorization.yaml": new(AuthorizationConfiguration)}
			strict(t, name, data, into[name])
		case name == "files.yaml" || name == "manifests/50-token.yaml":
			strict(t, name, data, new(corev1.Secret))
		case strings.HasSuffix(name, ".kubeconfig"):
			strict(t, name, data, new(clientcmdv1.Config))
		case strings.HasPrefix(name, "chart/"):
			if all, err := deploy.Chart(); err != nil || !bytes.Equal(all[name], data) {
				t.Errorf("%s is not that of deploy/: %v", name, err)
			}
		case name == "values.yaml" || name == "certificates.yaml": // which helm_test.go renders, and compares with the chart's
		case name == "deployment.yaml":
			docs := strings.Split(string(data), "\n---\n")
			for i, into := range []any{new(appsv1.Deployment), new(corev1.Service), new(policyv1.PodDisruptionBudget)} {
				if i < len(docs) {
					strict(t, name, []byte(docs[i]), into)
				}
			}
			if len(docs) != 3 || !strings.Contains(docs[1], `clusterIP: "10.96.0.77"`) || !strings.Contains(docs[0], "image: registry.example.com/gl-k8s-integrator:1\n") {
				t.Errorf("%s:\n%s", name, data)
			}
		case strings.HasPrefix(name, "manifests/"):
			if all, err := deploy.Texts(name); err != nil || !bytes.Equal(all[name], data) {
				t.Errorf("%s is not that of deploy/: %v", name, err)
			}
		case strings.HasSuffix(name, ".yaml") && name != "integrator/config.yaml": // which checkConfig reads
			t.Errorf("%s: of which kind is it?", name)
		}
	}
}

// checkConfig loads the configuration, in mode plan, and looks for the files that it names.
func checkConfig(t *testing.T, files map[string][]byte, a Answers) {
	t.Helper()
	own := map[string]string{}
	for name, data := range files {
		if rest, ok := strings.CutPrefix(name, "integrator/"); ok {
			own[rest] = string(data)
		}
	}
	if a.Run == InCluster {
		var s corev1.Secret
		strict(t, "files.yaml", files["files.yaml"], &s)
		own = s.StringData
	} else {
		own["integrator.kubeconfig"] = "" // which the cluster gives
	}
	for _, name := range issuedFiles(a) {
		if _, ok := own[name]; ok {
			t.Errorf("%s is cert-manager's to make", name)
		}
		own[name] = ""
	}
	if a.Install == Chart {
		if _, ok := own["config.yaml"]; ok {
			t.Error("the Secret has a configuration, and so has the chart")
		}
		return // helm_test.go reads what the chart makes of it
	}
	c, err := config.Parse([]byte(own["config.yaml"]))
	if err != nil {
		t.Fatal(err)
	}
	if c.RBACSync.Mode != config.ModePlan {
		t.Errorf("mode %s", c.RBACSync.Mode)
	}
	for _, named := range regexp.MustCompile(`/etc/gl-k8s-integrator/\S+`).FindAllString(own["config.yaml"], -1) {
		if _, ok := own[path.Base(named)]; !ok {
			t.Errorf("the configuration names %s, which is not there", named)
		}
	}
	if a.Certificates == CertManager {
		return
	}
	if _, err := tls.X509KeyPair([]byte(own["tls.crt"]), []byte(own["tls.key"])); err != nil {
		t.Error(err)
	}
}

// issuedFiles are those of the pods' folder that cert-manager makes.
func issuedFiles(a Answers) (out []string) {
	if a.Certificates == CertManager {
		out = append(out, "tls.crt", "tls.key", "webhook-ca.crt")
	}
	if a.HooksIssuer != "" {
		out = append(out, "hooks.crt", "hooks.key")
	}
	return out
}

// checkAPIServer: what kube-apiserver is told to read is among its files, and is what docs/install.md shows.
func checkAPIServer(t *testing.T, dir string, files map[string][]byte, a Answers) {
	t.Helper()
	later := []string{}
	if a.Certificates == CertManager { // by init certificates
		later = append(later, "apiserver-client.crt", "apiserver-client.key", "webhook-ca.crt")
	}
	seen := 0
	for name, data := range files {
		if name == "NEXT.md" || strings.HasPrefix(name, "chart/") || strings.HasPrefix(name, "renewed-") {
			continue
		}
		for _, named := range regexp.MustCompile(`/etc/kubernetes/gl-k8s-integrator/[a-z-]+\.[a-z]+`).FindAllString(string(data), -1) {
			seen++
			if _, ok := files["kube-apiserver/"+path.Base(named)]; ok == slices.Contains(later, path.Base(named)) {
				t.Errorf("%s names %s, which is not there", name, named)
			}
		}
	}
	if seen < 9 {
		t.Errorf("only %d files of kube-apiserver are named", seen)
	}
	if _, err := clientcmd.LoadFromFile(filepath.Join(dir, "kube-apiserver", "webhook.kubeconfig")); err != nil {
		t.Error(err)
	}
	var have, want any
	page := string(read(t, "../../docs/install.md"))
	m := regexp.MustCompile("(?s)```yaml authorization\n(.*?)```").FindStringSubmatch(page)
	strict(t, "authorization", files["kube-apiserver/authorization.yaml"], &have)
	strict(t, "docs", []byte(m[1]), &want)
	if !reflect.DeepEqual(have, want) {
		t.Errorf("authorization.yaml is\n%v\ndocs/install.md says\n%v", have, want)
	}
	if files["kube-apiserver/webhook.kubeconfig"] != nil && strings.Contains(string(files["answers.yaml"]), "run: systemd") {
		var own, shown clientcmdv1.Config
		m := regexp.MustCompile("(?s)```yaml kubeconfig\n(.*?)```").FindStringSubmatch(page)
		strict(t, "webhook.kubeconfig", files["kube-apiserver/webhook.kubeconfig"], &own)
		strict(t, "docs", []byte(m[1]), &shown)
		if !reflect.DeepEqual(own, shown) {
			t.Errorf("webhook.kubeconfig is\n%v\ndocs/install.md says\n%v", own, shown)
		}
	}
}

var (
	inBlock    = regexp.MustCompile("(?s)```sh\n(.*?)\n```")
	inQuotes   = regexp.MustCompile("`([^` ]+)`")
	inCommands = regexp.MustCompile(`(?:-f |sh |--values |install -D -m 0600 |\$/mode: enforce/' )([a-z0-9][a-zA-Z0-9./-]*)`)
)

// checkNext: NEXT.md has few commands, and each file of the folder that it names is there.
func checkNext(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	page := string(files["NEXT.md"])
	commands := inBlock.FindAllStringSubmatch(page, -1)
	if len(commands) < 5 || len(commands) > 8 {
		t.Errorf("%d commands", len(commands))
	}
	named := 0
	look := func(name string) {
		named++
		if slices.Contains([]string{"kube-apiserver.yaml.before", "integrator/", "kube-apiserver/"}, name) { // made by a command
			return
		}
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Errorf("NEXT.md names %s: %v", name, err)
		}
	}
	for _, m := range inQuotes.FindAllStringSubmatch(page, -1) {
		if !strings.HasPrefix(m[1], "/") {
			look(m[1])
		}
	}
	for _, c := range commands {
		for _, m := range inCommands.FindAllStringSubmatch(c[1], -1) {
			look(m[1])
		}
		if out, err := exec.CommandContext(t.Context(), "sh", "-nc", c[1]).CombinedOutput(); err != nil {
			t.Errorf("%q is no command: %s", c[1], out)
		}
	}
	for _, script := range []string{"node.sh"} {
		if out, err := exec.CommandContext(t.Context(), "sh", "-n", filepath.Join(dir, script)).CombinedOutput(); err != nil {
			t.Errorf("%s: %s", script, out)
		}
	}
	if named < 6 {
		t.Errorf("only %d files are named", named)
	}
}

// TestFaultsOfAnswers: all at once, by flag.
func TestFaultsOfAnswers(t *testing.T) {
	err := Init(t.Context(), filepath.Join(t.TempDir(), "x"), Answers{Run: InCluster, ConfigDir: "/a b", HooksURL: "http://x", Install: "x", Certificates: "y", HooksIssuer: "Z", HooksListen: ":1", MetricsListen: ":2"}, noon, new(bytes.Buffer))
	if err == nil {
		t.Fatal("taken")
	}
	for _, flag := range []string{"gitlab", "client-id", "read-token-file", "distribution", "image", "apiserver-url", "webhook-address", "config-dir", "hooks-url", "install", "certificates", "hooks-issuer", "hooks-listen", "metrics-listen"} {
		if !strings.Contains(err.Error(), "--"+flag+":") {
			t.Errorf("nothing of --%s in\n%v", flag, err)
		}
	}
}

// side is what one of the two sides has: its pair and whom it trusts.
type side struct {
	pair tls.Certificate
	pool *x509.CertPool
}

func sideOf(t *testing.T, dir, pair string) side {
	t.Helper()
	p, err := tls.LoadX509KeyPair(filepath.Join(dir, pair+".crt"), filepath.Join(dir, pair+".key"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(read(t, dir, path.Dir(pair), "webhook-ca.crt"))
	return side{p, pool}
}

// meet is a handshake of kube-apiserver with the integrator at a time.
func meet(t *testing.T, server, client side, at time.Time) error {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	now := func() time.Time { return at }
	s := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{server.pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: server.pool, MinVersion: tls.VersionTLS13, Time: now})
	c := tls.Client(b, &tls.Config{Certificates: []tls.Certificate{client.pair}, RootCAs: client.pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS13, Time: now})
	result := make(chan error, 1)
	go func() { result <- c.HandshakeContext(t.Context()); _ = b.Close() }()
	err := s.HandshakeContext(t.Context())
	if other := <-result; other != nil {
		return other
	}
	return err
}

// TestRenewalsOverlap renews once a year for 25 years: whichever side has the new files first, the two know each other, also
// when the authority changes. Neither takes the other's part.
func TestRenewalsOverlap(t *testing.T) {
	dir := made(t, sample(t, Kubeadm, Systemd))
	before := dir
	authorities := map[string]bool{}
	for year := range 25 {
		at := noon.Add(time.Duration(year+1) * 360 * 24 * time.Hour)
		var out bytes.Buffer
		if err := Renew(t.Context(), dir, "", at, &out); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.String(), "warning") {
			t.Errorf("year %d: %s", year, &out)
		}
		after, err := latest(dir)
		if err != nil || after == before {
			t.Fatalf("%s, %v", after, err)
		}
		authorities[string(read(t, after, "ca", "webhook-ca.crt"))] = true
		servers := []side{sideOf(t, before, "integrator/tls"), sideOf(t, after, "integrator/tls")}
		clients := []side{sideOf(t, before, "kube-apiserver/apiserver-client"), sideOf(t, after, "kube-apiserver/apiserver-client")}
		for i, s := range servers {
			for j, c := range clients {
				if err := meet(t, s, c, at); err != nil {
					t.Errorf("year %d, integrator %d, kube-apiserver %d: %v", year, i, j, err)
				}
			}
		}
		if meet(t, servers[1], servers[1], at) == nil || meet(t, clients[1], clients[1], at) == nil {
			t.Error("a certificate serves for both sides")
		}
		if err := meet(t, servers[1], clients[1], at.Add(359*24*time.Hour)); err != nil {
			t.Errorf("year %d: they don't last until the next renewal: %v", year, err)
		}
		checkRenewed(t, after)
		before = after
	}
	if len(authorities) < 3 {
		t.Errorf("%d authorities in 25 years", len(authorities))
	}
}

// checkRenewed: what the page of a renewal names is there.
func checkRenewed(t *testing.T, dir string) {
	t.Helper()
	page := string(read(t, dir, "NEXT.md"))
	for _, name := range []string{"node.sh", "integrator/tls.crt", "kube-apiserver/apiserver-client.crt", "gitlab/hooks-ca.crt"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	if !strings.Contains(page, "```sh\nsh node.sh\n```") || !strings.Contains(page, "| `integrator/tls.crt` | ") {
		t.Errorf("NEXT.md:\n%s", page)
	}
}

// TestALateRenewalSaysSo: an authority that has ended signs nothing any more.
func TestALateRenewalSaysSo(t *testing.T) {
	dir := made(t, sample(t, Flags, Systemd))
	at := noon.Add(authorityLife + time.Hour)
	var out bytes.Buffer
	if err := Renew(t.Context(), dir, "", at, &out); err != nil || !strings.Contains(out.String(), "nobody can log in") {
		t.Errorf("%v\n%s", err, &out)
	}
	after, _ := latest(dir)
	if err := meet(t, sideOf(t, after, "integrator/tls"), sideOf(t, after, "kube-apiserver/apiserver-client"), at); err != nil {
		t.Error(err)
	}
}

// TestRenewalKeepsTheSecret: what was changed in the Secret's file stays, the certificates are new.
func TestRenewalKeepsTheSecret(t *testing.T) {
	dir := made(t, sample(t, RKE2, InCluster))
	was := strings.Replace(string(read(t, dir, "files.yaml")), "mode: plan", "mode: enforce", 1)
	if err := os.WriteFile(filepath.Join(dir, "files.yaml"), []byte(was), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Renew(t.Context(), dir, "", noon.Add(time.Hour), new(bytes.Buffer)); err != nil {
		t.Fatal(err)
	}
	after, _ := latest(dir)
	var a, b corev1.Secret
	strict(t, "before", []byte(was), &a)
	strict(t, "after", read(t, after, "files.yaml"), &b)
	for name := range a.StringData {
		fresh := slices.Contains([]string{"tls.crt", "tls.key", "hooks.crt", "hooks.key"}, name)
		if (a.StringData[name] == b.StringData[name]) == fresh {
			t.Errorf("%s: changed is not %v", name, fresh)
		}
	}
}

// TestAnswersOfTheDocs: the file of answers that docs/init.md shows says the same as the command above it.
func TestAnswersOfTheDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/init.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```\ngl-k8s-integrator init new (.*?)\n```.*?```yaml answers\n(.*?)```").FindSubmatch(page)
	if m == nil {
		t.Fatal("docs/init.md has no answers")
	}
	file := filepath.Join(t.TempDir(), "answers.yaml")
	if err := os.WriteFile(file, m[2], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadAnswers(file); err != nil {
		t.Error(err)
	}
	var keys map[string]any
	if err := yaml.Unmarshal(m[2], &keys); err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(string(m[1]))
	if len(words) != 2*len(keys) {
		t.Errorf("%d words on the line, %d answers", len(words), len(keys))
	}
	for i := 0; i+1 < len(words); i += 2 {
		if have := strings.Trim(fmt.Sprint(keys[strings.TrimPrefix(words[i], "--")]), "[]"); have != words[i+1] {
			t.Errorf("%s is %s on the line and %s in the file", words[i], words[i+1], have)
		}
	}
}
