package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// measureProduct runs the program on a fresh cluster and measures what it does there, beside a bare client and, if there is
// one, another build of the program.
func measureProduct(ctx context.Context, b *bench, org *organisation, want int) (err error) {
	rounds := &firstRounds{b: b, want: want}
	ours, other := &side{binary: b.o.binary}, (*side)(nil)
	defer func() { err = errors.Join(err, ours.end()) }()
	started, err := rounds.begin(ctx, ours, "product")
	if err != nil {
		return err
	}
	if err := ours.settle(ctx); err != nil {
		return err
	}
	b.line("sync.first_round_seconds", ours.first[0].Seconds(), "s")
	b.line("sync.all_settled_seconds", (time.Since(started) - calm).Seconds(), "s")
	steady, err := ours.steady(ctx, b.o.interval)
	if err != nil {
		return err
	}
	reportSteady(b, steady)
	objects, err := collect(ctx, ours.cluster.kube)
	if err != nil {
		return err
	}
	if b.o.against != "" {
		other = &side{name: "-against", binary: b.o.against, manifests: b.o.againstManifests(), user: secondAdmin}
		defer func() { err = errors.Join(err, other.end()) }()
		if err := rounds.compare(ctx, ours, other, objects); err != nil {
			return err
		}
	}
	if err := measureRevocations(ctx, b, org, ours, other); err != nil {
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
	if len(rounds.raws) == 0 {
		if err := rounds.raw(ctx, objects, "raw"); err != nil {
			return err
		}
	}
	rate, raw := median(ours.rates), median(rounds.raws)
	b.line("sync.apply_per_second", rate, "objects/s")
	b.line("sync.raw_per_second", raw, "objects/s")
	b.line("sync.apply_vs_raw", rate/raw, "")
	return nil
}

// reportSteady prints what was written in rounds without changes.
func reportSteady(b *bench, writes []write) {
	changed := 0
	for _, w := range writes {
		if !w.steady() {
			changed++
		}
	}
	b.line("sync.steady_writes", changed, "writes")
	fmt.Fprintf(b.say, "writes of two rounds without changes: %v\n", kinds(writes))
}

// median returns the middle one, or the mean of the two in the middle; the numbers are not changed.
func median[T ~float64 | ~int64](values []T) T {
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
