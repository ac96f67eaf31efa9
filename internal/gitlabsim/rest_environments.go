package gitlabsim

import (
	"net/http"
	"strconv"
	"strings"
)

// environmentsAPI is about the environments of a project.
type environmentsAPI struct{ *call }

func mountEnvironments(at routes[environmentsAPI]) {
	at.get("/projects/:id/environments", environmentsAPI.listEnvironments)
	at.post("/projects/:id/environments", environmentsAPI.createEnvironment)
	at.get("/projects/:id/environments/:environment_id", environmentsAPI.getEnvironment)
	at.del("/projects/:id/environments/:environment_id", environmentsAPI.deleteEnvironment)
	at.post("/projects/:id/environments/:environment_id/stop", environmentsAPI.stopEnvironment)
}

func (c environmentsAPI) showEnvironment(v *View, p *Project, e Environment) map[string]any {
	return map[string]any{
		"id": e.ID, "name": e.Name, "slug": e.Slug, "description": nil, "external_url": nil, "state": e.State, "tier": e.Tier,
		"created_at": apiTime(e.CreatedAt), "updated_at": apiTime(e.CreatedAt), "auto_stop_at": nil, "kubernetes_namespace": nil,
		"flux_resource_path": nil, "auto_stop_setting": "always", "enable_advanced_logs_querying": false,
		"logs_api_path": "/" + v.ProjectPath(p) + "/-/logs/k8s.json?environment_name=" + e.Name,
	}
}

func (c environmentsAPI) listEnvironments() error {
	name, byName := c.text("name")
	search, bySearch := c.text("search")
	states, err := c.oneOf("states", "", "available", "stopping", "stopped")
	if err != nil {
		return err
	}
	if byName && bySearch {
		return badParameter("name, search are mutually exclusive")
	}
	if bySearch && len(search) < 3 {
		return message(http.StatusBadRequest, "400 Bad request - Search query is less than 3 characters")
	}
	out := []map[string]any{}
	err = c.view(func(v *View) error {
		p, err := c.projectAtLeast(v, Reporter)
		if err != nil {
			return err
		}
		for _, e := range p.Environments {
			if byName && e.Name != name || bySearch && !strings.HasPrefix(e.Name, search) || states != "" && e.State != states {
				continue
			}
			out = append(out, c.showEnvironment(v, p, e))
		}
		out, err = paginate(c.call, out, "")
		return err
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, out)
}

func (c environmentsAPI) environmentID() (int64, error) {
	id, err := strconv.ParseInt(c.vars["environment_id"], 10, 64)
	if err != nil {
		return 0, badParameter("environment_id is invalid")
	}
	return id, nil
}

func (c environmentsAPI) answerEnvironment(status int, project, id int64) error {
	var body map[string]any
	err := c.view(func(v *View) error {
		p := v.Project(project)
		if p != nil {
			for _, e := range p.Environments {
				if e.ID == id {
					body = c.showEnvironment(v, p, e)
					return nil
				}
			}
		}
		return message(http.StatusNotFound, "404 Environment Not Found")
	})
	if err != nil {
		return err
	}
	if status == http.StatusOK && c.r.Method == http.MethodGet {
		body["last_deployment"] = nil
	}
	return c.answer(status, body)
}

func (c environmentsAPI) getEnvironment() error {
	project, err := c.projectID(Reporter)
	if err != nil {
		return err
	}
	id, err := c.environmentID()
	if err != nil {
		return err
	}
	return c.answerEnvironment(http.StatusOK, project, id)
}

func (c environmentsAPI) createEnvironment() error {
	project, err := c.projectID(Developer)
	if err != nil {
		return err
	}
	if err := c.require("name"); err != nil {
		return err
	}
	tier, err := c.oneOf("tier", "", "production", "staging", "testing", "development", "other")
	if err != nil {
		return err
	}
	name, _ := c.text("name")
	var env Environment
	err = c.s.world.change(func(ch *changes) error {
		p := ch.Project(project)
		if p == nil {
			return notFound("Project")
		}
		var err error
		env, err = ch.addEnvironment(p, name, tier)
		return err
	})
	if err != nil {
		return err
	}
	return c.answerEnvironment(http.StatusCreated, project, env.ID)
}

func (c environmentsAPI) stopEnvironment() error {
	project, err := c.projectID(Developer)
	if err != nil {
		return err
	}
	id, err := c.environmentID()
	if err != nil {
		return err
	}
	if err := c.s.world.StopEnvironment(project, id); err != nil {
		return err
	}
	return c.answerEnvironment(http.StatusOK, project, id)
}

func (c environmentsAPI) deleteEnvironment() error {
	project, err := c.projectID(Developer)
	if err != nil {
		return err
	}
	id, err := c.environmentID()
	if err != nil {
		return err
	}
	if err := c.s.world.DeleteEnvironment(project, id); err != nil {
		return err
	}
	return c.answer(http.StatusNoContent, nil)
}
