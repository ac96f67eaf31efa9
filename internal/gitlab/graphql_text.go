package gitlab

import (
	"fmt"
	"strings"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// Costs by GitLab's rules (source: app/graphql/types/base_field.rb): one per field; a connection with a resolver
// counts (children + 1, + 1 with a sort) times 1 + page/100.
const (
	costProbe = 3
	costRows  = 30 // a page of 100 members with their users
	costUsers = 24
	// costVars is a page of 100 variables: (3 of pageInfo + 9 of nodes + 1) × 2.
	costVars = 26
)

// paged is the cost of a connection.
func paged(children int, sorted bool, size int) int {
	c := children + 1
	if sorted {
		c++
	}
	return int(float64(c) * (1 + 0.01*float64(size)))
}

// gqlText writes the parts of queries: what is asked, in fields that this server has, and what that costs. What becomes of the
// answers is the reading's.
type gqlText struct {
	schema schema
	page   int // size of the pages inside lists
}

const pageInfoText = "pageInfo{hasNextPage endCursor}"

// groups is a page of the list of groups. bare leaves members and sharing out.
func (t gqlText) groups(cursor string, size int, bare bool) *part {
	fields, children := "id fullPath createdAt shareWithGroupLock parent{id}", 1+4+2+3
	for _, f := range []struct {
		have bool
		name string
	}{{t.schema.archived, "archived"}, {t.schema.marked, "markedForDeletion"}, {!t.schema.marked && t.schema.markedOn, "markedForDeletionOn"}, {t.schema.updated, "updatedAt"}} {
		if f.have {
			fields += " " + f.name
			children++
		}
	}
	fragments := ""
	if !bare {
		fields += fmt.Sprintf(" groupMembers(first: %d, relations: [DIRECT]){...g}", t.page)
		children += costRows
		fragments = "ug"
		if t.schema.sharedGroups {
			fields += " " + t.sharedFields("")
			children += 14
		}
	}
	return &part{
		text:      fmt.Sprintf("groups(first: %d, after: %%s, sort: \"id_asc\"){%s nodes{%s}}", size, pageInfoText, fields),
		fragments: fragments, cursor: cursor, cost: paged(children, true, size),
	}
}

func (t gqlText) sharedFields(after string) string {
	return fmt.Sprintf("sharedGroups(first: %d%s, sort: ID_ASC){%s nodes{id}}", t.page, after, pageInfoText)
}

// moreShared is a further page of the groups that one group was invited into.
func (t gqlText) moreShared(group int64, cursor string) *part {
	return &part{
		text:   fmt.Sprintf("groups(ids: [\"gid://gitlab/Group/%d\"], first: 1){nodes{id %s}}", group, t.sharedFields(", after: %s")),
		cursor: cursor, cost: paged(1+1+14, true, 1),
	}
}

// projects is a page of the list of projects. bare leaves members out.
func (t gqlText) projects(cursor string, size int, bare, vars bool) *part {
	fields, children, fragments := "id", 1+1+3, ""
	if !bare {
		fields += fmt.Sprintf(" projectMembers(first: %d, relations: [DIRECT]){...p}", t.page)
		children += costRows
		fragments = "up"
	}
	if vars {
		fields += " " + t.variableFields("")
		children += costVars
	}
	return &part{
		text:      fmt.Sprintf("projects(first: %d, after: %%s, sort: \"id_asc\"){%s nodes{%s}}", size, pageInfoText, fields),
		fragments: fragments, cursor: cursor, cost: paged(children, true, size),
	}
}

func (t gqlText) variableFields(after string) string {
	return fmt.Sprintf("ciVariables(first: %d%s){%s nodes{%s}}", t.page, after, pageInfoText, t.schema.variable)
}

// variables is the first page of the variables of each of these projects.
func (t gqlText) variables(projects []int64) *part {
	ids := make([]string, len(projects))
	for i, id := range projects {
		ids[i] = fmt.Sprintf("\"gid://gitlab/Project/%d\"", id)
	}
	return &part{
		text: fmt.Sprintf("projects(ids: [%s], first: %d, after: %%s){%s nodes{id %s}}",
			strings.Join(ids, ","), len(ids), pageInfoText, t.variableFields("")),
		cost: paged(3+2+costVars, true, len(ids)),
	}
}

// moreVariables is a further page of the variables of one project.
func (t gqlText) moreVariables(project int64, cursor string) *part {
	return &part{
		text:   fmt.Sprintf("projects(ids: [\"gid://gitlab/Project/%d\"], first: 1){nodes{id %s}}", project, t.variableFields(", after: %s")),
		cursor: cursor, cost: paged(1+1+costVars, true, 1),
	}
}

// moreMembers is a further page of the rows of one group or project. It asks by id: a path can change hands meanwhile.
func (t gqlText) moreMembers(source authz.SourceID, cursor string) *part {
	typ, field, inner, fragments := "Group", "groups", "groupMembers", "ug"
	if source.Kind == authz.ProjectSource {
		typ, field, inner, fragments = "Project", "projects", "projectMembers", "up"
	}
	return &part{
		text: fmt.Sprintf("%s(ids: [\"gid://gitlab/%s/%d\"], first: 1){nodes{id %s(first: %d, after: %%s, relations: [DIRECT]){...%s}}}",
			field, typ, source.ID, inner, t.page, fragments[1:]),
		fragments: fragments, cursor: cursor, cost: paged(1+1+costRows, true, 1),
	}
}

// users is a page of everybody, in order of creation.
func (t gqlText) users(asc bool, cursor string, size int) *part {
	sort := "CREATED_DESC"
	if asc {
		sort = "CREATED_ASC"
	}
	return &part{
		text:   fmt.Sprintf("users(first: %d, after: %%s, sort: %s){%s nodes{...u}}", size, sort, pageInfoText),
		cursor: cursor, cost: costUsers, fragments: "u",
	}
}

// userFields are the fields of an account.
func (s schema) userFields() string {
	f := "id username name state " + s.human
	if s.userCreated {
		f += " createdAt"
	}
	return f
}

// fragments defines the fragments that parts of a query use.
func (s schema) fragments(used string) string {
	var b strings.Builder
	const rows = "{pageInfo{hasNextPage endCursor} nodes{expiresAt accessLevel{integerValue} user{...u}}}"
	if used != "" {
		fmt.Fprintf(&b, " fragment u on UserCore {%s}", s.userFields())
	}
	if strings.Contains(used, "g") {
		b.WriteString(" fragment g on GroupMemberConnection " + rows)
	}
	if strings.Contains(used, "p") {
		b.WriteString(" fragment p on MemberInterfaceConnection " + rows)
	}
	return b.String()
}
