package syncer

import (
	"maps"
	"slices"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
)

// patience is how long passes over everything make way for hooks, one after the other. Then one goes on to its end.
const patience = 5 * time.Second

// leftOff is a job over everything whose pass was left off before it had changed anything, because a hook came: over a large
// GitLab a right that goes would else wait a second or two (docs/adr/0148). The zero value is none.
type leftOff struct {
	job   *job      // nil: there is none, or it is being done again
	since time.Time // when it was left off first
}

// leaveOff reports whether a pass ends here, because something waits that needs no look at everything.
func (s *pipeline) leaveOff(p *pass) bool {
	now := s.o.Now()
	p.leftOff = p.everywhere && s.published.leading.Load() && s.waits() && !s.left.overdue(now) && s.narrows(now)
	return p.leftOff
}

func (l *leftOff) overdue(now time.Time) bool {
	return !l.since.IsZero() && now.Sub(l.since) >= patience
}

// ends notes how the pass of a job has ended. It reports whether it was left off.
func (l *leftOff) ends(p *pass, j job) bool {
	switch {
	case p.leftOff:
		if l.job = &j; l.since.IsZero() {
			l.since = p.Started
		}
	case p.everywhere:
		*l = leftOff{}
	}
	return p.leftOff
}

// take returns the job that was left off, with what is known of GitLab by now.
func (l *leftOff) take(snap *authz.Snapshot) job {
	j := *l.job
	j.Snapshot, l.job = snap, nil
	return j
}

// join returns a job together with the one that was left off, if it is over everything as well, or that one has waited for long
// enough.
func (l *leftOff) join(j job, now time.Time) job {
	if l.job == nil || !j.everywhere && !l.overdue(now) {
		return j
	}
	before := l.take(j.Snapshot)
	if j.everywhere = true; before.Kind == KindFull {
		j.Kind = KindFull
	}
	j.Cause = causeOf(slices.Compact([]string{before.Cause, j.Cause}))
	changed := maps.Clone(before.changed)
	if changed == nil {
		changed = map[authz.SourceID]bool{}
	}
	maps.Copy(changed, j.changed)
	j.changed, j.tickets = changed, slices.Concat(before.tickets, j.tickets)
	if j.answers.empty() {
		j.answers = before.answers
	}
	return j
}

// jobOf makes a job of what is new of GitLab.
func jobOf(n intake.News) job {
	j := job{Round: Round{Kind: KindTargeted, Cause: causeOf(n.Causes), Snapshot: n.Snapshot}, changed: n.Changed, everywhere: n.Full, tickets: n.Done}
	if n.Full {
		j.Kind = KindFull
	}
	return j
}
