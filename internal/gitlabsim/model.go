// Package gitlabsim is a simulated self-managed GitLab over HTTPS: OpenID Connect provider, REST v4, GraphQL,
// system hooks and CI job tokens, all on one consistent in-memory model. The demo, the tests and the
// benchmarks run against it.
//
// It promises to be as strict as GitLab where this program could otherwise pass for the wrong reason: paging,
// visibility, error bodies, membership semantics, masking rules, single use of codes and refresh tokens. It
// computes effective membership with its own code, so that it can be compared with package authz. It listens
// on loopback only. It is not a GitLab: there is no Git, no web interface beyond a login form, and what this
// program does not use is absent.
package gitlabsim

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// GitLab's access levels.
const (
	NoAccess        = 0
	MinimalAccess   = 5
	Guest           = 10
	Planner         = 15
	Reporter        = 20
	SecurityManager = 25
	Developer       = 30
	Maintainer      = 40
	Owner           = 50
)

// User states. A user who is not StateActive can't log in and gets no token.
const (
	StateActive      = "active"
	StateBlocked     = "blocked"
	StateLDAPBlocked = "ldap_blocked"
	StatePending     = "blocked_pending_approval"
	StateBanned      = "banned"
	StateDeactivated = "deactivated"
)

// Visibility levels of groups and projects.
const (
	Private  = "private"
	Internal = "internal"
	Public   = "public"
)

// SourceKind tells groups and projects apart where either may be named by id.
type SourceKind string

// The two kinds of things that have members.
const (
	KindGroup   SourceKind = "group"
	KindProject SourceKind = "project"
)

// User is a GitLab user of any type.
type User struct {
	ID          int64
	Username    string
	Name        string
	Email       string
	Password    string
	State       string // StateActive, StateBlocked, …
	Type        string // "HUMAN", "PROJECT_BOT", "SERVICE_ACCOUNT", "GHOST", …
	Admin       bool
	External    bool
	CreatedAt   time.Time
	NamespaceID int64 // the personal namespace; ids of namespaces and groups come from one sequence
}

// Group is a group or subgroup.
type Group struct {
	ID, ParentID        int64 // ParentID 0 = top level
	Path                string
	Name                string
	Visibility          string
	CreatedAt           time.Time
	SelfArchived        bool
	MarkedForDeletionOn string // YYYY-MM-DD or ""
	ShareWithGroupLock  bool   // projects of this group can't be shared with groups; GitLab copies it to all descendants
	Members             []Member
	Links               []GroupLink // groups invited into this group
}

// Project is a project in a group or in a user's personal namespace.
type Project struct {
	ID                  int64
	NamespaceID         int64 // group id, or the user's NamespaceID
	OwnerID             int64 // user id of a personal project, else 0
	Path                string
	Name                string
	Visibility          string
	DefaultBranch       string
	CreatedAt           time.Time
	SelfArchived        bool
	MarkedForDeletionOn string
	Members             []Member
	Links               []GroupLink // groups invited into this project
	ProtectedBranches   []string
	Variables           []Variable
	Environments        []Environment
	Clusters            []Cluster
	Agents              []Agent
	Files               map[string]map[string]string // branch -> path -> content
}

// Member is one direct membership row.
type Member struct {
	ID           int64
	UserID       int64 // 0 = pending invitation by e-mail
	Level        int
	ExpiresAt    string // YYYY-MM-DD or ""
	CreatedAt    time.Time
	CreatedByID  int64
	MemberRoleID int64
}

// GroupLink says that a group was invited.
type GroupLink struct {
	GroupID   int64 // the invited group
	Level     int   // the most that members of the invited group get
	ExpiresAt string
}

// Variable is a project CI/CD variable.
type Variable struct {
	ID                                                      int64 // given by the World
	Key, Value, VariableType, EnvironmentScope, Description string
	Protected, Masked, Hidden, Raw                          bool
}

// Cluster is a certificate-based integration of a Kubernetes cluster with one project (deprecated since GitLab 14.5).
type Cluster struct {
	ID                                     int64
	Name, EnvironmentScope, Domain         string
	Enabled, Managed, PerEnvironment       bool
	APIURL, CACert, Namespace, Token, Auth string
	UserID                                 int64
	CreatedAt                              time.Time
}

// Agent is a GitLab agent for Kubernetes. Its configuration is .gitlab/agents/NAME/config.yaml on the default branch of
// the project.
type Agent struct {
	ID        int64
	Name      string
	UserID    int64
	CreatedAt time.Time
}

// Environment is a deployment environment of a project.
type Environment struct {
	ID                      int64
	Name, Slug, State, Tier string
	CreatedAt               time.Time
}

// EffectiveMember is one row of GitLab's members/all.
type EffectiveMember struct {
	Member
	Kind     SourceKind // where the row (not necessarily the level) comes from
	SourceID int64
}

// Event is one system hook payload.
type Event struct {
	Name    string
	Payload map[string]any
}

// Error is a refusal in GitLab's words. Body is what the REST API answers.
type Error struct {
	Status int
	Body   map[string]any
}

func (e *Error) Error() string {
	for _, k := range []string{"message", "error"} {
		if v, ok := e.Body[k]; ok {
			return fmt.Sprintf("GitLab answers %d: %v", e.Status, v)
		}
	}
	return fmt.Sprintf("GitLab answers %d", e.Status)
}

func message(status int, v any) *Error {
	return &Error{Status: status, Body: map[string]any{"message": v}}
}

func invalid(attr string, problems ...string) *Error {
	return message(http.StatusBadRequest, map[string]any{attr: problems})
}

func notFound(what string) *Error {
	return message(http.StatusNotFound, strings.Join(strings.Fields("404 "+what+" Not Found"), " "))
}

// World is the consistent model behind everything. Every change goes through a method that also emits the
// system hooks GitLab would send for it (and none where GitLab sends none).
type World struct {
	now  func() time.Time
	emit func([]Event) // called after the lock is released; nil = nobody listens

	mu       sync.RWMutex
	users    map[int64]*User
	groups   map[int64]*Group
	projects map[int64]*Project
	// Sorted ids and path indexes are kept so that a list of 10,000 projects doesn't sort for each page.
	userIDs, groupIDs, projectIDs        []int64
	nextUser, nextNamespace, nextProject int64
	nextMember, nextEnvironment          int64
	nextVariable, nextCluster, nextAgent int64
	namespaceOfUser                      map[int64]int64   // personal namespace id -> user id
	subgroups, projectsOf                map[int64][]int64 // sorted ids
	userNames, groupPaths, projectPaths  map[string]int64  // lower-cased full path -> id
	invitedIntoGroup, invitedIntoProject map[int64][]int64 // invited group -> groups/projects
	memberOfGroup, memberOfProject       map[int64][]int64 // user -> groups/projects with a direct row
}

// NewWorld returns an empty World. now is the clock of created_at and of expiry.
func NewWorld(now func() time.Time) *World {
	if now == nil {
		now = time.Now
	}
	return &World{
		now: now, users: map[int64]*User{}, groups: map[int64]*Group{}, projects: map[int64]*Project{},
		nextUser: 1, nextNamespace: 1, nextProject: 1, nextMember: 1, nextEnvironment: 1,
		nextVariable: 1, nextCluster: 1, nextAgent: 1,
		namespaceOfUser: map[int64]int64{}, subgroups: map[int64][]int64{}, projectsOf: map[int64][]int64{},
		userNames: map[string]int64{}, groupPaths: map[string]int64{}, projectPaths: map[string]int64{},
		invitedIntoGroup: map[int64][]int64{}, invitedIntoProject: map[int64][]int64{},
		memberOfGroup: map[int64][]int64{}, memberOfProject: map[int64][]int64{},
	}
}

// View calls f with read access. Nothing that v hands out may be changed, or kept after f returns; f must not
// call methods of the World.
func (w *World) View(f func(v *View)) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	f(&View{w: w})
}

// change runs f under the write lock and then emits the events that f recorded.
func (w *World) change(f func(c *changes) error) error {
	w.mu.Lock()
	c := &changes{View: View{w: w}}
	err := f(c)
	w.mu.Unlock()
	if err == nil && w.emit != nil && len(c.events) > 0 {
		w.emit(c.events)
	}
	return err
}

// changes is write access plus the events of one change.
type changes struct {
	View
	events []Event
}

// View is read access to a World, valid during one call of World.View.
type View struct{ w *World }

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

// Now is the time of the simulated GitLab.
func (v *View) Now() time.Time { return v.w.now() }

// Member returns the direct row of a user in a group, or nil.
func (g *Group) Member(userID int64) *Member { return memberOf(g.Members, userID) }

// Member returns the direct row of a user in a project, or nil.
func (p *Project) Member(userID int64) *Member { return memberOf(p.Members, userID) }

func memberOf(ms []Member, userID int64) *Member {
	for i := range ms {
		if ms[i].UserID == userID && userID != 0 {
			return &ms[i]
		}
	}
	return nil
}

// AddUser adds a user; ID, NamespaceID, CreatedAt, State and Type are filled in where zero. Hook: user_create.
func (w *World) AddUser(u User) (int64, error) {
	err := w.change(func(c *changes) error {
		if err := checkPath("username", u.Username); err != nil {
			return err
		}
		if c.taken(u.Username) {
			return message(http.StatusConflict, "Username has already been taken")
		}
		if u.ID != 0 && w.users[u.ID] != nil {
			return message(http.StatusConflict, fmt.Sprintf("ID %d has already been taken", u.ID))
		}
		if u.NamespaceID != 0 && !c.namespaceFree(u.NamespaceID) {
			return message(http.StatusConflict, fmt.Sprintf("namespace ID %d has already been taken", u.NamespaceID))
		}
		u.ID = take(&w.nextUser, u.ID)
		if u.NamespaceID == 0 {
			u.NamespaceID = c.freeNamespace()
		}
		take(&w.nextNamespace, u.NamespaceID)
		u.Name, u.State, u.Type = cmp.Or(u.Name, u.Username), cmp.Or(u.State, StateActive), cmp.Or(u.Type, "HUMAN")
		u.Email = cmp.Or(u.Email, strings.ToLower(u.Username)+"@example.com")
		u.CreatedAt = w.created(u.CreatedAt)
		w.users[u.ID] = &u
		insert(&w.userIDs, u.ID)
		w.userNames[strings.ToLower(u.Username)] = u.ID
		w.namespaceOfUser[u.NamespaceID] = u.ID
		c.userEvent("user_create", &u)
		return nil
	})
	return u.ID, err
}

// RenameUser changes the username. Hook: user_rename.
func (w *World) RenameUser(id int64, username string) error {
	return w.change(func(c *changes) error {
		u := c.User(id)
		if u == nil {
			return notFound("User")
		}
		if err := checkPath("username", username); err != nil {
			return err
		}
		if !strings.EqualFold(u.Username, username) && c.taken(username) {
			return message(http.StatusConflict, "Username has already been taken")
		}
		old := u.Username
		u.Username = username
		c.reindex()
		e := c.userEvent("user_rename", u)
		e["old_username"] = old
		return nil
	})
}

// SetUserState blocks, unblocks, deactivates or bans. GitLab sends no system hook for it.
func (w *World) SetUserState(id int64, state string) error {
	return w.change(func(c *changes) error {
		u := c.User(id)
		if u == nil {
			return notFound("User")
		}
		if !validState(state) {
			return message(http.StatusBadRequest, fmt.Sprintf("state %q does not exist", state))
		}
		u.State = state
		return nil
	})
}

// SetUserFlags sets administrator and external. GitLab sends no system hook for it.
func (w *World) SetUserFlags(id int64, admin, external bool) error {
	return w.change(func(c *changes) error {
		u := c.User(id)
		if u == nil {
			return notFound("User")
		}
		u.Admin, u.External = admin, external
		return nil
	})
}

// DeleteUser removes a user with memberships and personal projects. Hooks: user_remove_from_* for the rows,
// project_destroy for the projects, user_destroy.
func (w *World) DeleteUser(id int64) error {
	return w.change(func(c *changes) error {
		u := c.User(id)
		if u == nil {
			return notFound("User")
		}
		for _, p := range c.ProjectsOf(u.NamespaceID) {
			c.deleteProject(p)
		}
		groups, projects := c.MembershipsOf(id)
		for _, gid := range groups {
			c.dropMember(KindGroup, gid, id)
		}
		for _, pid := range projects {
			c.dropMember(KindProject, pid, id)
		}
		c.userEvent("user_destroy", u)
		delete(w.users, id)
		remove(&w.userIDs, id)
		delete(w.userNames, strings.ToLower(u.Username))
		delete(w.namespaceOfUser, u.NamespaceID)
		return nil
	})
}

// AddGroup adds a group. Members and Links in g are taken as they are: they stand for a state that was
// reached in some allowed order. Hooks: group_create, user_add_to_group for each member.
func (w *World) AddGroup(g Group) (int64, error) {
	err := w.change(func(c *changes) error {
		if err := checkPath("path", g.Path); err != nil {
			return err
		}
		full := g.Path
		if g.ParentID != 0 {
			parent := c.Group(g.ParentID)
			if parent == nil {
				return notFound("Group")
			}
			full = c.FullPath(parent) + "/" + g.Path
			// GitLab copies the lock of the parent (Namespace#sync_share_with_group_lock_with_parent).
			g.ShareWithGroupLock = g.ShareWithGroupLock || parent.ShareWithGroupLock
			if g.Visibility == "" {
				g.Visibility = parent.Visibility
			}
		}
		if c.taken(full) {
			return message(http.StatusBadRequest, `Failed to save group {:path=>["has already been taken"]}`)
		}
		g.Visibility = cmp.Or(g.Visibility, Private)
		if err := checkVisibility(g.Visibility); err != nil {
			return err
		}
		if g.ID != 0 && !c.namespaceFree(g.ID) {
			return message(http.StatusConflict, fmt.Sprintf("ID %d has already been taken", g.ID))
		}
		if err := errors.Join(c.checkRows(g.Members), c.checkLinks(g.Links)); err != nil {
			return err
		}
		if g.ID == 0 {
			g.ID = c.freeNamespace()
		}
		take(&w.nextNamespace, g.ID)
		g.Name, g.CreatedAt = cmp.Or(g.Name, g.Path), w.created(g.CreatedAt)
		g.Members, g.Links = c.fillRows(g.Members), slices.Clone(g.Links)
		w.groups[g.ID] = &g
		insert(&w.groupIDs, g.ID)
		insertInto(w.subgroups, g.ParentID, g.ID)
		w.groupPaths[strings.ToLower(full)] = g.ID
		c.groupEvent("group_create", &g)
		for _, m := range g.Members {
			c.joined(KindGroup, g.ID, m)
		}
		for _, l := range g.Links {
			insertInto(w.invitedIntoGroup, l.GroupID, g.ID)
		}
		return nil
	})
	return g.ID, err
}

// RenameGroup changes path and name ("" keeps). Hook: group_rename if the path changed, else none.
func (w *World) RenameGroup(id int64, path, name string) error {
	return w.change(func(c *changes) error {
		g := c.Group(id)
		if g == nil {
			return notFound("Group")
		}
		g.Name = cmp.Or(name, g.Name)
		if path == "" || path == g.Path {
			return nil
		}
		return c.renameGroup(g, path)
	})
}

func (c *changes) renameGroup(g *Group, path string) error {
	if err := checkPath("path", path); err != nil {
		return err
	}
	oldPath, oldFull := g.Path, c.FullPath(g)
	full := strings.TrimSuffix(oldFull, oldPath) + path
	if !strings.EqualFold(full, oldFull) && c.taken(full) {
		return message(http.StatusBadRequest, map[string]any{"path": []string{"has already been taken"}})
	}
	g.Path = path
	c.reindex()
	e := c.groupEvent("group_rename", g)
	e["full_path"], e["old_path"], e["old_full_path"] = full, oldPath, oldFull
	return nil
}

// TransferGroup moves a group below another one (0: to the top). GitLab sends no system hook for it.
func (w *World) TransferGroup(id, parentID int64) error {
	return w.change(func(c *changes) error {
		g := c.Group(id)
		if g == nil {
			return notFound("Group")
		}
		full := g.Path
		if parentID != 0 {
			parent := c.Group(parentID)
			if parent == nil {
				return notFound("Group")
			}
			if slices.Contains(c.SelfAndAncestors(parent), g) {
				return message(http.StatusBadRequest, "Transfer failed: Cannot transfer group to one of its subgroups.")
			}
			full = c.FullPath(parent) + "/" + g.Path
		}
		if c.taken(full) {
			return message(http.StatusBadRequest, "Transfer failed: The parent group already has a subgroup or a project with the same path.")
		}
		removeFrom(w.subgroups, g.ParentID, id)
		g.ParentID = parentID
		insertInto(w.subgroups, parentID, id)
		c.reindex()
		return nil
	})
}

// SetGroupVisibility changes the visibility. GitLab sends no system hook for it.
func (w *World) SetGroupVisibility(id int64, visibility string) error {
	return w.change(func(c *changes) error {
		g := c.Group(id)
		if g == nil {
			return notFound("Group")
		}
		if err := checkVisibility(visibility); err != nil {
			return err
		}
		g.Visibility = visibility
		return nil
	})
}

// SetGroupArchived archives or unarchives a group. GitLab sends no system hook for it.
func (w *World) SetGroupArchived(id int64, archived bool) error {
	return w.change(func(c *changes) error {
		g := c.Group(id)
		if g == nil {
			return notFound("Group")
		}
		g.SelfArchived = archived
		return nil
	})
}

// SetShareWithGroupLock forbids (or allows) sharing projects of the group with other groups. Turning it on
// also locks all descendants, as in GitLab. No system hook.
func (w *World) SetShareWithGroupLock(id int64, locked bool) error {
	return w.change(func(c *changes) error {
		g := c.Group(id)
		if g == nil {
			return notFound("Group")
		}
		g.ShareWithGroupLock = locked
		if locked {
			for _, d := range c.Descendants(id) {
				d.ShareWithGroupLock = true
			}
		}
		return nil
	})
}

// MarkGroupForDeletion schedules the deletion: the path becomes <path>-deletion_scheduled-<id>. Hook: group_rename.
func (w *World) MarkGroupForDeletion(id int64) error {
	return w.change(func(c *changes) error {
		g := c.Group(id)
		if g == nil {
			return notFound("Group")
		}
		g.MarkedForDeletionOn = w.now().UTC().Format(time.DateOnly)
		return c.renameGroup(g, fmt.Sprintf("%s-deletion_scheduled-%d", g.Path, g.ID))
	})
}

// DeleteGroup destroys a group with subgroups and projects. Hooks: user_remove_from_*, project_destroy,
// group_destroy for each. Links of the group vanish without a hook.
func (w *World) DeleteGroup(id int64) error {
	return w.change(func(c *changes) error {
		g := c.Group(id)
		if g == nil {
			return notFound("Group")
		}
		c.deleteGroup(g)
		return nil
	})
}

func (c *changes) deleteGroup(g *Group) {
	w := c.w
	for _, sub := range c.Subgroups(g.ID) {
		c.deleteGroup(sub)
	}
	for _, p := range c.ProjectsOf(g.ID) {
		c.deleteProject(p)
	}
	for _, m := range slices.Clone(g.Members) {
		c.dropMember(KindGroup, g.ID, m.UserID)
	}
	for _, l := range g.Links {
		removeFrom(w.invitedIntoGroup, l.GroupID, g.ID)
	}
	groups, projects := c.GroupsInvitedTo(g.ID)
	for _, id := range groups {
		w.groups[id].Links = withoutLink(w.groups[id].Links, g.ID)
	}
	for _, id := range projects {
		w.projects[id].Links = withoutLink(w.projects[id].Links, g.ID)
	}
	delete(w.invitedIntoGroup, g.ID)
	delete(w.invitedIntoProject, g.ID)
	c.groupEvent("group_destroy", g)
	delete(w.groupPaths, strings.ToLower(c.FullPath(g)))
	removeFrom(w.subgroups, g.ParentID, g.ID)
	delete(w.groups, g.ID)
	remove(&w.groupIDs, g.ID)
}

// AddProject adds a project. Name it by NamespaceID (group or personal namespace) or by OwnerID (personal). The
// owner of a personal project gets an Owner row, as in GitLab. Hooks: project_create, user_add_to_team.
func (w *World) AddProject(p Project) (int64, error) {
	err := w.change(func(c *changes) error {
		if err := checkPath("path", p.Path); err != nil {
			return err
		}
		if p.OwnerID != 0 && p.NamespaceID == 0 {
			u := c.User(p.OwnerID)
			if u == nil {
				return notFound("User")
			}
			p.NamespaceID = u.NamespaceID
		}
		owner := c.UserOfNamespace(p.NamespaceID)
		if owner == nil && c.Group(p.NamespaceID) == nil {
			return message(http.StatusBadRequest, map[string]any{"namespace": []string{"is not valid"}})
		}
		if owner != nil {
			p.OwnerID = owner.ID
			if memberOf(p.Members, owner.ID) == nil {
				p.Members = append([]Member{{UserID: owner.ID, Level: Owner}}, p.Members...)
			}
		} else {
			p.OwnerID = 0
		}
		full := c.ProjectPath(&p)
		if c.taken(full) {
			return message(http.StatusBadRequest, map[string]any{"path": []string{"has already been taken"}})
		}
		p.Visibility = cmp.Or(p.Visibility, Private)
		if err := checkVisibility(p.Visibility); err != nil {
			return err
		}
		if p.ID != 0 && w.projects[p.ID] != nil {
			return message(http.StatusConflict, fmt.Sprintf("ID %d has already been taken", p.ID))
		}
		if err := errors.Join(c.checkRows(p.Members), c.checkLinks(p.Links)); err != nil {
			return err
		}
		p.ID = take(&w.nextProject, p.ID)
		p.Name, p.CreatedAt, p.DefaultBranch = cmp.Or(p.Name, p.Path), w.created(p.CreatedAt), cmp.Or(p.DefaultBranch, "main")
		p.Members, p.Links = c.fillRows(p.Members), slices.Clone(p.Links)
		p.ProtectedBranches, p.Variables = slices.Clone(p.ProtectedBranches), slices.Clone(p.Variables)
		for i := range p.Variables {
			p.Variables[i].ID = take(&w.nextVariable, p.Variables[i].ID)
		}
		p.Environments = slices.Clone(p.Environments)
		files := map[string]map[string]string{}
		for branch, content := range p.Files {
			files[branch] = maps.Clone(content)
		}
		p.Files = files
		w.projects[p.ID] = &p
		insert(&w.projectIDs, p.ID)
		insertInto(w.projectsOf, p.NamespaceID, p.ID)
		w.projectPaths[strings.ToLower(full)] = p.ID
		c.projectEvent("project_create", &p)
		for _, m := range p.Members {
			c.joined(KindProject, p.ID, m)
		}
		for _, l := range p.Links {
			insertInto(w.invitedIntoProject, l.GroupID, p.ID)
		}
		return nil
	})
	return p.ID, err
}

// RenameProject changes path and name ("" keeps). Hook: project_rename if the path changed, else project_update.
func (w *World) RenameProject(id int64, path, name string) error {
	return w.change(func(c *changes) error {
		p := c.Project(id)
		if p == nil {
			return notFound("Project")
		}
		p.Name = cmp.Or(name, p.Name)
		if path == "" || path == p.Path {
			c.projectEvent("project_update", p)
			return nil
		}
		return c.renameProject(p, path)
	})
}

func (c *changes) renameProject(p *Project, path string) error {
	if err := checkPath("path", path); err != nil {
		return err
	}
	old, full := c.ProjectPath(p), c.NamespacePath(p)+"/"+path
	if !strings.EqualFold(old, full) && c.taken(full) {
		return message(http.StatusBadRequest, map[string]any{"path": []string{"has already been taken"}})
	}
	p.Path = path
	c.reindex()
	e := c.projectEvent("project_rename", p)
	e["old_path_with_namespace"] = old
	return nil
}

// TransferProject moves a project into another namespace. Hook: project_transfer.
func (w *World) TransferProject(id, namespaceID int64) error {
	return w.change(func(c *changes) error {
		p := c.Project(id)
		if p == nil {
			return notFound("Project")
		}
		owner := c.UserOfNamespace(namespaceID)
		if owner == nil && c.Group(namespaceID) == nil {
			return notFound("Namespace")
		}
		moved := *p
		moved.NamespaceID = namespaceID
		if c.taken(c.ProjectPath(&moved)) {
			return message(http.StatusBadRequest, "Project with same name or path in target namespace already exists")
		}
		old := c.ProjectPath(p)
		removeFrom(w.projectsOf, p.NamespaceID, id)
		p.NamespaceID, p.OwnerID = namespaceID, 0
		if owner != nil {
			p.OwnerID = owner.ID
		}
		insertInto(w.projectsOf, namespaceID, id)
		c.reindex()
		e := c.projectEvent("project_transfer", p)
		e["old_path_with_namespace"] = old
		return nil
	})
}

// SetProjectArchived archives or unarchives a project. Hook: project_update.
func (w *World) SetProjectArchived(id int64, archived bool) error {
	return w.updateProject(id, func(p *Project) error { p.SelfArchived = archived; return nil })
}

// SetProjectVisibility changes the visibility. Hook: project_update.
func (w *World) SetProjectVisibility(id int64, visibility string) error {
	return w.updateProject(id, func(p *Project) error {
		if err := checkVisibility(visibility); err != nil {
			return err
		}
		p.Visibility = visibility
		return nil
	})
}

func (w *World) updateProject(id int64, f func(*Project) error) error {
	return w.change(func(c *changes) error {
		p := c.Project(id)
		if p == nil {
			return notFound("Project")
		}
		if err := f(p); err != nil {
			return err
		}
		c.projectEvent("project_update", p)
		return nil
	})
}

// MarkProjectForDeletion schedules the deletion: the path becomes <path>-deletion_scheduled-<id>. Hook: project_rename.
func (w *World) MarkProjectForDeletion(id int64) error {
	return w.change(func(c *changes) error {
		p := c.Project(id)
		if p == nil {
			return notFound("Project")
		}
		p.MarkedForDeletionOn = w.now().UTC().Format(time.DateOnly)
		return c.renameProject(p, fmt.Sprintf("%s-deletion_scheduled-%d", p.Path, p.ID))
	})
}

// DeleteProject destroys a project. Hooks: user_remove_from_team for each row, project_destroy.
func (w *World) DeleteProject(id int64) error {
	return w.change(func(c *changes) error {
		p := c.Project(id)
		if p == nil {
			return notFound("Project")
		}
		c.deleteProject(p)
		return nil
	})
}

func (c *changes) deleteProject(p *Project) {
	w := c.w
	for _, m := range slices.Clone(p.Members) {
		c.dropMember(KindProject, p.ID, m.UserID)
	}
	for _, l := range p.Links {
		removeFrom(w.invitedIntoProject, l.GroupID, p.ID)
	}
	c.projectEvent("project_destroy", p)
	delete(w.projectPaths, strings.ToLower(c.ProjectPath(p)))
	removeFrom(w.projectsOf, p.NamespaceID, p.ID)
	delete(w.projects, p.ID)
	remove(&w.projectIDs, p.ID)
}

// PutFile writes a file on a branch of a project (there is no Git behind it, so no push hook either).
func (w *World) PutFile(projectID int64, branch, path, content string) error {
	return w.change(func(c *changes) error {
		p := c.Project(projectID)
		if p == nil {
			return notFound("Project")
		}
		if p.Files[branch] == nil {
			p.Files[branch] = map[string]string{}
		}
		p.Files[branch][path] = content
		return nil
	})
}

// SetProtectedBranches replaces the list of protected branches (names, `*` as wildcard). No system hook.
func (w *World) SetProtectedBranches(projectID int64, branches ...string) error {
	return w.change(func(c *changes) error {
		p := c.Project(projectID)
		if p == nil {
			return notFound("Project")
		}
		p.ProtectedBranches = slices.Clone(branches)
		return nil
	})
}

// Helpers of the model.

func (w *World) created(t time.Time) time.Time {
	if t.IsZero() {
		t = w.now()
	}
	return t.UTC().Truncate(time.Millisecond)
}

func take(next *int64, id int64) int64 {
	if id == 0 {
		id = *next
	}
	*next = max(*next, id+1)
	return id
}

func (v *View) namespaceFree(id int64) bool {
	return v.w.groups[id] == nil && v.w.namespaceOfUser[id] == 0
}

func (v *View) freeNamespace() int64 { return v.w.nextNamespace }

// taken says whether a full path is in use: users, groups and projects share one set of routes.
func (v *View) taken(full string) bool {
	k := strings.ToLower(full)
	return v.w.userNames[k] != 0 || v.w.groupPaths[k] != 0 || v.w.projectPaths[k] != 0
}

// reindex rebuilds the path indexes after a rename or a move, which may change many paths.
func (c *changes) reindex() {
	w := c.w
	clear(w.userNames)
	clear(w.groupPaths)
	clear(w.projectPaths)
	for id, u := range w.users {
		w.userNames[strings.ToLower(u.Username)] = id
	}
	for id, g := range w.groups {
		w.groupPaths[strings.ToLower(c.FullPath(g))] = id
	}
	for id, p := range w.projects {
		w.projectPaths[strings.ToLower(c.ProjectPath(p))] = id
	}
}

func insert(ids *[]int64, id int64) {
	if i, found := slices.BinarySearch(*ids, id); !found {
		*ids = slices.Insert(*ids, i, id)
	}
}

func remove(ids *[]int64, id int64) {
	if i, found := slices.BinarySearch(*ids, id); found {
		*ids = slices.Delete(*ids, i, i+1)
	}
}

func insertInto(m map[int64][]int64, key, id int64) {
	ids := m[key]
	insert(&ids, id)
	m[key] = ids
}

func removeFrom(m map[int64][]int64, key, id int64) {
	ids := m[key]
	remove(&ids, id)
	if len(ids) == 0 {
		delete(m, key)
		return
	}
	m[key] = ids
}

func withoutLink(links []GroupLink, groupID int64) []GroupLink {
	return slices.DeleteFunc(slices.Clone(links), func(l GroupLink) bool { return l.GroupID == groupID })
}

// pathPattern is GitLab's rule for a path segment (lib/gitlab/path_regex.rb, without the reserved words).
var pathPattern = regexp.MustCompile(`^[a-zA-Z0-9_.][a-zA-Z0-9_.\-]{0,254}$`)

func checkPath(attr, path string) error {
	if !pathPattern.MatchString(path) || strings.HasSuffix(path, ".") || strings.HasSuffix(path, ".git") || strings.HasSuffix(path, ".atom") {
		return invalid(attr, "can contain only letters, digits, '_', '-' and '.'. Cannot start with '-', end in '.', '.git' or end in '.atom'")
	}
	return nil
}

func checkVisibility(v string) error {
	if v != Private && v != Internal && v != Public {
		return &Error{Status: http.StatusBadRequest, Body: map[string]any{"error": "visibility does not have a valid value"}}
	}
	return nil
}

func validState(s string) bool {
	switch s {
	case StateActive, StateBlocked, StateLDAPBlocked, StatePending, StateBanned, StateDeactivated:
		return true
	}
	return false
}

func (v *View) groupMarked(g *Group) bool {
	return slices.ContainsFunc(v.SelfAndAncestors(g), func(a *Group) bool { return a.MarkedForDeletionOn != "" })
}

func (v *View) projectMarked(p *Project) bool {
	g := v.GroupOf(p)
	return p.MarkedForDeletionOn != "" || g != nil && v.groupMarked(g)
}
