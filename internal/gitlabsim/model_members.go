package gitlabsim

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// validLevel is the list of the members API; Minimal access (5) is for groups only.
func validLevel(level int) bool {
	switch level {
	case Guest, Planner, Reporter, SecurityManager, Developer, Maintainer, Owner:
		return true
	}
	return false
}

func badParameter(text string) *Error {
	return &Error{Status: http.StatusBadRequest, Body: map[string]any{"error": text}}
}

// SetMember adds a direct member or changes level and expiry of one. Hooks: user_add_to_group/_team or
// user_update_for_group/_team. It refuses what GitLab refuses, e.g. a level below the inherited one.
func (w *World) SetMember(kind SourceKind, id, userID int64, level int, expires string) error {
	return w.setMember(kind, id, userID, level, expires, 0, 0)
}

// SetMemberRole is SetMember with a custom role (member_role_id; level is the base level of the role).
func (w *World) SetMemberRole(kind SourceKind, id, userID int64, level int, expires string, memberRoleID int64) error {
	return w.setMember(kind, id, userID, level, expires, memberRoleID, 0)
}

func (w *World) setMember(kind SourceKind, id, userID int64, level int, expires string, roleID, byID int64) error {
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
func (w *World) InviteEmail(kind SourceKind, id int64, level int) error {
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
func (w *World) RemoveMember(kind SourceKind, id, userID int64) error {
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

func (w *World) memberIndex(kind SourceKind) map[int64][]int64 {
	if kind == KindGroup {
		return w.memberOfGroup
	}
	return w.memberOfProject
}

func (w *World) today() string { return w.now().UTC().Format(time.DateOnly) }

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
func (w *World) ShareGroup(id, invitedID int64, level int, expires string) error {
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
func (w *World) UnshareGroup(id, invitedID int64) error {
	return w.change(func(c *changes) error {
		g := c.Group(id)
		if g == nil {
			return notFound("Group")
		}
		return c.unshare(&g.Links, w.invitedIntoGroup, id, invitedID)
	})
}

// ShareProject invites a group into a project (or changes the invitation). GitLab sends no system hook for it.
func (w *World) ShareProject(id, invitedID int64, level int, expires string) error {
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
func (w *World) UnshareProject(id, invitedID int64) error {
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
func (w *World) RemoveExpired() {
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

// EffectiveGroupMembers returns GitLab's GET /groups/:id/members/all by ascending user id: direct rows, rows of
// ancestors, and direct rows of groups invited into the group or an ancestor, capped by the link. Minimal
// access is dropped; blocked people and expired rows are not (facts 2.2: GroupMembersFinder).
func (v *View) EffectiveGroupMembers(id int64) []EffectiveMember {
	g := v.Group(id)
	if g == nil {
		return nil
	}
	return sorted(v.groupRows(g, func(*Group) bool { return true }))
}

// groupRows computes members/all of a group; showInvited hides invited groups from some requesters.
func (v *View) groupRows(g *Group, showInvited func(*Group) bool) map[int64]EffectiveMember {
	best := map[int64]EffectiveMember{}
	offer := func(m Member, source int64) {
		if m.UserID == 0 || m.Level <= MinimalAccess {
			return
		}
		row := EffectiveMember{Member: m, Kind: KindGroup, SourceID: source}
		old, ok := best[m.UserID]
		// DISTINCT ON (user_id): highest level; tie: the group's own row, then member_role_id, then latest expiry.
		if !ok || row.Level > old.Level || row.Level == old.Level && (source == g.ID && old.SourceID != g.ID ||
			(source == g.ID) == (old.SourceID == g.ID) && later(row.ExpiresAt, old.ExpiresAt)) {
			best[m.UserID] = row
		}
	}
	for _, a := range v.SelfAndAncestors(g) {
		for _, m := range a.Members {
			offer(m, a.ID)
		}
		for _, l := range a.Links {
			invited := v.Group(l.GroupID)
			if invited == nil || !showInvited(invited) {
				continue
			}
			for _, m := range invited.Members {
				m.Level = min(m.Level, l.Level)
				offer(m, invited.ID)
			}
		}
	}
	return best
}

// later orders expires_at DESC: Postgres puts NULL (never) first.
func later(a, b string) bool {
	if a == "" || b == "" {
		return a == "" && b != ""
	}
	return a > b
}

// EffectiveProjectMembers returns GitLab's GET /projects/:id/members/all by ascending user id: direct rows, rows
// of the group and its ancestors, direct and inherited rows of invited groups, direct rows of groups invited
// into the project's group or an ancestor. The level is that of project_authorizations; where the namespace
// forbids sharing, people who come only through an invited group have level 0 (facts 2.2: MembersFinder).
func (v *View) EffectiveProjectMembers(id int64) []EffectiveMember {
	p := v.Project(id)
	if p == nil {
		return nil
	}
	return sorted(v.projectRows(p, func(*Group) bool { return true }))
}

func (v *View) projectRows(p *Project, showInvited func(*Group) bool) map[int64]EffectiveMember {
	group := v.GroupOf(p)
	locked := group != nil && group.ShareWithGroupLock
	best := map[int64]EffectiveMember{}
	offer := func(m Member, kind SourceKind, source int64) {
		if m.UserID == 0 || m.Level == MinimalAccess {
			return
		}
		row := EffectiveMember{Member: m, Kind: kind, SourceID: source}
		// The project's own row wins whatever its level: expires_at and created_at are then those of that row.
		if old, ok := best[m.UserID]; !ok || old.Kind != KindProject && row.Level > old.Level {
			best[m.UserID] = row
		}
	}
	for _, m := range p.Members {
		offer(m, KindProject, p.ID)
	}
	if group != nil {
		for _, m := range sorted(v.groupRows(group, showInvited)) {
			offer(m.Member, KindGroup, m.SourceID)
		}
	}
	for _, l := range p.Links {
		invited := v.Group(l.GroupID)
		if invited == nil || !showInvited(invited) {
			continue
		}
		for _, a := range v.SelfAndAncestors(invited) {
			for _, m := range a.Members {
				m.Level = min(m.Level, l.Level)
				if locked && m.Level > MinimalAccess {
					m.Level = NoAccess
				}
				offer(m, KindGroup, a.ID)
			}
		}
	}
	for uid, row := range best {
		if level := v.projectLevel(p, uid); level > NoAccess {
			row.Level = level
			best[uid] = row
		}
	}
	return best
}

// GroupLevel is the level a user really has in a group, whoever asks; 0 = none.
func (v *View) GroupLevel(groupID, userID int64) int {
	g := v.Group(groupID)
	if g == nil || userID == 0 {
		return NoAccess
	}
	level := NoAccess
	for _, a := range v.SelfAndAncestors(g) {
		if m := a.Member(userID); m != nil && m.Level > MinimalAccess {
			level = max(level, m.Level)
		}
		for _, l := range a.Links {
			if invited := v.Group(l.GroupID); invited != nil {
				if m := invited.Member(userID); m != nil && m.Level > MinimalAccess {
					level = max(level, min(m.Level, l.Level))
				}
			}
		}
	}
	return level
}

// ProjectLevel is the level a user really has in a project, whoever asks (GitLab's project_authorizations).
func (v *View) ProjectLevel(projectID, userID int64) int {
	p := v.Project(projectID)
	if p == nil || userID == 0 {
		return NoAccess
	}
	return v.projectLevel(p, userID)
}

func (v *View) projectLevel(p *Project, userID int64) int {
	level := NoAccess
	if m := p.Member(userID); m != nil {
		level = m.Level
	}
	group := v.GroupOf(p)
	if group != nil {
		level = max(level, v.GroupLevel(group.ID, userID))
		if group.ShareWithGroupLock {
			return level
		}
	}
	for _, l := range p.Links {
		// Members who share into the invited group get access as well (docs: "not recommended"), so the
		// effective level in the invited group counts, not only its rows.
		level = max(level, min(v.GroupLevel(l.GroupID, userID), l.Level))
	}
	return level
}

func sorted(rows map[int64]EffectiveMember) []EffectiveMember {
	out := make([]EffectiveMember, 0, len(rows))
	for _, r := range rows {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b EffectiveMember) int { return cmp.Compare(a.UserID, b.UserID) })
	return out
}

// LevelName is GitLab's name of an access level, as it stands in hooks and messages.
func LevelName(level int) string {
	switch level {
	case NoAccess:
		return "No access"
	case MinimalAccess:
		return "Minimal Access"
	case Guest:
		return "Guest"
	case Planner:
		return "Planner"
	case Reporter:
		return "Reporter"
	case SecurityManager:
		return "Security Manager"
	case Developer:
		return "Developer"
	case Maintainer:
		return "Maintainer"
	case Owner:
		return "Owner"
	}
	return fmt.Sprintf("level %d", level)
}
