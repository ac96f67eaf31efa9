package app

import (
	"context"
	"sync"
	"time"
)

// budget knows how much of GitLab's rate limits the last minute has used.
type budget struct {
	requests func() map[string]int64
	limits   map[string]float64 // per minute, by kind
	now      func() time.Time

	mu     sync.Mutex
	points []point // one every few seconds, of the last minute
}

type point struct {
	at     time.Time
	counts map[string]int64
}

// sample notes how many requests there were so far.
func (b *budget) sample() {
	p := point{b.now(), b.requests()}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.points = append(b.points, p)
	for len(b.points) > 1 && p.at.Sub(b.points[1].at) >= time.Minute {
		b.points = b.points[1:]
	}
}

// shares returns the used share of each limit.
func (b *budget) shares() map[string]float64 {
	b.sample()
	b.mu.Lock()
	defer b.mu.Unlock()
	first, last := b.points[0], b.points[len(b.points)-1]
	out := map[string]float64{}
	for kind, limit := range b.limits {
		if n := last.counts[kind] - first.counts[kind]; n > 0 {
			out[kind] = float64(n) / limit
		}
	}
	return out
}

func (b *budget) run(ctx context.Context) {
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
