package status

import (
	"context"
	"sync"
	"time"
)

// Budget knows how much of GitLab's rate limits the last minute has used.
type Budget struct {
	Requests func() map[string]int64
	Limits   map[string]float64 // per minute, by kind
	Now      func() time.Time

	mu     sync.Mutex
	points []point // one every few seconds, of the last minute
}

type point struct {
	at     time.Time
	counts map[string]int64
}

// sample notes how many requests there were so far.
func (b *Budget) sample() {
	p := point{b.Now(), b.Requests()}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.points = append(b.points, p)
	for len(b.points) > 1 && p.at.Sub(b.points[1].at) >= time.Minute {
		b.points = b.points[1:]
	}
}

// Shares returns the used share of each limit.
func (b *Budget) Shares() map[string]float64 {
	b.sample()
	b.mu.Lock()
	defer b.mu.Unlock()
	first, last := b.points[0], b.points[len(b.points)-1]
	out := map[string]float64{}
	for kind, limit := range b.Limits {
		if n := last.counts[kind] - first.counts[kind]; n > 0 {
			out[kind] = float64(n) / limit
		}
	}
	return out
}

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
