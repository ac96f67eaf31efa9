// Package runner runs one job of a .gitlab-ci.yml on this machine as a GitLab runner with the shell executor would: with
// exactly the variables that the simulated GitLab gives that job, and with secrets masked in its log.
//
// It promises GitLab's rules for who gets which variable: environment scopes, protected refs, precedence, expansion, files,
// ID tokens. It refuses keywords that it does not implement where ignoring them could change that. It does not promise
// isolation: the script runs as the user of this process. There are no stages, artifacts, caches, images or retries.
package runner

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// ErrNotInPipeline says that rules, only or except keep the job out of this pipeline.
var ErrNotInPipeline = errors.New("the job is not part of this pipeline")

const mergeRequest = "merge_request_event"

// Job says which job to run, and why.
type Job struct {
	ProjectID int64  // where the job runs: its variables are those of this project
	Ref       string // branch or tag; its files, .gitlab-ci.yml among them, are what is checked out
	JobName   string
	// TriggeredBy is the user who started the pipeline; 0 = none.
	TriggeredBy int64
	// Tag says that Ref is a tag. The files are those stored under its name, else those of the default branch.
	Tag bool
	// Env is the environment of the machine (PATH, HOME …). CI/CD variables win over it.
	Env []string
	// Timeout ends the job; default 1 h, as in GitLab.
	Timeout time.Duration
	// SourceProjectID is the fork whose branch Ref is run in ProjectID by a merge request pipeline.
	SourceProjectID int64
	// PipelineSource is push (default), web, schedule, api, merge_request_event …
	PipelineSource string
}

// Result is what is left of a job.
type Result struct {
	JobID     int64
	Status    string // "success" or "failed"
	ExitCode  int    // of the script; -1 if it was killed
	Log       string
	Variables []string // names of all CI/CD variables that the job had, sorted
}

// pipeline is everything about the job that is read from the model, at one point in time.
type pipeline struct {
	job       Job
	project   gitlabsim.Project
	path      string // full path of the project
	namespace string
	title     string // name of the namespace
	user      *gitlabsim.User
	files     map[string]string
	protected bool
	sha       string
	jobID, id int64
	serverURL string
	ca        []byte
}

// Run runs the job to its end. A job that fails is a Result, not an error; an error says that GitLab would not have started
// it, that the file is beyond the simulator, or that ctx ended (then with the Result so far). When Run returns, no process
// of the job is left and its files are gone.
func Run(ctx context.Context, server *gitlabsim.Server, job Job) (Result, error) {
	p, err := load(server, job)
	if err != nil {
		return Result{}, fmt.Errorf("starting job %q of project %d: %w", job.JobName, job.ProjectID, err)
	}
	result, err := p.run(ctx, server)
	if err != nil {
		return result, fmt.Errorf("running job %q of project %d: %w", job.JobName, job.ProjectID, err)
	}
	return result, nil
}

func load(server *gitlabsim.Server, job Job) (*pipeline, error) {
	job.PipelineSource, job.Timeout = cmp.Or(job.PipelineSource, "push"), cmp.Or(job.Timeout, time.Hour)
	p := &pipeline{job: job, serverURL: server.URL(), ca: server.CA(), jobID: 1_000_000 + rand.Int64N(1<<31), id: 1_000_000 + rand.Int64N(1<<31)}
	var err error
	server.World().View(func(v *gitlabsim.View) { err = p.read(v) })
	if err != nil {
		return nil, err
	}
	return p, nil
}

// read copies what the job needs and applies GitLab's rules for who may start a pipeline (Ci::CreatePipelineService).
func (p *pipeline) read(v *gitlabsim.View) error {
	project := v.Project(p.job.ProjectID)
	if project == nil {
		return errors.New("there is no such project")
	}
	if v.ProjectArchived(project.ID) {
		return errors.New("the project is archived: no pipelines")
	}
	source := project
	fork := p.job.SourceProjectID != 0 && p.job.SourceProjectID != project.ID
	if fork {
		if source = v.Project(p.job.SourceProjectID); source == nil {
			return fmt.Errorf("there is no source project %d", p.job.SourceProjectID)
		}
		if p.job.PipelineSource != mergeRequest {
			return fmt.Errorf("only a merge request pipeline (%s) runs the code of another project", mergeRequest)
		}
	}
	p.project = *project
	p.project.Variables, p.project.Environments = slices.Clone(project.Variables), slices.Clone(project.Environments)
	p.project.Files = nil
	p.path, p.namespace = v.ProjectPath(project), v.NamespacePath(project)
	p.title = p.namespace
	if g := v.GroupOf(project); g != nil {
		p.title = g.Name
	}
	files := source.Files[p.job.Ref]
	if files == nil && p.job.Tag {
		files = source.Files[source.DefaultBranch]
	}
	if files == nil {
		return fmt.Errorf("there is no ref %q with files in project %d", p.job.Ref, source.ID)
	}
	p.files = maps.Clone(files)

	isProtected := func(branch string) bool {
		return slices.ContainsFunc(project.ProtectedBranches, func(pattern string) bool { return glob(pattern, branch) })
	}
	switch {
	case fork || p.job.Tag: // the model has no protected tags
	case p.job.PipelineSource == mergeRequest: // both ends must be protected; the target is the default branch here
		p.protected = isProtected(p.job.Ref) && isProtected(project.DefaultBranch)
	default:
		p.protected = isProtected(p.job.Ref)
	}
	p.sha = commit(p.job.Ref, p.files)

	if p.job.TriggeredBy == 0 {
		return nil
	}
	user := v.User(p.job.TriggeredBy)
	if user == nil {
		return fmt.Errorf("there is no user %d", p.job.TriggeredBy)
	}
	copied := *user
	p.user = &copied
	level := v.ProjectLevel(project.ID, user.ID)
	switch {
	case user.State != gitlabsim.StateActive:
		return fmt.Errorf("user %d is %s and can't start pipelines", user.ID, user.State)
	case user.Admin:
	case level < gitlabsim.Developer:
		return fmt.Errorf("user %d has access level %d in the project: Insufficient permissions to create a new pipeline", user.ID, level)
	case p.protected && level < gitlabsim.Maintainer:
		// GitLab's default for protected branches: Maintainers push and merge.
		return fmt.Errorf("user %d has access level %d and branch %q is protected: You do not have sufficient permission to run a pipeline on '%s'", user.ID, level, p.job.Ref, p.job.Ref)
	}
	return nil
}

// commit is a stand-in for the hash of a commit: it changes with the files.
func commit(ref string, files map[string]string) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q", ref)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(h, "%q%q", name, files[name])
	}
	return hex.EncodeToString(h.Sum(nil))[:40]
}

func (p *pipeline) run(ctx context.Context, server *gitlabsim.Server) (Result, error) {
	conf, err := parseConfig(p.files[".gitlab-ci.yml"], p.job.JobName)
	if err != nil {
		return Result{}, err
	}
	// What is known before the job has an environment: only variables of all environments.
	early := &collection{}
	early.add(p.predefined(conf)...)
	early.add(conf.variables...)
	early.add(projectVariables(p.project.Variables, "", p.protected)...)
	selected, extra, err := conf.selects(p.job.Ref, p.job.Tag, p.job.PipelineSource, func(key string) (string, bool) {
		if _, ok := early.byKey[key]; !ok {
			return "", false
		}
		value, err := early.value(key)
		return value, err == nil
	})
	if err != nil {
		return Result{}, err
	}
	if !selected {
		return Result{}, ErrNotInPipeline
	}
	conf.variables = append(conf.variables, extra...)
	early.add(extra...)
	early.add(projectVariables(p.project.Variables, "", p.protected)...)

	environmentName := ""
	var ofEnvironment []variable
	if conf.environment != nil {
		if environmentName, err = early.expand(conf.environment.name); err != nil {
			return Result{}, err
		}
		env, err := server.World().EnsureEnvironment(p.project.ID, environmentName)
		if err != nil {
			return Result{}, fmt.Errorf("creating environment %q: %w", environmentName, err)
		}
		conf.environment.tier = cmp.Or(conf.environment.tier, env.Tier)
		ofEnvironment = []variable{
			fixed("CI_ENVIRONMENT_ID", id(env.ID)), fixed("CI_ENVIRONMENT_NAME", env.Name), fixed("CI_ENVIRONMENT_SLUG", env.Slug),
			fixed("CI_ENVIRONMENT_TIER", conf.environment.tier), fixed("CI_ENVIRONMENT_ACTION", conf.environment.action),
		}
		if conf.environment.url != "" {
			ofEnvironment = append(ofEnvironment, variable{key: "CI_ENVIRONMENT_URL", value: conf.environment.url})
		}
	}

	dir, err := os.MkdirTemp("", "gitlabsim-runner-") // mode 0700
	if err != nil {
		return Result{}, fmt.Errorf("making the folder of the job: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return Result{}, fmt.Errorf("making the folder of the job: %w", err)
	}

	jobContext := p.context(conf, environmentName)
	token := server.JobToken(jobContext)
	defer server.RevokeToken(token)

	// The order is that of Ci::Build#variables: what comes later wins. So a project variable replaces even an ID token.
	scoped := []variable{}
	scoped = append(scoped, p.predefined(conf)...)
	scoped = append(scoped, ofEnvironment...)
	clusters, err := server.KubernetesVariables(jobContext, token)
	if err != nil {
		return Result{}, fmt.Errorf("making the variables of clusters: %w", err)
	}
	for _, v := range clusters {
		scoped = append(scoped, variable{key: v.Key, value: v.Value, raw: true, file: v.File, masked: v.Masked})
	}
	scoped = append(scoped, conf.variables...)
	scoped = append(scoped, projectVariables(p.project.Variables, environmentName, p.protected)...)
	audiences := &collection{}
	audiences.add(scoped...)
	all := &collection{}
	all.add(p.persisted(dir, token)...)
	for key, aud := range conf.idTokens {
		expanded := make([]string, len(aud))
		for i, a := range aud {
			if expanded[i], err = audiences.expand(a); err != nil {
				return Result{}, err
			}
		}
		value, err := server.MintCIIDToken(jobContext, expanded)
		if err != nil {
			return Result{}, fmt.Errorf("making ID token %s: %w", key, err)
		}
		all.add(variable{key: key, value: value, raw: true, masked: true})
	}
	all.add(scoped...)
	return p.execute(ctx, conf, all, dir)
}

func (p *pipeline) context(conf *config, environmentName string) gitlabsim.JobContext {
	c := gitlabsim.JobContext{
		ProjectID: p.project.ID, SourceProjectID: p.job.SourceProjectID, JobID: p.jobID, PipelineID: p.id, UserID: p.job.TriggeredBy,
		Ref: p.job.Ref, RefType: "branch", RefProtected: p.protected, PipelineSource: p.job.PipelineSource, SHA: p.sha, RunnerID: 1,
		Timeout: p.job.Timeout, Environment: environmentName,
	}
	if p.job.Tag {
		c.RefType = "tag"
	}
	if conf.environment != nil {
		c.DeploymentTier, c.EnvironmentAction = conf.environment.tier, conf.environment.action
	}
	return c
}

func id(n int64) string { return strconv.FormatInt(n, 10) }

// fixed is a predefined variable. They are never expanded here: a branch may be called `$KUBE_TOKEN`.
func fixed(key, value string) variable { return variable{key: key, value: value, raw: true} }

// predefined are the variables that are known when the pipeline is made (doc/ci/variables/predefined_variables.md).
func (p *pipeline) predefined(conf *config) []variable {
	base, err := url.Parse(p.serverURL)
	if err != nil {
		base = &url.URL{}
	}
	root, _, _ := strings.Cut(p.namespace, "/")
	out := []variable{
		fixed("CI", "true"), fixed("GITLAB_CI", "true"), fixed("CI_SERVER", "yes"), fixed("CI_SERVER_NAME", "GitLab"),
		fixed("CI_SERVER_URL", p.serverURL), fixed("CI_SERVER_HOST", base.Hostname()), fixed("CI_SERVER_PORT", base.Port()),
		fixed("CI_SERVER_FQDN", base.Host), fixed("CI_SERVER_PROTOCOL", base.Scheme), fixed("CI_API_V4_URL", p.serverURL+"/api/v4"),
		fixed("CI_API_GRAPHQL_URL", p.serverURL+"/api/graphql"), fixed("CI_CONFIG_PATH", ".gitlab-ci.yml"),
		fixed("CI_PROJECT_ID", id(p.project.ID)), fixed("CI_PROJECT_NAME", p.project.Path), fixed("CI_PROJECT_TITLE", p.project.Name),
		fixed("CI_PROJECT_PATH", p.path), fixed("CI_PROJECT_PATH_SLUG", slug(p.path)), fixed("CI_PROJECT_NAMESPACE", p.namespace),
		fixed("CI_PROJECT_NAMESPACE_ID", id(p.project.NamespaceID)), fixed("CI_PROJECT_ROOT_NAMESPACE", root),
		fixed("CI_PROJECT_URL", p.serverURL+"/"+p.path), fixed("CI_PROJECT_VISIBILITY", p.project.Visibility),
		fixed("CI_DEFAULT_BRANCH", p.project.DefaultBranch), fixed("CI_PIPELINE_SOURCE", p.job.PipelineSource),
		fixed("CI_COMMIT_SHA", p.sha), fixed("CI_COMMIT_SHORT_SHA", p.sha[:8]), fixed("CI_COMMIT_REF_NAME", p.job.Ref),
		fixed("CI_COMMIT_REF_SLUG", slug(p.job.Ref)), fixed("CI_COMMIT_REF_PROTECTED", strconv.FormatBool(p.protected)),
		fixed("CI_JOB_NAME", p.job.JobName), fixed("CI_JOB_STAGE", conf.stage),
	}
	switch {
	case p.job.Tag:
		out = append(out, fixed("CI_COMMIT_TAG", p.job.Ref))
	case p.job.PipelineSource == mergeRequest:
		out = append(out, fixed("CI_MERGE_REQUEST_PROJECT_ID", id(p.project.ID)), fixed("CI_MERGE_REQUEST_PROJECT_PATH", p.path),
			fixed("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", id(cmp.Or(p.job.SourceProjectID, p.project.ID))),
			fixed("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", p.job.Ref), fixed("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", p.project.DefaultBranch))
	default:
		out = append(out, fixed("CI_COMMIT_BRANCH", p.job.Ref))
	}
	if p.user != nil {
		out = append(out, fixed("GITLAB_USER_ID", id(p.user.ID)), fixed("GITLAB_USER_LOGIN", p.user.Username),
			fixed("GITLAB_USER_NAME", p.user.Name), fixed("GITLAB_USER_EMAIL", p.user.Email))
	}
	return out
}

// persisted are the variables that exist only once the job does; names of environments can't use them.
func (p *pipeline) persisted(dir, token string) []variable {
	return []variable{
		fixed("CI_PIPELINE_ID", id(p.id)), fixed("CI_PIPELINE_URL", p.serverURL+"/"+p.path+"/-/pipelines/"+id(p.id)),
		fixed("CI_JOB_ID", id(p.jobID)), fixed("CI_JOB_URL", p.serverURL+"/"+p.path+"/-/jobs/"+id(p.jobID)),
		{key: "CI_JOB_TOKEN", value: token, raw: true, masked: true},
		fixed("CI_PROJECT_DIR", filepath.Join(dir, buildFolder)), fixed("CI_RUNNER_ID", "1"),
		{key: "CI_SERVER_TLS_CA_FILE", value: string(p.ca), raw: true, file: true},
	}
}
