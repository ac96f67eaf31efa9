package syncer

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/wait"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
)

// dirty holds the namespaces that are not as they should be, because something in them could not be written or had to wait
// for something more urgent, and when they are looked at again. The key "" is everything.
type dirty map[string]*patch

type patch struct {
	at     time.Time
	pause  time.Duration
	failed int    // changes that the cluster did not take
	why    string // of the first of them; "": all were planned on what had changed meanwhile
	// unrevoked is since when it is known that somebody loses a right here who has it still; nil: nobody does.
	unrevoked *time.Time
}

// everywhere is the key of everything.
const everywhere = ""

// next returns when something is to be looked at again, and whether that is everything.
func (d dirty) next() (at time.Time, all bool) {
	for ns, p := range d {
		if at.IsZero() || p.at.Before(at) {
			at = p.at
		}
		all = all || ns == everywhere
	}
	return at, all
}

// later has a namespace looked at again, with pauses that grow to a minute.
func (d dirty) later(ns string, now time.Time, least, most time.Duration) *patch {
	p := d[ns]
	if p == nil {
		p = &patch{}
		d[ns] = p
	}
	p.pause = min(max(2*p.pause, least), most, time.Minute)
	p.at = now.Add(wait.Jitter(p.pause))
	return p
}

// take notes what a pass over the scope has left. known is since when it was known.
func (d dirty) take(scope rbacsync.Scope, r cluster.Report, known, now time.Time, interval time.Duration) {
	failed, before := map[string][]cluster.Failure{}, map[string]*time.Time{}
	for _, f := range r.Failed {
		failed[f.Change.Key.Namespace] = append(failed[f.Change.Key.Namespace], f)
	}
	for ns, p := range d {
		if !scope.Has(ns) {
			continue
		}
		if before[ns], p.unrevoked = p.unrevoked, nil; len(failed[ns]) == 0 {
			delete(d, ns)
		}
	}
	stillGiven := func(ns string) {
		if d[ns].unrevoked = before[ns]; d[ns].unrevoked == nil {
			d[ns].unrevoked = &known
		}
	}
	for ns, list := range failed {
		least, why := 100*time.Millisecond, "" // the watch brings what we did not know yet
		if i := slices.IndexFunc(list, func(f cluster.Failure) bool { return !f.Conflict() }); i >= 0 {
			f := list[i]
			least, why = time.Second, fmt.Sprintf("%s %s: %v", f.Change.Action, f.Change.Key, f.Err)
		}
		p := d.later(ns, now, least, interval)
		p.failed, p.why = len(list), why
		if slices.ContainsFunc(list, func(f cluster.Failure) bool { return f.Change.Revokes }) {
			stillGiven(ns)
		}
	}
	for _, c := range r.Deferred {
		ns := c.Key.Namespace
		if d[ns] == nil {
			d[ns] = &patch{at: now}
		}
		if c.Revokes {
			d[ns].at = now
			stillGiven(ns)
		}
	}
}

// unrevoked returns since when at most somebody has a right that GitLab has taken, because the cluster did not take the change; nil: nobody has.
func (d dirty) unrevoked() (since *time.Time) {
	for _, p := range d {
		if p.unrevoked != nil && (since == nil || p.unrevoked.Before(*since)) {
			since = p.unrevoked
		}
	}
	return since
}

// unwritten counts what the cluster did not take.
func (d dirty) unwritten() (n int) {
	for _, p := range d {
		n += p.failed
	}
	return n
}

// findings says what the cluster does not take.
func (d dirty) findings() []authz.Finding {
	n, first := 0, ""
	for _, ns := range slices.Sorted(maps.Keys(d)) {
		if p := d[ns]; p.why != "" {
			n += p.failed
			if first == "" {
				first = p.why
			}
		}
	}
	if n == 0 {
		return nil
	}
	return []authz.Finding{{Code: "unwritten", Text: fmt.Sprintf("%d changes could not be written and are tried again; the first: %s", n, first)}}
}

// addTo adds to a job what is to be looked at again by now: nothing that comes in keeps it waiting. last is nil if the next pass
// looks at everything.
func (d dirty) addTo(j job, last *lastPass, now time.Time) job {
	for ns, p := range d {
		if j.everywhere || now.Before(p.at) {
			continue
		}
		id, known := authz.SourceID{}, false
		if last != nil {
			id, known = last.view.Source[ns]
		}
		if !known { // everything, or a namespace that nobody has any more
			j.everywhere = true
			continue
		}
		if j.changed == nil {
			j.changed = map[authz.SourceID]bool{}
		}
		j.changed[id] = true
	}
	return j
}
