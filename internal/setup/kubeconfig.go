package setup

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
)

// secretWait is how long the cluster may take to put a token or a certificate into a Secret.
const secretWait = 30 * time.Second

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
	rc, kube, err := adminClient(kubeconfig, a.Kubeconfig)
	if err != nil {
		return err
	}
	secret, err := awaitSecret(ctx, kube, "gl-k8s-integrator-token", []string{corev1.ServiceAccountTokenKey}, false,
		"apply manifests/50-token.yaml first; kube-controller-manager fills it")
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
