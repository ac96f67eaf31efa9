package gitlabsim

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"

	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabversion"
)

//go:embed schema/gitlab.graphql
var gitlabSDL string

// loadGraphQLSchema parses the embedded schema and takes away what a GitLab of this version did not have. One unknown field
// makes a whole query fail, so a client has to find out before it asks.
func loadGraphQLSchema(version string) (*ast.Schema, error) {
	schema, err := gqlparser.LoadSchema(&ast.Source{Name: "gitlab.graphql", Input: gitlabSDL})
	if err != nil {
		return nil, fmt.Errorf("reading the embedded GraphQL schema: %w", err)
	}
	v, ok := gitlabversion.Parse(version)
	if !ok {
		return nil, fmt.Errorf("reading the GitLab version %q: want one like 19.1.0-ee", version)
	}
	for _, e := range gitlabversion.Table() {
		if !v.Before(e.Since) {
			continue
		}
		for typ, fields := range e.Fields {
			t := schema.Types[typ]
			t.Fields = slices.DeleteFunc(t.Fields, func(f *ast.FieldDefinition) bool { return slices.Contains(fields, f.Name) })
		}
		for field, arguments := range e.Arguments {
			typ, name, _ := strings.Cut(field, ".")
			f := schema.Types[typ].Fields.ForName(name)
			f.Arguments = slices.DeleteFunc(f.Arguments, func(a *ast.ArgumentDefinition) bool { return slices.Contains(arguments, a.Name) })
		}
	}
	return schema, nil
}

// The wrappers below answer introspection. The GraphQL specification, section 4, gives their fields.

type gqlSchema struct{ schema *ast.Schema }

func (gqlSchema) typeName() string { return "__Schema" }

func (o gqlSchema) resolve(_ *execution, name string, _ arguments) (any, error) {
	switch name {
	case "queryType":
		return gqlType{o.schema, ast.NamedType(o.schema.Query.Name, nil)}, nil
	case "types":
		var names []string
		for n := range o.schema.Types {
			names = append(names, n)
		}
		slices.Sort(names)
		return gqlObjects(names, func(n string) gqlObject { return gqlType{o.schema, ast.NamedType(n, nil)} }), nil
	case "directives":
		var names []string
		for n := range o.schema.Directives {
			names = append(names, n)
		}
		slices.Sort(names)
		return gqlObjects(names, func(n string) gqlObject { return gqlDirective{o.schema, o.schema.Directives[n]} }), nil
	default: // description, mutationType, subscriptionType
		return nil, nil
	}
}

type gqlType struct {
	schema *ast.Schema
	t      *ast.Type
}

func (gqlType) typeName() string { return "__Type" }

func (o gqlType) resolve(_ *execution, name string, args arguments) (any, error) {
	wrapped := o.t.NonNull || o.t.Elem != nil
	if wrapped {
		switch name {
		case "kind":
			if o.t.NonNull {
				return "NON_NULL", nil
			}
			return "LIST", nil
		case "ofType":
			if o.t.NonNull {
				inner := *o.t
				inner.NonNull = false
				return gqlType{o.schema, &inner}, nil
			}
			return gqlType{o.schema, o.t.Elem}, nil
		default:
			return nil, nil
		}
	}
	def := o.schema.Types[o.t.NamedType]
	named := func(n string) gqlObject { return gqlType{o.schema, ast.NamedType(n, nil)} }
	switch name {
	case "kind":
		return string(def.Kind), nil
	case "name":
		return def.Name, nil
	case "description":
		return gqlText(def.Description), nil
	case "fields":
		if def.Kind != ast.Object && def.Kind != ast.Interface {
			return nil, nil
		}
		out := []any{}
		for _, f := range def.Fields {
			// Experiments are marked as deprecated: a probe that does not pass includeDeprecated does not see them.
			if len(f.Name) > 1 && f.Name[:2] == "__" || f.Directives.ForName("deprecated") != nil && !args.boolean("includeDeprecated") {
				continue
			}
			out = append(out, gqlField{o.schema, f})
		}
		return out, nil
	case "interfaces":
		if def.Kind != ast.Object {
			return nil, nil
		}
		return gqlObjects(def.Interfaces, named), nil
	case "possibleTypes":
		if !def.IsAbstractType() {
			return nil, nil
		}
		return gqlObjects(o.schema.GetPossibleTypes(def), func(d *ast.Definition) gqlObject { return named(d.Name) }), nil
	case "enumValues":
		if def.Kind != ast.Enum {
			return nil, nil
		}
		out := []any{}
		for _, e := range def.EnumValues {
			if e.Directives.ForName("deprecated") == nil || args.boolean("includeDeprecated") {
				out = append(out, gqlEnumValue{e})
			}
		}
		return out, nil
	default: // ofType, inputFields, specifiedByURL, isOneOf
		return nil, nil
	}
}

type gqlField struct {
	schema *ast.Schema
	f      *ast.FieldDefinition
}

func (gqlField) typeName() string { return "__Field" }

func (o gqlField) resolve(_ *execution, name string, _ arguments) (any, error) {
	switch name {
	case "name":
		return o.f.Name, nil
	case "description":
		return gqlText(o.f.Description), nil
	case "args":
		return gqlObjects(o.f.Arguments, func(a *ast.ArgumentDefinition) gqlObject { return gqlInputValue{o.schema, a} }), nil
	case "type":
		return gqlType{o.schema, o.f.Type}, nil
	default:
		return gqlDeprecation(o.f.Directives, name), nil
	}
}

type gqlInputValue struct {
	schema *ast.Schema
	a      *ast.ArgumentDefinition
}

func (gqlInputValue) typeName() string { return "__InputValue" }

func (o gqlInputValue) resolve(_ *execution, name string, _ arguments) (any, error) {
	switch name {
	case "name":
		return o.a.Name, nil
	case "description":
		return gqlText(o.a.Description), nil
	case "type":
		return gqlType{o.schema, o.a.Type}, nil
	case "defaultValue":
		if o.a.DefaultValue == nil {
			return nil, nil
		}
		return o.a.DefaultValue.String(), nil
	default:
		return gqlDeprecation(o.a.Directives, name), nil
	}
}

type gqlEnumValue struct{ e *ast.EnumValueDefinition }

func (gqlEnumValue) typeName() string { return "__EnumValue" }

func (o gqlEnumValue) resolve(_ *execution, name string, _ arguments) (any, error) {
	switch name {
	case "name":
		return o.e.Name, nil
	case "description":
		return gqlText(o.e.Description), nil
	default:
		return gqlDeprecation(o.e.Directives, name), nil
	}
}

type gqlDirective struct {
	schema *ast.Schema
	d      *ast.DirectiveDefinition
}

func (gqlDirective) typeName() string { return "__Directive" }

func (o gqlDirective) resolve(_ *execution, name string, _ arguments) (any, error) {
	switch name {
	case "name":
		return o.d.Name, nil
	case "description":
		return gqlText(o.d.Description), nil
	case "locations":
		out := []any{}
		for _, l := range o.d.Locations {
			out = append(out, string(l))
		}
		return out, nil
	case "args":
		return gqlObjects(o.d.Arguments, func(a *ast.ArgumentDefinition) gqlObject { return gqlInputValue{o.schema, a} }), nil
	default: // isRepeatable
		return o.d.IsRepeatable, nil
	}
}

func gqlDeprecation(ds ast.DirectiveList, name string) any {
	d := ds.ForName("deprecated")
	if name == "isDeprecated" {
		return d != nil
	}
	if d == nil || d.Arguments.ForName("reason") == nil {
		return nil
	}
	return d.Arguments.ForName("reason").Value.Raw
}

func gqlText(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// gqlObjects turns a slice into the list form the executor understands.
func gqlObjects[T any](in []T, f func(T) gqlObject) []any {
	out := make([]any, len(in))
	for i, v := range in {
		out[i] = f(v)
	}
	return out
}
