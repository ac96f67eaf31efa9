package audit

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// people brings the table of people up to date: their names, who is gone from GitLab, and for whom it is time to be forgotten.
func (w *Writer) people(s *authz.Snapshot, now time.Time) {
	if s.MissingAll != "" || len(s.Users) == 0 { // who is not there may just not have been read
		return
	}
	holds := map[uint32]bool{}
	for _, roles := range w.now {
		for _, people := range roles {
			for _, n := range people {
				holds[n] = true
			}
		}
	}
	after := w.o.Limits().PseudonymiseAfter
	for _, p := range slices.Clone(w.v.book.people) {
		if p.ID == 0 {
			continue
		}
		old := p
		u, there := s.Users[p.ID]
		switch {
		case there:
			p.Name, p.Gone = rbacsync.Printable(u.Username), time.Time{}
		case p.Gone.IsZero():
			p.Gone = now.UTC()
		case now.Sub(p.Gone) >= after && !holds[p.N]:
			w.forget(p)
			continue
		}
		if p != old {
			w.v.book.addPerson(p)
			w.rows[p.N], w.dirty = true, true
		}
	}
	for _, n := range slices.Clone(w.v.book.spaces) { // of somebody who is forgotten, and written to since
		if _, there := s.Users[n.Owner]; n.Owner != 0 && !there && w.v.book.byID[n.Owner] == 0 && len(w.now[n.N]) == 0 {
			w.v.book.addSpace(space{N: n.N})
			w.forgets, w.dirty = true, true
		}
	}
}

// forget takes the name and id of a person out of the tables, and the names of the namespaces that were theirs.
func (w *Writer) forget(p person) {
	b := w.v.book
	b.addPerson(person{N: p.N})
	for _, s := range slices.Clone(b.spaces) {
		if s.Owner == p.ID {
			b.addSpace(space{N: s.N})
		}
	}
	w.forgets, w.dirty = true, true
}

// store writes what is not stored yet.
func (w *Writer) store(ctx context.Context, tidy bool) error {
	v, now := w.v, w.o.Now()
	if !w.dirty || w.fresh && v.book.begins.IsZero() {
		return nil
	}
	if err := v.current(ctx); err != nil {
		return err
	}
	before, first, rebase := slices.Clone(v.head.Segments), v.first, w.fresh || w.forgets
	seal := func(n int) error {
		rebase = rebase || len(w.rows)+len(w.spaces)+len(v.head.People)+len(v.head.Spaces) > 0
		return v.seal(ctx, n)
	}
	if w.fresh {
		for ; w.told > 0; w.told -= min(w.told, w.openRecords) { // what was before the beginning has blocks of its own
			if err := seal(min(w.told, w.openRecords)); err != nil {
				return err
			}
		}
		first = v.head.Next
	}
	if tidy && (w.o.May == nil || w.o.May() == nil) {
		for w.full(now) {
			if err := seal(min(len(v.open), w.openRecords)); err != nil {
				return err
			}
		}
		if drop := w.tooMuch(now); drop > 0 {
			v.drop(drop)
			w.prune()
			v.bind()
			rebase, first = true, max(first, drop)
		}
	}
	if w.keepRows(); rebase || len(v.head.People)+len(v.head.Spaces) > maxRows {
		if err := v.saveBase(ctx, first, now); err != nil {
			return err
		}
	}
	if err := v.commit(ctx); err != nil {
		return err
	}
	w.fresh, w.forgets, w.dirty, w.unsaved = false, false, false, nil
	w.rows, w.spaces = map[uint32]bool{}, map[uint32]bool{}
	w.written()
	err := v.clean(ctx, before)
	if w.legacy && err == nil {
		err = deleteLegacy(ctx, w.o.Kube)
		w.legacy = err != nil
	}
	return err
}

// keepRows puts the rows that the base lacks into the head.
func (w *Writer) keepRows() {
	h, b := &w.v.head, w.v.book
	people, spaces := map[uint32]bool{}, map[uint32]bool{}
	for _, p := range h.People {
		people[p.N] = true
	}
	for _, s := range h.Spaces {
		spaces[s.N] = true
	}
	maps.Copy(people, w.rows)
	maps.Copy(spaces, w.spaces)
	h.rows = rows{}
	for _, n := range slices.Sorted(maps.Keys(people)) {
		h.People = append(h.People, b.people[n-1])
	}
	for _, n := range slices.Sorted(maps.Keys(spaces)) {
		h.Spaces = append(h.Spaces, b.spaces[n-1])
	}
}

// full reports whether a block is to be sealed: what is open is large, or so old that it could not be dropped in time.
func (w *Writer) full(now time.Time) bool {
	open := w.v.open
	return len(open) > 0 && (len(open) >= w.openRecords || w.v.packed > w.openBytes || now.Sub(time.UnixMilli(open[0].at)) > w.keep()/20)
}

func (w *Writer) keep() time.Duration { return time.Duration(w.o.Limits().Days) * 24 * time.Hour }

// tooMuch returns the first block that is to be kept; 0: all.
func (w *Writer) tooMuch(now time.Time) uint64 {
	v := w.v
	numbers := slices.Sorted(maps.Keys(v.blocks))
	var drop uint64
	bytes, most, cut := v.bytes(), w.o.Limits().MaxBytes, time.Time{}
	for _, n := range numbers {
		records := v.blocks[n].records
		last := time.Time{}
		if len(records) > 0 {
			last = time.UnixMilli(records[len(records)-1].at)
		}
		old := now.Sub(last) > w.keep()
		crowded := bytes > most || len(v.head.Segments) >= Slots && n < v.head.Segments[0].To
		if !old && !crowded {
			break
		}
		if !old {
			cut = last
		}
		drop, bytes = n+1, bytes-int64(v.blocks[n].bytes)
	}
	if !cut.IsZero() {
		w.find("history_full", "history.maxBytes (%d) is reached: what was before %s is dropped, though history.days is %d", most, cut.UTC().Format(time.RFC3339), w.o.Limits().Days)
	}
	return drop
}

// prune forgets the rows of people and namespaces that nothing refers to any more.
func (w *Writer) prune() {
	b := w.v.book
	people, spaces := map[uint32]bool{}, map[uint32]bool{}
	note := func(r record) { people[r.who], people[b.approving(r.by)], spaces[r.space] = true, true, true }
	for _, x := range w.v.blocks {
		for _, r := range x.records {
			note(r)
		}
	}
	for _, r := range w.v.open {
		note(r)
	}
	for n, roles := range b.base {
		spaces[n] = true
		for _, who := range roles {
			for _, n := range who {
				people[n] = true
			}
		}
	}
	for _, p := range slices.Clone(b.people) {
		if !people[p.N] {
			b.addPerson(person{N: p.N})
		}
	}
	for _, s := range slices.Clone(b.spaces) {
		if !spaces[s.N] {
			b.addSpace(space{N: s.N})
		}
	}
}
