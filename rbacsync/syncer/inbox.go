package syncer

import (
	"context"
	"slices"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/wait"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
)

// Inbox keeps what hooks named, also when this process ends, until that is read and written (docs/adr/0106).
type Inbox interface {
	// Follow hands over every entry, those that are there first, until ctx is done. What comes in by way of this process it offers
	// while it is being stored; what was taken then is not handed over again.
	Follow(ctx context.Context, take func([]intake.Ticket), offer func([]intake.Ticket) bool)
	// Remove takes entries out, unless they were put in again since.
	Remove(ctx context.Context, done []intake.Ticket) error
}

// openTicket is a Ticket that was read, with the namespaces that it is about.
type openTicket struct {
	intake.Ticket
	scope rbacsync.Scope // nil: all
}

// dealtWith returns what of the Inbox is done with after a pass: it was read, these just now, and nothing is left to be written
// where it is about.
func (s *Syncer) dealtWith(p *pass, read []intake.Ticket) (done []intake.Ticket) {
	s.open = slices.DeleteFunc(s.open, func(old openTicket) bool { // the Inbox has one entry of a key, at a time
		return slices.ContainsFunc(read, func(t intake.Ticket) bool { return t.Replaces(old.Ticket) })
	})
	for _, t := range read {
		s.open = append(s.open, openTicket{t, s.scopeOf(p, t)})
	}
	if s.last == nil || s.dirty[everywhere] != nil {
		return nil
	}
	s.open = slices.DeleteFunc(s.open, func(t openTicket) bool {
		for ns := range s.dirty {
			if t.scope.Has(ns) {
				return false
			}
		}
		done = append(done, t.Ticket)
		return true
	})
	return done
}

// scopeOf returns the namespaces that a Ticket is about: at most those of the pass that it led to, or of a pass over everything
// those of what it names, and of what is below.
func (s *Syncer) scopeOf(p *pass, t intake.Ticket) rbacsync.Scope {
	if !p.everything() || len(t.Changed) == 0 {
		return p.scope
	}
	scope := rbacsync.Scope{}
	for ns := range s.dirty {
		id := p.view.Source[ns]
		if slices.ContainsFunc(t.Changed, func(named authz.SourceID) bool { return p.Snapshot.Within(id, named) }) {
			scope[ns] = true
		}
	}
	return scope
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
