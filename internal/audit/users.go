package audit

import (
	"slices"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// unread reports whether a Snapshot does not say if somebody has an account: unread is not gone.
func unread(s *authz.Snapshot, user int64) bool {
	return s.MissingAll != "" || len(s.Users) == 0 || s.Missing[authz.UserID(user)] != ""
}

// updateUsers brings the table of users up to date with a Snapshot of a time: their names, and who is gone from GitLab. Who is gone
// for longer than after and holds nothing is pseudonymised. It returns whose rows have changed, and whether a name was removed.
func updateUsers(t *tables, held state, s *authz.Snapshot, at time.Time, after time.Duration) (changed []uint32, removed bool) {
	holds := map[uint32]bool{}
	for _, roles := range held {
		for _, people := range roles {
			for _, n := range people {
				holds[n] = true
			}
		}
	}
	for _, p := range slices.Clone(t.users) {
		if p.ID == 0 || unread(s, p.ID) {
			continue
		}
		old := p
		u, there := s.Users[p.ID]
		switch {
		case there:
			p.Name, p.Gone = rbacsync.Printable(u.Username), time.Time{}
		case p.Gone.IsZero():
			p.Gone = at.UTC()
		case at.Sub(p.Gone) >= after && !holds[p.N]:
			pseudonymise(t, held, p)
			removed = true
			continue
		}
		if p != old {
			t.addUser(p)
			changed = append(changed, p.N)
		}
	}
	for _, n := range slices.Clone(t.namespaces) { // of somebody who is pseudonymised, and written to since
		if _, there := s.Users[n.Owner]; n.Owner > 0 && !there && !unread(s, n.Owner) && t.byID[n.Owner] == 0 && len(held[n.N]) == 0 {
			t.addNamespace(namespaceRow{N: n.N})
			removed = true
		}
	}
	return changed, removed
}

// pseudonymise takes the name and id of a person out of the tables, and the names of the namespaces that were theirs; where others
// still hold something, once they don't.
func pseudonymise(t *tables, held state, p userRow) {
	t.addUser(userRow{N: p.N})
	for _, s := range slices.Clone(t.namespaces) {
		if s.Owner == p.ID && len(held[s.N]) == 0 {
			t.addNamespace(namespaceRow{N: s.N})
		}
	}
}
