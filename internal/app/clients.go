package app

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
)

// gitlabTimeout bounds one request to GitLab; GitLab's own limit for a GraphQL query is 30 s.
const gitlabTimeout = 40 * time.Second

// clients are the connections that all commands need. Making them does no network I/O.
type clients struct {
	kube       kubernetes.Interface
	watch      kubernetes.Interface // the same without a timeout, for requests that stay open
	dynamic    dynamic.Interface    // for objects from templates
	follow     dynamic.Interface    // the same without a timeout
	metadata   metadata.Interface   // for objects of which nothing else is needed; without a timeout
	gitlabHTTP *http.Client
	publicURL  string                 // of kube-apiserver, as CI jobs reach it
	publicCA   func() ([]byte, error) // PEM, as it is now
	shown      func() ([]byte, error) // PEM: the client certificate for kube-apiserver; nothing where a token is used
}

func connect(cfg *config.Config) (*clients, error) {
	rc, err := restConfig(cfg.Cluster.Kubeconfig)
	if err != nil {
		return nil, err
	}
	rc.UserAgent = "gl-k8s-integrator"
	rc.QPS = -1                                            // no limit here: the engine bounds how many writes are under way
	rc.ContentType = "application/vnd.kubernetes.protobuf" // a third of the size and time of JSON
	rc.Timeout = 30 * time.Second
	kube, err := kubernetes.NewForConfig(rc)
	if err != nil {
		return nil, fmt.Errorf("making the Kubernetes client: %w", err)
	}
	objects, err := dynamic.NewForConfig(rc)
	if err != nil {
		return nil, fmt.Errorf("making the Kubernetes client: %w", err)
	}
	rc.Timeout = 0
	watch, err := kubernetes.NewForConfig(rc)
	if err != nil {
		return nil, fmt.Errorf("making the Kubernetes client: %w", err)
	}
	follow, err := dynamic.NewForConfig(rc)
	if err != nil {
		return nil, fmt.Errorf("making the Kubernetes client: %w", err)
	}
	meta, err := metadata.NewForConfig(rc)
	if err != nil {
		return nil, fmt.Errorf("making the Kubernetes client: %w", err)
	}
	c := &clients{kube: kube, watch: watch, dynamic: objects, follow: follow, metadata: meta, publicURL: cfg.Cluster.PublicURL}
	if c.publicURL == "" {
		c.publicURL = rc.Host
	}
	c.publicCA = publicCA(cfg.Cluster, rc)
	c.shown = func() ([]byte, error) {
		if rc.CertFile == "" || len(rc.CertData) > 0 { // client-go's order
			return rc.CertData, nil
		}
		return os.ReadFile(rc.CertFile)
	}
	if c.gitlabHTTP, err = gitlabClient(cfg.GitLab); err != nil {
		return nil, err
	}
	return c, nil
}

// gitlabClient returns the HTTP client that trusts GitLab's certificate, also when its CA changes.
func gitlabClient(g config.GitLab) (*http.Client, error) {
	return gitlab.NewWatchingHTTPClient(gitlabCA(g), gitlabTimeout)
}

// gitlabCA returns what reads the CA of GitLab's certificate in PEM as it is now; nil where the system's are meant.
func gitlabCA(g config.GitLab) func() ([]byte, error) {
	if g.CAFile == "" {
		return func() ([]byte, error) { return nil, nil }
	}
	return func() ([]byte, error) {
		ca, err := os.ReadFile(g.CAFile)
		if err == nil {
			err = holdsCertificates(ca) // also a file that is just being written
		}
		if err != nil {
			return nil, fmt.Errorf("reading gitlab.caFile %s: %w: name the PEM file with the CA of GitLab's certificate, or leave it out to trust the system's", g.CAFile, err)
		}
		return ca, nil
	}
}

// restConfig reads the kubeconfig, or the pod's own ServiceAccount when there is none.
func restConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		rc, err := rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			return nil, errors.New("cluster.kubeconfig is empty and this is not a pod: name the kubeconfig of the cluster")
		}
		if err != nil {
			return nil, fmt.Errorf("reading the pod's ServiceAccount: %w", err)
		}
		return rc, nil
	}
	rc, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading cluster.kubeconfig %s: %w: name a file here that kubectl works with", kubeconfig, err)
	}
	return rc, nil
}

// publicCA returns what reads the CA that CI jobs verify kube-apiserver with: the configured one, else the kubeconfig's. It
// is nil, without an error, when the API server's certificate is signed by a CA that every system knows.
func publicCA(c config.Cluster, rc *rest.Config) func() ([]byte, error) {
	file := c.PublicCAFile
	switch {
	case file == "" && len(rc.CAData) > 0:
		return func() ([]byte, error) { return rc.CAData, nil }
	case file == "" && rc.CAFile == "":
		return func() ([]byte, error) { return nil, nil }
	case file == "":
		file = rc.CAFile
	}
	return func() ([]byte, error) {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading the CA of kube-apiserver: %w: name its PEM file in cluster.publicCAFile", err)
		}
		if !x509.NewCertPool().AppendCertsFromPEM(pem) { // also a file that is just being written
			return nil, fmt.Errorf("reading the CA of kube-apiserver: %s holds no certificate: name its PEM file in cluster.publicCAFile", file)
		}
		return pem, nil
	}
}

// secretFile returns a func that reads a secret from a file each time, so that a rotated one is noticed. The
// content never appears in the error.
func secretFile(path, what string) func() (string, error) {
	return func() (string, error) {
		data, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("reading %s: %w", what, err)
		}
		if err := holdsSecret(data); err != nil {
			return "", fmt.Errorf("reading %s %s: %w", what, path, err)
		}
		return strings.TrimSpace(string(data)), nil
	}
}
