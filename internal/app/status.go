package app

import (
	"context"
	"io"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeerror"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/status"
)

// Status prints what the leader wrote down, and who leads.
func Status(ctx context.Context, cfg *config.Config, out io.Writer) error {
	c, err := connect(cfg)
	if err != nil {
		return err
	}
	return kubeerror.Explain(status.Show(ctx, c.kube, out))
}

// History prints the last changes of one namespace, or how many there are of each.
func History(ctx context.Context, cfg *config.Config, namespace string, out io.Writer) error {
	c, err := connect(cfg)
	if err != nil {
		return err
	}
	return kubeerror.Explain(status.ShowHistory(ctx, c.kube, namespace, out))
}
