package main

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// refusals counts the 429 answers that a client got.
type refusals struct {
	next http.RoundTripper
	n    atomic.Int64
}

func (r *refusals) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.next.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusTooManyRequests {
		r.n.Add(1)
	}
	return resp, err
}

// readGitLab reads GitLab as the program does, in this process, and measures it.
func readGitLab(ctx context.Context, b *bench) (*authz.Snapshot, error) {
	hc := b.gitlab.Client()
	counter := &refusals{next: hc.Transport}
	token := b.gitlab.TokenFor("root", "read_api")
	reader, err := gitlab.NewReader(gitlab.Options{
		BaseURL: b.gitlab.URL(), IncludeUsers: true,
		Token: func() (string, error) { return token, nil }, HTTPClient: &http.Client{Transport: counter, Timeout: 40 * time.Second},
	})
	if err != nil {
		return nil, err
	}
	start := time.Now()
	snap, err := reader.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	took := time.Since(start)
	hc.CloseIdleConnections()
	if snap.MissingAll != "" || len(snap.Missing) > 0 {
		return nil, fmt.Errorf("the reading is not complete: %d sources missing %s", len(snap.Missing), snap.MissingAll)
	}
	var total int64
	for _, n := range reader.Requests() {
		total += n
	}
	b.freshMinute() // the program starts with one
	b.line("sync.read_requests", total, "requests")
	b.line("sync.read_over_limit", counter.n.Load(), "requests")
	b.line("sync.read_seconds", took.Seconds(), "s")
	fmt.Fprintf(b.say, "requests by kind: %v\n", reader.Requests())
	return snap, nil
}

// planEverything plans the first round, in this process, and measures it. It returns how many objects that makes.
func planEverything(b *bench, snap *authz.Snapshot) (want int, err error) {
	policy, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource}})
	if err != nil {
		return 0, err
	}
	start := time.Now()
	sources := policy.Sources(snap)
	grants, _ := policy.Grants(snap, sources, time.Now())
	names, _ := authz.AssignNames(sources, nil, nil, nil)
	wanted := rbacsync.Desired(rbacsync.Input{Snapshot: snap, Sources: sources, Names: names, Grants: grants, Roles: policy.ClusterRoles()})
	changes, _ := rbacsync.Plan(&rbacsync.Observed{}, wanted)
	b.line("sync.plan_seconds", time.Since(start).Seconds(), "s")
	subjects := 0
	for _, g := range grants {
		subjects += len(g.Users)
	}
	b.line("sync.subjects", subjects, "subjects")
	rows := 0
	for _, g := range snap.Groups {
		rows += len(g.Members)
	}
	for _, p := range snap.Projects {
		rows += len(p.Members)
	}
	fmt.Fprintf(b.say, "%d groups, %d projects, %d users, %d direct memberships; first plan: %d changes\n",
		len(snap.Groups), len(snap.Projects), len(snap.Users), rows, len(changes))
	return len(wanted.Objects), nil
}
