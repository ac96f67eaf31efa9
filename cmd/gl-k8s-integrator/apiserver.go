package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

func apiserverConfigCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "apiserver-config --config FILE [--flags | --eks CLUSTER]",
		Short: "Print what lets kube-apiserver judge GitLab's tokens by itself",
		Long: "Prints kube-apiserver's AuthenticationConfiguration, for people and CI jobs. With --flags the older --oidc flags, and with --eks\n" +
			"the identity provider for a cluster of EKS: both for people alone. docs/login.md says what is lost and won.",
		Args: cobra.NoArgs,
	}
	path := configFlag(cmd)
	flags := cmd.Flags().Bool("flags", false, "print kube-apiserver's --oidc flags")
	eks := cmd.Flags().String("eks", "", "print an identity provider for the cluster of EKS with this name")
	folder := cmd.Flags().String("folder", app.APIServerFolder, "folder of the files on a control-plane node, for --flags")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		form := app.FormStructured
		switch {
		case *flags && *eks != "":
			return errors.New("--flags and --eks: give one of them")
		case *flags:
			form = app.FormFlags
		case *eks != "":
			form = app.FormEKS
		}
		cfg, err := config.Load(*path)
		if err != nil {
			return err
		}
		return app.APIServerConfig(cfg, form, *folder, *eks, warnings(s.err), s.out)
	}
	return cmd
}

func fenceFilesCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fence-files --config FILE --out FOLDER",
		Short: "Write the admission policies as files of kube-apiserver (1.37), which nobody can delete through the API",
		Args:  cobra.NoArgs,
	}
	path := configFlag(cmd)
	out := cmd.Flags().String("out", "", "folder to write to (required)")
	if err := cmd.MarkFlagRequired("out"); err != nil {
		panic(err) // only for a flag that does not exist
	}
	folder := cmd.Flags().String("folder", app.APIServerFolder, "where that folder will be on a control-plane node")
	cmd.RunE = func(*cobra.Command, []string) error {
		cfg, err := config.Load(*path)
		if err != nil {
			return err
		}
		return app.FenceFiles(cfg, *out, *folder, s.out)
	}
	return cmd
}
