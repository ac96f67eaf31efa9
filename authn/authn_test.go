package authn_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn/authntest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	client  = "kubelogin"
	client2 = "second"
	ciAud   = "https://k8s.example.com"
)

// clock is a settable time.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func newIssuer(t testing.TB) (*authntest.Issuer, *clock) {
	t.Helper()
	c := &clock{t: time.Unix(1795000000, 0)}
	i := authntest.New(t)
	i.Now = c.now
	return i, c
}

func config(i *authntest.Issuer, c *clock) authn.Config {
	return authn.Config{
		Issuer: i.URL, ClientIDs: []string{client, client2}, CIAudience: ciAud, Environments: []string{"ICC-K8s"},
		UnprotectedProjects: map[int64]bool{43: true}, HTTPClient: i.Client(), Now: c.now, CIProject: served,
	}
}

func served(int64) authn.ProjectStanding { return authn.ProjectServed }

func newGitLab(t testing.TB, cfg authn.Config) *authn.GitLab {
	t.Helper()
	g, err := authn.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// verdict asks for a token and returns the code, checking what holds for every answer.
func verdict(t *testing.T, g authn.Authenticator, token string) authn.Code {
	t.Helper()
	id, err := g.Authenticate(t.Context(), token)
	if err != nil && !cmp.Equal(id, authn.Identity{}) {
		t.Errorf("an identity beside an error: %+v, %v", id, err)
	}
	if err == nil && (id.Username == "" || id.UID == "" || !strings.HasPrefix(id.Username, "gitlab:")) {
		t.Errorf("accepted without a proper name: %+v", id)
	}
	if err != nil && len(token) > 20 && strings.Contains(err.Error(), token[len(token)-20:]) {
		t.Errorf("the error holds the token: %v", err)
	}
	return authn.CodeOf(err)
}

func TestIdentities(t *testing.T) {
	i, c := newIssuer(t)
	g := newGitLab(t, config(i, c))
	for name, want := range map[string]struct {
		token string
		id    authn.Identity
	}{
		"person": {i.UserToken(42, client, nil), authn.Identity{
			Username: "gitlab:42", UID: "42", Groups: []string{"gitlab:users"},
			Extra: map[string][]string{kubename.ExtraUsername: {"user42"}}, Expiry: c.now().Add(2 * time.Minute),
		}},
		"person on an old GitLab": {i.UserToken(42, client, authntest.Claims{"name": nil, "nickname": nil, "preferred_username": nil, "profile": nil}), authn.Identity{
			Username: "gitlab:42", UID: "42", Groups: []string{"gitlab:users"}, Extra: map[string][]string{}, Expiry: c.now().Add(2 * time.Minute),
		}},
		"person named like Kubernetes' own": {i.UserToken(7, client, authntest.Claims{"preferred_username": "system:admin", "nickname": nil, "sub": "7"}), authn.Identity{
			Username: "gitlab:7", UID: "7", Groups: []string{"gitlab:users"}, Extra: map[string][]string{}, Expiry: c.now().Add(2 * time.Minute),
		}},
		"job": {i.CIToken(20, ciAud, nil), authn.Identity{
			Username: "gitlab:ci:20", UID: "20", Groups: []string{"gitlab:ci"}, Expiry: c.now().Add(time.Hour),
			Extra: map[string][]string{
				kubename.ExtraProjectID: {"20"}, kubename.ExtraProject: {"haw/world"}, kubename.ExtraPipeline: {"574"}, kubename.ExtraJob: {"302"},
				kubename.ExtraRef: {"main"}, kubename.ExtraEnv: {"ICC-K8s"}, kubename.ExtraUsername: {"alice"},
			},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := g.Authenticate(t.Context(), want.token)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want.id, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestNewReportsAllFaults(t *testing.T) {
	good := authn.Config{Issuer: "https://gitlab.example.com", ClientIDs: []string{client}}
	for name, tc := range map[string]struct {
		change func(*authn.Config)
		want   []string
	}{
		"good":           {func(*authn.Config) {}, nil},
		"good, relative": {func(c *authn.Config) { c.Issuer = "https://example.com/gitlab" }, nil},
		"http issuer with keys elsewhere": {func(c *authn.Config) {
			c.Issuer, c.JWKSURL = "http://gitlab.example.com", "https://gitlab.internal/oauth/discovery/keys"
		}, nil},
		"http issuer":        {func(c *authn.Config) { c.Issuer = "http://gitlab.example.com" }, []string{"not https"}},
		"slash":              {func(c *authn.Config) { c.Issuer += "/" }, []string{"ends in a slash"}},
		"http keys":          {func(c *authn.Config) { c.JWKSURL = "http://gitlab.example.com/keys" }, []string{"not https"}},
		"credentials in URL": {func(c *authn.Config) { c.Issuer = "https://a:b@gitlab.example.com" }, []string{"not a plain URL"}},
		"same audience": {
			func(c *authn.Config) { c.CIAudience, c.Environments = client, []string{"ICC-K8s"} },
			[]string{"audiences of their own"},
		},
		"no environment": {func(c *authn.Config) { c.CIAudience, c.CIProject = ciAud, served }, []string{"environments: none"}},
		"every project":  {func(c *authn.Config) { c.CIAudience, c.Environments = ciAud, []string{"ICC-K8s"} }, []string{"CI projects: not given"}},
		"CI issuer":      {func(c *authn.Config) { c.CIIssuer = "ci" }, []string{"CI issuer"}},
		"nothing": {
			func(c *authn.Config) { *c = authn.Config{Leeway: time.Hour, MaxCIAge: -1} },
			[]string{"issuer: missing", "audiences: none", "must not be negative", "leeway 1h0m0s"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			tc.change(&cfg)
			_, err := authn.New(cfg)
			if (err == nil) != (tc.want == nil) {
				t.Fatalf("got %v", err)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
}

func TestReasonsAreCompleteAndUnique(t *testing.T) {
	all := authn.Reasons()
	seen := map[authn.Code]bool{}
	outcomes := map[authn.Outcome]int{}
	for _, r := range all {
		if seen[r.Code] || r.Cause == "" || strings.HasSuffix(r.Cause, ".") || !strings.HasSuffix(r.Hint, ".") {
			t.Errorf("%+v", r)
		}
		if strings.Trim(string(r.Code), "abcdefghijklmnopqrstuvwxyz_") != "" {
			t.Errorf("code %q", r.Code)
		}
		seen[r.Code] = true
		outcomes[r.Outcome]++
	}
	if len(all) < 25 || len(outcomes) != 5 {
		t.Errorf("%d codes, outcomes %v", len(all), slices.Collect(maps.Keys(outcomes)))
	}
	if _, ok := authn.ReasonFor("no such code"); ok {
		t.Error("explained a code that does not exist")
	}
}

// TestEveryHintSaysWhatToDo: each hint has a sentence, or a part of one, that tells its reader to do something, or says that nothing is to
// be done.
func TestEveryHintSaysWhatToDo(t *testing.T) {
	todo := regexp.MustCompile(`(?:^|[.:;,] )(?i:nothing to do|add|ask|become|bring|check|compare|copy|deploy|find|give|have|leave|log in|look for|point|protect|raise|report|retry|send|set|sign in|try again|use|wait|write)\b`)
	for _, r := range authn.Reasons() {
		if !todo.MatchString(r.Hint) {
			t.Errorf("%s: nobody knows what to do by %q", r.Code, r.Hint)
		}
	}
}

func TestErrorsKeepTheirMeaning(t *testing.T) {
	i, c := newIssuer(t)
	g := newGitLab(t, config(i, c))
	_, err := g.Authenticate(t.Context(), "opaque")
	if !errors.Is(err, authn.ErrNotMine) {
		t.Errorf("%v is not ErrNotMine", err)
	}
	_, err = g.Authenticate(t.Context(), i.UserToken(42, client, authntest.Claims{"exp": c.now().Add(-35 * time.Second).Unix()}))
	var d *authn.DeniedError
	if !errors.As(err, &d) || d.Error() != "token_expired: the token expired 35s ago" || d.Kind != authn.KindUser || errors.Is(err, authn.ErrNotMine) {
		t.Errorf("got %#v", err)
	}
	i.SetDown(true)
	g = newGitLab(t, config(i, c))
	_, err = g.Authenticate(t.Context(), i.UserToken(42, client, nil))
	var u *authn.UndecidedError
	if !errors.As(err, &u) || u.Code != authn.CodeKeysUnavailable || errors.As(err, &d) {
		t.Errorf("got %#v", err)
	}
	if got := authn.CodeOf(context.Canceled); got != authn.CodeReviewCancelled {
		t.Errorf("got %s", got)
	}
	if got := authn.CodeOf(http.ErrBodyNotAllowed); got != authn.CodeInternal {
		t.Errorf("got %s", got)
	}
}

// TestAdmission: a condition on people is asked after everything else, and not about jobs.
func TestAdmission(t *testing.T) {
	i, c := newIssuer(t)
	known := false
	cfg := config(i, c)
	cfg.UserState = func(id int64) (string, bool) { return "blocked", id == 101 }
	cfg.Admitted = func(id int64) (bool, bool) { return known && id == 42, known }
	g := newGitLab(t, cfg)
	if got := verdict(t, g, i.UserToken(42, client, nil)); got != authn.CodeAdmissionUnknown {
		t.Errorf("before GitLab was read: got %s", got)
	}
	known = true
	for token, want := range map[string]authn.Code{
		i.UserToken(42, client, nil):                        authn.CodeOK,
		i.UserToken(43, client, nil):                        authn.CodeUserNotAdmitted,
		i.UserToken(101, client, nil):                       authn.CodeUserBlocked,
		i.UserToken(43, client, authntest.Claims{"exp": 1}): authn.CodeTokenExpired,
		i.CIToken(20, ciAud, nil):                           authn.CodeOK,
	} {
		if got := verdict(t, g, token); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestKeyFile(t *testing.T) {
	i, c := newIssuer(t)
	i.SetDown(true)
	file := filepath.Join(t.TempDir(), "keys.json")
	cfg := config(i, c)
	cfg.KeyFile = file
	g := newGitLab(t, cfg)
	publish := func(k authntest.Key) {
		b, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{k.JWK()}})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	token := i.UserToken(42, client, authntest.Claims{"exp": c.now().Add(time.Hour).Unix()})
	if got := verdict(t, g, token); got != authn.CodeKeysUnavailable || !strings.Contains(g.Ready().Error(), file) {
		t.Errorf("no file: got %s, ready %v", got, g.Ready())
	}
	publish(i.UserKey)
	c.advance(10 * time.Second)
	if got := verdict(t, g, token); got != authn.CodeOK {
		t.Errorf("got %s", got)
	}
	publish(i.CIKey)
	c.advance(5 * time.Minute)
	if got := verdict(t, g, token); got != authn.CodeUnknownKey {
		t.Errorf("withdrawn key: got %s", got)
	}
}

// TestRefusalsSayByHowMuch: of times by how much, of audiences which are right.
func TestRefusalsSayByHowMuch(t *testing.T) {
	gitlab, now := authntest.New(t), time.Now().Truncate(time.Second)
	gitlab.Now = func() time.Time { return now }
	gl, err := authn.New(authn.Config{
		Issuer: gitlab.URL, ClientIDs: []string{"kubelogin", "web"}, CIAudience: "https://k8s.example.com", Environments: []string{"ICC-K8s"},
		HTTPClient: gitlab.Client(), Now: gitlab.Now, CIProject: served,
	})
	if err != nil {
		t.Fatal(err)
	}
	at := func(d time.Duration) int64 { return gitlab.Now().Add(d).Unix() }
	for want, claims := range map[string]authntest.Claims{
		"issued_in_future: the token was issued 10m0s in the future": {"iat": at(10 * time.Minute), "exp": at(time.Hour)},
		"not_yet_valid: the token is valid only in 5m0s":             {"nbf": at(5 * time.Minute)},
		"token_expired: the token expired 8m0s ago":                  {"iat": at(-time.Hour), "exp": at(-8 * time.Minute)},
		`wrong_audience: the token is meant for another application: people's tokens are for "kubelogin" or "web", those of CI jobs for "https://k8s.example.com"`: {"aud": "s3cret"},
	} {
		if _, err := gl.Authenticate(t.Context(), gitlab.UserToken(42, "kubelogin", claims)); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// TestManyGroups: a person in 500 groups with long paths is let in by default; a token above the limit is not.
func TestManyGroups(t *testing.T) {
	i, c := newIssuer(t)
	g := newGitLab(t, config(i, c))
	in := func(n int) string {
		groups := make([]string, n)
		for k := range groups {
			groups[k] = fmt.Sprintf("faculty-of-engineering/department-%04d/course-%04d/team-%04d", k, k, k)
		}
		return i.UserToken(42, client, authntest.Claims{"groups_direct": groups})
	}
	if got := verdict(t, g, in(500)); got != authn.CodeOK {
		t.Errorf("500 groups: %s", got)
	}
	if got := verdict(t, g, in(1500)); got != authn.CodeTokenTooLarge {
		t.Errorf("1500 groups: %s", got)
	}
}

// TestATokenCutOff: a person's and a job's token, cut off anywhere, is never let in, is never said to be altered, and costs no
// more than the one fetch.
func TestATokenCutOff(t *testing.T) {
	i, c := newIssuer(t)
	g := newGitLab(t, config(i, c))
	for _, token := range []string{i.UserToken(42, client, nil), i.CIToken(20, ciAud, nil)} {
		body, end := strings.Index(token, "."), strings.LastIndex(token, ".")
		for n := range len(token) {
			want := []authn.Code{authn.CodeJWTCutOff}
			switch {
			case n < 3:
				want = []authn.Code{authn.CodeNotJWT, authn.CodeEmptyToken}
			case n > end:
				want = []authn.Code{authn.CodeShortSignature}
			}
			if got := verdict(t, g, token[:n]); !slices.Contains(want, got) {
				t.Fatalf("cut off behind %d of %d characters (the dots are at %d and %d): %s", n, len(token), body, end, got)
			}
		}
		if got := verdict(t, g, token); got != authn.CodeOK {
			t.Errorf("the whole token: %s", got)
		}
	}
	if n := i.KeyReads(); n != 1 {
		t.Errorf("%d fetches of the keys", n)
	}
}

// TestOtherTokensOfGitLab: each kind is named, whatever is behind the prefix and whatever the instance puts before it, and
// nothing of the token is in the answer.
func TestOtherTokensOfGitLab(t *testing.T) {
	i, c := newIssuer(t)
	g := newGitLab(t, config(i, c))
	for prefix, what := range map[string]string{
		"glcbt-": "CI_JOB_TOKEN", "glpat-": "access token", "gloas-": "OAuth application", "gldt-": "deploy token", "glrt-": "runner", "glrtr-": "runner",
		"GR1348941": "runner", "glptt-": "trigger", "glft-": "feed", "glimt-": "mail", "glagent-": "agent", "glwt-": "workspace", "glsoat-": "SCIM", "glffct-": "feature flags",
	} {
		for _, instance := range []string{"", "example-", "our-gitlab-"} {
			for _, rest := range []string{"", "AbC123", "AbC123_-.01.0z8kf", i.UserToken(42, client, nil), i.UserToken(42, client, authntest.Claims{"iss": "gitlab.example.com"})} {
				token := instance + prefix + rest
				_, err := g.Authenticate(t.Context(), token)
				if authn.CodeOf(err) != authn.CodeNotIDToken || !strings.Contains(err.Error(), what) || strings.Contains(err.Error(), prefix) {
					t.Errorf("%s%s with %d characters: %v", instance, prefix, len(rest), err)
				}
			}
		}
	}
	if n := i.KeyReads(); n != 0 {
		t.Errorf("%d fetches of the keys", n)
	}
}
