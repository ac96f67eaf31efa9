package ci

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Namespace is a managed namespace, as far as CI credentials are concerned.
type Namespace struct {
	Name    string
	Source  authz.SourceID
	Account types.UID // of the CI ServiceAccount, "" when it was made just now
	// Delivery is that of the source itself: with a secretless one, and no project that needs it, there is no token.
	Delivery rbacsync.Delivery
	// Projects are those that deploy here, by id.
	Projects []Project
	// Readers are the people who can read the token, in the namespace or in a project's variables: ascending ids.
	Readers []int64
	// Lost are people who just lost that.
	Lost []int64
	// Undecided is set when Projects and Readers may lack something: nothing is taken away then.
	Undecided bool
	// Gone is set when no source should have this namespace any more: its token is destroyed, and what was handed over
	// is taken back if the GitLab project still Exists.
	Gone   bool
	Exists bool
	// Read is when GitLab was read for Projects' Variables.
	Read time.Time
}

// Project is a GitLab project that deploys into a namespace.
type Project struct {
	ID       int64
	Delivery rbacsync.Delivery
	// Unprotected hands its credentials to jobs on unprotected branches, too.
	Unprotected bool
	// Explain gives jobs without credentials a KUBECONFIG that says why. See explain.go.
	Explain bool
	// TokenInFile puts the token itself into KUBECONFIG, for jobs that can't take it from KUBE_TOKEN.
	TokenInFile bool
	// Frozen is set when GitLab lets nobody change the project (archived): nothing is written there.
	Frozen bool
	// Bound says that the subject by which its jobs get their rights is in the namespace's CI binding.
	Bound bool
	// Variables is what GitLab showed of the project's variables, if VariablesRead.
	Variables     []authz.CIVariable
	VariablesRead bool
}

// same reports whether two descriptions lead to the same work: when GitLab was read is no reason to look again, and who lost
// something is remembered by itself.
func (n Namespace) same(o Namespace) bool {
	return n.Name == o.Name && n.Source == o.Source && n.Account == o.Account && n.Delivery == o.Delivery && n.Undecided == o.Undecided &&
		n.Gone == o.Gone && n.Exists == o.Exists && equal(n.Readers, o.Readers, func(a, b int64) bool { return a == b }) && equal(n.Projects, o.Projects, Project.same)
}

func (p Project) same(o Project) bool {
	return p.ID == o.ID && p.Delivery == o.Delivery && p.Unprotected == o.Unprotected && p.Explain == o.Explain && p.TokenInFile == o.TokenInFile &&
		p.Frozen == o.Frozen && p.Bound == o.Bound && p.VariablesRead == o.VariablesRead && equal(p.Variables, o.Variables, func(a, b authz.CIVariable) bool { return a == b })
}

// needsToken reports whether somebody uses a token of the namespace.
func (n Namespace) needsToken() bool {
	return !n.Delivery.Secretless() || slices.ContainsFunc(n.Projects, func(p Project) bool { return !p.Delivery.Secretless() })
}

// deliversToken reports whether GitLab is given a token of the namespace.
func (n Namespace) deliversToken() bool {
	return slices.ContainsFunc(n.Projects, func(p Project) bool { return p.Delivery.HandsToken() })
}

// VariableWriter writes project variables in GitLab; those of others are left alone. Its errors say what to do, and name
// neither values nor tokens.
type VariableWriter interface {
	// Ensure makes the project have these variables in the environment scope, and returns how many it had to write.
	// known is what GitLab showed of the project's variables since we wrote there last, nil if that is not known. A
	// *ForeignError says that all others were written, an *OtherClusterError that none was.
	Ensure(ctx context.Context, project int64, scope string, vars []Variable, known *ProjectVariables, claim Claim) (written int, err error)
	// Remove removes our variables of the environment scope, except those with a key in keep, and returns how many that
	// were. A project that does not exist has none.
	Remove(ctx context.Context, project int64, scope string, keep []string, claim Claim) (removed int, err error)
	// Look lists what the project has in the environment scope, whoever it belongs to. Delivery is that of the values which
	// GitLab has, also where it has no place for a mark.
	Look(ctx context.Context, project int64, scope string) ([]authz.CIVariable, error)
}

// Unnamed stands in Replaces for all marks of the version before, which name no cluster.
const Unnamed = "unnamed"

// Claim says which of the marked things in GitLab are ours: those of our cluster, and of those that it replaces. Where a mark
// names no cluster, or GitLab has no place for one, our record tells.
type Claim struct {
	Cluster  string   // id of this cluster; what is written names it
	Replaces []string // ids of clusters whose place it takes, or Unnamed
	// Wrote reports whether the value of this variable is one that we wrote, as far as our record knows.
	Wrote func(key, value string) bool
}

func (c Claim) names(cluster string) bool {
	return cluster == c.Cluster || slices.Contains(c.Replaces, cluster)
}

// OtherClusterError says that what is in the place of ours belongs to another cluster. Nothing was written.
type OtherClusterError struct {
	Project int64
	Scope   string
	Cluster string   // its id, "" if the mark names none
	Keys    []string // of variables; none: the cluster integration
}

func (e *OtherClusterError) Error() string {
	what, other, id := "a cluster integration", fmt.Sprintf("another cluster (id %q)", e.Cluster), e.Cluster
	if len(e.Keys) > 0 {
		what = "variables (" + strings.Join(e.Keys, ", ") + ")"
	}
	if id == "" {
		other, id = "an integrator whose mark names no cluster", Unnamed
	}
	return fmt.Sprintf("project %d has %s with the environment scope %q of %s; nothing was written. If that cluster is in use, give one of the two its own"+
		" ci.environment. If this cluster takes its place, add %q to cluster.replaces", e.Project, what, e.Scope, other, id)
}

// ProjectVariables is what GitLab showed of a project's variables.
type ProjectVariables struct{ Variables []authz.CIVariable }

// ForeignError says that somebody has variables of their own where ours belong. They were not overwritten.
type ForeignError struct {
	Project int64
	Scope   string
	Keys    []string
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("project %d has variables of its own with the environment scope %q and the key %s: deploy jobs get those. Delete or rename them in the"+
		" project's CI/CD settings, ours follow by themselves", e.Project, e.Scope, strings.Join(e.Keys, ", "))
}

// ClusterWriter writes GitLab's deprecated cluster integration. Its errors say what to do, and name no token.
type ClusterWriter interface {
	// Ensure makes the project have the cluster, and reports whether it had to write. An *OtherClusterError says that another
	// cluster has one there.
	Ensure(ctx context.Context, project int64, scope string, c Cluster, namespace, token string, claim Claim) (written bool, err error)
	// Remove removes ours of the environment scope. A project that does not exist has none.
	Remove(ctx context.Context, project int64, scope string, c Cluster, claim Claim) error
	// Look returns the Mark of the token that Ensure was given for what is there; "" if that is not as Ensure would leave it.
	Look(ctx context.Context, project int64, scope string, c Cluster, namespace string, claim Claim) (mark string, err error)
	// Mark returns by what GitLab shows which token an integration has: it does not give the token away.
	Mark(token string) string
}

// Agent is GitLab's agent for Kubernetes in the cluster, and what it is asked about.
type Agent struct {
	ID  int64
	URL string // of GitLab's Kubernetes API proxy (KAS)
	CA  []byte // PEM, nil: one that every system knows
	// ReadCA, optional, reads CA anew at each pass.
	ReadCA func() ([]byte, error)
	// Slug returns GitLab's slug of the project's environment, which it makes if it is not there.
	Slug func(ctx context.Context, project int64, environment string) (string, error)
	// Look asks GitLab about the agent.
	Look func(ctx context.Context) (AgentState, error)
}

// AgentState is what GitLab says of an agent.
type AgentState struct {
	// Refused says why GitLab would not impersonate jobs, "" if it would.
	Refused string
	// Context is the agent's name in the kubeconfig that GitLab itself gives to jobs, "group/project:agent"; "" if it is
	// not known (https://docs.gitlab.com/user/clusters/agent/ci_cd_workflow/).
	Context string
}
