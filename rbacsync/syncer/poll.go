package syncer

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// Poller reads what sends no hook.
type Poller interface {
	// States returns the states of accounts; those that GitLab does not show are missing in it, and those in more are
	// to be asked for again.
	States(ctx context.Context, ids []int64) (states map[int64]authz.UserState, more []int64, err error)
}

const (
	// recently is how long somebody counts as present after he was seen.
	recently = 15 * time.Minute
	// pollBatch is how many accounts are read with one request.
	pollBatch = 100
)

// poller compares the states of accounts with the last Snapshot, a hundred people at a time: with every tick those who
// were seen in a token review lately, and then everybody in turn. At most two requests are made per tick. That is the
// budget; what it leaves out is read with the next full round.
type poller struct {
	every  time.Duration
	from   Poller
	recent func() map[int64]time.Time // who was seen when; may be nil
	now    func() time.Time

	mu      sync.Mutex
	checked map[int64]time.Time // when somebody was looked at last
	seen    []int64             // of the last tick: who is present
}

// tick looks once. It returns whose record is to be read again.
func (p *poller) tick(ctx context.Context, snap *authz.Snapshot) ([]authz.SourceID, error) {
	now := p.now()
	var present []int64
	here := map[int64]bool{}
	if p.recent != nil {
		for id, at := range p.recent() {
			if _, known := snap.Users[id]; known && now.Sub(at) < recently {
				present, here[id] = append(present, id), true
			}
		}
	}
	p.mu.Lock()
	p.seen = present
	var rest []int64
	for id, u := range snap.Users {
		if u.State == authz.StateActive && !here[id] {
			rest = append(rest, id)
		}
	}
	oldest := func(a, b int64) int { return cmp.Or(p.checked[a].Compare(p.checked[b]), cmp.Compare(a, b)) }
	slices.SortFunc(present, oldest)
	slices.SortFunc(rest, oldest)
	p.mu.Unlock()

	var changed []authz.SourceID
	for _, batch := range [][]int64{present, rest} {
		batch = batch[:min(len(batch), pollBatch)]
		if len(batch) == 0 {
			continue
		}
		states, more, err := p.from.States(ctx, batch)
		if err != nil {
			return changed, err
		}
		p.mu.Lock()
		for _, id := range batch {
			if slices.Contains(more, id) {
				continue
			}
			p.checked[id] = now
			if state, there := states[id]; !there || state != snap.Users[id].State {
				changed = append(changed, authz.Person(id))
			}
		}
		p.mu.Unlock()
	}
	return changed, nil
}

// bound returns how long ago the person who was looked at least recently was looked at, among those who are present
// and among all; never longer ago than the Snapshot was taken.
func (p *poller) bound(snap *authz.Snapshot) (present, all time.Duration) {
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	age := func(id int64) time.Duration {
		at := p.checked[id]
		if at.Before(snap.Taken) {
			at = snap.Taken
		}
		return now.Sub(at)
	}
	for _, id := range p.seen {
		present = max(present, age(id))
	}
	for id, u := range snap.Users {
		if u.State == authz.StateActive {
			all = max(all, age(id))
		}
	}
	return present, all
}
