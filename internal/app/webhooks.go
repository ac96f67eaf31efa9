package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
)

// webhooks describes the port that kube-apiserver asks. Each route has slots of its own, so that a flood of refusals takes
// none of the logins'.
func webhooks(cfg *config.Config, m *metrics, routes ...httpserver.Route) httpserver.Options {
	w := cfg.Listeners.Webhooks
	for i, r := range routes {
		// Without a client CA, whoever reaches this port can send half a request: those take no more than half of the slots.
		slow := httpserver.Bodies(max(1, w.MaxInFlight/2), bodyTime, r.Handler)
		routes[i].Handler = httpserver.Limit(w.MaxInFlight, m.overflow("webhooks"), slow)
	}
	return httpserver.Options{
		Name: "webhooks", Address: w.Address, CertFile: w.CertFile, KeyFile: w.KeyFile, ClientCAFile: w.ClientCAFile, DemandClientCert: true,
		MaxConns: shareDescriptors(descriptors()).webhooks, MaxStreams: 250, Rejected: m.rejected("webhooks"),
		Handler: httpserver.Mux(routes...),
	}
}

// reviewRoute is the TokenReview webhook.
func reviewRoute(cfg *config.Config, auth authn.Authenticator, log *slog.Logger, m *metrics) httpserver.Route {
	return httpserver.Route{Path: "/authenticate", Handler: authn.Handler(auth, log, m.review, cfg.Authn.APIAudiences...)}
}

// ServeAuthn runs the TokenReview webhook alone, as Serve would but without a cluster, until ctx ends: for
// measurements. The GitLab it knows has that many people and personal projects, each with an id from 1 on. bound is told
// the webhook's URL.
func ServeAuthn(ctx context.Context, cfg *config.Config, size int, log *slog.Logger, bound func(url string)) error {
	who, err := newPeopleOf(cfg)
	if err != nil {
		return err
	}
	known := &authz.Snapshot{Issuer: cfg.GitLab.URL, Taken: time.Now(), Users: map[int64]authz.User{}, Projects: map[int64]authz.GitLabProject{}}
	for id := int64(1); id <= int64(size); id++ {
		known.Users[id] = authz.User{ID: id, Username: fmt.Sprintf("user%d", id), State: authz.StateActive, Human: true}
		known.Projects[id] = authz.GitLabProject{ID: id, Owner: id, Path: fmt.Sprintf("user%d/project", id)}
	}
	who.take(known)
	client, err := gitlabClient(cfg.GitLab)
	if err != nil {
		return err
	}
	auth, err := newAuthenticator(cfg, client, log, who)
	if err != nil {
		return err
	}
	who.watch(&recent{now: time.Now}, func() *authz.Snapshot { return known })
	m := newMetrics()
	m.keys(auth.KeyStatus, time.Now)
	opts := webhooks(cfg, m, reviewRoute(cfg, auth, log, m))
	opts.Logger = log
	s, err := httpserver.New(opts)
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

// heapFloor returns memory that is never touched, and so is never resident, but counts when Go decides how much garbage
// may gather. With a small GitLab the live heap is so small that reviews would else start the collector a dozen times a
// second, for a tenth of their processor time; with a large one this changes nothing.
func heapFloor() []byte { return make([]byte, 16<<20) }

// collectSooner makes Go collect when garbage has grown by half of what is in use, not by all of it: the rounds over a large
// GitLab leave much garbage, and memory is dearer there than the processor time. GOGC in the environment wins.
func collectSooner() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
}
