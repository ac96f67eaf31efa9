package deploy

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
)

// Installation is what Apply and the optional files have made in a cluster, but for the namespace: what administrators put into it
// is theirs.
type Installation struct{ Client dynamic.Interface }

// Left returns what of it is there.
func (i *Installation) Left(ctx context.Context) (left []string, err error) {
	err = i.each(ctx, func(o *unstructured.Unstructured, r dynamic.ResourceInterface) error {
		_, err := r.Get(ctx, o.GetName(), metav1.GetOptions{})
		if err == nil {
			left = append(left, o.GetKind()+" "+o.GetName())
		}
		return err
	})
	return left, err
}

// Remove deletes it, in the order of the files: roles first, the fence and the cage last.
func (i *Installation) Remove(ctx context.Context) error {
	return i.each(ctx, func(o *unstructured.Unstructured, r dynamic.ResourceInterface) error {
		return r.Delete(ctx, o.GetName(), metav1.DeleteOptions{})
	})
}

// each calls f for each object; that it is not there is no error. An error does not stop it.
func (i *Installation) each(ctx context.Context, f func(*unstructured.Unstructured, dynamic.ResourceInterface) error) error {
	objects, err := Manifests()
	errs := []error{err}
	for _, more := range []func() ([]*unstructured.Unstructured, error){ForDeletion, ForTemplates} {
		o, err := more()
		objects, errs = append(o, objects...), append(errs, err)
	}
	for _, o := range objects {
		if o.GetKind() == "Namespace" {
			continue
		}
		gvr, err := resourceOf(o.GroupVersionKind())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		var r dynamic.ResourceInterface = i.Client.Resource(gvr)
		if ns := o.GetNamespace(); ns != "" {
			r = i.Client.Resource(gvr).Namespace(ns)
		}
		if err := f(o, r); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("%s %s: %w", o.GetKind(), o.GetName(), err))
		}
	}
	return errors.Join(errs...)
}
