package rbacsync

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

var lostAt = time.Date(2026, 11, 28, 8, 40, 0, 0, time.UTC)

func lostHaw() *LostNamespace {
	return &LostNamespace{
		Name: "haw", Source: authz.GroupID(7), Loss: Loss{lostAt, []int64{2}}, Who: "gitlab:2 (alice)",
		Weak: map[string]bool{"view": true},
	}
}

func leftBinding(name, kind, role string, born time.Time, subjects ...rbacv1.Subject) rbacv1.RoleBinding {
	return rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "haw", CreationTimestamp: metav1.NewTime(born)},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role}, Subjects: subjects,
	}
}

func accountIn(ns, name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: ns, Name: name}
}

func podAs(name, account string) corev1.Pod {
	return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "haw"}, Spec: corev1.PodSpec{ServiceAccountName: account}}
}

func TestWhatIsLeftBehind(t *testing.T) {
	t.Parallel()
	before, late := lostAt.Add(-time.Hour), lostAt.Add(LeftAfter+time.Second)
	bot := accountIn("haw", "bot")
	marked := leftBinding("gitlab-edit", "ClusterRole", "edit", before, bot)
	marked.Labels = map[string]string{kubename.LabelManagedBy: kubename.ManagedBy}
	going := leftBinding("going", "ClusterRole", "edit", before, bot)
	going.DeletionTimestamp = &metav1.Time{Time: lostAt}
	for _, c := range []struct {
		name     string
		bindings []rbacv1.RoleBinding
		pods     []corev1.Pod
		want     []string // parts of the text; none: no finding
	}{
		{"nothing", nil, nil, nil},
		{"edit", []rbacv1.RoleBinding{leftBinding("b", "ClusterRole", "edit", before, bot)}, nil, []string{"RoleBindings of ServiceAccounts: b (edit for bot);"}},
		{"all", []rbacv1.RoleBinding{leftBinding("b", "ClusterRole", "gitlab-group-master", before, bot)}, nil, []string{"b (gitlab-group-master for bot)"}},
		{"a Role of theirs", []rbacv1.RoleBinding{leftBinding("b", "Role", "view", before, bot)}, nil, []string{"b (Role/view for bot)"}},
		{"view", []rbacv1.RoleBinding{leftBinding("b", "ClusterRole", "view", before, bot)}, []corev1.Pod{podAs("p", "bot")}, nil},
		{"made within a day by what was left", []rbacv1.RoleBinding{leftBinding("b", "ClusterRole", "edit", lostAt.Add(LeftAfter), bot)}, nil, []string{"b (edit for bot)"}},
		{"made by others later", []rbacv1.RoleBinding{leftBinding("b", "ClusterRole", "edit", late, bot)}, []corev1.Pod{podAs("p", "bot")}, nil},
		{"ours", []rbacv1.RoleBinding{marked}, nil, nil},
		{"being deleted", []rbacv1.RoleBinding{going}, nil, nil},
		{"an operator's, of another namespace", []rbacv1.RoleBinding{leftBinding("b", "ClusterRole", "edit", before, accountIn("operators", "bot"))}, []corev1.Pod{podAs("p", "bot")}, nil},
		{"a person", []rbacv1.RoleBinding{leftBinding("b", "ClusterRole", "edit", before, userSubject("admin"))}, nil, nil},
		{"the CI's account", []rbacv1.RoleBinding{leftBinding("b", "ClusterRole", "edit", before, accountIn("haw", kubename.CIServiceAccount))}, nil, nil},
		{"a pod as the CI's account", nil, []corev1.Pod{podAs("p", kubename.CIServiceAccount)}, []string{"there still are pods: p (as gitlab-serviceaccount);"}},
		{"a pod that may nothing", nil, []corev1.Pod{podAs("p", "default")}, nil},
		{
			"a binding and its pods",
			[]rbacv1.RoleBinding{leftBinding("b", "ClusterRole", "edit", before, bot, accountIn("haw", "default"))},
			[]corev1.Pod{podAs("q", "default"), podAs("p", "bot"), podAs("other", "other")},
			[]string{"b (edit for bot, default); pods: p (as bot), q (as default);", "in namespace haw, where gitlab:2 (alice) lost the right", "2026-11-28T08:40:00Z", "docs/leaving.md"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := LeftBehind(lostHaw(), c.bindings, c.pods)
			if (f != nil) != (len(c.want) > 0) {
				t.Fatalf("finding %v, want %v", f, c.want)
			}
			for _, part := range c.want {
				if f.Code != "left_behind" || f.Source != authz.GroupID(7) || !strings.Contains(f.Text, part) {
					t.Errorf("finding %v lacks %q", f, part)
				}
			}
		})
	}
	many := make([]rbacv1.RoleBinding, 14)
	for i := range many {
		many[i] = leftBinding("b"+string(rune('a'+i)), "ClusterRole", "edit", before, bot)
	}
	if f := LeftBehind(lostHaw(), many, nil); !strings.Contains(f.Text, "bj (edit for bot), 4 more;") || strings.Contains(f.Text, "bk") {
		t.Errorf("of many: %v", f)
	}
}

func TestLossIsNotedAndRead(t *testing.T) {
	t.Parallel()
	first := Loss{lostAt, []int64{2, 7}}
	if got, ok := parseLoss(first.String()); !ok || !got.At.Equal(lostAt) || !slices.Equal(got.Users, first.Users) {
		t.Errorf("%q is read as %v, %v", first, got, ok)
	}
	for _, s := range []string{"", "x", "2026-11-28T08:40:00Z", "2026-11-28T08:40:00Z 7,", "2026-11-28T08:40:00Z a"} {
		if got, ok := parseLoss(s); ok {
			t.Errorf("%q is read as %v", s, got)
		}
	}
	both := first.and(Loss{lostAt.Add(time.Minute), []int64{7, 9}})
	if !both.At.Equal(lostAt.Add(time.Minute)) || !slices.Equal(both.Users, []int64{2, 7, 9}) {
		t.Errorf("both are %v", both)
	}
	var many []int64
	for id := range int64(maxLosers + 5) {
		many = append(many, id+1)
	}
	if l := (Loss{}).and(Loss{lostAt, many}); len(l.Users) != maxLosers || l.Users[maxLosers-1] != maxLosers+5 {
		t.Errorf("of many: %v", l.Users)
	}
	if got := userNames([]int64{1, 2, 3, 4, 5, 6}, map[int64]authz.User{6: {Username: "zoe"}}); got != "gitlab:2, gitlab:3, gitlab:4, gitlab:5, gitlab:6 (zoe), 1 more" {
		t.Errorf("people: %s", got)
	}
}

// TestWhoHasLost: a loss is that of a role that changes things, without another such role.
func TestWhoHasLost(t *testing.T) {
	t.Parallel()
	weak := map[string]bool{"view": true}
	bound := func(role string, note string, users ...int64) *Object {
		return &Object{Key: Key{"haw", KindRoleBinding, kubename.RoleBinding(role, 0)}, Binding: &Binding{Role: role, Users: users, Loss: note}}
	}
	old := Loss{lostAt.Add(-time.Hour), []int64{9}}.String()
	for _, c := range []struct {
		name      string
		was, will *Object
		wanted    []Object
		note      string
	}{
		{"left", bound("edit", "", 1, 2), bound("edit", "", 1), []Object{*bound("edit", "", 1)}, "2026-11-28T08:40:00Z 2"},
		{"emptied", bound("edit", "", 1, 2), bound("edit", ""), nil, "2026-11-28T08:40:00Z 1,2"},
		{"left a role to look", bound("view", "", 1, 2), bound("view", "", 1), []Object{*bound("view", "", 1)}, ""},
		{"became a Developer", bound("edit", "", 2), bound("edit", ""), []Object{*bound("view", "", 2)}, "2026-11-28T08:40:00Z 2"},
		{"was promoted", bound("edit", "", 2), bound("edit", ""), []Object{*bound("admin", "", 2)}, ""},
		{"the role got another name", bound("edit", "", 2), bound("deployer", "", 2), []Object{*bound("deployer", "", 2)}, ""},
		{"the role became view", bound("edit", "", 2), bound("view", "", 2), []Object{*bound("view", "", 2)}, "2026-11-28T08:40:00Z 2"},
		{"came", bound("edit", ""), bound("edit", "", 2), []Object{*bound("edit", "", 2)}, ""},
		{"after others", bound("edit", old, 2), bound("edit", ""), nil, "2026-11-28T08:40:00Z 9,2"},
		{"others came, what was noted stays", bound("edit", old), bound("edit", "", 2), []Object{*bound("edit", "", 2)}, old},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			want := &Wanted{Objects: append([]Object{}, c.wanted...)}
			plan := []Change{{Action: Update, Key: c.was.Key, Old: &Live{Object: *c.was}, New: c.will}, {Action: Create, Key: Key{"haw", KindRoleBinding, "x"}, New: c.will}}
			NoteLosses(plan, want, weak, lostAt.Add(time.Millisecond))
			if got := plan[0].New.Binding.Loss; got != c.note {
				t.Errorf("noted %q, want %q", got, c.note)
			}
			if c.will.Binding.Loss != "" || plan[1].New != c.will {
				t.Error("what is wanted was changed")
			}
		})
	}
	for roles, want := range map[string]string{"edit edit view": "view", "edit edit edit": "", "view view view": ""} {
		r := strings.Fields(roles)
		p, err := authz.NewPolicy(authz.PolicyConfig{Kinds: []authz.SourceKind{authz.GroupSource}, Roles: rolesOf(r[0], r[1], r[2])})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for role := range WeakRoles(p) {
			got = append(got, role)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("of %s, %v are weak, want %q", roles, got, want)
		}
	}
}

// TestWhereSomebodyHasLost: who has the right again has lost nothing, also where GitLab was not read.
func TestWhereSomebodyHasLost(t *testing.T) {
	t.Parallel()
	weak, issuer := map[string]bool{"view": true}, "https://gitlab.example.com"
	edit := func(note string, users ...int64) Object {
		return Object{Key: Key{"haw", KindRoleBinding, "gitlab-edit"}, Binding: &Binding{Role: "edit", Users: users, Loss: note}}
	}
	note := Loss{lostAt, []int64{2, 9}}.String()
	namespace := func(issuer string) *Live {
		return &Live{Object: Object{Key: NamespaceKey("haw"), Namespace: &Namespace{Source: authz.GroupID(7), Issuer: issuer}}}
	}
	unread := map[authz.SourceID]string{authz.GroupID(7): "502"}
	for _, c := range []struct {
		name string
		live []*Live
		want Wanted
		who  string // "" is nowhere
	}{
		{"nobody", []*Live{namespace(issuer), {Object: edit("", 1)}}, Wanted{}, ""},
		{"both", []*Live{namespace(issuer), {Object: edit(note, 1)}}, Wanted{}, "gitlab:2, gitlab:9"},
		{"one is back", []*Live{namespace(issuer), {Object: edit(note, 1)}}, Wanted{Objects: []Object{edit("", 1, 9)}}, "gitlab:2"},
		{"both are back", []*Live{namespace(issuer), {Object: edit(note, 1)}}, Wanted{Objects: []Object{edit("", 2, 9)}}, ""},
		{"both are back, GitLab was not read", []*Live{namespace(issuer), {Object: edit(note, 2, 9)}}, Wanted{Untouchable: unread}, ""},
		{"both are back, nothing may be changed", []*Live{namespace(issuer), {Object: edit(note, 2, 9)}}, Wanted{Hold: "no"}, ""},
		{"GitLab was not read", []*Live{namespace(issuer), {Object: edit(note, 1)}}, Wanted{Untouchable: unread, Objects: []Object{edit("", 2)}}, "gitlab:2, gitlab:9"},
		{"another GitLab's", []*Live{namespace("https://other.example.com"), {Object: edit(note)}}, Wanted{}, ""},
		{"unreadable", []*Live{namespace(issuer), {Object: edit("yesterday")}}, Wanted{}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.want.Issuer = issuer
			found := LostNamespaces(c.live, &c.want, weak)
			if found["haw"].Who != c.who || (len(found) > 0) != (c.who != "") {
				t.Errorf("found %v, want %q", found, c.who)
			}
		})
	}
}

// rolesOf returns the roles of Owner, Maintainer and Developer.
func rolesOf(owner, maintainer, developer string) []authz.Role {
	var out []authz.Role
	for _, l := range []struct {
		role  string
		level authz.Level
	}{{owner, authz.Owner}, {maintainer, authz.Maintainer}, {developer, authz.Developer}} {
		if i := slices.IndexFunc(out, func(r authz.Role) bool { return r.ClusterRole == l.role }); i >= 0 {
			out[i].Levels = append(out[i].Levels, l.level)
		} else {
			out = append(out, authz.Role{ClusterRole: l.role, Levels: []authz.Level{l.level}})
		}
	}
	return out
}
