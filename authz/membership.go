package authz

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

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
	effective map[int64][]standing // of groups, by id
	only      int64                // if set, the one person who is looked for
	scratch   [2][]standing        // of the invited people, and of a set that is being made
}

func newResolver(s *Snapshot, now time.Time) *resolver {
	return &resolver{snap: s, now: now, effective: map[int64][]standing{}}
}

// group returns the effective members of a group.
func (r *resolver) group(id int64) []standing {
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
		m = r.invite(m, l, r.own(l.Group), Group(id))
	}
	r.effective[id] = m
	return m
}

// own returns the people with a row in the group itself, which is what counts when it is invited into a group.
func (r *resolver) own(id int64) []standing {
	return r.inherit(nil, r.snap.Groups[id].Members, Group(id))
}

// project returns the effective members of a project.
func (r *resolver) project(p GitLabProject) []standing {
	m := r.inherit(r.group(p.Group), p.Members, Project(p.ID))
	if p.Owner != 0 && (r.only == 0 || r.only == p.Owner) {
		m = merge(nil, m, []standing{{user: p.Owner, level: Owner, row: refOf(Person(p.Owner))}}, true)
	}
	if r.snap.Groups[p.Group].ShareLock {
		return m
	}
	for _, l := range sortedLinks(p.Links) {
		m = r.invite(m, l, r.group(l.Group), Project(p.ID))
	}
	return m
}

// inherit returns what comes from above together with the rows of the source itself, which win a tie.
func (r *resolver) inherit(above []standing, rows []Member, source SourceID) []standing {
	own := r.scratch[0][:0]
	for _, row := range rows {
		if row.Level > MinimalAccess && !row.Expires.Over(r.now) && (r.only == 0 || r.only == row.User) {
			own = append(own, standing{user: row.User, level: row.Level, row: refOf(source)})
		}
	}
	r.scratch[0] = own
	if len(own) == 0 {
		return above
	}
	own = byUser(own)
	return merge(make([]standing, 0, len(above)+len(own)), above, own, true)
}

// invite adds the people of an invited group, capped by the link; a tie is won by what was there before.
func (r *resolver) invite(m []standing, l Link, invited []standing, target SourceID) []standing {
	if l.Expires.Over(r.now) {
		return m
	}
	capped := r.scratch[1][:0]
	for _, a := range invited {
		if level := min(a.level, l.Level); level > MinimalAccess {
			capped = append(capped, standing{user: a.user, level: level, row: a.row, via: l.Group, target: refOf(target)})
		}
	}
	r.scratch[1] = capped
	if len(capped) == 0 {
		return m
	}
	return merge(make([]standing, 0, len(m)+len(capped)), m, capped, false)
}

// of returns the effective members of any source: of a personal namespace, its owner.
func (r *resolver) of(id SourceID) []standing {
	switch id.Kind {
	case GroupSource:
		return r.group(id.ID)
	case ProjectSource:
		if p, ok := r.snap.Projects[id.ID]; ok {
			return r.project(p)
		}
	case UserSource:
		if r.only == 0 || r.only == id.ID {
			return []standing{{user: id.ID, level: Owner, row: refOf(id)}}
		}
	}
	return nil
}

// sortedLinks makes ties between two invited groups independent of the order in which GitLab listed them.
func sortedLinks(links []Link) []Link {
	if len(links) < 2 {
		return links
	}
	sorted := slices.Clone(links)
	slices.SortFunc(sorted, func(a, b Link) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(b.Level, a.Level))
	})
	return sorted
}

// Members returns the effective members of one source at one moment, whatever the state of their accounts and whether
// or not their level gives a right: GitLab's members/all without its expired rows.
func Members(s *Snapshot, id SourceID, now time.Time) Standings {
	return Standings{newResolver(s, now).of(id)}
}

// accessOf is Members for one person: it costs little however many the others are, and so its time tells nothing.
func accessOf(s *Snapshot, id SourceID, user int64, now time.Time) (Access, bool) {
	r := newResolver(s, now)
	r.only = user
	return Standings{r.of(id)}.Of(user)
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
	if len(s.Missing) > 0 || s.MissingAll != "" {
		for id := range s.Users {
			note(Person(id), s.Missing[Person(id)])
		}
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
