package syncer

import (
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// look is a reason to look at the cluster again without a change in GitLab: everywhere, or only at what was found beside
// the passes.
type look struct {
	cause      string
	everywhere bool
}

// looks has room for one.
type looks chan look

// put does not block, and may be called by anybody: with what nobody has taken yet it becomes one, and everywhere is all there is.
func (c looks) put(l look) {
	for {
		select {
		case c <- l:
			return
		default:
		}
		select {
		case before := <-c:
			if before.everywhere {
				l = before
			}
		default:
		}
	}
}

// backlog is what is to be done besides what is new of GitLab: to go on with its answers, to ask it about more, and to look again at
// what was found beside the passes. It is done when nothing is new. Hooks may never stop: it is done together with what is new once
// it has waited for patience, and at once with a pass over everything. The zero value is nothing.
type backlog struct {
	job   job
	since time.Time // when it came; zero: there is nothing
}

// gather takes in what there is by now.
func (b *backlog) gather(q *questioner, found looks, now time.Time) {
	select {
	case a := <-q.answered:
		if q.heard(a); !a.empty() {
			b.add(job{Round: Round{Cause: "answers"}, everywhere: true, answers: a}, now)
		}
	default:
	}
	if due(q.at, now) {
		q.at = time.Time{}
		b.add(job{Round: Round{Cause: "questions"}, everywhere: true, askAgain: true}, now)
	}
	select {
	case l := <-found:
		b.add(job{Round: Round{Cause: l.cause}, everywhere: l.everywhere}, now)
	default:
	}
}

func (b *backlog) add(j job, now time.Time) {
	if !b.waits() {
		b.since = now
	}
	j.Kind = KindAgain
	b.job = b.job.and(j)
}

// waits reports whether there is something.
func (b *backlog) waits() bool { return !b.since.IsZero() }

// take returns it as a job of its own, with what is known of GitLab.
func (b *backlog) take(snap *authz.Snapshot) job {
	j := b.job
	j.Snapshot, *b = snap, backlog{}
	return j
}

// join returns a job together with it, if that one looks at everything as well or it has waited for long enough. What was found
// beside the passes is shown by any of them.
func (b *backlog) join(j job, now time.Time) job {
	switch {
	case !b.waits():
	case !b.job.everywhere:
		*b = backlog{}
	case j.everywhere || now.Sub(b.since) >= patience:
		return b.take(j.Snapshot).and(j)
	}
	return j
}
