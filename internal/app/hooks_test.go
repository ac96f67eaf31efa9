package app

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/metrics"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
)

// TestMissingHookSecretIsReported: at the start, not with the first hook, and until it is there.
func TestMissingHookSecretIsReported(t *testing.T) {
	dir := t.TempDir()
	h := config.HooksListener{Address: "127.0.0.1:0", SecretFile: filepath.Join(dir, "secret"), SigningKeyFile: filepath.Join(dir, "key")}
	start := func() string {
		var log bytes.Buffer
		newHook(h, slog.New(slog.NewTextHandler(&log, nil)), new(store.Inbox), nil, metrics.New(), nil)
		return log.String()
	}
	if got := start(); !strings.Contains(got, "level=ERROR") || !strings.Contains(got, "listeners.hooks.secretFile") || !strings.Contains(got, "listeners.hooks.signingKeyFile") {
		t.Errorf("the log: %s", got)
	}
	for _, name := range []string{"secret", "key"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("s3cret"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := start(), hookSecrets(h); got != "" || err != nil {
		t.Errorf("mounted: %q, %v", got, err)
	}
	if err := hookSecrets(config.HooksListener{SecretFile: "nowhere"}); err != nil {
		t.Errorf("no hooks are expected: %v", err)
	}
}
