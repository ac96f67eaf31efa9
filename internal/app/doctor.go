package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn/structured"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/doctor"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// Examination is what `doctor` is asked for.
type Examination struct {
	ConfigFile      string
	Kubeconfig      string // an administrator's, in place of cluster.kubeconfig; "": that one
	NoFiles         bool   // the files that the configuration names are on another machine
	AuthnKubeconfig string // see doctor.Sources
	AuthzConfig     string
	APIServerFlags  string
	AuthnConfig     string
	TestHook        bool     // have GitLab send its sample event
	Metrics         []string // default: listeners.metrics, where this machine can have it
}

// Doctor looks at everything that has to fit, and returns what does not. It changes nothing, but for the event of TestHook.
func Doctor(ctx context.Context, e Examination) doctor.Report {
	cfg, err := config.Load(e.ConfigFile)
	if err == nil {
		err = CheckFiles(cfg)
	}
	if err != nil {
		return doctor.Judge(&doctor.Facts{Now: time.Now(), ConfigFault: err.Error()})
	}
	var wantAuthn []byte
	if e.AuthnConfig != "" {
		if wantAuthn, err = wantedAuthentication(cfg); err != nil {
			return doctor.Judge(&doctor.Facts{Now: time.Now(), ConfigFault: err.Error()})
		}
	}
	var blind []doctor.Blind
	client, err := gitlabClient(cfg.GitLab)
	if err != nil {
		client = nil
		blind = append(blind, doctor.Blind{What: "GitLab", Why: err.Error(), Fix: "repair gitlab.caFile"})
	}
	kube, err := newClusterAccess(cfg, e.Kubeconfig)
	if err != nil {
		blind = append(blind, doctor.Blind{What: "the cluster", Why: err.Error(), Fix: "--kubeconfig FILE"})
	}
	var hook func(context.Context, int64) error
	if e.TestHook {
		hook = func(ctx context.Context, id int64) error { return testHook(ctx, cfg, client, id) }
	}
	metrics := newMetricsAccess(cfg.Listeners.Metrics, e.Metrics)
	facts := doctor.Collect(ctx, doctor.Sources{
		Config: cfg, Now: time.Now, Files: doctor.CertificateFiles(cfg),
		GitLab: client, ReadToken: secretFile(cfg.GitLab.ReadTokenFile, "gitlab.readTokenFile"), WriteToken: secretFile(cfg.GitLab.WriteTokenFile, "gitlab.writeTokenFile"),
		Kube: kube.client, KubeConfig: kube.config, Own: kube.own, RoleNames: kube.roles,
		AuthnKubeconfig: e.AuthnKubeconfig, AuthzConfig: e.AuthzConfig, AuthnConfig: e.AuthnConfig, WantAuthn: wantAuthn, APIServerFlags: e.APIServerFlags,
		Metrics: metrics.urls, MetricsClient: metrics.client, MetricsToken: metrics.token, TestHook: hook,
	})
	facts.Blind = append(blind, facts.Blind...)
	if !e.NoFiles {
		facts.FileFaults = faults(CheckNamedFiles(cfg))
	}
	return doctor.Judge(facts)
}

// wantedAuthentication is what apiserver-config prints, without GitLab's CA: that may be another one of the same name.
func wantedAuthentication(cfg *config.Config) ([]byte, error) {
	return structured.Configuration(tokenRules(cfg), nil)
}

// testHook has GitLab send its sample event to a system hook.
func testHook(ctx context.Context, cfg *config.Config, client *http.Client, id int64) error {
	r, err := gitlab.NewHookRegistrar(gitlab.Options{
		BaseURL: cfg.GitLab.URL, Token: secretFile(cfg.GitLab.WriteTokenFile, "gitlab.writeTokenFile"), HTTPClient: client, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	return r.Test(ctx, id)
}

// faults returns the texts of joined errors.
func faults(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

// clusterAccess is how the cluster is asked, and about which ClusterRoles.
type clusterAccess struct {
	client kubernetes.Interface
	config *rest.Config         // of client
	own    kubernetes.Interface // see doctor.Sources
	roles  []string
}

// newClusterAccess returns the clients of the cluster, or nothing with an error. With an administrator's kubeconfig, what the
// integrator may do is asked in its name.
func newClusterAccess(cfg *config.Config, kubeconfig string) (clusterAccess, error) {
	used := kubeconfig
	if used == "" {
		used = cfg.Cluster.Kubeconfig
	}
	if used != "" {
		if _, err := os.Stat(used); err != nil {
			return clusterAccess{}, err
		}
	}
	rc, err := restConfig(used)
	if err != nil {
		return clusterAccess{}, err
	}
	rc.UserAgent, rc.QPS, rc.Timeout = "gl-k8s-integrator", -1, 30*time.Second
	if err := rest.LoadTLSFiles(rc); err != nil {
		return clusterAccess{}, err
	}
	client, err := kubernetes.NewForConfig(rc)
	if err != nil {
		return clusterAccess{}, err
	}
	policy, err := cfg.Authz.Policy()
	if err != nil {
		return clusterAccess{}, err
	}
	roles := append(policy.ClusterRoles(), kubename.CIClusterRole)
	if kubeconfig == "" {
		return clusterAccess{client: client, config: rc, roles: roles}, nil
	}
	as := rest.CopyConfig(rc)
	as.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + deploy.Namespace + ":" + deploy.ServiceAccount,
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + deploy.Namespace, "system:authenticated"},
	}
	own, err := kubernetes.NewForConfig(as)
	if err != nil {
		return clusterAccess{}, err
	}
	return clusterAccess{client: client, config: rc, own: own, roles: roles}, nil
}

// metricsAccess is how /metrics is read; see doctor.Sources.
type metricsAccess struct {
	urls   []string
	client *http.Client
	token  func() (string, error)
}

// newMetricsAccess returns how /metrics is read at the named URLs; without any, at an integrator on this machine or in this pod.
func newMetricsAccess(l config.MetricsListener, named []string) metricsAccess {
	urls, trust := ownMetrics(l)
	if len(named) > 0 {
		urls, trust = named, trustInNamed(l)
	}
	var token func() (string, error)
	if l.TokenFile != "" {
		token = secretFile(l.TokenFile, "listeners.metrics.tokenFile")
	}
	return metricsAccess{urls: urls, token: token, client: &http.Client{
		Transport: &http.Transport{TLSClientConfig: trust, DisableKeepAlives: true},
		// The token is for this address alone: a redirect is an answer like any other that is not 200.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// trustInNamed trusts the listener's certificate as well as the system's: it may be one of our own signing.
func trustInNamed(l config.MetricsListener) *tls.Config {
	trust := &tls.Config{MinVersion: tls.VersionTLS12}
	ca, err := os.ReadFile(l.CertFile)
	if err != nil {
		return trust
	}
	if trust.RootCAs, err = x509.SystemCertPool(); err != nil {
		trust.RootCAs = x509.NewCertPool()
	}
	trust.RootCAs.AppendCertsFromPEM(ca)
	return trust
}

// ownMetrics returns where /metrics is on this machine, nowhere if there is no such listener. Its certificate may be for other names, so
// it has to be the one in the file itself.
func ownMetrics(l config.MetricsListener) ([]string, *tls.Config) {
	trust := &tls.Config{MinVersion: tls.VersionTLS12}
	host, port, err := net.SplitHostPort(l.Address)
	if err != nil {
		return nil, trust
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	scheme := "http"
	if l.CertFile != "" {
		scheme = "https"
		trust.InsecureSkipVerify = true // in its place:
		trust.VerifyConnection = func(seen tls.ConnectionState) error { return sameCertificate(seen.PeerCertificates[0], l.CertFile) }
	}
	return []string{scheme + "://" + net.JoinHostPort(host, port) + "/metrics"}, trust
}

// sameCertificate returns nil if a PEM file begins with this certificate.
func sameCertificate(seen *x509.Certificate, file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if block, _ := pem.Decode(data); block == nil || !bytes.Equal(block.Bytes, seen.Raw) {
		return fmt.Errorf("what listens there shows another certificate than %s", file)
	}
	return nil
}
