package authz

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// maxName is the length limit of a namespace name (an RFC 1123 label).
const maxName = 63

// alwaysReserved are names that no GitLab path may take, whatever the configuration says.
var alwaysReserved = []string{"default", "kube-*", "gl-k8s-integrator"}

// ownSuffix is the form of the suffix that AssignNames gives; a path that ends like it always gets one too, so
// that nobody can take another source's suffixed name by choosing a path.
var ownSuffix = regexp.MustCompile(`-[gpu][0-9]+$`)

var umlauts = strings.NewReplacer("ä", "ae", "ö", "oe", "ü", "ue", "ß", "ss")

// NormalizePath turns a GitLab path into the name its namespace would have if nothing spoke against it: lower
// case, "/", "_" and "." become "-", umlauts are spelled out, anything else outside a-z 0-9 becomes "-", and
// the ends are trimmed. The result may be empty, too long, reserved or taken.
func NormalizePath(path string) string {
	spelled := umlauts.Replace(strings.ToLower(path))
	name := strings.Map(func(r rune) rune {
		if (r >= 'a' && r <= 'z') || (r >= '0' && r <= '9') {
			return r
		}
		return '-'
	}, spelled)
	return strings.Trim(name, "-")
}

// AssignNames gives each source a namespace name. A source keeps the name it has; a new one gets the name its
// path suggests, or that name with a suffix made of kind and id when it is empty, too long, reserved, taken by
// another namespace, or of the suffixed form itself. Ties between new sources go to the lower id. A source whose
// suffixed name is taken as well (by somebody else's namespace), or reserved, gets none, and a Finding.
//
// taken holds all other namespaces of the cluster, reserved further names ("*" at the end matches any rest);
// both are compared after normalisation.
func AssignNames(sources []Source, have map[SourceID]string, taken map[string]bool, reserved []string) (map[SourceID]string, []Finding) {
	names := make(map[SourceID]string, len(sources))
	used := make(map[string]bool, len(taken)+len(sources))
	for n := range taken {
		used[n] = true
	}
	for _, n := range have {
		used[n] = true // also of sources that are gone: their namespaces still stand
	}
	var fresh []Source
	for _, s := range sources {
		if n, ok := have[s.ID]; ok {
			names[s.ID] = n
		} else {
			fresh = append(fresh, s)
		}
	}
	slices.SortFunc(fresh, func(a, b Source) int {
		return cmp.Or(cmp.Compare(a.ID.ID, b.ID.ID), cmp.Compare(a.ID.Kind, b.ID.Kind))
	})
	var findings []Finding
	for _, s := range fresh {
		name := NormalizePath(s.Path)
		if name == "" || len(name) > maxName || ownSuffix.MatchString(name) || isReserved(name, reserved) || used[name] {
			name = suffixed(name, s.ID, reserved)
		}
		if why := cmp.Or(when(used[name], "exists and belongs to somebody else"), when(isReserved(name, reserved), "is reserved as well (authz.reservedNames)")); why != "" {
			findings = append(findings, Finding{"namespace_name_taken", s.ID, fmt.Sprintf("%s gets no namespace: %q %s", s.ID, name, why)})
			continue
		}
		used[name] = true
		names[s.ID] = name
	}
	slices.SortFunc(findings, func(a, b Finding) int { return a.Source.Compare(b.Source) })
	return names, findings
}

func when(yes bool, text string) string {
	if yes {
		return text
	}
	return ""
}

// suffixed appends "-g7", "-p42" or "-u3" and shortens the rest to fit. A name that is reserved as a whole
// prefix (kube-*) is put behind "gitlab-": policies of other people exempt such names by their beginning.
func suffixed(name string, id SourceID, reserved []string) string {
	suffix := fmt.Sprintf("-%c%d", id.Kind[0], id.ID)
	if name == "" || isReserved(name+suffix, reserved) {
		name = strings.TrimSuffix("gitlab-"+name, "-")
	}
	if room := maxName - len(suffix); len(name) > room {
		name = strings.TrimRight(name[:room], "-")
	}
	return name + suffix
}

func isReserved(name string, more []string) bool {
	for _, list := range [][]string{alwaysReserved, more} {
		for _, r := range list {
			prefix, open := strings.CutSuffix(r, "*")
			// The dash at the end of "kube-*" must survive normalisation, which trims the ends.
			if open && strings.HasPrefix(name, strings.TrimSuffix(NormalizePath(prefix+"x"), "x")) {
				return true
			}
			if !open && name == NormalizePath(r) {
				return true
			}
		}
	}
	return false
}
