package audit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/wait"
)

// Reader reads the history, in any replica and in commands. It keeps what it has read, and asks at each call whether there is
// more. It is safe for concurrent use.
type Reader struct {
	kube   kubernetes.Interface
	glance time.Duration // how long somebody waits for the turn
	turn   chan struct{} // in it while somebody uses v
	v      *volume
}

// ErrBusy says that others read the history, and that it takes them longer than somebody waits for it: what waits holds one of the
// slots of everybody.
var ErrBusy = errors.New("others are reading the history, which takes long now: try again in a few seconds")

// NewReader returns a Reader of the cluster's history.
func NewReader(kube kubernetes.Interface) *Reader {
	return &Reader{kube: kube, glance: time.Second, turn: make(chan struct{}, 1), v: newReaderVolume(kube)}
}

// User returns the changes of one person's rights from since until until, the oldest first. A zero time is no bound.
func (r *Reader) User(ctx context.Context, id int64, since, until time.Time) (out []Entry, err error) {
	err = r.read(ctx, func(b *book) {
		n := b.byID[id]
		out = b.entries(since, until, func(r record) bool { return n != 0 && r.who == n })
	})
	return out, err
}

// Namespace returns the changes in one namespace from since until until, the oldest first. A zero time is no bound.
func (r *Reader) Namespace(ctx context.Context, namespace string, since, until time.Time) (out []Entry, err error) {
	err = r.read(ctx, func(b *book) {
		mine := b.namespaceNumbers(namespace)
		out = b.entries(since, until, func(r record) bool { return mine[r.namespace] })
	})
	return out, err
}

// At returns who had which right in a namespace at a time.
func (r *Reader) At(ctx context.Context, namespace string, at time.Time) (Moment, error) {
	return r.at(ctx, at, func(b *book) func(namespace, who uint32) bool {
		mine := b.namespaceNumbers(namespace)
		return func(n, _ uint32) bool { return mine[n] }
	})
}

// UserAt returns the rights that a person had at a time.
func (r *Reader) UserAt(ctx context.Context, id int64, at time.Time) (Moment, error) {
	return r.at(ctx, at, func(b *book) func(namespace, who uint32) bool {
		n := b.byID[id]
		return func(_, who uint32) bool { return n != 0 && who == n }
	})
}

func (r *Reader) at(ctx context.Context, at time.Time, want func(*book) func(namespace, who uint32) bool) (m Moment, err error) {
	err = r.read(ctx, func(b *book) {
		m = b.at(at, want(b))
		m.Recorded = r.v.head.Recorded
	})
	return m, err
}

// Find returns the person with a user name, as last known; false if there is none in the history.
func (r *Reader) Find(ctx context.Context, name string) (id int64, ok bool, err error) {
	err = r.read(ctx, func(b *book) {
		for _, p := range b.users {
			if p.ID != 0 && p.Name == name && (!ok || p.Gone.IsZero()) { // who is there has the name of who is gone
				id, ok = p.ID, true
			}
		}
	})
	return id, ok, err
}

// Count returns how many changes there are of each namespace, and since when who had what is known.
func (r *Reader) Count(ctx context.Context) (count map[string]int, begins time.Time, err error) {
	count = map[string]int{}
	err = r.read(ctx, func(b *book) {
		begins = b.begins
		for _, r := range b.log {
			count[b.namespaceName(r.namespace)]++
		}
	})
	return count, begins, err
}

// read hands the book to ask, with what a version before has written meanwhile.
func (r *Reader) read(ctx context.Context, ask func(*book)) error {
	if err := r.wait(ctx); err != nil {
		return err
	}
	defer func() { <-r.turn }()
	old, err := r.refresh(ctx)
	if err != nil {
		return err
	}
	b, log := r.v.book, r.v.book.log
	if old = b.later(log, old); len(old) > 0 {
		now := b.now()
		for _, c := range old {
			if b.begins.IsZero() {
				b.noteEarlier(c)
			} else {
				b.note(c, now)
			}
		}
	}
	ask(b)
	b.log = log
	return nil
}

// wait takes the turn when it is free within a glance.
func (r *Reader) wait(ctx context.Context) error {
	err := wait.Turn(ctx, r.turn, r.glance)
	switch {
	case errors.Is(err, wait.ErrTaken):
		return ErrBusy
	case err != nil:
		return fmt.Errorf("waiting for others to have read the history: %w", err)
	}
	return nil
}

// refreshTimeout bounds how long what is stored is read, once begun.
const refreshTimeout = 20 * time.Second

// refresh brings the volume up to date, and returns what a version before has written. It does not end with ctx: whoever asks and
// goes away would have the next one read everything again. What a failure leaves is read on from by the next one.
func (r *Reader) refresh(ctx context.Context) ([]change, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refreshTimeout)
	defer cancel()
	err := r.v.refresh(ctx)
	if errors.Is(err, store.ErrNone) || errors.Is(err, store.ErrDamaged) {
		r.v = newReaderVolume(r.kube)
	}
	if err != nil && !errors.Is(err, store.ErrNone) {
		return nil, err
	}
	return loadLegacy(ctx, r.kube)
}
