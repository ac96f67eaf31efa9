package gitlab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// keeps fails unless everything that GitLab has is in the Snapshot, or is missing or untouchable there.
func (o *org) keeps(t *testing.T, got *authz.Snapshot) {
	t.Helper()
	if got.MissingAll != "" {
		return
	}
	want, untouchable := o.want(true), got.Incomplete()
	now := time.Now()
	check := func(id authz.SourceID) {
		if untouchable[id] != "" {
			return
		}
		if !got.Contains(id) {
			t.Errorf("%s is not in the Snapshot and not missing", id)
			return
		}
		have := authz.NewResolver(got, now).Members(id)
		for a := range authz.NewResolver(want, now).Members(id).All() {
			user := a.User
			u := got.Users[user]
			if have.Level(user) != a.Level || u.State != want.Users[user].State || u.Human != want.Users[user].Human {
				t.Errorf("%s: user %d has level %d, state %q, human %v; want %d, %q, %v", id, user, have.Level(user), u.State, u.Human, a.Level, want.Users[user].State, want.Users[user].Human)
			}
		}
	}
	for id := range want.Groups {
		check(authz.GroupID(id))
	}
	for id := range want.Projects {
		check(authz.ProjectID(id))
	}
}

// TestA404OfWhatAListNamedIsNoEnd: one 404 about something that a list has just named takes nothing away in a full
// reading, however often it is repeated.
func TestA404OfWhatAListNamedIsNoEnd(t *testing.T) {
	o := newOrg(t)
	world, app := authz.GroupID(o.id["world"]), authz.ProjectID(o.id["app"])
	is := func(r *http.Request, id authz.SourceID, more string) bool {
		return r.URL.Path == "/api/v4/"+sourcePath(id)+more
	}
	for _, tt := range []struct {
		name    string
		rest    bool
		strike  func(r *http.Request) bool
		missing authz.SourceID
	}{
		{name: "the group's links", missing: world, strike: func(r *http.Request) bool { return is(r, world, "") }},
		{name: "REST: the group", rest: true, missing: world, strike: func(r *http.Request) bool { return is(r, world, "") }},
		{name: "REST: its members", rest: true, missing: world, strike: func(r *http.Request) bool { return is(r, world, "/members") }},
		{name: "REST: the project's members", rest: true, missing: app, strike: func(r *http.Request) bool { return is(r, app, "/members") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := o.faultyReader(func(r *http.Request, _ string) *http.Response {
				if tt.strike(r) {
					return answer(404, `{"message":"404 Not found"}`)
				}
				return nil
			}, func(op *Options) { op.RESTOnly, op.PageSize = tt.rest, 3 })
			got, err := r.Snapshot(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			o.keeps(t, got)
			if got.Missing[tt.missing] == "" {
				t.Errorf("%s is not missing: %v", tt.missing, got.Missing)
			}
		})
	}
}

// TestA404OfWhatOneListLacks: the two lists of projects differ, or an account is in rows and in no list, and GitLab
// answers 404 for it. Either it was deleted in between, or it was not: this round can't tell.
func TestA404OfWhatOneListLacks(t *testing.T) {
	o := newOrg(t)
	app, bob := authz.ProjectID(o.id["app"]), authz.UserID(o.id["bob"])
	strip := func(source authz.SourceID) func(http.RoundTripper) http.RoundTripper { // takes it out of its REST list
		return func(next http.RoundTripper) http.RoundTripper {
			return roundTrip(func(r *http.Request) (*http.Response, error) {
				resp, err := next.RoundTrip(r)
				if err != nil || r.URL.Path != fmt.Sprintf("/api/v4/%ss", source.Kind) {
					return resp, err
				}
				defer resp.Body.Close()
				var list []map[string]any
				if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
					return nil, err
				}
				list = slices.DeleteFunc(list, func(it map[string]any) bool { return it["id"] == float64(source.ID) })
				b, _ := json.Marshal(list)
				if resp.Header.Get("X-Total") != "" { // or the list would be known to be short
					resp.Header.Set("X-Total", strconv.Itoa(len(list)))
				}
				resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
				resp.Header.Del("Content-Length")
				return resp, nil
			})
		}
	}
	for _, tt := range []struct {
		id   authz.SourceID
		rest bool
	}{{app, false}, {bob, true}} {
		r := o.reader(func(op *Options) {
			inner := strip(tt.id)(op.HTTPClient.Transport)
			op.RESTOnly = tt.rest
			op.HTTPClient = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
				if strings.HasPrefix(r.URL.Path, "/api/v4/"+sourcePath(tt.id)) {
					resp := answer(404, `{"message":"404 Not found"}`)
					resp.Request = r
					return resp, nil
				}
				return inner.RoundTrip(r)
			})}
		})
		got, err := r.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		o.keeps(t, got)
		if got.Missing[tt.id] == "" {
			t.Errorf("%s is not missing: %v %s", tt.id, got.Missing, got.MissingAll)
		}
	}
}

// TestA404OfAPartIsNoEnd: in a targeted reading a 404 counts only when GitLab repeats it about the thing itself.
func TestA404OfAPartIsNoEnd(t *testing.T) {
	o := newOrg(t)
	base := o.want(true)
	world, app := authz.GroupID(o.id["world"]), authz.ProjectID(o.id["app"])
	for _, id := range []authz.SourceID{world, app} {
		for name, strike := range map[string]func(r *http.Request, n int) bool{
			"its members":      func(r *http.Request, _ int) bool { return r.URL.Path == "/api/v4/"+sourcePath(id)+"/members" },
			"itself, one time": func(r *http.Request, n int) bool { return r.URL.Path == "/api/v4/"+sourcePath(id) && n == 1 },
		} {
			var mu sync.Mutex
			n := map[string]int{} // how often a path was asked for: members are asked for beside the thing itself
			r := o.faultyReader(func(r *http.Request, _ string) *http.Response {
				mu.Lock()
				defer mu.Unlock()
				if n[r.URL.Path]++; strike(r, n[r.URL.Path]) {
					return answer(404, `{"message":"404 Not found"}`)
				}
				return nil
			}, nil)
			got, err := r.Refresh(t.Context(), base, []authz.SourceID{id})
			if err != nil {
				t.Fatal(err)
			}
			if got.Missing[id] == "" || !got.Contains(id) {
				t.Errorf("%s, 404 for %s: missing %v", id, name, got.Missing)
			}
			o.keeps(t, got)
		}
	}
}

// TestHalfAnswers puts answers into a healthy GitLab that are well-formed JSON and no full answer. None of them may look
// like the end of a membership, an account or an invitation.
func TestHalfAnswers(t *testing.T) {
	o := newOrg(t)
	group := func(more string) string { return fmt.Sprintf("/api/v4/groups/%d%s", o.id["partner"], more) }
	for _, tt := range []struct {
		path  string // of REST
		query string
		gql   bool
		body  string
	}{
		{path: group("/members"), body: `null`},
		{path: group("/members"), body: `[null]`},
		{path: group("/members"), body: `[{}]`},
		{path: group("/members"), body: `[{"id":4}]`},
		{path: group("/members"), body: `[{"access_level":40}]`},
		{path: group("/members"), body: `{}`},
		{path: group("/members"), body: ``},
		{path: fmt.Sprintf("/api/v4/projects/%d/members", o.id["app"]), body: `null`},
		{path: fmt.Sprintf("/api/v4/groups/%d", o.id["haw"]), body: `null`},
		{path: fmt.Sprintf("/api/v4/groups/%d", o.id["haw"]), body: `{}`},
		{path: fmt.Sprintf("/api/v4/groups/%d", o.id["haw"]), body: fmt.Sprintf(`{"id":%d,"full_path":"haw"}`, o.id["haw"])},
		{path: fmt.Sprintf("/api/v4/groups/%d", o.id["haw"]), body: fmt.Sprintf(`{"id":%d,"full_path":"haw","shared_with_groups":null}`, o.id["haw"])},
		{path: fmt.Sprintf("/api/v4/groups/%d", o.id["haw"]), body: fmt.Sprintf(`{"id":%d,"full_path":"haw","shared_with_groups":[{}]}`, o.id["haw"])},
		{path: fmt.Sprintf("/api/v4/groups/%d", o.id["haw"]), body: fmt.Sprintf(`{"id":%d,"full_path":"haw","shared_with_groups":[{"group_id":%d}]}`, o.id["haw"], o.id["partner"])},
		{path: "/api/v4/groups", body: `null`},
		{path: "/api/v4/groups", body: `[null]`},
		{path: "/api/v4/groups", body: `[{}]`},
		{path: "/api/v4/groups", body: `[]`},
		{path: "/api/v4/projects", body: `null`},
		{path: "/api/v4/projects", body: `[{}]`},
		{path: "/api/v4/projects", body: ``},
		{path: "/api/v4/users", body: `null`},
		{path: "/api/v4/users", body: `[{}]`},
		{path: "/api/v4/users", body: `[{"id":2}]`},
		{path: "/api/v4/users", query: "humans", body: `null`},
		{path: "/api/v4/users", query: "humans", body: `[]`},
		{gql: true, body: `{"data":null}`},
		{gql: true, body: `{"data":{}}`},
		{gql: true, body: `{"data":{"a0":null,"a1":null,"a2":null,"a3":null}}`},
		{gql: true, body: `{"data":{"a0":{"nodes":null},"a1":{"nodes":null},"a2":{"nodes":null},"a3":{"nodes":null}}}`},
		{gql: true, body: `{"data":{"a0":{"nodes":[]},"a1":{"nodes":[]},"a2":{"nodes":[]},"a3":{"nodes":[]}}}`},
		{gql: true, body: `{"data":{"a0":{"pageInfo":{},"nodes":[]},"a1":{"pageInfo":{},"nodes":[]},"a2":{"pageInfo":{},"nodes":[]},"a3":{"pageInfo":{},"nodes":[]}}}`},
		{gql: true, body: `{"data":{"a0":{"pageInfo":{"hasNextPage":false},"nodes":[null]}}}`},
		{gql: true, body: `{"data":{"a0":{"pageInfo":{"hasNextPage":false},"nodes":[{"id":"gid://gitlab/Group/21","fullPath":"haw","groupMembers":{"nodes":[]}}]}}}`},
		{gql: true, body: `{"data":{"a0":{"pageInfo":{"hasNextPage":true},"nodes":[]}}}`},
	} {
		for _, rest := range []bool{true, false} {
			if tt.gql && rest {
				continue
			}
			name := fmt.Sprintf("%s %s = %s, REST alone: %v", tt.path, tt.query, tt.body, rest)
			struck := 0
			got, err := o.faultyReader(func(r *http.Request, body string) *http.Response {
				hit := r.URL.Path == tt.path && (tt.query == "" || r.URL.Query().Get(tt.query) != "")
				if tt.gql {
					hit = strings.Contains(body, "query Sync")
				}
				if !hit {
					return nil
				}
				struck++
				return answer(200, tt.body)
			}, func(op *Options) { op.RESTOnly = rest }).Snapshot(t.Context())
			if struck == 0 && rest {
				t.Errorf("%s: the fault never struck", name)
			}
			if err != nil {
				continue // nothing is known: nothing is changed
			}
			t.Run(name, func(t *testing.T) { o.keeps(t, got) })
		}
	}
}

// TestAccountsWithoutStateAreUnread: who is not active loses every right at once, so nobody is that by half an answer.
func TestAccountsWithoutStateAreUnread(t *testing.T) {
	f := &foreign{}
	r := foreignReader(t, f)
	f.without = []string{"state"}
	s, err := r.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if u := s.Incomplete(); s.MissingAll == "" && (s.Missing[authz.UserID(2)] == "" || u[authz.GroupID(1)] == "" || u[authz.ProjectID(10)] == "") {
		t.Errorf("untouchable are %v", u)
	}
	f.without = nil
	if s, err = r.Snapshot(t.Context()); err != nil || len(s.Missing) > 0 {
		t.Fatal(err, s.Missing)
	}
	f.without = []string{"state"}
	again, err := r.Refresh(t.Context(), s, []authz.SourceID{authz.UserID(2)})
	if err != nil || again.Users[2].State != authz.StateActive || again.Missing[authz.UserID(2)] == "" {
		t.Errorf("read alone: %v, state %q, missing %v", err, again.Users[2].State, again.Missing)
	}
}

// TestAccountsOfGraphQLAreWholeOrUnread: neither an account without a state nor one of which it is not said whether it is
// a person has a right.
func TestAccountsOfGraphQLAreWholeOrUnread(t *testing.T) {
	for in, ok := range map[string]bool{
		`{"id":"gid://gitlab/User/7","username":"ann","state":"active","human":true}`:   true,
		`{"id":"gid://gitlab/User/7","username":"ann","state":"blocked","human":false}`: true,
		`{"id":"gid://gitlab/User/7","username":"ann","state":"active","type":"HUMAN"}`: true,
		`{"id":"gid://gitlab/User/7","username":"ann","state":"active","bot":false}`:    true,
		`{"id":"gid://gitlab/User/7","username":"ann","state":"active","human":null}`:   false,
		`{"id":"gid://gitlab/User/7","username":"ann","human":true}`:                    false,
		`{"id":"gid://gitlab/User/7","state":"active","human":true}`:                    false,
		`{"username":"ann","state":"active","human":true}`:                              false,
		`{}`: false,
	} {
		var u gqlUser
		if err := json.Unmarshal([]byte(in), &u); err != nil {
			t.Fatal(err)
		}
		if got, err := u.user(); (err == nil) != ok {
			t.Errorf("%s: %+v, %v", in, got, err)
		}
	}
}

// TestMemberLevelIsNoGuess: what GitLab answers when asked is evidence, so half an answer must not be one.
func TestMemberLevelIsNoGuess(t *testing.T) {
	o := newOrg(t)
	bob := o.id["bob"]
	for _, body := range []string{`{}`, `null`, `{"access_level":30}`, fmt.Sprintf(`{"id":%d}`, bob), `[]`, ``} {
		r := o.faultyReader(func(r *http.Request, _ string) *http.Response {
			if strings.Contains(r.URL.Path, "/members/all/") {
				return answer(200, body)
			}
			return nil
		}, nil)
		if l, err := r.MemberLevel(t.Context(), authz.GroupID(o.id["world"]), bob); err == nil {
			t.Errorf("%q: level %d", body, l)
		}
	}
	for _, body := range []string{`{"data":{}}`, `{"data":{"users":null}}`, `{"data":{"users":{"nodes":null}}}`, `{"data":{"users":{"nodes":[{"id":"gid://gitlab/User/3"}]}}}`} {
		r := o.faultyReader(func(r *http.Request, _ string) *http.Response {
			if r.URL.Path == "/api/graphql" {
				return answer(200, body)
			}
			return nil
		}, nil)
		states, _, err := r.States(t.Context(), []int64{bob}) // by REST then
		if err != nil || states[bob] != authz.StateActive {
			t.Errorf("%s: states %v, %v", body, states, err)
		}
	}
}

// TestDemotedWhileReading: the token loses its administrator's view between the first request and the lists.
func TestDemotedWhileReading(t *testing.T) {
	o := newOrg(t)
	asked := 0
	r := o.faultyReader(func(r *http.Request, _ string) *http.Response {
		if r.URL.Path == "/api/v4/projects" && asked == 0 {
			asked++
			o.ok(o.w.SetUserFlags(o.id["root"], false, false))
		}
		return nil
	}, nil)
	s, err := r.Snapshot(t.Context())
	if err != nil || asked == 0 || s.MissingAll == "" || s.Admin {
		t.Errorf("%v, MissingAll %q, Admin %v", err, s.MissingAll, s.Admin)
	}
}

// TestBoundedConcurrency: however many sources there are, few requests are under way at the same time.
func TestBoundedConcurrency(t *testing.T) {
	o := newOrg(t)
	var now, most atomic.Int32
	r := o.reader(func(op *Options) {
		op.RESTOnly, op.PageSize, op.Concurrency = true, 2, 3
		inner := *op.HTTPClient
		op.HTTPClient = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			n := now.Add(1)
			defer now.Add(-1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			time.Sleep(2 * time.Millisecond)
			return inner.Transport.RoundTrip(r)
		})}
	})
	if _, err := r.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := most.Load(); n < 2 || n > 3 {
		t.Errorf("%d requests at the same time, want at most 3", n)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestPausesOutlastAMinute: GitLab counts by the minute and says nothing about when to come back. The pauses of the
// tries together are longer than that, and each is at most a minute.
func TestPausesOutlastAMinute(t *testing.T) {
	a, err := newAPI(Options{BaseURL: "https://gitlab.example.com", Token: func() (string, error) { return "x", nil }})
	if err != nil {
		t.Fatal(err)
	}
	var sum time.Duration
	for n := range a.retries.max {
		d := a.retries.backoff(0, 0, n, answer(429, ""))
		if d > time.Minute {
			t.Errorf("pause %d is %v", n, d)
		}
		sum += d
	}
	if sum <= time.Minute {
		t.Errorf("all pauses together are %v", sum)
	}
	resp := answer(429, "")
	resp.Header.Set("Retry-After", "90")
	if d := a.retries.backoff(0, 0, 0, resp); d != 90*time.Second {
		t.Errorf("Retry-After: 90 gives %v", d)
	}
}

// randomize adds chance to the world: nested groups, rows and links of any level and end, locks, flags, custom roles.
// What GitLab refuses is left out.
func (o *org) randomize(r *rand.Rand) {
	var users, groups, projects []int64
	o.w.View(func(v *gitlabsim.View) {
		for _, u := range v.Users() {
			users = append(users, u.ID)
		}
		for _, g := range v.Groups() {
			groups = append(groups, g.ID)
		}
		for _, p := range v.Projects() {
			projects = append(projects, p.ID)
		}
	})
	pick := func(ids []int64) int64 { return ids[r.IntN(len(ids))] }
	levels := []int{5, 10, 15, 20, 25, 30, 40, 50}
	ends := []string{"", "", time.Now().UTC().AddDate(0, 0, 1).Format(time.DateOnly), "2099-12-31"}
	states := []string{gitlabsim.StateBlocked, "active", "deactivated", "banned"}
	refused := func(error) {}
	for i := range 10 + r.IntN(60) {
		name := fmt.Sprintf("r%d", i)
		kind, id := gitlabsim.KindGroup, pick(groups)
		if r.IntN(2) == 0 {
			kind, id = gitlabsim.KindProject, pick(projects)
		}
		level, end := levels[r.IntN(len(levels))], ends[r.IntN(len(ends))]
		switch r.IntN(14) {
		case 0:
			parent := pick(groups)
			if r.IntN(3) == 0 {
				parent = 0
			}
			if g, err := o.w.AddGroup(gitlabsim.Group{Path: name, Name: name, ParentID: parent, Visibility: gitlabsim.Private, ShareWithGroupLock: r.IntN(4) == 0}); err == nil {
				groups = append(groups, g)
			}
		case 1:
			if p, err := o.w.AddProject(gitlabsim.Project{Path: name, Name: name, NamespaceID: pick(groups), Visibility: gitlabsim.Private}); err == nil {
				projects = append(projects, p)
			}
		case 2:
			if u, err := o.w.AddUser(gitlabsim.User{Username: name, Type: []string{"HUMAN", "PROJECT_BOT", "SERVICE_ACCOUNT"}[r.IntN(3)], State: states[r.IntN(len(states))]}); err == nil {
				users = append(users, u)
			}
		case 3:
			refused(o.w.ShareGroup(pick(groups), pick(groups), level, end))
		case 4:
			refused(o.w.ShareProject(pick(projects), pick(groups), level, end))
		case 5:
			refused(o.w.SetMemberRole(kind, id, pick(users), level, end, int64(1+r.IntN(3))))
		case 6:
			refused(o.w.TransferGroup(pick(groups), pick(groups)))
		case 7:
			refused(o.w.SetGroupArchived(pick(groups), r.IntN(2) == 0))
		case 8:
			refused(o.w.SetProjectArchived(pick(projects), r.IntN(2) == 0))
		case 9:
			refused(o.w.InviteEmail(kind, id, 30))
		default:
			refused(o.w.SetMember(kind, id, pick(users), level, end))
		}
	}
}

// TestRESTAndGraphQLAgree: in random worlds, by pages of any size, both ways of reading give the same Snapshot, and it
// is the world's own.
func TestRESTAndGraphQLAgree(t *testing.T) {
	seeds := uint64(40)
	if testing.Short() {
		seeds = 5
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 9))
			o := newOrg(t)
			o.randomize(r)
			everybody, size := r.IntN(3) > 0, []int{1, 2, 3, 7, 20, 100}[r.IntN(6)]
			want := o.want(everybody)
			for _, rest := range []bool{false, true} {
				reader := o.reader(func(op *Options) { op.IncludeUsers, op.PageSize, op.RESTOnly = everybody, size, rest })
				got, err := reader.Snapshot(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if d := diff(want, got); d != "" {
					t.Errorf("seed %d, pages of %d, everybody %v, REST alone %v (-GitLab +Snapshot)\n%s", seed, size, everybody, rest, d)
				}
				if reader.Requests()["graphql"] == 0 != rest {
					t.Errorf("requests %v", reader.Requests())
				}
			}
		})
	}
}

// TestADemotedTokenLosesNoInvitationInATargetedReading: GitLab leaves invited groups that a token may not see out of its
// answer about a group that it may see.
func TestADemotedTokenLosesNoInvitationInATargetedReading(t *testing.T) {
	o := newOrg(t)
	base := o.want(true)
	haw, app := authz.GroupID(o.id["haw"]), authz.ProjectID(o.id["app"])
	for _, demoted := range []bool{true, false} {
		r := o.faultyReader(func(r *http.Request, _ string) *http.Response {
			switch {
			case r.URL.Path == "/api/v4/user" && demoted:
				return answer(200, `{"id":1,"username":"root","state":"active"}`)
			case r.URL.Path == "/api/v4/"+sourcePath(haw):
				return answer(200, fmt.Sprintf(`{"id":%d,"full_path":"haw","shared_with_groups":[]}`, haw.ID))
			case r.URL.Path == "/api/v4/"+sourcePath(app):
				return answer(200, fmt.Sprintf(`{"id":%d,"path_with_namespace":"haw/world/app","namespace":{"id":%d,"kind":"group","full_path":"haw/world"},"shared_with_groups":[]}`, app.ID, o.id["world"]))
			}
			return nil
		}, nil)
		got, err := r.Refresh(t.Context(), base, []authz.SourceID{haw, app})
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range []authz.SourceID{haw, app} {
			if (got.Missing[id] != "") != demoted {
				t.Errorf("demoted %v: %s is missing: %q", demoted, id, got.Missing[id])
			}
		}
		if kept := len(got.Groups[haw.ID].Links) > 0; kept != demoted {
			t.Errorf("demoted %v: the link is kept: %v", demoted, kept)
		}
	}
}

// TestAnUnreadAccountStaysUnreadInATargetedReading: a full reading marked what somebody is a member of, because their
// account could not be read. Reading one of these places again does not make their account known.
func TestAnUnreadAccountStaysUnreadInATargetedReading(t *testing.T) {
	o := newOrg(t)
	bob := authz.UserID(o.id["bob"])
	lib, world := authz.ProjectID(o.id["lib"]), authz.GroupID(o.id["world"])
	user := "/api/v4/" + sourcePath(bob)
	for _, tt := range []struct{ name, path, body string }{
		{"fails", user, ""},
		{"has no id", user, `{"username":"bob"}`},
		{"has no name", user, fmt.Sprintf(`{"id":%d,"state":"active"}`, bob.ID)},
		{"is in no list", "/api/v4/users", `[]`}, // or was renamed in between
	} {
		t.Run(tt.name, func(t *testing.T) {
			base := o.want(true)
			delete(base.Users, bob.ID)
			base.Missing[bob] = "the account could not be read"
			inPlace(base).markIncomplete()
			down := true
			r := o.faultyReader(func(r *http.Request, _ string) *http.Response {
				if r.URL.Path != tt.path || !down {
					return nil
				}
				if tt.body == "" {
					return answer(500, "")
				}
				return answer(200, tt.body)
			}, nil)
			got, err := r.Refresh(t.Context(), base, []authz.SourceID{lib, world})
			if err != nil {
				t.Fatal(err)
			}
			o.keeps(t, got)
			down = false
			if got, err = r.Refresh(t.Context(), got, slices.Collect(maps.Keys(got.Missing))); err != nil {
				t.Fatal(err)
			}
			if d := diff(o.want(true), got); d != "" {
				t.Errorf("when it can be read again (-GitLab +Refresh)\n%s", d)
			}
		})
	}
}
