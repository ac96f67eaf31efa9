package gitlabsim

import (
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/gorilla/mux"
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

func (c *call) requireAdmin() error {
	if c.user == nil {
		return message(http.StatusUnauthorized, "401 Unauthorized")
	}
	if !c.user.Admin {
		return message(http.StatusForbidden, "403 Forbidden")
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

// projectID returns the id of the project in the path if the caller has at least this role.
func (c *call) projectID(level int) (id int64, err error) {
	err = c.view(func(v *View) error {
		p, err := c.projectAtLeast(v, level)
		if err == nil {
			id = p.ID
		}
		return err
	})
	return id, err
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
