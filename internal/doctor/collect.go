package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

// each collector has its own time; kube-apiserver tries a webhook that is away for some seven seconds.
const (
	lookTime    = 10 * time.Second
	throughTime = 25 * time.Second
	arrivalTime = 20 * time.Second // of a tested hook: the integrator writes down what came every ten seconds
	maxBody     = 1 << 20
)

// Sources are what facts are taken from. Config and Now are required; what is nil or empty is not looked at.
type Sources struct {
	Config     *config.Config
	GitLab     *http.Client
	ReadToken  func() (string, error)
	WriteToken func() (string, error)
	Kube       kubernetes.Interface
	KubeConfig *rest.Config         // of Kube
	Own        kubernetes.Interface // with the integrator's own rights, for what it may bind; nil: Kube has them
	RoleNames  []string
	// AuthnKubeconfig and AuthzConfig are the files that kube-apiserver is started with, or copies of them.
	AuthnKubeconfig, AuthzConfig string
	// AuthnConfig is the file of --authentication-config, and WantAuthn what the configuration gives for it.
	AuthnConfig string
	WantAuthn   []byte
	// APIServerFlags is a file that tells how kube-apiserver is started; without it the cluster is asked.
	APIServerFlags string
	// Metrics are URLs of /metrics of the running integrators, for when kube-apiserver does not tell what the webhook said.
	Metrics       []string
	MetricsClient *http.Client           // required with Metrics
	MetricsToken  func() (string, error) // nil: they demand none
	// TestHook has GitLab send its sample event to a system hook; nil: it is not to be tried.
	TestHook func(ctx context.Context, id int64) error
	Files    map[string]string // PEM files with certificates, by what they are
	Now      func() time.Time
}

// Collect looks at everything, side by side, and returns what it found. It changes nothing, but for the sample
// event that GitLab sends if Sources.TestHook is there.
func Collect(ctx context.Context, s Sources) *Facts {
	f := &Facts{Now: s.Now(), Config: s.Config, Authorizers: Authorizers{Ours: -1}}
	c := &collector{Sources: s, facts: f}
	c.certificates()
	var wait sync.WaitGroup
	for _, look := range []func(context.Context){gitlabLook{c}.all, clusterLook{c}.all, fileLook{c}.all} {
		wait.Go(func() { look(ctx) })
	}
	wait.Wait()
	// After the others: it costs the time of a webhook that is away, and needs to know whether kube-apiserver answers.
	clusterLook{c}.through(ctx)
	clusterLook{c}.testHook(ctx)
	return f
}

// collector writes facts from several goroutines: each of them has parts of its own, and lists that several write to are
// written by add and blind.
type collector struct {
	Sources
	mu    sync.Mutex
	facts *Facts
}

func (c *collector) blind(what string, why error, fix string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.facts.Blind = append(c.facts.Blind, Blind{what, why.Error(), fix})
}

func (c *collector) skip(what, why, fix string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.facts.Skipped = append(c.facts.Skipped, Blind{what, why, fix})
}

func (c *collector) certificate(what string, cert *x509.Certificate) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.facts.Certificates = append(c.facts.Certificates, Certificate{what, cert.NotBefore, cert.NotAfter})
}

// served notes the certificate that a server showed.
func (c *collector) served(what string, state *tls.ConnectionState) {
	if state != nil && len(state.PeerCertificates) > 0 {
		c.certificate("the one that "+what+" shows", state.PeerCertificates[0])
	}
}

// clock returns how far the clock of who answered is ahead of ours; between sent and now it was written.
func (c *collector) clock(resp *http.Response, sent time.Time) *time.Duration {
	theirs, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return nil
	}
	now := c.Now()
	middle := sent.Add(now.Sub(sent) / 2)
	d := theirs.Add(500 * time.Millisecond).Sub(middle) // the header is cut to whole seconds
	return &d
}

// faultOf returns of which kind an error of a connection is.
func faultOf(err error) Fault {
	if err == nil {
		return None
	}
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var net net.Error
	switch {
	case errors.As(err, &unknown):
		return Untrusted
	case errors.As(err, &name):
		return OtherName
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return Ended
	case errors.As(err, &invalid):
		return Untrusted
	}
	if kind := faultIn(err.Error()); kind != Odd {
		return kind
	}
	if errors.As(err, &net) || errors.Is(err, context.DeadlineExceeded) {
		return Away
	}
	return Odd
}

// faultIn returns the same by the text, which is all that kube-apiserver passes on. The texts are those of Go's crypto/x509,
// crypto/tls and net.
func faultIn(text string) Fault {
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(text, w) {
				return true
			}
		}
		return false
	}
	switch {
	case has("remote error: tls", "write: broken pipe", "http2: client conn could not be established"): // see cut
		return ClientRefuse
	case has("certificate signed by unknown authority", "certificate is not trusted", "certificate is not standards compliant"):
		return Untrusted
	case has("certificate is valid for", "doesn't contain any IP SANs", "is not valid for any names", "certificate relies on legacy Common Name"):
		return OtherName
	case has("certificate has expired or is not yet valid"):
		return Ended
	case has("connection refused", "no such host", "i/o timeout", "no route to host", "network is unreachable", "deadline exceeded", "connection reset", "Client.Timeout", "server misbehaving", "invalid port", "EOF"):
		return Away
	case has("could not find the requested resource", "404"):
		return Path
	}
	return Odd
}
