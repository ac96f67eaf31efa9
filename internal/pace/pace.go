// Package pace limits how often each person may ask: a token bucket per person (golang.org/x/time/rate). The page and /api/v1 share
// it, each with a Pace of its own.
//
// It never refuses somebody for what others do, and its memory does not grow with the number of people. It decides by the person's
// number and the time alone, and so tells nothing of what was asked for.
package pace

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxPeople is how many buckets each of the two generations of a Pace holds at most.
const maxPeople = 4096

// Pace is the limit of each person. It may be used by many at the same time.
type Pace struct {
	perSecond rate.Limit
	burst     int
	fill      time.Duration // until an empty bucket is full again

	mu sync.Mutex
	// Buckets are in two generations: those used since turned, and those used only before. A bucket that nobody used for as long as
	// it takes to fill is as good as a new one, so a generation is forgotten without a look at its buckets.
	turned       time.Time
	used, before map[int64]*rate.Limiter
}

// New returns a Pace of perSecond requests in the long run and burst at once, both above 0.
func New(perSecond float64, burst int) *Pace {
	return &Pace{
		perSecond: rate.Limit(perSecond), burst: burst, fill: time.Duration(float64(burst) / perSecond * float64(time.Second)),
		used: map[int64]*rate.Limiter{},
	}
}

// Allow reports whether somebody may ask now. Who may not has taken nothing.
func (p *Pace) Allow(user int64, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bucket(user, now).AllowN(now, 1)
}

// bucket returns the bucket of somebody, and notes that it was used. Too many people at a time begin a new generation early: then some
// get a full bucket sooner than they should, and nobody is refused for it.
func (p *Pace) bucket(user int64, now time.Time) *rate.Limiter {
	if now.Sub(p.turned) >= p.fill || len(p.used) >= maxPeople {
		p.before, p.used, p.turned = p.used, map[int64]*rate.Limiter{}, now
	}
	l := p.used[user]
	if l == nil {
		if l = p.before[user]; l == nil {
			l = rate.NewLimiter(p.perSecond, p.burst)
		}
		p.used[user] = l
	}
	return l
}
