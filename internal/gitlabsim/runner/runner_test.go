package runner

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var signingKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// fixture is a GitLab with group acme, project acme/app (main protected) and people of several levels.
type fixture struct {
	server                     *gitlabsim.Server
	w                          *gitlabsim.World
	group, app, fork           int64
	owner, maintainer, dev     int64
	guest, blocked, forkAuthor int64
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	key, err := signingKey()
	if err != nil {
		t.Fatal(err)
	}
	server, err := gitlabsim.New(gitlabsim.Options{UserKey: key, CIKey: key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	f := &fixture{server: server, w: server.World()}
	add := func(u gitlabsim.User) int64 {
		id, err := f.w.AddUser(u)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	f.owner, f.maintainer, f.dev = add(gitlabsim.User{Username: "olga"}), add(gitlabsim.User{Username: "max", Name: "Max $CI_JOB_TOKEN"}), add(gitlabsim.User{Username: "dev"})
	f.guest, f.blocked, f.forkAuthor = add(gitlabsim.User{Username: "guest"}), add(gitlabsim.User{Username: "bob"}), add(gitlabsim.User{Username: "forker"})
	f.group, err = f.w.AddGroup(gitlabsim.Group{Path: "acme", Visibility: gitlabsim.Private, Members: []gitlabsim.Member{
		{UserID: f.owner, Level: gitlabsim.Owner},
		{UserID: f.maintainer, Level: gitlabsim.Maintainer},
		{UserID: f.dev, Level: gitlabsim.Developer},
		{UserID: f.guest, Level: gitlabsim.Guest},
		{UserID: f.blocked, Level: gitlabsim.Owner},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.w.SetUserState(f.blocked, gitlabsim.StateBlocked); err != nil {
		t.Fatal(err)
	}
	f.app, err = f.w.AddProject(gitlabsim.Project{Path: "app", NamespaceID: f.group, ProtectedBranches: []string{"main", "release/*"}})
	if err != nil {
		t.Fatal(err)
	}
	f.fork, err = f.w.AddProject(gitlabsim.Project{Path: "app", OwnerID: f.forkAuthor})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// file puts a .gitlab-ci.yml on a branch of the project.
func (f *fixture) file(t *testing.T, branch, text string) {
	t.Helper()
	if err := f.w.PutFile(f.app, branch, ".gitlab-ci.yml", text); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) variable(t *testing.T, v gitlabsim.Variable) {
	t.Helper()
	if err := f.w.SetVariable(f.app, v); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) job(ref string) Job {
	return Job{ProjectID: f.app, Ref: ref, JobName: "deploy", TriggeredBy: f.maintainer, Env: []string{"PATH=" + os.Getenv("PATH")}}
}

func run(t *testing.T, f *fixture, job Job) Result {
	t.Helper()
	r, err := Run(t.Context(), f.server, job)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// output is the log without echoed commands and the last line.
func output(r Result) string {
	var out []string
	for line := range strings.Lines(r.Log) {
		if !strings.HasPrefix(line, "$ ") && line != "Job succeeded\n" {
			out = append(out, strings.TrimSuffix(line, "\n"))
		}
	}
	return strings.Join(out, "\n")
}

const show = `deploy: {%s script: ['echo "[$WHO][$SECRET]"']}`

func TestEnvironmentScopes(t *testing.T) {
	cases := []struct {
		name, environment string
		branch            string
		want              string
	}{
		{"exact beats wildcard beats everything", "environment: ICC-K8s,", "main", "[exact][guarded]"},
		{"no environment: only what is for everything", "", "main", "[everything][]"},
		{"another environment", "environment: other,", "main", "[everything][]"},
		{"case counts", "environment: icc-k8s,", "main", "[everything][]"},
		{"a wildcard", "environment: {name: ICC-test},", "main", "[wild][]"},
		{"the name is matched, not the slug", "environment: icc-k8s-abcdef,", "main", "[everything][]"},
		{"an unprotected branch gets no protected variable", "environment: ICC-K8s,", "feature", "[exact][]"},
		{"a branch that a pattern protects", "environment: ICC-K8s,", "release/1.0", "[exact][guarded]"},
		{"any action", "environment: {name: ICC-K8s, action: verify},", "main", "[exact][guarded]"},
	}
	f := newFixture(t)
	for _, v := range []gitlabsim.Variable{
		{Key: "WHO", Value: "exact", EnvironmentScope: "ICC-K8s"},
		{Key: "WHO", Value: "wild", EnvironmentScope: "ICC-*"},
		{Key: "WHO", Value: "everything", EnvironmentScope: "*"},
		{Key: "SECRET", Value: "guarded", EnvironmentScope: "ICC-K8s", Protected: true},
	} {
		f.variable(t, v)
	}
	for _, c := range cases {
		f.file(t, c.branch, fmt.Sprintf(show, c.environment))
		r := run(t, f, f.job(c.branch))
		if got := output(r); got != c.want || r.Status != "success" {
			t.Errorf("%s: %s %s, want %s", c.name, r.Status, got, c.want)
		}
		if has := slices.Contains(r.Variables, "SECRET"); has != strings.Contains(c.want, "guarded") {
			t.Errorf("%s: SECRET among the variables: %t", c.name, has)
		}
	}
}

func TestProtectedVariablesElsewhere(t *testing.T) {
	f := newFixture(t)
	f.variable(t, gitlabsim.Variable{Key: "SECRET", Value: "guarded", Protected: true})
	text := `deploy: {rules: [{when: on_success}], script: ['echo "[$SECRET][$CI_COMMIT_REF_PROTECTED]"']}`
	f.file(t, "main", text)
	f.file(t, "feature", text)
	if err := f.w.PutFile(f.fork, "main", ".gitlab-ci.yml", text); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		edit func(*Job)
		want string
	}{
		"main":                         {func(*Job) {}, "[guarded][true]"},
		"a tag":                        {func(j *Job) { j.Ref, j.Tag = "v1", true }, "[][false]"},
		"a merge request from feature": {func(j *Job) { j.Ref, j.PipelineSource = "feature", mergeRequest }, "[][false]"},
		"a merge request of a fork whose branch is called main": {func(j *Job) { j.PipelineSource, j.SourceProjectID = mergeRequest, f.fork }, "[][false]"},
	} {
		job := f.job("main")
		c.edit(&job)
		if got := output(run(t, f, job)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestVariablesOfTheJob(t *testing.T) {
	f := newFixture(t)
	f.variable(t, gitlabsim.Variable{Key: "FROM", Value: "project"})
	f.variable(t, gitlabsim.Variable{Key: "RAW", Value: "$CI_PROJECT_ID", Raw: true})
	f.variable(t, gitlabsim.Variable{Key: "EXPANDED", Value: "${CI_PROJECT_ID}-$FROM-$$HOME-$NOPE-%NOPE%"})
	f.variable(t, gitlabsim.Variable{Key: "KUBECONFIG", Value: "line one\nline two\n", VariableType: "file", Raw: true})
	f.variable(t, gitlabsim.Variable{Key: "POINTER", Value: "at $KUBECONFIG"})
	f.file(t, "main", `
variables: {FROM: global, LEVEL: global, NUMBER: 7}
default:
  before_script: [echo before]
stages: [ship]
deploy:
  stage: ship
  image: alpine
  variables:
    FROM: job
    LEVEL: job
    SOFT: {value: "$LEVEL!", description: x}
    HARD: {value: "$LEVEL!", expand: false}
    WHO: "$CI_COMMIT_REF_NAME"
  environment: {name: "review/$CI_COMMIT_REF_NAME", url: "https://$CI_ENVIRONMENT_SLUG.example.com"}
  script:
    - echo "$FROM $LEVEL $NUMBER $SOFT $HARD"
    - [echo "$RAW $EXPANDED"]
    - stat -c '%a' "$KUBECONFIG"; cat "$KUBECONFIG"; test "$POINTER" = "at $KUBECONFIG"; dirname "$KUBECONFIG" | sed "s#$CI_PROJECT_DIR##"
    - echo "$CI_ENVIRONMENT_NAME $CI_ENVIRONMENT_TIER $CI_ENVIRONMENT_ACTION"; test "$CI_ENVIRONMENT_URL" = "https://$CI_ENVIRONMENT_SLUG.example.com"
    - echo "$CI $GITLAB_CI $CI_PROJECT_PATH $CI_COMMIT_REF_NAME $CI_COMMIT_BRANCH $CI_COMMIT_REF_SLUG $CI_COMMIT_REF_PROTECTED $CI_DEFAULT_BRANCH $CI_PIPELINE_SOURCE $GITLAB_USER_LOGIN $CI_JOB_STAGE"
    - echo "$GITLAB_USER_NAME"
    - test "$PWD" = "$CI_PROJECT_DIR"; stat -c '%a' ..; cat sub/dir/data
    - |
      echo multi
      echo line
  after_script: [echo "after $CI_JOB_STATUS"]
`)
	if err := f.w.PutFile(f.app, "main", "sub/dir/data", "checked out\n"); err != nil {
		t.Fatal(err)
	}
	r := run(t, f, f.job("main"))
	want := fmt.Sprintf(`before
project job 7 job! $LEVEL!
$CI_PROJECT_ID %d-project-$HOME--%%NOPE%%
600
line one
line two
.tmp
review/main development start
true true acme/app main main main true main push max ship
Max $CI_JOB_TOKEN
700
checked out
multi
line
Running after_script
after success`, f.app)
	if diff := cmp.Diff(want, output(r)); diff != "" {
		t.Errorf("%s\n%s", diff, r.Log)
	}
	if !strings.Contains(r.Log, "\n$ echo multi # collapsed multi-line command\nmulti\n") || !strings.HasSuffix(r.Log, "Job succeeded\n") {
		t.Errorf("not a GitLab log:\n%s", r.Log)
	}
	f.w.View(func(v *gitlabsim.View) {
		if es := v.Project(f.app).Environments; len(es) != 1 || es[0].Name != "review/main" {
			t.Errorf("environments %v", es)
		}
	})
	if again := run(t, f, f.job("main")); again.JobID == r.JobID {
		t.Error("two jobs with one id")
	}
}

func TestOnlyGitLabsVariablesReachTheJob(t *testing.T) {
	t.Setenv("OF_THE_TEST", "leak")
	f := newFixture(t)
	f.file(t, "main", `deploy: {script: ["env | cut -d= -f1 | sort"]}`)
	r := run(t, f, f.job("main"))
	var got []string
	for name := range strings.Lines(output(r)) {
		got = append(got, strings.TrimSpace(name))
	}
	want := slices.Clone(r.Variables)
	want = append(want, "PATH", "PWD", "SHLVL", "_") // Env, and what bash itself makes
	got, want = slices.Compact(slices.Sorted(slices.Values(got))), slices.Sorted(slices.Values(want))
	got = slices.DeleteFunc(got, func(n string) bool { return n == "OLDPWD" })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, name := range r.Variables {
		if strings.HasPrefix(name, "CI_ENVIRONMENT") {
			t.Errorf("%s without an environment", name)
		}
	}
}

func TestIDTokens(t *testing.T) {
	f := newFixture(t)
	f.variable(t, gitlabsim.Variable{Key: "SHADOWED", Value: "project wins"})
	f.file(t, "main", `
deploy:
  environment: {name: ICC-K8s, deployment_tier: testing}
  id_tokens:
    ONE: {aud: "https://$CI_PROJECT_NAME.example.com"}
    TWO: {aud: [a, b]}
    SHADOWED: {aud: x}
  script:
    - cp /dev/null out; for t in $ONE $TWO; do echo "$t" | cut -d. -f2 >> out; done; base64 -w0 out; echo
    - echo "$SHADOWED"
    - echo "token $ONE"
`)
	lines := strings.Split(output(run(t, f, f.job("main"))), "\n")
	if len(lines) != 3 || lines[1] != "project wins" || lines[2] != "token [MASKED]" {
		t.Fatalf("got %q", lines)
	}
	payloads, err := base64.StdEncoding.DecodeString(lines[0])
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range strings.Fields(string(payloads)) {
		raw, err := base64.RawURLEncoding.DecodeString(p)
		if err != nil {
			t.Fatal(err)
		}
		var claims map[string]any
		if err := json.Unmarshal(raw, &claims); err != nil {
			t.Fatal(err)
		}
		for key, want := range map[string]any{
			"aud": []any{"https://app.example.com", []any{"a", "b"}}[i], "environment": "ICC-K8s", "ref_protected": "true", "ref": "main",
			"project_id": strconv.FormatInt(f.app, 10), "user_login": "max", "deployment_tier": "testing", "pipeline_source": "push",
		} {
			if diff := cmp.Diff(want, claims[key]); diff != "" {
				t.Errorf("token %d, %s: %s", i, key, diff)
			}
		}
	}
}

func TestForkMergeRequestToken(t *testing.T) {
	f := newFixture(t)
	err := f.w.PutFile(f.fork, "main", ".gitlab-ci.yml", `deploy: {only: [merge_requests], id_tokens: {T: {aud: x}}, script: ["echo $T | cut -d. -f2; echo $CI_PROJECT_PATH $CI_MERGE_REQUEST_SOURCE_PROJECT_ID"]}`)
	if err != nil {
		t.Fatal(err)
	}
	job := f.job("main")
	job.SourceProjectID, job.PipelineSource = f.fork, mergeRequest
	payload, rest, _ := strings.Cut(output(run(t, f, job)), "\n")
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(raw, &claims); err != nil {
		t.Fatal(err)
	}
	if claims["project_path"] != "forker/app" || claims["job_project_path"] != "acme/app" || claims["ref_protected"] != "false" {
		t.Errorf("claims %v", claims)
	}
	if want := fmt.Sprintf("acme/app %d", f.fork); rest != want {
		t.Errorf("got %q, want %q", rest, want)
	}
}

func TestSecretsAreMasked(t *testing.T) {
	f := newFixture(t)
	f.variable(t, gitlabsim.Variable{Key: "KUBE_TOKEN", Value: "s3cr3t-t0ken-value", Masked: true, Raw: true})
	f.variable(t, gitlabsim.Variable{Key: "HIDDEN", Value: "another-secret-1", Masked: true, Hidden: true})
	f.variable(t, gitlabsim.Variable{Key: "COMPOSED", Value: "user:$HIDDEN"})
	f.file(t, "main", `
deploy:
  script:
    - echo "a $KUBE_TOKEN b $COMPOSED c $CI_JOB_TOKEN d" >&2
    - printf 's3cr3t-'; sleep 0.05; printf 't0ken'; sleep 0.05; echo '-value and s3cr3t-no'
    - echo s3cr3t-t0ken-value
    - printf 's3cr3t-t0ken'
`)
	r := run(t, f, f.job("main"))
	want := "a [MASKED] b user:[MASKED] c [MASKED] d\n[MASKED] and s3cr3t-no\n[MASKED]\ns3cr3t-t0kenJob succeeded"
	if diff := cmp.Diff(want, output(r)); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(r.Log, "t0ken-value") || !strings.Contains(r.Log, "$ echo [MASKED]\n") {
		t.Errorf("a secret in the log:\n%s", r.Log)
	}
}

func TestJobTokenDiesWithTheJob(t *testing.T) {
	f := newFixture(t)
	dir := t.TempDir()
	f.file(t, "main", `deploy: {script: ["printf %s $CI_JOB_TOKEN > $OUT/token", 'test -s "$CI_SERVER_TLS_CA_FILE"', 'echo $CI_PROJECT_DIR > $OUT/dir']}`)
	job := f.job("main")
	job.Env = append(job.Env, "OUT="+dir)
	run(t, f, job)
	token, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.server.URL()+"/api/v4/job", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("JOB-TOKEN", string(token))
	client := f.server.Client()
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if len(token) < 20 || resp.StatusCode == http.StatusOK {
		t.Errorf("the token of a finished job %q still works: %s", token, resp.Status)
	}
	folder, err := os.ReadFile(filepath.Join(dir, "dir"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(strings.TrimSpace(string(folder)))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of the job is still there: %v", err)
	}
}

func TestFailure(t *testing.T) {
	f := newFixture(t)
	for name, c := range map[string]struct {
		script string
		code   int
		output string
	}{
		"exit code":        {`["echo one", "exit 42", "echo two"]`, 42, "one\nERROR: Job failed: exit status 42"},
		"any command":      {`["false", "echo two"]`, 1, "ERROR: Job failed: exit status 1"},
		"inside of a pipe": {`["(exit 3) | cat", "echo two"]`, 3, "ERROR: Job failed: exit status 3"},
		"not found":        {`["no-such-program 2>/dev/null"]`, 127, "ERROR: Job failed: exit status 127"},
	} {
		f.file(t, "main", `deploy: {script: `+c.script+`}`)
		r := run(t, f, f.job("main"))
		if r.Status != "failed" || r.ExitCode != c.code || output(r) != c.output {
			t.Errorf("%s: %s %d %q", name, r.Status, r.ExitCode, output(r))
		}
	}
	f.file(t, "main", `deploy: {script: [exit 5], after_script: ["echo $CI_JOB_STATUS", exit 9]}`)
	if r := run(t, f, f.job("main")); r.ExitCode != 5 || output(r) != "Running after_script\nfailed\nERROR: Job failed: exit status 5" {
		t.Errorf("after_script: %d %q", r.ExitCode, output(r))
	}
}

// alive tells whether a process runs; one that is dead but not yet reaped by its new parent does not count.
func alive(t *testing.T, pid int) bool {
	t.Helper()
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func pids(t *testing.T, dir string) []int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "pid*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no process noted its id (%v)", err)
	}
	var out []int
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, pid)
	}
	return out
}

func TestNothingOutlivesTheJob(t *testing.T) {
	const children = `(echo $BASHPID > $OUT/pid1; exec sleep 300) & (echo $BASHPID > $OUT/pid2; exec sleep 300 >/dev/null 2>&1 </dev/null) & while [ ! -s $OUT/pid1 ] || [ ! -s $OUT/pid2 ]; do sleep 0.01; done`
	for name, c := range map[string]struct {
		script string
		limit  time.Duration
		cancel bool
		status string
		last   string
	}{
		"timeout":     {children + "\n      echo waiting; wait", 700 * time.Millisecond, false, "failed", "ERROR: Job failed: execution took longer than 700ms\n"},
		"cancelled":   {children + "\n      echo waiting; wait", time.Hour, true, "failed", "ERROR: Job failed: canceled\n"},
		"left behind": {children, time.Hour, false, "success", "Job succeeded\n"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			dir := t.TempDir()
			f.file(t, "main", "deploy:\n  script:\n    - |\n      "+c.script+"\n")
			job := f.job("main")
			job.Timeout, job.Env = c.limit, append(job.Env, "OUT="+dir)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if c.cancel {
				stop := time.AfterFunc(700*time.Millisecond, cancel)
				defer stop.Stop()
			}
			start := time.Now()
			r, err := Run(ctx, f.server, job)
			if c.cancel != errors.Is(err, context.Canceled) || r.Status != c.status || !strings.HasSuffix(r.Log, c.last) {
				t.Errorf("%v, %+v", err, r)
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("took %s", took)
			}
			for _, pid := range pids(t, dir) {
				if alive(t, pid) {
					t.Errorf("process %d is still running", pid)
				}
			}
		})
	}
}

func TestWhoMayStartPipelines(t *testing.T) {
	f := newFixture(t)
	for _, branch := range []string{"main", "feature"} {
		f.file(t, branch, `deploy: {script: ["true"]}`)
	}
	for _, c := range []struct {
		name, ref string
		user      int64
		want      string
	}{
		{"a Developer on a branch", "feature", f.dev, ""},
		{"a Developer on a protected branch", "main", f.dev, "You do not have sufficient permission to run a pipeline on 'main'"},
		{"a Maintainer on a protected branch", "main", f.maintainer, ""},
		{"a Guest", "feature", f.guest, "Insufficient permissions to create a new pipeline"},
		{"a stranger", "feature", f.forkAuthor, "Insufficient permissions to create a new pipeline"},
		{"a blocked Owner", "feature", f.blocked, "is blocked and can't start pipelines"},
		{"nobody, e.g. a trigger", "main", 0, ""},
		{"an unknown user", "main", 999, "there is no user 999"},
	} {
		job := f.job(c.ref)
		job.TriggeredBy = c.user
		_, err := Run(t.Context(), f.server, job)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasSuffix(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if err := f.w.SetProjectArchived(f.app, true); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), f.server, f.job("main")); err == nil || !strings.Contains(err.Error(), "archived") {
		t.Errorf("an archived project: %v", err)
	}
}

func TestHostileRepository(t *testing.T) {
	f := newFixture(t)
	f.file(t, "main", `deploy: {script: ["true"]}`)
	for _, name := range []string{"../../escape", "/tmp/gitlabsim-escape", "a/../../../escape"} {
		branch := "b" + slug(name)
		f.file(t, branch, `deploy: {script: ["true"]}`)
		if err := f.w.PutFile(f.app, branch, name, "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := Run(t.Context(), f.server, f.job(branch)); err == nil || !strings.Contains(err.Error(), "checking out") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The name of a branch is data: it neither runs nor names variables.
	const branch = "x$KUBE_TOKEN"
	f.variable(t, gitlabsim.Variable{Key: "KUBE_TOKEN", Value: "secret-value"})
	f.file(t, branch, `deploy: {script: ['echo "$CI_COMMIT_REF_NAME"']}`)
	if got := output(run(t, f, f.job(branch))); got != branch {
		t.Errorf("got %q, want %q", got, branch)
	}
}

func parseConfig(text, job string) (*config, error) {
	f, err := parseFile(text, true)
	if err != nil {
		return nil, err
	}
	return f.job(job)
}

func TestConfigRefusals(t *testing.T) {
	for text, want := range map[string]string{
		`[a]`:                                "it must be a mapping",
		`other: {script: [x]}`:               `there is no job "deploy"`,
		`deploy: {script: [x], extends: .y}`: "deploy: unknown keys in `extends` (.y)",
		`{.y: text, deploy: {script: [x], extends: .y}}`:                                             "deploy: invalid base hashes in `extends` (.y)",
		`{.y: {extends: deploy}, deploy: {script: [x], extends: .y}}`:                                "circular dependency detected in `extends`",
		`{.y: {extends: .none}, deploy: {script: [x]}}`:                                              ".y: unknown keys in `extends` (.none)",
		`deploy: {script: [x], extends: [7]}`:                                                        "extends should be an array of strings or a string",
		`deploy: {script: [x], surprise: 1}`:                                                         "jobs:deploy config contains unknown keys: surprise",
		`deploy: {script: [x], stage: production}`:                                                   "chosen stage production does not exist; available stages are .pre, build, test, deploy, .post",
		`deploy: {script: [x], when: never}`:                                                         "when should be one of",
		`deploy: {script: [x], when: delayed}`:                                                       "start in should be a duration",
		`deploy: {script: [x], start_in: 1 day}`:                                                     "start in must be blank",
		`deploy: {script: [x], needs: [build]}`:                                                      "undefined need: build",
		`deploy: {script: [x], dependencies: [build]}`:                                               "undefined dependency: build",
		`{late: {script: [x], stage: deploy}, deploy: {script: [x], needs: [late]}}`:                 "need late is not defined in current or prior stages",
		`{late: {script: [x], stage: deploy}, deploy: {script: [x], dependencies: [late]}}`:          "dependency late is not defined in current or prior stages",
		`{a: {script: [x]}, b: {script: [x]}, deploy: {script: [x], needs: [a], dependencies: [b]}}`: "dependencies the b should be part of needs",
		`{a: {script: [x], only: [tags]}, deploy: {script: [x], needs: [a]}}`:                        "'deploy' job needs 'a' job, but 'a' does not exist in the pipeline",
		`deploy: {script: [x], needs: [{job: a, project: b}]}`:                                       `does not implement the keyword "project"`,
		`deploy: {script: [x], needs: [{artifacts: true}]}`:                                          "job can't be blank",
		"deploy:\n  script: !reference [.a, script]":                                                 "does not implement `!reference`",
		`deploy: {script: x, only: {kubernetes: inactive}}`:                                          "kubernetes unknown value",
		`deploy: {script: x, only: {variables: ["$A =="]}}`:                                          "Invalid expression syntax",
		`deploy: {script: x, only: {surprise: 1}}`:                                                   "unknown keys: surprise",
		`deploy: {script: x, rules: [{surprise: 1}]}`:                                                "unknown keys: surprise",
		`deploy: {script: x, rules: [{when: sometimes}]}`:                                            "when unknown value: sometimes",
		`deploy: {script: x, rules: [{start_in: 1 day}]}`:                                            "disallowed keys: start_in",
		`deploy: {script: x, rules: [{if: $A}], start_in: 1 day}`:                                    "may not be used with `rules`",
		`deploy: {script: [x], secrets: {}}`:                                                         `does not implement the keyword "secrets"`,
		`deploy: {script: [x], inherit: {surprise: false}}`:                                          "unknown keys: surprise",
		"include: x\ndeploy: {script: [x]}":                                                          `does not implement the keyword "include"`,
		"workflow: {}\ndeploy: {script: [x]}":                                                        `does not implement the keyword "workflow"`,
		"default: {hooks: {}}\ndeploy: {script: [x]}":                                                `default: the simulated runner does not implement the keyword "hooks"`,
		`deploy: {}`:          "script can't be blank",
		`deploy: {script: 7}`: "should be a string or a nested array",
		`deploy: {script: x, variables: {A: true}}`:                                            "either a string or a hash",
		`deploy: {script: x, variables: {A: {values: 1}}}`:                                     "invalid data keys: values",
		`deploy: {script: x, variables: {"A B": 1}}`:                                           "is no name of a variable",
		`deploy: {script: x, environment: {url: x}}`:                                           "name can't be blank",
		`deploy: {script: x, environment: {name: x, kubernetes: {surprise: z}}}`:               "unknown keys: surprise",
		`deploy: {script: x, environment: {name: x, kubernetes: {}}}`:                          "can't be blank",
		`deploy: {script: x, environment: {name: x, kubernetes: {dashboard: {namespace: a}}}}`: "agent can't be blank",
		`deploy: {script: x, environment: {name: x, action: wait}}`:                            "action should be",
		`deploy: {script: x, id_tokens: {A: {}}}`:                                              "needs aud",
		`deploy: {script: x, rules: [{changes: [a]}]}`:                                         `does not implement the keyword "changes"`,
		`deploy: {script: x, rules: [{if: "$A =="}]}`:                                          "invalid expression syntax: $A ==",
		`deploy: {script: x, rules: [{if: $A}], only: [main]}`:                                 "may not be used with `rules`",
		`deploy: {script: x, only: {changes: [a]}}`:                                            `does not implement the keyword "changes"`,
		`deploy: {script: x, variables: {A: $B, B: $A}}`:                                       "circular variable reference",
		`deploy: {script: x, environment: "a;b"}`:                                              "can contain only letters",
	} {
		_, err := parseConfig(text, "deploy")
		if err == nil { // found only when the job is about to run
			f := newFixture(t)
			f.file(t, "main", text)
			_, err = Run(t.Context(), f.server, f.job("main"))
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestPipelineRules(t *testing.T) {
	lookup := func(key string) (string, bool) {
		v, ok := map[string]string{"CI_COMMIT_BRANCH": "main", "EMPTY": "", "PATTERN": "/^ma/"}[key]
		return v, ok
	}
	for text, want := range map[string]bool{
		`$CI_COMMIT_BRANCH`: true, `$EMPTY`: false, `$NOPE`: false, `$NOPE == null`: true, `$EMPTY == null`: false, `$EMPTY == ""`: true,
		`$CI_COMMIT_BRANCH == "main"`: true, `$CI_COMMIT_BRANCH != 'main'`: false, `"main" == $CI_COMMIT_BRANCH`: true,
		`$CI_COMMIT_BRANCH =~ /^m.*n$/`: true, `$CI_COMMIT_BRANCH =~ /^MAIN$/`: false, `$CI_COMMIT_BRANCH =~ /^MAIN$/i`: true,
		`$CI_COMMIT_BRANCH !~ /x\/y/`: true, `$CI_COMMIT_BRANCH =~ $PATTERN`: true, `$NOPE =~ /.*/`: false,
		`$NOPE && $NOPE || $CI_COMMIT_BRANCH`: true, `$NOPE && ($NOPE || $CI_COMMIT_BRANCH)`: false,
		`$CI_COMMIT_BRANCH == "main" && $EMPTY != "x"`: true,
		`"23" =~ "1234"`: true, `"23" =~ /1234/`: false, `"5" !~ "1234"`: true, // as documented
		`$CI_COMMIT_BRANCH =~ $NOPE`: false, `$CI_COMMIT_BRANCH !~ $NOPE`: true, `"/^(/" =~ "/^(/"`: true,
	} {
		if got, err := evaluate(text, lookup); err != nil || got != want {
			t.Errorf("%s: %t %v, want %t", text, got, err, want)
		}
	}

	if _, err := evaluate(`$CI_COMMIT_BRANCH =~ /./`, lookup); err == nil {
		t.Error("a pattern of one character is accepted")
	}

	f := newFixture(t)
	for text, want := range map[string]string{
		`script: [echo first], script: [echo last]`: "last",
		`rules: [{if: '$CI_COMMIT_BRANCH == "main"', variables: {A: rule}}, {variables: {A: other}}], variables: {A: job}, script: [echo $A]`: "rule",
		`rules: [{if: $A, when: never}, {when: always}], script: [echo ran]`:                                                                  "ran",
		`rules: [{if: $CI_COMMIT_BRANCH, when: never}, {when: always}], script: [echo ran]`:                                                   "not in pipeline",
		`rules: [{if: $CI_COMMIT_TAG}], script: [echo ran]`:                                                                                   "not in pipeline",
		`only: [main], script: [echo ran]`:                                                                                                    "ran",
		`only: [tags], script: [echo ran]`:                                                                                                    "not in pipeline",
		`only: {refs: [/^ma/]}, script: [echo ran]`:                                                                                           "ran",
		`except: [main], script: [echo ran]`:                                                                                                  "not in pipeline",
		`only: [merge_requests], script: [echo ran]`:                                                                                          "not in pipeline",
	} {
		f.file(t, "main", "deploy: {"+text+"}")
		r, err := Run(t.Context(), f.server, f.job("main"))
		got := output(r)
		if errors.Is(err, ErrNotInPipeline) {
			got = "not in pipeline"
		} else if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	f.file(t, "main", "deploy: {script: [echo ran]}")
	job := f.job("main")
	job.PipelineSource = mergeRequest
	if _, err := Run(t.Context(), f.server, job); !errors.Is(err, ErrNotInPipeline) {
		t.Errorf("a plain job in a merge request pipeline: %v", err)
	}
}

// TestRulesSeeVariablesOfTheEnvironment, as GitLab does since 14, but only where the job would get them.
func TestRulesSeeVariablesOfTheEnvironment(t *testing.T) {
	f := newFixture(t)
	f.variable(t, gitlabsim.Variable{Key: "KUBECONFIG", Value: "apiVersion: v1", VariableType: "file", EnvironmentScope: "ICC-K8s", Protected: true})
	for text, want := range map[string]map[string]bool{
		`environment: ICC-K8s, rules: [{if: $KUBECONFIG}]`:                                                                 {"main": true, "feature": false},
		`environment: {name: "ICC-$SUFFIX"}, variables: {SUFFIX: K8s}, rules: [{if: $KUBECONFIG}]`:                         {"main": true, "feature": false},
		`environment: other, rules: [{if: $KUBECONFIG}]`:                                                                   {"main": false},
		`rules: [{if: $KUBECONFIG}]`:                                                                                       {"main": false},
		`environment: ICC-K8s, only: {variables: [$KUBECONFIG]}`:                                                           {"main": true, "feature": false},
		`environment: ICC-K8s, except: {variables: [$KUBECONFIG]}`:                                                         {"main": false, "feature": true},
		`environment: ICC-K8s, rules: [{if: '$CI_ENVIRONMENT_NAME == "ICC-K8s" && $CI_ENVIRONMENT_ACTION == "start"'}]`:    {"main": true},
		`environment: ICC-K8s, rules: [{if: '$CI_ENVIRONMENT_SLUG || $CI_ENVIRONMENT_ID || $CI_JOB_TOKEN || $CI_JOB_ID'}]`: {"main": false},
	} {
		for branch, selected := range want {
			f.file(t, branch, "deploy: {script: [echo ran], "+text+"}")
			_, err := Run(t.Context(), f.server, f.job(branch))
			if errors.Is(err, ErrNotInPipeline) == selected || err != nil && !errors.Is(err, ErrNotInPipeline) {
				t.Errorf("%s on %s: %v, want it in the pipeline: %v", text, branch, err, selected)
			}
		}
	}
}

// TestRealFiles: what people write beside the script, and what it does.
func TestRealFiles(t *testing.T) {
	f := newFixture(t)
	for text, want := range map[string]string{
		// extends: hashes are merged, lists replaced, the last parent and the job win.
		`{.a: {variables: {A: a, B: a}, script: [echo a]}, .b: {extends: .a, variables: {B: b, C: b}}, deploy: {extends: .b, variables: {C: job}, script: ['echo $A$B$C']}}`:                                          "abjob",
		`{.a: {script: [echo a], environment: {name: one}}, .b: {script: [echo b], environment: {action: prepare}}, deploy: {extends: [.a, .b], after_script: ['echo $CI_ENVIRONMENT_NAME $CI_ENVIRONMENT_ACTION']}}`: "b\nRunning after_script\none prepare",
		`{.a: {rules: [{when: never}]}, deploy: {extends: .a, rules: null, script: [echo ran]}}`:                                                                                                                      "ran",
		// when
		`deploy: {when: manual, script: ['echo $CI_JOB_MANUAL']}`:                                                 "true",
		`deploy: {when: delayed, start_in: 30 minutes, script: ['echo $CI_JOB_MANUAL']}`:                          "true",
		`deploy: {when: always, script: ['echo [$CI_JOB_MANUAL]']}`:                                               "[]",
		`deploy: {when: on_failure, script: [echo ran]}`:                                                          "not started",
		`deploy: {when: manual, rules: [{if: $CI_COMMIT_BRANCH}], script: ['echo $CI_JOB_MANUAL']}`:               "true",
		`deploy: {rules: [{when: manual, allow_failure: true}], script: ['echo $CI_JOB_MANUAL']}`:                 "true",
		`deploy: {rules: [[{if: $NOPE}], [[{when: delayed, start_in: 1 day}]]], script: ['echo $CI_JOB_MANUAL']}`: "true",
		`deploy: {rules: [{when: on_failure}], script: [echo ran]}`:                                               "not started",
		// needs, dependencies, stages
		`{build: {stage: build, script: [x], artifacts: {paths: [y]}}, deploy: {stage: deploy, needs: [build], dependencies: [build], script: [echo ran]}}`:        "ran",
		`{build: {stage: build, script: [x]}, deploy: {stage: deploy, dependencies: [], script: [echo ran]}}`:                                                      "ran",
		`{build: {script: [x], only: [tags]}, deploy: {needs: [{job: build, optional: true, artifacts: false}, {job: gone, optional: true}], script: [echo ran]}}`: "ran",
		`{stages: [one, two], a: {stage: one, script: [x]}, deploy: {stage: two, needs: [a], script: ['echo $CI_JOB_STAGE']}}`:                                     "two",
		`deploy: {stage: .post, needs: [], script: ['echo $CI_JOB_STAGE']}`:                                                                                        ".post",
		// inherit
		`{variables: {A: a, B: b}, before_script: [echo before], deploy: {inherit: {variables: [B], default: false}, script: ['echo [$A][$B]']}}`:              "[][b]",
		`{variables: {A: a}, default: {before_script: [echo before]}, deploy: {inherit: {variables: false, default: [before_script]}, script: ['echo [$A]']}}`: "before\n[]",
		// only and except
		`deploy: {only: {refs: [main@acme/app], variables: [$CI_COMMIT_BRANCH]}, script: [echo ran]}`: "ran",
		`deploy: {only: [main@acme/other], script: [echo ran]}`:                                       "not in pipeline",
		`deploy: {only: {refs: [main], variables: [$NOPE]}, script: [echo ran]}`:                      "not in pipeline",
		`deploy: {only: [/^MA/i], script: [echo ran]}`:                                                "ran",
		`deploy: {except: {refs: [tags], variables: [$NOPE]}, script: [echo ran]}`:                    "ran",
		`deploy: {only: [pushes], script: [echo ran]}`:                                                "ran",
		// the rest that has no influence
		`deploy: {environment: {name: x, kubernetes: {agent: "a/b:c", namespace: d, dashboard: {namespace: e}}, on_stop: s, auto_stop_in: 1 day}, cache: {}, retry: 2, services: [x], script: [echo ran]}`: "ran",
	} {
		f.file(t, "main", text)
		r, err := Run(t.Context(), f.server, f.job("main"))
		got := output(r)
		switch {
		case errors.Is(err, ErrNotInPipeline):
			got = "not in pipeline"
		case errors.Is(err, ErrNotStarted):
			got = "not started"
		case err != nil:
			t.Errorf("%s: %v", text, err)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	f.file(t, "main", "deploy: {when: manual, script: [x]}")
	job := f.job("main")
	job.TriggeredBy = 0
	if _, err := Run(t.Context(), f.server, job); !errors.Is(err, ErrNotStarted) {
		t.Errorf("a manual job that nobody starts: %v", err)
	}
}

// TestExtendsDepth: ten levels above the job are followed, as in GitLab.
func TestExtendsDepth(t *testing.T) {
	chain := func(n int) string {
		text := "deploy: {extends: .a0, script: [x]}\n"
		for i := range n {
			text += fmt.Sprintf(".a%d: {extends: .a%d}\n", i, i+1)
		}
		return text + fmt.Sprintf(".a%d: {variables: {A: a}}\n", n)
	}
	if c, err := parseConfig(chain(10), "deploy"); err != nil || len(c.variables) != 1 {
		t.Errorf("ten: %v", err)
	}
	if _, err := parseConfig(chain(11), "deploy"); err == nil || !strings.Contains(err.Error(), "nesting too deep in `extends`") {
		t.Errorf("eleven: %v", err)
	}
}

// TestIDTokensOfAnOldGitLab are a keyword that it does not know.
func TestIDTokensOfAnOldGitLab(t *testing.T) {
	f, err := parseFile("deploy: {script: [x], id_tokens: {A: {aud: a}}}", false)
	if err == nil {
		_, err = f.job("deploy")
	}
	if err == nil || !strings.Contains(err.Error(), "unknown keys: id_tokens") {
		t.Error(err)
	}
}

func TestEnvironmentNameKnowsNoSecretOfTheJob(t *testing.T) {
	f := newFixture(t)
	f.variable(t, gitlabsim.Variable{Key: "SCOPED", Value: "inner", EnvironmentScope: "a-*"})
	f.file(t, "main", `deploy: {environment: "a-$SCOPED$CI_JOB_TOKEN-$CI_COMMIT_REF_NAME", script: ['echo "$CI_ENVIRONMENT_NAME $SCOPED"']}`)
	if got := output(run(t, f, f.job("main"))); got != "a--main inner" {
		t.Errorf("got %q", got)
	}
}

// However the log is cut into writes, it comes out the same, and no secret in it.
func TestMaskerAtEveryBoundary(t *testing.T) {
	cases := []struct {
		secrets []string
		text    string
		want    string
	}{
		{[]string{"hunter2hunter2"}, "a hunter2hunter2 b hunter2 c hunter2hunter2", "a [MASKED] b hunter2 c [MASKED]"},
		{[]string{"abc", "abcdef"}, "abcdef abc abcde", "[MASKED] [MASKED] [MASKED]de"},
		{[]string{"abXcd", "Xcdef"}, "-abXcdef-", "-[MASKED]-"},
		{[]string{"aab"}, "aaaab", "aa[MASKED]"},
		{[]string{"aaaa"}, "aaaaaa", "[MASKED]"},
		{[]string{""}, "nothing", "nothing"},
		{[]string{"end"}, "the en", "the en"},
	}
	for _, c := range cases {
		for i := 0; i <= len(c.text); i++ {
			for j := i; j <= len(c.text); j++ {
				m := newMasker(c.secrets)
				for _, part := range []string{c.text[:i], c.text[i:j], c.text[j:]} {
					if _, err := m.Write([]byte(part)); err != nil {
						t.Fatal(err)
					}
				}
				if got := m.String(); got != c.want {
					t.Fatalf("%v cut at %d and %d: %q, want %q", c.secrets, i, j, got, c.want)
				}
			}
		}
	}
	m := newMasker([]string{"secret"})
	for range 6 {
		_, _ = m.Write([]byte(strings.Repeat("x", 1<<20)))
	}
	if got := m.String(); len(got) > maxLog+100 || !strings.HasSuffix(got, "exceeded limit of 4194304 bytes.\n") {
		t.Errorf("a long log has %d bytes", len(got))
	}
}

func TestScopeRank(t *testing.T) {
	for in, want := range map[[2]string]int{
		{"*", ""}: 1, {"*", "x"}: 1, {"", "x"}: 1, {"x", ""}: 0, {"x", "x"}: 3, {"x", "X"}: 0, {"review/*", "review/a/b"}: 2, {"review/*", "review"}: 0,
		{"*-prod", "a-prod"}: 2, {"a.c", "abc"}: 0, {"a?c", "abc"}: 0, {"a_c", "abc"}: 0, {"ICC-*s", "ICC-K8s"}: 2,
	} {
		if got := scopeRank(in[0], in[1]); got != want {
			t.Errorf("scope %q, environment %q: %d, want %d", in[0], in[1], got, want)
		}
	}
}

func TestCommitDependsOnTheFiles(t *testing.T) {
	files := map[string]string{"a": "1"}
	changed := maps.Clone(files)
	changed["a"] = "2"
	if commit("main", files) == commit("main", changed) || commit("main", files) != commit("main", maps.Clone(files)) || len(commit("x", nil)) != 40 {
		t.Error("not a stand-in for a hash")
	}
}
