package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/accounts"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/fence"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// generation is all that a configuration makes and that another one can take the place of while the process runs.
type generation struct {
	cfg                     *config.Config
	core                    *core // that of the generation before, if the engine need not begin anew
	knowledge               *accounts.Knowledge
	users                   *accounts.Directory
	auth                    *authn.GitLab // nil: kube-apiserver judges tokens by itself
	judge                   *authn.GitLab // auth, or one that judges for listeners.web alone; nil: neither is served
	authenticate, authorize http.Handler
	running                 running
}

// core is the sync engine with what it alone needs.
type core struct {
	cfg       *config.Config
	engine    *syncer.Syncer
	roles     *cluster.RoleReader
	templates string                       // fingerprint of the folder
	before    atomic.Pointer[syncer.State] // what the core before had published; nil once there is something newer
	replaced  chan struct{}                // closed when another one has its place
	running   running
}

// running are goroutines that end together.
type running struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// start runs these until ctx or the receiver ends.
func (r *running) start(ctx context.Context, all ...func(context.Context)) {
	ctx, r.cancel = context.WithCancel(ctx)
	for _, f := range all {
		r.wg.Go(func() { f(ctx) })
	}
}

// end returns when they have ended.
func (r *running) end() {
	r.cancel()
	r.wg.Wait()
}

// newGeneration makes what a configuration needs, of the parts of the one before what can be kept. It changes nothing of
// those, and does no network I/O.
func (s *server) newGeneration(cfg *config.Config, old *generation, anew bool) (*generation, error) {
	rules, err := accountRules(cfg)
	if err != nil {
		return nil, err
	}
	g := &generation{cfg: cfg, knowledge: accounts.NewKnowledge(rules, time.Now)}
	if old != nil {
		g.knowledge = old.knowledge.With(rules)
	}
	if old != nil && !anew {
		g.core = old.core
	} else if g.core, err = s.newCore(cfg); err != nil {
		return nil, err
	}
	g.users = accounts.New(g.knowledge, accounts.Options{
		Recent: s.recent, Published: func() *authz.Snapshot { return g.core.state().View.Snapshot },
		StillServed: func(project int64) bool { return g.core.state().Jobs[project] != "" },
	})
	if !cfg.Authn.Disabled || s.cfg.Listeners.Web.Address != "" {
		if g.judge, err = newAuthenticator(cfg, s.clients.gitlabHTTP, s.log, g.users); err != nil {
			return nil, err
		}
	}
	if !cfg.Authn.Disabled {
		g.auth = g.judge
		g.authenticate = reviewRoute(cfg, g.auth, s.log, s.reviewed).Handler
	}
	g.authorize = explainHandler(cfg, view(g.core.state, g.core.roles), s.log)
	return g, nil
}

func (s *server) newCore(cfg *config.Config) (*core, error) {
	c := &core{cfg: cfg, templates: templatesPrint(cfg), replaced: make(chan struct{})}
	var err error
	if c.roles, err = newRoles(cfg, s.clients); err != nil {
		return nil, err
	}
	c.engine, err = newEngine(cfg, s.clients, s.log, serveParts(cfg, s.clients, s.kept, s.reader, c.roles, s.recent, s.onRound))
	return c, err
}

// templatesPrint is another text whenever the templates are others.
func templatesPrint(cfg *config.Config) string {
	if cfg.RBACSync.Templates.Folder == "" {
		return ""
	}
	folder, sum := os.DirFS(cfg.RBACSync.Templates.Folder), sha256.New()
	names, err := fs.Glob(folder, "*.yaml")
	for _, name := range names {
		data, readErr := fs.ReadFile(folder, name)
		fmt.Fprintf(sum, "%s %d %v\n%s", name, len(data), readErr, data)
	}
	fmt.Fprint(sum, err)
	return hex.EncodeToString(sum.Sum(nil))
}

// state returns what the engine's last rounds left, or those of the core before, as long as this one knows nothing yet.
func (c *core) state() *syncer.State {
	st, before := c.engine.State(), c.before.Load()
	switch {
	case st != nil && st.View.Snapshot != nil:
		c.before.Store(nil)
		return st
	case before == nil && st == nil:
		return &syncer.State{}
	case before == nil:
		return st
	case st == nil:
		return before
	}
	inherited := *before
	inherited.Err, inherited.Since = st.Err, st.Since
	return &inherited
}

// State implements status.Engine.
func (s *server) State() *syncer.State { return s.now.Load().core.state() }

// Staleness implements status.Engine.
func (s *server) Staleness() (syncer.Staleness, bool) { return s.now.Load().core.engine.Staleness() }

// Keys and RestoreKeys make the server what keeps GitLab's signing keys in the cluster: whichever authenticator has its turn.
func (s *server) Keys() (jwks []byte, fetched time.Time) { return s.now.Load().auth.Keys() }

// RestoreKeys: see Keys.
func (s *server) RestoreKeys(jwks []byte, fetched time.Time) error {
	s.swapping.Lock()
	defer s.swapping.Unlock()
	return s.now.Load().auth.RestoreKeys(jwks, fetched)
}

// begin runs what a generation runs, while the process serves.
func (s *server) begin(serving context.Context, g, old *generation) {
	if g.judge != nil {
		g.running.start(serving, g.judge.Run)
	} else {
		g.running.start(serving)
	}
	if old == nil || old.core != g.core {
		g.core.running.start(serving, g.core.engine.Follow, func(ctx context.Context) { g.core.roles.Run(ctx, cluster.RolesEvery) })
	}
}

// replace gives the turn to a generation, and returns when what ran for the one before has ended, but for a leader's round,
// for which lead waits.
func (s *server) replace(serving context.Context, next *generation) error {
	old := s.now.Load()
	anew := old.core != next.core
	s.swapping.Lock()
	if old.judge != nil && next.judge != nil {
		if jwks, fetched := old.judge.Keys(); len(jwks) > 0 {
			if err := next.judge.RestoreKeys(jwks, fetched); err != nil {
				s.swapping.Unlock()
				return err
			}
		}
	}
	if anew {
		next.core.before.Store(old.core.state())
	}
	s.now.Store(next)
	s.swapping.Unlock()
	s.begin(serving, next, old)
	old.running.end()
	next.knowledge.Learn(old.core.state().View.Snapshot) // read meanwhile
	if anew {
		close(old.core.replaced)
		old.core.running.end()
	}
	return nil
}

// lead does what one process alone does: it reads GitLab and writes. An engine whose place another one takes ends first.
func (s *server) lead(ctx context.Context) error {
	defer func() { _ = s.kept.history.Flush(ctx) }() // while the Lease is still held
	for {
		c := s.now.Load().core
		err := s.leadWith(ctx, c)
		select {
		case <-c.replaced:
		default:
			return err
		}
		if ctx.Err() != nil {
			return err
		}
		s.now.Load().core.before.Store(c.state()) // with what its last round has left
	}
}

func (s *server) leadWith(ctx context.Context, c *core) error {
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	watch.Go(func() {
		select {
		case <-c.replaced:
			cancel()
		case <-ctx.Done():
		}
	})
	if garbageIsOurs() {
		watch.Go(func() {
			(&collector{quiet: c.engine.Quiet, everything: c.engine.LooksAtEverything, large: c.engine.WritesMuch}).run(ctx)
		})
	}
	if c.cfg.RBACSync.Mode == config.ModeEnforce {
		err := fence.Await(ctx, s.clients.kube, c.cfg, s.log, func(f *authz.Finding) {
			if s.rounds.Wait(f) {
				s.metrics.Waits(f)
			}
		})
		if err != nil {
			return err
		}
	}
	return c.engine.Run(ctx)
}

// onRound takes in a round of whichever engine.
func (s *server) onRound(r syncer.Round) {
	g := s.now.Load()
	s.metrics.Round(r, s.findings()...)
	s.rounds.Add(r)
	if r.Kind == syncer.KindFull && r.Err == nil {
		g.knowledge.LearnOwn(r.Snapshot)
	} else {
		g.knowledge.Learn(r.Snapshot)
	}
	s.sample.Offer(r)
}
