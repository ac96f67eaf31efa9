package main

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// tool builds a program of krew, of the version that internal/image/krew fixes.
func tool(t *testing.T, source, name string) string {
	t.Helper()
	find := exec.CommandContext(t.Context(), "go", "tool", "-modfile=internal/image/krew/go.mod", "-n", name)
	find.Dir = source
	path, err := find.Output()
	if err != nil {
		t.Fatalf("building %s: %v", name, err)
	}
	return strings.TrimSpace(string(path))
}

// checkKrew: krew's own check takes the manifest, and krew itself installs the plug-in from its archive, as docs/kubectl-gitlab.md
// says. The program is static, and no larger than what it has to be.
func checkKrew(t *testing.T, source, dist string, here platform) {
	if out, err := exec.CommandContext(t.Context(), tool(t, source, "validate-krew-manifest"), "-skip-install", "-manifest", filepath.Join(dist, krewName)).CombinedOutput(); err != nil {
		t.Errorf("krew's own check: %v\n%s", err, out)
	}
	line := regexp.MustCompile(`(?m)^kubectl krew (install .*)$`).FindStringSubmatch(string(read(t, "../../docs/kubectl-gitlab.md")))
	if line == nil {
		t.Fatal("docs/kubectl-gitlab.md does not install the plug-in with krew")
	}
	home := t.TempDir()
	cmd := exec.CommandContext(t.Context(), tool(t, source, "krew"), strings.Fields(strings.ReplaceAll(line[1], "linux-amd64", here.os+"-"+here.arch))...)
	cmd.Dir, cmd.Env = dist, []string{"HOME=" + home, "PATH=/usr/bin:/bin", "KREW_NO_UPGRADE_CHECK=1"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", line[0], err, out)
	}
	program := filepath.Join(home, ".krew/bin", plugin)
	if out, err := exec.CommandContext(t.Context(), program, "--version").CombinedOutput(); err != nil || !strings.Contains(string(out), "v0.1.0") {
		t.Errorf("what krew installed: %v, %s", err, out)
	}
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	const most = 14 << 20 // 11.3 MB in November 2026; a typed client of Kubernetes would add 30
	if info.Size() > most {
		t.Errorf("the plug-in has %d bytes, at most %d", info.Size(), most)
	}
	t.Logf("BENCH plugin.mb %.1f", float64(info.Size())/1e6)
	binary, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	for _, p := range binary.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("the plug-in is not static: it has %v", p.Type)
		}
	}
}

// TestKrewManifest: krew's own check takes a manifest of all platforms, with and without a URL; each archive's sum is its own.
func TestKrewManifest(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds krew's check")
	}
	check := tool(t, "../..", "validate-krew-manifest")
	for url, want := range map[string]string{"": nowhere, "https://files.example.com/v0.1.0/": "https://files.example.com/v0.1.0"} {
		r := releasing{options: options{out: t.TempDir(), version: "v0.1.0", url: url}}
		var programs []program
		for _, on := range forPlugin() {
			p := program{platform: on, name: plugin}
			programs = append(programs, p)
			if err := os.WriteFile(filepath.Join(r.out, r.folder(p)+".tar.gz"), []byte(on.String()), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.krew(programs); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(r.out, krewName)
		if out, err := exec.CommandContext(t.Context(), check, "-skip-install", "-manifest", path).CombinedOutput(); err != nil {
			t.Errorf("krew's own check: %v\n%s", err, out)
		}
		text := string(read(t, path))
		for _, p := range programs {
			uri := fmt.Sprintf("uri: %s/kubectl-gitlab-v0.1.0-%s-%s.tar.gz\n", want, p.os, p.arch)
			if strings.Count(text, uri) != 1 {
				t.Errorf("%s is %d times in\n%s", uri, strings.Count(text, uri), text)
			}
		}
		if sums := regexp.MustCompile(`sha256: [0-9a-f]{64}`).FindAllString(text, -1); len(sums) != len(programs) || sums[0] == sums[1] {
			t.Errorf("sums %v", sums)
		}
	}
}
