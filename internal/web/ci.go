package web

import (
	"errors"
	"net/http"
	"regexp"
	"strings"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/docs"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

// ownPages tell somebody about their jobs, what they may not do, and how their rights changed.
type ownPages struct{ *Site }

func (s ownPages) ciRoutes() []route {
	return []route{
		{method: http.MethodGet, path: "/ci", access: signedIn, nav: "cipage.nav", handle: s.ci},
		{method: http.MethodGet, path: "/ci/{project}", access: signedIn, handle: s.ciProject},
	}
}

// ciData is what ci.html shows.
type ciData struct {
	Rows  []*webapi.CI
	Pager pager
}

// ci lists the projects that somebody may deploy.
func (s ownPages) ci(w http.ResponseWriter, r *http.Request, v *visit) {
	mine, err := s.o.People.Namespaces(v.session.User, people.Filter{})
	if err != nil {
		s.broken(w, r, v, err)
		return
	}
	var all []*webapi.CI
	for _, n := range mine.Namespaces {
		if n.CI != nil {
			all = append(all, n.CI)
		}
	}
	d := ciData{}
	d.Rows, d.Pager = cut(r.URL, all)
	s.page(w, r, v, "ci", d)
}

// ciProjectData is what ciproject.html shows.
type ciProjectData struct {
	*webapi.CI
	URL     string // in GitLab
	Snippet string // for .gitlab-ci.yml; "": none would work
}

func (s ownPages) ciProject(w http.ResponseWriter, r *http.Request, v *visit) {
	ci, err := s.o.People.CI(v.session.User, r.PathValue("project"))
	switch {
	case errors.Is(err, people.ErrNoProject):
		s.problem(w, r, v, http.StatusNotFound, "no_project")
		return
	case err != nil:
		s.broken(w, r, v, err)
		return
	}
	s.page(w, r, v, "ciproject", ciProjectData{CI: &ci, URL: s.o.GitLabURL + "/" + ci.Path, Snippet: Snippet(ci, s.ciAudience())})
}

func (s ownPages) ciAudience() string {
	if s.o.CIAudience == nil {
		return ""
	}
	return s.o.CIAudience()
}

var (
	snippetEnvironment = regexp.MustCompile(`(?m)^(    name: ).*$`)
	snippetAudience    = regexp.MustCompile(`(?m)^(      aud: ).*$`)
)

// Snippet returns the job that docs/ci.md shows for a project's delivery, with its own environment and this cluster's audience of CI
// jobs; empty where no job gets credentials.
func Snippet(ci webapi.CI, audience string) string {
	text := ""
	switch ci.Delivery {
	case "variables", "agent", "certificate":
		text = docs.Job("deploy")
	case "id-token":
		text = docs.Job("deploy-with-id-token")
	}
	text = snippetEnvironment.ReplaceAllStringFunc(text, func(line string) string { return "    name: " + yamlText(ci.Environment) })
	return snippetAudience.ReplaceAllStringFunc(text, func(line string) string { return "      aud: " + yamlText(audience) })
}

// plainYAML is text that YAML reads as it stands: a name or a URL.
var plainYAML = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]*(?:://[A-Za-z0-9./_:-]*[A-Za-z0-9/_-])?(?:/[A-Za-z0-9._-]+)*$`)

// yamlText writes text as a YAML scalar. What YAML would read as something else ("no", "1.0") is quoted.
func yamlText(text string) string {
	switch strings.ToLower(text) {
	case "y", "n", "yes", "no", "on", "off", "true", "false", "null":
	default:
		if plainYAML.MatchString(text) {
			return text
		}
	}
	return "'" + strings.ReplaceAll(text, "'", "''") + "'"
}
