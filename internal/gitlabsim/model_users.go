package gitlabsim

import (
	"cmp"
	"fmt"
	"net/http"
	"strings"
)

// userChanges are what happens to users.
type userChanges struct{ *model }

// AddUser adds a user; ID, NamespaceID, CreatedAt, State and Type are filled in where zero. Hook: user_create.
func (w userChanges) AddUser(u User) (int64, error) {
	err := w.change(func(c *changes) error {
		if err := checkPath("username", u.Username); err != nil {
			return err
		}
		if c.taken(u.Username) {
			return message(http.StatusConflict, "Username has already been taken")
		}
		if u.ID != 0 && w.users[u.ID] != nil {
			return message(http.StatusConflict, fmt.Sprintf("ID %d has already been taken", u.ID))
		}
		if u.NamespaceID != 0 && !c.namespaceFree(u.NamespaceID) {
			return message(http.StatusConflict, fmt.Sprintf("namespace ID %d has already been taken", u.NamespaceID))
		}
		u.ID = take(&w.nextUser, u.ID)
		if u.NamespaceID == 0 {
			u.NamespaceID = c.freeNamespace()
		}
		take(&w.nextNamespace, u.NamespaceID)
		u.Name, u.State, u.Type = cmp.Or(u.Name, u.Username), cmp.Or(u.State, StateActive), cmp.Or(u.Type, "HUMAN")
		u.Email = cmp.Or(u.Email, strings.ToLower(u.Username)+"@example.com")
		u.CreatedAt = w.created(u.CreatedAt)
		w.users[u.ID] = &u
		insert(&w.userIDs, u.ID)
		w.userNames[strings.ToLower(u.Username)] = u.ID
		w.namespaceOfUser[u.NamespaceID] = u.ID
		c.userEvent("user_create", &u)
		return nil
	})
	return u.ID, err
}

// RenameUser changes the username. Hook: user_rename.
func (w userChanges) RenameUser(id int64, username string) error {
	return w.change(func(c *changes) error {
		u := c.User(id)
		if u == nil {
			return notFound("User")
		}
		if err := checkPath("username", username); err != nil {
			return err
		}
		if !strings.EqualFold(u.Username, username) && c.taken(username) {
			return message(http.StatusConflict, "Username has already been taken")
		}
		old := u.Username
		u.Username = username
		c.reindex()
		e := c.userEvent("user_rename", u)
		e["old_username"] = old
		return nil
	})
}

// SetUserState blocks, unblocks, deactivates or bans. GitLab sends no system hook for it.
func (w userChanges) SetUserState(id int64, state string) error {
	return w.change(func(c *changes) error {
		u := c.User(id)
		if u == nil {
			return notFound("User")
		}
		if !validState(state) {
			return message(http.StatusBadRequest, fmt.Sprintf("state %q does not exist", state))
		}
		u.State = state
		return nil
	})
}

// SetUserFlags sets administrator and external. GitLab sends no system hook for it.
func (w userChanges) SetUserFlags(id int64, admin, external bool) error {
	return w.change(func(c *changes) error {
		u := c.User(id)
		if u == nil {
			return notFound("User")
		}
		u.Admin, u.External = admin, external
		return nil
	})
}

// DeleteUser removes a user with memberships and personal projects. Hooks: user_remove_from_* for the rows,
// project_destroy for the projects, user_destroy.
func (w userChanges) DeleteUser(id int64) error {
	return w.change(func(c *changes) error {
		u := c.User(id)
		if u == nil {
			return notFound("User")
		}
		for _, p := range c.ProjectsOf(u.NamespaceID) {
			c.deleteProject(p)
		}
		groups, projects := c.MembershipsOf(id)
		for _, gid := range groups {
			c.dropMember(KindGroup, gid, id)
		}
		for _, pid := range projects {
			c.dropMember(KindProject, pid, id)
		}
		c.userEvent("user_destroy", u)
		delete(w.users, id)
		remove(&w.userIDs, id)
		delete(w.userNames, strings.ToLower(u.Username))
		delete(w.namespaceOfUser, u.NamespaceID)
		return nil
	})
}

func (w userChanges) failedLogin(id int64) {
	_ = w.change(func(c *changes) error {
		if u := c.User(id); u != nil {
			c.userEvent("user_failed_login", u)["state"] = u.State
		}
		return nil
	})
}
