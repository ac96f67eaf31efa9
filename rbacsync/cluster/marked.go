package cluster

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Marked returns what was observed as it would be if an administrator had put our mark on these namespaces. o is not changed.
func Marked(o *rbacsync.Observed, namespaces []corev1.Namespace) (*rbacsync.Observed, error) {
	out := *o
	out.Live, out.Foreign = slices.Clone(o.Live), maps.Clone(o.Foreign)
	for i := range namespaces {
		ns := namespaces[i].DeepCopy()
		if !out.Foreign[rbacsync.NamespaceKey(ns.Name)] {
			continue
		}
		ns.Labels = maps.Clone(ns.Labels)
		if ns.Labels == nil {
			ns.Labels = map[string]string{}
		}
		ns.Labels[kubename.LabelManagedBy] = kubename.ManagedBy
		e, err := entryOf(ns)
		if err != nil {
			return nil, err
		}
		delete(out.Foreign, e.Key)
		out.Unmarked = slices.DeleteFunc(slices.Clone(out.Unmarked), func(l *rbacsync.Live) bool { return l.Key == e.Key })
		out.Live = append(out.Live, e.Live)
	}
	slices.SortFunc(out.Live, func(a, b *rbacsync.Live) int { return a.Key.Compare(b.Key) })
	return &out, nil
}
