package store_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
)

// TestAnOutageOfTheAPIServerLosesNoHook: a short one is waited for; in a longer one each call fails within GitLab's 10 s, and
// what it was about is stored with the next one that succeeds.
func TestAnOutageOfTheAPIServerLosesNoHook(t *testing.T) {
	const most = 9 * time.Second
	for _, tt := range []struct {
		name   string
		outage time.Duration
		err    error
		taken  bool // also what comes in the outage
	}{
		{"a restart", 2 * time.Second, errors.New("connection refused"), true},
		{"a longer one", 10 * time.Second, errors.New("connection refused"), false},
		{"one that hangs", 10 * time.Second, nil, false},
		{"a missing right", 10 * time.Second, apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, store.NameInbox, nil), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			kube := fake.NewClientset()
			begun := time.Now()
			kube.PrependReactor("patch", "configmaps", func(kubetesting.Action) (bool, runtime.Object, error) {
				switch {
				case time.Since(begun) >= tt.outage:
					return false, nil, nil
				case tt.err == nil: // as a client whose request has the time of a write
					time.Sleep(4 * time.Second)
					return true, nil, context.DeadlineExceeded
				}
				return true, nil, tt.err
			})
			b := &store.Inbox{Client: kube, Watch: kube, Namespace: deploy.Namespace, Logger: quiet, Now: time.Now}
			var wg sync.WaitGroup
			var want []string
			put := func(id int64, taken bool) {
				want = append(want, authz.ProjectID(id).Label())
				wg.Go(func() {
					at := time.Now()
					if err := b.Put(t.Context(), []authz.SourceID{authz.ProjectID(id)}, "hook"); (err == nil) != taken {
						t.Errorf("project %d: %v, %v after the beginning", id, err, time.Since(begun))
					}
					if took := time.Since(at); took > most {
						t.Errorf("project %d was answered after %v", id, took)
					}
				})
			}
			for id := range int64(5) {
				put(id+1, tt.taken)
				time.Sleep(300 * time.Millisecond)
			}
			wg.Wait()
			time.Sleep(time.Until(begun.Add(tt.outage)))
			put(100, true)
			wg.Wait()
			cm, err := kube.CoreV1().ConfigMaps(deploy.Namespace).Get(t.Context(), store.NameInbox, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, key := range want {
				if cm.Data[key] == "" {
					t.Errorf("%s is lost", key)
				}
			}
			put(101, true)
			wg.Wait()
			n := 0
			for _, a := range kube.Actions() {
				if p, ok := a.(kubetesting.PatchAction); ok {
					n = len(p.GetPatch())
				}
			}
			if n > 200 {
				t.Errorf("the last write has %d bytes: it writes again what is stored", n)
			}
		})
	}
}

// TestWhatComesInHereIsOfferedBeforeItIsStored: a process that follows begins with its own hooks while they are being stored. It
// gets nothing twice, loses nothing, and what was dealt with leaves the inbox, also when that is faster than the write.
func TestWhatComesInHereIsOfferedBeforeItIsStored(t *testing.T) {
	kube := fake.NewClientset()
	var gate sync.RWMutex // who holds it keeps the inbox from being written
	kube.PrependReactor("patch", "configmaps", func(a kubetesting.Action) (bool, runtime.Object, error) {
		if a.(kubetesting.PatchAction).GetPatchType() == types.MergePatchType {
			gate.RLock()
			defer gate.RUnlock()
		}
		return false, nil, nil
	})
	b := &store.Inbox{Client: kube, Watch: kube, Namespace: deploy.Namespace, Logger: quiet, Now: time.Now}
	taken, offered := &tray{}, &tray{}
	var full atomic.Bool
	offer := func(in []intake.Ticket) bool {
		if full.Load() {
			return false
		}
		offered.take(in)
		return true
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { b.Follow(ctx, taken.take, offer) })
	defer wg.Wait()
	defer stop()
	put := func(id int64) {
		if err := b.Put(t.Context(), []authz.SourceID{authz.ProjectID(id)}, "hook"); err != nil {
			t.Error(err)
		}
	}
	remove := func() {
		if err := b.Remove(t.Context(), offered.all()); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "one that is offered", func() bool { put(1); return len(offered.all()) > 0 })
	for round := range int64(20) {
		before := len(offered.all())
		gate.Lock() // the batch that is being written, and what gathers meanwhile
		var puts sync.WaitGroup
		for id := range int64(3) {
			puts.Go(func() { put(10 + id + round%2) })
		}
		eventually(t, "all three offered while none is stored", func() bool { return len(offered.all()) == before+3 })
		puts.Go(remove)
		time.Sleep(time.Duration(round%4) * 20 * time.Millisecond)
		gate.Unlock()
		puts.Wait()
		remove()
		cm, err := kube.CoreV1().ConfigMaps(deploy.Namespace).Get(t.Context(), store.NameInbox, metav1.GetOptions{})
		if err != nil || len(cm.Data) != 0 {
			t.Fatalf("round %d, after all was dealt with: %v, %v", round, cm.Data, err)
		}
	}
	// What is dealt with at once is answered at once, and never written.
	kube.ClearActions()
	var early sync.WaitGroup
	begun := time.Now()
	early.Go(func() { put(400) })
	eventually(t, "it is offered", func() bool { return slices.Contains(keys(offered.all()), authz.ProjectID(400).Label()) })
	if err := b.Remove(t.Context(), offered.all()[len(offered.all())-1:]); err != nil {
		t.Error(err)
	}
	early.Wait()
	if n := len(kube.Actions()); n > 0 && time.Since(begun) < 30*time.Millisecond {
		t.Errorf("%d requests for what was dealt with at once", n)
	}

	full.Store(true)
	put(500)
	eventually(t, "what there was no room for", func() bool {
		return slices.Contains(keys(taken.all()), authz.ProjectID(500).Label())
	})
	for _, late := range taken.all() {
		if slices.ContainsFunc(offered.all(), func(o intake.Ticket) bool { return o.Key == late.Key && o.Value == late.Value }) {
			t.Errorf("%s was handed over twice", late.Key)
		}
	}
}
