package gitlabsim

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
)

// browserEnv turns the test binary into the browser that kubelogin opens; its value is the file of the CA.
const browserEnv = "GITLABSIM_TEST_BROWSER"

func browserMain() int {
	ca, err := os.ReadFile(os.Getenv(browserEnv))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	if err := Browse(context.Background(), client, os.Args[len(os.Args)-1], "alice", "alice-pw"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// TestRealKubelogin runs the real kubelogin through login, cache and refresh.
func TestRealKubelogin(t *testing.T) {
	kubelogin, err := controlplane.EnsureKubelogin(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, func(o *Options) { o.Now = time.Now; o.IDTokenLifetime = 3 * time.Second })
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, f.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	login := func() string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, kubelogin, "get-token", "--oidc-issuer-url="+f.URL(), "--oidc-client-id=kubectl", "--certificate-authority="+ca,
			"--token-cache-dir="+filepath.Join(dir, "cache"), "--browser-command="+self, "--grant-type=authcode", "--authentication-timeout-sec=30")
		cmd.Env = append(os.Environ(), browserEnv+"="+ca)
		var out, problems bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &problems
		if err := cmd.Run(); err != nil {
			t.Fatalf("kubelogin: %v\n%s", err, problems.String())
		}
		var cred struct{ Status struct{ Token string } }
		if err := json.Unmarshal(out.Bytes(), &cred); err != nil {
			t.Fatal(err)
		}
		return cred.Status.Token
	}
	first := login()
	equal(t, "sub", f.claims(first, "kubectl")["sub"], any("41"))
	equal(t, "cached", login() == first, true)
	time.Sleep(4 * time.Second)
	second := login()
	equal(t, "refreshed", second != first, true)
	requests := f.Requests()
	equal(t, "logins", requests["POST /users/sign_in"], 1)
	equal(t, "tokens", requests["POST /oauth/token"], 2)
}

// visit is the line in which kubelogin names the page to log in on.
var visit = regexp.MustCompile(`visit the following URL in your browser: (\S+)`)

// TestRealKubeloginByKeyboard is the login on a machine without a browser: the person opens the page elsewhere, and
// types the code that GitLab shows there.
func TestRealKubeloginByKeyboard(t *testing.T) {
	kubelogin, err := controlplane.EnsureKubelogin(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, func(o *Options) { o.Now = time.Now })
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, f.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	login := func(redirect string) (page *url.URL, token string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, kubelogin, "get-token", "--oidc-issuer-url="+f.URL(), "--oidc-client-id=kubectl", "--certificate-authority="+ca,
			"--token-cache-storage=none", "--grant-type=authcode-keyboard", "--oidc-redirect-url="+redirect)
		var out bytes.Buffer
		cmd.Stdout = &out
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		problems := bufio.NewReader(stderr)
		line, _ := problems.ReadString('\n')
		if m := visit.FindStringSubmatch(line); m == nil {
			t.Errorf("kubelogin says %q, and no page to visit", line)
		} else if page, err = url.Parse(m[1]); err != nil {
			t.Error(err)
		} else if callback, err := Login(ctx, f.Client(), page.String(), "alice", "alice-pw"); err == nil {
			answer, err := url.Parse(callback)
			if err != nil {
				t.Error(err)
			}
			fmt.Fprintln(stdin, answer.Query().Get("code"))
		}
		_ = stdin.Close() // without a code: kubelogin reads the end of its input, and gives up
		rest, _ := io.ReadAll(problems)
		if err := cmd.Wait(); err != nil {
			t.Logf("kubelogin: %v\n%s", err, rest)
			return page, ""
		}
		var cred struct{ Status struct{ Token string } }
		if err := json.Unmarshal(out.Bytes(), &cred); err != nil {
			t.Fatal(err)
		}
		return page, cred.Status.Token
	}
	page, token := login(outOfBand)
	if page == nil || token == "" {
		t.Fatal("no token by keyboard")
	}
	equal(t, "PKCE", page.Query().Get("code_challenge_method"), "S256")
	equal(t, "sub", f.claims(token, "kubectl")["sub"], any("41"))
	_, token = login("http://localhost:9999")
	equal(t, "token with a redirect URI that the application lacks", token, "")
}
