// Package runner runs one job of a .gitlab-ci.yml on this machine as a GitLab runner with the shell executor would: with
// exactly the variables that the simulated GitLab gives that job, and with secrets masked in its log.
//
// It promises GitLab's rules for who gets which variable: environment scopes, protected refs, precedence, expansion, files,
// ID tokens. It refuses keywords that it does not implement where ignoring them could change that. It does not promise
// isolation: the script runs as the user of this process. One job is run, as if those before it had succeeded and as if whoever
// triggered the pipeline had started it by hand where that is needed: there are no artifacts of other jobs (nor variables from
// them), no caches, images, services or retries.
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
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabversion"
)

// ErrNotInPipeline says that rules, only or except keep the job out of this pipeline.
var ErrNotInPipeline = errors.New("the job is not part of this pipeline")

// ErrNotStarted says that the job is part of the pipeline, and GitLab would not start it now.
var ErrNotStarted = errors.New("the job is not started")

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

// decision is what GitLab finds out about a job when it makes the pipeline.
type decision struct {
	selected bool
	when     string
	added    []variable // by the rule that decided
}

// decide evaluates rules, only and except with the variables that GitLab has then (Gitlab::Ci::Build::Context::Build): those
// of the job's environment are among them, also those of clusters; ID tokens and what the job has only when it runs are not.
func (p *pipeline) decide(server *gitlabsim.Server, conf *config) (decision, error) {
	simple, err := p.simple(server, conf)
	if err != nil {
		return decision{}, err
	}
	known := simple
	if e := conf.environment; e != nil {
		name, namespace, err := e.expand(simple)
		if err != nil {
			return decision{}, err
		}
		vars := []variable{fixed("CI_ENVIRONMENT_NAME", name), fixed("CI_ENVIRONMENT_ACTION", e.action)}
		tier := e.tier
		if i := slices.IndexFunc(p.project.Environments, func(x gitlabsim.Environment) bool { return x.Name == name }); i >= 0 {
			tier = cmp.Or(tier, p.project.Environments[i].Tier)
		}
		if tier != "" {
			vars = append(vars, fixed("CI_ENVIRONMENT_TIER", tier))
		}
		if e.url != "" {
			vars = append(vars, variable{key: "CI_ENVIRONMENT_URL", value: e.url})
		}
		if known, err = p.collect(server, conf, vars, name, namespace, ""); err != nil {
			return decision{}, err
		}
	}
	var d decision
	d.selected, d.when, d.added, err = conf.selects(pipelineFacts{
		ref: p.job.Ref, tag: p.job.Tag, source: p.job.PipelineSource, project: p.path, kubernetes: server.KubernetesActive(p.project.ID),
		lookup: func(key string) (string, bool) {
			if _, ok := known.byKey[key]; !ok {
				return "", false
			}
			value, err := known.value(key)
			return value, err == nil
		},
	})
	return d, err
}

// simple are the variables that do not depend on the environment: its name may use them.
func (p *pipeline) simple(server *gitlabsim.Server, conf *config) (*collection, error) {
	return p.collect(server, conf, nil, "", "", "")
}

// collect puts variables in the order of Gitlab::Ci::Variables::Builder: what comes later wins. token is the job's, "" before
// it has one.
func (p *pipeline) collect(server *gitlabsim.Server, conf *config, ofEnvironment []variable, environment, namespace, token string) (*collection, error) {
	job := p.context(conf, environment)
	job.KubernetesNamespace = namespace
	clusters, err := server.KubernetesVariables(job, token)
	if err != nil {
		return nil, fmt.Errorf("making the variables of clusters: %w", err)
	}
	c := &collection{}
	c.add(p.predefined(conf)...)
	c.add(ofEnvironment...)
	for _, v := range clusters {
		c.add(variable{key: v.Key, value: v.Value, raw: true, file: v.File, masked: v.Masked})
	}
	c.add(conf.variables...)
	c.add(projectVariables(p.project.Variables, environment, p.protected)...)
	return c, nil
}

// expand returns the name of the environment and its Kubernetes namespace.
func (e *environment) expand(simple *collection) (name, namespace string, err error) {
	if name, err = simple.expand(e.name); err != nil {
		return "", "", err
	}
	namespace, err = simple.expand(e.namespace)
	return name, namespace, err
}

// choose reads the file, and says whether the job is part of the pipeline and starts.
func (p *pipeline) choose(server *gitlabsim.Server) (*config, error) {
	file, err := parseFile(p.files[".gitlab-ci.yml"], server.Has(gitlabversion.IDTokens))
	if err != nil {
		return nil, err
	}
	conf, err := file.job(p.job.JobName)
	if err != nil {
		return nil, err
	}
	d, err := p.decide(server, conf)
	if err != nil {
		return nil, err
	}
	if !d.selected {
		return nil, ErrNotInPipeline
	}
	for _, n := range conf.needs {
		if err := p.needed(server, file, n); err != nil {
			return nil, err
		}
	}
	if d.when == "on_failure" {
		return nil, fmt.Errorf("%w: `when: on_failure`, and no job before it has failed", ErrNotStarted)
	}
	if d.when == "manual" && p.user == nil {
		return nil, fmt.Errorf("%w: `when: manual`, and nobody starts it", ErrNotStarted)
	}
	conf.when, conf.variables = d.when, append(conf.variables, d.added...)
	return conf, nil
}

// needed checks that a job which this one needs is part of the pipeline.
func (p *pipeline) needed(server *gitlabsim.Server, file *ciFile, n need) error {
	if _, there := file.keys[n.job]; n.optional && !there {
		return nil
	}
	conf, err := file.job(n.job)
	if err != nil {
		return err
	}
	d, err := p.decide(server, conf)
	if err != nil || d.selected || n.optional {
		return err
	}
	return fmt.Errorf("'%s' job needs '%s' job, but '%s' does not exist in the pipeline. This might be because of the only, except, or rules keywords."+
		" To need a job that sometimes does not exist in the pipeline, use needs:optional", p.job.JobName, n.job, n.job)
}

func (p *pipeline) run(ctx context.Context, server *gitlabsim.Server) (Result, error) {
	conf, err := p.choose(server)
	if err != nil {
		return Result{}, err
	}
	environmentName, namespace := "", ""
	var ofEnvironment []variable
	if conf.environment != nil {
		simple, err := p.simple(server, conf)
		if err != nil {
			return Result{}, err
		}
		if environmentName, namespace, err = conf.environment.expand(simple); err != nil {
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

	// What comes later wins. So a project variable replaces even an ID token.
	audiences, err := p.collect(server, conf, ofEnvironment, environmentName, namespace, token)
	if err != nil {
		return Result{}, err
	}
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
	for _, key := range audiences.keys() {
		all.add(audiences.byKey[key])
	}
	executor := &shell{jobID: p.jobID, files: p.files, env: p.job.Env, timeout: p.job.Timeout}
	return executor.run(ctx, conf, all, dir)
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
		fixed("CI_JOB_NAME", conf.name), fixed("CI_JOB_STAGE", conf.stage),
	}
	if conf.when == "manual" || conf.when == "delayed" {
		out = append(out, fixed("CI_JOB_MANUAL", "true"))
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
