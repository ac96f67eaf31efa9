package app

import (
	"maps"
	"sync"
	"time"
)

// recent remembers whose tokens were reviewed lately, so that their accounts are polled first.
type recent struct {
	now func() time.Time

	mu   sync.Mutex
	seen map[int64]time.Time
}

// maxRecent bounds the memory: who logs in beyond it is polled in turn like everybody else.
const maxRecent = 5000

func (r *recent) note(id int64) {
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.seen) >= maxRecent {
		maps.DeleteFunc(r.seen, func(_ int64, at time.Time) bool { return now.Sub(at) > time.Hour })
		if len(r.seen) >= maxRecent {
			return
		}
	}
	r.seen[id] = now
}

func (r *recent) all() map[int64]time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.seen)
}
