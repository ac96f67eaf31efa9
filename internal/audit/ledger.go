package audit

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// ledger is what is recorded, with what of it is not stored yet.
type ledger struct {
	o Options
	// openBytes is how much, packed, and openRecords how many records wait for being sealed: so much is written again with each
	// change.
	openBytes, openRecords int

	v       *writableVolume // nil: not read yet
	now     state           // after all records of v
	fresh   bool            // nothing is stored
	unsaved int             // how many records at the end of the log are not stored
	waiting []change        // what was not stored when v was forgotten: it is noted again
	dirty   bool
	legacy  bool // what versions before wrote is to be deleted
	forgets bool // the stored tables have somebody who is to be forgotten
	earlier int  // how many of the open records are of before the history begins

	userRows, namespaceRows map[uint32]bool // the numbers of those that the stored tables lack

	// lastBook, its tables alone, and lastNow are of the v before: should nothing be stored any more, the history begins with them.
	lastBook *book
	lastNow  state
	cut      time.Time // until when was dropped what is not old enough for it
	cleaned  bool      // what processes that died have left is deleted
}

// pending reports whether something is not stored yet.
func (l *ledger) pending() bool { return l.unsaved > 0 || len(l.waiting) > 0 || l.dirty }

// save stores what is not stored yet, again when another process was faster.
func (l *ledger) save(ctx context.Context) error {
	for try := 0; ; try++ {
		err := l.store(ctx)
		if err == nil {
			return nil
		}
		l.forsake() // what is stored is read before it is written again
		if !errors.Is(err, errConflict) || try == 2 {
			return err
		}
		if err := l.load(ctx); err != nil {
			return err
		}
	}
}

// maxUnsaved bounds what waits in memory while nothing can be stored: some 200 bytes each.
const maxUnsaved = 50_000

// forsake forgets what is known of the store. Of what is not stored, and so is noted again when that is read, it keeps the last: the
// next whole pass finds the rest as a difference.
func (l *ledger) forsake() {
	if l.v != nil {
		b := l.v.book
		l.waiting = append(l.waiting, l.v.end(min(l.unsaved, maxUnsaved))...)
		if !l.fresh || !b.begins.IsZero() {
			l.lastBook, l.lastNow = &book{tables: b.tables}, l.now
			l.lastBook.reasons = newTexts()
		}
	}
	l.v, l.unsaved = nil, 0
	l.waiting = slices.Delete(l.waiting, 0, max(len(l.waiting)-maxUnsaved, 0))
}

// reset forgets all.
func (l *ledger) reset() {
	*l = ledger{o: l.o, openBytes: l.openBytes, openRecords: l.openRecords}
}

func (l *ledger) volume() *writableVolume {
	v := newVolume(l.o.Kube)
	v.writer.may = l.o.May
	return &writableVolume{v}
}

// anew returns an empty volume in the place of one that can't be read: of what was looked at, and of nothing that was written since.
func (l *ledger) anew(old *writableVolume) *writableVolume {
	v := l.volume()
	v.writer.seen = old.writer.seen
	return v
}

// load reads what is stored, and notes again what is not yet.
func (l *ledger) load(ctx context.Context) error {
	if l.v != nil {
		return nil
	}
	v := l.volume()
	err := v.refresh(ctx)
	if err != nil && !errors.Is(err, store.ErrNone) && !errors.Is(err, store.ErrDamaged) {
		return err // what is stored is not known
	}
	if err == nil {
		err = v.broken
	}
	l.fresh = err != nil
	switch {
	case err == nil:
	case errors.Is(err, store.ErrNone) && v.writer.version == "":
		v = l.anew(v)
	case v.writer.version != "":
		l.o.Log.WarnContext(ctx, "a part of the history is damaged: who had what is known from now on", "error", err)
		v.mend()
	default:
		l.o.Log.WarnContext(ctx, "the history is damaged and begins anew", "error", err)
		v = l.anew(v)
	}
	old, err := loadLegacy(ctx, l.o.Kube)
	if err != nil {
		return err
	}
	now := state{}
	if !l.fresh {
		if now, err = v.now(); err != nil {
			return err
		}
	}
	l.v, l.now, l.userRows, l.namespaceRows, l.dirty, l.forgets = v, now, map[uint32]bool{}, map[uint32]bool{}, v.ahead, v.ahead // the base that was meant is written again
	l.earlier = 0
	l.legacy = len(old) > 0 && l.o.Now().Sub(old[len(old)-1].at) > keepLegacy
	stored, err := v.since(earliest(slices.Concat(old, l.waiting)))
	if err != nil {
		return err
	}
	old = v.book.later(stored, old)
	if l.fresh {
		l.addEarlier(old)
		if l.lastBook == nil {
			return nil // until a whole pass
		}
		restore(v.book, l.lastBook, l.lastNow, l.waiting) // it was deleted
		l.start(l.o.Now())
	} else {
		for _, c := range old {
			l.note(c)
		}
		l.dirty = l.dirty || l.legacy
	}
	waiting := l.waiting
	l.waiting = nil
	for _, c := range waiting {
		if !v.book.has(stored, c) {
			l.record(c)
		}
	}
	return nil
}

// earliest returns when the first of some changes was, in milliseconds since 1970; a time to come without any.
func earliest(changes []change) int64 {
	at := int64(math.MaxInt64)
	for _, c := range changes {
		at = min(at, c.at.UnixMilli())
	}
	return at
}

// start makes the base the state that the history begins with.
func (l *ledger) start(at time.Time) {
	b := l.v.book
	b.begins, b.first, l.earlier = at.UTC(), len(b.log), len(l.v.open)
	l.now, l.dirty = b.base.clone(), true
}

// addEarlier takes in changes of before the history begins: they are shown, and make no state.
func (l *ledger) addEarlier(old []change) {
	for _, c := range old {
		if l.v.book.noteEarlier(c) {
			l.v.opened()
		}
	}
}

// note takes in one change.
func (l *ledger) note(c change) bool {
	b := l.v.book
	users, namespaces := len(b.users), len(b.namespaces)
	known, was := b.namespaceNumber(c.namespace), namespaceRow{}
	if known != 0 {
		was = b.namespaces[known-1]
	}
	ok := b.note(c, l.now)
	for n := users; n < len(b.users); n++ {
		l.userRows[number(n+1)] = true
	}
	for n := namespaces; n < len(b.namespaces); n++ {
		l.namespaceRows[number(n+1)] = true
	}
	if known != 0 && b.namespaces[known-1] != was { // it has another owner
		l.namespaceRows[known], l.dirty = true, true
	}
	if ok {
		l.v.opened()
		l.dirty = true
	}
	return ok
}

// packFrom is how many blocks' worth of records a pass may leave unpacked: a first one has a record for each right that there is.
const packFrom = 8

// record notes a change until it is stored.
func (l *ledger) record(c change) {
	if l.note(c) {
		l.unsaved++
	}
	if l.earlier == 0 && len(l.v.open) >= packFrom*l.openRecords {
		l.v.pack(l.openRecords)
	}
}

// process notes what is to be noted of a pass.
func (l *ledger) process(x Written) {
	if l.fresh && l.v.book.begins.IsZero() && x.Scope != nil {
		return // who has what is known after a whole pass
	}
	all := places(x)
	if l.fresh && l.v.book.begins.IsZero() {
		l.begin(x, all)
	}
	b := l.v.book
	if x.Scope == nil {
		for n := range l.now { // where nothing is any more
			if name := b.namespaces[n-1].Name; all[name] == nil && b.namespaceNumber(name) == n {
				all[name] = &place{name: name, ours: true}
			}
		}
	}
	d := differ{x: x, why: reasons{now: x.Snapshot, before: x.Before, at: x.Began}, owner: func(p *place) int64 {
		return b.owner(p, x.Snapshot, x.Before)
	}}
	if x.Scope == nil {
		d.why.many = map[moment]*wayWords{}
	}
	var later []change // a first pass has one for each right that there is: together they would be most of the memory of a process
	for _, name := range slices.Sorted(maps.Keys(all)) {
		p, n := all[name], b.namespaceNumber(name)
		if !p.ours && l.now[n] == nil || len(p.changes) == 0 && b.agrees(p, l.now[n]) {
			continue
		}
		for _, c := range d.changes(p, b.recorded(l.now[n])) {
			if c.at.After(x.Began) {
				later = append(later, c)
			} else {
				l.record(c)
			}
		}
	}
	for _, c := range later {
		l.record(c)
	}
	if x.Kind == syncer.KindFull {
		changed, removed := updateUsers(&b.tables, l.now, x.Snapshot, x.Ended, l.o.Limits().PseudonymiseAfter)
		for _, n := range changed {
			l.userRows[n] = true
		}
		l.forgets, l.dirty = l.forgets || removed, l.dirty || removed || len(changed) > 0
	}
	if x.Ended.After(l.v.head.Recorded) {
		if x.Ended.Sub(l.v.head.Recorded) >= recordedEvery {
			l.dirty = true
		}
		l.v.head.Recorded = x.Ended.UTC()
	}
}

// begin makes what a whole pass found the state that the history begins with.
func (l *ledger) begin(x Written, all map[string]*place) {
	b := l.v.book
	b.base = state{}
	for _, p := range all {
		if !p.ours {
			continue
		}
		r := record{namespace: b.namespace(p.name, b.owner(p, x.Snapshot, x.Before), false), what: gained}
		for _, h := range holders(p.before(), p.name) {
			if r.role = b.roles.text(h.role); h.user == 0 {
				r.who = b.subject(h.subject)
			} else {
				r.who = b.user(h.user)
				b.addUser(userRow{N: r.who, ID: h.user, Name: rbacsync.Printable(x.Snapshot.Users[h.user].Username)})
			}
			b.base.apply(r)
		}
	}
	l.start(x.Began)
}

// restore makes the base of a new book what was held by the last one, without the changes that were not stored: they are noted
// again.
func restore(b, last *book, held state, unsaved []change) {
	for n, roles := range held {
		s := last.namespaces[n-1]
		for role, people := range roles {
			r := record{namespace: b.namespace(s.Name, s.Owner, false), role: b.roles.text(last.roles.textOf(role)), what: gained}
			for _, n := range people {
				p := last.users[n-1]
				if p.Subject != "" {
					r.who = b.subject(p.Subject)
				} else {
					r.who = b.user(p.ID)
					p.N = r.who
					b.addUser(p)
				}
				b.base.apply(r)
			}
		}
	}
	for _, c := range slices.Backward(unsaved) {
		r := record{namespace: b.namespace(c.namespace, c.owner, true), role: b.roles.text(c.role), what: gained}
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
}
