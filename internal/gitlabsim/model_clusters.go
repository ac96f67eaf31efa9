package gitlabsim

import (
	"encoding/pem"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// agentChanges are what happens to agents for Kubernetes.
type agentChanges struct{ *model }

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

// AddAgent registers an agent; name as GitLab demands.
func (w agentChanges) AddAgent(projectID int64, name string) (int64, error) {
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
