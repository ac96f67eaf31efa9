package cluster

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"golang.org/x/sync/errgroup"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// pageSize is how many objects are asked for at once; what is not ours is dropped page by page.
const pageSize = 500

const (
	ours    = kubename.LabelManagedBy + "=" + kubename.ManagedBy
	notOurs = kubename.LabelManagedBy + "!=" + kubename.ManagedBy
)

// feed is one list of objects that matter here, which can also be watched.
type feed struct {
	what    string
	options metav1.ListOptions // selectors
	list    func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch   func(context.Context, metav1.ListOptions) (watch.Interface, error)
	parse   func(runtime.Object) (entry, error) // nil: entryOf
}

// entryOf reads an object of this feed into our form.
func (f feed) entryOf(obj runtime.Object) (entry, error) {
	if f.parse != nil {
		return f.parse(obj)
	}
	return entryOf(obj)
}

// feeds returns what has to be read of a cluster: all namespaces, the ServiceAccounts and RoleBindings with our owner
// mark, and those without it that have a name of ours. roles are the ClusterRoles that bindings are made for.
func feeds(client kubernetes.Interface, roles []string) []feed {
	accounts := func(o metav1.ListOptions) feed {
		c := client.CoreV1().ServiceAccounts(metav1.NamespaceAll)
		return feed{
			what: "service accounts", options: o, watch: c.Watch,
			list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return c.List(ctx, o) },
		}
	}
	bindings := func(o metav1.ListOptions) feed {
		c := client.RbacV1().RoleBindings(metav1.NamespaceAll)
		return feed{
			what: "role bindings", options: o, watch: c.Watch,
			list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return c.List(ctx, o) },
		}
	}
	foreign := func(name string) metav1.ListOptions {
		return metav1.ListOptions{LabelSelector: notOurs, FieldSelector: "metadata.name=" + name}
	}
	mine := metav1.ListOptions{LabelSelector: ours}
	out := []feed{
		{
			what: "namespaces", watch: client.CoreV1().Namespaces().Watch,
			list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return client.CoreV1().Namespaces().List(ctx, o)
			},
		},
		accounts(mine), bindings(mine), accounts(foreign(kubename.CIServiceAccount)), bindings(foreign(kubename.CIRoleBinding)),
	}
	for _, r := range roles {
		out = append(out, bindings(foreign(kubename.RoleBinding(r, 0))))
	}
	return out
}

// entry is one object of a feed.
type entry struct {
	key     rbacsync.Key
	version string
	live    *rbacsync.Live // nil when it does not carry our mark
	// unmarked is a namespace without our mark that has other labels or annotations of ours.
	unmarked *rbacsync.Live
}

// entryOf reads a namespace, ServiceAccount or RoleBinding into our form; nothing of the object is kept.
func entryOf(obj runtime.Object) (entry, error) {
	var l *rbacsync.Live
	var m *metav1.ObjectMeta
	switch o := obj.(type) {
	case *corev1.Namespace:
		m, l = &o.ObjectMeta, liveOf(rbacsync.NamespaceKey(o.Name), &o.ObjectMeta)
		l.Namespace, l.Doubt = rbacsync.NamespaceOf(o.Labels, o.Annotations)
		l.Born = o.CreationTimestamp.Unix()
		l.Deleting = l.Deleting || o.Status.Phase == corev1.NamespaceTerminating
	case *corev1.ServiceAccount:
		m, l = &o.ObjectMeta, liveOf(rbacsync.Key{Namespace: o.Namespace, Kind: rbacsync.KindServiceAccount, Name: o.Name}, &o.ObjectMeta)
	case *rbacv1.RoleBinding:
		m, l = &o.ObjectMeta, liveOf(rbacsync.Key{Namespace: o.Namespace, Kind: rbacsync.KindRoleBinding, Name: o.Name}, &o.ObjectMeta)
		l.Binding = liveBinding(o)
	default:
		return entry{}, fmt.Errorf("the API server sent a %T, which was not asked for", obj)
	}
	e := entry{key: l.Key, version: l.ResourceVersion}
	if m.Labels[kubename.LabelManagedBy] == kubename.ManagedBy {
		e.live = l
	} else if l.Namespace != nil && (l.Namespace.Source != (authz.SourceID{}) || len(l.Doubt) > 0) {
		e.unmarked = l
	}
	return e, nil
}

// List reads what the cluster holds: all namespaces, the ServiceAccounts and RoleBindings with our owner mark,
// and those without it that have a name of ours. roles are the ClusterRoles that bindings are made for.
func List(ctx context.Context, client kubernetes.Interface, roles []string) (*rbacsync.Observed, error) {
	out := &rbacsync.Observed{Foreign: map[rbacsync.Key]bool{}}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, f := range feeds(client, roles) {
		g.Go(func() error {
			entries, _, err := f.read(ctx)
			mu.Lock()
			defer mu.Unlock()
			for _, e := range entries {
				if e.live != nil {
					out.Live = append(out.Live, e.live)
				} else {
					out.Foreign[e.key] = true
				}
				if e.unmarked != nil {
					out.Unmarked = append(out.Unmarked, e.unmarked)
				}
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("reading the cluster: %w", err)
	}
	sortLive(out.Live)
	return out, nil
}

// read lists the feed page by page and returns the resourceVersion of the list. When that expires half way, it starts
// again, once.
func (f feed) read(ctx context.Context) (entries []entry, version string, err error) {
	o := f.options
	o.Limit = pageSize
	for again := true; ; {
		list, err := f.list(ctx, o)
		switch {
		case err != nil && again && o.Continue != "" && (apierrors.IsResourceExpired(err) || apierrors.IsGone(err)):
			again, entries, o.Continue, o.Limit = false, nil, "", 0
			continue
		case err != nil:
			return nil, "", fmt.Errorf("listing %s: %w", f.what, err)
		case ctx.Err() != nil:
			return nil, "", ctx.Err()
		}
		err = meta.EachListItem(list, func(obj runtime.Object) error {
			e, err := f.entryOf(obj)
			entries = append(entries, e)
			return err
		})
		if err != nil {
			return nil, "", fmt.Errorf("listing %s: %w", f.what, err)
		}
		m, err := meta.ListAccessor(list)
		if err != nil {
			return nil, "", fmt.Errorf("listing %s: %w", f.what, err)
		}
		if o.Continue = m.GetContinue(); o.Continue == "" {
			return entries, m.GetResourceVersion(), nil
		}
	}
}

func liveBinding(rb *rbacv1.RoleBinding) *rbacsync.Binding {
	b := rbacsync.BindingOf(rb.RoleRef, rb.Subjects, rb.Annotations[kubename.AnnotationMembers])
	b.Loss = rb.Annotations[kubename.AnnotationLoss]
	return b
}

func liveOf(key rbacsync.Key, m *metav1.ObjectMeta) *rbacsync.Live {
	return &rbacsync.Live{Object: rbacsync.Object{Key: key}, UID: m.UID, ResourceVersion: m.ResourceVersion, Deleting: m.DeletionTimestamp != nil}
}
