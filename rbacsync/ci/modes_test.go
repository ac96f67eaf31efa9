package ci_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

const (
	allKeys   = "KUBECONFIG KUBE_CA_PEM KUBE_CA_PEM_FILE KUBE_NAMESPACE KUBE_TOKEN KUBE_URL"
	bareKeys  = "KUBECONFIG KUBE_CA_PEM KUBE_CA_PEM_FILE KUBE_NAMESPACE KUBE_URL"
	agentKeys = "KUBECONFIG KUBE_NAMESPACE KUBE_URL" // no CA of its own was configured
)

func (b *bench) pass(t *testing.T, n ...ci.Namespace) ci.Report {
	t.Helper()
	return b.Provision(t.Context(), n)
}

// hasToken reports whether the namespace's Secret holds a token.
func (b *bench) hasToken(t *testing.T, ns string) bool {
	t.Helper()
	return len(b.secret(t, ns).Data["token"]) > 0
}

// TestEveryMoveHasNoGap moves a project between all pairs of modes: when the new mode is delivered, what the old one
// left in GitLab goes; the token, which running jobs have, and the old subject stay for an hour.
func TestEveryMoveHasNoGap(t *testing.T) {
	t.Parallel()
	modes := []rbacsync.Delivery{rbacsync.DeliverVariables, rbacsync.DeliverIDToken, rbacsync.DeliverAgent, rbacsync.DeliverCertificate, rbacsync.DeliverNone}
	keys := map[rbacsync.Delivery]string{rbacsync.DeliverVariables: allKeys, rbacsync.DeliverIDToken: bareKeys, rbacsync.DeliverAgent: agentKeys}
	for _, from := range modes {
		for _, to := range modes {
			if from == to {
				continue
			}
			for _, restart := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s to %s, restart %t", from, to, restart), func(t *testing.T) {
					t.Parallel()
					b := newBench(t)
					expectNone := func(r ci.Report) {
						t.Helper()
						if len(r.Findings) > 0 {
							t.Errorf("findings %v", r.Findings)
						}
					}
					expectNone(b.pass(t, project("haw-world", 42, from)))
					b.now = b.now.Add(2 * time.Hour)
					expectNone(b.pass(t, b.read(project("haw-world", 42, from))))
					if st := b.Status("haw-world", 42); st.Delivery != from || !st.Settled {
						t.Fatalf("status %+v two hours after the first delivery by %s", st, from)
					}
					token := string(b.secret(t, "haw-world").Data["token"])
					if got, want := token != "", !from.Secretless(); got != want {
						t.Errorf("a token in the cluster: %t, want %t", got, want)
					}
					if restart {
						b.restart()
					}

					if to.Secretless() { // the binding could not be written: nothing is delivered, nothing goes
						waiting := project("haw-world", 42, to)
						waiting.Projects[0].Bound = false
						expectNone(b.pass(t, waiting))
						if got := b.gitlab.keys(42, "ICC-K8s"); got != keys[from] {
							t.Errorf("before the subject is bound the project has %q, want %q", got, keys[from])
						}
					}
					n := project("haw-world", 42, to)
					b.gitlab.removing = func() {
						for key := range strings.FieldsSeq(keys[to]) {
							if _, ok := b.gitlab.got[42]["ICC-K8s"][key]; !ok {
								t.Errorf("something is taken back before %s is there", key)
							}
						}
						if to == rbacsync.DeliverCertificate && b.clusters.got[42] == "" {
							t.Error("something is taken back before the cluster integration is there")
						}
					}
					b.clusters.removing = b.gitlab.removing
					expectNone(b.pass(t, n))
					if got := b.gitlab.keys(42, "ICC-K8s"); got != keys[to] {
						t.Errorf("the project has %q, want %q", got, keys[to])
					}
					if got, want := b.clusters.got[42] != "", to == rbacsync.DeliverCertificate; got != want {
						t.Errorf("cluster integration: %t, want %t", got, want)
					}
					if st := b.Status("haw-world", 42); st.Delivery != to || st.Settled {
						t.Errorf("status %+v right after the move", st)
					}
					if !from.Secretless() && string(b.secret(t, "haw-world").Data["token"]) != token {
						t.Error("the token of running jobs is gone at once")
					}
					b.now = b.now.Add(61 * time.Minute)
					expectNone(b.pass(t, b.read(n)))
					if st := b.Status("haw-world", 42); !st.Settled {
						t.Errorf("status %+v an hour after the move", st)
					}
					if got, want := b.hasToken(t, "haw-world"), !to.Secretless(); got != want {
						t.Errorf("a token in the cluster after an hour: %t, want %t", got, want)
					}
					b.now = b.now.Add(10 * time.Minute)
					calls := b.gitlab.calls + len(b.gitlab.removed)
					expect(t, b.pass(t, b.read(n)), 0, 0)
					if more := b.gitlab.calls + len(b.gitlab.removed) - calls; more > 0 {
						t.Errorf("%d requests although nothing changed", more)
					}
				})
			}
		}
	}
}

func TestSomebodyLosesTheRightToDeploy(t *testing.T) {
	t.Parallel()
	with := func(readers ...int64) ci.Namespace {
		n := project("haw-world", 42, rbacsync.DeliverVariables)
		n.Readers = readers
		return n
	}
	type change struct {
		n      ci.Namespace
		issued int
	}
	undecided := with(3)
	undecided.Undecided = true
	lost := with(2)
	lost.Lost = []int64{9}
	tests := map[string][]change{
		"a new person changes nothing":              {{with(2), 1}, {with(2, 3), 0}},
		"who leaves takes the token along":          {{with(2, 3), 1}, {with(3), 1}, {with(3), 0}},
		"also who came later":                       {{with(2), 1}, {with(2, 3), 0}, {with(2), 1}},
		"one comes, another goes":                   {{with(2), 1}, {with(3), 1}},
		"not while it is undecided, but afterwards": {{with(2, 3), 1}, {undecided, 0}, {with(3), 1}},
		"who was never noted":                       {{with(2), 1}, {lost, 1}, {with(2), 0}},
	}
	for name, changes := range tests {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restart %t", name, restart), func(t *testing.T) {
				t.Parallel()
				b := newBench(t)
				seen := map[string]bool{} // all tokens there ever were, true: it has to be dead
				for i, c := range changes {
					if restart {
						b.restart()
					}
					made := 0
					if i == 0 {
						made = 1
					} else if c.issued == 1 {
						for token := range seen {
							seen[token] = true
						}
					}
					expect(t, b.pass(t, c.n), made, c.issued)
					if c.issued == 1 && i > 0 && len(b.secret(t, "haw-world").Data["token"]) > 0 {
						t.Errorf("step %d: a token where somebody may still watch", i)
					}
					for token, dead := range seen {
						if b.works(t, "haw-world", token) == dead {
							t.Errorf("step %d: a token works that should not, or the other way round", i)
						}
					}
					if !b.works(t, "haw-world", b.token(42)) {
						t.Errorf("step %d: what GitLab has does not work", i)
					}
					seen[b.token(42)] = false
					if token := string(b.secret(t, "haw-world").Data["token"]); token != "" {
						seen[token] = false
					}
				}
			})
		}
	}
}

// TestLossIsNotForgotten: the token could not be destroyed at first.
func TestLossIsNotForgotten(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	n := project("haw-world", 42, rbacsync.DeliverVariables)
	b.pass(t, n)
	b.gitlab.fail[42] = errors.New("503")
	n.Lost = []int64{9}
	expect(t, b.pass(t, n), 0, 0, "ci_delivery_failed")
	if b.works(t, "haw-world", b.token(42)) {
		t.Error("the token that was lost works")
	}
	n.Lost = nil
	b.gitlab.fail = nil
	b.now = b.now.Add(time.Minute)
	expect(t, b.pass(t, n), 0, 1)
	if !b.works(t, "haw-world", b.token(42)) {
		t.Error("the new token was not delivered")
	}
}

func TestRequestsPerProject(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.pass(t, b.read(project("haw-world", 42, rbacsync.DeliverVariables)))
	if b.gitlab.calls != 1 || b.gitlab.writes != 6 || b.gitlab.unknown != 0 {
		t.Errorf("%d calls, %d variables written, %d lists; want 1, 6 and none: GitLab has shown that there are none", b.gitlab.calls, b.gitlab.writes, b.gitlab.unknown)
	}
	for range 5 {
		b.now = b.now.Add(10 * time.Minute)
		b.pass(t, b.read(project("haw-world", 42, rbacsync.DeliverVariables)))
	}
	if b.gitlab.calls != 1 {
		t.Errorf("%d calls in rounds without a change", b.gitlab.calls-1)
	}
	b.now = start.Add(8 * time.Hour) // rotation: only what the token is in
	b.pass(t, b.read(project("haw-world", 42, rbacsync.DeliverVariables)))
	if b.gitlab.calls != 2 || b.gitlab.writes != 7 || b.gitlab.unknown != 0 {
		t.Errorf("%d variables written at the rotation, want KUBE_TOKEN alone; %d lists", b.gitlab.writes-6, b.gitlab.unknown)
	}
}

func TestDriftInGitLabIsRepaired(t *testing.T) {
	t.Parallel()
	mine := project("haw-world", 42, rbacsync.DeliverVariables)
	setup := func(t *testing.T) *bench {
		b := newBench(t)
		b.pass(t, mine)
		b.now = b.now.Add(time.Minute)
		expect(t, b.pass(t, b.read(mine)), 0, 0)
		b.now = b.now.Add(time.Minute)
		return b
	}
	t.Run("deleted, made unprotected, unmasked", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		vars := b.gitlab.got[42]["ICC-K8s"]
		delete(vars, "KUBE_URL")
		token, kubeconfig := vars["KUBE_TOKEN"], vars["KUBECONFIG"]
		token.Masked, kubeconfig.Protected = false, false
		vars["KUBE_TOKEN"], vars["KUBECONFIG"] = token, kubeconfig
		expect(t, b.pass(t, b.read(mine)), 0, 1)
		if b.gitlab.writes != 9 || b.gitlab.keys(42, "ICC-K8s") != allKeys || !vars["KUBE_TOKEN"].Masked || !vars["KUBECONFIG"].Protected {
			t.Errorf("%d written, has %s", b.gitlab.writes, b.gitlab.keys(42, "ICC-K8s"))
		}
	})
	t.Run("what GitLab showed before our write is not drift", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		old := b.read(mine)
		b.now = b.now.Add(time.Second)
		b.pass(t, old)
		b.now = b.now.Add(10 * time.Minute)
		expect(t, b.pass(t, old), 0, 0)
	})
	t.Run("a token that is left over", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		n := project("haw-world", 42, rbacsync.DeliverIDToken)
		b.pass(t, n)
		b.gitlab.got[42]["ICC-K8s"]["KUBE_TOKEN"] = ci.Variable{Key: "KUBE_TOKEN", Value: "old"}
		b.now = b.now.Add(time.Minute)
		expect(t, b.pass(t, b.read(n)), 0, 1)
		if got := b.gitlab.keys(42, "ICC-K8s"); got != bareKeys {
			t.Errorf("the project has %s", got)
		}
	})
	t.Run("somebody's own variable", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		b.gitlab.foreign[42] = []string{"KUBE_URL"}
		expect(t, b.pass(t, b.read(mine)), 1, 1, "ci_foreign_variable")
		for range 3 {
			b.now = b.now.Add(10 * time.Minute)
			expect(t, b.pass(t, b.read(mine)), 0, 0, "ci_foreign_variable")
			b.restart()
		}
		delete(b.gitlab.foreign, 42)
		b.now = b.now.Add(10 * time.Minute)
		expect(t, b.pass(t, b.read(mine)), 0, 1)
		if b.gitlab.keys(42, "ICC-K8s") != allKeys {
			t.Errorf("the project has %s", b.gitlab.keys(42, "ICC-K8s"))
		}
	})
}

// TestTwoProjectsShareANamespace: one moves out, and what it has from the group goes when it has its own.
func TestTwoProjectsShareANamespace(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	shared := ci.Namespace{Name: "haw", Source: authz.GroupID(7), Account: "sa-1", Delivery: rbacsync.DeliverVariables, Readers: []int64{2, 3}, Read: start.Add(-time.Minute)}
	for _, id := range []int64{42, 43} {
		shared.Projects = append(shared.Projects, ci.Project{ID: id, Delivery: rbacsync.DeliverVariables, Bound: true})
	}
	own := project("haw-world", 42, rbacsync.DeliverVariables)
	own.Projects = nil
	expect(t, b.pass(t, own, shared), 2, 2)
	for _, id := range []int64{42, 43} {
		if got := b.gitlab.got[id]["ICC-K8s"]; got["KUBE_NAMESPACE"].Value != "haw" || !b.works(t, "haw", got["KUBE_TOKEN"].Value) {
			t.Errorf("project %d deploys into %s", id, got["KUBE_NAMESPACE"].Value)
		}
	}
	own = project("haw-world", 42, rbacsync.DeliverVariables)
	shared.Projects, shared.Readers = shared.Projects[1:], []int64{3} // the people of 42 can't read the group's token any more
	old := []string{string(b.secret(t, "haw").Data["token"]), b.token(42), b.token(43)}
	b.pass(t, own, shared)
	b.now = b.now.Add(time.Minute)
	b.pass(t, own, shared)
	if got := b.gitlab.got[42]["ICC-K8s"]; got["KUBE_NAMESPACE"].Value != "haw-world" || b.gitlab.keys(42, "ICC-K8s") != allKeys {
		t.Errorf("project 42 has %v", got)
	}
	for _, token := range old {
		if b.works(t, "haw", token) {
			t.Error("a token that the people of the other project know is still good")
		}
	}
	if strings.Contains(b.secret(t, "haw").Annotations[kubename.AnnotationCIProjects], `"42"`) {
		t.Error("the group's Secret still knows the project")
	}
}

func TestAgentIsNeverAFallback(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	n := project("haw-world", 42, rbacsync.DeliverAgent)
	n.Projects[0].Bound = false
	b.refused = "GitLab has no licence"
	expect(t, b.pass(t, n), 0, 0, "ci_agent_refused")
	if st := b.Status("haw-world", 42); st.Slug != "" || !st.Refused || b.slugs > 0 || b.gitlab.calls > 0 {
		t.Errorf("status %+v, %d questions, %d writes", st, b.slugs, b.gitlab.calls)
	}
	b.refused, b.now = "", b.now.Add(10*time.Minute)
	b.changed = nil
	expect(t, b.pass(t, n), 0, 0)
	if st := b.Status("haw-world", 42); st.Slug != "icc-k8s-abc123" || st.Refused || !slices.Equal(b.changed, []authz.SourceID{authz.ProjectID(42)}) {
		t.Errorf("status %+v, told of %v", st, b.changed)
	}
	n = project("haw-world", 42, rbacsync.DeliverAgent)
	expect(t, b.pass(t, n), 0, 1)
	b.restart()
	b.pass(t, n)
	if b.slugs != 1 || b.Status("haw-world", 42).Slug == "" {
		t.Errorf("the slug was asked for %d times", b.slugs)
	}
	b.refused, b.now = "the licence is over", b.now.Add(10*time.Minute)
	expect(t, b.pass(t, n), 0, 0, "ci_agent_refused")
	if !b.Status("haw-world", 42).Refused {
		t.Error("the right stays without a licence")
	}
}

// TestAgentSlug: it belongs to one environment, and is none of GitLab's if it could name another project's.
func TestAgentSlug(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	n := project("haw-world", 42, rbacsync.DeliverAgent)
	b.pass(t, n)
	b.Scope, b.now = "production", b.now.Add(10*time.Minute)
	b.Agent.Slug = func(context.Context, int64, string) (string, error) { return "a:43:b", nil }
	expect(t, b.pass(t, n), 0, 0, "ci_delivery_failed")
	if st := b.Status("haw-world", 42); st.Slug != "" {
		t.Errorf("status %+v", st)
	}
	b.Agent.Slug = func(context.Context, int64, string) (string, error) { return "production", nil }
	b.now = b.now.Add(10 * time.Minute)
	expect(t, b.pass(t, n), 0, 1)
	if st := b.Status("haw-world", 42); st.Slug != "production" {
		t.Errorf("status %+v", st)
	}
}

func TestCertificateFollowsTheToken(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	n := project("haw-world", 42, rbacsync.DeliverCertificate)
	b.clusters.fail = errors.New("the administrator has to enable certificate_based_clusters")
	expect(t, b.pass(t, n), 1, 0, "ci_delivery_failed")
	b.clusters.fail, b.now = nil, b.now.Add(time.Minute)
	expect(t, b.pass(t, n), 0, 1)
	good := func() bool {
		token, found := strings.CutPrefix(b.clusters.got[42], "ICC-K8s https://k8s.example.com:6443 haw-world ")
		return found && b.works(t, "haw-world", token)
	}
	before := b.clusters.got[42]
	if !good() {
		t.Errorf("GitLab has %q", before)
	}
	b.now = b.now.Add(8 * time.Hour)
	expect(t, b.pass(t, n), 1, 1)
	if !good() || b.clusters.got[42] == before {
		t.Error("the rotated token did not arrive")
	}
	n.Gone, n.Exists, n.Projects = true, true, nil
	b.pass(t, n)
	if len(b.clusters.got) > 0 {
		t.Errorf("left in GitLab: %v", b.clusters.got)
	}
}

// TestHalfMadeClusterIsRemoved: the process ended between GitLab's answer and our note of it, and the configuration
// was changed before the next start.
func TestHalfMadeClusterIsRemoved(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	b.Clusters = dying{b.clusters, cancel}
	b.Provision(ctx, []ci.Namespace{project("haw-world", 42, rbacsync.DeliverCertificate)})
	if len(b.clusters.got) != 1 {
		t.Fatal("there is nothing to clean up")
	}
	b.restart()
	b.pass(t, project("haw-world", 42, rbacsync.DeliverVariables))
	if len(b.clusters.got) > 0 {
		t.Error("the cluster integration is forgotten in GitLab")
	}
}

type dying struct {
	*clusters
	cancel func()
}

func (d dying) Ensure(ctx context.Context, project int64, scope string, c ci.Cluster, namespace, token string, claim ci.Claim) (bool, error) {
	_, _ = d.clusters.Ensure(ctx, project, scope, c, namespace, token, claim)
	d.cancel()
	return false, context.Canceled
}

func TestScopeMovesAlong(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.pass(t, world)
	b.Scope = "production"
	b.now = b.now.Add(10 * time.Minute)
	expect(t, b.pass(t, world), 0, 1)
	if b.gitlab.keys(42, "production") != allKeys || b.gitlab.keys(42, "ICC-K8s") != "" {
		t.Errorf("production: %s, ICC-K8s: %s", b.gitlab.keys(42, "production"), b.gitlab.keys(42, "ICC-K8s"))
	}
}

func TestArchivedProjectIsNotWrittenTo(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	n := project("haw-world", 42, rbacsync.DeliverVariables)
	n.Projects[0].Frozen = true
	expect(t, b.pass(t, n), 1, 0)
	expect(t, b.pass(t, project("haw-world", 42, rbacsync.DeliverVariables)), 0, 1)
}

func TestSigningKeyOfTheAPIServerChanges(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.kid = "old"
	keys := map[string]bool{"old": true}
	var err error
	ask := func(context.Context) (map[string]bool, error) { return keys, err }
	b.Keys = ask
	b.pass(t, world)
	b.kid, keys = "new", map[string]bool{"new": true}
	b.now = b.now.Add(20 * time.Minute)
	expect(t, b.pass(t, world), 1, 1)
	b.now = b.now.Add(20 * time.Minute)
	expect(t, b.pass(t, world), 0, 0)
	b.kid = "newest" // another API server has it already, the one that is asked does not list it yet
	b.now = b.now.Add(8 * time.Hour)
	expect(t, b.pass(t, world), 1, 1)
	b.now = b.now.Add(6 * time.Minute)
	expect(t, b.pass(t, world), 0, 0)
	keys = map[string]bool{"newest": true}
	b.now = b.now.Add(6 * time.Minute)
	expect(t, b.pass(t, world), 0, 0)
	keys = nil // an answer without keys proves nothing
	b.now = b.now.Add(20 * time.Minute)
	expect(t, b.pass(t, world), 0, 0)
	err, b.now = errors.New("forbidden"), b.now.Add(20*time.Minute)
	expect(t, b.pass(t, world), 0, 0, "ci_keys_unread")
}

func TestShortLifetimeIsReported(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.Lifetime = 720 * time.Hour
	r := b.pass(t, world, haw)
	expect(t, r, 2, 1, "ci_token_lifetime")
	for _, want := range []string{"10h0m0s instead of the 720h0m0s", "in 2 namespaces", "--service-account-max-token-expiration"} {
		if len(r.Findings) != 1 || !strings.Contains(r.Findings[0].Text, want) {
			t.Errorf("findings %v lack %q", r.Findings, want)
		}
	}
	b.restart()
	b.Lifetime = 720 * time.Hour
	expect(t, b.pass(t, world, haw), 0, 0, "ci_token_lifetime")
}

// TestPassGoesOnWhereItStopped: interrupted after each namespace, it does everything once; who lost comes first.
func TestPassGoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var list []ci.Namespace
	for id := range int64(6) {
		list = append(list, project(fmt.Sprintf("ns-%d", id), id+1, rbacsync.DeliverVariables))
	}
	passes := 0
	for stopped := true; stopped; passes++ {
		if passes > 20 {
			t.Fatal("it comes to no end")
		}
		n := 0
		stopped = b.ProvisionUntil(t.Context(), list, func() bool { n++; return n > 1 }).Stopped
	}
	if b.gitlab.calls != 6 || passes < 6 {
		t.Errorf("%d deliveries in %d passes", b.gitlab.calls, passes)
	}
	list[5].Readers = nil
	b.now = b.now.Add(6 * time.Minute) // all are looked at again
	n := 0
	given := b.token(6)
	if r := b.ProvisionUntil(t.Context(), list, func() bool { n++; return n > 1 }); r.Delivered != 1 || b.works(t, "ns-5", given) {
		t.Errorf("the token that has to die is not the first: %+v", r)
	}
}

func TestDeletedSecretIsNoticed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.pass(t, world)
		ctx, cancel := context.WithCancel(t.Context())
		noticed, ended := make(chan string, 10), make(chan struct{})
		go func() {
			defer close(ended)
			b.Follow(ctx, b.kube, func(ns string, deleted bool) {
				if deleted {
					noticed <- ns
				}
			})
		}()
		defer func() { cancel(); <-ended }()
		synctest.Wait() // until both watches are there: from here on Follow reads nothing that the test changes
		if err := b.kube.CoreV1().Secrets("haw-world").Delete(t.Context(), kubename.CISecret, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(noticed) == 0 { // both watches notice: the fake ignores what a watch selects
			t.Fatal("nobody noticed")
		}
		if ns := <-noticed; ns != "haw-world" {
			t.Errorf("noticed in namespace %q", ns)
		}
		expect(t, b.pass(t, world), 1, 0)
	})
}

// TestExecPlugins runs what kubectl runs, with every POSIX shell there is.
func TestExecPlugins(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.Audience = `it's "quoted" $(touch x)`
	b.pass(t, project("haw-world", 42, rbacsync.DeliverIDToken), project("haw-other", 43, rbacsync.DeliverAgent), project("haw-third", 44, rbacsync.DeliverVariables))
	shells := 0
	for _, shell := range []string{"sh", "dash", "bash", "busybox", "ksh", "mksh", "yash"} {
		path, err := exec.LookPath(shell)
		if err != nil {
			continue
		}
		shells++
		for _, tt := range []struct {
			project     int64
			env, token  string
			complaining string
		}{
			{42, "KUBE_ID_TOKEN=ey.J0-x_y.z", "ey.J0-x_y.z", ""},
			{42, "KUBE_ID_TOKEN=", "", b.Audience},
			{42, "OTHER=1", "", "id_tokens"},
			{42, `KUBE_ID_TOKEN=a"},"x`, "", "id_tokens"},
			{42, "KUBE_ID_TOKEN=$(touch x)", "", "id_tokens"},
			{43, "CI_JOB_TOKEN=glcbt-64_aBc.x", "ci:9:glcbt-64_aBc.x", ""},
			{43, "CI_JOB_TOKEN=a b", "", "CI_JOB_TOKEN"},
			{44, "KUBE_TOKEN=ey.J0-x_y.z", "ey.J0-x_y.z", ""},
			{44, "OTHER=1", "", "KUBE_TOKEN is empty"},
			{44, `KUBE_TOKEN=$(touch x)"}`, "", "KUBE_TOKEN is empty"},
		} {
			config, err := clientcmd.Load([]byte(b.gitlab.got[tt.project]["ICC-K8s"]["KUBECONFIG"].Value))
			if err != nil {
				t.Fatal(err)
			}
			e := config.AuthInfos[config.Contexts[config.CurrentContext].AuthInfo].Exec
			if e == nil || e.Command != "sh" {
				t.Fatalf("no exec entry: %+v", e)
			}
			args := e.Args
			if shell == "busybox" {
				args = append([]string{"sh"}, args...)
			}
			cmd := exec.CommandContext(t.Context(), path, args...)
			cmd.Dir, cmd.Env = t.TempDir(), []string{"PATH=/nowhere", tt.env}
			var out, complaint bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &complaint
			err = cmd.Run()
			var cred struct {
				APIVersion, Kind string
				Status           struct{ Token string }
			}
			switch {
			case tt.token == "" && (err == nil || out.Len() > 0 || !strings.Contains(complaint.String(), tt.complaining)):
				t.Errorf("%s with %s: %v, prints %s, says %s", shell, tt.env, err, &out, &complaint)
			case tt.token != "" && (err != nil || json.Unmarshal(out.Bytes(), &cred) != nil || cred.Status.Token != tt.token ||
				cred.Kind != "ExecCredential" || cred.APIVersion != "client.authentication.k8s.io/v1"):
				t.Errorf("%s with %s: %v, prints %s, says %s", shell, tt.env, err, &out, &complaint)
			}
			if files, _ := filepath.Glob(filepath.Join(cmd.Dir, "*")); len(files) > 0 {
				t.Errorf("%s with %s ran something: %v", shell, tt.env, files)
			}
		}
	}
	if shells == 0 {
		t.Error("no shell on this machine")
	}
	if _, err := os.Stat("x"); err == nil {
		t.Error("something was run")
	}
}

func TestNoSecretWhereNoneIsStored(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	n := project("haw-world", 42, rbacsync.DeliverIDToken)
	b.pass(t, n)
	if b.issued != 0 || b.hasToken(t, "haw-world") {
		t.Error("a token was made")
	}
	s := b.secret(t, "haw-world")
	if string(s.Data["ca.crt"]) != "PEM OF THE CA\n" || string(s.Data["namespace"]) != "haw-world" {
		t.Errorf("data %v", s.Data)
	}
	b.Cluster.CA = []byte("ANOTHER")
	b.now = b.now.Add(10 * time.Minute)
	expect(t, b.pass(t, n), 0, 1)
	if string(b.secret(t, "haw-world").Data["ca.crt"]) != "ANOTHER" {
		t.Error("the Secret has the old CA")
	}
}

// TestAgentContext: what GitLab documents for jobs of its agent, kubectl config use-context group/project:agent, works with
// our kubeconfig in mode agent, which is current without it; and the name follows GitLab's.
func TestAgentContext(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.context = "haw/infra:icc"
	n := []ci.Namespace{project("haw-world", 42, rbacsync.DeliverAgent), project("haw-other", 43, rbacsync.DeliverVariables)}
	load := func(project int64) *clientcmdapi.Config {
		t.Helper()
		config, err := clientcmd.Load([]byte(b.gitlab.got[project]["ICC-K8s"]["KUBECONFIG"].Value))
		if err != nil {
			t.Fatal(err)
		}
		return config
	}
	b.pass(t, n...)
	config := load(42)
	if d := cmp.Diff(config.Contexts[config.CurrentContext], config.Contexts["haw/infra:icc"]); d != "" || config.CurrentContext == "haw/infra:icc" {
		t.Errorf("current is %q; GitLab's context (-current +GitLab's):\n%s", config.CurrentContext, d)
	}
	if _, ok := load(43).Contexts["haw/infra:icc"]; ok {
		t.Error("the agent's context in another mode")
	}
	b.context = "haw/moved:icc"
	b.now = b.now.Add(10 * time.Minute)
	expect(t, b.pass(t, n...), 0, 1)
	if _, ok := load(42).Contexts["haw/moved:icc"]; !ok {
		t.Error("the context did not follow the configuration project's path")
	}
	b.context = "" // an answer without the path
	b.now = b.now.Add(10 * time.Minute)
	b.pass(t, n...)
	if got := len(load(42).Contexts); got != 1 {
		t.Errorf("%d contexts without a known path", got)
	}
}
