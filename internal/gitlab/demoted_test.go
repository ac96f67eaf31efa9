package gitlab

import (
	"strings"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// TestDemotedTokenTakesNothingAway: when the owner of the reading token loses the administrator role, private groups
// are missing from every list. A full reading must not take that for their end.
func TestDemotedTokenTakesNothingAway(t *testing.T) {
	sim, err := gitlabsim.New(gitlabsim.Options{Seed: []byte(`
users: [{username: root, admin: true}, {username: a}]
groups:
  - {path: secret, visibility: private, members: {a: owner}}
  - {path: open, visibility: public, members: {a: owner}}
`)})
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	token := sim.TokenFor("root", "read_api")
	r, err := NewReader(Options{BaseURL: sim.URL(), HTTPClient: sim.Client(), Token: func() (string, error) { return token, nil }, NoPacing: true})
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.Snapshot(t.Context())
	if err != nil || s.MissingAll != "" || len(s.Groups) != 2 {
		t.Fatalf("as administrator: %v, %q, %d groups", err, s.MissingAll, len(s.Groups))
	}
	var root int64
	sim.World().View(func(v *gitlabsim.View) { root = v.UserByName("root").ID })
	if err := sim.World().SetUserFlags(root, false, false); err != nil {
		t.Fatal(err)
	}
	s, err = r.Snapshot(t.Context())
	if err != nil || !strings.Contains(s.MissingAll, "administrator") {
		t.Errorf("demoted: %v, MissingAll %q with %d groups: everything must be untouchable", err, s.MissingAll, len(s.Groups))
	}
	if err := sim.World().SetUserFlags(root, true, false); err != nil {
		t.Fatal(err)
	}
	if s, err = r.Snapshot(t.Context()); err != nil || s.MissingAll != "" || len(s.Groups) != 2 {
		t.Errorf("administrator again: %v, %q", err, s.MissingAll)
	}
}
