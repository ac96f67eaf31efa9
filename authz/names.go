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
// suffixed name is taken as well (by somebody else's namespace), or reserved, gets none, and a Finding. So does a name
// that was given before it was reserved.
//
// taken holds all other namespaces of the cluster, reserved names beside those that always are (Reserved; "*" at the
// end matches any rest); both are compared after normalisation.
func AssignNames(sources []Source, have map[SourceID]string, taken map[string]bool, reserved []string) (map[SourceID]string, []Finding) {
	further := configured(reserved)
	why := func(name string) string { return cmp.Or(Reserved(name), further.why(name)) }
	names := make(map[SourceID]string, len(sources))
	used := make(map[string]bool, len(taken)+len(sources))
	for n := range taken {
		used[n] = true
	}
	for _, n := range have {
		used[n] = true // also of sources that are gone: their namespaces still stand
	}
	var fresh []*Source
	var findings []Finding
	for i := range sources {
		s := &sources[i]
		n, ok := have[s.ID]
		if !ok {
			fresh = append(fresh, s)
			continue
		}
		names[s.ID] = n
		if because := why(n); because != "" {
			findings = append(findings, nameReserved(s.ID, n, because))
		}
	}
	slices.SortFunc(fresh, func(a, b *Source) int {
		return cmp.Or(cmp.Compare(a.ID.ID, b.ID.ID), cmp.Compare(a.ID.Kind, b.ID.Kind))
	})
	for _, s := range fresh {
		name := NormalizePath(s.Path)
		if name == "" || len(name) > maxName || ownSuffix.MatchString(name) || why(name) != "" || used[name] {
			name = suffixed(name, s.ID, func(name string) bool { return why(name) != "" })
		}
		if against := cmp.Or(when(used[name], "exists and belongs to somebody else"), when(why(name) != "", "is reserved as well (authz.reservedNames)")); against != "" {
			findings = append(findings, Finding{"namespace_name_taken", s.ID, fmt.Sprintf("%s gets no namespace: %q %s", s.ID, name, against)})
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
func suffixed(name string, id SourceID, reserved func(string) bool) string {
	suffix := fmt.Sprintf("-%c%d", id.Kind[0], id.ID)
	if name == "" || reserved(name+suffix) {
		name = strings.TrimSuffix("gitlab-"+name, "-")
	}
	if room := maxName - len(suffix); len(name) > room {
		name = strings.TrimRight(name[:room], "-")
	}
	return name + suffix
}
