package syncer

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// A reading of everything takes from seconds to many minutes. It is done beside the rounds, so that no hook waits for it.
// What changed while it went on is read again before it counts: the reading may have met it before the change, and
// would give back a right that was taken since.

// reading is one that is under way.
type reading struct {
	request request
	out     chan result
	got     *result
	during  map[authz.SourceID]bool // what was read by rounds since it began
}

// result is what a reading of everything brought.
type result struct {
	snap *authz.Snapshot
	err  error
	base *authz.Snapshot // what was known when it began; nil: nothing
	took time.Duration
}

// startReading reads everything beside the rounds.
func (s *Syncer) startReading(ctx context.Context, wg *sync.WaitGroup, req request) *reading {
	r := &reading{request: req, out: make(chan result, 1), during: map[authz.SourceID]bool{}}
	base, began := s.known(), s.o.Now()
	wg.Go(func() {
		snap, err := s.o.Reader.Snapshot(ctx)
		r.out <- result{snap, err, base, s.o.Now().Sub(began)}
		s.poke()
	})
	return r
}

// done reports whether the reading has ended; false for none.
func (r *reading) done() bool {
	if r == nil {
		return false
	}
	if r.got == nil {
		select {
		case got := <-r.out:
			r.got = &got
		default:
		}
	}
	return r.got != nil
}

// atOnce is how many things a round reads one by one, and how many of those that changed during a reading are read again
// before it counts. Each takes GitLab a moment, and whoever comes next waits for all of them.
const atOnce = 20

// GitLab takes 400 requests a minute for single groups and as many for single projects, of which we leave it some: these many
// at once, and thereafter these many a second.
const (
	unpaced   = 100
	perSecond = 4
)

// firstToRead sorts people before groups and projects: of what takes rights away, a block takes the most.
func firstToRead(a, b authz.SourceID) int {
	return cmp.Or(cmp.Compare(turnOf(a), turnOf(b)), a.Compare(b))
}

func turnOf(id authz.SourceID) int {
	if id.Kind == authz.UserSource {
		return 0
	}
	return 1
}

// accounts returns the people of whom something else is known than before. It may have come with the rows of a group or
// project, which name their states.
func accounts(before, now *authz.Snapshot) []authz.SourceID {
	var out []authz.SourceID
	if before == nil || now == nil {
		return nil
	}
	for id, u := range now.Users {
		if old, known := before.Users[id]; !known || old.State != u.State || old.Human != u.Human {
			out = append(out, authz.Person(id))
		}
	}
	for id := range before.Users {
		if _, there := now.Users[id]; !there {
			out = append(out, authz.Person(id))
		}
	}
	return out
}

// readAgain reads again what changed while everything was read.
func (s *Syncer) readAgain(ctx context.Context, snap *authz.Snapshot, changed map[authz.SourceID]bool) *authz.Snapshot {
	ids := slices.SortedFunc(maps.Keys(changed), firstToRead)
	now := ids[:min(len(ids), atOnce)]
	left := ids[len(now):]
	if again, err := s.o.Reader.Refresh(ctx, snap, now); err == nil {
		snap = again
	} else {
		left = ids
	}
	out := *snap
	out.Missing, out.Users = maps.Clone(snap.Missing), maps.Clone(snap.Users)
	if out.Missing == nil {
		out.Missing = map[authz.SourceID]string{}
	}
	for _, id := range left {
		out.Missing[id] = "it changed while GitLab was being read, and was not read again yet"
	}
	if s.base == nil {
		return &out
	}
	// What is missing of a group or a project keeps all that hangs on it as it is. An account has no such shelter: of it
	// counts what was known before, or somebody blocked meanwhile would get his rights back.
	for _, id := range ids {
		switch u, known := s.base.Users[id.ID]; {
		case id.Kind != authz.UserSource || out.Missing[id] == "":
		case known:
			out.Users[id.ID] = u
		default:
			delete(out.Users, id.ID)
		}
	}
	return &out
}

// agenda is what a Syncer that runs has to do next.
type agenda struct {
	full    time.Time              // when everything is to be read again
	first   bool                   // nothing was read yet
	carried request                // what a round before should have done, for the next one
	reading *reading               // nil: none is under way
	later   request                // what waits for the reading under way to end
	waiting request                // what had no room in a round yet
	since   map[authz.SourceID]int // of waiting: the take it came with
	takes   int
	last    struct { // reading of everything
		took   time.Duration
		failed bool
	}
	fresh request // what came in for the reading that has just ended, and was not read by a round of its own
	// top returns whose turn something takes: that of its top-level group; of all that is not known yet, one together.
	top func(authz.SourceID) authz.SourceID
}

// due reports whether everything is to be read now, or was.
func (a *agenda) due(now time.Time) bool {
	if a.reading != nil {
		return a.reading.done()
	}
	return due(a.full, now) || a.later.full
}

// at returns when due is true next, as far as the clock alone decides.
func (a *agenda) at(now time.Time) time.Time {
	if a.reading != nil {
		return now.Add(time.Hour) // its end wakes the Syncer
	}
	return a.full
}

// next turns what is asked for into the next round; false when there is none to do now. known says that something was
// read before, so that a part can be read again.
func (a *agenda) next(req request, now time.Time, known bool, start func(request) *reading) (request, bool) {
	if a.reading.done() {
		out := a.reading.request
		out.result = a.reading.got
		a.fresh = a.later.partial()
		a.fresh.merge(req.partial())
		out.merge(request{changed: a.reading.during})
		out.merge(a.fresh)
		a.later = a.later.whole()
		a.later.merge(req.whole())
		a.reading = nil
		return out, true
	}
	if a.reading == nil && a.due(now) {
		req.merge(a.later)
		req.merge(a.carried)
		a.later, a.carried = request{}, request{}
		req.full = true
		if len(req.causes) == 0 {
			req.causes = []string{map[bool]string{true: "start", false: "periodic"}[a.first]}
		}
		a.first = false
	}
	if known {
		req = a.share(req)
	}
	if req.full {
		whole := req.whole()
		req = req.partial()
		if a.reading == nil {
			a.reading = start(whole)
		} else {
			a.later.merge(whole)
		}
	}
	if req.idle() {
		return req, false
	}
	if !known {
		a.later.merge(req)
		return req, false
	}
	if a.reading != nil {
		maps.Copy(a.reading.during, req.changed)
	}
	return req, true
}

// share leaves as much of a request as a round reads one by one: people, and of the rest one thing of each top-level group
// after another, in each of them what came first. So nobody who changes many things keeps those of others waiting. The
// rest waits for the next round; when reading it takes longer than reading everything, that is done instead.
func (a *agenda) share(req request) request {
	if len(req.changed) <= atOnce {
		clear(a.since)
		return req
	}
	if a.since == nil {
		a.since = map[authz.SourceID]int{}
	}
	a.takes++
	for id := range req.changed {
		if a.since[id] == 0 {
			a.since[id] = a.takes
		}
	}
	ids := slices.SortedFunc(maps.Keys(req.changed), func(x, y authz.SourceID) int {
		return cmp.Or(cmp.Compare(a.since[x], a.since[y]), x.Compare(y))
	})
	turn, taken := map[authz.SourceID]int{}, map[authz.SourceID]int{}
	for _, id := range ids {
		if turnOf(id) > 0 {
			top := a.top(id)
			taken[top]++
			turn[id] = taken[top]
		}
	}
	slices.SortStableFunc(ids, func(x, y authz.SourceID) int { return cmp.Compare(turn[x], turn[y]) })
	out, rest := req, request{changed: map[authz.SourceID]bool{}, causes: req.causes}
	out.changed, out.tickets = map[authz.SourceID]bool{}, nil
	for _, id := range ids[:atOnce] {
		out.changed[id] = true
		delete(a.since, id)
	}
	for _, id := range ids[atOnce:] {
		rest.changed[id] = true
	}
	for _, t := range req.tickets {
		if slices.ContainsFunc(t.Changed, func(id authz.SourceID) bool { return rest.changed[id] }) {
			rest.tickets = append(rest.tickets, t)
		} else {
			out.tickets = append(out.tickets, t)
		}
	}
	if len(rest.changed) <= a.most() {
		a.waiting = rest
		return out
	}
	out.full = true
	clear(a.since)
	for _, t := range rest.tickets {
		t.Changed, t.instead = nil, t.Changed // dealt with when everything was read
		out.tickets = append(out.tickets, t)
	}
	if a.reading != nil { // which may have met these things before
		maps.Copy(a.reading.during, rest.changed)
	}
	return out
}

// most is how many things wait to be read one by one: no more than can be in the time that everything takes. While
// everything can't be read, single things are all that is left.
func (a *agenda) most() int {
	if a.last.failed {
		return maxChanged
	}
	return min(unpaced+int(perSecond*a.last.took.Seconds()), maxChanged)
}

// ended notes how a reading of everything ended, and returns what is left to do of it. If it failed, what it was to do
// instead of reading single things waits for its turn again, if that is not too much, together with what came in for the
// end of the reading.
func (a *agenda) ended(req request, round Round, left request) request {
	a.last.took, a.last.failed = req.result.took, round.Snapshot == nil
	if !a.last.failed {
		return left
	}
	a.fresh.tickets = left.partial().tickets
	a.waiting = a.fresh
	left = left.whole()
	single := request{changed: map[authz.SourceID]bool{}}
	whole := left
	whole.tickets = nil
	for _, t := range left.tickets {
		if t.instead == nil {
			whole.tickets = append(whole.tickets, t)
			continue
		}
		t.Changed, t.instead = t.instead, nil
		single.tickets = append(single.tickets, t)
		for _, id := range t.Changed {
			single.changed[id] = true
		}
	}
	if len(single.changed)+len(a.waiting.changed) > maxChanged {
		return left
	}
	a.waiting.merge(single)
	return whole
}
