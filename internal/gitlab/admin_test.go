package gitlab

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// TestIsAdmin: GitLab's word of the moment counts, and only a clear yes.
func TestIsAdmin(t *testing.T) {
	sim, err := gitlabsim.New(gitlabsim.Options{Seed: []byte(`
users: [{username: root, admin: true}, {username: boss, admin: true}, {username: a}, {username: bot, admin: true}]
`)})
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	id := map[string]int64{}
	sim.World().View(func(v *gitlabsim.View) {
		for _, name := range []string{"root", "boss", "a", "bot"} {
			id[name] = v.UserByName(name).ID
		}
	})
	reader := func(of string) *Reader {
		token := sim.TokenFor(of, "read_api")
		r, err := NewReader(Options{BaseURL: sim.URL(), HTTPClient: sim.Client(), Token: func() (string, error) { return token, nil }, NoPacing: true})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := reader("root")
	is := func(name string, want bool) {
		t.Helper()
		if got, err := r.IsAdmin(t.Context(), id[name]); err != nil || got != want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	is("boss", true)
	is("a", false)
	if got, err := r.Admins(t.Context()); err != nil || !maps.Equal(got, map[int64]bool{id["root"]: true, id["boss"]: true, id["bot"]: true}) {
		t.Errorf("administrators: %v, %v", got, err)
	}
	if got, err := r.IsAdmin(t.Context(), 999999); err != nil || got {
		t.Errorf("nobody: %v, %v", got, err)
	}
	for what, change := range map[string]func() error{
		"blocked": func() error { return sim.World().SetUserState(id["boss"], gitlabsim.StateBlocked) },
		"deleted": func() error { return sim.World().DeleteUser(id["bot"]) },
		"given":   func() error { return sim.World().SetUserFlags(id["a"], true, false) },
	} {
		if err := change(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	is("boss", false)
	is("bot", false)
	is("a", true)
	if err := sim.World().SetUserFlags(id["a"], false, false); err != nil {
		t.Fatal(err)
	}
	is("a", false)

	// What is not told is no.
	if got, err := reader("a").Admins(t.Context()); err != nil || got != nil {
		t.Errorf("administrators, asked with a token that is no administrator's: %v, %v", got, err)
	}
	if got, err := reader("a").IsAdmin(t.Context(), id["root"]); err == nil || got || !strings.Contains(err.Error(), "gitlab.readTokenFile") {
		t.Errorf("asked with a token that is no administrator's: %v, %v", got, err)
	}
	path := "/api/v4/users/"
	for what, fault := range map[string]gitlabsim.FaultRule{
		"away":      {PathPrefix: path, Close: true},
		"broken":    {PathPrefix: path, Status: 500, Body: "{}"},
		"half":      {PathPrefix: path, TruncateBody: true},
		"another":   {PathPrefix: path, Status: 200, Body: `{"id":77,"username":"x","state":"active","is_admin":true}`},
		"stateless": {PathPrefix: path, Status: 200, Body: `{"id":1,"username":"root","is_admin":true}`},
		"a proxy's": {PathPrefix: path, Status: 404, Body: "<html>not here</html>"},
		"hanging":   {PathPrefix: path, Hang: true},
	} {
		sim.SetFaults(gitlabsim.Faults{Rules: []gitlabsim.FaultRule{fault}})
		began := time.Now()
		got, err := r.IsAdmin(t.Context(), id["root"])
		if got || err == nil && what != "stateless" {
			t.Errorf("%s: %v, %v", what, got, err)
		}
		if took := time.Since(began); took > 2*adminPatience {
			t.Errorf("%s took %s", what, took)
		}
	}
}
