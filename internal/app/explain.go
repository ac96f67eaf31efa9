package app

import (
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
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
