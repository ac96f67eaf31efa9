package main

import (
	"os/exec"
	"strings"
	"testing"
)

// TestCommands: the help names what people type, and not what kubectl calls.
func TestCommands(t *testing.T) {
	var out strings.Builder
	root := rootCommand(&out)
	root.SetArgs(nil)
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"demo ", "controlplane"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the help does not name %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "demo-token") {
		t.Errorf("the help names demo-token:\n%s", out.String())
	}
}

// TestWhatShips: the program that runs in production links neither the simulated GitLab, which is an OpenID Connect issuer,
// nor what builds and runs control planes. internal/localcert makes the certificates of `init`, so it ships.
func TestWhatShips(t *testing.T) {
	deps, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "../gl-k8s-integrator").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, dep := range []string{"/internal/gitlabsim", "/internal/controlplane", "/internal/freeport", "/internal/demo", "/internal/bench", "gqlparser"} {
		if strings.Contains(string(deps), dep) {
			t.Errorf("gl-k8s-integrator links %s", dep)
		}
	}
	if !strings.Contains(string(deps), "/internal/app") {
		t.Errorf("go list names nothing of what gl-k8s-integrator links:\n%s", deps)
	}
}
