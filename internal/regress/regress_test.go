package regress

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	dynamicfake "k8s.io/client-go/dynamic/fake"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// In 2018 a group Kube-System, kube_system or kube.system was given the namespace kube-system, and destroying the
// group deleted it.
func TestBug01ClusterTakeoverByNaming(t *testing.T) {
	system := []string{"kube-system", "default", "gl-k8s-integrator", "monitoring", "ingress-nginx"}
	var there []*corev1.Namespace
	for _, n := range system {
		there = append(there, foreign(n))
	}
	s := newStage(t, nil, there...)
	var groups []int64
	for _, path := range []string{"Kube-System", "kube_system", "kube.system", "Default", "gl_k8s_integrator", "monitoring", "Ingress.Nginx"} {
		groups = append(groups, s.group(path, 0, "mallory"))
	}
	s.round()
	seen := map[string]bool{}
	for _, g := range groups {
		ns := s.namespace(authz.GroupID(g))
		if ns == "" || seen[ns] || slices.Contains(system, ns) || strings.HasPrefix(ns, "kube-") {
			t.Errorf("group/%d got namespace %q", g, ns)
		}
		seen[ns] = true
		s.wantHolders(ns, "edit", s.id["mallory"])
	}
	for _, g := range groups {
		s.ok(s.world.DeleteGroup(g))
	}
	s.round()
	for _, n := range system {
		s.untouched(n)
	}
}

// In 2018 foo_bar, foo.bar and foo-bar had one namespace, and the last one to come took it from the others.
func TestBug02NamespaceTakeoverBetweenUsers(t *testing.T) {
	s := newStage(t, nil)
	s.group("haw", 0, "ann")
	first := s.user("foo_bar")
	s.round()
	own := s.namespace(authz.UserID(first))
	s.wantHolders(own, "edit", first)
	second, third := s.user("foo.bar"), s.user("foo-bar")
	for range 2 {
		s.round()
		if s.namespace(authz.UserID(first)) != own {
			t.Fatalf("foo_bar lost %q", own)
		}
		for _, u := range []int64{second, third} {
			ns := s.namespace(authz.UserID(u))
			if ns == "" || ns == own {
				t.Errorf("user %d got %q", u, ns)
			}
			s.wantHolders(ns, "edit", u)
		}
		s.wantHolders(own, "edit", first)
	}
}

// In 2018 the label of a/_b and of a_/b was the same, and each sync deleted the namespace of the first.
func TestBug03AmbiguousLabel(t *testing.T) {
	s := newStage(t, nil)
	a, b := s.group("a", 0, "ann"), s.group("a_", 0, "ben")
	one, two := s.group("_b", a, ""), s.group("b", b, "")
	s.round()
	names := []string{s.namespace(authz.GroupID(one)), s.namespace(authz.GroupID(two))}
	s.writes()
	s.round()
	if w := s.writes(); len(w) > 0 {
		t.Errorf("a second round wrote %v", w)
	}
	if got := []string{s.namespace(authz.GroupID(one)), s.namespace(authz.GroupID(two))}; !slices.Equal(got, names) || names[0] == names[1] {
		t.Errorf("namespaces %v, then %v", names, got)
	}
	s.wantHolders(names[0], "edit", s.id["ann"])
	s.wantHolders(names[1], "edit", s.id["ben"])
	if l := authz.GroupID(one).Label(); l == authz.GroupID(two).Label() {
		t.Errorf("both have the label %q", l)
	}
}

// In 2018 a path of more than 63 characters made the API server refuse the namespace, and then the process died.
func TestBug04MoreThan63Characters(t *testing.T) {
	s := newStage(t, nil)
	top := s.group(strings.Repeat("a", 40), 0, "ann")
	long := s.group(strings.Repeat("b", 40), top, "")
	twin := s.group(strings.Repeat("b", 39)+"c", top, "")
	other := s.group("other", 0, "ben")
	s.round()
	for _, g := range []int64{long, twin} {
		ns := s.namespace(authz.GroupID(g))
		if len(ns) == 0 || len(ns) > 63 || len(validation.IsDNS1123Label(ns)) > 0 {
			t.Errorf("group/%d got %q", g, ns)
		}
		s.wantHolders(ns, "edit", s.id["ann"])
		if l := authz.GroupID(g).Label(); len(validation.IsValidLabelValue(l)) > 0 {
			t.Errorf("label %q", l)
		}
	}
	s.wantHolders(s.namespace(authz.GroupID(other)), "edit", s.id["ben"])
}

// In 2018 a name such as _course or course- ended the process, for everybody and again after each restart.
func TestBug05NamesWithOddEnds(t *testing.T) {
	s := newStage(t, nil)
	var groups []int64
	for _, path := range []string{"_course", "course-", "_", "__", "._.", "x", "0"} {
		id, err := s.world.AddGroup(gitlabsim.Group{Path: path, Name: "n"})
		if err != nil {
			continue // GitLab itself refuses it
		}
		groups = append(groups, id)
	}
	if len(groups) < 5 {
		t.Fatalf("GitLab took only %d of the names", len(groups))
	}
	s.round()
	for _, g := range groups {
		if ns := s.namespace(authz.GroupID(g)); len(validation.IsDNS1123Label(ns)) > 0 {
			t.Errorf("group/%d got %q", g, ns)
		}
	}
	// Also for what no GitLab of today allows.
	names, findings := authz.AssignNames([]authz.Source{{ID: authz.GroupID(1), Path: "é-team"}, {ID: authz.GroupID(2), Path: "\x00"}, {ID: authz.GroupID(3), Path: ""}}, nil, nil, nil)
	for id, ns := range names {
		if len(validation.IsDNS1123Label(ns)) > 0 {
			t.Errorf("%s got %q", id, ns)
		}
	}
	if len(names) != 3 || len(findings) > 0 {
		t.Errorf("%v, %v", names, findings)
	}
}

// In 2018 members beyond the first 20 were never bound, and those whom a hook had bound lost it at the next sync.
func TestBug06MembersBeyondTheFirstPage(t *testing.T) {
	s := newStage(t, nil)
	g := s.group("crowd", 0, "")
	var want []int64
	for i := range 130 {
		u := s.user(fmt.Sprintf("member%d", i))
		s.ok(s.world.SetMember(gitlabsim.KindGroup, g, u, gitlabsim.Maintainer, ""))
		want = append(want, u)
	}
	for range 2 {
		s.round()
		s.wantHolders(s.namespace(authz.GroupID(g)), "edit", want...)
	}
}

// In 2018 any error while reading members (403, 429, 5xx, broken JSON) looked like "no members", and everybody lost
// everything there.
func TestBug07ErrorsLookLikeNoMembers(t *testing.T) {
	s := newStage(t, nil)
	g := s.group("haw", 0, "ann")
	s.round()
	ns := s.namespace(authz.GroupID(g))
	for name, fault := range map[string]gitlabsim.FaultRule{
		"403":         {Status: 403, Body: `{"message":"403 Forbidden"}`},
		"429":         {Status: 429, Body: `{"message":{"error":"too many"}}`, Header: http.Header{"Retry-After": {"0"}}},
		"500":         {Status: 500, Body: `{"message":"500"}`},
		"502":         {Status: 502, Body: "<html>Bad Gateway</html>"},
		"broken JSON": {TruncateBody: true},
		"no answer":   {Close: true},
		"not JSON":    {Status: 200, Body: "<html>Sign in</html>"},
		"empty list":  {Status: 200, Body: `[]`},
	} {
		for _, path := range []string{"/", "/api/graphql", fmt.Sprintf("/api/v4/groups/%d/members", g), "/api/v4/projects", "/api/v4/users"} {
			if name == "empty list" && path != "/" && path != "/api/graphql" {
				continue // a well-formed empty list of one kind can't be told from the truth
			}
			fault.PathPrefix = path
			s.gitlab.SetFaults(gitlabsim.Faults{Rules: []gitlabsim.FaultRule{fault}})
			_, _ = s.syncer.Once(t.Context(), "test") // may fail or not
			if got := s.holders(ns, "edit"); len(got) != 1 {
				t.Errorf("%s on %s: edit is held by %v", name, path, got)
			}
		}
	}
	s.gitlab.SetFaults(gitlabsim.Faults{})
	s.round()
	s.wantHolders(ns, "edit", s.id["ann"])
}

const memberHook = `{"event_name":"user_add_to_team","project_id":%d,"project_path_with_namespace":"haw/world","user_id":%d,"user_username":"bob","access_level":%q,"project_visibility":"private"}`

// In 2018 a hook that came twice met an existing RoleBinding and ended the process.
func TestBug08DuplicateHook(t *testing.T) {
	s := newStage(t, nil)
	g := s.group("haw", 0, "ann")
	p, err := s.world.AddProject(gitlabsim.Project{NamespaceID: g, Path: "world"})
	s.ok(err)
	bob := s.user("bob")
	base := s.round().Snapshot
	s.ok(s.world.SetMember(gitlabsim.KindProject, p, bob, gitlabsim.Maintainer, ""))
	body := fmt.Sprintf(memberHook, p, bob, "Maintainer")
	for _, idempotency := range []string{"one", "one", "two", ""} {
		if code := s.send(body, secret, idempotency); code != http.StatusNoContent {
			t.Fatalf("answered %d", code)
		}
	}
	if got := s.took(); !slices.Equal(got, []authz.SourceID{authz.ProjectID(p), authz.ProjectID(p), authz.ProjectID(p)}) {
		t.Errorf("to be read again: %v (the one with the same key counts once)", got)
	}
	for range 2 { // reading and writing the same again changes nothing
		_, err := s.reader.Refresh(t.Context(), base, []authz.SourceID{authz.ProjectID(p), authz.ProjectID(p)})
		s.ok(err)
		s.round()
		s.wantHolders(s.namespace(authz.ProjectID(p)), "edit", s.id["ann"], bob)
	}
}

// In 2018 a hook with the word "Maintainer" (GitLab 11 and newer) gave the guest role.
func TestBug09MaintainerInHooks(t *testing.T) {
	for _, word := range []string{"Maintainer", "Master", "maintainer", "Owner of everything"} {
		s := newStage(t, nil)
		g := s.group("haw", 0, "ann")
		p, err := s.world.AddProject(gitlabsim.Project{NamespaceID: g, Path: "world"})
		s.ok(err)
		bob := s.user("bob")
		s.round()
		s.ok(s.world.SetMember(gitlabsim.KindProject, p, bob, gitlabsim.Developer, ""))
		if code := s.send(fmt.Sprintf(memberHook, p, bob, word), secret, ""); code != http.StatusNoContent || len(s.took()) != 1 {
			t.Errorf("%q: answered %d", word, code)
		}
		s.round()
		ns := s.namespace(authz.ProjectID(p))
		s.wantHolders(ns, "view", bob) // what GitLab's API says counts, not the word
		s.wantHolders(ns, "edit", s.id["ann"])
	}
	for _, word := range []string{"Maintainer", "Master"} {
		if l, err := authz.ParseLevel(word); err != nil || l != authz.Maintainer {
			t.Errorf("%q is %v, %v", word, l, err)
		}
	}
}

// In 2018 a removed member lost their binding in the namespace that the path suggests, not in the real, suffixed one.
func TestBug10RevokedInTheWrongNamespace(t *testing.T) {
	s := newStage(t, nil, foreign("haw"))
	s.binding("haw", "theirs", "gitlab:2")
	g := s.group("haw", 0, "ann")
	s.round()
	ns := s.namespace(authz.GroupID(g))
	if ns == "haw" || ns == "" {
		t.Fatalf("namespace %q", ns)
	}
	s.wantHolders(ns, "edit", s.id["ann"])
	s.ok(s.world.RemoveMember(gitlabsim.KindGroup, g, s.id["ann"]))
	s.round()
	s.wantHolders(ns, "edit")
	if got := s.holders("haw", "view"); !slices.Equal(got, []string{"gitlab:2"}) {
		t.Errorf("the foreign binding is now held by %v", got)
	}
}

// In 2018 user_destroy deleted the namespace and then ended the process, because it was gone.
func TestBug11UserDestroyTwice(t *testing.T) {
	s := newStage(t, nil)
	s.group("haw", 0, "ben")
	u := s.user("ann")
	base := s.round().Snapshot
	ns := s.namespace(authz.UserID(u))
	s.ok(s.world.DeleteUser(u))
	body := fmt.Sprintf(`{"event_name":"user_destroy","user_id":%d,"username":"ann"}`, u)
	for range 2 {
		if code := s.send(body, secret, ""); code != http.StatusNoContent {
			t.Fatalf("answered %d", code)
		}
		snap, err := s.reader.Refresh(t.Context(), base, s.took())
		s.ok(err)
		if _, ok := snap.Users[u]; ok {
			t.Error("the user is still there")
		}
		s.round()
		s.wantHolders(ns, "edit")
	}
	s.ok(s.kube.CoreV1().Namespaces().Delete(t.Context(), ns, metav1.DeleteOptions{})) // by an administrator
	s.round()
}

// In 2018 hooks of subgroups were carried out in the namespace of the last part of the path, which may be somebody
// else's.
func TestBug12HooksOfSubgroups(t *testing.T) {
	s := newStage(t, nil)
	a, b := s.group("a", 0, "ann"), s.group("b", 0, "ben")
	inA, inB := s.group("dev", a, ""), s.group("dev", b, "")
	top := s.group("dev", 0, "eve")
	s.round()
	carl := s.user("carl")
	s.ok(s.world.SetMember(gitlabsim.KindGroup, inB, carl, gitlabsim.Maintainer, ""))
	body := fmt.Sprintf(`{"event_name":"user_add_to_group","group_id":%d,"group_name":"n","group_path":"dev","user_id":%d,"user_username":"carl","group_access":"Maintainer"}`, inB, carl)
	if code := s.send(body, secret, ""); code != http.StatusNoContent {
		t.Fatalf("answered %d", code)
	}
	if got := s.took(); !slices.Equal(got, []authz.SourceID{authz.GroupID(inB)}) {
		t.Errorf("to be read again: %v", got)
	}
	s.round()
	s.wantHolders(s.namespace(authz.GroupID(inA)), "edit", s.id["ann"])
	s.wantHolders(s.namespace(authz.GroupID(inB)), "edit", s.id["ben"], carl)
	s.wantHolders(s.namespace(authz.GroupID(top)), "edit", s.id["eve"])
}

// In 2018 a blocked user kept their personal namespace for ever, and other states were unknown.
func TestBug13BlockedUserKeepsPersonalNamespace(t *testing.T) {
	s := newStage(t, nil)
	u := s.user("ann")
	g := s.group("haw", 0, "ann2")
	s.ok(s.world.SetMember(gitlabsim.KindGroup, g, u, gitlabsim.Maintainer, ""))
	s.round()
	ns, haw := s.namespace(authz.UserID(u)), s.namespace(authz.GroupID(g))
	for _, state := range []string{"blocked", "active", "deactivated", "active", "banned", "active", "ldap_blocked", "active", "blocked_pending_approval"} {
		s.ok(s.world.SetUserState(u, state))
		s.round()
		if state == "active" {
			s.wantHolders(ns, "edit", u)
			s.wantHolders(haw, "edit", u, s.id["ann2"])
		} else {
			s.wantHolders(ns, "edit")
			s.wantHolders(haw, "edit", s.id["ann2"])
		}
	}
}

// In 2018 switching LimitRanges on ended the process (they had no name), and 20 meant 20 cores. Nothing here makes an
// object out of bare numbers: without being told so by a manifest, no limits are made.
func TestBug14LimitRange(t *testing.T) {
	s := newStage(t, nil)
	s.group("haw", 0, "ann")
	s.round()
	for _, a := range s.kube.Actions() {
		if r := a.GetResource().Resource; a.GetVerb() == "create" && (r == "limitranges" || r == "resourcequotas") {
			t.Errorf("%s created without being asked for", r)
		}
	}
	// Told by a manifest, what is in it is made: "20m" stays 20 millicores, and one without a name is refused at the start.
	kind, err := rbacsync.ParseTemplateKind("LimitRange")
	s.ok(err)
	const limits = "apiVersion: v1\nkind: LimitRange\nmetadata: {NAME}\nspec: {limits: [{type: Container, default: {cpu: 20m, memory: 25Mi}}]}\n"
	load := func(name string) (*rbacsync.Templates, error) {
		folder := fstest.MapFS{"limits.yaml": {Data: []byte(strings.Replace(limits, "NAME", name, 1))}}
		return rbacsync.LoadTemplates(folder, []rbacsync.TemplateKind{kind})
	}
	if _, err := load("labels: {a: b}"); err == nil || !strings.Contains(err.Error(), "metadata.name") {
		t.Errorf("a LimitRange without a name: %v", err)
	}
	templates, err := load("name: default")
	s.ok(err)
	scheme := runtime.NewScheme()
	s.ok(corev1.AddToScheme(scheme))
	client := dynamicfake.NewSimpleDynamicClient(scheme)
	s = newStage(t, func(o *syncer.Options) {
		o.Settings.Templates, o.Dynamic, o.OwnNamespace = templates, client, "gl-k8s-integrator"
	})
	g := s.group("haw", 0, "ann")
	s.round()
	l, err := client.Resource(kind.GVR()).Namespace(s.namespace(authz.GroupID(g))).Get(t.Context(), "default", metav1.GetOptions{})
	s.ok(err)
	text, err := json.Marshal(l.Object["spec"])
	s.ok(err)
	if !strings.Contains(string(text), `"cpu":"20m","memory":"25Mi"`) {
		t.Errorf("made: %s", text)
	}
}

// In 2018 the net-admin binding was deleted and made anew by each sync.
func TestBug15BindingMadeAnewByEachSync(t *testing.T) {
	s := newStage(t, nil)
	g := s.group("haw", 0, "ann")
	for i := range 5 {
		_, err := s.world.AddProject(gitlabsim.Project{NamespaceID: g, Path: fmt.Sprintf("p%d", i)})
		s.ok(err)
	}
	s.round()
	s.writes()
	for range 3 {
		r := s.round()
		if w := s.writes(); len(w) > 0 || len(r.Plan) > 0 {
			t.Errorf("a round without changes wrote %v", w)
		}
	}
}

// In 2018 custom bindings were spared by their name alone, in whatever namespace: a binding of such a name was never
// looked at; and files of custom objects were split at any "---", also within a PEM block, and read from backups. Here a name spares nothing: what carries our mark is ours, and what does not is not.
func TestBug16BindingsSparedByName(t *testing.T) {
	s := newStage(t, nil)
	g, other := s.group("haw", 0, "ann"), s.group("other", 0, "ben")
	s.round()
	ns, theirs := s.namespace(authz.GroupID(g)), s.namespace(authz.GroupID(other))
	// The same name in two namespaces: one is ours and was tampered with, one is somebody's own.
	b, err := s.kube.RbacV1().RoleBindings(ns).Get(t.Context(), kubename.RoleBinding("view", 0), metav1.GetOptions{})
	s.ok(err)
	evil := b.DeepCopy()
	evil.Subjects = append(evil.Subjects, rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "gitlab:99"})
	_, err = s.kube.RbacV1().RoleBindings(ns).Update(t.Context(), evil, metav1.UpdateOptions{})
	s.ok(err)
	s.binding(theirs, "custom-binding", "somebody")
	s.round()
	s.wantHolders(ns, "view")
	if got := s.holders(theirs, "view"); !slices.Equal(got, []string{"somebody"}) {
		t.Errorf("view in %s is held by %v", theirs, got)
	}
	kind, err := rbacsync.ParseTemplateKind("ConfigMap")
	s.ok(err)
	const pem = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ca}\ndata:\n  ca.crt: |\n    -----BEGIN CERTIFICATE-----\n    AAAA\n    -----END CERTIFICATE-----\n"
	templates, err := rbacsync.LoadTemplates(fstest.MapFS{
		"ca.yaml":    {Data: []byte(pem + "---\n" + strings.Replace(pem, "name: ca", "name: other", 1))},
		"x.yaml.bak": {Data: []byte(strings.Replace(pem, "name: ca", "name: backup", 1))},
	}, []rbacsync.TemplateKind{kind})
	s.ok(err)
	if len(templates.List) != 2 || templates.List[0].Name != "ca" || templates.List[1].Name != "other" {
		t.Errorf("%d templates: %v", len(templates.List), templates.List)
	}
}

// In 2018 the secret of the hook was printed when a request had a wrong one, was optional, and a wrong one was
// answered 400.
func TestBug17SecretOfTheHook(t *testing.T) {
	s := newStage(t, nil)
	body := fmt.Sprintf(memberHook, 1, 1, "Owner")
	for _, token := range []string{"", "wrong", secret + "x", secret[1:], strings.ToUpper(secret)} {
		if code := s.send(body, token, ""); code != http.StatusUnauthorized {
			t.Errorf("token %q answered %d", token, code)
		}
	}
	if len(s.took()) > 0 || strings.Contains(s.logged(), secret) || strings.Contains(s.logged(), "wrong") && strings.Contains(s.logged(), `"wrong"`) {
		t.Errorf("log: %s", s.logged())
	}
	if !strings.Contains(s.logged(), "hook refused") {
		t.Error("nothing in the log about it")
	}
}

// deploying is the namespace of a project that deploys there.
func deploying(ns string, project int64) ci.Namespace {
	return ci.Namespace{
		Name: ns, Source: authz.ProjectID(project), Delivery: rbacsync.DeliverVariables,
		Projects: []ci.Project{{ID: project, Delivery: rbacsync.DeliverVariables, Bound: true}},
	}
}

// In 2018 the token of the ServiceAccount was in the URL of a request to GitLab, and so in its access log.
func TestBug18TokenInURL(t *testing.T) {
	s := newStage(t, nil)
	issued := s.withTokens()
	g := s.group("haw", 0, "ann")
	p, err := s.world.AddProject(gitlabsim.Project{NamespaceID: g, Path: "world"})
	s.ok(err)
	s.round()
	report := s.provisioner().Provision(t.Context(), []ci.Namespace{deploying(s.namespace(authz.ProjectID(p)), p)})
	if report.Delivered != 1 || len(report.Findings) > 0 {
		t.Fatalf("%+v", report)
	}
	token, found := *issued, false
	s.world.View(func(v *gitlabsim.View) {
		for _, va := range v.Project(p).Variables {
			found = found || va.Value == token && va.Masked
		}
	})
	if !found {
		t.Error("the project has no masked variable with the token")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.urls {
		if strings.Contains(u, token) || strings.Contains(u, "glpat-") {
			t.Errorf("a secret is in the URL %s", u)
		}
	}
	if strings.Contains(s.log.String(), token) {
		t.Error("the token is in the log")
	}
}

// In 2018 an unreachable GitLab, or a failed write to it, ended the process with a nil dereference.
func TestBug19UnreachableGitLab(t *testing.T) {
	s := newStage(t, nil)
	s.withTokens()
	g := s.group("haw", 0, "ann")
	p, err := s.world.AddProject(gitlabsim.Project{NamespaceID: g, Path: "world"})
	s.ok(err)
	s.gitlab.SetFaults(gitlabsim.Faults{Down: true})
	if _, err := s.syncer.Once(t.Context(), "test"); err == nil {
		t.Error("no error although GitLab is away from the start")
	}
	s.gitlab.SetFaults(gitlabsim.Faults{})
	base := s.round().Snapshot
	ns := s.namespace(authz.ProjectID(p))
	s.gitlab.SetFaults(gitlabsim.Faults{Down: true})
	if _, err := s.syncer.Once(t.Context(), "test"); err == nil {
		t.Error("no error although GitLab is away")
	}
	if _, err := s.reader.Refresh(t.Context(), base, []authz.SourceID{authz.ProjectID(p)}); err == nil {
		t.Error("no error although GitLab is away")
	}
	report := s.provisioner().Provision(t.Context(), []ci.Namespace{deploying(ns, p)})
	if len(report.Findings) != 1 || report.Findings[0].Code != "ci_delivery_failed" {
		t.Errorf("findings %v", report.Findings)
	}
	s.wantHolders(ns, "edit", s.id["ann"])
}

// In 2018 RoleBindings of others (Helm charts', operators') in a synced namespace were deleted.
func TestBug20ForeignRoleBindingsDeleted(t *testing.T) {
	s := newStage(t, nil)
	g := s.group("haw", 0, "ann")
	s.round()
	ns := s.namespace(authz.GroupID(g))
	s.binding(ns, "helm-release", "system:serviceaccount:haw:operator")
	for range 2 {
		s.round()
		if _, err := s.kube.RbacV1().RoleBindings(ns).Get(t.Context(), "helm-release", metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
	}
}

// countingReader notes how many readings are under way at the same time.
type countingReader struct {
	intake.Reader
	now, most atomic.Int32
}

func (c *countingReader) Snapshot(ctx context.Context) (*authz.Snapshot, error) {
	n := c.now.Add(1)
	defer c.now.Add(-1)
	for old := c.most.Load(); n > old && !c.most.CompareAndSwap(old, n); old = c.most.Load() {
	}
	return c.Reader.Snapshot(ctx)
}

// In 2018 a sync began with deleting, before it knew that its picture was complete, and several could run at once.
func TestBug21DeletesBeforeThePictureIsComplete(t *testing.T) {
	counter := &countingReader{}
	s := newStage(t, func(o *syncer.Options) { counter.Reader = o.Reader; o.Reader = counter })
	g := s.group("haw", 0, "ann")
	u := s.user("bob")
	s.round()
	ns, own := s.namespace(authz.GroupID(g)), s.namespace(authz.UserID(u))
	s.writes()
	// The list of groups breaks off half way, that of projects can't be read at all.
	for _, path := range []string{"/api/v4/groups", "/api/v4/projects"} {
		s.gitlab.SetFaults(gitlabsim.Faults{Rules: []gitlabsim.FaultRule{gitlabsim.WithoutGraphQL(), {PathPrefix: path, Status: 500, Body: "{}"}}})
		_, _ = s.syncer.Once(t.Context(), "test")
		if w := s.writes(); len(w) > 0 {
			t.Errorf("without %s it wrote %v", path, w)
		}
	}
	s.gitlab.SetFaults(gitlabsim.Faults{Latency: 5 * time.Millisecond})
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() { _, _ = s.syncer.Once(t.Context(), "test") })
	}
	wg.Wait()
	if n := counter.most.Load(); n != 1 {
		t.Errorf("%d rounds at the same time", n)
	}
	s.wantHolders(ns, "edit", s.id["ann"])
	s.wantHolders(own, "edit", u)
}

// In 2018 the chart had no templates, CI was an empty file, and the image ran as root.
func TestBug22EmptyPackaging(t *testing.T) {
	objects, err := deploy.Manifests()
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, o := range objects {
		kinds[o.GetKind()]++
		if spec, ok := o.Object["spec"].(map[string]any); ok && spec["template"] != nil {
			text, err := json.Marshal(spec["template"])
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(text), `"runAsNonRoot":true`) {
				t.Errorf("%s %s may run as root", o.GetKind(), o.GetName())
			}
		}
	}
	for _, k := range []string{"Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"} {
		if kinds[k] == 0 {
			t.Errorf("deploy/ has no %s", k)
		}
	}
	if ci := repository(t, ".ci/run"); !strings.Contains(ci, "make test") {
		t.Error(".ci/run runs no tests")
	}
}

// In 2018 a namespace that was labelled as "leave me alone", with a name that a GitLab group maps to, got objects all
// the same and then ended the process.
func TestBug23OptedOutNamespace(t *testing.T) {
	ignored := foreign("haw")
	ignored.Labels = map[string]string{"gitlab-ignored": "true"}
	s := newStage(t, nil, ignored)
	g := s.group("haw", 0, "ann")
	p, err := s.world.AddProject(gitlabsim.Project{NamespaceID: g, Path: "world"})
	s.ok(err)
	for range 2 {
		s.round()
		s.untouched("haw")
		if ns := s.namespace(authz.GroupID(g)); ns == "" || ns == "haw" {
			t.Errorf("the group has the namespace %q", ns)
		}
		s.wantHolders(s.namespace(authz.ProjectID(p)), "edit", s.id["ann"])
	}
	_, err = s.kube.CoreV1().ServiceAccounts("").Get(t.Context(), "gitlab-serviceaccount", metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("something was made in the namespace %q: %v", "", err)
	}
}
