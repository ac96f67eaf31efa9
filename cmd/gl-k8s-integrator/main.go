// Command gl-k8s-integrator joins a self-managed GitLab to one shared Kubernetes cluster.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/logqueue"
)

// Exit statuses of plan; every other command but doctor (exitBlind) uses exitOK and exitError alone.
const (
	exitOK      = 0
	exitError   = 1
	exitChanges = 2
)

// errChanges makes `plan` end with exitChanges; it is a result, not a fault.
var errChanges = errors.New("there are changes")

// errNotAuthenticated makes `token inspect` end with exitError; what is to be said was said.
var errNotAuthenticated = errors.New("the token would not be authenticated")

// endSignals end every command.
var endSignals = []os.Signal{os.Interrupt, syscall.SIGTERM}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), endSignals...)
	hangups := make(chan os.Signal, 1) // from the first moment: none must end a server that starts
	signal.Notify(hangups, syscall.SIGHUP)
	code := run(ctx, os.Args[1:], streams{in: os.Stdin, out: os.Stdout, err: os.Stderr, hangups: hangups})
	stop()
	os.Exit(code)
}

// run executes one command line and returns the exit status.
func run(ctx context.Context, args []string, s streams) int {
	root := rootCommand(s)
	root.SetArgs(args)
	understood := false
	noteRuns(root, &understood)
	ctx, end := context.WithCancel(ctx)
	defer end()
	endOnHangup(root, s.hangups, end)
	cmd, err := root.ExecuteContextC(ctx)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errChanges):
		return exitChanges
	case errors.Is(err, errBlind):
		return exitBlind
	case errors.Is(err, errNotAuthenticated), errors.Is(err, errUnwell), errors.Is(err, logqueue.ErrUnread):
		return exitError // writing to where nobody reads could wait for ever
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(s.err, "gl-k8s-integrator: interrupted")
		return exitError
	default:
		fmt.Fprintf(s.err, "gl-k8s-integrator: %v\n", err)
		if !understood {
			if cmd.HasParent() {
				fmt.Fprintf(s.err, "Usage: %s\n", cmd.UseLine())
			}
			fmt.Fprintf(s.err, "See %s --help\n", cmd.CommandPath())
		}
		return exitError
	}
}

// endOnHangup ends every command but serve when its terminal does.
func endOnHangup(cmd *cobra.Command, hangups <-chan os.Signal, end context.CancelFunc) {
	if f := cmd.RunE; f != nil && cmd.Name() != serveName {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			done := make(chan struct{})
			var waiting sync.WaitGroup
			waiting.Go(func() {
				select {
				case <-hangups:
					end()
				case <-done:
				}
			})
			defer waiting.Wait()
			defer close(done)
			return f(cmd, args)
		}
	}
	for _, c := range cmd.Commands() {
		endOnHangup(c, hangups, end)
	}
}

// noteRuns makes the command, whichever it is, note that its command line was understood: an error before that is one of
// the command line.
func noteRuns(cmd *cobra.Command, understood *bool) {
	if f := cmd.RunE; f != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			*understood = true
			return f(cmd, args)
		}
	}
	for _, c := range cmd.Commands() {
		noteRuns(c, understood)
	}
}
