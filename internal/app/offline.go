package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeerror"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// SaveSnapshot makes a plan, and writes what it was made from into a file, for Plan with PlanView.Offline. It writes
// nothing to GitLab or the cluster.
func SaveSnapshot(ctx context.Context, cfg *config.Config, log *slog.Logger, file string, out, progress io.Writer) error {
	c, err := connect(cfg)
	if err != nil {
		return err
	}
	o, err := oneRound(cfg, c, syncer.ModePlan, log, progress)
	if err != nil {
		return err
	}
	var rec syncer.Recording
	r, err := record(ctx, c, o, &rec)
	if err != nil {
		return err
	}
	t, err := terms(ctx, cfg, c, r, log, progress)
	if err != nil {
		return err
	}
	x := store.Recorded{Recording: &rec, Cluster: t.Cluster, CA: t.CA, Known: t.Known}
	if cfg.GitLab.WriteTokenFile != "" {
		x.Scope = cfg.CI.Environment
	}
	if err := writeWhole(file, func(w io.Writer) error { return store.WriteRecording(w, x) }); err != nil {
		return fmt.Errorf("writing the snapshot to %s: %w", file, err)
	}
	fmt.Fprintf(out, "%s: %d accounts, %d groups, %d projects; %d objects of the cluster. It has no secrets, but names of people: keep it like a list of members.\n",
		file, len(r.Snapshot.Users), len(r.Snapshot.Groups), len(r.Snapshot.Projects), len(rec.Observed.Live))
	return nil
}

// record makes a plan and writes down what it is made from.
func record(ctx context.Context, c *clients, o syncer.Options, rec *syncer.Recording) (syncer.Round, error) {
	o.Observe = func(ctx context.Context) (*rbacsync.Observed, error) {
		return cluster.New(cluster.Options{
			Kube: c.kube, Roles: o.Policy.ClusterRoles(), Templates: o.Settings.Templates, Dynamic: c.dynamic, OwnNamespace: deploy.Namespace, Logger: o.Logger,
		}).Observe(ctx, nil, true)
	}
	s, err := syncer.New(rec.Record(o))
	if err != nil {
		return syncer.Round{}, err
	}
	r, err := s.Once(ctx, "command")
	if err != nil {
		return r, kubeerror.Explain(err)
	}
	rec.Roles = o.Roles.Roles()
	return r, nil
}

// writeWhole replaces a file, or leaves it as it is.
func writeWhole(file string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*") // for the owner alone
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := write(f); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}

// planOffline makes a plan from a file that SaveSnapshot wrote.
func planOffline(ctx context.Context, cfg *config.Config, log *slog.Logger, file string) (syncer.Round, ci.Terms, error) {
	f, err := os.Open(file)
	if err != nil {
		return syncer.Round{}, ci.Terms{}, err
	}
	defer f.Close()
	x, err := store.ReadRecording(f)
	if err != nil {
		return syncer.Round{}, ci.Terms{}, fmt.Errorf("reading %s: %w", file, err)
	}
	if issuer := x.Recording.Snapshot.Issuer; issuer != cfg.GitLab.URL {
		return syncer.Round{}, ci.Terms{}, fmt.Errorf("%s is a snapshot of the GitLab %q, and gitlab.url is %q", file, issuer, cfg.GitLab.URL)
	}
	o, err := rules(cfg, log)
	if err != nil {
		return syncer.Round{}, ci.Terms{}, err
	}
	s, err := syncer.New(x.Recording.Replay(o))
	if err != nil {
		return syncer.Round{}, ci.Terms{}, err
	}
	r, err := s.Once(ctx, "command")
	t := configuredTerms(cfg)
	t.Cluster, t.CA, t.Shown, t.Known, t.Now = x.Cluster, x.CA, x.Scope, x.Known, r.Started
	if t.Known != nil && cfg.Cluster.PublicURL != "" {
		t.Known.API.URL = cfg.Cluster.PublicURL
	}
	return r, t, err
}
