package syncer

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/wait"
)

// causeStored is the cause of a State that was loaded.
const causeStored = "stored"

// enqueue asks for a round that deals with the tickets.
func (s *Syncer) enqueue(tickets []Ticket) {
	s.mu.Lock()
	for _, t := range tickets {
		s.pending.add(t.Changed, t.Cause)
	}
	s.pending.tickets = append(s.pending.tickets, tickets...)
	s.mu.Unlock()
	s.poke()
}

// unread returns what of a request a round could not read: it is still to be done.
func unread(req request, snap *authz.Snapshot) request {
	var left request
	for id := range req.changed {
		if snap.Missing[id] != "" || snap.MissingAll != "" {
			left.merge(request{changed: map[authz.SourceID]bool{id: true}})
		}
	}
	left.full = req.full && snap.MissingAll != ""
	return left
}

// remaining returns what is still to be done of a request after its round: all of it when GitLab was not read, what
// could not be read, and the tickets while something could not be written.
func remaining(req request, r Round) request {
	if r.Snapshot == nil {
		return request{full: req.full, changed: req.changed, causes: req.causes, tickets: req.tickets}
	}
	left := unread(req, r.Snapshot)
	left.causes = req.causes
	if r.Err != nil || len(r.Report.Deferred) > 0 {
		left.tickets = req.tickets
	} else {
		_, left.tickets = settled(req.tickets, left)
	}
	return left
}

// settled splits tickets into those a round has dealt with and those that are still open.
func settled(tickets []Ticket, left request) (done, open []Ticket) {
	for _, t := range tickets {
		if left.full || slices.ContainsFunc(t.Changed, func(id authz.SourceID) bool { return left.changed[id] }) {
			open = append(open, t)
		} else {
			done = append(done, t)
		}
	}
	return done, open
}

// overcome reports whether a round could read something of what was tried again, and takes out of tried what it was about.
func overcome(tried map[authz.SourceID]bool, req, left request) (yes bool) {
	for id := range req.changed {
		yes = yes || tried[id] && !left.full && !left.changed[id]
		delete(tried, id)
	}
	return yes
}

// newest returns the last ticket of each key: those before it are not in the Inbox any more.
func newest(tickets []Ticket) []Ticket {
	var out []Ticket
	at := map[string]int{}
	for _, t := range tickets {
		if i, ok := at[t.Key]; ok {
			out[i] = t
			continue
		}
		at[t.Key] = len(out)
		out = append(out, t)
	}
	return out
}

// clear takes tickets out of the Inbox when they are dealt with, beside the rounds. What can't be taken out stays,
// which costs the next leader a needless reading.
func (s *Syncer) clear(ctx context.Context, done <-chan []Ticket) {
	var left []Ticket
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case more := <-done:
			left = append(left, more...)
		case <-again:
		}
		if again = nil; len(left) == 0 {
			continue
		}
		if err := s.o.Inbox.Remove(ctx, left); err != nil {
			if ctx.Err() == nil {
				s.o.Logger.WarnContext(ctx, "the inbox of hooks was not cleared, trying again", "error", err)
			}
			again = time.After(wait.Jitter(5 * time.Second))
			continue
		}
		left = nil
	}
}

const notStored = "the Snapshot was not stored: a restart during an outage of GitLab would know less"

// saves keeps the last Snapshot in the Memory. A large one takes a while, so it is done beside the rounds and not
// after each of them; the last one is saved before it returns.
func (s *Syncer) saves(ctx context.Context, offers <-chan Stored) {
	save := func(ctx context.Context, st Stored) {
		if s.o.Apply.May != nil && s.o.Apply.May() != nil {
			return // it is another one's to save now
		}
		if err := s.o.Memory.Save(ctx, st); err != nil && ctx.Err() == nil {
			s.o.Logger.WarnContext(ctx, notStored, "error", err)
		}
	}
	for {
		select {
		case <-ctx.Done():
			select {
			case st := <-offers:
				last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
				defer cancel()
				save(last, st)
			default:
			}
			return
		case st := <-offers:
			began := time.Now()
			save(ctx, st)
			wait.For(ctx, max(time.Second, 20*time.Since(began)))
		}
	}
}

// latest puts v into a channel of size 1 in place of what waits there.
func latest[T any](c chan T, v T) {
	select {
	case <-c:
	default:
	}
	c <- v
}

// followEvery is how often Follow looks for what the leader stored.
const followEvery = 2 * time.Second

// Follow keeps State up to date from the Memory while Run does not run, and gives it a first content at the start:
// explanations and account states are there also while GitLab is away or another process leads. It returns when ctx
// is done.
func (s *Syncer) Follow(ctx context.Context) {
	var have string
	for ; ctx.Err() == nil; wait.For(ctx, wait.Jitter(followEvery)) {
		if st := s.State(); st != nil && st.View.Snapshot != nil && s.leading.Load() {
			continue
		}
		st, version, err := s.o.Memory.Load(ctx, have)
		if err != nil {
			if ctx.Err() == nil {
				s.o.Logger.WarnContext(ctx, "the stored Snapshot can't be loaded, trying again", "error", err)
			}
			continue
		}
		have = version
		if st != nil {
			s.adopt(st)
		}
	}
}

// adopt publishes what was stored, unless this process knows better.
func (s *Syncer) adopt(st *Stored) {
	_, findings := s.o.Policy.Grants(st.Snapshot, s.o.Policy.Sources(st.Snapshot), s.o.Now())
	view := authz.NewView(st.Snapshot, s.o.Policy, st.Names).WithGaps(st.Gaps)
	next := &State{View: view, Jobs: st.Jobs, Round: Round{
		Cause: causeStored, Kind: KindLoaded, Snapshot: st.Snapshot, Names: st.Names, Findings: findings, Started: st.Snapshot.Taken,
	}}
	s.adopting.Lock()
	defer s.adopting.Unlock()
	switch old := s.State(); {
	case old == nil || !s.leading.Load():
		s.state.Store(next)
	case old.View.Snapshot == nil: // this one leads, and could not read anything yet
		next.Err, next.Since = old.Err, old.Since
		s.state.Store(next)
	}
}

// helpers starts what runs beside the rounds and returns where they hand their results to; nil channels where there is
// nobody to take them.
func (s *Syncer) helpers(ctx context.Context, wg *sync.WaitGroup) (done chan []Ticket, offers chan Stored) {
	if s.o.Inbox != nil {
		done = make(chan []Ticket, 16)
		wg.Go(func() { s.o.Inbox.Follow(ctx, s.enqueue) })
		wg.Go(func() { s.clear(ctx, done) })
	}
	if s.poll != nil {
		wg.Go(func() { s.polls(ctx) })
	}
	if s.o.Memory != nil {
		offers = make(chan Stored, 1)
		wg.Go(func() { s.saves(ctx, offers) })
	}
	return done, offers
}
