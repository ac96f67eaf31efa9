package main

import (
	"cmp"

	"github.com/spf13/cobra"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

func uninstallCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "uninstall --config FILE",
		Short: "Show what the integrator has put into GitLab and the cluster; with --confirm remove it",
		Long: "Shows, step by step, what the integrator has put into GitLab and into the cluster, and with --confirm removes it: hooks and CI credentials first, then all rights,\n" +
			"the marks on namespaces, and the tenant fence last. Namespaces stay, with all that is in them. Whoever is interrupted calls it again.",
		Args: cobra.NoArgs,
	}
	path := configFlag(cmd)
	confirm := cmd.Flags().Bool("confirm", false, "remove it")
	kubeconfig := cmd.Flags().String("kubeconfig", "", "of a cluster administrator (default: cluster.kubeconfig of the configuration)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(*path)
		if err != nil {
			return err
		}
		cfg.Cluster.Kubeconfig = cmp.Or(*kubeconfig, cfg.Cluster.Kubeconfig)
		_, err = app.Uninstall(cmd.Context(), cfg, *confirm, warnings(s.err), s.out)
		return err
	}
	return cmd
}
