package syncer

import (
	"context"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
)

// inspector looks, beside the passes, for what feeds findings alone: RoleBindings of others, the fence, and what those who
// lost a right have left behind. Nothing that is given or taken waits for it.
type inspector struct {
	o     *Options
	busy  func() bool // see Syncer.busy
	found atomic.Pointer[[]authz.Finding]

	// Whoever calls look owns these.
	left      *cluster.LeftFinder
	excessive []authz.Finding // bindings of others
	unread    []authz.Finding // why they were not looked at
	unfenced  []authz.Finding
	behind    []authz.Finding // what is left behind
}

// inspection is what an inspector has to look at.
type inspection struct {
	want   *rbacsync.Wanted                  // nil: bindings of others and the fence are as they were
	losses map[string]rbacsync.LostNamespace // nil: what is left behind is as it was
}

// offer hands an inspection on in place of one that is still waiting.
func (in inspection) offer(to chan inspection) {
	select {
	case old := <-to:
		in = in.with(old)
	default:
	}
	to <- in
}

// with adds what an older one has.
func (in inspection) with(old inspection) inspection {
	if in.want == nil {
		in.want = old.want
	}
	if in.losses == nil {
		in.losses = old.losses
	}
	return in
}

func (x *inspector) findings() []authz.Finding {
	if f := x.found.Load(); f != nil {
		return *f
	}
	return nil
}

// run looks until ctx ends. changed is called when something else is found than before.
func (x *inspector) run(ctx context.Context, in <-chan inspection, changed func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case i := <-in:
			afterPasses(ctx, x.busy)
			i = newest(in, i, inspection.with)
			before := x.findings()
			x.look(ctx, i)
			if ctx.Err() == nil && !slices.Equal(before, x.findings()) {
				changed()
			}
		}
	}
}

// look looks once.
func (x *inspector) look(ctx context.Context, in inspection) {
	if x.o.Kube == nil { // the plan of a Recording
		return
	}
	if in.want != nil {
		x.foreign(ctx, in.want)
		x.fence(ctx)
	}
	if in.losses != nil {
		if x.left == nil {
			x.left = cluster.NewLeftFinder(x.o.Kube, x.o.Now)
		}
		x.behind = x.left.Look(ctx, in.losses, in.want != nil)
	}
	if ctx.Err() == nil {
		found := slices.Concat(x.excessive, x.unread, x.behind, x.unfenced)
		x.found.Store(&found)
	}
}

// foreign looks for RoleBindings of others, in namespaces of ours, that give people or CI jobs of GitLab more than GitLab
// does. They are never touched: an administrator may have made them for a reason.
func (x *inspector) foreign(ctx context.Context, want *rbacsync.Wanted) {
	found, err := cluster.ForeignBindings(ctx, x.o.Kube, want)
	if x.unread = nil; err != nil {
		x.unread = []authz.Finding{{Code: "bindings_unread", Text: "bindings of others were not looked at: " + err.Error()}}
		return
	}
	x.excessive = found
}

// fence has the admission policies looked at. Rights are given and taken without them: whoever can take the fence away is an
// administrator, and they may be about to replace it.
func (x *inspector) fence(ctx context.Context) {
	if x.o.Fence == nil || x.o.Mode != ModeEnforce {
		return
	}
	err := x.o.Fence(ctx)
	if x.unfenced = nil; err != nil && ctx.Err() == nil {
		x.unfenced = []authz.Finding{{Code: "fence", Text: err.Error()}}
		x.o.Logger.ErrorContext(ctx, "the tenant fence is not as it should be", "error", err)
	}
}

// losses are the rights that somebody lost, by namespace.
type losses map[string]rbacsync.LostNamespace

// take takes in those in the scope of a pass, its own ones included. All are to be looked at with each full reading, and new ones
// at once: only then it returns them.
func (l *losses) take(p *pass, weak map[string]bool) losses {
	live := slices.Clip(p.have.Live)
	for _, c := range p.made {
		if c.New != nil && c.New.Binding != nil {
			live = append(live, &rbacsync.Live{Object: *c.New})
		}
	}
	found := rbacsync.LostNamespaces(live, p.want, weak)
	before, news := *l, p.Kind == KindFull
	now := losses(maps.Clone(found))
	if now == nil {
		now = losses{}
	}
	for ns, x := range before {
		if !p.scope.Has(ns) {
			now[ns] = x
		}
	}
	for ns, x := range found {
		news = news || !before[ns].Loss.At.Equal(x.Loss.At)
	}
	if *l = now; news {
		return maps.Clone(now)
	}
	return nil
}
