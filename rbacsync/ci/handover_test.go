package ci_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// TestHandovers tells what would be written to GitLab by what it shows.
func TestHandovers(t *testing.T) {
	t.Parallel()
	terms := ci.Terms{Scope: "production", Shown: "production", Cluster: "c1", Replaces: []string{"c0"}, CA: true}
	withToken := ci.Keys()
	withoutToken := slices.DeleteFunc(ci.Keys(), func(k string) bool { return k == "KUBE_TOKEN" })
	has := func(cluster string, keys ...string) (out []authz.CIVariable) {
		for _, k := range keys {
			out = append(out, authz.CIVariable{Key: k, Scope: "production", Marked: true, Cluster: cluster, Protected: true})
		}
		return out
	}
	base := ci.Handover{Namespace: "haw-world", Project: 42, Delivery: rbacsync.DeliverVariables, Protected: true}
	with := func(f func(*ci.Handover)) []ci.Handover {
		h := base
		f(&h)
		return []ci.Handover{h}
	}
	for name, c := range map[string]struct {
		change func(*ci.Namespace, *ci.Project, *ci.Terms)
		want   []ci.Handover
	}{
		"nothing there": {
			func(_ *ci.Namespace, p *ci.Project, _ *ci.Terms) { p.Variables = nil },
			with(func(h *ci.Handover) { h.Write = withToken }),
		},
		"all there":            {func(*ci.Namespace, *ci.Project, *ci.Terms) {}, nil},
		"of a cluster before":  {func(_ *ci.Namespace, p *ci.Project, _ *ci.Terms) { p.Variables = has("c0", withToken...) }, nil},
		"another environment":  {func(_ *ci.Namespace, _ *ci.Project, t *ci.Terms) { t.Scope = "staging" }, with(func(h *ci.Handover) { h.Write = withToken })},
		"not read":             {func(_ *ci.Namespace, p *ci.Project, _ *ci.Terms) { p.Variables, p.VariablesRead = nil, false }, nil},
		"archived":             {func(_ *ci.Namespace, p *ci.Project, _ *ci.Terms) { p.Variables, p.Frozen = nil, true }, nil},
		"a new ServiceAccount": {func(n *ci.Namespace, _ *ci.Project, _ *ci.Terms) { n.Account = "" }, with(func(h *ci.Handover) { h.Write = withToken })},
		"unprotected": {
			func(_ *ci.Namespace, p *ci.Project, _ *ci.Terms) { p.Unprotected = true },
			with(func(h *ci.Handover) { h.Write, h.Protected = withToken, false }),
		},
		"another mode": {
			func(_ *ci.Namespace, p *ci.Project, _ *ci.Terms) { p.Delivery = rbacsync.DeliverIDToken },
			with(func(h *ci.Handover) { h.Delivery, h.Remove = rbacsync.DeliverIDToken, []string{"KUBE_TOKEN"} }),
		},
		"none": {
			func(_ *ci.Namespace, p *ci.Project, _ *ci.Terms) { p.Delivery = rbacsync.DeliverNone },
			with(func(h *ci.Handover) { h.Delivery, h.Remove = rbacsync.DeliverNone, withToken }),
		},
		"undecided": {func(n *ci.Namespace, p *ci.Project, _ *ci.Terms) {
			p.Delivery, n.Undecided = rbacsync.DeliverNone, true
		}, nil},
		"through an agent whose CA is known": {
			func(_ *ci.Namespace, p *ci.Project, _ *ci.Terms) {
				p.Delivery, p.Variables = rbacsync.DeliverAgent, has("c1", withoutToken...)
			},
			with(func(h *ci.Handover) {
				h.Delivery, h.Remove = rbacsync.DeliverAgent, []string{"KUBE_CA_PEM", "KUBE_CA_PEM_FILE"}
			}),
		},
		"by certificate": {
			func(n *ci.Namespace, p *ci.Project, _ *ci.Terms) {
				n.Account, p.Delivery, p.Variables = "", rbacsync.DeliverCertificate, nil
			},
			with(func(h *ci.Handover) { h.Delivery, h.Integration = rbacsync.DeliverCertificate, ci.Written }),
		},
		"another cluster's": {
			func(_ *ci.Namespace, p *ci.Project, _ *ci.Terms) { p.Variables = has("c9", "KUBE_TOKEN") },
			with(func(h *ci.Handover) { h.Other = "c9" }),
		},
		"one of the project's own": {
			func(_ *ci.Namespace, p *ci.Project, _ *ci.Terms) { p.Variables[0].Marked = false },
			with(func(h *ci.Handover) { h.Foreign = []string{"KUBECONFIG"} }),
		},
		"gone": {
			func(n *ci.Namespace, _ *ci.Project, _ *ci.Terms) { n.Projects, n.Gone, n.Exists = nil, true, true },
			with(func(h *ci.Handover) { h.Delivery, h.Remove = rbacsync.DeliverNone, withToken }),
		},
	} {
		p := ci.Project{ID: 42, Delivery: rbacsync.DeliverVariables, VariablesRead: true, Variables: has("c1", withToken...)}
		n := ci.Namespace{Name: "haw-world", Source: authz.ProjectID(42), Account: "u1", Projects: []ci.Project{p}}
		snap := &authz.Snapshot{Projects: map[int64]authz.Project{42: {ID: 42, Variables: new(slices.Clone(p.Variables))}}}
		tt := terms
		c.change(&n, &p, &tt)
		if n.Projects != nil {
			n.Projects[0] = p
		}
		if d := cmp.Diff(c.want, ci.Handovers([]ci.Namespace{n}, snap, tt)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}
