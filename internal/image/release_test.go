package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const changelog = `# Changelog

## Unreleased

## v0.1.0

- First version. Nothing to do.

## v0.0.9

- Older.
`

// repository copies the source into a repository of its own with one commit, and returns its folder.
func repository(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "repository")
	copySource(t, "../..", dir)
	if _, err := os.Lstat(filepath.Join(dir, ".git")); err == nil {
		t.Fatal("the copy is no repository of its own")
	}
	commit(t, dir, changelog)
	return dir
}

func commit(t *testing.T, dir, changelog string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "docs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "docs/CHANGELOG.md"), []byte(changelog), 0o644); err != nil {
		t.Fatal(err)
	}
	shell(t, dir, `git init -q; git add -A; git -c user.name=somebody -c user.email=somebody@example.com commit -q -m "as it is"`)
}

// TestRelease makes a release as docs/release.md says, checks and uses it, and makes it again elsewhere.
func TestRelease(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds the program")
	}
	for _, tool := range []string{"openssl", "git", "make"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs " + tool)
		}
	}
	here := platform{"linux", hostArch(t)}
	dir := repository(t)
	keys := t.TempDir()
	shell(t, keys, block(t, "image", "sh key"))
	key := filepath.Join(keys, "image.key")
	command := strings.TrimSpace(strings.Replace(block(t, "release", "sh make"), "KEY=image.key", "KEY="+key, 1))
	out, err := exec.CommandContext(t.Context(), "/bin/sh", "-ec", "cd "+dir+"; "+command+" ARGS=-platforms="+here.String()).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	if !strings.Contains(string(out), "== release 7/7: ") || !strings.Contains(string(out), "\nPASS: release v0.1.0 of commit ") {
		t.Errorf("it says\n%s", out)
	}
	dist := filepath.Join(dir, "dist")
	t.Run("all files", func(t *testing.T) { checkFiles(t, dist) })
	t.Run("check", func(t *testing.T) {
		shell(t, dist, "cp "+filepath.Join(keys, "image.pub")+" .\n"+block(t, "release", "sh check")+"rm image.pub")
	})
	t.Run("krew", func(t *testing.T) { checkKrew(t, dir, dist, here) })
	t.Run("use", func(t *testing.T) { checkUse(t, dir, dist, here) })
	t.Run("again", func(t *testing.T) {
		elsewhere := filepath.Join(t.TempDir(), "clone")
		shell(t, keys, "git clone -q "+dir+" "+elsewhere)
		// What git does not know gets into no release.
		if err := os.WriteFile(filepath.Join(elsewhere, "deploy/chart/left.out"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("TZ", "Asia/Kathmandu")
		t.Setenv("GOFLAGS", "-ldflags=-X=main.version=other")
		t.Setenv("GOENV", environment(t, "GOFLAGS=-tags=other -ldflags=-X=main.version=other"))
		t.Setenv("SOURCE_DATE_EPOCH", "1")
		defer syscall.Umask(syscall.Umask(0o077))
		o := options{source: elsewhere, out: filepath.Join(elsewhere, "dist"), version: "v0.1.0", key: key}
		if err := release(t.Context(), o, []platform{here}, io.Discard); err != nil {
			t.Fatal(err)
		}
		one, other := names(t, dist), names(t, o.out)
		if !slices.Equal(one, other) {
			t.Errorf("files %v, and again %v", one, other)
		}
		for _, name := range one {
			if !bytes.Equal(read(t, filepath.Join(dist, name)), read(t, filepath.Join(o.out, name))) {
				t.Errorf("%s is another one, made from a clone", name)
			}
		}
	})
}

func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		out = append(out, f.Name())
	}
	return out
}

// checkFiles: the table of docs/release.md has all files, and SHA256SUMS each that has no signature of its own to be.
func checkFiles(t *testing.T, dist string) {
	page, sums := string(read(t, "../../docs/release.md")), string(read(t, filepath.Join(dist, sumsName)))
	have := names(t, dist)
	if len(have) < 8 {
		t.Errorf("only %v", have)
	}
	for _, name := range have {
		short := strings.NewReplacer("gl-k8s-integrator-v0.1.0", "…", "kubectl-gitlab-v0.1.0", "…").Replace(name)
		if !strings.HasSuffix(name, ".sig") && !strings.Contains(page, "`"+name+"`") && !strings.Contains(page, "`"+short+"`") {
			t.Errorf("docs/release.md does not name %s", name)
		}
		if signature := strings.HasSuffix(name, ".sig"); strings.Contains(sums, "  "+name+"\n") == (signature || name == sumsName) {
			t.Errorf("%s is in the sums: %v", name, signature)
		}
	}
	for _, p := range forPlugin() {
		if !strings.Contains(page, "-"+p.os+"-"+p.arch+".tar.gz`") {
			t.Errorf("docs/release.md does not name the program for %s", p)
		}
	}
	if notes := string(read(t, filepath.Join(dist, notesName))); notes != "# gl-k8s-integrator v0.1.0\n\n- First version. Nothing to do.\n" {
		t.Errorf("the notes are %q", notes)
	}
}

// checkUse: what docs/release.md does with the files; the chart is the one of deploy/chart, with this version.
func checkUse(t *testing.T, source, dist string, here platform) {
	find := exec.CommandContext(t.Context(), "go", "tool", "-modfile=internal/chart/helm/go.mod", "-n", "helm")
	find.Dir = source
	helm, err := find.Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range names(t, dist) {
		if err := os.Link(filepath.Join(dist, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	script := strings.ReplaceAll(block(t, "release", "sh use"), "linux-amd64", here.os+"-"+here.arch)
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-ec", script)
	cmd.Dir = dir
	cmd.Env = []string{"HOME=" + dir, "PATH=" + filepath.Dir(strings.TrimSpace(string(helm))) + ":/usr/bin:/bin"}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "v0.1.0") {
		t.Fatalf("%v in\n%s\n%s", err, script, out)
	}
	rendered := string(read(t, filepath.Join(dir, "rendered.yaml")))
	for _, want := range []string{"image: gl-k8s-integrator:v0.1.0\n", "kind: ValidatingAdmissionPolicy\n"} {
		if !strings.Contains(rendered, want) {
			t.Errorf("the chart renders no %q", want)
		}
	}
	// Every file of deploy that a page tells people to use is there.
	top := filepath.Join(dir, "gl-k8s-integrator-v0.1.0-deploy")
	for _, page := range []string{"install", "chart", "alerts"} {
		named := regexp.MustCompile(`\bdeploy/[\w/.-]*\w`).FindAllString(string(read(t, "../../docs/"+page+".md")), -1)
		if len(named) == 0 {
			t.Errorf("docs/%s.md names nothing of deploy", page)
		}
		for _, path := range named {
			if _, err := os.Stat(filepath.Join(top, path)); err != nil {
				t.Errorf("docs/%s.md names it: %v", page, err)
			}
		}
	}
	if err := filepath.WalkDir(top, func(path string, _ os.DirEntry, err error) error {
		if filepath.Ext(path) == ".go" {
			t.Errorf("%s is packed", path)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

// TestNoRelease: each reason against a release is told before anything is built, all at once, and nothing is written.
func TestNoRelease(t *testing.T) {
	for name, c := range map[string]struct {
		version, changelog, script, want string
	}{
		"no version":               {"5a813b6-dirty", changelog, "", `"5a813b6-dirty" is no version: give one as in VERSION=v1.2.3`},
		"no v":                     {"0.1.0", changelog, "", "is no version"},
		"leading zero":             {"v0.01.0", changelog, "", "is no version"},
		"build":                    {"v0.1.0+1", changelog, "", "is no version"},
		"no URL":                   {"v0.1.0", changelog, "", `"http://x y" is no URL of a folder`},
		"changed file":             {"v0.1.0", changelog, "echo >> docs/CHANGELOG.md", " M docs/CHANGELOG.md"},
		"new file":                 {"v0.1.0", changelog, "touch new", "?? new"},
		"tag elsewhere":            {"v0.1.0", changelog, `git tag v0.1.0; git -c user.name=x -c user.email=x@example.com commit -q --allow-empty -m next`, "the tag v0.1.0 is on another commit"},
		"no notes":                 {"v0.1.0", "# Changelog\n\n## Unreleased\n\n## v0.0.9\n\n- Older.\n", "", "nothing under v0.1.0 or Unreleased"},
		"empty notes":              {"v0.1.0", "# Changelog\n\n## Unreleased\n\n## v0.1.0\n\n## v0.0.9\n\n- Older.\n", "", "nothing under v0.1.0 or Unreleased"},
		"entries of the next":      {"v0.0.9", strings.Replace(changelog, "## v0.1.0\n", "", 1), "", "entries under Unreleased beside those of v0.0.9"},
		"no changelog":             {"v0.1.0", changelog, `git mv docs/CHANGELOG.md x; git -c user.name=x -c user.email=x@example.com commit -q -m next`, "docs/CHANGELOG.md"},
		"something made before":    {"v0.1.0", changelog, "mkdir dist; touch dist/x; echo /dist/ > .git/info/exclude", "dist is not empty"},
		"no repository":            {"v0.1.0", changelog, "rm -r .git", "a release is made of a commit"},
		"the version and the tree": {"v1", changelog, "touch new", "is no version"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			commit(t, dir, c.changelog)
			shell(t, dir, c.script)
			before := strings.Join(names(t, dir), " ")
			o := options{source: dir, out: filepath.Join(dir, "dist"), version: c.version}
			if name == "no URL" {
				o.url = "http://x y"
			}
			err := release(t.Context(), o, forPlugin(), io.Discard)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "FAIL: ") {
				t.Errorf("want %q, have %v", c.want, err)
			}
			if strings.Contains(name, " and the tree") && !strings.Contains(err.Error(), "?? new") {
				t.Errorf("not all at once: %v", err)
			}
			if after := strings.Join(names(t, dir), " "); after != before {
				t.Errorf("%s is left, before there was %s", after, before)
			}
		})
	}
}

func TestNotesOfARelease(t *testing.T) {
	for name, c := range map[string]struct{ changelog, version, want string }{
		"own section":              {changelog, "v0.0.9", "- Older."},
		"a date in the heading":    {"## v1.0.0 (2026-11-28)\n\n- One.\n- Two.\n\n## v0.9.0\n\n- Older.", "v1.0.0", "- One.\n- Two."},
		"not yet named":            {"# Changelog\n\n## Unreleased\n\n- One.\n\nMore:\n\n- Two.\n\n## v0.9.0\n\n- Older.", "v1.0.0", "- One.\n\nMore:\n\n- Two."},
		"a version that begins so": {"## v1.0.0-rc.1\n\n- Not this.\n\n## v1.0.0\n\n- This.", "v1.0.0", "- This."},
	} {
		have, err := cutNotes(c.changelog, c.version)
		if want := "# gl-k8s-integrator " + c.version + "\n\n" + c.want + "\n"; err != nil || have != want {
			t.Errorf("%s: %q, %v; want %q", name, have, err, want)
		}
	}
}

func TestPlatforms(t *testing.T) {
	if have, err := parsePlatforms("linux/arm64,windows/arm64"); err != nil || !slices.Equal(have, []platform{{"linux", "arm64"}, {"windows", "arm64"}}) {
		t.Errorf("%v, %v", have, err)
	}
	if _, err := parsePlatforms("linux/amd64,plan9/mips"); err == nil || !strings.Contains(err.Error(), `"plan9/mips"`) {
		t.Errorf("a platform that is none: %v", err)
	}
}
