package gitlab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
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
		ID        int64  `json:"id"`
		Username  string `json:"username"`
		Name      string `json:"name"`
		State     string `json:"state"`
		Level     int    `json:"access_level"`
		ExpiresAt string `json:"expires_at"`
	}
	restLink struct {
		Group     int64  `json:"group_id"`
		Level     int    `json:"group_access_level"`
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
		Links []restLink `json:"shared_with_groups"`
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

func (g restGroup) group() authz.GitLabGroup {
	return authz.GitLabGroup{
		ID: g.ID, Parent: g.ParentID, Path: g.FullPath, CreatedAt: seconds(g.CreatedAt),
		Archived: g.Archived, MarkedForDeletion: g.DeletedOn != "", ShareLock: g.ShareLock,
	}
}

// project returns the project without members. The owner of a personal project may be named only by the path of
// his namespace; owner then has to know him.
func (p restProject) project(owner func(username string) int64) (authz.GitLabProject, error) {
	out := authz.GitLabProject{ID: p.ID, Path: p.Path, CreatedAt: seconds(p.CreatedAt), Archived: p.Archived, MarkedForDeletion: p.DeletedOn != ""}
	switch {
	case p.Namespace == nil:
		return out, errors.New("the answer does not say which namespace the project is in")
	case p.Namespace.Kind == "group":
		out.Group = p.Namespace.ID
	case p.Namespace.Kind == "user":
		if p.Owner != nil {
			out.Owner = p.Owner.ID
		} else {
			out.Owner = owner(p.Namespace.FullPath)
		}
		if out.Owner == 0 {
			return out, errors.New("the answer does not say whose personal project it is")
		}
	default:
		return out, fmt.Errorf("the project is in a namespace of the unknown kind %q", shorten(p.Namespace.Kind))
	}
	var err error
	out.Links, err = links(p.Links)
	return out, err
}

func links(in []restLink) ([]authz.Link, error) {
	seen := map[int64]authz.Link{}
	for _, l := range in {
		d, err := authz.ParseDate(l.ExpiresAt)
		if err != nil {
			return nil, fmt.Errorf("link of group %d: %w", l.Group, err)
		}
		if l.Group <= 0 || l.Level <= int(authz.NoAccess) {
			continue
		}
		seen[l.Group] = authz.Link{Group: l.Group, Level: authz.Level(l.Level), Expires: d}
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
	if user <= 0 || level <= int(authz.MinimalAccess) {
		return authz.Member{}, false, nil
	}
	d, err := authz.ParseDate(expires)
	if err != nil {
		return authz.Member{}, false, fmt.Errorf("membership of user %d: %w", user, err)
	}
	return authz.Member{User: user, Level: authz.Level(level), Expires: d}, true, nil
}

// mergeMembers sorts rows by user. A row that was seen on two pages, because rows moved while reading, counts once.
func mergeMembers(rows []memberRow) []authz.Member {
	seen := make(map[int64]authz.Member, len(rows))
	for _, r := range rows {
		seen[r.User] = r.Member
	}
	return slices.SortedFunc(maps.Values(seen), func(x, y authz.Member) int { return int(x.User - y.User) })
}

// keyset lists everything below path by GitLab's keyset pagination: the next page is only in the Link header.
// Servers that page by number instead are followed too.
func keyset[T any](ctx context.Context, a *api, path string, q url.Values, each func([]T)) error {
	q = maps.Clone(q)
	q.Set("pagination", "keyset")
	q.Set("order_by", "id")
	q.Set("sort", "asc")
	q.Set("per_page", strconv.Itoa(a.pageSize))
	for seen := map[string]bool{}; ; {
		var page []T
		resp, err := a.get(ctx, path, q, &page)
		if err != nil {
			return err
		}
		each(page)
		switch {
		case resp.NextLink != "":
			next, err := url.Parse(resp.NextLink)
			if err != nil {
				return fmt.Errorf("reading %s: the link to the next page is broken", path)
			}
			q = next.Query()
		case resp.NextPage > 0:
			q.Set("page", strconv.FormatInt(resp.NextPage, 10))
		default:
			return nil
		}
		if key := q.Encode(); seen[key] {
			return fmt.Errorf("reading %s: GitLab's pages lead in a circle", path)
		} else {
			seen[key] = true
		}
	}
}

var errMoving = errors.New("the list kept changing while it was read")

// offset lists everything below path by page numbers. Something deleted meanwhile moves later items to pages
// already read, so they would be missed: the list is read again until its count was stable and fits. Beyond
// 10,000 records GitLab names no count; such a list is read twice and merged.
func offset[T any](ctx context.Context, a *api, path string, q url.Values, id func(T) int64) ([]T, error) {
	var last map[int64]T
	for range 3 {
		items := map[int64]T{}
		read, pages := 0, 0
		var first, total int64
		counted, more := true, true
		q := maps.Clone(q)
		q.Set("per_page", strconv.Itoa(a.pageSize))
		for page := int64(1); more; pages++ {
			q.Set("page", strconv.FormatInt(page, 10))
			var got []T
			resp, err := a.get(ctx, path, q, &got)
			if err != nil {
				return nil, err
			}
			for _, it := range got {
				items[id(it)] = it
			}
			read += len(got)
			total, counted = resp.TotalItems, counted && resp.Header.Get("X-Total") != ""
			if page == 1 {
				first = total
			}
			next, named := resp.NextPage, resp.Header.Get("X-Page") != "" || resp.Header.Get("X-Next-Page") != ""
			if !named && len(got) == a.pageSize { // a server without paging headers: go on until a page is not full
				next = page + 1
			}
			more = next > page && len(got) > 0
			page = next
		}
		done := pages <= 1 || (counted && first == total && len(items) == read && int64(read) == total)
		if !done && last != nil && sameKeys(last, items) {
			done = true // twice the same: the count means something else
		}
		if !done && !counted && last != nil {
			maps.Copy(last, items)
			items, done = last, true
		}
		if done {
			keys := slices.Sorted(maps.Keys(items))
			out := make([]T, len(keys))
			for i, k := range keys {
				out[i] = items[k]
			}
			return out, nil
		}
		last = items
	}
	return nil, fmt.Errorf("reading %s: %w", path, errMoving)
}

func sameKeys[T any](a, b map[int64]T) bool {
	if len(a) != len(b) {
		return false
	}
	for k := range a {
		if _, ok := b[k]; !ok {
			return false
		}
	}
	return true
}

// sourcePath is the REST path of a group, project or user.
func sourcePath(id authz.SourceID) string { return fmt.Sprintf("%ss/%d", id.Kind, id.ID) }

// members reads the direct rows of a group or project.
func (a *api) members(ctx context.Context, id authz.SourceID) ([]memberRow, error) {
	rows, err := offset(ctx, a, sourcePath(id)+"/members", url.Values{}, func(m restMember) int64 { return m.ID })
	if err != nil {
		return nil, err
	}
	out := make([]memberRow, 0, len(rows))
	for _, m := range rows {
		row, ok, err := member(m.ID, m.Level, m.ExpiresAt)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, memberRow{Member: row, user: authz.User{ID: m.ID, Username: m.Username, Name: m.Name, State: authz.UserState(m.State)}})
		}
	}
	return out, nil
}

// group reads one group with its links.
func (a *api) group(ctx context.Context, id int64) (restGroup, error) {
	var g restGroup
	_, err := a.get(ctx, sourcePath(authz.Group(id)), url.Values{"with_projects": {"false"}}, &g)
	if err == nil && g.ID != id {
		err = fmt.Errorf("reading group %d: the answer is about group %d", id, g.ID)
	}
	return g, err
}

func (a *api) project(ctx context.Context, id int64) (restProject, error) {
	var p restProject
	_, err := a.get(ctx, sourcePath(authz.Project(id)), nil, &p)
	if err == nil && p.ID != id {
		err = fmt.Errorf("reading project %d: the answer is about project %d", id, p.ID)
	}
	return p, err
}

// user reads one account and whether it is a human, which GitLab's REST API says only by a filter of the list.
func (a *api) user(ctx context.Context, id int64, humanKnown, human bool) (authz.User, error) {
	var u restUser
	if _, err := a.get(ctx, sourcePath(authz.Person(id)), nil, &u); err != nil {
		return authz.User{}, err
	}
	if u.ID != id {
		return authz.User{}, fmt.Errorf("reading user %d: the answer is about user %d", id, u.ID)
	}
	if !humanKnown {
		var list []restUser
		if _, err := a.get(ctx, "users", url.Values{"username": {u.Username}, "humans": {"true"}}, &list); err != nil {
			return authz.User{}, err
		}
		human = slices.ContainsFunc(list, func(h restUser) bool { return h.ID == id })
	}
	out := u.user(human)
	if humanKnown {
		out.Human = human
	}
	return out, nil
}

// self tells who the token belongs to. Only administrators are shown is_admin.
func (a *api) self(ctx context.Context) (u restUser, resp *gl.Response, err error) {
	resp, err = a.get(ctx, "user", nil, &u)
	return u, resp, err
}
