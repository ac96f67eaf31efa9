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
	cm, err := h.get(ctx, NameHeld)
	if err != nil || cm == nil {
		return nil, err
	}
	var items []rbacsync.Item
	err = h.unpack(cm, keyItems, &items)
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
	return h.save(ctx, NameHeld, func(old *corev1.ConfigMap) (content, error) {
		if old == nil && len(items) == 0 {
			return content{}, nil
		}
		return content{packed: map[string]any{keyItems: items}, data: shown}, nil
	})
}

// Approvals returns what was approved, by Item.Key, and which user of Kubernetes did; "": an earlier version has written it.
func (h Held) Approvals(ctx context.Context) (map[string]string, error) {
	cm, err := h.get(ctx, NameApprovals)
	if err != nil || cm == nil {
		return map[string]string{}, err
	}
	return h.approvals(cm)
}

// approvals returns what is in the ConfigMap with approvals.
func (h Held) approvals(cm *corev1.ConfigMap) (map[string]string, error) {
	var keys []string
	if err := h.unpack(cm, keyItems, &keys); err != nil {
		return nil, err
	}
	by := map[string]string{}
	if err := h.unpack(cm, keyBy, &by); err != nil {
		return nil, err
	}
	all := make(map[string]string, len(keys))
	for _, k := range keys {
		all[k] = by[k]
	}
	return all, nil
}

// ErrApproved says that all of it was approved already. Whose approval counts is the first one's.
var ErrApproved = errors.New("this was approved already")

// Approve approves what is held under a hash, see rbacsync.HeldUnder, in the name of a user of Kubernetes; "": it is not
// known of whom. It returns what that is.
func (h Held) Approve(ctx context.Context, hash string, by string) ([]rbacsync.Item, error) {
	held, err := h.Load(ctx)
	if err != nil {
		return nil, err
	}
	items, err := rbacsync.HeldUnder(held, hash)
	if err != nil {
		return nil, err
	}
	var fresh bool
	err = h.change(ctx, func(all map[string]string) {
		fresh = false
		for _, i := range items {
			if _, known := all[i.Key()]; !known {
				all[i.Key()], fresh = by, true
			}
		}
	})
	if err == nil && !fresh {
		err = ErrApproved
	}
	return items, err
}

// Forget drops approvals that are of no use any more.
func (h Held) Forget(ctx context.Context, keys []string) error {
	return h.change(ctx, func(all map[string]string) {
		for _, k := range keys {
			delete(all, k)
		}
	})
}

func (h Held) change(ctx context.Context, edit func(map[string]string)) error {
	return h.save(ctx, NameApprovals, func(old *corev1.ConfigMap) (content, error) {
		all := map[string]string{}
		if old != nil {
			var err error
			if all, err = h.approvals(old); err != nil {
				return content{}, err
			}
		}
		edit(all)
		named := maps.Clone(all)
		maps.DeleteFunc(named, func(_, by string) bool { return by == "" })
		out := content{packed: map[string]any{keyItems: slices.Sorted(maps.Keys(all))}}
		if len(named) > 0 {
			out.packed[keyBy] = named
		}
		return out, nil
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
	keyBy    = "by.json.gz" // of approvals: whose they are; earlier versions leave it aside
	// maxHeld leaves room for the text beside it: a ConfigMap holds 1 MiB.
	maxHeld = 900 << 10
)

// get returns a ConfigMap; nil if there is none.
func (h Held) get(ctx context.Context, name string) (*corev1.ConfigMap, error) {
	cm, err := h.maps().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil //nolint:nilnil // nothing was held or approved yet
	}
	if err != nil {
		return nil, fmt.Errorf("reading ConfigMap %s/%s: %w", h.Namespace, name, err)
	}
	return cm, Readable(cm)
}

// unpack reads what is under a key of a ConfigMap; nothing if there is none.
func (h Held) unpack(cm *corev1.ConfigMap, key string, into any) error {
	if len(cm.BinaryData[key]) == 0 {
		return nil
	}
	if err := unpackJSON(cm.BinaryData[key], into); err != nil {
		return fmt.Errorf("ConfigMap %s/%s can't be read, delete it and approve again: %w", h.Namespace, cm.Name, err)
	}
	return nil
}

// content is what a ConfigMap holds: packed, as JSON, and plain. If nothing is packed it is not written.
type content struct {
	packed map[string]any
	data   map[string]string
}

// pack returns what is packed as bytes.
func (c content) pack() (map[string][]byte, error) {
	out, size := make(map[string][]byte, len(c.packed)), 0
	for key, value := range c.packed {
		packed, err := pack(gzip.DefaultCompression, func(w io.Writer) error { return json.NewEncoder(w).Encode(value) })
		if err != nil {
			return nil, err
		}
		out[key] = packed
		size += len(packed)
	}
	if size > maxHeld {
		return nil, errors.New("more is held than fits into a ConfigMap: something is wrong with what GitLab answers, see the findings")
	}
	return out, nil
}

// save writes what edit makes of a ConfigMap (nil: there is none), again when somebody else was faster.
func (h Held) save(ctx context.Context, name string, edit func(old *corev1.ConfigMap) (content, error)) error {
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

func (h Held) saveOnce(ctx context.Context, name string, edit func(*corev1.ConfigMap) (content, error)) error {
	old, err := h.get(ctx, name)
	if err != nil {
		return err
	}
	made, err := edit(old)
	if err != nil || made.packed == nil {
		return err
	}
	packed, err := made.pack()
	if err != nil {
		return err
	}
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: h.Namespace}, BinaryData: packed, Data: made.data}
	if old == nil {
		_, err = h.maps().Create(ctx, cm, metav1.CreateOptions{})
		return err
	}
	if maps.EqualFunc(packed, old.BinaryData, bytes.Equal) && maps.Equal(made.data, old.Data) {
		return nil
	}
	cm.ObjectMeta = old.ObjectMeta
	return Put(ctx, h.maps(), cm)
}

func (h Held) maps() configMapClient { return h.Client.CoreV1().ConfigMaps(h.Namespace) }

func unpackJSON(packed []byte, into any) error {
	return unpack(packed, func(r io.Reader) error { return json.NewDecoder(r).Decode(into) })
}
