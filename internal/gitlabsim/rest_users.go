package gitlabsim

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// usersAPI is about users, their memberships and their personal projects.
type usersAPI struct{ projectLists }

func mountUsers(at routes[usersAPI]) {
	at.get("/user", usersAPI.currentUser)
	at.get("/users", usersAPI.listUsers)
	at.get("/users/:user_id", usersAPI.getUser)
	at.get("/users/:user_id/memberships", usersAPI.userMemberships)
	at.get("/users/:user_id/projects", usersAPI.userProjects)
	for action, state := range map[string]string{
		"block": StateBlocked, "unblock": StateActive, "ban": StateBanned,
		"unban": StateActive, "deactivate": StateDeactivated, "activate": StateActive,
	} {
		at.post("/users/:user_id/"+action, func(c usersAPI) error { return c.setUserState(state) })
	}
}

func (c usersAPI) currentUser() error {
	if err := c.requireUser(); err != nil {
		return err
	}
	return c.answer(http.StatusOK, c.fullUser(c.user, true, c.user.Admin))
}

func (c usersAPI) targetUser(v *View) (*User, error) {
	id, err := strconv.ParseInt(c.vars["user_id"], 10, 64)
	if err != nil {
		return nil, badParameter("id is invalid")
	}
	u := v.User(id)
	if u == nil {
		return nil, notFound("User")
	}
	return u, nil
}

func (c usersAPI) getUser() error {
	if err := c.requireUser(); err != nil {
		return err
	}
	var body map[string]any
	err := c.view(func(v *View) error {
		u, err := c.targetUser(v)
		if err != nil {
			return err
		}
		body = c.fullUser(u, c.admin(), c.admin())
		return nil
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, body)
}

func (c usersAPI) setUserState(state string) error {
	if err := c.requireAdmin(); err != nil {
		return err
	}
	id, err := strconv.ParseInt(c.vars["user_id"], 10, 64)
	if err != nil {
		return badParameter("id is invalid")
	}
	if err := c.s.world.SetUserState(id, state); err != nil {
		return err
	}
	return c.answer(http.StatusCreated, true)
}

// userFilter is what GET /users chooses and sorts by.
type userFilter struct {
	flags            map[string]bool
	order, direction string
	username, search string
	byName, admin    bool // a username is given; the caller is an administrator
}

func (c usersAPI) userFilter() (userFilter, error) {
	f := userFilter{flags: map[string]bool{}, admin: c.admin()}
	for _, k := range []string{"active", "blocked", "humans", "external", "admins", "exclude_active", "exclude_external", "exclude_humans", "exclude_internal", "without_project_bots"} {
		v, _, err := c.flag(k)
		if err != nil {
			return f, err
		}
		f.flags[k] = v // "false" is the same as absent: GitLab supports no active=false
	}
	orders := []string{"id", "name", "username", "created_at", "updated_at"}
	var err error
	if f.order, err = c.oneOf("order_by", "id", orders...); err != nil {
		return f, err
	}
	if f.direction, err = c.oneOf("sort", "desc", "asc", "desc"); err != nil {
		return f, err
	}
	f.username, f.byName = c.text("username")
	f.search, _ = c.text("search")
	return f, nil
}

func (f userFilter) keeps(u *User) bool {
	internal := u.Type != "HUMAN" && u.Type != "PROJECT_BOT" && u.Type != "SERVICE_USER" && u.Type != "SERVICE_ACCOUNT"
	switch {
	case f.byName && !strings.EqualFold(u.Username, f.username),
		f.flags["active"] && (u.State != StateActive || internal),
		f.flags["blocked"] && u.State != StateBlocked && u.State != StateLDAPBlocked,
		f.flags["humans"] && u.Type != "HUMAN",
		f.flags["external"] && !u.External,
		f.flags["admins"] && f.admin && !u.Admin,
		f.flags["exclude_active"] && u.State == StateActive,
		f.flags["exclude_external"] && u.External,
		f.flags["exclude_humans"] && u.Type == "HUMAN",
		f.flags["exclude_internal"] && internal,
		f.flags["without_project_bots"] && u.Type == "PROJECT_BOT",
		f.search != "" && !contains(f.search, u.Username, u.Name) && !strings.EqualFold(f.search, u.Email):
		return false
	}
	return true
}

func (f userFilter) compare(a, b *User) int {
	n := 0
	switch f.order {
	case "name":
		n = cmp.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name))
	case "username":
		n = cmp.Compare(a.Username, b.Username)
	case "created_at", "updated_at":
		n = a.CreatedAt.Compare(b.CreatedAt)
	}
	n = cmp.Or(n, cmp.Compare(a.ID, b.ID))
	if f.direction == "desc" {
		return -n
	}
	return n
}

func (c usersAPI) listUsers() error {
	if err := c.requireUser(); err != nil {
		return err
	}
	filter, err := c.userFilter()
	if err != nil {
		return err
	}
	var found []*User
	c.s.world.View(func(v *View) {
		for _, u := range v.Users() {
			if filter.keeps(u) {
				copied := *u
				found = append(found, &copied)
			}
		}
	})
	slices.SortFunc(found, filter.compare)
	var page []*User
	if c.keyset() {
		per, err := c.perPage()
		if err != nil {
			return err
		}
		if page, err = c.afterCursor(found, per, filter.compare); err != nil {
			return err
		}
	} else if page, err = paginate(c.call, found, "User"); err != nil {
		return err
	}
	out := make([]map[string]any, len(page))
	for i, u := range page {
		if c.admin() {
			out[i] = c.fullUser(u, true, true)
		} else {
			out[i] = basicUser(c.s.url, u)
		}
	}
	return c.answer(http.StatusOK, out)
}

// afterCursor cuts a keyset page of users: the cursor is the place of the last user of the page before, so that
// the walk goes on at the right place also when that user has vanished.
func (c usersAPI) afterCursor(users []*User, per int, compare func(a, b *User) int) ([]*User, error) {
	if text, ok := c.text("cursor"); ok && text != "" {
		var last User
		raw, err := base64.URLEncoding.DecodeString(text)
		if err != nil || json.Unmarshal(raw, &last) != nil {
			return nil, badParameter("cursor is invalid")
		}
		i := slices.IndexFunc(users, func(u *User) bool { return compare(u, &last) > 0 })
		if i < 0 {
			i = len(users)
		}
		users = users[i:]
	}
	page := users[:min(per, len(users))]
	if per < len(users) {
		last := page[len(page)-1]
		raw, err := json.Marshal(User{ID: last.ID, Name: last.Name, Username: last.Username, CreatedAt: last.CreatedAt})
		if err != nil {
			return nil, err
		}
		c.nextPage("cursor", base64.URLEncoding.EncodeToString(raw), per)
	}
	return page, nil
}

func contains(search string, in ...string) bool {
	return slices.ContainsFunc(in, func(s string) bool { return strings.Contains(strings.ToLower(s), strings.ToLower(search)) })
}

// userMemberships lists direct memberships; administrators only.
func (c usersAPI) userMemberships() error {
	if err := c.requireAdmin(); err != nil {
		return err
	}
	kind, err := c.oneOf("type", "", "Project", "Namespace")
	if err != nil {
		return err
	}
	out := []map[string]any{}
	err = c.view(func(v *View) error {
		u, err := c.targetUser(v)
		if err != nil {
			return err
		}
		row := func(id int64, name, source string, level int) {
			if kind == "" || kind == source {
				out = append(out, map[string]any{"source_id": id, "source_name": name, "source_type": source, "access_level": level})
			}
		}
		groups, projects := v.MembershipsOf(u.ID)
		for _, id := range projects {
			row(id, v.Project(id).Name, "Project", v.Project(id).Member(u.ID).Level)
		}
		for _, id := range groups {
			row(id, v.Group(id).Name, "Namespace", v.Group(id).Member(u.ID).Level)
		}
		return nil
	})
	if err != nil {
		return err
	}
	page, err := paginate(c.call, out, "")
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, page)
}

func (c usersAPI) userProjects() error {
	var found []*Project
	var out []map[string]any
	err := c.view(func(v *View) error {
		u, err := c.targetUser(v)
		if err != nil {
			return err
		}
		for _, p := range v.ProjectsOf(u.NamespaceID) {
			if v.canReadProject(c.user, p) {
				found = append(found, p)
			}
		}
		out, err = c.projectPage(v, found)
		return err
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, out)
}
