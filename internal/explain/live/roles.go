package live

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/clusterroles"
)

// WithRoles returns the View with what is known of the ClusterRoles.
func WithRoles(v authz.View, roles clusterroles.Roles) authz.View {
	gone := map[string]bool{}
	for name, role := range roles {
		if role.Exists.Verdict == clusterroles.No {
			gone[name] = true
		}
	}
	return v.WithRules(RulesOf(roles)).WithoutRoles(gone)
}

// RulesOf returns the rules of the ClusterRoles that could be read.
func RulesOf(roles clusterroles.Roles) map[string][]authz.Rule {
	out := make(map[string][]authz.Rule, len(roles))
	for name, role := range roles {
		if role.Exists.Verdict == clusterroles.No || (role.Exists.Verdict == clusterroles.Unknown && role.Rules == nil) {
			continue
		}
		out[name] = authzRules(role.Rules)
	}
	return out
}

// authzRules returns rules in the form of authz.
func authzRules(list []rbacv1.PolicyRule) []authz.Rule {
	rules := make([]authz.Rule, 0, len(list))
	for i := range list {
		r := &list[i]
		rules = append(rules, authz.Rule{Verbs: r.Verbs, Groups: r.APIGroups, Resources: r.Resources, Names: r.ResourceNames})
	}
	return rules
}
