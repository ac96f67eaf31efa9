package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

func historyCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "history --config FILE [-n NAMESPACE] [--user USER] [--since TIME] [--until TIME] [--at TIME] [-o json]",
		Short: "Show who gained and lost which right where, when and why, or who had what at a moment",
		Args:  cobra.NoArgs,
	}
	path := configFlag(cmd)
	var v app.HistoryView
	cmd.Flags().StringVarP(&v.Namespace, "namespace", "n", "", "only this namespace; without it and --user, the number of changes of each namespace")
	cmd.Flags().StringVar(&v.User, "user", "", "only this person: user name or id in GitLab")
	cmd.Flags().StringVar(&v.Since, "since", "", "not before this time: 2026-11-24T15:04:05Z, 2026-11-24, or how long ago, as 36h or 7d")
	cmd.Flags().StringVar(&v.Until, "until", "", "not after this time")
	cmd.Flags().StringVar(&v.At, "at", "", "who had what at this time")
	cmd.Flags().StringVarP(&v.Output, "output", "o", "text", "text or json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := v.Check(time.Now()); err != nil {
			return err
		}
		cfg, err := config.Load(*path)
		if err != nil {
			return err
		}
		return app.History(cmd.Context(), cfg, v, s.out)
	}
	return cmd
}
