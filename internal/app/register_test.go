package app

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

func TestRegisterHook(t *testing.T) {
	sim, err := gitlabsim.New(gitlabsim.Options{Seed: []byte("users:\n  - {username: root, admin: true}\n")})
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cfg := &config.Config{}
	cfg.GitLab.URL, cfg.GitLab.CAFile = sim.URL(), file("ca", string(sim.CA()))
	ask := func(r Registration) (string, error) {
		var out bytes.Buffer
		r.Verify = true
		if r.Cluster == "" {
			r.Cluster = "00000000-0000-4000-8000-00000000000a"
		}
		err := RegisterHook(t.Context(), cfg, r, &out)
		return out.String(), err
	}
	register := func(url string) (string, error) { return ask(Registration{URL: url}) }
	const url = "https://integrator.example.com/hooks/gitlab"
	refused := func(url, want string) {
		t.Helper()
		if _, err := register(url); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q in it", err, want)
		}
	}
	refused("integrator.example.com", "--url: want https://")
	refused("https://integrator.example.com/", "is not /hooks/gitlab")
	refused(url, "listeners.hooks.secretFile")
	cfg.Listeners.Hooks.SecretFile = file("secret", "s3cret-of-the-hook")
	refused(url, "gitlab.writeTokenFile")
	cfg.GitLab.WriteTokenFile = file("token", sim.TokenFor("root", "api"))
	for _, want := range []string{"sends its system hooks to " + url, "was there"} {
		if out, err := register(url); err != nil || !strings.Contains(out, want) || strings.Contains(out, "s3cret") {
			t.Errorf("%q, %v; want %q", out, err, want)
		}
	} // Hooks that go elsewhere are named, and removed only when asked for by id.
	const behind = "https://proxy.example.com/gl"
	out, err := ask(Registration{URL: behind, RewrittenPath: true})
	if err != nil || !strings.Contains(out, "also sends its system hooks to "+url+" (hook 1)") {
		t.Errorf("%q, %v", out, err)
	}
	stranger, err := sim.AddSystemHook(gitlabsim.SeedHook{URL: "https://else.example.com/"})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []int64{2, stranger, 77} { // the one in use, somebody else's, none
		if out, err := ask(Registration{URL: behind, RewrittenPath: true, Remove: []int64{1, id}}); err == nil || out != "" || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("--remove %d: %q, %v", id, out, err)
		}
	}
	out, err = ask(Registration{URL: behind, RewrittenPath: true, Remove: []int64{1}})
	if err != nil || !strings.Contains(out, url+" (hook 1) is removed") || strings.Contains(out, "also sends") {
		t.Errorf("%q, %v", out, err)
	}
	// Another cluster's integrator does not take our hook over, nor remove it, but for a cluster that it replaces.
	const other = "00000000-0000-4000-8000-00000000000b"
	if out, err := ask(Registration{URL: behind, RewrittenPath: true, Cluster: other}); err == nil || out != "" || !strings.Contains(err.Error(), "-00000000000a\"") || !strings.Contains(err.Error(), "cluster.replaces") {
		t.Errorf("the hook of another cluster is taken over: %q, %v", out, err)
	}
	if out, err := ask(Registration{URL: url, Cluster: other, Remove: []int64{2}}); err == nil || out != "" || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("the hook of another cluster is removed: %q, %v", out, err)
	}
	out, err = ask(Registration{URL: "https://b.example.com/hooks/gitlab", Cluster: other})
	if err != nil || !strings.Contains(out, "hook 2), for another cluster") || strings.Contains(out, "--remove") {
		t.Errorf("%q, %v", out, err)
	}
	cfg.Cluster.Replaces = []string{"00000000-0000-4000-8000-00000000000a"}
	if out, err = ask(Registration{URL: behind, RewrittenPath: true, Cluster: other}); err != nil || !strings.Contains(out, "was there") {
		t.Errorf("a rebuilt cluster: %q, %v", out, err)
	}
	cfg.Cluster.Replaces = []string{other}
	if out, err = ask(Registration{URL: behind, RewrittenPath: true, Remove: []int64{4}}); err != nil || !strings.Contains(out, "(hook 4) is removed") {
		t.Errorf("back again: %q, %v", out, err)
	}
	cfg.Cluster.Replaces = nil
	if out, err = register(url); err != nil || !strings.Contains(out, "from now on") || !strings.Contains(out, behind+" (hook 2)") || strings.Contains(out, "else.example.com") {
		t.Errorf("%q, %v", out, err)
	}
}
