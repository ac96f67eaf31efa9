package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/fence"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeerror"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/status"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// Plan reads GitLab and the cluster, prints what would change in the cluster, and returns how many changes
// that are. It writes nothing anywhere.
func Plan(ctx context.Context, cfg *config.Config, log *slog.Logger, out io.Writer) (changes int, err error) {
	r, err := once(ctx, cfg, syncer.ModePlan, log, nil)
	if err != nil {
		return 0, err
	}
	printPlan(out, r.Plan)
	if cfg.GitLab.WriteTokenFile != "" {
		fmt.Fprintln(out, "This is about the cluster alone. What CI jobs are given in GitLab follows after it.")
	}
	printFindings(out, r.Findings)
	return len(r.Plan), nil
}

// Sync does one full round, CI credentials included, and prints what was done. While it writes, progress is told how
// far it is.
func Sync(ctx context.Context, cfg *config.Config, log *slog.Logger, out, progress io.Writer) error {
	c, err := connect(cfg)
	if err != nil {
		return err
	}
	if err := fence.Ready(ctx, c.kube, cfg); err != nil {
		return err
	}
	r, err := once(ctx, cfg, syncer.ModeEnforce, log, progressBar(progress))
	if r.Names != nil {
		printPlan(out, r.Plan)
		fmt.Fprintf(out, "cluster: %d of %d changes made; CI: %d new tokens, %d projects written to in GitLab\n", r.Report.Applied, len(r.Plan), r.CI.Issued, r.CI.Delivered)
		printFindings(out, r.Findings)
	}
	return err
}

func once(ctx context.Context, cfg *config.Config, mode syncer.Mode, log *slog.Logger, progress func(cluster.Progress)) (syncer.Round, error) {
	c, err := connect(cfg)
	if err != nil {
		return syncer.Round{}, err
	}
	reader, err := newReader(cfg, c.gitlabHTTP, log)
	if err != nil {
		return syncer.Round{}, err
	}
	roles, err := newRoles(cfg, c)
	if err != nil {
		return syncer.Round{}, err
	}
	s, err := newEngine(cfg, c, log, engineParts{
		mode: mode, reader: reader, roles: roles, progress: progress,
		fence: func(ctx context.Context) error { return fence.Check(ctx, c.kube) },
	})
	if err != nil {
		return syncer.Round{}, err
	}
	r, err := s.Once(ctx, "command")
	if mode == syncer.ModeEnforce {
		h := status.NewHistory(c.kube, log)
		h.Add(r)
		h.Flush(ctx)
	}
	if err != nil {
		return r, kubeerror.Explain(err)
	}
	sample, err := newSampler(cfg, c.gitlabHTTP, log, nil)
	if err != nil {
		return r, err
	}
	r.Findings = append(append(r.Findings, sample.Sample(ctx, r.Snapshot)...), explainFindings(cfg.Authz.Explain)...)
	return r, nil
}

func printPlan(out io.Writer, plan []rbacsync.Change) {
	if len(plan) == 0 {
		fmt.Fprintln(out, "cluster: nothing to change")
		return
	}
	fmt.Fprint(out, rbacsync.Text(plan))
}

func printFindings(out io.Writer, findings []authz.Finding) {
	for _, f := range findings {
		fmt.Fprintf(out, "finding %s: %s\n", f.Code, f.Text)
	}
}
