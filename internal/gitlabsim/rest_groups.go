package gitlabsim

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// groupsAPI is about groups, and lists groups also where they are invited into something.
type groupsAPI struct{ projectLists }

func mountGroups(at routes[groupsAPI]) {
	at.get("/groups", groupsAPI.listGroups)
	at.get("/groups/:id", groupsAPI.getGroup)
	at.get("/groups/:id/subgroups", groupsAPI.listSubgroups)
	at.get("/groups/:id/descendant_groups", groupsAPI.listDescendantGroups)
	at.get("/groups/:id/projects", groupsAPI.listGroupProjects)
	at.get("/groups/:id/invited_groups", groupsAPI.listInvitedGroups)
	at.get("/groups/:id/groups/shared", groupsAPI.listGroupsSharedWith)
	at.get("/projects/:id/invited_groups", groupsAPI.listInvitedGroups)
}

// groupFilter is what all group lists choose and sort by.
type groupFilter struct {
	order, direction, visibility, search, marked string
	minLevel                                     int64
	skip                                         map[string]bool
	all, topOnly                                 bool
	active, archived                             *bool // nil = not given
}

func (c groupsAPI) groupFilter() (f groupFilter, err error) {
	if f.order, err = c.oneOf("order_by", "name", "name", "path", "id", "similarity"); err != nil {
		return f, err
	}
	if f.direction, err = c.oneOf("sort", "asc", "asc", "desc"); err != nil {
		return f, err
	}
	if f.visibility, err = c.oneOf("visibility", "", Private, Internal, Public); err != nil {
		return f, err
	}
	if f.minLevel, _, err = c.number("min_access_level"); err != nil {
		return f, err
	}
	owned, _, err := c.flag("owned")
	if err != nil {
		return f, err
	}
	if owned {
		f.minLevel = Owner
	}
	all, given, err := c.flag("all_available")
	if err != nil {
		return f, err
	}
	f.all = all || !given && c.admin()
	if f.topOnly, _, err = c.flag("top_level_only"); err != nil {
		return f, err
	}
	if f.active, err = c.optionalFlag("active"); err != nil {
		return f, err
	}
	if f.archived, err = c.optionalFlag("archived"); err != nil {
		return f, err
	}
	f.search, _ = c.text("search")
	f.marked, _ = c.text("marked_for_deletion_on")
	f.skip = map[string]bool{}
	if ids, ok := c.params["skip_groups"].([]string); ok {
		for _, id := range ids {
			f.skip[id] = true
		}
	}
	return f, nil
}

// optionalFlag is flag, with nil for one that is not given.
func (c groupsAPI) optionalFlag(key string) (*bool, error) {
	value, given, err := c.flag(key)
	if err != nil || !given {
		return nil, err
	}
	return &value, nil
}

func (c groupsAPI) keeps(v *View, f groupFilter, g *Group) bool {
	level := func() int64 {
		if c.user == nil {
			return NoAccess
		}
		return int64(v.GroupLevel(g.ID, c.user.ID))
	}
	switch {
	case !v.canReadGroup(c.user, g),
		f.minLevel > 0 && level() < f.minLevel,
		f.minLevel == 0 && !f.all && c.user != nil && c.kind == "GET /groups" && !v.belongs(c.user.ID, g),
		f.topOnly && g.ParentID != 0,
		f.visibility != "" && g.Visibility != f.visibility,
		f.search != "" && !contains(f.search, g.Name, g.Path) && (len(f.search) <= 2 || !contains(f.search, v.FullPath(g))),
		f.marked != "" && g.MarkedForDeletionOn != f.marked,
		f.skip[strconv.FormatInt(g.ID, 10)],
		f.active != nil && *f.active == (v.GroupArchived(g.ID) || v.groupMarked(g)),
		f.archived != nil && *f.archived != v.GroupArchived(g.ID):
		return false
	}
	return true
}

func (f groupFilter) compare(a, b *Group) int {
	n := 0
	switch f.order {
	case "name", "similarity":
		n = cmp.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name))
	case "path":
		n = cmp.Compare(a.Path, b.Path)
	}
	n = cmp.Or(n, cmp.Compare(a.ID, b.ID))
	if f.direction == "desc" {
		return -n
	}
	return n
}

// filterGroups applies the parameters that all group lists have, then sorts.
func (c groupsAPI) filterGroups(v *View, in []*Group) ([]*Group, error) {
	f, err := c.groupFilter()
	if err != nil {
		return nil, err
	}
	var out []*Group
	for _, g := range in {
		if c.keeps(v, f, g) {
			out = append(out, g)
		}
	}
	slices.SortFunc(out, f.compare)
	return out, nil
}

// groupPage filters, cuts a page and shows it.
func (c groupsAPI) groupPage(pick func(v *View) ([]*Group, error)) error {
	out := []map[string]any{}
	err := c.view(func(v *View) error {
		groups, err := pick(v)
		if err != nil {
			return err
		}
		if groups, err = c.filterGroups(v, groups); err != nil {
			return err
		}
		// Keyset paging of groups is for anonymous callers only; for others GitLab falls back to offset (https://docs.gitlab.com/api/rest/).
		if groups, err = paginate(c.call, groups, ""); err != nil {
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

func (c groupsAPI) listGroups() error {
	return c.groupPage(func(v *View) ([]*Group, error) { return v.Groups(), nil })
}

func (c groupsAPI) listSubgroups() error {
	return c.groupPage(func(v *View) ([]*Group, error) {
		g, err := c.group(v)
		if err != nil {
			return nil, err
		}
		return v.Subgroups(g.ID), nil
	})
}

func (c groupsAPI) listDescendantGroups() error {
	return c.groupPage(func(v *View) ([]*Group, error) {
		g, err := c.group(v)
		if err != nil {
			return nil, err
		}
		return v.Descendants(g.ID), nil
	})
}

// listInvitedGroups lists the groups invited into a group or project, of either endpoint.
func (c groupsAPI) listInvitedGroups() error {
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
func (c groupsAPI) listGroupsSharedWith() error {
	return c.groupPage(func(v *View) ([]*Group, error) {
		g, err := c.group(v)
		if err != nil {
			return nil, err
		}
		ids, _ := v.GroupsInvitedTo(g.ID)
		return collect(ids, v.w.groups), nil
	})
}

func (c groupsAPI) getGroup() error {
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

func (c groupsAPI) listGroupProjects() error {
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
