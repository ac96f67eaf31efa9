package doctor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/clusterroles"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/fence"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/status"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/wait"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
)

const rightsFix = "use an administrator's kubeconfig: --kubeconfig FILE"

// clusterLook looks at the cluster.
type clusterLook struct{ *collector }

// all looks at what kube-apiserver says.
func (c clusterLook) all(ctx context.Context) {
	if c.Kube == nil || c.Config == nil {
		return
	}
	c.pem("cluster.kubeconfig: certificate-authority", c.KubeConfig.CAData)
	c.pem("cluster.kubeconfig: client-certificate", c.KubeConfig.CertData)
	k := &c.facts.Cluster
	if c.greet(ctx); k.Fault != None {
		c.blind("the cluster", errors.New("kube-apiserver could not be asked"), "repair what is said of kube-apiserver first")
		return
	}
	own := c.Own
	if own == nil {
		own = c.Kube
	}
	var all sync.WaitGroup
	defer all.Wait()
	for _, look := range []func(context.Context, *Cluster){ // each has fields of its own
		c.fence, c.status, c.deployment, c.podSecurity, c.flags,
		func(ctx context.Context, k *Cluster) { c.rights(ctx, k, own) },
	} {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, lookTime)
			defer cancel()
			look(ctx, k)
		})
	}
}

// greet asks for version and clock, and whether the integrator is installed.
func (c clusterLook) greet(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	k := &c.facts.Cluster
	client, err := rest.HTTPClientFor(c.KubeConfig)
	if err != nil {
		k.Fault, k.Text = Odd, err.Error()
		return
	}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(c.KubeConfig.Host, "/")+"/version", nil)
	if err != nil {
		k.Fault, k.Text = Odd, err.Error()
		return
	}
	sent := c.Now()
	resp, err := client.Do(req)
	if err != nil {
		k.Fault, k.Text = faultOf(err), err.Error()
		return
	}
	defer resp.Body.Close()
	k.Clock = c.clock(resp, sent)
	c.served("kube-apiserver", resp.TLS)
	if resp.StatusCode == http.StatusUnauthorized {
		k.Fault, k.Text = Credentials, "it answers "+resp.Status
		return
	}
	var version struct {
		Git string `json:"gitVersion"`
	}
	if json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&version) == nil {
		k.Version = version.Git
	}
	if _, err := c.Kube.CoreV1().Namespaces().Get(ctx, deploy.Namespace, metav1.GetOptions{}); apierrors.IsNotFound(err) {
		k.Fault, k.Text = NotInstalled, "there is no namespace "+deploy.Namespace
	} else if apierrors.IsUnauthorized(err) {
		k.Fault, k.Text = Credentials, err.Error()
	}
}

func (c clusterLook) fence(ctx context.Context, k *Cluster) {
	switch err := fence.Ready(ctx, c.Kube, c.Config); {
	case errors.Is(err, fence.ErrMissing):
		k.FenceMissing = err.Error()
		return
	case errors.Is(err, fence.ErrNoDeletion) && c.Own == nil: // who asks with other rights learns nothing of the integrator's
		k.Deletion = err.Error()
	case err != nil && !errors.Is(err, fence.ErrNoDeletion):
		c.blind("the tenant fence", err, rightsFix)
		return
	default:
		k.Fenced = true
	}
	if err := fence.CheckRoles(ctx, c.Kube, c.Config.Authz); err != nil {
		k.FenceRoles = err.Error()
	}
}

func (c clusterLook) rights(ctx context.Context, k *Cluster, own kubernetes.Interface) {
	k.Roles = cluster.NewRoleReader(own, c.RoleNames...).Look(ctx)
	if own != c.Kube { // the integrator may get the roles alone that it may bind
		seen := cluster.NewRoleReader(c.Kube, c.RoleNames...).Look(ctx)
		for name, r := range k.Roles {
			r.Exists = seen[name].Exists
			k.Roles[name] = r
		}
	}
	for name, r := range k.Roles {
		for _, a := range []clusterroles.Answer{r.Exists, r.Bindable} {
			if a.Verdict == clusterroles.Unknown {
				c.blind("ClusterRole "+name, errors.New(a.Reason), rightsFix)
				break
			}
		}
	}
}

func (c clusterLook) status(ctx context.Context, k *Cluster) {
	s, err := status.Read(ctx, c.Kube)
	switch {
	case errors.Is(err, status.ErrNone):
		k.Silent = true
	case err != nil:
		c.blind("what the integrator reports", err, rightsFix)
	default:
		k.Status = &s
	}
}

// deployment looks for replicas. The integrator itself may not, and where it is a unit there are none.
func (c clusterLook) deployment(ctx context.Context, k *Cluster) {
	d, err := c.Kube.AppsV1().Deployments(deploy.Namespace).Get(ctx, deploy.ServiceAccount, metav1.GetOptions{})
	if err != nil {
		if !apierrors.IsNotFound(err) {
			c.skip("replicas of a Deployment", "it may not be read", rightsFix)
		}
		return
	}
	k.Want, k.Ready = 1, d.Status.ReadyReplicas
	if d.Spec.Replicas != nil {
		k.Want = *d.Spec.Replicas
	}
}

// podSecurity looks at the namespaces that are ours. An administrator's exceptions are in the configuration.
func (c clusterLook) podSecurity(ctx context.Context, k *Cluster) {
	list, err := c.Kube.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: kubename.LabelManagedBy + "=" + kubename.ManagedBy})
	if err != nil {
		c.blind("Pod Security of the namespaces", err, rightsFix)
		return
	}
	if len(c.Config.RBACSync.PodSecurityExceptions) > 0 {
		c.skip("Pod Security of the namespaces", "the configuration has exceptions", "the finding pod_security of the integrator tells")
		return
	}
	k.Namespaces = len(list.Items)
	for _, ns := range list.Items {
		if level := ns.Labels["pod-security.kubernetes.io/enforce"]; level != "baseline" && level != "restricted" && ns.DeletionTimestamp == nil {
			k.Privileged = append(k.Privileged, ns.Name)
		}
	}
}

// through has kube-apiserver judge the probe. Its answer to a TokenReview holds what its own authenticators said, our webhook
// among them. Who may not ask so sends the probe as their own token, and looks whether an integrator has counted it.
func (c clusterLook) through(ctx context.Context) {
	if c.Kube == nil || c.Config == nil || c.facts.Cluster.Fault != None {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, throughTime)
	defer cancel()
	t := &c.facts.Through
	review, err := c.review(ctx)
	for range 2 {
		if err != nil || !cut(review.Status.Error) {
			break
		}
		again, failed := c.review(ctx)
		if failed != nil { // what was said first has to do
			break
		}
		review = again
	}
	switch {
	case err == nil:
		t.Known = true
		t.Fault, t.JWT = verdict(review.Status.Error)
		t.Version = askedIn(review.Status.Error)
		t.Text = review.Status.Error
	case apierrors.IsForbidden(err):
		c.counted(ctx)
	default:
		c.blind("whether kube-apiserver asks the webhook", err, "run it again")
	}
}

func (c clusterLook) review(ctx context.Context) (*authenticationv1.TokenReview, error) {
	return c.Kube.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: c.probe()}}, metav1.CreateOptions{})
}

// cut reports whether a connection was closed while we wrote. A server that refuses a client certificate does so in TLS 1.3: its
// reason and the next write are on their way at the same time.
func cut(text string) bool {
	return strings.Contains(text, "broken pipe") || strings.Contains(text, "connection reset by peer") || strings.Contains(text, "http2: client conn could not be established")
}

// verdict reads what kube-apiserver's authenticators said together.
func verdict(text string) (f Fault, jwt bool) {
	switch {
	case strings.Contains(text, string(probeCode)+":"):
		return None, false
	case strings.Contains(text, "oidc: "):
		return None, true
	case text == "" || text == "invalid bearer token": // nobody had anything to say of it
		return Unasked, false
	}
	return faultIn(text), false
}

// askedIn returns in which version the integrator was asked, by what it said.
func askedIn(text string) string {
	switch {
	case !strings.Contains(text, string(probeCode)+":"):
		return ""
	case strings.Contains(text, authn.OldVersionHint):
		return "v1beta1"
	}
	return "v1"
}

// counted sends the probe as a bearer token, and looks at the numbers of the integrators before and after.
func (c clusterLook) counted(ctx context.Context) {
	const what = "whether kube-apiserver asks the webhook"
	before, err := c.count(ctx)
	if err != nil {
		c.blind(what, fmt.Errorf("a TokenReview is forbidden, and so the numbers of the integrator are needed: %w", err), rightsFix+", or --metrics URL of each integrator")
		return
	}
	anonymous := rest.AnonymousClientConfig(c.KubeConfig)
	anonymous.BearerToken = c.probe()
	kube, err := kubernetes.NewForConfig(anonymous)
	if err == nil {
		_, err = kube.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	}
	if !apierrors.IsUnauthorized(err) {
		c.blind(what, fmt.Errorf("sending a token to kube-apiserver: %w", err), "run it again")
		return
	}
	after, err := c.count(ctx)
	if err != nil {
		c.blind(what, err, rightsFix)
		return
	}
	t := &c.facts.Through
	t.Known = true
	if after <= before {
		t.Fault, t.Text = Unasked, "it refused a token, and no integrator was asked about it"
	}
}

// testHook has GitLab send its sample event, and waits until an integrator has written down that it came.
func (c clusterLook) testHook(ctx context.Context) {
	if c.TestHook == nil {
		return
	}
	const what = "whether a hook arrives"
	h, s := c.facts.Hooks.enabled(), c.facts.Cluster.Status
	if h == nil || s == nil || s.Activity == nil {
		c.blind(what, errors.New("there is no system hook that GitLab sends to, or no integrator that could receive it"), "repair what is said of them first")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, arrivalTime)
	defer cancel()
	if err := c.TestHook(ctx, h.ID); err != nil {
		c.blind(what, err, "press Test at the hook in GitLab's admin area")
		return
	}
	before := *s.Activity
	for ctx.Err() == nil {
		now, err := status.Read(ctx, c.Kube)
		if err == nil && now.Activity != nil && (now.Activity.Hook != before.Hook || now.Activity.Refused != before.Refused) {
			s.Activity, c.facts.Hooks.Tested = now.Activity, true
			return
		}
		wait.For(ctx, 500*time.Millisecond)
	}
	c.facts.Hooks.Lost = true
}

// count returns how often the integrators refused a token as they do the probe.
func (c clusterLook) count(ctx context.Context) (sum float64, err error) {
	if len(c.Metrics) == 0 {
		return 0, errors.New("their address is not known")
	}
	for _, at := range c.Metrics {
		n, err := c.countAt(ctx, at)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

func (c clusterLook) countAt(ctx context.Context, at string) (sum float64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return 0, err
	}
	if c.MetricsToken != nil {
		if req.URL.Scheme != "https" && !onLoopback(req.URL.Hostname()) {
			return 0, fmt.Errorf("%s: the token of listeners.metrics goes over https alone", at)
		}
		token, err := c.MetricsToken()
		if err != nil {
			return 0, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.MetricsClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s answers %s", at, resp.Status)
	}
	lines := bufio.NewScanner(io.LimitReader(resp.Body, 8*maxBody))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "} ")
		if strings.HasPrefix(name, "gl_k8s_integrator_reviews_total{") && slices.Contains(strings.Split(name, ","), `reason="`+string(probeCode)+`"`) {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %q is no number", at, value)
			}
			sum += n
		}
	}
	return sum, lines.Err()
}
