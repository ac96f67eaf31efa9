// Package clusterroles looks up the ClusterRoles that the configuration names: whether they exist, what they allow, and
// whether this program may bind them. It asks by name and lists nothing, so a right to get these names is all it needs.
package clusterroles

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
)

// Verdict is the answer to a question that may have none.
type Verdict uint8

// The verdicts. The zero one is Unknown: it was not asked, or could not be.
const (
	Unknown Verdict = iota
	Yes
	No
)

// Answer is a Verdict with its reason, which is empty for Yes.
type Answer struct {
	Verdict Verdict
	Reason  string
}

// Role is what is known of one ClusterRole.
type Role struct {
	Exists Answer
	// Bindable says whether whoever asked may make RoleBindings to it in every namespace.
	Bindable Answer
	// Rules are those it had when it was last read. They stay while it can't be asked for; nil: never read, or gone.
	Rules []rbacv1.PolicyRule
}

// Roles are ClusterRoles by name. They are not changed once they were returned.
type Roles map[string]Role

// Reader reads ClusterRoles. Make one with New; its methods may be called from several goroutines.
type Reader struct {
	kube  kubernetes.Interface
	names []string
	last  atomic.Pointer[Roles]
}

// Every is the usual time between two looks of Run.
const Every = time.Minute

// timeout bounds one look at all names: whoever waits for it must not hang on the API server.
const timeout = 10 * time.Second

// New returns a Reader of these ClusterRoles that has asked for none yet.
func New(kube kubernetes.Interface, names ...string) *Reader {
	names = slices.Clone(names)
	slices.Sort(names)
	r := &Reader{kube: kube, names: slices.Compact(names)}
	first := Roles{}
	for _, n := range r.names {
		first[n] = Role{Exists: Answer{Reason: "it was not asked for yet"}, Bindable: Answer{Reason: "it was not asked for yet"}}
	}
	r.last.Store(&first)
	return r
}

// Roles returns what the last look found, without asking anybody. It has an entry for each name.
func (r *Reader) Roles() Roles { return *r.last.Load() }

// Run looks at once, and then again after each pause until ctx is done.
func (r *Reader) Run(ctx context.Context, every time.Duration) {
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
func (r *Reader) Look(ctx context.Context) Roles {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	before := r.Roles()
	now := make(Roles, len(r.names))
	for _, n := range r.names {
		var role Role
		role.Exists, role.Rules = r.get(ctx, n)
		if role.Exists.Verdict == Unknown {
			role.Rules = before[n].Rules
		}
		role.Bindable = r.mayBind(ctx, n)
		now[n] = role
	}
	r.last.Store(&now)
	return now
}

func (r *Reader) get(ctx context.Context, name string) (Answer, []rbacv1.PolicyRule) {
	role, err := r.kube.RbacV1().ClusterRoles().Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return Answer{Verdict: No, Reason: "the cluster has no ClusterRole of this name"}, nil
	case apierrors.IsForbidden(err):
		return Answer{Verdict: Unknown, Reason: "the integrator has no right to get it"}, nil
	case err != nil:
		return Answer{Verdict: Unknown, Reason: fmt.Sprintf("getting ClusterRole %q: %v", name, err)}, nil
	}
	return Answer{Verdict: Yes}, role.Rules
}

// mayBind asks for the verb "bind", with which a RoleBinding may refer to a role whose rights its maker does not have
// (https://kubernetes.io/docs/reference/access-authn-authz/rbac/#restrictions-on-role-binding-creation-or-update).
func (r *Reader) mayBind(ctx context.Context, name string) Answer {
	review, err := r.kube.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: "bind", Group: rbacv1.GroupName, Resource: "clusterroles", Name: name,
		}},
	}, metav1.CreateOptions{})
	switch {
	case err != nil:
		return Answer{Verdict: Unknown, Reason: fmt.Sprintf("asking whether ClusterRole %q may be bound: %v", name, err)}
	case review.Status.Allowed:
		return Answer{Verdict: Yes}
	case review.Status.Denied || review.Status.EvaluationError == "":
		return Answer{Verdict: No, Reason: "the integrator has no right to bind it"}
	}
	// An authorizer could not be asked. It might have allowed it.
	return Answer{Verdict: Unknown, Reason: "asking whether it may be bound: " + strings.TrimSpace(review.Status.EvaluationError)}
}
