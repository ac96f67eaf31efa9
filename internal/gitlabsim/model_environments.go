package gitlabsim

import (
	"cmp"
	"crypto/sha256"
	"math/big"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// environmentChanges are what happens to projects' environments.
type environmentChanges struct{ *model }

var (
	notSlug    = regexp.MustCompile(`[^a-z0-9]`)
	manyDashes = regexp.MustCompile(`-{2,}`)
)

// slugOf is Gitlab::Slug::Environment: a name that is changed by it gets a suffix made of its hash.
func slugOf(name string) string {
	slug := notSlug.ReplaceAllString(strings.ToLower(name), "-")
	if slug == "" || slug[0] < 'a' || slug[0] > 'z' {
		slug = "env-" + slug
	}
	slug = manyDashes.ReplaceAllString(slug, "-")
	if len(slug) > 24 || slug != name {
		if len(slug) > 17 {
			slug = slug[:17]
		}
		sum := sha256.Sum256([]byte(name))
		hash := new(big.Int).SetBytes(sum[:]).Text(36)
		slug = strings.TrimSuffix(slug, "-") + "-" + hash[len(hash)-6:]
	}
	return strings.TrimSuffix(slug, "-")
}

var tierPatterns = []struct {
	tier    string
	pattern *regexp.Regexp
}{
	{"development", regexp.MustCompile(`(?i)(dev|review|trunk)`)},
	{"testing", regexp.MustCompile(`(?i)(test|tst|int|ac(ce|)pt|qa|qc|control|quality)`)},
	{"staging", regexp.MustCompile(`(?i)(st(a|)g|mod(e|)l|pre|demo|non)`)},
	{"production", regexp.MustCompile(`(?i)(pr(o|)d|live)`)},
}

// tierOf is Environment#guess_tier.
func tierOf(name string) string {
	for _, t := range tierPatterns {
		if t.pattern.MatchString(name) {
			return t.tier
		}
	}
	return "other"
}

// EnsureEnvironment returns the environment of this name, creating it as a job with `environment:` does. A
// stopped one becomes available again.
func (w environmentChanges) EnsureEnvironment(projectID int64, name string) (Environment, error) {
	var env Environment
	err := w.change(func(c *changes) error {
		p := c.Project(projectID)
		if p == nil {
			return notFound("Project")
		}
		for i := range p.Environments {
			if p.Environments[i].Name == name {
				p.Environments[i].State = "available"
				env = p.Environments[i]
				return nil
			}
		}
		var err error
		env, err = c.addEnvironment(p, name, "")
		return err
	})
	return env, err
}

var environmentName = regexp.MustCompile(`^[a-zA-Z0-9_/$\{}. -]+$`)

func (c *changes) addEnvironment(p *Project, name, tier string) (Environment, error) {
	switch {
	case name == "":
		return Environment{}, invalid("name", "can't be blank")
	case len(name) > 255:
		return Environment{}, invalid("name", "is too long (maximum is 255 characters)")
	case !environmentName.MatchString(name) || strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/"):
		return Environment{}, invalid("name", "can contain only letters, digits, '-', '_', '/', '$', '{', '}', '.', and spaces, but it cannot start or end with '/'")
	case slices.ContainsFunc(p.Environments, func(e Environment) bool { return e.Name == name }):
		return Environment{}, invalid("name", "has already been taken")
	}
	env := Environment{
		ID: take(&c.w.nextEnvironment, 0), Name: name, Slug: slugOf(name), State: "available",
		Tier: cmp.Or(tier, tierOf(name)), CreatedAt: c.w.created(c.w.now()),
	}
	p.Environments = append(p.Environments, env)
	return env, nil
}

// StopEnvironment stops an environment.
func (w environmentChanges) StopEnvironment(projectID, id int64) error {
	return w.environment(projectID, id, func(p *Project, i int) error { p.Environments[i].State = "stopped"; return nil })
}

// DeleteEnvironment deletes a stopped environment.
func (w environmentChanges) DeleteEnvironment(projectID, id int64) error {
	return w.environment(projectID, id, func(p *Project, i int) error {
		if p.Environments[i].State != "stopped" {
			return message(http.StatusForbidden, "403 Forbidden")
		}
		p.Environments = slices.Delete(p.Environments, i, i+1)
		return nil
	})
}

func (w environmentChanges) environment(projectID, id int64, f func(p *Project, i int) error) error {
	return w.change(func(c *changes) error {
		p := c.Project(projectID)
		if p == nil {
			return notFound("Project")
		}
		i := slices.IndexFunc(p.Environments, func(e Environment) bool { return e.ID == id })
		if i < 0 {
			return message(http.StatusNotFound, "404 Environment Not Found")
		}
		return f(p, i)
	})
}
