package syncer

import (
	"context"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
)

// excess looks for RoleBindings of others, in namespaces of ours, that give people or CI jobs of GitLab more than GitLab
// does. They are never touched: an administrator may have made them for a reason. It is read with each full reading;
// meanwhile the last answer stands.
func (s *Syncer) excess(ctx context.Context, r *Round, want *rbacsync.Wanted) {
	if r.Read == "full" {
		found, err := cluster.ForeignBindings(ctx, s.o.Kube, want)
		if err != nil {
			r.Findings = append(r.Findings, authz.Finding{Code: "bindings_unread", Text: "bindings of others were not looked at: " + err.Error()})
			return
		}
		s.excessive = found
	}
	r.Findings = append(r.Findings, s.excessive...)
}

// fence has the admission policies looked at with each full reading; meanwhile the last answer stands. Rights are still
// given and taken: whoever can take the fence away is an administrator, and he may be about to replace it.
func (s *Syncer) fence(ctx context.Context, r *Round) {
	if s.o.Fence == nil || s.o.Mode != ModeEnforce {
		return
	}
	if r.Read == "full" {
		if s.unfenced = s.o.Fence(ctx); s.unfenced != nil && ctx.Err() == nil {
			s.o.Logger.ErrorContext(ctx, "the tenant fence is not as it should be", "error", s.unfenced)
		}
	}
	if s.unfenced != nil {
		r.Findings = append(r.Findings, authz.Finding{Code: "fence", Text: s.unfenced.Error()})
	}
}
