package gitlabsim

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(browserEnv) != "" {
		os.Exit(browserMain())
	}
	goleak.VerifyTestMain(m)
}

var start = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// clock is a clock that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.t }
func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// testKeys are shared by all servers of the test run: making RSA keys is slow.
var testKeys = sync.OnceValue(func() [2]*rsa.PrivateKey {
	var out [2]*rsa.PrivateKey
	for i := range out {
		out[i], _ = rsa.GenerateKey(rand.Reader, 2048)
	}
	return out
})

const testSeed = `
users:
- {id: 1, username: root, name: Administrator, email: root@example.com, password: root-pw, admin: true}
- {id: 41, username: alice, name: "Alice <b>A</b>", password: alice-pw}
- {id: 42, username: bob, password: bob-pw}
- {id: 43, username: mallory, password: mallory-pw, state: blocked}
- {id: 44, username: project_20_bot_abc, type: PROJECT_BOT}
groups:
- {id: 7, path: acme, members: {root: owner, alice: maintainer}}
- {id: 8, path: acme/platform, members: {bob: {role: Developer, expires: "2027-01-31"}}}
- {id: 9, path: open, visibility: public, members: {bob: owner}}
- {id: 10, path: guests, members: {mallory: developer}, invitedGroups: [{group: open, role: reporter}]}
projects:
- {id: 20, path: acme/platform/api, protectedBranches: [main], files: {main: {.gitlab-ci.yml: "deploy: {}"}}, invitedGroups: [{group: guests, role: maintainer}]}
- {id: 21, path: alice/notes, visibility: internal}
- {id: 22, path: open/site, visibility: public}
applications:
- uid: kubectl
  redirectURIs: ["http://localhost:8000", "http://localhost:18000", "urn:ietf:wg:oauth:2.0:oob", "http://127.0.0.1/cb"]
  scopes: [openid, email]
- {uid: web, secret: gloas-x, confidential: true, redirectURIs: ["https://web.example.com/cb"], scopes: [openid, read_api, api]}
tokens:
- {name: sync, token: glpat-admin, user: root, scopes: [api]}
- {token: glpat-alice, user: alice, scopes: [api]}
- {token: glpat-alice-read, user: alice, scopes: [read_api]}
- {token: glpat-bob, user: bob, scopes: [api]}
- {token: glpat-mallory, user: mallory, scopes: [api]}
`

type fixture struct {
	*Server
	t      *testing.T
	clock  *clock
	client *http.Client
}

func newFixture(t *testing.T, change func(*Options)) *fixture {
	t.Helper()
	c := &clock{t: start}
	keys := testKeys()
	opts := Options{Seed: []byte(testSeed), Now: c.now, UserKey: keys[0], CIKey: keys[1]}
	if change != nil {
		change(&opts)
	}
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	client := s.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	t.Cleanup(func() { client.CloseIdleConnections(); s.Close() })
	return &fixture{Server: s, t: t, clock: c, client: client}
}

type response struct {
	status int
	header http.Header
	body   string
}

// do sends a request; body may be nil, url.Values or something for JSON.
func (f *fixture) do(method, path, token string, body any) response {
	f.t.Helper()
	res, err := f.try(method, path, token, body)
	if err != nil {
		f.t.Fatalf("%s %s: %v", method, path, err)
	}
	return res
}

func (f *fixture) try(method, path, token string, body any) (response, error) {
	f.t.Helper()
	var r io.Reader
	kind := ""
	switch b := body.(type) {
	case nil:
	case url.Values:
		r, kind = strings.NewReader(b.Encode()), "application/x-www-form-urlencoded"
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			f.t.Fatal(err)
		}
		r, kind = bytes.NewReader(raw), "application/json"
	}
	if strings.HasPrefix(path, "/") {
		path = f.URL() + path
	}
	req, err := http.NewRequestWithContext(f.t.Context(), method, path, r)
	if err != nil {
		f.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("PRIVATE-TOKEN", token)
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	res, err := f.client.Do(req)
	if err != nil {
		return response{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return response{res.StatusCode, res.Header, string(b)}, err
}

// want checks status and exact body.
func (f *fixture) want(res response, status int, body string) {
	f.t.Helper()
	if res.status != status || res.body != body {
		f.t.Errorf("got %d %s\nwant %d %s", res.status, res.body, status, body)
	}
}

func decode[T any](t *testing.T, res response) T {
	t.Helper()
	var out T
	if err := json.Unmarshal([]byte(res.body), &out); err != nil {
		t.Fatalf("%d %s: %v", res.status, res.body, err)
	}
	return out
}

// column returns one field of each row as text.
func column(t *testing.T, res response, key string) []string {
	t.Helper()
	out := []string{}
	for _, row := range decode[[]map[string]any](t, res) {
		b, _ := json.Marshal(row[key])
		out = append(out, strings.Trim(string(b), `"`))
	}
	return out
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func TestListenOnLoopbackOnly(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":0", "[::]:0", "example.com:0"} {
		if s, err := New(Options{Listen: addr}); err == nil {
			s.Close()
			t.Errorf("New listens on %q", addr)
		} else if !strings.Contains(err.Error(), "loopback only") {
			t.Errorf("New(%q): %v", addr, err)
		}
	}
}

func TestDownComesBackOnTheSamePort(t *testing.T) {
	f := newFixture(t, nil)
	f.do("GET", "/api/v4/version", "glpat-bob", nil) // leaves an open connection behind
	f.SetFaults(Faults{Down: true})
	for range 3 {
		if res, err := f.try("GET", "/api/v4/version", "glpat-bob", nil); err == nil {
			t.Fatalf("down, but answers %d", res.status)
		}
	}
	f.SetFaults(Faults{})
	f.want(f.do("GET", "/api/v4/version", "glpat-bob", nil), 200, `{"revision":"51a2bd6","version":"19.1.0-ee"}`)
}

func TestFaultRules(t *testing.T) {
	f := newFixture(t, nil)
	f.SetFaults(Faults{Rules: []FaultRule{
		{PathPrefix: "/api/v4/groups/7", Status: 502, Body: "bad gateway", Count: 2},
		{PathPrefix: "/api/v4/projects", TruncateBody: true, Count: 1},
		{Method: "POST", PathPrefix: "/api/v4/projects/20/variables", LoseAnswer: true, Count: 1},
		{PathPrefix: "/api/v4/users", Close: true, Count: 1},
	}})
	f.want(f.do("GET", "/api/v4/groups/7", "glpat-admin", nil), 502, "bad gateway")
	equal(t, "another group", f.do("GET", "/api/v4/groups/9", "glpat-admin", nil).status, 200)
	f.want(f.do("GET", "/api/v4/groups/7", "glpat-admin", nil), 502, "bad gateway")
	equal(t, "third time", f.do("GET", "/api/v4/groups/7", "glpat-admin", nil).status, 200)
	if res, err := f.try("GET", "/api/v4/projects", "glpat-admin", nil); err == nil || res.status != 200 || len(res.body) == 0 {
		t.Errorf("truncated: status %d, %d bytes, error %v", res.status, len(res.body), err)
	}
	if _, err := f.try("GET", "/api/v4/users", "glpat-admin", nil); err == nil {
		t.Error("closed connection gave an answer")
	}
	if _, err := f.try("POST", "/api/v4/projects/20/variables", "glpat-admin", map[string]any{"key": "K", "value": "v"}); err == nil {
		t.Error("lost answer arrived")
	}
	// The work was done all the same.
	equal(t, "variables", column(t, f.do("GET", "/api/v4/projects/20/variables", "glpat-admin", nil), "key"), []string{"K"})
	f.SetFaults(Faults{Latency: 50 * time.Millisecond})
	began := time.Now()
	f.do("GET", "/api/v4/version", "glpat-bob", nil)
	if d := time.Since(began); d < 50*time.Millisecond {
		t.Errorf("latency not applied: %v", d)
	}
}

func TestCloseEndsWaitingRequests(t *testing.T) {
	f := newFixture(t, nil)
	f.SetFaults(Faults{Latency: time.Hour})
	done := make(chan error, 1)
	go func() {
		_, err := f.try("GET", "/api/v4/version", "glpat-bob", nil)
		done <- err
	}()
	for f.Requests()["GET /version"] == 0 {
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	f.Close()
	if err := <-done; err == nil {
		t.Error("a waiting request was answered after Close")
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("Close took %v", d)
	}
}

func TestRequestsAreCountedByKind(t *testing.T) {
	f := newFixture(t, nil)
	f.do("GET", "/api/v4/groups/7/members/all", "glpat-admin", nil)
	f.do("GET", "/api/v4/groups/acme%2Fplatform/members/all?page=2", "glpat-admin", nil)
	f.do("GET", "/oauth/discovery/keys", "", nil)
	f.do("GET", "/nowhere", "", nil)
	equal(t, "Requests", f.Requests(), map[string]int{"GET /groups/:id/members/all": 2, "GET /oauth/discovery/keys": 1, "unknown": 1})
}

func TestApplicationRateLimits(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.RateLimits = DefaultRateLimits() })
	const body = `{"message":{"error":"This endpoint has been requested too many times. Try again later."}}`
	for i := range 200 {
		path := "/api/v4/groups/7/members/all"
		if i%2 == 1 {
			path = "/api/v4/projects/20/members/all" // one limit for both
		}
		if res := f.do("GET", path, "glpat-admin", nil); res.status != 200 {
			t.Fatalf("request %d: %d", i, res.status)
		}
	}
	res := f.do("GET", "/api/v4/groups/7/members/all", "glpat-admin", nil)
	f.want(res, 429, body)
	if res.header.Get("Retry-After") != "" || res.header.Get("RateLimit-Limit") != "" {
		t.Errorf("an application limit says nothing in headers, got %v", res.header)
	}
	equal(t, "another user", f.do("GET", "/api/v4/groups/7/members/all", "glpat-alice", nil).status, 200)
	f.clock.add(time.Minute)
	equal(t, "next minute", f.do("GET", "/api/v4/groups/7/members/all", "glpat-admin", nil).status, 200)
	f.SetRateLimits(DefaultRateLimits())
	var alice string
	f.World().View(func(v *View) { alice = fmt.Sprintf("/api/v4/users/%d", v.UserByName("alice").ID) })
	for i := range 300 {
		if res := f.do("GET", alice, "glpat-admin", nil); res.status != 200 {
			t.Fatalf("account %d: %d", i, res.status)
		}
	}
	f.want(f.do("GET", "/api/v4/users/9999", "glpat-admin", nil), 429, body)
	f.clock.add(10 * time.Minute)
	equal(t, "ten minutes later", f.do("GET", alice, "glpat-admin", nil).status, 200)
	f.SetRateLimits(RateLimits{"groups_api_limit": {Requests: 1, Period: time.Minute}})
	f.do("GET", "/api/v4/groups", "glpat-admin", nil)
	f.want(f.do("GET", "/api/v4/groups", "glpat-admin", nil), 429, body)
	f.SetRateLimits(nil)
	equal(t, "off", f.do("GET", "/api/v4/groups", "glpat-admin", nil).status, 200)
}

func TestSeedErrors(t *testing.T) {
	for name, c := range map[string]struct {
		seed string
		want []string
	}{
		"unknown key": {"users:\n- {username: a, isAdmin: true}", []string{`unknown field "users[0].isAdmin"`}},
		"wrong case":  {"Users:\n- {username: a}", []string{`unknown field "Users"`}},
		"twice":       {"users: []\nusers: []", []string{`key "users" already set`}},
		"member key":  {"users: [{username: a}]\ngroups: [{path: g, members: {a: {role: owner, until: x}}}]", []string{`unknown field "until"`}},
		"state":       {"users: [{username: a, state: asleep}]", []string{`users[0].state: "asleep" is no user state`}},
		"all at once": {
			"users: [{username: a}, {username: A}]\ngroups: [{path: x/y}, {path: g, members: {zoe: owner, a: boss}, invitedGroups: [{group: nothere, role: guest, expires: soon}]}]\n" +
				"projects: [{path: nobody/p}]\napplications: [{uid: u}]\ntokens: [{token: t, user: zoe, scopes: [api]}]\nsystemHooks: [{url: 'ftp://x'}]",
			[]string{
				`users[1] "A": GitLab answers 409: Username has already been taken`,
				`groups[0].path "x/y": no group "x" in the seed`,
				`groups[1].members.zoe: no such user in the seed`,
				`groups[1].members.a: "boss" is no role`,
				`groups[1].invitedGroups[0].expires: "soon" is no date`,
				`groups[1].invitedGroups[0].group: no group "nothere" in the seed`,
				`projects[0].path "nobody/p": no group or user "nobody" in the seed`,
				`applications[0]: an application needs uid and redirectURIs`,
				`tokens[0]: user "zoe": no such user`,
				`systemHooks[0]: GitLab answers 400`,
			},
		},
		"id taken":      {"users: [{id: 3, username: a}, {id: 3, username: b}]", []string{`users[1] "b": GitLab answers 409: ID 3 has already been taken`}},
		"hostile path":  {"groups: [{path: 'a b'}]", []string{`can contain only letters, digits`}},
		"unknown scope": {"users: [{username: a}]\ntokens: [{token: t, user: a, scopes: [groups]}]", []string{`GitLab knows no such scope`}},
	} {
		t.Run(name, func(t *testing.T) {
			keys := testKeys()
			s, err := New(Options{Seed: []byte(c.seed), UserKey: keys[0], CIKey: keys[1]})
			if err == nil {
				s.Close()
				t.Fatal("no error")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error lacks %q:\n%v", w, err)
				}
			}
		})
	}
}

func TestSeedIdsWithoutAFixedOneComeAfterTheFixed(t *testing.T) {
	w := NewWorld(func() time.Time { return start })
	seed, err := ParseSeed([]byte("users: [{username: a}, {id: 5, username: b}]\ngroups: [{path: g}, {id: 30, path: h}]"))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Load(seed); err != nil {
		t.Fatal(err)
	}
	w.View(func(v *View) {
		equal(t, "a", v.UserByName("a").ID, int64(6))
		equal(t, "b", v.UserByName("B").ID, int64(5))
		equal(t, "h", v.GroupByPath("h").ID, int64(30))
		if id := v.GroupByPath("g").ID; id <= 30 {
			t.Errorf("g has id %d", id)
		}
	})
}

func TestNamesAreOneNameSpaceAndFreedByRename(t *testing.T) {
	w := NewWorld(func() time.Time { return start })
	alice, _ := w.AddUser(User{Username: "alice"})
	if _, err := w.AddGroup(Group{Path: "Alice"}); err == nil {
		t.Error("a group took the name of a user")
	}
	if err := w.RenameUser(alice, "alicia"); err != nil {
		t.Fatal(err)
	}
	group, err := w.AddGroup(Group{Path: "alice"})
	if err != nil {
		t.Fatalf("a freed name is not free: %v", err)
	}
	sub, _ := w.AddGroup(Group{ParentID: group, Path: "sub"})
	p, _ := w.AddProject(Project{NamespaceID: sub, Path: "p"})
	if err := w.RenameGroup(group, "bought", ""); err != nil {
		t.Fatal(err)
	}
	w.View(func(v *View) {
		equal(t, "path", v.ProjectPath(v.Project(p)), "bought/sub/p")
		equal(t, "by new path", v.ProjectByPath("BOUGHT/sub/p"), v.Project(p))
		if v.ProjectByPath("alice/sub/p") != nil {
			t.Error("the old path still works")
		}
	})
	if err := w.TransferGroup(group, sub); err == nil {
		t.Error("a group was moved below itself")
	}
}

func (f *fixture) flush() {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 10*time.Second)
	defer cancel()
	if err := f.FlushHooks(ctx); err != nil {
		f.t.Fatal(err)
	}
}

func sortedKeys[V any](m map[string]V) []string {
	out := []string{}
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
