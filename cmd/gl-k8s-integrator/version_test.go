package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const upgradePage = "../../docs/upgrade.md"

// TestFormatsInTheDocs: the table in docs/upgrade.md has the formats that `version` prints, and no others.
func TestFormatsInTheDocs(t *testing.T) {
	page, err := os.ReadFile(upgradePage)
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| .*`([^`]+)` \\| `?([^ |`]+)`? \\|").FindAllStringSubmatch(string(page), -1) {
		documented[m[1]] = m[2]
	}
	var out strings.Builder
	root := rootCommand(streams{out: &out, err: &out})
	root.SetArgs([]string{"version"})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	_, formats, _ := strings.Cut(strings.TrimSpace(out.String()), "\n")
	for line := range strings.SplitSeq(formats, "\n") {
		what, have, _ := strings.Cut(line, ": ")
		what = what[strings.LastIndex(what, " ")+1:]
		key := map[string]string{"configuration": "apiVersion", "marks": "gl-k8s-integrator.io/format"}[what]
		if key == "" {
			key = what
		}
		if documented[key] != have {
			t.Errorf("%s has version %s; docs/upgrade.md says %q", key, have, documented[key])
		}
		delete(documented, key)
	}
	for what := range documented {
		t.Errorf("docs/upgrade.md has a version of %s, and the program has not", what)
	}
}

// TestCommandsOfTheUpgradePage runs what docs/upgrade.md tells people to do with the new version before it serves.
func TestCommandsOfTheUpgradePage(t *testing.T) {
	page, err := os.ReadFile(upgradePage)
	if err != nil {
		t.Fatal(err)
	}
	sample, err := os.ReadFile("../../deploy/config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```sh before\n(.*?)```").FindStringSubmatch(string(page))
	if block == nil {
		t.Fatal("docs/upgrade.md does not say what to do before")
	}
	t.Chdir(t.TempDir())
	if err := os.WriteFile("config.yaml", sample, 0o600); err != nil {
		t.Fatal(err)
	}
	ran := 0
	for line := range strings.Lines(block[1]) {
		args := strings.Fields(line)
		var out, errs strings.Builder
		root := rootCommand(streams{out: &out, err: &errs})
		root.SetArgs(args[1:])
		if err := root.ExecuteContext(t.Context()); args[0] != "gl-k8s-integrator" || err != nil || out.Len() == 0 {
			t.Errorf("%s: %v\n%s%s", line, err, out.String(), errs.String())
		}
		ran++
	}
	if ran != 2 {
		t.Errorf("%d commands were run", ran)
	}
}

// TestTheTagIsTheVersion: at a tagged commit, what make and the go command call the version is the tag.
func TestTheTagIsTheVersion(t *testing.T) {
	run := func(dir, name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=-buildvcs=true", "GIT_CONFIG_COUNT=2", "GIT_CONFIG_KEY_0=user.name", "GIT_CONFIG_VALUE_0=t", "GIT_CONFIG_KEY_1=user.email", "GIT_CONFIG_VALUE_1=t@example.com")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", cmd, err, out)
		}
		return string(out)
	}
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("SKIPPED: git is not installed")
	}
	dir := t.TempDir()
	source, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"Makefile": string(source), "go.mod": "module example.com/tagged\n\ngo 1.24\n", ".gitignore": "bin\n", "cmd/gl-k8s-integrator/main.go": "package main\n\nimport \"runtime/debug\"\n\nvar version string\n\n" +
			"func main() {\n\ti, _ := debug.ReadBuildInfo()\n\tprint(version, \" \", i.Main.Version)\n}\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), fs.FileMode(0o600)); err != nil {
			t.Fatal(err)
		}
	}
	run(dir, "git", "init", "--quiet")
	run(dir, "git", "add", "--all")
	run(dir, "git", "commit", "--quiet", "--message", "first")
	run(dir, "git", "tag", "--annotate", "v0.1.0", "--message", "v0.1.0")
	run(dir, "make", "build")
	if got := run(dir, filepath.Join(dir, "bin/gl-k8s-integrator")); got != "v0.1.0 v0.1.0" {
		t.Errorf("make build at the tag v0.1.0 gives the version and what the go command found: %q", got)
	}
}
