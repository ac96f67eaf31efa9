package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"slices"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// hookPath is where listeners.hooks takes system hooks.
const hookPath = "/hooks/gitlab"

// Registration is what `hooks register` is asked for.
type Registration struct {
	URL           string  // of listeners.hooks, as GitLab reaches it
	RewrittenPath bool    // a proxy makes hookPath of the URL's path
	Verify        bool    // GitLab verifies the certificate
	Remove        []int64 // ids of earlier hooks of ours
	Cluster       string  // id of this cluster; see ClusterID
}

// ClusterID returns the id of the configured cluster, which names it in GitLab.
func ClusterID(ctx context.Context, cfg *config.Config) (string, error) {
	c, err := connect(cfg)
	if err != nil {
		return "", err
	}
	return ci.ClusterID(ctx, c.kube)
}

// RegisterHook makes GitLab send its system hooks to a URL, with the secret of the configuration, and tells of the
// integrators' hooks that go elsewhere: nobody else knows whether they are still wanted.
func RegisterHook(ctx context.Context, cfg *config.Config, want Registration, out io.Writer) error {
	u, err := url.Parse(want.URL)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.User != nil {
		return fmt.Errorf("--url: want https://HOST[:PORT]%s, not %q", hookPath, want.URL)
	}
	if u.Path != hookPath && !want.RewrittenPath {
		return fmt.Errorf("--url: the path of %q is not %s, where listeners.hooks takes hooks: correct it, or add --rewritten-path if a proxy changes the path to that", want.URL, hookPath)
	}
	if cfg.Listeners.Hooks.SecretFile == "" {
		return errors.New("listeners.hooks.secretFile is not configured: the hook needs a secret that GitLab sends along")
	}
	if cfg.GitLab.WriteTokenFile == "" {
		return errors.New("gitlab.writeTokenFile is not configured: installing a system hook needs an administrator's token with the scope api")
	}
	secret, err := secretFile(cfg.Listeners.Hooks.SecretFile, "listeners.hooks.secretFile")()
	if err != nil {
		return err
	}
	client, err := gitlabClient(cfg.GitLab)
	if err != nil {
		return err
	}
	registrar, err := gitlab.NewHookRegistrar(gitlab.Options{
		BaseURL: cfg.GitLab.URL, Token: secretFile(cfg.GitLab.WriteTokenFile, "gitlab.writeTokenFile"),
		HTTPClient: client, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	if err := registrar.Supported(ctx); err != nil {
		return err
	}
	claim := gitlab.Claim{Cluster: want.Cluster, Replaces: cfg.Cluster.Replaces}
	others, err := registrar.Others(ctx, want.URL, claim)
	if err != nil {
		return err
	}
	for _, id := range want.Remove {
		i := slices.IndexFunc(others, func(h gitlab.SystemHook) bool { return h.ID == id })
		if i >= 0 && others[i].Other {
			return fmt.Errorf("--remove: system hook %d belongs to another cluster (id %q); nothing was changed: add the id to cluster.replaces if that cluster is no more", id, others[i].Cluster)
		}
		if i < 0 {
			return fmt.Errorf("--remove: system hook %d is not an earlier one of an integrator; nothing was changed: look at the hooks in GitLab's admin area", id)
		}
	}
	created, err := registrar.Register(ctx, want.URL, secret, want.Verify, claim)
	if err != nil {
		return err
	}
	if created {
		fmt.Fprintf(out, "GitLab sends its system hooks to %s from now on.\n", want.URL)
	} else {
		fmt.Fprintf(out, "The system hook to %s was there; its secret and settings are set again.\n", want.URL)
	}
	for _, h := range others {
		if h.Other {
			fmt.Fprintf(out, "GitLab also sends its system hooks to %s (hook %d), for another cluster (id %q).\n", h.URL, h.ID, h.Cluster)
			continue
		}
		if !slices.Contains(want.Remove, h.ID) {
			fmt.Fprintf(out, "GitLab also sends its system hooks to %s (hook %d). If no integrator is there any more, add --remove %d.\n", h.URL, h.ID, h.ID)
			continue
		}
		if err := registrar.Remove(ctx, h.ID); err != nil {
			return err
		}
		fmt.Fprintf(out, "The system hook to %s (hook %d) is removed.\n", h.URL, h.ID)
	}
	return nil
}
