package app

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/expiry"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
)

// apiServerCertificate is what kube-apiserver shows to the webhooks. Its file is kube-apiserver's, so no key of ours names it.
const apiServerCertificate = "client certificate of kube-apiserver"

// newTokens returns what asks GitLab when our tokens end.
func newTokens(cfg *config.Config, c *clients, reader *gitlab.Reader, log *slog.Logger) (*expiry.Tokens, error) {
	const readToken, writeToken = "gitlab.readTokenFile", "gitlab.writeTokenFile" //nolint:gosec // keys of the configuration
	tokens := []expiry.Token{{What: readToken, Read: secretFile(cfg.GitLab.ReadTokenFile, readToken), Ask: reader.TokenEnd}}
	if file := cfg.GitLab.WriteTokenFile; file != "" {
		read := secretFile(file, writeToken)
		w, err := gitlab.NewVariables(gitlab.Options{BaseURL: cfg.GitLab.URL, Token: read, HTTPClient: c.gitlabHTTP, Logger: log})
		if err != nil {
			return nil, fmt.Errorf("setting up the question when %s ends: %w", writeToken, err)
		}
		tokens = append(tokens, expiry.Token{What: writeToken, Read: read, Ask: w.TokenEnd})
	}
	return expiry.NewTokens(log, tokens...), nil
}

// certificateEnds returns when the certificates end that we serve, present or verify others with. Of listeners it tells of those
// in use. What can't be read is left out: whoever uses it says so.
func certificateEnds(cfg *config.Config, c *clients, servers []*httpserver.Server) []expiry.End {
	var out []expiry.End
	add := func(what string, at time.Time) {
		if !at.IsZero() {
			out = append(out, expiry.End{What: what, At: at})
		}
	}
	for _, s := range servers {
		ends := s.Ends()
		add("listeners."+s.Name()+".certFile", ends.Certificate)
		add("listeners."+s.Name()+".clientCAFile", ends.ClientCA)
		add(apiServerCertificate, ends.Clients)
	}
	file := func(what string, read func() ([]byte, error), of func([]byte) (time.Time, error)) {
		text, err := read()
		if err != nil {
			return
		}
		if at, err := of(text); err == nil {
			add(what, at)
		}
	}
	file("cluster.kubeconfig", c.shown, expiry.OfChainPEM)
	file("cluster.publicCAFile", c.publicCA, expiry.OfBundle)
	file("gitlab.caFile", gitlabCA(cfg.GitLab), expiry.OfBundle)
	return out
}
