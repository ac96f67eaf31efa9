package app

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/accounts"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/audit"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/expiry"
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
	return s.run(ctx, nil)
}

// server is the program: what Serve runs.
type server struct {
	cfg     *config.Config // of the start, for what lives as long as the process
	clients *clients
	log     *slog.Logger
	metrics *metrics.Metrics

	kept     kept
	recent   *accounts.Recent
	reader   *gitlab.Reader
	sample   *sampler.Sampler
	rounds   *status.Rounds
	budget   *status.Budget
	reporter *status.Reporter
	watch    *status.Watch
	tokens   *expiry.Tokens
	web      *webParts            // nil: there is no port for people
	bound    []*httpserver.Server // before anything is served; nil: no port is bound yet

	now      atomic.Pointer[generation]    // newServer sets it: what was made before only asks it later
	swapping sync.Mutex                    // held while now changes
	refused  atomic.Pointer[authz.Finding] // why the configuration file is not in use; nil: it is
}

// newServer makes the parts, each whole and from those before it. It does no network I/O.
func newServer(cfg *config.Config, log *slog.Logger, more ...prometheus.Collector) (*server, error) {
	c, err := connect(cfg)
	if err != nil {
		return nil, err
	}
	s := &server{
		cfg: cfg, clients: c, log: log, metrics: metrics.New(more...), recent: accounts.NewRecent(time.Now), rounds: status.NewRounds(),
		watch: status.NewWatch(c.kube, time.Now, log),
	}
	s.kept = newKept(c, func() audit.Limits { return historyLimits(s.now.Load().cfg) }, log)
	if s.sample, err = newSampler(cfg, c.gitlabHTTP, log, s.metrics.Registry); err != nil {
		return nil, err
	}
	if s.reader, err = newReader(cfg, c.gitlabHTTP, log); err != nil {
		return nil, err
	}
	first, err := s.newGeneration(cfg, nil, true)
	if err != nil {
		return nil, err
	}
	s.now.Store(first)
	s.metrics.ConfigTaken(time.Now())
	s.budget = status.NewBudget(s.reader, gitlab.LimitsPerMinute(), time.Now)
	if !cfg.Authn.Disabled {
		s.metrics.Keys(func() authn.KeyStatus { return s.now.Load().auth.KeyStatus() }, time.Now)
	}
	s.metrics.Engine(s.Staleness, s.kept.elector, s.budget)
	s.metrics.Activity(s.watch.Last)
	s.reporter = status.NewReporter(status.Options{
		Kube: c.kube, Mode: func() string { return s.now.Load().cfg.RBACSync.Mode }, Elector: s.kept.elector, Engine: s, Rounds: s.rounds, Budget: s.budget,
		Findings: func() []authz.Finding { return slices.Concat(s.findings(), s.kept.history.Findings(), s.sample.Last()) },
		NoLogins: cfg.Authn.Disabled, NoHooks: cfg.Listeners.Hooks.Address == "",
		HooksRefused: func() error { return hookSecrets(cfg.Listeners.Hooks) },
		Now:          time.Now, Logger: log,
	})
	if s.web, err = s.newWebParts(); err != nil {
		return nil, err
	}
	if s.tokens, err = newTokens(cfg, c, s.reader, log); err != nil {
		return nil, err
	}
	s.metrics.Configured(func() map[string]time.Duration {
		now := s.now.Load().cfg
		return map[string]time.Duration{"rbacsync.interval": now.RBACSync.Interval.Duration, "authn.keyMaxAge": now.Authn.KeyMaxAge.Duration}
	})
	return s, nil
}

// kept is what the program keeps in its own namespace, beside what the engine does.
type kept struct {
	elector *store.Elector
	inbox   *store.Inbox
	history *audit.Writer
}

func newKept(c *clients, limits func() audit.Limits, log *slog.Logger) kept {
	k := kept{
		elector: &store.Elector{
			Client: c.kube, Namespace: deploy.Namespace, Identity: store.NewIdentity(), Logger: log,
			Ready: func(ctx context.Context) error { return store.Known(ctx, c.kube, deploy.Namespace) },
		},
		inbox: &store.Inbox{Client: c.kube, Watch: c.watch, Namespace: deploy.Namespace, Logger: log, Now: time.Now},
	}
	k.history = audit.NewWriter(audit.Options{Kube: c.kube, Limits: limits, May: k.elector.May, Now: time.Now, Log: log})
	return k
}

// serveParts are the parts of an engine that runs on, and leads only while it has the Lease.
func serveParts(cfg *config.Config, c *clients, own kept, reader *gitlab.Reader, roles *cluster.RoleReader, recent *accounts.Recent, onRound func(syncer.Round)) engineParts {
	return engineParts{
		mode: syncer.Mode(cfg.RBACSync.Mode), reader: reader, roles: roles,
		fence: func(ctx context.Context) error { return fence.CheckRoles(ctx, c.kube, cfg.Authz) },
		may:   own.elector.May, inbox: own.inbox, poller: reader, recent: recent.All, onRound: onRound, written: own.history.Take,
	}
}

// run runs the parts until ctx ends; reload, optional, beside them. Serving is the context of what lives as long as the
// listeners do.
func (s *server) run(ctx context.Context, reload func(ctx, serving context.Context)) error {
	g, ctx := errgroup.WithContext(ctx)
	ready := func() error { return errors.Join(s.canJudge(), ending(ctx)) }
	servers, err := bind(s.listeners(ready))
	if err != nil {
		return err
	}
	s.bound = servers
	s.metrics.Ends(s.ends)
	for _, f := range explainFindings(s.cfg.Authz.Explain) {
		s.log.WarnContext(ctx, "refusals depend on one process", "code", f.Code, "finding", f.Text)
	}
	collectSooner()
	defer runtime.KeepAlive(heapFloor())
	serving := serveAll(ctx, g, servers)
	s.begin(serving, s.now.Load(), nil)
	run := func(ctx context.Context, f func(context.Context)) { g.Go(func() error { f(ctx); return nil }) }
	run(ctx, s.sample.Run)
	run(ctx, s.kept.history.Run)
	run(ctx, s.reporter.Run)
	run(ctx, s.watch.Run)
	run(ctx, s.budget.Run)
	run(ctx, s.tokens.Run)
	if !s.cfg.Authn.Disabled && s.cfg.Authn.Keys.File == "" {
		run(ctx, keysOf(s.cfg, s.clients, s, s.log).Run)
	}
	if s.web != nil {
		run(ctx, func(ctx context.Context) { s.web.people.run(ctx, s) })
	}
	if reload != nil {
		run(ctx, func(ctx context.Context) { reload(ctx, serving) })
	}
	g.Go(func() error { return s.kept.elector.Run(ctx, s.lead) })
	err = g.Wait()
	last := s.now.Load() // serving has ended
	last.running.end()
	last.core.running.end()
	if !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// ends returns when tokens end, and certificates: of listeners, those that are bound.
func (s *server) ends() []expiry.End {
	return slices.Concat(s.tokens.Ends(), certificateEnds(s.cfg, s.clients, s.bound))
}

// canJudge returns nil if tokens can be judged, or are not to be.
func (s *server) canJudge() error {
	now := s.now.Load()
	if now.auth == nil {
		return nil
	}
	return errors.Join(now.auth.Ready(), now.users.Ready())
}

// listeners describes the ports.
func (s *server) listeners(ready func() error) []httpserver.Options {
	l := s.cfg.Listeners
	p := ports{log: s.log, drain: l.DrainDelay.Duration, metrics: s.metrics}
	var routes []httpserver.Route
	if !s.cfg.Authz.Explain.Disabled {
		routes = append(routes, httpserver.Route{Path: "/authorize", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.now.Load().authorize.ServeHTTP(w, r) })})
	}
	if !s.cfg.Authn.Disabled {
		routes = append(routes, httpserver.Route{Path: "/authenticate", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.now.Load().authenticate.ServeHTTP(w, r) })})
	}
	var all []httpserver.Options
	if len(routes) > 0 {
		all = append(all, p.webhooks(l.Webhooks, routes...))
	}
	if l.Hooks.Address != "" {
		all = append(all, p.hooks(l.Hooks, newHook(l.Hooks, s.log, s.kept.inbox, s.reader.Deleted, s.metrics, s.received)))
	}
	if l.Metrics.Address != "" {
		all = append(all, p.health(l.Metrics, ready))
	}
	if s.web != nil {
		all = append(all, p.people(l.Web, s.web.page, s.web.people.api))
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
