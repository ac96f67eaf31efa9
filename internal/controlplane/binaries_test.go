package controlplane

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestEmbeddedModules keeps the copies of the nested modules' files equal to them.
func TestEmbeddedModules(t *testing.T) {
	for dir, m := range map[string]module{"tools": controlPlane, "kubelogin": kubeloginOnly} {
		for name, got := range m {
			want, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%[1]smod/%[2]s.txt differs from %[1]s/%[2]s: cp internal/controlplane/%[1]s/%[2]s internal/controlplane/%[1]smod/%[2]s.txt", dir, name)
			}
		}
	}
}

func TestModuleVersion(t *testing.T) {
	for name, prefix := range map[string]string{"k8s.io/kubernetes": "v1.", "go.etcd.io/etcd/server/v3": "v3."} {
		if got := controlPlane.version(name); !strings.HasPrefix(got, prefix) {
			t.Errorf("version(%s) = %q, want %s…", name, got, prefix)
		}
	}
	if got := (module{"go.mod": []byte("module m\nrequire a.b/c v1.2.3\n")}).version("a.b/c"); got != "v1.2.3" {
		t.Errorf("single-line require: %q, want v1.2.3", got)
	}
	if got := controlPlane.version("k8s.io"); got != "" {
		t.Errorf("a module that is not required: %q, want none", got)
	}
}

func TestLDFlags(t *testing.T) {
	got := ldflags("v1.37.2")
	for _, want := range []string{
		"-s -w", "-X k8s.io/component-base/version.gitVersion=v1.37.2", "-X k8s.io/component-base/version.gitMajor=1",
		"-X k8s.io/client-go/pkg/version.gitMinor=37",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("ldflags = %q, want %q in it", got, want)
		}
	}
}

func fakeBinary(t *testing.T, dir, name, script string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestAssets(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(AssetsEnv, dir)
	fakeBinary(t, dir, "kube-apiserver", "echo Kubernetes v1.36.1")
	_, err := EnsureBinaries(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), "lacks etcd, kubectl:") {
		t.Fatalf("a folder with kube-apiserver alone: %v, want an error that names etcd and kubectl", err)
	}
	for _, name := range []string{"etcd", "kubectl", "kube-controller-manager"} {
		fakeBinary(t, dir, name, "exit 0")
	}
	b, err := EnsureBinaries(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := binariesIn(dir)
	want.Version = "v1.36.1"
	if b != want {
		t.Errorf("binaries = %+v, want %+v", b, want)
	}
}

// fakeGo stands in for the Go toolchain: it writes what it was called with into the file that -o names.
const fakeGo = `while [ $# -gt 0 ]; do [ "$1" = -o ] && out=$2; last=$1; shift; done
[ -f go.mod ] || { echo "no go.mod here"; exit 1; }
[ "$last" = "$FAIL" ] && { echo "noise"; echo "$last: no such package"; exit 1; }
[ -n "$SLOW" ] && sleep 60
echo "$last" > "$out" && chmod 755 "$out"`

func TestBuildOnceIntoTheCache(t *testing.T) {
	path, cache := t.TempDir(), t.TempDir()
	fakeBinary(t, path, "go", fakeGo)
	t.Setenv("PATH", path+":/usr/bin:/bin")
	t.Setenv(AssetsEnv, "")
	t.Setenv("XDG_CACHE_HOME", cache)
	t.Setenv("HOME", cache)

	t.Setenv("FAIL", "k8s.io/kubernetes/cmd/kubectl")
	out := new(bytes.Buffer)
	_, err := EnsureBinaries(t.Context(), out)
	if err == nil || !strings.Contains(err.Error(), "building kubectl with go build: exit status 1: it said:\nnoise\nk8s.io/kubernetes/cmd/kubectl: no such package") {
		t.Fatalf("a failing build: %v, want what go said", err)
	}
	t.Setenv("FAIL", "")
	out.Reset()
	b, err := EnsureBinaries(t.Context(), out)
	if err != nil {
		t.Fatal(err)
	}
	if got := out.String(); strings.Contains(got, "kube-apiserver") || !strings.Contains(got, "[1/1] kubectl: done") {
		t.Errorf("the second build printed %q, want kubectl alone", got)
	}
	got, err := os.ReadFile(b.APIServer)
	if err != nil || string(got) != "k8s.io/kubernetes/cmd/kube-apiserver\n" {
		t.Errorf("kube-apiserver is %q, %v", got, err)
	}
	out.Reset()
	if _, err := EnsureBinaries(t.Context(), out); err != nil || out.Len() > 0 {
		t.Errorf("the third call printed %q, %v, want nothing", out, err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(b.Etcd), "*.tmp")); len(left) > 0 {
		t.Errorf("temporary files left: %v", left)
	}

	t.Run("cancelled", func(t *testing.T) {
		if err := os.Remove(b.Etcd); err != nil {
			t.Fatal(err)
		}
		t.Setenv("SLOW", "1")
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		begin := time.Now()
		if _, err := EnsureBinaries(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err = %v, want the deadline", err)
		}
		if took := time.Since(begin); took > 4*time.Second {
			t.Errorf("took %v: the compiler was not killed with the build", took)
		}
	})

	t.Run("waits for another process", func(t *testing.T) {
		dir := filepath.Dir(b.Etcd)
		unlock, err := lockDir(t.Context(), dir, new(bytes.Buffer))
		if err != nil {
			t.Fatal(err)
		}
		defer unlock()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		out := new(bytes.Buffer)
		if _, err := EnsureBinaries(ctx, out); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err = %v, want the deadline", err)
		}
		if !strings.Contains(out.String(), "Another process is building") {
			t.Errorf("printed %q, want that another process builds", out)
		}
	})
}

func TestNoGoToolchain(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv(AssetsEnv, "")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	_, err := EnsureBinaries(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), "no go command on the PATH: install Go, or set "+AssetsEnv) {
		t.Errorf("err = %v, want what to do", err)
	}
}

func TestEnsureKubelogin(t *testing.T) {
	path, cache := t.TempDir(), t.TempDir()
	t.Setenv("PATH", path+":/usr/bin:/bin")
	t.Setenv("XDG_CACHE_HOME", cache)
	t.Setenv("HOME", cache)
	t.Setenv("KUBELOGIN", "")
	fakeBinary(t, path, "go", fakeGo)
	out := new(bytes.Buffer)
	got, err := EnsureKubelogin(t.Context(), out)
	if err != nil || !strings.Contains(out.String(), "Building kubelogin v1.36.3 ") {
		t.Fatalf("EnsureKubelogin: %v, printed %q, want kubelogin v1.36.3 built", err, out)
	}
	if content, err := os.ReadFile(got); err != nil || string(content) != "github.com/int128/kubelogin\n" {
		t.Errorf("kubelogin is %q, %v", content, err)
	}
	out.Reset()
	if again, err := EnsureKubelogin(t.Context(), out); err != nil || again != got || out.Len() > 0 {
		t.Errorf("the second call: %q, %v, printed %q, want the same and nothing", again, err, out)
	}
	fakeBinary(t, path, "own", "exit 0")
	t.Setenv("KUBELOGIN", filepath.Join(path, "own"))
	if got, err := EnsureKubelogin(t.Context(), nil); err != nil || got != filepath.Join(path, "own") {
		t.Errorf("EnsureKubelogin = %q, %v, want the one that KUBELOGIN names", got, err)
	}
	t.Setenv("KUBELOGIN", filepath.Join(path, "nothing"))
	if _, err := EnsureKubelogin(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "KUBELOGIN") {
		t.Errorf("err = %v, want one that names KUBELOGIN", err)
	}
}

func mustTLS(t *testing.T, c *Cluster) *tls.Config {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(c.CA()) {
		t.Fatal("the CA is no certificate")
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}
