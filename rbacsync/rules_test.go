package rbacsync

import (
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/clusterroles"
)

// TestRulesThatAreNotAsShipped: a ClusterRole of ours with other rules, more or fewer, is a finding, as is one of others
// without any; what administrators put into theirs is not judged.
func TestRulesThatAreNotAsShipped(t *testing.T) {
	t.Parallel()
	rule := func(verbs ...string) []rbacv1.PolicyRule {
		return []rbacv1.PolicyRule{{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: verbs}}
	}
	shipped := map[string][]rbacv1.PolicyRule{"ours": rule("get", "list")}
	yes := clusterroles.Answer{Verdict: clusterroles.Yes}
	for _, c := range []struct {
		name, role string
		exists     clusterroles.Answer
		rules      []rbacv1.PolicyRule
		want       string
	}{
		{"as shipped", "ours", yes, rule("get", "list"), ""},
		{"more", "ours", yes, rule("*"), "changed the rules"},
		{"fewer", "ours", yes, rule("get"), "changed the rules"},
		{"none", "ours", yes, nil, "changed the rules"},
		{"gone: roleFindings says it", "ours", clusterroles.Answer{Verdict: clusterroles.No}, nil, ""},
		{"not known", "ours", clusterroles.Answer{}, nil, ""},
		{"of others", "view", yes, rule("watch"), ""},
		{"of others without rules", "view", yes, nil, "has no rules"},
	} {
		var got string
		for _, f := range RuleFindings(clusterroles.Roles{c.role: {Exists: c.exists, Rules: c.rules}}, shipped) {
			got += f.Code + " " + f.Text
		}
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
