package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"k8s.io/client-go/rest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeconfig"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// largeCA is from which size on only those certificates of gitlab.caFile are given to people that verify GitLab: kubelogin
// gets them as an argument, and a bundle of all CAs of a system is too large for that.
const largeCA = 16 << 10

// kubeconfigs makes the kubeconfig of one cluster for people. It may be used by many at the same time.
type kubeconfigs struct {
	c        kubeconfig.Cluster // without CAs and namespaces
	publicCA func() ([]byte, error)
	gitlabCA func() ([]byte, error)
	needed   *neededCA // of a large gitlabCA
}

// clusterName is what people are told that the cluster is called; "" if the configuration does not say it.
func clusterName(cfg *config.Config) string {
	if cfg.Cluster.Name == "" && cfg.Cluster.PublicURL != "" {
		return kubeconfig.NameOf(cfg.Cluster.PublicURL)
	}
	return cfg.Cluster.Name
}

// newKubeconfigs reads no more than it has to: with cluster.publicURL and cluster.publicCAFile, no way to the cluster is needed.
func newKubeconfigs(cfg *config.Config) (*kubeconfigs, error) {
	rc, url := &rest.Config{}, cfg.Cluster.PublicURL
	if url == "" || cfg.Cluster.PublicCAFile == "" {
		var err error
		if rc, err = restConfig(cfg.Cluster.Kubeconfig); err != nil {
			return nil, fmt.Errorf("looking for the API server's address and CA, because cluster.publicURL or cluster.publicCAFile is not set: %w", err)
		}
	}
	if url == "" {
		if cfg.Cluster.Kubeconfig == "" {
			return nil, errors.New("cluster.publicURL is not set, and laptops don't reach the address that pods use: set it to the URL of kube-apiserver as laptops reach it")
		}
		url = rc.Host
	}
	name := cfg.Cluster.Name
	if name == "" {
		name = kubeconfig.NameOf(url)
	}
	server := cfg.Web.URL
	if cfg.Listeners.Web.Address == "" {
		server = ""
	}
	return &kubeconfigs{
		c:        kubeconfig.Cluster{Name: name, URL: url, Issuer: cfg.GitLab.URL, ClientID: cfg.Authn.ClientIDs[0], Server: server},
		publicCA: publicCA(cfg.Cluster, rc), gitlabCA: gitlabCA(cfg.GitLab), needed: newNeededCA(ci.Needed),
	}, nil
}

// cluster returns what a file says of the cluster now, with contexts for these namespaces, the first one the current.
func (k *kubeconfigs) cluster(ctx context.Context, namespaces []string) (c kubeconfig.Cluster, err error) {
	c = k.c
	c.Namespaces = slices.Clone(namespaces)
	if c.CA, err = k.publicCA(); err != nil {
		return c, err
	}
	if c.IssuerCA, err = k.gitlabCA(); err != nil || len(c.IssuerCA) <= largeCA {
		return c, err
	}
	if c.IssuerCA, err = k.needed.of(ctx, c.Issuer, c.IssuerCA); err != nil {
		return c, fmt.Errorf("finding out which certificates of gitlab.caFile people need, because it has more than %d bytes: %w: set gitlab.caFile to a file with the CA of GitLab's certificate alone (%w)",
			largeCA, err, kubeconfig.ErrNotNow)
	}
	return c, nil
}

// file returns the file for one person, or, without namespaces, for everybody.
func (k *kubeconfigs) file(ctx context.Context, v kubeconfig.Variant, namespaces []string) ([]byte, error) {
	c, err := k.cluster(ctx, namespaces)
	if err != nil {
		return nil, err
	}
	return kubeconfig.File([]kubeconfig.Cluster{c}, v)
}

// Kubeconfig prints the file with which people reach the clusters of these configurations. namespaces get a context each:
// those of one cluster by name alone, those of several as CLUSTER/NAMESPACE.
func Kubeconfig(ctx context.Context, cfgs []*config.Config, variant string, namespaces []string, log *slog.Logger, out io.Writer) error {
	v, err := kubeconfig.ParseVariant(variant)
	if err != nil {
		return fmt.Errorf("--variant: %w", err)
	}
	var makers []*kubeconfigs
	names := map[string]bool{}
	for _, cfg := range cfgs {
		k, err := newKubeconfigs(cfg)
		if err != nil {
			return err
		}
		if cfg.Cluster.PublicURL == "" {
			log.Warn("cluster.publicURL is not set: people get the address of cluster.kubeconfig", "url", k.c.URL)
		}
		if len(cfg.Authn.ClientIDs) > 1 {
			log.Warn("people log in by the first of authn.clientIDs", "clientId", k.c.ClientID)
		}
		makers, names[k.c.Name] = append(makers, k), true
	}
	byCluster := map[string][]string{}
	for _, n := range namespaces {
		cluster, ns, named := strings.Cut(n, "/")
		switch {
		case named && names[cluster]:
			byCluster[cluster] = append(byCluster[cluster], ns)
		case !named && len(makers) == 1:
			byCluster[makers[0].c.Name] = append(byCluster[makers[0].c.Name], n)
		case named:
			return fmt.Errorf("-n %s: no configuration has cluster.name %q", n, cluster)
		default:
			return fmt.Errorf("-n %s: of several clusters, say which one: CLUSTER/%s", n, n)
		}
	}
	var clusters []kubeconfig.Cluster
	for _, k := range makers {
		c, err := k.cluster(ctx, byCluster[k.c.Name])
		if err != nil {
			return err
		}
		clusters = append(clusters, c)
	}
	text, err := kubeconfig.File(clusters, v)
	if err != nil {
		return err
	}
	_, err = out.Write(text)
	return err
}
