package doctor

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/clusterroles"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/status"
)

// Seen is what was found of one thing, right or wrong, so that people see what was looked at.
type Seen struct {
	What string `json:"what"`
	Said string `json:"said"`
}

// seen says what was found. It names no secret: the facts hold none.
func (f *Facts) seen() (out []Seen) {
	add := func(known bool, what, format string, args ...any) {
		if known {
			out = append(out, Seen{what, fmt.Sprintf(format, args...)})
		}
	}
	f.seenGitLab(add)
	f.seenHooks(add)
	f.seenCluster(add)
	if len(f.Certificates) > 0 {
		first := slices.MinFunc(f.Certificates, func(a, b Certificate) int { return cmp.Or(a.Ends.Compare(b.Ends), cmp.Compare(a.What, b.What)) })
		add(true, "certificates", "%d, of which the first ends on %s: %s", len(f.Certificates), first.Ends.UTC().Format(time.DateOnly), first.What)
	}
	return out
}

type adder func(known bool, what, format string, args ...any)

func clockText(d *time.Duration) string {
	if d == nil {
		return ""
	}
	if d.Abs() < 2*time.Second { // the header has whole seconds
		return ", its clock is as here"
	}
	return fmt.Sprintf(", its clock is %s from the one here", d.Abs().Round(time.Second))
}

func (f *Facts) seenGitLab(add adder) {
	if g := f.GitLab; g.Fault == None && g.Issuer != "" {
		add(true, "GitLab", "%s %s, %d signing keys%s", g.Issuer, cmp.Or(g.Version, "of unknown version"), g.Keys, clockText(g.Clock))
	}
	for _, t := range []struct {
		what string
		Token
	}{{"read token", f.Read}, {"write token", f.Write}} {
		ends, kind := "never ends", "no administrator"
		if !t.State.Ends.IsZero() {
			ends = "ends on " + t.State.Ends.Format(time.DateOnly)
		}
		if t.State.Admin {
			kind = "administrator"
		}
		add(t.Known, t.what, "of %q (%s), scopes %s, %s", t.State.Username, kind, strings.Join(t.State.Scopes, ", "), ends)
	}
	for _, a := range f.Applications {
		switch {
		case a.Found != nil:
			kind := "public"
			if a.Found.Confidential {
				kind = "confidential"
			}
			add(true, "application", "%s: %s, redirect URIs %s", a.ID, kind, strings.Join(a.Found.RedirectURIs, ", "))
		case a.Client == ClientTaken:
			add(true, "application", "%s: GitLab knows it and demands no secret", a.ID)
		}
	}
}

func (f *Facts) seenHooks(add adder) {
	var ours, others []string
	for _, h := range f.Hooks.All {
		if h.Other {
			others = append(others, fmt.Sprintf("%d to %s", h.ID, h.URL))
		} else {
			ours = append(ours, fmt.Sprintf("%d to %s", h.ID, h.URL))
		}
	}
	add(ours != nil, "system hook", "%s%s", strings.Join(ours, ", "), say(f.Hooks.Tested, "; GitLab's test went to it and came here"))
	add(others != nil, "others' hooks", "of integrators of other clusters: %s", strings.Join(others, ", "))
	s := f.Cluster.Status
	if s == nil || s.Activity == nil {
		return
	}
	if f.Config != nil && f.Config.Listeners.Hooks.Address != "" {
		add(true, "last hook", "%s", s.Activity.Hook.Text(f.Now))
	}
	if f.Config != nil && !f.Config.Authn.Disabled {
		add(true, "last login", "%s", s.Activity.Login.Text(f.Now))
	}
}

func (f *Facts) seenCluster(add adder) {
	k := f.Cluster
	add(k.Fault == None && k.Version != "", "kube-apiserver", "%s%s", k.Version, clockText(k.Clock))
	for _, a := range f.started() {
		var flags []string
		for _, name := range []string{flagAuthn, flagAuthnVersion, flagAuthnCache, flagAuthnOwn, flagAuthnOIDC, flagAuthorization} {
			if v := a.Flags[name]; v != "" {
				flags = append(flags, "--"+name+"="+v)
			}
		}
		add(true, "its flags", "%s: %s", a.Where, cmp.Or(strings.Join(flags, " "), "none of ours"))
	}
	if t := f.Through; t.Known && t.Fault == None {
		switch {
		case t.JWT:
			add(true, "logins", "kube-apiserver judges GitLab's tokens by itself")
		case t.Version != "":
			add(true, "logins", "a token of our own went through kube-apiserver and came here, asked in %s", t.Version)
		default:
			add(true, "logins", "a token of our own went through kube-apiserver and came here")
		}
	}
	if a := f.Authorizers; a.File != "" && a.Unfit == "" {
		add(true, "authorizers", "%s", strings.Join(a.Types, ", "))
	}
	bindable := len(k.Roles) > 0
	for _, r := range k.Roles {
		bindable = bindable && r.Exists.Verdict == clusterroles.Yes && r.Bindable.Verdict == clusterroles.Yes
	}
	add(len(k.Roles) > 0, "ClusterRoles", "%s%s", strings.Join(slices.Sorted(maps.Keys(k.Roles)), ", "), say(bindable, ": they exist, and the integrator may bind them"))
	add(k.Fenced && k.FenceRoles == "", "fence and cage", "as in deploy/manifests")
	add(k.Namespaces > 0, "namespaces", "%d of ours, %d of them without a Pod Security standard", k.Namespaces, len(k.Privileged))
	f.seenRunning(add, k.Status)
}

func (f *Facts) seenRunning(add adder, s *status.Summary) {
	if s == nil {
		return
	}
	replicas := ""
	if f.Cluster.Want > 0 {
		replicas = fmt.Sprintf(", %d of %d replicas ready", f.Cluster.Ready, f.Cluster.Want)
	}
	add(true, "leader", "%s, mode %s%s", cmp.Or(s.Holder, "nobody"), s.Mode, replicas)
	add(!s.Read.IsZero(), "last reading", "of all of GitLab: %s", status.Seen{At: s.Read}.Text(f.Now))
	if c := f.Config; c != nil {
		scope := cmp.Or(c.CI.Environment, "*")
		add(c.CI.Delivery != "", "CI jobs", "delivery %s, environment scope %s", c.CI.Delivery, scope)
	}
}
