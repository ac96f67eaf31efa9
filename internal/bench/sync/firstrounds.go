package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"k8s.io/client-go/kubernetes"
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

// firstRounds measures first rounds, each on a fresh cluster.
type firstRounds struct {
	b    *bench
	want int       // objects that this build writes
	raws []float64 // rates of a bare client, objects per second
}

// begin starts a fresh cluster and the program, and waits until its first round is over. It returns when the program was started.
func (f *firstRounds) begin(ctx context.Context, s *side, dir string) (started time.Time, err error) {
	dir = filepath.Join(f.b.o.dir, dir+s.name)
	if s.cluster, err = startCluster(ctx, filepath.Join(dir, "cluster"), s.manifests, f.b.say); err != nil {
		return started, err
	}
	f.b.freshMinute()
	s.serve, err = startServe(ctx, f.b.gitlab, s.cluster, setup{
		binary: s.binary, dir: filepath.Join(dir, "serve"), user: s.user, interval: f.b.o.interval,
		concurrency: f.b.o.concurrency, delivery: "none", extra: f.b.o.extra,
	})
	if err != nil {
		return started, err
	}
	started = time.Now()
	n, writing, took, err := s.firstRound(ctx, f.b.say, f.want, started)
	if err != nil {
		return started, fmt.Errorf("first round of %s: %w", s.binary, err)
	}
	s.first, s.rates = append(s.first, took), append(s.rates, float64(n)/writing.Seconds())
	fmt.Fprintf(f.b.say, "%s: first round in %.1f s, %.0f objects a second\n", s.binary, took.Seconds(), s.rates[len(s.rates)-1])
	return started, nil
}

// calm is how long nothing is written once everything is.
const calm = 5 * time.Second

// settle waits until everything is written that comes of a first round.
func (s *side) settle(ctx context.Context) error { return s.cluster.quiet(ctx, calm) }

// compare does more first rounds of both builds, in turns, and prints how they compare. This build has done one and runs;
// afterwards both run.
func (f *firstRounds) compare(ctx context.Context, ours, other *side, objects *objects) error {
	ours.serve.stop() // a round of one would be in the other's way
	if err := f.raw(ctx, objects, "raw"); err != nil {
		return err
	}
	for turn := 1; turn < f.b.o.turns; turn++ { // on clusters that are not needed afterwards, each first as often as the other
		order := []*side{{name: other.name, binary: other.binary, manifests: other.manifests, user: other.user}, {binary: ours.binary}}
		if turn%2 == 0 {
			order[0], order[1] = order[1], order[0]
		}
		for _, s := range order {
			if err := f.once(ctx, s, fmt.Sprintf("turn-%d", turn)); err != nil {
				return err
			}
			kept := ours
			if s.name != "" {
				kept = other
			}
			kept.first, kept.rates = append(kept.first, s.first...), append(kept.rates, s.rates...)
		}
		if err := f.raw(ctx, objects, fmt.Sprintf("raw-%d", turn)); err != nil {
			return err
		}
	}
	if _, err := f.begin(ctx, other, "product"); err != nil {
		return err
	}
	if err := other.settle(ctx); err != nil {
		return err
	}
	f.b.versus("first_round", float64(median(ours.first))/1e9, float64(median(other.first))/1e9, "s")
	f.b.versus("apply_vs_raw", median(ours.rates)/median(f.raws), median(other.rates)/median(f.raws), "of a bare client's rate")
	f.b.freshMinute()
	if err := ours.serve.start(ctx); err != nil {
		return err
	}
	return ours.serve.ready(ctx, ours.cluster)
}

// once does a first round on a cluster that goes away with it.
func (f *firstRounds) once(ctx context.Context, s *side, dir string) error {
	_, err := f.begin(ctx, s, dir)
	if failed := s.end(); err == nil {
		err = failed
	}
	return err
}

// raw writes the same objects with a bare client to another fresh cluster, as the same ServiceAccount under the same cage, and
// notes its rate.
func (f *firstRounds) raw(ctx context.Context, o *objects, dir string) (err error) {
	c, err := startCluster(ctx, filepath.Join(f.b.o.dir, dir), "", f.b.say)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	kube, err := kubernetes.NewForConfig(c.asIntegrator())
	if err != nil {
		return err
	}
	took, err := o.write(ctx, kube, f.b.o.concurrency)
	if err != nil {
		return err
	}
	fmt.Fprintf(f.b.say, "a bare client wrote %d objects in %.1f s\n", o.count(), took.Seconds())
	f.raws = append(f.raws, float64(o.count())/took.Seconds())
	return nil
}
