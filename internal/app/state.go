package app

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// state is what the program keeps in its own namespace.
type state struct {
	elector  *store.Elector
	inbox    *store.Inbox
	history  *history
	recent   *recent
	budget   *budget
	reporter *reporter
	waiting  atomic.Pointer[authz.Finding] // why the leader does not begin; nil while it need not wait
}

// wait returns where the leader says what it waits for: in the status, and among the metrics of findings.
func (s *state) wait(m *metrics) func(*authz.Finding) {
	return func(f *authz.Finding) {
		if s.waiting.Swap(f) == nil && f == nil {
			return
		}
		m.waits(f)
		s.reporter.rouse()
	}
}

// waits returns what the leader waits for.
func (s *state) waits() []authz.Finding {
	if f := s.waiting.Load(); f != nil {
		return []authz.Finding{*f}
	}
	return nil
}

func newState(c *clients, log *slog.Logger) *state {
	return &state{
		elector: &store.Elector{Client: c.kube, Namespace: deploy.Namespace, Identity: store.NewIdentity(), Logger: log},
		inbox:   &store.Inbox{Client: c.kube, Watch: c.watch, Namespace: deploy.Namespace, Logger: log, Now: time.Now},
		history: newHistory(c, log),
		recent:  &recent{now: time.Now},
	}
}

// snapshotsOf is where the last Snapshot is kept.
func snapshotsOf(c *clients) store.Snapshots {
	return store.Snapshots{Blob: store.Blob{Client: c.kube, Namespace: deploy.Namespace, Name: store.NameSnapshot}}
}

// options adds to an engine what only `serve` has. tell is called after each round.
func (s *state) options(o *syncer.Options, cfg *config.Config, reader *gitlab.Reader, m *metrics, tell func(syncer.Round)) {
	o.Inbox, o.Apply.May = s.inbox, s.elector.May
	o.People, o.Recent = reader, s.recent.all
	o.Fence = func(ctx context.Context) error { return lookAtFence(ctx, o.Kube, cfg.Authz) }
	s.budget = &budget{requests: reader.Requests, linksAge: reader.LinksAge, limits: gitlab.LimitsPerMinute(), now: time.Now}
	o.OnRound = func(r syncer.Round) {
		counted := r
		counted.Findings = slices.Concat(r.Findings, explainFindings(cfg.Authz.Explain))
		m.round(counted)
		s.history.add(r)
		s.reporter.add(r)
		tell(r)
	}
}

// observe completes what needs the engine itself.
func (s *state) observe(c *clients, cfg *config.Config, syncer *syncer.Syncer, sample *sampler, m *metrics, log *slog.Logger) {
	s.reporter = &reporter{
		kube: c.kube, log: log, mode: cfg.RBACSync.Mode, elector: s.elector, syncer: syncer, requests: s.budget.requests, budget: s.budget,
		sampled: func() []authz.Finding {
			return slices.Concat(s.waits(), explainFindings(cfg.Authz.Explain), sample.last())
		}, secrets: func() error { return hookSecrets(cfg.Listeners.Hooks) }, now: time.Now, wake: make(chan struct{}, 1),
	}
	m.engine(syncer, s.elector, s.budget)
}

// run does what goes on beside the rounds, until ctx is done.
func (s *state) run(ctx context.Context, g *errgroup.Group) {
	for _, f := range []func(context.Context){s.history.run, s.reporter.run, s.budget.run} {
		g.Go(func() error { f(ctx); return nil })
	}
}
