package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/freeport"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
)

// Options are the settings of a Cluster; the zero value is a plain cluster in a temporary folder.
type Options struct {
	// Dir is the state folder, empty or not there yet. Without it a temporary one is used, which Stop removes.
	Dir string
	// LogDir gets etcd.log, kube-apiserver.log and kube-controller-manager.log; Dir/log without it.
	LogDir string
	// Progress is told what is going on; nil for nobody.
	Progress io.Writer
	// AuthnWebhook answers TokenReviews, AuthzWebhook (named "gitlab") SubjectAccessReviews about what RBAC did not
	// allow. Their servers may start after the API server.
	AuthnWebhook, AuthzWebhook *Webhook
	// AuthnVersion is the version of the TokenReviews: "v1" (default) or "v1beta1".
	AuthnVersion string
	// AuthnCacheTTL is how long kube-apiserver keeps a TokenReview's answer; 2 minutes, its own default, if zero.
	AuthnCacheTTL time.Duration
	// APIServerFlags are added to those of kube-apiserver.
	APIServerFlags []string
}

// Webhook is where kube-apiserver finds a webhook, and with which client certificate it goes there.
type Webhook struct {
	URL                   string
	CA                    []byte // PEM
	ClientCert, ClientKey []byte // PEM; none for a webhook that asks for no certificate
}

// KubeconfigUser is how the user of a kubeconfig proves who they are; the zero value is an anonymous one.
type KubeconfigUser struct {
	Name                  string // of the entry in the file; "user" if empty
	Token, TokenFile      string
	ClientCert, ClientKey []byte // PEM
	Exec                  *clientcmdapi.ExecConfig
}

// Cluster is a running control plane. Its methods may be called from several goroutines.
type Cluster struct {
	dir     string
	tempDir bool
	logDir  string
	bins    Binaries
	ca      *localcert.Authority
	admin   localcert.Pair
	manager localcert.Pair
	port    int
	flags   []string // of kube-apiserver

	procs    []*process // in the order of their start
	watchdog *watchdog  // nil where the kernel does its work
	stopOnce sync.Once
	stopErr  error
}

// startTimeout is how long a control plane may take until it is ready; it takes 5 to 8 s on two idle cores.
const startTimeout = 2 * time.Minute

// Start starts a control plane and returns when it is ready: /readyz is ok, the ClusterRoles edit and view have
// their rules, and the namespace default has its ServiceAccount. The context bounds the start, not the cluster's
// life: that ends with Stop, or with this process.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	bins, err := EnsureBinaries(ctx, o.Progress)
	if err != nil {
		return nil, err
	}
	c := &Cluster{bins: bins}
	if err := c.makeDirs(o); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := c.start(ctx, o); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

func (c *Cluster) makeDirs(o Options) (err error) {
	c.dir = o.Dir
	if c.dir == "" {
		c.tempDir = true
		c.dir, err = os.MkdirTemp("", "gl-controlplane-")
	} else if c.dir, err = filepath.Abs(c.dir); err == nil {
		err = os.MkdirAll(c.dir, 0o700)
	}
	if err != nil {
		return fmt.Errorf("making the control plane's folder: %w", err)
	}
	if _, err := os.Stat(c.etcdDir()); err == nil {
		return fmt.Errorf("the folder %s holds the state of another control plane: name an empty one", c.dir)
	}
	// The folder holds private keys and etcd's socket, which asks nobody for credentials.
	if err := os.Chmod(c.dir, 0o700); err != nil { //nolint:gosec // a folder needs its x bit
		return fmt.Errorf("closing the control plane's folder to others: %w", err)
	}
	c.logDir = o.LogDir
	if c.logDir == "" {
		c.logDir = filepath.Join(c.dir, "log")
	}
	if c.logDir, err = filepath.Abs(c.logDir); err != nil {
		return fmt.Errorf("resolving the log folder: %w", err)
	}
	if err := os.MkdirAll(c.logDir, 0o700); err != nil {
		return fmt.Errorf("making the log folder: %w", err)
	}
	return nil
}

func (c *Cluster) start(ctx context.Context, o Options) (err error) {
	if c.ca, err = localcert.NewAuthority("gl-k8s-integrator control plane"); err != nil {
		return err
	}
	if err := c.writeFiles(o); err != nil {
		return err
	}
	if needWatchdog {
		if c.watchdog, err = startWatchdog(); err != nil {
			return err
		}
	}
	begin := time.Now()
	fmt.Fprintf(o.Progress, "Starting etcd, kube-apiserver and kube-controller-manager %s …\n", c.bins.Version)
	if err := c.startEtcd(ctx); err != nil {
		return err
	}
	if err := c.startAPIServer(ctx, o); err != nil {
		return err
	}
	if err := c.startControllers(ctx); err != nil {
		return err
	}
	fmt.Fprintf(o.Progress, "The API server is ready at %s after %.1f s.\n", c.URL(), time.Since(begin).Seconds())
	return nil
}

// startAPIServer starts kube-apiserver on a free port. Between finding the port and using it another process may
// take it, hence the retries.
func (c *Cluster) startAPIServer(ctx context.Context, o Options) error {
	for attempt := 1; ; attempt++ {
		address, err := freeport.Address(ctx)
		if err != nil {
			return err
		}
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return err
		}
		if c.port, err = strconv.Atoi(port); err != nil {
			return err
		}
		// The controllers find no other way to the port than this file, and a person neither.
		for path, p := range map[string]localcert.Pair{c.AdminKubeconfig(): c.admin, filepath.Join(c.dir, "controller-manager.kubeconfig"): c.manager} {
			user := &clientcmdapi.AuthInfo{ClientCertificateData: p.Cert, ClientKeyData: p.Key}
			if err := writeKubeconfig(path, c.URL(), c.ca.PEM, "user", user, ""); err != nil {
				return err
			}
		}
		c.flags = apiServerFlags(c.dir, c.port, o)
		if err := c.run(apiServer, c.bins.APIServer, c.flags); err != nil {
			return err
		}
		api := c.procs[len(c.procs)-1]
		err = c.awaitReadyz(ctx)
		if err != nil && api.ended() && isBindFailure(api.log) && attempt < 5 {
			c.procs = c.procs[:len(c.procs)-1]
			continue
		}
		return err
	}
}

// RestartAPIServer stops kube-apiserver and starts it again, with the same flags, port and state, and returns when it is
// ready. Further flags are added for good; the last of the same name counts. No other method may be called meanwhile.
func (c *Cluster) RestartAPIServer(ctx context.Context, flags ...string) error {
	c.flags = append(c.flags, flags...)
	i := c.index(apiServer)
	c.procs[i].stop(3 * time.Second)
	c.procs = slices.Delete(c.procs, i, i+1)
	if err := c.run(apiServer, c.bins.APIServer, c.flags); err != nil {
		return err
	}
	// The others expect it to be stopped before etcd, which it needs.
	last := len(c.procs) - 1
	c.procs = slices.Insert(c.procs[:last:last], i, c.procs[last])
	return c.awaitReadyz(ctx)
}

func (c *Cluster) run(name, bin string, flags []string) error {
	p, err := startProcess(name, bin, flags, c.dir, filepath.Join(c.logDir, name+".log"))
	if err != nil {
		return err
	}
	c.procs = append(c.procs, p)
	if c.watchdog != nil {
		return c.watchdog.guard(p.pid)
	}
	return nil
}

// poll asks until ok, until a process of the cluster ends, or until the context does.
func (c *Cluster) poll(ctx context.Context, what string, ok func(context.Context) (bool, error)) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	last := "none"
	for {
		for _, p := range c.procs {
			if p.ended() {
				return fmt.Errorf("%s: %w", what, p.failure())
			}
		}
		done, err := ok(ctx)
		if done {
			return nil
		}
		if err != nil {
			last = err.Error()
		}
		select {
		case <-ctx.Done():
			p := c.procs[len(c.procs)-1]
			return fmt.Errorf("%s: %w (last answer: %s); last lines of %s:\n%s", what, ctx.Err(), last, p.name, tailFile(p.log, 15))
		case <-tick.C:
		}
	}
}

func (c *Cluster) awaitReadyz(ctx context.Context) error {
	client, err := rest.HTTPClientFor(c.AdminConfig())
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	defer utilnet.CloseIdleConnectionsFor(client.Transport)
	return c.poll(ctx, "waiting for kube-apiserver to be ready", func(ctx context.Context) (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL()+"/readyz", nil)
		if err != nil {
			return false, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return false, err
		}
		defer func() { _ = resp.Body.Close() }()
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		if resp.StatusCode != http.StatusOK {
			return false, fmt.Errorf("%s: %s", resp.Status, body)
		}
		return true, nil
	})
}

// awaitControllers waits for what tenants need of the controllers from the first moment on.
func (c *Cluster) awaitControllers(ctx context.Context) error {
	httpClient, err := rest.HTTPClientFor(c.AdminConfig())
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	defer utilnet.CloseIdleConnectionsFor(httpClient.Transport)
	client, err := kubernetes.NewForConfigAndClient(c.AdminConfig(), httpClient)
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	return c.poll(ctx, "waiting for the controllers", func(ctx context.Context) (bool, error) {
		for _, name := range []string{"edit", "view"} {
			role, err := client.RbacV1().ClusterRoles().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			if len(role.Rules) == 0 {
				return false, fmt.Errorf("the ClusterRole %s has no rules yet", name)
			}
		}
		_, err := client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, err
		}
		return err == nil, err
	})
}

// Stop ends all processes of the cluster, waits for them and removes a temporary state folder. Calling it again
// does nothing.
func (c *Cluster) Stop() error {
	c.stopOnce.Do(func() {
		// Last started, first stopped: etcd goes when nobody writes to it any more.
		for _, p := range slices.Backward(c.procs) {
			p.stop(3 * time.Second)
		}
		if c.watchdog != nil {
			c.watchdog.dismiss()
		}
		if c.tempDir && c.dir != "" {
			if err := os.RemoveAll(c.dir); err != nil {
				c.stopErr = fmt.Errorf("removing the control plane's folder: %w", err)
			}
		}
	})
	return c.stopErr
}

// URL returns the address of the API server: "https://127.0.0.1:<port>".
func (c *Cluster) URL() string {
	return "https://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port))
}

// CA returns the certificate, in PEM, that the API server's own is signed with.
func (c *Cluster) CA() []byte { return append([]byte(nil), c.ca.PEM...) }

// AdminConfig returns a client configuration of a member of system:masters, without client-side throttling.
func (c *Cluster) AdminConfig() *rest.Config {
	return &rest.Config{
		Host: c.URL(),
		QPS:  -1,
		TLSClientConfig: rest.TLSClientConfig{
			CAData: c.CA(), CertData: append([]byte(nil), c.admin.Cert...), KeyData: append([]byte(nil), c.admin.Key...),
		},
	}
}

// AdminKubeconfig returns the path of a kubeconfig of a member of system:masters; it goes with the state folder.
func (c *Cluster) AdminKubeconfig() string { return filepath.Join(c.dir, "admin.kubeconfig") }

// Kubectl returns the path of kubectl.
func (c *Cluster) Kubectl() string { return c.bins.Kubectl }

// Version returns the version of Kubernetes, e.g. "v1.37.2".
func (c *Cluster) Version() string { return c.bins.Version }

// LogDir returns the folder of the processes' logs.
func (c *Cluster) LogDir() string { return c.logDir }

// Pids returns the process ids of the control plane.
func (c *Cluster) Pids() []int {
	pids := make([]int, 0, len(c.procs))
	for _, p := range c.procs {
		pids = append(pids, p.pid)
	}
	return pids
}

// WriteKubeconfig writes, for this user alone to read, a kubeconfig that works in the namespace ("" for default).
func (c *Cluster) WriteKubeconfig(path string, u KubeconfigUser, namespace string) error {
	if u.Name == "" {
		u.Name = "user"
	}
	return writeKubeconfig(path, c.URL(), c.ca.PEM, u.Name, &clientcmdapi.AuthInfo{
		Token: u.Token, TokenFile: u.TokenFile,
		ClientCertificateData: u.ClientCert, ClientKeyData: u.ClientKey,
		Exec: u.Exec,
	}, namespace)
}
