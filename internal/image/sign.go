package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
)

// sign writes the signature of a file beside it, as `openssl dgst -sha256 -verify` reads it (ECDSA, ASN.1). It takes
// nothing by chance (RFC 6979), so that it is the same again. Without a key it takes away a signature of before.
func sign(keyFile, path string) error {
	if keyFile == "" {
		if err := os.Remove(path + ".sig"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("removing the signature of a file that is no more: %w", err)
		}
		return nil
	}
	key, err := readKey(keyFile)
	if err != nil {
		return fmt.Errorf("reading the key %s: %w", keyFile, err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading what is to be signed: %w", err)
	}
	sum := sha256.Sum256(content)
	signature, err := key.Sign(nil, sum[:], crypto.SHA256)
	if err != nil {
		return fmt.Errorf("signing %s: %w", path, err)
	}
	if err := os.WriteFile(path+".sig", signature, 0o644); err != nil {
		return fmt.Errorf("writing the signature: %w", err)
	}
	return nil
}

// readKey reads a private key in the form of PKCS #8 or SEC 1, as `openssl genpkey` and `openssl ecparam -genkey` write it.
func readKey(path string) (*ecdsa.PrivateKey, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		var key *ecdsa.PrivateKey
		switch block.Type {
		case "EC PRIVATE KEY":
			if key, err = x509.ParseECPrivateKey(block.Bytes); err != nil {
				return nil, err
			}
		case "PRIVATE KEY":
			parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, err
			}
			key, _ = parsed.(*ecdsa.PrivateKey)
		default: // the parameters of the curve, say
			continue
		}
		if key == nil || key.Curve != elliptic.P256() {
			return nil, errors.New("it is no ECDSA key on the curve P-256: make one with openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256")
		}
		return key, nil
	}
	return nil, errors.New("it holds no private key in PEM")
}
