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

// creations returns the sources whose namespaces have to wait. Of each person's sources no more than Creations have
// their turn within an hour. Those that had it keep it, whatever comes later: hooks come in any order, so what GitLab
// made first may be known last. The others have theirs in the order in which GitLab made them, as early as that leaves
// room. A source belongs to the one of its owners who owns most of what is new (of several, to the newest account):
// owners can add anybody as another owner, so a rule that looked at all of them would let somebody use up the turns of
// others, or hide behind them. Who owns something new besides may have to wait an hour for what others share with them.
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
	had := map[authz.SourceID]Past{}
	queues := map[int64][]turn{}
	for _, p := range s.by.e.Past {
		_, counts := created[p.Cause]
		switch {
		case !p.Made || !fresh(p.At):
		case !s.by.e.Snapshot.Contains(p.Cause): // made and destroyed again
			if p.Turn.IsZero() || p.Turn.After(p.At) {
				p.Turn = p.At
			}
			had[p.Cause] = p
		case counts && !p.Turn.IsZero():
			had[p.Cause] = p
		}
	}
	taken := map[int64][]time.Time{}
	for _, p := range had {
		taken[p.Scope.ID] = append(taken[p.Scope.ID], p.Turn)
	}
	for id, user := range s.by.responsible(created) {
		p, ok := had[id]
		switch {
		case !ok:
			queues[user] = append(queues[user], turn{id, created[id]})
			continue
		case p.Scope.ID != user: // or whoever adds another owner to all that is new has their turns as well
			taken[user] = append(taken[user], p.Turn)
		}
		if asked[id] { // it was not made, or is made again
			s.create(p, true, wait)
		}
	}
	for user, queue := range queues {
		if slices.Contains(s.limits.Exempt, user) {
			continue
		}
		giveTurns(queue, taken[user], s.limits.Creations)
		for _, t := range queue {
			if asked[t.id] {
				s.create(Past{At: s.by.now, Scope: authz.UserID(user), Cause: t.id, Made: true, Turn: t.at}, false, wait)
			}
		}
	}
	slices.SortFunc(s.v.Passed, func(a, b Past) int { return cmp.Or(a.Scope.Compare(b.Scope), a.Cause.Compare(b.Cause)) })
	return wait
}

// create lets a namespace be made whose turn has come, or which was approved; again says that it had been let through before. Another
// one has to wait.
func (s *splitter) create(p Past, again bool, wait map[authz.SourceID]bool) {
	item := Item{
		Source: p.Cause, Cause: p.Scope, Scope: p.Scope, Path: s.by.path(p.Cause), Name: s.by.name(p.Scope.ID),
		Why: fmt.Sprintf("over %d new namespaces per user and hour; it is made at %s", s.limits.Creations, p.Turn.UTC().Format(time.RFC3339)),
	}
	s.v.Holdable[item.Key()] = true
	by, approved := s.by.e.Approved[item.Key()]
	early := p.Turn.After(s.by.now) && !slices.Contains(s.limits.Exempt, p.Scope.ID)
	if early && !approved {
		wait[p.Cause] = true
		s.v.Held = append(s.v.Held, item)
		return
	}
	if approved && (early || again) { // an approval is forgotten once it is of no use
		s.v.Approved[item.right()] = by
	}
	p.At = s.by.now
	s.v.Passed = append(s.v.Passed, p)
}

// turn is when a source may have its namespace.
type turn struct {
	id authz.SourceID
	at time.Time
}

// giveTurns sorts a queue by the times at which GitLab made its sources, and turns these into the times of their turns:
// the earliest at which there are, with those taken, at most n within any hour.
func giveTurns(queue []turn, taken []time.Time, n int) {
	slices.SortFunc(queue, func(a, b turn) int { return cmp.Or(a.at.Compare(b.at), a.id.Compare(b.id)) })
	slices.SortFunc(taken, time.Time.Compare)
	var last time.Time
	for i := range queue {
		at := queue[i].at
		if at.Before(last) {
			at = last // who comes later in the queue has no earlier turn: this spares looking where there was no room
		}
		// Each n that are taken within less than an hour of each other and of this turn leave no room for it.
		from, _ := slices.BinarySearchFunc(taken, at.Add(-time.Hour), func(t, from time.Time) int {
			return cmp.Or(t.Compare(from), -1) // the first after it
		})
		for ; n <= len(taken)-from && taken[from+n-1].Sub(at) < time.Hour; from++ {
			first, final := taken[from], taken[from+n-1]
			if final.Sub(first) < time.Hour && at.Sub(first) < time.Hour && final.Sub(at) < time.Hour {
				at = first.Add(time.Hour)
			}
		}
		place, _ := slices.BinarySearchFunc(taken, at, time.Time.Compare)
		taken = slices.Insert(taken, place, at)
		queue[i].at, last = at, at
	}
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
