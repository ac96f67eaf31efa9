package rbacsync

import (
	"maps"
	"slices"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// Scope is the namespaces that something is about. nil is all of them.
type Scope map[string]bool

// Has reports whether a namespace is in the scope.
func (s Scope) Has(namespace string) bool { return s == nil || s[namespace] }

// Union returns what is in either of two scopes, which stay as they are.
func (s Scope) Union(other Scope) Scope {
	if s == nil || other == nil {
		return nil
	}
	both := maps.Clone(s)
	maps.Copy(both, other)
	return both
}

// Within returns what is in the scope. Foreign is kept whole.
func (o *Observed) Within(scope Scope) *Observed {
	if scope == nil {
		return o
	}
	out := *o
	outside := func(l *Live) bool { return !scope[l.Key.Namespace] }
	out.Live, out.Unmarked = slices.DeleteFunc(slices.Clone(o.Live), outside), slices.DeleteFunc(slices.Clone(o.Unmarked), outside)
	return &out
}

// WantedByNamespace is what should be in the cluster, by namespace, so that what is in a Scope can be replaced.
type WantedByNamespace struct {
	Plain   Wanted // without Objects
	Objects map[string][]Object
}

// ByNamespace sorts what is wanted everywhere by namespace.
func ByNamespace(w *Wanted) *WantedByNamespace {
	r := &WantedByNamespace{Plain: *w, Objects: make(map[string][]Object, len(w.Paths))}
	r.Plain.Objects, r.Plain.Gone = nil, nil // what GitLab answered counts in its own round only
	for rest := w.Objects; len(rest) > 0; {
		ns := rest[0].Key.Namespace
		r.Objects[ns], rest = cut(rest, func(o Object) bool { return o.Key.Namespace == ns })
	}
	r.Plain.Nameless = map[authz.SourceID]bool{}
	for id := range w.Paths {
		r.Plain.Nameless[id] = true
	}
	for i := range w.Objects {
		if n := w.Objects[i].Namespace; n != nil {
			delete(r.Plain.Nameless, n.Source)
		}
	}
	return r
}

// AnyNameless reports whether one of the namespaces says that it is that of a source without one: only a pass over everything
// gives names.
func (r *WantedByNamespace) AnyNameless(have *Observed) bool {
	if have == nil {
		return false
	}
	return slices.ContainsFunc(have.Live, func(l *Live) bool {
		return l.Namespace != nil && len(l.Doubt) == 0 && l.Namespace.Later == "" && l.Namespace.Issuer == r.Plain.Issuer && r.Plain.Nameless[l.Namespace.Source]
	})
}

// Within returns what is wanted in these namespaces alone.
func (r *WantedByNamespace) Within(namespaces map[string]bool) *Wanted {
	out := r.Plain
	for _, ns := range sortedKeys(namespaces) {
		out.Objects = append(out.Objects, r.Objects[ns]...)
	}
	return &out
}

// Replace takes in what is wanted in a scope now.
func (r *WantedByNamespace) Replace(w *Wanted, scope Scope) {
	for ns := range scope {
		r.Objects[ns] = slices.Clone(w.Inside(ns))
	}
	r.Plain.Untouchable, r.Plain.Users, r.Plain.Now, r.Plain.Snap = w.Untouchable, w.Users, w.Now, w.Snap
	maps.Copy(r.Plain.Paths, w.Paths)
}

// bare returns what is wanted without the objects from templates.
func (w *Wanted) bare() *Wanted {
	extra := func(o Object) bool { return o.FromTemplate != nil }
	if !slices.ContainsFunc(w.Objects, extra) {
		return w
	}
	out := *w
	out.Objects = slices.DeleteFunc(slices.Clone(w.Objects), extra)
	return &out
}
