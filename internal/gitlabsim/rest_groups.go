package gitlabsim

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// listedGroup is an item of GET /groups: no shared_with_groups (facts 1.2). archived is the group's own flag.
func (c *call) listedGroup(v *View, g *Group) map[string]any {
	branch := []map[string]any{{"access_level": Maintainer}}
	return map[string]any{
		"id": g.ID, "web_url": c.s.url + "/groups/" + v.FullPath(g), "name": g.Name, "path": g.Path, "description": "",
		"visibility": g.Visibility, "share_with_group_lock": g.ShareWithGroupLock, "require_two_factor_authentication": false,
		"two_factor_grace_period": 48, "project_creation_level": "developer", "auto_devops_enabled": nil, "subgroup_creation_level": "owner",
		"emails_disabled": false, "emails_enabled": true, "mentions_disabled": nil, "lfs_enabled": true, "math_rendering_limits_enabled": true,
		"lock_math_rendering_limits_enabled": false, "default_branch": nil, "default_branch_protection": 2,
		"default_branch_protection_defaults": map[string]any{"allowed_to_push": branch, "allow_force_push": false, "allowed_to_merge": branch},
		"avatar_url":                         nil, "request_access_enabled": true, "full_name": v.FullName(g), "full_path": v.FullPath(g),
		"created_at": apiTime(g.CreatedAt), "parent_id": nullableID(g.ParentID), "organization_id": 1, "shared_runners_setting": "enabled",
		"ldap_cn": nil, "ldap_access": nil, "marked_for_deletion_on": nullable(g.MarkedForDeletionOn), "wiki_access_level": "enabled",
		"repository_storage": "default", "file_template_project_id": nil, "ip_restriction_ranges": nil, "archived": g.SelfArchived,
	}
}

// links is shared_with_groups; groups that the caller may not see are left out.
func (c *call) links(v *View, links []GroupLink) []map[string]any {
	out := []map[string]any{}
	for _, l := range links {
		if g := v.Group(l.GroupID); g != nil && v.canReadGroup(c.user, g) {
			out = append(out, map[string]any{
				"group_id": g.ID, "group_name": g.Name, "group_full_path": v.FullPath(g),
				"group_access_level": l.Level, "expires_at": nullable(l.ExpiresAt),
			})
		}
	}
	return out
}

func (c *call) singleGroup(v *View, g *Group, withProjects bool) map[string]any {
	m := c.listedGroup(v, g)
	m["shared_with_groups"] = c.links(v, g.Links)
	m["prevent_sharing_groups_outside_hierarchy"] = false
	m["enabled_git_access_protocol"] = "all"
	m["membership_lock"] = false
	if c.admin() || c.user != nil && v.GroupLevel(g.ID, c.user.ID) == Owner {
		m["runners_token"] = nil
	}
	if withProjects {
		// Deprecated arrays, at most 100 each.
		own, shared := []map[string]any{}, []map[string]any{}
		for _, p := range v.ProjectsOf(g.ID) {
			if v.canReadProject(c.user, p) && len(own) < 100 {
				own = append(own, c.fullProject(v, p))
			}
		}
		_, ids := v.GroupsInvitedTo(g.ID)
		for _, id := range ids {
			if p := v.Project(id); v.canReadProject(c.user, p) && len(shared) < 100 {
				shared = append(shared, c.fullProject(v, p))
			}
		}
		m["projects"], m["shared_projects"] = own, shared
	}
	return m
}

// filterGroups applies the parameters that all group lists have, then sorts.
func (c *call) filterGroups(v *View, in []*Group) ([]*Group, error) {
	order, err := c.oneOf("order_by", "name", "name", "path", "id", "similarity")
	if err != nil {
		return nil, err
	}
	direction, err := c.oneOf("sort", "asc", "asc", "desc")
	if err != nil {
		return nil, err
	}
	visibility, err := c.oneOf("visibility", "", Private, Internal, Public)
	if err != nil {
		return nil, err
	}
	minLevel, _, err := c.number("min_access_level")
	if err != nil {
		return nil, err
	}
	owned, _, err := c.flag("owned")
	if err != nil {
		return nil, err
	}
	all, given, err := c.flag("all_available")
	if err != nil {
		return nil, err
	}
	if !given {
		all = c.admin()
	}
	topOnly, _, err := c.flag("top_level_only")
	if err != nil {
		return nil, err
	}
	active, activeGiven, err := c.flag("active")
	if err != nil {
		return nil, err
	}
	archived, archivedGiven, err := c.flag("archived")
	if err != nil {
		return nil, err
	}
	search, _ := c.text("search")
	marked, _ := c.text("marked_for_deletion_on")
	skip := map[string]bool{}
	if ids, ok := c.params["skip_groups"].([]string); ok {
		for _, id := range ids {
			skip[id] = true
		}
	}
	if owned {
		minLevel = Owner
	}
	var out []*Group
	for _, g := range in {
		level := func() int64 {
			if c.user == nil {
				return NoAccess
			}
			return int64(v.GroupLevel(g.ID, c.user.ID))
		}
		switch {
		case !v.canReadGroup(c.user, g),
			minLevel > 0 && level() < minLevel,
			minLevel == 0 && !all && c.user != nil && c.kind == "GET /groups" && !v.belongs(c.user.ID, g),
			topOnly && g.ParentID != 0,
			visibility != "" && g.Visibility != visibility,
			search != "" && !contains(search, g.Name, g.Path) && (len(search) <= 2 || !contains(search, v.FullPath(g))),
			marked != "" && g.MarkedForDeletionOn != marked,
			skip[strconv.FormatInt(g.ID, 10)],
			activeGiven && active == (v.GroupArchived(g.ID) || v.groupMarked(g)),
			archivedGiven && archived != v.GroupArchived(g.ID):
			continue
		}
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b *Group) int {
		n := 0
		switch order {
		case "name", "similarity":
			n = cmp.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name))
		case "path":
			n = cmp.Compare(a.Path, b.Path)
		}
		n = cmp.Or(n, cmp.Compare(a.ID, b.ID))
		if direction == "desc" {
			return -n
		}
		return n
	})
	return out, nil
}

func (v *View) groupMarked(g *Group) bool {
	return slices.ContainsFunc(v.SelfAndAncestors(g), func(a *Group) bool { return a.MarkedForDeletionOn != "" })
}

// groupPage filters, cuts a page and shows it.
func (c *call) groupPage(pick func(v *View) ([]*Group, error)) error {
	out := []map[string]any{}
	err := c.view(func(v *View) error {
		groups, err := pick(v)
		if err != nil {
			return err
		}
		if groups, err = c.filterGroups(v, groups); err != nil {
			return err
		}
		// Keyset paging of groups is for anonymous callers only; for others GitLab falls back to offset (facts 1.1).
		if groups, err = paginate(c, groups, ""); err != nil {
			return err
		}
		for _, g := range groups {
			out = append(out, c.listedGroup(v, g))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, out)
}

func (c *call) listGroups() error {
	return c.groupPage(func(v *View) ([]*Group, error) { return v.Groups(), nil })
}

func (c *call) listSubgroups() error {
	return c.groupPage(func(v *View) ([]*Group, error) {
		g, err := c.group(v)
		if err != nil {
			return nil, err
		}
		return v.Subgroups(g.ID), nil
	})
}

func (c *call) listDescendantGroups() error {
	return c.groupPage(func(v *View) ([]*Group, error) {
		g, err := c.group(v)
		if err != nil {
			return nil, err
		}
		return v.Descendants(g.ID), nil
	})
}

// listInvitedGroups lists the groups invited into a group or project, of either endpoint.
func (c *call) listInvitedGroups() error {
	return c.groupPage(func(v *View) ([]*Group, error) {
		var links []GroupLink
		if strings.Contains(c.kind, "/groups/:id") {
			g, err := c.group(v)
			if err != nil {
				return nil, err
			}
			links = g.Links
		} else {
			p, err := c.project(v)
			if err != nil {
				return nil, err
			}
			links = p.Links
		}
		var out []*Group
		for _, l := range links {
			out = append(out, v.Group(l.GroupID))
		}
		return out, nil
	})
}

// listGroupsSharedWith lists the groups that this group was invited to.
func (c *call) listGroupsSharedWith() error {
	return c.groupPage(func(v *View) ([]*Group, error) {
		g, err := c.group(v)
		if err != nil {
			return nil, err
		}
		ids, _ := v.GroupsInvitedTo(g.ID)
		return collect(ids, v.w.groups), nil
	})
}

func (c *call) getGroup() error {
	withProjects, given, err := c.flag("with_projects")
	if err != nil {
		return err
	}
	var body map[string]any
	err = c.view(func(v *View) error {
		g, err := c.group(v)
		if err != nil {
			return err
		}
		body = c.singleGroup(v, g, withProjects || !given)
		return nil
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, body)
}

func (c *call) listGroupProjects() error {
	withShared, given, err := c.flag("with_shared")
	if err != nil {
		return err
	}
	if !given {
		withShared = true
	}
	deep, _, err := c.flag("include_subgroups")
	if err != nil {
		return err
	}
	var out []map[string]any
	err = c.view(func(v *View) error {
		g, err := c.group(v)
		if err != nil {
			return err
		}
		groups := []*Group{g}
		if deep {
			groups = append(groups, v.Descendants(g.ID)...)
		}
		seen := map[int64]bool{}
		var found []*Project
		for _, g := range groups {
			projects := v.ProjectsOf(g.ID)
			if withShared {
				_, ids := v.GroupsInvitedTo(g.ID)
				projects = append(projects, collect(ids, v.w.projects)...)
			}
			for _, p := range projects {
				if !seen[p.ID] {
					seen[p.ID] = true
					found = append(found, p)
				}
			}
		}
		if found, err = c.filterProjects(v, found); err != nil {
			return err
		}
		out, err = c.projectPage(v, found)
		return err
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, out)
}

// shareParams reads group_id, group_access and expires_at. absent is the answer for a group that the caller does not see.
func (c *call) shareParams(absent error) (invited int64, level int, expires string, err error) {
	if err := c.require("group_id", "group_access"); err != nil {
		return 0, 0, "", err
	}
	invited, _, err = c.number("group_id")
	if err != nil {
		return 0, 0, "", err
	}
	n, _, err := c.number("group_access")
	if err != nil {
		return 0, 0, "", err
	}
	expires, _ = c.text("expires_at")
	return invited, int(n), expires, c.view(func(v *View) error {
		if g := v.Group(invited); g == nil || !v.canReadGroup(c.user, g) {
			return absent
		}
		return nil
	})
}

// owned returns the id of the group in the path if the caller is its Owner.
func (c *call) ownedGroup() (id int64, err error) {
	err = c.view(func(v *View) error {
		g, err := c.groupAtLeast(v, Owner)
		if err == nil {
			id = g.ID
		}
		return err
	})
	return id, err
}

// shared says whether the group is invited already: the API changes no invitation, it only adds and removes them.
func (c *call) shared(invited int64, links func(v *View) []GroupLink) (found bool) {
	c.s.world.View(func(v *View) {
		found = slices.ContainsFunc(links(v), func(l GroupLink) bool { return l.GroupID == invited })
	})
	return found
}

func (c *call) shareGroup() error {
	id, err := c.ownedGroup()
	if err != nil {
		return err
	}
	invited, level, expires, err := c.shareParams(notFound("Group"))
	if err != nil {
		return err
	}
	if c.shared(invited, func(v *View) []GroupLink { return v.Group(id).Links }) {
		return message(http.StatusConflict, "Shared group The group has already been shared with this group")
	}
	if err := c.s.world.ShareGroup(id, invited, level, expires); err != nil {
		return err
	}
	var body map[string]any
	_ = c.view(func(v *View) error { body = c.singleGroup(v, v.Group(id), false); return nil })
	return c.answer(http.StatusCreated, body)
}

func (c *call) unshareGroup() error {
	id, err := c.ownedGroup()
	if err != nil {
		return err
	}
	invited, err := strconv.ParseInt(c.vars["group_id"], 10, 64)
	if err != nil {
		return badParameter("group_id is invalid")
	}
	if err := c.s.world.UnshareGroup(id, invited); err != nil {
		return err
	}
	return c.answer(http.StatusNoContent, nil)
}
