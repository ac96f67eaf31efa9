package uninstall

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/pager"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/keystore"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
)

var ours = metav1.ListOptions{LabelSelector: kubename.LabelManagedBy + "=" + kubename.ManagedBy}

// each calls f for each object of a list, page by page.
func each(ctx context.Context, o metav1.ListOptions, list func(context.Context, metav1.ListOptions) (runtime.Object, error), f func(metav1.Object) error) error {
	return pager.New(list).EachListItem(ctx, o, func(obj runtime.Object) error {
		m, err := meta.Accessor(obj)
		if err != nil {
			return err
		}
		return f(m)
	})
}

// objects is the step that deletes the objects with our mark in all namespaces.
func objects(name, kind string, list func(context.Context, metav1.ListOptions) (runtime.Object, error), remove func(ctx context.Context, namespace, name string) error) Step {
	return Step{
		Name: name,
		Left: func(ctx context.Context) (left []string, err error) {
			err = each(ctx, ours, list, func(m metav1.Object) error {
				left = append(left, kind+" "+m.GetNamespace()+"/"+m.GetName())
				return nil
			})
			return left, err
		},
		Remove: func(ctx context.Context) error {
			var errs []error
			err := each(ctx, ours, list, func(m metav1.Object) error {
				if err := remove(ctx, m.GetNamespace(), m.GetName()); err != nil && !apierrors.IsNotFound(err) {
					errs = append(errs, err)
				}
				return nil
			})
			return errors.Join(append(errs, err)...)
		},
	}
}

// Bindings takes away all rights that were given.
func Bindings(kube kubernetes.Interface) Step {
	return objects("rights: RoleBindings of users and CI jobs", "RoleBinding",
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return kube.RbacV1().RoleBindings("").List(ctx, o)
		},
		func(ctx context.Context, ns, name string) error {
			return kube.RbacV1().RoleBindings(ns).Delete(ctx, name, metav1.DeleteOptions{})
		})
}

// Accounts deletes the ServiceAccounts of CI jobs.
func Accounts(kube kubernetes.Interface) Step {
	return objects("ServiceAccounts of CI jobs", "ServiceAccount",
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return kube.CoreV1().ServiceAccounts("").List(ctx, o)
		},
		func(ctx context.Context, ns, name string) error {
			return kube.CoreV1().ServiceAccounts(ns).Delete(ctx, name, metav1.DeleteOptions{})
		})
}

// Marks makes managed namespaces namespaces like others. They stay, with all that is in them.
func Marks(kube kubernetes.Interface) Step {
	marked := func(ctx context.Context, f func(metav1.Object) error) error {
		return each(ctx, metav1.ListOptions{}, func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return kube.CoreV1().Namespaces().List(ctx, o)
		},
			func(m metav1.Object) error {
				if m.GetName() == deploy.Namespace || len(marksOf(m.GetLabels()))+len(marksOf(m.GetAnnotations())) == 0 {
					return nil
				}
				return f(m)
			})
	}
	return Step{
		Name: "marks on namespaces, which stay with all that is in them",
		Left: func(ctx context.Context) (left []string, err error) {
			err = marked(ctx, func(m metav1.Object) error { left = append(left, "namespace "+m.GetName()); return nil })
			return left, err
		},
		Remove: func(ctx context.Context) error {
			var errs []error
			err := marked(ctx, func(m metav1.Object) error {
				patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": nulls(m.GetLabels()), "annotations": nulls(m.GetAnnotations())}})
				if err == nil {
					_, err = kube.CoreV1().Namespaces().Patch(ctx, m.GetName(), types.MergePatchType, patch, metav1.PatchOptions{})
				}
				if err != nil && !apierrors.IsNotFound(err) {
					errs = append(errs, fmt.Errorf("namespace %s: %w", m.GetName(), err))
				}
				return nil
			})
			return errors.Join(append(errs, err)...)
		},
	}
}

// marksOf returns the keys of labels or annotations that are ours. Those of Pod Security stay: what runs in a namespace keeps its
// limits.
func marksOf(m map[string]string) (keys []string) {
	for k, v := range m {
		if strings.HasPrefix(k, kubename.Domain) || k == kubename.LabelManagedBy && v == kubename.ManagedBy {
			keys = append(keys, k)
		}
	}
	return keys
}

func nulls(m map[string]string) map[string]any {
	out := map[string]any{}
	for _, k := range marksOf(m) {
		out[k] = nil
	}
	return out
}

// State deletes what the program remembers in its own namespace.
func State(kube kubernetes.Interface) Step {
	core, ns := kube.CoreV1(), deploy.Namespace
	all := func(ctx context.Context, f func(kind, name string, remove func(context.Context, string, metav1.DeleteOptions) error) error) error {
		named := func(kind string, remove func(context.Context, string, metav1.DeleteOptions) error, ours func(string) bool) func(metav1.Object) error {
			return func(m metav1.Object) error {
				if !ours(m.GetName()) {
					return nil
				}
				return f(kind, m.GetName(), remove)
			}
		}
		maps := []string{store.NameStatus, store.NameInbox, store.NameHeld, store.NameApprovals}
		return errors.Join(
			each(ctx, metav1.ListOptions{}, func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return core.ConfigMaps(ns).List(ctx, o)
			},
				named("ConfigMap", core.ConfigMaps(ns).Delete, func(name string) bool { return slices.Contains(maps, name) })),
			each(ctx, metav1.ListOptions{}, func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return core.Secrets(ns).List(ctx, o)
			},
				named("Secret", core.Secrets(ns).Delete, func(name string) bool {
					return name == keystore.Secret || strings.HasPrefix(name, store.NameSnapshot) || strings.HasPrefix(name, store.NameHistory) || strings.HasPrefix(name, store.NameAudit)
				})),
			each(ctx, metav1.ListOptions{}, func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return kube.CoordinationV1().Leases(ns).List(ctx, o)
			}, named("Lease", kube.CoordinationV1().Leases(ns).Delete, func(name string) bool { return name == store.NameLease })),
		)
	}
	return Step{
		Name: "what the program remembers",
		Left: func(ctx context.Context) (left []string, err error) {
			err = all(ctx, func(kind, name string, _ func(context.Context, string, metav1.DeleteOptions) error) error {
				left = append(left, kind+" "+ns+"/"+name)
				return nil
			})
			return left, err
		},
		Remove: func(ctx context.Context) error {
			return all(ctx, func(_, name string, remove func(context.Context, string, metav1.DeleteOptions) error) error {
				if err := remove(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
					return err
				}
				return nil
			})
		},
	}
}

// Manifests deletes what deploy/manifests made, but for the namespace with the configuration: roles first, fence and cage last.
func Manifests(m *deploy.Installation) Step {
	return Step{Name: "roles, tenant fence and cage", Left: m.Left, Remove: m.Remove}
}

// Managed returns the namespaces that have or had CI credentials: those with a Secret of ours.
func withCredentials(ctx context.Context, kube kubernetes.Interface) (out []corev1.Namespace, err error) {
	err = each(ctx, ours, func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		return kube.CoreV1().Namespaces().List(ctx, o)
	},
		func(m metav1.Object) error {
			for _, name := range []string{kubename.CISecret, kubename.CIAnchor} {
				_, err := kube.CoreV1().Secrets(m.GetName()).Get(ctx, name, metav1.GetOptions{})
				if err == nil {
					out = append(out, corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: m.GetName(), Labels: m.GetLabels()}})
					return nil
				}
				if !apierrors.IsNotFound(err) {
					return err
				}
			}
			return nil
		})
	return out, err
}
