package gitlab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	gl "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// The shapes of GitLab's REST answers, only what is needed: client-go's own types hold hundreds of fields, each
// of which could make a page unreadable when GitLab changes its type.
type (
	restUser struct {
		ID        int64      `json:"id"`
		Username  string     `json:"username"`
		Name      string     `json:"name"`
		State     string     `json:"state"`
		CreatedAt *time.Time `json:"created_at"`
		Bot       bool       `json:"bot"`
		IsAdmin   *bool      `json:"is_admin"`
	}
	restMember struct { // the id is the user's, created_at the membership's
		ID        *int64 `json:"id"`
		Username  string `json:"username"`
		Name      string `json:"name"`
		State     string `json:"state"`
		Level     *int   `json:"access_level"`
		ExpiresAt string `json:"expires_at"`
		Invited   string `json:"invite_email"`
	}
	restLink struct {
		Group     *int64 `json:"group_id"`
		Level     *int   `json:"group_access_level"`
		ExpiresAt string `json:"expires_at"`
	}
	restGroup struct {
		ID        int64       `json:"id"`
		ParentID  int64       `json:"parent_id"`
		FullPath  string      `json:"full_path"`
		CreatedAt *time.Time  `json:"created_at"`
		Archived  bool        `json:"archived"`
		DeletedOn string      `json:"marked_for_deletion_on"`
		ShareLock bool        `json:"share_with_group_lock"`
		Links     *[]restLink `json:"shared_with_groups"` // only in the answer for a single group
	}
	restProject struct {
		ID        int64      `json:"id"`
		Path      string     `json:"path_with_namespace"`
		CreatedAt *time.Time `json:"created_at"`
		Archived  bool       `json:"archived"`
		DeletedOn string     `json:"marked_for_deletion_on"`
		Owner     *struct {
			ID int64 `json:"id"`
		} `json:"owner"`
		Namespace *struct {
			ID       int64  `json:"id"`
			Kind     string `json:"kind"`
			FullPath string `json:"full_path"`
		} `json:"namespace"`
		Links *[]restLink `json:"shared_with_groups"`
	}
)

// tokenBot is the user name GitLab gives to the user behind a group or project access token (source: GitLab's
// members documentation). A person can take such a name, so it only counts where nothing better is known: on
// servers too old to list humans alone.
var tokenBot = regexp.MustCompile(`^(project|group)_\d+_bot(_[0-9a-f]+|\d*)$`)

func seconds(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Second) // GraphQL has no fractions
}

func (u restUser) user(human bool) authz.User {
	return authz.User{
		ID: u.ID, Username: u.Username, Name: u.Name, State: authz.UserState(u.State), CreatedAt: seconds(u.CreatedAt),
		Human: human && !u.Bot,
	}
}

func (g restGroup) group() authz.Group {
	return authz.Group{
		ID: g.ID, Parent: g.ParentID, Path: g.FullPath, CreatedAt: seconds(g.CreatedAt),
		Archived: g.Archived, MarkedForDeletion: g.DeletedOn != "", ShareLock: g.ShareLock,
	}
}

// The ids of listed objects. An object without one is half an answer, as is a membership without an id; only a pending
// invitation by e-mail has none, and counts for nobody.
func (u restUser) id() (int64, error)    { return positive(u.ID) }
func (g restGroup) id() (int64, error)   { return positive(g.ID) }
func (p restProject) id() (int64, error) { return positive(p.ID) }

func (m restMember) id() (int64, error) {
	if m.ID == nil && m.Invited != "" {
		return 0, nil
	}
	if m.ID == nil {
		return 0, errors.New("a membership has no id of a user")
	}
	return positive(*m.ID)
}

func positive(id int64) (int64, error) {
	if id <= 0 {
		return 0, fmt.Errorf("an object has the id %d, want a positive number", id)
	}
	return id, nil
}

// row makes a membership of the answer, as member does.
func (m restMember) row() (authz.Member, bool, error) {
	id, err := m.id()
	if err != nil || id == 0 {
		return authz.Member{}, false, err
	}
	if m.Level == nil {
		return authz.Member{}, false, fmt.Errorf("membership of user %d: it has no access_level", id)
	}
	return member(id, *m.Level, m.ExpiresAt)
}

// places knows groups and users by their paths, for answers that don't say of which kind a namespace is. 0 is
// "unknown". Paths are compared as a whole: GitLab gives a path to one namespace only.
type places struct {
	group, user func(path string) int64
}

// findParent finds the parent of a group that looks like a subgroup but names none. Where a group is must be certain: who
// is in its parent has rights in it.
func (p places) findParent(g *authz.Group) error {
	if g.Path == "" {
		return errors.New("the answer does not contain its path")
	}
	i := strings.LastIndexByte(g.Path, '/')
	if g.Parent != 0 || i < 0 {
		return nil
	}
	parent := p.group(g.Path[:i])
	if parent == 0 || parent == g.ID {
		return errors.New("the answer does not say which group it is in")
	}
	g.Parent = parent
	return nil
}

// project returns the project without members. Where it is must be certain: who is in the group has rights in it.
func (p restProject) project(at places) (authz.Project, error) {
	out := authz.Project{ID: p.ID, Path: p.Path, CreatedAt: seconds(p.CreatedAt), Archived: p.Archived, MarkedForDeletion: p.DeletedOn != ""}
	if p.Path == "" {
		return out, errors.New("the answer does not contain the path of the project")
	}
	n := p.Namespace
	path := p.Path[:max(0, strings.LastIndexByte(p.Path, '/'))]
	if n != nil && n.FullPath != "" {
		path = n.FullPath
	}
	kind := ""
	switch group := at.group(path); {
	case n != nil && n.Kind != "":
		kind = n.Kind
	case group != 0 && (n == nil || n.ID == 0 || n.ID == group):
		kind = "group"
		out.Group = group
	case group == 0 && !strings.Contains(path, "/") && at.user(path) != 0:
		kind = "user"
	}
	switch kind {
	case "group":
		if n != nil && n.ID != 0 {
			out.Group = n.ID
		}
		if out.Group == 0 {
			return out, errors.New("the answer does not say which group the project is in")
		}
	case "user":
		if p.Owner != nil && p.Owner.ID != 0 {
			out.Owner = p.Owner.ID
		} else {
			out.Owner = at.user(path)
		}
		if out.Owner == 0 {
			return out, errors.New("the answer does not say whose personal project it is")
		}
	case "":
		return out, errors.New("the answer does not say which namespace the project is in")
	default:
		return out, fmt.Errorf("the project is in a namespace of the unknown kind %q", shorten(kind))
	}
	if p.Links == nil {
		return out, nil
	}
	var err error
	out.Links, err = links(*p.Links)
	return out, err
}

func links(in []restLink) ([]authz.Link, error) {
	seen := map[int64]authz.Link{}
	for _, l := range in {
		if l.Group == nil || *l.Group <= 0 || l.Level == nil {
			return nil, errors.New("an invitation of a group has no group_id or no group_access_level")
		}
		d, err := authz.ParseDate(l.ExpiresAt)
		if err != nil {
			return nil, fmt.Errorf("link of group %d: %w", *l.Group, err)
		}
		if *l.Level > int(authz.NoAccess) {
			seen[*l.Group] = authz.Link{Group: *l.Group, Level: authz.Level(*l.Level), Expires: d}
		}
	}
	return slices.SortedFunc(maps.Values(seen), func(x, y authz.Link) int { return int(x.Group - y.Group) }), nil
}

// memberRow is one row as both APIs give it, with what it says about its user.
type memberRow struct {
	authz.Member
	user authz.User // by REST without Human and CreatedAt, which its rows don't tell
}

// member makes a row, or nothing for rows that are no membership: "No access", which GitLab shows where sharing
// was locked, and "Minimal access", which GraphQL never shows and which gives no right anywhere.
func member(user int64, level int, expires string) (authz.Member, bool, error) {
	if level < int(authz.NoAccess) {
		return authz.Member{}, false, fmt.Errorf("membership of user %d: there is no access level %d", user, level)
	}
	if level <= int(authz.MinimalAccess) {
		return authz.Member{}, false, nil
	}
	d, err := authz.ParseDate(expires)
	if err != nil {
		return authz.Member{}, false, fmt.Errorf("membership of user %d: %w", user, err)
	}
	return authz.Member{User: user, Level: authz.Level(level), Expires: d}, true, nil
}

// membersOf returns rows without what they say about their users.
func membersOf(rows []memberRow) []authz.Member {
	out := make([]authz.Member, len(rows))
	for i, r := range rows {
		out[i] = r.Member
	}
	return out
}

// mergeMembers sorts rows by user, in their place. A row that was seen on two pages, because rows moved while reading, counts once: as
// it was seen last.
func mergeMembers(rows []authz.Member) []authz.Member {
	if len(rows) == 0 {
		return nil
	}
	slices.SortStableFunc(rows, func(x, y authz.Member) int { return cmp.Compare(x.User, y.User) })
	out := rows[:0]
	for i, m := range rows {
		if i+1 == len(rows) || rows[i+1].User != m.User {
			out = append(out, m)
		}
	}
	if len(out) < cap(out) { // what is kept for so long has no room for more
		out = append(make([]authz.Member, 0, len(out)), out...)
	}
	return out
}

// sourcePath is the REST path of a group, project or user.
func sourcePath(id authz.SourceID) string { return fmt.Sprintf("%ss/%d", id.Kind, id.ID) }

// members reads the direct rows of a group or project.
func (a *api) members(ctx context.Context, id authz.SourceID) ([]memberRow, error) {
	rows, err := offset[restMember](ctx, a, sourcePath(id)+"/members", url.Values{})
	if err != nil {
		return nil, err
	}
	out := make([]memberRow, 0, len(rows))
	for _, m := range rows {
		row, ok, err := m.row()
		if err != nil {
			return nil, fmt.Errorf("reading %s/members: %w", sourcePath(id), err)
		}
		if ok {
			out = append(out, memberRow{Member: row, user: authz.User{ID: row.User, Username: m.Username, Name: m.Name, State: authz.UserState(m.State)}})
		}
	}
	return out, nil
}

// group reads one group with its links.
func (a *api) group(ctx context.Context, id int64) (restGroup, error) {
	var g restGroup
	_, err := a.get(ctx, sourcePath(authz.GroupID(id)), url.Values{"with_projects": {"false"}}, &g)
	if err == nil && g.ID != id {
		err = fmt.Errorf("reading group %d: the answer is about group %d", id, g.ID)
	}
	return g, err
}

func (a *api) project(ctx context.Context, id int64) (restProject, error) {
	var p restProject
	_, err := a.get(ctx, sourcePath(authz.ProjectID(id)), nil, &p)
	if err == nil && p.ID != id {
		err = fmt.Errorf("reading project %d: the answer is about project %d", id, p.ID)
	}
	return p, err
}

// user reads one account and whether it is a human, which GitLab's REST API says only by a filter of the list.
func (a *api) user(ctx context.Context, id int64, humanKnown, human bool) (authz.User, error) {
	var u restUser
	if _, err := a.get(ctx, sourcePath(authz.UserID(id)), nil, &u); err != nil {
		return authz.User{}, err
	}
	if u.ID != id {
		return authz.User{}, fmt.Errorf("reading user %d: the answer is about user %d", id, u.ID)
	}
	if u.State == "" || u.Username == "" { // who is not active has no rights: nobody is that by half an answer
		return authz.User{}, fmt.Errorf("reading user %d: the answer has no state or no username", id)
	}
	if !humanKnown {
		q := url.Values{"username": {u.Username}, "humans": {"true"}}
		list, _, _, err := page[restUser](ctx, a, "users", q)
		if err != nil {
			return authz.User{}, err
		}
		if _, human = list[id]; !human && len(list) > 0 {
			return authz.User{}, fmt.Errorf("reading user %d: the list of humans with their username holds somebody else", id)
		}
		if !human && authz.UserState(u.State) == authz.StateActive { // a bot is in the list of all
			q.Del("humans")
			if list, _, _, err = page[restUser](ctx, a, "users", q); err != nil {
				return authz.User{}, err
			}
			if _, ok := list[id]; !ok {
				return authz.User{}, fmt.Errorf("reading user %d: the list of all accounts with their username lacks them", id)
			}
		}
	}
	out := u.user(human)
	if humanKnown {
		out.Human = human
	}
	return out, nil
}

// listsGroups reports whether what answers has at least a list of groups.
func (a *api) listsGroups(ctx context.Context) bool {
	_, _, _, err := page[restGroup](ctx, a, "groups", url.Values{"per_page": {"1"}})
	return err == nil
}

// self tells who the token belongs to. Only administrators are shown is_admin.
func (a *api) self(ctx context.Context) (u restUser, resp *gl.Response, err error) {
	resp, err = a.get(ctx, "user", nil, &u)
	return u, resp, err
}

// seesAll returns errHidden unless the token is shown to be an administrator's.
func (a *api) seesAll(ctx context.Context) error {
	me, _, err := a.self(briefly(ctx, sourceTimeout))
	if err != nil {
		return err
	}
	if me.IsAdmin == nil || !*me.IsAdmin {
		return errHidden
	}
	return nil
}

// errHidden says that a 404 proves nothing.
var errHidden = errors.New("GitLab answers 404, but our token is not shown to be an administrator's: GitLab may only be hiding it")
