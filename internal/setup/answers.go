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
	"regexp"
	"slices"
	"strings"

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

// Distributions and Runs are what Answers may name.
var (
	Distributions = []string{Kubeadm, K3s, RKE2, StaticPod, Flags}
	Runs          = []string{Systemd, InCluster}
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

// defaults fills in what may be left out.
func (a *Answers) defaults() {
	a.GitLab = strings.TrimRight(a.GitLab, "/")
	a.APIServerDir = cmp.Or(a.APIServerDir, "/etc/kubernetes/gl-k8s-integrator")
	a.ConfigDir = cmp.Or(a.ConfigDir, inPod)
	a.HooksListen = cmp.Or(a.HooksListen, "0.0.0.0:8444")
	if a.Run == InCluster {
		a.MetricsListen = cmp.Or(a.MetricsListen, "0.0.0.0:9090")
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
	if a.Run == InCluster {
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

// hooksHost is the host that GitLab connects to, without a port.
func (a *Answers) hooksHost() string {
	u, err := url.Parse(a.HooksURL)
	if err != nil {
		return ""
	}
	return u.Hostname()
}
