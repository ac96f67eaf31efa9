package structured_test

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn/authntest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn/structured"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

const (
	client = "kubelogin"
	ciAud  = "https://k8s.example.com"
	// otherIssuer is the issuer of CI jobs in the vectors of the world ci-issuer.
	otherIssuer = "https://ci.example.com"
)

// settings are those that the vectors of authn/testdata/tokens.yaml are for. Nothing is asked about account and project:
// kube-apiserver knows neither.
func settings(i *authntest.Issuer, now func() time.Time) authn.Config {
	return authn.Config{
		Issuer: i.URL, ClientIDs: []string{client, "second"}, CIAudience: ciAud, Environments: []string{"ICC-K8s"},
		UnprotectedProjects: map[int64]bool{43: true}, HTTPClient: i.Client(), Now: now,
		CIProject: func(int64) authn.ProjectStanding { return authn.ProjectServed },
	}
}

// who is all that an identity says.
type who struct {
	Name, UID string
	Groups    []string
	Extra     map[string][]string
}

// world is both judges, and what makes tokens for them.
type world struct {
	gitlab  *authntest.Issuer
	shop    *authntest.Workshop
	now     time.Time
	config  authn.Config
	cluster *controlplane.Cluster
	file    string
}

// newWorld starts a kube-apiserver that judges tokens by itself.
func newWorld(t *testing.T) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: needs a control plane")
	}
	w := &world{gitlab: authntest.New(t), now: time.Now(), file: filepath.Join(t.TempDir(), "authentication.yaml")}
	w.gitlab.Now = func() time.Time { return w.now }
	w.shop = authntest.NewWorkshop(t, w.gitlab)
	w.gitlab.Publish(w.shop.Keys()...)
	w.configure(t, settings(w.gitlab, w.gitlab.Now))
	var err error
	w.cluster, err = controlplane.Start(t.Context(), controlplane.Options{Progress: os.Stderr, APIServerFlags: []string{"--authentication-config=" + w.file}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.cluster.Stop() })
	w.await(t, w.gitlab.UserToken(42, client, nil), true)
	return w
}

// configure tells both judges; kube-apiserver reads its file again by itself.
func (w *world) configure(t *testing.T, c authn.Config) {
	t.Helper()
	text, err := structured.Configuration(c, w.gitlab.CA())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.file+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(w.file+".new", w.file); err != nil {
		t.Fatal(err)
	}
	w.config = c
}

// tick sets the clock of tokens, and of authn, to now: the second that is in tokens.
func (w *world) tick() { w.now = time.Now().Truncate(time.Second) }

// there returns whom kube-apiserver takes the bearer of a token for; nil for nobody.
func (w *world) there(t *testing.T, token string) *who {
	t.Helper()
	cfg := w.cluster.AdminConfig()
	cfg.CertData, cfg.KeyData, cfg.BearerToken = nil, nil, token
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	review, err := kube.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	switch {
	case apierrors.IsUnauthorized(err), apierrors.IsForbidden(err): // the second where it found no token at all
		return nil
	case err != nil:
		t.Fatalf("asking kube-apiserver who somebody is: %v", err)
	}
	u := review.Status.UserInfo
	out := &who{Name: u.Username, UID: u.UID, Extra: map[string][]string{}}
	out.Groups = slices.DeleteFunc(u.Groups, func(g string) bool { return g == "system:authenticated" })
	for k, v := range u.Extra {
		if k != "authentication.kubernetes.io/credential-id" { // kube-apiserver's own, of jti
			out.Extra[k] = v
		}
	}
	return out
}

// await waits until kube-apiserver judges a token so.
func (w *world) await(t *testing.T, token string, accepted bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); (w.there(t, token) != nil) != accepted; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after two minutes a token still is not judged as it should be (accepted: %v)", accepted)
		}
	}
}

// here returns what authn says: who, or the code of the refusal.
func (w *world) here(t *testing.T, token string) (*who, authn.Code) {
	t.Helper()
	a, err := authn.New(w.config)
	if err != nil {
		t.Fatal(err)
	}
	id, err := a.Authenticate(t.Context(), token)
	if err != nil {
		return nil, authn.CodeOf(err)
	}
	return &who{id.Username, id.UID, id.Groups, id.Extra}, authn.CodeOK
}

// differences is the table of docs/login.md: the codes of what one of the two refuses.
type differences map[authn.Code]int

var codeInRow = regexp.MustCompile("`([a-z_]+)`")

func readDifferences(t *testing.T) differences {
	t.Helper()
	page, err := os.ReadFile("../../docs/login.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(page), "\n| reason here |")
	table, _, _ = strings.Cut(table, "\n\n")
	d := differences{}
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if !strings.HasPrefix(line, "| `") || len(cells) != 5 {
			continue
		}
		for _, m := range codeInRow.FindAllStringSubmatch(cells[1], -1) {
			if _, known := authn.ReasonFor(authn.Code(m[1])); !known {
				t.Errorf("docs/login.md: there is no code %s", m[1])
			}
			d[authn.Code(m[1])] = 0
		}
	}
	if !found || len(d) == 0 {
		t.Fatal("docs/login.md has no table of what the two ways judge differently")
	}
	return d
}

// compare demands the same answer, or a row in the table. want is authn's code where it also knows account and project.
func (d differences) compare(t *testing.T, name string, here *who, want authn.Code, there *who) {
	t.Helper()
	if want != authn.CodeOK {
		here = nil
	}
	if gocmp.Equal(here, there) {
		return
	}
	_, listed := d[want]
	if want == authn.CodeOK {
		listed = listed && strings.HasPrefix(name, "expired just now") // the row is about this alone
	}
	if !listed || (here != nil && there != nil) {
		t.Errorf("%s (%s): docs/login.md has no row for this\n%s", name, want, gocmp.Diff(here, there))
		return
	}
	d[want]++
	if there == nil {
		return
	}
	_, person := kubename.ParseUser(there.Name)
	_, job := kubename.ParseCIJob(there.Name)
	if !person && !job {
		t.Errorf("%s: kube-apiserver calls somebody %q", name, there.Name)
	}
}

// TestVectorsAgree sends the vectors of authn to a real kube-apiserver: the answer is authn's, or docs/login.md says what
// the difference is.
func TestVectorsAgree(t *testing.T) {
	w, d := newWorld(t), readDifferences(t)
	worlds := map[string]func(){
		"": func() {}, "require": func() {}, "unread": func() {}, "api-audience": func() {}, "other-api-audience": func() {},
		"people-only": func() {
			c := settings(w.gitlab, w.gitlab.Now)
			c.CIAudience, c.Environments = "", nil
			w.configure(t, c)
			w.tick()
			w.await(t, w.gitlab.CIToken(20, ciAud, nil), false)
		},
		"ci-issuer": func() {
			second := authntest.New(t)
			second.Publish(w.shop.Keys()...)
			c := settings(w.gitlab, w.gitlab.Now)
			c.CIIssuer = second.URL
			w.configure(t, c)
			w.tick()
			w.await(t, w.gitlab.CIToken(20, ciAud, authntest.Claims{"iss": second.URL}), true)
		},
	}
	vectors := authntest.Vectors(t, "../testdata/tokens.yaml")
	slices.SortStableFunc(vectors, func(a, b authntest.Vector) int { return cmp.Compare(a.World, b.World) })
	now, sent := "", 0
	for _, v := range vectors {
		enter, known := worlds[v.World]
		// Left out are what the webhook alone gets, keys that authn can't read, and what no HTTP header can hold.
		if !known || v.Request.Method+v.Request.ContentType+v.Request.Body != "" {
			continue
		}
		if v.World != now {
			now = v.World
			enter()
		}
		if v.Claims["iss"] == otherIssuer {
			v.Claims["iss"] = w.config.CIIssuer
		}
		w.tick()
		token := w.shop.Token(v)
		if token == "" || strings.ContainsAny(token, "\r\n") {
			continue
		}
		there := w.there(t, token)
		here, _ := w.here(t, token)
		d.compare(t, v.Name, here, authn.Code(v.Want), there)
		sent++
	}
	if sent < 180 {
		t.Errorf("only %d vectors were sent", sent)
	}
	for code, n := range d {
		if n == 0 {
			t.Errorf("docs/login.md has a row for %s, and no vector shows a difference", code)
		}
	}
}

// TestOddClaimsAgree sends tokens with claims by chance: what a later GitLab, or a bug in one, may write.
func TestOddClaimsAgree(t *testing.T) {
	w, d := newWorld(t), readDifferences(t)
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	names := slices.Sorted(maps.Keys(w.gitlab.CIClaims(20, ciAud, authntest.Claims{"azp": "x", "preferred_username": "x", "nickname": "x"})))
	accepted := 0
	for n := range 600 {
		w.tick()
		now := w.now.Unix()
		values := []any{
			nil, "", "x", "42", "042", "-1", "20", "21", "43", "9223372036854775807", "9223372036854775808", " 42", "42\n", 42, 0, -1, 1.5, 1e300, true, false, "true", "false", "True",
			[]any{},
			[]any{"x"},
			[]any{client},
			[]any{client, "second"},
			[]any{client, ciAud},
			[]any{ciAud},
			[]any{nil},
			map[string]any{"a": "b"},
			client, "second", ciAud, w.gitlab.URL, "ICC-K8s", "icc-k8s", "system:masters", "merge_request_event", "it's \"odd\" \\", now, now + 30, now + 3600, now - 3600, now - 100000, fmt.Sprint(now),
		}
		claims, key := w.gitlab.UserClaims(42, client, nil), w.gitlab.UserKey
		if r.IntN(3) > 0 {
			claims, key = w.gitlab.CIClaims([]int64{20, 43}[r.IntN(2)], ciAud, nil), w.gitlab.CIKey
		}
		for range 1 + r.IntN(2) {
			if name := names[r.IntN(len(names))]; r.IntN(6) == 0 {
				delete(claims, name)
			} else {
				claims[name] = values[r.IntN(len(values))]
			}
		}
		if claims["exp"] == now || claims["exp"] == fmt.Sprint(now) {
			continue // a second in which the two differ, as docs/login.md says and TestVectorsAgree shows
		}
		token := authntest.Sign(key, claims)
		there := w.there(t, token)
		here, code := w.here(t, token)
		d.compare(t, fmt.Sprintf("seed %d, token %d, %s", seed, n, authntest.Encode(claims)), here, code, there)
		if here != nil {
			accepted++
		}
	}
	if accepted < 100 || accepted > 500 {
		t.Errorf("%d of 600 tokens are good: they try too little", accepted)
	}
}

// TestFlags: with the older flags people have the same name, and a CI job gets in under a name of no person and no job, as
// docs/login.md says.
func TestFlags(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: needs a control plane")
	}
	w := &world{gitlab: authntest.New(t), now: time.Now()}
	w.gitlab.Now = func() time.Time { return w.now }
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, w.gitlab.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	flags, err := structured.Flags(authn.Config{Issuer: w.gitlab.URL, ClientIDs: []string{client}, CIAudience: ciAud}, ca)
	if err != nil {
		t.Fatal(err)
	}
	w.cluster, err = controlplane.Start(t.Context(), controlplane.Options{Progress: os.Stderr, APIServerFlags: strings.Fields(string(flags))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.cluster.Stop() })
	w.tick()
	w.await(t, w.gitlab.UserToken(42, client, nil), true)
	for _, c := range []struct{ who, token, want string }{
		{"a person", w.gitlab.UserToken(42, client, nil), kubename.User(42)},
		{"a person of another application", w.gitlab.UserToken(42, "another", nil), ""},
		{"a job", w.gitlab.CIToken(20, ciAud, nil), ""},
		{"a job with the audience of people", w.gitlab.CIToken(20, client, nil), "gitlab:project_path:haw/world:ref_type:branch:ref:main"},
	} {
		name := ""
		if there := w.there(t, c.token); there != nil {
			name = there.Name
		}
		if name != c.want {
			t.Errorf("%s is %q, want %q", c.who, name, c.want)
		}
	}
}
