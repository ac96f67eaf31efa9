package kubectlgitlab

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeconfig"
)

// session is one context of a kubeconfig, and how to ask as its user.
type session struct {
	o         *options
	raw       clientcmdapi.Config
	name      string // of the context
	context   clientcmdapi.Context
	namespace string
	config    *rest.Config
	extension kubeconfig.Extension
	issuer    string                     // GitLab's URL, as far as the kubeconfig says it
	cluster   func() (*apiClient, error) // made once: it keeps its connections
	seen      atomic.Pointer[claims]     // of the token that was sent last
}

// open reads the kubeconfig and takes its context. namespace is that of the flag, if any.
func (o *options) open(namespace string) (*session, error) {
	rules := o.rules()
	raw, err := rules.Load()
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	name := o.context
	if name == "" {
		name = raw.CurrentContext
	}
	files := strings.Join(rules.GetLoadingPrecedence(), ", ")
	switch {
	case len(raw.Contexts) == 0:
		return nil, fmt.Errorf("there is no context in %s: get your kubeconfig from the page of your cluster, or from its administrators", files)
	case name == "":
		return nil, fmt.Errorf("no context is the current one in %s: choose one with kubectl config use-context, or name it with --context", files)
	case raw.Contexts[name] == nil:
		return nil, fmt.Errorf("there is no context %q in %s: it has %s", name, files, strings.Join(contextNames(raw), ", "))
	}
	s := &session{o: o, raw: *raw, name: name, context: *raw.Contexts[name]}
	s.cluster = sync.OnceValues(s.reachCluster)
	overrides := &clientcmd.ConfigOverrides{CurrentContext: name}
	overrides.Context.Namespace = namespace
	client := clientcmd.NewNonInteractiveClientConfig(*raw, name, overrides, rules)
	if s.namespace, _, err = client.Namespace(); err != nil {
		return nil, fmt.Errorf("context %q: %w", name, err)
	}
	if s.config, err = client.ClientConfig(); err != nil {
		return nil, fmt.Errorf("context %q: %w", name, err)
	}
	s.config.UserAgent = programName + "/" + o.process.Version
	if cluster := raw.Clusters[s.context.Cluster]; cluster != nil {
		if err := s.readExtension(cluster.Extensions[kubeconfig.ExtensionName]); err != nil {
			return nil, fmt.Errorf("cluster %q of the kubeconfig, extension %s: %w", s.context.Cluster, kubeconfig.ExtensionName, err)
		}
	}
	s.issuer = s.extension.Issuer
	if s.issuer == "" {
		s.issuer, _ = s.execFlag(issuerFlag)
	}
	return s, s.overrideServer()
}

func (o *options) rules() *clientcmd.ClientConfigLoadingRules {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath, rules.WarnIfAllMissing = o.kubeconfig, false
	return rules
}

func contextNames(raw *clientcmdapi.Config) []string {
	var names []string
	for name := range raw.Contexts {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// readExtension takes the address of our server from the kubeconfig.
func (s *session) readExtension(object runtime.Object) error {
	if object == nil {
		return nil
	}
	unknown, ok := object.(*runtime.Unknown)
	if !ok {
		return errors.New("it is no JSON object")
	}
	if err := json.Unmarshal(unknown.Raw, &s.extension); err != nil {
		return fmt.Errorf("reading it: %w", err)
	}
	if s.extension.Server == "" {
		return nil
	}
	_, err := serverURL(s.extension.Server)
	return err
}

// overrideServer puts flags and environment in the place of what the kubeconfig says. A server that is named so has a CA
// that is named so, or one of the system: what belongs to another address does not count.
func (s *session) overrideServer() error {
	if server := override(s.o.server, serverEnv); server != "" {
		if _, err := serverURL(server); err != nil {
			return err
		}
		s.extension.Server, s.extension.CA = server, nil
	}
	file := override(s.o.serverCA, serverCAEnv)
	if file == "" {
		return nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("reading the CA of the integrator's server: %w", err)
	}
	s.extension.CA = pem
	return nil
}

// serverURL checks an address that tokens may be sent to: https, or http on this machine.
func serverURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the address of the integrator's server is no URL: %q", text)
	case u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		return nil, fmt.Errorf("the address of the integrator's server must be like https://access.example.com, not %q", u.Redacted())
	case u.Scheme == "https", u.Scheme == "http" && loopback(u.Hostname()):
		return u, nil
	}
	return nil, fmt.Errorf("the address of the integrator's server is %q: tokens go to https addresses only", text)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// Parts of the command line of kubelogin (https://github.com/int128/kubelogin, v1.36.3).
const (
	getToken     = "get-token"
	issuerFlag   = "--oidc-issuer-url"
	grantFlag    = "--grant-type"
	redirectFlag = "--oidc-redirect-url"
	cacheFlag    = "--token-cache-dir"
)

// execFlag returns the value of a flag of the context's credential plug-in; the last of the name counts.
func (s *session) execFlag(name string) (value string, ok bool) {
	if s.config.ExecProvider == nil {
		return "", false
	}
	return flagOf(s.config.ExecProvider.Args, name)
}

func flagOf(args []string, name string) (value string, ok bool) {
	for i, arg := range args {
		if v, found := strings.CutPrefix(arg, name+"="); found {
			value, ok = v, true
		} else if arg == name && i+1 < len(args) {
			value, ok = args[i+1], true
		}
	}
	return value, ok
}

// claims are what a token says of itself. Nothing is decided by them but that a token is kept back.
type claims struct {
	Issuer  string `json:"iss"`
	Expires int64  `json:"exp"` // seconds since 1970; 0: not said
}

// readClaims reads what an unverified JWT says; ok is false for any other token.
func readClaims(token string) (c claims, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return claims{}, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	return c, err == nil && json.Unmarshal(payload, &c) == nil
}
