package accounts

import (
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Rules say which users and jobs a Snapshot lets in.
type Rules struct {
	Policy authz.Policy
	// MappedRight and Groups are conditions, and a user has to meet one of them: a right by Policy, or membership in one of
	// the groups, which are named by id. Without both a valid token suffices.
	MappedRight bool
	Groups      []int64
	// CI says the jobs of which projects get in by ID tokens; nil: none.
	CI *rbacsync.CISettings
}

// Conditional reports whether a valid token alone does not suffice.
func (r Rules) Conditional() bool { return r.MappedRight || len(r.Groups) > 0 }

// Knowledge is what the Snapshots so far say. It is made anew from each; what one does not say stays as it was.
type Knowledge struct {
	rules Rules
	now   func() time.Time

	mu     sync.Mutex // one Snapshot is learned at a time
	passed time.Time  // Taken of the last one that was passed over
	latest atomic.Pointer[facts]
}

// NewKnowledge returns a Knowledge of nothing. now is the clock by which memberships end.
func NewKnowledge(rules Rules, now func() time.Time) *Knowledge {
	return &Knowledge{rules: rules, now: now}
}

// With returns a Knowledge of the same Snapshots by other rules; k itself if they are the same. What was known of single
// accounts that the last Snapshot does not tell of goes over; who was let in by the rules before does not.
func (k *Knowledge) With(rules Rules) *Knowledge {
	if rules.equal(k.rules) {
		return k
	}
	next, old := NewKnowledge(rules, k.now), k.latest.Load()
	if old == nil {
		return next
	}
	fresh := &facts{snapshot: old.snapshot, states: next.states(old.snapshot, old), complete: old.complete, projects: next.standings(old.snapshot, nil)}
	if rules.Conditional() {
		fresh.admitted = next.admit(old.snapshot)
	}
	next.latest.Store(fresh)
	return next
}

func (r Rules) equal(o Rules) bool {
	return r.MappedRight == o.MappedRight && slices.Equal(r.Groups, o.Groups) && reflect.DeepEqual(r.CI, o.CI) && reflect.DeepEqual(r.Policy.Config(), o.Policy.Config())
}

// facts is immutable once published.
type facts struct {
	snapshot *authz.Snapshot
	// states are GitLab's states of the accounts, and authn's where GitLab has none. See userState.
	states map[int64]string
	// admitted are those who meet a condition; complete is false until GitLab could be read as a whole once.
	admitted map[int64]bool
	complete bool
	// projects are the standings of those projects of which they are known.
	projects map[int64]authn.ProjectStanding
}

// userState returns what is known of an account. Its absence means something once everybody was read: it does not exist.
func (k *facts) userState(id int64) (string, bool) {
	if state, there := k.states[id]; there {
		return state, true
	}
	_, unread := k.snapshot.Missing[authz.UserID(id)]
	if _, there := k.snapshot.Users[id]; there || unread || !k.complete {
		return "", false
	}
	return authn.StateDeleted, true
}

// Learn takes in a Snapshot that somebody has read. nil is ignored, and so is one that was taken before the last one; a second such
// one shows that somebody goes on reading, by a clock that is behind the one before.
func (k *Knowledge) Learn(s *authz.Snapshot) { k.learn(s, false) }

// LearnOwn is Learn of what this process has just read: that counts whatever the clock of another one said.
func (k *Knowledge) LearnOwn(s *authz.Snapshot) { k.learn(s, true) }

func (k *Knowledge) learn(s *authz.Snapshot, own bool) {
	if s == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	old := k.latest.Load()
	if old == nil {
		old = &facts{snapshot: &authz.Snapshot{}}
	}
	if s == old.snapshot {
		return
	}
	if !own && s.Taken.Before(old.snapshot.Taken) && (k.passed.IsZero() || k.passed.Equal(s.Taken)) {
		k.passed = s.Taken
		return
	}
	k.passed = time.Time{}
	fresh := &facts{snapshot: s, states: old.states, complete: old.complete || s.MissingAll == "", projects: old.projects}
	changes := compare(old.snapshot, s)
	if changes.users {
		fresh.states = k.states(s, old)
	}
	if k.rules.Conditional() {
		fresh.admitted = k.admit(s)
		// Unread is not empty: what could not be read takes nobody's admission away.
		if s.MissingAll != "" || len(s.Missing) > 0 {
			for id := range old.admitted {
				fresh.admitted[id] = true
			}
		}
	}
	if changes.projects {
		fresh.projects = k.standings(s, old.projects)
	}
	k.latest.Store(fresh)
}

// changes is what of the facts can be other than before: a hook changes little, and what it costs is not to depend on the size of
// GitLab.
type changes struct{ users, projects bool }

func compare(before, now *authz.Snapshot) (c changes) {
	between := authz.ChangesBetween(before, now)
	between.Missing(func(authz.SourceID) { c.users, c.projects = true, true })
	if before.MissingAll != now.MissingAll {
		return changes{true, true}
	}
	between.Users(func(a, b authz.User) bool { return a.State == b.State && a.Human == b.Human }, func(int64) { c.users = true })
	between.Users(func(a, b authz.User) bool { return a.Username == b.Username }, func(int64) { c.projects = true }) // authz.exclude.people
	between.Groups(authz.Group.SamePlace, func(int64) { c.projects = true })
	between.Projects(authz.Project.SamePlace, func(int64) { c.projects = true })
	return c
}

// states returns what is known of the accounts. Absence means something only where everybody was read; else what was known
// stays.
func (k *Knowledge) states(s *authz.Snapshot, old *facts) map[int64]string {
	out := make(map[int64]string, len(s.Users))
	bots := k.rules.Policy.Config().Bots
	for id, u := range s.Users {
		_, unread := s.Missing[authz.UserID(id)]
		switch {
		case u.State == "":
		case u.State == authz.StateActive && !u.Human && !unread && !bots:
			out[id] = authn.StateNotHuman
		default:
			out[id] = string(u.State)
		}
	}
	stays := func(id int64) {
		if _, there := out[id]; there {
			return
		}
		if state, there := old.userState(id); there {
			out[id] = state
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
	return out
}

// admit returns the users who meet a condition.
func (k *Knowledge) admit(s *authz.Snapshot) map[int64]bool {
	now, out := k.now(), map[int64]bool{}
	if k.rules.MappedRight {
		grants, _ := k.rules.Policy.Grants(s, k.rules.Policy.Sources(s), now)
		for _, g := range grants {
			for _, u := range g.Users {
				out[u] = true
			}
		}
	}
	resolver := authz.NewResolver(s, now)
	for _, id := range k.rules.Groups {
		for a := range resolver.Members(authz.GroupID(id)).All() {
			out[a.User] = true
		}
	}
	return out
}

// standings returns what is known of each project. Of one that could not be judged now counts what was known before.
func (k *Knowledge) standings(s *authz.Snapshot, before map[int64]authn.ProjectStanding) map[int64]authn.ProjectStanding {
	if k.rules.CI == nil {
		return nil
	}
	sources := make([]authz.Source, 0, len(s.Projects))
	for id := range s.Projects {
		if src, ok := k.rules.Policy.Source(s, authz.ProjectID(id)); ok {
			sources = append(sources, src)
		}
	}
	modes := k.rules.CI.Modes(s, sources)
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
	above := 0
	for at := range s.Up(authz.ProjectID(project)) {
		if s.MissingAll != "" || s.Missing[at] != "" || at.Kind == authz.GroupSource && !s.Contains(at) {
			return true
		}
		above++
	}
	return above > maxAbove
}

// maxAbove is how deep groups can be: GitLab allows 20 levels. What seems to be deeper goes round in a circle.
const maxAbove = 32
