package kubectlgitlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// Exit statuses. can answers by them, so its faults are exitUnknown; those of all other commands are exitNo.
const (
	exitOK      = 0
	exitNo      = 1
	exitUnknown = 2
)

// Names of the program: krew and kubectl find the first; kubectl asks the second for completions (kubectl 1.26 and newer).
const (
	programName   = "kubectl-gitlab"
	completerName = "kubectl_complete-gitlab"
)

// Process is what the program was started with.
type Process struct {
	Args     []string // the first is the name it was called by
	Version  string
	In       io.Reader
	Out, Err io.Writer
	Now      func() time.Time // time.Now if nil
}

// status makes a command end with an exit status; what is to be said was said.
type status int

func (s status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// Run executes one command line and returns the exit status.
func Run(ctx context.Context, p Process) int {
	if p.Now == nil {
		p.Now = time.Now
	}
	p.Out, p.Err = plain{p.Out}, plain{p.Err}
	root := rootCommand(&p)
	args := p.Args[1:]
	if name := filepath.Base(p.Args[0]); strings.TrimSuffix(name, ".exe") == completerName {
		args = append([]string{cobra.ShellCompRequestCmd}, args...)
	}
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	var ended status
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &ended):
		return int(ended)
	case ctx.Err() != nil:
		fmt.Fprintln(p.Err, "kubectl gitlab: interrupted")
	default:
		fmt.Fprintf(p.Err, "%s: %v\n", cmd.CommandPath(), err)
	}
	if cmd.Name() == canName {
		return exitUnknown
	}
	return exitNo
}

func rootCommand(p *Process) *cobra.Command {
	root := &cobra.Command{
		Use:   programName,
		Short: "Who you are to a cluster that follows GitLab, what you may do there, and why",
		Long: "kubectl gitlab says who you are to a cluster that follows GitLab, which namespaces are yours, what you may do there, and why.\n" +
			"It asks the cluster as you, and the integrator's server where your kubeconfig names one.",
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl gitlab"},
		Version:       p.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(p.In)
	root.SetOut(p.Out)
	root.SetErr(p.Err)
	o := &options{process: p}
	f := root.PersistentFlags()
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "path of the kubeconfig, instead of $KUBECONFIG and ~/.kube/config")
	f.StringVar(&o.context, "context", "", "context of the kubeconfig, instead of the current one")
	f.StringVar(&o.server, "server", "", "address of the integrator's server, instead of the kubeconfig's and $"+serverEnv)
	f.StringVar(&o.serverCA, "server-ca", "", "file with the CA of that server, instead of the kubeconfig's and $"+serverCAEnv)
	root.AddCommand(whoamiCommand(o), namespacesCommand(o), canCommand(o), useCommand(o), loginCommand(o), logoutCommand(o), ciCommand(o))
	noFiles(root, "server")
	if err := root.RegisterFlagCompletionFunc("context", o.completeContexts); err != nil {
		panic(err) // only for a flag that does not exist
	}
	return root
}

// options are the flags of all commands.
type options struct {
	process                               *Process
	kubeconfig, context, server, serverCA string
}

// Variables of the environment that stand in for flags.
const (
	serverEnv   = "GL_K8S_INTEGRATOR_SERVER"
	serverCAEnv = "GL_K8S_INTEGRATOR_SERVER_CA"
)

// override returns a flag's value, or else the environment's.
func override(flag, env string) string {
	if flag != "" {
		return flag
	}
	return os.Getenv(env)
}

// note tells the person something beside the answer.
func (o *options) note(format string, args ...any) {
	fmt.Fprintf(o.process.Err, format+"\n", args...)
}
