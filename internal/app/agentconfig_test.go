package app

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// TestAgentConfigWarns: who mistypes an id must not take a list without their project for a good one.
func TestAgentConfigWarns(t *testing.T) {
	sim, err := gitlabsim.New(gitlabsim.Options{Seed: []byte("users:\n  - {username: root, admin: true}\ngroups:\n  - {path: haw}\nprojects:\n  - {id: 42, path: haw/world}\n")})
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	dir := t.TempDir()
	for name, content := range map[string]string{"ca.crt": string(sim.CA()), "token": sim.TokenFor("root", "read_api")} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(ci string) (out, warned string, err error) {
		cfg, err := config.Parse(fmt.Appendf(nil, `apiVersion: gl-k8s-integrator/v1alpha1
kind: Config
gitlab: {url: %q, caFile: %s/ca.crt, readTokenFile: %[2]s/token, writeTokenFile: %[2]s/token}
listeners: {webhooks: {address: "127.0.0.1:0", certFile: c, keyFile: k}}
authn: {clientIDs: [a]}
ci: {%s}
`, sim.URL(), dir, ci))
		if err != nil {
			t.Fatal(err)
		}
		var o, w bytes.Buffer
		err = AgentConfig(t.Context(), cfg, slog.New(slog.NewTextHandler(&w, nil)), &o)
		return o.String(), w.String(), err
	}
	if _, _, err := run("delivery: none"); err == nil || !strings.Contains(err.Error(), "configProject") {
		t.Errorf("without ci.agent: %v", err)
	}
	const agent = `delivery: none, agent: {id: 1, name: icc, configProject: project/1, kasURL: "https://kas.example.com/"}, `
	out, warned, err := run(agent + "projects: [{source: project/42, delivery: agent}]")
	if err != nil || warned != "" || !strings.Contains(out, "id: haw/world") {
		t.Errorf("a right id: %q, %q, %v", out, warned, err)
	}
	out, warned, err = run(agent + "projects: [{source: project/99, delivery: agent}]")
	if err != nil || strings.Contains(out, "id:") || !strings.Contains(warned, "at=ci.projects[0] source=project/99") || !strings.Contains(warned, "lets no job in") {
		t.Errorf("an unknown id: %q, %q, %v", out, warned, err)
	}
}
