package gitlabsim

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// View is read access to a World, valid during one call of World.View.
type View struct{ w *model }

// Users returns all users by ascending id.
func (v *View) Users() []*User { return collect(v.w.userIDs, v.w.users) }

// Groups returns all groups by ascending id.
func (v *View) Groups() []*Group { return collect(v.w.groupIDs, v.w.groups) }

// Projects returns all projects by ascending id.
func (v *View) Projects() []*Project { return collect(v.w.projectIDs, v.w.projects) }

func collect[T any](ids []int64, m map[int64]*T) []*T {
	out := make([]*T, len(ids))
	for i, id := range ids {
		out[i] = m[id]
	}
	return out
}

// User returns the user with this id, or nil.
func (v *View) User(id int64) *User { return v.w.users[id] }

// Group returns the group with this id, or nil.
func (v *View) Group(id int64) *Group { return v.w.groups[id] }

// Project returns the project with this id, or nil.
func (v *View) Project(id int64) *Project { return v.w.projects[id] }

// UserByName returns the user with this username (case-insensitive, as in GitLab), or nil.
func (v *View) UserByName(name string) *User { return v.w.users[v.w.userNames[strings.ToLower(name)]] }

// GroupByPath returns the group with this full path (case-insensitive), or nil.
func (v *View) GroupByPath(path string) *Group {
	return v.w.groups[v.w.groupPaths[strings.ToLower(path)]]
}

// ProjectByPath returns the project with this full path (case-insensitive), or nil.
func (v *View) ProjectByPath(path string) *Project {
	return v.w.projects[v.w.projectPaths[strings.ToLower(path)]]
}

// UserOfNamespace returns the user whose personal namespace has this id, or nil.
func (v *View) UserOfNamespace(namespaceID int64) *User {
	return v.w.users[v.w.namespaceOfUser[namespaceID]]
}

// Ancestors returns the group's ancestors, nearest first, without the group itself.
func (v *View) Ancestors(g *Group) []*Group {
	var out []*Group
	for p := v.w.groups[g.ParentID]; p != nil; p = v.w.groups[p.ParentID] {
		out = append(out, p)
	}
	return out
}

// SelfAndAncestors returns the group and its ancestors, nearest first.
func (v *View) SelfAndAncestors(g *Group) []*Group { return append([]*Group{g}, v.Ancestors(g)...) }

// Subgroups returns the direct subgroups (0: the top-level groups) by ascending id.
func (v *View) Subgroups(groupID int64) []*Group { return collect(v.w.subgroups[groupID], v.w.groups) }

// Descendants returns all groups below groupID by ascending id.
func (v *View) Descendants(groupID int64) []*Group {
	var out []*Group
	for _, g := range v.Subgroups(groupID) {
		out = append(append(out, g), v.Descendants(g.ID)...)
	}
	slices.SortFunc(out, func(a, b *Group) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// ProjectsOf returns the projects directly in a namespace (group id or a user's NamespaceID) by ascending id.
func (v *View) ProjectsOf(namespaceID int64) []*Project {
	return collect(v.w.projectsOf[namespaceID], v.w.projects)
}

// GroupOf returns the group that a project lies in, or nil for a personal project.
func (v *View) GroupOf(p *Project) *Group { return v.w.groups[p.NamespaceID] }

// GroupsInvitedTo returns the ids of the groups and projects that groupID was invited into, ascending.
func (v *View) GroupsInvitedTo(groupID int64) (groups, projects []int64) {
	return slices.Clone(v.w.invitedIntoGroup[groupID]), slices.Clone(v.w.invitedIntoProject[groupID])
}

// MembershipsOf returns the ids of the groups and projects in which the user has a direct row, ascending.
func (v *View) MembershipsOf(userID int64) (groups, projects []int64) {
	return slices.Clone(v.w.memberOfGroup[userID]), slices.Clone(v.w.memberOfProject[userID])
}

// FullPath returns the group's path with all its ancestors.
func (v *View) FullPath(g *Group) string {
	path := g.Path
	for p := v.w.groups[g.ParentID]; p != nil; p = v.w.groups[p.ParentID] {
		path = p.Path + "/" + path
	}
	return path
}

// FullName returns the group's name with all its ancestors, as GitLab shows it.
func (v *View) FullName(g *Group) string {
	name := g.Name
	for p := v.w.groups[g.ParentID]; p != nil; p = v.w.groups[p.ParentID] {
		name = p.Name + " / " + name
	}
	return name
}

// NamespacePath returns the full path of the namespace a project lies in.
func (v *View) NamespacePath(p *Project) string {
	if g := v.GroupOf(p); g != nil {
		return v.FullPath(g)
	}
	if u := v.UserOfNamespace(p.NamespaceID); u != nil {
		return u.Username
	}
	return ""
}

// ProjectPath returns the project's path with namespace.
func (v *View) ProjectPath(p *Project) string { return v.NamespacePath(p) + "/" + p.Path }

// GroupArchived says whether the group or one of its ancestors is archived.
func (v *View) GroupArchived(id int64) bool {
	for g := v.w.groups[id]; g != nil; g = v.w.groups[g.ParentID] {
		if g.SelfArchived {
			return true
		}
	}
	return false
}

// ProjectArchived says whether the project or one of its groups is archived.
func (v *View) ProjectArchived(id int64) bool {
	p := v.w.projects[id]
	return p != nil && (p.SelfArchived || v.GroupArchived(p.NamespaceID))
}

func (v *View) groupMarked(g *Group) bool {
	return slices.ContainsFunc(v.SelfAndAncestors(g), func(a *Group) bool { return a.MarkedForDeletionOn != "" })
}

func (v *View) projectMarked(p *Project) bool {
	g := v.GroupOf(p)
	return p.MarkedForDeletionOn != "" || g != nil && v.groupMarked(g)
}

// Now is the time of the simulated GitLab.
func (v *View) Now() time.Time { return v.w.now() }

func (v *View) namespaceFree(id int64) bool {
	return v.w.groups[id] == nil && v.w.namespaceOfUser[id] == 0
}

func (v *View) freeNamespace() int64 { return v.w.nextNamespace }

// taken says whether a full path is in use: users, groups and projects share one set of routes.
func (v *View) taken(full string) bool {
	k := strings.ToLower(full)
	return v.w.userNames[k] != 0 || v.w.groupPaths[k] != 0 || v.w.projectPaths[k] != 0
}

func (v *View) sees(u *User, visibility string) bool {
	switch visibility {
	case Public:
		return true
	case Internal:
		return u != nil && !u.External
	}
	return false
}

// canReadGroup: members of the group, and members of something below it, see a private group.
func (v *View) canReadGroup(u *User, g *Group) bool {
	if u != nil && u.Admin || v.sees(u, g.Visibility) {
		return true
	}
	return u != nil && v.belongs(u.ID, g)
}

func (v *View) belongs(userID int64, g *Group) bool {
	if v.GroupLevel(g.ID, userID) > NoAccess {
		return true
	}
	for _, p := range v.ProjectsOf(g.ID) {
		if v.projectLevel(p, userID) > NoAccess {
			return true
		}
	}
	for _, sub := range v.Subgroups(g.ID) {
		if v.belongs(userID, sub) {
			return true
		}
	}
	return false
}

func (v *View) canReadProject(u *User, p *Project) bool {
	if u != nil && u.Admin || v.sees(u, p.Visibility) {
		return true
	}
	return u != nil && v.projectLevel(p, u.ID) >= Guest
}
