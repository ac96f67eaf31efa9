package gitlabsim

import (
	"cmp"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// features are what an administrator of the simulated GitLab can change while it runs; Server.mu guards them.
type features struct {
	certificate, local, expired bool
	plan                        string
	kas                         KAS
}

// SetCertificateClusters turns the feature flag certificate_based_clusters on or off.
func (s *Server) SetCertificateClusters(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.features.certificate = on
}

// SetLicense replaces the licence: premium, ultimate, an older plan, or "" for none.
func (s *Server) SetLicense(plan string, expired bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.features.plan, s.features.expired = plan, expired
}

// SetKAS connects the agents to another API server.
func (s *Server) SetKAS(k KAS) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.features.kas = k
}

func (s *Server) feature() features {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.features
}

func (s *Server) premium() bool {
	f := s.feature()
	return strings.HasSuffix(s.opts.Version, "-ee") && !f.expired && (f.plan == "premium" || f.plan == "ultimate")
}

// license is GET /license, which exists in the Enterprise Edition only; without a licence its body is null.
func (c *call) license() error {
	if err := c.requireUser(); err != nil {
		return err
	}
	if !c.admin() {
		return message(http.StatusForbidden, "403 Forbidden")
	}
	f := c.s.feature()
	if f.plan == "" {
		return c.answer(http.StatusOK, nil)
	}
	return c.answer(http.StatusOK, map[string]any{
		"id": 2, "plan": f.plan, "created_at": "2026-01-27T23:21:58.674Z", "starts_at": "2026-01-27", "expires_at": "2027-01-27",
		"historical_max": 300, "maximum_user_count": 300, "expired": f.expired, "overage": 0, "user_limit": 1000, "active_users": 300,
		"licensee": map[string]any{"Name": "John Doe1", "Email": "johndoe1@example.com", "Company": "Example"}, "add_ons": map[string]any{},
	})
}

// scopeRank says how well an environment scope matches a name: exactly 2, by a pattern 1, as every name 0, not at all -1.
func scopeRank(scope, name string) int {
	switch scope {
	case "*":
		return 0
	case name:
		return 2
	}
	parts := strings.Split(scope, "*")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	if ok, err := regexp.MatchString(`\A`+strings.Join(parts, ".*")+`\z`, name); err == nil && ok {
		return 1
	}
	return -1
}

// JobVariable is a variable that GitLab itself gives to a job.
type JobVariable struct {
	Key, Value   string
	File, Masked bool
}

// KubernetesActive is `only: kubernetes: active`: whether the project has a cluster integration for all environments, because
// GitLab asks before it knows the job's.
func (s *Server) KubernetesActive(projectID int64) (active bool) {
	if !s.feature().certificate {
		return false
	}
	s.world.View(func(v *View) {
		p := v.Project(projectID)
		active = p != nil && slices.ContainsFunc(p.Clusters, func(x Cluster) bool { return x.Enabled && x.EnvironmentScope == "*" })
	})
	return active
}

// DeploymentVariables are those of the cluster integration for a job with this environment; none without environment, and
// none while the feature is off. namespace, if given, is what the job asks for instead of the integration's.
func (s *Server) DeploymentVariables(projectID int64, environment, namespace string) (out []JobVariable, err error) {
	if environment == "" || !s.feature().certificate {
		return nil, nil
	}
	s.world.View(func(v *View) {
		p := v.Project(projectID)
		if p == nil {
			err = notFound("Project")
			return
		}
		best := -1
		var cl Cluster
		for _, x := range p.Clusters {
			if r := scopeRank(x.EnvironmentScope, environment); x.Enabled && r > best {
				best, cl = r, x
			}
		}
		if best >= 0 {
			out, err = cl.variables(p, environment, namespace)
		}
	})
	return out, err
}

// variables are those of Clusters::Platforms::Kubernetes. Of a managed cluster GitLab gives token and namespace only after it
// has made a ServiceAccount, which is not simulated.
func (cl Cluster) variables(p *Project, environment, asked string) ([]JobVariable, error) {
	out := []JobVariable{{Key: "KUBE_URL", Value: cl.APIURL}}
	if cl.CACert != "" {
		out = append(out, JobVariable{Key: "KUBE_CA_PEM", Value: cl.CACert}, JobVariable{Key: "KUBE_CA_PEM_FILE", Value: cl.CACert, File: true})
	}
	if cl.Managed {
		return out, nil
	}
	namespace := cmp.Or(asked, cl.Namespace)
	if namespace == "" {
		namespace = strings.ToLower(fmt.Sprintf("%s-%d", p.Path, p.ID))
		if cl.PerEnvironment {
			namespace += "-" + slugOf(environment)
		}
	}
	k := kubeconfig{current: "gitlab-deploy"}
	k.add("gitlab-deploy", cl.APIURL, cl.CACert, "gitlab-deploy", cl.Token, "gitlab-deploy", namespace)
	text, err := k.yaml()
	return append(out, JobVariable{Key: "KUBE_TOKEN", Value: cl.Token, Masked: true}, JobVariable{Key: "KUBE_NAMESPACE", Value: namespace},
		JobVariable{Key: "KUBECONFIG", Value: text, File: true}), err
}

// kubeconfig is GitLab's template of a kubeconfig.
type kubeconfig struct {
	current                   string
	clusters, users, contexts []map[string]any
}

func (k *kubeconfig) add(cluster, server, ca, user, token, context, namespace string) {
	if !slices.ContainsFunc(k.clusters, func(m map[string]any) bool { return m["name"] == cluster }) {
		c := map[string]any{"server": server}
		if ca != "" {
			c["certificate-authority-data"] = []byte(ca)
		}
		k.clusters = append(k.clusters, map[string]any{"name": cluster, "cluster": c})
	}
	k.users = append(k.users, map[string]any{"name": user, "user": map[string]any{"token": token}})
	x := map[string]any{"cluster": cluster, "user": user}
	if namespace != "" {
		x["namespace"] = namespace
	}
	k.contexts = append(k.contexts, map[string]any{"name": context, "context": x})
}

func (k *kubeconfig) yaml() (string, error) {
	out := map[string]any{"apiVersion": "v1", "kind": "Config", "clusters": k.clusters, "users": k.users, "contexts": k.contexts}
	if k.current != "" {
		out["current-context"] = k.current
	}
	b, err := yaml.Marshal(out)
	return string(b), err
}

// The REST API of cluster integrations.

var clusterNamespace = regexp.MustCompile(`\A[a-z0-9]([-a-z0-9]*[a-z0-9])?\z`)

// check validates as Clusters::Cluster and its platform do.
func (cl Cluster) check(p *Project, local bool) error {
	problems := map[string]any{}
	at := func(attr, problem string) { problems[attr] = []string{problem} }
	if strings.TrimSpace(cl.Name) == "" {
		at("name", "has to be present")
	}
	if slices.ContainsFunc(p.Clusters, func(o Cluster) bool { return o.ID != cl.ID && o.EnvironmentScope == cl.EnvironmentScope }) {
		at("environment_scope", "cannot add duplicated environment scope")
	} else if !variableScope.MatchString(cl.EnvironmentScope) {
		at("environment_scope", "can contain only letters, digits, '-', '_', '/', '$', '{', '}', '.', '*' and spaces, but it cannot start or end with '/'")
	}
	u, err := url.Parse(cl.APIURL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		at("platform_kubernetes.api_url", "is blocked: Only allowed schemes are http, https")
	case !local && isLoopback(u.Hostname()):
		at("platform_kubernetes.api_url", "is blocked: Requests to localhost are not allowed")
	case !local && isPrivate(u.Hostname()):
		at("platform_kubernetes.api_url", "is blocked: Requests to the local network are not allowed")
	}
	if cl.Token == "" {
		at("platform_kubernetes.token", "can't be blank")
	}
	if block, _ := pem.Decode([]byte(cl.CACert)); cl.CACert != "" && block == nil {
		at("platform_kubernetes.ca_cert", "must be a valid PEM certificate")
	}
	switch {
	case cl.Namespace == "gitlab-managed-apps":
		at("platform_kubernetes.namespace", "is reserved")
	case cl.Namespace != "" && (len(cl.Namespace) > 63 || !clusterNamespace.MatchString(cl.Namespace)):
		at("platform_kubernetes.namespace", "can contain only lowercase letters, digits, and '-'. Must start with a letter, and cannot end with '-'")
	}
	if len(problems) > 0 {
		return message(http.StatusBadRequest, problems)
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func isPrivate(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && (ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsUnspecified())
}

// clusterProject finds the project for a request about its clusters. The flag is asked before the role, so that everybody
// who sees the project gets 404 while it is off.
func (c *call) clusterProject(v *View) (*Project, error) {
	if err := c.requireUser(); err != nil {
		return nil, err
	}
	p, err := c.project(v)
	if err != nil {
		return nil, err
	}
	if !c.s.feature().certificate {
		return nil, notFound("")
	}
	return p, c.demand(func(id int64) int { return v.projectLevel(p, id) }, Maintainer)
}

func (c *call) cluster(p *Project) (int, error) {
	id, err := strconv.ParseInt(c.vars["cluster_id"], 10, 64)
	if err != nil {
		return 0, badParameter("cluster_id is invalid")
	}
	i := slices.IndexFunc(p.Clusters, func(x Cluster) bool { return x.ID == id })
	if i < 0 {
		return 0, message(http.StatusNotFound, "404 Not found")
	}
	return i, nil
}

func (c *call) showCluster(v *View, p *Project, cl Cluster, project bool) map[string]any {
	out := map[string]any{
		"id": cl.ID, "name": cl.Name, "created_at": apiTime(cl.CreatedAt), "domain": nullable(cl.Domain), "managed": cl.Managed, "enabled": cl.Enabled,
		"provider_type": "user", "platform_type": "kubernetes", "environment_scope": cl.EnvironmentScope, "cluster_type": "project_type",
		"namespace_per_environment": cl.PerEnvironment, "user": nil, "management_project": nil,
		"platform_kubernetes": map[string]any{
			"api_url": cl.APIURL, "namespace": nullable(cl.Namespace), "authorization_type": cl.Auth, "ca_cert": nullable(cl.CACert),
		},
	}
	if u := v.User(cl.UserID); u != nil {
		out["user"] = basicUser(c.s.url, u)
	}
	if project {
		out["project"] = c.simpleProject(v, p)
	}
	return out
}

func (c *call) listClusters() error {
	out := []map[string]any{}
	err := c.view(func(v *View) error {
		p, err := c.clusterProject(v)
		if err != nil {
			return err
		}
		page, err := paginate(c, p.Clusters, "")
		for _, cl := range page {
			out = append(out, c.showCluster(v, p, cl, false))
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, out)
}

func (c *call) getCluster() error {
	var body map[string]any
	err := c.view(func(v *View) error {
		p, err := c.clusterProject(v)
		if err != nil {
			return err
		}
		i, err := c.cluster(p)
		if err == nil {
			body = c.showCluster(v, p, p.Clusters[i], true)
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, body)
}

const platformPrefix = "platform_kubernetes_attributes"

// fillCluster reads the attributes that are given.
func (c *call) fillCluster(cl *Cluster) error {
	for key, into := range map[string]*string{
		"name": &cl.Name, "domain": &cl.Domain, "environment_scope": &cl.EnvironmentScope,
		platformPrefix + "[api_url]": &cl.APIURL, platformPrefix + "[token]": &cl.Token,
		platformPrefix + "[ca_cert]": &cl.CACert, platformPrefix + "[namespace]": &cl.Namespace,
	} {
		if t, ok := c.text(key); ok {
			*into = t
		}
	}
	for key, into := range map[string]*bool{"enabled": &cl.Enabled, "managed": &cl.Managed, "namespace_per_environment": &cl.PerEnvironment} {
		value, given, err := c.flag(key)
		if err != nil {
			return err
		}
		if given {
			*into = value
		}
	}
	cl.CACert, cl.Token, cl.Namespace = strings.TrimSpace(cl.CACert), strings.TrimSpace(cl.Token), strings.ToLower(cl.Namespace)
	return nil
}

func (c *call) createCluster() error {
	var id int64
	if err := c.view(func(v *View) error {
		p, err := c.clusterProject(v)
		if err == nil {
			id = p.ID
		}
		return err
	}); err != nil {
		return err
	}
	if err := c.require("name", platformPrefix+"[api_url]", platformPrefix+"[token]"); err != nil {
		return err
	}
	cl := Cluster{Enabled: true, Managed: true, PerEnvironment: true, EnvironmentScope: "*", UserID: c.user.ID}
	if err := c.fillCluster(&cl); err != nil {
		return err
	}
	if cl.APIURL == "" {
		return badParameter(platformPrefix + "[api_url] is empty")
	}
	var err error
	if cl.Auth, err = c.oneOf(platformPrefix+"[authorization_type]", "rbac", "unknown_authorization", "rbac", "abac"); err != nil {
		return err
	}
	return c.putCluster(http.StatusCreated, id, func(ch *changes, p *Project) (Cluster, error) {
		if err := cl.check(p, c.s.feature().local); err != nil {
			return cl, err
		}
		cl.ID, cl.CreatedAt = take(&ch.w.nextCluster, 0), ch.w.created(ch.w.now())
		p.Clusters = append(p.Clusters, cl)
		return cl, nil
	})
}

func (c *call) updateCluster() error {
	var id int64
	if err := c.view(func(v *View) error {
		p, err := c.clusterProject(v)
		if err == nil {
			id = p.ID
			_, err = c.cluster(p)
		}
		return err
	}); err != nil {
		return err
	}
	return c.putCluster(http.StatusOK, id, func(_ *changes, p *Project) (Cluster, error) {
		i, err := c.cluster(p)
		if err != nil {
			return Cluster{}, err
		}
		old, cl := p.Clusters[i], p.Clusters[i]
		if err := c.fillCluster(&cl); err != nil {
			return cl, err
		}
		if cl.Managed && (cl.APIURL != old.APIURL || cl.Token != old.Token || cl.CACert != old.CACert) {
			return cl, invalid("platform_kubernetes.base", "Cannot modify managed Kubernetes cluster")
		}
		if err := cl.check(p, c.s.feature().local); err != nil {
			return cl, err
		}
		p.Clusters[i] = cl
		return cl, nil
	})
}

func (c *call) putCluster(status int, project int64, f func(*changes, *Project) (Cluster, error)) error {
	var body map[string]any
	err := c.s.world.change(func(ch *changes) error {
		p := ch.Project(project)
		if p == nil {
			return notFound("Project")
		}
		cl, err := f(ch, p)
		if err == nil {
			body = c.showCluster(&ch.View, p, cl, true)
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.answer(status, body)
}

func (c *call) deleteCluster() error {
	var id int64
	if err := c.view(func(v *View) error {
		p, err := c.clusterProject(v)
		if err == nil {
			id = p.ID
		}
		return err
	}); err != nil {
		return err
	}
	err := c.s.world.change(func(ch *changes) error {
		p := ch.Project(id)
		if p == nil {
			return notFound("Project")
		}
		i, err := c.cluster(p)
		if err == nil {
			p.Clusters = slices.Delete(p.Clusters, i, i+1)
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusNoContent, nil)
}

// Agents for Kubernetes.

// AddAgent registers an agent; name as GitLab demands.
func (w *World) AddAgent(projectID int64, name string) (int64, error) {
	var id int64
	err := w.change(func(c *changes) error {
		p := c.Project(projectID)
		switch {
		case p == nil:
			return notFound("Project")
		case len(name) > 63 || !clusterNamespace.MatchString(name):
			return message(http.StatusBadRequest, "Name can contain only lowercase letters, digits, and '-', but cannot start or end with '-'")
		case slices.ContainsFunc(p.Agents, func(a Agent) bool { return a.Name == name }):
			return message(http.StatusBadRequest, "Name has already been taken")
		}
		id = take(&w.nextAgent, 0)
		p.Agents = append(p.Agents, Agent{ID: id, Name: name, CreatedAt: w.created(w.now())})
		return nil
	})
	return id, err
}

func (c *call) showAgent(v *View, p *Project, a Agent) map[string]any {
	simple := c.simpleProject(v, p)
	config := map[string]any{}
	for _, k := range []string{"id", "description", "name", "name_with_namespace", "path", "path_with_namespace", "created_at"} {
		config[k] = simple[k]
	}
	return map[string]any{
		"id": a.ID, "name": a.Name, "config_project": config, "created_at": apiTime(a.CreatedAt), "created_by_user_id": nullableID(a.UserID), "is_receptive": false,
	}
}

// agentsOf returns the agents of a project that the caller sees: a Developer and above.
func (c *call) agentsOf(v *View) (*Project, []Agent, error) {
	if err := c.requireUser(); err != nil {
		return nil, nil, err
	}
	p, err := c.project(v)
	if err != nil {
		return nil, nil, err
	}
	if !c.user.Admin && v.projectLevel(p, c.user.ID) < Developer {
		return p, nil, nil
	}
	return p, p.Agents, nil
}

func (c *call) listAgents() error {
	out := []map[string]any{}
	err := c.view(func(v *View) error {
		p, agents, err := c.agentsOf(v)
		if err != nil {
			return err
		}
		if agents == nil && len(p.Agents) > 0 {
			return notFound("ClusterAgents")
		}
		page, err := paginate(c, agents, "")
		for _, a := range page {
			out = append(out, c.showAgent(v, p, a))
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, out)
}

func (c *call) getAgent() error {
	id, err := strconv.ParseInt(c.vars["agent_id"], 10, 64)
	if err != nil {
		return badParameter("agent_id is invalid")
	}
	var body map[string]any
	err = c.view(func(v *View) error {
		p, agents, err := c.agentsOf(v)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(agents, func(a Agent) bool { return a.ID == id })
		if i < 0 {
			return message(http.StatusNotFound, "404 Not found")
		}
		body = c.showAgent(v, p, agents[i])
		return nil
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, body)
}

// KubernetesVariables are all that GitLab gives to a job because of clusters: those of the integration, and a KUBECONFIG with
// one context for each agent that the job may use, merged into the integration's, whose context stays the current one.
func (s *Server) KubernetesVariables(job JobContext, jobToken string) ([]JobVariable, error) {
	out, err := s.DeploymentVariables(job.ProjectID, job.Environment, job.KubernetesNamespace)
	if err != nil {
		return nil, err
	}
	var allowed []allowedAgent
	s.world.View(func(v *View) { allowed = v.allowedAgents(job, s.premium()) })
	if len(allowed) == 0 || s.feature().kas.URL == "" {
		return out, nil
	}
	k := kubeconfig{}
	i := slices.IndexFunc(out, func(v JobVariable) bool { return v.Key == "KUBECONFIG" })
	if i >= 0 {
		var have struct {
			Current  string           `json:"current-context"`
			Clusters []map[string]any `json:"clusters"`
			Users    []map[string]any `json:"users"`
			Contexts []map[string]any `json:"contexts"`
		}
		if err := yaml.Unmarshal([]byte(out[i].Value), &have); err != nil {
			return nil, err
		}
		k = kubeconfig{current: have.Current, clusters: have.Clusters, users: have.Users, contexts: have.Contexts}
		out = slices.Delete(out, i, i+1)
	}
	for _, a := range allowed {
		user := fmt.Sprintf("agent:%d", a.agent.ID)
		k.add("gitlab", s.url+kasPath, "", user, fmt.Sprintf("ci:%d:%s", a.agent.ID, jobToken), a.configPath+":"+a.agent.Name, a.entry.DefaultNamespace)
	}
	text, err := k.yaml()
	return append(out, JobVariable{Key: "KUBECONFIG", Value: text, File: true}), err
}
