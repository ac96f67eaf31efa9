package accounts

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// jobsWith returns what authentication knows where projects get in by ID tokens, but those of group 8 by variables,
// except project 81, and group 9 is left out.
func jobsWith(t *testing.T) book {
	t.Helper()
	policy, err := authz.NewPolicy(authz.PolicyConfig{
		Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource},
		Exclude: authz.Filter{Sources: []authz.SourceID{authz.GroupID(9)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return bookOf(Rules{Policy: policy, CI: &rbacsync.CISettings{
		Mode: rbacsync.DeliverIDToken,
		Exceptions: []rbacsync.CIException{
			{Source: authz.GroupID(8), Mode: rbacsync.DeliverVariables}, {Source: authz.ProjectID(81), Mode: rbacsync.DeliverIDToken},
		},
	}}, Options{})
}

// projectsIn has projects by id in these groups, and the groups 7, 8, 9 and 80, which is in 8.
func projectsIn(after time.Duration, groups map[int64]int64) *authz.Snapshot {
	s := snapshotOf(after, nil, nil)
	s.Groups = map[int64]authz.Group{7: {ID: 7, Path: "seven"}, 8: {ID: 8, Path: "eight"}, 9: {ID: 9, Path: "nine"}, 80: {ID: 80, Parent: 8, Path: "eight/eighty"}}
	s.Projects = map[int64]authz.Project{}
	for id, group := range groups {
		s.Projects[id] = authz.Project{ID: id, Group: group, Path: s.Groups[group].Path + "/p"}
	}
	return s
}

// TestOnlyJobsOfServedProjectsGetIn: a project that nobody knows, that is gone, archived, left out, or that has another
// delivery is refused; before GitLab was read nothing is decided.
func TestOnlyJobsOfServedProjectsGetIn(t *testing.T) {
	p := jobsWith(t)
	want := func(step string, all map[int64]authn.ProjectStanding) {
		t.Helper()
		for id, standing := range all {
			if got := p.Project(id); got != standing {
				t.Errorf("%s: project %d has standing %d, want %d", step, id, got, standing)
			}
		}
	}
	const unread, served, not, other = authn.ProjectUnread, authn.ProjectServed, authn.ProjectNotServed, authn.ProjectOtherDelivery
	want("nothing read", map[int64]authn.ProjectStanding{71: unread, 999999: unread})
	failed := projectsIn(0, map[int64]int64{71: 7})
	failed.MissingAll = "502"
	p.Learn(failed)
	want("a reading that failed", map[int64]authn.ProjectStanding{71: unread, 999999: unread})

	at := map[int64]int64{70: 7, 71: 7, 72: 7, 81: 80, 82: 80, 91: 9}
	first := projectsIn(time.Minute, at)
	archived := first.Projects[72]
	archived.Archived = true
	first.Projects[72] = archived
	p.Learn(first)
	all := map[int64]authn.ProjectStanding{70: served, 71: served, 72: not, 81: served, 82: other, 91: not, 999999: not}
	want("complete", all)

	p.Learn(failed)
	want("an older reading arrives late", all)
	lost := projectsIn(2*time.Minute, map[int64]int64{72: 7, 75: 7, 83: 80})
	lost.MissingAll = "502"
	p.Learn(lost)
	all[75], all[83], all[999999] = unread, unread, unread
	want("nothing is concluded from a reading that failed", all)

	part := projectsIn(3*time.Minute, map[int64]int64{70: 7, 72: 7, 81: 80, 82: 80, 83: 80, 84: 8})
	part.Missing[authz.ProjectID(71)], part.Missing[authz.GroupID(80)] = "502", "502"
	p.Learn(part)
	want("some unread", map[int64]authn.ProjectStanding{70: served, 71: served, 72: served, 81: served, 82: other, 83: unread, 84: other, 75: not, 91: not})
	delete(part.Groups, 80) // the group that says how is not known at all
	part.Taken = part.Taken.Add(time.Second)
	p.Learn(func() *authz.Snapshot { s := *part; return &s }())
	want("a group unread and unknown", map[int64]authn.ProjectStanding{82: other, 83: unread})

	p.Learn(projectsIn(4*time.Minute, map[int64]int64{70: 8, 82: 7}))
	alone := p.Directory
	p.Directory = New(p.Knowledge, Options{StillServed: func(id int64) bool { return id != 84 }})
	want("jobs of before the move", map[int64]authn.ProjectStanding{70: served, 71: not, 72: not, 82: served, 999999: not})
	p.Directory = alone
	want("removed, and moved", map[int64]authn.ProjectStanding{70: other, 71: not, 72: not, 81: not, 82: served, 83: not, 84: not})
}

// TestStandingsLaw: after any readings a job gets in only if its project was, when everything that says so was last
// read, there, not archived, not left out, and its delivery id-token; and what was not read changes nothing.
func TestStandingsLaw(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 11))
		p := jobsWith(t)
		want := map[int64]authn.ProjectStanding{}
		complete := false
		for step := range 6 {
			groups := map[int64]int64{}
			for id := range int64(12) {
				if r.IntN(4) > 0 {
					groups[100+id] = []int64{7, 8, 9, 80}[r.IntN(4)]
				}
			}
			s := projectsIn(time.Duration(step+1)*time.Minute, groups)
			for id, pr := range s.Projects {
				pr.Archived = r.IntN(5) == 0
				s.Projects[id] = pr
				if r.IntN(8) == 0 {
					s.Missing[authz.ProjectID(id)] = "502"
				}
			}
			for id := range s.Groups {
				if r.IntN(10) == 0 {
					s.Missing[authz.GroupID(id)] = "502"
				}
			}
			if r.IntN(5) == 0 {
				s.MissingAll = "502"
			}
			complete = complete || s.MissingAll == ""
			p.Learn(s)
			for id := int64(100); id < 112; id++ {
				pr, there := s.Projects[id]
				unsure := s.MissingAll != "" || s.Missing[authz.ProjectID(id)] != "" || there && s.Missing[authz.GroupID(pr.Group)] != "" ||
					there && pr.Group == 80 && s.Missing[authz.GroupID(8)] != ""
				switch {
				case unsure:
				case !there && complete:
					want[id] = authn.ProjectNotServed
				case !there:
					want[id] = authn.ProjectUnread
				case pr.Archived || pr.Group == 9:
					want[id] = authn.ProjectNotServed
				case pr.Group == 8 || pr.Group == 80:
					want[id] = authn.ProjectOtherDelivery
				default:
					want[id] = authn.ProjectServed
				}
				got := p.Project(id)
				if got == authn.ProjectServed != (want[id] == authn.ProjectServed) {
					t.Fatalf("seed %d, step %d: project %d has standing %d, want %d", seed, step, id, got, want[id])
				}
				if !unsure && got != want[id] {
					t.Fatalf("seed %d, step %d: project %d, which was read, has standing %d, want %d", seed, step, id, got, want[id])
				}
			}
		}
	}
}

// TestJobsWithoutACIAudience: nothing is learned of projects where no job gets in by its ID token.
func TestJobsWithoutACIAudience(t *testing.T) {
	p := bookWith(t, Rules{})
	p.Learn(projectsIn(0, map[int64]int64{71: 7}))
	if got := p.Project(71); got == authn.ProjectServed {
		t.Errorf("standing %d", got)
	}
}
