package authz

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// members is what a set of people has in one source, by user id.
type members map[int64]Access

// resolver computes effective memberships of one Snapshot at one moment and keeps the results of groups, which
// many projects share. GitLab's rules (source: GroupMembersFinder, MembersFinder and the sharing docs):
//
//	to a group     its own rows and those of all ancestors; and for each group invited into it or into an
//	               ancestor the DIRECT rows of the invited group, capped by the link
//	to a project   everything the project's group gives; its own rows; and for each group invited into the
//	               project everybody who effectively is a member of the invited group, capped by the link,
//	               unless the project's group forbids sharing (docs/adr/0010)
//
// Rows and links that are over today count for nothing, although GitLab lists them until its nightly job ran.
type resolver struct {
	snap      *Snapshot
	now       time.Time
	effective map[int64]members // of groups, by id
	only      int64             // if set, the one person who is looked for
}

func newResolver(s *Snapshot, now time.Time) *resolver {
	return &resolver{snap: s, now: now, effective: map[int64]members{}}
}

// group returns the effective members of a group. The result is shared: it must not be changed.
func (r *resolver) group(id int64) members {
	if m, ok := r.effective[id]; ok {
		return m
	}
	r.effective[id] = nil // a parent cycle ends here; Untouchable reports it
	g, ok := r.snap.Groups[id]
	if !ok {
		return nil
	}
	m := r.inherit(r.group(g.Parent), g.Members, Group(id))
	for _, l := range sortedLinks(g.Links) {
		r.invite(m, l, r.own(l.Group), Group(id))
	}
	r.effective[id] = m
	return m
}

// own returns the people with a row in the group itself, which is what counts when it is invited into a group.
func (r *resolver) own(id int64) members {
	return r.inherit(nil, r.snap.Groups[id].Members, Group(id))
}

// project returns the effective members of a project.
func (r *resolver) project(p GitLabProject) members {
	m := r.inherit(r.group(p.Group), p.Members, Project(p.ID))
	if p.Owner != 0 {
		m.add(Access{User: p.Owner, Level: Owner, Why: Reason{Level: Owner, Row: Person(p.Owner)}}, true)
	}
	if r.snap.Groups[p.Group].ShareLock {
		return m
	}
	for _, l := range sortedLinks(p.Links) {
		r.invite(m, l, r.group(l.Group), Project(p.ID))
	}
	return m
}

// inherit returns a new set: what comes from above, and the rows of the source itself, which win a tie.
func (r *resolver) inherit(above members, rows []Member, source SourceID) members {
	m := make(members, len(above)+len(rows))
	maps.Copy(m, above)
	for _, row := range rows {
		if row.Level > MinimalAccess && !row.Expires.Over(r.now) && (r.only == 0 || r.only == row.User) {
			m.add(Access{User: row.User, Level: row.Level, Why: Reason{Level: row.Level, Row: source}}, true)
		}
	}
	return m
}

// invite adds the people of an invited group, capped by the link; a tie is won by what was there before.
func (r *resolver) invite(m members, l Link, invited members, target SourceID) {
	if l.Expires.Over(r.now) {
		return
	}
	for _, a := range invited {
		level := min(a.Level, l.Level)
		if level > MinimalAccess {
			m.add(Access{User: a.User, Level: level, Why: Reason{Level: level, Row: a.Why.Row, Via: l.Group, Target: target}}, false)
		}
	}
}

// add keeps the higher level; winTie says who stays when both are equal.
func (m members) add(a Access, winTie bool) {
	if old, ok := m[a.User]; ok && (old.Level > a.Level || (old.Level == a.Level && !winTie)) {
		return
	}
	m[a.User] = a
}

// of returns the effective members of any source: of a personal namespace, its owner.
func (r *resolver) of(id SourceID) members {
	switch id.Kind {
	case GroupSource:
		return r.group(id.ID)
	case ProjectSource:
		if p, ok := r.snap.Projects[id.ID]; ok {
			return r.project(p)
		}
	case UserSource:
		return members{id.ID: {User: id.ID, Level: Owner, Why: Reason{Level: Owner, Row: id}}}
	}
	return nil
}

// sortedLinks makes ties between two invited groups independent of the order in which GitLab listed them.
func sortedLinks(links []Link) []Link {
	sorted := slices.Clone(links)
	slices.SortFunc(sorted, func(a, b Link) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(b.Level, a.Level))
	})
	return sorted
}

// Members returns the effective members of one source at one moment, by user id, whatever the state of their
// accounts and whether or not their level gives a right: GitLab's members/all without its expired rows.
func Members(s *Snapshot, id SourceID, now time.Time) map[int64]Access {
	return newResolver(s, now).of(id)
}

// accessOf is Members for one person: it costs little however many the others are, and so its time tells nothing.
func accessOf(s *Snapshot, id SourceID, user int64, now time.Time) (Access, bool) {
	r := newResolver(s, now)
	r.only = user
	a, ok := r.of(id)[user]
	return a, ok
}

// Untouchable returns the sources whose rights can't be judged in this round, with the reason: something that
// feeds their membership was not read completely. Unread is not empty, so nothing of theirs may be changed.
func Untouchable(s *Snapshot) map[SourceID]string {
	u := untouchable{snap: s, groups: map[int64]string{}}
	out := map[SourceID]string{}
	note := func(id SourceID, why string) {
		if why == "" {
			why = s.MissingAll
		}
		if why != "" {
			out[id] = why
		}
	}
	for id := range s.Groups {
		note(Group(id), u.group(id))
	}
	for id, p := range s.Projects {
		note(Project(id), u.project(p))
	}
	for id := range s.Users {
		note(Person(id), s.Missing[Person(id)])
	}
	maps.Copy(out, s.Missing)
	return out
}

// untouchable walks what a source depends on and returns the first thing that is missing.
type untouchable struct {
	snap   *Snapshot
	groups map[int64]string
}

func (u untouchable) group(id int64) string {
	if id == 0 {
		return ""
	}
	if why, ok := u.groups[id]; ok {
		return why
	}
	u.groups[id] = cycle(id)
	why := u.self(id)
	if why == "" {
		why = u.group(u.snap.Groups[id].Parent)
	}
	for _, l := range u.snap.Groups[id].Links {
		if why == "" {
			why = u.self(l.Group)
		}
	}
	u.groups[id] = why
	return why
}

func (u untouchable) project(p GitLabProject) string {
	why := u.snap.Missing[Project(p.ID)]
	if why == "" {
		why = u.group(p.Group)
	}
	for _, l := range p.Links {
		if why == "" {
			why = u.group(l.Group)
		}
	}
	return why
}

// cycle is what a group's answer is while its ancestors are walked: who meets it again has come round in a circle.
func cycle(id int64) string {
	return fmt.Sprintf("%s is its own ancestor, which can't be: GitLab's answer is not consistent", Group(id))
}

// self says why a group's own rows are unknown. A group that is named but not in the Snapshot is invisible to
// the reading token, which is the same as unread.
func (u untouchable) self(id int64) string {
	if why := u.snap.Missing[Group(id)]; why != "" {
		return why
	}
	if _, ok := u.snap.Groups[id]; !ok {
		return fmt.Sprintf("%s is referred to but was not readable: the reading token needs an administrator's view", Group(id))
	}
	return ""
}

// NextExpiry returns the first moment after now at which a membership or link ends, or the zero time.
func NextExpiry(s *Snapshot, now time.Time) time.Time {
	var next time.Time
	consider := func(d Date) {
		if d.IsZero() || d.Over(now) {
			return
		}
		if t := d.Start(); next.IsZero() || t.Before(next) {
			next = t
		}
	}
	each := func(rows []Member, links []Link) {
		for _, r := range rows {
			consider(r.Expires)
		}
		for _, l := range links {
			consider(l.Expires)
		}
	}
	for _, g := range s.Groups {
		each(g.Members, g.Links)
	}
	for _, p := range s.Projects {
		each(p.Members, p.Links)
	}
	return next
}
