package gitlabsim

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// projectChanges are what happens to projects and their files.
type projectChanges struct{ *model }

// AddProject adds a project. Name it by NamespaceID (group or personal namespace) or by OwnerID (personal). The
// owner of a personal project gets an Owner row, as in GitLab. Hooks: project_create, user_add_to_team.
func (w projectChanges) AddProject(p Project) (int64, error) {
	err := w.change(func(c *changes) error {
		if err := checkPath("path", p.Path); err != nil {
			return err
		}
		if p.OwnerID != 0 && p.NamespaceID == 0 {
			u := c.User(p.OwnerID)
			if u == nil {
				return notFound("User")
			}
			p.NamespaceID = u.NamespaceID
		}
		owner := c.UserOfNamespace(p.NamespaceID)
		if owner == nil && c.Group(p.NamespaceID) == nil {
			return message(http.StatusBadRequest, map[string]any{"namespace": []string{"is not valid"}})
		}
		if owner != nil {
			p.OwnerID = owner.ID
			if memberOf(p.Members, owner.ID) == nil {
				p.Members = append([]Member{{UserID: owner.ID, Level: Owner}}, p.Members...)
			}
		} else {
			p.OwnerID = 0
		}
		full := c.ProjectPath(&p)
		if c.taken(full) {
			return message(http.StatusBadRequest, map[string]any{"path": []string{"has already been taken"}})
		}
		p.Visibility = cmp.Or(p.Visibility, Private)
		if err := checkVisibility(p.Visibility); err != nil {
			return err
		}
		if p.ID != 0 && w.projects[p.ID] != nil {
			return message(http.StatusConflict, fmt.Sprintf("ID %d has already been taken", p.ID))
		}
		if err := errors.Join(c.checkRows(p.Members), c.checkLinks(p.Links)); err != nil {
			return err
		}
		p.ID = take(&w.nextProject, p.ID)
		p.Name, p.CreatedAt, p.DefaultBranch = cmp.Or(p.Name, p.Path), w.created(p.CreatedAt), cmp.Or(p.DefaultBranch, "main")
		p.Members, p.Links = c.fillRows(p.Members), slices.Clone(p.Links)
		p.ProtectedBranches, p.Variables = slices.Clone(p.ProtectedBranches), slices.Clone(p.Variables)
		for i := range p.Variables {
			p.Variables[i].ID = take(&w.nextVariable, p.Variables[i].ID)
		}
		p.Environments = slices.Clone(p.Environments)
		files := map[string]map[string]string{}
		for branch, content := range p.Files {
			files[branch] = maps.Clone(content)
		}
		p.Files = files
		w.projects[p.ID] = &p
		insert(&w.projectIDs, p.ID)
		insertInto(w.projectsOf, p.NamespaceID, p.ID)
		w.projectPaths[strings.ToLower(full)] = p.ID
		c.projectEvent("project_create", &p)
		for _, m := range p.Members {
			c.joined(KindProject, p.ID, m)
		}
		for _, l := range p.Links {
			insertInto(w.invitedIntoProject, l.GroupID, p.ID)
		}
		return nil
	})
	return p.ID, err
}

// RenameProject changes path and name ("" keeps). Hook: project_rename if the path changed, else project_update.
func (w projectChanges) RenameProject(id int64, path, name string) error {
	return w.change(func(c *changes) error {
		p := c.Project(id)
		if p == nil {
			return notFound("Project")
		}
		p.Name = cmp.Or(name, p.Name)
		if path == "" || path == p.Path {
			c.projectEvent("project_update", p)
			return nil
		}
		return c.renameProject(p, path)
	})
}

func (c *changes) renameProject(p *Project, path string) error {
	if err := checkPath("path", path); err != nil {
		return err
	}
	old, full := c.ProjectPath(p), c.NamespacePath(p)+"/"+path
	if !strings.EqualFold(old, full) && c.taken(full) {
		return message(http.StatusBadRequest, map[string]any{"path": []string{"has already been taken"}})
	}
	p.Path = path
	c.reindex()
	e := c.projectEvent("project_rename", p)
	e["old_path_with_namespace"] = old
	return nil
}

// TransferProject moves a project into another namespace. Hook: project_transfer.
func (w projectChanges) TransferProject(id, namespaceID int64) error {
	return w.change(func(c *changes) error {
		p := c.Project(id)
		if p == nil {
			return notFound("Project")
		}
		owner := c.UserOfNamespace(namespaceID)
		if owner == nil && c.Group(namespaceID) == nil {
			return notFound("Namespace")
		}
		moved := *p
		moved.NamespaceID = namespaceID
		if c.taken(c.ProjectPath(&moved)) {
			return message(http.StatusBadRequest, "Project with same name or path in target namespace already exists")
		}
		old := c.ProjectPath(p)
		removeFrom(w.projectsOf, p.NamespaceID, id)
		p.NamespaceID, p.OwnerID = namespaceID, 0
		if owner != nil {
			p.OwnerID = owner.ID
		}
		insertInto(w.projectsOf, namespaceID, id)
		c.reindex()
		e := c.projectEvent("project_transfer", p)
		e["old_path_with_namespace"] = old
		return nil
	})
}

// SetProjectArchived archives or unarchives a project. Hook: project_update.
func (w projectChanges) SetProjectArchived(id int64, archived bool) error {
	return w.updateProject(id, func(p *Project) error { p.SelfArchived = archived; return nil })
}

// SetProjectVisibility changes the visibility. Hook: project_update.
func (w projectChanges) SetProjectVisibility(id int64, visibility string) error {
	return w.updateProject(id, func(p *Project) error {
		if err := checkVisibility(visibility); err != nil {
			return err
		}
		p.Visibility = visibility
		return nil
	})
}

func (w projectChanges) updateProject(id int64, f func(*Project) error) error {
	return w.change(func(c *changes) error {
		p := c.Project(id)
		if p == nil {
			return notFound("Project")
		}
		if err := f(p); err != nil {
			return err
		}
		c.projectEvent("project_update", p)
		return nil
	})
}

// MarkProjectForDeletion schedules the deletion: the path becomes <path>-deletion_scheduled-<id>. Hook: project_rename.
func (w projectChanges) MarkProjectForDeletion(id int64) error {
	return w.change(func(c *changes) error {
		p := c.Project(id)
		if p == nil {
			return notFound("Project")
		}
		p.MarkedForDeletionOn = w.now().UTC().Format(time.DateOnly)
		return c.renameProject(p, fmt.Sprintf("%s-deletion_scheduled-%d", p.Path, p.ID))
	})
}

// DeleteProject destroys a project. Hooks: user_remove_from_team for each row, project_destroy.
func (w projectChanges) DeleteProject(id int64) error {
	return w.change(func(c *changes) error {
		p := c.Project(id)
		if p == nil {
			return notFound("Project")
		}
		c.deleteProject(p)
		return nil
	})
}

func (c *changes) deleteProject(p *Project) {
	w := c.w
	for _, m := range slices.Clone(p.Members) {
		c.dropMember(KindProject, p.ID, m.UserID)
	}
	for _, l := range p.Links {
		removeFrom(w.invitedIntoProject, l.GroupID, p.ID)
	}
	c.projectEvent("project_destroy", p)
	delete(w.projectPaths, strings.ToLower(c.ProjectPath(p)))
	removeFrom(w.projectsOf, p.NamespaceID, p.ID)
	delete(w.projects, p.ID)
	remove(&w.projectIDs, p.ID)
}

// PutFile writes a file on a branch of a project (there is no Git behind it, so no push hook either).
func (w projectChanges) PutFile(projectID int64, branch, path, content string) error {
	return w.change(func(c *changes) error {
		p := c.Project(projectID)
		if p == nil {
			return notFound("Project")
		}
		if p.Files[branch] == nil {
			p.Files[branch] = map[string]string{}
		}
		p.Files[branch][path] = content
		return nil
	})
}

// SetProtectedBranches replaces the list of protected branches (names, `*` as wildcard). No system hook.
func (w projectChanges) SetProtectedBranches(projectID int64, branches ...string) error {
	return w.change(func(c *changes) error {
		p := c.Project(projectID)
		if p == nil {
			return notFound("Project")
		}
		p.ProtectedBranches = slices.Clone(branches)
		return nil
	})
}

// Restore gives a project the variables and cluster integrations that it had at another time, as a restore of GitLab from a
// backup does: without a hook.
func (w projectChanges) Restore(projectID int64, variables []Variable, clusters []Cluster) error {
	return w.change(func(c *changes) error {
		p := c.Project(projectID)
		if p == nil {
			return notFound("Project")
		}
		p.Variables, p.Clusters = slices.Clone(variables), slices.Clone(clusters)
		return nil
	})
}
