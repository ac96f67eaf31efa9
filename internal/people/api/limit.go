package api

import "sync"

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
