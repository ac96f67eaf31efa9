package rbacsync_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
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
