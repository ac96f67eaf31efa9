package structured_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn/authntest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn/structured"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
)

// settings are those that the vectors of authn/testdata/tokens.yaml are for; the account and the project are not asked about,
// because kube-apiserver knows neither.
func settings(i *authntest.Issuer, now func() time.Time) authn.Config {
	return authn.Config{
		Issuer: i.URL, ClientIDs: []string{"kubelogin", "second"}, CIAudience: "https://k8s.example.com", Environments: []string{"ICC-K8s"},
		UnprotectedProjects: map[int64]bool{43: true}, HTTPClient: i.Client(), Now: now,
		CIProject: func(int64) authn.ProjectStanding { return authn.ProjectServed },
	}
}

// apiServer is a real kube-apiserver that judges tokens by itself, by the file config.
type apiServer struct {
	cluster *controlplane.Cluster
	config  string
}

func start(t *testing.T, c authn.Config, ca []byte) *apiServer {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: needs a control plane")
	}
	a := &apiServer{config: filepath.Join(t.TempDir(), "authentication.yaml")}
	a.configure(t, c, ca)
	var err error
	a.cluster, err = controlplane.Start(t.Context(), controlplane.Options{
		Progress: os.Stderr, APIServerFlags: []string{"--authentication-config=" + a.config},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.cluster.Stop() })
	return a
}

// configure writes the file, which kube-apiserver reads again by itself.
func (a *apiServer) configure(t *testing.T, c authn.Config, ca []byte) {
	t.Helper()
	text, err := structured.Configuration(c, ca)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.config+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(a.config+".new", a.config); err != nil {
		t.Fatal(err)
	}
}

// whoami returns who kube-apiserver takes the bearer of a token for; nil for nobody.
func (a *apiServer) whoami(t *testing.T, token string) *who {
	t.Helper()
	cfg := a.cluster.AdminConfig()
	cfg.CertData, cfg.KeyData, cfg.BearerToken = nil, nil, token
	client, err := kubernetes.NewForConfig(rest.CopyConfig(cfg))
	if err != nil {
		t.Fatal(err)
	}
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	switch {
	case apierrors.IsUnauthorized(err), apierrors.IsForbidden(err): // the second is that of nobody, whom no token was found for
		return nil
	case err != nil:
		t.Fatalf("asking kube-apiserver who somebody is: %v", err)
	}
	u := review.Status.UserInfo
	out := &who{Name: u.Username, UID: u.UID, Groups: u.Groups, Extra: map[string][]string{}}
	out.Groups = slices.DeleteFunc(out.Groups, func(g string) bool { return g == "system:authenticated" })
	for k, v := range u.Extra {
		if k != "authentication.kubernetes.io/credential-id" { // kube-apiserver's own, of jti
			out.Extra[k] = v
		}
	}
	return out
}

// await waits until a token is judged so.
func (a *apiServer) await(t *testing.T, token string, accepted bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); (a.whoami(t, token) != nil) != accepted; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after a minute the token still is not judged as it should be (accepted: %v)", accepted)
		}
	}
}

type who struct {
	Name, UID string
	Groups    []string
	Extra     map[string][]string
}

// here returns what authn says: who, or the code of the refusal.
func here(t *testing.T, c authn.Config, token string) (*who, authn.Code) {
	t.Helper()
	a, err := authn.New(c)
	if err != nil {
		t.Fatal(err)
	}
	id, err := a.Authenticate(t.Context(), token)
	if err != nil {
		return nil, authn.CodeOf(err)
	}
	return &who{id.Username, id.UID, id.Groups, id.Extra}, authn.CodeOK
}

// TestAgree sends every vector to both.
func TestAgree(t *testing.T) {
	var now time.Time
	clock := func() time.Time { return now }
	gitlab := authntest.New(t)
	gitlab.Now = clock
	w := authntest.NewWorkshop(t, gitlab)
	gitlab.Publish(w.Keys()...)
	c := settings(gitlab, clock)
	a := start(t, c, gitlab.CA())
	now = time.Now().Truncate(time.Second)
	a.await(t, gitlab.UserToken(42, "kubelogin", nil), true)
	for _, v := range authntest.Vectors(t, "../testdata/tokens.yaml") {
		if v.World != "" || v.Request.Method+v.Request.ContentType+v.Request.Body != "" {
			continue
		}
		now = time.Now().Truncate(time.Second)
		token := w.Token(v)
		if token == "" || strings.ContainsAny(token, "\r\n") {
			continue
		}
		there := a.whoami(t, token)
		ours, code := here(t, c, token)
		if code == authn.CodeOK {
			code = authn.Code(v.Want)
		}
		if d := cmp.Diff(ours, there); d != "" || (code != authn.CodeOK) != (there == nil) {
			t.Logf("DIFF %-40s want %-22s there %v", v.Name, v.Want, there != nil)
			if ours != nil && there != nil {
				t.Log(d)
			}
		}
	}
	_ = errors.New
	_ = fmt.Sprint
	_ = maps.Keys[map[string]string]
	_ = rand.IntN
	_ = http.MethodGet
	_ = regexp.MustCompile
	_ = context.Background
}
