package gitlabsim

import (
	"maps"
	"net/http"
	"slices"
	"strconv"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabversion"
)

// hooksAPI is the administrator's API of system hooks.
type hooksAPI struct{ *call }

func mountHooks(at routes[hooksAPI]) {
	at.get("/hooks", hooksAPI.listHooks)
	at.post("/hooks", hooksAPI.createHook)
	at.get("/hooks/:hook_id", hooksAPI.getHook)
	at.put("/hooks/:hook_id", hooksAPI.editHook)
	at.post("/hooks/:hook_id", hooksAPI.testHook)
	at.post("/hooks/:hook_id/test", hooksAPI.testHook)
	at.del("/hooks/:hook_id", hooksAPI.deleteHook)
}

// showHook is a hook as this version shows it.
func (c hooksAPI) showHook(hook *systemHook) map[string]any {
	out := map[string]any{
		"id": hook.ID, "url": hook.URL, "created_at": apiTime(hook.CreatedAt),
		"push_events": hook.Push, "tag_push_events": hook.TagPush, "merge_requests_events": hook.MergeRequests,
		"repository_update_events": hook.RepositoryUpdate, "enable_ssl_verification": hook.SSLVerification,
		"push_events_branch_filter": nil, "branch_filter_strategy": "wildcard", "custom_webhook_template": nil, "custom_headers": []any{},
		"alert_status": "executable", "disabled_until": nil, "url_variables": []any{},
		"token_present": hook.Token != "",
	}
	if c.s.Has(gitlabversion.HookName) {
		out["name"], out["description"] = hook.Name, hook.Description
	}
	if c.s.Has(gitlabversion.HookSigning) {
		out["signing_token_present"] = hook.SigningToken != ""
	}
	return out
}

func (hook *systemHook) fill(c *call) error {
	set := func(key string, into *string) {
		if v, ok := c.text(key); ok {
			*into = v
		}
	}
	set("url", &hook.URL)
	if c.s.Has(gitlabversion.HookName) {
		set("name", &hook.Name)
		set("description", &hook.Description)
	}
	if c.s.Has(gitlabversion.HookSigning) {
		set("signing_token", &hook.SigningToken)
	}
	hook.Token, _ = c.text("token") // an edit without token deletes the secret (https://docs.gitlab.com/api/system_hooks/)
	var err error
	flag := func(key string, into *bool) {
		v, ok, e := c.flag(key)
		if e != nil {
			err = e
		}
		if ok {
			*into = v
		}
	}
	flag("push_events", &hook.Push)
	flag("tag_push_events", &hook.TagPush)
	flag("merge_requests_events", &hook.MergeRequests)
	flag("repository_update_events", &hook.RepositoryUpdate)
	flag("enable_ssl_verification", &hook.SSLVerification)
	if err != nil {
		return err
	}
	return hook.check()
}

func (c hooksAPI) hook() (*systemHook, error) {
	if err := c.requireAdmin(); err != nil {
		return nil, err
	}
	id, err := strconv.ParseInt(c.vars["hook_id"], 10, 64)
	if err != nil {
		return nil, badParameter("id is invalid")
	}
	c.s.hooks.mu.Lock()
	defer c.s.hooks.mu.Unlock()
	hook, ok := c.s.hooks.hooks[id]
	if !ok {
		return nil, message(http.StatusNotFound, "404 Not found")
	}
	found := *hook
	return &found, nil
}

func (c hooksAPI) listHooks() error {
	if err := c.requireAdmin(); err != nil {
		return err
	}
	c.s.hooks.mu.Lock()
	items := []map[string]any{}
	for _, id := range slices.Sorted(maps.Keys(c.s.hooks.hooks)) {
		items = append(items, c.showHook(c.s.hooks.hooks[id]))
	}
	c.s.hooks.mu.Unlock()
	page, err := paginate(c.call, items, "")
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, page)
}

func (c hooksAPI) getHook() error {
	hook, err := c.hook()
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, c.showHook(hook))
}

func (c hooksAPI) createHook() error {
	if err := c.requireAdmin(); err != nil {
		return err
	}
	if err := c.require("url"); err != nil {
		return err
	}
	hook := systemHook{SSLVerification: true, RepositoryUpdate: true}
	if err := hook.fill(c.call); err != nil {
		return err
	}
	id := c.s.hooks.add(hook)
	c.s.hooks.mu.Lock()
	body := c.showHook(c.s.hooks.hooks[id])
	c.s.hooks.mu.Unlock()
	return c.answer(http.StatusCreated, body)
}

func (c hooksAPI) editHook() error {
	hook, err := c.hook()
	if err != nil {
		return err
	}
	if err := hook.fill(c.call); err != nil {
		return err
	}
	c.s.hooks.mu.Lock()
	c.s.hooks.hooks[hook.ID] = hook
	c.s.hooks.mu.Unlock()
	return c.answer(http.StatusOK, c.showHook(hook))
}

func (c hooksAPI) deleteHook() error {
	hook, err := c.hook()
	if err != nil {
		return err
	}
	c.s.hooks.mu.Lock()
	delete(c.s.hooks.hooks, hook.ID)
	c.s.hooks.mu.Unlock()
	return c.answer(http.StatusNoContent, nil)
}

// testHook sends GitLab's sample event now and answers with it.
func (c hooksAPI) testHook() error {
	hook, err := c.hook()
	if err != nil {
		return err
	}
	payload := map[string]any{
		"event_name": "project_create", "name": "Ruby", "path": "ruby", "project_id": 1,
		"owner_name": "Someone", "owner_email": "example@gitlabhq.com",
	}
	h := c.s.hooks
	h.mu.Lock()
	h.begin()
	h.mu.Unlock()
	defer h.end()
	_, _ = h.post(*hook, "System Hook", payload, newUUID(), newUUID())
	return c.answer(http.StatusCreated, payload)
}
