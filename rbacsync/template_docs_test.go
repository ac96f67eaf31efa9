package rbacsync_test

import (
	"os"
	"regexp"
	"testing"
	"testing/fstest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// TestTemplateOfTheDocs: the template that docs/templates.md shows is one.
func TestTemplateOfTheDocs(t *testing.T) {
	page, err := os.ReadFile("../docs/templates.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```yaml template\n(.*?)```").FindSubmatch(page)
	if block == nil {
		t.Fatal("docs/templates.md shows none")
	}
	var kinds []rbacsync.TemplateKind
	for _, name := range rbacsync.DefaultTemplateKinds() {
		kind, err := rbacsync.ParseTemplateKind(name)
		if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, kind)
	}
	templates, err := rbacsync.LoadTemplates(fstest.MapFS{"quota.yaml": {Data: block[1]}}, kinds)
	if err != nil || len(templates.List) != 1 {
		t.Errorf("%v, %v", templates, err)
	}
}
