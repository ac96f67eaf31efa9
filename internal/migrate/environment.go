package migrate

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Setting says what takes the place of an environment variable of the integrator of 2018.
type Setting struct {
	Variable string `json:"variable"`
	Key      string `json:"key,omitempty"`   // of the configuration; "" if there is none
	Value    string `json:"value,omitempty"` // for the key, where the old one can be kept; never a secret
	Text     string `json:"text"`
}

// variable is one of the integrator of 2018.
type variable struct {
	name, key, text string
	value           func(string) string // nil: the old value can't be kept, or is a secret
}

func same(s string) string { return s }

// variables are all that it had.
var variables = []variable{
	{"GITLAB_HOSTNAME", "gitlab.url", "with https://, as GitLab writes it", func(s string) string { return "https://" + s }},
	{"GITLAB_API_VERSION", "", "always v4", nil},
	{"GITLAB_PRIVATE_TOKEN", "gitlab.readTokenFile", "make two new tokens: one that reads, one that writes (gitlab.writeTokenFile)", nil},
	{"GITLAB_SECRET_TOKEN", "listeners.hooks.secretFile", "make a new secret; `hooks register` gives it to GitLab", nil},
	{"GITLAB_SERVICEACCOUNT_NAME", "", "the ServiceAccount is always gitlab-serviceaccount; jobs see another one only in KUBE_TOKEN", nil},
	{"GITLAB_ENVIRONMENT_NAME", "ci.environment", "the environment of jobs that get credentials", same},
	{"CEPH_USER_KEY", "rbacsync.templates.folder", "a template that copies a Secret", nil},
	{"K8S_API_URL", "", "was never read", nil},
	{"EXTERNAL_K8S_API_URL", "cluster.publicURL", "the URL of kube-apiserver for jobs", same},
	{"K8S_CA_PEM", "cluster.publicCAFile", "the CA of that URL, in a file", nil},
	{"ENABLE_SYNC_ENDPOINT", "", "there is none: rounds come by hooks and by rbacsync.interval", nil},
	{"ENABLE_GITLAB_HOOKS_DEBUG", "", "`serve --log-level debug`; hooks are never logged as a whole", nil},
	{"ENABLE_GITLAB_SYNC_DEBUG", "", "`serve --log-level debug`", nil},
	{"CUSTOM_ROLE_DIR", "", "apply the files with kubectl, as rbac.authorization.k8s.io/v1; bindings for people of GitLab are authz.extra", nil},
	{"NET_ADMIN_PSP_CLUSTER_ROLE_NAME", "rbacsync.podSecurityExceptions", "PodSecurityPolicy is gone: name the namespaces that need more than rbacsync.podSecurity", nil},
	{"ENABLE_LIMITRANGES", "rbacsync.templates.folder", "a template with a LimitRange", nil},
	{"DEFAULT_CPU_REQ", "rbacsync.templates.folder", "in that LimitRange", nil},
	{"DEFAULT_CPU_LIM", "rbacsync.templates.folder", "in that LimitRange", nil},
	{"DEFAULT_MEM_REQ", "rbacsync.templates.folder", "in that LimitRange", nil},
	{"DEFAULT_MEM_LIM", "rbacsync.templates.folder", "in that LimitRange", nil},
	{"GROUP_MASTER_ROLENAME", "authz.roles", "the ClusterRole of owners and maintainers", same},
	{"GROUP_DEVELOPER_ROLENAME", "authz.roles", "the ClusterRole of developers", same},
	{"GROUP_REPORTER_ROLENAME", "authz.roles", "the ClusterRole of reporters", same},
	{"GROUP_DEFAULT_ROLENAME", "authz.roles", "guests get nothing, unless authz.roles says so", same},
	{"PROJECT_MASTER_ROLENAME", "authz.roles", "groups and projects have the same roles here", same},
	{"PROJECT_DEVELOPER_ROLENAME", "authz.roles", "groups and projects have the same roles here", same},
	{"PROJECT_REPORTER_ROLENAME", "authz.roles", "groups and projects have the same roles here", same},
	{"PROJECT_DEFAULT_ROLENAME", "authz.roles", "groups and projects have the same roles here", same},
}

var assignment = regexp.MustCompile(`^(?:export\s+)?([A-Z0-9_]+)=(.*)$`)

// Settings says what takes the place of the environment of the integrator of 2018, and which ServiceAccount it had for CI jobs.
// Lines have the form of `env` and of `kubectl set env --list`; what is not a variable of it is left out.
func Settings(environment io.Reader) (out []Setting, account string, err error) {
	const most = 1 << 20
	data, err := io.ReadAll(io.LimitReader(environment, most+1))
	if err != nil {
		return nil, "", err
	}
	if len(data) > most {
		return nil, "", fmt.Errorf("it has more than %d bytes: give it the lines NAME=value of the old service", most)
	}
	for line := range strings.Lines(string(data)) {
		m := assignment.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		value := strings.Trim(m[2], `"'`)
		i := slices.IndexFunc(variables, func(v variable) bool { return v.name == m[1] })
		if i < 0 {
			continue
		}
		if m[1] == "GITLAB_SERVICEACCOUNT_NAME" {
			account = value
		}
		v := variables[i]
		s := Setting{Variable: v.name, Key: v.key, Text: v.text}
		if v.value != nil && value != "" {
			s.Value = rbacsync.Printable(v.value(value))
		}
		out = append(out, s)
	}
	if len(out) == 0 {
		return nil, "", fmt.Errorf("it has no line NAME=value with a variable of the old service")
	}
	return out, account, nil
}
