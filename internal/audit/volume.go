package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
)

// head says where everything is. It is in the first Secret, beside the records that are in no sealed block yet; a write to that
// Secret is what makes all else count.
type head struct {
	Segments []segment `json:"segments,omitempty"` // the oldest first
	Next     uint64    `json:"next"`               // the number of the next block
	Base     string    `json:"base"`               // which base is meant, at least
	Recorded time.Time `json:"recorded"`           // until when all is recorded
	rows               // since the base was written
}

// segment is a Secret with the blocks From to To, without To.
type segment struct {
	Slot int    `json:"slot"`
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// block is a sealed block in memory: packed as it is stored, which needs a tenth of the room; of a Reader, which is asked for the
// records of all of them again and again, as records.
type block struct {
	packed  []byte
	records []record
	bytes   int   // packed
	count   int   // how many records it has
	last    int64 // the time of the last of them
	// users and namespaces are the highest numbers in it.
	users, namespaces uint32
}

// newBlock returns what there is to know of a block; what is to be kept of it is the caller's to add.
func (b *book) newBlock(packed []byte, records []record) block {
	x := block{bytes: len(packed), count: len(records)}
	for _, r := range records {
		x.last, x.users, x.namespaces = r.at, max(x.users, r.who, b.approving(r.by)), max(x.namespaces, r.namespace)
	}
	return x
}

// volume is the history as it is stored, in memory. What is written goes through its secretWriter.
type volume struct {
	writer  secretWriter
	reading bool // a Reader's
	head    head
	blocks  map[uint64]block
	open    []record // in no sealed block yet: the end of the book's log
	stored  int      // how many of them are in the first Secret
	book    *book
	base    string    // the head's name of the base that book was read by; "" for none
	begins  time.Time // of that base
	// first is the first block whose records count for the base, at most head.Next.
	first uint64
	// ahead says that the base is not the one that the head means: who wrote it did not come as far as to commit.
	ahead bool
	// broken says that something is damaged: what can be read is shown, but makes no state.
	broken error
}

func newVolume(kube kubernetes.Interface) *volume {
	return &volume{writer: secretWriter{kube: kube}, blocks: map[uint64]block{}, book: newBook()}
}

func newReaderVolume(kube kubernetes.Interface) *volume {
	v := newVolume(kube)
	v.reading = true
	return v
}

func (v *volume) baseBlob() store.Blob {
	return store.Blob{Client: v.writer.kube, Namespace: deploy.Namespace, Name: store.NameAuditBase, Before: v.writer.ours}
}

// metaBase is the key of a base's name in the blob's description.
const metaBase = "base"

// refresh reads what has changed since. It returns store.ErrNone when nothing is stored, and an error that is
// store.ErrDamaged when nothing of it can be read.
func (v *volume) refresh(ctx context.Context) error {
	const tries = 3
	var err error
	for range tries { // a writer may have been at work; what is read next is whole again
		if err = v.read(ctx); err == nil && v.broken == nil || err != nil && !errors.Is(err, store.ErrDamaged) {
			return err
		}
	}
	return err
}

func (v *volume) read(ctx context.Context) error {
	s, err := v.writer.secrets().Get(ctx, store.NameAudit, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		v.writer.version, v.writer.seen = "", ""
		return fmt.Errorf("the history: %w", store.ErrNone)
	case err != nil:
		return fmt.Errorf("loading %s: %w", store.NameAudit, err)
	}
	v.writer.seen = s.ResourceVersion
	if err := store.Readable(s); err != nil {
		return err
	}
	if v.writer.version != "" && s.ResourceVersion == v.writer.version && v.broken == nil {
		return nil
	}
	// Until all is read: what an earlier try has read in part is of another history.
	v.writer.version = ""
	if s.Data[keyHead] == nil && s.Data[keyClaim] != nil { // the first writer has not come as far as to commit
		return fmt.Errorf("the history: %w", store.ErrNone)
	}
	var h head
	if err := json.Unmarshal(s.Data[keyHead], &h); err != nil || h.Base == "" {
		return fmt.Errorf("loading %s: %w: it has no description that this version knows", store.NameAudit, store.ErrDamaged)
	}
	if h.Base != v.base {
		if err := v.readBase(ctx, h.Base); err != nil {
			return err
		}
	}
	v.head, v.broken = h, nil
	v.first = min(v.first, h.Next) // a base that is ahead may count on blocks that were never committed: others get their numbers
	v.book.add(h.rows)
	if err := v.readSegments(ctx); err != nil {
		return err
	}
	if v.open, err = v.book.unpackBlock(s.Data[keyOpen], true); err != nil {
		v.open, v.broken = nil, errors.Join(v.broken, fmt.Errorf("%s: %w", store.NameAudit, err))
	}
	v.stored, v.book.begins = len(v.open), v.begins
	v.bind()
	v.writer.version = s.ResourceVersion
	return nil
}

// readBase reads the base, which is the one of that name, or one that was written since.
func (v *volume) readBase(ctx context.Context, name string) error {
	v.base, v.book, v.blocks = "", newBook(), map[uint64]block{}
	_, meta, err := v.baseBlob().Load(ctx, "", func(in io.Reader) (err error) {
		v.book = newBook() // it may be read more than once
		v.first, err = v.book.readBase(in)
		return err
	})
	if errors.Is(err, store.ErrNone) {
		return fmt.Errorf("loading %s: %w: it is missing", store.NameAuditBase, store.ErrDamaged)
	}
	if err == nil {
		v.base, v.begins, v.ahead = name, v.book.begins, meta[metaBase] != name
	}
	return err
}

// readSegments reads the blocks that are not known yet, and forgets those that are no more. What is missing or damaged is in
// broken; an error says that it is not known what there is.
func (v *volume) readSegments(ctx context.Context) error {
	var from uint64
	for i, g := range v.head.Segments {
		if i == 0 {
			from = g.From
		}
		missing := false
		for n := g.From; n < g.To; n++ {
			_, have := v.blocks[n]
			missing = missing || !have
		}
		if !missing {
			continue
		}
		s, err := v.writer.secrets().Get(ctx, slotName(g.Slot), metav1.GetOptions{})
		if err == nil {
			err = store.Readable(s)
		}
		switch {
		case apierrors.IsNotFound(err):
			v.broken = errors.Join(v.broken, fmt.Errorf("loading %s: %w: it is missing", slotName(g.Slot), store.ErrDamaged))
			continue
		case err != nil:
			return fmt.Errorf("loading %s: %w", slotName(g.Slot), err)
		}
		for n := g.From; n < g.To; n++ {
			if _, have := v.blocks[n]; have {
				continue
			}
			packed := s.Data[blockKey(n)]
			records, err := v.book.unpackBlock(packed, v.reading)
			if err != nil {
				v.broken = errors.Join(v.broken, fmt.Errorf("%s: %w", slotName(g.Slot), err))
				continue
			}
			x := v.book.newBlock(packed, records)
			if v.reading {
				x.records = records
			} else {
				x.packed = bytes.Clone(packed)
			}
			v.blocks[n] = x
		}
	}
	maps.DeleteFunc(v.blocks, func(n uint64, _ block) bool { return n < from || n >= v.head.Next })
	return nil
}

// mend forgets the segments that can't be read as a whole, and begins the state anew.
func (v *volume) mend() {
	v.head.Segments = slices.DeleteFunc(slices.Clone(v.head.Segments), func(g segment) bool {
		for n := g.From; n < g.To; n++ {
			if _, ok := v.blocks[n]; !ok {
				return true
			}
		}
		return false
	})
	maps.DeleteFunc(v.blocks, func(n uint64, _ block) bool {
		return !slices.ContainsFunc(v.head.Segments, func(g segment) bool { return g.From <= n && n < g.To })
	})
	v.book.base, v.broken = state{}, nil
	v.bind()
	v.book.first = len(v.book.log)
}

// bind makes the book's log of what is open and, of a Reader, of the blocks. It is in memory once: the blocks become parts of it.
func (v *volume) bind() {
	b := v.book
	n := len(v.open)
	for _, x := range v.blocks {
		n += len(x.records)
	}
	b.log, b.first = make([]record, 0, n), 0
	var users, namespaces uint32
	for _, n := range slices.Sorted(maps.Keys(v.blocks)) {
		x, from := v.blocks[n], len(b.log)
		users, namespaces, b.last = max(users, x.users), max(namespaces, x.namespaces), max(b.last, x.last)
		if v.reading {
			b.log = append(b.log, x.records...)
			x.records = b.log[from:len(b.log):len(b.log)]
			v.blocks[n] = x
		}
		if n < v.first {
			b.first = len(b.log)
		}
	}
	sealed := len(b.log)
	b.log = append(b.log, v.open...)
	v.open = b.log[sealed:]
	b.fit(users, namespaces)
	if v.broken != nil {
		b.first, b.begins = len(b.log), time.Time{}
	}
}

// bytes is how much the sealed blocks have.
func (v *volume) bytes() (n int64) {
	for _, b := range v.blocks {
		n += int64(b.bytes)
	}
	return n
}
