// Package gitlabsim is a simulated self-managed GitLab over HTTPS: OpenID Connect provider, REST v4, GraphQL,
// system hooks and CI job tokens, all on one consistent in-memory model. The demo, the tests and the
// benchmarks run against it.
//
// It promises to be as strict as GitLab where this program could otherwise pass for the wrong reason: paging,
// visibility, error bodies, membership semantics, masking rules, single use of codes and refresh tokens. It
// computes effective membership with its own code, so that it can be compared with package authz. It listens
// on loopback only. It is not a GitLab: there is no Git, no web interface beyond a login form, and what this
// program does not use is absent.
package gitlabsim

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// World is the consistent model behind everything. Every change goes through a method that also emits the
// system hooks GitLab would send for it (and none where GitLab sends none).
type World struct {
	*model
	userChanges
	groupChanges
	projectChanges
	memberChanges
	variableChanges
	environmentChanges
	agentChanges
}

// model is the state of a World. All that changes it calls change.
type model struct {
	now  func() time.Time
	emit func([]Event) // called after the lock is released; nil = nobody listens

	mu       sync.RWMutex
	users    map[int64]*User
	groups   map[int64]*Group
	projects map[int64]*Project
	// Sorted ids and path indexes are kept so that a list of 10,000 projects doesn't sort for each page.
	userIDs, groupIDs, projectIDs        []int64
	nextUser, nextNamespace, nextProject int64
	nextMember, nextEnvironment          int64
	nextVariable, nextCluster, nextAgent int64
	namespaceOfUser                      map[int64]int64   // personal namespace id -> user id
	subgroups, projectsOf                map[int64][]int64 // sorted ids
	userNames, groupPaths, projectPaths  map[string]int64  // lower-cased full path -> id
	invitedIntoGroup, invitedIntoProject map[int64][]int64 // invited group -> groups/projects
	memberOfGroup, memberOfProject       map[int64][]int64 // user -> groups/projects with a direct row
}

// NewWorld returns an empty World. now is the clock of created_at and of expiry.
func NewWorld(now func() time.Time) *World {
	if now == nil {
		now = time.Now
	}
	m := &model{
		now: now, users: map[int64]*User{}, groups: map[int64]*Group{}, projects: map[int64]*Project{},
		nextUser: 1, nextNamespace: 1, nextProject: 1, nextMember: 1, nextEnvironment: 1,
		nextVariable: 1, nextCluster: 1, nextAgent: 1,
		namespaceOfUser: map[int64]int64{}, subgroups: map[int64][]int64{}, projectsOf: map[int64][]int64{},
		userNames: map[string]int64{}, groupPaths: map[string]int64{}, projectPaths: map[string]int64{},
		invitedIntoGroup: map[int64][]int64{}, invitedIntoProject: map[int64][]int64{},
		memberOfGroup: map[int64][]int64{}, memberOfProject: map[int64][]int64{},
	}
	return &World{
		model: m, userChanges: userChanges{m}, groupChanges: groupChanges{m}, projectChanges: projectChanges{m}, memberChanges: memberChanges{m},
		variableChanges: variableChanges{m}, environmentChanges: environmentChanges{m}, agentChanges: agentChanges{m},
	}
}

// View calls f with read access. Nothing that v hands out may be changed, or kept after f returns; f must not
// call methods of the World.
func (w *model) View(f func(v *View)) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	f(&View{w: w})
}

// change runs f under the write lock and then emits the events that f recorded.
func (w *model) change(f func(c *changes) error) error {
	w.mu.Lock()
	c := &changes{View: View{w: w}}
	err, emit := f(c), w.emit // Close takes emit away, maybe while a request is answered that nobody waits for any more
	w.mu.Unlock()
	if err == nil && emit != nil && len(c.events) > 0 {
		emit(c.events)
	}
	return err
}

// changes is write access plus the events of one change.
type changes struct {
	View
	events []Event
}

func (w *model) created(t time.Time) time.Time {
	if t.IsZero() {
		t = w.now()
	}
	return t.UTC().Truncate(time.Millisecond)
}

func take(next *int64, id int64) int64 {
	if id == 0 {
		id = *next
	}
	*next = max(*next, id+1)
	return id
}

// reindex rebuilds the path indexes after a rename or a move, which may change many paths.
func (c *changes) reindex() {
	w := c.w
	clear(w.userNames)
	clear(w.groupPaths)
	clear(w.projectPaths)
	for id, u := range w.users {
		w.userNames[strings.ToLower(u.Username)] = id
	}
	for id, g := range w.groups {
		w.groupPaths[strings.ToLower(c.FullPath(g))] = id
	}
	for id, p := range w.projects {
		w.projectPaths[strings.ToLower(c.ProjectPath(p))] = id
	}
}

func insert(ids *[]int64, id int64) {
	if i, found := slices.BinarySearch(*ids, id); !found {
		*ids = slices.Insert(*ids, i, id)
	}
}

func remove(ids *[]int64, id int64) {
	if i, found := slices.BinarySearch(*ids, id); found {
		*ids = slices.Delete(*ids, i, i+1)
	}
}

func insertInto(m map[int64][]int64, key, id int64) {
	ids := m[key]
	insert(&ids, id)
	m[key] = ids
}

func removeFrom(m map[int64][]int64, key, id int64) {
	ids := m[key]
	remove(&ids, id)
	if len(ids) == 0 {
		delete(m, key)
		return
	}
	m[key] = ids
}

func withoutLink(links []GroupLink, groupID int64) []GroupLink {
	return slices.DeleteFunc(slices.Clone(links), func(l GroupLink) bool { return l.GroupID == groupID })
}

func (w *model) memberIndex(kind SourceKind) map[int64][]int64 {
	if kind == KindGroup {
		return w.memberOfGroup
	}
	return w.memberOfProject
}

func (w *model) today() string { return w.now().UTC().Format(time.DateOnly) }
