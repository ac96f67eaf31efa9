package rbacsync

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/clusterroles"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// givable says whether bindings to a ClusterRole give what they should: it exists, and we may make them.
func givable(r clusterroles.Role) clusterroles.Verdict {
	switch {
	case r.Bindable.Verdict == clusterroles.No || r.Exists.Verdict == clusterroles.No:
		return clusterroles.No
	case r.Bindable.Verdict == clusterroles.Unknown || r.Exists.Verdict == clusterroles.Unknown:
		return clusterroles.Unknown
	}
	return clusterroles.Yes
}

// RoleFindings says which ClusterRoles can't be given, or may not, and what to do.
func RoleFindings(roles clusterroles.Roles) []authz.Finding {
	const where = "deploy/manifests/10-integrator-role.yaml"
	var out []authz.Finding
	for _, name := range slices.Sorted(maps.Keys(roles)) {
		var text string
		switch r := roles[name]; {
		case r.Exists.Verdict == clusterroles.No && name == kubename.CIClusterRole:
			text = fmt.Sprintf("CI jobs can't be given ClusterRole %q: %s. Apply deploy/manifests/20-gitlab-group-master.yaml", name, r.Exists.Reason)
		case r.Exists.Verdict == clusterroles.No:
			text = fmt.Sprintf("nobody can be given ClusterRole %q: %s. Correct its name in the configuration, or make it", name, r.Exists.Reason)
		case r.Bindable.Verdict == clusterroles.No:
			text = fmt.Sprintf("nobody can be given ClusterRole %q: %s. Correct its name in the configuration, or add it to the rule with the verb bind in %s and apply that",
				name, r.Bindable.Reason, where)
		case r.Exists.Verdict == clusterroles.Unknown && r.Bindable.Verdict == clusterroles.Yes:
			text = fmt.Sprintf("it is not known whether ClusterRole %q exists: %s. Apply %s, whose rule with the verb bind has the verb get too", name, r.Exists.Reason, where)
		case r.Bindable.Verdict == clusterroles.Unknown:
			text = fmt.Sprintf("it is not known whether ClusterRole %q can be given: %s", name, r.Bindable.Reason)
		default:
			continue
		}
		text += ". Until then nobody loses a right on account of it"
		if roles[name].Bindable.Verdict == clusterroles.No {
			text += ", but where GitLab takes it from one person, all lose it in that namespace: the binding can only be deleted"
		}
		out = append(out, authz.Finding{Code: "cluster_role", Text: text})
	}
	return out
}

// RuleFindings says which ClusterRoles that exist don't allow what they should: those of this program, which can't write
// them, other than they are shipped, and those of others nothing at all.
func RuleFindings(roles clusterroles.Roles, shipped map[string][]rbacv1.PolicyRule) []authz.Finding {
	var out []authz.Finding
	for _, name := range slices.Sorted(maps.Keys(roles)) {
		r := roles[name]
		want, ours := shipped[name]
		switch {
		case r.Exists.Verdict != clusterroles.Yes:
		case ours && !equality.Semantic.DeepEqual(r.Rules, want):
			out = append(out, authz.Finding{Code: "cluster_role", Text: fmt.Sprintf(
				"somebody changed the rules of ClusterRole %q: whoever is bound to it may do more or less than this program means. Apply deploy/manifests again, or if it is meant so, give it another name and bind that one", name)})
		case !ours && len(r.Rules) == 0:
			out = append(out, authz.Finding{Code: "cluster_role", Text: fmt.Sprintf(
				"ClusterRole %q has no rules: whoever is bound to it may do nothing. Put its rules back (edit and view are Kubernetes' own: restarting kube-apiserver makes them anew)", name)})
		}
	}
	return out
}

// withholder makes a Wanted out of another one, in which no right is taken for one that can't be given.
type withholder struct {
	roles     clusterroles.Roles
	base, all []string // the policy's, strongest first
	// before reports whether the policy of before gives a right on what GitLab says now; nil: that policy is not known.
	before func(Right) bool
	out    []Object
	kept   int
}

// Withhold leaves in the cluster what somebody would lose for a ClusterRole that can't be given, or might not, and asks
// for no binding to one that can't. It returns how many rights are left so. A right that is stronger than the one that
// can't be given goes all the same (docs/adr/0083).
func Withhold(have *Observed, want *Wanted, roles clusterroles.Roles, p authz.Policy, before func(Right) bool) (*Wanted, int) {
	h := &withholder{roles: roles, base: p.BaseRoles(), all: p.ClusterRoles(), before: before}
	fine := true
	for _, r := range roles {
		fine = fine && givable(r) == clusterroles.Yes
	}
	if fine || want.Hold != "" {
		return want, 0
	}
	byNamespace(have.Live, want.Objects, func(_ string, live []*Live, objects []Object) {
		if len(objects) == 0 || objects[0].Namespace == nil {
			h.out = append(h.out, objects...)
			return
		}
		var bindings []*Live
		if len(live) > 0 && live[0].Namespace != nil && want.Owns(live[0], objects[0].Namespace) {
			bindings = ourBindings(live)
		}
		h.namespace(objects[0].Namespace.Source, objects, bindings, want.Users)
	})
	w := *want
	w.Objects = h.out
	slices.SortFunc(w.Objects, func(a, b Object) int { return a.Key.Compare(b.Key) })
	return &w, h.kept
}

// ourBindings returns the bindings that are called as we call them.
func ourBindings(live []*Live) (out []*Live) {
	for _, l := range live {
		if l.Binding != nil && isNameOf(l.Key.Name, l.Binding.Role) {
			out = append(out, l)
		}
	}
	return out
}

// isNameOf reports whether a binding to the role is called so.
func isNameOf(name, role string) bool {
	if role == kubename.CIClusterRole && name == kubename.CIRoleBinding {
		return true
	}
	first := kubename.RoleBinding(role, 0)
	return name == first || strings.HasPrefix(name, first+"-")
}

func (h *withholder) verdict(role string) clusterroles.Verdict {
	r, asked := h.roles[role]
	if !asked {
		return clusterroles.Yes
	}
	return givable(r)
}

func (h *withholder) namespace(id authz.SourceID, objects []Object, live []*Live, users map[int64]authz.User) {
	lacks := map[int64][]string{} // user to the roles they should have, and might not get
	var out []Object
	for _, o := range objects {
		if o.Binding == nil || h.verdict(o.Binding.Role) == clusterroles.Yes {
			out = append(out, o)
			continue
		}
		for _, u := range o.Binding.Users {
			if h.verdict(o.Binding.Role) == clusterroles.Unknown || h.roles[o.Binding.Role].Exists.Verdict == clusterroles.No || !hasLive(live, o.Binding.Role, u) {
				lacks[u] = append(lacks[u], o.Binding.Role)
			}
		}
		if h.verdict(o.Binding.Role) == clusterroles.Unknown {
			out = append(out, o)
		}
	}
	for _, l := range live { // who has it, and should, keeps it
		if h.verdict(l.Binding.Role) != clusterroles.No {
			continue
		}
		o := h.left(l, objects, users)
		if fewer := len(o.Binding.Users)+len(o.Binding.Others) < len(l.Binding.Users)+len(l.Binding.Others); fewer && h.roles[l.Binding.Role].Bindable.Verdict == clusterroles.No {
			continue // it can only be deleted
		}
		out = append(out, o)
	}
	out, n := keeping(out, live, users, func(l *Live, user int64) bool {
		return !elsewhere(objects, l.Binding.Role, user) && slices.ContainsFunc(lacks[user], func(r string) bool { return h.keeps(Right{id, l.Binding.Role, user}, r) })
	})
	h.kept += n
	h.out = append(h.out, out...)
}

// keeps reports whether a right is left because the role that should come instead of it might not.
func (h *withholder) keeps(r Right, instead string) bool {
	has, gets := slices.Index(h.base, r.Role), slices.Index(h.base, instead)
	switch {
	case has >= 0 && gets >= 0:
		return has > gets
	case h.before != nil:
		return h.before(r)
	}
	return !slices.Contains(h.all, r.Role)
}

func hasLive(live []*Live, role string, user int64) bool {
	return slices.ContainsFunc(live, func(l *Live) bool { return l.Binding.Role == role && l.Binding.has(user) })
}

// left returns the binding as it is, without those who should not be in it. Who has a stronger role now stays: a change of
// this binding costs all others in it, if it may not be bound (applier.deleteInstead).
func (h *withholder) left(l *Live, objects []Object, users map[int64]authz.User) Object {
	b := &Binding{Role: l.Binding.Role, Members: l.Binding.Members}
	stronger := h.base[:max(0, slices.Index(h.base, b.Role))]
	for _, u := range l.Binding.Users {
		if elsewhere(objects, b.Role, u) || slices.ContainsFunc(stronger, func(r string) bool { return elsewhere(objects, r, u) }) {
			b.Users = append(b.Users, u)
		}
	}
	for _, s := range l.Binding.Others {
		if slices.ContainsFunc(objects, func(o Object) bool {
			return o.Binding != nil && o.Binding.Role == b.Role && slices.Contains(o.Binding.Others, s)
		}) {
			b.Others = append(b.Others, s)
		}
	}
	if len(b.Users) != len(l.Binding.Users) {
		b.Members = memberNames(b.Users, users)
	}
	return Object{Key: l.Key, Binding: b}
}

// keeping leaves, in bindings as they are, those for whom keep holds, and counts them; where there should be no such binding,
// it is one with them alone.
func keeping(objects []Object, live []*Live, users map[int64]authz.User, keep func(l *Live, user int64) bool) (out []Object, n int) {
	for _, l := range live {
		stay := slices.DeleteFunc(slices.Clone(l.Binding.Users), func(u int64) bool { return !keep(l, u) })
		if len(stay) == 0 {
			continue
		}
		n += len(stay)
		i := slices.IndexFunc(objects, func(o Object) bool { return o.Key == l.Key })
		if i < 0 {
			i, objects = len(objects), append(objects, *emptied(l))
		}
		objects[i].Binding = objects[i].Binding.with(stay, l.Binding, users)
	}
	return objects, n
}
