package intake

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/wait"
)

const (
	// maxSingle is how many single things one reading reads; whoever comes next waits for all of them.
	maxSingle = 20
	// maxRetried is how many of those that could not be read before one reading tries.
	maxRetried = 8
	// maxQueued is how many sources wait to be read one by one; of more, everything is read.
	maxQueued = 500
	// GitLab takes 400 requests a minute for single groups and as many for single projects, of which we leave it some:
	// these many at once, and thereafter these many a second.
	unpaced   = 100
	perSecond = 4
	// maxCauses is how many causes of one reading are named.
	maxCauses = 5
	// askedAgain is how soon something that could not be read is tried again when it is asked for once more.
	askedAgain = 5 * time.Second
	// laterAgain is how soon it is asked again whether a reading by the clock has to wait.
	laterAgain = time.Second
)

// stamp is a moment in the life of an Intake: it only grows, whatever the clock does. Zero is before all of them.
type stamp uint64

// next lets it grow.
func (s *stamp) next() stamp {
	*s++
	return *s
}

// queue is what has to be read of GitLab: single things, everything, and the tickets of the Inbox that ask for it. It does
// no I/O and has no clock; one goroutine owns it.
type queue struct {
	interval time.Duration // between two readings of everything
	items    map[authz.SourceID]*item
	tickets  []ticket
	all      everything
	retried  bool // the last reading of single things was of those that had failed before
}

// item is one thing to be read.
type item struct {
	asked  stamp // when it was asked for last: a reading that began later covers it
	first  stamp // when it was asked for first, for its turn
	causes []cause
	retry
	left bool // to a reading of everything, because too much waits
}

// ticket is an entry of the Inbox that is not read yet.
type ticket struct {
	Ticket
	taken stamp
}

// everything is when everything has to be read.
type everything struct {
	at     time.Time // the periodic one
	latest time.Time // to when it may be put off
	asked  stamp     // when it was asked for last
	causes []cause
	retry
	first  bool // nothing was read yet
	took   time.Duration
	failed bool
}

// retry is when something that failed is tried again, with pauses that grow to a minute.
type retry struct {
	at    time.Time // zero: nothing has failed
	pause time.Duration
}

func (r *retry) later(now time.Time, interval time.Duration) {
	r.pause = min(max(2*r.pause, time.Second), interval, time.Minute)
	r.at = now.Add(wait.Jitter(r.pause))
}

func newQueue(now time.Time, interval time.Duration) *queue {
	return &queue{interval: interval, items: map[authz.SourceID]*item{}, all: everything{at: now, latest: now, first: true}}
}

// add asks for these to be read; none means everything.
func (q *queue) add(changed []authz.SourceID, why string, at stamp, now time.Time) {
	if len(changed) == 0 {
		q.askAll(why, at)
	}
	for _, id := range changed {
		i := q.items[id]
		if i == nil {
			i = &item{first: at}
			q.items[id] = i
		}
		i.asked, i.causes = at, withCause(i.causes, why, at)
		if soon := now.Add(askedAgain); i.at.After(soon) {
			i.at = soon
		}
	}
}

func (q *queue) askAll(why string, at stamp) {
	q.all.asked, q.all.causes = at, withCause(q.all.causes, why, at)
}

// cause is why something is read, and since when.
type cause struct {
	why string
	at  stamp
}

func withCause(causes []cause, why string, at stamp) []cause {
	if len(causes) == maxCauses || slices.ContainsFunc(causes, func(c cause) bool { return c.why == why }) {
		return causes
	}
	return append(causes, cause{why, at})
}

// whys returns the causes in the order in which they came up.
func whys(causes []cause) (out []string) {
	slices.SortStableFunc(causes, func(a, b cause) int { return cmp.Compare(a.at, b.at) })
	for _, c := range causes {
		if len(out) < maxCauses && !slices.Contains(out, c.why) {
			out = append(out, c.why)
		}
	}
	return out
}

// addTickets asks for what these entries of the Inbox name.
func (q *queue) addTickets(tickets []Ticket, at stamp, now time.Time) {
	for _, t := range tickets {
		q.add(t.Changed, t.Cause, at, now)
		q.tickets = append(slices.DeleteFunc(q.tickets, func(old ticket) bool { return t.Replaces(old.Ticket) }), ticket{t, at})
	}
}

// most is how many things wait to be read one by one: no more than can be in the time that everything takes. While
// everything can't be read, single things are all that is left.
func (q *queue) most() int {
	if q.all.failed {
		return maxQueued
	}
	return min(unpaced+int(perSecond*q.all.took.Seconds()), maxQueued)
}

// dueAll reports whether everything is to be read, as soon as no reading of everything is under way. Where so much waits that
// it would take longer to read it one by one, it is left to that reading.
func (q *queue) dueAll(now time.Time, at stamp) bool {
	single, users := 0, 0
	for id, i := range q.items {
		switch {
		case i.left:
		case id.Kind == authz.UserSource:
			users++ // a hundred of them cost one request
		default:
			single++
		}
	}
	if single > q.most() || users > maxQueued {
		for id, i := range q.items {
			i.left = i.left || id.Kind != authz.UserSource || users > maxQueued
		}
		q.askAll("many changes", at)
	}
	switch {
	case !q.all.retry.at.IsZero():
		return !now.Before(q.all.retry.at)
	case q.all.asked > 0:
		return true
	}
	return !now.Before(q.all.at)
}

// later puts a periodic reading of everything off that is due by now, by one interval at most. Nothing else waits: neither one that
// somebody asked for nor one that is tried again.
func (q *queue) later(now time.Time) {
	if !now.Before(q.all.at) && now.Before(q.all.latest) {
		q.all.at = earliest(now.Add(laterAgain), q.all.latest)
	}
}

// beginAll takes what everything is read for.
func (q *queue) beginAll() (causes []string) {
	if causes = whys(q.all.causes); len(causes) == 0 {
		causes = []string{map[bool]string{true: "start", false: "periodic"}[q.all.first]}
	}
	q.all.asked, q.all.causes, q.all.first = 0, nil, false
	return causes
}

// endedAll notes how a reading of everything has ended.
func (q *queue) endedAll(now time.Time, took time.Duration, causes []string, err error) {
	q.all.took, q.all.failed = took, err != nil
	if err == nil {
		q.all.retry = retry{}
		q.all.at = now.Add(wait.Jitter(q.interval))
		q.all.latest = q.all.at.Add(q.interval)
		q.leftOver()
		return
	}
	q.all.later(now, q.interval)
	for _, c := range causes {
		q.all.causes = withCause(q.all.causes, c, q.all.asked)
	}
	if len(q.items) <= maxQueued {
		q.leftOver()
	}
}

// leftOver has what a reading of everything did not bring read by itself again.
func (q *queue) leftOver() {
	for _, i := range q.items {
		i.left = false
	}
}

// take returns what is to be read one by one now. Users come first: of what takes rights away, a block takes the most. Of
// the rest comes one thing of each top-level group after another, in each of them what was asked for first, so that nobody
// who changes many things keeps those of others waiting. What could not be read before is read apart from all that, in its
// turn: it may hang again.
func (q *queue) take(now time.Time, top func(authz.SourceID) authz.SourceID) (ids []authz.SourceID, causes []string) {
	var fresh, failed []authz.SourceID
	for id, i := range q.items {
		switch {
		case i.left:
		case i.at.IsZero():
			fresh = append(fresh, id)
		case !now.Before(i.at):
			failed = append(failed, id)
		}
	}
	if q.retried = len(failed) > 0 && (!q.retried || len(fresh) == 0); q.retried {
		slices.SortFunc(failed, func(a, b authz.SourceID) int {
			return cmp.Or(cmp.Compare(turnOf(a), turnOf(b)), q.items[a].at.Compare(q.items[b].at), a.Compare(b))
		})
		ids = failed[:min(len(failed), maxRetried)]
	} else {
		ids = q.inTurns(fresh, top)
		ids = ids[:min(len(ids), maxSingle)]
	}
	slices.SortFunc(ids, func(a, b authz.SourceID) int { return cmp.Or(cmp.Compare(turnOf(a), turnOf(b)), a.Compare(b)) })
	var all []cause
	for _, id := range ids {
		all = append(all, q.items[id].causes...)
		q.items[id].causes = nil
	}
	return ids, whys(all)
}

// turnOf is 0 for users and 1 for all else.
func turnOf(id authz.SourceID) int {
	if id.Kind == authz.UserSource {
		return 0
	}
	return 1
}

func (q *queue) inTurns(ids []authz.SourceID, top func(authz.SourceID) authz.SourceID) []authz.SourceID {
	slices.SortFunc(ids, func(a, b authz.SourceID) int {
		return cmp.Or(cmp.Compare(q.items[a].first, q.items[b].first), a.Compare(b))
	})
	if len(ids) <= maxSingle {
		slices.SortStableFunc(ids, func(a, b authz.SourceID) int { return cmp.Compare(turnOf(a), turnOf(b)) })
		return ids
	}
	turn, taken := make(map[authz.SourceID]int, len(ids)), map[authz.SourceID]int{}
	for _, id := range ids {
		if turnOf(id) > 0 {
			group := top(id)
			taken[group]++
			turn[id] = taken[group]
		}
	}
	slices.SortStableFunc(ids, func(a, b authz.SourceID) int { return cmp.Compare(turn[a], turn[b]) })
	return ids
}

// settle drops what was read since it was asked for, and returns the tickets of it: read says when the last reading began
// that could read a source, all when the last one of everything did.
func (q *queue) settle(read func(authz.SourceID) stamp, all stamp) (done []Ticket) {
	maps.DeleteFunc(q.items, func(id authz.SourceID, i *item) bool { return read(id) > i.asked })
	q.tickets = slices.DeleteFunc(q.tickets, func(t ticket) bool {
		open := len(t.Changed) == 0 && all <= t.taken || slices.ContainsFunc(t.Changed, func(id authz.SourceID) bool { return read(id) <= t.taken })
		if !open {
			done = append(done, t.Ticket)
		}
		return !open
	})
	return done
}

// failed puts off what a reading could not read.
func (q *queue) failed(ids []authz.SourceID, causes []string, now time.Time) {
	for _, id := range ids {
		if i := q.items[id]; i != nil {
			i.later(now, q.interval)
			for _, why := range causes {
				i.causes = withCause(i.causes, why, i.asked)
			}
		}
	}
}

// nextAll returns when everything is due by the clock, nextRetry when something is that could not be read; zero: never.
func (q *queue) nextAll() time.Time {
	if !q.all.retry.at.IsZero() {
		return q.all.retry.at
	}
	return q.all.at
}

func (q *queue) nextRetry() time.Time {
	var at time.Time
	for _, i := range q.items {
		if !i.left {
			at = earliest(at, i.at)
		}
	}
	return at
}
