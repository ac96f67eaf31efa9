package rbacsync

import (
	"maps"
	"slices"
)

// WantedByNamespace is what should be in the cluster, by namespace, so that a part of it can be replaced.
type WantedByNamespace struct {
	Plain   Wanted // without Objects
	Objects map[string][]Object
}

func ByNamespace(w *Wanted) *WantedByNamespace {
	r := &WantedByNamespace{Plain: *w, Objects: make(map[string][]Object, len(w.Paths))}
	r.Plain.Objects, r.Plain.Gone = nil, nil // what GitLab answered counts in its own round only
	for rest := w.Objects; len(rest) > 0; {
		ns := rest[0].Key.Namespace
		r.Objects[ns], rest = cut(rest, func(o Object) bool { return o.Key.Namespace == ns })
	}
	return r
}

// Within returns the part that is in these namespaces.
func (r *WantedByNamespace) Within(spaces map[string]bool) *Wanted {
	part := r.Plain
	for _, ns := range sortedKeys(spaces) {
		part.Objects = append(part.Objects, r.Objects[ns]...)
	}
	return &part
}

// Replace takes in what a round wants in these namespaces; objects from templates stay, it says nothing about them.
func (r *WantedByNamespace) Replace(part *Wanted, spaces map[string]bool) {
	for ns := range spaces {
		own := slices.Clone(part.Inside(ns))
		for _, o := range r.Objects[ns] {
			if o.Extra != nil {
				own = append(own, o)
			}
		}
		slices.SortFunc(own, func(a, b Object) int { return a.Key.Compare(b.Key) })
		r.Objects[ns] = own
	}
	r.Plain.Untouchable, r.Plain.Users, r.Plain.Now, r.Plain.Snap = part.Untouchable, part.Users, part.Now, part.Snap
	maps.Copy(r.Plain.Paths, part.Paths)
}

// Bare returns what is wanted without the objects from templates.
func (w *Wanted) Bare() *Wanted {
	extra := func(o Object) bool { return o.Extra != nil }
	if !slices.ContainsFunc(w.Objects, extra) {
		return w
	}
	out := *w
	out.Objects = slices.DeleteFunc(slices.Clone(w.Objects), extra)
	return &out
}
