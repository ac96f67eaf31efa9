package doctor

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/clusterroles"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/status"
)

// unreached are the rules by which kube-apiserver can't be asked.
func unreached() []string {
	return []string{"apiserver_away", "apiserver_untrusted", "apiserver_name", "apiserver_credentials", "not_installed"}
}

func clusterRules() []rule {
	fault := func(kinds ...Fault) func(*Facts) []hit {
		return func(f *Facts) []hit { return one(slices.Contains(kinds, f.Cluster.Fault), f.Cluster.Text, "") }
	}
	return []rule{
		{
			code: "apiserver_away", name: "kube-apiserver does not answer",
			why: "no right is written, and nobody works on the cluster",
			fix: "check `cluster.kubeconfig`, and that kube-apiserver is up", when: fault(Away, Odd),
		},
		{
			code: "apiserver_untrusted", name: "the CA of kube-apiserver's certificate is not trusted",
			why: "the integrator writes to no cluster that can't prove which it is",
			fix: "put the cluster's CA into `certificate-authority-data` of `cluster.kubeconfig`", when: fault(Untrusted),
		},
		{
			code: "apiserver_name", name: "kube-apiserver's certificate is for another name, or its time is over",
			why: "the integrator writes to no cluster that can't prove which it is",
			fix: "write a name of the certificate into `server` of `cluster.kubeconfig`, or renew the certificate", when: fault(OtherName, Ended),
		},
		{
			code: "apiserver_credentials", name: "kube-apiserver does not take the credentials in `cluster.kubeconfig`",
			why: "nothing of the cluster can be read or written",
			fix: "write a token of the ServiceAccount into the file that `cluster.kubeconfig` names: see Where it runs in docs/install.md", when: fault(Credentials, ClientRefuse),
		},
		{
			code: "not_installed", name: "the namespace of the integrator is not in the cluster",
			why: "its ServiceAccount, its roles and the fence are missing",
			fix: "run `kubectl apply -f deploy/manifests/`; where the chart installed it: `helm upgrade` with the same values", when: fault(NotInstalled),
		},
		{
			code: "fence", name: "the tenant fence or the cage is missing, or weaker than `deploy/manifests`", after: unreached(),
			why:  "without it mode `enforce` writes nothing, since tenants could climb out of their rights",
			fix:  "run `kubectl apply -f deploy/manifests/`; where the chart installed it: `helm upgrade` with the same values",
			when: func(f *Facts) []hit { return one(f.Cluster.FenceMissing != "", f.Cluster.FenceMissing, "") },
		},
		{
			code: "role", name: "a ClusterRole of the configuration does not exist", after: unreached(),
			why: "who should have it has no right", fix: "make the ClusterRole …, or correct its name in `authz`",
			when: func(f *Facts) []hit {
				return roles(f, func(r clusterroles.Role) (bool, string) { return r.Exists.Verdict == clusterroles.No, r.Exists.Reason })
			},
		},
		{
			code: "role_bind", name: "the integrator may not bind a ClusterRole of the configuration", after: append(unreached(), "role"),
			why: "kube-apiserver refuses each RoleBinding to it",
			fix: "add … to `resourceNames` of the verbs `bind` and `get` in the integrator's own ClusterRole, and to the roles of the fence, in `deploy/manifests`. Where the chart installed it: add it to `clusterRoles` in its values, then `helm upgrade`",
			when: func(f *Facts) []hit {
				return roles(f, func(r clusterroles.Role) (bool, string) {
					return r.Bindable.Verdict == clusterroles.No, r.Bindable.Reason
				})
			},
		},
		{
			code: "fence_roles", name: "the fence does not know a ClusterRole of the configuration", after: append(unreached(), "fence", "role", "role_bind"),
			why:  "a tenant can take the name of its RoleBinding before the integrator does",
			fix:  "add the role to the list in `deploy/manifests`, and apply them again. Where the chart installed it: add it to `clusterRoles` in its values, then `helm upgrade`",
			when: func(f *Facts) []hit { return one(f.Cluster.FenceRoles != "", f.Cluster.FenceRoles, "") },
		},
		{
			code: "deletion", name: "namespaces are to be deleted, and the right to is not given", after: append(unreached(), "fence"),
			why:  "mode `enforce` waits for it and writes nothing",
			fix:  "apply `deploy/optional/namespace-deletion.yaml`, or set `rbacsync.deletion.policy: retain`",
			when: func(f *Facts) []hit { return one(f.Cluster.Deletion != "", f.Cluster.Deletion, "") },
		},
		{
			code: "pod_security", name: "a namespace of ours enforces no Pod Security standard", after: unreached(),
			why: "who may run pods there owns the node", fix: "run `kubectl label --overwrite namespace … pod-security.kubernetes.io/enforce=baseline`",
			when: func(f *Facts) []hit { return each(f.Cluster.Privileged) },
		},
	}
}

func roles(f *Facts, wrong func(clusterroles.Role) (bool, string)) []hit {
	var out []hit
	for _, name := range slices.Sorted(maps.Keys(f.Cluster.Roles)) {
		if bad, reason := wrong(f.Cluster.Roles[name]); bad {
			out = append(out, hit{fmt.Sprintf("%s: %s", name, reason), "`" + name + "`"})
		}
	}
	return out
}

// The paths of our two webhooks.
const (
	authnPath = "/authenticate"
	authzPath = "/authorize"
)

// unanswered is why it matters that a webhook is not reached.
const unanswered = "kube-apiserver gets no answer: no person can log in, and refusals are HTTP 500"

// webhookFileRules are about what the kubeconfigs of kube-apiserver say.
func webhookFileRules() []rule {
	return []rule{
		{
			code: "webhook_file", name: "a kubeconfig for kube-apiserver can't be used", why: "kube-apiserver does not start with it",
			fix: "write it as docs/install.md has it",
			when: func(f *Facts) []hit {
				var out []hit
				for _, w := range []Webhook{f.Authn, f.Explain} {
					out = append(out, one(w.Unfit != "", w.File+": "+w.Unfit, "")...)
				}
				return out
			},
		},
		{
			code: "webhook_plain", name: "a webhook's URL is not https", why: "whoever reads along has everybody's tokens, and can answer in our place", fix: "write https into `server` of …",
			when: func(f *Facts) []hit {
				var out []hit
				for _, w := range []Webhook{f.Authn, f.Explain} {
					out = append(out, one(w.URL != "" && !strings.HasPrefix(w.URL, "https://"), w.File+" names "+w.URL, w.File)...)
				}
				return out
			},
		},
		{
			code: "webhook_path", name: "a webhook's URL has another path than the integrator serves", after: []string{"webhook_plain"}, why: unanswered, fix: "write " + authnPath + " at the end of `server` for logins, and " + authzPath + " for explanations",
			when: func(f *Facts) []hit {
				var out []hit
				for _, w := range []struct {
					Webhook
					want string
				}{{f.Authn, authnPath}, {f.Explain, authzPath}} {
					wrong := w.URL != "" && w.Path != w.want
					out = append(out, one(wrong, fmt.Sprintf("%s has the path %q, want %s", w.File, w.Path, w.want), w.File)...)
					if !wrong && w.Fault == Path {
						out = append(out, hit{fmt.Sprintf("%s: nothing is served at %s", w.File, w.URL), w.File})
					}
				}
				return append(out, one(f.Through.Fault == Path && out == nil, "as kube-apiserver says: "+f.Through.Text, "")...)
			},
		},
	}
}

func webhookRules() []rule {
	// Three look: this machine by each of the two files, and kube-apiserver itself.
	fault := func(kinds ...Fault) func(*Facts) []hit {
		return func(f *Facts) []hit {
			var said []string
			at := "the webhook"
			for _, w := range []Webhook{f.Explain, f.Authn} {
				if slices.Contains(kinds, w.Fault) {
					said, at = append(said, fmt.Sprintf("%s, by %s from here: %s", w.URL, w.File, w.Text)), w.URL
				}
			}
			if slices.Contains(kinds, f.Through.Fault) {
				said = append(said, "as kube-apiserver says: "+f.Through.Text)
			}
			return one(said != nil, strings.Join(said, "; "), at)
		}
	}
	// With a wrong gitlab.url our own token is one of another GitLab.
	wrongURL := []string{"gitlab_away", "gitlab_untrusted", "gitlab_name", "gitlab_certificate", "gitlab_answer"}
	return []rule{
		{
			code: "webhook_away", name: "no integrator answers at the webhook's address", after: []string{"webhook_plain"}, why: unanswered,
			fix: "start `serve`, and let `server` of the kubeconfig be the address of `listeners.webhooks` as kube-apiserver reaches it: …", when: fault(Away),
		},
		{
			code: "webhook_untrusted", name: "the CA in kube-apiserver's kubeconfig is not the one of the integrator's certificate", after: []string{"webhook_plain"}, why: unanswered,
			fix: "put the CA that signed `listeners.webhooks.certFile` into `certificate-authority`, and restart kube-apiserver", when: fault(Untrusted),
		},
		{
			code: "webhook_name", name: "the integrator's certificate is not for the address in kube-apiserver's kubeconfig", after: []string{"webhook_plain"}, why: unanswered,
			fix: "make `listeners.webhooks.certFile` with the host of … as subjectAltName (`IP:` for an address)", when: fault(OtherName),
		},
		{
			code: "webhook_ended", name: "the time of the integrator's certificate is over or has not begun", after: []string{"webhook_plain", "certificate", "clock_here"}, why: unanswered,
			fix: "make a new `listeners.webhooks.certFile`: it is read again at once", when: fault(Ended),
		},
		{
			code: "webhook_client", name: "the integrator does not take kube-apiserver's client certificate", after: []string{"webhook_plain", "certificate"}, why: unanswered,
			fix: "sign `client-certificate` by the CA in `listeners.webhooks.clientCAFile`, for `clientAuth`, and name both files", when: fault(ClientRefuse),
		},
		{
			code: "webhook_answer", name: "what answers at the webhook's address is no integrator", after: []string{"webhook_plain", "webhook_path"}, why: unanswered,
			fix: "let `server` of the kubeconfig be the address of `listeners.webhooks`: …", when: fault(Odd),
		},
		{
			code: "webhook_foreign", name: "the integrator at the webhook's address is for another GitLab", after: append([]string{"webhook_path", "issuer"}, wrongURL...), why: "tokens of this GitLab are not known there, so nobody can log in",
			fix: "let `gitlab.url` be the same here and in the configuration that `serve` runs with", when: fault(Foreign),
		},
		{
			code: "webhook_unasked", name: "kube-apiserver asks no webhook about tokens", after: append([]string{"apiserver_login", "apiserver_mount", "webhook_file", "webhook_foreign", "issuer"}, wrongURL...), why: "no person can log in",
			fix:  "set `--authentication-token-webhook-config-file` of each kube-apiserver, and restart it; if it is set, let `gitlab.url` be the same here and in the configuration that `serve` runs with",
			when: fault(Unasked),
		},
	}
}

// ofFile is a hit with what wrong says of the file of authorizers.
func ofFile(wrong func(a Authorizers, f *Facts) string) func(*Facts) []hit {
	return func(f *Facts) []hit {
		a := f.Authorizers
		if a.File == "" || a.Unfit != "" {
			return nil
		}
		what := wrong(a, f)
		return one(what != "", a.File+": "+what, a.File)
	}
}

func say(wrong bool, text string) string {
	if wrong {
		return text
	}
	return ""
}

func authorizerRules() []rule {
	lacks := func(kind string) func(Authorizers, *Facts) string {
		return func(a Authorizers, _ *Facts) string {
			if slices.Contains(a.Types, kind) {
				return ""
			}
			return "the types are " + strings.Join(a.Types, ", ")
		}
	}
	disabled := func(f *Facts) bool { return f.Config != nil && f.Config.Authz.Explain.Disabled }
	return []rule{
		{
			code: "authorization_file", name: "the file for `--authorization-config` can't be used", why: "kube-apiserver does not start with it",
			fix: "write it as docs/install.md has it",
			when: func(f *Facts) []hit {
				return one(f.Authorizers.Unfit != "", f.Authorizers.File+": "+f.Authorizers.Unfit, "")
			},
		},
		{
			code: "authorization_rbac", name: "RBAC is not among the authorizers", why: "no RoleBinding counts: nobody has a right, the cluster's own parts neither",
			fix: "add `{type: RBAC, name: rbac}` to …, before the webhook", when: ofFile(lacks("RBAC")),
		},
		{
			code: "authorization_node", name: "Node is not among the authorizers", why: "the kubelets lose their rights",
			fix: "add `{type: Node, name: node}` to …, as the first", when: ofFile(lacks("Node")),
		},
		{
			code: "authorization_webhook", name: "the explaining webhook is not among the authorizers", why: "refusals have no explanation",
			fix:  "add the webhook to … as docs/install.md has it, or set `authz.explain.disabled: true`",
			when: ofFile(func(a Authorizers, f *Facts) string { return say(a.Ours < 0 && !disabled(f), "no webhook of ours") }),
		},
		{
			code: "authorization_disabled", name: "kube-apiserver asks the explaining webhook, which is disabled", why: "each refusal is HTTP 500",
			fix: "take the webhook out of …, or take `authz.explain.disabled` out",
			when: ofFile(func(a Authorizers, f *Facts) string {
				return say(a.Ours >= 0 && disabled(f), "authz.explain.disabled is true")
			}),
		},
	}
}

// explainerRules are about how the file has our webhook.
func explainerRules() []rule {
	return []rule{
		{
			code: "authorization_order", name: "the explaining webhook stands before RBAC", why: "it is asked about every request, not only about what would be refused",
			fix: "move the webhook in … to the end",
			when: ofFile(func(a Authorizers, _ *Facts) string {
				return say(a.Ours >= 0 && a.Ours < slices.Index(a.Types, "RBAC"), "the order is "+strings.Join(a.Types, ", "))
			}),
		},
		{
			code: "authorization_policy", name: "the explaining webhook's failurePolicy is not NoOpinion", why: "while the integrator is away, kube-apiserver refuses what others would allow after it",
			fix: "write `failurePolicy: NoOpinion` into …",
			when: ofFile(func(a Authorizers, _ *Facts) string {
				return say(a.Ours >= 0 && a.FailurePolicy != "NoOpinion", fmt.Sprintf("failurePolicy is %q", a.FailurePolicy))
			}),
		},
		{
			code: "authorization_version", name: "the explaining webhook is asked in another version than v1",
			why: "the integrator does not answer it, so that refusals have no explanation",
			fix: "write `subjectAccessReviewVersion: v1` and `matchConditionSubjectAccessReviewVersion: v1` into …",
			when: ofFile(func(a Authorizers, _ *Facts) string {
				switch {
				case a.Ours < 0:
					return ""
				case a.Version != "v1":
					return fmt.Sprintf("subjectAccessReviewVersion is %q", a.Version)
				}
				return say(a.Conditions > 0 && a.MatchVersion != "v1", fmt.Sprintf("matchConditionSubjectAccessReviewVersion is %q", a.MatchVersion))
			}),
		},
		{
			code: "authorization_conditions", name: "the explaining webhook has no matchConditions", why: "it is asked about everybody, and refusals of the cluster's own parts hang on it",
			fix: "write the matchConditions of docs/install.md into …",
			when: ofFile(func(a Authorizers, _ *Facts) string {
				return say(a.Ours >= 0 && a.Conditions == 0, "no matchConditions")
			}),
		},
		{
			code: "authorization_timeout", name: "the explaining webhook's timeout is longer than 3 s", why: "each refusal waits so long for an integrator that hangs",
			fix: "write `timeout: 2s` into …",
			when: ofFile(func(a Authorizers, _ *Facts) string {
				return say(a.Ours >= 0 && a.Timeout > 3*time.Second, "timeout is "+a.Timeout.String())
			}),
		},
		{
			code: "authorization_cache", name: "kube-apiserver remembers explanations for more than a minute", why: "people read for so long what lacks, after they were given it elsewhere",
			fix: "write `unauthorizedTTL: 5s` into …",
			when: ofFile(func(a Authorizers, _ *Facts) string {
				return say(a.Ours >= 0 && a.Kept > time.Minute, "unauthorizedTTL is "+a.Kept.String())
			}),
		},
	}
}

// findingText is what the integrator says of its findings of one code: the first, and how many there are.
func findingText(s *status.Summary, code string) string {
	n := s.Findings[code]
	for _, t := range s.Texts {
		if !strings.HasPrefix(t, code+": ") {
			continue
		}
		if n > 1 {
			t += fmt.Sprintf(" (and %d more)", n-1)
		}
		return t
	}
	return fmt.Sprintf("%s (%d)", code, n)
}

func runningRules() []rule {
	down := slices.Concat(unreached(), []string{"fence", "deletion", "gitlab_away", "gitlab_untrusted", "gitlab_name", "gitlab_certificate", "gitlab_answer", "gitlab_old", "issuer", "read_token", "read_token_scope"})
	return []rule{
		{
			code: "no_round", name: "no integrator has finished a round in this cluster", after: slices.Concat(down, []string{"webhook_away", "files"}),
			why: "no right of GitLab is in the cluster", fix: "start `gl-k8s-integrator serve`, and read its log",
			when: func(f *Facts) []hit { return one(f.Cluster.Silent, "there is no status in the cluster", "") },
		},
		{
			code: "no_leader", name: "no integrator leads", after: append(unreached(), "no_round", "webhook_away"),
			why: "changes in GitLab do not arrive in the cluster", fix: "start `gl-k8s-integrator serve`, and read its log",
			when: ofStatus(func(s *status.Summary, f *Facts) string {
				if s.Holder != "" && !s.Old(f.Now) {
					return ""
				}
				return "the Lease was renewed last at " + s.Renewed.UTC().Format(time.RFC3339)
			}),
		},
		{
			code: "replicas", name: "not all replicas of the Deployment are ready", after: append(unreached(), "no_round", "no_leader"),
			why: "an outage is nearer than planned", fix: "run `kubectl -n gl-k8s-integrator describe pods`",
			when: func(f *Facts) []hit {
				return one(f.Cluster.Ready < f.Cluster.Want, fmt.Sprintf("%d of %d are ready", f.Cluster.Ready, f.Cluster.Want), "")
			},
		},
		{
			code: "failing", name: "rounds fail", after: down, why: "changes in GitLab do not arrive in the cluster", fix: "do what the error says",
			when: ofStatus(func(s *status.Summary, _ *Facts) string { return s.Failing }),
		},
		{
			code: "old_reading", name: "GitLab was read too long ago", after: append(down, "no_leader", "failing"), why: "who lost a right in GitLab may still have it here",
			fix: "look for the reason in the log of the leader",
			when: ofStatus(func(s *status.Summary, f *Facts) string {
				age := f.Now.Sub(s.Read)
				if f.Config == nil || s.Read.IsZero() || age <= max(30*time.Minute, 4*f.Config.RBACSync.Interval.Duration) {
					return ""
				}
				return fmt.Sprintf("the last full reading is %s old", age.Round(time.Second))
			}),
		},
		{
			code: "held", name: "changes are held back", why: "a limit took them for a mistake: they wait for GitLab to confirm them, or for approval",
			fix: "look at them with `gl-k8s-integrator plan --held`, then use `approve`",
			when: ofStatus(func(s *status.Summary, _ *Facts) string {
				if s.Held == 0 {
					return ""
				}
				return fmt.Sprintf("%d changes", s.Held)
			}),
		},
		{
			code: "finding", name: "the integrator reports findings", after: slices.Concat(down, []string{"no_leader", "failing", "role", "role_bind"}), why: "what each means is in docs/operations.md and docs/ci.md",
			fix: "do what is said; `gl-k8s-integrator status` has all of them, and the page says more of `…`",
			when: func(f *Facts) []hit {
				s := f.Cluster.Status
				if s == nil {
					return nil
				}
				var out []hit
				for _, code := range slices.Sorted(maps.Keys(s.Findings)) {
					if s.Findings[code] > 0 {
						out = append(out, hit{findingText(s, code), code})
					}
				}
				return out
			},
		},
	}
}
