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
	register := func(url string) (string, error) {
		var out bytes.Buffer
		err := RegisterHook(t.Context(), cfg, url, true, &out)
		return out.String(), err
	}
	const url = "https://integrator.example.com/hooks/gitlab"
	refused := func(url, want string) {
		t.Helper()
		if _, err := register(url); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q in it", err, want)
		}
	}
	refused("integrator.example.com", "--url: want https://")
	refused(url, "listeners.hooks.secretFile")
	cfg.Listeners.Hooks.SecretFile = file("secret", "s3cret-of-the-hook")
	refused(url, "gitlab.writeTokenFile")
	cfg.GitLab.WriteTokenFile = file("token", sim.TokenFor("root", "api"))
	for _, want := range []string{"sends its system hooks to " + url, "was there"} {
		if out, err := register(url); err != nil || !strings.Contains(out, want) || strings.Contains(out, "s3cret") {
			t.Errorf("%q, %v; want %q", out, err, want)
		}
	}
}
