package app

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
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
		own.options(o, cfg, r, m, func(r syncer.Round) { who.Learn(r.Snapshot); sample.offer(r) })
	})
	if err != nil {
		return err
	}
	own.observe(c, cfg, engine, sample, m, log)
	who.Watch(own.recent, lastSnapshot(engine))
	who.Still = func(project int64) bool { st := engine.State(); return st != nil && st.Jobs[project] != "" }
	auth, err := newAuthenticator(cfg, c.gitlabHTTP, log, who)
	if err != nil {
		return err
	}
	m.keys(auth.KeyStatus, time.Now)
	g, ctx := errgroup.WithContext(ctx)
	ready := func() error { return errors.Join(auth.Ready(), who.Ready(), ending(ctx)) }
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
	own.history.Flush(ctx)
	if !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// ending is why a process that ends is not ready.
func ending(ctx context.Context) error {
	if ctx.Err() != nil {
		return errors.New("the process is ending")
	}
	return nil
}
