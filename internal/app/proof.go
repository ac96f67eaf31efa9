package app

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"os"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// prover makes the proof that an identity comes from a login and not from somebody who asks about it
// (docs/adr/0011-proof-of-the-asker.md).
type prover struct{ key []byte }

// newProver derives the key from the webhooks' TLS key, which all replicas share and nobody else has.
func newProver(keyFile string) (prover, error) {
	secret, err := os.ReadFile(keyFile)
	if err != nil {
		return prover{}, fmt.Errorf("reading listeners.webhooks.keyFile: %w", err)
	}
	key, err := hkdf.Key(sha256.New, secret, nil, "gl-k8s-integrator proof of the asker", sha256.Size)
	if err != nil {
		return prover{}, fmt.Errorf("deriving a key from listeners.webhooks.keyFile: %w", err)
	}
	return prover{key: key}, nil
}

// of returns the proof of an identity: 128 bits, the same at each login.
func (p prover) of(username string) string {
	mac := hmac.New(sha256.New, p.key)
	mac.Write([]byte(username))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16])
}

// proving adds the proof to every identity that the Authenticator gives.
type proving struct {
	authn.Authenticator
	prover prover
}

// Authenticate implements authn.Authenticator.
func (p proving) Authenticate(ctx context.Context, token string) (authn.Identity, error) {
	id, err := p.Authenticator.Authenticate(ctx, token)
	if err != nil {
		return id, err
	}
	extra := make(map[string][]string, len(id.Extra)+1)
	maps.Copy(extra, id.Extra)
	extra[kubename.ExtraProof] = []string{p.prover.of(id.Username)}
	id.Extra = extra
	return id, nil
}
