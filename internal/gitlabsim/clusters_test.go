package gitlabsim

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestClustersAPI(t *testing.T) {
	f := newFixture(t, nil)
	path := api + "/projects/20/clusters"
	f.want(f.do("GET", path, "glpat-admin", nil), 404, `{"message":"404 Not Found"}`) // the flag is off
	f.want(f.do("GET", path, "glpat-bob", nil), 404, `{"message":"404 Not Found"}`)   // and asked before the role
	f.SetCertificateClusters(true)
	f.want(f.do("GET", path, "", nil), 401, `{"message":"401 Unauthorized"}`)
	f.want(f.do("GET", path, "glpat-bob", nil), 403, `{"message":"403 Forbidden"}`)
	f.want(f.do("GET", api+"/projects/999/clusters", "glpat-admin", nil), 404, `{"message":"404 Project Not Found"}`)
	f.want(f.do("GET", path, "glpat-admin", nil), 200, `[]`)
	body := func(more, platform string) string {
		return fmt.Sprintf(`{"name":"c"%s,"platform_kubernetes_attributes":{"api_url":"https://k8s.example.com","token":"t"%s}}`, more, platform)
	}
	for what, c := range map[string]struct{ body, want string }{
		"nothing":   {`{}`, `{"error":"name is missing, platform_kubernetes_attributes[api_url] is missing, platform_kubernetes_attributes[token] is missing"}`},
		"auth":      {body("", `,"authorization_type":"x"`), `{"error":"platform_kubernetes_attributes[authorization_type] does not have a valid value"}`},
		"localhost": {strings.Replace(body("", ""), "k8s.example.com", "localhost:6443", 1), `{"message":{"platform_kubernetes.api_url":["is blocked: Requests to localhost are not allowed"]}}`},
		"private":   {strings.Replace(body("", ""), "k8s.example.com", "192.168.1.1", 1), `{"message":{"platform_kubernetes.api_url":["is blocked: Requests to the local network are not allowed"]}}`},
		"reserved":  {body("", `,"namespace":"gitlab-managed-apps"`), `{"message":{"platform_kubernetes.namespace":["is reserved"]}}`},
	} {
		t.Run(what, func(t *testing.T) {
			f.want(f.do("POST", path+"/user", "glpat-admin", json.RawMessage(c.body)), 400, c.want)
		})
	}
	if res := f.do("POST", path+"/user", "glpat-admin", json.RawMessage(body("", ""))); res.status != 201 || strings.Contains(res.body, `"t"`) {
		t.Fatalf("%d %s", res.status, res.body)
	}
	f.want(f.do("POST", path+"/user", "glpat-admin", json.RawMessage(body("", ""))), 400, `{"message":{"environment_scope":["cannot add duplicated environment scope"]}}`)
	id := column(t, f.do("GET", path, "glpat-admin", nil), "id")[0]
	// managed is the default, and what GitLab manages can't be changed.
	f.want(f.do("PUT", path+"/"+id, "glpat-admin", json.RawMessage(`{"platform_kubernetes_attributes":{"token":"u"}}`)), 400,
		`{"message":{"platform_kubernetes.base":["Cannot modify managed Kubernetes cluster"]}}`)
	if res := f.do("PUT", path+"/"+id, "glpat-admin", json.RawMessage(`{"managed":false,"platform_kubernetes_attributes":{"token":"u"}}`)); res.status != 200 {
		t.Errorf("%d %s", res.status, res.body)
	}
	if res := f.do("DELETE", path+"/"+id, "glpat-admin", nil); res.status != 204 {
		t.Errorf("%d %s", res.status, res.body)
	}
	f.want(f.do("DELETE", path+"/"+id, "glpat-admin", nil), 404, `{"message":"404 Not found"}`)
}

func TestDeploymentVariablesByScope(t *testing.T) {
	f := newFixture(t, nil)
	f.SetCertificateClusters(true)
	for _, scope := range []string{"*", "ICC-*", "ICC-K8s"} {
		res := f.do("POST", api+"/projects/20/clusters/user", "glpat-admin", json.RawMessage(fmt.Sprintf(
			`{"name":"c","managed":false,"environment_scope":%q,"platform_kubernetes_attributes":{"api_url":"https://k8s.example.com","token":"token-%s"}}`, scope, scope)))
		if res.status != 201 {
			t.Fatal(res.body)
		}
	}
	for environment, want := range map[string]string{"ICC-K8s": "token-ICC-K8s", "ICC-x": "token-ICC-*", "icc-k8s": "token-*", "": ""} {
		vars, err := f.DeploymentVariables(20, environment, "")
		got := ""
		for _, v := range vars {
			if v.Key == "KUBE_TOKEN" {
				got = v.Value
			}
			if v.Key == "KUBE_NAMESPACE" && !strings.HasPrefix(v.Value, "api-20-") {
				t.Errorf("%q: namespace %q, want GitLab's own for each environment", environment, v.Value)
			}
		}
		if err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", environment, got, err, want)
		}
	}
}

func TestCIVariablesInGraphQL(t *testing.T) {
	f := newFixture(t, nil)
	for _, v := range []Variable{{Key: "B", Value: "vb", EnvironmentScope: "x", Description: "d"}, {Key: "A", Value: "hidden-value", Hidden: true, VariableType: "file"}} {
		if err := f.World().CreateVariable(20, v); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(token, args string) string {
		res := f.do("POST", "/api/graphql", token, json.RawMessage(fmt.Sprintf(
			`{"query":"{projects(ids:[\"gid://gitlab/Project/20\"]){nodes{ciVariables%s{limit nodes{key value variableType environmentScope hidden masked description}}}}}"}`, args)))
		return res.body
	}
	a := `{"key":"A","value":null,"variableType":"FILE","environmentScope":"*","hidden":true,"masked":true,"description":null}`
	b := `{"key":"B","value":"vb","variableType":"ENV_VAR","environmentScope":"x","hidden":false,"masked":false,"description":"d"}`
	for args, want := range map[string]string{"": a + "," + b, "(sort: KEY_DESC)": b + "," + a, "(sort: KEY_ASC, first: 1)": a} {
		if got := ask("glpat-admin", args); got != `{"data":{"projects":{"nodes":[{"ciVariables":{"limit":8000,"nodes":[`+want+`]}}]}}}` {
			t.Errorf("%s: %s", args, got)
		}
	}
	// Whoever may not administer them gets null, without an error.
	if got := ask("glpat-bob", ""); got != `{"data":{"projects":{"nodes":[{"ciVariables":null}]}}}` {
		t.Errorf("a developer: %s", got)
	}
}

func TestLicense(t *testing.T) {
	f := newFixture(t, nil)
	f.want(f.do("GET", api+"/license", "glpat-alice", nil), 403, `{"message":"403 Forbidden"}`)
	f.want(f.do("GET", api+"/license", "glpat-admin", nil), 200, `null`)
	f.SetLicense("premium", false)
	if res := f.do("GET", api+"/license", "glpat-admin", nil); !strings.Contains(res.body, `"plan":"premium"`) {
		t.Error(res.body)
	}
}
