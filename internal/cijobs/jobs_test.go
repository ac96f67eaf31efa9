package cijobs_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim/runner"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// TestJobsDeployInEveryMode runs the mission's deploy job in each mode, and moves the project from each to the next
// without a gap; in each, all who must not get in are refused.
func TestJobsDeployInEveryMode(t *testing.T) {
	e := newEnv(t)
	id := e.project("haw/world")
	ciUser := fmt.Sprintf("gitlab:ci:%d", id)

	e.start(e.ci("variables", ""))
	e.deploys("deploy")
	e.deploys("deploy-by-hand")
	e.refuses(nil)
	vars := e.variables("haw/world")
	if e.subjects() != "" || !vars["KUBE_TOKEN"].Masked || !vars["KUBECONFIG"].Protected || len(vars) != 6 {
		t.Errorf("variables: subjects %q, variables %v", e.subjects(), keysOf(vars))
	}
	token := vars["KUBE_TOKEN"].Value
	if strings.Contains(vars["KUBECONFIG"].Value, token) {
		t.Error("the token is in clear in KUBECONFIG")
	}
	e.explains()
	e.withoutShell(vars["KUBECONFIG"].Value)
	e.ciLocal()
	e.start(strings.Replace(e.ci("variables", ""), "kubeconfigToken: variable", "kubeconfigToken: file", 1))
	e.eventually(time.Minute, func() bool {
		vars := e.variables("haw/world")
		return strings.Contains(vars["KUBECONFIG"].Value, vars["KUBE_TOKEN"].Value)
	}, func() string { return "the token does not come into the file" })
	e.deploys("deploy")
	e.start(e.ci("variables", ""))
	e.eventually(time.Minute, func() bool { return !strings.Contains(e.variables("haw/world")["KUBECONFIG"].Value, "eyJ") }, func() string { return "the token stays in the file" })
	token = e.variables("haw/world")["KUBE_TOKEN"].Value

	// To id-token: the token of running jobs works on, though it is nowhere in GitLab any more.
	e.start(e.ci("id-token", ""))
	e.awaitVariables("KUBECONFIG KUBE_CA_PEM KUBE_CA_PEM_FILE KUBE_NAMESPACE KUBE_URL")
	if !e.works(token) || !e.works(e.token()) || e.token() == token || e.subjects() != ciUser {
		t.Errorf("right after the move to id-token: old token works %t, subjects %q", e.works(token), e.subjects())
	}
	e.deploys("deploy-with-id-token")
	e.refuses(nil)
	e.explains()
	res, err := e.run(runner.Job{ProjectID: id, Ref: "main", JobName: "deploy"}, "alice")
	if err != nil || res.Status == "success" || !strings.Contains(res.Log, "id_tokens") {
		t.Errorf("without the addition the job does not say what it lacks: %v\n%s", err, res.Log)
	}
	// What docs/ci.md says of a job that makes its own kubeconfig.
	res, err = e.run(runner.Job{ProjectID: id, Ref: "main", JobName: "deploy-by-hand"}, "alice")
	if err != nil || res.Status == "success" || !strings.Contains(res.Log, "Please enter Username:") {
		t.Errorf("docs/ci.md is wrong on set-credentials without a token: %v\n%s", err, res.Log)
	}
	// When running jobs are over, nothing is stored any more.
	e.start(e.ci("id-token", "  handover: 1s\n"))
	e.eventually(time.Minute, func() bool { return e.token() == "" && !e.works(token) }, func() string { return "the token of the mode before is still there" })
	e.deploys("deploy-with-id-token")

	// To the agent, with the configuration that agent-config prints.
	var agentConfig bytes.Buffer
	e.ok(app.AgentConfig(t.Context(), e.load(e.ci("agent", "")), slog.New(slog.DiscardHandler), &agentConfig))
	e.ok(e.gitlab.World().PutFile(e.project("haw/infra"), "main", ".gitlab/agents/icc/config.yaml", agentConfig.String()))
	e.gitlab.SetLicense("", false)
	e.start(e.ci("agent", ""))
	e.eventually(time.Minute, func() bool { return strings.Contains(e.log.String(), "licence") || e.slug() != "" }, func() string { return "nobody looks at the licence" })
	time.Sleep(3 * time.Second)
	if e.subjects() != ciUser {
		t.Errorf("without a licence: subjects %q, want those of the mode before", e.subjects())
	}
	e.deploys("deploy-with-id-token")
	e.gitlab.SetLicense("premium", false)
	e.start(e.ci("agent", ""))
	e.eventually(time.Minute, func() bool { return strings.Contains(e.variables("haw/world")["KUBECONFIG"].Value, e.kas()) }, func() string { return "the agent's kubeconfig does not arrive" })
	group := fmt.Sprintf("gitlab:project_env:%d:%s", id, e.slug())
	if e.slug() == "" || e.subjects() != ciUser+" "+group {
		t.Errorf("right after the move to the agent: subjects %q, want %q, too", e.subjects(), group)
	}
	e.deploys("deploy")
	e.start(e.ci("agent", "  handover: 1s\n"))
	e.eventually(time.Minute, func() bool { return e.subjects() == group }, func() string { return "subjects " + e.subjects() + ", want " + group + " alone" })
	e.deploys("deploy")
	e.deploys("deploy-in-context")
	e.refuses(nil)

	// To the certificate integration.
	e.start(e.ci("certificate", "  handover: 1s\n"))
	e.awaitVariables("")
	if n := e.integrations(); n != 1 {
		t.Errorf("%d cluster integrations", n)
	}
	e.deploys("deploy")
	e.eventually(time.Minute, func() bool { return e.subjects() == "" }, func() string { return "subjects " + e.subjects() })
	// What docs/ci.md says: GitLab gives it to unprotected branches, too, so a Developer can deploy.
	e.refuses(regexp.MustCompile("unprotected branch|merge request"))
	res, err = e.run(runner.Job{ProjectID: id, Ref: "bobs-branch", JobName: "deploy"}, "bob")
	if err != nil || res.Status != "success" {
		t.Errorf("docs/ci.md is wrong on certificate: %v\n%s", err, res.Log)
	}

	// And back.
	token = e.integrationToken()
	e.start(e.ci("variables", "  handover: 1s\n"))
	e.awaitVariables("KUBECONFIG KUBE_CA_PEM KUBE_CA_PEM_FILE KUBE_NAMESPACE KUBE_TOKEN KUBE_URL")
	e.eventually(time.Minute, func() bool { return e.integrations() == 0 }, func() string { return "the cluster integration is left in GitLab" })
	e.deploys("deploy")
	e.eventually(time.Minute, func() bool { return !e.works(token) }, func() string {
		return "Developers could read the token in the integration; now that they may not deploy, it lives on"
	})
	e.deploys("deploy")
	e.refuses(nil)
	e.noSecretInTheLog()
}

// explains runs jobs that get no credentials: their logs say what they lack, and nothing of localhost:8080.
func (e *env) explains() {
	e.Helper()
	w := e.project("haw/world")
	for _, c := range []struct {
		job  runner.Job
		by   string
		want []string
	}{
		{runner.Job{ProjectID: w, Ref: "bobs-branch", JobName: "deploy"}, "bob", []string{`branch "bobs-branch" is not protected`}},
		{runner.Job{ProjectID: w, Ref: "main", JobName: "deploy-to-staging"}, "alice", []string{`its environment is "staging", and for this cluster it must be "ICC-K8s"`}},
		{runner.Job{ProjectID: w, Ref: "bobs-branch", JobName: "look"}, "bob", []string{"it has no environment, and needs environment: {name: ICC-K8s}", `branch "bobs-branch" is not protected`}},
	} {
		var last string
		e.eventually(time.Minute, func() bool {
			res, err := e.run(c.job, c.by)
			e.ok(err)
			last = res.Log
			return res.Status == "failed" && !strings.Contains(last, "localhost:8080") && !slices.ContainsFunc(c.want, func(s string) bool { return !strings.Contains(last, s) })
		}, func() string {
			return fmt.Sprintf("%s on %s does not say %q:\n%s", c.job.JobName, c.job.Ref, c.want, last)
		})
	}
}

// withoutShell: what kubectl says where there is no sh, and where the file is used without the variable, is in docs/ci.md.
func (e *env) withoutShell(kubeconfig string) {
	e.Helper()
	page, err := os.ReadFile("../../docs/ci.md")
	e.ok(err)
	file := filepath.Join(e.dir, "without-shell")
	e.ok(os.WriteFile(file, []byte(kubeconfig), 0o600))
	for path, want := range map[string][]string{
		"/nowhere":      {"executable sh not found", "kubeconfigToken: file"},
		"/usr/bin:/bin": {"KUBE_TOKEN is empty", "kubeconfigToken: file"},
	} {
		cmd := exec.CommandContext(e.Context(), e.cluster.Kubectl(), "get", "pods")
		cmd.Env = []string{"PATH=" + path, "KUBECONFIG=" + file, "HOME=" + e.dir}
		out, err := cmd.CombinedOutput()
		for _, w := range want {
			if err == nil || !strings.Contains(string(out), w) || !strings.Contains(string(page), w) {
				e.Errorf("with PATH=%s, %q is not in kubectl's words or not in docs/ci.md: %v\n%s", path, w, err, out)
			}
		}
	}
	out, err := exec.CommandContext(e.Context(), e.cluster.Kubectl(), "sh", "-c", "true").CombinedOutput()
	const said = `unknown command "sh" for "kubectl"`
	if err == nil || !strings.Contains(string(out), said) || !strings.Contains(string(page), said) {
		e.Errorf("an image that starts kubectl: %v\n%s", err, out)
	}
}

// TestCredentialsDie: of a Maintainer who left, of a project that is left out, of a project that is removed.
func TestCredentialsDie(t *testing.T) {
	e := newEnv(t)
	id := e.project("haw/world")
	e.start("")
	e.deploys("deploy")
	old := e.variables("haw/world")["KUBE_TOKEN"].Value
	e.ok(e.gitlab.World().SetMember(gitlabsim.KindProject, id, e.user("carol"), gitlabsim.Maintainer, ""))
	e.ok(e.gitlab.World().RemoveMember(gitlabsim.KindProject, id, e.user("carol")))
	e.ok(e.gitlab.FlushHooks(t.Context()))
	e.deploys("deploy")

	// alice watches the Secrets of the namespace from before they are removed, which the API server never ends by itself.
	seen := e.watchSecrets(e.user("alice"))
	before := e.variables("haw/world")["KUBE_TOKEN"].Value
	e.ok(e.gitlab.World().RemoveMember(gitlabsim.KindProject, id, e.user("alice")))
	start := time.Now()
	e.eventually(time.Minute, func() bool { return !e.works(before) }, func() string { return "the token that alice could read works on" })
	e.deploysAs("deploy", "dave")
	e.start("") // also a new process
	e.deploysAs("deploy", "dave")
	e.eventually(30*time.Second, func() bool { return len(seen()) > 1 }, func() string { return "alice's watch shows nothing: then this test proves nothing" })
	for name, tokens := range seen() {
		for _, token := range tokens {
			e.eventually(20*time.Second, func() bool { return !e.works(token) }, func() string { return "alice's watch showed a token in Secret " + name + " that works" })
			if token == e.variables("haw/world")["KUBE_TOKEN"].Value {
				t.Error("alice's watch showed what GitLab has now")
			}
		}
	}
	// What docs/ci.md says to an administrator.
	page, err := os.ReadFile("../../docs/ci.md")
	e.ok(err)
	command := regexp.MustCompile(`kubectl annotate secret .*`).FindString(string(page))
	if e.token() != "" || command == "" {
		t.Fatalf("the Secret has a token %t, docs/ci.md has %q", e.token() != "", command)
	}
	cmd := exec.CommandContext(t.Context(), e.cluster.Kubectl(), strings.Fields(command)[1:]...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+e.cluster.AdminKubeconfig())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	e.start("")
	e.eventually(time.Minute, func() bool { return e.works(e.token()) }, func() string { return "no token in the Secret after an administrator allowed it" })
	t.Logf("a Maintainer was removed, the token that they could read is dead after %v", time.Since(start).Round(100*time.Millisecond))
	e.ok(e.gitlab.World().SetMember(gitlabsim.KindProject, id, e.user("alice"), gitlabsim.Maintainer, ""))
	e.deploys("deploy")
	if e.works(old) {
		t.Error("the first token works")
	}

	// A namespace that is not mapped any more: by token, ID token and agent.
	for _, delivery := range []string{"variables", "id-token"} {
		e.start(e.ci(delivery, "  handover: 1s\n"))
		job := map[string]string{"variables": "deploy", "id-token": "deploy-with-id-token"}[delivery]
		e.deploys(job)
		token := e.variables("haw/world")["KUBE_TOKEN"].Value
		e.start(e.ci(delivery, "") + fmt.Sprintf("authz: {exclude: {sources: [project/%d]}}\n", id))
		e.eventually(time.Minute, func() bool { return e.subjects() == "" && e.token() == "" && len(e.variables("haw/world")) == 0 }, func() string {
			return fmt.Sprintf("left: subjects %q, variables %v", e.subjects(), keysOf(e.variables("haw/world")))
		})
		e.eventually(30*time.Second, func() bool { return token == "" || !e.works(token) }, func() string { return "the token of an unmapped namespace works" })
		res, err := e.run(runner.Job{ProjectID: id, Ref: "main", JobName: "break-in"}, "alice")
		if err != nil || strings.Contains(res.Log, "\nIN by") {
			t.Errorf("a job of an unmapped project got in: %v\n%s", err, res.Log)
		}
	}

	// A project that is removed in GitLab.
	e.start("ci: {handover: 1s}\n")
	e.deploys("deploy")
	token := e.variables("haw/world")["KUBE_TOKEN"].Value
	e.ok(e.gitlab.World().DeleteProject(id))
	e.eventually(time.Minute, func() bool { return !e.works(token) }, func() string { return "the token of a removed project works" })
	e.noSecretInTheLog()
}

// TestTeamSharesANamespace: two projects deploy into the namespace of their group.
func TestTeamSharesANamespace(t *testing.T) {
	e := newEnv(t)
	e.start(fmt.Sprintf("ci: {projects: [{source: project/%d, namespace: group}, {source: project/%d, namespace: group, delivery: id-token}]}\n", e.project("haw/world"), e.project("haw/other")))
	for _, c := range []struct{ path, job, by string }{{"haw/world", "deploy", "alice"}, {"haw/other", "deploy-with-id-token", "carol"}} {
		var last string
		e.eventually(time.Minute, func() bool {
			res, err := e.run(runner.Job{ProjectID: e.project(c.path), Ref: "main", JobName: c.job}, c.by)
			e.ok(err)
			last = res.Log
			return res.Status == "success" && e.variables(c.path)["KUBE_NAMESPACE"].Value == "haw"
		}, func() string { return c.path + " does not deploy into haw:\n" + last })
	}
}

func (e *env) awaitVariables(keys string) {
	e.Helper()
	e.eventually(time.Minute, func() bool { return keysOf(e.variables("haw/world")) == keys }, func() string {
		return fmt.Sprintf("the project has %q, want %q", keysOf(e.variables("haw/world")), keys)
	})
}

// slug is that of haw/world's environment.
func (e *env) slug() (slug string) {
	e.gitlab.World().View(func(v *gitlabsim.View) {
		for _, env := range v.ProjectByPath("haw/world").Environments {
			if env.Name == "ICC-K8s" {
				slug = env.Slug
			}
		}
	})
	return slug
}

// integrationToken is the token in the cluster integration of haw/world.
func (e *env) integrationToken() (token string) {
	e.gitlab.World().View(func(v *gitlabsim.View) {
		for _, c := range v.ProjectByPath("haw/world").Clusters {
			token = c.Token
		}
	})
	return token
}

// watchSecrets watches the Secrets of haw-world as a person, and returns what tokens it has shown, by Secret.
func (e *env) watchSecrets(user int64) func() map[string][]string {
	e.Helper()
	cfg := e.cluster.AdminConfig()
	cfg.Impersonate = rest.ImpersonationConfig{UserName: kubename.User(user), Groups: []string{kubename.GroupUsers}}
	cfg.Timeout = 0
	c, err := kubernetes.NewForConfig(cfg)
	e.ok(err)
	hour := int64(3600)
	w, err := c.CoreV1().Secrets("haw-world").Watch(e.Context(), metav1.ListOptions{TimeoutSeconds: &hour})
	e.ok(err)
	var mu sync.Mutex
	seen, done := map[string][]string{}, make(chan struct{})
	go func() {
		defer close(done)
		for event := range w.ResultChan() {
			if s, ok := event.Object.(*corev1.Secret); ok {
				mu.Lock()
				tokens := seen[s.Name]
				if token := string(s.Data["token"]); token != "" {
					tokens = append(tokens, token)
				}
				seen[s.Name] = tokens
				mu.Unlock()
			}
		}
	}()
	e.Cleanup(func() { w.Stop(); <-done })
	return func() map[string][]string {
		mu.Lock()
		defer mu.Unlock()
		return maps.Clone(seen)
	}
}

func (e *env) integrations() (n int) {
	e.gitlab.World().View(func(v *gitlabsim.View) { n = len(v.ProjectByPath("haw/world").Clusters) })
	return n
}

var jwt = regexp.MustCompile(`eyJ[A-Za-z0-9_-]+\.eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+`)

func (e *env) noSecretInTheLog() {
	e.Helper()
	if found := jwt.FindString(e.log.String()); found != "" {
		e.Error("a token is in the integrator's log")
	}
}

func keysOf(vars map[string]gitlabsim.Variable) string {
	return strings.Join(slices.Sorted(maps.Keys(vars)), " ")
}
