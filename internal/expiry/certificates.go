// Package expiry knows when certificates and tokens end.
//
// It asks GitLab about tokens beside all else, and reads certificates when it is asked. It holds no secret, and renews nothing.
package expiry

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// End says when something stops working. What is the key of the configuration that names it, if one does.
type End struct {
	What string
	At   time.Time
}

var errNoCertificate = errors.New("it holds no PEM certificate")

// OfChain returns when the first certificate of a chain in DER ends: one that ended makes all of it worthless.
func OfChain(chain [][]byte) (time.Time, error) {
	var first time.Time
	for _, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return time.Time{}, fmt.Errorf("reading a certificate of the chain: %w", err)
		}
		if first.IsZero() || c.NotAfter.Before(first) {
			first = c.NotAfter
		}
	}
	if first.IsZero() {
		return time.Time{}, errNoCertificate
	}
	return first, nil
}

// OfChainPEM is OfChain for certificates in PEM. What else is in the text, such as a key, is skipped.
func OfChainPEM(text []byte) (time.Time, error) { return OfChain(certificates(text)) }

// OfBundle returns when the last CA certificate in PEM ends: a bundle also holds those that are on their way out. As
// crypto/x509 does, it skips what it can't read.
func OfBundle(text []byte) (time.Time, error) {
	var last time.Time
	for _, der := range certificates(text) {
		if c, err := x509.ParseCertificate(der); err == nil && c.NotAfter.After(last) {
			last = c.NotAfter
		}
	}
	if last.IsZero() {
		return time.Time{}, errNoCertificate
	}
	return last, nil
}

func certificates(text []byte) (chain [][]byte) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return chain
		}
		if block.Type == "CERTIFICATE" {
			chain = append(chain, block.Bytes)
		}
	}
}
