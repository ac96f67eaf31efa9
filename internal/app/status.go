package app

import (
	"context"
	"io"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeerror"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/status"
)

// Status prints what the leader wrote down, who leads, and what arrived last; as JSON for programs.
func Status(ctx context.Context, cfg *config.Config, asJSON bool, out io.Writer) error {
	c, err := connect(cfg)
	if err != nil {
		return err
	}
	return kubeerror.Explain(status.Show(ctx, c.kube, asJSON, out))
}

// History prints the last changes of one namespace, or how many there are of each.
func History(ctx context.Context, cfg *config.Config, namespace string, out io.Writer) error {
	c, err := connect(cfg)
	if err != nil {
		return err
	}
	return kubeerror.Explain(status.ShowHistory(ctx, c.kube, namespace, out))
}
