package gitlabsim

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// kubernetes is what GitLab does for jobs that deploy to Kubernetes: the variables of cluster integrations and agents, and the
// agent server's proxy.
type kubernetes struct {
	*instance
	access *access
}

// JobVariable is a variable that GitLab itself gives to a job.
type JobVariable struct {
	Key, Value   string
	File, Masked bool
}

// KubernetesActive is `only: kubernetes: active`: whether the project has a cluster integration for all environments, because
// GitLab asks before it knows the job's.
func (s *kubernetes) KubernetesActive(projectID int64) (active bool) {
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
func (s *kubernetes) DeploymentVariables(projectID int64, environment, namespace string) (out []JobVariable, err error) {
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

// KubernetesVariables are all that GitLab gives to a job because of clusters: those of the integration, and a KUBECONFIG with
// one context for each agent that the job may use, merged into the integration's, whose context stays the current one.
func (s *kubernetes) KubernetesVariables(job JobContext, jobToken string) ([]JobVariable, error) {
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
