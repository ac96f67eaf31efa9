// Command gl-k8s-demo shows what gl-k8s-integrator does, with a simulated GitLab and a real control plane, and builds that
// control plane for the tests. It is a program of its own so that what runs in production has neither in it.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/demo"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := rootCommand(os.Stdout).ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "gl-k8s-demo: %v\n", err)
		os.Exit(1)
	}
}

func rootCommand(out io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use: "gl-k8s-demo", Short: "Show gl-k8s-integrator on a real API server with a simulated GitLab",
		SilenceUsage: true, SilenceErrors: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(out)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(demoCommand(out), demoTokenCommand(out), controlplaneCommand(out))
	return root
}

func demoCommand(out io.Writer) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo [--once]",
		Short: "Show the whole job on a real API server with a simulated GitLab",
		Args:  cobra.NoArgs,
	}
	once := cmd.Flags().Bool("once", false, "stop after the story instead of staying up")
	login := cmd.Flags().String("login", "webhook", "who judges GitLab's tokens: webhook (the integrator) or apiserver (kube-apiserver by itself)")
	bench := cmd.Flags().Bool("bench", false, "print BENCH lines at the end")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *login != "webhook" && *login != "apiserver" {
			return fmt.Errorf("--login: want webhook or apiserver, not %q", *login)
		}
		program, err := os.Executable()
		if err != nil {
			return fmt.Errorf("finding this program: %w", err)
		}
		return demo.Run(cmd.Context(), demo.Options{
			Out: out, Once: *once, Bench: *bench, OwnLogin: *login == "apiserver", Dir: os.TempDir(), Program: program,
			Integrator: filepath.Join(filepath.Dir(program), "gl-k8s-integrator"), // make demo builds both into one folder
		})
	}
	return cmd
}

// demoTokenCommand is what the kubeconfigs of `demo` call: it logs a simulated person in, without a browser.
func demoTokenCommand(out io.Writer) *cobra.Command {
	cmd := &cobra.Command{Use: "demo-token", Hidden: true, Args: cobra.NoArgs, Short: "Print an ExecCredential for an account of the demo"}
	issuer := cmd.Flags().String("issuer", "", "URL of the simulated GitLab")
	ca := cmd.Flags().String("ca", "", "PEM file with its CA")
	user := cmd.Flags().String("user", "", "user name")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return demo.PrintCredential(cmd.Context(), out, *issuer, *ca, *user, os.Getenv("DEMO_PASSWORD"))
	}
	return cmd
}

func controlplaneCommand(out io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:   "controlplane",
		Short: "Find or build the control plane that demo and tests use",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := controlplane.EnsureBinaries(cmd.Context(), out)
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "control plane %s is ready: %s\n", b.Version, b.APIServer)
			return nil
		},
	}
}
