package runner

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// config is what the runner needs of one job of a .gitlab-ci.yml, defaults applied.
type config struct {
	stage        string
	beforeScript []string
	script       []string
	afterScript  []string
	variables    []variable // global ones first: the job's override them
	environment  *environment
	idTokens     map[string][]string // variable name -> audiences
	rules        []rule
	hasRules     bool
	only, except []string
}

type environment struct {
	name, url, action, tier string
}

type rule struct {
	condition string // "" = always true
	when      string
	variables []variable
}

var keyPattern = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// harmless keywords have no influence on what the job sees and does here. All others that the runner does not implement
// are refused: ignoring them could change which variables the job gets.
func harmless(keyword string) bool {
	return slices.Contains([]string{"image", "tags", "interruptible", "resource_group", "allow_failure", "coverage"}, keyword)
}

type section map[string]json.RawMessage

// parseConfig reads the job of this name. The errors are those of a file that GitLab would refuse, or that the simulator
// does not understand.
func parseConfig(text, jobName string) (*config, error) {
	raw, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("reading .gitlab-ci.yml: %w", err)
	}
	var file section
	if err := json.Unmarshal(raw, &file); err != nil || file == nil {
		return nil, errors.New("reading .gitlab-ci.yml: it must be a mapping of keywords and jobs")
	}
	for _, k := range []string{"include", "workflow", "services", "cache", "spec"} {
		if _, ok := file[k]; ok {
			return nil, fmt.Errorf("reading .gitlab-ci.yml: the simulated runner does not implement the keyword %q", k)
		}
	}
	job, ok := file[jobName]
	if !ok || strings.HasPrefix(jobName, ".") || slices.Contains([]string{"default", "stages", "variables", "image", "before_script", "after_script"}, jobName) {
		return nil, fmt.Errorf("reading .gitlab-ci.yml: there is no job %q", jobName)
	}
	keys, defaults := section{}, section{}
	if err := decode(job, &keys, "jobs:"+jobName); err != nil {
		return nil, err
	}
	if d, ok := file["default"]; ok {
		if err := decode(d, &defaults, "default"); err != nil {
			return nil, err
		}
	}
	for _, k := range []string{"before_script", "after_script", "image"} { // the old way to write defaults
		if v, ok := file[k]; ok {
			defaults[k] = v
		}
	}
	if err := defaults.check("default", "before_script", "after_script", "id_tokens"); err != nil {
		return nil, err
	}
	if err := keys.check("jobs:"+jobName, "stage", "script", "before_script", "after_script", "variables", "environment", "id_tokens", "rules", "only", "except"); err != nil {
		return nil, err
	}
	for k, v := range defaults {
		if _, own := keys[k]; !own {
			keys[k] = v
		}
	}
	c := &config{stage: "test"}
	if err := c.fill(file, keys, jobName); err != nil {
		return nil, err
	}
	return c, nil
}

func (s section) check(where string, known ...string) error {
	for k := range s {
		if !slices.Contains(known, k) && !harmless(k) {
			return fmt.Errorf("reading .gitlab-ci.yml: %s: the simulated runner does not implement the keyword %q", where, k)
		}
	}
	return nil
}

func (c *config) fill(file, keys section, jobName string) error {
	where := "jobs:" + jobName
	if raw, ok := keys["stage"]; ok {
		if err := decode(raw, &c.stage, where+":stage"); err != nil {
			return err
		}
	}
	for k, into := range map[string]*[]string{"script": &c.script, "before_script": &c.beforeScript, "after_script": &c.afterScript} {
		lines, err := lines(keys[k], where+":"+k)
		if err != nil {
			return err
		}
		*into = lines
	}
	if len(c.script) == 0 {
		return fmt.Errorf("reading .gitlab-ci.yml: %s: script can't be blank", where)
	}
	for _, raw := range []json.RawMessage{file["variables"], keys["variables"]} {
		vars, err := parseVariables(raw, where+":variables")
		if err != nil {
			return err
		}
		c.variables = append(c.variables, vars...)
	}
	var err error
	if c.environment, err = parseEnvironment(keys["environment"], where+":environment"); err != nil {
		return err
	}
	if c.idTokens, err = parseIDTokens(keys["id_tokens"], where+":id_tokens"); err != nil {
		return err
	}
	if c.rules, c.hasRules, err = parseRules(keys["rules"], where+":rules"); err != nil {
		return err
	}
	if c.only, err = parseRefs(keys["only"], where+":only"); err != nil {
		return err
	}
	if c.except, err = parseRefs(keys["except"], where+":except"); err != nil {
		return err
	}
	if c.hasRules && (c.only != nil || c.except != nil) {
		return fmt.Errorf("reading .gitlab-ci.yml: %s: key may not be used with `rules`: only, except", where)
	}
	return nil
}

func decode(raw json.RawMessage, into any, where string) error {
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("reading .gitlab-ci.yml: %s has the wrong form", where)
	}
	return nil
}

// lines reads a script: a string, or a list of strings and of such lists (from YAML anchors).
func lines(raw json.RawMessage, where string) ([]string, error) {
	if raw == nil {
		return nil, nil
	}
	var value any
	if err := decode(raw, &value, where); err != nil {
		return nil, err
	}
	var out []string
	var walk func(v any) bool
	walk = func(v any) bool {
		switch t := v.(type) {
		case string:
			out = append(out, t)
		case []any:
			for _, item := range t {
				if !walk(item) {
					return false
				}
			}
		default:
			return false
		}
		return true
	}
	if !walk(value) {
		return nil, fmt.Errorf("reading .gitlab-ci.yml: %s should be a string or a nested array of strings up to 10 levels deep", where)
	}
	return out, nil
}

// scalar gives the text of a string or a number; GitLab refuses booleans as values of variables.
func scalar(raw json.RawMessage) (string, bool) {
	var s string
	if json.Unmarshal(raw, &s) == nil && !bytes.Equal(raw, []byte("null")) {
		return s, true
	}
	var n json.Number
	if json.Unmarshal(raw, &n) == nil && n != "" {
		return n.String(), true
	}
	return "", false
}

func parseVariables(raw json.RawMessage, where string) ([]variable, error) {
	if raw == nil {
		return nil, nil
	}
	var values section
	if err := decode(raw, &values, where); err != nil {
		return nil, err
	}
	var out []variable
	for key, value := range values {
		if !keyPattern.MatchString(key) {
			return nil, fmt.Errorf("reading .gitlab-ci.yml: %s: %q is no name of a variable", where, key)
		}
		v := variable{key: key}
		text, ok := scalar(value)
		if !ok {
			var hash section
			if err := decode(value, &hash, where+":"+key); err != nil || hash == nil {
				return nil, fmt.Errorf("reading .gitlab-ci.yml: %s: variable definition must be either a string or a hash", where)
			}
			for k := range hash {
				if !slices.Contains([]string{"value", "description", "options", "expand"}, k) {
					return nil, fmt.Errorf("reading .gitlab-ci.yml: %s: %s uses invalid data keys: %s", where, key, k)
				}
			}
			if given, has := hash["value"]; has {
				if text, ok = scalar(given); !ok {
					return nil, fmt.Errorf("reading .gitlab-ci.yml: %s: the value of %s must be a string", where, key)
				}
			}
			if given, has := hash["expand"]; has {
				expand := true
				if err := decode(given, &expand, where+":"+key+":expand"); err != nil {
					return nil, err
				}
				v.raw = !expand
			}
		}
		v.value = text
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b variable) int { return strings.Compare(a.key, b.key) })
	return out, nil
}

func parseEnvironment(raw json.RawMessage, where string) (*environment, error) {
	if raw == nil {
		return nil, nil
	}
	e := &environment{action: "start"}
	if json.Unmarshal(raw, &e.name) == nil {
		return e, nil
	}
	var keys section
	if err := decode(raw, &keys, where); err != nil {
		return nil, err
	}
	for k, given := range keys {
		v, text := scalar(given)
		if !text && slices.Contains([]string{"name", "url", "action", "deployment_tier"}, k) {
			return nil, fmt.Errorf("reading .gitlab-ci.yml: %s: %s should be a string", where, k)
		}
		switch k {
		case "name":
			e.name = v
		case "url":
			e.url = v
		case "action":
			e.action = v
		case "deployment_tier":
			e.tier = v
		case "on_stop", "auto_stop_in":
		default:
			return nil, fmt.Errorf("reading .gitlab-ci.yml: %s: the simulated runner does not implement the keyword %q", where, k)
		}
	}
	if e.name == "" {
		return nil, fmt.Errorf("reading .gitlab-ci.yml: %s: name can't be blank", where)
	}
	if !slices.Contains([]string{"start", "stop", "prepare", "verify", "access"}, e.action) {
		return nil, fmt.Errorf("reading .gitlab-ci.yml: %s: action should be start, stop, prepare, verify, or access", where)
	}
	if e.tier != "" && !slices.Contains([]string{"production", "staging", "testing", "development", "other"}, e.tier) {
		return nil, fmt.Errorf("reading .gitlab-ci.yml: %s: deployment tier must be one of production, staging, testing, development, or other", where)
	}
	return e, nil
}

func parseIDTokens(raw json.RawMessage, where string) (map[string][]string, error) {
	if raw == nil {
		return nil, nil
	}
	var tokens map[string]section
	if err := decode(raw, &tokens, where); err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for key, t := range tokens {
		if !keyPattern.MatchString(key) {
			return nil, fmt.Errorf("reading .gitlab-ci.yml: %s: %q is no name of a variable", where, key)
		}
		var aud []string
		if one, ok := scalar(t["aud"]); ok {
			aud = []string{one}
		} else if t["aud"] == nil || json.Unmarshal(t["aud"], &aud) != nil {
			aud = nil
		}
		if len(t) != 1 || len(aud) == 0 {
			return nil, fmt.Errorf("reading .gitlab-ci.yml: %s:%s needs aud, a string or an array of strings, and nothing else", where, key)
		}
		out[key] = aud
	}
	return out, nil
}

func parseRules(raw json.RawMessage, where string) (rules []rule, present bool, err error) {
	if raw == nil {
		return nil, false, nil
	}
	var list []section
	if err := decode(raw, &list, where); err != nil {
		return nil, false, err
	}
	for _, keys := range list {
		r := rule{when: "on_success"}
		for k, v := range keys {
			switch k {
			case "if":
				err = decode(v, &r.condition, where+":if")
			case "when":
				if err = decode(v, &r.when, where+":when"); err == nil && !slices.Contains([]string{"on_success", "always", "manual", "never"}, r.when) {
					err = fmt.Errorf("reading .gitlab-ci.yml: %s: the simulated runner does not implement `when: %s`", where, r.when)
				}
			case "variables":
				r.variables, err = parseVariables(v, where+":variables")
			case "allow_failure":
			default:
				err = fmt.Errorf("reading .gitlab-ci.yml: %s: the simulated runner does not implement the keyword %q", where, k)
			}
			if err != nil {
				return nil, false, err
			}
		}
		rules = append(rules, r)
	}
	return rules, true, nil
}

func parseRefs(raw json.RawMessage, where string) ([]string, error) {
	if raw == nil {
		return nil, nil
	}
	refs := []string{}
	if one, ok := scalar(raw); ok {
		return []string{one}, nil
	}
	if json.Unmarshal(raw, &refs) == nil {
		return refs, nil
	}
	var keys section
	if err := decode(raw, &keys, where); err != nil {
		return nil, err
	}
	for k := range keys {
		if k != "refs" {
			return nil, fmt.Errorf("reading .gitlab-ci.yml: %s: the simulated runner does not implement the keyword %q", where, k)
		}
	}
	return refs, decode(keys["refs"], &refs, where+":refs")
}

// selects decides whether the job is part of the pipeline, and which variables the rule that decided adds.
func (c *config) selects(ref string, tag bool, source string, lookup func(string) (string, bool)) (bool, []variable, error) {
	if c.hasRules {
		for _, r := range c.rules {
			holds, err := evaluate(r.condition, lookup)
			if err != nil {
				return false, nil, err
			}
			if holds {
				return r.when != "never", r.variables, nil
			}
		}
		return false, nil, nil
	}
	matches := func(refs []string) bool {
		return slices.ContainsFunc(refs, func(pattern string) bool {
			switch pattern {
			case "branches":
				return !tag && source != mergeRequest
			case "tags":
				return tag
			case "merge_requests":
				return source == mergeRequest
			case "pushes":
				return source == "push"
			case "schedules":
				return source == "schedule"
			case "web", "api":
				return source == pattern
			}
			if source == mergeRequest {
				return false
			}
			if expr, ok := strings.CutPrefix(pattern, "/"); ok {
				re, err := regexp.Compile(strings.TrimSuffix(expr, "/"))
				return err == nil && re.MatchString(ref)
			}
			return pattern == ref
		})
	}
	only := c.only
	if only == nil {
		only = []string{"branches", "tags"} // so the job is not part of merge request pipelines
	}
	return matches(only) && !matches(c.except), nil, nil
}
