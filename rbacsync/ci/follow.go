package ci

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// Follow watches the Secrets until ctx ends and tells when somebody else has deleted one or changed its token, so that the
// next Provision looks at its namespace. client must have no timeout. Watching one name needs no right to list Secrets. Between two
// watches something may have been deleted: then the next Provision looks at all, and namespace is "".
func (p *Provisioner) Follow(ctx context.Context, client kubernetes.Interface, notify func(namespace string, deleted bool)) {
	var wg sync.WaitGroup
	for _, name := range []string{kubename.CISecret, kubename.CIAnchor} { // a field selector takes one name
		wg.Go(func() { p.follow(ctx, client, name, notify) })
	}
	wg.Wait()
}

func (p *Provisioner) follow(ctx context.Context, client kubernetes.Interface, name string, notify func(namespace string, deleted bool)) {
	warned := false
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		w, err := client.CoreV1().Secrets(metav1.NamespaceAll).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
		if err != nil {
			if ctx.Err() == nil && !warned {
				p.c.Logger.WarnContext(ctx, "the Secrets of CI tokens can't be watched, they are looked at from time to time; if it is forbidden, apply deploy/manifests again", "error", err)
				warned = true
			}
			return
		}
		defer context.AfterFunc(ctx, w.Stop)()
		defer w.Stop()
		if p.miss(p.c.Now()) { // also at the first: another process may have led since
			notify("", false)
		}
		for e := range w.ResultChan() {
			if s, ok := e.Object.(*corev1.Secret); ok && p.disturbed(s, e.Type == watch.Deleted) {
				notify(s.Namespace, e.Type == watch.Deleted && s.Name == kubename.CISecret)
			}
		}
	}, 5*time.Second)
}
