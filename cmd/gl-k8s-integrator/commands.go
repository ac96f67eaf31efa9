package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/logqueue"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/metrics"
)

// streams are the standard streams; what people asked for goes to out, everything else to err.
type streams struct {
	in       io.Reader
	out, err io.Writer
	hangups  <-chan os.Signal // SIGHUP: serve reads its configuration again, everything else ends
}

func rootCommand(s streams) *cobra.Command {
	root := &cobra.Command{
		Use:           "gl-k8s-integrator",
		Short:         "Join a self-managed GitLab to one shared Kubernetes cluster",
		Long:          "gl-k8s-integrator makes the rights on one shared Kubernetes cluster follow GitLab:\nwho logs in, who may do what in which namespace, and what CI jobs deploy with.",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(serveCommand(s), planCommand(s), approveCommand(s), syncCommand(s), snapshotCommand(s), statusCommand(s), historyCommand(s), hooksCommand(s), agentConfigCommand(s), kubeconfigCommand(s), apiserverConfigCommand(s), fenceFilesCommand(s), checkConfigCommand(s), doctorCommand(s), configSchemaCommand(s), tokenCommand(s), uninstallCommand(s), initCommand(s), migrateCommand(s), versionCommand(s), explainCommand(s), whoCommand(s))
	return root
}

// configFlag adds --config, which is demanded: a default path would let a typing error act on another cluster.
func configFlag(cmd *cobra.Command) *string {
	path := cmd.Flags().String("config", "", "path of the configuration file (required)")
	if err := cmd.MarkFlagRequired("config"); err != nil {
		panic(err) // only for a flag that does not exist
	}
	return path
}

// logFormat returns what makes handlers: JSON for machines, or text for people.
func logFormat(format, level string) (func(io.Writer) slog.Handler, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level: want debug, info, warn or error, not %q", level)
	}
	opts := &slog.HandlerOptions{Level: l}
	switch format {
	case "json":
		return func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, opts) }, nil
	case "text":
		return func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, opts) }, nil
	}
	return nil, fmt.Errorf("--log-format: want json or text, not %q", format)
}

// warnings logs what a command should warn of, for people. Errors are not logged: the command returns them.
func warnings(w io.Writer) *slog.Logger {
	return slog.New(warnOnly{slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelWarn})})
}

type warnOnly struct{ slog.Handler }

func (warnOnly) Enabled(_ context.Context, l slog.Level) bool { return l == slog.LevelWarn }

func (h warnOnly) WithAttrs(attrs []slog.Attr) slog.Handler {
	return warnOnly{h.Handler.WithAttrs(attrs)}
}

func (h warnOnly) WithGroup(name string) slog.Handler { return warnOnly{h.Handler.WithGroup(name)} }

const serveName = "serve"

func serveCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   serveName + " --config FILE",
		Short: "Answer kube-apiserver's webhooks and keep the cluster in step with GitLab",
		Args:  cobra.NoArgs,
	}
	path := configFlag(cmd)
	format := cmd.Flags().String("log-format", "json", "json or text")
	level := cmd.Flags().String("log-level", "info", "debug, info, warn or error")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		form, err := logFormat(*format, *level)
		if err != nil {
			return err
		}
		cfg, err := config.Load(*path)
		if err != nil {
			return err
		}
		// serve takes its time to end: a second signal has its default effect, the end at once.
		defer context.AfterFunc(cmd.Context(), func() { signal.Reset(endSignals...) })()
		return logging(s.err, form, func(log *slog.Logger, lines *logqueue.Queue) error {
			log.InfoContext(cmd.Context(), "starting", "version", programVersion(), "mode", cfg.RBACSync.Mode, "config", *path, "gitlab", cfg.GitLab.URL)
			return app.ServeFile(cmd.Context(), app.File{Path: *path, Config: cfg, Now: s.hangups}, log, metrics.LogDrops(lines.Drops), metrics.Build(programVersion()))
		})
	}
	return cmd
}

func agentConfigCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "agent-config --config FILE",
		Short: "Print the ci_access configuration of GitLab's agent for the projects with delivery agent",
		Args:  cobra.NoArgs,
	}
	path := configFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(*path)
		if err != nil {
			return err
		}
		return app.AgentConfig(cmd.Context(), cfg, warnings(s.err), s.out)
	}
	return cmd
}

func checkConfigCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check-config [--no-files] [--config FILE] [FILE…]",
		Short: "Check configuration files, the files and the ClusterRoles they name, and report all faults",
	}
	path := cmd.Flags().String("config", "", "path of a configuration file")
	noFiles := cmd.Flags().Bool("no-files", false, "check the configuration alone, because certificates, tokens and the way to the cluster are on another machine")
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if len(args) == 0 && *path == "" {
			return errors.New("name a configuration file")
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, paths []string) error {
		if *path != "" {
			paths = append([]string{*path}, paths...)
		}
		bad := 0
		for _, p := range paths {
			cfg, err := config.Load(p)
			if cfg != nil {
				err = errors.Join(err, app.CheckFiles(cfg))
				if !*noFiles {
					err = errors.Join(err, named("files", p, app.CheckNamedFiles(cfg)), checkRoles(cmd.Context(), s, p, cfg))
				}
			}
			if err != nil {
				bad++
				fmt.Fprintln(s.err, err)
				continue
			}
			fmt.Fprintf(s.out, "%s: ok\n", p)
		}
		if bad > 0 {
			return fmt.Errorf("%d of %d files have faults", bad, len(paths))
		}
		return nil
	}
	return cmd
}

// checkRoles looks up the ClusterRoles of a configuration, where there is a way to the cluster.
func checkRoles(ctx context.Context, s streams, path string, cfg *config.Config) error {
	if _, err := cfg.Authz.Policy(); err != nil {
		return nil //nolint:nilerr // config.Load has told it
	}
	unknown, err := app.CheckClusterRoles(ctx, cfg)
	if unknown != "" {
		fmt.Fprintf(s.err, "%s: ClusterRoles could not be looked up: %s\n", path, unknown)
	}
	return named("ClusterRoles", path, err)
}

// named says which configuration names what has faults.
func named(what, path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s named in %s (--no-files leaves them out):\n  %s", what, path, strings.ReplaceAll(err.Error(), "\n", "\n  "))
}
