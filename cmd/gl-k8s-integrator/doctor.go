package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
)

// exitBlind is the exit status of doctor when nothing is wrong in what it could look at, and it could not look at all.
const exitBlind = 2

// What doctor ends with besides nil: results, not faults.
var (
	errUnwell = errors.New("something is wrong")
	errBlind  = errors.New("not everything could be looked at")
)

func doctorCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor --config FILE [--kubeconfig FILE] [--authn-kubeconfig FILE] [--authz-config FILE] [--apiserver-flags FILE]",
		Short: "Find out what is wrong with an installation; exit 0: nothing, 1: something, 2: could not look",
		Args:  cobra.NoArgs,
	}
	e := app.Examination{}
	path := configFlag(cmd)
	output := cmd.Flags().StringP("output", "o", "text", "text or json")
	cmd.Flags().StringVar(&e.Kubeconfig, "kubeconfig", "", "an administrator's kubeconfig, which sees more than the integrator's own (default: cluster.kubeconfig)")
	cmd.Flags().StringVar(&e.AuthnKubeconfig, "authn-kubeconfig", "", "the kubeconfig that kube-apiserver has for --authentication-token-webhook-config-file")
	cmd.Flags().StringVar(&e.AuthzConfig, "authz-config", "", "the file that kube-apiserver has for --authorization-config")
	cmd.Flags().StringVar(&e.AuthnConfig, "authn-config", "", "the file that kube-apiserver has for --authentication-config, if it judges GitLab's tokens by itself")
	cmd.Flags().StringVar(&e.APIServerFlags, "apiserver-flags", "", "what kube-apiserver is started with: its static pod, kubeadm's ClusterConfiguration, config.yaml of k3s or RKE2, or its command line (default: the cluster is asked)")
	cmd.Flags().StringSliceVar(&e.Metrics, "metrics", nil, "URLs of /metrics of all integrators (default: listeners.metrics of this machine)")
	cmd.Flags().BoolVar(&e.TestHook, "test-hook", false, "have GitLab send its sample event to the system hook, and see whether it arrives")
	cmd.Flags().BoolVar(&e.NoFiles, "no-files", false, "don't check certificates, tokens and other files, because they are on another machine")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *output != "text" && *output != "json" {
			return fmt.Errorf("-o: want text or json, not %q", *output)
		}
		e.ConfigFile = *path
		r := app.Doctor(cmd.Context(), e)
		if *output == "json" {
			if err := r.PrintJSON(s.out); err != nil {
				return err
			}
		} else {
			r.Print(s.out)
		}
		switch {
		case len(r.Problems) > 0:
			return errUnwell
		case !r.Healthy:
			return errBlind
		}
		return nil
	}
	return cmd
}
