package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
)

// RegisterHook makes GitLab send its system hooks to hookURL, with the secret of the configuration.
func RegisterHook(ctx context.Context, cfg *config.Config, hookURL string, verify bool, out io.Writer) error {
	u, err := url.Parse(hookURL)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.User != nil {
		return fmt.Errorf("--url: want https://HOST[:PORT]/hooks/gitlab, not %q", hookURL)
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
	created, err := registrar.Register(ctx, hookURL, secret, verify)
	if err != nil {
		return err
	}
	if created {
		fmt.Fprintf(out, "GitLab sends its system hooks to %s from now on.\n", hookURL)
	} else {
		fmt.Fprintf(out, "The system hook to %s was there; its secret and settings are set again.\n", hookURL)
	}
	return nil
}
