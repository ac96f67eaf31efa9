package ci

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
)

const (
	// maxVariable bounds a variable with its key, "=" and the byte that ends it: Linux starts no program with a longer string
	// in its environment (MAX_ARG_STRLEN, execve(2)), and runners hand files over in the same ways.
	maxVariable = 128 << 10
	// wholeCA is up to which size jobs get all of a CA bundle: one that is made for the cluster, which during a change of its
	// CA holds the next one, too.
	wholeCA = 32 << 10
)

// checkSizes refuses variables with which no job could start.
func checkSizes(vars []Variable, caFrom string) error {
	for _, v := range vars {
		if size := len(v.Key) + len(v.Value) + 2; size > maxVariable {
			return fmt.Errorf("variable %s would have %d bytes, and with more than %d no job starts (argument list too long): nothing was written;"+
				" let %s hold only the certificates that jobs need", v.Key, size, maxVariable, caFrom)
		}
	}
	return nil
}

// Needed returns those certificates of a PEM bundle that verify the server at an https URL, with their issuers. It connects.
func Needed(ctx context.Context, url string, bundle []byte) ([]byte, error) {
	certs, err := verifying(ctx, url, certificates(bundle))
	if err != nil {
		return nil, err
	}
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out, nil
}

// caTrimmer cuts a CA bundle down to what verifies the API server, and remembers what that was.
type caTrimmer struct {
	bundle string // sum of it
	kept   []*x509.Certificate
}

// trim returns a large bundle without the certificates that jobs don't need. What once was needed stays until the bundle
// changes: several API servers may show different chains.
func (f *caTrimmer) trim(ctx context.Context, c Cluster) ([]byte, error) {
	if len(c.CA) <= wholeCA {
		return c.CA, nil
	}
	if s := sum(string(c.CA)); s != f.bundle {
		*f = caTrimmer{bundle: s}
	}
	certs := certificates(c.CA)
	needed, err := verifying(ctx, c.URL, certs)
	if err != nil && len(f.kept) == 0 {
		return nil, err
	}
	var out []byte
	var kept []*x509.Certificate
	for _, cert := range certs {
		if slices.ContainsFunc(append(needed, f.kept...), cert.Equal) && !slices.ContainsFunc(kept, cert.Equal) {
			kept = append(kept, cert)
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
		}
	}
	f.kept = kept
	return out, nil
}

func certificates(bundle []byte) (out []*x509.Certificate) {
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == "CERTIFICATE" {
			out = append(out, cert)
		}
	}
	return out
}

// verifying returns those of certs that verify the server at an https URL, with the issuers of these that are among certs:
// some clients trust a chain only up to its end.
func verifying(ctx context.Context, raw string, certs []*x509.Certificate) ([]*x509.Certificate, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "https" {
		return nil, errors.New("the API server has no https URL")
	}
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	conn, err := connect(ctx, u, pool)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }() // nothing was written
	var out []*x509.Certificate
	for _, chain := range conn.ConnectionState().VerifiedChains {
		out = append(out, chain[len(chain)-1])
	}
	for i := 0; i < len(out); i++ {
		for _, c := range certs {
			if !slices.ContainsFunc(out, c.Equal) && out[i].CheckSignatureFrom(c) == nil {
				out = append(out, c)
			}
		}
	}
	return out, nil
}
