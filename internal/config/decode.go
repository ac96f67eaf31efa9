package config

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// decoder puts a parsed file into the configuration, key by key. A decoder of JSON tells the first value of a wrong type
// only, and then no unknown key at all; this one tells each, and takes what is right, so that it can be checked as well.
// Keys are compared to the letter: encoding/json would take "Web" for "web" and silently drop one of the two.
type decoder struct {
	faults []error
	unread []string // the paths of keys whose value was not taken
}

func (d *decoder) decode(path string, node any, into reflect.Value) {
	if node == nil { // "key:" with nothing behind it is as if the key were not there
		return
	}
	switch kind := into.Kind(); {
	case kind == reflect.Pointer:
		into.Set(reflect.New(into.Type().Elem()))
		d.decode(path, node, into.Elem())
	case kind == reflect.Slice:
		list, ok := node.([]any)
		if !ok {
			d.wrong(path, node, into.Type())
			return
		}
		into.Set(reflect.MakeSlice(into.Type(), len(list), len(list)))
		for i, item := range list {
			d.decode(fmt.Sprintf("%s[%d]", path, i), item, into.Index(i))
		}
	case kind == reflect.Struct && into.Type() != reflect.TypeFor[Duration]():
		section, ok := node.(map[string]any)
		if !ok {
			d.wrong(path, node, into.Type())
			return
		}
		fields := map[string]reflect.Value{}
		for f, v := range into.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			fields[name] = v
		}
		for _, key := range slices.Sorted(maps.Keys(section)) {
			at := strings.TrimPrefix(path+"."+key, ".")
			if v, known := fields[key]; known {
				d.decode(at, section[key], v)
			} else {
				d.faults = append(d.faults, fmt.Errorf("unknown field %q: it is mistyped, or a later version of gl-k8s-integrator knows it", at))
			}
		}
	default:
		d.value(path, node, into)
	}
}

func (d *decoder) value(path string, node any, into reflect.Value) {
	data, err := json.Marshal(node)
	if err == nil {
		err = json.Unmarshal(data, into.Addr().Interface())
	}
	if wrong := new(json.UnmarshalTypeError); errors.As(err, &wrong) {
		d.wrong(path, node, into.Type())
	} else if err != nil {
		d.faults, d.unread = append(d.faults, fmt.Errorf("%s: %w", path, err)), append(d.unread, path)
	}
}

// levelEntry matches the paths of access levels, which are written by name.
var levelEntry = regexp.MustCompile(`\.levels\[\d+\]$`)

// levelName says what to write for a number that GitLab's API has for an access level.
func levelName(n json.Number) string {
	i, err := n.Int64()
	if l := authz.Level(i); err == nil && l.Known() {
		if _, err := authz.ParseLevel(l.String()); err == nil {
			return ": write " + strings.ToLower(l.String())
		}
	}
	return ": write guest, planner, reporter, developer, maintainer or owner"
}

// wrong notes a value of a wrong type. Text is not repeated: it may be a secret in the wrong place.
func (d *decoder) wrong(path string, node any, want reflect.Type) {
	var have, hint string
	switch node := node.(type) {
	case string:
		have = "text"
	case []any:
		have = "a list"
	case map[string]any:
		have = "a section"
	default:
		have = fmt.Sprint(node)
		if want.Kind() == reflect.String {
			hint = ": put it in quotes"
			if n, ok := node.(json.Number); ok && levelEntry.MatchString(path) {
				hint = levelName(n)
			}
		}
	}
	kind := map[reflect.Kind]string{
		reflect.String: "text", reflect.Bool: "true or false", reflect.Int: "a whole number", reflect.Int64: "a whole number",
		reflect.Float64: "a number", reflect.Slice: "a list", reflect.Struct: "a section",
	}[want.Kind()]
	if want == reflect.TypeFor[Duration]() {
		kind = "a duration such as 30s, 5m or 24h"
	}
	if kind == "a list" && have != "a section" {
		hint = ": put it in [ ]"
	}
	d.unread = append(d.unread, path)
	d.faults = append(d.faults, fmt.Errorf("%s: want %s, not %s%s", cmp.Or(path, "the file"), kind, have, hint))
}
