// Package jobs says what the deploy jobs of a project get in this cluster, for telling people. It computes from values.
package jobs

import (
	"fmt"
	"strings"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// Settings are what is configured of them.
type Settings struct {
	CI          rbacsync.CISettings
	Environment string // of a job that deploys
}

// Of says what the deploy jobs of a project get; false: GitLab has no such project. given says what is kept of its last delivery.
func Of(s Settings, v authz.View, project int64, given func(namespace string, project int64) (ci.Given, bool)) (webapi.CI, bool) {
	p, ok := v.Snapshot.Projects[project]
	if !ok {
		return webapi.CI{}, false
	}
	deliveries := rbacsync.NewDeliveries(&rbacsync.Input{Snapshot: v.Snapshot, Names: v.Namespace, Settings: rbacsync.Settings{CI: s.CI}})
	delivery := deliveries.Delivery(authz.ProjectID(project))
	out := webapi.CI{Project: project, Path: p.Path, Namespace: deliveries.Into(project), Delivery: string(delivery), Environment: s.Environment}
	src, ok := v.Policy.Source(v.Snapshot, authz.ProjectID(project))
	switch {
	case !ok:
		out.Outcome, out.Why, out.Delivery, out.Namespace = "none", "the project is left out by this cluster's configuration", string(rbacsync.DeliverNone), ""
		return out, true
	case src.ReadOnly:
		out.Outcome, out.Why = "frozen", "the project is archived or marked for deletion in GitLab: its jobs have no rights meanwhile"
		return out, true
	case delivery == rbacsync.DeliverNone:
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
	out.Outcome, out.Why = outcomeOf(g, known, delivery, s.Environment)
	return out, true
}

// outcomeOf says what became of the last delivery: for people of the project, to whom GitLab shows its jobs.
func outcomeOf(g ci.Given, known bool, delivery rbacsync.Delivery, environment string) (code, why string) {
	switch {
	case !known:
		return "unknown", "what the project was given is not known here yet: ask again in a minute"
	case g.Other:
		return "other-cluster", fmt.Sprintf("another cluster's credentials are in the project with the environment %q, and are left there: ask the cluster's administrators", environment)
	case g.Half:
		return "failed", "GitLab did not take all of it yet, and it is tried again: if this lasts, ask the cluster's administrators"
	case g.Delivery != delivery || g.Scope != environment:
		return "waiting", "nothing was delivered in this way yet: it is, within minutes after the namespace is there"
	case len(g.Foreign) > 0:
		return "foreign", fmt.Sprintf("the project has CI/CD variables of its own in the place of ours (%s), and jobs get those: delete or rename them, ours follow", strings.Join(g.Foreign, ", "))
	}
	return "delivered", ""
}
