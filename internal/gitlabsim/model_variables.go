package gitlabsim

import (
	"cmp"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"unicode/utf8"
)

// variableChanges are what happens to projects' CI/CD variables.
type variableChanges struct{ *model }

// maxVariables is GitLab's limit of variables per project (https://docs.gitlab.com/administration/instance_limits/).
const maxVariables = 8000

var (
	variableKey   = regexp.MustCompile(`\A[a-zA-Z0-9_]+\z`)
	variableScope = regexp.MustCompile(`\A[a-zA-Z0-9_/$\{}. *-]+\z`)
	// maskable is Ci::Maskable: single line, at least 8 characters; without raw only these characters.
	maskable    = regexp.MustCompile(`\A[a-zA-Z0-9_+=/@:.~-]{8,}\z`)
	maskableRaw = regexp.MustCompile(`\A\S{8,}\z`)
)

func (va Variable) check() error {
	switch {
	case va.Key == "":
		return invalid("key", "can't be blank", "can contain only letters, digits and '_'.")
	case len(va.Key) > 255:
		return invalid("key", "is too long (maximum is 255 characters)")
	case !variableKey.MatchString(va.Key):
		return invalid("key", "can contain only letters, digits and '_'.")
	case va.VariableType != "env_var" && va.VariableType != "file":
		return badParameter("variable_type does not have a valid value")
	case utf8.RuneCountInString(va.Description) > 255:
		return invalid("description", "is too long (maximum is 255 characters)")
	case utf8.RuneCountInString(va.EnvironmentScope) > 255:
		return invalid("environment_scope", "is too long (maximum is 255 characters)")
	case !variableScope.MatchString(va.EnvironmentScope):
		return invalid("environment_scope", "can contain only letters, digits, '-', '_', '/', '$', '{', '}', '.', '*' and spaces, but it cannot start or end with '/'")
	}
	if va.Masked {
		pattern := maskable
		if va.Raw {
			pattern = maskableRaw
		}
		if !pattern.MatchString(va.Value) {
			return invalid("value", "is invalid")
		}
	}
	return nil
}

func (va Variable) withDefaults() Variable {
	va.VariableType = cmp.Or(va.VariableType, "env_var")
	va.EnvironmentScope = cmp.Or(va.EnvironmentScope, "*")
	va.Masked = va.Masked || va.Hidden
	return va
}

// CreateVariable adds a CI/CD variable. Key and scope together are unique.
func (w variableChanges) CreateVariable(projectID int64, va Variable) error {
	return w.change(func(c *changes) error {
		p := c.Project(projectID)
		if p == nil {
			return notFound("Project")
		}
		va = va.withDefaults()
		if err := va.check(); err != nil {
			return err
		}
		if slices.ContainsFunc(p.Variables, va.same) {
			return invalid("key", fmt.Sprintf("(%s) has already been taken", va.Key))
		}
		if len(p.Variables) >= maxVariables {
			return invalid("base", fmt.Sprintf("Maximum number of project ci variables (%d) exceeded", maxVariables))
		}
		va.ID = take(&w.nextVariable, 0)
		p.Variables = append(p.Variables, va)
		return nil
	})
}

func (va Variable) same(other Variable) bool {
	return va.Key == other.Key && va.EnvironmentScope == other.EnvironmentScope
}

// SetVariable creates a variable or replaces the one with the same key and scope.
func (w variableChanges) SetVariable(projectID int64, va Variable) error {
	va = va.withDefaults()
	exists := false
	w.View(func(v *View) {
		p := v.Project(projectID)
		exists = p != nil && slices.ContainsFunc(p.Variables, va.same)
	})
	if !exists {
		return w.CreateVariable(projectID, va)
	}
	return w.updateVariable(projectID, va.Key, &va.EnvironmentScope, func(old *Variable) error {
		va.ID = old.ID
		*old = va
		return nil
	})
}

// RemoveVariable removes the variable with this key and scope.
func (w variableChanges) RemoveVariable(projectID int64, key, scope string) error {
	return w.removeVariable(projectID, key, &scope)
}

func (w variableChanges) removeVariable(projectID int64, key string, scope *string) error {
	return w.change(func(c *changes) error {
		p := c.Project(projectID)
		if p == nil {
			return notFound("Project")
		}
		i, err := p.variable(key, scope)
		if err != nil {
			return err
		}
		p.Variables = slices.Delete(p.Variables, i, i+1)
		return nil
	})
}

func (w variableChanges) updateVariable(projectID int64, key string, scope *string, f func(*Variable) error) error {
	return w.change(func(c *changes) error {
		p := c.Project(projectID)
		if p == nil {
			return notFound("Project")
		}
		i, err := p.variable(key, scope)
		if err != nil {
			return err
		}
		changed := p.Variables[i]
		if err := f(&changed); err != nil {
			return err
		}
		if changed.Hidden && !changed.Masked {
			return invalid("masked", "The visibility setting cannot be changed for masked and hidden variables.")
		}
		if err := changed.check(); err != nil {
			return err
		}
		if j := slices.IndexFunc(p.Variables, changed.same); j >= 0 && j != i {
			return invalid("key", fmt.Sprintf("(%s) has already been taken", changed.Key))
		}
		p.Variables[i] = changed
		return nil
	})
}

// variable finds one variable. Without a scope the key must be unique.
func (p *Project) variable(key string, scope *string) (int, error) {
	found := -1
	for i, va := range p.Variables {
		if va.Key != key || scope != nil && va.EnvironmentScope != *scope {
			continue
		}
		if found >= 0 {
			return 0, message(http.StatusConflict, "There are multiple variables with provided parameters. Please use 'filter[environment_scope]'")
		}
		found = i
	}
	if found < 0 {
		return 0, notFound("Variable")
	}
	return found, nil
}
