package store

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Held keeps what is held back, and what of it was approved, in ConfigMaps of the integrator's own namespace. Who may
// write there may approve.
type Held struct {
	Client    kubernetes.Interface
	Namespace string
}

// Load returns what the leader holds.
func (h Held) Load(ctx context.Context) ([]rbacsync.Item, error) {
	var items []rbacsync.Item
	err := h.load(ctx, NameHeld, &items)
	return items, err
}

// maxOfChange is how much of what one change of the policy takes is kept: a ConfigMap has no room for all rights of a
// large GitLab, and all of it has one key.
const maxOfChange = 5000

// Save keeps what is held for Load.
func (h Held) Save(ctx context.Context, items []rbacsync.Item) error {
	ofChange := 0
	items = slices.DeleteFunc(slices.Clone(items), func(i rbacsync.Item) bool {
		if i.Change != "" {
			ofChange++
		}
		return i.Change != "" && ofChange > maxOfChange
	})
	text := rbacsync.HeldText(items)
	shown := map[string]string{"plan": text[:min(len(text), 64<<10)]} // for kubectl
	return h.save(ctx, NameHeld, func(old *corev1.ConfigMap) (any, map[string]string, error) {
		if old == nil && len(items) == 0 {
			return nil, nil, nil
		}
		return items, shown, nil
	})
}

// Approvals returns what was approved, by Item.Key.
func (h Held) Approvals(ctx context.Context) (map[string]bool, error) {
	var keys []string
	if err := h.load(ctx, NameApprovals, &keys); err != nil {
		return nil, err
	}
	return set(keys), nil
}

// Approve approves what is held under a hash, see rbacsync.HeldUnder. It returns what that is.
func (h Held) Approve(ctx context.Context, hash string) ([]rbacsync.Item, error) {
	held, err := h.Load(ctx)
	if err != nil {
		return nil, err
	}
	items, err := rbacsync.HeldUnder(held, hash)
	if err != nil {
		return nil, err
	}
	return items, h.change(ctx, func(keys map[string]bool) {
		for _, i := range items {
			keys[i.Key()] = true
		}
	})
}

// Forget drops approvals that are of no use any more.
func (h Held) Forget(ctx context.Context, keys []string) error {
	return h.change(ctx, func(all map[string]bool) {
		for _, k := range keys {
			delete(all, k)
		}
	})
}

func (h Held) change(ctx context.Context, edit func(map[string]bool)) error {
	return h.save(ctx, NameApprovals, func(old *corev1.ConfigMap) (any, map[string]string, error) {
		var keys []string
		if old != nil && len(old.BinaryData[keyItems]) > 0 {
			if err := unpackJSON(old.BinaryData[keyItems], &keys); err != nil {
				return nil, nil, fmt.Errorf("it can't be read, delete it and approve again: %w", err)
			}
		}
		all := set(keys)
		edit(all)
		return slices.Sorted(maps.Keys(all)), nil, nil
	})
}

func set(keys []string) map[string]bool {
	out := make(map[string]bool, len(keys))
	for _, k := range keys {
		out[k] = true
	}
	return out
}

const (
	keyItems = "items.json.gz"
	// maxHeld leaves room for the text beside it: a ConfigMap holds 1 MiB.
	maxHeld = 900 << 10
)

func (h Held) load(ctx context.Context, name string, into any) error {
	cm, err := h.maps().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading ConfigMap %s/%s: %w", h.Namespace, name, err)
	}
	if err := Readable(cm); err != nil {
		return err
	}
	if len(cm.BinaryData[keyItems]) == 0 {
		return nil
	}
	if err := unpackJSON(cm.BinaryData[keyItems], into); err != nil {
		return fmt.Errorf("ConfigMap %s/%s can't be read, delete it and approve again: %w", h.Namespace, name, err)
	}
	return nil
}

// save writes what edit makes of a ConfigMap (nil: there is none), again when somebody else was faster. A nil value is not
// written.
func (h Held) save(ctx context.Context, name string, edit func(old *corev1.ConfigMap) (value any, data map[string]string, err error)) error {
	var err error
	for range 5 {
		if err = h.saveOnce(ctx, name, edit); !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("writing ConfigMap %s/%s: %w", h.Namespace, name, err)
	}
	return nil
}

func (h Held) saveOnce(ctx context.Context, name string, edit func(*corev1.ConfigMap) (any, map[string]string, error)) error {
	old, err := h.maps().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		old, err = nil, nil
	}
	if err != nil {
		return err
	}
	if old != nil {
		if err := Readable(old); err != nil {
			return err
		}
	}
	value, data, err := edit(old)
	if err != nil || value == nil {
		return err
	}
	packed, err := packJSON(value)
	if err != nil {
		return err
	}
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: h.Namespace}, BinaryData: map[string][]byte{keyItems: packed}, Data: data}
	if old == nil {
		_, err = h.maps().Create(ctx, cm, metav1.CreateOptions{})
		return err
	}
	if bytes.Equal(packed, old.BinaryData[keyItems]) && maps.Equal(data, old.Data) {
		return nil
	}
	cm.ObjectMeta = old.ObjectMeta
	return Put(ctx, h.maps(), cm)
}

func (h Held) maps() configMapClient { return h.Client.CoreV1().ConfigMaps(h.Namespace) }

func packJSON(v any) ([]byte, error) {
	packed, err := pack(gzip.DefaultCompression, func(w io.Writer) error { return json.NewEncoder(w).Encode(v) })
	if err == nil && len(packed) > maxHeld {
		err = errors.New("more is held than fits into a ConfigMap: something is wrong with what GitLab answers, see the findings")
	}
	return packed, err
}

func unpackJSON(packed []byte, into any) error {
	return unpack(packed, func(r io.Reader) error { return json.NewDecoder(r).Decode(into) })
}
