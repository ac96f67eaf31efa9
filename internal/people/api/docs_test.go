package api_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeconfig"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people/api"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

func page(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../../docs/my-namespaces.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestDocsAreComplete: the page names each code, path and field, and the limits that hold.
func TestDocsAreComplete(t *testing.T) {
	text := page(t)
	source, err := os.ReadFile("api.go")
	if err != nil {
		t.Fatal(err)
	}
	var codes, told []string
	for _, m := range regexp.MustCompile(`(?m)^\tCode\w+ += "(\w+)"`).FindAllStringSubmatch(string(source), -1) {
		codes = append(codes, m[1])
	}
	_, refuses, _ := strings.Cut(text, "## When it refuses")
	refuses, _, _ = strings.Cut(refuses, "\n## ")
	for _, m := range regexp.MustCompile("(?m)^\\| (`[^|]+) \\|").FindAllStringSubmatch(refuses, -1) {
		for _, c := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(m[1], -1) {
			told = append(told, c[1])
		}
	}
	slices.Sort(codes)
	slices.Sort(told)
	if len(codes) < 10 || !slices.Equal(codes, told) {
		t.Errorf("the page explains the codes %v, there are %v", told, codes)
	}
	for _, path := range []string{webapi.PathWhoAmI, webapi.PathMyNamespaces, webapi.PathCan, webapi.PathMyChanges, webapi.PathCI, webapi.PathKubeconfig} {
		if !strings.Contains(text, "\n| `"+strings.TrimPrefix(path, webapi.Prefix+"/")+"` |") {
			t.Errorf("the page has no row for %s", path)
		}
	}
	for _, v := range []any{webapi.Identity{}, webapi.MyNamespaces{}, webapi.Namespace{}, webapi.CI{}, webapi.Can{}, webapi.Change{}, webapi.Error{}} {
		for f := range reflect.TypeOf(v).Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name != "admin" && !strings.Contains(text, "`"+name+"`") { // admin is of the page alone
				t.Errorf("the page does not name %q of %T", name, v)
			}
		}
	}
	for _, limit := range []string{
		fmt.Sprintf("| %d at once, then %d a second.", api.DefaultBurst, api.DefaultPerSecond), fmt.Sprintf("| %d requests at a time.", api.DefaultAtATime),
		fmt.Sprintf("of one person, %d of all", api.DefaultWatches), fmt.Sprintf("each %d seconds", api.DefaultHeartbeat/time.Second),
	} {
		if !strings.Contains(text, limit) {
			t.Errorf("the page does not say %q", limit)
		}
	}
	if api.DefaultOwnWatches != 5 || strings.Count(text, "five") < 2 {
		t.Error("the page says another number of watches than five")
	}
	k9s := regexp.MustCompile("(?s)```yaml k9s\n(# (\\S+) .*?)```").FindStringSubmatch(text)
	var file struct {
		K9s struct {
			Namespace struct {
				Active    string
				Favorites []string
			}
		}
	}
	if k9s == nil || yaml.Unmarshal([]byte(k9s[1]), &file) != nil || !slices.Contains(file.K9s.Namespace.Favorites, file.K9s.Namespace.Active) ||
		!strings.HasSuffix(k9s[2], "/"+strings.ReplaceAll(kubeconfig.ContextName("icc", file.K9s.Namespace.Active), "/", "-")+"/config.yaml") {
		t.Errorf("k9s's file: %q", k9s)
	}
}

// TestDocsWithCurl runs what the page has to copy, with the real curl.
func TestDocsWithCurl(t *testing.T) {
	for _, program := range []string{"bash", "curl", "jq"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed: .ci/run installs it", program)
		}
	}
	s := serve(t, newWorld(t, nil), true)
	bin := t.TempDir()
	login := "#!/bin/sh\n[ \"$*\" = 'get-token --oidc-issuer-url=https://gitlab.example.com --oidc-client-id=5f1c0a7e' ] || exit 1\necho '{\"kind\":\"ExecCredential\",\"status\":{\"token\":\"" + s.token(1) + "\"}}'\n"
	if err := os.WriteFile(filepath.Join(bin, "kubectl-oidc_login"), []byte(login), 0o700); err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(page(t), "https://access.example.com", s.url)
	blocks := regexp.MustCompile("(?s)```sh people\n(.*?)```").FindAllStringSubmatch(text, -1)
	watch := regexp.MustCompile("(?s)```sh people watch\n(.*?)```").FindStringSubmatch(text)
	if len(blocks) != 2 || watch == nil {
		t.Fatalf("%d blocks to copy, and %q", len(blocks), watch)
	}
	run := func(script string, out *bytes.Buffer) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", script)
		cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "CURL_CA_BUNDLE="+s.ca, "HOME="+bin)
		cmd.Stdout, cmd.Stderr = out, out
		return cmd
	}
	var out bytes.Buffer
	if err := run(blocks[0][1]+blocks[1][1], &out).Run(); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	want := "haw-world\tview\tDeveloper in haw/world, direct member\n1\n" + `you are Developer in haw/world (ClusterRole "view"); delete pods needs Maintainer or Owner (ask bob).` +
		"\nid-token\ndelivered\nnull\n2026-11-01T00:00:00Z\tgained\tview\thaw-world\n"
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
	out.Reset()
	lines := &lockedBuffer{}
	cmd := run(blocks[0][1]+watch[1], &out)
	cmd.Stdout = lines
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, "the first line", func() bool { return strings.Contains(lines.String(), `"roles":["view"]`) })
	s.members(map[int64]authz.Level{1: authz.Maintainer})
	await(t, "the next line", func() bool { return strings.Contains(lines.String(), `"roles":["edit"]`) })
	s.set(func() { s.states[1] = "blocked" })
	if err := cmd.Wait(); err != nil || !strings.HasSuffix(strings.TrimSpace(lines.String()), `"code":"user_blocked"}`) {
		t.Errorf("%v: %s", err, lines)
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}
