package rbacsync

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// CreationMemory is how far back creations are counted when the queue of a person is long.
const CreationMemory = 7 * 24 * time.Hour

// creations returns the sources whose namespaces have to wait. Each person's sources get their turn in the order in
// which GitLab made them, at most Creations in an hour. A source belongs to the one of its owners who owns most of
// what is new (of several, to the newest account): owners can add anybody as another owner, so a rule that looked
// at all of them would let somebody use up the turns of others, or hide behind them.
func (s *splitter) creations(changes []Change) map[authz.SourceID]bool {
	wait := map[authz.SourceID]bool{}
	if s.limits.Creations <= 0 {
		return wait
	}
	fresh := func(t time.Time) bool { return !t.IsZero() && s.by.now.Sub(t) < CreationMemory }
	created := map[authz.SourceID]time.Time{}
	asked := map[authz.SourceID]bool{}
	for id, g := range s.by.e.Snapshot.Groups {
		if fresh(g.CreatedAt) {
			created[authz.GroupID(id)] = g.CreatedAt
		}
	}
	for id, p := range s.by.e.Snapshot.Projects {
		if fresh(p.CreatedAt) {
			created[authz.ProjectID(id)] = p.CreatedAt
		}
	}
	for _, x := range changes {
		if _, ok := created[x.Source]; ok && x.Action == Create && x.Key.Kind == KindNamespace {
			asked[x.Source] = true
		}
	}
	if len(asked) == 0 {
		return wait
	}
	type turn struct {
		id authz.SourceID
		at time.Time
	}
	queues := map[int64][]turn{}
	for id, user := range s.by.responsible(created) {
		queues[user] = append(queues[user], turn{id, created[id]})
	}
	for _, p := range s.by.e.Past { // made and deleted again: it took its turn
		if p.Made && fresh(p.At) && !s.by.e.Snapshot.Contains(p.Cause) {
			queues[p.Scope.ID] = append(queues[p.Scope.ID], turn{p.Cause, p.At})
		}
	}
	for user, queue := range queues {
		if slices.Contains(s.limits.Exempt, user) {
			continue
		}
		slices.SortFunc(queue, func(a, b turn) int { return cmp.Or(a.at.Compare(b.at), a.id.Compare(b.id)) })
		for i := range queue {
			t := &queue[i]
			if i >= s.limits.Creations {
				if next := queue[i-s.limits.Creations].at.Add(time.Hour); next.After(t.at) {
					t.at = next
				}
			}
			if !asked[t.id] {
				continue
			}
			item := Item{
				Source: t.id, Cause: authz.UserID(user), Scope: authz.UserID(user), Path: s.by.path(t.id), Name: s.by.name(user),
				Why: fmt.Sprintf("over %d new namespaces per user and hour; it is made at %s", s.limits.Creations, t.at.UTC().Format(time.RFC3339)),
			}
			s.v.Holdable[item.Key()] = true
			by, approved := s.by.e.Approved[item.Key()]
			if t.at.After(s.by.now) && approved {
				s.v.Approved[item.right()] = by
			}
			if t.at.After(s.by.now) && !approved {
				wait[t.id] = true
				s.v.Held = append(s.v.Held, item)
				continue
			}
			s.v.Passed = append(s.v.Passed, Past{At: s.by.now, Scope: authz.UserID(user), Cause: t.id, Made: true})
		}
	}
	slices.SortFunc(s.v.Passed, func(a, b Past) int { return cmp.Or(a.Scope.Compare(b.Scope), a.Cause.Compare(b.Cause)) })
	return wait
}

// responsible returns to whom new sources are counted: see creations. Sources without an owner are counted together.
func (j *judge) responsible(created map[authz.SourceID]time.Time) map[authz.SourceID]int64 {
	owners := map[authz.SourceID][]int64{}
	owned := map[int64]int{}
	for id := range created {
		for a := range j.at.now.Members(id).All() {
			if a.Level == authz.Owner && j.e.Policy.MayHaveRights(j.e.Snapshot.Users[a.User]) {
				owners[id] = append(owners[id], a.User)
				owned[a.User]++
			}
		}
	}
	out := map[authz.SourceID]int64{}
	for id := range created {
		var user int64
		for _, u := range owners[id] {
			if owned[u] > owned[user] || (owned[u] == owned[user] && u > user) {
				user = u
			}
		}
		out[id] = user
	}
	return out
}
