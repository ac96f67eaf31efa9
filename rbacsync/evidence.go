package rbacsync

import (
	"maps"
	"slices"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// Membership names a person in a source.
type Membership struct {
	Source authz.SourceID
	User   int64
}

// Evidence is what Split judges by.
type Evidence struct {
	Snapshot *authz.Snapshot // what the plan was made from
	// Before is the last Snapshot that the cluster agreed with, in each top-level group (Agreed); nil when it is not known.
	// It tells which row a right came from. Latest is the last one that was carried out, but for what was held.
	Before, Latest *authz.Snapshot
	Policy         authz.Policy
	// Was is the last Policy that the whole cluster agreed with; nil when it is not known.
	Was *authz.Policy
	// Begun are the policies that the cluster may have been written by since, and did not agree with in the end: another one
	// came, or the process ended.
	Begun []authz.Policy
	// Gone holds the sources that are missing in GitLab's lists and that GitLab was asked about: true for 404.
	Gone map[authz.SourceID]bool
	// Levels holds what GitLab answered about single memberships: 0 for 404.
	Levels map[Membership]authz.Level
	Past   []Past
	// Approved holds what was approved, by Item.Key, and which user of Kubernetes did; "": it is not known who.
	Approved map[string]string
	// Outside holds what is held already outside the Scope of the plan: it counts, and stays.
	Outside []Item
	// Size returns how many namespaces and people with rights, together, are in a top-level group (zero: in all), when
	// the plan has a Scope; nil: it is about everything.
	Size func(scope authz.SourceID) int
}

// Agreed returns the last Snapshot that the cluster agreed with, in each top-level group: before in those that are open, because
// something in them is held or could not be written, and now in all others. So what is held in one of them changes nothing
// about what is known of another.
func Agreed(before, now *authz.Snapshot, open map[authz.SourceID]bool) *authz.Snapshot {
	if before == nil || len(open) == 0 {
		return now
	}
	out := *now
	out.Users, out.Groups, out.Projects = map[int64]authz.User{}, maps.Clone(now.Groups), maps.Clone(now.Projects)
	maps.Copy(out.Users, before.Users)
	maps.Copy(out.Users, now.Users)
	maps.DeleteFunc(out.Groups, func(id int64, _ authz.Group) bool { return open[now.Top(authz.GroupID(id))] })
	maps.DeleteFunc(out.Projects, func(id int64, _ authz.Project) bool { return open[now.Top(authz.ProjectID(id))] })
	for id, g := range before.Groups {
		if open[before.Top(authz.GroupID(id))] {
			out.Groups[id] = g
		}
	}
	for id, p := range before.Projects {
		if open[before.Top(authz.ProjectID(id))] {
			out.Projects[id] = p
		}
	}
	return &out
}

// view is a Snapshot with the memberships that follow from it.
type view struct {
	snap  *authz.Snapshot
	now   *authz.Resolver // with what has expired until now
	ever  *authz.Resolver // as if nothing had expired
	known map[authz.SourceID]authz.Members
	gives map[authz.SourceID]map[Right]bool
}

// newView returns nil for no Snapshot.
func newView(snap *authz.Snapshot, now time.Time) *view {
	if snap == nil {
		return nil
	}
	return &view{
		snap: snap, now: authz.NewResolver(snap, now), ever: authz.NewResolver(snap, time.Time{}),
		known: map[authz.SourceID]authz.Members{}, gives: map[authz.SourceID]map[Right]bool{},
	}
}

// access returns what a person has in a source.
func (v *view) access(id authz.SourceID, user int64) (authz.Access, bool) {
	m, ok := v.known[id]
	if !ok {
		m = v.now.Members(id)
		v.known[id] = m
	}
	return m.Access(user)
}

// gave reports whether a policy gives a right by this Snapshot, as if nothing had expired.
func (v *view) gave(p authz.Policy, r Right) bool {
	g, ok := v.gives[r.Source]
	if !ok {
		g = RightsIn(p, v.snap, map[authz.SourceID]bool{r.Source: true}, time.Time{})
		v.gives[r.Source] = g
	}
	return g[r]
}

// judge says why somebody loses a right, by the evidence.
type judge struct {
	want   *Wanted
	e      Evidence
	now    time.Time
	at     *view   // the Snapshot
	before *view   // of Evidence.Before; nil: not known
	latest *view   // of Evidence.Latest; nil: not known
	views  []*view // those that are known, the newest first
}

func newJudge(want *Wanted, e Evidence, now time.Time) *judge {
	j := &judge{want: want, e: e, now: now, at: newView(e.Snapshot, now), before: newView(e.Before, now), latest: newView(e.Latest, now)}
	j.views = slices.DeleteFunc([]*view{j.at, j.latest, j.before}, func(v *view) bool { return v == nil })
	return j
}

// knows returns what of before tells which row a right came from: the last Snapshot that was carried out, if it gave the
// right. What it did not give any more was held since, and is known from before that alone.
func (j *judge) knows(r Right) *view {
	if j.latest != nil && j.latest.gave(j.e.Policy, r) {
		return j.latest
	}
	return j.before
}

// reason looks for the reason why a person (0: the CI) has no longer a role in a source. inferred is false when GitLab
// or the configuration said so; else cause is what is missing in GitLab's lists:
//
//	what GitLab shows now                                    inferred        unless GitLab says, when asked
//	the account is not active, or no human's                 no
//	the account is in no list                                yes             that it is gone, or no member
//	the source, or the group it was in, is in no list        yes             that it is gone (404)
//	the source is there, and gets no namespace               no
//	the level that gives the role                            no (a copy, or changed by hand)
//	the row that gave it, with a lower level or expired      no
//	the row that gave it, and the source moved away from it  no
//	not the row that gave it                                 yes             that the level is lower
//	the invitation that gave it, with a lower level          no
//	not the invitation that gave it                          yes             that the level is lower, where it can know
//	nothing, and which row gave it is not known              yes             that the level gives no such role
func (j *judge) reason(id authz.SourceID, role string, user int64) (cause authz.SourceID, ask Membership, inferred bool) {
	snap, was := j.e.Snapshot, j.knows(Right{id, role, user})
	userID := authz.UserID(user)
	if u, ok := snap.Users[user]; user != 0 && (ok && !j.e.Policy.MayHaveRights(u) || j.e.Gone[userID]) {
		return userID, ask, false
	}
	if !snap.Contains(id) {
		cause = j.missing(id)
		return cause, ask, !j.e.Gone[id] && !j.e.Gone[cause]
	}
	if _, has := j.want.Paths[id]; !has || user == 0 {
		return id, ask, false // the configuration gives it no namespace
	}
	ask = Membership{id, user}
	gives := func(l authz.Level) bool { return j.e.Policy.RoleIn(snap, id, l) == role }
	have, _ := j.at.access(id, user)
	if _, listed := snap.Users[user]; !listed {
		return userID, ask, !j.answered(ask, func(l authz.Level) bool { return l == 0 })
	}
	if gives(have.Level) {
		return userID, ask, false // they have the right still: this binding is a copy, or was changed by hand
	}
	if was == nil {
		ask = j.askable(ask)
		return userID, ask, !j.answered(ask, func(l authz.Level) bool { return !gives(l) })
	}
	places := []authz.SourceID{id}
	for _, g := range j.e.Policy.ExtraGroups(snap, id, role) {
		places = append(places, authz.GroupID(g))
	}
	known := false
	for _, place := range places {
		had, ok := was.access(place, user)
		_, ever := was.ever.Members(place).Access(user)
		known = known || ok || ever
		if have, _ := j.at.access(place, user); have.Level >= had.Level {
			continue // the level is there still: the policy gives less for it, or the source is archived; or it expired
		}
		if place == id && known && !gives(had.Level) {
			continue // the row would not give it any more, were it there
		}
		cause, where, missing := j.row(was.snap, place, had)
		at := Membership{where, user}
		if where == (authz.SourceID{}) {
			at = Membership{}
		}
		if missing && !j.answered(at, func(l authz.Level) bool { return l < had.Level }) {
			return cause, at, true
		}
	}
	if known {
		return userID, ask, false
	}
	ask = j.askable(ask)
	return userID, ask, !j.answered(ask, func(l authz.Level) bool { return !gives(l) })
}

// askable drops the question about a project that groups are invited into, when it is not known where a right came
// from: GitLab's 404 says nothing about who comes second-hand.
func (j *judge) askable(m Membership) Membership {
	if m.Source.Kind == authz.ProjectSource && len(j.e.Snapshot.Projects[m.Source.ID].Links) > 0 {
		return Membership{}
	}
	return m
}

// answered reports whether GitLab was asked about the membership, and its answer passes.
func (j *judge) answered(m Membership, passes func(authz.Level) bool) bool {
	l, ok := j.e.Levels[m]
	return ok && m != (Membership{}) && passes(l)
}

// row looks in GitLab's present rows for the one that gave a level before.
func (j *judge) row(before *authz.Snapshot, id authz.SourceID, had authz.Access) (cause, where authz.SourceID, inferred bool) {
	snap, why, user := j.e.Snapshot, had.Why, authz.UserID(had.User)
	if why.Via == 0 {
		if !snap.Within(id, why.Row) {
			return user, why.Row, false // moved away from where the row is
		}
		return user, why.Row, !hasRow(snap, why.Row, had.User)
	}
	if !snap.Within(id, why.Target) || (why.Target.Kind == authz.ProjectSource && snap.Groups[snap.Projects[why.Target.ID].Group].ShareLock) {
		return why.Target, why.Target, false
	}
	if l, ok := linkOf(snap, why.Target, why.Via); !ok {
		if !before.Within(authz.GroupID(why.Via), why.Row) {
			where = authz.SourceID{} // no list of GitLab shows who comes second-hand (docs/adr/0010): asking proves nothing
		} else {
			where = why.Target
		}
		return why.Target, where, true
	} else if old, had := linkOf(before, why.Target, why.Via); had && (l.Level < old.Level || l.Expires.Over(j.now)) {
		return why.Target, why.Target, false
	}
	return user, why.Row, !hasRow(snap, why.Row, had.User)
}

func hasRow(s *authz.Snapshot, id authz.SourceID, user int64) bool {
	rows := s.Groups[id.ID].Members
	switch id.Kind {
	case authz.GroupSource:
	case authz.ProjectSource:
		rows = s.Projects[id.ID].Members
	case authz.UserSource: // the owner of a personal project: no row, the place says it
		return true
	}
	return slices.ContainsFunc(rows, func(m authz.Member) bool { return m.User == user })
}

func linkOf(s *authz.Snapshot, target authz.SourceID, group int64) (authz.Link, bool) {
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

// lastWith returns the last Snapshot that had a source; nil when none is known.
func (j *judge) lastWith(id authz.SourceID) *authz.Snapshot {
	for _, v := range j.views {
		if v.snap.Contains(id) {
			return v.snap
		}
	}
	return nil
}

// missing returns the topmost thing that is missing with a source: a group takes what is below it along.
func (j *judge) missing(id authz.SourceID) authz.SourceID {
	before := j.lastWith(id)
	if before == nil {
		return id
	}
	for at := range before.Up(id) {
		if at != id && j.e.Snapshot.Contains(at) {
			break
		}
		id = at
	}
	return id
}

// scope returns the top-level group of a source.
func (j *judge) scope(id authz.SourceID) authz.SourceID {
	if snap := j.lastWith(id); snap != nil {
		return snap.Top(id)
	}
	return j.e.Snapshot.Top(id)
}

func (j *judge) path(id authz.SourceID) (path string) {
	if snap := j.lastWith(id); snap != nil {
		path, _ = snap.Path(id)
	}
	return path
}

// name returns the user name that was seen last; "" if none was.
func (j *judge) name(user int64) string {
	for _, v := range j.views {
		if u := v.snap.Users[user]; u.Username != "" {
			return u.Username
		}
	}
	return ""
}
