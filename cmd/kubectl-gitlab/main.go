// Command kubectl-gitlab is the plug-in `kubectl gitlab`: who somebody is to a cluster that follows GitLab, what they may do
// there and why, by what they may see themselves.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubectlgitlab"
)

// version is set when a release is built.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := kubectlgitlab.Run(ctx, kubectlgitlab.Process{
		Args: os.Args, Version: version, In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
	})
	stop()
	os.Exit(code)
}
