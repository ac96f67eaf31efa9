package gitlabsim

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// kasPath is where GitLab's agent server takes requests for the Kubernetes API (https://docs.gitlab.com/user/clusters/agent/ci_cd_workflow/).
const kasPath = "/-/kubernetes-agent/k8s-proxy/"

// KAS says what the agents are connected to: all of them to one API server, as the owner of the client's credentials, who
// stands for the agent's own ServiceAccount and must be allowed to impersonate.
type KAS struct {
	URL    string // of kube-apiserver; "" = no agent is connected
	Client *http.Client
}

func (s *instance) kasMetadata() map[string]any {
	if s.feature().kas.URL == "" {
		return map[string]any{"enabled": false, "externalUrl": nil, "externalK8sProxyUrl": nil, "version": nil}
	}
	return map[string]any{
		"enabled": true, "externalUrl": strings.Replace(s.url, "https://", "wss://", 1) + "/-/kubernetes-agent/",
		"externalK8sProxyUrl": s.url + kasPath, "version": "19.1.0",
	}
}

// agentEntry is an item of ci_access.projects or ci_access.groups.
type agentEntry struct {
	ID               string                    `json:"id"`
	DefaultNamespace string                    `json:"default_namespace"`
	Environments     []string                  `json:"environments"`
	ProtectedOnly    bool                      `json:"protected_branches_only"`
	AccessAs         map[string]map[string]any `json:"access_as"`
}

type allowedAgent struct {
	agent         Agent
	configProject int64
	configPath    string
	entry         agentEntry
}

// allowedAgents are the agents that a job may use, by ascending id. Of several entries for one agent the project's own
// wins, then the implicit right of the project that holds the configuration, then that of the nearest group. An access_as
// that the licence does not cover makes the entry as if it were not there: GitLab never falls back to the agent's rights.
func (v *View) allowedAgents(job JobContext, premium bool) []allowedAgent {
	p := v.Project(job.ProjectID)
	if p == nil {
		return nil
	}
	path := v.ProjectPath(p)
	var above []string // full paths of the groups, nearest first
	if g := v.GroupOf(p); g != nil {
		for _, a := range v.SelfAndAncestors(g) {
			above = append(above, v.FullPath(a))
		}
	}
	root := func(path string) string { r, _, _ := strings.Cut(path, "/"); return strings.ToLower(r) }
	var out []allowedAgent
	for _, holder := range v.Projects() {
		for _, a := range holder.Agents {
			configPath := v.ProjectPath(holder)
			entry, ok := agentEntry{}, holder.ID == p.ID
			if root(configPath) == root(path) {
				if e, found := agentConfig(holder, a).entryFor(path, above, ok, premium); found {
					entry, ok = e, true
				}
			}
			if ok && entry.covers(job) {
				out = append(out, allowedAgent{agent: a, configProject: holder.ID, configPath: configPath, entry: entry})
			}
		}
	}
	slices.SortFunc(out, func(a, b allowedAgent) int { return int(a.agent.ID - b.agent.ID) })
	return out
}

type agentFile struct {
	CIAccess struct {
		Projects []agentEntry `json:"projects"`
		Groups   []agentEntry `json:"groups"`
	} `json:"ci_access"`
}

// agentConfig reads the configuration on the default branch; what can't be read gives no right.
func agentConfig(holder *Project, a Agent) agentFile {
	var f agentFile
	text := holder.Files[holder.DefaultBranch][".gitlab/agents/"+a.Name+"/config.yaml"]
	if err := yaml.Unmarshal([]byte(text), &f); err != nil {
		return agentFile{}
	}
	return f
}

func (f agentFile) entryFor(path string, above []string, implicit, premium bool) (agentEntry, bool) {
	find := func(list []agentEntry, path string) (agentEntry, bool) {
		i := slices.IndexFunc(list, func(e agentEntry) bool { return strings.EqualFold(e.ID, path) && e.available(premium) })
		if i < 0 {
			return agentEntry{}, false
		}
		return list[i], true
	}
	if e, ok := find(f.CIAccess.Projects, path); ok {
		return e, true
	}
	if implicit {
		return agentEntry{}, true
	}
	for _, g := range above {
		if e, ok := find(f.CIAccess.Groups, g); ok {
			return e, true
		}
	}
	return agentEntry{}, false
}

// available is with_available_ci_access_fields: below Premium only the agent's own identity.
func (e agentEntry) available(premium bool) bool {
	_, agent := e.AccessAs["agent"]
	return len(e.AccessAs) == 0 || agent || premium
}

func (e agentEntry) covers(job JobContext) bool {
	if e.ProtectedOnly && !job.RefProtected {
		return false
	}
	return len(e.Environments) == 0 || job.Environment != "" &&
		slices.ContainsFunc(e.Environments, func(scope string) bool { return scopeRank(scope, job.Environment) >= 0 })
}

// kasProxy forwards a request of a running CI job to the API server (`ci:<agent id>:<CI_JOB_TOKEN>`).
func (s *kubernetes) kasProxy(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int, text string) {
		writeJSON(w, status, map[string]any{
			"kind": "Status", "apiVersion": "v1", "metadata": map[string]any{}, "status": "Failure", "code": status,
			"reason": strings.ReplaceAll(http.StatusText(status), " ", ""), "message": "GitLab Agent Server: " + text,
		})
	}
	scheme, credentials, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	parts := strings.SplitN(credentials, ":", 3)
	if !strings.EqualFold(scheme, "Bearer") || len(parts) != 3 || parts[0] != "ci" {
		refuse(http.StatusUnauthorized, "Unauthorized: expecting token type ci")
		return
	}
	agentID, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil {
		refuse(http.StatusUnauthorized, "Unauthorized: invalid agent ID")
		return
	}
	job, user := s.access.runningJob(parts[2])
	if job == nil {
		refuse(http.StatusUnauthorized, "Unauthorized: invalid job token")
		return
	}
	var allowed []allowedAgent
	var identity http.Header
	s.world.View(func(v *View) {
		allowed = slices.DeleteFunc(v.allowedAgents(*job, s.premium()), func(a allowedAgent) bool { return a.agent.ID != agentID })
		if len(allowed) == 1 {
			if _, asJob := allowed[0].entry.AccessAs["ci_job"]; asJob {
				identity = v.jobIdentity(*job, user, allowed[0])
			}
		}
	})
	if len(allowed) != 1 {
		refuse(http.StatusForbidden, "Forbidden: agentId is not allowed")
		return
	}
	if identity == nil && len(allowed[0].entry.AccessAs) > 0 && allowed[0].entry.AccessAs["agent"] == nil {
		refuse(http.StatusNotImplemented, "only access_as agent and ci_job are simulated")
		return
	}
	kas := s.feature().kas
	target, err := url.Parse(kas.URL)
	if err != nil || kas.URL == "" {
		refuse(http.StatusServiceUnavailable, "no agent is connected")
		return
	}
	if identity != nil {
		for key := range r.Header {
			if strings.HasPrefix(key, "Impersonate-") {
				refuse(http.StatusBadRequest, "Nested impersonation is not supported - agent is already configured to impersonate an identity")
				return
			}
		}
	}
	transport := http.DefaultTransport
	if kas.Client != nil && kas.Client.Transport != nil {
		transport = kas.Client.Transport
	}
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Path = "/" + strings.TrimPrefix(p.In.URL.Path, kasPath)
			p.Out.URL.RawPath = ""
			p.SetURL(target)
			p.Out.Header.Del("Authorization")
			maps.Copy(p.Out.Header, identity)
		},
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) {
			refuse(http.StatusBadGateway, "the API server can't be reached: "+err.Error())
		},
	}
	proxy.ServeHTTP(w, r)
}

// jobIdentity is whom the API server sees with access_as ci_job (https://docs.gitlab.com/user/clusters/agent/ci_cd_workflow/).
func (v *View) jobIdentity(job JobContext, user string, a allowedAgent) http.Header {
	p := v.Project(job.ProjectID)
	slug, tier := "", ""
	for _, e := range p.Environments {
		if e.Name == job.Environment {
			slug, tier = e.Slug, e.Tier
		}
	}
	if job.DeploymentTier != "" && slug != "" {
		tier = job.DeploymentTier
	}
	groups := []string{"gitlab:ci_job"}
	if g := v.GroupOf(p); g != nil {
		all := v.SelfAndAncestors(g)
		for i := range all {
			id := all[len(all)-1-i].ID // from the top
			groups = append(groups, fmt.Sprintf("gitlab:group:%d", id))
			if slug != "" {
				groups = append(groups, fmt.Sprintf("gitlab:group_env_tier:%d:%s", id, tier))
			}
		}
	}
	groups = append(groups, fmt.Sprintf("gitlab:project:%d", p.ID))
	h := http.Header{}
	extra := func(key, value string) {
		h["Impersonate-Extra-"+url.PathEscape("agent.gitlab.com/"+key)] = []string{value}
	}
	if slug != "" {
		groups = append(groups, fmt.Sprintf("gitlab:project_env:%d:%s", p.ID, slug), fmt.Sprintf("gitlab:project_env_tier:%d:%s", p.ID, tier))
		extra("environment_slug", slug)
		extra("environment_tier", tier)
	}
	h["Impersonate-User"], h["Impersonate-Group"] = []string{fmt.Sprintf("gitlab:ci_job:%d", job.JobID)}, groups
	extra("id", strconv.FormatInt(a.agent.ID, 10))
	extra("config_project_id", strconv.FormatInt(a.configProject, 10))
	extra("project_id", strconv.FormatInt(p.ID, 10))
	extra("ci_pipeline_id", strconv.FormatInt(job.PipelineID, 10))
	extra("ci_job_id", strconv.FormatInt(job.JobID, 10))
	extra("username", user)
	return h
}
