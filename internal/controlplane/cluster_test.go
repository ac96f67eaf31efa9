package controlplane

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
)

// The helper is this test binary again, in a process of its own that starts a cluster and is then killed.
const (
	helperEnv     = "GL_CONTROLPLANE_TEST_HELPER"
	helperCluster = "cluster"
	helperGuard   = "guard"
)

func needBinaries(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: needs the control plane's binaries")
	}
	if _, err := EnsureBinaries(t.Context(), os.Stderr); err != nil {
		t.Fatal(err)
	}
}

func TestClusterIsReadyAndStops(t *testing.T) {
	needBinaries(t)
	reviews := make(chan string, 100)
	webhook := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review map[string]any
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		spec, _ := review["spec"].(map[string]any)
		status := map[string]any{"authenticated": true, "user": map[string]any{"username": "gitlab:7"}}
		if review["kind"] == "SubjectAccessReview" {
			status = map[string]any{"allowed": false, "reason": fmt.Sprintf("%v is a guest of haw/world", spec["user"])}
		} else if spec["token"] != "token-of-7" {
			status = map[string]any{"authenticated": false}
		}
		reviews <- fmt.Sprint(review["kind"], " ", review["apiVersion"])
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"kind": review["kind"], "apiVersion": review["apiVersion"], "status": status})
	}))
	defer webhook.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: webhook.Certificate().Raw})

	progress := new(bytes.Buffer)
	begin := time.Now()
	c, err := Start(t.Context(), Options{
		Progress:     progress,
		AuthnWebhook: &Webhook{URL: webhook.URL + "/authenticate", CA: ca},
		AuthzWebhook: &Webhook{URL: webhook.URL + "/authorize", CA: ca},
		AuthnVersion: "v1beta1",
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Stop() }()
	t.Logf("ready after %v", time.Since(begin).Round(100*time.Millisecond))
	if !strings.Contains(progress.String(), "ready at "+c.URL()) {
		t.Errorf("progress = %q, want the URL", progress)
	}
	client, err := kubernetes.NewForConfig(c.AdminConfig())
	if err != nil {
		t.Fatal(err)
	}

	t.Run("aggregated roles have rules", func(t *testing.T) {
		for _, name := range []string{"edit", "view"} {
			role, err := client.RbacV1().ClusterRoles().Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if len(role.Rules) == 0 {
				t.Errorf("ClusterRole %s has no rules", name)
			}
		}
	})

	t.Run("a ServiceAccount token Secret is filled", func(t *testing.T) {
		_, err := client.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: "filled", Annotations: map[string]string{corev1.ServiceAccountNameKey: "default"}},
			Type:       corev1.SecretTypeServiceAccountToken,
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			s, err := client.CoreV1().Secrets("default").Get(t.Context(), "filled", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if len(s.Data["token"]) > 0 && len(s.Data["ca.crt"]) > 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal("the Secret has no token after 20 s")
			}
		}
	})

	t.Run("kubectl prints the webhook's reason", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "kubeconfig")
		if err := c.WriteKubeconfig(path, KubeconfigUser{Token: "token-of-7"}, "default"); err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("kubeconfig mode = %v, %v, want 0600", st.Mode(), err)
		}
		out, err := kubectl(t, c, path, "create", "deployment", "web", "--image=web")
		// kube-apiserver itself puts the webhook's name before its reason.
		want := `User "gitlab:7" cannot create resource "deployments" in API group "apps" in the namespace "default": gitlab: gitlab:7 is a guest of haw/world`
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("kubectl printed %q (%v), want %q", out, err, want)
		}
		if got := <-reviews; got != "TokenReview authentication.k8s.io/v1beta1" {
			t.Errorf("first review = %s, want a TokenReview of v1beta1", got)
		}
		if got := <-reviews; got != "SubjectAccessReview authorization.k8s.io/v1" {
			t.Errorf("second review = %s, want a SubjectAccessReview of v1", got)
		}
	})

	t.Run("an anonymous refusal carries the reason", func(t *testing.T) {
		anonymous := &http.Client{Transport: &http.Transport{TLSClientConfig: mustTLS(t, c)}}
		defer anonymous.CloseIdleConnections()
		resp, err := anonymous.Get(c.URL() + "/api/v1/namespaces/default/pods")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body := new(bytes.Buffer)
		_, _ = body.ReadFrom(resp.Body)
		if resp.StatusCode != http.StatusForbidden || !strings.Contains(body.String(), "gitlab: system:anonymous is a guest") {
			t.Errorf("anonymous request: %s %s, want 403 with the webhook's reason", resp.Status, body)
		}
	})

	t.Run("the webhook is not asked about others", func(t *testing.T) {
		for len(reviews) > 0 {
			<-reviews
		}
		out, err := kubectl(t, c, c.AdminKubeconfig(), "auth", "can-i", "create", "pods", "--as=someone-else")
		if err == nil || !strings.HasPrefix(out, "no") {
			t.Errorf("can-i = %q, %v, want no", out, err)
		}
		if len(reviews) != 0 {
			t.Errorf("the webhook was asked: %s", <-reviews)
		}
	})

	t.Run("kubectl version", func(t *testing.T) {
		out, err := kubectl(t, c, c.AdminKubeconfig(), "version")
		if err != nil || strings.Count(out, c.Version()) != 2 {
			t.Errorf("kubectl version = %q, %v, want %s for client and server", out, err, c.Version())
		}
	})

	t.Run("restart of kube-apiserver", func(t *testing.T) {
		before := c.Pids()
		if _, err := kubectl(t, c, c.AdminKubeconfig(), "create", "configmap", "kept"); err != nil {
			t.Fatal(err)
		}
		if err := c.RestartAPIServer(t.Context()); err != nil {
			t.Fatal(err)
		}
		if out, err := kubectl(t, c, c.AdminKubeconfig(), "get", "configmap", "kept", "-o", "name"); err != nil {
			t.Errorf("what was there before: %s, %v", out, err)
		}
		after := c.Pids()
		if len(after) != 3 || after[0] != before[0] || after[1] == before[1] || after[2] != before[2] {
			t.Errorf("the processes were %v and are %v: want another second one", before, after)
		}
	})

	t.Run("stop", func(t *testing.T) {
		pids := c.Pids()
		begin := time.Now()
		if err := c.Stop(); err != nil {
			t.Fatal(err)
		}
		t.Logf("stopped after %v", time.Since(begin).Round(100*time.Millisecond))
		assertGone(t, pids, c.port, 0)
		if _, err := os.Stat(c.dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the state folder is still there: %v", err)
		}
		if err := c.Stop(); err != nil {
			t.Errorf("second Stop: %v", err)
		}
	})
}

func TestStartQuotesTheGuiltyProcess(t *testing.T) {
	needBinaries(t)
	dir := t.TempDir()
	_, err := Start(t.Context(), Options{Dir: dir, APIServerFlags: []string{"--no-such-flag"}})
	if err == nil {
		t.Fatal("Start succeeded with an unknown flag")
	}
	for _, want := range []string{"kube-apiserver ended by itself", "unknown flag: --no-such-flag"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
	if _, err := Start(t.Context(), Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "holds the state of another control plane") {
		t.Errorf("second start in one folder: %v, want a refusal", err)
	}
}

// TestNothingOutlivesUs kills, with SIGKILL, a process that runs a control plane.
func TestNothingOutlivesUs(t *testing.T) {
	needBinaries(t)
	testHelperDies(t, helperCluster)
}

// TestWatchdogKillsOrphans does the same with the watchdog alone, which other systems than Linux depend on.
func TestWatchdogKillsOrphans(t *testing.T) {
	testHelperDies(t, helperGuard)
}

func testHelperDies(t *testing.T, what string) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), helperEnv+"="+what, "TMPDIR="+t.TempDir())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var state helperState
	if err := json.NewDecoder(out).Decode(&state); err != nil {
		_ = cmd.Process.Kill()
		t.Fatalf("the helper printed no state: %v (%v)", err, cmd.Wait())
	}
	for _, pid := range state.Pids {
		if !alive(pid) {
			t.Errorf("process %d is not running before the kill: the test would prove nothing", pid)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	assertGone(t, state.Pids, state.Port, 5*time.Second)
}

type helperState struct {
	Pids []int
	Port int
}

func helperMain() {
	var s helperState
	switch os.Getenv(helperEnv) {
	case helperCluster:
		c, err := Start(context.Background(), Options{})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		s = helperState{c.Pids(), c.port}
	case helperGuard:
		w, err := startWatchdog()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		for range 2 {
			child := exec.Command("sleep", "600") // without procAttr: only the watchdog ends it
			if err := child.Start(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			if err := w.guard(child.Process.Pid); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			s.Pids = append(s.Pids, child.Process.Pid)
		}
		s.Pids = append(s.Pids, w.cmd.Process.Pid) // nor may the watchdog stay
	}
	_ = json.NewEncoder(os.Stdout).Encode(s)
	time.Sleep(10 * time.Minute)
}

func TestWatchdogSparesOnDismiss(t *testing.T) {
	w, err := startWatchdog()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), "sleep", "600")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if err := w.guard(child.Process.Pid); err != nil {
		t.Fatal(err)
	}
	w.dismiss()
	if !alive(child.Process.Pid) {
		t.Error("dismissing the watchdog killed the process it guarded")
	}
	_ = child.Process.Kill()
	_ = child.Wait()
}

// assertGone checks, for as long as patience lasts, that the processes are gone and the port is free.
func assertGone(t *testing.T, pids []int, port int, patience time.Duration) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for _, pid := range pids {
		for alive(pid) && time.Now().Before(deadline) {
			time.Sleep(20 * time.Millisecond)
		}
		if alive(pid) {
			t.Errorf("process %d is still there", pid)
		}
	}
	if port == 0 {
		return
	}
	// A killed process may still hold its sockets for a moment after its first thread is a zombie.
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	l, err := net.Listen("tcp", address)
	for err != nil && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
		l, err = net.Listen("tcp", address)
	}
	if err != nil {
		t.Errorf("port %d is not free: %v", port, err)
		return
	}
	_ = l.Close()
}

// alive says whether a process runs; one that is dead and not yet waited for (an orphan whose new parent is slow)
// does not.
func alive(pid int) bool {
	if err := syscall.Kill(pid, 0); err != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist) || !procfs()
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func procfs() bool {
	_, err := os.Stat("/proc/self/stat")
	return err == nil
}

func kubectl(t *testing.T, c *Cluster, kubeconfig string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), c.Kubectl(), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestWriteKubeconfig(t *testing.T) {
	ca, err := localcert.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{ca: ca, port: 6443}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := c.WriteKubeconfig(path, KubeconfigUser{Name: "alice", TokenFile: "/run/token"}, "haw-world"); err != nil {
		t.Fatal(err)
	}
	cfg, err := clientcmd.LoadFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	context := cfg.Contexts[cfg.CurrentContext]
	if context == nil || context.Namespace != "haw-world" || cfg.AuthInfos["alice"].TokenFile != "/run/token" ||
		cfg.Clusters[context.Cluster].Server != "https://127.0.0.1:6443" ||
		!bytes.Equal(cfg.Clusters[context.Cluster].CertificateAuthorityData, c.CA()) {
		t.Errorf("kubeconfig = %+v", cfg)
	}
}
