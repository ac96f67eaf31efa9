package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
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

// codeUnwritten is the finding that the history can't be stored.
const codeUnwritten = "history_unwritten"

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
	// openBytes is how much, packed, and openRecords how many records wait for being sealed: so much is written again with each
	// change.
	openBytes, openRecords int

	mu      sync.Mutex
	queue   []Written
	finding *authz.Finding

	saving  sync.Mutex // held by who uses what follows
	v       *volume    // nil: not read yet
	now     state      // after all records of v
	fresh   bool       // nothing is stored
	unsaved []change
	dirty   bool
	rows    map[uint32]bool // of people and namespaces that the stored tables lack
	spaces  map[uint32]bool
	legacy  bool // what versions before wrote is to be deleted
	forgets bool // the stored tables have somebody who is to be forgotten
	told    int  // how many of the open records are of before the history begins
	checked time.Time

	// lastBook and lastNow are of the v before: should nothing be stored any more, the history begins with them.
	lastBook *book
	lastNow  state
}

// NewWriter returns a Writer that has stored nothing yet.
func NewWriter(o Options) *Writer {
	return &Writer{o: o, wake: make(chan struct{}, 1), openBytes: 16 << 10, openRecords: 4000}
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
	if w.finding == nil {
		return nil
	}
	return []authz.Finding{*w.finding}
}

func (w *Writer) find(code, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.finding = &authz.Finding{Code: code, Text: fmt.Sprintf(format, args...)}
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
			w.find(codeUnwritten, "the history is not stored: %v", err)
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

// written clears the finding that nothing is.
func (w *Writer) written() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.finding != nil && w.finding.Code == codeUnwritten {
		w.finding = nil
	}
}

// save notes and stores what was taken in. Tidy says that what is old may be put away as well.
func (w *Writer) save(ctx context.Context, tidy bool) error {
	w.saving.Lock()
	defer w.saving.Unlock()
	w.mu.Lock()
	queue := w.queue
	w.queue = nil
	w.mu.Unlock()
	if len(queue) == 0 && len(w.unsaved) == 0 && !w.dirty {
		return nil
	}
	if now := w.o.Now(); now.Sub(w.checked) >= recordedEvery { // somebody may have deleted or changed a part
		w.forsake()
		w.checked = now
	}
	if err := w.load(ctx); err != nil {
		w.mu.Lock()
		w.queue = append(queue, w.queue...)
		w.mu.Unlock()
		return err
	}
	for _, x := range queue {
		w.process(x)
	}
	for try := 0; ; try++ {
		err := w.store(ctx, tidy)
		if err == nil {
			return nil
		}
		w.forsake() // what is stored is read before it is written again
		if !errors.Is(err, errConflict) || try == 2 {
			return err
		}
		if err := w.load(ctx); err != nil {
			return err
		}
	}
}

// forsake forgets what is known of the store.
func (w *Writer) forsake() {
	if w.v != nil && !(w.fresh && w.v.book.begins.IsZero()) {
		w.lastBook, w.lastNow = w.v.book, w.now
	}
	w.v = nil
}

// load reads what is stored, and notes again what is not yet.
func (w *Writer) load(ctx context.Context) error {
	if w.v != nil {
		return nil
	}
	v := newVolume(w.o.Kube)
	err := v.refresh(ctx)
	if err == nil {
		err = v.broken
	}
	w.fresh = err != nil
	switch {
	case err == nil:
	case errors.Is(err, store.ErrNone) && v.version == "":
		v = newVolume(w.o.Kube)
	case v.version != "":
		w.o.Log.WarnContext(ctx, "a part of the history is damaged: who had what is known from now on", "error", err)
		v.mend()
	case errors.Is(err, store.ErrDamaged), errors.Is(err, errBlock):
		w.o.Log.WarnContext(ctx, "the history is damaged and begins anew", "error", err)
		v = newVolume(w.o.Kube)
	default:
		return err
	}
	old, err := loadLegacy(ctx, w.o.Kube)
	if err != nil {
		return err
	}
	w.v, w.now, w.rows, w.spaces, w.dirty, w.forgets = v, v.book.now(), map[uint32]bool{}, map[uint32]bool{}, false, false
	w.legacy = len(old) > 0 && w.o.Now().Sub(old[len(old)-1].at) > keepLegacy
	if w.fresh {
		w.tell(old)
		if w.lastBook == nil {
			return nil // until a whole pass
		}
		w.again()
	} else {
		for _, c := range old {
			if n := len(v.book.log); n == 0 || c.at.UnixMilli() >= v.book.log[n-1].at {
				w.note(c)
			}
		}
		w.dirty = w.dirty || w.legacy
	}
	for _, c := range w.unsaved {
		w.note(c)
	}
	return nil
}

// again begins the history with what was known before it was deleted, but for what was not stored.
func (w *Writer) again() {
	b, last := w.v.book, w.lastBook
	for n, roles := range w.lastNow {
		s := last.spaces[n-1]
		for role, people := range roles {
			r := record{space: b.space(s.Name, s.Owner), role: b.text(last.textOf(role)), what: gained}
			for _, n := range people {
				p := last.people[n-1]
				if p.Subject != "" {
					r.who = b.subject(p.Subject)
				} else {
					r.who = b.user(p.ID)
					p.N = r.who
					b.addPerson(p)
				}
				b.base.apply(r)
			}
		}
	}
	for _, c := range slices.Backward(w.unsaved) {
		r := record{space: b.space(c.space, c.owner), role: b.text(c.role), what: gained}
		if c.what == gained {
			r.what = lost
		}
		switch {
		case c.object():
			continue
		case c.user != 0:
			r.who = b.user(c.user)
		default:
			r.who = b.subject(c.subject)
		}
		b.base.apply(r)
	}
	w.start(w.o.Now())
}

// start makes the base the state that the history begins with.
func (w *Writer) start(at time.Time) {
	b := w.v.book
	b.begins, b.first, w.told = at.UTC(), len(b.log), len(w.v.open)
	w.now, w.dirty = b.base.clone(), true
}

// tell takes in changes of before the history begins: they are told, and make no state.
func (w *Writer) tell(old []change) {
	for _, c := range old {
		if r, ok := w.v.book.tell(c); ok {
			w.v.open = append(w.v.open, r)
		}
	}
}

// note takes in one change.
func (w *Writer) note(c change) bool {
	b := w.v.book
	people, spaces := len(b.people), len(b.spaces)
	r, ok := b.note(c, w.now)
	for n := people; n < len(b.people); n++ {
		w.rows[number(n+1)] = true
	}
	for n := spaces; n < len(b.spaces); n++ {
		w.spaces[number(n+1)] = true
	}
	if ok {
		w.v.open = append(w.v.open, r)
		w.dirty = true
	}
	return ok
}

// process notes what is to be noted of a pass.
func (w *Writer) process(x Written) {
	if w.fresh && w.v.book.begins.IsZero() && x.Scope != nil {
		return // who has what is known after a whole pass
	}
	all := places(x)
	if w.fresh && w.v.book.begins.IsZero() {
		w.begin(x, all)
	}
	b := w.v.book
	if x.Scope == nil {
		for n := range w.now { // where nothing is any more
			if name := b.spaces[n-1].Name; all[name] == nil && b.known(name) == n {
				all[name] = &place{name: name, ours: true}
			}
		}
	}
	d := differ{x: x, why: reasons{now: x.Snapshot, before: x.Before, at: x.Began}, owner: func(p *place) int64 {
		if n := b.known(p.name); n != 0 && p.source == (authz.SourceID{}) {
			return b.spaces[n-1].Owner
		}
		own := owner(x.Snapshot, p.source)
		if own == 0 && x.Before != nil {
			own = owner(x.Before, p.source)
		}
		return own
	}}
	var changes []change
	for _, p := range all {
		n := b.known(p.name)
		if !p.ours && w.now[n] == nil {
			continue
		}
		changes = append(changes, d.changes(p, b.recorded(w.now[n]))...)
	}
	slices.SortStableFunc(changes, func(a, b change) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.space, b.space)) })
	for _, c := range changes {
		if w.note(c) {
			w.unsaved = append(w.unsaved, c)
		}
	}
	if x.Kind == syncer.KindFull {
		w.people(x.Snapshot, x.Ended)
	}
	if x.Ended.After(w.v.head.Recorded) {
		if x.Ended.Sub(w.v.head.Recorded) >= recordedEvery {
			w.dirty = true
		}
		w.v.head.Recorded = x.Ended.UTC()
	}
}

// begin makes what a whole pass found the state that the history begins with.
func (w *Writer) begin(x Written, all map[string]*place) {
	b := w.v.book
	b.base = state{}
	for _, p := range all {
		if !p.ours {
			continue
		}
		own := owner(x.Snapshot, p.source)
		if n := b.known(p.name); n != 0 && own != 0 { // what is told of before did not say whose it is
			b.addSpace(space{N: n, Name: p.name, Owner: own})
		}
		r := record{space: b.space(p.name, own), what: gained}
		for _, h := range holders(p.bindings, p.name) {
			if r.role = b.text(h.role); h.user == 0 {
				r.who = b.subject(h.subject)
			} else {
				r.who = b.user(h.user)
				b.addPerson(person{N: r.who, ID: h.user, Name: rbacsync.Printable(x.Snapshot.Users[h.user].Username)})
			}
			b.base.apply(r)
		}
	}
	w.start(x.Began)
}
