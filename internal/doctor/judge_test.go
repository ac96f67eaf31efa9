package doctor_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/clusterroles"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/doctor"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabversion"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/status"
)

var now = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// healthy are the facts of an installation with nothing wrong.
func healthy() *doctor.Facts {
	cfg := &config.Config{}
	cfg.GitLab = config.GitLab{URL: "https://gitlab.example.com", ReadTokenFile: "read", WriteTokenFile: "write"}
	cfg.Listeners.Hooks = config.HooksListener{Address: ":9443", SecretFile: "secret"}
	cfg.Authn.ClientIDs = []string{"kubelogin"}
	cfg.CI.Delivery = config.DeliveryVariables
	cfg.Web = config.Web{URL: "https://icc.example.com", ClientID: "page"}
	yes, no := true, false
	second := time.Second
	yesRole := clusterroles.Role{Exists: clusterroles.Answer{Verdict: clusterroles.Yes}, Bindable: clusterroles.Answer{Verdict: clusterroles.Yes}}
	return &doctor.Facts{
		Now: now, Config: cfg,
		GitLab: doctor.GitLab{Issuer: cfg.GitLab.URL, Keys: 2, Clock: &second, Version: "19.1.0-ee", Number: gitlabversion.Version{Major: 19, Minor: 1}},
		Read:   doctor.Token{Known: true, State: gitlab.TokenState{Username: "root", Admin: true, Scopes: []string{"read_api"}, Ends: now.AddDate(1, 0, 0)}},
		Write:  doctor.Token{Known: true, State: gitlab.TokenState{Username: "root", Admin: true, Scopes: []string{"api"}}},
		Applications: []doctor.Application{{ID: "kubelogin", Found: &gitlab.Application{
			ClientID: "kubelogin", RedirectURIs: doctor.RedirectURIs(), Scopes: []string{"openid"},
		}}},
		Page: &doctor.Application{ID: "page", Found: &gitlab.Application{
			ClientID: "page", Confidential: true, RedirectURIs: []string{"https://icc.example.com/signin/callback"}, Scopes: []string{"openid", "profile"},
		}},
		Hooks: doctor.Hooks{Known: true, All: []gitlab.HookState{
			{SystemHook: gitlab.SystemHook{ID: 1, URL: "https://integrator.example.com/hooks/gitlab", Cluster: "a"}, Named: true, Verify: true, Alert: "executable", Secret: &yes, Sign: &no},
			{SystemHook: gitlab.SystemHook{ID: 2, URL: "http://other.example.com/hooks/gitlab", Cluster: "b", Other: true}, Noise: true}, // another cluster's business
		}},
		Certificates: []doctor.Certificate{{What: "listeners.webhooks.certFile tls.crt", Begins: now.AddDate(0, -1, 0), Ends: now.AddDate(0, 2, 0)}},
		Cluster: doctor.Cluster{
			Version: "v1.34.1", Clock: &second, Roles: clusterroles.Roles{"edit": yesRole, "view": yesRole}, Want: 2, Ready: 2,
			Status: &status.Summary{Leader: status.Leader{Holder: "a", Renewed: now.Add(-time.Second)}, Mode: "enforce", Read: now.Add(-time.Minute), Activity: &status.Activity{
				Login: status.Seen{At: now.Add(-4 * time.Second), What: "user"}, Hook: status.Seen{At: now.Add(-time.Hour), What: "user_add_to_team", From: "10.0.0.7"},
			}},
			Started: []doctor.APIServer{{Where: "pod kube-system/kube-apiserver-a", Pod: true, Mounts: []string{"/etc/kubernetes/gl-k8s-integrator"}, Flags: map[string]string{
				"authentication-token-webhook-config-file": "/etc/kubernetes/gl-k8s-integrator/webhook.kubeconfig", "authentication-token-webhook-version": "v1",
				"authorization-config": "/etc/kubernetes/gl-k8s-integrator/authorization.yaml",
			}}},
		},
		Authn:   doctor.Webhook{File: "webhook.kubeconfig", URL: "https://127.0.0.1:8443/authenticate", Path: "/authenticate", Code: "wrong_token_type"},
		Explain: doctor.Webhook{File: "authorize.kubeconfig", URL: "https://127.0.0.1:8443/authorize", Path: "/authorize"},
		Through: doctor.Through{Known: true, Version: "v1"},
		Authorizers: doctor.Authorizers{
			File: "authorization.yaml", Types: []string{"Node", "RBAC", "Webhook"}, Ours: 2, FailurePolicy: "NoOpinion", Conditions: 1, Timeout: 2 * time.Second,
			Version: "v1", MatchVersion: "v1", Kept: 5 * time.Second,
		},
	}
}

type facts = doctor.Facts

// injected are faults as the facts show them, with what follows from them in the facts too, and the code that has to be first.
var injected = []struct {
	code, name string
	do         func(f *facts)
}{
	{"config", "a typing error in the file", func(f *facts) { *f = facts{Now: now, ConfigFault: `gitlab.urll: no such key`} }},
	{"files", "a token file is missing", func(f *facts) {
		f.FileFaults = []string{"gitlab.readTokenFile: open read: no such file or directory"}
		f.Read = doctor.Token{}
	}},
	{"files", "the key is another certificate's", func(f *facts) {
		f.FileFaults = []string{"listeners.webhooks.keyFile: it is not the key"}
		f.Cluster.Silent = true
	}},
	{"gitlab_away", "GitLab is down", func(f *facts) {
		f.GitLab = doctor.GitLab{Fault: doctor.Away, Text: "connection refused"}
		f.Read, f.Write, f.Applications, f.Hooks = doctor.Token{}, doctor.Token{}, nil, doctor.Hooks{}
		f.Cluster.Status.Failing, f.Cluster.Status.Read = "GitLab can't be reached", now.Add(-5*time.Hour)
	}},
	{"gitlab_untrusted", "another CA", func(f *facts) { f.GitLab = doctor.GitLab{Fault: doctor.Untrusted}; f.Cluster.Silent = true }},
	{"gitlab_name", "a certificate for another host", func(f *facts) { f.GitLab = doctor.GitLab{Fault: doctor.OtherName}; f.Cluster.Status.Failing = "x" }},
	{"gitlab_certificate", "GitLab's certificate has ended", func(f *facts) {
		f.GitLab = doctor.GitLab{Fault: doctor.Ended}
		f.Certificates = append(f.Certificates, doctor.Certificate{What: "GitLab", Begins: now.AddDate(-1, 0, 0), Ends: now.AddDate(0, 0, -1)})
	}},
	{"gitlab_answer", "a proxy answers", func(f *facts) { f.GitLab = doctor.GitLab{Fault: doctor.Odd, Text: "502 Bad Gateway"} }},
	{"issuer", "external_url is another", func(f *facts) {
		f.GitLab.Issuer = "https://git.example.com"
		f.Authn.Fault, f.Cluster.Status.Failing = doctor.Foreign, "gitlab.url is another"
	}},
	{"signing_keys", "the keys are behind a firewall", func(f *facts) { f.GitLab.KeysBad = "jwks_uri answers 403" }},
	{"gitlab_old", "GitLab 14", func(f *facts) {
		f.GitLab.Version, f.GitLab.Number, f.Cluster.Status.Failing = "14.10.5", gitlabversion.Version{Major: 14, Minor: 10}, "too old"
		f.Config.CI.Delivery = config.DeliveryIDToken
	}},
	{"gitlab_lacks", "signed hooks before GitLab 19", func(f *facts) {
		f.GitLab.Version, f.GitLab.Number = "18.4.1", gitlabversion.Version{Major: 18, Minor: 4}
		f.Config.Listeners.Hooks.SecretFile, f.Config.Listeners.Hooks.SigningKeyFile = "", "key"
		f.Hooks.All[0].Sign = nil
	}},
	{"gitlab_lacks", "ID tokens before GitLab 15.7", func(f *facts) {
		f.GitLab.Version, f.GitLab.Number = "15.2.0", gitlabversion.Version{Major: 15, Minor: 2}
		f.Config.CI.Projects = []config.CIProject{{Delivery: config.DeliveryIDToken}}
	}},
	{"clock_here", "our clock is an hour ahead", func(f *facts) { f.GitLab.Clock, f.Cluster.Clock = new(-time.Hour), new(-time.Hour+time.Second) }},
	{"clock_gitlab", "GitLab's clock is behind", func(f *facts) { f.GitLab.Clock = new(-time.Minute) }},
	{"clock_apiserver", "kube-apiserver's clock is ahead", func(f *facts) { f.Cluster.Clock = new(time.Minute) }},
	{"read_token", "revoked", func(f *facts) {
		f.Read = doctor.Token{Refused: "401"}
		f.Applications = nil
		f.Cluster.Status.Failing = "401"
	}},
	{"read_token_scope", "read_user alone", func(f *facts) {
		f.Read.State.Scopes = []string{"read_user"}
		f.Read.State.Admin = false
		f.Cluster.Status.Failing = "403"
	}},
	{"read_token_admin", "an ordinary user's", func(f *facts) { f.Read.State.Admin = false; f.Applications = nil }},
	{"read_token_strong", "the scope api, and the same for both", func(f *facts) { f.Read.State.Scopes = []string{"api"}; f.Shared = true }},
	{"read_token_ends", "in a week", func(f *facts) { f.Read.State.Ends = now.AddDate(0, 0, 7) }},
	{"write_token", "expired", func(f *facts) { f.Write = doctor.Token{Refused: "401"}; f.Hooks = doctor.Hooks{} }},
	{"write_token_scope", "read_api", func(f *facts) { f.Write.State.Scopes = []string{"read_api"}; f.Hooks = doctor.Hooks{} }},
	{"write_token_admin", "delivery agent by an ordinary user's", func(f *facts) {
		f.Write.State.Admin = false
		f.Config.CI.Delivery = config.DeliveryAgent
		f.Hooks = doctor.Hooks{}
	}},
	{"write_token_ends", "tomorrow", func(f *facts) { f.Write.State.Ends = now.AddDate(0, 0, 1) }},
	{"token_shared", "one token for both", func(f *facts) { f.Shared = true }},
	{"application", "a typing error in clientIDs", func(f *facts) { f.Applications[0].Found = nil }},
	{"application", "a user's own", func(f *facts) { f.Applications[0].Found, f.Applications[0].Client = nil, doctor.ClientTaken }},
	{"application_refused", "as kubelogin is told, without an administrator's token", func(f *facts) {
		f.Applications = []doctor.Application{{ID: "kubelogin", Unlisted: true, Client: doctor.ClientRefused}}
	}},
	{"page_application", "none", func(f *facts) { f.Page.Found = nil }},
	{"page_application", "public", func(f *facts) { f.Page.Found.Confidential = false }},
	{"page_application", "another address", func(f *facts) { f.Page.Found.RedirectURIs = []string{"https://icc.example.com/"} }},
	{"page_application", "openid alone", func(f *facts) { f.Page.Found.Scopes = []string{"openid"} }},
	{"application_secret", "confidential", func(f *facts) { f.Applications[0].Found.Confidential = true }},
	{"application_redirect", "one port alone", func(f *facts) { f.Applications[0].Found.RedirectURIs = []string{"http://localhost:8000"} }},
	{"application_scope", "read_user", func(f *facts) { f.Applications[0].Found.Scopes = []string{"read_user"} }},
	{"hook", "another cluster's alone", func(f *facts) { f.Hooks.All = f.Hooks.All[1:] }},
	{"hook_disabled", "after failures", func(f *facts) { f.Hooks.All[0].Alert = "temporarily_disabled" }},
	{"hook_unproven", "its secret was lost by an edit", func(f *facts) { f.Hooks.All[0].Secret = new(false) }},
	{"hook_unproven", "a secret, where only signatures are taken", func(f *facts) {
		f.Config.Listeners.Hooks.SecretFile, f.Config.Listeners.Hooks.SigningKeyFile = "", "key"
	}},
	{"hook_refused", "the file is not readable for serve", func(f *facts) { f.Cluster.Status.HooksRefused = "permission denied" }},
	{"hook_secret", "another than in the file", func(f *facts) {
		f.Cluster.Status.Activity.Hook, f.Cluster.Status.Activity.Refused = status.Seen{}, status.Seen{At: now, What: "no_proof", From: "10.0.0.7"}
	}},
	{"hook_silent", "registered but never received", func(f *facts) { f.Cluster.Status.Activity.Hook = status.Seen{} }},
	{"hook_silent", "GitLab's test does not arrive", func(f *facts) { f.Hooks.Lost = true }},
	{"hook_plain", "http", func(f *facts) { f.Hooks.All[0].URL = "http://integrator.example.com/hooks/gitlab" }},
	{"hook_unverified", "SSL verification off", func(f *facts) { f.Hooks.All[0].Verify = false }},
	{"hook_noise", "pushes", func(f *facts) { f.Hooks.All[0].Noise = true }},
	{"hook_twice", "an old one", func(f *facts) { f.Hooks.All[1] = f.Hooks.All[0]; f.Hooks.All[1].ID = 3 }},
	{"certificate", "the webhooks' has ended", func(f *facts) {
		f.Certificates[0].Ends = now.Add(-time.Hour)
		f.Authn.Fault, f.Through.Fault, f.Explain.Fault = doctor.Ended, doctor.Ended, doctor.Ended
	}},
	{"certificate_ends", "in a week", func(f *facts) { f.Certificates[0].Ends = now.AddDate(0, 0, 7) }},
	{"apiserver_away", "down", func(f *facts) { f.Cluster = doctor.Cluster{Fault: doctor.Away}; f.Through = doctor.Through{} }},
	{"apiserver_untrusted", "another CA", func(f *facts) { f.Cluster = doctor.Cluster{Fault: doctor.Untrusted}; f.Through = doctor.Through{} }},
	{"apiserver_name", "by an address that its certificate has not", func(f *facts) { f.Cluster = doctor.Cluster{Fault: doctor.OtherName}; f.Through = doctor.Through{} }},
	{"apiserver_credentials", "the token's Secret was deleted", func(f *facts) { f.Cluster = doctor.Cluster{Fault: doctor.Credentials}; f.Through = doctor.Through{} }},
	{"not_installed", "no manifests", func(f *facts) {
		f.Cluster = doctor.Cluster{Fault: doctor.NotInstalled, Silent: true}
		f.Through = doctor.Through{}
	}},
	{"fence", "a binding was deleted", func(f *facts) {
		f.Cluster.FenceMissing = "gl-k8s-integrator-tenant-fence"
		f.Cluster.Status.Findings = map[string]int{"fence": 1}
	}},
	{"fence_roles", "a role of its own", func(f *facts) { f.Cluster.FenceRoles = "deployer" }},
	{"deletion", "the right is not given", func(f *facts) { f.Cluster.Deletion = "rbacsync.deletion.policy is delete"; f.Cluster.Silent = true }},
	{"role", "a typing error", func(f *facts) {
		f.Cluster.Roles["edti"] = clusterroles.Role{Exists: clusterroles.Answer{Verdict: clusterroles.No}, Bindable: clusterroles.Answer{Verdict: clusterroles.No}}
		f.Cluster.Status.Findings = map[string]int{"cluster_role_missing": 1}
	}},
	{"role_bind", "not among resourceNames", func(f *facts) {
		f.Cluster.Roles["deployer"] = clusterroles.Role{Exists: clusterroles.Answer{Verdict: clusterroles.Yes}, Bindable: clusterroles.Answer{Verdict: clusterroles.No}}
		f.Cluster.Status.Findings = map[string]int{"cluster_role_bind": 1}
	}},
	{"pod_security", "a label was taken off", func(f *facts) { f.Cluster.Privileged = []string{"team"} }},
	{"apiserver_flags", "a picture", func(f *facts) { f.GivenUnfit = "flags.png: it holds no flags" }},
	{"apiserver_login", "the flag was lost by an upgrade", func(f *facts) {
		delete(f.Cluster.Started[0].Flags, "authentication-token-webhook-config-file")
		f.Through = doctor.Through{Known: true, Fault: doctor.Unasked}
	}},
	{"apiserver_authorizers", "--authorization-mode alone", func(f *facts) {
		f.Cluster.Started[0].Flags = map[string]string{"authentication-token-webhook-config-file": "/etc/kubernetes/gl-k8s-integrator/w", "authentication-token-webhook-version": "v1", "authorization-mode": "Node,RBAC"}
	}},
	{"apiserver_mount", "the folder is not mounted", func(f *facts) {
		f.Cluster.Started[0].Mounts = []string{"/etc/kubernetes/pki", "/etc/kubernetes/gl"}
		f.Through = doctor.Through{Known: true, Fault: doctor.Unasked}
	}},
	{"webhook_version", "the flag is missing", func(f *facts) { delete(f.Cluster.Started[0].Flags, "authentication-token-webhook-version") }},
	{"webhook_version", "v1beta1 in a file", func(f *facts) {
		f.Given = &doctor.APIServer{Where: "unit", Flags: map[string]string{"authentication-token-webhook-config-file": "w", "authentication-token-webhook-version": "v1beta1", "authorization-config": "a"}}
	}},
	{"webhook_version", "as the integrator was asked", func(f *facts) { f.Cluster.Started, f.Through.Version = nil, "v1beta1" }},
	{"authentication_file", "another kind", func(f *facts) { f.Judges = doctor.Judges{File: "a", Unfit: "kind"} }},
	{"authentication_issuer", "another GitLab's", func(f *facts) { f.Judges = doctor.Judges{File: "a", Issuers: []string{"https://old.example.com"}} }},
	{"authentication_audience", "made before the CI audience was set", func(f *facts) {
		f.Judges = doctor.Judges{File: "a", Known: true, Lacks: []string{"ci"}, Differs: []string{"claimValidationRules"}}
	}},
	{"authentication_rules", "an edit by hand", func(f *facts) { f.Judges = doctor.Judges{File: "a", Known: true, Differs: []string{"claimMappings"}} }},
	{"webhook_cache", "an hour", func(f *facts) { f.Cluster.Started[0].Flags["authentication-token-webhook-cache-ttl"] = "1h" }},
	{"webhook_file", "no YAML", func(f *facts) {
		f.Authn = doctor.Webhook{File: "webhook.kubeconfig", Unfit: "yaml"}
		f.Through.Fault = doctor.Unasked
	}},
	{"webhook_plain", "http", func(f *facts) { f.Authn.URL = "http://127.0.0.1:8443/authenticate"; f.Through.Fault = doctor.Odd }},
	{"webhook_path", "that of the other webhook", func(f *facts) { f.Authn.Path, f.Authn.Fault = "/authorize", doctor.Odd; f.Through.Fault = doctor.Odd }},
	{"webhook_path", "as kube-apiserver alone sees it", func(f *facts) { f.Through.Fault = doctor.Path }},
	{"webhook_away", "serve does not run", func(f *facts) {
		f.Authn.Fault, f.Explain.Fault, f.Through.Fault = doctor.Away, doctor.Away, doctor.Away
		f.Cluster.Status.Renewed = now.Add(-time.Hour)
	}},
	{"webhook_untrusted", "a new CA", func(f *facts) { f.Authn.Fault, f.Through.Fault = doctor.Untrusted, doctor.Untrusted }},
	{"webhook_name", "a certificate without the Service's IP", func(f *facts) { f.Through.Fault = doctor.OtherName }},
	{"webhook_ended", "as kube-apiserver alone sees it", func(f *facts) { f.Through.Fault = doctor.Ended }},
	{"webhook_client", "a client certificate of another CA", func(f *facts) { f.Authn.Fault, f.Through.Fault = doctor.ClientRefuse, doctor.ClientRefuse }},
	{"webhook_answer", "another server", func(f *facts) { f.Authn.Fault = doctor.Odd }},
	{"webhook_foreign", "the other GitLab's integrator", func(f *facts) { f.Authn.Fault = doctor.Foreign }},
	{"webhook_unasked", "the flag is missing", func(f *facts) { f.Through.Fault = doctor.Unasked }},
	{"authorization_file", "another kind", func(f *facts) { f.Authorizers = doctor.Authorizers{File: "a", Unfit: "kind is Config", Ours: -1} }},
	{"authorization_rbac", "the webhook alone", func(f *facts) { f.Authorizers.Types, f.Authorizers.Ours = []string{"Node", "Webhook"}, 1 }},
	{"authorization_node", "forgotten", func(f *facts) { f.Authorizers.Types, f.Authorizers.Ours = []string{"RBAC", "Webhook"}, 1 }},
	{"authorization_webhook", "forgotten", func(f *facts) { f.Authorizers.Types, f.Authorizers.Ours = []string{"Node", "RBAC"}, -1 }},
	{"authorization_disabled", "explain.disabled", func(f *facts) { f.Config.Authz.Explain.Disabled = true }},
	{"authorization_order", "the webhook first", func(f *facts) { f.Authorizers.Types, f.Authorizers.Ours = []string{"Webhook", "Node", "RBAC"}, 0 }},
	{"authorization_policy", "Deny", func(f *facts) { f.Authorizers.FailurePolicy = "Deny" }},
	{"authorization_version", "v1beta1", func(f *facts) { f.Authorizers.Version = "v1beta1" }},
	{"authorization_version", "that of the conditions", func(f *facts) { f.Authorizers.MatchVersion = "" }},
	{"authorization_cache", "an hour", func(f *facts) { f.Authorizers.Kept = time.Hour }},
	{"authorization_conditions", "none", func(f *facts) { f.Authorizers.Conditions = 0 }},
	{"authorization_timeout", "half a minute", func(f *facts) { f.Authorizers.Timeout = 30 * time.Second }},
	{"no_round", "serve never ran", func(f *facts) { f.Cluster.Status, f.Cluster.Silent, f.Cluster.Ready = nil, true, 0 }},
	{"no_leader", "serve was stopped", func(f *facts) {
		f.Cluster.Status.Renewed, f.Cluster.Status.Read = now.Add(-time.Hour), now.Add(-time.Hour)
	}},
	{"replicas", "one does not start", func(f *facts) { f.Cluster.Ready = 1 }},
	{"failing", "an error of its own", func(f *facts) { f.Cluster.Status.Failing, f.Cluster.Status.Read = "x", now.Add(-time.Hour) }},
	{"old_reading", "an hour", func(f *facts) { f.Cluster.Status.Read = now.Add(-time.Hour) }},
	{"held", "a limit", func(f *facts) { f.Cluster.Status.Held = 12 }},
	{"finding", "a foreign variable", func(f *facts) { f.Cluster.Status.Findings = map[string]int{"ci_foreign_variable": 3} }},
	{"finding", "another cluster's variables", func(f *facts) {
		f.Cluster.Status.Findings, f.Cluster.Status.Texts = map[string]int{"ci_other_cluster": 2}, []string{"ci_other_cluster: cluster b has variables there"}
	}},
}

// TestEachFaultIsNamedFirst: of each injected fault the cause is the one problem, and what follows from it is below it.
func TestEachFaultIsNamedFirst(t *testing.T) {
	if r := doctor.Judge(healthy()); !r.Healthy || len(r.Problems) > 0 {
		t.Fatalf("a healthy installation: %+v", r.Problems)
	}
	for _, tc := range injected {
		f := healthy()
		tc.do(f)
		r := doctor.Judge(f)
		if len(r.Problems) != 1 || r.Problems[0].Code != tc.code {
			t.Errorf("%s (%s): %+v", tc.code, tc.name, r.Problems)
			continue
		}
		if tc.name == "another cluster's variables" && r.Problems[0].What != "ci_other_cluster: cluster b has variables there (and 1 more)" {
			t.Errorf("it does not say whose: %s", r.Problems[0].What)
		}
		if p := r.Problems[0]; p.Why == "" || p.Fix == "" || r.Healthy {
			t.Errorf("%s (%s): %+v", tc.code, tc.name, p)
		}
	}
	for _, row := range doctor.Rows() {
		if !slices.ContainsFunc(injected, func(i struct {
			code, name string
			do         func(f *facts)
		},
		) bool {
			return i.code == row.Code
		}) {
			t.Errorf("no fault is injected for %s", row.Code)
		}
	}
}

// TestWhatWasSeenIsShown: of a healthy installation one line for each thing, without which "all is well" would say little.
func TestWhatWasSeenIsShown(t *testing.T) {
	var out bytes.Buffer
	doctor.Judge(healthy()).Print(&out)
	for _, want := range []string{
		"GitLab          https://gitlab.example.com 19.1.0-ee, 2 signing keys, its clock is as here\n",
		"read token      of \"root\" (administrator), scopes read_api, ends on 2027-11-28\n",
		"system hook     1 to https://integrator.example.com/hooks/gitlab\n",
		"others' hooks   of integrators of other clusters: 2 to http://other.example.com/hooks/gitlab\n",
		"last hook       1 h 0 min ago (user_add_to_team, from 10.0.0.7)\n", "last login      4 s ago (user)\n",
		"kube-apiserver  v1.34.1, its clock is as here\n", "asked in v1\n", "authorizers     Node, RBAC, Webhook\n",
		"certificates    1, of which the first ends on 2027-01-28", "leader          a, mode enforce, 2 of 2 replicas ready\n",
		"CI jobs         delivery variables, environment scope *\n", "\nall is well\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in:\n%s", want, out.String())
		}
	}
	out.Reset()
	doctor.Judge(&doctor.Facts{Now: now, ConfigFault: "x"}).Print(&out)
	if !strings.HasSuffix(out.String(), "\n\n1 wrong (config), 0 not looked at\n") {
		t.Errorf("got:\n%s", out.String())
	}
}

// TestCausesStandBeforeConsequences: what a rule can follow from is a rule before it.
func TestCausesStandBeforeConsequences(t *testing.T) {
	seen, after := map[string]bool{}, doctor.After()
	for _, row := range doctor.Rows() {
		if seen[row.Code] {
			t.Errorf("two rules have the code %s", row.Code)
		}
		for _, a := range after[row.Code] {
			if !seen[a] {
				t.Errorf("%s follows from %s, which is no rule before it", row.Code, a)
			}
		}
		seen[row.Code] = true
	}
}

// TestTwoCausesAreBothNamed: one problem hides nothing that does not follow from it.
func TestTwoCausesAreBothNamed(t *testing.T) {
	f := healthy()
	f.GitLab.Fault, f.Certificates[0].Ends, f.Cluster.Status.Failing = doctor.Away, now.AddDate(0, 0, 3), "GitLab is away"
	f.Blind = []doctor.Blind{{What: "tokens", Why: "GitLab is away", Fix: "start it"}}
	r := doctor.Judge(f)
	var codes []string
	for _, p := range r.Problems {
		codes = append(codes, p.Code)
	}
	if !slices.Equal(codes, []string{"gitlab_away", "certificate_ends"}) || len(r.Problems[0].Consequences) != 1 || r.Problems[0].Consequences[0].Code != "failing" {
		t.Errorf("got %+v", r.Problems)
	}
	var text, data bytes.Buffer
	r.Print(&text)
	for _, want := range []string{"1. gitlab_away", "follows from it: failing", "2. certificate_ends", "could not look at tokens", "2 wrong (gitlab_away, certificate_ends), 1 not looked at"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is not in:\n%s", want, text.String())
		}
	}
	if err := r.PrintJSON(&data); err != nil {
		t.Fatal(err)
	}
	var back doctor.Report
	if err := json.Unmarshal(data.Bytes(), &back); err != nil || len(back.Problems) != 2 || back.Healthy {
		t.Errorf("%v: %s", err, data.String())
	}
	f = healthy()
	f.Blind = []doctor.Blind{{What: "tokens"}}
	if r := doctor.Judge(f); r.Healthy || len(r.Problems) > 0 {
		t.Errorf("what was not looked at passes for healthy: %+v", r)
	}
}

var updateDocs = flag.Bool("update", false, "write the table of docs/doctor.md anew")

// TestRulesAreInTheDocs: docs/doctor.md ends with one row for each rule, in their order, with the same words.
func TestRulesAreInTheDocs(t *testing.T) {
	const path, head = "../../docs/doctor.md", "| code | what is wrong | why it matters | fix |\n|---|---|---|---|\n"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, _, found := strings.Cut(string(page), head)
	if !found {
		t.Fatalf("%s has no table that begins with\n%s", path, head)
	}
	want := before + head
	for _, r := range doctor.Rows() {
		want += "| `" + r.Code + "` | " + r.Name + " | " + r.Why + " | " + r.Fix + " |\n"
	}
	if *updateDocs {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(page) != want {
		t.Error("docs/doctor.md is stale: go test ./internal/doctor -run TestRulesAreInTheDocs -update")
	}
}
