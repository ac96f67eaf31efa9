package syncer_test

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// TestAPolicyThatComesTooSoonIsHeldAllTheSame is a law: policies come one after the other, each at some moment of the round of the
// one before, which ends there, halfway or before anything of it was stored. GitLab says the same all the time. So what anybody
// loses is the doing of a policy, and no more of it goes on than the limit lets pass, however soon the next one comes.
func TestAPolicyThatComesTooSoonIsHeldAllTheSame(t *testing.T) {
	t.Parallel()
	cut, held := 0, 0
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 7))
		org := authztest.Snapshot(r)
		org.Issuer = rbacsynctest.Issuer
		clear(org.Missing)
		kube, m, left, end := fake.NewClientset(), &memory{}, 1<<30, func() {}
		kube.PrependReactor("*", "*", func(a ktesting.Action) (bool, runtime.Object, error) {
			if v := a.GetVerb(); v == "create" || v == "update" || v == "delete" {
				if left--; left == 0 {
					end()
				}
			}
			return false, nil, nil
		})
		for step := range 8 {
			s, err := syncer.New(syncer.Options{
				Reader: &gitlab{snap: org}, Kube: kube, Policy: somePolicy(t, r), Mode: syncer.ModeEnforce, Memory: m,
				Limits: &rbacsync.Limits{Policy: rbacsync.Limit{Causes: 1}},
			})
			if err != nil {
				t.Fatal(err)
			}
			before := rightsOf(t, kube)
			ctx, cancel := context.WithCancel(t.Context())
			if end = cancel; step > 0 {
				left = 1 + r.IntN(30)
			}
			round, _ := s.Once(ctx, "test")
			cancel()
			if left <= 0 {
				cut++
			}
			held += min(1, len(round.Held))
			if lost := losersOf(before, rightsOf(t, kube)); len(lost) > 1 {
				t.Fatalf("seed %d, step %d: %v have lost something, and nothing says that GitLab takes it", seed, step, lost)
			}
		}
	}
	if cut < 30 || held < 20 {
		t.Errorf("%d rounds ended halfway, and in %d something was held: this shows nothing", cut, held)
	}
}

// somePolicy gives one thing or another for the same levels.
func somePolicy(t *testing.T, r *rand.Rand) authz.Policy {
	t.Helper()
	levels := []authz.Level{authz.Guest, authz.Reporter, authz.Developer, authz.Maintainer, authz.Owner}
	view := r.IntN(4)
	edit := view + 1 + r.IntN(4-view)
	c := authz.PolicyConfig{Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource}, Roles: []authz.Role{
		{ClusterRole: "edit", Levels: levels[edit:]}, {ClusterRole: "view", Levels: levels[view:edit]},
	}}
	p, err := authz.NewPolicy(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// losersOf returns who has nothing any more, or less than before, in a namespace.
func losersOf(before, after string) []string {
	read := func(text string) (out map[string]int) {
		out = map[string]int{}
		for line := range strings.Lines(text) {
			binding, people, _ := strings.Cut(strings.TrimSpace(line), ":")
			ns, name, _ := strings.Cut(binding, "/")
			for p := range strings.FieldsSeq(people) {
				if strings.HasPrefix(p, "gitlab:") {
					out[ns+" "+p] |= map[bool]int{false: 1, true: 2}[strings.HasPrefix(name, "gitlab-edit")]
				}
			}
		}
		return out
	}
	now, lost := read(after), map[string]bool{}
	for x, had := range read(before) {
		if now[x] < had && now[x]&2 == 0 {
			lost[strings.Fields(x)[1]] = true
		}
	}
	return slices.Sorted(maps.Keys(lost))
}
