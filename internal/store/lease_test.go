package store_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
