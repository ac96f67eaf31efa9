package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/audit"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people/api"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/wait"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
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
			return jobsOf(s.now.Load().cfg, v, project, p.board.Of)
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

// jobsOf says what the deploy jobs of a project get. given says what is kept of its last delivery.
func jobsOf(cfg *config.Config, v authz.View, project int64, given func(namespace string, project int64) (ci.Given, bool)) (webapi.CI, bool) {
	p, ok := v.Snapshot.Projects[project]
	if !ok {
		return webapi.CI{}, false
	}
	settings := rbacsync.NewDeliveries(&rbacsync.Input{Snapshot: v.Snapshot, Names: v.Namespace, Settings: rbacsync.Settings{CI: ciSettings(cfg)}})
	mode := settings.Delivery(authz.ProjectID(project))
	out := webapi.CI{Project: project, Path: p.Path, Namespace: settings.Into(project), Delivery: string(mode), Environment: cfg.CI.Environment}
	src, ok := v.Policy.Source(v.Snapshot, authz.ProjectID(project))
	switch {
	case !ok:
		out.Outcome, out.Why, out.Delivery, out.Namespace = "none", "the project is left out by this cluster's configuration", string(rbacsync.DeliverNone), ""
		return out, true
	case src.ReadOnly:
		out.Outcome, out.Why = "frozen", "the project is archived or marked for deletion in GitLab: its jobs have no rights meanwhile"
		return out, true
	case mode == rbacsync.DeliverNone:
		out.Outcome, out.Why = "none", "this cluster's configuration hands no credentials to the project"
		return out, true
	}
	g, known := given(out.Namespace, project)
	if !g.Good.IsZero() {
		out.Good = new(g.Good.UTC())
	}
	if !g.Written.IsZero() {
		out.At = new(g.Written.UTC())
	}
	out.Outcome, out.Why = outcomeOf(g, known, mode, cfg.CI.Environment)
	return out, true
}

// outcomeOf says what became of the last delivery: for people of the project, to whom GitLab shows its jobs.
func outcomeOf(g ci.Given, known bool, mode rbacsync.Delivery, environment string) (code, why string) {
	switch {
	case !known:
		return "unknown", "what the project was given is not known here yet: ask again in a minute"
	case g.Other:
		return "other-cluster", fmt.Sprintf("another cluster's credentials are in the project with the environment %q, and are left there: ask the cluster's administrators", environment)
	case g.Half:
		return "failed", "GitLab did not take all of it yet, and it is tried again: if this lasts, ask the cluster's administrators"
	case g.Delivery != mode || g.Scope != environment:
		return "waiting", "nothing was delivered in this way yet: it is, within minutes after the namespace is there"
	case len(g.Foreign) > 0:
		return "foreign", fmt.Sprintf("the project has CI/CD variables of its own in the place of ours (%s), and jobs get those: delete or rename them, ours follow", strings.Join(g.Foreign, ", "))
	}
	return "delivered", ""
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
