package controlplane

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
)

// authorizationConfig is the file for --authorization-config. The file replaces --authorization-mode, so Node and
// RBAC have to be in it; the webhook stands last and is therefore asked only about what these did not allow.
//
// It explains refusals and decides nothing, so whether it can be reached must not change what is allowed
// (failurePolicy NoOpinion), and its answers are kept for a second only, since they tell of rights that change.
func authorizationConfig(webhookKubeconfig string) string {
	const base = `apiVersion: apiserver.config.k8s.io/v1
kind: AuthorizationConfiguration
authorizers:
- {type: Node, name: node}
- {type: RBAC, name: rbac}
`
	if webhookKubeconfig == "" {
		return base
	}
	return base + fmt.Sprintf(`- type: Webhook
  name: gitlab
  webhook:
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
    matchConditions:
    - expression: >-
        request.user.startsWith('%s')
        || request.user == 'system:anonymous'
        || (request.user.startsWith('system:serviceaccount:') && request.user.endsWith(':%s'))
    authorizedTTL: 1s
    unauthorizedTTL: 1s
    timeout: 2s
    failurePolicy: NoOpinion
    connectionInfo: {type: KubeConfigFile, kubeConfigFile: %q}
`, kubename.UserPrefix, kubename.CIServiceAccount, webhookKubeconfig)
}

// apiServerFlags are the flags of kube-apiserver; dir holds the files they name.
func apiServerFlags(dir string, port int, o Options) []string {
	file := func(name string) string { return filepath.Join(dir, name) }
	flags := []string{
		// A relative socket path: it is short however long dir is (a socket's path may have about 100 bytes), and
		// kube-apiserver's first check of etcd dials the host of the URL, not its path.
		"--etcd-servers=unix://" + etcdSocket,
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port), "--advertise-address=127.0.0.1",
		"--endpoint-reconciler-type=none", // an Endpoints object refuses loopback addresses
		"--service-cluster-ip-range=10.96.0.0/16",
		"--tls-cert-file=" + file("server.crt"), "--tls-private-key-file=" + file("server.key"),
		"--client-ca-file=" + file("ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + file("sa.pub"), "--service-account-signing-key-file=" + file("sa.key"),
		"--authorization-config=" + file("authorization.yaml"),
		"--allow-privileged=true", // what refuses a privileged pod is Pod Security, as on a real cluster
		"--profiling=false",
	}
	if o.AuthnWebhook != nil {
		version, ttl := o.AuthnVersion, o.AuthnCacheTTL
		if version == "" {
			version = "v1"
		}
		if ttl == 0 {
			ttl = 2 * time.Minute
		}
		flags = append(flags,
			"--authentication-token-webhook-config-file="+file("authn-webhook.kubeconfig"),
			"--authentication-token-webhook-version="+version,
			"--authentication-token-webhook-cache-ttl="+ttl.String())
	}
	return append(flags, o.APIServerFlags...)
}

// controllerManagerFlags are the flags of kube-controller-manager. Each controller uses its own ServiceAccount, as
// on a real cluster: the tenant fence must let them work.
func controllerManagerFlags(dir string) []string {
	file := func(name string) string { return filepath.Join(dir, name) }
	return []string{
		"--kubeconfig=" + file("controller-manager.kubeconfig"),
		"--service-account-private-key-file=" + file("sa.key"),
		"--root-ca-file=" + file("ca.crt"),
		"--use-service-account-credentials=true",
		"--kube-api-qps=500", "--kube-api-burst=1000", // else some forty ServiceAccount tokens take five seconds
		"--leader-elect=false",
		"--secure-port=0",
		"--profiling=false",
	}
}

// etcd listens on sockets in its working folder, which only this user can enter.
const (
	etcdSocket = "etcd.sock"
	peerSocket = "peer.sock"
)

func etcdFlags() []string {
	return []string{
		"--name=demo", "--data-dir=etcd",
		"--unsafe-no-fsync", // the state is thrown away anyhow
		"--listen-client-urls=unix://" + etcdSocket, "--advertise-client-urls=unix://" + etcdSocket,
		"--listen-peer-urls=unix://" + peerSocket, "--initial-advertise-peer-urls=unix://" + peerSocket,
		"--initial-cluster=demo=unix://" + peerSocket,
		"--log-level=warn",
	}
}

// writeFiles writes the files that the flags name and that don't depend on the port.
func (c *Cluster) writeFiles(o Options) error {
	server, err := c.ca.Server("kube-apiserver", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
	if err != nil {
		return err
	}
	saKey, saPub, err := localcert.NewSigningKey()
	if err != nil {
		return err
	}
	if c.admin, err = c.ca.Client("gl-k8s-integrator:admin", "system:masters"); err != nil {
		return err
	}
	if c.manager, err = c.ca.Client("system:kube-controller-manager"); err != nil {
		return err
	}
	authz := ""
	if o.AuthzWebhook != nil {
		authz = filepath.Join(c.dir, "authz-webhook.kubeconfig")
		if err := o.AuthzWebhook.write(authz); err != nil {
			return err
		}
	}
	if o.AuthnWebhook != nil {
		if err := o.AuthnWebhook.write(filepath.Join(c.dir, "authn-webhook.kubeconfig")); err != nil {
			return err
		}
	}
	for name, content := range map[string][]byte{
		"ca.crt": c.ca.PEM, "server.crt": server.Cert, "server.key": server.Key, "sa.key": saKey, "sa.pub": saPub,
		"authorization.yaml": []byte(authorizationConfig(authz)),
	} {
		if err := os.WriteFile(filepath.Join(c.dir, name), content, 0o600); err != nil {
			return fmt.Errorf("writing the control plane's files: %w", err)
		}
	}
	return nil
}

// write writes the kubeconfig that kube-apiserver reads to reach a webhook.
func (w *Webhook) write(path string) error {
	user := &clientcmdapi.AuthInfo{ClientCertificateData: w.ClientCert, ClientKeyData: w.ClientKey}
	return writeKubeconfig(path, w.URL, w.CA, "webhook", user, "")
}

// writeKubeconfig writes a kubeconfig of one cluster and one user.
func writeKubeconfig(path, url string, ca []byte, name string, user *clientcmdapi.AuthInfo, namespace string) error {
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["cluster"] = &clientcmdapi.Cluster{Server: url, CertificateAuthorityData: ca}
	cfg.AuthInfos[name] = user
	cfg.Contexts["default"] = &clientcmdapi.Context{Cluster: "cluster", AuthInfo: name, Namespace: namespace}
	cfg.CurrentContext = "default"
	if err := clientcmd.WriteToFile(*cfg, path); err != nil {
		return fmt.Errorf("writing the kubeconfig %s: %w", path, err)
	}
	return nil
}

// isBindFailure says whether a process ended because another one had taken its port.
func isBindFailure(log string) bool {
	return strings.Contains(tailFile(log, 40), "address already in use")
}
