package audit

import (
	"maps"
	"slices"
)

// writableVolume is the history of a Writer: its blocks are packed, and the book's log has what is in no block alone.
type writableVolume struct{ *volume }

// opened takes note that a Writer's log is longer: all of it is open.
func (v *writableVolume) opened() { v.open = v.book.log }

// trim forgets what is in blocks by now of a Writer's log, and the reasons that only that had.
func (v *writableVolume) trim() {
	b := v.book
	b.log = slices.Clone(v.open)
	v.open = b.log
	old := b.reasons
	b.reasons = newTexts()
	for i := range b.log {
		r := &b.log[i]
		r.cause, r.why, r.by = b.reasons.text(old.textOf(r.cause)), b.reasons.text(old.textOf(r.why)), b.reasons.text(old.textOf(r.by))
	}
}

// sealed hands the records of a Writer's blocks from one on to use, the oldest first, with their reasons or without.
func (v *writableVolume) sealed(from uint64, reasons bool, use func(record)) error {
	for _, n := range slices.Sorted(maps.Keys(v.blocks)) {
		if n < from {
			continue
		}
		records, err := v.book.unpackBlock(v.blocks[n].packed, reasons)
		if err != nil {
			return err
		}
		for _, r := range records {
			use(r)
		}
	}
	return nil
}

// now returns who has what after all records, of a Writer's volume.
func (v *writableVolume) now() (state, error) {
	s := v.book.base.clone()
	err := v.sealed(v.first, false, s.apply)
	for _, r := range v.open {
		s.apply(r)
	}
	return s, err
}

// since returns the records of a Writer's volume from a time on, and some of before, without reasons: all of the blocks that have such.
func (v *writableVolume) since(at int64) (log []record, err error) {
	from := v.head.Next
	for n, x := range v.blocks {
		if x.last >= at {
			from = min(from, n)
		}
	}
	err = v.sealed(from, false, func(r record) { log = append(log, r) })
	return append(log, v.open...), err
}

// end returns the changes of the last n records of a Writer's volume, the oldest first, as far as they are known.
func (v *writableVolume) end(n int) (out []change) {
	blocks := slices.Sorted(maps.Keys(v.blocks))
	from, missing := v.head.Next, n-len(v.open)
	for ; missing > 0 && len(blocks) > 0; blocks = blocks[:len(blocks)-1] {
		from = blocks[len(blocks)-1]
		missing -= v.blocks[from].count
	}
	var log []record
	_ = v.sealed(from, true, func(r record) { log = append(log, r) }) // they were made, or read, by this process
	log = append(log, v.open...)
	for _, r := range log[len(log)-min(n, len(log)):] {
		if c, ok := v.book.changeOf(r); ok {
			out = append(out, c)
		}
	}
	return out
}
