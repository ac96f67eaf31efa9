package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

func statusCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status --config FILE [-o json]",
		Short: "Show in one line whether it works; then the leader, the last login and hook, the last round, the age of what is known of GitLab, findings and requests",
		Args:  cobra.NoArgs,
	}
	path := configFlag(cmd)
	output := cmd.Flags().StringP("output", "o", "text", "text or json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *output != "text" && *output != "json" {
			return fmt.Errorf("-o: want text or json, not %q", *output)
		}
		cfg, err := config.Load(*path)
		if err != nil {
			return err
		}
		if *output == "json" {
			return app.StatusJSON(cmd.Context(), cfg, s.out)
		}
		return app.Status(cmd.Context(), cfg, s.out)
	}
	return cmd
}

func hooksCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use: "hooks", Short: "The system hooks by which GitLab reports changes", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }, // without it a mistyped command would be help and exit 0
	}
	register := &cobra.Command{
		Use:   "register --config FILE --url URL",
		Short: "Create the system hook in GitLab, or update its secret and settings",
		Args:  cobra.NoArgs,
	}
	path := configFlag(register)
	url := register.Flags().String("url", "", "address of listeners.hooks as GitLab reaches it, with the path /hooks/gitlab (required)")
	rewritten := register.Flags().Bool("rewritten-path", false, "the URL has another path, which a proxy rewrites to /hooks/gitlab")
	remove := register.Flags().Int64Slice("remove", nil, "ids of old hooks of the integrator to delete, as this command lists them")
	cluster := register.Flags().String("cluster-id", "", "UID of the cluster's namespace kube-system (default: read from the cluster)")
	insecure := register.Flags().Bool("insecure-skip-tls-verify", false, "tell GitLab not to verify the certificate of that address")
	if err := register.MarkFlagRequired("url"); err != nil {
		panic(err) // only for a flag that does not exist
	}
	register.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(*path)
		if err != nil {
			return err
		}
		want := app.Registration{URL: *url, RewrittenPath: *rewritten, Verify: !*insecure, Remove: *remove, Cluster: *cluster}
		if want.Cluster == "" {
			if want.Cluster, err = app.ClusterID(cmd.Context(), cfg); err != nil {
				return fmt.Errorf("%w: give --cluster-id, which `kubectl get namespace kube-system -o jsonpath={.metadata.uid}` prints", err)
			}
		}
		return app.RegisterHook(cmd.Context(), cfg, want, s.out)
	}
	cmd.AddCommand(register)
	return cmd
}
