package syncer

import (
	"maps"
	"slices"
	"strings"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
)

// job is what a pass is to do.
type job struct {
	Round // to be: a job has its Kind, its Cause and what is known of GitLab, the pass finds the rest
	// changed is what of GitLab was read again: its namespaces are looked at, whether or not something is different.
	changed map[authz.SourceID]bool
	// everywhere: everything is looked at. What asks for less may still become a pass over everything, see narrow.
	everywhere bool
	drifted    rbacsync.Scope    // of KindDrift: the namespaces that somebody else changed
	tickets    []intake.Ticket   // what of the Inbox was read for it
	askAgain   bool              // GitLab is to be asked again what had no answer
	answers    answers           // what GitLab answered when it was asked about single things
	planned    []rbacsync.Change // by the pass before, in ModePlan: as if it had been written
	passed     []rbacsync.Past   // through the limits: counted also where it is not remembered
}

// jobOf makes a job of what is new of GitLab.
func jobOf(n intake.News) job {
	j := job{Round: Round{Kind: KindTargeted, Cause: causeOf(n.Causes), Snapshot: n.Snapshot}, changed: n.Changed, everywhere: n.Full, tickets: n.Done}
	if n.Full {
		j.Kind = KindFull
	}
	return j
}

// and returns a later job together with all that this one was to do. Its kind and what is known of GitLab are those of the later one.
func (j job) and(later job) job {
	later.Cause, later.everywhere = bothCauses(j.Cause, later.Cause), j.everywhere || later.everywhere
	later.askAgain = j.askAgain || later.askAgain
	later.changed, later.tickets = union(j.changed, later.changed), slices.Concat(j.tickets, later.tickets)
	later.answers = answers{gone: union(j.answers.gone, later.answers.gone), levels: union(j.answers.levels, later.answers.levels)}
	return later
}

// bothCauses names two causes, the same one once.
func bothCauses(a, b string) string {
	switch {
	case a == "" || a == b:
		return b
	case b == "" || slices.Contains(strings.Split(a, ", "), b):
		return a
	}
	return a + ", " + b
}

// union returns what is in either of two maps, in both as it is in the second one. They stay as they are.
func union[K comparable, V any](a, b map[K]V) map[K]V {
	both := make(map[K]V, len(a)+len(b))
	maps.Copy(both, a)
	maps.Copy(both, b)
	return both
}
