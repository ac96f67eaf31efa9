package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"
)

// side is one build of the program with a cluster of its own.
type side struct {
	name      string // of its folders
	binary    string
	manifests string // a folder; "": those of this build
	user      string // the administrator whose tokens it has: GitLab's limits are each user's own
	cluster   *cluster
	serve     *serve

	first []time.Duration // first rounds
	rates []float64       // objects per second in them
}

// end stops what runs.
func (s *side) end() (err error) {
	if s.serve != nil {
		s.serve.stop()
	}
	if s.cluster != nil {
		err = s.cluster.Stop()
	}
	s.cluster = nil
	return err
}

// begin starts a fresh cluster and the program, and waits until its first round is over and it is quiet. It returns how
// long that took.
func (b *bench) begin(ctx context.Context, s *side, dir string) (settled time.Duration, err error) {
	dir = filepath.Join(b.o.dir, dir+s.name)
	if s.cluster, err = startCluster(ctx, filepath.Join(dir, "cluster"), s.manifests, b.say); err != nil {
		return 0, err
	}
	b.freshMinute()
	s.serve, err = startServe(ctx, b.gitlab, s.cluster, setup{
		binary: s.binary, dir: filepath.Join(dir, "serve"), user: s.user, interval: b.o.interval,
		concurrency: b.o.concurrency, delivery: "none", extra: b.o.extra,
	})
	if err != nil {
		return 0, err
	}
	started := time.Now()
	n, writing, took, err := b.firstRound(ctx, s.cluster, s.serve, started)
	if err != nil {
		return 0, fmt.Errorf("first round of %s: %w", s.binary, err)
	}
	s.first, s.rates = append(s.first, took), append(s.rates, float64(n)/writing.Seconds())
	const calm = 5 * time.Second
	if err := b.quiet(ctx, s.cluster, calm); err != nil {
		return 0, err
	}
	return time.Since(started) - calm, nil
}

// product runs the program on a fresh cluster and measures what it does there, beside a bare client and, if there is
// one, another build of the program.
func (b *bench) product(ctx context.Context) (err error) {
	ours, other := &side{binary: b.o.binary}, (*side)(nil)
	defer func() { err = errors.Join(err, ours.end()) }()
	settled, err := b.begin(ctx, ours, "product")
	if err != nil {
		return err
	}
	b.line("sync.first_round_seconds", ours.first[0].Seconds(), "s")
	b.line("sync.all_settled_seconds", settled.Seconds(), "s")
	if err := b.steady(ctx, ours.cluster, ours.serve); err != nil {
		return err
	}
	objects, err := collect(ctx, ours.cluster.kube)
	if err != nil {
		return err
	}
	if b.o.against != "" {
		other = &side{name: "-against", binary: b.o.against, manifests: b.manifests(), user: secondAdmin}
		defer func() { err = errors.Join(err, other.end()) }()
		if err := b.againstFirst(ctx, ours, other, objects); err != nil {
			return err
		}
	}
	if err := b.revocations(ctx, ours, other); err != nil {
		return err
	}
	mib, err := ours.serve.peakMiB()
	if err != nil {
		return err
	}
	b.line("sync.rss_mib", mib, "MiB")
	if other != nil {
		theirs, err := other.serve.peakMiB()
		if err != nil {
			return err
		}
		b.versus("rss", float64(mib), float64(theirs), "MiB")
		if err := other.end(); err != nil {
			return err
		}
	}
	if n := ours.serve.logLines("GitLab limits our requests"); n > 0 {
		fmt.Fprintf(b.say, "the program ran into GitLab's limits %d times\n", n)
	}
	if err := ours.end(); err != nil {
		return err
	}
	if len(b.raws) == 0 {
		if err := b.raw(ctx, objects, "raw"); err != nil {
			return err
		}
	}
	rate, raw := median(ours.rates), median(b.raws)
	b.line("sync.apply_per_second", rate, "objects/s")
	b.line("sync.raw_per_second", raw, "objects/s")
	b.line("sync.apply_vs_raw", rate/raw, "")
	return nil
}

// median returns the middle one, or the mean of the two in the middle; the numbers are not changed.
func median[T ~float64 | ~int64](values []T) T {
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
