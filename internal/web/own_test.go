package web_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/explain"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/web"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

// Can implements web.People: it answers with what was asked.
func (p *fakePeople) Can(_ int64, q authz.Question) (webapi.Can, error) {
	if p.err != nil {
		return webapi.Can{}, p.err
	}
	return webapi.Can{
		Allowed: map[bool]string{true: "yes", false: "no"}[q.Verb == "list"],
		Reason:  strings.Join([]string{q.Namespace, q.Verb, q.Group, q.Resource, q.Subresource}, "|"),
		Trail:   []string{"Developer in <haw>, inherited"}, Ask: []string{"bob", "<script>"},
	}, nil
}

// Changes implements web.People.
func (p *fakePeople) Changes(ctx context.Context, user int64, since time.Time) ([]webapi.Change, error) {
	if user == 42 {
		return nil, people.ErrNoHistory
	}
	if p.changes != nil {
		return nil, p.changes(ctx)
	}
	var out []webapi.Change
	for i := range 120 {
		at := time.Now().Add(-time.Duration(i) * 24 * time.Hour)
		if at.After(since) {
			out = append(out, webapi.Change{At: at, Namespace: "ns-" + strconv.Itoa(i), Role: "<b>edit</b>", What: []string{"gained", "lost"}[i%2], Cause: "hook user_add_to_team, poll", Why: "Developer in <i>"})
		}
	}
	return out, nil
}

// CI implements web.People.
func (p *fakePeople) CI(user int64, project string) (webapi.CI, error) {
	for _, n := range p.all[user] {
		if n.CI != nil && strconv.FormatInt(n.CI.Project, 10) == project {
			return *n.CI, nil
		}
	}
	return webapi.CI{}, people.ErrNoProject
}

// has checks what is in a page and what is not (with "!" before it).
func (a answer) has(t *testing.T, status int, parts ...string) {
	t.Helper()
	if a.status != status {
		t.Errorf("HTTP %d, want %d: %s", a.status, status, a.body)
	}
	for _, p := range parts {
		text, not := strings.CutPrefix(p, "!")
		if strings.Contains(a.body, text) == not {
			t.Errorf("%q in the page is %v:\n%s", text, not, a.body)
		}
	}
}

// TestWhyPage: a question in people's words becomes one of Kubernetes', a message of kubectl too; what is answered is escaped.
func TestWhyPage(t *testing.T) {
	f := newFixture(t, nil)
	b := f.browser()
	b.get("/why").has(t, http.StatusUnauthorized)
	b.signIn("/why", "alice", "alice-pw")
	b.get("/why").has(t, http.StatusOK, `<option value="haw-world">`, "!id=\"answer\"")
	for asked, want := range map[string]string{
		"namespace=x&verb=list&resource=pods":                   "x|list||pods|",
		"namespace=x&verb=get&resource=Deploy":                  "x|get|apps|deployments|",
		"namespace=x&verb=get&resource=ingress":                 "x|get|networking.k8s.io|ingresses|",
		"namespace=x&verb=get&resource=networkpolicy":           "x|get|networking.k8s.io|networkpolicies|",
		"namespace=x&verb=logs&resource=po":                     "x|get||pods|log",
		"namespace=x&verb=exec&resource=pod":                    "x|create||pods|exec",
		"namespace=x&verb=scale&resource=deployments.apps":      "x|patch|apps|deployments|scale",
		"namespace=&verb=list&resource=nodes":                   "|list||nodes|",
		"namespace=x&verb=get&resource=pods/status":             "x|get||pods|status",
		"namespace=x&verb=create&resource=certificates.cert.io": "x|create|cert.io|certificates|",
		"namespace=x&verb=get&resource=widgets":                 "x|get||widgets|",
		"message=" + url.QueryEscape(`Error from server (Forbidden): deployments.apps is forbidden: User "gitlab:41" cannot list resource "deployments" in API group "apps" in the namespace "haw": GitLab says`): "haw|list|apps|deployments|",
		"message=" + url.QueryEscape(`User "gitlab:41" cannot create resource "pods/exec" in API group "" in the namespace "haw"`):                                                                                "haw|create||pods|exec",
		"message=" + url.QueryEscape(`User "gitlab:41" cannot list resource "nodes" in API group "" at the cluster scope`):                                                                                        "|list||nodes|",
	} {
		b.get("/why?"+asked).has(t, http.StatusOK, ">"+want+"<", "Developer in &lt;haw&gt;, inherited", "bob, &lt;script&gt;", "!<haw>", "!, <script>")
	}
	b.get("/why?message=hello").has(t, http.StatusOK, "says nothing that can be explained", "!id=\"answer\"")
	b.get("/why?message="+url.QueryEscape("error: You must be logged in to the server (Unauthorized)")).has(t, http.StatusOK, "about a login", `href="/refused"`, "!id=\"answer\"")
	b.get("/why?verb=get&resource="+url.QueryEscape(`"><script>alert(1)</script>`)).has(t, http.StatusOK, "!<script>alert")
	b.get("/why?verb=get&resource=pods", "Accept-Language", "de").has(t, http.StatusOK, "Warum darf ich nicht", ">nein<")
	f.people.mu.Lock()
	f.people.err = people.ErrUnread
	f.people.mu.Unlock()
	b.get("/why").has(t, http.StatusOK)
	b.get("/why?verb=get&resource=pods").has(t, http.StatusServiceUnavailable, "GitLab has not been read yet")
}

// TestCIPages: of each project in each delivery the job that docs/ci.md shows, with its own environment and audience.
func TestCIPages(t *testing.T) {
	f := newFixture(t, func(o *web.Options) { o.CIAudience = func() string { return "https://k8s.example.com" } })
	at := time.Date(2026, 12, 27, 0, 0, 0, 0, time.UTC)
	for i, delivery := range []string{"variables", "id-token", "agent", "certificate", "none"} {
		ci := &webapi.CI{Project: int64(100 + i), Path: "haw/" + delivery, Namespace: "haw-" + delivery, Delivery: delivery, Environment: "ICC-K8s", Outcome: "delivered", Good: &at, At: &at}
		if delivery == "certificate" {
			ci.Outcome, ci.Why, ci.Environment, ci.Good = "failed", "because <script>", "it's: <script>", nil
		}
		f.people.all[41] = append(f.people.all[41], webapi.Namespace{Name: ci.Namespace, Roles: []string{"edit"}, CI: ci})
	}
	b := f.browser()
	b.get("/ci").has(t, http.StatusUnauthorized)
	b.signIn("/ci", "alice", "alice-pw")
	b.get("/ci").has(t, http.StatusOK, `href="/ci/100"`, "27 Dec 2026", "haw/none", "!haw/world")
	page, err := os.ReadFile("../../docs/ci.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml ci\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	for id, want := range map[string]string{"100": blocks[0][1], "101": blocks[1][1], "102": blocks[0][1]} {
		if !strings.Contains(want, "\n  image: ") {
			t.Errorf("docs/ci.md shows a job without an image: %s", want)
		}
		b.get("/ci/"+id).has(t, http.StatusOK, strings.ReplaceAll(want, "'", "&#39;"), "27 Dec 2026", "delivered")
	}
	b.get("/ci/103").has(t, http.StatusOK, "    name: &#39;it&#39;&#39;s: &lt;script&gt;&#39;", "because &lt;script&gt;", "no end of their own", "!<script>a", "!because <script>")
	b.get("/ci/104").has(t, http.StatusOK, "No job of this project gets credentials", "!<pre")
	b.get("/ci/999").has(t, http.StatusNotFound, "This project is not yours")
	b.get("/ci/%3Cscript%3E").has(t, http.StatusNotFound, "This project is not yours")
	bob := f.browser()
	bob.signIn("/ci", "bob", "bob-pw")
	bob.get("/ci/100").has(t, http.StatusNotFound, "This project is not yours")
	bob.get("/ci").has(t, http.StatusOK, "You have no project that deploys here")
}

// TestSnippetIsYAML: whatever the environment is called, the job names exactly it.
func TestSnippetIsYAML(t *testing.T) {
	for env, want := range map[string]string{
		"ICC-K8s": "ICC-K8s", "review/x": "review/x", "no": "'no'", "a: b": "'a: b'", "it's": "'it''s'", "1.0": "'1.0'", "x #y": "'x #y'", "a\nb": "'a\nb'",
	} {
		text := web.Snippet(webapi.CI{Delivery: "variables", Environment: env}, "")
		if !strings.Contains(text, "\n    name: "+want+"\n") {
			t.Errorf("%q: %s", env, text)
		}
	}
	if text := web.Snippet(webapi.CI{Delivery: "id-token", Environment: "x"}, "https://other.example.com:8443"); !strings.Contains(text, "\n      aud: https://other.example.com:8443\n") {
		t.Errorf("audience: %s", text)
	}
}

// TestChangesPage: the last changes of one's rights, in pages; a span of the person's choice.
func TestChangesPage(t *testing.T) {
	f := newFixture(t, nil)
	b := f.browser()
	b.get("/changes").has(t, http.StatusUnauthorized)
	b.signIn("/changes", "alice", "alice-pw")
	b.get("/changes").has(t, http.StatusOK, "ns-0<", "ns-29<", "!ns-31<", "+ &lt;b&gt;edit", "a change in GitLab", "Developer in &lt;i&gt;", "!<b>edit")
	b.get("/changes?days=90").has(t, http.StatusOK, "ns-49<", "!ns-50<", "days=90&amp;page=2")
	b.get("/changes?days=90&page=2").has(t, http.StatusOK, "ns-50<")
	b.get("/changes?days=99999999").has(t, http.StatusOK, "!ns-31<")
	bob := f.browser()
	bob.signIn("/changes", "bob", "bob-pw")
	bob.get("/changes").has(t, http.StatusOK, "There is no history")
}

// TestNoChangesNow: what passes by itself is said as such, with a way to try again. Whoever has left gets no answer, and leaves no line.
func TestNoChangesNow(t *testing.T) {
	f := newFixture(t, nil)
	b := signedIn(t, f)
	for _, c := range []struct {
		err   error
		words map[string]string
	}{
		{people.ErrHistoryBusy, map[string]string{"en": "The history can not be shown now", "de": "Der Verlauf kann gerade nicht gezeigt werden"}},
		{fmt.Errorf("reading a Secret: %w", context.DeadlineExceeded), map[string]string{"en": "This took too long", "de": "Das hat zu lange gedauert"}},
	} {
		for lang, words := range c.words {
			f.clock.add(time.Minute) // of the lines of a second, one is in the log
			f.people.changes = func(context.Context) error { return c.err }
			a := b.get("/changes?days=90", "Accept-Language", lang)
			a.has(t, http.StatusServiceUnavailable, "<h1>"+words+"</h1>", `href="/changes?days=90"`, "!"+c.err.Error())
			checkHTML(t, lang, lang, a.body)
		}
		if !strings.Contains(f.logged(), "level=WARN") || !strings.Contains(f.logged(), c.err.Error()) || strings.Contains(f.logged(), "level=ERROR") {
			t.Errorf("the log: %s", f.logged())
		}
	}
	ctx, leave := context.WithCancel(t.Context())
	f.people.changes = func(ctx context.Context) error {
		leave()
		<-ctx.Done()
		return fmt.Errorf("aborted: %w", ctx.Err())
	}
	f.clock.add(time.Minute)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, f.page.URL+"/changes", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := b.Do(r); err == nil {
		resp.Body.Close()
		t.Errorf("they got %s", resp.Status)
	}
	f.page.Close() // waits for the request
	if strings.Contains(f.logged(), "aborted") {
		t.Errorf("the log: %s", f.logged())
	}
}

// TestLinesHideNoOthers: a person who causes lines of one kind all the time hides none of another, and has no line for each request.
func TestLinesHideNoOthers(t *testing.T) {
	f := newFixture(t, slowly)
	b, bob := signedIn(t, f), f.browser()
	f.clock.add(time.Minute)
	f.people.changes = func(context.Context) error { return people.ErrHistoryBusy }
	b.get("/changes")
	f.people.changes = func(context.Context) error { return errors.New("a Secret is damaged") }
	for range 10 {
		b.get("/changes")
	}
	bob.signIn("/", "bob", "bob-pw")
	for line, want := range map[string]int{"a Secret is damaged": 1, people.ErrHistoryBusy.Error(): 1, `event="too many requests of one person" user=41`: 1, `event="signed in" user=42`: 1} {
		if n := strings.Count(f.logged(), line); n != want {
			t.Errorf("%q is in the log %d times, want %d:\n%s", line, n, want, f.logged())
		}
	}
}

// fakeAdmin is what administrators see, of which tests change what they need.
type fakeAdmin struct {
	is       func(user int64) (bool, error)
	asked    int
	held     []web.HeldPart
	approved map[string]int64
	err      error
}

func (a *fakeAdmin) Is(_ context.Context, user int64) (bool, error) {
	a.asked++
	return a.is(user)
}

func (a *fakeAdmin) Status(context.Context) (web.AdminStatus, error) {
	at := time.Date(2026, 11, 29, 1, 0, 0, 0, time.UTC)
	return web.AdminStatus{
		Mode: "enforce", Leader: "pod-<script>", Written: at, Read: at, Held: 2, Failing: "rounds: <script>", Since: at,
		Round: web.AdminRound{Cause: "hook", Started: at, Duration: "1.2s", Namespaces: 7, Planned: 3, Applied: 3},
		Findings: []web.AdminFinding{
			{Code: "held", Text: "12 changes of <script> are held", Says: "changes are held back", Do: "`plan --held`, then `approve`: <see> docs/held.md", Count: 2},
			{Code: "newer", Text: "of another version"},
		},
		More: 3, Sources: []web.Amount{{Name: "groups", Value: "4"}}, Staleness: []web.Amount{{Name: "everything", Value: "2m0s"}},
		Keys: web.AdminKeys{Keys: 2, Fetched: at, Failures: 1}, Hooks: web.AdminHooks{Count: 9, Last: at, Median: "80ms", Slowest: "1s"}, Login: at,
		Ends:   []web.AdminEnd{{What: "listeners.web.certFile", At: at.AddDate(0, 0, 3), Soon: true}},
		Budget: []web.AdminBudget{{Kind: "user", Requests: 40, Limit: 30, Share: "12 %"}, {Kind: "graphql", Requests: 7}},
	}, a.err
}

func (a *fakeAdmin) Held(context.Context) ([]web.HeldPart, error) { return a.held, a.err }

func (a *fakeAdmin) Approve(_ context.Context, by int64, hash string) error {
	for _, p := range a.held {
		if p.Hash == hash {
			if _, twice := a.approved[hash]; twice {
				return web.ErrHeldApproved
			}
			a.approved[hash] = by
			return a.err
		}
	}
	return web.ErrHeldChanged
}

func (a *fakeAdmin) Search(string, int) (web.AdminFound, error) {
	return web.AdminFound{
		People:     []authz.User{{ID: 5, Username: "carol", Name: "Carol <script>", State: "blocked"}},
		Namespaces: []web.AdminPlace{{Name: "haw-world", Source: "project/20", Path: "haw/<script>"}}, MorePeople: 7,
	}, a.err
}

func (a *fakeAdmin) User(user int64, _, _ int) (web.AdminUser, bool, error) {
	return web.AdminUser{
		User:   authz.User{ID: user, Username: "carol", Name: "Carol <script>", State: "active", Human: true},
		Rights: []web.AdminRight{{Namespace: "haw-world", Path: "haw/<script>", Roles: []string{"edit", "extra"}, Lacks: []string{"extra"}, Reason: "Developer in <script>"}},
	}, user == 5, a.err
}

func (a *fakeAdmin) Namespace(name string) (web.AdminNamespace, bool, error) {
	return web.AdminNamespace{
		AdminPlace: web.AdminPlace{Name: name, Source: "project/20", Path: "haw/<script>"}, URL: "https://gitlab.example.com/haw/x",
		Holders: []web.AdminHolder{{User: authz.User{ID: 5, Username: "carol", Name: "<script>"}, Roles: []string{"edit"}, State: "held", Reason: "Owner in <script>"}},
	}, name == "haw-world", a.err
}

func (a *fakeAdmin) Explain(_ context.Context, user string, q authz.Question) (explain.Report, bool, error) {
	e := authz.Explanation{
		UserID: 5, Username: "carol", State: "active", Namespace: q.Namespace, Source: "project/20", Path: "haw/<script>", Request: q.Verb + " " + q.Resource, Allowed: authz.No,
		Sentence: "your role <script> does not allow it", Trail: &authz.Trail{Text: "Reporter in <script>"}, Near: []string{"Reporter of <script> is mapped to nothing"},
		Roles:    []authz.GivenRole{{ClusterRole: "view", Allows: authz.No, Why: "it is <script>", Extra: "authz.extra <script>"}},
		Remedies: []authz.Remedy{{Text: "be Developer in <script>", Who: []string{"<script>"}}}, Ask: []string{"<script>"},
		Kept: []authz.GivenRole{{ClusterRole: "admin", Allows: authz.Yes, Why: "kept <script>"}},
	}
	return explain.Report{
		Explanation: e, Bindings: []explain.Binding{{Name: "by-hand", Role: "Role <script>", Subject: "User gitlab:5", Allows: authz.Unknown}}, Differs: []string{"differs <script>"},
	}, user == "carol", a.err
}

const oneHash, otherHash = "0123456789abcdef", "fedcba9876543210"

// adminFixture has root as an administrator, as far as is says.
func adminFixture(t *testing.T, change ...func(*web.Options)) (*fixture, *fakeAdmin) {
	t.Helper()
	a := &fakeAdmin{approved: map[string]int64{}, is: func(user int64) (bool, error) { return user == 1, nil }, held: []web.HeldPart{
		{Hash: oneHash, Place: "group/7 <script>", Why: "more than 10 people", Lines: []web.HeldLine{
			{Source: "project/20", Path: "haw/<script>", User: 5, Name: "<script>", Role: "edit", Cause: "user/5"},
			{Source: "project/20", Path: "haw/x", Role: "edit", Cause: "group/7"},
			{New: true, Source: "project/21", Path: "haw/y", Cause: "user/5"},
		}, More: 4},
		{Hash: otherHash, Place: "the configuration", Why: "it takes much", Lines: []web.HeldLine{{Source: "project/20", Role: "edit", User: 5}}, Approved: "gitlab:9"},
	}}
	return newFixture(t, func(o *web.Options) {
		o.Admin = a
		for _, c := range change {
			c(o)
		}
	}), a
}

// adminPaths are all addresses for administrators.
var adminPaths = []string{"/admin", "/admin/findings", "/admin/held", "/admin/held/" + oneHash, "/admin/search?q=x", "/admin/people/5", "/admin/namespaces/haw-world", "/admin/explain?user=carol&verb=get&resource=pods"}

// TestAdminPages: administrators see each page, in both languages, and nothing of it is taken for markup.
func TestAdminPages(t *testing.T) {
	f, _ := adminFixture(t)
	b := f.browser()
	b.signIn("/admin", "root", "root-pw")
	for _, lang := range []string{"en", "de"} {
		for _, path := range adminPaths {
			a := b.get(path, "Accept-Language", lang)
			a.has(t, http.StatusOK, `lang="`+lang+`"`, `href="/admin"`, `href="/admin/held"`, `aria-current="page"`)
			if n := strings.Count(a.body, "<script"); n != 1 { // the page's own
				t.Errorf("%s has %d scripts:\n%s", path, n, a.body)
			}
			if ids := regexp.MustCompile(` id="([^"]*)"`).FindAllStringSubmatch(a.body, -1); len(ids) > 0 {
				seen := map[string]bool{}
				for _, id := range ids {
					if seen[id[1]] {
						t.Errorf("%s has two elements %s", path, id[1])
					}
					seen[id[1]] = true
				}
			}
		}
	}
	b.get("/admin").has(t, http.StatusOK, "does not work", "rounds: &lt;script&gt;", "listeners.web.certFile", "renew it", "12 %", "2 Dec 2026", "80ms")
	b.get("/admin/findings").has(t, http.StatusOK, "<code>plan --held</code>, then <code>approve</code>: &lt;see&gt;", "does not know this finding", "3 more have no text")
	b.get("/admin/held").has(t, http.StatusOK, "group/7 &lt;script&gt;", "Look at all 7 and decide", "approved by gitlab:9")
	b.get("/admin/held/"+oneHash).has(t, http.StatusOK, "(user 5) loses edit in project/20 haw/&lt;script&gt;", "CI loses edit in project/20 haw/x", "+ new namespace for project/21 haw/y", "And 4 more", "Approve and let it happen", "!the new configuration")
	b.get("/admin/held/"+otherHash).has(t, http.StatusOK, "approved by gitlab:9", "!Approve and let")
	b.get("/admin/search?q=x").has(t, http.StatusOK, `href="/admin/people/5"`, `href="/admin/namespaces/haw-world"`, "and 7 more")
	b.get("/admin/people/5").has(t, http.StatusOK, "extra is not in the cluster", `name="user" value="5"`)
	b.get("/admin/namespaces/haw-world").has(t, http.StatusOK, "held for review", "Owner in &lt;script&gt;", `name="namespace" value="haw-world"`)
	b.get("/admin/explain?user=carol&namespace=haw-world&verb=get&resource=pods").has(t, http.StatusOK, "be Developer in &lt;script&gt;", "Reporter of &lt;script&gt; is mapped to nothing", "<code>get pods</code>", "by-hand", "Role &lt;script&gt;", "differs &lt;script&gt;", "kept &lt;script&gt;")
	b.get("/admin/explain?user=nobody&verb=get&resource=pods").has(t, http.StatusOK, "There is no such person")
	for _, path := range []string{"/admin/people/6", "/admin/people/x", "/admin/namespaces/other"} {
		b.get(path).has(t, http.StatusNotFound, "There is no such page")
	}
}

// TestAdminPagesDoNotExistForOthers: whoever else asks, and however, is answered as for a path that there is none of, and makes nobody
// ask GitLab.
func TestAdminPagesDoNotExistForOthers(t *testing.T) {
	f, a := adminFixture(t, func(o *web.Options) { o.Burst = 1000 })
	alice, nobody, expired := f.browser(), f.browser(), f.browser()
	alice.signIn("/namespaces", "alice", "alice-pw")
	expired.signIn("/namespaces", "root", "root-pw")
	a.asked = 0
	alice.get("/namespaces").has(t, http.StatusOK, "!/admin")
	form := url.Values{"csrf": {alice.csrf}}
	mask := regexp.MustCompile(`(%2f|/|%2F)(admin[^"&]*|nothing-here)`)
	for who, b := range map[string]*browser{"alice": alice, "nobody": nobody} {
		for _, path := range adminPaths {
			for method, forms := range map[string][]url.Values{http.MethodGet: {nil}, http.MethodPost: {nil, form, {"csrf": {"x"}}}, http.MethodPut: {nil}} {
				for _, form := range forms {
					got, want := b.do(method, path, form), b.do(method, "/nothing-here", form)
					if got.status != want.status || mask.ReplaceAllString(got.body, "") != mask.ReplaceAllString(want.body, "") || len(got.header) != len(want.header) {
						t.Errorf("%s: %s %s is answered %d %v\n%s\nand a path that there is none of %d %v\n%s", who, method, path, got.status, got.header, got.body, want.status, want.header, want.body)
					}
				}
			}
		}
	}
	if a.asked != 0 || len(a.approved) > 0 {
		t.Errorf("GitLab was asked %d times, approved: %v", a.asked, a.approved)
	}
	f.clock.add(13 * time.Hour)
	expired.get("/admin").has(t, http.StatusNotFound, "There is no such page")
}

// TestAdminIsAskedAtEachUse: an administrator who is none any more, or of whom GitLab says nothing, sees nothing and changes nothing.
func TestAdminIsAskedAtEachUse(t *testing.T) {
	f, a := adminFixture(t)
	b := f.browser()
	b.signIn("/admin", "root", "root-pw")
	b.get("/admin/held/"+oneHash).has(t, http.StatusOK)
	form := url.Values{"csrf": {b.csrf}}

	a.is = func(int64) (bool, error) { return false, errors.New("GitLab is away") }
	for _, path := range adminPaths {
		b.get(path).has(t, http.StatusServiceUnavailable, "GitLab does not say who you are now", "!Carol", "!edit")
	}
	b.do(http.MethodPost, "/admin/held/"+oneHash, form).has(t, http.StatusServiceUnavailable, "GitLab does not say who you are now")
	b.get("/namespaces").has(t, http.StatusOK, `!href="/admin"`)

	a.is = func(int64) (bool, error) { return false, nil } // demoted between the form and its way back
	b.do(http.MethodPost, "/admin/held/"+oneHash, form).has(t, http.StatusNotFound, "There is no such page")
	b.get("/admin").has(t, http.StatusNotFound, "There is no such page")
	b.get("/namespaces").has(t, http.StatusOK, `!href="/admin"`)
	if len(a.approved) > 0 {
		t.Errorf("approved: %v", a.approved)
	}
	a.is = func(int64) (bool, error) { return true, nil }
	f.clock.add(2 * time.Minute) // the link follows within a minute, without asking at each page
	a.asked = 0
	for range 5 {
		b.get("/namespaces").has(t, http.StatusOK, `href="/admin"`)
	}
	if a.asked != 1 {
		t.Errorf("for a link GitLab was asked %d times", a.asked)
	}
}

// TestApprove: by the content that was shown, once, with the token of the session; who did it is in the log.
func TestApprove(t *testing.T) {
	f, a := adminFixture(t)
	b := f.browser()
	b.signIn("/admin", "root", "root-pw")
	b.get("/admin/held/" + oneHash)
	post := func(hash string, form url.Values, header ...string) answer {
		t.Helper()
		return b.do(http.MethodPost, "/admin/held/"+hash, form, header...)
	}
	good := url.Values{"csrf": {b.csrf}}
	post(oneHash, nil).has(t, http.StatusForbidden, "not sent from our page")
	post(oneHash, url.Values{"csrf": {"x"}}).has(t, http.StatusForbidden, "not sent from our page")
	post(oneHash, good, "Sec-Fetch-Site", "cross-site").has(t, http.StatusForbidden, "not sent from our page")
	for _, hash := range []string{"0000000000000000", "x", "0123456789ABCDEF", oneHash + "0", "%3Cscript%3E"} {
		post(hash, good).has(t, http.StatusConflict, "not held any more")
	}
	if len(a.approved) > 0 {
		t.Fatalf("approved: %v", a.approved)
	}
	if ans := post(oneHash, good); ans.status != http.StatusSeeOther || ans.location != "/admin/held?done=1" {
		t.Errorf("%d to %q %s", ans.status, ans.location, ans.body)
	}
	b.get("/admin/held?done=1").has(t, http.StatusOK, "Approved.")
	if a.approved[oneHash] != 1 || !strings.Contains(f.logged(), `msg="held changes approved on the page" user=1 hash=`+oneHash) {
		t.Errorf("approved: %v, log:\n%s", a.approved, f.logged())
	}
	post(oneHash, good).has(t, http.StatusConflict, "was approved already")
	part, rest := a.held[0], a.held[1:]
	part.Hash, part.Policy = "00112233445566aa", true
	// It has changed since it was shown, or was carried out.
	for _, now := range [][]web.HeldPart{append([]web.HeldPart{part}, rest...), rest} {
		a.held = now
		held := `href="/admin/held/` + now[0].Hash + `"` // what is held now
		b.get("/admin/held/"+oneHash).has(t, http.StatusConflict, "What is at this address is not held any more", "!Nothing was approved", held)
		post(oneHash, good).has(t, http.StatusConflict, "not held any more", "Nothing was approved", held)
	}
	if len(a.approved) != 1 {
		t.Errorf("approved: %v", a.approved)
	}
	a.held = []web.HeldPart{part}
	b.get("/admin/held/"+part.Hash).has(t, http.StatusOK, "Only what you see here is approved", "Whatever else the new configuration takes")
	a.err = errors.New("kube-apiserver is away")
	b.get("/admin/held").has(t, http.StatusInternalServerError, "Something went wrong here", "!kube-apiserver is away")
}
