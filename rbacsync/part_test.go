package rbacsync_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/kubernetes/fake"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
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
			snap.Issuer = issuer
			g := &gitlab{snap: snap}
			kube := fake.NewClientset()
			var mu sync.Mutex
			var rounds []rbacsync.Round
			s := newSyncer(t, rbacsync.Options{
				Reader: g, Kube: kube, Watch: kube, Interval: 1000 * time.Hour, Now: time.Now,
				OnRound: func(r rbacsync.Round) { mu.Lock(); rounds = append(rounds, r); mu.Unlock() },
			})
			taken := func() []rbacsync.Round {
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
				s.Trigger([]authz.SourceID{authz.Group(1)}, "hook")
				part := taken()
				for _, x := range part {
					if x.Read == "partial" && x.Spaces < len(x.Names) {
						parts++
					} else if x.Read == "partial" {
						others++
					}
				}
				s.Trigger(nil, "check")
				for _, x := range taken() {
					if x.Read == "full" && len(x.Plan) > 0 {
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
		snap := hawWorld()
		for i := range int64(70) {
			snap.Users[100+i] = authz.User{ID: 100 + i, Username: fmt.Sprintf("dev%d", i), State: authz.StateActive, Human: true}
			snap.Projects[100+i] = authz.GitLabProject{
				ID: 100 + i, Group: 7, Path: fmt.Sprintf("haw/p%d", i), CreatedAt: snap.Projects[42].CreatedAt,
				Members: []authz.Member{{User: 100 + i, Level: authz.Developer}},
			}
		}
		g := &gitlab{snap: snap}
		kube := fake.NewClientset()
		limits := rbacsync.DefaultLimits()
		limits.Creations = 0 // all of them are new
		var mu sync.Mutex
		var rounds []rbacsync.Round
		s := newSyncer(t, rbacsync.Options{
			Reader: g, Kube: kube, Watch: kube, Interval: 1000 * time.Hour, Now: time.Now, Limits: &limits,
			OnRound: func(r rbacsync.Round) { mu.Lock(); rounds = append(rounds, r); mu.Unlock() },
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
			s.Trigger([]authz.SourceID{authz.Project(100 + i)}, "hook")
			time.Sleep(5 * time.Second)
			synctest.Wait()
		}
		mu.Lock()
		defer mu.Unlock()
		revoked := 0
		for _, r := range rounds {
			if r.Spaces == len(r.Names) || len(r.Held) > 0 {
				t.Errorf("a round (%s, %s) looked at %d of %d namespaces and holds %v", r.Cause, r.Read, r.Spaces, len(r.Names), r.Held)
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

func texts(rounds []rbacsync.Round) (out string) {
	for _, r := range rounds {
		out += r.Cause + " (" + r.Read + "): " + rbacsync.Text(r.Plan)
	}
	return out
}

// TestAHookDoesNotWaitForAReadingOfEverything: a right that is taken while everything is being read is gone at once,
// and what the reading met before the change does not give it back.
func TestAHookDoesNotWaitForAReadingOfEverything(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		before := hawWorld()
		after := without(before, 42, 3)
		g := &halfRead{gitlab: gitlab{snap: before}}
		kube := fake.NewClientset()
		s := newSyncer(t, rbacsync.Options{Reader: g, Kube: kube, Watch: kube, Interval: time.Hour, Now: time.Now})
		stop := run(t, s)
		defer stop()
		time.Sleep(time.Second)
		wantSubjects(t, kube, "haw-world", "gitlab-view", "gitlab:3")

		g.set(func(gl *gitlab) { gl.snap = after })
		g.hold(10*time.Minute, before) // what it meets is older than the change
		s.Trigger(nil, "everything")
		time.Sleep(time.Second)
		began := time.Now()
		s.Trigger([]authz.SourceID{authz.Project(42)}, "hook")
		for len(subjects(t, kube, "haw-world", "gitlab-view")) > 0 {
			time.Sleep(10 * time.Millisecond)
			if time.Since(began) > time.Minute {
				t.Fatal("the hook waits for the reading of everything")
			}
		}
		time.Sleep(15 * time.Minute) // the reading ends
		wantSubjects(t, kube, "haw-world", "gitlab-view")
		if got := s.State().Round.Read; got != "full" {
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
	for _, others := range []int64{1, 300} {
		synctest.Test(t, func(t *testing.T) {
			before := hawWorld()
			for i := range others {
				before.Projects[100+i] = authz.GitLabProject{ID: 100 + i, Group: 7, Path: fmt.Sprintf("haw/p%d", i), CreatedAt: before.Projects[42].CreatedAt}
			}
			after := authztest.Clone(before)
			after.Users[3] = authz.User{ID: 3, Username: "bob", State: "blocked", Human: true}
			g := &singly{halfRead: halfRead{gitlab: gitlab{snap: before}}}
			kube := fake.NewClientset()
			var given atomic.Int64
			s := newSyncer(t, rbacsync.Options{
				Reader: g, Kube: kube, Watch: kube, Interval: time.Hour, Now: time.Now,
				OnRound: func(r rbacsync.Round) {
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
			changed := []authz.SourceID{authz.Person(3)}
			for i := range others {
				changed = append(changed, authz.Project(100+i))
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
				t.Errorf("somebody blocked got his right back %d times", n)
			}
		})
	}
}

// singly is a halfRead whose targeted readings bring nothing but what they were asked for.
type singly struct{ halfRead }

func (s *singly) Refresh(ctx context.Context, base *authz.Snapshot, changed []authz.SourceID) (*authz.Snapshot, error) {
	now, err := s.gitlab.Refresh(ctx, base, changed)
	if err != nil {
		return nil, err
	}
	out := authztest.Clone(base)
	for _, id := range changed {
		delete(out.Missing, id)
		switch id.Kind {
		case authz.GroupSource:
			out.Groups[id.ID] = now.Groups[id.ID]
		case authz.ProjectSource:
			out.Projects[id.ID] = now.Projects[id.ID]
		case authz.UserSource:
			out.Users[id.ID] = now.Users[id.ID]
		}
	}
	return out, nil
}
