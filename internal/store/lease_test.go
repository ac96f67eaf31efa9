package store_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
)

// TestNoNamespaceYet: a start before the manifests says once what to do, not each second.
func TestNoNamespaceYet(t *testing.T) {
	kube := fake.NewClientset()
	kube.PrependReactor("create", "leases", func(ktesting.Action) (bool, runtime.Object, error) { // as kube-apiserver answers
		return true, nil, apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, deploy.Namespace)
	})
	var log bytes.Buffer
	e := &store.Elector{
		Client: kube, Namespace: deploy.Namespace, Identity: "a", Every: time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tries := 0
	kube.PrependReactor("get", "leases", func(ktesting.Action) (bool, runtime.Object, error) {
		if tries++; tries == 5 {
			cancel()
		}
		return true, (*coordinationv1.Lease)(nil), apierrors.NewNotFound(schema.GroupResource{Resource: "leases"}, store.NameLease)
	})
	if err := e.Run(ctx, func(context.Context) error { return errors.New("it leads") }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "apply deploy/manifests") {
		t.Errorf("after %d tries the log is\n%s", tries, got)
	}
}

// TestALeaseIsGivenBackAfterABrokenRenewal: the end comes while the Lease is being renewed; kube-apiserver has done it, and
// the answer is lost.
func TestALeaseIsGivenBackAfterABrokenRenewal(t *testing.T) {
	kube := fake.NewClientset()
	ctx, cancel := context.WithCancel(t.Context())
	version := 0
	kube.PrependReactor("*", "leases", func(a ktesting.Action) (bool, runtime.Object, error) { // the fake knows no conflicts
		if w, ok := a.(ktesting.UpdateAction); ok && a.GetVerb() == "update" {
			l := w.GetObject().(*coordinationv1.Lease)
			if l.ResourceVersion != strconv.Itoa(version) {
				return true, nil, apierrors.NewConflict(schema.GroupResource{Resource: "leases"}, l.Name, errors.New("changed"))
			}
			version++
			l.ResourceVersion = strconv.Itoa(version)
			if version == 1 {
				cancel()
				_ = kube.Tracker().Update(a.GetResource(), l, l.Namespace)
				return true, nil, context.Canceled
			}
		}
		if w, ok := a.(ktesting.CreateAction); ok && a.GetVerb() == "create" {
			w.GetObject().(*coordinationv1.Lease).ResourceVersion = "0"
		}
		return false, nil, nil
	})
	e := &store.Elector{Client: kube, Namespace: deploy.Namespace, Identity: "a", Every: time.Millisecond, Logger: slog.New(slog.DiscardHandler)}
	if err := e.Run(ctx, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	lease, err := kube.CoordinationV1().Leases(deploy.Namespace).Get(t.Context(), store.NameLease, metav1.GetOptions{})
	if err != nil || lease.Spec.HolderIdentity != nil {
		t.Errorf("the Lease is still held: %v, %v", lease, err)
	}
}

// TestALeaseOfAGhostIsTaken: a Lease that nobody renews is free after our own term, whatever term and time of renewal it
// says.
func TestALeaseOfAGhostIsTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hour, ghost, future := int32(3600), "ghost", metav1.NewMicroTime(time.Now().Add(24*time.Hour))
		kube := fake.NewClientset(&coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: store.NameLease, Namespace: deploy.Namespace},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &ghost, LeaseDurationSeconds: &hour, RenewTime: &future, AcquireTime: &future},
		})
		e := &store.Elector{Client: kube, Namespace: deploy.Namespace, Identity: "a", Logger: slog.New(slog.DiscardHandler)}
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		led := errors.New("it leads")
		if err := e.Run(ctx, func(context.Context) error { return led }); !errors.Is(err, led) {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 7*time.Second || took > 10*time.Second {
			t.Errorf("led after %v, want its own term of 8 s", took)
		}
	})
}

// TestARestoredClusterIsReadAgain: the Lease is older than what this process wrote last, though it names this process: whatever it
// knows of the cluster is of another past, so it begins anew. A renewal whose answer was lost is no reason.
func TestARestoredClusterIsReadAgain(t *testing.T) {
	for _, tc := range []struct {
		name    string
		restore func(l *coordinationv1.Lease) *coordinationv1.Lease // nil: the Lease is not in the backup
		begins  int32
	}{
		{"the backup has the Lease", func(l *coordinationv1.Lease) *coordinationv1.Lease { l.ResourceVersion = "40"; return l }, 2},
		{"the backup has none", func(*coordinationv1.Lease) *coordinationv1.Lease { return nil }, 2},
		{"an answer was lost", func(l *coordinationv1.Lease) *coordinationv1.Lease { l.ResourceVersion = "1000"; return l }, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				kube := fake.NewClientset()
				version, writes := 100, 0
				next := func(l *coordinationv1.Lease) { version++; l.ResourceVersion = strconv.Itoa(version) }
				leases := schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}
				kube.PrependReactor("*", "leases", func(a ktesting.Action) (bool, runtime.Object, error) { // the fake knows no versions
					switch a.GetVerb() {
					case "update":
						l := a.(ktesting.UpdateAction).GetObject().(*coordinationv1.Lease)
						if writes++; writes == 3 {
							version = 40
							stored := tc.restore(l.DeepCopy())
							if stored == nil {
								_ = kube.Tracker().Delete(leases, l.Namespace, l.Name)
							} else {
								_ = kube.Tracker().Update(leases, stored, l.Namespace)
								version, _ = strconv.Atoi(stored.ResourceVersion)
							}
							return true, nil, apierrors.NewConflict(schema.GroupResource{Resource: "leases"}, l.Name, errors.New("changed"))
						}
						next(l)
					case "create":
						next(a.(ktesting.CreateAction).GetObject().(*coordinationv1.Lease))
					}
					return false, nil, nil
				})
				e := &store.Elector{Client: kube, Namespace: deploy.Namespace, Identity: "a", Logger: slog.New(slog.DiscardHandler)}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				var begins atomic.Int32
				_ = e.Run(ctx, func(ctx context.Context) error { begins.Add(1); <-ctx.Done(); return ctx.Err() })
				if n := begins.Load(); n != tc.begins {
					t.Errorf("it began %d times, want %d", n, tc.begins)
				}
			})
		})
	}
}
