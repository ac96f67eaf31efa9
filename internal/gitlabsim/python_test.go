package gitlabsim

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

// python is the system's: Debian's python3-gitlab is a package for no other.
const python = "/usr/bin/python3"

// TestPythonGitlab drives the REST API with a client that is not ours, python-gitlab: its reading of pages, errors and
// parameters is the one that much of the world has. want.json is what GitLab's documentation and code say about the fixture.
func TestPythonGitlab(t *testing.T) {
	if exec.Command(python, "-c", "import gitlab").Run() != nil {
		t.Skip("SKIPPED: python3-gitlab is not installed (apt-get install python3-gitlab): no foreign client has driven the simulated REST API")
	}
	f := newFixture(t, func(o *Options) { o.Now = time.Now })
	want := map[string]any{}
	text, err := os.ReadFile("testdata/python/want.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	f.World().View(func(v *View) { wantMembers(v, want) })

	got := f.runPython(t)
	for step, result := range want {
		if have, ok := got[step]; !ok || !reflect.DeepEqual(have, result) {
			t.Errorf("%s:\n got %v\nwant %v", step, have, result)
		}
	}
	for step, result := range got {
		if _, ok := want[step]; !ok {
			t.Errorf("%s has no wanted result; it is %v", step, result)
		}
	}

	// The client took back all that it made: the model is as before, whatever the answers said.
	f.World().View(func(v *View) {
		p := v.Project(20)
		equal(t, "variables left", len(p.Variables), 0)
		equal(t, "environments left", len(p.Environments), 0)
		equal(t, "invitations of the project", len(p.Links), 1)
		equal(t, "invitations of the group", len(v.Group(7).Links), 0)
		equal(t, "members of the subgroup", len(v.Group(8).Members), 1)
		equal(t, "state of the user that was blocked", v.User(44).State, StateActive)
	})
	equal(t, "hooks left", f.do("GET", api+"/hooks", "glpat-admin", nil).body, "[]")
}

// wantMembers adds the steps about members as the model has them.
func wantMembers(v *View, want map[string]any) {
	rows := func(members []Member) []any {
		out := []any{}
		for _, m := range members {
			out = append(out, []any{float64(m.UserID), float64(m.Level)})
		}
		return out
	}
	effective := func(members []EffectiveMember) []any {
		var out []Member
		for _, m := range members {
			out = append(out, m.Member)
		}
		return rows(out)
	}
	want["members acme"], want["members platform"] = rows(v.Group(7).Members), rows(v.Group(8).Members)
	want["members project"] = rows(v.Project(20).Members)
	want["all members acme"], want["all members platform"] = effective(v.EffectiveGroupMembers(7)), effective(v.EffectiveGroupMembers(8))
	want["all members project"] = effective(v.EffectiveProjectMembers(20))
}

func (f *fixture) runPython(t *testing.T) map[string]any {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, f.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, "testdata/python/client.py", f.URL())
	cmd.Env = append(os.Environ(), "GITLAB_TOKEN=glpat-admin", "REQUESTS_CA_BUNDLE="+ca)
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("running python-gitlab: %v\n%s", err, problems.Bytes())
	}
	var got map[string]any
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("reading what python-gitlab printed: %v\n%s", err, out)
	}
	return got
}
