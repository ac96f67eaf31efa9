package gitlabsim

import (
	"net/http"
	"slices"
	"strconv"
)

// membersAPI is about the members of groups and projects.
type membersAPI struct{ entities }

func mountMembers(at routes[membersAPI]) {
	for kind, path := range map[SourceKind]string{KindGroup: "/groups/:id", KindProject: "/projects/:id"} {
		bind := func(f func(membersAPI, SourceKind) error) func(membersAPI) error {
			return func(c membersAPI) error { return f(c, kind) }
		}
		at.get(path+"/members", bind(membersAPI.listMembers))
		at.get(path+"/members/all", bind(membersAPI.listAllMembers))
		at.get(path+"/members/all/:user_id", bind(membersAPI.getInheritedMember))
		at.get(path+"/members/:user_id", bind(membersAPI.getMember))
		at.post(path+"/members", bind(membersAPI.addMember))
		at.put(path+"/members/:user_id", bind(membersAPI.editMember))
		at.del(path+"/members/:user_id", bind(membersAPI.removeMember))
	}
}

// source finds the group or project of the path.
func (c membersAPI) source(v *View, kind SourceKind) (g *Group, p *Project, err error) {
	if kind == KindGroup {
		g, err = c.group(v)
	} else {
		p, err = c.project(v)
	}
	return g, p, err
}

// directRows are the direct members by row id, without pending invitations (non_invite).
func directRows(g *Group, p *Project) []Member {
	var rows []Member
	if g != nil {
		rows = slices.Clone(g.Members)
	} else {
		rows = slices.Clone(p.Members)
	}
	return slices.DeleteFunc(rows, func(m Member) bool { return m.UserID == 0 })
}

// allRows are the rows of members/all as this caller gets them: somebody who is not a member sees members of
// invited groups only if the invited group is visible to them (https://docs.gitlab.com/api/group_members/).
func (c membersAPI) allRows(v *View, g *Group, p *Project) []Member {
	member := c.admin()
	if c.user != nil && !member {
		if g != nil {
			member = v.GroupLevel(g.ID, c.user.ID) > NoAccess
		} else {
			member = v.projectLevel(p, c.user.ID) > NoAccess
		}
	}
	show := func(invited *Group) bool {
		return member || v.sees(c.user, invited.Visibility) || c.user != nil && v.GroupLevel(invited.ID, c.user.ID) > NoAccess
	}
	var rows []EffectiveMember
	if g != nil {
		rows = sorted(v.groupRows(g, show))
	} else {
		rows = sorted(v.projectRows(p, show))
	}
	out := make([]Member, len(rows))
	for i, r := range rows {
		out[i] = r.Member
	}
	return out
}

func (c membersAPI) memberPage(kind SourceKind, pick func(v *View, g *Group, p *Project) []Member) error {
	query, _ := c.text("query")
	wanted, skipped := map[string]bool{}, map[string]bool{}
	for key, set := range map[string]map[string]bool{"user_ids": wanted, "skip_users": skipped} {
		switch ids := c.params[key].(type) {
		case []string:
			for _, id := range ids {
				set[id] = true
			}
		case string:
			set[ids] = true
		}
	}
	out := []map[string]any{}
	err := c.view(func(v *View) error {
		g, p, err := c.source(v, kind)
		if err != nil {
			return err
		}
		rows := slices.DeleteFunc(pick(v, g, p), func(m Member) bool {
			u, id := v.User(m.UserID), strconv.FormatInt(m.UserID, 10)
			return len(wanted) > 0 && !wanted[id] || skipped[id] || query != "" && !contains(query, u.Username, u.Name)
		})
		if rows, err = paginate(c.call, rows, ""); err != nil {
			return err
		}
		for _, m := range rows {
			out = append(out, c.member(v, m))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, out)
}

func (c membersAPI) listMembers(kind SourceKind) error {
	return c.memberPage(kind, func(_ *View, g *Group, p *Project) []Member { return directRows(g, p) })
}

func (c membersAPI) listAllMembers(kind SourceKind) error {
	state, err := c.oneOf("state", "", "awaiting", "active")
	if err != nil {
		return err
	}
	return c.memberPage(kind, func(v *View, g *Group, p *Project) []Member {
		if state == "awaiting" {
			return nil
		}
		return c.allRows(v, g, p)
	})
}

func (c membersAPI) oneMember(kind SourceKind, pick func(v *View, g *Group, p *Project) []Member) error {
	id, err := c.memberID()
	if err != nil {
		return err
	}
	return c.answerMember(http.StatusOK, kind, id, pick)
}

func (c membersAPI) answerMember(status int, kind SourceKind, id int64, pick func(v *View, g *Group, p *Project) []Member) error {
	var body map[string]any
	err := c.view(func(v *View) error {
		g, p, err := c.source(v, kind)
		if err != nil {
			return err
		}
		rows := pick(v, g, p)
		m := memberOf(rows, id)
		if m == nil {
			return message(http.StatusNotFound, "404 Not found")
		}
		body = c.member(v, *m)
		return nil
	})
	if err != nil {
		return err
	}
	return c.answer(status, body)
}

func (c membersAPI) memberID() (int64, error) {
	id, err := strconv.ParseInt(c.vars["user_id"], 10, 64)
	if err != nil {
		return 0, badParameter("user_id is invalid")
	}
	return id, nil
}

func (c membersAPI) getMember(kind SourceKind) error {
	return c.oneMember(kind, func(_ *View, g *Group, p *Project) []Member { return directRows(g, p) })
}

func (c membersAPI) getInheritedMember(kind SourceKind) error { return c.oneMember(kind, c.allRows) }

// manage demands the role that may manage members, and returns the source's id and that role.
func (c membersAPI) manage(kind SourceKind) (id int64, level int, err error) {
	err = c.view(func(v *View) error {
		if kind == KindGroup {
			g, err := c.groupAtLeast(v, Owner)
			if err == nil {
				id, level = g.ID, Owner
			}
			return err
		}
		p, err := c.projectAtLeast(v, Maintainer)
		if err == nil {
			id, level = p.ID, v.projectLevel(p, c.user.ID)
		}
		return err
	})
	if c.admin() {
		level = Owner
	}
	return id, level, err
}

// levelParam reads access_level. Nobody gives more than they have.
func (c membersAPI) levelParam(own int) (int, error) {
	n, _, err := c.number("access_level")
	if err != nil {
		return 0, err
	}
	if int(n) > own {
		return 0, message(http.StatusForbidden, "403 Forbidden")
	}
	return int(n), nil
}

func (c membersAPI) direct(kind SourceKind, id, userID int64) (m Member, found bool) {
	c.s.world.View(func(v *View) {
		var row *Member
		if kind == KindGroup {
			row = v.Group(id).Member(userID)
		} else {
			row = v.Project(id).Member(userID)
		}
		if row != nil {
			m, found = *row, true
		}
	})
	return m, found
}

func (c membersAPI) addMember(kind SourceKind) error {
	id, own, err := c.manage(kind)
	if err != nil {
		return err
	}
	if err := c.require("access_level"); err != nil {
		return err
	}
	if !c.has("user_id") && !c.has("username") {
		return badParameter("user_id, username are missing, at least one parameter must be provided")
	}
	level, err := c.levelParam(own)
	if err != nil {
		return err
	}
	userID, _, err := c.number("user_id")
	if err != nil {
		return err
	}
	if name, ok := c.text("username"); ok {
		c.s.world.View(func(v *View) {
			if u := v.UserByName(name); u != nil {
				userID = u.ID
			}
		})
	}
	if _, found := c.direct(kind, id, userID); found {
		return message(http.StatusConflict, "Member already exists")
	}
	expires, _ := c.text("expires_at")
	role, _, err := c.number("member_role_id")
	if err != nil {
		return err
	}
	if err := c.s.world.setMember(kind, id, userID, level, expires, role, c.user.ID); err != nil {
		return err
	}
	return c.answerMember(http.StatusCreated, kind, userID, func(_ *View, g *Group, p *Project) []Member { return directRows(g, p) })
}

func (c membersAPI) editMember(kind SourceKind) error {
	id, own, err := c.manage(kind)
	if err != nil {
		return err
	}
	if err := c.require("access_level"); err != nil {
		return err
	}
	userID, err := c.memberID()
	if err != nil {
		return err
	}
	old, found := c.direct(kind, id, userID)
	if !found {
		return message(http.StatusNotFound, "404 Not found")
	}
	level, err := c.levelParam(own)
	if err != nil {
		return err
	}
	if old.Level > own {
		return message(http.StatusForbidden, "403 Forbidden")
	}
	expires := old.ExpiresAt
	if c.has("expires_at") {
		expires, _ = c.text("expires_at") // null and "" take the date away
	}
	role, _, err := c.number("member_role_id")
	if err != nil {
		return err
	}
	if err := c.s.world.setMember(kind, id, userID, level, expires, role, c.user.ID); err != nil {
		return err
	}
	return c.answerMember(http.StatusOK, kind, userID, func(_ *View, g *Group, p *Project) []Member { return directRows(g, p) })
}

func (c membersAPI) removeMember(kind SourceKind) error {
	userID, err := c.memberID()
	if err != nil {
		return err
	}
	if err := c.requireUser(); err != nil {
		return err
	}
	id, own, err := c.manage(kind)
	if err != nil && userID == c.user.ID {
		// Everybody may leave.
		own = Owner
		err = c.view(func(v *View) error {
			g, p, err := c.source(v, kind)
			if g != nil {
				id = g.ID
			} else if p != nil {
				id = p.ID
			}
			return err
		})
	}
	if err != nil {
		return err
	}
	m, found := c.direct(kind, id, userID)
	if !found {
		return message(http.StatusNotFound, "404 Not found")
	}
	if m.Level > own {
		return message(http.StatusForbidden, "403 Forbidden")
	}
	if err := c.s.world.RemoveMember(kind, id, userID); err != nil {
		return err
	}
	return c.answer(http.StatusNoContent, nil)
}
