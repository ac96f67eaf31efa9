package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn/authntest"
)

// TestTokenCommands runs the stories in testdata/token with fresh tokens.
func TestTokenCommands(t *testing.T) {
	i := authntest.New(t)
	i.URL = "https://127.0.0.1:1" // as in the configuration of the stories
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{i.UserKey.JWK(), i.CIKey.JWK()}})
	if err != nil {
		t.Fatal(err)
	}
	ago := func(d time.Duration) int64 { return time.Now().Add(-d).Unix() }
	forger := authntest.Key{ID: i.UserKey.ID, Private: i.CIKey.Private}
	files := map[string]string{
		"keys.json":     string(keys),
		"good.token":    i.UserToken(42, "kubelogin", nil) + "\n",
		"job.token":     i.CIToken(20, "https://k8s.example.com", nil),
		"expired.token": i.UserToken(42, "kubelogin", authntest.Claims{"iat": ago(time.Hour), "exp": ago(time.Hour)}),
		"forged.token":  authntest.Sign(forger, i.UserClaims(1, "kubelogin", authntest.Claims{"name": "\u009b31mred"})),
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/token", RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			for name, content := range files {
				if err := os.WriteFile(filepath.Join(e.WorkDir, name), []byte(content), 0o600); err != nil {
					return err
				}
			}
			return nil
		},
	})
}
