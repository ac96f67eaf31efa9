package syncer

import "time"

// Staleness says how old what the cluster was made from may be at most, by the way in which it becomes known. Memberships and
// what else sends a hook follow within seconds while hooks arrive; if they don't, everything is as old as Everything.
type Staleness struct {
	Everything time.Duration // since the last full reading was begun: links, transfers, lost hooks
	Present    time.Duration // states of the accounts that were seen lately
	Accounts   time.Duration // states of all active accounts
}

// Staleness returns the bounds as they are now; false before anything is known. What is known and not carried out yet
// counts from when it was read.
func (s *Syncer) Staleness() (Staleness, bool) {
	st := s.State()
	if st == nil || st.View.Snapshot == nil {
		return Staleness{}, false
	}
	now, taken := s.o.Now(), st.View.Snapshot.Taken
	out := Staleness{Everything: now.Sub(taken), Present: now.Sub(taken), Accounts: now.Sub(taken)}
	if s.o.Users != nil && s.published.leading.Load() {
		out.Present, out.Accounts = s.intake.Bound(taken)
	}
	for _, since := range []*time.Time{s.published.behind.Load(), s.published.unrevoked.Load()} {
		if since != nil && s.published.leading.Load() { // else it is another one's
			least := now.Sub(*since)
			out = Staleness{max(out.Everything, least), max(out.Present, least), max(out.Accounts, least)}
		}
	}
	return out, true
}
