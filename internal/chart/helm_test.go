package chart_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

const (
	release  = "gl-k8s-integrator"
	chartDir = "../../deploy/chart"
)

// configEnv makes this test binary the program, which serves.
const configEnv = "CHART_TEST_CONFIG"

func TestMain(m *testing.M) {
	path := os.Getenv(configEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	cfg, err := config.Load(path)
	if err == nil {
		err = app.Serve(ctx, cfg, slog.New(slog.NewJSONHandler(os.Stderr, nil)))
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// helmPath builds helm, in about a minute the first time, and later takes it from Go's build cache.
var helmPath = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("go", "tool", "-modfile=helm/go.mod", "-n", "helm")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("building helm: %w\n%s", err, &stderr)
	}
	return strings.TrimSpace(string(out)), nil
})

// helm is one helm with a home of its own, for a cluster if kubeconfig is not empty.
type helm struct {
	path, home, kubeconfig, namespace string
}

func newHelm(t *testing.T, kubeconfig string) *helm {
	t.Helper()
	path, err := helmPath()
	if err != nil {
		t.Fatal(err)
	}
	return &helm{path: path, home: t.TempDir(), kubeconfig: kubeconfig, namespace: deploy.Namespace}
}

// run returns what helm prints, and an error with what it says.
func (h *helm) run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), h.path, append(args, "--namespace", h.namespace)...)
	cmd.Env = []string{"HOME=" + h.home, "PATH=/usr/bin:/bin", "KUBECONFIG=" + h.kubeconfig}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("helm %s: %w\n%s%s", strings.Join(args, " "), err, &stdout, &stderr)
	}
	return stdout.String(), nil
}

func (h *helm) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := h.run(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (h *helm) template(t *testing.T, args ...string) string {
	t.Helper()
	return h.must(t, append([]string{"template", release, chartDir}, args...)...)
}

// variants returns the files of values that the tests render, by name.
func variants(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("testdata/values/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d variants: %v", len(files), err)
	}
	out := map[string]string{}
	for _, f := range files {
		out[strings.TrimSuffix(filepath.Base(f), ".yaml")] = f
	}
	return out
}

// objects returns what is in a stream of manifests, by "Kind/name".
func objects(t *testing.T, manifests string) map[string]*unstructured.Unstructured {
	t.Helper()
	out := map[string]*unstructured.Unstructured{}
	for doc := range strings.SplitSeq("\n"+manifests, "\n---\n") {
		o := new(unstructured.Unstructured)
		if err := yaml.UnmarshalStrict([]byte(doc), &o.Object); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if len(o.Object) == 0 {
			continue
		}
		key := o.GetKind() + "/" + o.GetName()
		if out[key] != nil {
			t.Errorf("%s is there twice", key)
		}
		out[key] = o
	}
	return out
}

// kept reports whether an object stays when the chart is uninstalled.
func kept(o *unstructured.Unstructured) bool {
	return o.GetAnnotations()["helm.sh/resource-policy"] == "keep"
}

// logFile keeps what a process writes.
type logFile struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logFile) Write(p []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.b.Write(p) }

func (l *logFile) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }
