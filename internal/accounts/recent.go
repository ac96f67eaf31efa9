package accounts

import (
	"maps"
	"sync"
	"time"
)

// Recent remembers whose tokens were reviewed lately, so that their accounts are polled first. It keeps two
// generations, because a review must not pay for looking through everybody: who is seen goes into the young one, and
// when that one is full or an hour old, it takes the place of the old one, which is forgotten as a whole.
type Recent struct {
	now func() time.Time

	mu         sync.Mutex
	young, old map[int64]time.Time
	since      time.Time // when young began
}

// maxRecent bounds each generation, so that the last maxRecent users are always known. Who was pushed out is polled in
// turn like everybody else.
const maxRecent = 20_000

// NewRecent returns a Recent that has seen nobody.
func NewRecent(now func() time.Time) *Recent { return &Recent{now: now} }

// Note takes down that the token of a user, by GitLab's id, was reviewed now.
func (r *Recent) Note(id int64) {
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.young[id]; r.young == nil || now.Sub(r.since) > time.Hour || !known && len(r.young) >= maxRecent {
		r.young, r.old, r.since = map[int64]time.Time{}, r.young, now
	}
	r.young[id] = now
}

// All returns when each of them was last seen, by GitLab's id.
func (r *Recent) All() map[int64]time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make(map[int64]time.Time, len(r.old)+len(r.young))
	maps.Copy(all, r.old)
	maps.Copy(all, r.young)
	return all
}
