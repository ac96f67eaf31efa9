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
	s := doctor.Sources{
		Config: cfg, AuthnKubeconfig: e.AuthnKubeconfig, AuthzConfig: e.AuthzConfig, APIServerFlags: e.APIServerFlags, Metrics: e.Metrics, Now: time.Now, Files: doctor.CertificateFiles(cfg),
		ReadToken: secretFile(cfg.GitLab.ReadTokenFile, "gitlab.readTokenFile"), WriteToken: secretFile(cfg.GitLab.WriteTokenFile, "gitlab.writeTokenFile"),
	}
	metricsSources(cfg.Listeners.Metrics, &s)
	if e.AuthnConfig != "" {
		if s.WantAuthn, err = wantedAuthentication(cfg); err != nil {
			return doctor.Judge(&doctor.Facts{Now: time.Now(), ConfigFault: err.Error()})
		}
		s.AuthnConfig = e.AuthnConfig
	}
	if e.TestHook {
		s.TestHook = func(ctx context.Context, id int64) error { return testHook(ctx, cfg, s.GitLab, id) }
	}
	var blind []doctor.Blind
	if s.GitLab, err = gitlabClient(cfg.GitLab); err != nil {
		s.GitLab = nil
		blind = append(blind, doctor.Blind{What: "GitLab", Why: err.Error(), Fix: "repair gitlab.caFile"})
	}
	if err := clusterSources(cfg, e.Kubeconfig, &s); err != nil {
		s.Kube = nil
		blind = append(blind, doctor.Blind{What: "the cluster", Why: err.Error(), Fix: "--kubeconfig FILE"})
	}
	facts := doctor.Collect(ctx, s)
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

// clusterSources adds the clients of the cluster. With an administrator's kubeconfig, what the integrator may do is asked in
// its name.
func clusterSources(cfg *config.Config, kubeconfig string, s *doctor.Sources) error {
	used := kubeconfig
	if used == "" {
		used = cfg.Cluster.Kubeconfig
	}
	if used != "" {
		if _, err := os.Stat(used); err != nil {
			return err
		}
	}
	rc, err := restConfig(used)
	if err != nil {
		return err
	}
	rc.UserAgent, rc.QPS, rc.Timeout = "gl-k8s-integrator", -1, 30*time.Second
	if err := rest.LoadTLSFiles(rc); err != nil {
		return err
	}
	if s.Kube, err = kubernetes.NewForConfig(rc); err != nil {
		return err
	}
	s.KubeConfig = rc
	policy, err := cfg.Authz.Policy()
	if err != nil {
		return err
	}
	s.RoleNames = append(policy.ClusterRoles(), kubename.CIClusterRole)
	if kubeconfig == "" {
		return nil
	}
	as := rest.CopyConfig(rc)
	as.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + deploy.Namespace + ":" + deploy.ServiceAccount,
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + deploy.Namespace, "system:authenticated"},
	}
	s.Own, err = kubernetes.NewForConfig(as)
	return err
}

// metricsSources adds how /metrics is read: at an integrator on this machine, or in this pod, if no other is named. Its certificate
// may be for other names, so there it has to be the one in the file itself.
func metricsSources(l config.MetricsListener, s *doctor.Sources) {
	if l.TokenFile != "" {
		s.MetricsToken = secretFile(l.TokenFile, "listeners.metrics.tokenFile")
	}
	trust := &tls.Config{MinVersion: tls.VersionTLS12}
	s.MetricsClient = &http.Client{
		Transport: &http.Transport{TLSClientConfig: trust, DisableKeepAlives: true},
		// The token is for this address alone: a redirect is an answer like any other that is not 200.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if len(s.Metrics) > 0 {
		if ca, err := os.ReadFile(l.CertFile); err == nil { // one of our own signing
			if trust.RootCAs, err = x509.SystemCertPool(); err != nil {
				trust.RootCAs = x509.NewCertPool()
			}
			trust.RootCAs.AppendCertsFromPEM(ca)
		}
		return
	}
	host, port, err := net.SplitHostPort(l.Address)
	if err != nil {
		return
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
	s.Metrics = []string{scheme + "://" + net.JoinHostPort(host, port) + "/metrics"}
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
