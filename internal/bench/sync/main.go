package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

type options struct {
	binary      string
	scale       float64
	interval    time.Duration
	concurrency int
	dir         string
	extra       string
	readOnly    bool

	against, againstSource string
	turns                  int

	hang    bool
	kinds   string
	hangFor time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.binary, "binary", "bin/gl-k8s-integrator", "the program that is measured")
	flag.Float64Var(&o.scale, "scale", 1, "part of the full size, for trying things out")
	flag.DurationVar(&o.interval, "interval", time.Minute, "time between two full rounds of the program")
	flag.IntVar(&o.concurrency, "concurrency", 8, "writes at the same time, of the program and of the bare client")
	flag.StringVar(&o.dir, "dir", "", "folder for logs, which is kept; default: a temporary one")
	flag.StringVar(&o.extra, "rbacsync", "", "further lines below rbacsync of the configuration, indented by two spaces")
	flag.BoolVar(&o.readOnly, "read-only", false, "only read and plan: needs no cluster")
	flag.StringVar(&o.against, "against", "", "another build of the program, which is measured in turns with it: prints ratios, this one divided by the other")
	flag.StringVar(&o.againstSource, "against-source", "", "the checkout of that other build: for its manifests, which a program insists on, and for against.plan; without -against it is built")
	flag.IntVar(&o.turns, "turns", 1, "how often each of two builds does its first round")
	flag.BoolVar(&o.hang, "hang", false, "measure instead what still goes on while a part of GitLab hangs (make bench-hang)")
	flag.StringVar(&o.kinds, "kinds", "", "the kinds of -hang, with commas; default: all")
	flag.DurationVar(&o.hangFor, "hang-for", 30*time.Second, "how long -hang waits for what should happen")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-sync:", err)
		os.Exit(1)
	}
}

// bench is what each measurement of a run is given: what was asked for, where its lines go, and the GitLab it is about.
type bench struct {
	o      options
	out    io.Writer // BENCH lines
	say    io.Writer // everything else
	gitlab *gitlabsim.Server
}

func (b *bench) line(name string, value any, unit string) {
	switch v := value.(type) {
	case float64:
		fmt.Fprintf(b.out, "BENCH %s %.3g %s\n", name, v, unit)
	default:
		fmt.Fprintf(b.out, "BENCH %s %v %s\n", name, v, unit)
	}
}

// versus prints the ratio of what was measured of this build and of the other one.
func (b *bench) versus(name string, ours, theirs float64, unit string) {
	b.line("against."+name, ours/theirs, "ratio")
	fmt.Fprintf(b.say, "%s: %.4g %s, of the other build %.4g %s\n", name, ours, unit, theirs, unit)
}

// freshMinute forgets which requests GitLab has counted: what starts now starts with all it may ask.
func (b *bench) freshMinute() { b.gitlab.SetRateLimits(gitlabsim.DefaultRateLimits()) }

func run(ctx context.Context, o options, out, say io.Writer) (err error) {
	b := &bench{o: o, out: out, say: say}
	for _, path := range []*string{&b.o.binary, &b.o.against, &b.o.againstSource} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
		if _, err := os.Stat(*path); err != nil {
			return fmt.Errorf("what is to be measured: %w", err)
		}
	}
	if b.o.dir == "" {
		if b.o.dir, err = os.MkdirTemp("", "bench-sync-"); err != nil {
			return err
		}
		defer os.RemoveAll(b.o.dir)
	}
	if b.o.dir, err = filepath.Abs(b.o.dir); err != nil { // kube-apiserver runs in another one
		return err
	}
	if o.hang {
		return measureHangs(ctx, b)
	}
	if o.against == "" && o.againstSource != "" {
		b.o.against = filepath.Join(b.o.dir, "against")
		if err := buildIn(ctx, b.o.againstSource, "./cmd/gl-k8s-integrator", b.o.against); err != nil {
			return err
		}
	}
	org, err := build(full.scaled(o.scale))
	if err != nil {
		return fmt.Errorf("making the organisation: %w", err)
	}
	if b.o.against != "" {
		if _, err := org.world.AddUser(gitlabsim.User{Username: secondAdmin, Admin: true}); err != nil {
			return err
		}
	}
	if b.gitlab, err = gitlabsim.New(gitlabsim.Options{World: org.world, RateLimits: gitlabsim.DefaultRateLimits()}); err != nil {
		return err
	}
	defer b.gitlab.Close()
	snap, err := readGitLab(ctx, b)
	if err != nil {
		return err
	}
	want, err := planEverything(b, snap)
	if err != nil || o.readOnly {
		return err
	}
	if err := comparePlans(ctx, b); err != nil {
		return err
	}
	if err := measureProduct(ctx, b, org, want); err != nil {
		return err
	}
	return measureCI(ctx, b)
}
