package gitlabsim

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// Seed is the state that a simulated GitLab starts with. Ids are optional; what has none gets one above the
// highest fixed one, in the order of the file.
type Seed struct {
	Users        []SeedUser    `json:"users,omitempty"`
	Groups       []SeedGroup   `json:"groups,omitempty"`
	Projects     []SeedProject `json:"projects,omitempty"`
	Applications []Application `json:"applications,omitempty"`
	Tokens       []SeedToken   `json:"tokens,omitempty"`
	SystemHooks  []SeedHook    `json:"systemHooks,omitempty"`
}

// SeedUser is a user. State defaults to active, type to HUMAN.
type SeedUser struct {
	ID       int64  `json:"id,omitempty"`
	Username string `json:"username"`
	Name     string `json:"name,omitempty"`
	Email    string `json:"email,omitempty"`
	Password string `json:"password,omitempty"`
	State    string `json:"state,omitempty"`
	Type     string `json:"type,omitempty"`
	Admin    bool   `json:"admin,omitempty"`
	External bool   `json:"external,omitempty"`
}

// SeedGroup is a group, named by its full path; the groups above it must be in the seed too.
type SeedGroup struct {
	ID                 int64                 `json:"id,omitempty"`
	Path               string                `json:"path"`
	Name               string                `json:"name,omitempty"`
	Visibility         string                `json:"visibility,omitempty"`
	ShareWithGroupLock bool                  `json:"shareWithGroupLock,omitempty"`
	Archived           bool                  `json:"archived,omitempty"`
	Members            map[string]SeedMember `json:"members,omitempty"` // by username
	InvitedGroups      []SeedLink            `json:"invitedGroups,omitempty"`
}

// SeedProject is a project, named by its full path: a group's or `username/path` for a personal one.
type SeedProject struct {
	ID                int64                        `json:"id,omitempty"`
	Path              string                       `json:"path"`
	Name              string                       `json:"name,omitempty"`
	Visibility        string                       `json:"visibility,omitempty"`
	DefaultBranch     string                       `json:"defaultBranch,omitempty"`
	ProtectedBranches []string                     `json:"protectedBranches,omitempty"`
	Archived          bool                         `json:"archived,omitempty"`
	Members           map[string]SeedMember        `json:"members,omitempty"`
	InvitedGroups     []SeedLink                   `json:"invitedGroups,omitempty"`
	Files             map[string]map[string]string `json:"files,omitempty"` // branch → path → content
}

// SeedMember is a role: the word alone ("developer"), or an object with role and expires.
type SeedMember struct {
	Role    string `json:"role"`
	Expires string `json:"expires,omitempty"`
}

// UnmarshalJSON accepts the word alone.
func (m *SeedMember) UnmarshalJSON(b []byte) error {
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte(`"`)) {
		return json.Unmarshal(b, &m.Role)
	}
	type plain SeedMember
	return strict(b, (*plain)(m))
}

// SeedLink is an invited group.
type SeedLink struct {
	Group   string `json:"group"` // full path
	Role    string `json:"role"`
	Expires string `json:"expires,omitempty"`
}

// SeedToken is a personal access token.
type SeedToken struct {
	Name    string    `json:"name,omitempty"`
	Token   string    `json:"token"`
	User    string    `json:"user"`
	Scopes  []string  `json:"scopes"`
	Expires time.Time `json:"expires,omitzero"`
}

// SeedHook is a system hook.
type SeedHook struct {
	URL          string `json:"url"`
	Token        string `json:"token,omitempty"`
	SigningToken string `json:"signingToken,omitempty"`
}

func strict(data []byte, into any) error {
	problems, err := kjson.UnmarshalStrict(data, into)
	return errors.Join(err, errors.Join(problems...))
}

// ParseSeed reads a seed strictly: unknown and repeated keys are errors, all reported at once.
func ParseSeed(data []byte) (Seed, error) {
	var s Seed
	j, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return Seed{}, fmt.Errorf("reading the seed: %w", err)
	}
	if err := strict(j, &s); err != nil {
		return Seed{}, fmt.Errorf("reading the seed: %w", err)
	}
	return s, nil
}

// ParseLevel reads a role name (developer, Maintainer, security manager, …).
func ParseLevel(role string) (int, error) {
	for _, l := range []int{MinimalAccess, Guest, Planner, Reporter, SecurityManager, Developer, Maintainer, Owner} {
		if strings.EqualFold(role, LevelName(l)) || strings.EqualFold(strings.ReplaceAll(role, "_", " "), LevelName(l)) {
			return l, nil
		}
	}
	return 0, fmt.Errorf("%q is no role; use guest, planner, reporter, security_manager, developer, maintainer or owner", role)
}

// Load puts a seed into the World. It reports every problem with its place in the seed, and is meant for an
// empty World: after an error the World is half filled.
func (w *World) Load(s Seed) error {
	l := &loading{World: w, seed: s}
	l.keepIDs()
	l.addUsers()
	l.addGroups()
	l.inviteGroups()
	l.addProjects()
	return errors.Join(l.problems...)
}

// loading is a seed on its way into a World.
type loading struct {
	*World
	seed     Seed
	problems []error
}

// at notes a problem, if there is one, and its place.
func (l *loading) at(err error, format string, args ...any) {
	if err != nil {
		l.problems = append(l.problems, fmt.Errorf(format+": %w", append(args, err)...))
	}
}

// keepIDs keeps the fixed ids free for those that have them.
func (l *loading) keepIDs() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, u := range l.seed.Users {
		l.nextUser = max(l.nextUser, u.ID+1)
	}
	for _, g := range l.seed.Groups {
		l.nextNamespace = max(l.nextNamespace, g.ID+1)
	}
	for _, p := range l.seed.Projects {
		l.nextProject = max(l.nextProject, p.ID+1)
	}
}

func (l *loading) addUsers() {
	for i, u := range l.seed.Users {
		if u.State != "" && !validState(u.State) {
			l.at(fmt.Errorf("%q is no user state; use active, blocked, ldap_blocked, blocked_pending_approval, banned or deactivated", u.State), "users[%d].state", i)
			continue
		}
		_, err := l.AddUser(User{
			ID: u.ID, Username: u.Username, Name: u.Name, Email: u.Email, Password: u.Password,
			State: u.State, Type: u.Type, Admin: u.Admin, External: u.External,
		})
		l.at(err, "users[%d] %q", i, u.Username)
	}
}

// addGroups adds them from the top down, without their invitations.
func (l *loading) addGroups() {
	order := make([]int, len(l.seed.Groups))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(strings.Count(l.seed.Groups[a].Path, "/"), strings.Count(l.seed.Groups[b].Path, "/"))
	})
	for _, i := range order {
		sg := l.seed.Groups[i]
		where := fmt.Sprintf("groups[%d]", i)
		parent, path := splitPath(sg.Path)
		g := Group{
			ID: sg.ID, Path: path, Name: sg.Name, Visibility: sg.Visibility, SelfArchived: sg.Archived,
			ShareWithGroupLock: sg.ShareWithGroupLock, Members: l.members(where, sg.Members),
		}
		if parent != "" {
			if g.ParentID = l.groupID(parent); g.ParentID == 0 {
				l.at(fmt.Errorf("no group %q in the seed", parent), "%s.path %q", where, sg.Path)
				continue
			}
		}
		_, err := l.AddGroup(g)
		l.at(err, "%s %q", where, sg.Path)
	}
}

// members are the rows of a group or project.
func (l *loading) members(where string, in map[string]SeedMember) []Member {
	var out []Member
	for _, name := range slices.Sorted(maps.Keys(in)) {
		m := in[name]
		level, err := ParseLevel(m.Role)
		l.at(err, "%s.members.%s", where, name)
		l.at(checkDate(m.Expires), "%s.members.%s.expires", where, name)
		var id int64
		l.View(func(v *View) {
			if u := v.UserByName(name); u != nil {
				id = u.ID
			}
		})
		if id == 0 {
			l.at(errors.New("no such user in the seed"), "%s.members.%s", where, name)
			continue
		}
		out = append(out, Member{UserID: id, Level: level, ExpiresAt: m.Expires})
	}
	return out
}

// groupID is 0 where there is no such group.
func (l *loading) groupID(path string) (id int64) {
	l.View(func(v *View) {
		if g := v.GroupByPath(path); g != nil {
			id = g.ID
		}
	})
	return id
}

func (l *loading) inviteGroups() {
	for i, sg := range l.seed.Groups {
		if id := l.groupID(sg.Path); id != 0 {
			l.links(fmt.Sprintf("groups[%d]", i), sg.InvitedGroups, func(invited int64, level int, expires string) error {
				return l.ShareGroup(id, invited, level, expires)
			})
		}
	}
}

// links invites groups into a group or project, by share.
func (l *loading) links(where string, in []SeedLink, share func(invited int64, level int, expires string) error) {
	for j, link := range in {
		level, err := ParseLevel(link.Role)
		l.at(err, "%s.invitedGroups[%d].role", where, j)
		l.at(checkDate(link.Expires), "%s.invitedGroups[%d].expires", where, j)
		invited := l.groupID(link.Group)
		if invited == 0 {
			l.at(fmt.Errorf("no group %q in the seed", link.Group), "%s.invitedGroups[%d].group", where, j)
		} else if err == nil {
			l.at(share(invited, level, link.Expires), "%s.invitedGroups[%d]", where, j)
		}
	}
}

func (l *loading) addProjects() {
	for i, sp := range l.seed.Projects {
		where := fmt.Sprintf("projects[%d]", i)
		namespace, path := splitPath(sp.Path)
		p := Project{
			ID: sp.ID, Path: path, Name: sp.Name, Visibility: sp.Visibility, DefaultBranch: sp.DefaultBranch,
			SelfArchived: sp.Archived, ProtectedBranches: sp.ProtectedBranches, Files: sp.Files, Members: l.members(where, sp.Members),
		}
		l.View(func(v *View) {
			if g := v.GroupByPath(namespace); g != nil {
				p.NamespaceID = g.ID
			} else if u := v.UserByName(namespace); u != nil {
				p.NamespaceID = u.NamespaceID
			}
		})
		if p.NamespaceID == 0 {
			l.at(fmt.Errorf("no group or user %q in the seed", namespace), "%s.path %q", where, sp.Path)
			continue
		}
		id, err := l.AddProject(p)
		l.at(err, "%s %q", where, sp.Path)
		if err == nil {
			l.links(where, sp.InvitedGroups, func(invited int64, level int, expires string) error {
				// Not ShareProject: a link may be older than the lock that makes it void.
				return l.change(func(c *changes) error {
					return c.share(&c.Project(id).Links, l.invitedIntoProject, id, invited, level, expires)
				})
			})
		}
	}
}

func splitPath(full string) (parent, path string) {
	if i := strings.LastIndexByte(full, '/'); i >= 0 {
		return full[:i], full[i+1:]
	}
	return "", full
}

func checkDate(date string) error {
	if date == "" {
		return nil
	}
	if _, err := time.Parse(time.DateOnly, date); err != nil {
		return fmt.Errorf("%q is no date; write YYYY-MM-DD", date)
	}
	return nil
}

// load puts everything of a seed into the server.
func (s *Server) load(seed Seed) error {
	problems := []error{s.world.Load(seed)}
	for i, a := range seed.Applications {
		if err := s.AddApplication(a); err != nil {
			problems = append(problems, fmt.Errorf("applications[%d]: %w", i, err))
		}
	}
	for i, t := range seed.Tokens {
		if err := s.AddToken(t); err != nil {
			problems = append(problems, fmt.Errorf("tokens[%d]: %w", i, err))
		}
	}
	for i, h := range seed.SystemHooks {
		if _, err := s.AddSystemHook(h); err != nil {
			problems = append(problems, fmt.Errorf("systemHooks[%d]: %w", i, err))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("loading the seed: %w", err)
	}
	return nil
}
