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

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/wait"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
)

// Mode says whether a Syncer writes.
type Mode string

// The modes.
const (
	ModePlan    Mode = "plan"    // look and report, change nothing
	ModeEnforce Mode = "enforce" // make it so
)

// Reader reads GitLab.
type Reader interface {
	// Snapshot reads everything.
	Snapshot(ctx context.Context) (*authz.Snapshot, error)
	// Refresh reads what changed, and what hangs on it, and returns base with that replaced; base stays as it is.
	Refresh(ctx context.Context, base *authz.Snapshot, changed []authz.SourceID) (*authz.Snapshot, error)
}

// Options are what a Syncer is made of.
type Options struct {
	Reader   Reader
	Kube     kubernetes.Interface
	Policy   authz.Policy
	Settings rbacsync.Settings
	Reserved []string // further reserved namespace names (authz.AssignNames)
	Mode     Mode     // default ModePlan
	// Interval is the time between two full rounds, varied by a tenth; default 5 minutes.
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
	// Inbox, optional, is where hooks come from. Run follows it, and takes out what a round has dealt with.
	Inbox Inbox
	// Memory, optional, keeps the last Snapshot for other replicas and the next start.
	Memory Memory
	// People, optional, is asked each PollEvery (default 10 s) for the states of accounts, which send no hook; first
	// for those whom Recent, optional, returns with the time when they were seen.
	People    Poller
	PollEvery time.Duration
	Recent    func() map[int64]time.Time
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
}

// Kind says what a Round worked on.
type Kind string

// The kinds of rounds.
const (
	KindFull     Kind = "full"     // all of GitLab was read
	KindTargeted Kind = "targeted" // what changed was read
	KindAgain    Kind = "again"    // nothing was read: something else than GitLab has changed, or something is tried again
	KindDrift    Kind = "drift"    // nothing was read: what somebody else changed in the cluster is put back
	KindLoaded   Kind = "loaded"   // no round of this process: what another one has stored
)

// Read says how much of GitLab was read: "full", "partial" or "none".
func (k Kind) Read() string {
	switch k {
	case KindFull:
		return "full"
	case KindTargeted:
		return "partial"
	case KindAgain, KindDrift, KindLoaded:
	}
	return "none"
}

// Round is what one round found and did.
type Round struct {
	Cause    string
	Kind     Kind
	Plan     []rbacsync.Change
	Held     []rbacsync.Item // what Limits hold back
	Done     []Ticket        // what of the Inbox the round has dealt with
	Report   cluster.Report  // empty in ModePlan
	CI       ci.Report
	Findings []authz.Finding // of authz, Plan, Apply and CI
	Snapshot *authz.Snapshot
	Names    map[authz.SourceID]string
	Spaces   int // how many of the namespaces were looked at
	Started  time.Time
	Duration time.Duration
	Err      error // why the round could not be finished, or what could not be written
	// Unwritten is how many changes the cluster did not take: in this round, or in the last one over everything.
	Unwritten int
}

// State is what the last rounds left, for explaining and for status.
type State struct {
	View  authz.View // of the last round that could read GitLab and the cluster; empty before the first one
	Round Round      // that round
	// Jobs are the projects whose jobs have rights by their ID tokens, with the namespace: by their delivery, or for a
	// while after it was another one (docs/adr/0054). Nothing in it is changed.
	Jobs map[int64]string
	// Err is set while rounds fail, or full readings of GitLab do. View is of before then, with what was read alone since.
	Err   error
	Since time.Time // of Err
}

// Syncer makes the cluster follow GitLab. Make one with New.
type Syncer struct {
	o     Options
	state atomic.Pointer[State]

	ciFindings   atomic.Pointer[[]authz.Finding] // of the last pass of runCI
	leftFindings atomic.Pointer[[]authz.Finding] // of the last pass of runLeft

	round     sync.Mutex // one round at a time
	base      *authz.Snapshot
	last      *lastPass                   // nil: the next pass looks at everything
	wanted    *rbacsync.WantedByNamespace // of the last round that knew it
	jobs      map[int64]string            // of State; nil: no round knew it yet
	ciKnown   map[string]ci.Namespace     // all that have, or lose, CI credentials
	brakes    brakes
	marks     marks
	cluster   *cluster.Cluster
	excessive []authz.Finding // bindings of others, as of the last full reading
	lost      map[string]rbacsync.LostNamespace
	unfenced  error // what is wrong with the fence, as of the last full reading
	drift     struct {
		fights fights
		spaces map[string]bool // to be looked at again, at
		at     time.Time
	}

	poll     *poller     // nil without People
	leading  atomic.Bool // Run runs
	adopting sync.Mutex  // held while leading changes and while a State is published
	failing  struct {    // the last full reading, if it failed
		err   error
		since time.Time
	}

	mu      sync.Mutex
	pending request
	wake    chan struct{}
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
		o.Interval = 5 * time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Syncer{o: o, wake: make(chan struct{}, 1), brakes: brakes{saved: "?"}}
	s.cluster = cluster.New(cluster.Options{
		Kube: o.Kube, Watch: o.Watch, Roles: o.Policy.ClusterRoles(), Templates: o.Settings.Templates, Dynamic: o.Dynamic, DynamicWatch: o.DynamicWatch,
		OwnNamespace: o.OwnNamespace, Notify: s.poke, Logger: o.Logger,
	})
	if o.People != nil {
		s.poll = &poller{every: cmp.Or(o.PollEvery, 10*time.Second), from: o.People, recent: o.Recent, now: o.Now, checked: map[int64]time.Time{}}
	}
	return s, nil
}

// State returns what the last rounds left; nil before the first one has ended. Nothing in it is changed later.
func (s *Syncer) State() *State { return s.state.Load() }

// Once does one full round, CI credentials included, and returns what it found and did. The error is that of the
// round; a round whose plan could only be written in part has both.
func (s *Syncer) Once(ctx context.Context, cause string) (Round, error) {
	p := s.do(ctx, request{full: true, causes: []string{cause}})
	r := p.Round
	if s.o.Memory != nil && s.o.Mode == ModeEnforce && r.Names != nil && ctx.Err() == nil {
		if err := s.o.Memory.Save(ctx, s.stored(r)); err != nil {
			s.o.Logger.WarnContext(ctx, notStored, "error", err)
		}
	}
	if s.o.CI != nil && s.o.Mode == ModeEnforce && r.Names != nil && ctx.Err() == nil {
		r = s.onceCI(ctx, r, p.credentials)
	}
	if p.losses != nil && ctx.Err() == nil {
		k := cluster.NewLeftLooker(s.o.Kube, s.o.Now)
		r.Findings = append(r.Findings, k.Look(ctx, p.losses)...)
	}
	return r, r.Err
}

// Trigger asks for a round that reads these sources again; none means a full round. It does not block: requests
// that arrive during a round are gathered into the next one.
func (s *Syncer) Trigger(changed []authz.SourceID, cause string) {
	s.mu.Lock()
	s.pending.add(changed, cause)
	s.mu.Unlock()
	s.poke()
}

// Run does rounds until ctx is done: a full one at once and then each Interval, one for each Trigger, one when a
// membership expires, and again, with growing pauses, after a failure. It returns when everything it started has
// ended; the error is ctx's.
func (s *Syncer) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	spaces := make(chan []ci.Namespace, 1)
	if s.o.CI != nil && s.o.Mode == ModeEnforce {
		disturbed := s.followCI(ctx, wg.Go)
		next := make(chan []ci.Namespace, 1)
		wg.Go(func() { s.destroyCI(ctx, spaces, next) })
		wg.Go(func() { s.runCI(ctx, next, disturbed) })
	}
	losses := make(chan map[string]rbacsync.LostNamespace, 1)
	wg.Go(func() { s.runLeft(ctx, losses) })
	s.begin(ctx, &wg)
	defer s.lead(false)
	done, offers := s.helpers(ctx, &wg)
	var (
		agenda  = agenda{full: s.o.Now(), first: true, top: s.topOf}
		expiry  time.Time               // when the next right expires
		unread  retry                   // of what GitLab did not tell
		tried   map[authz.SourceID]bool // what of it is tried again
		writing retry                   // of what the cluster did not take
		open    []Ticket                // of rounds that were read and not written
	)
	for ctx.Err() == nil {
		s.restoreDrift(ctx)
		now := s.o.Now()
		req := s.take()
		req.merge(agenda.waiting)
		switch {
		case agenda.due(now) || !req.idle() || unread.due(now):
		case writing.due(now):
			req.look, req.causes = true, append(req.causes, "retry")
		case due(expiry, now):
			req.look, req.causes = true, append(req.causes, "expiry")
		default:
			s.sleep(ctx, earliest(agenda.at(now), unread.at, writing.at, expiry, s.drift.at).Sub(now))
			continue
		}
		agenda.waiting = request{}
		// What could not be read waits for its time. Hooks and expiries go on meanwhile with what is known.
		if unread.due(now) {
			tried = maps.Clone(agenda.carried.changed)
			req.merge(agenda.carried)
			agenda.carried, unread.at = request{}, time.Time{}
		}
		req, ok := agenda.next(req, now, s.known() != nil, func(r request) *reading { return s.startReading(ctx, &wg, r) })
		if !ok { // a reading beside the rounds comes first
			continue
		}
		req.open = open
		p := s.do(ctx, req)
		round := p.Round
		if ctx.Err() != nil {
			break
		}
		now = s.o.Now()
		if round.Names != nil && round.Snapshot.MissingAll == "" && offers != nil {
			latest(offers, s.stored(round))
		}
		if len(round.Done) > 0 && done != nil {
			select {
			case done <- round.Done:
			case <-ctx.Done():
			}
		}
		if round.Snapshot != nil {
			expiry = authz.NextExpiry(round.Snapshot, round.Started)
		}
		if req.full {
			agenda.full = now.Add(wait.Jitter(s.o.Interval))
		}
		left := remaining(req, round)
		if req.result != nil && s.known() != nil { // to read single things everything need not be read
			left = agenda.ended(req, round, left)
		}
		if overcome(tried, req, left) && !agenda.carried.full { // what came in since has not waited yet
			unread.pause = 0
		}
		switch {
		case !left.empty():
			agenda.carried.merge(left)
			if unread.at.IsZero() { // else the next try waits already, and nothing that comes in puts it off
				unread.later(now, time.Second, s.o.Interval)
			}
		case agenda.carried.empty():
			unread = retry{}
		}
		if p.covers() {
			open = nil
		}
		if left.empty() {
			open = newest(append(open, left.tickets...))
		}
		switch {
		case round.Snapshot == nil: // nothing was to be written
		case round.Err == nil && len(round.Report.Deferred) > 0:
			writing = retry{at: now}
		case round.Err == nil && !p.everything(): // it says nothing about the rest
		case round.Err == nil:
			writing = retry{}
		case round.Report.OnlyConflicts(): // the watch brings what we did not know yet
			writing.later(now, 100*time.Millisecond, s.o.Interval)
		default:
			writing.later(now, time.Second, s.o.Interval)
		}
		if p.unasked && writing.at.IsZero() {
			writing.at = now.Add(wait.Jitter(moreQuestions))
		}
		if p.credentials != nil {
			offerCI(spaces, p.credentials)
		}
		if p.losses != nil {
			latest(losses, p.losses)
		}
	}
	return ctx.Err()
}

// retry is when something that failed is tried again, with pauses that grow to a minute.
type retry struct {
	at    time.Time // zero: not at all
	pause time.Duration
}

func (r *retry) due(now time.Time) bool { return due(r.at, now) }

func (r *retry) later(now time.Time, least, interval time.Duration) {
	r.pause = min(max(2*r.pause, least), interval, time.Minute)
	r.at = now.Add(wait.Jitter(r.pause))
}

// known returns what targeted readings can start from; nil while nothing was read.
func (s *Syncer) known() *authz.Snapshot {
	s.round.Lock()
	defer s.round.Unlock()
	return s.base
}

// topOf returns the top-level group of a source as far as it was read before; zero for what is not known yet.
func (s *Syncer) topOf(id authz.SourceID) authz.SourceID {
	if base := s.known(); base != nil && base.Contains(id) {
		return base.Top(id)
	}
	return authz.SourceID{}
}

// begin resets what another run left, and starts to follow the cluster.
func (s *Syncer) begin(ctx context.Context, wg *sync.WaitGroup) {
	s.round.Lock()
	defer s.round.Unlock()
	s.brakes = brakes{saved: "?"}
	s.failing.err = nil
	s.base, s.last, s.wanted = nil, nil, nil // what was read while another one led is not to be built on
	s.drift.fights, s.drift.spaces, s.drift.at = fights{}, map[string]bool{}, time.Time{}
	s.take() // the first round reads everything
	s.lead(true)
	follow := s.cluster.Begin()
	wg.Go(func() { follow(ctx) })
}

func (s *Syncer) lead(now bool) {
	s.adopting.Lock()
	defer s.adopting.Unlock()
	s.leading.Store(now)
}

// poke ends a sleep.
func (s *Syncer) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// observe returns what the cluster holds in the scope, with the namespaces known as those of their sources; see
// cluster.Observe.
func (s *Syncer) observe(ctx context.Context, scope rbacsync.Scope, snap *authz.Snapshot, reread bool) (*rbacsync.Observed, error) {
	have, err := s.cluster.Observe(ctx, scope, reread)
	if err != nil {
		return nil, err
	}
	return s.marks.identify(have, snap), nil
}

// sleep waits for d, a Trigger or the end.
func (s *Syncer) sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(max(d, time.Millisecond))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-s.wake:
	case <-t.C:
	}
}

// do reads what is asked for and does a pass with it.
func (s *Syncer) do(ctx context.Context, req request) *pass {
	s.round.Lock()
	defer s.round.Unlock()
	started := s.o.Now()
	snap, kind, err := s.read(ctx, req)
	if err != nil {
		p := &pass{Round: Round{Kind: kind, Cause: req.cause(), Started: started, Duration: s.o.Now().Sub(started), Err: err}}
		s.finish(ctx, p)
		return p
	}
	s.base = snap
	if s.o.Mode != ModeEnforce { // nothing is let through that would count in the next round
		past := slices.Clone(s.brakes.past)
		defer func() { s.brakes.past = past }()
	}
	p := s.pass(ctx, job{kind: kind, cause: req.cause(), snap: snap, changed: req.changed, whole: kind != KindTargeted || req.full})
	p = s.settle(ctx, p)
	p.Started, p.Duration = started, s.o.Now().Sub(started)
	if p.Err == nil && len(p.Report.Deferred) == 0 {
		p.Done, _ = settled(req.tickets, unread(req, snap))
	}
	if p.covers() {
		p.Done = append(p.Done, req.open...)
	}
	s.finish(ctx, p)
	return p
}

// covers reports whether the cluster agrees with the Snapshot everywhere.
func (p *pass) covers() bool {
	return p.Err == nil && p.ended && p.everything() && len(p.Report.Deferred) == 0
}

// read returns the Snapshot the round works on: a full one when asked for or when there is none yet, the last one
// with the changed sources read again, or the last one as it is.
func (s *Syncer) read(ctx context.Context, req request) (*authz.Snapshot, Kind, error) {
	var snap *authz.Snapshot
	var err error
	how := KindAgain
	switch {
	case req.result != nil:
		how = KindFull
		if snap, err = req.result.snap, req.result.err; err == nil && snap != nil {
			err = s.complete(ctx, snap)
		}
		for _, id := range accounts(req.result.base, s.base) {
			req.changed[id] = true
		}
		if err == nil && snap != nil && len(req.changed) > 0 {
			snap = s.readAgain(ctx, snap, req.changed)
		}
	case req.full || s.base == nil:
		how = KindFull
		if snap, err = s.o.Reader.Snapshot(ctx); err == nil && snap != nil {
			err = s.complete(ctx, snap)
		}
	case len(req.changed) > 0:
		how = KindTargeted
		changed := slices.SortedFunc(maps.Keys(req.changed), authz.SourceID.Compare)
		snap, err = s.o.Reader.Refresh(ctx, s.base, changed)
	default:
		snap = s.base
	}
	if err == nil && snap == nil {
		err = errors.New("the reader returned nothing")
	}
	if err != nil {
		return nil, how, fmt.Errorf("reading GitLab: %w", err)
	}
	return snap, how, nil
}

// complete returns why a full reading can't be worked on: a list of it could not be read, or an administrator's token
// that read the last one is not one any more, also when that one was read by another process. The round has failed
// then, and what was known before stays.
func (s *Syncer) complete(ctx context.Context, snap *authz.Snapshot) error {
	if snap.MissingAll != "" {
		return fmt.Errorf("not even a list was read completely, so nothing is changed: %s", snap.MissingAll)
	}
	if snap.Admin {
		return nil
	}
	last := s.base
	if last == nil && s.o.Memory != nil {
		st, _, err := s.o.Memory.Load(ctx, "")
		if err != nil {
			return fmt.Errorf("the reading token is not shown to be an administrator's, and whether the last one was can't be learned: %w", err)
		}
		if st != nil {
			last = st.Snapshot
		}
	}
	if last != nil && last.Admin && last.Issuer == snap.Issuer {
		return errors.New(authz.DemotedToken)
	}
	return nil
}

// publish keeps a failure that is still going on out of the way of readers: a new State replaces it.
func (s *Syncer) publish(st *State) {
	s.adopting.Lock()
	defer s.adopting.Unlock()
	if st.Round.Kind != KindFull {
		st.Err, st.Since = s.failing.err, s.failing.since
	}
	st.Jobs = s.jobs
	if old := s.State(); s.jobs == nil && old != nil {
		st.Jobs = old.Jobs // as it was stored
	}
	s.state.Store(st)
}

// finish publishes the end of a round and reports it.
func (s *Syncer) finish(ctx context.Context, p *pass) {
	s.publishEnd(p)
	s.report(ctx, p.Round)
}

func (s *Syncer) publishEnd(p *pass) {
	s.adopting.Lock()
	defer s.adopting.Unlock()
	old := s.State()
	if p.Kind == KindFull { // a hook that goes on with what is known does not end the failure of the full readings
		switch {
		case p.Snapshot != nil:
			s.failing.err = nil
		case s.failing.err == nil:
			s.failing.since = p.Started
			fallthrough
		default:
			s.failing.err = p.Err
		}
	}
	st := &State{View: p.view, Jobs: s.jobs, Round: p.Round, Err: p.Err, Since: p.Started}
	if !p.ended && old != nil { // nothing was learned: the last good round stays
		st.View, st.Jobs, st.Round = old.View, old.Jobs, old.Round
	}
	if s.jobs == nil && old != nil {
		st.Jobs = old.Jobs // as it was stored
	}
	switch {
	case st.Err == nil:
		st.Err, st.Since = s.failing.err, s.failing.since
	case old != nil && old.Err != nil:
		st.Since = old.Since
	}
	if st.Err == nil {
		st.Since = time.Time{}
	}
	s.state.Store(st)
}

// report logs the end of a round and tells OnRound.
func (s *Syncer) report(ctx context.Context, r Round) {
	log := s.o.Logger.With("cause", r.Cause, "read", r.Kind.Read(), "namespaces", r.Spaces, "planned", len(r.Plan), "applied", r.Report.Applied,
		"failed", len(r.Report.Failed), "findings", len(r.Findings), "duration", r.Duration.String())
	switch {
	case ctx.Err() != nil:
	case r.Err != nil:
		log.ErrorContext(ctx, "round failed, what was there stays", "error", r.Err)
	case len(r.Plan) > 0:
		log.InfoContext(ctx, "round done", "mode", string(s.o.Mode))
	default:
		log.DebugContext(ctx, "round done", "mode", string(s.o.Mode))
	}
	if s.o.OnRound != nil {
		s.o.OnRound(r)
	}
}

// request is what a round is asked for.
type request struct {
	full    bool
	changed map[authz.SourceID]bool
	causes  []string
	tickets []Ticket
	open    []Ticket // what these rounds before have read and could not write: dealt with by one that covers everything
	look    bool     // do a round even if there is nothing to read
	result  *result  // of a reading of everything that was done beside the rounds
}

// maxChanged is how many sources wait to be read one by one; of more, everything is read.
const maxChanged = 500

func (r *request) empty() bool { return !r.full && len(r.changed) == 0 }

func (r *request) add(changed []authz.SourceID, cause string) {
	if len(r.causes) < 5 && !slices.Contains(r.causes, cause) {
		r.causes = append(r.causes, cause)
	}
	if r.changed == nil {
		r.changed = map[authz.SourceID]bool{}
	}
	for _, id := range changed {
		r.changed[id] = true
	}
	if len(changed) == 0 || len(r.changed) > maxChanged {
		r.full = true
	}
}

func (r *request) merge(o request) {
	r.full = r.full || o.full
	if r.changed == nil {
		r.changed = map[authz.SourceID]bool{}
	}
	maps.Copy(r.changed, o.changed)
	r.tickets = append(r.tickets, o.tickets...)
	r.look = r.look || o.look
	for _, c := range o.causes {
		if len(r.causes) < 5 && !slices.Contains(r.causes, c) {
			r.causes = append(r.causes, c)
		}
	}
}

// idle reports whether there is nothing to do for it.
func (r *request) idle() bool { return r.empty() && !r.look }

// whole returns the part that needs everything to be read.
func (r *request) whole() request {
	out := request{full: r.full}
	if r.full {
		out.causes = r.causes
	}
	for _, t := range r.tickets {
		if len(t.Changed) == 0 {
			out.tickets = append(out.tickets, t)
		}
	}
	return out
}

// partial returns the part for which single things are read, or nothing.
func (r *request) partial() request {
	out := request{changed: r.changed, look: r.look}
	if len(r.changed) > 0 || r.look {
		out.causes = r.causes
	}
	for _, t := range r.tickets {
		if len(t.Changed) > 0 {
			out.tickets = append(out.tickets, t)
		}
	}
	return out
}

func (r *request) cause() string { return cmp.Or(strings.Join(r.causes, ", "), "unknown") }

func (s *Syncer) take() request {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.pending
	s.pending = request{}
	return r
}

func due(at, now time.Time) bool { return !at.IsZero() && !now.Before(at) }

// earliest returns the first of the times that are set; full always is.
func earliest(full time.Time, others ...time.Time) time.Time {
	for _, t := range others {
		if !t.IsZero() && t.Before(full) {
			full = t
		}
	}
	return full
}
