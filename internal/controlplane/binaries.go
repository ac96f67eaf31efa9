package controlplane

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The nested modules in tools/ and kubelogin/ fix the versions of what is built. Their files can't be embedded from
// there (an embedding never crosses into another module), so copies lie in toolsmod/ and kubeloginmod/; a test keeps
// them equal. kubelogin has a module of its own, so that a new version of it never rebuilds the control plane.
var (
	//go:embed toolsmod
	toolsFiles embed.FS
	//go:embed kubeloginmod
	kubeloginFiles embed.FS

	controlPlane  = readModule(toolsFiles, "toolsmod")
	kubeloginOnly = readModule(kubeloginFiles, "kubeloginmod")
)

// module is a nested module: the content of its files by name.
type module map[string][]byte

// moduleFiles are the names of a nested module's files, in the order in which cacheKey reads them.
func moduleFiles() []string { return []string{"go.mod", "go.sum", "tools.go"} }

// readModule reads the embedded copy of a nested module; it panics where the program was built without one.
func readModule(files embed.FS, dir string) module {
	m := module{}
	for _, name := range moduleFiles() {
		content, err := files.ReadFile(dir + "/" + name + ".txt")
		if err != nil {
			panic(err)
		}
		m[name] = content
	}
	return m
}

// AssetsEnv names the folder that setup-envtest installs its binaries in; EnsureBinaries prefers it.
const AssetsEnv = "KUBEBUILDER_ASSETS"

// progressEvery is how often a running build says that it is still running.
const progressEvery = 30 * time.Second

// Binaries are the paths of the programs of one control plane, and their Kubernetes version ("v1.37.2").
type Binaries struct {
	APIServer, ControllerManager, Kubectl, Etcd string
	Version                                     string
}

// target is one program to build; usually is its time on two cores with a cold build cache.
type target struct {
	name, pkg, usually string
}

func targets() []target {
	return []target{
		{"etcd", "go.etcd.io/etcd/server/v3", "20 seconds"},
		{"kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", "8 minutes"},
		{"kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager", "2 minutes"},
		{"kubectl", "k8s.io/kubernetes/cmd/kubectl", "1 minute"},
	}
}

// EnsureBinaries returns the programs of a control plane. It takes them from the folder that KUBEBUILDER_ASSETS
// names, else from the user's cache folder, where it builds what is missing; progress, which may be nil, is told
// what is built and how long that usually takes.
func EnsureBinaries(ctx context.Context, progress io.Writer) (Binaries, error) {
	if progress == nil {
		progress = io.Discard
	}
	assets := os.Getenv(AssetsEnv)
	if assets == "" {
		return buildAll(ctx, progress, targets())
	}
	assets, err := filepath.Abs(assets)
	if err != nil {
		return Binaries{}, fmt.Errorf("resolving %s: %w", AssetsEnv, err)
	}
	b := binariesIn(assets)
	var missing []string
	for _, p := range []string{b.APIServer, b.Etcd, b.Kubectl} {
		if !isExecutable(p) {
			missing = append(missing, filepath.Base(p))
		}
	}
	if len(missing) > 0 {
		return Binaries{}, fmt.Errorf("%s is %s, which lacks %s: install them there (setup-envtest use), or unset %s to have them built",
			AssetsEnv, assets, strings.Join(missing, ", "), AssetsEnv)
	}
	out, err := exec.CommandContext(ctx, b.APIServer, "--version").Output()
	if err != nil {
		return Binaries{}, fmt.Errorf("asking %s for its version: %w", b.APIServer, err)
	}
	b.Version = strings.TrimPrefix(strings.TrimSpace(string(out)), "Kubernetes ")
	if !isExecutable(b.ControllerManager) { // setup-envtest ships none
		built, err := buildAll(ctx, progress, targets()[2:3])
		if err != nil {
			return Binaries{}, err
		}
		b.ControllerManager = built.ControllerManager
	}
	return b, nil
}

// KubeloginVersion returns the version of kubelogin that EnsureKubelogin builds, "v1.36.3".
func KubeloginVersion() string { return kubeloginOnly.version(kubeloginModule) }

const kubeloginModule = "github.com/int128/kubelogin"

// EnsureKubelogin returns the path of the real kubelogin (github.com/int128/kubelogin): $KUBELOGIN if set, else the
// one in the user's cache folder, which it builds if it is missing; progress, which may be nil, is told so.
func EnsureKubelogin(ctx context.Context, progress io.Writer) (string, error) {
	if p := os.Getenv("KUBELOGIN"); p != "" {
		if p, err := filepath.Abs(p); err == nil && isExecutable(p) {
			return p, nil
		}
		return "", fmt.Errorf("the environment variable KUBELOGIN is %q, which is no executable file", p)
	}
	if progress == nil {
		progress = io.Discard
	}
	const pkg = kubeloginModule
	version := kubeloginOnly.version(pkg)
	dir, err := cacheDir("kubelogin", kubeloginOnly.cacheKey(version))
	if err != nil {
		return "", err
	}
	err = ensure(ctx, progress, recipe{
		what: "kubelogin " + version, usually: "1 minute", instead: "set KUBELOGIN to the path of one",
		files: kubeloginOnly, ldflags: "-s -w -X main.version=" + version,
	}, dir, []target{{"kubelogin", pkg, "1 minute"}})
	return filepath.Join(dir, "kubelogin"), err
}

// recipe is how the programs of one nested module are built.
type recipe struct {
	what, usually string // for messages: "Kubernetes v1.37.2", "11 minutes"
	instead       string // what to do on a machine without Go
	files         module
	ldflags       string
}

// buildAll builds those of the control plane's targets that the cache folder lacks.
func buildAll(ctx context.Context, progress io.Writer, ts []target) (Binaries, error) {
	k8s, etcd := controlPlane.version("k8s.io/kubernetes"), controlPlane.version("go.etcd.io/etcd/server/v3")
	dir, err := cacheDir("controlplane", controlPlane.cacheKey("k8s-"+k8s+"-etcd-"+etcd))
	if err != nil {
		return Binaries{}, err
	}
	err = ensure(ctx, progress, recipe{
		what: "Kubernetes " + k8s, usually: "11 minutes",
		instead: "set " + AssetsEnv + " to a folder with kube-apiserver, etcd and kubectl",
		files:   controlPlane, ldflags: ldflags(k8s),
	}, dir, ts)
	if err != nil {
		return Binaries{}, err
	}
	b := binariesIn(dir)
	b.Version = k8s
	return b, nil
}

// cacheDir is the folder of one set of programs of a kind; it need not exist.
func cacheDir(kind, key string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the user's cache folder: %w: set HOME or XDG_CACHE_HOME", err)
	}
	return filepath.Join(cache, "gl-k8s-integrator", kind, key), nil
}

// ensure builds those of the targets that dir lacks.
func ensure(ctx context.Context, progress io.Writer, r recipe, dir string, ts []target) error {
	if len(lacking(dir, ts)) == 0 {
		return nil
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("making the cache folder: %w", err)
	}
	unlock, err := lockDir(ctx, dir, progress)
	if err != nil {
		return err
	}
	defer unlock()
	todo := lacking(dir, ts) // another process may have built them while this one waited
	if len(todo) == 0 {
		return nil
	}
	return build(ctx, progress, r, dir, todo)
}

// build compiles the targets into dir, each under a temporary name until it is complete.
func build(ctx context.Context, progress io.Writer, r recipe, dir string, ts []target) error {
	goTool, err := exec.LookPath("go")
	if err != nil {
		return fmt.Errorf("building %s needs Go, and there is no go command on the PATH: install Go, or %s", r.what, r.instead)
	}
	src, err := os.MkdirTemp("", "gl-k8s-build-")
	if err != nil {
		return fmt.Errorf("making a folder to build in: %w", err)
	}
	defer func() { _ = os.RemoveAll(src) }()
	for name, content := range r.files {
		if err := os.WriteFile(filepath.Join(src, name), content, 0o600); err != nil {
			return fmt.Errorf("writing the module to build from: %w", err)
		}
	}
	p := &lineWriter{w: progress}
	p.printf("Building %s from Go modules into %s, once: on 2 cores this takes about %s, less when Go's build cache is warm.", r.what, dir, r.usually)
	for i, t := range ts {
		p.printf("[%d/%d] %s: usually up to %s …", i+1, len(ts), t.name, t.usually)
		start := time.Now()
		if err := buildOne(ctx, p, goTool, src, dir, r.ldflags, t); err != nil {
			return err
		}
		size := int64(0)
		if st, err := os.Stat(filepath.Join(dir, t.name)); err == nil {
			size = st.Size()
		}
		p.printf("[%d/%d] %s: done after %s, %d MB", i+1, len(ts), t.name, time.Since(start).Round(time.Second), size>>20)
	}
	return nil
}

func buildOne(ctx context.Context, p *lineWriter, goTool, src, dir, flags string, t target) error {
	tmp := filepath.Join(dir, fmt.Sprintf(".%s.%d.tmp", t.name, os.Getpid()))
	defer func() { _ = os.Remove(tmp) }()
	// Linker flags alone: they reuse every compiled package that a build without them left in the cache.
	cmd := exec.CommandContext(ctx, goTool, "build", "-mod=readonly", "-buildvcs=false", "-ldflags", flags, "-o", tmp, t.pkg)
	cmd.Dir = src
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	// A group of its own, so that a cancelled build takes its compilers with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second

	stop := p.every(progressEvery, t.name)
	err := cmd.Run()
	stop()
	if ctx.Err() != nil {
		return fmt.Errorf("building %s: %w", t.name, ctx.Err())
	}
	if err != nil {
		return fmt.Errorf("building %s with go build: %w: it said:\n%s", t.name, err, lastLines(output.Bytes(), 20))
	}
	if err := os.Rename(tmp, filepath.Join(dir, t.name)); err != nil {
		return fmt.Errorf("putting %s in place: %w", t.name, err)
	}
	return nil
}

// ldflags strips symbols and sets what `kubectl version` and /version print.
func ldflags(version string) string {
	flags := []string{"-s", "-w"}
	numbers := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags = append(flags, "-X", pkg+".gitVersion="+version)
		if len(numbers) == 3 {
			flags = append(flags, "-X", pkg+".gitMajor="+numbers[0], "-X", pkg+".gitMinor="+numbers[1])
		}
	}
	return strings.Join(flags, " ")
}

// cacheKey names the folder of one set of programs: whatever changes what is built changes the key.
func (m module) cacheKey(versions string) string {
	h := sha256.New()
	for _, name := range moduleFiles() {
		fmt.Fprintf(h, "%d\n%s", len(m[name]), m[name])
	}
	return fmt.Sprintf("%s-%s-%s-%s", versions, runtime.GOOS, runtime.GOARCH, hex.EncodeToString(h.Sum(nil))[:12])
}

// version returns the version that the module requires of another, "" if it does not.
func (m module) version(other string) string {
	s := bufio.NewScanner(bytes.NewReader(m["go.mod"]))
	for s.Scan() {
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(s.Text()), "require "))
		if len(fields) >= 2 && fields[0] == other {
			return fields[1]
		}
	}
	return ""
}

func binariesIn(dir string) Binaries {
	return Binaries{
		APIServer:         filepath.Join(dir, "kube-apiserver"),
		ControllerManager: filepath.Join(dir, "kube-controller-manager"),
		Kubectl:           filepath.Join(dir, "kubectl"),
		Etcd:              filepath.Join(dir, "etcd"),
	}
}

func lacking(dir string, ts []target) []target {
	var out []target
	for _, t := range ts {
		if !isExecutable(filepath.Join(dir, t.name)) {
			out = append(out, t)
		}
	}
	return out
}

func isExecutable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

// lockDir keeps two processes from building into one folder at a time. The kernel drops the lock of a process
// that dies, so there is no stale one.
func lockDir(ctx context.Context, dir string, progress io.Writer) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the build lock: %w", err)
	}
	for waited := false; ; waited = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			_ = f.Close()
			return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
		}
		if !waited {
			fmt.Fprintf(progress, "Another process is building the same programs (it holds %s); waiting for it …\n", f.Name())
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("waiting for another process to build the same programs: %w", ctx.Err())
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// lineWriter writes whole lines from several goroutines.
type lineWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lineWriter) printf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.w, format+"\n", args...)
}

// every prints the time that has passed until the returned function is called, which waits for the last line.
func (l *lineWriter) every(d time.Duration, what string) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(d)
		defer tick.Stop()
		for n := 1; ; n++ {
			select {
			case <-quit:
				return
			case <-tick.C:
				l.printf("      %s: still building after %s", what, time.Duration(n)*d)
			}
		}
	}()
	return func() { close(quit); <-done }
}

// lastLines returns the end of what a process printed.
func lastLines(b []byte, n int) string {
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}

// tailFile returns the last lines of a log file; a log that can't be read has none.
func tailFile(path string, n int) string {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return "(it printed nothing)"
		}
		return "(its log can't be read: " + err.Error() + ")"
	}
	defer func() { _ = f.Close() }()
	const most = 16 << 10
	if st, err := f.Stat(); err == nil && st.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd)
	}
	b, _ := io.ReadAll(io.LimitReader(f, most))
	if len(bytes.TrimSpace(b)) == 0 {
		return "(it printed nothing)"
	}
	return lastLines(b, n)
}
