package localcert

import (
	"crypto/x509"
	"encoding/pem"
	"testing"
)

// TestAnAuthorityForOneHost: who trusts it trusts it with that host alone, also after it was stored.
func TestAnAuthorityForOneHost(t *testing.T) {
	for _, only := range []string{"a.example.com", "192.0.2.1", "2001:db8::1"} {
		made, err := NewAuthorityFor("one", soon(), only)
		if err != nil {
			t.Fatal(err)
		}
		key, err := made.Key()
		if err != nil {
			t.Fatal(err)
		}
		a, err := LoadAuthority(made.PEM, key)
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(a.PEM)
		for _, host := range []string{"a.example.com", "gitlab.example.com", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"} {
			p, err := a.ServerFor("x", soon(), host)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := pem.Decode(p.Cert)
			cert, err := x509.ParseCertificate(b.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, DNSName: host}); (err == nil) != (host == only) {
				t.Errorf("the authority for %s about %s: %v", only, host, err)
			}
		}
		other, err := NewAuthority("other")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := LoadAuthority(other.PEM, key); err == nil {
			t.Error("another authority's key is taken")
		}
	}
}
