//go:build unix

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
)

const configFile = `apiVersion: gl-k8s-integrator/v1alpha1
kind: Config
gitlab: {url: %q, caFile: %[2]s/gitlab-ca.crt, readTokenFile: %[2]s/none, writeTokenFile: %[2]s/none}
listeners:
  webhooks: {address: "127.0.0.1:0", certFile: %[2]s/tls.crt, keyFile: %[2]s/tls.key, clientCAFile: %[2]s/ca.crt}
authn: {clientIDs: [%[3]s], keyRefresh: 24h, ci: {audience: %[4]q}}
ci: {delivery: id-token}
`

// measure starts what is measured and drives the whole comparison.
func measure(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "bench-authn-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	authority, err := localcert.NewAuthority("bench")
	if err != nil {
		return err
	}
	gitlab, err := newIssuer()
	if err != nil {
		return err
	}
	defer gitlab.server.Close()
	if err := writeFiles(dir, authority, gitlab); err != nil {
		return err
	}
	identity, err := authority.Client("kube-apiserver")
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(identity.Cert, identity.Key)
	if err != nil {
		return err
	}

	fmt.Fprintf(os.Stderr, "signing %d tokens\n", o.tokens)
	bodies, err := gitlab.valid(o.tokens)
	if err != nil {
		return err
	}

	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority.PEM)
	webhook, err := startTarget(ctx, "webhook", dir, o, pool, pair)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, webhook.stop()) }()
	null, err := startTarget(ctx, "null", dir, o, pool, pair)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, null.stop()) }()

	b := &bench{o: o, gitlab: gitlab, webhook: webhook, null: null}
	valid := &load{bodies: bodies, want: []byte(`"authenticated":true`)}
	rate, err := b.beside(ctx, valid)
	if err != nil {
		return err
	}
	b.crowds(ctx, people(bodies))
	b.halfLoad(ctx, valid, rate/2)
	if !o.quick {
		if err := b.reloads(ctx, valid, dir, authority); err != nil {
			return err
		}
		if err := b.memory(ctx, valid); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return b.err
}

// writeFiles writes what the measured processes read.
func writeFiles(dir string, authority *localcert.Authority, gitlab *issuer) error {
	server, err := authority.Server("webhook")
	if err != nil {
		return err
	}
	gitlabCA := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: gitlab.server.Certificate().Raw})
	for name, content := range map[string][]byte{
		"tls.crt": server.Cert, "tls.key": server.Key, "ca.crt": authority.PEM, "gitlab-ca.crt": gitlabCA,
		"config.yaml": fmt.Appendf(nil, configFile, gitlab.server.URL, dir, clientID, ciAudience),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}
