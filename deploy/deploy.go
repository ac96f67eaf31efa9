// Package deploy holds the manifests that a cluster needs beside the program itself: the roles, the tenant fence and
// the integrator's own cage. They are plain YAML in manifests/, the same for `kubectl apply -f deploy/manifests` as
// for Apply.
//
// It promises that after Apply the fence and the cage refuse what they should: an admission policy takes effect a
// moment after its creation, and Apply waits for that. It does not deploy the program.
package deploy

import (
	"bufio"
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

//go:embed manifests/*.yaml optional/*.yaml optional/*.service all:chart
var manifests embed.FS

// Names of what the manifests make.
const (
	// Namespace is where the integrator runs, ServiceAccount what it runs as.
	Namespace      = "gl-k8s-integrator"
	ServiceAccount = "gl-k8s-integrator"
	// TenantFence, TenantPods and OwnCage are the ValidatingAdmissionPolicies; their bindings have the same names.
	TenantFence = "gl-k8s-integrator-tenant-fence"
	TenantPods  = "gl-k8s-integrator-tenant-pods"
	OwnCage     = "gl-k8s-integrator-own-cage"
)

// fieldManager owns the fields that Apply sets.
const fieldManager = "gl-k8s-integrator-deploy"

// effectiveWithin is how long Apply waits for the policies; they take about a second.
const effectiveWithin = 30 * time.Second

// Policies returns the names of the admission policies; the binding of each has the same name.
func Policies() []string { return []string{TenantFence, TenantPods, OwnCage} }

// Manifests returns all objects in the order in which they are to be applied.
func Manifests() ([]*unstructured.Unstructured, error) { return decode("manifests/*.yaml") }

// RulesOf returns the rules of a ClusterRole among Manifests.
func RulesOf(clusterRole string) ([]rbacv1.PolicyRule, error) {
	objects, err := Manifests()
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		if o.GetKind() == "ClusterRole" && o.GetName() == clusterRole {
			var r rbacv1.ClusterRole
			err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &r)
			return r.Rules, err
		}
	}
	return nil, fmt.Errorf("this program has no ClusterRole %q", clusterRole)
}

// ForTemplates returns the further rights that namespace templates need; they are not among Manifests.
func ForTemplates() ([]*unstructured.Unstructured, error) { return decode("optional/templates.yaml") }

// DeletionFile gives the right to delete namespaces; it is not among Manifests.
const DeletionFile = "deploy/optional/namespace-deletion.yaml"

// ForDeletion returns what DeletionFile holds.
func ForDeletion() ([]*unstructured.Unstructured, error) {
	return decode("optional/namespace-deletion.yaml")
}

// Texts returns the files that match: "manifests/*.yaml", "optional/token.yaml".
func Texts(pattern string) (map[string][]byte, error) {
	names, err := fs.Glob(manifests, pattern)
	if err == nil && len(names) == 0 {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("listing the manifests %s: %w", pattern, err)
	}
	out := map[string][]byte{}
	for _, name := range names {
		if out[name], err = manifests.ReadFile(name); err != nil {
			return nil, fmt.Errorf("reading the manifests: %w", err)
		}
	}
	return out, nil
}

// Chart returns the files of the Helm chart by their paths, which begin with chart/.
func Chart() (map[string][]byte, error) {
	out := map[string][]byte{}
	err := fs.WalkDir(manifests, "chart", func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			out[name], err = manifests.ReadFile(name)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the chart: %w", err)
	}
	return out, nil
}

func decode(pattern string) ([]*unstructured.Unstructured, error) {
	files, err := fs.Glob(manifests, pattern)
	if err != nil {
		return nil, fmt.Errorf("listing the manifests: %w", err)
	}
	slices.Sort(files)
	var out []*unstructured.Unstructured
	for _, file := range files {
		content, err := manifests.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading the manifests: %w", err)
		}
		docs := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
		for {
			doc, err := docs.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("reading %s: %w", file, err)
			}
			o := new(unstructured.Unstructured)
			if err := yaml.UnmarshalStrict(doc, &o.Object); err != nil {
				return nil, fmt.Errorf("decoding %s: %w", file, err)
			}
			out = append(out, o)
		}
	}
	return out, nil
}

// Apply applies the manifests by server-side apply and waits until the policies are in effect. It needs the rights
// of a cluster administrator, impersonation included: the waiting asks, as a dry run, for what must be refused.
func Apply(ctx context.Context, cfg *rest.Config) error {
	objects, err := Manifests()
	if err != nil {
		return err
	}
	if err := applyAll(ctx, cfg, objects); err != nil {
		return err
	}
	return awaitPolicies(ctx, cfg, "")
}

// ApplyForTemplates applies ForTemplates.
func ApplyForTemplates(ctx context.Context, cfg *rest.Config) error {
	objects, err := ForTemplates()
	if err != nil {
		return err
	}
	return applyAll(ctx, cfg, objects)
}

// ApplyForDeletion applies ForDeletion.
func ApplyForDeletion(ctx context.Context, cfg *rest.Config) error {
	objects, err := ForDeletion()
	if err != nil {
		return err
	}
	return applyAll(ctx, cfg, objects)
}

func applyAll(ctx context.Context, cfg *rest.Config, objects []*unstructured.Unstructured) error {
	httpClient, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	defer utilnet.CloseIdleConnectionsFor(httpClient.Transport)
	client, err := dynamic.NewForConfigAndClient(cfg, httpClient)
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	for _, o := range objects {
		gvr, err := resourceOf(o.GroupVersionKind())
		if err != nil {
			return err
		}
		opts := metav1.ApplyOptions{FieldManager: fieldManager, Force: true}
		if ns := o.GetNamespace(); ns != "" {
			_, err = client.Resource(gvr).Namespace(ns).Apply(ctx, o.GetName(), o, opts)
		} else {
			_, err = client.Resource(gvr).Apply(ctx, o.GetName(), o, opts)
		}
		if err != nil {
			return fmt.Errorf("applying %s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
	return nil
}

// resourceOf returns the resource of the kinds in the manifests. Asking the API server for it would take a request
// per API group.
func resourceOf(gvk schema.GroupVersionKind) (schema.GroupVersionResource, error) {
	plural := map[string]string{
		"Namespace": "namespaces", "ServiceAccount": "serviceaccounts",
		"Role": "roles", "RoleBinding": "rolebindings", "ClusterRole": "clusterroles", "ClusterRoleBinding": "clusterrolebindings",
		"ValidatingAdmissionPolicy": "validatingadmissionpolicies", "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
	}[gvk.Kind]
	if plural == "" {
		return schema.GroupVersionResource{}, fmt.Errorf("deploy knows no resource of kind %s: add it to resourceOf", gvk.Kind)
	}
	return gvk.GroupVersion().WithResource(plural), nil
}

// awaitPolicies asks for something that each policy must refuse, as one whom RBAC lets do everything, until it is
// refused. Nothing is written if it is not: they are dry runs. TenantPods, which refuses nothing outside of managed
// namespaces, was applied before OwnCage, and the API server takes what it sees of policies as a whole.
func awaitPolicies(ctx context.Context, cfg *rest.Config, suffix string) error {
	ctx, cancel := context.WithTimeout(ctx, effectiveWithin)
	defer cancel()
	for _, probe := range []struct{ policy, user string }{
		{TenantFence, kubename.UserPrefix + "probe"},
		{OwnCage, "system:serviceaccount:" + Namespace + ":" + ServiceAccount},
	} {
		as := rest.CopyConfig(cfg)
		as.Impersonate = rest.ImpersonationConfig{UserName: probe.user, Groups: []string{"system:masters"}}
		if err := awaitRefusal(ctx, as, probe.policy+suffix); err != nil {
			return err
		}
	}
	return nil
}

func awaitRefusal(ctx context.Context, cfg *rest.Config, policy string) error {
	httpClient, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	defer utilnet.CloseIdleConnectionsFor(httpClient.Transport)
	client, err := kubernetes.NewForConfigAndClient(cfg, httpClient)
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := client.CoreV1().Secrets(metav1.NamespaceDefault).Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{
				GenerateName: "gl-k8s-integrator-probe-",
				Annotations:  map[string]string{corev1.ServiceAccountNameKey: "default"},
			},
			Type: corev1.SecretTypeServiceAccountToken,
		}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if apierrors.IsForbidden(err) && strings.Contains(err.Error(), "'"+policy+"'") {
			return nil
		}
		if err != nil && apierrors.IsForbidden(err) {
			return fmt.Errorf("waiting for the policy %s: asking as a tenant needs the right to impersonate users and the group system:masters: %w", policy, err)
		}
		select {
		case <-ctx.Done():
			last := "it was allowed"
			if err != nil {
				last = err.Error()
			}
			return fmt.Errorf("waiting for the policy %s to take effect: %w (last answer to what it must refuse: %s)", policy, ctx.Err(), last)
		case <-tick.C:
		}
	}
}
