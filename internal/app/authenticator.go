package app

import (
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/accounts"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

// newAuthenticator returns the judge of tokens. Without p it judges them by themselves: by what GitLab signed, and nothing
// that GitLab says of the account or the project now.
func newAuthenticator(cfg *config.Config, client *http.Client, log *slog.Logger, p *accounts.Directory) (*authn.GitLab, error) {
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
		ac.UserState, ac.CIProject = p.UserState, p.Project
		if p.Conditional() {
			ac.Admitted = p.Admitted
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
func newPeopleOf(cfg *config.Config) (*accounts.Directory, error) {
	policy, err := cfg.Authz.Policy()
	if err != nil {
		return nil, err
	}
	p := &accounts.Directory{Require: cfg.Authn.Require, Policy: policy, Now: time.Now}
	if cfg.Authn.CI != nil {
		settings := ciSettings(cfg)
		p.Ci = &settings
	}
	return p, nil
}
