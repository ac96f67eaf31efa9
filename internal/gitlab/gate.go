package gitlab

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/wait"
)

// gate keeps requests below GitLab's default rate limits, stops a kind of request after a 429, learns from it where
// this GitLab's limit is, and counts.
type gate struct {
	mu      sync.Mutex
	limits  map[string]*pace
	learned map[string]*lesson
	stopped map[string]stop              // kinds of requests that wait
	refused map[string]map[string]notNow // by kind, then by path: single things that wait
	tested  map[string]time.Time         // when an urgent request of a stopped kind was last let through
	counts  map[string]int64
	recent  map[string][]time.Time // when the requests of the last minute were sent, by kind
	// lastUrgent is when the last urgent request was sent.
	lastUrgent time.Time
}

// stop says since when and until when a kind of request waits.
type stop struct{ since, until time.Time }

// notNow is a 429 to one path. It is fresh until another request of its kind succeeds.
type notNow struct {
	until time.Time
	fresh bool
}

// lesson is a limit that was learned from a refusal: GitLab says neither what its limits are nor how near one is.
type lesson struct {
	pace   *pace
	perMin float64
	until  time.Time
}

const (
	// forget is how long a lesson lasts: an administrator may have raised the limit.
	forget = 15 * time.Minute
	// leastLesson is how many requests a minute must have been sent for a refusal to say something about the limit.
	leastLesson = 20
	// testEvery is how often one urgent request of a stopped kind is sent all the same: what made GitLab refuse may be over, or may
	// never have concerned the whole kind.
	testEvery = 2 * time.Second
	// After an urgent request those of a reading of everything wait for afterUrgent, in which what was read is carried out: they take
	// the processor of GitLab, and ours, for seconds. None waits for longer than yieldOne, and a reading for no longer than yieldAll.
	afterUrgent = 100 * time.Millisecond
	yieldOne    = time.Second
	yieldAll    = 30 * time.Second
)

func newGate(pacing bool) *gate {
	g := &gate{
		limits: map[string]*pace{}, learned: map[string]*lesson{}, stopped: map[string]stop{}, refused: map[string]map[string]notNow{},
		tested: map[string]time.Time{}, counts: map[string]int64{}, recent: map[string][]time.Time{},
	}
	if !pacing {
		return g
	}
	// A third may come at once, the rest evenly, so that no window of the period holds more than the limit.
	for kind, l := range defaultLimits() {
		g.limits[kind] = newPace(l.requests*0.62/l.period.Seconds(), l.requests*0.33, l.urgent)
	}
	return g
}

// pace spreads the requests of a kind. Urgent requests may take the common share, and have one that nobody else takes.
type pace struct{ common, urgent *rate.Limiter }

func newPace(perSecond, burst, urgent float64) *pace {
	return &pace{
		common: rate.NewLimiter(rate.Limit(perSecond*(1-urgent)), max(1, int(burst*(1-urgent)))),
		urgent: rate.NewLimiter(rate.Limit(perSecond*urgent), max(1, int(burst*urgent))),
	}
}

// take waits for a turn. When that comes only after the context's deadline it fails at once.
func (p *pace) take(ctx context.Context, kind string) error {
	if p == nil {
		return ctx.Err()
	}
	lim := p.common
	if urgent(ctx) {
		if p.common.Allow() {
			return ctx.Err()
		}
		lim = p.urgent
	}
	turn := lim.Reserve()
	d := turn.Delay()
	if tooLate(ctx, d) {
		turn.Cancel()
		return &laterError{kind: kind, wait: d}
	}
	if d == 0 {
		return ctx.Err()
	}
	if err := sleep(ctx, d); err != nil {
		turn.Cancel()
		return err
	}
	return nil
}

// ceiling is how many requests of all kinds are sent in a second: what GitLab documents no limit for, as GraphQL, has this one.
// A reading of everything takes all of the common share, and a revocation that then had to wait for two requests of it would take
// 40 ms longer.
type ceiling struct{ pace *pace }

func newCeiling() ceiling {
	return ceiling{&pace{common: rate.NewLimiter(50, 50), urgent: rate.NewLimiter(50, 100)}}
}

// Wait blocks until one more request may be sent.
func (c ceiling) Wait(ctx context.Context) error { return c.pace.take(ctx, "any") }

// laterError says that a request was not sent, because it would have had to wait for longer than it may take.
type laterError struct {
	kind string
	wait time.Duration
}

func (e *laterError) Error() string {
	return fmt.Sprintf("the next request of the kind %q is possible in %s", e.kind, e.wait.Round(100*time.Millisecond))
}

// limit is how many requests GitLab takes in a period, and the share of them that is kept for urgent ones.
type limit struct {
	requests float64
	period   time.Duration
	urgent   float64
}

// defaultLimits are GitLab's own, as far as its documentation or code tells any for what we ask. Source: "Rate limits on Groups API",
// "on Projects API" and "on Users API". Lists of people, direct members, GraphQL and all else have none. Single accounts are read
// for targeted readings almost alone, the list of projects for full ones alone.
func defaultLimits() map[string]limit {
	return map[string]limit{
		"groups": {200, time.Minute, 0.1}, "group": {400, time.Minute, 0.25}, "projects": {2000, 10 * time.Minute, 0.05}, "project": {400, time.Minute, 0.25},
		"members_all": {200, time.Minute, 0.1}, "user": {300, 10 * time.Minute, 0.5},
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
func (g *gate) wait(ctx context.Context, kind string) error { return g.waitFor(ctx, kind, "") }

// waitFor blocks until a request of this kind for this path may start. When that is only after the context's deadline it fails
// at once.
func (g *gate) waitFor(ctx context.Context, kind, path string) error {
	g.letUrgentFirst(ctx)
	if err := g.waitForTurn(ctx, kind, path); err != nil {
		return err
	}
	if urgent(ctx) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.lastUrgent = time.Now()
	}
	return nil
}

// waitForTurn waits as GitLab's limits want it.
func (g *gate) waitForTurn(ctx context.Context, kind, path string) error {
	for {
		g.mu.Lock()
		now := time.Now()
		left, alone := g.left(kind, path, urgent(ctx), now)
		p := g.limits[kind]
		if l := g.learned[kind]; l != nil && now.Before(l.until) {
			p = l.pace
		}
		g.mu.Unlock()
		if left <= 0 {
			return p.take(ctx, kind)
		}
		if s := singleOf(ctx); tooLate(ctx, left) || (alone && s != nil && left > s.left) { // one thing alone is not worth waiting for
			return &laterError{kind: kind, wait: left}
		}
		if err := sleep(ctx, left); err != nil {
			return err
		}
	}
}

// letUrgentFirst has a request of a reading of everything wait while urgent ones are sent.
func (g *gate) letUrgentFirst(ctx context.Context) {
	e := everythingOf(ctx)
	if e == nil {
		return
	}
	patience := min(yieldOne, yieldAll-time.Duration(e.yielded.Load()))
	if patience <= 0 {
		return
	}
	began := time.Now()
	wait.While(ctx, patience, func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return time.Since(g.lastUrgent) < afterUrgent
	})
	e.yielded.Add(int64(time.Since(began)))
}

// left returns for how long a request still has to wait because of refusals, and whether these were about its path alone.
func (g *gate) left(kind, path string, urgent bool, now time.Time) (d time.Duration, alone bool) {
	own := g.refused[kind][path].until.Sub(now)
	whole := g.stopped[kind].until.Sub(now)
	if whole > 0 && own <= 0 && urgent && now.Sub(g.tested[kind]) >= testEvery {
		g.tested[kind] = now
		whole = 0
	}
	return max(own, whole), whole <= 0
}

// isStopped reports whether a whole kind of request waits.
func (g *gate) isStopped(kind string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Now().Before(g.stopped[kind].until)
}

// stop holds further requests like this one back for d, after a 429, and returns their kind. The first refusal concerns this path
// alone: something between us and GitLab, or GitLab itself, may refuse one thing for ever. A list and GraphQL have one path only,
// and when a second path is refused with no success in between, it is the whole kind that is limited.
func (g *gate) stop(req *http.Request, d time.Duration) string {
	kind, path := kindOf(req)
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	paths := g.refused[kind]
	if paths == nil {
		paths = map[string]notNow{}
		g.refused[kind] = paths
	}
	paths[path] = notNow{until: now.Add(d), fresh: true}
	fresh := 0
	for _, r := range paths {
		if r.fresh {
			fresh++
		}
	}
	if fresh < 2 && !onePath(kind) {
		return kind
	}
	s := g.stopped[kind]
	if !now.Before(s.until) { // the first refusal; others that were under way say nothing new
		g.learn(kind, now)
		s = stop{since: now}
	}
	if until := now.Add(d); until.After(s.until) {
		s.until = until
	}
	g.stopped[kind] = s
	return kind
}

// passed notes that GitLab took a request that was sent at the given time: its kind is not limited as a whole.
func (g *gate) passed(req *http.Request, sent time.Time) {
	kind, path := kindOf(req)
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	delete(g.refused[kind], path)
	for p, r := range g.refused[kind] {
		if r.fresh = false; now.Before(r.until) {
			g.refused[kind][p] = r
		} else {
			delete(g.refused[kind], p)
		}
	}
	if s, ok := g.stopped[kind]; ok && sent.After(s.since) {
		delete(g.stopped, kind)
	}
}

// onePath reports whether all requests of a kind are for the same thing.
func onePath(kind string) bool {
	switch kind {
	case "groups", "projects", "users", "graphql":
		return true
	}
	return false
}

// kindOf returns the kind of a request and its path below the instance.
func kindOf(req *http.Request) (kind, path string) {
	path = req.URL.Path
	if i := strings.Index(path, "/api/"); i > 0 {
		path = path[i:]
	}
	return endpointOf(req.Method, path), path
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
	g.learned[kind] = &lesson{pace: newPace(perMin/60, perMin/2, 0.1), perMin: perMin, until: now.Add(forget)}
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
