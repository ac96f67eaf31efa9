package syncer

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
)

// TestWhatElseIsToBeDone: it comes with a job that looks at everything, with any other one only when it has waited, and findings alone
// need no pass of their own.
func TestWhatElseIsToBeDone(t *testing.T) {
	t.Parallel()
	now := time.Now()
	found := answers{gone: map[authz.SourceID]bool{authz.ProjectID(9): true}}
	for name, c := range map[string]struct {
		waits      job
		since      time.Duration
		everywhere bool // of the job that it may come with
		want       bool // it does
		left       bool // it waits still
		cause      string
	}{
		"with a hook":                    {job{Round: Round{Cause: "answers"}, everywhere: true, answers: found}, time.Second, false, false, true, "hook"},
		"with a hook, after some time":   {job{Round: Round{Cause: "answers"}, everywhere: true, answers: found}, patience, false, true, false, "answers, hook"},
		"with a look at everything":      {job{Round: Round{Cause: "answers"}, everywhere: true, answers: found}, 0, true, true, false, "answers, hook"},
		"questions":                      {job{Round: Round{Cause: "questions"}, everywhere: true}, patience, false, true, false, "questions, hook"},
		"what was found, with any job":   {job{Round: Round{Cause: "inspection"}}, 0, false, false, false, "hook"},
		"what was found, and everything": {job{Round: Round{Cause: "inspection"}}, 0, true, true, false, "hook"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b backlog
			b.add(c.waits, now.Add(-c.since))
			j := b.join(job{Round: Round{Kind: KindTargeted, Cause: "hook"}, everywhere: c.everywhere}, now)
			if j.everywhere != c.want || j.Kind != KindTargeted || j.Cause != c.cause || b.waits() != c.left || (len(j.answers.gone) > 0) != (c.want && !c.waits.answers.empty()) {
				t.Errorf("joined %+v, waits still: %t", j, b.waits())
			}
		})
	}
	var b backlog
	if j := b.join(job{Round: Round{Cause: "hook"}}, now); j.Cause != "hook" || b.waits() {
		t.Errorf("nothing is to be done, and the job is %+v", j)
	}
}

// TestNoLookIsLost: of several reasons to look at the cluster again, one is kept, and it is over everything if one of them was; however
// many have one at the same time, nobody waits.
func TestNoLookIsLost(t *testing.T) {
	t.Parallel()
	for everywhere := range 10 {
		c := make(looks, 1)
		var g sync.WaitGroup
		for n := range 10 {
			g.Go(func() { c.put(look{"found", n == everywhere}) })
		}
		g.Wait()
		if l := <-c; !l.everywhere || len(c) > 0 {
			t.Errorf("kept: %+v, and %d more", l, len(c))
		}
	}
}

// TestCausesAreNamedOnce, in the order in which they came.
func TestCausesAreNamedOnce(t *testing.T) {
	t.Parallel()
	for _, c := range [][3]string{
		{"", "hook", "hook"}, {"hook", "", "hook"}, {"hook", "hook", "hook"}, {"ci", "hook", "ci, hook"}, {"ci, hook", "hook", "ci, hook"},
	} {
		if got := bothCauses(c[0], c[1]); got != c[2] {
			t.Errorf("%q and %q: %q, want %q", c[0], c[1], got, c[2])
		}
	}
}

// TestARightThatCouldNotBeTakenCounts, since it was first known, until it is taken or need not be; a right that could not be given is
// not.
func TestARightThatCouldNotBeTakenCounts(t *testing.T) {
	t.Parallel()
	begun := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	failing := func(ns string, revokes bool) cluster.Failure {
		return cluster.Failure{Change: rbacsync.Change{Key: rbacsync.Key{Namespace: ns}, Revokes: revokes}}
	}
	d := dirty{}
	for n, step := range []struct {
		scope  rbacsync.Scope
		failed []cluster.Failure
		want   time.Duration // after begun; negative: nothing is left to take
	}{
		{nil, []cluster.Failure{failing("a", false)}, -1},
		{rbacsync.Scope{"a": true}, []cluster.Failure{failing("a", false), failing("a", true)}, time.Minute},
		{rbacsync.Scope{"b": true}, []cluster.Failure{failing("b", true)}, time.Minute},
		{rbacsync.Scope{"a": true}, []cluster.Failure{failing("a", true)}, time.Minute}, // since it was first known
		{rbacsync.Scope{"c": true}, nil, time.Minute},
		{rbacsync.Scope{"a": true}, []cluster.Failure{failing("a", false)}, 2 * time.Minute}, // it is given again
		{rbacsync.Scope{"b": true}, nil, -1},
		{nil, []cluster.Failure{failing("a", true)}, 7 * time.Minute},
		{rbacsync.Scope{"b": true}, []cluster.Failure{failing("b", true)}, 7 * time.Minute},
		{rbacsync.Scope{"a": true}, nil, 8 * time.Minute}, // b is its own
		{nil, nil, -1},
	} {
		now := begun.Add(time.Duration(n) * time.Minute)
		d.take(step.scope, cluster.Report{Failed: step.failed}, now, now, time.Hour)
		switch since := d.unrevoked(); {
		case (since == nil) != (step.want < 0):
			t.Errorf("step %d: not taken since %v", n, since)
		case since != nil && !since.Equal(begun.Add(step.want)):
			t.Errorf("step %d: not taken since %v, want %v", n, since.Sub(begun), step.want)
		}
	}
}

// TestWhatIsDeferredCountsToo, and is not kept waiting by what failed beside it.
func TestWhatIsDeferredCountsToo(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	grant, revoke := rbacsync.Change{Key: rbacsync.Key{Namespace: "a"}}, rbacsync.Change{Key: rbacsync.Key{Namespace: "a"}, Revokes: true}
	d := dirty{}
	d.take(nil, cluster.Report{Failed: []cluster.Failure{{Change: grant, Err: errors.New("quota")}}, Deferred: []rbacsync.Change{revoke}}, now, now, time.Hour)
	if since := d.unrevoked(); since == nil || !since.Equal(now) || !d["a"].at.Equal(now) {
		t.Errorf("not taken since %v, looked at again at %v", since, d["a"].at)
	}
	d.take(rbacsync.Scope{"a": true}, cluster.Report{Deferred: []rbacsync.Change{grant}}, now, now, time.Hour)
	if since := d.unrevoked(); since != nil {
		t.Errorf("only a grant is deferred: not taken since %v", since)
	}
}

// hanging is a GitLab in which one top-level group has no answer for anything.
type hanging struct{ group authz.SourceID }

func (h hanging) Exists(ctx context.Context, id authz.SourceID) (bool, error) {
	if id == h.group {
		<-ctx.Done()
		return false, ctx.Err()
	}
	time.Sleep(100 * time.Millisecond)
	return false, nil
}

func (h hanging) MemberLevel(ctx context.Context, id authz.SourceID, _ int64) (authz.Level, error) {
	_, err := h.Exists(ctx, id)
	return 0, err
}

// TestAGroupThatHangsKeepsNoOtherWaiting: of what is asked about other top-level groups everything has its answer.
func TestAGroupThatHangsKeepsNoOtherWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bad, good := authz.GroupID(6), authz.GroupID(7)
		q := query{{bad}, {good}, nil}
		for user := range int64(20) {
			q[0] = append(q[0], rbacsync.Membership{Source: bad, User: user})
			q[1] = append(q[1], rbacsync.Membership{Source: good, User: user})
		}
		begun := time.Now()
		a := ask(t.Context(), hanging{bad}, q)
		if took := time.Since(begun); len(a.levels) != 20 || len(a.gone) != 1 || !a.gone[good] || !a.missed || took > questionTimeout {
			t.Errorf("%d levels and %d others after %v, missed %t", len(a.levels), len(a.gone), took, a.missed)
		}
		if a := ask(t.Context(), hanging{}, q); len(a.levels) != 40 || len(a.gone) != 2 || a.missed {
			t.Errorf("nothing hangs: %d levels, %d others, missed %t", len(a.levels), len(a.gone), a.missed)
		}
	})
}

// TestWhatHadNoAnswerIsAskedAgain, after pauses that grow to the interval; an answer to everything ends that.
func TestWhatHadNoAnswerIsAskedAgain(t *testing.T) {
	t.Parallel()
	now := time.Now()
	q := newQuestioner(&Options{Interval: 5 * time.Minute, Now: func() time.Time { return now }})
	var pauses []time.Duration
	for range 6 {
		q.asking, q.at = true, time.Time{}
		q.heard(answers{missed: true})
		if q.asking || q.at.IsZero() {
			t.Fatalf("asking %t, again at %v", q.asking, q.at)
		}
		pauses = append(pauses, q.pause)
	}
	if want := []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 5 * time.Minute, 5 * time.Minute}; !slices.Equal(pauses, want) {
		t.Errorf("pauses %v, want %v", pauses, want)
	}
	soon := now.Add(time.Second)
	q.at = soon
	if q.heard(answers{missed: true}); !q.at.Equal(soon) {
		t.Errorf("what was to be asked after a second is asked after %v", q.at.Sub(now))
	}
	q.at = time.Time{}
	if q.heard(answers{}); !q.at.IsZero() || q.pause != 0 {
		t.Errorf("everything had an answer: asked again at %v", q.at)
	}
}
