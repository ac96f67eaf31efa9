package store_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"go.uber.org/goleak"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
)

// The tests use a real kube-apiserver, as the integrator's ServiceAccount under its Role and in its cage: a name that
// the Role misses is an error here.
var shared struct {
	once  sync.Once
	cp    *controlplane.Cluster
	own   *kubernetes.Clientset
	admin *kubernetes.Clientset
	err   error
	close []func()
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(thenStop{m}) }

type thenStop struct{ *testing.M }

func (m thenStop) Run() int {
	code := m.M.Run()
	for _, f := range shared.close {
		f()
	}
	if shared.cp != nil {
		if err := shared.cp.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stopping the control plane:", err)
			return 1
		}
	}
	return code
}

func start(ctx context.Context) error {
	var err error
	if shared.cp, err = controlplane.Start(ctx, controlplane.Options{Progress: os.Stderr}); err != nil {
		return err
	}
	if err := deploy.Apply(ctx, shared.cp.AdminConfig()); err != nil {
		return err
	}
	client := func(cfg *rest.Config) (*kubernetes.Clientset, error) {
		h, err := rest.HTTPClientFor(cfg)
		if err != nil {
			return nil, err
		}
		shared.close = append(shared.close, h.CloseIdleConnections)
		return kubernetes.NewForConfigAndClient(cfg, h)
	}
	if shared.admin, err = client(shared.cp.AdminConfig()); err != nil {
		return err
	}
	seconds := int64(3600)
	tr, err := shared.admin.CoreV1().ServiceAccounts(deploy.Namespace).CreateToken(ctx, deploy.ServiceAccount,
		&authnv1.TokenRequest{Spec: authnv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	shared.own, err = client(&rest.Config{Host: shared.cp.URL(), QPS: -1, BearerToken: tr.Status.Token, TLSClientConfig: rest.TLSClientConfig{CAData: shared.cp.CA()}})
	return err
}

// own returns a client of the integrator's ServiceAccount. What the test has stored is deleted when it ends.
func own(t *testing.T) *kubernetes.Clientset {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: needs a real control plane")
	}
	shared.once.Do(func() { shared.err = start(context.Background()) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	t.Cleanup(func() {
		ctx, ours := context.Background(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=gl-k8s-integrator"}
		core, leases := shared.admin.CoreV1(), shared.admin.CoordinationV1().Leases(deploy.Namespace)
		for _, remove := range []func(context.Context, metav1.DeleteOptions, metav1.ListOptions) error{
			core.ConfigMaps(deploy.Namespace).DeleteCollection, core.Secrets(deploy.Namespace).DeleteCollection, leases.DeleteCollection,
		} {
			if err := remove(ctx, metav1.DeleteOptions{}, ours); err != nil {
				t.Error(err)
			}
		}
	})
	return shared.own
}

var quiet = slog.New(slog.DiscardHandler)

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for start := time.Now(); time.Since(start) < 10*time.Second; time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}
