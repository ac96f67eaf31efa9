package status

import (
	"slices"
	"sync"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// Rounds is what the document says of more than the last round, and what the leader waits for before the first. Its methods
// may be called at the same time, and none of them waits.
type Rounds struct {
	changed chan struct{} // there is something to write

	mu      sync.Mutex
	held    int
	hooks   int             // dealt with
	times   []time.Duration // of the last hookTimes of them
	waiting *authz.Finding
}

// NewRounds returns the Rounds of a process that has done none yet.
func NewRounds() *Rounds { return &Rounds{changed: make(chan struct{}, 1)} }

// Add takes in a round that has ended.
func (p *Rounds) Add(r syncer.Round) {
	p.mu.Lock()
	if r.Compared() {
		p.held = len(r.Held)
	}
	for _, t := range r.Done {
		p.hooks++
		if !t.At.IsZero() {
			p.times = append(p.times, max(0, r.Started.Add(r.Duration).Sub(t.At)))
		}
	}
	p.times = p.times[max(0, len(p.times)-hookTimes):]
	p.mu.Unlock()
	p.Rouse()
}

// Wait takes in what the leader waits for, nil when it waits no more, and reports whether that is news.
func (p *Rounds) Wait(f *authz.Finding) bool {
	p.mu.Lock()
	news := f != nil || p.waiting != nil
	p.waiting = f
	p.mu.Unlock()
	if news {
		p.Rouse()
	}
	return news
}

// Rouse has the document written soon.
func (p *Rounds) Rouse() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// summary returns how many changes are held, what became of hooks, and what the leader waits for.
func (p *Rounds) summary() (held int, hooks hookSummary, waiting []authz.Finding) {
	p.mu.Lock()
	defer p.mu.Unlock()
	hooks.Count = p.hooks
	if len(p.times) > 0 {
		sorted := slices.Sorted(slices.Values(p.times))
		hooks.Median, hooks.Slowest = sorted[len(sorted)/2].Round(time.Millisecond).String(), sorted[len(sorted)-1].Round(time.Millisecond).String()
	}
	if p.waiting != nil {
		waiting = []authz.Finding{*p.waiting}
	}
	return p.held, hooks, waiting
}
