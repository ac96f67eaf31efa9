package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/clusterroles"
)

// RoleReader reads ClusterRoles. Make one with NewRoleReader; its methods may be called from several goroutines.
type RoleReader struct {
	kube  kubernetes.Interface
	names []string
	last  atomic.Pointer[clusterroles.Roles]
}

// RolesEvery is the usual time between two looks of Run.
const RolesEvery = time.Minute

// rolesTimeout bounds one look at all names: whoever waits for it must not wait long for the API server.
const rolesTimeout = 10 * time.Second

// NewRoleReader returns a RoleReader of these ClusterRoles that has asked for none yet.
func NewRoleReader(kube kubernetes.Interface, names ...string) *RoleReader {
	names = slices.Clone(names)
	slices.Sort(names)
	r := &RoleReader{kube: kube, names: slices.Compact(names)}
	first := clusterroles.Roles{}
	for _, n := range r.names {
		first[n] = clusterroles.Role{Exists: clusterroles.Answer{Reason: "it was not asked for yet"}, Bindable: clusterroles.Answer{Reason: "it was not asked for yet"}}
	}
	r.last.Store(&first)
	return r
}

// RecordedRoles returns a RoleReader that asks nobody: what was found before is what it finds.
func RecordedRoles(found clusterroles.Roles) *RoleReader {
	r := &RoleReader{}
	r.last.Store(&found)
	return r
}

// Roles returns what the last look found, without asking anybody. It has an entry for each name.
func (r *RoleReader) Roles() clusterroles.Roles { return *r.last.Load() }

// Run looks at once, and then again after each pause until ctx is done.
func (r *RoleReader) Run(ctx context.Context, every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		r.Look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// Look asks the API server now, and returns what it found. It takes at most 10 s.
func (r *RoleReader) Look(ctx context.Context) clusterroles.Roles {
	if r.kube == nil { // RecordedRoles
		return r.Roles()
	}
	ctx, cancel := context.WithTimeout(ctx, rolesTimeout)
	defer cancel()
	before := r.Roles()
	now := make(clusterroles.Roles, len(r.names))
	for _, n := range r.names {
		var role clusterroles.Role
		role.Exists, role.Rules = r.get(ctx, n)
		if role.Exists.Verdict == clusterroles.Unknown {
			role.Rules = before[n].Rules
		}
		role.Bindable = r.mayBind(ctx, n)
		now[n] = role
	}
	r.last.Store(&now)
	return now
}

func (r *RoleReader) get(ctx context.Context, name string) (clusterroles.Answer, []rbacv1.PolicyRule) {
	role, err := r.kube.RbacV1().ClusterRoles().Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return clusterroles.Answer{Verdict: clusterroles.No, Reason: "the cluster has no ClusterRole of this name"}, nil
	case apierrors.IsForbidden(err):
		return clusterroles.Answer{Verdict: clusterroles.Unknown, Reason: "the integrator has no right to get it"}, nil
	case err != nil:
		return clusterroles.Answer{Verdict: clusterroles.Unknown, Reason: fmt.Sprintf("getting ClusterRole %q: %v", name, err)}, nil
	}
	return clusterroles.Answer{Verdict: clusterroles.Yes}, role.Rules
}

// mayBind asks for the verb "bind", with which a RoleBinding may refer to a role whose rights its maker does not have
// (https://kubernetes.io/docs/reference/access-authn-authz/rbac/#restrictions-on-role-binding-creation-or-update).
func (r *RoleReader) mayBind(ctx context.Context, name string) clusterroles.Answer {
	review, err := r.kube.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: "bind", Group: rbacv1.GroupName, Resource: "clusterroles", Name: name,
		}},
	}, metav1.CreateOptions{})
	switch {
	case err != nil:
		return clusterroles.Answer{Verdict: clusterroles.Unknown, Reason: fmt.Sprintf("asking whether ClusterRole %q may be bound: %v", name, err)}
	case review.Status.Allowed:
		return clusterroles.Answer{Verdict: clusterroles.Yes}
	case review.Status.Denied || review.Status.EvaluationError == "":
		return clusterroles.Answer{Verdict: clusterroles.No, Reason: "the integrator has no right to bind it"}
	}
	// An authorizer could not be asked. It might have allowed it.
	return clusterroles.Answer{Verdict: clusterroles.Unknown, Reason: "asking whether it may be bound: " + strings.TrimSpace(review.Status.EvaluationError)}
}
