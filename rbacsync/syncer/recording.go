package syncer

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/clusterroles"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
)

// Recording is what one plan is made from: what was read of GitLab, what the cluster holds, what is remembered and what was
// answered. It has no secret in it. Make one by a round with what Record returns; Replay makes a plan from it again, also
// with another configuration (docs/adr/0109).
type Recording struct {
	Taken    time.Time // the time of the plan
	Snapshot *authz.Snapshot
	Observed *rbacsync.Observed // rbacsync.Observed.Recorded
	Stored   *Stored            // nil: nothing is remembered
	Approved map[string]string  // what was approved of what is held
	Roles    clusterroles.Roles
	Exists   map[authz.SourceID]bool // GitLab's answers
	Levels   map[rbacsync.Membership]authz.Level
}

// Record returns the Options of a plan that fills the Recording. What is observed has to be given in Observe.
func (r *Recording) Record(o Options) Options {
	now := time.Now
	if o.Now != nil {
		now = o.Now
	}
	r.Taken = now()
	o.Mode, o.Now = ModePlan, func() time.Time { return r.Taken }
	o.Reader = recordedReader{r, o.Reader}
	if look := o.Observe; look != nil {
		var seen *rbacsync.Observed
		o.Observe = func(ctx context.Context) (_ *rbacsync.Observed, err error) {
			if seen == nil { // a second pass plans on the same
				if seen, err = look(ctx); err == nil {
					r.Observed = seen.Recorded(o.Settings.Templates, r.Snapshot)
				}
			}
			return seen, err
		}
	}
	if o.Memory != nil {
		o.Memory = recordedMemory{r, o.Memory}
	}
	if o.Held != nil {
		o.Held = recordedApprovals{r, o.Held}
	}
	if o.Questions != nil {
		r.Exists, r.Levels = map[authz.SourceID]bool{}, map[rbacsync.Membership]authz.Level{}
		o.Questions = &recordedAnswers{r: r, ask: o.Questions}
	}
	return o
}

// Replay returns the Options of a plan that asks neither GitLab nor the cluster: the Policy, Settings, Limits and Reserved
// are those of o. A ClusterRole that was not looked up for the Recording counts as one that can be given.
func (r *Recording) Replay(o Options) Options {
	return Options{
		Policy: o.Policy, Settings: o.Settings, Reserved: o.Reserved, Limits: o.Limits, Shipped: o.Shipped, Logger: o.Logger,
		Mode: ModePlan, Now: func() time.Time { return r.Taken }, Reader: recordedReader{r, nil},
		Observe: func(context.Context) (*rbacsync.Observed, error) { return r.Observed, nil },
		Memory:  recordedMemory{r, nil}, Held: recordedApprovals{r, nil}, Questions: &recordedAnswers{r: r},
		Roles: cluster.RecordedRoles(r.rolesOf(o.Policy)),
	}
}

// rolesOf returns what a plan by this policy looks up.
func (r *Recording) rolesOf(p authz.Policy) clusterroles.Roles {
	out := clusterroles.Roles{}
	for _, name := range append(p.ClusterRoles(), kubename.CIClusterRole) {
		if role, ok := r.Roles[name]; ok {
			out[name] = role
		}
	}
	return out
}

// errRecorded says that nothing is asked for a plan from a Recording.
var errRecorded = errors.New("it was not asked when the snapshot was saved")

// recordedReader is a reader of GitLab, or of what one has read.
type recordedReader struct {
	r    *Recording
	from interface {
		Snapshot(ctx context.Context) (*authz.Snapshot, error)
	}
}

func (x recordedReader) Snapshot(ctx context.Context) (*authz.Snapshot, error) {
	if x.from == nil {
		return x.r.Snapshot, nil
	}
	s, err := x.from.Snapshot(ctx)
	x.r.Snapshot = s
	return s, err
}

func (recordedReader) Refresh(context.Context, *authz.Snapshot, []authz.SourceID) (*authz.Snapshot, error) {
	return nil, errRecorded
}

type recordedMemory struct {
	r    *Recording
	from Memory
}

func (recordedMemory) Save(context.Context, Stored, func()) error { return errRecorded }

func (x recordedMemory) Load(ctx context.Context, have string) (*Stored, string, error) {
	if x.from == nil {
		return x.r.Stored, "", nil
	}
	st, version, err := x.from.Load(ctx, have)
	x.r.Stored = st
	return st, version, err
}

type recordedApprovals struct {
	r    *Recording
	from HeldStore
}

func (recordedApprovals) Save(context.Context, []rbacsync.Item) error { return errRecorded }

func (recordedApprovals) Forget(context.Context, []string) error { return errRecorded }

func (x recordedApprovals) Approvals(ctx context.Context) (map[string]string, error) {
	if x.from == nil {
		return x.r.Approved, nil
	}
	approved, err := x.from.Approvals(ctx)
	x.r.Approved = approved
	return approved, err
}

// recordedAnswers are asked at the same time.
type recordedAnswers struct {
	r   *Recording
	ask Verifier
	mu  sync.Mutex
}

func (x *recordedAnswers) Exists(ctx context.Context, id authz.SourceID) (bool, error) {
	return answer(x, x.r.Exists, id, func() (bool, error) { return x.ask.Exists(ctx, id) })
}

func (x *recordedAnswers) MemberLevel(ctx context.Context, id authz.SourceID, user int64) (authz.Level, error) {
	return answer(x, x.r.Levels, rbacsync.Membership{Source: id, User: user}, func() (authz.Level, error) { return x.ask.MemberLevel(ctx, id, user) })
}

// answer returns what is recorded, or asks and records it.
func answer[K comparable, V any](x *recordedAnswers, known map[K]V, k K, ask func() (V, error)) (v V, err error) {
	if x.ask == nil {
		v, ok := known[k]
		if !ok {
			return v, errRecorded
		}
		return v, nil
	}
	if v, err = ask(); err == nil {
		x.mu.Lock()
		known[k] = v
		x.mu.Unlock()
	}
	return v, err
}
