package syncer

import (
	"context"
	"slices"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/wait"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
)

// Inbox keeps what hooks named, also when this process ends, until that is read and written (docs/adr/0106).
type Inbox interface {
	// Follow hands over every entry, those that are there first, until ctx is done.
	Follow(ctx context.Context, take func([]intake.Ticket))
	// Remove takes entries out, unless they were put in again since.
	Remove(ctx context.Context, done []intake.Ticket) error
}

// dealtWith returns what of the Inbox is done with: it was read, these just now, and nothing is left to be written where it
// is about.
func (s *Syncer) dealtWith(read []intake.Ticket) (done []intake.Ticket) {
	waits := func(t intake.Ticket) bool {
		return slices.ContainsFunc(t.Changed, func(id authz.SourceID) bool { return s.dirty[s.last.view.Namespace[id]] != nil })
	}
	s.open = slices.DeleteFunc(s.open, func(old intake.Ticket) bool { // the Inbox has one entry of a key
		return slices.ContainsFunc(read, func(t intake.Ticket) bool { return t.Key == old.Key })
	})
	if s.open = append(s.open, read...); s.last == nil || s.dirty[everywhere] != nil {
		return nil
	}
	s.open = slices.DeleteFunc(s.open, func(t intake.Ticket) bool {
		if open := waits(t) || len(t.Changed) == 0 && len(s.dirty) > 0; open {
			return false
		}
		done = append(done, t)
		return true
	})
	return done
}

// clearInbox takes tickets out of the Inbox when they are dealt with, beside the rounds. What can't be taken out stays,
// which costs the next leader a needless reading.
func clearInbox(ctx context.Context, o *Options, done <-chan []intake.Ticket) {
	var left []intake.Ticket
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case more := <-done:
			left = append(left, more...)
		case <-again:
		}
		if again = nil; len(left) == 0 {
			continue
		}
		if err := o.Inbox.Remove(ctx, left); err != nil {
			if ctx.Err() == nil {
				o.Logger.WarnContext(ctx, "the inbox of hooks was not cleared, trying again", "error", err)
			}
			again = time.After(wait.Jitter(5 * time.Second))
			continue
		}
		left = nil
	}
}
