package migrate

import (
	"slices"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Taken returns what of a plan must not be in it: what it deletes, what it takes from somebody to whom GitLab gives it, and what it
// takes that the plan without the entries, before, does not take. It is empty for every plan that a migration may make.
func Taken(before, after []rbacsync.Change, policy authz.Policy, s *authz.Snapshot, now time.Time) (out []string) {
	rights := given(policy, s, policy.Sources(s), now)
	for _, c := range after {
		if c.Action == rbacsync.Delete || takes(c) && (!contains(before, c) || gives(rights, c)) {
			out = append(out, c.String())
		}
	}
	return out
}

// takes reports whether somebody loses something by a change, also if they have the same elsewhere.
func takes(c rbacsync.Change) bool {
	_, lost := c.Subjects()
	return c.Revokes || c.Action == rbacsync.Replace || len(lost) > 0
}

func contains(list []rbacsync.Change, c rbacsync.Change) bool {
	return slices.ContainsFunc(list, func(x rbacsync.Change) bool {
		return x.Action == c.Action && x.Key == c.Key && x.String() == c.String()
	})
}

// gives reports whether GitLab gives the role of a binding to somebody who is taken out of it.
func gives(rights map[rbacsync.Membership][]string, c rbacsync.Change) bool {
	if c.Old == nil || c.Old.Binding == nil {
		return false
	}
	for _, u := range c.Old.Binding.Users {
		stays := c.New != nil && c.New.Binding != nil && c.New.Binding.Role == c.Old.Binding.Role && slices.Contains(c.New.Binding.Users, u)
		if !stays && slices.Contains(rights[rbacsync.Membership{Source: c.Source, User: u}], c.Old.Binding.Role) {
			return true
		}
	}
	return false
}
