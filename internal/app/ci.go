package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabversion"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// ciSettings says which project deploys where, and by which delivery.
func ciSettings(cfg *config.Config) rbacsync.CISettings {
	s := rbacsync.CISettings{Mode: rbacsync.Delivery(cfg.CI.Delivery), Unprotected: map[int64]bool{}}
	for _, id := range cfg.CI.UnprotectedProjects {
		s.Unprotected[id] = true
	}
	for _, e := range cfg.CI.Projects {
		if id, ok := config.ParseSource(e.Source); ok {
			s.Exceptions = append(s.Exceptions, rbacsync.CIException{Source: id, Path: e.Path, Mode: rbacsync.Delivery(e.Delivery), Target: rbacsync.Target(e.Namespace)})
		}
	}
	return s
}

// shownVariables says which variables the reader of GitLab tells, without values: those that CI credentials are in.
func shownVariables(cfg *config.Config) gitlab.CIVariables {
	if cfg.GitLab.WriteTokenFile == "" {
		return gitlab.CIVariables{}
	}
	return gitlab.CIVariables{Scope: cfg.CI.Environment, Keys: ci.Keys()}
}

// newProvisioner returns what makes and hands over the CI credentials.
func newProvisioner(cfg *config.Config, c *clients, log *slog.Logger) (*ci.Provisioner, error) {
	ca, err := c.publicCA()
	if err != nil {
		return nil, err
	}
	local := onThisMachine(cfg.GitLab.URL)
	conf := ci.Config{
		Kube: c.kube, Replaces: cfg.Cluster.Replaces, Cluster: ci.Cluster{URL: c.publicURL, CA: ca}, CA: c.publicCA, Scope: cfg.CI.Environment,
		Lifetime: cfg.CI.TokenLifetime.Duration, Handover: cfg.CI.Handover.Duration, Withhold: cfg.CI.TokenHold.Duration,
		Keys:  ci.KeysOf(c.kube.Discovery().RESTClient()),
		Reach: func(ctx context.Context, at ci.Cluster) error { return ci.Reach(ctx, at, local) },
		Now:   time.Now, Logger: log,
	}
	if cfg.Authn.CI != nil {
		conf.Audience = cfg.Authn.CI.Audience
	}
	if cfg.GitLab.WriteTokenFile == "" {
		return ci.New(conf), nil
	}
	o := gitlab.Options{
		BaseURL: cfg.GitLab.URL, Token: secretFile(cfg.GitLab.WriteTokenFile, "gitlab.writeTokenFile"),
		HTTPClient: c.gitlabHTTP, Logger: log,
	}
	vars, err := gitlab.NewVariables(o)
	if err != nil {
		return nil, fmt.Errorf("setting up the writer of CI variables: %w", err)
	}
	integrations, err := gitlab.NewClusters(o)
	if err != nil {
		return nil, fmt.Errorf("setting up the writer of cluster integrations: %w", err)
	}
	conf.Variables, conf.Clusters = variables{vars}, integration{integrations}
	conf.TooOld = func(ctx context.Context, mode rbacsync.Delivery) (string, error) { return tooOld(ctx, vars, mode) }
	if cfg.CI.Agent == nil {
		return ci.New(conf), nil
	}
	envs, err := gitlab.NewEnvironments(o)
	if err != nil {
		return nil, fmt.Errorf("setting up the reader of environments: %w", err)
	}
	readCA := gitlabCA(cfg.GitLab)
	ca, err = readCA()
	if err != nil {
		return nil, err
	}
	conf.Agent = &ci.Agent{
		ID: cfg.CI.Agent.ID, URL: cfg.CI.Agent.KASURL, CA: ca, ReadCA: readCA, Slug: envs.Slug,
		Look: func(ctx context.Context) (ci.AgentState, error) { return agentState(ctx, envs, cfg.CI.Agent) },
	}
	return ci.New(conf), nil
}

// tooOld says why this GitLab can't have a delivery, "" if it can.
func tooOld(ctx context.Context, vars *gitlab.Variables, mode rbacsync.Delivery) (string, error) {
	needs, ok := map[rbacsync.Delivery]gitlabversion.Feature{rbacsync.DeliverIDToken: gitlabversion.IDTokens, rbacsync.DeliverAgent: gitlabversion.AgentEnvironments}[mode]
	if !ok {
		return "", nil
	}
	v, err := vars.Version(ctx)
	if err != nil || v.Has(needs) {
		return "", err
	}
	return fmt.Sprintf("delivery %s needs GitLab %s or newer, and this one is %s: upgrade GitLab, or choose another delivery in ci.delivery or ci.projects", mode, needs.Since(), v), nil
}

// agentState returns what GitLab says of its agent that ci.agent names.
func agentState(ctx context.Context, envs *gitlab.Environments, agent *config.CIAgent) (ci.AgentState, error) {
	project, _ := config.ParseSource(agent.ConfigProject)
	a, err := envs.Agent(ctx, project.ID, agent.ID)
	if errors.Is(err, gitlab.ErrNotFound) {
		return ci.AgentState{Refused: fmt.Sprintf("%s has no agent %d (ci.agent): correct its id and configProject", agent.ConfigProject, agent.ID)}, nil
	}
	if err != nil {
		return ci.AgentState{}, err
	}
	if a.Name != agent.Name {
		return ci.AgentState{Refused: fmt.Sprintf("agent %d of %s is called %q, not %q as ci.agent says: correct the id or the name", agent.ID, agent.ConfigProject, a.Name, agent.Name)}, nil
	}
	_, why, err := envs.Impersonation(ctx)
	state := ci.AgentState{Refused: why}
	if a.ConfigProject != "" {
		state.Context = a.Context()
	}
	return state, err
}

// onThisMachine reports whether a URL leads to the machine itself: then jobs run here, too (demo and tests).
func onThisMachine(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// variables hands CI credentials over as project variables.
type variables struct{ api *gitlab.Variables }

// Ensure implements ci.VariableWriter.
func (v variables) Ensure(ctx context.Context, project int64, scope string, vars []ci.Variable, known *ci.Known, claim ci.Claim) (int, error) {
	want := make([]gitlab.Variable, 0, len(vars))
	for _, x := range vars {
		kind := gitlab.EnvVar
		if x.File {
			kind = gitlab.File
		}
		// Raw: a "$" in a value is that character and no reference to another variable.
		want = append(want, gitlab.Variable{
			Key: x.Key, Value: x.Value, Type: kind, Masked: x.Masked, Protected: x.Protected,
			Raw: true, EnvironmentScope: scope, Delivery: x.Delivery(), Description: "do not edit",
		})
	}
	var have gitlab.Have
	if known != nil {
		have = gitlab.Have{Known: true, Variables: known.Variables}
	}
	n, err := v.api.Ensure(ctx, project, want, have, claimed(claim))
	if other, ok := errors.AsType[*gitlab.OtherClusterError](err); ok {
		return n, &ci.OtherClusterError{Project: project, Scope: scope, Cluster: other.Cluster, Keys: other.Keys}
	}
	return n, foreign(project, scope, err)
}

func claimed(c ci.Claim) gitlab.Claim {
	return gitlab.Claim{Cluster: c.Cluster, Replaces: c.Replaces, Wrote: c.Wrote}
}

// foreign turns an error that says nothing but that somebody has variables of his own into ci's.
func foreign(project int64, scope string, err error) error {
	keys, only := foreignKeys(err)
	if err == nil || !only {
		return err
	}
	slices.Sort(keys)
	return &ci.ForeignError{Project: project, Scope: scope, Keys: keys}
}

func foreignKeys(err error) (keys []string, only bool) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		only = true
		for _, e := range joined.Unwrap() {
			more, all := foreignKeys(e)
			keys, only = append(keys, more...), only && all
		}
		return keys, only
	}
	if f, ok := errors.AsType[*gitlab.ForeignVariableError](err); ok {
		return []string{f.Key}, true
	}
	return nil, false
}

// Remove implements ci.VariableWriter.
func (v variables) Remove(ctx context.Context, project int64, scope string, keep []string, claim ci.Claim) (int, error) {
	kept := make([]gitlab.Variable, 0, len(keep))
	for _, key := range keep {
		kept = append(kept, gitlab.Variable{Key: key, EnvironmentScope: scope})
	}
	return v.api.Remove(ctx, project, []string{scope}, kept, gitlab.Have{}, claimed(claim))
}

// Look implements ci.VariableWriter.
func (v variables) Look(ctx context.Context, project int64, scope string) ([]authz.CIVariable, error) {
	list, err := v.api.List(ctx, project)
	if err != nil {
		return nil, err
	}
	var out []authz.CIVariable
	for _, x := range list {
		if x.EnvironmentScope != scope {
			continue
		}
		row := authz.CIVariable{
			Key: x.Key, Scope: scope, File: x.Type == gitlab.File, Masked: x.Masked, Protected: x.Protected, Raw: x.Raw, Hidden: x.Hidden,
			Marked: x.Marked, Cluster: x.Cluster,
		}
		row.Delivery = ci.Variable{Key: x.Key, Value: x.Value, File: row.File, Masked: row.Masked, Protected: row.Protected}.Delivery()
		out = append(out, row)
	}
	return out, nil
}

// integration hands CI credentials over as GitLab's deprecated cluster integration.
type integration struct{ api *gitlab.Clusters }

// Ensure implements ci.ClusterWriter.
func (i integration) Ensure(ctx context.Context, project int64, scope string, c ci.Cluster, namespace, token string, claim ci.Claim) (bool, error) {
	wrote, err := i.api.Ensure(ctx, project, gitlab.ProjectCluster{
		Name: scope, Scope: scope, APIURL: c.URL, CA: string(c.CA), Namespace: namespace, Token: token,
	}, claimed(claim))
	if other, ok := errors.AsType[*gitlab.OtherClusterError](err); ok {
		err = &ci.OtherClusterError{Project: project, Scope: scope, Cluster: other.Cluster}
	}
	return wrote, err
}

// Remove implements ci.ClusterWriter.
func (i integration) Remove(ctx context.Context, project int64, scope string, c ci.Cluster, claim ci.Claim) error {
	_, err := i.api.Remove(ctx, project, []string{scope}, c.URL, claimed(claim))
	return err
}

// Look implements ci.ClusterWriter.
func (i integration) Look(ctx context.Context, project int64, scope string, c ci.Cluster, namespace string, claim ci.Claim) (string, error) {
	return i.api.Look(ctx, project, gitlab.ProjectCluster{Scope: scope, APIURL: c.URL, CA: string(c.CA), Namespace: namespace}, claimed(claim))
}

// Mark implements ci.ClusterWriter.
func (i integration) Mark(token string) string { return gitlab.TokenMark(token) }
