package migrate

import (
	"regexp"
	"strings"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// What the integrator of 2018 has put on namespaces, and the names it gave.
const (
	LabelOrigin  = "gitlab-origin"  // whose the namespace is: Encode of a path
	LabelIgnored = "gitlab-ignored" // with any value: it left the bindings alone
	// AccountName is the ServiceAccount of CI jobs, unless GITLAB_SERVICEACCOUNT_NAME said otherwise; its RoleBinding has the
	// same name.
	AccountName     = "gitlab-serviceaccount"
	netAdminAccount = "net-admin-serviceaccount"
	netAdminBinding = "net-admin-psp-binding"
)

var encoding = strings.NewReplacer("_", "__", "/", "_")

// Encode returns the value of LabelOrigin for a path in GitLab. Different paths can have the same one: "a/_b" and "a_/b".
func Encode(path string) string { return encoding.Replace(path) }

// Decode returns the paths that Encode makes label of, at most limit of them. More than one means that the label alone does not say
// whose the namespace is; none, that no path has this label.
func Decode(label string, limit int) []string {
	// ends[i][s] says whether label[i:] can be read to the end, s being 1 after a "/" and at the start: a path has no empty part.
	ends := make([][2]bool, len(label)+1)
	ends[len(label)] = [2]bool{label != "", false}
	pair := func(i int) bool { return strings.HasPrefix(label[i:], "__") }
	for i := len(label) - 1; i >= 0; i-- {
		for s := range 2 {
			if label[i] != '_' {
				ends[i][s] = ends[i+1][0]
				continue
			}
			ends[i][s] = pair(i) && ends[i+2][0] || s == 0 && ends[i+1][1]
		}
	}
	var out []string
	var read func(i, s int, path string)
	read = func(i, s int, path string) {
		switch {
		case len(out) >= limit || !ends[i][s]:
		case i == len(label):
			out = append(out, path)
		case label[i] != '_':
			read(i+1, 0, path+label[i:i+1])
		default:
			if pair(i) {
				read(i+2, 0, path+"_")
			}
			if s == 0 {
				read(i+1, 1, path+"/")
			}
		}
	}
	read(0, 1, "")
	return out
}

var (
	oldSpelling = strings.NewReplacer(" ", "", "ä", "ae", "ö", "oe", "ü", "ue", "ß", "ss", "_", "-", ".", "-", "/", "-")
	dnsLabel    = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	counter     = regexp.MustCompile(`^(-[0-9]{1,3})+$`)
)

// OldName returns the name that the integrator of 2018 gave to the namespace of a path; false where it could not make one.
func OldName(path string) (name string, ok bool) {
	name = oldSpelling.Replace(strings.ToLower(path))
	return name, dnsLabel.MatchString(name)
}

// paths are the groups, projects and people of GitLab, by what the integrator of 2018 made of their paths.
type paths struct {
	byLabel, byLower, byName map[string][]authz.SourceID // byLower: the label in lower case
	byUsername               map[string]int64            // in lower case
}

func newPaths(s *authz.Snapshot) paths {
	p := paths{byLabel: map[string][]authz.SourceID{}, byLower: map[string][]authz.SourceID{}, byName: map[string][]authz.SourceID{}, byUsername: map[string]int64{}}
	add := func(id authz.SourceID, path string) {
		label := Encode(path)
		p.byLabel[label] = append(p.byLabel[label], id)
		p.byLower[strings.ToLower(label)] = append(p.byLower[strings.ToLower(label)], id)
		if name, ok := OldName(path); ok {
			p.byName[name] = append(p.byName[name], id)
		}
	}
	for id, g := range s.Groups {
		add(authz.GroupID(id), g.Path)
	}
	for id, pr := range s.Projects {
		add(authz.ProjectID(id), pr.Path)
	}
	for id, u := range s.Users {
		add(authz.UserID(id), u.Username)
		p.byUsername[strings.ToLower(u.Username)] = id
	}
	return p
}
