package runner

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// maxExtends is Gitlab::Ci::Config::Extendable::Entry::MAX_NESTING_LEVELS.
const maxExtends = 10

// extend follows `extends` everywhere in a file (doc/ci/yaml, "extends"): hashes are merged, all else is replaced, later
// parents win over earlier ones and the job over all. GitLab refuses the whole file for one that can't be followed.
func extend(keys section) (section, error) {
	e := extender{}
	for name, raw := range keys {
		var value any
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		if err := d.Decode(&value); err != nil {
			return nil, fmt.Errorf("reading .gitlab-ci.yml: %s has the wrong form", name)
		}
		e[name] = value
	}
	out := maps.Clone(keys)
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		hash, ok := e[name].(map[string]any)
		if !ok || hash["extends"] == nil {
			continue
		}
		merged, err := e.follow(name, nil)
		if err != nil {
			return nil, fmt.Errorf("reading .gitlab-ci.yml: %w", err)
		}
		raw, err := json.Marshal(merged)
		if err != nil {
			return nil, fmt.Errorf("reading .gitlab-ci.yml: %s: %w", name, err)
		}
		out[name] = raw
	}
	return out, nil
}

// extender is a file before `extends` is followed.
type extender map[string]any

func (e extender) follow(name string, children []string) (map[string]any, error) {
	value, _ := e[name].(map[string]any) // its child has looked
	parents, err := parentsOf(name, value["extends"])
	if err != nil || parents == nil {
		return value, err
	}
	var unknown, invalid []string
	for _, p := range parents {
		if _, ok := e[p]; !ok {
			unknown = append(unknown, p)
		} else if _, ok := e[p].(map[string]any); !ok {
			invalid = append(invalid, p)
		}
	}
	switch {
	case unknown != nil:
		return nil, fmt.Errorf("%s: unknown keys in `extends` (%s)", name, strings.Join(unknown, ", "))
	case invalid != nil:
		return nil, fmt.Errorf("%s: invalid base hashes in `extends` (%s)", name, strings.Join(invalid, ", "))
	case len(children) > maxExtends:
		return nil, fmt.Errorf("%s: nesting too deep in `extends`", name)
	case slices.Contains(children, name):
		return nil, fmt.Errorf("%s: circular dependency detected in `extends`", name)
	}
	merged := map[string]any{}
	for _, p := range parents {
		base, err := e.follow(p, append(slices.Clone(children), name))
		if err != nil {
			return nil, err
		}
		merged = merge(merged, base)
	}
	return merge(merged, value), nil
}

func parentsOf(name string, extends any) ([]string, error) {
	switch x := extends.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{x}, nil
	case []any:
		out := make([]string, 0, len(x))
		for _, item := range x {
			s, ok := item.(string)
			if !ok {
				return nil, fmt.Errorf("jobs:%s: extends should be an array of strings or a string", name)
			}
			out = append(out, s)
		}
		return out, nil
	}
	return nil, fmt.Errorf("jobs:%s: extends should be an array of strings or a string", name)
}

// merge returns base with what is over it. Neither is changed.
func merge(base, over map[string]any) map[string]any {
	out := maps.Clone(base)
	for k, v := range over {
		below, hash := out[k].(map[string]any)
		above, both := v.(map[string]any)
		if hash && both {
			v = merge(below, above)
		}
		out[k] = v
	}
	return out
}
