package app

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// TestInspectAsksGitLabForTheAccount: the verdict is the webhook's, account state and conditions included.
func TestInspectAsksGitLabForTheAccount(t *testing.T) {
	sim, err := gitlabsim.New(gitlabsim.Options{Seed: []byte("users: [{username: root, admin: true}]")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sim.Close)
	w := sim.World()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	add := func(name string) int64 {
		id, err := w.AddUser(gitlabsim.User{Username: name, State: "active", Type: "HUMAN"})
		must(err)
		return id
	}
	mint := func(id int64) string {
		token, err := sim.MintUserIDToken(id, "kubelogin", gitlabsim.TokenOptions{})
		must(err)
		return token
	}
	alice, bob, carol := add("alice"), add("bob"), add("carol")
	group, err := w.AddGroup(gitlabsim.Group{Path: "haw", Name: "haw", Visibility: "private"})
	must(err)
	must(w.SetMember(gitlabsim.KindGroup, group, alice, 30, ""))
	tokens := map[string]string{"alice": mint(alice), "bob": mint(bob), "carol": mint(carol)}
	must(w.SetUserState(bob, "blocked"))
	must(w.DeleteUser(carol))

	dir := t.TempDir()
	for name, content := range map[string]string{"ca.crt": string(sim.CA()), "token": sim.TokenFor("root", "read_api")} {
		must(os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	inspect := func(name, require string) string {
		t.Helper()
		cfg, err := config.Parse(fmt.Appendf(nil, `apiVersion: gl-k8s-integrator/v1alpha1
kind: Config
gitlab: {url: %q, caFile: %s/ca.crt, readTokenFile: %s/token}
listeners: {webhooks: {address: "127.0.0.1:0", certFile: a, keyFile: b}}
authn: {clientIDs: [kubelogin], require: {%s}}
ci: {delivery: none}
`, sim.URL(), dir, dir, require))
		must(err)
		var out strings.Builder
		ok, err := Inspect(t.Context(), cfg, tokens[name], &out)
		must(err)
		if text := out.String(); ok != strings.Contains(text, "code:    ok\n") || strings.Contains(text, strings.Split(tokens[name], ".")[2]) {
			t.Errorf("%s: ok %t, or the token is in\n%s", name, ok, text)
		}
		return out.String()
	}
	for _, tc := range []struct{ name, require, code string }{
		{"alice", "", "ok"},
		{"bob", "", "user_blocked"},
		{"carol", "", "user_deleted"},
		{"alice", "mappedRight: true", "ok"},
		{"alice", fmt.Sprintf("groups: [%d]", group), "ok"},
		{"alice", fmt.Sprintf("groups: [%d]", group+1000), "user_not_admitted"},
		{"bob", "mappedRight: true", "user_blocked"},
	} {
		if got := inspect(tc.name, tc.require); !strings.Contains(got, "code:    "+tc.code+"\n") {
			t.Errorf("%s with require {%s}: want %s, got\n%s", tc.name, tc.require, tc.code, got)
		}
	}

	other, err := sim.MintUserIDToken(alice, "another-app", gitlabsim.TokenOptions{})
	must(err)
	tokens["other"] = other
	if got := inspect("other", ""); !strings.Contains(got, `people's tokens are for "kubelogin"; this one is for "another-app"`) {
		t.Errorf("the two audiences are not named:\n%s", got)
	}

	// GitLab's API hangs: a refusal waits for none of it, and a good token not long.
	sim.SetFaults(gitlabsim.Faults{Rules: []gitlabsim.FaultRule{{PathPrefix: "/api/", Latency: time.Minute}}})
	begun := time.Now()
	inspect("other", "")
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("a refusal that needs no API took %v", took)
	}
	begun = time.Now()
	got := inspect("alice", "")
	if took := time.Since(begun); took > userTimeout+5*time.Second || !strings.Contains(got, "what GitLab says of user/2 is not known here") || !strings.HasPrefix(got, "token:   good by itself") {
		t.Errorf("after %v:\n%s", took, got)
	}
}
