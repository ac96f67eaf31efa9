package app

import (
	"context"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// sampler compares a random sample of each full reading with GitLab's own lists of members, beside the rounds: a
// sample takes seconds, and no revocation waits for it.
type sampler struct {
	check func(ctx context.Context, s *authz.Snapshot) (gitlab.SampleReport, error)
	log   *slog.Logger
	next  chan *authz.Snapshot // the latest Snapshot that is to be sampled

	checked     prometheus.Counter
	differences prometheus.Gauge
	samples     *prometheus.CounterVec

	mu       sync.Mutex
	findings []authz.Finding
}

// newSampler returns nil where samples are switched off.
func newSampler(cfg *config.Config, c *clients, log *slog.Logger, registry prometheus.Registerer) (*sampler, error) {
	if cfg.GitLab.SampleSize < 0 {
		return nil, nil //nolint:nilnil // all methods of a nil sampler do nothing
	}
	// A reader of its own: its requests are limited separately in GitLab and are not the round's.
	reader, err := newReader(cfg, c, log)
	if err != nil {
		return nil, err
	}
	const ns = "gl_k8s_integrator"
	s := &sampler{
		check: func(ctx context.Context, snap *authz.Snapshot) (gitlab.SampleReport, error) {
			return reader.CheckSample(ctx, snap, gitlab.Sample{Size: cfg.GitLab.SampleSize})
		},
		log: log, next: make(chan *authz.Snapshot, 1),
		checked: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: ns, Name: "sampled_sources_total",
			Help: "Groups and projects whose members were compared with GitLab's own list.",
		}),
		differences: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: ns, Name: "sample_differences",
			Help: "People in the last sample to whom GitLab's own lists give another level than this program.",
		}),
		samples: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Name: "samples_total",
			Help: "Samples compared with GitLab's own lists, by result: agrees, differs, failed.",
		}, []string{"result"}),
	}
	if registry != nil {
		registry.MustRegister(s.checked, s.differences, s.samples)
	}
	return s, nil
}

// offer gives a round's Snapshot to run, if it was read as a whole. An older one that still waits is dropped.
func (s *sampler) offer(r syncer.Round) {
	if s == nil || r.Kind != syncer.KindFull || r.Snapshot == nil {
		return
	}
	for {
		select {
		case s.next <- r.Snapshot:
			return
		default:
		}
		select {
		case <-s.next:
		default:
		}
	}
}

// run samples what is offered until ctx ends.
func (s *sampler) run(ctx context.Context) {
	if s == nil {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case snap := <-s.next:
			s.sample(ctx, snap)
		}
	}
}

// sample checks one Snapshot and returns what an administrator should know.
func (s *sampler) sample(ctx context.Context, snap *authz.Snapshot) []authz.Finding {
	if s == nil {
		return nil
	}
	report, err := s.check(ctx, snap)
	if ctx.Err() != nil {
		return nil
	}
	s.checked.Add(float64(len(report.Checked)))
	switch {
	case err != nil:
		s.samples.WithLabelValues("failed").Inc()
		s.log.WarnContext(ctx, "the sample of memberships could not be compared with GitLab's own lists", "error", err)
		return nil
	case len(report.Findings) > 0:
		s.samples.WithLabelValues("differs").Inc()
	default:
		s.samples.WithLabelValues("agrees").Inc()
	}
	s.differences.Set(float64(report.Differences))
	for _, f := range report.Findings {
		s.log.WarnContext(ctx, "GitLab's own list of members says something else", "code", f.Code, "source", f.Source.String(), "finding", f.Text)
	}
	s.mu.Lock()
	s.findings = report.Findings
	s.mu.Unlock()
	return report.Findings
}

// last returns the findings of the last sample.
func (s *sampler) last() []authz.Finding {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.findings
}
