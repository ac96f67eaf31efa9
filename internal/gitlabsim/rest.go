package gitlabsim

import (
	"net/http"

	"github.com/gorilla/mux"
)

// routes mounts the endpoints of one area of the REST API; of makes the area's type of a request.
type routes[A any] struct {
	s  *Server
	r  *mux.Router
	of func(*call) A
}

func (t routes[A]) handle(method, path string, f func(A) error) {
	t.s.mount(t.r, method, "/api/v4"+path, path, t.s.rest(method+" "+path, func(c *call) error { return f(t.of(c)) }))
}

func (t routes[A]) get(path string, f func(A) error)  { t.handle(http.MethodGet, path, f) }
func (t routes[A]) post(path string, f func(A) error) { t.handle(http.MethodPost, path, f) }
func (t routes[A]) put(path string, f func(A) error)  { t.handle(http.MethodPut, path, f) }
func (t routes[A]) del(path string, f func(A) error)  { t.handle(http.MethodDelete, path, f) }

// mountREST mounts the areas of the REST API. Each file rest_*.go holds one: its endpoints and what they do.
func (s *Server) mountREST(r *mux.Router) {
	mountInstance(routes[instanceAPI]{s, r, func(c *call) instanceAPI { return instanceAPI{c} }})
	mountUsers(routes[usersAPI]{s, r, func(c *call) usersAPI { return usersAPI{projectLists{entities{c}}} }})
	mountGroups(routes[groupsAPI]{s, r, func(c *call) groupsAPI { return groupsAPI{projectLists{entities{c}}} }})
	mountSharing(routes[sharingAPI]{s, r, func(c *call) sharingAPI { return sharingAPI{entities{c}} }})
	mountProjects(routes[projectsAPI]{s, r, func(c *call) projectsAPI { return projectsAPI{projectLists{entities{c}}} }})
	mountVariables(routes[variablesAPI]{s, r, func(c *call) variablesAPI { return variablesAPI{c} }})
	mountEnvironments(routes[environmentsAPI]{s, r, func(c *call) environmentsAPI { return environmentsAPI{c} }})
	mountClusters(routes[clustersAPI]{s, r, func(c *call) clustersAPI { return clustersAPI{entities{c}} }})
	mountAgents(routes[agentsAPI]{s, r, func(c *call) agentsAPI { return agentsAPI{entities{c}} }})
	mountMembers(routes[membersAPI]{s, r, func(c *call) membersAPI { return membersAPI{entities{c}} }})
	mountHooks(routes[hooksAPI]{s, r, func(c *call) hooksAPI { return hooksAPI{c} }})
}

// rest wraps a handler with authentication, scope check, rate limit and parameters.
func (s *Server) rest(kind string, f func(*call) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{s: s, w: w, r: r, kind: kind, vars: map[string]string{}}
		err := c.prepare()
		if err == nil {
			err = f(c)
		}
		if err != nil {
			status, body := errorBody(err)
			writeJSON(w, status, body)
		}
	})
}
