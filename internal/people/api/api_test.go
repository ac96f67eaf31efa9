package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn/authntest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeconfig"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people/api"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const client, audience = "kubelogin", "https://k8s.example.com"

// world is an API, with a GitLab in which user 1 is Developer and 2 Maintainer in haw/world, and whatever a test changes.
type world struct {
	t      testing.TB
	issuer *authntest.Issuer
	auth   *authn.GitLab
	api    *api.API
	log    *lockedBuffer
	stop   func() // ends API.Run

	mu     sync.Mutex
	view   authz.View
	read   bool
	states map[int64]string
	ahead  time.Duration // of our clock
	away   bool          // nothing can be judged
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

func newWorld(t testing.TB, change func(*api.Options)) *world {
	t.Helper()
	w := &world{t: t, issuer: authntest.New(t), read: true, log: &lockedBuffer{}, states: map[int64]string{1: "active", 2: "active", 3: "active"}}
	var err error
	w.auth, err = authn.New(authn.Config{
		Issuer: w.issuer.URL, ClientIDs: []string{client, "second"}, CIAudience: audience, Environments: []string{"ICC-K8s"}, HTTPClient: w.issuer.Client(), Now: w.now,
		CIProject: func(int64) authn.ProjectStanding { return authn.ProjectServed },
		UserState: func(id int64) (string, bool) {
			w.mu.Lock()
			defer w.mu.Unlock()
			state, known := w.states[id]
			return state, known
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.members(map[int64]authz.Level{1: authz.Developer, 2: authz.Maintainer})
	service := people.New(people.Options{
		GitLabURL: "https://gitlab.example.com",
		View: func() (authz.View, bool) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.view, w.read
		},
		CI: func(v authz.View, project int64) (webapi.CI, bool) {
			p, ok := v.Snapshot.Projects[project]
			return webapi.CI{Project: project, Path: p.Path, Delivery: "id-token", Environment: "ICC-K8s", Outcome: "delivered"}, ok
		},
		Changes: func(ctx context.Context, user int64, since time.Time) ([]people.Changed, error) {
			if err := ctx.Err(); err != nil {
				return nil, fmt.Errorf("waiting for the history: %w", err)
			}
			switch user {
			case 2:
				return nil, fmt.Errorf("a secret cause: %w", people.ErrHistoryBusy)
			case 3:
				return nil, errors.New("a secret cause")
			}
			return []people.Changed{{Change: webapi.Change{At: since.UTC(), Namespace: "haw-world", Role: "view", What: "gained"}}}, nil
		},
	})
	o := api.Options{
		People: service, Authenticator: func() authn.Authenticator { return w }, Now: w.now, Burst: 1000, Every: 5 * time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Kubeconfig: func(_ context.Context, variant string, namespaces []string) ([]byte, error) {
			switch variant {
			case "windows":
				return nil, errors.New("opening a secret file")
			case "macos":
				return nil, fmt.Errorf("opening a secret file: %w", kubeconfig.ErrNotNow)
			}
			return fmt.Appendf(nil, "variant: %q\nnamespaces: %q\n", variant, namespaces), nil
		},
	}
	if change != nil {
		change(&o)
	}
	w.api = api.New(o)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { w.api.Run(ctx) })
	w.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(w.stop)
	return w
}

// members makes these the members of haw/world.
func (w *world) members(levels map[int64]authz.Level) {
	w.t.Helper()
	p, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.ProjectSource}})
	if err != nil {
		w.t.Fatal(err)
	}
	s := &authz.Snapshot{Taken: time.Now(), Users: map[int64]authz.User{}, Groups: map[int64]authz.Group{7: {ID: 7, Path: "haw"}}, Projects: map[int64]authz.Project{}}
	project := authz.Project{ID: 42, Group: 7, Path: "haw/world"}
	for id, name := range map[int64]string{1: "alice", 2: "bob", 3: "carol"} {
		s.Users[id] = authz.User{ID: id, Username: name, Name: strings.ToUpper(name), State: authz.StateActive, Human: true}
		if l := levels[id]; l != 0 {
			project.Members = append(project.Members, authz.Member{User: id, Level: l})
		}
	}
	s.Projects[42] = project
	v := authz.NewView(s, p, map[authz.SourceID]string{authz.ProjectID(42): "haw-world"}).WithGaps(map[authz.SourceID]authz.Gap{})
	v = v.WithRules(map[string][]authz.Rule{"view": {{Verbs: []string{"get"}, Groups: []string{""}, Resources: []string{"pods"}}}, "edit": {{Verbs: []string{"*"}, Groups: []string{"*"}, Resources: []string{"*"}}}})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.view = v
}

func (w *world) now() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return time.Now().Add(w.ahead) }

// Authenticate implements authn.Authenticator.
func (w *world) Authenticate(ctx context.Context, token string) (authn.Identity, error) {
	w.mu.Lock()
	away := w.away
	w.mu.Unlock()
	if away {
		return authn.Identity{}, &authn.UndecidedError{Code: authn.CodeKeysUnavailable}
	}
	return w.auth.Authenticate(ctx, token)
}

func (w *world) set(change func()) { w.mu.Lock(); defer w.mu.Unlock(); change() }

func (w *world) token(user int64) string { return w.issuer.UserToken(user, client, nil) }

// get asks as somebody, and checks what holds for each answer.
func (w *world) get(path, token string, header ...string) *httptest.ResponseRecorder {
	w.t.Helper()
	r := httptest.NewRequestWithContext(w.t.Context(), http.MethodGet, path, nil)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return w.do(r, token)
}

func (w *world) do(r *http.Request, secrets ...string) *httptest.ResponseRecorder {
	w.t.Helper()
	out := httptest.NewRecorder()
	w.api.ServeHTTP(out, r)
	h := out.Header()
	if h.Get("Cache-Control") != "no-store" || h.Get("X-Content-Type-Options") != "nosniff" {
		w.t.Errorf("%s: headers %v", r.URL.Path, h)
	}
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") || name == "Set-Cookie" {
			w.t.Errorf("%s: header %s", r.URL.Path, name)
		}
	}
	if out.Code >= 400 {
		var e webapi.Error
		d := json.NewDecoder(bytes.NewReader(out.Body.Bytes()))
		d.DisallowUnknownFields()
		if err := d.Decode(&e); err != nil || e.Code == "" || e.Error == "" || h.Get("Content-Type") != "application/json" {
			w.t.Errorf("%s: %d %s %v", r.URL.Path, out.Code, out.Body, err)
		}
	}
	for _, secret := range secrets {
		if _, _, signed := strings.Cut(secret, "."); signed && (strings.Contains(out.Body.String(), secret) || strings.Contains(w.log.String(), secret)) {
			w.t.Error("the token is in the answer or in the log")
		}
	}
	return out
}

func code(t testing.TB, out *httptest.ResponseRecorder) string {
	t.Helper()
	var e webapi.Error
	if err := json.Unmarshal(out.Body.Bytes(), &e); err != nil {
		t.Fatalf("%s: %v", out.Body, err)
	}
	return e.Code
}

func decode[T any](t testing.TB, out *httptest.ResponseRecorder) (v T) {
	t.Helper()
	if out.Code != http.StatusOK || out.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("%d %v %s", out.Code, out.Header(), out.Body)
	}
	if err := json.Unmarshal(out.Body.Bytes(), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAnswers(t *testing.T) {
	w := newWorld(t, nil)
	token := w.token(1)
	who := decode[webapi.Identity](t, w.get(webapi.PathWhoAmI, token))
	if who.ID != 1 || who.Username != "alice" || who.Name != "ALICE" || who.Until == nil || time.Until(*who.Until) > 2*time.Minute || who.Admin {
		t.Errorf("%+v", who)
	}
	list := decode[webapi.MyNamespaces](t, w.get(webapi.PathMyNamespaces, token))
	want := []webapi.Namespace{{
		Name: "haw-world", Source: "project/42", Path: "haw/world", URL: "https://gitlab.example.com/haw/world", Roles: []string{"view"}, Level: "Developer",
		Reason: "Developer in haw/world, direct member", CI: &webapi.CI{Project: 42, Path: "haw/world", Delivery: "id-token", Environment: "ICC-K8s", Outcome: "delivered"},
	}}
	if d := cmp.Diff(want, list.Namespaces); d != "" || list.Total != 1 || list.AsOf.IsZero() || !cmp.Equal(list.User, who) {
		t.Errorf("%s\n%+v", d, list)
	}
	if none := w.get(webapi.PathMyNamespaces+"?search=other", token).Body.String(); !strings.Contains(none, `"namespaces":[]`) {
		t.Error(none)
	}
	can := func(user int64, query string) webapi.Can {
		return decode[webapi.Can](t, w.get(webapi.PathCan+"?"+query, w.token(user)))
	}
	if a := can(1, "verb=get&resource=Pods&namespace=haw-world"); a.Allowed != "yes" || !cmp.Equal(a.Trail, []string{"Developer in haw/world, direct member"}) {
		t.Errorf("%+v", a)
	}
	if a := can(1, "verb=delete&resource=pods&namespace=haw-world"); a.Allowed != "no" || !slices.Equal(a.Ask, []string{"bob"}) || a.Reason == "" {
		t.Errorf("%+v", a)
	}
	if a := can(3, "verb=delete&resource=pods&namespace=haw-world"); a.Allowed != "no" || a.Trail != nil || a.Ask != nil {
		t.Errorf("%+v", a)
	}
	if got := decode[webapi.CI](t, w.get(webapi.PathCI+"?project=haw/world", token)); got.Project != 42 {
		t.Errorf("%+v", got)
	}
	for since, want := range map[string]string{"2026-11-20": "2026-11-20T00:00:00Z", "2026-11-20T10:00:00%2B01:00": "2026-11-20T09:00:00Z"} {
		if got := decode[[]webapi.Change](t, w.get(webapi.PathMyChanges+"?since="+since, token)); len(got) != 1 || got[0].At.Format(time.RFC3339) != want {
			t.Errorf("since %s: %+v", since, got)
		}
	}
}

func TestKubeconfig(t *testing.T) {
	w := newWorld(t, nil)
	for token, want := range map[string]string{"": "namespaces: []", w.token(1): `namespaces: ["haw-world"]`, w.token(3): "namespaces: []"} {
		out := w.get(webapi.PathKubeconfig+"?variant=headless", token)
		if out.Code != http.StatusOK || !strings.Contains(out.Body.String(), want) || !strings.Contains(out.Body.String(), `variant: "headless"`) ||
			out.Header().Get("Content-Type") != "text/yaml; charset=utf-8" || !strings.Contains(out.Header().Get("Content-Disposition"), "attachment") {
			t.Errorf("%d %v %s, want %s", out.Code, out.Header(), out.Body, want)
		}
	}
	w.members(nil)
	if got := w.get(webapi.PathKubeconfig, w.token(1)).Body.String(); !strings.Contains(got, "namespaces: []") {
		t.Error(got)
	}
	without := newWorld(t, func(o *api.Options) { o.Kubeconfig = nil })
	if got := without.get(webapi.PathKubeconfig, ""); got.Code != http.StatusNotFound || code(t, got) != api.CodeNotFound {
		t.Error(got.Code, got.Body)
	}
}

// TestWhoHasLeft gets no answer, and leaves no line about a failure in the log.
func TestWhoHasLeft(t *testing.T) {
	w := newWorld(t, nil)
	token := w.token(1)
	w.get(webapi.PathMyChanges, token) // which reads the keys
	ctx, leave := context.WithCancel(t.Context())
	leave()
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, webapi.PathMyChanges, nil)
	r.Header.Set("Authorization", "Bearer "+token)
	out := httptest.NewRecorder()
	w.api.ServeHTTP(out, r)
	if out.Body.Len() > 0 || strings.Contains(w.log.String(), "not answered") {
		t.Errorf("they get %s, the log: %s", out.Body, w.log)
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t, nil)
	w.set(func() { w.states[4], w.states[5] = "blocked", authn.StateNotHuman })
	good := w.token(1)
	job := w.issuer.CIToken(42, audience, nil)
	for _, c := range []struct {
		name, path, token string
		header            []string
		status            int
		code              string
	}{
		{"no token", webapi.PathWhoAmI, "", nil, 401, api.CodeNoToken},
		{"in the query", webapi.PathWhoAmI + "?access_token=" + good, "", nil, 401, api.CodeNoToken},
		{"by Basic", webapi.PathWhoAmI, "", []string{"Authorization", "Basic " + good}, 401, api.CodeNoToken},
		{"two", webapi.PathWhoAmI, good, []string{"Authorization", "Bearer " + good}, 401, api.CodeNoToken},
		{"expired", webapi.PathWhoAmI, w.issuer.UserToken(1, client, authntest.Claims{"exp": time.Now().Add(-time.Minute).Unix()}), nil, 401, "token_expired"},
		{"another application's", webapi.PathWhoAmI, w.issuer.UserToken(1, "page", nil), nil, 401, "wrong_audience"},
		{"a ServiceAccount's", webapi.PathWhoAmI, w.issuer.UserToken(1, client, authntest.Claims{"iss": "https://kubernetes.default.svc"}), nil, 401, "foreign_issuer"},
		{"somebody blocked", webapi.PathMyNamespaces, w.token(4), nil, 401, "user_blocked"},
		{"a bot", webapi.PathMyNamespaces, w.token(5), nil, 401, "user_not_human"},
		{"somebody blocked who watches", webapi.PathMyNamespaces + "?watch=true", w.token(4), nil, 401, "user_blocked"},
		{"a job", webapi.PathMyNamespaces, job, nil, 403, api.CodeCIJob},
		{"a job that may not deploy", webapi.PathCan, w.issuer.CIToken(42, audience, authntest.Claims{"ref_protected": "false"}), nil, 403, api.CodeCIJob},
		{"a job with the audience of people", webapi.PathCI, w.issuer.CIToken(42, client, nil), nil, 401, "user_is_ci_token"},
		{"a job wants a file", webapi.PathKubeconfig, job, nil, 403, api.CodeCIJob},
		{"no such path", webapi.Prefix + "/users", good, nil, 404, api.CodeNotFound},
		{"a path below", webapi.PathWhoAmI + "/", good, nil, 404, api.CodeNotFound},
		{"twice", webapi.PathCan + "?verb=get&verb=list&resource=pods", good, nil, 400, api.CodeBadRequest},
		{"too long", webapi.PathCan + "?verb=get&resource=" + strings.Repeat("x", 600), good, nil, 400, api.CodeBadRequest},
		{"not a query", webapi.PathCan + "?a;b=%zz", good, nil, 400, api.CodeBadRequest},
		{"no verb", webapi.PathCan + "?resource=pods", good, nil, 400, api.CodeBadRequest},
		{"no resource", webapi.PathCan + "?verb=get", good, nil, 400, api.CodeBadRequest},
		{"a slash", webapi.PathCan + "?verb=get&resource=pods/log", good, nil, 400, api.CodeBadRequest},
		{"limit", webapi.PathMyNamespaces + "?limit=-1", good, nil, 400, api.CodeBadRequest},
		{"offset of a watch", webapi.PathMyNamespaces + "?offset=x&watch=true", good, nil, 400, api.CodeBadRequest},
		{"since", webapi.PathMyChanges + "?since=yesterday", good, nil, 400, api.CodeBadRequest},
		{"no project", webapi.PathCI, good, nil, 400, api.CodeBadRequest},
		{"not their project", webapi.PathCI + "?project=42", w.token(3), nil, 404, api.CodeNoProject},
		{"no such project", webapi.PathCI + "?project=43", good, nil, 404, api.CodeNoProject},
		{"no such variant", webapi.PathKubeconfig + "?variant=odd", "", nil, 400, api.CodeBadRequest},
		{"a file can't be made now", webapi.PathKubeconfig + "?variant=macos", "", nil, 503, api.CodeAway},
		{"a file can't be made", webapi.PathKubeconfig + "?variant=windows", "", nil, 500, api.CodeInternal},
		{"others read the history", webapi.PathMyChanges, w.token(2), nil, 503, api.CodeHistoryBusy},
		{"something fails", webapi.PathMyChanges, w.token(3), nil, 500, api.CodeInternal},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := w.get(c.path, c.token, c.header...)
			if out.Code != c.status || code(t, out) != c.code {
				t.Errorf("%d %s, want %d %s", out.Code, out.Body, c.status, c.code)
			}
			if (out.Code == 401) != (out.Header().Get("WWW-Authenticate") != "") || strings.Contains(out.Body.String(), "secret") {
				t.Errorf("%v %s", out.Header(), out.Body)
			}
		})
	}
	for _, method := range []string{http.MethodPost, http.MethodOptions, http.MethodDelete} {
		out := w.do(httptest.NewRequestWithContext(t.Context(), method, webapi.PathWhoAmI, nil))
		if out.Code != http.StatusMethodNotAllowed || out.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: %d", method, out.Code)
		}
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, webapi.PathWhoAmI, strings.NewReader("x"))
	r.Header.Set("Authorization", "Bearer "+good)
	if out := w.do(r); out.Code != http.StatusBadRequest {
		t.Errorf("a body: %d", out.Code)
	}
	w.set(func() { w.read = false })
	if out := w.get(webapi.PathMyNamespaces, good); out.Code != 503 || code(t, out) != api.CodeUnread {
		t.Errorf("%d %s", out.Code, out.Body)
	}
	none := newWorld(t, func(o *api.Options) { o.Authenticator = func() authn.Authenticator { return nil } })
	if out := none.get(webapi.PathWhoAmI, good); out.Code != 503 || code(t, out) != api.CodeNotDecided {
		t.Errorf("%d %s", out.Code, out.Body)
	}
	away := newWorld(t, nil)
	away.issuer.SetDown(true)
	if out := away.get(webapi.PathWhoAmI, away.token(1)); out.Code != 503 || code(t, out) != "keys_unavailable" || strings.Contains(out.Body.String(), "127.0.0.1") {
		t.Errorf("%d %s", out.Code, out.Body)
	}
}

// TestJudgedAsATokenReview: of every token that authn has a vector for, who gets in here is who gets in at kube-apiserver, but for
// jobs; and who does not hears the same reason.
func TestJudgedAsATokenReview(t *testing.T) {
	w := newWorld(t, nil)
	shop := authntest.NewWorkshop(t, w.issuer)
	w.issuer.Publish(shop.Keys()...)
	review := authn.Handler(w.auth, nil, nil)
	counts := map[int]int{}
	for _, v := range authntest.Vectors(t, "../../../authn/testdata/tokens.yaml") {
		if v.World != "" || v.Request.Body != "" || v.Request.Method != "" || v.Request.ContentType != "" {
			continue
		}
		token := strings.TrimSpace(shop.Token(v)) // as kube-apiserver takes it out of the header
		body, _ := json.Marshal(map[string]any{"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": map[string]any{"token": token}})
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/authenticate", bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		reviewed := httptest.NewRecorder()
		review.ServeHTTP(reviewed, r)
		var answer struct {
			Status struct {
				Authenticated bool
				User          struct{ Username string }
			}
		}
		if err := json.Unmarshal(reviewed.Body.Bytes(), &answer); err != nil {
			t.Fatal(err)
		}
		out := w.get(webapi.PathWhoAmI, token)
		counts[out.Code]++
		name := answer.Status.User.Username
		switch _, err := w.auth.Authenticate(t.Context(), token); {
		case answer.Status.Authenticated && !strings.HasPrefix(name, "gitlab:ci:"):
			if got := decode[webapi.Identity](t, out); fmt.Sprintf("gitlab:%d", got.ID) != name {
				t.Errorf("%s: %+v, and kube-apiserver takes them for %s", v.Name, got, name)
			}
		case out.Code == http.StatusOK:
			t.Errorf("%s: gets in here alone", v.Name)
		case answer.Status.Authenticated:
			if code(t, out) != api.CodeCIJob {
				t.Errorf("%s: %s", v.Name, out.Body)
			}
		case token != "" && code(t, out) != string(authn.CodeOf(err)) && code(t, out) != api.CodeCIJob:
			t.Errorf("%s: %s, want %s", v.Name, out.Body, authn.CodeOf(err))
		}
	}
	if counts[200] < 10 || counts[401] < 50 || counts[403] < 20 {
		t.Errorf("answers by status: %v", counts)
	}
}

func TestETag(t *testing.T) {
	w := newWorld(t, nil)
	token := w.token(1)
	first := w.get(webapi.PathMyNamespaces, token)
	tag := first.Header().Get("ETag")
	w.set(func() { // GitLab is read again, and nothing is new
		s := *w.view.Snapshot
		s.Taken = s.Taken.Add(time.Minute)
		w.view.Snapshot = &s
	})
	for have, want := range map[string]int{tag: 304, `"x", ` + tag: 304, `"x"`: 200, "": 200} {
		if out := w.get(webapi.PathMyNamespaces, token, "If-None-Match", have); out.Code != want || want == 304 && out.Body.Len() > 0 {
			t.Errorf("%q: %d %s", have, out.Code, out.Body)
		}
	}
	w.members(map[int64]authz.Level{1: authz.Maintainer})
	if out := w.get(webapi.PathMyNamespaces, token, "If-None-Match", tag); out.Code != 200 {
		t.Error("another role is no news")
	}
}

func TestLimits(t *testing.T) {
	now := time.Now()
	w := newWorld(t, func(o *api.Options) { o.Burst, o.PerSecond, o.Now = 3, 1, func() time.Time { return now } })
	ask := func(user int64) int { return w.get(webapi.PathWhoAmI, w.token(user)).Code }
	got := []int{ask(1), ask(1), ask(1), ask(1), ask(2)}
	now = now.Add(time.Second)
	got = append(got, ask(1), ask(1))
	if want := []int{200, 200, 200, 429, 200, 200, 429}; !slices.Equal(got, want) {
		t.Errorf("answers %v, want %v", got, want)
	}
	hold, held := make(chan struct{}), make(chan struct{})
	busy := newWorld(t, func(o *api.Options) {
		o.AtATime = 1
		o.Kubeconfig = func(context.Context, string, []string) ([]byte, error) { close(held); <-hold; return nil, nil }
	})
	var wg sync.WaitGroup
	wg.Go(func() { busy.get(webapi.PathKubeconfig, "") })
	<-held
	if out := busy.get(webapi.PathWhoAmI, busy.token(1)); out.Code != 503 || code(t, out) != api.CodeBusy {
		t.Errorf("%d %s", out.Code, out.Body)
	}
	close(hold)
	wg.Wait()
	if out := busy.get(webapi.PathWhoAmI, busy.token(1)); out.Code != 200 {
		t.Errorf("%d %s", out.Code, out.Body)
	}
}

// slowReader takes no answer before it is released.
type slowReader struct {
	*httptest.ResponseRecorder
	writes, release chan struct{}
}

func (w slowReader) Write(b []byte) (int, error) {
	w.writes <- struct{}{}
	<-w.release
	return w.ResponseRecorder.Write(b)
}

// TestSlowReadersHoldNoSlots: whoever does not take an answer, or a refusal, keeps nobody else from theirs.
func TestSlowReadersHoldNoSlots(t *testing.T) {
	w := newWorld(t, func(o *api.Options) { o.AtATime = 1 })
	writes, release := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	for path, token := range map[string]string{
		webapi.PathWhoAmI: w.token(1), webapi.PathMyNamespaces: w.token(2), webapi.PathKubeconfig: "", webapi.PathCan: w.token(1), webapi.PathMyChanges: "",
	} {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		all.Go(func() { w.api.ServeHTTP(slowReader{httptest.NewRecorder(), writes, release}, r) })
		<-writes
	}
	if out := w.get(webapi.PathWhoAmI, w.token(2)); out.Code != http.StatusOK {
		t.Errorf("%d %s", out.Code, out.Body)
	}
	close(release)
	all.Wait()
}

// TestLogIsBounded: whoever is refused can't fill the log.
func TestLogIsBounded(t *testing.T) {
	w := newWorld(t, nil)
	for range 200 {
		w.get(webapi.PathWhoAmI, "")
	}
	if n := strings.Count(w.log.String(), "\n"); n > 20 {
		t.Errorf("%d lines", n)
	}
}

func readAll(t testing.TB, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
