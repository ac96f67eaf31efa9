package gitlab

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabversion"
)

// org is the world most tests read: every kind of row, link and flag once.
type org struct {
	t   *testing.T
	sim *gitlabsim.Server
	w   *gitlabsim.World
	id  map[string]int64
}

func (o *org) ok(err error) {
	o.t.Helper()
	if err != nil {
		o.t.Fatal(err)
	}
}

func (o *org) user(u gitlabsim.User) int64 {
	id, err := o.w.AddUser(u)
	o.ok(err)
	o.id[u.Username] = id
	return id
}

func (o *org) group(name, parent string) int64 {
	id, err := o.w.AddGroup(gitlabsim.Group{Path: name, Name: name, ParentID: o.id[parent], Visibility: gitlabsim.Private})
	o.ok(err)
	o.id[name] = id
	return id
}

func (o *org) project(name, group string) int64 {
	id, err := o.w.AddProject(gitlabsim.Project{Path: name, Name: name, NamespaceID: o.id[group], Visibility: gitlabsim.Private})
	o.ok(err)
	o.id[name] = id
	return id
}

func newOrg(t *testing.T) *org { return newOrgOf(t, "") }

func newOrgOf(t *testing.T, version string) *org {
	t.Helper()
	sim, err := gitlabsim.New(gitlabsim.Options{Version: version})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sim.Close)
	o := &org{t: t, sim: sim, w: sim.World(), id: map[string]int64{}}
	soon := time.Now().UTC().AddDate(0, 1, 0).Format(time.DateOnly)
	o.user(gitlabsim.User{Username: "root", Admin: true})
	for _, name := range []string{"alice", "bob", "carol", "erin"} {
		o.user(gitlabsim.User{Username: name, Name: strings.ToUpper(name)})
	}
	o.user(gitlabsim.User{Username: "dave", State: gitlabsim.StateBlocked})
	o.user(gitlabsim.User{Username: "project_1_bot_3cca1d02", Type: "PROJECT_BOT"})
	o.user(gitlabsim.User{Username: "robot", Type: "SERVICE_ACCOUNT"})
	for i := range 12 {
		o.user(gitlabsim.User{Username: fmt.Sprintf("crowd%d", i)})
	}
	o.group("haw", "")
	o.group("world", "haw")
	o.group("deep", "world")
	o.group("partner", "")
	o.group("partner-sub", "partner")
	o.group("crowd", "")
	o.group("old", "")
	o.group("older", "old")
	o.group("doomed", "")
	o.group("empty", "")
	o.project("app", "world")
	o.project("lib", "deep")
	o.project("history", "older")
	o.project("shared", "partner-sub")
	for name, path := range map[string]string{"alice": "dotfiles", "erin": "notes"} {
		var ns int64
		o.w.View(func(v *gitlabsim.View) { ns = v.User(o.id[name]).NamespaceID })
		id, err := o.w.AddProject(gitlabsim.Project{Path: path, Name: path, NamespaceID: ns, Visibility: gitlabsim.Private})
		o.ok(err)
		o.id[path] = id
	}
	g, p := gitlabsim.KindGroup, gitlabsim.KindProject
	for _, m := range []struct {
		kind       gitlabsim.SourceKind
		what, user string
		level      int
		expires    string
	}{
		{g, "haw", "alice", 50, ""},
		{g, "haw", "carol", 10, ""},
		{g, "world", "bob", 30, soon},
		{g, "deep", "dave", 40, ""},
		{g, "partner", "carol", 40, ""},
		{g, "partner", "robot", 30, ""},
		{g, "partner-sub", "bob", 15, ""},
		{g, "old", "alice", 25, ""},
		{g, "doomed", "alice", 50, ""},
		{g, "empty", "erin", 5, ""},
		{p, "app", "carol", 40, soon},
		{p, "app", "project_1_bot_3cca1d02", 40, ""},
		{p, "lib", "bob", 40, ""},
		{p, "dotfiles", "bob", 20, ""},
	} {
		o.ok(o.w.SetMember(m.kind, o.id[m.what], o.id[m.user], m.level, m.expires))
	}
	for i := range 12 {
		o.ok(o.w.SetMember(g, o.id["crowd"], o.id[fmt.Sprintf("crowd%d", i)], 10+10*(i%4), ""))
		o.ok(o.w.SetMember(p, o.id["shared"], o.id[fmt.Sprintf("crowd%d", i)], 30, ""))
	}
	o.ok(o.w.InviteEmail(g, o.id["haw"], 50))
	o.ok(o.w.InviteEmail(p, o.id["app"], 40))
	o.ok(o.w.ShareGroup(o.id["haw"], o.id["partner"], 30, soon))
	o.ok(o.w.ShareGroup(o.id["world"], o.id["crowd"], 40, ""))
	for _, target := range []string{"deep", "doomed", "empty", "old"} { // more than a small page of sharedGroups
		o.ok(o.w.ShareGroup(o.id[target], o.id["crowd"], 20, ""))
	}
	o.ok(o.w.ShareProject(o.id["app"], o.id["partner-sub"], 20, ""))
	o.ok(o.w.ShareProject(o.id["dotfiles"], o.id["partner"], 30, soon))
	o.ok(o.w.SetShareWithGroupLock(o.id["partner-sub"], true))
	o.ok(o.w.SetGroupArchived(o.id["old"], true))
	o.ok(o.w.MarkGroupForDeletion(o.id["doomed"]))
	return o
}

// reader reads the simulated GitLab as root, quickly and in pages of the given size.
func (o *org) reader(change func(*Options)) *Reader {
	o.t.Helper()
	opts := o.options()
	if change != nil {
		change(&opts)
	}
	r, err := NewReader(opts)
	o.ok(err)
	return r
}

func (o *org) options() Options {
	hc := o.sim.Client()
	o.t.Cleanup(hc.CloseIdleConnections)
	token := o.sim.TokenFor("root", "read_api")
	return Options{
		BaseURL: o.sim.URL(), Token: func() (string, error) { return token, nil }, HTTPClient: hc,
		RetryWait: time.Millisecond, MaxRetries: 2, NoPacing: true, IncludeUsers: true,
	}
}

// want is the Snapshot as the simulator's own model gives it, without this package's code.
func (o *org) want(everybody bool) *authz.Snapshot {
	s := &authz.Snapshot{
		Issuer: o.sim.URL(), Users: map[int64]authz.User{}, Groups: map[int64]authz.Group{}, Projects: map[int64]authz.Project{},
		Missing: map[authz.SourceID]string{}, Admin: true,
	}
	o.w.View(func(v *gitlabsim.View) {
		named := map[int64]bool{}
		date := func(s string) authz.Date {
			d, err := authz.ParseDate(s)
			o.ok(err)
			return d
		}
		rows := func(in []gitlabsim.Member) (out []authz.Member) {
			for _, m := range in {
				if m.UserID != 0 && m.Level > 5 {
					named[m.UserID] = true
					out = append(out, authz.Member{User: m.UserID, Level: authz.Level(m.Level), Expires: date(m.ExpiresAt)})
				}
			}
			slices.SortFunc(out, func(a, b authz.Member) int { return int(a.User - b.User) })
			return out
		}
		links := func(in []gitlabsim.GroupLink) (out []authz.Link) {
			for _, l := range in {
				out = append(out, authz.Link{Group: l.GroupID, Level: authz.Level(l.Level), Expires: date(l.ExpiresAt)})
			}
			slices.SortFunc(out, func(a, b authz.Link) int { return int(a.Group - b.Group) })
			return out
		}
		marked := func(id int64) bool {
			for ; id != 0; id = v.Group(id).ParentID {
				if v.Group(id).MarkedForDeletionOn != "" {
					return true
				}
			}
			return false
		}
		for _, g := range v.Groups() {
			s.Groups[g.ID] = authz.Group{
				ID: g.ID, Parent: g.ParentID, Path: v.FullPath(g), CreatedAt: g.CreatedAt.UTC().Truncate(time.Second),
				Archived: v.GroupArchived(g.ID), MarkedForDeletion: marked(g.ID), ShareLock: g.ShareWithGroupLock, Members: rows(g.Members), Links: links(g.Links),
			}
		}
		for _, p := range v.Projects() {
			out := authz.Project{
				ID: p.ID, Owner: p.OwnerID, Path: v.ProjectPath(p), CreatedAt: p.CreatedAt.UTC().Truncate(time.Second),
				Archived: v.ProjectArchived(p.ID), MarkedForDeletion: p.MarkedForDeletionOn != "", Members: rows(p.Members), Links: links(p.Links),
			}
			if p.OwnerID == 0 {
				out.Group = p.NamespaceID
				out.MarkedForDeletion = out.MarkedForDeletion || marked(p.NamespaceID)
			}
			named[p.OwnerID] = true
			s.Projects[p.ID] = out
		}
		for _, u := range v.Users() {
			if everybody || named[u.ID] {
				s.Users[u.ID] = authz.User{
					ID: u.ID, Username: u.Username, Name: u.Name, State: authz.UserState(u.State), Human: u.Type == "HUMAN",
					CreatedAt: u.CreatedAt.UTC().Truncate(time.Second),
				}
			}
		}
	})
	return s
}

func diff(want, got *authz.Snapshot) string {
	return cmp.Diff(want, got, cmpopts.IgnoreFields(authz.Snapshot{}, "Taken", "From"))
}

// undeclared compares what two Snapshots are said to differ in with what they do: a copy says nothing of what it was made of.
func undeclared(base, next *authz.Snapshot) string {
	copied := *next
	return cmp.Diff(changes(base, &copied), changes(base, next))
}

func changes(base, next *authz.Snapshot) map[authz.SourceID]bool {
	out := map[authz.SourceID]bool{}
	c := authz.ChangesBetween(base, next)
	c.Users(func(a, b authz.User) bool { return a == b }, func(id int64) { out[authz.UserID(id)] = true })
	c.Groups(func(a, b authz.Group) bool { return cmp.Equal(a, b) }, func(id int64) { out[authz.GroupID(id)] = true })
	c.Projects(func(a, b authz.Project) bool { return cmp.Equal(a, b) }, func(id int64) { out[authz.ProjectID(id)] = true })
	c.Missing(func(id authz.SourceID) { out[id] = true })
	return out
}

func TestSnapshotIsTheWorld(t *testing.T) {
	o := newOrg(t)
	for _, everybody := range []bool{true, false} {
		for _, rest := range []bool{false, true} {
			for _, size := range []int{1, 3, 100} {
				t.Run(fmt.Sprintf("everybody=%v/rest=%v/page=%d", everybody, rest, size), func(t *testing.T) {
					r := o.reader(func(op *Options) { op.IncludeUsers, op.RESTOnly, op.PageSize = everybody, rest, size })
					before := time.Now()
					got, err := r.Snapshot(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					if d := diff(o.want(everybody), got); d != "" {
						t.Errorf("(-GitLab +Snapshot)\n%s", d)
					}
					if got.Taken.Before(before.Add(-time.Second)) || got.Taken.After(time.Now()) {
						t.Errorf("Taken is %v", got.Taken)
					}
					if usedGraphQL := r.Requests()["graphql"] > 0; usedGraphQL == rest {
						t.Errorf("requests %v", r.Requests())
					}
				})
			}
		}
	}
}

// TestFewRequests holds the point of GraphQL: several lists travel in one request, and no source costs one.
func TestFewRequests(t *testing.T) {
	o := newOrg(t)
	r := o.reader(nil)
	if _, err := r.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	// A single page of projects has no header that says so with keyset pagination, so a second one is asked for.
	want := map[string]int64{"graphql": 3, "projects": 2, "group": 6, "other": 2} // probe, schema, one page of all; links of six groups; who we are, before and after
	if d := cmp.Diff(want, r.Requests()); d != "" {
		t.Errorf("requests (-want +got)\n%s", d)
	}
}

// fault answers some requests instead of GitLab.
type fault struct {
	next   http.RoundTripper
	mu     sync.Mutex
	strike func(r *http.Request, body string) *http.Response // nil: let it pass
}

func (f *fault) RoundTrip(r *http.Request) (*http.Response, error) {
	body := ""
	if r.Body != nil {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		_ = r.Body.Close()
		body = string(b)
		r.Body = io.NopCloser(bytes.NewReader(b))
	}
	f.mu.Lock()
	resp := f.strike(r, body)
	f.mu.Unlock()
	if resp != nil {
		resp.Request = r
		return resp, nil
	}
	return f.next.RoundTrip(r)
}

func answer(status int, body string) *http.Response {
	return &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(body)),
	}
}

func (o *org) faultyReader(strike func(r *http.Request, body string) *http.Response, change func(*Options)) *Reader {
	return o.reader(func(op *Options) {
		inner := *op.HTTPClient
		op.HTTPClient = &http.Client{Transport: &fault{next: inner.Transport, strike: strike}, Timeout: inner.Timeout}
		if change != nil {
			change(op)
		}
	})
}

func partialGroups(body string) *http.Response {
	if !strings.Contains(body, ": groups(first:") {
		return nil
	}
	return answer(200, `{"data":{"a0":{"pageInfo":{"hasNextPage":false,"endCursor":null},"nodes":[]}},"errors":[{"message":"Internal server error"}]}`)
}

// TestUnreadIsNotEmpty: whatever part of the reading fails, what was not read is marked, and everything that is not
// marked is as GitLab has it.
func TestUnreadIsNotEmpty(t *testing.T) {
	o := newOrg(t)
	world := o.id["world"]
	pages := 0
	for _, tt := range []struct {
		name    string
		rest    bool
		strike  func(r *http.Request, body string) *http.Response
		missing []authz.SourceID
		all     bool
	}{
		{name: "GraphQL page 3 answers 502", strike: func(r *http.Request, body string) *http.Response {
			if strings.Contains(body, "query Sync") {
				if pages++; pages >= 3 {
					return answer(502, "<html>Bad Gateway</html>")
				}
			}
			return nil
		}},
		{name: "errors beside partial data on every page of groups, and REST for them", all: true, strike: func(r *http.Request, body string) *http.Response {
			if r.URL.Path == "/api/v4/groups" {
				return answer(500, "")
			}
			return partialGroups(body)
		}},
		{name: "errors beside partial data on every page of groups", strike: func(r *http.Request, body string) *http.Response { return partialGroups(body) }},
		{name: "project list fails on a later page", all: true, strike: func(r *http.Request, body string) *http.Response {
			if r.URL.Path == "/api/v4/projects" && r.URL.Query().Get("id_after")+r.URL.Query().Get("cursor") != "" {
				return answer(500, `{"message":"500 Internal Server Error"}`)
			}
			return nil
		}},
		{name: "links of one group", missing: []authz.SourceID{authz.GroupID(world)}, strike: func(r *http.Request, body string) *http.Response {
			if r.URL.Path == fmt.Sprintf("/api/v4/groups/%d", world) {
				return answer(500, `{"message":"500 Internal Server Error"}`)
			}
			return nil
		}},
		{name: "links of one group are not in the answer", missing: []authz.SourceID{authz.GroupID(world)}, strike: func(r *http.Request, body string) *http.Response {
			if r.URL.Path == fmt.Sprintf("/api/v4/groups/%d", world) {
				return answer(200, fmt.Sprintf(`{"id":%d,"full_path":"haw/world"}`, world))
			}
			return nil
		}},
		{name: "further pages of members, and REST for it", missing: []authz.SourceID{authz.GroupID(o.id["crowd"])}, strike: func(r *http.Request, body string) *http.Response {
			if strings.Contains(body, fmt.Sprintf(`gid://gitlab/Group/%d\"], first: 1){nodes{id groupMembers`, o.id["crowd"])) || r.URL.Path == fmt.Sprintf("/api/v4/groups/%d/members", o.id["crowd"]) {
				return answer(503, `{"errors":[{"message":"Request timed out. Please try a less complex query or a smaller set of records."}]}`)
			}
			return nil
		}},
		{name: "REST: members of one project", rest: true, missing: []authz.SourceID{authz.ProjectID(o.id["app"])}, strike: func(r *http.Request, body string) *http.Response {
			if r.URL.Path == fmt.Sprintf("/api/v4/projects/%d/members", o.id["app"]) {
				return answer(403, `{"message":"403 Forbidden"}`)
			}
			return nil
		}},
		{name: "REST: second page of members", rest: true, missing: []authz.SourceID{authz.GroupID(o.id["crowd"])}, strike: func(r *http.Request, body string) *http.Response {
			if r.URL.Path == fmt.Sprintf("/api/v4/groups/%d/members", o.id["crowd"]) && r.URL.Query().Get("page") != "1" {
				return answer(502, "")
			}
			return nil
		}},
		{name: "REST: everything after the lists", rest: true, all: true, strike: func(r *http.Request, body string) *http.Response {
			if strings.Contains(r.URL.Path, "/members") {
				return answer(502, "")
			}
			return nil
		}},
		{name: "REST: list of humans", rest: true, all: true, strike: func(r *http.Request, body string) *http.Response {
			if r.URL.Query().Get("humans") != "" {
				return answer(500, "")
			}
			return nil
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pages = 0
			got, err := o.faultyReader(tt.strike, func(op *Options) { op.PageSize, op.RESTOnly = 3, tt.rest }).Snapshot(t.Context())
			if err != nil && tt.all {
				return // the list that fails may fail before anything else was read
			}
			if err != nil {
				t.Fatal(err)
			}
			if (got.MissingAll != "") != tt.all {
				t.Fatalf("MissingAll = %q, want some: %v", got.MissingAll, tt.all)
			}
			if tt.all {
				return
			}
			want := o.want(true)
			for _, id := range tt.missing {
				if got.Missing[id] == "" {
					t.Errorf("%s is not missing: %v", id, got.Missing)
				}
				if id.Kind == authz.GroupSource { // what is marked may be anything
					delete(want.Groups, id.ID)
					delete(got.Groups, id.ID)
				} else {
					delete(want.Projects, id.ID)
					delete(got.Projects, id.ID)
				}
				delete(got.Missing, id)
			}
			if d := diff(want, got); d != "" {
				t.Errorf("(-GitLab +Snapshot)\n%s", d)
			}
		})
	}
}

// TestOneBadGroupDoesNotHideTheRest: GitLab's answer fails on one group; the page is halved down to it, and the
// group read by REST.
func TestOneBadGroupDoesNotHideTheRest(t *testing.T) {
	o := newOrg(t)
	hc := o.sim.Client()
	defer hc.CloseIdleConnections()
	strike := &poison{next: hc.Transport, path: `"fullPath":"haw/world"`}
	r := o.reader(func(op *Options) { op.HTTPClient = &http.Client{Transport: strike} })
	got, err := r.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := diff(o.want(true), got); d != "" {
		t.Errorf("(-GitLab +Snapshot)\n%s", d)
	}
	if strike.hit == 0 {
		t.Error("the fault never struck")
	}
}

// TestABadGroupWhoseLinksAreNotShown: GitLab's answer fails on a group, and REST tells no links of it, which those of the
// others have.
func TestABadGroupWhoseLinksAreNotShown(t *testing.T) {
	o := newOrg(t)
	world := authz.GroupID(o.id["world"])
	r := o.faultyReader(func(r *http.Request, _ string) *http.Response {
		if r.URL.Path == "/api/v4/"+sourcePath(world) {
			return answer(200, fmt.Sprintf(`{"id":%d,"parent_id":%d,"full_path":"haw/world"}`, world.ID, o.id["haw"]))
		}
		return nil
	}, func(op *Options) {
		op.HTTPClient = &http.Client{Transport: &poison{next: op.HTTPClient.Transport, path: `"fullPath":"haw/world"`}}
	})
	got, err := r.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.Missing[world] == "" {
		t.Errorf("missing %v", got.Missing)
	}
	o.keeps(t, got)
}

// poison turns every GraphQL answer that tells the members of one group into an error.
type poison struct {
	next http.RoundTripper
	path string
	hit  int
}

func (p *poison) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := p.next.RoundTrip(r)
	if err != nil || r.URL.Path != "/api/graphql" {
		return resp, err
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(b))
	if bytes.Contains(b, []byte(p.path)) && bytes.Contains(b, []byte(`"groupMembers"`)) {
		p.hit++
		resp = answer(200, `{"data":null,"errors":[{"message":"Internal server error"}]}`)
		resp.Request = r
	}
	return resp, nil
}

func TestTooComplexIsDivided(t *testing.T) {
	o := newOrg(t)
	tooBig := 0
	r := o.faultyReader(func(r *http.Request, body string) *http.Response {
		if strings.Count(body, "(first: ") > 3 || strings.Contains(body, "first: 100, after") {
			tooBig++
			return answer(200, `{"errors":[{"message":"Query has complexity of 301, which exceeds max complexity of 250"}]}`)
		}
		return nil
	}, nil)
	got, err := r.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := diff(o.want(true), got); d != "" || tooBig == 0 {
		t.Errorf("%d refused; (-GitLab +Snapshot)\n%s", tooBig, d)
	}
}

func TestOldServers(t *testing.T) {
	o := newOrg(t)
	for _, tt := range []struct {
		name    string
		strike  func(r *http.Request, body string) *http.Response
		graphql bool // pages are read by GraphQL
	}{
		{name: "no GraphQL", strike: func(r *http.Request, body string) *http.Response {
			if r.URL.Path == "/api/graphql" {
				return answer(404, `{"error":"404 Not Found"}`)
			}
			return nil
		}},
		{name: "GraphQL forbidden", strike: func(r *http.Request, body string) *http.Response {
			if r.URL.Path == "/api/graphql" {
				return answer(403, `{"errors":[{"message":"API not accessible for user"}]}`)
			}
			return nil
		}},
		{name: "unknown field, not foretold", strike: func(r *http.Request, body string) *http.Response {
			if strings.Contains(body, "__type") {
				return answer(200, `{"errors":[{"message":"introspection is off"}]}`)
			}
			if strings.Contains(body, "query Sync") {
				return answer(200, `{"errors":[{"message":"Field 'sharedGroups' doesn't exist on type 'Group'","extensions":{"code":"undefinedField"}}]}`)
			}
			return nil
		}},
		{name: "essential field absent", strike: func(r *http.Request, body string) *http.Response {
			if strings.Contains(body, "__type") {
				return answer(200, `{"data":{"group":{"fields":[{"name":"id"}]},"project":{"fields":[{"name":"id"}]},"user":{"fields":[{"name":"id"}]}}}`)
			}
			return nil
		}},
		{name: "17.x", graphql: true, strike: func(r *http.Request, body string) *http.Response {
			if strings.Contains(body, "__type") {
				fields := func(names string) string {
					return `{"fields":[{"name":"` + strings.ReplaceAll(names, " ", `"},{"name":"`) + `"}]}`
				}
				return answer(200, `{"data":{"group":`+fields("id fullPath parent createdAt shareWithGroupLock groupMembers markedForDeletionOn")+
					`,"project":`+fields("id projectMembers")+`,"user":`+fields("id username name state type bot createdAt")+`}}`)
			}
			if strings.Contains(body, "sharedGroups") || strings.Contains(body, "archived") || strings.Contains(body, "markedForDeletion ") || strings.Contains(body, "human") {
				return answer(200, `{"errors":[{"message":"Field 'x' doesn't exist on type 'Group'"}]}`)
			}
			return nil
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := o.faultyReader(tt.strike, func(op *Options) { op.PageSize = 4 })
			got, err := r.Snapshot(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			want := o.want(true)
			if tt.graphql { // groups can't be archived there; the project list still says it
				for _, name := range []string{"old", "older"} {
					g := want.Groups[o.id[name]]
					g.Archived = false
					want.Groups[o.id[name]] = g
				}
				p := want.Projects[o.id["history"]]
				p.Archived = got.Projects[o.id["history"]].Archived
				want.Projects[o.id["history"]] = p
			}
			if d := diff(want, got); d != "" {
				t.Errorf("(-GitLab +Snapshot)\n%s", d)
			}
			if listed := r.Requests()["groups"] > 0; listed == tt.graphql {
				t.Errorf("requests %v", r.Requests())
			}
		})
	}
}

// TestOldVersions reads servers whose schema really lacks what came later.
func TestOldVersions(t *testing.T) {
	for _, version := range []string{"15.0.5", "15.11.13-ee", "16.11.2", "17.5.0-ee", "18.0.0", "18.3.0"} {
		t.Run(version, func(t *testing.T) {
			o := newOrgOf(t, version)
			r := o.reader(func(op *Options) { op.PageSize = 4 })
			got, err := r.Snapshot(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			rest, err := o.reader(func(op *Options) { op.RESTOnly = true }).Snapshot(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			v, _ := gitlabversion.Parse(version)
			for _, s := range []*authz.Snapshot{got, rest} {
				for id, g := range s.Groups {
					g.Archived = false // not known there
					g.MarkedForDeletion = g.MarkedForDeletion && v.Has(gitlabversion.GroupDeletionDate)
					s.Groups[id] = g
				}
				for id, p := range s.Projects {
					p.Archived = false
					s.Projects[id] = p
				}
			}
			if d := diff(rest, got); d != "" {
				t.Errorf("(-REST +GraphQL)\n%s", d)
			}
			if r.Requests()["graphql"] < 4 || r.Requests()["groups"] > 0 {
				t.Errorf("requests %v", r.Requests())
			}
		})
	}
}

func TestNotAnAdministrator(t *testing.T) {
	o := newOrg(t)
	var log bytes.Buffer
	token := o.sim.TokenFor("bob", "read_api")
	r := o.reader(func(op *Options) {
		op.Token = func() (string, error) { return token, nil }
		op.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	info, err := r.Probe(t.Context())
	if err != nil || info.Admin || len(info.Warnings) != 1 || !strings.Contains(info.Warnings[0], `"bob", who is not shown to be an administrator`) {
		t.Errorf("Probe = %+v, %v", info, err)
	}
	if _, err := r.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(log.String(), token) {
		t.Error("the token is in the log")
	}
	// What such a token is not shown is not gone.
	base := o.want(true)
	s, err := r.Refresh(t.Context(), base, []authz.SourceID{authz.GroupID(o.id["crowd"]), authz.GroupID(o.id["doomed"])})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Groups[o.id["doomed"]]; !ok || s.Missing[authz.GroupID(o.id["doomed"])] == "" {
		t.Errorf("a hidden group was taken for deleted: %v", s.Missing)
	}
	if d := diff(o.want(true), base); d != "" {
		t.Errorf("base changed:\n%s", d)
	}
}

func TestRateLimitOfGitLab(t *testing.T) {
	o := newOrg(t)
	for _, header := range []string{"1", ""} {
		struck := 0
		r := o.faultyReader(func(r *http.Request, body string) *http.Response {
			if struck < 2 && strings.HasPrefix(r.URL.Path, "/api/v4/groups/") {
				struck++
				resp := answer(429, `{"message":{"error":"This endpoint has been requested too many times. Try again later."}}`)
				if header != "" {
					resp.Header.Set("Retry-After", header)
				}
				return resp
			}
			return nil
		}, nil)
		start := time.Now()
		got, err := r.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if d := diff(o.want(true), got); d != "" {
			t.Errorf("(-GitLab +Snapshot)\n%s", d)
		}
		if d := time.Since(start); header != "" && d < time.Second {
			t.Errorf("waited %v only", d)
		}
	}
}

// TestRefreshEqualsFullSnapshot: after each change, re-reading what its hook names gives what a full reading gives.
func TestRefreshEqualsFullSnapshot(t *testing.T) {
	g, p := gitlabsim.KindGroup, gitlabsim.KindProject
	for _, everybody := range []bool{true, false} {
		t.Run(fmt.Sprintf("everybody=%v", everybody), func(t *testing.T) {
			o := newOrg(t)
			r := o.reader(func(op *Options) { op.IncludeUsers, op.PageSize = everybody, 5 })
			r.absences.pause = 0
			base, err := r.Snapshot(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			group := func(name string) authz.SourceID { return authz.GroupID(o.id[name]) }
			project := func(name string) authz.SourceID { return authz.ProjectID(o.id[name]) }
			user := func(name string) authz.SourceID { return authz.UserID(o.id[name]) }
			for _, step := range []struct {
				name string
				do   func() []authz.SourceID
			}{
				{"nothing", func() []authz.SourceID { return nil }},
				{"member added", func() []authz.SourceID {
					o.ok(o.w.SetMember(g, o.id["world"], o.id["erin"], 30, ""))
					return []authz.SourceID{group("world")}
				}},
				{"member changed", func() []authz.SourceID {
					o.ok(o.w.SetMember(p, o.id["lib"], o.id["bob"], 50, ""))
					return []authz.SourceID{project("lib")}
				}},
				{"member removed", func() []authz.SourceID {
					o.ok(o.w.RemoveMember(g, o.id["haw"], o.id["alice"]))
					return []authz.SourceID{group("haw")}
				}},
				{"new user gets a role", func() []authz.SourceID {
					o.user(gitlabsim.User{Username: "frank"})
					o.user(gitlabsim.User{Username: "group_1_bot_00ff", Type: "PROJECT_BOT"})
					o.ok(o.w.SetMember(p, o.id["lib"], o.id["frank"], 30, ""))
					o.ok(o.w.SetMember(p, o.id["lib"], o.id["group_1_bot_00ff"], 30, ""))
					return []authz.SourceID{project("lib")}
				}},
				{"user blocked", func() []authz.SourceID {
					o.ok(o.w.SetUserState(o.id["bob"], gitlabsim.StateBlocked))
					return []authz.SourceID{user("bob")}
				}},
				{"user renamed, personal projects move", func() []authz.SourceID {
					o.ok(o.w.RenameUser(o.id["alice"], "alicia"))
					return []authz.SourceID{user("alice")}
				}},
				{"subgroup and project created", func() []authz.SourceID {
					o.group("fresh", "deep")
					o.group("fresher", "fresh")
					o.project("newest", "fresher")
					return []authz.SourceID{project("newest")} // the groups' hooks are late
				}},
				{"group renamed", func() []authz.SourceID {
					o.ok(o.w.RenameGroup(o.id["haw"], "haw-hamburg", "HAW"))
					return []authz.SourceID{group("haw")}
				}},
				{"group transferred", func() []authz.SourceID {
					o.ok(o.w.TransferGroup(o.id["deep"], o.id["old"]))
					return []authz.SourceID{group("deep")}
				}},
				{"group no longer archived", func() []authz.SourceID {
					o.ok(o.w.SetGroupArchived(o.id["old"], false))
					return []authz.SourceID{group("old")}
				}},
				{"project archived", func() []authz.SourceID {
					o.ok(o.w.SetProjectArchived(o.id["app"], true))
					return []authz.SourceID{project("app")}
				}},
				{"project transferred", func() []authz.SourceID {
					o.ok(o.w.TransferProject(o.id["app"], o.id["partner"]))
					return []authz.SourceID{project("app")}
				}},
				{"group shared", func() []authz.SourceID {
					o.ok(o.w.ShareGroup(o.id["empty"], o.id["haw"], 40, ""))
					return []authz.SourceID{group("empty")}
				}},
				{"share lock", func() []authz.SourceID {
					o.ok(o.w.SetShareWithGroupLock(o.id["partner"], true))
					return []authz.SourceID{group("partner")}
				}},
				{"project deleted", func() []authz.SourceID { o.ok(o.w.DeleteProject(o.id["lib"])); return []authz.SourceID{project("lib")} }},
				{"invited group deleted with what is below", func() []authz.SourceID {
					o.ok(o.w.DeleteGroup(o.id["partner"]))
					return []authz.SourceID{group("partner")}
				}},
				{"user deleted", func() []authz.SourceID { o.ok(o.w.DeleteUser(o.id["erin"])); return []authz.SourceID{user("erin")} }},
				{"the same again", func() []authz.SourceID {
					return []authz.SourceID{user("erin"), group("partner"), group("haw"), group("haw")}
				}},
			} {
				before := copySnapshot(base)
				next, err := r.Refresh(t.Context(), base, step.do())
				if err != nil {
					t.Fatalf("%s: %v", step.name, err)
				}
				if d := diff(o.want(everybody), next); d != "" {
					t.Fatalf("%s: (-GitLab +Refresh)\n%s", step.name, d)
				}
				if d := diff(before, base); d != "" {
					t.Fatalf("%s: base was changed\n%s", step.name, d)
				}
				if d := diff(finished(next, everybody), next); d != "" {
					t.Fatalf("%s: (-all looked at again +Refresh)\n%s", step.name, d)
				}
				if d := undeclared(base, next); d != "" {
					t.Fatalf("%s: what Refresh says is other, and what is, differ\n%s", step.name, d)
				}
				base = next
			}
			full, err := r.Snapshot(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if d := diff(full, base); d != "" {
				t.Errorf("(-full +refreshed)\n%s", d)
			}
		})
	}
}

// copySnapshot copies a Snapshot with its maps.
func copySnapshot(s *authz.Snapshot) *authz.Snapshot {
	out := *s
	out.Users, out.Groups, out.Projects, out.Missing = maps.Clone(s.Users), maps.Clone(s.Groups), maps.Clone(s.Projects), maps.Clone(s.Missing)
	return &out
}

// finished is a Snapshot after all users and all members were looked at.
func finished(s *authz.Snapshot, everybody bool) *authz.Snapshot {
	s = copySnapshot(s)
	if !everybody {
		unnamed := maps.Clone(s.Users)
		for _, id := range slices.Concat(sourcesOf(s.Groups, authz.GroupID), sourcesOf(s.Projects, authz.ProjectID)) {
			for user := range named(s, id) {
				delete(unnamed, user)
			}
		}
		for user := range unnamed {
			delete(s.Users, user)
		}
	}
	inPlace(s).markIncomplete()
	inPlace(s).inheritFlags()
	return s
}

func sourcesOf[V any](m map[int64]V, source func(int64) authz.SourceID) (out []authz.SourceID) {
	for id := range m {
		out = append(out, source(id))
	}
	return out
}

// TestRenamedGroupTakesNobodyElseAlong: the hook of a rename is late, and its old path already belongs to another group.
func TestRenamedGroupTakesNobodyElseAlong(t *testing.T) {
	o := newOrg(t)
	r := o.reader(nil)
	s, err := r.Snapshot(t.Context())
	o.ok(err)
	old := authz.GroupID(o.id["haw"])
	o.ok(o.w.RenameGroup(old.ID, "haw-hamburg", "HAW"))
	taken := authz.GroupID(o.group("haw", ""))
	below := authz.ProjectID(o.project("theirs", "haw"))
	for _, changed := range [][]authz.SourceID{{taken, below}, {old}} {
		s, err = r.Refresh(t.Context(), s, changed)
		o.ok(err)
	}
	if d := diff(o.want(true), s); d != "" {
		t.Errorf("(-GitLab +Refresh)\n%s", d)
	}
}

func TestRefreshFailures(t *testing.T) {
	o := newOrg(t)
	base := o.want(true)
	down := false
	r := o.faultyReader(func(r *http.Request, body string) *http.Response {
		if down || r.URL.Path == fmt.Sprintf("/api/v4/projects/%d/members", o.id["app"]) {
			return answer(502, "")
		}
		return nil
	}, nil)
	changed := []authz.SourceID{authz.ProjectID(o.id["app"]), authz.ProjectID(o.id["lib"])}
	s, err := r.Refresh(t.Context(), base, changed)
	if err != nil {
		t.Fatal(err)
	}
	if s.Missing[changed[0]] == "" || s.Missing[changed[1]] != "" || len(s.Projects[o.id["app"]].Members) != len(base.Projects[o.id["app"]].Members) {
		t.Errorf("Missing %v; the old rows must stay", s.Missing)
	}
	down = true
	if s, err := r.Refresh(t.Context(), base, changed); err == nil || s != nil {
		t.Errorf("nothing was read: Refresh = %v, %v", s, err)
	}
}

// TestHooksNameWhatChanged sends the simulator's hooks to us and refreshes by them alone.
func TestHooksNameWhatChanged(t *testing.T) {
	o := newOrg(t)
	events := make(chan Event, 100)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		e, perr := ParseSystemHook(body)
		if err != nil || perr != nil || r.Header.Get("X-Gitlab-Token") != "hook-secret" {
			t.Errorf("hook %q: %v %v, token %q", body, err, perr, r.Header.Get("X-Gitlab-Token"))
		}
		events <- e
	}))
	defer hook.Close()
	opts := o.options()
	token := o.sim.TokenFor("root", "api")
	opts.Token = func() (string, error) { return token, nil }
	reg, err := NewHookRegistrar(opts)
	o.ok(err)
	for _, want := range []bool{true, false} {
		created, err := reg.Register(t.Context(), hook.URL, "hook-secret", true, us)
		if err != nil || created != want {
			t.Fatalf("Register = %v, %v; want %v", created, err, want)
		}
	}
	r := o.reader(nil)
	s, err := r.Snapshot(t.Context())
	o.ok(err)
	o.ok(o.w.RemoveMember(gitlabsim.KindGroup, o.id["haw"], o.id["alice"]))
	select {
	case e := <-events:
		if s, err = r.Refresh(t.Context(), s, e.Changed); err != nil || e.Name != "user_remove_from_group" {
			t.Fatalf("%+v: %v", e, err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no hook came")
	}
	if d := diff(o.want(true), s); d != "" {
		t.Errorf("(-GitLab +Refresh)\n%s", d)
	}
}

func TestEffectiveMembers(t *testing.T) {
	o := newOrg(t)
	got, err := o.reader(nil).EffectiveMembers(t.Context(), authz.GroupID(o.id["world"]))
	if err != nil {
		t.Fatal(err)
	}
	if got[o.id["alice"]] != authz.Owner || got[o.id["bob"]] != authz.Developer || got[o.id["carol"]] != authz.Developer {
		t.Errorf("members %v: want alice (inherited) 50, bob 30, carol (invited) 30", got)
	}
}
