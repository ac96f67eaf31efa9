package syncer

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

// Names of what HeldStore keeps in the integrator's own namespace.
const (
	HeldConfigMap      = "gl-k8s-integrator-plan"
	ApprovalsConfigMap = "gl-k8s-integrator-approvals"
)

// HeldStore keeps what is held, and what was approved, in ConfigMaps of the integrator's own namespace. Who may write
// there may approve.
type HeldStore struct {
	Kube      kubernetes.Interface
	Namespace string
}

// Load returns what the leader holds.
func (h HeldStore) Load(ctx context.Context) ([]rbacsync.Item, error) {
	var items []rbacsync.Item
	err := h.load(ctx, HeldConfigMap, &items)
	return items, err
}

// maxOfChange is how much of what one change of the policy takes is kept: a ConfigMap has no room for all rights of a
// large GitLab, and all of it has one key.
const maxOfChange = 5000

// Save keeps what is held for Load.
func (h HeldStore) Save(ctx context.Context, items []rbacsync.Item) error {
	ofChange := 0
	items = slices.DeleteFunc(slices.Clone(items), func(i rbacsync.Item) bool {
		if i.Change != "" {
			ofChange++
		}
		return i.Change != "" && ofChange > maxOfChange
	})
	return h.save(ctx, HeldConfigMap, func([]byte) (any, error) { return items, nil })
}

// Approvals returns what was approved, by Item.Key.
func (h HeldStore) Approvals(ctx context.Context) (map[string]bool, error) {
	var keys []string
	if err := h.load(ctx, ApprovalsConfigMap, &keys); err != nil {
		return nil, err
	}
	out := make(map[string]bool, len(keys))
	for _, k := range keys {
		out[k] = true
	}
	return out, nil
}

// Approve approves what is held under the hash of HashOf: all of it, or a Section. It returns what that is.
func (h HeldStore) Approve(ctx context.Context, hash string) ([]rbacsync.Item, error) {
	held, err := h.Load(ctx)
	if err != nil {
		return nil, err
	}
	var items []rbacsync.Item
	if len(held) > 0 && hash == rbacsync.HashOf(held) {
		items = held
	}
	for _, s := range rbacsync.Sections(held) {
		if s.Hash == hash {
			items = s.Items
		}
	}
	if len(items) == 0 {
		return nil, ErrNoSuchHash
	}
	return items, h.change(ctx, func(keys map[string]bool) {
		for _, i := range items {
			keys[i.Key()] = true
		}
	})
}

// Forget drops approvals that are of no use any more.
func (h HeldStore) Forget(ctx context.Context, keys []string) error {
	return h.change(ctx, func(all map[string]bool) {
		for _, k := range keys {
			delete(all, k)
		}
	})
}

func (h HeldStore) change(ctx context.Context, edit func(map[string]bool)) error {
	return h.save(ctx, ApprovalsConfigMap, func(old []byte) (any, error) {
		var keys []string
		if len(old) > 0 {
			if err := unpack(old, &keys); err != nil {
				return nil, fmt.Errorf("it can't be read, delete it and approve again: %w", err)
			}
		}
		all := map[string]bool{}
		for _, k := range keys {
			all[k] = true
		}
		edit(all)
		return slices.Sorted(maps.Keys(all)), nil
	})
}

const (
	heldField = "items.json.gz"
	// maxHeld bounds what is read back; a ConfigMap holds 1 MiB, and this much when it is unpacked.
	maxHeld = 256 << 20
)

func (h HeldStore) load(ctx context.Context, name string, into any) error {
	cm, err := h.Kube.CoreV1().ConfigMaps(h.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading ConfigMap %s/%s: %w", h.Namespace, name, err)
	}
	if len(cm.BinaryData[heldField]) == 0 {
		return nil
	}
	if err := unpack(cm.BinaryData[heldField], into); err != nil {
		return fmt.Errorf("ConfigMap %s/%s can't be read, delete it and approve again: %w", h.Namespace, name, err)
	}
	return nil
}

// save writes what edit makes of the present content, again when somebody else was faster.
func (h HeldStore) save(ctx context.Context, name string, edit func(old []byte) (any, error)) error {
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

func (h HeldStore) saveOnce(ctx context.Context, name string, edit func(old []byte) (any, error)) error {
	api := h.Kube.CoreV1().ConfigMaps(h.Namespace)
	cm, err := api.Get(ctx, name, metav1.GetOptions{})
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return err
	}
	if missing {
		cm = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: h.Namespace}}
	}
	fixed := cm.Immutable != nil && *cm.Immutable // by somebody else
	value, err := edit(cm.BinaryData[heldField])
	if err != nil {
		return err
	}
	packed, err := pack(value)
	if err != nil {
		return err
	}
	var data map[string]string
	if items, ok := value.([]rbacsync.Item); ok {
		if missing && len(items) == 0 {
			return nil
		}
		text := rbacsync.HeldText(items)
		data = map[string]string{"plan": text[:min(len(text), 64<<10)]} // for kubectl
	}
	if bytes.Equal(packed, cm.BinaryData[heldField]) && maps.Equal(data, cm.Data) {
		return nil
	}
	if fixed {
		if err := api.Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &cm.ResourceVersion}}); err != nil {
			return err
		}
		cm, missing = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: h.Namespace}}, true
	}
	cm.BinaryData, cm.Data = map[string][]byte{heldField: packed}, data
	if missing {
		_, err = api.Create(ctx, cm, metav1.CreateOptions{})
	} else {
		_, err = api.Update(ctx, cm, metav1.UpdateOptions{})
	}
	return err
}

func pack(v any) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if err := json.NewEncoder(z).Encode(v); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	if b.Len() > 900<<10 {
		return nil, errors.New("more is held than fits into a ConfigMap: something is wrong with what GitLab answers, see the findings")
	}
	return b.Bytes(), nil
}

func unpack(data []byte, into any) error {
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return err
	}
	return json.NewDecoder(io.LimitReader(z, maxHeld)).Decode(into)
}

// ErrNoSuchHash says that nothing that is held has the hash, for instance because it changed meanwhile.
var ErrNoSuchHash = errors.New("nothing that is held now has this hash: look again with plan --held")
