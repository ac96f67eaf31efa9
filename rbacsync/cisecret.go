package rbacsync

import (
	"context"
	"maps"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// secretPause is how long changes of CI Secrets are gathered. In it a rotation of our own, which deletes a Secret and makes
// another one, is over.
const secretPause = 500 * time.Millisecond

// touchedSecrets holds the namespaces whose CI Secret was changed, true: deleted.
type touchedSecrets map[string]bool

// watchCISecrets follows the Secrets with CI tokens by their name, which is all that our role allows: not even a list.
// What was deleted or changed is handed on; nothing of the content is kept. What happens while the watch is broken is
// found by the Provisioner's own rechecks.
func (s *Syncer) watchCISecrets(ctx context.Context, changed chan touchedSecrets) {
	version, told := "", false
	for ctx.Err() == nil {
		next, err := s.streamCISecrets(ctx, version, changed)
		switch {
		case ctx.Err() != nil:
		case apierrors.IsForbidden(err) || apierrors.IsMethodNotSupported(err):
			if !told {
				s.o.Logger.WarnContext(ctx, "the Secrets with CI tokens can't be watched, looking at them now and then instead: apply the roles in deploy/ again", "error", err)
			}
			told = true
			rest(ctx, jitter(relistUnwatched))
		case err != nil:
			s.o.Logger.DebugContext(ctx, "a watch ended, resuming", "what", "secrets with CI tokens", "error", err)
			rest(ctx, jitter(time.Second))
		}
		version = next
	}
}

// streamCISecrets watches from a version on, "": from now, and returns the one to go on from.
func (s *Syncer) streamCISecrets(ctx context.Context, version string, changed chan touchedSecrets) (string, error) {
	seconds := int64(300 + rand.IntN(300)) //nolint:gosec // not a secret
	w, err := s.o.Watch.CoreV1().Secrets(metav1.NamespaceAll).Watch(ctx, metav1.ListOptions{
		FieldSelector: "metadata.name=" + kubename.CISecret, ResourceVersion: version, AllowWatchBookmarks: true, TimeoutSeconds: &seconds,
	})
	if err != nil {
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			return "", err
		}
		return version, err
	}
	defer w.Stop()
	for {
		var e watch.Event
		var ok bool
		select {
		case <-ctx.Done():
			return version, ctx.Err()
		case e, ok = <-w.ResultChan():
		}
		if !ok {
			return version, nil
		}
		if e.Type == watch.Error {
			return "", apierrors.FromObject(e.Object)
		}
		m, err := meta.Accessor(e.Object)
		if err != nil {
			return "", err
		}
		version = m.GetResourceVersion()
		if e.Type != watch.Deleted && e.Type != watch.Modified {
			continue
		}
		now := touchedSecrets{m.GetNamespace(): e.Type == watch.Deleted}
		select { // with what nobody has taken yet
		case before := <-changed:
			maps.Copy(before, now)
			now = before
		default:
		}
		changed <- now
	}
}

// restoreCISecrets looks at the CI credentials of these namespaces again, and says in an Event when a deleted Secret was
// made anew.
func (s *Syncer) restoreCISecrets(ctx context.Context, touched touchedSecrets, list []ci.Namespace) ci.Report {
	for ns := range touched {
		s.o.CI.Changed(ns)
	}
	report := s.o.CI.Provision(ctx, list)
	if report.Issued == 0 {
		return report
	}
	for _, n := range list {
		if touched[n.Name] && !n.Gone {
			ref := corev1.ObjectReference{APIVersion: "v1", Kind: "Secret", Namespace: n.Name, Name: kubename.CISecret}
			tellOne(ctx, s.o.Kube, s.o.Logger, s.o.Now(), ref, "Secret "+n.Name+"/"+kubename.CISecret+
				" was deleted by somebody else and is made anew with another token: the token before died with it")
		}
	}
	return report
}
