package app

import (
	"context"
	"io"

	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeerror"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/status"
)

// Status prints what the leader wrote down, who leads, and what arrived last.
func Status(ctx context.Context, cfg *config.Config, out io.Writer) error {
	return showStatus(ctx, cfg, out, status.Show)
}

// StatusJSON prints the same for programs.
func StatusJSON(ctx context.Context, cfg *config.Config, out io.Writer) error {
	return showStatus(ctx, cfg, out, status.ShowJSON)
}

func showStatus(ctx context.Context, cfg *config.Config, out io.Writer, show func(context.Context, kubernetes.Interface, io.Writer) error) error {
	c, err := connect(cfg)
	if err != nil {
		return err
	}
	return kubeerror.Explain(show(ctx, c.kube, out))
}
