package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestHangupEndsOtherCommands: a command for people ends with their terminal, also while GitLab does not answer.
func TestHangupEndsOtherCommands(t *testing.T) {
	asked := make(chan os.Signal, 1)
	gitlab := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case asked <- syscall.SIGHUP:
		default:
		}
		<-r.Context().Done()
	}))
	defer gitlab.Close()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"token": "glpat-x",
		"kubeconfig": `{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}],
  clusters: [{name: a, cluster: {server: "http://127.0.0.1:1"}}], users: [{name: a, user: {token: none}}]}`,
		"config.yaml": fmt.Sprintf(`apiVersion: gl-k8s-integrator/v1alpha1
kind: Config
gitlab: {url: %q, readTokenFile: %[2]s/token}
cluster: {kubeconfig: %[2]s/kubeconfig}
listeners: {webhooks: {address: "127.0.0.1:0", certFile: c, keyFile: k}}
authn: {clientIDs: [a]}
ci: {delivery: none}
`, gitlab.URL, dir),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"plan", "--config", filepath.Join(dir, "config.yaml")}, streams{in: strings.NewReader(""), out: &out, err: &errs, hangups: asked})
	if code != exitError || errs.String() != "gl-k8s-integrator: interrupted\n" {
		t.Errorf("exit %d: %s", code, errs.String())
	}
}
