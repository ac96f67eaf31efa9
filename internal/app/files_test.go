package app

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

// fileKeys calls f for each key of a configuration that names a file.
func fileKeys(path string, v reflect.Value, f func(path string, v reflect.Value)) {
	if v.Kind() != reflect.Struct {
		return
	}
	for field, value := range v.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		at := strings.TrimPrefix(path+"."+name, ".")
		if regexp.MustCompile(`(File|^file|^kubeconfig)$`).MatchString(name) {
			f(at, value)
			continue
		}
		fileKeys(at, value, f)
	}
}

// TestEveryNamedFileIsLookedAt: for each key that names a file, one that is not there, an empty one and one with something
// else is a fault with the key and the path, and without the content.
func TestEveryNamedFileIsLookedAt(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"empty": "", "else": "s3cret words\nof another file"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	fileKeys("", reflect.ValueOf(config.Config{}), func(key string, _ reflect.Value) {
		n++
		for _, name := range []string{"missing", "empty", "else"} {
			cfg, file := new(config.Config), filepath.Join(dir, name)
			fileKeys("", reflect.ValueOf(cfg).Elem(), func(k string, v reflect.Value) {
				if k == key {
					v.SetString(file)
				}
			})
			if strings.HasSuffix(key, "keyFile") && name != "missing" {
				continue // judged beside its certificate
			}
			err := CheckNamedFiles(cfg)
			if err == nil || !strings.HasPrefix(err.Error(), key+": ") || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%s names a file that is %s: %v", key, name, err)
			}
		}
	})
	if n != 20 {
		t.Errorf("%d keys name files", n)
	}
}

// TestEveryNamedFileIsReadAgain: docs/configuration.md says so of each, and which one is the exception.
func TestEveryNamedFileIsReadAgain(t *testing.T) {
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	fileKeys("", reflect.ValueOf(config.Config{}), func(key string, _ reflect.Value) {
		want := "Read again"
		if key == "cluster.kubeconfig" {
			want = "Read at the start only"
		}
		if !regexp.MustCompile("(?m)^\\| `" + regexp.QuoteMeta(key) + "` .*" + want).Match(page) {
			t.Errorf("%s: not %q", key, want)
		}
	})
}

// TestSecretErrorsNameTheFile: whatever is wrong with it.
func TestSecretErrorsNameTheFile(t *testing.T) {
	dir := t.TempDir()
	for i, content := range []string{"", "two words", "two\nlines"} {
		file := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := secretFile(file, "gitlab.readTokenFile")(); err == nil || !strings.Contains(err.Error(), "gitlab.readTokenFile "+file) {
			t.Errorf("%q: %v", content, err)
		}
	}
}
