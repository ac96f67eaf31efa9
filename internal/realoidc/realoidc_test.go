// Package realoidc logs in with the real kubelogin at GitLab's own library of OpenID Connect, and has a real
// kube-apiserver ask our webhook about the token: neither side of the login is ours.
package realoidc

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/freeport"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
)

const library = "require 'doorkeeper/version'; gem 'doorkeeper-openid_connect'; gem 'activerecord'; gem 'sqlite3'; gem 'puma'"

// startProvider starts the library as a server on loopback, and stops it with the test.
func startProvider(t *testing.T) (issuer, caFile string, client *http.Client) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "ruby", "-e", library).CombinedOutput(); err != nil {
		t.Skipf("NOT TESTED: GitLab's library of OpenID Connect is not installed (apt-get install ruby-doorkeeper-openid-connect ruby-activerecord ruby-sqlite3 puma): %v %s", err, out)
	}
	authority, err := localcert.NewAuthority("gitlab")
	if err != nil {
		t.Fatal(err)
	}
	server, err := authority.Server("gitlab")
	if err != nil {
		t.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	signing := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	for name, content := range map[string][]byte{"tls.crt": server.Cert, "tls.key": server.Key, "ca.crt": authority.PEM, "signing.key": signing} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	address := freeport.For(t)
	cmd := exec.Command("puma", "-q", "-e", "production", "-b", fmt.Sprintf("ssl://%s?key=%[2]s/tls.key&cert=%[2]s/tls.crt", address, dir), "config.ru")
	cmd.Dir = "testdata"
	cmd.Env = append(os.Environ(), "ISSUER=https://"+address, "SIGNING_KEY="+dir+"/signing.key", "CLIENT_ID=kubectl", "REDIRECT_URIS=http://localhost:8000 http://127.0.0.1/ urn:ietf:wg:oauth:2.0:oob")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the provider said:\n%s", log.String())
		}
	})
	if client, err = gitlab.NewHTTPClient(authority.PEM, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		res, err := client.Get("https://" + address + "/.well-known/openid-configuration")
		if err == nil {
			_ = res.Body.Close()
			return "https://" + address, filepath.Join(dir, "ca.crt"), client
		}
		if time.Now().After(deadline) {
			t.Fatalf("the provider does not answer: %v", err)
		}
	}
}

var visit = regexp.MustCompile(`visit the following URL in your browser: (\S+)`)

func TestLogin(t *testing.T) {
	issuer, caFile, client := startProvider(t)
	kubelogin, err := controlplane.EnsureKubelogin(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, kubelogin, "get-token", "--oidc-issuer-url="+issuer, "--oidc-client-id=kubectl", "--certificate-authority="+caFile,
		"--token-cache-storage=none", "--grant-type=authcode-keyboard", "--oidc-redirect-url=urn:ietf:wg:oauth:2.0:oob")
	var out bytes.Buffer
	cmd.Stdout = &out
	stdin, _ := cmd.StdinPipe()
	stderr, _ := cmd.StderrPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	problems := bufio.NewReader(stderr)
	line, _ := problems.ReadString('\n')
	if m := visit.FindStringSubmatch(line); m == nil {
		t.Errorf("kubelogin says %q, and no page to visit", line)
	} else if callback, err := gitlabsim.Login(ctx, client, m[1], "alice", "any"); err != nil {
		t.Error(err)
	} else if answer, err := url.Parse(callback); err != nil {
		t.Error(err)
	} else {
		fmt.Fprintln(stdin, answer.Query().Get("code"))
	}
	_ = stdin.Close()
	remaining, _ := io.ReadAll(problems)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("kubelogin: %v\n%s", err, remaining)
	}
	var cred struct{ Status struct{ Token string } }
	if err := json.Unmarshal(out.Bytes(), &cred); err != nil {
		t.Fatal(err)
	}
	var judge atomic.Pointer[authn.Authenticator]
	webhook := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		authn.Handler(*judge.Load(), nil, nil).ServeHTTP(w, r)
	}))
	t.Cleanup(webhook.Close)
	cluster, err := controlplane.Start(t.Context(), controlplane.Options{AuthnWebhook: &controlplane.Webhook{
		URL: webhook.URL, CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: webhook.Certificate().Raw}),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cluster.Stop() })
	as := rest.AnonymousClientConfig(cluster.AdminConfig())
	as.BearerToken = cred.Status.Token
	kube, err := kubernetes.NewForConfig(as)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ clientID, want string }{{"another", ""}, {"kubectl", "gitlab:41"}} { // a refusal is not kept by kube-apiserver
		gl, err := authn.New(authn.Config{Issuer: issuer, ClientIDs: []string{c.clientID}, HTTPClient: client})
		if err != nil {
			t.Fatal(err)
		}
		var a authn.Authenticator = gl
		judge.Store(&a)
		self, err := kube.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if got := self.Status.UserInfo.Username; got != c.want || apierrors.IsUnauthorized(err) != (c.want == "") {
			t.Errorf("audience %s: kube-apiserver knows %q, %v, want %q", c.clientID, got, err, c.want)
		}
	}
}
