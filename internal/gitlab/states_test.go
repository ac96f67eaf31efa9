package gitlab_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

func TestStates(t *testing.T) {
	for _, rest := range []bool{false, true} {
		sim, err := gitlabsim.New(gitlabsim.Options{Seed: []byte("users:\n  - {username: root, admin: true}\n  - {username: a}\n  - {username: b}\n  - {username: c}\n")})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(sim.Close)
		var root, a, b, c int64
		sim.World().View(func(v *gitlabsim.View) {
			root, a, b, c = v.UserByName("root").ID, v.UserByName("a").ID, v.UserByName("b").ID, v.UserByName("c").ID
		})
		if err := sim.World().SetUserState(b, "blocked"); err != nil {
			t.Fatal(err)
		}
		if err := sim.World().SetUserState(c, "banned"); err != nil {
			t.Fatal(err)
		}
		r, err := gitlab.NewReader(gitlab.Options{
			BaseURL: sim.URL(), HTTPClient: sim.Client(), RESTOnly: rest, RetryWait: 1,
			Token: func() (string, error) { return sim.TokenFor("root", "read_api"), nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		got, more, err := r.States(t.Context(), []int64{root, a, b, c, 999})
		if err != nil || len(more) != 0 {
			t.Fatal(err, more)
		}
		want := map[int64]authz.UserState{root: "active", a: "active", b: "blocked", c: "banned"}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("REST alone: %v (-want +got):\n%s", rest, d)
		}
		if n := r.Requests()["graphql"]; !rest && n != 1 {
			t.Errorf("%d GraphQL requests for five people, want 1", n)
		}
	}
}
