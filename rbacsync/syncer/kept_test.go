package syncer

import (
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
)

// TestALaterTicketTakesThePlaceOfAKeptOne: the Inbox has one entry of a key. What came while a job was kept is the later one, though
// the job is done after it.
func TestALaterTicketTakesThePlaceOfAKeptOne(t *testing.T) {
	t.Parallel()
	old, other, newer := intake.Ticket{Key: "42", Value: "1"}, intake.Ticket{Key: "43", Value: "1"}, intake.Ticket{Key: "42", Value: "2"}
	kept := job{Round: Round{Kind: KindFull, Snapshot: &authz.Snapshot{}}, everywhere: true, tickets: []intake.Ticket{old, other}}
	var l leftOff
	if !l.ends(&pass{job: kept, leftOff: true}, kept, time.Now()) {
		t.Fatal("the pass that was left off has ended")
	}
	hook := job{Round: Round{Kind: KindTargeted}, tickets: []intake.Ticket{newer}}
	if l.ends(&pass{job: hook}, hook, time.Now()) {
		t.Fatal("the pass of the hook was left off")
	}
	if got := l.take(&authz.Snapshot{}).tickets; len(got) != 1 || got[0].Key != "43" {
		t.Errorf("kept: %v, want the ticket of 43 alone", got)
	}
	if len(kept.tickets) != 2 {
		t.Error("the job's own tickets were changed")
	}
}

// TestWhatWaitsForLongIsJoined: a job that was kept for long enough is done with what is waiting then, and nothing of it is lost.
func TestWhatWaitsForLongIsJoined(t *testing.T) {
	t.Parallel()
	now := time.Now()
	kept := job{
		Round: Round{Kind: KindFull, Cause: "periodic"}, everywhere: true, tickets: []intake.Ticket{{Key: "1"}},
		changed: map[authz.SourceID]bool{authz.GroupID(1): true}, answers: answers{gone: map[authz.SourceID]bool{authz.ProjectID(9): true}},
	}
	l := leftOff{job: &kept, since: now.Add(-patience)}
	snap := &authz.Snapshot{}
	hook := job{Round: Round{Kind: KindTargeted, Cause: "hook", Snapshot: snap}, tickets: []intake.Ticket{{Key: "2"}}, changed: map[authz.SourceID]bool{authz.ProjectID(2): true}}
	j := l.join(hook, now)
	if l.job != nil || j.Kind != KindFull || !j.everywhere || j.Cause != "periodic, hook" || len(j.tickets) != 2 || len(j.changed) != 2 || j.answers.empty() || j.Snapshot != snap {
		t.Errorf("joined: %+v", j)
	}
	if len(kept.changed) != 1 {
		t.Error("what was kept was changed")
	}
}

// TestAnswersAreJoined: GitLab was asked twice before everything was looked at again. The later answer counts.
func TestAnswersAreJoined(t *testing.T) {
	t.Parallel()
	p, q, now := authz.ProjectID(9), authz.ProjectID(10), time.Now()
	kept := job{Round: Round{Kind: KindAgain, Cause: "answers"}, everywhere: true, answers: answers{gone: map[authz.SourceID]bool{p: true, q: true}}}
	later := job{Round: Round{Kind: KindAgain, Cause: "answers"}, everywhere: true, answers: answers{gone: map[authz.SourceID]bool{q: false}}}
	l := leftOff{job: &kept, since: now}
	j := l.join(later, now)
	if gone := j.answers.gone; len(gone) != 2 || !gone[p] || gone[q] || j.Kind != KindAgain || j.Cause != "answers" {
		t.Errorf("joined: %+v", j)
	}
	if !kept.answers.gone[q] {
		t.Error("what was kept was changed")
	}
}

// TestACauseIsNamedOnce: what a reading of everything has brought is carried out by the first pass after it. A job for which nothing
// was read has brought nothing.
func TestACauseIsNamedOnce(t *testing.T) {
	t.Parallel()
	now := time.Now()
	hook := job{Round: Round{Kind: KindTargeted, Cause: "hook"}}
	l := leftOff{job: &job{Round: Round{Kind: KindFull, Cause: "periodic"}, everywhere: true}, since: now}
	for _, want := range []string{"periodic, hook", "hook"} {
		if got := l.join(hook, now).Cause; got != want {
			t.Errorf("cause %q, want %q", got, want)
		}
	}
	l = leftOff{job: &job{Round: Round{Kind: KindAgain, Cause: "expiry"}, everywhere: true}, since: now}
	if got := l.join(hook, now).Cause; got != "hook" {
		t.Errorf("cause %q, want that of the hook", got)
	}
}
