package gitlab

import (
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// TestAUserIsNoProject: ids of users and of projects are numbered apart, so an account is not incomplete because a project of the same
// number is.
func TestAUserIsNoProject(t *testing.T) {
	s := &authz.Snapshot{
		Users:    map[int64]authz.User{5: {ID: 5, Username: "erin", State: authz.StateActive, Human: true}},
		Projects: map[int64]authz.Project{5: {ID: 5, Members: []authz.Member{{User: 77, Level: authz.Developer}}}},
		Groups:   map[int64]authz.Group{5: {ID: 5, Members: []authz.Member{{User: 78, Level: authz.Developer}}}},
		Missing:  map[authz.SourceID]string{},
	}
	inPlace(s).markMembers(authz.UserID(5))
	if len(s.Missing) > 0 {
		t.Errorf("missing: %v", s.Missing)
	}
	inPlace(s).markMembers(authz.ProjectID(5))
	inPlace(s).markMembers(authz.GroupID(5))
	if len(s.Missing) != 2 {
		t.Errorf("missing: %v, want the project and the group", s.Missing)
	}
}
