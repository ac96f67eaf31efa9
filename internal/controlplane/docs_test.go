package controlplane

import (
	"os"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"
)

// TestAuthorizationInTheDocs: the configuration in docs/install.md is the one that every test here runs with, but
// for the path of the kubeconfig and how long answers are kept.
func TestAuthorizationInTheDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```yaml authorization\n(.*?)```").FindSubmatch(page)
	if block == nil {
		t.Fatal("docs/install.md has no authorization configuration")
	}
	normal := func(text []byte) any {
		var c struct {
			APIVersion, Kind string
			Authorizers      []map[string]any
		}
		if err := yaml.UnmarshalStrict(text, &c); err != nil {
			t.Fatal(err)
		}
		for _, a := range c.Authorizers {
			w, ok := a["webhook"].(map[string]any)
			if !ok {
				continue
			}
			for _, key := range []string{"authorizedTTL", "unauthorizedTTL", "connectionInfo"} {
				if w[key] == nil {
					t.Errorf("%s is missing", key)
				}
				delete(w, key)
			}
			for _, m := range w["matchConditions"].([]any) {
				m := m.(map[string]any)
				m["expression"] = regexp.MustCompile(`\s+`).ReplaceAllString(m["expression"].(string), " ")
			}
		}
		return c
	}
	if diff := cmp.Diff(normal([]byte(authorizationConfig("/x"))), normal(block[1])); diff != "" {
		t.Errorf("docs/install.md differs from what is tested (-tested +docs):\n%s", diff)
	}
	kubeconfig := regexp.MustCompile("(?s)```yaml kubeconfig\n(.*?)```").FindSubmatch(page)
	if kubeconfig == nil {
		t.Fatal("docs/install.md has no webhook kubeconfig")
	}
	if c, err := clientcmd.Load(kubeconfig[1]); err != nil || c.Contexts[c.CurrentContext] == nil {
		t.Errorf("the webhook kubeconfig: %v", err)
	}
}
