package gitlabsim

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// groupChanges are what happens to groups.
type groupChanges struct{ *model }

// AddGroup adds a group. Members and Links in g are taken as they are: they stand for a state that was
// reached in some allowed order. Hooks: group_create, user_add_to_group for each member.
func (w groupChanges) AddGroup(g Group) (int64, error) {
	err := w.change(func(c *changes) error {
		if err := checkPath("path", g.Path); err != nil {
			return err
		}
		full := g.Path
		if g.ParentID != 0 {
			parent := c.Group(g.ParentID)
			if parent == nil {
				return notFound("Group")
			}
			full = c.FullPath(parent) + "/" + g.Path
			// GitLab copies the lock of the parent (Namespace#sync_share_with_group_lock_with_parent).
			g.ShareWithGroupLock = g.ShareWithGroupLock || parent.ShareWithGroupLock
			if g.Visibility == "" {
				g.Visibility = parent.Visibility
			}
		}
		if c.taken(full) {
			return message(http.StatusBadRequest, `Failed to save group {:path=>["has already been taken"]}`)
		}
		g.Visibility = cmp.Or(g.Visibility, Private)
		if err := checkVisibility(g.Visibility); err != nil {
			return err
		}
		if g.ID != 0 && !c.namespaceFree(g.ID) {
			return message(http.StatusConflict, fmt.Sprintf("ID %d has already been taken", g.ID))
		}
		if err := errors.Join(c.checkRows(g.Members), c.checkLinks(g.Links)); err != nil {
			return err
		}
		if g.ID == 0 {
			g.ID = c.freeNamespace()
		}
		take(&w.nextNamespace, g.ID)
		g.Name, g.CreatedAt = cmp.Or(g.Name, g.Path), w.created(g.CreatedAt)
		g.Members, g.Links = c.fillRows(g.Members), slices.Clone(g.Links)
		w.groups[g.ID] = &g
		insert(&w.groupIDs, g.ID)
		insertInto(w.subgroups, g.ParentID, g.ID)
		w.groupPaths[strings.ToLower(full)] = g.ID
		c.groupEvent("group_create", &g)
		for _, m := range g.Members {
			c.joined(KindGroup, g.ID, m)
		}
		for _, l := range g.Links {
			insertInto(w.invitedIntoGroup, l.GroupID, g.ID)
		}
		return nil
	})
	return g.ID, err
}

// RenameGroup changes path and name ("" keeps). Hook: group_rename if the path changed, else none.
func (w groupChanges) RenameGroup(id int64, path, name string) error {
	return w.change(func(c *changes) error {
		g := c.Group(id)
		if g == nil {
			return notFound("Group")
		}
		g.Name = cmp.Or(name, g.Name)
		if path == "" || path == g.Path {
			return nil
		}
		return c.renameGroup(g, path)
	})
}

func (c *changes) renameGroup(g *Group, path string) error {
	if err := checkPath("path", path); err != nil {
		return err
	}
	oldPath, oldFull := g.Path, c.FullPath(g)
	full := strings.TrimSuffix(oldFull, oldPath) + path
	if !strings.EqualFold(full, oldFull) && c.taken(full) {
		return message(http.StatusBadRequest, map[string]any{"path": []string{"has already been taken"}})
	}
	g.Path = path
	c.reindex()
	e := c.groupEvent("group_rename", g)
	e["full_path"], e["old_path"], e["old_full_path"] = full, oldPath, oldFull
	return nil
}

// TransferGroup moves a group below another one (0: to the top). GitLab sends no system hook for it.
func (w groupChanges) TransferGroup(id, parentID int64) error {
	return w.change(func(c *changes) error {
		g := c.Group(id)
		if g == nil {
			return notFound("Group")
		}
		full := g.Path
		if parentID != 0 {
			parent := c.Group(parentID)
			if parent == nil {
				return notFound("Group")
			}
			if slices.Contains(c.SelfAndAncestors(parent), g) {
				return message(http.StatusBadRequest, "Transfer failed: Cannot transfer group to one of its subgroups.")
			}
			full = c.FullPath(parent) + "/" + g.Path
		}
		if c.taken(full) {
			return message(http.StatusBadRequest, "Transfer failed: The parent group already has a subgroup or a project with the same path.")
		}
		removeFrom(w.subgroups, g.ParentID, id)
		g.ParentID = parentID
		insertInto(w.subgroups, parentID, id)
		c.reindex()
		return nil
	})
}

// SetGroupVisibility changes the visibility. GitLab sends no system hook for it.
func (w groupChanges) SetGroupVisibility(id int64, visibility string) error {
	return w.change(func(c *changes) error {
		g := c.Group(id)
		if g == nil {
			return notFound("Group")
		}
		if err := checkVisibility(visibility); err != nil {
			return err
		}
		g.Visibility = visibility
		return nil
	})
}

// SetGroupArchived archives or unarchives a group. GitLab sends no system hook for it.
func (w groupChanges) SetGroupArchived(id int64, archived bool) error {
	return w.change(func(c *changes) error {
		g := c.Group(id)
		if g == nil {
			return notFound("Group")
		}
		g.SelfArchived = archived
		return nil
	})
}

// SetShareWithGroupLock forbids (or allows) sharing projects of the group with other groups. Turning it on
// also locks all descendants, as in GitLab. No system hook.
func (w groupChanges) SetShareWithGroupLock(id int64, locked bool) error {
	return w.change(func(c *changes) error {
		g := c.Group(id)
		if g == nil {
			return notFound("Group")
		}
		g.ShareWithGroupLock = locked
		if locked {
			for _, d := range c.Descendants(id) {
				d.ShareWithGroupLock = true
			}
		}
		return nil
	})
}

// MarkGroupForDeletion schedules the deletion: the path becomes <path>-deletion_scheduled-<id>. Hook: group_rename.
func (w groupChanges) MarkGroupForDeletion(id int64) error {
	return w.change(func(c *changes) error {
		g := c.Group(id)
		if g == nil {
			return notFound("Group")
		}
		g.MarkedForDeletionOn = w.now().UTC().Format(time.DateOnly)
		return c.renameGroup(g, fmt.Sprintf("%s-deletion_scheduled-%d", g.Path, g.ID))
	})
}

// DeleteGroup destroys a group with subgroups and projects. Hooks: user_remove_from_*, project_destroy,
// group_destroy for each. Links of the group vanish without a hook.
func (w groupChanges) DeleteGroup(id int64) error {
	return w.change(func(c *changes) error {
		g := c.Group(id)
		if g == nil {
			return notFound("Group")
		}
		c.deleteGroup(g)
		return nil
	})
}

func (c *changes) deleteGroup(g *Group) {
	w := c.w
	for _, sub := range c.Subgroups(g.ID) {
		c.deleteGroup(sub)
	}
	for _, p := range c.ProjectsOf(g.ID) {
		c.deleteProject(p)
	}
	for _, m := range slices.Clone(g.Members) {
		c.dropMember(KindGroup, g.ID, m.UserID)
	}
	for _, l := range g.Links {
		removeFrom(w.invitedIntoGroup, l.GroupID, g.ID)
	}
	groups, projects := c.GroupsInvitedTo(g.ID)
	for _, id := range groups {
		w.groups[id].Links = withoutLink(w.groups[id].Links, g.ID)
	}
	for _, id := range projects {
		w.projects[id].Links = withoutLink(w.projects[id].Links, g.ID)
	}
	delete(w.invitedIntoGroup, g.ID)
	delete(w.invitedIntoProject, g.ID)
	c.groupEvent("group_destroy", g)
	delete(w.groupPaths, strings.ToLower(c.FullPath(g)))
	removeFrom(w.subgroups, g.ParentID, g.ID)
	delete(w.groups, g.ID)
	remove(&w.groupIDs, g.ID)
}
