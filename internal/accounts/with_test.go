package accounts

import (
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// TestOtherRulesForgetNobody: a Knowledge by other rules knows what was known of accounts, also of those that the last Snapshot
// could not tell of, and lets in by the new rules alone.
func TestOtherRulesForgetNobody(t *testing.T) {
	k := NewKnowledge(Rules{Groups: []int64{7}}, func() time.Time { return day })
	k.Learn(&authz.Snapshot{
		Taken: day, Users: map[int64]authz.User{
			1: {ID: 1, State: authz.StateActive, Human: true}, 2: {ID: 2, State: "blocked", Human: true}, 3: {ID: 3, State: authz.StateActive},
		},
		Groups: map[int64]authz.Group{7: {ID: 7, Members: []authz.Member{{User: 1, Level: authz.Developer}}}, 8: {ID: 8, Members: []authz.Member{{User: 3, Level: authz.Developer}}}},
	})
	k.Learn(&authz.Snapshot{ // of 2 nothing was read
		Taken: day.Add(time.Minute), Users: map[int64]authz.User{1: {ID: 1, State: authz.StateActive, Human: true}, 3: {ID: 3, State: authz.StateActive}},
		Groups:  map[int64]authz.Group{7: {ID: 7, Members: []authz.Member{{User: 1, Level: authz.Developer}}}, 8: {ID: 8, Members: []authz.Member{{User: 3, Level: authz.Developer}}}},
		Missing: map[authz.SourceID]string{authz.UserID(2): "timeout"},
	})
	if k.With(Rules{Groups: []int64{7}}) != k {
		t.Error("the same rules make another Knowledge")
	}
	bots, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource}, Bots: true})
	if err != nil {
		t.Fatal(err)
	}
	before, after := New(k, Options{}), New(k.With(Rules{Groups: []int64{8}, Policy: bots}), Options{})
	for id, want := range map[int64][2]string{1: {"active", "active"}, 2: {"blocked", "blocked"}, 3: {authn.StateNotHuman, "active"}, 4: {authn.StateDeleted, authn.StateDeleted}} {
		was, _ := before.UserState(id)
		is, known := after.UserState(id)
		if was != want[0] || is != want[1] || !known {
			t.Errorf("user %d: %s, then %s (%v), want %v", id, was, is, known, want)
		}
	}
	for id, want := range map[int64]bool{1: false, 2: false, 3: true} {
		if in, known := after.Admitted(id); in != want || !known {
			t.Errorf("user %d is admitted: %v, %v", id, in, known)
		}
	}
	if NewKnowledge(Rules{}, time.Now).With(Rules{MappedRight: true}).latest.Load() != nil {
		t.Error("of nothing something became known")
	}
}
