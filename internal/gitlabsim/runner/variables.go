package runner

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// variable is one CI/CD variable on its way to the job.
type variable struct {
	key, value string
	raw        bool // not expanded
	file       bool // the job gets the path of a file with the value
	masked     bool
}

// collection holds the variables of a job. Later ones replace earlier ones of the same key: so the order of the calls is
// the order of precedence (Ci::Build#variables: persisted, ID tokens, predefined, YAML, project).
type collection struct {
	byKey map[string]variable
	paths map[string]string // file variables: where the file lies
}

func (c *collection) add(vs ...variable) {
	if c.byKey == nil {
		c.byKey = map[string]variable{}
	}
	for _, v := range vs {
		c.byKey[v.key] = v
	}
}

func (c *collection) keys() []string {
	out := make([]string, 0, len(c.byKey))
	for k := range c.byKey {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// reference is ExpandVariables::VARIABLES_REGEXP (lib/expand_variables.rb).
var reference = regexp.MustCompile(`\$\$|%%|\$([a-zA-Z_][a-zA-Z0-9_]*)|\$\{([a-zA-Z_][a-zA-Z0-9_]*)\}|%([a-zA-Z_][a-zA-Z0-9_]*)%`)

// expand replaces references to variables. What is not defined becomes empty, `$$` is a dollar sign; a file variable stands
// for its path.
func (c *collection) expand(text string) (string, error) { return c.expandIn(text, nil) }

func (c *collection) expandIn(text string, within []string) (string, error) {
	var failed error
	out := reference.ReplaceAllStringFunc(text, func(ref string) string {
		switch ref {
		case "$$", "%%":
			return ref[:1]
		}
		key := strings.Trim(ref, "${}%")
		v, ok := c.byKey[key]
		if !ok {
			if ref[0] == '%' {
				return ref
			}
			return ""
		}
		if v.file {
			return c.paths[key]
		}
		if v.raw {
			return v.value
		}
		if slices.Contains(within, key) {
			failed = fmt.Errorf("expanding variables: circular variable reference detected: %q", append(slices.Clone(within), key))
			return ""
		}
		value, err := c.expandIn(v.value, append(slices.Clone(within), key))
		if err != nil {
			failed = err
		}
		return value
	})
	return out, failed
}

// value is what the job sees of a variable (of a file variable: the content of the file).
func (c *collection) value(key string) (string, error) {
	v := c.byKey[key]
	if v.raw {
		return v.value, nil
	}
	return c.expandIn(v.value, []string{key})
}

// projectVariables picks what a job of this environment ("" = none) may see: of each key the one with the most specific
// scope. A job without environment gets only what is scoped to everything; protected variables need a protected ref.
func projectVariables(all []gitlabsim.Variable, environment string, protectedRef bool) []variable {
	best, rank := map[string]gitlabsim.Variable{}, map[string]int{}
	for _, v := range all {
		r := scopeRank(v.EnvironmentScope, environment)
		if r == 0 || v.Protected && !protectedRef || r < rank[v.Key] {
			continue
		}
		best[v.Key], rank[v.Key] = v, r
	}
	out := make([]variable, 0, len(best))
	for _, v := range best {
		out = append(out, variable{key: v.Key, value: v.Value, raw: v.Raw, file: v.VariableType == "file", masked: v.Masked || v.Hidden})
	}
	return out
}

// scopeRank is HasEnvironmentScope: 0 does not match, 1 is `*`, 2 a wildcard, 3 the exact name. Case counts.
func scopeRank(scope, environment string) int {
	switch {
	case scope == "*" || scope == "":
		return 1
	case environment == "":
		return 0
	case scope == environment:
		return 3
	case glob(scope, environment):
		return 2
	default:
		return 0
	}
}

// glob matches with `*` for any text, the only wildcard that GitLab knows in scopes and names of protected branches.
func glob(pattern, name string) bool {
	parts := strings.Split(pattern, "*")
	for i, p := range parts {
		parts[i] = regexp.QuoteMeta(p)
	}
	return regexp.MustCompile(`(?s)^` + strings.Join(parts, ".*") + `$`).MatchString(name)
}

// slug is Gitlab::Utils.slugify: CI_COMMIT_REF_SLUG and CI_PROJECT_PATH_SLUG.
func slug(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(s))
	if len(s) > 63 {
		s = s[:63]
	}
	return strings.Trim(s, "-")
}
