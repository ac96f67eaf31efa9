package kubeerror

import (
	"errors"
	"fmt"
	"net"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
)

// ownUser is what kube-apiserver calls the integrator.
const ownUser = "system:serviceaccount:" + deploy.Namespace + ":" + deploy.ServiceAccount

// Explain adds what to do to the errors of kube-apiserver that an administrator can fix.
func Explain(err error) error {
	netErr := net.Error(nil)
	switch {
	case apierrors.IsForbidden(err) && strings.Contains(err.Error(), `User "`) && !strings.Contains(err.Error(), `User "`+ownUser+`"`):
		return fmt.Errorf("%w: this needs an administrator's kubeconfig, or the integrator's own: set cluster.kubeconfig", err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w: give the integrator's ServiceAccount the roles in deploy/manifests", err)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%w: kube-apiserver does not accept the credentials in cluster.kubeconfig", err)
	case errors.As(err, &netErr):
		return fmt.Errorf("%w: check cluster.kubeconfig and that kube-apiserver is up", err)
	}
	return err
}
