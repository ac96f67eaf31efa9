package app

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

// people is what authentication knows of GitLab's accounts. It is made anew from each Snapshot and answers from
// memory, so that no review ever waits for GitLab.
type people struct {
	require config.AuthnRequire
	policy  authz.Policy
	now     func() time.Time

	mu    sync.Mutex // one Snapshot is taken at a time
	known atomic.Pointer[knowledge]

	seenOne func(id int64) // if set, is told who was asked about

	// last, if set, returns the last published Snapshot. It is asked at each review, because a round publishes what
	// it read before it writes to the cluster, which may take long.
	last func() *authz.Snapshot
	seen atomic.Pointer[authz.Snapshot] // what last returned last
}

// watch makes p learn from the Snapshot that last returns, and tell seen of everybody it is asked about.
func (p *people) watch(seen *recent, last func() *authz.Snapshot) {
	p.seenOne, p.last = seen.note, last
}

// look returns what is known now.
func (p *people) look() *knowledge {
	if p.last != nil {
		if s := p.last(); s != nil && p.seen.Swap(s) != s {
			p.take(s)
		}
	}
	return p.known.Load()
}

// knowledge is immutable once published.
type knowledge struct {
	snapshot *authz.Snapshot
	// states are GitLab's states of the accounts, stateDeleted for one that an earlier Snapshot had and that is gone
	// in a complete one.
	states map[int64]string
	// admitted are those who meet a condition; complete is false until GitLab could be read as a whole once.
	admitted map[int64]bool
	complete bool
}

// stateDeleted is no state of GitLab's: there such an account is not listed at all.
const stateDeleted = "deleted"

// conditional reports whether a valid token alone does not suffice.
func (p *people) conditional() bool { return p.require.MappedRight || len(p.require.Groups) > 0 }

// take learns from a Snapshot. One that was taken before the last one is ignored.
func (p *people) take(s *authz.Snapshot) {
	if s == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.known.Load()
	if old == nil {
		old = &knowledge{snapshot: &authz.Snapshot{}}
	}
	if s == old.snapshot || s.Taken.Before(old.snapshot.Taken) {
		return
	}
	k := &knowledge{snapshot: s, states: make(map[int64]string, len(s.Users)), complete: old.complete || s.MissingAll == ""}
	for id, u := range s.Users {
		if u.State != "" { // half an answer: what was known stays
			k.states[id] = string(u.State)
		}
	}
	for id, state := range old.states {
		if _, there := k.states[id]; there {
			continue
		}
		// Absence means something only where everybody was read; else what was known stays.
		if _, unread := s.Missing[authz.Person(id)]; s.MissingAll == "" && !unread {
			state = stateDeleted
		}
		k.states[id] = state
	}
	if p.conditional() {
		k.admitted = p.admit(s)
		// Unread is not empty: what could not be read takes nobody's admission away.
		if s.MissingAll != "" || len(s.Missing) > 0 {
			for id := range old.admitted {
				k.admitted[id] = true
			}
		}
	}
	p.known.Store(k)
}

func (p *people) admit(s *authz.Snapshot) map[int64]bool {
	now, out := p.now(), map[int64]bool{}
	if p.require.MappedRight {
		grants, _ := p.policy.Grants(s, p.policy.Sources(s), now)
		for _, g := range grants {
			for _, u := range g.Users {
				out[u] = true
			}
		}
	}
	for _, id := range p.require.Groups {
		for a := range authz.Members(s, authz.Group(id), now).All() {
			out[a.User] = true
		}
	}
	return out
}

// state is authn.Config.UserState. Before the first Snapshot nobody is known, and the token alone decides.
func (p *people) state(id int64) (string, bool) {
	if p.seenOne != nil {
		p.seenOne(id)
	}
	k := p.look()
	if k == nil {
		return "", false
	}
	state, known := k.states[id]
	return state, known
}

// admitted is authn.Config.Admitted.
func (p *people) admitted(id int64) (admitted, known bool) {
	k := p.look()
	if k == nil {
		return false, false
	}
	return k.admitted[id], k.admitted[id] || k.complete
}

// ready returns nil if people can be judged.
func (p *people) ready() error {
	if k := p.look(); p.conditional() && (k == nil || !k.complete) {
		return errors.New("GitLab has not been read yet, and authn.require lets nobody in before")
	}
	return nil
}
