package ci_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	metafake "k8s.io/client-go/metadata/fake"
	ktesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// board is a Board that runs, and the watch that it has open.
type board struct {
	*ci.Board
	t       *testing.T
	watches chan *watch.FakeWatcher
	now     *watch.FakeWatcher
	log     bytes.Buffer
}

func newBoard(t *testing.T, settle time.Duration) *board {
	t.Helper()
	b := &board{t: t, watches: make(chan *watch.FakeWatcher, 1)}
	b.Board = ci.NewBoard(slog.New(slog.NewTextHandler(&b.log, nil)))
	ci.SettleIn(b.Board, settle)
	client := metafake.NewSimpleMetadataClient(metafake.NewTestScheme())
	client.PrependWatchReactor("secrets", func(a ktesting.Action) (bool, watch.Interface, error) {
		at, _ := a.(ktesting.WatchAction)
		if f := at.GetWatchRestrictions().Fields.String(); f != "metadata.name="+kubename.CISecret || a.GetNamespace() != "" {
			t.Errorf("a watch of %q in %q", f, a.GetNamespace())
		}
		w := watch.NewFake()
		b.watches <- w
		return true, w, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { b.Run(ctx, client) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	b.now = <-b.watches
	return b
}

// tell sends what kube-apiserver would of a Secret.
func (b *board) tell(kind watch.EventType, s *corev1.Secret) {
	m := &metav1.PartialObjectMetadata{ObjectMeta: *s.ObjectMeta.DeepCopy()}
	b.now.Action(kind, runtime.Object(m))
}

// want waits until that is what is known of project 42.
func (b *board) want(what string, ok func(g ci.Given, known bool) bool) {
	b.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		g, known := b.Of("haw-world", 42)
		if ok(g, known) {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("%s: %+v, %t", what, g, known)
		}
	}
}

func TestBoard(t *testing.T) {
	t.Parallel()
	b := newBoard(t, time.Hour)
	x := newBench(t)
	if g, known := b.Of("haw-world", 42); known || g.Delivery != "" {
		t.Error("known before anything was told")
	}
	provision := func(mode rbacsync.Delivery, codes ...string) {
		t.Helper()
		x.now = x.now.Add(10 * time.Minute)
		var found []string
		for _, f := range x.Provision(t.Context(), []ci.Namespace{x.read(project("haw-world", 42, mode))}).Findings {
			found = append(found, f.Code)
		}
		if !slices.Equal(found, codes) {
			t.Fatalf("findings %v, want %v", found, codes)
		}
		b.tell(watch.Modified, x.secret(t, "haw-world"))
	}
	provision(rbacsync.DeliverVariables)
	b.want("delivered", func(g ci.Given, known bool) bool {
		return known && g.Delivery == rbacsync.DeliverVariables && g.Scope == "ICC-K8s" && !g.Half && !g.Other && g.Foreign == nil && g.Written.Equal(x.now) && g.Good.Equal(x.now.Add(10*time.Hour))
	})
	first := x.now

	x.gitlab.fail[42] = errors.New("502")
	x.Cluster.URL = "https://moved.example.com"
	provision(rbacsync.DeliverVariables, "ci_delivery_failed")
	b.want("failed", func(g ci.Given, _ bool) bool { return g.Half && g.Written.After(first) })
	x.gitlab.fail[42] = nil
	provision(rbacsync.DeliverVariables)
	b.want("delivered at last", func(g ci.Given, _ bool) bool { return !g.Half })

	x.clusters.fail = errors.New("502")
	provision(rbacsync.DeliverCertificate, "ci_delivery_failed")
	b.want("an integration failed", func(g ci.Given, _ bool) bool { return g.Half })
	x.clusters.fail = nil
	provision(rbacsync.DeliverCertificate)
	b.want("an integration", func(g ci.Given, _ bool) bool {
		return !g.Half && g.Delivery == rbacsync.DeliverCertificate && !g.Good.IsZero()
	})

	provision(rbacsync.DeliverIDToken)
	b.want("nothing that ends", func(g ci.Given, _ bool) bool {
		return !g.Half && g.Delivery == rbacsync.DeliverIDToken && g.Good.IsZero()
	})

	x.gitlab.foreign[42] = []string{"KUBECONFIG"}
	provision(rbacsync.DeliverIDToken, "ci_foreign_variable")
	b.want("somebody else's", func(g ci.Given, _ bool) bool { return !g.Half && slices.Equal(g.Foreign, []string{"KUBECONFIG"}) })

	s := x.secret(t, "haw-world")
	foreign := s.DeepCopy()
	foreign.Labels = nil
	foreign.Annotations[kubename.AnnotationCIProjects] = `{"42":{"mode":"none"}}`
	b.tell(watch.Modified, foreign)
	b.tell(watch.Modified, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Labels: s.Labels, Annotations: map[string]string{kubename.AnnotationCIProjects: "not JSON"}}})
	b.want("what is not ours tells nothing", func(g ci.Given, _ bool) bool { return g.Delivery == rbacsync.DeliverIDToken })
	if g, known := b.Of("haw-world", 43); !known || g.Delivery != "" {
		t.Errorf("a project that was given nothing: %+v, %t", g, known)
	}
	b.tell(watch.Deleted, s)
	b.want("deleted", func(g ci.Given, known bool) bool { return known && g.Delivery == "" })
}

// TestBoardForgetsWhatWentUnseen: a Secret that was deleted while no watch was open.
func TestBoardForgetsWhatWentUnseen(t *testing.T) {
	t.Parallel()
	b := newBoard(t, 50*time.Millisecond)
	kept := func(ns string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
			Namespace: ns, Labels: map[string]string{kubename.LabelManagedBy: kubename.ManagedBy}, Annotations: map[string]string{kubename.AnnotationCIProjects: `{"42":{"mode":"id-token"}}`},
		}}
	}
	b.tell(watch.Added, kept("haw-world"))
	b.tell(watch.Added, kept("other"))
	b.want("told", func(g ci.Given, _ bool) bool { return g.Delivery != "" })
	b.now.Stop()
	b.now = <-b.watches
	b.tell(watch.Added, kept("other"))
	b.want("gone", func(g ci.Given, known bool) bool { return known && g.Delivery == "" })
	if g, _ := b.Of("other", 42); g.Delivery != rbacsync.DeliverIDToken {
		t.Errorf("%+v", g)
	}
}
