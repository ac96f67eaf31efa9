package runner

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// config is what the runner needs of one job of a .gitlab-ci.yml, defaults applied.
type config struct {
	name         string
	stage        string
	beforeScript []string
	script       []string
	afterScript  []string
	variables    []variable // global ones first: the job's override them
	environment  *environment
	idTokens     map[string][]string // variable name -> audiences
	rules        []rule
	hasRules     bool
	only, except policy
	when         string
	needs        []need
}

type environment struct {
	name, url, action, tier string
	namespace               string // kubernetes:namespace
}

type rule struct {
	condition string // "" = always true
	when      string // "" = the job's
	variables []variable
}

// policy is `only` or `except`.
type policy struct {
	given      bool
	refs       []string
	kubernetes bool     // only where the project has an active cluster integration
	variables  []string // conditions, one of which must hold
}

// need is an entry of `needs`, or of `dependencies`.
type need struct {
	job      string
	optional bool
}

var keyPattern = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// The keywords that GitLab knows (lib/gitlab/ci/config/entry). Those in harmless have no influence on what one job sees and
// does here. All others that the runner does not implement are refused: ignoring them could change which variables the job
// gets.
func harmless(keyword string) bool {
	return slices.Contains([]string{
		"image", "tags", "interruptible", "resource_group", "allow_failure", "coverage", "artifacts", "cache", "retry", "services", "manual_confirmation",
	}, keyword)
}

func jobKeywords() []string {
	return []string{
		"stage", "script", "before_script", "after_script", "variables", "environment", "id_tokens", "rules", "only", "except",
		"extends", "inherit", "when", "start_in", "needs", "dependencies",
	}
}

func beyond() []string {
	return []string{"hooks", "parallel", "timeout", "inputs", "release", "secrets", "publish", "pages", "run", "trigger", "identity", "dast_configuration"}
}

type section map[string]json.RawMessage

// ciFile is a .gitlab-ci.yml, its `extends` followed.
type ciFile struct {
	keys     section
	stages   []string
	idTokens bool // this GitLab knows id_tokens
}

// referenceTag is GitLab's own YAML tag; a parser that does not know it would take its list for the value.
var referenceTag = regexp.MustCompile(`(?m)^[^#\n]*!reference\b`)

func globalKeywords() []string {
	return []string{"default", "stages", "variables", "image", "services", "cache", "before_script", "after_script"}
}

// parseFile reads a file. The errors here and of job are those of a file that GitLab would refuse, or that the simulator
// does not understand.
func parseFile(text string, idTokens bool) (*ciFile, error) {
	if referenceTag.MatchString(text) {
		return nil, errors.New("reading .gitlab-ci.yml: the simulated runner does not implement `!reference`")
	}
	// Not strict: as for GitLab's parser the last of two equal keys wins, and a key after a merge (<<) replaces what was merged.
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("reading .gitlab-ci.yml: %w", err)
	}
	f := &ciFile{stages: []string{"build", "test", "deploy"}, idTokens: idTokens}
	if err := json.Unmarshal(raw, &f.keys); err != nil || f.keys == nil {
		return nil, errors.New("reading .gitlab-ci.yml: it must be a mapping of keywords and jobs")
	}
	for _, k := range []string{"include", "workflow", "spec"} {
		if _, ok := f.keys[k]; ok {
			return nil, fmt.Errorf("reading .gitlab-ci.yml: the simulated runner does not implement the keyword %q", k)
		}
	}
	if f.keys, err = extend(f.keys); err != nil {
		return nil, err
	}
	if raw, ok := f.keys["stages"]; ok {
		f.stages = nil
		if err := decode(raw, &f.stages, "stages"); err != nil {
			return nil, err
		}
	}
	f.stages = slices.DeleteFunc(f.stages, func(s string) bool { return s == ".pre" || s == ".post" })
	f.stages = append(append([]string{".pre"}, f.stages...), ".post")
	return f, nil
}

// job reads the job of this name.
func (f *ciFile) job(name string) (*config, error) {
	raw, ok := f.keys[name]
	if !ok || strings.HasPrefix(name, ".") || slices.Contains(globalKeywords(), name) {
		return nil, fmt.Errorf("reading .gitlab-ci.yml: there is no job %q", name)
	}
	where := "jobs:" + name
	keys, defaults := section{}, section{}
	if err := decode(raw, &keys, where); err != nil {
		return nil, err
	}
	if d, ok := f.keys["default"]; ok {
		if err := decode(d, &defaults, "default"); err != nil {
			return nil, err
		}
	}
	for _, k := range []string{"before_script", "after_script", "image", "services", "cache"} { // the old way to write defaults
		if v, ok := f.keys[k]; ok {
			defaults[k] = v
		}
	}
	if err := f.check(defaults, "default", []string{"before_script", "after_script", "id_tokens"}); err != nil {
		return nil, err
	}
	if err := f.check(keys, where, jobKeywords()); err != nil {
		return nil, err
	}
	globals, err := f.inherit(defaults, keys["inherit"], where+":inherit")
	if err != nil {
		return nil, err
	}
	for k, v := range defaults {
		if _, own := keys[k]; !own {
			keys[k] = v
		}
	}
	c := &config{name: name, stage: "test", when: "on_success"}
	if err := c.fill(globals, keys); err != nil {
		return nil, err
	}
	return c, f.checkOrder(c, keys["dependencies"], where)
}

// check refuses keywords that GitLab does not know, and those that this runner does not implement. One without a value is as
// good as absent.
func (f *ciFile) check(s section, where string, known []string) error {
	for _, k := range slices.Sorted(maps.Keys(s)) {
		switch {
		case k == "id_tokens" && !f.idTokens, !slices.Contains(known, k) && !harmless(k) && !slices.Contains(beyond(), k):
			return fmt.Errorf("reading .gitlab-ci.yml: %s config contains unknown keys: %s", where, k)
		case slices.Contains(beyond(), k):
			return fmt.Errorf("reading .gitlab-ci.yml: %s: the simulated runner does not implement the keyword %q", where, k)
		case string(s[k]) == "null":
			delete(s, k)
		}
	}
	return nil
}

// inherit drops what the job does not want of the defaults, and returns what it wants of the global variables.
func (f *ciFile) inherit(defaults section, raw json.RawMessage, where string) (globals json.RawMessage, err error) {
	globals = f.keys["variables"]
	if raw == nil {
		return globals, nil
	}
	var keys section
	if err := decode(raw, &keys, where); err != nil {
		return nil, err
	}
	wanted := func(key string) (func(string) bool, error) {
		raw, given := keys[key]
		var all bool
		var some []string
		switch {
		case !given:
			return func(string) bool { return true }, nil
		case json.Unmarshal(raw, &all) == nil:
			return func(string) bool { return all }, nil
		}
		err := decode(raw, &some, where+":"+key)
		return func(k string) bool { return slices.Contains(some, k) }, err
	}
	for k := range keys {
		if k != "default" && k != "variables" {
			return nil, fmt.Errorf("reading .gitlab-ci.yml: %s config contains unknown keys: %s", where, k)
		}
	}
	want, err := wanted("default")
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(defaults, func(k string, _ json.RawMessage) bool { return !want(k) })
	if want, err = wanted("variables"); err != nil || globals == nil {
		return nil, err
	}
	var vars section
	if err := decode(globals, &vars, "variables"); err != nil {
		return nil, err
	}
	maps.DeleteFunc(vars, func(k string, _ json.RawMessage) bool { return !want(k) })
	return json.Marshal(vars)
}

// checkOrder is what GitLab's YamlProcessor demands of stages, needs and dependencies.
func (f *ciFile) checkOrder(c *config, rawDependencies json.RawMessage, where string) error {
	stageOf := func(job string) (int, bool) {
		raw, ok := f.keys[job]
		if !ok || strings.HasPrefix(job, ".") || slices.Contains(globalKeywords(), job) {
			return 0, false
		}
		s := struct{ Stage string }{"test"}
		_ = json.Unmarshal(raw, &s) // what has no stage is in the default one
		return slices.Index(f.stages, s.Stage), true
	}
	own := slices.Index(f.stages, c.stage)
	if own < 0 {
		return fmt.Errorf("reading .gitlab-ci.yml: %s job: chosen stage %s does not exist; available stages are %s", c.name, c.stage, strings.Join(f.stages, ", "))
	}
	var dependencies []string
	if rawDependencies != nil {
		if err := json.Unmarshal(rawDependencies, &dependencies); err != nil {
			return fmt.Errorf("reading .gitlab-ci.yml: %s: dependencies should be an array of strings", where)
		}
	}
	for _, d := range dependencies {
		if len(c.needs) > 0 && !slices.ContainsFunc(c.needs, func(n need) bool { return n.job == d }) {
			return fmt.Errorf("reading .gitlab-ci.yml: %s: dependencies the %s should be part of needs", where, d)
		}
	}
	before := func(kind string, n need) error {
		stage, ok := stageOf(n.job)
		switch {
		case !ok && n.optional:
			return nil
		case !ok:
			return fmt.Errorf("reading .gitlab-ci.yml: %s job: undefined %s: %s", c.name, kind, n.job)
		case stage < 0 || stage > own:
			return fmt.Errorf("reading .gitlab-ci.yml: %s job: %s %s is not defined in current or prior stages", c.name, kind, n.job)
		}
		return nil
	}
	for _, d := range dependencies {
		if err := before("dependency", need{job: d}); err != nil {
			return err
		}
	}
	for _, n := range c.needs {
		if err := before("need", n); err != nil {
			return err
		}
	}
	return nil
}

func (c *config) fill(globals json.RawMessage, keys section) error {
	where := "jobs:" + c.name
	for k, into := range map[string]*string{"stage": &c.stage, "when": &c.when} {
		if raw, ok := keys[k]; ok {
			if err := decode(raw, into, where+":"+k); err != nil {
				return err
			}
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
	for _, raw := range []json.RawMessage{globals, keys["variables"]} {
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
	if c.only, err = parsePolicy(keys["only"], where+":only"); err != nil {
		return err
	}
	if c.except, err = parsePolicy(keys["except"], where+":except"); err != nil {
		return err
	}
	if c.needs, err = parseNeeds(keys["needs"], where+":needs"); err != nil {
		return err
	}
	return c.checkWhen(keys, where)
}

// checkWhen is what GitLab demands of `when`, and of what may not stand beside `rules`.
func (c *config) checkWhen(keys section, where string) error {
	if !slices.Contains([]string{"on_success", "on_failure", "always", "manual", "delayed"}, c.when) {
		return fmt.Errorf("reading .gitlab-ci.yml: %s: when should be one of: on_success, on_failure, always, manual, delayed", where)
	}
	_, startIn := keys["start_in"]
	switch {
	case c.hasRules && (c.only.given || c.except.given || startIn):
		return fmt.Errorf("reading .gitlab-ci.yml: %s: key may not be used with `rules`: only, except, start_in", where)
	case startIn && c.when != "delayed":
		return fmt.Errorf("reading .gitlab-ci.yml: %s: start in must be blank", where)
	case c.when == "delayed" && !startIn && !c.hasRules:
		return fmt.Errorf("reading .gitlab-ci.yml: %s: start in should be a duration", where)
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
		if !text && slices.Contains([]string{"name", "url", "action", "deployment_tier", "on_stop", "auto_stop_in"}, k) {
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
		case "kubernetes":
			var err error
			if e.namespace, err = parseKubernetes(given, where+":kubernetes"); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("reading .gitlab-ci.yml: %s config contains unknown keys: %s", where, k)
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

// parseKubernetes returns the namespace. The rest (the agent, for GitLab's dashboard of the environment) does nothing for the
// job, but GitLab refuses what it does not know.
func parseKubernetes(raw json.RawMessage, where string) (namespace string, err error) {
	var keys section
	if err := decode(raw, &keys, where); err != nil {
		return "", err
	}
	if len(keys) == 0 {
		return "", fmt.Errorf("reading .gitlab-ci.yml: %s config can't be blank", where)
	}
	for k, given := range keys {
		v, text := scalar(given)
		switch k {
		case "namespace", "agent", "flux_resource_path":
			if !text {
				return "", fmt.Errorf("reading .gitlab-ci.yml: %s: %s should be a string", where, k)
			}
			if k == "namespace" {
				namespace = v
			}
		case "managed_resources", "dashboard":
			if err := decode(given, &section{}, where+":"+k); err != nil {
				return "", err
			}
		default:
			return "", fmt.Errorf("reading .gitlab-ci.yml: %s config contains unknown keys: %s", where, k)
		}
	}
	for k, needs := range map[string]string{"flux_resource_path": "namespace", "dashboard": "agent"} {
		if _, given := keys[k]; given && keys[needs] == nil {
			return "", fmt.Errorf("reading .gitlab-ci.yml: %s: %s can't be blank", where, needs)
		}
	}
	return namespace, nil
}

func parseNeeds(raw json.RawMessage, where string) ([]need, error) {
	if raw == nil {
		return nil, nil
	}
	var list []json.RawMessage
	if err := decode(raw, &list, where); err != nil {
		return nil, err
	}
	var out []need
	for _, item := range list {
		if name, ok := scalar(item); ok {
			out = append(out, need{job: name})
			continue
		}
		var keys section
		if err := decode(item, &keys, where); err != nil {
			return nil, err
		}
		n := need{}
		for k, v := range keys {
			var err error
			switch k {
			case "job":
				err = decode(v, &n.job, where+":job")
			case "optional":
				err = decode(v, &n.optional, where+":optional")
			case "artifacts":
			case "project", "ref", "pipeline", "parallel":
				err = fmt.Errorf("reading .gitlab-ci.yml: %s: the simulated runner does not implement the keyword %q", where, k)
			default:
				err = fmt.Errorf("reading .gitlab-ci.yml: %s:need config contains unknown keys: %s", where, k)
			}
			if err != nil {
				return nil, err
			}
		}
		if n.job == "" {
			return nil, fmt.Errorf("reading .gitlab-ci.yml: %s:need job can't be blank", where)
		}
		out = append(out, n)
	}
	return out, nil
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
	list, err := flatten(raw, where, 0)
	if err != nil {
		return nil, false, err
	}
	for _, keys := range list {
		r, err := parseRule(keys, where)
		if err != nil {
			return nil, false, err
		}
		rules = append(rules, r)
	}
	return rules, true, nil
}

// flatten reads hashes out of lists of lists (from YAML anchors), up to 10 levels deep.
func flatten(raw json.RawMessage, where string, depth int) (out []section, err error) {
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil || depth > 10 {
		return nil, fmt.Errorf("reading .gitlab-ci.yml: %s should be an array containing hashes and arrays of hashes", where)
	}
	for _, item := range list {
		var keys section
		if json.Unmarshal(item, &keys) == nil && keys != nil {
			out = append(out, keys)
			continue
		}
		more, err := flatten(item, where, depth+1)
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	return out, nil
}

func parseRule(keys section, where string) (r rule, err error) {
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		v := keys[k]
		switch k {
		case "if":
			if err = decode(v, &r.condition, where+":if"); err == nil {
				_, err = evaluate(r.condition, func(string) (string, bool) { return "", false }) // its form
			}
		case "when":
			if err = decode(v, &r.when, where+":when"); err == nil && !slices.Contains([]string{"on_success", "on_failure", "always", "never", "manual", "delayed"}, r.when) {
				err = fmt.Errorf("reading .gitlab-ci.yml: %s:rule when unknown value: %s", where, r.when)
			}
		case "variables":
			r.variables, err = parseVariables(v, where+":variables")
		case "allow_failure", "interruptible":
		case "start_in":
			if string(keys["when"]) != `"delayed"` {
				err = fmt.Errorf("reading .gitlab-ci.yml: %s:rule config contains disallowed keys: start_in", where)
			}
		case "changes", "exists", "needs", "auto_cancel":
			err = fmt.Errorf("reading .gitlab-ci.yml: %s: the simulated runner does not implement the keyword %q", where, k)
		default:
			err = fmt.Errorf("reading .gitlab-ci.yml: %s:rule config contains unknown keys: %s", where, k)
		}
		if err != nil {
			return rule{}, err
		}
	}
	if r.when == "delayed" && keys["start_in"] == nil {
		return rule{}, fmt.Errorf("reading .gitlab-ci.yml: %s:rule start in can't be blank", where)
	}
	return r, nil
}

// parsePolicy reads `only` or `except`: refs, or a hash of conditions.
func parsePolicy(raw json.RawMessage, where string) (p policy, err error) {
	if raw == nil {
		return policy{}, nil
	}
	p.given, p.refs = true, []string{}
	if one, ok := scalar(raw); ok {
		p.refs = []string{one}
		return p, nil
	}
	if json.Unmarshal(raw, &p.refs) == nil {
		return p, nil
	}
	p.refs = nil
	var keys section
	if err := decode(raw, &keys, where); err != nil {
		return policy{}, err
	}
	for k, v := range keys {
		switch k {
		case "refs":
			err = decode(v, &p.refs, where+":refs")
		case "kubernetes":
			if string(v) != `"active"` {
				err = fmt.Errorf("reading .gitlab-ci.yml: %s kubernetes unknown value: %s", where, v)
			}
			p.kubernetes = true
		case "variables":
			if err = decode(v, &p.variables, where+":variables"); err == nil {
				for _, text := range p.variables {
					if _, e := evaluate(text, func(string) (string, bool) { return "", false }); e != nil {
						err = fmt.Errorf("reading .gitlab-ci.yml: %s variables Invalid expression syntax", where)
					}
				}
			}
		case "changes":
			err = fmt.Errorf("reading .gitlab-ci.yml: %s: the simulated runner does not implement the keyword %q", where, k)
		default:
			err = fmt.Errorf("reading .gitlab-ci.yml: %s config contains unknown keys: %s", where, k)
		}
		if err != nil {
			return policy{}, err
		}
	}
	return p, nil
}

// pipelineFacts are what `only`, `except` and `rules` ask about.
type pipelineFacts struct {
	ref, project, source string
	tag, kubernetes      bool
	lookup               func(string) (string, bool)
}

// selects decides whether the job is part of the pipeline and when it starts, and which variables the rule that decided adds.
func (c *config) selects(f pipelineFacts) (selected bool, when string, added []variable, err error) {
	if c.hasRules {
		for _, r := range c.rules {
			holds, err := evaluate(r.condition, f.lookup)
			if err != nil {
				return false, "", nil, err
			}
			if holds {
				when := cmp.Or(r.when, c.when)
				return when != "never", when, r.variables, nil
			}
		}
		return false, "", nil, nil
	}
	only := c.only
	if only.refs == nil {
		only.refs = []string{"branches", "tags"} // so the job is not part of merge request pipelines
	}
	all, _, err := only.matches(f)
	if err != nil || !all {
		return false, "", nil, err
	}
	_, one, err := c.except.matches(f)
	return !one && err == nil, c.when, nil, err
}

// matches reports whether all and whether any of the policy's conditions hold.
func (p policy) matches(f pipelineFacts) (all, one bool, err error) {
	all = true
	note := func(holds bool) { all, one = all && holds, one || holds }
	if p.refs != nil {
		note(slices.ContainsFunc(p.refs, f.matches))
	}
	if p.kubernetes {
		note(f.kubernetes)
	}
	if p.variables != nil {
		holds := false
		for _, text := range p.variables {
			h, err := evaluate(text, f.lookup)
			if err != nil {
				return false, false, err
			}
			holds = holds || h
		}
		note(holds)
	}
	return all, one, nil
}

var policyPattern = regexp.MustCompile(`^/(.+)/(i?)$`)

// matches reports whether a pattern of refs holds (Gitlab::Ci::Build::Policy::Refs).
func (f pipelineFacts) matches(pattern string) bool {
	if at, project, ok := strings.Cut(pattern, "@"); ok {
		if project != f.project {
			return false
		}
		pattern = at
	}
	mr := f.source == mergeRequest
	source := f.source
	if mr {
		source = "merge_request"
	}
	switch {
	case pattern == "tags" && f.tag, pattern == "branches" && !f.tag && !mr:
		return true
	case pattern == source, pattern == source+"s", pattern == source+"es":
		return true
	case mr:
		return false
	}
	if m := policyPattern.FindStringSubmatch(pattern); m != nil {
		if m[2] != "" {
			m[1] = "(?i)" + m[1]
		}
		re, err := regexp.Compile(m[1])
		return err == nil && re.MatchString(f.ref)
	}
	return pattern == f.ref
}
