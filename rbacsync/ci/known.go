package ci

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	"golang.org/x/sync/errgroup"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Known is what Handovers goes by besides what GitLab showed of variables. There is no secret in it.
type Known struct {
	API     Cluster
	AgentCA []byte     `json:",omitempty"`
	Agent   AgentState // if a project uses the agent
	// TooOld says why this GitLab is too old for a mode.
	TooOld map[rbacsync.Delivery]string `json:",omitempty"`
	// Expands says that this GitLab replaces references to variables in values.
	Expands bool            `json:",omitempty"`
	Keys    []string        `json:",omitempty"` // ids of the keys of which the API server accepts tokens
	Kept    map[string]Kept // by namespace; nothing is delivered to one that is not there
	// Findings say why what is kept of a namespace can't be read.
	Findings []authz.Finding `json:",omitempty"`
}

// Kept is what is kept on the Secrets of a namespace.
type Kept struct {
	Records string    `json:",omitempty"` // what projects were given, by sums
	Readers []int64   `json:",omitempty"` // who can read the token
	Anchor  types.UID `json:",omitempty"` // what tokens in GitLab are bound to
}

// Known reads it from the cluster, and asks GitLab about its version and agent. It changes nothing. A namespace of which something
// can't be read, say because a tenant has a Secret of that name, keeps nobody from knowing of the others.
func (p *Provisioner) Known(ctx context.Context, namespaces []Namespace) (Known, error) {
	f := p.learn(ctx, &Report{})
	k := Known{API: f.cluster, AgentCA: f.agentCA, Expands: f.expands, TooOld: map[rbacsync.Delivery]string{}, Kept: map[string]Kept{}}
	for id := range p.keys.answer {
		k.Keys = append(k.Keys, id)
	}
	slices.Sort(k.Keys)
	modes := sets.New[rbacsync.Delivery]()
	for _, n := range namespaces {
		for _, project := range n.Projects {
			modes.Insert(project.Delivery)
		}
	}
	if p.c.TooOld != nil {
		for _, m := range sets.List(modes) {
			if why, err := p.c.TooOld(ctx, m); err == nil && why != "" {
				k.TooOld[m] = why
			}
		}
	}
	if a := p.c.Agent; a != nil && modes.Has(rbacsync.DeliverAgent) {
		var err error
		if k.Agent, err = a.Look(ctx); err != nil {
			return k, deliveryFailed("asking GitLab whether its agent impersonates jobs: %w", err)
		}
	}
	kept, faults := make([]Kept, len(namespaces)), make([]error, len(namespaces))
	var g errgroup.Group
	g.SetLimit(2 * p.c.Concurrency)
	for i, n := range namespaces {
		g.Go(func() error {
			w := p.work(n)
			if faults[i] = w.load(ctx); faults[i] != nil {
				return ctx.Err()
			}
			if w.s != nil {
				kept[i] = Kept{Records: w.s.Annotations[kubename.AnnotationCIProjects], Readers: readers(w.s)}
			}
			if w.anchor != nil {
				kept[i].Anchor = w.anchor.UID
			}
			return nil
		})
	}
	err := g.Wait()
	for i, n := range namespaces {
		if faults[i] == nil {
			k.Kept[n.Name] = kept[i]
			continue
		}
		k.Findings = append(k.Findings, authz.Finding{Code: "ci_token_failed", Source: n.Source, Text: faults[i].Error()})
	}
	return k, err
}

// forecast returns a look at a namespace that does nothing, as it would begin.
func (t Terms) forecast(n Namespace) *work {
	k := t.Known
	c := Config{Name: t.Name, Scope: t.Scope, Replaces: t.Replaces, Audience: t.Audience, Agent: t.Agent}.complete()
	c.Now = t.now
	p := New(c)
	p.keys.answer = map[string]bool{}
	for _, id := range k.Keys {
		p.keys.answer[id] = true
	}
	kept := k.Kept[n.Name]
	annotated := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{kubename.AnnotationCIProjects: kept.Records}}}
	w := &work{secrets: secrets{
		namespaceState: &namespaceState{n: n, recs: records(annotated)}, p: p, facts: facts{id: t.Cluster, cluster: k.API, agentCA: k.AgentCA, expands: k.Expands},
	}}
	if kept.Anchor != "" {
		w.anchor = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{UID: kept.Anchor}}
	}
	switch gone := sets.New(kept.Readers...).Insert(n.Lost...).Delete(n.Readers...); {
	case n.Account == "":
		w.anchor, w.killed = nil, "its ServiceAccount is made anew"
	case len(gone) > 0 && !n.Undecided:
		w.anchor, w.killed = nil, "somebody who could read the token has lost the right to deploy"
	case w.anchor == nil:
		w.killed = "the token was destroyed"
	}
	return w
}

// whyNew says why the token in what a project was given is replaced; "": it is not.
func (w *work) whyNew(t *issued) string {
	switch {
	case t == nil || w.tokenID(t) == t.ID:
		return ""
	case w.killed != "":
		return w.killed
	case w.anchor == nil || t.Anchor != w.anchor.UID:
		return "the token was destroyed"
	case t.Account != w.n.Account:
		return "its ServiceAccount was made anew"
	case w.p.keys.retired(t.Key):
		return "the API server has given up the key that signed the token"
	}
	return "most of the token's life is over"
}
