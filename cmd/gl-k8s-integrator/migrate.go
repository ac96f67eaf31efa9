package main

import (
	"github.com/spf13/cobra"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

func migrateCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate --config FILE",
		Short: "Propose which namespaces of an earlier service to take over, and show the plan; exit 0: nothing to do, 2: something, 1: error",
		Long: "Reads GitLab and the cluster, and writes nothing. It looks for what the integrator of 2018 and GitLab's certificate integration have left, proposes entries for rbacsync.adopt by\n" +
			"id, says what a person has to decide and why, and shows the plan that follows. It fails if that plan would delete something or take something from anybody.",
		Args: cobra.NoArgs,
	}
	path := configFlag(cmd)
	var v app.MigrateView
	cmd.Flags().StringSliceVar(&v.From, "from", nil, "2018 or certificate (default: both)")
	cmd.Flags().StringVar(&v.Environment, "env", "", "a file with the environment of the integrator of 2018, one NAME=value a line")
	cmd.Flags().StringVarP(&v.Output, "output", "o", "text", "text, json or yaml")
	cmd.Flags().StringVar(&v.Colour, "color", "auto", "auto, always or never; auto: on a terminal, unless NO_COLOR is set")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := v.Check(); err != nil {
			return err
		}
		cfg, err := config.Load(*path)
		if err != nil {
			return err
		}
		todo, err := app.Migrate(cmd.Context(), cfg, warnings(s.err), s.out, s.err, v)
		if err == nil && todo > 0 {
			return errChanges
		}
		return err
	}
	return cmd
}
