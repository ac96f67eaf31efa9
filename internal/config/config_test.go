package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

const minimal = `apiVersion: gl-k8s-integrator/v1alpha1
kind: Config
gitlab: {url: "https://gitlab.example.com", readTokenFile: /r, writeTokenFile: /w}
listeners: {webhooks: {address: "127.0.0.1:8443", certFile: /c, keyFile: /k}}
authn: {clientIDs: [5f1c]}
`

func TestDefaults(t *testing.T) {
	c, err := config.Parse([]byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	if c.RBACSync.Mode != config.ModePlan {
		t.Errorf("mode = %q: a new installation must only look", c.RBACSync.Mode)
	}
	if c.CI.Environment != "ICC-K8s" || c.RBACSync.PodSecurity != "baseline" || c.RBACSync.Interval.Duration != 5*time.Minute {
		t.Errorf("defaults: %+v", c)
	}
	p, err := c.Authz.Policy()
	if err != nil || strings.Join(p.ClusterRoles(), " ") != "edit view" {
		t.Errorf("default policy: %v, %v", p.ClusterRoles(), err)
	}
}

// TestNoDefaultIsWrittenTwice: what a file leaves out is what the packages take where nobody says anything.
func TestNoDefaultIsWrittenTwice(t *testing.T) {
	c, err := config.Parse([]byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	limit := func(l config.Limit) rbacsync.Limit { return rbacsync.Limit{Causes: l.Count, Fraction: l.Fraction} }
	l := c.RBACSync.Limits
	for name, pair := range map[string][2]any{
		"authn.leeway":         {c.Authn.Leeway.Duration, authn.DefaultLeeway},
		"authn.keyRefresh":     {c.Authn.KeyRefresh.Duration, authn.DefaultKeyRefresh},
		"authn.keyMaxAge":      {c.Authn.KeyMaxAge.Duration, authn.DefaultMaxKeyAge},
		"authn.maxTokenBytes":  {c.Authn.MaxTokenBytes, authn.DefaultMaxTokenBytes},
		"authz.archived":       {authz.Frozen(c.Authz.Archived), authz.DefaultFrozen},
		"rbacsync.interval":    {c.RBACSync.Interval.Duration, rbacsync.DefaultInterval},
		"rbacsync.concurrency": {c.RBACSync.Concurrency, rbacsync.DefaultConcurrency},
		"rbacsync.podSecurity": {c.RBACSync.PodSecurity, rbacsync.DefaultPodSecurity},
		"rbacsync.limits":      {rbacsync.Limits{PerGroup: limit(l.PerGroup), Overall: limit(l.Overall), Policy: limit(l.Policy), Window: l.Window.Duration, Creations: l.CreationsPerHour}, rbacsync.DefaultLimits()},
		"ci.delivery":          {rbacsync.Delivery(c.CI.Delivery), rbacsync.DefaultDelivery},
		"ci.tokenLifetime":     {c.CI.TokenLifetime.Duration, rbacsync.DefaultTokenLifetime},
		"ci.handover":          {c.CI.Handover.Duration, rbacsync.DefaultHandover},
		"rbacsync.templates":   {c.RBACSync.Templates.Kinds, rbacsync.DefaultTemplateKinds()},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%s: %v in the configuration, %v in the package", name, pair[0], pair[1])
		}
	}
	p, err := c.Authz.Policy()
	if err != nil || !reflect.DeepEqual(p.Config().Roles, authz.DefaultRoles()) {
		t.Errorf("authz.roles: %v, want %v (%v)", p.Config().Roles, authz.DefaultRoles(), err)
	}
}

// TestWhatTheCageRefuses: what kube-apiserver would refuse to the integrator is refused here, with a reason.
func TestWhatTheCageRefuses(t *testing.T) {
	const base = `apiVersion: gl-k8s-integrator/v1alpha1
kind: Config
gitlab: {url: "https://gitlab.example.com", readTokenFile: /r, writeTokenFile: /w}
cluster: {publicURL: "https://icc.example.com:6443"}
listeners: {webhooks: {address: "127.0.0.1:8443", certFile: /c, keyFile: /k}}
authn: {clientIDs: [a]}
`
	for more, want := range map[string]string{
		"rbacsync: {podSecurity: privileged}":                                         "rbacsync.podSecurity: want one of baseline, restricted",
		"rbacsync: {podSecurityExceptions: [{source: project/1, level: privileged}]}": "",
		"rbacsync: {adopt: [{namespace: gl-k8s-integrator, source: group/1}]}":        "rbacsync.adopt[0].namespace",
		"rbacsync: {adopt: [{namespace: monitoring, source: group/1}]}":               "",
		"ci: {tokenLifetime: 2161h}":                                                  "ci.tokenLifetime: 2161h0m0s is more than 2160h0m0s",
		"ci: {tokenLifetime: 2160h}":                                                  "",
	} {
		_, err := config.Parse([]byte(base + more))
		if (want == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", more, err, want)
		}
	}
}

// TestAllFaultsAtOnce: who fixes a file wants to fix it once.
func TestAllFaultsAtOnce(t *testing.T) {
	_, err := config.Parse([]byte(`apiVersion: v1
kind: Config
gitlab: {url: "http://gitlab.example.com/", readTokenfile: /r}
cluster: {publicURL: "icc.example.com"}
listeners:
  webhooks: {address: ":8443", maxInFlight: -1}
  hooks: {address: "0.0.0.0:8080"}
  drainDelay: 2m
authn:
  clientIDs: [a]
  leeway: 10m
  ci: {audience: a}
  maxTokenBytes: 100
  keys: {url: "http://gitlab.example.com/keys", file: /k}
  apiAudiences: [""]
  require: {groups: [-7]}
authz:
  roles: [{clusterRole: edit, levels: [boss]}]
  kinds: [team]
  reservedNames: ["a*b"]
  exclude: {sources: [haw], paths: ["**", "a[b"]}
  extra: [{source: haw/world, clusterRole: x, levels: [developer]}, {source: project/1, clusterRole: "", below: true}]
  archived: maybe
rbacsync:
  mode: "on"
  podSecurity: strict
  interval: 1s
  podSecurityExceptions: [{source: haw/world, level: privileged}]
  deletion: {policy: keep, grace: 1m}
  adopt: [{namespace: kube-x, source: haw}, {namespace: a, source: group/1}, {namespace: a, source: group/2}]
  templates: {kinds: [Pod, RoleBinding.v1.rbac.authorization.k8s.io/rolebindings]}
  limits: {perGroup: {count: -1}, overall: {fraction: 2}, creationsPerHour: -1, creationsExempt: [0]}
ci: {delivery: mail, environment: "ICC*", unprotectedProjects: [0]}
Ci: {}
`))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		"apiVersion: want", "gitlab.url: want GitLab's external URL", `unknown field "gitlab.readTokenfile"`, "gitlab.readTokenFile: is missing",
		"cluster.publicURL", "listeners.webhooks.certFile", "listeners.webhooks.clientCAFile", "listeners.hooks.secretFile", "listeners.hooks.certFile",
		"listeners.webhooks.maxInFlight", "listeners.drainDelay", "authn.maxTokenBytes", "authn.keys: give url or file", "authn.keys.url", "authn.apiAudiences[0]",
		"authn.require.groups[0]", "authn.leeway", "authn.ci.audience: must not be one of", "authz.roles[0].levels: unknown GitLab access level \"boss\"", "authz.kinds: unknown kind \"team\"",
		"authz.reservedNames[0]", "rbacsync.mode", "rbacsync.podSecurity:", "rbacsync.interval", "podSecurityExceptions[0].source", "ci.delivery", "ci.environment",
		"authz.exclude.sources[0]: want group/ID", "authz.exclude.paths[0]: \"**\" would leave out everything", "authz.exclude.paths[1]: \"a[b\" is not a pattern",
		"authz.extra[0].source: want group/ID", "authz.extra[0]: below: there is nothing below project/1", "authz.extra[0]: clusterRole is empty",
		"authz.extra[0]: levels or a group id", "authz.archived: want view, none or keep",
		"rbacsync.deletion.policy: want retain or delete", "rbacsync.deletion.grace: 1m0s is too short", "rbacsync.adopt[0].source", "rbacsync.adopt[0].namespace",
		"rbacsync.adopt[2]: the namespace or the source is adopted twice", "rbacsync.limits.perGroup.count", "rbacsync.limits.overall.fraction",
		"rbacsync.limits.creationsPerHour", "rbacsync.limits.creationsExempt[0]",
		"ci.unprotectedProjects[0]", `unknown field "Ci"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(err)
	}
}

// TestFaultsDoNotHideEachOther: a value of a wrong type hides neither another one nor an unknown key, and nothing is told
// that only follows from it.
func TestFaultsDoNotHideEachOther(t *testing.T) {
	_, err := config.Parse([]byte(`apiVersion: gl-k8s-integrator/v1alpha1
kind: Config
gitlab: {url: "https://gitlab.example.com", readtokenFile: /r, readTokenFile: /r, caFile: [a]}
cluster: 7
listeners:
  webhooks: {address: 8443, certFile: /c, keyFile: {a: b}}
  hooks: {address: "127.0.0.1:1", signingKeyFile: 5}
authn:
  clientIDs: 5f1c0a7e
  leeway: 10
  require: {groups: [1.5, x]}
  ci: text
authz:
  bots: "yes"
  kinds: {group: true}
  roles: [{clusterRole: edit, levels: []}, view]
rbacsync:
  interval: 5
  concurrency: many
  limits: {overall: {fraction: half}}
  adopt: [{}, {}]
frob: 1
frob: 2
ci: {delivery: [none], projects: [{source: 1, namespace: group}, {source: 2}]}
`))
	want := `line 23: key "frob" already set in map
authn.ci: want a section, not text
authn.clientIDs: want a list, not text: put it in [ ]
authn.leeway: want a duration such as 30s, 5m or 24h, not 10
authn.require.groups[0]: want a whole number, not 1.5
authn.require.groups[1]: want a whole number, not text
authz.bots: want true or false, not text
authz.kinds: want a list, not a section
authz.roles[1]: want a section, not text
ci.delivery: want text, not a list
ci.projects[0].source: want text, not 1: put it in quotes
ci.projects[1].source: want text, not 2: put it in quotes
cluster: want a section, not 7
unknown field "frob": it is mistyped, or a later version of gl-k8s-integrator knows it
gitlab.caFile: want text, not a list
unknown field "gitlab.readtokenFile": it is mistyped, or a later version of gl-k8s-integrator knows it
listeners.hooks.signingKeyFile: want text, not 5: put it in quotes
listeners.webhooks.address: want text, not 8443: put it in quotes
listeners.webhooks.keyFile: want text, not a section
rbacsync.concurrency: want a whole number, not text
rbacsync.interval: want a duration such as 30s, 5m or 24h, not 5
rbacsync.limits.overall.fraction: want a number, not text
authz.roles[0].levels: is empty: nobody would get the role; name access levels, or leave the role out
rbacsync.adopt[0].source: want group/ID, project/ID or user/ID, not ""
rbacsync.adopt[0].namespace: "" is not the name of a namespace that can be given away
rbacsync.adopt[1].source: want group/ID, project/ID or user/ID, not ""
rbacsync.adopt[1].namespace: "" is not the name of a namespace that can be given away`
	if err == nil {
		t.Fatal("accepted")
	}
	if d := cmp.Diff(strings.Split(want, "\n"), strings.Split(err.Error(), "\n")); d != "" {
		t.Errorf("faults (-want +got)\n%s", d)
	}
	for in, want := range map[string]string{
		"- a\n": "the file: want a section, not a list", "text": "the file: want a section, not text",
	} {
		if _, err := config.Parse([]byte(in)); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", in, err, want)
		}
	}
}

// TestListenersOnOneAddress: serve could bind only one of them.
func TestListenersOnOneAddress(t *testing.T) {
	for address, bad := range map[string]bool{
		"127.0.0.1:8443": true, "localhost:8443": true, "0.0.0.0:8443": true, ":8443": true, "[::]:8443": true,
		"127.0.0.1:8444": false, "127.0.0.2:8443": false, "[::1]:8443": false,
	} {
		_, err := config.Parse([]byte(strings.Replace(minimal, "keyFile: /k}", `keyFile: /k}, metrics: {address: "`+address+`"}`, 1)))
		if got := err != nil && strings.Contains(err.Error(), "listeners.metrics.address: "+address+" can't be listened on beside 127.0.0.1:8443 (listeners.webhooks.address)"); got != bad {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, err := config.Parse([]byte(strings.Replace(minimal, `8443", certFile: /c, keyFile: /k}`, `0", certFile: /c, keyFile: /k}, metrics: {address: "127.0.0.1:0"}`, 1))); err != nil {
		t.Errorf("two ports that the system chooses: %v", err)
	}
}

// TestBrakesOff: the key was "off" once, which YAML takes for false.
func TestBrakesOff(t *testing.T) {
	for _, text := range []string{"rbacsync: {limits: {disabled: true}}\n", "rbacsync:\n  limits:\n    disabled: true\n"} {
		if c, err := config.Parse([]byte(minimal + text)); err != nil || !c.RBACSync.Limits.Disabled {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestLineOfYAMLFault: the line where the fault was noticed, as an editor counts.
func TestLineOfYAMLFault(t *testing.T) {
	for in, want := range map[string]int{
		"a: 1\nb:\n  c: 1\n d: 2\n": 4, "a: 1\nb: [1]\n  c: 2\n": 3, "a: 1\n- b\n": 2, "a: 1\nb: {c: 1\nd: 2\n": 3,
		"a: 1\nb: @x\n": 2, "a: 1\n\tb: 2\n": 2, "kind: Config\ngitlab: [\n": 2,
	} {
		if _, err := config.Parse([]byte(in)); err == nil || !strings.HasPrefix(err.Error(), fmt.Sprintf("not valid YAML: line %d: ", want)) {
			t.Errorf("%q: %v, want line %d", in, err, want)
		}
	}
}

func TestBadYAML(t *testing.T) {
	for in, want := range map[string]string{
		"a: [":                                      "not valid YAML",
		minimal + "authn: {clientIDs: [x]}\n":       "already",
		minimal + "rbacsync: {mode: on}\n":          "rbacsync.mode: want text, not true: put it in quotes",
		minimal + "rbacsync: {interval: often}\n":   "not a duration",
		minimal + "rbacsync: {interval: \"-5m\"}\n": "negative",
	} {
		if _, err := config.Parse([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v lacks %q", in, err, want)
		}
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	if _, err := config.Load(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte("kind: Config"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(path); err == nil || !strings.HasPrefix(err.Error(), "configuration "+path+":\n  ") {
		t.Errorf("faulty file: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte("apiVersion: x\nkind: [1,2"))
	f.Add([]byte(minimal + "ci: {unprotectedProjects: [1, 2]}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := config.Parse(data)
		if err != nil {
			if strings.TrimSpace(err.Error()) == "" {
				t.Fatal("an error without a text")
			}
			return
		}
		// What is accepted is complete: nothing that rights depend on is left to chance.
		if c.GitLab.URL == "" || len(c.Authn.ClientIDs) == 0 || (c.RBACSync.Mode != config.ModePlan && c.RBACSync.Mode != config.ModeEnforce) {
			t.Fatalf("accepted an incomplete configuration: %+v", c)
		}
	})
}

// TestFaultsOfCI: every fault of the section ci at once, each with its path.
func TestFaultsOfCI(t *testing.T) {
	_, err := config.Parse([]byte(strings.Replace(minimal, ", writeTokenFile: /w", "", 1) + `authz: {kinds: [project]}
ci:
  delivery: id-token
  handover: 2000h
  agent: {id: 0, name: "My Agent", configProject: haw/infra, kasURL: "http://kas.example.com"}
  projects:
    - {source: haw/world, delivery: none}
    - {source: user/3, delivery: none}
    - {source: project/42, delivery: mail, namespace: team}
    - {source: project/42, namespace: group}
    - {source: project/43, path: haw/x}
    - {source: group/7, delivery: agent, namespace: group}
`))
	if err == nil {
		t.Fatal("no fault found")
	}
	for _, want := range []string{
		"gitlab.writeTokenFile: is missing: ci.delivery id-token, none, mail, agent", "authn.ci: is missing", "ci.handover", "ci.agent.id", "ci.agent.name",
		"ci.agent.configProject", "ci.agent.kasURL", "ci.projects[0].source: want project/ID or group/ID", "ci.projects[1].source", "ci.projects[2].delivery",
		"ci.projects[2].namespace", "ci.projects[3].source: project/42 is named twice", "ci.projects[3].namespace: group needs groups and projects", "ci.projects[4]: says none of delivery",
		"ci.projects[5].namespace: group must name a project",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
	_, err = config.Parse([]byte(minimal + "ci: {delivery: agent}\n"))
	if err == nil || !strings.Contains(err.Error(), "ci.agent: is missing") {
		t.Errorf("delivery agent without an agent: %v", err)
	}
	c, err := config.Parse([]byte(minimal + `ci:
  agent: {id: 9, name: icc, configProject: project/12, kasURL: "https://kas.example.com/k8s-proxy/"}
  projects: [{source: group/7, path: haw, delivery: agent}, {source: project/42, delivery: certificate, namespace: group}]
`))
	if err != nil || c.CI.Handover.Duration != time.Hour || len(c.CI.Projects) != 2 {
		t.Errorf("a right section: %+v, %v", c, err)
	}
}

// TestAFileForALaterVersion: who reads the error knows that the program is older than the file.
func TestAFileForALaterVersion(t *testing.T) {
	later := strings.Replace(minimal, "v1alpha1", "v1", 1) + "novelty: {a: 1}\n"
	_, err := config.Parse([]byte(later))
	if err == nil || strings.Count(err.Error(), "\n") != 0 || !strings.Contains(err.Error(), `"gl-k8s-integrator/v1" is of another version`) || !strings.Contains(err.Error(), config.APIVersion) {
		t.Errorf("another apiVersion: %v", err)
	}
	_, err = config.Parse([]byte(minimal + "novelty: {a: 1}\n"))
	if err == nil || err.Error() != `unknown field "novelty": it is mistyped, or a later version of gl-k8s-integrator knows it` {
		t.Errorf("a key of a later version: %v", err)
	}
}
