package gitlab

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// foreign is a GitLab made by somebody else: REST only, over plain HTTP, with its own idea of paging and without
// every field that GitLab's documentation calls optional, or that a small stand-in might forget. It shares nothing
// with internal/gitlabsim.
type foreign struct {
	paging  string   // "x-next-page", "link", "none" (pages without headers), "all" (no pages at all)
	cap     int      // most items of a page, whatever is asked for
	without []string // fields that are left out of every answer
	gone    []string // paths that are answered 404
	graphQL int      // status of /api/graphql
}

type object = map[string]any

// foreignUser is an account: 1 is the administrator, 13 is blocked, 15 is a bot.
func foreignUser(id int64) object {
	name, state := fmt.Sprintf("user%d", id), "active"
	switch id {
	case 1:
		name = "root"
	case 13:
		state = "blocked"
	case 15:
		name = "project_10_bot_3cca1d02"
	}
	return object{
		"id": id, "username": name, "name": strings.ToUpper(name), "state": state, "created_at": "2020-01-01T00:00:00.000Z",
		"is_admin": id == 1, "bot": id == 15,
	}
}

func foreignMember(id int64, level int) object {
	u := foreignUser(id)
	return object{"id": id, "username": u["username"], "name": u["name"], "state": u["state"], "access_level": level, "expires_at": nil, "membership_state": "active"}
}

// data is the whole instance: groups haw, haw/world, partner and six more; a project shared with partner; a personal
// project of user2; eleven people in partner, so that lists have pages.
func (f *foreign) data() map[string][]object {
	d := map[string][]object{}
	for i := range int64(15) {
		d["users"] = append(d["users"], foreignUser(i+1))
	}
	group := func(id, parent int64, path string, links ...object) {
		g := object{
			"id": id, "name": path, "path": path[strings.LastIndexByte(path, '/')+1:], "full_path": path, "parent_id": nil, "visibility": "private",
			"created_at": "2020-01-01T00:00:00.000Z", "share_with_group_lock": false, "archived": false, "marked_for_deletion_on": nil, "shared_with_groups": []object{},
		}
		if parent != 0 {
			g["parent_id"] = parent
		}
		if links != nil {
			g["shared_with_groups"] = links
		}
		d["groups"] = append(d["groups"], g)
	}
	link := func(group int64, level int) object {
		return object{"group_id": group, "group_access_level": level, "expires_at": nil}
	}
	group(1, 0, "haw")
	group(2, 1, "haw/world", link(3, 20))
	group(3, 0, "partner")
	for i := range int64(6) {
		group(4+i, 0, fmt.Sprintf("other%d", i))
	}
	project := func(id int64, path string, namespace, owner object, links []object) {
		p := object{
			"id": id, "path_with_namespace": path, "created_at": "2020-01-01T00:00:00.000Z", "archived": false, "marked_for_deletion_on": nil,
			"namespace": namespace, "shared_with_groups": links, "visibility": "private",
		}
		if owner != nil {
			p["owner"] = owner
		}
		d["projects"] = append(d["projects"], p)
	}
	project(10, "haw/world/app", object{"id": 2, "kind": "group", "full_path": "haw/world", "path": "world"}, nil, []object{link(3, 30)})
	project(11, "user2/dotfiles", object{"id": 900, "kind": "user", "full_path": "user2", "path": "user2"}, object{"id": 2}, []object{})
	for i := range int64(7) {
		project(20+i, fmt.Sprintf("partner/p%d", i), object{"id": 3, "kind": "group", "full_path": "partner", "path": "partner"}, nil, []object{})
	}
	d["groups/1/members"] = []object{foreignMember(2, 50)}
	d["groups/2/members"] = []object{foreignMember(3, 30)}
	for i := range int64(11) {
		d["groups/3/members"] = append(d["groups/3/members"], foreignMember(4+i, 40))
	}
	d["projects/10/members"] = []object{foreignMember(14, 40), foreignMember(15, 40)}
	d["projects/11/members"] = []object{foreignMember(2, 50)}
	return d
}

func (f *foreign) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/api/v4/")
	switch {
	case r.Header.Get("PRIVATE-TOKEN") != "secret":
		http.Error(w, `{"message":"401 Unauthorized"}`, http.StatusUnauthorized)
		return
	case r.URL.Path == "/api/graphql":
		http.Error(w, `{"error":"404 Not Found"}`, f.graphQL)
		return
	case slices.Contains(f.gone, path):
		http.Error(w, `{"message":"404 Not Found"}`, http.StatusNotFound)
		return
	}
	data := f.data()
	if path == "user" {
		f.answer(w, data["users"][0])
		return
	}
	if kind, id, ok := strings.Cut(path, "/"); ok && !strings.Contains(id, "/") {
		for _, o := range data[kind] {
			if fmt.Sprint(o["id"]) == id {
				f.answer(w, o)
				return
			}
		}
		http.Error(w, `{"message":"404 Not found"}`, http.StatusNotFound)
		return
	}
	list := data[path]
	if list == nil && !strings.HasSuffix(path, "/members") {
		http.Error(w, `{"error":"404 Not Found"}`, http.StatusNotFound)
		return
	}
	if list == nil {
		list = []object{}
	}
	if path == "users" && r.URL.Query().Get("humans") == "true" {
		list = slices.DeleteFunc(list, func(o object) bool { return o["bot"] == true })
	}
	if name := r.URL.Query().Get("username"); name != "" {
		list = slices.DeleteFunc(list, func(o object) bool { return o["username"] != name })
	}
	if path == "groups" {
		for _, g := range list {
			delete(g, "shared_with_groups") // only in the answer for a single group
		}
	}
	f.answer(w, f.page(w, r, list))
}

func (f *foreign) page(w http.ResponseWriter, r *http.Request, list []object) []object {
	if f.paging == "all" {
		return list
	}
	size, page := 20, 1
	if n, err := strconv.Atoi(r.URL.Query().Get("per_page")); err == nil {
		size = n
	}
	if n, err := strconv.Atoi(r.URL.Query().Get("page")); err == nil {
		page = n
	}
	size = min(size, f.cap)
	from, to := min((page-1)*size, len(list)), min(page*size, len(list))
	next := ""
	if to < len(list) {
		next = strconv.Itoa(page + 1)
	}
	switch f.paging {
	case "x-next-page":
		w.Header().Set("x-next-page", next)
	case "link":
		if next != "" {
			u := *r.URL
			q := u.Query()
			q.Set("page", next)
			w.Header().Set("Link", fmt.Sprintf(`<http://%s%s?%s>; rel="next", <http://%s%s?page=1>; rel="first"`, r.Host, u.Path, q.Encode(), r.Host, u.Path))
		}
	}
	return list[from:to]
}

func (f *foreign) answer(w http.ResponseWriter, v any) {
	strip := func(o object) {
		for _, field := range f.without {
			if of, name, nested := strings.Cut(field, "."); nested {
				if inner, ok := o[of].(object); ok {
					delete(inner, name)
				}
				continue
			}
			delete(o, field)
		}
	}
	switch v := v.(type) {
	case object:
		strip(v)
	case []object:
		for _, o := range v {
			strip(o)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func foreignReader(t *testing.T, f *foreign) *Reader {
	t.Helper()
	if f.graphQL == 0 {
		f.graphQL = http.StatusNotFound
	}
	if f.cap == 0 {
		f.cap = 4
	}
	if f.paging == "" {
		f.paging = "x-next-page"
	}
	server := httptest.NewServer(f)
	hc := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	t.Cleanup(func() { hc.CloseIdleConnections(); server.Close() })
	r, err := NewReader(Options{
		BaseURL: server.URL, Token: func() (string, error) { return "secret", nil }, HTTPClient: hc, RetryWait: time.Millisecond,
		MaxRetries: 1, NoPacing: true, IncludeUsers: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// rightsOf are the levels of everybody in a source, written as "user: level" in order.
func rightsOf(s *authz.Snapshot, id authz.SourceID) string {
	var out []string
	for a := range authz.NewResolver(s, time.Now()).Members(id).All() {
		u := a.User
		if user := s.Users[u]; user.State == authz.StateActive && user.Human {
			out = append(out, fmt.Sprintf("%d:%d", u, a.Level))
		}
	}
	slices.SortFunc(out, func(a, b string) int { return cmp2(a) - cmp2(b) })
	return strings.Join(out, " ")
}

func cmp2(s string) int { id, _, _ := strings.Cut(s, ":"); n, _ := strconv.Atoi(id); return n }

// TestForeignGitLab reads servers that are built in other ways than the simulator. The rights are the same by each
// of them, or, where an answer leaves open what somebody may do, the source is marked as unread.
func TestForeignGitLab(t *testing.T) {
	for _, tt := range []struct {
		name    string
		server  foreign
		missing []authz.SourceID
		noApp   bool // nothing is known about the links of project 10
	}{
		{name: "x-next-page only", server: foreign{paging: "x-next-page"}},
		{name: "Link only", server: foreign{paging: "link"}},
		{name: "no paging headers", server: foreign{paging: "none"}},
		{name: "no paging headers, larger pages than asked for", server: foreign{paging: "none", cap: 3}},
		{name: "no pages", server: foreign{paging: "all"}},
		{name: "pages of one", server: foreign{paging: "link", cap: 1}},
		{name: "GraphQL not implemented", server: foreign{graphQL: http.StatusNotImplemented}},
		{name: "GraphQL not allowed", server: foreign{graphQL: http.StatusMethodNotAllowed}},
		{name: "no /user", server: foreign{gone: []string{"user"}}},
		{name: "no dates, no administrator, no flags", server: foreign{
			without: []string{"created_at", "is_admin", "archived", "marked_for_deletion_on", "share_with_group_lock", "expires_at", "bot", "visibility", "name"},
		}},
		{name: "no kind of namespace", server: foreign{without: []string{"namespace.kind"}}},
		{name: "only the id of the namespace", server: foreign{without: []string{"namespace.kind", "namespace.full_path", "namespace.path", "owner"}}},
		{name: "no namespace", server: foreign{without: []string{"namespace"}}},
		{name: "no owner", server: foreign{without: []string{"owner"}}},
		{name: "no parent", server: foreign{without: []string{"parent_id"}}},
		{name: "it knows no sharing", server: foreign{without: []string{"shared_with_groups"}}, noApp: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, size := range []int{4, 100} {
				r := foreignReader(t, &tt.server)
				r.api.pageSize = size
				s, err := r.Snapshot(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if s.MissingAll != "" || len(s.Missing) != len(tt.missing) {
					t.Fatalf("missing %v %s", s.Missing, s.MissingAll)
				}
				if len(s.Groups) != 9 || len(s.Projects) != 9 || len(s.Users) != 15 {
					t.Errorf("%d groups, %d projects, %d users", len(s.Groups), len(s.Projects), len(s.Users))
				}
				want := map[authz.SourceID]string{
					authz.GroupID(1):    "2:50",
					authz.GroupID(2):    "2:50 3:30 4:20 5:20 6:20 7:20 8:20 9:20 10:20 11:20 12:20 14:20",
					authz.GroupID(3):    "4:40 5:40 6:40 7:40 8:40 9:40 10:40 11:40 12:40 14:40",
					authz.ProjectID(10): "2:50 3:30 4:30 5:30 6:30 7:30 8:30 9:30 10:30 11:30 12:30 14:40",
					authz.ProjectID(11): "2:50",
					authz.ProjectID(26): "4:40 5:40 6:40 7:40 8:40 9:40 10:40 11:40 12:40 14:40",
				}
				if tt.noApp {
					want[authz.GroupID(2)], want[authz.ProjectID(10)] = "2:50 3:30", "2:50 3:30 14:40"
				}
				got := map[authz.SourceID]string{}
				for id := range want {
					got[id] = rightsOf(s, id)
				}
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("rights (-want +got)\n%s", d)
				}
				// Reading single things again changes nothing.
				again, err := r.Refresh(t.Context(), s, []authz.SourceID{authz.GroupID(2), authz.ProjectID(10), authz.ProjectID(11), authz.UserID(3)})
				if err != nil {
					t.Fatal(err)
				}
				if d := diff(s, again); d != "" {
					t.Errorf("refreshed (-before +after)\n%s", d)
				}
			}
		})
	}
}

// TestForeignAnswersThatLeaveThingsOpen: half an answer takes no right away and gives none.
func TestForeignAnswersThatLeaveThingsOpen(t *testing.T) {
	t.Run("member rows without state", func(t *testing.T) {
		f := &foreign{}
		r := foreignReader(t, f)
		s, err := r.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		f.without = []string{"state", "username"}
		again, err := r.Refresh(t.Context(), s, []authz.SourceID{authz.GroupID(3), authz.ProjectID(10)})
		if err != nil {
			t.Fatal(err)
		}
		if d := diff(s, again); d != "" {
			t.Errorf("(-before +after)\n%s", d)
		}
	})
	t.Run("links that were there are not told any more", func(t *testing.T) {
		f := &foreign{}
		r := foreignReader(t, f)
		s, err := r.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		f.without = []string{"shared_with_groups"}
		again, err := r.Refresh(t.Context(), s, []authz.SourceID{authz.GroupID(2), authz.ProjectID(10), authz.ProjectID(20)})
		if err != nil {
			t.Fatal(err)
		}
		if again.Missing[authz.GroupID(2)] == "" || again.Missing[authz.ProjectID(10)] == "" || len(again.Missing) != 2 {
			t.Errorf("missing %v: want group/2 and project/10", again.Missing)
		}
	})
	t.Run("accounts without state have no rights", func(t *testing.T) {
		s, err := foreignReader(t, &foreign{without: []string{"state"}}).Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := rightsOf(s, authz.GroupID(1)); got != "" {
			t.Errorf("rights %s", got)
		}
	})
	t.Run("a subgroup whose parent is not visible", func(t *testing.T) {
		r := foreignReader(t, &foreign{without: []string{"parent_id", "full_path"}})
		s, err := r.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		// Without a path nobody can say where the group is: then it is a group of its own, and nothing is inherited.
		if got := rightsOf(s, authz.GroupID(2)); strings.Contains(got, "2:50") {
			t.Errorf("rights %s", got)
		}
	})
	t.Run("pages in a circle", func(t *testing.T) {
		f := &foreign{paging: "all"}
		r := foreignReader(t, f)
		r.api.pageSize = 9 // as many as there are: is this all?
		s, err := r.Snapshot(t.Context())
		if err == nil && s.MissingAll == "" {
			t.Error("a full page that comes again and again was taken for the whole list")
		}
	})
}
