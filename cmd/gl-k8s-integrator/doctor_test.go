package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDoctorEnds: what the exit status says, and that JSON is the report alone.
func TestDoctorEnds(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(bad, []byte("kind: Nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"doctor", "--config", bad, "-o", "json"}, streams{out: &out, err: &errs}); code != exitError || errs.Len() > 0 {
		t.Errorf("exit %d, %s", code, errs.String())
	}
	var r struct {
		Healthy  bool
		Problems []struct{ Code string }
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || r.Healthy || len(r.Problems) != 1 || r.Problems[0].Code != "config" {
		t.Errorf("%v: %s", err, out.String())
	}
	for _, command := range []string{"doctor", "status"} {
		errs.Reset()
		if code := run(t.Context(), []string{command, "--config", bad, "-o", "xml"}, streams{out: &out, err: &errs}); code != exitError || !strings.Contains(errs.String(), "want text or json") {
			t.Errorf("%s -o xml: exit %d, %s", command, code, errs.String())
		}
	}
}
