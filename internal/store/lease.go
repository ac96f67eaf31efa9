package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Elector makes one of several replicas the leader, by a Lease. It is client-go's protocol (holderIdentity, renewTime,
// changes by resourceVersion), with two things of its own: Lead is waited for before the Lease is given up, and May
// says before each write whether the Lease still holds, by both clocks of this process.
type Elector struct {
	Client    kubernetes.Interface
	Namespace string
	Identity  string // of this process; see NewIdentity
	Logger    *slog.Logger
	// Duration is how long others wait after the last renewal; default 8 s. A leader that could not renew for two
	// thirds of it stops. Every is the time between renewals; default 1 s.
	Duration, Every time.Duration
	Now             func() time.Time // default time.Now
	// Ready, optional, is asked before the Lease is taken: with an error of it this process leaves the Lease to others.
	Ready func(context.Context) error

	mu      sync.Mutex
	renewed time.Time // when the last successful renewal was begun; zero: not leading
	holder  string    // as far as known
}

// ErrNotLeading is the answer of May when another process may lead.
var ErrNotLeading = errors.New("the lease is not held: another process may lead")

// NewIdentity returns a name for this process: its host and something random, for a process that is started again on
// the same host is another one.
func NewIdentity() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	b := make([]byte, 4)
	_, _ = rand.Read(b) // never fails
	return host + "_" + hex.EncodeToString(b)
}

// May returns nil while the Lease surely holds. It is asked before each write: a process that was stopped for a while
// notices by its clocks, before it has talked to anybody, that it no longer leads.
func (e *Elector) May() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.renewed.IsZero() {
		return ErrNotLeading
	}
	now := e.now()
	// The monotonic clock stands still while a machine sleeps, the wall clock may be set: the larger one counts.
	if age := max(now.Sub(e.renewed), now.Round(0).Sub(e.renewed.Round(0))); age >= e.deadline() {
		return ErrNotLeading
	}
	return nil
}

// Leader returns who leads, as far as this process knows, and whether that is this process.
func (e *Elector) Leader() (identity string, me bool) {
	me = e.May() == nil
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.holder, me
}

// Run tries to lead until ctx is done. While this process leads, lead runs; its context ends with the leadership, and
// Run waits for it. When lead returns an error while the Lease is held, Run gives the Lease up and returns it.
func (e *Elector) Run(ctx context.Context, lead func(context.Context) error) error {
	var seen *coordinationv1.Lease // as last read
	var since time.Time            // when it was first seen so
	var lastWarning string         // the last warning
	var lastWarned time.Time
	for ctx.Err() == nil {
		began := e.now()
		lease, err := e.leases().Get(ctx, NameLease, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err) && seen != nil && e.held(seen) && began.Sub(since) < e.expiry(seen):
			e.pause(ctx) // deleted by hand: who leads makes it anew, and may write until then
			continue
		case apierrors.IsNotFound(err):
			if err = e.ready(ctx); err == nil {
				began = e.now() // from now on it is held
				lease, err = e.leases().Create(ctx, e.claim(nil, began), metav1.CreateOptions{})
			}
		case err != nil:
		default:
			if seen == nil || seen.ResourceVersion != lease.ResourceVersion {
				seen, since = lease, began
			}
			e.note(value(lease.Spec.HolderIdentity))
			// How long it has not been renewed is measured here: clocks of two machines may differ.
			if e.held(lease) && began.Sub(since) < e.expiry(lease) {
				e.pause(ctx)
				continue
			}
			if err = e.ready(ctx); err == nil {
				began = e.now()
				lease, err = e.leases().Update(ctx, e.claim(lease, began), metav1.UpdateOptions{})
			}
		}
		if err != nil {
			if ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
				if err = explain(err); err.Error() != lastWarning || e.now().Sub(lastWarned) >= warnEvery {
					lastWarning, lastWarned = err.Error(), e.now()
					e.Logger.WarnContext(ctx, "the lease can't be taken, trying again", "error", err)
				}
			}
			e.pause(ctx)
			continue
		}
		e.hold(began)
		if err := e.leading(ctx, lease, lead); err != nil {
			return err
		}
		seen = nil
	}
	return ctx.Err()
}

func (e *Elector) ready(ctx context.Context) error {
	if e.Ready == nil {
		return nil
	}
	return e.Ready(ctx)
}

// warnEvery is how often the same trouble is reported again: it may last until an administrator comes.
const warnEvery = 30 * time.Second

// explain adds what to do where the cluster is not ready for us.
func explain(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return fmt.Errorf("%w: apply deploy/manifests, with which the integrator's namespace and roles come", err)
	}
	return err
}

// leading runs lead and renews the Lease meanwhile.
func (e *Elector) leading(ctx context.Context, lease *coordinationv1.Lease, lead func(context.Context) error) error {
	e.Logger.InfoContext(ctx, "leading", "identity", e.Identity)
	leadCtx, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- lead(leadCtx) }()
	tick := time.NewTicker(e.every())
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			e.release(ctx, lease)
			if ctx.Err() != nil {
				return nil // it ended because everything ends
			}
			return err
		case <-ctx.Done():
			<-done //nolint:errcheck // it ended because we asked
			e.release(ctx, lease)
			return nil
		case <-tick.C:
			lease = e.renew(ctx, lease)
			if e.May() != nil {
				e.Logger.WarnContext(ctx, "no longer leading", "identity", e.Identity)
				stop()
				<-done //nolint:errcheck // it ended because we asked
				e.hold(time.Time{})
				return nil
			}
		}
	}
}

// renew renews the Lease and returns it as it then is.
func (e *Elector) renew(ctx context.Context, lease *coordinationv1.Lease) *coordinationv1.Lease {
	began := e.now()
	ctx, cancel := context.WithTimeout(ctx, e.deadline()/2)
	defer cancel()
	next, err := e.leases().Update(ctx, e.claim(lease, began), metav1.UpdateOptions{})
	switch {
	case err == nil:
		e.hold(began)
		return next
	case apierrors.IsConflict(err), apierrors.IsNotFound(err): // kube-apiserver says either of a Lease that is gone
		now, err := e.leases().Get(ctx, NameLease, metav1.GetOptions{})
		if apierrors.IsNotFound(err) && e.May() == nil { // deleted by hand: nobody else takes it yet
			if now, err = e.leases().Create(ctx, e.claim(nil, began), metav1.CreateOptions{}); err == nil && !older(now.ResourceVersion, lease.ResourceVersion) {
				e.hold(began)
				return now
			}
		}
		switch {
		case err != nil:
		case older(now.ResourceVersion, lease.ResourceVersion):
			// Watches that go on from a version of before would be silent until the cluster has reached it again, and what is known
			// of the cluster is of another past: nothing but a new beginning sees which rights have come back.
			e.Logger.WarnContext(ctx, "the cluster has gone back to an earlier state, as after a restore of etcd: everything is read again")
			e.hold(time.Time{})
		case value(now.Spec.HolderIdentity) == e.Identity:
			return now // our own renewal whose answer was lost
		default:
			e.hold(time.Time{})
			e.note(value(now.Spec.HolderIdentity))
		}
	default:
		e.Logger.WarnContext(ctx, "the lease can't be renewed, trying again", "error", err)
	}
	return lease
}

// release lets another process lead at once. It has a moment for that after ctx is done.
func (e *Elector) release(ctx context.Context, lease *coordinationv1.Lease) {
	e.hold(time.Time{})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	free := func(lease *coordinationv1.Lease) error {
		l := lease.DeepCopy() // with its resourceVersion: somebody else's Lease stays theirs
		l.Spec.HolderIdentity = nil
		_, err := e.leases().Update(ctx, l, metav1.UpdateOptions{})
		return err
	}
	err := free(lease)
	if apierrors.IsConflict(err) { // by our own renewal, if it was broken off and came through all the same
		var now *coordinationv1.Lease
		if now, err = e.leases().Get(ctx, NameLease, metav1.GetOptions{}); err == nil && value(now.Spec.HolderIdentity) == e.Identity {
			err = free(now)
		}
	}
	if err != nil {
		e.Logger.InfoContext(ctx, "the lease was not released: others wait until it expires", "error", err)
	}
}

// claim returns the Lease held by this process; old is nil when there is none.
func (e *Elector) claim(old *coordinationv1.Lease, at time.Time) *coordinationv1.Lease {
	l := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: NameLease, Namespace: e.Namespace, Labels: OwnLabels()}}
	transitions := int32(0)
	if old != nil {
		l = old.DeepCopy()
		transitions = value(old.Spec.LeaseTransitions)
	}
	now := metav1.NewMicroTime(at)
	if value(l.Spec.HolderIdentity) != e.Identity {
		l.Spec.AcquireTime = &now
		transitions++
	}
	seconds := int32(min(e.duration().Round(time.Second)/time.Second, 3600)) //nolint:gosec // at most 3600
	l.Spec.HolderIdentity, l.Spec.RenewTime, l.Spec.LeaseDurationSeconds, l.Spec.LeaseTransitions = &e.Identity, &now, &seconds, &transitions
	return l
}

func (e *Elector) hold(since time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.renewed = since
	if !since.IsZero() {
		e.holder = e.Identity
	}
}

func (e *Elector) note(holder string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.holder = holder
}

// held reports whether a Lease names another process.
func (e *Elector) held(l *coordinationv1.Lease) bool {
	holder := value(l.Spec.HolderIdentity)
	return holder != "" && holder != e.Identity
}

// expiry is how long after its last renewal a Lease is free: never later than one of ours, whatever it says, so that a
// Lease somebody wrote by hand, or another program, stops nothing for long.
func (e *Elector) expiry(l *coordinationv1.Lease) time.Duration {
	if s := value(l.Spec.LeaseDurationSeconds); s > 0 {
		return min(time.Duration(s)*time.Second, e.duration())
	}
	return e.duration()
}

func (e *Elector) deadline() time.Duration { return e.duration() * 2 / 3 }

func (e *Elector) duration() time.Duration {
	if e.Duration > 0 {
		return e.Duration
	}
	return 8 * time.Second
}

func (e *Elector) every() time.Duration {
	if e.Every > 0 {
		return e.Every
	}
	return time.Second
}

func (e *Elector) now() time.Time {
	if e.Now != nil {
		return e.Now()
	}
	return time.Now()
}

func (e *Elector) pause(ctx context.Context) {
	t := time.NewTimer(e.every())
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func (e *Elector) leases() leaseClient { return e.Client.CoordinationV1().Leases(e.Namespace) }

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
