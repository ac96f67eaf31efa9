package gitlabsim

import (
	"cmp"
	"slices"
)

// EffectiveGroupMembers returns GitLab's GET /groups/:id/members/all by ascending user id: direct rows, rows of
// ancestors, and direct rows of groups invited into the group or an ancestor, capped by the link. Minimal
// access is dropped; blocked people and expired rows are not (app/finders/group_members_finder.rb in GitLab).
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
// forbids sharing, people who come only through an invited group have level 0 (app/finders/members_finder.rb in GitLab).
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
