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
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
	// Interval is the time between two full rounds, varied by a tenth; default rbacsync.DefaultInterval.
	Interval time.Duration
	// Dynamic and OwnNamespace are for Settings.Templates: a client for objects of any kind, and where the Secrets are
	// that templates copy.
	Dynamic      dynamic.Interface
	OwnNamespace string
	// DynamicWatch, optional, makes Run follow the objects from templates as well; without a timeout, like Watch.
	DynamicWatch dynamic.Interface
	Limits       *rbacsync.Limits     // nil: nothing is held back
	Held         *HeldStore           // shows what is held, and knows what was approved; nil: nothing can be approved
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

// Round is what one round found and did.
type Round struct {
	Cause    string
	Read     string // "full", "partial" or "none": how much of GitLab was read
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

	part      bool // it looked only at what a change can concern
	unwritten bool // it, or one before over everything, could not write all
	hold      bool // nothing was to be changed (Wanted.Hold)
	withheld  int  // how many rights are left because what should come instead can't be given
	unplanned int  // how many Findings there were before the plan
	unasked   bool // there is more to ask GitLab about than one round may

	losses map[string]rbacsync.LostNamespace // nil: need not be looked at
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
	basis     *basis                      // what the next round may build on; nil: it looks at everything
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
		o.Interval = rbacsync.DefaultInterval
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
	if o.CI != nil && o.CI.Changed == nil {
		o.CI.Changed = s.lookAgain
	}
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
	r, spaces := s.do(ctx, request{full: true, causes: []string{cause}})
	if s.o.Memory != nil && s.o.Mode == ModeEnforce && r.Names != nil && ctx.Err() == nil {
		if err := s.o.Memory.Save(ctx, s.stored(r)); err != nil {
			s.o.Logger.WarnContext(ctx, notStored, "error", err)
		}
	}
	if s.o.CI != nil && s.o.Mode == ModeEnforce && r.Names != nil && ctx.Err() == nil {
		r = s.onceCI(ctx, r, spaces)
	}
	if r.losses != nil && ctx.Err() == nil {
		k := cluster.NewLeftLooker(s.o.Kube, s.o.Now)
		r.Findings = append(r.Findings, k.Look(ctx, r.losses)...)
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
		round, list := s.do(ctx, req)
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
		if round.covers() {
			open = nil
		}
		if left.empty() {
			open = newest(append(open, left.tickets...))
		}
		switch {
		case round.Snapshot == nil: // nothing was to be written
		case round.Err == nil && len(round.Report.Deferred) > 0:
			writing = retry{at: now}
		case round.Err == nil && round.part: // it says nothing about the rest
		case round.Err == nil:
			writing = retry{}
		case round.Report.OnlyConflicts(): // the watch brings what we did not know yet
			writing.later(now, 100*time.Millisecond, s.o.Interval)
		default:
			writing.later(now, time.Second, s.o.Interval)
		}
		if round.unasked && writing.at.IsZero() {
			writing.at = now.Add(wait.Jitter(moreQuestions))
		}
		if list != nil {
			offerCI(spaces, list)
		}
		if round.losses != nil {
			latest(losses, round.losses)
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
	s.base, s.basis, s.wanted = nil, nil, nil // what was read while another one led is not to be built on
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

// write carries out a plan, in ModeEnforce.
func (s *Syncer) write(ctx context.Context, r *Round, want *rbacsync.Wanted) error {
	if s.o.Mode != ModeEnforce {
		return nil
	}
	rbacsync.NoteLosses(r.Plan, want, rbacsync.WeakRoles(s.o.Policy), s.o.Now())
	opts := s.o.Apply
	opts.Cause, opts.Logger = r.Cause, s.o.Logger
	if s.leading.Load() {
		opts.Pause = s.urgent
	}
	opts.Wrote = s.marks.wrote
	r.Report = s.cluster.Apply(ctx, r.Plan, opts)
	r.Findings = append(r.Findings, r.Report.Findings...)
	for _, f := range r.Report.Refused {
		if s.cluster.Following() && apierrors.IsConflict(f.Err) { // somebody, say the controller of quotas, was faster
			s.postpone(f.Change.Key.Namespace, s.o.Now().Add(100*time.Millisecond))
		}
	}
	return r.Report.Err()
}

// refused counts what the cluster did not take, and says so: rounds over a part, which come after it, don't try again.
func (s *Syncer) refused(r *Round) {
	r.Unwritten = len(r.Report.Failed)
	if r.Unwritten == 0 || r.Report.OnlyConflicts() {
		return
	}
	f := r.Report.Failed[0]
	r.Findings = append(r.Findings, authz.Finding{
		Code: "unwritten", Text: fmt.Sprintf("%d changes could not be written and are tried again; the first: %s %s: %v", r.Unwritten, f.Change.Action, f.Change.Key, f.Err),
	})
}

// restoreDrift puts back what others changed, without reading GitLab: what should be there is known. It waits for
// nobody who changes the same namespace again and again.
func (s *Syncer) restoreDrift(ctx context.Context) {
	s.round.Lock()
	defer s.round.Unlock()
	if s.wanted == nil || !s.cluster.Following() {
		return
	}
	started := s.o.Now()
	spaces := s.cluster.Changed()
	if due(s.drift.at, started) {
		maps.Copy(spaces, s.drift.spaces)
		s.drift.spaces, s.drift.at = map[string]bool{}, time.Time{}
	}
	if len(spaces) == 0 || s.o.Mode != ModeEnforce {
		return
	}
	now, later, until := s.drift.fights.due(spaces, started)
	for ns := range later {
		s.postpone(ns, until)
	}
	r := Round{Cause: causeDrift, Read: "none", Started: started}
	have, err := s.observe(ctx, now, s.wanted.Plain.Snap, false)
	if err != nil {
		return // only if the watches were not there any more
	}
	want := s.wanted.Within(now)
	if r.Plan, _ = rbacsync.Plan(have, want); len(r.Plan) == 0 {
		return
	}
	r.Err = s.write(ctx, &r, want)
	for _, f := range r.Report.Failed {
		s.postpone(f.Change.Key.Namespace, started.Add(time.Second)) // again, a little later
	}
	for _, c := range r.Report.Deferred {
		s.postpone(c.Key.Namespace, started)
	}
	done := r.Report.Made(r.Plan)
	for _, c := range done {
		s.drift.fights.restored(c.Key.Namespace)
		if c.Action == rbacsync.Create && c.Key.Kind == rbacsync.KindServiceAccount && s.o.CI != nil {
			s.Trigger([]authz.SourceID{c.Source}, causeDrift) // its tokens died with the one before
		}
	}
	r.Duration = s.o.Now().Sub(started)
	s.report(ctx, r)
	cluster.ReportDrift(ctx, s.o.Kube, s.o.Logger, started, done)
}

// postpone has a namespace looked at again for drift: at a time, or before, when another one is.
func (s *Syncer) postpone(ns string, at time.Time) {
	s.drift.spaces[ns] = true
	if s.drift.at.IsZero() || at.Before(s.drift.at) {
		s.drift.at = at
	}
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

// do does one round up to and including Apply. It returns also the namespaces whose CI credentials are to be kept
// in order, nil when that is not known.
func (s *Syncer) do(ctx context.Context, req request) (Round, []ci.Namespace) {
	s.round.Lock()
	defer s.round.Unlock()
	started := s.o.Now()
	r := Round{Cause: req.cause(), Started: started}
	var spaces []ci.Namespace
	r.Err = func() error {
		var err error
		if r.Snapshot, r.Read, err = s.read(ctx, req); err != nil {
			return err
		}
		s.base = r.Snapshot
		if p := s.part(&r, req); p != nil {
			var done bool
			if spaces, done, err = s.doPart(ctx, &r, p); done {
				return err
			}
		}
		s.basis = nil
		s.recall(ctx, &r)
		have, err := s.observe(ctx, nil, r.Snapshot, r.Read == "full")
		if err != nil {
			return err
		}
		r.Findings = append(r.Findings, have.Findings...)
		want := s.desired(&r, have)
		s.excess(ctx, &r, want)
		r.Findings = append(r.Findings, s.left()...)
		s.fence(ctx, &r)
		if s.o.Mode != ModeEnforce { // nothing is let through that would count in the next round
			past := slices.Clone(s.brakes.past)
			defer func() { s.brakes.past = past }()
		}
		if s.o.Roles != nil {
			s.o.Roles.Look(ctx)
		}
		plain := want
		r.hold = want.Hold != ""
		want = s.brake(ctx, &r, have, plain)
		if want.Hold == "" {
			s.wanted, s.jobs = rbacsync.ByNamespace(want), rbacsync.JobsIn(want.Objects)
		}
		// Published before it is applied: whoever is refused a moment later is told why.
		view := authz.NewView(r.Snapshot, s.o.Policy, r.Names).WithGaps(s.gaps(&r, have, plain))
		s.publish(&State{View: view, Round: r})
		s.marks.learn(have, r.Snapshot.Issuer, r.Names)
		err = s.write(ctx, &r, want)
		want, more := s.settle(ctx, &r, have, want, plain)
		err = errors.Join(err, more)
		view = s.written(&r, have, view, func(after *rbacsync.Observed) map[authz.SourceID]authz.Gap { return s.gaps(&r, after, plain) })
		r.losses = s.knowLosses(&r, have, want, nil)
		if s.o.Mode != ModeEnforce {
			s.build(&r, want, view)
			return err
		}
		if want.Hold == "" {
			s.wanted = rbacsync.ByNamespace(want)
		}
		spaces = s.knowSpaces(s.ciSpaces(&r, have, want, s.o.Policy.Sources(r.Snapshot)), nil)
		r.unwritten = err != nil
		s.refused(&r)
		s.build(&r, want, view)
		return err
	}()
	r.Duration = s.o.Now().Sub(started)
	if r.Err == nil && r.Snapshot != nil && len(r.Report.Deferred) == 0 {
		r.Done, _ = settled(req.tickets, unread(req, r.Snapshot))
	}
	if r.covers() {
		r.Done = append(r.Done, req.open...)
	}
	s.finish(ctx, r)
	return r, spaces
}

// covers reports whether the cluster agrees with the round's Snapshot everywhere.
func (r *Round) covers() bool {
	return r.Err == nil && r.Snapshot != nil && !r.part && len(r.Report.Deferred) == 0
}

// read returns the Snapshot the round works on: a full one when asked for or when there is none yet, the last one
// with the changed sources read again, or the last one as it is.
func (s *Syncer) read(ctx context.Context, req request) (*authz.Snapshot, string, error) {
	var snap *authz.Snapshot
	var err error
	how := "none"
	switch {
	case req.result != nil:
		how = "full"
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
		how = "full"
		if snap, err = s.o.Reader.Snapshot(ctx); err == nil && snap != nil {
			err = s.complete(ctx, snap)
		}
	case len(req.changed) > 0:
		how = "partial"
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

func (s *Syncer) desired(r *Round, have *rbacsync.Observed) *rbacsync.Wanted {
	sources := s.o.Policy.Sources(r.Snapshot)
	known, names, findings := rbacsync.AssignNamespaces(have, sources, r.Snapshot.Issuer, s.o.Settings.Adopt, s.o.Reserved)
	grants, more := s.o.Policy.Grants(r.Snapshot, sources, r.Started)
	r.Names, r.Spaces, r.Findings = names, len(names), slices.Concat(r.Findings, findings, more)
	in := s.input(r, sources, names, grants, have.Secrets)
	s.ciInput(&in, have)
	want := rbacsync.Desired(in)
	r.Findings = append(r.Findings, rbacsync.NewDeliveries(&in).Findings()...)
	if found := s.ciFindings.Load(); found != nil {
		r.Findings = append(r.Findings, *found...)
	}
	inGitLab := func(id authz.SourceID) bool { return id.Kind != authz.UserSource } // a GitLab with people alone is one
	if want.Hold == "" && len(r.Snapshot.Groups) == 0 && len(r.Snapshot.Projects) == 0 && slices.ContainsFunc(slices.Collect(maps.Keys(known)), inGitLab) {
		want.Hold = "GitLab shows neither a group nor a project, though there were some: check that the reading token still belongs to an administrator"
	}
	return want
}

// input is what Desired makes the wanted objects of these sources from.
func (s *Syncer) input(r *Round, sources []authz.Source, names map[authz.SourceID]string, grants []authz.Grant, secrets map[string]map[string]any) rbacsync.Input {
	return rbacsync.Input{
		Snapshot: r.Snapshot, Sources: sources, Names: names, Grants: grants,
		Roles: s.o.Policy.BaseRoles(), Further: s.o.Policy.FurtherRoles(), Settings: s.o.Settings,
		Untouchable: s.o.Policy.Untouchable(r.Snapshot), Now: r.Started, Secrets: secrets,
	}
}

// publish keeps a failure that is still going on out of the way of readers: a new State replaces it.
func (s *Syncer) publish(st *State) {
	s.adopting.Lock()
	defer s.adopting.Unlock()
	if st.Round.Read != "full" {
		st.Err, st.Since = s.failing.err, s.failing.since
	}
	st.Jobs = s.jobs
	if old := s.State(); s.jobs == nil && old != nil {
		st.Jobs = old.Jobs // as it was stored
	}
	s.state.Store(st)
}

// finish publishes the end of a round and reports it.
func (s *Syncer) finish(ctx context.Context, r Round) {
	s.ended(r)
	s.report(ctx, r)
}

func (s *Syncer) ended(r Round) {
	s.adopting.Lock()
	defer s.adopting.Unlock()
	old := s.State()
	switch { // a hook that goes on with what is known does not end the failure of the full readings
	case r.Read == "full" && r.Snapshot != nil:
		s.failing.err = nil
	case r.Read == "full" && s.failing.err == nil:
		s.failing.since = r.Started
		fallthrough
	case r.Read == "full":
		s.failing.err = r.Err
	}
	st := &State{Round: r, Err: r.Err, Since: r.Started}
	if old != nil {
		st.View, st.Jobs = old.View, old.Jobs
		if r.Names == nil { // nothing was learned: the last good round stays
			st.Round = old.Round
		}
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
	log := s.o.Logger.With("cause", r.Cause, "read", r.Read, "namespaces", r.Spaces, "planned", len(r.Plan), "applied", r.Report.Applied,
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
