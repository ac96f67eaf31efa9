package audit

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
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
	May    func() error // optional: nil while this process leads. It is asked before each write
	Now    func() time.Time
	Log    *slog.Logger
}

const (
	saveAfter = time.Second // hooks come in bursts: the next one is not to share the processor with this
	saveEvery = 5 * time.Second
	maxRows   = 1000 // rows that wait for the base being written
	// recordedEvery is how often it is written that nothing has changed.
	recordedEvery = time.Hour
	// maxQueue, backlogAt and keepUnread bound how much of what passes report waits in memory. Each has whole Snapshots, and all that was
	// found in the cluster: at most maxQueue wait while something is being stored, from backlogAt on they wait no longer for the next
	// time, and keepUnread are left when nothing can be recorded, because what is stored can't be read. Of the rest each right that is
	// different afterwards is found by the next whole pass, as a difference between the record and the cluster. What is lost of it is
	// the cause, what was gained and lost again meanwhile, and objects that give no right.
	maxQueue   = 64
	backlogAt  = 16
	keepUnread = 8
	// keepLegacy is how long what a version before wrote is left for it to show, in case it comes back.
	keepLegacy = 7 * 24 * time.Hour
)

// Writer records what the leader does. Take never blocks; Run stores it beside the passes, and Flush what is left at the end of
// leading. What is not stored when a process dies is found by the next whole pass, of this or another process, as a difference
// between what is recorded and what is there.
type Writer struct {
	o       Options
	wake    chan struct{}
	backlog chan struct{} // much waits

	mu    sync.Mutex
	queue []Written
	found []authz.Finding

	saving  sync.Mutex // held by who uses what follows
	ledger  *ledger
	checked time.Time // when what is stored was last read
}

// NewWriter returns a Writer that has stored nothing yet.
func NewWriter(o Options) *Writer {
	return &Writer{o: o, wake: make(chan struct{}, 1), backlog: make(chan struct{}, 1), ledger: &ledger{o: o, openBytes: 16 << 10, openRecords: 4000}}
}

// Take takes in what a pass has found and written.
func (w *Writer) Take(x Written) {
	w.mu.Lock()
	w.queue = last(append(w.queue, x), maxQueue)
	waiting := len(w.queue)
	w.mu.Unlock()
	signal(w.wake)
	if waiting >= backlogAt {
		signal(w.backlog)
	}
}

// last returns the last n of a queue, in its memory: the others are not held by it any more.
func last(queue []Written, n int) []Written {
	return slices.Delete(queue, 0, max(len(queue)-n, 0))
}

// signal wakes who waits, now or next.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
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
	var saved time.Time
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		}
		if w.pause(ctx, max(saveAfter, saveEvery-time.Since(saved))); ctx.Err() != nil {
			return // Flush stores the rest, with what is loaded now
		}
		if err := w.save(ctx); err != nil && ctx.Err() == nil {
			w.o.Log.WarnContext(ctx, "the history was not stored, trying again", "error", err)
			signal(w.wake)
		}
		saved = time.Now()
	}
}

// pause waits, but not where much is waiting.
func (w *Writer) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-w.backlog:
	case <-t.C:
	}
}

// Flush stores what is left when this process stops leading, for a few seconds also when ctx is done, and forgets what could not be
// stored: another process may lead now, and whoever leads begins with a whole pass. Its error is logged.
func (w *Writer) Flush(ctx context.Context) error {
	patience := 30 * time.Second
	if ctx.Err() != nil {
		patience = 3 * time.Second
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	err := w.save(ctx)
	if err != nil {
		w.o.Log.WarnContext(ctx, "the last changes are not in the history; the next leader finds them in the cluster, without their cause", "error", err)
	}
	w.saving.Lock()
	defer w.saving.Unlock()
	w.forget()
	return err
}

// forget forgets what is not stored.
func (w *Writer) forget() {
	w.ledger.reset()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue, w.found = nil, nil
}

func (w *Writer) leads() bool { return w.o.May == nil || w.o.May() == nil }

// save notes and stores what was taken in. What is left when another process leads is that one's to find.
func (w *Writer) save(ctx context.Context) error {
	w.saving.Lock()
	defer w.saving.Unlock()
	if !w.leads() {
		w.forget()
		return nil
	}
	w.mu.Lock()
	queue := w.queue
	w.queue = nil
	w.mu.Unlock()
	select {
	case <-w.backlog:
	default:
	}
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
		w.queue = last(append(queue, w.queue...), keepUnread)
		w.mu.Unlock()
	} else {
		for _, x := range queue {
			w.ledger.process(x)
		}
		err = w.ledger.save(ctx)
	}
	if err != nil && !w.leads() {
		w.forget()
		return nil
	}
	w.look(err)
	return err
}
