package doctor

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// longCache is how long kube-apiserver remembers an answer about a token unless it is told otherwise.
const longCache = 2 * time.Minute

// ofStarted is a hit for each kube-apiserver of whose flags wrong says something.
func ofStarted(wrong func(a APIServer, f *Facts) string) func(*Facts) []hit {
	return func(f *Facts) []hit {
		var out []hit
		for _, a := range f.started() {
			if what := wrong(a, f); what != "" {
				out = append(out, hit{a.Where + ": " + what, a.Where})
			}
		}
		return out
	}
}

// started are all that were seen.
func (f *Facts) started() []APIServer {
	if f.Given != nil {
		return append([]APIServer{*f.Given}, f.Cluster.Started...)
	}
	return f.Cluster.Started
}

// flagRules are about how kube-apiserver is started.
func flagRules() []rule {
	return []rule{
		{
			code: "apiserver_flags", name: "what is said to start kube-apiserver can't be used", why: "its flags are not looked at",
			fix:  "give its static pod, kubeadm's ClusterConfiguration, config.yaml of k3s or RKE2, or its command line: `--apiserver-flags FILE`",
			when: func(f *Facts) []hit { return one(f.GivenUnfit != "", f.GivenUnfit, "") },
		},
		{
			code: "apiserver_login", name: "kube-apiserver is started without anything that judges GitLab's tokens", why: "no person can log in",
			fix: "add `--authentication-token-webhook-config-file` to …, as docs/install.md has it, or `--authentication-config`, as docs/login.md has it",
			when: ofStarted(func(a APIServer, _ *Facts) string {
				webhook, itself := a.asks()
				return say(!webhook && !itself, "there is no --"+flagAuthn)
			}),
		},
		{
			code: "apiserver_authorizers", name: "kube-apiserver is started without the file of authorizers", why: "refusals have no explanation",
			fix: "add `--authorization-config` to … in place of `--authorization-mode`, as docs/install.md has it, or set `authz.explain.disabled: true`",
			when: ofStarted(func(a APIServer, f *Facts) string {
				explains := f.Config != nil && !f.Config.Authz.Explain.Disabled
				return say(explains && a.Flags[flagAuthorization] == "", "there is no --"+flagAuthorization)
			}),
		},
		{
			code: "apiserver_mount", name: "kube-apiserver's pod does not see a file that its flags name", why: "it does not start, or keeps the flags of before",
			fix: "mount the file's folder in …, as docs/install.md has it",
			when: ofStarted(func(a APIServer, _ *Facts) string {
				var unseen []string
				for _, flag := range []string{flagAuthn, flagAuthnOwn, flagAuthorization} {
					if file := a.Flags[flag]; file != "" && !a.sees(file) {
						unseen = append(unseen, fmt.Sprintf("--%s=%s is in no volume", flag, file))
					}
				}
				return strings.Join(unseen, ", ")
			}),
		},
	}
}

// flagManners are about what works, and not as well as it could.
func flagManners() []rule {
	return []rule{
		{
			code: "webhook_version", name: "kube-apiserver asks about tokens in the version v1beta1", after: []string{"apiserver_login"},
			why:  "Kubernetes keeps that version for old webhooks alone; v1 is what all else is tested with",
			fix:  "set `--authentication-token-webhook-version=v1` in …",
			when: oldVersion,
		},
		{
			code: "webhook_cache", name: "kube-apiserver remembers what the webhook said for more than two minutes", after: []string{"apiserver_login"},
			why: "who is blocked in GitLab, or gets another group, stays who they were for so long",
			fix: "set `--authentication-token-webhook-cache-ttl=2m` or less in …",
			when: ofStarted(func(a APIServer, _ *Facts) string {
				ttl, err := time.ParseDuration(a.Flags[flagAuthnCache])
				return say(err == nil && ttl > longCache, fmt.Sprintf("--%s is %s", flagAuthnCache, ttl))
			}),
		},
	}
}

// oldVersion finds v1beta1 in the flags, or in how the webhook was asked.
func oldVersion(f *Facts) []hit {
	out := ofStarted(func(a APIServer, _ *Facts) string {
		webhook, _ := a.asks()
		switch version := a.Flags[flagAuthnVersion]; {
		case !webhook || version == "v1":
			return ""
		case version == "":
			return "there is no --" + flagAuthnVersion + ", and without it v1beta1 counts"
		default:
			return "--" + flagAuthnVersion + " is " + version
		}
	})(f)
	if out == nil && f.Through.Version == "v1beta1" {
		return []hit{{"the integrator was asked so", "kube-apiserver"}}
	}
	return slices.Clip(out)
}
