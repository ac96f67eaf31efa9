package store_test

import (
	"bytes"
	"context"
	"io"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
)

// changes are what somebody may do to an object that is ours, one of Secrets and ConfigMaps alike.
func changes(t *testing.T, secrets bool, name string) map[string]func() {
	t.Helper()
	ctx := t.Context()
	s, m := shared.admin.CoreV1().Secrets(deploy.Namespace), shared.admin.CoreV1().ConfigMaps(deploy.Namespace)
	secret := func(edit func(*corev1.Secret)) func() {
		return func() {
			o, err := s.Get(ctx, name, metav1.GetOptions{})
			if err == nil {
				edit(o)
				_, err = s.Update(ctx, o, metav1.UpdateOptions{})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if !secrets {
		return map[string]func(){
			"deleted": func() { _ = m.Delete(ctx, name, metav1.DeleteOptions{}) },
			"immutable": func() {
				o, err := m.Get(ctx, name, metav1.GetOptions{})
				if err == nil {
					o.Immutable = new(true)
					_, err = m.Update(ctx, o, metav1.UpdateOptions{})
				}
				if err != nil {
					t.Fatal(err)
				}
			},
		}
	}
	return map[string]func(){
		"deleted": func() { _ = s.Delete(ctx, name, metav1.DeleteOptions{}) },
		"emptied": secret(func(o *corev1.Secret) { o.Data = nil }),
		"changed": secret(func(o *corev1.Secret) {
			for k, v := range o.Data {
				if k == "content.gz" {
					v = bytes.Clone(v)
					v[len(v)/2] ^= 1
					o.Data[k] = v
				}
			}
		}),
		"another description": secret(func(o *corev1.Secret) { o.Data["head"] = []byte("{}") }),
		"immutable":           secret(func(o *corev1.Secret) { o.Data["content.gz"], o.Immutable = []byte("x"), new(true) }),
		"of another type": func() {
			o, err := s.Get(ctx, name, metav1.GetOptions{})
			if err == nil {
				err = s.Delete(ctx, name, metav1.DeleteOptions{})
			}
			if err == nil {
				_, err = s.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: o.Labels}, Type: "example.com/other", Data: o.Data}, metav1.CreateOptions{})
			}
			if err == nil {
				secret(func(o *corev1.Secret) { o.Data["content.gz"] = []byte("x") })()
			}
			if err != nil {
				t.Fatal(err)
			}
		},
	}
}

// TestABlobIsMadeWholeAgain: whatever somebody did to a Secret of it, the next Save stores the content again, also the same one.
func TestABlobIsMadeWholeAgain(t *testing.T) {
	kube, ctx := own(t), t.Context()
	b := store.Blob{Client: kube, Namespace: deploy.Namespace, Name: store.NameHistory}
	for what, content := range map[string][]byte{"small": noise(1, 100), "in parts": noise(2, 2<<20)} {
		save := func() error {
			return b.Save(ctx, nil, func(w io.Writer) error { _, err := w.Write(content); return err })
		}
		for _, name := range []string{store.NameHistory, store.NameHistory + "-a1"} {
			if what == "small" && name != store.NameHistory {
				continue
			}
			edits := changes(t, true, name)
			for _, how := range slices.Sorted(maps.Keys(edits)) {
				_ = shared.admin.CoreV1().Secrets(deploy.Namespace).Delete(ctx, store.NameHistory, metav1.DeleteOptions{})
				if err := save(); err != nil {
					t.Fatal(err)
				}
				edits[how]()
				if err := save(); err != nil {
					t.Errorf("%s, %s %s: %v", what, name, how, err)
				}
				var got []byte
				_, _, err := b.Load(ctx, "", func(r io.Reader) (err error) { got, err = io.ReadAll(r); return err })
				if err != nil || !bytes.Equal(got, content) {
					t.Errorf("%s, %s %s: %d bytes come back, %v", what, name, how, len(got), err)
				}
			}
		}
	}
}

// TestTheInboxIsMadeAnew: hooks are stored whatever somebody did to it, and what is dealt with goes.
func TestTheInboxIsMadeAnew(t *testing.T) {
	kube, ctx := own(t), t.Context()
	b := &store.Inbox{Client: kube, Watch: kube, Namespace: deploy.Namespace, Logger: quiet, Now: time.Now}
	put := func(id int64) {
		t.Helper()
		if err := b.Put(ctx, []authz.SourceID{authz.GroupID(id)}, "hook"); err != nil {
			t.Error(err)
		}
	}
	stored := func() map[string]string {
		cm, err := shared.admin.CoreV1().ConfigMaps(deploy.Namespace).Get(ctx, store.NameInbox, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return cm.Data
	}
	for how, change := range changes(t, false, store.NameInbox) {
		put(1)
		change()
		put(2)
		if _, ok := stored()["group-2"]; !ok {
			t.Errorf("%s: the inbox has %v", how, stored())
		}
	}
	put(3)
	tickets := follow(t, b)
	eventually(t, "the tickets arrive", func() bool { return len(tickets.all()) >= 2 })
	changes(t, false, store.NameInbox)["immutable"]()
	if err := b.Remove(ctx, tickets.all()); err != nil || len(stored()) > 0 {
		t.Errorf("of an immutable one: %v is left, %v", stored(), err)
	}

	// What is none of our entries asks for a full round, and goes as the others do.
	cm, err := shared.admin.CoreV1().ConfigMaps(deploy.Namespace).Get(ctx, store.NameInbox, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cm.Data = map[string]string{"any_thing": "", "group-x": "no date"}
	if _, err := shared.admin.CoreV1().ConfigMaps(deploy.Namespace).Update(ctx, cm, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	odd := func() (out []intake.Ticket) {
		for _, x := range tickets.all() {
			if (x.Key == "any_thing" || x.Key == "group-x") && len(x.Changed) == 0 {
				out = append(out, x)
			}
		}
		return out
	}
	eventually(t, "they arrive", func() bool { return len(odd()) == 2 })
	for range 2 {
		if err := b.Remove(ctx, append(odd(), odd()...)); err != nil || len(stored()) > 0 {
			t.Errorf("%v is left, %v", stored(), err)
		}
	}
}

// TestADeletedLeaseChangesNoLeader: who leads makes it anew, and nobody else takes it meanwhile.
func TestADeletedLeaseChangesNoLeader(t *testing.T) {
	kube := own(t)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{}, 2)
	var led [2]atomic.Int64
	run := func(i int) *store.Elector {
		e := &store.Elector{Client: kube, Namespace: deploy.Namespace, Identity: string(rune('a' + i)), Logger: quiet}
		go func() {
			_ = e.Run(ctx, func(ctx context.Context) error { led[i].Add(1); <-ctx.Done(); return nil })
			ended <- struct{}{}
		}()
		return e
	}
	a := run(0)
	eventually(t, "a leads", func() bool { return a.May() == nil })
	b := run(1)
	eventually(t, "b knows that a leads", func() bool { leader, _ := b.Leader(); return leader == "a" })
	leases := shared.admin.CoordinationV1().Leases(deploy.Namespace)
	for range 5 {
		if err := leases.Delete(ctx, store.NameLease, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the Lease is there again", func() bool { _, err := leases.Get(ctx, store.NameLease, metav1.GetOptions{}); return err == nil })
		if a.May() != nil || b.May() == nil {
			t.Errorf("after the deletion a %v, b %v", a.May(), b.May())
		}
	}
	stop()
	<-ended
	<-ended
	if led[0].Load() != 1 || led[1].Load() != 0 {
		t.Errorf("a led %d times, b %d times", led[0].Load(), led[1].Load())
	}
}
