package app

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/sarwebhook"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/explain/live"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// explainFindings returns what an administrator should know of the explaining webhook. How many processes answer under the
// address that kube-apiserver has, none of them can see: the configuration says it.
func explainFindings(e config.Explain) []authz.Finding {
	if e.Disabled || e.Replicas > 1 {
		return nil
	}
	return []authz.Finding{{
		Code: "explain_single", Text: "one integrator alone explains refusals: while it is away or restarts, kube-apiserver answers HTTP 500 instead of 403 " +
			"to whatever is not allowed; run two and set authz.explain.replicas: 2, or leave the webhook out and set authz.explain.disabled",
	}}
}

// explainHandler is the SubjectAccessReview webhook; there is nothing if refusals are not to be explained.
func explainHandler(cfg *config.Config, view func() (authz.View, bool), log *slog.Logger) http.Handler {
	if cfg.Authz.Explain.Disabled {
		return http.NotFoundHandler()
	}
	return sarwebhook.Handler(view, cfg.Authz.LoginHint, time.Now, log)
}

// view returns what explanations are made from; false until the first round has read GitLab.
func view(state func() *syncer.State, roles *cluster.RoleReader) func() (authz.View, bool) {
	return func() (authz.View, bool) {
		st := state()
		if st == nil || st.View.Snapshot == nil {
			return authz.View{}, false
		}
		return live.WithRoles(st.View, roles.Roles()), true
	}
}
