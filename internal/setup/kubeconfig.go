package setup

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
)

// tokenWait is how long the cluster may take to put a token into a new Secret.
const tokenWait = 30 * time.Second

// Kubeconfig writes the integrator's own kubeconfig and token into the folder, read from the cluster of kubeconfig (empty:
// as kubectl finds it). manifests/ has to be applied before.
func Kubeconfig(ctx context.Context, dir, kubeconfig string) error {
	a, err := answersOf(dir)
	if err != nil {
		return err
	}
	if a.Run != Systemd {
		return errors.New("a pod has credentials of its own: this is for --run systemd alone")
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	rc, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return fmt.Errorf("reading the kubeconfig of an administrator: %w: name one with --kubeconfig", err)
	}
	rc.Timeout = 10 * time.Second
	kube, err := kubernetes.NewForConfig(rc)
	if err != nil {
		return fmt.Errorf("making the Kubernetes client: %w", err)
	}
	secret, err := awaitToken(ctx, kube)
	if err != nil {
		return err
	}
	c := clientcmdapi.NewConfig()
	c.Clusters["cluster"] = &clientcmdapi.Cluster{Server: rc.Host, CertificateAuthorityData: secret.Data[corev1.ServiceAccountRootCAKey]}
	c.AuthInfos[deploy.ServiceAccount] = &clientcmdapi.AuthInfo{TokenFile: filepath.Join(a.ConfigDir, "integrator-token")}
	c.Contexts["integrator"] = &clientcmdapi.Context{Cluster: "cluster", AuthInfo: deploy.ServiceAccount}
	c.CurrentContext = "integrator"
	text, err := clientcmd.Write(*c)
	if err != nil {
		return fmt.Errorf("making the integrator's kubeconfig: %w", err)
	}
	for name, data := range map[string][]byte{"integrator-token": secret.Data[corev1.ServiceAccountTokenKey], "integrator.kubeconfig": text} {
		if err := writeNew(filepath.Join(dir, "integrator", name), data, 0o600); err != nil {
			return fmt.Errorf("%w: nothing is overwritten: delete it to get another one", err)
		}
	}
	return nil
}

// awaitToken waits until the cluster has put a token into the Secret of manifests/50-token.yaml.
func awaitToken(ctx context.Context, kube kubernetes.Interface) (*corev1.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, tokenWait)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := kube.CoreV1().Secrets(deploy.Namespace).Get(ctx, "gl-k8s-integrator-token", metav1.GetOptions{})
		switch {
		case err == nil && len(s.Data[corev1.ServiceAccountTokenKey]) > 0:
			return s, nil
		case apierrors.IsNotFound(err):
			return nil, fmt.Errorf("reading the integrator's token: %w: apply %s first", err, filepath.Join("manifests", "50-token.yaml"))
		case err != nil && ctx.Err() == nil:
			return nil, fmt.Errorf("reading the integrator's token: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the token in the Secret gl-k8s-integrator-token: %w: does kube-controller-manager run?", ctx.Err())
		case <-tick.C:
		}
	}
}
