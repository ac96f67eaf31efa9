package app

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

// looking is a reloader whose server has neither GitLab nor cluster, and serves nobody.
type looking struct {
	*testing.T
	dir     string
	log     syncBuffer
	r       *reloader
	serving context.Context
}

func newLooking(t *testing.T, more string) *looking {
	t.Helper()
	l := &looking{T: t, dir: t.TempDir()}
	for name, content := range map[string]string{
		"kubeconfig": `{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}],
  clusters: [{name: a, cluster: {server: "http://127.0.0.1:1"}}], users: [{name: a, user: {token: none}}]}`,
		"templates/quota.yaml": quota("10"),
	} {
		path := filepath.Join(l.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l.write(more)
	path := filepath.Join(l.dir, "config.yaml")
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := newServer(cfg, slog.New(slog.NewTextHandler(&l.log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	l.r = &reloader{s: s, file: File{Path: path, Config: cfg}}
	var cancel context.CancelFunc
	l.serving, cancel = context.WithCancel(t.Context())
	s.begin(l.serving, s.now.Load(), nil)
	t.Cleanup(func() {
		cancel()
		s.now.Load().running.end()
		s.now.Load().core.running.end()
	})
	return l
}

func quota(pods string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: pods}\nspec: {hard: {pods: %q}}\n", pods)
}

func (l *looking) write(more string) {
	l.Helper()
	text := fmt.Sprintf(`apiVersion: gl-k8s-integrator/v1alpha1
kind: Config
gitlab: {url: "https://127.0.0.1:1", readTokenFile: %[1]s/token}
cluster: {kubeconfig: %[1]s/kubeconfig}
listeners: {webhooks: {address: "127.0.0.1:0", certFile: c, keyFile: k}}
authn: {clientIDs: [a]}
ci: {delivery: none}
%[2]s`, l.dir, more)
	if err := os.WriteFile(filepath.Join(l.dir, "config.yaml"), []byte(text), 0o600); err != nil {
		l.Fatal(err)
	}
}

func (l *looking) look() { l.r.look(l.Context(), l.serving, false) }

func (l *looking) hint() string { return l.r.s.now.Load().cfg.Authz.LoginHint }

// refused returns the code of the finding about the file, "" if it is in use.
func (l *looking) refused() string {
	if f := l.r.s.refused.Load(); f != nil {
		return f.Code
	}
	return ""
}

// TestAFileThatIsBeingWrittenIsNotTaken: the beginning of a file can be a whole one that says less, so what is seen once does
// not count, unless somebody asks.
func TestAFileThatIsBeingWrittenIsNotTaken(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, leaks) }) // after those of newLooking
	l := newLooking(t, "authz: {loginHint: one}\n")
	l.look()
	for _, step := range []struct{ more, want string }{
		{"", "one"}, // cut off before authz
		{"authz: {loginHint: two}\n", "one"},
		{"", "one"},
		{"authz: {loginHint: three}\n", "one"},
		{"authz: {loginHint: three}\n", "three"},
	} {
		l.write(step.more)
		if l.look(); l.hint() != step.want {
			t.Errorf("after %q: %q, want %q", step.more, l.hint(), step.want)
		}
	}
	l.write("authz: {loginHint: four}\n")
	if l.r.look(l.Context(), l.serving, true); l.hint() != "four" {
		t.Errorf("after it was asked for: %q", l.hint())
	}
}

// TestWhatIsTakenOver: what a file changes decides whether the engine goes on, begins anew, or nothing of the file counts.
func TestWhatIsTakenOver(t *testing.T) {
	l := newLooking(t, "authz: {loginHint: one}\n")
	for _, step := range []struct {
		more, refused string
		taken, anew   bool
	}{
		{"authz: {loginHint: two}\n", "", true, false},
		{"authz: {loginHint: two, bots: true}\n", "", true, true},
		{"authz: {loginHint: three, kinds: [team]}\n", "config_faulty", false, false},
		{"authz: {loginHint: three, bots: true}\nlisteners: {drainDelay: 1s}\n", "config_faulty", false, false}, // listeners is there twice
		{"authz: {loginHint: two, bots: true}\n", "", false, false},                                             // back to what is in use
		{"authz: {loginHint: three}\ncluster: {publicURL: \"https://icc.example.com\"}\n", "config_faulty", false, false},
		{"authz: {loginHint: three}\nrbacsync: {interval: 1m, templates: {folder: TEMPLATES}}\n", "", true, true},
		{"authz: {loginHint: three}\nrbacsync: {interval: 1m, templates: {folder: nowhere}}\n", "config_faulty", false, false},
		{"authz: {loginHint: three}\nrbacsync: {interval: 1m, templates: {folder: TEMPLATES}}\n", "", false, false},
	} {
		more := strings.ReplaceAll(step.more, "TEMPLATES", filepath.Join(l.dir, "templates"))
		before := l.r.s.now.Load()
		l.write(more)
		l.look()
		l.look()
		after := l.r.s.now.Load()
		if l.refused() != step.refused || (after != before) != step.taken || (after.core != before.core) != step.anew {
			t.Errorf("%s: refused %q, taken %v, begins anew %v", more, l.refused(), after != before, after.core != before.core)
		}
	}
	// With the file as it is, the templates change.
	for content, refused := range map[string]string{quota("20"): "", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n": "config_faulty"} {
		before := l.r.s.now.Load().core
		if err := os.WriteFile(filepath.Join(l.dir, "templates", "quota.yaml"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		l.look()
		l.look()
		if after := l.r.s.now.Load().core; l.refused() != refused || (after != before) != (refused == "") {
			t.Errorf("templates %q: refused %q, begins anew %v", content, l.refused(), after != before)
		}
	}
	if err := os.Remove(l.r.file.Path); err != nil {
		t.Fatal(err)
	}
	l.look()
	if l.look(); l.refused() != "config_faulty" {
		t.Errorf("without a file: %q", l.refused())
	}
}

// TestWhatNeedsARestart: for each key that does, nothing of a file that changes it is taken over, and the finding names it.
func TestWhatNeedsARestart(t *testing.T) {
	l := newLooking(t, "")
	text, err := os.ReadFile(l.r.file.Path)
	if err != nil {
		t.Fatal(err)
	}
	before := l.r.s.now.Load()
	for from, key := range map[string][2]string{
		"https://127.0.0.1:1":  {"https://127.0.0.1:2", "gitlab.url"},
		"readTokenFile: ":      {"sampleSize: 3, readTokenFile: ", "gitlab.sampleSize"},
		"cluster: {":           {"cluster: {publicURL: \"https://icc.example.com\", ", "cluster.publicURL"},
		"listeners: {":         {"listeners: {drainDelay: 1s, ", "listeners.drainDelay"},
		"clientIDs: [a]":       {"clientIDs: [b], keyMaxAge: 1h", "authn.keyMaxAge"},
		"ci: {delivery: none}": {"ci: {delivery: none, environment: other}", "ci.environment"},
	} {
		if err := os.WriteFile(l.r.file.Path, bytes.Replace(text, []byte(from), []byte(key[0]), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		l.look()
		l.look()
		f := l.r.s.refused.Load()
		if f == nil || f.Code != "config_restart" || !strings.Contains(f.Text, key[1]+" can't be changed while the process runs") || l.r.s.now.Load() != before {
			t.Errorf("%s: %+v", key[1], f)
		}
	}
	if got := l.r.s.findings(); len(got) != 2 || got[1].Code != "config_restart" || got[0] == (authz.Finding{}) {
		t.Errorf("findings: %+v", got)
	}
}
