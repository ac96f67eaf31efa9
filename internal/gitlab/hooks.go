package gitlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	gl "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// Event is what a system hook says: only what to read again, never what the new state is. Hooks come late, twice
// or in the wrong order, and don't tell levels as numbers nor expiry.
type Event struct {
	Name    string
	Changed []authz.SourceID
	Deleted bool // it says that what it names was deleted: see Reader.Deleted
	Ignored bool // it is not about rights, or of a kind we don't know
}

// ParseSystemHook reads the body of a system hook (source: GitLab's documentation of system hooks). An event of an
// unknown name is ignored, because GitLab adds events; a body that is no system hook is an error.
func ParseSystemHook(body []byte) (Event, error) {
	var name struct {
		EventName  string `json:"event_name"`
		ObjectKind string `json:"object_kind"`
	}
	var h struct { // only read for events we know: in others these keys may hold anything
		UserID    int64 `json:"user_id"`
		GroupID   int64 `json:"group_id"`
		ProjectID int64 `json:"project_id"`
	}
	if err := json.Unmarshal(body, &name); err != nil {
		return Event{}, errors.New("reading a system hook: the body is not a JSON object with event_name")
	}
	e := Event{Name: name.EventName}
	if e.Name == "" {
		e.Name = name.ObjectKind
	}
	if e.Name == "" {
		return Event{}, errors.New("reading a system hook: neither event_name nor object_kind in it")
	}
	e.Name = shorten(e.Name)
	kind := authz.SourceKind("")
	switch e.Name {
	case "user_add_to_group", "user_update_for_group", "user_remove_from_group", "group_create", "group_destroy", "group_rename":
		kind = authz.GroupSource
	case "user_add_to_team", "user_update_for_team", "user_remove_from_team",
		"project_create", "project_destroy", "project_rename", "project_transfer", "project_update":
		kind = authz.ProjectSource
	case "user_create", "user_destroy", "user_rename", "user_failed_login":
		kind = authz.UserSource
	default:
		e.Ignored = true
		return e, nil
	}
	if err := json.Unmarshal(body, &h); err != nil {
		return Event{}, fmt.Errorf("reading system hook %q: its ids are not numbers", e.Name)
	}
	id := map[authz.SourceKind]int64{authz.GroupSource: h.GroupID, authz.ProjectSource: h.ProjectID, authz.UserSource: h.UserID}[kind]
	if id <= 0 {
		return Event{}, fmt.Errorf("reading system hook %q: it names no %s id", e.Name, kind)
	}
	e.Changed = []authz.SourceID{{Kind: kind, ID: id}}
	e.Deleted = strings.HasSuffix(e.Name, "_destroy")
	return e, nil
}

// HookRegistrar installs our system hook in GitLab, with an administrator's token of scope api.
type HookRegistrar struct{ api *api }

// NewHookRegistrar returns a HookRegistrar. It does no request.
func NewHookRegistrar(o Options) (*HookRegistrar, error) {
	a, err := newAPI(o)
	if err != nil {
		return nil, err
	}
	return &HookRegistrar{api: a}, nil
}

// SystemHook is one that looks like an integrator's.
type SystemHook struct {
	ID      int64
	URL     string // without credentials
	Cluster string // id of the cluster that it is for, "" if its name does not tell
	Other   bool   // it is another cluster's by the Claim
}

// OtherHookError says that the hook of this URL belongs to another cluster. Nothing was written.
type OtherHookError struct{ Hook SystemHook }

func (e *OtherHookError) Error() string {
	return fmt.Sprintf("system hook %d, which goes to %s, belongs to another cluster (id %q): give this cluster's listeners.hooks a URL of its own, or, if"+
		" that cluster is no more, add its id to cluster.replaces", e.Hook.ID, e.Hook.URL, shorten(e.Hook.Cluster))
}

type restHook struct {
	ID   int64  `json:"id"`
	URL  string `json:"url"`
	Name string `json:"name"`
}

func (h restHook) id() (int64, error) { return positive(h.ID) }

const (
	hookName = "gl-k8s-integrator" // in GitLab, on the hooks that Register makes, followed by the cluster
	hookPath = "/hooks/gitlab"     // of hooks without a name: an older GitLab drops it
)

// hook makes of a hook what can be told of it; false if nothing says that an integrator made it.
func (c Claim) hook(h restHook) (SystemHook, bool) {
	u, err := url.Parse(h.URL)
	if err != nil {
		return SystemHook{}, false
	}
	rest, named := strings.CutPrefix(h.Name, hookName)
	cluster, hasCluster := strings.CutPrefix(rest, ": "+clusterWord)
	named = named && (rest == "" || hasCluster)
	u.User = nil
	return SystemHook{ID: h.ID, URL: u.String(), Cluster: cluster, Other: cluster != "" && !c.names(cluster)}, named || u.Path == hookPath
}

// Register makes GitLab send its system hooks to hookURL with the secret, and reports whether the hook is new. An
// existing hook of that URL gets the secret again: an edit without one would delete it. If it is another cluster's by the
// claim, that is an *OtherHookError.
func (r *HookRegistrar) Register(ctx context.Context, hookURL, secret string, verifyTLS bool, claim Claim) (created bool, err error) {
	hooks, err := r.list(ctx)
	if err != nil {
		return false, err
	}
	no, name := false, hookName+": "+clusterWord+claim.Cluster
	for _, h := range hooks {
		if h.URL != hookURL {
			continue
		}
		if known, _ := claim.hook(h); known.Other {
			return false, &OtherHookError{known}
		}
		_, resp, err := r.api.client.SystemHooks.EditHook(h.ID, &gl.EditHookOptions{
			URL: &hookURL, Name: &name, Token: &secret, PushEvents: &no, TagPushEvents: &no,
			MergeRequestsEvents: &no, RepositoryUpdateEvents: &no, EnableSSLVerification: &verifyTLS,
		}, gl.WithContext(ctx))
		if err != nil {
			return false, r.explain("updating the system hook", secret, resp, err)
		}
		return false, nil
	}
	_, resp, err := r.api.client.SystemHooks.AddHook(&gl.AddHookOptions{
		URL: &hookURL, Name: &name, Token: &secret, PushEvents: &no, TagPushEvents: &no,
		MergeRequestsEvents: &no, RepositoryUpdateEvents: &no, EnableSSLVerification: &verifyTLS,
	}, gl.WithContext(ctx))
	if err != nil {
		return false, r.explain("adding the system hook", secret, resp, err)
	}
	return true, nil
}

// Others returns the hooks that integrators made, as far as can be told by name and path, beside the one of hookURL. They may
// be another cluster's.
func (r *HookRegistrar) Others(ctx context.Context, hookURL string, claim Claim) ([]SystemHook, error) {
	hooks, err := r.list(ctx)
	if err != nil {
		return nil, err
	}
	var out []SystemHook
	registered := false
	for _, h := range hooks {
		if h.URL == hookURL && !registered { // that is the one that Register sets again
			registered = true
		} else if other, ok := claim.hook(h); ok {
			out = append(out, other)
		}
	}
	return out, nil
}

// Remove removes a hook.
func (r *HookRegistrar) Remove(ctx context.Context, id int64) error {
	resp, err := r.api.client.SystemHooks.DeleteHook(id, gl.WithContext(ctx))
	if err != nil {
		return r.explain(fmt.Sprintf("removing system hook %d", id), "", resp, err)
	}
	return nil
}

// Test has GitLab send its sample event to a hook. That it was sent is no proof that it arrived. Source:
// https://docs.gitlab.com/api/system_hooks/#test-system-hook.
func (r *HookRegistrar) Test(ctx context.Context, id int64) error {
	_, resp, err := r.api.client.SystemHooks.TestHook(id, gl.WithContext(ctx))
	if err != nil {
		return r.explain(fmt.Sprintf("testing system hook %d", id), "", resp, err)
	}
	return nil
}

func (r *HookRegistrar) list(ctx context.Context) ([]restHook, error) {
	hooks, err := offset[restHook](ctx, r.api, "hooks", url.Values{}) // client-go's list is its first page
	if err != nil {
		return nil, r.explain("listing system hooks", "", nil, err)
	}
	return hooks, nil
}

func (r *HookRegistrar) explain(doing, secret string, resp *gl.Response, err error) error {
	var e *callError
	if !errors.As(err, &e) && !errors.As(r.api.explain(doing, resp, err), &e) {
		return errors.New(doing + ": failed")
	}
	out := *e
	if len(secret) >= 4 {
		out.detail = strings.ReplaceAll(out.detail, secret, "[secret]")
	}
	switch out.status {
	case http.StatusForbidden:
		out.kind = fmt.Errorf("%w; system hooks need an administrator's token with the scope api", ErrForbidden)
	case http.StatusUnprocessableEntity, http.StatusBadRequest:
		out.kind = errors.New(`GitLab refused the URL: allow "requests to the local network from system hooks" in its admin settings (Network → Outbound requests) when it is a local address`)
	}
	return &out
}
