package gitlabsim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
)

// gqlObject is one value of an object type. resolve returns nil, a scalar, a gqlObject, a *gqlConnection or a []any of these.
type gqlObject interface {
	typeName() string
	resolve(x *execution, field string, args arguments) (any, error)
}

// arguments are the values of one field's arguments, defaults included; an argument that is absent or null is absent or nil.
type arguments map[string]any

func (a arguments) str(name string) string   { s, _ := a[name].(string); return s }
func (a arguments) boolean(name string) bool { b, _ := a[name].(bool); return b }

func (a arguments) list(name string) ([]string, bool) {
	switch l := a[name].(type) {
	case nil:
		return nil, false
	case []any:
		out := make([]string, 0, len(l))
		for _, v := range l {
			out = append(out, fmt.Sprint(v))
		}
		return out, true
	default: // GraphQL lets a single value stand for a list of one
		return []string{fmt.Sprint(l)}, true
	}
}

func (a arguments) integer(name string) (int, bool) {
	switch n := a[name].(type) {
	case int64:
		return int(n), true
	case int:
		return n, true
	case float64:
		return int(n), true
	case json.Number:
		i, err := strconv.Atoi(n.String())
		return i, err == nil
	default:
		return 0, false
	}
}

// execution is one query on its way: everything it sees comes from one consistent view.
type execution struct {
	schema *ast.Schema
	vars   map[string]any
	world  *graphQLWorld // nil only in tests of the executor itself
	errs   gqlerror.List
	score  int
	limit  int
	calls  map[string]int // how often a field that may be resolved only once was resolved
}

// argumentsOf evaluates the arguments of a field. An argument given as a variable that has no value counts as absent.
func argumentsOf(f *ast.Field, vars map[string]any) (arguments, error) {
	out := arguments{}
	if f.Definition == nil {
		return out, nil
	}
	for _, def := range f.Definition.Arguments {
		value := def.DefaultValue
		if given := f.Arguments.ForName(def.Name); given != nil {
			set := true
			if given.Value.Kind == ast.Variable {
				_, set = vars[given.Value.Raw]
			}
			if set {
				value = given.Value
			}
		}
		if value == nil {
			continue
		}
		v, err := value.Value(vars)
		if err != nil {
			return nil, fmt.Errorf("argument '%s' on Field '%s' has an invalid value", def.Name, f.Name)
		}
		out[def.Name] = v
	}
	return out, nil
}

// included evaluates @skip and @include.
func included(ds ast.DirectiveList, vars map[string]any) bool {
	holds := func(name string) (bool, bool) {
		d := ds.ForName(name)
		if d == nil || d.Arguments.ForName("if") == nil {
			return false, false
		}
		v, err := d.Arguments.ForName("if").Value.Value(vars)
		b, _ := v.(bool)
		return b, err == nil
	}
	if skip, ok := holds("skip"); ok && skip {
		return false
	}
	if include, ok := holds("include"); ok && !include {
		return false
	}
	return true
}

// applies tells whether a fragment on the type cond selects from an object of type name.
func applies(schema *ast.Schema, cond, name string) bool {
	if cond == "" || cond == name {
		return true
	}
	return slices.ContainsFunc(schema.PossibleTypes[cond], func(d *ast.Definition) bool { return d.Name == name })
}

// fieldGroup holds the fields of one response key; validation has made sure that they can be merged.
type fieldGroup struct {
	key    string
	fields []*ast.Field
}

// collectFields is CollectFields of the GraphQL specification, section 6.3.2.
func collectFields(schema *ast.Schema, vars map[string]any, typeName string, sets ...ast.SelectionSet) []*fieldGroup {
	var groups []*fieldGroup
	index := map[string]*fieldGroup{}
	visited := map[string]bool{}
	var walk func(set ast.SelectionSet)
	walk = func(set ast.SelectionSet) {
		for _, sel := range set {
			switch s := sel.(type) {
			case *ast.Field:
				if !included(s.Directives, vars) {
					continue
				}
				key := s.Alias
				if key == "" {
					key = s.Name
				}
				g := index[key]
				if g == nil {
					g = &fieldGroup{key: key}
					index[key] = g
					groups = append(groups, g)
				}
				g.fields = append(g.fields, s)
			case *ast.InlineFragment:
				if included(s.Directives, vars) && applies(schema, s.TypeCondition, typeName) {
					walk(s.SelectionSet)
				}
			case *ast.FragmentSpread:
				if visited[s.Name] || !included(s.Directives, vars) || !applies(schema, s.Definition.TypeCondition, typeName) {
					continue
				}
				visited[s.Name] = true
				walk(s.Definition.SelectionSet)
			}
		}
	}
	for _, set := range sets {
		walk(set)
	}
	return groups
}

func selectionsOf(fields []*ast.Field) []ast.SelectionSet {
	sets := make([]ast.SelectionSet, 0, len(fields))
	for _, f := range fields {
		sets = append(sets, f.SelectionSet)
	}
	return sets
}

// object executes the selection sets on one object. The second result is false if a non-null field had no value, which
// makes the object itself null.
func (x *execution) object(o gqlObject, sets []ast.SelectionSet, path ast.Path) (any, bool) {
	out := &orderedObject{}
	for _, g := range collectFields(x.schema, x.vars, o.typeName(), sets...) {
		f := g.fields[0]
		at := append(slices.Clone(path), ast.PathName(g.key))
		value, err := x.field(o, f)
		if err != nil {
			x.fail(err, f, at)
			value = nil
		}
		completed, ok := x.complete(f.Definition.Type, value, g.fields, at, err != nil)
		if !ok {
			return nil, false
		}
		out.keys = append(out.keys, g.key)
		out.values = append(out.values, completed)
	}
	return out, true
}

func (x *execution) field(o gqlObject, f *ast.Field) (any, error) {
	if f.Name == "__typename" {
		return o.typeName(), nil
	}
	args, err := argumentsOf(f, x.vars)
	if err != nil {
		return nil, err
	}
	return o.resolve(x, f.Name, args)
}

func (x *execution) complete(t *ast.Type, value any, fields []*ast.Field, path ast.Path, reported bool) (any, bool) {
	if value == nil {
		if t.NonNull && !reported {
			x.fail(fmt.Errorf("Cannot return null for non-nullable field %s.%s", fields[0].ObjectDefinition.Name, fields[0].Name), fields[0], path) //nolint:staticcheck // GitLab's wording
		}
		return nil, !t.NonNull
	}
	if t.Elem != nil {
		items := value.([]any)
		out := make([]any, 0, len(items))
		for i, item := range items {
			completed, ok := x.complete(t.Elem, item, fields, append(slices.Clone(path), ast.PathIndex(i)), false)
			if !ok {
				return nil, !t.NonNull
			}
			out = append(out, completed)
		}
		return out, true
	}
	if o, isObject := value.(gqlObject); isObject {
		out, ok := x.object(o, selectionsOf(fields), path)
		if !ok {
			return nil, !t.NonNull
		}
		return out, true
	}
	return value, true
}

func (x *execution) fail(err error, f *ast.Field, path ast.Path) {
	ge := &gqlerror.Error{Message: err.Error(), Path: path}
	if known, ok := errors.AsType[*gqlerror.Error](err); ok {
		ge.Message, ge.Extensions = known.Message, known.Extensions
	}
	if f.Position != nil {
		ge.Locations = []gqlerror.Location{{Line: f.Position.Line, Column: f.Position.Column}}
	}
	x.errs = append(x.errs, ge)
}

// orderedObject keeps the response in the order of the query, as the specification asks.
type orderedObject struct {
	keys   []string
	values []any
}

// MarshalJSON writes the whole tree in one pass; a MarshalJSON per level would scan every byte once per level.
func (o *orderedObject) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	if err := writeGraphQL(&b, o); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func writeGraphQL(b *bytes.Buffer, v any) error {
	switch t := v.(type) {
	case *orderedObject:
		b.WriteByte('{')
		for i, k := range t.keys {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := writeGraphQL(b, k); err != nil {
				return err
			}
			b.WriteByte(':')
			if err := writeGraphQL(b, t.values[i]); err != nil {
				return err
			}
		}
		b.WriteByte('}')
	case []any:
		b.WriteByte('[')
		for i, item := range t {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := writeGraphQL(b, item); err != nil {
				return err
			}
		}
		b.WriteByte(']')
	default:
		leaf, err := json.Marshal(v)
		if err != nil {
			return err
		}
		b.Write(leaf)
	}
	return nil
}
