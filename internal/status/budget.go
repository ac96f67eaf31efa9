package status

import (
	"context"
	"sync"
	"time"
)

// Budget knows how much of GitLab's rate limits the last minute has used.
type Budget struct {
	gitlab Reader
	limits map[string]float64
	now    func() time.Time

	mu     sync.Mutex
	points []point // one every few seconds, of the last minute
}

type point struct {
	at     time.Time
	counts map[string]int64
}

// Reader says what reading GitLab takes.
type Reader interface {
	Requests() map[string]int64 // since the start, by kind
	LinksAge() time.Duration    // since the oldest level or end date of a group invited into a group was read
}

// NewBudget returns a Budget of requests, of which so many of a kind are allowed in a minute.
func NewBudget(gitlab Reader, limits map[string]float64, now func() time.Time) *Budget {
	return &Budget{gitlab: gitlab, limits: limits, now: now}
}

// LinksAge returns how long ago the oldest level or end date of a group invited into a group was read.
func (b *Budget) LinksAge() time.Duration { return b.gitlab.LinksAge() }

// Requests returns how many requests there were since the start, by kind.
func (b *Budget) Requests() map[string]int64 { return b.gitlab.Requests() }

// sample notes how many requests there were so far.
func (b *Budget) sample() {
	p := point{b.now(), b.gitlab.Requests()}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.points = append(b.points, p)
	for len(b.points) > 1 && p.at.Sub(b.points[1].at) >= time.Minute {
		b.points = b.points[1:]
	}
}

// Shares returns the used share of each limit, by kind: 1 is all of it.
func (b *Budget) Shares() map[string]float64 {
	b.sample()
	b.mu.Lock()
	defer b.mu.Unlock()
	first, last := b.points[0], b.points[len(b.points)-1]
	out := map[string]float64{}
	for kind, limit := range b.limits {
		out[kind] = float64(last.counts[kind]-first.counts[kind]) / limit
	}
	return out
}

// Run keeps count until ctx is done.
func (b *Budget) Run(ctx context.Context) {
	t := time.NewTicker(5 * time.Second)
	defer t.Stop()
	for {
		b.sample()
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}
