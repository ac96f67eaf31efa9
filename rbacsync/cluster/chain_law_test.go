package cluster_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
)

// holdings are the roles of people: "namespace user" to roles.
type holdings map[string]map[string]bool

func (h holdings) give(ns string, user int64, role string) {
	k := fmt.Sprint(ns, " ", user)
	if h[k] == nil {
		h[k] = map[string]bool{}
	}
	h[k][role] = true
}

// any reports whether a person has a role for which it holds.
func (h holdings) any(who string, holds func(role string) bool) bool {
	return slices.ContainsFunc(slices.Collect(maps.Keys(h[who])), holds)
}

// ranks are the roles of the policy in these tests, the strongest is 0; "old-edit" is no longer in it, and "extra" can't be
// compared.
var ranks = map[string]int{"admin": 0, "edit": 1, "view": 2}

// covers reports whether nobody loses anything who has a instead of b.
func covers(a, b string) bool {
	ra, ranked := ranks[a]
	rb, other := ranks[b]
	return a == b || (ranked && (other && ra < rb || b == "old-edit"))
}

// moving is one random change of rights, from one state of a cluster to another.
type moving struct {
	kube         *fake.Clientset
	plan         []rbacsync.Change
	before, want holdings
	names        map[string]bool // of the namespaces that exist already
}

func randomMoving(t *testing.T, r *rand.Rand) moving {
	t.Helper()
	m := moving{kube: fake.NewClientset(), before: holdings{}, want: holdings{}, names: map[string]bool{}}
	input := func(base, further []string, namespaces int64, h holdings) rbacsync.Input {
		in := rbacsync.Input{
			Snapshot: &authz.Snapshot{Issuer: rbacsynctest.Issuer, Users: map[int64]authz.User{}, Projects: map[int64]authz.Project{}},
			Names:    map[authz.SourceID]string{}, Roles: base, Further: further, Settings: rbacsync.Settings{MaxSubjects: 1 + r.IntN(3)},
		}
		all := slices.Concat(base, further)
		for id := range namespaces {
			src := authz.ProjectID(id + 1)
			name := fmt.Sprintf("ns%d", id)
			in.Snapshot.Projects[id+1] = authz.Project{ID: id + 1, Path: name}
			in.Sources, in.Names[src] = append(in.Sources, authz.Source{ID: src, Path: name}), name
			for user := range int64(6) {
				in.Snapshot.Users[user+1] = authz.User{ID: user + 1, Username: fmt.Sprint("u", user), State: authz.StateActive, Human: true}
				for range r.IntN(3) {
					role := all[r.IntN(len(all))]
					in.Grants = append(in.Grants, authz.Grant{Source: src, ClusterRole: role, Users: []int64{user + 1}})
					h.give(name, user+1, role)
				}
			}
		}
		return in
	}
	first, _ := rbacsync.Plan(&rbacsync.Observed{}, rbacsync.Desired(input([]string{"admin", "edit", "old-edit", "view"}[r.IntN(2):], []string{"extra"}, 2, m.before)))
	if report := cluster.Apply(t.Context(), m.kube, first, cluster.ApplyOptions{}); report.Err() != nil {
		t.Fatal(report.Err())
	}
	have, err := cluster.List(t.Context(), m.kube, nil)
	if err != nil {
		t.Fatal(err)
	}
	m.names = map[string]bool{"ns0": true, "ns1": true}
	m.plan, _ = rbacsync.Plan(have, rbacsync.Desired(input([]string{"admin", "edit", "view"}, []string{"extra"}, 3, m.want)))
	return m
}

// now returns who has what in the cluster.
func (m moving) now(t *testing.T) holdings {
	t.Helper()
	obj, err := m.kube.Tracker().List(rbacv1.SchemeGroupVersion.WithResource("rolebindings"), rbacv1.SchemeGroupVersion.WithKind("RoleBinding"), "")
	if err != nil {
		t.Fatal(err)
	}
	list, ok := obj.(*rbacv1.RoleBindingList)
	if !ok {
		t.Fatalf("the list is a %T", obj)
	}
	h := holdings{}
	for _, rb := range list.Items {
		for _, s := range rb.Subjects {
			if id, ok := kubename.ParseUser(s.Name); ok {
				h.give(rb.Namespace, id, rb.RoleRef.Name)
			}
		}
	}
	return h
}

// checkMoves checks, write by write, the laws of people whose rights change:
//
//   - Who had a right and should have it, or a stronger one, is never without both, whatever write fails.
//   - Before a namespace is made nobody has more than they should, if no write failed.
//   - Whose right becomes weaker is without both for no longer than the bindings of that namespace are written.
//   - Who should have less than before loses it by the first write to the binding, whatever other write fails.
func checkMoves(t *testing.T, seed uint64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 2))
	m := randomMoving(t, r)
	failing := map[string]bool{}
	if seed%2 == 1 {
		for _, c := range m.plan {
			failing[c.Key.Namespace+"/"+c.Key.Name] = r.IntN(4) == 0
		}
	}
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("seed %d: %s\nplan:\n%s", seed, fmt.Sprintf(format, args...), rbacsync.Text(m.plan))
	}
	covered := func(who, role string) bool {
		return m.want.any(who, func(w string) bool { return covers(w, role) })
	}
	refused, without := map[string]bool{}, map[string]string{}
	var writes []string
	look := func(next string) {
		h := m.now(t)
		for who, roles := range m.before {
			for role := range roles {
				if covered(who, role) && !h.any(who, func(is string) bool { return covers(is, role) }) {
					fail("%s lacks %s after %v", who, role, writes)
				}
			}
			if len(failing) == 0 && len(m.want[who]) > 0 && len(h[who]) == 0 {
				if ns, _, _ := strings.Cut(who, " "); !strings.HasPrefix(next, "rolebindings "+ns+"/") && !onlyExtra(m.before[who], m.want[who]) {
					without[who] = next
				}
			}
		}
		if strings.HasPrefix(next, "namespaces") && len(failing) == 0 {
			for who, roles := range h {
				for role := range roles {
					if !covered(who, role) {
						fail("%s still has %s when %s is written", who, role, next)
					}
				}
			}
		}
	}
	m.kube.PrependReactor("*", "*", func(a ktesting.Action) (bool, runtime.Object, error) {
		name := ""
		switch w := a.(type) {
		case ktesting.PatchAction:
			name = w.GetName()
		case ktesting.CreateAction:
			if o, ok := w.GetObject().(interface{ GetName() string }); ok {
				name = o.GetName()
			}
		default:
			return false, nil, nil
		}
		next := a.GetResource().Resource + " " + a.GetNamespace() + "/" + name
		look(next)
		writes = append(writes, next)
		if failing[a.GetNamespace()+"/"+name] {
			refused[a.GetNamespace()+"/"+name] = true
			return true, nil, errors.New("refused")
		}
		return false, nil, nil
	})
	report := cluster.Apply(t.Context(), m.kube, m.plan, cluster.ApplyOptions{Concurrency: 1})
	look("the end")
	for who, next := range without {
		fail("%s has nothing when %s is written: before %v, should have %v; writes %v", who, next, m.before[who], m.want[who], writes)
	}
	if report.Applied+len(report.Failed) != len(m.plan) {
		fail("%d applied, %d failed, of %d", report.Applied, len(report.Failed), len(m.plan))
	}
	h := m.now(t)
	for _, c := range m.plan {
		if c.Old == nil || c.Old.Binding == nil || failing[c.Key.Namespace+"/"+c.Key.Name] {
			continue
		}
		for _, u := range c.Old.Binding.Users {
			who := fmt.Sprint(c.Key.Namespace, " ", u)
			if role := c.Old.Binding.Role; !covered(who, role) && h[who][role] {
				fail("%s still has %s though %s was not refused; refused %v", who, role, c.Key, refused)
			}
		}
	}
	if len(refused) > 0 {
		return
	}
	for who := range m.before {
		if len(m.want[who]) == 0 && len(h[who]) > 0 {
			fail("%s still has %v", who, h[who])
		}
	}
	for who, roles := range m.want {
		if !maps.Equal(roles, h[who]) {
			fail("%s has %v, should have %v", who, h[who], roles)
		}
	}
}

// onlyExtra reports whether what somebody had and should have can't be compared.
func onlyExtra(had, should map[string]bool) bool {
	only := func(m map[string]bool) bool { return len(m) == 0 || len(m) == 1 && m["extra"] }
	return only(had) || only(should)
}

func TestLawsOfMoves(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		checkMoves(t, seed)
	}
}

// TestNothingIsTakenForABindingThatIsNotOurs: where somebody else's binding has the name of the one that should give more,
// people keep what they have, and the plan is at rest.
func TestNothingIsTakenForABindingThatIsNotOurs(t *testing.T) {
	t.Parallel()
	input := func(first string) rbacsync.Input {
		src := authz.Source{ID: authz.ProjectID(1), Path: "p"}
		return rbacsync.Input{
			Snapshot: &authz.Snapshot{Issuer: rbacsynctest.Issuer}, Sources: []authz.Source{src}, Names: map[authz.SourceID]string{src.ID: "ns"}, Roles: rbacsynctest.Roles,
			Grants: []authz.Grant{{Source: src.ID, ClusterRole: first, Users: []int64{2}}},
		}
	}
	for _, tc := range []struct{ from, to, kept string }{{"view", "edit", "view"}, {"edit", "view", ""}} {
		plan, _ := rbacsync.Plan(&rbacsync.Observed{}, rbacsync.Desired(input(tc.from)))
		have := rbacsynctest.Apply(&rbacsync.Observed{Foreign: map[rbacsync.Key]bool{}}, plan)
		foreign := rbacsync.Key{Namespace: "ns", Kind: rbacsync.KindRoleBinding, Name: "gitlab-" + tc.to}
		have.Foreign[foreign] = true
		have.Live = slices.DeleteFunc(have.Live, func(l *rbacsync.Live) bool { return l.Key == foreign })
		for range 2 {
			plan, findings := rbacsync.Plan(have, rbacsync.Desired(input(tc.to)))
			if len(findings) != 1 || findings[0].Code != "foreign_object" {
				t.Errorf("%s to %s: findings %v", tc.from, tc.to, findings)
			}
			have = rbacsynctest.Apply(have, plan)
		}
		kept := ""
		for _, l := range have.Live {
			if l.Binding != nil && len(l.Binding.Users) > 0 {
				kept += l.Binding.Role
			}
		}
		if kept != tc.kept {
			t.Errorf("%s to %s: has %q, want %q", tc.from, tc.to, kept, tc.kept)
		}
	}
}
