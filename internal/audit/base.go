package audit

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// base is what blocks are read by: the tables, and who had what before the first record that counts.
type base struct {
	Begins time.Time `json:"begins"`
	// Block is the first block whose records count from Begins on.
	Block uint64 `json:"block"`
	rows
	State []heldRole `json:"state"`
}

// heldRole is who held a ClusterRole in a namespace.
type heldRole struct {
	Namespace uint32 `json:"ns"`
	Role      string `json:"role"`
	Who       []byte `json:"who"` // the differences of ascending numbers, as varints of encoding/binary
}

// writeBase writes the base of a book, of which block is the first that counts.
func (b *book) writeBase(out io.Writer, block uint64) error {
	x := base{Begins: b.begins, Block: block, State: []heldRole{}}
	for _, p := range b.users {
		if !p.anonymous() {
			x.Users = append(x.Users, p)
		}
	}
	for _, s := range b.namespaces {
		if s.Name != "" {
			x.Namespaces = append(x.Namespaces, s)
		}
	}
	for _, n := range slices.Sorted(maps.Keys(b.base)) {
		for _, role := range slices.Sorted(maps.Keys(b.base[n])) {
			var last uint32
			var packed []byte
			for _, who := range b.base[n][role] {
				packed = binary.AppendUvarint(packed, uint64(who-last))
				last = who
			}
			x.State = append(x.State, heldRole{n, b.roles.textOf(role), packed})
		}
	}
	return json.NewEncoder(out).Encode(x)
}

// readBase reads a base into an empty book.
func (b *book) readBase(in io.Reader) (block uint64, err error) {
	var x base
	if err := json.NewDecoder(in).Decode(&x); err != nil {
		return 0, fmt.Errorf("%w: %w", errBlock, err)
	}
	b.begins = x.Begins
	b.add(x.rows)
	for _, s := range x.State {
		who := make([]uint32, 0, len(s.Who))
		var last uint64
		for rest := s.Who; len(rest) > 0; {
			d, n := binary.Uvarint(rest)
			last += d
			if n <= 0 || d == 0 || d >= maxNumber || last >= maxNumber {
				return 0, errBlock
			}
			who, rest = append(who, uint32(last)), rest[n:]
		}
		if s.Namespace == 0 || s.Namespace >= maxNumber || len(who) == 0 {
			return 0, errBlock
		}
		if b.base[s.Namespace] == nil {
			b.base[s.Namespace] = map[uint32][]uint32{}
		}
		b.base[s.Namespace][b.roles.text(s.Role)] = who
	}
	return x.Block, nil
}
