package syncer_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// TestWhatIsHeldElsewhereChangesNothing is a law: two organisations are alike but for one top-level group, in which members
// vanish and their rights are held from then on. In all other namespaces the two have the same rights, whatever happens there.
func TestWhatIsHeldElsewhereChangesNothing(t *testing.T) {
	t.Parallel()
	held, revoked := 0, 0
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 12))
		org := authztest.Snapshot(r)
		org.Issuer = rbacsynctest.Issuer
		quiet, loud := authztest.Clone(org), withElsewhere(org, 0)
		kubes := []*fake.Clientset{fake.NewClientset(), fake.NewClientset()}
		readers := []*gitlab{{snap: quiet}, {snap: loud}}
		limits := &rbacsync.Limits{PerGroup: rbacsync.Limit{Causes: 1}, Overall: rbacsync.Limit{Causes: 1000}}
		var syncers []*syncer.Syncer
		for n := range kubes {
			syncers = append(syncers, newSyncer(t, syncer.Options{Reader: readers[n], Kube: kubes[n], Limits: limits}))
		}
		for step := range 12 {
			for range min(step, 1) * 4 {
				authztest.Change(r, org)
			}
			for id := range org.Missing {
				delete(org.Missing, id)
			}
			readers[0].snap, readers[1].snap = authztest.Clone(org), withElsewhere(org, step)
			var rights [2]string
			for n, s := range syncers {
				round, err := s.Once(t.Context(), "test")
				if err != nil {
					t.Fatal(err)
				}
				if rights[n] = rightsOf(t, kubes[n]); n == 1 {
					held += min(1, len(round.Held))
				} else {
					for _, c := range round.Plan {
						if c.Revokes {
							revoked++
						}
					}
				}
			}
			if d := cmp.Diff(rights[0], rights[1]); d != "" {
				t.Fatalf("seed %d, step %d: with something held elsewhere (-without +with):\n%s", seed, step, d)
			}
		}
	}
	if held < 100 || revoked < 30 {
		t.Errorf("something was held in %d rounds, and %d changes took rights: this shows nothing", held, revoked)
	}
}

// withElsewhere returns the organisation with one more top-level group, whose members are gone after the first step.
func withElsewhere(org *authz.Snapshot, step int) *authz.Snapshot {
	out := authztest.Clone(org)
	g := authz.Group{ID: 900, Path: "elsewhere"}
	for id := int64(900); id < 910; id++ {
		out.Users[id] = authz.User{ID: id, Username: fmt.Sprint("u", id), State: authz.StateActive, Human: true}
		if step < 1 || id == 909 {
			g.Members = append(g.Members, authz.Member{User: id, Level: authz.Maintainer})
		}
	}
	out.Groups[900] = g
	return out
}

// rightsOf lists who has what, in all namespaces but that of the group elsewhere.
func rightsOf(t *testing.T, kube *fake.Clientset) string {
	t.Helper()
	list, err := kube.RbacV1().RoleBindings(metav1.NamespaceAll).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, rb := range list.Items {
		if rb.Namespace == "elsewhere" {
			continue
		}
		fmt.Fprintf(&b, "%s/%s:", rb.Namespace, rb.Name)
		for _, s := range rb.Subjects {
			fmt.Fprintf(&b, " %s", s.Name)
		}
		fmt.Fprintln(&b)
	}
	return b.String()
}

// TestWhatGitLabSaysIsNotHeld: something is held in the same top-level group, and rights that were given since are taken by
// what GitLab says: a lower level, a project that is archived, one that is moved away.
func TestWhatGitLabSaysIsNotHeld(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*authz.Snapshot)
	}{
		{"a lower level", func(s *authz.Snapshot) {
			g := s.Groups[7]
			g.Members = slices.Clone(g.Members)
			for i := range g.Members {
				if g.Members[i].User >= 50 {
					g.Members[i].Level = authz.Reporter
				}
			}
			s.Groups[7] = g
		}},
		{"archived", func(s *authz.Snapshot) {
			p := s.Projects[42]
			p.Archived = true
			s.Projects[42] = p
		}},
		{"moved away", func(s *authz.Snapshot) {
			p := s.Projects[42]
			p.Group, p.Path = 8, "other/world"
			s.Projects[42] = p
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			snap := authztest.Clone(rbacsynctest.HawWorld())
			grp := snap.Groups[7]
			for id := int64(60); id < 70; id++ {
				snap.Users[id] = authz.User{ID: id, Username: fmt.Sprint("u", id), State: authz.StateActive, Human: true}
				grp.Members = append(grp.Members, authz.Member{User: id, Level: authz.Maintainer})
			}
			snap.Groups[7] = grp
			snap.Groups[8] = authz.Group{ID: 8, Path: "other", CreatedAt: grp.CreatedAt}
			g, kube := &gitlab{snap: snap}, fake.NewClientset()
			s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Limits: &rbacsync.Limits{PerGroup: rbacsync.Limit{Causes: 2}}})
			once := func() syncer.Round {
				r, err := s.Once(t.Context(), "test")
				if err != nil {
					t.Fatal(err)
				}
				return r
			}
			once()
			next := authztest.Clone(snap) // ten vanish
			grp.Members = slices.Clone(grp.Members[:1])
			next.Groups[7] = grp
			g.snap = next
			if r := once(); len(r.Held) == 0 {
				t.Fatal("nothing is held: nothing is tested")
			}
			next = authztest.Clone(next) // three come
			for id := int64(50); id < 53; id++ {
				next.Users[id] = authz.User{ID: id, Username: fmt.Sprint("u", id), State: authz.StateActive, Human: true}
				grp.Members = append(slices.Clone(grp.Members), authz.Member{User: id, Level: authz.Developer})
			}
			next.Groups[7] = grp
			g.snap = next
			once()
			wantSubjects(t, kube, "haw-world", "gitlab-view", "gitlab:3", "gitlab:50", "gitlab:51", "gitlab:52")
			next = authztest.Clone(next)
			tt.change(next)
			g.snap = next
			once()
			want := []string{"gitlab:3"} // a member of the project itself
			if tt.name == "archived" {   // edit has become view
				want = []string{"gitlab:2", "gitlab:3", "gitlab:50", "gitlab:51", "gitlab:52"}
			}
			wantSubjects(t, kube, "haw-world", "gitlab-view", want...)
			if tt.name == "archived" { // also those whose rows are missing
				wantSubjects(t, kube, "haw-world", "gitlab-edit")
			}
		})
	}
}

// TestAPartNamesWhatIsHeldAsEverythingDoes: after a hook about one project, what is stored of a change of the policy has another hash
// than before, if the change takes less, and the one that the next round over everything gives it.
func TestAPartNamesWhatIsHeldAsEverythingDoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		snap := crowded()
		other := snap.Projects[42]
		other.ID, other.Path, other.Members = 43, "haw/other", slices.Clone(other.Members)
		snap.Projects[43] = other
		g, m, kube := &gitlab{snap: snap}, &memory{}, fake.NewClientset()
		limits := rbacsync.Limits{PerGroup: rbacsync.Limit{Causes: 100}, Policy: rbacsync.Limit{Causes: 5}}
		once(t, newSyncer(t, syncer.Options{Reader: g, Kube: kube, Memory: m, Limits: &limits}))
		kept, seen := store.Held{Client: kube, Namespace: "gl-k8s-integrator"}, &rounds{}
		s, err := syncer.New(syncer.Options{
			Reader: g, Kube: kube, Watch: kube, Policy: withRoles(t, authz.DefaultRoles()[:1]...), Mode: syncer.ModeEnforce, Memory: m, Limits: &limits, Held: kept,
			Interval: 1000 * time.Hour, Now: time.Now, OnRound: seen.add,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer run(t, s)()
		stored := func(kind syncer.Kind) string {
			t.Helper()
			synctest.Wait()
			time.Sleep(5 * time.Second)
			synctest.Wait()
			items, err := kept.Load(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			rounds := seen.taken()
			if r := rounds[len(rounds)-1]; r.Kind != kind || (r.Namespaces == len(r.Names)) != (kind == syncer.KindFull) {
				t.Fatalf("the last round (%s) looked at %d of %d namespaces, want %s", r.Kind.Read(), r.Namespaces, len(r.Names), kind.Read())
			}
			return rbacsync.HashOf(items)
		}
		before := stored(syncer.KindFull)
		for _, user := range []int64{12, 13, 14} {
			g.set(func(g *gitlab) { g.snap = without(g.snap, 43, user) })
			s.Trigger([]authz.SourceID{authz.ProjectID(43)}, "hook")
			part := stored(syncer.KindTargeted)
			s.Trigger(nil, "check")
			if whole := stored(syncer.KindFull); part == before || part != whole {
				t.Errorf("without user %d: %s by a part, %s by everything, before %s", user, part, whole, before)
			}
			before = part
		}
	})
}
