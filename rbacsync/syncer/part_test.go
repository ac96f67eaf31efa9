package syncer_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// TestAPartIsAsGoodAsEverything: after a round that looked only at what a change can concern, a round over everything
// finds nothing left to do; whatever the change was.
func TestAPartIsAsGoodAsEverything(t *testing.T) {
	t.Parallel()
	parts, others := 0, 0
	for seed := range uint64(25) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 11))
			snap := authztest.Snapshot(r)
			snap.Issuer = rbacsynctest.Issuer
			g := &gitlab{snap: snap}
			kube := fake.NewClientset()
			var mu sync.Mutex
			var rounds []syncer.Round
			s := newSyncer(t, syncer.Options{
				Reader: g, Kube: kube, Watch: kube, Interval: 1000 * time.Hour, Now: time.Now,
				OnRound: func(r syncer.Round) { mu.Lock(); rounds = append(rounds, r); mu.Unlock() },
			})
			taken := func() []syncer.Round {
				synctest.Wait()
				time.Sleep(5 * time.Second)
				synctest.Wait()
				mu.Lock()
				defer mu.Unlock()
				out := rounds
				rounds = nil
				return out
			}
			stop := run(t, s)
			defer stop()
			taken()
			for step := range 12 {
				next := authztest.Clone(snap)
				authztest.Change(r, next)
				snap = next
				g.set(func(g *gitlab) { g.snap = next })
				s.Trigger([]authz.SourceID{authz.GroupID(1)}, "hook")
				part := taken()
				for _, x := range part {
					if x.Kind == syncer.KindTargeted && x.Namespaces < len(x.Names) {
						parts++
					} else if x.Kind == syncer.KindTargeted {
						others++
					}
				}
				s.Trigger(nil, "check")
				for _, x := range taken() {
					if x.Kind == syncer.KindFull && len(x.Plan) > 0 {
						t.Fatalf("seed %d, step %d: after rounds that planned\n%s a round over everything plans\n%s", seed, step, texts(part), rbacsync.Text(x.Plan))
					}
				}
			}
		})
	}
	if parts < others {
		t.Errorf("only %d rounds looked at a part, %d at everything: this shows nothing", parts, others)
	}
}

// TestAPartIsMeasuredByTheWhole: the limits of revocations are fractions of everything, also in a round that looks at one
// namespace: 14 people of 72 projects, one after the other, are neither held nor a reason to look at everything.
func TestAPartIsMeasuredByTheWhole(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		snap := rbacsynctest.HawWorld()
		for i := range int64(70) {
			snap.Users[100+i] = authz.User{ID: 100 + i, Username: fmt.Sprintf("dev%d", i), State: authz.StateActive, Human: true}
			snap.Projects[100+i] = authz.Project{
				ID: 100 + i, Group: 7, Path: fmt.Sprintf("haw/p%d", i), CreatedAt: snap.Projects[42].CreatedAt,
				Members: []authz.Member{{User: 100 + i, Level: authz.Developer}},
			}
		}
		g := &gitlab{snap: snap}
		kube := fake.NewClientset()
		limits := rbacsync.DefaultLimits()
		limits.Creations = 0 // all of them are new
		var mu sync.Mutex
		var rounds []syncer.Round
		s := newSyncer(t, syncer.Options{
			Reader: g, Kube: kube, Watch: kube, Interval: 1000 * time.Hour, Now: time.Now, Limits: &limits,
			OnRound: func(r syncer.Round) { mu.Lock(); rounds = append(rounds, r); mu.Unlock() },
		})
		stop := run(t, s)
		defer stop()
		time.Sleep(time.Minute)
		synctest.Wait()
		mu.Lock()
		rounds = nil
		mu.Unlock()
		for i := range int64(12) {
			snap = without(snap, 100+i, 100+i)
			g.set(func(g *gitlab) { g.snap = snap })
			s.Trigger([]authz.SourceID{authz.ProjectID(100 + i)}, "hook")
			time.Sleep(5 * time.Second)
			synctest.Wait()
		}
		mu.Lock()
		defer mu.Unlock()
		revoked := 0
		for _, r := range rounds {
			if r.Namespaces == len(r.Names) || len(r.Held) > 0 {
				t.Errorf("a round (%s, %s) looked at %d of %d namespaces and holds %v", r.Cause, r.Kind.Read(), r.Namespaces, len(r.Names), r.Held)
			}
			for _, c := range r.Plan {
				if c.Revokes {
					revoked++
				}
			}
		}
		if revoked != 12 {
			t.Errorf("%d of 12 rights were taken", revoked)
		}
	})
}

// TestAProjectThatIsMovedAwayLeavesTheNamespaceOfItsGroup: its jobs deployed there. The round that the transfer leads to
// looks at that namespace as well, though the group itself did not change.
func TestAProjectThatIsMovedAwayLeavesTheNamespaceOfItsGroup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		snap := authztest.Clone(rbacsynctest.HawWorld())
		snap.Groups[8] = authz.Group{ID: 8, Path: "other", CreatedAt: snap.Groups[7].CreatedAt}
		g := &gitlab{snap: snap}
		kube := fake.NewClientset()
		s := newSyncer(t, syncer.Options{
			Reader: g, Kube: kube, Watch: kube, Interval: time.Hour, Now: time.Now,
			Settings: rbacsync.Settings{CI: rbacsync.CISettings{
				Exceptions: []rbacsync.CIException{{Source: authz.ProjectID(42), Mode: rbacsync.DeliverIDToken, Target: rbacsync.TargetGroup}},
			}},
		})
		stop := run(t, s)
		defer stop()
		time.Sleep(time.Second)
		wantSubjects(t, kube, "haw", kubename.CIRoleBinding, kubename.CIServiceAccount, "gitlab:ci:42")

		moved := authztest.Clone(snap)
		p := moved.Projects[42]
		p.Group, p.Path = 8, "other/world"
		moved.Projects[42] = p
		g.set(func(g *gitlab) { g.snap = moved })
		s.Trigger([]authz.SourceID{authz.ProjectID(42)}, "hook")
		time.Sleep(time.Second)
		wantSubjects(t, kube, "haw", kubename.CIRoleBinding, kubename.CIServiceAccount)
	})
}

// TestWhatCannotBeWrittenDelaysNobody: an object that can't be written in one namespace makes no hook about another one
// look at everything; it is written when it can be.
func TestWhatCannotBeWrittenDelaysNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset()
		var full atomic.Bool
		full.Store(true)
		kube.PrependReactor("create", "rolebindings", func(a kubetesting.Action) (bool, runtime.Object, error) {
			return full.Load() && a.GetNamespace() == "haw", nil, errors.New("exceeded quota")
		})
		g := &gitlab{snap: rbacsynctest.HawWorld()}
		seen := &rounds{}
		inbox := &box{}
		hook := func(id authz.SourceID, value string) {
			inbox.put([]intake.Ticket{{Key: id.Label(), Value: value, Changed: []authz.SourceID{id}, Cause: "hook"}})
		}
		s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Watch: kube, Interval: time.Hour, Now: time.Now, Inbox: inbox, OnRound: seen.add})
		defer run(t, s)()
		time.Sleep(10 * time.Minute) // until it is tried once a minute
		hook(authz.GroupID(7), "first")
		time.Sleep(time.Second)
		hook(authz.GroupID(7), "second")
		time.Sleep(time.Second)
		whole := func() (n int) {
			for _, r := range seen.taken() {
				if r.Kind == syncer.KindTargeted && r.Namespaces == len(r.Names) {
					n++
				}
			}
			return n
		}
		for _, snap := range []*authz.Snapshot{without(rbacsynctest.HawWorld(), 42, 3), rbacsynctest.HawWorld(), without(rbacsynctest.HawWorld(), 42, 3)} {
			g.set(func(g *gitlab) { g.snap = snap })
			hook(authz.ProjectID(42), fmt.Sprint(len(snap.Projects[42].Members)))
			time.Sleep(time.Second)
			if inbox.left() != 1 {
				t.Errorf("%d things in the inbox, want one: the group that can't be written", inbox.left())
			}
			if n := len(subjects(t, kube, "haw-world", "gitlab-view")); n != len(snap.Projects[42].Members) {
				t.Errorf("%d subjects a second after the hook, want %d", n, len(snap.Projects[42].Members))
			}
		}
		if n := whole(); n > 0 {
			t.Errorf("%d hooks made rounds over everything", n)
		}
		full.Store(false)
		time.Sleep(2 * time.Minute)
		wantSubjects(t, kube, "haw", "gitlab-edit", "gitlab:2")
		if inbox.left() != 0 {
			t.Errorf("%d things in the inbox, though all was written", inbox.left())
		}
	})
}

func texts(rounds []syncer.Round) (out string) {
	for _, r := range rounds {
		out += r.Cause + " (" + r.Kind.Read() + "): " + rbacsync.Text(r.Plan)
	}
	return out
}

// TestAHookDoesNotWaitForAReadingOfEverything: a right that is taken while everything is being read is gone at once,
// and what the reading met before the change does not give it back.
func TestAHookDoesNotWaitForAReadingOfEverything(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		before := rbacsynctest.HawWorld()
		after := without(before, 42, 3)
		g := &halfRead{gitlab: gitlab{snap: before}}
		kube := fake.NewClientset()
		s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Watch: kube, Interval: time.Hour, Now: time.Now})
		stop := run(t, s)
		defer stop()
		time.Sleep(time.Second)
		wantSubjects(t, kube, "haw-world", "gitlab-view", "gitlab:3")

		g.set(func(gl *gitlab) { gl.snap = after })
		g.hold(10*time.Minute, before) // what it meets is older than the change
		s.Trigger(nil, "everything")
		time.Sleep(time.Second)
		began := time.Now()
		s.Trigger([]authz.SourceID{authz.ProjectID(42)}, "hook")
		for len(subjects(t, kube, "haw-world", "gitlab-view")) > 0 {
			time.Sleep(10 * time.Millisecond)
			if time.Since(began) > time.Minute {
				t.Fatal("the hook waits for the reading of everything")
			}
		}
		time.Sleep(15 * time.Minute) // the reading ends
		wantSubjects(t, kube, "haw-world", "gitlab-view")
		if got := s.State().Round.Kind; got != syncer.KindFull {
			t.Errorf("the reading of everything did not count: last round read %q", got)
		}
	})
}

// halfRead is a GitLab whose next reading of everything takes a while, and met everything before a change.
type halfRead struct {
	gitlab
	mu    sync.Mutex
	takes time.Duration
	old   *authz.Snapshot
}

func (h *halfRead) hold(d time.Duration, old *authz.Snapshot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.takes, h.old = d, old
}

func (h *halfRead) Snapshot(ctx context.Context) (*authz.Snapshot, error) {
	h.mu.Lock()
	d, old := h.takes, h.old
	h.takes, h.old = 0, nil
	h.mu.Unlock()
	if old == nil {
		return h.gitlab.Snapshot(ctx)
	}
	time.Sleep(d)
	return old, nil
}

// TestABlockDuringAReadingOfEverythingStays: the reading met the account before it was blocked, and so much else changed
// meanwhile that not all can be read again before it counts; or nothing can.
func TestABlockDuringAReadingOfEverythingStays(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		others int64
		named  authz.SourceID // what was read again when the block became known
	}{{1, authz.UserID(3)}, {60, authz.UserID(3)}, {60, authz.ProjectID(159)}} {
		others := c.others
		synctest.Test(t, func(t *testing.T) {
			before := rbacsynctest.HawWorld()
			for i := range others {
				before.Projects[100+i] = authz.Project{ID: 100 + i, Group: 7, Path: fmt.Sprintf("haw/p%d", i), CreatedAt: before.Projects[42].CreatedAt}
			}
			after := authztest.Clone(before)
			after.Users[3] = authz.User{ID: 3, Username: "bob", State: "blocked", Human: true}
			g := &singly{halfRead: halfRead{gitlab: gitlab{snap: before}}, named: map[authz.SourceID]int64{authz.ProjectID(159): 3}}
			kube := fake.NewClientset()
			var given atomic.Int64
			s := newSyncer(t, syncer.Options{
				Reader: g, Kube: kube, Watch: kube, Interval: time.Hour, Now: time.Now,
				OnRound: func(r syncer.Round) {
					for _, c := range r.Plan {
						if added, _ := c.Subjects(); slices.Contains(added, "gitlab:3 (bob)") || slices.Contains(added, "gitlab:3") {
							given.Add(1)
						}
					}
				},
			})
			stop := run(t, s)
			defer stop()
			time.Sleep(time.Second)
			wantSubjects(t, kube, "haw-world", "gitlab-view", "gitlab:3")
			if given.Swap(0) != 1 {
				t.Fatal("the test does not see what is given")
			}

			g.set(func(gl *gitlab) { gl.snap = after })
			g.hold(10*time.Minute, before)
			s.Trigger(nil, "everything")
			time.Sleep(time.Second)
			changed := []authz.SourceID{c.named}
			for i := range others {
				changed = append(changed, authz.ProjectID(100+i))
			}
			s.Trigger(changed, "hook")
			time.Sleep(time.Minute)
			wantSubjects(t, kube, "haw-world", "gitlab-view")
			if others == 1 { // when the reading ends, GitLab is away
				g.set(func(gl *gitlab) { gl.err = errors.New("502") })
			}
			time.Sleep(10 * time.Minute)
			if got := s.State().Round.Snapshot.Taken; others == 1 && !got.Equal(before.Taken) {
				t.Errorf("the reading did not count: %v", got)
			}
			g.set(func(gl *gitlab) { gl.err = nil })
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			wantSubjects(t, kube, "haw-world", "gitlab-view")
			if n := given.Load(); n > 0 {
				t.Errorf("somebody blocked got their right back %d times", n)
			}
		})
	}
}

// singly is a halfRead whose targeted readings bring nothing but what they were asked for.
type singly struct {
	halfRead
	named map[authz.SourceID]int64 // whose account the rows of a source tell of
}

func (s *singly) Refresh(ctx context.Context, base *authz.Snapshot, changed []authz.SourceID) (*authz.Snapshot, error) {
	now, err := s.gitlab.Refresh(ctx, base, changed)
	if err != nil {
		return nil, err
	}
	out := authztest.Clone(base)
	for _, id := range changed {
		delete(out.Missing, id)
		if u := s.named[id]; u != 0 {
			out.Users[u] = now.Users[u]
		}
		switch id.Kind {
		case authz.GroupSource:
			if out.Groups[id.ID] = now.Groups[id.ID]; !now.Contains(id) {
				delete(out.Groups, id.ID)
			}
		case authz.ProjectSource:
			out.Projects[id.ID] = now.Projects[id.ID]
		case authz.UserSource:
			out.Users[id.ID] = now.Users[id.ID]
		}
	}
	return out, nil
}

// TestNobodyKeepsABlockWaiting: GitLab takes a tenth of a second for each thing that is read again, and somebody has changed
// very many of their things. A block is carried out at once; other top-level groups have turns of their own; of the rest what came
// first is read first, and nothing is left out.
func TestNobodyKeepsABlockWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		snap := rbacsynctest.HawWorld()
		var many []authz.SourceID
		for i := range int64(150) {
			snap.Projects[100+i] = authz.Project{ID: 100 + i, Group: 7, Path: fmt.Sprintf("haw/p%d", i), CreatedAt: snap.Projects[42].CreatedAt}
			many = append(many, authz.ProjectID(100+i))
		}
		snap.Groups[8] = authz.Group{ID: 8, Path: "calm", CreatedAt: snap.Groups[7].CreatedAt}
		snap.Projects[900] = authz.Project{ID: 900, Group: 8, Path: "calm/p", CreatedAt: snap.Groups[7].CreatedAt, Members: []authz.Member{{User: 2, Level: authz.Developer}}}
		g := &slowly{singly: singly{halfRead: halfRead{gitlab: gitlab{snap: snap}}}, read: map[authz.SourceID]int{}}
		g.hold(time.Minute, snap) // to read everything takes longer than to read these one by one
		kube := fake.NewClientset()
		s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Watch: kube, Interval: time.Hour, Now: time.Now})
		stop := run(t, s)
		defer stop()
		time.Sleep(61 * time.Second)
		wantSubjects(t, kube, "haw-world", "gitlab-view", "gitlab:3")

		blocked := authztest.Clone(without(snap, 42, 2))
		blocked.Users[3] = authz.User{ID: 3, Username: "bob", State: "blocked", Human: true}
		g.set(func(gl *gitlab) { gl.snap = blocked })
		s.Trigger(many, "hook")
		time.Sleep(time.Second)
		s.Trigger([]authz.SourceID{authz.UserID(3)}, "poll")
		time.Sleep(5 * time.Second)
		wantSubjects(t, kube, "haw-world", "gitlab-view")
		wantSubjects(t, kube, "calm-p", "gitlab-view", "gitlab:2")
		g.set(func(gl *gitlab) { gl.snap = without(gl.snap, 900, 2) })
		s.Trigger([]authz.SourceID{authz.ProjectID(900)}, "hook")
		time.Sleep(5 * time.Second)
		wantSubjects(t, kube, "calm-p", "gitlab-view")                             // another top-level group has turns of its own
		s.Trigger([]authz.SourceID{authz.ProjectID(42), authz.GroupID(7)}, "hook") // smaller numbers come no earlier
		s.Trigger(many[:10], "hook")
		time.Sleep(2 * time.Second)
		g.mu.Lock()
		if n := g.read[authz.ProjectID(42)]; n > 0 {
			t.Error("what came last was read before what waits")
		}
		g.mu.Unlock()
		time.Sleep(time.Minute)
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, id := range append(many, authz.ProjectID(42), authz.GroupID(7), authz.UserID(3)) {
			if g.read[id] == 0 {
				t.Errorf("%s was never read again", id)
			}
		}
	})
}

// slowly is a singly that takes a while for each thing.
type slowly struct {
	singly
	read map[authz.SourceID]int
}

func (s *slowly) Refresh(ctx context.Context, base *authz.Snapshot, changed []authz.SourceID) (*authz.Snapshot, error) {
	time.Sleep(time.Duration(len(changed)) * 100 * time.Millisecond)
	s.mu.Lock()
	for _, id := range changed {
		s.read[id]++
	}
	s.mu.Unlock()
	return s.singly.Refresh(ctx, base, changed)
}

// TestTooMuchToReadOneByOneIsNotBelievedOfAnOlderReading: so much changes during a reading that it is left to another one.
// What the first one met before gives nothing, and its end settles no ticket of what came after its beginning.
func TestTooMuchToReadOneByOneIsNotBelievedOfAnOlderReading(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		base := without(rbacsynctest.HawWorld(), 42, 3)
		met := authztest.Clone(base)
		met.Projects[42] = rbacsynctest.HawWorld().Projects[42] // bob was there for a moment
		g := &singly{halfRead: halfRead{gitlab: gitlab{snap: base}}}
		kube := fake.NewClientset()
		in := &box{}
		var mu sync.Mutex
		var all []syncer.Round
		s := newSyncer(t, syncer.Options{
			Reader: g, Kube: kube, Watch: kube, Interval: 1000 * time.Hour, Now: time.Now, Inbox: in,
			OnRound: func(r syncer.Round) { mu.Lock(); defer mu.Unlock(); all = append(all, r) },
		})
		stop := run(t, s)
		defer stop()
		time.Sleep(time.Second)
		g.hold(10*time.Minute, met)
		s.Trigger(nil, "everything")
		time.Sleep(time.Minute)
		var tickets []intake.Ticket
		for i := range int64(600) { // by number, project/42 is among the first of them
			tickets = append(tickets, intake.Ticket{Key: fmt.Sprintf("group-%d", 100+i), Changed: []authz.SourceID{authz.GroupID(100 + i)}})
		}
		tickets = append(tickets, intake.Ticket{Key: "project-42", Changed: []authz.SourceID{authz.ProjectID(42)}})
		in.put(tickets)
		time.Sleep(8 * time.Minute)
		if n := in.left(); n < 500 {
			t.Errorf("%d of 601 tickets are left, of things that nobody has read", n)
		}
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		if n := in.left(); n != 0 {
			t.Errorf("%d tickets are left in the end", n)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, r := range all { // one that made way for the last one is a round together with it: the cause names both
			if len(r.Done) > 0 && !strings.Contains(r.Cause, "many changes") {
				t.Errorf("round %s (%s) settles %d tickets, of things that nobody has read since", r.Cause, r.Kind.Read(), len(r.Done))
			}
			for _, c := range r.Plan {
				if added, _ := c.Subjects(); r.Cause != "start" && len(added) > 0 {
					t.Errorf("round %s (%s) gives %v", r.Cause, r.Kind.Read(), added)
				}
			}
		}
		full := slices.DeleteFunc(g.taken(), func(call string) bool { return call != "full" })
		if len(full) != 2 {
			t.Errorf("%d readings of everything beside the one that was held, want 2: at the start and of what came during that one", len(full))
		}
	})
}

// box is an Inbox in memory.
type box struct {
	mu      sync.Mutex
	tickets map[string]string // by key
	take    func([]intake.Ticket)
}

func (b *box) Follow(ctx context.Context, take func([]intake.Ticket), _ func([]intake.Ticket) bool) {
	b.mu.Lock()
	b.take = take
	b.mu.Unlock()
	<-ctx.Done()
}

func (b *box) Remove(_ context.Context, done []intake.Ticket) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range done {
		if b.tickets[t.Key] == t.Value {
			delete(b.tickets, t.Key)
		}
	}
	return nil
}

func (b *box) put(tickets []intake.Ticket) {
	b.mu.Lock()
	if b.tickets == nil {
		b.tickets = map[string]string{}
	}
	for _, t := range tickets {
		b.tickets[t.Key] = t.Value
	}
	take := b.take
	b.mu.Unlock()
	take(tickets)
}

func (b *box) left() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.tickets)
}

// TestAHookDoesNotWaitForTheNextTryOfAReading: a reading of everything fails just when a hook comes in. Single things can
// be read all the same.
func TestAHookDoesNotWaitForTheNextTryOfAReading(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &failingAtTheEnd{singly: singly{halfRead: halfRead{gitlab: gitlab{snap: rbacsynctest.HawWorld()}}}, tries: make(chan struct{}, 100)}
		kube := fake.NewClientset()
		s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Watch: kube, Interval: time.Hour, Now: time.Now})
		stop := run(t, s)
		defer stop()
		time.Sleep(time.Second)
		var try atomic.Int64
		g.end.Store(new(func() {
			n := try.Add(1)
			if n%8 > 0 {
				return // the pauses between two tries grow
			}
			snap := rbacsynctest.HawWorld()
			if n%16 == 8 {
				snap = without(snap, 42, 3)
			}
			g.set(func(gl *gitlab) { gl.snap = snap })
			s.Trigger([]authz.SourceID{authz.ProjectID(42)}, "hook")
		}))
		for range 200 {
			<-g.tries
			time.Sleep(5 * time.Second)
			want := 0
			g.set(func(gl *gitlab) { want = len(gl.snap.Projects[42].Members) })
			if n := len(subjects(t, kube, "haw-world", "gitlab-view")); n != want {
				t.Fatalf("%d subjects 5 s after the hook, want %d", n, want)
			}
		}
	})
}

// failingAtTheEnd is a singly whose readings of everything fail after a while, once end is set, which is called then.
type failingAtTheEnd struct {
	singly
	end   atomic.Pointer[func()]
	tries chan struct{}
}

func (f *failingAtTheEnd) Snapshot(ctx context.Context) (*authz.Snapshot, error) {
	end := f.end.Load()
	if end == nil {
		return f.singly.Snapshot(ctx)
	}
	time.Sleep(10 * time.Second)
	(*end)()
	f.tries <- struct{}{}
	return nil, errors.New("502")
}
