package cijobs_test

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestJobsOfTheDocs: the jobs that docs/ci.md shows are those that run here.
func TestJobsOfTheDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/ci.md")
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := strings.Cut(jobs, "\nbreak-in:")
	var tried map[string]any
	if err := yaml.Unmarshal([]byte(text), &tried); err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml ci\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(blocks) < 3 {
		t.Fatalf("docs/ci.md has %d blocks", len(blocks))
	}
	for _, b := range blocks {
		var shown map[string]any
		if err := yaml.UnmarshalStrict([]byte(b[1]), &shown); err != nil {
			t.Fatal(err)
		}
		for name, job := range shown {
			if fields, ok := job.(map[string]any); ok { // the simulated runner has no images: it runs what this machine has
				if image, ok := fields["image"].(string); !ok || image == "" {
					t.Errorf("docs/ci.md shows %s without an image", name)
				}
				delete(fields, "image")
			}
			if !reflect.DeepEqual(job, tried[name]) {
				t.Errorf("docs/ci.md shows %s as\n%v\nand %v is what runs", name, job, tried[name])
			}
		}
	}
}
