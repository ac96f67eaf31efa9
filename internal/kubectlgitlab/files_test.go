package kubectlgitlab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
)

// kubeconfigOf writes a kubeconfig with contexts "name cluster user namespace".
func kubeconfigOf(t *testing.T, path, current string, contexts ...string) string {
	t.Helper()
	text := "apiVersion: v1\nkind: Config\ncurrent-context: " + fmt.Sprintf("%q", current) + "\ncontexts:\n"
	for _, c := range contexts {
		f := strings.Fields(c + " ")
		ns := ""
		if len(f) > 3 {
			ns = ", namespace: " + f[3]
		}
		text += fmt.Sprintf("- {name: %s, context: {cluster: %s, user: %s%s}}\n", f[0], f[1], f[2], ns)
	}
	text += "clusters: [{name: icc, cluster: {server: 'https://127.0.0.1:1', extensions: [{name: other, extension: {keep: me}}]}}, {name: b, cluster: {server: 'https://127.0.0.1:2', certificate-authority: relative.crt}}]\n" +
		"users: [{name: me, user: {token: secret}}]\n"
	return write(t, path, text)
}

// TestUse: which context is the current one afterwards, in which file that stands, and that nothing else changes.
func TestUse(t *testing.T) {
	for name, c := range map[string]struct {
		files   [][]string // the current context, contexts
		context string     // --context
		want    string     // the current context
		changed string     // numbers of the files that were
		says    string
	}{
		"the context of the namespace is there": {
			files: [][]string{{"icc/haw", "icc/haw icc me haw", "icc/new icc me new"}}, want: "icc/new icc me new", changed: "0",
		},
		"under another name": {files: [][]string{{"icc/haw", "icc/haw icc me haw", "mine icc me new"}}, want: "mine icc me new", changed: "0"},
		"one is made":        {files: [][]string{{"icc/haw", "icc/haw icc me haw"}}, want: "icc/new icc me new", changed: "0"},
		"beside the default": {files: [][]string{{"icc/default", "icc/default icc me"}}, want: "icc/new icc me new", changed: "0"},
		"the context gets another namespace": {
			files: [][]string{{"icc", "icc icc me haw"}}, want: "icc icc me new", changed: "0",
		},
		"a context without one gets it": {files: [][]string{{"icc", "icc icc me"}}, want: "icc icc me new", changed: "0"},
		"one that is called as its own": {files: [][]string{{"haw", "haw icc me haw"}}, want: "haw icc me new", changed: "0"},
		"it is the current one already": {files: [][]string{{"icc/new", "icc/new icc me new"}}, want: "icc/new icc me new"},
		"another cluster's does not count": {
			files: [][]string{{"icc/haw", "icc/haw icc me haw", "b/new b me new"}}, want: "icc/new icc me new", changed: "0",
		},
		"two files, current in the first": {
			files: [][]string{{"icc/haw"}, {"", "icc/haw icc me haw", "icc/new icc me new"}}, want: "icc/new icc me new", changed: "0",
		},
		"two files, made in the second": {
			files: [][]string{{"icc/haw"}, {"", "icc/haw icc me haw"}}, want: "icc/new icc me new", changed: "0 1",
		},
		"the first file counts": {
			files: [][]string{{"icc", "icc icc me haw"}, {"icc", "icc b me old"}}, want: "icc icc me new", changed: "0",
		},
		"of another context": {
			files: [][]string{{"b/x", "b/x b me x", "icc/haw icc me haw"}}, context: "icc/haw", want: "icc/new icc me new", changed: "0",
		},
		"the name is another cluster's": {
			files: [][]string{{"icc/haw", "icc/haw icc me haw", "icc/new b me other"}}, want: "icc/haw icc me haw", says: `context "icc/new" is there already`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var paths, before []string
			for i, f := range c.files {
				p := kubeconfigOf(t, filepath.Join(dir, fmt.Sprint("config", i)), f[0], f[1:]...)
				paths, before = append(paths, p), append(before, read(t, p))
			}
			t.Setenv("KUBECONFIG", strings.Join(paths, string(os.PathListSeparator)))
			args := []string{"use", "new", "--force"}
			if c.context != "" {
				args = append(args, "--context", c.context)
			}
			code := exitOK
			if c.says != "" {
				code = exitNo
			}
			run(t, args...).want(t, code, c.says)
			raw, err := clientcmd.NewDefaultClientConfigLoadingRules().Load()
			if err != nil {
				t.Fatal(err)
			}
			now := raw.Contexts[raw.CurrentContext]
			if got := strings.TrimSpace(fmt.Sprint(raw.CurrentContext, " ", now.Cluster, " ", now.AuthInfo, " ", now.Namespace)); got != c.want {
				t.Errorf("now %q, want %q", got, c.want)
			}
			var changed []string
			for i, p := range paths {
				if text := read(t, p); text != before[i] {
					changed = append(changed, fmt.Sprint(i))
					for _, kept := range []string{"keep: me", "token: secret", "certificate-authority: relative.crt"} {
						if !strings.Contains(text, kept) {
							t.Errorf("file %d lost %q", i, kept)
						}
					}
				}
			}
			if got := strings.Join(changed, " "); got != c.changed {
				t.Errorf("files %q were changed, want %q", got, c.changed)
			}
			left, err := os.ReadDir(dir)
			if err != nil || len(left) != len(paths) {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// TestKubeconfigsThatStayAsTheyAre: a read-only file, one that another program has locked, and one that is no kubeconfig.
func TestKubeconfigsThatStayAsTheyAre(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, path string)
		says  string
	}{
		"read-only": {func(t *testing.T, path string) {
			if err := os.Chmod(path, 0o400); err != nil {
				t.Fatal(err)
			}
		}, "is read-only: make it writable, or copy it"},
		"locked":        {func(t *testing.T, path string) { write(t, path+".lock", "") }, "try again; if none does, remove "},
		"no kubeconfig": {func(t *testing.T, path string) { write(t, path, "contexts: 1") }, "reading the kubeconfig"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := kubeconfigOf(t, filepath.Join(t.TempDir(), "config"), "icc/haw", "icc/haw icc me haw")
			c.spoil(t, path)
			before := read(t, path)
			run(t, "use", "new", "--force", "--kubeconfig", path).want(t, exitNo, c.says)
			if read(t, path) != before {
				t.Error("it was changed")
			}
		})
	}
}

// TestModeAndLinkAreKept: a kubeconfig may be a symbolic link into a folder of dotfiles, and others may read it.
func TestModeAndLinkAreKept(t *testing.T) {
	dir := t.TempDir()
	real := kubeconfigOf(t, filepath.Join(dir, "real"), "icc/haw", "icc/haw icc me haw")
	if err := os.Chmod(real, 0o640); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "config")
	if err := os.Symlink("real", link); err != nil {
		t.Skip(err)
	}
	run(t, "use", "new", "--force", "--kubeconfig", link).want(t, exitOK, "context icc/new, namespace new")
	if to, err := os.Readlink(link); err != nil || to != "real" {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	if info, err := os.Stat(real); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if !strings.Contains(read(t, real), "current-context: icc/new") {
		t.Error("it was not written")
	}
}

// TestTwoAtATime: of several that write at the same time, none loses what another one wrote.
func TestTwoAtATime(t *testing.T) {
	path := kubeconfigOf(t, filepath.Join(t.TempDir(), "config"), "icc/haw", "icc/haw icc me haw")
	var all sync.WaitGroup
	const n = 8
	outcomes := make([]outcome, n)
	for i := range n {
		all.Go(func() {
			outcomes[i] = run(t, "use", fmt.Sprint("ns", i), "--force", "--kubeconfig", path, "--context", "icc/haw")
		})
	}
	all.Wait()
	for i, o := range outcomes {
		o.want(t, exitOK)
		if !strings.Contains(read(t, path), fmt.Sprintf("name: icc/ns%d\n", i)) {
			t.Errorf("context icc/ns%d is lost", i)
		}
	}
}

// TestCompletionsAskNobody: they come from the kubeconfig, whose API server is not there.
func TestCompletionsAskNobody(t *testing.T) {
	path := kubeconfigOf(t, filepath.Join(t.TempDir(), "config"), "icc/haw", "icc/haw icc me haw", "icc/zoo icc me zoo", "b/other b me other")
	t.Setenv("KUBECONFIG", path)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"use", ""}, "haw\nzoo\n:4\n"},
		{[]string{"can", "get", "pods", "-n", ""}, "haw\nzoo\n:4\n"},
		{[]string{"use", "--context", "b/other", ""}, "other\n:4\n"},
		{[]string{"whoami", "--context", ""}, "b/other\nicc/haw\nicc/zoo\n:4\n"},
		{[]string{"can", "get", "dep"}, "deployments.apps\n"},
		{[]string{"namespaces", "-o", ""}, "wide\nname\njson\n:4\n"},
	} {
		if o := run(t, append([]string{"__complete"}, c.args...)...); o.code != exitOK || (o.out != c.want && !strings.Contains(o.out, c.want)) {
			t.Errorf("%v: %d %q, want %q", c.args, o.code, o.out, c.want)
		}
	}
}
