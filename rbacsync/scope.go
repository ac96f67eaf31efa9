package rbacsync

import (
	"maps"
	"slices"
)

// remembered is what should be in the cluster, by namespace, so that a part of it can be replaced.
type remembered struct {
	plain   Wanted // without Objects
	objects map[string][]Object
}

func remember(w *Wanted) *remembered {
	r := &remembered{plain: *w, objects: make(map[string][]Object, len(w.Paths))}
	r.plain.Objects, r.plain.Gone = nil, nil // what GitLab answered counts in its own round only
	for rest := w.Objects; len(rest) > 0; {
		ns := rest[0].Key.Namespace
		r.objects[ns], rest = cut(rest, func(o Object) bool { return o.Key.Namespace == ns })
	}
	return r
}

// within returns the part that is in these namespaces.
func (r *remembered) within(spaces map[string]bool) *Wanted {
	part := r.plain
	for _, ns := range sortedKeys(spaces) {
		part.Objects = append(part.Objects, r.objects[ns]...)
	}
	return &part
}

// replace takes in what a round wants in these namespaces; objects from templates stay, it says nothing about them.
func (r *remembered) replace(part *Wanted, spaces map[string]bool) {
	for ns := range spaces {
		own := slices.Clone(part.inside(ns))
		for _, o := range r.objects[ns] {
			if o.Extra != nil {
				own = append(own, o)
			}
		}
		slices.SortFunc(own, func(a, b Object) int { return a.Key.Compare(b.Key) })
		r.objects[ns] = own
	}
	r.plain.Untouchable, r.plain.Users, r.plain.Now, r.plain.snap = part.Untouchable, part.Users, part.Now, part.snap
	maps.Copy(r.plain.Paths, part.Paths)
}

// bare returns what is wanted without the objects from templates.
func (w *Wanted) bare() *Wanted {
	extra := func(o Object) bool { return o.Extra != nil }
	if !slices.ContainsFunc(w.Objects, extra) {
		return w
	}
	out := *w
	out.Objects = slices.DeleteFunc(slices.Clone(w.Objects), extra)
	return &out
}
