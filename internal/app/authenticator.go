package app

import (
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/accounts"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/keystore"
)

// newAuthenticator returns the judge of tokens. Without users it judges them by themselves: by what GitLab signed, and nothing
// that GitLab says of the account or the project now.
func newAuthenticator(cfg *config.Config, client *http.Client, log *slog.Logger, users *accounts.Directory) (*authn.GitLab, error) {
	ac := tokenRules(cfg)
	ac.HTTPClient, ac.Now, ac.Logger = client, time.Now, log
	if users == nil {
		ac.CIProject = func(int64) authn.ProjectStanding { return authn.ProjectServed }
	} else {
		ac.UserState, ac.CIProject = users.UserState, users.Project
		if users.Conditional() {
			ac.Admitted = users.Admitted
		}
	}
	a, err := authn.New(ac)
	if err != nil {
		return nil, fmt.Errorf("setting up authentication: %w", err)
	}
	return a, nil
}

// tokenRules is what the configuration says about tokens.
func tokenRules(cfg *config.Config) authn.Config {
	ac := authn.Config{
		Issuer: cfg.GitLab.URL, ClientIDs: cfg.Authn.ClientIDs, Leeway: cfg.Authn.Leeway.Duration,
		KeyRefresh: cfg.Authn.KeyRefresh.Duration, MaxKeyAge: cfg.Authn.KeyMaxAge.Duration,
		JWKSURL: cfg.Authn.Keys.URL, KeyFile: cfg.Authn.Keys.File, MaxTokenBytes: cfg.Authn.MaxTokenBytes,
		UnprotectedProjects: map[int64]bool{}, Environments: []string{cfg.CI.Environment},
	}
	for _, id := range cfg.CI.UnprotectedProjects {
		ac.UnprotectedProjects[id] = true
	}
	if ci := cfg.Authn.CI; ci != nil {
		ac.CIAudience, ac.CIIssuer, ac.MaxCIAge = ci.Audience, ci.Issuer, ci.MaxAge.Duration
	}
	return ac
}

// newKnowledge returns what authentication knows of users and projects: nothing yet.
func newKnowledge(cfg *config.Config) (*accounts.Knowledge, error) {
	rules, err := accountRules(cfg)
	if err != nil {
		return nil, err
	}
	return accounts.NewKnowledge(rules, time.Now), nil
}

// accountRules says which users and jobs are let in.
func accountRules(cfg *config.Config) (accounts.Rules, error) {
	policy, err := cfg.Authz.Policy()
	if err != nil {
		return accounts.Rules{}, err
	}
	r := accounts.Rules{Policy: policy, MappedRight: cfg.Authn.Require.MappedRight, Groups: cfg.Authn.Require.Groups}
	if cfg.Authn.CI != nil {
		settings := ciSettings(cfg)
		r.CI = &settings
	}
	return r, nil
}

// reviewRoute is the TokenReview webhook.
func reviewRoute(cfg *config.Config, auth authn.Authenticator, log *slog.Logger, reviewed func(authn.Review)) httpserver.Route {
	return httpserver.Route{Path: "/authenticate", Handler: authn.Handler(auth, log, reviewed, cfg.Authn.APIAudiences...)}
}

// keysOf keeps the signing keys of an authenticator in the cluster.
func keysOf(cfg *config.Config, c *clients, auth keystore.Keeper, log *slog.Logger) *keystore.Store {
	return keystore.New(keystore.Options{
		Kube: c.kube, Auth: auth, Origin: cfg.GitLab.URL + " " + cfg.Authn.Keys.URL, MaxAge: cfg.Authn.KeyMaxAge.Duration, Logger: log,
	})
}
