package gitlab

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// update is a Snapshot into which what was read is put, and what is to be read for that.
type update struct {
	successor
	absences *absences
	now      func() time.Time
	queue    []authz.SourceID
	done     map[authz.SourceID]bool // was or is in the queue
	read     map[authz.SourceID]bool
	below    map[authz.SourceID]bool // what was in a group that is gone
	fromRow  map[int64]bool          // people only known from a row so far
}

// account returns what is known of an account, and whether that is more than a row of members tells.
func (u *update) account(id int64) (user authz.User, known bool) {
	user, known = u.s.Users[id]
	return user, known && !u.fromRow[id]
}

// want has a source read, once.
func (u *update) want(id authz.SourceID) {
	if id.ID > 0 && !u.done[id] {
		u.done[id] = true
		u.queue = append(u.queue, id)
	}
}

// takeAll puts what was read about the sources of a wave into the Snapshot.
func (u *update) takeAll(wave []authz.SourceID, answers []fetched) {
	for i, id := range wave {
		if err := u.take(id, answers[i]); err != nil {
			u.miss(id, err.Error())
			continue
		}
		u.read[id] = true
		u.miss(id, "")
		u.absences.forget(id)
	}
}

// take puts what was read about one source into the Snapshot.
func (u *update) take(id authz.SourceID, in fetched) error {
	if in.err != nil {
		return in.err
	}
	if in.absent {
		if wait := u.absences.wait(id, u.now()); wait > 0 && !u.below[id] {
			return fmt.Errorf("GitLab says that %s does not exist: it is asked once more in %s, when an accident may be over", id, wait)
		}
		u.gone(id)
		return nil
	}
	switch id.Kind {
	case authz.GroupSource:
		g := in.group.group()
		if err := u.places().findParent(&g); err != nil {
			return err
		}
		g.Links, g.Members = in.links, mergeMembers(membersOf(in.rows))
		u.putGroup(g)
		u.takeRows(in.rows)
	case authz.ProjectSource:
		p, err := in.project.project(u.places())
		if err != nil {
			return err
		}
		old := u.s.Projects[id.ID]
		p.Members, p.Variables = mergeMembers(membersOf(in.rows)), old.Variables
		u.setProject(id.ID, p)
		u.wantGroup(p.Group)
		u.wantLinks(p.Links)
		if _, ok := u.s.Users[p.Owner]; !ok {
			u.want(authz.UserID(p.Owner))
		}
		u.takeRows(in.rows)
	case authz.UserSource:
		delete(u.fromRow, id.ID)
		u.putUser(in.user)
	}
	return nil
}

// gone removes a source.
func (u *update) gone(id authz.SourceID) {
	switch id.Kind {
	case authz.GroupSource:
		u.drop(id)
		for _, below := range u.wantBelow(id.ID) {
			u.below[below] = true
		}
		for gid, g := range u.s.Groups {
			if kept, cut := withoutLink(g.Links, id.ID); cut {
				g.Links = kept
				u.setGroup(gid, g)
			}
		}
		for pid, p := range u.s.Projects {
			if kept, cut := withoutLink(p.Links, id.ID); cut {
				p.Links = kept
				u.setProject(pid, p)
			}
		}
	case authz.ProjectSource:
		u.drop(id)
	case authz.UserSource:
		u.drop(id)
		for gid, g := range u.s.Groups {
			if kept, cut := withoutMember(g.Members, id.ID); cut {
				g.Members = kept
				u.setGroup(gid, g)
			}
		}
		for pid, p := range u.s.Projects {
			if kept, cut := withoutMember(p.Members, id.ID); cut {
				p.Members = kept
				u.setProject(pid, p)
			}
			if p.Owner == id.ID {
				u.want(authz.ProjectID(pid))
			}
		}
	}
}

// putGroup stores a group. Its path is part of the paths below it; its flags say something about all below it,
// which must be read again when a flag was taken back, because the Snapshot keeps only the sum.
func (u *update) putGroup(g authz.Group) {
	old, known := u.s.Groups[g.ID]
	u.setGroup(g.ID, g)
	u.wantGroup(g.Parent)
	u.wantLinks(g.Links)
	if !known {
		return
	}
	parent := u.s.Groups[g.Parent]
	if (old.Archived && !g.Archived && !parent.Archived) || (old.MarkedForDeletion && !g.MarkedForDeletion && !parent.MarkedForDeletion) ||
		old.Parent != g.Parent || old.ShareLock != g.ShareLock { // GitLab copies the lock to subgroups
		u.wantBelow(g.ID)
	}
	if old.Path != g.Path {
		u.movePaths(g, old.Path)
	}
}

// movePaths renames everything below a group that had the path from, which may be another group's by now.
func (u *update) movePaths(moved authz.Group, from string) {
	if from == "" {
		return
	}
	top := authz.GroupID(moved.ID)
	for id, g := range u.s.Groups {
		if rest, ok := strings.CutPrefix(g.Path, from+"/"); ok && u.s.Within(authz.GroupID(id), top) {
			g.Path = moved.Path + "/" + rest
			u.setGroup(id, g)
		}
	}
	for id, p := range u.s.Projects {
		if rest, ok := strings.CutPrefix(p.Path, from+"/"); ok && u.s.Within(authz.ProjectID(id), top) {
			p.Path = moved.Path + "/" + rest
			u.setProject(id, p)
		}
	}
}

// putUser stores an account. Its user name is the path of its personal projects.
func (u *update) putUser(user authz.User) {
	old, known := u.s.Users[user.ID]
	u.setUser(user.ID, user)
	if known && old.Username != user.Username {
		for id, p := range u.s.Projects {
			if rest, ok := strings.CutPrefix(p.Path, old.Username+"/"); ok && p.Owner == user.ID {
				p.Path = user.Username + "/" + rest
				u.setProject(id, p)
			}
		}
	}
}

// takeRows learns about people from their rows. Whether a new one is a human only their own record says.
func (u *update) takeRows(rows []memberRow) {
	for _, row := range rows {
		user, ok := u.s.Users[row.User]
		if !ok {
			u.setUser(row.User, row.user) // stays without rights until it is known to be a human
			u.fromRow[row.User] = true
			u.want(authz.UserID(row.User))
			continue
		}
		if u.read[authz.UserID(row.User)] { // they were asked about themselves
			continue
		}
		if row.user.Name != "" {
			user.Name = row.user.Name
		}
		if row.user.State != "" {
			user.State = row.user.State
		}
		if row.user.Username != "" && user.Username != row.user.Username {
			user.Username = row.user.Username
			u.want(authz.UserID(row.User))
		}
		u.putUser(user)
	}
}

func (u *update) wantGroup(id int64) {
	if _, ok := u.s.Groups[id]; !ok {
		u.want(authz.GroupID(id))
	}
}

func (u *update) wantLinks(ls []authz.Link) {
	for _, l := range ls {
		u.wantGroup(l.Group)
	}
}

// wantBelow reads all subgroups and projects of a group again, and returns them.
func (u *update) wantBelow(id int64) (all []authz.SourceID) {
	below := map[int64]bool{id: true}
	for grew := true; grew; {
		grew = false
		for gid, g := range u.s.Groups {
			if below[g.Parent] && !below[gid] {
				below[gid], grew = true, true
				all = append(all, authz.GroupID(gid))
			}
		}
	}
	for pid, p := range u.s.Projects {
		if below[p.Group] {
			all = append(all, authz.ProjectID(pid))
		}
	}
	for _, id := range all {
		u.want(id)
	}
	return all
}

func (u *update) places() places {
	return places{
		group: func(path string) int64 {
			for id, g := range u.s.Groups {
				if strings.EqualFold(g.Path, path) {
					return id
				}
			}
			return 0
		},
		user: func(path string) int64 {
			for id, user := range u.s.Users {
				if strings.EqualFold(user.Username, path) {
					return id
				}
			}
			return 0
		},
	}
}

func withoutLink(in []authz.Link, group int64) ([]authz.Link, bool) {
	if !slices.ContainsFunc(in, func(l authz.Link) bool { return l.Group == group }) {
		return in, false
	}
	out := slices.DeleteFunc(slices.Clone(in), func(l authz.Link) bool { return l.Group == group })
	if len(out) == 0 {
		return nil, true
	}
	return out, true
}

func withoutMember(in []authz.Member, user int64) ([]authz.Member, bool) {
	if !slices.ContainsFunc(in, func(m authz.Member) bool { return m.User == user }) {
		return in, false
	}
	out := slices.DeleteFunc(slices.Clone(in), func(m authz.Member) bool { return m.User == user })
	if len(out) == 0 {
		return nil, true
	}
	return out, true
}

// projectsRead returns the projects that were to be read, as far as they exist, sorted.
func (u *update) projectsRead() []int64 {
	var out []int64
	for id := range maps.Keys(u.done) {
		if _, ok := u.s.Projects[id.ID]; ok && id.Kind == authz.ProjectSource {
			out = append(out, id.ID)
		}
	}
	slices.Sort(out)
	return out
}

// finish makes the Snapshot what a full reading would be. It looks at what the update can have changed alone: going through all
// members of everything with each hook would be most of what a revocation costs.
func (u *update) finish(base *authz.Snapshot, includeUsers bool) {
	if !includeUsers {
		u.dropUnnamed(base)
	}
	half := len(u.fromRow) > 0
	for id := range u.fromRow { // it is not known to be a human or none: the next reading has to ask
		u.drop(authz.UserID(id))
	}
	for id := range u.read {
		user, there := u.s.Users[id.ID]
		half = half || id.Kind == authz.UserSource && there && !isWhole(user)
	}
	if half {
		u.markIncomplete()
	}
	for id := range u.read {
		u.markMembers(id)
	}
	groups := false
	for id := range u.done {
		groups = groups || id.Kind == authz.GroupSource
	}
	if groups {
		u.inheritFlags()
		return
	}
	for id := range u.read {
		if p, there := u.s.Projects[id.ID]; there && id.Kind == authz.ProjectSource {
			above := u.s.Groups[p.Group]
			p.Archived, p.MarkedForDeletion = p.Archived || above.Archived, p.MarkedForDeletion || above.MarkedForDeletion
			u.setProject(id.ID, p)
		}
	}
}

// dropUnnamed removes those whom this update read, or took a row or a project from, and whom no row and no personal project
// names any more.
func (u *update) dropUnnamed(base *authz.Snapshot) {
	unnamed := map[int64]bool{}
	for id := range u.done {
		if id.Kind == authz.UserSource {
			unnamed[id.ID] = true
			continue
		}
		for m := range named(base, id) {
			unnamed[m] = true
		}
	}
	look := func(id authz.SourceID) (more bool) {
		for m := range named(u.s, id) {
			delete(unnamed, m)
		}
		return len(unnamed) > 0
	}
	for id := range u.read { // most of them stay where they are
		look(id)
	}
	for id := range u.s.Groups {
		if !look(authz.GroupID(id)) {
			return
		}
	}
	for id := range u.s.Projects {
		if !look(authz.ProjectID(id)) {
			return
		}
	}
	for id := range unnamed {
		u.drop(authz.UserID(id))
	}
}

func firstTime(a, b time.Time) time.Time {
	if a.IsZero() {
		return b
	}
	return a
}
