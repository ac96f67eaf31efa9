package web

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeconfig"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people"
)

// university has 10,000 projects: user 1 owns all of them, each other one is in about 150.
func university(b *testing.B) authz.View {
	b.Helper()
	s := &authz.Snapshot{Users: map[int64]authz.User{}, Groups: map[int64]authz.Group{}, Projects: map[int64]authz.Project{}, Taken: time.Now()}
	for u := range int64(2000) {
		s.Users[u+1] = authz.User{ID: u + 1, Username: fmt.Sprintf("u%d", u+1), State: authz.StateActive, Human: true}
	}
	s.Groups[1] = authz.Group{ID: 1, Path: "top", Members: []authz.Member{{User: 1, Level: authz.Owner}}}
	names := map[authz.SourceID]string{}
	for i := range int64(10_000) {
		p := authz.Project{ID: i + 1, Group: 1, Path: fmt.Sprintf("top/p%d", i+1)}
		for k := range int64(29) {
			p.Members = append(p.Members, authz.Member{User: 4 + (i*31+k*7)%1990, Level: authz.Developer})
		}
		s.Projects[p.ID] = p
		names[authz.ProjectID(p.ID)] = fmt.Sprintf("top-p%d", p.ID)
	}
	policy, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.ProjectSource}})
	if err != nil {
		b.Fatal(err)
	}
	return authz.NewView(s, policy, names).WithGaps(map[authz.SourceID]authz.Gap{})
}

// BenchmarkPage is what pages cost at 10,000 projects, from the request with its cookie to the last byte: p99, for somebody with 150
// namespaces and for the owner of all.
func BenchmarkPage(b *testing.B) {
	v, key := university(b), make([]byte, 32)
	s, err := New(Options{
		URL: "https://icc.example.com", GitLabURL: "https://gitlab.example.com", ClientID: "web", Language: "en", Now: time.Now, HTTPClient: http.DefaultClient,
		PerSecond: 1e9, Burst: 1e9, // one person asks as fast as pages are made
		Keys: func() ([][]byte, error) { return [][]byte{key}, nil }, UserState: func(int64) (string, bool) { return "active", true },
		People:  people.New(people.Options{View: func() (authz.View, bool) { return v, true }, GitLabURL: "https://gitlab.example.com"}),
		Cluster: "icc", Kubeconfig: func(_ context.Context, variant kubeconfig.Variant, namespaces []string) ([]byte, error) {
			return kubeconfig.File([]kubeconfig.Cluster{{Name: "icc", URL: "https://icc.example.com:6443", Issuer: "https://gitlab.example.com", ClientID: "kubectl", Namespaces: namespaces}}, variant)
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	keys, err := s.keys(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for _, who := range []struct {
		name string
		user int64
	}{{"person", 500}, {"owner_of_all", 1}} {
		sealed, err := keys.seal(sessionCookie, session{User: who.user, CSRF: "x", Began: time.Now(), Seen: time.Now()})
		if err != nil {
			b.Fatal(err)
		}
		first := "top-p1"
		if mine, err := s.o.People.Namespaces(who.user, people.Filter{Limit: 1}); err != nil || len(mine.Namespaces) == 0 {
			b.Fatalf("%v, %v", mine, err)
		} else {
			first = mine.Namespaces[0].Name
		}
		for name, path := range map[string]string{"namespaces": "/namespaces", "search": "/namespaces?q=p77", "namespace": "/namespaces/" + first, "connect": "/connect?namespace=" + first} {
			b.Run(who.name+"/"+name, func(b *testing.B) {
				var took []time.Duration
				for b.Loop() {
					r, w := httptest.NewRequest(http.MethodGet, path, nil), httptest.NewRecorder()
					r.AddCookie(&http.Cookie{Name: sessionCookie, Value: sealed})
					begun := time.Now()
					s.ServeHTTP(w, r)
					took = append(took, time.Since(begun))
					if w.Code != http.StatusOK {
						b.Fatalf("%d %s", w.Code, w.Body)
					}
				}
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)*99/100])/float64(time.Millisecond), "p99-ms")
			})
		}
	}
}
