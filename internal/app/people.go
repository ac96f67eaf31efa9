package app

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// people is what authentication knows of GitLab's accounts, and of the projects whose jobs get in by ID tokens. It is made anew from each Snapshot and answers from
// memory, so that no review ever waits for GitLab.
type people struct {
	require config.AuthnRequire
	policy  authz.Policy
	ci      *rbacsync.CISettings // nil: no job gets in by its ID token
	now     func() time.Time

	mu    sync.Mutex // one Snapshot is taken at a time
	known atomic.Pointer[knowledge]

	seenOne func(id int64) // if set, is told who was asked about
	// still, if set, reports whether the jobs of a project with another delivery have rights by their ID tokens all the
	// same, because they may have begun before it was moved.
	still func(project int64) bool

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
	// states are GitLab's states of the accounts, and authn's where GitLab has none. See state.
	states map[int64]string
	// admitted are those who meet a condition; complete is false until GitLab could be read as a whole once.
	admitted map[int64]bool
	complete bool
	// projects are the standings of those projects of which they are known.
	projects map[int64]authn.ProjectStanding
}

// state returns what is known of an account. Its absence means something once everybody was read: it does not exist.
func (k *knowledge) state(id int64) (string, bool) {
	if state, known := k.states[id]; known {
		return state, true
	}
	_, unread := k.snapshot.Missing[authz.Person(id)]
	if _, there := k.snapshot.Users[id]; there || unread || !k.complete {
		return "", false
	}
	return authn.StateDeleted, true
}

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
	bots := p.policy.Config().Bots
	for id, u := range s.Users {
		_, unread := s.Missing[authz.Person(id)]
		switch {
		case u.State == "":
		case u.State == authz.StateActive && !u.Human && !unread && !bots:
			k.states[id] = authn.StateNotHuman
		default:
			k.states[id] = string(u.State)
		}
	}
	// Absence means something only where everybody was read; else what was known stays.
	stays := func(id int64) {
		if _, there := k.states[id]; there {
			return
		}
		if state, known := old.state(id); known {
			k.states[id] = state
		}
	}
	if s.MissingAll != "" {
		for id := range old.states {
			stays(id)
		}
	}
	for id := range s.Missing {
		if id.Kind == authz.UserSource {
			stays(id.ID)
		}
	}
	for id, u := range s.Users {
		if u.State == "" { // half an answer
			stays(id)
		}
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
	k.projects = p.standings(s, old.projects)
	p.known.Store(k)
}

// standings returns what is known of each project. Of one that could not be judged now counts what was known before.
func (p *people) standings(s *authz.Snapshot, before map[int64]authn.ProjectStanding) map[int64]authn.ProjectStanding {
	if p.ci == nil {
		return nil
	}
	sources := make([]authz.Source, 0, len(s.Projects))
	for id := range s.Projects {
		if src, ok := p.policy.Source(s, authz.Project(id)); ok {
			sources = append(sources, src)
		}
	}
	modes := p.ci.Modes(s, sources)
	out := make(map[int64]authn.ProjectStanding, len(s.Projects))
	for id := range s.Projects {
		switch mode, mapped := modes[id]; {
		case unreadProject(s, id):
		case !mapped:
			out[id] = authn.ProjectNotServed
		case mode != rbacsync.DeliverIDToken:
			out[id] = authn.ProjectOtherDelivery
		default:
			out[id] = authn.ProjectServed
		}
	}
	for id, standing := range before {
		if unreadProject(s, id) {
			out[id] = standing
		}
	}
	return out
}

// unreadProject reports whether something is missing that says how a project's jobs get in: the project itself, what it is
// in, or the list of all.
func unreadProject(s *authz.Snapshot, project int64) bool {
	at := authz.Project(project)
	for range 64 { // GitLab allows 20 levels of groups, and a wrong answer may go round in a circle
		if s.MissingAll != "" || s.Missing[at] != "" || at.Kind == authz.GroupSource && !s.Contains(at) {
			return true
		}
		parent, ok := s.Parent(at)
		if !ok {
			return false
		}
		at = parent
	}
	return true
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
	resolver := authz.NewResolver(s, now)
	for _, id := range p.require.Groups {
		for a := range resolver.Members(authz.Group(id)).All() {
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
	return k.state(id)
}

// admitted is authn.Config.Admitted.
func (p *people) admitted(id int64) (admitted, known bool) {
	k := p.look()
	if k == nil {
		return false, false
	}
	return k.admitted[id], k.admitted[id] || k.complete
}

// project is authn.Config.CIProject.
func (p *people) project(id int64) authn.ProjectStanding {
	k := p.look()
	if k == nil {
		return authn.ProjectUnread
	}
	if standing, known := k.projects[id]; known {
		if standing == authn.ProjectOtherDelivery && p.still != nil && p.still(id) {
			return authn.ProjectServed
		}
		return standing
	}
	if _, there := k.snapshot.Projects[id]; there || !k.complete || unreadProject(k.snapshot, id) {
		return authn.ProjectUnread
	}
	return authn.ProjectNotServed
}

// ready returns nil if people can be judged.
func (p *people) ready() error {
	if k := p.look(); p.conditional() && (k == nil || !k.complete) {
		return errors.New("GitLab has not been read yet, and authn.require lets nobody in before")
	}
	return nil
}
