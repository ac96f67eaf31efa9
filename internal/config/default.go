package config

import (
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// setDefaults fills in what the file left out. It is the only place that knows a default; one that a package needs too, for
// whoever uses it without a file, is taken from there, so that none is written down twice.
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
	number(&c.Authn.MaxTokenBytes, authn.DefaultMaxTokenBytes)
	duration(&c.Authn.Leeway, authn.DefaultLeeway)
	duration(&c.Authn.KeyRefresh, authn.DefaultKeyRefresh)
	duration(&c.Authn.KeyMaxAge, authn.DefaultMaxKeyAge)
	if ci := c.Authn.CI; ci != nil {
		text(&ci.Issuer, c.GitLab.URL)
		duration(&ci.MaxAge, authn.DefaultMaxCIAge)
	}
	if len(c.Authz.Roles) == 0 {
		c.Authz.Roles = defaultRoles()
	}
	if len(c.Authz.Kinds) == 0 {
		c.Authz.Kinds = []string{"group", "project", "user"}
	}
	text(&c.Authz.Archived, string(authz.DefaultFrozen))
	text(&c.Authz.MarkedForDeletion, string(authz.DefaultFrozen))
	text(&c.Authz.LoginHint, "Log in with kubelogin (kubectl oidc-login) through "+c.GitLab.URL+".")
	number(&c.Authz.Explain.Replicas, 1)
	text(&c.RBACSync.Mode, ModePlan)
	duration(&c.RBACSync.Interval, rbacsync.DefaultInterval)
	text(&c.RBACSync.PodSecurity, rbacsync.DefaultPodSecurity)
	number(&c.RBACSync.Concurrency, rbacsync.DefaultConcurrency)
	text(&c.RBACSync.Deletion.Policy, DeletionRetain)
	duration(&c.RBACSync.Deletion.Grace, 7*24*time.Hour)
	if len(c.RBACSync.Templates.Kinds) == 0 {
		c.RBACSync.Templates.Kinds = rbacsync.DefaultTemplateKinds()
	}
	limits, standard := &c.RBACSync.Limits, rbacsync.DefaultLimits()
	limit := func(l *Limit, def rbacsync.Limit) {
		if *l == (Limit{}) {
			*l = Limit{Count: def.Causes, Fraction: def.Fraction}
		}
	}
	limit(&limits.PerGroup, standard.PerGroup)
	limit(&limits.Overall, standard.Overall)
	limit(&limits.Policy, standard.Policy)
	duration(&limits.Window, standard.Window)
	number(&limits.CreationsPerHour, standard.Creations)
	text(&c.CI.Delivery, string(rbacsync.DefaultDelivery))
	text(&c.CI.Environment, "ICC-K8s")
	text(&c.CI.KubeconfigToken, TokenInFile)
	duration(&c.CI.TokenLifetime, rbacsync.DefaultTokenLifetime)
	duration(&c.CI.Handover, rbacsync.DefaultHandover)
	text(&c.Web.Language, "en")
	number(&c.History.Days, 400)
	duration(&c.History.PseudonymiseAfter, 30*24*time.Hour)
	number(&c.History.MaxBytes, 8<<20)
}

// defaultRoles are authz's, as a file says it.
func defaultRoles() []Role {
	var out []Role
	for _, r := range authz.DefaultRoles() {
		role := Role{ClusterRole: r.ClusterRole}
		for _, l := range r.Levels {
			role.Levels = append(role.Levels, strings.ToLower(l.String()))
		}
		out = append(out, role)
	}
	return out
}
