package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// maxAgentProjects is GitLab's limit of entries under ci_access.projects.
const maxAgentProjects = 500

// agentAccess is the part of an agent's configuration file that lets CI jobs in.
type agentAccess struct {
	CIAccess struct {
		Projects []agentProject `json:"projects"`
	} `json:"ci_access"`
}

type agentProject struct {
	ID           string   `json:"id"` // full path
	Environments []string `json:"environments"`
	// ProtectedBranchesOnly is what keeps jobs on unprotected branches out.
	ProtectedBranchesOnly bool                         `json:"protected_branches_only,omitempty"`
	AccessAs              map[string]map[string]string `json:"access_as"`
}

// AgentConfig prints the configuration that GitLab's agent needs for the projects with delivery agent.
func AgentConfig(ctx context.Context, cfg *config.Config, log *slog.Logger, out io.Writer) error {
	if cfg.CI.Agent == nil {
		return errors.New("no agent is configured: set ci.agent (id, name, configProject and kasURL; docs/configuration.md says what they are)")
	}
	client, err := gitlabClient(cfg.GitLab)
	if err != nil {
		return err
	}
	reader, err := newReader(cfg, client, log)
	if err != nil {
		return err
	}
	policy, err := cfg.Authz.Policy()
	if err != nil {
		return err
	}
	snap, err := reader.Snapshot(ctx)
	if err != nil {
		return err
	}
	if snap.MissingAll != "" {
		return fmt.Errorf("reading GitLab: %s", snap.MissingAll)
	}
	for i, p := range cfg.CI.Projects {
		id, _ := config.ParseSource(p.Source)
		if why := snap.Missing[id]; why != "" {
			log.WarnContext(ctx, "what could not be read of GitLab may be missing here", "at", fmt.Sprintf("ci.projects[%d]", i), "source", p.Source, "error", why)
		} else if !snap.Contains(id) {
			log.WarnContext(ctx, "GitLab has nothing of this id, so the entry is for no project: correct or remove it", "at", fmt.Sprintf("ci.projects[%d]", i), "source", p.Source)
		}
	}
	settings := ciSettings(cfg)
	projects := settings.ProjectsIn(rbacsync.DeliverAgent, snap, policy.Sources(snap))
	if len(projects) == 0 {
		log.WarnContext(ctx, "no project with a namespace has delivery agent, so this lets no job in: see ci.delivery, ci.projects and authz")
	}
	text, err := agentConfig(cfg, projects, settings.Unprotected)
	if err != nil {
		return err
	}
	_, err = out.Write(text)
	return err
}

func agentConfig(cfg *config.Config, projects []authz.Project, unprotected map[int64]bool) ([]byte, error) {
	if len(projects) > maxAgentProjects {
		return nil, fmt.Errorf("%d projects have delivery agent, GitLab takes %d in the configuration of one agent: choose another delivery for some of them (ci.projects)", len(projects), maxAgentProjects)
	}
	access := agentAccess{}
	access.CIAccess.Projects = []agentProject{}
	for _, p := range projects {
		access.CIAccess.Projects = append(access.CIAccess.Projects, agentProject{
			ID: p.Path, Environments: []string{cfg.CI.Environment}, ProtectedBranchesOnly: !unprotected[p.ID],
			AccessAs: map[string]map[string]string{"ci_job": {}},
		})
	}
	slices.SortFunc(access.CIAccess.Projects, func(a, b agentProject) int { return strings.Compare(a.ID, b.ID) })
	text, err := yaml.Marshal(access)
	if err != nil {
		return nil, fmt.Errorf("writing the agent's configuration: %w", err)
	}
	head := fmt.Sprintf("# .gitlab/agents/%s/config.yaml on the default branch of %s.\n", cfg.CI.Agent.Name, cfg.CI.Agent.ConfigProject) +
		"# Made by gl-k8s-integrator agent-config. access_as ci_job is what keeps jobs from the agent's own rights.\n"
	return append([]byte(head), text...), nil
}
