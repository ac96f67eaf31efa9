package syncer

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// brakes is what a Syncer remembers for its Limits. What is of before, policy and past is in the Memory too.
type brakes struct {
	recalled bool // the Memory was asked
	before   *authz.Snapshot
	policy   *authz.Policy // the last one that the whole cluster agreed with
	past     []rbacsync.Past
	approved map[string]bool // nil: not read yet
	saved    string          // hash of what HeldStore has; "?" is unknown
	gone     map[authz.SourceID]bool
	levels   map[rbacsync.Membership]authz.Level
	asked    map[any]int // question: how often it was asked
}

// brake plans a round, holds back what is over a limit, and returns what may be made so. It fills in the Round's
// Plan, Held and Findings.
func (s *Syncer) brake(ctx context.Context, r *Round, have *rbacsync.Observed, want *rbacsync.Wanted) *rbacsync.Wanted {
	var findings []authz.Finding
	r.unplanned = len(r.Findings)
	want = s.withhold(r, have, want)
	if s.o.Roles != nil {
		r.Findings = append(r.Findings, rbacsync.RoleFindings(s.o.Roles.Roles())...)
		r.Findings = append(r.Findings, rbacsync.RuleFindings(s.o.Roles.Roles(), s.o.Shipped)...)
	}
	first := len(r.Findings)
	r.Plan, findings = rbacsync.Plan(have, want)
	r.Findings, r.Held = append(r.Findings, findings...), nil
	planned := len(r.Findings)
	if s.o.Limits == nil || want.Hold != "" {
		return want
	}
	b := &s.brakes
	s.agreed()
	b.past = slices.DeleteFunc(b.past, func(p rbacsync.Past) bool { return r.Started.Sub(p.At) > rbacsync.CreationMemory })
	e := rbacsync.Evidence{Snapshot: r.Snapshot, Before: b.before, Policy: s.o.Policy, Was: b.policy, Gone: b.gone, Levels: b.levels, Past: b.past, Approved: b.approved}
	v := s.o.Limits.Split(r.Plan, want, e, r.Started)
	if s.o.Held != nil && (len(v.Wanted) > 0 || b.approved == nil || len(b.approved) > 0) {
		if approved, err := s.o.Held.Approvals(ctx); err != nil {
			r.Findings = append(r.Findings, authz.Finding{Code: "approvals_unreadable", Text: err.Error()})
		} else {
			b.approved, e.Approved = approved, approved
			v = s.o.Limits.Split(r.Plan, want, e, r.Started)
			s.forget(ctx, r, want, v.Wanted)
		}
	}
	r.Held = v.Held
	if len(v.Held) > 0 {
		r.Plan, findings = rbacsync.Plan(have, v.Want)
		r.Findings = slices.Concat(r.Findings[:first], findings, r.Findings[planned:]) // what is wrong with approvals stays
	}
	for i := range r.Plan { // the log and the history say that it was somebody's decision
		if c := &r.Plan[i]; v.Approved[approvalOf(*c)] {
			c.Why += ", approved by an administrator"
		}
	}
	for _, sec := range rbacsync.Sections(v.Held) {
		r.Findings = append(r.Findings, authz.Finding{
			Code: "held", Source: sec.Scope,
			Text: fmt.Sprintf("%d changes of %s are held: %s; see plan --held, approve with %s", len(sec.Items), sec.Place(), sec.Items[0].Why, sec.Hash),
		})
	}
	b.pass(v.Passed)
	if s.o.Mode == ModeEnforce {
		s.saveHeld(ctx, r)
	}
	return v.Want
}

// agreed notes which Snapshot the whole cluster agrees with.
func (s *Syncer) agreed() {
	st, b := s.State(), &s.brakes
	if st == nil || st.View.Snapshot == nil || st.Round.Cause == CauseStored {
		return
	}
	clean := st.Round.Err == nil && !st.Round.unwritten && !st.Round.hold && len(st.Round.Held) == 0 && s.o.Mode == ModeEnforce
	if clean || b.before == nil {
		b.before = st.View.Snapshot
	}
	// What is taken later, because it could not be read or given now, is still to be known as the new policy's doing.
	if clean && !st.Round.part && st.Round.withheld == 0 && (b.policy == nil || len(s.o.Policy.Untouchable(st.View.Snapshot)) == 0) {
		b.policy = &s.o.Policy
	}
}

// recall takes in what a process before this one knew, once.
func (s *Syncer) recall(ctx context.Context, r *Round) {
	b := &s.brakes
	if b.recalled || s.o.Memory == nil {
		return
	}
	st, _, err := s.o.Memory.Load(ctx, "")
	if err != nil {
		r.Findings = append(r.Findings, authz.Finding{Code: "memory_unread", Text: "what was stored of the rounds before can't be read, so more than usual may be held: " + err.Error()})
		return
	}
	b.recalled = true
	if st == nil || st.Snapshot.Issuer != r.Snapshot.Issuer {
		return
	}
	b.before, b.past = st.Before, st.Past
	s.marks.recall(st)
	if st.Policy != nil {
		if p, err := authz.NewPolicy(*st.Policy); err == nil { // else an older version let pass what this one does not
			b.policy = &p
		}
	}
}

// stored is what the Memory is to keep after a round.
func (s *Syncer) stored(r Round) Stored {
	s.round.Lock()
	defer s.round.Unlock()
	s.agreed()
	st := Stored{Snapshot: r.Snapshot, Names: r.Names, Before: s.brakes.before, Past: slices.Clone(s.brakes.past), Marks: s.marks.of(r.Snapshot.Issuer)}
	if now := s.State(); now != nil {
		st.Gaps, st.Jobs = now.View.Gaps(), now.Jobs
	}
	if s.brakes.policy != nil {
		c := s.brakes.policy.Config()
		st.Policy = &c
	}
	return st
}

// withhold is the function of that name, with what this Syncer knows.
func (s *Syncer) withhold(r *Round, have *rbacsync.Observed, want *rbacsync.Wanted) *rbacsync.Wanted {
	if s.o.Roles == nil {
		return want
	}
	var before func(rbacsync.Right) bool
	if was := s.brakes.policy; was != nil {
		var gives map[rbacsync.Right]bool
		before = func(right rbacsync.Right) bool {
			if gives == nil {
				ids := map[authz.SourceID]bool{}
				for i := range want.Objects {
					if o := want.Objects[i].Space; o != nil {
						ids[o.Source] = true
					}
				}
				gives = rbacsync.RightsIn(*was, r.Snapshot, ids, r.Started)
			}
			return gives[right]
		}
	}
	want, r.withheld = rbacsync.Withhold(have, want, s.o.Roles.Roles(), s.o.Policy, before)
	return want
}

// pass notes what goes on and counts from now on.
func (b *brakes) pass(passed []rbacsync.Past) {
	for _, p := range passed {
		same := func(o rbacsync.Past) bool { return o.Scope == p.Scope && o.Cause == p.Cause && o.Made == p.Made }
		if i := slices.IndexFunc(b.past, same); i >= 0 {
			b.past[i].At = p.At
		} else {
			b.past = append(b.past, p)
		}
	}
}

// approvalOf returns the Approval that a change could be covered by.
func approvalOf(c rbacsync.Change) rbacsync.Approval {
	switch {
	case c.Action == rbacsync.Create && c.Key.Kind == rbacsync.KindNamespace:
		return rbacsync.Approval{Source: c.Source}
	case c.Revokes && c.Old != nil && c.Old.Binding != nil:
		return rbacsync.Approval{Source: c.Source, Role: c.Old.Binding.Role}
	}
	return rbacsync.Approval{}
}

// forget drops the approvals of what nobody wants any more: should it come again, it is something new.
func (s *Syncer) forget(ctx context.Context, r *Round, want *rbacsync.Wanted, wanted map[string]bool) {
	if s.o.Mode != ModeEnforce || len(want.Untouchable) > 0 {
		return // what can't be judged now may be wanted again in the next round
	}
	var stale []string
	for k := range maps.Keys(s.brakes.approved) {
		if !wanted[k] {
			stale = append(stale, k)
		}
	}
	if len(stale) == 0 {
		return
	}
	if err := s.o.Held.Forget(ctx, stale); err != nil {
		r.Findings = append(r.Findings, authz.Finding{Code: "approvals_unwritable", Text: err.Error()})
		return
	}
	for _, k := range stale {
		delete(s.brakes.approved, k)
	}
}

// saveHeld shows what is held to plan --held; it writes only what is new, or what somebody changed, which rounds over
// everything look for.
func (s *Syncer) saveHeld(ctx context.Context, r *Round) {
	single := slices.Clone(r.Held)
	for i := range single {
		single[i].Change = "" // the hash of a change of the policy says nothing about whom it concerns
	}
	hash := rbacsync.HashOf(single)
	if s.o.Held == nil || s.brakes.saved == hash && r.part {
		return
	}
	if err := s.o.Held.Save(ctx, r.Held); err != nil {
		r.Findings = append(r.Findings, authz.Finding{Code: "held_unwritable", Text: err.Error()})
		return
	}
	s.brakes.saved = hash
}
