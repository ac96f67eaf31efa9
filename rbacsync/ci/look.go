package ci

import (
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// lookEvery bounds how long what GitLab has may differ from what was delivered until that is noticed, as after a restore of
// GitLab from a backup. What readings of GitLab show is compared with each of them, and is not looked at.
const lookEvery = 24 * time.Hour

// look notes what GitLab has of a project's variables, and asks for it if that was not seen for most of lookEvery. What is
// wrong with a cluster integration it notes in the record. After an error what was shown before counts.
func (d *delivery) look(ctx context.Context) error {
	c, project, rec := &d.p.c, d.project, &d.rec
	if project.VariablesRead {
		d.has, d.hasAt = project.Variables, d.n.Read
	}
	if project.Delivery.WritesVariables() && d.hasAt.After(rec.seen) {
		rec.seen = d.hasAt
	}
	if rec.Delivery != project.Delivery || rec.Scope != c.Scope || project.Delivery == rbacsync.DeliverNone {
		return nil // all is written now, or there is nothing to look for
	}
	// Not rec.Written: a rotation writes only what has the token in it.
	last := slices.MaxFunc([]time.Time{rec.Looked, rec.seen}, time.Time.Compare)
	// Each at another moment: what was delivered together is not looked at together.
	due := rotateAt(fmt.Sprint(d.n.Name, "/", project.ID), last, last.Add(lookEvery))
	if c.Now().Before(due) {
		d.by(due)
		return nil
	}
	if err := d.p.pace.Wait(ctx); err != nil {
		return err
	}
	now, err := c.Now(), error(nil)
	switch {
	case project.Delivery == rbacsync.DeliverCertificate && c.Clusters != nil:
		var mark string
		mark, err = c.Clusters.Look(ctx, project.ID, c.Scope, d.facts.cluster, d.n.Name, d.claim(rec))
		if err == nil && (rec.Token == nil || mark != rec.Token.Mark) {
			delete(rec.Sums, clusterPart)
		}
	case project.Delivery.WritesVariables() && c.Variables != nil:
		var vars []authz.CIVariable
		if vars, err = c.Variables.Look(ctx, project.ID, c.Scope); err == nil {
			d.has, d.hasAt = vars, now
		}
	}
	if err != nil {
		return deliveryFailed("looking whether GitLab project %d still has its CI credentials (%s): %w", project.ID, project.Delivery, err)
	}
	rec.Looked = now
	return nil
}

// claim says what in GitLab is ours, as far as a project's record and the tokens of this namespace tell.
func (w *work) claim(rec *record) Claim {
	known := rec.clone()
	return Claim{Cluster: w.facts.id, Replaces: w.p.c.Replaces, Wrote: func(key, value string) bool {
		return known.wrote(key, value) || w.deliveredOnce(key, value)
	}}
}

// deliveredOnce reports whether a value is one that was delivered at any time, which a restore of GitLab may have brought back:
// tokens that are bound to the anchor of this namespace are made for GitLab alone, and are in no Secret. A kubeconfig must be
// ours to the last byte: somebody may have made their own of it.
func (w *work) deliveredOnce(key, value string) bool {
	token := value
	switch key {
	case "KUBE_TOKEN":
	case "KUBECONFIG":
		c, err := clientcmd.Load([]byte(value))
		if err != nil || c.AuthInfos[ourContext] == nil || c.Clusters[ourContext] == nil {
			return false
		}
		user, cluster := c.AuthInfos[ourContext], c.Clusters[ourContext]
		made, err := kubeconfig(Cluster{URL: cluster.Server, CA: cluster.CertificateAuthorityData}, w.n.Name, user, "")
		if err != nil || string(made) != value {
			return false
		}
		if token = user.Token; token == "" { // it is in KUBE_TOKEN, so the address has to be ours
			return cluster.Server == w.facts.cluster.URL && user.Exec != nil && slices.Equal(user.Exec.Args, fromToken().Args)
		}
	default:
		return false
	}
	c, ok := parseClaims([]byte(token))
	return ok && c.Kubernetes.Secret.Name == kubename.CIAnchor && c.Kubernetes.Namespace == w.n.Name &&
		c.Kubernetes.Account.Name == kubename.CIServiceAccount && w.n.Account != "" && c.Kubernetes.Account.UID == w.n.Account
}
