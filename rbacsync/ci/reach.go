package ci

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
)

// reachTimeout bounds one attempt to connect.
const reachTimeout = 5 * time.Second

// Reach says why a CI job could not work with the API server at c, as far as that can be seen from here: by its name, and
// by connecting to it. local says that jobs run on this machine, so that loopback addresses are right.
func Reach(ctx context.Context, c Cluster, local bool) error {
	const hint = "set cluster.publicURL (and publicCAFile) to what jobs use"
	u, err := url.Parse(c.URL)
	if err != nil || u.Hostname() == "" {
		return fmt.Errorf("CI jobs get %q as URL of the API server, which is not one: %s", c.URL, hint)
	}
	host := strings.ToLower(u.Hostname())
	ip := net.ParseIP(host)
	switch {
	case !local && (host == "localhost" || ip != nil && (ip.IsLoopback() || ip.IsUnspecified())):
		return fmt.Errorf("CI jobs get %s as URL of the API server, which leads them to the machine they run on: %s", c.URL, hint)
	case host == "kubernetes" || strings.HasPrefix(host, "kubernetes.default") || strings.HasSuffix(host, ".svc") || strings.Contains(host, ".svc."):
		return fmt.Errorf("CI jobs get %s as URL of the API server, a name that exists only inside the cluster: %s", c.URL, hint)
	}
	if u.Scheme != "https" {
		return nil
	}
	var roots *x509.CertPool
	if len(c.CA) > 0 {
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(c.CA) {
			return fmt.Errorf("CI jobs get a CA of the API server that holds no certificate: %s", hint)
		}
	}
	conn, err := connect(ctx, u, roots)
	if err == nil {
		return conn.Close()
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("CI jobs won't trust the API server at %s with the CA they get: %w: %s", c.URL, err, hint)
	}
	return fmt.Errorf("CI jobs may not reach the API server at %s, which can't be reached from here: %w: open the way, or %s", c.URL, err, hint)
}

// connect connects to an https URL whose server shows a certificate that roots verify; nil: those of the system.
func connect(ctx context.Context, u *url.URL, roots *x509.CertPool) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12, RootCAs: roots}}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443")))
	if err != nil {
		return nil, err
	}
	return conn.(*tls.Conn), nil //nolint:forcetypeassert // tls.Dialer's documentation
}
