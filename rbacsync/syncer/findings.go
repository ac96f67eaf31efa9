package syncer

import (
	"context"
	"slices"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
)

// beside returns what was found by what runs beside the passes, or after them.
func (s *Syncer) beside() []authz.Finding {
	out := slices.Concat(s.excessive, s.left())
	if f := s.ciFindings.Load(); f != nil {
		out = append(out, *f...)
	}
	if s.unfenced != nil {
		out = append(out, authz.Finding{Code: "fence", Text: s.unfenced.Error()})
	}
	return out
}

// foreign looks for RoleBindings of others, in namespaces of ours, that give people or CI jobs of GitLab more than GitLab
// does. They are never touched: an administrator may have made them for a reason. It is read with each full reading;
// meanwhile the last answer stands.
func (s *Syncer) foreign(ctx context.Context, p *pass) {
	if p.kind != KindFull {
		return
	}
	found, err := cluster.ForeignBindings(ctx, s.o.Kube, p.plain)
	if err != nil {
		p.noted = append(p.noted, authz.Finding{Code: "bindings_unread", Text: "bindings of others were not looked at: " + err.Error()})
		return
	}
	s.excessive = found
}

// fence has the admission policies looked at with each full reading; meanwhile the last answer stands. Rights are still
// given and taken: whoever can take the fence away is an administrator, and they may be about to replace it.
func (s *Syncer) fence(ctx context.Context, p *pass) {
	if s.o.Fence == nil || s.o.Mode != ModeEnforce || p.kind != KindFull {
		return
	}
	if s.unfenced = s.o.Fence(ctx); s.unfenced != nil && ctx.Err() == nil {
		s.o.Logger.ErrorContext(ctx, "the tenant fence is not as it should be", "error", s.unfenced)
	}
}
