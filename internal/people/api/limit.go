package api

import (
	"maps"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxPaces is how many people's paces are kept before those are forgotten who have not asked for a while.
const maxPaces = 4096

// paces limits how often each person asks.
type paces struct {
	perSecond float64
	burst     int
	mu        sync.Mutex
	of        map[int64]*rate.Limiter
}

// allow reports whether somebody may ask now.
func (p *paces) allow(user int64, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.of[user]
	if l == nil {
		if len(p.of) >= maxPaces { // one that is full again is as good as a new one
			maps.DeleteFunc(p.of, func(_ int64, l *rate.Limiter) bool { return l.TokensAt(now) >= float64(p.burst) })
		}
		if p.of == nil {
			p.of = map[int64]*rate.Limiter{}
		}
		l = rate.NewLimiter(rate.Limit(p.perSecond), p.burst)
		p.of[user] = l
	}
	return l.AllowN(now, 1)
}

// watches counts who watches.
type watches struct {
	all, own int
	mu       sync.Mutex
	sum      int
	of       map[int64]int
}

// begin takes a place; end gives it back.
func (w *watches) begin(user int64) (full, mine bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.of[user] >= w.own {
		return true, true
	}
	if w.sum >= w.all {
		return true, false
	}
	w.sum++
	w.of[user]++
	return false, false
}

func (w *watches) end(user int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sum--
	if w.of[user]--; w.of[user] == 0 {
		delete(w.of, user)
	}
}
