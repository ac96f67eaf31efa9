package syncer

import (
	"context"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
)

// causeDrift is the cause of rounds that put back what somebody else changed.
const causeDrift = "drift"

// Drift is put back at once, but not for ever at once: somebody who changes a namespace again and again gets it
// back at most driftBurst times in driftWindow, and after that once at the end of it.
const (
	driftBurst  = 20
	driftWindow = time.Minute
)

// driftLimiter counts how often namespaces were put back.
type driftLimiter map[string]*driftCount

type driftCount struct {
	since time.Time
	count int
}

// due splits namespaces into those to put back now and those that have to wait, and returns until when.
func (f driftLimiter) due(namespaces map[string]bool, now time.Time) (now1, later map[string]bool, until time.Time) {
	now1, later = map[string]bool{}, map[string]bool{}
	for ns := range namespaces {
		x := f[ns]
		if x == nil || now.Sub(x.since) >= driftWindow {
			x = &driftCount{since: now}
			f[ns] = x
		}
		if x.count < driftBurst {
			now1[ns] = true
			continue
		}
		later[ns] = true
		if end := x.since.Add(driftWindow); until.IsZero() || end.Before(until) {
			until = end
		}
	}
	for ns, x := range f {
		if now.Sub(x.since) >= driftWindow && !now1[ns] && !later[ns] {
			delete(f, ns)
		}
	}
	return now1, later, until
}

func (f driftLimiter) restored(ns string) {
	if x := f[ns]; x != nil {
		x.count++
	}
}

// drift is what somebody else has changed, as far as it is not put back yet.
type drift struct {
	limiter driftLimiter
	later   map[string]time.Time // namespaces to be looked at again, and when
}

func newDrift() drift { return drift{limiter: driftLimiter{}, later: map[string]time.Time{}} }

// postpone has a namespace looked at again at a time, or before.
func (d *drift) postpone(ns string, at time.Time) {
	if old, ok := d.later[ns]; !ok || at.Before(old) {
		d.later[ns] = at
	}
}

// next returns when a namespace is to be looked at again.
func (d *drift) next() (at time.Time) {
	for _, t := range d.later {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	return at
}

// take returns the namespaces to put back now, with those that somebody has changed, and takes them out.
func (d *drift) take(changed rbacsync.Scope, now time.Time) rbacsync.Scope {
	for ns, at := range d.later {
		if due(at, now) {
			changed[ns] = true
			delete(d.later, ns)
		}
	}
	ready, wait, until := d.limiter.due(changed, now)
	for ns := range wait {
		d.postpone(ns, until)
	}
	return ready
}

// restoreDrift puts back what others changed, without reading GitLab: what should be there is known. It waits for
// nobody who changes the same namespace again and again.
func (s *Syncer) restoreDrift(ctx context.Context) {
	if s.wanted == nil || s.o.Mode != ModeEnforce || !s.cluster.Following() {
		return
	}
	started := s.o.Now()
	changed := s.drift.take(s.cluster.Changed(), started)
	if len(changed) == 0 {
		return
	}
	p := s.pass(ctx, job{Round: Round{Kind: KindDrift, Cause: causeDrift, Snapshot: s.wanted.Plain.Snap}, drifted: changed})
	if s.wanted.AnyNameless(p.have) {
		s.dirty.later(everywhere, started, 100*time.Millisecond, s.o.Interval)
	}
	if len(p.Plan) == 0 { // or the watches were not there any more
		return
	}
	for _, f := range p.Report.Failed {
		s.drift.postpone(f.Change.Key.Namespace, started.Add(time.Second)) // again, a little later
	}
	for _, c := range p.Report.Deferred {
		s.drift.postpone(c.Key.Namespace, started)
	}
	for _, c := range p.made {
		s.drift.limiter.restored(c.Key.Namespace)
		if c.Action == rbacsync.Create && c.Key.Kind == rbacsync.KindServiceAccount && s.o.CI != nil {
			s.Trigger([]authz.SourceID{c.Source}, causeDrift) // its tokens died with the one before
		}
	}
	s.published.report(ctx, p.Round)
	select {
	case s.restored <- restored{started, p.made}:
	default: // Events are made too slowly, and a right that goes is not to wait for them
		s.o.Logger.InfoContext(ctx, "changes were put back without Events about them", "total", len(p.made))
	}
}

// restored is what was put back, and when.
type restored struct {
	at   time.Time
	made []rbacsync.Change
}

// reportRestored makes Events about what was put back, beside the passes.
func reportRestored(ctx context.Context, o *Options, from <-chan restored) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case r := <-from:
			cluster.ReportDrift(ctx, o.Kube, o.Logger, r.at, r.made)
		}
	}
}
