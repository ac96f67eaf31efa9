package deploy

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Verify reports in which way an admission policy and its binding, as they are in the cluster, hold less than the
// manifests of this program: an older version, one that only audits, one with a rule taken out. What an
// administrator added is their business.
func Verify(policy *admissionv1.ValidatingAdmissionPolicy, binding *admissionv1.ValidatingAdmissionPolicyBinding) error {
	want, err := wantedPolicy(policy.Name)
	if err != nil {
		return err
	}
	var errs []error
	if f := policy.Spec.FailurePolicy; f != nil && *f != admissionv1.Fail {
		errs = append(errs, fmt.Errorf("its failurePolicy is %s, not Fail", *f))
	}
	var rules []string
	for _, v := range policy.Spec.Validations {
		rules = append(rules, v.Expression)
	}
	for _, v := range want.Spec.Validations {
		if !slices.Contains(rules, v.Expression) {
			errs = append(errs, fmt.Errorf("it lacks the rule %q", v.Message))
		}
	}
	if !slices.EqualFunc(policy.Spec.Variables, want.Spec.Variables, sameVariable) || !slices.Equal(policy.Spec.MatchConditions, want.Spec.MatchConditions) {
		errs = append(errs, errors.New("its variables or matchConditions are others"))
	}
	if policy.Spec.MatchConstraints == nil || !covers(policy.Spec.MatchConstraints, want.Spec.MatchConstraints) {
		errs = append(errs, errors.New("its matchConstraints leave something out"))
	}
	if policy.Spec.ParamKind != nil || binding.Spec.ParamRef != nil { // without its parameter a policy can be passed over
		errs = append(errs, errors.New("it depends on a parameter"))
	}
	if !slices.Contains(binding.Spec.ValidationActions, admissionv1.Deny) {
		errs = append(errs, fmt.Errorf("its binding does not deny, it has %v", binding.Spec.ValidationActions))
	}
	if binding.Spec.PolicyName != policy.Name || binding.Spec.MatchResources != nil {
		errs = append(errs, errors.New("its binding is narrowed or bound to another policy"))
	}
	return errors.Join(errs...)
}

// rolesVariable lists, in TenantFence, the ClusterRoles whose RoleBindings' names tenants can't take.
const rolesVariable = "roles"

// listOfNames: the name of a ClusterRole may have nearly any character (IsPathSegmentName), such as "acme:deployer".
var listOfNames = regexp.MustCompile(`^\[('[^'\\]+'(, *)?)*\]$`)

// sameVariable: an administrator may add to the list of roles.
func sameVariable(got, want admissionv1.Variable) bool {
	if got.Name != rolesVariable || want.Name != rolesVariable {
		return got == want
	}
	return !slices.ContainsFunc(names(want.Expression), func(role string) bool { return !slices.Contains(names(got.Expression), role) })
}

// names returns the strings in a CEL list of strings, nil for any other expression.
func names(expression string) []string {
	expression = strings.TrimSpace(expression)
	if !listOfNames.MatchString(expression) {
		return nil
	}
	var out []string
	for _, quoted := range regexp.MustCompile(`'[^']+'`).FindAllString(expression, -1) {
		out = append(out, strings.Trim(quoted, "'"))
	}
	return out
}

// VerifyRoles reports which of these ClusterRoles TenantFence does not know: a tenant could take the name of their
// RoleBinding before the integrator does.
func VerifyRoles(fence *admissionv1.ValidatingAdmissionPolicy, roles []string) error {
	var kept []string
	for _, v := range fence.Spec.Variables {
		if v.Name == rolesVariable {
			kept = names(v.Expression)
		}
	}
	return RolesKept(kept, roles)
}

// RolesKept is VerifyRoles for a list of the ClusterRoles that are known.
func RolesKept(kept, roles []string) error {
	var missing []string
	for _, role := range roles {
		if !slices.Contains(kept, role) && !slices.Contains(missing, role) {
			missing = append(missing, role)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("tenants can take the names of the RoleBindings of %s: add these ClusterRoles to the variable %q of the policy %s, in deploy/manifests/30-tenant-fence.yaml, or make its files anew with gl-k8s-integrator fence-files",
		strings.Join(missing, ", "), rolesVariable, TenantFence)
}

// covers reports whether all requests that wanted names are looked at.
func covers(m, wanted *admissionv1.MatchResources) bool {
	empty := func(s *metav1.LabelSelector) bool { return s == nil || len(s.MatchLabels)+len(s.MatchExpressions) == 0 }
	if !empty(m.ObjectSelector) || (!empty(m.NamespaceSelector) && !equality.Semantic.DeepEqual(m.NamespaceSelector, wanted.NamespaceSelector)) {
		return false
	}
	if len(m.ExcludeResourceRules) > 0 || (m.MatchPolicy != nil && *m.MatchPolicy != admissionv1.Equivalent) {
		return false
	}
	for _, want := range wanted.ResourceRules {
		if !slices.ContainsFunc(m.ResourceRules, func(r admissionv1.NamedRuleWithOperations) bool {
			return len(r.ResourceNames) == 0 && (r.Scope == nil || *r.Scope == admissionv1.AllScopes) && slices.Equal(r.Operations, want.Operations) &&
				slices.Equal(r.APIGroups, want.APIGroups) && slices.Equal(r.APIVersions, want.APIVersions) && slices.Equal(r.Resources, want.Resources)
		}) {
			return false
		}
	}
	return true
}

func wantedPolicy(name string) (*admissionv1.ValidatingAdmissionPolicy, error) {
	objects, err := Manifests()
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		if o.GetKind() == "ValidatingAdmissionPolicy" && o.GetName() == name {
			p := new(admissionv1.ValidatingAdmissionPolicy)
			return p, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, p)
		}
	}
	return nil, fmt.Errorf("this program has no admission policy %q", name)
}
