package replicas_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// previous is the version that this one is upgraded from, as a commit: a clone may lack its tag. It is named here alone.
const previous = "593b0031a329" // v0.1.0

// previousCommit returns the whole name of that commit.
func previousCommit(t *testing.T) string {
	t.Helper()
	commit, err := git(t.Context(), ".", "rev-parse", "--verify", "--quiet", previous+"^{commit}")
	if err != nil {
		t.Skipf("SKIPPED: the previous version, %s, is not in git's history here (an archive, or a shallow clone: git fetch --unshallow --tags): an older replica beside a newer one is not tested: %v", previous, err)
	}
	return commit
}

// previousTree returns a folder with these paths of the previous version's source, all of it without any.
func previousTree(t *testing.T, paths ...string) string {
	t.Helper()
	source := t.TempDir()
	top, err := git(t.Context(), ".", "rev-parse", "--show-toplevel")
	if err == nil {
		_, err = git(t.Context(), top, append([]string{"archive", "--format=tar", "--output=" + filepath.Join(source, "source.tar"), previousCommit(t)}, paths...)...)
	}
	if err == nil {
		_, err = output(exec.CommandContext(t.Context(), "tar", "-xf", "source.tar"), source)
	}
	if err != nil {
		t.Fatalf("reading the source of %s: %v", previous, err)
	}
	return source
}

// previousBinary returns the program of the previous version, built once per commit and kept in the user's cache folder.
func previousBinary(t *testing.T) string {
	t.Helper()
	commit := previousCommit(t)
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(cache, "gl-k8s-integrator", "versions")
	path := filepath.Join(folder, commit)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	fresh := fmt.Sprintf("%s.%d", path, os.Getpid())
	_, err = output(exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+previous, "-o", fresh, "./cmd/gl-k8s-integrator"), previousTree(t))
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		t.Fatalf("building %s: %v", previous, err)
	}
	return path
}

func git(ctx context.Context, dir string, args ...string) (string, error) {
	return output(exec.CommandContext(ctx, "git", args...), dir)
}

// output runs a program in a folder and returns what it prints.
func output(cmd *exec.Cmd, dir string) (string, error) {
	var out, problem bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &problem
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", cmd, err, strings.TrimSpace(problem.String()))
	}
	return strings.TrimSpace(out.String()), nil
}
