package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
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
	flag.IntVar(&o.turns, "turns", 1, "how often each of two builds reads and plans, and does its first round")
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

// bench is one run: where its lines go, and the GitLab it is about.
type bench struct {
	o      options
	out    io.Writer // BENCH lines
	say    io.Writer // everything else
	org    *organisation
	gitlab *gitlabsim.Server
	want   *rbacsync.Wanted
	policy authz.Policy
	raws   []float64 // rates of a bare client, objects per second
}

func (b *bench) line(name string, value any, unit string) {
	switch v := value.(type) {
	case float64:
		fmt.Fprintf(b.out, "BENCH %s %.3g %s\n", name, v, unit)
	default:
		fmt.Fprintf(b.out, "BENCH %s %v %s\n", name, v, unit)
	}
}

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
	if o.hang {
		return b.hang(ctx)
	}
	if o.against == "" && o.againstSource != "" {
		b.o.against = filepath.Join(b.o.dir, "against")
		if err := buildIn(ctx, b.o.againstSource, "./cmd/gl-k8s-integrator", b.o.against); err != nil {
			return err
		}
	}
	if b.org, err = build(full.scaled(o.scale)); err != nil {
		return fmt.Errorf("making the organisation: %w", err)
	}
	if b.o.against != "" {
		if _, err := b.org.world.AddUser(gitlabsim.User{Username: secondAdmin, Admin: true}); err != nil {
			return err
		}
	}
	if b.gitlab, err = gitlabsim.New(gitlabsim.Options{World: b.org.world, RateLimits: gitlabsim.DefaultRateLimits()}); err != nil {
		return err
	}
	defer b.gitlab.Close()
	if b.policy, err = authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource}}); err != nil {
		return err
	}
	if err := b.read(ctx); err != nil || o.readOnly {
		return err
	}
	if err := b.againstPlan(ctx); err != nil {
		return err
	}
	if err := b.product(ctx); err != nil {
		return err
	}
	return b.ci(ctx)
}

// refusals counts the 429 answers that a client got.
type refusals struct {
	next http.RoundTripper
	n    atomic.Int64
}

func (r *refusals) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.next.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusTooManyRequests {
		r.n.Add(1)
	}
	return resp, err
}

// read reads GitLab as the program does and plans the first round, in this process, and measures both.
func (b *bench) read(ctx context.Context) error {
	hc := b.gitlab.Client()
	counter := &refusals{next: hc.Transport}
	token := b.gitlab.TokenFor("root", "read_api")
	reader, err := gitlab.NewReader(gitlab.Options{
		BaseURL: b.gitlab.URL(), IncludeUsers: true,
		Token: func() (string, error) { return token, nil }, HTTPClient: &http.Client{Transport: counter, Timeout: 40 * time.Second},
	})
	if err != nil {
		return err
	}
	start := time.Now()
	snap, err := reader.Snapshot(ctx)
	if err != nil {
		return err
	}
	took := time.Since(start)
	hc.CloseIdleConnections()
	if snap.MissingAll != "" || len(snap.Missing) > 0 {
		return fmt.Errorf("the reading is not complete: %d sources missing %s", len(snap.Missing), snap.MissingAll)
	}
	var total int64
	for _, n := range reader.Requests() {
		total += n
	}
	b.gitlab.SetRateLimits(gitlabsim.DefaultRateLimits()) // the program starts with a fresh minute
	b.line("sync.read_requests", total, "requests")
	b.line("sync.read_over_limit", counter.n.Load(), "requests")
	b.line("sync.read_seconds", took.Seconds(), "s")
	fmt.Fprintf(b.say, "requests by kind: %v\n", reader.Requests())

	start = time.Now()
	grants, _ := b.policy.Grants(snap, b.policy.Sources(snap), time.Now())
	b.want = b.desired(snap, grants, nil)
	changes, _ := rbacsync.Plan(&rbacsync.Observed{}, b.want)
	b.line("sync.plan_seconds", time.Since(start).Seconds(), "s")
	subjects := 0
	for _, g := range grants {
		subjects += len(g.Users)
	}
	b.line("sync.subjects", subjects, "subjects")
	rows := 0
	for _, g := range snap.Groups {
		rows += len(g.Members)
	}
	for _, p := range snap.Projects {
		rows += len(p.Members)
	}
	fmt.Fprintf(b.say, "%d groups, %d projects, %d users, %d direct memberships; first plan: %d changes\n",
		len(snap.Groups), len(snap.Projects), len(snap.Users), rows, len(changes))
	return nil
}

func (b *bench) desired(snap *authz.Snapshot, grants []authz.Grant, have map[authz.SourceID]string) *rbacsync.Wanted {
	sources := b.policy.Sources(snap)
	names, _ := authz.AssignNames(sources, have, nil, nil)
	return rbacsync.Desired(rbacsync.Input{Snapshot: snap, Sources: sources, Names: names, Grants: grants, Roles: b.policy.ClusterRoles()})
}

// firstRound waits until everything that is wanted was written, or, if a build wants something else than this one,
// until it has done a full round and writes nothing more. It shows how far it is, and returns how many objects were
// written and when the first and the last one were, reckoned from the start of the program.
func (b *bench) firstRound(ctx context.Context, c *cluster, p *serve, started time.Time) (n int, writing, took time.Duration, err error) {
	want := len(b.want.Objects)
	deadline := started.Add(20 * time.Minute)
	before, since := -1, time.Now()
	for tries := 0; ; tries++ {
		if err := errors.Join(c.audit.read(), p.alive()); err != nil {
			return 0, 0, 0, err
		}
		first, last, n := c.audit.planned(0)
		if n != before {
			before, since = n, time.Now()
		}
		ok, _ := p.fullRounds(ctx)
		if n >= want || n > 0 && ok > 0 && time.Since(since) > 5*time.Second {
			fmt.Fprintf(b.say, "\n%d objects written in %.1f s\n", n, last.Sub(first).Seconds())
			return n, last.Sub(first), last.Sub(started), nil
		}
		if tries%4 == 0 {
			progress(b.say, n, want, last.Sub(first))
		}
		if time.Now().After(deadline) {
			return 0, 0, 0, fmt.Errorf("20 minutes after the start only %d of %d objects are there", n, want)
		}
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return 0, 0, 0, err
		}
	}
}

func progress(w io.Writer, n, want int, took time.Duration) {
	const width = 30
	done := width * n / max(want, 1)
	fmt.Fprintf(w, "\r  [%-*s] %d of %d objects", width, string(slices.Repeat([]byte("#"), done)), n, want)
	if n > 0 && took > time.Second {
		per := float64(n) / took.Seconds()
		fmt.Fprintf(w, ", %.0f/s, about %.0f s left   ", per, float64(want-n)/per)
	}
}

// quiet waits until the program has written nothing for a while.
func (b *bench) quiet(ctx context.Context, c *cluster, d time.Duration) error {
	count, since := -1, time.Now()
	for {
		if err := c.audit.read(); err != nil {
			return err
		}
		n := 0
		for _, w := range c.audit.writes {
			if !w.steady() {
				n++
			}
		}
		if n != count {
			count, since = n, time.Now()
		}
		if time.Since(since) > d {
			return nil
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// ready waits until a program has read everything and is quiet.
func (b *bench) ready(ctx context.Context, c *cluster, p *serve) error {
	for deadline := time.Now().Add(2 * time.Minute); ; {
		if err := p.alive(); err != nil {
			return err
		}
		if ok, _ := p.fullRounds(ctx); ok > 0 {
			return b.quiet(ctx, c, time.Second)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the program did no full round within 2 minutes; its log ends with:\n%s", p.lastWords())
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// steady waits for two more full rounds and counts what they wrote.
func (b *bench) steady(ctx context.Context, c *cluster, p *serve) error {
	from := len(c.audit.writes)
	ok, _ := p.fullRounds(ctx)
	for deadline := time.Now().Add(4*b.o.interval + 3*time.Minute); ; {
		now, failed := p.fullRounds(ctx)
		if now >= ok+2 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no two full rounds in a steady GitLab: %d good, %d failed", now, failed)
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
	if err := pause(ctx, 2*time.Second); err != nil {
		return err
	}
	if err := c.audit.read(); err != nil {
		return err
	}
	var changed []write
	for _, w := range c.audit.writes[from:] {
		if !w.steady() {
			changed = append(changed, w)
		}
	}
	b.line("sync.steady_writes", len(changed), "writes")
	fmt.Fprintf(b.say, "writes of two rounds without changes: %v\n", kinds(c.audit.writes[from:]))
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
