package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
)

// Slots is how many Secrets there are for sealed blocks. A Secret may hold 1 MiB; maxSegment leaves room in it.
const (
	Slots      = 16
	maxSegment = 700 << 10
)

// SecretNames returns the names of all Secrets that the history may have.
func SecretNames() []string {
	out := append([]string{store.NameAudit}, store.SecretNames(store.NameAuditBase)...)
	for slot := range Slots {
		out = append(out, slotName(slot))
	}
	return out
}

func slotName(slot int) string { return store.NameAudit + "-s" + strconv.Itoa(slot) }

func blockKey(n uint64) string { return fmt.Sprintf("%08d.gz", n) }

// Keys of the first Secret.
const (
	keyHead = "head"
	keyOpen = "open.gz"
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

// block is a sealed block in memory.
type block struct {
	records []record
	bytes   int
}

// volume is the history as it is stored, in memory.
type volume struct {
	kube kubernetes.Interface

	version string // resourceVersion of the first Secret
	head    head
	blocks  map[uint64]block
	open    []record // in no sealed block yet
	packed  int      // how many bytes they had when they were stored
	book    *book
	first   uint64 // the first block whose records count for the base
	// broken says that something is damaged: what can be read is told, but makes no state.
	broken error
}

func newVolume(kube kubernetes.Interface) *volume {
	return &volume{kube: kube, blocks: map[uint64]block{}, book: newBook()}
}

func (v *volume) secrets() corev1client.SecretInterface {
	return v.kube.CoreV1().Secrets(deploy.Namespace)
}

func (v *volume) baseBlob() store.Blob {
	return store.Blob{Client: v.kube, Namespace: deploy.Namespace, Name: store.NameAuditBase}
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
	s, err := v.secrets().Get(ctx, store.NameAudit, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("the history: %w", store.ErrNone)
	case err != nil:
		return fmt.Errorf("loading %s: %w", store.NameAudit, err)
	}
	if err := store.Readable(s); err != nil {
		return err
	}
	if v.version != "" && s.ResourceVersion == v.version && v.broken == nil {
		return nil
	}
	var h head
	if err := json.Unmarshal(s.Data[keyHead], &h); err != nil || h.Base == "" {
		return fmt.Errorf("loading %s: %w: it has no description that this version knows", store.NameAudit, store.ErrDamaged)
	}
	anew := v.version == "" || h.Base != v.head.Base || v.broken != nil
	v.version = "" // until all is read
	if anew {
		if err := v.readBase(ctx); err != nil {
			return err
		}
	}
	v.head, v.broken = h, nil
	v.book.add(h.rows)
	if err := v.readSegments(ctx); err != nil {
		return err
	}
	if v.open, err = v.book.unpackBlock(s.Data[keyOpen]); err != nil {
		v.open, v.broken = nil, errors.Join(v.broken, fmt.Errorf("%s: %w", store.NameAudit, err))
	}
	v.packed = len(s.Data[keyOpen])
	v.bind()
	v.version = s.ResourceVersion
	return nil
}

func (v *volume) readBase(ctx context.Context) error {
	v.book, v.blocks = newBook(), map[uint64]block{}
	_, _, err := v.baseBlob().Load(ctx, "", func(in io.Reader) (err error) {
		v.first, err = v.book.readBase(in)
		return err
	})
	if errors.Is(err, store.ErrNone) {
		return fmt.Errorf("loading %s: %w: it is missing", store.NameAuditBase, store.ErrDamaged)
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
		s, err := v.secrets().Get(ctx, slotName(g.Slot), metav1.GetOptions{})
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
			records, err := v.book.unpackBlock(packed)
			if err != nil {
				v.broken = errors.Join(v.broken, fmt.Errorf("%s: %w", slotName(g.Slot), err))
				continue
			}
			v.blocks[n] = block{records, len(packed)}
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
	v.book.base, v.broken = state{}, nil
}

// bind puts the blocks together.
func (v *volume) bind() {
	b := v.book
	n := len(v.open)
	for _, x := range v.blocks {
		n += len(x.records)
	}
	b.log, b.first = make([]record, 0, n), 0
	for _, n := range slices.Sorted(maps.Keys(v.blocks)) {
		b.log = append(b.log, v.blocks[n].records...)
		if n < v.first {
			b.first = len(b.log)
		}
	}
	b.log = append(b.log, v.open...)
	b.fit(b.log)
	if v.broken != nil {
		b.first, b.begins = len(b.log), time.Time{}
	}
}

// errConflict says that another process has written the history since it was read.
var errConflict = errors.New("another process has written the history")

// current returns errConflict if another process has written the history since it was read. What is written beside the first
// Secret is written after this, and by the leader alone.
func (v *volume) current(ctx context.Context) error {
	s, err := v.secrets().Get(ctx, store.NameAudit, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) && v.version == "":
		return nil
	case apierrors.IsNotFound(err), err == nil && v.version != "" && s.ResourceVersion != v.version:
		return errConflict
	case err != nil:
		return fmt.Errorf("loading %s: %w", store.NameAudit, err)
	}
	return store.Readable(s)
}

// commit writes the first Secret: what is open, and where all else is.
func (v *volume) commit(ctx context.Context) error {
	packed, err := v.book.packBlock(v.open)
	if err != nil {
		return err
	}
	description, err := json.Marshal(v.head)
	if err != nil {
		return err
	}
	s := ownSecret(store.NameAudit, map[string][]byte{keyHead: description, keyOpen: packed})
	if v.version == "" { // there is none, or one that can't be read
		old, err := v.secrets().Get(ctx, store.NameAudit, metav1.GetOptions{})
		if err == nil {
			if err := store.Readable(old); err != nil {
				return err
			}
			s.ResourceVersion = old.ResourceVersion
		}
	} else {
		s.ResourceVersion = v.version
	}
	switch {
	case s.ResourceVersion == "":
		_, err = v.secrets().Create(ctx, s, metav1.CreateOptions{})
	case v.version != "":
		if _, err = v.secrets().Update(ctx, s, metav1.UpdateOptions{}); apierrors.IsNotFound(err) { // somebody wants it to begin anew
			return errConflict
		}
		if !apierrors.IsInvalid(err) {
			break
		}
		fallthrough // somebody made it immutable
	default:
		err = store.Put(ctx, v.secrets(), s)
	}
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return errConflict
	}
	if err != nil {
		return fmt.Errorf("storing %s: %w", store.NameAudit, err)
	}
	written, err := v.secrets().Get(ctx, store.NameAudit, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("loading %s: %w", store.NameAudit, err)
	}
	if string(written.Data[keyHead]) != string(description) {
		return errConflict
	}
	v.version, v.packed = written.ResourceVersion, len(packed)
	return nil
}

// saveBase writes the tables and the state before the first block that counts. Commit makes it count.
func (v *volume) saveBase(ctx context.Context, first uint64, now time.Time) error {
	name := strconv.FormatInt(now.UnixNano(), 36)
	err := v.baseBlob().Save(ctx, map[string]string{metaBase: name}, func(out io.Writer) error { return v.book.writeBase(out, first) })
	if err != nil {
		return err
	}
	v.first, v.head.Base, v.head.rows = first, name, rows{}
	return nil
}

// seal makes a block of the first n open records. Commit makes it count.
func (v *volume) seal(ctx context.Context, n int) error {
	packed, err := v.book.packBlock(v.open[:n])
	if err != nil {
		return err
	}
	size := func(g segment) (bytes int) {
		for n := g.From; n < g.To; n++ {
			bytes += v.blocks[n].bytes
		}
		return bytes
	}
	last := len(v.head.Segments) - 1
	if last < 0 || size(v.head.Segments[last])+len(packed) > maxSegment {
		slot := 0
		for slices.ContainsFunc(v.head.Segments, func(g segment) bool { return g.Slot == slot }) {
			slot++
		}
		if slot >= Slots {
			return errFull
		}
		v.head.Segments, last = append(slices.Clone(v.head.Segments), segment{slot, v.head.Next, v.head.Next}), last+1
	} else {
		v.head.Segments = slices.Clone(v.head.Segments)
	}
	g := &v.head.Segments[last]
	s, err := v.segment(ctx, *g)
	if err != nil {
		return err
	}
	s.Data[blockKey(v.head.Next)] = packed
	if err := store.Put(ctx, v.secrets(), s); err != nil {
		return fmt.Errorf("storing %s: %w", s.Name, err)
	}
	v.blocks[v.head.Next] = block{slices.Clone(v.open[:n]), len(packed)}
	v.head.Next++
	g.To, v.open, v.packed = v.head.Next, slices.Clone(v.open[n:]), 0
	return nil
}

// errFull says that no Secret is left for a block.
var errFull = errors.New("no room is left for the history")

// segment returns the Secret of a segment, with its blocks alone.
func (v *volume) segment(ctx context.Context, g segment) (*corev1.Secret, error) {
	fresh := ownSecret(slotName(g.Slot), map[string][]byte{})
	old, err := v.secrets().Get(ctx, fresh.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return fresh, nil
	}
	if err == nil {
		err = store.Readable(old)
	}
	if err != nil {
		return nil, fmt.Errorf("loading %s: %w", fresh.Name, err)
	}
	fresh.ResourceVersion = old.ResourceVersion
	for n := g.From; n < g.To; n++ {
		if packed, ok := old.Data[blockKey(n)]; ok {
			fresh.Data[blockKey(n)] = packed
		}
	}
	return fresh, nil
}

// drop forgets the blocks before one, in the head alone: their records become part of the base.
func (v *volume) drop(before uint64) {
	b := v.book
	for _, n := range slices.Sorted(maps.Keys(v.blocks)) {
		if n >= before {
			break
		}
		for _, r := range v.blocks[n].records {
			if n >= v.first {
				b.base.apply(r)
			}
			if at := time.UnixMilli(r.at).UTC(); n >= v.first && at.After(b.begins) {
				b.begins = at
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
	v.head.Segments = left
}

// clean takes out of the Secrets what the head does not name.
func (v *volume) clean(ctx context.Context, before []segment) error {
	var errs []error
	for _, old := range before {
		i := slices.IndexFunc(v.head.Segments, func(g segment) bool { return g.Slot == old.Slot })
		switch {
		case i < 0:
			if err := v.secrets().Delete(ctx, slotName(old.Slot), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				errs = append(errs, fmt.Errorf("deleting %s: %w", slotName(old.Slot), err))
			}
		case v.head.Segments[i].From != old.From:
			s, err := v.segment(ctx, v.head.Segments[i])
			if err == nil {
				err = store.Put(ctx, v.secrets(), s)
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// bytes is how much the sealed blocks have.
func (v *volume) bytes() (n int64) {
	for _, b := range v.blocks {
		n += int64(b.bytes)
	}
	return n
}

func ownSecret(name string, data map[string][]byte) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: deploy.Namespace, Labels: store.OwnLabels()},
		Type:       corev1.SecretTypeOpaque, Data: data,
	}
}
