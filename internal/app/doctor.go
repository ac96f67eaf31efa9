package app

import (
	"context"
	"net"
	"os"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/doctor"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// Examination is what `doctor` is asked for.
type Examination struct {
	ConfigFile      string
	Kubeconfig      string // an administrator's, in place of cluster.kubeconfig; "": that one
	NoFiles         bool   // the files that the configuration names are on another machine
	AuthnKubeconfig string // see doctor.Sources
	AuthzConfig     string
	Metrics         []string // default: listeners.metrics, where this machine can have it
}

// Doctor looks at everything that has to fit, and returns what does not. It changes nothing.
func Doctor(ctx context.Context, e Examination) doctor.Report {
	cfg, err := config.Load(e.ConfigFile)
	if err == nil {
		err = CheckFiles(cfg)
	}
	if err != nil {
		return doctor.Judge(&doctor.Facts{Now: time.Now(), ConfigFault: err.Error()})
	}
	s := doctor.Sources{
		Config: cfg, AuthnKubeconfig: e.AuthnKubeconfig, AuthzConfig: e.AuthzConfig, Metrics: e.Metrics, Now: time.Now, Files: doctor.CertificateFiles(cfg),
		ReadToken: secretFile(cfg.GitLab.ReadTokenFile, "gitlab.readTokenFile"), WriteToken: secretFile(cfg.GitLab.WriteTokenFile, "gitlab.writeTokenFile"),
	}
	if len(s.Metrics) == 0 {
		s.Metrics = ownMetrics(cfg.Listeners.Metrics.Address)
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

// ownMetrics returns the URL of an integrator on this machine, or in this pod.
func ownMetrics(address string) []string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return []string{"http://" + net.JoinHostPort(host, port) + "/metrics"}
}
