package syncer

import (
	"context"
	"maps"
	"slices"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
)

// knowLosses takes in the losses of a round in these namespaces (nil: in all), its own ones included. It returns them
// all when they are to be looked at, with each full reading and after a new loss; else nil.
func (s *Syncer) knowLosses(r *Round, have *rbacsync.Observed, want *rbacsync.Wanted, within map[string]bool) map[string]rbacsync.LostNamespace {
	live := slices.Clip(have.Live)
	for _, c := range r.Report.Made(r.Plan) {
		if c.New != nil && c.New.Binding != nil {
			live = append(live, &rbacsync.Live{Object: *c.New})
		}
	}
	found := rbacsync.LostNamespaces(live, want, rbacsync.WeakRoles(s.o.Policy))
	before := s.lost
	s.lost = map[string]rbacsync.LostNamespace{}
	if within != nil {
		maps.Copy(s.lost, before)
		maps.DeleteFunc(s.lost, func(ns string, _ rbacsync.LostNamespace) bool { return within[ns] })
	}
	news := r.Read == "full"
	for ns, l := range found {
		s.lost[ns] = l
		news = news || !before[ns].Loss.At.Equal(l.Loss.At)
	}
	if !news {
		return nil
	}
	return maps.Clone(s.lost)
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
				s.mu.Lock()
				s.pending.look = true
				s.pending.causes = append(s.pending.causes[:min(len(s.pending.causes), 4)], "left behind")
				s.mu.Unlock()
				s.poke()
			}
		}
	}
}
