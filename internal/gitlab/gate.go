package gitlab

import (
	"context"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// gate keeps requests below GitLab's default rate limits, stops a kind of request after a 429, learns from it where
// this GitLab's limit is, and counts.
type gate struct {
	mu      sync.Mutex
	limits  map[string]*rate.Limiter
	learned map[string]*lesson
	stopped map[string]time.Time // wall-clock time until which a kind of request waits
	counts  map[string]int64
	recent  map[string][]time.Time // when the requests of the last minute were sent, by kind
}

// lesson is a limit that was learned from a refusal: GitLab says neither what its limits are nor how near one is.
type lesson struct {
	limiter *rate.Limiter
	perMin  float64
	until   time.Time
}

const (
	// forget is how long a lesson lasts: an administrator may have raised the limit.
	forget = 15 * time.Minute
	// leastLesson is how many requests a minute must have been sent for a refusal to say something about the limit.
	leastLesson = 20
)

func newGate(pacing bool) *gate {
	g := &gate{
		limits: map[string]*rate.Limiter{}, learned: map[string]*lesson{}, stopped: map[string]time.Time{},
		counts: map[string]int64{}, recent: map[string][]time.Time{},
	}
	if !pacing {
		return g
	}
	// A third may come at once, the rest evenly, so that no window of the period holds more than the limit.
	for kind, l := range defaultLimits() {
		g.limits[kind] = rate.NewLimiter(rate.Limit(l.requests*0.62/l.period.Seconds()), int(l.requests*0.33))
	}
	return g
}

type limit struct {
	requests float64
	period   time.Duration
}

// defaultLimits are GitLab's own. Source: "rate limits on Groups API" and "on Projects API".
func defaultLimits() map[string]limit {
	return map[string]limit{
		"groups": {200, time.Minute}, "group": {400, time.Minute}, "projects": {2000, 10 * time.Minute}, "project": {400, time.Minute},
		"members_all": {200, time.Minute},
	}
}

// LimitsPerMinute returns GitLab's default limits by kind of request, as Requests names them.
func LimitsPerMinute() map[string]float64 {
	out := map[string]float64{}
	for kind, l := range defaultLimits() {
		out[kind] = l.requests / l.period.Minutes()
	}
	return out
}

// endpointOf names the kind of a request as GitLab's limits and our counters do; path starts with /api/.
func endpointOf(method, path string) string {
	if strings.HasPrefix(path, "/api/graphql") {
		return "graphql"
	}
	if method != http.MethodGet {
		return "write"
	}
	seg := strings.Split(strings.Trim(strings.TrimPrefix(path, "/api/v4"), "/"), "/")
	switch n := len(seg); {
	case n >= 3 && seg[2] == "members" && seg[n-1] == "all":
		return "members_all"
	case n >= 3 && seg[2] == "members":
		return "members"
	case n == 1 && (seg[0] == "groups" || seg[0] == "projects" || seg[0] == "users"):
		return seg[0]
	case n == 2 && (seg[0] == "groups" || seg[0] == "projects" || seg[0] == "users"):
		return strings.TrimSuffix(seg[0], "s")
	}
	return "other"
}

// wait blocks until a request of this kind may start.
func (g *gate) wait(ctx context.Context, kind string) error {
	for {
		g.mu.Lock()
		left := time.Until(g.stopped[kind])
		lim := g.limits[kind]
		if l := g.learned[kind]; l != nil && time.Now().Before(l.until) {
			lim = l.limiter
		}
		g.mu.Unlock()
		if left <= 0 {
			if lim == nil {
				return ctx.Err()
			}
			return lim.Wait(ctx)
		}
		if err := sleep(ctx, left); err != nil {
			return err
		}
	}
}

// stop holds further requests of the same kind back for d and returns the kind.
func (g *gate) stop(req *http.Request, d time.Duration) string {
	path := req.URL.Path
	if i := strings.Index(path, "/api/"); i > 0 {
		path = path[i:]
	}
	kind := endpointOf(req.Method, path)
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if !now.Before(g.stopped[kind]) { // the first refusal; others that were under way say nothing new
		g.learn(kind, now)
	}
	if until := now.Add(d); until.After(g.stopped[kind]) {
		g.stopped[kind] = until
	}
	return kind
}

// learn sets the pace of a kind of request to what GitLab took of it in the last minute, with a margin, as far as
// that is less than the pace so far. A third may come at once, so that no minute of the clock holds more.
func (g *gate) learn(kind string, now time.Time) {
	sent := len(g.lately(kind, now))
	if sent < leastLesson {
		return
	}
	perMin := 0.62 * float64(sent)
	if old := g.learned[kind]; old != nil && now.Before(old.until) {
		perMin = min(perMin, 0.8*old.perMin) // it was not enough
	}
	perMin = max(perMin, leastLesson/2)
	g.learned[kind] = &lesson{
		limiter: rate.NewLimiter(rate.Limit(perMin/60), max(1, int(perMin/2))), perMin: perMin, until: now.Add(forget),
	}
}

// lately returns when requests of a kind were sent within the last minute.
func (g *gate) lately(kind string, now time.Time) []time.Time {
	sent := g.recent[kind]
	for len(sent) > 0 && now.Sub(sent[0]) > time.Minute {
		sent = sent[1:]
	}
	g.recent[kind] = sent
	return sent
}

func (g *gate) count(kind string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.counts[kind]++
	g.recent[kind] = append(g.lately(kind, now), now)
}

func (g *gate) requests() map[string]int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.counts)
}
