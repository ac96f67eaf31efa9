package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/wait"
)

// revocation is a right that is taken from a user, in GitLab.
type revocation struct {
	user       int64
	sources    []authz.SourceID // where they have it
	take, give func() error
}

// player is one of those who carry revocations out in turns. All get all the hooks, so that the others are frozen while it
// is one's turn, and do it again when they thaw.
type player struct {
	prober  *prober
	sent    *hookClock
	names   map[authz.SourceID]string
	frozen  []*serve // while it is this one's turn
	prepare func(ctx context.Context, user int64, namespaces []string) error

	singles, groups []time.Duration
}

func (p *player) namespaces(r revocation) (out []string) {
	for _, id := range r.sources {
		out = append(out, p.names[id])
	}
	return out
}

// measureRevocations takes rights away in GitLab and waits for the API server to refuse: by this build, by a bare client on the
// same cluster and, if other is not nil, by that build on its own cluster, in turns.
func measureRevocations(ctx context.Context, b *bench, org *organisation, ours, other *side) (err error) {
	client, err := startBare(ctx, b.gitlab, ours.cluster, b.o.concurrency)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.stop()) }()
	var sent hookClock
	b.gitlab.SetHookPolicy(sent.note)
	defer b.gitlab.SetHookPolicy(nil)
	us, err := newPlayer(ctx, ours, &sent)
	if err != nil {
		return err
	}
	defer us.prober.client.CloseIdleConnections()
	raw := &player{prober: us.prober, sent: us.sent, names: us.names, frozen: []*serve{ours.serve}, prepare: client.prepare}
	players, sides, block := []*player{us, raw}, []*side{ours}, 10
	if other != nil {
		them, err := newPlayer(ctx, other, &sent)
		if err != nil {
			return err
		}
		defer them.prober.client.CloseIdleConnections()
		us.frozen, them.frozen, raw.frozen = []*serve{other.serve}, []*serve{ours.serve}, []*serve{ours.serve, other.serve}
		players, sides = append(players, them), append(sides, other)
		block = 7 // GitLab sends 16 hooks at a time, and those to two frozen programs are not answered
	}
	runs := min(len(org.single), 200)
	if b.o.scale >= 1 && runs < 200 {
		return fmt.Errorf("only %d revocations are possible", runs)
	}
	singles, groups := org.revocations(runs)
	t := &turns{players: players, sides: sides}
	for part := range slices.Chunk(singles, block) {
		next := time.Now().Add(t.patience(part))
		if err := t.block(ctx, part, func(p *player, d time.Duration) { p.singles = append(p.singles, d) }); err != nil {
			return errors.Join(err, client.failed())
		}
		wait.For(ctx, time.Until(next))
	}
	for _, one := range groups {
		if err := t.block(ctx, []revocation{one}, func(p *player, d time.Duration) { p.groups = append(p.groups, d) }); err != nil {
			return errors.Join(fmt.Errorf("from the group: %w", err), client.failed())
		}
	}
	reportRevocations(b, players, len(groups[0].sources))
	return nil
}

// revocations are those that are possible: of direct rows in a project each, and of rows in a group with many projects.
func (o *organisation) revocations(runs int) (singles, groups []revocation) {
	w := o.world
	one := func(kind gitlabsim.SourceKind, id, user int64, sources []authz.SourceID) revocation {
		return revocation{
			user: user, sources: sources,
			take: func() error { return w.RemoveMember(kind, id, user) },
			give: func() error { return w.SetMember(kind, id, user, gitlabsim.Maintainer, "") },
		}
	}
	for _, m := range o.single[:runs] {
		singles = append(singles, one(gitlabsim.KindProject, m.project, m.user, []authz.SourceID{authz.ProjectID(m.project)}))
	}
	tree := []authz.SourceID{authz.GroupID(o.topTree)}
	for _, p := range o.inTree {
		tree = append(tree, authz.ProjectID(p))
	}
	for _, u := range o.tops {
		groups = append(groups, one(gitlabsim.KindGroup, o.topTree, u, tree))
	}
	return singles, groups
}

// reportRevocations prints the lines. A ratio is of the same quantile; that of a group is of the medians, because of ten runs
// the slowest tells more of the machine.
func reportRevocations(b *bench, players []*player, namespaces int) {
	quantile := func(took []time.Duration, percent int) float64 {
		sorted := slices.Sorted(slices.Values(took))
		return ms(sorted[max(1, (len(sorted)*percent+99)/100)-1])
	}
	us, raw := players[0], players[1]
	b.line("revoke.p50_ms", ms(slices.Sorted(slices.Values(us.singles))[len(us.singles)/2]), "ms")
	b.line("revoke.p99_ms", quantile(us.singles, 99), "ms")
	b.line("revoke.max_ms", quantile(us.singles, 100), "ms")
	b.line("revoke.group_ms", quantile(us.groups, 100), "ms")
	b.line("revoke.raw_p50_ms", quantile(raw.singles, 50), "ms")
	b.line("revoke.raw_p99_ms", quantile(raw.singles, 99), "ms")
	b.line("revoke.raw_group_ms", quantile(raw.groups, 100), "ms")
	b.line("revoke.p50_vs_raw", quantile(us.singles, 50)/quantile(raw.singles, 50), "ratio")
	b.line("revoke.p99_vs_raw", quantile(us.singles, 99)/quantile(raw.singles, 99), "ratio")
	b.line("revoke.group_vs_raw", float64(median(us.groups))/float64(median(raw.groups)), "ratio")
	fmt.Fprintf(b.say, "revocations over %d namespaces: %v\n  by the bare client: %v\n", namespaces, us.groups, raw.groups)
	if len(players) > 2 {
		them := players[2]
		b.versus("revoke_p50", quantile(us.singles, 50), quantile(them.singles, 50), "ms")
		b.versus("revoke_p99", quantile(us.singles, 99), quantile(them.singles, 99), "ms")
		b.versus("revoke_group", ms(median(us.groups)), ms(median(them.groups)), "ms")
	}
}

// hookClock knows when GitLab sent a hook. What a change takes in the simulated GitLab before that, which answers readings of
// everything meanwhile on the same processors, is neither the program's nor the bare client's.
type hookClock struct{ at atomic.Pointer[time.Time] }

// note is a hook policy: all are delivered.
func (c *hookClock) note(gitlabsim.Event) gitlabsim.HookAction {
	now := time.Now()
	c.at.CompareAndSwap(nil, &now)
	return gitlabsim.HookAction{}
}

// of makes a change and returns when its first hook was sent.
func (c *hookClock) of(change func() error) (time.Time, error) {
	c.at.Store(nil)
	if err := change(); err != nil {
		return time.Time{}, err
	}
	at := c.at.Load()
	if at == nil {
		return time.Time{}, errors.New("GitLab sent no hook")
	}
	return *at, nil
}

func newPlayer(ctx context.Context, s *side, sent *hookClock) (*player, error) {
	names, err := s.cluster.namespaces(ctx)
	if err != nil {
		return nil, err
	}
	a, err := newProber(s.cluster)
	return &player{prober: a, names: names, sent: sent}, err
}

// turns lets everybody do the same revocations.
type turns struct {
	players []*player
	sides   []*side
	begun   int // who begins changes with each block
}

// patience is how long a block takes at least. Each hook has one project read, and GitLab lets only so many be read in a minute: of
// more of them the waiting for that would be measured. A program that keeps within the limit uses six tenths of it.
func (t *turns) patience(rs []revocation) time.Duration {
	hooks := 2 * len(rs) * len(t.players) // each player takes and gives
	return time.Duration(float64(hooks) / (0.6 * gitlab.LimitsPerMinute()["project"]) * float64(time.Minute))
}

// block lets each player carry out some revocations. What was taken is given again before the next one's turn.
func (t *turns) block(ctx context.Context, rs []revocation, add func(*player, time.Duration)) error {
	t.begun++
	for i := range t.players {
		p := t.players[(t.begun+i)%len(t.players)]
		for _, r := range rs {
			if i > 0 {
				if err := r.give(); err != nil {
					return err
				}
			}
		}
		if err := t.settle(ctx, rs, true); err != nil {
			return err
		}
		if err := t.turn(ctx, p, rs, add); err != nil {
			return err
		}
		if err := t.settle(ctx, rs, false); err != nil {
			return err
		}
	}
	return nil
}

// turn lets one player carry out revocations, one after the other, while the others are frozen.
func (t *turns) turn(ctx context.Context, p *player, rs []revocation, add func(*player, time.Duration)) (err error) {
	for _, s := range p.frozen {
		defer func() { err = errors.Join(err, s.thaw()) }()
		if err := s.freeze(); err != nil {
			return err
		}
	}
	for _, r := range rs {
		namespaces := p.namespaces(r)
		if p.prepare != nil {
			if err := p.prepare(ctx, r.user, namespaces); err != nil {
				return err
			}
		}
		d, err := p.prober.revoke(ctx, r.user, namespaces, func() (time.Time, error) { return p.sent.of(r.take) })
		if err != nil {
			return fmt.Errorf("revocation in %q: %w", namespaces[0], err)
		}
		add(p, d)
	}
	return nil
}

// settle waits until all clusters are as GitLab is and nobody writes any more.
func (t *turns) settle(ctx context.Context, rs []revocation, want bool) error {
	for _, s := range t.sides { // a drift that is put back has to be seen first
		if err := s.cluster.quiet(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
	deadline := time.Now().Add(5 * time.Minute)
	for _, p := range t.players {
		for _, r := range rs {
			for left := p.namespaces(r); len(left) > 0; {
				ok, err := p.prober.may(ctx, r.user, left[0])
				switch {
				case err != nil:
					return err
				case ok == want:
					left = left[1:]
					continue
				case time.Now().After(deadline):
					return fmt.Errorf("user %d: 5 minutes after GitLab changed, may they in %q: %v", r.user, left[0], ok)
				}
				if err := pause(ctx, 20*time.Millisecond); err != nil {
					return err
				}
			}
		}
	}
	for _, s := range t.sides {
		if err := s.cluster.quiet(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// prober asks the API server as GitLab users do: with requests, not with reviews.
type prober struct {
	client *http.Client
	url    string
}

func newProber(c *cluster) (*prober, error) {
	hc, err := rest.HTTPClientFor(c.AdminConfig())
	return &prober{client: hc, url: c.URL()}, err
}

// may asks for the pods of a namespace in the name of a user. With resourceVersion=0 the answer comes at once: a list of what
// is newest waits for etcd's next word, up to 100 ms, and what is measured would be that.
func (a *prober) may(ctx context.Context, user int64, namespace string) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url+"/api/v1/namespaces/"+namespace+"/pods?limit=1&resourceVersion=0", nil)
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

// revoke does what takes the right away and returns how long it took until the API server refused everywhere, from when change says.
func (a *prober) revoke(ctx context.Context, user int64, namespaces []string, change func() (time.Time, error)) (time.Duration, error) {
	for _, ns := range namespaces {
		if ok, err := a.may(ctx, user, ns); err != nil || !ok {
			return 0, fmt.Errorf("user %d has no right in %q before it is taken: %w", user, ns, err)
		}
	}
	start, err := change()
	if err != nil {
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
			return 0, fmt.Errorf("user %d still has the right in %q after 5 minutes", user, left[0])
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			return 0, err
		}
	}
}
