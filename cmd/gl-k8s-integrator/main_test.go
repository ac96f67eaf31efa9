package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"gl-k8s-integrator": main})
}

// TestCommands runs the stories in testdata.
func TestCommands(t *testing.T) {
	schema, err := os.ReadFile("../../docs/config.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{Dir: "testdata", RequireExplicitExec: true, Setup: func(e *testscript.Env) error {
		return os.WriteFile(filepath.Join(e.WorkDir, "schema.json"), schema, 0o600)
	}})
}

var (
	block    = regexp.MustCompile("(?s)```[a-z ]*\n(.*?)```")
	makeLine = regexp.MustCompile(`^make ([a-z-]+)`)
)

// TestCommandsInTheDocsExist: what the pages tell people to type can be typed.
func TestCommandsInTheDocsExist(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range block.FindAllStringSubmatch(string(text), -1) {
			for line := range strings.Lines(b[1]) {
				line, _, _ = strings.Cut(strings.TrimSpace(line), "#")
				if m := makeLine.FindStringSubmatch(line); m != nil {
					seen++
					if !strings.Contains(string(makefile), "\n"+m[1]+":") {
						t.Errorf("%s: make has no target %s", page, m[1])
					}
				}
				args := strings.Fields(line)
				if len(args) < 2 || args[0] != "gl-k8s-integrator" {
					continue
				}
				seen++
				cmd, rest, err := rootCommand(streams{}).Find(args[1:])
				if err != nil || !strings.HasPrefix(cmd.CommandPath(), "gl-k8s-integrator "+args[1]) {
					t.Errorf("%s: %q: no such command", page, line)
				} else if err := cmd.ParseFlags(rest); err != nil {
					t.Errorf("%s: %q: %v", page, line, err)
				}
			}
		}
	}
	for file, command := range map[string]*regexp.Regexp{
		"gl-k8s-integrator.service": regexp.MustCompile(`(?m)^ExecStart=\S+/gl-k8s-integrator (.*)$`),
		"deployment.yaml":           regexp.MustCompile(`command: \[/gl-k8s-integrator, (.*)\]`),
	} {
		text, err := os.ReadFile("../../deploy/optional/" + file)
		if err != nil {
			t.Fatal(err)
		}
		m := command.FindSubmatch(text)
		if m == nil {
			t.Errorf("%s does not start the program", file)
			continue
		}
		cmd, rest, err := rootCommand(streams{}).Find(strings.Fields(strings.ReplaceAll(string(m[1]), ",", "")))
		if err != nil || cmd.Name() != "serve" || cmd.ParseFlags(rest) != nil {
			t.Errorf("%s: %q is not how serve is started", file, m[1])
		}
	}
	if seen < 10 {
		t.Errorf("only %d commands were found in the docs", seen)
	}
}
