package kubectlgitlab

import (
	"context"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/sarwebhook"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/freeport"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeconfig"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people/api"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

// seed is the GitLab of the tests. The first redirect URI is where kubelogin listens.
const seed = `
users:
- {username: root, name: Administrator, admin: true, password: root-password}
- {username: alice, name: Alice Adams, email: alice@example.com, password: alice-password}
- {username: bob, name: Bob Baker, email: bob@example.com, password: bob-password}
- {username: carol, name: Carol Clark, email: carol@example.com, password: carol-password}
groups:
- {path: haw, name: HAW, members: {carol: owner}}
- {path: lab, name: Lab, members: {alice: {role: developer, expires: 2099-12-31}}}
projects:
- {path: haw/world, name: World, defaultBranch: main, members: {alice: maintainer, bob: developer}}
- {path: haw/other, name: Other, defaultBranch: main}
- {path: lab/x, name: X, defaultBranch: main}
applications:
- {uid: kubectl, name: kubelogin, redirectURIs: ["http://localhost:%s", "http://localhost:8000"], scopes: [openid, email, profile]}
`

// env is a real control plane that follows a simulated GitLab, our server's real handlers, and the laptop of somebody.
type env struct {
	t       *testing.T
	gitlab  *gitlabsim.Server
	cluster *controlplane.Cluster
	server  *httptest.Server // /api/v1
	away    atomic.Bool      // of the server
	silent  atomic.Int32     // if not 0, the status with which the webhook gives no reasons
	port    string           // where kubelogin listens
	bin     string           // PATH: kubectl, kubelogin and the plug-in
}

func newEnv(t *testing.T) *env {
	t.Helper()
	_, port, err := net.SplitHostPort(freeport.For(t))
	if err != nil {
		t.Fatal(err)
	}
	e := &env{t: t, port: port, bin: t.TempDir()}
	if e.gitlab, err = gitlabsim.New(gitlabsim.Options{Seed: fmt.Appendf(nil, seed, port)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.gitlab.Close)
	view := e.view()
	judge, err := authn.New(authn.Config{Issuer: e.gitlab.URL(), ClientIDs: []string{"kubectl"}, HTTPClient: e.gitlab.Client()})
	if err != nil {
		t.Fatal(err)
	}
	ready := func() (authz.View, bool) { return view, true }
	explain := sarwebhook.Handler(ready, "", time.Now, slog.New(slog.DiscardHandler))
	hooks := http.NewServeMux()
	hooks.Handle("/authenticate", authn.Handler(judge, nil, nil))
	hooks.HandleFunc("/authorize", func(w http.ResponseWriter, r *http.Request) {
		if status := e.silent.Load(); status != 0 {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(int(status))
			fmt.Fprint(w, `{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","status":{"allowed":false}}`)
			return
		}
		explain.ServeHTTP(w, r)
	})
	webhooks := httptest.NewTLSServer(hooks)
	t.Cleanup(webhooks.Close)
	hook := func(path string) *controlplane.Webhook {
		return &controlplane.Webhook{URL: webhooks.URL + path, CA: certificate(webhooks)}
	}
	if e.cluster, err = controlplane.Start(t.Context(), controlplane.Options{
		AuthnWebhook: hook("/authenticate"), AuthzWebhook: hook("/authorize"), Progress: os.Stderr,
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.cluster.Stop() })
	e.give(view)
	e.serve(ready, judge)
	e.install()
	return e
}

func certificate(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// view reads GitLab, and makes what is explained from it.
func (e *env) view() authz.View {
	token := e.gitlab.TokenFor("root", "read_api")
	reader, err := gitlab.NewReader(gitlab.Options{
		BaseURL: e.gitlab.URL(), HTTPClient: e.gitlab.Client(), NoPacing: true, Token: func() (string, error) { return token, nil },
	})
	if err != nil {
		e.t.Fatal(err)
	}
	snapshot, err := reader.Snapshot(e.t.Context())
	if err != nil {
		e.t.Fatal(err)
	}
	policy, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource}})
	if err != nil {
		e.t.Fatal(err)
	}
	names, findings := authz.AssignNames(policy.Sources(snapshot), nil, nil, nil)
	if len(findings) > 0 {
		e.t.Fatal(findings)
	}
	rules := map[string][]authz.Rule{
		"view": {{Verbs: []string{"get", "list", "watch"}, Groups: []string{"", "apps"}, Resources: []string{"pods", "deployments", "namespaces", "serviceaccounts"}}},
		"edit": {{Verbs: []string{"*"}, Groups: []string{"", "apps"}, Resources: []string{"pods", "deployments"}}},
	}
	return authz.NewView(snapshot, policy, names).WithRules(rules).WithGaps(map[authz.SourceID]authz.Gap{})
}

// give writes what GitLab gives into the cluster.
func (e *env) give(v authz.View) {
	kube, err := kubernetes.NewForConfig(e.cluster.AdminConfig())
	if err != nil {
		e.t.Fatal(err)
	}
	ctx := e.t.Context()
	for id, name := range v.Namespace {
		path, _ := v.Snapshot.Path(id)
		if _, err := kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{kubename.LabelManagedBy: kubename.ManagedBy, kubename.LabelSource: id.Label()},
			Annotations: map[string]string{kubename.AnnotationPath: path},
		}}, metav1.CreateOptions{}); err != nil {
			e.t.Fatal(err)
		}
	}
	if _, err := kube.CoreV1().ServiceAccounts("haw-world").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: kubename.CIServiceAccount}}, metav1.CreateOptions{}); err != nil {
		e.t.Fatal(err)
	}
	grants, _ := v.Policy.Grants(v.Snapshot, v.Policy.Sources(v.Snapshot), time.Now())
	for _, g := range grants {
		binding := &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: kubename.RoleBinding(g.ClusterRole, 0)},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: g.ClusterRole},
		}
		for _, u := range g.Users {
			binding.Subjects = append(binding.Subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: kubename.User(u)})
		}
		if _, err := kube.RbacV1().RoleBindings(v.Namespace[g.Source]).Create(ctx, binding, metav1.CreateOptions{}); err != nil {
			e.t.Fatal(err)
		}
	}
}

// serve starts our server: the handlers that the integrator has.
func (e *env) serve(view func() (authz.View, bool), judge authn.Authenticator) {
	good := time.Now().Add(27*24*time.Hour + time.Hour)
	at := time.Now().Add(-5*24*time.Hour - time.Hour)
	a := api.New(api.Options{
		People: people.New(people.Options{View: view, GitLabURL: e.gitlab.URL(), CI: func(v authz.View, project int64) (webapi.CI, bool) {
			id := authz.ProjectID(project)
			path, _ := v.Snapshot.Path(id)
			return webapi.CI{
				Project: project, Path: path, Namespace: v.Namespace[id], Delivery: "variables", Environment: "ICC-K8s",
				Good: &good, Outcome: "delivered", Why: "the project has its credentials", At: &at,
			}, true
		}}),
		Authenticator: func() authn.Authenticator { return judge },
	})
	ctx, stop := context.WithCancel(context.WithoutCancel(e.t.Context()))
	ended := make(chan struct{})
	go func() { defer close(ended); a.Run(ctx) }()
	e.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if e.away.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		a.ServeHTTP(w, r)
	}))
	e.t.Cleanup(func() { stop(); <-ended; e.server.Close() })
}

// install makes a folder with the programs that a person has.
func (e *env) install() {
	kubelogin, err := controlplane.EnsureKubelogin(e.t.Context(), os.Stderr)
	if err != nil {
		e.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		e.t.Fatal(err)
	}
	for name, target := range map[string]string{
		"kubectl": e.cluster.Kubectl(), kubeconfig.Command: kubelogin, programName: self, completerName: self,
	} {
		if err := os.Symlink(target, filepath.Join(e.bin, name)); err != nil {
			e.t.Fatal(err)
		}
	}
}

// laptop is somebody's machine: an own home, and the kubeconfig that the integrator gives them.
type laptop struct {
	*env
	home, work, config string
	environment        []string
}

// laptop makes one for a person. Their browser knows their password.
func (e *env) laptop(t *testing.T, person string, namespaces ...string) *laptop {
	t.Helper()
	l := &laptop{env: e, home: t.TempDir(), work: t.TempDir()}
	text, err := kubeconfig.File([]kubeconfig.Cluster{{
		Name: "icc", URL: e.cluster.URL(), CA: e.cluster.CA(), Issuer: e.gitlab.URL(), ClientID: "kubectl", IssuerCA: append(e.gitlab.CA(), certificate(e.server)...), Server: e.server.URL, Namespaces: namespaces,
	}}, kubeconfig.Default)
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.Load(text)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ca := write(t, filepath.Join(l.home, "gitlab-ca.crt"), string(e.gitlab.CA()))
	for _, u := range config.AuthInfos {
		u.Exec.Args = append(u.Exec.Args, "--browser-command="+self, "--listen-address=127.0.0.1:"+e.port, "--authentication-timeout-sec=60",
			"--token-cache-dir="+filepath.Join(l.home, "tokens"))
		u.Exec.Env = append(u.Exec.Env, clientcmdapi.ExecEnvVar{Name: browserCA, Value: ca}, clientcmdapi.ExecEnvVar{Name: "KUBECTL_GITLAB_TEST_USER", Value: person})
	}
	l.config = filepath.Join(l.home, "config")
	if err := clientcmd.WriteToFile(*config, l.config); err != nil {
		t.Fatal(err)
	}
	l.environment = []string{"HOME=" + l.home, "PATH=" + e.bin + ":/usr/bin:/bin", "KUBECONFIG=" + l.config, "TZ=UTC"}
	return l
}

// command makes a command that runs there.
func (l *laptop) command(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	program, err := exec.LookPath(filepath.Join(l.bin, name))
	if err != nil {
		program = name
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env = l.work, l.environment
	return cmd
}

// kubectl runs a command of kubectl there; no output of it has a token.
func (l *laptop) kubectl(t *testing.T, args ...string) outcome {
	t.Helper()
	cmd := l.command(t, "kubectl", args...)
	var out, problems strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &problems
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	o := outcome{cmd.ProcessState.ExitCode(), out.String(), problems.String()}
	for word := range strings.FieldsSeq(o.out + o.err) {
		if _, ok := readClaims(strings.Trim(word, `"',`)); ok {
			t.Errorf("kubectl %s prints a token", strings.Join(args, " "))
		}
	}
	return o
}

func (l *laptop) gitlab(t *testing.T, args ...string) outcome {
	t.Helper()
	return l.kubectl(t, slices.Concat([]string{"gitlab"}, args)...)
}
