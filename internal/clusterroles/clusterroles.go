// Package clusterroles looks up the ClusterRoles that the configuration names: whether they exist, what they allow, and
// whether this program may bind them. It asks by name and lists nothing, so a right to get these names is all it needs.
package clusterroles

import (
	rbacv1 "k8s.io/api/rbac/v1"
)

// Verdict is the answer to a question that may have none.
type Verdict uint8

// The verdicts. The zero one is Unknown: it was not asked, or could not be.
const (
	Unknown Verdict = iota
	Yes
	No
)

// Answer is a Verdict with its reason, which is empty for Yes.
type Answer struct {
	Verdict Verdict
	Reason  string
}

// Role is what is known of one ClusterRole.
type Role struct {
	Exists Answer
	// Bindable says whether whoever asked may make RoleBindings to it in every namespace.
	Bindable Answer
	// Rules are those it had when it was last read. They stay while it can't be asked for; nil: never read, or gone.
	Rules []rbacv1.PolicyRule
}

// Roles are ClusterRoles by name. They are not changed once they were returned.
type Roles map[string]Role
