package gitlab

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// draft is a Snapshot in the making. While several goroutines fill it, mu guards it.
type draft struct {
	mu              sync.Mutex
	users           map[int64]authz.User // from lists of accounts
	rowUsers        map[int64]authz.User // from membership rows that say who is human: those of GraphQL
	groups          map[int64]authz.Group
	projects        map[int64]authz.Project
	rows            map[authz.SourceID][]authz.Member
	unread          map[authz.SourceID]string // to be tried again one by one
	missing         map[authz.SourceID]string
	missingAll      string
	invited         map[int64]map[int64]bool // groups into which some group was invited, and by GraphQL which
	linksUnknown    bool                     // any group may have links
	hasLinks        bool                     // projects came with their links
	noLinks         []int64                  // projects in a list that shows no links at all
	groupsHaveLinks bool                     // groups that were read alone came with their links
	groupsNoLinks   []int64                  // groups whose answer shows no links at all
	listed          map[int64]listedGroup    // by GraphQL
	vars            *varsReading             // nil: no variables are read
}

func newDraft() *draft {
	return &draft{
		users: map[int64]authz.User{}, rowUsers: map[int64]authz.User{}, groups: map[int64]authz.Group{},
		projects: map[int64]authz.Project{}, rows: map[authz.SourceID][]authz.Member{}, unread: map[authz.SourceID]string{},
		missing: map[authz.SourceID]string{}, invited: map[int64]map[int64]bool{}, listed: map[int64]listedGroup{},
	}
}

func (d *draft) empty() bool { return len(d.groups)+len(d.projects)+len(d.users)+len(d.rows) == 0 }

// errContradiction means that two answers of one reading exclude each other. Neither is believed: one of them may be cut short.
var errContradiction = errors.New("two answers of GitLab contradict each other")

// learn takes what rows of GraphQL say about their users, and returns the rest of them.
func (d *draft) learn(rows []memberRow) []authz.Member {
	for _, row := range rows {
		d.rowUsers[row.User] = row.user
	}
	return membersOf(rows)
}

// putRows takes the rows that were read alone, unless other rows of this source were read before and these lack one of them
// or show it otherwise.
func (d *draft) putRows(id authz.SourceID, rows []authz.Member) error {
	for _, before := range d.rows[id] {
		i := slices.IndexFunc(rows, func(m authz.Member) bool { return m.User == before.User })
		switch {
		case i < 0:
			return fmt.Errorf("%w: user %d is a member of %s in one and not in the other", errContradiction, before.User, id)
		case rows[i] != before:
			return fmt.Errorf("%w: the membership of user %d in %s is not the same in both", errContradiction, before.User, id)
		}
	}
	d.rows[id] = rows
	return nil
}

var errNoLinks = errors.New("GitLab's answer has no shared_with_groups")

// linksOf returns the links of a group that was read alone. An answer without any is no answer where GraphQL showed
// one; elsewhere the answers about other groups show whether this server has links to tell (see finish).
func (d *draft) linksOf(g restGroup) ([]authz.Link, error) {
	switch {
	case g.Links != nil:
		d.groupsHaveLinks = true
		for id := range d.invited[g.ID] {
			if !slices.ContainsFunc(*g.Links, func(l restLink) bool { return l.Group != nil && *l.Group == id }) {
				return nil, fmt.Errorf("%w: GraphQL says that group %d is invited into it, and REST does not", errContradiction, id)
			}
		}
		return links(*g.Links)
	case d.invited[g.ID] != nil:
		return nil, errNoLinks
	}
	d.groupsNoLinks = append(d.groupsNoLinks, g.ID)
	return nil, nil
}

// takeProjects puts the listed projects into the draft. A project whose place is not understood is missing.
func (d *draft) takeProjects(list []restProject) {
	at := d.places()
	d.hasLinks = slices.ContainsFunc(list, func(p restProject) bool { return p.Links != nil })
	for _, p := range list {
		out, err := p.project(at)
		switch {
		case err != nil:
			d.missing[authz.ProjectID(p.ID)] = err.Error()
		case p.Links == nil && d.hasLinks:
			d.unread[authz.ProjectID(p.ID)] = errNoLinks.Error()
		case p.Links == nil:
			d.noLinks = append(d.noLinks, p.ID)
		}
		d.projects[p.ID] = out
	}
}

// consistent returns an error when the list of groups is empty and projects are in groups: then it was not read.
func (d *draft) consistent() error {
	if len(d.groups) > 0 {
		return nil
	}
	for id, p := range d.projects {
		if p.Group != 0 {
			return fmt.Errorf("reading groups: GitLab lists none, but project %d is in group %d", id, p.Group)
		}
	}
	return nil
}

// places finds namespaces by path, among what was read so far.
func (d *draft) places() places {
	users, groups := map[string]int64{}, map[string]int64{}
	for _, known := range []map[int64]authz.User{d.rowUsers, d.users} {
		for id, u := range known {
			users[strings.ToLower(u.Username)] = id
		}
	}
	for id, g := range d.groups {
		groups[strings.ToLower(g.Path)] = id
	}
	return places{
		group: func(path string) int64 { return groups[strings.ToLower(path)] },
		user:  func(path string) int64 { return users[strings.ToLower(path)] },
	}
}

// findParents finds the parents of groups that look like subgroups but name none.
func (d *draft) findParents() {
	at := d.places()
	for id, g := range d.groups {
		if err := at.findParent(&g); err != nil {
			d.missing[authz.GroupID(id)] = err.Error()
		}
		d.groups[id] = g
	}
}

// wantReferenced marks what others point to but no list had, because it appeared while reading.
func (d *draft) wantReferenced() {
	want := func(id authz.SourceID, have bool) {
		if id.ID != 0 && !have && d.missing[id] == "" && d.unread[id] == "" {
			d.unread[id] = "it was in no list, but something points to it"
		}
	}
	group := func(id int64) { _, ok := d.groups[id]; want(authz.GroupID(id), ok) }
	for _, g := range d.groups {
		group(g.Parent)
		for _, l := range g.Links {
			group(l.Group)
		}
	}
	for _, p := range d.projects {
		group(p.Group)
		for _, l := range p.Links {
			group(l.Group)
		}
		_, listed := d.users[p.Owner]
		_, row := d.rowUsers[p.Owner]
		want(authz.UserID(p.Owner), listed || row)
	}
	for _, rows := range d.rows {
		for _, row := range rows {
			_, listed := d.users[row.User]
			_, known := d.rowUsers[row.User]
			want(authz.UserID(row.User), listed || known)
		}
	}
}

// finish makes the Snapshot of the draft, which is not used any more: two of a large GitLab need much memory. Unless everybody is wanted
// it keeps only people who are named by something.
func (d *draft) finish(everybody bool) *authz.Snapshot {
	if d.hasLinks || d.groupsHaveLinks {
		for _, id := range d.groupsNoLinks {
			d.missing[authz.GroupID(id)] = errNoLinks.Error()
		}
	}
	s := &authz.Snapshot{
		Users: map[int64]authz.User{}, Groups: d.groups, Projects: d.projects, Missing: d.missing, MissingAll: d.missingAll,
	}
	if everybody {
		s.Users = d.users
	}
	name := func(id int64) {
		if u, ok := d.users[id]; ok {
			s.Users[id] = u
		} else if u, ok := d.rowUsers[id]; ok {
			s.Users[id] = u
		}
	}
	for id, g := range d.groups {
		g.Members = mergeMembers(d.rows[authz.GroupID(id)])
		s.Groups[id] = g
	}
	for id, p := range d.projects {
		p.Members = mergeMembers(d.rows[authz.ProjectID(id)])
		d.vars.put(&p)
		s.Projects[id] = p
		if p.Owner != 0 {
			name(p.Owner)
		}
	}
	for _, rows := range d.rows {
		for _, row := range rows {
			name(row.User)
		}
	}
	all := inPlace(s)
	all.markIncomplete()
	all.inheritFlags()
	return s
}

// markIncomplete marks accounts about which an answer does not say who or in which state they are, and everything in which such
// an account, or one that could not be read at all, has a membership: without an account nobody has a right, and by
// half an answer nobody loses one.
func (u *successor) markIncomplete() {
	for id, x := range u.s.Users {
		if !isWhole(x) {
			u.miss(authz.UserID(id), "the answer does not contain its state or username")
		}
	}
	for id := range u.s.Groups {
		u.markMembers(authz.GroupID(id))
	}
	for id := range u.s.Projects {
		u.markMembers(authz.ProjectID(id))
	}
}

// markMembers marks a group or project if one of its members is such an account.
func (u *successor) markMembers(id authz.SourceID) {
	for user := range named(u.s, id) {
		if u.s.Missing[id] == "" && !isWhole(u.s.Users[user]) {
			u.miss(id, fmt.Sprintf("the account of its member %s could not be read", authz.UserID(user)))
		}
	}
}

func isWhole(u authz.User) bool { return u.State != "" && u.Username != "" }

// named returns the users whom the rows of a group or project name, and whose personal project it is.
func named(s *authz.Snapshot, id authz.SourceID) iter.Seq[int64] {
	var members []authz.Member
	owner := int64(0)
	switch id.Kind {
	case authz.GroupSource:
		members = s.Groups[id.ID].Members
	case authz.ProjectSource:
		members, owner = s.Projects[id.ID].Members, s.Projects[id.ID].Owner
	case authz.UserSource: // nobody's row is in a user
	}
	return func(yield func(int64) bool) {
		for _, m := range members {
			if !yield(m.User) {
				return
			}
		}
		if owner != 0 {
			yield(owner)
		}
	}
}

// inheritFlags makes "archived" and "marked for deletion" look upwards everywhere: GraphQL's fields do so, REST's
// may say it of the object alone.
func (u *successor) inheritFlags() {
	type flags struct{ archived, marked bool }
	done := map[int64]flags{}
	var up func(id int64) flags
	up = func(id int64) flags {
		if f, ok := done[id]; ok {
			return f
		}
		g, ok := u.s.Groups[id]
		if !ok {
			return flags{}
		}
		done[id] = flags{} // a circle of parents ends here
		p, own := up(g.Parent), flags{g.Archived, g.MarkedForDeletion}
		f := flags{own.archived || p.archived, own.marked || p.marked}
		if f != own {
			g.Archived, g.MarkedForDeletion = f.archived, f.marked
			u.setGroup(id, g)
		}
		done[id] = f
		return f
	}
	for id := range u.s.Groups {
		up(id)
	}
	for id, p := range u.s.Projects {
		own := flags{p.Archived, p.MarkedForDeletion}
		above := up(p.Group)
		if f := (flags{own.archived || above.archived, own.marked || above.marked}); f != own {
			p.Archived, p.MarkedForDeletion = f.archived, f.marked
			u.setProject(id, p)
		}
	}
}
