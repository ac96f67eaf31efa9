package app

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

func explainsJobs(n *ci.Namespace) { n.Projects[0].Explain = true }

// TestAnExplanationIsOursAlone: in GitLabs with and without marks it is written, renewed and taken back; a KUBECONFIG of somebody's
// own, or of another cluster, stays, and what GitLab has for the environment is not touched.
func TestAnExplanationIsOursAlone(t *testing.T) {
	const everywhere = "* KUBECONFIG"
	for _, version := range []string{"15.0.5-ee", "15.7.0", "16.1.6-ee", "19.1.0-ee"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			e := newEstate(t, version)
			a := e.cluster("a")
			a.expect(rbacsync.DeliverVariables, explainsJobs)
			has := func() bool { _, ok := e.variables()[everywhere]; return ok }
			if version == "15.0.5-ee" { // it would replace references in a script
				if has() {
					t.Error("an explanation in a GitLab that would spoil it")
				}
				return
			}
			first := e.variables()[everywhere]
			if !has() || first.VariableType != "file" || first.Protected || !first.Raw {
				t.Fatalf("the project has %+v", first)
			}
			a.restart()
			a.expect(rbacsync.DeliverVariables, explainsJobs)
			a.expect(rbacsync.DeliverVariables, func(n *ci.Namespace) { explainsJobs(n); n.Projects[0].Unprotected = true })
			if second := e.variables()[everywhere]; second.Value == first.Value {
				t.Error("it still says that the branch must be protected")
			}
			a.restart()
			a.expect(rbacsync.DeliverVariables, func(n *ci.Namespace) { n.Projects[0].Unprotected = true })
			if has() {
				t.Error("it is left when it was switched off")
			}
			a.expect(rbacsync.DeliverIDToken, explainsJobs)
			if !has() {
				t.Error("it does not come back")
			}
			a.expect(rbacsync.DeliverVariables, explainsJobs)
			a.expect(rbacsync.DeliverVariables, gone)
			if left := slices.Collect(maps.Keys(e.variables())); len(left) > 0 {
				t.Errorf("after taking back the project has %v", left)
			}

			theirs := gitlabsim.Variable{Key: "KUBECONFIG", Value: "their own", VariableType: "file", EnvironmentScope: "*"}
			if version == "19.1.0-ee" { // or another cluster's
				theirs.Description = gitlab.Marker + ": cluster 00000000-0000-4000-8000-00000000000b: delivery x: do not edit"
			}
			e.set(theirs)
			a.restart()
			a.expect(rbacsync.DeliverVariables, explainsJobs)
			a.expect(rbacsync.DeliverVariables, explainsJobs)
			a.owned(map[string]string{everywhere: "their own"})
			a.restart()
			a.expect(rbacsync.DeliverVariables, gone)
			a.owned(map[string]string{everywhere: "their own"})
		})
	}
}

// TestWhatIsCopiedToAllEnvironmentsIsTheirs: a project may have copied there what was delivered for the environment, without our
// mark. In GitLabs with and without marks it stays when explanations are switched on, off and on again, and when the project leaves.
func TestWhatIsCopiedToAllEnvironmentsIsTheirs(t *testing.T) {
	for _, version := range []string{"15.7.0", "19.1.0-ee"} {
		for _, copied := range [][]string{{"KUBE_URL", "KUBECONFIG"}, {"KUBE_URL", "KUBE_NAMESPACE", "KUBE_TOKEN"}} {
			t.Run(fmt.Sprint(version, copied), func(t *testing.T) {
				t.Parallel()
				e := newEstate(t, version)
				a := e.cluster("a")
				a.expect(rbacsync.DeliverVariables, nil)
				theirs := map[string]string{}
				for _, key := range copied {
					v := e.variables()["ICC-K8s "+key]
					v.EnvironmentScope, v.Description = "*", ""
					e.set(v)
					theirs["* "+key] = v.Value
				}
				own := slices.Contains(copied, "KUBECONFIG")
				for _, step := range []struct {
					change func(*ci.Namespace)
					has    bool
				}{{explainsJobs, true}, {nil, false}, {explainsJobs, true}, {rotated, false}, {explainsJobs, true}, {gone, false}} {
					for range 2 {
						a.restart()
						a.expect(rbacsync.DeliverVariables, step.change)
						a.owned(theirs)
						if _, there := e.variables()["* KUBECONFIG"]; there != (step.has || own) {
							t.Fatalf("KUBECONFIG for all environments: %t", there)
						}
					}
				}
			})
		}
	}
}

// TestAForgottenExplanationGoesWithTheProject: a version that knows none has kept the records meanwhile.
func TestAForgottenExplanationGoesWithTheProject(t *testing.T) {
	e := newEstate(t, "19.1.0-ee")
	a := e.cluster("a")
	a.expect(rbacsync.DeliverVariables, nil)
	e.set(gitlabsim.Variable{
		Key: "KUBECONFIG", Value: "an explanation", VariableType: "file", EnvironmentScope: "*",
		Description: gitlab.Marker + ": cluster " + a.id + ": delivery x: do not edit",
	})
	e.set(gitlabsim.Variable{Key: "KUBE_URL", Value: "theirs", EnvironmentScope: "*", Description: gitlab.Marker + ": cluster " + a.id + ": copied"})
	a.restart()
	a.expect(rbacsync.DeliverVariables, gone)
	if left := slices.Collect(maps.Keys(e.variables())); !slices.Equal(left, []string{"* KUBE_URL"}) {
		t.Errorf("after taking back the project has %v", left)
	}
}

// owned reports whether variables have these values.
func (c *testCluster) owned(want map[string]string) {
	c.t.Helper()
	all := c.variables()
	for at, value := range want {
		if all[at].Value != value {
			c.t.Errorf("%s is %q, want %q", at, all[at].Value, value)
		}
	}
}
