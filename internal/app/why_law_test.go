package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/explain"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/explain/live"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// explained is the law of explain: on random organisations, verbs and resources it agrees with kube-apiserver, in every state
// that the engine leaves a cluster in.
type explained struct {
	t      *testing.T
	r      *rand.Rand
	admin  kubernetes.Interface
	writer kubernetes.Interface // of the engine; before is called before its writes
	before func(*http.Request) error
	mu     sync.Mutex // guards before
	policy authz.Policy
	roles  *cluster.RoleReader
	ask    *remedies // makes questions

	snap  *authz.Snapshot
	down  error
	last  *syncer.Syncer
	mode  syncer.Mode
	names map[authz.SourceID]string // all that were ever given
	kinds map[string]int
}

// Snapshot and Refresh make it a GitLab.
func (x *explained) Snapshot(context.Context) (*authz.Snapshot, error) { return x.snap, x.down }

func (x *explained) Refresh(context.Context, *authz.Snapshot, []authz.SourceID) (*authz.Snapshot, error) {
	return x.snap, x.down
}

// writes lets the test hold up or refuse what the engine writes.
type writes struct {
	http.RoundTripper
	x *explained
}

func (w writes) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodGet && strings.Contains(r.URL.Path, "/rolebindings") {
		w.x.mu.Lock()
		before := w.x.before
		w.x.mu.Unlock()
		if before != nil {
			if err := before(r); err != nil {
				return nil, err
			}
		}
	}
	return w.RoundTripper.RoundTrip(r)
}

func (x *explained) onWrite(before func(*http.Request) error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.before = before
}

// explainsAsTheAPIServer goes through the states. The plane is shared with another test, whose namespaces begin with "o".
func explainsAsTheAPIServer(t *testing.T, plane *controlplane.Cluster, admin kubernetes.Interface) {
	if err := deploy.Apply(t.Context(), plane.AdminConfig()); err != nil {
		t.Fatal(err)
	}
	x := &explained{t: t, admin: admin, r: rand.New(rand.NewPCG(14, 1)), names: map[authz.SourceID]string{}, kinds: map[string]int{}}
	x.ask = &remedies{t: t, r: x.r}
	cfg := plane.AdminConfig()
	cfg.QPS = -1
	cfg.Wrap(func(rt http.RoundTripper) http.RoundTripper { return writes{rt, x} })
	var err error
	if x.writer, err = kubernetes.NewForConfig(cfg); err != nil {
		t.Fatal(err)
	}
	if x.policy, err = authz.NewPolicy(authz.PolicyConfig{
		Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource},
		Extra: []authz.ExtraRole{
			{Source: authz.GroupID(1), Below: true, ClusterRole: "extra", Levels: []authz.Level{authz.Guest, authz.Maintainer}},
			{Source: authz.GroupID(2), Below: true, ClusterRole: "extra", Group: 3},
		},
	}); err != nil {
		t.Fatal(err)
	}
	x.roles = cluster.NewRoleReader(admin, append(x.policy.ClusterRoles(), kubename.CIClusterRole)...)
	x.snap = organisations(x.r, 3)

	x.state("nothing is there, in mode plan", syncer.ModePlan, nil)
	x.state("some namespaces wait for their turn", syncer.ModeEnforce, &rbacsync.Limits{Creations: 5})
	x.state("all is there", syncer.ModeEnforce, nil)
	x.change(30)
	for _, id := range []int64{3, 104, 205} {
		delete(x.snap.Projects, id)
	}
	x.state("GitLab has changed, in mode plan", syncer.ModePlan, nil)
	x.state("what is taken away is held", syncer.ModeEnforce, &rbacsync.Limits{PerGroup: rbacsync.Limit{Causes: 1}, Overall: rbacsync.Limit{Causes: 2}})
	x.change(60)
	x.failing()
	x.change(60)
	x.unwritten()
	x.state("all is written", syncer.ModeEnforce, nil)
	x.change(60)
	for id := range x.snap.Groups { // half of them are read, and not believed
		if id%2 == 1 {
			x.snap.Missing[authz.GroupID(id)] = "502"
		}
	}
	x.state("a part of GitLab was not read", syncer.ModeEnforce, nil)
	x.down = errors.New("GitLab is away")
	x.state("GitLab is away", syncer.ModeEnforce, nil)
	x.others()
	x.commands(plane)
	t.Logf("answers: %v", x.kinds)
	for _, kind := range []string{
		"yes", "no", string(authz.CodeAllowed), string(authz.CodeKept), string(authz.CodeNotInCluster), string(authz.CodeLevel), string(authz.CodeNoLevel), string(authz.CodeNoMember),
		"absent plan", "absent held", "absent unwritten", "absent failed", "absent unread", "differs",
	} {
		if x.kinds[kind] < 3 {
			t.Errorf("only %d answers %q: nothing worth comparing", x.kinds[kind], kind)
		}
	}
}

// organisations makes several random ones in one GitLab, with ids of their own.
func organisations(r *rand.Rand, n int64) *authz.Snapshot {
	out := &authz.Snapshot{Issuer: "https://gitlab.example.com", Users: map[int64]authz.User{}, Groups: map[int64]authz.Group{}, Projects: map[int64]authz.Project{}, Missing: map[authz.SourceID]string{}}
	created := time.Now().Add(-time.Minute).Truncate(time.Second)
	for k := range n {
		s, by := authztest.Snapshot(r), 100*k
		at := func(id int64) int64 {
			if id == 0 {
				return 0
			}
			return id + by
		}
		rows := func(list []authz.Member) (moved []authz.Member) {
			for _, m := range list {
				moved = append(moved, authz.Member{User: at(m.User), Level: m.Level})
			}
			return moved
		}
		links := func(list []authz.Link) (moved []authz.Link) {
			for _, l := range list {
				moved = append(moved, authz.Link{Group: at(l.Group), Level: l.Level})
			}
			return moved
		}
		for id, u := range s.Users {
			u.ID, u.Username = at(id), fmt.Sprintf("u%d", at(id))
			out.Users[u.ID] = u
		}
		for id, g := range s.Groups {
			g.ID, g.Parent, g.Path, g.Members, g.Links = at(id), at(g.Parent), fmt.Sprintf("explain/g%d", at(id)), rows(g.Members), links(g.Links)
			g.CreatedAt = created
			out.Groups[g.ID] = g
		}
		for id, p := range s.Projects {
			p.ID, p.Group, p.Owner, p.Path, p.Members, p.Links = at(id), at(p.Group), at(p.Owner), fmt.Sprintf("explain/p%d", at(id)), rows(p.Members), links(p.Links)
			p.Archived = r.IntN(8) == 0
			p.CreatedAt = created
			out.Projects[p.ID] = p
		}
	}
	return out
}

// change changes what people lose and gain rights by. Half of it takes rows out of lists, which Limits count.
func (x *explained) change(n int) {
	x.snap = authztest.Clone(x.snap)
	groups, projects := slices.Sorted(maps.Keys(x.snap.Groups)), slices.Sorted(maps.Keys(x.snap.Projects))
	for range n {
		g, p := x.snap.Groups[groups[x.r.IntN(len(groups))]], x.snap.Projects[projects[x.r.IntN(len(projects))]]
		row := authz.Member{User: p.ID/100*100 + 1 + x.r.Int64N(10), Level: []authz.Level{10, 20, 30, 40, 50}[x.r.IntN(5)]}
		switch x.r.IntN(10) {
		case 0, 1:
			g.Members = nil
		case 2, 3:
			p.Members = nil
		case 4, 8:
			p.Members = append(slices.Clone(p.Members), row)
		case 9:
			g.Members = append(slices.Clone(g.Members), row)
		case 5:
			p.Links = nil
		case 6:
			u := x.snap.Users[row.User]
			u.State = []authz.UserState{"active", "blocked"}[x.r.IntN(2)]
			x.snap.Users[row.User] = u
		case 7:
			g.Archived = !g.Archived
		}
		x.snap.Groups[g.ID], x.snap.Projects[p.ID] = g, p
	}
}

// engine makes one that does a round.
func (x *explained) engine(mode syncer.Mode, limits *rbacsync.Limits) *syncer.Syncer {
	x.t.Helper()
	s, err := syncer.New(syncer.Options{
		Reader: x, Kube: x.writer, Policy: x.policy, Mode: mode, Roles: x.roles, Limits: limits, Held: store.Held{Client: x.admin, Namespace: deploy.Namespace},
	})
	if err != nil {
		x.t.Fatal(err)
	}
	return s
}

// state makes a round, and compares what it leaves.
func (x *explained) state(name string, mode syncer.Mode, limits *rbacsync.Limits) {
	x.t.Helper()
	x.mode = mode
	s := x.last
	if x.down == nil {
		s = x.engine(mode, limits)
	}
	if _, err := s.Once(x.t.Context(), "test"); !errors.Is(err, x.down) {
		x.t.Fatalf("%s: %v", name, err)
	}
	x.last = s
	x.compare(name)
}

// failing makes a round in which the API server takes half of the bindings.
func (x *explained) failing() {
	x.mode = syncer.ModeEnforce
	x.onWrite(func(r *http.Request) error {
		if !strings.HasSuffix(r.URL.Path, kubename.RoleBinding("edit", 0)) {
			return nil
		}
		return errors.New("the connection broke")
	})
	x.last = x.engine(x.mode, nil)
	if _, err := x.last.Once(x.t.Context(), "test"); err == nil {
		x.t.Error("all was written")
	}
	x.onWrite(nil)
	x.compare("half of the bindings could not be written")
}

// unwritten compares while a round has published what it is about to write, and has written nothing.
func (x *explained) unwritten() {
	x.mode = syncer.ModeEnforce
	reached, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var once sync.Once
	x.onWrite(func(r *http.Request) error {
		once.Do(func() { close(reached) })
		select {
		case <-goOn:
			return nil
		case <-r.Context().Done():
			return r.Context().Err()
		}
	})
	x.last = x.engine(x.mode, nil)
	go func() { _, err := x.last.Once(x.t.Context(), "test"); done <- err }()
	select {
	case <-reached:
		x.compare("nothing is written yet")
	case err := <-done:
		x.t.Errorf("nothing was written: %v", err)
		done <- err
	}
	close(goOn)
	if err := <-done; err != nil {
		x.t.Error(err)
	}
	x.onWrite(nil)
}

// explainer makes what the command makes of what the leader has stored.
func (x *explained) explainer() *live.Explainer {
	x.t.Helper()
	view, ok := view(x.last.State, x.roles)()
	if !ok {
		x.t.Fatal("there is no View")
	}
	maps.Copy(x.names, view.Namespace)
	return &live.Explainer{Kube: x.admin, View: view, Basis: explain.Basis{Read: view.Snapshot.Taken, Mode: string(x.mode)}, Roles: x.roles.Roles()}
}

// compare asks both about random requests: kube-apiserver may take a moment to notice what was written.
func (x *explained) compare(name string) {
	x.t.Helper()
	x.roles.Look(x.t.Context())
	e, now := x.explainer(), time.Now()
	ids := slices.SortedFunc(maps.Keys(x.names), authz.SourceID.Compare)
	users := slices.Sorted(maps.Keys(x.snap.Users))
	gone := slices.DeleteFunc(slices.Clone(ids), func(id authz.SourceID) bool { _, there := e.View.Namespace[id]; return there })
	absences := map[authz.Absence]bool{}
	for range 300 {
		id := ids[x.r.IntN(len(ids))]
		q := x.ask.question(x.names[id])
		if x.r.IntN(3) > 0 { // what roles are about
			q.Verb, q.Group, q.Resource, q.Subresource, q.Name = []string{"get", "create", "delete"}[x.r.IntN(3)], "", "pods", "", ""
		}
		user := users[x.r.IntN(len(users))]
		if gaps := slices.SortedFunc(maps.Keys(e.View.Gaps()), authz.SourceID.Compare); len(gaps) > 0 && x.r.IntN(2) == 0 { // where the cluster is not as GitLab says
			id = gaps[x.r.IntN(len(gaps))]
			q.Namespace = e.View.Namespace[id]
			if all := slices.Concat(e.View.Gaps()[id].Lacks, e.View.Gaps()[id].Keeps); len(all) > 0 {
				if who := all[x.r.IntN(len(all))].Users; len(who) > 0 {
					user = who[x.r.IntN(len(who))]
				}
			}
		}
		if len(gone) > 0 && x.r.IntN(6) == 0 {
			q.Namespace = x.names[gone[x.r.IntN(len(gone))]]
			user = x.bound(q.Namespace, user)
		}
		if holders := e.View.Who(q.Namespace, now); len(holders) > 0 && x.r.IntN(2) == 0 {
			user = holders[x.r.IntN(len(holders))].User.ID
		}
		var got explain.Report
		for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
			if got = e.Explain(x.t.Context(), user, q, now); x.right(&got, q) || time.Since(start) > 30*time.Second {
				break
			}
		}
		if !x.right(&got, q) {
			x.t.Fatalf("%s: user %d, %+v: explained as\n%s\nkube-apiserver: %+v", name, user, q, got.Text(), got.Asked)
		}
		x.kinds[got.Allowed.String()]++
		x.kinds[string(got.Code)]++
		for _, g := range got.Roles {
			absences[g.Absent] = true
			x.kinds["absent "+string(g.Absent)]++
		}
		if len(got.Differs) > 0 {
			x.kinds["differs"]++
		}
	}
	x.t.Logf("%s: agrees; not there, by reason: %v", name, absences)
}

// bound returns somebody who is in a binding of a namespace, or else the one who is given.
func (x *explained) bound(ns string, other int64) int64 {
	x.t.Helper()
	list, err := x.admin.RbacV1().RoleBindings(ns).List(x.t.Context(), metav1.ListOptions{})
	if err != nil {
		x.t.Fatal(err)
	}
	for i := range list.Items {
		for _, s := range list.Items[i].Subjects {
			if id, ok := kubename.ParseUser(s.Name); ok {
				return id
			}
		}
	}
	return other
}

// right reports whether a Report agrees with kube-apiserver: by the View alone, unless nothing is known of the namespace any more,
// and by the bindings; and what differs is said.
func (x *explained) right(r *explain.Report, q authz.Question) bool {
	_, known := x.explainer().View.Source[q.Namespace]
	asked := r.Asked.Allowed
	agrees := r.Allowed == asked
	return (agrees || !known) && r.ByBindings() == asked && (agrees == (len(r.Differs) == 0) || !known)
}

// others gives rights that are not from GitLab: in a namespace, and in the whole cluster.
func (x *explained) others() {
	x.t.Helper()
	const user = 999
	ns := ""
	for id, name := range x.explainer().View.Namespace {
		if id == authz.ProjectID(1) {
			ns = name
		}
	}
	to := func(name string) []rbacv1.Subject {
		return []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: name}}
	}
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"}
	if _, err := x.admin.RbacV1().RoleBindings(ns).Create(x.t.Context(), &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "by-hand"}, RoleRef: ref, Subjects: to(kubename.User(user))}, metav1.CreateOptions{}); err != nil {
		x.t.Fatal(err)
	}
	if _, err := x.admin.RbacV1().ClusterRoleBindings().Create(x.t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "everywhere"}, RoleRef: ref, Subjects: to(kubename.User(user + 1))}, metav1.CreateOptions{}); err != nil {
		x.t.Fatal(err)
	}
	q := authz.Question{Namespace: ns, Verb: "get", Resource: "pods"}
	for id, want := range map[int64]string{user: "RoleBinding by-hand, which is not from GitLab, gives it to User gitlab:999", user + 1: `ClusterRoleBinding "everywhere"`} {
		var got explain.Report
		for start := time.Now(); time.Since(start) < 30*time.Second; time.Sleep(20 * time.Millisecond) {
			if got = x.explainer().Explain(x.t.Context(), id, q, time.Now()); got.Asked.Allowed == authz.Yes {
				break
			}
		}
		if got.Allowed != authz.No || got.Asked.Allowed != authz.Yes || len(got.Differs) != 1 || !strings.Contains(got.Differs[0], want) {
			x.t.Errorf("%s\nwant %s", got.Text(), want)
		}
	}
	who := x.explainer().Who(x.t.Context(), ns, time.Now())
	if !slices.ContainsFunc(who.Others, func(o explain.Other) bool {
		return o.Binding == "by-hand" && !o.Ours && o.Why == "the binding is not from GitLab"
	}) {
		x.t.Errorf("who: %+v", who.Others)
	}
}

// commands: what is printed is made from what the leader has stored, and resources are written as for kubectl.
func (x *explained) commands(plane *controlplane.Cluster) {
	x.t.Helper()
	cfg := &config.Config{
		Cluster:  config.Cluster{Kubeconfig: plane.AdminKubeconfig()},
		Authz:    config.Authz{Roles: []config.Role{{ClusterRole: "edit", Levels: []string{"maintainer", "owner"}}, {ClusterRole: "view", Levels: []string{"developer"}}}, Kinds: []string{"group", "project"}},
		RBACSync: config.RBACSync{Mode: "enforce"},
	}
	run := func(f func(out io.Writer) error) string {
		x.t.Helper()
		var out strings.Builder
		if err := f(&out); err != nil {
			x.t.Errorf("%v", err)
		}
		return out.String()
	}
	var warned strings.Builder
	v := x.explainer().View
	var ns string // in which somebody may look at Deployments
	for _, id := range slices.SortedFunc(maps.Keys(v.Namespace), authz.SourceID.Compare) {
		if holders := v.Who(v.Namespace[id], time.Now()); len(holders) > 0 && len(holders[0].Lacks) == 0 && holders[0].ClusterRoles[0] != "extra" {
			ns = v.Namespace[id]
			break
		}
	}
	var who struct {
		People []struct {
			UserID   int64
			Username string
		}
	}
	asking := Asking{User: "u1", Namespace: ns, Verb: "get", Resource: "deploy", Output: "json"}
	if err := Explain(x.t.Context(), cfg, &warned, io.Discard, asking); err == nil || !strings.Contains(err.Error(), "has stored nothing of GitLab in this cluster yet") {
		x.t.Errorf("before anything is stored: %v", err)
	}
	c, err := connect(cfg)
	if err == nil {
		err = snapshotsOf(c).Save(x.t.Context(), syncer.Stored{Snapshot: v.Snapshot, Names: v.Namespace, Gaps: v.Gaps()}, nil)
	}
	if err != nil {
		x.t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(run(func(out io.Writer) error { return Who(x.t.Context(), cfg, out, Asking{Namespace: ns, Output: "json"}) })), &who); err != nil || len(who.People) == 0 {
		x.t.Fatalf("%v: nobody has %s: %+v", err, ns, who)
	}
	holder := who.People[0]
	asking.User = strings.ToUpper(holder.Username)
	var got struct {
		UserID    int64
		Request   string
		Allowed   authz.Verdict
		APIServer *explain.Asked
	}
	if err := json.Unmarshal([]byte(run(func(out io.Writer) error { return Explain(x.t.Context(), cfg, &warned, out, asking) })), &got); err != nil {
		x.t.Fatal(err)
	}
	if got.UserID != holder.UserID || got.Request != "get deployments" || got.Allowed != authz.Yes || got.APIServer == nil || got.APIServer.Allowed != authz.Yes {
		x.t.Errorf("%+v, of %+v", got, holder)
	}
	asking.Output, asking.Resource = "text", "nonsense"
	if text := run(func(out io.Writer) error { return Explain(x.t.Context(), cfg, &warned, out, asking) }); !strings.Contains(text, "get nonsense: no\n") || !strings.Contains(warned.String(), `no resource "nonsense"`) {
		x.t.Errorf("%s%s", text, warned.String())
	}
	asking.User, asking.Verb, asking.Resource = "nobody-of-this-name", "", ""
	if err := Explain(x.t.Context(), cfg, &warned, io.Discard, asking); err == nil || !strings.Contains(err.Error(), "give its id, or gitlab:ID") {
		x.t.Errorf("somebody unknown: %v", err)
	}
	asking.User = "gitlab:4711"
	if text := run(func(out io.Writer) error { return Explain(x.t.Context(), cfg, &warned, out, asking) }); !strings.HasPrefix(text, "gitlab:4711 in namespace "+ns+" (") || !strings.Contains(text, "): no\n") {
		x.t.Errorf("%s", text)
	}
}
