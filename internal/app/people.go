package app

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/audit"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people/api"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people/jobs"
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
		Changes: changesIn(audit.NewReader(s.clients.kube)),
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

// changesIn tells people's own changes of a history.
func changesIn(history *audit.Reader) func(ctx context.Context, user int64, since time.Time) ([]people.Changed, error) {
	return func(ctx context.Context, user int64, since time.Time) ([]people.Changed, error) {
		entries, err := history.User(ctx, user, since, time.Time{})
		if errors.Is(err, audit.ErrBusy) {
			err = people.ErrHistoryBusy
		}
		return ownChanges(entries), err
	}
}

// ownChanges returns a person's rights that came and went. Who approved something is not for everybody to know.
func ownChanges(entries []audit.Entry) []people.Changed {
	out := make([]people.Changed, 0, len(entries))
	for _, e := range entries {
		if e.Role == "" || e.What != audit.Gained && e.What != audit.Lost {
			continue
		}
		why := e.Why
		if by := "approved by " + e.ApprovedBy; e.ApprovedBy != "" {
			why = strings.TrimSuffix(strings.TrimSuffix(why, by), ", ")
		}
		out = append(out, people.Changed{
			Change:    webapi.Change{At: e.At.UTC(), Namespace: e.Namespace, Role: e.Role, What: string(e.What), Cause: cmp.Or(e.Cause, "unknown"), Why: why},
			Placeless: audit.Placeless(why), Approved: e.ApprovedBy != "",
		})
	}
	return out
}
