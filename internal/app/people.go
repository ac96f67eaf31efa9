package app

import (
	"context"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/audit"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people/api"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people/jobs"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people/past"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/wait"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// forPeople are the parts that tell people about themselves.
type forPeople struct {
	*people.Service
	api   *api.API // everything below webapi.Prefix
	board *ci.Board
}

// newForPeople makes them. kubeconfig may be nil.
func (s *server) newForPeople(kubeconfig func(ctx context.Context, variant string, namespaces []string) ([]byte, error)) *forPeople {
	p := &forPeople{board: ci.NewBoard(s.log)}
	p.Service = people.New(people.Options{
		View: s.view, GitLabURL: s.cfg.GitLab.URL,
		CI: func(v authz.View, project int64) (webapi.CI, bool) {
			cfg := s.now.Load().cfg
			return jobs.Of(jobs.Settings{CI: ciSettings(cfg), Environment: cfg.CI.Environment}, v, project, p.board.Of)
		},
		Changes: past.Changes(audit.NewReader(s.clients.kube)),
	})
	p.api = api.New(api.Options{People: p.Service, Authenticator: s.authenticator, Kubeconfig: kubeconfig, Logger: s.log})
	return p
}

// run runs what they need until ctx ends.
func (p *forPeople) run(ctx context.Context, s *server) {
	var r running
	r.start(ctx, p.api.Run, func(ctx context.Context) { p.board.Run(ctx, s.clients.metadata) }, s.prepare)
	<-ctx.Done()
	r.end()
}

// prepare has the index of people's namespaces made soon after a round, and before anybody asks.
func (s *server) prepare(ctx context.Context) {
	for ctx.Err() == nil {
		if v, ok := s.view(); ok {
			v.Prepare(time.Now())
		}
		wait.For(ctx, time.Second)
	}
}

// view returns what is known now, whichever generation has its turn.
func (s *server) view() (authz.View, bool) {
	g := s.now.Load()
	return view(g.core.state, g.core.roles)()
}

// authenticator returns who judges tokens now.
func (s *server) authenticator() authn.Authenticator {
	if judge := s.now.Load().judge; judge != nil {
		return judge
	}
	return nil // and no pointer that is nil
}
