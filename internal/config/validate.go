package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/validate/content"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeconfig"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Values of rbacsync.mode and ci.delivery.
const (
	ModePlan    = "plan"
	ModeEnforce = "enforce"

	DeliveryVariables   = "variables"
	DeliveryIDToken     = "id-token"
	DeliveryAgent       = "agent"
	DeliveryCertificate = "certificate"
	DeliveryNone        = "none"

	TokenInVariable = "variable"
	TokenInFile     = "file"

	NamespaceProject = "project"
	NamespaceGroup   = "group"

	DeletionRetain = "retain"
	DeletionDelete = "delete"
)

// MaxTokenLifetime is the longest life of a CI token that the cage in deploy/manifests lets us ask for.
const MaxTokenLifetime = 90 * 24 * time.Hour

var deliveries = []string{DeliveryVariables, DeliveryIDToken, DeliveryAgent, DeliveryCertificate, DeliveryNone}

var tokenPlaces = []string{TokenInVariable, TokenInFile}

var (
	podSecurityLevels   = []string{"privileged", "baseline", "restricted"}
	podSecurityDefaults = []string{"baseline", "restricted"}
)

// faults collects what is wrong, each with its path.
type faults struct {
	list   []error
	unread []string // keys whose value could not be taken: that is reported, and what follows from it is not
}

func (f *faults) add(bad bool, path, format string, args ...any) {
	if bad && f.known(path) {
		f.list = append(f.list, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
	}
}

// known reports whether the values at these paths, and all in them, are what the file says. A rule that compares keys
// asks for the others.
func (f *faults) known(paths ...string) bool {
	within := func(path, section string) bool {
		rest, ok := strings.CutPrefix(path, section)
		return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
	}
	return !slices.ContainsFunc(f.unread, func(u string) bool {
		return u == "" || slices.ContainsFunc(paths, func(p string) bool { return within(p, u) || within(u, p) })
	})
}

// validate returns every fault of a configuration whose defaults are set, but those that come from unread keys.
func validate(c *Config, unread []string) []error {
	f := faults{unread: unread}
	f.add(c.APIVersion != APIVersion, "apiVersion", "want %q, not %q", APIVersion, c.APIVersion)
	f.add(c.Kind != Kind, "kind", "want %q, not %q", Kind, c.Kind)
	c.GitLab.validate(&f, c)
	c.Listeners.validate(&f, c)
	c.Authn.validate(&f, c)
	validateBlanks(&f, "", reflect.ValueOf(*c))
	f.add(c.Cluster.PublicURL != "" && !isSafeURL(c.Cluster.PublicURL), "cluster.publicURL", "want https://host[:port], not %q", redacted(c.Cluster.PublicURL))
	if c.Cluster.Name != "" {
		err := kubeconfig.CheckName(c.Cluster.Name)
		f.add(err != nil, "cluster.name", "%v", err)
	}
	for i, id := range c.Cluster.Replaces {
		f.add(id != "unnamed" && !clusterID.MatchString(id), fmt.Sprintf("cluster.replaces[%d]", i), "want the id of a cluster, as the finding ci_other_cluster names it, or unnamed, not %q", id)
	}
	if _, err := c.Authz.Policy(); err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			at, what, ok := strings.Cut(line, ": ")
			if !ok {
				at, what = "", line
			}
			f.add(true, strings.TrimSuffix("authz."+at, "."), "%s", what)
		}
	}
	for i, n := range c.Authz.ReservedNames {
		bad := authz.NormalizePath(strings.TrimSuffix(n, "*")) == "" || strings.Contains(strings.TrimSuffix(n, "*"), "*")
		f.add(bad, fmt.Sprintf("authz.reservedNames[%d]", i), "%q is not a name, or a name with * at its end", n)
	}
	f.add(c.Authz.Explain.Replicas < 0, "authz.explain.replicas", "%d is negative", c.Authz.Explain.Replicas)
	c.RBACSync.validate(&f)
	c.CI.validate(&f, c)
	c.Web.validate(&f, c)
	c.History.validate(&f)
	return f.list
}

func (h History) validate(f *faults) {
	f.add(h.Days < 1 || h.Days > 3660, "history.days", "want 1 to 3660, not %d", h.Days)
	f.add(h.PseudonymiseAfter.Duration < time.Hour, "history.pseudonymiseAfter", "%s is shorter than 1h: a mistake of GitLab could not be undone", h.PseudonymiseAfter)
	f.add(h.MaxBytes < 64<<10 || h.MaxBytes > 10<<20, "history.maxBytes", "want 65536 to 10485760, not %d", h.MaxBytes)
}

func (g GitLab) validate(f *faults, c *Config) {
	f.add(g.URL == "", "gitlab.url", "is missing: the address of GitLab, e.g. https://gitlab.example.com")
	g.validateURL(f)
	f.add(g.ReadTokenFile == "", "gitlab.readTokenFile", "is missing: the path of a file with an administrator's access token, scope read_api")
	f.add(g.SampleSize > 60, "gitlab.sampleSize", "want at most 60, not %d: GitLab allows 200 lists of members a minute", g.SampleSize)
	if used := c.CI.deliveries(); g.WriteTokenFile == "" && f.known("ci") && slices.ContainsFunc(used, func(d string) bool { return d != DeliveryNone }) {
		f.add(true, "gitlab.writeTokenFile", "is missing: ci.delivery %s writes into projects and needs a token with scope api; or set ci.delivery: none", strings.Join(used, ", "))
	}
}

// notInExternalURL matches what people copy behind GitLab's external URL: its API, its pages of login and administration,
// and a slash.
var notInExternalURL = regexp.MustCompile(`(?i)/(api(/.*)?|users/sign_in.*|oauth(/.*)?|admin(/.*)?|\.well-known/.*|-/.*)?/*$`)

// validateURL compares gitlab.url with what GitLab can write into tokens as their issuer.
func (g GitLab) validateURL(f *faults) {
	if g.URL == "" {
		return
	}
	if u, err := url.Parse(strings.TrimSpace(g.URL)); err == nil && u.Host != "" {
		u.User, u.RawQuery, u.ForceQuery, u.Fragment, u.RawPath = nil, "", false, "", ""
		u.Host = strings.ToLower(u.Host)
		u.Path = notInExternalURL.ReplaceAllString(u.Path, "")
		if u.Scheme == "http" && !isSafeURL(u.String()) {
			u.Scheme = "https"
		}
		if right := u.String(); right != g.URL && isSafeURL(right) {
			f.add(true, "gitlab.url", "want GitLab's external URL as it stands in tokens (iss): https, and no API path, user, query or slash at the end: write %s", right)
			return
		}
	}
	f.add(!isSafeURL(g.URL), "gitlab.url", "want https://host[:port][/path], not %q", redacted(g.URL))
}

func (l Listeners) validate(f *faults, all *Config) {
	f.add(l.DrainDelay.Duration < 0 || l.DrainDelay.Duration > time.Minute, "listeners.drainDelay", "want 1ms to 1m, not %s", l.DrainDelay)
	if all.Authn.Disabled && all.Authz.Explain.Disabled {
		f.add(l.Webhooks.Address != "", "listeners.webhooks.address", "nothing is served there with authn.disabled and authz.explain.disabled: leave listeners.webhooks out")
	} else {
		l.Webhooks.validate(f)
	}
	h := l.Hooks
	if h.Address != "" {
		if bad := badAddress(h.Address); bad != "" {
			f.add(true, "listeners.hooks.address", "%s", bad)
		}
		f.add(h.SecretFile == "" && h.SigningKeyFile == "" && f.known("listeners.hooks.signingKeyFile"), "listeners.hooks.secretFile", "is missing: the file with the secret token of GitLab's system hook")
		f.add(h.CertFile == "" && !isLoopback(h.Address), "listeners.hooks.certFile", "is missing: only a loopback address may speak plain HTTP")
		f.add((h.CertFile == "") != (h.KeyFile == ""), "listeners.hooks", "certFile and keyFile belong together")
	}
	if l.Metrics.Address != "" {
		if bad := badAddress(l.Metrics.Address); bad != "" {
			f.add(true, "listeners.metrics.address", "%s", bad)
		}
		f.add((l.Metrics.CertFile == "") != (l.Metrics.KeyFile == ""), "listeners.metrics", "certFile and keyFile belong together")
		f.add(l.Metrics.TokenFile != "" && l.Metrics.CertFile == "" && !isLoopback(l.Metrics.Address) && f.known("listeners.metrics"), "listeners.metrics.certFile",
			"is missing: with tokenFile, only a loopback address may speak plain HTTP, because whoever reads along has the token")
	}
	if l.Web.Address != "" {
		if bad := badAddress(l.Web.Address); bad != "" {
			f.add(true, "listeners.web.address", "%s", bad)
		}
		f.add((l.Web.CertFile == "") != (l.Web.KeyFile == ""), "listeners.web", "certFile and keyFile belong together")
		f.add(l.Web.CertFile == "" && !isLoopback(l.Web.Address), "listeners.web.certFile", "is missing: only a loopback address may speak plain HTTP, because tokens and sessions cross it")
	}
	l.validateClashes(f)
}

func (w Listener) validate(f *faults) {
	if bad := badAddress(w.Address); bad != "" {
		f.add(true, "listeners.webhooks.address", "%s", bad)
	}
	f.add(w.CertFile == "", "listeners.webhooks.certFile", "is missing: kube-apiserver speaks to webhooks by TLS only")
	f.add(w.KeyFile == "", "listeners.webhooks.keyFile", "is missing: the PEM file with the key of certFile")
	f.add(w.ClientCAFile == "" && !isLoopback(w.Address) && f.known("listeners.webhooks.address"), "listeners.webhooks.clientCAFile",
		"is missing: only on a loopback address may callers go without a client certificate")
	f.add(w.MaxInFlight < 1 || w.MaxInFlight > 100000, "listeners.webhooks.maxInFlight", "want 1 to 100000, not %d", w.MaxInFlight)
}

// validateClashes finds addresses of which only one can be listened on.
func (l Listeners) validateClashes(f *faults) {
	all := []struct{ path, address string }{
		{"listeners.webhooks.address", l.Webhooks.Address},
		{"listeners.hooks.address", l.Hooks.Address},
		{"listeners.metrics.address", l.Metrics.Address},
		{"listeners.web.address", l.Web.Address},
	}
	for i, a := range all {
		for _, b := range all[:i] {
			f.add(clash(a.address, b.address) && f.known(b.path), a.path, "%s can't be listened on beside %s (%s): give each listener a port of its own", a.address, b.address, b.path)
		}
	}
}

func (a Authn) validate(f *faults, all *Config) {
	f.add(len(a.ClientIDs) == 0, "authn.clientIDs", "is missing: the application id that kubelogin logs in with")
	for i, id := range a.ClientIDs {
		f.add(strings.TrimSpace(id) == "", fmt.Sprintf("authn.clientIDs[%d]", i), "is empty")
	}
	f.add(a.Leeway.Duration > time.Minute, "authn.leeway", "%s is more than a minute: set the clocks instead", a.Leeway)
	f.add(a.MaxTokenBytes < 2048 || a.MaxTokenBytes > 512<<10, "authn.maxTokenBytes", "want 2048 to %d, not %d", 512<<10, a.MaxTokenBytes)
	f.add(a.Keys.URL != "" && a.Keys.File != "", "authn.keys", "give url or file, not both")
	f.add(a.Keys.URL != "" && !isSafeURL(a.Keys.URL), "authn.keys.url", "want an https URL, not %q", redacted(a.Keys.URL))
	for i, aud := range a.APIAudiences {
		f.add(strings.TrimSpace(aud) == "", fmt.Sprintf("authn.apiAudiences[%d]", i), "is empty")
	}
	for i, id := range a.Require.Groups {
		f.add(id <= 0, fmt.Sprintf("authn.require.groups[%d]", i), "%d is not a group id", id)
	}
	if a.Disabled {
		f.add(a.Require.MappedRight || len(a.Require.Groups) > 0, "authn.require", "does not hold with authn.disabled: kube-apiserver lets every person with an account in GitLab in; remove it, or judge tokens here")
		f.add(len(a.APIAudiences) > 0, "authn.apiAudiences", "is of no use with authn.disabled: remove it")
	}
	a.validateAudiences(f)
	if a.CI == nil {
		return
	}
	f.add(a.CI.Audience == "", "authn.ci.audience", "is missing: the aud that jobs write into their id_tokens")
	f.add(slices.Contains(a.ClientIDs, a.CI.Audience) && f.known("authn.clientIDs"), "authn.ci.audience",
		"must not be one of authn.clientIDs: the audience is what distinguishes a user's token from a job's")
	f.add(a.CI.Issuer != all.GitLab.URL && !isSafeURL(a.CI.Issuer), "authn.ci.issuer", "want an https URL, not %q", redacted(a.CI.Issuer))
}

// validateAudiences finds an audience that is named twice: each says alone what a token is for. That of CI jobs among those of
// people has a rule of its own.
func (a Authn) validateAudiences(f *faults) {
	seen := map[string]string{}
	add := func(path, audience string) {
		if first := seen[audience]; audience != "" && first != "" {
			f.add(f.known(first), path, "%q is %s already: each audience says alone what a token is for", audience, first)
			return
		}
		seen[audience] = path
	}
	for i, id := range a.ClientIDs {
		add(fmt.Sprintf("authn.clientIDs[%d]", i), id)
	}
	for i, id := range a.APIAudiences {
		add(fmt.Sprintf("authn.apiAudiences[%d]", i), id)
	}
	if a.CI != nil && !slices.Contains(a.ClientIDs, a.CI.Audience) {
		add("authn.ci.audience", a.CI.Audience)
	}
}

func (r RBACSync) validate(f *faults) {
	r.Deletion.validate(f)
	r.Limits.validate(f)
	r.validateAdoptions(f)
	for i, k := range r.Templates.Kinds {
		_, err := rbacsync.ParseTemplateKind(k)
		f.add(err != nil, fmt.Sprintf("rbacsync.templates.kinds[%d]", i), "%v", err)
	}
	f.add(r.Mode != ModePlan && r.Mode != ModeEnforce, "rbacsync.mode", "want %s or %s, not %q", ModePlan, ModeEnforce, r.Mode)
	f.add(r.Interval.Duration < 10*time.Second, "rbacsync.interval", "%s is too short: GitLab's API limits allow no less than 10s", r.Interval)
	f.add(r.WritesPerSecond != 0 && (r.WritesPerSecond < 1 || r.WritesPerSecond > 1e5), "rbacsync.writesPerSecond", "want 0 (no limit) or 1 to 100000, not %v", r.WritesPerSecond)
	f.add(r.Concurrency < 1 || r.Concurrency > 64, "rbacsync.concurrency", "want 1 to 64, not %d", r.Concurrency)
	f.add(!slices.Contains(podSecurityDefaults, r.PodSecurity), "rbacsync.podSecurity", "want one of %s, not %q; another level is for single sources (rbacsync.podSecurityExceptions)",
		strings.Join(podSecurityDefaults, ", "), r.PodSecurity)
	for i, e := range r.PodSecurityExceptions {
		path := fmt.Sprintf("rbacsync.podSecurityExceptions[%d]", i)
		_, ok := ParseSource(e.Source)
		f.add(!ok, path+".source", "want group/ID, project/ID or user/ID, not %q: what gives more rights names ids, because anybody can take a path", e.Source)
		f.add(!slices.Contains(podSecurityLevels, e.Level), path+".level", "want one of %s, not %q", strings.Join(podSecurityLevels, ", "), e.Level)
	}
}

func (d Deletion) validate(f *faults) {
	f.add(d.Policy != DeletionRetain && d.Policy != DeletionDelete, "rbacsync.deletion.policy", "want %s or %s, not %q", DeletionRetain, DeletionDelete, d.Policy)
	f.add(d.Grace.Duration < time.Hour, "rbacsync.deletion.grace", "%s is too short: who notices the loss within less than 1h?", d.Grace)
}

func (l Limits) validate(f *faults) {
	for _, e := range []struct {
		name  string
		limit Limit
	}{{"perGroup", l.PerGroup}, {"overall", l.Overall}, {"policy", l.Policy}} {
		f.add(e.limit.Count < 0, "rbacsync.limits."+e.name+".count", "%d is negative: for no brakes set rbacsync.limits.disabled", e.limit.Count)
		f.add(!(e.limit.Fraction >= 0 && e.limit.Fraction <= 1), "rbacsync.limits."+e.name+".fraction", "want 0 to 1, not %v", e.limit.Fraction)
	}
	f.add(l.CreationsPerHour < 0, "rbacsync.limits.creationsPerHour", "%d is negative", l.CreationsPerHour)
	for i, id := range l.CreationsExempt {
		f.add(id <= 0, fmt.Sprintf("rbacsync.limits.creationsExempt[%d]", i), "%d is not a user id", id)
	}
}

func (r RBACSync) validateAdoptions(f *faults) {
	namespaces, sources := map[string]bool{}, map[string]bool{}
	for i, a := range r.Adopt {
		path := fmt.Sprintf("rbacsync.adopt[%d]", i)
		_, ok := ParseSource(a.Source)
		f.add(!ok, path+".source", "want group/ID, project/ID or user/ID, not %q", a.Source)
		bad := a.Namespace == "" || authz.NormalizePath(a.Namespace) != a.Namespace || a.Namespace == "default" || a.Namespace == "gl-k8s-integrator" || strings.HasPrefix(a.Namespace, "kube-")
		f.add(bad, path+".namespace", "%q is not the name of a namespace that can be given away", a.Namespace)
		f.add((a.Namespace != "" && namespaces[a.Namespace]) || (a.Source != "" && sources[a.Source]), path, "the namespace or the source is adopted twice")
		namespaces[a.Namespace], sources[a.Source] = true, true
	}
}

// deliveries returns the ways of delivery that are in use, each once.
func (c CI) deliveries() []string {
	out := []string{c.Delivery}
	for _, p := range c.Projects {
		if p.Delivery != "" && !slices.Contains(out, p.Delivery) {
			out = append(out, p.Delivery)
		}
	}
	return out
}

func (c CI) validate(f *faults, all *Config) {
	f.add(!slices.Contains(deliveries, c.Delivery), "ci.delivery", "want one of %s, not %q", strings.Join(deliveries, ", "), c.Delivery)
	f.add(!slices.Contains(tokenPlaces, c.KubeconfigToken), "ci.kubeconfigToken", "want %s, not %q", strings.Join(tokenPlaces, " or "), c.KubeconfigToken)
	f.add(strings.ContainsAny(c.Environment, "*?\n"), "ci.environment", "%q must be one environment's exact name", c.Environment)
	f.add(c.TokenLifetime.Duration < time.Hour, "ci.tokenLifetime", "%s is shorter than 1h: jobs would outlive their token", c.TokenLifetime)
	f.add(c.TokenLifetime.Duration > MaxTokenLifetime, "ci.tokenLifetime", "%s is more than %s, which deploy/manifests/40-own-cage.yaml allows", c.TokenLifetime, Duration{MaxTokenLifetime})
	f.add(c.TokenHold.Duration < 0, "ci.tokenHold", "%s is negative", c.TokenHold)
	f.add(c.Handover.Duration > 30*24*time.Hour, "ci.handover", "%s is more than 720h: jobs don't run that long", c.Handover)
	for i, id := range c.UnprotectedProjects {
		f.add(id <= 0, fmt.Sprintf("ci.unprotectedProjects[%d]", i), "%d is not a project id", id)
	}
	seen := map[string]bool{}
	for i, p := range c.Projects {
		p.validate(f, fmt.Sprintf("ci.projects[%d]", i), all)
		f.add(p.Source != "" && seen[p.Source], fmt.Sprintf("ci.projects[%d].source", i), "%s is named twice", p.Source)
		seen[p.Source] = true
	}
	used := c.deliveries()
	f.add(slices.Contains(used, DeliveryIDToken) && all.Authn.CI == nil && f.known("ci"), "authn.ci",
		"is missing: delivery %s lets jobs in by their ID tokens, for the audience in authn.ci.audience", DeliveryIDToken)
	if slices.Contains(used, DeliveryAgent) && c.Agent == nil && f.known("ci") {
		f.add(true, "ci.agent", "is missing: delivery %s goes through GitLab's agent", DeliveryAgent)
	}
	if c.Agent != nil {
		c.Agent.validate(f)
	}
}

func (p CIProject) validate(f *faults, path string, all *Config) {
	id, ok := ParseSource(p.Source)
	f.add(!ok || id.Kind == authz.UserSource, path+".source", "want project/ID or group/ID, not %q: what gives more rights names ids, because anybody can take a path", p.Source)
	f.add(p.Delivery != "" && !slices.Contains(deliveries, p.Delivery), path+".delivery", "want one of %s, not %q", strings.Join(deliveries, ", "), p.Delivery)
	f.add(p.Namespace != "" && p.Namespace != NamespaceProject && p.Namespace != NamespaceGroup, path+".namespace", "want %s or %s, not %q", NamespaceProject, NamespaceGroup, p.Namespace)
	f.add(p.Namespace == NamespaceGroup && id.Kind == authz.GroupSource, path+".namespace",
		"%s must name a project: Developers can make projects in a group, and would get the credentials of its namespace", NamespaceGroup)
	f.add(p.KubeconfigToken != "" && !slices.Contains(tokenPlaces, p.KubeconfigToken), path+".kubeconfigToken", "want %s, not %q", strings.Join(tokenPlaces, " or "), p.KubeconfigToken)
	f.add(p.Delivery == "" && p.Namespace == "" && p.Explain == nil && p.KubeconfigToken == "", path, "says none of delivery, namespace, explain and kubeconfigToken")
	f.add(p.Namespace == NamespaceGroup && f.known("authz.kinds") && (!slices.Contains(all.Authz.Kinds, NamespaceProject) || !slices.Contains(all.Authz.Kinds, NamespaceGroup)),
		path+".namespace", "%s needs groups and projects that get namespaces: authz.kinds must have both", NamespaceGroup)
}

func (a CIAgent) validate(f *faults) {
	f.add(a.ID <= 0, "ci.agent.id", "%d is not the id of an agent", a.ID)
	f.add(!agentName.MatchString(a.Name), "ci.agent.name", "%q is not the name of an agent: lower case letters, digits and -", a.Name)
	id, ok := ParseSource(a.ConfigProject)
	f.add(!ok || id.Kind != authz.ProjectSource, "ci.agent.configProject", "want project/ID, not %q", a.ConfigProject)
	f.add(!isSafeURL(a.KASURL), "ci.agent.kasURL", "want https://host/k8s-proxy/, not %q", redacted(a.KASURL))
}

// clusterID is the form of a Kubernetes UID.
var clusterID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

var agentName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// Policy makes the authz.Policy that the section describes.
func (a Authz) Policy() (authz.Policy, error) {
	pc := authz.PolicyConfig{
		Bots: a.Bots, Exclude: authz.Filter{Paths: a.Exclude.Paths, People: a.Exclude.People},
		Archived: authz.Frozen(a.Archived), MarkedForDeletion: authz.Frozen(a.MarkedForDeletion),
	}
	var errs faults
	levels := func(path string, names []string) []authz.Level {
		var out []authz.Level
		for _, name := range names {
			l, err := authz.ParseLevel(name)
			if err != nil {
				errs.add(true, path+".levels", "%v", err)
				continue
			}
			out = append(out, l)
		}
		return out
	}
	source := func(path, s string) authz.SourceID {
		id, ok := ParseSource(s)
		errs.add(!ok, path, "want group/ID, project/ID or user/ID, not %q", s)
		return id
	}
	clusterRole := func(path, name string) {
		for _, bad := range content.IsPathSegmentName(name) { // as kube-apiserver judges names of ClusterRoles
			errs.add(true, path+".clusterRole", "%q is not the name of a ClusterRole: it %s", name, bad)
		}
	}
	for i, r := range a.Roles {
		path := fmt.Sprintf("roles[%d]", i)
		clusterRole(path, r.ClusterRole)
		errs.add(len(r.Levels) == 0, path+".levels", "is empty: nobody would get the role; name access levels, or leave the role out")
		pc.Roles = append(pc.Roles, authz.Role{ClusterRole: r.ClusterRole, Levels: levels(path, r.Levels)})
	}
	for _, k := range a.Kinds {
		pc.Kinds = append(pc.Kinds, authz.SourceKind(k))
	}
	for i, s := range a.Exclude.Sources {
		if id := source(fmt.Sprintf("exclude.sources[%d]", i), s); id.ID != 0 {
			pc.Exclude.Sources = append(pc.Exclude.Sources, id)
		}
	}
	for i, e := range a.Extra {
		path := fmt.Sprintf("extra[%d]", i)
		clusterRole(path, e.ClusterRole)
		x := authz.ExtraRole{
			Source: source(path+".source", e.Source), Path: e.Path, Below: e.Below, ClusterRole: e.ClusterRole,
			Levels: levels(path, e.Levels), Group: e.Group, GroupPath: e.GroupPath,
		}
		if x.Source.ID != 0 {
			pc.Extra = append(pc.Extra, x)
		}
	}
	p, err := authz.NewPolicy(pc)
	return p, errors.Join(append(errs.list, err)...)
}

// ParseSource reads "group/7", "project/42" or "user/3".
func ParseSource(s string) (authz.SourceID, bool) {
	return authz.ParseLabel(strings.Replace(s, "/", "-", 1))
}

// isSafeURL accepts https, and http on a loopback address alone: tokens must not cross a network in the clear.
func isSafeURL(s string) bool {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return false
	}
	return u.Scheme == "https" || (u.Scheme == "http" && isLoopback(net.JoinHostPort(u.Hostname(), "0")))
}

// redacted returns a URL without a password, and nothing of what can't be read as one: it may hold a secret.
func redacted(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "(not a URL)"
	}
	if u.RawQuery != "" {
		u.RawQuery = "…"
	}
	return u.Redacted()
}

// validateBlanks finds text that begins or ends with a blank: it is compared letter by letter with what has none.
func validateBlanks(f *faults, path string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			validateBlanks(f, path, v.Elem())
		}
	case reflect.Struct:
		for field, value := range v.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if name != "" {
				validateBlanks(f, strings.TrimPrefix(path+"."+name, "."), value)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			validateBlanks(f, fmt.Sprintf("%s[%d]", path, i), v.Index(i))
		}
	case reflect.String:
		s := v.String()
		f.add(s != strings.TrimSpace(s) && strings.TrimSpace(s) != "", path, "begins or ends with a blank: leave it out")
	default: // no text
	}
}

func badAddress(a string) string {
	if a == "" {
		return "is missing: host:port, e.g. 127.0.0.1:8443"
	}
	if _, _, err := net.SplitHostPort(a); err != nil {
		return fmt.Sprintf("want host:port, not %q", a)
	}
	return ""
}

// clash reports whether two addresses name the same port of one interface, or of all.
func clash(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB || portA == "0" || portA == "" {
		return false
	}
	covers := func(host, other string) bool {
		return host == "" || host == "::" || (host == "0.0.0.0" && !strings.Contains(other, ":"))
	}
	local := func(host string) string { return strings.Replace(host, "localhost", "127.0.0.1", 1) }
	return covers(hostA, hostB) || covers(hostB, hostA) || local(hostA) == local(hostB)
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}
