package sarwebhook_test

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/sarwebhook"
)

func handler(t *testing.T, ready bool) http.Handler {
	t.Helper()
	p, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.ProjectSource}})
	if err != nil {
		t.Fatal(err)
	}
	s := &authz.Snapshot{
		Users: map[int64]authz.User{
			2: {ID: 2, Username: "bob", State: authz.StateActive, Human: true},
			3: {ID: 3, Username: "mallory", State: "blocked", Human: true},
		},
		Projects: map[int64]authz.Project{
			42: {ID: 42, Path: "haw/world", Members: []authz.Member{{User: 2, Level: authz.Developer}}},
		},
	}
	v := authz.NewView(s, p, map[authz.SourceID]string{authz.ProjectID(42): "haw-world"}).WithRules(map[string][]authz.Rule{
		"view": {{Verbs: []string{"get", "list"}, Groups: []string{""}, Resources: []string{"pods"}}},
		"edit": {
			{Verbs: []string{"*"}, Groups: []string{""}, Resources: []string{"pods"}},
			{Verbs: []string{"get"}, Groups: []string{""}, Resources: []string{"secrets"}, Names: []string{"mine"}},
		},
	}).WithGaps(map[authz.SourceID]authz.Gap{})
	return sarwebhook.Handler(func() (authz.View, bool) {
		if !ready {
			return authz.View{}, false
		}
		return v, true
	}, "Use kubelogin.", time.Now, slog.New(slog.DiscardHandler))
}

func post(h http.Handler, contentType, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/authorize", strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func review(user, namespace, verb, resource string) string {
	b, _ := json.Marshal(map[string]any{
		"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
		"spec": map[string]any{"user": user, "resourceAttributes": map[string]any{"namespace": namespace, "verb": verb, "resource": resource}},
	})
	return string(b)
}

func TestReasonsByIdentity(t *testing.T) {
	for _, c := range []struct {
		name, user, namespace string
		ready                 bool
		want                  string
	}{
		{"nobody", "system:anonymous", "haw-world", true, "you are not logged in. Use kubelogin."},
		{"nobody, before the first round", "system:anonymous", "", false, "you are not logged in. Use kubelogin."},
		{"a person before the first round", "gitlab:2", "haw-world", false, "GitLab's rights were not read yet since the integrator started. Try again in a minute."},
		{"a person", "gitlab:2", "haw-world", true, `you are Developer in haw/world (ClusterRole "view"); create pods needs Maintainer or Owner.`},
		{"the CI ServiceAccount elsewhere", "system:serviceaccount:haw-world:gitlab-serviceaccount", "other", true, `this token belongs to the CI of namespace "haw-world" and is good for that namespace alone.`},
		{"an unmanaged namespace sounds the same, so that asking tells nothing", "system:serviceaccount:foreign:gitlab-serviceaccount", "other", true, `this token belongs to the CI of namespace "foreign" and is good for that namespace alone.`},
		{"a CI job", "gitlab:ci:42", "", true, `CI jobs have rights in one namespace only (kubectl -n NAMESPACE …). That of this job's project is "haw-world".`},
		{"a CI job in its namespace", "gitlab:ci:42", "haw-world", true, `the CI of namespace "haw-world" may read, change and delete everything there, but not do this (create pods).`},
		{"a CI job elsewhere", "gitlab:ci:42", "other", true, `namespace "other" is not the one of this job's project, if it exists. "kubectl get namespaces" is refused too, and lists yours.`},
		{"a CI job of a project without a namespace", "gitlab:ci:7", "", true, "GitLab project 7 has no namespace in this cluster."},
		{"somebody of another authenticator", "system:node:x", "other", true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := post(handler(t, c.ready), "application/json", review(c.user, c.namespace, "create", "pods"))
			var got authorizationv1.SubjectAccessReview
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusOK {
				t.Fatalf("%d %s: %v", w.Code, w.Body, err)
			}
			// Having an opinion would be a right given, or taken, past RBAC.
			if got.Status.Allowed || got.Status.Denied || got.Status.Reason != c.want || got.APIVersion != "authorization.k8s.io/v1" {
				t.Errorf("got %+v\nwant reason %q", got.Status, c.want)
			}
		})
	}
}

// TestReviewsAboutOthersTellNothing: in their own namespace tenants may ask about anybody (LocalSubjectAccessReview),
// with any groups and extra fields.
func TestReviewsAboutOthersTellNothing(t *testing.T) {
	h := handler(t, true)
	for _, users := range [][]string{{"gitlab:2", "gitlab:3", "gitlab:99"}, {"gitlab:ci:42", "gitlab:ci:99"}} {
		seen := map[string]bool{}
		for _, user := range users {
			body := strings.Replace(review(user, "mallory", "list", "pods"), `"spec":{`, `"spec":{"groups":["gitlab:people"],"extra":{"a":["b"]},`, 1)
			var got authorizationv1.SubjectAccessReview
			if err := json.Unmarshal(post(h, "application/json", body).Body.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			seen[got.Status.Reason] = true
		}
		if len(seen) != 1 || seen[""] {
			t.Errorf("what is told differs: %v", seen)
		}
	}
}

// TestQuestionIsWhole: the remedy depends on all that RBAC looks at.
func TestQuestionIsWhole(t *testing.T) {
	for attributes, want := range map[string]string{
		`"group":"","resource":"pods","verb":"create"`:                             "Maintainer or Owner",
		`"group":"apps","resource":"pods","verb":"create"`:                         "no GitLab role",
		`"resource":"pods","subresource":"exec","verb":"create"`:                   "no GitLab role",
		`"resource":"secrets","verb":"get","name":"mine"`:                          "Maintainer or Owner",
		`"resource":"secrets","verb":"get","name":"another"`:                       "no GitLab role",
		`"group":"apps","resource":"deployments","subresource":"scale","verb":"*"`: "no GitLab role",
	} {
		body := `{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","spec":{"user":"gitlab:2","resourceAttributes":{"namespace":"haw-world",` + attributes + `}}}`
		if got := post(handler(t, true), "application/json", body).Body.String(); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %q", attributes, got, want)
		}
	}
}

func TestMalformedRequests(t *testing.T) {
	h := handler(t, true)
	for _, c := range []struct {
		name, contentType, body string
		want                    int
	}{
		{"not JSON", "application/json", "{", http.StatusBadRequest},
		{"another kind", "application/json", `{"apiVersion":"authorization.k8s.io/v1","kind":"TokenReview"}`, http.StatusBadRequest},
		{"an old version", "application/json", `{"apiVersion":"authorization.k8s.io/v1beta1","kind":"SubjectAccessReview"}`, http.StatusBadRequest},
		{"a form", "application/x-www-form-urlencoded", "a=b", http.StatusUnsupportedMediaType},
		{"too large", "application/json", `{"kind":"` + strings.Repeat("x", 1<<20) + `"}`, http.StatusRequestEntityTooLarge},
	} {
		if w := post(h, c.contentType, c.body); w.Code != c.want {
			t.Errorf("%s: %d, want %d", c.name, w.Code, c.want)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/authorize", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", w.Code)
	}
}

func FuzzReview(f *testing.F) {
	f.Add([]byte(review("gitlab:2", "haw-world", "create", "pods")))
	f.Add([]byte(`{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","spec":{"user":"gitlab:2","nonResourceAttributes":{"verb":"get"}}}`))
	f.Add([]byte(`{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		h := sarwebhook.Handler(func() (authz.View, bool) { return authz.View{}, false }, "", time.Now, slog.New(slog.DiscardHandler))
		w := post(h, "application/json", string(body))
		if w.Code != http.StatusOK {
			return
		}
		out, _ := io.ReadAll(w.Body)
		var got authorizationv1.SubjectAccessReview
		if err := json.Unmarshal(out, &got); err != nil || got.Status.Allowed || got.Status.Denied {
			t.Fatalf("an opinion, or no review: %s", out)
		}
	})
}
