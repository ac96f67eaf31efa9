// Package demo tells the story of `make demo`: a simulated GitLab, a real control plane and the integrator, and what
// people and CI jobs can and can't do. Its steps are also tests.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
)

// Options say how the story is told.
type Options struct {
	Out   io.Writer
	Once  bool // stop after the story
	Bench bool // print BENCH lines
	// OwnLogin lets kube-apiserver judge tokens by itself, without the integrator's TokenReview webhook.
	OwnLogin bool
	Dir      string // where the temporary folder is made
	// Program is this program's path, for the kubeconfigs of people who go on by hand.
	Program string
	// Integrator is the path of gl-k8s-integrator, for the commands that people are shown.
	Integrator string
}

// Run tells the whole story. The error is that of the start, or names how many checks failed. Whatever happens,
// everything that was started has ended when it returns.
func Run(ctx context.Context, o Options) (err error) {
	fmt.Fprint(o.Out, "gl-k8s-integrator: the whole job on a real API server. GitLab, its people and their passwords are simulated.\n\nStarting\n")
	if _, err := controlplane.EnsureBinaries(ctx, o.Out); err != nil {
		return err
	}
	built := time.Now()
	e, err := Start(ctx, o.Dir, o.OwnLogin, o.Out)
	if err != nil {
		return err
	}
	defer func() {
		left := e.Close()
		if err = errors.Join(err, left); left == nil && ctx.Err() != nil {
			fmt.Fprintln(o.Out, "Stopped: nothing runs any more, and the demo's folder is gone.")
		}
	}()
	started := time.Now()

	steps := Steps()
	if o.OwnLogin {
		steps = append(steps, Step{"The integrator is away, and people log in", integratorAway})
	}
	out := untilDone{o.Out, ctx.Done()}
	var failed int
	for i, s := range steps {
		fmt.Fprintf(out, "\n%d. %s\n", i+1, s.Title)
		r := &Report{out: out, secret: hide}
		s.Run(ctx, e, r)
		failed += len(r.failed)
		if ctx.Err() != nil {
			fmt.Fprintf(o.Out, "\nStopping in step %d.\n", i+1)
			return fmt.Errorf("stopped in step %d: %w", i+1, ctx.Err())
		}
	}
	if o.Bench {
		fmt.Fprintf(o.Out, "\nBENCH demo.start_seconds %.1f s\nBENCH demo.once_seconds %.1f s\nBENCH demo.revoke_to_kubectl_ms %d ms\n",
			started.Sub(built).Seconds(), time.Since(built).Seconds(), e.revocation.Milliseconds())
	}
	if failed > 0 {
		path, keep := keepLog(o.Dir, e)
		if keep == nil {
			fmt.Fprintf(o.Out, "\nThe integrator's log is in %s\n", path)
		}
		return fmt.Errorf("the story failed: %d checks are marked ✗ above", failed)
	}
	fmt.Fprintf(o.Out, "\n✓ The whole story holds: %d steps in %s.\n", len(steps), time.Since(started).Round(time.Second))
	if o.Once {
		return nil
	}
	return e.stay(ctx, o)
}

// keepLog saves the log of a failed run, which would vanish with the folder.
func keepLog(dir string, e *Env) (string, error) {
	f, err := os.CreateTemp(dir, "gl-k8s-integrator-demo-*.log")
	if err != nil {
		return "", err
	}
	_, err = io.WriteString(f, e.log.String())
	return f.Name(), errors.Join(err, f.Close())
}

// stay keeps everything up and says how to go on by hand.
func (e *Env) stay(ctx context.Context, o Options) error {
	fmt.Fprintf(o.Out, "\nEverything stays up until you press Ctrl-C. Go on by hand, in another terminal:\n\n")
	fmt.Fprintf(o.Out, "  cd %s\n", e.work)
	fmt.Fprintf(o.Out, "  export PATH=%s:$PATH\n  export KUBECACHEDIR=%s\n\n", filepath.Dir(e.Cluster.Kubectl()), filepath.Join(e.home, "cache"))
	for _, name := range []string{"alice", "bob", "carol", "david", "dave", "mallory"} {
		if err := e.byHand(o.Program, name); err != nil {
			return err
		}
		fmt.Fprintf(o.Out, "  kubectl --kubeconfig %s.kubeconfig auth whoami\n", name)
	}
	fmt.Fprintf(o.Out, "\n  kubectl --kubeconfig %s get namespaces --show-labels      (cluster administrator)\n", e.Cluster.AdminKubeconfig())
	fmt.Fprint(o.Out, "\nThe integrator:\n\n")
	for _, command := range []string{"status", "plan", "history -n haw-world", "who -n haw-world", "explain bob -n haw-world delete deployments"} {
		fmt.Fprintf(o.Out, "  %s %s --config %s\n", o.Integrator, command, e.configFile)
	}
	fmt.Fprintf(o.Out, "  tail -f %s\n", e.logFile.Name())
	fmt.Fprintf(o.Out, "\nThe kubeconfigs of people log in by themselves, since this is a simulation. With the real kubelogin and a browser:\n\n")
	fmt.Fprintf(o.Out, "  kubectl oidc-login get-token --oidc-issuer-url=%s --oidc-client-id=%s --certificate-authority=%s/gitlab-ca.crt\n", e.GitLab.URL(), clientID, e.dir)
	if !lookPath("kubectl-oidc_login") {
		fmt.Fprintf(o.Out, "\n(kubelogin is not installed on this machine: go install github.com/int128/kubelogin@%s, and name it kubectl-oidc_login.)\n", controlplane.KubeloginVersion())
	}
	fmt.Fprintf(o.Out, "\nThe page is open: %s\n\nYour browser will warn of two certificates, the page's and GitLab's: they are the demo's own. Who can sign in (user name / password, at\n"+
		"the simulated GitLab, %s):\n\n", e.page, e.GitLab.URL())
	fmt.Fprint(o.Out, "  root / root-password (administrator)   alice / alice-password (removed from haw/world)   bob / bob-password\n"+
		"  carol / carol-password   david / dave-password (was dave)   dave / erin-password (was erin)   mallory / mallory-password\n")
	<-ctx.Done()
	fmt.Fprintln(o.Out, "\nStopping.")
	return nil
}

// byHand writes a kubeconfig that gets a fresh token for each command, by the hidden command demo-token.
func (e *Env) byHand(program, name string) error {
	password := map[string]string{"david": "dave-password", "dave": "erin-password"}[name]
	if password == "" {
		password = name + "-password"
	}
	return e.Cluster.WriteKubeconfig(e.work+"/"+name+".kubeconfig", controlplane.KubeconfigUser{Name: name, Exec: &api.ExecConfig{
		APIVersion: "client.authentication.k8s.io/v1", InteractiveMode: api.NeverExecInteractiveMode, Command: program,
		Args: []string{"demo-token", "--issuer", e.GitLab.URL(), "--ca", e.dir + "/gitlab-ca.crt", "--user", name},
		Env:  []api.ExecEnvVar{{Name: "DEMO_PASSWORD", Value: password}},
	}}, "haw-world")
}
