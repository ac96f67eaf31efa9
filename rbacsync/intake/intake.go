package intake

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/wait"
)

// Reader reads GitLab.
type Reader interface {
	// Snapshot reads everything.
	Snapshot(ctx context.Context) (*authz.Snapshot, error)
	// Refresh reads what changed, and what depends on it, and returns base with that replaced; base stays as it is. What could
	// not be read is in Missing.
	Refresh(ctx context.Context, base *authz.Snapshot, changed []authz.SourceID) (*authz.Snapshot, error)
}

// Ticket is one entry of an Inbox: something to read again, until that was done.
type Ticket struct {
	Key, Value string           // of the Inbox; the same Key with another Value is another ticket
	Changed    []authz.SourceID // none: everything
	Cause      string
	At         time.Time // when it came in; zero when that is not known
	// Offered is set where this process began with it before it was in the Inbox. A later ticket of the same Key and the same kind
	// takes the place of an earlier one; one of the other kind does not, for both may be in the Inbox one after the other.
	Offered bool
}

// Replaces reports whether t takes the place of an older ticket.
func (t Ticket) Replaces(old Ticket) bool { return t.Key == old.Key && t.Offered == old.Offered }

// RereadEvery is the pause between two calls of Options.Reread.
const RereadEvery = 10 * time.Second

// ReadingTimeout is how long a reading of single things may take; a Reader should need less.
const ReadingTimeout = 15 * time.Second

// Options are what an Intake is made of.
type Options struct {
	Reader   Reader
	Interval time.Duration // between two readings of everything, varied by a tenth
	// Last, optional, returns the last Snapshot that a process before this one knew, nil for none.
	Last func(context.Context) (*authz.Snapshot, error)
	// Users, optional, is asked each PollEvery for the states of accounts, which send no hook; first for those whom Recent,
	// optional, returns with the time when they were seen.
	Users Poller
	// Reread, optional, is called each RereadEvery to read again what no hook reports, a little at a time. It returns what
	// has changed.
	Reread func(context.Context) ([]authz.SourceID, error)
	// Later, optional, reports whether what is known is still being written: reading everything again, by the clock
	// alone, waits then for one Interval at most.
	Later     func() bool
	PollEvery time.Duration
	Recent    func() map[int64]time.Time
	Now       func() time.Time
	Logger    *slog.Logger
}

// News is what has become known of GitLab since the last one was taken.
type News struct {
	Full     bool            // everything was read
	Snapshot *authz.Snapshot // all that is known; nil: nothing new, only Failed
	// Changed is what was read by itself, whether or not it is different.
	Changed map[authz.SourceID]bool
	Causes  []string
	Done    []Ticket // what of the Inbox was read
	Began   time.Time
	Failed  []Failure
}

// Failure is a reading of which nothing came.
type Failure struct {
	Full   bool
	Causes []string
	Began  time.Time
	Took   time.Duration
	Err    error
}

// maxFailures is how many failures are said that nobody has heard of yet.
const maxFailures = 5

// with returns what is new in both, n being the older one.
func (n News) with(next News) News {
	next.Failed = append(n.Failed, next.Failed...)
	next.Failed = next.Failed[max(0, len(next.Failed)-maxFailures):]
	next.Done = append(n.Done, next.Done...)
	if n.Snapshot == nil {
		return next
	}
	for _, c := range next.Causes {
		if len(n.Causes) < maxCauses && !slices.Contains(n.Causes, c) {
			n.Causes = append(n.Causes, c)
		}
	}
	next.Causes, next.Began, next.Full = n.Causes, n.Began, n.Full || next.Full
	if next.Snapshot == nil {
		next.Snapshot = n.Snapshot
	}
	changed := maps.Clone(n.Changed)
	if changed == nil {
		changed = map[authz.SourceID]bool{}
	}
	maps.Copy(changed, next.Changed)
	next.Changed = changed
	return next
}

// Intake reads GitLab. Make one with New.
type Intake struct {
	o    Options
	in   chan request
	many chan struct{} // more came in than in has room for: everything is read
	news chan News
	seen atomic.Pointer[seen]
	// hasSnapshot is set while what is in news has a Snapshot, and not only failures. Run sets it.
	hasSnapshot atomic.Bool
	// reading is since when single is read; nil: it is not. It ends after what came of it is published.
	reading atomic.Pointer[time.Time]

	// Run owns these.
	now     stamp
	queue   *queue
	base    *authz.Snapshot
	all     stamp                    // when the last reading of everything began
	began   map[authz.SourceID]stamp // when the last reading of a source began, as far as that was after all
	brought map[authz.SourceID]stamp // the same of readings of something else that have brought something about it
	full    *reading                 // under way; nil: none
	single  *reading                 // under way; nil: none
	late    []*reading               // what has ended during single, which was begun with what was known before
	ended   chan *reading
	poller  poller
	reread  struct { // Options.Reread
		at      time.Time
		running bool
	}
}

// request is what somebody asks for.
type request struct {
	changed []authz.SourceID
	cause   string
	tickets []Ticket
}

// reading is one that is under way or has ended.
type reading struct {
	full   bool
	ids    []authz.SourceID
	causes []string
	began  stamp
	at     time.Time
	polled *polled // of a poll: what it brought
	reread bool    // of what no hook reports: ids has changed

	snap *authz.Snapshot
	err  error
	took time.Duration
}

// New returns an Intake that has read nothing yet.
func New(o Options) *Intake {
	o.PollEvery = cmp.Or(o.PollEvery, 10*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Intake{o: o, in: make(chan request, 256), many: make(chan struct{}, 1), news: make(chan News, 1)}
}

// News returns the channel on which Run says what is new. What was not taken from it is in the next one.
func (i *Intake) News() <-chan News { return i.news }

// Waiting reports whether there is something new to take.
func (i *Intake) Waiting() bool { return len(i.news) > 0 }

// WaitingSnapshot reports whether there is a new Snapshot to take, and not only failures.
func (i *Intake) WaitingSnapshot() bool { return len(i.news) > 0 && i.hasSnapshot.Load() }

// Reading reports whether single things are being read, for no longer than that.
func (i *Intake) Reading(atMost time.Duration) bool {
	since := i.reading.Load()
	return since != nil && time.Since(*since) < atMost
}

// Add asks for these sources to be read again; none means everything. It does not block, and may be called by anybody.
func (i *Intake) Add(changed []authz.SourceID, cause string) {
	select {
	case i.in <- request{changed: changed, cause: cause}:
	default: // nobody reads at the moment, or far too much comes in
		select {
		case i.many <- struct{}{}:
		default:
		}
	}
}

// AddTickets asks for what these entries of the Inbox name, and says in the News when that was read. It waits until Run has room
// for them, or ctx is done: what is not known of leaves no Inbox.
func (i *Intake) AddTickets(ctx context.Context, tickets []Ticket) {
	select {
	case i.in <- request{tickets: tickets}:
	case <-ctx.Done():
	}
}

// OfferTickets is AddTickets for who can't wait: it returns false when there is no room at once.
func (i *Intake) OfferTickets(tickets []Ticket) bool {
	select {
	case i.in <- request{tickets: tickets}:
		return true
	default:
		return false
	}
}

// Forget drops what was asked for and said before Run begins: it reads everything anyway.
func (i *Intake) Forget() {
	for {
		select {
		case <-i.in:
		case <-i.many:
		case <-i.news:
		default:
			return
		}
	}
}

// Everything reads everything, by itself. The error says why what came of it can't be worked on.
func (i *Intake) Everything(ctx context.Context) (*authz.Snapshot, error) {
	return i.o.readAll(ctx, nil)
}

// Run reads until ctx is done. It returns when everything it started has ended.
func (i *Intake) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	i.queue, i.base, i.all = newQueue(i.o.Now(), i.o.Interval), nil, 0
	i.began, i.brought = map[authz.SourceID]stamp{}, map[authz.SourceID]stamp{}
	i.full, i.single, i.late, i.ended = nil, nil, nil, make(chan *reading)
	i.poller = poller{at: i.o.Now().Add(wait.Jitter(i.o.PollEvery)), pause: i.o.PollEvery, checked: map[int64]time.Time{}}
	i.reread.at, i.reread.running = i.o.Now().Add(RereadEvery), false
	i.seen.Store(nil)
	defer i.reading.Store(nil)
	for ctx.Err() == nil {
		i.start(ctx, &wg)
		t := time.NewTimer(max(i.next().Sub(i.o.Now()), time.Millisecond))
		select {
		case <-ctx.Done():
		case r := <-i.in:
			i.take(r)
		case <-i.many:
			i.queue.askAll("many hooks", i.now.next())
		case r := <-i.ended:
			i.end(r)
		case <-t.C:
		}
		t.Stop()
	}
}

func (i *Intake) take(r request) {
	at := i.now.next()
	if r.tickets != nil {
		i.queue.addTickets(r.tickets, at, i.o.Now())
	} else {
		i.queue.add(r.changed, r.cause, at, i.o.Now())
	}
}

// next returns when something is due by the clock.
func (i *Intake) next() time.Time {
	at := i.o.Now().Add(time.Hour)
	if i.full == nil {
		at = earliest(at, i.queue.nextAll())
	}
	if i.base != nil && i.single == nil {
		at = earliest(at, i.queue.nextRetry())
	}
	if i.o.Users != nil && i.base != nil && !i.poller.running {
		at = earliest(at, i.poller.at)
	}
	if i.o.Reread != nil && i.base != nil && !i.reread.running {
		at = earliest(at, i.reread.at)
	}
	return at
}

// earliest returns the first of the times that are set.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// start begins the readings that are due and not under way.
func (i *Intake) start(ctx context.Context, wg *sync.WaitGroup) {
	now := i.o.Now()
	if i.o.Later != nil && i.o.Later() {
		i.queue.later(now)
	}
	if due := i.queue.dueAll(now, i.now.next()); due && i.full == nil {
		i.full = &reading{full: true, causes: i.queue.beginAll(), began: i.now.next(), at: now}
		r, base := i.full, i.base
		r.beside(ctx, wg, i, func() { r.snap, r.err = i.o.readAll(ctx, base) })
	}
	if i.base == nil {
		return
	}
	if i.single == nil {
		if ids, causes := i.queue.take(now, topIn(i.base)); len(ids) > 0 {
			began := time.Now()
			i.reading.Store(&began)
			i.single = &reading{ids: ids, causes: causes, began: i.now.next(), at: now}
			r, base := i.single, i.base
			r.beside(ctx, wg, i, func() {
				ctx, cancel := context.WithTimeout(ctx, ReadingTimeout)
				defer cancel()
				if r.snap, r.err = i.o.Reader.Refresh(ctx, base, ids); r.err == nil && r.snap == nil {
					r.err = errNothing
				}
			})
		}
	}
	if i.o.Users != nil && !i.poller.running && !now.Before(i.poller.at) {
		i.poller.running = true
		r, p := &reading{causes: []string{"poll"}, began: i.now.next(), at: now}, i.poller.plan(i.base, now, i.o.recent())
		r.beside(ctx, wg, i, func() {
			ctx, cancel := context.WithTimeout(ctx, ReadingTimeout)
			defer cancel()
			r.polled, r.err = p.ask(ctx, i.o.Users)
		})
	}
	i.startReread(ctx, wg, now)
}

// startReread begins to read what no hook reports.
func (i *Intake) startReread(ctx context.Context, wg *sync.WaitGroup, now time.Time) {
	if i.o.Reread == nil || i.reread.running || now.Before(i.reread.at) {
		return
	}
	i.reread.running = true
	r := &reading{reread: true, at: now}
	r.beside(ctx, wg, i, func() {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		r.ids, r.err = i.o.Reread(ctx)
	})
}

func (i *Intake) endReread(r *reading) {
	i.reread.at, i.reread.running = i.o.Now().Add(RereadEvery), false
	if r.err != nil {
		i.o.Logger.Warn("invitations of groups can't be read again, trying again", "error", r.err)
	}
	if len(r.ids) > 0 {
		i.queue.add(r.ids, "invitations", i.now.next(), i.o.Now())
	}
}

// beside does a reading beside Run, which hears of its end.
func (r *reading) beside(ctx context.Context, wg *sync.WaitGroup, i *Intake, read func()) {
	wg.Go(func() {
		read()
		r.took = i.o.Now().Sub(r.at)
		select {
		case i.ended <- r:
		case <-ctx.Done():
		}
	})
}

var errNothing = errors.New("the reader returned nothing")

// readAll reads everything. It fails also when a list of it could not be read, or when an administrator's token that read
// the last one is not one any more, also when that one was read by another process: then what was known before stays.
func (o Options) readAll(ctx context.Context, base *authz.Snapshot) (*authz.Snapshot, error) {
	snap, err := o.Reader.Snapshot(ctx)
	switch {
	case err != nil:
		return nil, err
	case snap == nil:
		return nil, errNothing
	case snap.MissingAll != "":
		return nil, fmt.Errorf("not even a list was read completely, so nothing is changed: %s", snap.MissingAll)
	case snap.Admin:
		return snap, nil
	}
	if base == nil && o.Last != nil {
		if base, err = o.Last(ctx); err != nil {
			return nil, fmt.Errorf("the reading token is not shown to be an administrator's, and whether the last one was can't be learned: %w", err)
		}
	}
	if base != nil && base.Admin && base.Issuer == snap.Issuer {
		return nil, errors.New(authz.DemotedToken)
	}
	return snap, nil
}

// end takes in what a reading has brought.
func (i *Intake) end(r *reading) {
	if r.reread {
		i.endReread(r)
		return
	}
	if r != i.single {
		i.late = append(i.late, r)
	} else {
		i.single = nil
		i.endSingle(r)
		i.reading.Store(nil)
	}
	if i.single != nil { // was begun with what was known before, so it comes first; it takes no longer than ReadingTimeout
		return
	}
	for _, r := range i.late {
		if r.full {
			i.endFull(r)
		} else {
			i.endPoll(r)
		}
	}
	i.late = nil
}

func (i *Intake) endFull(r *reading) {
	i.full = nil
	i.queue.endedAll(i.o.Now(), r.took, r.causes, r.err)
	if r.err != nil {
		i.fail(r)
		return
	}
	again := i.merge(r)
	for _, id := range again {
		i.queue.add([]authz.SourceID{id}, "changed while GitLab was read", i.now.next(), i.o.Now())
	}
	i.publish(News{Full: true, Snapshot: i.base, Causes: r.causes, Began: r.at})
}

func (i *Intake) endSingle(r *reading) {
	if r.err != nil {
		i.queue.failed(r.ids, r.causes, i.o.Now())
		i.fail(r)
		return
	}
	before := i.base
	i.base = r.snap
	i.note(r, before)
	changed := make(map[authz.SourceID]bool, len(r.ids))
	var failed []authz.SourceID
	for _, id := range r.ids {
		if changed[id] = true; r.snap.Missing[id] != "" {
			failed = append(failed, id)
		}
	}
	for id := range r.snap.Missing { // what the reading led to and did not reach
		if !changed[id] && before.Missing[id] == "" {
			i.queue.add([]authz.SourceID{id}, "not reached", i.now.next(), i.o.Now())
			failed = append(failed, id)
		}
	}
	i.queue.failed(failed, r.causes, i.o.Now())
	i.publish(News{Snapshot: i.base, Changed: changed, Causes: r.causes, Began: r.at})
}

func (i *Intake) fail(r *reading) {
	i.publish(News{Failed: []Failure{{Full: r.full, Causes: r.causes, Began: r.at, Took: r.took, Err: fmt.Errorf("reading GitLab: %w", r.err)}}})
}

// publish says what is new, together with what was not taken yet.
func (i *Intake) publish(n News) {
	if n.Snapshot != nil {
		n.Done = i.queue.settle(i.readSince, i.all)
	}
	select {
	case older := <-i.news:
		n = older.with(n)
	default:
	}
	i.hasSnapshot.Store(n.Snapshot != nil)
	i.news <- n // Run alone sends, so there is room
}

// readSince returns when the last reading began that could read a source.
func (i *Intake) readSince(id authz.SourceID) stamp {
	if i.base.Missing[id] != "" {
		return 0
	}
	return max(i.began[id], i.all)
}

// topIn returns the top-level group of a source as far as it is known; zero for what is not known yet.
func topIn(known *authz.Snapshot) func(authz.SourceID) authz.SourceID {
	return func(id authz.SourceID) authz.SourceID {
		if known.Contains(id) {
			return known.Top(id)
		}
		return authz.SourceID{}
	}
}
