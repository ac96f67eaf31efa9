package gitlabsim

import (
	"fmt"
	"net/http"
	"slices"
	"time"
)

// memberChanges are what happens to memberships and to invitations of groups.
type memberChanges struct{ *model }

// SetMember adds a direct member or changes level and expiry of one. Hooks: user_add_to_group/_team or
// user_update_for_group/_team. It refuses what GitLab refuses, e.g. a level below the inherited one.
func (w memberChanges) SetMember(kind SourceKind, id, userID int64, level int, expires string) error {
	return w.setMember(kind, id, userID, level, expires, 0, 0)
}

// SetMemberRole is SetMember with a custom role (member_role_id; level is the base level of the role).
func (w memberChanges) SetMemberRole(kind SourceKind, id, userID int64, level int, expires string, memberRoleID int64) error {
	return w.setMember(kind, id, userID, level, expires, memberRoleID, 0)
}

func (w memberChanges) setMember(kind SourceKind, id, userID int64, level int, expires string, roleID, byID int64) error {
	return w.change(func(c *changes) error {
		rows, ancestors, err := c.rows(kind, id)
		if err != nil {
			return err
		}
		if c.User(userID) == nil {
			return notFound("User")
		}
		if c.holder(kind, id, userID) {
			return message(http.StatusForbidden, "403 Forbidden")
		}
		if !validLevel(level) && (kind != KindGroup || level != MinimalAccess) {
			return badParameter("access_level does not have a valid value")
		}
		if expires != "" {
			if _, err := time.Parse(time.DateOnly, expires); err != nil {
				return badParameter("expires_at is invalid")
			}
			if expires < w.today() {
				return invalid("expires_at", "cannot be a date in the past")
			}
		}
		for _, g := range ancestors {
			if m := g.Member(userID); m != nil && m.Level > level {
				return invalid("access_level", fmt.Sprintf("should be greater than or equal to %s inherited membership from group %s", LevelName(m.Level), g.Name))
			}
		}
		event := "update"
		if m := memberOf(*rows, userID); m != nil {
			m.Level, m.ExpiresAt, m.MemberRoleID = level, expires, roleID
		} else {
			event = "add"
			*rows = append(*rows, c.fillRows([]Member{{UserID: userID, Level: level, ExpiresAt: expires, MemberRoleID: roleID, CreatedByID: byID}})...)
			insertInto(w.memberIndex(kind), userID, id)
		}
		c.memberEvent(event, kind, id, *memberOf(*rows, userID))
		return nil
	})
}

// InviteEmail adds a pending invitation (a row without a user). GitLab sends no hook until it is accepted.
func (w memberChanges) InviteEmail(kind SourceKind, id int64, level int) error {
	return w.change(func(c *changes) error {
		rows, _, err := c.rows(kind, id)
		if err != nil {
			return err
		}
		*rows = append(*rows, c.fillRows([]Member{{Level: level}})...)
		return nil
	})
}

// RemoveMember removes a direct member. Hooks: user_remove_from_group/_team.
func (w memberChanges) RemoveMember(kind SourceKind, id, userID int64) error {
	return w.change(func(c *changes) error {
		rows, _, err := c.rows(kind, id)
		if err != nil {
			return err
		}
		if memberOf(*rows, userID) == nil {
			return message(http.StatusNotFound, "404 Not found")
		}
		if c.holder(kind, id, userID) {
			return message(http.StatusForbidden, "403 Forbidden")
		}
		c.dropMember(kind, id, userID)
		return nil
	})
}

// holder reports whether the user is the one whose personal project this is: nobody can change that membership
// (GitLab's ProjectMemberPolicy, target_is_holder_of_the_personal_namespace).
func (c *changes) holder(kind SourceKind, id, userID int64) bool {
	p := c.Project(id)
	return kind == KindProject && p != nil && p.OwnerID == userID
}

// rows returns the direct rows of a source and the groups it inherits from.
func (c *changes) rows(kind SourceKind, id int64) (rows *[]Member, ancestors []*Group, err error) {
	if kind == KindGroup {
		g := c.Group(id)
		if g == nil {
			return nil, nil, notFound("Group")
		}
		return &g.Members, c.Ancestors(g), nil
	}
	p := c.Project(id)
	if p == nil {
		return nil, nil, notFound("Project")
	}
	if g := c.GroupOf(p); g != nil {
		ancestors = c.SelfAndAncestors(g)
	}
	return &p.Members, ancestors, nil
}

func (c *changes) joined(kind SourceKind, id int64, m Member) {
	if m.UserID == 0 {
		return
	}
	insertInto(c.w.memberIndex(kind), m.UserID, id)
	c.memberEvent("add", kind, id, m)
}

func (c *changes) dropMember(kind SourceKind, id, userID int64) {
	rows, _, err := c.rows(kind, id)
	if err != nil {
		return
	}
	m := memberOf(*rows, userID)
	if m == nil {
		return
	}
	c.memberEvent("remove", kind, id, *m)
	*rows = slices.DeleteFunc(*rows, func(m Member) bool { return m.UserID == userID })
	removeFrom(c.w.memberIndex(kind), userID, id)
}

func (c *changes) fillRows(rows []Member) []Member {
	out := slices.Clone(rows)
	for i := range out {
		out[i].ID = take(&c.w.nextMember, out[i].ID)
		out[i].CreatedAt = c.w.created(out[i].CreatedAt)
	}
	return out
}

func (c *changes) checkRows(rows []Member) error {
	seen := map[int64]bool{}
	for _, m := range rows {
		if m.UserID == 0 {
			continue
		}
		if c.User(m.UserID) == nil {
			return notFound("User")
		}
		if seen[m.UserID] {
			return message(http.StatusConflict, "Member already exists")
		}
		seen[m.UserID] = true
	}
	return nil
}

func (c *changes) checkLinks(links []GroupLink) error {
	for _, l := range links {
		if c.Group(l.GroupID) == nil {
			return notFound("Group")
		}
	}
	return nil
}

// ShareGroup invites a group into a group (or changes the invitation). GitLab sends no system hook for it.
func (w memberChanges) ShareGroup(id, invitedID int64, level int, expires string) error {
	return w.change(func(c *changes) error {
		g := c.Group(id)
		if g == nil {
			return notFound("Group")
		}
		if invitedID == id {
			return message(http.StatusNotFound, "404 Not Found")
		}
		return c.share(&g.Links, w.invitedIntoGroup, id, invitedID, level, expires)
	})
}

// UnshareGroup takes the invitation back. GitLab sends no system hook for it.
func (w memberChanges) UnshareGroup(id, invitedID int64) error {
	return w.change(func(c *changes) error {
		g := c.Group(id)
		if g == nil {
			return notFound("Group")
		}
		return c.unshare(&g.Links, w.invitedIntoGroup, id, invitedID)
	})
}

// ShareProject invites a group into a project (or changes the invitation). GitLab sends no system hook for it.
func (w memberChanges) ShareProject(id, invitedID int64, level int, expires string) error {
	return w.change(func(c *changes) error {
		p := c.Project(id)
		if p == nil {
			return notFound("Project")
		}
		if g := c.GroupOf(p); g != nil && g.ShareWithGroupLock {
			return message(http.StatusBadRequest, "The project sharing with group is disabled")
		}
		return c.share(&p.Links, w.invitedIntoProject, id, invitedID, level, expires)
	})
}

// UnshareProject takes the invitation back. GitLab sends no system hook for it.
func (w memberChanges) UnshareProject(id, invitedID int64) error {
	return w.change(func(c *changes) error {
		p := c.Project(id)
		if p == nil {
			return notFound("Project")
		}
		return c.unshare(&p.Links, w.invitedIntoProject, id, invitedID)
	})
}

func (c *changes) share(links *[]GroupLink, index map[int64][]int64, id, invitedID int64, level int, expires string) error {
	if c.Group(invitedID) == nil {
		return message(http.StatusNotFound, "404 Not Found")
	}
	if !validLevel(level) {
		return badParameter("group_access does not have a valid value")
	}
	if expires != "" {
		if _, err := time.Parse(time.DateOnly, expires); err != nil {
			return badParameter("expires_at is invalid")
		}
	}
	l := GroupLink{GroupID: invitedID, Level: level, ExpiresAt: expires}
	if i := slices.IndexFunc(*links, func(l GroupLink) bool { return l.GroupID == invitedID }); i >= 0 {
		(*links)[i] = l
		return nil
	}
	*links = append(*links, l)
	insertInto(index, invitedID, id)
	return nil
}

func (c *changes) unshare(links *[]GroupLink, index map[int64][]int64, id, invitedID int64) error {
	if !slices.ContainsFunc(*links, func(l GroupLink) bool { return l.GroupID == invitedID }) {
		return notFound("Group Link")
	}
	*links = withoutLink(*links, invitedID)
	removeFrom(index, invitedID, id)
	return nil
}

// RemoveExpired is GitLab's nightly job: it removes membership rows (with their hooks) and group links
// (without) whose expires_at is today or earlier. Until then GitLab keeps returning them.
func (w memberChanges) RemoveExpired() {
	_ = w.change(func(c *changes) error {
		today := w.today()
		due := func(date string) bool { return date != "" && date <= today }
		for _, g := range c.Groups() {
			for _, m := range slices.Clone(g.Members) {
				if due(m.ExpiresAt) {
					c.dropMember(KindGroup, g.ID, m.UserID)
				}
			}
			for _, l := range slices.Clone(g.Links) {
				if due(l.ExpiresAt) {
					_ = c.unshare(&g.Links, w.invitedIntoGroup, g.ID, l.GroupID)
				}
			}
		}
		for _, p := range c.Projects() {
			for _, m := range slices.Clone(p.Members) {
				if due(m.ExpiresAt) {
					c.dropMember(KindProject, p.ID, m.UserID)
				}
			}
			for _, l := range slices.Clone(p.Links) {
				if due(l.ExpiresAt) {
					_ = c.unshare(&p.Links, w.invitedIntoProject, p.ID, l.GroupID)
				}
			}
		}
		return nil
	})
}
