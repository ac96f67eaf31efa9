package authz_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

func TestExtraMappings(t *testing.T) {
	extra := authz.ExtraRole{Source: authz.ProjectID(10), Path: "haw/lab/world", ClusterRole: "deployer", Levels: []authz.Level{authz.Developer}}
	for _, c := range []struct {
		name   string
		change func(*authz.ExtraRole, *authz.Snapshot)
		in     authz.SourceID
		want   string
		find   string
	}{
		{"a level", nil, authz.ProjectID(10), "alice:edit bob:deployer bob:view dave:edit", ""},
		{"and nowhere else", nil, authz.GroupID(2), "bob:view dave:edit", ""},
		{"a level without a role of its own", func(e *authz.ExtraRole, s *authz.Snapshot) {
			e.Levels = []authz.Level{authz.Guest}
			s.Groups[2] = withMember(s.Groups[2], carol, authz.Guest)
		}, authz.ProjectID(10), "alice:edit bob:view carol:deployer dave:edit", ""},
		{
			"a whole group, its inherited members too", func(e *authz.ExtraRole, _ *authz.Snapshot) { e.Levels, e.Group, e.GroupPath = nil, 4, "guests/inner" },
			authz.ProjectID(10), "alice:edit bob:view carol:deployer dave:edit mallory:deployer", "",
		},
		{"levels of a group", func(e *authz.ExtraRole, s *authz.Snapshot) {
			e.Levels, e.Group = []authz.Level{authz.Owner}, 3
			s.Groups[3] = withMember(s.Groups[3], bob, authz.Owner)
		}, authz.ProjectID(10), "alice:edit bob:deployer bob:view dave:edit", ""},
		{
			"below", func(e *authz.ExtraRole, _ *authz.Snapshot) { e.Source, e.Path, e.Below = authz.GroupID(1), "haw", true },
			authz.ProjectID(10), "alice:edit bob:deployer bob:view dave:edit", "",
		},
		{"not below", func(e *authz.ExtraRole, _ *authz.Snapshot) { e.Source, e.Path = authz.GroupID(1), "haw" }, authz.ProjectID(10), "alice:edit bob:view dave:edit", ""},
		{"a role the person has already", func(e *authz.ExtraRole, _ *authz.Snapshot) { e.ClusterRole = "view" }, authz.ProjectID(10), "alice:edit bob:view dave:edit", ""},
		{"blocked people stay out", func(e *authz.ExtraRole, s *authz.Snapshot) { u := s.Users[bob]; u.State = "blocked"; s.Users[bob] = u }, authz.ProjectID(10), "alice:edit dave:edit", ""},
		{"not in what is archived", func(_ *authz.ExtraRole, s *authz.Snapshot) {
			p := s.Projects[10]
			p.Archived = true
			s.Projects[10] = p
		}, authz.ProjectID(10), "alice:view bob:view dave:view", ""},
		{
			"a path that is no longer right is told, and the id counts", func(e *authz.ExtraRole, _ *authz.Snapshot) { e.Path = "haw/old" }, authz.ProjectID(10),
			"alice:edit bob:deployer bob:view dave:edit", "extra_path",
		},
		{"somebody else took the path: nothing for them", func(e *authz.ExtraRole, s *authz.Snapshot) {
			e.Source, e.Path = authz.ProjectID(12), "bob/toy"
			s.Projects[12] = authz.Project{ID: 12, Group: 1, Path: "haw/moved"}
		}, authz.ProjectID(11), "bob:edit", "extra_path"},
		{"a source that is gone", func(e *authz.ExtraRole, _ *authz.Snapshot) { e.Source = authz.ProjectID(99) }, authz.ProjectID(10), "alice:edit bob:view dave:edit", "extra_unknown"},
		{"a group that is gone", func(e *authz.ExtraRole, _ *authz.Snapshot) { e.Levels, e.Group = nil, 99 }, authz.ProjectID(10), "alice:edit bob:view dave:edit", "extra_unknown"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, e := world(), extra
			if c.change != nil {
				c.change(&e, s)
			}
			p := newPolicy(t, func(pc *authz.PolicyConfig) { pc.Extra = []authz.ExtraRole{e} })
			if got := grantsIn(p, s, c.in); got != c.want {
				t.Errorf("rights %q, want %q", got, c.want)
			}
			_, findings := p.Grants(s, p.Sources(s), now)
			var codes []string
			for _, f := range findings {
				codes = append(codes, f.Code)
			}
			if got := strings.Join(codes, " "); got != c.find {
				t.Errorf("findings %q, want %q", got, c.find)
			}
		})
	}
}

func withMember(g authz.Group, user int64, l authz.Level) authz.Group {
	g.Members = append(slices.Clone(g.Members), authz.Member{User: user, Level: l})
	return g
}

// TestExtraGroupUnreadIsUntouchable: unread is not empty, also for the group of an extra mapping.
func TestExtraGroupUnreadIsUntouchable(t *testing.T) {
	p := newPolicy(t, func(pc *authz.PolicyConfig) {
		pc.Extra = []authz.ExtraRole{{Source: authz.GroupID(1), Below: true, ClusterRole: "deployer", Group: 4}}
	})
	s := world()
	if got := p.Untouchable(s); len(got) != 0 {
		t.Errorf("all was read, but %v", got)
	}
	s.Missing = map[authz.SourceID]string{authz.GroupID(3): "502"} // the parent of group 4
	got := p.Untouchable(s)
	for _, id := range []authz.SourceID{authz.GroupID(1), authz.GroupID(2), authz.ProjectID(10), authz.GroupID(4)} {
		if got[id] == "" {
			t.Errorf("%s may be changed, though the people of guests are unknown", id)
		}
	}
	if got[authz.ProjectID(11)] != "" {
		t.Error("project/11 has nothing to do with it")
	}
}
