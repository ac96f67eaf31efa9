package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
)

// TestAGitLabUnderAnotherName: nothing is read, and so nothing marked, of a GitLab that has not said that gitlab.url is its
// own URL.
func TestAGitLabUnderAnotherName(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"token": "glpat-x", "kubeconfig": "{apiVersion: v1, kind: Config, clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}], contexts: [{name: c, context: {cluster: c}}], current-context: c}",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ name, answer, want string }{
		{"another name", `{"issuer": "https://gitlab.example.com"}`, `calls itself "https://gitlab.example.com"`},
		{"no such path", "", "answers 404"},
		{"its own name", `{"issuer": "SELF"}`, "reading GitLab"},
		{"no name", `{}`, "no discovery document"},
		{"no document", `<html>`, "no discovery document"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var self string
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if c.answer == "" || r.URL.Path != "/.well-known/openid-configuration" {
					w.WriteHeader(http.StatusNotFound)
					return
				}
				_, _ = io.WriteString(w, strings.ReplaceAll(c.answer, "SELF", self))
			}))
			defer s.Close()
			self = s.URL
			cfg, err := config.Parse([]byte(`apiVersion: gl-k8s-integrator/v1alpha1
kind: Config
gitlab: {url: "` + s.URL + `", readTokenFile: ` + dir + `/token}
cluster: {kubeconfig: ` + dir + `/kubeconfig}
listeners: {webhooks: {address: "127.0.0.1:0", certFile: a, keyFile: b}}
authn: {clientIDs: [kubelogin]}
ci: {delivery: none}
`))
			if err != nil {
				t.Fatal(err)
			}
			r := &provenReader{prove: func(ctx context.Context) error { return proveIssuer(ctx, http.DefaultClient, cfg.GitLab.URL) }}
			read := r.proven(t.Context()) == nil
			if read != (c.name == "its own name") {
				t.Errorf("it is read: %v", read)
			}
			_, err = Plan(t.Context(), cfg, slog.New(slog.DiscardHandler), io.Discard, io.Discard, PlanView{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

// TestARefusedTokenIsNamedByItsFile: whoever reads the error has several token files.
func TestARefusedTokenIsNamedByItsFile(t *testing.T) {
	r := &provenReader{tokenFile: "/etc/x/read-token"}
	if err := r.named(fmt.Errorf("reading groups: %w", gitlab.ErrUnauthorized)); !errors.Is(err, gitlab.ErrUnauthorized) || !strings.Contains(err.Error(), "gitlab.readTokenFile /etc/x/read-token") {
		t.Error(err)
	}
	if err := r.named(nil); err != nil {
		t.Error(err)
	}
}
