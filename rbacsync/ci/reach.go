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
	conf := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if len(c.CA) > 0 {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(c.CA) {
			return fmt.Errorf("CI jobs get a CA of the API server that holds no certificate: %s", hint)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	d := tls.Dialer{Config: conf}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, port(u)))
	if err == nil {
		return conn.Close()
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("CI jobs won't trust the API server at %s with the CA they get: %w: %s", c.URL, err, hint)
	}
	return fmt.Errorf("CI jobs may not reach the API server at %s, which can't be reached from here: %w: open the way, or %s", c.URL, err, hint)
}

// port returns the port that an https URL leads to.
func port(u *url.URL) string { return cmp.Or(u.Port(), "443") }
