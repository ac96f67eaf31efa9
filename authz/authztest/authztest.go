// Package authztest makes random GitLabs for property tests. It is imported by tests only.
package authztest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// Snapshot makes a small GitLab in which everything that can be inherited, shared and nested occurs. Groups are 1 to
// 12, projects 1 to 25, people 1 to 10.
func Snapshot(r *rand.Rand) *authz.Snapshot {
	s := &authz.Snapshot{
		Users: map[int64]authz.User{}, Groups: map[int64]authz.Group{}, Projects: map[int64]authz.Project{}, Missing: map[authz.SourceID]string{},
	}
	for id := int64(1); id <= 10; id++ {
		s.Users[id] = authz.User{ID: id, Username: fmt.Sprintf("u%d", id), State: authz.StateActive, Human: r.IntN(6) > 0}
	}
	for id := int64(1); id <= 12; id++ {
		g := authz.Group{ID: id, Path: fmt.Sprintf("g%d", id), Members: rows(r)}
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
		p := authz.Project{ID: id, Path: fmt.Sprintf("p%d", id), Group: r.Int64N(12) + 1, Members: rows(r)}
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

func rows(r *rand.Rand) []authz.Member {
	var out []authz.Member
	for range r.IntN(3) {
		out = append(out, authz.Member{User: r.Int64N(10) + 1, Level: []authz.Level{10, 30, 40, 50}[r.IntN(4)]})
	}
	return out
}

// Clone copies a Snapshot as a partial reading does: rows are shared.
func Clone(s *authz.Snapshot) *authz.Snapshot {
	c := *s
	c.Users, c.Groups, c.Projects, c.Missing = maps.Clone(s.Users), maps.Clone(s.Groups), maps.Clone(s.Projects), maps.Clone(s.Missing)
	return &c
}

// Change changes one thing as a hook or a poll would bring it.
func Change(r *rand.Rand, s *authz.Snapshot) {
	gid, pid, uid := r.Int64N(12)+1, r.Int64N(25)+1, r.Int64N(10)+1
	g, hasGroup := s.Groups[gid]
	p, hasProject := s.Projects[pid]
	switch r.IntN(14) {
	case 0:
		g.Members = rows(r)
		s.Groups[gid] = g
	case 1:
		p.Members = rows(r)
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
		s.Missing[[]authz.SourceID{authz.GroupID(gid), authz.ProjectID(pid), authz.UserID(uid)}[r.IntN(3)]] = "502"
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
