package gitlabsim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"
)

// gqlFixture is a world with one of everything that surprises:
//
//	acme (private; root owner; carl maintainer; an invitation by e-mail; partners invited as Developer, link expired)
//	├─ acme/infra (archived; carl again as Developer until 2020; mini with minimal access)
//	│  └─ acme/infra/deep; project acme/infra/deep/tool (shares with partners as Maintainer; carl Guest)
//	├─ acme/gone (marked for deletion) with project acme/gone/old
//	partners (private; pat owner, blocked bob developer) ← inside: partners/inner (ines owner)
//	open (public; ines owner); lonely/solo is a personal project of lonely
type gqlFixture struct {
	w *World
	e *graphQLEndpoint

	acme, infra, deep, gone, partners, inner, open int64
	tool, old, solo                                int64
	users                                          map[string]int64
}

func newGQLFixture(t *testing.T, version string) *gqlFixture {
	t.Helper()
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	w := NewWorld(func() time.Time { return now })
	f := &gqlFixture{w: w, users: map[string]int64{}}
	for _, u := range []User{
		{Username: "root", Admin: true},
		{Username: "carl", Name: "Carl"},
		{Username: "pat"},
		{Username: "bob", State: StateBlocked},
		{Username: "ines"},
		{Username: "lonely"},
		{Username: "mini"},
		{Username: "robot", Type: "PROJECT_BOT"},
		{Username: "service", Type: "SERVICE_ACCOUNT"},
		{Username: "guest", External: true},
	} {
		f.users[u.Username] = gqlMust(t)(w.AddUser(u))
	}
	id := func(name string) int64 { return f.users[name] }
	f.partners = gqlMust(t)(w.AddGroup(Group{Path: "partners", Visibility: Private, Members: []Member{{UserID: id("pat"), Level: Owner}, {UserID: id("bob"), Level: Developer}}}))
	f.inner = gqlMust(t)(w.AddGroup(Group{Path: "inner", ParentID: f.partners, Visibility: Private, Members: []Member{{UserID: id("ines"), Level: Owner}}}))
	f.acme = gqlMust(t)(w.AddGroup(Group{
		Path: "acme", Visibility: Private,
		Members: []Member{{UserID: id("root"), Level: Owner}, {UserID: id("carl"), Level: Reporter, CreatedByID: id("root")}, {Level: Guest}},
		Links:   []GroupLink{{GroupID: f.partners, Level: Developer, ExpiresAt: "2020-01-01"}},
	}))
	f.infra = gqlMust(t)(w.AddGroup(Group{
		Path: "infra", ParentID: f.acme, Visibility: Private, SelfArchived: true,
		Members: []Member{{UserID: id("carl"), Level: Developer, ExpiresAt: "2020-01-01"}, {UserID: id("mini"), Level: MinimalAccess}, {UserID: id("pat"), Level: Reporter, ExpiresAt: "2031-01-31"}},
	}))
	f.deep = gqlMust(t)(w.AddGroup(Group{Path: "deep", ParentID: f.infra, Visibility: Private}))
	f.gone = gqlMust(t)(w.AddGroup(Group{Path: "gone", ParentID: f.acme, Visibility: Private, MarkedForDeletionOn: "2026-11-20"}))
	f.open = gqlMust(t)(w.AddGroup(Group{Path: "open", Visibility: Public, Members: []Member{{UserID: id("ines"), Level: Owner}}}))
	f.tool = gqlMust(t)(w.AddProject(Project{
		Path: "tool", NamespaceID: f.deep, Members: []Member{{UserID: id("carl"), Level: Guest}, {Level: Developer}},
		Links:        []GroupLink{{GroupID: f.partners, Level: Maintainer}},
		Environments: []Environment{{ID: 5, Name: "review/one", Slug: "review-one-abc", State: "available", Tier: "development"}},
	}))
	f.old = gqlMust(t)(w.AddProject(Project{Path: "old", NamespaceID: f.gone}))
	f.solo = gqlMust(t)(w.AddProject(Project{Path: "solo", OwnerID: id("lonely")}))

	authenticate := func(r *http.Request) (*User, []string, error) {
		name := r.Header.Get("Test-User")
		switch name {
		case "":
			return nil, nil, nil
		case "nobody":
			return nil, nil, errors.New("no such token")
		}
		name, scope, scoped := strings.Cut(name, " ")
		if !scoped {
			scope = "read_api"
		}
		return &User{ID: id(name)}, []string{scope}, nil
	}
	var err error
	f.e, err = newGraphQLEndpoint(w, version, func() string { return "https://gitlab.test" }, authenticate)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func gqlMust(t *testing.T) func(int64, error) int64 {
	return func(id int64, err error) int64 {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
}

// send posts a body and returns the status and what came back.
func (f *gqlFixture) send(t *testing.T, as string, body any) (int, any) {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/api/graphql", strings.NewReader(string(raw)))
	r.Header.Set("Test-User", as)
	rec := httptest.NewRecorder()
	f.e.ServeHTTP(rec, r)
	answer, err := io.ReadAll(rec.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(answer, &out); err != nil {
		t.Fatalf("answer %q: %v", answer, err)
	}
	return rec.Code, out
}

// ask runs one query and returns its data and the messages of its errors.
func (f *gqlFixture) ask(t *testing.T, as, query string, vars map[string]any) (any, []string) {
	t.Helper()
	status, out := f.send(t, as, map[string]any{"query": query, "variables": vars})
	if status != http.StatusOK {
		t.Fatalf("status %d: %v", status, out)
	}
	answer := out.(map[string]any)
	var messages []string
	if list, ok := answer["errors"].([]any); ok {
		for _, e := range list {
			messages = append(messages, e.(map[string]any)["message"].(string))
		}
	}
	return answer["data"], messages
}

// data is ask for a query that must not fail, as JSON text.
func (f *gqlFixture) data(t *testing.T, as, query string) string {
	t.Helper()
	data, errs := f.ask(t, as, query, nil)
	if errs != nil {
		t.Fatalf("%s: %v", query, errs)
	}
	return jsonText(t, data)
}

func jsonText(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// dig follows keys into decoded JSON.
func dig(t *testing.T, v any, path ...string) any {
	t.Helper()
	for _, k := range path {
		m, ok := v.(map[string]any)
		if !ok {
			t.Fatalf("no object above %q in %v", k, path)
		}
		v = m[k]
	}
	return v
}

func TestGraphQLReadyQueriesHaveTheirScores(t *testing.T) {
	f := newGQLFixture(t, "19.1.0-ee")
	if err := f.w.RenameGroup(f.open, "a", ""); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("testdata/graphql/*.graphql")
	if err != nil || len(files) != 7 {
		t.Fatalf("found %d queries, want the seven ready ones (%v)", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".graphql"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var want int
			if _, err := fmt.Sscanf(string(text), "# score: %d", &want); err != nil {
				t.Fatal(err)
			}
			p := gqlPrepare(f.e.schema, graphQLRequest{Query: string(text)})
			if p.errs != nil {
				t.Fatal(p.errs)
			}
			if got := (&analysis{schema: f.e.schema, vars: p.x.vars}).complexity(p.op); got != want {
				t.Errorf("score %d, want %d", got, want)
			}
			if _, errs := f.ask(t, "root", string(text), nil); errs != nil {
				t.Errorf("GitLab would run it, the simulator says %v", errs)
			}
		})
	}
}

func TestGraphQLScore(t *testing.T) {
	f := newGQLFixture(t, "19.1.0-ee")
	cases := []struct {
		query string
		vars  map[string]any
		want  int
	}{
		{`{ groups(first: 50) { nodes { id } } }`, nil, 6},                                                  // (2+1+sort) × 1.5
		{`{ groups(first: 3) { nodes { id } } }`, nil, 4},                                                   // 4 × 1.03, cut to an integer
		{`{ groups(last: 500) { nodes { id } } }`, nil, 8},                                                  // never more than 100 counts
		{`query($n: Int) { groups(first: $n) { nodes { id } } }`, map[string]any{"n": 50}, 6},               // by variable
		{`{ groups(search: "x") { nodes { id } } }`, nil, 18},                                               // + 5
		{`{ projects(ids: ["gid://gitlab/Project/1"]) { nodes { id } } }`, nil, 6},                          // no default sort, ids lower nothing
		{`{ group(fullPath: "a") { projects { nodes { id } } } }`, nil, 27},                                 // (2+1+10) × 2 + 1
		{`{ group(fullPath: "a") { descendantGroups { nodes { id } } } }`, nil, 8},                          // 5 + 2 + 1
		{`{ group(fullPath: "a") { id ...x ...x } } fragment x on Group { id }`, nil, 2},                    // merged
		{`{ group(fullPath: "a") { id a: id } }`, nil, 3},                                                   // other keys are other fields
		{`query($s: Boolean = true) { group(fullPath: "a") { id path @skip(if: $s) } }`, nil, 2},            // skipped
		{`{ project(fullPath: "a/b") { projectMembers { nodes { ... on GroupMember { id } } } } }`, nil, 7}, // the dearest type
		{`{ project(fullPath: "a/b") { projectMembers { nodes { id ... on GroupMember { group { id } } ... on ProjectMember { project { id path } } } } } }`, nil, 13},
	}
	for _, c := range cases {
		p := gqlPrepare(f.e.schema, graphQLRequest{Query: c.query, Variables: json.RawMessage(jsonText(t, c.vars))})
		if p.errs != nil {
			t.Fatalf("%s: %v", c.query, p.errs)
		}
		if got := (&analysis{schema: f.e.schema, vars: p.x.vars}).complexity(p.op); got != c.want {
			t.Errorf("%s: score %d, want %d", c.query, got, c.want)
		}
	}
}

// heavy costs 20 × n + 1 and so lets tests hit a limit exactly.
func heavy(n int) string {
	var b strings.Builder
	b.WriteString("{ ")
	for i := range n {
		fmt.Fprintf(&b, "g%d: groups(first: 100) { nodes { id path name visibility fullPath fullName webUrl } } ", i)
	}
	return b.String() + "}"
}

func TestGraphQLComplexityLimitDependsOnTheCaller(t *testing.T) {
	f := newGQLFixture(t, "19.1.0-ee")
	cases := []struct {
		as    string
		limit int
		fits  int
	}{{"", 200, 10}, {"carl", 250, 12}, {"root", 300, 15}}
	for _, c := range cases {
		if _, errs := f.ask(t, c.as, heavy(c.fits), nil); errs != nil {
			t.Errorf("as %q: a score of %d is refused: %v", c.as, 20*c.fits, errs)
		}
		data, errs := f.ask(t, c.as, heavy(c.fits+1), nil)
		want := []string{fmt.Sprintf("Query has complexity of %d, which exceeds max complexity of %d", 20*(c.fits+1), c.limit)}
		if data != nil || !slices.Equal(errs, want) {
			t.Errorf("as %q: got data %v, errors %q, want %q", c.as, data, errs, want)
		}
		data, _ = f.ask(t, c.as, `{ queryComplexity { score limit } }`, nil)
		if got, want := jsonText(t, data), fmt.Sprintf(`{"queryComplexity":{"limit":%d,"score":3}}`, c.limit); got != want {
			t.Errorf("as %q: %s, want %s", c.as, got, want)
		}
	}
}

func TestGraphQLBatchSharesOneBudget(t *testing.T) {
	f := newGQLFixture(t, "19.1.0-ee")
	one, two := map[string]any{"query": heavy(6)}, map[string]any{"query": heavy(7)}
	status, out := f.send(t, "carl", []any{one, one})
	if list, ok := out.([]any); status != http.StatusOK || !ok || len(list) != 2 || dig(t, list[1], "errors") != nil {
		t.Fatalf("240 of 250: status %d, %v", status, out)
	}
	status, out = f.send(t, "carl", []any{one, two})
	for i, answer := range out.([]any) {
		want := `[{"message":"Query has complexity of 260, which exceeds max complexity of 250"}]`
		if got := jsonText(t, dig(t, answer, "errors")); status != http.StatusOK || got != want || dig(t, answer, "data") != nil {
			t.Errorf("query %d of the batch: %s, want %s", i, got, want)
		}
	}
	long := map[string]any{"query": "{ metadata { version } } #" + strings.Repeat("x", 5000)}
	if status, _ := f.send(t, "carl", []any{long, long}); status != http.StatusUnprocessableEntity {
		t.Errorf("10,050 characters in two queries: status %d, want 422", status)
	}
}

func TestGraphQLRefusals(t *testing.T) {
	f := newGQLFixture(t, "19.1.0-ee")
	const probe = `{ currentUser { id } }`
	cases := []struct {
		name, as, query string
		status          int
		errs            string
	}{
		{"a bad token", "nobody", probe, 401, `[{"message":"Invalid token"}]`},
		{"a token without a scope for the API", "carl read_user", probe, 401, `[{"message":"Invalid token"}]`},
		{"a blocked user", "bob", probe, 403, `[{"message":"API not accessible for user"}]`},
		{"text too long", "carl", probe + "#" + strings.Repeat("ä", 10000-len(probe)), 422, `[{"message":"Query too large"}]`},
		{"text just fits", "carl", probe + "#" + strings.Repeat("ä", 10000-1-len(probe)), 200, `null`},
		{
			"an unknown field", "carl", `{ group(fullPath: "a") { sharedWithGroups { id } } }`, 200,
			`[{"extensions":{"code":"undefinedField","fieldName":"sharedWithGroups","typeName":"Group"},"locations":[{"column":26,"line":1}],"message":"Field 'sharedWithGroups' doesn't exist on type 'Group'"}]`,
		},
		{
			"recursion", "carl", `{ group(fullPath: "a") { parent { parent { parent { id } } } } }`, 200,
			`[{"message":"Recursive query - too many of fields 'parent' detected in single branch of the query"}]`,
		},
		{"no recursion", "carl", `{ group(fullPath: "acme/infra") { parent { parent { id } } } }`, 200, `null`},
		{"a mutation", "carl", `mutation { x }`, 200, `[{"locations":[{"column":1,"line":1}],"message":"Schema does not support operation type \"mutation\""}]`},
		{"nothing", "carl", " ", 200, `[{"message":"No query string was present"}]`},
		{
			"a bad global id", "carl", `{ projects(ids: ["7"]) { nodes { id } } }`, 200,
			`[{"locations":[{"column":3,"line":1}],"message":"'7' is not a valid GitLab Global ID","path":["projects"]}]`,
		},
		{
			"an id of another kind", "carl", `{ projects(ids: ["gid://gitlab/Group/7"]) { nodes { id } } }`, 200,
			`[{"locations":[{"column":3,"line":1}],"message":"'gid://gitlab/Group/7' does not represent an instance of Project","path":["projects"]}]`,
		},
		{
			"too many paths", "carl", `{ projects(fullPaths: [` + strings.Repeat(`"a",`, 51) + `]) { nodes { id } } }`, 200,
			`[{"locations":[{"column":3,"line":1}],"message":"You cannot provide more than 50 full_paths.","path":["projects"]}]`,
		},
		{
			"an argument the simulator lacks", "carl", `{ projects(topics: ["x"]) { nodes { id } } }`, 200,
			`[{"locations":[{"column":3,"line":1}],"message":"the GitLab simulator does not implement the argument 'topics'","path":["projects"]}]`,
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			status, out := f.send(t, c.as, map[string]any{"query": c.query})
			if status != c.status {
				t.Errorf("status %d, want %d", status, c.status)
			}
			if diff := cmp.Diff(c.errs, jsonText(t, dig(t, out, "errors"))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestGraphQLDepth(t *testing.T) {
	f := newGQLFixture(t, "19.1.0-ee")
	// Twelve levels of introspection wrappers are the only way to go deep without recursion.
	query := func(levels int) string {
		inner := "name"
		for range levels - 4 {
			inner = "ofType { " + inner + " }"
		}
		return `{ __type(name: "Group") { fields { type { ` + inner + ` } } } }`
	}
	for _, c := range []struct {
		as     string
		levels int
		want   []string
	}{
		{"", 15, nil},
		{"", 16, []string{"Query has depth of 16, which exceeds max depth of 15"}},
		{"carl", 20, nil},
		{"carl", 21, []string{"Query has depth of 21, which exceeds max depth of 20"}},
	} {
		if _, errs := f.ask(t, c.as, query(c.levels), nil); !slices.Equal(errs, c.want) {
			t.Errorf("as %q, %d levels: %v, want %v", c.as, c.levels, errs, c.want)
		}
	}
}

// variablesContract adds to the contract what was read later of the same complete schema of a GitLab 19.1: the types of
// variables; Project.ciVariables and its argument are those of GitLab's project_type.rb and ci/variables_resolver.rb.
const variablesContract = `
extend type Project {
  ciVariables(sort: CiVariableSort after: String before: String first: Int last: Int): CiProjectVariableConnection
}
interface CiVariable { id: ID! key: String raw: Boolean value: String variableType: CiVariableType }
type CiProjectVariable implements CiVariable {
  description: String environmentScope: String hidden: Boolean id: ID! key: String masked: Boolean protected: Boolean
  raw: Boolean value: String variableType: CiVariableType
}
type CiProjectVariableConnection { edges: [CiProjectVariableEdge] limit: Int! nodes: [CiProjectVariable] pageInfo: PageInfo! }
type CiProjectVariableEdge { cursor: String! node: CiProjectVariable }
enum CiVariableType { ENV_VAR FILE }
enum CiVariableSort { KEY_ASC KEY_DESC }
`

func TestGraphQLSchemaIsPartOfTheContract(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "shared", "gitlab-contract", "graphql", "gitlab-subset.graphql"))
	if err != nil {
		t.Skip("the contract data is not beside the repository")
	}
	contract, err := gqlparser.LoadSchema(&ast.Source{Name: "contract", Input: string(text) + variablesContract})
	if err != nil {
		t.Fatal(err)
	}
	ours, err := loadGraphQLSchema("19.1.0-ee")
	if err != nil {
		t.Fatal(err)
	}
	arguments := func(f *ast.FieldDefinition) []string {
		var out []string
		for _, a := range f.Arguments {
			out = append(out, fmt.Sprintf("%s: %s = %s", a.Name, a.Type, a.DefaultValue))
		}
		return out
	}
	fields := 0
	for name, def := range ours.Types {
		if def.BuiltIn {
			continue
		}
		theirs := contract.Types[name]
		if theirs == nil || theirs.Kind != def.Kind {
			t.Errorf("type %s is not in the contract", name)
			continue
		}
		if diff := cmp.Diff(theirs.Interfaces, def.Interfaces); diff != "" {
			t.Errorf("interfaces of %s: %s", name, diff)
		}
		for _, f := range def.Fields {
			if strings.HasPrefix(f.Name, "__") {
				continue
			}
			fields++
			other := theirs.Fields.ForName(f.Name)
			if other == nil {
				t.Errorf("%s.%s is not in the contract", name, f.Name)
				continue
			}
			if f.Type.String() != other.Type.String() {
				t.Errorf("%s.%s is %s, in the contract %s", name, f.Name, f.Type, other.Type)
			}
			if diff := cmp.Diff(arguments(other), arguments(f)); diff != "" {
				t.Errorf("arguments of %s.%s: %s", name, f.Name, diff)
			}
			if (f.Directives.ForName("deprecated") == nil) != (other.Directives.ForName("deprecated") == nil) {
				t.Errorf("%s.%s is an experiment only on one side", name, f.Name)
			}
		}
		var values, otherValues []string
		for _, v := range def.EnumValues {
			values = append(values, v.Name)
		}
		for _, v := range theirs.EnumValues {
			otherValues = append(otherValues, v.Name)
		}
		if diff := cmp.Diff(otherValues, values); diff != "" {
			t.Errorf("values of %s: %s", name, diff)
		}
	}
	if fields < 150 {
		t.Errorf("compared only %d fields", fields)
	}
}

func TestGraphQLOldGitLab(t *testing.T) {
	f := newGQLFixture(t, "17.11.2-ee")
	_, errs := f.ask(t, "root", `{ groups { nodes { id archived sharedGroups { nodes { id } } markedForDeletion } } }`, nil)
	want := []string{"Field 'archived' doesn't exist on type 'Group'", "Field 'sharedGroups' doesn't exist on type 'Group'", "Field 'markedForDeletion' doesn't exist on type 'Group'"}
	if !slices.Equal(errs, want) {
		t.Errorf("got %q, want %q", errs, want)
	}
	names := f.data(t, "root", `{ __type(name: "Group") { fields(includeDeprecated: true) { name } } metadata { version enterprise } }`)
	if strings.Contains(names, `"archived"`) || !strings.Contains(names, `"groupMembers"`) || !strings.Contains(names, `"17.11.2-ee"`) {
		t.Errorf("the probe shows %s", names)
	}
}

func TestGraphQLProbeHidesExperimentsUnlessAsked(t *testing.T) {
	f := newGQLFixture(t, "19.1.0-ee")
	fields := func(args string) string {
		return f.data(t, "", `{ __type(name: "Group") { kind fields`+args+` { name } } }`)
	}
	if got := fields(""); strings.Contains(got, `"markedForDeletion"`) || !strings.Contains(got, `"archived"`) {
		t.Errorf("without includeDeprecated: %s", got)
	}
	if got := fields("(includeDeprecated: true)"); !strings.Contains(got, `"markedForDeletion"`) {
		t.Errorf("with includeDeprecated: %s", got)
	}
	got := f.data(t, "", `{ nothing: __type(name: "Nope") { name } __schema { queryType { name } mutationType { name } }
		__type(name: "Project") { field: fields { name type { kind name ofType { kind name } } } } }`)
	for _, part := range []string{`"nothing":null`, `"queryType":{"name":"Query"}`, `"mutationType":null`, `{"name":"id","type":{"kind":"NON_NULL","name":null,"ofType":{"kind":"SCALAR","name":"ID"}}}`} {
		if !strings.Contains(got, part) {
			t.Errorf("introspection lacks %s in %s", part, got)
		}
	}
}

func TestGraphQLLanguage(t *testing.T) {
	f := newGQLFixture(t, "19.1.0-ee")
	query := `query Q($path: ID! = "acme/infra", $no: Boolean!) {
		z: group(fullPath: $path) { ...g __typename parent @skip(if: $no) { ...g } a: id @include(if: $no) }
		group(fullPath: "nowhere") { id }
	}
	fragment g on Group { fullPath maxAccessLevel { stringValue } }`
	data, errs := f.ask(t, "root", query, map[string]any{"no": true})
	want := fmt.Sprintf(`{"group":null,"z":{"__typename":"Group","a":"gid://gitlab/Group/%d","fullPath":"acme/infra","maxAccessLevel":{"stringValue":"OWNER"}}}`, f.infra)
	if got := jsonText(t, data); got != want || errs != nil {
		t.Errorf("got %s %v, want %s", got, errs, want)
	}
	if _, errs := f.ask(t, "root", query, nil); len(errs) != 1 || !strings.Contains(errs[0], "must be defined") {
		t.Errorf("a missing required variable: %v", errs)
	}
	// Variables may come as text, as GitLab's own clients of old send them.
	_, out := f.send(t, "root", map[string]any{"query": `query($p: ID!) { group(fullPath: $p) { path } }`, "variables": `{"p":"acme"}`})
	if got := jsonText(t, dig(t, out, "data")); got != `{"group":{"path":"acme"}}` {
		t.Errorf("variables as text: %s", got)
	}
	// The operation is chosen by name, and the order of the answer is that of the query.
	r := httptest.NewRequest(http.MethodPost, "/api/graphql", strings.NewReader(`{"query":"query A { metadata { version } } query B { metadata { revision enterprise } x: __typename }","operationName":"B"}`))
	r.Header.Set("Test-User", "carl")
	rec := httptest.NewRecorder()
	f.e.ServeHTTP(rec, r)
	if got, want := rec.Body.String(), `{"data":{"metadata":{"revision":"0a1b2c3d4e5","enterprise":true},"x":"Query"}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
