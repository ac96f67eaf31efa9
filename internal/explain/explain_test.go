package explain_test

import (
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/explain"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

var now = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

const (
	alice int64 = 1 + iota
	bob
	carol
	dave
)

// world is a GitLab with the project haw/world: alice maintains it, bob comes through an invited group, carol is a Reporter, and
// dave owns the group.
func world() *authz.Snapshot {
	user := func(id int64, name string) authz.User {
		return authz.User{ID: id, Username: name, State: authz.StateActive, Human: true}
	}
	return &authz.Snapshot{
		Users: map[int64]authz.User{alice: user(alice, "alice"), bob: user(bob, "bob"), carol: user(carol, "carol"), dave: user(dave, "dave")},
		Groups: map[int64]authz.Group{
			7: {ID: 7, Path: "haw", Members: []authz.Member{{User: dave, Level: authz.Owner}}},
			8: {ID: 8, Path: "guests", Members: []authz.Member{{User: bob, Level: authz.Maintainer, Expires: authz.Date{Year: 2026, Month: 12, Day: 31}}}},
		},
		Projects: map[int64]authz.Project{42: {
			ID: 42, Group: 7, Path: "haw/world", Members: []authz.Member{{User: alice, Level: authz.Maintainer}, {User: carol, Level: authz.Reporter}},
			Links: []authz.Link{{Group: 8, Level: authz.Developer}},
		}},
	}
}

func policy(t *testing.T) authz.Policy {
	t.Helper()
	p, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.ProjectSource}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var rules = map[string][]authz.Rule{
	"view": {{Verbs: []string{"get", "list"}, Groups: []string{""}, Resources: []string{"pods"}}},
	"edit": {{Verbs: []string{"get", "list", "delete"}, Groups: []string{""}, Resources: []string{"pods"}}},
}

func view(t *testing.T, gap authz.Gap) authz.View {
	t.Helper()
	return authz.NewView(world(), policy(t), map[authz.SourceID]string{authz.ProjectID(42): "haw-world"}).WithRules(rules).
		WithGaps(map[authz.SourceID]authz.Gap{authz.ProjectID(42): gap})
}

// binding is a RoleBinding; with a name of ours it is marked.
func binding(name, role string, subjects ...rbacv1.Subject) rbacv1.RoleBinding {
	b := rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: role}, Subjects: subjects}
	if strings.HasPrefix(name, "gitlab-") {
		b.Labels = map[string]string{kubename.LabelManagedBy: kubename.ManagedBy}
	}
	return b
}

func users(ids ...int64) (out []rbacv1.Subject) {
	for _, id := range ids {
		out = append(out, rbacv1.Subject{Kind: rbacv1.UserKind, Name: kubename.User(id)})
	}
	return out
}

// live is a cluster in which all is as GitLab says.
func live(asked *explain.Asked) explain.Live {
	return explain.Live{
		Bindings: []rbacv1.RoleBinding{binding("gitlab-edit", "edit", users(alice, dave)...), binding("gitlab-view", "view", users(bob)...)},
		Asked:    asked,
		Rules: func(ref rbacv1.RoleRef) ([]authz.Rule, bool) {
			r, ok := rules[ref.Name]
			return r, ok
		},
	}
}

var (
	del    = authz.Question{Namespace: "haw-world", Verb: "delete", Resource: "pods"}
	get    = authz.Question{Namespace: "haw-world", Verb: "get", Resource: "pods"}
	right  = authz.Question{Namespace: "haw-world"}
	basis  = explain.Basis{Read: now.Add(-time.Minute), Mode: "enforce"}
	denied = func(why string) *explain.Asked { return &explain.Asked{Allowed: authz.No, Reason: why} }
	passed = func(why string) *explain.Asked { return &explain.Asked{Allowed: authz.Yes, Reason: why} }
)

func report(t *testing.T, user int64, q authz.Question, gap authz.Gap, l explain.Live) explain.Report {
	t.Helper()
	return explain.New(view(t, gap).Explain(user, q, now), q, basis, l)
}

// TestDifferences: where what is known here is not what the cluster has or says, it is said, with what that comes from.
func TestDifferences(t *testing.T) {
	with := func(l explain.Live, more ...rbacv1.RoleBinding) explain.Live {
		l.Bindings = append(l.Bindings, more...)
		return l
	}
	without := func(l explain.Live) explain.Live { l.Bindings = nil; return l }
	group := rbacv1.Subject{Kind: rbacv1.GroupKind, Name: kubename.GroupUsers}
	for _, c := range []struct {
		name string
		user int64
		q    authz.Question
		gap  authz.Gap
		live explain.Live
		want []string // of each difference
	}{
		{"none: allowed", alice, del, authz.Gap{}, live(passed("")), nil},
		{"none: refused", bob, del, authz.Gap{}, live(denied("")), nil},
		{"none: no request", bob, right, authz.Gap{}, live(nil), nil},
		{"none: absent", bob, get, authz.Gap{All: authz.AbsentPlan}, without(live(denied(""))), nil},
		{
			"somebody took the binding out", bob, get,
			authz.Gap{},
			without(live(denied(""))),
			[]string{"no RoleBinding of the integrator has them in it", "because the RoleBinding is not there: the next round puts it back"},
		},
		{
			"it is there by now", bob, get,
			authz.Gap{All: authz.AbsentUnwritten},
			live(passed("")),
			[]string{"is in the cluster by now", "RoleBinding gitlab-view still has them in it"},
		},
		{
			"a binding that GitLab does not give", carol, get,
			authz.Gap{},
			with(live(passed("")), binding("gitlab-view-1", "view", users(carol)...)),
			[]string{"GitLab gives them no ClusterRole view: the next round takes it away", "RoleBinding gitlab-view-1 still has them in it"},
		},
		{
			"what was kept is gone", carol, get,
			authz.Gap{Keeps: []authz.Lack{{ClusterRole: "view", Why: authz.AbsentHeld, Users: []int64{carol}}}},
			live(denied("")),
			[]string{"is not in the cluster any more", "because the RoleBinding is not there"},
		},
		{"somebody else's binding", carol, get, authz.Gap{}, with(live(passed("")), binding("by-hand", "view", users(carol)...)), []string{"by-hand, which is not from GitLab, gives it to User gitlab:3"}},
		{"somebody else's binding for all", carol, get, authz.Gap{}, with(live(passed("")), binding("all", "view", group)), []string{"gives it to Group gitlab:users"}},
		{"a right in the whole cluster", carol, get, authz.Gap{}, live(passed(`RBAC: allowed by ClusterRoleBinding "x"`)), []string{`a right in the whole cluster (ClusterRoleBinding), or another authorizer than RBAC: RBAC: allowed by ClusterRoleBinding "x"`}},
		{"denied by another authorizer", bob, get, authz.Gap{}, live(denied("maintenance")), []string{"another authorizer denies it (maintenance)"}},
		{"could not be asked", bob, get, authz.Gap{}, live(&explain.Asked{Error: "no right", Allowed: authz.Unknown}), []string{"not known: no right"}},
		{"bindings could not be read", bob, get, authz.Gap{}, explain.Live{Error: "no right", Asked: passed(""), Rules: live(nil).Rules}, []string{"could not be read: no right"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := report(t, c.user, c.q, c.gap, c.live)
			if len(r.Differs) != len(c.want) {
				t.Fatalf("%q\nwant %q", r.Differs, c.want)
			}
			for i, want := range c.want {
				if !strings.Contains(r.Differs[i], want) {
					t.Errorf("got  %s\nwant %s", r.Differs[i], want)
				}
			}
		})
	}
	r := explain.New(view(t, authz.Gap{}).Explain(bob, get, now), get, explain.Basis{Mode: "plan"}, without(live(denied(""))))
	if !strings.HasSuffix(r.Differs[1], "in mode plan nobody changes that") {
		t.Errorf("in mode plan: %q", r.Differs)
	}
}

// TestThePageOfExplanations: docs/explain.md shows explanations as they are, and has each field, code and remedy.
func TestThePageOfExplanations(t *testing.T) {
	data, err := os.ReadFile("../../docs/explain.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	shows := func(what, text string) {
		t.Helper()
		if !strings.Contains(page, "```text "+what+"\n"+text+"```\n") {
			t.Errorf("docs/explain.md should show:\n```text %s\n%s```", what, text)
		}
	}
	allowed, refused, kept := report(t, bob, get, authz.Gap{}, live(passed(`RBAC: allowed by RoleBinding "gitlab-view/haw-world" of ClusterRole "view" to User "gitlab:2"`))),
		report(t, carol, del, authz.Gap{}, live(denied(""))),
		report(t, carol, right, authz.Gap{Keeps: []authz.Lack{{ClusterRole: "view", Why: authz.AbsentHeld, Users: []int64{carol}}}}, explain.Live{
			Bindings: []rbacv1.RoleBinding{binding("gitlab-view", "view", users(bob, carol)...)}, Rules: live(nil).Rules,
		})
	shows("allowed", allowed.Text())
	shows("refused", refused.Text())
	shows("kept", kept.Text())
	who := explain.NewWho(view(t, authz.Gap{Lacks: []authz.Lack{{ClusterRole: "edit", Why: authz.AbsentFailed, Users: []int64{dave}}}}), "haw-world", now, basis, explain.Live{
		Bindings: []rbacv1.RoleBinding{binding("gitlab-edit", "edit", users(alice)...), binding("gitlab-view", "view", users(bob, carol)...), binding("by-hand", "view", users(carol)...)},
	})
	shows("who", who.Text())

	seen := map[reflect.Type]bool{}
	var look func(reflect.Type)
	look = func(x reflect.Type) {
		for x.Kind() == reflect.Slice || x.Kind() == reflect.Pointer {
			x = x.Elem()
		}
		if x.Kind() != reflect.Struct || x.Name() == "Time" || x.Name() == "Trail" || seen[x] {
			return
		}
		seen[x] = true
		for f := range x.Fields() {
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" && !regexp.MustCompile("`(?:[a-zA-Z]+(?:\\[\\])?\\.)*"+name+"(?:\\[\\])?`").MatchString(page) {
				t.Errorf("docs/explain.md does not name the field %s of %s", name, x.Name())
			}
			look(f.Type)
		}
	}
	look(reflect.TypeFor[explain.Report]())
	look(reflect.TypeFor[explain.Who]())
	var trail map[string]string
	text, err := json.Marshal(allowed.Trail)
	if err == nil {
		err = json.Unmarshal(text, &trail)
	}
	if err != nil || len(trail) < 10 {
		t.Errorf("a trail is %s, %v", text, err)
	}
	for name := range trail {
		if !strings.Contains(page, "`"+name+"`") {
			t.Errorf("docs/explain.md does not name the field %s of a trail", name)
		}
	}
	for file, typed := range map[string]string{"explanation.go": "Code", "remedy.go": "Do", "gap.go": "Absence"} {
		source, err := os.ReadFile("../../authz/" + file)
		if err != nil {
			t.Fatal(err)
		}
		values := regexp.MustCompile(`\s`+typed+` += "(\w+)"`).FindAllStringSubmatch(string(source), -1)
		for _, c := range values {
			if !strings.Contains(page, "\n| `"+c[1]+"` |") {
				t.Errorf("docs/explain.md has no row for the %s %s", typed, c[1])
			}
		}
		if len(values) < 6 {
			t.Errorf("only %d values of %s were found", len(values), typed)
		}
	}
}

// TestWhoSaysWhatIsBound: who GitLab gives a right and has none, and who has one that GitLab does not give.
func TestWhoSaysWhatIsBound(t *testing.T) {
	keeps := authz.Gap{Keeps: []authz.Lack{{ClusterRole: "view", Why: authz.AbsentPlan, Users: []int64{carol}}}}
	w := explain.NewWho(view(t, keeps), "haw-world", now, basis, explain.Live{Bindings: []rbacv1.RoleBinding{
		binding("gitlab-edit", "edit", users(alice)...), binding("gitlab-view", "view", users(bob, carol, 99)...), binding("by-hand", "edit", users(carol)...),
		binding(kubename.CIRoleBinding, kubename.CIClusterRole, rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: "haw-world", Name: kubename.CIServiceAccount}),
	}})
	for i, want := range []struct {
		user  int64
		bound bool
	}{{alice, true}, {dave, false}, {bob, true}} {
		if w.People[i].UserID != want.user || w.People[i].Bound != want.bound {
			t.Errorf("%+v, want %+v", w.People[i], want)
		}
	}
	var others []string
	for _, o := range w.Others {
		others = append(others, o.Binding+" "+o.Subject+": "+o.Why)
	}
	for i, want := range []string{
		"by-hand gitlab:3 (carol): the binding is not from GitLab",
		"gitlab-serviceaccount ServiceAccount haw-world/gitlab-serviceaccount: CI jobs that deploy here",
		"gitlab-view gitlab:3 (carol): GitLab does not give it: the integrator is in mode plan, in which it takes nothing away",
		"gitlab-view gitlab:99: GitLab does not give it",
	} {
		if i >= len(others) || others[i] != want {
			t.Fatalf("%q\nwant %q", others, want)
		}
	}
	if w := explain.NewWho(view(t, authz.Gap{}), "kube-system", now, basis, explain.Live{}); len(w.People) != 0 || !strings.Contains(w.Text(), "belongs to no group, project or person") {
		t.Errorf("%s", w.Text())
	}
}
