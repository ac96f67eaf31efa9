// Package live explains, for administrators, by what the cluster holds now: it reads RoleBindings and roles, and asks kube-apiserver
// for its verdict. What it finds is joined by package explain. It writes nothing.
package live

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/clusterroles"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/explain"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeerror"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// Explainer answers from what is known of GitLab and from what the cluster holds now.
type Explainer struct {
	Kube  kubernetes.Interface
	View  authz.View
	Basis explain.Basis
	Roles clusterroles.Roles
}

// Explain joins what is known of one request with what the cluster holds and says.
func (x *Explainer) Explain(ctx context.Context, user int64, q authz.Question, now time.Time) explain.Report {
	live := x.live(ctx, q.Namespace)
	if q.Verb != "" {
		live.Asked = x.ask(ctx, user, q)
	}
	return explain.New(x.View.Explain(user, q, now), q, x.Basis, live)
}

// ExplainUnasked is Explain for who may not ask kube-apiserver about others. Of the whole cluster there are no RoleBindings to read.
func (x *Explainer) ExplainUnasked(ctx context.Context, user int64, q authz.Question, now time.Time) explain.Report {
	live := explain.Live{Rules: x.rules(ctx, q.Namespace)}
	if q.Namespace != "" {
		live = x.live(ctx, q.Namespace)
	}
	return explain.New(x.View.Explain(user, q, now), q, x.Basis, live)
}

// Who joins those to whom GitLab gives a right in a namespace with what the cluster holds.
func (x *Explainer) Who(ctx context.Context, ns string, now time.Time) explain.Who {
	return explain.NewWho(x.View, ns, now, x.Basis, x.live(ctx, ns))
}

// live reads the RoleBindings of a namespace.
func (x *Explainer) live(ctx context.Context, ns string) explain.Live {
	out := explain.Live{Rules: x.rules(ctx, ns)}
	list, err := x.Kube.RbacV1().RoleBindings(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		out.Error = kubeerror.Explain(err).Error()
		return out
	}
	out.Bindings = list.Items
	return out
}

// rules returns what reads the rules of roles, each once.
func (x *Explainer) rules(ctx context.Context, ns string) func(rbacv1.RoleRef) ([]authz.Rule, bool) {
	type answer struct {
		rules []authz.Rule
		known bool
	}
	read := map[rbacv1.RoleRef]answer{}
	return func(ref rbacv1.RoleRef) ([]authz.Rule, bool) {
		a, ok := read[ref]
		if !ok {
			a.rules, a.known = x.read(ctx, ns, ref)
			read[ref] = a
		}
		return a.rules, a.known
	}
}

func (x *Explainer) read(ctx context.Context, ns string, ref rbacv1.RoleRef) ([]authz.Rule, bool) {
	if r, ok := x.Roles[ref.Name]; ok && ref.Kind == "ClusterRole" && r.Exists.Verdict != clusterroles.Unknown {
		return authzRules(r.Rules), true
	}
	var rules []rbacv1.PolicyRule
	var err error
	if ref.Kind == "ClusterRole" {
		var role *rbacv1.ClusterRole
		if role, err = x.Kube.RbacV1().ClusterRoles().Get(ctx, ref.Name, metav1.GetOptions{}); err == nil {
			rules = role.Rules
		}
	} else {
		var role *rbacv1.Role
		if role, err = x.Kube.RbacV1().Roles(ns).Get(ctx, ref.Name, metav1.GetOptions{}); err == nil {
			rules = role.Rules
		}
	}
	return authzRules(rules), err == nil || apierrors.IsNotFound(err)
}

// ask asks kube-apiserver itself.
func (x *Explainer) ask(ctx context.Context, user int64, q authz.Question) *explain.Asked {
	review, err := x.Kube.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: kubename.User(user), UID: strconv.FormatInt(user, 10), Groups: explain.Groups(),
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: q.Namespace, Verb: q.Verb, Group: q.Group, Resource: q.Resource, Subresource: q.Subresource, Name: q.Name,
		},
	}}, metav1.CreateOptions{})
	switch {
	case apierrors.IsForbidden(err):
		return &explain.Asked{Allowed: authz.Unknown, Error: "who asks may not create SubjectAccessReviews: use an administrator's kubeconfig in cluster.kubeconfig"}
	case err != nil:
		return &explain.Asked{Allowed: authz.Unknown, Error: kubeerror.Explain(err).Error()}
	case review.Status.Allowed:
		return &explain.Asked{Allowed: authz.Yes, Reason: review.Status.Reason}
	}
	return &explain.Asked{Allowed: authz.No, Reason: review.Status.Reason, Error: review.Status.EvaluationError}
}

// UserNamed finds the person that is meant: by the name in Kubernetes, by id, or by the user name. One whom GitLab does not show
// can be asked for by id.
func UserNamed(text string, s *authz.Snapshot) (int64, error) {
	if id, ok := kubename.ParseUser(text); ok {
		return id, nil
	}
	if id, err := strconv.ParseInt(text, 10, 64); err == nil && id > 0 {
		return id, nil
	}
	for id, u := range s.Users {
		if strings.EqualFold(u.Username, text) {
			return id, nil
		}
	}
	return 0, fmt.Errorf("of GitLab, as it was read at %s, no account with the user name %q is known: give its id, or gitlab:ID", s.Taken.UTC().Format(time.RFC3339), text)
}
