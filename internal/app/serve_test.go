package app

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes/fake"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/accounts"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/fence"
)

// TestServeWatchesTheFence: the engine of serve is told when the fence is gone.
func TestServeWatchesTheFence(t *testing.T) {
	c, log := &clients{kube: fake.NewClientset()}, slog.New(slog.DiscardHandler)
	p := serveParts(&config.Config{}, c, newKept(c, nil, log), nil, nil, accounts.NewRecent(time.Now), nil)
	if err := p.fence(t.Context()); !errors.Is(err, fence.ErrMissing) {
		t.Errorf("without a fence: %v", err)
	}
}
