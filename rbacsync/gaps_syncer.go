package rbacsync

import (
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// gaps returns what the cluster lacks of what GitLab gives in the namespaces of plain. It is not nil.
func (s *Syncer) gaps(r *Round, have *Observed, plain *Wanted) map[authz.SourceID]authz.Gap {
	f := gapFinder{enforce: s.o.Mode == ModeEnforce, have: have, want: plain, held: map[authz.SourceID]bool{}, failed: map[Key]bool{}}
	for _, i := range r.Held {
		if i.Role == "" {
			f.held[i.Source] = true
		}
	}
	for _, x := range r.Report.Failed {
		f.failed[x.Change.Key] = true
	}
	if s.o.Roles != nil {
		f.roles = s.o.Roles.Roles()
	}
	return f.find()
}

// written publishes what is still lacking after a round has written its plan.
func (s *Syncer) written(r *Round, before *Observed, view authz.View, gaps func(*Observed) map[authz.SourceID]authz.Gap) authz.View {
	if s.o.Mode != ModeEnforce || len(r.Plan) == 0 {
		return view
	}
	view = view.WithGaps(gaps(before.with(r.Report.Made(r.Plan))))
	s.publish(&State{View: view, Round: *r})
	return view
}
