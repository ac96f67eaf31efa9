package rbacsync_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp/cmpopts"

	gocmp "github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
)

// world is one random state of GitLab with the cluster's names for it.
type world struct {
	in     rbacsync.Input
	grants map[string]bool // "source role user", the answer that must come out
}

func randomWorld(r *rand.Rand) world {
	snap := &authz.Snapshot{
		Issuer: rbacsynctest.Issuer, Users: map[int64]authz.User{}, Groups: map[int64]authz.Group{},
		Projects: map[int64]authz.Project{}, Missing: map[authz.SourceID]string{},
	}
	w := world{grants: map[string]bool{}}
	for id := range int64(12) {
		snap.Users[id+1] = authz.User{ID: id + 1, Username: fmt.Sprintf("user%d", r.IntN(30)), State: authz.StateActive, Human: true}
	}
	w.in = rbacsync.Input{
		Snapshot: snap, Names: map[authz.SourceID]string{}, Roles: rbacsynctest.Roles,
		Settings: rbacsync.Settings{MaxSubjects: 1 + r.IntN(4)},
	}
	if r.IntN(3) == 0 {
		w.in.Settings.CI.Mode = rbacsync.DeliverIDToken
	}
	for id := range int64(8) {
		if r.IntN(4) == 0 {
			continue
		}
		created := time.Date(2020, 1, int(id)+1, 0, 0, 0, 0, time.UTC)
		if r.IntN(10) == 0 {
			created = created.AddDate(1, 0, 0) // the id was handed out again
		}
		if r.IntN(10) == 0 {
			created = time.Time{}
		}
		src := authz.Source{ID: authz.GroupID(id + 1), Path: fmt.Sprintf("g%d", r.IntN(20)), CreatedAt: created}
		snap.Groups[id+1] = authz.Group{ID: id + 1, Path: src.Path, CreatedAt: created}
		if id%2 == 0 {
			delete(snap.Groups, id+1)
			src.ID = authz.ProjectID(id + 1)
			snap.Projects[id+1] = authz.Project{ID: id + 1, Path: src.Path, CreatedAt: created}
		}
		if r.IntN(6) == 0 {
			snap.Missing[src.ID] = "a page failed"
		}
		w.in.Sources = append(w.in.Sources, src)
		if r.IntN(15) > 0 {
			w.in.Names[src.ID] = fmt.Sprintf("ns%d", id)
		}
		for user := range snap.Users {
			if r.IntN(2) == 0 {
				role := rbacsynctest.Roles[r.IntN(2)]
				w.in.Grants = append(w.in.Grants, authz.Grant{Source: src.ID, ClusterRole: role, Users: []int64{user}})
				w.grants[fmt.Sprint(src.ID, role, user)] = true
			}
		}
	}
	return w
}

// randomCluster is what an earlier world left in the cluster, with everything that can have happened to it since.
func randomCluster(r *rand.Rand) *rbacsync.Observed {
	have := &rbacsync.Observed{Foreign: map[rbacsync.Key]bool{}}
	old := randomWorld(r)
	old.in.Snapshot.Missing = nil
	changes, _ := rbacsync.Plan(have, rbacsync.Desired(old.in))
	have = rbacsynctest.Apply(have, changes)
	for _, l := range have.Live {
		switch {
		case r.IntN(12) > 0:
		case l.Namespace != nil:
			switch r.IntN(6) {
			case 0:
				l.Namespace.Issuer = "https://other.example.com"
			case 1:
				l.Namespace.PodSecurity.Enforce = "privileged"
			case 2:
				l.Namespace.Source = authz.SourceID{}
			case 3:
				l.Deleting = true
			case 4:
				l.Namespace.CreatedAt = ""
			case 5:
				l.Namespace.Source = authz.GroupID(int64(r.IntN(9)))
			}
		case l.Binding != nil:
			switch r.IntN(4) {
			case 0:
				l.Binding.Role = "cluster-admin"
			case 1:
				l.Binding.Others = append(l.Binding.Others, rbacv1.Subject{Kind: "User", APIGroup: rbacv1.GroupName, Name: "eve"})
			case 2:
				l.Binding.Users = slices.Compact(slices.Sorted(slices.Values(append([]int64{int64(1 + r.IntN(15))}, l.Binding.Users...))))
			case 3:
				l.Binding.Users = nil
			}
		}
	}
	have.Live = slices.DeleteFunc(have.Live, func(l *rbacsync.Live) bool {
		if r.IntN(15) > 0 {
			return false
		}
		if r.IntN(2) == 0 {
			have.Foreign[l.Key] = true
		}
		return true
	})
	return have
}

func clone(have *rbacsync.Observed) *rbacsync.Observed {
	out := &rbacsync.Observed{Foreign: have.Foreign}
	for _, l := range have.Live {
		n := *l
		if l.Namespace != nil {
			s := *l.Namespace
			n.Namespace = &s
		}
		if l.Binding != nil {
			b := *l.Binding
			b.Users, b.Others = slices.Clone(b.Users), slices.Clone(b.Others)
			n.Binding = &b
		}
		out.Live = append(out.Live, &n)
	}
	return out
}

// checkLaws checks one random case. The laws are those of the package comment.
func checkLaws(t *testing.T, seed uint64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	w, have := randomWorld(r), randomCluster(r)
	want := rbacsync.Desired(w.in)
	before := clone(have)
	changes, findings := rbacsync.Plan(have, want)
	text := rbacsync.Text(changes)
	if t.Failed() {
		return
	}
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("seed %d: %s\nplan:\n%s\nfindings: %v", seed, fmt.Sprintf(format, args...), text, findings)
	}

	if d := gocmp.Diff(before.Live, have.Live, cmpopts.EquateEmpty()); d != "" {
		fail("Plan changed its input: %s", d)
	}

	r.Shuffle(len(have.Live), func(i, j int) { have.Live[i], have.Live[j] = have.Live[j], have.Live[i] })
	shuffled := *want
	shuffled.Objects = slices.Clone(want.Objects)
	r.Shuffle(len(shuffled.Objects), func(i, j int) {
		shuffled.Objects[i], shuffled.Objects[j] = shuffled.Objects[j], shuffled.Objects[i]
	})
	changes2, findings2 := rbacsync.Plan(have, &shuffled)
	if got := rbacsync.Text(changes2); got != text {
		fail("another order of the input gives another plan:\n%s", got)
	}
	if d := gocmp.Diff(findings, findings2); d != "" {
		fail("another order of the input gives other findings: %s", d)
	}

	namespaces := map[string]*rbacsync.Live{}
	for _, l := range have.Live {
		if l.Namespace != nil {
			namespaces[l.Key.Name] = l
		}
	}
	revoking := true
	for _, c := range changes {
		if c.Revokes && !revoking {
			fail("%s comes after something that takes nothing away", c)
		}
		revoking = revoking && (c.Revokes || c.Action == rbacsync.Replace)
		if have.Foreign[c.Key] || have.Foreign[rbacsync.NamespaceKey(c.Key.Namespace)] {
			fail("%s touches what is not ours", c)
		}
		if l := namespaces[c.Key.Namespace]; l != nil {
			if why := want.Untouchable[l.Namespace.Source]; why != "" || l.Namespace.Issuer != rbacsynctest.Issuer || l.Namespace.Source == (authz.SourceID{}) {
				fail("%s touches what is not to be touched: %q %+v", c, why, l.Namespace)
			}
		}
	}

	after := rbacsynctest.Apply(have, changes)
	if again, _ := rbacsync.Plan(after, want); len(again) > 0 {
		fail("there is something left after it was applied:\n%s", rbacsync.Text(again))
	}
	checkRights(t, fail, w, want, after, findings)
}

// checkRights compares what the bindings say with the grants, in all namespaces that the plan was free to change.
func checkRights(t *testing.T, fail func(string, ...any), w world, want *rbacsync.Wanted, after *rbacsync.Observed, findings []authz.Finding) {
	t.Helper()
	got, expected := map[string]bool{}, map[string]bool{}
	left := map[authz.SourceID]bool{}
	for _, f := range findings {
		if f.Code != "retained" && f.Code != "duplicate_namespace" {
			left[f.Source] = true
		}
	}
	home := map[string]authz.SourceID{}
	for _, l := range after.Live {
		if l.Namespace != nil && l.Namespace.Issuer == rbacsynctest.Issuer {
			home[l.Key.Name] = l.Namespace.Source
		}
	}
	for id := range want.Untouchable {
		left[id] = true
	}
	for _, l := range after.Live {
		id, ok := home[l.Key.Namespace]
		if l.Binding == nil || !ok || left[id] || id == (authz.SourceID{}) {
			continue
		}
		for _, s := range l.Binding.Others {
			own := s == rbacv1.Subject{Kind: "ServiceAccount", Namespace: l.Key.Namespace, Name: kubename.CIServiceAccount} ||
				w.in.Settings.CI.Mode == rbacsync.DeliverIDToken && s == rbacv1.Subject{Kind: "User", APIGroup: rbacv1.GroupName, Name: kubename.CIJob(id.ID)}
			if l.Key.Name != kubename.CIRoleBinding || !own || w.in.Names[id] != l.Key.Namespace {
				fail("%s keeps the subject %v", l.Key, s)
			}
		}
		if len(l.Binding.Users) > w.in.Settings.MaxSubjects {
			fail("%s has %d subjects, over the limit", l.Key, len(l.Binding.Users))
		}
		for _, u := range l.Binding.Users {
			k := fmt.Sprint(id, l.Binding.Role, u)
			if got[k] || w.in.Names[id] != l.Key.Namespace {
				fail("%s gives %s twice or in the wrong namespace", l.Key, k)
			}
			got[k] = true
		}
	}
	for _, g := range w.in.Grants {
		if w.in.Names[g.Source] != "" && !left[g.Source] && !deleting(after, w.in.Names[g.Source]) && !clash(after, home, w.in.Names[g.Source], g.Source) {
			expected[fmt.Sprint(g.Source, g.ClusterRole, g.Users[0])] = true
		}
	}
	for k := range expected {
		if !got[k] {
			fail("%s is granted in GitLab, but not in the cluster", k)
		}
	}
	for k := range got {
		if !w.grants[k] {
			fail("%s is in the cluster, but not granted in GitLab", k)
		}
	}
}

func deleting(o *rbacsync.Observed, ns string) bool {
	return slices.ContainsFunc(o.Live, func(l *rbacsync.Live) bool { return l.Key == rbacsync.NamespaceKey(ns) && l.Deleting })
}

// clash reports whether the namespace belongs to somebody else.
func clash(o *rbacsync.Observed, home map[string]authz.SourceID, ns string, id authz.SourceID) bool {
	return o.Foreign[rbacsync.NamespaceKey(ns)] || home[ns] != id
}

func TestPlanLaws(t *testing.T) {
	t.Parallel()
	base := uint64(time.Now().UnixNano())
	for i := range uint64(2000) {
		checkLaws(t, cmp.Or(base+i, 1))
	}
	for seed := range uint64(200) { // the same ones each time
		checkLaws(t, seed)
	}
}

func FuzzPlanLaws(f *testing.F) {
	f.Add(uint64(1))
	f.Add(uint64(1 << 40))
	f.Fuzz(checkLaws)
}

func TestPlanOfAWholeCompany(t *testing.T) {
	t.Parallel()
	in := rbacsync.Input{Snapshot: &authz.Snapshot{Issuer: rbacsynctest.Issuer, Users: map[int64]authz.User{}}, Names: map[authz.SourceID]string{}, Roles: rbacsynctest.Roles}
	for id := range int64(20_000) {
		in.Snapshot.Users[id+1] = authz.User{ID: id + 1, Username: fmt.Sprintf("user-%d", id)}
	}
	for id := range int64(10_000) {
		src := authz.ProjectID(id + 1)
		in.Sources = append(in.Sources, authz.Source{ID: src, Path: fmt.Sprintf("group/project-%d", id)})
		in.Names[src] = fmt.Sprintf("group-project-%d", id)
		for u := range int64(50) {
			in.Grants = append(in.Grants, authz.Grant{Source: src, ClusterRole: rbacsynctest.Roles[u%2], Users: []int64{(id*7+u)%20_000 + 1}})
		}
	}
	start := time.Now()
	want := rbacsync.Desired(in)
	changes, _ := rbacsync.Plan(&rbacsync.Observed{}, want)
	first := time.Since(start)
	have := rbacsynctest.Apply(&rbacsync.Observed{}, changes)
	start = time.Now()
	again, _ := rbacsync.Plan(have, rbacsync.Desired(in))
	t.Logf("50,000 objects with 500,000 subjects: %v for the first plan, %v for the second", first, time.Since(start))
	if len(changes) != 50_000 || len(again) != 0 {
		t.Errorf("%d changes, then %d; want 50000, then 0", len(changes), len(again))
	}
}
