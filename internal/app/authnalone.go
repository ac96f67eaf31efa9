package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/accounts"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/metrics"
)

// ServeAuthn runs the TokenReview webhook alone, as Serve would but without a cluster, until ctx ends: for
// measurements. The GitLab it knows has that many people and personal projects, each with an id from 1 on. bound is told
// the webhook's URL.
func ServeAuthn(ctx context.Context, cfg *config.Config, size int, log *slog.Logger, bound func(url string)) error {
	knowledge, err := newKnowledge(cfg)
	if err != nil {
		return err
	}
	known := &authz.Snapshot{Issuer: cfg.GitLab.URL, Taken: time.Now(), Users: map[int64]authz.User{}, Projects: map[int64]authz.Project{}}
	for id := int64(1); id <= int64(size); id++ {
		known.Users[id] = authz.User{ID: id, Username: fmt.Sprintf("user%d", id), State: authz.StateActive, Human: true}
		known.Projects[id] = authz.Project{ID: id, Owner: id, Path: fmt.Sprintf("user%d/project", id)}
	}
	knowledge.Learn(known)
	client, err := gitlabClient(cfg.GitLab)
	if err != nil {
		return err
	}
	users := accounts.New(knowledge, accounts.Options{Recent: accounts.NewRecent(time.Now), Published: func() *authz.Snapshot { return known }})
	auth, err := newAuthenticator(cfg, client, log, users)
	if err != nil {
		return err
	}
	m := metrics.New()
	m.Keys(auth.KeyStatus, time.Now)
	s, err := httpserver.New(ports{log: log, metrics: m}.webhooks(cfg.Listeners.Webhooks, reviewRoute(cfg, auth, log, m.Review)))
	if err != nil {
		return err
	}
	collectSooner()
	defer runtime.KeepAlive(heapFloor())
	bound(s.URL())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.Run(ctx) })
	g.Go(func() error { auth.Run(ctx); return nil })
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
