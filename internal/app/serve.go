package app

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/accounts"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/fence"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/metrics"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/sampler"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/status"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// Serve runs the program until ctx ends. GitLab and kube-apiserver may be away when it starts: it says so in the
// log and tries again. When ctx ends the Lease is given back and /readyz is false at once, while the listeners, and what
// their answers are made from, go on for listeners.drainDelay. Everything it started has ended when it returns. /metrics
// shows more too.
func Serve(ctx context.Context, cfg *config.Config, log *slog.Logger, more ...prometheus.Collector) error {
	s, err := newServer(cfg, log, more...)
	if err != nil {
		return err
	}
	return s.run(ctx)
}

// server is the program: what Serve runs.
type server struct {
	cfg     *config.Config
	clients *clients
	log     *slog.Logger
	metrics *metrics.Metrics

	kept     kept
	reader   *gitlab.Reader
	roles    *cluster.RoleReader
	engine   *syncer.Syncer
	sample   *sampler.Sampler
	rounds   *status.Rounds
	budget   *status.Budget
	reporter *status.Reporter
	users    *accounts.Directory
	auth     *authn.GitLab // nil: kube-apiserver judges tokens by itself
}

// newServer makes the parts, each whole and from those before it. It does no network I/O.
func newServer(cfg *config.Config, log *slog.Logger, more ...prometheus.Collector) (*server, error) {
	c, err := connect(cfg)
	if err != nil {
		return nil, err
	}
	m := metrics.New(more...)
	knowledge, err := newKnowledge(cfg)
	if err != nil {
		return nil, err
	}
	sample, err := newSampler(cfg, c.gitlabHTTP, log, m.Registry)
	if err != nil {
		return nil, err
	}
	reader, err := newReader(cfg, c.gitlabHTTP, log)
	if err != nil {
		return nil, err
	}
	roles, err := newRoles(cfg, c)
	if err != nil {
		return nil, err
	}
	own, recent, rounds := newKept(c, log), accounts.NewRecent(time.Now), status.NewRounds()
	engine, err := newEngine(cfg, c, log, serveParts(cfg, c, own, reader, roles, recent, func(r syncer.Round) {
		m.Round(r, explainFindings(cfg.Authz.Explain)...)
		own.history.Add(r)
		rounds.Add(r)
		knowledge.Learn(r.Snapshot)
		sample.Offer(r)
	}))
	if err != nil {
		return nil, err
	}
	users := accounts.New(knowledge, accounts.Options{
		Recent: recent, Published: func() *authz.Snapshot { return published(engine).View.Snapshot },
		StillServed: func(project int64) bool { return published(engine).Jobs[project] != "" },
	})
	var auth *authn.GitLab
	if !cfg.Authn.Disabled {
		if auth, err = newAuthenticator(cfg, c.gitlabHTTP, log, users); err != nil {
			return nil, err
		}
		m.Keys(auth.KeyStatus, time.Now)
	}
	budget := status.NewBudget(reader, gitlab.LimitsPerMinute(), time.Now)
	m.Engine(engine, own.elector, budget)
	return &server{
		cfg: cfg, clients: c, log: log, metrics: m, kept: own, reader: reader, roles: roles, engine: engine, sample: sample,
		rounds: rounds, budget: budget, users: users, auth: auth,
		reporter: status.NewReporter(status.Options{
			Kube: c.kube, Mode: cfg.RBACSync.Mode, Elector: own.elector, Engine: engine, Rounds: rounds, Budget: budget,
			Findings:     func() []authz.Finding { return slices.Concat(explainFindings(cfg.Authz.Explain), sample.Last()) },
			HooksRefused: func() error { return hookSecrets(cfg.Listeners.Hooks) },
			Now:          time.Now, Logger: log,
		}),
	}, nil
}

// kept is what the program keeps in its own namespace, beside what the engine does.
type kept struct {
	elector *store.Elector
	inbox   *store.Inbox
	history *status.History
}

func newKept(c *clients, log *slog.Logger) kept {
	return kept{
		elector: &store.Elector{Client: c.kube, Namespace: deploy.Namespace, Identity: store.NewIdentity(), Logger: log},
		inbox:   &store.Inbox{Client: c.kube, Watch: c.watch, Namespace: deploy.Namespace, Logger: log, Now: time.Now},
		history: status.NewHistory(c.kube, log),
	}
}

// serveParts are the parts of an engine that runs on, and leads only while it has the Lease.
func serveParts(cfg *config.Config, c *clients, own kept, reader *gitlab.Reader, roles *cluster.RoleReader, recent *accounts.Recent, onRound func(syncer.Round)) engineParts {
	return engineParts{
		mode: syncer.Mode(cfg.RBACSync.Mode), reader: reader, roles: roles,
		fence: func(ctx context.Context) error { return fence.CheckRoles(ctx, c.kube, cfg.Authz) },
		may:   own.elector.May, inbox: own.inbox, poller: reader, recent: recent.All, onRound: onRound,
	}
}

// published returns what the engine's last rounds left; nothing before the first has ended.
func published(engine *syncer.Syncer) *syncer.State {
	if st := engine.State(); st != nil {
		return st
	}
	return &syncer.State{}
}

func (s *server) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	ready := func() error { return errors.Join(s.canJudge(), ending(ctx)) }
	servers, err := bind(s.listeners(ready))
	if err != nil {
		return err
	}
	for _, f := range explainFindings(s.cfg.Authz.Explain) {
		s.log.WarnContext(ctx, "refusals depend on one process", "code", f.Code, "finding", f.Text)
	}
	collectSooner()
	defer runtime.KeepAlive(heapFloor())
	serving := serveAll(ctx, g, servers)
	run := func(ctx context.Context, f func(context.Context)) { g.Go(func() error { f(ctx); return nil }) }
	if s.auth != nil {
		run(serving, s.auth.Run)
	}
	run(serving, func(ctx context.Context) { s.roles.Run(ctx, cluster.RolesEvery) })
	run(serving, s.engine.Follow)
	run(ctx, s.sample.Run)
	run(ctx, s.kept.history.Run)
	run(ctx, s.reporter.Run)
	run(ctx, s.budget.Run)
	if s.auth != nil && s.cfg.Authn.Keys.File == "" {
		run(ctx, keysOf(s.cfg, s.clients, s.auth, s.log).Run)
	}
	g.Go(func() error { return s.kept.elector.Run(ctx, s.lead) })
	err = g.Wait()
	s.kept.history.Flush(ctx)
	if !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// canJudge returns nil if tokens can be judged, or are not to be.
func (s *server) canJudge() error {
	if s.auth == nil {
		return nil
	}
	return errors.Join(s.auth.Ready(), s.users.Ready())
}

// lead does what one process alone does: it reads GitLab and writes.
func (s *server) lead(ctx context.Context) error {
	if s.cfg.RBACSync.Mode == config.ModeEnforce {
		err := fence.Await(ctx, s.clients.kube, s.cfg, s.log, func(f *authz.Finding) {
			if s.rounds.Wait(f) {
				s.metrics.Waits(f)
			}
		})
		if err != nil {
			return err
		}
	}
	return s.engine.Run(ctx)
}

// listeners describes the ports.
func (s *server) listeners(ready func() error) []httpserver.Options {
	l := s.cfg.Listeners
	p := ports{log: s.log, drain: l.DrainDelay.Duration, metrics: s.metrics}
	routes := explainRoutes(s.cfg, view(s.engine, s.roles), s.log)
	if s.auth != nil {
		routes = append(routes, reviewRoute(s.cfg, s.auth, s.log, s.metrics))
	}
	var all []httpserver.Options
	if len(routes) > 0 {
		all = append(all, p.webhooks(l.Webhooks, routes...))
	}
	if l.Hooks.Address != "" {
		all = append(all, p.hooks(l.Hooks, newHook(l.Hooks, s.log, s.kept.inbox, s.reader.Deleted, s.metrics)))
	}
	if a := l.Metrics.Address; a != "" {
		all = append(all, p.health(a, ready))
	}
	return all
}

// serveAll runs the listeners, which go on for a while after ctx has ended. The context that it returns ends with the last.
func serveAll(ctx context.Context, g *errgroup.Group, servers []*httpserver.Server) context.Context {
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	var open sync.WaitGroup
	for _, s := range servers {
		open.Add(1)
		g.Go(func() error { defer open.Done(); return s.Run(ctx) })
	}
	g.Go(func() error { open.Wait(); stop(); return nil })
	return serving
}

// ending is why a process that ends is not ready.
func ending(ctx context.Context) error {
	if ctx.Err() != nil {
		return errors.New("the process is ending")
	}
	return nil
}
