// Package localcert makes certificate authorities and certificates for servers and clients. NewAuthority, Server and
// Client make short-lived ones for this machine: the control plane, the simulated GitLab and the webhooks of demo and tests.
// The others are for `init`, which makes those of an installation. `serve` uses none of it.
package localcert

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

// lifetime is longer than any demo runs, and short enough that a forgotten key is harmless soon.
const lifetime = 30 * 24 * time.Hour

// Authority is a certificate authority with its key.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	// PEM is the authority's certificate.
	PEM []byte
}

// Pair is a certificate and its key in PEM.
type Pair struct{ Cert, Key []byte }

// Validity is from when until when a certificate is good.
type Validity struct{ From, Until time.Time }

// soon is the validity of what demo and tests need. It begins a minute ago, by the real clock, which every TLS client checks against.
func soon() Validity {
	now := time.Now()
	return Validity{now.Add(-time.Minute), now.Add(lifetime)}
}

// NewAuthority makes a short-lived authority of that name.
func NewAuthority(name string) (*Authority, error) { return NewAuthorityFor(name, soon(), "") }

// NewAuthorityFor makes an authority of that name. With a host, a DNS name or an IP address, it can vouch for that alone (RFC 5280,
// 4.2.1.10), so that whoever trusts it does not trust it with anything else.
func NewAuthorityFor(name string, v Validity, onlyHost string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the key of %s: %w", name, err)
	}
	t, err := template(name, v)
	if err != nil {
		return nil, err
	}
	t.IsCA, t.BasicConstraintsValid, t.MaxPathLenZero = true, true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	if onlyHost != "" {
		t.PermittedDNSDomainsCritical = true
		if ip := net.ParseIP(onlyHost); ip != nil {
			t.PermittedIPRanges = []*net.IPNet{single(ip)}
			t.ExcludedDNSDomains = []string{""}
		} else {
			t.PermittedDNSDomains = []string{onlyHost}
			t.ExcludedIPRanges = []*net.IPNet{{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, {IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}}
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the certificate of %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parsing the certificate of %s: %w", name, err)
	}
	return &Authority{cert: cert, key: key, PEM: encode("CERTIFICATE", der)}, nil
}

// single is the range that holds one address.
func single(ip net.IP) *net.IPNet {
	if v4 := ip.To4(); v4 != nil {
		return &net.IPNet{IP: v4, Mask: net.CIDRMask(32, 32)}
	}
	return &net.IPNet{IP: ip, Mask: net.CIDRMask(128, 128)}
}

// LoadAuthority reads an authority that was stored: its certificate and key in PEM.
func LoadAuthority(certPEM, keyPEM []byte) (*Authority, error) {
	c, k := block(certPEM, "CERTIFICATE"), block(keyPEM, "PRIVATE KEY")
	if c == nil || k == nil {
		return nil, errors.New("want a certificate and its key (PKCS #8), both in PEM")
	}
	cert, err := x509.ParseCertificate(c)
	if err != nil {
		return nil, fmt.Errorf("parsing the certificate of an authority: %w", err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(k)
	if err != nil {
		return nil, fmt.Errorf("parsing the key of an authority: %w", err)
	}
	key, ok := parsed.(crypto.Signer)
	public, comparable := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !cert.IsCA || !comparable || !public.Equal(key.Public()) {
		return nil, fmt.Errorf("%s is no authority, or the key is not its own", cert.Subject)
	}
	return &Authority{cert: cert, key: key, PEM: encode("CERTIFICATE", c)}, nil
}

// block returns what the first block of PEM holds, nil if that is of another kind.
func block(data []byte, kind string) []byte {
	if b, _ := pem.Decode(data); b != nil && b.Type == kind {
		return b.Bytes
	}
	return nil
}

// Key returns the authority's key in PEM (PKCS #8).
func (a *Authority) Key() ([]byte, error) { return EncodeKey(a.key) }

// Until is when the authority ends, and everything that it has issued.
func (a *Authority) Until() time.Time { return a.cert.NotAfter }

// Server issues a short-lived serving certificate for the loopback addresses, localhost and further names.
func (a *Authority) Server(name string, dnsNames ...string) (Pair, error) {
	return a.ServerFor(name, soon(), append([]string{"localhost", "127.0.0.1", "::1"}, dnsNames...)...)
}

// ServerFor issues a serving certificate for hosts: DNS names or IP addresses.
func (a *Authority) ServerFor(name string, v Validity, hosts ...string) (Pair, error) {
	return a.issue(name, v, nil, x509.ExtKeyUsageServerAuth, func(t *x509.Certificate) {
		for _, h := range hosts {
			if ip := net.ParseIP(h); ip != nil {
				t.IPAddresses = append(t.IPAddresses, ip)
			} else {
				t.DNSNames = append(t.DNSNames, h)
			}
		}
	})
}

// Client issues a short-lived client certificate for a user who is a member of groups, as kube-apiserver reads them.
func (a *Authority) Client(user string, groups ...string) (Pair, error) {
	return a.ClientFor(user, soon(), groups...)
}

// ClientFor is Client with a validity.
func (a *Authority) ClientFor(user string, v Validity, groups ...string) (Pair, error) {
	return a.issue(user, v, groups, x509.ExtKeyUsageClientAuth, func(*x509.Certificate) {})
}

func (a *Authority) issue(cn string, v Validity, orgs []string, usage x509.ExtKeyUsage, more func(*x509.Certificate)) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("making the key of %s: %w", cn, err)
	}
	t, err := template(cn, v)
	if err != nil {
		return Pair{}, err
	}
	t.Subject.Organization = orgs
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{usage}
	more(t)
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return Pair{}, fmt.Errorf("making the certificate of %s: %w", cn, err)
	}
	keyPEM, err := EncodeKey(key)
	if err != nil {
		return Pair{}, err
	}
	return Pair{Cert: encode("CERTIFICATE", der), Key: keyPEM}, nil
}

// NewSigningKey makes a key pair for signing tokens: private and public PEM.
func NewSigningKey() (private, public []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a signing key: %w", err)
	}
	if private, err = EncodeKey(key); err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("encoding a signing key: %w", err)
	}
	return private, encode("PUBLIC KEY", der), nil
}

// EncodeKey returns a private key in PEM (PKCS #8).
func EncodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a key: %w", err)
	}
	return encode("PRIVATE KEY", der), nil
}

func template(cn string, v Validity) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("making a serial number: %w", err)
	}
	return &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: cn}, NotBefore: v.From, NotAfter: v.Until}, nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
