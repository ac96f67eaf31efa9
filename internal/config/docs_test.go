package config_test

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

var update = flag.Bool("update", false, "write docs/configuration.md anew")

const (
	referenceFile = "../../docs/configuration.md"
	marker        = "<!-- The table below is made from internal/config/v1alpha1.go: go test ./internal/config -update -->"
)

// TestReferenceIsUpToDate: each key of the file is documented, in the words of the code.
func TestReferenceIsUpToDate(t *testing.T) {
	page, err := os.ReadFile(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	head, _, found := strings.Cut(string(page), marker)
	if !found {
		t.Fatalf("%s lacks the line %s", referenceFile, marker)
	}
	want := head + marker + "\n\n" + reference(t)
	if *update {
		if err := os.WriteFile(referenceFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(page) != want {
		t.Error("docs/configuration.md is stale: go test ./internal/config -update")
	}
}

// words are the types of values as a person would say them.
var words = map[string]string{"string": "text", "Duration": "duration", "int64": "id", "int": "number", "float64": "number", "bool": "true or false"}

// reference is the table of all keys.
func reference(t *testing.T) string {
	t.Helper()
	keys, err := config.Keys()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("| key | type | a change counts | meaning |\n|---|---|---|---|\n")
	for _, k := range keys {
		top := !strings.Contains(k.Path, ".")
		switch {
		case k.Comment == "" && k.Section || top:
		case k.Comment == "":
			t.Errorf("%s has no comment", k.Path)
		case k.Section:
			fmt.Fprintf(&b, "| `%s` | section | | %s |\n", k.Path, k.Comment)
		default:
			kind := words[k.Type.Name()]
			if strings.HasSuffix(k.Path, "[]") {
				kind = "list of " + kind
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", k.Path, kind, config.EffectOf(k.Path), k.Comment)
		}
	}
	return b.String()
}

var configBlock = regexp.MustCompile("(?s)```yaml config\n(.*?)```")

// TestEveryConfigurationInTheDocsLoads: a block marked "yaml config" is one that people will copy.
func TestEveryConfigurationInTheDocsLoads(t *testing.T) {
	blocks := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".md" {
			return err
		}
		page, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range configBlock.FindAllStringSubmatch(string(page), -1) {
			blocks++
			if _, err := config.Parse([]byte(m[1])); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if blocks == 0 {
		t.Error("no configuration found in the docs")
	}
}
