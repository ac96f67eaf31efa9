package api_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

// large is a GitLab with 10,000 projects in 1,000 groups: person 1 is Owner of one with 400 projects, person 2 Developer in 12
// projects, person 3 in none; 20,000 others are members here and there.
func large(b *testing.B) authz.View {
	b.Helper()
	s := &authz.Snapshot{Taken: time.Now(), Users: map[int64]authz.User{}, Groups: map[int64]authz.Group{}, Projects: map[int64]authz.Project{}}
	for id := int64(1); id <= 20_000; id++ {
		s.Users[id] = authz.User{ID: id, Username: fmt.Sprintf("user%d", id), State: authz.StateActive, Human: true}
	}
	for id := int64(1); id <= 1000; id++ {
		g := authz.Group{ID: id, Path: fmt.Sprintf("group-%d", id)}
		for i := range int64(20) {
			g.Members = append(g.Members, authz.Member{User: 4 + (id*37+i*101)%19_990, Level: authz.Developer})
		}
		s.Groups[id] = g
	}
	g := s.Groups[1]
	g.Members = append(g.Members, authz.Member{User: 1, Level: authz.Owner})
	s.Groups[1] = g
	names := map[authz.SourceID]string{}
	for id := int64(1); id <= 10_000; id++ {
		p := authz.Project{ID: id, Group: id%999 + 2, Path: fmt.Sprintf("group-%d/project-%d", id%999+2, id)}
		if id <= 400 {
			p.Group, p.Path = 1, fmt.Sprintf("group-1/project-%d", id)
		}
		if id > 400 && id <= 412 {
			p.Members = []authz.Member{{User: 2, Level: authz.Developer, Expires: authz.Date{Year: 2099, Month: 1, Day: 1}}}
		}
		s.Projects[id] = p
		names[authz.ProjectID(id)] = fmt.Sprintf("ns-%d", id)
	}
	policy, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.ProjectSource}})
	if err != nil {
		b.Fatal(err)
	}
	return authz.NewView(s, policy, names).WithGaps(map[authz.SourceID]authz.Gap{})
}

// BenchmarkPeople is what an answer takes at 10,000 projects, the judgement of the token included: the 99th percentile. "index" is
// the first one after a round that has changed much, where nobody has made the index before.
func BenchmarkPeople(b *testing.B) {
	w := newWorld(b, nil)
	view := large(b)
	for _, c := range []struct {
		name, path string
		user       int64
		anew       bool
	}{
		{"my-namespaces/400", webapi.PathMyNamespaces, 1, false},
		{"my-namespaces/12", webapi.PathMyNamespaces, 2, false},
		{"my-namespaces/none", webapi.PathMyNamespaces, 3, false},
		{"my-namespaces/search-400", webapi.PathMyNamespaces + "?search=39&limit=50", 1, false},
		{"my-namespaces/index", webapi.PathMyNamespaces, 2, true},
		{"can", webapi.PathCan + "?verb=delete&resource=pods&namespace=ns-401", 2, false},
		{"whoami", webapi.PathWhoAmI, 2, false},
		{"ci", webapi.PathCI + "?project=group-1/project-7", 1, false},
	} {
		b.Run(c.name, func(b *testing.B) {
			w.set(func() { w.view = view; w.states[c.user] = "active" })
			var took []time.Duration
			token := w.token(c.user)
			r := httptest.NewRequestWithContext(b.Context(), http.MethodGet, c.path, nil)
			r.Header.Set("Authorization", "Bearer "+token)
			w.api.ServeHTTP(httptest.NewRecorder(), r) // with the index, and GitLab's keys
			for b.Loop() {
				if c.anew {
					w.set(func() {
						w.view = authz.NewView(view.Snapshot, view.Policy, view.Namespace).WithGaps(map[authz.SourceID]authz.Gap{})
					})
				}
				out := httptest.NewRecorder()
				start := time.Now()
				w.api.ServeHTTP(out, r)
				took = append(took, time.Since(start))
				if out.Code != http.StatusOK {
					b.Fatal(out.Code, out.Body)
				}
				w.set(func() { w.ahead += time.Second }) // nobody is limited
				if len(took)%60 == 0 {
					w.set(func() { w.ahead = 0 })
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e6, "p99-ms")
		})
	}
}
