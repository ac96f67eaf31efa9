package syncer

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/wait"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Stored is what is kept beyond the life of a process: the last Snapshot and the names of the namespaces, and what the
// next plan is judged by (see Evidence).
type Stored struct {
	Snapshot *authz.Snapshot
	Names    map[authz.SourceID]string
	Jobs     map[int64]string // as in State
	// Before is the last Snapshot that the whole cluster agreed with, often Snapshot itself; nil: not known. Of it only the
	// issuer, the users, the groups and the projects are stored.
	Before *authz.Snapshot
	// Policy is what the last policy was made of that the whole cluster agreed with; nil: not known.
	Policy *authz.PolicyConfig
	// Begun is what those policies were made of that the cluster may have been written by since.
	Begun []authz.PolicyConfig
	Past  []rbacsync.Past
	// Marks says by what the namespaces in Names are known.
	Marks map[string]rbacsync.Mark
	// Gaps is what the cluster lacks of what GitLab gives (authz.View.Gaps); nil: not known.
	Gaps map[authz.SourceID]authz.Gap
}

// Memory keeps what one process has to know of those before it, for other replicas and for the next start.
type Memory interface {
	// Save keeps s. It calls yield, optional, again and again while it is at work, which takes a while: others may go first.
	Save(ctx context.Context, s Stored, yield func()) error
	// Load returns what is stored and its version; nil when nothing is, or nothing but the version in have.
	Load(ctx context.Context, have string) (*Stored, string, error)
}

// causeStored is the cause of a State that was loaded.
const causeStored = "stored"

// recall takes in what a process before this one knew, once.
func (s *pipeline) recall(ctx context.Context, p *pass) {
	b := &s.brakes
	if b.recalled || s.o.Memory == nil {
		return
	}
	st, _, err := s.o.Memory.Load(ctx, "")
	if err != nil {
		p.noted = append(p.noted, authz.Finding{Code: "memory_unread", Text: "what was stored of the rounds before can't be read, so more than usual may be held: " + err.Error()})
		return
	}
	b.recalled = true
	if st == nil || st.Snapshot.Issuer != p.Snapshot.Issuer {
		return
	}
	b.before, b.latest, b.past = st.Before, st.Snapshot, st.Past
	s.marks.recall(st)
	if st.Policy != nil {
		if p, err := authz.NewPolicy(*st.Policy); err == nil { // else an older version let pass what this one does not
			b.policy = &p
		}
	}
	own := b.begun
	b.begun = nil
	for _, c := range st.Begun {
		if p, err := authz.NewPolicy(c); err == nil {
			b.begun = append(b.begun, p)
		} else { // what a later version gave by it is held rather than taken
			b.policy = nil
		}
	}
	if len(own) > 0 { // it could not be read until now
		b.count()
	}
}

// stored is what the Memory is to keep after a round.
func (s *pipeline) stored(p *pass) Stored {
	st := Stored{Snapshot: p.Snapshot, Names: p.Names, Before: s.brakes.before, Past: slices.Clone(s.brakes.past), Marks: s.marks.of(p.Snapshot.Issuer)}
	if now := s.published.state.Load(); now != nil {
		st.Gaps, st.Jobs = now.View.Gaps(), now.Jobs
	}
	if s.brakes.policy != nil {
		c := s.brakes.policy.Config()
		st.Policy = &c
	}
	st.Begun = configsOf(s.brakes.begun)
	return st
}

// storedSnapshot returns the last Snapshot that a process before this one knew.
func (s *Syncer) storedSnapshot(ctx context.Context) (*authz.Snapshot, error) {
	if s.o.Memory == nil {
		return nil, nil //nolint:nilnil // none is known
	}
	st, _, err := s.o.Memory.Load(ctx, "")
	if st == nil || err != nil {
		return nil, err
	}
	return st.Snapshot, nil
}

const notStored = "the Snapshot was not stored: a restart during an outage of GitLab would know less"

// saver keeps the last Snapshot in the Memory.
type saver struct {
	o       *Options
	busy    func() bool // see Syncer.busy
	memory  *serialMemory
	offers  chan Stored
	unsaved *Stored // the last one, if run ended before it was saved
}

// backgroundAfter is how long what nobody waits for leaves the machine to the passes after one: hooks come in bursts, and what takes the next
// right away is not to share the processor with what is done about the one before. backgroundPatience is how long it waits then while
// passes run.
const (
	backgroundAfter    = time.Second
	backgroundPatience = 5 * time.Second
)

// afterPasses leaves the machine to the passes first.
func afterPasses(ctx context.Context, busy func() bool) {
	wait.For(ctx, backgroundAfter)
	wait.While(ctx, backgroundPatience, busy)
}

// run saves beside the rounds and not after each of them, because a large Snapshot takes a while.
func (s *saver) run(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case st := <-s.offers:
			afterPasses(ctx, s.busy)
			st = newest(s.offers, st, func(newer, _ Stored) Stored { return newer })
			began, patience := time.Now(), backgroundPatience
			yield := func() {
				waited := time.Now()
				wait.While(ctx, patience, func() bool { return s.busy() && s.memory.waiting.Load() == 0 })
				patience -= time.Since(waited)
			}
			if s.save(ctx, st, yield); ctx.Err() != nil {
				s.unsaved = &st
			}
			took := time.Since(began) - (backgroundPatience - patience) // without what it has waited for others
			wait.For(ctx, max(time.Second, 20*took))
		}
	}
}

// end saves what run did not, when both run and the rounds have ended: what the last one has done is known to the next process,
// and to the engine of another configuration.
func (s *saver) end(ctx context.Context) {
	select {
	case st := <-s.offers:
		s.unsaved = &st
	default:
	}
	if s.unsaved == nil {
		return
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	s.save(last, *s.unsaved, nil)
}

func (s *saver) save(ctx context.Context, st Stored, yield func()) {
	if s.o.Apply.May != nil && s.o.Apply.May() != nil {
		return // it is another one's to save now
	}
	if err := s.memory.Save(ctx, st, yield); err != nil && ctx.Err() == nil {
		s.o.Logger.WarnContext(ctx, notStored, "error", err)
	}
}

// serialMemory saves one thing after the other. A pass may wait for its turn, so nobody who has it waits for passes then.
type serialMemory struct {
	Memory
	turn    chan struct{} // whoever has put something in has it
	waiting atomic.Int32  // how many want it
}

func newSerialMemory(m Memory) *serialMemory {
	return &serialMemory{Memory: m, turn: make(chan struct{}, 1)}
}

func (m *serialMemory) Save(ctx context.Context, st Stored, yield func()) error {
	return m.inTurn(ctx, func() error { return m.Memory.Save(ctx, st, yield) })
}

// change saves what is stored with a change. Nothing newer is saved between its two steps, which would be lost.
func (m *serialMemory) change(ctx context.Context, f func(*Stored) (changed bool)) error {
	return m.inTurn(ctx, func() error {
		st, _, err := m.Load(ctx, "")
		if err != nil || st == nil {
			return err
		}
		next := *st
		if !f(&next) {
			return nil
		}
		return m.Memory.Save(ctx, next, nil)
	})
}

func (m *serialMemory) inTurn(ctx context.Context, do func() error) error {
	m.waiting.Add(1)
	select {
	case m.turn <- struct{}{}:
		m.waiting.Add(-1)
	case <-ctx.Done():
		m.waiting.Add(-1)
		return fmt.Errorf("waiting for what is being stored: %w", ctx.Err())
	}
	defer func() { <-m.turn }()
	return do()
}

// latest puts v into a channel of size 1 in place of what waits there.
func latest[T any](c chan T, v T) {
	select {
	case <-c:
	default:
	}
	c <- v
}

// newest returns v joined with what waits in a channel.
func newest[T any](c <-chan T, v T, join func(newer, older T) T) T {
	select {
	case newer := <-c:
		return join(newer, v)
	default:
		return v
	}
}

// followEvery is how often Follow looks for what the leader stored.
const followEvery = 2 * time.Second

// Follow keeps State up to date from the Memory while Run does not run, and gives it a first content at the start:
// explanations and account states are there also while GitLab is away or another process leads. It returns when ctx
// is done.
func (s *Syncer) Follow(ctx context.Context) { s.published.follow(ctx) }

func (x *published) follow(ctx context.Context) {
	var have string
	for ; ctx.Err() == nil; wait.For(ctx, wait.Jitter(followEvery)) {
		if st := x.state.Load(); st != nil && st.View.Snapshot != nil && x.leading.Load() {
			continue
		}
		st, version, err := x.o.Memory.Load(ctx, have)
		if err != nil {
			if ctx.Err() == nil {
				x.o.Logger.WarnContext(ctx, "the stored Snapshot can't be loaded, trying again", "error", err)
			}
			continue
		}
		have = version
		if st != nil {
			x.publishStored(st)
		}
	}
}

// publishStored publishes what was stored, unless this process knows better: what another one read later, or, when the cluster was
// restored from a backup, what was stored before. That is one that was taken earlier; a second one shows that somebody goes on
// reading, by a clock that is behind the one before.
func (x *published) publishStored(st *Stored) {
	_, findings := x.o.Policy.Grants(st.Snapshot, x.o.Policy.Sources(st.Snapshot), x.o.Now())
	view := authz.NewView(st.Snapshot, x.o.Policy, st.Names).WithGaps(st.Gaps)
	next := &State{View: view, Jobs: st.Jobs, Round: Round{
		Cause: causeStored, Kind: KindLoaded, Snapshot: st.Snapshot, Names: st.Names, Findings: findings, Started: st.Snapshot.Taken,
	}}
	x.mu.Lock()
	defer x.mu.Unlock()
	old := x.state.Load()
	if old != nil && old.View.Snapshot != nil && st.Snapshot.Taken.Before(old.View.Snapshot.Taken) && (x.passed.IsZero() || x.passed.Equal(st.Snapshot.Taken)) {
		x.passed = st.Snapshot.Taken
		return
	}
	x.passed = time.Time{}
	switch {
	case old == nil || !x.leading.Load():
		x.state.Store(next)
	case old.View.Snapshot == nil: // this one leads, and could not read anything yet
		next.Err, next.Since = old.Err, old.Since
		x.state.Store(next)
	}
}

// HeldStore keeps what is held back, and knows what of it was approved.
type HeldStore interface {
	// Save keeps what is held, for people to look at and approve.
	Save(ctx context.Context, items []rbacsync.Item) error
	// Approvals returns what was approved and by whom, see rbacsync.Evidence.
	Approvals(ctx context.Context) (map[string]string, error)
	// Forget drops approvals that are of no use any more.
	Forget(ctx context.Context, keys []string) error
}
