package gitlabsim

import (
	"net/http"
	"slices"
	"strconv"
)

// sharingAPI invites groups into groups and projects.
type sharingAPI struct{ entities }

func mountSharing(at routes[sharingAPI]) {
	at.post("/groups/:id/share", sharingAPI.shareGroup)
	at.del("/groups/:id/share/:group_id", sharingAPI.unshareGroup)
	at.post("/projects/:id/share", sharingAPI.shareProject)
	at.del("/projects/:id/share/:group_id", sharingAPI.unshareProject)
}

// shareParams reads group_id, group_access and expires_at. absent is the answer for a group that the caller does not see.
func (c sharingAPI) shareParams(absent error) (invited int64, level int, expires string, err error) {
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

// ownedGroup returns the id of the group in the path if the caller is its Owner.
func (c sharingAPI) ownedGroup() (id int64, err error) {
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
func (c sharingAPI) shared(invited int64, links func(v *View) []GroupLink) (found bool) {
	c.s.world.View(func(v *View) {
		found = slices.ContainsFunc(links(v), func(l GroupLink) bool { return l.GroupID == invited })
	})
	return found
}

func (c sharingAPI) shareGroup() error {
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

func (c sharingAPI) unshareGroup() error {
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

func (c sharingAPI) shareProject() error {
	id, err := c.projectID(Maintainer)
	if err != nil {
		return err
	}
	invited, level, expires, err := c.shareParams(message(http.StatusNotFound, "Not Found"))
	if err != nil {
		return err
	}
	if c.shared(invited, func(v *View) []GroupLink { return v.Project(id).Links }) {
		return message(http.StatusConflict, "Group already shared with this group")
	}
	if err := c.s.world.ShareProject(id, invited, level, expires); err != nil {
		return err
	}
	return c.answer(http.StatusCreated, map[string]any{"project_id": id, "group_id": invited, "group_access": level, "expires_at": nullable(expires)})
}

func (c sharingAPI) unshareProject() error {
	id, err := c.projectID(Maintainer)
	if err != nil {
		return err
	}
	invited, err := strconv.ParseInt(c.vars["group_id"], 10, 64)
	if err != nil {
		return badParameter("group_id is invalid")
	}
	if err := c.s.world.UnshareProject(id, invited); err != nil {
		return err
	}
	return c.answer(http.StatusNoContent, nil)
}
