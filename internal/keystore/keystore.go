package keystore

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

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
)

// Store keeps GitLab's last known signing keys in a Secret of our own namespace, so that a restart while GitLab is
// away locks nobody out. The keys are public, but whoever can write them decides who everybody is: that is why they
// are in a Secret that only we may write (deploy/manifests), and why a set of another issuer is not taken.
type Store struct {
	kube   kubernetes.Interface
	auth   Keeper
	origin string // issuer and key URL: keys of elsewhere are not ours
	log    *slog.Logger
	// look is the pause between two looks; save how often unchanged keys are written again, for their age; check how often
	// it is seen whether the Secret still holds them.
	look, save, check time.Duration
}

// Keeper is who has the keys in memory; see authn.GitLab.
type Keeper interface {
	Keys() (jwks []byte, fetched time.Time)
	RestoreKeys(jwks []byte, fetched time.Time) error
}

// Secret is the name of the Secret, as in deploy/manifests.
const Secret = store.NameKeys

// FieldJWKS is the Secret's field with the keys.
const FieldJWKS = "jwks.json"

const (
	fieldFetched = "fetched"
	fieldOrigin  = "origin"
)

// Options are what a Store needs; all fields are required.
type Options struct {
	Kube   kubernetes.Interface
	Auth   Keeper
	Origin string        // issuer and key URL: keys of elsewhere are not ours
	MaxAge time.Duration // how long keys are used after they were read
	Logger *slog.Logger
}

// New returns what keeps the keys of an authenticator.
func New(o Options) *Store {
	return &Store{
		kube: o.Kube, auth: o.Auth, log: o.Logger, origin: o.Origin,
		look: 5 * time.Second, save: min(time.Hour, o.MaxAge/4),
		check: 15 * time.Second,
	}
}

// Run restores the keys as soon as kube-apiserver answers, then keeps the Secret up to date until ctx ends.
func (k *Store) Run(ctx context.Context) {
	restored, warned := false, false
	checked := time.Now()
	var saved struct {
		jwks    string
		fetched time.Time
	}
	for ctx.Err() == nil {
		err := error(nil)
		if !restored {
			if err = k.Restore(ctx); err == nil {
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
				k.log.WarnContext(ctx, "the Secret with GitLab's signing keys was deleted or changed: it is put back", "secret", Secret)
			}
		}
		// Nothing is written over what could not be read yet: it may be newer.
		if err == nil && restored && len(jwks) > 0 && (string(jwks) != saved.jwks || fetched.Sub(saved.fetched) >= k.save) {
			if err = k.Write(ctx, jwks, fetched); err == nil {
				saved.jwks, saved.fetched = string(jwks), fetched
			}
		}
		if err != nil && !warned && ctx.Err() == nil {
			k.log.WarnContext(ctx, "GitLab's signing keys can't be kept over a restart; trying again", "error", err)
		}
		warned = err != nil
		select {
		case <-ctx.Done():
		case <-time.After(k.look):
		}
	}
}

// Restore hands the Secret's keys to the authenticator. A Secret that can't be used counts as none: it will be
// overwritten, unless a later version has written it, which is store.ErrNewer.
func (k *Store) Restore(ctx context.Context) error {
	s, err := k.kube.CoreV1().Secrets(deploy.Namespace).Get(ctx, Secret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading Secret %s/%s: %w", deploy.Namespace, Secret, err)
	}
	if err := store.Readable(s); err != nil {
		return err
	}
	if string(s.Data[fieldOrigin]) != k.origin {
		return nil
	}
	fetched, err := time.Parse(time.RFC3339Nano, string(s.Data[fieldFetched]))
	if err == nil {
		err = k.auth.RestoreKeys(s.Data[FieldJWKS], fetched)
	}
	if err != nil {
		k.log.WarnContext(ctx, "the kept signing keys can't be used", "error", err)
		return nil
	}
	k.log.InfoContext(ctx, "kept signing keys restored", "read", fetched)
	return nil
}

// kept reports whether the Secret still holds these keys, or later ones, which another replica has read.
func (k *Store) kept(ctx context.Context, jwks []byte, fetched time.Time) (bool, error) {
	s, err := k.kube.CoreV1().Secrets(deploy.Namespace).Get(ctx, Secret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading Secret %s/%s: %w", deploy.Namespace, Secret, err)
	}
	if err := store.Readable(s); err != nil {
		return false, err
	}
	at, err := time.Parse(time.RFC3339Nano, string(s.Data[fieldFetched]))
	switch {
	case err != nil || string(s.Data[fieldOrigin]) != k.origin || at.After(time.Now().Add(time.Minute)):
		return false, nil //nolint:nilerr // what can't be read is not ours
	case bytes.Equal(s.Data[FieldJWKS], jwks):
		return true, nil
	}
	return at.After(fetched) && json.Valid(s.Data[FieldJWKS]), nil
}

// Write stores keys that were read at a time.
func (k *Store) Write(ctx context.Context, jwks []byte, fetched time.Time) error {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: Secret, Namespace: deploy.Namespace, Labels: map[string]string{"app.kubernetes.io/name": deploy.Namespace}},
		Type:       corev1.SecretTypeOpaque,
		Data: map[string][]byte{
			FieldJWKS: jwks, fieldOrigin: []byte(k.origin),
			fieldFetched: []byte(fetched.UTC().Format(time.RFC3339Nano)),
		},
	}
	if err := store.Put(ctx, k.kube.CoreV1().Secrets(deploy.Namespace), s); err != nil {
		return fmt.Errorf("writing Secret %s/%s: %w", deploy.Namespace, Secret, err)
	}
	return nil
}
