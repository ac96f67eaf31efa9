package audit

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// blockFormat is how records are written in a block.
//
// A block is a number of records, packed with gzip: the version; how many records; the texts they use, each with its length; then
// column by column, because neighbours are alike. Numbers are varints of encoding/binary; times, namespaces and people are
// differences to the one before. Texts are numbered within the block, people and namespaces over all blocks.
const blockFormat = 1

// errBlock is the error of what was stored and can't be read: a block, or a base.
var errBlock = errors.New("a part of the history is damaged")

// columns returns the fields of records as numbers; role and reason make a text's number that of the block.
func columns(r record, last record, role, reason func(uint32) uint64) [8]uint64 {
	zigzag := func(d int64) uint64 { return uint64(d<<1) ^ uint64(d>>63) } //nolint:gosec // as encoding/binary does
	kind := uint64(r.what) << 1
	if r.found {
		kind |= 1
	}
	return [8]uint64{
		zigzag(r.at - last.at), zigzag(int64(r.namespace) - int64(last.namespace)), zigzag(int64(r.who) - int64(last.who)),
		role(r.role), kind, reason(r.cause), reason(r.why), reason(r.by),
	}
}

// gzipWriters has gzip.Writers that are used again: each takes 0.8 MB, and what is open is packed with each change.
var gzipWriters sync.Pool

// packBlock writes records as a block.
func (t *tables) packBlock(records []record) ([]byte, error) {
	var used []string
	refs := func(of *texts) func(uint32) uint64 {
		numbers := map[uint32]uint64{}
		return func(n uint32) uint64 {
			if n == 0 {
				return 0
			}
			if _, ok := numbers[n]; !ok {
				used = append(used, of.textOf(n))
				numbers[n] = uint64(len(used))
			}
			return numbers[n]
		}
	}
	role, reason := refs(&t.roles), refs(&t.reasons)
	var cols [8][]byte
	var last record
	for _, r := range records {
		for i, v := range columns(r, last, role, reason) {
			cols[i] = binary.AppendUvarint(cols[i], v)
		}
		last = r
	}
	head := binary.AppendUvarint([]byte{blockFormat}, uint64(len(records)))
	head = binary.AppendUvarint(head, uint64(len(used)))
	for _, text := range used {
		head = append(binary.AppendUvarint(head, uint64(len(text))), text...)
	}
	var out bytes.Buffer
	z, ok := gzipWriters.Get().(*gzip.Writer)
	if !ok {
		var err error
		if z, err = gzip.NewWriterLevel(&out, gzip.BestCompression); err != nil {
			return nil, err
		}
	}
	z.Reset(&out)
	defer gzipWriters.Put(z)
	for _, part := range append([][]byte{head}, cols[:]...) {
		if _, err := z.Write(part); err != nil {
			return nil, err
		}
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// maxBlock bounds what a block unpacks to: a damaged or forged one must not fill the memory.
const maxBlock = 64 << 20

// unpackBlock reads a block into records with the texts of these tables: with causes and reasons, or without, for whom they would fill
// the memory.
func (t *tables) unpackBlock(packed []byte, reasons bool) ([]record, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBlock, err)
	}
	raw, err := io.ReadAll(io.LimitReader(z, maxBlock))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBlock, err)
	}
	in := &unpacker{raw: raw}
	if version := in.byte(); version != blockFormat {
		return nil, fmt.Errorf("%w: its version %d is not known", errBlock, version)
	}
	n, used := in.count(), in.count()
	words := make([]string, 1, used+1)
	for range used {
		words = append(words, string(in.take(in.count())))
	}
	records := make([]record, n)
	refs := func(to *texts) func() uint32 {
		known := make([]uint32, len(words)) // 0 for what is not
		return func() uint32 {
			i := in.uint()
			if i >= uint64(len(words)) {
				in.bad = true
				return 0
			}
			if to != nil && known[i] == 0 {
				known[i] = to.text(words[i])
			}
			return known[i]
		}
	}
	role, reason, by := refs(&t.roles), refs(&t.reasons), refs(&t.reasons)
	if !reasons {
		reason = refs(nil)
	}
	for i, last := 0, int64(0); i < n; i++ {
		last += in.zigzag()
		records[i].at = last
	}
	for _, field := range []func(*record) *uint32{func(r *record) *uint32 { return &r.namespace }, func(r *record) *uint32 { return &r.who }} {
		last := int64(0)
		for i := range records {
			last += in.zigzag()
			if last < 0 || last >= maxNumber {
				in.bad = true
			}
			*field(&records[i]) = uint32(last) //nolint:gosec // looked at
		}
	}
	for i := range records {
		records[i].role = role()
	}
	for i := range records {
		kind := in.uint()
		if kind>>1 >= uint64(len(whats)) {
			in.bad, kind = true, 0
		}
		records[i].what, records[i].found = uint8(kind>>1), kind&1 != 0
	}
	for i := range records {
		records[i].cause = reason()
	}
	for i := range records {
		records[i].why = reason()
	}
	for i := range records {
		records[i].by = by()
	}
	if in.bad || len(in.raw) > 0 {
		return nil, errBlock
	}
	return records, nil
}

// unpacker reads a block; bad says that it was not one.
type unpacker struct {
	raw []byte
	bad bool
}

func (u *unpacker) byte() byte {
	if b := u.take(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (u *unpacker) uint() uint64 {
	v, n := binary.Uvarint(u.raw)
	if n <= 0 {
		u.bad, u.raw = true, nil
		return 0
	}
	u.raw = u.raw[n:]
	return v
}

func (u *unpacker) zigzag() int64 {
	v := u.uint()
	return int64(v>>1) ^ -int64(v&1)
}

// count returns a number of things that follow: there can't be more of them than bytes.
func (u *unpacker) count() int {
	v := u.uint()
	if v > uint64(len(u.raw)) {
		u.bad, u.raw = true, nil
		return 0
	}
	return int(v) //nolint:gosec // looked at
}

func (u *unpacker) take(n int) []byte {
	if n > len(u.raw) {
		u.bad, u.raw = true, nil
		return nil
	}
	out := u.raw[:n]
	u.raw = u.raw[n:]
	return out
}
