package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
)

// commit writes the first Secret: the first n open records, or the first block for which there was no room, and where all else is. What
// was claimed counts from then on.
func (v *writableVolume) commit(ctx context.Context, n int) error {
	x, ok := v.blocks[v.head.Next]
	if !ok {
		packed, err := v.book.packBlock(v.open[:n])
		if err != nil {
			return err
		}
		x = block{packed: packed, count: n}
	}
	description, err := json.Marshal(v.head)
	if err != nil {
		return err
	}
	if err := v.writer.put(ctx, map[string][]byte{keyHead: description, keyOpen: x.packed}); err != nil {
		return err
	}
	v.writer.claimed, v.stored = false, x.count
	return nil
}

// saveBase writes the tables and the state before the first block that counts. Commit makes it count.
func (v *writableVolume) saveBase(ctx context.Context, now time.Time) error {
	if err := v.writer.claim(ctx); err != nil {
		return err
	}
	name := strconv.FormatInt(now.UnixNano(), 36)
	err := v.baseBlob().Save(ctx, map[string]string{metaBase: name}, func(out io.Writer) error { return v.book.writeBase(out, v.first) })
	if err != nil {
		return conflict(err)
	}
	v.head.Base, v.head.rows = name, rows{}
	return nil
}

// seal stores the first block that is packed and not stored or, without any, makes one of at most n of the first open records. It
// returns of how many; 0: there is no room, what is old has to be dropped first. Commit makes it count.
func (v *writableVolume) seal(ctx context.Context, n int) (int, error) {
	x, waits := v.blocks[v.head.Next]
	if !waits {
		var err error
		if x, err = v.firstBlock(n); err != nil {
			return 0, err
		}
	}
	segments := slices.Clone(v.head.Segments)
	last := len(segments) - 1
	if last < 0 || v.size(segments[last])+x.bytes > maxSegment {
		slot := 0
		for slices.ContainsFunc(segments, func(g segment) bool { return g.Slot == slot }) {
			slot++
		}
		if slot >= Slots {
			return 0, nil
		}
		segments, last = append(segments, segment{slot, v.head.Next, v.head.Next}), last+1
	}
	if err := v.writer.claim(ctx); err != nil {
		return 0, err
	}
	s, _, err := v.segment(ctx, segments[last])
	if err != nil {
		return 0, err
	}
	s.Data[blockKey(v.head.Next)] = x.packed
	if err := v.writer.write(ctx, s); err != nil {
		return 0, err
	}
	if !waits {
		v.put(v.head.Next, x)
	}
	v.head.Next++
	segments[last].To = v.head.Next
	v.head.Segments, v.stored = segments, max(v.stored-x.count, 0)
	return x.count, nil
}

// firstBlock makes a block of at most n of the first open records.
func (v *writableVolume) firstBlock(n int) (block, error) {
	packed, err := v.book.packBlock(v.open[:n])
	for ; err == nil && len(packed) > maxSegment && n > 1; packed, err = v.book.packBlock(v.open[:n]) {
		n /= 2
	}
	x := v.book.newBlock(packed, v.open[:n])
	x.packed = packed
	return x, err
}

// put takes a block in, of the first open records.
func (v *writableVolume) put(n uint64, x block) {
	v.blocks[n], v.book.last = x, max(v.book.last, x.last)
	v.open = v.open[x.count:]
	v.book.log, v.book.first = v.open, max(v.book.first-x.count, 0)
}

// pack makes blocks of all open records but less than n. They are not stored: seal does that.
func (v *writableVolume) pack(n int) {
	next := v.head.Next
	for ; v.blocks[next].count > 0; next++ { // packed before
	}
	for ; len(v.open) >= n; next++ {
		x, err := v.firstBlock(n)
		if err != nil { // seal will say so
			break
		}
		if next == v.head.Next && x.count < v.stored { // should there be no room, commit could not keep what is stored
			break
		}
		v.put(next, x)
	}
	v.trim()
}

// waits reports whether there are blocks that are packed and not stored.
func (v *writableVolume) waits() bool { return v.blocks[v.head.Next].count > 0 }

// size is how many bytes the blocks of a segment have.
func (v *volume) size(g segment) (bytes int) {
	for n := g.From; n < g.To; n++ {
		bytes += v.blocks[n].bytes
	}
	return bytes
}

// has reports whether the head names a segment with all blocks that it had.
func (v *writableVolume) has(old segment) bool {
	return slices.ContainsFunc(v.head.Segments, func(g segment) bool { return g.Slot == old.Slot && g.From == old.From })
}

// segment returns the Secret of a segment, with its blocks alone, and whether there is more in it.
func (v *writableVolume) segment(ctx context.Context, g segment) (s *corev1.Secret, more bool, err error) {
	s = ownSecret(slotName(g.Slot), map[string][]byte{})
	old, err := v.writer.secrets().Get(ctx, s.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return s, false, nil
	}
	if err == nil {
		err = store.Readable(old)
	}
	if err != nil {
		return nil, false, fmt.Errorf("loading %s: %w", s.Name, err)
	}
	s.ResourceVersion = old.ResourceVersion
	for n := g.From; n < g.To; n++ {
		if packed, ok := old.Data[blockKey(n)]; ok {
			s.Data[blockKey(n)] = packed
		}
	}
	return s, len(old.Data) > len(s.Data), nil
}

// clean takes out of the Secret of a slot what the head does not name.
func (v *writableVolume) clean(ctx context.Context, slot int) error {
	g := segment{Slot: slot}
	if i := slices.IndexFunc(v.head.Segments, func(g segment) bool { return g.Slot == slot }); i >= 0 {
		g = v.head.Segments[i]
	}
	s, more, err := v.segment(ctx, g)
	switch {
	case err != nil || s.ResourceVersion == "":
		return err
	case g.From < g.To && more:
		return v.writer.write(ctx, s)
	case g.From < g.To:
		return nil
	}
	return v.writer.remove(ctx, s)
}

// drop forgets the blocks before one, in the head alone: their records become part of the base.
func (v *writableVolume) drop(before uint64) error {
	b := v.book
	for _, n := range slices.Sorted(maps.Keys(v.blocks)) {
		if n >= before {
			break
		}
		if n >= v.first {
			records, err := b.unpackBlock(v.blocks[n].packed, false)
			if err != nil {
				return err
			}
			for _, r := range records {
				b.base.apply(r)
				if at := time.UnixMilli(r.at).UTC(); at.After(b.begins) {
					b.begins = at
				}
			}
		}
		delete(v.blocks, n)
	}
	var left []segment
	for _, g := range v.head.Segments {
		if g.From = max(g.From, before); g.From < g.To {
			left = append(left, g)
		}
	}
	v.head.Segments, v.first = left, max(v.first, before)
	v.bind()
	kept := newNumbers()
	err := v.sealed(0, false, func(r record) { kept.add(b, r) })
	if err == nil {
		b.prune(kept)
	}
	return err
}
