package authz

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// nearby looks for what would have given somebody more in a namespace, and why it does not. What it finds is for administrators.
type nearby struct {
	v      View
	now    time.Time
	user   int64
	id     SourceID
	only   *Resolver // sees the person alone
	access standing  // in id; its level is 0 for who is no member
	frozen Frozen
}

func newNearby(v View, user int64, id SourceID, now time.Time) *nearby {
	n := &nearby{v: v, now: now, user: user, id: id, only: resolverOf(user, v.Snapshot, now), frozen: v.Policy.frozen(v.Snapshot, id)}
	n.access, _ = n.only.Members(id).standing(user)
	return n
}

func (n *nearby) name(id SourceID) string {
	if path, ok := n.v.Snapshot.Path(id); ok {
		return clean(path)
	}
	return id.String()
}

// misses lists what would have given more.
func (n *nearby) misses() (out []string) {
	note := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	n.account(note)
	n.source(note)
	n.level(note)
	n.ended(note)
	n.invitations(note)
	n.below(note)
	return out
}

// account says why the account has no rights.
func (n *nearby) account(note func(string, ...any)) {
	u, known := n.v.Snapshot.Users[n.user]
	switch p := n.v.Policy; {
	case !known:
		note("GitLab has no account with the id %d, or it was not read yet", n.user)
	case u.State != StateActive:
		note("the account is %s in GitLab: only active ones have rights", clean(string(u.State)))
	case p.exclude.user(u):
		note("authz.exclude leaves the account out")
	case !p.MayHaveRights(u):
		note("the account is a bot or service account, and authz.bots is not set")
	}
}

// source says what is the matter with the group or project itself.
func (n *nearby) source(note func(string, ...any)) {
	s := n.v.Snapshot
	if _, ok := n.v.Policy.Source(s, n.id); !ok && s.Contains(n.id) {
		note("%s", n.leftOut())
	}
	if n.frozen != FrozenKeep {
		note("%s, where %s", n.frozenHow(), map[Frozen]string{FrozenNone: "nobody has rights", FrozenView: "nobody has more than " + quoted([]string{n.v.Policy.weakest()})}[n.frozen])
	}
	u := incomplete{snap: s, groups: map[int64]string{}}
	why := s.MissingAll
	switch n.id.Kind {
	case GroupSource:
		why = cmp.Or(u.group(n.id.ID), why)
	case ProjectSource:
		why = cmp.Or(u.project(s.Projects[n.id.ID]), why)
	case UserSource:
		why = cmp.Or(s.Missing[n.id], why)
	}
	if why != "" {
		note("%s could not be read completely from GitLab (%s): nothing of it is changed until then", n.name(n.id), clean(why))
	}
}

// leftOut says why a source has no namespace.
func (n *nearby) leftOut() string {
	switch p := n.v.Policy; {
	case !p.kinds[n.id.Kind]:
		return fmt.Sprintf("authz.kinds has no %s", n.id.Kind)
	case n.id.Kind == UserSource:
		return "a personal namespace is there for accounts that may have rights"
	}
	return fmt.Sprintf("authz.exclude leaves %s out", n.name(n.id))
}

// frozenHow says what has become of the source in GitLab, and by which key of the configuration it counts.
func (n *nearby) frozenHow() string {
	archived := n.v.Snapshot.Groups[n.id.ID].Archived
	marked := n.v.Snapshot.Groups[n.id.ID].MarkedForDeletion
	if n.id.Kind == ProjectSource {
		archived, marked = n.v.Snapshot.Projects[n.id.ID].Archived, n.v.Snapshot.Projects[n.id.ID].MarkedForDeletion
	}
	var how []string
	if archived {
		how = append(how, fmt.Sprintf("archived (authz.archived: %s)", n.v.Policy.archived))
	}
	if marked {
		how = append(how, fmt.Sprintf("marked for deletion (authz.markedForDeletion: %s)", n.v.Policy.marked))
	}
	return fmt.Sprintf("%s, or a group above it, is %s", n.name(n.id), strings.Join(how, " and "))
}

// level says of which use the level is.
func (n *nearby) level(note func(string, ...any)) {
	p, level := n.v.Policy, n.access.level
	switch {
	case level == 0:
		note("no member of %s", n.name(n.id))
	case !level.Known():
		note("%s in %s is not known to this program, and gives nothing", level, n.name(n.id))
	case p.mappedTo(level) == "":
		note("%s in %s is mapped to nothing (authz.roles maps %s)", level, n.name(n.id), levels(p.mapped()))
	}
	if level == 0 {
		for at := range n.v.Snapshot.Up(n.id) {
			for _, m := range rowsOf(n.v.Snapshot, at) {
				if m.User == n.user && m.Level <= MinimalAccess {
					note("%s in %s counts for nothing", m.Level, n.name(at))
				}
			}
		}
		return
	}
	if t := n.only.trail(n.id, n.access); t.LinkLevel != 0 && t.LinkLevel < t.RowLevel {
		note("they are %s in %s, and the invitation gives %s at most", t.RowLevel, n.name(t.Why.Row), t.LinkLevel)
	}
}

// ended says which membership or invitation would have given more, had it not ended.
func (n *nearby) ended(note func(string, ...any)) {
	ever := resolverOf(n.user, n.v.Snapshot, time.Time{})
	had, ok := ever.Members(n.id).standing(n.user)
	if !ok || had.level <= n.access.level {
		return
	}
	t := ever.trail(n.id, had)
	note("%s, ended on %s", strings.TrimSuffix(t.Text, ", until "+t.Until.String()), t.Until)
}

// invitations says where the person is a member of an invited group, and why that does not count.
func (n *nearby) invitations(note func(string, ...any)) {
	s := n.v.Snapshot
	project, group := s.Projects[n.id.ID], GroupID(n.id.ID)
	if n.id.Kind == ProjectSource {
		group = GroupID(project.Group)
		for _, l := range project.Links {
			if got := min(n.only.Members(GroupID(l.Group)).Level(n.user), l.Level); s.Groups[project.Group].ShareLock && got > n.access.level && !l.Expires.Over(n.now) {
				note("%s in %s, through the group %s, does not count: %s forbids to invite groups into its projects", got, n.name(n.id), n.name(GroupID(l.Group)), n.name(group))
			}
		}
	}
	if group.ID == 0 || n.id.Kind == UserSource {
		return
	}
	for at := range s.Up(group) {
		for _, l := range s.Groups[at.ID].Links {
			direct, _ := n.only.row(GroupID(l.Group), n.user)
			level := n.only.Members(GroupID(l.Group)).Level(n.user)
			if got := min(level, l.Level); level > direct.Level && got > n.access.level && !l.Expires.Over(n.now) {
				note("%s in %s is not their own membership: of a group that is invited into a group, here into %s, only direct members count", level, n.name(GroupID(l.Group)), n.name(at))
			}
		}
	}
}

// maxBelow is how many namespaces below are named.
const maxBelow = 3

// below says of which namespaces below the person has rights: those go down, never up.
func (n *nearby) below(note func(string, ...any)) {
	if n.id.Kind != GroupSource {
		return
	}
	var names []string
	for _, r := range n.v.Rights(n.user, n.now) {
		if r.Source == n.id || !n.v.Snapshot.Within(r.Source, n.id) {
			continue
		}
		if t, ok := n.only.Members(r.Source).standing(n.user); ok && t.level > n.access.level {
			names = append(names, fmt.Sprintf("%s (%s)", r.Namespace, t.level))
		}
	}
	if len(names) == 0 {
		return
	}
	more := ""
	if len(names) > maxBelow {
		more = fmt.Sprintf(" and %d more", len(names)-maxBelow)
		names = names[:maxBelow]
	}
	note("more rights in %s%s, below %s: rights go down, not up", strings.Join(names, ", "), more, n.name(n.id))
}

// mapped returns the levels that stand for a ClusterRole, ascending.
func (p Policy) mapped() []Level {
	var out []Level
	for _, r := range p.roles {
		out = append(out, r.Levels...)
	}
	slices.Sort(out)
	return out
}

// weakest returns the ClusterRole that is left where GitLab has frozen something.
func (p Policy) weakest() string { return p.roles[len(p.roles)-1].ClusterRole }

// whose says what a namespace without a source could have been meant to be.
func whose(v View, ns string) (out []string) {
	if name := NormalizePath(ns); name != ns && name != "" {
		if _, ok := v.Source[name]; ok {
			return []string{fmt.Sprintf("the namespace of %s is %s", clean(ns), name)}
		}
	}
	s := v.Snapshot
	like := func(id SourceID, path string) {
		if NormalizePath(path) != ns {
			return
		}
		n := &nearby{v: v, id: id}
		switch other, named := v.Namespace[id]; {
		case named:
			out = append(out, fmt.Sprintf("the namespace of %s is %s", clean(path), other))
		default:
			if _, ok := v.Policy.Source(s, id); ok {
				out = append(out, fmt.Sprintf("%s has no namespace yet, or its name is taken or reserved: see the findings in `gl-k8s-integrator status`", clean(path)))
			} else {
				out = append(out, fmt.Sprintf("%s would have this namespace, but %s", clean(path), n.leftOut()))
			}
		}
	}
	for id, g := range s.Groups {
		like(GroupID(id), g.Path)
	}
	for id, p := range s.Projects {
		like(ProjectID(id), p.Path)
	}
	slices.Sort(out)
	return append(out, "it belongs to no group, project or person in GitLab that is known here")
}
