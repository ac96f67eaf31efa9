package syncer

import (
	"cmp"
	"slices"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
)

const (
	// patience is how long passes over everything make way for hooks, one after the other. Then one goes on to its end.
	patience = 5 * time.Second
	// settled is for how long there has to be no other pass before a job is done again: hooks come in bursts, and the next one would
	// wait for it, too.
	settled = 500 * time.Millisecond
)

// leftOff is a job over everything whose pass was left off before it had changed anything, because a hook came: over a large
// GitLab a right that goes would else wait a second or two (docs/adr/0148). The zero value is none.
type leftOff struct {
	job   *job      // nil: there is none, or it is being done again
	since time.Time // when it was left off first
	at    time.Time // when it is done again; zero: there is none
	named bool      // a pass over single namespaces had its cause
}

// leaveOff reports whether a pass ends here, because something waits that needs no look at everything: what the pass was to deal
// with comes with it, so that has to fit into single namespaces, too.
func (s *pipeline) leaveOff(p *pass) bool {
	now := s.o.Now()
	if !p.everywhere || !s.published.leading.Load() || !s.waits() || now.Sub(cmp.Or(s.left.since, p.Started)) >= patience {
		return false
	}
	next := s.dirty.addTo(job{Round: Round{Snapshot: p.Snapshot}}, s.last, now)
	p.leftOff = !s.narrow(next).everything()
	return p.leftOff
}

// ends notes how the pass of a job has ended. It reports whether it was left off.
func (l *leftOff) ends(p *pass, j job, now time.Time) bool {
	switch l.at = now.Add(settled); {
	case p.leftOff:
		if l.job = &j; l.since.IsZero() {
			l.since = p.Started
		}
	case p.everywhere:
		*l = leftOff{}
	case l.job != nil: // of two tickets of the same key, the later one counts
		l.job.tickets = slices.DeleteFunc(slices.Clone(l.job.tickets), func(old intake.Ticket) bool {
			return slices.ContainsFunc(j.tickets, func(t intake.Ticket) bool { return t.Replaces(old) })
		})
	default:
		l.at = time.Time{}
	}
	return p.leftOff
}

// take returns the job that was left off, with what is known of GitLab by now.
func (l *leftOff) take(snap *authz.Snapshot) job {
	j := *l.job
	j.Snapshot, l.job, l.at = snap, nil, time.Time{}
	return j
}

// joined returns a job together with the one that was left off, if it looks at everything as well.
func (s *pipeline) joined(j job) job {
	if s.left.job == nil {
		return j
	}
	j.everywhere = j.everywhere || s.narrow(j).everything()
	return s.left.join(j, s.o.Now())
}

// join returns a job together with the one that was left off, if it is over everything as well, or that one has waited for long
// enough. Else it has the cause of that one, too, if it is the first: what the reading of everything has brought is carried out with it.
func (l *leftOff) join(j job, now time.Time) job {
	if !j.everywhere && now.Sub(l.since) < patience {
		if !l.named && l.job.Kind != KindAgain {
			j.Cause, l.named = bothCauses(l.job.Cause, j.Cause), true
		}
		return j
	}
	before := l.take(j.Snapshot)
	if before.Kind == KindFull {
		j.Kind = KindFull
	}
	return before.and(j)
}
