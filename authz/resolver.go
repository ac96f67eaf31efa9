package authz

import (
	"cmp"
	"slices"
	"time"
)

// Resolver says who effectively is a member of what in one Snapshot at one moment: GitLab's members/all without its expired
// rows. It is the only way to ask that. It keeps the results of groups, which many projects share, and is not safe for
// concurrent use. GitLab's rules (source: GroupMembersFinder, MembersFinder and the sharing docs):
//
//	to a group     its own rows and those of all ancestors; and for each group invited into it or into an
//	               ancestor the DIRECT rows of the invited group, capped by the link
//	to a project   everything the project's group gives; its own rows; and for each group invited into the
//	               project everybody who effectively is a member of the invited group, capped by the link,
//	               unless the project's group forbids sharing (docs/adr/0010)
//
// Rows and links that are over today count for nothing, although GitLab lists them until its nightly job ran.
type Resolver struct {
	snap      *Snapshot
	now       time.Time
	effective map[int64][]standing // of groups, by id
	only      int64                // if set, the one person who is looked for
	scratch   [2][]standing        // of the invited people, and of a set that is being made
	passing   bool                 // Members of a project are valid only until the next question
	room      []standing           // if passing, where they are
}

// NewResolver returns a Resolver. At the zero time nothing has expired.
func NewResolver(s *Snapshot, now time.Time) *Resolver {
	return &Resolver{snap: s, now: now, effective: map[int64][]standing{}}
}

// resolverOf returns a Resolver that sees one person alone: it costs little however many the others are, and so its time
// tells nothing of them.
func resolverOf(user int64, s *Snapshot, now time.Time) *Resolver {
	r := NewResolver(s, now)
	r.only = user
	return r
}

// Members returns the effective members of a source, whatever the state of their accounts and whether or not their level
// gives a right; of a personal namespace, its owner.
func (r *Resolver) Members(id SourceID) Members {
	switch id.Kind {
	case GroupSource:
		return Members{r.group(id.ID)}
	case ProjectSource:
		if p, ok := r.snap.Projects[id.ID]; ok {
			return Members{r.project(p)}
		}
	case UserSource:
		if r.only == 0 || r.only == id.ID {
			return Members{[]standing{{user: id.ID, level: Owner, row: refOf(id)}}}
		}
	}
	return Members{}
}

// group returns the effective members of a group.
func (r *Resolver) group(id int64) []standing {
	if m, ok := r.effective[id]; ok {
		return m
	}
	r.effective[id] = nil // a parent cycle ends here; Snapshot.Incomplete reports it
	g, ok := r.snap.Groups[id]
	if !ok {
		return nil
	}
	m := r.inherit(r.group(g.Parent), g.Members, GroupID(id), true)
	for _, l := range sortedLinks(g.Links) {
		m = r.invite(m, l, r.own(l.Group), GroupID(id))
	}
	r.effective[id] = m
	return m
}

// own returns the people with a row in the group itself, which is what counts when it is invited into a group.
func (r *Resolver) own(id int64) []standing {
	return r.inherit(nil, r.snap.Groups[id].Members, GroupID(id), true)
}

// project returns the effective members of a project.
func (r *Resolver) project(p Project) []standing {
	m := r.inherit(r.group(p.Group), p.Members, ProjectID(p.ID), !r.passing)
	if p.Owner != 0 && (r.only == 0 || r.only == p.Owner) {
		m = merge(nil, m, []standing{{user: p.Owner, level: Owner, row: refOf(UserID(p.Owner))}}, true)
	}
	if r.snap.Groups[p.Group].ShareLock {
		return m
	}
	for _, l := range sortedLinks(p.Links) {
		m = r.invite(m, l, r.group(l.Group), ProjectID(p.ID))
	}
	return m
}

// inherit returns what comes from above together with the rows of the source itself, which win a tie. What is not to be kept
// stands where the next one will.
func (r *Resolver) inherit(above []standing, rows []Member, source SourceID, keep bool) []standing {
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
	if keep {
		return merge(make([]standing, 0, len(above)+len(own)), above, own, true)
	}
	r.room = merge(r.room[:0], above, own, true)
	return r.room
}

// invite adds the people of an invited group, capped by the link; a tie is won by what was there before.
func (r *Resolver) invite(m []standing, l Link, invited []standing, target SourceID) []standing {
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
