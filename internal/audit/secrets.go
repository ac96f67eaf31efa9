package audit

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"strconv"

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
	// keyClaim is there while a process writes what a later head will name, see claim.
	keyClaim = "claim"
)

func ownSecret(name string, data map[string][]byte) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: deploy.Namespace, Labels: store.OwnLabels()},
		Type:       corev1.SecretTypeOpaque, Data: data,
	}
}

// errConflict says that another process has written the history since it was read.
var errConflict = errors.New("another process has written the history")

// conflict makes errConflict of what kube-apiserver says to the one of two writers who loses.
func conflict(err error) error {
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return errConflict
	}
	return err
}

// secretWriter writes the Secrets of the history. Of two processes that write at the same time one gets errConflict.
type secretWriter struct {
	kube kubernetes.Interface
	may  func() error // optional: nil while this process may write

	version string // resourceVersion of the first Secret; "" if not all that it names was read
	seen    string // resourceVersion of the first Secret when it was last looked at, readable or not; "" for none
	claimed bool   // what follows the first Secret is written by this process alone, see claim
}

func (w *secretWriter) secrets() corev1client.SecretInterface {
	return w.kube.CoreV1().Secrets(deploy.Namespace)
}

// claim begins a writing beside the first Secret. It gives that another version: who has read the history before can write nothing
// any more, and who reads it later finds nothing of this writing that could still count. Each write of it is made as
//
//	read what is there; ask whether the claim still holds (ours); write only if what is there is still what was read
//
// so that whatever another process has written since the claim makes one of the two fail, however long a request is under way. A
// history that begins anew has other numbers for people: its claim takes the head away, with which its base must not be read.
func (w *secretWriter) claim(ctx context.Context) error {
	if w.claimed {
		return nil
	}
	data := map[string][]byte{}
	old, err := w.secrets().Get(ctx, store.NameAudit, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) && w.seen == "":
	case apierrors.IsNotFound(err), err == nil && old.ResourceVersion != w.seen:
		return errConflict
	case err != nil:
		return fmt.Errorf("loading %s: %w", store.NameAudit, err)
	default:
		if err := store.Readable(old); err != nil {
			return err
		}
		if w.version != "" {
			data = maps.Clone(old.Data)
		}
		w.version = old.ResourceVersion
	}
	data[keyClaim] = []byte(rand.Text())
	if err := w.put(ctx, data); err != nil {
		return err
	}
	w.claimed = true
	return nil
}

// ours returns why nothing may be written: errConflict if another process has written the history, or has claimed it.
func (w *secretWriter) ours(ctx context.Context) error {
	s, err := w.secrets().Get(ctx, store.NameAudit, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && s.ResourceVersion != w.version:
		return errConflict
	case err != nil:
		return fmt.Errorf("loading %s: %w", store.NameAudit, err)
	}
	return w.leads()
}

func (w *secretWriter) leads() error {
	if w.may == nil {
		return nil
	}
	return w.may()
}

// put writes the first Secret if it is still as it was read, and notes its version.
func (w *secretWriter) put(ctx context.Context, data map[string][]byte) error {
	s := ownSecret(store.NameAudit, data)
	s.ResourceVersion = w.version
	if err := w.leads(); err != nil {
		return err
	}
	var err error
	if w.version == "" && !w.claimed {
		_, err = w.secrets().Create(ctx, s, metav1.CreateOptions{})
	} else {
		switch _, err = w.secrets().Update(ctx, s, metav1.UpdateOptions{}); {
		case apierrors.IsInvalid(err): // somebody made it immutable
			err = store.Put(ctx, w.secrets(), s)
		case apierrors.IsNotFound(err): // somebody wants it to begin anew
			err = errConflict
		}
	}
	if err != nil {
		return fmt.Errorf("storing %s: %w", store.NameAudit, conflict(err))
	}
	written, err := w.secrets().Get(ctx, store.NameAudit, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("loading %s: %w", store.NameAudit, err)
	}
	if !maps.EqualFunc(written.Data, data, bytes.Equal) {
		return errConflict
	}
	w.version, w.seen = written.ResourceVersion, written.ResourceVersion
	return nil
}

// write writes a Secret as it was read, or makes it: see claim.
func (w *secretWriter) write(ctx context.Context, s *corev1.Secret) error {
	err := w.ours(ctx)
	switch {
	case err != nil:
		return err
	case s.ResourceVersion == "":
		_, err = w.secrets().Create(ctx, s, metav1.CreateOptions{})
	default:
		err = store.Put(ctx, w.secrets(), s)
	}
	if err != nil {
		return fmt.Errorf("storing %s: %w", s.Name, conflict(err))
	}
	return nil
}

// remove deletes a Secret as it was read, if it is still there: see claim.
func (w *secretWriter) remove(ctx context.Context, s *corev1.Secret) error {
	if err := w.ours(ctx); err != nil {
		return err
	}
	err := w.secrets().Delete(ctx, s.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &s.ResourceVersion}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting %s: %w", s.Name, conflict(err))
	}
	return nil
}
