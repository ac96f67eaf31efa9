package gitlabsim

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The tests of this file are named after the list "What surprises" that was gathered from GitLab's sources.

// members asks for one member list and returns "user level expires kind" per row, sorted.
func (f *gqlFixture) members(t *testing.T, as, source, list, relations string) []string {
	t.Helper()
	data, errs := f.ask(t, as, fmt.Sprintf(`{ %s { %s%s { nodes { __typename expiresAt accessLevel { integerValue } user { username }
		... on GroupMember { group { fullPath } } } } } }`, source, list, relations), nil)
	if errs != nil {
		return errs
	}
	root, _, _ := strings.Cut(source, "(")
	var out []string
	for _, n := range dig(t, data, root, list, "nodes").([]any) {
		user := "(nobody)"
		if u := dig(t, n, "user"); u != nil {
			user = dig(t, u, "username").(string)
		}
		row := fmt.Sprintf("%s %v", user, dig(t, n, "accessLevel", "integerValue"))
		if e := dig(t, n, "expiresAt"); e != nil {
			row += " until " + e.(string)
		}
		switch g := dig(t, n, "group"); {
		case dig(t, n, "__typename") == "ProjectMember":
			row += " own"
		case g == nil:
			row += " hidden group"
		default:
			row += " " + dig(t, g, "fullPath").(string)
		}
		out = append(out, row)
	}
	slices.Sort(out)
	return out
}

func TestGraphQLShowsNoShareLinks(t *testing.T) { // 1
	f := newGQLFixture(t, "19.1.0-ee")
	for _, query := range []string{
		`{ group(fullPath: "acme") { sharedWithGroups { id } } }`, `{ group(fullPath: "acme") { invitedGroups { id } } }`,
		`{ project(fullPath: "acme/infra/deep/tool") { sharedWithGroups { id } } }`,
	} {
		if _, errs := f.ask(t, "root", query, nil); len(errs) != 1 || !strings.Contains(errs[0], "doesn't exist on type") {
			t.Errorf("%s: %v", query, errs)
		}
	}
	got := f.data(t, "root", `{ group(fullPath: "partners") { sharedGroups { nodes { fullPath } } sharedProjects { nodes { fullPath } } } }`)
	want := `{"group":{"sharedGroups":{"nodes":[{"fullPath":"acme"}]},"sharedProjects":{"nodes":[{"fullPath":"acme/infra/deep/tool"}]}}}`
	if got != want {
		t.Errorf("the reverse direction: %s, want %s", got, want)
	}
}

func TestGraphQLProjectMembersRelations(t *testing.T) { // 2
	const source = `project(fullPath: "acme/infra/deep/tool")`
	group := []string{"carl 30 until 2020-01-01 acme/infra", "pat 40 until 2031-01-31 acme/infra", "root 50 acme"}
	cases := []struct {
		name, relations string
		want            []string
	}{
		{"exactly DIRECT: own rows, stored level, invitations", "(relations: [DIRECT])", []string{"(nobody) 30 own", "carl 10 own"}},
		{"the default: own rows win, with the authorised level", "", []string{"(nobody) 30 own", "carl 30 own", "pat 40 until 2031-01-31 acme/infra", "root 50 acme"}},
		{"INHERITED brings the group's own rows too", "(relations: [INHERITED])", group},
		{"there is no invited only", "(relations: [INVITED_GROUPS])", []string{"bob 30 partners", "carl 30 until 2020-01-01 acme/infra", "pat 40 partners", "root 50 acme"}},
		{"SHARED_INTO_ANCESTORS", "(relations: [SHARED_INTO_ANCESTORS])", []string{"bob 30 partners", "carl 30 until 2020-01-01 acme/infra", "pat 40 partners", "root 50 acme"}},
	}
	for _, c := range cases {
		f := newGQLFixture(t, "19.1.0-ee")
		if diff := cmp.Diff(c.want, f.members(t, "root", source, "projectMembers", c.relations)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestGraphQLInvitedRowsOfALockedNamespaceHaveLevelZero(t *testing.T) { // 2, section 5
	f := newGQLFixture(t, "19.1.0-ee")
	if err := f.w.UnshareGroup(f.acme, f.partners); err != nil {
		t.Fatal(err)
	}
	if err := f.w.SetShareWithGroupLock(f.acme, true); err != nil {
		t.Fatal(err)
	}
	got := f.members(t, "root", `project(fullPath: "acme/infra/deep/tool")`, "projectMembers", "(relations: [DIRECT, INVITED_GROUPS])")
	want := []string{"(nobody) 30 own", "bob 0 partners", "carl 30 own", "pat 20 partners", "root 50 acme"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestGraphQLGroupMembersIsOneRowPerUser(t *testing.T) { // 3, 4, 5
	cases := []struct {
		name, source, relations string
		want                    []string
	}{
		{
			"DIRECT: expired rows and invitations, no minimal access", "acme/infra", "(relations: [DIRECT])",
			[]string{"carl 30 until 2020-01-01 acme/infra", "pat 20 until 2031-01-31 acme/infra"},
		},
		{"an invitation has no user", "acme", "(relations: [DIRECT])", []string{"(nobody) 10 acme", "carl 20 acme", "root 50 acme"}},
		{"INHERITED is without the group", "acme/infra", "(relations: [INHERITED])", []string{"(nobody) 10 acme", "carl 20 acme", "root 50 acme"}},
		{
			"the default keeps the highest level", "acme/infra", "",
			[]string{"(nobody) 10 acme", "carl 30 until 2020-01-01 acme/infra", "pat 20 until 2031-01-31 acme/infra", "root 50 acme"},
		},
		// The link into acme has expired and caps at Developer: its row hides pat's direct one all the same; bob is blocked.
		{
			"a shared row hides the direct one", "acme/infra", "(relations: [DIRECT, SHARED_FROM_GROUPS])",
			[]string{"bob 30 partners", "carl 30 until 2020-01-01 acme/infra", "pat 30 partners"},
		},
		{"DESCENDANTS", "acme", "(relations: [DESCENDANTS])", []string{"carl 30 until 2020-01-01 acme/infra", "pat 20 until 2031-01-31 acme/infra"}},
		{"levels", "acme", "(relations: [DIRECT], accessLevels: [OWNER])", []string{"root 50 acme"}},
		{"search", "acme", `(search: "CAR")`, []string{"carl 20 acme"}},
	}
	for _, c := range cases {
		f := newGQLFixture(t, "19.1.0-ee")
		got := f.members(t, "root", fmt.Sprintf("group(fullPath: %q)", c.source), "groupMembers", c.relations)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestGraphQLTieKeepsTheGroupsOwnRow(t *testing.T) { // 3
	f := newGQLFixture(t, "19.1.0-ee")
	if err := f.w.SetMember(KindGroup, f.infra, f.users["pat"], Developer, "2031-01-31"); err != nil {
		t.Fatal(err)
	}
	got := f.members(t, "root", `group(fullPath: "acme/infra")`, "groupMembers", "(relations: [SHARED_FROM_GROUPS, DIRECT])")
	want := []string{"bob 30 partners", "carl 30 until 2020-01-01 acme/infra", "pat 30 until 2031-01-31 acme/infra"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestGraphQLInvitedPrivateGroupsAreHiddenFromStrangers(t *testing.T) { // 3
	f := newGQLFixture(t, "19.1.0-ee")
	if err := f.w.ShareGroup(f.open, f.partners, Developer, ""); err != nil {
		t.Fatal(err)
	}
	const relations = "(relations: [DIRECT, SHARED_FROM_GROUPS])"
	full := []string{"bob 30 partners", "ines 50 open", "pat 30 partners"}
	for as, want := range map[string][]string{
		"root": full, "pat": full, "carl": {"ines 50 open"}, "": {"ines 50 open"},
		"ines": {"bob 30 partners", "ines 50 open", "pat 30 partners"},
	} {
		if diff := cmp.Diff(want, f.members(t, as, `group(fullPath: "open")`, "groupMembers", relations)); diff != "" {
			t.Errorf("as %q: %s", as, diff)
		}
	}
}

func TestGraphQLArchivedAndMarkedLookUpwards(t *testing.T) { // 6
	f := newGQLFixture(t, "19.1.0-ee")
	flags := `archived isSelfArchived markedForDeletion markedForDeletionOn isSelfDeletionScheduled`
	state := func(archived, self, marked bool, on string, scheduled bool) string {
		return fmt.Sprintf(`{"archived":%t,"isSelfArchived":%t,"isSelfDeletionScheduled":%t,"markedForDeletion":%t,"markedForDeletionOn":%s}`, archived, self, scheduled, marked, on)
	}
	for source, want := range map[string]string{
		`group(fullPath: "acme")`:                   state(false, false, false, "null", false),
		`group(fullPath: "acme/infra")`:             state(true, true, false, "null", false),
		`group(fullPath: "acme/infra/deep")`:        state(true, false, false, "null", false),
		`project(fullPath: "acme/infra/deep/tool")`: state(true, false, false, "null", false),
		`group(fullPath: "acme/gone")`:              state(false, false, true, `"2026-11-20"`, true),
		`project(fullPath: "acme/gone/old")`:        state(false, false, true, "null", false),
	} {
		if got := f.data(t, "root", "{ x: "+source+" { "+flags+" } }"); got != `{"x":`+want+`}` {
			t.Errorf("%s: %s, want %s", source, got, want)
		}
	}
	if got := f.data(t, "root", `{ groups(active: false) { count nodes { path } } projects(active: true) { nodes { path } } }`); got !=
		`{"groups":{"count":1,"nodes":[{"path":"gone"}]},"projects":{"nodes":[{"path":"solo"}]}}` {
		t.Errorf("active: %s", got)
	}
}

func TestGraphQLNullability(t *testing.T) { // 7
	schema, err := loadGraphQLSchema("19.1.0-ee")
	if err != nil {
		t.Fatal(err)
	}
	for field, want := range map[string]string{"Group.id": "ID", "Group.name": "String", "Project.id": "ID!", "Project.name": "String!", "UserCore.id": "UserID!"} {
		typ, name, _ := strings.Cut(field, ".")
		if got := schema.Types[typ].Fields.ForName(name).Type.String(); got != want {
			t.Errorf("%s is %s, want %s", field, got, want)
		}
	}
}

func TestGraphQLProjectMembersNeedsInlineFragments(t *testing.T) { // 8
	f := newGQLFixture(t, "19.1.0-ee")
	_, errs := f.ask(t, "root", `{ project(fullPath: "x") { projectMembers { nodes { group { id } } } } }`, nil)
	if !slices.Equal(errs, []string{"Field 'group' doesn't exist on type 'MemberInterface'"}) {
		t.Errorf("got %q", errs)
	}
	got := f.data(t, "root", `{ project(fullPath: "lonely/solo") { group { id } namespace { id fullPath } projectMembers { nodes { __typename accessLevel { integerValue stringValue humanAccess }
		... on ProjectMember { project { fullPath } } ... on GroupMember { group { id } } } } } }`)
	want := fmt.Sprintf(`{"project":{"group":null,"namespace":{"fullPath":"lonely","id":"gid://gitlab/Namespaces::UserNamespace/%d"},"projectMembers":{"nodes":[`+
		`{"__typename":"ProjectMember","accessLevel":{"humanAccess":"Owner","integerValue":50,"stringValue":"OWNER"},"project":{"fullPath":"lonely/solo"}}]}}}`, f.namespaceOf(t, "lonely"))
	if got != want {
		t.Errorf("a personal project:\n got %s\nwant %s", got, want)
	}
}

func (f *gqlFixture) namespaceOf(t *testing.T, name string) (id int64) {
	t.Helper()
	f.w.View(func(v *View) { id = v.UserByName(name).NamespaceID })
	return id
}

func TestGraphQLUserTypes(t *testing.T) { // 9
	f := newGQLFixture(t, "19.1.0-ee")
	got := f.data(t, "carl", `{ currentUser { __typename ...u } user(username: "robot") { __typename ...u } service: user(username: "service") { ...u } }
		fragment u on User { username human bot active type state }`)
	want := `{"currentUser":{"__typename":"CurrentUser","active":true,"bot":false,"human":true,"state":"active","type":"HUMAN","username":"carl"},` +
		`"service":{"active":true,"bot":false,"human":false,"state":"active","type":"SERVICE_ACCOUNT","username":"service"},` +
		`"user":{"__typename":"UserCore","active":true,"bot":true,"human":false,"state":"active","type":"PROJECT_BOT","username":"robot"}}`
	if got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	for _, field := range []string{"external", "admin", "locked"} {
		if _, errs := f.ask(t, "root", "{ currentUser { "+field+" } }", nil); !slices.Equal(errs, []string{"Field '" + field + "' doesn't exist on type 'CurrentUser'"}) {
			t.Errorf("%s: %q", field, errs)
		}
	}
	if got := f.data(t, "", `{ currentUser { id } metadata { version } }`); got != `{"currentUser":null,"metadata":null}` {
		t.Errorf("anonymous: %s", got)
	}
}

func TestGraphQLUsers(t *testing.T) {
	f := newGQLFixture(t, "19.1.0-ee")
	names := func(as, args string) string {
		data, errs := f.ask(t, as, `{ users(sort: CREATED_ASC`+args+`) { nodes { username } } }`, nil)
		if errs != nil {
			return strings.Join(errs, "; ")
		}
		var out []string
		for _, n := range dig(t, data, "users", "nodes").([]any) {
			out = append(out, dig(t, n, "username").(string))
		}
		return strings.Join(out, " ")
	}
	for _, c := range []struct{ as, args, want string }{
		{"root", "", "root carl pat bob ines lonely mini robot service guest"},
		{"root", ", humans: true", "root carl pat bob ines lonely mini guest"},
		{"root", ", humans: false", "robot service"},
		{"root", ", active: false", "bob"},
		{"root", ", admins: true", "root"},
		{"root", `, usernames: ["CARL", "bob"]`, "carl bob"},
		{"root", fmt.Sprintf(`, groupId: "gid://gitlab/Group/%d"`, f.infra), "root carl pat bob"},
		{"carl", `, usernames: ["carl", "bob"]`, "carl"}, // blocked people are for administrators
		{"", "", errNotAvailable},
	} {
		if got := names(c.as, c.args); got != c.want {
			t.Errorf("as %q%s: %s, want %s", c.as, c.args, got, c.want)
		}
	}
}

func TestGraphQLEnvironmentsOfOneProjectOnly(t *testing.T) { // 11
	f := newGQLFixture(t, "19.1.0-ee")
	got := f.data(t, "root", `{ project(fullPath: "acme/infra/deep/tool") { environments { count nodes { id name slug state tier environmentType path } }
		environment(name: "review/one") { name } ciCdSettings { pipelineVariablesMinimumOverrideRole } } }`)
	want := `{"project":{"ciCdSettings":{"pipelineVariablesMinimumOverrideRole":"no_one_allowed"},"environment":{"name":"review/one"},"environments":{"count":1,"nodes":[` +
		`{"environmentType":"review","id":"gid://gitlab/Environment/5","name":"review/one","path":"/acme/infra/deep/tool/-/environments/5","slug":"review-one-abc","state":"available","tier":"DEVELOPMENT"}]}}}`
	if got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	data, errs := f.ask(t, "root", `{ projects { nodes { path environments { nodes { name } } } } }`, nil)
	if len(errs) != 2 || errs[0] != `"environments" field can be requested only for 1 Project(s) at a time.` {
		t.Errorf("three projects: %q", errs)
	}
	if got := jsonText(t, data); strings.Count(got, `"environments":null`) != 2 {
		t.Errorf("data beside errors: %s", got)
	}
}

func TestGraphQLPages(t *testing.T) { // 12
	f := newGQLFixture(t, "19.1.0-ee")
	for i := range 230 {
		// Names in another order than ids, and some of them equal.
		id := gqlMust(t)(f.w.AddGroup(Group{Path: fmt.Sprintf("g%03d", i), Name: fmt.Sprintf("n%02d", (i*37)%90), Visibility: Private, CreatedAt: time.Unix(int64(i*7919%1000), 0)}))
		u := gqlMust(t)(f.w.AddUser(User{Username: fmt.Sprintf("u%03d", i), Name: fmt.Sprintf("N%02d", i%50), CreatedAt: time.Unix(int64(i%13), 0)}))
		gqlMust(t)(f.w.AddProject(Project{Path: fmt.Sprintf("p%03d", i), NamespaceID: id}))
		if err := f.w.SetMember(KindGroup, f.open, u, []int{Guest, Reporter, Developer}[i%3], ""); err != nil {
			t.Fatal(err)
		}
	}
	lists := []struct {
		name, query string
		total       int
		path        []string
	}{
		{"groups by id", `query($n: Int, $c: String) { groups(first: $n, after: $c, sort: "id_asc") { ...x } } fragment x on GroupConnection { pageInfo { hasNextPage endCursor } nodes { id } }`, 237, []string{"groups"}},
		{"groups by name", `query($n: Int, $c: String) { groups(first: $n, after: $c) { ...x } } fragment x on GroupConnection { pageInfo { hasNextPage endCursor } nodes { id } }`, 237, []string{"groups"}},
		{"groups by date", `query($n: Int, $c: String) { groups(first: $n, after: $c, sort: "created_at_desc") { ...x } } fragment x on GroupConnection { pageInfo { hasNextPage endCursor } nodes { id } }`, 237, []string{"groups"}},
		{"projects by default", `query($n: Int, $c: String) { projects(first: $n, after: $c) { pageInfo { hasNextPage endCursor } nodes { id } } }`, 233, []string{"projects"}},
		{"users", `query($n: Int, $c: String) { users(first: $n, after: $c) { pageInfo { hasNextPage endCursor } nodes { id } } }`, 240, []string{"users"}},
		{"members", `query($n: Int, $c: String) { group(fullPath: "open") { groupMembers(first: $n, after: $c) { pageInfo { hasNextPage endCursor } nodes { id } } } }`, 231, []string{"group", "groupMembers"}},
		{"members by level", `query($n: Int, $c: String) { group(fullPath: "open") { groupMembers(first: $n, after: $c, sort: ACCESS_LEVEL_DESC) { pageInfo { hasNextPage endCursor } nodes { id } } } }`, 231, []string{"group", "groupMembers"}},
		{"members by name", `query($n: Int, $c: String) { group(fullPath: "open") { groupMembers(first: $n, after: $c, sort: USER_FULL_NAME_ASC) { pageInfo { hasNextPage endCursor } nodes { id } } } }`, 231, []string{"group", "groupMembers"}},
		{"descendants", `query($n: Int, $c: String) { group(fullPath: "acme") { descendantGroups(first: $n, after: $c) { pageInfo { hasNextPage endCursor } nodes { id } } } }`, 3, []string{"group", "descendantGroups"}},
	}
	for _, l := range lists {
		for size, want := range map[int]int{1: 1, 7: 7, 100: 100, 500: 100} { // more than 100 is silently cut
			seen := map[string]int{}
			var cursor any
			for pages := 0; ; pages++ {
				data, errs := f.ask(t, "root", l.query, map[string]any{"n": size, "c": cursor})
				if errs != nil || pages > l.total {
					t.Fatalf("%s: %v after %d pages", l.name, errs, pages)
				}
				c := dig(t, data, l.path...)
				nodes := dig(t, c, "nodes").([]any)
				for _, n := range nodes {
					seen[dig(t, n, "id").(string)]++
				}
				if dig(t, c, "pageInfo", "hasNextPage") == false {
					break
				}
				if len(nodes) != want {
					t.Fatalf("%s: a page of %d, want %d", l.name, len(nodes), want)
				}
				cursor = dig(t, c, "pageInfo", "endCursor")
			}
			for id, n := range seen {
				if n != 1 {
					t.Errorf("%s, pages of %d: %s came %d times", l.name, size, id, n)
				}
			}
			if len(seen) != l.total {
				t.Errorf("%s, pages of %d: %d rows, want %d", l.name, size, len(seen), l.total)
			}
		}
	}

	page := func(args string) any {
		data, errs := f.ask(t, "root", `{ groups(`+args+`) { count(limit: 5) pageInfo { hasNextPage hasPreviousPage startCursor endCursor } edges { cursor node { path } } } }`, nil)
		if errs != nil {
			return errs[0]
		}
		return data
	}
	paths := func(v any) (out []string) {
		for _, e := range dig(t, v, "groups", "edges").([]any) {
			out = append(out, dig(t, e, "node", "path").(string))
		}
		return out
	}
	if got := len(paths(page(`sort: "id_asc"`))); got != 100 {
		t.Errorf("the default page has %d rows, want 100", got)
	}
	if got := page(`first: 1, last: 1`); got != "Can only provide either `first` or `last`, not both" {
		t.Errorf("first and last: %v", got)
	}
	third := page(`sort: "path_asc", first: 3`)
	if diff := cmp.Diff([]string{"acme", "deep", "g000"}, paths(third)); diff != "" {
		t.Error(diff)
	}
	if got := dig(t, third, "groups", "count"); got != 6.0 {
		t.Errorf("count(limit: 5) = %v, want 6", got)
	}
	end := dig(t, third, "groups", "pageInfo", "endCursor").(string)
	back := page(fmt.Sprintf(`sort: "path_asc", last: 1, before: %q`, end))
	if diff := cmp.Diff([]string{"deep"}, paths(back)); diff != "" {
		t.Error(diff)
	}
	if dig(t, back, "groups", "pageInfo", "hasPreviousPage") != true || dig(t, back, "groups", "pageInfo", "hasNextPage") != true {
		t.Errorf("pageInfo in the middle: %v", dig(t, back, "groups", "pageInfo"))
	}
	for _, args := range []string{fmt.Sprintf(`sort: "path_desc", after: %q`, end), fmt.Sprintf(`sort: "id_asc", after: %q`, end), `after: "rubbish"`} {
		if got := page(args); got != "Please provide a valid cursor" {
			t.Errorf("%s: %v", args, got)
		}
	}
}

// Nothing is lost or doubled when things come and go between the pages of a walk by id.
func TestGraphQLPagesByIDSurviveChanges(t *testing.T) {
	f := newGQLFixture(t, "19.1.0-ee")
	first, errs := f.ask(t, "root", `{ groups(first: 3, sort: "id_asc") { pageInfo { endCursor } nodes { path } } }`, nil)
	if errs != nil {
		t.Fatal(errs)
	}
	if err := f.w.DeleteGroup(f.partners); err != nil { // was on the first page
		t.Fatal(err)
	}
	if err := f.w.RenameGroup(f.deep, "aaa", "aaa"); err != nil {
		t.Fatal(err)
	}
	got := f.data(t, "root", fmt.Sprintf(`{ groups(first: 3, sort: "id_asc", after: %q) { nodes { path } } }`, dig(t, first, "groups", "pageInfo", "endCursor")))
	if want := `{"groups":{"nodes":[{"path":"infra"},{"path":"aaa"},{"path":"gone"}]}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestGraphQLVisibility(t *testing.T) {
	f := newGQLFixture(t, "19.1.0-ee")
	gqlMust(t)(f.w.AddGroup(Group{Path: "staff", Visibility: Internal}))
	lists := func(as string) string {
		data, errs := f.ask(t, as, `{ groups(sort: "id_asc") { nodes { path } } projects(sort: "id_asc") { nodes { path } } }`, nil)
		if errs != nil {
			t.Fatal(errs)
		}
		var out []string
		for _, list := range []string{"groups", "projects"} {
			for _, n := range dig(t, data, list, "nodes").([]any) {
				out = append(out, dig(t, n, "path").(string))
			}
		}
		return strings.Join(out, " ")
	}
	for as, want := range map[string]string{
		"root":   "partners inner acme infra deep gone open staff tool old solo",
		"":       "open",
		"guest":  "open", // external users do not see internal things
		"mini":   "acme infra open staff",
		"ines":   "partners inner open staff", // sees the parent of their group
		"pat":    "partners inner acme infra deep gone open staff tool old",
		"lonely": "open staff solo",
	} {
		if got := lists(as); got != want {
			t.Errorf("as %q: %s, want %s", as, got, want)
		}
	}
	if got := f.data(t, "lonely", `{ group(fullPath: "acme") { id } project(fullPath: "acme/infra/deep/tool") { id } namespace(fullPath: "acme") { id } }`); got != `{"group":null,"namespace":null,"project":null}` {
		t.Errorf("what one may not see is null: %s", got)
	}
	// ines sees the group above theirs, but not who is in it.
	data, errs := f.ask(t, "ines", `{ group(fullPath: "partners") { path groupMembers { nodes { id } } maxAccessLevel { integerValue } } }`, nil)
	if got := jsonText(t, data); got != `{"group":{"groupMembers":null,"maxAccessLevel":{"integerValue":0},"path":"partners"}}` || !slices.Equal(errs, []string{errNotAvailable}) {
		t.Errorf("got %s, %q", got, errs)
	}
	// Invitations by e-mail are shown to those who may administer the project.
	for as, want := range map[string]int{"root": 2, "pat": 2, "carl": 1} {
		if got := f.members(t, as, `project(fullPath: "acme/infra/deep/tool")`, "projectMembers", "(relations: [DIRECT])"); len(got) != want {
			t.Errorf("as %s: %v, want %d rows", as, got, want)
		}
	}
}

func TestGraphQLFilters(t *testing.T) {
	f := newGQLFixture(t, "19.1.0-ee")
	for query, want := range map[string]string{
		`groups(topLevelOnly: true) { nodes { path } }`:                                                           `{"nodes":[{"path":"acme"},{"path":"open"},{"path":"partners"}]}`,
		`groups(parentPath: "acme") { nodes { path } }`:                                                           `{"nodes":[{"path":"gone"},{"path":"infra"}]}`,
		`groups(allAvailable: false) { nodes { path } }`:                                                          `{"nodes":[{"path":"acme"},{"path":"deep"},{"path":"gone"},{"path":"infra"}]}`,
		`groups(search: "FRA/de") { nodes { path } }`:                                                             `{"nodes":[{"path":"deep"}]}`,
		`projects(archived: EXCLUDE) { nodes { path } }`:                                                          `{"nodes":[{"path":"solo"},{"path":"old"}]}`,
		`projects(archived: ONLY) { nodes { path } }`:                                                             `{"nodes":[{"path":"tool"}]}`,
		`projects(membership: true, minAccessLevel: OWNER) { nodes { path } }`:                                    `{"nodes":[{"path":"old"},{"path":"tool"}]}`,
		`projects(namespacePath: "LONELY") { nodes { path } }`:                                                    `{"nodes":[{"path":"solo"}]}`,
		`projects(fullPaths: ["acme/gone/OLD"]) { nodes { path } }`:                                               `{"nodes":[{"path":"old"}]}`,
		`group(fullPath: "ACME") { projects { nodes { path } } }`:                                                 `{"projects":{"nodes":[]}}`,
		`group(fullPath: "acme") { projects(includeSubgroups: true) { nodes { path } } }`:                         `{"projects":{"nodes":[{"path":"old"},{"path":"tool"}]}}`,
		`group(fullPath: "acme") { projects(includeSubgroups: true, includeArchived: false) { nodes { path } } }`: `{"projects":{"nodes":[{"path":"old"}]}}`,
		`group(fullPath: "acme") { descendantGroups(includeParentDescendants: false) { nodes { path } } }`:        `{"descendantGroups":{"nodes":[{"path":"gone"},{"path":"infra"}]}}`,
		`group(fullPath: "acme/infra") { descendantGroupsCount projectsCount groupMembersCount fullName rootNamespace { fullPath } parent { path } shareWithGroupLock webUrl }`:          `{"descendantGroupsCount":1,"fullName":"acme / infra","groupMembersCount":3,"parent":{"path":"acme"},"projectsCount":0,"rootNamespace":{"fullPath":"acme"},"shareWithGroupLock":false,"webUrl":"https://gitlab.test/groups/acme/infra"}`,
		`user(username: "carl") { groupMemberships { nodes { group { path } accessLevel { integerValue } createdBy { username } } } projectMemberships { nodes { project { path } } } }`: `{"groupMemberships":{"nodes":[{"accessLevel":{"integerValue":30},"createdBy":null,"group":{"path":"infra"}},{"accessLevel":{"integerValue":20},"createdBy":{"username":"root"},"group":{"path":"acme"}}]},"projectMemberships":{"nodes":[{"project":{"path":"tool"}}]}}`,
	} {
		if got := f.data(t, "root", "{ x: "+query+" }"); got != `{"x":`+want+`}` {
			t.Errorf("%s\n got %s\nwant %s", query, got, `{"x":`+want+`}`)
		}
	}
}
