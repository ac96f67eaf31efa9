package preview

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Code is a Reason for programs.
type Code string

// Why somebody has a right now.
const (
	Direct    Code = "direct"    // member of the group or project itself
	Inherited Code = "inherited" // member of a group above it
	Invited   Code = "invited"   // member of a group that was invited into it, or into a group above it
	Personal  Code = "personal"  // it is their own
	Extra     Code = "extra"     // authz.extra
)

// Why somebody has a right no longer. Archived and MarkedForDeletion are also reasons for a lower one.
const (
	AccountGone       Code = "accountGone"
	AccountInactive   Code = "accountInactive" // blocked, deactivated, …
	SourceGone        Code = "sourceGone"
	Configuration     Code = "configuration"
	Archived          Code = "archived"
	MarkedForDeletion Code = "markedForDeletion"
	Expired           Code = "expired"     // a membership
	LinkExpired       Code = "linkExpired" // the invitation of a group
	LinkEnded         Code = "linkEnded"   // the group is not invited any more, or not with that level
	Left              Code = "left"        // a group or project, or was removed from it
	Moved             Code = "moved"       // the project or group, away from where the membership is
	LowerLevel        Code = "lowerLevel"
	NoMember          Code = "noMember"    // and it is not known that they were one
	NotGiven          Code = "notGiven"    // GitLab does not give it: somebody else changed the binding
	Delivered         Code = "delivered"   // jobs deploy here
	Redelivered       Code = "redelivered" // the way in which jobs get their credentials has changed
	Elsewhere         Code = "elsewhere"   // its group or project has another namespace
	Unexplained       Code = "unexplained" // none of these
)

// reasons tells why people have or lose rights.
type reasons struct {
	in                Input
	now, ever, before *authz.Resolver // before: of Input.Before, as if nothing had expired; nil: not known
	was               map[authz.SourceID]map[rbacsync.Right]bool
	roleOf            map[authz.Level]string // by the present policy, whatever is archived
}

func newReasons(in Input) *reasons {
	r := &reasons{
		in: in, now: authz.NewResolver(in.Snapshot, in.Now), ever: authz.NewResolver(in.Snapshot, time.Time{}),
		was: map[authz.SourceID]map[rbacsync.Right]bool{}, roleOf: map[authz.Level]string{},
	}
	if in.Before != nil {
		r.before = authz.NewResolver(in.Before, time.Time{})
	}
	for _, role := range in.Policy.Config().Roles {
		for _, l := range role.Levels {
			r.roleOf[l] = role.ClusterRole
		}
	}
	return r
}

// path returns what GitLab calls a source, or called it.
func (r *reasons) path(id authz.SourceID) string {
	path, ok := r.in.Snapshot.Path(id)
	if !ok && r.in.Before != nil {
		path, _ = r.in.Before.Path(id)
	}
	return path
}

func (r *reasons) username(user int64) string { return r.path(authz.UserID(user)) }

// name returns path and id of a source, for people.
func (r *reasons) name(id authz.SourceID) string {
	path := r.path(id)
	if path == "" {
		return id.String()
	}
	return fmt.Sprintf("%s (%s)", rbacsync.Printable(path), id)
}

func because(code Code, format string, args ...any) Reason {
	return Reason{code, fmt.Sprintf(format, args...)}
}

// way says how somebody is a member.
func (r *reasons) way(id authz.SourceID, a authz.Access) Reason {
	switch {
	case a.Why.Via != 0:
		return because(Invited, "%s through the group %s, which is invited into %s", a.Level, r.name(authz.GroupID(a.Why.Via)), r.name(a.Why.Target))
	case a.Why.Row.Kind == authz.UserSource:
		return because(Personal, "%s, because it is their own", a.Level)
	case a.Why.Row == id:
		return because(Direct, "%s, direct member", a.Level)
	}
	return because(Inherited, "%s, inherited from %s", a.Level, r.name(a.Why.Row))
}

// gained says why somebody has a role now.
func (r *reasons) gained(id authz.SourceID, user int64, role string) Reason {
	a, member := r.now.Members(id).Access(user)
	base := r.roleOf[a.Level]
	switch {
	case member && r.in.Policy.RoleIn(r.in.Snapshot, id, a.Level) == role && base == role:
		why := r.way(id, a)
		why.Text += r.since(id, a)
		return why
	case member && r.in.Policy.RoleIn(r.in.Snapshot, id, a.Level) == role:
		why := r.frozen(id)
		why.Text += fmt.Sprintf(", and %s keep only %s", r.way(id, a).Text, role)
		return why
	}
	for _, g := range r.in.Policy.ExtraGroups(r.in.Snapshot, id, role) {
		if _, ok := r.now.Members(authz.GroupID(g)).Access(user); ok {
			return because(Extra, "authz.extra gives it to members of the group %s", r.name(authz.GroupID(g)))
		}
	}
	if member && slices.Contains(r.in.Policy.ClusterRoles(), role) {
		why := r.way(id, a)
		return because(Extra, "authz.extra gives it to them: %s%s", why.Text, r.since(id, a))
	}
	return because(Unexplained, "GitLab's memberships don't tell")
}

// since says what is different from what was carried out last.
func (r *reasons) since(id authz.SourceID, a authz.Access) string {
	if r.before == nil || !r.in.Before.Contains(id) {
		return "" // all of it is new
	}
	if u, known := r.in.Before.Users[a.User]; known && u.State != authz.StateActive {
		return fmt.Sprintf("; the account was %s", rbacsync.Printable(string(u.State)))
	}
	had, _ := r.before.Members(id).Access(a.User)
	switch {
	case had.Level == 0:
		return "; new there"
	case had.Level != a.Level:
		return fmt.Sprintf("; was %s", had.Level)
	}
	return ""
}

// frozen says that a source is archived or about to be deleted.
func (r *reasons) frozen(id authz.SourceID) Reason {
	archived := r.in.Snapshot.Groups[id.ID].Archived
	if id.Kind == authz.ProjectSource {
		archived = r.in.Snapshot.Projects[id.ID].Archived
	}
	if archived {
		return because(Archived, "%s is archived in GitLab", id)
	}
	return because(MarkedForDeletion, "GitLab is about to delete %s", id)
}

// lost says why somebody has a role no longer.
func (r *reasons) lost(id authz.SourceID, user int64, role string) Reason {
	u, known := r.in.Snapshot.Users[user]
	switch {
	case !known:
		return because(AccountGone, "the account is not in GitLab any more")
	case u.State != authz.StateActive:
		return because(AccountInactive, "the account is %s", rbacsync.Printable(string(u.State)))
	case !r.in.Policy.MayHaveRights(u) && !u.Human:
		return because(Configuration, "it is no person's account, and authz.bots gives such no rights")
	case !r.in.Policy.MayHaveRights(u):
		return because(Configuration, "authz.exclude leaves the account out")
	}
	if why, ok := r.noSource(id); ok {
		return why
	}
	a, member := r.now.Members(id).Access(user)
	src, _ := r.in.Policy.Source(r.in.Snapshot, id)
	switch {
	case member && src.ReadOnly && r.roleOf[a.Level] == role, src.ReadOnly && slices.Contains(r.in.Policy.FurtherRoles(), role):
		return r.frozen(id)
	case r.gaveBefore(rbacsync.Right{Source: id, Role: role, User: user}):
		return because(Configuration, "GitLab says the same as before (%s), and authz of the configuration gives it no more", r.standing(id, a))
	}
	places := []authz.SourceID{id}
	for _, g := range r.in.Policy.ExtraGroups(r.in.Snapshot, id, role) {
		places = append(places, authz.GroupID(g))
	}
	for _, at := range places {
		if why, ok := r.ended(at, user); ok {
			return why
		}
	}
	switch {
	case member && r.roleOf[a.Level] != role:
		return because(LowerLevel, "only %s", r.way(id, a).Text)
	case r.before != nil && r.in.Before.Contains(id), member:
		return because(NotGiven, "GitLab does not give it: somebody else changed the binding")
	}
	return because(NoMember, "no member")
}

// noSource says why a source has no namespace, if it has none.
func (r *reasons) noSource(id authz.SourceID) (Reason, bool) {
	if !r.in.Snapshot.Contains(id) {
		return because(SourceGone, "%s is not in GitLab any more", id), true
	}
	if _, ok := r.in.Policy.Source(r.in.Snapshot, id); ok {
		return Reason{}, false
	}
	if !slices.Contains(r.in.Policy.Config().Kinds, id.Kind) {
		return because(Configuration, "authz.kinds has no %s", id.Kind), true
	}
	if u := r.in.Snapshot.Users[id.ID]; id.Kind == authz.UserSource && u.State != authz.StateActive {
		return because(AccountInactive, "the account is %s", rbacsync.Printable(string(u.State))), true
	}
	return because(Configuration, "authz leaves %s out", id), true
}

// gaveBefore reports whether a policy of before gives a right on what GitLab says now.
func (r *reasons) gaveBefore(right rbacsync.Right) bool {
	given, ok := r.was[right.Source]
	if !ok {
		given = map[rbacsync.Right]bool{}
		for _, p := range r.in.Was {
			maps.Copy(given, rbacsync.RightsIn(p, r.in.Snapshot, map[authz.SourceID]bool{right.Source: true}, r.in.Now))
		}
		r.was[right.Source] = given
	}
	return given[right]
}

// standing says what somebody is in a source.
func (r *reasons) standing(id authz.SourceID, a authz.Access) string {
	if a.Level == 0 {
		return "no member"
	}
	return r.way(id, a).Text
}

// ended says what became of the membership that somebody had in a source, if one ended or became less.
func (r *reasons) ended(id authz.SourceID, user int64) (Reason, bool) {
	now, _ := r.now.Members(id).Access(user)
	if had, _ := r.ever.Members(id).Access(user); had.Level > now.Level {
		return r.expired(had), true
	}
	if r.before == nil {
		return Reason{}, false
	}
	had, ok := r.before.Members(id).Access(user)
	switch {
	case !ok || had.Level <= now.Level:
		return Reason{}, false
	case now.Level > 0 && now.Why == had.Why:
		return because(LowerLevel, "now %s; was %s", r.way(id, now).Text, had.Level), true
	}
	why := r.vanished(id, had)
	if now.Level > 0 {
		why.Text += "; still " + r.way(id, now).Text
	}
	return why, true
}

// expired says what of a membership is over: the invitation of the group, or the membership itself.
func (r *reasons) expired(had authz.Access) Reason {
	if had.Why.Via != 0 {
		if l, ok := linkIn(r.in.Snapshot, had.Why.Target, had.Why.Via); ok && l.Expires.Over(r.in.Now) {
			return because(LinkExpired, "the invitation of the group %s into %s ended on %s", r.name(authz.GroupID(had.Why.Via)), r.name(had.Why.Target), l.Expires)
		}
	}
	rows := r.in.Snapshot.Groups[had.Why.Row.ID].Members
	if had.Why.Row.Kind == authz.ProjectSource {
		rows = r.in.Snapshot.Projects[had.Why.Row.ID].Members
	}
	for _, m := range rows {
		if m.User == had.User && m.Expires.Over(r.in.Now) {
			return because(Expired, "the membership in %s ended on %s", r.name(had.Why.Row), m.Expires)
		}
	}
	return because(Expired, "the membership has ended")
}

// vanished says where what gave a level before is not any more.
func (r *reasons) vanished(id authz.SourceID, had authz.Access) Reason {
	why, snap := had.Why, r.in.Snapshot
	switch {
	case why.Via == 0 && why.Row.Kind == authz.UserSource, why.Via == 0 && !snap.Within(id, why.Row):
		return because(Moved, "%s is not in %s any more", r.name(id), r.name(why.Row))
	case why.Via == 0 && why.Row == id:
		return because(Left, "left: was %s, direct member", had.Level)
	case why.Via == 0:
		return because(Left, "left the group %s, from which it was inherited", r.name(why.Row))
	case !snap.Within(id, why.Target):
		return because(Moved, "%s is not in %s any more", r.name(id), r.name(why.Target))
	}
	l, ok := linkIn(snap, why.Target, why.Via)
	switch {
	case !ok:
		return because(LinkEnded, "the group %s is not invited into %s any more", r.name(authz.GroupID(why.Via)), r.name(why.Target))
	case l.Level < had.Level:
		return because(LinkEnded, "the invitation of the group %s into %s gives %s at most", r.name(authz.GroupID(why.Via)), r.name(why.Target), l.Level)
	case why.Target.Kind == authz.ProjectSource && snap.Groups[snap.Projects[why.Target.ID].Group].ShareLock:
		return because(LinkEnded, "the group above %s forbids to invite groups", r.name(why.Target))
	}
	return because(Left, "left the group %s, or has a lower level there; it is invited into %s", r.name(why.Row), r.name(why.Target))
}

func linkIn(s *authz.Snapshot, target authz.SourceID, group int64) (authz.Link, bool) {
	links := s.Groups[target.ID].Links
	if target.Kind == authz.ProjectSource {
		links = s.Projects[target.ID].Links
	}
	i := slices.IndexFunc(links, func(l authz.Link) bool { return l.Group == group })
	if i < 0 {
		return authz.Link{}, false
	}
	return links[i], true
}

// job says why CI jobs, or somebody else who is no person of GitLab, gain or lose a right in the namespace of a source.
func (r *reasons) job(id authz.SourceID, s Subject, gain bool) Reason {
	project, isJob := kubename.ParseCIJob(s.Name)
	account := s.Kind == "ServiceAccount" && s.Name == kubename.CIServiceAccount
	switch src, wanted := r.in.Policy.Source(r.in.Snapshot, id); {
	case gain && isJob:
		return because(Delivered, "jobs of %s deploy here by their ID token", r.name(authz.ProjectID(project)))
	case gain && account:
		return because(Delivered, "CI jobs that deploy here use it")
	case gain:
		return because(Delivered, "jobs deploy here through GitLab's agent")
	case !isJob && !account && !strings.HasPrefix(s.Name, "gitlab:"):
		return because(NotGiven, "GitLab does not give it: somebody else changed the binding")
	case !wanted:
		why, _ := r.noSource(id)
		return why
	case src.ReadOnly:
		return r.frozen(id)
	}
	return because(Redelivered, "jobs get their credentials in another way, or in another namespace")
}
