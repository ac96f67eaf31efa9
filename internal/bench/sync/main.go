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

	"k8s.io/client-go/rest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
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
	if b.o.binary, err = filepath.Abs(o.binary); err != nil {
		return err
	}
	if _, err := os.Stat(b.o.binary); err != nil {
		return fmt.Errorf("the program to measure: %w", err)
	}
	if b.o.dir == "" {
		if b.o.dir, err = os.MkdirTemp("", "bench-sync-"); err != nil {
			return err
		}
		defer os.RemoveAll(b.o.dir)
	}
	if b.org, err = build(full.scaled(o.scale)); err != nil {
		return fmt.Errorf("making the organisation: %w", err)
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
	rate, objects, err := b.product(ctx)
	if err != nil {
		return err
	}
	raw, err := b.raw(ctx, objects)
	if err != nil {
		return err
	}
	b.line("sync.apply_per_second", rate, "objects/s")
	b.line("sync.raw_per_second", raw, "objects/s")
	b.line("sync.apply_vs_raw", rate/raw, "")
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

// product runs the program on a fresh cluster and measures what it does there. It returns its rate of writing, and
// the objects it wrote.
func (b *bench) product(ctx context.Context) (rate float64, _ *objects, err error) {
	c, err := startCluster(ctx, filepath.Join(b.o.dir, "product"), b.say)
	if err != nil {
		return 0, nil, err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	p, err := startServe(ctx, b.gitlab, c, setup{
		binary: b.o.binary, dir: filepath.Join(b.o.dir, "serve"), interval: b.o.interval,
		concurrency: b.o.concurrency, delivery: "none", extra: b.o.extra,
	})
	if err != nil {
		return 0, nil, err
	}
	defer p.stop()
	started := time.Now()
	if err := b.firstRound(ctx, c, p); err != nil {
		return 0, nil, err
	}
	n, took := c.audit.planned(0)
	rate = float64(n) / took.Seconds()
	b.line("sync.first_round_seconds", time.Since(started).Seconds(), "s")
	if err := b.quiet(ctx, c, 5*time.Second); err != nil {
		return 0, nil, err
	}
	b.line("sync.all_settled_seconds", time.Since(started).Seconds(), "s")
	if err := b.steady(ctx, c, p); err != nil {
		return 0, nil, err
	}
	if err := b.revocations(ctx, c); err != nil {
		return 0, nil, err
	}
	mib, err := p.peakMiB()
	if err != nil {
		return 0, nil, err
	}
	b.line("sync.rss_mib", mib, "MiB")
	if n := p.logLines("GitLab limits our requests"); n > 0 {
		fmt.Fprintf(b.say, "the program ran into GitLab's limits %d times\n", n)
	}
	p.stop()
	o, err := collect(ctx, c.kube)
	return rate, o, err
}

// firstRound waits until everything that is wanted was written, and shows how far it is.
func (b *bench) firstRound(ctx context.Context, c *cluster, p *serve) error {
	want := len(b.want.Objects)
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	deadline := time.Now().Add(20 * time.Minute)
	for shown := 0; ; shown++ {
		if err := c.audit.read(); err != nil {
			return err
		}
		n, took := c.audit.planned(0)
		if n >= want {
			fmt.Fprintf(b.say, "\n%d objects written in %.1f s\n", n, took.Seconds())
			return nil
		}
		progress(b.say, n, want, took)
		if ok, failed := p.fullRounds(ctx); ok+failed > 1 && n < want && time.Now().After(deadline) {
			return fmt.Errorf("the first rounds are over and only %d of %d objects are there", n, want)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
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
		if err := pause(ctx, 500*time.Millisecond); err != nil {
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

// revocations takes rights away in GitLab and waits for the API server to refuse.
func (b *bench) revocations(ctx context.Context, c *cluster) error {
	names, err := c.namespaces(ctx)
	if err != nil {
		return err
	}
	hc, err := rest.HTTPClientFor(c.AdminConfig())
	if err != nil {
		return err
	}
	defer hc.CloseIdleConnections()
	asker := &asker{client: hc, url: c.URL()}
	var took []time.Duration
	runs := min(len(b.org.single), 200)
	if b.o.scale >= 1 && runs < 200 {
		return fmt.Errorf("only %d revocations are possible", runs)
	}
	for i, m := range b.org.single[:runs] {
		ns := names[authz.Project(m.project)]
		d, err := asker.revoke(ctx, m.user, []string{ns}, func() error {
			return b.org.world.RemoveMember(gitlabsim.KindProject, m.project, m.user)
		})
		if err != nil {
			return fmt.Errorf("revocation %d in %q: %w", i, ns, err)
		}
		took = append(took, d)
	}
	slices.Sort(took)
	b.line("revoke.p50_ms", ms(took[len(took)/2]), "ms")
	b.line("revoke.p99_ms", ms(took[(len(took)*99+99)/100-1]), "ms")
	b.line("revoke.max_ms", ms(took[len(took)-1]), "ms")
	tree := []string{names[authz.Group(b.org.topTree)]}
	for _, p := range b.org.inTree {
		tree = append(tree, names[authz.Project(p)])
	}
	took = nil
	for _, u := range b.org.tops {
		d, err := asker.revoke(ctx, u, tree, func() error { return b.org.world.RemoveMember(gitlabsim.KindGroup, b.org.topTree, u) })
		if err != nil {
			return fmt.Errorf("revocation from the group: %w", err)
		}
		took = append(took, d)
	}
	slices.Sort(took)
	fmt.Fprintf(b.say, "revocations over %d namespaces: %v\n", len(tree), took)
	b.line("revoke.group_ms", ms(took[len(took)-1]), "ms")
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// asker asks the API server as GitLab users do: with requests, not with reviews.
type asker struct {
	client *http.Client
	url    string
}

// may asks for the pods of a namespace in the name of a user.
func (a *asker) may(ctx context.Context, user int64, namespace string) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url+"/api/v1/namespaces/"+namespace+"/pods?limit=1", nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("Impersonate-User", kubename.User(user))
	resp, err := a.client.Do(req)
	if err != nil {
		return false, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	err = errors.Join(err, resp.Body.Close())
	switch resp.StatusCode {
	case http.StatusOK:
		return true, err
	case http.StatusForbidden:
		return false, err
	}
	return false, fmt.Errorf("HTTP %d", resp.StatusCode)
}

// revoke does what takes the right away and returns how long it took until the API server refused everywhere. The
// clock starts before GitLab sends the hook, so the result is an upper bound of what is promised.
func (a *asker) revoke(ctx context.Context, user int64, namespaces []string, change func() error) (time.Duration, error) {
	for _, ns := range namespaces {
		if ok, err := a.may(ctx, user, ns); err != nil || !ok {
			return 0, fmt.Errorf("user %d has no right in %q before it is taken: %w", user, ns, err)
		}
	}
	start := time.Now()
	if err := change(); err != nil {
		return 0, err
	}
	for left := namespaces; ; {
		ok, err := a.may(ctx, user, left[0])
		switch {
		case err != nil:
			return 0, err
		case !ok:
			if left = left[1:]; len(left) == 0 {
				return time.Since(start), nil
			}
			continue
		case time.Since(start) > 5*time.Minute:
			return 0, fmt.Errorf("user %d still has his right in %q after 5 minutes", user, left[0])
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			return 0, err
		}
	}
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
