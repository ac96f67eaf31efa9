package ci

import (
	"context"
	"fmt"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// lookEvery bounds how long what GitLab has may differ from what was delivered until that is noticed, as after a restore of
// GitLab from a backup. What readings of GitLab show is compared with each of them, and is not looked at.
const lookEvery = 24 * time.Hour

// look asks GitLab what a project has if that was not seen for most of lookEvery. It returns the project with what GitLab
// has of its variables, and when that was read. What is wrong with a cluster integration it notes in rec.
func (w *work) look(ctx context.Context, project Project, rec *record) (Project, time.Time, error) {
	p, read := w.p, w.n.Read
	shown := project.VariablesRead && project.Mode.WritesVariables()
	if shown && read.After(rec.seen) {
		rec.seen = read
	}
	if rec.Mode != project.Mode || rec.Scope != p.Scope || project.Mode == rbacsync.DeliverNone {
		return project, read, nil // all is written now, or there is nothing to look for
	}
	last := rec.Looked // not rec.Written: a rotation writes only what has the token in it
	if rec.seen.After(last) {
		last = rec.seen
	}
	// Each at another moment: what was delivered together is not looked at together.
	due := rotateAt(fmt.Sprint(w.n.Name, "/", project.ID), last, last.Add(lookEvery))
	if p.Now().Before(due) {
		w.by(due)
		return project, read, nil
	}
	if err := p.pace.Wait(ctx); err != nil {
		return project, read, err
	}
	now := p.Now()
	switch {
	case project.Mode == rbacsync.DeliverCertificate && p.Clusters != nil:
		mark, err := p.Clusters.Look(ctx, project.ID, p.Scope, p.Cluster, w.n.Name, w.claim(rec))
		if err != nil {
			return project, read, w.notLooked(project, err)
		}
		if rec.Token == nil || mark != rec.Token.Mark {
			delete(rec.Sums, clusterPart)
		}
	case project.Mode.WritesVariables() && p.Variables != nil:
		have, err := p.Variables.Look(ctx, project.ID, p.Scope)
		if err != nil {
			return project, read, w.notLooked(project, err)
		}
		project.Variables, project.VariablesRead, read = have, true, now
	}
	rec.Looked = now
	return project, read, nil
}

func (w *work) notLooked(project Project, err error) error {
	return &deliveryError{fmt.Errorf("looking whether GitLab project %d still has its CI credentials (%s): %w", project.ID, project.Mode, err)}
}

// claim says what in GitLab is ours, as far as a project's record and the tokens of this namespace tell.
func (w *work) claim(rec *record) Claim {
	known := rec.clone()
	return Claim{Cluster: w.p.id, Replaces: w.p.Replaces, Wrote: func(key, value string) bool {
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
		if err != nil || c.Contexts[c.CurrentContext] == nil {
			return false
		}
		at := c.Contexts[c.CurrentContext]
		user, cluster := c.AuthInfos[at.AuthInfo], c.Clusters[at.Cluster]
		if user == nil || cluster == nil {
			return false
		}
		made, err := kubeconfig(Cluster{URL: cluster.Server, CA: cluster.CertificateAuthorityData}, w.n.Name, user, "")
		if err != nil || string(made) != value {
			return false
		}
		token = user.Token
	default:
		return false
	}
	c, ok := parseClaims([]byte(token))
	return ok && c.Kubernetes.Secret.Name == kubename.CIAnchor && c.Kubernetes.Namespace == w.n.Name &&
		c.Kubernetes.Account.Name == kubename.CIServiceAccount && w.n.Account != "" && c.Kubernetes.Account.UID == string(w.n.Account)
}
