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
func (l *ledger) people(s *authz.Snapshot, now time.Time) {
	if s.MissingAll != "" || len(s.Users) == 0 { // who is not there may just not have been read
		return
	}
	holds := map[uint32]bool{}
	for _, roles := range l.now {
		for _, people := range roles {
			for _, n := range people {
				holds[n] = true
			}
		}
	}
	after := l.o.Limits().PseudonymiseAfter
	for _, p := range slices.Clone(l.v.book.people) {
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
			l.forget(p)
			continue
		}
		if p != old {
			l.v.book.addPerson(p)
			l.rows[p.N], l.dirty = true, true
		}
	}
	for _, n := range slices.Clone(l.v.book.spaces) { // of somebody who is forgotten, and written to since
		if _, there := s.Users[n.Owner]; n.Owner > 0 && !there && l.v.book.byID[n.Owner] == 0 && len(l.now[n.N]) == 0 {
			l.v.book.addSpace(space{N: n.N})
			l.forgets, l.dirty = true, true
		}
	}
}

// forget takes the name and id of a person out of the tables, and the names of the namespaces that were theirs; where others
// still hold something, once they don't.
func (l *ledger) forget(p person) {
	b := l.v.book
	b.addPerson(person{N: p.N})
	for _, s := range slices.Clone(b.spaces) {
		if s.Owner == p.ID && len(l.now[s.N]) == 0 {
			b.addSpace(space{N: s.N})
		}
	}
	l.forgets, l.dirty = true, true
}

// store writes what is not stored yet.
func (l *ledger) store(ctx context.Context, tidy bool) error {
	v, now := l.v, l.o.Now()
	if !l.dirty || l.fresh && v.book.begins.IsZero() {
		return nil
	}
	if err := v.current(ctx); err != nil {
		return err
	}
	before, first, rebase := slices.Clone(v.head.Segments), v.first, l.fresh || l.forgets
	seal := func(n int) error {
		rebase = rebase || len(l.rows)+len(l.spaces)+len(v.head.People)+len(v.head.Spaces) > 0
		return v.seal(ctx, n)
	}
	if l.fresh {
		for ; l.told > 0; l.told -= min(l.told, l.openRecords) { // what was before the beginning has blocks of its own
			if err := seal(min(l.told, l.openRecords)); err != nil {
				return err
			}
		}
		first = v.head.Next
	}
	if tidy && (l.o.May == nil || l.o.May() == nil) {
		for l.full(now) {
			if err := seal(min(len(v.open), l.openRecords)); err != nil {
				return err
			}
		}
		drop, cut := v.tooMuch(l.o.Limits(), now)
		if drop > 0 {
			v.drop(drop)
			v.bind()
			v.book.prune()
			rebase, first = true, max(first, drop)
		}
		if !cut.IsZero() {
			l.cut = cut
		}
	}
	if l.keepRows(); rebase || len(v.head.People)+len(v.head.Spaces) > maxRows {
		if err := v.saveBase(ctx, first, now); err != nil {
			return err
		}
	}
	if err := v.commit(ctx); err != nil {
		return err
	}
	l.fresh, l.forgets, l.dirty, l.unsaved = false, false, false, nil
	l.rows, l.spaces = map[uint32]bool{}, map[uint32]bool{}
	err := v.clean(ctx, before)
	if l.legacy && err == nil {
		err = deleteLegacy(ctx, l.o.Kube)
		l.legacy = err != nil
	}
	return err
}

// keepRows puts the rows that the base lacks into the head.
func (l *ledger) keepRows() {
	h, b := &l.v.head, l.v.book
	people, spaces := map[uint32]bool{}, map[uint32]bool{}
	for _, p := range h.People {
		people[p.N] = true
	}
	for _, s := range h.Spaces {
		spaces[s.N] = true
	}
	maps.Copy(people, l.rows)
	maps.Copy(spaces, l.spaces)
	h.rows = rows{}
	for _, n := range slices.Sorted(maps.Keys(people)) {
		h.People = append(h.People, b.people[n-1])
	}
	for _, n := range slices.Sorted(maps.Keys(spaces)) {
		h.Spaces = append(h.Spaces, b.spaces[n-1])
	}
}

// full reports whether a block is to be sealed: what is open is large, or so old that it could not be dropped in time.
func (l *ledger) full(now time.Time) bool {
	open := l.v.open
	return len(open) > 0 && (len(open) >= l.openRecords || l.v.packed > l.openBytes || now.Sub(time.UnixMilli(open[0].at)) > l.o.Limits().keep()/20)
}

func (l Limits) keep() time.Duration { return time.Duration(l.Days) * 24 * time.Hour }

// tooMuch returns the first block that is to be kept, 0 for all; and, if it is not for its age, until when those before it were.
func (v *volume) tooMuch(l Limits, now time.Time) (first uint64, cut time.Time) {
	bytes := v.bytes()
	for _, n := range slices.Sorted(maps.Keys(v.blocks)) {
		records := v.blocks[n].records
		last := time.Time{}
		if len(records) > 0 {
			last = time.UnixMilli(records[len(records)-1].at).UTC()
		}
		old := now.Sub(last) > l.keep()
		crowded := bytes > l.MaxBytes || len(v.head.Segments) >= Slots && n < v.head.Segments[0].To
		if !old && !crowded {
			break
		}
		if !old {
			cut = last
		}
		first, bytes = n+1, bytes-int64(v.blocks[n].bytes)
	}
	return first, cut
}

// prune forgets the rows of people and namespaces that nothing refers to any more.
func (b *book) prune() {
	people, spaces := map[uint32]bool{}, map[uint32]bool{}
	for _, r := range b.log {
		people[r.who], people[b.approving(r.by)], spaces[r.space] = true, true, true
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
