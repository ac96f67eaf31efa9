package audit

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// Limits say how much is kept, and for how long.
type Limits struct {
	Days              int           // how long entries are kept
	MaxBytes          int64         // how much of them, compressed
	PseudonymiseAfter time.Duration // how long after somebody's removal from GitLab their name and id are kept
}

// Written is what one pass of the engine has found and written.
type Written = syncer.Written

// Options are what a Writer is made of.
type Options struct {
	Kube   kubernetes.Interface
	Limits func() Limits
	May    func() error // optional: nil while this process leads
	Now    func() time.Time
	Log    *slog.Logger
}

const (
	saveEvery = 5 * time.Second
	maxRows   = 1000 // rows that wait for the base being written
	// recordedEvery is how often it is written that nothing has changed.
	recordedEvery = time.Hour
	maxQueue      = 256
	// keepLegacy is how long what a version before wrote is left for it to show, in case it comes back.
	keepLegacy = 7 * 24 * time.Hour
)

// Writer records what the leader does. Take never blocks; Run stores it beside the passes, and Flush what is left at the end. What
// is not stored when a process dies is found by the next whole pass, of this or another process, as a difference between what is
// recorded and what is there.
type Writer struct {
	o    Options
	wake chan struct{}

	mu    sync.Mutex
	queue []Written
	found []authz.Finding

	saving  sync.Mutex // held by who uses what follows
	ledger  *ledger
	checked time.Time // when what is stored was last read
}

// NewWriter returns a Writer that has stored nothing yet.
func NewWriter(o Options) *Writer {
	return &Writer{o: o, wake: make(chan struct{}, 1), ledger: &ledger{o: o, openBytes: 16 << 10, openRecords: 4000}}
}

// Take takes in what a pass has found and written.
func (w *Writer) Take(x Written) {
	w.mu.Lock()
	if w.queue = append(w.queue, x); len(w.queue) > maxQueue { // nothing can be stored: the next whole pass finds it
		w.queue = w.queue[len(w.queue)-maxQueue/2:]
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Findings returns what an administrator should know of the history.
func (w *Writer) Findings() []authz.Finding {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.found
}

// look finds out what an administrator should know after something was stored, or was not.
func (w *Writer) look(failed error) {
	var found []authz.Finding
	l := w.o.Limits()
	if cut := w.ledger.cut; w.o.Now().Sub(cut) < l.keep() {
		found = append(found, authz.Finding{Code: "history_full", Text: fmt.Sprintf("history.maxBytes (%d) is reached: what was before %s is dropped, though history.days is %d", l.MaxBytes, cut.Format(time.RFC3339), l.Days)})
	}
	if failed != nil {
		found = append(found, authz.Finding{Code: "history_unwritten", Text: "the history is not stored: " + failed.Error()})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.found = found
}

// Run stores what was taken in until ctx is done.
func (w *Writer) Run(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		}
		if err := w.save(ctx, true); err != nil && ctx.Err() == nil {
			w.o.Log.WarnContext(ctx, "the history was not stored, trying again", "error", err)
			select {
			case w.wake <- struct{}{}:
			default:
			}
		}
		t := time.NewTimer(saveEvery)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// Flush stores what is left, also when ctx is done. Its error is logged.
func (w *Writer) Flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	err := w.save(ctx, false)
	if err != nil {
		w.o.Log.WarnContext(ctx, "the last changes are not in the history; the next leader finds them in the cluster, without their cause", "error", err)
	}
	return err
}

// save notes and stores what was taken in. Tidy says that what is old may be put away as well.
func (w *Writer) save(ctx context.Context, tidy bool) error {
	w.saving.Lock()
	defer w.saving.Unlock()
	w.mu.Lock()
	queue := w.queue
	w.queue = nil
	w.mu.Unlock()
	if len(queue) == 0 && !w.ledger.pending() {
		return nil
	}
	if now := w.o.Now(); now.Sub(w.checked) >= recordedEvery { // somebody may have deleted or changed a part
		w.ledger.forsake()
		w.checked = now
	}
	err := w.ledger.load(ctx)
	if err != nil {
		w.mu.Lock()
		w.queue = append(queue, w.queue...)
		w.mu.Unlock()
	} else {
		for _, x := range queue {
			w.ledger.process(x)
		}
		err = w.ledger.save(ctx, tidy)
	}
	w.look(err)
	return err
}
