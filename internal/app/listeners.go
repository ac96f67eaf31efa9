package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
)

// Limits of the listeners. What is over them is answered 503 at once, or closed.
const (
	maxBodies   = 16          // bodies of hooks without the secret that are being read
	maxWaiting  = 768         // of those, how many wait for their turn
	maxScrapes  = 4           // requests for /metrics under way
	turnTime    = time.Second // how long they wait
	bodyTime    = 5 * time.Second
	strangeIdle = 10 * time.Second // how long a connection to a port that anybody reaches may rest
)

// shares are the connections that each listener may hold.
type shares struct{ webhooks, hooks, metrics int }

// shareDescriptors divides the file descriptors of the process: half for the webhooks, so that no other port can take
// theirs, and a quarter for files and our own connections. A port that needs few gets few. GitLab sends each hook on a
// connection of its own: those of a thousand changes at once must fit in, with some of strangers.
func shareDescriptors(limit uint64) shares {
	n := int(min(limit, math.MaxInt32))
	return shares{webhooks: max(8, min(4096, n/2)), hooks: max(4, min(1984, n/8)), metrics: max(2, min(64, n/16))}
}

// descriptors returns how many files this process may have open. The Go runtime has raised that to what the system allows.
func descriptors() uint64 {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 1024 // the usual limit
	}
	return l.Cur
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
