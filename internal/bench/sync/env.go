package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
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
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/freeport"
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

// startCluster starts one with the manifests in a folder, or without one those of this build.
func startCluster(ctx context.Context, dir, manifests string, out io.Writer) (_ *cluster, err error) {
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
	if manifests == "" {
		err = deploy.Apply(ctx, c.AdminConfig())
	} else {
		err = c.apply(ctx, manifests)
	}
	if err != nil {
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

// apply applies the manifests of another build: a program refuses a cluster whose fence is not its own.
func (c *cluster) apply(ctx context.Context, manifests string) error {
	cmd := exec.CommandContext(ctx, c.Kubectl(), "--kubeconfig", c.AdminKubeconfig(), "apply", "--server-side", "-f", manifests)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("applying %s: %w\n%s", manifests, err, out)
	}
	return nil
}

// asIntegrator is a client configuration without client-side throttling.
func (c *cluster) asIntegrator() *rest.Config {
	return &rest.Config{Host: c.URL(), QPS: -1, BearerToken: c.token, TLSClientConfig: rest.TLSClientConfig{CAData: c.CA()}}
}

// serve is the integrator as a process, which can be started several times, one after the other.
type serve struct {
	binary, dir string
	cmd         *exec.Cmd     // nil before the first start
	ended       chan struct{} // closed when cmd has ended
	logFile     string
	peak        int // MiB, of the processes that have ended

	webhooks, hooks, metrics string // URLs
	ca                       []byte // of webhooks
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

// newer are lines of configTemplate that older builds refuse, by the name in their refusal.
var newer = map[string]string{"listeners.drainDelay": "  drainDelay: 1ms\n"}

// setup is what differs between the runs of the integrator.
type setup struct {
	binary, dir string
	user        string // the administrator whose tokens it has; default root
	interval    time.Duration
	concurrency int
	delivery    string // of CI credentials
	extra       string // further lines of rbacsync
}

const hookSecret = "bench-hook-secret"

// startServe starts the integrator for a GitLab and a cluster and registers its hook.
func startServe(ctx context.Context, g *gitlabsim.Server, c *cluster, s setup) (*serve, error) {
	p, err := prepare(ctx, g, c, s)
	if err != nil {
		return nil, err
	}
	return p, p.start(ctx)
}

// prepare writes the files that the integrator reads and registers its hook.
func prepare(ctx context.Context, g *gitlabsim.Server, c *cluster, s setup) (*serve, error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	var ports [3]string
	for i := range ports {
		var err error
		if ports[i], err = freeport.Address(ctx); err != nil {
			return nil, err
		}
	}
	authority, err := localcert.NewAuthority("bench")
	if err != nil {
		return nil, err
	}
	pair, err := authority.Server("webhooks")
	if err != nil {
		return nil, err
	}
	user := cmp.Or(s.user, "root")
	config := fmt.Sprintf(configTemplate, g.URL(), s.dir, ports[0], ports[1], ports[2], s.interval, s.concurrency, s.extra, s.delivery)
	for name, content := range map[string]string{
		"tls.crt": string(pair.Cert), "tls.key": string(pair.Key), "gitlab-ca.crt": string(g.CA()), "hook-secret": hookSecret,
		"read-token": g.TokenFor(user, "read_api"), "write-token": g.TokenFor(user, "api"),
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	if err := c.WriteKubeconfig(filepath.Join(s.dir, "integrator.kubeconfig"), controlplane.KubeconfigUser{Name: "integrator", Token: c.token}, ""); err != nil {
		return nil, err
	}
	p := &serve{
		binary: s.binary, dir: s.dir, logFile: filepath.Join(s.dir, "serve.log"), ca: authority.PEM,
		webhooks: "https://" + ports[0], hooks: "http://" + ports[1] + "/hooks/gitlab", metrics: "http://" + ports[2] + "/metrics",
	}
	if err := p.configure(ctx, config); err != nil {
		return nil, err
	}
	_, err = g.AddSystemHook(gitlabsim.SeedHook{URL: p.hooks, Token: hookSecret})
	return p, err
}

// configure writes the configuration, without what this build does not know.
func (p *serve) configure(ctx context.Context, config string) error {
	file := filepath.Join(p.dir, "config.yaml")
	for {
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			return err
		}
		out, err := exec.CommandContext(ctx, p.binary, "check-config", file).CombinedOutput()
		if err == nil {
			return nil
		}
		fits := config
		for name, lines := range newer {
			if strings.Contains(string(out), fmt.Sprintf("unknown field %q", name)) {
				fits = strings.Replace(fits, lines, "", 1)
			}
		}
		if fits == config {
			return fmt.Errorf("%s refuses the configuration: %w\n%s", p.binary, err, out)
		}
		config = fits
	}
}

// start starts the process. It is stopped by stop, or by the end of ctx.
func (p *serve) start(ctx context.Context) error {
	log, err := os.OpenFile(p.logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, p.binary, "serve", "--config", filepath.Join(p.dir, "config.yaml"))
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, processAttr()
	cmd.Cancel = func() error {
		return errors.Join(cmd.Process.Signal(syscall.SIGCONT), cmd.Process.Signal(syscall.SIGTERM))
	}
	cmd.WaitDelay = 20 * time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // what it has to say is in its log
		close(ended)
	}()
	p.cmd, p.ended = cmd, ended
	return nil
}

// alive returns an error, with the end of its log, when the process has ended.
func (p *serve) alive() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s has ended; its log ends with:\n%s", p.binary, p.lastWords())
	default:
		return nil
	}
}

func (p *serve) lastWords() []byte {
	log, _ := os.ReadFile(p.logFile)
	return log[max(0, len(log)-2000):]
}

// stop ends the process, if it runs, and waits for its end.
func (p *serve) stop() {
	if p.cmd == nil {
		return
	}
	if now, err := p.peakMiB(); err == nil {
		p.peak = now
	}
	_ = p.cmd.Cancel()
	patience := time.AfterFunc(p.cmd.WaitDelay, func() { _ = p.cmd.Process.Kill() })
	<-p.ended
	patience.Stop()
	p.cmd = nil
}

// freeze stops the process where it is, so that it leaves the machine to another one; thaw lets it go on.
func (p *serve) freeze() error { return p.cmd.Process.Signal(syscall.SIGSTOP) }
func (p *serve) thaw() error   { return p.cmd.Process.Signal(syscall.SIGCONT) }

var peak = regexp.MustCompile(`(?m)^VmHWM:\s+(\d+) kB`)

// peakMiB returns the highest resident memory of the process so far, or of those before it.
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
	return max(kib/1024, p.peak), err
}

// fullRounds returns how many full rounds the integrator has finished, and how many failed.
func (p *serve) fullRounds(ctx context.Context) (ok, failed int) {
	body, err := p.scrape(ctx)
	if err != nil {
		return 0, 0
	}
	for line := range strings.SplitSeq(body, "\n") {
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

// scrape reads the metrics.
func (p *serve) scrape(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.metrics, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// logLines counts the lines of the integrator's log that hold a text.
func (p *serve) logLines(text string) int {
	data, err := os.ReadFile(p.logFile)
	if err != nil {
		return 0
	}
	return strings.Count(string(data), text)
}
