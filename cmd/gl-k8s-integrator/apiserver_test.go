package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestCommandsOfTheLoginPages runs what docs/login.md, docs/fence-files.md and docs/install-managed.md tell people to type, with
// the configuration of the first.
func TestCommandsOfTheLoginPages(t *testing.T) {
	var text string
	for _, page := range []string{"login", "fence-files", "install-managed"} {
		raw, err := os.ReadFile("../../docs/" + page + ".md")
		if err != nil {
			t.Fatal(err)
		}
		text += string(raw)
	}
	t.Chdir(t.TempDir())
	config := regexp.MustCompile("(?s)```yaml config\n(.*?)```").FindStringSubmatch(text)
	if config == nil {
		t.Fatal("docs/login.md has no configuration")
	}
	if err := os.WriteFile("config.yaml", []byte(config[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, line := range regexp.MustCompile(`(?m)^ *gl-k8s-integrator (.*)$`).FindAllStringSubmatch(text, -1) {
		command, _, _ := strings.Cut(line[1], " > ")
		var out, errs strings.Builder
		root := rootCommand(streams{out: &out, err: &errs})
		root.SetArgs(strings.Fields(command))
		if err := root.ExecuteContext(t.Context()); err != nil || out.Len() == 0 || errs.Len() > 0 {
			t.Errorf("%s: %v, printed %d bytes, warned:\n%s", command, err, out.Len(), errs.String())
		}
		ran++
	}
	if ran < 6 {
		t.Errorf("only %d commands were found", ran)
	}
}
