package gitlabsim

import (
	"slices"
	"strings"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
)

// The numbers GitLab checks a query against before it runs it: GitlabSchema and lib/gitlab/graphql/query_analyzers.
const (
	complexityAnonymous = 200
	complexityUser      = 250
	complexityAdmin     = 300
	depthAnonymous      = 15
	depthUser           = 20
	recursionThreshold  = 2
	maxQuerySize        = 10_000 // characters of query text, all queries of a batch together
	maxPageSize         = 100
)

// analysisSteps bounds the work of judging one query: fragments that name each other often make a short text very long.
const analysisSteps = 200_000

// hasResolver names the fields whose cost GitLab computes in a resolver class; all others cost one more than what is below
// them.
func hasResolver(typeName, field string) bool {
	switch typeName {
	case "Query":
		return slices.Contains([]string{"group", "project", "user", "namespace", "metadata", "groups", "projects", "users"}, field)
	case "Group":
		return slices.Contains([]string{"groupMembers", "projects", "sharedGroups", "sharedProjects"}, field)
	case "Project":
		return slices.Contains([]string{"projectMembers", "environments", "environment", "ciVariables"}, field)
	default:
		return false
	}
}

type analysis struct {
	schema *ast.Schema
	vars   map[string]any
	steps  int
}

// complexity is the score of one operation.
func (a *analysis) complexity(op *ast.OperationDefinition) int {
	return a.selection(a.schema.Query, op.SelectionSet)
}

func (a *analysis) exhausted() bool {
	a.steps++
	return a.steps > analysisSteps
}

// selection scores what is selected from a type; an interface costs as much as its most expensive type.
func (a *analysis) selection(def *ast.Definition, sets ...ast.SelectionSet) int {
	types := []*ast.Definition{def}
	if def.IsAbstractType() {
		types = a.schema.GetPossibleTypes(def)
	}
	most := 0
	for _, t := range types {
		sum := 0
		for _, g := range collectFields(a.schema, a.vars, t.Name, sets...) {
			if a.exhausted() {
				return complexityAdmin * 1000
			}
			sum += a.field(t, g)
		}
		most = max(most, sum)
	}
	return most
}

func (a *analysis) field(parent *ast.Definition, g *fieldGroup) int {
	f := g.fields[0]
	children := 0
	if sets := selectionsOf(g.fields); len(sets[0]) > 0 && f.Definition != nil {
		children = a.selection(a.schema.Types[f.Definition.Type.Name()], sets...)
	}
	if parent.Name == "Group" && f.Name == "descendantGroups" {
		return children + 5 // declared with a constant, which no page size multiplies
	}
	cost := children + 1
	if !hasResolver(parent.Name, f.Name) {
		return cost
	}
	args, err := argumentsOf(f, a.vars)
	if err != nil {
		return cost
	}
	if args["sort"] != nil {
		cost++
	}
	if args["search"] != nil {
		cost += 5
	}
	if parent.Name == "Group" && f.Name == "projects" {
		cost += 10
	}
	if !strings.HasSuffix(f.Definition.Type.Name(), "Connection") {
		return cost
	}
	page := maxPageSize
	for _, name := range []string{"first", "last"} {
		if n, ok := args.integer(name); ok {
			page = min(page, max(n, 0))
		}
	}
	return cost + cost*page/100
}

// shape returns the depth of the operation and the fields that occur too often in one branch. Fields without a selection
// and the wrappers of connections do not count as recursion.
func (a *analysis) shape(op *ast.OperationDefinition) (depth int, recurring []string) {
	seen := map[string]int{}
	var walk func(set ast.SelectionSet, level int)
	walk = func(set ast.SelectionSet, level int) {
		for _, sel := range set {
			if a.exhausted() {
				return
			}
			switch s := sel.(type) {
			case *ast.Field:
				if !included(s.Directives, a.vars) {
					continue
				}
				depth = max(depth, level+1)
				if len(s.SelectionSet) == 0 {
					continue
				}
				counts := !slices.Contains([]string{"node", "nodes", "edges", "ofType"}, s.Name)
				if counts {
					seen[s.Name]++
					if seen[s.Name] > recursionThreshold && !slices.Contains(recurring, s.Name) {
						recurring = append(recurring, s.Name)
					}
				}
				walk(s.SelectionSet, level+1)
				if counts {
					seen[s.Name]--
				}
			case *ast.InlineFragment:
				if included(s.Directives, a.vars) {
					walk(s.SelectionSet, level)
				}
			case *ast.FragmentSpread:
				if included(s.Directives, a.vars) {
					walk(s.Definition.SelectionSet, level)
				}
			}
		}
	}
	walk(op.SelectionSet, 0)
	return depth, recurring
}

// refuse lists what GitLab's analyzers have against the operation, the complexity apart: that is judged for a whole batch.
func (a *analysis) refuse(op *ast.OperationDefinition, anonymous bool) gqlerror.List {
	limit := depthUser
	if anonymous {
		limit = depthAnonymous
	}
	var errs gqlerror.List
	depth, recurring := a.shape(op)
	if depth > limit {
		errs = append(errs, gqlerror.Errorf("Query has depth of %d, which exceeds max depth of %d", depth, limit))
	}
	if len(recurring) > 0 {
		errs = append(errs, gqlerror.Errorf("Recursive query - too many of fields '%s' detected in single branch of the query", strings.Join(recurring, ", ")))
	}
	return errs
}
