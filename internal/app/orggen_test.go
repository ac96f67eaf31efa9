package app_test

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// shape is how large a random organisation is.
type shape struct{ users, groups, projects, rows int }

// generated is what a random organisation consists of.
type generated struct {
	r                       *rand.Rand
	w                       *gitlabsim.World
	prefix                  string
	users, groups, projects []int64
	renamed                 int
}

var (
	anyLevel = []int{5, 10, 15, 20, 25, 30, 40, 50}
	anyEnd   = []string{"", "", "", "2026-01-01", time.Now().UTC().Format(time.DateOnly), "2099-12-31"}
)

func (o *generated) pick(ids []int64) int64 { return ids[o.r.IntN(len(ids))] }

// generate adds a random organisation to a World: nested groups, personal projects, invited groups in both
// directions, share locks, rows that end, blocked people, bots, odd levels. What GitLab refuses (a group shared with
// itself, a lower level than an inherited one …) is just not there. The prefix starts all names.
func generate(r *rand.Rand, w *gitlabsim.World, prefix string, s shape) *generated {
	o := &generated{r: r, w: w, prefix: prefix}
	for i := range s.users {
		kind, state := "HUMAN", "active"
		switch r.IntN(8) {
		case 0:
			state = "blocked"
		case 1:
			kind = "PROJECT_BOT"
		case 2:
			state = "deactivated"
		}
		if id, err := w.AddUser(gitlabsim.User{Username: fmt.Sprintf("%su%d", prefix, i), State: state, Type: kind}); err == nil {
			o.users = append(o.users, id)
		}
	}
	for i := range s.groups {
		g := gitlabsim.Group{Path: fmt.Sprintf("%sg%d", prefix, i), Name: "g", Visibility: "private", ShareWithGroupLock: r.IntN(5) == 0}
		if len(o.groups) > 0 && r.IntN(3) > 0 {
			g.ParentID = o.pick(o.groups)
		}
		if r.IntN(6) == 0 { // rows that are over already can only be there from the start
			g.Members = []gitlabsim.Member{{UserID: o.pick(o.users), Level: anyLevel[r.IntN(len(anyLevel))], ExpiresAt: "2026-01-01"}}
		}
		if id, err := w.AddGroup(g); err == nil {
			o.groups = append(o.groups, id)
		}
	}
	for i := range s.projects {
		p := gitlabsim.Project{NamespaceID: o.pick(o.groups), Path: fmt.Sprintf("%sp%d", prefix, i), Name: "p", Visibility: "private"}
		if r.IntN(8) == 0 {
			p.NamespaceID, p.OwnerID = 0, o.pick(o.users)
		}
		if id, err := w.AddProject(p); err == nil {
			o.projects = append(o.projects, id)
		}
	}
	for range s.rows {
		if r.IntN(5) < 3 {
			o.hooked(false)
		} else {
			o.share()
		}
	}
	return o
}

// refused stands for an error of a World: GitLab's own rules, after which the organisation is as it was.
func refused(error) {}

func (o *generated) share() {
	level, end := anyLevel[o.r.IntN(len(anyLevel))], anyEnd[o.r.IntN(len(anyEnd))]
	if o.r.IntN(2) == 0 {
		refused(o.w.ShareGroup(o.pick(o.groups), o.pick(o.groups), level, end))
	} else {
		refused(o.w.ShareProject(o.pick(o.projects), o.pick(o.groups), level, end))
	}
}

// hooked does a random change for which GitLab sends a system hook; moves allows other ones than to memberships.
func (o *generated) hooked(moves bool) {
	kind, id := gitlabsim.KindGroup, o.pick(o.groups)
	if o.r.IntN(3) == 0 {
		kind, id = gitlabsim.KindProject, o.pick(o.projects)
	}
	n := 4
	if moves {
		n = 10
	}
	o.renamed++
	fresh := fmt.Sprintf("%sr%d", o.prefix, o.renamed)
	switch o.r.IntN(n) {
	case 0, 1, 2, 3, 4:
		refused(o.w.SetMember(kind, id, o.pick(o.users), anyLevel[o.r.IntN(len(anyLevel))], anyEnd[o.r.IntN(len(anyEnd))]))
	case 5, 6:
		refused(o.w.RemoveMember(kind, id, o.pick(o.users)))
	case 7:
		refused(o.w.RenameGroup(o.pick(o.groups), fresh, ""))
	case 8:
		refused(o.w.TransferProject(o.pick(o.projects), o.pick(o.groups)))
	case 9:
		if p, err := o.w.AddProject(gitlabsim.Project{NamespaceID: o.pick(o.groups), Path: fresh, Name: "p", Visibility: "private"}); err == nil {
			o.projects = append(o.projects, p)
		}
	}
}

// silent does a random change for which GitLab sends no system hook.
func (o *generated) silent() {
	states := []string{"active", "active", "blocked", "deactivated", "banned", "ldap_blocked"}
	switch o.r.IntN(8) {
	case 0, 1:
		refused(o.w.SetUserState(o.pick(o.users), states[o.r.IntN(len(states))]))
	case 2, 3:
		o.share()
	case 4:
		var groups, projects [][2]int64
		o.w.View(func(v *gitlabsim.View) {
			for _, id := range o.groups {
				for _, l := range v.Group(id).Links {
					groups = append(groups, [2]int64{id, l.GroupID})
				}
			}
			for _, id := range o.projects {
				for _, l := range v.Project(id).Links {
					projects = append(projects, [2]int64{id, l.GroupID})
				}
			}
		})
		if len(groups) > 0 {
			l := groups[o.r.IntN(len(groups))]
			refused(o.w.UnshareGroup(l[0], l[1]))
		}
		if len(projects) > 0 {
			l := projects[o.r.IntN(len(projects))]
			refused(o.w.UnshareProject(l[0], l[1]))
		}
	case 5:
		refused(o.w.TransferGroup(o.pick(o.groups), o.pick(o.groups)))
	case 6:
		refused(o.w.SetShareWithGroupLock(o.pick(o.groups), o.r.IntN(2) == 0))
	case 7:
		refused(o.w.SetGroupArchived(o.pick(o.groups), o.r.IntN(3) == 0))
	}
}
