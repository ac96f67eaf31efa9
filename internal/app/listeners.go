package app

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/metrics"
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
type shares struct{ webhooks, hooks, metrics, web int }

// shareDescriptors divides the file descriptors of the process: half for the webhooks, so that no other port can take
// theirs, and a quarter for files and our own connections. A port that needs few gets few. GitLab sends each hook on a
// connection of its own: those of a thousand changes at once must fit in, with some of strangers.
func shareDescriptors(limit uint64) shares {
	n := int(min(limit, math.MaxInt32))
	return shares{webhooks: max(8, min(4608, n/2)), hooks: max(4, min(1984, n/8)), metrics: max(2, min(64, n/16)), web: max(2, min(256, n/16))}
}

// ports describes the listeners.
type ports struct {
	log     *slog.Logger
	drain   time.Duration // how long they serve on after the end was asked for
	metrics *metrics.Metrics
}

// webhooks is the port that kube-apiserver asks. Each route has slots of its own, so that a flood of refusals takes none of
// the logins'.
func (p ports) webhooks(w config.Listener, routes ...httpserver.Route) httpserver.Options {
	limited := make([]httpserver.Route, 0, len(routes))
	for _, r := range routes {
		// Without a client CA, whoever reaches this port can send half a request: those take no more than half of the slots.
		slow := httpserver.Bodies(max(1, w.MaxInFlight/2), bodyTime, r.Handler)
		limited = append(limited, httpserver.Route{Path: r.Path, Handler: httpserver.Limit(w.MaxInFlight, p.metrics.Overflow("webhooks"), slow)})
	}
	return httpserver.Options{
		Name: "webhooks", Address: w.Address, CertFile: w.CertFile, KeyFile: w.KeyFile, ClientCAFile: w.ClientCAFile, DemandClientCert: true,
		MaxConns: shareDescriptors(descriptors()).webhooks, MaxStreams: 250, Rejected: p.metrics.Rejected("webhooks"),
		Handler: httpserver.Mux(limited...), Logger: p.log, DrainDelay: p.drain,
	}
}

// hooks is the port that GitLab sends hooks to. Whoever reaches it can send half a request; the hook itself limits what is
// proven, so that nobody else's requests take its places.
func (p ports) hooks(h config.HooksListener, hook http.Handler) httpserver.Options {
	return httpserver.Options{
		Name: "hooks", Address: h.Address, CertFile: h.CertFile, KeyFile: h.KeyFile,
		MaxConns: shareDescriptors(descriptors()).hooks, IdleTimeout: strangeIdle, Rejected: p.metrics.Rejected("hooks"),
		MaxStreams: 250, // a proxy may send all of GitLab's hooks on one connection
		Handler:    httpserver.Mux(httpserver.Route{Path: hookPath, Handler: hook}, httpserver.Route{Path: "/hook", Handler: hook}),
		Logger:     p.log, DrainDelay: p.drain,
	}
}

// health is the port of metrics and health. Health has no limit but that of connections, and asks for no token: kubelet has none.
func (p ports) health(l config.MetricsListener, ready func() error) httpserver.Options {
	scrapes := p.metrics.Handler()
	if l.TokenFile != "" {
		scrapes = httpserver.Bearer(secretFile(l.TokenFile, "listeners.metrics.tokenFile"), p.log, scrapes)
	}
	return httpserver.Options{
		Name: "metrics", Address: l.Address, CertFile: l.CertFile, KeyFile: l.KeyFile,
		MaxConns: shareDescriptors(descriptors()).metrics, IdleTimeout: 2 * time.Minute, Rejected: p.metrics.Rejected("metrics"),
		Handler: httpserver.Mux(
			httpserver.Route{Path: "/metrics", Handler: httpserver.Limit(maxScrapes, p.metrics.Overflow("metrics"), scrapes)},
			httpserver.Route{Path: "/healthz", Handler: httpserver.Healthz()},
			httpserver.Route{Path: "/readyz", Handler: httpserver.Readyz(ready)},
		),
		Logger: p.log, DrainDelay: p.drain,
	}
}

// bind takes the ports; if one can't be had the others are given back.
func bind(all []httpserver.Options) ([]*httpserver.Server, error) {
	servers := make([]*httpserver.Server, 0, len(all))
	for _, o := range all {
		s, err := httpserver.New(o)
		if err != nil {
			err = fmt.Errorf("listeners.%s: %w", o.Name, err)
			for _, s := range servers {
				err = errors.Join(err, s.Close())
			}
			return nil, err
		}
		servers = append(servers, s)
	}
	return servers, nil
}
