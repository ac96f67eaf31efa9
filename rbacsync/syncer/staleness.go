package syncer

import (
	"context"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/wait"
)

// polls runs the poller beside the rounds until ctx is done.
func (s *Syncer) polls(ctx context.Context) {
	for pause := s.poll.every; ; {
		wait.For(ctx, wait.Jitter(pause))
		st := s.State()
		if ctx.Err() != nil {
			return
		}
		if st == nil || st.View.Snapshot == nil || st.Round.Kind == KindLoaded {
			continue // the first full reading is on its way
		}
		// Also while rounds fail: one list that can't be read keeps nobody's block from being noticed.
		changed, err := s.poll.tick(ctx, st.View.Snapshot)
		if err == nil {
			pause = s.poll.every
		} else if ctx.Err() == nil {
			pause = min(2*pause, max(s.poll.every, time.Minute))
			s.o.Logger.WarnContext(ctx, "accounts can't be polled, trying again", "error", err)
		}
		if len(changed) > 0 {
			s.Trigger(changed, "poll")
		}
	}
}

// Staleness says how old what is known of GitLab may be at most, by the way in which it becomes known. Memberships and
// what else sends a hook follow within seconds while hooks arrive; if they don't, everything is as old as Everything.
type Staleness struct {
	Everything time.Duration // since the last full reading was begun: links, transfers, lost hooks
	Present    time.Duration // states of the accounts that were seen lately
	Accounts   time.Duration // states of all active accounts
}

// Staleness returns the bounds as they are now; false before anything is known.
func (s *Syncer) Staleness() (Staleness, bool) {
	st := s.State()
	if st == nil || st.View.Snapshot == nil {
		return Staleness{}, false
	}
	snap := st.View.Snapshot
	all := s.o.Now().Sub(snap.Taken)
	out := Staleness{Everything: all, Present: all, Accounts: all}
	if s.poll != nil && s.leading.Load() {
		out.Present, out.Accounts = s.poll.bound(snap)
	}
	return out, true
}
