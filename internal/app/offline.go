package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeerror"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// SaveSnapshot makes a plan, and writes what it was made from into a file, for Plan with PlanView.Offline. It writes
// nothing to GitLab or the cluster.
func SaveSnapshot(ctx context.Context, cfg *config.Config, log *slog.Logger, file string, out, progress io.Writer) error {
	c, err := connect(cfg)
	if err != nil {
		return err
	}
	r, rec, err := record(ctx, cfg, c, log, progress)
	if err != nil {
		return err
	}
	t, err := terms(ctx, cfg, c, r, log, progress)
	if err != nil {
		return err
	}
	x := store.Recorded{Recording: rec, Cluster: t.Cluster, CA: t.CA, Scope: t.Shown, Known: t.Known}
	if err := writeWhole(file, func(w io.Writer) error { return store.WriteRecording(w, x) }); err != nil {
		return fmt.Errorf("writing the snapshot to %s: %w", file, err)
	}
	fmt.Fprintf(out, "%s: %d accounts, %d groups, %d projects; %d objects of the cluster. It has no secrets, but names of people: keep it like a list of members.\n",
		file, len(r.Snapshot.Users), len(r.Snapshot.Groups), len(r.Snapshot.Projects), len(rec.Observed.Live))
	return nil
}

// record makes a plan, and returns what it was made from as well.
func record(ctx context.Context, cfg *config.Config, c *clients, log *slog.Logger, progress io.Writer) (syncer.Round, *syncer.Recording, error) {
	o, err := oneRound(cfg, c, singleRound{mode: syncer.ModePlan, recorded: true}, log, progress)
	if err != nil {
		return syncer.Round{}, nil, err
	}
	var rec syncer.Recording
	s, err := syncer.New(rec.Record(o))
	if err != nil {
		return syncer.Round{}, nil, err
	}
	r, err := s.Once(ctx, "command")
	if err != nil {
		return syncer.Round{}, nil, kubeerror.Explain(err)
	}
	rec.Roles = o.Roles.Roles()
	return r, &rec, nil
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
	if err != nil {
		return syncer.Round{}, ci.Terms{}, err
	}
	return r, termsOf(cfg, x, r.Started), nil
}
