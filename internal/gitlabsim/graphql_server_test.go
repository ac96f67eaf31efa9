package gitlabsim

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// The endpoint behind the real server: tokens, routing, faults.
func TestGraphQLOverHTTP(t *testing.T) {
	s, err := New(Options{Version: "18.5.0-ee"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w := s.World()
	gqlMust(t)(w.AddUser(User{Username: "root", Admin: true}))
	bob := gqlMust(t)(w.AddUser(User{Username: "bob"}))
	project := gqlMust(t)(w.AddProject(Project{Path: "p", OwnerID: bob}))
	tokens := map[string]string{
		"root": s.TokenFor("root", "read_api"), "bob": s.TokenFor("bob", "api"), "narrow": s.TokenFor("bob", "read_user"), "bad": "glpat-nope",
	}
	client := s.Client()
	defer client.CloseIdleConnections()
	ask := func(header, token string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+"/api/graphql", strings.NewReader(`{"query":"{ currentUser { username } queryComplexity { limit } }"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		if header != "" {
			req.Header.Set(header, token)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	check := func(name, header, token string, status int, want string) {
		t.Helper()
		if gotStatus, got := ask(header, token); gotStatus != status || got != want {
			t.Errorf("%s: %d %s, want %d %s", name, gotStatus, got, status, want)
		}
	}
	const invalidToken = `{"errors":[{"message":"Invalid token"}]}`
	check("administrator", "PRIVATE-TOKEN", tokens["root"], 200, `{"data":{"currentUser":{"username":"root"},"queryComplexity":{"limit":300}}}`)
	check("user, bearer", "Authorization", "Bearer "+tokens["bob"], 200, `{"data":{"currentUser":{"username":"bob"},"queryComplexity":{"limit":250}}}`)
	check("anonymous", "", "", 200, `{"data":{"currentUser":null,"queryComplexity":{"limit":200}}}`)
	check("unknown token", "PRIVATE-TOKEN", tokens["bad"], 401, invalidToken)
	check("scope read_user", "PRIVATE-TOKEN", tokens["narrow"], 401, invalidToken)
	check("job token", "JOB-TOKEN", s.JobToken(JobContext{ProjectID: project, UserID: bob}), 401, invalidToken)
	if err := w.SetUserState(bob, StateBlocked); err != nil {
		t.Fatal(err)
	}
	check("blocked", "PRIVATE-TOKEN", tokens["bob"], 403, `{"errors":[{"message":"API not accessible for user"}]}`)
	s.SetFaults(Faults{Rules: []FaultRule{WithoutGraphQL()}})
	check("switched off", "PRIVATE-TOKEN", tokens["root"], 404, `{"error":"404 Not Found"}`)
	if got := s.Requests()["POST /graphql"]; got != 8 {
		t.Errorf("counted %d requests, want 8", got)
	}
}
