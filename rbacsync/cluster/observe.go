package cluster

import (
	"context"
	"fmt"
	"unique"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

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
	what     string
	options  metav1.ListOptions // selectors
	list     func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch    func(context.Context, metav1.ListOptions) (watch.Interface, error)
	entryOf  func(runtime.Object) (entry, error)
	optional bool // it is not missed where it can't be listed
}

// lister is what the clients of all kinds have.
type lister[L runtime.Object] interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

func feedOf[L runtime.Object](what string, c lister[L], entryOf func(runtime.Object) (entry, error), o metav1.ListOptions) feed {
	list := func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return c.List(ctx, o) }
	return feed{what: what, options: o, list: list, watch: c.Watch, entryOf: entryOf}
}

// feeds returns what has to be read of a cluster: all namespaces, the ServiceAccounts and RoleBindings with our owner
// mark, and those without it that have a name of ours. roles are the ClusterRoles that bindings are made for.
func feeds(client kubernetes.Interface, roles []string) []feed {
	accounts := func(o metav1.ListOptions) feed {
		return feedOf("service accounts", client.CoreV1().ServiceAccounts(metav1.NamespaceAll), entryOf, o)
	}
	bindings := func(o metav1.ListOptions) feed {
		return feedOf("role bindings", client.RbacV1().RoleBindings(metav1.NamespaceAll), entryOf, o)
	}
	foreign := func(name string) metav1.ListOptions {
		return metav1.ListOptions{LabelSelector: notOurs, FieldSelector: "metadata.name=" + name}
	}
	mine := metav1.ListOptions{LabelSelector: ours}
	out := []feed{
		feedOf("namespaces", client.CoreV1().Namespaces(), entryOf, metav1.ListOptions{}),
		accounts(mine), bindings(mine), accounts(foreign(kubename.CIServiceAccount)), bindings(foreign(kubename.CIRoleBinding)),
	}
	for _, r := range roles {
		out = append(out, bindings(foreign(kubename.RoleBinding(r, 0))))
	}
	return out
}

// entry is one object of a feed.
type entry struct {
	*rbacsync.Live
	ours bool // it carries our mark
}

// unmarked reports whether it is a namespace without our mark that has other labels or annotations of ours.
func (e entry) unmarked() bool {
	return !e.ours && e.Namespace != nil && (e.Namespace.Source != (authz.SourceID{}) || len(e.Doubt) > 0)
}

// entryOf reads a namespace, ServiceAccount or RoleBinding into our form; nothing of the object is kept.
func entryOf(obj runtime.Object) (entry, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return entry{}, fmt.Errorf("reading a %T: %w", obj, err)
	}
	// The names of few bindings, and of each namespace, are those of many objects: they are in memory once.
	l := liveOf(rbacsync.Key{Namespace: unique.Make(m.GetNamespace()).Value(), Name: unique.Make(m.GetName()).Value()}, m)
	switch o := obj.(type) {
	case *corev1.Namespace:
		l.Key = rbacsync.NamespaceKey(l.Key.Name)
		l.Namespace, l.Doubt = rbacsync.NamespaceOf(o.Labels, o.Annotations)
		l.Born = o.CreationTimestamp.Unix()
		l.Deleting = l.Deleting || o.Status.Phase == corev1.NamespaceTerminating
	case *corev1.ServiceAccount:
		l.Key.Kind = rbacsync.KindServiceAccount
	case *rbacv1.RoleBinding:
		l.Key.Kind = rbacsync.KindRoleBinding
		l.Binding = rbacsync.BindingOf(o.RoleRef, o.Subjects, o.Annotations[kubename.AnnotationMembers])
		l.Binding.Loss = o.Annotations[kubename.AnnotationLoss]
		l.Bare = bare(o)
	default:
		return entry{}, fmt.Errorf("the API server sent a %T, which was not asked for", obj)
	}
	return entry{l, m.GetLabels()[kubename.LabelManagedBy] == kubename.ManagedBy}, nil
}

// bare reports whether a RoleBinding has no labels, annotations, owners or finalizers of others.
func bare(rb *rbacv1.RoleBinding) bool {
	if len(rb.Labels) != 1 || rb.Labels[kubename.LabelManagedBy] != kubename.ManagedBy || len(rb.OwnerReferences)+len(rb.Finalizers) > 0 {
		return false
	}
	for k := range rb.Annotations {
		if k != kubename.AnnotationMembers && k != kubename.AnnotationLoss {
			return false
		}
	}
	return true
}

// liveOf returns what is the same of objects of all kinds.
func liveOf(key rbacsync.Key, m metav1.Object) *rbacsync.Live {
	return &rbacsync.Live{Object: rbacsync.Object{Key: key}, UID: m.GetUID(), ResourceVersion: m.GetResourceVersion(), Deleting: m.GetDeletionTimestamp() != nil}
}

// List reads what the cluster holds: all namespaces, the ServiceAccounts and RoleBindings with our owner mark,
// and those without it that have a name of ours. roles are the ClusterRoles that bindings are made for.
func List(ctx context.Context, client kubernetes.Interface, roles []string) (*rbacsync.Observed, error) {
	m := newMirror(feeds(client, roles), nil, nil)
	if err := m.fill(ctx); err != nil {
		return nil, fmt.Errorf("reading the cluster: %w", err)
	}
	return m.observed(nil), nil
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
