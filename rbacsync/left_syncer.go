package rbacsync

import (
	"context"
	"maps"
	"slices"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// knowLosses takes in the losses of a round in these namespaces (nil: in all), its own ones included. It returns them
// all when they are to be looked at, with each full reading and after a new loss; else nil.
func (s *Syncer) knowLosses(r *Round, have *Observed, want *Wanted, within map[string]bool) map[string]lostSpace {
	live := slices.Clip(have.Live)
	for _, c := range r.Report.Made(r.Plan) {
		if c.New != nil && c.New.Binding != nil {
			live = append(live, &Live{Object: *c.New})
		}
	}
	found := lostSpaces(live, want, weakRoles(s.o.Policy))
	before := s.lost
	s.lost = map[string]lostSpace{}
	if within != nil {
		maps.Copy(s.lost, before)
		maps.DeleteFunc(s.lost, func(ns string, _ lostSpace) bool { return within[ns] })
	}
	news := r.Read == "full"
	for ns, l := range found {
		s.lost[ns] = l
		news = news || !before[ns].loss.at.Equal(l.loss.at)
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
func (s *Syncer) runLeft(ctx context.Context, lists <-chan map[string]lostSpace) {
	k := newLeftLooker(s.o.Kube, s.o.Now)
	for {
		select {
		case <-ctx.Done():
			return
		case spaces := <-lists:
			found := k.look(ctx, spaces)
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
