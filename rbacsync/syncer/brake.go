package syncer

import (
	"context"
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
	asked    map[any]int     // question: how often it was asked
}

// restrain plans, and leaves as it is what can't be given and what is over a limit.
func (s *Syncer) restrain(ctx context.Context, p *pass) {
	if s.o.Roles != nil && p.everything() {
		s.o.Roles.Look(ctx)
		p.found = slices.Concat(p.found, rbacsync.RoleFindings(s.o.Roles.Roles()), rbacsync.RuleFindings(s.o.Roles.Roles(), s.o.Shipped))
	}
	p.plan(s.withhold(p))
	if s.o.Limits == nil || p.want.Hold != "" {
		return
	}
	b := &s.brakes
	b.past = slices.DeleteFunc(b.past, func(past rbacsync.Past) bool { return p.Started.Sub(past.At) > rbacsync.CreationMemory })
	e := rbacsync.Evidence{
		Snapshot: p.snap, Before: b.before, Policy: s.o.Policy, Was: b.policy, Gone: p.answers.gone, Levels: p.answers.levels,
		Past: b.past, Approved: b.approved, Outside: p.outside,
	}
	if !p.everything() {
		e.Size = s.size
	}
	want := p.want
	v := s.o.Limits.Split(p.Plan, want, e, p.Started)
	if s.o.Held != nil && (len(v.Wanted) > 0 || b.approved == nil && p.everything() || len(b.approved) > 0) {
		if approved, err := s.o.Held.Approvals(ctx); err != nil {
			p.noted = append(p.noted, authz.Finding{Code: "approvals_unreadable", Text: err.Error()})
		} else {
			b.approved, e.Approved = approved, approved
			v = s.o.Limits.Split(p.Plan, want, e, p.Started)
			s.forget(ctx, p, v.Wanted)
		}
	}
	p.Held = v.Held
	if v.Want != want {
		p.plan(v.Want)
	}
	for i := range p.Plan { // the log and the history say that it was somebody's decision
		if c := &p.Plan[i]; v.Approved[approvalOf(*c)] {
			c.Why += ", approved by an administrator"
		}
	}
	b.pass(v.Passed)
}

// agree notes which Snapshot the whole cluster agrees with.
func (s *Syncer) agree(p *pass, err error) {
	b := &s.brakes
	clean := err == nil && p.Unwritten == 0 && p.plain.Hold == "" && len(p.Held) == 0 && s.o.Mode == ModeEnforce
	if clean || b.before == nil {
		b.before = p.snap
	}
	// What is taken later, because it could not be read or given now, is still to be known as the new policy's doing.
	if clean && p.everything() && p.withheld == 0 && (b.policy == nil || len(s.o.Policy.Untouchable(p.snap)) == 0) {
		b.policy = &s.o.Policy
	}
}

// withhold is the function of that name, with what this Syncer knows.
func (s *Syncer) withhold(p *pass) *rbacsync.Wanted {
	if s.o.Roles == nil {
		return p.plain
	}
	var before func(rbacsync.Right) bool
	if was := s.brakes.policy; was != nil {
		var gives map[rbacsync.Right]bool
		before = func(right rbacsync.Right) bool {
			if gives == nil {
				ids := map[authz.SourceID]bool{}
				for i := range p.plain.Objects {
					if o := p.plain.Objects[i].Space; o != nil {
						ids[o.Source] = true
					}
				}
				gives = rbacsync.RightsIn(*was, p.snap, ids, p.Started)
			}
			return gives[right]
		}
	}
	want, n := rbacsync.Withhold(p.have, p.plain, s.o.Roles.Roles(), s.o.Policy, before)
	p.withheld = n
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
func (s *Syncer) forget(ctx context.Context, p *pass, wanted map[string]bool) {
	if s.o.Mode != ModeEnforce || !p.everything() || len(p.want.Untouchable) > 0 {
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
		p.noted = append(p.noted, authz.Finding{Code: "approvals_unwritable", Text: err.Error()})
		return
	}
	for _, k := range stale {
		delete(s.brakes.approved, k)
	}
}

// saveHeld shows what is held to plan --held; it writes only what is new, or what somebody changed, which rounds over
// everything look for.
func (s *Syncer) saveHeld(ctx context.Context, p *pass) {
	if s.o.Held == nil || s.o.Limits == nil || p.want.Hold != "" {
		return
	}
	single := slices.Clone(p.Held)
	for i := range single {
		single[i].Change = "" // the hash of a change of the policy says nothing about whom it concerns
	}
	hash := rbacsync.HashOf(single)
	if s.brakes.saved == hash && !p.everything() {
		return
	}
	if err := s.o.Held.Save(ctx, p.Held); err != nil {
		p.noted = append(p.noted, authz.Finding{Code: "held_unwritable", Text: err.Error()})
		return
	}
	s.brakes.saved = hash
}
