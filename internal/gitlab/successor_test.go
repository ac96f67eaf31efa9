package gitlab

import (
	"reflect"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// TestASuccessorCopiesWhatChanges: it shares the maps of the Snapshot it was made of until it has to put something into them, and
// what was put is no other than what was there, or is noted.
func TestASuccessorCopiesWhatChanges(t *testing.T) {
	t.Parallel()
	base := &authz.Snapshot{
		Users:    map[int64]authz.User{1: {ID: 1, Username: "ada", State: authz.StateActive}},
		Groups:   map[int64]authz.Group{7: {ID: 7, Path: "haw"}, 8: {ID: 8, Parent: 7, Path: "haw/sub"}},
		Projects: map[int64]authz.Project{42: {ID: 42, Group: 7, Path: "haw/world"}},
		Missing:  map[authz.SourceID]string{authz.GroupID(9): "503"},
	}
	maps := func(s *authz.Snapshot) map[string]uintptr {
		out := map[string]uintptr{}
		for name, m := range map[string]any{"users": s.Users, "groups": s.Groups, "projects": s.Projects, "missing": s.Missing} {
			out[name] = reflect.ValueOf(m).Pointer()
		}
		return out
	}
	before := copySnapshot(base)
	for name, c := range map[string]struct {
		change func(u *successor)
		copied string // the only map that is
		noted  []authz.SourceID
	}{
		"the same user":      {func(u *successor) { u.setUser(1, base.Users[1]) }, "", nil},
		"another user":       {func(u *successor) { u.setUser(2, authz.User{ID: 2}) }, "users", []authz.SourceID{authz.UserID(2)}},
		"a user goes":        {func(u *successor) { u.drop(authz.UserID(1)) }, "users", []authz.SourceID{authz.UserID(1)}},
		"nobody goes":        {func(u *successor) { u.drop(authz.UserID(3)) }, "", nil},
		"a group":            {func(u *successor) { u.setGroup(7, authz.Group{ID: 7, Path: "haw", Members: []authz.Member{{User: 1}}}) }, "groups", []authz.SourceID{authz.GroupID(7)}},
		"a group goes":       {func(u *successor) { u.drop(authz.GroupID(8)) }, "groups", []authz.SourceID{authz.GroupID(8)}},
		"a project":          {func(u *successor) { u.setProject(43, authz.Project{ID: 43}) }, "projects", []authz.SourceID{authz.ProjectID(43)}},
		"a project goes":     {func(u *successor) { u.drop(authz.ProjectID(42)) }, "projects", []authz.SourceID{authz.ProjectID(42)}},
		"missing as before":  {func(u *successor) { u.miss(authz.GroupID(9), "503") }, "", nil},
		"missing no more":    {func(u *successor) { u.miss(authz.GroupID(9), "") }, "missing", []authz.SourceID{authz.GroupID(9)}},
		"not missing":        {func(u *successor) { u.miss(authz.GroupID(7), "") }, "", nil},
		"missing from now":   {func(u *successor) { u.miss(authz.GroupID(7), "502") }, "missing", []authz.SourceID{authz.GroupID(7)}},
		"flags as they were": {func(u *successor) { u.inheritFlags() }, "", nil},
	} {
		u := successorOf(base)
		c.change(&u)
		for m, at := range maps(u.s) {
			if copied := at != maps(base)[m]; copied != (m == c.copied) {
				t.Errorf("%s: %s were copied: %t", name, m, copied)
			}
		}
		if len(u.replaced) != len(c.noted) {
			t.Errorf("%s: noted are %v, want %v", name, u.replaced, c.noted)
		}
		for _, id := range c.noted {
			if !u.replaced[id] {
				t.Errorf("%s: %s is not noted", name, id)
			}
		}
		if d := diff(before, base); d != "" {
			t.Fatalf("%s: the Snapshot of before was changed\n%s", name, d)
		}
	}
}
