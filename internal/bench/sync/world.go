package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// size is how large the simulated GitLab is.
type size struct {
	groups, projects, users, memberships, groupLinks, projectLinks int
	revocations                                                    int // people who have one right in one project only
	tree                                                           int // projects in the tree of revoke.group_ms
}

// full is the size that the BENCH numbers are about.
var full = size{groups: 2000, projects: 10000, users: 20000, memberships: 100000, groupLinks: 50, projectLinks: 300, revocations: 220, tree: 120}

func (s size) scaled(f float64) size {
	n := func(x int) int { return max(1, int(float64(x)*f)) }
	return size{
		groups: max(40, n(s.groups)), projects: max(400, n(s.projects)), users: max(400, n(s.users)), memberships: n(s.memberships),
		groupLinks: n(s.groupLinks), projectLinks: n(s.projectLinks), revocations: min(s.revocations, max(10, n(s.revocations))), tree: s.tree,
	}
}

// organisation is the GitLab that was made, and whom to take rights from.
type organisation struct {
	world *gitlabsim.World
	// single: user i has only a direct row in project i, nothing else anywhere.
	single []membership
	// tops: users with only a row in the top-level group of the tree.
	tops    []int64
	topTree int64
	inTree  []int64 // projects below topTree
}

// treeUsers are the runs of revoke.group_ms.
const treeUsers = 10

type membership struct{ user, project int64 }

// levels and how often they occur: most people are Developers.
var levels = []int{10, 20, 20, 30, 30, 30, 30, 30, 30, 40, 40, 50}

// born spreads what is made over the years: what was made within the hour is braked (rbacsync.Limits).
func born(i int) time.Time {
	return time.Date(2018, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(i) * time.Hour)
}

// build makes the organisation: top-level groups with trees of depth 6 below them, people on every floor. Rows are
// given with the group, as they are in a GitLab that has grown.
func build(s size) (*organisation, error) {
	r := rand.New(rand.NewPCG(4, 2018))
	o := &organisation{world: gitlabsim.NewWorld(nil)}
	w := o.world
	if _, err := w.AddUser(gitlabsim.User{Username: "root", Admin: true}); err != nil {
		return nil, err
	}
	var users []int64
	for i := range s.users {
		u := gitlabsim.User{Username: fmt.Sprintf("user-%d", i), Name: fmt.Sprintf("User Number %d", i), Email: fmt.Sprintf("user-%d@example.com", i)}
		u.CreatedAt = born(i)
		switch {
		case i >= s.users-s.revocations-treeUsers: // active people
		case i%50 == 0:
			u.State = gitlabsim.StateBlocked
		case i%40 == 0:
			u.Type = "PROJECT_BOT"
		}
		id, err := w.AddUser(u)
		if err != nil {
			return nil, err
		}
		users = append(users, id)
	}
	// The last people are kept for the revocations.
	free := users[len(users)-s.revocations-treeUsers:]
	users = users[:len(users)-len(free)]
	rows := func(n int) []gitlabsim.Member {
		seen := map[int64]bool{}
		var out []gitlabsim.Member
		for len(out) < n {
			u := users[r.IntN(len(users))]
			if !seen[u] {
				seen[u] = true
				out = append(out, gitlabsim.Member{UserID: u, Level: levels[r.IntN(len(levels))]})
			}
		}
		return out
	}
	// Of all rows about one in thirty is in a top-level group, one in five in a subgroup, the rest in projects.
	tops := max(2, s.groups/20)
	perTop, perSub := s.memberships/32/tops, s.memberships/5/s.groups
	perProject := (s.memberships-tops*perTop-(s.groups-tops)*perSub)/s.projects + 1
	type node struct {
		id    int64
		depth int
	}
	var groups []node
	for i := range tops {
		id, err := w.AddGroup(gitlabsim.Group{Path: fmt.Sprintf("division-%d", i), Name: "d", CreatedAt: born(i), Members: rows(perTop)})
		if err != nil {
			return nil, err
		}
		groups = append(groups, node{id, 1})
	}
	for i := len(groups); i < s.groups; i++ {
		parent := groups[r.IntN(len(groups))]
		for parent.depth >= 6 {
			parent = groups[r.IntN(len(groups))]
		}
		id, err := w.AddGroup(gitlabsim.Group{ParentID: parent.id, Path: fmt.Sprintf("team-%d", i), Name: "t", CreatedAt: born(i), Members: rows(perSub)})
		if err != nil {
			return nil, err
		}
		groups = append(groups, node{id, parent.depth + 1})
	}
	// The tree of the group revocation stands apart, so that its size is known.
	top, err := w.AddGroup(gitlabsim.Group{Path: "tree", Name: "tree", CreatedAt: born(0), Members: rows(perTop)})
	if err != nil {
		return nil, err
	}
	o.topTree = top
	var projects []int64
	for i := range s.projects {
		p := gitlabsim.Project{NamespaceID: groups[r.IntN(len(groups))].id, Path: fmt.Sprintf("project-%d", i), Name: "p", CreatedAt: born(i), Members: rows(perProject)}
		if i < s.tree {
			p.NamespaceID = top
		}
		if k := i - s.tree; k >= 0 && k < s.revocations {
			p.Members = append(p.Members, gitlabsim.Member{UserID: free[k], Level: gitlabsim.Maintainer})
		}
		id, err := w.AddProject(p)
		if err != nil {
			return nil, err
		}
		projects = append(projects, id)
		switch k := i - s.tree; {
		case k < 0:
			o.inTree = append(o.inTree, id)
		case k < s.revocations:
			o.single = append(o.single, membership{free[k], id})
		}
	}
	for _, u := range free[s.revocations:] {
		if err := w.SetMember(gitlabsim.KindGroup, top, u, gitlabsim.Maintainer, ""); err != nil {
			return nil, err
		}
		o.tops = append(o.tops, u)
	}
	// Refused links (a group with itself or an ancestor) are tried with other groups.
	link := func(n int, one func() error) {
		for tries := 0; n > 0 && tries < 100*n; tries++ {
			if one() == nil {
				n--
			}
		}
	}
	link(s.groupLinks, func() error {
		return w.ShareGroup(groups[r.IntN(len(groups))].id, groups[r.IntN(len(groups))].id, gitlabsim.Developer, "")
	})
	link(s.projectLinks, func() error {
		return w.ShareProject(projects[r.IntN(len(projects))], groups[r.IntN(len(groups))].id, gitlabsim.Developer, "")
	})
	return o, nil
}
