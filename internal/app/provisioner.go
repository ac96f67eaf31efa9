package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabversion"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// newProvisioner returns what makes and hands over the CI credentials.
func newProvisioner(cfg *config.Config, c *clients, log *slog.Logger) (*ci.Provisioner, error) {
	ca, err := c.publicCA()
	if err != nil {
		return nil, err
	}
	local := onThisMachine(cfg.GitLab.URL)
	conf := ci.Config{
		Kube: c.kube, Replaces: cfg.Cluster.Replaces, Cluster: ci.Cluster{URL: c.publicURL, CA: ca}, CA: c.publicCA, Scope: cfg.CI.Environment,
		Name: clusterName(cfg), Lifetime: cfg.CI.TokenLifetime.Duration, Handover: cfg.CI.Handover.Duration, Withhold: cfg.CI.TokenHold.Duration,
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
	conf.Expands = func(ctx context.Context) (bool, error) { return expands(ctx, vars) }
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

// expands reports whether this GitLab replaces references to variables in values.
func expands(ctx context.Context, vars *gitlab.Variables) (bool, error) {
	v, err := vars.Version(ctx)
	return err == nil && !v.Has(gitlabversion.VariableRaw), err
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
