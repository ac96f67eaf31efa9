package rbacsync

import (
	"context"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"golang.org/x/sync/errgroup"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// pageSize is how many objects are asked for at once; what is not ours is dropped page by page.
const pageSize = 500

const (
	ours    = kubename.LabelManagedBy + "=" + kubename.ManagedBy
	notOurs = kubename.LabelManagedBy + "!=" + kubename.ManagedBy
)

// Observe reads what the cluster holds: all namespaces, the ServiceAccounts and RoleBindings with our owner mark,
// and those without it that have a name of ours. roles are the ClusterRoles that bindings are made for.
func Observe(ctx context.Context, client kubernetes.Interface, roles []string) (*Observed, error) {
	c := collector{out: &Observed{Foreign: map[Key]bool{}}}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	g.Go(func() error { return c.namespaces(ctx, client) })
	g.Go(func() error { return c.accounts(ctx, client, metav1.ListOptions{LabelSelector: ours}, true) })
	g.Go(func() error { return c.bindings(ctx, client, metav1.ListOptions{LabelSelector: ours}, true) })
	g.Go(func() error { return c.accounts(ctx, client, foreign(kubename.CIServiceAccount), false) })
	names := []string{kubename.CIRoleBinding}
	for _, r := range roles {
		names = append(names, kubename.RoleBinding(r, 0))
	}
	for _, n := range names {
		g.Go(func() error { return c.bindings(ctx, client, foreign(n), false) })
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("reading the cluster: %w", err)
	}
	slices.SortFunc(c.out.Live, func(a, b *Live) int { return a.Key.Compare(b.Key) })
	return c.out, nil
}

func foreign(name string) metav1.ListOptions {
	return metav1.ListOptions{LabelSelector: notOurs, FieldSelector: "metadata.name=" + name}
}

type collector struct {
	mu  sync.Mutex
	out *Observed
}

func (c *collector) add(live []*Live, foreign []Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.Live = append(c.out.Live, live...)
	for _, k := range foreign {
		c.out.Foreign[k] = true
	}
}

func (c *collector) namespaces(ctx context.Context, client kubernetes.Interface) error {
	var live []*Live
	var others []Key
	err := pages(ctx, "namespaces", metav1.ListOptions{}, func(o metav1.ListOptions) (string, error) {
		list, err := client.CoreV1().Namespaces().List(ctx, o)
		if err != nil {
			return "", err
		}
		for i := range list.Items {
			n := &list.Items[i]
			key := NamespaceKey(n.Name)
			if n.Labels[kubename.LabelManagedBy] != kubename.ManagedBy {
				others = append(others, key)
				continue
			}
			l := liveOf(key, &n.ObjectMeta)
			l.Space, l.Born = spaceOf(n.Labels, n.Annotations), n.CreationTimestamp.Unix()
			l.Deleting = l.Deleting || n.Status.Phase == corev1.NamespaceTerminating
			live = append(live, l)
		}
		return list.Continue, nil
	}, func() { live, others = nil, nil })
	c.add(live, others)
	return err
}

func (c *collector) accounts(ctx context.Context, client kubernetes.Interface, o metav1.ListOptions, mine bool) error {
	var live []*Live
	var others []Key
	err := pages(ctx, "service accounts", o, func(o metav1.ListOptions) (string, error) {
		list, err := client.CoreV1().ServiceAccounts(metav1.NamespaceAll).List(ctx, o)
		if err != nil {
			return "", err
		}
		for i := range list.Items {
			sa := &list.Items[i]
			key := Key{sa.Namespace, KindServiceAccount, sa.Name}
			if mine {
				live = append(live, liveOf(key, &sa.ObjectMeta))
			} else {
				others = append(others, key)
			}
		}
		return list.Continue, nil
	}, func() { live, others = nil, nil })
	c.add(live, others)
	return err
}

func (c *collector) bindings(ctx context.Context, client kubernetes.Interface, o metav1.ListOptions, mine bool) error {
	var live []*Live
	var others []Key
	err := pages(ctx, "role bindings", o, func(o metav1.ListOptions) (string, error) {
		list, err := client.RbacV1().RoleBindings(metav1.NamespaceAll).List(ctx, o)
		if err != nil {
			return "", err
		}
		for i := range list.Items {
			rb := &list.Items[i]
			key := Key{rb.Namespace, KindRoleBinding, rb.Name}
			if !mine {
				others = append(others, key)
				continue
			}
			l := liveOf(key, &rb.ObjectMeta)
			l.Binding = liveBinding(rb)
			live = append(live, l)
		}
		return list.Continue, nil
	}, func() { live, others = nil, nil })
	c.add(live, others)
	return err
}

func liveBinding(rb *rbacv1.RoleBinding) *Binding {
	return bindingOf(rb.RoleRef, rb.Subjects, rb.Annotations[kubename.AnnotationMembers])
}

func liveOf(key Key, m *metav1.ObjectMeta) *Live {
	return &Live{Object: Object{Key: key}, UID: m.UID, ResourceVersion: m.ResourceVersion, Deleting: m.DeletionTimestamp != nil}
}

// pages reads a whole list. When the list's resourceVersion expires half way, it starts again, once.
func pages(ctx context.Context, what string, o metav1.ListOptions, page func(metav1.ListOptions) (next string, err error), restart func()) error {
	again := true
	o.Limit = pageSize
	for {
		next, err := page(o)
		switch {
		case err != nil && again && o.Continue != "" && (apierrors.IsResourceExpired(err) || apierrors.IsGone(err)):
			again, o.Continue, o.Limit = false, "", 0
			restart()
			continue
		case err != nil:
			return fmt.Errorf("listing %s: %w", what, err)
		case ctx.Err() != nil:
			return ctx.Err()
		case next == "":
			return nil
		}
		o.Continue = next
	}
}
