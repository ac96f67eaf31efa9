package gitlabsim

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// projectLists filters, pages and shows lists of projects, of whatever they are.
type projectLists struct{ entities }

// projectsAPI is about projects.
type projectsAPI struct{ projectLists }

func mountProjects(at routes[projectsAPI]) {
	at.get("/projects", projectsAPI.listProjects)
	at.get("/projects/:id", projectsAPI.getProject)
	at.get("/projects/:id/protected_branches", projectsAPI.listProtectedBranches)
}

func (c projectLists) filterProjects(v *View, in []*Project) ([]*Project, error) {
	orders := []string{"id", "name", "path", "created_at", "updated_at", "star_count", "last_activity_at", "similarity"}
	if c.admin() {
		orders = append(orders, "repository_size", "storage_size", "packages_size", "wiki_size")
	}
	order, err := c.oneOf("order_by", "created_at", orders...)
	if err != nil {
		return nil, err
	}
	direction, err := c.oneOf("sort", "desc", "asc", "desc")
	if err != nil {
		return nil, err
	}
	visibility, err := c.oneOf("visibility", "", Private, Internal, Public)
	if err != nil {
		return nil, err
	}
	flags := map[string][2]bool{}
	for _, k := range []string{"archived", "active", "membership", "owned"} {
		value, given, err := c.flag(k)
		if err != nil {
			return nil, err
		}
		flags[k] = [2]bool{value, given}
	}
	numbers := map[string]int64{}
	for _, k := range []string{"id_after", "id_before", "min_access_level"} {
		if numbers[k], _, err = c.number(k); err != nil {
			return nil, err
		}
	}
	search, _ := c.text("search")
	marked, _ := c.text("marked_for_deletion_on")
	out := make([]*Project, 0, len(in))
	for _, p := range in {
		level := func() int {
			if c.user == nil {
				return NoAccess
			}
			return v.projectLevel(p, c.user.ID)
		}
		switch {
		case !v.canReadProject(c.user, p),
			numbers["id_after"] > 0 && p.ID <= numbers["id_after"],
			numbers["id_before"] > 0 && p.ID >= numbers["id_before"],
			numbers["min_access_level"] > 0 && int64(level()) < numbers["min_access_level"],
			flags["membership"][0] && level() == NoAccess,
			flags["owned"][0] && level() < Owner,
			flags["archived"][1] && flags["archived"][0] != v.ProjectArchived(p.ID),
			flags["active"][1] && flags["active"][0] == (v.ProjectArchived(p.ID) || v.projectMarked(p)),
			visibility != "" && p.Visibility != visibility,
			marked != "" && p.MarkedForDeletionOn != marked,
			search != "" && !contains(search, p.Name, p.Path):
			continue
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *Project) int {
		n := 0
		switch order {
		case "name", "similarity":
			n = cmp.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name))
		case "path":
			n = cmp.Compare(a.Path, b.Path)
		case "created_at", "updated_at", "last_activity_at":
			n = a.CreatedAt.Compare(b.CreatedAt)
		}
		n = cmp.Or(n, cmp.Compare(a.ID, b.ID))
		if direction == "desc" {
			return -n
		}
		return n
	})
	return out, nil
}

// projectPage cuts a page by offset and shows it.
func (c projectLists) projectPage(v *View, projects []*Project) ([]map[string]any, error) {
	page, err := paginate(c.call, projects, "Project")
	if err != nil {
		return nil, err
	}
	return c.showProjects(v, page)
}

func (c projectLists) showProjects(v *View, page []*Project) ([]map[string]any, error) {
	simple, _, err := c.flag("simple")
	if err != nil {
		return nil, err
	}
	out := make([]map[string]any, len(page))
	for i, p := range page {
		if simple || c.user == nil {
			out[i] = c.simpleProject(v, p)
		} else {
			out[i] = c.fullProject(v, p)
		}
	}
	return out, nil
}

func (c projectsAPI) listProjects() error {
	var out []map[string]any
	err := c.view(func(v *View) error {
		found, err := c.filterProjects(v, v.Projects())
		if err != nil {
			return err
		}
		if !c.keyset() {
			out, err = c.projectPage(v, found)
			return err
		}
		if order, _ := c.text("order_by"); order != "id" {
			return noKeyset()
		}
		per, err := c.perPage()
		if err != nil {
			return err
		}
		page := found[:min(per, len(found))]
		// As the real one: a full last page is followed by an empty one, which has no Link.
		if len(page) == per {
			key := "id_before"
			if t, _ := c.text("sort"); t == "asc" {
				key = "id_after"
			}
			c.nextPage(key, strconv.FormatInt(page[len(page)-1].ID, 10), per)
		}
		out, err = c.showProjects(v, page)
		return err
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, out)
}

func (c projectsAPI) getProject() error {
	var body map[string]any
	err := c.view(func(v *View) error {
		p, err := c.project(v)
		if err != nil {
			return err
		}
		if c.user == nil {
			body = c.simpleProject(v, p)
			return nil
		}
		body = c.fullProject(v, p)
		access := any(nil)
		if m := p.Member(c.user.ID); m != nil {
			access = map[string]any{"access_level": m.Level, "notification_level": 3}
		}
		group := any(nil)
		if g := v.GroupOf(p); g != nil {
			if level := v.GroupLevel(g.ID, c.user.ID); level > NoAccess {
				group = map[string]any{"access_level": level, "notification_level": 3}
			}
		}
		body["permissions"] = map[string]any{"project_access": access, "group_access": group}
		return nil
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, body)
}

func (c projectsAPI) listProtectedBranches() error {
	out := []map[string]any{}
	err := c.view(func(v *View) error {
		p, err := c.projectAtLeast(v, Maintainer)
		if err != nil {
			return err
		}
		level := func(id int) []map[string]any {
			return []map[string]any{{"id": id, "access_level": Maintainer, "access_level_description": "Maintainers", "user_id": nil, "group_id": nil}}
		}
		for i, b := range p.ProtectedBranches {
			out = append(out, map[string]any{
				"id": i + 1, "name": b, "push_access_levels": level(2*i + 1), "merge_access_levels": level(2*i + 2),
				"allow_force_push": false, "unprotect_access_levels": []any{}, "code_owner_approval_required": false, "inherited": false,
			})
		}
		if out, err = paginate(c.call, out, ""); err != nil {
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, out)
}
