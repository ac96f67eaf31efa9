package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

func planCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plan --config FILE",
		Short: "Show what would change, for whom and why; exit 0: nothing in the cluster, 2: changes, 1: error",
		Args:  cobra.NoArgs,
	}
	path := configFlag(cmd)
	var v app.PlanView
	cmd.Flags().StringVarP(&v.Namespace, "namespace", "n", "", "show only this namespace")
	cmd.Flags().StringVar(&v.User, "user", "", "show only this person, by user name or id in GitLab")
	cmd.Flags().StringVarP(&v.Output, "output", "o", "text", "text, json or yaml")
	cmd.Flags().StringVar(&v.Colour, "color", "auto", "auto, always or never; auto: on a terminal, unless NO_COLOR is set")
	cmd.Flags().StringVar(&v.Offline, "offline", "", "make the plan from a file of snapshot save, without GitLab and the cluster")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := v.Check(); err != nil {
			return err
		}
		changes, err := showPlan(cmd.Context(), *path, s, v)
		if err == nil && changes > 0 {
			return errChanges
		}
		return err
	}
	heldFlag(cmd, path, s)
	for _, other := range []string{"namespace", "user", "output", "color", "offline"} {
		cmd.MarkFlagsMutuallyExclusive("held", other)
	}
	return cmd
}

func showPlan(ctx context.Context, path string, s streams, v app.PlanView) (changes int, err error) {
	cfg, err := config.Load(path)
	if err != nil {
		return 0, err
	}
	return app.Plan(ctx, cfg, warnings(s.err), s.out, s.err, v)
}

func snapshotCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Save what a plan is made from",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	save := &cobra.Command{
		Use:   "save --config FILE TO",
		Short: "Read GitLab and the cluster, and write what a plan needs of them into a file for plan --offline; no secret is in it",
		Args:  cobra.ExactArgs(1),
	}
	path := configFlag(save)
	save.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := config.Load(*path)
		if err != nil {
			return err
		}
		return app.SaveSnapshot(cmd.Context(), cfg, warnings(s.err), args[0], s.out, s.err)
	}
	cmd.AddCommand(save)
	return cmd
}

func syncCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sync --config FILE [--confirm]",
		Short: "Run one full round, in the cluster and in GitLab; without --confirm only show the plan (exit 0)",
		Args:  cobra.NoArgs,
	}
	path := configFlag(cmd)
	confirm := cmd.Flags().Bool("confirm", false, "make the changes (whatever rbacsync.mode says)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *confirm {
			cfg, err := config.Load(*path)
			if err != nil {
				return err
			}
			return app.Sync(cmd.Context(), cfg, warnings(s.err), s.out, s.err)
		}
		changes, err := showPlan(cmd.Context(), *path, s, app.PlanView{})
		if err == nil && changes > 0 {
			fmt.Fprintln(s.out, "Nothing was changed. Add --confirm to make these changes (not beside a running serve).")
		}
		return err
	}
	return cmd
}
