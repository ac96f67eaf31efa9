package config

import (
	_ "embed" // the comments of the struct are the descriptions in the schema
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"slices"
	"strings"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

//go:embed v1alpha1.go
var source []byte

// comments returns the comment of each field of the configuration's types, by "Type.Field", on one line.
func comments() (map[string]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), "v1alpha1.go", source, parser.ParseComments)
	if err != nil {
		return nil, fmt.Errorf("reading the comments of the configuration: %w", err)
	}
	out := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if st, ok := spec.Type.(*ast.StructType); ok {
			for _, f := range st.Fields.List {
				for _, name := range f.Names {
					out[spec.Name.Name+"."+name.Name] = strings.Join(strings.Fields(f.Doc.Text()), " ")
				}
			}
		}
		return false
	})
	return out, nil
}

// Key is one key of the file.
type Key struct {
	Path     string       // "authz.roles[].levels[]": [] stands behind what is a list
	Type     reflect.Type // of the value, of a list that of its elements
	Section  bool         // it has keys of its own
	Required bool
	Comment  string // its documentation; of apiVersion, kind and the sections at the top ""
}

// Keys returns all keys of the file in the order of the struct. A key is required if its JSON tag has no option.
func Keys() ([]Key, error) {
	docs, err := comments()
	if err != nil {
		return nil, err
	}
	var out []Key
	var walk func(prefix string, typ reflect.Type)
	walk = func(prefix string, typ reflect.Type) {
		for f := range typ.Fields() {
			name, option, _ := strings.Cut(f.Tag.Get("json"), ",")
			k := Key{Path: prefix + name, Type: f.Type, Required: option == "", Comment: docs[typ.Name()+"."+f.Name]}
			if k.Type.Kind() == reflect.Pointer {
				k.Type = k.Type.Elem()
			}
			if k.Type.Kind() == reflect.Slice {
				k.Type, k.Path = k.Type.Elem(), k.Path+"[]"
			}
			k.Section = isSection(k.Type)
			out = append(out, k)
			if k.Section {
				walk(k.Path+".", k.Type)
			}
		}
	}
	walk("", reflect.TypeFor[Config]())
	return out, nil
}

func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t != reflect.TypeFor[Duration]()
}

// schema is the part of JSON Schema, draft 7, that is used here; it is the draft that editors and Helm understand.
// Source: https://json-schema.org/draft-07/draft-handrews-json-schema-validation-01.
type schema struct {
	Schema               string             `json:"$schema,omitempty"`
	Title                string             `json:"title,omitempty"`
	Description          string             `json:"description,omitempty"`
	Type                 string             `json:"type"`
	Enum                 []string           `json:"enum,omitempty"`
	Pattern              string             `json:"pattern,omitempty"`
	MinLength            int                `json:"minLength,omitempty"`
	MinItems             int                `json:"minItems,omitempty"`
	Minimum              *int64             `json:"minimum,omitempty"`
	Maximum              *int64             `json:"maximum,omitempty"`
	Items                *schema            `json:"items,omitempty"`
	Properties           map[string]*schema `json:"properties,omitempty"`
	Required             []string           `json:"required,omitempty"`
	AdditionalProperties *bool              `json:"additionalProperties,omitempty"`
}

// Patterns of text that has a form.
const (
	durationPattern      = `^(\+?(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+|[-+]?0)$`
	sourcePattern        = `^(group|project|user)/[1-9][0-9]*$`
	groupOrProject       = `^(group|project)/[1-9][0-9]*$`
	projectPattern       = `^project/[1-9][0-9]*$`
	listenAddressPattern = `^.*:[0-9a-z-]*$`
)

// maxInteger is the largest whole number that every reader of JSON reads to the digit.
const maxInteger = 1<<53 - 1

// choices are the texts of which a key takes one.
func choices() map[string][]string {
	levels := []string{"owner", "maintainer", "developer", "reporter", "planner", "guest"}
	frozen := []string{string(authz.FrozenView), string(authz.FrozenNone), string(authz.FrozenKeep)}
	return map[string][]string{
		"apiVersion": {APIVersion}, "kind": {Kind},
		"authz.roles[].levels[]": levels, "authz.extra[].levels[]": levels,
		"authz.kinds[]":  {string(authz.GroupSource), string(authz.ProjectSource), string(authz.UserSource)},
		"authz.archived": frozen, "authz.markedForDeletion": frozen,
		"rbacsync.mode": {ModePlan, ModeEnforce}, "rbacsync.podSecurity": podSecurityDefaults,
		"rbacsync.podSecurityExceptions[].level": podSecurityLevels, "rbacsync.deletion.policy": {DeletionRetain, DeletionDelete},
		"ci.delivery": deliveries, "ci.projects[].delivery": deliveries, "ci.projects[].namespace": {NamespaceProject, NamespaceGroup},
		"web.language": languages,
	}
}

// patterns are the forms of texts.
var patterns = map[string]string{
	"listeners.webhooks.address": listenAddressPattern, "listeners.hooks.address": listenAddressPattern, "listeners.metrics.address": listenAddressPattern,
	"listeners.web.address":   listenAddressPattern,
	"authz.exclude.sources[]": sourcePattern, "authz.extra[].source": sourcePattern,
	"rbacsync.podSecurityExceptions[].source": sourcePattern, "rbacsync.adopt[].source": sourcePattern,
	"ci.projects[].source": groupOrProject, "ci.agent.configProject": projectPattern,
	"cluster.replaces[]": clusterID.String() + "|^unnamed$", "ci.agent.name": agentName.String(),
}

// Schema returns the JSON Schema of the file. It refuses whatever Parse refuses by the structure of the file: keys that are
// not known or missing, values of another type, and texts of another form. It knows no rule about two keys; and it wants a key
// without a value to be left out, which Parse takes as if it were.
func Schema() ([]byte, error) {
	keys, err := Keys()
	if err != nil {
		return nil, err
	}
	closed := false
	section := func() *schema {
		return &schema{Type: "object", Properties: map[string]*schema{}, AdditionalProperties: &closed}
	}
	root := section()
	root.Schema, root.Title = "http://json-schema.org/draft-07/schema#", "Configuration of gl-k8s-integrator"
	sections, texts := map[string]*schema{"": root}, choices()
	for _, k := range keys {
		value := section()
		if !k.Section {
			value = k.value(texts)
		}
		sections[k.Path] = value
		parent, name := "", strings.TrimSuffix(k.Path, "[]")
		if i := strings.LastIndex(name, "."); i >= 0 {
			parent, name = name[:i], name[i+1:]
		}
		entry := value
		if strings.HasSuffix(k.Path, "[]") {
			entry = &schema{Type: "array", Items: value}
			if k.Required {
				entry.MinItems = 1
			}
		}
		entry.Description = k.Comment
		in := sections[parent]
		in.Properties[name] = entry
		if k.Required {
			in.Required = append(in.Required, name)
		}
	}
	out, err := json.MarshalIndent(root, "", "  ")
	return append(out, '\n'), err
}

// value returns the schema of a value that is no section.
func (k Key) value(texts map[string][]string) *schema {
	s := &schema{}
	number := func(least, most int64) { s.Minimum, s.Maximum = &least, &most }
	switch {
	case k.Type == reflect.TypeFor[Duration]():
		s.Type, s.Pattern = "string", durationPattern
	case k.Type.Kind() == reflect.Bool:
		s.Type = "boolean"
	case k.Type.Kind() == reflect.Int64: // an id
		s.Type = "integer"
		number(1, maxInteger)
	case k.Type.Kind() == reflect.Int:
		s.Type = "integer"
		number(-maxInteger, maxInteger)
	case k.Type.Kind() == reflect.Float64:
		s.Type = "number"
	default:
		s.Type, s.Enum, s.Pattern = "string", slices.Clone(texts[k.Path]), patterns[k.Path]
		if k.Required && s.Enum == nil && s.Pattern == "" {
			s.MinLength = 1
		}
	}
	return s
}
