package gitlabsim

import (
	"cmp"
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

func avatar(_ string, u *User) string {
	sum := md5.Sum([]byte(strings.ToLower(u.Email)))
	return "https://www.gravatar.com/avatar/" + hex.EncodeToString(sum[:]) + "?s=80&d=identicon"
}

// basicUser is Entities::UserBasic.
func basicUser(base string, u *User) map[string]any {
	if u == nil {
		return nil
	}
	return map[string]any{
		"id": u.ID, "username": u.Username, "name": u.Name, "state": u.State, "locked": false,
		"public_email": "", "avatar_url": avatar(base, u), "web_url": base + "/" + u.Username,
	}
}

func isBot(u *User) bool { return u.Type != "HUMAN" && u.Type != "GHOST" && u.Type != "PLACEHOLDER" }

// fullUser is Entities::User; with private it is UserPublic, with admin also UserWithAdmin.
func (c *call) fullUser(u *User, private, admin bool) map[string]any {
	m := basicUser(c.s.url, u)
	add := func(in map[string]any) {
		maps.Copy(m, in)
	}
	add(map[string]any{
		"created_at": apiTime(u.CreatedAt), "bio": "", "location": "", "skype": "", "linkedin": "", "twitter": "", "discord": "",
		"website_url": "", "organization": "", "job_title": "", "pronouns": nil, "bot": isBot(u), "work_information": nil, "local_time": nil,
		"followers": 0, "following": 0, "is_followed": false,
	})
	if private {
		var signedIn any
		c.s.access.mu.Lock()
		if t, ok := c.s.access.signedIn[u.ID]; ok {
			signedIn = apiTime(t)
		}
		c.s.access.mu.Unlock()
		add(map[string]any{
			"last_sign_in_at": signedIn, "confirmed_at": apiTime(u.CreatedAt), "last_activity_on": nil, "email": u.Email,
			"theme_id": 3, "color_scheme_id": 1, "projects_limit": 100000, "current_sign_in_at": signedIn, "identities": []any{},
			"can_create_group": true, "can_create_project": true, "two_factor_enabled": false, "external": u.External,
			"private_profile": false, "commit_email": u.Email,
		})
	}
	if admin {
		add(map[string]any{
			"is_admin": u.Admin, "note": nil, "namespace_id": u.NamespaceID, "created_by": nil, "highest_role": nil, "email_reset_offered_at": nil,
			"current_sign_in_ip": nil, "last_sign_in_ip": nil, "sign_in_count": 0,
		})
	}
	return m
}

func (c *call) currentUser() error {
	if err := c.requireUser(); err != nil {
		return err
	}
	return c.answer(http.StatusOK, c.fullUser(c.user, true, c.user.Admin))
}

func (c *call) targetUser(v *View) (*User, error) {
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

func (c *call) getUser() error {
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

func (c *call) setUserState(state string) error {
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

func (c *call) listUsers() error {
	if err := c.requireUser(); err != nil {
		return err
	}
	flags := map[string]bool{}
	for _, k := range []string{"active", "blocked", "humans", "external", "admins", "exclude_active", "exclude_external", "exclude_humans", "exclude_internal", "without_project_bots"} {
		v, _, err := c.flag(k)
		if err != nil {
			return err
		}
		flags[k] = v // "false" is the same as absent: GitLab supports no active=false
	}
	orders := []string{"id", "name", "username", "created_at", "updated_at"}
	order, err := c.oneOf("order_by", "id", orders...)
	if err != nil {
		return err
	}
	direction, err := c.oneOf("sort", "desc", "asc", "desc")
	if err != nil {
		return err
	}
	username, byName := c.text("username")
	search, _ := c.text("search")
	var found []*User
	c.s.world.View(func(v *View) {
		for _, u := range v.Users() {
			internal := u.Type != "HUMAN" && u.Type != "PROJECT_BOT" && u.Type != "SERVICE_USER" && u.Type != "SERVICE_ACCOUNT"
			switch {
			case byName && !strings.EqualFold(u.Username, username),
				flags["active"] && (u.State != StateActive || internal),
				flags["blocked"] && u.State != StateBlocked && u.State != StateLDAPBlocked,
				flags["humans"] && u.Type != "HUMAN",
				flags["external"] && !u.External,
				flags["admins"] && c.admin() && !u.Admin,
				flags["exclude_active"] && u.State == StateActive,
				flags["exclude_external"] && u.External,
				flags["exclude_humans"] && u.Type == "HUMAN",
				flags["exclude_internal"] && internal,
				flags["without_project_bots"] && u.Type == "PROJECT_BOT",
				search != "" && !contains(search, u.Username, u.Name) && !strings.EqualFold(search, u.Email):
				continue
			}
			copied := *u
			found = append(found, &copied)
		}
	})
	compare := func(a, b *User) int {
		n := 0
		switch order {
		case "name":
			n = cmp.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name))
		case "username":
			n = cmp.Compare(a.Username, b.Username)
		case "created_at", "updated_at":
			n = a.CreatedAt.Compare(b.CreatedAt)
		}
		n = cmp.Or(n, cmp.Compare(a.ID, b.ID))
		if direction == "desc" {
			return -n
		}
		return n
	}
	slices.SortFunc(found, compare)
	var page []*User
	if c.keyset() {
		per, err := c.perPage()
		if err != nil {
			return err
		}
		if page, err = c.afterCursor(found, per, compare); err != nil {
			return err
		}
	} else if page, err = paginate(c, found, "User"); err != nil {
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
func (c *call) afterCursor(users []*User, per int, compare func(a, b *User) int) ([]*User, error) {
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
func (c *call) userMemberships() error {
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
	page, err := paginate(c, out, "")
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, page)
}

func (c *call) userProjects() error {
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
