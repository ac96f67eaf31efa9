package main

import (
	"github.com/spf13/cobra"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

// heldFlag adds --held to the plan command: what the running integrator holds back, instead of a plan of its own.
func heldFlag(cmd *cobra.Command, path *string, s streams) {
	held := cmd.Flags().Bool("held", false, "show the changes that the running integrator holds back, and how to approve them")
	plan := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !*held {
			return plan(cmd, args)
		}
		cfg, err := config.Load(*path)
		if err != nil {
			return err
		}
		n, err := app.Held(cmd.Context(), cfg, s.out)
		if err == nil && n > 0 {
			return errChanges
		}
		return err
	}
}

func approveCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "approve --config FILE HASH",
		Short: "Approve held changes, all or one part, by hash",
		Args:  cobra.ExactArgs(1),
	}
	path := configFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := config.Load(*path)
		if err != nil {
			return err
		}
		return app.Approve(cmd.Context(), cfg, args[0], s.out)
	}
	return cmd
}
