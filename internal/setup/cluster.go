package setup

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
)

// Minor versions of Kubernetes 1: the oldest that reads an AuthorizationConfiguration, and the first that knows its v1.
const (
	oldestMinor   = 30
	authzV1Minor  = 32
	clusterWithin = 30 * time.Second
)

// adminClient is a client of the first kubeconfig that is not empty; without any, of the one that kubectl finds.
func adminClient(kubeconfigs ...string) (*rest.Config, kubernetes.Interface, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	for _, k := range kubeconfigs {
		if k != "" {
			rules.ExplicitPath = k
			break
		}
	}
	rc, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return nil, nil, fmt.Errorf("reading the kubeconfig of a cluster administrator: %w: name one with --kubeconfig", err)
	}
	rc.Timeout = 10 * time.Second
	kube, err := kubernetes.NewForConfig(rc)
	if err != nil {
		return nil, nil, fmt.Errorf("making the Kubernetes client: %w", err)
	}
	return rc, kube, nil
}

// clusterLook is what is found out about a cluster: lines for the admin, and its minor version, 0 if it is not known.
type clusterLook struct {
	kube  kubernetes.Interface
	lines []string
	minor int
}

func (c *clusterLook) say(format string, args ...any) {
	c.lines = append(c.lines, fmt.Sprintf(format, args...))
}

// lookAtCluster says whether the answers fit the cluster. It changes nothing: the one object that it makes is a dry run. What
// can't be asked is a warning.
func lookAtCluster(ctx context.Context, a Answers) clusterLook {
	ctx, cancel := context.WithTimeout(ctx, clusterWithin)
	defer cancel()
	var c clusterLook
	_, kube, err := adminClient(a.Kubeconfig)
	if err == nil {
		c.kube = kube
		err = c.version(a)
	}
	if err != nil {
		c.say("warning: the cluster can't be read from here (%v): it has to be Kubernetes 1.%d or newer. If it is older than 1.%d, write apiserver.config.k8s.io/v1beta1 in kube-apiserver/authorization.yaml",
			err, oldestMinor, authzV1Minor)
		return c
	}
	c.administrator(ctx)
	c.installed(ctx)
	if a.Distribution == Kubeadm {
		c.kubeadm(ctx)
	}
	if a.Run == InCluster {
		c.address(ctx, a)
	}
	if a.Certificates == CertManager {
		c.certManager(ctx, a)
	}
	return c
}

// version says which Kubernetes it is, and whether it names another distribution than the answers.
func (c *clusterLook) version(a Answers) error {
	v, err := c.kube.Discovery().ServerVersion()
	if err != nil {
		return err
	}
	c.say("Kubernetes is %s", v.GitVersion)
	if minor, err := strconv.Atoi(strings.TrimRight(v.Minor, "+")); err == nil && v.Major == "1" {
		c.minor = minor
	}
	if c.minor > 0 && c.minor < oldestMinor {
		c.say("warning: Kubernetes is %s, and 1.%d is the oldest that works: upgrade it first", v.GitVersion, oldestMinor)
	}
	for mark, distribution := range map[string]string{"+k3s": K3s, "+rke2": RKE2} {
		if strings.Contains(v.GitVersion, mark) && a.Distribution != distribution {
			c.say("warning: this is %s: want --distribution %s, not %s", distribution, distribution, a.Distribution)
		}
		if !strings.Contains(v.GitVersion, mark) && a.Distribution == distribution {
			c.say("warning: this is not %s by its version: --distribution %s writes what kube-apiserver may not read here", distribution, distribution)
		}
	}
	return nil
}

func (c *clusterLook) administrator(ctx context.Context) {
	review, err := c.kube.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "*", Group: "*", Resource: "*"}},
	}, metav1.CreateOptions{})
	switch {
	case err != nil:
		c.say("warning: whether this kubeconfig is a cluster administrator's is not known: %v", err)
	case !review.Status.Allowed:
		c.say("warning: this kubeconfig is no cluster administrator's: the commands of NEXT.md need one (cluster-admin)")
	}
}

func (c *clusterLook) installed(ctx context.Context) {
	switch _, err := c.kube.CoreV1().Namespaces().Get(ctx, deploy.Namespace, metav1.GetOptions{}); {
	case err == nil:
		c.say("warning: the namespace %s is there already: the commands of NEXT.md replace an installation, and its certificates. New certificates alone come by init renew", deploy.Namespace)
	case !apierrors.IsNotFound(err):
		c.say("warning: whether the integrator is installed already is not known: %v", err)
	}
}

func (c *clusterLook) kubeadm(ctx context.Context) {
	if _, err := c.kube.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, "kubeadm-config", metav1.GetOptions{}); err != nil {
		c.say("warning: no kubeadm cluster, it seems (%v): want --distribution %s where you keep kube-apiserver's manifest yourself", err, StaticPod)
	}
}

// address asks for a Service with the IP, as a dry run, for the cluster knows its range; a dry run does not see what is taken.
func (c *clusterLook) address(ctx context.Context, a Answers) {
	ip, _, err := net.SplitHostPort(a.WebhookAddress)
	if err != nil {
		return // check has said so
	}
	if own, err := c.kube.CoreV1().Services(deploy.Namespace).Get(ctx, deploy.ServiceAccount, metav1.GetOptions{}); err == nil {
		if own.Spec.ClusterIP != ip {
			c.say("warning: --webhook-address: the integrator's Service has the IP %s: give that, or delete the Service first", own.Spec.ClusterIP)
		}
		return
	}
	all, err := c.kube.CoreV1().Services(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		c.say("warning: --webhook-address: whether the IP %s is free is not known: %v", ip, err)
		return
	}
	for _, s := range all.Items {
		if s.Spec.ClusterIP == ip {
			c.say("warning: --webhook-address: the IP %s is that of the Service %s in the namespace %s: give another one", ip, s.Name, s.Namespace)
			return
		}
	}
	probe := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "gl-k8s-integrator-dry-run-"},
		Spec:       corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 8443}}},
	}
	_, err = c.kube.CoreV1().Services(metav1.NamespaceDefault).Create(ctx, probe, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	switch {
	case apierrors.IsInvalid(err):
		c.say("warning: --webhook-address: the cluster gives no Service the IP %s: %v", ip, err)
	case err != nil:
		c.say("warning: --webhook-address: whether the cluster gives the IP %s is not known: %v", ip, err)
	}
}

func (c *clusterLook) certManager(ctx context.Context, a Answers) {
	switch _, err := c.kube.Discovery().ServerResourcesForGroupVersion("cert-manager.io/v1"); {
	case apierrors.IsNotFound(err):
		c.say("warning: --certificates: the cluster has no cert-manager (cert-manager.io/v1): install it first")
		return
	case err != nil:
		c.say("warning: --certificates: whether the cluster has cert-manager is not known: %v", err)
		return
	}
	if a.HooksIssuer == "" {
		return
	}
	err := c.kube.Discovery().RESTClient().Get().AbsPath("/apis/cert-manager.io/v1/clusterissuers/" + a.HooksIssuer).Do(ctx).Error()
	if err != nil {
		c.say("warning: --hooks-issuer: the ClusterIssuer %s can't be read: %v", a.HooksIssuer, err)
	}
}
