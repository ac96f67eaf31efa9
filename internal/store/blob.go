package store

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// A Secret may hold 1 MiB. Slots is how many further Secrets a Blob has for each of its two generations; the Role in
// deploy/manifests names them all.
const (
	chunkSize = 900 << 10
	Slots     = 8
)

// blobFormat is how a Blob is laid out; what its content means has a version in Formats.
const blobFormat = 1

// ErrNone says that nothing was stored yet.
var ErrNone = errors.New("nothing is stored")

// ErrUnchanged says that what is stored is what the caller has.
var ErrUnchanged = errors.New("nothing new is stored")

// Blob is content of any size up to some megabytes (compressed), kept in Secrets: small content in one, larger
// content in numbered ones of one of two generations, "a" and "b". A new version is written into the generation that
// is not in use, and becomes the content by one write to the Secret that names it.
type Blob struct {
	Client    kubernetes.Interface
	Namespace string
	Name      string
	// Before, optional, is asked before each write, once it is known what is there: what others write from then on is not
	// overwritten. Its error ends what was begun.
	Before func(context.Context) error
}

// generations are the names of the two generations.
func generations() []string { return []string{"a", "b"} }

// head describes the content; it is the key "head" of the Secret that has the blob's name.
type head struct {
	Format     int               `json:"format"`
	SHA256     string            `json:"sha256"` // of the compressed content
	Generation string            `json:"generation,omitempty"`
	Chunks     int               `json:"chunks,omitempty"` // 0: the content is in this Secret
	Meta       map[string]string `json:"meta,omitempty"`
}

const (
	keyHead  = "head"
	keyChunk = "content.gz"
)

// SecretNames returns the names of all Secrets that a blob may have.
func SecretNames(blob string) []string {
	out := []string{blob}
	for _, gen := range generations() {
		for i := range Slots {
			out = append(out, chunkName(blob, gen, i))
		}
	}
	return out
}

func chunkName(blob, generation string, i int) string {
	return fmt.Sprintf("%s-%s%d", blob, generation, i)
}

// Save stores what write writes, and meta beside it, unless both are stored already. What was stored before is deleted then. Of two
// writers one gets an error that is a conflict, or that something exists already, of k8s.io/apimachinery/pkg/api/errors.
func (b Blob) Save(ctx context.Context, meta map[string]string, write func(io.Writer) error) error {
	packed, err := pack(gzip.BestSpeed, write)
	if err != nil {
		return fmt.Errorf("packing %s: %w", b.Name, err)
	}
	if len(packed) > Slots*chunkSize {
		return fmt.Errorf("storing %s: %d bytes are more than the %d there is room for", b.Name, len(packed), Slots*chunkSize)
	}
	sum := sha256.Sum256(packed)
	next := head{Format: blobFormat, SHA256: hex.EncodeToString(sum[:]), Meta: meta}
	old, secret, err := b.head(ctx)
	if err != nil && !errors.Is(err, ErrNone) && !errors.Is(err, ErrDamaged) {
		return err
	}
	data := map[string][]byte{}
	switch {
	case err == nil && old.SHA256 == next.SHA256 && b.holds(ctx, old, secret, packed):
		if maps.Equal(old.Meta, meta) {
			return nil
		}
		next.Generation, next.Chunks = old.Generation, old.Chunks
		if c, ok := secret.Data[keyChunk]; ok {
			data[keyChunk] = c
		}
	case len(packed) <= chunkSize:
		data[keyChunk] = packed
	default:
		if next.Generation = "a"; old.Generation == "a" {
			next.Generation = "b"
		}
		for chunk := range slices.Chunk(packed, chunkSize) {
			if err := b.put(ctx, chunkName(b.Name, next.Generation, next.Chunks), chunk); err != nil {
				return err
			}
			next.Chunks++
		}
	}
	if data[keyHead], err = json.Marshal(next); err != nil {
		return err
	}
	left, err := b.leftovers(ctx, next)
	if err != nil {
		return err
	}
	if err := b.write(ctx, b.secret(b.Name, data), secret); err != nil {
		return err
	}
	return b.sweep(ctx, left)
}

// leftovers returns the Secrets of content that is none any more once the next description is written: of what is stored now, and of
// what a process that died had begun to store. They are read before that: who writes on by the next description gives those that it
// needs another version, and who writes by the one of now loses.
func (b Blob) leftovers(ctx context.Context, next head) (out []*corev1.Secret, err error) {
	for _, gen := range generations() {
		first := 0
		if gen == next.Generation {
			first = next.Chunks
		}
		for i := first; i < Slots; i++ {
			s, err := b.secrets().Get(ctx, chunkName(b.Name, gen, i), metav1.GetOptions{})
			if apierrors.IsNotFound(err) && i == first { // which goes last, so there are no others
				break
			}
			if apierrors.IsNotFound(err) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("loading %s: %w", chunkName(b.Name, gen, i), err)
			}
			out = append(out, s)
		}
	}
	return out, nil
}

// sweep deletes leftovers as they were read. The first of a generation goes last, so that the rest is still found if this is broken
// off; what another process has written meanwhile is its own.
func (b Blob) sweep(ctx context.Context, old []*corev1.Secret) error {
	for _, s := range slices.Backward(old) {
		if err := b.ask(ctx); err != nil {
			return err
		}
		err := b.secrets().Delete(ctx, s.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &s.ResourceVersion}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("deleting %s: %w", s.Name, err)
		}
	}
	return nil
}

// holds reports whether what is stored is still this packed content, whatever its description says: somebody may have
// changed or deleted a part of it.
func (b Blob) holds(ctx context.Context, h head, secret *corev1.Secret, packed []byte) bool {
	if h.Chunks == 0 {
		return bytes.Equal(secret.Data[keyChunk], packed)
	}
	for i := range min(h.Chunks, Slots) {
		s, err := b.secrets().Get(ctx, chunkName(b.Name, h.Generation, i), metav1.GetOptions{})
		if err != nil || !bytes.HasPrefix(packed, s.Data[keyChunk]) {
			return false
		}
		packed = packed[len(s.Data[keyChunk]):]
	}
	return len(packed) == 0
}

// Load hands the content to read, and returns its version and meta. It returns ErrUnchanged, and does not read, when
// the version is the one in have; ErrNone when nothing is stored.
func (b Blob) Load(ctx context.Context, have string, read func(io.Reader) error) (version string, meta map[string]string, err error) {
	for try := 0; ; try++ {
		version, meta, err = b.load(ctx, have, read)
		if !errors.Is(err, ErrDamaged) || try == 2 {
			return version, meta, err
		}
		// A writer may have been at work; what is read next is whole again.
	}
}

// ErrDamaged says that what is stored can not be read.
var ErrDamaged = errors.New("the stored content is damaged")

func (b Blob) load(ctx context.Context, have string, read func(io.Reader) error) (string, map[string]string, error) {
	h, secret, err := b.head(ctx)
	if err != nil {
		return "", nil, err
	}
	if h.SHA256 == have {
		return have, h.Meta, ErrUnchanged
	}
	packed := secret.Data[keyChunk]
	if h.Chunks > 0 {
		packed = nil
	}
	for i := range min(h.Chunks, Slots) {
		s, err := b.secrets().Get(ctx, chunkName(b.Name, h.Generation, i), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "", nil, fmt.Errorf("loading %s: %w: a part is missing", b.Name, ErrDamaged)
		}
		if err != nil {
			return "", nil, fmt.Errorf("loading %s: %w", b.Name, err)
		}
		packed = append(packed, s.Data[keyChunk]...)
	}
	if sum := sha256.Sum256(packed); hex.EncodeToString(sum[:]) != h.SHA256 {
		return "", nil, fmt.Errorf("loading %s: %w: its checksum is wrong", b.Name, ErrDamaged)
	}
	if err := unpack(packed, read); err != nil {
		return "", nil, fmt.Errorf("unpacking %s: %w: %w", b.Name, ErrDamaged, err)
	}
	return h.SHA256, h.Meta, nil
}

// head reads the Secret that describes the content. A Secret without a readable description is ErrDamaged, one of a later
// version ErrNewer.
func (b Blob) head(ctx context.Context) (head, *corev1.Secret, error) {
	s, err := b.secrets().Get(ctx, b.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return head{}, nil, ErrNone
	}
	if err != nil {
		return head{}, nil, fmt.Errorf("loading %s: %w", b.Name, err)
	}
	h, err := headOf(s)
	if err != nil {
		err = fmt.Errorf("loading %s: %w", b.Name, err)
	}
	return h, s, err
}

// headOf reads the description in a Secret. One of a later format is ErrNewer, and one that can't be read ErrDamaged.
func headOf(s *corev1.Secret) (head, error) {
	if err := Readable(s); err != nil {
		return head{}, err
	}
	var h head
	err := json.Unmarshal(s.Data[keyHead], &h)
	switch {
	case h.Format > blobFormat:
		return head{}, newer(s.Namespace, s.Name, strconv.Itoa(h.Format), blobFormat)
	case err != nil || h.Format < 1:
		return head{}, fmt.Errorf("%w: it has no description that this version knows", ErrDamaged)
	}
	return h, nil
}

// put writes one chunk, whatever is there.
func (b Blob) put(ctx context.Context, name string, content []byte) error {
	old, err := b.secrets().Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		old = nil
	case err != nil:
		return fmt.Errorf("loading %s: %w", name, err)
	default:
		if err := Readable(old); err != nil {
			return err
		}
	}
	return b.write(ctx, b.secret(name, map[string][]byte{keyChunk: content}), old)
}

// write writes a Secret in the place of the one that was there, nil for none: of two writers one loses.
func (b Blob) write(ctx context.Context, s, old *corev1.Secret) error {
	if err := b.ask(ctx); err != nil {
		return err
	}
	var err error
	if old == nil {
		_, err = b.secrets().Create(ctx, s, metav1.CreateOptions{})
	} else {
		s.UID, s.ResourceVersion = old.UID, old.ResourceVersion
		err = Put(ctx, b.secrets(), s)
	}
	if err != nil {
		return fmt.Errorf("storing %s: %w", s.Name, err)
	}
	return nil
}

// remove deletes a Secret, if there is one, as it is now.
func (b Blob) remove(ctx context.Context, name string) error {
	old, err := b.secrets().Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		if err := b.ask(ctx); err != nil {
			return err
		}
		err = b.secrets().Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &old.ResourceVersion}})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting %s: %w", name, err)
	}
	return nil
}

func (b Blob) ask(ctx context.Context) error {
	if b.Before == nil {
		return nil
	}
	return b.Before(ctx)
}

func (b Blob) secret(name string, data map[string][]byte) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: b.Namespace, Labels: OwnLabels()},
		Type:       corev1.SecretTypeOpaque, Data: data,
	}
}

func (b Blob) secrets() secretClient { return b.Client.CoreV1().Secrets(b.Namespace) }

// Delete deletes the content, with all Secrets that it has or had.
func (b Blob) Delete(ctx context.Context) error {
	var errs []error
	for _, name := range SecretNames(b.Name) {
		errs = append(errs, b.remove(ctx, name))
	}
	return errors.Join(errs...)
}
