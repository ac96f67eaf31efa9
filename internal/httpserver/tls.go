package httpserver

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/expiry"
)

// files turns certificate files into TLS configurations. They are compared by content at every look: a mounted
// Secret changes by swapping symbolic links, which file times and watches both see only in part.
type files struct {
	cert, key, clientCA string
	log                 *slog.Logger

	current atomic.Pointer[tls.Config]
	ends    atomic.Pointer[Ends]
	seen    [sha256.Size]byte // content last looked at, good or bad
	clients clients
}

// load reads the files for the first time.
func (f *files) load() error {
	_, err := f.read()
	return err
}

// reload takes over changed files. Broken ones are reported once and the working certificate stays: half-written
// files look broken for a moment.
func (f *files) reload(ctx context.Context) {
	changed, err := f.read()
	switch {
	case !changed:
	case err != nil:
		f.log.LogAttrs(ctx, slog.LevelError, "changed certificate files can't be used; the previous ones stay in use", slog.String("error", err.Error()))
	default:
		f.log.LogAttrs(ctx, slog.LevelInfo, "certificate files reloaded")
	}
}

// read looks at the files; changed is false if they are as they were at the last look.
func (f *files) read() (changed bool, err error) {
	var (
		content [3][]byte
		faults  []error
		digest  = sha256.New()
	)
	for i, name := range []string{f.cert, f.key, f.clientCA} {
		if name != "" {
			b, err := os.ReadFile(name)
			if err != nil {
				faults = append(faults, fmt.Errorf("reading a certificate file: %w", err))
			}
			content[i] = b
		}
		fmt.Fprintf(digest, "%d:", len(content[i]))
		digest.Write(content[i])
	}
	if len(faults) > 0 {
		fmt.Fprint(digest, errors.Join(faults...))
	}
	sum := [sha256.Size]byte(digest.Sum(nil))
	if sum == f.seen {
		return false, nil
	}
	f.seen = sum
	if len(faults) > 0 {
		return true, errors.Join(faults...)
	}
	pair, err := tls.X509KeyPair(content[0], content[1])
	if err != nil {
		return true, fmt.Errorf("reading certificate %s and key %s: %w", f.cert, f.key, err)
	}
	config := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{pair},
		NextProtos:   []string{"h2", "http/1.1"},
		// A resumed session would keep the word of a client CA that may be gone by now.
		SessionTicketsDisabled: true,
	}
	if f.clientCA != "" {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(content[2]) {
			return true, fmt.Errorf("reading client CA file %s: it holds no PEM certificate", f.clientCA)
		}
		config.ClientCAs, config.ClientAuth, config.VerifyConnection = pool, tls.RequireAndVerifyClientCert, f.clients.note
	}
	f.current.Store(config)
	f.ends.Store(endsOf(pair, content[2]))
	return true, nil
}

// Ends are when the certificates of a listener end. Zero: it has none.
type Ends struct {
	Certificate time.Time // the first of its chain
	ClientCA    time.Time // the last of the bundle
	Clients     time.Time // the first of those that clients showed last, by subject
}

// maxClients is of how many subjects of client certificates the end is remembered: kube-apiserver has one, or one for each process.
const maxClients = 16

// clients remembers when the certificates end that clients show. One whose certificate has ended is turned away before it
// gets here, so what was known of it stays: it has ended.
type clients struct {
	mu   sync.Mutex
	ends map[string]time.Time // by subject: a new certificate takes the place of the one before
}

// note is tls.Config.VerifyConnection; it refuses nothing.
func (c *clients) note(s tls.ConnectionState) error {
	if len(s.PeerCertificates) == 0 {
		return nil
	}
	end, subject := s.PeerCertificates[0].NotAfter, string(s.PeerCertificates[0].RawSubject)
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.ends[subject]; !known && len(c.ends) >= maxClients {
		return nil
	}
	if c.ends == nil {
		c.ends = map[string]time.Time{}
	}
	c.ends[subject] = end
	return nil
}

// first returns when the first of them ends, zero if none was seen.
func (c *clients) first() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	var first time.Time
	for _, end := range c.ends {
		if first.IsZero() || end.Before(first) {
			first = end
		}
	}
	return first
}

func endsOf(pair tls.Certificate, clientCA []byte) *Ends {
	// An error means that it has none, or none that can be read: whoever connects is told.
	certificate, _ := expiry.OfChain(pair.Certificate)
	ca, _ := expiry.OfBundle(clientCA)
	return &Ends{Certificate: certificate, ClientCA: ca}
}
