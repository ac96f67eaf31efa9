package demo

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/freeport"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
)

//go:embed world.yaml
var world []byte

// Env is the running world of the story: a simulated GitLab, a real control plane, and the integrator with its
// own ServiceAccount's rights. Everything listens on loopback, and its state is in one temporary folder.
type Env struct {
	GitLab  *gitlabsim.Server
	Cluster *controlplane.Cluster
	Kube    kubernetes.Interface // as the cluster's administrator

	dir        string // everything
	work       string // where people type: deploy_new.yaml and the kubeconfigs
	home       string // an empty $HOME
	configFile string
	page       string // its address
	pageCA     []byte
	ownLogin   bool // kube-apiserver judges tokens by itself
	log        syncBuffer
	logFile    *os.File           // the same, for people who look on
	revocation time.Duration      // measured by the step that removes alice
	stop       context.CancelFunc // of the integrator
	stopped    chan error
}

// interval is the time between two full rounds: short, so that the story shows one.
const interval = 10 * time.Second

// Start brings everything up and says what it does; with ownLogin kube-apiserver judges tokens by itself. After an error nothing is left running.
func Start(ctx context.Context, parent string, ownLogin bool, out io.Writer) (_ *Env, err error) {
	dir, err := os.MkdirTemp(parent, "gl-k8s-integrator-demo-")
	if err != nil {
		return nil, fmt.Errorf("making the demo's folder: %w", err)
	}
	e := &Env{dir: dir, ownLogin: ownLogin, work: filepath.Join(dir, "laptop"), home: filepath.Join(dir, "home")}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close())
		}
	}()
	for _, d := range []string{e.work, e.home} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return nil, fmt.Errorf("making the demo's folder: %w", err)
		}
	}
	at, err := freeAddresses(ctx)
	if err != nil {
		return nil, err
	}
	authority, err := localcert.NewAuthority("demo")
	if err != nil {
		return nil, err
	}
	if e.GitLab, err = gitlabsim.New(gitlabsim.Options{Seed: world}); err != nil {
		return nil, fmt.Errorf("starting the simulated GitLab: %w", err)
	}
	hookSecret := "demo-hook-secret-" + filepath.Base(dir)
	fmt.Fprintf(out, "  GitLab (simulated)   %s\n", e.GitLab.URL())
	if err := e.startCluster(ctx, out, authority, at.webhooks); err != nil {
		return nil, err
	}
	fmt.Fprintf(out, "  kube-apiserver       %s  (%s, with etcd and kube-controller-manager)\n", e.Cluster.URL(), e.Cluster.Version())
	if err := e.writeConfig(ctx, authority, hookSecret, at); err != nil {
		return nil, err
	}
	if err := e.registerHook(ctx, "http://"+at.hooks+"/hooks/gitlab"); err != nil {
		return nil, err
	}
	if err := e.startIntegrator(ctx); err != nil {
		return nil, err
	}
	fmt.Fprintf(out, "  gl-k8s-integrator    webhooks https://%s, system hooks http://%s, metrics http://%s, page https://%s\n", at.webhooks, at.hooks, at.metrics, at.web)
	if e.ownLogin {
		fmt.Fprintf(out, "  login                kube-apiserver judges GitLab's tokens by itself\n")
	}
	return e, e.awaitFirstRound(ctx)
}

// registerHook registers the system hook as an administrator would.
func (e *Env) registerHook(ctx context.Context, url string) error {
	cfg, err := config.Load(e.configFile)
	if err != nil {
		return fmt.Errorf("registering the system hook: %w", err)
	}
	id, err := app.ClusterID(ctx, cfg)
	if err != nil {
		return fmt.Errorf("registering the system hook: %w", err)
	}
	return app.RegisterHook(ctx, cfg, app.Registration{URL: url, Verify: true, Cluster: id}, io.Discard)
}

// addresses are those that the integrator listens on.
type addresses struct{ webhooks, hooks, metrics, web string }

// freeAddresses picks free loopback ports: kube-apiserver must know a webhook's address before it starts.
func freeAddresses(ctx context.Context) (out addresses, err error) {
	for _, found := range []*string{&out.webhooks, &out.hooks, &out.metrics, &out.web} {
		if *found, err = freeport.Address(ctx); err != nil {
			return addresses{}, err
		}
	}
	return out, nil
}

func (e *Env) startCluster(ctx context.Context, out io.Writer, authority *localcert.Authority, webhooks string) error {
	client, err := authority.Client("kube-apiserver")
	if err != nil {
		return err
	}
	webhook := func(path string) *controlplane.Webhook {
		return &controlplane.Webhook{URL: "https://" + webhooks + path, CA: authority.PEM, ClientCert: client.Cert, ClientKey: client.Key}
	}
	options := controlplane.Options{Dir: filepath.Join(e.dir, "cluster"), Progress: out, AuthzWebhook: webhook("/authorize")}
	if !e.ownLogin {
		options.AuthnWebhook = webhook("/authenticate")
	} else if err := e.writeAuthentication(&options); err != nil {
		return err
	}
	e.Cluster, err = controlplane.Start(ctx, options)
	if err != nil {
		return fmt.Errorf("starting the control plane: %w", err)
	}
	if e.Kube, err = kubernetes.NewForConfig(e.Cluster.AdminConfig()); err != nil {
		return fmt.Errorf("making the administrator's client: %w", err)
	}
	if err := deploy.Apply(ctx, e.Cluster.AdminConfig()); err != nil {
		return fmt.Errorf("applying deploy/: %w", err)
	}
	return nil
}

// writeAuthentication lets kube-apiserver judge tokens by itself, as gl-k8s-integrator apiserver-config says.
func (e *Env) writeAuthentication(o *controlplane.Options) error {
	if err := os.WriteFile(filepath.Join(e.dir, "gitlab-ca.crt"), e.GitLab.CA(), 0o600); err != nil {
		return fmt.Errorf("writing GitLab's CA: %w", err)
	}
	cfg, err := config.Parse(e.config(addresses{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"})) // its ports are not looked at
	if err != nil {
		return fmt.Errorf("saying to kube-apiserver whose tokens count: %w", err)
	}
	var text bytes.Buffer
	if err := app.APIServerConfig(cfg, app.FormStructured, "", "", slog.New(slog.DiscardHandler), &text); err != nil {
		return err
	}
	path := filepath.Join(e.dir, "authentication.yaml")
	o.APIServerFlags = append(o.APIServerFlags, "--authentication-config="+path)
	return os.WriteFile(path, text.Bytes(), 0o600)
}

// config is the integrator's configuration.
func (e *Env) config(at addresses) []byte {
	return fmt.Appendf(nil, configTemplate, e.GitLab.URL(), e.dir, at.webhooks, at.hooks, at.metrics, clientID, interval, e.ownLogin, at.web, pageClientID)
}

// writeConfig writes what an administrator would: certificates, secrets, the integrator's kubeconfig (its own
// ServiceAccount, nothing stronger) and its configuration.
func (e *Env) writeConfig(ctx context.Context, authority *localcert.Authority, hookSecret string, at addresses) error {
	server, err := authority.Server("webhooks")
	if err != nil {
		return err
	}
	files, err := preparePage(e, at.web)
	if err != nil {
		return err
	}
	e.pageCA = authority.PEM
	year := int64((8760 * time.Hour).Seconds())
	own, err := e.Kube.CoreV1().ServiceAccounts(deploy.Namespace).CreateToken(ctx, deploy.ServiceAccount,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &year}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("requesting the integrator's own token: %w", err)
	}
	maps.Copy(files, map[string]string{
		"tls.crt": string(server.Cert), "tls.key": string(server.Key), "webhook-ca.crt": string(authority.PEM),
		"gitlab-ca.crt": string(e.GitLab.CA()), "hook-secret": hookSecret,
		"read-token":  e.GitLab.TokenFor("root", "read_api"),
		"write-token": e.GitLab.TokenFor("root", "api"),
	})
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(e.dir, name), []byte(content), 0o600); err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
	}
	kubeconfig := filepath.Join(e.dir, "integrator.kubeconfig")
	if err := e.Cluster.WriteKubeconfig(kubeconfig, controlplane.KubeconfigUser{Name: deploy.ServiceAccount, Token: own.Status.Token}, ""); err != nil {
		return err
	}
	var manifest string
	e.GitLab.World().View(func(v *gitlabsim.View) {
		manifest = v.ProjectByPath("haw/world").Files["main"]["deploy_new.yaml"]
	})
	if err := os.WriteFile(filepath.Join(e.work, "deploy_new.yaml"), []byte(manifest), 0o600); err != nil {
		return fmt.Errorf("writing deploy_new.yaml: %w", err)
	}
	e.configFile = filepath.Join(e.dir, "config.yaml")
	return os.WriteFile(e.configFile, e.config(at), 0o600)
}

// configTemplate is the configuration of the demo; a test loads it.
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
  webhooks: {address: "%[3]s", certFile: %[2]s/tls.crt, keyFile: %[2]s/tls.key, clientCAFile: %[2]s/webhook-ca.crt}
  hooks: {address: "%[4]s", secretFile: %[2]s/hook-secret}
  metrics: {address: "%[5]s"}
  web: {address: "%[9]s", certFile: %[2]s/tls.crt, keyFile: %[2]s/tls.key}
  drainDelay: 1ms
web:
  url: https://%[9]s
  clientID: %[10]s
  clientSecretFile: %[2]s/page-secret
  sessionKeyFile: %[2]s/page-key
authn:
  disabled: %[8]v
  clientIDs: [%[6]s]
rbacsync:
  mode: enforce
  interval: %[7]s
`

func (e *Env) startIntegrator(ctx context.Context) error {
	cfg, err := config.Load(e.configFile)
	if err != nil {
		return err
	}
	if e.logFile, err = os.Create(filepath.Join(e.dir, "integrator.log")); err != nil {
		return fmt.Errorf("making the integrator's log: %w", err)
	}
	ctx, e.stop = context.WithCancel(ctx)
	e.stopped = make(chan error, 1)
	log := slog.New(slog.NewJSONHandler(io.MultiWriter(&e.log, e.logFile), &slog.HandlerOptions{Level: slog.LevelDebug}))
	go func() { e.stopped <- app.Serve(ctx, cfg, log) }()
	return nil
}

// awaitFirstRound waits until the namespaces are there and CI has its variables.
func (e *Env) awaitFirstRound(ctx context.Context) error {
	_, ok := eventually(ctx, time.Minute, func() bool {
		_, err := e.Kube.CoreV1().Secrets("haw-world").Get(ctx, "gitlab-serviceaccount-token", metav1.GetOptions{})
		return err == nil && e.variable("KUBE_TOKEN") != ""
	})
	if ok {
		return nil
	}
	select {
	case err := <-e.stopped:
		e.stopped <- err
		return fmt.Errorf("the integrator ended: %w", err)
	default:
		return fmt.Errorf("the first round did not finish within a minute; the end of the integrator's log:\n%s", tail(e.log.String(), 3000))
	}
}

// variable returns a CI/CD variable of haw/world as GitLab stores it.
func (e *Env) variable(key string) (value string) {
	e.GitLab.World().View(func(v *gitlabsim.View) {
		for _, x := range v.ProjectByPath("haw/world").Variables {
			if x.Key == key && x.EnvironmentScope == "ICC-K8s" {
				value = x.Value
			}
		}
	})
	return value
}

// Close stops everything and removes the folder. It can be called at any stage of Start.
func (e *Env) Close() error {
	errs := []error{e.stopIntegrator()}
	if e.Cluster != nil {
		errs = append(errs, e.Cluster.Stop())
	}
	if e.GitLab != nil {
		e.GitLab.Close()
	}
	return errors.Join(append(errs, os.RemoveAll(e.dir))...)
}

// stopIntegrator ends the integrator, if it runs, and waits for it.
func (e *Env) stopIntegrator() error {
	var errs []error
	if e.stop != nil {
		e.stop()
		if err := <-e.stopped; err != nil && !errors.Is(err, context.Canceled) {
			errs = append(errs, fmt.Errorf("stopping the integrator: %w", err))
		}
	}
	if e.logFile != nil {
		errs = append(errs, e.logFile.Close())
	}
	e.stop, e.logFile = nil, nil
	return errors.Join(errs...)
}

// failedRounds counts the rounds that could not read GitLab, from the integrator's log.
func (e *Env) failedRounds() int { return strings.Count(e.log.String(), `"msg":"round failed`) }

// user returns the GitLab id behind a user name.
func (e *Env) user(name string) (id int64) {
	e.GitLab.World().View(func(v *gitlabsim.View) {
		if u := v.UserByName(name); u != nil {
			id = u.ID
		}
	})
	return id
}

// project returns the GitLab id behind a project's path.
func (e *Env) project(path string) (id int64) {
	e.GitLab.World().View(func(v *gitlabsim.View) {
		if p := v.ProjectByPath(path); p != nil {
			id = p.ID
		}
	})
	return id
}

// login logs a simulated person in and writes the kubeconfig of that laptop.
func (e *Env) login(ctx context.Context, username, password string) (user, error) {
	token, err := Login(ctx, e.GitLab.Client(), e.GitLab.URL(), username, password)
	if err != nil {
		return user{}, fmt.Errorf("logging %s in: %w", username, err)
	}
	return e.withToken(username, token)
}

// withToken writes a kubeconfig with a token for a person's laptop; the namespace is haw-world.
func (e *Env) withToken(name, token string) (user, error) {
	p := user{name: name, kubeconfig: filepath.Join(e.work, name+".kubeconfig")}
	return p, e.Cluster.WriteKubeconfig(p.kubeconfig, controlplane.KubeconfigUser{Name: name, Token: token}, "haw-world")
}

var jwt = regexp.MustCompile(`eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+`)

// hide replaces every token in what is shown.
func hide(s string) string { return jwt.ReplaceAllString(s, "(token)") }

func tail(s string, n int) string {
	if len(s) > n {
		s = "…" + s[len(s)-n:]
	}
	return s
}
