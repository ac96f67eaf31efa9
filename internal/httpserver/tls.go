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
		config.ClientCAs, config.ClientAuth = pool, tls.RequireAndVerifyClientCert
	}
	f.current.Store(config)
	f.ends.Store(endsOf(pair, content[2]))
	return true, nil
}

// Ends are when the certificates of a listener end. Zero: it has none.
type Ends struct {
	Certificate time.Time // the first of its chain
	ClientCA    time.Time // the last of the bundle
}

func endsOf(pair tls.Certificate, clientCA []byte) *Ends {
	// An error means that it has none, or none that can be read: whoever connects is told.
	certificate, _ := expiry.OfChain(pair.Certificate)
	ca, _ := expiry.OfBundle(clientCA)
	return &Ends{Certificate: certificate, ClientCA: ca}
}
