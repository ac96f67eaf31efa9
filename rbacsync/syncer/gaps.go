package syncer

import (
	"maps"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// gaps returns what the cluster, holding have in the scope of the pass, lacks of what GitLab gives. It is not nil.
func (s *pipeline) gaps(p *pass, have *rbacsync.Observed) map[authz.SourceID]authz.Gap {
	f := rbacsync.GapFinder{Enforce: s.o.Mode == ModeEnforce, Have: have, Want: p.plain, Held: map[authz.SourceID]bool{}, Revokes: map[rbacsync.Right]bool{}, Failed: map[rbacsync.Key]bool{}}
	for _, i := range p.Held {
		if i.Role == "" {
			f.Held[i.Source] = true
		} else {
			f.Revokes[rbacsync.Right{Source: i.Source, Role: i.Role, User: i.User}] = true
		}
	}
	for _, x := range p.Report.Failed {
		f.Failed[x.Change.Key] = true
	}
	if s.o.Roles != nil {
		f.Roles = s.o.Roles.Roles()
	}
	found := f.Find()
	if p.everything() {
		return found
	}
	out := maps.Clone(s.last.view.Gaps())
	maps.DeleteFunc(out, func(id authz.SourceID, _ authz.Gap) bool { return p.affected[id] })
	maps.Copy(out, found)
	return out
}
