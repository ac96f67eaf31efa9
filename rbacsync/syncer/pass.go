package syncer

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
)

// pass is one run of the pipeline over a scope: what it is to do, and what each step of it has found.
type pass struct {
	job
	// What a change can concern: the sources, those of them that have a namespace, and these namespaces. A nil scope is
	// everything, and the others are nil then.
	affected map[authz.SourceID]bool
	sources  []authz.Source
	scope    rbacsync.Scope
	// untouchable are the sources, in the scope or not, whose rights can't be judged by the Snapshot, and why.
	untouchable map[authz.SourceID]string

	plannedOn PlannedOn
	have      *rbacsync.Observed
	plain     *rbacsync.Wanted // what GitLab gives
	want      *rbacsync.Wanted // the same, with what is held or can't be given left as it is
	view      authz.View

	carried   []authz.Finding // by the passes before, about what is outside the scope
	found     []authz.Finding // about sources in the scope, and of a pass over everything all others
	planFound []authz.Finding
	noted     []authz.Finding   // about no source in particular
	outside   []rbacsync.Item   // held outside the scope
	outdated  []string          // see rbacsync.Evidence.Outdated
	made      []rbacsync.Change // what was written, in ModePlan what would be written
	withheld  int               // how many rights are left because what should come instead can't be given
	unasked   bool              // there is more to ask GitLab about than one pass may
	ended     bool              // it came to the end: what it has found counts for the next one
	leftOff   bool              // it has changed nothing, because it made way for something more urgent

	credentials []ci.Namespace   // in the scope, that have, or lose, CI credentials; nil: not known
	losses      losses           // nil: need not be looked at
	foreign     *rbacsync.Wanted // what bindings of others are compared with; nil: they need not be looked at
	deletable   []authz.SourceID // GitLab has to be asked whether they are gone
}

// pipeline makes passes, and remembers from one to the next. It is for one goroutine at a time.
type pipeline struct {
	o         *Options
	cluster   *cluster.Cluster
	urgent    func(since time.Duration) bool // something waits for a long Apply to end
	waits     func() bool                    // a hook or a poll waits for the end of a pass
	published published                      // what others may see

	brakes      brakes
	credentials credentials
	inspector   inspector
	marks       marks
	losses      losses
	dirty       dirty
	drift       drift

	last   *lastPass                   // nil: the next pass looks at everything
	wanted *rbacsync.WantedByNamespace // of the last pass that knew it
	jobs   map[int64]string            // of State; nil: no pass knew it yet
	expiry time.Time                   // when the next right expires
	left   leftOff                     // a job whose pass was left off

	atEverything atomic.Bool // see LooksAtEverything
}

// pass makes the cluster, in the scope of the job, as GitLab says. Everything that makes it so is in here, in this order;
// what only feeds findings comes after the writing.
func (s *pipeline) pass(ctx context.Context, j job) *pass {
	p := s.narrow(j)
	s.atEverything.Store(p.everything())
	defer s.atEverything.Store(false)
	p.Err = func() (err error) {
		if p.everything() {
			s.recall(ctx, p)
		}
		if p.have, err = s.observe(ctx, p.scope, p.Snapshot, p.Kind == KindFull); err != nil {
			return err
		}
		p.plannedOn = PlannedOn{Observed: p.have, Before: s.brakes.latest, Was: s.brakes.evidence(p.Snapshot).PoliciesBefore()}
		if len(j.planned) > 0 {
			p.have = p.have.With(j.planned)
		}
		if s.leaveOff(p) {
			return nil
		}
		if p.Kind == KindDrift { // what should be there is known, and was judged before
			p.plan(s.wanted.Within(p.scope))
		} else {
			if s.desire(p); s.leaveOff(p) {
				return nil
			}
			s.brakes.restrain(ctx, p, s.size)
			s.announce(p)
			s.brakes.begin(ctx, p)
		}
		err = s.write(ctx, p)
		if p.Kind != KindDrift {
			s.conclude(ctx, p, err)
		}
		return err
	}()
	p.Duration = s.o.Now().Sub(p.Started)
	if p.Kind != KindDrift && !p.ended && !p.leftOff {
		s.last = nil
		s.dirty.later(everywhere, s.o.Now(), time.Second, s.o.Interval)
	}
	return p
}

// observe returns what the cluster holds in the scope, with the namespaces known as those of their sources; see
// cluster.Observe.
func (s *pipeline) observe(ctx context.Context, scope rbacsync.Scope, snap *authz.Snapshot, reread bool) (*rbacsync.Observed, error) {
	look := func(ctx context.Context) (*rbacsync.Observed, error) { return s.cluster.Observe(ctx, scope, reread) }
	if s.o.Observe != nil {
		look = s.o.Observe
	}
	have, err := look(ctx)
	if err != nil {
		return nil, err
	}
	if s.o.Observe != nil {
		have = have.Within(scope)
	}
	return s.marks.identify(have, snap), nil
}

// plannedOn returns what a plan was made on.
func (s *pipeline) plannedOn(p *pass) PlannedOn {
	b := p.plannedOn
	if s.o.Mode != ModeEnforce && p.ended {
		b.Jobs = s.credentials.list(p)
	}
	return b
}

// plan is the only caller of rbacsync.Plan.
func (p *pass) plan(want *rbacsync.Wanted) {
	p.want = want
	p.Plan, p.planFound = rbacsync.Plan(p.have, want)
}

// WritesMuch reports whether a pass writes a large plan, as the first one does. It may be asked at any time.
func (s *pipeline) WritesMuch() bool { return s.credentials.large.Load() }

// LooksAtEverything reports whether a pass looks at everything. It may be asked at any time.
func (s *pipeline) LooksAtEverything() bool { return s.atEverything.Load() }

// everything reports whether the pass looks at everything.
func (p *pass) everything() bool { return p.scope == nil }

// maxScope is how many namespaces a pass over single ones may have: with more of them, everything is as quick.
const maxScope = 3000

// narrow makes a pass of a job, and finds out what it has to look at. A hook changes little, so its pass looks only at
// the namespaces that the change can concern: what it costs does not depend on the size of GitLab, and a right is gone in
// milliseconds (docs/adr/0060). Whatever needs names to be given or taken is a pass over everything.
func (s *pipeline) narrow(j job) *pass {
	p := &pass{job: j, scope: j.drifted}
	p.Started = s.o.Now()
	l := s.last
	if j.Kind == KindDrift || j.everywhere || l == nil || !s.cluster.Following() || len(s.brakes.approved) > 0 || due(l.expires, p.Started) {
		return p
	}
	affected, scope := s.o.Policy.Affected(l.snap, j.Snapshot), rbacsync.Scope{}
	maps.Copy(affected, j.changed)
	var sources []authz.Source
	for id := range affected {
		src, wanted := s.o.Policy.Source(j.Snapshot, id)
		name, named := l.view.Namespace[id]
		if wanted != named || len(scope) > maxScope {
			return p
		}
		if wanted {
			sources = append(sources, src)
			scope[name] = true
		}
	}
	for _, snap := range []*authz.Snapshot{l.snap, j.Snapshot} { // a project that is moved away leaves the namespace of its group
		if s.o.Settings.CI.Shares(snap, l.view.Namespace, affected) {
			return p
		}
	}
	slices.SortFunc(sources, func(a, b authz.Source) int { return a.ID.Compare(b.ID) })
	p.affected, p.sources, p.scope = affected, sources, scope
	p.carried = slices.DeleteFunc(slices.Clone(l.found), func(f authz.Finding) bool { return affected[f.Source] })
	for _, i := range l.held {
		if !affected[i.Source] {
			p.outside = append(p.outside, i)
		}
	}
	return p
}

// desire finds out what GitLab gives in the scope.
func (s *pipeline) desire(p *pass) {
	known := map[authz.SourceID]string{}
	if p.everything() {
		p.found = append(p.found, p.have.Findings...)
		p.sources = s.o.Policy.Sources(p.Snapshot)
		var found []authz.Finding
		known, p.Names, found = rbacsync.AssignNamespaces(p.have, p.sources, p.Snapshot.Issuer, s.o.Settings.Adopt, s.o.Reserved)
		p.found, p.Namespaces = append(p.found, found...), len(p.Names)
	} else {
		p.Names, p.Namespaces = s.last.view.Namespace, len(p.scope)
	}
	if p.everything() {
		p.untouchable = s.o.Policy.Untouchable(p.Snapshot)
	} else {
		p.untouchable = s.o.Policy.UntouchableAfter(s.last.untouchable, p.Snapshot, p.affected)
	}
	grants, found := s.o.Policy.Grants(p.Snapshot, p.sources, p.Started)
	in := rbacsync.Input{
		Snapshot: p.Snapshot, Sources: p.sources, Names: p.Names, Grants: grants,
		Roles: s.o.Policy.BaseRoles(), Further: s.o.Policy.FurtherRoles(), Settings: s.o.Settings,
		Untouchable: p.untouchable, Now: p.Started, Secrets: p.have.Secrets, Have: p.have,
	}
	s.credentials.input(&in, p)
	p.plain = rbacsync.Desired(in)
	p.found = slices.Concat(p.found, found, rbacsync.NewDeliveries(&in).Findings())
	inGitLab := func(id authz.SourceID) bool { return id.Kind != authz.UserSource } // a GitLab with people alone is one
	if p.plain.Hold == "" && len(p.Snapshot.Groups) == 0 && len(p.Snapshot.Projects) == 0 && slices.ContainsFunc(slices.Collect(maps.Keys(known)), inGitLab) {
		p.plain.Hold = "GitLab shows neither a group nor a project, though there were some: check that the reading token still belongs to an administrator"
	}
	p.answered()
}

// answered takes in what GitLab says of single sources, as far as no reading since has shown them: that is no inference.
func (p *pass) answered() {
	gone := maps.Clone(p.answers.gone)
	maps.DeleteFunc(gone, func(id authz.SourceID, _ bool) bool { return p.Snapshot.Contains(id) })
	if len(gone) == 0 {
		return
	}
	p.plain.Gone, p.plain.Untouchable = gone, maps.Clone(p.plain.Untouchable)
	if p.plain.Untouchable == nil {
		p.plain.Untouchable = map[authz.SourceID]string{}
	}
	for id, is404 := range gone {
		if !is404 {
			p.plain.Untouchable[id] = "GitLab's lists lack it, but GitLab answers for it"
		}
	}
}

// announce publishes what is planned before it is written: whoever is refused a moment later sees why.
func (s *pipeline) announce(p *pass) {
	gaps := s.gaps(p, p.have)
	if p.everything() {
		p.view = authz.NewView(p.Snapshot, s.o.Policy, p.Names).WithGaps(gaps)
		s.marks.learn(p.have, p.Snapshot.Issuer, p.Names)
	} else {
		p.view = s.last.view.With(p.Snapshot, p.affected).WithGaps(gaps)
	}
	switch {
	case p.want.Hold != "":
	case p.everything():
		s.wanted, s.jobs = rbacsync.ByNamespace(p.want), rbacsync.JobsIn(p.want.Objects)
	default:
		s.wanted.Replace(p.want, p.scope)
		s.jobs = replaceJobs(s.jobs, rbacsync.JobsIn(p.want.Objects), p.scope)
	}
	if p.everything() { // here, because rights that end while much is written are not to wait for its end
		s.expiry = authz.NextExpiry(p.Snapshot, p.Started)
	} else {
		s.expiry = authz.NextExpiryAfter(s.last.expires, p.Snapshot, p.affected, p.Started)
	}
	p.Findings = s.findings(p)
	s.published.publish(&State{View: p.view, Round: p.Round, Jobs: s.jobs})
}

// write carries out the plan, in ModeEnforce.
func (s *pipeline) write(ctx context.Context, p *pass) error {
	if p.made = p.Plan; s.o.Mode != ModeEnforce {
		return nil
	}
	rbacsync.NoteLosses(p.Plan, p.want, rbacsync.WeakRoles(s.o.Policy), s.o.Now())
	opts := s.o.Apply
	opts.Cause, opts.Logger = p.Cause, s.o.Logger
	if s.published.leading.Load() {
		opts.Pause = s.urgent
	}
	s.credentials.large.Store(len(p.Plan) >= largePlan)
	p.Report = s.cluster.Apply(ctx, p.Plan, opts)
	s.credentials.large.Store(false)
	p.made = p.Report.Made(p.Plan)
	s.reportWritten(p)
	for _, l := range p.Report.Namespaces {
		s.marks.wrote(l)
	}
	for _, f := range p.Report.Refused {
		if s.cluster.Following() && apierrors.IsConflict(f.Err) { // somebody, say the controller of quotas, was faster
			s.drift.postpone(f.Change.Key.Namespace, s.o.Now().Add(100*time.Millisecond))
		}
	}
	return p.Report.Err()
}

// conclude remembers what the pass has left, for the next one, for CI credentials and for people.
func (s *pipeline) conclude(ctx context.Context, p *pass, err error) {
	p.ended = true
	s.dirty.take(p.scope, p.Report, s.published.knownSince(p.Started), s.o.Now(), s.o.Interval)
	p.Unwritten = s.dirty.unwritten()
	if p.losses = s.losses.take(p, rbacsync.WeakRoles(s.o.Policy)); p.Kind == KindFull {
		p.foreign = p.plain
	}
	if s.o.Mode == ModeEnforce {
		if len(p.Plan) > 0 {
			p.view = p.view.WithGaps(s.gaps(p, p.have.With(p.made)))
		}
		p.credentials = s.credentials.list(p)
		s.brakes.forget(ctx, p)
		s.brakes.saveHeld(ctx, p)
	}
	p.deletable = rbacsync.ToDelete(p.have, p.plain)
	p.Findings = s.findings(p)
	s.remember(p)
	s.brakes.agree(p, s.dirty, err)
	if len(p.Plan) > 0 {
		s.published.publish(&State{View: p.view, Round: p.Round, Jobs: s.jobs})
	}
}

// findings returns all that is found: in the scope by this pass, elsewhere by those before it, and what is looked for
// beside them.
func (s *pipeline) findings(p *pass) []authz.Finding {
	found := slices.Concat(p.scoped(), p.noted)
	for _, sec := range rbacsync.Sections(p.Held) {
		found = append(found, authz.Finding{
			Code: "held", Source: sec.Scope,
			Text: fmt.Sprintf("%d changes of %s are held: %s; see plan --held, approve with %s", len(sec.Items), sec.Place(), sec.Items[0].Why, sec.Hash),
		})
	}
	return slices.Concat(found, s.dirty.findings(), s.inspector.findings(), s.credentials.findings())
}

// scoped returns the findings that the next pass over single namespaces carries on.
func (p *pass) scoped() []authz.Finding {
	found := slices.Concat(p.found, p.planFound, p.Report.Findings)
	if p.everything() {
		return found
	}
	found = slices.DeleteFunc(found, func(f authz.Finding) bool { return !p.affected[f.Source] })
	return slices.Concat(p.carried, found)
}

// lastPass is what the next pass over single namespaces builds on: the last one over everything, as those since then have
// carried it on.
type lastPass struct {
	snap        *authz.Snapshot
	untouchable map[authz.SourceID]string
	view        authz.View
	found       []authz.Finding
	held        []rbacsync.Item
	expires     time.Time              // when a right ends by the clock: then everything is looked at
	sizes       map[authz.SourceID]int // see rbacsync.Sizes
}

// remember keeps what the next pass may build on, if it may.
func (s *pipeline) remember(p *pass) {
	before := s.last
	s.last = nil
	if p.want.Hold != "" || p.Snapshot.MissingAll != "" {
		return
	}
	s.last = &lastPass{
		snap: p.Snapshot, untouchable: p.untouchable, view: p.view, found: slices.Concat(p.scoped(), p.noted), held: p.Held, expires: s.expiry,
	}
	if p.everything() {
		s.last.sizes = s.sizes() // here, and not when a right goes and somebody waits for it
	} else {
		s.last.sizes = before.sizes
	}
}

// size is Evidence.Size. All are counted again when one is asked for that is not known.
func (s *pipeline) size(scope authz.SourceID) int {
	n, known := s.last.sizes[scope]
	if !known {
		s.last.sizes = s.sizes()
		n = s.last.sizes[scope]
		s.last.sizes[scope] = n // what has no namespace is not counted again and again
	}
	return n
}

// sizes counts what the limits of revocations are fractions of.
func (s *pipeline) sizes() map[authz.SourceID]int {
	return rbacsync.Sizes(maps.Values(s.wanted.Objects), s.last.snap.Top)
}

// replaceJobs returns the jobs of before with those that a pass found in these namespaces.
func replaceJobs(before, found map[int64]string, scope rbacsync.Scope) map[int64]string {
	if before != nil && maps.Equal(found, jobsWithin(before, scope)) {
		return before
	}
	out := maps.Clone(before)
	maps.DeleteFunc(out, func(_ int64, ns string) bool { return scope[ns] })
	if out == nil {
		return found
	}
	maps.Copy(out, found)
	return out
}

// jobsWithin returns those of the jobs that are in a scope.
func jobsWithin(jobs map[int64]string, scope rbacsync.Scope) map[int64]string {
	out := map[int64]string{}
	for project, ns := range jobs {
		if scope[ns] {
			out[project] = ns
		}
	}
	return out
}
