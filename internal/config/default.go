package config

import (
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// setDefaults fills in what the file left out. It is the only place that knows a default.
func setDefaults(c *Config) {
	duration := func(d *Duration, def time.Duration) {
		if d.Duration == 0 {
			d.Duration = def
		}
	}
	text := func(s *string, def string) {
		if *s == "" {
			*s = def
		}
	}
	number := func(n *int, def int) {
		if *n == 0 {
			*n = def
		}
	}
	number(&c.GitLab.SampleSize, 20)
	duration(&c.Listeners.DrainDelay, 5*time.Second)
	number(&c.Listeners.Webhooks.MaxInFlight, 256)
	number(&c.Authn.MaxTokenBytes, 64<<10)
	duration(&c.Authn.Leeway, 10*time.Second)
	duration(&c.Authn.KeyRefresh, 5*time.Minute)
	duration(&c.Authn.KeyMaxAge, 24*time.Hour)
	if ci := c.Authn.CI; ci != nil {
		text(&ci.Issuer, c.GitLab.URL)
		duration(&ci.MaxAge, time.Hour)
	}
	if len(c.Authz.Roles) == 0 {
		c.Authz.Roles = []Role{
			{ClusterRole: "edit", Levels: []string{"maintainer", "owner"}},
			{ClusterRole: "view", Levels: []string{"developer"}},
		}
	}
	if len(c.Authz.Kinds) == 0 {
		c.Authz.Kinds = []string{"group", "project", "user"}
	}
	text(&c.Authz.Archived, "view")
	text(&c.Authz.MarkedForDeletion, "view")
	text(&c.Authz.LoginHint, "Log in with kubelogin (kubectl oidc-login) through "+c.GitLab.URL+".")
	number(&c.Authz.Explain.Replicas, 1)
	text(&c.RBACSync.Mode, ModePlan)
	duration(&c.RBACSync.Interval, 5*time.Minute)
	text(&c.RBACSync.PodSecurity, "baseline")
	number(&c.RBACSync.Concurrency, 8)
	text(&c.RBACSync.Deletion.Policy, DeletionRetain)
	duration(&c.RBACSync.Deletion.Grace, 7*24*time.Hour)
	if len(c.RBACSync.Templates.Kinds) == 0 {
		c.RBACSync.Templates.Kinds = rbacsync.DefaultTemplateKinds()
	}
	limits := &c.RBACSync.Limits
	if limits.PerGroup == (Limit{}) {
		limits.PerGroup = Limit{Count: 10, Fraction: 0.1}
	}
	if limits.Overall == (Limit{}) {
		limits.Overall = Limit{Count: 50, Fraction: 0.02}
	}
	if limits.Policy == (Limit{}) {
		limits.Policy = Limit{Count: 10}
	}
	duration(&limits.Window, time.Hour)
	number(&limits.CreationsPerHour, 20)
	text(&c.CI.Delivery, DeliveryVariables)
	text(&c.CI.Environment, "ICC-K8s")
	duration(&c.CI.TokenLifetime, 720*time.Hour)
	duration(&c.CI.Handover, time.Hour)
}
