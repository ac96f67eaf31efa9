package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/setup"
)

func initCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "init DIR --gitlab URL --client-id ID --read-token-file FILE --distribution NAME --run HOW",
		Short: "Make a new folder with all that an installation needs, and the commands in order",
		Args:  cobra.ExactArgs(1),
	}
	answers := cmd.Flags().String("answers", "", "file with answers: a YAML map whose keys are the flags below; flags go before it")
	var given setup.Answers
	texts := answerFlags(cmd, &given)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		a := given
		if *answers != "" {
			var err error
			if a, err = setup.LoadAnswers(*answers); err != nil {
				return err
			}
			own := texts(&a)
			for name, value := range texts(&given) {
				if cmd.Flags().Changed(name) {
					*own[name] = *value
				}
			}
			if cmd.Flags().Changed("client-id") {
				a.ClientIDs = given.ClientIDs
			}
		}
		return setup.Init(cmd.Context(), args[0], a, time.Now(), s.out)
	}
	cmd.AddCommand(initRenewCommand(s), initKubeconfigCommand(), initCertificatesCommand(s), initAPIServerCommand(s))
	return cmd
}

// answerFlags adds a flag for each answer. It returns where the answers that are one text stand, by flag.
func answerFlags(cmd *cobra.Command, a *setup.Answers) func(*setup.Answers) map[string]*string {
	texts := func(a *setup.Answers) map[string]*string {
		return map[string]*string{
			"gitlab": &a.GitLab, "gitlab-ca-file": &a.GitLabCAFile, "read-token-file": &a.ReadTokenFile, "write-token-file": &a.WriteTokenFile,
			"distribution": &a.Distribution, "run": &a.Run, "apiserver-url": &a.APIServerURL, "webhook-address": &a.WebhookAddress,
			"hooks-url": &a.HooksURL, "hooks-listen": &a.HooksListen, "metrics-listen": &a.MetricsListen, "image": &a.Image,
			"install": &a.Install, "certificates": &a.Certificates, "hooks-issuer": &a.HooksIssuer, "kubeconfig": &a.Kubeconfig,
			"config-dir": &a.ConfigDir, "apiserver-dir": &a.APIServerDir,
		}
	}
	usage := map[string]string{ //nolint:gosec // explanations
		"gitlab":           "URL of GitLab, as it writes it into its tokens",
		"gitlab-ca-file":   "PEM file with the CA of GitLab's certificate (default: the system's)",
		"read-token-file":  "file with an access token of an administrator, scope read_api",
		"write-token-file": "file with an access token, scope api, that writes CI/CD variables (default: CI gets none)",
		"distribution":     "how kube-apiserver is started: " + strings.Join(setup.Distributions, ", "),
		"run":              "how the integrator runs: " + strings.Join(setup.Runs, ", "),
		"install":          "how pods get into the cluster: " + strings.Join(setup.Installs, ", ") + " (default " + setup.Manifests + ")",
		"certificates":     "who makes the certificates of pods and kube-apiserver: " + strings.Join(setup.Certificates, ", ") + " (default " + setup.Own + ")",
		"hooks-issuer":     "ClusterIssuer of cert-manager, which GitLab trusts, for the hooks' certificate (default: an authority of init's own)",
		"kubeconfig":       "kubeconfig of a cluster administrator, for a look at the cluster (default: as kubectl finds it)",
		"apiserver-url":    "kube-apiserver as CI jobs and laptops reach it (default: that of the kubeconfig; required with --run in-cluster)",
		"webhook-address":  "where kube-apiserver reaches the integrator (default 127.0.0.1:8443; with --run in-cluster the Service's IP and 8443)",
		"hooks-url":        "https://HOST[:PORT]/hooks/gitlab, where GitLab reaches the integrator (default: no hooks)",
		"hooks-listen":     "where the integrator takes hooks (default 0.0.0.0:8444)",
		"metrics-listen":   "where the integrator shows metrics and health (default 127.0.0.1:9090, in a pod 0.0.0.0:9090)",
		"image":            "the image that you have built (required with --run in-cluster)",
		"config-dir":       "the integrator's folder on its machine (default /etc/gl-k8s-integrator)",
		"apiserver-dir":    "kube-apiserver's folder on its machine (default /etc/kubernetes/gl-k8s-integrator)",
	}
	for name, into := range texts(a) {
		cmd.Flags().StringVar(into, name, "", usage[name])
	}
	cmd.Flags().StringSliceVar(&a.ClientIDs, "client-id", nil, "id of the application in GitLab that kubelogin uses")
	return texts
}

func initRenewCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "renew DIR",
		Short: "Make new certificates in a new folder below one that init made; old and new ones work together",
		Args:  cobra.ExactArgs(1),
	}
	path := adminFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return setup.Renew(cmd.Context(), args[0], *path, time.Now(), s.out)
	}
	return cmd
}

// adminFlag is for commands that read the cluster.
func adminFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("kubeconfig", "", "kubeconfig of a cluster administrator (default: that of the answers, else as kubectl finds it)")
}

func initCertificatesCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "certificates DIR",
		Short: "Read what cert-manager made for kube-apiserver from the cluster into the folder",
		Args:  cobra.ExactArgs(1),
	}
	path := adminFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return setup.FetchCertificates(cmd.Context(), args[0], *path, s.out)
	}
	return cmd
}

func initKubeconfigCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kubeconfig DIR",
		Short: "Read the integrator's own credentials from the cluster into the folder",
		Args:  cobra.ExactArgs(1),
	}
	path := adminFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return setup.Kubeconfig(cmd.Context(), args[0], *path) }
	return cmd
}

func initAPIServerCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "apiserver DIR [--write] [FILE]",
		Short: "Add what the folder needs to kube-apiserver's static pod or kubeadm's configuration, and print it",
		Args:  cobra.RangeArgs(1, 2),
	}
	write := cmd.Flags().Bool("write", false, "replace FILE instead; what it was is kept in the folder")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if *write {
			if len(args) != 2 {
				return fmt.Errorf("--write: name the file to replace")
			}
			return setup.MergeFile(args[0], args[1])
		}
		in := s.in
		if len(args) == 2 {
			f, err := os.Open(args[1])
			if err != nil {
				return fmt.Errorf("reading what starts kube-apiserver: %w", err)
			}
			defer f.Close()
			in = f
		}
		data, err := io.ReadAll(io.LimitReader(in, 4<<20))
		if err != nil {
			return fmt.Errorf("reading what starts kube-apiserver: %w", err)
		}
		merged, err := setup.Merge(args[0], data)
		if err != nil {
			return err
		}
		_, err = s.out.Write(merged)
		return err
	}
	return cmd
}
