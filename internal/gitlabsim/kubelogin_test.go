package gitlabsim

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
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

// TestRealKubelogin runs the real kubelogin, if it is installed, through login, cache and refresh.
func TestRealKubelogin(t *testing.T) {
	kubelogin, err := exec.LookPath("kubelogin")
	if err != nil {
		t.Skip("kubelogin is not installed")
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
