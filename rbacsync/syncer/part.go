package syncer

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// A hook changes little, so its round looks only at the namespaces that the change can concern: what it costs does not
// hang on the size of GitLab, and a right is gone in milliseconds (docs/adr/0060). Whatever is not plain sailing (names
// to give, namespaces whose source is gone, something held) is a round over everything. So is what could not be written,
// later; hooks don't wait for that, because there may always be an object that nobody can write.

// basis is the last round over everything, as rounds since then have carried it on.
type basis struct {
	snap      *authz.Snapshot
	view      authz.View
	findings  []authz.Finding
	held      []rbacsync.Item
	unwritten bool
	failed    int       // how many changes could not be written
	expires   time.Time // when a right ends by the clock: then everything is looked at
	sizes     map[authz.SourceID]int
}

// size counts what the limits of revocations are fractions of (see Evidence.Size), once for each top-level group.
func (s *Syncer) size(scope authz.SourceID) int {
	b := s.basis
	n, ok := b.sizes[scope]
	if !ok {
		n = rbacsync.SizeOf(maps.Values(s.wanted.Objects), func(id authz.SourceID) bool { return scope.ID == 0 || b.snap.Top(id) == scope })
		if b.sizes == nil {
			b.sizes = map[authz.SourceID]int{}
		}
		b.sizes[scope] = n
	}
	return n
}

// build remembers what the next round may build on, if it may.
func (s *Syncer) build(r *Round, want *rbacsync.Wanted, view authz.View) {
	s.basis = nil
	if want.Hold == "" && r.Snapshot.MissingAll == "" {
		s.basis = &basis{
			snap: r.Snapshot, view: view, findings: r.Findings, held: r.Held, unwritten: r.unwritten, failed: r.Unwritten,
			expires: authz.NextExpiry(r.Snapshot, r.Started),
		}
	}
}

// part is what a round looks at.
type part struct {
	affected map[authz.SourceID]bool
	sources  []authz.Source
	spaces   rbacsync.Scope
}

// maxPart is how many namespaces a part may have: with more of them, everything is as quick.
const maxPart = 3000

// part returns what a round has to look at; nil is everything.
func (s *Syncer) part(r *Round, req request) *part {
	b := s.basis
	if b == nil || !s.cluster.Following() || s.wanted == nil || r.Read != "partial" || req.full || len(s.brakes.approved) > 0 || due(b.expires, r.Started) {
		return nil
	}
	p := &part{affected: s.o.Policy.Affected(b.snap, r.Snapshot), spaces: rbacsync.Scope{}}
	for id := range req.changed { // also when nothing did: the round may be about something else than rights
		p.affected[id] = true
	}
	for _, i := range b.held {
		if p.affected[i.Source] {
			return nil
		}
	}
	for id := range p.affected {
		src, wanted := s.o.Policy.Source(r.Snapshot, id)
		name, named := b.view.Namespace[id]
		if wanted != named || len(p.spaces) > maxPart {
			return nil
		}
		if wanted {
			p.sources = append(p.sources, src)
			p.spaces[name] = true
		}
	}
	for _, snap := range []*authz.Snapshot{b.snap, r.Snapshot} { // a project that is moved away leaves the namespace of its group
		if s.o.Settings.CI.Shares(snap, b.view.Namespace, p.affected) {
			return nil
		}
	}
	slices.SortFunc(p.sources, func(a, b authz.Source) int { return a.ID.Compare(b.ID) })
	return p
}

// doPart does the rest of a round that looks at a part. It reports false, and has done nothing, when everything has to
// be looked at after all.
func (s *Syncer) doPart(ctx context.Context, r *Round, p *part) (spaces []ci.Namespace, done bool, err error) {
	b := s.basis
	have, err := s.observe(ctx, p.spaces, r.Snapshot, false)
	if err != nil {
		return nil, false, err
	}
	grants, found := s.o.Policy.Grants(r.Snapshot, p.sources, r.Started)
	in := s.input(r, p.sources, b.view.Namespace, grants, have.Secrets)
	s.ciInput(&in, have)
	plain := rbacsync.Desired(in)
	want := s.withhold(r, have, plain)
	plan, more := rbacsync.Plan(have, want)
	var v rbacsync.Verdict
	if s.o.Limits != nil {
		s.agreed()
		v = s.o.Limits.Split(plan, want, rbacsync.Evidence{
			Snapshot: r.Snapshot, Before: s.brakes.before, Policy: s.o.Policy, Was: s.brakes.policy, Past: s.brakes.past, Size: s.size,
		}, r.Started)
		if len(v.Held) > 0 {
			return nil, false, nil
		}
	}
	s.basis = nil // until this round is through
	r.part, r.unwritten = true, b.unwritten
	r.Plan, r.Names, r.Spaces, r.Held = plan, b.view.Namespace, len(p.spaces), b.held
	for _, f := range b.findings {
		if !p.affected[f.Source] {
			r.Findings = append(r.Findings, f)
		}
	}
	if f := s.ciFindings.Load(); f != nil {
		more = append(more, *f...)
	}
	for _, f := range slices.Concat(found, more, s.excessive, s.left()) {
		if p.affected[f.Source] {
			r.Findings = append(r.Findings, f)
		}
	}
	s.wanted.Replace(want, p.spaces)
	s.jobs = replaceJobs(s.jobs, rbacsync.JobsIn(want.Objects), p.spaces)
	gaps := func(have *rbacsync.Observed) map[authz.SourceID]authz.Gap {
		out := maps.Clone(b.view.Gaps())
		maps.DeleteFunc(out, func(id authz.SourceID, _ authz.Gap) bool { return p.affected[id] })
		maps.Copy(out, s.gaps(r, have, plain))
		return out
	}
	view := b.view.With(r.Snapshot, p.affected).WithGaps(gaps(have))
	s.publish(&State{View: view, Round: *r})
	if s.o.Mode == ModeEnforce {
		s.brakes.pass(v.Passed)
		err = s.write(ctx, r, want)
		view = s.written(r, have, view, gaps)
		r.unwritten = r.unwritten || err != nil
		r.Unwritten = max(b.failed, len(r.Report.Failed))
		spaces = s.knowSpaces(s.ciSpaces(r, have, want, p.sources), p.spaces)
	}
	r.losses = s.knowLosses(r, have, want, p.spaces)
	if s.build(r, want, view); s.basis != nil {
		s.basis.sizes = b.sizes
	}
	return spaces, true, err
}

// replaceJobs returns the jobs of before with those that a round found in these namespaces.
func replaceJobs(before, found map[int64]string, spaces map[string]bool) map[int64]string {
	out := maps.Clone(before)
	maps.DeleteFunc(out, func(_ int64, ns string) bool { return spaces[ns] })
	if out == nil {
		return found
	}
	maps.Copy(out, found)
	return out
}

// knowSpaces takes in what a round knows of CI credentials in these namespaces (nil: in all), and returns all.
func (s *Syncer) knowSpaces(list []ci.Namespace, within map[string]bool) []ci.Namespace {
	if within == nil {
		s.ciKnown = make(map[string]ci.Namespace, len(list))
	}
	for ns := range within {
		delete(s.ciKnown, ns)
	}
	all := slices.Clone(list)
	for _, n := range s.ciKnown {
		all = append(all, n)
	}
	for _, n := range list {
		n.Lost = nil // is told once
		s.ciKnown[n.Name] = n
	}
	slices.SortFunc(all, func(a, b ci.Namespace) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// leastApply is how long Apply goes on at least before it makes room for something more urgent.
const leastApply = 500 * time.Millisecond

// urgent reports whether a hook or a poll waits for a long Apply to end.
func (s *Syncer) urgent(since time.Duration) bool {
	if since < leastApply {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.pending.empty()
}
