package syncer

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// brakes hold back what is over a limit, and remember what they judge by. What is of before, policy, begun and past is in the
// Memory too.
type brakes struct {
	o      *Options
	memory *serialMemory // nil: there is none

	recalled bool // the Memory was asked
	before   *authz.Snapshot
	latest   *authz.Snapshot // the last one that was carried out, but for what was held
	policy   *authz.Policy   // the last one that the whole cluster agreed with
	begun    []authz.Policy  // those that the cluster may have been written by since then, with the present one; not agreed with
	owed     bool            // the Memory does not know yet that the present one is among them
	retry    time.Time       // not before that is it told again
	past     []rbacsync.Past
	approved map[string]string // see rbacsync.Evidence; nil: not read yet
	saved    string            // hash of what HeldStore has; "?" is unknown
	// heldRetry is until when passes over single namespaces make no request about what is held; zero: they do.
	heldRetry time.Time
}

func newBrakes(o *Options, memory *serialMemory) brakes {
	return brakes{o: o, memory: memory, saved: "?"}
}

// restrain plans, and leaves as it is what can't be given and what is over a limit. Size is Evidence.Size for a pass over single
// namespaces.
func (b *brakes) restrain(ctx context.Context, p *pass, size func(authz.SourceID) int) {
	if b.o.Roles != nil && p.everything() {
		b.o.Roles.Look(ctx)
		p.found = slices.Concat(p.found, rbacsync.RoleFindings(b.o.Roles.Roles()), rbacsync.RuleFindings(b.o.Roles.Roles(), b.o.Shipped))
	}
	p.plan(b.withhold(p))
	if b.o.Limits == nil || p.want.Hold != "" {
		return
	}
	b.past = slices.DeleteFunc(b.past, func(past rbacsync.Past) bool { return p.Started.Sub(past.At) > rbacsync.CreationMemory })
	e := b.evidence(p.Snapshot)
	e.Gone, e.Levels, e.Past, e.Outside = p.answers.gone, p.answers.levels, slices.Concat(b.past, p.passed), p.outside
	if !p.everything() {
		e.Size = size
	}
	want := p.want
	v := b.o.Limits.Split(p.Plan, want, e, p.Started)
	// Over single namespaces they are read only where one could matter: a right should not wait for that request.
	if b.o.Held != nil && (p.everything() || b.asksHeld(p) && (len(v.Held) > len(p.outside) || len(b.approved) > 0)) {
		if approved, err := b.approvals(ctx, p); err != nil {
			p.noted = append(p.noted, authz.Finding{Code: "approvals_unreadable", Text: err.Error()})
		} else {
			b.approved, e.Approved = approved, approved
			v = b.o.Limits.Split(p.Plan, want, e, p.Started)
			if p.everything() {
				p.outdated = e.Outdated(v.Holdable, want.Untouchable)
			}
		}
	}
	p.Held = v.Held
	if v.Want != want {
		p.plan(v.Want)
	}
	v.NameApprovers(p.Plan)
	if p.passed = v.Passed; b.o.Mode == ModeEnforce { // in the other one nothing is let through
		b.pass(v.Passed)
	}
}

// heldTimeout is how long a pass waits for each request about what is held, and heldPause how long passes over single namespaces are
// without them after a failure: rights that go wait for these requests, too. A pass over everything waits for longer: somewhere they
// have to come to an end, also where ConfigMaps are slow.
const (
	heldTimeout     = 2 * time.Second
	heldTimeoutFull = 10 * time.Second
	heldPause       = time.Minute
)

// asksHeld reports whether a pass over single namespaces makes requests about what is held.
func (b *brakes) asksHeld(p *pass) bool { return !p.Started.Before(b.heldRetry) }

func (b *brakes) approvals(ctx context.Context, p *pass) (approved map[string]string, err error) {
	err = b.aboutHeld(ctx, p, func(ctx context.Context) error {
		approved, err = b.o.Held.Approvals(ctx)
		return err
	})
	return approved, err
}

// aboutHeld makes a request about what is held.
func (b *brakes) aboutHeld(ctx context.Context, p *pass, request func(context.Context) error) error {
	limit := heldTimeout
	if p.everything() {
		limit = heldTimeoutFull
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := request(ctx)
	if b.heldRetry = (time.Time{}); err != nil {
		b.heldRetry = p.Started.Add(heldPause)
	}
	return err
}

// evidence is what is remembered to judge by.
func (b *brakes) evidence(snap *authz.Snapshot) rbacsync.Evidence {
	return rbacsync.Evidence{Snapshot: snap, Before: b.before, Latest: b.latest, Policy: b.o.Policy, Was: b.policy, Begun: b.begun, Approved: b.approved}
}

// count notes that the cluster is written by the present policy from now on.
func (b *brakes) count() {
	known := b.begun
	if b.policy != nil {
		known = append([]authz.Policy{*b.policy}, known...)
	}
	if b.o.Mode == ModeEnforce && !slices.ContainsFunc(known, func(p authz.Policy) bool { return rbacsync.SamePolicy(p, b.o.Policy) }) {
		b.begun, b.owed = append(slices.Clone(b.begun), b.o.Policy), true
		b.begun = b.begun[max(0, len(b.begun)-maxBegun):]
	}
}

const (
	// maxBegun is how many policies count that were never agreed with: something that can't be read may keep that from ever being so.
	maxBegun = 8
	// beginTimeout is how long a pass waits for begin, and beginPause how long it is without it after a failure: rights that go wait
	// for it, too.
	beginTimeout = 2 * time.Second
	beginPause   = time.Minute
)

// begin has the Memory know by which policy the cluster is about to be written, before anything is: whatever ends this, what it
// has given then can't be taken by the next configuration as if no policy had ever given it.
func (b *brakes) begin(ctx context.Context, p *pass) {
	if b.count(); !b.owed || len(p.Plan) == 0 || b.memory == nil || b.o.Apply.May != nil && b.o.Apply.May() != nil ||
		p.Started.Before(b.retry) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, beginTimeout)
	defer cancel()
	err := b.memory.change(ctx, func(st *Stored) bool {
		st.Begun = configsOf(b.begun)
		return st.Snapshot.Issuer == p.Snapshot.Issuer
	})
	if b.owed = err != nil; b.owed {
		b.retry = p.Started.Add(beginPause)
		b.o.Logger.WarnContext(ctx, "it was not stored that a new policy is carried out: should it be replaced by another one at once, less than usual may be held", "error", err)
	}
}

func configsOf(policies []authz.Policy) (out []authz.PolicyConfig) {
	for _, p := range policies {
		out = append(out, p.Config())
	}
	return out
}

// agree notes which Snapshot the whole cluster agrees with.
func (b *brakes) agree(p *pass, left dirty, err error) {
	clean := err == nil && p.Unwritten == 0 && p.plain.Hold == "" && len(p.Held) == 0 && b.o.Mode == ModeEnforce
	switch {
	case clean || b.before == nil:
		b.before = p.Snapshot
	case b.o.Mode == ModeEnforce && p.plain.Hold == "":
		if open, known := b.openGroups(p, left); known {
			b.before = rbacsync.Agreed(b.before, p.Snapshot, open)
		}
	}
	if b.o.Mode == ModeEnforce && p.plain.Hold == "" {
		b.latest = p.Snapshot
	}
	// What is taken later, because it could not be read or given now, is still to be known as the new policy's doing.
	if clean && p.everything() && p.withheld == 0 && (b.policy == nil || len(b.o.Policy.Untouchable(p.Snapshot)) == 0) {
		b.policy, b.begun, b.owed = &b.o.Policy, nil, false
	}
}

// openGroups returns the top-level groups in which something is held or could not be written; false when they can't be told.
func (b *brakes) openGroups(p *pass, left dirty) (open map[authz.SourceID]bool, known bool) {
	open = map[authz.SourceID]bool{}
	note := func(id authz.SourceID) {
		open[p.Snapshot.Top(id)] = true
		open[b.before.Top(id)] = true
	}
	for _, i := range p.Held {
		if i.Change != "" { // it is about all of them
			return nil, false
		}
		open[i.Scope] = true
		note(i.Source)
	}
	for ns, d := range left {
		id, ours := p.view.Source[ns]
		switch {
		case d.failed == 0 && ns != everywhere:
		case !ours:
			return nil, false
		default:
			note(id)
		}
	}
	return open, true
}

// withhold is the function of that name, with what this Syncer knows.
func (b *brakes) withhold(p *pass) *rbacsync.Wanted {
	if b.o.Roles == nil {
		return p.plain
	}
	var before func(rbacsync.Right) bool
	if b.policy != nil {
		var gives map[rbacsync.Right]bool
		before = func(right rbacsync.Right) bool {
			if gives == nil {
				ids := map[authz.SourceID]bool{}
				for i := range p.plain.Objects {
					if o := p.plain.Objects[i].Namespace; o != nil {
						ids[o.Source] = true
					}
				}
				gives = rbacsync.RightsIn(*b.policy, p.Snapshot, ids, p.Started)
				for _, begun := range b.begun {
					if !rbacsync.SamePolicy(begun, b.o.Policy) {
						maps.Copy(gives, rbacsync.RightsIn(begun, p.Snapshot, ids, p.Started))
					}
				}
			}
			return gives[right]
		}
	}
	want, n := rbacsync.Withhold(p.have, p.plain, b.o.Roles.Roles(), b.o.Policy, before)
	p.withheld = n
	return want
}

// pass notes what goes on and counts from now on.
func (b *brakes) pass(passed []rbacsync.Past) {
	for _, p := range passed {
		same := func(o rbacsync.Past) bool { return o.Scope == p.Scope && o.Cause == p.Cause && o.Made == p.Made }
		if i := slices.IndexFunc(b.past, same); i >= 0 {
			b.past[i] = p
		} else {
			b.past = append(b.past, p)
		}
	}
}

// forget drops the approvals that the pass found outdated. It had no use for them, so no right waits for that.
func (b *brakes) forget(ctx context.Context, p *pass) {
	if len(p.outdated) == 0 || b.o.Memory != nil && !b.recalled {
		return // by the policies of before, which are not known, they may be wanted in the next round
	}
	if b.o.Apply.May != nil && b.o.Apply.May() != nil {
		return // it is another one's to forget now
	}
	// Also at the end of the process, or what comes again before the next one looks would be approved.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), heldTimeout)
	defer cancel()
	if err := b.o.Held.Forget(ctx, p.outdated); err != nil {
		p.noted = append(p.noted, authz.Finding{Code: "approvals_unwritable", Text: err.Error()})
		return
	}
	for _, k := range p.outdated {
		delete(b.approved, k)
	}
}

// saveHeld shows what is held to plan --held; it writes only what is new, or what somebody changed, which rounds over
// everything look for.
func (b *brakes) saveHeld(ctx context.Context, p *pass) {
	if b.o.Held == nil || b.o.Limits == nil || p.want.Hold != "" {
		return
	}
	hash := rbacsync.HashOf(p.Held)
	if !p.everything() && (b.saved == hash || !b.asksHeld(p)) {
		return
	}
	if err := b.aboutHeld(ctx, p, func(ctx context.Context) error { return b.o.Held.Save(ctx, p.Held) }); err != nil {
		p.noted = append(p.noted, authz.Finding{Code: "held_unwritable", Text: err.Error()})
		b.saved = "?" // it may have been written all the same
		return
	}
	b.saved = hash
}
