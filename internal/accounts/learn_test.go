package accounts

import (
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// TestWhatDidNotChangeIsTheSame: whatever changes in a random GitLab, one change after the other, what is known of accounts and
// projects is what it would be if all of it were found out anew. Some of it is not, or that would cost too much.
func TestWhatDidNotChangeIsTheSame(t *testing.T) {
	t.Parallel()
	policy, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource}, Exclude: authz.Filter{People: []string{"*-renamed"}, Paths: []string{"g*xx"}}})
	if err != nil {
		t.Fatal(err)
	}
	spared, other := 0, 0
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 12))
		k := NewKnowledge(Rules{Policy: policy, CI: &rbacsync.CISettings{Mode: rbacsync.DeliverIDToken}}, func() time.Time { return day })
		s := authztest.Snapshot(r)
		s.Taken = day
		k.Learn(s)
		for range 12 {
			next := authztest.Clone(s)
			next.Taken = next.Taken.Add(time.Minute)
			authztest.Change(r, next)
			old := k.latest.Load()
			k.Learn(next)
			got, states, standings := k.latest.Load(), k.states(next, old), k.standings(next, old.projects)
			if !maps.Equal(got.states, states) || !maps.Equal(got.projects, standings) {
				t.Fatalf("seed %d: the states are %v and the standings %v, found out anew %v and %v", seed, got.states, got.projects, states, standings)
			}
			if c := compare(s, next); !c.users && !c.projects {
				spared++
			} else {
				other++
			}
			s = next
		}
	}
	if spared < 500 || other < 500 {
		t.Errorf("of %d changes nothing was found out anew, of %d something: that shows little", spared, other)
	}
}
