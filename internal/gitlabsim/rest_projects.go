package gitlabsim

import (
	"cmp"
	"crypto/sha256"
	"maps"
	"math/big"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// simpleProject is Entities::BasicProjectDetails (simple=true, and what anonymous callers get).
func (c *call) simpleProject(v *View, p *Project) map[string]any {
	path, web := v.ProjectPath(p), c.s.url
	host := strings.TrimPrefix(web, "https://")
	namespace, namespaceName := map[string]any{}, ""
	if g := v.GroupOf(p); g != nil {
		namespaceName = v.FullName(g)
		namespace = map[string]any{
			"id": g.ID, "name": g.Name, "path": g.Path, "kind": "group", "full_path": v.FullPath(g),
			"parent_id": nullableID(g.ParentID), "avatar_url": nil, "web_url": web + "/groups/" + v.FullPath(g),
		}
	} else if u := v.UserOfNamespace(p.NamespaceID); u != nil {
		namespaceName = u.Name
		namespace = map[string]any{
			"id": u.NamespaceID, "name": u.Name, "path": u.Username, "kind": "user", "full_path": u.Username,
			"parent_id": nil, "avatar_url": avatar(web, u), "web_url": web + "/" + u.Username,
		}
	}
	return map[string]any{
		"id": p.ID, "description": nil, "name": p.Name, "name_with_namespace": namespaceName + " / " + p.Name, "path": p.Path,
		"path_with_namespace": path, "created_at": apiTime(p.CreatedAt), "default_branch": p.DefaultBranch, "tag_list": []any{}, "topics": []any{},
		"ssh_url_to_repo": "git@" + host + ":" + path + ".git", "http_url_to_repo": web + "/" + path + ".git", "web_url": web + "/" + path,
		"readme_url": nil, "forks_count": 0, "avatar_url": nil, "star_count": 0, "last_activity_at": apiTime(p.CreatedAt),
		"visibility": p.Visibility, "namespace": namespace,
	}
}

// fullProject is Entities::Project. archived is the project's own flag.
func (c *call) fullProject(v *View, p *Project) map[string]any {
	m := c.simpleProject(v, p)
	creator := any(nil)
	if len(p.Members) > 0 {
		creator = nullableID(p.Members[0].UserID)
	}
	maps.Copy(m, map[string]any{
		"archived": p.SelfArchived, "empty_repo": len(p.Files) == 0, "marked_for_deletion_on": nullable(p.MarkedForDeletionOn),
		"marked_for_deletion_at": nullable(p.MarkedForDeletionOn), "issues_enabled": true, "merge_requests_enabled": true, "wiki_enabled": true,
		"jobs_enabled": true, "snippets_enabled": true, "shared_runners_enabled": true, "creator_id": creator, "open_issues_count": 0,
		"public_jobs": true, "shared_with_groups": c.links(v, p.Links), "request_access_enabled": true, "updated_at": apiTime(p.CreatedAt),
		"import_status": "none", "container_registry_enabled": false, "ci_pipeline_variables_minimum_override_role": "developer",
		"ci_id_token_sub_claim_components": []string{"project_path", "ref_type", "ref"}, "lfs_enabled": true,
	})
	if p.OwnerID != 0 {
		m["owner"] = basicUser(c.s.url, v.User(p.OwnerID))
	}
	return m
}

func (c *call) filterProjects(v *View, in []*Project) ([]*Project, error) {
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

func (v *View) projectMarked(p *Project) bool {
	g := v.GroupOf(p)
	return p.MarkedForDeletionOn != "" || g != nil && v.groupMarked(g)
}

// projectPage cuts a page by offset and shows it.
func (c *call) projectPage(v *View, projects []*Project) ([]map[string]any, error) {
	page, err := paginate(c, projects, "Project")
	if err != nil {
		return nil, err
	}
	return c.showProjects(v, page)
}

func (c *call) showProjects(v *View, page []*Project) ([]map[string]any, error) {
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

func (c *call) listProjects() error {
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

func (c *call) getProject() error {
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

// projectID returns the id of the project in the path if the caller has at least this role.
func (c *call) projectID(level int) (id int64, err error) {
	err = c.view(func(v *View) error {
		p, err := c.projectAtLeast(v, level)
		if err == nil {
			id = p.ID
		}
		return err
	})
	return id, err
}

func (c *call) shareProject() error {
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

func (c *call) unshareProject() error {
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

func (c *call) listProtectedBranches() error {
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
		if out, err = paginate(c, out, ""); err != nil {
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, out)
}

// Environments.

var (
	notSlug    = regexp.MustCompile(`[^a-z0-9]`)
	manyDashes = regexp.MustCompile(`-{2,}`)
)

// slugOf is Gitlab::Slug::Environment: a name that is changed by it gets a suffix made of its hash.
func slugOf(name string) string {
	slug := notSlug.ReplaceAllString(strings.ToLower(name), "-")
	if slug == "" || slug[0] < 'a' || slug[0] > 'z' {
		slug = "env-" + slug
	}
	slug = manyDashes.ReplaceAllString(slug, "-")
	if len(slug) > 24 || slug != name {
		if len(slug) > 17 {
			slug = slug[:17]
		}
		sum := sha256.Sum256([]byte(name))
		hash := new(big.Int).SetBytes(sum[:]).Text(36)
		slug = strings.TrimSuffix(slug, "-") + "-" + hash[len(hash)-6:]
	}
	return strings.TrimSuffix(slug, "-")
}

var tierPatterns = []struct {
	tier    string
	pattern *regexp.Regexp
}{
	{"development", regexp.MustCompile(`(?i)(dev|review|trunk)`)},
	{"testing", regexp.MustCompile(`(?i)(test|tst|int|ac(ce|)pt|qa|qc|control|quality)`)},
	{"staging", regexp.MustCompile(`(?i)(st(a|)g|mod(e|)l|pre|demo|non)`)},
	{"production", regexp.MustCompile(`(?i)(pr(o|)d|live)`)},
}

// tierOf is Environment#guess_tier.
func tierOf(name string) string {
	for _, t := range tierPatterns {
		if t.pattern.MatchString(name) {
			return t.tier
		}
	}
	return "other"
}

// EnsureEnvironment returns the environment of this name, creating it as a job with `environment:` does. A
// stopped one becomes available again.
func (w *World) EnsureEnvironment(projectID int64, name string) (Environment, error) {
	var env Environment
	err := w.change(func(c *changes) error {
		p := c.Project(projectID)
		if p == nil {
			return notFound("Project")
		}
		for i := range p.Environments {
			if p.Environments[i].Name == name {
				p.Environments[i].State = "available"
				env = p.Environments[i]
				return nil
			}
		}
		var err error
		env, err = c.addEnvironment(p, name, "")
		return err
	})
	return env, err
}

var environmentName = regexp.MustCompile(`^[a-zA-Z0-9_/$\{}. -]+$`)

func (c *changes) addEnvironment(p *Project, name, tier string) (Environment, error) {
	switch {
	case name == "":
		return Environment{}, invalid("name", "can't be blank")
	case len(name) > 255:
		return Environment{}, invalid("name", "is too long (maximum is 255 characters)")
	case !environmentName.MatchString(name) || strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/"):
		return Environment{}, invalid("name", "can contain only letters, digits, '-', '_', '/', '$', '{', '}', '.', and spaces, but it cannot start or end with '/'")
	case slices.ContainsFunc(p.Environments, func(e Environment) bool { return e.Name == name }):
		return Environment{}, invalid("name", "has already been taken")
	}
	env := Environment{
		ID: take(&c.w.nextEnvironment, 0), Name: name, Slug: slugOf(name), State: "available",
		Tier: cmp.Or(tier, tierOf(name)), CreatedAt: c.w.created(c.w.now()),
	}
	p.Environments = append(p.Environments, env)
	return env, nil
}

// StopEnvironment stops an environment.
func (w *World) StopEnvironment(projectID, id int64) error {
	return w.environment(projectID, id, func(p *Project, i int) error { p.Environments[i].State = "stopped"; return nil })
}

// DeleteEnvironment deletes a stopped environment.
func (w *World) DeleteEnvironment(projectID, id int64) error {
	return w.environment(projectID, id, func(p *Project, i int) error {
		if p.Environments[i].State != "stopped" {
			return message(http.StatusForbidden, "403 Forbidden")
		}
		p.Environments = slices.Delete(p.Environments, i, i+1)
		return nil
	})
}

func (w *World) environment(projectID, id int64, f func(p *Project, i int) error) error {
	return w.change(func(c *changes) error {
		p := c.Project(projectID)
		if p == nil {
			return notFound("Project")
		}
		i := slices.IndexFunc(p.Environments, func(e Environment) bool { return e.ID == id })
		if i < 0 {
			return message(http.StatusNotFound, "404 Environment Not Found")
		}
		return f(p, i)
	})
}

func (c *call) showEnvironment(v *View, p *Project, e Environment) map[string]any {
	return map[string]any{
		"id": e.ID, "name": e.Name, "slug": e.Slug, "description": nil, "external_url": nil, "state": e.State, "tier": e.Tier,
		"created_at": apiTime(e.CreatedAt), "updated_at": apiTime(e.CreatedAt), "auto_stop_at": nil, "kubernetes_namespace": nil,
		"flux_resource_path": nil, "auto_stop_setting": "always", "enable_advanced_logs_querying": false,
		"logs_api_path": "/" + v.ProjectPath(p) + "/-/logs/k8s.json?environment_name=" + e.Name,
	}
}

func (c *call) listEnvironments() error {
	name, byName := c.text("name")
	search, bySearch := c.text("search")
	states, err := c.oneOf("states", "", "available", "stopping", "stopped")
	if err != nil {
		return err
	}
	if byName && bySearch {
		return badParameter("name, search are mutually exclusive")
	}
	if bySearch && len(search) < 3 {
		return message(http.StatusBadRequest, "400 Bad request - Search query is less than 3 characters")
	}
	out := []map[string]any{}
	err = c.view(func(v *View) error {
		p, err := c.projectAtLeast(v, Reporter)
		if err != nil {
			return err
		}
		for _, e := range p.Environments {
			if byName && e.Name != name || bySearch && !strings.HasPrefix(e.Name, search) || states != "" && e.State != states {
				continue
			}
			out = append(out, c.showEnvironment(v, p, e))
		}
		out, err = paginate(c, out, "")
		return err
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, out)
}

func (c *call) environmentID() (int64, error) {
	id, err := strconv.ParseInt(c.vars["environment_id"], 10, 64)
	if err != nil {
		return 0, badParameter("environment_id is invalid")
	}
	return id, nil
}

func (c *call) answerEnvironment(status int, project, id int64) error {
	var body map[string]any
	err := c.view(func(v *View) error {
		p := v.Project(project)
		if p != nil {
			for _, e := range p.Environments {
				if e.ID == id {
					body = c.showEnvironment(v, p, e)
					return nil
				}
			}
		}
		return message(http.StatusNotFound, "404 Environment Not Found")
	})
	if err != nil {
		return err
	}
	if status == http.StatusOK && c.r.Method == http.MethodGet {
		body["last_deployment"] = nil
	}
	return c.answer(status, body)
}

func (c *call) getEnvironment() error {
	project, err := c.projectID(Reporter)
	if err != nil {
		return err
	}
	id, err := c.environmentID()
	if err != nil {
		return err
	}
	return c.answerEnvironment(http.StatusOK, project, id)
}

func (c *call) createEnvironment() error {
	project, err := c.projectID(Developer)
	if err != nil {
		return err
	}
	if err := c.require("name"); err != nil {
		return err
	}
	tier, err := c.oneOf("tier", "", "production", "staging", "testing", "development", "other")
	if err != nil {
		return err
	}
	name, _ := c.text("name")
	var env Environment
	err = c.s.world.change(func(ch *changes) error {
		p := ch.Project(project)
		if p == nil {
			return notFound("Project")
		}
		var err error
		env, err = ch.addEnvironment(p, name, tier)
		return err
	})
	if err != nil {
		return err
	}
	return c.answerEnvironment(http.StatusCreated, project, env.ID)
}

func (c *call) stopEnvironment() error {
	project, err := c.projectID(Developer)
	if err != nil {
		return err
	}
	id, err := c.environmentID()
	if err != nil {
		return err
	}
	if err := c.s.world.StopEnvironment(project, id); err != nil {
		return err
	}
	return c.answerEnvironment(http.StatusOK, project, id)
}

func (c *call) deleteEnvironment() error {
	project, err := c.projectID(Developer)
	if err != nil {
		return err
	}
	id, err := c.environmentID()
	if err != nil {
		return err
	}
	if err := c.s.world.DeleteEnvironment(project, id); err != nil {
		return err
	}
	return c.answer(http.StatusNoContent, nil)
}
