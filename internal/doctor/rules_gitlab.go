package doctor

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabversion"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/status"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/web"
)

// soon is how long before its end a certificate or a token is a problem: time enough to make a new one.
const soon = 21 * 24 * time.Hour

func gitlabRules() []rule {
	fault := func(kind Fault) func(*Facts) []hit {
		return func(f *Facts) []hit { return one(f.GitLab.Fault == kind, f.GitLab.Text, "") }
	}
	return []rule{
		{
			code: "gitlab_away", name: "nothing answers at `gitlab.url`",
			why: "nobody gains or loses a right, and nobody can log in once the signing keys are too old",
			fix: "check `gitlab.url`, DNS, proxy and firewall, from where the integrator runs, and that GitLab is up", when: fault(Away),
		},
		{
			code: "gitlab_untrusted", name: "the CA of GitLab's certificate is not trusted",
			why: "the integrator talks to no GitLab that can't prove who it is",
			fix: "put the CA that signed GitLab's certificate, as PEM, into `gitlab.caFile`", when: fault(Untrusted),
		},
		{
			code: "gitlab_name", name: "GitLab's certificate is for another name",
			why: "the integrator talks to no GitLab that can't prove who it is",
			fix: "write the name that the certificate is for into `gitlab.url`, or give GitLab a certificate for its own name", when: fault(OtherName),
		},
		{
			code: "gitlab_certificate", name: "the time of GitLab's certificate is over or has not begun",
			why: "nobody reads GitLab any more, neither the integrator nor people",
			fix: "renew GitLab's certificate; check the clock of this machine too", when: fault(Ended),
		},
		{
			code: "gitlab_answer", name: "what answers at `gitlab.url` is no GitLab",
			why: "without GitLab's discovery document nobody's token can be judged",
			fix: "write GitLab's `external_url` into `gitlab.url`, and let the proxy pass `/.well-known/` and `/oauth/`", when: fault(Odd),
		},
		{
			code: "issuer", name: "GitLab calls itself by another URL than `gitlab.url`",
			why: "its tokens carry its own name, so nobody's token is taken for this GitLab's",
			fix: "write … into `gitlab.url`, or correct GitLab's `external_url`",
			when: func(f *Facts) []hit {
				g := f.GitLab
				return one(g.Issuer != "" && f.Config != nil && g.Issuer != f.Config.GitLab.URL, fmt.Sprintf("gitlab.url is another name than GitLab's own, which is %q", g.Issuer), fmt.Sprintf("`%s`", g.Issuer))
			},
		},
		{
			code: "signing_keys", name: "GitLab's signing keys can't be read", after: []string{"gitlab_away", "gitlab_untrusted", "gitlab_name", "gitlab_certificate", "gitlab_answer", "issuer"},
			why:  "nobody can log in when the known keys are older than `authn.keyMaxAge`",
			fix:  "let this machine reach the `jwks_uri` that GitLab names, or set `authn.keys.url`",
			when: func(f *Facts) []hit { return one(f.GitLab.KeysBad != "", f.GitLab.KeysBad, "") },
		},
		{
			code: "gitlab_old", name: "this GitLab is older than what is supported",
			why: "reading it is refused: it lacks what rights are read from",
			fix: "upgrade GitLab to " + gitlabversion.Oldest.String() + " or newer",
			when: func(f *Facts) []hit {
				n := f.GitLab.Number
				return one(n != gitlabversion.Version{} && n.Before(gitlabversion.Oldest), "GitLab is "+f.GitLab.Version, "")
			},
		},
		{
			code: "gitlab_lacks", name: "something is configured that this GitLab does not have yet", after: []string{"gitlab_old"},
			why: "it is refused, or does nothing",
			fix: "upgrade GitLab, or take … out of the configuration", when: lacking,
		},
	}
}

// lacking returns what is configured and missing in this GitLab.
func lacking(f *Facts) []hit {
	if f.Config == nil {
		return nil
	}
	var out []hit
	need := func(used bool, feature gitlabversion.Feature, key string) {
		if used && !f.GitLab.Number.Has(feature) {
			out = append(out, hit{fmt.Sprintf("%s needs GitLab %s, this one is %s", key, feature.Since(), f.GitLab.Version), "`" + key + "`"})
		}
	}
	need(f.Config.Listeners.Hooks.SigningKeyFile != "" && f.Config.Listeners.Hooks.SecretFile == "", gitlabversion.HookSigning, "listeners.hooks.signingKeyFile")
	need(delivers(f.Config, config.DeliveryIDToken), gitlabversion.IDTokens, "delivery id-token")
	need(delivers(f.Config, config.DeliveryAgent), gitlabversion.AgentEnvironments, "delivery agent")
	return out
}

// delivers reports whether anything has this delivery.
func delivers(c *config.Config, delivery string) bool {
	return c.CI.Delivery == delivery || slices.ContainsFunc(c.CI.Projects, func(p config.CIProject) bool { return p.Delivery == delivery })
}

func clockRules() []rule {
	const why = "tokens are refused as issued in the future or as expired"
	return []rule{
		{
			code: "clock_here", name: "the clock of this machine is wrong", why: why,
			fix:  "start NTP here: `timedatectl set-ntp true`",
			when: func(f *Facts) []hit { return clockOf(f, "here") },
		},
		{
			code: "clock_gitlab", name: "GitLab's clock is wrong", why: why,
			fix:  "start NTP on GitLab's machine: `timedatectl set-ntp true`",
			when: func(f *Facts) []hit { return clockOf(f, "gitlab") },
		},
		{
			code: "clock_apiserver", name: "kube-apiserver's clock is wrong", why: "certificates and ServiceAccount tokens are refused, and Leases are taken over too early",
			fix:  "start NTP on the control-plane node: `timedatectl set-ntp true`",
			when: func(f *Facts) []hit { return clockOf(f, "apiserver") },
		},
	}
}

// clockOf says whose clock differs. Of three clocks, two that agree are right; of two, that of GitLab counts as right, since it
// dates the tokens.
func clockOf(f *Facts, whose string) []hit {
	most := 10 * time.Second
	if f.Config != nil && f.Config.Authn.Leeway.Duration > 0 {
		most = f.Config.Authn.Leeway.Duration
	}
	off := func(d time.Duration) bool { return d.Abs() > most+time.Second } // the header has whole seconds
	g, k := f.GitLab.Clock, f.Cluster.Clock
	wrong, by := "", time.Duration(0)
	switch {
	case g != nil && k != nil && off(*g) && off(*k) && !off(*g-*k):
		wrong, by = "here", -*g
	case g != nil && k != nil && off(*g):
		wrong, by = "gitlab", *g
	case g != nil && off(*g):
		wrong, by = "here", -*g
	case k != nil && off(*k):
		wrong, by = "apiserver", *k
	}
	way := "ahead"
	if by < 0 {
		way = "behind"
	}
	return one(wrong == whose, fmt.Sprintf("it is %s %s, more than authn.leeway (%s) allows", by.Abs().Round(time.Second), way, most), "")
}

func tokenRules() []rule {
	down := []string{"gitlab_away", "gitlab_untrusted", "gitlab_name", "gitlab_certificate", "gitlab_answer"}
	const renew = "make a new one for the same user in GitLab, and write it into `gitlab.…TokenFile`: it is read again at once"
	ends := func(t Token, f *Facts, key string) []hit {
		left := t.State.Ends.Sub(f.Now)
		return one(t.Known && !t.State.Ends.IsZero() && left < soon, fmt.Sprintf("gitlab.%sTokenFile: the token of %q ends on %s", key, t.State.Username, t.State.Ends.Format(time.DateOnly)), key)
	}
	return []rule{
		{
			code: "read_token", name: "GitLab does not take the token in `gitlab.readTokenFile`", after: slices.Concat(down, []string{"files"}),
			why:  "nothing of GitLab is read: rights stay as they are",
			fix:  "make a token of an administrator with the scope `read_api`, and write it into `gitlab.readTokenFile`",
			when: func(f *Facts) []hit { return one(f.Read.Refused != "", f.Read.Refused, "") },
		},
		{
			code: "read_token_scope", name: "the read token lacks the scope `read_api`", after: []string{"read_token"},
			why: "GitLab shows nothing of groups and members to it",
			fix: "make a token with the scope `read_api`; a token's scopes can't be changed",
			when: func(f *Facts) []hit {
				s := f.Read.State.Scopes
				return one(f.Read.Known && !slices.Contains(s, "read_api") && !slices.Contains(s, "api"), "its scopes are "+strings.Join(s, ", "), "")
			},
		},
		{
			code: "read_token_admin", name: "the read token is not shown to be an administrator's", after: []string{"read_token", "read_token_scope"},
			why: "GitLab hides private groups and blocked people from it, so that rights are missing or stay",
			fix: "use an administrator's token; with GitLab's admin mode it needs the scope `admin_mode` too",
			when: func(f *Facts) []hit {
				return one(f.Read.Known && !f.Read.State.Admin, fmt.Sprintf("it is the token of %q", f.Read.State.Username), "")
			},
		},
		{
			code: "read_token_strong", name: "the read token may write", after: []string{"read_token"},
			why: "whoever steals it owns GitLab, for reading needs no more than `read_api`",
			fix: "make a token with the scope `read_api` alone for `gitlab.readTokenFile`",
			when: func(f *Facts) []hit {
				s := f.Read.State.Scopes
				return one(f.Read.Known && (slices.Contains(s, "api") || slices.Contains(s, "sudo")), "its scopes are "+strings.Join(s, ", "), "")
			},
		},
		{
			code: "read_token_ends", name: "the read token ends soon", after: []string{"read_token"},
			why: "from that day on nothing of GitLab is read", fix: renew,
			when: func(f *Facts) []hit { return ends(f.Read, f, "read") },
		},
		{
			code: "write_token", name: "GitLab does not take the token in `gitlab.writeTokenFile`", after: slices.Concat(down, []string{"files"}),
			why:  "CI jobs get no new credentials, and lose the old ones when these end",
			fix:  "make a token with the scope `api` of a user who may write variables of all projects, and write it into `gitlab.writeTokenFile`",
			when: func(f *Facts) []hit { return one(f.Write.Refused != "", f.Write.Refused, "") },
		},
		{
			code: "write_token_scope", name: "the write token lacks the scope `api`", after: []string{"write_token"},
			why: "variables and hooks can't be written with it",
			fix: "make a token with the scope `api`; a token's scopes can't be changed",
			when: func(f *Facts) []hit {
				return one(f.Write.Known && !slices.Contains(f.Write.State.Scopes, "api"), "its scopes are "+strings.Join(f.Write.State.Scopes, ", "), "")
			},
		},
		{
			code: "write_token_admin", name: "the write token has to be an administrator's and is not", after: []string{"write_token", "write_token_scope"},
			why: "delivery `agent` asks for GitLab's licence, which only administrators see",
			fix: "make a token of an administrator with the scope `api`, or choose another `ci.delivery`",
			when: func(f *Facts) []hit {
				return one(f.Write.Known && !f.Write.State.Admin && f.Config != nil && delivers(f.Config, config.DeliveryAgent), fmt.Sprintf("it is the token of %q", f.Write.State.Username), "")
			},
		},
		{
			code: "write_token_ends", name: "the write token ends soon", after: []string{"write_token"},
			why: "from that day on CI jobs get no new credentials", fix: renew,
			when: func(f *Facts) []hit { return ends(f.Write, f, "write") },
		},
		{
			code: "token_shared", name: "reading and writing take the same token", after: []string{"read_token", "read_token_scope", "read_token_strong", "write_token", "write_token_scope"},
			why:  "what only reads could write with it too",
			fix:  "make two tokens: scope `read_api` for `gitlab.readTokenFile`, scope `api` for `gitlab.writeTokenFile`",
			when: func(f *Facts) []hit { return one(f.Shared, "both files hold the same", "") },
		},
	}
}

// RedirectURIs are those that kubelogin needs: two ports that it tries. Where there is no browser, the first one is in the
// address that a code to type in is taken from.
func RedirectURIs() []string {
	return []string{"http://localhost:8000", "http://localhost:18000"}
}

// clientRules are about whether GitLab knows the client ids.
func clientRules() []rule {
	return []rule{
		{
			code: "application", name: "a client id of `authn.clientIDs` is no application of the whole GitLab",
			why: "nobody can log in with it, or it is a user's or group's own, who can change and delete it",
			fix: "make an application in GitLab's admin area, and write its application id in place of … into `authn.clientIDs`",
			when: func(f *Facts) []hit {
				var out []hit
				for _, a := range f.Applications {
					if a.Found != nil || a.Unlisted {
						continue
					}
					what := "GitLab's admin area has no application " + a.ID
					if a.Client == ClientTaken {
						what += ", but GitLab knows it: it is a user's or a group's own"
					}
					out = append(out, hit{what, "`" + a.ID + "`"})
				}
				return out
			},
		},
		{
			code: "application_refused", name: "GitLab lets nobody log in by a client id of `authn.clientIDs` without a secret", after: []string{"application"},
			why: "there is no such application, or it is confidential, and kubelogin has no secret",
			fix: "compare … with the application id in GitLab's admin area, and untick Confidential there",
			when: func(f *Facts) []hit {
				var out []hit
				for _, a := range f.Applications {
					out = append(out, one(a.Unlisted && a.Client == ClientRefused, "GitLab answers invalid_client to "+a.ID, "`"+a.ID+"`")...)
				}
				return out
			},
		},
	}
}

func applicationRules() []rule {
	apps := func(what func(a gitlab.Application) string) func(*Facts) []hit {
		return func(f *Facts) []hit {
			var out []hit
			for _, a := range f.Applications {
				if a.Found != nil {
					if text := what(*a.Found); text != "" {
						out = append(out, hit{fmt.Sprintf("application %s %s", a.ID, text), a.ID})
					}
				}
			}
			return out
		}
	}
	return []rule{
		{
			code: "application_secret", name: "the OAuth application is confidential",
			why: "GitLab demands a secret from kubelogin, which nobody can keep on many laptops",
			fix: "untick Confidential in GitLab's application …",
			when: apps(func(a gitlab.Application) string {
				if !a.Confidential {
					return ""
				}
				return "is confidential"
			}),
		},
		{
			code: "application_redirect", name: "the OAuth application lacks a redirect URI",
			why: "GitLab refuses kubelogin before anybody can type a password",
			fix: "add the missing URIs to GitLab's application …, each on a line of its own",
			when: apps(func(a gitlab.Application) string {
				var lacks []string
				for _, u := range RedirectURIs() {
					if !slices.Contains(a.RedirectURIs, u) {
						lacks = append(lacks, u)
					}
				}
				if lacks == nil {
					return ""
				}
				return "lacks " + strings.Join(lacks, ", ")
			}),
		},
		{
			code: "application_scope", name: "the OAuth application lacks the scope `openid`",
			why: "GitLab gives no ID token for it",
			fix: "tick `openid` in GitLab's application …",
			when: apps(func(a gitlab.Application) string {
				if a.Scopes == nil || slices.Contains(a.Scopes, "openid") {
					return ""
				}
				return "has the scopes " + strings.Join(a.Scopes, ", ")
			}),
		},
		pageRule(),
	}
}

// PageRedirectURI is the one that the application of the page needs.
func PageRedirectURI(w config.Web) string { return w.URL + web.CallbackPath }

// pageRule is about the application that people sign in to the page with.
func pageRule() rule {
	return rule{
		code: "page_application", name: "the OAuth application of `web.clientID` is not as the page needs it",
		why: "nobody can sign in to the page, or without the proof that a secret is",
		fix: "in GitLab's admin area, give the application the redirect URI …, tick Confidential, `openid` and `profile`; or write the id of such a one into `web.clientID`",
		when: func(f *Facts) []hit {
			if f.Page == nil || f.Config == nil {
				return nil
			}
			needed := PageRedirectURI(f.Config.Web)
			if f.Page.Found == nil {
				return []hit{{"GitLab's admin area has no application " + f.Page.ID, "`" + needed + "`"}}
			}
			var lacks []string
			if !f.Page.Found.Confidential {
				lacks = append(lacks, "is not confidential")
			}
			if !slices.Contains(f.Page.Found.RedirectURIs, needed) {
				lacks = append(lacks, "lacks the redirect URI "+needed)
			}
			for _, scope := range []string{"openid", "profile"} {
				if f.Page.Found.Scopes != nil && !slices.Contains(f.Page.Found.Scopes, scope) {
					lacks = append(lacks, "lacks the scope "+scope)
				}
			}
			return one(lacks != nil, "application "+f.Page.ID+" "+strings.Join(lacks, " and "), "`"+needed+"`")
		},
	}
}

// ours are the hooks that are not another cluster's.
func (h Hooks) ours() (out []gitlab.HookState) {
	for _, k := range h.All {
		if !k.Other {
			out = append(out, k)
		}
	}
	return out
}

// register is how a hook is put right.
const register = "run `gl-k8s-integrator hooks register --config FILE --url …`, which sets it again"

// ofHooks is a hit for each hook that may be ours of which what says something.
func ofHooks(what func(c *config.Config, h gitlab.HookState) string) func(*Facts) []hit {
	return func(f *Facts) []hit {
		if f.Config == nil {
			return nil
		}
		var out []hit
		for _, h := range f.Hooks.ours() {
			if text := what(f.Config, h); text != "" {
				if h.Cluster == "" {
					text += ", and names no cluster: look at its host first, whether it is this integrator's; only then give it our secret"
				}
				out = append(out, hit{fmt.Sprintf("system hook %d to %s %s", h.ID, h.URL, text), h.URL})
			}
		}
		return out
	}
}

func hookRules() []rule {
	const slow = "changes in GitLab arrive with the next full round only"
	absent := func(told *bool) bool { return told != nil && !*told }
	return []rule{
		{
			code: "hook", name: "GitLab has no system hook for this cluster's integrator", why: slow,
			fix: "run `gl-k8s-integrator hooks register --config FILE --url https://HOST/hooks/gitlab`",
			when: func(f *Facts) []hit {
				return one(f.Hooks.Known && f.Config != nil && f.Config.Listeners.Hooks.Address != "" && len(f.Hooks.ours()) == 0, "no hook goes to /hooks/gitlab or has our name", "")
			},
		},
		{
			code: "hook_disabled", name: "GitLab has switched the system hook off after failures", why: slow,
			fix: "let GitLab reach … with a certificate that it trusts, then press Test at the hook in the admin area",
			when: ofHooks(func(_ *config.Config, h gitlab.HookState) string {
				if h.Alert == "" || h.Alert == "executable" {
					return ""
				}
				return "is " + strings.ReplaceAll(h.Alert, "_", " ")
			}),
		},
		{
			code: "hook_unproven", name: "the system hook carries no proof that the integrator takes", why: "the integrator refuses it with 401: " + slow, fix: register,
			when: ofHooks(func(c *config.Config, h gitlab.HookState) string {
				byToken := c.Listeners.Hooks.SecretFile != "" && !absent(h.Secret)
				bySignature := c.Listeners.Hooks.SigningKeyFile != "" && !absent(h.Sign)
				if c.Listeners.Hooks.Address == "" || byToken || bySignature {
					return ""
				}
				return "has no secret token, nor a signing token that is configured here"
			}),
		},
		{
			code: "hook_refused", name: "the running integrator can't check hooks", why: "each hook is refused: " + slow,
			fix: "put the secret of the system hook, alone on one line, into `listeners.hooks.secretFile`", after: []string{"files"},
			when: ofStatus(func(s *status.Summary, _ *Facts) string { return s.HooksRefused }),
		},
	}
}

// arrivals are rules about what came, as the integrator has written it down.
func arrivals() []rule {
	const slow = "changes in GitLab arrive with the next full round only"
	return []rule{
		{
			code: "hook_secret", name: "the system hook carries another secret than the integrator has", after: []string{"hook_unproven", "hook_refused"},
			why: "each hook is refused with 401: " + slow,
			fix: "run `gl-k8s-integrator hooks register --config FILE --url …`, which sets the secret again, then this with `--test-hook`; if the sender is not GitLab, somebody tries to pose as it",
			when: ofActivity(func(f *Facts, a *status.Activity) []hit {
				if a.Refused.What != gitlab.HookNoProof || !a.Refused.At.After(a.Hook.At) {
					return nil
				}
				at := "URL"
				if h := f.Hooks.enabled(); h != nil {
					at = h.URL
				}
				return []hit{{fmt.Sprintf("the last one came at %s from %s", a.Refused.At.UTC().Format(time.RFC3339), a.Refused.From), at}}
			}),
		},
		{
			code: "hook_silent", name: "GitLab has the system hook, and nothing arrives by it", after: []string{"hook_disabled", "hook_unproven", "hook_refused", "hook_secret"},
			why: "if GitLab can't reach the integrator, " + slow,
			fix: "run this again with `--test-hook`; if nothing arrives, look at the recent events of the hook to … in GitLab's admin area, at firewalls and GitLab's settings for outbound requests",
			when: ofActivity(func(f *Facts, a *status.Activity) []hit {
				h := f.Hooks.enabled()
				switch {
				case !f.Hooks.Known || h == nil || f.Config.Listeners.Hooks.Address == "":
					return nil
				case f.Hooks.Lost:
					return []hit{{fmt.Sprintf("GitLab sent its test to system hook %d, %s, and it did not arrive", h.ID, h.URL), h.URL}}
				case a.Hook.At.IsZero():
					return []hit{{fmt.Sprintf("system hook %d to %s was never received", h.ID, h.URL), h.URL}}
				}
				return nil
			}),
		},
	}
}

// ofActivity asks when it is known what came.
func ofActivity(wrong func(*Facts, *status.Activity) []hit) func(*Facts) []hit {
	return func(f *Facts) []hit {
		if f.Config == nil || f.Cluster.Status == nil || f.Cluster.Status.Activity == nil {
			return nil
		}
		return wrong(f, f.Cluster.Status.Activity)
	}
}

func hookManners() []rule {
	return []rule{
		{
			code: "hook_plain", name: "the system hook goes over plain HTTP", why: "whoever reads along has its secret", fix: "register … with https, and set `listeners.hooks.certFile`",
			when: ofHooks(func(_ *config.Config, h gitlab.HookState) string {
				u, err := url.Parse(h.URL)
				if err != nil || u.Scheme != "http" || onLoopback(u.Hostname()) {
					return ""
				}
				return "is not encrypted"
			}),
		},
		{
			code: "hook_unverified", name: "GitLab does not verify the certificate of the hook's address", why: "whoever can pose as that address gets the hook's secret", fix: register,
			when: ofHooks(func(_ *config.Config, h gitlab.HookState) string {
				if h.Verify || !strings.HasPrefix(h.URL, "https:") {
					return ""
				}
				return "has SSL verification off"
			}),
		},
		{
			code: "hook_noise", name: "the system hook also sends events that say nothing about rights", why: "each push costs a request, and GitLab switches slow hooks off", fix: register,
			when: ofHooks(func(_ *config.Config, h gitlab.HookState) string {
				if !h.Noise {
					return ""
				}
				return "sends pushes, tags, merge requests or updates of repositories"
			}),
		},
		{
			code: "hook_twice", name: "several system hooks look like this cluster's", why: "each change is sent as often, or to where no integrator is any more",
			fix: "run `gl-k8s-integrator hooks register` for the right one, with `--remove …` for the others",
			when: func(f *Facts) []hit {
				var urls, ids []string
				right := f.Hooks.enabled()
				for _, h := range f.Hooks.ours() {
					urls = append(urls, fmt.Sprintf("%d to %s", h.ID, h.URL))
					if right == nil || h.ID != right.ID {
						ids = append(ids, fmt.Sprint(h.ID))
					}
				}
				return one(len(urls) > 1, "system hooks "+strings.Join(urls, ", "), strings.Join(ids, ","))
			},
		},
	}
}

// ofStatus is a hit with what wrong says of the status, if that is anything.
func ofStatus(wrong func(s *status.Summary, f *Facts) string) func(*Facts) []hit {
	return func(f *Facts) []hit {
		if f.Cluster.Status == nil {
			return nil
		}
		what := wrong(f.Cluster.Status, f)
		return one(what != "", what, "")
	}
}

func onLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func certificateRules() []rule {
	over := func(f *Facts, c Certificate) bool { return !f.Now.Before(c.Ends) || f.Now.Before(c.Begins) }
	certificates := func(wrong func(*Facts, Certificate) bool) func(*Facts) []hit {
		return func(f *Facts) []hit {
			var out []hit
			sorted := slices.SortedFunc(slices.Values(f.Certificates), func(a, b Certificate) int { return cmp.Or(a.Ends.Compare(b.Ends), cmp.Compare(a.What, b.What)) })
			for _, c := range sorted {
				if wrong(f, c) {
					out = append(out, hit{fmt.Sprintf("%s is good from %s to %s", c.What, c.Begins.UTC().Format(time.DateOnly), c.Ends.UTC().Format(time.RFC3339)), c.What})
				}
			}
			return out
		}
	}
	return []rule{
		{
			code: "certificate", name: "the time of a certificate is over or has not begun", after: []string{"gitlab_certificate"},
			why: "who verifies it talks no more: without the webhook's nobody logs in, without the hooks' changes are late",
			fix: "make a new certificate for …; those of the listeners are read again when they change", when: certificates(over),
		},
		{
			code: "certificate_ends", name: "a certificate ends soon",
			why:  "on that day who verifies it talks no more",
			fix:  "make a new certificate for … before; those of the listeners are read again when they change",
			when: certificates(func(f *Facts, c Certificate) bool { return !over(f, c) && c.Ends.Sub(f.Now) < soon }),
		},
	}
}
