package syncer

import (
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// gaps returns what the cluster lacks of what GitLab gives in the namespaces of plain. It is not nil.
func (s *Syncer) gaps(r *Round, have *rbacsync.Observed, plain *rbacsync.Wanted) map[authz.SourceID]authz.Gap {
	f := rbacsync.GapFinder{Enforce: s.o.Mode == ModeEnforce, Have: have, Want: plain, Held: map[authz.SourceID]bool{}, Failed: map[rbacsync.Key]bool{}}
	for _, i := range r.Held {
		if i.Role == "" {
			f.Held[i.Source] = true
		}
	}
	for _, x := range r.Report.Failed {
		f.Failed[x.Change.Key] = true
	}
	if s.o.Roles != nil {
		f.Roles = s.o.Roles.Roles()
	}
	return f.Find()
}

// written publishes what is still lacking after a round has written its plan.
func (s *Syncer) written(r *Round, before *rbacsync.Observed, view authz.View, gaps func(*rbacsync.Observed) map[authz.SourceID]authz.Gap) authz.View {
	if s.o.Mode != ModeEnforce || len(r.Plan) == 0 {
		return view
	}
	view = view.WithGaps(gaps(before.With(r.Report.Made(r.Plan))))
	s.publish(&State{View: view, Round: *r})
	return view
}
