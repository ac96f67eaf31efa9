package authz_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// TestAffectedNamesAllThatDiffers: whatever changes in a random GitLab, every source whose rights, path or being
// judged differ is among Affected; and Affected does not simply name everything.
func TestAffectedNamesAllThatDiffers(t *testing.T) {
	t.Parallel()
	named, all := 0, 0
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 7))
		before := randomSnapshot(r)
		p := newPolicy(t, func(pc *authz.PolicyConfig) {
			if r.IntN(3) == 0 {
				pc.Extra = []authz.Extra{{Source: authz.Group(r.Int64N(8) + 1), Below: true, ClusterRole: "deployer", Group: r.Int64N(8) + 1}}
			}
			if r.IntN(3) == 0 {
				pc.Exclude.Paths = []string{"g1*"}
			}
			pc.Bots = r.IntN(2) == 0
		})
		after := clone(before)
		for range 1 + r.IntN(2) {
			mutate(r, after)
		}
		got := p.Affected(before, after)
		was, is := looks(p, before), looks(p, after)
		for id := range maps.Keys(merged(was, is)) {
			if was[id] != is[id] && !got[id] {
				t.Fatalf("seed %d: %s differs and is not named:\n  %s\n  %s", seed, id, was[id], is[id])
			}
		}
		named += len(got)
		all += len(is)
	}
	if named > all/2 {
		t.Errorf("%d of %d sources are named: that is no help", named, all)
	}
}

// looks describes everything about each source that ends up in the cluster.
func looks(p authz.Policy, s *authz.Snapshot) map[authz.SourceID]string {
	out := map[authz.SourceID]string{}
	sources := p.Sources(s)
	for _, src := range sources {
		out[src.ID] = fmt.Sprint(src)
	}
	grants, _ := p.Grants(s, sources, now)
	for _, g := range grants {
		out[g.Source] += fmt.Sprint(" ", g.ClusterRole)
		for _, u := range g.Users {
			out[g.Source] += fmt.Sprint(" ", u, s.Users[u].Username)
		}
	}
	for id, why := range p.Untouchable(s) {
		out[id] += " unread: " + why
	}
	return out
}

func merged[K comparable, V any](a, b map[K]V) map[K]V {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

func randomSnapshot(r *rand.Rand) *authz.Snapshot {
	s := &authz.Snapshot{
		Users: map[int64]authz.User{}, Groups: map[int64]authz.GitLabGroup{}, Projects: map[int64]authz.GitLabProject{}, Missing: map[authz.SourceID]string{},
	}
	for id := int64(1); id <= 10; id++ {
		s.Users[id] = authz.User{ID: id, Username: fmt.Sprintf("u%d", id), State: authz.StateActive, Human: r.IntN(6) > 0}
	}
	for id := int64(1); id <= 12; id++ {
		g := authz.GitLabGroup{ID: id, Path: fmt.Sprintf("g%d", id), Members: randomRows(r)}
		if id > 3 {
			g.Parent = r.Int64N(id - 1)
		}
		if r.IntN(4) == 0 {
			g.Links = append(g.Links, authz.Link{Group: r.Int64N(12) + 1, Level: authz.Developer})
		}
		g.ShareLock = r.IntN(8) == 0
		s.Groups[id] = g
	}
	for id := int64(1); id <= 25; id++ {
		p := authz.GitLabProject{ID: id, Path: fmt.Sprintf("p%d", id), Group: r.Int64N(12) + 1, Members: randomRows(r)}
		if r.IntN(6) == 0 {
			p.Group, p.Owner = 0, r.Int64N(10)+1
		}
		if r.IntN(4) == 0 {
			p.Links = append(p.Links, authz.Link{Group: r.Int64N(12) + 1, Level: authz.Maintainer})
		}
		s.Projects[id] = p
	}
	return s
}

func randomRows(r *rand.Rand) []authz.Member {
	var rows []authz.Member
	for range r.IntN(3) {
		rows = append(rows, authz.Member{User: r.Int64N(10) + 1, Level: []authz.Level{10, 30, 40, 50}[r.IntN(4)]})
	}
	return rows
}

func clone(s *authz.Snapshot) *authz.Snapshot {
	c := *s
	c.Users, c.Groups, c.Projects, c.Missing = maps.Clone(s.Users), maps.Clone(s.Groups), maps.Clone(s.Projects), maps.Clone(s.Missing)
	return &c
}

// mutate changes one thing as a hook or a poll would bring it.
func mutate(r *rand.Rand, s *authz.Snapshot) {
	gid, pid, uid := r.Int64N(12)+1, r.Int64N(25)+1, r.Int64N(10)+1
	g, hasGroup := s.Groups[gid]
	p, hasProject := s.Projects[pid]
	switch r.IntN(14) {
	case 0:
		g.Members = randomRows(r)
		s.Groups[gid] = g
	case 1:
		p.Members = randomRows(r)
		s.Projects[pid] = p
	case 2:
		u := s.Users[uid]
		u.State = "blocked"
		s.Users[uid] = u
	case 3:
		u := s.Users[uid]
		u.Username += "-renamed"
		s.Users[uid] = u
	case 4:
		delete(s.Users, uid)
	case 5:
		delete(s.Projects, pid)
	case 6:
		delete(s.Groups, gid)
	case 7:
		if hasGroup {
			g.Parent = r.Int64N(13)
			s.Groups[gid] = g
		}
	case 8:
		if hasProject && p.Group != 0 {
			p.Group = r.Int64N(12) + 1
			s.Projects[pid] = p
		}
	case 9:
		g.Links = []authz.Link{{Group: r.Int64N(12) + 1, Level: authz.Maintainer}}
		s.Groups[gid] = g
	case 10:
		p.Links = slices.Concat(p.Links, []authz.Link{{Group: r.Int64N(12) + 1, Level: authz.Owner}})
		s.Projects[pid] = p
	case 11:
		s.Missing[[]authz.SourceID{authz.Group(gid), authz.Project(pid), authz.Person(uid)}[r.IntN(3)]] = "502"
	case 12:
		g.ShareLock, g.Path = !g.ShareLock, g.Path+"x"
		s.Groups[gid] = g
	case 13:
		p.Archived = true
		s.Projects[pid] = p
		g.MarkedForDeletion = !g.MarkedForDeletion
		s.Groups[gid] = g
	}
}
