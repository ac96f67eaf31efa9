package audit

import (
	"context"
	"maps"
	"slices"
	"time"
)

// store writes what is not stored yet. It takes several commits where there is more than what has room beside what is kept: what is
// dropped was committed before, and each commit puts away some of the open records or drops a block.
func (l *ledger) store(ctx context.Context) error {
	if !l.dirty || l.fresh && l.v.book.begins.IsZero() {
		return nil
	}
	for more := true; more; {
		var err error
		if more, err = l.step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// step makes one commit, and reports whether another one is needed.
func (l *ledger) step(ctx context.Context) (more bool, err error) {
	v, now, limits := l.v, l.o.Now(), l.o.Limits()
	before, next, rebase := slices.Clone(v.head.Segments), v.head.Next, l.fresh || l.forgets
	if l.fresh {
		if err := l.sealEarlier(ctx); err != nil {
			return false, err
		}
	}
	full, err := l.full(now)
	for full && err == nil {
		var n int
		if n, err = v.seal(ctx, min(len(v.open), l.openRecords)); n == 0 {
			break
		}
		full, err = l.full(now)
	}
	if err != nil {
		return false, err
	}
	if v.head.Next > next {
		v.trim()
	}
	drop, cut := v.tooMuch(limits, now, next)
	if drop > 0 {
		if err := v.drop(drop); err != nil {
			return false, err
		}
	}
	if !cut.IsZero() {
		l.cut = cut
	}
	v.head.rows = v.head.with(l.userRows, l.namespaceRows, &v.book.tables) // what the base lacks
	lacks := len(v.head.Users) + len(v.head.Namespaces)
	if rebase || drop > 0 || v.head.Next > next && lacks > 0 || lacks > maxRows {
		if err := v.saveBase(ctx, now); err != nil {
			return false, err
		}
	}
	n := len(v.open)
	if full { // there is no room in the first Secret for all of it
		n = v.stored
	}
	if err := v.commit(ctx, n); err != nil {
		return false, err
	}
	l.fresh, l.forgets = false, false
	l.userRows, l.namespaceRows = map[uint32]bool{}, map[uint32]bool{}
	if first, _ := v.tooMuch(limits, now, v.head.Next); full || first > 0 {
		return true, l.clean(ctx, before)
	}
	l.dirty, l.unsaved, l.waiting = false, 0, nil
	return false, l.clean(ctx, before)
}

// sealEarlier puts what was before the beginning into blocks of their own, which count for no base. What has no room is dropped.
func (l *ledger) sealEarlier(ctx context.Context) error {
	v, dropped := l.v, false
	for l.earlier > 0 {
		n, err := v.seal(ctx, min(l.earlier, l.openRecords))
		if err != nil {
			return err
		}
		if n == 0 {
			l.cut = time.UnixMilli(v.open[l.earlier-1].at).UTC()
			v.open, v.stored, n, dropped = slices.Clone(v.open[l.earlier:]), 0, l.earlier, true
		}
		l.earlier -= n
	}
	if v.first = v.head.Next; dropped {
		v.bind()
	}
	return nil
}

// clean takes out of the Secrets what the last commit has dropped; the first time also what a process that died has left.
func (l *ledger) clean(ctx context.Context, before []segment) error {
	for slot := range Slots {
		if l.cleaned && !slices.ContainsFunc(before, func(g segment) bool { return g.Slot == slot && !l.v.has(g) }) {
			continue
		}
		if err := l.v.clean(ctx, slot); err != nil {
			return err
		}
	}
	l.cleaned = true
	if l.legacy {
		if err := deleteLegacy(ctx, l.o.Kube, l.v.writer.ours); err != nil {
			return err
		}
		l.legacy = false
	}
	return nil
}

// full reports whether a block is to be sealed: what is open is large, or so old that it could not be dropped in time.
func (l *ledger) full(now time.Time) (bool, error) {
	open := l.v.open
	if l.v.waits() {
		return true, nil
	}
	if len(open) == 0 {
		return false, nil
	}
	if len(open) >= l.openRecords || now.Sub(time.UnixMilli(open[0].at)) > l.o.Limits().keep()/20 {
		return true, nil
	}
	packed, err := l.v.book.packBlock(open)
	return len(packed) > l.openBytes, err
}

func (l Limits) keep() time.Duration { return time.Duration(l.Days) * 24 * time.Hour }

// tooMuch returns the first block that is to be kept, 0 for all; and, if it is not for its age, until when those before it were.
// Blocks from end on are not looked at: they are not committed yet. Should they never be, the base must not count on them.
func (v *volume) tooMuch(l Limits, now time.Time, end uint64) (first uint64, cut time.Time) {
	bytes := v.bytes()
	for _, n := range slices.Sorted(maps.Keys(v.blocks)) {
		last := time.Time{}
		if v.blocks[n].count > 0 {
			last = time.UnixMilli(v.blocks[n].last).UTC()
		}
		old := now.Sub(last) > l.keep()
		crowded := bytes > l.MaxBytes || len(v.head.Segments) >= Slots && n < v.head.Segments[0].To
		if n >= end || !old && !crowded {
			break
		}
		if !old {
			cut = last
		}
		first, bytes = n+1, bytes-int64(v.blocks[n].bytes)
	}
	return first, cut
}
