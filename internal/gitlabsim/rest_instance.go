package gitlabsim

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabversion"
)

// instanceAPI is about GitLab itself and about the token that is presented.
type instanceAPI struct{ *call }

func mountInstance(at routes[instanceAPI]) {
	at.get("/version", instanceAPI.version)
	at.get("/metadata", instanceAPI.metadata)
	at.get("/job", instanceAPI.currentJob)
	at.get("/personal_access_tokens/self", instanceAPI.currentToken)
	at.get("/applications", instanceAPI.applications)
	if strings.HasSuffix(at.s.opts.Version, "-ee") {
		at.get("/license", instanceAPI.license)
	}
}

func (c instanceAPI) version() error {
	if err := c.requireUser(); err != nil {
		return err
	}
	return c.answer(http.StatusOK, map[string]any{"version": c.s.opts.Version, "revision": "51a2bd6"})
}

func (c instanceAPI) metadata() error {
	if err := c.requireUser(); err != nil {
		return err
	}
	out := map[string]any{"version": c.s.opts.Version, "revision": "51a2bd6", "kas": c.s.kasMetadata()}
	if c.s.Has(gitlabversion.MetadataEnterprise) {
		out["enterprise"] = strings.HasSuffix(c.s.opts.Version, "-ee")
	}
	return c.answer(http.StatusOK, out)
}

// license is GET /license, which exists in the Enterprise Edition only; without a licence its body is null.
func (c instanceAPI) license() error {
	if err := c.requireUser(); err != nil {
		return err
	}
	if !c.admin() {
		return message(http.StatusForbidden, "403 Forbidden")
	}
	f := c.s.feature()
	if f.plan == "" {
		return c.answer(http.StatusOK, nil)
	}
	return c.answer(http.StatusOK, map[string]any{
		"id": 2, "plan": f.plan, "created_at": "2026-01-27T23:21:58.674Z", "starts_at": "2026-01-27", "expires_at": "2027-01-27",
		"historical_max": 300, "maximum_user_count": 300, "expired": f.expired, "overage": 0, "user_limit": 1000, "active_users": 300,
		"licensee": map[string]any{"Name": "John Doe1", "Email": "johndoe1@example.com", "Company": "Example"}, "add_ons": map[string]any{},
	})
}

func (c instanceAPI) currentToken() error {
	t, err := c.s.tokenOf(c.r)
	if err != nil {
		return err
	}
	if t == nil || t.app != "" {
		return message(http.StatusUnauthorized, "401 Unauthorized")
	}
	var ends any
	if !t.expires.IsZero() {
		ends = t.expires.UTC().Format(time.DateOnly)
	}
	return c.answer(http.StatusOK, map[string]any{
		"id": t.id, "name": t.name, "revoked": false, "created_at": apiTime(t.created), "description": nil,
		"scopes": t.scopes, "user_id": t.userID, "last_used_at": apiTime(c.s.now()), "active": true, "expires_at": ends,
	})
}

// applications is GET /applications: those of the whole GitLab, for administrators.
func (c instanceAPI) applications() error {
	if err := c.requireAdmin(); err != nil {
		return err
	}
	c.s.access.mu.Lock()
	out := []map[string]any{}
	for i, uid := range slices.Sorted(maps.Keys(c.s.apps)) {
		a := c.s.apps[uid]
		out = append(out, map[string]any{
			"id": i + 1, "application_id": uid, "application_name": a.Name, "callback_url": strings.Join(a.RedirectURIs, "\n"),
			"confidential": a.Confidential, "scopes": a.Scopes,
		})
	}
	c.s.access.mu.Unlock()
	page, err := paginate(c.call, out, "")
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, page)
}

func (c instanceAPI) currentJob() error {
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
