// Package cijobs_test runs the jobs of a .gitlab-ci.yml on the simulated runner, with the real kubectl, against a real
// kube-apiserver, in every way of delivery.
package cijobs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	authenticationv1 "k8s.io/api/authentication/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/freeport"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim/runner"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

const (
	audience = "https://k8s.example.com"
	world    = `
users:
  - {username: root, name: Administrator, admin: true}
  - {username: alice, name: Alice}
  - {username: bob, name: Bob}
  - {username: carol, name: Carol}
  - {username: dave, name: Dave}
groups:
  - {path: haw, name: HAW, visibility: private, members: {dave: owner}}
projects:
  - {path: haw/world, name: World, visibility: private, defaultBranch: main, protectedBranches: [main], members: {alice: maintainer, bob: developer}}
  - {path: haw/other, name: Other, visibility: private, defaultBranch: main, protectedBranches: [main], members: {carol: maintainer}}
  - {path: haw/fork, name: Fork, visibility: private, defaultBranch: main, protectedBranches: [main], members: {bob: maintainer}}
  - {path: haw/infra, name: Infra, visibility: private, defaultBranch: main, protectedBranches: [main]}
`
	manifest = `apiVersion: apps/v1
kind: Deployment
metadata: {name: world}
spec:
  selector: {matchLabels: {app: world}}
  template:
    metadata: {labels: {app: world}}
    spec:
      containers: [{name: world, image: "nginx:stable"}]
`
	// jobs are the mission's deploy job, the same with the addition that docs/ci.md shows, and what somebody writes who
	// wants in: as themselves, by hand, with whatever their job can get.
	jobs = `deploy:
  stage: deploy
  environment:
    name: ICC-K8s
  script:
    - kubectl apply -f deploy_new.yaml

deploy-with-id-token:
  stage: deploy
  environment:
    name: ICC-K8s
  id_tokens:
    KUBE_ID_TOKEN:
      aud: https://k8s.example.com
  script:
    - kubectl apply -f deploy_new.yaml

deploy-in-context:
  stage: deploy
  environment:
    name: ICC-K8s
  script:
    - kubectl config use-context haw/infra:icc
    - kubectl apply -f deploy_new.yaml

deploy-by-hand:
  stage: deploy
  environment:
    name: ICC-K8s
  script:
    - export KUBECONFIG=$PWD/own
    - kubectl config set-cluster own --server="$KUBE_URL" --certificate-authority="$KUBE_CA_PEM_FILE"
    - kubectl config set-credentials deploy --token="$KUBE_TOKEN"
    - kubectl config set-context own --cluster=own --user=deploy --namespace="$KUBE_NAMESPACE"
    - kubectl config use-context own
    - kubectl apply -f deploy_new.yaml

deploy-to-staging:
  stage: deploy
  environment:
    name: staging
  script:
    - kubectl apply -f deploy_new.yaml

look:
  stage: deploy
  script:
    - kubectl get pods

break-in:
  stage: deploy
  environment: {name: ICC-K8s}
  id_tokens: {KUBE_ID_TOKEN: {aud: "https://k8s.example.com"}}
  script: &script
    - unset KUBECONFIG
    - if kubectl --server=%[1]s --insecure-skip-tls-verify --token="$KUBE_ID_TOKEN" -n haw-world apply -f deploy_new.yaml; then echo IN by ID token; fi
    - if kubectl --server=%[2]s --insecure-skip-tls-verify --token="ci:%[3]d:$CI_JOB_TOKEN" -n haw-world apply -f deploy_new.yaml; then echo IN by agent; fi
    - if test -n "$KUBE_TOKEN" && kubectl --server=%[1]s --insecure-skip-tls-verify --token="$KUBE_TOKEN" -n haw-world apply -f deploy_new.yaml; then echo IN by token; fi

break-in-from-staging:
  stage: deploy
  environment: {name: staging}
  id_tokens: {KUBE_ID_TOKEN: {aud: "https://k8s.example.com"}}
  script: *script

break-in-without-environment:
  stage: deploy
  id_tokens: {KUBE_ID_TOKEN: {aud: "https://k8s.example.com"}}
  script: *script
`
)

// env is GitLab, the cluster, and the integrator between them.
type env struct {
	*testing.T
	gitlab  *gitlabsim.Server
	cluster *controlplane.Cluster
	kube    *kubernetes.Clientset
	dir     string
	agent   int64
	config  string // all but ci:
	log     lockedBuffer

	stop    context.CancelFunc
	stopped chan error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newEnv(t *testing.T) *env {
	t.Helper()
	e, admin, start := newCluster(t, "jobs")
	var err error
	e.gitlab, err = gitlabsim.New(gitlabsim.Options{
		Seed: []byte(world), License: "premium", CertificateClusters: true, LocalRequests: true,
		KAS: gitlabsim.KAS{URL: e.cluster.URL(), Client: admin},
	})
	e.ok(err)
	t.Cleanup(e.gitlab.Close)
	e.agent, err = e.gitlab.World().AddAgent(e.project("haw/infra"), "icc")
	e.ok(err)
	text := fmt.Sprintf(jobs, e.cluster.URL(), e.kas(), e.agent)
	for _, path := range []string{"haw/world", "haw/other", "haw/fork"} {
		for _, branch := range []string{"main", "bobs-branch"} {
			e.ok(e.gitlab.World().PutFile(e.project(path), branch, ".gitlab-ci.yml", text))
			e.ok(e.gitlab.World().PutFile(e.project(path), branch, "deploy_new.yaml", manifest))
		}
	}
	start()
	return e
}

// another returns a further cluster of the same GitLab, whose integrator has a URL for hooks of its own.
func (e *env) another(t *testing.T) *env {
	t.Helper()
	o, _, start := newCluster(t, "more jobs")
	o.gitlab, o.agent = e.gitlab, e.agent
	start()
	return o
}

// newCluster starts a cluster; start, to be called when its GitLab is known, writes the files of its integrator.
func newCluster(t *testing.T, name string) (e *env, client *http.Client, start func()) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: needs a real control plane")
	}
	e = &env{T: t, dir: t.TempDir()}
	webhooks, metrics, hooks := freeport.For(e), freeport.For(e), freeport.For(e)
	authority, err := localcert.NewAuthority(name)
	e.ok(err)
	certificate, err := authority.Client("kube-apiserver")
	e.ok(err)
	e.cluster, err = controlplane.Start(t.Context(), controlplane.Options{
		Progress: os.Stderr, AuthnCacheTTL: time.Second,
		AuthnWebhook: &controlplane.Webhook{URL: "https://" + webhooks + "/authenticate", CA: authority.PEM, ClientCert: certificate.Cert, ClientKey: certificate.Key},
	})
	e.ok(err)
	t.Cleanup(func() { e.ok(e.cluster.Stop()) })
	e.ok(deploy.Apply(t.Context(), e.cluster.AdminConfig()))
	client, err = rest.HTTPClientFor(e.cluster.AdminConfig())
	e.ok(err)
	t.Cleanup(client.CloseIdleConnections)
	e.kube, err = kubernetes.NewForConfigAndClient(e.cluster.AdminConfig(), client)
	e.ok(err)
	return e, client, func() {
		_, err := e.gitlab.AddSystemHook(gitlabsim.SeedHook{URL: "http://" + hooks + "/hooks/gitlab", Token: "hook-secret"})
		e.ok(err)
		e.writeFiles(authority, webhooks, hooks, metrics)
		t.Cleanup(e.end)
	}
}

func (e *env) kas() string { return e.gitlab.URL() + "/-/kubernetes-agent/k8s-proxy/" }

func (e *env) ok(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

// writeFiles gives the integrator what an administrator would: its own ServiceAccount, nothing stronger.
func (e *env) writeFiles(authority *localcert.Authority, webhooks, hooks, metrics string) {
	server, err := authority.Server("webhooks")
	e.ok(err)
	hours := int64(24 * 3600)
	own, err := e.kube.CoreV1().ServiceAccounts(deploy.Namespace).CreateToken(e.Context(), deploy.ServiceAccount,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hours}}, metav1.CreateOptions{})
	e.ok(err)
	for name, content := range map[string]string{
		"tls.crt": string(server.Cert), "tls.key": string(server.Key), "webhook-ca.crt": string(authority.PEM),
		"gitlab-ca.crt": string(e.gitlab.CA()), "hook-secret": "hook-secret",
		"read-token": e.gitlab.TokenFor("root", "read_api"), "write-token": e.gitlab.TokenFor("root", "api"),
	} {
		e.ok(os.WriteFile(filepath.Join(e.dir, name), []byte(content), 0o600))
	}
	e.ok(e.cluster.WriteKubeconfig(filepath.Join(e.dir, "integrator.kubeconfig"), controlplane.KubeconfigUser{Name: deploy.ServiceAccount, Token: own.Status.Token}, ""))
	e.config = fmt.Sprintf(`apiVersion: gl-k8s-integrator/v1alpha1
kind: Config
gitlab: {url: %[1]q, caFile: %[2]s/gitlab-ca.crt, readTokenFile: %[2]s/read-token, writeTokenFile: %[2]s/write-token}
cluster: {kubeconfig: %[2]s/integrator.kubeconfig}
listeners:
  webhooks: {address: %[3]q, certFile: %[2]s/tls.crt, keyFile: %[2]s/tls.key, clientCAFile: %[2]s/webhook-ca.crt}
  hooks: {address: %[4]q, secretFile: %[2]s/hook-secret}
  metrics: {address: %[5]q}
  drainDelay: 1ms
authn: {clientIDs: [kubelogin], ci: {audience: %[6]q}}
rbacsync: {mode: enforce, interval: 10s}
`, e.gitlab.URL(), e.dir, webhooks, hooks, metrics, audience)
}

// start runs the integrator with these further sections of its configuration, after the one that ran before has ended.
func (e *env) start(more string) {
	e.Helper()
	e.end()
	cfg := e.load(more)
	ctx, stop := context.WithCancel(context.Background())
	e.stop, e.stopped = stop, make(chan error, 1)
	log := slog.New(slog.NewJSONHandler(&e.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	go func() { e.stopped <- app.Serve(ctx, cfg, log) }()
}

func (e *env) load(more string) *config.Config {
	e.Helper()
	path := filepath.Join(e.dir, "config.yaml")
	e.ok(os.WriteFile(path, []byte(e.config+more), 0o600))
	cfg, err := config.Load(path)
	e.ok(err)
	return cfg
}

func (e *env) end() {
	if e.stop == nil {
		return
	}
	e.stop()
	if err := <-e.stopped; err != nil && !errors.Is(err, context.Canceled) {
		e.Errorf("the integrator ended: %v", err)
	}
	e.stop = nil
}

// ci is the section ci with delivery for haw/world; all else has variables. Jobs without credentials are told why, which must
// change nothing for those that have them.
func (e *env) ci(delivery, more string) string {
	return fmt.Sprintf("ci:\n  explain: true\n  kubeconfigToken: variable\n  agent: {id: %d, name: icc, configProject: project/%d, kasURL: %q}\n  projects: [{source: project/%d, path: haw/world, delivery: %s}]\n%s",
		e.agent, e.project("haw/infra"), e.kas(), e.project("haw/world"), delivery, more)
}

func (e *env) project(path string) (id int64) {
	e.gitlab.World().View(func(v *gitlabsim.View) { id = v.ProjectByPath(path).ID })
	return id
}

func (e *env) user(name string) (id int64) {
	e.gitlab.World().View(func(v *gitlabsim.View) { id = v.UserByName(name).ID })
	return id
}

// variables are those of haw/world in GitLab, by key.
func (e *env) variables(path string) map[string]gitlabsim.Variable {
	out := map[string]gitlabsim.Variable{}
	e.gitlab.World().View(func(v *gitlabsim.View) {
		for _, x := range v.ProjectByPath(path).Variables {
			if x.EnvironmentScope == "ICC-K8s" {
				out[x.Key] = x
			}
		}
	})
	return out
}

// run runs a job on the simulated runner.
func (e *env) run(job runner.Job, by string) (runner.Result, error) {
	home := filepath.Join(e.dir, "home")
	e.ok(os.MkdirAll(home, 0o700))
	job.TriggeredBy, job.Timeout = e.user(by), 2*time.Minute
	job.Env = []string{"PATH=" + filepath.Dir(e.cluster.Kubectl()) + ":/usr/bin:/bin", "HOME=" + home}
	return runner.Run(e.Context(), e.gitlab, job)
}

// deploys waits until a job of haw/world on main deploys, and fails if it does not come to that.
func (e *env) deploys(job string) {
	e.Helper()
	e.deploysAs(job, "alice")
}

func (e *env) deploysAs(job, user string) {
	e.Helper()
	var last string
	e.eventually(time.Minute, func() bool {
		_ = e.kube.AppsV1().Deployments("haw-world").Delete(e.Context(), "world", metav1.DeleteOptions{})
		res, err := e.run(runner.Job{ProjectID: e.project("haw/world"), Ref: "main", JobName: job}, user)
		e.ok(err)
		last = res.Log
		_, err = e.kube.AppsV1().Deployments("haw-world").Get(e.Context(), "world", metav1.GetOptions{})
		return res.Status == "success" && err == nil
	}, func() string { return "job " + job + " does not deploy:\n" + last })
}

func (e *env) eventually(limit time.Duration, done func() bool, what func() string) {
	e.Helper()
	for deadline := time.Now().Add(limit); !done(); time.Sleep(300 * time.Millisecond) {
		if time.Now().After(deadline) {
			log := e.log.String()
			e.Fatalf("%s\nthe end of the integrator's log:\n%s", what(), log[max(0, len(log)-4000):])
		}
	}
}

// attacks are jobs that must get nowhere in haw-world, whatever the delivery of haw/world is.
func (e *env) attacks() map[string]struct {
	job runner.Job
	by  string
} {
	w, other, fork := e.project("haw/world"), e.project("haw/other"), e.project("haw/fork")
	type attack = struct {
		job runner.Job
		by  string
	}
	out := map[string]attack{}
	for _, name := range []string{"deploy", "deploy-with-id-token", "break-in"} {
		out["Developer on an unprotected branch: "+name] = attack{runner.Job{ProjectID: w, Ref: "bobs-branch", JobName: name}, "bob"}
		out["merge request of a fork: "+name] = attack{runner.Job{ProjectID: w, SourceProjectID: fork, PipelineSource: "merge_request_event", Ref: "main", JobName: name}, "bob"}
	}
	out["another project"] = attack{runner.Job{ProjectID: other, Ref: "main", JobName: "break-in"}, "carol"}
	for _, name := range []string{"deploy-to-staging", "break-in-from-staging", "break-in-without-environment"} {
		out["another environment: "+name] = attack{runner.Job{ProjectID: w, Ref: "main", JobName: name}, "alice"}
	}
	return out
}

// refuses runs all attacks, but those that skip names.
func (e *env) refuses(skip *regexp.Regexp) {
	e.Helper()
	for what, a := range e.attacks() {
		if skip != nil && skip.MatchString(what) {
			continue
		}
		_ = e.kube.AppsV1().Deployments("haw-world").Delete(e.Context(), "world", metav1.DeleteOptions{})
		res, err := e.run(a.job, a.by)
		if err != nil {
			continue // GitLab does not even start it
		}
		if _, err := e.kube.AppsV1().Deployments("haw-world").Get(e.Context(), "world", metav1.GetOptions{}); err == nil || strings.Contains(res.Log, "\nIN by") {
			e.Errorf("%s: it got in:\n%s", what, res.Log)
		}
	}
}

// works reports whether somebody who holds a token can work in haw-world.
func (e *env) works(token string) bool {
	e.Helper()
	cfg := &rest.Config{Host: e.cluster.URL(), BearerToken: token, QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAData: e.cluster.CA()}}
	hc, err := rest.HTTPClientFor(cfg)
	e.ok(err)
	defer hc.CloseIdleConnections()
	c, err := kubernetes.NewForConfigAndClient(cfg, hc)
	e.ok(err)
	_, err = c.CoreV1().ConfigMaps("haw-world").List(e.Context(), metav1.ListOptions{})
	return err == nil
}

// subjects are those of the CI binding of haw-world, sorted.
func (e *env) subjects() string {
	rb, err := e.kube.RbacV1().RoleBindings("haw-world").Get(e.Context(), kubename.CIRoleBinding, metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, s := range rb.Subjects {
		if s.Kind != rbacv1.ServiceAccountKind {
			out = append(out, s.Name)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// token is what the Secret of haw-world holds.
func (e *env) token() string {
	s, err := e.kube.CoreV1().Secrets("haw-world").Get(e.Context(), kubename.CISecret, metav1.GetOptions{})
	if err != nil {
		return ""
	}
	return string(s.Data["token"])
}
