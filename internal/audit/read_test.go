package audit

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	kubetesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// TestAFailedReadingIsNoDamage: whichever request fails while the history is read, also just after something seemed to be missing,
// nothing of it is lost, for good or for the time being: it is read or there is an error, and then it is there again.
func TestAFailedReadingIsNoDamage(t *testing.T) {
	t.Parallel()
	secrets := corev1.Resource("secrets")
	failures := map[string]error{
		"timeout": errors.New("context deadline exceeded"), "500": apierrors.NewInternalError(errors.New("etcd")), "forbidden": apierrors.NewForbidden(secrets, "x", nil),
	}
	w, kube := newWorld(5), newCluster()
	x := w.writer(kube, limits)
	x.ledger.openRecords = 4
	w.save(t, x, w.pass(syncer.KindFull, "start", nil))
	for n := range int64(9) {
		w.save(t, x, w.pass(syncer.KindTargeted, "hook", rbacsync.Scope{"haw": true}, flips{"haw", "edit", 1 + n%5}))
	}
	half := w.now
	state := w.text("haw")
	before, err := NewReader(kube).Namespace(t.Context(), "haw", time.Time{}, time.Time{})
	if err != nil || len(before) != 9 {
		t.Fatalf("%+v, %v", before, err)
	}
	again := copies(t, w, kube)
	failed := 0
	for missing := range 5 { // the GET that finds nothing, for a moment; 0: none
		for fails := 1; fails < 12; fails++ {
			for name, failure := range failures {
				w, kube := again()
				gets, hit := 0, false
				kube.PrependReactor("get", "secrets", func(a kubetesting.Action) (bool, runtime.Object, error) {
					gets++
					switch get := a.(kubetesting.GetAction).GetName(); {
					case gets == fails:
						hit = true
						return true, nil, failure
					case gets == missing && get == slotName(0):
						return true, nil, apierrors.NewNotFound(secrets, get)
					}
					return false, nil, nil
				})
				x := w.writer(kube, limits) // the next leader
				x.Take(w.pass(syncer.KindTargeted, "hook", rbacsync.Scope{"haw": true}, flips{"haw", "view", 1}))
				if err := x.save(t.Context()); (err != nil) != hit {
					t.Fatalf("%s at %d, missing at %d: %v", name, fails, missing, err)
				}
				if hit {
					failed++
				}
				kube.ReactionChain = kube.ReactionChain[1:]
				w.save(t, x)
				r := NewReader(kube)
				after, err := r.Namespace(t.Context(), "haw", time.Time{}, time.Time{})
				m, atErr := r.At(t.Context(), "haw", half)
				if err != nil || atErr != nil || len(after) != 10 || !slices.Equal(after[:9], before) || after[9].Cause != "hook" || !m.Known || momentText(m) != state {
					t.Fatalf("%s at %d, missing at %d: %d entries, %v; at: %s, want %s, %v", name, fails, missing, len(after), err, momentText(m), state, atErr)
				}
			}
		}
	}
	if failed < 50 {
		t.Errorf("%d failures: the test looks at too little", failed)
	}
}

// TestAReaderWaitsNoLongerThanItMay: who comes while another one reads, and kube-apiserver hangs, waits for a glance at most, and no
// longer than their context lasts. All of them hold slots of those who want something else.
func TestAReaderWaitsNoLongerThanItMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kube := newCluster()
		answer := make(chan struct{})
		kube.PrependReactor("get", "secrets", func(kubetesting.Action) (bool, runtime.Object, error) {
			<-answer
			return false, nil, nil
		})
		r := NewReader(kube)
		var all sync.WaitGroup
		all.Go(func() { _, _ = r.User(t.Context(), 1, time.Time{}, time.Time{}) })
		synctest.Wait()
		waits := func(ctx context.Context, want error, most time.Duration) {
			begun := time.Now()
			if _, err := r.User(ctx, 1, time.Time{}, time.Time{}); !errors.Is(err, want) || time.Since(begun) != most {
				t.Errorf("%v after %s, want %v after %s", err, time.Since(begun), want, most)
			}
		}
		gone, leave := context.WithCancel(t.Context())
		leave()
		waits(gone, context.Canceled, 0)
		var crowd sync.WaitGroup
		for range 30 {
			crowd.Go(func() { waits(t.Context(), ErrBusy, time.Second) })
		}
		crowd.Wait()
		close(answer)
		all.Wait()
		if _, err := r.User(t.Context(), 1, time.Time{}, time.Time{}); err != nil {
			t.Errorf("later: %v", err)
		}
	})
}
