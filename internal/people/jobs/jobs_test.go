package jobs_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people/jobs"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// TestWhatJobsAreToldToGet: each outcome, in the order in which they are said, and docs/my-namespaces.md explains each.
func TestWhatJobsAreToldToGet(t *testing.T) {
	settings := jobs.Settings{Environment: "ICC-K8s", CI: rbacsync.CISettings{Mode: rbacsync.DeliverVariables, Exceptions: []rbacsync.CIException{
		{Source: authz.ProjectID(2), Mode: rbacsync.DeliverNone}, {Source: authz.GroupID(7), Mode: rbacsync.DeliverIDToken}, {Source: authz.ProjectID(5), Target: rbacsync.TargetGroup},
	}}}
	policy, err := authz.NewPolicy(authz.PolicyConfig{
		Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource}, Exclude: authz.Filter{Sources: []authz.SourceID{authz.ProjectID(4)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &authz.Snapshot{Groups: map[int64]authz.Group{7: {ID: 7, Path: "haw"}}, Projects: map[int64]authz.Project{
		1: {ID: 1, Path: "a"}, 2: {ID: 2, Path: "b"}, 3: {ID: 3, Path: "c", Archived: true}, 4: {ID: 4, Path: "d"}, 5: {ID: 5, Path: "haw/e", Group: 7},
	}}
	v := authz.NewView(s, policy, map[authz.SourceID]string{authz.ProjectID(1): "a", authz.ProjectID(2): "b", authz.ProjectID(3): "c", authz.GroupID(7): "haw", authz.ProjectID(5): "haw-e"})
	at := time.Date(2026, 11, 29, 8, 0, 0, 0, time.UTC)
	good := ci.Given{Delivery: rbacsync.DeliverVariables, Scope: "ICC-K8s", Written: at, Good: at.Add(time.Hour)}
	with := func(change func(*ci.Given)) ci.Given { g := good; change(&g); return g }
	outcomes := map[string]bool{}
	for _, c := range []struct {
		name     string
		project  int64
		given    ci.Given
		unknown  bool
		delivery string
		outcome  string
	}{
		{"delivered", 1, good, false, "variables", "delivered"},
		{"not known yet", 1, ci.Given{}, true, "variables", "unknown"},
		{"nothing yet", 1, ci.Given{}, false, "variables", "waiting"},
		{"another mode before", 1, with(func(g *ci.Given) { g.Delivery = rbacsync.DeliverIDToken }), false, "variables", "waiting"},
		{"another environment before", 1, with(func(g *ci.Given) { g.Scope = "old" }), false, "variables", "waiting"},
		{"not all of it", 1, with(func(g *ci.Given) { g.Half = true }), false, "variables", "failed"},
		{"somebody else's variables", 1, with(func(g *ci.Given) { g.Foreign = []string{"KUBECONFIG"} }), false, "variables", "foreign"},
		{"another cluster", 1, with(func(g *ci.Given) { g.Other = true }), false, "variables", "other-cluster"},
		{"configured so", 2, good, false, "none", "none"},
		{"archived", 3, good, false, "variables", "frozen"},
		{"left out", 4, good, false, "none", "none"},
		{"into the group, by its delivery", 5, with(func(g *ci.Given) { g.Delivery, g.Good = rbacsync.DeliverIDToken, time.Time{} }), false, "id-token", "delivered"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := jobs.Of(settings, v, c.project, func(ns string, project int64) (ci.Given, bool) {
				if want := map[int64]string{1: "a", 2: "b", 3: "c", 5: "haw"}[c.project]; ns != want || project != c.project {
					t.Errorf("asked for project %d in %q", project, ns)
				}
				return c.given, !c.unknown
			})
			outcomes[got.Outcome] = true
			if !ok || got.Outcome != c.outcome || got.Delivery != c.delivery || (got.Why == "") != (c.outcome == "delivered") || got.Environment != "ICC-K8s" || got.Path != s.Projects[c.project].Path {
				t.Errorf("%+v, %t", got, ok)
			}
			if c.outcome == "delivered" && ((got.Good == nil) != c.given.Good.IsZero() || !got.At.Equal(at)) {
				t.Errorf("good until %v, at %v", got.Good, got.At)
			}
		})
	}
	if _, ok := jobs.Of(settings, v, 6, nil); ok {
		t.Error("a project that GitLab does not have")
	}
	page, err := os.ReadFile("../../../docs/my-namespaces.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "| `outcome` | what |")
	table, _, _ = strings.Cut(table, "\n\n")
	for _, m := range regexp.MustCompile("(?m)^\\| `([\\w-]+)`").FindAllStringSubmatch(table, -1) {
		if !outcomes[m[1]] {
			t.Errorf("docs/my-namespaces.md has the outcome %s, which there is not", m[1])
		}
		delete(outcomes, m[1])
	}
	if len(outcomes) > 0 {
		t.Errorf("docs/my-namespaces.md lacks the outcomes %v", outcomes)
	}
}
