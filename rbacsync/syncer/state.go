package syncer

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
)

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
	Cause      string
	Kind       Kind
	Plan       []rbacsync.Change
	Held       []rbacsync.Item // what Limits hold back
	Done       []intake.Ticket // what of the Inbox the round has dealt with
	Report     cluster.Report  // empty in ModePlan
	CI         ci.Report
	Findings   []authz.Finding // of authz, Plan, Apply and CI
	Snapshot   *authz.Snapshot
	Names      map[authz.SourceID]string // the namespace of each source; nil unless Compared
	Namespaces int                       // how many of the namespaces were looked at
	Started    time.Time
	Duration   time.Duration
	Err        error // why the round could not be finished, or what could not be written
	// Unwritten is how many changes the cluster did not take: in this round, or in the last one over everything.
	Unwritten int
	// PlannedOn is what the plan was made on. Only Once sets it.
	PlannedOn PlannedOn
}

// Compared reports whether the round came as far as comparing what GitLab gives with the cluster, over everything or in its scope.
// One that failed before did not, nor did one of KindDrift: what they hold says nothing about the state.
func (r Round) Compared() bool { return r.Names != nil }

// PlannedOn is what a plan was made on, for explaining it.
type PlannedOn struct {
	Observed *rbacsync.Observed // what the cluster held before
	Before   *authz.Snapshot    // the last one that was carried out before; nil: not known
	Was      []authz.Policy     // what the cluster may have been written by before, since it last agreed with a policy; empty: not known, or the same
	Jobs     []ci.Namespace     // in ModePlan: what CI credentials would be brought in order for
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

// published is what other goroutines see.
type published struct {
	o     *Options
	state atomic.Pointer[State]
	// behind is since when something is known of GitLab that no pass has dealt with yet; nil: nothing is.
	behind    atomic.Pointer[time.Time]
	unrevoked atomic.Pointer[time.Time] // see dirty.unrevoked

	leading atomic.Bool // Run runs

	// mu guards passed and failing. It is held as well while leading changes and while a State is published.
	mu      sync.Mutex
	passed  time.Time // Taken of what publishStored passed over
	failing struct {  // the last full reading, if it failed
		err   error
		since time.Time
	}
}

func (x *published) begin() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.failing.err = nil
	x.behind.Store(nil)
	x.unrevoked.Store(nil)
}

// knownSince returns since when a pass could have been made, if that began later.
func (x *published) knownSince(began time.Time) time.Time {
	if behind := x.behind.Load(); behind != nil {
		return *behind
	}
	return began
}

// publish keeps a failure that is still going on out of the way of readers: a new State replaces it.
func (x *published) publish(st *State) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if st.Round.Kind != KindFull {
		st.Err, st.Since = x.failing.err, x.failing.since
	}
	if old := x.state.Load(); st.Jobs == nil && old != nil {
		st.Jobs = old.Jobs // as it was stored
	}
	x.state.Store(st)
}

// fail publishes and reports a reading of which nothing came.
func (x *published) fail(ctx context.Context, f intake.Failure) Round {
	p := &pass{job: job{Round: Round{Kind: KindTargeted, Cause: causeOf(f.Causes), Started: f.Began, Duration: f.Took, Err: f.Err}}}
	if f.Full {
		p.Kind = KindFull
	}
	x.finish(ctx, p, nil)
	return p.Round
}

// finish publishes the end of a round and reports it.
func (x *published) finish(ctx context.Context, p *pass, jobs map[int64]string) {
	x.mu.Lock()
	old := x.state.Load()
	if p.Kind == KindFull { // a hook that goes on with what is known does not end the failure of the full readings
		switch {
		case p.Snapshot != nil:
			x.failing.err = nil
		case x.failing.err == nil:
			x.failing.since = p.Started
			fallthrough
		default:
			x.failing.err = p.Err
		}
	}
	st := &State{View: p.view, Jobs: jobs, Round: p.Round, Err: p.Err, Since: p.Started}
	if !p.ended && old != nil { // nothing was learned: the last good round stays
		st.View, st.Jobs, st.Round = old.View, old.Jobs, old.Round
	}
	if jobs == nil && old != nil {
		st.Jobs = old.Jobs // as it was stored
	}
	switch {
	case st.Err == nil:
		st.Err, st.Since = x.failing.err, x.failing.since
	case old != nil && old.Err != nil:
		st.Since = old.Since
	}
	if st.Err == nil {
		st.Since = time.Time{}
	}
	x.state.Store(st)
	x.mu.Unlock()
	x.report(ctx, p.Round)
}

// report logs the end of a round and hands it to OnRound.
func (x *published) report(ctx context.Context, r Round) {
	log := x.o.Logger.With("cause", r.Cause, "read", r.Kind.Read(), "namespaces", r.Namespaces, "planned", len(r.Plan), "applied", r.Report.Applied,
		"failed", len(r.Report.Failed), "findings", len(r.Findings), "duration", r.Duration.String())
	switch {
	case ctx.Err() != nil:
	case r.Err != nil:
		log.ErrorContext(ctx, "round failed, what was there stays", "error", r.Err)
	case len(r.Plan) > 0:
		log.InfoContext(ctx, "round done", "mode", string(x.o.Mode))
	default:
		log.DebugContext(ctx, "round done", "mode", string(x.o.Mode))
	}
	if x.o.OnRound != nil {
		x.o.OnRound(r)
	}
}
