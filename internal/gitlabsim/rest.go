package gitlabsim

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabversion"
)

// call is one request of the REST API.
type call struct {
	s      *Server
	w      http.ResponseWriter
	r      *http.Request
	kind   string
	user   *User // nil = anonymous
	scopes []string
	vars   map[string]string // path segments, unescaped
	params map[string]any    // query, form and JSON body; nested keys as a[b]
	query  url.Values
}

func (s *Server) mountREST(r *mux.Router) {
	handle := func(method, path string, f func(*call) error) {
		s.mount(r, method, "/api/v4"+path, path, s.rest(method+" "+path, f))
	}
	get := func(path string, f func(*call) error) { handle(http.MethodGet, path, f) }
	post := func(path string, f func(*call) error) { handle(http.MethodPost, path, f) }
	put := func(path string, f func(*call) error) { handle(http.MethodPut, path, f) }
	del := func(path string, f func(*call) error) { handle(http.MethodDelete, path, f) }

	get("/version", (*call).version)
	get("/metadata", (*call).metadata)
	get("/user", (*call).currentUser)
	get("/job", (*call).currentJob)
	get("/personal_access_tokens/self", (*call).currentToken)
	get("/users", (*call).listUsers)
	get("/users/:user_id", (*call).getUser)
	get("/users/:user_id/memberships", (*call).userMemberships)
	get("/users/:user_id/projects", (*call).userProjects)
	for action, state := range map[string]string{
		"block": StateBlocked, "unblock": StateActive, "ban": StateBanned,
		"unban": StateActive, "deactivate": StateDeactivated, "activate": StateActive,
	} {
		post("/users/:user_id/"+action, func(c *call) error { return c.setUserState(state) })
	}

	get("/groups", (*call).listGroups)
	get("/groups/:id", (*call).getGroup)
	get("/groups/:id/subgroups", (*call).listSubgroups)
	get("/groups/:id/descendant_groups", (*call).listDescendantGroups)
	get("/groups/:id/projects", (*call).listGroupProjects)
	get("/groups/:id/invited_groups", (*call).listInvitedGroups)
	get("/groups/:id/groups/shared", (*call).listGroupsSharedWith)
	post("/groups/:id/share", (*call).shareGroup)
	del("/groups/:id/share/:group_id", (*call).unshareGroup)

	get("/projects", (*call).listProjects)
	get("/projects/:id", (*call).getProject)
	get("/projects/:id/invited_groups", (*call).listInvitedGroups)
	post("/projects/:id/share", (*call).shareProject)
	del("/projects/:id/share/:group_id", (*call).unshareProject)
	get("/projects/:id/protected_branches", (*call).listProtectedBranches)
	get("/projects/:id/variables", (*call).listVariables)
	post("/projects/:id/variables", (*call).createVariable)
	get("/projects/:id/variables/:key", (*call).getVariable)
	put("/projects/:id/variables/:key", (*call).updateVariable)
	del("/projects/:id/variables/:key", (*call).deleteVariable)
	get("/projects/:id/environments", (*call).listEnvironments)
	post("/projects/:id/environments", (*call).createEnvironment)
	get("/projects/:id/environments/:environment_id", (*call).getEnvironment)
	del("/projects/:id/environments/:environment_id", (*call).deleteEnvironment)
	post("/projects/:id/environments/:environment_id/stop", (*call).stopEnvironment)
	get("/projects/:id/clusters", (*call).listClusters)
	get("/projects/:id/clusters/:cluster_id", (*call).getCluster)
	post("/projects/:id/clusters/user", (*call).createCluster)
	put("/projects/:id/clusters/:cluster_id", (*call).updateCluster)
	del("/projects/:id/clusters/:cluster_id", (*call).deleteCluster)
	get("/projects/:id/cluster_agents", (*call).listAgents)
	get("/projects/:id/cluster_agents/:agent_id", (*call).getAgent)
	if strings.HasSuffix(s.opts.Version, "-ee") {
		get("/license", (*call).license)
	}

	for kind, path := range map[SourceKind]string{KindGroup: "/groups/:id", KindProject: "/projects/:id"} {
		bind := func(f func(*call, SourceKind) error) func(*call) error {
			return func(c *call) error { return f(c, kind) }
		}
		get(path+"/members", bind((*call).listMembers))
		get(path+"/members/all", bind((*call).listAllMembers))
		get(path+"/members/all/:user_id", bind((*call).getInheritedMember))
		get(path+"/members/:user_id", bind((*call).getMember))
		post(path+"/members", bind((*call).addMember))
		put(path+"/members/:user_id", bind((*call).editMember))
		del(path+"/members/:user_id", bind((*call).removeMember))
	}

	get("/hooks", (*call).listHooks)
	post("/hooks", (*call).createHook)
	get("/hooks/:hook_id", (*call).getHook)
	put("/hooks/:hook_id", (*call).editHook)
	post("/hooks/:hook_id", (*call).testHook)
	post("/hooks/:hook_id/test", (*call).testHook)
	del("/hooks/:hook_id", (*call).deleteHook)
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

func (c *call) prepare() error {
	var err error
	if c.user, c.scopes, err = c.s.authenticate(c.r); err != nil {
		return err
	}
	if _, job := presented(c.r); job {
		// A job token opens few endpoints; of ours only this one.
		if c.kind != "GET /job" {
			return message(http.StatusUnauthorized, "401 Unauthorized")
		}
	} else if err := c.checkScope(); err != nil {
		return err
	}
	if err := c.s.limit(c.kind, c.user, c.r); err != nil {
		return err
	}
	for k, v := range mux.Vars(c.r) {
		if c.vars[k], err = url.PathUnescape(v); err != nil {
			return badParameter(k + " is invalid")
		}
	}
	return c.readParams()
}

// checkScope: api may do all; read_api may read; read_user may read users; any token may ask about itself.
func (c *call) checkScope() error {
	if c.user == nil || hasScope(c.scopes, "api") || strings.HasPrefix(c.kind, "GET /personal_access_tokens") {
		return nil
	}
	read := strings.HasPrefix(c.kind, "GET ")
	users := strings.HasPrefix(c.kind, "GET /user")
	switch {
	case read && hasScope(c.scopes, "read_api"), users && hasScope(c.scopes, "read_user"):
		return nil
	case users:
		return insufficientScope("api", "read_user", "read_api")
	case read:
		return insufficientScope("api", "read_api")
	}
	return insufficientScope("api")
}

func (c *call) readParams() error {
	c.params, c.query = map[string]any{}, c.r.URL.Query()
	for k, vs := range c.query {
		c.params[k] = vs[0]
		if before, ok := strings.CutSuffix(k, "[]"); ok {
			c.params[before] = vs
		}
	}
	media, _, _ := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	switch media {
	case "application/json":
		var body map[string]any
		d := json.NewDecoder(c.r.Body)
		d.UseNumber()
		if err := d.Decode(&body); err != nil {
			if err.Error() == "EOF" {
				return nil
			}
			return badParameter("message body does not match declared format")
		}
		c.flatten("", body)
	case "application/x-www-form-urlencoded", "multipart/form-data":
		if err := c.r.ParseMultipartForm(4 << 20); err != nil && !errors.Is(err, http.ErrNotMultipart) {
			return badParameter("message body does not match declared format")
		}
		for k, vs := range c.r.PostForm {
			c.params[k] = vs[0]
		}
	}
	return nil
}

func (c *call) flatten(prefix string, in map[string]any) {
	for k, v := range in {
		if prefix != "" {
			k = prefix + "[" + k + "]"
		}
		if m, ok := v.(map[string]any); ok {
			c.flatten(k, m)
			continue
		}
		c.params[k] = v
	}
}

// text returns a parameter; null counts as absent but for its presence in has.
func (c *call) text(key string) (string, bool) {
	switch v := c.params[key].(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}

func (c *call) has(key string) bool { _, ok := c.params[key]; return ok }

func (c *call) require(keys ...string) error {
	var absent []string
	for _, k := range keys {
		if !c.has(k) {
			absent = append(absent, k+" is missing")
		}
	}
	if len(absent) > 0 {
		return badParameter(strings.Join(absent, ", "))
	}
	return nil
}

// flag reads a Boolean as Grape does.
func (c *call) flag(key string) (value, given bool, err error) {
	t, ok := c.text(key)
	if !ok || t == "" {
		return false, false, nil
	}
	switch strings.ToLower(t) {
	case "true", "t", "1", "yes", "on":
		return true, true, nil
	case "false", "f", "0", "no", "off":
		return false, true, nil
	}
	return false, false, badParameter(key + " is invalid")
}

func (c *call) number(key string) (value int64, given bool, err error) {
	t, ok := c.text(key)
	if !ok {
		return 0, false, nil
	}
	n, err := strconv.ParseInt(t, 10, 64)
	if err != nil {
		return 0, false, badParameter(key + " is invalid")
	}
	return n, true, nil
}

// oneOf reads a parameter with a list of allowed values.
func (c *call) oneOf(key, standard string, values ...string) (string, error) {
	t, ok := c.text(key)
	if !ok || t == "" {
		return standard, nil
	}
	if !slices.Contains(values, t) {
		return "", badParameter(key + " does not have a valid value")
	}
	return t, nil
}

func (c *call) requireUser() error {
	if c.user == nil {
		return message(http.StatusUnauthorized, "401 Unauthorized")
	}
	return nil
}

func (c *call) admin() bool { return c.user != nil && c.user.Admin }

// view runs f in a consistent view and returns its error.
func (c *call) view(f func(v *View) error) (err error) {
	c.s.world.View(func(v *View) { err = f(v) })
	return err
}

func (c *call) answer(status int, body any) error {
	if status == http.StatusNoContent {
		c.w.WriteHeader(status)
		return nil
	}
	writeJSON(c.w, status, body)
	return nil
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"message":"500 Internal Server Error"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b)
}

// apiTime is the form of times in the REST API.
func apiTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func nullableID(id int64) any {
	if id == 0 {
		return nil
	}
	return id
}

const (
	maxPerPage = 100
	// maxOffset is offset_pagination_limit; GitLab applies it where keyset paging exists (facts 1.1).
	maxOffset = 50000
	// countLimit: beyond it GitLab leaves out totals and rel="last".
	countLimit = 10000
)

func (c *call) perPage() (int, error) {
	n, given, err := c.number("per_page")
	if err != nil {
		return 0, err
	}
	if !given {
		return 20, nil
	}
	if n < 1 {
		return 0, badParameter("per_page does not have a valid value")
	}
	return int(min(n, maxPerPage)), nil
}

// paginate cuts one page by offset and sets GitLab's headers. limited names the type of objects if the offset
// limit applies.
func paginate[T any](c *call, items []T, limited string) ([]T, error) {
	per, err := c.perPage()
	if err != nil {
		return nil, err
	}
	n, given, err := c.number("page")
	if err != nil {
		return nil, err
	}
	if !given {
		n = 1
	}
	if n < 1 || n > math.MaxInt32 {
		return nil, badParameter("page does not have a valid value")
	}
	page := int(n)
	if limited != "" && (page-1)*per >= maxOffset {
		return nil, &Error{Status: http.StatusMethodNotAllowed, Body: map[string]any{"error": fmt.Sprintf(
			"Offset pagination has a maximum allowed offset of %d for requests that return objects of type %s. Remaining records can be retrieved using keyset pagination.", maxOffset, limited)}}
	}
	total := len(items)
	pages := max(1, (total+per-1)/per)
	from := min((page-1)*per, total)
	to := min(from+per, total)
	h := c.w.Header()
	number := func(p int, ok bool) string {
		if !ok {
			return ""
		}
		return strconv.Itoa(p)
	}
	h.Set("X-Page", strconv.Itoa(page))
	h.Set("X-Per-Page", strconv.Itoa(per))
	h.Set("X-Next-Page", number(page+1, to < total))
	hasPrevious := page > 1 && page <= pages // kaminari: a page past the end has none
	h.Set("X-Prev-Page", number(page-1, hasPrevious))
	links := []string{}
	link := func(p int, rel string) {
		q := copyQuery(c.query)
		q.Set("page", strconv.Itoa(p))
		q.Set("per_page", strconv.Itoa(per))
		links = append(links, c.link(q, rel))
	}
	if hasPrevious {
		link(page-1, "prev")
	}
	if to < total {
		link(page+1, "next")
	}
	link(1, "first")
	if total <= countLimit {
		link(pages, "last")
		h.Set("X-Total", strconv.Itoa(total))
		h.Set("X-Total-Pages", strconv.Itoa(pages))
	}
	h.Set("Link", strings.Join(links, ", "))
	return items[from:to], nil
}

func (c *call) link(q url.Values, rel string) string {
	return "<" + c.s.url + c.r.URL.EscapedPath() + "?" + q.Encode() + `>; rel="` + rel + `"`
}

// copyQuery copies a query without credentials.
func copyQuery(q url.Values) url.Values {
	out := url.Values{}
	for k, vs := range q {
		if k != "private_token" {
			out[k] = slices.Clone(vs)
		}
	}
	return out
}

// keyset says whether the caller wants keyset paging.
func (c *call) keyset() bool { t, _ := c.text("pagination"); return t == "keyset" }

// noKeyset is GitLab's answer where keyset paging doesn't exist for the wanted order.
func noKeyset() *Error {
	return &Error{Status: http.StatusMethodNotAllowed, Body: map[string]any{"error": "Keyset pagination is not yet available for this type of request"}}
}

// nextPage sets the Link of a keyset page: next carries the parameter that starts the next page.
func (c *call) nextPage(key, value string, per int) {
	q := copyQuery(c.query)
	q.Set(key, value)
	q.Set("per_page", strconv.Itoa(per))
	c.w.Header().Set("Link", c.link(q, "next"))
}

// Who sees what.

func (v *View) sees(u *User, visibility string) bool {
	switch visibility {
	case Public:
		return true
	case Internal:
		return u != nil && !u.External
	}
	return false
}

// canReadGroup: members of the group, and members of something below it, see a private group.
func (v *View) canReadGroup(u *User, g *Group) bool {
	if u != nil && u.Admin || v.sees(u, g.Visibility) {
		return true
	}
	return u != nil && v.belongs(u.ID, g)
}

func (v *View) belongs(userID int64, g *Group) bool {
	if v.GroupLevel(g.ID, userID) > NoAccess {
		return true
	}
	for _, p := range v.ProjectsOf(g.ID) {
		if v.projectLevel(p, userID) > NoAccess {
			return true
		}
	}
	for _, sub := range v.Subgroups(g.ID) {
		if v.belongs(userID, sub) {
			return true
		}
	}
	return false
}

func (v *View) canReadProject(u *User, p *Project) bool {
	if u != nil && u.Admin || v.sees(u, p.Visibility) {
		return true
	}
	return u != nil && v.projectLevel(p, u.ID) >= Guest
}

// group finds the group of the path that the caller may see; what they may not see does not exist.
func (c *call) group(v *View) (*Group, error) {
	id := c.vars["id"]
	var g *Group
	if n, err := strconv.ParseInt(id, 10, 64); err == nil {
		g = v.Group(n)
	} else {
		g = v.GroupByPath(id)
	}
	if g == nil || !v.canReadGroup(c.user, g) {
		return nil, notFound("Group")
	}
	return g, nil
}

func (c *call) project(v *View) (*Project, error) {
	id := c.vars["id"]
	var p *Project
	if n, err := strconv.ParseInt(id, 10, 64); err == nil {
		p = v.Project(n)
	} else {
		p = v.ProjectByPath(id)
	}
	if p == nil || !v.canReadProject(c.user, p) {
		return nil, notFound("Project")
	}
	return p, nil
}

// groupAtLeast is group plus a demand on the caller's role.
func (c *call) groupAtLeast(v *View, level int) (*Group, error) {
	g, err := c.group(v)
	if err != nil {
		return nil, err
	}
	return g, c.demand(func(id int64) int { return v.GroupLevel(g.ID, id) }, level)
}

func (c *call) projectAtLeast(v *View, level int) (*Project, error) {
	p, err := c.project(v)
	if err != nil {
		return nil, err
	}
	return p, c.demand(func(id int64) int { return v.projectLevel(p, id) }, level)
}

func (c *call) demand(levelOf func(userID int64) int, level int) error {
	if err := c.requireUser(); err != nil {
		return err
	}
	if !c.user.Admin && levelOf(c.user.ID) < level {
		return message(http.StatusForbidden, "403 Forbidden")
	}
	return nil
}

// sourceOf is the group or project in a path, for limits that count per source.
func sourceOf(r *http.Request) string {
	path, _, _ := strings.Cut(r.URL.EscapedPath(), "/members/")
	return path
}

// Small endpoints.

func (c *call) version() error {
	if err := c.requireUser(); err != nil {
		return err
	}
	return c.answer(http.StatusOK, map[string]any{"version": c.s.opts.Version, "revision": "51a2bd6"})
}

func (c *call) metadata() error {
	if err := c.requireUser(); err != nil {
		return err
	}
	out := map[string]any{"version": c.s.opts.Version, "revision": "51a2bd6", "kas": c.s.kasMetadata()}
	if c.s.Has(gitlabversion.MetadataEnterprise) {
		out["enterprise"] = strings.HasSuffix(c.s.opts.Version, "-ee")
	}
	return c.answer(http.StatusOK, out)
}

func (c *call) currentToken() error {
	t, err := c.s.tokenOf(c.r)
	if err != nil {
		return err
	}
	if t == nil || t.app != "" {
		return message(http.StatusUnauthorized, "401 Unauthorized")
	}
	return c.answer(http.StatusOK, map[string]any{
		"id": t.id, "name": t.name, "revoked": false, "created_at": apiTime(t.created), "description": nil,
		"scopes": t.scopes, "user_id": t.userID, "last_used_at": apiTime(c.s.now()), "active": true, "expires_at": nil,
	})
}

func (c *call) currentJob() error {
	t, err := c.s.tokenOf(c.r)
	if err != nil {
		return err
	}
	if t == nil || t.job == nil {
		return message(http.StatusUnauthorized, "401 Unauthorized")
	}
	return c.answer(http.StatusOK, map[string]any{
		"id": t.job.JobID, "status": "running", "stage": "deploy", "name": "deploy", "ref": t.job.Ref,
		"tag": t.job.RefType == "tag", "user": basicUser(c.s.url, c.user), "created_at": apiTime(t.created),
		"pipeline": map[string]any{"id": t.job.PipelineID, "project_id": t.job.ProjectID, "ref": t.job.Ref, "sha": t.job.SHA, "status": "running", "source": t.job.PipelineSource},
	})
}
