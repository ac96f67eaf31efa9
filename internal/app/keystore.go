package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
)

// keyStore keeps GitLab's last known signing keys in a Secret of our own namespace, so that a restart while GitLab is
// away locks nobody out. The keys are public, but whoever can write them decides who everybody is: that is why they
// are in a Secret that only we may write (deploy/manifests), and why a set of another issuer is not taken.
type keyStore struct {
	kube   kubernetes.Interface
	auth   *authn.GitLab
	origin string // issuer and key URL: keys of elsewhere are not ours
	log    *slog.Logger
	// look is the pause between two looks; save how often unchanged keys are written again, for their age; check how often
	// it is seen whether the Secret still holds them.
	look, save, check time.Duration
}

// keySecret is named in deploy/manifests.
const keySecret = "gl-k8s-integrator-keys" //nolint:gosec // a name

const (
	fieldJWKS    = "jwks.json"
	fieldFetched = "fetched"
	fieldOrigin  = "origin"
)

// newKeyStore returns what keeps the keys of auth in the cluster.
func newKeyStore(cfg *config.Config, kube kubernetes.Interface, auth *authn.GitLab, log *slog.Logger) *keyStore {
	return &keyStore{
		kube: kube, auth: auth, log: log, origin: cfg.GitLab.URL + " " + cfg.Authn.Keys.URL,
		look: 5 * time.Second, save: min(time.Hour, cfg.Authn.KeyMaxAge.Duration/4),
		check: 15 * time.Second,
	}
}

// run restores the keys as soon as kube-apiserver answers, then keeps the Secret up to date until ctx ends.
func (k *keyStore) run(ctx context.Context) {
	restored, told := false, false
	checked := time.Now()
	var saved struct {
		jwks    string
		fetched time.Time
	}
	for ctx.Err() == nil {
		err := error(nil)
		if !restored {
			if err = k.restore(ctx); err == nil {
				restored = true
			}
		}
		jwks, fetched := k.auth.Keys()
		if restored && len(saved.jwks) > 0 && time.Since(checked) >= k.check {
			var kept bool
			if kept, err = k.kept(ctx, jwks, fetched); err == nil {
				checked = time.Now()
			}
			if err == nil && !kept {
				saved.jwks = ""
				k.log.WarnContext(ctx, "the Secret with GitLab's signing keys was deleted or changed: it is put back", "secret", keySecret)
			}
		}
		// Nothing is written over what could not be read yet: it may be newer.
		if err == nil && restored && len(jwks) > 0 && (string(jwks) != saved.jwks || fetched.Sub(saved.fetched) >= k.save) {
			if err = k.write(ctx, jwks, fetched); err == nil {
				saved.jwks, saved.fetched = string(jwks), fetched
			}
		}
		if err != nil && !told && ctx.Err() == nil {
			k.log.WarnContext(ctx, "GitLab's signing keys can't be kept over a restart; trying again", "error", err)
		}
		told = err != nil
		select {
		case <-ctx.Done():
		case <-time.After(k.look):
		}
	}
}

// restore hands the Secret's keys to the authenticator. A Secret that can't be used counts as none: it will be
// overwritten.
func (k *keyStore) restore(ctx context.Context) error {
	s, err := k.kube.CoreV1().Secrets(deploy.Namespace).Get(ctx, keySecret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading Secret %s/%s: %w", deploy.Namespace, keySecret, err)
	}
	if string(s.Data[fieldOrigin]) != k.origin {
		return nil
	}
	fetched, err := time.Parse(time.RFC3339Nano, string(s.Data[fieldFetched]))
	if err == nil {
		err = k.auth.RestoreKeys(s.Data[fieldJWKS], fetched)
	}
	if err != nil {
		k.log.WarnContext(ctx, "the kept signing keys can't be used", "error", err)
		return nil
	}
	k.log.InfoContext(ctx, "kept signing keys restored", "read", fetched)
	return nil
}

// kept reports whether the Secret still holds these keys, or later ones, which another replica has read.
func (k *keyStore) kept(ctx context.Context, jwks []byte, fetched time.Time) (bool, error) {
	s, err := k.kube.CoreV1().Secrets(deploy.Namespace).Get(ctx, keySecret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading Secret %s/%s: %w", deploy.Namespace, keySecret, err)
	}
	at, err := time.Parse(time.RFC3339Nano, string(s.Data[fieldFetched]))
	switch {
	case err != nil || string(s.Data[fieldOrigin]) != k.origin || at.After(time.Now().Add(time.Minute)):
		return false, nil //nolint:nilerr // what can't be read is not ours
	case bytes.Equal(s.Data[fieldJWKS], jwks):
		return true, nil
	}
	return at.After(fetched) && json.Valid(s.Data[fieldJWKS]), nil
}

func (k *keyStore) write(ctx context.Context, jwks []byte, fetched time.Time) error {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: keySecret, Namespace: deploy.Namespace, Labels: map[string]string{"app.kubernetes.io/name": deploy.Namespace}},
		Type:       corev1.SecretTypeOpaque,
		Data: map[string][]byte{
			fieldJWKS: jwks, fieldOrigin: []byte(k.origin),
			fieldFetched: []byte(fetched.UTC().Format(time.RFC3339Nano)),
		},
	}
	if err := store.Put(ctx, k.kube.CoreV1().Secrets(deploy.Namespace), s); err != nil {
		return fmt.Errorf("writing Secret %s/%s: %w", deploy.Namespace, keySecret, err)
	}
	return nil
}
