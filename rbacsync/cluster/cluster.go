// Package cluster reads and writes the Kubernetes cluster: what it holds of ours (Observe), what somebody else changed
// (Changed), and the writing of a plan (Apply). It follows the cluster by watches and hides whether an answer comes from
// them or from a list; objects from templates are objects like others. It knows no GitLab and decides nothing.
package cluster

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Options are what a Cluster is made of.
type Options struct {
	Kube kubernetes.Interface
	// Watch, optional, is for following the cluster. It must be a client without a timeout, which would end the watches.
	Watch kubernetes.Interface
	Roles []string // the ClusterRoles that bindings are made for
	// Templates, optional, are those that namespaces get further objects from. Dynamic is the client for these objects,
	// DynamicWatch, optional, the one without a timeout. OwnNamespace has the Secrets that they copy.
	Templates             *rbacsync.Templates
	Dynamic, DynamicWatch dynamic.Interface
	OwnNamespace          string
	// Notify, optional, is called when somebody else has changed something. It must not block.
	Notify func()
	Logger *slog.Logger
}

// Cluster is the cluster as far as it is managed here. Make one with New. What Begin returns runs beside its methods;
// the methods themselves are for one goroutine at a time.
type Cluster struct {
	o         Options
	mirror    *mirror // nil: nothing is followed
	templates templates
}

// New returns a Cluster that follows nothing yet.
func New(o Options) *Cluster { return &Cluster{o: o} }

// firstWait is how long Observe waits for the watches, once, before it lists the cluster itself.
const firstWait = 30 * time.Second

// Begin forgets what is known, and returns what follows the cluster until its context ends.
func (c *Cluster) Begin() (follow func(context.Context)) {
	c.mirror, c.templates = nil, templates{}
	var mirrors []*mirror
	if c.o.Watch != nil {
		c.mirror = newMirror(feeds(c.o.Watch, c.o.Roles), c.o.Logger, c.o.Notify)
		mirrors = append(mirrors, c.mirror)
	}
	if t := c.o.Templates; t != nil && len(t.List) > 0 && c.mirror != nil && c.o.DynamicWatch != nil {
		c.templates.mirror = newMirror(templateFeeds(c.o.DynamicWatch, t, notOurs), c.o.Logger, c.o.Notify)
		mirrors = append(mirrors, c.templates.mirror)
	}
	return func(ctx context.Context) {
		var wg sync.WaitGroup
		for _, m := range mirrors {
			wg.Go(func() { m.run(ctx) })
		}
		wg.Wait()
	}
}

// Following reports whether the watches have seen everything: only then some namespaces can be observed by themselves.
func (c *Cluster) Following() bool { return c.mirror.isReady() }

// Observe returns what the cluster holds in the scope: from the watches, or by listing it where there are none. Reread
// has what no watch brings read again: the Secrets that templates copy, and what templates of before have left behind.
func (c *Cluster) Observe(ctx context.Context, scope rbacsync.Scope, reread bool) (*rbacsync.Observed, error) {
	var have *rbacsync.Observed
	if c.mirror.awaitReady(ctx, firstWait) { // if it takes longer, or is forbidden, everything is listed
		have = c.mirror.observed(scope)
	} else {
		all, err := List(ctx, c.o.Kube, c.o.Roles)
		if err != nil {
			return nil, err
		}
		have = all.Within(scope)
	}
	if c.o.Templates != nil {
		c.templates.add(ctx, &c.o, have, scope, reread)
	}
	return have, nil
}

// Changed returns the namespaces in which somebody else changed something since it was called last.
func (c *Cluster) Changed() rbacsync.Scope {
	out := rbacsync.Scope{}
	for _, m := range []*mirror{c.mirror, c.templates.mirror} {
		if m != nil && c.Following() {
			maps.Copy(out, m.drifted())
		}
	}
	return out
}

// Apply is the function of that name, for changes that were planned on what Observe returned.
func (c *Cluster) Apply(ctx context.Context, changes []rbacsync.Change, o ApplyOptions) Report {
	o.dynamic, o.wrote = c.o.Dynamic, c.wrote
	return Apply(ctx, c.o.Kube, changes, o)
}

// wrote takes in what the API server answered to a write: nil to a deletion.
func (c *Cluster) wrote(k rbacsync.Key, l *rbacsync.Live) {
	if k.Kind == rbacsync.KindTemplate {
		c.templates.wrote(k, l)
	} else {
		c.mirror.wrote(k, l)
	}
}

func sortLive(list []*rbacsync.Live) {
	slices.SortFunc(list, func(a, b *rbacsync.Live) int { return a.Key.Compare(b.Key) })
}
