package deploy

import (
	"errors"
	"fmt"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Verify reports in which way an admission policy and its binding, as they are in the cluster, hold less than the
// manifests of this program: an older version, one that only audits, one with a rule taken out. What an
// administrator added is his business.
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
	if !slices.Equal(policy.Spec.Variables, want.Spec.Variables) || !slices.Equal(policy.Spec.MatchConditions, want.Spec.MatchConditions) {
		errs = append(errs, errors.New("its variables or matchConditions are others"))
	}
	if !slices.Contains(binding.Spec.ValidationActions, admissionv1.Deny) {
		errs = append(errs, fmt.Errorf("its binding does not deny, it has %v", binding.Spec.ValidationActions))
	}
	if binding.Spec.PolicyName != policy.Name || binding.Spec.MatchResources != nil {
		errs = append(errs, errors.New("its binding is narrowed or bound to another policy"))
	}
	return errors.Join(errs...)
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
