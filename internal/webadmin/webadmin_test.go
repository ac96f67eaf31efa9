package webadmin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/docs"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/clusterroles"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/expiry"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/web"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

var adminDay = time.Date(2026, 11, 29, 1, 0, 0, 0, time.UTC)

// adminView is a small GitLab: carol owns the group haw, bob is a blocked member, dora is Developer of haw/world, and a bot is there.
func adminView(t *testing.T) authz.View {
	t.Helper()
	policy, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource}})
	if err != nil {
		t.Fatal(err)
	}
	s := &authz.Snapshot{
		Issuer: "https://gitlab.example.com", Taken: adminDay,
		Users: map[int64]authz.User{
			1: {ID: 1, Username: "carol", Name: "Carol", State: authz.StateActive, Human: true},
			2: {ID: 2, Username: "bob", State: "blocked", Human: true},
			3: {ID: 3, Username: "dora", Name: "Dora carolina", State: authz.StateActive, Human: true},
			4: {ID: 4, Username: "bot", State: authz.StateActive},
		},
		Groups:   map[int64]authz.Group{7: {ID: 7, Path: "haw", Members: []authz.Member{{User: 1, Level: authz.Owner}, {User: 2, Level: authz.Owner}, {User: 4, Level: authz.Owner}}}, 8: {ID: 8, Path: "other"}},
		Projects: map[int64]authz.Project{20: {ID: 20, Group: 7, Path: "haw/world", Members: []authz.Member{{User: 3, Level: authz.Developer, Expires: authz.Date{Year: 2026, Month: 12, Day: 31}}}}},
		Missing:  map[authz.SourceID]string{},
	}
	v := authz.NewView(s, policy, map[authz.SourceID]string{authz.GroupID(7): "haw", authz.ProjectID(20): "haw-world"})
	return v.WithGaps(map[authz.SourceID]authz.Gap{})
}

func newTestAdmin(t *testing.T) (*Admin, *fake.Clientset) {
	t.Helper()
	v, kube := adminView(t), fake.NewClientset()
	return New(Options{
		View: func() (authz.View, bool) { return v, true }, Now: func() time.Time { return adminDay },
		Kube: kube, Held: store.Held{Client: kube, Namespace: deploy.Namespace}, GitLabURL: "https://gitlab.example.com",
		Limits: gitlab.LimitsPerMinute(), Findings: docs.Findings(),
		Ends: func() []expiry.End {
			return []expiry.End{{What: "gitlab.readTokenFile", At: adminDay.AddDate(0, 3, 0)}, {What: "listeners.web.certFile", At: adminDay.AddDate(0, 0, 2)}}
		},
		Engine: func() (clusterroles.Roles, string) { return nil, "enforce" },
		Hint:   func(context.Context, []authz.SourceID, string) error { return errors.New("kube-apiserver is busy") }, Logger: slog.New(slog.DiscardHandler),
		Keys: func() (authn.KeyStatus, bool) { return authn.KeyStatus{Keys: 2, Fetched: adminDay}, true },
	}), kube
}

// TestWhoIsAnAdministrator: GitLab's word of the moment at each use. What it does not say is no; sign-ins of others cost it nothing.
func TestWhoIsAnAdministrator(t *testing.T) {
	sim, err := gitlabsim.New(gitlabsim.Options{Seed: []byte(`
users: [{id: 1, username: root, admin: true}, {id: 2, username: boss, admin: true}, {id: 3, username: a}]
`)})
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	token := sim.TokenFor("root", "read_api")
	r, err := gitlab.NewReader(gitlab.Options{BaseURL: sim.URL(), HTTPClient: sim.Client(), Token: func() (string, error) { return token, nil }, NoPacing: true})
	if err != nil {
		t.Fatal(err)
	}
	now := adminDay
	a := &administrators{gitlab: r, now: func() time.Time { return now }, view: func() (authz.View, bool) { return authz.View{}, false }}
	is := func(user int64, want bool) {
		t.Helper()
		if got, err := a.Is(t.Context(), user); err != nil || got != want {
			t.Errorf("user %d: %v, %v", user, got, err)
		}
	}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	is(2, true)
	before := r.Requests()
	for range 300 {
		is(3, false)
	}
	if after := r.Requests(); !cmp.Equal(before, after) {
		t.Errorf("of people who are no administrators GitLab was asked: %v, then %v", before, after)
	}
	w := sim.World()
	ok(w.SetUserFlags(2, false, false))
	is(2, false) // demoted, at once
	ok(w.SetUserFlags(2, true, false))
	is(2, true)
	ok(w.SetUserState(2, gitlabsim.StateBlocked))
	is(2, false)
	ok(w.SetUserFlags(3, true, false))
	is(3, false) // whom GitLab has just made one waits for a minute
	now = now.Add(time.Minute)
	is(3, true)
	sim.SetFaults(gitlabsim.Faults{Down: true})
	for _, d := range []time.Duration{0, time.Hour} {
		now = now.Add(d)
		if got, err := a.Is(t.Context(), 3); got || err == nil {
			t.Errorf("GitLab is away: %v, %v", got, err)
		}
	}
	sim.SetFaults(gitlabsim.Faults{})
	is(3, true)
	ok(w.SetUserFlags(1, false, false)) // the reading token is not an administrator's any more: GitLab does not tell
	if got, err := a.Is(t.Context(), 3); got || err == nil {
		t.Errorf("GitLab does not tell: %v, %v", got, err)
	}
}

// noGitLab fails a test that asks.
type noGitLab struct{ t *testing.T }

func (g noGitLab) IsAdmin(context.Context, int64) (bool, error) {
	g.t.Error("GitLab was asked")
	return true, nil
}

func (g noGitLab) Admins(context.Context) (map[int64]bool, error) {
	g.t.Error("GitLab was asked")
	return map[int64]bool{}, nil
}

// TestAdminGroup: the active people in the group, and no administrator of GitLab beside them; what was not read closes the pages.
func TestAdminGroup(t *testing.T) {
	v, read := adminView(t), true
	a := &administrators{group: 7, gitlab: noGitLab{t}, now: func() time.Time { return adminDay }, view: func() (authz.View, bool) { return v, read }}
	for user, want := range map[int64]bool{1: true, 2: false, 3: false, 4: false, 99: false, 0: false} {
		if got, err := a.Is(t.Context(), user); err != nil || got != want {
			t.Errorf("user %d: %v, %v", user, got, err)
		}
	}
	v.Snapshot.Missing[authz.GroupID(7)] = "GitLab said 500"
	if got, err := a.Is(t.Context(), 1); got || err == nil {
		t.Errorf("the group was not read: %v, %v", got, err)
	}
	delete(v.Snapshot.Missing, authz.GroupID(7))
	a.group = 9 // there is none
	if got, err := a.Is(t.Context(), 1); got || err != nil {
		t.Errorf("there is no such group: %v, %v", got, err)
	}
	read = false
	if got, err := a.Is(t.Context(), 1); got || !errors.Is(err, people.ErrUnread) {
		t.Errorf("nothing was read: %v, %v", got, err)
	}
}

// TestAdminStatus: what the leader wrote is shown by each replica, with what to do by the pages of docs.
func TestAdminStatus(t *testing.T) {
	a, kube := newTestAdmin(t)
	s, err := a.Status(t.Context())
	if err != nil || !s.None || s.Works() || s.Keys.Keys != 2 || len(s.Ends) != 2 || s.Ends[0].What != "listeners.web.certFile" || !s.Ends[0].Soon || s.Ends[1].Soon {
		t.Errorf("before the first round: %v %+v", err, s)
	}
	_, err = kube.CoreV1().ConfigMaps(deploy.Namespace).Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: store.NameStatus},
		Data: map[string]string{"status.json": `{"written":"2026-11-29T00:59:00Z","leader":"a","mode":"enforce","read":"2026-11-29T00:58:00Z",
"round":{"cause":"hook","read":"partial","started":"2026-11-29T00:59:00Z","duration":"12ms","namespaces":2,"planned":1,"applied":1},"held":2,
"findings":{"held":2,"fence":60,"of_later":1},"texts":["held: 12 changes are held","held: 2 more","fence: not: as it should be"],"requests":{"user":40,"graphql":7},"budget":{"user":"12 %"},
"sources":{"users":4},"staleness":{"everything":"2m0s"},"hooks":{"count":3,"median":"80ms","slowest":"1s"}}`},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s, err = a.Status(t.Context())
	if err != nil || s.None || s.Works() { // nobody has the Lease
		t.Errorf("%v %+v", err, s)
	}
	want := []web.AdminFinding{
		{Code: "fence", Text: "not: as it should be", Count: 60}, {Code: "held", Text: "12 changes are held", Count: 2}, {Code: "held", Text: "2 more"}, {Code: "of_later", Count: 1},
	}
	for i := range want {
		want[i].Says, want[i].Do = docs.Findings()[want[i].Code].Says, docs.Findings()[want[i].Code].Do
	}
	if d := cmp.Diff(want, s.Findings); d != "" || s.More != 59 || s.Findings[0].Do == "" {
		t.Errorf("findings: %s, %d more", d, s.More)
	}
	if i := slices.IndexFunc(s.Budget, func(b web.AdminBudget) bool { return b.Kind == "user" }); i < 0 || s.Budget[i] != (web.AdminBudget{Kind: "user", Requests: 40, Limit: 30, Share: "12 %"}) {
		t.Errorf("budget: %+v", s.Budget)
	}
	if last := s.Budget[len(s.Budget)-1]; last.Kind != "graphql" || last.Limit != 0 || last.Requests != 7 {
		t.Errorf("budget: %+v", s.Budget)
	}
	if s.Round.Cause != "hook" || s.Round.Applied != 1 || s.Hooks.Median != "80ms" || !s.Read.Equal(adminDay.Add(-2*time.Minute)) || s.Held != 2 {
		t.Errorf("%+v", s)
	}
}

// TestApproveOnThePage: a part is approved by its content, in the name of whoever did it, once; also when two do so at the same time,
// on two replicas.
func TestApproveOnThePage(t *testing.T) {
	a, kube := newTestAdmin(t)
	items := []rbacsync.Item{
		{Scope: authz.GroupID(7), Cause: authz.UserID(3), Source: authz.ProjectID(20), Path: "haw/world", User: 3, Name: "dora", Role: "edit", Why: "too many"},
		{Scope: authz.GroupID(7), Cause: authz.UserID(3), Source: authz.GroupID(7), Path: "haw", Role: "edit", Why: "too many"},
		{Scope: authz.UserID(1), Cause: authz.UserID(1), Source: authz.ProjectID(21), Path: "carol/new", Why: "too many new"},
	}
	all := rbacsync.Extent{Sum: "5eed", Count: 7000} // more than is stored
	for i := range 600 {
		items = append(items, rbacsync.Item{Change: "abc", All: all, Cause: authz.GroupID(7), Source: authz.ProjectID(int64(100 + i)), User: 3, Role: "edit", Why: "it takes much"})
	}
	if err := a.o.Held.Save(t.Context(), items); err != nil {
		t.Fatal(err)
	}
	parts, err := a.Held(t.Context())
	if err != nil || len(parts) != 3 {
		t.Fatalf("%v %+v", err, parts)
	}
	first, policy := parts[0], parts[2]
	wantLines := []web.HeldLine{
		{Source: "project/20", Path: "haw/world", User: 3, Name: "dora", Role: "edit", Cause: "dora (user/3)"},
		{Source: "group/7", Path: "haw", Name: "?", Role: "edit", Cause: "dora (user/3)"},
	}
	if first.Place != "haw (group/7)" || first.Approved != "" || !cmp.Equal(first.Lines, wantLines) || !parts[1].Lines[0].New {
		t.Errorf("%+v", parts[:2])
	}
	if policy.Place != "the configuration" || !policy.Policy || first.Policy || len(policy.Lines) != maxLines || policy.Total() != all.Count || policy.Lines[0].Cause != "the configuration" {
		t.Errorf("%s, %d lines, %d more, %+v", policy.Place, len(policy.Lines), policy.More, policy.Lines[0])
	}
	for _, hash := range []string{"0000000000000000", "", rbacsync.HashOf(items), strings.ToUpper(first.Hash)} { // all of it together was shown to nobody
		if err := a.Approve(t.Context(), 1, hash); !errors.Is(err, web.ErrHeldChanged) {
			t.Errorf("%q: %v", hash, err)
		}
	}
	other := *a
	other.o.Held = store.Held{Client: kube, Namespace: deploy.Namespace}
	var both sync.WaitGroup
	var got [2]error
	for i, on := range []*Admin{a, &other} {
		both.Go(func() { got[i] = on.Approve(context.WithoutCancel(t.Context()), int64(1+2*i), first.Hash) })
	}
	both.Wait()
	// The fake API server knows no conflicts, so both may have been told yes; whose it is has one answer all the same.
	if errs := errors.Join(got[:]...); errs != nil && !errors.Is(errs, web.ErrHeldApproved) {
		t.Errorf("two at once: %v", got)
	}
	if err := a.Approve(t.Context(), 1, first.Hash); !errors.Is(err, web.ErrHeldApproved) {
		t.Errorf("twice: %v", err)
	}
	if parts, err = a.Held(t.Context()); err != nil || parts[0].Approved != "carol (gitlab:1)" && parts[0].Approved != "dora (gitlab:3)" || parts[1].Approved != "" {
		t.Errorf("%v, approved by %q", err, parts[0].Approved)
	}
	var told []string
	a.o.Hint = func(_ context.Context, changed []authz.SourceID, cause string) error {
		told = append(told, fmt.Sprint(len(changed), " ", changed[0], " ", cause))
		return nil
	}
	for _, p := range parts[1:] { // the leader is told, as by a hook
		if err := a.Approve(t.Context(), 1, p.Hash); err != nil {
			t.Error(err)
		}
	}
	if want := []string{"1 project/21 approval", "100 project/100 approval"}; !slices.Equal(told, want) {
		t.Errorf("the leader was told %q", told)
	}
	if err := a.o.Held.Save(t.Context(), append(slices.Clone(items[1:]), rbacsync.Item{Scope: authz.GroupID(7), Source: authz.GroupID(8), User: 1, Role: "view"})); err != nil { // it changes
		t.Fatal(err)
	}
	if err := a.Approve(t.Context(), 1, first.Hash); !errors.Is(err, web.ErrHeldChanged) {
		t.Errorf("another content: %v", err)
	}
}

// TestApproveWhatHasChanged: what a change of the policy takes becomes more or less while somebody looks at it. Nothing is approved, and
// what is held then can be.
func TestApproveWhatHasChanged(t *testing.T) {
	a, _ := newTestAdmin(t)
	held := func(n int, sum string, others ...rbacsync.Item) web.HeldPart {
		t.Helper()
		items := others
		for i := range min(n, 5000) { // as many are stored
			items = append(items, rbacsync.Item{Change: "abc", All: rbacsync.Extent{Sum: sum, Count: n}, Cause: authz.GroupID(7), Source: authz.ProjectID(int64(100 + i)), User: 3, Role: "edit", Why: "it takes much"})
		}
		if err := a.o.Held.Save(t.Context(), items); err != nil {
			t.Fatal(err)
		}
		parts, err := a.Held(t.Context())
		if err != nil || len(parts) != 1+len(others) || parts[len(parts)-1].Total() != n {
			t.Fatalf("%d are held as %+v, %v", n, parts, err)
		}
		return parts[len(parts)-1]
	}
	shown := held(7000, "5eed")
	for n, sum := range map[int]string{7001: "5eed1", 7000: "5eed2", 40: "5eed3"} {
		if held(n, sum); !errors.Is(a.Approve(t.Context(), 1, shown.Hash), web.ErrHeldChanged) {
			t.Errorf("7000 rights were shown, now there are %d, and they are approved", n)
		}
	}
	if approved, err := a.o.Held.Approvals(t.Context()); err != nil || len(approved) > 0 {
		t.Errorf("approved: %v, %v", approved, err)
	}
	now := held(7000, "5eed", rbacsync.Item{Scope: authz.UserID(1), Cause: authz.UserID(1), Source: authz.ProjectID(21), Why: "too many new"})
	if now.Hash != shown.Hash { // what is held elsewhere is another part
		t.Errorf("the same is %s and %s", shown.Hash, now.Hash)
	}
	if err := a.Approve(t.Context(), 1, now.Hash); err != nil {
		t.Error(err)
	}
}

// TestAdminLooks: people and namespaces are found, with who has what and why.
func TestAdminLooks(t *testing.T) {
	a, kube := newTestAdmin(t)
	for text, want := range map[string]string{
		"carol": "1 3 /", "CAROL": "1 3 /", "3": "3 /", "gitlab:2": "2 /", "haw": "/ haw haw-world", "haw/world": "/ haw-world", "project/20": "/ haw-world", "<script>": "/",
	} {
		got, err := a.Search(text, 10)
		line := ""
		for _, u := range got.People {
			line += fmt.Sprint(u.ID, " ")
		}
		line += "/"
		for _, p := range got.Namespaces {
			line += " " + p.Name
		}
		if err != nil || line != want {
			t.Errorf("%s: %v %q, want %q", text, err, line, want)
		}
	}
	if got, err := a.Search("o", 2); err != nil || len(got.People) != 2 || got.MorePeople != 2 {
		t.Errorf("more than asked for: %v %+v", err, got)
	}
	p, ok, err := a.User(1, 0, 10)
	if err != nil || !ok || p.Total != 2 || len(p.Rights) != 2 || p.Rights[1].Namespace != "haw-world" || p.Rights[1].Reason != "Owner in haw/world, inherited from haw" {
		t.Errorf("carol: %v %v %+v", err, ok, p)
	}
	if p, ok, err = a.User(1, 1, 10); err != nil || !ok || p.Total != 2 || len(p.Rights) != 1 {
		t.Errorf("carol's second: %v %v %+v", err, ok, p)
	}
	if _, ok, err = a.User(5, 0, 10); ok || err != nil {
		t.Errorf("nobody: %v %v", ok, err)
	}
	n, ok, err := a.Namespace("haw-world")
	if err != nil || !ok || n.URL != "https://gitlab.example.com/haw/world" || len(n.Holders) != 2 || n.Holders[0].User.ID != 1 || n.Holders[1].Until.IsZero() {
		t.Errorf("haw-world: %v %v %+v", err, ok, n)
	}
	if _, ok, err = a.Namespace("default"); ok || err != nil {
		t.Errorf("default: %v %v", ok, err)
	}
	_, err = kube.RbacV1().RoleBindings("haw-world").Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "by-hand"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "gitlab:3"}}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "x"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for person, want := range map[string]int64{"dora": 3, "Dora": 3, "3": 3, "gitlab:3": 3} {
		e, ok, err := a.Explain(t.Context(), person, authz.Question{Namespace: "haw-world", Verb: "get", Resource: "pods"})
		if err != nil || !ok || e.UserID != want || e.Trail == nil || len(e.Bindings) != 1 || e.Bindings[0].Name != "by-hand" {
			t.Errorf("%s: %v %v %+v", person, err, ok, e)
		}
	}
	if _, ok, err := a.Explain(t.Context(), "<script>", authz.Question{Namespace: "haw-world", Verb: "get", Resource: "pods"}); ok || err != nil {
		t.Errorf("nobody: %v %v", ok, err)
	}
	a.o.View = func() (authz.View, bool) { return authz.View{}, false }
	if _, err := a.Search("x", 1); !errors.Is(err, people.ErrUnread) {
		t.Errorf("nothing was read: %v", err)
	}
}

// TestThePageAsksGitLab goes the whole way of an administrator: sign-in, look, approve; and what is left of it when GitLab demotes or
// blocks them, or is away.
func TestThePageAsksGitLab(t *testing.T) {
	var site http.Handler
	page := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { site.ServeHTTP(w, r) }))
	defer page.Close()
	sim, err := gitlabsim.New(gitlabsim.Options{Seed: fmt.Appendf(nil, `
users: [{id: 1, username: root, admin: true}, {id: 2, username: boss, password: boss-pw, admin: true}]
applications: [{uid: web, secret: gloas-x, confidential: true, redirectURIs: ["%s/signin/callback"], scopes: [openid, profile]}]
`, page.URL)})
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	token, client := sim.TokenFor("root", "read_api"), sim.Client()
	defer client.CloseIdleConnections()
	a, _ := newTestAdmin(t)
	a.o.Now, a.now = time.Now, time.Now
	a.gitlab, err = gitlab.NewReader(gitlab.Options{BaseURL: sim.URL(), HTTPClient: client, Token: func() (string, error) { return token, nil }, NoPacing: true})
	if err != nil {
		t.Fatal(err)
	}
	if site, err = web.New(web.Options{
		URL: page.URL, GitLabURL: sim.URL(), ClientID: "web", ClientSecret: func() (string, error) { return "gloas-x", nil }, HTTPClient: client, Admin: a,
		Keys:   func() ([][]byte, error) { return [][]byte{make([]byte, 32)}, nil },
		People: people.New(people.Options{View: a.o.View, GitLabURL: sim.URL(), Now: time.Now}), Language: "en", Now: time.Now, Logger: slog.New(slog.DiscardHandler),
		UserState: func(int64) (string, bool) { return "active", true },
	}); err != nil {
		t.Fatal(err)
	}
	item := rbacsync.Item{Scope: authz.GroupID(7), Cause: authz.UserID(3), Source: authz.ProjectID(20), User: 3, Role: "edit", Why: "too many"}
	if err := a.o.Held.Save(t.Context(), []rbacsync.Item{item}); err != nil {
		t.Fatal(err)
	}
	browser := page.Client()
	browser.Jar, _ = cookiejar.New(nil)
	browser.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	csrf := ""
	visit := func(status int, text, path string, form url.Values) *http.Response {
		t.Helper()
		if !strings.Contains(path, "://") {
			path = page.URL + path
		}
		method, body := http.MethodGet, ""
		if form != nil {
			method, body = http.MethodPost, form.Encode()
		}
		r, err := http.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		resp, err := browser.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != status || !strings.Contains(string(got), text) {
			t.Fatalf("%s %s: %d, want %d and %q: %v %s", method, path, resp.StatusCode, status, text, err, got)
		}
		if _, rest, ok := strings.Cut(string(got), `name="csrf" value="`); ok {
			csrf, _, _ = strings.Cut(rest, `"`)
		}
		return resp
	}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	const noPage, away = "There is no such page", "GitLab does not say who you are now"
	visit(http.StatusNotFound, noPage, "/admin", nil)
	begin := visit(http.StatusSeeOther, "", "/signin?to=/admin", nil)
	back, err := gitlabsim.Login(t.Context(), client, begin.Header.Get("Location"), "boss", "boss-pw")
	ok(err)
	visit(http.StatusSeeOther, "", back, nil)
	visit(http.StatusOK, "There is no status yet", "/admin", nil)
	held := "/admin/held/" + rbacsync.HashOf([]rbacsync.Item{item})
	visit(http.StatusOK, "Approve and let it happen", held, nil)
	form := url.Values{"csrf": {csrf}}

	ok(sim.World().SetUserFlags(2, false, false)) // between the form and its way back
	visit(http.StatusNotFound, noPage, held, form)
	visit(http.StatusNotFound, noPage, "/admin", nil)
	ok(sim.World().SetUserFlags(2, true, false))
	ok(sim.World().SetUserState(2, gitlabsim.StateBlocked))
	visit(http.StatusNotFound, noPage, held, form)
	ok(sim.World().SetUserState(2, gitlabsim.StateActive))
	sim.SetFaults(gitlabsim.Faults{Down: true})
	visit(http.StatusServiceUnavailable, away, held, form)
	visit(http.StatusServiceUnavailable, away, "/admin", nil)
	if approved, err := a.o.Held.Approvals(t.Context()); err != nil || len(approved) > 0 {
		t.Fatalf("approved: %v, %v", approved, err)
	}
	sim.SetFaults(gitlabsim.Faults{})
	visit(http.StatusSeeOther, "", held, form)
	if approved, err := a.o.Held.Approvals(t.Context()); err != nil || !maps.Equal(approved, map[string]string{item.Key(): "gitlab:2"}) {
		t.Errorf("approved: %v, %v", approved, err)
	}
	visit(http.StatusOK, "approved by", held, nil)
	visit(http.StatusConflict, "approved already", held, form)
}
