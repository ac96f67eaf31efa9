package app

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// newReader returns the reader of GitLab with the token that only reads.
func newReader(cfg *config.Config, c *clients, log *slog.Logger) (*gitlab.Reader, error) {
	r, err := gitlab.NewReader(gitlab.Options{
		BaseURL: cfg.GitLab.URL, Token: secretFile(cfg.GitLab.ReadTokenFile, "gitlab.readTokenFile"),
		HTTPClient: c.gitlabHTTP, Logger: log, IncludeUsers: true, CIVariables: shownVariables(cfg),
	})
	if err != nil {
		return nil, fmt.Errorf("setting up the reader of GitLab: %w", err)
	}
	return r, nil
}

// newSyncer puts the engine together. mode overrides the configuration's; more, if set, adds what only `serve` has.
func newSyncer(cfg *config.Config, c *clients, mode syncer.Mode, log *slog.Logger, more func(*syncer.Options, *gitlab.Reader)) (*syncer.Syncer, error) {
	reader, err := newReader(cfg, c, log)
	if err != nil {
		return nil, err
	}
	policy, err := cfg.Authz.Policy()
	if err != nil {
		return nil, err
	}
	set, err := settings(cfg)
	if err != nil {
		return nil, err
	}
	provisioner, err := newProvisioner(cfg, c, log)
	if err != nil {
		return nil, err
	}
	jobRules, err := deploy.RulesOf(kubename.CIClusterRole)
	if err != nil {
		return nil, err
	}
	o := syncer.Options{
		Shipped: map[string][]rbacv1.PolicyRule{kubename.CIClusterRole: jobRules},
		Reader: &provenReader{
			Reader: reader, tokenFile: cfg.GitLab.ReadTokenFile,
			prove: func(ctx context.Context) error { return proveIssuer(ctx, c.gitlabHTTP, cfg.GitLab.URL) },
		},
		Kube: c.kube, Policy: policy, Settings: set, Reserved: cfg.Authz.ReservedNames,
		Mode: mode, Interval: cfg.RBACSync.Interval.Duration, Watch: c.watch,
		Limits: limits(cfg), Held: heldStore(c), Dynamic: c.dynamic, DynamicWatch: c.follow, OwnNamespace: deploy.Namespace,
		Apply: cluster.ApplyOptions{Concurrency: cfg.RBACSync.Concurrency, QPS: float32(cfg.RBACSync.WritesPerSecond)},
		CI:    provisioner, Now: time.Now, Logger: log,
		Questions: reader, Memory: snapshotsOf(c), Roles: cluster.NewRoleReader(c.kube, append(policy.ClusterRoles(), kubename.CIClusterRole)...),
	}
	if more != nil {
		more(&o, reader)
	}
	return syncer.New(o)
}

// newAuthenticator returns the judge of tokens. Without p it judges them by themselves: by what GitLab signed, and nothing
// that GitLab says of the account or the project now.
func newAuthenticator(cfg *config.Config, client *http.Client, log *slog.Logger, p *people) (*authn.GitLab, error) {
	ac := authn.Config{
		Issuer: cfg.GitLab.URL, ClientIDs: cfg.Authn.ClientIDs, Leeway: cfg.Authn.Leeway.Duration,
		KeyRefresh: cfg.Authn.KeyRefresh.Duration, MaxKeyAge: cfg.Authn.KeyMaxAge.Duration,
		JWKSURL: cfg.Authn.Keys.URL, KeyFile: cfg.Authn.Keys.File, MaxTokenBytes: cfg.Authn.MaxTokenBytes,
		HTTPClient: client, Now: time.Now, Logger: log,
		UnprotectedProjects: map[int64]bool{}, Environments: []string{cfg.CI.Environment},
	}
	if p == nil {
		ac.CIProject = func(int64) authn.ProjectStanding { return authn.ProjectServed }
	} else {
		ac.UserState, ac.CIProject = p.state, p.project
		if p.conditional() {
			ac.Admitted = p.admitted
		}
	}
	for _, id := range cfg.CI.UnprotectedProjects {
		ac.UnprotectedProjects[id] = true
	}
	if ci := cfg.Authn.CI; ci != nil {
		ac.CIAudience, ac.CIIssuer, ac.MaxCIAge = ci.Audience, ci.Issuer, ci.MaxAge.Duration
	}
	a, err := authn.New(ac)
	if err != nil {
		return nil, fmt.Errorf("setting up authentication: %w", err)
	}
	return a, nil
}

// newPeopleOf returns what authentication knows of people, learned from the engine's Snapshots.
func newPeopleOf(cfg *config.Config) (*people, error) {
	policy, err := cfg.Authz.Policy()
	if err != nil {
		return nil, err
	}
	p := &people{require: cfg.Authn.Require, policy: policy, now: time.Now}
	if cfg.Authn.CI != nil {
		settings := ciSettings(cfg)
		p.ci = &settings
	}
	return p, nil
}

// lastSnapshot returns the Snapshot of the last published round.
func lastSnapshot(s *syncer.Syncer) func() *authz.Snapshot {
	return func() *authz.Snapshot {
		st := s.State()
		if st == nil {
			return nil
		}
		return st.View.Snapshot
	}
}
