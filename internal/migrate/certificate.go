package migrate

import (
	"regexp"
	"strconv"
	"strings"
)

// What GitLab's certificate integration has put on the namespaces that it managed (app/services/clusters/kubernetes in GitLab).
const (
	LabelApp = "app.gitlab.com/app" // slug of the project's full path
	LabelEnv = "app.gitlab.com/env" // slug of the environment
)

// certificateBindings are the RoleBindings that it made besides that of its ServiceAccount; each has a Role of its own.
var certificateBindings = map[string]string{
	"gitlab-knative-serving-rolebinding":     "gitlab-knative-serving-role",
	"gitlab-crossplane-database-rolebinding": "gitlab-crossplane-database-role",
}

func certificateAccount(namespace string) string { return namespace + "-service-account" }
func certificateBinding(namespace string) string { return "gitlab-" + namespace }

var (
	environmentSlug = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,22}[a-z0-9])?$`)
	notInNames      = regexp.MustCompile(`[^a-z0-9-]`)
)

// sanitized returns a path as the certificate integration wrote it into names and labels.
func sanitized(path string) string {
	return strings.Trim(notInNames.ReplaceAllString(strings.ToLower(path), "-"), "-")
}

// slug returns GitLab's slug of a full path, the value of LabelApp.
func slug(path string) string {
	s := notInNames.ReplaceAllString(strings.ToLower(path), "-")
	return strings.Trim(s[:min(len(s), 63)], "-")
}

// part is one way to read the name of a namespace: <path>-<id>-<environment>, or <path>-<id>.
type part struct {
	path        string
	project     int64
	environment string
}

// parts returns every way to read the name of a namespace of the certificate integration. The path may hold numbers too, so
// there can be several.
func parts(name string) (out []part) {
	pieces := strings.Split(name, "-")
	for i := 1; i < len(pieces); i++ {
		id, err := strconv.ParseInt(pieces[i], 10, 64)
		path, environment := strings.Join(pieces[:i], "-"), strings.Join(pieces[i+1:], "-")
		if err != nil || id <= 0 || strconv.FormatInt(id, 10) != pieces[i] || path == "" {
			continue
		}
		if i+1 < len(pieces) && !environmentSlug.MatchString(environment) {
			continue
		}
		out = append(out, part{path, id, environment})
	}
	return out
}
