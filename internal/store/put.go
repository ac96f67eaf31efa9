package store

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// writer is what a typed client of one kind can do.
type writer[T metav1.Object] interface {
	Get(ctx context.Context, name string, opts metav1.GetOptions) (T, error)
	Create(ctx context.Context, o T, opts metav1.CreateOptions) (T, error)
	Update(ctx context.Context, o T, opts metav1.UpdateOptions) (T, error)
	Delete(ctx context.Context, name string, opts metav1.DeleteOptions) error
}

// Put writes an object of our own namespace, whatever was there; with a resourceVersion only if the object still has that
// one, which the caller has found Readable. One of a later format stays as it is: ErrNewer. An object that somebody made
// immutable, or of another type, can't be changed: it is deleted and made anew.
func Put[T metav1.Object](ctx context.Context, c writer[T], o T) error {
	if o.GetResourceVersion() == "" {
		if old, err := c.Get(ctx, o.GetName(), metav1.GetOptions{}); err == nil {
			if err := Readable(old); err != nil {
				return err
			}
		}
	}
	_, err := c.Update(ctx, o, metav1.UpdateOptions{})
	missing := apierrors.IsNotFound(err)
	if apierrors.IsInvalid(err) {
		var opts metav1.DeleteOptions
		if version := o.GetResourceVersion(); version != "" {
			opts.Preconditions = &metav1.Preconditions{ResourceVersion: &version}
		}
		if gone := c.Delete(ctx, o.GetName(), opts); gone != nil && !apierrors.IsNotFound(gone) {
			return gone
		}
		missing = true
	}
	if missing {
		o.SetUID("")
		o.SetResourceVersion("")
		_, err = c.Create(ctx, o, metav1.CreateOptions{})
	}
	return err
}
