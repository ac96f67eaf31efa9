package gitlabsim

import (
	"net/http"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabversion"
)

// variablesAPI is about the CI/CD variables of a project.
type variablesAPI struct{ *call }

func mountVariables(at routes[variablesAPI]) {
	at.get("/projects/:id/variables", variablesAPI.listVariables)
	at.post("/projects/:id/variables", variablesAPI.createVariable)
	at.get("/projects/:id/variables/:key", variablesAPI.getVariable)
	at.put("/projects/:id/variables/:key", variablesAPI.updateVariable)
	at.del("/projects/:id/variables/:key", variablesAPI.deleteVariable)
}

// showVariable is a variable as this version shows it.
func (c variablesAPI) showVariable(va Variable) map[string]any {
	var value any = va.Value
	if va.Hidden {
		value = nil
	}
	out := map[string]any{
		"variable_type": va.VariableType, "key": va.Key, "value": value, "protected": va.Protected, "masked": va.Masked, "environment_scope": va.EnvironmentScope,
	}
	if c.s.Has(gitlabversion.VariableRaw) {
		out["raw"] = va.Raw
	}
	if c.s.Has(gitlabversion.VariableDescription) {
		out["description"] = nullable(va.Description)
	}
	if c.s.Has(gitlabversion.VariableHidden) {
		out["hidden"] = va.Hidden
	}
	return out
}

// scopeFilter reads filter[environment_scope] from query or body.
func (c variablesAPI) scopeFilter() *string {
	if t, ok := c.text("filter[environment_scope]"); ok {
		return &t
	}
	return nil
}

// fill reads the attributes that are given. GitLab ignores those that it does not know.
func (va *Variable) fill(c *call) error {
	texts := map[string]*string{"value": &va.Value, "variable_type": &va.VariableType, "environment_scope": &va.EnvironmentScope}
	if c.s.Has(gitlabversion.VariableDescription) {
		texts["description"] = &va.Description
	}
	for key, into := range texts {
		if t, ok := c.text(key); ok {
			*into = t
		}
	}
	flags := map[string]*bool{"protected": &va.Protected, "masked": &va.Masked}
	if c.s.Has(gitlabversion.VariableRaw) {
		flags["raw"] = &va.Raw
	}
	for key, into := range flags {
		value, given, err := c.flag(key)
		if err != nil {
			return err
		}
		if given {
			*into = value
		}
	}
	return nil
}

func (c variablesAPI) listVariables() error {
	var out []map[string]any
	err := c.view(func(v *View) error {
		p, err := c.projectAtLeast(v, Maintainer)
		if err != nil {
			return err
		}
		page, err := paginate(c.call, p.Variables, "")
		out = make([]map[string]any, len(page))
		for i, va := range page {
			out[i] = c.showVariable(va)
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, out)
}

func (c variablesAPI) answerVariable(status int, project int64, key string, scope *string) error {
	var body map[string]any
	err := c.view(func(v *View) error {
		p := v.Project(project)
		if p == nil {
			return notFound("Project")
		}
		i, err := p.variable(key, scope)
		if err == nil {
			body = c.showVariable(p.Variables[i])
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.answer(status, body)
}

func (c variablesAPI) getVariable() error {
	id, err := c.projectID(Maintainer)
	if err != nil {
		return err
	}
	return c.answerVariable(http.StatusOK, id, c.vars["key"], c.scopeFilter())
}

func (c variablesAPI) createVariable() error {
	id, err := c.projectID(Maintainer)
	if err != nil {
		return err
	}
	if err := c.require("key", "value"); err != nil {
		return err
	}
	va := Variable{Raw: c.s.Has(gitlabversion.VariableRaw)} // default of the newest GitLab; older ones had false (https://docs.gitlab.com/api/project_level_variables/)
	va.Key, _ = c.text("key")
	if err := va.fill(c.call); err != nil {
		return err
	}
	if c.s.Has(gitlabversion.VariableHidden) {
		if va.Hidden, _, err = c.flag("masked_and_hidden"); err != nil {
			return err
		}
	}
	va = va.withDefaults()
	if err := c.s.world.CreateVariable(id, va); err != nil {
		return err
	}
	return c.answerVariable(http.StatusCreated, id, va.Key, &va.EnvironmentScope)
}

func (c variablesAPI) updateVariable() error {
	id, err := c.projectID(Maintainer)
	if err != nil {
		return err
	}
	var changed Variable
	err = c.s.world.updateVariable(id, c.vars["key"], c.scopeFilter(), func(va *Variable) error {
		err := va.fill(c.call)
		changed = *va
		return err
	})
	if err != nil {
		return err
	}
	return c.answerVariable(http.StatusOK, id, changed.Key, &changed.EnvironmentScope)
}

func (c variablesAPI) deleteVariable() error {
	id, err := c.projectID(Maintainer)
	if err != nil {
		return err
	}
	if err := c.s.world.removeVariable(id, c.vars["key"], c.scopeFilter()); err != nil {
		return err
	}
	return c.answer(http.StatusNoContent, nil)
}
