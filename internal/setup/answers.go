// Package setup makes the folder from which a cluster admin installs: configuration, certificates, what kube-apiserver reads,
// and NEXT.md with the commands in order. It overwrites nothing and changes neither GitLab nor the cluster.
package setup

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

// Ways of running kube-apiserver, and the integrator.
const (
	Kubeadm   = "kubeadm"
	K3s       = "k3s"
	RKE2      = "rke2"
	StaticPod = "static-pod"
	Flags     = "flags"

	Systemd   = "systemd"
	InCluster = "in-cluster"
)

// Ways of installing the integrator's pods, and where the certificates between it and kube-apiserver come from.
const (
	Manifests = "manifests"
	Chart     = "chart"

	Own         = "own"
	CertManager = "cert-manager"
)

// Distributions, Runs, Installs and Certificates are what Answers may name.
var (
	Distributions = []string{Kubeadm, K3s, RKE2, StaticPod, Flags}
	Runs          = []string{Systemd, InCluster}
	Installs      = []string{Manifests, Chart}
	Certificates  = []string{Own, CertManager}
)

// Answers are what has to be known. The keys of an answers file are the names of the flags.
type Answers struct {
	// GitLab is its URL, as it writes it into its tokens.
	GitLab string `json:"gitlab"`
	// GitLabCAFile is a PEM file; empty: the system's CAs.
	GitLabCAFile string `json:"gitlab-ca-file,omitempty"`
	// ClientIDs are the application ids of kubelogin.
	ClientIDs []string `json:"client-id"`
	// ReadTokenFile and WriteTokenFile hold the tokens; without the second, CI gets no variables.
	ReadTokenFile  string `json:"read-token-file"`
	WriteTokenFile string `json:"write-token-file,omitempty"`
	Distribution   string `json:"distribution"`
	Run            string `json:"run"`
	// Install is how pods get into the cluster, Certificates who makes theirs and kube-apiserver's.
	Install      string `json:"install,omitempty"`
	Certificates string `json:"certificates,omitempty"`
	// HooksIssuer is a ClusterIssuer of cert-manager that GitLab trusts; empty: an authority of our own.
	HooksIssuer string `json:"hooks-issuer,omitempty"`
	// Kubeconfig is a cluster administrator's, for a look at the cluster; empty: as kubectl finds it.
	Kubeconfig string `json:"kubeconfig,omitempty"`
	// APIServerURL is kube-apiserver as CI jobs and laptops reach it; empty: that of the kubeconfig.
	APIServerURL string `json:"apiserver-url,omitempty"`
	// WebhookAddress is host:port at which kube-apiserver reaches us: 127.0.0.1:8443, or the Service's IP.
	WebhookAddress string `json:"webhook-address,omitempty"`
	// HooksURL is where GitLab sends its system hooks; empty: none.
	HooksURL      string `json:"hooks-url,omitempty"`
	HooksListen   string `json:"hooks-listen,omitempty"`
	MetricsListen string `json:"metrics-listen,omitempty"`
	Image         string `json:"image,omitempty"`
	// ConfigDir is the integrator's folder, APIServerDir kube-apiserver's, on the machines where they run.
	ConfigDir    string `json:"config-dir,omitempty"`
	APIServerDir string `json:"apiserver-dir,omitempty"`
}

// LoadAnswers reads an answers file, strictly.
func LoadAnswers(file string) (Answers, error) {
	var a Answers
	data, err := os.ReadFile(file)
	if err != nil {
		return a, fmt.Errorf("reading the answers: %w", err)
	}
	if err := yaml.UnmarshalStrict(data, &a); err != nil {
		return a, fmt.Errorf("reading the answers in %s: %w", file, err)
	}
	return a, nil
}

// inPod is where deploy/optional/deployment.yaml mounts the files.
const inPod = "/etc/gl-k8s-integrator"

// The ports of the pods and of their Service are fixed.
const (
	hooksInPod   = "0.0.0.0:8444"
	metricsInPod = "0.0.0.0:9090"
)

// defaults fills in what may be left out.
func (a *Answers) defaults() {
	if abs, err := filepath.Abs(a.Kubeconfig); err == nil && a.Kubeconfig != "" {
		a.Kubeconfig = abs // later commands run in the folder
	}
	a.GitLab = strings.TrimRight(a.GitLab, "/")
	a.APIServerDir = cmp.Or(a.APIServerDir, "/etc/kubernetes/gl-k8s-integrator")
	a.ConfigDir = cmp.Or(a.ConfigDir, inPod)
	a.HooksListen = cmp.Or(a.HooksListen, hooksInPod)
	a.Install = cmp.Or(a.Install, Manifests)
	a.Certificates = cmp.Or(a.Certificates, Own)
	if a.Run == InCluster {
		a.MetricsListen = cmp.Or(a.MetricsListen, metricsInPod)
		return
	}
	a.MetricsListen = cmp.Or(a.MetricsListen, "127.0.0.1:9090")
	a.WebhookAddress = cmp.Or(a.WebhookAddress, "127.0.0.1:8443")
}

// plainPath is what needs no quotes in a shell, in YAML and in a unit of systemd.
var plainPath = regexp.MustCompile(`^/[A-Za-z0-9._/-]*$`)

// check returns everything that is missing or wrong, by the flag that says it.
func (a *Answers) check() error {
	var errs []error
	fault := func(bad bool, flag, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf("--%s: "+format, append([]any{flag}, args...)...))
		}
	}
	fault(a.GitLab == "", "gitlab", "is missing: the URL of GitLab, https://gitlab.example.com")
	fault(len(a.ClientIDs) == 0, "client-id", "is missing: the id of the application in GitLab that kubelogin uses (admin area, Applications: scope openid, not confidential)")
	fault(a.ReadTokenFile == "", "read-token-file", "is missing: a file with an access token of an administrator, scope read_api")
	fault(!slices.Contains(Distributions, a.Distribution), "distribution", "want one of %s, not %q", strings.Join(Distributions, ", "), a.Distribution)
	fault(!slices.Contains(Runs, a.Run), "run", "want one of %s, not %q", strings.Join(Runs, ", "), a.Run)
	fault(!slices.Contains(Installs, a.Install), "install", "want one of %s, not %q", strings.Join(Installs, ", "), a.Install)
	fault(!slices.Contains(Certificates, a.Certificates), "certificates", "want one of %s, not %q", strings.Join(Certificates, ", "), a.Certificates)
	fault(a.Install == Chart && a.Run == Systemd, "install", "a chart makes pods: that goes with --run %s", InCluster)
	fault(a.Certificates == CertManager && a.Run == Systemd, "certificates", "cert-manager makes Secrets for pods: that goes with --run %s", InCluster)
	fault(a.HooksIssuer != "" && (a.Certificates != CertManager || a.HooksURL == ""), "hooks-issuer", "goes with --certificates %s and --hooks-url", CertManager)
	fault(a.HooksIssuer != "" && len(validation.IsDNS1123Subdomain(a.HooksIssuer)) > 0, "hooks-issuer", "want the name of a ClusterIssuer, not %q", a.HooksIssuer)
	fault(a.HooksIssuer != "" && net.ParseIP(a.hooksHost()) != nil, "hooks-url", "an issuer that GitLab trusts certifies names: want one instead of %s", a.hooksHost())
	if a.Run == InCluster {
		fault(a.HooksListen != hooksInPod, "hooks-listen", "is %s in a pod", hooksInPod)
		fault(a.MetricsListen != metricsInPod, "metrics-listen", "is %s in a pod", metricsInPod)
		fault(!plainURL.MatchString(a.Image), "image", "is missing or no name: the image that you have built, with the registry of your cluster")
		fault(a.APIServerURL == "", "apiserver-url", "is missing: kube-apiserver as CI jobs and laptops reach it, which a pod does not know")
		fault(a.ConfigDir != inPod, "config-dir", "is %s in a pod", inPod)
		host, port, _ := net.SplitHostPort(a.WebhookAddress)
		fault(net.ParseIP(host) == nil || port != "8443", "webhook-address", "want the IP of the Service with port 8443, a free one of the cluster's range, not %q", a.WebhookAddress)
	} else if _, _, err := net.SplitHostPort(a.WebhookAddress); err != nil {
		fault(true, "webhook-address", "want host:port, not %q", a.WebhookAddress)
	}
	for flag, dir := range map[string]string{"config-dir": a.ConfigDir, "apiserver-dir": a.APIServerDir} {
		fault(!plainPath.MatchString(dir) || path.Clean(dir) != dir || dir == "/", flag, "want an absolute path of letters, digits and . _ - /, not %q", dir)
	}
	if a.HooksURL != "" {
		u, err := url.Parse(a.HooksURL)
		fault(err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || !plainURL.MatchString(a.HooksURL),
			"hooks-url", "want https://HOST[:PORT]/hooks/gitlab")
	}
	return errors.Join(errs...)
}

// plainURL is a URL, or the name of an image, that needs no quotes in a shell.
var plainURL = regexp.MustCompile(`^[A-Za-z0-9.:/_@\[\]-]+$`)

// ownHooks says whether an authority of ours signs the certificate for GitLab's hooks.
func (a *Answers) ownHooks() bool { return a.HooksURL != "" && a.HooksIssuer == "" }

// hooksHost is the host that GitLab connects to, without a port.
func (a *Answers) hooksHost() string {
	u, err := url.Parse(a.HooksURL)
	if err != nil {
		return ""
	}
	return u.Hostname()
}
