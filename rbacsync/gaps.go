package rbacsync

import (
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/clusterroles"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// Whoever is refused sees why the cluster lacks what GitLab gives them (docs/adr/0097). That is found by comparing the
// cluster with what GitLab gives, before anything was held or withheld: so nothing can be missing without being noticed,
// whatever the reason is.

// GapFinder finds out why something is not in the cluster.
type GapFinder struct {
	Enforce bool
	Have    *Observed
	Want    *Wanted // as GitLab says
	Held    map[authz.SourceID]bool
	Revokes map[Right]bool // rights whose end is held back
	Failed  map[Key]bool
	Roles   clusterroles.Roles
}

func (f *GapFinder) Find() map[authz.SourceID]authz.Gap {
	out := map[authz.SourceID]authz.Gap{}
	byNamespace(f.Have.Live, f.Want.Objects, func(ns string, here []*Live, objects []Object) {
		if len(objects) == 0 || objects[0].Namespace == nil {
			return
		}
		if g := f.namespace(ns, objects[0].Namespace, here, objects); g.All != "" || len(g.Lacks) > 0 || len(g.Keeps) > 0 {
			out[objects[0].Namespace.Source] = g
		}
	})
	return out
}

// namespace compares one namespace: here is what it holds with our mark, objects what it should hold.
func (f *GapFinder) namespace(ns string, namespace *Namespace, here []*Live, objects []Object) authz.Gap {
	var l *Live
	if len(here) > 0 && here[0].Namespace != nil {
		l = here[0]
	}
	switch {
	case l == nil && f.Have.Foreign[NamespaceKey(ns)]:
		return authz.Gap{All: authz.AbsentForeign}
	case l == nil:
		return authz.Gap{All: f.why(namespace.Source, NamespaceKey(ns), "", false)}
	case !f.Want.Owns(l, namespace) && (f.Want.Adopt[ns] != namespace.Source || !adoptable(l)):
		return authz.Gap{All: authz.AbsentForeign}
	}
	var out authz.Gap
	for rest := objects; len(rest) > 0; {
		var shards []Object
		first := rest[0]
		if first.Binding == nil {
			rest = rest[1:]
			continue
		}
		shards, rest = cut(rest, func(o Object) bool {
			return o.Binding != nil && o.Binding.Role == first.Binding.Role && isCI(o.Key) == isCI(first.Key)
		})
		out.Lacks = append(out.Lacks, f.role(namespace.Source, l.Deleting, here, shards)...)
	}
	out.Keeps = f.keeps(namespace.Source, here, objects)
	return out
}

// keeps returns what people have in a namespace and GitLab does not give them.
func (f *GapFinder) keeps(id authz.SourceID, here []*Live, objects []Object) (out []authz.Lack) {
	for _, l := range here {
		if l.Binding == nil || isCI(l.Key) {
			continue
		}
		kept := l.Binding.Users
		for _, o := range objects {
			if o.Binding != nil && o.Binding.Role == l.Binding.Role && !isCI(o.Key) && len(kept) > 0 {
				kept = minus(kept, o.Binding.Users)
			}
		}
		for _, user := range kept {
			why := f.whyKept(id, l, user)
			i := slices.IndexFunc(out, func(k authz.Lack) bool { return k.ClusterRole == l.Binding.Role && k.Why == why })
			if i < 0 {
				i, out = len(out), append(out, authz.Lack{ClusterRole: l.Binding.Role, Why: why})
			}
			out[i].Users = append(out[i].Users, user)
		}
	}
	for i := range out {
		slices.Sort(out[i].Users)
		out[i].Users = slices.Compact(out[i].Users)
	}
	return out
}

// whyKept returns why somebody still is in a binding.
func (f *GapFinder) whyKept(id authz.SourceID, l *Live, user int64) authz.Absence {
	switch {
	case !f.Enforce:
		return authz.AbsentPlan
	case f.Want.Hold != "" || f.Want.Untouchable[id] != "":
		return authz.AbsentUnread
	case f.Revokes[Right{id, l.Binding.Role, user}]:
		return authz.AbsentHeld
	case f.Failed[l.Key]:
		return authz.AbsentFailed
	}
	return authz.AbsentUnwritten
}

// role compares the bindings of one ClusterRole in a namespace.
func (f *GapFinder) role(id authz.SourceID, deleting bool, here []*Live, shards []Object) []authz.Lack {
	role, ci := shards[0].Binding.Role, isCI(shards[0].Key)
	var out []authz.Lack
	should := 0
	for _, o := range shards {
		lack := usersIn(o.Binding, ci)
		should += len(lack)
		for _, l := range here {
			if l.Binding != nil && l.Binding.Role == role && isCI(l.Key) == ci && len(lack) > 0 {
				lack = minus(lack, usersIn(l.Binding, ci))
			}
		}
		if len(lack) == 0 {
			continue
		}
		why := f.why(id, o.Key, role, deleting)
		i := slices.IndexFunc(out, func(l authz.Lack) bool { return l.Why == why })
		if i < 0 {
			i, out = len(out), append(out, authz.Lack{ClusterRole: role, Why: why})
		}
		out[i].Users = append(out[i].Users, lack...)
	}
	for i := range out {
		if ci {
			out[i].ClusterRole = ""
		}
		if len(out) == 1 && len(out[i].Users) == should {
			out[i].Users = nil
		}
		slices.Sort(out[i].Users)
	}
	return out
}

func isCI(k Key) bool { return k.Name == kubename.CIRoleBinding }

// usersIn returns whom a binding is for, ascending, in the form of authz.Lack.
func usersIn(b *Binding, ci bool) []int64 {
	if !ci {
		return b.Users
	}
	var out []int64
	for _, s := range b.Others {
		project, _ := jobsOf(s)
		if project != 0 || s.Kind == rbacv1.ServiceAccountKind {
			out = append(out, project)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// why returns why an object is not there, or lacks somebody. role is that of a binding.
func (f *GapFinder) why(id authz.SourceID, key Key, role string, deleting bool) authz.Absence {
	r := f.Roles[role]
	switch {
	case f.Have.Foreign[key]:
		return authz.AbsentForeign
	case !f.Enforce:
		return authz.AbsentPlan
	case f.Want.Hold != "" || f.Want.Untouchable[id] != "":
		return authz.AbsentUnread
	case key.Kind == KindNamespace && f.Held[id]:
		return authz.AbsentHeld
	case r.Exists.Verdict == clusterroles.No:
		return authz.AbsentNoRole
	case r.Bindable.Verdict == clusterroles.No:
		return authz.AbsentNotBindable
	case deleting:
		return authz.AbsentTerminating
	case f.Failed[key]:
		return authz.AbsentFailed
	}
	return authz.AbsentUnwritten
}
