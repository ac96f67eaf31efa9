package ci

import (
	"context"
	"fmt"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// A watch is authorised once, when it begins, and shows what is written long after its owner has lost the right to read
// it. So a token that GitLab gets is never written into the cluster: it is bound to the anchor, a Secret without a token, and
// dies with that. The token in the Secret that people can read is another one, and after a loss there is none for a while
// (docs/adr/0074).

// issued is what is kept of a token that GitLab was given.
type issued struct {
	ID      string    `json:"id"`      // a digest of the token, which is of high entropy
	Anchor  types.UID `json:"anchor"`  // what it is bound to
	Account types.UID `json:"account"` // of the ServiceAccount
	Key     string    `json:"key,omitempty"`
	Since   time.Time `json:"since"`
	Expires time.Time `json:"expires"`
	Rotate  time.Time `json:"rotate"`
	// Parts tell for each part with the token in it whether all else in that part is still the same.
	Parts map[string]string `json:"parts,omitempty"`
	// Mark is what a cluster integration with the token is known by; see ClusterWriter.
	Mark string `json:"mark,omitempty"`

	token string
}

// tokenID stands for a token where only a change of it matters: of one that is good for a while, because nothing shows that
// it can't work any more, and most of its life is ahead.
func (w *secrets) tokenID(t *issued) string {
	if t == nil || w.anchor == nil || t.Anchor != w.anchor.UID || w.n.Account != "" && t.Account != w.n.Account ||
		w.p.keys.retired(t.Key) || !w.p.c.Now().Before(t.Rotate) {
		return "none"
	}
	return t.ID
}

// within is the token without the parts that have it no longer.
func (t *issued) within(vars []Variable, holds func(Variable) bool) *issued {
	if t == nil {
		return nil
	}
	out := *t
	out.Parts = map[string]string{}
	for _, v := range vars {
		if part, ok := t.Parts[v.Key]; ok && holds(v) {
			out.Parts[v.Key] = part
		}
	}
	return &out
}

// request asks for a token that dies with a Secret.
func (w *secrets) request(ctx context.Context, bound *corev1.Secret) (*issued, error) {
	now, seconds := w.p.c.Now(), int64(w.p.c.Lifetime.Seconds())
	tr, err := w.p.c.Kube.CoreV1().ServiceAccounts(w.n.Name).CreateToken(ctx, kubename.CIServiceAccount, &authnv1.TokenRequest{
		Spec: authnv1.TokenRequestSpec{
			ExpirationSeconds: &seconds,
			BoundObjectRef:    &authnv1.BoundObjectReference{Kind: "Secret", APIVersion: "v1", Name: bound.Name, UID: bound.UID},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("requesting a token of ServiceAccount %s/%s: %w", w.n.Name, kubename.CIServiceAccount, err)
	}
	token, expires := tr.Status.Token, tr.Status.ExpirationTimestamp.Time
	c, _ := parseClaims([]byte(token))
	t := &issued{
		ID: sum(token), Anchor: bound.UID, Account: c.Kubernetes.Account.UID, Key: keyID([]byte(token)), Since: now, Expires: expires,
		Rotate: rotateAt(w.n.Name, now, expires), token: token,
	}
	w.p.keys.issued(t.Key, now)
	return t, nil
}

// makeAnchor makes the anchor, with the mark of a loss if there was one.
func (w *secrets) makeAnchor(ctx context.Context) (err error) {
	s := &corev1.Secret{}
	w.mark(s)
	w.anchor, err = w.create(ctx, kubename.CIAnchor, s)
	return err
}

// mark notes on a Secret when somebody lost the right to read it, if no token may be written there because of that.
func (w *secrets) mark(s *corev1.Secret) {
	since := ""
	if !w.withheldSince.IsZero() {
		since = w.withheldSince.UTC().Format(time.RFC3339)
	}
	annotate(s, kubename.AnnotationWithheldSince, since)
}

// withheld reports whether no token may be written where people can read it: somebody who lost that right may still watch.
func (w *secrets) withheld() bool {
	if w.withheldSince.IsZero() {
		return false
	}
	if w.p.c.Withhold <= 0 {
		return true
	}
	over := w.withheldSince.Add(w.p.c.Withhold)
	if w.p.c.Now().Before(over) {
		w.by(over)
		return true
	}
	w.withheldSince = time.Time{}
	return false
}
