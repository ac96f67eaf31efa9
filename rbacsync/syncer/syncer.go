package syncer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
)

// Mode says whether a Syncer writes.
type Mode string

// The modes.
const (
	ModePlan    Mode = "plan"    // look and report, change nothing
	ModeEnforce Mode = "enforce" // make it so
)

// Options are what a Syncer is made of.
type Options struct {
	Reader   intake.Reader
	Kube     kubernetes.Interface
	Policy   authz.Policy
	Settings rbacsync.Settings
	Reserved []string // further reserved namespace names (authz.AssignNames)
	Mode     Mode     // default ModePlan
	// Interval is the time between two full rounds, varied by a tenth; default rbacsync.DefaultInterval.
	Interval time.Duration
	// Dynamic and OwnNamespace are for Settings.Templates: a client for objects of any kind, and where the Secrets are
	// that templates copy.
	Dynamic      dynamic.Interface
	OwnNamespace string
	// DynamicWatch, optional, makes Run follow the objects from templates as well; without a timeout, like Watch.
	DynamicWatch dynamic.Interface
	Limits       *rbacsync.Limits     // nil: nothing is held back
	Held         HeldStore            // shows what is held, and knows what was approved; nil: nothing can be approved
	Apply        cluster.ApplyOptions // Cause and Logger are set by the Syncer
	CI           *ci.Provisioner      // nil: no CI credentials
	// Watch, optional, makes Run follow the cluster by watches instead of listing it in each round, and put back at
	// once what somebody else changes. It must be a client without a timeout, which would end the watches.
	Watch kubernetes.Interface
	// Observe, optional, returns what the cluster holds instead of Kube, which may be nil then: nothing is written, and nobody
	// looks for bindings of others. See Recording.
	Observe func(context.Context) (*rbacsync.Observed, error)
	// Inbox, optional, is where hooks come from. Run follows it, and takes out what a round has dealt with.
	Inbox Inbox
	// Memory, optional, keeps the last Snapshot for other replicas and the next start.
	Memory Memory
	// Users, optional, is asked each PollEvery (default 10 s) for the states of accounts, which send no hook; first
	// for those whom Recent, optional, returns with the time when they were seen.
	Users     intake.Poller
	PollEvery time.Duration
	Recent    func() map[int64]time.Time
	// Reread, optional, is called each intake.RereadEvery to read again what no hook reports, a little at a time. It returns
	// what has changed.
	Reread func(context.Context) ([]authz.SourceID, error)
	// Questions, optional, are asked about what is held back and what is to be deleted.
	Questions Verifier
	// Roles, optional, looks up the ClusterRoles of the Policy and of CI: nobody loses a right for one that can't be given.
	Roles *cluster.RoleReader
	// Shipped, optional, are the rules that ClusterRoles of this program should have, by name: others are a finding.
	Shipped map[string][]rbacv1.PolicyRule
	// Fence, optional, returns what is wrong with the admission policies that keep tenants from climbing out of their
	// rights. It is asked with each full reading: nobody gets less when they are gone, so it is a finding.
	Fence  func(context.Context) error
	Now    func() time.Time
	Logger *slog.Logger
	// OnRound, optional, is called after each round, for metrics. It must not block.
	OnRound func(Round)
	// OnWritten, optional, is called after each pass in ModeEnforce that came as far as writing, for the history. It must not block.
	OnWritten func(Written)
}

// Syncer makes the cluster follow GitLab. Make one with New. What is not said otherwise belongs to whoever has the turn.
type Syncer struct {
	pipeline
	intake     *intake.Intake
	questioner questioner

	// Others put something in these, or ask them.
	wake     chan struct{} // there may be something to do
	looks    looks
	restored chan restored
	memory   *serialMemory // nil: there is none
	passed   atomic.Int64  // when the last pass ended, in nanoseconds since New
	made     time.Time     // when New was called

	turn chan struct{} // whoever has put something in has the turn: all that follows, and the pipeline, is theirs

	news    intake.News     // the last that Run has taken and not dealt with
	backlog backlog         // what is to be done, too
	snap    *authz.Snapshot // what is known of GitLab; nil: nothing
	open    []openTicket    // what they name was read, and could not be written yet
}

// New checks the options and returns a Syncer that has read nothing yet.
func New(o Options) (*Syncer, error) {
	if o.Mode == "" {
		o.Mode = ModePlan
	}
	if o.Mode != ModePlan && o.Mode != ModeEnforce {
		return nil, fmt.Errorf("mode %q: want %q or %q", o.Mode, ModePlan, ModeEnforce)
	}
	if err := o.Settings.Check(o.Policy.ClusterRoles()); err != nil {
		return nil, err
	}
	if o.Interval <= 0 {
		o.Interval = rbacsync.DefaultInterval
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	var memory *serialMemory
	if o.Memory != nil {
		memory = newSerialMemory(o.Memory)
		o.Memory = memory
	}
	s := &Syncer{memory: memory, made: time.Now(), turn: make(chan struct{}, 1), wake: make(chan struct{}, 1), looks: make(looks, 1), restored: make(chan restored, 16), questioner: newQuestioner(&o)}
	s.pipeline = pipeline{
		o: &o, brakes: newBrakes(&o, memory), credentials: credentials{o: &o, look: s.look, busy: s.busy}, inspector: inspector{o: &o, busy: s.busy}, published: published{o: &o},
		dirty: dirty{}, drift: newDrift(), urgent: s.urgent, waits: func() bool { return s.intake.WaitingSnapshot() },
	}
	s.intake = intake.New(intake.Options{
		Reader: o.Reader, Interval: o.Interval, Last: s.storedSnapshot, Users: o.Users, PollEvery: o.PollEvery, Recent: o.Recent, Reread: o.Reread, Later: s.WritesMuch, Now: o.Now, Logger: o.Logger,
	})
	s.cluster = cluster.New(cluster.Options{
		Kube: o.Kube, Watch: o.Watch, Roles: o.Policy.ClusterRoles(), Templates: o.Settings.Templates, Dynamic: o.Dynamic, DynamicWatch: o.DynamicWatch,
		OwnNamespace: o.OwnNamespace, Notify: s.wakeUp, Logger: o.Logger,
	})
	return s, nil
}

// State returns what the last rounds left; nil before the first one has ended. Nothing in it is changed later.
func (s *Syncer) State() *State { return s.published.state.Load() }

// Once does one full round, CI credentials included, and returns what it found and did. The error is that of the
// round; a round whose plan could only be written in part has both.
func (s *Syncer) Once(ctx context.Context, cause string) (Round, error) {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	started := s.o.Now()
	snap, err := s.intake.Everything(ctx)
	if err != nil {
		r := s.published.fail(ctx, intake.Failure{Full: true, Causes: []string{cause}, Began: started, Took: s.o.Now().Sub(started), Err: fmt.Errorf("reading GitLab: %w", err)})
		return r, r.Err
	}
	s.snap = snap
	p := s.withAnswers(ctx, job{Round: Round{Kind: KindFull, Cause: cause, Snapshot: snap}, everywhere: true})
	p.Started, p.Duration = started, s.o.Now().Sub(started)
	s.inspector.look(ctx, inspection{p.foreign, p.losses})
	if p.ended {
		p.Findings = s.findings(p)
	}
	s.finish(ctx, p)
	if s.o.Memory != nil && s.o.Mode == ModeEnforce && p.ended && ctx.Err() == nil {
		if err := s.o.Memory.Save(ctx, s.stored(p), nil); err != nil {
			s.o.Logger.WarnContext(ctx, notStored, "error", err)
		}
	}
	r := p.Round
	if s.o.CI != nil && s.o.Mode == ModeEnforce && p.ended && ctx.Err() == nil {
		r = s.onceCI(ctx, p)
	}
	r.PlannedOn = s.plannedOn(p)
	return r, r.Err
}

// onceCI does for a single round what credentials.run does in the background. What it learns of a project may need another
// binding: then there is a second round.
func (s *Syncer) onceCI(ctx context.Context, p *pass) Round {
	r := p.Round
	before := maps.Clone(s.credentials.slugs(p.credentials))
	r.CI = s.o.CI.Provision(ctx, p.credentials)
	if !maps.Equal(before, s.credentials.slugs(p.credentials)) && ctx.Err() == nil {
		again := s.withAnswers(ctx, job{Round: Round{Kind: KindAgain, Cause: "ci", Snapshot: p.Snapshot}, everywhere: true})
		s.finish(ctx, again)
		if again.Err == nil && again.ended {
			first := r.CI
			r.Plan, r.Report.Applied = append(r.Plan, again.Plan...), r.Report.Applied+again.Report.Applied
			r.CI = s.o.CI.Provision(ctx, again.credentials)
			r.CI.Issued, r.CI.Delivered, r.CI.Handed = r.CI.Issued+first.Issued, r.CI.Delivered+first.Delivered, append(first.Handed, r.CI.Handed...)
		}
	}
	r.Findings = append(r.Findings, r.CI.Findings...)
	return r
}

// withAnswers does a pass, asks GitLab, and does another pass with its answers. It returns what the two together have found and
// done.
func (s *Syncer) withAnswers(ctx context.Context, j job) *pass {
	p := s.pass(ctx, j)
	if !s.questioner.may(p) || ctx.Err() != nil {
		return p
	}
	a := ask(ctx, s.o.Questions, s.questioner.questions(p, true))
	if a.empty() {
		return p
	}
	next := job{Round: Round{Kind: KindAgain, Cause: p.Cause, Snapshot: p.Snapshot}, everywhere: true, answers: a}
	if s.o.Mode != ModeEnforce {
		next.planned, next.passed = p.Plan, p.passed
	}
	again := s.pass(ctx, next)
	if !again.ended {
		p.Err = errors.Join(p.Err, again.Err)
		return p
	}
	again.Kind, again.foreign, again.plannedOn = p.Kind, p.foreign, p.plannedOn
	again.Err = errors.Join(p.Err, again.Err)
	again.Plan = slices.Concat(p.Plan, again.Plan)
	again.Report = p.Report.With(again.Report)
	again.credentials = p.credentialsAnd(again)
	if p.losses != nil {
		again.losses = maps.Clone(s.losses)
	}
	again.Findings = s.findings(again)
	return again
}

// Trigger asks for a round that reads these sources again; none means a full round. It does not block: requests
// that arrive during a round are gathered into the next one.
func (s *Syncer) Trigger(changed []authz.SourceID, cause string) { s.intake.Add(changed, cause) }

// Run does rounds until ctx is done: a full one at once and then each Interval, one for each Trigger, one when a
// membership expires, and again, with growing pauses, after a failure. It returns when everything it started has
// ended; the error is ctx's.
func (s *Syncer) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	b := s.begin(ctx, &wg)
	defer b.end(ctx, &wg)
	defer s.lead(false)
	for ctx.Err() == nil {
		s.turn <- struct{}{}
		until, did := s.step(ctx, &wg, b)
		if did {
			s.passed.Store(int64(time.Since(s.made)))
		}
		<-s.turn
		if did {
			continue
		}
		t := time.NewTimer(max(until.Sub(s.o.Now()), time.Millisecond))
		select {
		case <-ctx.Done():
		case s.news = <-s.intake.News(): // of Run alone
		case <-s.wake:
		case <-t.C:
		}
		t.Stop()
	}
	return ctx.Err()
}

// step does what is to be done now. If that is nothing, it says until when.
func (s *Syncer) step(ctx context.Context, wg *sync.WaitGroup, b background) (until time.Time, did bool) {
	s.restoreDrift(ctx)
	j, ok := s.next(ctx)
	if !ok {
		return s.due(), false
	}
	j = s.joined(j)
	switch p := s.pass(ctx, j); {
	case s.left.ends(p, j, s.o.Now()): // it is done again
	case ctx.Err() != nil && p.ended && p.Err == nil: // it is all done
		b.remember(s, p)
	case ctx.Err() == nil:
		if p.ended && len(p.Report.Deferred) == 0 {
			s.published.behind.Store(nil)
		}
		s.published.unrevoked.Store(s.dirty.unrevoked())
		p.Done = s.dealtWith(p, j.tickets)
		s.finish(ctx, p)
		s.questioner.start(ctx, wg, p, s.wakeUp)
		b.take(s, p)
	}
	return time.Time{}, true
}

// next returns what is to be done now, the most urgent first.
func (s *Syncer) next(ctx context.Context) (job, bool) {
	if s.news.Snapshot == nil && len(s.news.Failed) == 0 {
		select {
		case s.news = <-s.intake.News():
		default:
		}
	}
	n := s.news
	s.news = intake.News{}
	for _, f := range n.Failed {
		s.published.fail(ctx, f)
	}
	now := s.o.Now()
	s.backlog.gather(&s.questioner, s.looks, now)
	switch {
	case n.Snapshot != nil:
		s.snap = n.Snapshot
		s.published.behind.CompareAndSwap(nil, &n.Began)
		return s.backlog.join(s.dirty.addTo(jobOf(n), s.last, now), now), true
	case s.snap == nil:
		return job{}, false
	case due(s.left.at, now):
		return s.backlog.join(s.left.take(s.snap), now), true
	}
	if !s.backlog.job.answers.empty() {
		return s.backlog.take(s.snap), true
	}
	j := job{Round: Round{Kind: KindAgain, Snapshot: s.snap}, everywhere: true}
	switch at, everywhere := s.dirty.next(); {
	case due(at, now):
		j.Cause, j.everywhere = "retry", everywhere
		return s.backlog.join(s.dirty.addTo(j, s.last, now), now), true
	case everywhere: // the last pass has failed, and waits for its time
		return job{}, false
	case due(s.expiry, now):
		j.Cause = "expiry"
		return s.backlog.join(j, now), true
	case s.backlog.waits():
		return s.backlog.take(s.snap), true
	}
	return job{}, false
}

// due returns when the clock alone gives something to do.
func (s *Syncer) due() time.Time {
	never := s.o.Now().Add(time.Hour)
	switch at, everywhere := s.dirty.next(); {
	case s.snap == nil:
		return earliest(never, s.drift.next())
	case everywhere:
		return earliest(never, at, s.left.at, s.drift.next())
	default:
		return earliest(never, at, s.left.at, s.expiry, s.questioner.at, s.drift.next())
	}
}

// look may be called by anybody, and does not block.
func (s *Syncer) look(l look) {
	s.looks.put(l)
	s.wakeUp()
}

// wakeUp ends a wait of Run.
func (s *Syncer) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// background is where what runs beside the passes gets its work from.
type background struct {
	read        chan []intake.Ticket // nil: there is no Inbox
	saver       *saver               // nil: there is no Memory
	credentials chan ciNews
	inspections chan inspection
}

// begin forgets what another run left, and starts what runs beside the passes.
func (s *Syncer) begin(ctx context.Context, wg *sync.WaitGroup) background {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.snap, s.last, s.wanted, s.news = nil, nil, nil, intake.News{} // what was read while another one led is not to be built on
	s.brakes, s.questioner, s.dirty, s.drift = newBrakes(s.o, s.memory), newQuestioner(s.o), dirty{}, newDrift()
	s.expiry, s.open, s.left, s.backlog = time.Time{}, nil, leftOff{}, backlog{}
	s.restored = make(chan restored, 16)
	s.credentials.urgent.begin()
	s.intake.Forget()
	s.published.begin()
	s.lead(true)
	follow := s.cluster.Begin()
	wg.Go(func() { follow(ctx) })
	wg.Go(func() { s.intake.Run(ctx) })
	put := s.restored
	wg.Go(func() { reportRestored(ctx, s.o, put) })

	b := background{credentials: make(chan ciNews, 1), inspections: make(chan inspection, 1)}
	wg.Go(func() { s.inspector.run(ctx, b.inspections, func() { s.look(look{"inspection", false}) }) })
	if s.o.CI != nil && s.o.Mode == ModeEnforce {
		disturbed := s.credentials.follow(ctx, wg.Go)
		next := make(chan ciNews, 1)
		wg.Go(func() { s.credentials.destroy(ctx, b.credentials, next) })
		wg.Go(func() { s.credentials.run(ctx, next, disturbed) })
	}
	if s.o.Inbox != nil {
		b.read = make(chan []intake.Ticket, 1)
		wg.Go(func() {
			s.o.Inbox.Follow(ctx, func(t []intake.Ticket) { s.intake.AddTickets(ctx, t) }, s.intake.OfferTickets)
		})
		wg.Go(func() { clearInbox(ctx, s.o, b.read) })
	}
	if s.o.Memory != nil {
		b.saver = &saver{o: s.o, busy: s.busy, memory: s.memory, offers: make(chan Stored, 1)}
		wg.Go(func() { b.saver.run(ctx) })
	}
	return b
}

// remember offers what a pass has left to the Memory.
func (b background) remember(s *Syncer, p *pass) {
	if b.saver != nil && p.ended && p.Snapshot.MissingAll == "" {
		latest(b.saver.offers, s.stored(p))
	}
}

// end returns when all that runs beside the passes has ended, and what is to be kept is.
func (b background) end(ctx context.Context, wg *sync.WaitGroup) {
	wg.Wait()
	if b.saver != nil {
		b.saver.end(ctx)
	}
}

// take hands on what a pass has found.
func (b background) take(s *Syncer, p *pass) {
	if b.read != nil && len(p.Done) > 0 {
		done := p.Done
		select {
		case before := <-b.read:
			done = append(before, done...)
		default:
		}
		b.read <- done
	}
	b.remember(s, p)
	if p.credentials != nil {
		ciNews{list: p.credentials, scope: p.scope}.offer(b.credentials)
	}
	if p.losses != nil || p.foreign != nil {
		inspection{p.foreign, p.losses}.offer(b.inspections)
	}
}

// finish publishes the end of a round and reports it.
func (s *Syncer) finish(ctx context.Context, p *pass) { s.published.finish(ctx, p, s.jobs) }

func (s *Syncer) lead(now bool) {
	s.published.mu.Lock()
	defer s.published.mu.Unlock()
	s.published.leading.Store(now)
}

// leastApply is how long Apply goes on at least before it makes room for something more urgent.
const leastApply = 500 * time.Millisecond

// urgent reports whether a hook, a poll or a right that ends by the clock waits for a long Apply to end.
func (s *Syncer) urgent(since time.Duration) bool {
	return since >= leastApply && (s.intake.Waiting() || due(s.expiry, s.o.Now()))
}

// burst is how long after a pass the next one is expected: hooks come in bursts, and slower where kube-apiserver is.
const burst = 100 * time.Millisecond

// slowReading is how long a reading of single things counts as what a pass comes of in a moment: GitLab may hang.
const slowReading = 500 * time.Millisecond

// busy reports whether a pass runs, or will in a moment. What can wait leaves the machine to it. It may be asked at any time.
func (s *Syncer) busy() bool { return s.Quiet() < burst }

// Quiet returns since when no pass runs and none is about to; 0 while one does or is. A reading of everything is no pass.
func (s *Syncer) Quiet() time.Duration {
	if len(s.turn) > 0 || s.intake.Reading(slowReading) || s.intake.Waiting() {
		return 0
	}
	return time.Since(s.made) - time.Duration(s.passed.Load())
}

// causeOf joins causes.
func causeOf(causes []string) string { return cmp.Or(strings.Join(causes, ", "), "unknown") }

func due(at, now time.Time) bool { return !at.IsZero() && !now.Before(at) }

// earliest returns the first of the times that are set; the first one always is.
func earliest(first time.Time, others ...time.Time) time.Time {
	for _, t := range others {
		if !t.IsZero() && t.Before(first) {
			first = t
		}
	}
	return first
}
