package app

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/sampler"
)

// newSampler returns nil where samples are switched off: all methods of a nil Sampler do nothing.
func newSampler(cfg *config.Config, client *http.Client, log *slog.Logger, registry prometheus.Registerer) (*sampler.Sampler, error) {
	if cfg.GitLab.SampleSize < 0 {
		return nil, nil //nolint:nilnil // see above
	}
	// A reader of its own: its requests are limited separately in GitLab and are not the round's.
	reader, err := newReader(cfg, client, log)
	if err != nil {
		return nil, err
	}
	return sampler.New(func(ctx context.Context, snap *authz.Snapshot) (gitlab.SampleReport, error) {
		return reader.CheckSample(ctx, snap, gitlab.Sample{Size: cfg.GitLab.SampleSize})
	}, log, registry), nil
}
