package cijobs_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// ciLocal runs jobs by gitlab-ci-local, which others wrote, with the variables that haw/world has in GitLab: by its own rules
// the job of the environment gets credentials, and one of another environment an explanation. It knows no protected branches.
func (e *env) ciLocal() {
	e.Helper()
	cache, err := os.UserCacheDir()
	e.ok(err)
	program := filepath.Join(cache, "gl-k8s-integrator", "gitlab-ci-local", "node_modules", ".bin", "gitlab-ci-local")
	node, err := exec.LookPath("node")
	if _, missing := os.Stat(program); err != nil || missing != nil {
		e.Logf("SKIPPED: node or gitlab-ci-local is not installed (.ci/run installs both): no runner but our own has tried the variables")
		return
	}
	folder, home := filepath.Join(e.dir, "ci-local"), filepath.Join(e.dir, "ci-local-home")
	for _, dir := range []string{folder, filepath.Join(home, ".gitlab-ci-local")} {
		e.ok(os.MkdirAll(dir, 0o700))
	}
	type entry struct {
		Type   string            `json:"type"`
		Values map[string]string `json:"values"`
	}
	vars := map[string]entry{}
	e.gitlab.World().View(func(v *gitlabsim.View) {
		for _, x := range v.ProjectByPath("haw/world").Variables {
			if vars[x.Key].Values == nil {
				vars[x.Key] = entry{Type: map[string]string{"file": "file", "env_var": "variable"}[x.VariableType], Values: map[string]string{}}
			}
			vars[x.Key].Values[x.EnvironmentScope] = x.Value
		}
		for _, name := range []string{".gitlab-ci.yml", "deploy_new.yaml"} {
			e.ok(os.WriteFile(filepath.Join(folder, name), []byte(v.ProjectByPath("haw/world").Files["main"][name]), 0o600))
		}
	})
	text, err := yaml.Marshal(map[string]any{"project": map[string]any{"gitlab.example.com/haw/world.git": vars}})
	e.ok(err)
	e.ok(os.WriteFile(filepath.Join(home, ".gitlab-ci-local", "variables.yml"), text, 0o600))
	// It copies the folder for containers, with rsync. Jobs on this machine run in the folder itself.
	bin := filepath.Join(e.dir, "ci-local-bin")
	e.ok(os.Mkdir(bin, 0o700))
	e.ok(os.Symlink("/bin/true", filepath.Join(bin, "rsync")))
	environ := append(os.Environ(), "HOME="+home, "PATH="+bin+":"+filepath.Dir(e.cluster.Kubectl())+":"+os.Getenv("PATH"))
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=main"},
		{"remote", "add", "origin", "https://gitlab.example.com/haw/world.git"},
		{"add", "."},
		{"-c", "user.name=test", "-c", "user.email=test@example.com", "commit", "--quiet", "--message=test"},
	} {
		cmd := exec.CommandContext(e.Context(), "git", args...)
		cmd.Dir, cmd.Env = folder, environ
		if out, err := cmd.CombinedOutput(); err != nil {
			e.Fatalf("git %s: %v\n%s", args[0], err, out)
		}
	}
	run := func(job string) (string, error) {
		ctx, cancel := context.WithTimeout(e.Context(), 2*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, node, program, "--home", home, "--force-shell-executor", job)
		cmd.Dir, cmd.Env = folder, environ
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		return out.String(), err
	}
	if out, err := run("deploy"); err != nil || !strings.Contains(out, "deployment.apps/world") {
		e.Errorf("by gitlab-ci-local: %v\n%s", err, out)
	}
	if out, err := run("deploy-to-staging"); err == nil || !strings.Contains(out, `its environment is "staging", and for this cluster it must be "ICC-K8s"`) {
		e.Errorf("by gitlab-ci-local: %v\n%s", err, out)
	}
}
