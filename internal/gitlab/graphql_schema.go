package gitlab

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

// schema says which of the fields we like this server has. One unknown field fails a whole query, and GitLab
// before 18 lacks several (source: GitLab's GraphQL reference, "Introduced in").
type schema struct {
	archived, marked, markedOn, sharedGroups bool   // of Group
	updated                                  bool   // of Group
	human                                    string // how UserCore says that an account is a person: human, type or bot
	userCreated                              bool
	variable                                 string // the fields to ask of a CI/CD variable; "" = it does not tell them
}

var modernSchema = schema{archived: true, marked: true, sharedGroups: true, human: "human", userCreated: true}

// Experiments such as markedForDeletion count as deprecated and are hidden unless asked for.
const (
	schemaQuery    = `query Schema { group: __type(name: "Group") { fields(includeDeprecated: true) { name } } project: __type(name: "Project") { fields(includeDeprecated: true) { name } } user: __type(name: "UserCore") { fields(includeDeprecated: true) { name } }%s }`
	schemaVariable = ` variable: __type(name: "CiProjectVariable") { fields(includeDeprecated: true) { name } }`
)

// readSchema asks what the server's types have. A server that does not tell is taken for a current one: should it
// not be, the first page says so.
func readSchema(ctx context.Context, a *api, variables bool) (schema, error) {
	more := ""
	if variables {
		more = schemaVariable
	}
	data, err := a.query(ctx, fmt.Sprintf(schemaQuery, more), nil)
	if err != nil {
		if global(err) {
			return schema{}, err
		}
		return modernSchema, nil
	}
	has := map[string]bool{}
	for typ, raw := range data {
		var t *struct {
			Fields []struct {
				Name string `json:"name"`
			} `json:"fields"`
		}
		if err := json.Unmarshal(raw, &t); typ == "variable" && err == nil && t == nil {
			continue // a server before 15
		} else if err != nil || t == nil || len(t.Fields) == 0 {
			return modernSchema, nil
		}
		for _, f := range t.Fields {
			has[typ+"."+f.Name] = true
		}
	}
	for _, need := range []string{
		"group.id", "group.fullPath", "group.parent", "group.createdAt", "group.shareWithGroupLock", "group.groupMembers",
		"project.id", "project.projectMembers", "user.id", "user.username", "user.name", "user.state",
	} {
		if !has[need] {
			return schema{}, fmt.Errorf("%w: it has no field %s", errNoGraphQL, need)
		}
	}
	s := schema{
		archived: has["group.archived"], marked: has["group.markedForDeletion"], markedOn: has["group.markedForDeletionOn"],
		sharedGroups: has["group.sharedGroups"], updated: has["group.updatedAt"], userCreated: has["user.createdAt"],
	}
	for _, f := range []string{"bot", "type", "human"} {
		if has["user."+f] {
			s.human = f
		}
	}
	s.variable = variableFields(has)
	if s.human == "" {
		return schema{}, fmt.Errorf("%w: it does not distinguish people from bots", errNoGraphQL)
	}
	return s, nil
}

// variableFields are what this server tells about a variable, or "" when it does not tell enough: without the
// description nobody knows whose a variable is.
func variableFields(has map[string]bool) string {
	fields := []string{"key", "environmentScope", "description", "variableType", "protected", "masked", "raw"}
	for _, f := range fields {
		if !has["variable."+f] {
			return ""
		}
	}
	if !has["project.ciVariables"] {
		return ""
	}
	if has["variable.hidden"] { // since 17.4; before, no variable was
		fields = append(fields, "hidden")
	}
	return strings.Join(fields, " ")
}
