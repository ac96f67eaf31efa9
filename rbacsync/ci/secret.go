package ci

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// secrets are the two Secrets of a namespace, in one look at it.
type secrets struct {
	p      *Provisioner
	facts  facts
	n      Namespace
	before map[int64]record // what was remembered: for when the Secret was deleted
	lost   []int64          // who lost the right to read the token

	s      *corev1.Secret   // kubename.CISecret
	anchor *corev1.Secret   // kubename.CIAnchor
	recs   map[int64]record // what is kept on s
	// withheldSince is when somebody last lost the right to read s; zero: nobody did, or that is over.
	withheldSince time.Time

	issued      int
	life        time.Duration
	next        time.Time
	settledLoss bool // lost was dealt with
}

// by makes the next look be no later than at.
func (w *secrets) by(at time.Time) {
	if at.Before(w.next) {
		w.next = at
	}
}

// load reads the Secret and what is kept on it.
func (w *secrets) load(ctx context.Context) error {
	var err error
	if w.s, err = w.p.secret(ctx, w.n.Name, kubename.CISecret); err != nil {
		return err
	}
	if w.anchor, err = w.p.secret(ctx, w.n.Name, kubename.CIAnchor); err != nil {
		return err
	}
	w.readMarks()
	if w.recs = w.before; w.s != nil {
		w.recs = records(w.s)
		for id, r := range w.recs {
			r.refused, r.seen = w.before[id].refused, w.before[id].seen
			w.recs[id] = r
		}
	} else if w.recs == nil {
		w.recs = map[int64]record{}
	}
	return nil
}

// secret reads a Secret of a namespace, nil if there is none; one without our mark is an error, because it belongs to
// somebody else.
func (p *Provisioner) secret(ctx context.Context, ns, name string) (*corev1.Secret, error) {
	s, err := p.c.Kube.CoreV1().Secrets(ns).Get(ctx, name, metav1.GetOptions{})
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
	return s, nil
}

// killLost destroys the tokens when somebody who could have read one since it was issued has lost the right to deploy, and
// notes when that was. (Replacing one in the Secret would leave the old one alive.) The Secret, which knows who could read,
// ends last, and only when the time of the loss is on the new anchor: so nothing is forgotten if this ends halfway.
func (w *secrets) killLost(ctx context.Context) error {
	if w.n.Undecided {
		return nil
	}
	var had []int64
	if w.s != nil {
		had, _ = readers(w.s)
	}
	gone := without(union(had, w.lost), w.n.Readers)
	if len(gone) > 0 {
		w.withheldSince = w.p.c.Now()
		readable := w.s != nil && len(w.s.Data[keyToken]) > 0
		if w.anchor != nil || readable {
			if err := w.p.destroy(ctx, w.anchor); err != nil {
				return err
			}
			if err := w.makeAnchor(ctx); err != nil {
				return err
			}
		}
		if readable {
			if err := w.p.destroy(ctx, w.s); err != nil {
				return err
			}
			w.s = nil
		}
		w.p.c.Logger.InfoContext(ctx, "CI tokens destroyed: somebody who could read them has lost the right to deploy",
			"namespace", w.n.Name, "source", w.n.Source.String(), "users", gone[:min(len(gone), 20)])
	}
	w.settledLoss = true
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
	if w.s != nil {
		return w.save(ctx)
	}
	return w.create(ctx)
}

// create makes the Secret, without a token, for what is kept on it.
func (w *secrets) create(ctx context.Context) error {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.n.Name}, Data: map[string][]byte{keyCA: w.facts.cluster.CA, keyNamespace: []byte(w.n.Name)}}
	if _, err := setRecords(s, w.recs); err != nil {
		return err
	}
	if _, err := setReaders(s, w.n.Readers); err != nil {
		return err
	}
	made, err := w.makeSecret(ctx, kubename.CISecret, s)
	if err != nil {
		return err
	}
	w.s = made
	return nil
}

// makeSecret makes a Secret of ours, with the mark of a loss if there was one.
func (w *secrets) makeSecret(ctx context.Context, name string, s *corev1.Secret) (*corev1.Secret, error) {
	s.Name, s.Namespace, s.Labels, s.Type = name, w.n.Name, map[string]string{kubename.LabelManagedBy: kubename.ManagedBy}, corev1.SecretTypeOpaque
	w.mark(s)
	made, err := w.p.c.Kube.CoreV1().Secrets(w.n.Name).Create(ctx, s, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("making Secret %s/%s: %w", w.n.Name, name, err)
	}
	return made, nil
}

// token makes the Secrets, with a token that works if anybody needs one and nobody who should not can see it.
func (w *secrets) token(ctx context.Context) error {
	if w.s == nil {
		if err := w.create(ctx); err != nil {
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
	if len(w.s.Data[keyToken]) == 0 && w.withheld() {
		return nil
	}
	if why := stale(w.s, w.n.Account, w.facts.cluster.CA, w.p.keys.retired, w.p.c.Now()); why != "" {
		if err := w.issue(ctx, why); err != nil {
			return err
		}
	}
	if c, ok := parseClaims(w.s.Data[keyToken]); ok {
		w.life = c.life()
	}
	if at, err := time.Parse(time.RFC3339, w.s.Annotations[kubename.AnnotationRotateAt]); err == nil {
		w.by(at)
	}
	return nil
}

// issue requests a token bound to the Secret and stores it there. The token before stays valid until it expires, so
// that jobs which have it go on.
func (w *secrets) issue(ctx context.Context, why string) error {
	p, now := w.p, w.p.c.Now()
	token, expires, err := w.request(ctx, w.s)
	if err != nil {
		return err
	}
	s := w.s.DeepCopy()
	annotate(s, kubename.AnnotationWithheldSince, "")
	annotate(s, kubename.AnnotationRotateAt, rotateAt(w.n.Name, now, expires).UTC().Format(time.RFC3339))
	if had, _ := readers(s); !w.n.Undecided {
		// Who could read the token before and can't now was found by killLost; this token they never saw.
		if _, err := setReaders(s, union(had, w.n.Readers)); err != nil {
			return err
		}
	}
	s.Data = map[string][]byte{
		keyToken: []byte(token), keyCA: w.facts.cluster.CA, keyNamespace: []byte(w.n.Name),
		keyExpires: []byte(expires.UTC().Format(time.RFC3339)),
	}
	if err := w.store(ctx, s); err != nil {
		return err
	}
	w.issued++
	p.c.Logger.InfoContext(ctx, "CI token issued", "namespace", w.n.Name, "source", w.n.Source.String(), "why", why, "expires", string(s.Data[keyExpires]))
	return nil
}

// store writes the Secret; the resourceVersion in it makes the write conflict when somebody else was faster.
func (w *secrets) store(ctx context.Context, s *corev1.Secret) error {
	stored, err := w.p.c.Kube.CoreV1().Secrets(s.Namespace).Update(ctx, s, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("writing Secret %s/%s: %w", s.Namespace, kubename.CISecret, err)
	}
	w.s = stored
	return nil
}

// save writes down what was delivered and who can read the token, if that is news.
func (w *secrets) save(ctx context.Context) error {
	s := w.s.DeepCopy()
	changed, err := setRecords(s, w.recs)
	if err != nil {
		return err
	}
	if !w.n.Undecided {
		more, err := setReaders(s, w.n.Readers)
		if err != nil {
			return err
		}
		changed = changed || more
	}
	changed = w.mark(s) || changed
	if len(s.Data[keyToken]) == 0 && string(s.Data[keyCA]) != string(w.facts.cluster.CA) {
		s.Data, changed = map[string][]byte{keyCA: w.facts.cluster.CA, keyNamespace: []byte(w.n.Name)}, true
	}
	if !changed {
		return nil
	}
	return w.store(ctx, s)
}

// retire destroys a token that nobody needs any more, when all jobs that may have it are over.
func (w *secrets) retire(ctx context.Context) error {
	if w.n.needsToken() || w.n.Undecided || w.s == nil || w.anchor == nil && len(w.s.Data[keyToken]) == 0 {
		return nil
	}
	now := w.p.c.Now()
	for _, project := range w.n.Projects {
		r := w.recs[project.ID]
		over := r.Since.Add(w.p.c.Handover)
		if r.Mode != project.Mode || now.Before(over) {
			if r.Mode == project.Mode {
				w.by(over)
			}
			return nil
		}
	}
	if err := w.p.destroy(ctx, w.anchor); err != nil {
		return err
	}
	w.anchor = nil
	w.p.c.Logger.InfoContext(ctx, "CI tokens destroyed: nobody needs them any more", "namespace", w.n.Name, "source", w.n.Source.String())
	if len(w.s.Data[keyToken]) == 0 {
		return nil
	}
	if err := w.p.destroy(ctx, w.s); err != nil {
		return err
	}
	w.s = nil
	return w.token(ctx)
}

// destroy deletes a Secret, if there is one, and with it the tokens that are bound to it.
func (p *Provisioner) destroy(ctx context.Context, s *corev1.Secret) error {
	if s == nil {
		return nil
	}
	p.ending(s)
	err := p.c.Kube.CoreV1().Secrets(s.Namespace).Delete(ctx, s.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting Secret %s/%s: %w", s.Namespace, s.Name, err)
	}
	return nil
}
