package gitlabsim

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
)

func gqlTime(t time.Time) any { return t.UTC().Format(time.RFC3339) }

// gqlQuery is the root.
type gqlQuery struct{ w *graphQLWorld }

func (gqlQuery) typeName() string { return "Query" }

func (q gqlQuery) resolve(x *execution, name string, args arguments) (any, error) {
	w := q.w
	switch name {
	case "__schema":
		return gqlSchema{x.schema}, nil
	case "__type":
		if def := x.schema.Types[args.str("name")]; def != nil {
			return gqlType{x.schema, ast.NamedType(def.Name, nil)}, nil
		}
		return nil, nil
	case "currentUser":
		if w.user == nil {
			return nil, nil
		}
		return gqlUser{w, w.user, "CurrentUser"}, nil
	case "metadata":
		if w.user == nil {
			return nil, nil
		}
		return gqlRecord{"Metadata", map[string]any{"enterprise": strings.HasSuffix(w.version, "-ee"), "revision": "0a1b2c3d4e5", "version": w.version}}, nil
	case "queryComplexity":
		return gqlRecord{"QueryComplexity", map[string]any{"score": x.score, "limit": x.limit}}, nil
	case "group":
		if g := w.v.GroupByPath(args.str("fullPath")); g != nil && w.seesGroup(g) {
			return gqlGroup{w, g}, nil
		}
		return nil, nil
	case "groups":
		return q.groups(args)
	case "project":
		if p := w.v.ProjectByPath(args.str("fullPath")); p != nil && w.seesProject(p) {
			return gqlProject{w, p}, nil
		}
		return nil, nil
	case "projects":
		return q.projects(args)
	case "namespace":
		if g := w.v.GroupByPath(args.str("fullPath")); g != nil && w.seesGroup(g) {
			return w.groupNamespace(g), nil
		}
		if u := w.v.UserByName(args.str("fullPath")); u != nil {
			return w.userNamespace(u), nil
		}
		return nil, nil
	case "user":
		return q.oneUser(args)
	default:
		return q.users(args)
	}
}

func (q gqlQuery) groups(args arguments) (any, error) {
	w := q.w
	want, err := parseGIDs("Group", args)
	if err != nil {
		return nil, err
	}
	var parent *Group
	if path := args.str("parentPath"); path != "" {
		if parent = w.v.GroupByPath(path); parent == nil || !w.seesGroup(parent) {
			return w.groupPage(nil, args.str("sort"), args)
		}
	}
	active, hasActive := args["active"].(bool)
	groups := gqlFilter(w.v.Groups(), func(g *Group) bool {
		level := func() int { return w.v.GroupLevel(g.ID, w.userID()) }
		return want(g.ID) && w.seesGroup(g) &&
			(parent == nil || g.ParentID == parent.ID) &&
			(!args.boolean("topLevelOnly") || g.ParentID == 0) &&
			(!args.boolean("ownedOnly") || level() >= Owner) &&
			(args["allAvailable"] != false || level() > NoAccess) &&
			(args["markedForDeletionOn"] == nil || g.MarkedForDeletionOn == args.str("markedForDeletionOn")) &&
			(!hasActive || active == !w.groupMarked(g)) &&
			(args.str("search") == "" || gqlContains(g.Name, args.str("search")) || gqlContains(w.v.FullPath(g), args.str("search")))
	})
	return w.groupPage(groups, cmp.Or(args.str("sort"), "name_asc"), args)
}

func (q gqlQuery) projects(args arguments) (any, error) {
	w := q.w
	if err := unsimulated(args, "topics", "withIssuesEnabled", "withMergeRequestsEnabled", "programmingLanguageName"); err != nil {
		return nil, err
	}
	want, err := parseGIDs("Project", args)
	if err != nil {
		return nil, err
	}
	paths, hasPaths := args.list("fullPaths")
	if len(paths) > 50 {
		return nil, gqlerror.Errorf("You cannot provide more than 50 full_paths.")
	}
	active, hasActive := args["active"].(bool)
	search := args.str("search")
	projects := gqlFilter(w.v.Projects(), func(p *Project) bool {
		level := func() int { return w.v.ProjectLevel(p.ID, w.userID()) }
		return want(p.ID) && w.seesProject(p) &&
			(!hasPaths || slices.ContainsFunc(paths, func(s string) bool { return strings.EqualFold(s, w.v.ProjectPath(p)) })) &&
			(args.str("namespacePath") == "" || strings.EqualFold(args.str("namespacePath"), w.v.NamespacePath(p))) &&
			(!args.boolean("membership") || level() > NoAccess) &&
			(args.str("minAccessLevel") == "" || level() > NoAccess && !gqlBelow(level(), args.str("minAccessLevel"))) &&
			(!args.boolean("personal") || p.OwnerID != 0 && p.OwnerID == w.userID()) &&
			(search == "" || gqlContains(p.Name, search) || gqlContains(p.Path, search) ||
				args.boolean("searchNamespaces") && gqlContains(w.v.ProjectPath(p), search)) &&
			(args.str("visibilityLevel") == "" || args.str("visibilityLevel") == p.Visibility) &&
			(args.str("archived") != "ONLY" || w.v.ProjectArchived(p.ID)) &&
			(args.str("archived") != "EXCLUDE" || !w.v.ProjectArchived(p.ID)) &&
			(!args.boolean("aimedForDeletion") || p.MarkedForDeletionOn != "") &&
			(!args.boolean("notAimedForDeletion") || p.MarkedForDeletionOn == "") &&
			(args["markedForDeletionOn"] == nil || p.MarkedForDeletionOn == args.str("markedForDeletionOn")) &&
			(!hasActive || active == w.projectActive(p))
	})
	return w.projectPage(projects, cmp.Or(args.str("sort"), "id_desc"), args)
}

func (w *graphQLWorld) projectActive(p *Project) bool {
	return !w.v.ProjectArchived(p.ID) && !w.projectMarked(p)
}

// gqlBelow compares a level with a name of AccessLevelEnum.
func gqlBelow(level int, least string) bool {
	for l := NoAccess; l <= 60; l += 5 {
		if levelEnum(l) == least {
			return level < l
		}
	}
	return true
}

func (q gqlQuery) oneUser(args arguments) (any, error) {
	w := q.w
	if (args["id"] == nil) == (args["username"] == nil) {
		return nil, gqlerror.Errorf("One of id or username must be provided, but not both")
	}
	u := w.v.UserByName(args.str("username"))
	if args["id"] != nil {
		id, err := parseGID("User", args.str("id"))
		if err != nil {
			return nil, err
		}
		u = w.v.User(id)
	}
	if u == nil || w.user == nil {
		return nil, nil
	}
	return gqlUser{w, u, "UserCore"}, nil
}

func (q gqlQuery) users(args arguments) (any, error) {
	w := q.w
	if w.user == nil {
		return nil, gqlerror.Errorf("%s", errNotAvailable)
	}
	names, hasNames := args.list("usernames")
	if hasNames && args["ids"] != nil {
		return nil, gqlerror.Errorf("Provide either a list of usernames or ids")
	}
	want, err := parseGIDs("User", args)
	if err != nil {
		return nil, err
	}
	var members []EffectiveMember
	if s := args.str("groupId"); s != "" {
		id, err := parseGID("Group", s)
		if err != nil {
			return nil, err
		}
		if g := w.v.Group(id); g != nil && w.seesGroup(g) {
			members = w.v.EffectiveGroupMembers(id)
		}
	}
	types, hasTypes := args.list("userTypes")
	active, hasActive := args["active"].(bool)
	humans, hasHumans := args["humans"].(bool)
	search := args.str("search")
	field, by, err := gqlParseSort(cmp.Or(args.str("sort"), "created_desc"))
	if err != nil {
		return nil, err
	}
	by.name = "users:" + by.name
	var rows []gqlRow
	for _, u := range w.v.Users() {
		ok := want(u.ID) &&
			(!hasNames || slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, u.Username) })) &&
			// People who can't sign in are shown to administrators only.
			(w.admin() || u.State == StateActive || u.State == StateDeactivated) &&
			(!args.boolean("admins") || w.admin() && u.Admin) &&
			(!hasActive || active == (u.State == StateActive)) &&
			(!hasHumans || humans == (u.Type == "HUMAN")) &&
			(!hasTypes || slices.Contains(types, u.Type)) &&
			(args.str("groupId") == "" || slices.ContainsFunc(members, func(m EffectiveMember) bool { return m.UserID == u.ID })) &&
			(search == "" || gqlContains(u.Name, search) || gqlContains(u.Username, search) || strings.EqualFold(u.Email, search))
		if ok {
			key, _ := gqlSortKey(field, u.Name, u.Username, u.CreatedAt)
			rows = append(rows, gqlRow{key: key, id: u.ID, obj: gqlUser{w, u, "UserCore"}})
		}
	}
	return gqlPage("UserCoreConnection", rows, by, args)
}

// gqlRecord is an object whose fields are all known beforehand.
type gqlRecord struct {
	name   string
	fields map[string]any
}

func (r gqlRecord) typeName() string { return r.name }

func (r gqlRecord) resolve(_ *execution, name string, _ arguments) (any, error) {
	return r.fields[name], nil
}

func gqlLevel(level int) gqlRecord {
	return gqlRecord{"AccessLevel", map[string]any{"integerValue": level, "stringValue": gqlText(levelEnum(level)), "humanAccess": LevelName(level)}}
}

func (w *graphQLWorld) groupNamespace(g *Group) gqlRecord {
	return gqlRecord{"Namespace", map[string]any{
		"id": gid("Group", g.ID), "name": g.Name, "path": g.Path, "fullName": w.v.FullName(g), "fullPath": w.v.FullPath(g), "visibility": g.Visibility,
	}}
}

func (w *graphQLWorld) userNamespace(u *User) gqlRecord {
	return gqlRecord{"Namespace", map[string]any{
		"id": gid("Namespaces::UserNamespace", u.NamespaceID), "name": u.Name, "path": u.Username, "fullName": u.Name, "fullPath": u.Username, "visibility": Public,
	}}
}

func (w *graphQLWorld) groupOrNil(g *Group) any {
	if g == nil || !w.seesGroup(g) {
		return nil
	}
	return gqlGroup{w, g}
}

type gqlGroup struct {
	w *graphQLWorld
	g *Group
}

func (gqlGroup) typeName() string { return "Group" }

func (o gqlGroup) resolve(_ *execution, name string, args arguments) (any, error) {
	w, g, v := o.w, o.g, o.w.v
	switch name {
	case "maxAccessLevel":
		if w.admin() {
			return gqlLevel(Owner), nil
		}
		return gqlLevel(v.GroupLevel(g.ID, w.userID())), nil
	case "parent":
		return w.groupOrNil(v.Group(g.ParentID)), nil
	case "rootNamespace":
		all := v.SelfAndAncestors(g)
		return w.groupNamespace(all[len(all)-1]), nil
	case "groupMembers":
		if !w.open(g.Visibility) && v.GroupLevel(g.ID, w.userID()) == NoAccess {
			return nil, gqlerror.Errorf("%s", errNotAvailable)
		}
		relations, _ := args.list("relations")
		return w.memberPage("GroupMemberConnection", "groupMembers", w.groupMemberRows(g, relations), args)
	case "descendantGroups":
		return o.descendants(args)
	case "projects":
		return o.projects(args)
	case "sharedGroups":
		return o.sharedGroups(args)
	case "sharedProjects":
		return o.sharedProjects(args)
	default:
		return o.value(name), nil
	}
}

// value is a field that is no object, and the same for everybody who sees the group.
func (o gqlGroup) value(name string) any {
	g, v := o.g, o.w.v
	switch name {
	case "id":
		return gid("Group", g.ID)
	case "name":
		return g.Name
	case "path":
		return g.Path
	case "fullName":
		return v.FullName(g)
	case "fullPath":
		return v.FullPath(g)
	case "visibility":
		return g.Visibility
	case "createdAt", "updatedAt":
		return gqlTime(g.CreatedAt)
	case "webPath":
		return "/groups/" + v.FullPath(g)
	case "webUrl":
		return o.w.url + "/groups/" + v.FullPath(g)
	case "archived":
		return v.GroupArchived(g.ID)
	case "isSelfArchived":
		return g.SelfArchived
	case "markedForDeletion":
		return o.w.groupMarked(g)
	case "shareWithGroupLock":
		return g.ShareWithGroupLock
	case "groupMembersCount":
		return len(gqlFilter(g.Members, func(m Member) bool { return m.UserID != 0 }))
	case "descendantGroupsCount":
		return len(v.Subgroups(g.ID))
	case "projectsCount":
		return len(v.ProjectsOf(g.ID))
	default: // description: not modelled
		return gqlDeletion(v, name, g.MarkedForDeletionOn)
	}
}

func (o gqlGroup) sharedGroups(args arguments) (any, error) {
	w, v := o.w, o.w.v
	ids, _ := v.GroupsInvitedTo(o.g.ID)
	groups := gqlFilter(collect(ids, v.w.groups), func(s *Group) bool { return w.seesGroup(s) && gqlMatches(args, s.Name, v.FullPath(s)) })
	return w.groupPage(groups, cmp.Or(args.str("sort"), "NAME_ASC"), args)
}

func (o gqlGroup) sharedProjects(args arguments) (any, error) {
	w, v := o.w, o.w.v
	if err := unsimulated(args, "programmingLanguageName", "minAccessLevel"); err != nil {
		return nil, err
	}
	_, ids := v.GroupsInvitedTo(o.g.ID)
	active, hasActive := args["active"].(bool)
	projects := gqlFilter(collect(ids, v.w.projects), func(p *Project) bool {
		return w.seesProject(p) && gqlMatches(args, p.Name, p.Path) && (!hasActive || active == w.projectActive(p))
	})
	return w.projectPage(projects, cmp.Or(args.str("sort"), "id_desc"), args)
}

// gqlDeletion is a field of a group or a project about its own mark for deletion, and nil for every other field.
func gqlDeletion(v *View, name, marked string) any {
	switch name {
	case "markedForDeletionOn":
		return gqlText(marked)
	case "isSelfDeletionScheduled":
		return marked != ""
	case "isSelfDeletionInProgress":
		return false
	case "permanentDeletionDate":
		return gqlDeletionDate(v, marked)
	default:
		return nil
	}
}

// gqlMatches applies the argument `search`.
func gqlMatches(args arguments, texts ...string) bool {
	search := args.str("search")
	return search == "" || slices.ContainsFunc(texts, func(s string) bool { return gqlContains(s, search) })
}

// gqlDeletionDate is GitLab's date 30 days after the mark; for what is not marked it is a theoretical one.
func gqlDeletionDate(v *View, marked string) any {
	from, err := time.Parse(time.DateOnly, marked)
	if err != nil {
		from = v.Now().UTC()
	}
	return from.AddDate(0, 0, 30).Format(time.DateOnly)
}

func (o gqlGroup) descendants(args arguments) (any, error) {
	w, v := o.w, o.w.v
	want, err := parseGIDs("Group", args)
	if err != nil {
		return nil, err
	}
	groups := v.Descendants(o.g.ID)
	if args["includeParentDescendants"] == false {
		groups = v.Subgroups(o.g.ID)
	}
	archived, hasArchived := args["archived"].(bool)
	groups = gqlFilter(groups, func(g *Group) bool {
		return want(g.ID) && w.seesGroup(g) && gqlMatches(args, g.Name, v.FullPath(g)) &&
			(!args.boolean("owned") || v.GroupLevel(g.ID, w.userID()) >= Owner) &&
			(!hasArchived || archived == v.GroupArchived(g.ID))
	})
	return w.groupPage(groups, cmp.Or(args.str("sort"), "NAME_ASC"), args)
}

func (o gqlGroup) projects(args arguments) (any, error) {
	w, v := o.w, o.w.v
	if err := unsimulated(args, "includeSiblingProjects", "withIssuesEnabled", "withMergeRequestsEnabled"); err != nil {
		return nil, err
	}
	want, err := parseGIDs("Project", args)
	if err != nil {
		return nil, err
	}
	projects := v.ProjectsOf(o.g.ID)
	if args.boolean("includeSubgroups") {
		for _, d := range v.Descendants(o.g.ID) {
			projects = append(projects, v.ProjectsOf(d.ID)...)
		}
	}
	projects = gqlFilter(projects, func(p *Project) bool {
		return want(p.ID) && w.seesProject(p) && gqlMatches(args, p.Name, p.Path) &&
			(args["includeArchived"] != false || !v.ProjectArchived(p.ID)) &&
			(!args.boolean("archivedOnly") || v.ProjectArchived(p.ID)) &&
			(!args.boolean("notAimedForDeletion") || p.MarkedForDeletionOn == "")
	})
	return w.projectPage(projects, cmp.Or(args.str("sort"), "id_desc"), args)
}

type gqlProject struct {
	w *graphQLWorld
	p *Project
}

func (gqlProject) typeName() string { return "Project" }

func (o gqlProject) resolve(x *execution, name string, args arguments) (any, error) {
	w, p, v := o.w, o.p, o.w.v
	switch name {
	case "namespace":
		if g := v.GroupOf(p); g != nil {
			return w.groupNamespace(g), nil
		}
		if u := v.UserOfNamespace(p.NamespaceID); u != nil {
			return w.userNamespace(u), nil
		}
		return nil, nil
	case "group":
		return w.groupOrNil(v.GroupOf(p)), nil
	case "rootGroup":
		if g := v.GroupOf(p); g != nil {
			all := v.SelfAndAncestors(g)
			return w.groupOrNil(all[len(all)-1]), nil
		}
		return nil, nil
	case "maxAccessLevel":
		return gqlLevel(v.ProjectLevel(p.ID, w.userID())), nil
	case "projectMembers":
		if !w.open(p.Visibility) && v.ProjectLevel(p.ID, w.userID()) == NoAccess {
			return nil, gqlerror.Errorf("%s", errNotAvailable)
		}
		relations, _ := args.list("relations")
		return w.memberPage("MemberInterfaceConnection", "projectMembers", w.projectMemberRows(p, relations), args)
	case "ciCdSettings":
		if !w.mayAdminister(p) {
			return nil, nil
		}
		return gqlRecord{"ProjectCiCdSetting", map[string]any{
			"pipelineVariablesMinimumOverrideRole": "no_one_allowed", "jobTokenScopeEnabled": false, "inboundJobTokenScopeEnabled": true,
		}}, nil
	case "ciVariables":
		return o.variables(args)
	case "environments":
		if x.calls[name]++; x.calls[name] > 1 {
			return nil, gqlerror.Errorf("\"environments\" field can be requested only for 1 Project(s) at a time.")
		}
		return o.environmentPage(args)
	case "environment":
		environments, err := o.environments(args)
		if err != nil || len(environments) == 0 {
			return nil, err
		}
		return o.environment(environments[0]), nil
	default:
		return o.value(name), nil
	}
}

// value is a field that is no object, and the same for everybody who sees the project.
func (o gqlProject) value(name string) any {
	p, v := o.p, o.w.v
	switch name {
	case "id":
		return gid("Project", p.ID)
	case "name":
		return p.Name
	case "path":
		return p.Path
	case "fullPath":
		return v.ProjectPath(p)
	case "nameWithNamespace":
		if g := v.GroupOf(p); g != nil {
			return v.FullName(g) + " / " + p.Name
		}
		if u := v.UserOfNamespace(p.NamespaceID); u != nil {
			return u.Name + " / " + p.Name
		}
		return p.Name
	case "visibility":
		return p.Visibility
	case "createdAt", "updatedAt":
		return gqlTime(p.CreatedAt)
	case "webPath":
		return "/" + v.ProjectPath(p)
	case "webUrl":
		return o.w.url + "/" + v.ProjectPath(p)
	case "archived":
		return v.ProjectArchived(p.ID)
	case "isSelfArchived":
		return p.SelfArchived
	case "markedForDeletion":
		return o.w.projectMarked(p)
	default: // description: not modelled
		return gqlDeletion(v, name, p.MarkedForDeletionOn)
	}
}

// variables are null for everybody who may not administer the project's variables, without an error (authorize on the
// field).
func (o gqlProject) variables(args arguments) (any, error) {
	if !o.w.mayAdminister(o.p) {
		return nil, nil
	}
	by := gqlOrder{name: "id", desc: true} // what GitLab's keyset pagination falls back to
	byKey := false
	switch args.str("sort") {
	case "KEY_ASC":
		by, byKey = gqlOrder{name: "key"}, true
	case "KEY_DESC":
		by, byKey = gqlOrder{name: "key", desc: true}, true
	}
	by.name = "variables:" + by.name
	rows := make([]gqlRow, 0, len(o.p.Variables))
	for _, va := range o.p.Variables {
		value, key := any(va.Value), ""
		if va.Hidden {
			value = nil
		}
		if byKey {
			key = va.Key
		}
		rows = append(rows, gqlRow{key: key, id: va.ID, obj: gqlRecord{"CiProjectVariable", map[string]any{
			"id": gid("Ci::Variable", va.ID), "key": va.Key, "value": value, "variableType": strings.ToUpper(va.VariableType),
			"environmentScope": va.EnvironmentScope, "protected": va.Protected, "masked": va.Masked, "hidden": va.Hidden, "raw": va.Raw,
			"description": gqlText(va.Description),
		}}})
	}
	page, err := gqlPage("CiProjectVariableConnection", rows, by, args)
	if err != nil {
		return nil, err
	}
	return gqlVariables{page}, nil
}

// gqlVariables is a connection with one field more.
type gqlVariables struct{ *gqlConnection }

func (c gqlVariables) resolve(x *execution, name string, args arguments) (any, error) {
	if name == "limit" {
		return maxVariables, nil
	}
	return c.gqlConnection.resolve(x, name, args)
}

func (w *graphQLWorld) mayAdminister(p *Project) bool {
	return w.admin() || w.v.ProjectLevel(p.ID, w.userID()) >= Maintainer
}

func (o gqlProject) environments(args arguments) ([]Environment, error) {
	if !o.w.admin() && o.w.v.ProjectLevel(o.p.ID, o.w.userID()) < Reporter {
		return nil, nil
	}
	if args.str("name") != "" && args.str("search") != "" {
		return nil, gqlerror.Errorf("name and search cannot be used together")
	}
	states, hasStates := args.list("states")
	return gqlFilter(o.p.Environments, func(e Environment) bool {
		return (args.str("name") == "" || e.Name == args.str("name")) && gqlMatches(args, e.Name) &&
			(!hasStates || slices.Contains(states, e.State)) &&
			(args.str("type") == "" || gqlEnvironmentType(e.Name) == args.str("type"))
	}), nil
}

func (o gqlProject) environmentPage(args arguments) (any, error) {
	environments, err := o.environments(args)
	if err != nil {
		return nil, err
	}
	rows := make([]gqlRow, 0, len(environments))
	for _, e := range environments {
		rows = append(rows, gqlRow{id: e.ID, obj: o.environment(e)})
	}
	return gqlPage("EnvironmentConnection", rows, gqlOrder{name: "environments", desc: true}, args)
}

// gqlEnvironmentType is the folder of an environment: what stands before the first slash.
func gqlEnvironmentType(name string) string {
	folder, _, found := strings.Cut(name, "/")
	if !found {
		return ""
	}
	return folder
}

func (o gqlProject) environment(e Environment) gqlObject {
	path := "/" + o.w.v.ProjectPath(o.p) + "/-/environments/" + strings.TrimPrefix(gid("", e.ID), "gid://gitlab//")
	return gqlRecord{"Environment", map[string]any{
		"id": gid("Environment", e.ID), "name": e.Name, "slug": e.Slug, "state": e.State, "tier": gqlText(strings.ToUpper(e.Tier)), "path": path,
		"environmentType": gqlText(gqlEnvironmentType(e.Name)), "createdAt": gqlTime(e.CreatedAt), "updatedAt": gqlTime(e.CreatedAt),
	}}
}

type gqlMember struct {
	w *graphQLWorld
	r gqlMemberRow
}

func (o gqlMember) typeName() string {
	if o.r.kind == KindProject {
		return "ProjectMember"
	}
	return "GroupMember"
}

func (o gqlMember) globalID() string { return gid(o.typeName(), o.r.ID) }

func (o gqlMember) resolve(_ *execution, name string, _ arguments) (any, error) {
	w, r := o.w, o.r
	userOrNil := func(id int64) any {
		if u := w.v.User(id); u != nil {
			return gqlUser{w, u, "UserCore"}
		}
		return nil
	}
	switch name {
	case "id":
		return o.globalID(), nil
	case "accessLevel":
		return gqlLevel(r.Level), nil
	case "createdAt", "updatedAt":
		return gqlTime(r.CreatedAt), nil
	case "expiresAt":
		return gqlText(r.ExpiresAt), nil // a date, although the type says Time: the column is one
	case "createdBy":
		return userOrNil(r.CreatedByID), nil
	case "user":
		return userOrNil(r.UserID), nil
	case "group":
		return w.groupOrNil(w.v.Group(r.source)), nil
	case "project":
		if p := w.v.Project(r.source); p != nil && w.seesProject(p) {
			return gqlProject{w, p}, nil
		}
		return nil, nil
	case "notificationEmail":
		if u := w.v.User(r.UserID); u != nil && w.admin() {
			return u.Email, nil
		}
		return nil, nil
	default:
		return nil, nil
	}
}

type gqlUser struct {
	w    *graphQLWorld
	u    *User
	name string
}

func (o gqlUser) typeName() string { return o.name }

func (o gqlUser) resolve(_ *execution, name string, args arguments) (any, error) {
	w, u := o.w, o.u
	switch name {
	case "id":
		return gid("User", u.ID), nil
	case "username":
		return u.Username, nil
	case "name":
		return u.Name, nil
	case "state":
		return u.State, nil
	case "type":
		return u.Type, nil
	case "active":
		return u.State == StateActive, nil
	case "human":
		return u.Type == "HUMAN", nil
	case "bot":
		return strings.HasSuffix(u.Type, "_BOT"), nil // not SERVICE_ACCOUNT
	case "createdAt":
		return gqlTime(u.CreatedAt), nil
	case "namespace":
		return w.userNamespace(u), nil
	case "webPath":
		return "/" + u.Username, nil
	case "webUrl":
		return w.url + "/" + u.Username, nil
	case "groupMemberships":
		ids, _ := w.v.MembershipsOf(u.ID)
		var rows []gqlMemberRow
		for _, g := range collect(ids, w.v.w.groups) {
			if m := g.Member(u.ID); m != nil && w.seesGroup(g) {
				rows = append(rows, gqlMemberRow{*m, KindGroup, g.ID})
			}
		}
		return w.memberPage("GroupMemberConnection", "groupMemberships", rows, args)
	case "projectMemberships":
		_, ids := w.v.MembershipsOf(u.ID)
		var rows []gqlMemberRow
		for _, p := range collect(ids, w.v.w.projects) {
			if m := p.Member(u.ID); m != nil && w.seesProject(p) {
				rows = append(rows, gqlMemberRow{*m, KindProject, p.ID})
			}
		}
		return w.memberPage("ProjectMemberConnection", "projectMemberships", rows, args)
	default: // publicEmail, email: the model has no public address
		return nil, nil
	}
}
