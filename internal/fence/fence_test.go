package fence

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

// TestFenceMustHold: mode enforce does not start with a fence that is missing, older, or only looks on.
func TestFenceMustHold(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*admissionv1.ValidatingAdmissionPolicy, *admissionv1.ValidatingAdmissionPolicyBinding) (keep bool)
		want   string
	}{
		{"as in deploy/", func(*admissionv1.ValidatingAdmissionPolicy, *admissionv1.ValidatingAdmissionPolicyBinding) bool {
			return true
		}, ""},
		{"missing", func(*admissionv1.ValidatingAdmissionPolicy, *admissionv1.ValidatingAdmissionPolicyBinding) bool {
			return false
		}, "is not in the cluster"},
		{"only audits", func(_ *admissionv1.ValidatingAdmissionPolicy, b *admissionv1.ValidatingAdmissionPolicyBinding) bool {
			b.Spec.ValidationActions = []admissionv1.ValidationAction{admissionv1.Audit}
			return true
		}, "does not deny"},
		{"a rule taken out", func(p *admissionv1.ValidatingAdmissionPolicy, _ *admissionv1.ValidatingAdmissionPolicyBinding) bool {
			p.Spec.Validations = p.Spec.Validations[1:]
			return true
		}, "lacks the rule"},
		{"for fewer people", func(p *admissionv1.ValidatingAdmissionPolicy, _ *admissionv1.ValidatingAdmissionPolicyBinding) bool {
			p.Spec.MatchConditions[0].Expression = "false"
			return true
		}, "matchConditions are others"},
		{"for some kinds", func(p *admissionv1.ValidatingAdmissionPolicy, _ *admissionv1.ValidatingAdmissionPolicyBinding) bool {
			p.Spec.MatchConstraints.ResourceRules[0].Resources = []string{"namespaces"}
			return true
		}, "leave something out"},
		{"not for some kinds", func(p *admissionv1.ValidatingAdmissionPolicy, _ *admissionv1.ValidatingAdmissionPolicyBinding) bool {
			p.Spec.MatchConstraints.ExcludeResourceRules = p.Spec.MatchConstraints.ResourceRules
			return true
		}, "leave something out"},
		{"for some namespaces", func(p *admissionv1.ValidatingAdmissionPolicy, _ *admissionv1.ValidatingAdmissionPolicyBinding) bool {
			p.Spec.MatchConstraints.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"fenced": "yes"}}
			return true
		}, "leave something out"},
		{"with the defaults of the API server", func(p *admissionv1.ValidatingAdmissionPolicy, _ *admissionv1.ValidatingAdmissionPolicyBinding) bool {
			m := p.Spec.MatchConstraints
			m.NamespaceSelector, m.ObjectSelector = new(metav1.LabelSelector), new(metav1.LabelSelector)
			m.MatchPolicy, m.ResourceRules[0].Scope = new(admissionv1.Equivalent), new(admissionv1.AllScopes)
			return true
		}, ""},
		{"only with a parameter", func(_ *admissionv1.ValidatingAdmissionPolicy, b *admissionv1.ValidatingAdmissionPolicyBinding) bool {
			b.Spec.ParamRef = &admissionv1.ParamRef{Name: "none"}
			return true
		}, "parameter"},
		{"bound to some namespaces", func(_ *admissionv1.ValidatingAdmissionPolicy, b *admissionv1.ValidatingAdmissionPolicyBinding) bool {
			b.Spec.MatchResources = new(admissionv1.MatchResources)
			return true
		}, "narrowed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			policies := map[string]*admissionv1.ValidatingAdmissionPolicy{}
			bindings := map[string]*admissionv1.ValidatingAdmissionPolicyBinding{}
			objects, err := deploy.Manifests()
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range objects {
				var into any
				switch o.GetKind() {
				case "ValidatingAdmissionPolicy":
					policies[o.GetName()] = new(admissionv1.ValidatingAdmissionPolicy)
					into = policies[o.GetName()]
				case "ValidatingAdmissionPolicyBinding":
					bindings[o.GetName()] = new(admissionv1.ValidatingAdmissionPolicyBinding)
					into = bindings[o.GetName()]
				default:
					continue
				}
				if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, into); err != nil {
					t.Fatal(err)
				}
			}
			var there []runtime.Object
			for name, p := range policies {
				if name != deploy.TenantFence || c.change(p, bindings[name]) {
					there = append(there, p, bindings[name])
				}
			}
			err = Check(t.Context(), fake.NewClientset(there...))
			if c.want == "" && err != nil {
				t.Error(err)
			}
			if c.want != "" && (!errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
		})
	}
}

// fenceObjects are the admission policies of deploy/ and their bindings.
func fenceObjects(t *testing.T) []runtime.Object {
	t.Helper()
	objects, err := deploy.Manifests()
	if err != nil {
		t.Fatal(err)
	}
	var there []runtime.Object
	for _, o := range objects {
		var into runtime.Object
		switch o.GetKind() {
		case "ValidatingAdmissionPolicy":
			into = new(admissionv1.ValidatingAdmissionPolicy)
		case "ValidatingAdmissionPolicyBinding":
			into = new(admissionv1.ValidatingAdmissionPolicyBinding)
		default:
			continue
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, into); err != nil {
			t.Fatal(err)
		}
		there = append(there, into)
	}
	return there
}

// TestDeletionNeedsItsRight: mode enforce does not start with a deletion policy that every deletion would fail under.
func TestDeletionNeedsItsRight(t *testing.T) {
	there := fenceObjects(t)
	for _, c := range []struct {
		policy  string
		allowed bool
		want    error
	}{
		{config.DeletionRetain, false, nil},
		{config.DeletionDelete, false, ErrNoDeletion},
		{config.DeletionDelete, true, nil},
	} {
		kube := fake.NewClientset(there...)
		kube.PrependReactor("create", "selfsubjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
			r := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SelfSubjectAccessReview)
			r.Status.Allowed = c.allowed && r.Spec.ResourceAttributes.Verb == "delete" && r.Spec.ResourceAttributes.Resource == "namespaces"
			return true, r, nil
		})
		cfg := &config.Config{}
		cfg.RBACSync.Deletion.Policy = c.policy
		err := Ready(t.Context(), kube, cfg)
		if !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
			t.Errorf("policy %s, allowed %v: got %v, want %v", c.policy, c.allowed, err, c.want)
		}
		if err != nil && !strings.Contains(err.Error(), "deploy/optional/namespace-deletion.yaml") {
			t.Errorf("%v does not name the file", err)
		}
	}
}

// TestEnforceWaitsForTheFence: a start without the fence does not end the process, which also authenticates; it says now and
// then what to apply, and goes on when that is done.
func TestEnforceWaitsForTheFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset()
		var log bytes.Buffer
		var found *authz.Finding
		done := make(chan error, 1)
		go func() {
			done <- Await(t.Context(), kube, &config.Config{}, slog.New(slog.NewTextHandler(&log, nil)), func(f *authz.Finding) { found = f })
		}()
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if n := strings.Count(log.String(), "apply deploy/manifests"); n != 3 || len(done) > 0 {
			t.Errorf("after a minute %d lines, ended %v:\n%s", n, len(done) > 0, log.String())
		}
		if found == nil || !strings.Contains(found.Text, "apply deploy/manifests") {
			t.Errorf("the finding is %v", found)
		}
		for _, o := range fenceObjects(t) {
			if err := kube.Tracker().Add(o); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-done; err != nil {
			t.Errorf("with the fence: %v", err)
		}
		if found != nil {
			t.Errorf("with the fence there still is the finding %v", found)
		}
	})
}

// TestFenceKeepsTheNamesOfRoles: a configured ClusterRole that the fence doesn't know is a finding, and an administrator may
// add it to the fence, but take none away.
func TestFenceKeepsTheNamesOfRoles(t *testing.T) {
	for _, c := range []struct{ list, want string }{
		{"['edit', 'view']", "RoleBindings of deployer, debugger: add"},
		{"['edit', 'view', 'deployer']", "RoleBindings of debugger: add"},
		{"['edit', 'view', 'deployer', 'debugger']", ""},
		{"['edit', 'view', 'deployer', 'debugger', 'Acme:reader']", ""}, // as RBAC allows names
		{"['edit']", "variables or matchConditions are others"},
		{"['edit', 'view'].filter(r, false)", "variables or matchConditions are others"},
	} {
		objects, err := deploy.Manifests()
		if err != nil {
			t.Fatal(err)
		}
		var there []runtime.Object
		for _, o := range objects {
			var into runtime.Object
			switch o.GetKind() {
			case "ValidatingAdmissionPolicy":
				into = new(admissionv1.ValidatingAdmissionPolicy)
			case "ValidatingAdmissionPolicyBinding":
				into = new(admissionv1.ValidatingAdmissionPolicyBinding)
			default:
				continue
			}
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, into); err != nil {
				t.Fatal(err)
			}
			if p, ok := into.(*admissionv1.ValidatingAdmissionPolicy); ok && p.Name == deploy.TenantFence {
				for i := range p.Spec.Variables {
					if p.Spec.Variables[i].Name == "roles" {
						p.Spec.Variables[i].Expression = c.list
					}
				}
			}
			there = append(there, into)
		}
		err = CheckRoles(t.Context(), fake.NewClientset(there...), config.Authz{
			Roles: []config.Role{{ClusterRole: "edit"}, {ClusterRole: "deployer"}}, Extra: []config.ExtraRole{{ClusterRole: "debugger"}},
		})
		if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.list, err, c.want)
		}
	}
}
