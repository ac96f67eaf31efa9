package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// objects are what the program made, for a bare client to make again.
type objects struct {
	namespaces []corev1.Namespace
	accounts   []corev1.ServiceAccount
	bindings   []rbacv1.RoleBinding
}

func (o *objects) count() int { return len(o.namespaces) + len(o.accounts) + len(o.bindings) }

var mine = metav1.ListOptions{LabelSelector: kubename.LabelManagedBy + "=" + kubename.ManagedBy}

// namespaces returns which GitLab object has which namespace.
func (c *cluster) namespaces(ctx context.Context) (map[authz.SourceID]string, error) {
	list, err := c.kube.CoreV1().Namespaces().List(ctx, mine)
	if err != nil {
		return nil, err
	}
	out := map[authz.SourceID]string{}
	for i := range list.Items {
		if id, ok := authz.ParseLabel(list.Items[i].Labels[kubename.LabelSource]); ok {
			out[id] = list.Items[i].Name
		}
	}
	return out, nil
}

// collect lists what the program made, without what the API server added.
func collect(ctx context.Context, kube kubernetes.Interface) (*objects, error) {
	o := &objects{}
	ns, err := kube.CoreV1().Namespaces().List(ctx, mine)
	if err != nil {
		return nil, err
	}
	sa, err := kube.CoreV1().ServiceAccounts("").List(ctx, mine)
	if err != nil {
		return nil, err
	}
	rb, err := kube.RbacV1().RoleBindings("").List(ctx, mine)
	if err != nil {
		return nil, err
	}
	clean := func(m metav1.ObjectMeta) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: m.Name, Namespace: m.Namespace, Labels: m.Labels, Annotations: m.Annotations}
	}
	for i := range ns.Items {
		labels := ns.Items[i].Labels
		delete(labels, corev1.LabelMetadataName)
		o.namespaces = append(o.namespaces, corev1.Namespace{ObjectMeta: clean(ns.Items[i].ObjectMeta)})
	}
	for i := range sa.Items {
		o.accounts = append(o.accounts, corev1.ServiceAccount{ObjectMeta: clean(sa.Items[i].ObjectMeta)})
	}
	for i := range rb.Items {
		o.bindings = append(o.bindings, rbacv1.RoleBinding{ObjectMeta: clean(rb.Items[i].ObjectMeta), Subjects: rb.Items[i].Subjects, RoleRef: rb.Items[i].RoleRef})
	}
	return o, nil
}

// write makes them with a bare client, in the order that is needed (namespaces first), and returns how long that took.
func (o *objects) write(ctx context.Context, kube kubernetes.Interface, concurrency int) (time.Duration, error) {
	var writes [2][]func() error
	for i := range o.namespaces {
		writes[0] = append(writes[0], func() error {
			_, err := kube.CoreV1().Namespaces().Create(ctx, &o.namespaces[i], metav1.CreateOptions{})
			return err
		})
	}
	for i := range o.accounts {
		writes[1] = append(writes[1], func() error {
			_, err := kube.CoreV1().ServiceAccounts(o.accounts[i].Namespace).Create(ctx, &o.accounts[i], metav1.CreateOptions{})
			return err
		})
	}
	for i := range o.bindings {
		writes[1] = append(writes[1], func() error {
			_, err := kube.RbacV1().RoleBindings(o.bindings[i].Namespace).Create(ctx, &o.bindings[i], metav1.CreateOptions{})
			return err
		})
	}
	start := time.Now()
	for _, step := range writes {
		var g errgroup.Group
		g.SetLimit(concurrency)
		for _, w := range step {
			g.Go(w)
		}
		if err := g.Wait(); err != nil {
			return 0, fmt.Errorf("writing with a bare client: %w", err)
		}
	}
	return time.Since(start), nil
}
