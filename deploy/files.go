package deploy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// FilesMark begins every file that Files makes.
const FilesMark = "# Made by gl-k8s-integrator fence-files"

// What kube-apiserver reads from files has names of its own, which no object of the API can have
// (k8s.io/apiserver/pkg/admission/plugin/manifest).
const staticSuffix = ".static.k8s.io"

// witness is a policy that stands in the same file as the others and refuses one ConfigMap. Policies from files can't be read
// through the API: its refusal shows that kube-apiserver has the file, and tells which.
const (
	witness      = "gl-k8s-integrator-files"
	witnessProbe = "gl-k8s-integrator-fence-probe"
	witnessText  = "gl-k8s-integrator has its policies from files: "
)

// File is one of the files for kube-apiserver; Name is its path below the folder.
type File struct {
	Name    string
	Content []byte
}

// Files returns the admission policies as files of kube-apiserver (1.37 and newer), which nobody can change or delete through
// the API, and its AdmissionConfiguration for them. folder is their place on a control-plane node. The names of RoleBindings of
// roles are kept, beside those that the manifests keep.
func Files(folder string, roles []string) ([]File, error) {
	if !path.IsAbs(folder) {
		return nil, fmt.Errorf("folder %q: kube-apiserver takes absolute paths alone", folder)
	}
	objects, said, err := staticObjects(roles)
	if err != nil {
		return nil, err
	}
	objects = append(objects, witnessObjects(said)...)
	policies := []byte(FilesMark + ". Don't edit: make it anew, with the program's next version and when authz.roles or authz.extra change.\n")
	for i, o := range objects {
		text, err := yaml.Marshal(o.Object)
		if err != nil {
			return nil, fmt.Errorf("writing the policy %s: %w", o.GetName(), err)
		}
		if i > 0 {
			policies = append(policies, "---\n"...)
		}
		policies = append(policies, text...)
	}
	admission := FilesMark + `. For kube-apiserver's flag --admission-control-config-file.
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
  - name: ValidatingAdmissionPolicy
    configuration:
      apiVersion: apiserver.config.k8s.io/v1
      kind: ValidatingAdmissionPolicyConfiguration
      staticManifestsDir: ` + path.Join(folder, "policies") + "\n"
	return []File{{"admission.yaml", []byte(admission)}, {"policies/gl-k8s-integrator.yaml", policies}}, nil
}

// testimony is what the witness says: the ClusterRoles whose names are kept, and a digest of the policies with these.
type testimony struct {
	Roles  []string `json:"roles"`
	Digest string   `json:"digest"`
}

// staticObjects returns the policies and bindings as files hold them, and what the witness says of them.
func staticObjects(roles []string) ([]*unstructured.Unstructured, testimony, error) {
	all, err := Manifests()
	if err != nil {
		return nil, testimony{}, err
	}
	var out []*unstructured.Unstructured
	var said testimony
	for _, o := range all {
		switch o.GetKind() {
		case "ValidatingAdmissionPolicy":
			if o.GetName() == TenantFence {
				if said.Roles, err = keepRoles(o, roles); err != nil {
					return nil, testimony{}, err
				}
			}
		case "ValidatingAdmissionPolicyBinding":
			if err := unstructured.SetNestedField(o.Object, o.GetName()+staticSuffix, "spec", "policyName"); err != nil {
				return nil, testimony{}, fmt.Errorf("naming the policy of %s: %w", o.GetName(), err)
			}
		default:
			continue
		}
		o.SetName(o.GetName() + staticSuffix)
		out = append(out, o)
	}
	text, err := json.Marshal(out)
	if err != nil {
		return nil, testimony{}, fmt.Errorf("writing the policies: %w", err)
	}
	sum := sha256.Sum256(text)
	said.Digest = hex.EncodeToString(sum[:8])
	return out, said, nil
}

// keepRoles adds ClusterRoles to the list in TenantFence and returns all of it.
func keepRoles(fence *unstructured.Unstructured, roles []string) ([]string, error) {
	variables, _, err := unstructured.NestedSlice(fence.Object, "spec", "variables")
	if err != nil {
		return nil, fmt.Errorf("reading the variables of %s: %w", TenantFence, err)
	}
	for _, v := range variables {
		v, ok := v.(map[string]any)
		if !ok || v["name"] != rolesVariable {
			continue
		}
		expression, _ := v["expression"].(string)
		kept := append(names(expression), roles...)
		slices.Sort(kept)
		kept = slices.Compact(kept)
		quoted := "['" + strings.Join(kept, "', '") + "']"
		if !slices.Equal(names(quoted), kept) {
			return nil, fmt.Errorf("the ClusterRoles %q: a name with ' or \\ can't be in the policy %s", roles, TenantFence)
		}
		v["expression"] = quoted
		return kept, unstructured.SetNestedSlice(fence.Object, variables, "spec", "variables")
	}
	return nil, fmt.Errorf("the policy %s has no variable %s", TenantFence, rolesVariable)
}

func witnessObjects(said testimony) []*unstructured.Unstructured {
	text, err := json.Marshal(said)
	if err != nil {
		panic(err) // strings alone
	}
	object := func(kind string, spec map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": map[string]any{"name": witness + staticSuffix}, "spec": spec,
		}}
	}
	return []*unstructured.Unstructured{
		object("ValidatingAdmissionPolicy", map[string]any{
			"failurePolicy": "Fail",
			"matchConstraints": map[string]any{
				"namespaceSelector": map[string]any{"matchLabels": map[string]any{corev1.LabelMetadataName: Namespace}},
				"resourceRules": []any{map[string]any{
					"apiGroups": []any{""}, "apiVersions": []any{"*"}, "operations": []any{"CREATE"}, "resources": []any{"configmaps"},
				}},
			},
			"validations": []any{map[string]any{
				"expression": "object.metadata.?name.orValue('') != '" + witnessProbe + "'", "reason": "Forbidden", "message": witnessText + string(text),
			}},
		}),
		object("ValidatingAdmissionPolicyBinding", map[string]any{"policyName": witness + staticSuffix, "validationActions": []any{"Deny"}}),
	}
}

// ErrNoFiles says that kube-apiserver has no policies from files of this program.
var ErrNoFiles = errors.New("kube-apiserver has no policies of gl-k8s-integrator from files")

// VerifyFiles returns nil if kube-apiserver has the policies of this program's version from files, and the ClusterRoles whose
// names they keep; ErrNoFiles if it has none. It asks, as a dry run, for a ConfigMap that the file refuses. With several
// kube-apiservers this is about the one that answers.
func VerifyFiles(ctx context.Context, kube kubernetes.Interface) (roles []string, err error) {
	_, err = kube.CoreV1().ConfigMaps(Namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: witnessProbe}},
		metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	switch {
	case err == nil, apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err): // the last without our namespace
		return nil, ErrNoFiles
	case !apierrors.IsForbidden(err):
		return nil, fmt.Errorf("looking for policies from files: %w", err)
	}
	_, text, byWitness := strings.Cut(err.Error(), "'"+witness+staticSuffix+"'")
	_, text, told := strings.Cut(text, witnessText)
	if !byWitness || !told {
		return nil, ErrNoFiles
	}
	var said testimony
	if err := json.NewDecoder(strings.NewReader(text)).Decode(&said); err != nil {
		return nil, fmt.Errorf("kube-apiserver's policies from files are another version's: make them anew with gl-k8s-integrator fence-files: %w", err)
	}
	_, want, err := staticObjects(said.Roles)
	if err != nil {
		return nil, err
	}
	if said.Digest != want.Digest {
		return nil, errors.New("kube-apiserver's policies from files are another version's: make them anew with gl-k8s-integrator fence-files")
	}
	return said.Roles, nil
}

// ApplyBesideFiles is Apply where kube-apiserver has the admission policies from files.
func ApplyBesideFiles(ctx context.Context, cfg *rest.Config) error {
	objects, err := Manifests()
	if err != nil {
		return err
	}
	objects = slices.DeleteFunc(objects, func(o *unstructured.Unstructured) bool {
		return strings.HasPrefix(o.GetKind(), "ValidatingAdmissionPolicy")
	})
	if err := applyAll(ctx, cfg, objects); err != nil {
		return err
	}
	return awaitPolicies(ctx, cfg, staticSuffix)
}
