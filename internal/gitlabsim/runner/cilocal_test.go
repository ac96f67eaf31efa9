package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabversion"
)

const (
	ciLocalFolder = "testdata/gitlab-ci-local"
	// projectVariable is a variable of the project, which stands above all that the file says.
	projectVariable, projectValue = "PROJECT_VAR", "from the project"
)

// readJob is one job as a reader of .gitlab-ci.yml understands it, for one pipeline.
type readJob struct {
	Name        string            `json:"name"`
	Stage       string            `json:"stage"`
	When        string            `json:"when"` // never: not part of the pipeline
	Script      []string          `json:"script"`
	After       []string          `json:"after"`
	Needs       []string          `json:"needs"`       // an optional one ends in ?
	Environment []string          `json:"environment"` // name, URL, action, tier
	Variables   map[string]string `json:"variables"`   // those that the file, or the project, names
}

// readFile is a whole file, or that it is refused.
type readFile struct {
	Error string    `json:"error"`
	Jobs  []readJob `json:"jobs"`
}

// ciLocalDiffers are the places where gitlab-ci-local 4.61.1 is not GitLab: file/job/field → why. There the
// simulator follows GitLab.
var ciLocalDiffers = map[string]string{
	"only/but-main/when":       onlyAndExcept,
	"only/pattern/when":        onlyAndExcept,
	"only/tags/when":           onlyAndExcept,
	"only/main/when":           onlyAndExcept,
	"only/by-variable/when":    onlyAndExcept,
	"expand/job/variables":     "gitlab-ci-local ignores `expand: false`",
	"bad-rules-and-only/error": "GitLab: `key may not be used with rules: only`; gitlab-ci-local accepts both",
	"bad-no-job/error":         "GitLab: `jobs config should contain at least one visible job`; gitlab-ci-local lists nothing",
}

const onlyAndExcept = "gitlab-ci-local does not evaluate only and except: every such job is part of every pipeline"

// TestAsGitLabCILocalReads compares our reading of .gitlab-ci.yml with that of gitlab-ci-local, which others wrote, on each
// file and on two branches.
func TestAsGitLabCILocalReads(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(ciLocalFolder, "files", "*.yml"))
	if err != nil || len(files) < 15 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	branches := []string{"main", "feature/log-in"}
	theirs := ciLocalReads(t, files, branches)
	used := map[string]bool{}
	f := newFixture(t)
	f.variable(t, gitlabsim.Variable{Key: projectVariable, Value: projectValue})
	for _, path := range files {
		name := strings.TrimSuffix(filepath.Base(path), ".yml")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, branch := range branches[:branchesOf(name, branches)] {
			ours := f.read(t, string(text), branch)
			for _, d := range differences(ours, theirs[filepath.Join(slug(branch), name)]) {
				place := name + "/" + d.place
				if _, known := ciLocalDiffers[place]; known {
					used[place] = true
					continue
				}
				t.Errorf("%s on %s: (-ours +gitlab-ci-local)\n%s", place, branch, d.text)
			}
		}
	}
	for place := range ciLocalDiffers {
		if !used[place] {
			t.Errorf("%s is in the table of what differs, and does not differ", place)
		}
	}
}

// branchesOf says on how many branches a file is read: one that must be refused, on one.
func branchesOf(name string, branches []string) int {
	if strings.HasPrefix(name, "bad-") {
		return 1
	}
	return len(branches)
}

type difference struct{ place, text string }

func differences(ours, theirs readFile) (out []difference) {
	if (ours.Error == "") != (theirs.Error == "") {
		return []difference{{"error", "-" + ours.Error + "\n+" + theirs.Error}}
	}
	byName := func(f readFile) map[string]readJob {
		m := map[string]readJob{}
		for _, j := range f.Jobs {
			m[j.Name] = j
		}
		return m
	}
	a, b := byName(ours), byName(theirs)
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if _, ok := b[name]; !ok {
			out = append(out, difference{name, "gitlab-ci-local has no such job"})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b)) {
		x, ok := a[name]
		if !ok {
			out = append(out, difference{name, "we have no such job"})
			continue
		}
		y := b[name]
		maps.DeleteFunc(y.Variables, func(k, _ string) bool { _, named := x.Variables[k]; return !named })
		for field, pair := range map[string][2]any{
			"stage": {x.Stage, y.Stage}, "when": {x.When, y.When}, "script": {x.Script, y.Script}, "after": {x.After, y.After},
			"needs": {x.Needs, y.Needs}, "environment": {x.Environment, y.Environment}, "variables": {x.Variables, y.Variables},
		} {
			if d := cmp.Diff(pair[0], pair[1]); d != "" {
				out = append(out, difference{name + "/" + field, d})
			}
		}
	}
	return out
}

// read reads a file as the runner does for a push to a branch.
func (f *fixture) read(t *testing.T, text, branch string) readFile {
	t.Helper()
	f.file(t, branch, text)
	p, err := load(f.server, f.job(branch))
	if err != nil {
		t.Fatal(err)
	}
	file, err := parseFile(text, f.server.Has(gitlabversion.IDTokens))
	if err != nil {
		return readFile{Error: err.Error()}
	}
	var out readFile
	for name := range file.keys {
		if strings.HasPrefix(name, ".") || slices.Contains(globalKeywords(), name) {
			continue
		}
		conf, err := file.job(name)
		if err != nil {
			return readFile{Error: err.Error()}
		}
		j, err := p.readJob(f.server, conf)
		if err != nil {
			return readFile{Error: err.Error()}
		}
		out.Jobs = append(out.Jobs, j)
	}
	if out.Jobs == nil {
		out.Error = "no jobs"
	}
	return out
}

func (p *pipeline) readJob(server *gitlabsim.Server, conf *config) (readJob, error) {
	d, err := p.decide(server, conf)
	if err != nil {
		return readJob{}, err
	}
	j := readJob{
		Name: conf.name, Stage: conf.stage, When: d.when, Script: append(slices.Clone(conf.beforeScript), conf.script...), After: conf.afterScript,
		Needs: []string{}, Variables: map[string]string{},
	}
	if j.After == nil {
		j.After = []string{}
	}
	if !d.selected {
		j.When = "never"
	}
	for _, n := range conf.needs {
		if n.optional {
			n.job += "?"
		}
		j.Needs = append(j.Needs, n.job)
	}
	conf.variables = append(conf.variables, d.added...)
	known, err := p.simple(server, conf)
	if err != nil {
		return readJob{}, err
	}
	if e := conf.environment; e != nil {
		name, _, err := e.expand(known)
		if err != nil {
			return readJob{}, err
		}
		url, err := known.expand(e.url)
		if err != nil {
			return readJob{}, err
		}
		j.Environment = []string{name, url, e.action, e.tier}
	}
	for _, v := range append(conf.variables, variable{key: projectVariable}) {
		if j.Variables[v.key], err = known.value(v.key); err != nil {
			return readJob{}, err
		}
	}
	return j, nil
}

// ciLocalReads lets gitlab-ci-local read each file on each branch, in one process: most of its time is its start.
func ciLocalReads(t *testing.T, files, branches []string) map[string]readFile {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	installed := filepath.Join(cache, "gl-k8s-integrator", "gitlab-ci-local")
	lock, err := os.ReadFile(filepath.Join(ciLocalFolder, "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	node, err := exec.LookPath("node")
	have, lockErr := os.ReadFile(filepath.Join(installed, "node_modules", ".installed"))
	if err != nil || lockErr != nil || !bytes.Equal(have, lock) {
		t.Skipf("SKIPPED: node, or gitlab-ci-local as in %s/package-lock.json, is not installed (.ci/run installs both): nobody else's reading of .gitlab-ci.yml was compared with ours", ciLocalFolder)
	}
	script, err := filepath.Abs(filepath.Join(ciLocalFolder, "read.mjs"))
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	variables, err := json.Marshal([]string{projectVariable + "=" + projectValue})
	if err != nil {
		t.Fatal(err)
	}
	args := []string{script, installed, string(variables)}
	for i, branch := range branches {
		repository(t, filepath.Join(root, slug(branch)), branch)
		for _, path := range files {
			name := strings.TrimSuffix(filepath.Base(path), ".yml")
			if i >= branchesOf(name, branches) {
				continue
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			folder := filepath.Join(slug(branch), name)
			if err := os.Mkdir(filepath.Join(root, folder), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, folder, ".gitlab-ci.yml"), text, 0o600); err != nil {
				t.Fatal(err)
			}
			args = append(args, folder)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "HOME="+root)
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("running gitlab-ci-local: %v\n%s", err, problems.Bytes())
	}
	var read map[string]readFile
	if err := json.Unmarshal(out, &read); err != nil {
		t.Fatalf("reading what gitlab-ci-local printed: %v\n%s", err, out)
	}
	return read
}

// repository makes a Git repository: gitlab-ci-local asks git for the branch, and for the remote.
func repository(t *testing.T, folder, branch string) {
	t.Helper()
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=" + branch},
		{"remote", "add", "origin", "https://gitlab.example.com/acme/app.git"},
		{"-c", "user.name=test", "-c", "user.email=test@example.com", "commit", "--quiet", "--allow-empty", "--message=test"},
	} {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = folder
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v\n%s", args[0], err, out)
		}
	}
}
