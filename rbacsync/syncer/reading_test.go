package syncer_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/kubernetes/fake"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// halfGitLab is a Reader of which one list can be broken: full readings fail then, and targeted ones don't.
type halfGitLab struct {
	gitlab
	broken bool
	fulls  []time.Time
}

func (g *halfGitLab) Snapshot(ctx context.Context) (*authz.Snapshot, error) {
	s, err := g.gitlab.Snapshot(ctx)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fulls = append(g.fulls, time.Now())
	if g.broken && err == nil {
		half := *s
		half.Projects, half.MissingAll = nil, "listing projects: 502"
		return &half, nil
	}
	return s, err
}

// TestAFullReadingWithoutAListIsAFailedRound: it counts as failed, what was known stays, it is tried again with growing
// pauses, and hooks and expiries go on meanwhile.
func TestAFullReadingWithoutAListIsAFailedRound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		snap := rbacsynctest.HawWorld()
		grp := snap.Groups[7]
		today := time.Now().UTC() // synctest begins at midnight
		grp.Members = append(grp.Members, authz.Member{User: 3, Level: authz.Maintainer, Expires: authz.Date{Year: today.Year(), Month: today.Month(), Day: today.Day() + 1}})
		snap.Groups[7] = grp
		g := &halfGitLab{gitlab: gitlab{snap: snap}}
		kube := fake.NewClientset()
		var mu sync.Mutex
		var rounds []syncer.Round
		s := newSyncer(t, syncer.Options{
			Reader: g, Kube: kube, Interval: 5 * time.Minute,
			OnRound: func(r syncer.Round) { mu.Lock(); defer mu.Unlock(); rounds = append(rounds, r) },
		})
		defer run(t, s)()
		synctest.Wait()
		wantSubjects(t, kube, "haw", "gitlab-edit", "gitlab:2", "gitlab:3")
		time.Sleep(23*time.Hour + 20*time.Minute)
		synctest.Wait()
		g.set(func(*gitlab) { g.broken, g.fulls = true, nil })
		mu.Lock()
		rounds = nil
		mu.Unlock()

		time.Sleep(20 * time.Minute)
		synctest.Wait()
		mu.Lock()
		for _, r := range rounds {
			if r.Kind == syncer.KindFull && (r.Err == nil || !strings.Contains(r.Err.Error(), "listing projects: 502") || r.Compared() || len(r.Plan) > 0) {
				t.Errorf("round %s: error %v, %d planned", r.Cause, r.Err, len(r.Plan))
			}
			if r.Cause == "unknown" {
				t.Errorf("a round without a cause: %s", r.Kind.Read())
			}
		}
		mu.Unlock()
		g.set(func(*gitlab) {
			if n := len(g.fulls); n < 15 || n > 30 {
				t.Errorf("%d full readings in 15 to 20 minutes, want them a minute apart in the end", n)
			}
			if first, second := g.fulls[1].Sub(g.fulls[0]), g.fulls[4].Sub(g.fulls[3]); second < 3*first {
				t.Errorf("pauses %v, then %v: they don't grow", first, second)
			}
			g.fulls = nil
		})
		st := s.State()
		if st.Err == nil || st.View.Namespace[authz.ProjectID(42)] != "haw-world" || !st.Round.Compared() || len(st.View.Snapshot.Projects) != 1 {
			t.Fatalf("state: error %v, namespaces %v", st.Err, st.View.Namespace)
		}

		// A hook is dealt with at once, and costs no full reading.
		g.set(func(g *gitlab) { g.snap = without(g.snap, 42, 3); g.calls = nil })
		s.Trigger([]authz.SourceID{authz.ProjectID(42)}, "hook")
		synctest.Wait()
		wantSubjects(t, kube, "haw-world", "gitlab-view")
		if st := s.State(); st.Err == nil || !strings.Contains(st.Err.Error(), "listing projects: 502") || s.State().Since.After(time.Now().Add(-10*time.Minute)) {
			t.Errorf("a hook ends the failure: %v since %v", st.Err, st.Since)
		}
		if calls := g.taken(); len(calls) != 1 || calls[0] != "refresh project/42" {
			t.Errorf("reads %v", calls)
		}
		// So is an expiry.
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		wantSubjects(t, kube, "haw", "gitlab-edit", "gitlab:2")

		g.set(func(*gitlab) { g.broken = false })
		time.Sleep(70 * time.Second)
		synctest.Wait()
		if st := s.State(); st.Err != nil {
			t.Errorf("the failure stays: %v", st.Err)
		}
	})
}

// TestAFirstReadingThatFailsIsShown: `status` has something to show before the first good round.
func TestAFirstReadingThatFailsIsShown(t *testing.T) {
	t.Parallel()
	g := &halfGitLab{gitlab: gitlab{snap: rbacsynctest.HawWorld()}, broken: true}
	s := newSyncer(t, syncer.Options{Reader: g, Kube: fake.NewClientset()})
	if r, err := s.Once(t.Context(), "test"); err == nil || r.Err == nil {
		t.Error("the round counts as good")
	}
	if st := s.State(); st == nil || st.Err == nil || st.View.Snapshot != nil {
		t.Errorf("state %+v", st)
	}
}

// TestHooksBeforeTheFirstReadingWaitForIt: while nothing is known a hook is no reason to read everything at once again.
func TestHooksBeforeTheFirstReadingWaitForIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &gitlab{err: errors.New("502")}
		s := newSyncer(t, syncer.Options{Reader: g, Kube: fake.NewClientset(), Interval: time.Hour})
		defer run(t, s)()
		for range 600 {
			s.Trigger([]authz.SourceID{authz.ProjectID(42)}, "hook")
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if n := len(g.taken()); n < 10 || n > 25 {
			t.Errorf("%d readings in ten minutes", n)
		}
	})
}

// blockedNow is a Poller that finds bob blocked.
type blockedNow struct{}

func (blockedNow) States(_ context.Context, ids []int64) (map[int64]authz.UserState, []int64, error) {
	out := map[int64]authz.UserState{}
	for _, id := range ids {
		out[id] = authz.StateActive
	}
	out[3] = "blocked"
	return out, nil, nil
}

// TestABlockIsNoticedWhileAListIsBroken: a block sends no hook, and full readings that fail don't end the polling.
func TestABlockIsNoticedWhileAListIsBroken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &halfGitLab{gitlab: gitlab{snap: rbacsynctest.HawWorld()}}
		s := newSyncer(t, syncer.Options{Reader: g, Kube: fake.NewClientset(), Interval: time.Minute, Users: blockedNow{}, PollEvery: 3 * time.Minute})
		defer run(t, s)()
		synctest.Wait()
		g.set(func(*gitlab) { g.broken = true })
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if s.State().Err == nil {
			t.Fatal("no full reading has failed yet")
		}
		g.taken()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if calls := g.taken(); !slices.Contains(calls, "refresh user/3") {
			t.Errorf("reads %v", calls)
		}
	})
}

// memory is a Memory whose content outlives a Syncer.
type memory struct {
	mu     sync.Mutex
	stored *syncer.Stored
	err    error
}

func (m *memory) Save(_ context.Context, s syncer.Stored, _ func()) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stored = &s
	return nil
}

func (m *memory) Load(context.Context, string) (*syncer.Stored, string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stored, "1", m.err
}

// TestATokenDemotedOverARestartTakesNothingAway: the token was an administrator's when the last process read GitLab, and
// is not when this one does.
func TestATokenDemotedOverARestartTakesNothingAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		snap := rbacsynctest.HawWorld()
		snap.Admin = true
		kube, m := fake.NewClientset(), &memory{}
		stop := run(t, newSyncer(t, syncer.Options{Reader: &gitlab{snap: snap}, Kube: kube, Memory: m}))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		stop()
		wantSubjects(t, kube, "haw-world", "gitlab-view", "gitlab:3")

		seen := without(snap, 42, 3) // what the token is shown now
		seen.Admin = false
		g := &gitlab{snap: seen}
		s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Memory: m})
		defer run(t, s)()
		time.Sleep(time.Minute)
		synctest.Wait()
		wantSubjects(t, kube, "haw-world", "gitlab-view", "gitlab:3")
		if st := s.State(); st == nil || st.Err == nil || !strings.Contains(st.Err.Error(), "administrator") {
			t.Errorf("state %+v", st)
		}
		if !m.stored.Snapshot.Admin {
			t.Error("what the demoted token was shown was stored")
		}

		// Nor when it can't be learned what the last process saw.
		m.mu.Lock()
		m.err = errors.New("no API server")
		m.mu.Unlock()
		if _, err := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Memory: m}).Once(t.Context(), "test"); err == nil {
			t.Error("a round was done although nobody knows what the last token saw")
		}
		m.mu.Lock()
		m.err = nil
		m.mu.Unlock()

		g.set(func(g *gitlab) { a := *seen; a.Admin = true; g.snap = &a })
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		wantSubjects(t, kube, "haw-world", "gitlab-view") // an administrator again: now it counts
	})
}

// TestATokenThatNeverWasAnAdministratorsIsWorkedWith: that is somebody's choice, and warned of.
func TestATokenThatNeverWasAnAdministratorsIsWorkedWith(t *testing.T) {
	t.Parallel()
	other := rbacsynctest.HawWorld()
	other.Issuer, other.Admin = "https://other.example.com", true
	for _, m := range []*memory{{}, {stored: &syncer.Stored{Snapshot: rbacsynctest.HawWorld()}}, {stored: &syncer.Stored{Snapshot: other}}} {
		if _, err := newSyncer(t, syncer.Options{Reader: &gitlab{snap: rbacsynctest.HawWorld()}, Kube: fake.NewClientset(), Memory: m}).Once(t.Context(), "test"); err != nil {
			t.Error(err)
		}
	}
}

// TestAGitLabOfPeopleAloneIsNotHeld: without groups and projects there still are personal namespaces.
func TestAGitLabOfPeopleAloneIsNotHeld(t *testing.T) {
	t.Parallel()
	p, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.UserSource, authz.GroupSource}})
	if err != nil {
		t.Fatal(err)
	}
	snap := rbacsynctest.HawWorld()
	snap.Groups, snap.Projects = nil, nil
	g := &gitlab{snap: snap}
	kube := fake.NewClientset()
	s, err := syncer.New(syncer.Options{Questions: questionsOf(g), Reader: g, Kube: kube, Policy: p, Mode: syncer.ModeEnforce})
	if err != nil {
		t.Fatal(err)
	}
	for _, planned := range []bool{true, false} {
		r, err := s.Once(t.Context(), "test")
		if err != nil || len(r.Findings) != 0 || (len(r.Plan) > 0) != planned {
			t.Fatalf("%d planned, findings %v, %v", len(r.Plan), r.Findings, err)
		}
	}
	blocked := *snap
	blocked.Users = map[int64]authz.User{2: {ID: 2, Username: "alice", State: "blocked", Human: true}, 3: snap.Users[3]}
	g.snap = &blocked
	if r, err := s.Once(t.Context(), "test"); err != nil || len(r.Plan) == 0 {
		t.Errorf("a block is not carried out: %v, findings %v", err, r.Findings)
	}
	wantSubjects(t, kube, "alice", "gitlab-edit")
}
