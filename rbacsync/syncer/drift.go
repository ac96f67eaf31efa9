package syncer

import (
	"time"
)

// causeDrift is the cause of rounds that put back what somebody else changed.
const causeDrift = "drift"

// Drift is put back at once, but not for ever at once: somebody who changes a namespace again and again gets it
// back at most driftBurst times in driftWindow, and after that once at the end of it.
const (
	driftBurst  = 20
	driftWindow = time.Minute
)

// fights counts how often namespaces were put back.
type fights map[string]*fight

type fight struct {
	since time.Time
	count int
}

// due splits namespaces into those to put back now and those that have to wait, and returns until when.
func (f fights) due(spaces map[string]bool, now time.Time) (now1, later map[string]bool, until time.Time) {
	now1, later = map[string]bool{}, map[string]bool{}
	for ns := range spaces {
		x := f[ns]
		if x == nil || now.Sub(x.since) >= driftWindow {
			x = &fight{since: now}
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

func (f fights) restored(ns string) {
	if x := f[ns]; x != nil {
		x.count++
	}
}
