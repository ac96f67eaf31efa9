package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// ErrNewer says that what is stored has a format that this version does not know. It is not damaged, and not empty.
var ErrNewer = errors.New("a later version of gl-k8s-integrator has written it")

// Format is a kind of content in the program's own namespace.
type Format struct {
	Kind    string // of the object: Secret or ConfigMap
	Name    string // of the object; a Blob's further Secrets belong to the one that has its name
	Version int    // that this version reads and writes, the lowest is 1
}

// Formats lists all that the program keeps in its own namespace, but for the Lease, whose format is Kubernetes'.
//
// The version stands in the annotation kubename.AnnotationFormat of the object; 1 is not written. It becomes higher when the
// version before would read the new content wrongly, not when something is added that it can leave aside. An object with a
// higher version is not read, not changed and not deleted, and who finds one does not lead (docs/adr/0120).
func Formats() []Format {
	return []Format{
		{"Secret", NameKeys, 1},
		{"Secret", NameSnapshot, 1},
		{"Secret", NameAudit, 1},
		{"Secret", NameAuditBase, 1},
		{"Secret", NameHistory, 1},
		{"ConfigMap", NameStatus, 1},
		{"ConfigMap", NameInbox, 1},
		{"ConfigMap", NameHeld, 1},
		{"ConfigMap", NameApprovals, 1},
	}
}

// Readable returns an error that is ErrNewer if an object of the program's own namespace has a later format than this version
// knows. An object that is not in Formats, such as a part of a Blob, has format 1.
func Readable(o metav1.Object) error {
	have, written := o.GetAnnotations()[kubename.AnnotationFormat]
	if !written {
		return nil
	}
	known := 1
	for _, f := range Formats() {
		if f.Name == o.GetName() {
			known = f.Version
		}
	}
	if n, err := strconv.Atoi(have); err == nil && n >= 1 && n <= known {
		return nil
	}
	return newer(o.GetNamespace(), o.GetName(), have, known)
}

func newer(namespace, name, have string, known int) error {
	return fmt.Errorf("%s/%s has format %q, and this version knows %d: %w: it is left as it is; run that version again, or see docs/upgrade.md on going back further",
		namespace, name, have, known, ErrNewer)
}

// Known looks at all that is stored, and returns an error that is ErrNewer if something has a later format than this version
// knows. Who leads must know all of it.
func Known(ctx context.Context, kube kubernetes.Interface, namespace string) error {
	var errs []error
	for _, f := range Formats() {
		var o metav1.Object
		var err error
		if f.Kind == "Secret" {
			s, getErr := kube.CoreV1().Secrets(namespace).Get(ctx, f.Name, metav1.GetOptions{})
			if o, err = s, getErr; err == nil && (f.Name == NameSnapshot || f.Name == NameHistory || f.Name == NameAuditBase) {
				_, err = headOf(s)
			}
		} else {
			o, err = kube.CoreV1().ConfigMaps(namespace).Get(ctx, f.Name, metav1.GetOptions{})
		}
		switch {
		case apierrors.IsNotFound(err), errors.Is(err, ErrDamaged): // it is made anew
			continue
		case err != nil && !errors.Is(err, ErrNewer) && forPeople(f.Name): // for people to read: no right depends on it
			continue
		case err == nil:
			err = Readable(o)
		case !errors.Is(err, ErrNewer):
			err = fmt.Errorf("reading %s %s/%s: %w", f.Kind, namespace, f.Name, err)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// forPeople reports whether an object is for people to read alone.
func forPeople(name string) bool {
	return slices.Contains([]string{NameStatus, NameHistory, NameAudit, NameAuditBase}, name)
}
