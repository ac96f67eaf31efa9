package store_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
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
