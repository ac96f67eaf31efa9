package gitlab

import (
	"maps"
	"sync"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// secondLook is how old GitLab's first 404 about something must be before another one makes it gone. A replica that lags,
// or a restart, answers a wrong 404 several times within milliseconds. Whoever reads asks again after a second and then
// after two more, so a deletion that no hook reports takes about three seconds.
const secondLook = 2 * time.Second

// absences remembers since when GitLab says that something does not exist, and of what a hook said that it was deleted.
type absences struct {
	pause time.Duration
	mu    sync.Mutex
	since map[authz.SourceID]time.Time
}

// keepAbsences bounds how long a 404, or a hook, that led to nothing is remembered.
const keepAbsences = time.Hour

// wait notes that GitLab says so now and returns how long it is until that counts; 0: it counts.
func (a *absences) wait(id authz.SourceID, now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.since, func(_ authz.SourceID, t time.Time) bool { return now.Sub(t) > keepAbsences })
	since, ok := a.since[id]
	if !ok || since.After(now) { // the clock was set back
		since = now
		a.put(id, now)
	}
	return max(0, a.pause-now.Sub(since))
}

// noted reports whether GitLab, or a hook, has lately said that it does not exist.
func (a *absences) noted(id authz.SourceID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.since[id]
	return ok
}

func (a *absences) forget(id authz.SourceID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.since, id)
}

// reported notes that a hook reported the deletion: then GitLab's first 404 is the second look.
func (a *absences) reported(id authz.SourceID, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.put(id, now.Add(-a.pause))
}

func (a *absences) put(id authz.SourceID, t time.Time) {
	if a.since == nil {
		a.since = map[authz.SourceID]time.Time{}
	}
	a.since[id] = t
}

// Deleted says that a system hook whose sender was authenticated reported the end of these. GitLab is asked all the same, but
// its answer counts at once.
func (r *Reader) Deleted(ids ...authz.SourceID) {
	for _, id := range ids {
		r.absences.reported(id, r.api.now())
	}
}
