package gitlabsim

import (
	"net/http"
	"slices"
	"strconv"
)

// agentsAPI is about the agents for Kubernetes of a project.
type agentsAPI struct{ entities }

func mountAgents(at routes[agentsAPI]) {
	at.get("/projects/:id/cluster_agents", agentsAPI.listAgents)
	at.get("/projects/:id/cluster_agents/:agent_id", agentsAPI.getAgent)
}

func (c agentsAPI) showAgent(v *View, p *Project, a Agent) map[string]any {
	simple := c.simpleProject(v, p)
	config := map[string]any{}
	for _, k := range []string{"id", "description", "name", "name_with_namespace", "path", "path_with_namespace", "created_at"} {
		config[k] = simple[k]
	}
	return map[string]any{
		"id": a.ID, "name": a.Name, "config_project": config, "created_at": apiTime(a.CreatedAt), "created_by_user_id": nullableID(a.UserID), "is_receptive": false,
	}
}

// agentsOf returns the agents of a project that the caller sees: a Developer and above.
func (c agentsAPI) agentsOf(v *View) (*Project, []Agent, error) {
	if err := c.requireUser(); err != nil {
		return nil, nil, err
	}
	p, err := c.project(v)
	if err != nil {
		return nil, nil, err
	}
	if !c.user.Admin && v.projectLevel(p, c.user.ID) < Developer {
		return p, nil, nil
	}
	return p, p.Agents, nil
}

func (c agentsAPI) listAgents() error {
	out := []map[string]any{}
	err := c.view(func(v *View) error {
		p, agents, err := c.agentsOf(v)
		if err != nil {
			return err
		}
		if agents == nil && len(p.Agents) > 0 {
			return notFound("ClusterAgents")
		}
		page, err := paginate(c.call, agents, "")
		for _, a := range page {
			out = append(out, c.showAgent(v, p, a))
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, out)
}

func (c agentsAPI) getAgent() error {
	id, err := strconv.ParseInt(c.vars["agent_id"], 10, 64)
	if err != nil {
		return badParameter("agent_id is invalid")
	}
	var body map[string]any
	err = c.view(func(v *View) error {
		p, agents, err := c.agentsOf(v)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(agents, func(a Agent) bool { return a.ID == id })
		if i < 0 {
			return message(http.StatusNotFound, "404 Not found")
		}
		body = c.showAgent(v, p, agents[i])
		return nil
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, body)
}
