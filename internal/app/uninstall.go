package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/uninstall"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// Uninstall shows what the integrator has put into GitLab and the cluster and, if confirm is set, removes it. It returns how many
// things there were. It needs the rights of a cluster administrator.
func Uninstall(ctx context.Context, cfg *config.Config, confirm bool, log *slog.Logger, out io.Writer) (found int, err error) {
	c, err := connect(cfg)
	if err != nil {
		return 0, err
	}
	if err := uninstall.NobodyLeads(ctx, c.kube, time.Now()); err != nil {
		return 0, err
	}
	p, err := newProvisioner(cfg, c, log)
	if err != nil {
		return 0, err
	}
	steps := []uninstall.Step{uninstall.Credentials(c.kube, p)}
	if cfg.GitLab.WriteTokenFile == "" {
		fmt.Fprintln(out, "gitlab.writeTokenFile is not configured: system hooks and what projects were given stay in GitLab")
	} else {
		registrar, err := gitlab.NewHookRegistrar(gitlab.Options{
			BaseURL: cfg.GitLab.URL, Token: secretFile(cfg.GitLab.WriteTokenFile, "gitlab.writeTokenFile"), HTTPClient: c.gitlabHTTP, Logger: log,
		})
		if err != nil {
			return 0, err
		}
		id, err := ci.ClusterID(ctx, c.kube)
		if err != nil {
			return 0, err
		}
		steps = append([]uninstall.Step{uninstall.Hooks(registrar, gitlab.Claim{Cluster: id, Replaces: cfg.Cluster.Replaces})}, steps...)
	}
	steps = append(steps, uninstall.Bindings(c.kube), uninstall.Accounts(c.kube), uninstall.Marks(c.kube), uninstall.State(c.kube),
		uninstall.Manifests(&deploy.Installation{Client: c.dynamic}))
	found, err = uninstall.Run(ctx, steps, confirm, out)
	if err != nil {
		return found, err
	}
	if confirm {
		fmt.Fprintf(out, "Done. What stays: all namespaces with what people made in them, objects from templates among that; namespace %s with your configuration"+
			" (kubectl delete namespace %s); the flags and files of kube-apiserver.\n", deploy.Namespace, deploy.Namespace)
	} else {
		fmt.Fprintln(out, "Nothing was changed. Add --confirm to remove it, in this order.")
	}
	return found, nil
}
