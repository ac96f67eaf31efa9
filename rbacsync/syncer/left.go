package syncer

import (
	"context"
	"maps"
	"slices"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
)

// knowLosses takes in the losses in the scope of a pass, its own ones included. All are to be looked at with each full
// reading, and after a new loss.
func (s *Syncer) knowLosses(p *pass) {
	live := slices.Clip(p.have.Live)
	for _, c := range p.Report.Made(p.Plan) {
		if c.New != nil && c.New.Binding != nil {
			live = append(live, &rbacsync.Live{Object: *c.New})
		}
	}
	found := rbacsync.LostNamespaces(live, p.want, rbacsync.WeakRoles(s.o.Policy))
	before := s.lost
	s.lost = maps.Clone(found)
	for ns, l := range before {
		if !p.scope.Has(ns) {
			s.lost[ns] = l
		}
	}
	news := p.kind == KindFull
	for ns, l := range found {
		news = news || !before[ns].Loss.At.Equal(l.Loss.At)
	}
	if news {
		p.losses = maps.Clone(s.lost)
	}
}

// left returns what was found when it was last looked for.
func (s *Syncer) left() []authz.Finding {
	if f := s.leftFindings.Load(); f != nil {
		return *f
	}
	return nil
}

// runLeft looks for what was left behind, until ctx ends, so that no round waits for it. What is new is told by a
// round that reads nothing.
func (s *Syncer) runLeft(ctx context.Context, lists <-chan map[string]rbacsync.LostNamespace) {
	k := cluster.NewLeftLooker(s.o.Kube, s.o.Now)
	for {
		select {
		case <-ctx.Done():
			return
		case spaces := <-lists:
			found := k.Look(ctx, spaces)
			if ctx.Err() != nil {
				return
			}
			if !slices.Equal(found, s.left()) {
				s.leftFindings.Store(&found)
				s.look(look{"left behind", false})
			}
		}
	}
}
