package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeconfig"
)

func kubeconfigCommand(s streams) *cobra.Command {
	var variants []string
	for _, v := range kubeconfig.Variants() {
		variants = append(variants, string(v))
	}
	cmd := &cobra.Command{
		Use:   "kubeconfig --config FILE [--variant VARIANT] [-n NAMESPACE]…",
		Short: "Print the kubeconfig for people, without a secret: kubelogin logs them in through GitLab",
		Long: "Prints the kubeconfig for people. There is no secret in it, so that it can be put where everybody finds it.\n" +
			"Several --config make one file for several clusters; then -n takes CLUSTER/NAMESPACE. docs/kubeconfig.md says more.",
		Args: cobra.NoArgs,
	}
	paths := cmd.Flags().StringArray("config", nil, "path of the configuration file (required); several make a file for several clusters")
	if err := cmd.MarkFlagRequired("config"); err != nil {
		panic(err) // only for a flag that does not exist
	}
	variant := cmd.Flags().String("variant", string(kubeconfig.Default), strings.Join(variants, ", "))
	namespaces := cmd.Flags().StringArrayP("namespace", "n", nil, "a namespace that gets a context; the first one is the current context")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var cfgs []*config.Config
		for _, path := range *paths {
			cfg, err := config.Load(path)
			if err != nil {
				return err
			}
			cfgs = append(cfgs, cfg)
		}
		return app.Kubeconfig(cmd.Context(), cfgs, *variant, *namespaces, warnings(s.err), s.out)
	}
	return cmd
}
