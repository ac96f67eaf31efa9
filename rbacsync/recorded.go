package rbacsync

import (
	"maps"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// Recorded returns what was observed in a form that can be kept: without the content of objects from templates and of the
// Secrets that these copy, which may be confidential. A plan on it, with the same templates, is the plan on the original:
// what is as its template makes it is noted as such, by a hash that the content of Secrets has no part in. o is not changed.
func (o *Observed) Recorded(t *Templates, snap *authz.Snapshot) *Observed {
	out := *o
	out.Secrets = map[string]map[string]any{}
	for name := range o.Secrets {
		out.Secrets[name] = map[string]any{}
	}
	made := map[Key]*TemplateObject{} // as they should be; and the same without the content of Secrets
	blank := map[Key]*TemplateObject{}
	for _, l := range o.Live {
		if l.Namespace == nil {
			continue
		}
		path, _ := snap.Path(l.Namespace.Source)
		v := values{l.Key.Name, Printable(path), l.Namespace.Source}
		for _, x := range t.add(nil, v, o.Secrets) {
			made[x.Key] = x.FromTemplate
		}
		for _, x := range t.add(nil, v, out.Secrets) {
			blank[x.Key] = x.FromTemplate
		}
	}
	out.Live = make([]*Live, 0, len(o.Live))
	for _, l := range o.Live {
		if l.FromTemplate != nil {
			c, x := *l, *l.FromTemplate
			want := made[l.Key]
			switch {
			case want != nil && want.madeBy(l.FromTemplate):
				x.Hash = blank[l.Key].Hash
				x.Verified = x.Hash
			case want != nil && want.Template.CopyFrom != "":
				x.Hash, x.Verified = "", ""
			}
			x.Content, x.data = nil, nil
			c.FromTemplate, l = &x, &c
		}
		out.Live = append(out.Live, l)
	}
	out.Foreign = maps.Clone(o.Foreign)
	return &out
}
