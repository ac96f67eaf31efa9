package doctor_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/demo"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/doctor"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/status"
)

// world is a running installation with one integrator: a simulated GitLab, a real control plane and serve.
type world struct {
	*demo.Env
	t   *testing.T
	dir string
}

// path returns the path of one of its files.
func (w *world) path(name ...string) string {
	return filepath.Join(append([]string{w.dir}, name...)...)
}

func (w *world) read(name ...string) string {
	w.t.Helper()
	data, err := os.ReadFile(w.path(name...))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(data)
}

// file writes a file beside the others and returns its path.
func (w *world) file(content string) string {
	w.t.Helper()
	f, err := os.CreateTemp(w.dir, "changed-*")
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(content); err != nil {
		w.t.Fatal(err)
	}
	return f.Name()
}

// changed returns the path of a copy of a file in which something is replaced.
func (w *world) changed(old, new string, name ...string) string {
	w.t.Helper()
	before := w.read(name...)
	if !strings.Contains(before, old) {
		w.t.Fatalf("%q is not in %s:\n%s", old, name, before)
	}
	return w.file(strings.ReplaceAll(before, old, new))
}

// examination is that of an administrator on a control-plane node.
func (w *world) examination() app.Examination {
	return app.Examination{
		ConfigFile: w.path("config.yaml"), Kubeconfig: w.Cluster.AdminKubeconfig(),
		AuthnKubeconfig: w.path("cluster", "authn-webhook.kubeconfig"), AuthzConfig: w.path("cluster", "authorization.yaml"),
	}
}

// problems returns those that are not in the healthy world: one integrator alone is a finding.
func problems(r doctor.Report) (out []doctor.Problem) {
	for _, p := range r.Problems {
		if p.Code != "finding" || !strings.HasPrefix(p.What, "explain_single") {
			out = append(out, p)
		}
	}
	return out
}

func start(t *testing.T, ownLogin bool) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: needs a control plane")
	}
	parent := t.TempDir()
	e, err := demo.Start(t.Context(), parent, ownLogin, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	dirs, err := filepath.Glob(filepath.Join(parent, "*"))
	if err != nil || len(dirs) != 1 {
		t.Fatal(dirs, err)
	}
	return &world{e, t, dirs[0]}
}

// fault is one that is injected; undo may be nil. It may change what is examined.
type fault struct {
	code, name string
	inject     func(w *world, x *app.Examination) (undo func())
}

// expectFirst injects each fault, demands that it is named first and that it is the only one, and takes it back.
func expectFirst(t *testing.T, w *world, faults []fault) {
	t.Helper()
	for _, tc := range faults {
		x := w.examination()
		undo := tc.inject(w, &x)
		r := app.Doctor(t.Context(), x)
		if undo != nil {
			undo()
		}
		got := problems(r)
		if len(got) == 0 || got[0].Code != tc.code {
			t.Errorf("%s (%s): got %+v; %+v", tc.code, tc.name, got, r.NotLookedAt)
		}
		w.leaksNothing(r)
		for _, p := range got[min(1, len(got)):] {
			t.Errorf("%s (%s): drowned by %s: %s", tc.code, tc.name, p.Code, p.What)
		}
	}
}

// leaksNothing demands that no secret is in what is printed.
func (w *world) leaksNothing(r doctor.Report) {
	w.t.Helper()
	var out bytes.Buffer
	r.Print(&out)
	if err := r.PrintJSON(&out); err != nil {
		w.t.Fatal(err)
	}
	for _, file := range []string{"read-token", "write-token", "hook-secret"} {
		if strings.Contains(out.String(), strings.TrimSpace(w.read(file))) {
			w.t.Errorf("what is in %s is in:\n%s", file, out.String())
		}
	}
	for _, key := range []string{"token: ", "client-key-data: "} {
		for _, file := range [][]string{{"integrator.kubeconfig"}, {"cluster", "admin.kubeconfig"}, {"cluster", "authn-webhook.kubeconfig"}} {
			data, err := os.ReadFile(w.path(file...))
			if errors.Is(err, os.ErrNotExist) { // where kube-apiserver judges by itself
				continue
			}
			_, after, found := strings.Cut(string(data), key)
			value, _, _ := strings.Cut(after, "\n")
			if found && strings.Contains(out.String(), value) {
				w.t.Errorf("%s of %s is in:\n%s", key, file, out.String())
			}
		}
	}
}

// answer has GitLab answer something else below a path.
func answer(path string, status int, body string, header ...string) func(w *world, _ *app.Examination) func() {
	return func(w *world, _ *app.Examination) func() {
		h := http.Header{"Content-Type": {"application/json"}}
		if len(header) == 2 {
			h.Set(header[0], header[1])
		}
		w.GitLab.SetFaults(gitlabsim.Faults{Rules: []gitlabsim.FaultRule{{Path: path, Status: status, Body: strings.ReplaceAll(body, "URL", w.GitLab.URL()), Header: h}}})
		return func() { w.GitLab.SetFaults(gitlabsim.Faults{}) }
	}
}

// configured examines a configuration in which something is replaced by what with returns.
func configured(old string, with func(w *world) string) func(w *world, x *app.Examination) func() {
	return func(w *world, x *app.Examination) func() {
		x.ConfigFile = w.changed(old, with(w), "config.yaml")
		return nil
	}
}

// token examines with another token in one of the two files.
func token(file string, value func(w *world) string) func(w *world, x *app.Examination) func() {
	return func(w *world, x *app.Examination) func() {
		x.ConfigFile = w.changed(w.path(file), w.file(value(w)), "config.yaml")
		return nil
	}
}

func gitlabFaults() []fault {
	const well, hook = "/.well-known/openid-configuration", `[{"id":1,"url":"https://integrator.example.com/hooks/gitlab","enable_ssl_verification":true,"token_present":true%s}]`
	doc := `{"issuer":"URL","jwks_uri":"URL/oauth/discovery/keys"}`
	hooks := func(more string) func(w *world, _ *app.Examination) func() {
		return answer("/api/v4/hooks", 200, fmt.Sprintf(hook, more))
	}
	apps := func(more string) func(w *world, x *app.Examination) func() {
		return func(w *world, x *app.Examination) func() {
			_, page, _ := strings.Cut(w.read("config.yaml"), "\nweb:\n  url: ")
			page, _, _ = strings.Cut(page, "\n")
			return answer("/api/v4/applications", 200, `[{"id":1,"application_id":"kubelogin-demo","callback_url":"http://localhost:8000\nhttp://localhost:18000","confidential":false,"scopes":["openid"]`+more+`},
				{"id":2,"application_id":"page-demo","callback_url":"`+page+`/signin/callback","confidential":true,"scopes":["openid","profile"]}]`)(w, x)
		}
	}
	scoped := func(user string, scopes ...string) func(w *world) string {
		return func(w *world) string { return w.GitLab.TokenFor(user, scopes...) }
	}
	ending := func(scope string) func(w *world) string {
		return func(w *world) string {
			value := "glpat-ends-soon-" + scope
			if err := w.GitLab.AddToken(gitlabsim.SeedToken{Token: value, User: "root", Scopes: []string{scope}, Expires: time.Now().AddDate(0, 0, 5)}); err != nil {
				w.t.Fatal(err)
			}
			return value
		}
	}
	revoked := func(scope string) func(w *world) string {
		return func(w *world) string {
			value := w.GitLab.TokenFor("root", scope)
			w.GitLab.RevokeToken(value)
			return value
		}
	}
	return []fault{
		{"gitlab_away", "down", func(w *world, _ *app.Examination) func() {
			w.GitLab.SetFaults(gitlabsim.Faults{Down: true})
			return func() { w.GitLab.SetFaults(gitlabsim.Faults{}) }
		}},
		{"gitlab_untrusted", "another CA", func(w *world, x *app.Examination) func() {
			x.ConfigFile = w.changed(w.path("gitlab-ca.crt"), w.path("webhook-ca.crt"), "config.yaml")
			return nil
		}},
		{"gitlab_name", "a certificate for another name", showing(time.Now().AddDate(1, 0, 0), "elsewhere.example.com")},
		{"gitlab_certificate", "over", showing(time.Now().AddDate(0, 0, -1), "")},
		{"gitlab_answer", "a proxy that does not reach it", answer(well, 502, "Bad Gateway")},
		{"gitlab_answer", "no discovery document", answer(well, 200, `{}`)},
		{"issuer", "external_url is another", answer(well, 200, `{"issuer":"https://git.example.com","jwks_uri":"URL/oauth/discovery/keys"}`)},
		{"signing_keys", "not let through", answer("/oauth/discovery/keys", 403, "")},
		{"signing_keys", "an empty set", answer("/oauth/discovery/keys", 200, `{"keys":[]}`)},
		{"gitlab_old", "14.10", answer("/api/v4/version", 200, `{"version":"14.10.5-ee"}`)},
		{"clock_gitlab", "an hour behind", answer(well, 200, doc, "Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))},
		{"read_token", "revoked", token("read-token", revoked("read_api"))},
		{"read_token_scope", "read_user", token("read-token", scoped("root", "read_user"))},
		{"read_token_admin", "alice's", token("read-token", scoped("alice", "read_api"))},
		{"read_token_strong", "api", token("read-token", scoped("root", "api"))},
		{"read_token_ends", "in five days", token("read-token", ending("read_api"))},
		{"write_token", "revoked", token("write-token", revoked("api"))},
		{"write_token_scope", "read_api", token("write-token", scoped("root", "read_api"))},
		{"write_token_ends", "in five days", token("write-token", ending("api"))},
		{"read_token_strong", "one token for both", func(w *world, x *app.Examination) func() {
			x.ConfigFile = w.changed(w.path("read-token"), w.path("write-token"), "config.yaml")
			return nil
		}},
		{"application_refused", "a typing error, where applications can't be listed", func(w *world, x *app.Examination) func() {
			x.ConfigFile = w.changed("kubelogin-demo", "kubelogin-dmeo", "config.yaml")
			return answer("/api/v4/applications", 403, `{"message":"403 Forbidden"}`)(w, x)
		}},
		{"application", "a typing error", configured("kubelogin-demo", func(*world) string { return "kubelogin-dmeo" })},
		{"application_secret", "confidential", apps(`,"confidential":true`)},
		{"application_redirect", "one port", apps(`,"callback_url":"http://localhost:8000"`)},
		{"application_scope", "profile", apps(`,"scopes":["profile"]`)},
		{"hook", "none", answer("/api/v4/hooks", 200, `[]`)},
		{"hook", "another cluster's", hooks(`,"name":"gl-k8s-integrator: cluster 00000000-0000-4000-8000-00000000000a"`)},
		{"hook_disabled", "after failures", hooks(`,"alert_status":"disabled"`)},
		{"hook_unproven", "without a secret", hooks(`,"token_present":false`)},
		{"hook_plain", "http", hooks(`,"url":"http://integrator.example.com/hooks/gitlab"`)},
		{"hook_unverified", "SSL verification off", hooks(`,"enable_ssl_verification":false`)},
		{"hook_noise", "pushes", hooks(`,"push_events":true`)},
		{"hook_twice", "an old one", answer("/api/v4/hooks", 200, strings.Replace(fmt.Sprintf(hook, ""), "}]", `},{"id":2,"url":"https://old.example.com/hooks/gitlab","enable_ssl_verification":true,"token_present":true}]`, 1))},
	}
}

// showing examines another GitLab, which shows such a certificate.
func showing(ends time.Time, name string) func(w *world, x *app.Examination) func() {
	return func(w *world, x *app.Examination) func() {
		cert, key := certificate(w.t, ends, name)
		pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
		if err != nil {
			w.t.Fatal(err)
		}
		s := httptest.NewUnstartedServer(http.NotFoundHandler())
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
		s.StartTLS()
		text := strings.ReplaceAll(w.read("config.yaml"), w.GitLab.URL(), s.URL)
		x.ConfigFile = w.file(strings.ReplaceAll(text, w.path("gitlab-ca.crt"), w.file(cert)))
		return s.Close
	}
}

// certificate returns a certificate and its key that end then, for a name, or for 127.0.0.1.
func certificate(t *testing.T, ends time.Time, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "integrator"}, NotBefore: ends.AddDate(-1, 0, 0), NotAfter: ends}
	if name != "" {
		of.DNSNames = []string{name}
	} else {
		of.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	der, err := x509.CreateCertificate(rand.Reader, of, of, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := localcert.EncodeKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(encoded)
}

func fileFaults() []fault {
	ending := func(days int) func(w *world, x *app.Examination) func() {
		return func(w *world, x *app.Examination) func() {
			cert, key := certificate(w.t, time.Now().AddDate(0, 0, days), "")
			text := strings.ReplaceAll(w.read("config.yaml"), w.path("tls.crt"), w.file(cert))
			x.ConfigFile = w.file(strings.ReplaceAll(text, w.path("tls.key"), w.file(key)))
			return nil
		}
	}
	return []fault{
		{"config", "a typing error", configured("clientIDs", func(*world) string { return "clientIds" })},
		{"files", "no hook secret", configured("hook-secret", func(*world) string { return "hook-secert" })},
		{"files", "no read token", configured("read-token", func(*world) string { return "raed-token" })},
		{"files", "a key of another certificate", func(w *world, x *app.Examination) func() {
			_, key := certificate(w.t, time.Now().AddDate(1, 0, 0), "")
			x.ConfigFile = w.changed(w.path("tls.key")+", clientCAFile", w.file(key)+", clientCAFile", "config.yaml") // that of the webhooks alone
			return nil
		}},
		{"certificate", "over", ending(-1)},
		{"certificate_ends", "soon", ending(5)},
	}
}

func clusterFaults() []fault {
	kubeconfig := func(old, new string) func(w *world, x *app.Examination) func() {
		return func(w *world, x *app.Examination) func() {
			x.Kubeconfig = ""
			x.ConfigFile = w.changed(w.path("integrator.kubeconfig"), w.changed(old, new, "integrator.kubeconfig"), "config.yaml")
			return nil
		}
	}
	policy := func(more string) func(w *world, x *app.Examination) func() {
		return func(w *world, x *app.Examination) func() {
			x.ConfigFile = w.file(w.read("config.yaml") + more)
			return nil
		}
	}
	return []fault{
		{"apiserver_away", "another port", kubeconfig("https://127.0.0.1:", "https://127.0.0.1:1")},
		{"apiserver_name", "another address", kubeconfig("server: ", "tls-server-name: elsewhere.example.com\n    server: ")},
		{"apiserver_credentials", "a token that is no more", kubeconfig("token: ", "token: x")},
		{"role", "a typing error", policy("authz: {roles: [{clusterRole: edti, levels: [owner, maintainer]}, {clusterRole: view, levels: [developer]}]}\n")},
		{"role_bind", "a role that nobody named elsewhere", policy("authz: {roles: [{clusterRole: admin, levels: [owner, maintainer]}, {clusterRole: view, levels: [developer]}]}\n")},
	}
}

func webhookFaults() []fault {
	authn := func(old, new string) func(w *world, x *app.Examination) func() {
		return func(w *world, x *app.Examination) func() {
			x.AuthnKubeconfig = w.changed(old, new, "cluster", "authn-webhook.kubeconfig")
			return nil
		}
	}
	authz := func(old, new string) func(w *world, x *app.Examination) func() {
		return func(w *world, x *app.Examination) func() {
			x.AuthzConfig = w.changed(old, new, "cluster", "authorization.yaml")
			return nil
		}
	}
	line := func(text, key string) string {
		for l := range strings.Lines(text) {
			if strings.Contains(l, key+":") {
				return strings.TrimSpace(l)
			}
		}
		return ""
	}
	return []fault{
		{"webhook_file", "no YAML", func(w *world, x *app.Examination) func() { x.AuthnKubeconfig = w.file("\t{"); return nil }},
		{"webhook_plain", "http", authn("https://", "http://")},
		{"webhook_path", "none", authn("/authenticate", "")},
		{"webhook_path", "the other", authn("/authenticate", "/authorize")},
		{"webhook_away", "another port", authn("https://127.0.0.1:", "https://127.0.0.1:1")},
		{"webhook_name", "another address", authn("server: ", "tls-server-name: elsewhere.example.com\n    server: ")},
		{"webhook_untrusted", "the cluster's CA", func(w *world, x *app.Examination) func() {
			const key = "certificate-authority-data"
			ours, theirs := line(w.read("cluster", "authn-webhook.kubeconfig"), key), line(w.read("cluster", "admin.kubeconfig"), key)
			return authn(ours, theirs)(w, x)
		}},
		{"webhook_client", "the cluster's client certificate", func(w *world, x *app.Examination) func() {
			text, admin := w.read("cluster", "authn-webhook.kubeconfig"), w.read("cluster", "admin.kubeconfig")
			for _, key := range []string{"client-certificate-data", "client-key-data"} {
				text = strings.ReplaceAll(text, line(text, key), line(admin, key))
			}
			x.AuthnKubeconfig = w.file(text)
			return nil
		}},
		{"webhook_answer", "another server of the same CA", func(w *world, x *app.Examination) func() {
			s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }))
			ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
			x.AuthnKubeconfig = w.file(fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: a, cluster: {server: '%s/authenticate', certificate-authority: %s}}]\ncontexts: [{name: a, context: {cluster: a}}]\ncurrent-context: a\n", s.URL, w.file(string(ca))))
			return s.Close
		}},
		{"authorization_version", "v1beta1", authz("subjectAccessReviewVersion: v1\n", "subjectAccessReviewVersion: v1beta1\n")},
		{"authorization_cache", "half an hour", authz("unauthorizedTTL: 1s", "unauthorizedTTL: 30m")},
		{"authorization_file", "another kind", authz("AuthorizationConfiguration", "Config")},
		{"authorization_rbac", "without", authz("- {type: RBAC, name: rbac}\n", "")},
		{"authorization_node", "without", authz("- {type: Node, name: node}\n", "")},
		{"authorization_webhook", "without", func(w *world, x *app.Examination) func() {
			before, _, _ := strings.Cut(w.read("cluster", "authorization.yaml"), "- type: Webhook")
			x.AuthzConfig = w.file(before)
			return nil
		}},
		{"authorization_policy", "Deny", authz("failurePolicy: NoOpinion", "failurePolicy: Deny")},
		{"authorization_timeout", "half a minute", authz("timeout: 2s", "timeout: 30s")},
		{"authorization_conditions", "none", authz("matchConditions:", "other:")},
		{"authorization_order", "RBAC at the end", func(w *world, x *app.Examination) func() {
			const rbac = "- {type: RBAC, name: rbac}\n"
			x.AuthzConfig = w.file(strings.Replace(w.read("cluster", "authorization.yaml"), rbac, "", 1) + rbac)
			return nil
		}},
		{"authorization_disabled", "explain.disabled", func(w *world, x *app.Examination) func() {
			x.ConfigFile = w.file(w.read("config.yaml") + "authz: {explain: {disabled: true}}\n")
			return nil
		}},
	}
}

// flagFaults are in what kube-apiserver is started with: in each form that administrators have, and in the cluster.
func flagFaults() []fault {
	const good = "--authentication-token-webhook-config-file=/etc/gl/webhook.kubeconfig --authentication-token-webhook-version=v1 --authorization-config=/etc/gl/authorization.yaml"
	given := func(text string) func(w *world, x *app.Examination) func() {
		return func(w *world, x *app.Examination) func() { x.APIServerFlags = w.file(text); return nil }
	}
	pod := func(mount string, flags ...string) string {
		return "kind: Pod\nspec: {containers: [{name: kube-apiserver, command: [kube-apiserver, " + strings.Join(flags, ", ") + "], volumeMounts: [{name: a, mountPath: " + mount + "}]}]}\n"
	}
	without := func(flag string) []string {
		return slices.DeleteFunc(strings.Fields(good), func(f string) bool { return strings.HasPrefix(f, flag) })
	}
	return []fault{
		{"apiserver_flags", "a file of something else", given("nothing of the kind")},
		{"apiserver_login", "a command line", given("ExecStart=/usr/bin/kube-apiserver \\\n  " + strings.Join(without("--authentication-token-webhook-config-file"), " \\\n  ") + "\n")},
		{"apiserver_authorizers", "k3s", given("kube-apiserver-arg:\n- authentication-token-webhook-config-file=/etc/gl/webhook.kubeconfig\n- authentication-token-webhook-version=v1\n")},
		{"apiserver_mount", "a static pod", given(pod("/etc/kubernetes", strings.Fields(good)...))},
		{"webhook_version", "a static pod", given(pod("/etc/gl/", without("--authentication-token-webhook-version")...))},
		{"webhook_version", "kubeadm v1beta3", given("kind: ClusterConfiguration\napiServer: {extraArgs: {authentication-token-webhook-config-file: a, authentication-token-webhook-version: v1beta1, authorization-config: b}}\n")},
		{"webhook_cache", "kubeadm v1beta4", given("kind: ClusterConfiguration\napiServer: {extraArgs: [{name: authentication-token-webhook-config-file, value: a}, {name: authentication-token-webhook-version, value: v1}, {name: authorization-config, value: b}, {name: authentication-token-webhook-cache-ttl, value: 30m}]}\n")},
		{"webhook_cache", "in the cluster", func(w *world, _ *app.Examination) func() {
			pods := w.Kube.CoreV1().Pods(metav1.NamespaceSystem)
			shown := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "kube-apiserver-a", Labels: map[string]string{"component": "kube-apiserver"}}, Spec: corev1.PodSpec{
				Containers:                   []corev1.Container{{Name: "kube-apiserver", Image: "kube-apiserver", Command: append(strings.Fields("kube-apiserver "+good), "--authentication-token-webhook-cache-ttl", "1h"), VolumeMounts: []corev1.VolumeMount{{Name: "a", MountPath: "/etc/gl"}}}},
				Volumes:                      []corev1.Volume{{Name: "a"}},
				AutomountServiceAccountToken: new(false),
			}}
			if _, err := pods.Create(w.t.Context(), shown, metav1.CreateOptions{}); err != nil {
				w.t.Fatal(err)
			}
			return func() {
				if err := pods.Delete(w.t.Context(), shown.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
					w.t.Error(err)
				}
			}
		}},
	}
}

// arrivalFaults are about hooks, as the integrator has written them down.
func arrivalFaults() []fault {
	return []fault{
		{"hook_secret", "another in GitLab", func(w *world, _ *app.Examination) func() {
			w.send("not the secret")
			w.arrived("no_proof")
			return func() { w.send(strings.TrimSpace(w.read("hook-secret"))); w.arrived("project_create") }
		}},
		{"hook_silent", "never", func(w *world, _ *app.Examination) func() {
			maps := w.Kube.CoreV1().ConfigMaps(deploy.Namespace)
			set := func(value string) {
				patch, _ := json.Marshal(map[string]any{"data": map[string]string{"activity.json": value}})
				if _, err := maps.Patch(w.t.Context(), "gl-k8s-integrator-status", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
					w.t.Fatal(err)
				}
			}
			now, err := maps.Get(w.t.Context(), "gl-k8s-integrator-status", metav1.GetOptions{})
			if err != nil {
				w.t.Fatal(err)
			}
			set("{}")
			return func() { set(now.Data["activity.json"]) }
		}},
	}
}

// send sends a hook as GitLab does.
func (w *world) send(secret string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, "http://"+w.hooks()+"/hooks/gitlab", strings.NewReader(`{"event_name":"project_create","project_id":1}`))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("X-Gitlab-Token", secret)
	req.Header.Set("X-Gitlab-Event", "System Hook")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	resp.Body.Close()
}

// arrived waits until it is written down that the last hook was of this kind.
func (w *world) arrived(kind string) {
	w.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		s, err := status.Read(w.t.Context(), w.Kube)
		if err == nil && s.Activity != nil {
			last := s.Activity.Hook
			if s.Activity.Refused.At.After(last.At) {
				last = s.Activity.Refused
			}
			if last.What == kind {
				return
			}
		}
		if time.Now().After(end) {
			w.t.Fatalf("%s was not written down: %+v, %v", kind, s.Activity, err)
		}
	}
}

// hooks returns the address of listeners.hooks.
func (w *world) hooks() string {
	_, after, _ := strings.Cut(w.read("config.yaml"), "\n  hooks: {address: \"")
	address, _, _ := strings.Cut(after, "\"")
	return address
}

// TestRealFaults injects faults into a running installation, as an administrator would make them.
func TestRealFaults(t *testing.T) {
	w := start(t, false)
	w.healthy(t)
	faults := slices.Concat(fileFaults(), gitlabFaults(), clusterFaults(), webhookFaults(), flagFaults(), arrivalFaults())
	if len(faults) < 70 {
		t.Errorf("only %d faults", len(faults))
	}
	expectFirst(t, w, faults)
	w.asked(t)
	w.metricsBehindToken(t)
	w.throughAPIServer(t)
}

// TestFaultsThatTheLeaderSees: each alone, because the leader may find something about it, too, and says so until its next round over
// everything.
func TestFaultsThatTheLeaderSees(t *testing.T) {
	for code, inject := range map[string]func(w *world) error{
		"pod_security": func(w *world) error {
			stray := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "stray", Labels: map[string]string{kubename.LabelManagedBy: kubename.ManagedBy}}}
			_, err := w.Kube.CoreV1().Namespaces().Create(t.Context(), stray, metav1.CreateOptions{})
			return err
		},
		"fence": func(w *world) error {
			return w.Kube.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Delete(t.Context(), deploy.TenantPods, metav1.DeleteOptions{})
		},
	} {
		t.Run(code, func(t *testing.T) {
			w := start(t, false)
			w.healthy(t)
			if err := inject(w); err != nil {
				t.Fatal(err)
			}
			if got := problems(app.Doctor(t.Context(), w.examination())); len(got) == 0 || got[0].Code != code {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// TestLoginWithoutOurWebhook: where kube-apiserver judges tokens by itself, that it asks no webhook is no problem.
func TestLoginWithoutOurWebhook(t *testing.T) {
	w := start(t, true)
	x := w.examination()
	x.AuthnKubeconfig, x.AuthnConfig, x.TestHook = "", w.path("authentication.yaml"), true
	r := app.Doctor(t.Context(), x)
	if got := problems(r); len(got) > 0 {
		t.Errorf("got %+v", got)
	}
	if !slices.ContainsFunc(r.Seen, func(s doctor.Seen) bool { return s.What == "logins" && strings.Contains(s.Said, "by itself") }) {
		t.Errorf("it does not say who judges: %+v", r.Seen)
	}
	changed := func(old, new string) func(w *world, x *app.Examination) func() {
		return func(w *world, x *app.Examination) func() {
			x.AuthnKubeconfig, x.AuthnConfig = "", w.changed(old, new, "authentication.yaml")
			return nil
		}
	}
	expectFirst(t, w, []fault{
		{"authentication_file", "another kind", changed("kind: AuthenticationConfiguration", "kind: Config")},
		{"authentication_issuer", "another GitLab's", changed(w.GitLab.URL(), "https://old.example.com")},
		{"authentication_audience", "another application's", changed("kubelogin-demo", "kubelogin-old")},
		{"authentication_rules", "other names", changed("gitlab:", "git:")},
	})
}

// healthy demands that nothing is wrong, with an administrator's rights and with the integrator's own, and that GitLab's sample
// event arrives.
func (w *world) healthy(t *testing.T) {
	t.Helper()
	x := w.examination()
	x.TestHook = true
	for range 2 {
		r := app.Doctor(t.Context(), x)
		if len(problems(r)) > 0 || len(r.NotLookedAt) > 0 {
			t.Fatalf("a healthy installation: %+v", r)
		}
		var out bytes.Buffer
		if r.Print(&out); !strings.Contains(out.String(), "GitLab's test went to it and came here") || !strings.Contains(out.String(), "(project_create, from 127.0.0.1)") {
			t.Errorf("the hook is not shown:\n%s", out.String())
		}
		x.Kubeconfig = ""
	}
}

// asked: that kube-apiserver asks no webhook is seen with an administrator's rights in its words, and with the integrator's own
// by the counter.
func (w *world) asked(t *testing.T) {
	t.Helper()
	bare, err := controlplane.Start(t.Context(), controlplane.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := bare.Stop(); err != nil {
			t.Error(err)
		}
	}()
	if err := deploy.Apply(t.Context(), bare.AdminConfig()); err != nil {
		t.Fatal(err)
	}
	x := w.examination()
	x.Kubeconfig = bare.AdminKubeconfig()
	x.ConfigFile = w.file(strings.Replace(w.read("config.yaml"), "\n  hooks: {", "\n  #", 1))
	r := app.Doctor(t.Context(), x)
	if got := problems(r); len(got) == 0 || got[0].Code != "webhook_unasked" {
		t.Errorf("no webhook: got %+v", r)
	}
	blind := w.examination()
	blind.Kubeconfig, blind.Metrics = "", []string{"http://127.0.0.1:1/metrics"}
	if r := app.Doctor(t.Context(), blind); len(problems(r)) > 0 || len(r.NotLookedAt) != 1 || !strings.Contains(r.NotLookedAt[0].What, "asks the webhook") {
		t.Errorf("without the numbers: %+v", r)
	}
	still := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, `gl_k8s_integrator_reviews_total{kind="unknown",outcome="denied",reason="wrong_token_type"} 7`)
	}))
	defer still.Close()
	blind.Metrics = []string{still.URL}
	if got := problems(app.Doctor(t.Context(), blind)); len(got) != 1 || got[0].Code != "webhook_unasked" {
		t.Errorf("a counter that does not move: %+v", got)
	}
}

// metricsBehindToken: with listeners.metrics.tokenFile the numbers are read with that token, over the certificate of the
// configuration alone.
func (w *world) metricsBehindToken(t *testing.T) {
	t.Helper()
	cert, key := certificate(t, time.Now().AddDate(1, 0, 0), "metrics.example.com")
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer m3trics" {
			http.Error(w, "unauthorized", http.StatusUnauthorized)
			return
		}
		asked++
		fmt.Fprintf(w, "gl_k8s_integrator_reviews_total{kind=\"unknown\",outcome=\"denied\",reason=\"wrong_token_type\"} %d\n", asked)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	s.StartTLS()
	defer s.Close()
	otherCert, otherKey := certificate(t, time.Now().AddDate(1, 0, 0), "metrics.example.com")
	_, after, _ := strings.Cut(w.read("config.yaml"), "\n  metrics: {")
	old, _, _ := strings.Cut(after, "}")
	for _, tt := range []struct {
		name, cert, key, token string
		metrics                []string
		blind                  string // "": all is well
	}{
		{"with the token", cert, key, "m3trics", nil, ""},
		{"another token", cert, key, "other", nil, "401"},
		{"another certificate", otherCert, otherKey, "m3trics", nil, "another certificate"},
		{"over plain HTTP", cert, key, "m3trics", []string{"http://metrics.example.com/metrics"}, "https alone"},
	} {
		x := w.examination()
		x.Kubeconfig, x.Metrics = "", tt.metrics
		x.ConfigFile = w.file(strings.Replace(w.read("config.yaml"), old,
			fmt.Sprintf("address: %q, certFile: %s, keyFile: %s, tokenFile: %s", s.Listener.Addr(), w.file(tt.cert), w.file(tt.key), w.file(tt.token+"\n")), 1))
		r := app.Doctor(t.Context(), x)
		if got := problems(r); len(got) > 0 {
			t.Errorf("%s: %+v", tt.name, got)
		}
		if why := fmt.Sprint(r.NotLookedAt); (tt.blind == "") != (len(r.NotLookedAt) == 0) || !strings.Contains(why, tt.blind) || strings.Contains(why, "m3trics") {
			t.Errorf("%s: not looked at %s", tt.name, why)
		}
	}
}

// throughAPIServer: kube-apiserver itself has the fault, and the files are not at hand.
func (w *world) throughAPIServer(t *testing.T) {
	t.Helper()
	const name = "authn-webhook.kubeconfig"
	good := w.read("cluster", name)
	write := func(text string) {
		if err := os.WriteFile(w.path("cluster", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := w.Cluster.RestartAPIServer(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	admin := w.read("cluster", "admin.kubeconfig")
	line := func(text, key string) string {
		_, after, _ := strings.Cut(text, key+": ")
		value, _, _ := strings.Cut(after, "\n")
		return value
	}
	foreign := good
	for _, key := range []string{"client-certificate-data", "client-key-data"} {
		foreign = strings.ReplaceAll(foreign, line(good, key), line(admin, key))
	}
	for code, text := range map[string]string{
		"webhook_path":      strings.ReplaceAll(good, "/authenticate", "/login"),
		"webhook_away":      strings.ReplaceAll(good, "https://127.0.0.1:", "https://127.0.0.1:1"),
		"webhook_name":      strings.ReplaceAll(good, "server: ", "tls-server-name: elsewhere.example.com\n    server: "),
		"webhook_untrusted": strings.ReplaceAll(good, line(good, "certificate-authority-data"), line(admin, "certificate-authority-data")),
		"webhook_client":    foreign,
	} {
		write(text)
		x := w.examination()
		x.AuthnKubeconfig, x.AuthzConfig = "", ""
		r := app.Doctor(t.Context(), x)
		if got := problems(r); len(got) == 0 || got[0].Code != code {
			t.Errorf("%s, as kube-apiserver says: %+v", code, r)
		}
	}
	if err := os.WriteFile(w.path("cluster", name), []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	x := w.examination()
	x.AuthnKubeconfig, x.AuthzConfig = "", ""
	const version = "--authentication-token-webhook-version="
	if err := w.Cluster.RestartAPIServer(t.Context(), version+"v1beta1"); err != nil {
		t.Fatal(err)
	}
	if got := problems(app.Doctor(t.Context(), x)); len(got) == 0 || got[0].Code != "webhook_version" {
		t.Errorf("v1beta1, as the integrator says: %+v", got)
	}
	if err := w.Cluster.RestartAPIServer(t.Context(), version+"v1"); err != nil {
		t.Fatal(err)
	}
	// The integrator has noticed the restarts and says so until its next round.
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		got := problems(app.Doctor(t.Context(), x))
		if len(got) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("repaired: %+v", got)
		}
	}
}
