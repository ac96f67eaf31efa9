package gitlabsim

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/go-jose/go-jose/v4"
)

// signing holds the two keys of the JWKS: one signs user ID tokens, the other CI job ID tokens. Nothing in the
// JWKS says which is which.
type signing struct {
	mu       sync.Mutex
	user, ci *rsa.PrivateKey
	secret   string // secret_key_base, for sub_legacy
}

func newSigning(user, ci *rsa.PrivateKey) (*signing, error) {
	s := &signing{user: user, ci: ci, secret: randomHex(32)}
	for _, k := range []**rsa.PrivateKey{&s.user, &s.ci} {
		if *k == nil {
			key, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil {
				return nil, fmt.Errorf("making a signing key: %w", err)
			}
			*k = key
		}
	}
	return s, nil
}

func (k *signing) rotate(key **rsa.PrivateKey) error {
	fresh, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fmt.Errorf("making a signing key: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	*key = fresh
	return nil
}

func publicKey(key *rsa.PrivateKey) (jose.JSONWebKey, error) {
	jwk := jose.JSONWebKey{Key: &key.PublicKey, Use: "sig", Algorithm: "RS256"}
	sum, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return jwk, fmt.Errorf("computing a key id: %w", err)
	}
	jwk.KeyID = base64.RawURLEncoding.EncodeToString(sum)
	return jwk, nil
}

func (k *signing) jwks() (jose.JSONWebKeySet, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var set jose.JSONWebKeySet
	for _, key := range []*rsa.PrivateKey{k.user, k.ci} {
		jwk, err := publicKey(key)
		if err != nil {
			return set, err
		}
		// GitLab's list is uniq: one key for both is possible.
		if len(set.Key(jwk.KeyID)) == 0 {
			set.Keys = append(set.Keys, jwk)
		}
	}
	return set, nil
}

func sign(key *rsa.PrivateKey, claims map[string]any) (string, error) {
	jwk, err := publicKey(key)
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key},
		(&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", jwk.KeyID))
	if err != nil {
		return "", fmt.Errorf("preparing a signature: %w", err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encoding claims: %w", err)
	}
	object, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("signing: %w", err)
	}
	return object.CompactSerialize()
}
