package authz

import (
	"slices"
	"strings"
)

// Question is a refused request, as far as an explanation needs it.
type Question struct {
	Namespace   string // empty for cluster-wide requests
	Verb        string // empty: whether there is any right at all (View.Explain alone)
	Group       string // the API group, empty for the core one
	Resource    string // plural, lower case; empty for a non-resource request
	Subresource string
	Name        string // of the one object, empty for all
}

// Rule is a rule of a ClusterRole about resources. Rules about URLs are left out: a RoleBinding never gives what they
// allow.
type Rule struct{ Verbs, Groups, Resources, Names []string }

// Allows reports whether the rule allows the request, as RBAC decides it. Source: pkg/apis/rbac/v1/evaluation_helpers.go of
// Kubernetes, with which a test compares it.
func (r Rule) Allows(q Question) bool {
	return hasOrAll(r.Verbs, q.Verb) && hasOrAll(r.Groups, q.Group) && r.resource(q.Resource, q.Subresource) &&
		(len(r.Names) == 0 || slices.Contains(r.Names, q.Name))
}

func hasOrAll(list []string, s string) bool {
	return slices.Contains(list, "*") || slices.Contains(list, s)
}

func (r Rule) resource(name, sub string) bool {
	if sub == "" {
		return hasOrAll(r.Resources, name)
	}
	return hasOrAll(r.Resources, name+"/"+sub) || slices.Contains(r.Resources, "*/"+sub)
}

// what names the request for people: "get pods/log".
func (q Question) what() string {
	if q.Verb == "" && q.Resource == "" {
		return "any right"
	}
	resource := q.Resource
	if q.Subresource != "" {
		resource += "/" + q.Subresource
	}
	return clean(strings.TrimSpace(q.Verb + " " + resource))
}
