package fence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeerror"
)

// ErrMissing keeps mode enforce from giving rights where tenants could climb out of them (docs/adr/0009).
var ErrMissing = errors.New("the tenant fence is not in the cluster as it should be, and without it whoever has edit can change what this program owns: apply deploy/manifests (where the chart installed it: helm upgrade with the same values), or use rbacsync.mode: plan")

// Check returns nil if every admission policy of deploy/ is in the cluster, bound, and as strict as there, or if kube-apiserver
// has them from files.
func Check(ctx context.Context, kube kubernetes.Interface) error {
	_, _, err := check(ctx, kube)
	return err
}

// check also returns, where the policies are from files, the ClusterRoles that they know.
func check(ctx context.Context, kube kubernetes.Interface) (roles []string, files bool, err error) {
	inAPI := checkAPI(ctx, kube)
	if !errors.Is(inAPI, ErrMissing) {
		return nil, false, inAPI
	}
	switch roles, err := deploy.VerifyFiles(ctx, kube); {
	case err == nil:
		return roles, true, nil
	case errors.Is(err, deploy.ErrNoFiles):
		return nil, false, inAPI
	default:
		return nil, false, fmt.Errorf("%w; %w", err, inAPI)
	}
}

// checkAPI is Check for policies that are objects of the API.
func checkAPI(ctx context.Context, kube kubernetes.Interface) error {
	admission := kube.AdmissionregistrationV1()
	for _, name := range deploy.Policies() {
		policy, err := admission.ValidatingAdmissionPolicies().Get(ctx, name, metav1.GetOptions{})
		var binding *admissionv1.ValidatingAdmissionPolicyBinding
		if err == nil {
			binding, err = admission.ValidatingAdmissionPolicyBindings().Get(ctx, name, metav1.GetOptions{})
		}
		if apierrors.IsNotFound(err) {
			return fmt.Errorf("%s: %w", name, ErrMissing)
		}
		if err != nil {
			return kubeerror.Explain(fmt.Errorf("looking for the tenant fence: %w", err))
		}
		if err := deploy.Verify(policy, binding); err != nil {
			return fmt.Errorf("%s is weaker than deploy/manifests: %w: %w", name, err, ErrMissing)
		}
	}
	return nil
}

// CheckRoles is Check for a running engine: it also finds ClusterRoles of the configuration whose names the fence
// doesn't keep. That is no reason not to start: the finding foreign_object tells if a tenant took one.
func CheckRoles(ctx context.Context, kube kubernetes.Interface, policy config.Authz) error {
	var names []string
	for _, r := range policy.Roles {
		names = append(names, r.ClusterRole)
	}
	for _, r := range policy.Extra {
		names = append(names, r.ClusterRole)
	}
	kept, files, err := check(ctx, kube)
	if err != nil {
		return err
	}
	if files {
		return deploy.RolesKept(kept, names)
	}
	fence, err := kube.AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(ctx, deploy.TenantFence, metav1.GetOptions{})
	if err != nil {
		return kubeerror.Explain(fmt.Errorf("looking for the tenant fence: %w", err))
	}
	return deploy.VerifyRoles(fence, names)
}

// ErrNoDeletion keeps what was configured from failing in each round once a namespace is due.
var ErrNoDeletion = errors.New("rbacsync.deletion.policy is delete, and nobody has given the right to delete namespaces: apply " + deploy.DeletionFile + ", or set rbacsync.deletion.policy: retain")

// Ready returns nil if the cluster is ready for mode enforce: the fence holds, and deletion, if it is configured,
// is allowed.
func Ready(ctx context.Context, kube kubernetes.Interface, cfg *config.Config) error {
	if err := Check(ctx, kube); err != nil {
		return err
	}
	if cfg.RBACSync.Deletion.Policy != config.DeletionDelete {
		return nil
	}
	review, err := kube.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "delete", Resource: "namespaces"}},
	}, metav1.CreateOptions{})
	if err != nil {
		return kubeerror.Explain(fmt.Errorf("asking whether namespaces may be deleted: %w", err))
	}
	if !review.Status.Allowed {
		return ErrNoDeletion
	}
	return nil
}

// retry is the pause between two looks at a cluster that is not ready, warnEvery the pause between two lines in the log about
// the same.
const (
	retry     = 2 * time.Second
	warnEvery = 30 * time.Second
)

// Await waits until the cluster is ready for mode enforce: for kube-apiserver, and for what an administrator has to
// apply. Until then no right is written; the webhooks don't depend on it and answer. report gets what is waited for, as a
// finding, and nil when the wait is over.
func Await(ctx context.Context, kube kubernetes.Interface, cfg *config.Config, log *slog.Logger, report func(*authz.Finding)) error {
	defer report(nil)
	var lastWarning string
	var lastWarned time.Time
	for {
		err := Ready(ctx, kube, cfg)
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		if now := time.Now(); err.Error() != lastWarning || now.Sub(lastWarned) >= warnEvery {
			lastWarning, lastWarned = err.Error(), now
			f := authz.Finding{Code: "enforce_waits", Text: "mode enforce waits, no rights are given or taken: " + lastWarning}
			if errors.Is(err, ErrMissing) {
				f.Code = "fence"
			}
			report(&f)
			log.ErrorContext(ctx, "mode enforce waits, no rights are given or taken", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
	}
}
