package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
)

// cluster is a fresh control plane with fence and cage, and what is needed to act in it as the integrator.
type cluster struct {
	*controlplane.Cluster
	kube  kubernetes.Interface // as administrator
	token string               // of the integrator's ServiceAccount
	audit *audit
}

func startCluster(ctx context.Context, dir string, out io.Writer) (_ *cluster, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	policy := filepath.Join(dir, "audit-policy.yaml")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		return nil, err
	}
	c := &cluster{audit: &audit{path: filepath.Join(dir, "audit.log")}}
	c.Cluster, err = controlplane.Start(ctx, controlplane.Options{
		Dir: filepath.Join(dir, "state"), LogDir: filepath.Join(dir, "log"), Progress: out,
		APIServerFlags: []string{
			"--audit-policy-file=" + policy, "--audit-log-path=" + c.audit.path, "--audit-log-mode=batch",
			"--audit-log-maxsize=10000", "--audit-log-batch-max-size=1000", "--audit-log-batch-max-wait=200ms", "--audit-log-batch-buffer-size=100000",
		},
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	if c.kube, err = kubernetes.NewForConfig(c.AdminConfig()); err != nil {
		return nil, err
	}
	if err := deploy.Apply(ctx, c.AdminConfig()); err != nil {
		return nil, err
	}
	year := int64((8760 * time.Hour).Seconds())
	tr, err := c.kube.CoreV1().ServiceAccounts(deploy.Namespace).CreateToken(ctx, deploy.ServiceAccount,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &year}}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("requesting the integrator's token: %w", err)
	}
	c.token = tr.Status.Token
	return c, nil
}

// asIntegrator is a client configuration without client-side throttling.
func (c *cluster) asIntegrator() *rest.Config {
	return &rest.Config{Host: c.URL(), QPS: -1, BearerToken: c.token, TLSClientConfig: rest.TLSClientConfig{CAData: c.CA()}}
}

// serve is the integrator as a process.
type serve struct {
	cmd     *exec.Cmd
	logFile string
	metrics string // URL
}

// configTemplate is an administrator's configuration with enforce and without personal namespaces.
const configTemplate = `apiVersion: gl-k8s-integrator/v1alpha1
kind: Config
gitlab:
  url: %[1]s
  caFile: %[2]s/gitlab-ca.crt
  readTokenFile: %[2]s/read-token
  writeTokenFile: %[2]s/write-token
cluster:
  kubeconfig: %[2]s/integrator.kubeconfig
listeners:
  webhooks: {address: "%[3]s", certFile: %[2]s/tls.crt, keyFile: %[2]s/tls.key}
  hooks: {address: "%[4]s", secretFile: %[2]s/hook-secret}
  metrics: {address: "%[5]s"}
  drainDelay: 1ms
authn:
  clientIDs: [bench]
authz:
  kinds: [group, project]
rbacsync:
  mode: enforce
  interval: %[6]s
  concurrency: %[7]d
%[8]sci:
  delivery: %[9]s
`

// setup is what differs between the runs of the integrator.
type setup struct {
	binary, dir string
	interval    time.Duration
	concurrency int
	delivery    string // of CI credentials
	extra       string // further lines of rbacsync
}

// startServe starts the integrator for a GitLab and a cluster and registers its hook.
func startServe(ctx context.Context, g *gitlabsim.Server, c *cluster, s setup) (*serve, error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	var ports [3]string
	for i := range ports {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports[i] = l.Addr().String()
	}
	authority, err := localcert.NewAuthority("bench")
	if err != nil {
		return nil, err
	}
	pair, err := authority.Server("webhooks")
	if err != nil {
		return nil, err
	}
	const hookSecret = "bench-hook-secret"
	for name, content := range map[string]string{
		"tls.crt": string(pair.Cert), "tls.key": string(pair.Key), "gitlab-ca.crt": string(g.CA()), "hook-secret": hookSecret,
		"read-token": g.TokenFor("root", "read_api"), "write-token": g.TokenFor("root", "api"),
		"config.yaml": fmt.Sprintf(configTemplate, g.URL(), s.dir, ports[0], ports[1], ports[2], s.interval, s.concurrency, s.extra, s.delivery),
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	if err := c.WriteKubeconfig(filepath.Join(s.dir, "integrator.kubeconfig"), controlplane.KubeconfigUser{Name: "integrator", Token: c.token}, ""); err != nil {
		return nil, err
	}
	if _, err := g.AddSystemHook(gitlabsim.SeedHook{URL: "http://" + ports[1] + "/hooks/gitlab", Token: hookSecret}); err != nil {
		return nil, err
	}
	p := &serve{logFile: filepath.Join(s.dir, "serve.log"), metrics: "http://" + ports[2] + "/metrics"}
	log, err := os.Create(p.logFile)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd = exec.CommandContext(ctx, s.binary, "serve", "--config", filepath.Join(s.dir, "config.yaml"))
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = 20 * time.Second
	return p, p.cmd.Start()
}

func (p *serve) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait() // ended by our own signal
}

var peak = regexp.MustCompile(`(?m)^VmHWM:\s+(\d+) kB`)

// peakMiB returns the highest resident memory of the process so far.
func (p *serve) peakMiB() (int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	m := peak.FindSubmatch(data)
	if m == nil {
		return 0, errors.New("no VmHWM in /proc/PID/status")
	}
	kib, err := strconv.Atoi(string(m[1]))
	return kib / 1024, err
}

// fullRounds returns how many full rounds the integrator has finished, and how many failed.
func (p *serve) fullRounds(ctx context.Context) (ok, failed int) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.metrics, nil)
	if err != nil {
		return 0, 0
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, 0
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, 0
	}
	for line := range strings.SplitSeq(string(body), "\n") {
		if !strings.HasPrefix(line, "gl_k8s_integrator_rounds_total{") || !strings.Contains(line, `read="full"`) {
			continue
		}
		n, _ := strconv.Atoi(line[strings.LastIndexByte(line, ' ')+1:])
		if strings.Contains(line, `result="ok"`) {
			ok += n
		} else {
			failed += n
		}
	}
	return ok, failed
}

// logLines counts the lines of the integrator's log that hold a text.
func (p *serve) logLines(text string) int {
	data, err := os.ReadFile(p.logFile)
	if err != nil {
		return 0
	}
	return strings.Count(string(data), text)
}
