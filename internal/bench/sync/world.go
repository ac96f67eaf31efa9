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

// builder makes an organisation step by step. Its random numbers are the same in each run, so the order of the steps counts.
type builder struct {
	size size // of what is made
	rand *rand.Rand
	org  *organisation

	members  []int64 // the people who have rows anywhere
	free     []int64 // those who are kept for the revocations
	groups   []node
	projects []int64

	perTop, perSub, perProject int // rows in a top-level group, a subgroup and a project
}

// node is a group and how deep it lies.
type node struct {
	id    int64
	depth int
}

// build makes the organisation: top-level groups with trees of depth 6 below them, people on every floor. Rows are
// given with the group, as they are in a GitLab that has grown.
func build(s size) (*organisation, error) {
	b := &builder{size: s, rand: rand.New(rand.NewPCG(4, 2018)), org: &organisation{world: gitlabsim.NewWorld(nil)}}
	// Of all rows about one in thirty is in a top-level group, one in five in a subgroup, the rest in projects.
	tops := b.tops()
	b.perTop, b.perSub = s.memberships/32/tops, s.memberships/5/s.groups
	b.perProject = (s.memberships-tops*b.perTop-(s.groups-tops)*b.perSub)/s.projects + 1
	for _, step := range []func() error{b.addUsers, b.addGroups, b.addTree, b.addProjects, b.addToTree} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	b.addLinks()
	return b.org, nil
}

// tops is how many top-level groups there are.
func (b *builder) tops() int { return max(2, b.size.groups/20) }

func (b *builder) addUsers() error {
	if _, err := b.org.world.AddUser(gitlabsim.User{Username: "root", Admin: true}); err != nil {
		return err
	}
	kept := b.size.revocations + treeUsers
	for i := range b.size.users {
		u := gitlabsim.User{Username: fmt.Sprintf("user-%d", i), Name: fmt.Sprintf("User Number %d", i), Email: fmt.Sprintf("user-%d@example.com", i)}
		u.CreatedAt = born(i)
		switch {
		case i >= b.size.users-kept: // active people
		case i%50 == 0:
			u.State = gitlabsim.StateBlocked
		case i%40 == 0:
			u.Type = "PROJECT_BOT"
		}
		id, err := b.org.world.AddUser(u)
		if err != nil {
			return err
		}
		if i < b.size.users-kept {
			b.members = append(b.members, id)
		} else {
			b.free = append(b.free, id)
		}
	}
	return nil
}

// rows are n different people with a level each.
func (b *builder) rows(n int) []gitlabsim.Member {
	seen := map[int64]bool{}
	var out []gitlabsim.Member
	for len(out) < n {
		u := pick(b.rand, b.members)
		if !seen[u] {
			seen[u] = true
			out = append(out, gitlabsim.Member{UserID: u, Level: pick(b.rand, levels)})
		}
	}
	return out
}

func pick[T any](r *rand.Rand, of []T) T { return of[r.IntN(len(of))] }

func (b *builder) addGroups() error {
	for i := range b.tops() {
		id, err := b.org.world.AddGroup(gitlabsim.Group{Path: fmt.Sprintf("division-%d", i), Name: "d", CreatedAt: born(i), Members: b.rows(b.perTop)})
		if err != nil {
			return err
		}
		b.groups = append(b.groups, node{id, 1})
	}
	for i := len(b.groups); i < b.size.groups; i++ {
		parent := pick(b.rand, b.groups)
		for parent.depth >= 6 {
			parent = pick(b.rand, b.groups)
		}
		id, err := b.org.world.AddGroup(gitlabsim.Group{ParentID: parent.id, Path: fmt.Sprintf("team-%d", i), Name: "t", CreatedAt: born(i), Members: b.rows(b.perSub)})
		if err != nil {
			return err
		}
		b.groups = append(b.groups, node{id, parent.depth + 1})
	}
	return nil
}

// addTree makes the group of the group revocation. It stands apart, so that its size is known.
func (b *builder) addTree() (err error) {
	b.org.topTree, err = b.org.world.AddGroup(gitlabsim.Group{Path: "tree", Name: "tree", CreatedAt: born(0), Members: b.rows(b.perTop)})
	return err
}

// addProjects makes first those of the tree, then those in which somebody has a row of their own, then the others.
func (b *builder) addProjects() error {
	for i := range b.size.projects {
		p := gitlabsim.Project{NamespaceID: pick(b.rand, b.groups).id, Path: fmt.Sprintf("project-%d", i), Name: "p", CreatedAt: born(i), Members: b.rows(b.perProject)}
		k := i - b.size.tree
		inTree, single := k < 0, k >= 0 && k < b.size.revocations
		if inTree {
			p.NamespaceID = b.org.topTree
		}
		if single {
			p.Members = append(p.Members, gitlabsim.Member{UserID: b.free[k], Level: gitlabsim.Maintainer})
		}
		id, err := b.org.world.AddProject(p)
		if err != nil {
			return err
		}
		b.projects = append(b.projects, id)
		switch {
		case inTree:
			b.org.inTree = append(b.org.inTree, id)
		case single:
			b.org.single = append(b.org.single, membership{b.free[k], id})
		}
	}
	return nil
}

// addToTree gives the last of the people who are kept a row in the tree's group.
func (b *builder) addToTree() error {
	for _, u := range b.free[b.size.revocations:] {
		if err := b.org.world.SetMember(gitlabsim.KindGroup, b.org.topTree, u, gitlabsim.Maintainer, ""); err != nil {
			return err
		}
		b.org.tops = append(b.org.tops, u)
	}
	return nil
}

// addLinks shares groups and projects with groups. What GitLab refuses (a group with itself or an ancestor) is tried with others.
func (b *builder) addLinks() {
	link := func(n int, one func() error) {
		for tries := 0; n > 0 && tries < 100*n; tries++ {
			if one() == nil {
				n--
			}
		}
	}
	link(b.size.groupLinks, func() error {
		return b.org.world.ShareGroup(pick(b.rand, b.groups).id, pick(b.rand, b.groups).id, gitlabsim.Developer, "")
	})
	link(b.size.projectLinks, func() error {
		return b.org.world.ShareProject(pick(b.rand, b.projects), pick(b.rand, b.groups).id, gitlabsim.Developer, "")
	})
}
