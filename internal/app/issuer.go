package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
)

// proveIssuer returns nil if the GitLab at this URL calls itself by it. Else nobody's token is good here, and all namespaces
// would be marked as those of another GitLab. Source: OpenID Connect Discovery 1.0, 4.3.
func proveIssuer(ctx context.Context, client *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	at := url + "/.well-known/openid-configuration"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return fmt.Errorf("gitlab.url: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("asking GitLab for its own name: %w", err)
	}
	defer resp.Body.Close()
	const hint = "check that gitlab.url is GitLab's external_url, and that a proxy lets this path through"
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("asking GitLab for its own name: %s answers %s: %s", at, resp.Status, hint)
	}
	var doc struct {
		Issuer string `json:"issuer"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&doc); err != nil || doc.Issuer == "" {
		return fmt.Errorf("asking GitLab for its own name: %s answers no discovery document with an issuer: %s", at, hint)
	}
	if doc.Issuer != url {
		return fmt.Errorf("gitlab.url is %q, but that GitLab calls itself %q: write the URL as GitLab does, or correct its external_url", url, doc.Issuer)
	}
	return nil
}

// provenReader reads a GitLab that has proven its name, once in each process, and nothing of any other. So what is marked
// in the cluster carries a name that GitLab's tokens carry too; what was read before goes on while GitLab is away.
type provenReader struct {
	*gitlab.Reader
	prove     func(context.Context) error
	tokenFile string
	done      atomic.Bool
}

// Snapshot implements rbacsync.Reader.
func (r *provenReader) Snapshot(ctx context.Context) (*authz.Snapshot, error) {
	if err := r.proven(ctx); err != nil {
		return nil, err
	}
	s, err := r.Reader.Snapshot(ctx)
	return s, r.named(err)
}

// Refresh implements rbacsync.Reader.
func (r *provenReader) Refresh(ctx context.Context, base *authz.Snapshot, changed []authz.SourceID) (*authz.Snapshot, error) {
	if err := r.proven(ctx); err != nil {
		return nil, err
	}
	s, err := r.Reader.Refresh(ctx, base, changed)
	return s, r.named(err)
}

// named adds to GitLab's refusal of the token which file it is in.
func (r *provenReader) named(err error) error {
	if errors.Is(err, gitlab.ErrUnauthorized) {
		return fmt.Errorf("with the token in gitlab.readTokenFile %s: %w", r.tokenFile, err)
	}
	return err
}

func (r *provenReader) proven(ctx context.Context) error {
	if r.done.Load() {
		return nil
	}
	if err := r.prove(ctx); err != nil {
		return err
	}
	r.done.Store(true)
	return nil
}
