package ci

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// secrets are the two Secrets of a namespace, in one look at it.
type secrets struct {
	*namespaceState // what is to be remembered of this look; until load, its records are those of the look before
	p               *Provisioner
	facts           facts
	lost            []int64 // who lost the right to read the token

	s      *corev1.Secret // kubename.CISecret
	anchor *corev1.Secret // kubename.CIAnchor
	// withheldSince is when somebody last lost the right to read s; zero: nobody did, or that is over.
	withheldSince time.Time

	issued      int
	settledLoss bool // lost was dealt with
}

// by makes the next look be no later than at.
func (w *secrets) by(at time.Time) {
	if at.Before(w.next) {
		w.next = at
	}
}

// load reads the Secrets and what is kept on them. When CISecret was deleted, what is remembered counts.
func (w *secrets) load(ctx context.Context) error {
	var err error
	if w.s, err = w.read(ctx, kubename.CISecret); err != nil {
		return err
	}
	if w.anchor, err = w.read(ctx, kubename.CIAnchor); err != nil {
		return err
	}
	before := w.recs
	if w.recs == nil {
		w.recs = map[int64]record{}
	}
	if w.s != nil {
		w.recs = records(w.s)
		for id, r := range w.recs {
			r.refused, r.seen = before[id].refused, before[id].seen
			w.recs[id] = r
		}
	}
	return nil
}

// read reads a Secret, nil if there is none; one without our mark is an error, because it belongs to somebody else. Of
// what the two Secrets say of a loss the later counts: either may have been made anew since.
func (w *secrets) read(ctx context.Context, name string) (*corev1.Secret, error) {
	ns := w.n.Name
	s, err := w.p.c.Kube.CoreV1().Secrets(ns).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil //nolint:nilnil // what is not there is no error
	case apierrors.IsForbidden(err):
		return nil, fmt.Errorf("reading Secret %s/%s: %w: apply deploy/manifests again", ns, name, err)
	case err != nil:
		return nil, fmt.Errorf("reading Secret %s/%s: %w", ns, name, err)
	case s.Labels[kubename.LabelManagedBy] != kubename.ManagedBy || s.Type != corev1.SecretTypeOpaque:
		return nil, fmt.Errorf("reading Secret %s/%s: it exists without our owner mark or is not Opaque: delete it if nothing else needs it", ns, name)
	}
	if at, err := time.Parse(time.RFC3339, s.Annotations[kubename.AnnotationWithheldSince]); err == nil && at.After(w.withheldSince) {
		w.withheldSince = at
	}
	return s, nil
}

// killLost destroys the tokens when somebody who could have read one since it was issued has lost the right to deploy, and
// notes when that was. (Replacing one in the Secret would leave the old one alive.)
func (w *secrets) killLost(ctx context.Context) error {
	if w.n.Undecided {
		return nil
	}
	if gone := sets.New(readers(w.s)...).Insert(w.lost...).Delete(w.n.Readers...); len(gone) > 0 {
		w.withheldSince = w.p.c.Now()
		if err := w.destroyTokens(ctx, true); err != nil {
			return err
		}
		w.p.c.Logger.InfoContext(ctx, "CI tokens destroyed: somebody who could read them has lost the right to deploy",
			"namespace", w.n.Name, "source", w.n.Source.String(), "users", sets.List(gone)[:min(len(gone), 20)])
	}
	w.settledLoss = true
	return nil
}

// destroyTokens destroys all tokens of the namespace. The Secret, which knows who could read, ends last, and only if there
// is a token in it; after a loss only when the time of that is on a new anchor: so nothing is forgotten if this ends halfway.
func (w *secrets) destroyTokens(ctx context.Context, lost bool) error {
	readable := hasToken(w.s)
	if w.anchor == nil && !readable {
		return nil
	}
	if err := w.destroy(ctx, &w.anchor); err != nil {
		return err
	}
	if lost {
		if err := w.makeAnchor(ctx); err != nil {
			return err
		}
	}
	if readable {
		return w.destroy(ctx, &w.s)
	}
	return nil
}

// destroyLost is killLost alone. What was kept on the Secret is kept on a new one, without a token.
func (w *secrets) destroyLost(ctx context.Context) error {
	if err := w.load(ctx); err != nil || w.s == nil && w.anchor == nil {
		return err
	}
	if err := w.killLost(ctx); err != nil {
		return err
	}
	return w.save(ctx, nil)
}

// token makes the Secrets, with a token that works if anybody needs one and nobody who should not can see it.
func (w *secrets) token(ctx context.Context) error {
	if w.s == nil {
		if err := w.save(ctx, nil); err != nil {
			return err
		}
	}
	if !w.n.needsToken() {
		return nil
	}
	if w.anchor == nil && w.n.deliversToken() {
		if err := w.makeAnchor(ctx); err != nil {
			return err
		}
	}
	if !hasToken(w.s) && w.withheld() {
		return nil
	}
	if why := w.stale(); why != "" {
		if err := w.issue(ctx, why); err != nil {
			return err
		}
	}
	c, _ := parseClaims(w.s.Data[keyToken])
	w.life = c.life()
	if at, err := time.Parse(time.RFC3339, w.s.Annotations[kubename.AnnotationRotateAt]); err == nil {
		w.by(at)
	}
	return nil
}

// issue requests a token bound to the Secret and stores it there. The token before stays valid until it expires, so
// that jobs which have it go on.
func (w *secrets) issue(ctx context.Context, why string) error {
	t, err := w.request(ctx, w.s)
	if err != nil {
		return err
	}
	if err := w.save(ctx, t); err != nil {
		return err
	}
	w.issued++
	w.p.c.Logger.InfoContext(ctx, "CI token issued", "namespace", w.n.Name, "source", w.n.Source.String(), "why", why, "expires", string(w.s.Data[keyExpires]))
	return nil
}

// save writes the Secret, if there is news: what was delivered, who can read the token, when somebody lost that, and a new
// token, if there is one. The resourceVersion makes the write conflict when somebody else was faster.
func (w *secrets) save(ctx context.Context, token *issued) error {
	s := w.s.DeepCopy()
	if s == nil {
		s = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.n.Name}}
	}
	err := setRecords(s, w.recs)
	if err == nil && (w.s == nil || !w.n.Undecided) {
		err = setReaders(s, w.n.Readers)
	}
	if err != nil {
		return err
	}
	w.mark(s)
	data := map[string][]byte{keyCA: w.facts.cluster.CA, keyNamespace: []byte(w.n.Name)}
	switch {
	case token != nil:
		data[keyToken], data[keyExpires] = []byte(token.token), []byte(token.Expires.UTC().Format(time.RFC3339))
		annotate(s, kubename.AnnotationRotateAt, token.Rotate.UTC().Format(time.RFC3339))
	case hasToken(s):
		data[keyToken], data[keyExpires] = s.Data[keyToken], s.Data[keyExpires]
	}
	s.Data = data
	switch {
	case w.s == nil:
		s, err = w.create(ctx, kubename.CISecret, s)
	case equality.Semantic.DeepEqual(s, w.s):
		return nil
	default:
		if s, err = w.p.c.Kube.CoreV1().Secrets(w.n.Name).Update(ctx, s, metav1.UpdateOptions{}); err != nil {
			err = fmt.Errorf("writing Secret %s/%s: %w", w.n.Name, kubename.CISecret, err)
		}
	}
	if err != nil {
		return err
	}
	w.s = s
	return nil
}

// create makes a Secret of ours.
func (w *secrets) create(ctx context.Context, name string, s *corev1.Secret) (*corev1.Secret, error) {
	s.Name, s.Namespace, s.Labels, s.Type = name, w.n.Name, map[string]string{kubename.LabelManagedBy: kubename.ManagedBy}, corev1.SecretTypeOpaque
	made, err := w.p.c.Kube.CoreV1().Secrets(w.n.Name).Create(ctx, s, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("making Secret %s/%s: %w", w.n.Name, name, err)
	}
	return made, nil
}

// retire destroys a token that nobody needs any more, when all jobs that may have it are over.
func (w *secrets) retire(ctx context.Context) error {
	if w.n.needsToken() || w.n.Undecided || w.anchor == nil && !hasToken(w.s) {
		return nil
	}
	now := w.p.c.Now()
	for _, project := range w.n.Projects {
		r := w.recs[project.ID]
		over := r.Since.Add(w.p.c.Handover)
		if r.Delivery != project.Delivery || now.Before(over) {
			if r.Delivery == project.Delivery {
				w.by(over)
			}
			return nil
		}
	}
	if err := w.destroyTokens(ctx, false); err != nil {
		return err
	}
	w.p.c.Logger.InfoContext(ctx, "CI tokens destroyed: nobody needs them any more", "namespace", w.n.Name, "source", w.n.Source.String())
	return nil
}

// destroy deletes a Secret, if there is one, and with it the tokens that are bound to it.
func (w *secrets) destroy(ctx context.Context, at **corev1.Secret) error {
	s := *at
	if s == nil {
		return nil
	}
	w.p.ending(s)
	err := w.p.c.Kube.CoreV1().Secrets(s.Namespace).Delete(ctx, s.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting Secret %s/%s: %w", s.Namespace, s.Name, err)
	}
	*at = nil
	return nil
}
