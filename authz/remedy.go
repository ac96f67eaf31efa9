package authz

import (
	"cmp"
	"fmt"
	"slices"
)

// Do says what a Remedy does, for programs.
type Do string

// What remedies do.
const (
	DoAccount    Do = "account"    // make the account active
	DoConfigure  Do = "configure"  // change the configuration of the integrator
	DoUnarchive  Do = "unarchive"  // or restore what is marked for deletion
	DoLevel      Do = "level"      // give the person Level in In
	DoInvitation Do = "invitation" // give the group Group, which is invited into In, Level
	DoCluster    Do = "cluster"    // what keeps a right out of the cluster
)

// Remedy is something that would help, and who can do it.
type Remedy struct {
	Do   Do     `json:"do"`
	Text string `json:"text"`
	// Who are user names of members in GitLab who can do it; empty: those whom Text names.
	Who []string `json:"who,omitempty"`

	Level Level    `json:"-"`
	In    SourceID `json:"-"`
	Group int64    `json:"-"`
}

// remedies returns what would help, all of it together.
func (n *nearby) remedies(r *refusal, roles []GivenRole) []Remedy {
	var out []Remedy
	if u, known := n.v.Snapshot.Users[n.user]; !known || !n.v.Policy.MayHaveRights(u) {
		out = append(out, n.accountRemedy(u, known))
	}
	if _, ok := n.v.Policy.Source(n.v.Snapshot, n.id); !ok {
		return append(out, Remedy{Do: DoConfigure, Text: fmt.Sprintf("change the configuration (%s), which the cluster's administrators can", n.leftOut())})
	}
	if i := slices.IndexFunc(roles, func(g GivenRole) bool { return g.Allows == Yes }); i >= 0 { // and it is not in the cluster
		return append(out, Remedy{Do: DoCluster, Text: roles[i].Absent.remedy()})
	}
	frozen := n.frozen
	able, known := r.levelsIn(n.id, frozen)
	if len(able) == 0 && frozen != FrozenKeep {
		if later, _ := r.levelsIn(n.id, FrozenKeep); len(later) > 0 {
			out = append(out, Remedy{Do: DoUnarchive, In: n.id, Text: n.unarchive(), Who: n.who(n.id, Owner)})
			able = later
		}
	}
	switch {
	case len(able) > 0 && slices.Contains(able, n.access.level):
		return out
	case len(able) > 0:
		return append(out, n.levelRemedy(able))
	case !known:
		return nil // what is missing is not known
	}
	return append(out, Remedy{Do: DoConfigure, Text: fmt.Sprintf("no level in %s allows %s: map a ClusterRole that does, by authz.roles or authz.extra, which the cluster's administrators can", n.name(n.id), r.q.what())})
}

func (n *nearby) accountRemedy(u User, known bool) Remedy {
	switch {
	case !known:
		return Remedy{Do: DoAccount, Text: "look whether the account is in GitLab; a new one is read within minutes"}
	case u.State != StateActive:
		return Remedy{Do: DoAccount, Text: fmt.Sprintf("make the account active again (it is %s), which GitLab's administrators can", clean(string(u.State)))}
	case n.v.Policy.exclude.user(u):
		return Remedy{Do: DoConfigure, Text: "take the account out of authz.exclude, which the cluster's administrators can"}
	}
	return Remedy{Do: DoConfigure, Text: "use a person's account, or set authz.bots, which gives rights to all bots and which the cluster's administrators can"}
}

// unarchive says what of the source, or of a group above it, has to be undone.
func (n *nearby) unarchive() string {
	return fmt.Sprintf("%s: unarchive or restore it in GitLab, which an Owner can", n.frozenHow())
}

// levelRemedy is the nearest way to one of these levels: to renew what has ended, to raise the invitation that caps, else to
// give the level in the source itself.
func (n *nearby) levelRemedy(able []Level) Remedy {
	above := slices.IndexFunc(able, func(l Level) bool { return l > n.access.level })
	if n.id.Kind == UserSource {
		return Remedy{Do: DoConfigure, Text: "a personal namespace is its owner's alone: use a group or project for work with others"}
	}
	if above < 0 { // fewer rights by a higher level, and GitLab gives nobody a lower one than what is inherited
		return Remedy{Do: DoConfigure, Text: fmt.Sprintf("%s in %s gives less than %s: change authz.roles, which the cluster's administrators can", n.access.level, n.name(n.id), levels(able))}
	}
	able = able[above:]
	t := n.only.trail(n.id, n.access)
	if n.access.via != 0 && t.LinkLevel < t.RowLevel && slices.Contains(able, t.RowLevel) && n.direct() {
		target := n.access.target.source()
		return Remedy{
			Do: DoInvitation, Level: t.RowLevel, In: target, Group: n.access.via, Who: n.who(target, t.RowLevel),
			Text: fmt.Sprintf("invite the group %s into %s with %s instead of %s, which %s can", n.name(GroupID(n.access.via)), n.name(target), t.RowLevel, t.LinkLevel, n.givers(target, t.RowLevel)),
		}
	}
	return Remedy{
		Do: DoLevel, Level: able[0], In: n.id, Who: n.who(n.id, able[0]),
		Text: fmt.Sprintf("make them %s in %s, which %s can", able[0], n.name(n.id), n.givers(n.id, able[0])),
	}
}

// direct reports whether one invitation alone is on the way.
func (n *nearby) direct() bool {
	if n.access.target.source().Kind != ProjectSource {
		return true
	}
	inner, _ := Members{n.only.group(n.access.via)}.standing(n.user)
	return inner.via == 0
}

// givers names those who can give a level: in a project a Maintainer up to their own, in a group an Owner
// (https://docs.gitlab.com/user/permissions/).
func (n *nearby) givers(id SourceID, l Level) string {
	if id.Kind == ProjectSource && l <= Maintainer {
		return "a Maintainer or Owner there"
	}
	return "an Owner there"
}

// who returns user names of people who can give a level in a source, first those who are members of the source itself.
func (n *nearby) who(id SourceID, l Level) []string {
	least := Owner
	if id.Kind == ProjectSource && l <= Maintainer {
		least = Maintainer
	}
	type giver struct {
		far  bool
		name string
	}
	var all []giver
	for _, a := range NewResolver(n.v.Snapshot, n.now).Members(id).list {
		u, ok := n.v.Snapshot.Users[a.user]
		if !ok || a.level < least || a.user == n.user || u.State != StateActive || !u.Human {
			continue
		}
		all = append(all, giver{a.row != refOf(id), clean(u.Username)})
	}
	slices.SortFunc(all, func(a, b giver) int {
		if a.far != b.far {
			if b.far {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.name, b.name)
	})
	var out []string
	for _, g := range all[:min(len(all), maxAsked)] {
		out = append(out, g.name)
	}
	return out
}

// remedy says to an administrator what to do about something that is not in the cluster.
func (a Absence) remedy() string {
	switch a {
	case AbsentPlan:
		return "set rbacsync.mode: enforce, when `gl-k8s-integrator plan` shows what it should"
	case AbsentHeld:
		return "look at what is held with `gl-k8s-integrator plan --held`, and approve it there; or wait for its turn"
	case AbsentUnwritten:
		return "wait some seconds, after a large change minutes"
	case AbsentFailed:
		return "see the findings in `gl-k8s-integrator status` for what kube-apiserver said: it is tried again by itself"
	case AbsentTerminating:
		return "wait until the namespace is deleted: it is made again after that. `kubectl get namespace -o yaml` says what holds it up"
	case AbsentForeign:
		return "something of that name is there without our mark: rename or delete it, or adopt the namespace by rbacsync.adopt"
	case AbsentNoRole:
		return "make the ClusterRole, or map another one by authz.roles or authz.extra"
	case AbsentNotBindable:
		return "give the integrator the verb bind on the ClusterRole (docs/operations.md, finding cluster_role)"
	case AbsentUnread:
		return "see the findings in `gl-k8s-integrator status` for what of GitLab could not be read: it is read again by itself"
	case AbsentUnknown:
	}
	return "start a leader of this version (`gl-k8s-integrator status`): it says what the cluster lacks"
}
