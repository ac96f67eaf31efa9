package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/sarwebhook"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/clusterroles"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// Serve runs the program until ctx ends. GitLab and kube-apiserver may be away when it starts: it says so in the
// log and tries again. When ctx ends the Lease is given back and /readyz is false at once, while the listeners, and what
// their answers are made from, go on for listeners.drainDelay. Everything it started has ended when it returns. /metrics
// shows more too.
func Serve(ctx context.Context, cfg *config.Config, log *slog.Logger, more ...prometheus.Collector) error {
	c, err := connect(cfg)
	if err != nil {
		return err
	}
	m := newMetrics()
	m.registry.MustRegister(more...)
	who, err := newPeopleOf(cfg)
	if err != nil {
		return err
	}
	sample, err := newSampler(cfg, c, log, m.registry)
	if err != nil {
		return err
	}
	own := newState(c, log)
	var roles *cluster.RoleReader
	var reader *gitlab.Reader
	engine, err := newSyncer(cfg, c, syncer.Mode(cfg.RBACSync.Mode), log, func(o *syncer.Options, r *gitlab.Reader) {
		roles, reader = o.Roles, r
		own.options(o, cfg, r, m, func(r syncer.Round) { who.take(r.Snapshot); sample.offer(r) })
	})
	if err != nil {
		return err
	}
	own.observe(c, cfg, engine, sample, m, log)
	who.watch(own.recent, lastSnapshot(engine))
	who.still = func(project int64) bool { st := engine.State(); return st != nil && st.Jobs[project] != "" }
	auth, err := newAuthenticator(cfg, c.gitlabHTTP, log, who)
	if err != nil {
		return err
	}
	m.keys(auth.KeyStatus, time.Now)
	g, ctx := errgroup.WithContext(ctx)
	ready := func() error { return errors.Join(auth.Ready(), who.ready(), ending(ctx)) }
	servers, err := listeners(cfg, log, auth, ready, view(engine, roles), reader.Deleted, own, m)
	if err != nil {
		return err
	}
	for _, f := range explainFindings(cfg.Authz.Explain) {
		log.WarnContext(ctx, "refusals depend on one process", "code", f.Code, "finding", f.Text)
	}
	collectSooner()
	defer runtime.KeepAlive(heapFloor())
	serving := serveAll(ctx, g, servers)
	g.Go(func() error { auth.Run(serving); return nil })
	g.Go(func() error { sample.run(ctx); return nil })
	g.Go(func() error { roles.Run(serving, cluster.RolesEvery); return nil })
	if cfg.Authn.Keys.File == "" {
		g.Go(func() error { newKeyStore(cfg, c, auth, log).run(ctx); return nil })
	}
	g.Go(func() error {
		return own.elector.Run(ctx, func(ctx context.Context) error { // only the leader reads GitLab and writes
			if cfg.RBACSync.Mode == config.ModeEnforce {
				if err := awaitEnforce(ctx, c.kube, cfg, log, own.wait(m)); err != nil {
					return err
				}
			}
			return engine.Run(ctx)
		})
	})
	g.Go(func() error { engine.Follow(serving); return nil })
	own.run(ctx, g)
	err = g.Wait()
	own.history.flush(ctx)
	if !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
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

// listeners binds the three ports; if one can't be bound the others are given back.
func listeners(cfg *config.Config, log *slog.Logger, auth *authn.GitLab, ready func() error, view func() (authz.View, bool), deleted func(...authz.SourceID), own *state, m *metrics) (_ []*httpserver.Server, err error) {
	var servers []*httpserver.Server
	defer func() {
		if err != nil {
			for _, s := range servers {
				err = errors.Join(err, s.Close())
			}
		}
	}()
	add := func(o httpserver.Options) error {
		o.Logger, o.DrainDelay = log, cfg.Listeners.DrainDelay.Duration
		s, err := httpserver.New(o)
		if err != nil {
			return fmt.Errorf("listeners.%s: %w", o.Name, err)
		}
		servers = append(servers, s)
		return nil
	}
	err = add(webhooks(cfg, m, append(explainRoutes(cfg, view, log), reviewRoute(cfg, auth, log, m))...))
	if err != nil {
		return nil, err
	}
	if h := cfg.Listeners.Hooks; h.Address != "" {
		err = add(hookPort(h, m, hookHandler(h, log, own.inbox, deleted)))
		if err != nil {
			return nil, err
		}
	}
	if a := cfg.Listeners.Metrics.Address; a != "" {
		err = add(metricsPort(a, m, ready))
	}
	return servers, err
}

// explainRoutes is the SubjectAccessReview webhook, unless refusals are not to be explained.
func explainRoutes(cfg *config.Config, view func() (authz.View, bool), log *slog.Logger) []httpserver.Route {
	if cfg.Authz.Explain.Disabled {
		return nil
	}
	return []httpserver.Route{{Path: "/authorize", Handler: sarwebhook.Handler(view, cfg.Authz.LoginHint, time.Now, log)}}
}

// hookPort describes the port that GitLab sends hooks to. Whoever reaches it can send half a request; the hook itself limits
// what is proven, so that nobody else's requests take its places.
func hookPort(h config.HooksListener, m *metrics, hook *gitlab.Hook) httpserver.Options {
	hook.OverLimit = m.hookOverLimit
	hook.Unproven = func(next http.Handler) http.Handler {
		return httpserver.QueuedBodies(maxBodies, maxWaiting, turnTime, bodyTime, func() { m.hookOverLimit(gitlab.OverGivenUp) }, next)
	}
	return httpserver.Options{
		Name: "hooks", Address: h.Address, CertFile: h.CertFile, KeyFile: h.KeyFile,
		MaxConns: shareDescriptors(descriptors()).hooks, IdleTimeout: strangeIdle, Rejected: m.rejected("hooks"),
		MaxStreams: 250, // a proxy may send all of GitLab's hooks on one connection
		Handler:    httpserver.Mux(httpserver.Route{Path: hookPath, Handler: hook}, httpserver.Route{Path: "/hook", Handler: hook}),
	}
}

// metricsPort describes the port of metrics and health. Health has no limit but that of connections.
func metricsPort(address string, m *metrics, ready func() error) httpserver.Options {
	return httpserver.Options{
		Name: "metrics", Address: address,
		MaxConns: shareDescriptors(descriptors()).metrics, IdleTimeout: 2 * time.Minute, Rejected: m.rejected("metrics"),
		Handler: httpserver.Mux(
			httpserver.Route{Path: "/metrics", Handler: httpserver.Limit(maxScrapes, m.overflow("metrics"), m.handler())},
			httpserver.Route{Path: "/healthz", Handler: httpserver.Healthz()},
			httpserver.Route{Path: "/readyz", Handler: httpserver.Readyz(ready)},
		),
	}
}

// hookHandler takes GitLab's system hooks and puts what they name into the inbox, which the leader follows. A secret that
// can't be read is told, but is no reason not to start: it may be mounted later. deleted learns of deletions, which is of use
// where the leader itself got the hook.
func hookHandler(h config.HooksListener, log *slog.Logger, inbox *store.Inbox, deleted func(...authz.SourceID)) *gitlab.Hook {
	if err := hookSecrets(h); err != nil {
		log.Error("system hooks are refused until their secret can be read", "error", err)
	}
	hook := &gitlab.Hook{
		Parse: func(body []byte) ([]authz.SourceID, bool, string, error) {
			e, err := gitlab.ParseSystemHook(body)
			if err == nil && e.Deleted {
				deleted(e.Changed...)
			}
			return e.Changed, e.Ignored, e.Name, err
		},
		Trigger: inbox.Put, Now: time.Now, Logger: log,
	}
	hook.Secret, hook.SigningKey = hookFiles(h)
	return hook
}

// hookFiles reads what hooks are checked with; nil for what is not configured.
func hookFiles(h config.HooksListener) (secret, signingKey func() ([]byte, error)) {
	bytesOf := func(path, what string) func() ([]byte, error) {
		if path == "" {
			return nil
		}
		read := secretFile(path, what)
		return func() ([]byte, error) { s, err := read(); return []byte(s), err }
	}
	return bytesOf(h.SecretFile, "listeners.hooks.secretFile"), bytesOf(h.SigningKeyFile, "listeners.hooks.signingKeyFile")
}

// hookSecrets returns why hooks can't be checked now, nil if they can or none are expected.
func hookSecrets(h config.HooksListener) error {
	if h.Address == "" {
		return nil
	}
	var errs []error
	secret, key := hookFiles(h)
	for _, read := range []func() ([]byte, error){secret, key} {
		if read == nil {
			continue
		}
		if _, err := read(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// view returns what explanations are made from; false until the first round has read GitLab.
func view(s *syncer.Syncer, roles *cluster.RoleReader) func() (authz.View, bool) {
	return func() (authz.View, bool) {
		st := s.State()
		if st == nil || st.View.Snapshot == nil {
			return authz.View{}, false
		}
		return withRoles(st.View, roles.Roles()), true
	}
}

// withRoles returns the View with what is known of the ClusterRoles.
func withRoles(v authz.View, roles clusterroles.Roles) authz.View {
	gone := map[string]bool{}
	for name, role := range roles {
		if role.Exists.Verdict == clusterroles.No {
			gone[name] = true
		}
	}
	return v.WithRules(rulesOf(roles)).WithoutRoles(gone)
}

// rulesOf returns the rules of the ClusterRoles that could be read.
func rulesOf(roles clusterroles.Roles) map[string][]authz.Rule {
	out := make(map[string][]authz.Rule, len(roles))
	for name, role := range roles {
		if role.Exists.Verdict == clusterroles.No || (role.Exists.Verdict == clusterroles.Unknown && role.Rules == nil) {
			continue
		}
		rules := make([]authz.Rule, 0, len(role.Rules))
		for i := range role.Rules {
			r := &role.Rules[i]
			rules = append(rules, authz.Rule{Verbs: r.Verbs, Groups: r.APIGroups, Resources: r.Resources, Names: r.ResourceNames})
		}
		out[name] = rules
	}
	return out
}
