package runner

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// cluster makes an integration by the REST API, as a Maintainer does.
func (f *fixture) cluster(t *testing.T, scope, more string) {
	t.Helper()
	f.server.SetCertificateClusters(true)
	body := fmt.Sprintf(`{"name":"c %s","environment_scope":%q,"managed":false%s,"platform_kubernetes_attributes":{"api_url":"https://k8s.example.com","token":"t0ken-of-%s","namespace":"ns"}}`, scope, scope, more, scope)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, fmt.Sprintf("%s/api/v4/projects/%d/clusters/user", f.server.URL(), f.app), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("PRIVATE-TOKEN", f.server.TokenFor("max", "api"))
	req.Header.Set("Content-Type", "application/json")
	c := f.server.Client()
	defer c.CloseIdleConnections()
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if text, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusCreated {
		t.Fatalf("%d: %s", res.StatusCode, text)
	}
}

const showKube = `deploy: {%s script: ['echo "[$KUBE_URL][$KUBE_NAMESPACE]"', 'test -z "$KUBECONFIG" || cat "$KUBECONFIG"', 'test "$KUBE_TOKEN" = "$EXPECTED" && echo same || true']}`

func TestCertificateClusterVariables(t *testing.T) {
	f := newFixture(t)
	f.cluster(t, "ICC-K8s", "")
	f.cluster(t, "*", "")
	f.variable(t, gitlabsim.Variable{Key: "EXPECTED", Value: "t0ken-of-ICC-K8s"})
	f.file(t, "main", fmt.Sprintf(showKube, "environment: ICC-K8s,"))
	out := output(run(t, f, f.job("main")))
	for _, want := range []string{"[https://k8s.example.com][ns]", "current-context: gitlab-deploy", "namespace: ns", "token: '[MASKED]'", "same"} {
		if !strings.Contains(strings.ReplaceAll(out, "token: [MASKED]", "token: '[MASKED]'"), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "t0ken") {
		t.Errorf("the token is not masked:\n%s", out)
	}
	// A project variable wins; without environment or with the flag off there is nothing.
	f.variable(t, gitlabsim.Variable{Key: "KUBE_URL", Value: "mine"})
	if out := output(run(t, f, f.job("main"))); !strings.HasPrefix(out, "[mine][ns]") {
		t.Errorf("project variable: %s", out)
	}
	f.file(t, "main", fmt.Sprintf(showKube, ""))
	if out := output(run(t, f, f.job("main"))); out != "[mine][]" {
		t.Errorf("without environment: %s", out)
	}
	f.server.SetCertificateClusters(false)
	f.file(t, "main", fmt.Sprintf(showKube, "environment: ICC-K8s,"))
	if out := output(run(t, f, f.job("main"))); out != "[mine][]" {
		t.Errorf("flag off: %s", out)
	}
}

// TestKubernetesOfTheJob: the namespace that a job asks for, and the conditions on the integration.
func TestKubernetesOfTheJob(t *testing.T) {
	f := newFixture(t)
	f.cluster(t, "ICC-K8s", "")
	for text, want := range map[string]string{
		`environment: {name: ICC-K8s, kubernetes: {namespace: "team-$CI_COMMIT_BRANCH"}}, script: ['echo $KUBE_NAMESPACE', 'grep -c "namespace: team-main" $KUBECONFIG']`: "team-main\n1",
		`environment: ICC-K8s, rules: [{if: $KUBECONFIG}], script: [echo ran]`:                                                                                            "ran",
		`environment: other, rules: [{if: $KUBECONFIG}], script: [echo ran]`:                                                                                              "not in pipeline",
		`environment: ICC-K8s, only: {kubernetes: active}, script: [echo ran]`:                                                                                            "not in pipeline",
		`environment: ICC-K8s, except: {kubernetes: active}, script: [echo ran]`:                                                                                          "ran",
	} {
		if got := f.outcome(t, text); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	f.cluster(t, "*", "") // only such a one counts as active: the condition knows no environment
	for text, want := range map[string]string{
		`only: {kubernetes: active}, script: [echo ran]`:                 "ran",
		`only: {kubernetes: active, refs: [tags]}, script: [echo ran]`:   "not in pipeline",
		`except: {kubernetes: active}, script: [echo ran]`:               "not in pipeline",
		`only: {kubernetes: active, refs: [main]}, script: [echo again]`: "again",
	} {
		if got := f.outcome(t, text); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	f.server.SetCertificateClusters(false)
	if got := f.outcome(t, `only: {kubernetes: active}, script: [echo ran]`); got != "not in pipeline" {
		t.Errorf("switched off: %q", got)
	}
}

// outcome is what a job on main prints, or that it is not part of the pipeline.
func (f *fixture) outcome(t *testing.T, job string) string {
	t.Helper()
	f.file(t, "main", "deploy: {"+job+"}")
	r, err := Run(t.Context(), f.server, f.job("main"))
	if errors.Is(err, ErrNotInPipeline) {
		return "not in pipeline"
	}
	if err != nil {
		t.Fatal(err)
	}
	return output(r)
}

// kube is an API server that tells whom it saw.
func kube(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		groups := slices.Clone(r.Header["Impersonate-Group"])
		fmt.Fprintf(w, "path=%s user=%s groups=%s auth=%q slug=%s", r.URL.Path, r.Header.Get("Impersonate-User"), strings.Join(groups, ","), r.Header.Get("Authorization"),
			r.Header.Get("Impersonate-Extra-agent.gitlab.com%2fenvironment_slug"))
	}))
	t.Cleanup(s.Close)
	return s
}

func (f *fixture) agent(t *testing.T, config string) (id int64, ask func(token string, header ...string) (int, string)) {
	t.Helper()
	s := kube(t)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	f.server.SetKAS(gitlabsim.KAS{URL: s.URL, Client: &http.Client{Transport: transport}})
	infra, err := f.w.AddProject(gitlabsim.Project{Path: "infra", NamespaceID: f.group})
	if err != nil {
		t.Fatal(err)
	}
	if id, err = f.w.AddAgent(infra, "icc"); err != nil {
		t.Fatal(err)
	}
	f.config(t, infra, config)
	c := f.server.Client()
	t.Cleanup(c.CloseIdleConnections)
	return id, func(token string, header ...string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.server.URL()+"/-/kubernetes-agent/k8s-proxy/api/v1/pods", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		for i := 0; i+1 < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		text, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(text)
	}
}

func (f *fixture) config(t *testing.T, infra int64, config string) {
	t.Helper()
	if err := f.w.PutFile(infra, "main", ".gitlab/agents/icc/config.yaml", config); err != nil {
		t.Fatal(err)
	}
}

const asJob = "ci_access: {projects: [{id: acme/app, environments: [ICC-K8s], protected_branches_only: true, access_as: {ci_job: {}}}]}"

func TestAgentProxy(t *testing.T) {
	f := newFixture(t)
	id, ask := f.agent(t, asJob)
	env, err := f.w.EnsureEnvironment(f.app, "ICC-K8s")
	if err != nil {
		t.Fatal(err)
	}
	var infra int64
	f.w.View(func(v *gitlabsim.View) { infra = v.ProjectByPath("acme/infra").ID })
	job := gitlabsim.JobContext{ProjectID: f.app, JobID: 77, PipelineID: 7, UserID: f.maintainer, Ref: "main", RefProtected: true, Environment: "ICC-K8s"}
	bearer := func(j gitlabsim.JobContext) string { return fmt.Sprintf("ci:%d:%s", id, f.server.JobToken(j)) }
	refused := func(what string, want int, token string, header ...string) {
		t.Helper()
		if code, body := ask(token, header...); code != want || strings.Contains(body, "path=") {
			t.Errorf("%s: %d %s, want %d", what, code, body, want)
		}
	}
	refused("Free tier: never the agent's own rights instead", http.StatusForbidden, bearer(job))
	f.server.SetLicense("premium", false)

	token := bearer(job)
	code, body := ask(token)
	want := fmt.Sprintf(`path=/api/v1/pods user=gitlab:ci_job:77 groups=gitlab:ci_job,gitlab:group:%[1]d,gitlab:group_env_tier:%[1]d:%[4]s,gitlab:project:%[2]d,gitlab:project_env:%[2]d:%[3]s,gitlab:project_env_tier:%[2]d:%[4]s auth="" slug=%[3]s`,
		f.group, f.app, env.Slug, env.Tier)
	if d := cmp.Diff(want, body); code != 200 || d != "" {
		t.Errorf("%d (-want +got)\n%s", code, d)
	}
	refused("nested impersonation", http.StatusBadRequest, token, "Impersonate-User", "system:admin")
	for what, change := range map[string]func(*gitlabsim.JobContext){
		"unprotected":         func(j *gitlabsim.JobContext) { j.RefProtected = false },
		"another environment": func(j *gitlabsim.JobContext) { j.Environment = "staging" },
		"no environment":      func(j *gitlabsim.JobContext) { j.Environment = "" },
		"a fork's pipeline":   func(j *gitlabsim.JobContext) { j.ProjectID, j.UserID = f.fork, f.forkAuthor },
	} {
		j := job
		change(&j)
		refused(what, http.StatusForbidden, bearer(j))
	}
	refused("another agent", http.StatusForbidden, strings.Replace(token, fmt.Sprintf("ci:%d:", id), "ci:999:", 1))
	refused("no job token", http.StatusUnauthorized, fmt.Sprintf("ci:%d:%s", id, f.server.TokenFor("max", "api")))
	refused("not ci", http.StatusUnauthorized, strings.Replace(token, "ci:", "pat:", 1))
	f.server.RevokeToken(strings.SplitN(token, ":", 3)[2])
	refused("the job is over", http.StatusUnauthorized, token)
	token = bearer(job)
	if err := f.w.SetUserState(f.maintainer, gitlabsim.StateBlocked); err != nil {
		t.Fatal(err)
	}
	refused("its user is blocked", http.StatusUnauthorized, token)
	if err := f.w.SetUserState(f.maintainer, gitlabsim.StateActive); err != nil {
		t.Fatal(err)
	}
	f.config(t, infra, "ci_access: {groups: [{id: acme}]}") // the agent's own rights, for the whole group, on every tier
	f.server.SetLicense("", false)
	if code, body := ask(token); code != 200 || !strings.Contains(body, "user= groups= ") {
		t.Errorf("access as agent: %d %s", code, body)
	}
	f.config(t, infra, "ci_access: {projects: [{id: forker/app}]}")
	refused("another top-level namespace in the configuration", http.StatusForbidden, bearer(gitlabsim.JobContext{ProjectID: f.fork, UserID: f.forkAuthor}))
}

func TestAgentKubeconfig(t *testing.T) {
	f := newFixture(t)
	id, _ := f.agent(t, asJob)
	f.server.SetLicense("ultimate", false)
	f.variable(t, gitlabsim.Variable{Key: "EXPECTED", Value: "x"})
	f.file(t, "main", fmt.Sprintf(showKube, "environment: ICC-K8s,"))
	out := output(run(t, f, f.job("main")))
	for _, want := range []string{"name: acme/infra:icc", f.server.URL() + "/-/kubernetes-agent/k8s-proxy/", fmt.Sprintf("ci:%d:[MASKED]", id)} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "current-context") {
		t.Errorf("GitLab sets no current context for agents:\n%s", out)
	}
	f.cluster(t, "*", "")
	if out := output(run(t, f, f.job("main"))); !strings.Contains(out, "name: acme/infra:icc") || !strings.Contains(out, "current-context: gitlab-deploy") {
		t.Errorf("merged:\n%s", out)
	}
	f.server.SetLicense("", false)
	if out := output(run(t, f, f.job("main"))); strings.Contains(out, "acme/infra:icc") {
		t.Errorf("Free tier:\n%s", out)
	}
}

// TestCertificateClusterKnowsNoProtection: GitLab gives the integration's variables to every job with the environment, also
// on unprotected branches and to a fork's merge request that is run in the parent project. Only environments protect them.
func TestCertificateClusterKnowsNoProtection(t *testing.T) {
	f := newFixture(t)
	f.cluster(t, "ICC-K8s", "")
	f.variable(t, gitlabsim.Variable{Key: "EXPECTED", Value: "t0ken-of-ICC-K8s"})
	f.variable(t, gitlabsim.Variable{Key: "KUBE_NAMESPACE", Value: "guarded", Protected: true, EnvironmentScope: "ICC-K8s"})
	text := fmt.Sprintf(showKube, "environment: ICC-K8s, rules: [{when: always}],")
	f.file(t, "feature", text)
	job := f.job("feature")
	job.TriggeredBy = f.dev
	if out := output(run(t, f, job)); !strings.HasPrefix(out, "[https://k8s.example.com][ns]") || !strings.Contains(out, "same") {
		t.Errorf("unprotected branch: %s", out)
	}
	if err := f.w.PutFile(f.fork, "main", ".gitlab-ci.yml", text); err != nil {
		t.Fatal(err)
	}
	inParent := f.job("main")
	inParent.SourceProjectID, inParent.PipelineSource, inParent.TriggeredBy = f.fork, mergeRequest, f.dev
	if out := output(run(t, f, inParent)); !strings.HasPrefix(out, "[https://k8s.example.com][ns]") {
		t.Errorf("fork in the parent project: %s", out)
	}
	inFork := inParent
	inFork.ProjectID, inFork.SourceProjectID, inFork.TriggeredBy = f.fork, 0, f.forkAuthor
	if out := output(run(t, f, inFork)); out != "[][]\nsame" { // nothing is the same as nothing
		t.Errorf("fork in itself: %s", out)
	}
}
