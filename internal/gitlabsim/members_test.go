package gitlabsim

import (
	"fmt"
	"testing"
	"time"
)

// TestMembersAll is a table of who is shown as a member, and how. The world: top/mid/leaf with project top/mid/leaf/p; inv/sub is a
// group that gets invited; other shares into inv.
func TestMembersAll(t *testing.T) {
	type world struct {
		*World
		top, mid, leaf, inv, sub, other, p int64
		u                                  map[string]int64
	}
	set := func(kind SourceKind, id func(w *world) int64, user string, level int) func(w *world) error {
		return func(w *world) error { return w.SetMember(kind, id(w), w.u[user], level, "") }
	}
	top, leaf := func(w *world) int64 { return w.top }, func(w *world) int64 { return w.leaf }
	inv, sub, other := func(w *world) int64 { return w.inv }, func(w *world) int64 { return w.sub }, func(w *world) int64 { return w.other }
	proj := func(w *world) int64 { return w.p }
	shareG := func(id, invited func(w *world) int64, level int) func(w *world) error {
		return func(w *world) error { return w.ShareGroup(id(w), invited(w), level, "") }
	}
	shareP := func(invited func(w *world) int64, level int) func(w *world) error {
		return func(w *world) error { return w.ShareProject(w.p, invited(w), level, "") }
	}
	for _, c := range []struct {
		what           string
		do             []func(w *world) error
		group, project string // rows of leaf and of p: name=level
	}{
		{"direct in the group", []func(*world) error{set(KindGroup, leaf, "a", Developer)}, "a=30", "a=30"},
		{"inherited", []func(*world) error{set(KindGroup, top, "a", Maintainer)}, "a=40", "a=40"},
		{"direct in the project", []func(*world) error{set(KindProject, proj, "a", Developer)}, "", "a=30"},
		{"minimal access never appears", []func(*world) error{set(KindGroup, top, "a", MinimalAccess)}, "", ""},
		{"the higher of two", []func(*world) error{set(KindGroup, leaf, "a", Developer), set(KindGroup, top, "a", Owner)}, "a=50", "a=50"},
		{"group invites group: capped by the link", []func(*world) error{set(KindGroup, inv, "a", Owner), shareG(leaf, inv, Developer)}, "a=30", "a=30"},
		{"group invites group: capped by the role", []func(*world) error{set(KindGroup, inv, "a", Guest), shareG(leaf, inv, Owner)}, "a=10", "a=10"},
		{"an ancestor invites", []func(*world) error{set(KindGroup, inv, "a", Owner), shareG(top, inv, Developer)}, "a=30", "a=30"},
		{"group invites group: no inherited members", []func(*world) error{set(KindGroup, inv, "a", Owner), shareG(leaf, sub, Owner)}, "", ""},
		{"group invites group: no members of subgroups", []func(*world) error{set(KindGroup, sub, "a", Owner), shareG(leaf, inv, Owner)}, "", ""},
		{"group invites group: not through two links", []func(*world) error{set(KindGroup, other, "a", Owner), shareG(inv, other, Owner), shareG(leaf, inv, Owner)}, "", ""},
		{"project invites group: direct", []func(*world) error{set(KindGroup, inv, "a", Owner), shareP(inv, Developer)}, "", "a=30"},
		{"project invites group: inherited too", []func(*world) error{set(KindGroup, inv, "a", Owner), shareP(sub, Developer)}, "", "a=30"},
		{"project invites group: no members of subgroups", []func(*world) error{set(KindGroup, sub, "a", Owner), shareP(inv, Owner)}, "", ""},
		// Has access but no row of its own: only another row makes the level visible.
		{"project invites group: shared members have no row", []func(*world) error{set(KindGroup, other, "a", Owner), shareG(inv, other, Owner), shareP(inv, Developer)}, "", ""},
		{"project invites group: shared members' level", []func(*world) error{set(KindGroup, other, "a", Owner), shareG(inv, other, Owner), shareP(inv, Developer), set(KindProject, proj, "a", Guest)}, "", "a=30"},
		{"own row wins, level is the effective one", []func(*world) error{set(KindGroup, inv, "a", Owner), shareP(inv, Maintainer), set(KindProject, proj, "a", Guest)}, "", "a=40"},
		{"share lock coerces to 0", []func(*world) error{
			set(KindGroup, inv, "a", Owner), shareP(inv, Developer),
			func(w *world) error { return w.SetShareWithGroupLock(w.top, true) },
		}, "", "a=0"},
		{"share lock leaves other ways", []func(*world) error{
			set(KindGroup, inv, "a", Owner), shareP(inv, Maintainer), set(KindGroup, top, "a", Reporter),
			func(w *world) error { return w.SetShareWithGroupLock(w.top, true) },
		}, "a=20", "a=20"},
		{"group shares ignore the lock", []func(*world) error{
			set(KindGroup, inv, "a", Owner), shareG(top, inv, Developer),
			func(w *world) error { return w.SetShareWithGroupLock(w.top, true) },
		}, "a=30", "a=30"},
		{"blocked people stay", []func(*world) error{
			set(KindGroup, leaf, "a", Developer),
			func(w *world) error { return w.SetUserState(w.u["a"], StateBlocked) },
		}, "a=30", "a=30"},
		{"pending invitations are hidden", []func(*world) error{func(w *world) error { return w.InviteEmail(KindGroup, w.leaf, Owner) }}, "", ""},
		{"unshared", []func(*world) error{
			set(KindGroup, inv, "a", Owner), shareG(leaf, inv, Developer),
			func(w *world) error { return w.UnshareGroup(w.leaf, w.inv) },
		}, "", ""},
		{"the invited group is destroyed", []func(*world) error{
			set(KindGroup, inv, "a", Owner), shareG(leaf, inv, Developer), shareP(inv, Developer),
			func(w *world) error { return w.DeleteGroup(w.inv) },
		}, "", ""},
		{"transfer leaves the old parent's members behind", []func(*world) error{
			set(KindGroup, top, "a", Owner),
			func(w *world) error { return w.TransferGroup(w.leaf, 0) },
		}, "", ""},
		{"two people", []func(*world) error{set(KindGroup, top, "b", Owner), set(KindProject, proj, "a", Guest)}, "b=50", "a=10 b=50"},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := &world{World: NewWorld(func() time.Time { return start }), u: map[string]int64{}}
			must := func(id int64, err error) int64 {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
				return id
			}
			for _, name := range []string{"a", "b"} {
				w.u[name] = must(w.AddUser(User{Username: name}))
			}
			w.top = must(w.AddGroup(Group{Path: "top"}))
			w.mid = must(w.AddGroup(Group{Path: "mid", ParentID: w.top}))
			w.leaf = must(w.AddGroup(Group{Path: "leaf", ParentID: w.mid}))
			w.inv = must(w.AddGroup(Group{Path: "inv"}))
			w.sub = must(w.AddGroup(Group{Path: "sub", ParentID: w.inv}))
			w.other = must(w.AddGroup(Group{Path: "other"}))
			w.p = must(w.AddProject(Project{NamespaceID: w.leaf, Path: "p"}))
			for i, step := range c.do {
				if err := step(w); err != nil {
					t.Fatalf("step %d: %v", i, err)
				}
			}
			w.View(func(v *View) {
				show := func(rows []EffectiveMember) (s string) {
					for i, r := range rows {
						if i > 0 {
							s += " "
						}
						s += fmt.Sprintf("%s=%d", v.User(r.UserID).Username, r.Level)
					}
					return s
				}
				equal(t, "group", show(v.EffectiveGroupMembers(w.leaf)), c.group)
				equal(t, "project", show(v.EffectiveProjectMembers(w.p)), c.project)
			})
		})
	}
}

func TestMembersAllOfOthersHidesInvitedPrivateGroups(t *testing.T) {
	f := newFixture(t, nil)
	// open (public) invites guests (private): only members of open and administrators see mallory in it.
	if err := f.World().ShareGroup(9, 10, Developer, ""); err != nil {
		t.Fatal(err)
	}
	const path = "/api/v4/groups/9/members/all"
	equal(t, "administrator", column(t, f.do("GET", path, "glpat-admin", nil), "id"), []string{"42", "43"})
	equal(t, "member", column(t, f.do("GET", path, "glpat-bob", nil), "id"), []string{"42", "43"})
	equal(t, "outsider", column(t, f.do("GET", path, "glpat-alice", nil), "id"), []string{"42"})
}

func TestRowOfMembersAllMayBelongToAnotherMembership(t *testing.T) {
	f := newFixture(t, nil)
	// bob is Developer in acme/platform until 2027 and gets Guest without an end in the project: level of one,
	// date of the other.
	if err := f.World().change(func(c *changes) error {
		p := c.Project(20)
		p.Members = append(p.Members, c.fillRows([]Member{{UserID: 42, Level: Guest}})...)
		c.joined(KindProject, 20, p.Members[len(p.Members)-1])
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	row := decode[map[string]any](t, f.do("GET", "/api/v4/projects/20/members/all/42", "glpat-admin", nil))
	equal(t, "access_level", row["access_level"], any(30.0))
	equal(t, "expires_at", row["expires_at"], any(nil))
}
