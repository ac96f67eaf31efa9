package authz

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// Absence is why something that GitLab gives is not in the cluster; "" if it is there. The values are stored.
type Absence string

// The reasons.
const (
	AbsentPlan        Absence = "plan"        // in mode plan nothing is written
	AbsentHeld        Absence = "held"        // a new namespace waits for its turn, or for an approval
	AbsentUnwritten   Absence = "unwritten"   // it is being written
	AbsentFailed      Absence = "failed"      // it could not be written, and is tried again
	AbsentTerminating Absence = "terminating" // its namespace is being deleted
	AbsentForeign     Absence = "foreign"     // something of that name is there that is not ours
	AbsentNoRole      Absence = "noRole"      // the ClusterRole does not exist
	AbsentNotBindable Absence = "notBindable" // the integrator may not bind the ClusterRole
	AbsentUnread      Absence = "unread"      // GitLab could not be read completely, so nothing is changed
	// AbsentUnknown says that it is not known what the cluster holds.
	AbsentUnknown Absence = "unknown"
)

// absences are all reasons that a Gap can have, in the order in which they are named.
var absences = []Absence{
	AbsentPlan, AbsentHeld, AbsentUnwritten, AbsentFailed, AbsentTerminating, AbsentForeign, AbsentNoRole, AbsentNotBindable, AbsentUnread, AbsentUnknown,
}

// Sentence says that something is not in the cluster, and why; "" of what is there.
func (a Absence) Sentence() string {
	if a == "" {
		return ""
	}
	return "not in the cluster yet" + a.why()
}

// why completes a sentence that says that something is not in the cluster, and says what to do. Who reads it may be anybody in that
// namespace (docs/adr/0080): it tells no error and no name.
func (a Absence) why() string {
	switch a {
	case AbsentPlan:
		return ": the integrator is in mode plan, in which it writes nothing. Ask the cluster's administrators."
	case AbsentHeld:
		return ": it waits for its turn, because many namespaces were new at once, or for an approval of the cluster's administrators."
	case AbsentUnwritten:
		return ": it is being written, which takes seconds, or minutes after a large change."
	case AbsentFailed:
		return ": it could not be written and is tried again. If this lasts, ask the cluster's administrators."
	case AbsentTerminating:
		return ": the namespace is being deleted. It is made again after that."
	case AbsentForeign:
		return ": something of that name is there that was not made from GitLab. Ask the cluster's administrators."
	case AbsentNoRole:
		return ": the cluster has no such ClusterRole. Ask the cluster's administrators."
	case AbsentNotBindable:
		return ": the integrator may not give that ClusterRole. Ask the cluster's administrators."
	case AbsentUnread:
		return ": GitLab could not be read completely, and until then nothing is changed. If this lasts, ask the cluster's administrators."
	case AbsentUnknown:
	}
	return ", and why is not known here. Try again in a minute, then ask the cluster's administrators."
}

// Gap is what the cluster lacks of what GitLab gives in one source.
type Gap struct {
	// All is why none of it is there; "" if the namespace is there. But for AbsentForeign there is no such namespace.
	All   Absence `json:"all,omitempty"`
	Lacks []Lack  `json:"lacks,omitempty"` // if All is ""
	// Keeps is what people still have by bindings of this program and GitLab does not give them, and why. Its Users are not nil.
	Keeps []Lack `json:"keeps,omitempty"`
}

// Lack is a ClusterRole that somebody should have by GitLab and has not.
type Lack struct {
	ClusterRole string  `json:"role,omitempty"` // "": the one of CI, which people may have, too
	Why         Absence `json:"why"`
	// Users are those who lack it, ascending; nil: all who should have it. Of CI they are the projects whose jobs lack it,
	// and 0 for the ServiceAccount.
	Users []int64 `json:"users,omitempty"`
}

// equal reports whether the same is lacking.
func (g Gap) equal(o Gap) bool {
	return g.All == o.All && slices.EqualFunc(g.Lacks, o.Lacks, func(a, b Lack) bool {
		return a.ClusterRole == b.ClusterRole && a.Why == b.Why && (a.Users == nil) == (b.Users == nil) && slices.Equal(a.Users, b.Users)
	})
}

// of returns why somebody who should have a ClusterRole (or what Lack says) has not; "" if they have it.
func (g Gap) of(role string, user int64) Absence {
	if g.All != "" {
		return g.All
	}
	for _, l := range g.Lacks {
		if l.ClusterRole != role {
			continue
		}
		if _, lacks := slices.BinarySearch(l.Users, user); lacks || l.Users == nil {
			return l.Why
		}
	}
	return ""
}

// kept returns the ClusterRoles that somebody still has and GitLab does not give them, with the reason.
func (g Gap) kept(user int64) (out []Lack) {
	for _, k := range g.Keeps {
		if _, has := slices.BinarySearch(k.Users, user); has {
			out = append(out, k)
		}
	}
	return out
}

// Stays completes a sentence that says that something is still in the cluster which GitLab does not give.
func (a Absence) Stays() string {
	switch a {
	case AbsentPlan:
		return "the integrator is in mode plan, in which it takes nothing away"
	case AbsentHeld:
		return "taking it away is held back until somebody approves it (`gl-k8s-integrator plan --held`)"
	case AbsentFailed:
		return "it could not be taken away, and that is tried again (`gl-k8s-integrator status`)"
	case AbsentUnread:
		return "GitLab could not be read completely, and until then nothing is taken away"
	case AbsentUnwritten, AbsentTerminating, AbsentForeign, AbsentNoRole, AbsentNotBindable, AbsentUnknown:
	}
	return "it is being taken away, or waits until what takes its place can be given"
}

// WithGaps returns the View with what the cluster lacks of what GitLab gives: a source without an entry lacks nothing. Of
// nil nothing is known, and nothing is promised.
func (v View) WithGaps(gaps map[SourceID]Gap) View {
	changed := map[SourceID]bool{}
	for id, g := range gaps {
		if !g.equal(v.gaps[id]) {
			changed[id] = true
		}
	}
	for id := range v.gaps {
		if _, still := gaps[id]; !still {
			changed[id] = true
		}
	}
	v.gaps = gaps
	return v.since(changed)
}

// Gaps returns what WithGaps was given. It must not be changed.
func (v View) Gaps() map[SourceID]Gap { return v.gaps }

// WithoutRoles returns the View with the ClusterRoles that are known not to exist: nobody has a right by them.
func (v View) WithoutRoles(roles map[string]bool) View {
	v.gone = roles
	return v
}

// absent returns why somebody who should have a ClusterRole (or what Lack says) in a source by GitLab has not; "" if they have
// it.
func (v View) absent(id SourceID, role string, user int64) Absence {
	why := v.gaps[id].of(role, user)
	switch {
	case why != "":
		return why
	case v.gone[cmp.Or(role, kubename.CIClusterRole)]:
		return AbsentNoRole
	case v.gaps == nil:
		return AbsentUnknown
	}
	return ""
}

// notYet says that a right is not in the cluster, and why: "it is not in the cluster yet: …".
func (v View) notYet(id SourceID, why Absence) string {
	if why == "" { // it is there for all that is known, and yet the API server refused: it was changed a moment ago
		why = AbsentUnknown
	}
	return v.whatLacks(id) + " is not in the cluster yet" + why.why()
}

// whatLacks names what there is not: the right, or its namespace.
func (v View) whatLacks(id SourceID) string {
	if all := v.gaps[id].All; all == "" || all == AbsentForeign {
		return "it"
	}
	return fmt.Sprintf("namespace %q", clean(v.Namespace[id]))
}

// butNothing warns that a role in GitLab does not help yet where the cluster has nothing of the source.
func (v View) butNothing(id SourceID) string {
	switch all := v.gaps[id].All; all {
	case "":
		return ""
	case AbsentForeign:
		return " But what GitLab gives there is not in the cluster yet" + all.why()
	default:
		return " But " + v.notYet(id, all)
	}
}
