package gitlabsim

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// clustersAPI is about the certificate-based cluster integrations of a project.
type clustersAPI struct{ entities }

func mountClusters(at routes[clustersAPI]) {
	at.get("/projects/:id/clusters", clustersAPI.listClusters)
	at.get("/projects/:id/clusters/:cluster_id", clustersAPI.getCluster)
	at.post("/projects/:id/clusters/user", clustersAPI.createCluster)
	at.put("/projects/:id/clusters/:cluster_id", clustersAPI.updateCluster)
	at.del("/projects/:id/clusters/:cluster_id", clustersAPI.deleteCluster)
}

// clusterProject finds the project for a request about its clusters. The flag is asked before the role, so that everybody
// who sees the project gets 404 while it is off.
func (c clustersAPI) clusterProject(v *View) (*Project, error) {
	if err := c.requireUser(); err != nil {
		return nil, err
	}
	p, err := c.project(v)
	if err != nil {
		return nil, err
	}
	if !c.s.feature().certificate {
		return nil, notFound("")
	}
	return p, c.demand(func(id int64) int { return v.projectLevel(p, id) }, Maintainer)
}

func (c clustersAPI) cluster(p *Project) (int, error) {
	id, err := strconv.ParseInt(c.vars["cluster_id"], 10, 64)
	if err != nil {
		return 0, badParameter("cluster_id is invalid")
	}
	i := slices.IndexFunc(p.Clusters, func(x Cluster) bool { return x.ID == id })
	if i < 0 {
		return 0, message(http.StatusNotFound, "404 Not found")
	}
	return i, nil
}

func (c clustersAPI) showCluster(v *View, p *Project, cl Cluster, project bool) map[string]any {
	out := map[string]any{
		"id": cl.ID, "name": cl.Name, "created_at": apiTime(cl.CreatedAt), "domain": nullable(cl.Domain), "managed": cl.Managed, "enabled": cl.Enabled,
		"provider_type": "user", "platform_type": "kubernetes", "environment_scope": cl.EnvironmentScope, "cluster_type": "project_type",
		"namespace_per_environment": cl.PerEnvironment, "user": nil, "management_project": nil,
		"platform_kubernetes": map[string]any{
			"api_url": cl.APIURL, "namespace": nullable(cl.Namespace), "authorization_type": cl.Auth, "ca_cert": nullable(cl.CACert),
		},
	}
	if u := v.User(cl.UserID); u != nil {
		out["user"] = basicUser(c.s.url, u)
	}
	if project {
		out["project"] = c.simpleProject(v, p)
	}
	return out
}

func (c clustersAPI) listClusters() error {
	out := []map[string]any{}
	err := c.view(func(v *View) error {
		p, err := c.clusterProject(v)
		if err != nil {
			return err
		}
		page, err := paginate(c.call, p.Clusters, "")
		for _, cl := range page {
			out = append(out, c.showCluster(v, p, cl, false))
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, out)
}

func (c clustersAPI) getCluster() error {
	var body map[string]any
	err := c.view(func(v *View) error {
		p, err := c.clusterProject(v)
		if err != nil {
			return err
		}
		i, err := c.cluster(p)
		if err == nil {
			body = c.showCluster(v, p, p.Clusters[i], true)
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, body)
}

const platformPrefix = "platform_kubernetes_attributes"

// fillCluster reads the attributes that are given.
func (c clustersAPI) fillCluster(cl *Cluster) error {
	for key, into := range map[string]*string{
		"name": &cl.Name, "domain": &cl.Domain, "environment_scope": &cl.EnvironmentScope,
		platformPrefix + "[api_url]": &cl.APIURL, platformPrefix + "[token]": &cl.Token,
		platformPrefix + "[ca_cert]": &cl.CACert, platformPrefix + "[namespace]": &cl.Namespace,
	} {
		if t, ok := c.text(key); ok {
			*into = t
		}
	}
	for key, into := range map[string]*bool{"enabled": &cl.Enabled, "managed": &cl.Managed, "namespace_per_environment": &cl.PerEnvironment} {
		value, given, err := c.flag(key)
		if err != nil {
			return err
		}
		if given {
			*into = value
		}
	}
	cl.CACert, cl.Token, cl.Namespace = strings.TrimSpace(cl.CACert), strings.TrimSpace(cl.Token), strings.ToLower(cl.Namespace)
	return nil
}

func (c clustersAPI) createCluster() error {
	var id int64
	if err := c.view(func(v *View) error {
		p, err := c.clusterProject(v)
		if err == nil {
			id = p.ID
		}
		return err
	}); err != nil {
		return err
	}
	if err := c.require("name", platformPrefix+"[api_url]", platformPrefix+"[token]"); err != nil {
		return err
	}
	cl := Cluster{Enabled: true, Managed: true, PerEnvironment: true, EnvironmentScope: "*", UserID: c.user.ID}
	if err := c.fillCluster(&cl); err != nil {
		return err
	}
	if cl.APIURL == "" {
		return badParameter(platformPrefix + "[api_url] is empty")
	}
	var err error
	if cl.Auth, err = c.oneOf(platformPrefix+"[authorization_type]", "rbac", "unknown_authorization", "rbac", "abac"); err != nil {
		return err
	}
	return c.putCluster(http.StatusCreated, id, func(ch *changes, p *Project) (Cluster, error) {
		if err := cl.check(p, c.s.feature().local); err != nil {
			return cl, err
		}
		cl.ID, cl.CreatedAt = take(&ch.w.nextCluster, 0), ch.w.created(ch.w.now())
		p.Clusters = append(p.Clusters, cl)
		return cl, nil
	})
}

func (c clustersAPI) updateCluster() error {
	var id int64
	if err := c.view(func(v *View) error {
		p, err := c.clusterProject(v)
		if err == nil {
			id = p.ID
			_, err = c.cluster(p)
		}
		return err
	}); err != nil {
		return err
	}
	return c.putCluster(http.StatusOK, id, func(_ *changes, p *Project) (Cluster, error) {
		i, err := c.cluster(p)
		if err != nil {
			return Cluster{}, err
		}
		old, cl := p.Clusters[i], p.Clusters[i]
		if err := c.fillCluster(&cl); err != nil {
			return cl, err
		}
		if cl.Managed && (cl.APIURL != old.APIURL || cl.Token != old.Token || cl.CACert != old.CACert) {
			return cl, invalid("platform_kubernetes.base", "Cannot modify managed Kubernetes cluster")
		}
		if err := cl.check(p, c.s.feature().local); err != nil {
			return cl, err
		}
		p.Clusters[i] = cl
		return cl, nil
	})
}

func (c clustersAPI) putCluster(status int, project int64, f func(*changes, *Project) (Cluster, error)) error {
	var body map[string]any
	err := c.s.world.change(func(ch *changes) error {
		p := ch.Project(project)
		if p == nil {
			return notFound("Project")
		}
		cl, err := f(ch, p)
		if err == nil {
			body = c.showCluster(&ch.View, p, cl, true)
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.answer(status, body)
}

func (c clustersAPI) deleteCluster() error {
	var id int64
	if err := c.view(func(v *View) error {
		p, err := c.clusterProject(v)
		if err == nil {
			id = p.ID
		}
		return err
	}); err != nil {
		return err
	}
	err := c.s.world.change(func(ch *changes) error {
		p := ch.Project(id)
		if p == nil {
			return notFound("Project")
		}
		i, err := c.cluster(p)
		if err == nil {
			p.Clusters = slices.Delete(p.Clusters, i, i+1)
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusNoContent, nil)
}
